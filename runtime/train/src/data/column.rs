//! One field of a data set: `rows` examples of the same shape, in memory or mapped from a file.

use memmap2::Mmap;
use optc_abi::{DType, Tensor};
use std::sync::Arc;

/// Files of at least this many bytes are mapped rather than read, where their format allows it.
pub const MAP_FROM: u64 = 64 << 20;

/// An array of examples along its first axis. Clones share the data.
#[derive(Clone, Debug)]
pub enum Column {
    /// Held in memory.
    Memory(Arc<Tensor>),
    /// Left in its file; the operating system reads pages when rows are asked for.
    Mapped(Mapped),
}

/// Rows of an array in a memory-mapped file: row-major, little-endian.
#[derive(Clone, Debug)]
pub struct Mapped {
    map: Arc<Mmap>,
    offset: usize,
    dtype: DType,
    shape: Vec<usize>,
    /// Which rows of the file are rows of the column; all in order if absent.
    picked: Option<Arc<Vec<usize>>>,
}

impl Mapped {
    /// An array of this type and shape that starts `offset` bytes into the mapping. The caller has checked that the mapping is long
    /// enough; panics otherwise.
    pub fn new(map: Arc<Mmap>, offset: usize, dtype: DType, shape: Vec<usize>) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= map.len()), "compiler bug: an array beyond its mapped file");
        Mapped { map, offset, dtype, shape, picked: None }
    }
}

impl From<Tensor> for Column {
    fn from(t: Tensor) -> Self {
        Column::Memory(Arc::new(t))
    }
}

impl From<Arc<Tensor>> for Column {
    fn from(t: Arc<Tensor>) -> Self {
        Column::Memory(t)
    }
}

impl Column {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Column::Memory(t) => t.dtype,
            Column::Mapped(m) => m.dtype,
        }
    }
    /// Extents, the examples' axis first. Empty for a scalar, which counts as no rows.
    pub fn shape(&self) -> &[usize] {
        match self {
            Column::Memory(t) => &t.shape,
            Column::Mapped(m) => &m.shape,
        }
    }
    /// Number of examples.
    pub fn rows(&self) -> usize {
        self.shape().first().copied().unwrap_or(0)
    }
    /// Shape of one example.
    pub fn row_shape(&self) -> &[usize] {
        self.shape().get(1..).unwrap_or(&[])
    }
    /// Bytes of one example.
    pub fn row_bytes(&self) -> usize {
        self.row_shape().iter().product::<usize>() * self.dtype().size()
    }
    /// The file's (or tensor's) bytes from the first row on, and the list of picked rows.
    fn storage(&self) -> (&[u8], Option<&[usize]>) {
        match self {
            Column::Memory(t) => (t.bytes(), None),
            Column::Mapped(m) => (&m.map[m.offset..], m.picked.as_ref().map(|p| p.as_slice())),
        }
    }
    /// The bytes of example `i`. Panics if there is no such row.
    pub fn row(&self, i: usize) -> &[u8] {
        assert!(i < self.rows(), "compiler bug: row {i} of {}", self.rows());
        let n = self.row_bytes();
        let (bytes, picked) = self.storage();
        let at = picked.map_or(i, |p| p[i]);
        &bytes[at * n..(at + 1) * n]
    }
    /// Copies the examples with these numbers, in this order, to `out`. Panics if a number is no row or `out` has another size than
    /// `indices.len() * row_bytes()`.
    pub fn gather(&self, indices: &[usize], out: &mut [u8]) {
        let n = self.row_bytes();
        assert_eq!(out.len(), indices.len() * n, "compiler bug: size of a batch buffer");
        if n == 0 {
            return;
        }
        let (bytes, picked) = self.storage();
        let bytes = if picked.is_none() { &bytes[..self.rows() * n] } else { bytes };
        if let Some(picked) = picked {
            for (o, &i) in out.chunks_exact_mut(n).zip(indices) {
                o.copy_from_slice(&bytes[picked[i] * n..][..n]);
            }
            return;
        }
        match n {
            // A copy of known size is one load and one store instead of a call.
            1 => gather_fixed::<1>(bytes, indices, out),
            4 => gather_fixed::<4>(bytes, indices, out),
            8 => gather_fixed::<8>(bytes, indices, out),
            _ => {
                for (o, &i) in out.chunks_exact_mut(n).zip(indices) {
                    o.copy_from_slice(&bytes[i * n..][..n]);
                }
            }
        }
    }
    /// Copies the examples `first..first + out.len() / row_bytes()` to `out`. Panics if they are not all there.
    pub fn gather_range(&self, first: usize, out: &mut [u8]) {
        let n = self.row_bytes();
        if n == 0 {
            return;
        }
        assert_eq!(out.len() % n, 0, "compiler bug: size of a batch buffer");
        let count = out.len() / n;
        assert!(first.checked_add(count).is_some_and(|end| end <= self.rows()), "compiler bug: rows beyond the data");
        match self.storage() {
            (bytes, None) => out.copy_from_slice(&bytes[first * n..][..count * n]),
            (_, Some(picked)) => {
                for (o, &i) in out.chunks_exact_mut(n).zip(&picked[first..first + count]) {
                    o.copy_from_slice(&self.storage().0[i * n..][..n]);
                }
            }
        }
    }
    /// The column of these rows, in this order. Memory is copied, so that the rows of a split lie together; a mapped column stays in
    /// its file. Panics if a number is no row.
    pub fn select(&self, indices: &[usize]) -> Column {
        let mut shape = self.shape().to_vec();
        assert!(indices.iter().all(|&i| i < self.rows()), "compiler bug: a selected row beyond the data");
        if shape.is_empty() {
            return self.clone();
        }
        shape[0] = indices.len();
        match self {
            Column::Memory(t) => {
                let mut out = Tensor::zeros(t.dtype, &shape);
                self.gather(indices, out.bytes_mut());
                out.into()
            }
            Column::Mapped(m) => {
                let picked = indices.iter().map(|&i| m.picked.as_ref().map_or(i, |p| p[i])).collect();
                Column::Mapped(Mapped { shape, picked: Some(Arc::new(picked)), ..m.clone() })
            }
        }
    }
    /// The whole column as a tensor; reads a mapped file.
    pub fn to_tensor(&self) -> Arc<Tensor> {
        match self {
            Column::Memory(t) => t.clone(),
            Column::Mapped(m) => {
                let mut out = Tensor::zeros(m.dtype, &m.shape);
                if !m.shape.is_empty() {
                    self.gather_range(0, out.bytes_mut());
                } else {
                    let n = m.dtype.size();
                    out.bytes_mut().copy_from_slice(&m.map[m.offset..m.offset + n]);
                }
                Arc::new(out)
            }
        }
    }
}

fn gather_fixed<const N: usize>(bytes: &[u8], indices: &[usize], out: &mut [u8]) {
    let (rows, _) = bytes.as_chunks::<N>();
    let (out, _) = out.as_chunks_mut::<N>();
    for (o, &i) in out.iter_mut().zip(indices) {
        *o = rows[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(t: &Tensor) -> Column {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 3]).unwrap();
        file.write_all(t.bytes()).unwrap();
        // SAFETY: the file is private to this test.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        Column::Mapped(Mapped::new(Arc::new(map), 3, t.dtype, t.shape.clone()))
    }

    #[test]
    fn rows_are_gathered_in_order_from_memory_and_file() {
        for width in [1usize, 2, 3] {
            let values: Vec<f32> = (0..4 * width).map(|i| i as f32).collect();
            let t = Tensor::from_slice(&[4, width], &values);
            for column in [Column::from(t.clone()), mapped(&t)] {
                assert_eq!((column.rows(), column.row_bytes()), (4, 4 * width));
                let mut out = Tensor::zeros(DType::F32, &[3, width]);
                column.gather(&[3, 0, 3], out.bytes_mut());
                let expected: Vec<f32> = [3, 0, 3].iter().flat_map(|r| values[r * width..][..width].to_vec()).collect();
                assert_eq!(out.as_slice::<f32>(), expected);
                let picked = column.select(&[2, 1, 0]).select(&[2, 0]);
                assert_eq!(picked.to_tensor().as_slice::<f32>(), [&values[..width], &values[2 * width..][..width]].concat());
                let mut one = Tensor::zeros(DType::F32, &[1, width]);
                picked.gather_range(1, one.bytes_mut());
                assert_eq!(one.bytes(), column.row(2));
                picked.gather(&[0], one.bytes_mut());
                assert_eq!(one.bytes(), column.row(0));
            }
        }
    }

    #[test]
    fn rows_without_elements_are_nothing_to_copy() {
        let column = Column::from(Tensor::zeros(DType::F32, &[3, 0]));
        column.gather(&[0, 2], &mut []);
        column.gather_range(1, &mut []);
        assert_eq!(column.select(&[1]).rows(), 1);
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn a_row_beyond_the_data_panics() {
        Column::from(Tensor::zeros(DType::F32, &[3])).gather(&[3], &mut [0; 4]);
    }
}
