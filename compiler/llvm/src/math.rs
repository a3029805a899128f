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
            if let Some(y) = vecmath::function(&mut Math { e: self, shape, dtype: DType::F32 }, op, x) {
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

/// Emits the shared functions on values like `shape`, whose lanes are floats of a type or integers as wide.
pub(crate) struct Math<'e> {
    pub(crate) e: &'e mut Emit,
    pub(crate) shape: V,
    pub(crate) dtype: DType,
}

impl Math<'_> {
    pub(crate) fn float_type(&self) -> T {
        self.e.i.like(self.e.i.scalar(self.dtype), self.shape)
    }
    pub(crate) fn int_type(&self) -> T {
        self.e.i.like(self.e.i.int_type(8 * self.dtype.size() as u32), self.shape)
    }
    pub(crate) fn as_float(&self, x: V) -> V {
        self.e.i.bits(x, self.float_type())
    }
    pub(crate) fn as_int(&self, x: V) -> V {
        self.e.i.bits(x, self.int_type())
    }
    /// A float by its bits, so that a NaN is the one that is meant.
    pub(crate) fn of_bits(&self, bits: i64) -> V {
        self.as_float(self.e.i.int(self.int_type(), bits))
    }
    pub(crate) fn float2(&self, op: Opcode, a: V, b: V) -> V {
        self.e.i.op2(op, self.as_float(a), self.as_float(b))
    }
    pub(crate) fn int2(&self, op: Opcode, a: V, b: V) -> V {
        self.e.i.op2(op, self.as_int(a), self.as_int(b))
    }
    pub(crate) fn shift(&self, op: Opcode, a: V, bits: u8) -> V {
        self.int2(op, a, self.e.i.int(self.int_type(), bits.into()))
    }
    /// A condition as a mask of whole lanes.
    fn mask(&self, condition: V) -> V {
        self.e.i.cast(Opcode::LLVMSExt, condition, self.int_type())
    }
    pub(crate) fn compared(&self, cc: FloatCC, a: V, b: V) -> V {
        self.mask(self.e.i.fcmp(cc, self.as_float(a), self.as_float(b)))
    }
    pub(crate) fn same(&self, a: V, b: V) -> V {
        self.mask(self.e.i.icmp(IntCC::LLVMIntEQ, self.as_int(a), self.as_int(b)))
    }
    pub(crate) fn condition(&self, mask: V) -> V {
        self.e.i.icmp(IntCC::LLVMIntSLT, self.as_int(mask), self.e.i.int(self.int_type(), 0))
    }
    pub(crate) fn plain(&self, name: &str, x: &[V]) -> V {
        let x: Vec<V> = x.iter().map(|&v| self.as_float(v)).collect();
        self.e.i.intrinsic(name, &[self.float_type()], &x)
    }
    pub(crate) fn fused(&mut self, a: V, b: V, c: V) -> V {
        if self.e.machine.fma() {
            return self.plain("llvm.fma", &[a, b, c]);
        }
        let x = [self.as_float(a), self.as_float(b), self.as_float(c)];
        let (scalar, dtype) = (self.e.i.scalar(self.dtype), self.dtype);
        self.e.by_lane(&x, scalar, |e, x| e.library(ScalarOp::Fma, dtype, x))
    }
    /// `usual`, but `rare` in the lanes of a mask; where no lane is, it is jumped over.
    pub(crate) fn seldom_of<const N: usize>(&mut self, mask: V, usual: [V; N], rare: impl FnOnce(&mut Self) -> [V; N]) -> [V; N] {
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

/// What lanes of both widths do alike.
macro_rules! both_widths {
    () => {
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
            self.fused(a, b, c)
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
            self.shift(Opcode::LLVMShl, a, bits)
        }
        fn sar(&mut self, a: V, bits: u8) -> V {
            self.shift(Opcode::LLVMAShr, a, bits)
        }
        fn lt(&mut self, a: V, b: V) -> V {
            self.compared(FloatCC::LLVMRealOLT, a, b)
        }
        fn eq(&mut self, a: V, b: V) -> V {
            self.compared(FloatCC::LLVMRealOEQ, a, b)
        }
        fn ieq(&mut self, a: V, b: V) -> V {
            self.same(a, b)
        }
        fn select(&mut self, mask: V, a: V, b: V) -> V {
            let c = self.condition(mask);
            self.e.i.select(c, self.as_float(a), self.as_float(b))
        }
    };
}
pub(crate) use both_widths;

impl Lanes for Math<'_> {
    type V = V;
    fn f(&mut self, x: f32) -> V {
        self.of_bits(i64::from(x.to_bits() as i32))
    }
    fn i(&mut self, x: i32) -> V {
        self.e.i.int(self.int_type(), x.into())
    }
    both_widths!();
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
        let x = self.as_float(x);
        let [y] = self.seldom_of(mask, [value], |m| {
            if m.e.machine.simt() {
                return [m.e.function64(op, DType::F32, &[x])];
            }
            let scalar = m.e.i.scalar(DType::F32);
            [m.e.by_lane(&[x], scalar, |e, x| e.library(op, DType::F32, x))]
        });
        y
    }
}
