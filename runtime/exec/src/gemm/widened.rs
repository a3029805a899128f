//! Products of bf16 and f16 as products of f32: operands are copied to f32 beforehand, results are rounded afterwards.

use super::{Address, PreparedGemm, offsets};
use crate::pool::Pool;
use half::{bf16, f16};
use optc_abi::DType;
use optc_abi::plan::{BufRef, Gemm, MatRef};
use std::cell::Cell;

/// Elements of one unit of copying.
const UNIT: usize = 1 << 14;

/// A type of two bytes.
pub(super) trait Half: Copy + Send + Sync {
    fn wide(self) -> f32;
    fn rounded(x: f32) -> Self;
}

impl Half for bf16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }
    fn rounded(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

impl Half for f16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }
    fn rounded(x: f32) -> Self {
        f16::from_f32(x)
    }
}

/// A product of such a type, and the one of f32 that is run in its place.
#[derive(Clone, Debug)]
pub(super) struct Widened {
    call: Gemm,
    wide: PreparedGemm,
}

thread_local! {
    /// Copies of a, b and c, taken while in use and kept from product to product.
    static SPACE: Cell<[Vec<f32>; 3]> = const { Cell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

impl Widened {
    pub fn new(call: &Gemm, prepare: &dyn Fn(&Gemm) -> PreparedGemm) -> Self {
        let (m, n, k) = (call.m as i64, call.n as i64, call.k as i64);
        // Copies are dense and keep the order of rows and columns; matrices that all batches share are one.
        let dense = |of: &MatRef, rows: i64, cols: i64| {
            let (row_stride, col_stride) = if of.row_stride == 1 && of.col_stride != 1 { (1, rows) } else { (cols, 1) };
            let mut next = rows * cols;
            let mut batch_strides = vec![0; call.batch.len()];
            for axis in (0..call.batch.len()).rev() {
                if of.batch_strides[axis] != 0 {
                    batch_strides[axis] = next;
                    next *= call.batch[axis] as i64;
                }
            }
            MatRef { data: BufRef::whole(0), row_stride, col_stride, batch_strides }
        };
        let (a, b, c) = (dense(&call.a, m, k), dense(&call.b, k, n), dense(&call.c, m, n));
        let wide = prepare(&Gemm { dtype: DType::F32, a, b, c, ..call.clone() });
        Widened { call: call.clone(), wide }
    }

    /// Runs it.
    ///
    /// # Safety
    /// As for [`PreparedGemm::run`]; the type is the product's.
    pub unsafe fn run<T: Half>(&self, pool: &Pool, a: *const T, b: *const T, c: *mut T) {
        let (narrow, wide) = (&self.call, &self.wide.call);
        let mut space = SPACE.take();
        let mut addresses = Vec::new();
        for (space, (of, rows, cols)) in
            space.iter_mut().zip([(&wide.a, wide.m, wide.k), (&wide.b, wide.k, wide.n), (&wide.c, wide.m, wide.n)])
        {
            let shared: usize = of.batch_strides.iter().zip(&wide.batch).filter(|(s, _)| **s != 0).map(|(_, n)| n).product();
            space.resize(space.len().max(shared * rows * cols), 0.0);
            addresses.push(Address(space.as_mut_ptr()));
        }
        let narrow_c = Address(c);
        let (from_a, from_b) = (Address(a.cast_mut()), Address(b.cast_mut()));
        // SAFETY: the caller vouches for every element the strides reach; the copies have room for theirs.
        unsafe {
            let widen = |x: *mut T, to: *mut f32| *to = (*x).wide();
            each(pool, narrow, [&narrow.a, &wide.a], [narrow.m, narrow.k], &from_a, &addresses[0], &widen);
            each(pool, narrow, [&narrow.b, &wide.b], [narrow.k, narrow.n], &from_b, &addresses[1], &widen);
            if narrow.accumulate {
                each(pool, narrow, [&narrow.c, &wide.c], [narrow.m, narrow.n], &narrow_c, &addresses[2], &widen);
            }
            self.wide.run(pool, addresses[0].0.cast(), addresses[1].0.cast(), addresses[2].0.cast());
            let round = |x: *mut T, from: *mut f32| *x = T::rounded(*from);
            each(pool, narrow, [&narrow.c, &wide.c], [narrow.m, narrow.n], &narrow_c, &addresses[2], &round);
        }
        SPACE.set(space);
    }
}

/// Calls `move_one` on every element of an operand of the product in both layouts, those of shared matrices once.
unsafe fn each<T: Half>(
    pool: &Pool,
    call: &Gemm,
    [narrow, wide]: [&MatRef; 2],
    [rows, cols]: [usize; 2],
    x: &Address<T>,
    y: &Address<f32>,
    move_one: &(impl Fn(*mut T, *mut f32) + Sync),
) {
    // The same batches, as steps over both layouts.
    let mut both = call.clone();
    both.a.batch_strides = narrow.batch_strides.clone();
    both.b.batch_strides = wide.batch_strides.clone();
    let shared: Vec<usize> = call.batch.iter().zip(&wide.batch_strides).map(|(&n, &s)| if s == 0 { 1 } else { n }).collect();
    both.batch = shared;
    let matrices: usize = both.batch.iter().product();
    // The inner loop runs where the layout is contiguous.
    let turned = narrow.row_stride == 1 && narrow.col_stride != 1;
    let (outer, inner) = if turned { (cols, rows) } else { (rows, cols) };
    let (x_steps, y_steps) = ((narrow.row_stride, narrow.col_stride), (wide.row_stride, wide.col_stride));
    let order = |(row, col): (i64, i64)| if turned { (col as isize, row as isize) } else { (row as isize, col as isize) };
    let ((xo, xi), (yo, yi)) = (order(x_steps), order(y_steps));
    let lines = (UNIT / inner.max(1)).clamp(1, outer.max(1));
    let parts = outer.div_ceil(lines);
    pool.run(matrices * parts, &|unit| {
        let [ix, iy, _] = offsets(&both, unit / parts);
        let first = unit % parts * lines;
        for o in first..(first + lines).min(outer) {
            for i in 0..inner as isize {
                // SAFETY: both layouts have this element.
                unsafe { move_one(x.at(ix + o as isize * xo + i * xi), y.at(iy + o as isize * yo + i * yi)) };
            }
        }
    });
}
