//! The house rules that a machine can check: which crate may use which, and that every module says what it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Allowed dependencies between our crates (not for tests). Add an edge only with a reason in `compiler/ARCHITECTURE.md`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("optc-abi", &[]),
    ("optc-base", &[]),
    ("optc-grammar", &[]),
    ("optc-front", &["optc-abi", "optc-base", "optc-grammar"]),
    ("optc-ir", &["optc-abi", "optc-base"]),
    ("optc-mid", &["optc-abi", "optc-base", "optc-ir"]),
    ("optc-plan", &["optc-abi", "optc-base", "optc-ir"]),
    ("optc-cranelift", &["optc-abi", "optc-base", "optc-ir"]),
    ("optc-llvm", &["optc-abi", "optc-ir"]),
    ("optc-ops", &["optc-abi", "optc-base", "optc-ir", "optc-mid"]),
    ("optc-elab", &["optc-abi", "optc-base", "optc-front", "optc-ir", "optc-mid", "optc-ops"]),
    ("optc-search", &["optc-abi", "optc-base", "optc-ir", "optc-mid"]),
    ("optc-exec", &["optc-abi", "optc-linalg"]),
    ("optc-device", &["optc-abi", "optc-exec"]),
    ("optc-linalg", &["optc-abi"]),
    ("optc-train", &["optc-abi"]),
    ("optc-mpi", &[]),
    (
        "optc",
        &[
            "optc-abi",
            "optc-base",
            "optc-cranelift",
            "optc-device",
            "optc-elab",
            "optc-exec",
            "optc-front",
            "optc-ir",
            "optc-llvm",
            "optc-mid",
            "optc-mpi",
            "optc-ops",
            "optc-plan",
            "optc-search",
            "optc-train",
        ],
    ),
    ("optc-python", &["optc", "optc-abi", "optc-base", "optc-elab", "optc-exec", "optc-front", "optc-ir"]),
    ("optc-virtual-gpu", &[]),
    ("optc-tests", &["optc", "optc-abi", "optc-base", "optc-front", "optc-ir", "optc-mid", "optc-ops", "optc-plan", "optc-elab"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

#[test]
fn crates_depend_only_on_what_the_table_allows() {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_string()])
        .exec()
        .expect("cargo metadata works");
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ALLOWED.iter().map(|(name, deps)| (*name, deps.iter().copied().collect())).collect();
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some(allowed) = allowed.get(name) else {
            faults.push(format!("crate {name} is not in the table"));
            continue;
        };
        for dependency in &package.dependencies {
            let normal = dependency.kind == cargo_metadata::DependencyKind::Normal;
            if normal && dependency.path.is_some() && !allowed.contains(dependency.name.as_str()) {
                faults.push(format!("{name} must not depend on {}", dependency.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("snapshots") {
                rust_files(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut files = Vec::new();
    for folder in ["grammar", "compiler", "runtime", "python", "tests"] {
        rust_files(&root().join(folder), &mut files);
    }
    assert!(files.len() > 50, "found only {} files: is the layout still what this test thinks?", files.len());
    let silent: Vec<String> = files
        .iter()
        .filter(|f| !std::fs::read_to_string(f).is_ok_and(|text| text.starts_with("//!")))
        .map(|f| f.display().to_string())
        .collect();
    assert!(silent.is_empty(), "these files do not open with a //! line:\n{}", silent.join("\n"));
}
