//! `npz`: NumPy's archives of arrays, read and written.

use crate::data::{TREE, npy};
use crate::error::{Result, TrainError};
use indexmap::IndexMap;
use optc_abi::Tensor;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

/// Reads an npz file: its arrays by name, in the file's order, and the text of the archive's comment that [`encode`] was given. `R0122` if it is no archive of arrays or
/// damaged.
pub fn read(path: &Path) -> Result<(IndexMap<String, Tensor>, Option<String>)> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
    Ok((parse(&bytes).map_err(|e| e.at(path))?, comment(&bytes)))
}

pub(crate) fn comment(bytes: &[u8]) -> Option<String> {
    let archive = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let text = std::str::from_utf8(archive.comment()).ok()?;
    Some(text.strip_prefix(TREE)?.strip_prefix(' ')?.to_string())
}

/// Reads the bytes of such a file; checksums are verified.
pub fn parse(bytes: &[u8]) -> Result<IndexMap<String, Tensor>> {
    let bad = |m: String| TrainError::new("R0122", format!("not an archive of arrays, or damaged: {m}")).help("write it with numpy.savez");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| bad(e.to_string()))?;
    let mut arrays = IndexMap::new();
    for k in 0..archive.len() {
        let mut entry = archive.by_index(k).map_err(|e| bad(e.to_string()))?;
        let name = entry.name().map_err(|e| bad(e.to_string()))?.trim_end_matches(".npy").to_string();
        let mut plain = Vec::new();
        entry.read_to_end(&mut plain).map_err(|e| bad(format!("array `{name}`: {e}")))?;
        let array = npy::parse(&plain).map_err(|e| TrainError { message: format!("array `{name}`: {}", e.message), ..e })?;
        arrays.insert(name, array);
    }
    Ok(arrays)
}

/// The bytes of an npz file with these arrays, uncompressed; equal arrays give equal bytes (no dates). What is to be known of the tree they are goes into the comment of
/// the archive, which NumPy does not look at, if there is room for it.
pub fn encode<'a>(arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>, tree: Option<&str>) -> Result<Vec<u8>> {
    let mut out = ZipWriter::new(Cursor::new(Vec::new()));
    let trouble = |e: String| TrainError::new("R0121", format!("cannot lay out the npz file: {e}")).help("save as .safetensors");
    if let Some(comment) = tree.map(|t| format!("{TREE} {t}")).filter(|c| c.len() <= usize::from(u16::MAX)) {
        out.set_comment(comment).map_err(|e| trouble(e.to_string()))?;
    }
    for (name, t) in arrays {
        let bytes = npy::encode(t);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(bytes.len() >= u32::MAX as usize);
        out.start_file(format!("{name}.npy"), options).map_err(|e| trouble(e.to_string()))?;
        out.write_all(&bytes).map_err(|e| trouble(e.to_string()))?;
    }
    Ok(out.finish().map_err(|e| trouble(e.to_string()))?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let (a, b) = (Tensor::from_slice(&[2], &[1.0f32, 2.0]), Tensor::scalar(3i64));
        encode([("a", &a), ("net.b", &b)], Some("{}")).unwrap()
    }

    #[test]
    fn archives_read_back_and_equal_ones_have_equal_bytes() {
        let back = parse(&sample()).unwrap();
        assert_eq!(back.keys().collect::<Vec<_>>(), ["a", "net.b"]);
        assert_eq!(back["a"].as_slice::<f32>(), [1.0, 2.0]);
        assert_eq!(back["net.b"], Tensor::scalar(3i64));
        assert_eq!(sample(), sample());
        assert_eq!(comment(&sample()).as_deref(), Some("{}"));
    }

    #[test]
    fn compressed_arrays_are_read() {
        let mut out = ZipWriter::new(Cursor::new(Vec::new()));
        out.start_file("x.npy", SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)).unwrap();
        out.write_all(&npy::encode(&Tensor::zeros(optc_abi::DType::F32, &[300]))).unwrap();
        let bytes = out.finish().unwrap().into_inner();
        assert!(bytes.len() < 1000);
        assert_eq!(parse(&bytes).unwrap()["x"].shape, [300]);
    }

    #[test]
    fn damage_is_found_and_never_panics() {
        let bytes = sample();
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n]).unwrap_err().code, "R0122");
            let mut flipped = bytes.clone();
            flipped[n] ^= 0xA5;
            let _ = parse(&flipped);
        }
        // A byte of an element.
        let at = bytes.windows(4).position(|w| w == 2.0f32.to_le_bytes()).unwrap();
        let mut flipped = bytes.clone();
        flipped[at + 2] ^= 1;
        assert_eq!(parse(&flipped).unwrap_err().code, "R0122");
        let mut other = ZipWriter::new(Cursor::new(Vec::new()));
        other.start_file("readme.txt", SimpleFileOptions::default()).unwrap();
        let bytes = other.finish().unwrap().into_inner();
        let e = parse(&bytes).unwrap_err();
        assert!(e.code == "R0109" && e.message.contains("array `readme.txt`"), "{e}");
    }
}
