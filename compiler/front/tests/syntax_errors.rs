//! Messages for broken files.

use optc_base::{SourceId, SourceMap};
use std::path::Path;

fn messages(name: &str, text: &str) -> String {
    let mut sources = SourceMap::default();
    sources.add(name, text);
    let (_, errors) = optc_front::parse(SourceId(0), text);
    errors.iter().map(|e| e.render(&sources, false)).collect()
}

#[test]
fn broken_specs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/check");
    let mut names: Vec<String> = std::fs::read_dir(folder.clone())
        .expect("the folder exists")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n.starts_with("syntax_"))
        .collect();
    names.sort();
    let mut all = String::new();
    for name in names {
        let text = std::fs::read_to_string(folder.join(&name)).expect("readable");
        let printed = messages(&name, &text);
        assert!(!printed.is_empty(), "{name} gives no message");
        all.push_str(&printed);
    }
    println!("{all}");
}
