//! Operations that move elements: reshape, transposes, joins, pads, tiles, diagonals.

use crate::args::Args;
use crate::create::{diagonal, positions};
use crate::cx::Cx;
use crate::dim::Dim;
use crate::dim_arith::Fit;
use crate::error::{OpError, Res};
use crate::meet::{stack, to_array};
use crate::show;
use crate::value::{Arg, Array, Val};
use optc_abi::DType;
use optc_ir::ScalarOp;

/// `reshape(x, a, b, -1)`, `reshape(x, [a, b])`, `reshape(x, n, ...)`.
pub(crate) fn reshape(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let target = target(args, &x)?;
    let total = Dim::product(&x.shape);
    let mut shape = Vec::with_capacity(target.len());
    let free: Vec<usize> = (0..target.len()).filter(|&i| target[i].known() == Some(-1)).collect();
    let fail = |target: &[Dim], why: String| {
        let wanted = Array { shape: target.to_vec(), weak: false, node: None, dtype: x.dtype };
        OpError::new("E0406", format!("an array of shape {} does not reshape to {}: {why}", show::shape(&x.shape), show::shape(target)))
            .note(show::pair(("array", &x, None), ("wanted", &wanted, None)))
            .help("a reshape keeps the number of elements; one extent may be -1")
    };
    if free.len() > 1 {
        return Err(fail(&target, "more than one extent is -1".into()));
    }
    if let Some(d) = target.iter().find(|d| d.known().is_some_and(|n| n < -1)) {
        return Err(fail(&target, format!("{d} is no extent")));
    }
    for (i, d) in target.iter().enumerate() {
        if free.contains(&i) {
            let others = Dim::product(target.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, d)| d));
            let left = total.rem(&others).and_then(|r| r.known());
            if others.known() == Some(0) || left.is_some_and(|r| r != 0) {
                return Err(fail(&target, format!("{total} elements are not a multiple of {others}")));
            }
            shape.push(total.exact_div(&others).or_else(|| total.floor_div(&others)).unwrap_or_default());
        } else {
            shape.push(d.clone());
        }
    }
    let new = Dim::product(&shape);
    if free.is_empty() && total.provably_different(&new) {
        return Err(fail(&shape, format!("{total} elements are not {new}")));
    }
    Ok(Val::Array(cx.reshaped(&x, &shape)))
}

/// The extents that a reshape names, `...` replaced by the rest of the shape.
fn target(args: &Args<'_>, x: &Array) -> Res<Vec<Dim>> {
    let is_dots = |a: &&Arg| matches!(&a.value, Val::Str(s) if &**s == "...");
    let mut given = Vec::new();
    let mut dots = false;
    for (i, arg) in args.rest.iter().enumerate() {
        if is_dots(arg) {
            if i + 1 != args.rest.len() {
                return Err(OpError::new("E0303", "`...` stands last in `reshape`").at(arg.span, "not last"));
            }
            dots = true;
            continue;
        }
        match crate::args::dims(&arg.value) {
            Some(d) => given.extend(d),
            None => {
                let found = show::kind(&arg.value);
                return Err(OpError::new("E0302", format!("an extent of `reshape` must be a compile-time integer, not {found}"))
                    .at(arg.span, "not an integer"));
            }
        }
    }
    if !dots {
        return Ok(given);
    }
    let product = Dim::product(&given);
    let open = given.iter().any(|d| d.known() == Some(-1));
    let split = |fit: Fit| (0..=x.shape.len()).find(|&k| Dim::product(&x.shape[..k]).fit(&product) == fit);
    let k = if open { 1 } else { split(Fit::Equal).or_else(|| split(Fit::Maybe)).unwrap_or(1) };
    given.extend(x.shape.iter().skip(k).cloned());
    Ok(given)
}

/// `transpose(x, axes)`: reversed, or the axes in the order given.
pub(crate) fn transpose(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let rank = x.shape.len();
    let perm: Vec<usize> = match args.opt("axes") {
        None => (0..rank).rev().collect(),
        Some(v) => {
            let dims = crate::args::dims(v).ok_or_else(|| args.wrong("axes", "a list of axes"))?;
            let Some(numbers) = dims.iter().map(Dim::known).collect::<Option<Vec<i64>>>() else { return Ok(Val::Unknown) };
            let perm: Vec<usize> = numbers.iter().map(|&n| if n < 0 { n + rank as i64 } else { n } as usize).collect();
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if sorted != (0..rank).collect::<Vec<_>>() {
                return Err(args.value(
                    "axes",
                    "E0404",
                    format!("`transpose` of `{}` needs each of its {rank} axes once", show::array(&x)),
                ));
            }
            perm
        }
    };
    Ok(Val::Array(cx.permuted(&x, &perm)))
}

/// `x.T`: the last two axes swapped; an array of one axis stays.
///
/// # Errors
/// A value that is no array.
pub fn transposed(cx: &mut Cx, x: &Val) -> Res<Val> {
    if crate::meet::is_unknown(x) {
        return Ok(Val::Unknown);
    }
    match crate::arith::listed(cx, x)? {
        Val::Array(a) => {
            let mut perm: Vec<usize> = (0..a.shape.len()).collect();
            if let Some(r) = perm.len().checked_sub(2) {
                perm.swap(r, r + 1);
            }
            Ok(Val::Array(cx.permuted(&a, &perm)))
        }
        v => Err(OpError::new("E0302", format!("`.T` needs an array, not {}", show::kind(&v)))),
    }
}

/// `swap_axes(x, a, b)`
pub(crate) fn swap_axes(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let (Some(a), Some(b)) = (args.axis("a", 0, &x)?, args.axis("b", 0, &x)?) else { return Ok(Val::Unknown) };
    let mut perm: Vec<usize> = (0..x.shape.len()).collect();
    perm.swap(a, b);
    Ok(Val::Array(cx.permuted(&x, &perm)))
}

/// `concat(xs, axis = 0)`
pub(crate) fn concat(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let mut parts = args.arrays(cx, "xs")?;
    let Some(axis) = args.axis("axis", 0, &parts[0])? else { return Ok(Val::Unknown) };
    let first = parts[0].clone();
    for p in &mut parts[1..] {
        if p.shape.len() != first.shape.len() {
            return Err(OpError::new("E0402", "`concat` of arrays with different numbers of axes")
                .note(show::pair(("first", &first, None), ("other", p, None))));
        }
        for i in (0..first.shape.len()).filter(|&i| i != axis) {
            if first.shape[i].fit(&p.shape[i]) == Fit::Different {
                return Err(OpError::new(
                    "E0402",
                    format!("`concat` along axis {axis} of arrays that differ along axis {i}: {} is not {}", first.shape[i], p.shape[i]),
                )
                .note(show::pair(("first", &first, Some(i)), ("other", p, Some(i))))
                .help("all axes but the one joined must be equal"));
            }
        }
    }
    Ok(Val::Array(cx.joined(&parts, axis)))
}

/// `stack(xs, axis = 0)`
pub(crate) fn stacked(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let parts = args.arrays(cx, "xs")?;
    let mut wider = parts[0].clone();
    wider.shape.push(Dim::one());
    let Some(axis) = args.axis("axis", 0, &wider)? else { return Ok(Val::Unknown) };
    stack(cx, &args.op(), &parts, axis).map(Val::Array)
}

/// `split(x, parts, axis = 0)`: into equal parts, or before the given indices.
pub(crate) fn split(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let Some(axis) = args.axis("axis", 0, &x)? else { return Ok(Val::Unknown) };
    let n = x.shape[axis].clone();
    let bounds: Vec<Dim> = match args.get("parts") {
        Val::Int(k) => {
            let Some(k) = k.known() else { return Ok(Val::Unknown) };
            if k < 1 || n.rem(&Dim::from(k)).and_then(|r| r.known()).is_some_and(|r| r != 0) {
                return Err(args.value("parts", "E0406", format!("`split` of {n} elements into {k} equal parts")));
            }
            if k > 4096 {
                return Err(args
                    .value("parts", "E0405", format!("`split` into {k} parts"))
                    .help("at most 4096; use `reshape` and one more axis"));
            }
            let part = n.floor_div(&Dim::from(k)).unwrap_or_default();
            (0..=k).map(|i| part.mul(&Dim::from(i))).collect()
        }
        v => {
            let mut b = crate::args::dims(v).ok_or_else(|| args.wrong("parts", "an integer or a list of indices"))?;
            for d in &mut b {
                // Negative indices count from the end.
                if d.known().is_some_and(|k| k < 0) {
                    *d = d.add(&n);
                }
            }
            b.insert(0, Dim::zero());
            b.push(n.clone());
            b
        }
    };
    let mut out = Vec::new();
    for w in bounds.windows(2) {
        let length = w[1].sub(&w[0]);
        let past = n.sub(&w[1]).known().is_some_and(|left| left < 0);
        if past || length.known().is_some_and(|l| l < 0) || w[0].known().is_some_and(|k| k < 0) {
            return Err(args.value("parts", "E0403", format!("indices of `split` must rise and be at most {n}")));
        }
        out.push(Val::Array(cx.sliced(&x, axis, &w[0], &length, 1)));
    }
    Ok(Val::Tuple(out))
}

/// `pad(x, widths, value = 0)`: widths are a number, a pair, or a pair per axis.
pub(crate) fn pad(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let rank = x.shape.len();
    let wrong = || args.wrong("widths", "a number, a pair (before, after), or a list of one pair per axis");
    let pair = |v: &Val| match crate::args::dims(v).as_deref() {
        Some([w]) => Some((w.clone(), w.clone())),
        Some([a, b]) => Some((a.clone(), b.clone())),
        _ => None,
    };
    let v = args.get("widths");
    let pairs: Vec<(Dim, Dim)> = match v {
        Val::List(items) if items.iter().any(|i| matches!(i, Val::List(_) | Val::Tuple(_))) => {
            if items.len() != rank {
                return Err(args.value(
                    "widths",
                    "E0404",
                    format!("`pad` of `{}` needs {rank} pairs, not {}", show::array(&x), items.len()),
                ));
            }
            items.iter().map(|i| pair(i).ok_or_else(wrong)).collect::<Res<_>>()?
        }
        v => vec![pair(v).ok_or_else(wrong)?; rank],
    };
    if pairs.iter().any(|(a, b)| [a, b].iter().any(|w| w.known().is_some_and(|n| n < 0))) {
        return Err(args.value("widths", "E0405", "widths of `pad` are not negative; cut with a slice".into()));
    }
    let zero = Val::Int(Dim::zero());
    let value = match args.opt("value") {
        None if x.dtype == DType::Bool => &Val::Bool(Some(false)),
        v => v.unwrap_or(&zero),
    };
    let value = to_array(cx, &args.op(), value, x.dtype)?;
    if !value.shape.is_empty() {
        return Err(args.wrong("value", "a scalar"));
    }
    let (lo, hi): (Vec<Dim>, Vec<Dim>) = pairs.into_iter().unzip();
    let padded: Vec<Dim> = x.shape.iter().zip(lo.iter().zip(&hi)).map(|(n, (a, b))| n.add(a).add(b)).collect();
    args.check_size("widths", &padded)?;
    Ok(Val::Array(cx.padded(&x, &value, &lo, &hi)))
}

/// `tile(x, reps)`
pub(crate) fn tile(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let mut reps = args.shape("reps")?;
    let rank = reps.len().max(x.shape.len());
    while reps.len() < rank {
        reps.insert(0, Dim::one());
    }
    let mut shape = x.shape.clone();
    while shape.len() < rank {
        shape.insert(0, Dim::one());
    }
    let (mut wide, mut dims, mut flat) = (Vec::new(), Vec::new(), Vec::new());
    for (n, r) in shape.iter().zip(&reps) {
        wide.push(r.clone());
        dims.push(wide.len());
        wide.push(n.clone());
        flat.push(n.mul(r));
    }
    args.check_size("reps", &flat)?;
    let x = cx.reshaped(&x, &shape);
    let y = cx.spread(&x, &dims, &wide);
    Ok(Val::Array(cx.reshaped(&y, &flat)))
}

/// `repeat(x, n, axis)`: each element `n` times; without an axis of the flattened array.
pub(crate) fn repeat(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let n = args.extent("n", 1)?;
    let (x, axis) = match args.opt("axis") {
        Some(_) => {
            let Some(axis) = args.axis("axis", 0, &x)? else { return Ok(Val::Unknown) };
            (x, axis)
        }
        None => (cx.reshaped(&x, &[Dim::product(&x.shape)]), 0),
    };
    let mut wide = x.shape.clone();
    wide.insert(axis + 1, n.clone());
    args.check_size("n", &wide)?;
    let dims: Vec<usize> = (0..wide.len()).filter(|&i| i != axis + 1).collect();
    let y = cx.spread(&x, &dims, &wide);
    let mut flat = x.shape.clone();
    flat[axis] = flat[axis].mul(&n);
    Ok(Val::Array(cx.reshaped(&y, &flat)))
}

/// `flip(x, axis)`: all axes if none is given.
pub(crate) fn flip(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let Some(axes) = args.axes("axis", &x)? else { return Ok(Val::Array(x)) };
    Ok(Val::Array(cx.flipped(&x, &axes)))
}

/// `roll(x, shift, axis)`: elements move up by `shift` and come back at the start; without an axis through the flattened array.
pub(crate) fn roll(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let whole = args.array(cx, "x")?;
    let (x, axis) = match args.opt("axis") {
        Some(_) => {
            let Some(axis) = args.axis("axis", 0, &whole)? else { return Ok(Val::Array(whole)) };
            (whole.clone(), axis)
        }
        None => (cx.reshaped(&whole, &[Dim::product(&whole.shape)]), 0),
    };
    let n = x.shape[axis].clone();
    if n.known() == Some(0) {
        return Ok(Val::Array(whole));
    }
    let out = match args.get("shift") {
        Val::Int(s) => {
            let s = s.rem(&n).unwrap_or_default();
            if s.known() == Some(0) {
                return Ok(Val::Array(whole));
            }
            let rest = n.sub(&s);
            let tail = cx.sliced(&x, axis, &rest, &s, 1);
            let head = cx.sliced(&x, axis, &Dim::zero(), &rest, 1);
            let mut y = cx.joined(&[tail, head], axis);
            y.shape[axis] = n;
            y
        }
        Val::Array(s) if s.dtype.is_int() && s.shape.is_empty() => {
            let s = cx.convert(s, DType::I32);
            let count = cx.counting(DType::I32, std::slice::from_ref(&n), 0);
            let shift = cx.spread(&s, &[], &count.shape);
            let from = cx.map(ScalarOp::Sub, &[&count, &shift]);
            let size = cx.size_scalar(DType::I32, &n);
            let size = cx.spread(&size, &[], &count.shape);
            let from = cx.map(ScalarOp::Rem, &[&from, &size]);
            cx.gathered(&x, &from, axis)
        }
        _ => return Err(args.wrong("shift", "an integer")),
    };
    Ok(Val::Array(cx.reshaped(&out, &whole.shape)))
}

/// No diagonal is farther out; sums with row numbers stay within i32.
const FAR: i64 = 1 << 30;

/// `diag(x, k = 0)`: a matrix with `x` on its diagonal, or the diagonal of a matrix.
pub(crate) fn diag(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let Some(k) = args.known_int("k", 0)? else { return Ok(Val::Unknown) };
    let k = k.clamp(-FAR, FAR);
    let (down, right) = (Dim::from((-k).max(0)), Dim::from(k.max(0)));
    match x.shape.len() {
        1 => {
            let n = x.shape[0].add(&Dim::from(k.abs()));
            let shape = [n.clone(), n];
            args.check_size("x", &shape)?;
            let zero = cx.scalar(x.dtype, 0.0);
            let spread = if k == 0 { x.clone() } else { cx.padded(&x, &zero, std::slice::from_ref(&right), std::slice::from_ref(&down)) };
            let wide = cx.spread(&spread, &[1], &shape);
            let on = diagonal(cx, &shape, k);
            let zeros = cx.spread(&zero, &[], &shape);
            Ok(Val::Array(cx.select(&on, &wide, &zeros)))
        }
        2 => {
            let (n, m) = (x.shape[0].sub(&down), x.shape[1].sub(&right));
            let length = Dim::max(&Dim::min(&n, &m), &Dim::zero());
            if length.known() == Some(0) {
                return Ok(Val::Array(cx.splat(x.dtype, &[Dim::zero()], 0.0)));
            }
            let flat = cx.reshaped(&x, &[Dim::product(&x.shape)]);
            let start = down.mul(&x.shape[1]).add(&right);
            let step = x.shape[1].known().map_or(1, |m| m as usize + 1);
            Ok(Val::Array(cx.sliced(&flat, 0, &start, &length, step)))
        }
        _ => Err(OpError::new("E0404", format!("`diag` needs a vector or a matrix, not `{}`", show::array(&x)))),
    }
}

/// `tril(x, k = 0)`, `triu(x, k = 0)`: zero above, below the `k`-th diagonal of the last two axes.
pub(crate) fn triangle(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let x = args.array(cx, "x")?;
    let Some(k) = args.known_int("k", 0)? else { return Ok(Val::Array(x)) };
    let k = k.clamp(-FAR, FAR);
    if x.shape.len() < 2 {
        return Err(OpError::new("E0404", format!("`{}` needs at least two axes, not `{}`", args.name, show::array(&x))));
    }
    let (i, j) = positions(cx, &x.shape, k);
    let kept = if args.name == "tril" { cx.map(ScalarOp::Le, &[&j, &i]) } else { cx.map(ScalarOp::Le, &[&i, &j]) };
    let zero = cx.splat(x.dtype, &x.shape, 0.0);
    Ok(Val::Array(cx.select(&kept, &x, &zero)))
}
