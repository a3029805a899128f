//! Typed building blocks on top of Cranelift's builder: constants, selections, calls, 128-bit lanes.

use crate::isa::Features;

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, AbiParam, Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::FunctionBuilder;
use optc_abi::DType;
use optc_ir::lanes::{Lanes, Rare};
use optc_ir::native;
use optc_ir::scalar::ScalarOp;

/// A function under construction.
pub(crate) struct Emit<'f> {
    pub(crate) b: FunctionBuilder<'f>,
    pub(crate) features: Features,
    signatures: Vec<((Vec<Type>, Option<Type>), ir::SigRef)>,
}

/// Flags of ordinary accesses: they never trap; alignment is that of the elements only.
pub(crate) fn plain() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// Cranelift's type of a scalar value of this element type: bool is I8 (0 or 1), u8 is I32 (zero-extended).
pub(crate) fn scalar_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 | DType::BF16 | DType::F16 => types::F32,
        DType::F64 => types::F64,
        DType::I32 | DType::U32 | DType::U8 => types::I32,
        DType::I64 => types::I64,
        DType::Bool => types::I8,
    }
}

/// Cranelift's type of a vector unit: four 32-bit lanes (bool: masks) or two 64-bit lanes.
pub(crate) fn vector_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 | DType::BF16 | DType::F16 => types::F32X4,
        DType::F64 => types::F64X2,
        DType::I64 => types::I64X2,
        _ => types::I32X4,
    }
}

impl<'f> Emit<'f> {
    pub(crate) fn new(b: FunctionBuilder<'f>, features: Features) -> Self {
        Emit { b, features, signatures: Vec::new() }
    }

    /// An integer constant of a scalar type.
    pub(crate) fn int(&mut self, ty: Type, x: i64) -> Value {
        let masked = match ty.bits() {
            64 => x,
            bits => x & ((1i64 << bits) - 1),
        };
        self.b.ins().iconst(ty, masked)
    }

    /// An integer constant in every lane of `ty`, or of a scalar `ty`.
    pub(crate) fn int_of(&mut self, ty: Type, x: i64) -> Value {
        if !ty.is_vector() {
            return self.int(ty, x);
        }
        let lane = x.to_le_bytes();
        let bytes = (ty.lane_bits() / 8) as usize;
        self.vector_const(ty, &lane[..bytes])
    }

    fn vector_const(&mut self, ty: Type, lane: &[u8]) -> Value {
        let bytes: Vec<u8> = lane.iter().copied().cycle().take(16).collect();
        let handle = self.b.func.dfg.constants.insert(bytes.into());
        self.b.ins().vconst(ty, handle)
    }

    /// A vector of I32X4 with these lanes.
    pub(crate) fn lanes_const(&mut self, lanes: [i32; 4]) -> Value {
        let bytes: Vec<u8> = lanes.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.vector_const(types::I32X4, &bytes)
    }

    /// A float constant of a scalar or vector type.
    pub(crate) fn float_of(&mut self, ty: Type, x: f64) -> Value {
        match (ty.is_vector(), ty.lane_type() == types::F64) {
            (false, false) => self.b.ins().f32const(x as f32),
            (false, true) => self.b.ins().f64const(x),
            (true, false) => self.vector_const(ty, &(x as f32).to_le_bytes()),
            (true, true) => self.vector_const(ty, &x.to_le_bytes()),
        }
    }

    /// The same bits as another type of the same size.
    pub(crate) fn bits(&mut self, ty: Type, x: Value) -> Value {
        if self.b.func.dfg.value_type(x) == ty {
            return x;
        }
        self.b.ins().bitcast(ty, MemFlagsData::new().with_endianness(Endianness::Little), x)
    }

    /// The type of a value.
    pub(crate) fn type_of(&self, x: Value) -> Type {
        self.b.func.dfg.value_type(x)
    }

    /// `a` where `mask` (a scalar truth value, or lanes of ones) is set, else `b`.
    pub(crate) fn select(&mut self, mask: Value, a: Value, b: Value) -> Value {
        let ty = self.type_of(a);
        if !ty.is_vector() {
            return self.b.ins().select(mask, a, b);
        }
        let lanes = if ty.lane_bits() == 64 { types::I64X2 } else { types::I32X4 };
        let (mask, a, b) = (self.bits(lanes, mask), self.bits(lanes, a), self.bits(lanes, b));
        let y = if self.features.x86 { self.b.ins().blendv(mask, a, b) } else { self.b.ins().bitselect(mask, a, b) };
        self.bits(ty, y)
    }

    /// Calls the function at `address`.
    pub(crate) fn call(&mut self, address: usize, arguments: &[Value], result: Option<Type>) -> Option<Value> {
        let key = (arguments.iter().map(|&x| self.type_of(x)).collect::<Vec<_>>(), result);
        let signature = match self.signatures.iter().find(|(k, _)| *k == key) {
            Some((_, s)) => *s,
            None => {
                let mut s = ir::Signature::new(self.b.func.signature.call_conv);
                s.params.extend(key.0.iter().map(|&t| AbiParam::new(t)));
                s.returns.extend(result.map(AbiParam::new));
                let s = self.b.import_signature(s);
                self.signatures.push((key, s));
                s
            }
        };
        let callee = self.int(types::I64, address as i64);
        let call = self.b.ins().call_indirect(signature, callee, arguments);
        result.map(|_| self.b.inst_results(call)[0])
    }

    /// A scalar math function that is not code of ours: of f64, or of f32 by way of f64.
    pub(crate) fn library(&mut self, op: ScalarOp, float: Type, x: &[Value]) -> Value {
        if self.features.object {
            return self.linked(op, float, x);
        }
        let address = if float == types::F64 { native::f64_address(op) } else { native::f32_address(op) };
        self.call(address, x, Some(float)).expect("has a result")
    }

    /// The same in code for object files: calls of the C library, and what `optc_ir::eval` makes of such functions.
    fn linked(&mut self, op: ScalarOp, float: Type, x: &[Value]) -> Value {
        if float == types::F32 {
            if op == ScalarOp::Fma {
                return self.imported(crate::object::place("fmaf"), x);
            }
            let wide: Vec<Value> = x.iter().map(|&x| self.b.ins().fpromote(types::F64, x)).collect();
            let y = self.linked(op, types::F64, &wide);
            return self.b.ins().fdemote(types::F32, y);
        }
        match op {
            ScalarOp::Rem => {
                let r = self.imported(crate::object::math_of(op), x);
                let (zero, up) = (self.float_of(types::F64, 0.0), self.b.ins().fadd(r, x[1]));
                let [some, below, divisor] = [(FloatCC::NotEqual, r), (FloatCC::LessThan, r), (FloatCC::LessThan, x[1])]
                    .map(|(cc, a)| self.b.ins().fcmp(cc, a, zero));
                let other = self.b.ins().bxor(below, divisor);
                let moved = self.b.ins().band(some, other);
                self.b.ins().select(moved, up, r)
            }
            ScalarOp::Sigmoid => {
                let size = self.b.ins().fabs(x[0]);
                let size = self.b.ins().fneg(size);
                let e = self.imported(crate::object::place("exp"), &[size]);
                let (zero, one) = (self.float_of(types::F64, 0.0), self.float_of(types::F64, 1.0));
                let below = self.b.ins().fcmp(FloatCC::LessThan, x[0], zero);
                let over = self.b.ins().select(below, e, one);
                let under = self.b.ins().fadd(one, e);
                self.b.ins().fdiv(over, under)
            }
            ScalarOp::Softplus => {
                let size = self.b.ins().fabs(x[0]);
                let size = self.b.ins().fneg(size);
                let e = self.imported(crate::object::place("exp"), &[size]);
                let log = self.imported(crate::object::place("log1p"), &[e]);
                let zero = self.float_of(types::F64, 0.0);
                let below = self.b.ins().fcmp(FloatCC::LessThanOrEqual, x[0], zero);
                let linear = self.b.ins().select(below, zero, x[0]);
                self.b.ins().fadd(linear, log)
            }
            _ => self.imported(crate::object::math_of(op), x),
        }
    }

    /// Calls a function of the C library by name.
    fn imported(&mut self, index: u32, x: &[Value]) -> Value {
        let (float, arity) = crate::object::math_signature(index);
        let mut s = ir::Signature::new(self.b.func.signature.call_conv);
        s.params.extend(std::iter::repeat_n(AbiParam::new(float), arity));
        s.returns.push(AbiParam::new(float));
        let signature = self.b.import_signature(s);
        let name = ir::UserExternalName { namespace: crate::object::MATH_NAMESPACE, index };
        let name = ir::ExternalName::user(self.b.func.declare_imported_user_function(name));
        let function = self.b.import_function(ir::ExtFuncData { name, signature, colocated: false, patchable: false });
        let call = self.b.ins().call(function, x);
        self.b.inst_results(call)[0]
    }

    /// x + constant.
    pub(crate) fn add_const(&mut self, x: Value, c: i64) -> Value {
        if c == 0 {
            return x;
        }
        let ty = self.type_of(x);
        let c = self.int(ty, c);
        self.b.ins().iadd(x, c)
    }

    /// x * constant, for I64.
    pub(crate) fn mul_const(&mut self, x: Value, c: i64) -> Value {
        if c == 1 {
            return x;
        }
        let c = self.int(types::I64, c);
        self.b.ins().imul(x, c)
    }

    /// Compares integers.
    pub(crate) fn icmp(&mut self, cc: IntCC, a: Value, b: Value) -> Value {
        self.b.ins().icmp(cc, a, b)
    }

    /// A shift by a constant, also of vectors.
    pub(crate) fn shift(&mut self, x: Value, bits: i64, kind: Shift) -> Value {
        let n = self.int(types::I32, bits);
        match kind {
            Shift::Left => self.b.ins().ishl(x, n),
            Shift::Logical => self.b.ins().ushr(x, n),
            Shift::Arithmetic => self.b.ins().sshr(x, n),
        }
    }

    /// Applies a scalar function to each lane of vectors of one lane count.
    pub(crate) fn by_lane(&mut self, arguments: &[Value], result: Type, mut f: impl FnMut(&mut Self, &[Value]) -> Value) -> Value {
        let count = result.lane_count() as u8;
        let mut out = self.int_of(if result.lane_bits() == 64 { types::I64X2 } else { types::I32X4 }, 0);
        out = self.bits(result, out);
        for lane in 0..count {
            let parts: Vec<Value> = arguments.iter().map(|&x| self.b.ins().extractlane(x, lane)).collect();
            let y = f(self, &parts);
            out = self.b.ins().insertlane(out, y, lane);
        }
        out
    }

    /// A math function of f32 lanes.
    pub(crate) fn vector_math(&mut self, op: ScalarOp, x: &[Value]) -> Option<Value> {
        let y = optc_ir::vecmath::function(self, op, x)?;
        Some(self.as_float(y))
    }

    fn as_float(&mut self, x: Value) -> Value {
        self.bits(types::F32X4, x)
    }
    fn as_int(&mut self, x: Value) -> Value {
        self.bits(types::I32X4, x)
    }
}

/// Kinds of shifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Left,
    Logical,
    Arithmetic,
}

macro_rules! float2 {
    ($($name:ident $ins:ident)*) => { $(
        fn $name(&mut self, a: Value, b: Value) -> Value {
            let (a, b) = (self.as_float(a), self.as_float(b));
            self.b.ins().$ins(a, b)
        }
    )* };
}
macro_rules! int2 {
    ($($name:ident $ins:ident)*) => { $(
        fn $name(&mut self, a: Value, b: Value) -> Value {
            let (a, b) = (self.as_int(a), self.as_int(b));
            self.b.ins().$ins(a, b)
        }
    )* };
}

impl Lanes for Emit<'_> {
    type V = Value;
    fn f(&mut self, x: f32) -> Value {
        self.vector_const(types::F32X4, &x.to_le_bytes())
    }
    fn i(&mut self, x: i32) -> Value {
        self.int_of(types::I32X4, x.into())
    }
    float2! { add fadd sub fsub mul fmul div fdiv }
    int2! { iadd iadd isub isub and band or bor xor bxor }
    fn sqrt(&mut self, a: Value) -> Value {
        let a = self.as_float(a);
        self.b.ins().sqrt(a)
    }
    fn fma(&mut self, a: Value, b: Value, c: Value) -> Value {
        let (a, b, c) = (self.as_float(a), self.as_float(b), self.as_float(c));
        if self.features.fma {
            return self.b.ins().fma(a, b, c);
        }
        self.by_lane(&[a, b, c], types::F32X4, |e, x| e.library(ScalarOp::Fma, types::F32, x))
    }
    fn trunc(&mut self, a: Value) -> Value {
        let a = self.as_float(a);
        self.b.ins().trunc(a)
    }
    fn nearest(&mut self, a: Value) -> Value {
        let a = self.as_float(a);
        self.b.ins().nearest(a)
    }
    fn shl(&mut self, a: Value, bits: u8) -> Value {
        let a = self.as_int(a);
        self.shift(a, bits.into(), Shift::Left)
    }
    fn sar(&mut self, a: Value, bits: u8) -> Value {
        let a = self.as_int(a);
        self.shift(a, bits.into(), Shift::Arithmetic)
    }
    fn lt(&mut self, a: Value, b: Value) -> Value {
        let (a, b) = (self.as_float(a), self.as_float(b));
        self.b.ins().fcmp(FloatCC::LessThan, a, b)
    }
    fn eq(&mut self, a: Value, b: Value) -> Value {
        let (a, b) = (self.as_float(a), self.as_float(b));
        self.b.ins().fcmp(FloatCC::Equal, a, b)
    }
    fn ieq(&mut self, a: Value, b: Value) -> Value {
        let (a, b) = (self.as_int(a), self.as_int(b));
        self.icmp(IntCC::Equal, a, b)
    }
    fn select(&mut self, mask: Value, a: Value, b: Value) -> Value {
        let (a, b) = (self.as_float(a), self.as_float(b));
        Emit::select(self, mask, a, b)
    }
    // In this form, and only in this, a comparison and a selection become one instruction.
    fn at_least(&mut self, x: Value, bound: Value) -> Value {
        let (x, bound) = (self.as_float(x), self.as_float(bound));
        let below = self.b.ins().fcmp(FloatCC::LessThan, x, bound);
        let below = self.bits(types::F32X4, below);
        self.b.ins().bitselect(below, bound, x)
    }
    fn at_most(&mut self, x: Value, bound: Value) -> Value {
        let (x, bound) = (self.as_float(x), self.as_float(bound));
        let above = self.b.ins().fcmp(FloatCC::LessThan, bound, x);
        let above = self.bits(types::F32X4, above);
        self.b.ins().bitselect(above, bound, x)
    }
    fn float_of_int(&mut self, a: Value) -> Value {
        let a = self.as_int(a);
        self.b.ins().fcvt_from_sint(types::F32X4, a)
    }
    fn int_of_float(&mut self, a: Value) -> Value {
        let a = self.as_float(a);
        if self.features.x86 { self.b.ins().x86_cvtt2dq(types::I32X4, a) } else { self.b.ins().fcvt_to_sint_sat(types::I32X4, a) }
    }
    fn patch(&mut self, mask: Value, value: Value, x: Value, rare: Rare) -> Value {
        let (mask, value, x) = (self.as_int(mask), self.as_float(value), self.as_float(x));
        let op = match rare {
            Rare::Sin => ScalarOp::Sin,
            Rare::Cos => ScalarOp::Cos,
            Rare::Tan => ScalarOp::Tan,
        };
        let (slow, after) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(slow);
        self.b.append_block_param(after, types::F32X4);
        let any = self.b.ins().vany_true(mask);
        self.b.ins().brif(any, slow, &[], after, &[value.into()]);
        self.b.switch_to_block(slow);
        self.b.seal_block(slow);
        let exact = self.by_lane(&[x], types::F32X4, |e, x| e.library(op, types::F32, x));
        let exact = Emit::select(self, mask, exact, value);
        self.b.ins().jump(after, &[exact.into()]);
        self.b.switch_to_block(after);
        self.b.seal_block(after);
        self.b.block_params(after)[0]
    }
}
