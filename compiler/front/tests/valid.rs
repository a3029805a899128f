//! Every spec of the repository parses without a message.

use optc_base::{SourceId, SourceMap};
use std::path::{Path, PathBuf};

fn specs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder exists").flatten() {
        let path = entry.path();
        if path.is_dir() {
            specs(&path, found);
        } else if path.extension().is_some_and(|e| e == "opt") {
            found.push(path);
        }
    }
}

#[test]
fn all_specs_parse() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for folder in ["stdlib", "examples", "tests/parity", "bench/specs"] {
        specs(&root.join(folder), &mut files);
    }
    files.sort();
    assert!(files.len() > 40, "only {} specs found", files.len());
    let mut messages = String::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("readable");
        let mut sources = SourceMap::default();
        sources.add(path.display().to_string(), text.as_str());
        let (file, errors) = optc_front::parse(SourceId(0), &text);
        assert!(!errors.is_empty() || !file.items.is_empty(), "{} is empty", path.display());
        for error in errors {
            messages.push_str(&error.render(&sources, false));
        }
    }
    assert!(messages.is_empty(), "{messages}");
}
