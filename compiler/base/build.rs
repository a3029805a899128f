//! Embeds the pages of the error codes.

use std::fmt::Write as _;
use std::path::PathBuf;

fn main() {
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("pages");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut pages: Vec<PathBuf> = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    pages.retain(|p| p.extension().is_some_and(|e| e == "md"));
    pages.sort();
    assert!(!pages.is_empty(), "nothing to embed in {}", folder.display());
    let mut out = String::from("&[\n");
    for path in pages {
        println!("cargo::rerun-if-changed={}", path.display());
        let code = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let _ = writeln!(out, "    ({code:?}, include_str!({:?})),", path.display().to_string());
    }
    out.push_str("]\n");
    let target = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pages.rs");
    std::fs::write(target, out).expect("OUT_DIR can be written");
}
