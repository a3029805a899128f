//! `npy`: NumPy's array files, read and written (format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use crate::data::file::{Bytes, MAP_FROM};
use crate::error::{Result, TrainError};
use optc_abi::{DType, Tensor};
use std::path::Path;

/// Reads an npy file of version 1, 2 or 3: bool, integers up to 64 bits, floats of 16, 32 and 64 bits, either byte order, C or Fortran
/// order. Integers without a counterpart widen to `i32` or `i64`; u64 beyond `i64` is an error. Large files whose bytes can be used as
/// they are are mapped.
pub fn read(path: &Path) -> Result<Tensor> {
    read_with(path, MAP_FROM)
}

/// As [`read`], mapping files of at least `map_from` bytes.
pub fn read_with(path: &Path, map_from: u64) -> Result<Tensor> {
    let bytes = Bytes::open(path, map_from)?;
    let header = Header::parse(&bytes).map_err(|e| e.at(path))?;
    match header.usable_as_is() {
        Some(dtype) => Ok(bytes.into_tensor(dtype, &header.shape, header.start)),
        None => header.elements(&bytes).map_err(|e| e.at(path)),
    }
}

/// Reads the bytes of such a file.
pub fn parse(bytes: &[u8]) -> Result<Tensor> {
    Header::parse(bytes)?.elements(bytes)
}

struct Header {
    /// `b`, `i`, `u` or `f`.
    kind: u8,
    /// Bytes of an element.
    size: usize,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
    start: usize,
}

fn malformed(message: impl Into<String>) -> TrainError {
    TrainError::new("R0109", message).help("write the file with numpy.save")
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header> {
        let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or_else(|| malformed("not an npy file: it does not start with \\x93NUMPY"))?;
        let (&[major, _], rest) = rest.split_first_chunk::<2>().ok_or_else(|| malformed("the file ends inside its header"))?;
        let cut = || TrainError::new("R0107", "the file ends inside its header").help("write the file again");
        let (length, rest) = match major {
            1 => rest.split_first_chunk::<2>().map(|(n, r)| (u16::from_le_bytes(*n) as usize, r)).ok_or_else(cut)?,
            2 | 3 => rest.split_first_chunk::<4>().map(|(n, r)| (u32::from_le_bytes(*n) as usize, r)).ok_or_else(cut)?,
            v => return Err(malformed(format!("npy version {v} is not known"))),
        };
        let text = std::str::from_utf8(rest.get(..length).ok_or_else(cut)?).map_err(|_| malformed("the header is no text"))?;
        let start = bytes.len() - rest.len() + length;
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        let mut at = Cursor(text.trim());
        at.expect('{')?;
        while !at.eat('}') {
            let key = at.string()?;
            at.expect(':')?;
            match key {
                "descr" if at.peek() == Some('[') => return Err(unsupported("a structured type")),
                "descr" => descr = Some(at.string()?),
                "fortran_order" => fortran = Some(at.boolean()?),
                "shape" => shape = Some(at.shape()?),
                other => return Err(malformed(format!("the header has an unknown key `{other}`"))),
            }
            if !at.eat(',') {
                at.expect('}')?;
                break;
            }
        }
        let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
            return Err(malformed("the header lacks one of descr, fortran_order, shape"));
        };
        let (order, kind, size) = match descr.as_bytes() {
            [order @ (b'<' | b'>' | b'|' | b'='), kind, size] if size.is_ascii_digit() => (*order, *kind, (size - b'0') as usize),
            _ => return Err(unsupported(&format!("type '{descr}'"))),
        };
        if !matches!((kind, size), (b'b', 1) | (b'i' | b'u', 1 | 2 | 4 | 8) | (b'f', 2 | 4 | 8)) {
            return Err(unsupported(&format!("type '{descr}'")));
        }
        let expected = shape.iter().try_fold(size, |n: usize, &d| n.checked_mul(d));
        let found = bytes.len() - start;
        if expected != Some(found) {
            let expected = expected.map_or("too many".to_string(), |n| n.to_string());
            return Err(TrainError::new(
                "R0107",
                format!("the header {shape:?} calls for {expected} bytes of elements, the file has {found}"),
            )
            .help("the file is cut off or damaged: write it again"));
        }
        Ok(Header { kind, size, big_endian: order == b'>' && size > 1, fortran, shape, start })
    }

    /// The element type, if the file's bytes are already row-major elements of it.
    fn usable_as_is(&self) -> Option<DType> {
        if self.big_endian || (self.fortran && self.shape.len() > 1) {
            return None;
        }
        Some(match (self.kind, self.size) {
            (b'u', 1) => DType::U8,
            (b'u', 4) => DType::U32,
            (b'i', 4) => DType::I32,
            (b'i', 8) => DType::I64,
            (b'f', 2) => DType::F16,
            (b'f', 4) => DType::F32,
            (b'f', 8) => DType::F64,
            // Truth values are checked while read; the others need another type.
            _ => return None,
        })
    }

    fn elements(&self, bytes: &[u8]) -> Result<Tensor> {
        let mut raw = bytes[self.start..].to_vec();
        if self.big_endian {
            raw.chunks_exact_mut(self.size).for_each(<[u8]>::reverse);
        }
        if self.fortran && self.shape.len() > 1 {
            raw = from_fortran(&raw, &self.shape, self.size);
        }
        fn all<const N: usize, T>(raw: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
            raw.as_chunks::<N>().0.iter().map(|c| f(*c)).collect()
        }
        let same = |dtype| {
            let mut t = Tensor::zeros(dtype, &self.shape);
            t.bytes_mut().copy_from_slice(&raw);
            t
        };
        Ok(match (self.kind, self.size) {
            (b'b', _) => {
                let mut t = Tensor::zeros(DType::Bool, &self.shape);
                t.bytes_mut().iter_mut().zip(&raw).for_each(|(o, &b)| *o = u8::from(b != 0));
                t
            }
            (b'i', 1) => Tensor::from_slice(&self.shape, &all(&raw, |[b]: [u8; 1]| i32::from(b as i8))),
            (b'i', 2) => Tensor::from_slice(&self.shape, &all(&raw, |b| i32::from(i16::from_le_bytes(b)))),
            (b'u', 2) => Tensor::from_slice(&self.shape, &all(&raw, |b| i32::from(u16::from_le_bytes(b)))),
            (b'u', 8) => {
                let wide = all(&raw, u64::from_le_bytes);
                let narrow: Option<Vec<i64>> = wide.into_iter().map(|v| i64::try_from(v).ok()).collect();
                let narrow = narrow.ok_or_else(|| unsupported("a 64-bit unsigned number beyond the range of i64"))?;
                Tensor::from_slice(&self.shape, &narrow)
            }
            (b'u', 1) => same(DType::U8),
            (b'u', _) => same(DType::U32),
            (b'i', 4) => same(DType::I32),
            (b'i', _) => same(DType::I64),
            (_, 2) => same(DType::F16),
            (_, 4) => same(DType::F32),
            _ => same(DType::F64),
        })
    }
}

fn unsupported(what: &str) -> TrainError {
    TrainError::new("R0110", format!("{what} is not supported"))
        .help("supported are bool, integers up to 64 bits and floats of 16, 32 and 64 bits: convert with `array.astype(...)`")
}

/// Elements in Fortran order (first index fastest) put in C order.
fn from_fortran(raw: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut strides = vec![size; shape.len()];
    for d in 1..shape.len() {
        strides[d] = strides[d - 1] * shape[d - 1];
    }
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    while out.len() < raw.len() {
        out.extend_from_slice(&raw[at..at + size]);
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            index[d] = 0;
        }
    }
    out
}

/// Reads the Python literal of a header.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_start();
        self.0.chars().next()
    }
    fn eat(&mut self, c: char) -> bool {
        self.peek();
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }
    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { Err(malformed(format!("the header lacks a `{c}`"))) }
    }
    fn string(&mut self) -> Result<&'a str> {
        let quote = self.peek().filter(|c| matches!(c, '\'' | '"')).ok_or_else(|| malformed("the header lacks a string"))?;
        let (text, rest) = self.0[1..].split_once(quote).ok_or_else(|| malformed("a string of the header does not end"))?;
        self.0 = rest;
        Ok(text)
    }
    fn boolean(&mut self) -> Result<bool> {
        self.peek();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.0.strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        Err(malformed("fortran_order is neither True nor False"))
    }
    fn shape(&mut self) -> Result<Vec<usize>> {
        self.expect('(')?;
        let mut shape = Vec::new();
        while !self.eat(')') {
            self.peek();
            let digits = self.0.len() - self.0.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            shape.push(self.0[..digits].parse().map_err(|_| malformed("an extent of the shape is not a number"))?);
            self.0 = self.0[digits..].trim_start_matches('L');
            if !self.eat(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(shape)
    }
}

/// NumPy's name of an element type; none for bfloat16, which it does not have.
fn descr(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::BF16 => return None,
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::F16 => "<f2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U32 => "<u4",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
    })
}

/// Everything before the elements (version 1), filled up to a multiple of `align` bytes, itself a multiple of 64.
fn header(descr: &str, shape: &[usize], align: usize) -> Vec<u8> {
    let extents: Vec<String> = shape.iter().map(|d| d.to_string()).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", extents.join(", "));
    let padded = (10 + header.len() + 1).next_multiple_of(align) - 10;
    header.extend(std::iter::repeat_n(' ', padded - 1 - header.len()));
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(padded as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out
}

/// The header of a file whose elements begin at byte `align`, a multiple of 64 that the header fits in. bfloat16 is described as two bytes without a meaning (`V2`).
pub(crate) fn aligned_header(dtype: DType, shape: &[usize], align: usize) -> Vec<u8> {
    header(descr(dtype).unwrap_or("|V2"), shape, align)
}

/// The bytes of an npy file (version 1; the elements start at a multiple of 64). NumPy has no bfloat16: those are written as `<f4`.
pub fn encode(t: &Tensor) -> Vec<u8> {
    let Some(descr) = descr(t.dtype) else { return encode(&t.cast(DType::F32)) };
    let mut out = header(descr, &t.shape, 64);
    out.extend_from_slice(t.bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, elements: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY".to_vec();
        out.extend([version, 0]);
        if version == 1 {
            out.extend((header.len() as u16).to_le_bytes());
        } else {
            out.extend((header.len() as u32).to_le_bytes());
        }
        out.extend(header.as_bytes());
        out.extend(elements);
        out
    }

    fn of(descr: &str, shape: &str, elements: &[u8]) -> Result<Tensor> {
        parse(&file(2, &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), elements))
    }

    #[test]
    fn what_is_written_reads_back() {
        for dtype in DType::ALL {
            for shape in [&[][..], &[3], &[2, 3], &[0, 4]] {
                let n = shape.iter().product();
                let values: Vec<f64> = (0..n).map(|i| (i % 2) as f64).collect();
                let t = Tensor::from_f64(dtype, shape, &values);
                let bytes = encode(&t);
                assert!(dtype == DType::BF16 || (bytes.len() - t.bytes().len()).is_multiple_of(64));
                let back = parse(&bytes).unwrap();
                assert_eq!(back, if dtype == DType::BF16 { t.cast(DType::F32) } else { t });
            }
        }
    }

    #[test]
    fn all_types_and_orders_are_read() {
        assert_eq!(of("|b1", "(3,)", &[0, 1, 2]).unwrap(), Tensor::from_f64(DType::Bool, &[3], &[0.0, 1.0, 1.0]));
        assert_eq!(of("|i1", "(2,)", &[255, 1]).unwrap().as_slice::<i32>(), [-1, 1]);
        assert_eq!(of("<i2", "(1,)", &[254, 255]).unwrap().as_slice::<i32>(), [-2]);
        assert_eq!(of(">u2", "(1,)", &[1, 0]).unwrap().as_slice::<i32>(), [256]);
        assert_eq!(of(">f8", "()", &0.1f64.to_be_bytes()).unwrap(), Tensor::scalar(0.1f64));
        assert_eq!(of("<u8", "(1,)", &7u64.to_le_bytes()).unwrap().as_slice::<i64>(), [7]);
        assert_eq!(of("<u8", "(1,)", &[255; 8]).unwrap_err().code, "R0110");
        assert_eq!(of("<f2", "(1,)", &[0, 0x3C]).unwrap().get_f64(0), 1.0);
        let fortran = file(3, "{\"fortran_order\": True, \"shape\": (2, 3), \"descr\": \"|u1\"}", &[0, 3, 1, 4, 2, 5]);
        assert_eq!(parse(&fortran).unwrap().as_slice::<u8>(), [0, 1, 2, 3, 4, 5]);
        let fortran = file(1, "{'fortran_order': True, 'shape': (2, 1, 2), 'descr': '>i2'}", &[0, 0, 0, 2, 0, 1, 0, 3]);
        assert_eq!(parse(&fortran).unwrap().as_slice::<i32>(), [0, 1, 2, 3]);
    }

    #[test]
    fn malformed_files_are_refused() {
        let code = |r: Result<Tensor>| r.unwrap_err().code;
        assert_eq!(code(parse(b"1,2,3")), "R0109");
        assert_eq!(code(parse(&file(9, "{}", &[]))), "R0109");
        assert_eq!(code(parse(&file(1, "{'descr': '<f4'}", &[]))), "R0109");
        assert_eq!(code(of("<c8", "(1,)", &[0; 8])), "R0110");
        assert_eq!(code(of("|O", "(1,)", &[0; 8])), "R0110");
        assert_eq!(code(of("<U3", "(1,)", &[0; 12])), "R0110");
        assert_eq!(code(of("<f4", "(2,)", &[0; 7])), "R0107");
        assert_eq!(code(of("<f4", "(99999999999, 99999999999)", &[0; 7])), "R0107");
        assert_eq!(code(of("<f4", "(x,)", &[])), "R0109");
        assert_eq!(code(parse(&file(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", &[0; 4]))), "R0110");
    }

    #[test]
    fn a_mapped_file_equals_a_read_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let t = Tensor::from_slice(&[3, 2], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        std::fs::write(&path, encode(&t)).unwrap();
        assert_eq!((read_with(&path, 0).unwrap(), read(&path).unwrap()), (t.clone(), t.clone()));
        std::fs::write(&path, encode(&t.cast(DType::Bool))).unwrap();
        assert_eq!(read_with(&path, 0).unwrap().dtype, DType::Bool);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read_with(&path, 0).unwrap_err().code, "R0109");
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_panics() {
        let bytes = encode(&Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]));
        for n in 0..bytes.len() {
            assert!(parse(&bytes[..n]).is_err(), "a prefix of {n} bytes");
            for flip in [0x01, 0x41, 0x80] {
                let mut flipped = bytes.clone();
                flipped[n] ^= flip;
                let _ = parse(&flipped);
            }
        }
    }
}
