//! What the items of an index mean for each axis of an array.

use crate::arith::materialize;
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::show;
use crate::value::{Array, Ix, Val};
use optc_abi::{DType, Tensor};
use optc_base::Span;

/// What is picked along one axis.
#[derive(Clone, Debug)]
pub(crate) enum Pick {
    /// `start, start + step, …`: `length` elements; a negative step counts down.
    Slice { start: Dim, length: Dim, step: i64 },
    /// One element known when compiled; the axis goes.
    At(Dim),
    /// One element known at run time (i32 scalar); the axis goes.
    Row(Array),
    /// `start, start + step, …` with a run-time start.
    Run { start: Array, length: Dim, step: i64 },
    /// The elements that an i32 array of rank 1 or more names.
    Gather(Array),
}

impl Pick {
    /// All elements in order.
    pub(crate) fn is_whole(&self, extent: &Dim) -> bool {
        matches!(self, Pick::Slice { start, length, step: 1 } if start.known() == Some(0) && length == extent)
    }
}

/// One place of the result, before index arrays are broadcast together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// What is left of this axis.
    Axis(usize),
    /// A new axis of extent 1.
    New,
}

/// The meaning of an index.
pub(crate) struct Plan {
    /// One per axis.
    pub picks: Vec<Pick>,
    /// The items in order.
    pub places: Vec<Place>,
}

impl Plan {
    /// The axes of index arrays, in order.
    pub(crate) fn gathers(&self) -> Vec<usize> {
        (0..self.picks.len()).filter(|&i| matches!(self.picks[i], Pick::Gather(_))).collect()
    }
    /// Whether the axes of several index arrays come first in the result: they do where something stands between them (NumPy's rule).
    pub(crate) fn gathers_first(&self) -> bool {
        let at: Vec<usize> = self
            .places
            .iter()
            .enumerate()
            .filter(|(_, p)| matches!(p, Place::Axis(a) if matches!(self.picks[*a], Pick::Gather(_))))
            .map(|(i, _)| i)
            .collect();
        let between = |a: usize, b: usize| {
            self.places[a + 1..b].iter().any(|p| match p {
                Place::New => true,
                Place::Axis(i) => !matches!(self.picks[*i], Pick::At(_) | Pick::Row(_)),
            })
        };
        at.windows(2).any(|w| between(w[0], w[1]))
    }
    /// The shape of the result, given that of the index arrays together; `new_axes` says whether to count new axes.
    pub(crate) fn shape(&self, ids: &[Dim], new_axes: bool) -> Vec<Dim> {
        let mut out = Vec::new();
        let first = self.gathers_first();
        if first {
            out.extend_from_slice(ids);
        }
        let mut placed = first;
        for place in &self.places {
            match place {
                Place::New if new_axes => out.push(Dim::one()),
                Place::New => {}
                Place::Axis(i) => match &self.picks[*i] {
                    Pick::Slice { length, .. } | Pick::Run { length, .. } => out.push(length.clone()),
                    Pick::Gather(_) if !placed => {
                        placed = true;
                        out.extend_from_slice(ids);
                    }
                    _ => {}
                },
            }
        }
        out
    }
}

/// Reads the items of an index of an array.
pub(crate) fn plan(cx: &mut Cx, base: &Array, items: &[Ix]) -> Res<Plan> {
    let rank = base.shape.len();
    let is_new = |ix: &Ix| matches!(ix, Ix::NewAxis(_) | Ix::At(Val::None, _));
    let used = items.iter().filter(|ix| !is_new(ix) && !matches!(ix, Ix::Ellipsis(_))).count();
    if used > rank {
        let span = items.iter().filter(|ix| !is_new(ix) && !matches!(ix, Ix::Ellipsis(_))).nth(rank).and_then(span_of);
        let e = OpError::new("E0404", format!("{used} indices for {}", axes_of(base)));
        return Err(span.map_or(e.clone(), |s| e.at(s, "one too many")));
    }
    if let Some(second) = items.iter().filter(|ix| matches!(ix, Ix::Ellipsis(_))).nth(1) {
        let e = OpError::new("E0404", "an index holds `...` twice");
        return Err(span_of(second).map_or(e.clone(), |s| e.at(s, "the second")));
    }
    let whole = |axis: usize| Pick::Slice { start: Dim::zero(), length: base.shape[axis].clone(), step: 1 };
    let mut out = Plan { picks: Vec::new(), places: Vec::new() };
    let push = |out: &mut Plan, pick: Pick| {
        out.places.push(Place::Axis(out.picks.len()));
        out.picks.push(pick);
    };
    for item in items {
        let axis = out.picks.len();
        match item {
            ix if is_new(ix) => out.places.push(Place::New),
            Ix::Ellipsis(_) => {
                for k in 0..rank - used {
                    push(&mut out, whole(axis + k));
                }
            }
            Ix::At(v, span) => {
                let pick = at(cx, base, axis, v, *span)?;
                push(&mut out, pick);
            }
            Ix::Slice { start, stop, step, length, span } => {
                let parts = [start.as_ref(), stop.as_ref(), step.as_ref()];
                let pick = slice(cx, base, axis, parts, length.as_ref(), *span)?;
                push(&mut out, pick);
            }
            Ix::NewAxis(_) => unreachable!("compiler bug: handled above"),
        }
    }
    while out.picks.len() < rank {
        let pick = whole(out.picks.len());
        push(&mut out, pick);
    }
    Ok(out)
}

fn axes_of(base: &Array) -> String {
    match base.shape.len() {
        0 => format!("a scalar `{}`", base.dtype),
        1 => format!("an array `{}` of one axis", show::array(base)),
        n => format!("an array `{}` of {n} axes", show::array(base)),
    }
}

fn span_of(ix: &Ix) -> Option<Span> {
    match ix {
        Ix::At(_, s) | Ix::Ellipsis(s) | Ix::NewAxis(s) => Some(*s),
        Ix::Slice { span, .. } => Some(*span),
    }
}

/// The index counted from the start, if it is in range as far as is known.
pub(crate) fn in_range(d: &Dim, n: &Dim) -> Option<Dim> {
    let at = if d.known().is_some_and(|d| d < 0) { d.add(n) } else { d.clone() };
    let low = at.known().is_some_and(|a| a < 0);
    let high = n.sub(&at).known().is_some_and(|left| left <= 0);
    (!low && !high).then_some(at)
}

fn out_of_range(d: &Dim, base: &Array, axis: usize, span: Span) -> OpError {
    let n = &base.shape[axis];
    let help = match n.known() {
        Some(0) => "the axis has no elements".to_string(),
        Some(n) => format!("indices are 0 to {}, or -1 to -{n} from the end", n - 1),
        None => format!("indices are 0 to {n} - 1, or negative from the end"),
    };
    OpError::new("E0403", format!("index {d} is out of range: axis {axis} of `{}` has {n} elements", show::array(base)))
        .at(span, format!("there are {n}"))
        .help(help)
}

fn wrong_index(v: &Val, span: Span) -> OpError {
    let mask = matches!(v, Val::Bool(_)) || matches!(v, Val::Array(a) if a.dtype == DType::Bool);
    let e = OpError::new("E0304", format!("an index must be an integer, not {}", show::kind(v))).at(span, "not an integer");
    if mask {
        e.note("the size of `x[mask]` depends on values; masks are for the host script").help("choose elementwise: `where(mask, x, 0)`")
    } else {
        e.help("convert it: `x[i as i32]`")
    }
}

fn at(cx: &mut Cx, base: &Array, axis: usize, v: &Val, span: Span) -> Res<Pick> {
    let n = &base.shape[axis];
    match v {
        Val::Int(d) => in_range(d, n).map(Pick::At).ok_or_else(|| out_of_range(d, base, axis, span)),
        Val::Array(a) if a.dtype.is_int() => {
            let ids = cx.convert(a, DType::I32);
            Ok(if ids.shape.is_empty() { Pick::Row(ids) } else { Pick::Gather(ids) })
        }
        Val::Range(..) => {
            let (a, b) = if let Val::Range(a, b) = v { (Val::Int(a.clone()), Val::Int(b.clone())) } else { unreachable!() };
            slice(cx, base, axis, [Some(&a), Some(&b), None], None, span)
        }
        Val::List(x) if !x.is_empty() => {
            let Some(dims) = crate::args::dims(v) else {
                let ids = materialize(cx, v, None)?;
                return if ids.dtype.is_int() { Ok(Pick::Gather(cx.convert(&ids, DType::I32))) } else { Err(wrong_index(v, span)) };
            };
            let mut values = Vec::with_capacity(dims.len());
            for d in &dims {
                let at = in_range(d, n).ok_or_else(|| out_of_range(d, base, axis, span))?;
                values.push(at.known().unwrap_or(0) as i32);
            }
            Ok(Pick::Gather(cx.literal(Tensor::from_slice(&[values.len()], &values))))
        }
        _ => Err(wrong_index(v, span)),
    }
}

fn slice(cx: &mut Cx, base: &Array, axis: usize, parts: [Option<&Val>; 3], length: Option<&Dim>, span: Span) -> Res<Pick> {
    let n = &base.shape[axis];
    let step = match parts[2] {
        None | Some(Val::None) => Some(1),
        Some(Val::Int(d)) => d.known().map(|k| k.clamp(-i64::from(i32::MAX), i64::from(i32::MAX))),
        Some(v) => return Err(wrong_index(v, span)),
    };
    if step == Some(0) {
        return Err(OpError::new("E0405", "the step of a slice is 0").at(span, "").help("a step is 1 or more, or negative to count down"));
    }
    if let Some(length) = length {
        let start = match parts[0] {
            Some(Val::Array(a)) if a.dtype.is_int() && a.shape.is_empty() => cx.convert(a, DType::I32),
            Some(Val::Int(_)) => materialize(cx, parts[0].expect("compiler bug: just matched"), Some(DType::I32))?,
            v => return Err(wrong_index(v.unwrap_or(&Val::None), span)),
        };
        if length.known().zip(n.known()).is_some_and(|(l, n)| l > n) || length.known().is_some_and(|l| l < 0) {
            return Err(
                OpError::new("E0403", format!("a slice of {length} elements of axis {axis} of `{}`", show::array(base))).at(span, "")
            );
        }
        let step = step.unwrap_or(1);
        let by = Dim::from(step.abs());
        let count = length.add(&by).sub(&Dim::one()).floor_div(&by).unwrap_or_default();
        return Ok(Pick::Run { start, length: count, step });
    }
    let mut ends = [None, None];
    for (end, v) in ends.iter_mut().zip(&parts[..2]) {
        match v {
            None | Some(Val::None) => {}
            Some(Val::Int(d)) => *end = Some(d.clone()),
            Some(Val::Array(a)) if a.dtype.is_int() => {
                return Err(OpError::new("E0304", "the length of a slice must be known when compiled")
                    .at(span, "its bounds are known at run time only")
                    .help("write `x[a : a + L]` with a compile-time `L`"));
            }
            Some(v) => return Err(wrong_index(v, span)),
        }
    }
    let Some(step) = step else {
        return Ok(Pick::Slice { start: Dim::zero(), length: cx.fresh_symbol("?"), step: 1 });
    };
    let [start, stop] = ends;
    let (start, length) = bounds(n, start.as_ref(), stop.as_ref(), step);
    Ok(Pick::Slice { start, length, step })
}

/// First index and number of elements of `start:stop:step`; bounds beyond the axis are cut to it (NumPy's rule), as far as is known.
pub(crate) fn bounds(n: &Dim, start: Option<&Dim>, stop: Option<&Dim>, step: i64) -> (Dim, Dim) {
    let low = if step > 0 { Dim::zero() } else { Dim::from(-1i64) };
    let high = if step > 0 { n.clone() } else { n.sub(&Dim::one()) };
    let place = |d: &Dim| {
        let at = if d.known().is_some_and(|d| d < 0) { d.add(n) } else { d.clone() };
        if at.sub(&low).known().is_some_and(|l| l < 0) {
            low.clone()
        } else if high.sub(&at).known().is_some_and(|l| l < 0) {
            high.clone()
        } else {
            at
        }
    };
    let (first, last) = if step > 0 { (low.clone(), high.clone()) } else { (high.clone(), low.clone()) };
    let start = start.map_or(first, place);
    let stop = stop.map_or(last, place);
    let by = Dim::from(step.abs());
    let distance = if step > 0 { stop.sub(&start) } else { start.sub(&stop) };
    let length = if step.abs() == 1 { distance } else { distance.add(&by).sub(&Dim::one()).floor_div(&by).unwrap_or_default() };
    if length.known().is_some_and(|l| l <= 0) {
        return (Dim::zero(), Dim::zero());
    }
    (start, length)
}
