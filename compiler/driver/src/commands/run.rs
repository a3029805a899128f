//! `optc run`: trains and experiments.

use super::{catch_interrupt, driver, say, write_report};
use crate::cli::RunOptions;
use crate::host_env::Driver;
use crate::messages::Messages;
use crate::session::{Failed, Session};
use optc_elab::RunResult;
use optc_elab::script;
use optc_front::ItemRef;
use optc_front::ast::ItemKind;
use optc_train::{Cell, Table};
use std::path::Path;

/// Runs one train or experiment, or the trains of the file, or its experiments if it has none.
///
/// # Errors
/// A mistake in the spec, a failure at run time, a failed check.
pub fn run(file: &Path, name: Option<&str>, options: &RunOptions, messages: &Messages, color: bool) -> Result<(), Failed> {
    let mut session = Session::open(file, &options.set, messages)?;
    session.set(&[], options.seed, options.resume);
    let driver = driver(&session, options.threads, options.quiet, color);
    run_checked(&session, name, driver, options, messages)
}

/// The same for a spec that has been loaded, checked and given its overrides, in this environment.
///
/// # Errors
/// A failure at run time, a failed check.
pub(crate) fn run_checked(
    session: &Session,
    name: Option<&str>,
    mut driver: Driver,
    options: &RunOptions,
    messages: &Messages,
) -> Result<(), Failed> {
    let items = choose(session, name, messages)?;
    catch_interrupt();
    let mut records = Vec::new();
    let mut result = Ok(());
    for &item in &items {
        let is_experiment = matches!(session.program.item(item).kind, ItemKind::Experiment(_));
        let done = if is_experiment {
            if items.len() > 1 && !options.quiet {
                say(&format!("experiment {}", session.name(item)));
            }
            script::run_experiment(&session.program, item, &session.settings, &mut driver)
        } else {
            script::run_train(&session.program, item, &session.settings, &mut driver).map(|r| records.push(summary(session.name(item), &r)))
        };
        if let Err(diagnostics) = done {
            messages.print(&diagnostics, &session.program.sources);
            result = Err(Failed);
            break;
        }
    }
    if !records.is_empty() && !options.quiet {
        say(&Table::from_records(records.iter().map(Vec::as_slice)).text());
    }
    let title = match items.as_slice() {
        [one] => session.name(*one).to_string(),
        _ => session.path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned()),
    };
    write_report(&driver, &title, options, messages)?;
    result.and(verdict(&driver))
}

/// Says how many checks failed, if any did.
fn verdict(driver: &Driver) -> Result<(), Failed> {
    if driver.checks.failed == 0 {
        return Ok(());
    }
    say(&format!("{} of {} checks failed", driver.checks.failed, driver.checks.failed + driver.checks.passed));
    Err(Failed)
}

fn choose(session: &Session, name: Option<&str>, messages: &Messages) -> Result<Vec<ItemRef>, Failed> {
    let (trains, experiments) = (session.trains(), session.experiments());
    if let Some(name) = name {
        let all: Vec<ItemRef> = trains.into_iter().chain(experiments).collect();
        return match session.find(name, &all, "train or experiment") {
            Ok(item) => Ok(vec![item]),
            Err((message, help)) => {
                messages.error("", &message, help.as_deref());
                Err(Failed)
            }
        };
    }
    let whole = if trains.is_empty() { experiments } else { trains };
    let ready: Vec<ItemRef> = whole.iter().copied().filter(|&i| !session.needs_arguments(i)).collect();
    if ready.is_empty() {
        let help = match whole.first() {
            Some(&i) => format!("`{}` needs arguments; an experiment can run it", session.name(i)),
            None => "add a `train` block or an `experiment`".to_string(),
        };
        messages.error("", &format!("{} has nothing to run", session.path.display()), Some(&help));
        return Err(Failed);
    }
    Ok(ready)
}

/// What a training run came to.
fn summary(name: &str, result: &RunResult) -> Vec<(String, Cell)> {
    let mut record = vec![("train".to_string(), Cell::Text(name.to_string())), ("steps".to_string(), Cell::Number(result.steps as f64))];
    for (name, series) in &result.series {
        if let Some(&last) = series.values.last() {
            record.push((name.clone(), Cell::Number(last)));
        }
    }
    record.push(("seconds".into(), Cell::Number(result.seconds)));
    record.push(("steps/s".into(), Cell::Number(result.ran as f64 / result.seconds.max(1e-9))));
    record
}
