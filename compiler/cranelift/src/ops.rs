//! Scalar operations, casts and random words on scalars and on four-lane groups.

use crate::emit::{Emit, Shift, scalar_type, vector_type};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};
use optc_abi::DType;
use optc_ir::scalar::{Class, ScalarOp};

/// A value in generated code: one scalar, or four lanes in one register (32-bit types and masks) or two (64-bit types).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Val {
    /// The same for all lanes.
    One(Value),
    /// Four lanes of a 32-bit type or a mask.
    Four(Value),
    /// Four lanes of a 64-bit type, lower two first.
    Pair([Value; 2]),
}

impl Val {
    /// The registers.
    pub(crate) fn units(&self) -> &[Value] {
        match self {
            Val::One(x) | Val::Four(x) => std::slice::from_ref(x),
            Val::Pair(pair) => pair,
        }
    }
    /// Whether lanes differ.
    pub(crate) fn varies(&self) -> bool {
        !matches!(self, Val::One(_))
    }
    fn from_units(units: &[Value]) -> Val {
        match units {
            [x] => Val::Four(*x),
            [x, y] => Val::Pair([*x, *y]),
            _ => panic!("compiler bug: {} registers for four lanes", units.len()),
        }
    }
}

fn wide(dtype: DType) -> bool {
    dtype.size() == 8
}
fn signed(dtype: DType) -> bool {
    matches!(dtype, DType::I32 | DType::I64)
}

impl Emit<'_> {
    /// A value's lanes.
    pub(crate) fn spread(&mut self, x: Val, dtype: DType) -> Val {
        let Val::One(s) = x else { return x };
        let s = if dtype == DType::Bool {
            let n = self.b.ins().uextend(types::I32, s);
            self.b.ins().ineg(n)
        } else {
            s
        };
        let v = self.b.ins().splat(vector_type(dtype), s);
        if wide(dtype) { Val::Pair([v, v]) } else { Val::Four(v) }
    }

    /// Lane `lane` of a value as a scalar.
    pub(crate) fn lane(&mut self, x: Val, dtype: DType, lane: usize) -> Value {
        let s = match x {
            Val::One(s) => return s,
            Val::Four(v) => self.b.ins().extractlane(v, lane as u8),
            Val::Pair(pair) => self.b.ins().extractlane(pair[lane / 2], (lane % 2) as u8),
        };
        if dtype == DType::Bool { self.truth(s) } else { s }
    }

    /// A scalar as it lies in a lane: masks for bools.
    pub(crate) fn lane_form(&mut self, s: Value, dtype: DType) -> Value {
        if dtype != DType::Bool {
            return s;
        }
        let n = self.b.ins().uextend(types::I32, s);
        self.b.ins().ineg(n)
    }

    fn truth(&mut self, n: Value) -> Value {
        let ty = self.type_of(n);
        let zero = self.int(ty, 0);
        self.icmp(IntCC::NotEqual, n, zero)
    }

    /// A mask of four 32-bit lanes as two masks of two 64-bit lanes.
    fn widen_mask(&mut self, mask: Value) -> [Value; 2] {
        [self.b.ins().swiden_low(mask), self.b.ins().swiden_high(mask)]
    }

    /// Even 32-bit lanes (`odd`: odd ones) of two vectors of 64-bit lanes.
    fn pick_words(&mut self, pair: [Value; 2], odd: bool) -> Value {
        let (a, b) = (self.bits(types::I8X16, pair[0]), self.bits(types::I8X16, pair[1]));
        let shift = if odd { 4 } else { 0 };
        let mask: Vec<u8> = [0u8, 8, 16, 24].iter().flat_map(|&at| (0..4).map(move |i| at + i + shift)).collect();
        let mask = self.b.func.dfg.immediates.push(mask.into());
        let words = self.b.ins().shuffle(a, b, mask);
        self.bits(types::I32X4, words)
    }

    /// A scalar operation. `dtype` is the type of the operands (of the second and third for a selection).
    pub(crate) fn map(&mut self, op: ScalarOp, dtype: DType, x: &[Val]) -> Val {
        if !x.iter().any(Val::varies) {
            let scalars: Vec<Value> = x.iter().map(|v| v.units()[0]).collect();
            return Val::One(self.unit(op, dtype, &scalars));
        }
        if matches!(op, ScalarOp::Shl | ScalarOp::Shr)
            && let Val::One(amount) = x[1]
        {
            return self.uniform_shift(op, dtype, x[0], amount);
        }
        if op == ScalarOp::Select {
            let (mask, a, b) = (self.spread(x[0], DType::Bool), self.spread(x[1], dtype), self.spread(x[2], dtype));
            return match (mask, a, b) {
                (Val::Four(m), Val::Pair(a), Val::Pair(b)) => {
                    let m = self.widen_mask(m);
                    Val::Pair([self.select(m[0], a[0], b[0]), self.select(m[1], a[1], b[1])])
                }
                _ => Val::Four(self.select(mask.units()[0], a.units()[0], b.units()[0])),
            };
        }
        let lanes: Vec<Val> = x.iter().map(|&v| self.spread(v, dtype)).collect();
        let units = lanes[0].units().len();
        let results: Vec<Value> = (0..units)
            .map(|u| {
                let operands: Vec<Value> = lanes.iter().map(|v| v.units()[u]).collect();
                self.unit(op, dtype, &operands)
            })
            .collect();
        if units == 2 && matches!(op.row().class, Class::Compare | Class::Test) {
            return Val::Four(self.pick_words([results[0], results[1]], false));
        }
        Val::from_units(&results)
    }

    /// An operation on scalars or on one register of lanes. Comparisons of lanes give a mask of the operands' width.
    fn unit(&mut self, op: ScalarOp, dtype: DType, x: &[Value]) -> Value {
        use ScalarOp::*;
        let ty = self.type_of(x[0]);
        if op == Select {
            return self.select(x[0], x[1], x[2]);
        }
        if dtype.is_float() {
            return self.float_unit(op, dtype, x);
        }
        let b = |e: &mut Self| -> Value {
            match op {
                Add => e.b.ins().iadd(x[0], x[1]),
                Sub => e.b.ins().isub(x[0], x[1]),
                Mul => e.b.ins().imul(x[0], x[1]),
                Neg => e.b.ins().ineg(x[0]),
                And => e.b.ins().band(x[0], x[1]),
                Or => e.b.ins().bor(x[0], x[1]),
                Xor => e.b.ins().bxor(x[0], x[1]),
                Not if dtype == DType::Bool && !ty.is_vector() => {
                    let one = e.int(ty, 1);
                    e.b.ins().bxor(x[0], one)
                }
                Not => e.b.ins().bnot(x[0]),
                Abs if signed(dtype) => e.b.ins().iabs(x[0]),
                Abs => x[0],
                Sign => {
                    let (zero, one, minus) = (e.int_of(ty, 0), e.int_of(ty, 1), e.int_of(ty, -1));
                    let positive = if signed(dtype) { IntCC::SignedGreaterThan } else { IntCC::NotEqual };
                    let up = e.icmp(positive, x[0], zero);
                    let y = e.select(up, one, zero);
                    if signed(dtype) {
                        let down = e.icmp(IntCC::SignedLessThan, x[0], zero);
                        e.select(down, minus, y)
                    } else {
                        y
                    }
                }
                Min | Max => {
                    let less = if signed(dtype) { IntCC::SignedLessThan } else { IntCC::UnsignedLessThan };
                    if ty == types::I32X4 {
                        return match (op, signed(dtype)) {
                            (Min, true) => e.b.ins().smin(x[0], x[1]),
                            (Min, false) => e.b.ins().umin(x[0], x[1]),
                            (_, true) => e.b.ins().smax(x[0], x[1]),
                            (_, false) => e.b.ins().umax(x[0], x[1]),
                        };
                    }
                    let first = if op == Min { e.icmp(less, x[0], x[1]) } else { e.icmp(less, x[1], x[0]) };
                    e.select(first, x[0], x[1])
                }
                Eq => e.icmp(IntCC::Equal, x[0], x[1]),
                Ne => e.icmp(IntCC::NotEqual, x[0], x[1]),
                Lt => e.icmp(if signed(dtype) { IntCC::SignedLessThan } else { IntCC::UnsignedLessThan }, x[0], x[1]),
                Le => e.icmp(if signed(dtype) { IntCC::SignedLessThanOrEqual } else { IntCC::UnsignedLessThanOrEqual }, x[0], x[1]),
                FloorDiv | Rem | Shl | Shr if ty.is_vector() => e.by_lane(x, ty, |e, lanes| e.unit(op, dtype, lanes)),
                FloorDiv | Rem => e.divide(op, dtype, x[0], x[1]),
                Shl | Shr => e.scalar_shift(op, dtype, x[0], x[1]),
                _ => panic!("compiler bug: {} of {dtype}", op.name()),
            }
        };
        let y = b(self);
        // Bytes live in wider registers and wrap by hand.
        if dtype == DType::U8 && matches!(op, Add | Sub | Mul | Neg | Not | Shl) {
            let mask = self.int_of(ty, 0xFF);
            return self.b.ins().band(y, mask);
        }
        y
    }

    fn float_unit(&mut self, op: ScalarOp, dtype: DType, x: &[Value]) -> Value {
        use ScalarOp::*;
        let ty = self.type_of(x[0]);
        match op {
            Add => self.b.ins().fadd(x[0], x[1]),
            Sub => self.b.ins().fsub(x[0], x[1]),
            Mul => self.b.ins().fmul(x[0], x[1]),
            Div => self.b.ins().fdiv(x[0], x[1]),
            Min => self.b.ins().fmin(x[0], x[1]),
            Max => self.b.ins().fmax(x[0], x[1]),
            Neg => self.b.ins().fneg(x[0]),
            Abs => self.b.ins().fabs(x[0]),
            Floor => self.b.ins().floor(x[0]),
            Ceil => self.b.ins().ceil(x[0]),
            Round => self.b.ins().nearest(x[0]),
            Trunc => self.b.ins().trunc(x[0]),
            Sqrt => self.b.ins().sqrt(x[0]),
            Eq => self.b.ins().fcmp(FloatCC::Equal, x[0], x[1]),
            Ne => self.b.ins().fcmp(FloatCC::NotEqual, x[0], x[1]),
            Lt => self.b.ins().fcmp(FloatCC::LessThan, x[0], x[1]),
            Le => self.b.ins().fcmp(FloatCC::LessThanOrEqual, x[0], x[1]),
            IsNan => self.b.ins().fcmp(FloatCC::NotEqual, x[0], x[0]),
            IsFinite => {
                let a = self.b.ins().fabs(x[0]);
                let inf = self.float_of(ty, f64::INFINITY);
                self.b.ins().fcmp(FloatCC::LessThan, a, inf)
            }
            Sign => {
                let (zero, one, minus) = (self.float_of(ty, 0.0), self.float_of(ty, 1.0), self.float_of(ty, -1.0));
                let up = self.b.ins().fcmp(FloatCC::GreaterThan, x[0], zero);
                let down = self.b.ins().fcmp(FloatCC::LessThan, x[0], zero);
                let y = self.select(down, minus, x[0]);
                self.select(up, one, y)
            }
            Fma if self.features.fma => self.b.ins().fma(x[0], x[1], x[2]),
            Rsqrt => {
                let root = self.b.ins().sqrt(x[0]);
                let one = self.float_of(ty, 1.0);
                self.b.ins().fdiv(one, root)
            }
            FloorDiv if dtype == DType::F64 => {
                let q = self.b.ins().fdiv(x[0], x[1]);
                self.b.ins().floor(q)
            }
            _ if ty == types::F32X4 => match self.vector_math(op, x) {
                Some(y) => y,
                None => self.by_lane(x, ty, |e, lanes| e.float_unit(op, dtype, lanes)),
            },
            _ if ty.is_vector() => self.by_lane(x, ty, |e, lanes| e.float_unit(op, dtype, lanes)),
            FloorDiv => {
                // The quotient is rounded in f64, so that it cannot round up to the next integer in f32.
                let (p, q) = (self.b.ins().fpromote(types::F64, x[0]), self.b.ins().fpromote(types::F64, x[1]));
                let d = self.b.ins().fdiv(p, q);
                let d = self.b.ins().floor(d);
                self.b.ins().fdemote(types::F32, d)
            }
            _ => self.float_function(op, dtype, x),
        }
    }

    /// A scalar math function: f32 through the vector version so that scalar and vector code agree, the rest by a call.
    fn float_function(&mut self, op: ScalarOp, dtype: DType, x: &[Value]) -> Value {
        if dtype == DType::F64 {
            return self.library(op, types::F64, x);
        }
        let lanes: Vec<Value> = x.iter().map(|&s| self.b.ins().splat(types::F32X4, s)).collect();
        match self.vector_math(op, &lanes) {
            Some(v) => self.b.ins().extractlane(v, 0),
            None => self.library(op, types::F32, x),
        }
    }

    /// Division rounding down and its remainder; by zero gives 0.
    fn divide(&mut self, op: ScalarOp, dtype: DType, a: Value, b: Value) -> Value {
        let ty = self.type_of(a);
        // i32 operands are divided in 64 bits, where the smallest number divided by -1 does not overflow.
        let (a, b) = match dtype {
            DType::I32 => (self.b.ins().sextend(types::I64, a), self.b.ins().sextend(types::I64, b)),
            _ => (a, b),
        };
        let work = self.type_of(a);
        let (zero, one) = (self.int(work, 0), self.int(work, 1));
        let by_zero = self.icmp(IntCC::Equal, b, zero);
        let safe = self.select(by_zero, one, b);
        let y = if signed(dtype) {
            let (safe, by_minus) = if dtype == DType::I64 {
                let minus = self.int(work, -1);
                let by_minus = self.icmp(IntCC::Equal, safe, minus);
                (self.select(by_minus, one, safe), Some(by_minus))
            } else {
                (safe, None)
            };
            let q = self.b.ins().sdiv(a, safe);
            let p = self.b.ins().imul(q, safe);
            let r = self.b.ins().isub(a, p);
            let some = self.icmp(IntCC::NotEqual, r, zero);
            let mixed = self.b.ins().bxor(r, safe);
            let mixed = self.icmp(IntCC::SignedLessThan, mixed, zero);
            let down = self.b.ins().band(some, mixed);
            let y = if op == ScalarOp::FloorDiv {
                let less = self.add_const(q, -1);
                self.select(down, less, q)
            } else {
                let more = self.b.ins().iadd(r, safe);
                self.select(down, more, r)
            };
            match by_minus {
                Some(by_minus) if op == ScalarOp::FloorDiv => {
                    let negated = self.b.ins().ineg(a);
                    self.select(by_minus, negated, y)
                }
                Some(by_minus) => self.select(by_minus, zero, y),
                None => y,
            }
        } else if op == ScalarOp::FloorDiv {
            self.b.ins().udiv(a, safe)
        } else {
            self.b.ins().urem(a, safe)
        };
        let y = self.select(by_zero, zero, y);
        if work == ty { y } else { self.b.ins().ireduce(ty, y) }
    }

    fn scalar_shift(&mut self, op: ScalarOp, dtype: DType, x: Value, amount: Value) -> Value {
        let ty = self.type_of(x);
        let width = (dtype.size() * 8) as i64;
        let bound = self.int(ty, width);
        // Negative amounts are huge as unsigned numbers.
        let inside = self.icmp(IntCC::UnsignedLessThan, amount, bound);
        let (shifted, outside) = self.shifted(op, dtype, x, amount);
        self.select(inside, shifted, outside)
    }

    /// x shifted by an amount inside the width, and the result of a shift outside of it.
    fn shifted(&mut self, op: ScalarOp, dtype: DType, x: Value, amount: Value) -> (Value, Value) {
        let ty = self.type_of(x);
        match op {
            ScalarOp::Shl => (self.b.ins().ishl(x, amount), self.int_of(ty, 0)),
            _ if signed(dtype) => {
                let all = i64::from(ty.lane_bits()) - 1;
                (self.b.ins().sshr(x, amount), self.shift(x, all, Shift::Arithmetic))
            }
            _ => (self.b.ins().ushr(x, amount), self.int_of(ty, 0)),
        }
    }

    /// Lanes shifted by one scalar amount.
    fn uniform_shift(&mut self, op: ScalarOp, dtype: DType, x: Val, amount: Value) -> Val {
        let width = (dtype.size() * 8) as i64;
        let bound = self.int(scalar_type(dtype), width);
        let inside = self.icmp(IntCC::UnsignedLessThan, amount, bound);
        let results: Vec<Value> = x
            .units()
            .iter()
            .map(|&u| {
                let (shifted, outside) = self.shifted(op, dtype, u, amount);
                let y = self.b.ins().select(inside, shifted, outside);
                if dtype == DType::U8 && op == ScalarOp::Shl {
                    let mask = self.int_of(types::I32X4, 0xFF);
                    return self.b.ins().band(y, mask);
                }
                y
            })
            .collect();
        Val::from_units(&results)
    }

    /// A conversion between value types.
    pub(crate) fn cast(&mut self, from: DType, to: DType, x: Val) -> Val {
        if from == to {
            return x;
        }
        match x {
            Val::One(s) => Val::One(self.cast_scalar(from, to, s)),
            _ => self.cast_lanes(from, to, x),
        }
    }

    fn cast_scalar(&mut self, from: DType, to: DType, s: Value) -> Value {
        let target = scalar_type(to);
        match (from, to) {
            (DType::F32, DType::F64) => self.b.ins().fpromote(types::F64, s),
            (DType::F64, DType::F32) => self.b.ins().fdemote(types::F32, s),
            (f, DType::Bool) if f.is_float() => {
                let zero = self.float_of(scalar_type(f), 0.0);
                self.b.ins().fcmp(FloatCC::NotEqual, s, zero)
            }
            (_, DType::Bool) => self.truth(s),
            (f, DType::U8) if f.is_float() => {
                let n = self.b.ins().fcvt_to_uint_sat(types::I32, s);
                let most = self.int(types::I32, 255);
                let over = self.icmp(IntCC::UnsignedGreaterThan, n, most);
                self.select(over, most, n)
            }
            (f, DType::U32) if f.is_float() => self.b.ins().fcvt_to_uint_sat(types::I32, s),
            (f, _) if f.is_float() => self.b.ins().fcvt_to_sint_sat(target, s),
            (DType::Bool, t) if t.is_float() => {
                let n = self.b.ins().uextend(types::I32, s);
                self.b.ins().fcvt_from_sint(target, n)
            }
            (DType::U32, t) if t.is_float() => {
                let n = self.b.ins().uextend(types::I64, s);
                self.b.ins().fcvt_from_sint(target, n)
            }
            (_, t) if t.is_float() => self.b.ins().fcvt_from_sint(target, s),
            (DType::Bool, _) => self.b.ins().uextend(target, s),
            (DType::I64, DType::U8) => {
                let n = self.b.ins().ireduce(types::I32, s);
                let mask = self.int(types::I32, 0xFF);
                self.b.ins().band(n, mask)
            }
            (_, DType::U8) => {
                let mask = self.int(types::I32, 0xFF);
                self.b.ins().band(s, mask)
            }
            (DType::I64, _) => self.b.ins().ireduce(target, s),
            (DType::I32, DType::I64) => self.b.ins().sextend(types::I64, s),
            (_, DType::I64) => self.b.ins().uextend(types::I64, s),
            _ => s,
        }
    }

    fn cast_lanes(&mut self, from: DType, to: DType, x: Val) -> Val {
        match (x, from, to) {
            (Val::Four(v), DType::F32, DType::I32) => Val::Four(self.b.ins().fcvt_to_sint_sat(types::I32X4, v)),
            (Val::Four(v), DType::F32, DType::Bool) => {
                let zero = self.float_of(types::F32X4, 0.0);
                Val::Four(self.b.ins().fcmp(FloatCC::NotEqual, v, zero))
            }
            (Val::Four(v), DType::I32 | DType::U8, DType::F32) => Val::Four(self.b.ins().fcvt_from_sint(types::F32X4, v)),
            (Val::Four(m), DType::Bool, DType::F32) => {
                let one = self.float_of(types::F32X4, 1.0);
                let one = self.bits(types::I32X4, one);
                let y = self.b.ins().band(m, one);
                Val::Four(self.bits(types::F32X4, y))
            }
            (Val::Four(m), DType::Bool, DType::I32 | DType::U32 | DType::U8) => {
                let one = self.int_of(types::I32X4, 1);
                Val::Four(self.b.ins().band(m, one))
            }
            (Val::Four(v), DType::I32 | DType::U32 | DType::U8, DType::Bool) => {
                let zero = self.int_of(types::I32X4, 0);
                Val::Four(self.icmp(IntCC::NotEqual, v, zero))
            }
            (Val::Four(v), DType::I32 | DType::U32, DType::U8) => {
                let mask = self.int_of(types::I32X4, 0xFF);
                Val::Four(self.b.ins().band(v, mask))
            }
            (Val::Four(_), DType::I32 | DType::U32 | DType::U8, DType::I32 | DType::U32) => x,
            (Val::Four(v), DType::I32, DType::I64) => Val::Pair(self.widen_mask(v)),
            (Val::Four(v), DType::U32 | DType::U8, DType::I64) => Val::Pair([self.b.ins().uwiden_low(v), self.b.ins().uwiden_high(v)]),
            (Val::Pair(p), DType::I64, DType::I32 | DType::U32) => Val::Four(self.pick_words(p, false)),
            (Val::Four(v), DType::F32, DType::F64) => {
                let low = self.b.ins().fvpromote_low(v);
                let upper = self.bits(types::I64X2, v);
                let upper = self.b.ins().extractlane(upper, 1);
                let upper = self.b.ins().splat(types::I64X2, upper);
                let upper = self.bits(types::F32X4, upper);
                Val::Pair([low, self.b.ins().fvpromote_low(upper)])
            }
            (Val::Pair(p), DType::F64, DType::F32) => {
                let halves: Vec<Value> = p
                    .iter()
                    .map(|&d| {
                        let f = self.b.ins().fvdemote(d);
                        let n = self.bits(types::I64X2, f);
                        self.b.ins().extractlane(n, 0)
                    })
                    .collect();
                let y = self.b.ins().splat(types::I64X2, halves[0]);
                let y = self.b.ins().insertlane(y, halves[1], 1);
                Val::Four(self.bits(types::F32X4, y))
            }
            _ => {
                let lanes: Vec<Value> = (0..4)
                    .map(|i| {
                        let s = self.lane(x, from, i);
                        let s = self.cast_scalar(from, to, s);
                        self.lane_form(s, to)
                    })
                    .collect();
                self.gather(to, &lanes)
            }
        }
    }

    /// Lanes (in lane form) put together; missing ones are zero.
    pub(crate) fn gather(&mut self, dtype: DType, lanes: &[Value]) -> Val {
        let ty = vector_type(dtype);
        let per = if wide(dtype) { 2 } else { 4 };
        let units: Vec<Value> = (0..4 / per)
            .map(|u| {
                let zero = self.int_of(if wide(dtype) { types::I64X2 } else { types::I32X4 }, 0);
                let mut v = self.bits(ty, zero);
                for lane in 0..per {
                    if let Some(&s) = lanes.get(u * per + lane) {
                        v = self.b.ins().insertlane(v, s, lane as u8);
                    }
                }
                v
            })
            .collect();
        Val::from_units(&units)
    }

    /// The same bits as another type of the same size.
    pub(crate) fn bitcast(&mut self, to: DType, x: Val) -> Val {
        match x {
            Val::One(s) => Val::One(self.bits(scalar_type(to), s)),
            Val::Four(v) => Val::Four(self.bits(vector_type(to), v)),
            Val::Pair(p) => Val::Pair([self.bits(vector_type(to), p[0]), self.bits(vector_type(to), p[1])]),
        }
    }

    /// High and low words of the products of u32 values with a constant.
    fn product_words(&mut self, x: Val, by: u32) -> (Val, Val) {
        match x {
            Val::One(s) => {
                let wide = self.b.ins().uextend(types::I64, s);
                let by = self.int(types::I64, by.into());
                let p = self.b.ins().imul(wide, by);
                let low = self.b.ins().ireduce(types::I32, p);
                let high = self.shift(p, 32, Shift::Logical);
                (Val::One(self.b.ins().ireduce(types::I32, high)), Val::One(low))
            }
            _ => {
                let v = x.units()[0];
                let by = self.int_of(types::I32X4, i64::from(by as i32));
                let (a, b) = (self.b.ins().uwiden_low(v), self.b.ins().uwiden_low(by));
                let p = self.b.ins().imul(a, b);
                let (a, b) = (self.b.ins().uwiden_high(v), self.b.ins().uwiden_high(by));
                let q = self.b.ins().imul(a, b);
                (Val::Four(self.pick_words([p, q], true)), Val::Four(self.pick_words([p, q], false)))
            }
        }
    }

    /// Word `word` of Philox4x32-10.
    pub(crate) fn philox(&mut self, key: [Val; 2], counter: [Val; 4], word: u8) -> Val {
        let xor = |e: &mut Self, a: Val, b: Val| e.map(ScalarOp::Xor, DType::U32, &[a, b]);
        let (mut k, mut c) = (key, counter);
        for round in 0..10 {
            if round > 0 {
                for (key, step) in k.iter_mut().zip([0x9E37_79B9u32, 0xBB67_AE85]) {
                    let step = Val::One(self.int(types::I32, step.into()));
                    *key = self.map(ScalarOp::Add, DType::U32, &[*key, step]);
                }
            }
            let (h0, l0) = self.product_words(c[0], 0xD251_1F53);
            let (h1, l1) = self.product_words(c[2], 0xCD9E_8D57);
            let t = xor(self, h1, c[1]);
            let first = xor(self, t, k[0]);
            let t = xor(self, h0, c[3]);
            let third = xor(self, t, k[1]);
            c = [first, l1, third, l0];
        }
        c[word as usize]
    }
}
