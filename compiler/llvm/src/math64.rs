//! Functions of f64 for machines that have no C library to call, and those of f32 that are computed by way of f64.

use crate::emit::Emit;
use crate::ins::{FloatCC, IntCC, Opcode, T, V};
use optc_abi::DType;
use optc_ir::lanes64::{Lanes64, Widen};
use optc_ir::scalar::ScalarOp;
use optc_ir::vecmath64;

/// Emits the shared functions on values like `shape`.
struct Math64<'e> {
    e: &'e mut Emit,
    shape: V,
}

impl Emit {
    /// A function of f64, or of f32 by way of it.
    pub(crate) fn function64(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> V {
        let shape = x[0];
        let mut math = Math64 { e: self, shape };
        let y = if dtype == DType::F64 { vecmath64::function(&mut math, op, x) } else { vecmath64::function_f32(&mut math, op, x) };
        let y = y.unwrap_or_else(|| panic!("compiler bug: no function {} of {dtype}", op.name()));
        self.i.bits(y, self.i.like(self.i.scalar(dtype), shape))
    }
}

impl Math64<'_> {
    fn float_type(&self) -> T {
        self.e.i.like(self.e.i.scalar(DType::F64), self.shape)
    }
    fn int_type(&self) -> T {
        self.e.i.like(self.e.i.int_type(64), self.shape)
    }
    fn as_float(&self, x: V) -> V {
        self.e.i.bits(x, self.float_type())
    }
    fn as_int(&self, x: V) -> V {
        self.e.i.bits(x, self.int_type())
    }
    fn float2(&self, op: Opcode, a: V, b: V) -> V {
        self.e.i.op2(op, self.as_float(a), self.as_float(b))
    }
    fn int2(&self, op: Opcode, a: V, b: V) -> V {
        self.e.i.op2(op, self.as_int(a), self.as_int(b))
    }
    fn shift(&self, op: Opcode, a: V, bits: u8) -> V {
        self.int2(op, a, self.e.i.int(self.int_type(), bits.into()))
    }
    fn mask(&self, condition: V) -> V {
        self.e.i.cast(Opcode::LLVMSExt, condition, self.int_type())
    }
    fn condition(&self, mask: V) -> V {
        self.e.i.icmp(IntCC::LLVMIntSLT, self.as_int(mask), self.e.i.int(self.int_type(), 0))
    }
    fn plain(&self, name: &str, x: &[V]) -> V {
        let x: Vec<V> = x.iter().map(|&v| self.as_float(v)).collect();
        self.e.i.intrinsic(name, &[self.float_type()], &x)
    }
}

impl Lanes64 for Math64<'_> {
    type V = V;
    fn f(&mut self, x: f64) -> V {
        let n = self.e.i.int(self.int_type(), x.to_bits() as i64);
        self.as_float(n)
    }
    fn i(&mut self, x: i64) -> V {
        self.e.i.int(self.int_type(), x)
    }
    fn add(&mut self, a: V, b: V) -> V {
        self.float2(Opcode::LLVMFAdd, a, b)
    }
    fn sub(&mut self, a: V, b: V) -> V {
        self.float2(Opcode::LLVMFSub, a, b)
    }
    fn mul(&mut self, a: V, b: V) -> V {
        self.float2(Opcode::LLVMFMul, a, b)
    }
    fn div(&mut self, a: V, b: V) -> V {
        self.float2(Opcode::LLVMFDiv, a, b)
    }
    fn sqrt(&mut self, a: V) -> V {
        self.plain("llvm.sqrt", &[a])
    }
    fn fma(&mut self, a: V, b: V, c: V) -> V {
        if self.e.machine.fma() {
            return self.plain("llvm.fma", &[a, b, c]);
        }
        let x = [self.as_float(a), self.as_float(b), self.as_float(c)];
        let scalar = self.e.i.scalar(DType::F64);
        self.e.by_lane(&x, scalar, |e, x| e.library(ScalarOp::Fma, DType::F64, x))
    }
    fn trunc(&mut self, a: V) -> V {
        self.plain("llvm.trunc", &[a])
    }
    fn nearest(&mut self, a: V) -> V {
        self.plain("llvm.roundeven", &[a])
    }
    fn floor(&mut self, a: V) -> V {
        self.plain("llvm.floor", &[a])
    }
    fn iadd(&mut self, a: V, b: V) -> V {
        self.int2(Opcode::LLVMAdd, a, b)
    }
    fn isub(&mut self, a: V, b: V) -> V {
        self.int2(Opcode::LLVMSub, a, b)
    }
    fn and(&mut self, a: V, b: V) -> V {
        self.int2(Opcode::LLVMAnd, a, b)
    }
    fn or(&mut self, a: V, b: V) -> V {
        self.int2(Opcode::LLVMOr, a, b)
    }
    fn xor(&mut self, a: V, b: V) -> V {
        self.int2(Opcode::LLVMXor, a, b)
    }
    fn shl(&mut self, a: V, bits: u8) -> V {
        self.shift(Opcode::LLVMShl, a, bits)
    }
    fn shr(&mut self, a: V, bits: u8) -> V {
        self.shift(Opcode::LLVMLShr, a, bits)
    }
    fn sar(&mut self, a: V, bits: u8) -> V {
        self.shift(Opcode::LLVMAShr, a, bits)
    }
    fn lt(&mut self, a: V, b: V) -> V {
        let c = self.e.i.fcmp(FloatCC::LLVMRealOLT, self.as_float(a), self.as_float(b));
        self.mask(c)
    }
    fn eq(&mut self, a: V, b: V) -> V {
        let c = self.e.i.fcmp(FloatCC::LLVMRealOEQ, self.as_float(a), self.as_float(b));
        self.mask(c)
    }
    fn ieq(&mut self, a: V, b: V) -> V {
        let c = self.e.i.icmp(IntCC::LLVMIntEQ, self.as_int(a), self.as_int(b));
        self.mask(c)
    }
    fn select(&mut self, mask: V, a: V, b: V) -> V {
        let c = self.condition(mask);
        self.e.i.select(c, self.as_float(a), self.as_float(b))
    }
    fn seldom<const N: usize>(&mut self, mask: V, usual: [V; N], rare: impl FnOnce(&mut Self) -> [V; N]) -> [V; N] {
        let wanted = self.condition(mask);
        let usual = usual.map(|v| self.as_float(v));
        let (slow, after) = (self.e.i.block(), self.e.i.block());
        let any = self.e.any(wanted);
        let from = self.e.i.here();
        self.e.i.branch_seldom(any, slow, after);
        self.e.i.go_to(slow);
        let rare = rare(self).map(|v| self.as_float(v));
        let chosen: [V; N] = std::array::from_fn(|n| self.e.i.select(wanted, rare[n], usual[n]));
        let end = self.e.i.here();
        self.e.i.jump(after);
        self.e.i.go_to(after);
        std::array::from_fn(|n| {
            let y = self.e.i.phi(self.float_type());
            self.e.i.comes(y, usual[n], from);
            self.e.i.comes(y, chosen[n], end);
            y
        })
    }
}

impl Widen for Math64<'_> {
    type Narrow = V;
    fn widen(&mut self, x: V) -> V {
        self.e.i.cast(Opcode::LLVMFPExt, x, self.float_type())
    }
    fn narrow(&mut self, x: V) -> V {
        let ty = self.e.i.like(self.e.i.scalar(DType::F32), self.shape);
        self.e.i.cast(Opcode::LLVMFPTrunc, self.as_float(x), ty)
    }
}
