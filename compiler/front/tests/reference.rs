//! The code blocks of the language reference parse.

use optc_base::{SourceId, SourceMap};
use std::path::Path;

#[test]
fn examples_of_the_language_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../grammar/README.md");
    let page = std::fs::read_to_string(path).expect("the reference is there");
    let mut messages = String::new();
    let mut count = 0;
    for (i, block) in page.split("```opt\n").enumerate().skip(1) {
        let code = block.split("```").next().unwrap_or("").replace('…', "x");
        // Blocks of statements stand for the body of a function.
        let words = ["import", "##", "fn", "layer", "model", "data", "train", "optimizer", "schedule", "const", "loss", "experiment"];
        let code = if words.iter().any(|w| code.starts_with(w)) { code } else { format!("fn body() {{\n{code}}}\n") };
        let mut sources = SourceMap::default();
        sources.add(format!("block {i}"), code.as_str());
        let (_, errors) = optc_front::parse(SourceId(0), &code);
        messages.extend(errors.iter().map(|e| e.render(&sources, false)));
        count += 1;
    }
    assert!(count >= 8, "{count} blocks");
    assert!(messages.is_empty(), "{messages}");
}
