//! `optc fmt`: specs in the standard layout.

use super::say;
use crate::messages::Messages;
use crate::session::{Failed, canonical, read_text, specs};
use optc_base::{Severity, SourceMap};
use std::path::PathBuf;

/// Formats files in place, or says which would change.
///
/// # Errors
/// A file that cannot be read, parsed or written; with `check`, a file that would change.
pub fn fmt(paths: &[PathBuf], check: bool, messages: &Messages) -> Result<(), Failed> {
    let files = specs(paths).map_err(|why| {
        messages.error("R0101", &why, None);
        Failed
    })?;
    let (mut changed, mut failed) = (0usize, false);
    for path in &files {
        let text = match read_text(path) {
            Ok(t) => t,
            Err(why) => {
                messages.error("R0101", &format!("cannot read {}: {why}", path.display()), None);
                failed = true;
                continue;
            }
        };
        let mut sources = SourceMap::default();
        let source = sources.add(canonical(path), text.as_str());
        let (_, errors) = optc_front::parse(source, &text);
        if errors.iter().any(|d| d.severity == Severity::Error) {
            messages.print(&errors, &sources);
            failed = true;
            continue;
        }
        let formatted = match optc_front::format(&text) {
            Ok(f) => f,
            Err(errors) => {
                messages.print(&errors, &sources);
                failed = true;
                continue;
            }
        };
        if formatted == text {
            continue;
        }
        changed += 1;
        if check {
            say(&format!("would change {}{}", path.display(), first_difference(&text, &formatted)));
        } else if let Err(e) = optc_train::atomic::write(path, formatted.as_bytes()) {
            messages.error(e.code, &e.to_string(), None);
            failed = true;
        } else {
            say(&format!("formatted {}", path.display()));
        }
    }
    if failed || (check && changed > 0) { Err(Failed) } else { Ok(()) }
}

/// The first line that differs, as two lines of a diff.
fn first_difference(old: &str, new: &str) -> String {
    let mut pairs = old.split('\n').zip(new.split('\n')).enumerate();
    match pairs.find(|(_, (a, b))| a != b) {
        Some((n, (a, b))) => format!(", first at line {}\n  - {a}\n  + {b}", n + 1),
        None => ", at its end".to_string(),
    }
}
