//! The optc compiler driver: sessions, training runs, experiments and the command line.

pub mod backend;
pub mod build;
pub mod cache;
pub mod cli;
pub mod commands;
pub mod cost;
pub mod device;
pub mod disk;
pub mod environment;
pub mod host_env;
mod initial;
mod interpreter;
pub mod library;
pub mod messages;
pub mod nan;
pub mod needs;
pub mod new_project;
pub mod offload;
pub mod pipeline;
pub mod profile;
pub mod ranges;
pub mod reference;
pub mod search;
pub mod session;
pub mod stages;
pub mod standalone;
pub mod stepper;
pub mod synthetic;
pub mod trainer;

pub use session::{Failed, Session};

use clap::Parser;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Memory for the compiler's own recursion; reserved, not used, until it is needed.
const STACK: usize = 512 << 20;

/// Set by a command once its exit status is decided to be that of wrong usage (2).
static USAGE: AtomicBool = AtomicBool::new(false);

/// Makes the process exit with status 2 instead of 1 when the command fails: it was called wrongly.
pub fn wrong_usage() -> Failed {
    USAGE.store(true, Ordering::Relaxed);
    Failed
}

/// The whole program: reads the command line, does what it asks, gives the exit status: 0 if all went well, 1 if something is wrong with the spec, a check failed or the compiler
/// has a bug, 2 if the command line was wrong.
pub fn main() -> ExitCode {
    match standalone::carried() {
        None => {
            let cli = cli::Cli::parse();
            let messages = messages::Messages::new(&cli);
            if let Err(e) = settle(&cli) {
                messages.trouble(&e);
                return ExitCode::FAILURE;
            }
            on_large_stack(messages, move || commands::dispatch(&cli, &messages))
        }
        Some(Ok(package)) => standalone::main(package),
        Some(Err(e)) => {
            standalone::report(&e, &messages::Messages::of(cli::When::Auto, cli::MessageFormat::Human));
            ExitCode::FAILURE
        }
    }
}

/// Settles for this process what the command line and the environment say about back end, processor and device.
fn settle(cli: &cli::Cli) -> Result<(), optc_train::TrainError> {
    environment::check()?;
    backend::choose_cpu(cli.cpu.as_deref())?;
    backend::choose(cli.backend)?;
    cli.check_cpu()?;
    match &cli.command {
        // What is built runs elsewhere; here it is looked at on the processor, whatever the spec says.
        cli::Command::Build { .. } => {
            device::check(cli.device.as_deref())?;
            device::choose(Some("cpu"))
        }
        _ => {
            if backend::chosen() == backend::Backend::Llvm {
                backend::check_cpu_here()?;
            }
            device::choose(cli.device.as_deref())
        }
    }
}

/// Does the work on a thread with room for the compiler's recursion; gives the exit status.
fn on_large_stack(messages: messages::Messages, work: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> ExitCode {
    report_panics(messages);
    let result = match std::thread::Builder::new().name("main".into()).stack_size(STACK).spawn(work) {
        // The panic has been reported where it happened.
        Ok(thread) => thread.join().unwrap_or(Err(Failed)),
        Err(e) => {
            messages.error("", &format!("cannot start a thread: {e}"), None);
            Err(Failed)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed) if USAGE.load(Ordering::Relaxed) => ExitCode::from(2),
        Err(Failed) => ExitCode::FAILURE,
    }
}

/// A panic anywhere is a bug of ours: says so, once, and how to report it.
fn report_panics(messages: messages::Messages) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    std::panic::set_hook(Box::new(move |info| {
        if REPORTED.swap(true, Ordering::SeqCst) {
            return;
        }
        let what = info.payload().downcast_ref::<&str>().map(|s| s.to_string());
        let what = what.or_else(|| info.payload().downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_string());
        let what = what.strip_prefix("compiler bug: ").unwrap_or(&what);
        let place = info.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
        messages.error(
            "",
            &format!("compiler bug: {what}{place}"),
            Some(&format!("please report this with the spec and the command; this is optc {}", env!("CARGO_PKG_VERSION"))),
        );
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
        }
    }));
}
