//! `idx`: the format of the MNIST files (<http://yann.lecun.com/exdb/mnist/>), gzip or not.
//!
//! Bytes 0 0, a type code, the number of dimensions; then each extent as a big-endian u32; then the elements, big-endian, row-major.

use crate::data::file::{Bytes, MAP_FROM};
use crate::error::{Result, TrainError};
use flate2::read::MultiGzDecoder;
use optc_abi::{DType, Tensor};
use std::io::Read;
use std::path::Path;

/// Reads an IDX file; gzip is recognized by its first bytes. Unsigned bytes give `u8`, signed bytes, 16-bit and 32-bit integers give
/// `i32`, floats and doubles `f32` and `f64`. Large uncompressed files of bytes are mapped.
pub fn read(path: &Path) -> Result<Tensor> {
    read_with(path, MAP_FROM)
}

/// As [`read`], mapping files of at least `map_from` bytes.
pub fn read_with(path: &Path, map_from: u64) -> Result<Tensor> {
    let bytes = Bytes::open(path, map_from)?;
    if !bytes.starts_with(&GZIP) {
        let header = header(&bytes).map_err(|e| e.at(path))?;
        if header.code == 0x08 {
            return Ok(bytes.into_tensor(DType::U8, &header.shape, header.start));
        }
    }
    parse(&bytes).map_err(|e| e.at(path))
}

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads the bytes of such a file, gzip or not.
pub fn parse(bytes: &[u8]) -> Result<Tensor> {
    if bytes.starts_with(&GZIP) {
        let mut plain = Vec::new();
        MultiGzDecoder::new(bytes)
            .read_to_end(&mut plain)
            .map_err(|e| TrainError::new("R0108", format!("the gzip data are damaged or cut off: {e}")).help("download the file again"))?;
        return elements(&plain, header(&plain)?);
    }
    elements(bytes, header(bytes)?)
}

struct Header {
    code: u8,
    shape: Vec<usize>,
    start: usize,
}

fn header(bytes: &[u8]) -> Result<Header> {
    let wrong = |m: String| TrainError::new("R0106", m).help("IDX files start with 0, 0, a type code and the number of dimensions");
    let Some(&[a, b, code, dims]) = bytes.first_chunk::<4>() else {
        return Err(wrong(format!("not an IDX file: only {} bytes", bytes.len())));
    };
    let Some(size) = code_size(code).filter(|_| a == 0 && b == 0) else {
        return Err(wrong(format!("not an IDX file: wrong magic number {:#010x}", u32::from_be_bytes([a, b, code, dims]))));
    };
    if dims == 0 {
        return Err(wrong("not an IDX file: it has no dimensions".to_string()));
    }
    let start = 4 + 4 * dims as usize;
    let Some(extents) = bytes.get(4..start) else {
        return Err(TrainError::new("R0107", "the file ends inside its header").help("download the file again"));
    };
    let shape: Vec<usize> = extents.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b) as usize).collect();
    let expected = shape.iter().try_fold(size, |n, &d| n.checked_mul(d));
    let found = bytes.len() - start;
    if expected != Some(found) {
        let expected = expected.map_or("too many".to_string(), |n| n.to_string());
        return Err(TrainError::new("R0107", format!("the header {shape:?} calls for {expected} bytes of elements, the file has {found}"))
            .help("the file is cut off or damaged: download it again"));
    }
    if found == 0 {
        return Err(TrainError::new("R0105", format!("the file holds no elements: its shape is {shape:?}")));
    }
    Ok(Header { code, shape, start })
}

fn code_size(code: u8) -> Option<usize> {
    match code {
        0x08 | 0x09 => Some(1),
        0x0B => Some(2),
        0x0C | 0x0D => Some(4),
        0x0E => Some(8),
        _ => None,
    }
}

fn elements(bytes: &[u8], h: Header) -> Result<Tensor> {
    let b = &bytes[h.start..];
    fn all<const N: usize, T>(b: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        b.as_chunks::<N>().0.iter().map(|c| f(*c)).collect()
    }
    Ok(match h.code {
        0x08 => Tensor::from_slice(&h.shape, b),
        0x09 => Tensor::from_slice(&h.shape, &all(b, |[x]: [u8; 1]| i32::from(x as i8))),
        0x0B => Tensor::from_slice(&h.shape, &all(b, |x| i32::from(i16::from_be_bytes(x)))),
        0x0C => Tensor::from_slice(&h.shape, &all(b, i32::from_be_bytes)),
        0x0D => Tensor::from_slice(&h.shape, &all(b, f32::from_be_bytes)),
        _ => Tensor::from_slice(&h.shape, &all(b, f64::from_be_bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn file(code: u8, shape: &[u32], elements: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, code, shape.len() as u8];
        shape.iter().for_each(|d| out.extend(d.to_be_bytes()));
        out.extend(elements);
        out
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut e = GzEncoder::new(Vec::new(), Compression::fast());
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    }

    #[test]
    fn every_element_type_is_read() {
        let t = parse(&file(0x08, &[2, 2], &[1, 2, 3, 255])).unwrap();
        assert_eq!((t.shape.as_slice(), t.as_slice::<u8>()), (&[2, 2][..], &[1, 2, 3, 255][..]));
        assert_eq!(parse(&file(0x09, &[2], &[255, 1])).unwrap().as_slice::<i32>(), [-1, 1]);
        assert_eq!(parse(&file(0x0B, &[2], &[255, 254, 1, 0])).unwrap().as_slice::<i32>(), [-2, 256]);
        assert_eq!(parse(&file(0x0C, &[1], &[0, 1, 0, 0])).unwrap().as_slice::<i32>(), [65536]);
        assert_eq!(parse(&file(0x0D, &[1], &1.5f32.to_be_bytes())).unwrap().as_slice::<f32>(), [1.5]);
        assert_eq!(parse(&file(0x0E, &[1], &(-0.1f64).to_be_bytes())).unwrap().as_slice::<f64>(), [-0.1]);
    }

    #[test]
    fn gzip_and_mapped_files_give_the_same() {
        let plain = file(0x08, &[3, 2], &[1, 2, 3, 4, 5, 6]);
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("a", plain.clone()), ("a.gz", gzip(&plain))] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            for map_from in [0, MAP_FROM] {
                assert_eq!(read_with(&path, map_from).unwrap(), Tensor::from_slice(&[3, 2], &[1u8, 2, 3, 4, 5, 6]));
            }
        }
    }

    #[test]
    fn malformed_files_are_refused() {
        let code = |b: &[u8]| parse(b).unwrap_err().code;
        assert_eq!(code(b"1,2,3,4\n"), "R0106");
        assert_eq!(code(&file(0x0A, &[1], &[1])), "R0106");
        assert_eq!(code(&file(0x08, &[], &[1])), "R0106");
        assert_eq!(code(&file(0x08, &[2], &[1, 2, 3])), "R0107");
        assert_eq!(code(&file(0x0E, &[u32::MAX, u32::MAX, u32::MAX], &[1])), "R0107");
        assert_eq!(code(&file(0x08, &[0], &[])), "R0105");
        assert!(parse(b"PK\x03\x04").unwrap_err().message.contains("0x504b0304"));
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_panics() {
        let plain = file(0x0B, &[2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]);
        let packed = gzip(&plain);
        for bytes in [&plain, &packed] {
            for n in 0..bytes.len() {
                assert!(parse(&bytes[..n]).is_err(), "a prefix of {n} bytes");
                let mut flipped = bytes.clone();
                flipped[n] ^= 0x41;
                let _ = parse(&flipped);
            }
        }
        assert_eq!(parse(&packed[..packed.len() - 3]).unwrap_err().code, "R0108");
    }
}
