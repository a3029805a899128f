//! Elementwise operations by name, on compile-time numbers, weak scalars and arrays.

use crate::args::Args;
use crate::arith::{apply, listed, operands};
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::fold::Number;
use crate::meet::{Meet, meet};
use crate::show;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::eval::eval_float;

/// Names that are one scalar operation on floats.
pub(crate) const FLOAT: &[&str] = &[
    "exp", "exp2", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "cbrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf",
];

/// A function of one float: at compile time, and on arrays.
fn float_function(cx: &mut Cx, args: &Args<'_>, eval: impl Fn(f64) -> f64, emit: impl FnOnce(&mut Cx, &Array) -> Array) -> Res<Val> {
    let v = args.get("x");
    if let Some(n) = Number::of(cx, v) {
        return Ok(Val::Float(n.float().map(eval)));
    }
    match listed(cx, v)? {
        Val::Array(a) if a.weak => {
            let x = cx.convert(&a, DType::F64);
            let out = emit(cx, &x);
            Ok(Val::Array(Array { weak: true, ..out }))
        }
        Val::Array(a) if a.dtype.is_float() => Ok(Val::Array(emit(cx, &a))),
        Val::Array(a) => Err(args.needs_floats(&a)),
        _ => Err(args.wrong("x", "a number or an array")),
    }
}

/// One scalar operation on floats.
pub(crate) fn float_op(cx: &mut Cx, args: &Args<'_>, op: ScalarOp) -> Res<Val> {
    float_function(cx, args, |x| eval_float(op, &[x]), |cx, x| cx.map(op, &[x]))
}

/// `log10(x)`, the natural logarithm times 1 / ln 10.
pub(crate) fn log10(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    float_function(cx, args, f64::log10, |cx, x| {
        let l = cx.map(ScalarOp::Log, &[x]);
        cx.with_const(ScalarOp::Mul, &l, std::f64::consts::LOG10_E)
    })
}

/// `softplus(x) = log(1 + exp(x))` without overflow.
pub(crate) fn softplus(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    float_function(cx, args, |x| eval_float(ScalarOp::Softplus, &[x]), |cx, x| cx.map(ScalarOp::Softplus, &[x]))
}

/// `silu(x) = x sigmoid(x)`
pub(crate) fn silu(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    float_function(
        cx,
        args,
        |x| x * eval_float(ScalarOp::Sigmoid, &[x]),
        |cx, x| {
            let s = cx.map(ScalarOp::Sigmoid, &[x]);
            cx.map(ScalarOp::Mul, &[x, &s])
        },
    )
}

/// `gelu(x) = x (1 + erf(x / sqrt 2)) / 2`, the exact form.
pub(crate) fn gelu(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let root = std::f64::consts::FRAC_1_SQRT_2;
    float_function(
        cx,
        args,
        |x| 0.5 * x * (1.0 + eval_float(ScalarOp::Erf, &[x * root])),
        |cx, x| {
            let scaled = cx.with_const(ScalarOp::Mul, x, root);
            let e = cx.map(ScalarOp::Erf, &[&scaled]);
            let one = cx.with_const(ScalarOp::Add, &e, 1.0);
            let half = cx.with_const(ScalarOp::Mul, x, 0.5);
            cx.map(ScalarOp::Mul, &[&half, &one])
        },
    )
}

/// `relu(x)`: 0 where `x <= 0`, else `x` (NaN stays NaN); the gradient at 0 is 0.
pub(crate) fn relu(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    number_function(
        cx,
        args,
        |x| if x <= 0.0 { 0.0 } else { x },
        |d| Dim::max(d, &Dim::zero()),
        |cx, x| {
            let zero = cx.splat(x.dtype, &x.shape, 0.0);
            let low = cx.map(ScalarOp::Le, &[x, &zero]);
            cx.select(&low, &zero, x)
        },
    )
}

/// A function of floats or integers that keeps the type.
fn number_function(
    cx: &mut Cx,
    args: &Args<'_>,
    eval: impl Fn(f64) -> f64,
    int: impl Fn(&Dim) -> Dim,
    emit: impl FnOnce(&mut Cx, &Array) -> Array,
) -> Res<Val> {
    let v = args.get("x");
    match Number::of(cx, v) {
        Some(Number::Int(d)) => return Ok(Val::Int(int(&d))),
        Some(Number::Float(f)) => return Ok(Val::Float(f.map(eval))),
        None => {}
    }
    match listed(cx, v)? {
        Val::Array(a) => {
            let x = if a.dtype == DType::Bool { cx.convert(&a, DType::I32) } else { a.clone() };
            let out = emit(cx, &x);
            Ok(Val::Array(Array { weak: a.weak, ..out }))
        }
        _ => Err(args.wrong("x", "a number or an array")),
    }
}

/// `abs(x)`
pub(crate) fn abs(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    number_function(cx, args, f64::abs, |d| Dim::max(d, &d.neg()), |cx, x| cx.map(ScalarOp::Abs, &[x]))
}

/// `sign(x)`
pub(crate) fn sign(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let int = |d: &Dim| Dim::max(&Dim::min(d, &Dim::one()), &Dim::from(-1i64));
    number_function(cx, args, |x| eval_float(ScalarOp::Sign, &[x]), int, |cx, x| cx.map(ScalarOp::Sign, &[x]))
}

/// `floor`, `ceil`, `round`: a compile-time float gives an integer, which may be a dimension; arrays keep their type.
pub(crate) fn rounding(cx: &mut Cx, args: &Args<'_>, op: ScalarOp) -> Res<Val> {
    let v = args.get("x");
    match Number::of(cx, v) {
        Some(Number::Int(d)) => return Ok(Val::Int(d)),
        Some(Number::Float(None)) => return Ok(Val::Int(cx.fresh_symbol("?"))),
        Some(Number::Float(Some(x))) => {
            let y = eval_float(op, &[x]);
            // Beyond 2^53 and at infinity there is no integer to give.
            return Ok(if y.abs() <= 9e15 { Val::Int(Dim::from(y as i64)) } else { Val::Float(Some(y)) });
        }
        None => {}
    }
    match listed(cx, v)? {
        Val::Array(a) if a.dtype.is_int() => Ok(Val::Array(a)),
        Val::Array(a) if a.dtype.is_float() => {
            let out = cx.map(op, &[&a]);
            Ok(Val::Array(Array { weak: a.weak, ..out }))
        }
        Val::Array(a) => Err(args.needs_floats(&a)),
        _ => Err(args.wrong("x", "a number or an array")),
    }
}

/// `is_finite`, `is_nan`
pub(crate) fn test(cx: &mut Cx, args: &Args<'_>, op: ScalarOp) -> Res<Val> {
    let v = args.get("x");
    if let Some(n) = Number::of(cx, v) {
        let value = match n {
            Number::Int(_) => Some(0.0),
            Number::Float(f) => f,
        };
        return Ok(Val::Bool(value.map(|x| if op == ScalarOp::IsNan { x.is_nan() } else { x.is_finite() })));
    }
    match listed(cx, v)? {
        Val::Array(a) if a.dtype.is_float() => Ok(Val::Array(cx.map(op, &[&a]))),
        Val::Array(a) => Ok(Val::Array(cx.splat(DType::Bool, &a.shape, f64::from(u8::from(op == ScalarOp::IsFinite))))),
        _ => Err(args.wrong("x", "a number or an array")),
    }
}

/// `maximum(a, b)`, `minimum(a, b)`: the gradient is shared equally at a tie.
pub(crate) fn extremum(cx: &mut Cx, args: &Args<'_>, max: bool) -> Res<Val> {
    extremum_of(cx, &args.op(), args.get("a"), args.get("b"), max)
}

fn extremum_of(cx: &mut Cx, name: &str, a: &Val, b: &Val, max: bool) -> Res<Val> {
    let op = if max { ScalarOp::Max } else { ScalarOp::Min };
    match (Number::of(cx, a), Number::of(cx, b)) {
        (Some(Number::Int(x)), Some(Number::Int(y))) => return Ok(Val::Int(if max { Dim::max(&x, &y) } else { Dim::min(&x, &y) })),
        (Some(x), Some(y)) => return Ok(Val::Float(x.float().zip(y.float()).map(|(x, y)| eval_float(op, &[x, y])))),
        _ => {}
    }
    let m = match meet(cx, name, &[a, b])? {
        Meet::Strong(DType::Bool) => Meet::Strong(DType::I32),
        m => m,
    };
    let out = apply(cx, name, op, &[a, b], m)?;
    Ok(Val::Array(Array { weak: m.is_weak(), ..out }))
}

/// `clip(x, lo, hi)`
pub(crate) fn clip(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let mut v = args.get("x").clone();
    if let Some(lo) = args.opt("lo") {
        v = extremum_of(cx, &args.op(), &v, lo, true)?;
    }
    if let Some(hi) = args.opt("hi") {
        v = extremum_of(cx, &args.op(), &v, hi, false)?;
    }
    Ok(v)
}

/// `atan2(y, x)`
pub(crate) fn atan2(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let (y, x) = (args.get("y"), args.get("x"));
    if let (Some(a), Some(b)) = (Number::of(cx, y), Number::of(cx, x)) {
        return Ok(Val::Float(a.float().zip(b.float()).map(|(a, b)| a.atan2(b))));
    }
    let m = match meet(cx, &args.op(), &[y, x])? {
        Meet::WeakInt => Meet::WeakFloat,
        Meet::Strong(d) if !d.is_float() => {
            let a = args.array(cx, "y")?;
            return Err(args.needs_floats(&a));
        }
        m => m,
    };
    let out = apply(cx, &args.op(), ScalarOp::Atan2, &[y, x], m)?;
    Ok(Val::Array(Array { weak: m.is_weak(), ..out }))
}

/// `lerp(a, b, t) = a + t (b - a)`
pub(crate) fn lerp(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    use crate::arith::{BinOp, binary};
    let (a, b, t) = (args.get("a"), args.get("b"), args.get("t"));
    let d = binary(cx, BinOp::Sub, b, a)?;
    let d = binary(cx, BinOp::Mul, t, &d)?;
    binary(cx, BinOp::Add, a, &d)
}

/// `fma(a, b, c) = a b + c`, rounded once
pub(crate) fn fma(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = [args.get("a"), args.get("b"), args.get("c")];
    if let [Some(a), Some(b), Some(c)] = x.map(|v| Number::of(cx, v)) {
        return Ok(Val::Float(a.float().zip(b.float()).zip(c.float()).map(|((a, b), c)| a.mul_add(b, c))));
    }
    let m = match meet(cx, &args.op(), &x)? {
        Meet::WeakInt => Meet::WeakFloat,
        Meet::Strong(d) if !d.is_float() => {
            let named = ["a", "b", "c"].into_iter().find(|n| matches!(args.get(n), Val::Array(_))).unwrap_or("a");
            let a = args.array(cx, named)?;
            return Err(args.needs_floats(&a));
        }
        m => m,
    };
    let out = apply(cx, &args.op(), ScalarOp::Fma, &x, m)?;
    Ok(Val::Array(Array { weak: m.is_weak(), ..out }))
}

/// `where(mask, a, b)`
pub(crate) fn choose(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let (c, a, b) = (args.get("mask"), args.get("a"), args.get("b"));
    let mask = match c {
        Val::Bool(_) => None,
        Val::Array(m) if m.dtype == DType::Bool => Some(m.clone()),
        Val::List(_) if crate::meet::are_flags(c) => Some(crate::arith::materialize(cx, c, None)?),
        _ => {
            let e = OpError::new("E0302", format!("the first argument of `where` must be flags, not {}", show::kind(c)));
            let e = args.span("mask").map_or(e.clone(), |s| e.at(s, "not `bool`"));
            return Err(e.help("compare first, such as `where(x > 0, a, b)`"));
        }
    };
    if let (Val::Bool(flag), Some(x), Some(y)) = (c, Number::of(cx, a), Number::of(cx, b)) {
        return Ok(constant_choice(cx, *flag, a, b, &x, &y));
    }
    let m = match meet(cx, &args.op(), &[a, b])? {
        Meet::Float => Meet::Strong(cx.float),
        Meet::Int => Meet::Strong(DType::I32),
        Meet::Bool => Meet::Strong(DType::Bool),
        m => m,
    };
    // Numbers chosen by a scalar flag keep taking the type they meet.
    let scalars = mask.as_ref().is_none_or(|m| m.shape.is_empty());
    let numbers = !matches!(a, Val::Array(_) | Val::List(_)) && !matches!(b, Val::Array(_) | Val::List(_));
    let m = match m {
        Meet::Strong(d) if scalars && d == cx.float && numbers => Meet::WeakFloat,
        Meet::Strong(DType::I32) if scalars && numbers => Meet::WeakInt,
        m => m,
    };
    let values = operands(cx, &args.op(), &[a, b], m)?;
    let (x, y) = (&values[0], &values[1]);
    let out = match (mask, c) {
        (Some(mask), _) => {
            let all = crate::meet::join_shapes(&args.op(), &mask, x)?;
            let (mask, x, y) = (cx.spread_to(&mask, &all), cx.spread_to(x, &all), cx.spread_to(y, &all));
            cx.select(&mask, &x, &y)
        }
        (None, Val::Bool(Some(false))) => y.clone(),
        _ => x.clone(),
    };
    Ok(Val::Array(Array { weak: m.is_weak(), ..out }))
}

fn constant_choice(cx: &mut Cx, flag: Option<bool>, a: &Val, b: &Val, x: &Number, y: &Number) -> Val {
    if let (Val::Bool(p), Val::Bool(q)) = (a, b) {
        return Val::Bool(flag.and_then(|f| if f { *p } else { *q }));
    }
    match (x, y) {
        (Number::Int(p), Number::Int(q)) => Val::Int(match flag {
            Some(f) => if f { p } else { q }.clone(),
            None if p == q => p.clone(),
            None => cx.fresh_symbol("?"),
        }),
        _ => Val::Float(flag.and_then(|f| if f { x.float() } else { y.float() })),
    }
}

/// `bitcast(x, dtype)`
pub(crate) fn bitcast(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let a = args.array(cx, "x")?;
    let dtype = args.dtype("dtype", a.dtype)?;
    if dtype.size() != a.dtype.size() || dtype == DType::Bool {
        return Err(OpError::new("E0302", format!("`bitcast` of `{}` to `{dtype}`: the sizes of the elements differ", show::array(&a)))
            .note(format!("`{}` has {} bytes, `{dtype}` has {}", a.dtype, a.dtype.size(), dtype.size())));
    }
    Ok(Val::Array(cx.same_bits(&a, dtype)))
}
