//! Data sources: files as arrays of examples, in memory or mapped.

pub mod csv;
pub mod file;
pub mod idx;
pub mod images;
pub mod npy;
pub mod npz;
pub mod safetensors;
pub mod text;
pub mod wav;

pub use text::Text;

use crate::data::images::Place;
use crate::error::Result;
use crate::package::Package;
use indexmap::IndexMap;
use optc_abi::Tensor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Under this key files of arrays hold what is to be known of the tree they are.
pub const TREE: &str = "optc.tree";

/// What a source gives.
#[derive(Clone, Debug)]
pub enum Source {
    /// One array, with what else is known of it.
    Array {
        /// The array.
        array: Arc<Tensor>,
        /// Facts by name (`vocab`, `labels`, …).
        facts: IndexMap<&'static str, Fact>,
    },
    /// Arrays by name, and the text about the tree they are that was saved with them.
    Arrays(IndexMap<String, Arc<Tensor>>, Option<String>),
}

/// Something known of a source's array.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A number.
    Number(i64),
    /// Names by index.
    Names(Vec<String>),
    /// An array of numbers, one for each example.
    Array(Arc<Tensor>),
}

/// Reads a source by its name in the language; `None` if no source that reads files has this name.
///
/// | source | array | facts |
/// |---|---|---|
/// | `csv` | [`csv::read`] | |
/// | `idx` | [`idx::read`] | |
/// | `npy` | [`npy::read`] | |
/// | `npz` | arrays by name, [`npz::read`] | |
/// | `safetensors` | arrays by name, [`safetensors::read`] | |
/// | `text` | [`text::read`] | `vocab` (number of characters), `chars` (the characters) |
/// | `images` | [`images::read`] | `labels`, `classes` |
/// | `wav` | [`wav::read`] | `rate` (samples per second) |
pub fn read(kind: &str, path: &Path) -> Option<Result<Source>> {
    Some(match kind {
        "csv" => csv::read(path).map(plain),
        "idx" => idx::read(path).map(plain),
        "npy" => npy::read(path).map(plain),
        "npz" => npz::read(path).map(all),
        "safetensors" => safetensors::read(path, TREE).map(all),
        "text" => text::read(path).map(characters),
        "images" => images::read(path).map(pictures),
        "wav" => wav::read(path).map(sound),
        _ => return None,
    })
}

/// A csv file in double precision, [`csv::read_wide`].
///
/// # Errors
/// As those of [`read`].
pub fn read_wide(path: &Path) -> Result<Source> {
    csv::read_wide(path).map(plain)
}

/// As [`read`], from a package.
pub fn read_packed(package: &Package, kind: &str, path: &Path) -> Option<Result<Source>> {
    let bytes = || package.bytes(path);
    let at = |e: crate::TrainError| e.at(path);
    Some(match kind {
        "csv" => bytes().and_then(|b| csv::parse(&b).map(plain).map_err(at)),
        "idx" => bytes().and_then(|b| idx::parse(&b).map(plain).map_err(at)),
        "npy" => bytes().and_then(|b| npy::parse(&b).map(plain).map_err(at)),
        "npz" => bytes().and_then(|b| npz::parse(&b).map(|arrays| all((arrays, npz::comment(&b)))).map_err(at)),
        "safetensors" => bytes().and_then(|b| safetensors::parse(b, path, TREE).map(all)),
        "text" => bytes().and_then(|b| text::parse(&b).map(characters).map_err(at)),
        "images" => images::read_in(package, path).map(pictures),
        "wav" => bytes().and_then(|b| wav::parse(&b).map(sound).map_err(at)),
        _ => return None,
    })
}

impl images::Place for Package {
    fn bytes(&self, file: &Path) -> Result<Vec<u8>> {
        self.file(&file.to_string_lossy())
    }
    fn entries(&self, folder: &Path) -> Result<Vec<(PathBuf, bool)>> {
        let name = folder.to_string_lossy();
        let found = Package::entries(self, &name);
        if found.is_empty() { Err(self.missing(&name)) } else { Ok(found.into_iter().map(|(n, f)| (PathBuf::from(n), f)).collect()) }
    }
}

fn with(array: Tensor, facts: impl IntoIterator<Item = (&'static str, Fact)>) -> Source {
    Source::Array { array: Arc::new(array), facts: facts.into_iter().collect() }
}

fn plain(array: Tensor) -> Source {
    with(array, [])
}

fn all((arrays, tree): (IndexMap<String, Tensor>, Option<String>)) -> Source {
    Source::Arrays(arrays.into_iter().map(|(n, t)| (n, Arc::new(t))).collect(), tree)
}

fn characters(text: Text) -> Source {
    let chars: Vec<String> = text.vocab.iter().map(char::to_string).collect();
    with(text.ids, [("vocab", Fact::Number(chars.len() as i64)), ("chars", Fact::Names(chars))])
}

fn pictures(images: images::Images) -> Source {
    with(images.pixels, [("labels", Fact::Array(Arc::new(images.labels))), ("classes", Fact::Names(images.classes))])
}

fn sound(sound: wav::Sound) -> Source {
    with(sound.samples, [("rate", Fact::Number(i64::from(sound.rate)))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_by_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "1,2").unwrap();
        let Source::Array { array, facts } = read("csv", &path).unwrap().unwrap() else { panic!("an array") };
        assert!(array.shape == [1, 2] && facts.is_empty());
        let Source::Array { facts, .. } = read("text", &path).unwrap().unwrap() else { panic!("an array") };
        assert!(matches!(facts["vocab"], Fact::Number(3)) && matches!(&facts["chars"], Fact::Names(c) if c == &[",", "1", "2"]));
        for (name, code) in
            [("idx", "R0106"), ("npy", "R0109"), ("npz", "R0122"), ("safetensors", "R0116"), ("wav", "R0123"), ("images", "R0101")]
        {
            assert_eq!(read(name, &path).unwrap().unwrap_err().code, code, "{name}");
        }
        assert!(read("parquet", &path).is_none());
        for name in ["csv", "idx", "npy", "npz", "safetensors", "text", "images", "wav"] {
            let e = read(name, &dir.path().join("none")).unwrap().unwrap_err();
            assert_eq!((e.code, e.path.as_deref()), ("R0101", Some(dir.path().join("none").as_path())), "{name}");
        }
    }
}
