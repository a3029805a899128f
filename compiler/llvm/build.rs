//! Tells the crate what it is built of, so that compiled kernels on disk are not taken for those of another version.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// Code generation, the kernels' meaning, the layout of what they are handed.
const SOURCES: &[&str] = &["src", "../ir/src", "../../runtime/abi/src"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn main() {
    let mut all = Vec::new();
    for folder in SOURCES {
        println!("cargo::rerun-if-changed={folder}");
        files(Path::new(folder), &mut all);
    }
    all.sort();
    let mut hasher = DefaultHasher::new();
    for path in all {
        (&path, std::fs::read(&path).unwrap_or_default()).hash(&mut hasher);
    }
    println!("cargo::rustc-env=OPTC_LLVM_SOURCES={:016x}", hasher.finish());
}
