//! Test harness: run-pass and compile-fail cases, snapshots and the tidy test.

use optc::Session;
use optc::session::Files;
use optc_base::{Diagnostic, Severity};
use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

/// The `.opt` files of a folder of the repository, sorted; folders inside are not searched.
pub fn specs_in(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "opt")).collect();
    found.sort();
    found
}

/// Every `.opt` file of the repository, sorted.
pub fn all_specs() -> Vec<PathBuf> {
    let folders = ["examples", "stdlib", "bench", "tests"].map(|f| root().join(f));
    optc::session::specs(&folders).expect("the folders are there")
}

/// The name of a file without folders and extension.
pub fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned())
}

/// Runs something on a thread with the stack the compiler has.
pub fn with_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(512 << 20).spawn(work).expect("a thread can be started");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Loads and checks a text as if it lay at `path`.
pub fn check_text(path: &str, text: &str) -> Session {
    let mut session = Session::from_text(path, text.to_string(), &Files);
    session.check();
    session
}

/// Loads and checks the file at `path`, a path relative to the package or absolute.
pub fn check_file(path: &Path) -> Session {
    let mut session = Session::load(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    session.check();
    session
}

/// Diagnostics as a terminal without color shows them.
pub fn rendered(session: &Session) -> String {
    session.diagnostics.iter().map(|d| d.render(&session.program.sources, false)).collect()
}

/// The errors among the diagnostics.
pub fn errors(session: &Session) -> Vec<&Diagnostic> {
    session.diagnostics.iter().filter(|d| d.severity == Severity::Error).collect()
}
