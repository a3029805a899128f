//! `optc test`: every experiment, and whether its checks hold.

use super::{catch_interrupt, driver, say, write_report};
use crate::cli::RunOptions;
use crate::device;
use crate::messages::Messages;
use crate::session::{Failed, Session, specs};
use crate::trainer::INTERRUPTED;
use optc_elab::script;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Counts of a test run.
#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
    checks: usize,
}

/// Runs the experiments of a file or of all files in a folder.
///
/// # Errors
/// A mistake in a spec, a failure at run time, a failed check.
pub fn test(path: &Path, name: Option<&str>, options: &RunOptions, messages: &Messages, color: bool) -> Result<(), Failed> {
    let files = match specs(&[path.to_path_buf()]) {
        Ok(f) if f.is_empty() => Err(format!("there is no .opt file in {}", path.display())),
        other => other,
    };
    let files = files.map_err(|why| {
        messages.error("R0101", &why, None);
        Failed
    })?;
    if files.len() > 1 && options.report.is_some() {
        messages.error("", "a report is about one spec", Some("name a file instead of a folder"));
        return Err(crate::wrong_usage());
    }
    catch_interrupt();
    let start = Instant::now();
    let mut counts = Counts::default();
    let mut broken = 0;
    for file in &files {
        if test_file(file, name, options, messages, color, &mut counts).is_err() {
            broken += 1;
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            break;
        }
    }
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let mut line = format!("{} experiment{} passed", counts.passed, plural(counts.passed));
    for (n, what) in [(counts.failed, "failed"), (counts.skipped, "skipped")] {
        if n > 0 {
            line.push_str(&format!(", {n} {what}"));
        }
    }
    if broken > 0 {
        line.push_str(&format!(", {broken} file{} with errors", plural(broken)));
    }
    say(&format!("{line}; {} check{}, {:.1} s", counts.checks, plural(counts.checks), start.elapsed().as_secs_f64()));
    if counts.failed > 0 || broken > 0 { Err(Failed) } else { Ok(()) }
}

/// Runs one file. An error means that none of it could be run, or that its report could not be written.
fn test_file(
    file: &Path,
    name: Option<&str>,
    options: &RunOptions,
    messages: &Messages,
    color: bool,
    counts: &mut Counts,
) -> Result<(), Failed> {
    let mut session = Session::open(file, &options.set, messages)?;
    session.set(&[], options.seed, options.resume);
    let mut experiments = session.experiments();
    if let Some(name) = name {
        match session.find(name, &experiments, "experiment") {
            Ok(item) => experiments = vec![item],
            Err((message, help)) => {
                messages.error("", &message, help.as_deref());
                return Err(Failed);
            }
        }
    }
    let mut driver = driver(&session, options.threads, options.quiet, color);
    driver.compiler.thorough = true;
    if let Some(target) = device::chosen() {
        driver.compiler.place = device::open(target).map_err(|e| {
            messages.trouble(&e);
            Failed
        })?;
    }
    let (green, red, off) = if color { ("\x1b[32m", "\x1b[1;31m", "\x1b[0m") } else { ("", "", "") };
    for item in experiments {
        let title = format!("{}: {}", session.path.display(), session.name(item));
        if session.needs_arguments(item) && name.is_none() {
            counts.skipped += 1;
            say(&format!("skipped {title} (it needs arguments)"));
            continue;
        }
        if !options.quiet {
            say(&format!("experiment {}", session.name(item)));
        }
        let start = Instant::now();
        let before = driver.checks;
        let result = script::run_experiment(&session.program, item, &session.settings, &mut driver);
        let seconds = start.elapsed().as_secs_f64();
        let (held, broken) = (driver.checks.passed - before.passed, driver.checks.failed - before.failed);
        counts.checks += held + broken;
        match result {
            Err(diagnostics) => {
                messages.print(&diagnostics, &session.program.sources);
                counts.failed += 1;
                say(&format!("{red}error{off} {title} ({seconds:.2} s)"));
                if INTERRUPTED.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(()) if broken > 0 => {
                counts.failed += 1;
                say(&format!("{red}FAIL{off}  {title} ({broken} of {} checks failed, {seconds:.2} s)", held + broken));
            }
            Ok(()) => {
                counts.passed += 1;
                let plural = if held == 1 { "" } else { "s" };
                say(&format!("{green}ok{off}    {title} ({held} check{plural}, {seconds:.2} s)"));
            }
        }
    }
    let title = session.path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    write_report(&driver, &title, options, messages)
}
