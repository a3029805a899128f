//! The specs of the repository: examples and benchmarks have no mistakes, the broken ones have.

use super::*;
use std::path::{Path, PathBuf};

struct Disk;
impl FileLoader for Disk {
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String> {
        let full = Path::new(from).parent().unwrap_or(Path::new("")).join(path);
        std::fs::read_to_string(&full).map(|text| (full.display().to_string(), text)).map_err(|e| e.to_string())
    }
}

fn specs(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(root)
        .expect("the folder")
        .filter_map(|e| e.ok())
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "opt"))
        .collect();
    files.sort();
    files
}

fn errors(path: &Path) -> (Vec<Diagnostic>, Program) {
    let text = std::fs::read_to_string(path).expect("the file");
    let (program, mut errors) = optc_front::load(&path.display().to_string(), &text, &Disk);
    errors.extend(crate::check(&program));
    (errors, program)
}

#[test]
fn examples_benchmarks_and_parity_check_clean() {
    let mut faults = String::new();
    for folder in ["examples", "bench/specs", "tests/parity"] {
        for path in specs(folder) {
            let (errors, program) = errors(&path);
            faults.push_str(&show(&errors, &program));
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn every_broken_spec_has_errors_and_no_flood_of_them() {
    let mut faults = Vec::new();
    // Searches are read by the driver, whose tests have these specs too.
    let is_search = |path: &std::path::PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("search_"));
    for path in specs("tests/cases/check").into_iter().filter(|path| !is_search(path)) {
        // Recursion without end is noticed by the stack it takes.
        let checked = std::thread::Builder::new().stack_size(256 << 20).spawn({
            let path = path.clone();
            move || errors(&path)
        });
        let (errors, program) = checked.expect("a thread can be started").join().expect("checking does not panic");
        if errors.is_empty() || errors.len() > 3 {
            faults.push(format!(
                "{}: {} errors\n{}",
                path.file_name().unwrap_or_default().display(),
                errors.len(),
                show(&errors, &program)
            ));
        }
        println!("{}: {:?}", path.file_name().unwrap_or_default().display(), errors.iter().map(|d| d.code.0).collect::<Vec<_>>());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
