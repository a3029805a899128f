//! Scalar operations, casts and random words, on single values and on vectors of them alike.

use crate::ins::{FloatCC, Ins, IntCC, Opcode, T, V};
use crate::machine::Machine;
use optc_abi::DType;
use optc_ir::kernel::Literal;
use optc_ir::scalar::ScalarOp;

pub(crate) fn signed(dtype: DType) -> bool {
    matches!(dtype, DType::I32 | DType::I64)
}

/// Emits values.
pub(crate) struct Emit {
    pub(crate) i: Ins,
    pub(crate) machine: Machine,
}

impl Emit {
    pub(crate) fn literal(&self, dtype: DType, literal: Literal) -> V {
        let ty = self.i.scalar(dtype);
        match literal {
            Literal::Float(x) if dtype.is_float() => self.float_of(ty, dtype, x),
            Literal::Int(n) if dtype.is_float() => self.float_of(ty, dtype, n as f64),
            Literal::Int(n) => self.i.int(ty, n),
            Literal::Float(x) => self.i.int(ty, x as i64),
        }
    }

    fn float_of(&self, ty: T, dtype: DType, x: f64) -> V {
        self.i.float(ty, if dtype == DType::F64 { x } else { f64::from(x as f32) })
    }

    /// Vectors of as many lanes as the longest; a value that is the same for all lanes is spread.
    fn level(&self, x: &[V]) -> Vec<V> {
        let Some(lanes) = x.iter().find_map(|&v| self.i.lanes(v)) else { return x.to_vec() };
        x.iter().map(|&v| if self.i.lanes(v).is_some() { v } else { self.i.splat(v, lanes) }).collect()
    }

    /// A scalar operation. `dtype` is the type of the operands (of the second and third for a selection).
    pub(crate) fn map(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> V {
        let x = self.level(x);
        if op == ScalarOp::Select {
            self.i.select(x[0], x[1], x[2])
        } else if dtype.is_float() {
            self.float(op, dtype, &x)
        } else {
            self.integer(op, dtype, &x)
        }
    }

    fn integer(&self, op: ScalarOp, dtype: DType, x: &[V]) -> V {
        use ScalarOp::*;
        let (i, ty) = (&self.i, self.i.type_of(x[0]));
        let zero = || i.int(ty, 0);
        match op {
            Add => i.add(x[0], x[1]),
            Sub => i.op2(Opcode::LLVMSub, x[0], x[1]),
            Mul => i.mul(x[0], x[1]),
            Neg => i.op2(Opcode::LLVMSub, zero(), x[0]),
            And => i.and(x[0], x[1]),
            Or => i.op2(Opcode::LLVMOr, x[0], x[1]),
            Xor => i.op2(Opcode::LLVMXor, x[0], x[1]),
            Not => i.op2(Opcode::LLVMXor, x[0], i.int(ty, -1)),
            Abs if signed(dtype) => i.intrinsic("llvm.abs", &[ty], &[x[0], i.bit(false)]),
            Abs => x[0],
            Sign => {
                let (one, minus) = (i.int(ty, 1), i.int(ty, -1));
                let above = i.icmp(if signed(dtype) { IntCC::LLVMIntSGT } else { IntCC::LLVMIntNE }, x[0], zero());
                let y = i.select(above, one, zero());
                if !signed(dtype) {
                    return y;
                }
                let below = i.icmp(IntCC::LLVMIntSLT, x[0], zero());
                i.select(below, minus, y)
            }
            Min | Max => {
                let name = match (op, signed(dtype)) {
                    (Min, true) => "llvm.smin",
                    (Min, false) => "llvm.umin",
                    (_, true) => "llvm.smax",
                    (_, false) => "llvm.umax",
                };
                i.intrinsic(name, &[ty], x)
            }
            Eq => i.icmp(IntCC::LLVMIntEQ, x[0], x[1]),
            Ne => i.icmp(IntCC::LLVMIntNE, x[0], x[1]),
            Lt => i.icmp(if signed(dtype) { IntCC::LLVMIntSLT } else { IntCC::LLVMIntULT }, x[0], x[1]),
            Le => i.icmp(if signed(dtype) { IntCC::LLVMIntSLE } else { IntCC::LLVMIntULE }, x[0], x[1]),
            FloorDiv | Rem => self.divide(op, dtype, x[0], x[1]),
            Shl | Shr => self.shift(op, dtype, x[0], x[1]),
            _ => panic!("compiler bug: {} of {dtype}", op.name()),
        }
    }

    /// Division rounding down and its remainder; by zero gives 0.
    fn divide(&self, op: ScalarOp, dtype: DType, a: V, b: V) -> V {
        let (i, ty) = (&self.i, self.i.type_of(a));
        let (zero, one, minus) = (i.int(ty, 0), i.int(ty, 1), i.int(ty, -1));
        let by_zero = i.icmp(IntCC::LLVMIntEQ, b, zero);
        let safe = i.select(by_zero, one, b);
        let quotient = op == ScalarOp::FloorDiv;
        if !signed(dtype) {
            let y = i.op2(if quotient { Opcode::LLVMUDiv } else { Opcode::LLVMURem }, a, safe);
            return i.select(by_zero, zero, y);
        }
        // The smallest number divided by -1 overflows.
        let by_minus = i.icmp(IntCC::LLVMIntEQ, safe, minus);
        let safe = i.select(by_minus, one, safe);
        let q = i.op2(Opcode::LLVMSDiv, a, safe);
        let r = i.op2(Opcode::LLVMSub, a, i.mul(q, safe));
        let some = i.icmp(IntCC::LLVMIntNE, r, zero);
        let mixed = i.icmp(IntCC::LLVMIntSLT, i.op2(Opcode::LLVMXor, r, safe), zero);
        let down = i.and(some, mixed);
        let (y, exact) = if quotient {
            (i.select(down, i.add(q, minus), q), i.op2(Opcode::LLVMSub, zero, a))
        } else {
            (i.select(down, i.add(r, safe), r), zero)
        };
        let y = i.select(by_minus, exact, y);
        i.select(by_zero, zero, y)
    }

    /// Amounts of the width or more shift everything out.
    fn shift(&self, op: ScalarOp, dtype: DType, x: V, amount: V) -> V {
        let (i, ty) = (&self.i, self.i.type_of(x));
        let width = (dtype.size() * 8) as i64;
        // Negative amounts are huge as unsigned numbers.
        let inside = i.icmp(IntCC::LLVMIntULT, amount, i.int(ty, width));
        let amount = i.select(inside, amount, i.int(ty, 0));
        let (shifted, outside) = match op {
            ScalarOp::Shl => (i.op2(Opcode::LLVMShl, x, amount), i.int(ty, 0)),
            _ if signed(dtype) => (i.op2(Opcode::LLVMAShr, x, amount), i.op2(Opcode::LLVMAShr, x, i.int(ty, width - 1))),
            _ => (i.op2(Opcode::LLVMLShr, x, amount), i.int(ty, 0)),
        };
        i.select(inside, shifted, outside)
    }

    fn float(&mut self, op: ScalarOp, dtype: DType, x: &[V]) -> V {
        use ScalarOp::*;
        let (i, ty) = (&self.i, self.i.type_of(x[0]));
        let plain = |name: &str| i.intrinsic(name, &[ty], x);
        match op {
            Add => i.op2(Opcode::LLVMFAdd, x[0], x[1]),
            Sub => i.op2(Opcode::LLVMFSub, x[0], x[1]),
            Mul => i.op2(Opcode::LLVMFMul, x[0], x[1]),
            Div => i.op2(Opcode::LLVMFDiv, x[0], x[1]),
            Min | Max => self.extreme(op, x[0], x[1]),
            Neg => i.fneg(x[0]),
            Abs => plain("llvm.fabs"),
            Floor => plain("llvm.floor"),
            Ceil => plain("llvm.ceil"),
            Round => plain("llvm.roundeven"),
            Trunc => plain("llvm.trunc"),
            Sqrt => plain("llvm.sqrt"),
            Eq => i.fcmp(FloatCC::LLVMRealOEQ, x[0], x[1]),
            Ne => i.fcmp(FloatCC::LLVMRealUNE, x[0], x[1]),
            Lt => i.fcmp(FloatCC::LLVMRealOLT, x[0], x[1]),
            Le => i.fcmp(FloatCC::LLVMRealOLE, x[0], x[1]),
            IsNan => i.fcmp(FloatCC::LLVMRealUNO, x[0], x[0]),
            IsFinite => {
                let size = plain("llvm.fabs");
                i.fcmp(FloatCC::LLVMRealOLT, size, i.float(ty, f64::INFINITY))
            }
            Sign => {
                let zero = i.float(ty, 0.0);
                let up = i.fcmp(FloatCC::LLVMRealOGT, x[0], zero);
                let down = i.fcmp(FloatCC::LLVMRealOLT, x[0], zero);
                let y = i.select(down, i.float(ty, -1.0), x[0]);
                i.select(up, i.float(ty, 1.0), y)
            }
            Fma if self.machine.fma() => plain("llvm.fma"),
            Rsqrt => {
                let root = plain("llvm.sqrt");
                i.op2(Opcode::LLVMFDiv, i.float(ty, 1.0), root)
            }
            FloorDiv if dtype == DType::F64 => {
                let q = i.op2(Opcode::LLVMFDiv, x[0], x[1]);
                i.intrinsic("llvm.floor", &[ty], &[q])
            }
            FloorDiv => {
                // The quotient is rounded in f64, so that it cannot round up to the next integer in f32.
                let wide = i.like(i.scalar(DType::F64), x[0]);
                let (p, q) = (i.cast(Opcode::LLVMFPExt, x[0], wide), i.cast(Opcode::LLVMFPExt, x[1], wide));
                let d = i.op2(Opcode::LLVMFDiv, p, q);
                let d = i.intrinsic("llvm.floor", &[wide], &[d]);
                i.cast(Opcode::LLVMFPTrunc, d, ty)
            }
            _ => self.function(op, dtype, x),
        }
    }

    /// The smaller or larger; NaN if either is, and -0 below +0.
    fn extreme(&self, op: ScalarOp, a: V, b: V) -> V {
        let (i, ty) = (&self.i, self.i.type_of(a));
        if self.machine == Machine::Nvptx && ty == i.like(i.scalar(DType::F64), a) {
            // PTX has neither rule for doubles.
            let (cc, merge) = match op {
                ScalarOp::Min => (FloatCC::LLVMRealOLT, Opcode::LLVMOr),
                _ => (FloatCC::LLVMRealOGT, Opcode::LLVMAnd),
            };
            let y = i.select(i.fcmp(cc, a, b), a, b);
            let bits = i.like(i.int_type(64), a);
            let zeros = i.bits(i.op2(merge, i.bits(a, bits), i.bits(b, bits)), ty);
            let y = i.select(i.fcmp(FloatCC::LLVMRealOEQ, a, b), zeros, y);
            let unordered = i.fcmp(FloatCC::LLVMRealUNO, a, b);
            return i.select(unordered, i.op2(Opcode::LLVMFAdd, a, b), y);
        }
        i.intrinsic(if op == ScalarOp::Min { "llvm.minimum" } else { "llvm.maximum" }, &[ty], &[a, b])
    }

    /// A conversion between value types.
    pub(crate) fn convert(&self, from: DType, to: DType, x: V) -> V {
        if from == to {
            return x;
        }
        let (i, target) = (&self.i, self.i.like(self.i.scalar(to), x));
        let source = i.type_of(x);
        match (from.is_float(), to) {
            (true, DType::Bool) => i.fcmp(FloatCC::LLVMRealUNE, x, i.float(source, 0.0)),
            (false, DType::Bool) => i.icmp(IntCC::LLVMIntNE, x, i.int(source, 0)),
            (true, DType::F64) => i.cast(Opcode::LLVMFPExt, x, target),
            (true, DType::F32) => i.cast(Opcode::LLVMFPTrunc, x, target),
            (true, DType::U8 | DType::U32) => i.intrinsic("llvm.fptoui.sat", &[target, source], &[x]),
            (true, _) => i.intrinsic("llvm.fptosi.sat", &[target, source], &[x]),
            (false, t) if t.is_float() => i.cast(if signed(from) { Opcode::LLVMSIToFP } else { Opcode::LLVMUIToFP }, x, target),
            _ => {
                let width = |d: DType| if d == DType::Bool { 1 } else { d.size() * 8 };
                let op = match (width(to) > width(from), signed(from)) {
                    (true, true) => Opcode::LLVMSExt,
                    (true, false) => Opcode::LLVMZExt,
                    _ => Opcode::LLVMTrunc,
                };
                i.cast(op, x, target)
            }
        }
    }

    /// The same bits as another type of the same size.
    pub(crate) fn bitcast(&self, to: DType, x: V) -> V {
        self.i.bits(x, self.i.like(self.i.scalar(to), x))
    }

    /// Word `word` of Philox4x32-10.
    pub(crate) fn philox(&mut self, key: [V; 2], counter: [V; 4], word: u8) -> V {
        let all = self.level(&[key[0], key[1], counter[0], counter[1], counter[2], counter[3]]);
        let (mut k, mut c) = ([all[0], all[1]], [all[2], all[3], all[4], all[5]]);
        let i = &self.i;
        let ty = i.type_of(c[0]);
        let wide = i.like(i.int_type(64), c[0]);
        let product = |x: V, by: u32| {
            let p = i.mul(i.cast(Opcode::LLVMZExt, x, wide), i.int(wide, by.into()));
            let high = i.op2(Opcode::LLVMLShr, p, i.int(wide, 32));
            (i.cast(Opcode::LLVMTrunc, high, ty), i.cast(Opcode::LLVMTrunc, p, ty))
        };
        let xor = |a: V, b: V| i.op2(Opcode::LLVMXor, a, b);
        for round in 0..10 {
            if round > 0 {
                for (key, step) in k.iter_mut().zip([0x9E37_79B9u32, 0xBB67_AE85]) {
                    *key = i.add(*key, i.int(ty, step.into()));
                }
            }
            let ((h0, l0), (h1, l1)) = (product(c[0], 0xD251_1F53), product(c[2], 0xCD9E_8D57));
            c = [xor(xor(h1, c[1]), k[0]), l1, xor(xor(h0, c[3]), k[1]), l0];
        }
        c[usize::from(word)]
    }

    /// Whether any lane of a condition holds.
    pub(crate) fn any(&self, condition: V) -> V {
        match self.i.lanes(condition) {
            None => condition,
            Some(_) => self.i.intrinsic("llvm.vector.reduce.or", &[self.i.type_of(condition)], &[condition]),
        }
    }

    /// Lane by lane through a function of scalars; what is the same for all lanes is computed once.
    pub(crate) fn by_lane(&mut self, x: &[V], result: T, mut f: impl FnMut(&mut Self, &[V]) -> V) -> V {
        let Some(lanes) = self.i.lanes(x[0]) else { return f(self, x) };
        let mut out = self.i.undefined(self.i.vector(result, lanes));
        for lane in 0..lanes {
            let at = self.i.i32(lane as i64);
            let parts: Vec<V> = x.iter().map(|&v| self.i.lane(v, at)).collect();
            let y = f(self, &parts);
            out = self.i.with_lane(out, y, at);
        }
        out
    }
}
