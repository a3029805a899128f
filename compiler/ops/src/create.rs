//! Arrays made from nothing, and facts of shapes.

use crate::args::Args;
use crate::arith::{broadcast_to, materialize};
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::meet::to_array;
use crate::show;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::ScalarOp;

/// `zeros(shape, dtype)`, `ones(shape, dtype)`
pub(crate) fn constant(cx: &mut Cx, args: &Args<'_>, value: f64) -> Res<Val> {
    let shape = args.shape("shape")?;
    let dtype = args.dtype("dtype", cx.float)?;
    Ok(Val::Array(cx.splat(dtype, &shape, value)))
}

/// `zeros_like(x)`, `ones_like(x)`
pub(crate) fn constant_like(cx: &mut Cx, args: &Args<'_>, value: f64) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let dtype = args.dtype("dtype", x.dtype)?;
    Ok(Val::Array(cx.splat(dtype, &x.shape, value)))
}

/// `full(shape, value, dtype)`: the element type of the value, if none is given.
pub(crate) fn full(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let shape = args.shape("shape")?;
    let dtype = match args.opt("dtype") {
        Some(_) => Some(args.dtype("dtype", cx.float)?),
        None => None,
    };
    let value = materialize(cx, args.get("value"), dtype)?;
    broadcast_to(cx, &value, &shape).map(Val::Array)
}

/// `eye(n, m = n, dtype = f32)`
pub(crate) fn eye(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let n = args.int("n", 0)?;
    let m = if args.opt("m").is_some() { args.int("m", 0)? } else { n.clone() };
    let dtype = args.dtype("dtype", cx.float)?;
    let shape = args.dims_of("n", &Val::List(vec![Val::Int(n), Val::Int(m)]))?;
    let on = diagonal(cx, &shape, 0);
    Ok(Val::Array(cx.convert(&on, dtype)))
}

/// Flags of the `k`-th diagonal of the last two axes.
pub(crate) fn diagonal(cx: &mut Cx, shape: &[Dim], k: i64) -> Array {
    let (i, j) = positions(cx, shape, k);
    cx.map(ScalarOp::Eq, &[&i, &j])
}

/// Row numbers plus `k` and column numbers of the last two axes.
pub(crate) fn positions(cx: &mut Cx, shape: &[Dim], k: i64) -> (Array, Array) {
    let r = shape.len();
    let i = cx.counting(DType::I32, shape, r - 2);
    let i = if k == 0 { i } else { cx.with_const(ScalarOp::Add, &i, k as f64) };
    (i, cx.counting(DType::I32, shape, r - 1))
}

/// `iota(n, dtype = i32)`: `0, 1, …, n - 1`.
pub(crate) fn iota(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let shape = args.shape("n")?;
    let dtype = args.dtype("dtype", DType::I32)?;
    let [n] = shape.as_slice() else {
        return Err(args.wrong("n", "one compile-time integer"))
            .map_err(|e: OpError| e.help("for several axes use index notation: `let a[i < N, j < M] = …`"));
    };
    let count = cx.counting(if dtype.is_int() { dtype } else { DType::I32 }, std::slice::from_ref(n), 0);
    Ok(Val::Array(cx.convert(&count, dtype)))
}

/// `one_hot(ids, n, dtype = f32)`: a new last axis.
pub(crate) fn one_hot(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let ids = args.array(cx, "ids")?;
    if !ids.dtype.is_int() {
        return Err(args.wrong("ids", "an array of integers"));
    }
    let n = args.extent("n", 0)?;
    let dtype = args.dtype("dtype", cx.float)?;
    let mut shape = ids.shape.clone();
    shape.push(n);
    args.check_size("n", &shape)?;
    let dims: Vec<usize> = (0..ids.shape.len()).collect();
    let wide = cx.spread(&ids, &dims, &shape);
    let place = cx.counting(ids.dtype, &shape, shape.len() - 1);
    let on = cx.map(ScalarOp::Eq, &[&wide, &place]);
    Ok(Val::Array(cx.convert(&on, dtype)))
}

/// `broadcast_to(x, shape)`
pub(crate) fn broadcast(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let shape = args.shape("shape")?;
    broadcast_to(cx, &x, &shape).map(Val::Array)
}

/// `shape`, `ndim`, `size`, `len`: compile-time values.
pub(crate) fn fact(args: &Args<'_>) -> Res<Val> {
    let v = args.get("x");
    if let ("len", Val::List(x) | Val::Tuple(x)) = (args.name, v) {
        return Ok(Val::Int(Dim::from(x.len())));
    }
    if let ("len", Val::Str(s)) = (args.name, v) {
        return Ok(Val::Int(Dim::from(s.chars().count())));
    }
    if let ("len", Val::Range(a, b)) = (args.name, v) {
        return Ok(Val::Int(Dim::max(&b.sub(a), &Dim::zero())));
    }
    let shape = shape_of(v).ok_or_else(|| args.wrong("x", "an array"))?;
    Ok(match args.name {
        "shape" => Val::List(shape.into_iter().map(Val::Int).collect()),
        "ndim" => Val::Int(Dim::from(shape.len())),
        "size" => Val::Int(Dim::product(&shape)),
        _ => Val::Int(shape.first().cloned().ok_or_else(|| OpError::new("E0404", "`len` of a scalar: it has no first axis"))?),
    })
}

fn shape_of(v: &Val) -> Option<Vec<Dim>> {
    match v {
        Val::Array(a) => Some(a.shape.clone()),
        Val::Int(_) | Val::Float(_) | Val::Bool(_) => Some(Vec::new()),
        Val::List(x) => {
            let mut shape = vec![Dim::from(x.len())];
            shape.extend(x.first().map(shape_of).unwrap_or_else(|| Some(Vec::new()))?);
            Some(shape)
        }
        _ => None,
    }
}

/// A value given element by element, as an array of `dtype` broadcast to a shape.
pub(crate) fn spread_value(cx: &mut Cx, op: &str, v: &Val, dtype: DType, shape: &[Dim]) -> Res<Array> {
    let x = to_array(cx, op, v, dtype)?;
    broadcast_to(cx, &x, shape).map_err(|e| e.note(format!("of `{}` in {op}", show::array(&x))))
}
