//! `optc check`: all mistakes of all files.

use super::say;
use crate::messages::Messages;
use crate::session::{Failed, Session, specs};
use optc_base::{Diagnostic, Severity};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Checks files and folders.
///
/// # Errors
/// If a file cannot be read or has an error.
pub fn check(paths: &[PathBuf], messages: &Messages) -> Result<(), Failed> {
    let files = match specs(paths) {
        Ok(f) => f,
        Err(why) => {
            messages.error("R0101", &why, None);
            return Err(Failed);
        }
    };
    if files.is_empty() {
        messages.error("", "there is no .opt file here", None);
        return Err(Failed);
    }
    let mut failed = false;
    let mut warnings = 0;
    // A file that several others import is complained about once.
    let mut shown = BTreeSet::new();
    for path in &files {
        let mut session = match Session::load(path) {
            Ok(s) => s,
            Err(why) => {
                messages.error("R0101", &format!("cannot read {}: {why}", path.display()), None);
                failed = true;
                continue;
            }
        };
        session.check();
        failed |= session.has_errors();
        let sources = &session.program.sources;
        let fresh: Vec<Diagnostic> = session.diagnostics.iter().filter(|d| shown.insert(d.render(sources, false))).cloned().collect();
        warnings += fresh.iter().filter(|d| d.severity == Severity::Warning).count();
        messages.print(&fresh, sources);
    }
    if failed {
        return Err(Failed);
    }
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let warned = if warnings == 0 { String::new() } else { format!(", {warnings} warning{}", plural(warnings)) };
    say(&format!("{} file{}, no errors{warned}", files.len(), plural(files.len())));
    Ok(())
}
