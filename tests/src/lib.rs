//! Test harness: run-pass and compile-fail cases, snapshots and the tidy test.

#[cfg(unix)]
pub mod virtual_gpu;

use optc::Session;
use optc::backend::Backend;
use optc::host_env::{Driver, Settings};
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

/// A copy of the folder of cases, where runs may write.
pub fn copy_of_cases() -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("a folder").flatten() {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).expect("a file");
            }
        }
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    copy(&root().join("tests/cases/run"), dir.path());
    dir
}

/// Runs every experiment of a case in `tests/cases/run` on a back end; all its checks have to hold.
pub fn run_case(name: &'static str, backend: Backend) {
    with_stack(move || {
        let dir = copy_of_cases();
        let session = check_file(&dir.path().join(format!("{name}.opt")));
        assert!(errors(&session).is_empty(), "{}", rendered(&session));
        let settings = Settings { threads: 2, quiet: true, color: false, spec: session.path.clone(), text: session.text.clone() };
        let mut driver = Driver::new(settings);
        driver.compiler.backend = backend;
        // Also what runs once.
        driver.compiler.thorough = backend != Backend::Cranelift;
        let experiments = session.experiments();
        assert!(!experiments.is_empty(), "no experiment");
        let mut faults = String::new();
        for item in experiments {
            let before = driver.checks.passed + driver.checks.failed;
            if let Err(diagnostics) = optc_elab::script::run_experiment(&session.program, item, &session.settings, &mut driver) {
                faults.extend(diagnostics.iter().map(|d| d.render(&session.program.sources, false)));
            } else if driver.checks.passed + driver.checks.failed == before {
                faults += &format!("{} checks nothing\n", session.name(item));
            }
        }
        faults.extend(driver.failures.iter().map(|(claim, detail, _)| format!("FAIL {claim}: {detail}\n")));
        assert!(faults.is_empty(), "{faults}");
    });
}

/// Makes a test of each case in `tests/cases/run`, and a test that there are no others: `every_case!(run)` calls `run(name)`.
#[macro_export]
macro_rules! every_case {
    ($run:path) => {
        $crate::every_case! { $run;
            attention
            batches
            batching
            buffers
            checkpoints
            claims
            classical_methods
            conditionals
            data_blocks
            defaults
            derivatives
            double_precision
            draw_parameters
            draws_of_examples
            element_types
            freezing
            functions
            groups
            hyperparameters
            index_notation
            indexing
            layers
            leaving_loops
            line_searches
            linear_algebra
            lists_of_scripts
            loops
            loss_at
            many_leaves
            metrics
            metrics_in_bodies
            metrics_when_due
            models_as_values
            narrow_weights
            nested_derivatives
            offloading
            optimizer_bodies
            optimizers_outside_train
            output
            plateaus
            players
            populations
            populations_of_seeds
            precision
            private_gradients
            processes
            quantized_states
            random_rules
            randomness
            recurrent
            saved_trees
            search_tasks
            shared_layers
            sources
            stored_players
            strings_and_lists
            swapping
            sweeps
            symmetric_products
            train_settings
            trees
            typed_states
            while_loops
            wrapper_library
            wrappers
            yields
        }
    };
    ($run:path; $($name:ident)*) => {
        $(#[test] fn $name() { $run(stringify!($name)); })*

        #[test]
        fn every_case_is_run() {
            let listed = [$(stringify!($name)),*];
            let found: Vec<String> = $crate::specs_in("tests/cases/run").iter().map(|p| $crate::stem(p)).collect();
            assert_eq!(found, listed);
        }
    };
}
