//! What the commands of the command line do, one module each.

pub mod bench;
pub mod build;
pub mod check;
pub mod explain;
pub mod fmt;
pub mod list;
pub mod plot;
pub mod run;
pub mod search;
pub mod show;
pub mod test;

use crate::cli::{Cli, Command, ListFormat, RunOptions};
use crate::host_env::{Driver, Settings};
use crate::messages::Messages;
use crate::session::{Failed, Session};
use crate::trainer::INTERRUPTED;
use clap::CommandFactory;
use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;

/// Does what the command line asks.
///
/// # Errors
/// If that fails; why has been printed.
pub fn dispatch(cli: &Cli, messages: &Messages) -> Result<(), Failed> {
    let color = stdout_color(cli.color);
    match &cli.command {
        Command::Run { file, name, options } => run::run(file, name.as_deref(), options, messages, color),
        Command::Check { paths } => check::check(paths, messages),
        Command::Test { path, name, options } => test::test(path, name.as_deref(), options, messages, color),
        Command::Explain { subject, name, stage, optimizer, params, gpu, set } => {
            let gpu = gpu.as_deref();
            explain::explain(&explain::Request { subject, name, stage: *stage, optimizer, params: *params, gpu, set }, messages)
        }
        Command::Plot { file, name, steps, output } => plot::plot(file, name, *steps, output, messages),
        Command::Fmt { paths, check } => fmt::fmt(paths, *check, messages),
        Command::Show { path, pages: Some(folder) } => show::pages(path, folder, messages),
        Command::Show { path, pages: None } => show::show(path, messages),
        Command::List { what, json, markdown } => {
            let format = match (json, markdown) {
                (true, _) => ListFormat::Json,
                (_, true) => ListFormat::Markdown,
                _ => ListFormat::Text,
            };
            list::list(*what, format);
            Ok(())
        }
        Command::Bench { file, name, seconds, json, profile, threads, set, optimizer, size, tensors, shape } => {
            let settings = bench::Settings { seconds: *seconds, json: *json, profile: *profile, threads: *threads };
            match optimizer {
                Some(optimizer) => bench::optimizer(file, optimizer, &bench::leaves(*size, *tensors, shape), &settings, messages),
                None => bench::spec(file, name.as_deref(), set, &settings, messages),
            }
        }
        Command::Build { file, optimizer, emit, name, dtypes, shapes, target, gpu, run, output } => {
            let file = file.as_deref();
            let asked =
                build::Asked { emit, target: target.as_deref(), gpu: gpu.as_deref(), backend: cli.backend, device: cli.device.as_deref() };
            let gpu = gpu.as_deref().unwrap_or("sm_80");
            let useless = |e: optc_train::TrainError| {
                messages.trouble(&e);
                Failed
            };
            match (optimizer, file) {
                (Some(optimizer), _) => {
                    asked.check().map_err(useless)?;
                    let backend = cli.backend.unwrap_or_default();
                    let output = output.as_deref().unwrap_or(std::path::Path::new("."));
                    let name = name.as_deref();
                    let target = target.as_deref();
                    build::build(&build::Options { file, optimizer, emit, name, dtypes, shapes, target, gpu, backend, output }, messages)
                }
                (None, Some(file)) => {
                    asked.check_executable().map_err(useless)?;
                    let places = crate::build::executable::Places { backend: cli.backend, device: cli.device.as_deref() };
                    build::executable(file, run, places, output.as_deref(), messages)
                }
                (None, None) => {
                    messages.error("", "an executable needs a spec", Some("`optc build spec.opt --train NAME -o OUT`"));
                    Err(crate::wrong_usage())
                }
            }
        }
        Command::Search { action: Some(action), .. } => search::search(action, messages),
        Command::Search { action: None, file: Some(file), name, options } => search::run(file, name.as_deref(), options, messages),
        Command::Search { .. } => {
            messages.error("", "name a spec with a `search` block", Some("`optc search spec.opt`; `optc search --help` lists more"));
            Err(crate::wrong_usage())
        }
        Command::New { folder } => match crate::new_project::create(folder) {
            Ok(()) => {
                say(&format!("made {}; `optc run {}` trains it", folder.display(), folder.join("main.opt").display()));
                Ok(())
            }
            Err(why) => {
                messages.error("R0102", &why, None);
                Err(Failed)
            }
        },
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "optc", &mut script);
            // Nobody is left to tell if standard output is closed.
            let _ = std::io::stdout().lock().write_all(&script);
            Ok(())
        }
    }
}

/// Whether standard output is colored.
pub(crate) fn stdout_color(when: crate::cli::When) -> bool {
    match when {
        crate::cli::When::Always => true,
        crate::cli::When::Never => false,
        crate::cli::When::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    }
}

/// Writes a line to standard output; nobody is left to tell if that is closed.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The environment a session's trains and experiments run in.
pub(crate) fn driver(session: &Session, threads: usize, quiet: bool, color: bool) -> Driver {
    Driver::new(Settings { threads, quiet, color, spec: session.path.clone(), text: session.text.clone() })
}

/// Lets Ctrl-C end the training at hand after its step; a second one ends the process.
pub(crate) fn catch_interrupt() {
    // A handler that is already there is this one.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nending after this step; once more ends at once");
    });
}

/// Writes the report of everything that ran, where one was asked for.
pub(crate) fn write_report(driver: &Driver, title: &str, options: &RunOptions, messages: &Messages) -> Result<(), Failed> {
    let Some(path) = &options.report else { return Ok(()) };
    let command: Vec<String> = std::env::args().map(|a| if a.contains([' ', '(', ')', '|', '"']) { format!("'{a}'") } else { a }).collect();
    let report = driver.report(title, &command.join(" "), &date());
    match report.write(path) {
        Ok(()) => {
            if !options.quiet {
                say(&format!("report: {}", path.display()));
            }
            Ok(())
        }
        Err(e) => {
            messages.error(e.code, &e.to_string(), e.help.as_ref().map(|h| h.to_string()).as_deref());
            Err(Failed)
        }
    }
}

/// Now, in universal time: `2026-01-31 12:00 UTC`.
pub(crate) fn date() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

/// The date of a day counted from 1970-01-01, in the Gregorian calendar (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(super::civil(0), (1970, 1, 1));
        assert_eq!(super::civil(11_016), (2000, 2, 29));
        assert_eq!(super::civil(20_453), (2025, 12, 31));
    }
}
