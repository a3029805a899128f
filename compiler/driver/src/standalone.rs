//! A run in one executable file: this program with a package behind it that holds the spec, what it imports and the data it reads.

use crate::backend::Backend;
use crate::cli::{MessageFormat, RunOptions, When};
use crate::commands::{driver, run, stdout_color};
use crate::host_env::folder_of;
use crate::messages::Messages;
use crate::session::{Failed, Session, canonical};
use crate::{backend, device};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use optc_front::{FileLoader, std_lib};
use optc_train::{Package, TrainError};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// What a package says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The version of the program in front of it.
    pub optc: String,
    /// The train or experiment that runs.
    pub name: String,
    /// Whether it is an experiment.
    pub experiment: bool,
    /// The name of the spec among the files.
    pub spec: String,
    /// Overrides that were given when it was built.
    pub set: Vec<String>,
    /// The seed that was given then.
    pub seed: Option<u64>,
    /// Whether the files of the standard library are among the files.
    pub library: bool,
    /// The back end that was given when it was built, by its name.
    #[serde(default)]
    pub backend: Option<String>,
    /// The device that was given then.
    #[serde(default)]
    pub device: Option<String>,
}

/// The command line of such an executable.
#[derive(Debug, Parser)]
struct Cli {
    /// When to color messages.
    #[arg(long, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    color: When,
    /// How to print errors and warnings.
    #[arg(long, value_enum, default_value_t = MessageFormat::Human, value_name = "FORMAT")]
    message_format: MessageFormat,
    /// Who makes machine code: by default what it was built with, or what OPTC_BACKEND names.
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<Backend>,
    /// The processor that LLVM's code is for: by default the one at hand, or what OPTC_CPU names.
    #[arg(long, value_name = "NAME")]
    cpu: Option<String>,
    /// Where trains run: `cpu`, `cuda`, `cuda:1`, or several GPUs that share out batches: `cuda:0,1`, `cuda:0-3`, `cuda:*`. By default what OPTC_DEVICE names, what it was built with, or what the
    /// trains say themselves.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    #[command(flatten)]
    options: RunOptions,
}

/// The package that this process's own file carries. A file that cannot be read carries none.
pub fn carried() -> Option<Result<Package, TrainError>> {
    match Package::open(&std::env::current_exe().ok()?) {
        Err(e) if e.code == "R0101" => None,
        found => found.transpose(),
    }
}

/// Prints an error around files.
pub fn report(error: &TrainError, messages: &Messages) {
    messages.error(error.code, &error.to_string(), error.help.as_deref());
}

/// Specs out of a package, by the names they were packed under.
struct Packed(Arc<Package>);

impl FileLoader for Packed {
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String> {
        let name = canonical(&folder_of(Path::new(from)).join(path));
        let text = text(&self.0, &name).map_err(|e| e.message)?;
        Ok((name, text))
    }
}

fn text(package: &Package, name: &str) -> Result<String, TrainError> {
    // Only UTF-8 is packed as a spec, and the checksum says that it still is what it was.
    package.file(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The whole program, if it carries a package.
pub fn main(package: Package) -> ExitCode {
    let about: About = match serde_json::from_value(package.about().clone()) {
        Ok(about) => about,
        Err(e) => {
            let what = format!("this executable does not say what it runs: {e}");
            Messages::of(When::Auto, MessageFormat::Human).error("R0133", &what, Some("build it anew with `optc build`"));
            return ExitCode::FAILURE;
        }
    };
    // The command line keeps its texts for the life of the process.
    let keep = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let (name, version) = (keep(about.name.clone()), keep(format!("(optc {})", about.optc)));
    let matches = Cli::command().name(name).version(version).about(description(&package, &about)).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let messages = Messages::of(cli.color, cli.message_format);
    if let Err(e) = settle(&about, &cli) {
        report(&e, &messages);
        return ExitCode::FAILURE;
    }
    crate::on_large_stack(messages, move || run_packed(Arc::new(package), &about, &cli, &messages))
}

/// Settles back end and device for this process: those of this command line, of the environment, or of the command line that it was built with.
fn settle(about: &About, cli: &Cli) -> Result<(), TrainError> {
    crate::environment::check()?;
    backend::choose_cpu(cli.cpu.as_deref())?;
    let built = about.backend.as_deref().map(|name| {
        let unknown = |_| TrainError::new("R0133", format!("this executable is built for a back end `{name}`, which is none"));
        Backend::from_str(name, true).map_err(unknown)
    });
    let chosen = backend::choose_or(cli.backend, built.transpose()?)?;
    if cli.cpu.is_some() && chosen != Backend::Llvm {
        return Err(TrainError::new("R0137", "`--cpu` is for code that LLVM makes").help("add `--backend llvm`"));
    }
    if chosen == Backend::Llvm {
        backend::check_cpu_here()?;
    }
    device::choose_or(cli.device.as_deref(), about.device.as_deref())
}

fn description(package: &Package, about: &About) -> String {
    let what = if about.experiment { "The experiment" } else { "The train" };
    let set = about.set.iter().map(|s| format!(" --set '{s}'")).chain(about.seed.iter().map(|s| format!(" --seed {s}")));
    let places = about.backend.iter().map(|b| format!(" --backend {b}")).chain(about.device.iter().map(|d| format!(" --device {d}")));
    let given: Vec<String> = set.chain(places).collect();
    let given = if given.is_empty() { String::new() } else { format!(", built with{}", given.concat()) };
    let files: Vec<String> =
        package.names().filter(|(n, _)| !n.starts_with("std/")).map(|(name, size)| format!("  {name} ({size} bytes)")).collect();
    format!(
        "{what} `{}` of {}, made by optc {}{given}.\n\nIt writes to the current folder and reads nothing but itself. It carries:\n{}",
        about.name,
        about.spec,
        about.optc,
        files.join("\n")
    )
}

/// The overrides of both command lines: what is said later about a name takes the place of what was said before.
fn overrides(built: &[String], given: &[String]) -> Vec<String> {
    let name = |text: &str| text.split_once('=').map_or(text, |(n, _)| n).trim().to_string();
    let kept = built.iter().filter(|b| !given.iter().any(|g| name(g) == name(b)));
    kept.chain(given).cloned().collect()
}

fn run_packed(package: Arc<Package>, about: &About, cli: &Cli, messages: &Messages) -> Result<(), Failed> {
    let failed = |e: TrainError| {
        report(&e, messages);
        Failed
    };
    let library = || -> Result<Vec<(String, String)>, TrainError> {
        let names = package.names().filter(|(name, _)| name.starts_with("std/"));
        names.map(|(name, _)| Ok((name.to_string(), text(&package, name)?))).collect()
    };
    std_lib::settle(about.library.then(library).transpose().map_err(failed)?);
    let spec = text(&package, &about.spec).map_err(failed)?;
    let mut session = Session::from_text(&about.spec, spec, &Packed(package.clone()));
    session.set(&overrides(&about.set, &cli.options.set), None, false);
    let mut session = session.checked(messages)?;
    session.set(&[], cli.options.seed.or(about.seed), cli.options.resume);
    let driver = driver(&session, cli.options.threads, cli.options.quiet, stdout_color(cli.color)).reading(package);
    run::run_checked(&session, Some(&about.name), driver, &cli.options, messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_later_holds() {
        let texts = |all: &[&str]| all.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(overrides(&texts(&["steps=3", "lr = 1"]), &texts(&["lr=2", "k=1"])), texts(&["steps=3", "lr=2", "k=1"]));
    }
}
