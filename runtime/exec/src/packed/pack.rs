//! Packing: lanes of an operand side by side, step after step along k.

use super::tile::{self, Out, Place, Side};
use std::arch::x86_64::*;

/// What a lane holds, and the code that goes with it. All functions need the instructions of the product's kind.
pub(super) trait Lanes {
    /// Elements of the operands.
    type Element: Copy + Send + Sync;
    /// Elements along k in a lane.
    const PER: usize;
    /// Lanes `from..`, one element apart, at one step: `count` of them, at most 16; `pair` elements on lies the second element of each, if `both`.
    unsafe fn across(from: *const Self::Element, pair: isize, both: bool, count: usize) -> __m512i;
    /// One lane at up to 16 steps, `elements` elements in all.
    unsafe fn along(from: *const Self::Element, elements: usize) -> __m512i;
    /// One lane at one step.
    unsafe fn single(from: *const Self::Element, pair: isize, both: bool) -> u32;

    /// Packs `lanes` lanes, `strides[0]` elements apart, and `elements` elements along k, `strides[1]` apart, into steps of `width` lanes. Lanes that are missing are 0.
    unsafe fn pack(width: usize, to: *mut u32, from: *const Self::Element, strides: [isize; 2], lanes: usize, elements: usize);
    /// A tile of the result from a strip of the left operand and a panel of the right one.
    unsafe fn tile(rows: usize, depth: usize, a: Side, b: Side, out: Out, place: Place);
}

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= 16 { 0xFFFF } else { (1 << n) - 1 }
}

/// f32.
pub(super) struct Single;
/// Two bf16.
pub(super) struct Pairs;
/// bf16 made f32.
pub(super) struct Wide;

macro_rules! entry {
    ($features:literal, $paired:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn pack(width: usize, to: *mut u32, from: *const Self::Element, strides: [isize; 2], lanes: usize, elements: usize) {
            // SAFETY: forwarded.
            unsafe { pack::<Self>(width, to, from, strides, lanes, elements) }
        }
        #[target_feature(enable = $features)]
        unsafe fn tile(rows: usize, depth: usize, a: Side, b: Side, out: Out, place: Place) {
            // SAFETY: forwarded.
            unsafe { tile::tile::<$paired>(rows, depth, a, b, out, place) }
        }
    };
}

impl Lanes for Single {
    type Element = u32;
    const PER: usize = 1;
    #[inline(always)]
    unsafe fn across(from: *const u32, _: isize, _: bool, count: usize) -> __m512i {
        // SAFETY: lanes left out are not read.
        unsafe { _mm512_maskz_loadu_epi32(first(count), from.cast()) }
    }
    #[inline(always)]
    unsafe fn along(from: *const u32, elements: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_epi32(first(elements), from.cast()) }
    }
    #[inline(always)]
    unsafe fn single(from: *const u32, _: isize, _: bool) -> u32 {
        // SAFETY: the caller's element.
        unsafe { from.read_unaligned() }
    }
    entry!("avx512f,avx512bw,avx512vl", false);
}

impl Lanes for Pairs {
    type Element = u16;
    const PER: usize = 2;
    #[inline(always)]
    unsafe fn across(from: *const u16, pair: isize, both: bool, count: usize) -> __m512i {
        // SAFETY: lanes left out are not read.
        unsafe {
            let low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), from.cast()));
            let second = if both { count } else { 0 };
            let high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(second), from.wrapping_offset(pair).cast()));
            _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
        }
    }
    #[inline(always)]
    unsafe fn along(from: *const u16, elements: usize) -> __m512i {
        let mask = if elements >= 32 { u32::MAX } else { (1 << elements) - 1 };
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) }
    }
    #[inline(always)]
    unsafe fn single(from: *const u16, pair: isize, both: bool) -> u32 {
        // SAFETY: the caller's elements.
        unsafe { u32::from(*from) | if both { u32::from(*from.offset(pair)) << 16 } else { 0 } }
    }
    entry!("avx512f,avx512bw,avx512vl,avx512bf16", true);
}

impl Lanes for Wide {
    type Element = u16;
    const PER: usize = 1;
    #[inline(always)]
    unsafe fn across(from: *const u16, _: isize, _: bool, count: usize) -> __m512i {
        // SAFETY: lanes left out are not read.
        unsafe { _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), from.cast()))) }
    }
    #[inline(always)]
    unsafe fn along(from: *const u16, elements: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { Self::across(from, 0, false, elements) }
    }
    #[inline(always)]
    unsafe fn single(from: *const u16, _: isize, _: bool) -> u32 {
        // SAFETY: the caller's element.
        unsafe { u32::from(*from) << 16 }
    }
    entry!("avx512f,avx512bw,avx512vl", false);
}

#[inline(always)]
unsafe fn pack<L: Lanes>(width: usize, to: *mut u32, from: *const L::Element, [lane, step]: [isize; 2], lanes: usize, elements: usize) {
    let depth = elements.div_ceil(L::PER);
    for group in (0..width).step_by(16) {
        let wide = (width - group).min(16);
        let count = lanes.saturating_sub(group).min(wide);
        // SAFETY: the caller vouches for the source. A store of 16 lanes where a step has fewer reaches into the next step, which is written afterwards; the last ones are masked.
        unsafe {
            let (to, from) = (to.add(group), from.wrapping_offset(group as isize * lane));
            let put = |p: usize, v: __m512i| {
                let to = to.add(p * width);
                if wide == 16 || p + 1 < depth {
                    _mm512_storeu_si512(to.cast(), v)
                } else {
                    _mm512_mask_storeu_epi32(to.cast(), first(wide), v)
                }
            };
            if count == 0 {
                (0..depth).for_each(|p| put(p, _mm512_setzero_si512()));
            } else if lane == 1 {
                for p in 0..depth {
                    let at = p * L::PER;
                    put(p, L::across(from.offset(at as isize * step), step, at + 1 < elements, count));
                }
            } else if step == 1 {
                for p in (0..depth).step_by(16) {
                    let at = p * L::PER;
                    let mut block = [_mm512_setzero_si512(); 16];
                    for (l, row) in block.iter_mut().enumerate().take(count) {
                        *row = L::along(from.offset(l as isize * lane + at as isize), elements - at);
                    }
                    let block = transposed(block);
                    if p + 16 <= depth {
                        block.iter().enumerate().for_each(|(i, &row)| put(p + i, row));
                    } else {
                        block.iter().enumerate().take(depth - p).for_each(|(i, &row)| put(p + i, row));
                    }
                }
            } else {
                for p in 0..depth {
                    let at = p * L::PER;
                    for l in 0..wide {
                        let value = if l < count {
                            L::single(from.offset(l as isize * lane + at as isize * step), step, at + 1 < elements)
                        } else {
                            0
                        };
                        *to.add(p * width + l) = value;
                    }
                }
            }
        }
    }
}

/// 16 rows of 16 lanes, turned.
#[inline(always)]
pub(super) unsafe fn transposed(r: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: plain register operations, on a machine that has them.
    unsafe {
        let mut t = r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        let mut u = t;
        for i in 0..4 {
            for j in 0..2 {
                u[4 * i + 2 * j] = _mm512_unpacklo_epi64(t[4 * i + j], t[4 * i + 2 + j]);
                u[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(t[4 * i + j], t[4 * i + 2 + j]);
            }
        }
        // u[4 i + c] holds columns c, 4 + c, 8 + c, 12 + c of rows 4 i to 4 i + 3, a quarter each.
        let mut out = u;
        for c in 0..4 {
            let even = _mm512_shuffle_i32x4::<0x88>(u[c], u[4 + c]);
            let odd = _mm512_shuffle_i32x4::<0xDD>(u[c], u[4 + c]);
            let even_below = _mm512_shuffle_i32x4::<0x88>(u[8 + c], u[12 + c]);
            let odd_below = _mm512_shuffle_i32x4::<0xDD>(u[8 + c], u[12 + c]);
            out[c] = _mm512_shuffle_i32x4::<0x88>(even, even_below);
            out[8 + c] = _mm512_shuffle_i32x4::<0xDD>(even, even_below);
            out[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd, odd_below);
            out[12 + c] = _mm512_shuffle_i32x4::<0xDD>(odd, odd_below);
        }
        out
    }
}
