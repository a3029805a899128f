//! Pages of the codes of this crate: the broken example gives the code, the mended one nothing.

use optc_front::{FileLoader, load};

struct Main<'a>(&'a str);

impl FileLoader for Main<'_> {
    fn read(&self, _from: &str, path: &str) -> Result<(String, String), String> {
        if path == "main.opt" { Ok((path.to_string(), self.0.to_string())) } else { Err("no such file".into()) }
    }
}

fn example<'p>(page: &'p str, kind: &str) -> &'p str {
    let fence = format!("```opt {kind}\n");
    let start = page.find(&fence).map(|i| i + fence.len()).unwrap_or_else(|| panic!("no `{kind}` in\n{page}"));
    let end = page[start..].find("```").expect("the fence is closed");
    &page[start..start + end]
}

#[test]
fn examples_of_pages() {
    let mut seen = 0;
    for (code, page) in optc_base::pages::all() {
        if !(code.starts_with("E01") || code.starts_with("E025")) {
            continue;
        }
        seen += 1;
        assert!(page.starts_with("# "), "{code}");
        let codes = |text: &str| load("main.opt", text, &Main(text)).1.iter().map(|e| e.code.0).collect::<Vec<_>>();
        assert_eq!(codes(example(page, "fail")), [*code]);
        assert!(codes(example(page, "fix")).is_empty(), "{code}");
    }
    assert!(seen >= 23, "{seen} pages");
}
