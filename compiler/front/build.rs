//! Embeds the standard library: the text of every file of `stdlib/`, and the names of its items.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[path = "src/item_names.rs"]
mod item_names;
use item_names::items;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", folder.display());
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "opt") {
            found.push(path);
        }
    }
}

fn main() {
    // Relative to the package, where cargo starts this: checkouts that share a build folder must each look at their own.
    let root = PathBuf::from("../../stdlib");
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    assert!(!found.is_empty(), "nothing to embed in {}", root.display());
    let mut out = String::from("&[\n");
    for path in found {
        println!("cargo::rerun-if-changed={}", path.display());
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let relative = path.strip_prefix(&root).unwrap_or(&path);
        let folder = relative.parent().map(|p| p.to_string_lossy().replace('/', ".")).unwrap_or_default();
        let name = format!("std/{}", relative.to_string_lossy());
        let _ = writeln!(
            out,
            "    StdFile {{ folder: {:?}, name: {name:?}, items: &{:?}, text: {text:?} }},",
            format!("std.{folder}"),
            items(&text),
        );
    }
    out.push_str("]\n");
    let target = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("stdlib.rs");
    std::fs::write(target, out).expect("OUT_DIR can be written");
}
