//! Math functions: f32 by the polynomials all back ends share, what else there is by a call.

use crate::emit::Emit;
use crate::ins::{FloatCC, IntCC, Opcode, T, V};
use optc_abi::DType;
use optc_ir::lanes::{Lanes, Rare};
use optc_ir::scalar::ScalarOp;
use optc_ir::vecmath;

/// The name under which generated code knows the C function of an operation.
pub(crate) fn symbol(op: ScalarOp, dtype: DType) -> String {
    format!("optc_{}_{}", op.name(), if dtype == DType::F64 { "f64" } else { "f32" })
}

impl Emit {
    pub(crate) fn function(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> V {
        if dtype != DType::F64 {
            let shape = x[0];
            if let Some(y) = vecmath::function(&mut Math { e: self, shape }, op, x) {
                let ty = self.i.like(self.i.scalar(DType::F32), shape);
                return self.i.bits(y, ty);
            }
        }
        if self.machine.simt() {
            return self.function64(op, dtype, x);
        }
        let scalar = self.i.scalar(dtype);
        self.by_lane(x, scalar, |e, x| e.library(op, dtype, x))
    }

    /// A call of the C function of an operation.
    pub(crate) fn library(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> V {
        let scalar = self.i.scalar(dtype);
        let ty = self.i.function_type(scalar, &vec![scalar; x.len()]);
        let function = self.i.declared(&symbol(op, dtype), ty);
        for (key, value) in [("nounwind", 0), ("willreturn", 0), ("memory", 0)] {
            self.i.attribute(function, u32::MAX, key, value);
        }
        self.i.call(function, ty, x)
    }
}

/// Emits the shared functions on values like `shape`.
struct Math<'e> {
    e: &'e mut Emit,
    shape: V,
}

impl Math<'_> {
    fn float_type(&self) -> T {
        self.e.i.like(self.e.i.scalar(DType::F32), self.shape)
    }
    fn int_type(&self) -> T {
        self.e.i.like(self.e.i.int_type(32), self.shape)
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
    /// A condition as a mask of whole lanes.
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

impl Lanes for Math<'_> {
    type V = V;
    fn f(&mut self, x: f32) -> V {
        // By its bits, so that a NaN is the one that is meant.
        let n = self.e.i.int(self.int_type(), i64::from(x.to_bits() as i32));
        self.as_float(n)
    }
    fn i(&mut self, x: i32) -> V {
        self.e.i.int(self.int_type(), x.into())
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
        let scalar = self.e.i.scalar(DType::F32);
        self.e.by_lane(&x, scalar, |e, x| e.library(ScalarOp::Fma, DType::F32, x))
    }
    fn trunc(&mut self, a: V) -> V {
        self.plain("llvm.trunc", &[a])
    }
    fn nearest(&mut self, a: V) -> V {
        self.plain("llvm.roundeven", &[a])
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
        let by = self.e.i.int(self.int_type(), bits.into());
        self.int2(Opcode::LLVMShl, a, by)
    }
    fn sar(&mut self, a: V, bits: u8) -> V {
        let by = self.e.i.int(self.int_type(), bits.into());
        self.int2(Opcode::LLVMAShr, a, by)
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
    fn float_of_int(&mut self, a: V) -> V {
        self.e.i.cast(Opcode::LLVMSIToFP, self.as_int(a), self.float_type())
    }
    fn int_of_float(&mut self, a: V) -> V {
        // Outside the range the result is arbitrary, but one value.
        let n = self.e.i.cast(Opcode::LLVMFPToSI, self.as_float(a), self.int_type());
        self.e.i.freeze(n)
    }
    fn patch(&mut self, mask: V, value: V, x: V, rare: Rare) -> V {
        let op = match rare {
            Rare::Sin => ScalarOp::Sin,
            Rare::Cos => ScalarOp::Cos,
            Rare::Tan => ScalarOp::Tan,
        };
        let (value, x, far) = (self.as_float(value), self.as_float(x), self.condition(mask));
        let (slow, after) = (self.e.i.block(), self.e.i.block());
        let any = self.e.any(far);
        let from = self.e.i.here();
        self.e.i.branch_seldom(any, slow, after);
        self.e.i.go_to(slow);
        let exact = if self.e.machine.simt() {
            self.e.function64(op, DType::F32, &[x])
        } else {
            let scalar = self.e.i.scalar(DType::F32);
            self.e.by_lane(&[x], scalar, |e, x| e.library(op, DType::F32, x))
        };
        let exact = self.e.i.select(far, exact, value);
        let slow_end = self.e.i.here();
        self.e.i.jump(after);
        self.e.i.go_to(after);
        let y = self.e.i.phi(self.float_type());
        self.e.i.comes(y, value, from);
        self.e.i.comes(y, exact, slow_end);
        y
    }
}
