//! The cases of `run_cases.rs` on every other back end of the build.

use optc::backend::Backend;
use optc_tests::run_case;

mod interpreter {
    fn run(name: &'static str) {
        super::run_case(name, super::Backend::Interpreter);
    }
    optc_tests::every_case!(run);
}

#[cfg(feature = "llvm")]
mod llvm {
    fn run(name: &'static str) {
        super::run_case(name, super::Backend::Llvm);
    }
    optc_tests::every_case!(run);
}

#[cfg(feature = "llvm")]
mod simt {
    fn run(name: &'static str) {
        super::run_case(name, super::Backend::Simt);
    }
    optc_tests::every_case!(run);
}
