//! Matrix products through the `gemm` crate, cut into units by shape.

use crate::matvec::{self, MatVec};
use crate::narrow::{self, Level, Narrow, WIDTH};
use crate::pool::Pool;
use crate::simd::{self, Float};
use gemm::Parallelism;
use optc_abi::DType;
use optc_abi::plan::Gemm;

/// Multiply-adds below which a product is one unit: handing it to another thread would cost more than it saves.
const UNIT_WORK: usize = 1 << 20;
/// Multiply-adds up to which products of any width go to [`narrow`], which packs nothing.
const NARROW_WORK: usize = 1 << 17;
/// Rows or columns of one unit of a large product, a multiple of every micro-kernel's tile.
const UNIT_SIDE: usize = 96;

/// A matrix product prepared for running: how it is cut depends on its shape only.
#[derive(Clone, Debug)]
pub struct PreparedGemm {
    call: Gemm,
    batches: usize,
    /// Units along rows and columns of one product, and products per unit.
    row_parts: usize,
    col_parts: usize,
    group: usize,
    /// Small enough, in the right layout, for the kernels of [`narrow`].
    narrow: Option<Level>,
    /// A matrix times a vector, in a layout [`matvec`] can run.
    vector: Option<simd::Level>,
}

impl PreparedGemm {
    /// Decides how the product is cut.
    pub fn new(call: &Gemm) -> Self {
        let batches = call.batch.iter().product();
        let work = call.m * call.n * call.k;
        let (mut row_parts, mut col_parts, mut group) = (1, 1, 1);
        if batches > 1 {
            group = (UNIT_WORK / work.max(1)).clamp(1, batches);
        } else if work >= 2 * UNIT_WORK {
            let wanted = (work / UNIT_WORK).min(8);
            if call.m >= call.n {
                row_parts = (call.m / UNIT_SIDE).clamp(1, wanted);
            } else {
                col_parts = (call.n / UNIT_SIDE).clamp(1, wanted);
            }
        }
        let fits = call.dtype == DType::F32 && call.n > 0 && call.c.col_stride == 1 && (call.n <= WIDTH || work <= NARROW_WORK);
        let b_col = call.b.col_stride as isize;
        let narrow = narrow::level().filter(|&level| fits && narrow::can_run(level, call.n, call.k, b_col));
        let vector = as_matvec(call, call.m, call.n).filter(MatVec::can_run).map(|_| simd::Level::best());
        PreparedGemm { call: call.clone(), batches, row_parts, col_parts, group, narrow, vector }
    }

    /// Runs it.
    ///
    /// # Safety
    /// The pointers must be valid for every element the strides of the call reach, and `c` must overlap neither operand.
    pub unsafe fn run(&self, pool: &Pool, a: *const u8, b: *const u8, c: *mut u8) {
        match self.call.dtype {
            // SAFETY: forwarded.
            DType::F64 => unsafe { self.run_typed::<f64>(pool, a.cast(), b.cast(), c.cast(), 1.0, 0.0) },
            // SAFETY: forwarded.
            _ => unsafe { self.run_typed::<f32>(pool, a.cast(), b.cast(), c.cast(), 1.0, 0.0) },
        }
    }

    unsafe fn run_typed<T: Float>(&self, pool: &Pool, a: *const T, b: *const T, c: *mut T, one: T, zero: T) {
        let g = &self.call;
        let (a, b, c) = (Address(a.cast_mut()), Address(b.cast_mut()), Address(c));
        let groups = self.batches.div_ceil(self.group);
        let units = groups * self.row_parts * self.col_parts;
        let alpha = if g.accumulate { one } else { zero };
        let unit = |unit: usize| {
            let (group, part) = (unit / (self.row_parts * self.col_parts), unit % (self.row_parts * self.col_parts));
            let (rows, cols) = (cut(g.m, self.row_parts, part / self.col_parts), cut(g.n, self.col_parts, part % self.col_parts));
            for batch in group * self.group..((group + 1) * self.group).min(self.batches) {
                let (mut ia, mut ib, mut ic) = (0isize, 0isize, 0isize);
                let mut rest = batch;
                for axis in (0..g.batch.len()).rev() {
                    let i = (rest % g.batch[axis]) as isize;
                    rest /= g.batch[axis];
                    ia += i * g.a.batch_strides[axis] as isize;
                    ib += i * g.b.batch_strides[axis] as isize;
                    ic += i * g.c.batch_strides[axis] as isize;
                }
                ia += rows.0 as isize * g.a.row_stride as isize;
                ib += cols.0 as isize * g.b.col_stride as isize;
                ic += rows.0 as isize * g.c.row_stride as isize + cols.0 as isize * g.c.col_stride as isize;
                if let Some(level) = self.vector
                    && let Some(part) = as_matvec(g, rows.1, cols.1)
                {
                    // SAFETY: as below.
                    unsafe {
                        let (a, b) = (a.at(ia), b.at(ib));
                        let (matrix, vector) = if g.n == 1 { (a, b) } else { (b, a) };
                        matvec::product(level, part, matrix, vector, c.at(ic));
                    }
                    continue;
                }
                #[cfg(target_arch = "x86_64")]
                if let Some(level) = self.narrow {
                    let shape = Narrow {
                        m: rows.1,
                        n: cols.1,
                        k: g.k,
                        a_row: g.a.row_stride as isize,
                        a_col: g.a.col_stride as isize,
                        b_row: g.b.row_stride as isize,
                        b_col: g.b.col_stride as isize,
                        c_row: g.c.row_stride as isize,
                        accumulate: g.accumulate,
                    };
                    // SAFETY: as below; `narrow` is set for f32 on machines that have the instructions.
                    unsafe { narrow::product(level, shape, a.at(ia).cast::<f32>(), b.at(ib).cast::<f32>(), c.at(ic).cast::<f32>()) };
                    continue;
                }
                // SAFETY: the caller vouches for all elements the strides reach; units write disjoint parts of `c`.
                unsafe {
                    gemm::gemm(
                        rows.1,
                        cols.1,
                        g.k,
                        c.at(ic),
                        g.c.col_stride as isize,
                        g.c.row_stride as isize,
                        g.accumulate,
                        a.at(ia),
                        g.a.col_stride as isize,
                        g.a.row_stride as isize,
                        b.at(ib),
                        g.b.col_stride as isize,
                        g.b.row_stride as isize,
                        alpha,
                        one,
                        false,
                        false,
                        false,
                        Parallelism::None,
                    )
                }
            }
        };
        pool.run(units, &unit);
    }
}

/// `rows` rows and `cols` columns of a product of which one extent is 1, as a matrix times a vector.
fn as_matvec(g: &Gemm, rows: usize, cols: usize) -> Option<MatVec> {
    let (k, accumulate) = (g.k, g.accumulate);
    let stride = |s: i64| s as isize;
    if g.n == 1 {
        let (a_row, a_col) = (stride(g.a.row_stride), stride(g.a.col_stride));
        Some(MatVec { m: rows, k, a_row, a_col, x: stride(g.b.row_stride), c: stride(g.c.row_stride), accumulate })
    } else if g.m == 1 {
        // c' = b' a'
        let (a_row, a_col) = (stride(g.b.col_stride), stride(g.b.row_stride));
        Some(MatVec { m: cols, k, a_row, a_col, x: stride(g.a.col_stride), c: stride(g.c.col_stride), accumulate })
    } else {
        None
    }
}

/// Start and length of part `part` of `parts` of `n`, cut at multiples of 16.
fn cut(n: usize, parts: usize, part: usize) -> (usize, usize) {
    let side = n.div_ceil(parts).next_multiple_of(16);
    let start = (part * side).min(n);
    (start, side.min(n - start))
}

/// An address that may be sent to the pool's threads; its users write disjoint elements.
pub(crate) struct Address<T>(pub *mut T);
// SAFETY: only an address; whoever dereferences it keeps accesses disjoint.
unsafe impl<T> Send for Address<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Address<T> {}
impl<T> Address<T> {
    /// The address of the element `i` places on.
    ///
    /// # Safety
    /// As for `pointer::offset`.
    pub(crate) unsafe fn at(&self, i: isize) -> *mut T {
        // SAFETY: forwarded.
        unsafe { self.0.offset(i) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::plan::{BufRef, MatRef};

    fn mat(row: i64, col: i64, batch: &[i64]) -> MatRef {
        MatRef { data: BufRef::whole(0), row_stride: row, col_stride: col, batch_strides: batch.to_vec() }
    }

    fn check(m: usize, n: usize, k: usize, batch: usize, a_transposed: bool) {
        check_with(m, n, k, batch, a_transposed, false);
        check_with(m, n, k, batch, a_transposed, true);
    }

    fn check_with(m: usize, n: usize, k: usize, batch: usize, a_transposed: bool, b_transposed: bool) {
        let a: Vec<f32> = (0..batch * m * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| ((i * 53 % 97) as f32 - 48.0) / 64.0).collect();
        let (mk, mn) = ((m * k) as i64, (m * n) as i64);
        let lhs = if a_transposed { mat(1, m as i64, &[mk]) } else { mat(k as i64, 1, &[mk]) };
        let batches = if batch > 1 { vec![batch] } else { vec![] };
        let keep = |mut r: MatRef| {
            r.batch_strides.truncate(batches.len());
            r
        };
        let call = Gemm {
            dtype: DType::F32,
            m,
            n,
            k,
            batch: batches.clone(),
            a: keep(lhs),
            b: keep(if b_transposed { mat(1, k as i64, &[0]) } else { mat(n as i64, 1, &[0]) }),
            c: keep(mat(n as i64, 1, &[mn])),
            accumulate: false,
        };
        let mut results = Vec::new();
        for threads in [1, 2, 3] {
            let mut c = vec![f32::NAN; batch * m * n];
            // SAFETY: the vectors hold every element the strides reach.
            unsafe { PreparedGemm::new(&call).run(&Pool::new(threads), a.as_ptr().cast(), b.as_ptr().cast(), c.as_mut_ptr().cast()) };
            results.push(c);
        }
        assert!(results[1..].iter().all(|c| c.iter().zip(&results[0]).all(|(x, y)| x.to_bits() == y.to_bits())), "threads change bits");
        for (z, i, j) in [(0, 0, 0), (batch - 1, m - 1, n - 1), (0, m / 2, n / 3)] {
            let at = |p: usize| if a_transposed { a[z * m * k + p * m + i] } else { a[z * m * k + i * k + p] };
            let exact: f64 = (0..k).map(|p| f64::from(at(p)) * f64::from(if b_transposed { b[j * k + p] } else { b[p * n + j] })).sum();
            let got = f64::from(results[0][z * m * n + i * n + j]);
            assert!((got - exact).abs() <= 1e-5 * (k as f64).sqrt(), "{m}x{n}x{k}: {got} and {exact}");
        }
    }

    #[test]
    fn products_are_right_and_independent_of_threads() {
        check(3, 5, 7, 1, false);
        check(1, 1, 1, 1, false);
        check(300, 200, 150, 1, false);
        check(129, 513, 65, 1, true);
        check(64, 10, 32, 1, true);
        check(31, 16, 32, 1, false);
        check(13, 1, 5, 3, true);
        check(33, 17, 9, 40, false);
        check(64, 32, 64, 1, true);
        check(64, 10, 300, 1, false);
        check(7, 3, 5, 1, false);
    }
}
