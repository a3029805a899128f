//! Products of a matrix and a vector: nothing is packed, every element of the matrix is read once, in the order in which it lies in memory.
//!
//! How an element of the result is summed depends on the matrix's width alone, so neither the cut into units nor the number of threads changes bits.

use crate::simd::{Float, Level, Vector};

/// Rows that share what is read of the vector, where rows lie in memory one after another.
const ROWS: usize = 4;
/// Vectors of sums, where columns do.
const SUMS: usize = 4;

/// `c = A x` or `c += A x`: extents, and strides in elements. Rows or columns of A have unit stride; with rows, x has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatVec {
    /// Rows of A, elements of c.
    pub m: usize,
    /// Columns of A, elements of x.
    pub k: usize,
    /// Elements between rows of A.
    pub a_row: isize,
    /// Elements between columns of A.
    pub a_col: isize,
    /// Elements between elements of x.
    pub x: isize,
    /// Elements between elements of c.
    pub c: isize,
    /// Add to c.
    pub accumulate: bool,
}

impl MatVec {
    /// Whether [`product`] can run it.
    pub(crate) fn can_run(&self) -> bool {
        (self.a_col == 1 && self.x == 1) || self.a_row == 1
    }
}

/// Computes the product.
///
/// # Safety
/// [`MatVec::can_run`] must hold, the machine must have `level`'s instructions, the pointers must be valid for all elements the strides reach, and `c` must overlap neither operand.
pub(crate) unsafe fn product<T: Float>(level: Level, s: MatVec, a: *const T, x: *const T, c: *mut T) {
    // SAFETY: forwarded.
    unsafe {
        match level {
            Level::Plain => with::<T::Plain>(s, a, x, c),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => with_avx2::<T>(s, a, x, c),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2<T: Float>(s: MatVec, a: *const T, x: *const T, c: *mut T) {
    // SAFETY: forwarded.
    unsafe { with::<T::Avx2>(s, a, x, c) }
}

#[inline(always)]
unsafe fn with<V: Vector>(s: MatVec, a: *const V::Element, x: *const V::Element, c: *mut V::Element) {
    // SAFETY: forwarded; the parts of rows add up to `m`.
    unsafe {
        if s.a_col == 1 && s.x == 1 {
            let mut row = 0;
            while row + ROWS <= s.m {
                along_rows::<V, ROWS>(s, a.offset(row as isize * s.a_row), x, c.offset(row as isize * s.c));
                row += ROWS;
            }
            while row < s.m {
                along_rows::<V, 1>(s, a.offset(row as isize * s.a_row), x, c.offset(row as isize * s.c));
                row += 1;
            }
        } else {
            let mut row = 0;
            while row + SUMS * V::LANES <= s.m {
                along_columns::<V, SUMS>(s, SUMS * V::LANES, a.add(row), x, c.offset(row as isize * s.c));
                row += SUMS * V::LANES;
            }
            while row < s.m {
                let n = (s.m - row).min(V::LANES);
                along_columns::<V, 1>(s, n, a.add(row), x, c.offset(row as isize * s.c));
                row += n;
            }
        }
    }
}

/// `R` elements of c, each a sum along a row, in two vectors of partial sums.
#[inline(always)]
unsafe fn along_rows<V: Vector, const R: usize>(s: MatVec, a: *const V::Element, x: *const V::Element, c: *mut V::Element) {
    // SAFETY: the caller vouches for every element the strides reach; what is read last is cut to what is there.
    unsafe {
        let mut sums = [[V::splat(V::Element::ZERO); 2]; R];
        let (twice, mut p) = (2 * V::LANES, 0);
        while p + twice <= s.k {
            let (low, high) = (V::load(x.add(p)), V::load(x.add(p + V::LANES)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let at = a.offset(r as isize * s.a_row).add(p);
                sum[0] = sum[0].plus_product(V::load(at), low);
                sum[1] = sum[1].plus_product(V::load(at.add(V::LANES)), high);
            }
            p += twice;
        }
        while p < s.k {
            let n = (s.k - p).min(V::LANES);
            let part = V::load_first(x.add(p), n);
            for (r, sum) in sums.iter_mut().enumerate() {
                sum[0] = sum[0].plus_product(V::load_first(a.offset(r as isize * s.a_row).add(p), n), part);
            }
            p += n;
        }
        for (r, sum) in sums.iter().enumerate() {
            put(s, total(sum[0].add(sum[1])), c.offset(r as isize * s.c));
        }
    }
}

/// `n` elements of c side by side in `R` vectors, all lanes of all but the last of them full: columns of A, each times an element of x.
#[inline(always)]
unsafe fn along_columns<V: Vector, const R: usize>(s: MatVec, n: usize, a: *const V::Element, x: *const V::Element, c: *mut V::Element) {
    // SAFETY: as in `along_rows`.
    unsafe {
        let mut sums = [V::splat(V::Element::ZERO); R];
        let (mut column, mut at) = (a, x);
        if n == R * V::LANES {
            for _ in 0..s.k {
                let x = V::splat(*at);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.plus_product(V::load(column.add(r * V::LANES)), x);
                }
                (column, at) = (column.wrapping_offset(s.a_col), at.wrapping_offset(s.x));
            }
        } else {
            for _ in 0..s.k {
                let x = V::splat(*at);
                sums[0] = sums[0].plus_product(V::load_first(column, n), x);
                (column, at) = (column.wrapping_offset(s.a_col), at.wrapping_offset(s.x));
            }
        }
        let mut line = [V::Element::ZERO; 8];
        for (r, sum) in sums.iter().enumerate() {
            sum.store(line.as_mut_ptr());
            for (lane, &y) in line[..V::LANES.min(n - r * V::LANES)].iter().enumerate() {
                put(s, y, c.offset((r * V::LANES + lane) as isize * s.c));
            }
        }
    }
}

/// The sum of all lanes, in order.
#[inline(always)]
unsafe fn total<V: Vector>(v: V) -> V::Element {
    let mut line = [V::Element::ZERO; 8];
    // SAFETY: no vector has more lanes.
    unsafe { v.store(line.as_mut_ptr()) };
    let mut sum = V::Element::ZERO;
    line[..V::LANES].iter().for_each(|&y| sum += y);
    sum
}

#[inline(always)]
unsafe fn put<T: Float>(s: MatVec, y: T, to: *mut T) {
    // SAFETY: the caller vouches for the element.
    unsafe {
        if s.accumulate {
            *to += y;
        } else {
            *to = y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Float + Into<f64> + PartialEq + std::fmt::Debug>(from: fn(f64) -> T, tolerance: f64) {
        for (m, k) in [(1, 1), (1, 300), (4, 8), (5, 7), (63, 65), (16, 3), (37, 128), (130, 0)] {
            for rows in [true, false] {
                for (x_stride, c_stride, accumulate) in [(1, 1, false), (3, 2, true)] {
                    if rows && x_stride != 1 {
                        continue;
                    }
                    let a: Vec<T> = (0..m * k).map(|i| from((i * 37 % 101) as f64 / 64.0 - 0.7)).collect();
                    let x: Vec<T> = (0..k * x_stride + 1).map(|i| from((i * 53 % 97) as f64 / 64.0 - 0.6)).collect();
                    let (a_row, a_col) = if rows { (k as isize, 1) } else { (1, m as isize) };
                    let s = MatVec { m, k, a_row, a_col, x: x_stride as isize, c: c_stride as isize, accumulate };
                    assert!(s.can_run());
                    let run = |level, s: MatVec, first: usize| {
                        let mut c = vec![from(0.5); m * c_stride + 1];
                        // SAFETY: the vectors hold every element the strides reach.
                        unsafe {
                            product(level, s, a.as_ptr().offset(first as isize * a_row), x.as_ptr(), c.as_mut_ptr().add(first * c_stride))
                        };
                        c
                    };
                    for level in [Level::Plain, Level::best()] {
                        let c = run(level, s, 0);
                        for i in 0..m {
                            let at = |p: usize| -> f64 { a[(i as isize * a_row + p as isize * a_col) as usize].into() };
                            let exact: f64 = (0..k).map(|p| at(p) * Into::<f64>::into(x[p * x_stride])).sum::<f64>()
                                + if accumulate { 0.5 } else { 0.0 };
                            let got: f64 = c[i * c_stride].into();
                            assert!((got - exact).abs() <= tolerance * (1.0 + k as f64), "{m}x{k} at {i}: {got} and {exact}");
                        }
                        // What a part of the rows gives does not depend on the others.
                        for first in (0..m).step_by(16) {
                            let part = run(level, MatVec { m: (m - first).min(16), ..s }, first);
                            let end = (first + 16).min(m);
                            assert!((first..end).all(|i| part[i * c_stride] == c[i * c_stride]), "{m}x{k} from {first}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn products_are_right_whatever_the_layout() {
        check::<f32>(|x| x as f32, 1e-6);
        check::<f64>(|x| x, 1e-15);
    }
}
