//! The upper triangle of a symmetric matrix from the lower one.

use super::pack::transposed;
use std::arch::x86_64::*;

/// Rows of one unit of work.
pub(super) const UNIT: usize = 64;
/// Side of the blocks that are turned in registers.
const SIDE: usize = 16;

macro_rules! mirror {
    ($name:ident, $element:ty, $load:expr, $store:expr) => {
        /// The part of the upper triangle whose columns are rows `UNIT * unit..` of the lower one. `row` elements lie between rows of the matrix, of `n` rows.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        pub(super) unsafe fn $name(unit: usize, n: usize, c: *mut $element, row: isize) {
            let end = ((unit + 1) * UNIT).min(n);
            for top in (unit * UNIT..end).step_by(SIDE) {
                let bottom = (top + SIDE).min(end);
                for left in (0..bottom).step_by(SIDE) {
                    // SAFETY: every element lies in the matrix.
                    unsafe {
                        if left + SIDE <= top && top + SIDE == bottom {
                            let mut block = [_mm512_setzero_si512(); SIDE];
                            for (i, line) in block.iter_mut().enumerate() {
                                *line = $load(c.offset((top + i) as isize * row).add(left));
                            }
                            for (j, line) in transposed(block).into_iter().enumerate() {
                                $store(c.offset((left + j) as isize * row).add(top), line);
                            }
                            continue;
                        }
                        for i in top..bottom {
                            for j in left..(left + SIDE).min(i) {
                                *c.offset(j as isize * row).add(i) = *c.offset(i as isize * row).add(j);
                            }
                        }
                    }
                }
            }
        }
    };
}

mirror!(f32, f32, |from: *mut f32| _mm512_loadu_si512(from.cast()), |to: *mut f32, x| _mm512_storeu_si512(to.cast(), x));
mirror!(bf16, u16, |from: *mut u16| _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())), |to: *mut u16, x| {
    _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(x))
});
