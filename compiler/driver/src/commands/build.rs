//! `optc build`: an optimizer or a run for use elsewhere.

use super::say;
use crate::build::{self, Emit, executable};
use crate::cli::{Shape, StandaloneOptions};
use crate::messages::Messages;
use crate::session::Failed;
use crate::synthetic::Stored;
use std::path::Path;

/// What the command line asks for.
pub struct Options<'a> {
    /// A spec.
    pub file: Option<&'a Path>,
    /// The optimizer.
    pub optimizer: &'a str,
    /// What is written.
    pub emit: &'a [Emit],
    /// Prefix of names.
    pub name: Option<&'a str>,
    /// Element types.
    pub dtypes: &'a [Stored],
    /// Shapes of all leaves.
    pub shapes: &'a [Shape],
    /// Target triple.
    pub target: Option<&'a str>,
    /// The GPU of PTX.
    pub gpu: &'a str,
    /// Where to.
    pub output: &'a Path,
}

/// Builds, and says what was written.
///
/// # Errors
/// As [`build::build`].
pub fn build(options: &Options<'_>, messages: &Messages) -> Result<(), Failed> {
    let mut stored = options.dtypes.to_vec();
    stored.dedup();
    let shapes: Vec<Vec<usize>> = options.shapes.iter().map(|s| s.0.clone()).collect();
    let request = build::Request {
        file: options.file,
        optimizer: options.optimizer,
        name: options.name,
        stored: &stored,
        shapes: &shapes,
        target: options.target,
        gpu: options.gpu,
        emit: options.emit,
        folder: options.output,
    };
    for path in build::build(&request, messages)? {
        say(&path.display().to_string());
    }
    Ok(())
}

/// Makes a stand-alone executable, and says what it holds.
///
/// # Errors
/// As [`executable::build`].
pub fn executable(file: &Path, options: &StandaloneOptions, output: Option<&Path>, messages: &Messages) -> Result<(), Failed> {
    let made = executable::build(file, options, output, messages)?;
    say(&made.path.display().to_string());
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    say(&format!(
        "  {} bytes: the program {}, {} and {} in {}",
        made.size,
        made.program,
        count(made.specs, "spec"),
        count(made.data, "data file"),
        made.size - made.program
    ));
    Ok(())
}
