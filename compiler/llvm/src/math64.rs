//! Functions of f64 for machines that have no C library to call, and those of f32 that are computed by way of f64.

use crate::emit::Emit;
use crate::ins::{FloatCC, Opcode, V};
use crate::math::{Math, both_widths};
use optc_abi::DType;
use optc_ir::lanes64::{Lanes64, Widen};
use optc_ir::scalar::ScalarOp;
use optc_ir::vecmath64;

impl Emit {
    /// A function of f64, or of f32 by way of it.
    pub(crate) fn function64(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> V {
        let shape = x[0];
        let mut math = Math { e: self, shape, dtype: DType::F64 };
        let y = if dtype == DType::F64 { vecmath64::function(&mut math, op, x) } else { vecmath64::function_f32(&mut math, op, x) };
        let y = y.unwrap_or_else(|| panic!("compiler bug: no function {} of {dtype}", op.name()));
        self.i.bits(y, self.i.like(self.i.scalar(dtype), shape))
    }
}

impl Lanes64 for Math<'_> {
    type V = V;
    fn f(&mut self, x: f64) -> V {
        self.of_bits(x.to_bits() as i64)
    }
    fn i(&mut self, x: i64) -> V {
        self.e.i.int(self.int_type(), x)
    }
    both_widths!();
    fn floor(&mut self, a: V) -> V {
        self.plain("llvm.floor", &[a])
    }
    fn shr(&mut self, a: V, bits: u8) -> V {
        self.shift(Opcode::LLVMLShr, a, bits)
    }
    fn seldom<const N: usize>(&mut self, mask: V, usual: [V; N], rare: impl FnOnce(&mut Self) -> [V; N]) -> [V; N] {
        self.seldom_of(mask, usual, rare)
    }
}

impl Widen for Math<'_> {
    type Narrow = V;
    fn widen(&mut self, x: V) -> V {
        self.e.i.cast(Opcode::LLVMFPExt, x, self.float_type())
    }
    fn narrow(&mut self, x: V) -> V {
        let ty = self.e.i.like(self.e.i.scalar(DType::F32), self.shape);
        self.e.i.cast(Opcode::LLVMFPTrunc, self.as_float(x), ty)
    }
}
