//! Broken specs, one mistake each: what is said of them.

use optc_tests::{check_file, errors, rendered, specs_in, stem, with_stack};
use std::path::Path;

#[test]
fn each_broken_spec_gets_its_message() {
    let mut faults = Vec::new();
    let files = specs_in("tests/cases/check");
    assert!(files.len() >= 60, "only {} broken specs", files.len());
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
        if text.lines().any(|l| l.contains("= help:") && l.ends_with(['?', '.'])) {
            faults.push(format!("{name}: a help line with a mark at its end"));
        }
        if text.contains(env!("CARGO_MANIFEST_DIR")) {
            faults.push(format!("{name}: an absolute path in a message"));
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../cases/check");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let compared =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| settings.bind(|| insta::assert_snapshot!(name.as_str(), &text))));
        if compared.is_err() {
            faults.push(format!("{name}: not as in its snapshot"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
