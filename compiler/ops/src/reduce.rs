//! Reductions, running reductions, and softmax.

use crate::args::Args;
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::fold::Number;
use crate::show;
use crate::softmax::softmax_call;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::graph::ReduceOp;
use optc_ir::{Op, ScalarOp};

/// Names of reductions that take `(x, axis, keepdims)`.
pub(crate) const REDUCTIONS: &[&str] =
    &["sum", "mean", "prod", "max", "min", "any", "all", "argmax", "argmin", "logsumexp", "norm", "rms", "var", "std", "median"];

/// A reduction by name.
pub(crate) fn reduction(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    if args.opt("axis").is_none()
        && let Some(v) = fold(cx, args.name, args.get("x"))?
    {
        return Ok(v);
    }
    let a = args.array(cx, "x")?;
    let axes = args.axes("axis", &a).map_err(|e| match args.name {
        "min" => e.help("`min(x, axis)` is the smallest element of an array; the smaller of two is `minimum(a, b)`"),
        "max" => e.help("`max(x, axis)` is the largest element of an array; the larger of two is `maximum(a, b)`"),
        _ => e,
    })?;
    let keep = args.flag("keepdims", false)?;
    let (Some(axes), Some(keep)) = (axes, keep) else { return Ok(Val::Unknown) };
    check(args.name, &a, &axes).map_err(|e| match args.span("x") {
        Some(s) if e.at.is_none() => e.at(s, ""),
        _ => e,
    })?;
    let out = reduce(cx, args.name, &a, &axes);
    if keep {
        // argmax over all axes counts through the flattened array, but keeps their number all the same.
        return Ok(Val::Array(cx.expand(&out, &axes)));
    }
    Ok(Val::Array(out))
}

/// Whether a reduction of this array is possible.
pub(crate) fn check(name: &str, a: &Array, axes: &[usize]) -> Res<()> {
    match name {
        "any" | "all" if a.dtype != DType::Bool => Err(OpError::new("E0302", format!("`{name}` needs flags, not `{}`", show::array(a)))
            .help(format!("compare first, such as `{name}(x > 0)`"))),
        "max" | "min" | "argmax" | "argmin" | "median" if axes.iter().any(|&i| a.shape[i].known() == Some(0)) => {
            Err(OpError::new("E0405", format!("`{name}` of no elements: the array is `{}`", show::array(a))))
        }
        "argmax" | "argmin" if axes.len() != 1 && axes.len() != a.shape.len() => {
            Err(OpError::new("E0404", format!("`{name}` takes one axis, or none for the whole array")))
        }
        _ => Ok(()),
    }
}

/// A reduction by name along axes (ascending), which vanish. Integers and flags become f32 where the result is a float; flags are counted as i32.
pub(crate) fn reduce(cx: &mut Cx, name: &str, a: &Array, axes: &[usize]) -> Array {
    match name {
        "sum" | "prod" => {
            let x = if a.dtype == DType::Bool { cx.convert(a, DType::I32) } else { a.clone() };
            cx.reduced(if name == "sum" { ReduceOp::Sum } else { ReduceOp::Prod }, &x, axes)
        }
        "max" | "min" => {
            let kind = match (name == "max", a.dtype == DType::Bool) {
                (true, false) => ReduceOp::Max,
                (false, false) => ReduceOp::Min,
                (true, true) => ReduceOp::Or,
                (false, true) => ReduceOp::And,
            };
            cx.reduced(kind, a, axes)
        }
        "any" => cx.reduced(ReduceOp::Or, a, axes),
        "all" => cx.reduced(ReduceOp::And, a, axes),
        "mean" => {
            let x = floats(cx, a);
            mean(cx, &x, axes)
        }
        "norm" => {
            let x = floats(cx, a);
            let square = cx.map(ScalarOp::Mul, &[&x, &x]);
            let sum = cx.reduced(ReduceOp::Sum, &square, axes);
            cx.map(ScalarOp::Sqrt, &[&sum])
        }
        "rms" => {
            let x = floats(cx, a);
            let square = cx.map(ScalarOp::Mul, &[&x, &x]);
            let m = mean(cx, &square, axes);
            cx.map(ScalarOp::Sqrt, &[&m])
        }
        "var" | "std" => {
            let x = floats(cx, a);
            let m = mean(cx, &x, axes);
            let m = keep(cx, &m, axes, &x.shape);
            let d = cx.map(ScalarOp::Sub, &[&x, &m]);
            let square = cx.map(ScalarOp::Mul, &[&d, &d]);
            let v = mean(cx, &square, axes);
            if name == "std" { cx.map(ScalarOp::Sqrt, &[&v]) } else { v }
        }
        "logsumexp" => {
            let x = floats(cx, a);
            log_sum_exp(cx, &x, axes)
        }
        "median" => {
            let x = floats(cx, a);
            median(cx, &x, axes)
        }
        "argmax" | "argmin" => {
            let (x, axis) = match axes {
                [axis] => (if a.dtype == DType::Bool { cx.convert(a, DType::U8) } else { a.clone() }, *axis),
                _ => {
                    let flat = cx.reshaped(a, &[Dim::product(&a.shape)]);
                    (if a.dtype == DType::Bool { cx.convert(&flat, DType::U8) } else { flat }, 0)
                }
            };
            cx.arg_reduced(name == "argmax", &x, axis)
        }
        _ => panic!("compiler bug: no reduction `{name}`"),
    }
}

fn floats(cx: &mut Cx, a: &Array) -> Array {
    if a.dtype.is_float() { a.clone() } else { cx.convert(a, cx.float) }
}

fn mean(cx: &mut Cx, x: &Array, axes: &[usize]) -> Array {
    let sum = cx.reduced(ReduceOp::Sum, x, axes);
    let count = Dim::product(axes.iter().map(|&i| &x.shape[i]));
    let n = cx.size_scalar(x.dtype, &count);
    let n = cx.spread(&n, &[], &sum.shape);
    cx.map(ScalarOp::Div, &[&sum, &n])
}

/// The middle element in sorted order, or the mean of the middle two; NaN if any element is (NaN is sorted last).
fn median(cx: &mut Cx, x: &Array, axes: &[usize]) -> Array {
    let (rest, last): (Vec<usize>, Vec<usize>) = (0..x.shape.len()).partition(|i| !axes.contains(i));
    let order: Vec<usize> = rest.iter().chain(&last).copied().collect();
    let n = Dim::product(last.iter().map(|&i| &x.shape[i]));
    let kept: Vec<Dim> = rest.iter().map(|&i| x.shape[i].clone()).collect();
    let joined: Vec<Dim> = kept.iter().cloned().chain([n.clone()]).collect();
    let moved = cx.permuted(x, &order);
    let rows = cx.reshaped(&moved, &joined);
    let axis = kept.len();
    let ids = cx.arg_sorted(&rows, axis, false);
    let sorted = crate::order::take_along(cx, &rows, &ids, axis);
    let half = |n: &Dim| n.floor_div(&Dim::from(2i64)).unwrap_or_else(Dim::zero);
    let before_last = n.sub(&Dim::one());
    let mut at = |place: Dim| {
        let one = cx.sliced(&sorted, axis, &place, &Dim::one(), 1);
        cx.reshaped(&one, &kept)
    };
    let (low, high, largest) = (at(half(&before_last)), at(half(&n)), at(before_last));
    let sum = cx.map(ScalarOp::Add, &[&low, &high]);
    let two = cx.splat(x.dtype, &kept, 0.5);
    let middle = cx.map(ScalarOp::Mul, &[&sum, &two]);
    let missing = cx.map(ScalarOp::IsNan, &[&largest]);
    cx.select(&missing, &largest, &middle)
}

/// A reduced array spread over the axes it lost.
fn keep(cx: &mut Cx, r: &Array, axes: &[usize], shape: &[Dim]) -> Array {
    let dims: Vec<usize> = (0..shape.len()).filter(|i| !axes.contains(i)).collect();
    cx.spread(r, &dims, shape)
}

/// Subtracts the largest element along axes; no derivative passes through it, because the results do not depend on it.
fn shifted(cx: &mut Cx, x: &Array, axes: &[usize], guard: bool) -> (Array, Array) {
    let m = cx.reduced(ReduceOp::Max, x, axes);
    let mut m = cx.stopped(&m);
    if guard {
        let finite = cx.map(ScalarOp::IsFinite, &[&m]);
        let zero = cx.splat(m.dtype, &m.shape, 0.0);
        m = cx.select(&finite, &m, &zero);
    }
    let spread = keep(cx, &m, axes, &x.shape);
    (cx.map(ScalarOp::Sub, &[x, &spread]), m)
}

/// `log(sum(exp(x)))` without overflow; minus infinity where all elements are.
pub(crate) fn log_sum_exp(cx: &mut Cx, x: &Array, axes: &[usize]) -> Array {
    let (d, m) = shifted(cx, x, axes, true);
    let e = cx.map(ScalarOp::Exp, &[&d]);
    let sum = cx.reduced(ReduceOp::Sum, &e, axes);
    let l = cx.map(ScalarOp::Log, &[&sum]);
    cx.map(ScalarOp::Add, &[&l, &m])
}

/// `softmax(x, axis = -1)`, `log_softmax(x, axis = -1)`
pub(crate) fn softmax(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.floats(cx, "x")?;
    let axes = match args.opt("axis") {
        Some(_) => args.axes("axis", &x)?,
        None => args.axis("axis", -1, &x)?.map(|a| vec![a]),
    };
    let Some(axes) = axes else { return Ok(Val::Unknown) };
    if args.name == "softmax" {
        return Ok(Val::Array(cx.build(x.dtype, x.shape.clone(), &[&x], |e| {
            let call = softmax_call(&e.graph.ty(e.x[0]).clone(), &axes, e.origin);
            let call = e.graph.op(Op::Call(call), e.x, e.origin);
            e.graph.result(call, 0, e.origin)
        })));
    }
    let (d, _) = shifted(cx, &x, &axes, false);
    let e = cx.map(ScalarOp::Exp, &[&d]);
    let sum = cx.reduced(ReduceOp::Sum, &e, &axes);
    let l = cx.map(ScalarOp::Log, &[&sum]);
    let l = keep(cx, &l, &axes, &x.shape);
    Ok(Val::Array(cx.map(ScalarOp::Sub, &[&d, &l])))
}

/// `cumsum(x, axis)`, `cumprod(x, axis)`; without an axis of the flattened array.
pub(crate) fn running(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let a = args.array(cx, "x")?;
    let a = if a.dtype == DType::Bool { cx.convert(&a, DType::I32) } else { a };
    let (a, axis) = match args.opt("axis") {
        Some(_) => {
            let Some(axis) = args.axis("axis", 0, &a)? else { return Ok(Val::Array(Array { node: None, ..a })) };
            (a, axis)
        }
        None => (cx.reshaped(&a, &[Dim::product(&a.shape)]), 0),
    };
    let Some(reverse) = args.flag("reverse", false)? else { return Ok(Val::Array(a)) };
    let kind = if args.name == "cumsum" { ReduceOp::Sum } else { ReduceOp::Prod };
    Ok(Val::Array(cx.scanned(kind, &a, axis, reverse)))
}

/// Reductions of compile-time numbers: a number, or a flat list of them.
fn fold(cx: &mut Cx, name: &str, v: &Val) -> Res<Option<Val>> {
    let single;
    let items: &[Val] = match v {
        Val::List(x) | Val::Tuple(x) => x,
        Val::Int(_) | Val::Float(_) | Val::Bool(_) => {
            single = [v.clone()];
            &single
        }
        _ => return Ok(None),
    };
    if let "any" | "all" = name {
        let flags: Option<Vec<Option<bool>>> = items.iter().map(|v| if let Val::Bool(b) = v { Some(*b) } else { None }).collect();
        return Ok(flags.map(|flags| {
            let dominant = Some(name == "any");
            let known = flags.iter().all(Option::is_some);
            Val::Bool(if flags.contains(&dominant) { dominant } else { known.then_some(name == "all") })
        }));
    }
    let numbers: Option<Vec<Number>> = items.iter().map(|v| Number::of(cx, v)).collect();
    let Some(numbers) = numbers else { return Ok(None) };
    if numbers.is_empty() && matches!(name, "max" | "min" | "argmax" | "argmin" | "mean" | "median") {
        return Err(OpError::new("E0405", format!("`{name}` of an empty list")));
    }
    let ints: Option<Vec<Dim>> = numbers.iter().map(|n| if let Number::Int(d) = n { Some(d.clone()) } else { None }).collect();
    let floats: Option<Vec<f64>> = numbers.iter().map(Number::float).collect();
    let with = |f: &dyn Fn(&[f64]) -> f64| Val::Float(floats.as_deref().map(f));
    Ok(Some(match (name, ints) {
        ("sum", Some(d)) => Val::Int(d.iter().fold(Dim::zero(), |s, d| s.add(d))),
        ("prod", Some(d)) => Val::Int(Dim::product(&d)),
        ("max", Some(d)) => Val::Int(d[1..].iter().fold(d[0].clone(), |m, d| Dim::max(&m, d))),
        ("min", Some(d)) => Val::Int(d[1..].iter().fold(d[0].clone(), |m, d| Dim::min(&m, d))),
        ("sum", _) => with(&|x| x.iter().sum()),
        ("prod", _) => with(&|x| x.iter().product()),
        ("mean", _) => with(&|x| x.iter().sum::<f64>() / x.len() as f64),
        ("median", _) => with(&|x| {
            let mut x = x.to_vec();
            // Positive NaN is the last in this order.
            x.iter_mut().for_each(|v| *v = if v.is_nan() { f64::NAN.copysign(1.0) } else { *v });
            x.sort_by(f64::total_cmp);
            if x[x.len() - 1].is_nan() { f64::NAN } else { 0.5 * (x[(x.len() - 1) / 2] + x[x.len() / 2]) }
        }),
        ("max", _) => with(&|x| x.iter().copied().fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || b <= a { a } else { b })),
        ("min", _) => with(&|x| x.iter().copied().fold(f64::INFINITY, |a, b| if a.is_nan() || b >= a { a } else { b })),
        ("argmax" | "argmin", _) => match &floats {
            Some(x) => {
                let mut best = 0;
                for (i, v) in x.iter().enumerate() {
                    let better = if name == "argmax" { *v > x[best] } else { *v < x[best] };
                    if !x[best].is_nan() && (better || v.is_nan()) {
                        best = i;
                    }
                }
                Val::Int(Dim::from(best))
            }
            None => Val::Int(cx.fresh_symbol("?")),
        },
        ("norm", _) => with(&|x| x.iter().map(|v| v * v).sum::<f64>().sqrt()),
        ("rms", _) => with(&|x| (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt()),
        _ => return Ok(None),
    }))
}
