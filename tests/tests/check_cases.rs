//! Broken specs, one mistake each: what is said of them when they are checked (`tests/cases/check`) or, if nothing can be known before, run (`tests/cases/fail`).

use optc::host_env::{Driver, Settings};
use optc_tests::{check_file, errors, rendered, specs_in, stem, with_stack};
use std::path::Path;

/// What is wrong with a message, besides that it may not be the one in the snapshot of `folder`.
fn compare(folder: &str, name: &str, text: &str, faults: &mut Vec<String>) {
    if text.lines().any(|l| l.contains("= help:") && l.ends_with(['?', '.'])) {
        faults.push(format!("{name}: a help line with a mark at its end"));
    }
    if text.contains(env!("CARGO_MANIFEST_DIR")) {
        faults.push(format!("{name}: an absolute path in a message"));
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("../cases/{folder}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let compared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| settings.bind(|| insta::assert_snapshot!(name, text))));
    if compared.is_err() {
        faults.push(format!("{name}: not as in its snapshot"));
    }
}

#[test]
fn each_broken_spec_gets_its_message() {
    let mut faults = Vec::new();
    let files = specs_in("tests/cases/check");
    assert!(files.len() >= 120, "only {} broken specs", files.len());
    for path in files {
        let name = stem(&path);
        let relative = Path::new("cases/check").join(format!("{name}.opt"));
        let shown = with_stack(move || {
            let session = check_file(&relative);
            let found = errors(&session).len();
            (rendered(&session), found)
        });
        let (text, count) = shown;
        if count == 0 {
            faults.push(format!("{name}: no error was found"));
        }
        compare("check", &name, &text, &mut faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_failing_run_gets_its_message() {
    let mut faults = Vec::new();
    for path in specs_in("tests/cases/fail") {
        let name = stem(&path);
        let relative = Path::new("cases/fail").join(format!("{name}.opt"));
        let text = with_stack(move || {
            let session = check_file(&relative);
            assert!(errors(&session).is_empty(), "belongs to the broken specs\n{}", rendered(&session));
            let settings = Settings { threads: 1, quiet: true, color: false, spec: session.path.clone(), text: session.text.clone() };
            let mut driver = Driver::new(settings);
            let mut text = String::new();
            for item in session.experiments() {
                match optc_elab::script::run_experiment(&session.program, item, &session.settings, &mut driver) {
                    Ok(()) => text += &format!("{} did not fail\n", session.name(item)),
                    Err(diagnostics) => text.extend(diagnostics.iter().map(|d| d.render(&session.program.sources, false))),
                }
            }
            text
        });
        if text.is_empty() || text.contains("did not fail") {
            faults.push(format!("{name}: {text}"));
        }
        compare("fail", &name, &text, &mut faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
