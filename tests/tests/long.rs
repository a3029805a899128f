//! Specs that only programs write: chains of 100,000 operators go through every stage.

use optc::host_env::{Driver, Settings};
use optc::session::{Files, Session};
use optc_tests::{errors, rendered, with_stack};
use std::path::PathBuf;

const MANY: usize = 100_000;

/// Checks a spec and runs its experiments; all claims have to hold.
fn holds(text: String) {
    with_stack(move || {
        let mut session = Session::from_text("long.opt", text, &Files);
        session.check();
        assert!(errors(&session).is_empty(), "{:.2000}", rendered(&session));
        let settings = Settings { threads: 1, quiet: true, color: false, spec: PathBuf::from("long.opt"), text: String::new() };
        let mut driver = Driver::new(settings);
        for item in session.experiments() {
            if let Err(found) = optc_elab::script::run_experiment(&session.program, item, &session.settings, &mut driver) {
                panic!("{:.2000}", found.iter().map(|d| d.render(&session.program.sources, false)).collect::<String>());
            }
        }
        assert!(driver.checks.failed == 0 && driver.checks.passed > 0, "{:?}", driver.failures);
        // The printed tree, a copy, and the end of both.
        assert!(optc_front::print_ast(&session.program.modules[0].file).len() > MANY);
        let copy = session.program.modules[0].file.clone();
        drop((copy, session));
    });
}

#[test]
fn a_long_sum_is_compiled_and_run() {
    let sum = vec!["x"; MANY + 1].join(" + ");
    holds(format!("fn f(x: f32) -> f32 = {sum}\n\nexperiment e {{\n  check f(1.0) == {}, \"the sum\"\n}}\n", MANY + 1));
}

#[test]
fn a_long_sum_has_a_gradient() {
    let sum = vec!["x * x"; MANY / 4].join(" + ");
    holds(format!("fn f(x: f32) -> f32 = {sum}\n\nexperiment e {{\n  check grad(f)(1.0) == {}, \"twice as much\"\n}}\n", MANY / 2));
}

#[test]
fn long_chains_of_every_kind_are_evaluated() {
    let all = vec!["a > 1"; MANY].join(" and ");
    let (minus, piped) = (" - 1".repeat(MANY), " |> abs".repeat(MANY / 10));
    holds(format!(
        "const a = {MANY}{minus} + 2\n\nexperiment e {{\n  check a == 2, \"compile-time integers\"\n  check {all}, \"flags\"\n  let p = -1.0{piped}\n  check p == 1.0, \"pipes\"\n}}\n"
    ));
}

#[test]
fn index_notation_has_a_limit_and_says_so() {
    let sum = vec!["x[i]"; MANY / 10].join(" + ");
    let mut session = Session::from_text("long.opt", format!("fn f(x: f32[N]) -> f32[N] {{\n  let y[i] = {sum}\n  y\n}}\n"), &Files);
    session.check();
    assert_eq!(errors(&session).iter().map(|d| d.code.0).collect::<Vec<_>>(), ["E0104"]);
}
