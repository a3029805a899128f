//! Data sources and the columns they give: arrays of examples, in memory or mapped from a file.

pub mod column;
pub mod csv;
pub mod idx;
pub mod npy;
pub mod set;
pub mod text;
pub mod zip;

pub use column::Column;
pub use set::DataSet;
pub use text::Text;

use crate::error::Result;
use std::path::Path;

/// A source of the language that reads a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `csv`, see [`csv::read`].
    Csv,
    /// `idx`, see [`idx::read`].
    Idx,
    /// `npy`, see [`npy::read`].
    Npy,
    /// `text`, see [`text::read`].
    Text,
}

impl Kind {
    /// The source with this name in the language.
    pub fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "csv" => Kind::Csv,
            "idx" => Kind::Idx,
            "npy" => Kind::Npy,
            "text" => Kind::Text,
            _ => return None,
        })
    }
}

/// What a source gives.
#[derive(Clone, Debug)]
pub struct Source {
    /// The array.
    pub column: Column,
    /// The vocabulary of a text.
    pub vocab: Option<Vec<char>>,
}

/// Reads a source.
pub fn read(kind: Kind, path: &Path) -> Result<Source> {
    let (column, vocab) = match kind {
        Kind::Csv => (csv::read(path)?.into(), None),
        Kind::Idx => (idx::read(path)?, None),
        Kind::Npy => (npy::read(path)?, None),
        Kind::Text => {
            let text = text::read(path)?;
            (text.ids.into(), Some(text.vocab))
        }
    };
    Ok(Source { column, vocab })
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::DType;

    #[test]
    fn sources_are_read_by_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "1,2").unwrap();
        let read = |name: &str| read(Kind::parse(name).unwrap(), &path);
        assert_eq!((read("csv").unwrap().column.shape(), read("csv").unwrap().vocab), (&[1, 2][..], None));
        let text = read("text").unwrap();
        assert_eq!((text.column.dtype(), text.vocab), (DType::I32, Some(vec![',', '1', '2'])));
        assert_eq!((read("idx").unwrap_err().code, read("npy").unwrap_err().code), ("R0106", "R0109"));
        assert_eq!(Kind::parse("wav"), None);
        std::fs::remove_file(&path).unwrap();
        for name in ["csv", "idx", "npy", "text"] {
            let e = read(name).unwrap_err();
            assert_eq!((e.code, e.path.as_deref()), ("R0101", Some(path.as_path())));
        }
    }
}
