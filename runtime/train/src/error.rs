//! What can go wrong around a run: one error type with a code, the place in the file, and a line that says how to mend it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, TrainError>;

/// A trouble with a file, a format, or with data that do not fit the request. Never a bug of the caller.
#[derive(Debug, thiserror::Error)]
pub struct TrainError {
    /// The code, one of [`CODES`].
    pub code: &'static str,
    /// What is wrong, without the place.
    pub message: String,
    /// The file concerned.
    pub path: Option<PathBuf>,
    /// The line or record in it, from 1.
    pub row: Option<u64>,
    /// The field of the row, from 1.
    pub column: Option<u64>,
    /// How to mend it.
    pub help: Option<Box<str>>,
    /// The operating system's error, where there is one.
    #[source]
    pub source: Option<std::io::Error>,
}

/// Every code with a short title, in order.
pub const CODES: &[(&str, &str)] = &[
    ("R0101", "a file cannot be read"),
    ("R0102", "a file cannot be written"),
    ("R0103", "a row of a csv file has another number of columns than the first"),
    ("R0104", "a field of a csv file is not a number"),
    ("R0105", "a data file holds no examples"),
    ("R0106", "not an IDX file"),
    ("R0107", "a data file has another size than its header says"),
    ("R0108", "gzip data are damaged"),
    ("R0109", "not an npy file"),
    ("R0110", "an element type that is not supported"),
    ("R0111", "text is not UTF-8"),
    ("R0112", "a character or index is not in the vocabulary"),
    ("R0113", "fractions of a split do not work out"),
    ("R0114", "a batch does not fit the data"),
    ("R0115", "an image of a folder cannot be used"),
    ("R0116", "a checkpoint is damaged"),
    ("R0117", "a checkpoint does not fit the train"),
    ("R0118", "a log cannot be continued"),
    ("R0119", "a plot has nothing to draw"),
    ("R0120", "an unknown file extension"),
    ("R0121", "a value cannot be saved in this format"),
    ("R0122", "not an archive of arrays"),
    ("R0123", "not a wav file"),
    ("R0124", "a process cannot be started or has ended"),
    ("R0125", "a process does not answer in time"),
    ("R0126", "an answer of a process cannot be used"),
    ("R0127", "a log of a process does not hold the request"),
    ("R0128", "no room on the disk for offloaded arrays"),
    ("R0129", "the file of an offloaded array is damaged"),
    ("R0130", "the rule has no form for leaves of any length"),
    ("R0131", "there is no code for this target"),
    ("R0132", "a library could not be linked"),
    ("R0133", "what a stand-alone executable carries is damaged"),
    ("R0134", "a stand-alone executable does not carry the file"),
    ("R0135", "a stand-alone executable cannot be made"),
    ("R0136", "this optc was built without LLVM"),
    ("R0137", "a back end that cannot do what is asked"),
    ("R0138", "there is no such GPU"),
    ("R0139", "a GPU cannot go on"),
    ("R0145", "an optimizer is no program of the search"),
    ("R0146", "a search cannot begin, go on or be looked at"),
    ("R0147", "a batch does not split evenly among several GPUs"),
];

impl TrainError {
    /// An error without a place.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(CODES.iter().any(|(c, _)| *c == code), "unknown code {code}");
        TrainError { code, message: message.into(), path: None, row: None, column: None, help: None, source: None }
    }
    /// `R0101`: reading this file failed. The help line names the likely reason.
    pub fn read(path: &Path, error: std::io::Error) -> Self {
        Self::io("R0101", "cannot read", path, error)
    }
    /// `R0102`: writing this file failed. The help line names the likely reason.
    pub fn write(path: &Path, error: std::io::Error) -> Self {
        Self::io("R0102", "cannot write", path, error)
    }
    fn io(code: &'static str, what: &str, path: &Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let reason = match error.kind() {
            K::NotFound => "no such file or folder".to_string(),
            K::PermissionDenied => "permission denied".to_string(),
            _ => error.to_string(),
        };
        let help = match error.kind() {
            K::NotFound if code == "R0101" => Some(match nearest_sibling(path) {
                Some(near) => format!("did you mean `{near}`; paths are relative to the spec file").into(),
                None => "paths are relative to the spec file".into(),
            }),
            K::PermissionDenied => Some("check the permissions of the file and its folder".into()),
            K::StorageFull => Some("free some space on the disk".into()),
            _ => None,
        };
        TrainError { help, source: Some(error), ..Self::new(code, format!("{what} the file: {reason}")).at(path) }
    }
    /// The same error, about this file.
    #[must_use]
    pub fn at(mut self, path: &Path) -> Self {
        self.path = Some(path.to_path_buf());
        self
    }
    /// The same error, about this row (from 1).
    #[must_use]
    pub fn row(mut self, row: u64) -> Self {
        self.row = Some(row);
        self
    }
    /// The same error, about this column (from 1).
    #[must_use]
    pub fn column(mut self, column: u64) -> Self {
        self.column = Some(column);
        self
    }
    /// The same error with a help line.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into().into_boxed_str());
        self
    }
}

/// `data.csv, row 3, column 2: message`. Code and help line are left to the printer.
impl fmt::Display for TrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut place = Vec::new();
        if let Some(path) = &self.path {
            place.push(path.display().to_string());
        }
        if let Some(row) = self.row {
            place.push(format!("row {row}"));
        }
        if let Some(column) = self.column {
            place.push(format!("column {column}"));
        }
        if !place.is_empty() {
            write!(f, "{}: ", place.join(", "))?;
        }
        f.write_str(&self.message)
    }
}

/// The file in the same folder whose name is closest, if any is close.
fn nearest_sibling(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut names: Vec<String> =
        std::fs::read_dir(parent).ok()?.take(1000).filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().map(|n| (distance(wanted, &n), n)).filter(|(d, _)| *d <= 1 + wanted.chars().count() / 4).min().map(|(_, n)| n)
}

/// Levenshtein distance over characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let next = if x == y { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(CODES.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn a_missing_file_names_its_nearest_sibling() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("digits.csv"), "1").unwrap();
        let path = dir.path().join("digit.csv");
        let error = TrainError::read(&path, std::fs::read(&path).unwrap_err());
        assert_eq!(error.code, "R0101");
        assert!(error.help.unwrap().contains("`digits.csv`"));
    }

    #[test]
    fn display_gives_file_row_and_column() {
        let e = TrainError::new("R0104", "`x` is not a number").at(Path::new("a.csv")).row(3).column(2);
        assert_eq!(e.to_string(), "a.csv, row 3, column 2: `x` is not a number");
    }
}
