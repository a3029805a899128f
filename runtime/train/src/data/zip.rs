//! Zip archives as far as `npz` needs them: stored entries are written; stored and deflated ones are read
//! (format: PKWARE APPNOTE 6.3, without encryption, spanning or zip64 sizes).

use crate::data::npy;
use crate::error::{Result, TrainError};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use indexmap::IndexMap;
use optc_abi::Tensor;
use std::io::Read;
use std::path::Path;

fn crc(bytes: &[u8]) -> u32 {
    let mut c = Crc::new();
    c.update(bytes);
    c.sum()
}

/// An archive with these entries, uncompressed; equal entries give equal bytes (no dates). `R0121` if it would need more than 4 GiB or
/// 65535 entries.
pub fn store(entries: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let total: usize = entries.iter().map(|(n, b)| 2 * n.len() + b.len() + 128).sum();
    if total >= u32::MAX as usize || entries.len() >= u16::MAX as usize {
        return Err(TrainError::new("R0121", "npz files hold at most 4 GiB").help("save as .safetensors"));
    }
    let mut out = Vec::with_capacity(total);
    let mut directory = Vec::new();
    for (name, bytes) in entries {
        let offset = out.len() as u32;
        let mut common = Vec::new();
        // Version 2.0, names in UTF-8, stored, 1980-01-01.
        common.extend_from_slice(&[20, 0, 0, 8, 0, 0, 0, 0, 0x21, 0]);
        common.extend_from_slice(&crc(bytes).to_le_bytes());
        common.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        common.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        common.extend_from_slice(&(name.len() as u16).to_le_bytes());
        common.extend_from_slice(&[0, 0]);
        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&common);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(bytes);
        directory.extend_from_slice(b"PK\x01\x02\x14\x00");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let start = out.len() as u32;
    let count = (entries.len() as u16).to_le_bytes();
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&count);
    out.extend_from_slice(&count);
    out.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    Ok(out)
}

/// The entries of an archive in its directory's order; checksums are verified.
pub fn entries(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let bad = |m: &str| TrainError::new("R0122", format!("not a zip archive of arrays: {m}")).help("write the file with numpy.savez");
    let cut = || bad("it is cut off or damaged");
    let u16_at = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b) as usize);
    let u32_at = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b) as usize);
    // The end record is followed by a comment of at most 65535 bytes.
    let from = bytes.len().saturating_sub(22 + 65535);
    let end = (from..bytes.len().saturating_sub(21)).rev().find(|&i| bytes[i..].starts_with(b"PK\x05\x06"));
    let end = end.ok_or_else(|| bad("its directory is missing"))?;
    let (count, mut at) = (u16_at(end + 10).ok_or_else(cut)?, u32_at(end + 16).ok_or_else(cut)?);
    let mut out = Vec::new();
    for _ in 0..count {
        if !bytes.get(at..).is_some_and(|b| b.starts_with(b"PK\x01\x02")) {
            return Err(cut());
        }
        let field = |offset| u32_at(at + offset).ok_or_else(cut);
        let short = |offset| u16_at(at + offset).ok_or_else(cut);
        let (flags, method, sum, packed, size, local) = (short(8)?, short(10)?, field(16)?, field(20)?, field(24)?, field(42)?);
        let (name_len, extra_len, comment_len) = (short(28)?, short(30)?, short(32)?);
        let name = String::from_utf8_lossy(bytes.get(at + 46..at + 46 + name_len).ok_or_else(cut)?).into_owned();
        at += 46 + name_len + extra_len + comment_len;
        if flags & 1 != 0 || packed == u32::MAX as usize || size == u32::MAX as usize || local == u32::MAX as usize {
            return Err(bad("encrypted and zip64 entries are not supported"));
        }
        let data = local + 30 + u16_at(local + 26).ok_or_else(cut)? + u16_at(local + 28).ok_or_else(cut)?;
        let raw = bytes.get(data..data + packed).ok_or_else(cut)?;
        let plain = match method {
            0 => raw.to_vec(),
            8 => {
                let mut plain = Vec::new();
                DeflateDecoder::new(raw).take(size as u64 + 1).read_to_end(&mut plain).map_err(|_| cut())?;
                plain
            }
            _ => return Err(bad("an entry uses an unknown compression")),
        };
        if plain.len() != size || crc(&plain) as usize != sum {
            return Err(bad(&format!("entry `{name}` is damaged")));
        }
        out.push((name, plain));
    }
    Ok(out)
}

/// Reads an npz file: its arrays by name, in the file's order.
pub fn read_npz(path: &Path) -> Result<IndexMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
    let arrays = entries(&bytes).map_err(|e| e.at(path))?;
    arrays.iter().map(|(name, b)| Ok((name.trim_end_matches(".npy").to_string(), npy::parse(b).map_err(|e| e.at(path))?))).collect()
}

/// The bytes of an npz file with these arrays.
pub fn encode_npz<'a>(arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Vec<u8>> {
    let entries: Vec<_> = arrays.into_iter().map(|(name, t)| (format!("{name}.npy"), npy::encode(t))).collect();
    store(&entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let (a, b) = (Tensor::from_slice(&[2], &[1.0f32, 2.0]), Tensor::scalar(3i64));
        encode_npz([("a", &a), ("net.b", &b)]).unwrap()
    }

    #[test]
    fn archives_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        std::fs::write(&path, sample()).unwrap();
        let back = read_npz(&path).unwrap();
        assert_eq!(back.keys().collect::<Vec<_>>(), ["a", "net.b"]);
        assert_eq!(back["a"].as_slice::<f32>(), [1.0, 2.0]);
        assert_eq!(back["net.b"], Tensor::scalar(3i64));
    }

    #[test]
    fn damage_is_found_and_never_panics() {
        let bytes = sample();
        for n in 0..bytes.len() {
            assert_eq!(entries(&bytes[..n]).unwrap_err().code, "R0122");
            let mut flipped = bytes.clone();
            flipped[n] ^= 0xA5;
            let _ = entries(&flipped);
        }
        let mut flipped = bytes.clone();
        flipped[60] ^= 1;
        assert!(entries(&flipped).unwrap_err().message.contains("damaged"));
    }
}
