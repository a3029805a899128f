//! Products with at most 16 columns: one vector register holds a row of the result.

/// Whether [`product`] may run on this machine.
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Extents and strides (in elements) of `c = a b` or `c += a b`; `b` and `c` have column stride 1, `n` is at most 16.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    /// Rows of a and c.
    pub m: usize,
    /// Columns of b and c, 1 to 16.
    pub n: usize,
    /// Columns of a, rows of b.
    pub k: usize,
    /// Elements between rows of a.
    pub a_row: isize,
    /// Elements between columns of a.
    pub a_col: isize,
    /// Elements between rows of b.
    pub b_row: isize,
    /// Elements between rows of c.
    pub c_row: isize,
    /// Add to c.
    pub accumulate: bool,
}

/// Computes the product with AVX-512; every element sums over k in order, with fused multiply-add.
///
/// # Safety
/// [`available`] must be true; the pointers must be valid for all elements the strides reach, and `c` must overlap neither operand.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub unsafe fn product(s: Narrow, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: the caller vouches for every element the strides reach; masked lanes are not touched.
    unsafe {
        let mut row = 0;
        while row + 12 <= s.m {
            rows::<12>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 12;
        }
        while row + 4 <= s.m {
            rows::<4>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 4;
        }
        while row < s.m {
            rows::<1>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 1;
        }
    }
}

/// `R` rows of the result at once, so that enough independent sums are under way.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn rows<const R: usize>(s: Narrow, a: *const f32, b: *const f32, c: *mut f32) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps};
    let mask = ((1u32 << s.n) - 1) as u16;
    // SAFETY: as in `product`.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); R];
        if s.accumulate {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_maskz_loadu_ps(mask, c.offset(r as isize * s.c_row));
            }
        }
        let (mut at, mut bt) = (a, b);
        for _ in 0..s.k {
            let line = _mm512_maskz_loadu_ps(mask, bt);
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(*at.offset(r as isize * s.a_row)), line, *sum);
            }
            at = at.wrapping_offset(s.a_col);
            bt = bt.wrapping_offset(s.b_row);
        }
        for (r, sum) in sums.iter().enumerate() {
            _mm512_mask_storeu_ps(c.offset(r as isize * s.c_row), mask, *sum);
        }
    }
}
