//! Small products with result rows of unit stride: sixteen columns at a time, their sums in registers, without packing or blocking.
//!
//! Every element sums over k in order with fused multiply-add, so both versions (AVX-512, AVX2) give the same bits.

/// Instructions this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX-512F.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
}

/// The best version [`product`] can run here, if any.
pub fn level() -> Option<Level> {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return Some(Level::Avx512);
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return Some(Level::Avx2);
        }
    }
    None
}

/// Columns of one pass: a vector register of AVX-512, two of AVX2.
pub const WIDTH: usize = 16;
/// Rows of b up to which a column block that is not dense may be copied.
const MAX_COPIED: usize = 256;

/// Whether [`product`] can run a product of `n` columns, `k` rows of b and this column stride of b: blocks of b that are copied must fit.
pub fn can_run(level: Level, n: usize, k: usize, b_col: isize) -> bool {
    k <= MAX_COPIED || b_col == 1 && (level == Level::Avx512 || n.is_multiple_of(WIDTH))
}

/// Extents and strides (in elements) of `c = a b` or `c += a b`; `c` has column stride 1.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    /// Rows of a and c.
    pub m: usize,
    /// Columns of b and c.
    pub n: usize,
    /// Columns of a, rows of b; see [`can_run`] for its limit.
    pub k: usize,
    /// Elements between rows of a.
    pub a_row: isize,
    /// Elements between columns of a.
    pub a_col: isize,
    /// Elements between rows of b.
    pub b_row: isize,
    /// Elements between columns of b.
    pub b_col: isize,
    /// Elements between rows of c.
    pub c_row: isize,
    /// Add to c.
    pub accumulate: bool,
}

/// Computes the product.
///
/// # Safety
/// [`can_run`] must hold and the machine must have `level`'s instructions; the pointers must be valid for all elements the strides reach, and `c` must overlap neither
/// operand.
#[cfg(target_arch = "x86_64")]
pub unsafe fn product(level: Level, s: Narrow, a: *const f32, b: *const f32, c: *mut f32) {
    let mut space = std::mem::MaybeUninit::<[f32; MAX_COPIED * WIDTH]>::uninit();
    let copy = space.as_mut_ptr().cast::<f32>();
    for first in (0..s.n).step_by(WIDTH) {
        let mut block = Narrow { n: (s.n - first).min(WIDTH), ..s };
        // SAFETY: the caller vouches for every element the strides reach.
        unsafe {
            let mut from = b.offset(first as isize * s.b_col);
            // Dense rows of full width are read in place; others are copied side by side once, with zeros to full width.
            if s.b_col != 1 || (block.n < WIDTH && level == Level::Avx2) {
                for p in 0..s.k {
                    let (line, row) = (copy.add(p * WIDTH), from.offset(p as isize * s.b_row));
                    for j in 0..block.n {
                        *line.add(j) = *row.offset(j as isize * s.b_col);
                    }
                    for j in block.n..WIDTH {
                        *line.add(j) = 0.0;
                    }
                }
                from = copy;
                block.b_row = WIDTH as isize;
            }
            match level {
                Level::Avx512 => wide512(block, a, from, c.add(first)),
                Level::Avx2 => wide256(block, a, from, c.add(first)),
            }
        }
    }
}

/// At most 16 columns with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn wide512(s: Narrow, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: the caller vouches for every element the strides reach; masked lanes are not touched.
    unsafe {
        let mut row = 0;
        while row + 12 <= s.m {
            rows512::<12>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 12;
        }
        while row + 4 <= s.m {
            rows512::<4>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 4;
        }
        while row < s.m {
            rows512::<1>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 1;
        }
    }
}

/// `R` rows of the result at once, so that enough independent sums are under way.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn rows512<const R: usize>(s: Narrow, a: *const f32, b: *const f32, c: *mut f32) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps};
    let mask = ((1u32 << s.n) - 1) as u16;
    // SAFETY: as in `wide512`.
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

/// At most 16 columns with AVX2; rows of b are 16 wide in memory.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn wide256(s: Narrow, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: the caller vouches for every element the strides reach.
    unsafe {
        let mut row = 0;
        while row + 6 <= s.m {
            rows256::<6>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 6;
        }
        while row + 2 <= s.m {
            rows256::<2>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 2;
        }
        while row < s.m {
            rows256::<1>(s, a.offset(row as isize * s.a_row), b, c.offset(row as isize * s.c_row));
            row += 1;
        }
    }
}

/// `R` rows of the result in two registers each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn rows256<const R: usize>(s: Narrow, a: *const f32, b: *const f32, c: *mut f32) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    // SAFETY: as in `wide256`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        if s.accumulate {
            for (r, sum) in sums.iter_mut().enumerate() {
                let from = c.offset(r as isize * s.c_row);
                let mut line = [0f32; WIDTH];
                std::ptr::copy_nonoverlapping(from, line.as_mut_ptr(), s.n);
                *sum = [_mm256_loadu_ps(line.as_ptr()), _mm256_loadu_ps(line.as_ptr().add(8))];
            }
        }
        let (mut at, mut bt) = (a, b);
        let low_only = s.n <= 8;
        if low_only {
            for _ in 0..s.k {
                let line = _mm256_loadu_ps(bt);
                for (r, sum) in sums.iter_mut().enumerate() {
                    sum[0] = _mm256_fmadd_ps(_mm256_set1_ps(*at.offset(r as isize * s.a_row)), line, sum[0]);
                }
                at = at.wrapping_offset(s.a_col);
                bt = bt.wrapping_offset(s.b_row);
            }
        } else {
            for _ in 0..s.k {
                let line = [_mm256_loadu_ps(bt), _mm256_loadu_ps(bt.add(8))];
                for (r, sum) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*at.offset(r as isize * s.a_row));
                    sum[0] = _mm256_fmadd_ps(x, line[0], sum[0]);
                    sum[1] = _mm256_fmadd_ps(x, line[1], sum[1]);
                }
                at = at.wrapping_offset(s.a_col);
                bt = bt.wrapping_offset(s.b_row);
            }
        }
        for (r, sum) in sums.iter().enumerate() {
            let to = c.offset(r as isize * s.c_row);
            if s.n == WIDTH {
                _mm256_storeu_ps(to, sum[0]);
                _mm256_storeu_ps(to.add(8), sum[1]);
            } else {
                store_part(to, *sum, s.n);
            }
        }
    }
}

/// Stores the first `n` of 16 lanes, in pieces of 8, 4, 2 and 1.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn store_part(mut to: *mut f32, sum: [std::arch::x86_64::__m256; 2], n: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's row has `n` elements.
    unsafe {
        let mut rest = sum[0];
        if n >= 8 {
            _mm256_storeu_ps(to, rest);
            to = to.add(8);
            rest = sum[1];
        }
        let mut half = _mm256_castps256_ps128(rest);
        if n & 4 != 0 {
            _mm_storeu_ps(to, half);
            to = to.add(4);
            half = _mm256_extractf128_ps::<1>(rest);
        }
        if n & 2 != 0 {
            _mm_store_sd(to.cast(), _mm_castps_pd(half));
            to = to.add(2);
            half = _mm_movehl_ps(half, half);
        }
        if n & 1 != 0 {
            _mm_store_ss(to, half);
        }
    }
}
