//! Indexing in brackets and updates of parts.
//!
//! Integers drop their axis before index arrays are broadcast together; otherwise NumPy's rules hold, but for negative run-time indices, which are out of range.

use crate::arith::{broadcast_to, listed};
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::index_plan::{Pick, Plan, in_range, plan};
use crate::meet::{is_regular, is_unknown, join_arrays, to_array};
use crate::show;
use crate::value::{Array, Ix, Val};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::ScatterMode;

/// `base[items]`: of an array, a list, a tuple.
///
/// # Errors
/// Too many indices, constants out of range, indices of the wrong type.
pub fn index(cx: &mut Cx, base: &Val, items: &[Ix]) -> Res<Val> {
    let unknown = |ix: &Ix| match ix {
        Ix::At(v, _) => is_unknown(v),
        Ix::Slice { start, stop, step, .. } => [start, stop, step].into_iter().flatten().any(is_unknown),
        _ => false,
    };
    if matches!(base, Val::Unknown) || items.iter().any(unknown) {
        return Ok(Val::Unknown);
    }
    match base {
        Val::Array(a) => array_index(cx, a, items).map(Val::Array),
        Val::Int(_) | Val::Float(_) | Val::Bool(_) => {
            let a = crate::arith::materialize(cx, base, None)?;
            array_index(cx, &a, items).map(Val::Array)
        }
        Val::List(x) | Val::Tuple(x) => list_index(cx, base, x, items),
        Val::Range(a, b) => match items {
            [Ix::At(Val::Int(i), span)] => match in_range(i, &b.sub(a)) {
                Some(at) => Ok(Val::Int(a.add(&at))),
                None => Err(OpError::new("E0403", format!("index {i} is out of range: the range has {} elements", b.sub(a))).at(*span, "")),
            },
            _ => {
                let x = listed(cx, base)?;
                index(cx, &x, items)
            }
        },
        _ => Err(OpError::new("E0304", format!("{} has no elements to index", show::kind(base)))),
    }
}

fn list_index(cx: &mut Cx, base: &Val, x: &[Val], items: &[Ix]) -> Res<Val> {
    let Some((first, rest)) = items.split_first() else { return Ok(base.clone()) };
    // Lists are indexed element by element; what looks at several axes together is for arrays.
    let plain = |ix: &Ix| matches!(ix, Ix::At(Val::Int(_), _) | Ix::Slice { length: None, .. });
    if matches!(base, Val::List(_)) && !rest.is_empty() && !items.iter().all(plain) && is_regular(base) {
        let a = crate::arith::materialize(cx, base, None)?;
        return array_index(cx, &a, items).map(Val::Array);
    }
    let picked = match first {
        Ix::At(Val::Int(i), span) => match i.known() {
            Some(_) => match in_range(i, &Dim::from(x.len())).and_then(|d| d.known()) {
                Some(at) => x[at as usize].clone(),
                None => {
                    let kind = if matches!(base, Val::Tuple(_)) { "tuple" } else { "list" };
                    return Err(
                        OpError::new("E0403", format!("index {i} is out of range: the {kind} has {} elements", x.len())).at(*span, "")
                    );
                }
            },
            None => return Ok(Val::Unknown),
        },
        Ix::Slice { start, stop, step, length: None, span } => {
            let read = |v: &Option<Val>| match v {
                None | Some(Val::None) => Ok(None),
                Some(Val::Int(d)) => Ok(Some(d.clone())),
                Some(v) => Err(OpError::new(
                    "E0304",
                    format!("a bound of a slice of a list must be a compile-time integer, not {}", show::kind(v)),
                )
                .at(*span, "")),
            };
            let (start, stop, step) = (read(start)?, read(stop)?, read(step)?);
            let numbers = [&start, &stop, &step].map(|d| d.as_ref().map(Dim::known));
            if numbers.iter().any(|n| matches!(n, Some(None))) {
                return Ok(Val::Unknown);
            }
            let step = step.and_then(|d| d.known()).unwrap_or(1).clamp(-i64::from(i32::MAX), i64::from(i32::MAX));
            if step == 0 {
                return Err(OpError::new("E0405", "the step of a slice is 0").at(*span, ""));
            }
            let (from, length) = crate::index_plan::bounds(&Dim::from(x.len()), start.as_ref(), stop.as_ref(), step);
            let (from, length) = (from.known().unwrap_or(0), length.known().unwrap_or(0));
            let part = (0..length).map(|k| x[(from + k * step) as usize].clone());
            // What follows is about the axes within an element.
            let part = part.map(|e| if rest.is_empty() { Ok(e) } else { index(cx, &e, rest) }).collect::<Res<Vec<Val>>>()?;
            return Ok(if matches!(base, Val::Tuple(_)) { Val::Tuple(part) } else { Val::List(part) });
        }
        _ => {
            let a = crate::arith::materialize(cx, base, None)?;
            return array_index(cx, &a, items).map(Val::Array);
        }
    };
    if rest.is_empty() { Ok(picked) } else { index(cx, &picked, rest) }
}

fn array_index(cx: &mut Cx, base: &Array, items: &[Ix]) -> Res<Array> {
    let plan = plan(cx, base, items)?;
    let base = &Array { weak: false, ..base.clone() };
    let ids = gather_ids(cx, &plan)?;
    let ids_shape = ids.first().map_or(Vec::new(), |a| a.shape.clone());
    let target = plan.shape(&ids_shape, true);
    // Constant picks first: one slice, one flip, one reshape.
    let cut = cut_static(cx, base, &plan.picks);
    let dynamic = plan.picks.iter().any(|p| matches!(p, Pick::Row(_) | Pick::Run { .. } | Pick::Gather(_)));
    if !dynamic {
        return Ok(cx.reshaped(&cut, &target));
    }
    let kept: Vec<usize> = (0..plan.picks.len()).filter(|&i| !matches!(plan.picks[i], Pick::At(_))).collect();
    let shape: Vec<Dim> = kept.iter().map(|&i| cut.shape[i].clone()).collect();
    let mut x = cx.reshaped(&cut, &shape);
    let mut axes = Vec::new();
    for &i in &kept {
        let axis = axes.len();
        match &plan.picks[i] {
            Pick::Row(row) => {
                x = cx.gathered(&x, row, axis);
                continue;
            }
            Pick::Run { start, length, step } => {
                let ids = run_ids(cx, start, length, *step);
                x = cx.gathered(&x, &ids, axis);
            }
            _ => {}
        }
        axes.push(i);
    }
    let at: Vec<usize> =
        plan.gathers().iter().map(|g| axes.iter().position(|a| a == g).expect("compiler bug: a gathered axis is kept")).collect();
    x = gather_many(cx, &x, &at, &ids, plan.gathers_first());
    Ok(cx.reshaped(&x, &target))
}

/// The index arrays, broadcast together.
fn gather_ids(cx: &mut Cx, plan: &Plan) -> Res<Vec<Array>> {
    let ids: Vec<Array> = plan.picks.iter().filter_map(|p| if let Pick::Gather(ids) = p { Some(ids.clone()) } else { None }).collect();
    if ids.len() < 2 { Ok(ids) } else { join_arrays(cx, "an index by several arrays", &ids) }
}

/// Constant slices and elements; the axes of elements stay with extent 1.
fn cut_static(cx: &mut Cx, x: &Array, picks: &[Pick]) -> Array {
    let (mut start, mut length, mut step, mut flips) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (i, pick) in picks.iter().enumerate() {
        match pick {
            Pick::Slice { start: s, length: l, step: k } if *k < 0 => {
                let low = s.sub(&l.sub(&Dim::one()).mul(&Dim::from(-*k)));
                start.push(if l.known() == Some(0) { Dim::zero() } else { low });
                length.push(l.clone());
                step.push(-*k as usize);
                flips.push(i);
            }
            Pick::Slice { start: s, length: l, step: k } => {
                start.push(s.clone());
                length.push(l.clone());
                step.push(*k as usize);
            }
            Pick::At(d) => {
                start.push(d.clone());
                length.push(Dim::one());
                step.push(1);
            }
            _ => {
                start.push(Dim::zero());
                length.push(x.shape[i].clone());
                step.push(1);
            }
        }
    }
    let whole = picks.iter().zip(&x.shape).all(|(p, n)| p.is_whole(n) || !matches!(p, Pick::Slice { .. } | Pick::At(_)));
    let cut = if whole { x.clone() } else { cx.sliced_all(x, &start, &length, &step) };
    cx.flipped(&cut, &flips)
}

fn run_ids(cx: &mut Cx, start: &Array, length: &Dim, step: i64) -> Array {
    let shape = std::slice::from_ref(length);
    let count = cx.counting(DType::I32, shape, 0);
    let count = if step == 1 { count } else { cx.with_const(ScalarOp::Mul, &count, step as f64) };
    let start = cx.spread(start, &[], shape);
    cx.map(ScalarOp::Add, &[&start, &count])
}

/// Elements named by several index arrays of one shape; their axes stand where the first (of adjacent ones) was, or in front.
fn gather_many(cx: &mut Cx, x: &Array, axes: &[usize], ids: &[Array], front: bool) -> Array {
    match axes {
        [] => x.clone(),
        [axis] => cx.gathered(x, &ids[0], *axis),
        _ => {
            let (merged, axis, flat, _) = merge(cx, x, axes, ids, front);
            cx.gathered(&merged, &flat, axis)
        }
    }
}

/// Merges the indexed axes into one: the array, that axis, the indices along it, and the order the axes had before merging.
pub(crate) fn merge(cx: &mut Cx, x: &Array, axes: &[usize], ids: &[Array], front: bool) -> (Array, usize, Array, Vec<usize>) {
    let others = (0..x.shape.len()).filter(|i| !axes.contains(i));
    let perm: Vec<usize> = if front { axes.iter().copied().chain(others).collect() } else { (0..x.shape.len()).collect() };
    let first = if front { 0 } else { axes[0] };
    let y = cx.permuted(x, &perm);
    let extents = y.shape[first..first + axes.len()].to_vec();
    let mut shape = y.shape[..first].to_vec();
    shape.push(Dim::product(&extents));
    shape.extend(y.shape[first + axes.len()..].iter().cloned());
    let merged = cx.reshaped(&y, &shape);
    let mut flat: Option<Array> = None;
    for (n, ids) in extents.iter().zip(ids) {
        // A lookup in 0, 1, … gives the index itself and checks it: the merged index alone could hide one that is out of range.
        let count = cx.counting(DType::I32, std::slice::from_ref(n), 0);
        let checked = cx.gathered(&count, ids, 0);
        flat = Some(match flat {
            None => checked,
            Some(f) => {
                let width = cx.size_scalar(DType::I32, n);
                let width = cx.spread(&width, &[], &f.shape);
                let scaled = cx.map(ScalarOp::Mul, &[&f, &width]);
                cx.map(ScalarOp::Add, &[&scaled, &checked])
            }
        });
    }
    (merged, first, flat.expect("compiler bug: several index arrays"), perm)
}

/// The array with `base[items] <- value`; the value is broadcast to the part and takes the element type of the array if it is a number.
///
/// # Errors
/// As [`index`], and a value that does not fit the part.
pub fn index_update(cx: &mut Cx, base: &Array, items: &[Ix], value: &Val) -> Res<Array> {
    let plan = plan(cx, base, items)?;
    let ids = gather_ids(cx, &plan)?;
    let ids_shape = ids.first().map_or(Vec::new(), |a| a.shape.clone());
    let value = to_array(cx, "an update", value, base.dtype)?;
    let region = plan.shape(&ids_shape, true);
    let value =
        broadcast_to(cx, &value, &region).map_err(|e| e.note(format!("the updated part has the shape {}", show::shape(&region))))?;
    let value = cx.reshaped(&value, &plan.shape(&ids_shape, false));
    let mut left: Vec<(usize, Pick)> = plan.picks.iter().cloned().enumerate().filter(|(i, p)| !p.is_whole(&base.shape[*i])).collect();
    // Elements before slices before index arrays: the parts that are copied stay small.
    left.sort_by_key(|(_, p)| match p {
        Pick::At(_) | Pick::Row(_) => 0,
        Pick::Run { .. } => 1,
        Pick::Slice { .. } => 2,
        Pick::Gather(_) => 3,
    });
    let base = Array { weak: false, ..base.clone() };
    Ok(put(cx, &base, &left, (&ids, plan.gathers_first()), &value))
}

/// `x` with the picked part replaced. `picks` holds the axes of `x` that are not picked whole, index arrays last.
fn put(cx: &mut Cx, x: &Array, picks: &[(usize, Pick)], ids: (&[Array], bool), value: &Array) -> Array {
    let Some(((axis, pick), rest)) = picks.split_first() else { return value.clone() };
    let axis = *axis;
    if let Pick::Gather(_) = pick {
        let axes: Vec<usize> = picks.iter().map(|(a, _)| *a).collect();
        return put_many(cx, x, &axes, ids, value);
    }
    let at = match pick {
        Pick::At(d) => cx.size_scalar(DType::I32, d),
        Pick::Row(row) => row.clone(),
        Pick::Run { start, length, step } => run_ids(cx, start, length, *step),
        Pick::Slice { start, length, step } => {
            let start = cx.size_scalar(DType::I32, start);
            run_ids(cx, &start, length, *step)
        }
        Pick::Gather(_) => unreachable!("compiler bug: handled above"),
    };
    if rest.is_empty() {
        return cx.scattered(x, &at, value, axis, ScatterMode::Set);
    }
    let part = match pick {
        Pick::Slice { .. } => {
            let whole = |i: usize| Pick::Slice { start: Dim::zero(), length: x.shape[i].clone(), step: 1 };
            let picks: Vec<Pick> = (0..x.shape.len()).map(|i| if i == axis { pick.clone() } else { whole(i) }).collect();
            cut_static(cx, x, &picks)
        }
        Pick::At(d) => {
            let row = cx.sliced(x, axis, d, &Dim::one(), 1);
            cx.reshaped(&row, &crate::prim::without(&x.shape, &[axis]))
        }
        _ => cx.gathered(x, &at, axis),
    };
    let gone = usize::from(at.shape.is_empty());
    let inner: Vec<(usize, Pick)> = rest.iter().map(|(a, p)| (if *a > axis { a - gone } else { *a }, p.clone())).collect();
    let new = put(cx, &part, &inner, ids, value);
    cx.scattered(x, &at, &new, axis, ScatterMode::Set)
}

fn put_many(cx: &mut Cx, x: &Array, axes: &[usize], (ids, front): (&[Array], bool), value: &Array) -> Array {
    if let [axis] = axes {
        return cx.scattered(x, &ids[0], value, *axis, ScatterMode::Set);
    }
    let (merged, axis, flat, perm) = merge(cx, x, axes, ids, front);
    let out = cx.scattered(&merged, &flat, value, axis, ScatterMode::Set);
    let order: Vec<Dim> = perm.iter().map(|&p| x.shape[p].clone()).collect();
    let out = cx.reshaped(&out, &order);
    let mut back = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        back[p] = i;
    }
    cx.permuted(&out, &back)
}
