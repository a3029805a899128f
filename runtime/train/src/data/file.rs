//! The bytes of a data file: read, or mapped where they are many.

use crate::error::{Result, TrainError};
use memmap2::{MmapMut, MmapOptions};
use optc_abi::{DType, Tensor};
use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

/// Files of at least this many bytes are mapped rather than read.
pub const MAP_FROM: u64 = 64 << 20;

/// A file's bytes.
pub enum Bytes {
    /// In memory.
    Read(Vec<u8>),
    /// Left in the file; the operating system reads pages when they are touched.
    Mapped(MmapMut),
}

impl Bytes {
    /// Opens a file; one of at least `map_from` bytes is mapped.
    pub fn open(path: &Path, map_from: u64) -> Result<Bytes> {
        let fail = |e| TrainError::read(path, e);
        let mut file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        if length >= map_from && length > 0 {
            // SAFETY: a data file is not expected to change under a run.
            return unsafe { MmapOptions::new().map_copy(&file) }.map(Bytes::Mapped).map_err(fail);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail)?;
        Ok(Bytes::Read(bytes))
    }
    /// The row-major little-endian elements from `start` on, which the caller has found to be there: left in a mapped file where its
    /// header aligns them, copied otherwise.
    pub fn into_tensor(self, dtype: DType, shape: &[usize], start: usize) -> Tensor {
        let copy = |bytes: &[u8]| {
            let mut t = Tensor::zeros(dtype, shape);
            let n = t.bytes().len();
            t.bytes_mut().copy_from_slice(&bytes[start..start + n]);
            t
        };
        match self {
            Bytes::Read(bytes) => copy(&bytes),
            Bytes::Mapped(pages) if start.is_multiple_of(optc_abi::tensor::MAPPED_ALIGN) => {
                Tensor::mapped(dtype, shape, pages, start).expect("the elements are all there")
            }
            Bytes::Mapped(pages) => copy(&pages),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(pages) => pages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_mapped_files_give_the_same_arrays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, (0..40).collect::<Vec<u8>>()).unwrap();
        for start in [0, 3, 16] {
            for map_from in [0, 40, 41] {
                let bytes = Bytes::open(&path, map_from).unwrap();
                assert_eq!(matches!(bytes, Bytes::Mapped(_)), map_from < 41);
                let t = bytes.into_tensor(DType::U8, &[2, 4], start);
                assert_eq!(t.as_slice::<u8>(), (start as u8..start as u8 + 8).collect::<Vec<u8>>());
            }
        }
    }

    #[test]
    fn what_is_changed_in_memory_leaves_the_file_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let mut t = Bytes::open(&path, 0).unwrap().into_tensor(DType::U8, &[3], 0);
        t.bytes_mut()[1] = 9;
        assert_eq!((t.bytes(), std::fs::read(&path).unwrap()), (&[1, 9, 3][..], vec![1, 2, 3]));
    }
}
