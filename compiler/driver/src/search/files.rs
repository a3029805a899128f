//! What a search reads, by hashes: imported files and data, and what of its block steers it. A search that goes on, or is merged with others, has read the same.

use super::archive::Archive;
use super::block::SearchSpec;
use crate::session::{Session, canonical};
use optc_front::ast::{BlockEntry, BlockItem, BlockKind, ItemKind};
use optc_front::std_lib::std_folders;
use optc_train::report::sha256;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

/// Files with the SHA-256 of what they hold, by their names as seen from the spec's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes(pub BTreeMap<String, String>);

/// Whether a module is one of the standard library; files of users are never called like these.
pub fn is_library(module: &str) -> bool {
    module.starts_with("std/") || std_folders().contains(&module)
}

/// A path as seen from a folder.
fn seen_from(folder: &Path, path: &Path) -> String {
    let whole = |p: &Path| p.canonicalize().or_else(|_| std::path::absolute(p)).unwrap_or_else(|_| p.to_path_buf());
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (from, to) = (whole(folder), whole(path));
    let up = from.ancestors().position(|a| to.starts_with(a));
    let Some((up, rest)) = up.and_then(|up| Some((up, to.strip_prefix(from.ancestors().nth(up)?).ok()?))) else {
        return to.to_string_lossy().into_owned();
    };
    canonical(&std::iter::repeat_n(Path::new(".."), up).chain([rest]).collect::<PathBuf>())
}

impl Hashes {
    /// Imported files of a spec. The standard library belongs to the version of this program, and the spec itself is kept as text.
    pub fn imports(session: &Session) -> Hashes {
        let folder = crate::host_env::folder_of(&session.path);
        let imported = session.program.modules.iter().skip(1).filter(|m| !is_library(&m.name));
        let hash = |m: &optc_front::Module| session.program.sources.get(m.source).map(|s| sha256(s.text.as_bytes()));
        Hashes(imported.filter_map(|m| Some((seen_from(&folder, Path::new(&*m.name)), hash(m)?))).collect())
    }

    /// Data files, and all files of folders, that a spec reads.
    ///
    /// # Errors
    /// One that cannot be read, in words.
    pub fn of(spec: &Path, paths: impl IntoIterator<Item = PathBuf>) -> Result<Hashes, String> {
        let folder = crate::host_env::folder_of(spec);
        let mut all = Hashes::default();
        for path in paths {
            all.add(&folder, &path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        }
        Ok(all)
    }

    fn add(&mut self, folder: &Path, path: &Path) -> std::io::Result<()> {
        if path.is_dir() {
            for entry in std::fs::read_dir(path)? {
                self.add(folder, &entry?.path())?;
            }
            return Ok(());
        }
        if let Entry::Vacant(place) = self.0.entry(seen_from(folder, path)) {
            place.insert(sha256(&std::fs::read(path)?));
        }
        Ok(())
    }

    /// As text.
    pub fn text(&self) -> String {
        json!(self.0).to_string()
    }

    /// Of a text; nothing of one that is none.
    pub fn read(text: &str) -> Hashes {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let all = value.as_object().into_iter().flatten();
        Hashes(all.filter_map(|(name, hash)| Some((name.clone(), hash.as_str()?.to_string()))).collect())
    }

    /// Whether these data are those that an archive was begun with; a new archive keeps what they are.
    ///
    /// # Errors
    /// Which have changed, in words; an archive that cannot be read.
    pub fn same_data(&self, archive: &mut Archive) -> Result<(), String> {
        let Some(before) = archive.setting("data")? else { return archive.set("data", &self.text()) };
        match Hashes::read(&before).changed(self) {
            None => Ok(()),
            Some(name) => Err(format!(
                "the data in {name} have changed since the search was started: what they score could not be compared with what the archive holds"
            )),
        }
    }

    /// The first file that is not the same, or is not in both.
    pub fn changed<'a>(&'a self, other: &'a Hashes) -> Option<&'a str> {
        let names = self.0.keys().chain(other.0.keys());
        names.filter(|n| self.0.get(*n) != other.0.get(*n)).min().map(String::as_str)
    }

    /// The first file of both that is not the same.
    pub fn differs<'a>(&'a self, other: &Hashes) -> Option<&'a str> {
        self.0.iter().find(|(n, hash)| other.0.get(*n).is_some_and(|h| h != *hash)).map(|(n, _)| n.as_str())
    }
}

/// What of a spec steers a search: all but other searches, and settings of its block that say how long it goes on, where it writes and what is measured at its end. As a hash; `tasks` are the names that scores are kept under.
pub fn steers(session: &Session, block: &BlockItem, spec: Option<&SearchSpec>) -> String {
    /// Settings that steer nothing.
    const FREE: [&str; 5] = ["budget", "archive", "emit", "funnel", "held_out"];
    let slice = |span| session.program.sources.slice(span).to_string();
    let mut parts: Vec<String> = Vec::new();
    let root = session.program.modules.first();
    for item in root.iter().flat_map(|m| &m.file.items) {
        if !matches!(&item.kind, ItemKind::Block(b) if b.kind == BlockKind::Search) {
            parts.push(slice(item.span));
        }
    }
    parts.push(block.name.text.to_string());
    parts.extend(block.params.iter().map(|p| slice(p.span)));
    for entry in &block.entries {
        match entry {
            BlockEntry::Setting(s) if FREE.contains(&&*s.word.text) => {}
            // Which controls there are is added below; the rest of these is for the end.
            BlockEntry::Setting(s) if spec.is_some() && &*s.word.text == "control" => {}
            BlockEntry::Setting(s) => parts.push(slice(s.span)),
            BlockEntry::Let { span, .. } => parts.push(slice(*span)),
            BlockEntry::Field { name, .. } => parts.push(name.text.to_string()),
        }
    }
    if let Some(spec) = spec {
        let names: Vec<&str> = spec.tasks.iter().chain(&spec.validation).map(|t| t.label.as_str()).collect();
        parts.push(format!("{names:?} {} {}", spec.constants_only, spec.random));
    }
    sha256(json!(parts).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Hashes, seen_from};
    use std::path::Path;

    #[test]
    fn files_are_named_from_the_folder_of_the_spec() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("specs/in")).expect("made");
        for name in ["lib.opt", "specs/in/a.csv", "specs/in/b.csv"] {
            std::fs::write(at(name), name).expect("written");
        }
        assert_eq!(seen_from(&at("specs"), &at("lib.opt")), "../lib.opt");
        assert_eq!(seen_from(&at("specs"), &at("specs/./in/a.csv")), "in/a.csv");
        // All files of a folder; what is new in it is a change.
        let read = || Hashes::of(&at("specs/s.opt"), [at("specs/in")]).expect("files");
        let before = read();
        assert_eq!(before.0.keys().collect::<Vec<_>>(), ["in/a.csv", "in/b.csv"]);
        assert_eq!(Hashes::read(&before.text()), before);
        std::fs::write(at("specs/in/b.csv"), "other").expect("written");
        assert_eq!((read().changed(&before), read().differs(&before)), (Some("in/b.csv"), Some("in/b.csv")));
        std::fs::write(at("specs/in/b.csv"), "specs/in/b.csv").expect("written");
        std::fs::write(at("specs/in/c.csv"), "").expect("written");
        assert_eq!((before.changed(&read()), before.differs(&read())), (Some("in/c.csv"), None));
        assert!(Hashes::of(Path::new("s.opt"), [at("nothing.csv")]).is_err());
    }
}
