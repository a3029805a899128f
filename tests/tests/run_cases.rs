//! Small specs that check themselves, compiled and run: the features of the language one by one.

use optc::backend::Backend;

fn run(name: &'static str) {
    optc_tests::run_case(name, Backend::Cranelift);
}

optc_tests::every_case!(run);
