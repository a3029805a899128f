//! Block-quantized arrays: one byte per element and one f32 scale, the largest magnitude, per block.
//!
//! A code `c` (0 to 127 beside a sign, 0 to 255 without one) stands for `scale * V(c) / V(most)` with `V(c) = 2^e (1 + m / 8) - 1`, where `m` are its last three
//! bits and `e` the bits above: a float of three bits behind the point, moved so that the smallest is 0. Magnitudes from the scale down to 1.6e-5 of it (without a sign 2.5e-10) are
//! known to 3 to 6 %, below they go linearly to 0. So the second moments of Adam, which are squares, reach as far as the first ones: where they did not, a small first moment would be
//! divided by a second one that was rounded to 0. `V(c) + 1` is a float whose bits are those of 1 and `c` further up: coding is a multiplication, an addition and a shift of these bits, and so is
//! decoding. A byte holds `c`, negated (as an `i8`) for numbers below 0.
//!
//! `V` is linear between neighboring codes, so that rounding the place of a number between them is rounding the number: to the nearest one, or to one of
//! the two with the probability that makes the mean exact. What is drawn for that is one number per block, from a hash; elements of the block take it shifted digit by digit (a digital net in base 2
//! under a random shift). So each element's draw is uniform on multiples of 2^-20 of a step between codes, blocks are independent, and within a block the draws are spread evenly rather than independent:
//! 256 of them fall into each 256th once, which makes errors of sums smaller.

use crate::cx::Cx;
use crate::dim::Dim;
use crate::value::Array;
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::ReduceOp;

/// Vector loops work on this many elements at once; blocks are a multiple of it where the size allows, and draws for rounding are spread over as many.
const LANES: usize = 16;
/// Bits of an f32's significand that a code does not have.
const DROPPED: u32 = 20;
/// The bits of 1.0.
const ONE: i32 = 127 << 23;
/// Below this scale a block is stored as zeros: factors would leave the range of f32.
const LEAST_SCALE: f64 = 1e-28;

/// The format of a block-quantized array, `q8(block = 256, signed = true, rounding = nearest)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantized {
    /// The most elements that share a scale.
    pub block: usize,
    /// Whether numbers below 0 can be stored.
    pub signed: bool,
    /// Whether numbers between two codes are rounded to one of them at random; else to the nearest one.
    pub stochastic: bool,
}

/// How an array is cut into blocks of equal size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// How many.
    pub count: usize,
    /// Elements of each.
    pub size: usize,
}

/// An array as it is stored: codes, and the scales of the blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// `u8` of the array's shape; flat where the last block is filled up.
    pub codes: Array,
    /// `f32[count]`
    pub scales: Array,
}

impl std::fmt::Display for Quantized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.signed { "" } else { ", signed = false" };
        let rounding = if self.stochastic { ", rounding = stochastic" } else { "" };
        write!(f, "q8(block = {}{sign}{rounding})", self.block)
    }
}

impl Quantized {
    /// The blocks of an array of `n` elements: consecutive runs in row-major order, of equal size. Their size is the largest divisor of `n` between half of
    /// `block` and `block`, a multiple of 16 if there is one; without such a divisor the last block of `block` elements is filled up with zeros.
    pub fn blocks(&self, n: usize) -> Blocks {
        if n <= self.block {
            return Blocks { count: 1, size: n };
        }
        let fits = |step: usize| (self.block.div_ceil(2)..=self.block).rev().find(|&b| n.is_multiple_of(b) && b.is_multiple_of(step));
        match fits(LANES).or_else(|| fits(1)) {
            Some(size) => Blocks { count: n / size, size },
            None => Blocks { count: n.div_ceil(self.block), size: self.block },
        }
    }

    /// The largest code.
    pub fn most(&self) -> u32 {
        if self.signed { 127 } else { 255 }
    }

    /// What a code stands for, where the scale is 1.
    pub fn value(&self, code: u32) -> f64 {
        raw_value(code) / raw_value(self.most())
    }
}

/// `V` of a code.
fn raw_value(code: u32) -> f64 {
    2f64.powi((code >> 3) as i32) * (1.0 + f64::from(code & 7) / 8.0) - 1.0
}

fn elements(shape: &[Dim]) -> usize {
    shape.iter().map(|d| usize::try_from(d.known().expect("sizes are known while lowering")).expect("a size is not negative")).product()
}

/// `x` as `[count, size]`, filled up with zeros.
fn cut(cx: &mut Cx, x: &Array, blocks: Blocks) -> Array {
    let (n, whole) = (elements(&x.shape), blocks.count * blocks.size);
    let rows = [Dim::from(blocks.count), Dim::from(blocks.size)];
    if n == whole {
        return cx.reshaped(x, &rows);
    }
    let flat = cx.reshaped(x, &[Dim::from(n)]);
    let zero = cx.scalar(x.dtype, 0.0);
    let full = cx.padded(&flat, &zero, &[Dim::zero()], &[Dim::from(whole - n)]);
    cx.reshaped(&full, &rows)
}

/// The shape codes are stored in.
fn code_shape(shape: &[Dim], blocks: Blocks) -> Vec<Dim> {
    let whole = blocks.count * blocks.size;
    if elements(shape) == whole { shape.to_vec() } else { vec![Dim::from(whole)] }
}

/// Stores f32 numbers. `key` is what random rounding depends on, `u32[2]`; without it numbers are rounded to the nearest. Negative numbers are 0 in a format without
/// a sign. A block that holds a NaN or an infinity reads as NaN, whatever its codes, one whose largest magnitude is below 1e-28 as zeros.
pub fn quantize(cx: &mut Cx, q: &Quantized, x: &Array, key: Option<&Array>) -> Stored {
    if !cx.emitting() {
        let unknown = Array { dtype: DType::U8, ..x.clone() };
        return Stored { codes: unknown, scales: Array { dtype: DType::F32, shape: vec![cx.fresh_symbol("?")], weak: false, node: None } };
    }
    let blocks = q.blocks(elements(&x.shape));
    let x = cx.convert(x, DType::F32);
    let rows = cut(cx, &x, blocks);
    // Magnitudes are ordered as their bits, a NaN above all.
    let bits = cx.same_bits(&rows, DType::I32);
    let size = cx.with_const(ScalarOp::And, &bits, f64::from(i32::MAX));
    let scales = cx.reduced(ReduceOp::Max, &size, &[1]);
    let scales = cx.same_bits(&scales, DType::F32);
    // V(most) / scale, a little less so that no rounding leads beyond the last code; 0 where that would not be finite.
    let most = cx.splat(DType::F32, &scales.shape, raw_value(q.most()) * (1.0 - 2f64.powi(-22)));
    let factor = cx.map(ScalarOp::Div, &[&most, &scales]);
    let least = cx.splat(DType::F32, &scales.shape, LEAST_SCALE);
    let large = cx.map(ScalarOp::Le, &[&least, &scales]);
    let zero = cx.splat(DType::F32, &scales.shape, 0.0);
    let factor = cx.select(&large, &factor, &zero);
    let factor = cx.spread(&factor, &[0], &rows.shape);
    let size = if q.signed { cx.same_bits(&size, DType::F32) } else { rows.clone() };
    let one = cx.splat(DType::F32, &rows.shape, 1.0);
    let v = cx.map(ScalarOp::Fma, &[&size, &factor, &one]);
    let mut v = cx.same_bits(&v, DType::I32);
    if !q.signed {
        // Below 0, from where the sum that follows could run over.
        v = cx.with_const(ScalarOp::Max, &v, f64::from(ONE));
    }
    // Less the bits of 1, plus a half or what was drawn, of which the last bits are dropped.
    let at = match key {
        Some(key) if q.stochastic => {
            let noise = draws(cx, key, &rows.shape, blocks);
            cx.map(ScalarOp::Add, &[&v, &noise])
        }
        _ => cx.with_const(ScalarOp::Add, &v, f64::from((1 << (DROPPED - 1)) - ONE)),
    };
    let mut code = cx.with_const(ScalarOp::Shr, &at, f64::from(DROPPED));
    if q.signed {
        let sign = cx.map(ScalarOp::Sign, &[&bits]);
        code = cx.map(ScalarOp::Mul, &[&code, &sign]);
    } else {
        code = cx.with_const(ScalarOp::Max, &code, 0.0);
        code = cx.with_const(ScalarOp::Min, &code, f64::from(q.most()));
    }
    let codes = cx.convert(&code, DType::U8);
    let shape = code_shape(&x.shape, blocks);
    Stored { codes: cx.reshaped(&codes, &shape), scales }
}

/// For rounding: random numbers below `2^DROPPED`, less the bits of 1. A block's is a hash of its number (the finalizer of MurmurHash3) with both words of the key mixed in; its element `16 p + l` takes it
/// with `7 l mod 16` on the first four bits and `p` on those behind.
fn draws(cx: &mut Cx, key: &Array, shape: &[Dim], blocks: Blocks) -> Array {
    let count = &shape[..1];
    let word = |cx: &mut Cx, k: i64| {
        let word = cx.sliced(key, 0, &Dim::from(k), &Dim::one(), 1);
        let word = cx.reshaped(&word, &[]);
        cx.spread(&word, &[], count)
    };
    let shift = |cx: &mut Cx, h: &Array, by: f64| {
        let low = cx.with_const(ScalarOp::Shr, h, by);
        cx.map(ScalarOp::Xor, &[h, &low])
    };
    let row = cx.counting(DType::U32, count, 0);
    let mut h = word(cx, 0);
    h = cx.map(ScalarOp::Xor, &[&h, &row]);
    h = shift(cx, &h, 16.0);
    h = cx.with_const(ScalarOp::Mul, &h, f64::from(0x85EB_CA6Bu32));
    let second = word(cx, 1);
    h = cx.map(ScalarOp::Add, &[&h, &second]);
    h = shift(cx, &h, 13.0);
    h = cx.with_const(ScalarOp::Mul, &h, f64::from(0xC2B2_AE35u32));
    h = shift(cx, &h, 16.0);
    h = cx.with_const(ScalarOp::Shr, &h, f64::from(32 - DROPPED));
    h = cx.with_const(ScalarOp::Or, &h, f64::from(ONE.wrapping_neg() as u32));
    let h = cx.same_bits(&h, DType::I32);
    let h = cx.spread(&h, &[0], shape);
    let column = cx.counting(DType::I32, shape, 1);
    let lane = cx.with_const(ScalarOp::And, &column, LANES as f64 - 1.0);
    let lane = cx.with_const(ScalarOp::Mul, &lane, f64::from(7 << (DROPPED - 4)));
    let lane = cx.with_const(ScalarOp::And, &lane, f64::from(15 << (DROPPED - 4)));
    let chunk = cx.with_const(ScalarOp::And, &column, -(LANES as f64));
    // The chunk's number fills the bits behind the first four.
    let chunks = blocks.size.div_ceil(LANES).next_power_of_two().trailing_zeros();
    let chunk = cx.with_const(ScalarOp::Shl, &chunk, f64::from(DROPPED - 8 - chunks));
    let shifted = cx.map(ScalarOp::Xor, &[&lane, &h]);
    cx.map(ScalarOp::Xor, &[&shifted, &chunk])
}

/// The numbers stored, in an array of `shape`.
pub fn dequantize(cx: &mut Cx, q: &Quantized, stored: &Stored, shape: &[Dim]) -> Array {
    if !cx.emitting() {
        return Array { dtype: DType::F32, shape: shape.to_vec(), weak: false, node: None };
    }
    let n = elements(shape);
    let blocks = q.blocks(n);
    let rows = [Dim::from(blocks.count), Dim::from(blocks.size)];
    let codes = cx.reshaped(&stored.codes, &rows);
    let unit = cx.with_const(ScalarOp::Div, &stored.scales, raw_value(q.most()));
    let mut unit = cx.spread(&unit, &[0], &codes.shape);
    let mut code = cx.convert(&codes, DType::I32);
    if q.signed {
        let high = cx.with_const(ScalarOp::Shl, &code, 24.0);
        let number = cx.with_const(ScalarOp::Shr, &high, 24.0);
        let zero = cx.splat(DType::I32, &number.shape, 0.0);
        let below = cx.map(ScalarOp::Lt, &[&number, &zero]);
        let opposite = cx.map(ScalarOp::Neg, &[&unit]);
        unit = cx.select(&below, &opposite, &unit);
        code = cx.map(ScalarOp::Abs, &[&number]);
    }
    let code = cx.with_const(ScalarOp::Shl, &code, f64::from(DROPPED));
    let v = cx.with_const(ScalarOp::Add, &code, f64::from(ONE));
    let v = cx.same_bits(&v, DType::F32);
    let less = cx.map(ScalarOp::Neg, &[&unit]);
    let x = cx.map(ScalarOp::Fma, &[&v, &unit, &less]);
    let whole = blocks.count * blocks.size;
    if n == whole {
        return cx.reshaped(&x, shape);
    }
    let flat = cx.reshaped(&x, &[Dim::from(whole)]);
    let own = cx.sliced(&flat, 0, &Dim::zero(), &Dim::from(n), 1);
    cx.reshaped(&own, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: Quantized = Quantized { block: 256, signed: true, stochastic: false };

    #[test]
    fn blocks_are_equal_where_the_size_allows() {
        let of = |n: usize, block: usize| {
            let b = Quantized { block, ..SIGNED }.blocks(n);
            (b.count, b.size)
        };
        assert_eq!(of(1 << 20, 256), (4096, 256));
        assert_eq!(of(10, 256), (1, 10));
        assert_eq!(of(1_000_000, 256), (6250, 160));
        assert_eq!(of(737, 128), (11, 67));
        // A prime: the last block is filled up.
        assert_eq!(of(1009, 256), (4, 256));
    }

    #[test]
    fn codes_ascend_from_0_to_1() {
        for q in [SIGNED, Quantized { signed: false, ..SIGNED }] {
            assert_eq!((q.value(0), q.value(q.most())), (0.0, 1.0));
            for c in 1..=q.most() {
                let (low, high) = (q.value(c - 1), q.value(c));
                let one = q.value(8);
                // Beyond the linear part neighbors differ by at most an eighth of the larger magnitude, and one.
                assert!(low < high && high - low <= (high + one) / 8.0, "{c}");
            }
        }
    }
}
