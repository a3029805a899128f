//! Formatting keeps the meaning of every spec of the repository, and is done once.

use optc_base::{Severity, SourceId};
use optc_tests::{all_specs, with_stack};

#[test]
fn formatted_specs_have_the_same_tree() {
    with_stack(|| {
        let mut faults = Vec::new();
        let mut compared = 0;
        for path in all_specs() {
            let text = std::fs::read_to_string(&path).expect("a spec");
            let (file, found) = optc_front::parse(SourceId(0), &text);
            if found.iter().any(|d| d.severity == Severity::Error) {
                continue;
            }
            compared += 1;
            let name = path.display();
            let Ok(formatted) = optc_front::format(&text) else {
                faults.push(format!("{name}: cannot be formatted"));
                continue;
            };
            let (again, found) = optc_front::parse(SourceId(0), &formatted);
            if found.iter().any(|d| d.severity == Severity::Error) || optc_front::print_ast(&again) != optc_front::print_ast(&file) {
                faults.push(format!("{name}: formatting changes the tree"));
            }
            if optc_front::format(&formatted).as_ref() != Ok(&formatted) {
                faults.push(format!("{name}: formatting twice changes the text again"));
            }
        }
        assert!(compared > 100, "only {compared} specs were compared");
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    });
}
