//! Which optimizers of the library build, and why others do not: `docs/build-rules.md`, which the tests here keep true. With OPTC_WRITE_TABLE set the first test writes it.

use optc::build::lower::{Refused, attempt};
use optc::build::{Request, fixed};
use optc::library::entries;
use optc::synthetic::{self, Stored};
use std::path::{Path, PathBuf};

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/build-rules.md")
}

/// What comes of an expression: a way that a leaf is gone through, or a reason.
fn outcome(expression: &str) -> Result<String, Refused> {
    let request = Request {
        file: None,
        optimizer: expression,
        name: None,
        stored: &[Stored::F32],
        shapes: &[],
        target: None,
        gpu: "",
        backend: optc::backend::Backend::Cranelift,
        emit: &[],
        folder: Path::new("."),
    };
    let made = attempt(&request, Stored::F32)?;
    let flat = &made.step.flat;
    // What has a form for leaves of any length has one for GPUs too.
    let launches = flat.launches(2 + made.states.len(), made.hyper.len());
    assert!(launches.is_ok_and(|l| !l.rounds.is_empty()), "{expression}");
    Ok(match (flat.rounds(), flat.reduces()) {
        (1, false) => "elementwise",
        (1, true) => "combines elements of a leaf",
        _ => "combines all leaves",
    }
    .to_string())
}

/// Whether an expression builds for given shapes, or why not.
fn for_shapes(expression: &str) -> Result<(), String> {
    let shapes = [vec![40, 30], vec![7]];
    let request = Request {
        file: None,
        optimizer: expression,
        name: None,
        stored: &[Stored::F32],
        shapes: &shapes,
        target: None,
        gpu: "",
        backend: optc::backend::Backend::Cranelift,
        emit: &[],
        folder: Path::new("."),
    };
    match fixed::attempt(&request, Stored::F32) {
        Ok(_) => Ok(()),
        Err(Refused::Transform) => for_shapes(&synthetic::followed(expression, None)),
        Err(Refused::Beyond(why)) => Err(why),
        Err(Refused::Spec(session)) => Err(session.diagnostics.first().map_or_else(String::new, |d| d.message.clone())),
    }
}

/// A row of the table.
fn row(name: &str) -> String {
    let spec = |session: &optc::session::Session| session.diagnostics.first().map_or_else(String::new, |d| d.message.clone());
    let (built, words) = match outcome(name) {
        Ok(how) => ("yes", how),
        Err(Refused::Beyond(why)) => ("no", why),
        Err(Refused::Spec(session)) => ("no", spec(&session)),
        Err(Refused::Transform) => match outcome(&synthetic::followed(name, None)) {
            Ok(how) => ("in a chain", how),
            Err(Refused::Beyond(why)) => ("no", why),
            Err(Refused::Spec(session)) => ("no", spec(&session)),
            Err(Refused::Transform) => ("no", "changes no weights".to_string()),
        },
    };
    let (built, words) = match built {
        "no" => for_shapes(name).map_or_else(|why| ("no", why), |()| ("for given shapes", words)),
        _ => (built, words),
    };
    format!("| `{name}` | {built} | {words} |")
}

/// The names of the library's optimizers.
fn names() -> Vec<String> {
    entries("std.optim").into_iter().filter(|e| e.kind == "optimizer").map(|e| e.name).collect()
}

fn agrees(part: usize, parts: usize) {
    super::with_stack(move || {
        let names = names();
        let text = std::fs::read_to_string(file()).unwrap_or_default();
        let known: Vec<&str> = text.lines().filter(|l| l.starts_with("| `")).collect();
        let write = std::env::var_os("OPTC_WRITE_TABLE").is_some();
        if write && part > 0 {
            return;
        }
        let mine = |k: usize| write || k % parts == part;
        let rows: Vec<String> = names.iter().enumerate().filter(|(k, _)| mine(*k)).map(|(_, n)| row(n)).collect();
        if write {
            let count = |what: &str| rows.iter().filter(|r| r.contains(&format!("| {what} |"))).count();
            let head = format!(
                "# Which optimizers build\n\n`optc build --optimizer NAME` makes object files, libraries and modules for torch and JAX of rules that do the same with every leaf ([how](build.md)). Of the {} of the library, {} build, {} only \
                 transform gradients and\nbuild in a chain (`\"NAME() |> sgd(lr = 0.1)\"`, or before any other that builds), {} with `--shapes` (the reason says why not without), and {} do not. Kept by `cargo nextest run -p optc --test build`.\n\n| rule | builds | |\n|---|---|---|\n",
                rows.len(),
                count("yes"),
                count("in a chain"),
                count("for given shapes"),
                count("no")
            );
            std::fs::write(file(), format!("{head}{}\n", rows.join("\n"))).expect("it can be written");
            return;
        }
        assert_eq!(
            known.len(),
            names.len(),
            "docs/build-rules.md has other rules than the library: set OPTC_WRITE_TABLE and run this test"
        );
        for row in rows {
            assert!(known.contains(&&*row), "docs/build-rules.md does not say\n{row}\nset OPTC_WRITE_TABLE and run this test");
        }
    });
}

/// Parts, so that they run side by side.
const PARTS: usize = 8;

macro_rules! parts {
    ($($name:ident $part:expr),*) => { $(
        #[test]
        fn $name() {
            agrees($part, PARTS);
        }
    )* };
}

parts!(
    the_table_is_true_1 0, the_table_is_true_2 1, the_table_is_true_3 2, the_table_is_true_4 3, the_table_is_true_5 4, the_table_is_true_6 5, the_table_is_true_7 6,
    the_table_is_true_8 7
);
