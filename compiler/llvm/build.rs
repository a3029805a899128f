//! Tells the crate what it is built of, so that compiled kernels on disk are not taken for those of another version, and has the libraries that LLVM needs of the system linked statically
//! where they are there as archives, so that the executable starts on machines without them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Code generation, the kernels' meaning, the layout of what they are handed.
const SOURCES: &[&str] = &["src", "../ir/src", "../../runtime/abi/src"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Libraries that LLVM is built with, in the order in which an archive of each is looked for.
const NEEDED: &[(&str, &[&str])] =
    &[("ffi", &["libffi_pic.a", "libffi.a"]), ("z", &["libz.a"]), ("zstd", &["libzstd.a"]), ("stdc++", &["libstdc++.a"])];

/// A folder with the archives, and nothing else, that the linker looks into before the system's: there it finds no shared library of the name, and takes the archive.
fn link_statically() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if std::env::var_os("CARGO_FEATURE_LLVM").is_none()
        || variable("CARGO_CFG_TARGET_OS") != "linux"
        || variable("TARGET") != variable("HOST")
    {
        return;
    }
    let folder = PathBuf::from(variable("OUT_DIR")).join("archives");
    // What was there before may name archives that are gone.
    let _ = std::fs::remove_dir_all(&folder);
    if std::fs::create_dir_all(&folder).is_err() {
        return;
    }
    for (name, archives) in NEEDED {
        let place = |archive: &&str| {
            // The compiler knows where its libraries are; of what it does not find it prints the bare name.
            let said = Command::new("cc").arg(format!("-print-file-name={archive}")).output().ok()?;
            let path = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
            path.is_absolute().then(|| path.canonicalize().ok()).flatten()
        };
        let made = archives.iter().find_map(place).map(|from| std::fs::copy(from, folder.join(format!("lib{name}.a"))));
        if !matches!(made, Some(Ok(_))) {
            println!("cargo::warning=there is no archive of lib{name}: the executable will need the shared library where it runs");
        }
    }
    println!("cargo::rustc-link-search=native={}", folder.display());
}

fn main() {
    link_statically();
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
