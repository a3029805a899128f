//! Pages of the error codes: the example gives the code, and the mended one is accepted.

use optc::Session;
use optc_front::FileLoader;
use optc_tests::{errors, rendered, with_stack};

/// The example of a page is the file `main.opt`, alone in its folder.
struct Alone<'a>(&'a str);

impl FileLoader for Alone<'_> {
    fn read(&self, _: &str, path: &str) -> Result<(String, String), String> {
        if path == "main.opt" { Ok((path.to_string(), self.0.to_string())) } else { Err("there is no such file".to_string()) }
    }
}

fn check(text: &str) -> Session {
    let mut session = Session::from_text("main.opt", text.to_string(), &Alone(text));
    session.check();
    session
}

/// Found only when a function is called with all sizes known, or in programs of the search, not by `check`.
const WHEN_RUN: &[&str] = &[
    "E0350", "E0512", "E0513", "E0514", "E0521", "E0525", "E0702", "E0710", "E0720", "E0721", "E0722", "E0801", "E0802", "E0803", "E0804",
];

/// The fenced block of a page that opens with this line.
fn block(page: &str, opening: &str) -> Option<String> {
    let mut lines = page.lines().skip_while(|l| l.trim_end() != opening).skip(1);
    page.lines()
        .any(|l| l.trim_end() == opening)
        .then(|| lines.by_ref().take_while(|l| l.trim_end() != "```").map(|l| format!("{l}\n")).collect())
}

#[test]
fn examples_of_error_pages_are_right() {
    with_stack(|| {
        let mut faults = Vec::new();
        for (code, page) in optc_base::pages::all() {
            if !page.starts_with("# ") {
                faults.push(format!("{code}: no title"));
            }
            let Some(fail) = block(page, "```opt fail") else {
                // Errors of a run need no spec that is wrong by itself.
                if code.starts_with('E') && !WHEN_RUN.contains(code) {
                    faults.push(format!("{code}: no example"));
                }
                continue;
            };
            let session = check(&fail);
            if !code.starts_with('R') && !WHEN_RUN.contains(code) && !errors(&session).iter().any(|d| d.code.0 == *code) {
                faults.push(format!("{code}: its example gives\n{}", rendered(&session)));
            }
            match block(page, "```opt fix") {
                None => faults.push(format!("{code}: no mended example")),
                Some(fix) => {
                    let session = check(&fix);
                    if !errors(&session).is_empty() {
                        faults.push(format!("{code}: the mended example gives\n{}", rendered(&session)));
                    }
                }
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    });
}
