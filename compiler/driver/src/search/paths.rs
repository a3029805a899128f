//! Where a search writes: files that it may not overwrite, and whether they can be written.

use super::block::bad;
use super::files::is_library;
use crate::session::{Session, canonical};
use optc_base::{Diagnostic, Span};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// A file that a block has written.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// The word of the block: `archive`, `emit`.
    pub word: &'static str,
    /// The path, relative to the spec's folder.
    pub path: &'a Path,
    /// Where the block names it.
    pub span: Span,
}

/// What SQLite keeps beside an archive.
const BESIDE: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// A path with links followed as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let whole = PathBuf::from(canonical(&whole));
    let there = whole.ancestors().find_map(|a| Some((a.canonicalize().ok()?, whole.strip_prefix(a).ok()?)));
    match there {
        Some((there, rest)) if !rest.as_os_str().is_empty() => there.join(rest),
        Some((there, _)) => there,
        None => whole,
    }
}

/// Whether two paths name one file, by links and hard links too.
pub fn same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata()) {
            return (a.dev(), a.ino()) == (b.dev(), b.ino());
        }
    }
    resolved(a) == resolved(b)
}

/// A path with an ending behind its name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(ending);
    name.into()
}

/// Files of the spec that its outputs would overwrite, and outputs that would overwrite each other.
pub fn check(session: &Session, outputs: &[Output<'_>]) -> Vec<Diagnostic> {
    let folder = crate::host_env::folder_of(&session.path);
    let place = |o: &Output<'_>| folder.join(o.path);
    let mut found = Vec::new();
    for (k, output) in outputs.iter().enumerate() {
        let help = format!("`{} \"out/…\"`: a file of its own", output.word);
        if same(&place(output), &session.path) {
            found.push(bad(output.span, format!("`{}` would overwrite the spec itself", output.word)).help(help));
            continue;
        }
        let mut imported = session.program.modules.iter().skip(1).filter(|m| !is_library(&m.name));
        if let Some(module) = imported.find(|m| same(&place(output), Path::new(&*m.name))) {
            found.push(bad(output.span, format!("`{}` would overwrite {}, which the spec imports", output.word, module.name)).help(help));
            continue;
        }
        let other = outputs[..k]
            .iter()
            .find(|o| BESIDE.iter().any(|e| same(&beside(&place(o), e), &place(output)) || same(&beside(&place(output), e), &place(o))));
        if let Some(other) = other {
            found.push(
                bad(output.span, format!("`{}` and `{}` would be one file", other.word, output.word))
                    .label(other.span, format!("`{}` is here", other.word))
                    .help(help),
            );
        }
    }
    found
}

/// Tries whether a file can be written, and leaves what is there as it is; folders on the way are made.
///
/// # Errors
/// Why it cannot.
pub fn try_to_write(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let there = path.exists();
    OpenOptions::new().append(true).create(true).open(path)?;
    if there {
        return Ok(());
    }
    match std::fs::remove_file(path) {
        // Another process of the search has tried the same.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::{resolved, same, try_to_write};

    #[test]
    fn one_file_has_many_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("s.opt"), "text").expect("written");
        assert!(same(&at("s.opt"), &at("./s.opt")) && same(&at("s.opt"), &at("out/../s.opt")) && !same(&at("s.opt"), &at("t.opt")));
        // Of files that are not there yet, too.
        assert!(same(&at("out/a"), &at("out/./b/../a")) && !same(&at("out/a"), &at("out/b")));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("s.opt"), at("link.opt")).expect("a link");
            std::fs::hard_link(at("s.opt"), at("hard.opt")).expect("a link");
            assert!(same(&at("link.opt"), &at("s.opt")) && same(&at("hard.opt"), &at("s.opt")));
            assert_eq!(resolved(&at("link.opt")), resolved(&at("s.opt")));
        }
        // What is there stays, what is not there is not made.
        assert!(try_to_write(&at("s.opt")).is_ok() && try_to_write(&at("out/new.opt")).is_ok());
        assert!(!at("out/new.opt").exists() && std::fs::read_to_string(at("s.opt")).is_ok_and(|t| t == "text"));
        // Several processes try at one time.
        std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..200).all(|_| try_to_write(&at("out/shared.opt")).is_ok()))).collect();
            assert!(tries.into_iter().all(|t| t.join().is_ok_and(|written| written)));
        });
        assert!(!at("out/shared.opt").exists());
        assert!(try_to_write(&at("s.opt/below.opt")).is_err() && try_to_write(folder.path()).is_err());
    }
}
