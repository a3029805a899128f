//! Tiles of the result: up to 12 rows of 32 columns, their sums in registers.

use std::arch::x86_64::*;

/// What is done with the sums of a tile.
#[derive(Clone, Copy)]
pub(super) struct Out {
    /// Add the f32 that are at the place.
    pub add: bool,
    /// Round to bf16.
    pub round: bool,
    /// Add the bf16 that are at the place before rounding.
    pub keep: bool,
    /// Columns that count.
    pub cols: usize,
}

/// Where a tile's sums are in f32, and where as bf16.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub sums: *mut f32,
    pub sums_row: isize,
    pub narrow: *mut u16,
    pub narrow_row: isize,
}

/// An operand of tiles: lanes of 32 bits, packed or as they lie in memory.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub from: *const u32,
    /// Lanes between rows of the left operand; the right one's columns are neighbors.
    pub lane: isize,
    /// Lanes between steps.
    pub step: isize,
}

/// Rows in blocks whose length the compiler knows.
#[inline(always)]
pub(super) unsafe fn tile<const PAIRED: bool>(rows: usize, depth: usize, a: Side, b: Side, out: Out, place: Place) {
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        // SAFETY: forwarded.
        unsafe {
            let a = Side { from: a.from.wrapping_offset(row as isize * a.lane), ..a };
            let place = Place {
                sums: place.sums.wrapping_offset(row as isize * place.sums_row),
                narrow: place.narrow.wrapping_offset(row as isize * place.narrow_row),
                ..place
            };
            row += match left {
                12.. => rows_of::<12, PAIRED>(depth, a, b, out, place),
                8.. => rows_of::<8, PAIRED>(depth, a, b, out, place),
                4.. => rows_of::<4, PAIRED>(depth, a, b, out, place),
                2.. => rows_of::<2, PAIRED>(depth, a, b, out, place),
                _ => rows_of::<1, PAIRED>(depth, a, b, out, place),
            };
        }
    }
}

#[inline(always)]
unsafe fn rows_of<const R: usize, const PAIRED: bool>(depth: usize, a: Side, b: Side, out: Out, place: Place) -> usize {
    // SAFETY: forwarded.
    unsafe { if out.cols > 16 { block::<R, 2, PAIRED>(depth, a, b, out, place) } else { block::<R, 1, PAIRED>(depth, a, b, out, place) } }
    R
}

#[inline(always)]
unsafe fn block<const R: usize, const V: usize, const PAIRED: bool>(depth: usize, a: Side, b: Side, out: Out, place: Place) {
    // SAFETY: the strip and the panel have `depth` steps; the caller vouches for the places.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        let (mut at, mut bt) = (a.from, b.from);
        for _ in 0..depth {
            let mut line = [_mm512_setzero_si512(); V];
            for (v, x) in line.iter_mut().enumerate() {
                *x = _mm512_loadu_si512(bt.add(16 * v).cast());
            }
            for (r, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(at.offset(r as isize * a.lane).read_unaligned() as i32);
                for v in 0..V {
                    sum[v] = if PAIRED {
                        _mm512_dpbf16_ps(
                            sum[v],
                            std::mem::transmute::<__m512i, __m512bh>(x),
                            std::mem::transmute::<__m512i, __m512bh>(line[v]),
                        )
                    } else {
                        _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(line[v]), sum[v])
                    };
                }
            }
            at = at.wrapping_offset(a.step);
            bt = bt.wrapping_offset(b.step);
        }
        for (r, sum) in sums.iter().enumerate() {
            for (v, &sum) in sum.iter().enumerate() {
                let left = out.cols - 16 * v;
                let mask: __mmask16 = if left >= 16 { 0xFFFF } else { (1 << left) - 1 };
                let to = place.sums.wrapping_offset(r as isize * place.sums_row + 16 * v as isize);
                let mut sum = if out.add { _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to)) } else { sum };
                if !out.round {
                    if left >= 16 {
                        _mm512_storeu_ps(to, sum)
                    } else {
                        _mm512_mask_storeu_ps(to, mask, sum)
                    }
                    continue;
                }
                let to = place.narrow.wrapping_offset(r as isize * place.narrow_row + 16 * v as isize);
                if out.keep {
                    let old = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, to.cast())));
                    sum = _mm512_add_ps(sum, _mm512_castsi512_ps(old));
                }
                let rounded = rounded(sum);
                if left >= 16 { _mm256_storeu_si256(to.cast(), rounded) } else { _mm256_mask_storeu_epi16(to.cast(), mask, rounded) }
            }
        }
    }
}

/// f32 rounded to the nearest bf16, to even in the middle; NaN stays NaN.
#[inline(always)]
unsafe fn rounded(x: __m512) -> __m256i {
    // SAFETY: plain register operations, on a machine that has them.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, up, quiet)))
    }
}
