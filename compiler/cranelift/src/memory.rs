//! Loads and stores of elements, with conversion of the types that live in memory only.

use crate::emit::{Emit, Shift, plain, scalar_type, vector_type};
use crate::ops::Val;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};
use optc_abi::DType;

impl Emit<'_> {
    /// One element at `address + offset`, as its value type.
    pub(crate) fn load_scalar(&mut self, dtype: DType, address: Value, offset: i32) -> Value {
        match dtype {
            DType::BF16 => {
                let n = self.b.ins().uload16(types::I32, plain(), address, offset);
                let n = self.shift(n, 16, Shift::Left);
                self.bits(types::F32, n)
            }
            DType::F16 => {
                let n = self.b.ins().uload16(types::I32, plain(), address, offset);
                self.widen_half(n)
            }
            DType::U8 => self.b.ins().uload8(types::I32, plain(), address, offset),
            _ => self.b.ins().load(scalar_type(dtype), plain(), address, offset),
        }
    }

    /// Four neighboring elements.
    pub(crate) fn load_four(&mut self, dtype: DType, address: Value, offset: i32) -> Val {
        match dtype {
            DType::F64 | DType::I64 => {
                let ty = vector_type(dtype);
                let low = self.b.ins().load(ty, plain(), address, offset);
                Val::Pair([low, self.b.ins().load(ty, plain(), address, offset + 16)])
            }
            DType::BF16 => {
                let n = self.b.ins().uload16x4(plain(), address, offset);
                let n = self.shift(n, 16, Shift::Left);
                Val::Four(self.bits(types::F32X4, n))
            }
            DType::F16 => {
                let n = self.b.ins().uload16x4(plain(), address, offset);
                Val::Four(self.widen_half(n))
            }
            DType::U8 | DType::Bool => {
                let n = self.b.ins().load(types::I32, plain(), address, offset);
                let v = self.b.ins().scalar_to_vector(types::I32X4, n);
                let v = self.bits(types::I8X16, v);
                let v = self.b.ins().uwiden_low(v);
                let v = self.b.ins().uwiden_low(v);
                Val::Four(if dtype == DType::Bool { self.b.ins().ineg(v) } else { v })
            }
            _ => Val::Four(self.b.ins().load(vector_type(dtype), plain(), address, offset)),
        }
    }

    /// Stores one value (of the buffer's value type) as an element.
    pub(crate) fn store_scalar(&mut self, dtype: DType, value: Value, address: Value, offset: i32) {
        match dtype {
            DType::BF16 | DType::F16 => {
                let n = if dtype == DType::BF16 { self.round_bfloat(value) } else { self.round_half(value) };
                self.b.ins().istore16(plain(), n, address, offset);
            }
            DType::U8 => {
                self.b.ins().istore8(plain(), value, address, offset);
            }
            _ => {
                self.b.ins().store(plain(), value, address, offset);
            }
        }
    }

    /// Stores four lanes to neighboring elements.
    pub(crate) fn store_four(&mut self, dtype: DType, value: Val, address: Value, offset: i32) {
        match (dtype, value) {
            (_, Val::Pair(p)) => {
                self.b.ins().store(plain(), p[0], address, offset);
                self.b.ins().store(plain(), p[1], address, offset + 16);
            }
            (DType::BF16 | DType::F16, _) => {
                let v = value.units()[0];
                let n = if dtype == DType::BF16 { self.round_bfloat(v) } else { self.round_half(v) };
                let n = self.b.ins().unarrow(n, n);
                let n = self.bits(types::I64X2, n);
                let n = self.b.ins().extractlane(n, 0);
                self.b.ins().store(plain(), n, address, offset);
            }
            (DType::U8 | DType::Bool, _) => {
                let mut v = value.units()[0];
                if dtype == DType::Bool {
                    let one = self.int_of(types::I32X4, 1);
                    v = self.b.ins().band(v, one);
                }
                let n = self.b.ins().snarrow(v, v);
                let n = self.b.ins().unarrow(n, n);
                let n = self.bits(types::I32X4, n);
                let n = self.b.ins().extractlane(n, 0);
                self.b.ins().store(plain(), n, address, offset);
            }
            _ => {
                self.b.ins().store(plain(), value.units()[0], address, offset);
            }
        }
    }

    fn int_type_like(&self, x: Value) -> cranelift_codegen::ir::Type {
        if self.type_of(x).is_vector() { types::I32X4 } else { types::I32 }
    }

    /// The bits of bf16 nearest to an f32 (ties to even), in the low half of 32 bits.
    fn round_bfloat(&mut self, x: Value) -> Value {
        let ty = self.int_type_like(x);
        let n = self.bits(ty, x);
        let high = self.shift(n, 16, Shift::Logical);
        let one = self.int_of(ty, 1);
        let odd = self.b.ins().band(high, one);
        let most = self.int_of(ty, 0x7FFF);
        let up = self.b.ins().iadd(odd, most);
        let rounded = self.b.ins().iadd(n, up);
        let rounded = self.shift(rounded, 16, Shift::Logical);
        let quiet = self.int_of(ty, 0x40);
        let quiet = self.b.ins().bor(high, quiet);
        let nan = self.b.ins().fcmp(FloatCC::NotEqual, x, x);
        self.select(nan, quiet, rounded)
    }

    /// The bits of f16 nearest to an f32 (ties to even), in the low half of 32 bits. After Giesen.
    fn round_half(&mut self, x: Value) -> Value {
        let (ty, float) = (self.int_type_like(x), self.type_of(x));
        let n = self.bits(ty, x);
        let sign_mask = self.int_of(ty, 0x8000_0000);
        let sign = self.b.ins().band(n, sign_mask);
        let a = self.b.ins().bxor(n, sign);
        // Denormal results: an addition at the right exponent rounds.
        let magic = self.int_of(ty, ((127 - 15) + (23 - 10) + 1) << 23);
        let (fa, fm) = (self.bits(float, a), self.bits(float, magic));
        let d = self.b.ins().fadd(fa, fm);
        let d = self.bits(ty, d);
        let denormal = self.b.ins().isub(d, magic);
        // Normal results.
        let odd = self.shift(a, 13, Shift::Logical);
        let one = self.int_of(ty, 1);
        let odd = self.b.ins().band(odd, one);
        let rebias = self.int_of(ty, ((15 - 127) << 23) + 0xFFF);
        let m = self.b.ins().iadd(a, rebias);
        let m = self.b.ins().iadd(m, odd);
        let normal = self.shift(m, 13, Shift::Logical);
        let least = self.int_of(ty, 113 << 23);
        let small = self.icmp(IntCC::SignedLessThan, a, least);
        let y = self.select(small, denormal, normal);
        // Infinity and NaN.
        let inf = self.int_of(ty, 0x7C00);
        let bound = self.int_of(ty, (127 + 16) << 23);
        let large = self.icmp(IntCC::SignedGreaterThanOrEqual, a, bound);
        let y = self.select(large, inf, y);
        let quiet = self.int_of(ty, 0x7E00);
        let nan = self.b.ins().fcmp(FloatCC::NotEqual, x, x);
        let y = self.select(nan, quiet, y);
        let sign = self.shift(sign, 16, Shift::Logical);
        self.b.ins().bor(y, sign)
    }

    /// f32 of the f16 bits in 32-bit integers. After Giesen.
    fn widen_half(&mut self, n: Value) -> Value {
        let ty = self.type_of(n);
        let float = if ty.is_vector() { types::F32X4 } else { types::F32 };
        let body_mask = self.int_of(ty, 0x7FFF);
        let body = self.b.ins().band(n, body_mask);
        let o = self.shift(body, 13, Shift::Left);
        let exponent_mask = self.int_of(ty, 0x7C00 << 13);
        let exponent = self.b.ins().band(o, exponent_mask);
        let rebias = self.int_of(ty, (127 - 15) << 23);
        let o = self.b.ins().iadd(o, rebias);
        let more = self.int_of(ty, (128 - 16) << 23);
        let special = self.b.ins().iadd(o, more);
        let is_special = self.icmp(IntCC::Equal, exponent, exponent_mask);
        let y = self.select(is_special, special, o);
        let step = self.int_of(ty, 1 << 23);
        let d = self.b.ins().iadd(o, step);
        let magic = self.int_of(ty, 113 << 23);
        let (fd, fm) = (self.bits(float, d), self.bits(float, magic));
        let d = self.b.ins().fsub(fd, fm);
        let d = self.bits(ty, d);
        let zero = self.int_of(ty, 0);
        let is_denormal = self.icmp(IntCC::Equal, exponent, zero);
        let y = self.select(is_denormal, d, y);
        let sign_mask = self.int_of(ty, 0x8000);
        let sign = self.b.ins().band(n, sign_mask);
        let sign = self.shift(sign, 16, Shift::Left);
        let y = self.b.ins().bor(y, sign);
        self.bits(float, y)
    }
}
