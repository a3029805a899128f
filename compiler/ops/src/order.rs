//! Sorting, searching, lookup by index, and sums by index.

use crate::args::Args;
use crate::cx::Cx;
use crate::dim::Dim;
use crate::dim_arith::Fit;
use crate::error::{OpError, Res};
use crate::show;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::ScatterMode;

/// Elements of `x` along an axis picked by `ids`, which has the shape of `x` but for that axis.
pub(crate) fn take_along(cx: &mut Cx, x: &Array, ids: &Array, axis: usize) -> Array {
    let rank = x.shape.len();
    if rank == 1 {
        return cx.gathered(x, ids, 0);
    }
    let last: Vec<usize> = (0..rank).filter(|&i| i != axis).chain([axis]).collect();
    let (x, ids) = (cx.permuted(x, &last), cx.permuted(ids, &last));
    let (n, k) = (x.shape[rank - 1].clone(), ids.shape[rank - 1].clone());
    let rows = Dim::product(&x.shape[..rank - 1]);
    let flat = cx.reshaped(&x, &[rows.mul(&n)]);
    let places = cx.reshaped(&ids, &[rows, k]);
    let row = cx.counting(DType::I32, &places.shape, 0);
    let width = cx.size_scalar(DType::I32, &n);
    let width = cx.spread(&width, &[], &places.shape);
    let base = cx.map(ScalarOp::Mul, &[&row, &width]);
    let at = cx.map(ScalarOp::Add, &[&base, &places]);
    let out = cx.gathered(&flat, &at, 0);
    let out = cx.reshaped(&out, &ids.shape);
    let mut back = vec![0; rank];
    for (i, &a) in last.iter().enumerate() {
        back[a] = i;
    }
    cx.permuted(&out, &back)
}

/// `sort(x, axis = -1, descending = false)`, `argsort(…)`: stable, NaN is the largest value.
pub(crate) fn sort(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let (axis, descending) = (args.axis("axis", -1, &x)?, args.flag("descending", false)?);
    let dtype = if args.name == "argsort" { DType::I32 } else { x.dtype };
    let (Some(axis), Some(descending)) = (axis, descending) else {
        return Ok(Val::Array(Array { dtype, weak: false, node: None, shape: x.shape }));
    };
    let ids = cx.arg_sorted(&x, axis, descending);
    if args.name == "argsort" {
        return Ok(Val::Array(ids));
    }
    Ok(Val::Array(take_along(cx, &x, &ids, axis)))
}

/// `top_k(x, k)`: the largest `k` values of the last axis, largest first, and their indices.
pub(crate) fn top_k(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let k = args.int("k", 1)?;
    let Some(axis) = x.shape.len().checked_sub(1) else { return Err(args.wrong("x", "an array of at least one axis")) };
    let short = k.known().zip(x.shape[axis].known()).is_some_and(|(k, n)| k > n);
    if short || k.known().is_some_and(|k| k < 0) {
        return Err(args.value("k", "E0405", format!("`top_k` of {k} out of {} elements", x.shape[axis])));
    }
    let ids = cx.arg_sorted(&x, axis, true);
    let ids = cx.sliced(&ids, axis, &Dim::zero(), &k, 1);
    let values = take_along(cx, &x, &ids, axis);
    Ok(Val::Tuple(vec![Val::Array(values), Val::Array(ids)]))
}

/// `searchsorted(sorted, values, side = "left")`: how many elements of `sorted` are smaller (`right`: not larger) than each value, by bisection.
pub(crate) fn search_sorted(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let sorted = args.array(cx, "sorted")?;
    if sorted.shape.len() != 1 {
        return Err(args.wrong("sorted", "a vector"));
    }
    let right = match args.text("side", "left")?.as_str() {
        "left" => false,
        "right" => true,
        _ => return Err(args.wrong("side", "`left` or `right`")),
    };
    let values = crate::meet::to_array(cx, &args.op(), args.get("values"), sorted.dtype)?;
    let mut pos = cx.splat(DType::I32, &values.shape, 0.0);
    let n = sorted.shape[0].known().unwrap_or(0);
    let mut step = if n > 0 { 1i64 << (63 - n.leading_zeros()) } else { 0 };
    while step > 0 {
        // Invariant: the first `pos` elements count; try `step` more.
        let next = cx.with_const(ScalarOp::Add, &pos, step as f64);
        let inside = {
            let size = cx.splat(DType::I32, &pos.shape, n as f64);
            cx.map(ScalarOp::Le, &[&next, &size])
        };
        let at = cx.with_const(ScalarOp::Min, &next, n as f64);
        let at = cx.with_const(ScalarOp::Sub, &at, 1.0);
        let probe = cx.gathered(&sorted, &at, 0);
        let counts = cx.map(if right { ScalarOp::Le } else { ScalarOp::Lt }, &[&probe, &values]);
        let both = cx.map(ScalarOp::And, &[&inside, &counts]);
        pos = cx.select(&both, &next, &pos);
        step /= 2;
    }
    Ok(Val::Array(pos))
}

/// Integer indices as i32.
pub(crate) fn index_array(cx: &mut Cx, args: &Args<'_>, param: &str) -> Res<Array> {
    let ids = args.array(cx, param)?;
    if !ids.dtype.is_int() {
        return Err(args.wrong(param, "an array of integers"));
    }
    Ok(cx.convert(&ids, DType::I32))
}

/// `gather(x, ids, axis = 0)`
pub(crate) fn gather(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let ids = index_array(cx, args, "ids")?;
    let Some(axis) = args.axis("axis", 0, &x)? else { return Ok(Val::Unknown) };
    Ok(Val::Array(cx.gathered(&x, &ids, axis)))
}

/// `scatter_add(x, ids, updates, axis = 0)`: `updates` added at `ids`, in their order.
pub(crate) fn scatter_add(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let ids = index_array(cx, args, "ids")?;
    let Some(axis) = args.axis("axis", 0, &x)? else { return Ok(Val::Array(x)) };
    let shape: Vec<Dim> = x.shape[..axis].iter().chain(&ids.shape).chain(&x.shape[axis + 1..]).cloned().collect();
    let updates = crate::create::spread_value(cx, &args.op(), args.get("updates"), x.dtype, &shape)?;
    Ok(Val::Array(cx.scattered(&x, &ids, &updates, axis, ScatterMode::Add)))
}

/// `segment_sum(x, ids, n)`: `n` sums of the rows of `x` with each id.
pub(crate) fn segment_sum(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let ids = index_array(cx, args, "ids")?;
    let n = args.extent("n", 0)?;
    let fits = ids.shape.len() <= x.shape.len() && ids.shape.iter().zip(&x.shape).all(|(a, b)| a.fit(b) != Fit::Different);
    if !fits || ids.shape.is_empty() {
        return Err(
            OpError::new("E0402", "`segment_sum` needs one id for each row").note(show::pair(("rows", &x, None), ("ids", &ids, None)))
        );
    }
    let x = if x.dtype == DType::Bool { cx.convert(&x, DType::I32) } else { x };
    let mut shape = vec![n];
    shape.extend(x.shape[ids.shape.len()..].iter().cloned());
    let zeros = cx.splat(x.dtype, &shape, 0.0);
    Ok(Val::Array(cx.scattered(&zeros, &ids, &x, 0, ScatterMode::Add)))
}
