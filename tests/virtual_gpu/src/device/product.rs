//! Products of matrices, as the library of matrix products does them: columns one after the other.

use super::code::{Answer, Code};
use super::memory::host_of;
use crate::exec::num::{BF16, F16, Round};

/// Types of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F32,
    F64,
    F16,
    BF16,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::BF16 => 2,
            Element::F32 => 4,
            Element::F64 => 8,
        }
    }

    fn decode(self, bytes: &[u8]) -> f64 {
        match self {
            Element::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into(),
            Element::F64 => f64::from_bits(bytes.iter().rev().fold(0, |all, b| all << 8 | u64::from(*b))),
            Element::F16 => F16.decode(u16::from_le_bytes([bytes[0], bytes[1]]).into()),
            Element::BF16 => BF16.decode(u16::from_le_bytes([bytes[0], bytes[1]]).into()),
        }
    }

    fn encode(self, x: f64) -> [u8; 8] {
        match self {
            Element::F32 => u64::from((x as f32).to_bits()),
            Element::F64 => x.to_bits(),
            Element::F16 => F16.encode(x, Round::Nearest, false),
            Element::BF16 => BF16.encode(x, Round::Nearest, false),
        }
        .to_le_bytes()
    }
}

/// Matrices of a batch in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub element: Element,
    pub rows: u64,
    pub columns: u64,
    /// Elements from one column to the next.
    pub leading: i64,
    pub by_rows: bool,
    pub batch: i32,
    /// Elements from one matrix to the next.
    pub stride: i64,
}

impl Layout {
    /// Elements before that of a row and column of a matrix.
    fn at(&self, batch: u64, row: u64, column: u64) -> i64 {
        let (step, next) = if self.by_rows { (column, row) } else { (row, column) };
        batch as i64 * self.stride + next as i64 * self.leading + step as i64
    }
}

/// `d = alpha op(a) op(b) + beta c`.
#[derive(Clone, Debug)]
pub struct Product {
    pub transposed: [bool; 2],
    /// Of a, b, c and d.
    pub layouts: [Layout; 4],
    pub addresses: [u64; 4],
    pub alpha: f64,
    pub beta: f64,
    pub workspace: (u64, usize),
}

/// Checks all of a matrix; gives where its first element lies.
fn matrix(layout: &Layout, address: u64, devices: u64, batch: u64, what: &str) -> Answer<*mut u8> {
    let size = layout.element.bytes() as u64;
    let start = address.wrapping_add_signed(layout.at(batch, 0, 0) * size as i64);
    let bytes = (layout.at(0, layout.rows - 1, layout.columns - 1) as u64 + 1) * size;
    if !start.is_multiple_of(size) {
        return Err(Code::MISALIGNED_ADDRESS);
    }
    host_of(start, bytes, devices).ok_or_else(|| {
        eprintln!("virtual GPU: a product of matrices: {what} at {start:#x}: {bytes} bytes that are not all memory of one allocation");
        Code::ILLEGAL_ADDRESS
    })
}

impl Product {
    /// Rows, columns and terms.
    pub fn extents(&self) -> (u64, u64, u64) {
        let [a, _, _, d] = &self.layouts;
        (d.rows, d.columns, if self.transposed[0] { a.rows } else { a.columns })
    }

    /// Whether the matrices fit each other.
    pub fn fits(&self) -> bool {
        let [a, b, c, d] = &self.layouts;
        let (m, n, k) = self.extents();
        let turned = |l: &Layout, t: bool| if t { (l.columns, l.rows) } else { (l.rows, l.columns) };
        let same = self.layouts.iter().all(|l| l.element == a.element && l.batch == d.batch);
        let leading = self.layouts.iter().all(|l| l.leading >= (if l.by_rows { l.columns } else { l.rows }) as i64);
        let shapes = turned(a, self.transposed[0]) == (m, k) && turned(b, self.transposed[1]) == (k, n) && (c.rows, c.columns) == (m, n);
        same && leading && shapes && m * n * k > 0 && d.batch > 0
    }

    /// Does it. Sums go by rising index: products and sums of f64 are fused; others are exact and added up in f64, and the result is rounded once.
    pub fn perform(&self, devices: u64) -> Answer {
        let (m, n, k) = self.extents();
        let [a, b, c, d] = &self.layouts;
        let size = d.element.bytes();
        if self.workspace.1 > 0 {
            // The library leaves anything there.
            let at = host_of(self.workspace.0, self.workspace.1 as u64, devices).ok_or(Code::ILLEGAL_ADDRESS)?;
            // SAFETY: checked.
            unsafe { std::ptr::write_bytes(at, 0xFF, self.workspace.1) };
        }
        let read = |layout: &Layout, at: *mut u8, row: u64, column: u64| {
            // SAFETY: the whole matrix was checked.
            let bytes = unsafe { std::slice::from_raw_parts(at.offset(layout.at(0, row, column) as isize * size as isize), size) };
            layout.element.decode(bytes)
        };
        for batch in 0..d.batch as u64 {
            let [pa, pb, pd] =
                [(a, 0, "a"), (b, 1, "b"), (d, 3, "d")].map(|(l, n, what)| matrix(l, self.addresses[n], devices, batch, what));
            let (pa, pb, pd) = (pa?, pb?, pd?);
            let pc = if self.beta == 0.0 { pd } else { matrix(c, self.addresses[2], devices, batch, "c")? };
            let left: Vec<f64> =
                (0..m * k).map(|i| if self.transposed[0] { read(a, pa, i % k, i / k) } else { read(a, pa, i / k, i % k) }).collect();
            let right: Vec<f64> =
                (0..n * k).map(|i| if self.transposed[1] { read(b, pb, i / k, i % k) } else { read(b, pb, i % k, i / k) }).collect();
            for (j, column) in right.chunks(k as usize).enumerate() {
                for (i, row) in left.chunks(k as usize).enumerate() {
                    let sum = row.iter().zip(column).fold(0.0, |sum: f64, (x, y)| x.mul_add(*y, sum));
                    let old = if self.beta == 0.0 { 0.0 } else { self.beta * read(c, pc, i as u64, j as u64) };
                    let new = d.element.encode(self.alpha * sum + old);
                    // SAFETY: as above.
                    unsafe {
                        std::ptr::copy_nonoverlapping(new.as_ptr(), pd.offset(d.at(0, i as u64, j as u64) as isize * size as isize), size)
                    };
                }
            }
        }
        Ok(())
    }
}
