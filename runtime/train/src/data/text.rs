//! `text`: a file's characters as indices into the sorted list of its distinct characters.

use crate::error::{Result, TrainError};
use optc_abi::Tensor;
use std::path::Path;

/// A text as indices, with its vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// `i32[characters]`: for each character its place in `vocab`.
    pub ids: Tensor,
    /// The distinct characters, sorted by code point.
    pub vocab: Vec<char>,
}

/// Reads a UTF-8 file. An empty file, or bytes that are not UTF-8, are errors that name the line and the byte in it.
pub fn read(path: &Path) -> Result<Text> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
    parse(&bytes).map_err(|e| e.at(path))
}

/// Reads the bytes of such a file.
pub fn parse(bytes: &[u8]) -> Result<Text> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let good = &bytes[..e.valid_up_to()];
        let line = good.iter().filter(|&&b| b == b'\n').count() as u64 + 1;
        let column = good.iter().rev().take_while(|&&b| b != b'\n').count() as u64 + 1;
        TrainError::new("R0111", "the bytes here are not UTF-8").row(line).column(column).help("convert the file to UTF-8")
    })?;
    if text.is_empty() {
        return Err(TrainError::new("R0105", "the file is empty"));
    }
    let mut seen = std::collections::BTreeSet::new();
    seen.extend(text.chars());
    let vocab: Vec<char> = seen.into_iter().collect();
    let ids = encode(text, &vocab)?;
    Ok(Text { ids, vocab })
}

/// The characters' places in a sorted vocabulary, `i32[characters]`; `R0112` if one is not in it.
pub fn encode(text: &str, vocab: &[char]) -> Result<Tensor> {
    let ids = text
        .chars()
        .map(|c| vocab.binary_search(&c).map(|i| i as i32).map_err(|_| TrainError::new("R0112", format!("{c:?} is not in the vocabulary"))))
        .collect::<Result<Vec<i32>>>()?;
    Ok(Tensor::from_slice(&[ids.len()], &ids))
}

impl Text {
    /// The characters of these indices (an integer array of any shape, row-major); `R0112` if one is out of range.
    pub fn decode(&self, ids: &Tensor) -> Result<String> {
        (0..ids.len())
            .map(|i| {
                let id = ids.get_f64(i);
                let known = if id >= 0.0 { self.vocab.get(id as usize) } else { None };
                known
                    .copied()
                    .ok_or_else(|| TrainError::new("R0112", format!("{id} is no index into a vocabulary of {}", self.vocab.len())))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_numbered_in_sorted_order_and_decode_back() {
        let text = parse("bä\nab".as_bytes()).unwrap();
        assert_eq!(text.vocab, ['\n', 'a', 'b', 'ä']);
        assert_eq!(text.ids.as_slice::<i32>(), [2, 3, 0, 1, 2]);
        assert_eq!(text.decode(&text.ids).unwrap(), "bä\nab");
    }

    #[test]
    fn bad_bytes_and_indices_are_named() {
        let e = parse(b"ab\nc\xff").unwrap_err();
        assert_eq!((e.code, e.row, e.column), ("R0111", Some(2), Some(2)));
        assert_eq!(parse(b"").unwrap_err().code, "R0105");
        let text = parse(b"ab").unwrap();
        for bad in [-1, 2] {
            assert_eq!(text.decode(&Tensor::from_slice(&[1], &[bad])).unwrap_err().code, "R0112");
        }
        assert_eq!(encode("c", &text.vocab).unwrap_err().code, "R0112");
    }
}
