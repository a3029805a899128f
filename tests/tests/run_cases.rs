//! Small specs that check themselves, compiled and run: the features of the language one by one.

use optc::host_env::{Driver, Settings};
use optc_tests::{check_file, errors, rendered, root, specs_in, stem, with_stack};
use std::path::Path;

/// A copy of the folder of cases, where runs may write.
fn copy_of_cases() -> tempfile::TempDir {
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

/// Runs every experiment of a case; all its checks have to hold.
fn run(name: &'static str) {
    with_stack(move || {
        let dir = copy_of_cases();
        let session = check_file(&dir.path().join(format!("{name}.opt")));
        assert!(errors(&session).is_empty(), "{}", rendered(&session));
        let settings = Settings { threads: 2, quiet: true, color: false, spec: session.path.clone(), text: session.text.clone() };
        let mut driver = Driver::new(settings);
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

macro_rules! cases {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_case_is_run() {
            let listed = [$(stringify!($name)),*];
            let found: Vec<String> = specs_in("tests/cases/run").iter().map(|p| stem(p)).collect();
            assert_eq!(found, listed);
        }
    };
}

cases! {
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
