//! Operations of the kernel IR in wide instructions.

use super::asm;
use super::program::{Inst, V};
use super::select::{AT_LEAST, DIFFERS, EQUAL, LESS, LESS_OR_EQUAL, NOT_EQUAL, Narrow, ORDERED, Selector, UNORDERED};
use optc_abi::DType;
use optc_ir::kernel::LANES;
use optc_ir::lanes::Lanes;
use optc_ir::scalar::ScalarOp;
use optc_ir::vecmath;

impl Selector<'_> {
    /// The larger or smaller of floats: NaN if either is, -0 below +0.
    fn extreme(&mut self, op: ScalarOp, a: V, b: V) -> V {
        let (code, max) = if op == ScalarOp::Max { (asm::MAX, true) } else { (asm::MIN, false) };
        let simple = |s: &Self, v: V| s.program.bits(v).is_some_and(|bits| !f32::from_bits(bits).is_nan());
        if let Some((x, bound)) = if simple(self, b) { Some((a, b)) } else { simple(self, a).then_some((b, a)) } {
            let bits = self.program.bits(bound).unwrap_or(0);
            // The second operand is the result for NaN and for equal operands, which differ only as zeros.
            let y = self.binary(code, bound, x);
            match (max, bits) {
                (true, 0) => return self.add(y, bound),
                (false, 0x8000_0000) => {}
                _ => return y,
            }
        }
        let (first, second) = (self.binary(code, a, b), self.binary(code, b, a));
        let both = if max { self.and(first, second) } else { self.or(first, second) };
        let (nan, sum) = (self.compare(UNORDERED, a, b), self.add(a, b));
        self.select(nan, sum, both)
    }

    pub(super) fn map(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> Result<V, Narrow> {
        use ScalarOp::*;
        if op == Select && dtype.size() <= 4 {
            return Ok(self.select(x[0], x[1], x[2]));
        }
        match dtype {
            DType::F32 => self.float_op(op, x),
            DType::I32 | DType::U32 | DType::Bool => self.bits_op(op, dtype, x),
            _ => Err(Narrow),
        }
    }

    fn float_op(&mut self, op: ScalarOp, x: &[V]) -> Result<V, Narrow> {
        use ScalarOp::*;
        Ok(match op {
            Add => self.add(x[0], x[1]),
            Sub => self.sub(x[0], x[1]),
            Mul => self.mul(x[0], x[1]),
            Div => self.div(x[0], x[1]),
            Min | Max => self.extreme(op, x[0], x[1]),
            Neg => {
                let sign = self.i(i32::MIN);
                self.xor(x[0], sign)
            }
            Abs => self.abs(x[0]),
            Floor => self.round(9, x[0]),
            Ceil => self.round(10, x[0]),
            Round => self.nearest(x[0]),
            Trunc => self.trunc(x[0]),
            Sqrt => self.sqrt(x[0]),
            Eq => self.compare(EQUAL, x[0], x[1]),
            Ne => self.compare(NOT_EQUAL, x[0], x[1]),
            Lt => self.compare(LESS, x[0], x[1]),
            Le => self.compare(LESS_OR_EQUAL, x[0], x[1]),
            IsNan => self.compare(UNORDERED, x[0], x[0]),
            IsFinite => {
                let (size, inf) = (self.abs(x[0]), self.f(f32::INFINITY));
                self.compare(LESS, size, inf)
            }
            Sign => {
                // Zeros and NaN stay.
                let (sign, one, zero) = (self.sign(x[0]), self.f(1.0), self.f(0.0));
                let (unit, other) = (self.or(sign, one), self.compare(DIFFERS, x[0], zero));
                self.select(other, unit, x[0])
            }
            Fma => match self.program.insts[x[2] as usize] {
                Inst::Binary(asm::XOR, c, sign, _) if self.program.bits(sign) == Some(1 << 31) => {
                    self.program.push(Inst::Fms(x[0], x[1], c))
                }
                _ => self.fma(x[0], x[1], x[2]),
            },
            Rsqrt => {
                let (root, one) = (self.sqrt(x[0]), self.f(1.0));
                self.div(one, root)
            }
            _ => vecmath::function(self, op, x).ok_or(Narrow)?,
        })
    }

    fn bits_op(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> Result<V, Narrow> {
        use ScalarOp::*;
        let signed = dtype == DType::I32;
        if dtype == DType::Bool && !matches!(op, And | Or | Xor | Not | Eq | Ne) {
            return Err(Narrow);
        }
        Ok(match op {
            Add => self.iadd(x[0], x[1]),
            Sub => self.isub(x[0], x[1]),
            // A number times the sign of another is one instruction, and so is a sign.
            // 512-bit registers have no such instruction.
            Mul if self.program.width == LANES => self.binary(asm::IMUL, x[0], x[1]),
            Mul => match [(x[0], x[1]), (x[1], x[0])].map(|(a, b)| (a, self.program.insts[b as usize])) {
                [(a, Inst::Binary(asm::GIVE_SIGN, one, of, _)), _] | [_, (a, Inst::Binary(asm::GIVE_SIGN, one, of, _))]
                    if self.program.bits(one) == Some(1) =>
                {
                    self.binary(asm::GIVE_SIGN, a, of)
                }
                _ => self.binary(asm::IMUL, x[0], x[1]),
            },
            Sign if signed && self.program.width == LANES => {
                let (one, less) = (self.i(1), self.i(-1));
                let most = self.binary(asm::SMIN, x[0], one);
                self.binary(asm::SMAX, most, less)
            }
            Sign if signed => {
                let one = self.i(1);
                self.binary(asm::GIVE_SIGN, one, x[0])
            }
            Neg => {
                let zero = self.i(0);
                self.isub(zero, x[0])
            }
            And => self.and(x[0], x[1]),
            Or => self.or(x[0], x[1]),
            Xor => self.xor(x[0], x[1]),
            Not => self.not(x[0]),
            Abs if signed => self.program.push(Inst::Unary(asm::IABS, x[0], None)),
            Abs => x[0],
            Min => self.binary(if signed { asm::SMIN } else { asm::UMIN }, x[0], x[1]),
            Max => self.binary(if signed { asm::SMAX } else { asm::UMAX }, x[0], x[1]),
            Eq => self.ieq(x[0], x[1]),
            Ne => {
                let same = self.ieq(x[0], x[1]);
                self.not(same)
            }
            Lt => self.integer_less(signed, x[0], x[1]),
            Le => {
                let more = self.integer_less(signed, x[1], x[0]);
                self.not(more)
            }
            // Amounts of the width or more give what the table asks.
            Shl | Shr if self.program.bits(x[1]).is_some_and(|n| n < 32) => {
                let by = self.program.bits(x[1]).unwrap_or(0) as u8;
                let digit = match op {
                    Shl => asm::SHIFT_LEFT,
                    _ if signed => asm::SHIFT_ARITHMETIC,
                    _ => asm::SHIFT_RIGHT,
                };
                self.shifted(digit, x[0], by)
            }
            Shl => self.binary(asm::SHL_VAR, x[0], x[1]),
            Shr => self.binary(if signed { asm::SAR_VAR } else { asm::SHR_VAR }, x[0], x[1]),
            _ => return Err(Narrow),
        })
    }

    fn integer_less(&mut self, signed: bool, a: V, b: V) -> V {
        if signed {
            return self.binary(asm::IGT, b, a);
        }
        let flip = self.i(i32::MIN);
        let (a, b) = (self.xor(a, flip), self.xor(b, flip));
        self.binary(asm::IGT, b, a)
    }

    pub(super) fn cast(&mut self, from: DType, to: DType, x: V) -> Result<V, Narrow> {
        Ok(match (from, to) {
            _ if from == to => x,
            (DType::F32, DType::I32) => {
                // Out of range the instruction gives the smallest number; NaN gives 0.
                let n = self.int_of_float(x);
                let most = self.f(2_147_483_648.0);
                let (above, number) = (self.compare(AT_LEAST, x, most), self.compare(ORDERED, x, x));
                let n = self.xor(n, above);
                self.and(n, number)
            }
            (DType::F32, DType::Bool) => {
                let zero = self.f(0.0);
                self.compare(NOT_EQUAL, x, zero)
            }
            (DType::I32 | DType::U8, DType::F32) => self.float_of_int(x),
            (DType::U32, DType::F32) => {
                // Two exact halves, rounded once when they are put together.
                let (low, shift) = (self.i(0xFFFF), self.f(65536.0));
                let (high, low) = (self.program.push(Inst::Shift(asm::SHIFT, asm::SHIFT_RIGHT, x, 16)), self.and(x, low));
                let (high, low) = (self.float_of_int(high), self.float_of_int(low));
                self.fma(high, shift, low)
            }
            (DType::Bool, DType::F32) => {
                let one = self.f(1.0);
                self.and(x, one)
            }
            (DType::Bool, DType::I32 | DType::U32) => {
                let one = self.i(1);
                self.and(x, one)
            }
            (DType::I32 | DType::U32 | DType::U8, DType::Bool) => {
                let zero = self.i(0);
                let none = self.ieq(x, zero);
                self.not(none)
            }
            (DType::I32 | DType::U32 | DType::U8, DType::I32 | DType::U32) => x,
            (DType::I32 | DType::U32, DType::U8) => {
                let byte = self.i(0xFF);
                self.and(x, byte)
            }
            _ => return Err(Narrow),
        })
    }

    /// The bits of bf16 nearest to an f32 (ties to even), in the low half of each lane; one NaN for all.
    pub(super) fn round_bfloat(&mut self, x: V) -> V {
        let high = self.program.push(Inst::Shift(asm::SHIFT, asm::SHIFT_RIGHT, x, 16));
        let (one, most, quiet) = (self.i(1), self.i(0x7FFF), self.i(0x7FC0));
        let odd = self.and(high, one);
        let up = self.iadd(odd, most);
        let rounded = self.iadd(x, up);
        let rounded = self.program.push(Inst::Shift(asm::SHIFT, asm::SHIFT_RIGHT, rounded, 16));
        let nan = self.compare(UNORDERED, x, x);
        self.select(nan, quiet, rounded)
    }

    /// High and low words of the products of u32 lanes with a constant.
    fn product_words(&mut self, x: V, by: u32) -> (V, V) {
        let by = self.i(by as i32);
        let long = |s: &mut Self, digit: u8, v: V| s.program.push(Inst::Shift(asm::SHIFT_LONG, digit, v, 32));
        let upper = long(self, asm::SHIFT_RIGHT, x);
        let (even, odd) = (self.binary(asm::MUL_EVEN, x, by), self.binary(asm::MUL_EVEN, upper, by));
        let (even_high, odd_low) = (long(self, asm::SHIFT_RIGHT, even), long(self, asm::SHIFT_LEFT, odd));
        let mix = |s: &mut Self, a: V, b: V| s.program.push(Inst::Binary(asm::BLEND_WORDS, a, b, Some(0xAA)));
        (mix(self, even_high, odd), mix(self, even, odd_low))
    }

    /// Word `word` of Philox4x32-10.
    pub(super) fn philox(&mut self, key: [V; 2], counter: [V; 4], word: u8) -> V {
        let (mut k, mut c) = (key, counter);
        for round in 0..10 {
            if round > 0 {
                for (key, step) in k.iter_mut().zip([0x9E37_79B9u32, 0xBB67_AE85]) {
                    let step = self.i(step as i32);
                    *key = self.iadd(*key, step);
                }
            }
            let (h0, l0) = self.product_words(c[0], 0xD251_1F53);
            let (h1, l1) = self.product_words(c[2], 0xCD9E_8D57);
            let t = self.xor(h1, c[1]);
            let first = self.xor(t, k[0]);
            let t = self.xor(h0, c[3]);
            let third = self.xor(t, k[1]);
            c = [first, l1, third, l0];
        }
        c[word as usize]
    }
}
