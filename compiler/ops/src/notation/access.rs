//! Indexed arrays `a[i, 2*j + u, ids[k], 3, ...]`: subscripts become slices, windows and gathers.

use super::affine::{Affine, affine};
use super::extents::Extents;
use super::term::{Term, spread, union};
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::index_plan::in_range;
use crate::ixpr::{IxExpr, IxId};
use crate::show;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_base::Span;

/// What an axis of the array under construction is.
#[derive(Clone, Debug)]
enum Slot {
    /// The axis of an index.
    Index(IxId),
    /// An axis still to be subscripted.
    Open(usize),
}

/// The array over the indices of its subscripts.
pub(super) fn access(cx: &mut Cx, e: &Extents, base: &Val, subscripts: &[Option<IxExpr>], span: Span) -> Res<Term> {
    let Val::Array(base) = crate::arith::listed(cx, base)? else {
        return Err(OpError::new("E0304", format!("{} has no elements to index", show::kind(base))));
    };
    let base = Array { weak: false, ..base };
    let named = subscripts.iter().flatten().count();
    let dots = subscripts.len() > named;
    let rank = base.shape.len();
    if named > rank || (!dots && named < rank) {
        let e = OpError::new("E0404", format!("{named} subscripts for `{}` of {rank} axes", show::array(&base))).at(span, "");
        return Err(if named < rank { e.help("write `...` for the leading axes") } else { e });
    }
    let mut slots = Vec::new();
    for (k, s) in subscripts.iter().enumerate() {
        match s {
            None => slots.extend(Extents::leads(rank - named).into_iter().map(Slot::Index)),
            Some(_) => slots.push(Slot::Open(k)),
        }
    }
    let forms: Vec<Option<Affine>> = subscripts.iter().map(|s| s.as_ref().and_then(affine)).collect();
    // An index in several subscripts picks a diagonal: those become gathers.
    let mut uses: Vec<(IxId, usize)> = Vec::new();
    let mut others = Vec::new();
    for (k, s) in subscripts.iter().enumerate() {
        match (&forms[k], s) {
            (Some(a), _) => uses.extend(a.terms.iter().map(|(id, _)| (*id, k))),
            (None, Some(s)) => {
                let t = super::eval(cx, e, s)?;
                if let Term::Indexed { axes, .. } = &t {
                    uses.extend(axes.iter().map(|id| (*id, k)));
                }
                others.push((k, t));
            }
            (None, None) => {}
        }
    }
    let shared = |k: usize| uses.iter().any(|(id, at)| *at == k && uses.iter().any(|(other, b)| other == id && b != at));
    let mut gathers: Vec<(usize, Term)> = Vec::new();
    for (k, s) in subscripts.iter().enumerate() {
        let Some(s) = s else { continue };
        match others.iter().position(|(at, _)| *at == k) {
            Some(at) => gathers.push((k, others[at].1.clone())),
            None if shared(k) => gathers.push((k, super::eval(cx, e, s)?)),
            None => {}
        }
    }
    let mut x = base.clone();
    for (k, form) in forms.iter().enumerate() {
        let Some(form) = form else { continue };
        if gathers.iter().any(|(at, _)| *at == k) {
            continue;
        }
        let axis = slots.iter().position(|s| matches!(s, Slot::Open(at) if *at == k)).expect("compiler bug: an axis for a subscript");
        let (y, axes) = cut(cx, e, &x, axis, form);
        x = y;
        slots.splice(axis..=axis, axes.into_iter().map(Slot::Index));
    }
    if !gathers.is_empty() {
        (x, slots) = gather(cx, e, x, slots, &gathers, subscripts)?;
    }
    let axes = slots
        .into_iter()
        .map(|s| match s {
            Slot::Index(id) => id,
            Slot::Open(_) => panic!("compiler bug: an axis without subscript"),
        })
        .collect::<Vec<_>>();
    if axes.is_empty() {
        return Ok(Term::Number(Val::Array(x)));
    }
    Ok(Term::Indexed { array: x, axes, weak: false })
}

/// Replaces an axis by the axes of the indices of an affine subscript.
fn cut(cx: &mut Cx, e: &Extents, x: &Array, axis: usize, form: &Affine) -> (Array, Vec<IxId>) {
    let one = Dim::one();
    if form.terms.is_empty() {
        let at = in_range(&form.offset, &x.shape[axis]).unwrap_or_else(|| form.offset.clone());
        let row = cx.sliced(x, axis, &at, &one, 1);
        let shape = crate::prim::without(&x.shape, &[axis]);
        return (cx.reshaped(&row, &shape), Vec::new());
    }
    // Counting down is counting up from the other end, reversed.
    let mut start = form.offset.clone();
    let mut steps = Vec::new();
    let mut down = Vec::new();
    for (id, c) in &form.terms {
        let n = e.extent(*id);
        if c.known().is_some_and(|k| k < 0) {
            start = start.add(&c.mul(&n.sub(&one)));
            down.push(*id);
            steps.push((*id, n, c.neg()));
        } else {
            steps.push((*id, n, c.clone()));
        }
    }
    if steps.iter().any(|(_, n, _)| n.known() == Some(0)) {
        let mut shape = x.shape.clone();
        shape.splice(axis..=axis, steps.iter().map(|(_, n, _)| n.clone()));
        return (cx.splat(x.dtype, &shape, 0.0), steps.into_iter().map(|(id, ..)| id).collect());
    }
    let number = |d: &Dim| d.known().map_or(1, |k| k as usize);
    // The largest step first: windows of windows.
    steps.sort_by_key(|(_, _, c)| std::cmp::Reverse(number(c)));
    let reach = |rest: &[(IxId, Dim, Dim)]| rest.iter().fold(Dim::one(), |r, (_, n, c)| r.add(&n.sub(&Dim::one()).mul(c)));
    let ids: Vec<IxId> = steps.iter().map(|(id, ..)| *id).collect();
    let mut y;
    if let [(_, n, c)] = steps.as_slice() {
        y = if start.known() == Some(0) && c.known() == Some(1) && x.shape[axis] == *n {
            x.clone()
        } else {
            cx.sliced(x, axis, &start, n, number(c))
        };
    } else {
        y = cx.sliced(x, axis, &start, &reach(&steps), 1);
        for k in 0..steps.len() - 1 {
            let (_, n, c) = &steps[k];
            let at = axis + k;
            if let [(_, m, d)] = &steps[k + 1..] {
                y = cx.windowed(&y, at, n, m, number(c), number(d));
            } else {
                y = cx.windowed(&y, at, n, &reach(&steps[k + 1..]), number(c), 1);
            }
        }
    }
    let flips: Vec<usize> =
        down.iter().map(|id| axis + ids.iter().position(|i| i == id).expect("compiler bug: an index of the subscript")).collect();
    y = cx.flipped(&y, &flips);
    (y, ids)
}

/// Looks up elements by computed subscripts.
fn gather(
    cx: &mut Cx,
    e: &Extents,
    x: Array,
    mut slots: Vec<Slot>,
    gathers: &[(usize, Term)],
    subscripts: &[Option<IxExpr>],
) -> Res<(Array, Vec<Slot>)> {
    let place = |slots: &[Slot], k: usize| {
        slots.iter().position(|s| matches!(s, Slot::Open(at) if *at == k)).expect("compiler bug: an axis for a subscript")
    };
    let mut ids = Vec::new();
    for (k, t) in gathers {
        let (a, axes) = t.to_array(cx)?;
        if !a.dtype.is_int() {
            let span = subscripts[*k].as_ref().map_or_else(Span::default, |s| s.span);
            return Err(OpError::new("E0304", format!("a subscript must be an integer, not `{}`", a.dtype))
                .at(span, "not an integer")
                .help("convert it with `as i32`"));
        }
        ids.push((cx.convert(&a, DType::I32), axes));
    }
    let order = union(&gathers.iter().map(|(_, t)| t).collect::<Vec<_>>());
    if let ([(k, _)], [(a, axes)]) = (gathers, ids.as_slice()) {
        let axis = place(&slots, *k);
        let y = cx.gathered(&x, a, axis);
        slots.splice(axis..=axis, axes.iter().map(|id| Slot::Index(*id)));
        return Ok((y, slots));
    }
    let shape: Vec<Dim> = order.iter().map(|&id| e.extent(id)).collect();
    let wide: Vec<Array> = ids.iter().map(|(a, axes)| spread(cx, a, axes, &order, &shape)).collect();
    let at: Vec<usize> = gathers.iter().map(|(k, _)| place(&slots, *k)).collect();
    let adjacent = at.windows(2).all(|w| w[1] == w[0] + 1);
    let (merged, axis, flat, _) = crate::index::merge(cx, &x, &at, &wide, !adjacent);
    let y = cx.gathered(&merged, &flat, axis);
    let kept: Vec<Slot> = slots.iter().enumerate().filter(|(i, _)| !at.contains(i)).map(|(_, s)| s.clone()).collect();
    let mut out = kept;
    out.splice(axis..axis, order.iter().map(|id| Slot::Index(*id)));
    Ok((y, out))
}
