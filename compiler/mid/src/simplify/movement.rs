//! Movement of elements: views of views become one view, views move toward smaller arrays, literals swallow them.

use super::Exactness::Exact;
use super::algebra::fold_literals;
use super::build::{Builder, Move};
use optc_ir::graph::{Axes, NodeId, Op, Origin, Shape, Ty};

/// In the order they are tried.
pub const MOVES: &[Move] = &[
    Move { name: "movement that changes nothing", exactness: Exact, step: identity },
    Move { name: "movement of equal elements", exactness: Exact, step: of_splat },
    Move { name: "movement of literals", exactness: Exact, step: fold },
    Move { name: "one index", exactness: Exact, step: single_index },
    Move { name: "reshape of reshape", exactness: Exact, step: reshape },
    Move { name: "permutation", exactness: Exact, step: permute },
    Move { name: "broadcast", exactness: Exact, step: broadcast },
    Move { name: "slice", exactness: Exact, step: slice },
    Move { name: "pad of pad", exactness: Exact, step: pad },
    Move { name: "flip", exactness: Exact, step: flip },
    Move { name: "concat", exactness: Exact, step: concat },
];

fn identity(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, _: Origin) -> Option<NodeId> {
    let same = b.ty(*x.first()?) == ty;
    let nothing = match op {
        Op::Reshape | Op::Bitcast => true,
        Op::Broadcast { .. } => true,
        Op::Permute { perm } => perm.iter().enumerate().all(|(i, &p)| i == p),
        // The extents are equal, so nothing was cut off.
        Op::Slice { .. } | Op::Pad { .. } => true,
        Op::Flip { axes } => axes.iter().all(|&a| ty.shape[a] <= 1),
        Op::Concat { .. } => x.len() == 1,
        _ => false,
    };
    (same && nothing).then(|| x[0])
}

/// The scalar node all elements are equal to.
fn splat_source(b: &Builder, id: NodeId) -> Option<NodeId> {
    match b.op_of(id) {
        Op::Broadcast { dims } if dims.is_empty() => Some(b.operand(id)),
        _ if b.ty(id).rank() == 0 => Some(id),
        _ => None,
    }
}

fn of_splat(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let source = match op {
        Op::Reshape | Op::Permute { .. } | Op::Slice { .. } | Op::Flip { .. } | Op::Window { .. } => splat_source(b, x[0])?,
        // A scalar is broadcast to begin with.
        Op::Broadcast { dims } if !dims.is_empty() => splat_source(b, x[0])?,
        Op::Pad { .. } => splat_source(b, x[0]).filter(|&s| s == x[1])?,
        Op::Concat { .. } => {
            let first = splat_source(b, x[0])?;
            if x.iter().any(|&part| splat_source(b, part) != Some(first)) {
                return None;
            }
            first
        }
        _ => return None,
    };
    Some(b.broadcast(source, &[], &ty.shape, origin))
}

fn fold(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    // Broadcast literals stay small; draws and sorts are left to the program.
    let folds = matches!(
        op,
        Op::Reshape
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Flip { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Bitcast
            | Op::RandomFold { .. }
    );
    if folds { fold_literals(b, op, x, ty, origin) } else { None }
}

/// The index along an axis of one element is 0.
fn single_index(b: &mut Builder, op: &Op, _: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Iota { axis } = op else { return None };
    if ty.shape[*axis] == 1 { Some(b.splat(ty, 0.0, origin)) } else { None }
}

fn reshape(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Reshape = op else { return None };
    if let Op::Reshape = b.op_of(x[0]) {
        let source = b.operand(x[0]);
        return Some(b.make(Op::Reshape, &[source], ty.clone(), origin));
    }
    None
}

fn without_units(shape: &[usize]) -> impl Iterator<Item = usize> + '_ {
    shape.iter().copied().filter(|&n| n != 1)
}

fn permute(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Permute { perm } = op else { return None };
    let shape = b.ty(x[0]).shape.clone();
    let moved: Vec<usize> = perm.iter().copied().filter(|&p| shape[p] != 1).collect();
    if moved.windows(2).all(|w| w[0] < w[1]) {
        return Some(b.reshape(x[0], &ty.shape, origin));
    }
    match b.op_of(x[0]).clone() {
        Op::Permute { perm: first } => {
            let source = b.operand(x[0]);
            let both: Axes = perm.iter().map(|&p| first[p]).collect();
            Some(b.permute(source, &both, origin))
        }
        Op::Broadcast { dims } => {
            // The smaller array is permuted instead.
            let source = b.operand(x[0]);
            let place = |d: usize| perm.iter().position(|&p| p == d).expect("a permutation");
            let mut order: Vec<usize> = (0..dims.len()).collect();
            order.sort_by_key(|&i| place(dims[i]));
            let source = b.permute(source, &order, origin);
            let dims: Axes = order.iter().map(|&i| place(dims[i])).collect();
            Some(b.broadcast(source, &dims, &ty.shape, origin))
        }
        Op::Dot(d) if b.single_use(x[0]) => super::products::transposed(b, x[0], &d, perm, origin),
        _ => None,
    }
}

/// Where each axis of `inner` stands in `outer`, if `outer` is `inner` with axes of extent 1 put in.
fn insertion(inner: &[usize], outer: &[usize]) -> Option<Axes> {
    let mut places = Axes::new();
    let mut at = 0;
    for &n in inner {
        while at < outer.len() && outer[at] != n {
            if outer[at] != 1 {
                return None;
            }
            at += 1;
        }
        if at == outer.len() {
            return None;
        }
        places.push(at);
        at += 1;
    }
    outer[at..].iter().all(|&n| n == 1).then_some(places)
}

fn broadcast(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Broadcast { dims } = op else { return None };
    let shape = b.ty(x[0]).shape.clone();
    if !dims.is_empty() && ty.len() == shape.iter().product::<usize>() && without_units(&shape).eq(without_units(&ty.shape)) {
        return Some(b.reshape(x[0], &ty.shape, origin));
    }
    let source = match b.op_of(x[0]) {
        Op::Broadcast { .. } | Op::Reshape => b.operand(x[0]),
        _ => return None,
    };
    let inner: Axes = match b.op_of(x[0]) {
        Op::Broadcast { dims } => dims.clone(),
        _ => insertion(&b.ty(source).shape, &shape)?,
    };
    let both: Axes = inner.iter().map(|&d| dims[d]).collect();
    Some(b.broadcast(source, &both, &ty.shape, origin))
}

fn slice(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Slice { start, stop, step } = op else { return None };
    let rank = ty.rank();
    // A step larger than what is left does nothing, and the end is where the last element says.
    let tidy: Axes = (0..rank).map(|a| if ty.shape[a] <= 1 { 1 } else { step[a] }).collect();
    let end: Axes = (0..rank).map(|a| if ty.shape[a] == 0 { start[a] } else { start[a] + (ty.shape[a] - 1) * tidy[a] + 1 }).collect();
    if tidy != *step || end != *stop {
        return Some(b.slice(x[0], start, &end, &tidy, origin));
    }
    match b.op_of(x[0]).clone() {
        Op::Slice { start: s1, step: t1, .. } => {
            let source = b.operand(x[0]);
            let from: Axes = (0..rank).map(|a| if ty.shape[a] == 0 { 0 } else { s1[a] + start[a] * t1[a] }).collect();
            let by: Axes = (0..rank).map(|a| step[a] * t1[a]).collect();
            let to: Axes = (0..rank).map(|a| if ty.shape[a] == 0 { 0 } else { from[a] + (ty.shape[a] - 1) * by[a] + 1 }).collect();
            Some(b.slice(source, &from, &to, &by, origin))
        }
        Op::Broadcast { dims } => {
            let source = b.operand(x[0]);
            let extents = b.ty(source).shape.clone();
            let whole = |i: usize| extents[i] != b.ty(x[0]).shape[dims[i]];
            let pick =
                |all: &Axes, one: usize| -> Axes { dims.iter().enumerate().map(|(i, &d)| if whole(i) { one } else { all[d] }).collect() };
            let (from, to, by) = (pick(start, 0), pick(stop, 1), pick(step, 1));
            let source = b.slice(source, &from, &to, &by, origin);
            Some(b.broadcast(source, &dims, &ty.shape, origin))
        }
        Op::Pad { lo, interior, .. } => slice_of_pad(b, x[0], start, stop, step, &lo, &interior, ty, origin),
        Op::Concat { axis } => {
            let mut before = 0;
            for part in b.out.node(x[0]).operands.clone() {
                let n = b.ty(part).shape[axis];
                if start[axis] >= before && stop[axis] <= before + n && stop[axis] > start[axis] {
                    let (mut from, mut to) = (start.clone(), stop.clone());
                    (from[axis], to[axis]) = (start[axis] - before, stop[axis] - before);
                    return Some(b.slice(part, &from, &to, step, origin));
                }
                before += n;
            }
            None
        }
        _ => None,
    }
}

/// A slice that misses the padding is a slice of what was padded; one that takes part of it is a smaller pad.
fn slice_of_pad(
    b: &mut Builder,
    pad: NodeId,
    start: &Axes,
    stop: &Axes,
    step: &Axes,
    lo: &Axes,
    interior: &Axes,
    ty: &Ty,
    origin: Origin,
) -> Option<NodeId> {
    let (source, value) = (b.operand(pad), b.out.node(pad).operands[1]);
    let extents = b.ty(source).shape.clone();
    let rank = ty.rank();
    if interior.iter().any(|&i| i != 0) {
        return None;
    }
    if (0..rank).any(|a| stop[a] <= lo[a] || start[a] >= lo[a] + extents[a]) {
        return Some(b.broadcast(value, &[], &ty.shape, origin));
    }
    let (mut from, mut to, mut below, mut above) = (Axes::new(), Axes::new(), Axes::new(), Axes::new());
    for a in 0..rank {
        let inside = start[a] >= lo[a] && stop[a] <= lo[a] + extents[a];
        if !inside && step[a] != 1 {
            return None;
        }
        let (first, last) = (start[a].max(lo[a]), stop[a].min(lo[a] + extents[a]));
        from.push(first - lo[a]);
        to.push(last - lo[a]);
        below.push(first - start[a]);
        above.push(stop[a] - last);
    }
    let none: Axes = (0..rank).map(|_| 0).collect();
    let part = b.slice(source, &from, &to, step, origin);
    Some(b.pad(part, value, &below, &above, &none, origin))
}

fn pad(b: &mut Builder, op: &Op, x: &[NodeId], _: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Pad { lo, hi, interior } = op else { return None };
    let Op::Pad { lo: lo1, hi: hi1, interior: i1 } = b.op_of(x[0]).clone() else { return None };
    if interior.iter().any(|&i| i != 0) || b.out.node(x[0]).operands[1] != x[1] {
        return None;
    }
    let sum = |a: &Axes, c: &Axes| -> Axes { a.iter().zip(c).map(|(a, c)| a + c).collect() };
    let source = b.operand(x[0]);
    Some(b.pad(source, x[1], &sum(lo, &lo1), &sum(hi, &hi1), &i1, origin))
}

fn flip(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Flip { axes } = op else { return None };
    let mut turned = vec![false; ty.rank()];
    axes.iter().for_each(|&a| turned[a] = true);
    let mut source = x[0];
    if let Op::Flip { axes: first } = b.op_of(x[0]) {
        first.iter().for_each(|&a| turned[a] = !turned[a]);
        source = b.operand(x[0]);
    }
    let tidy: Axes = (0..ty.rank()).filter(|&a| turned[a] && ty.shape[a] > 1).collect();
    if source == x[0] && tidy == *axes {
        return None;
    }
    Some(if tidy.is_empty() { source } else { b.make(Op::Flip { axes: tidy }, &[source], ty.clone(), origin) })
}

/// Empty parts vanish, joins of joins become one, neighboring slices of one array grow together.
fn concat(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Concat { axis } = op else { return None };
    let mut parts: Vec<NodeId> = Vec::with_capacity(x.len());
    for &part in x {
        if b.ty(part).shape[*axis] == 0 {
            continue;
        }
        match b.op_of(part) {
            Op::Concat { axis: inner } if inner == axis => parts.extend(b.out.node(part).operands.iter().copied()),
            _ => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Some(x[0]);
    }
    let mut merged: Vec<NodeId> = Vec::with_capacity(parts.len());
    for &part in &parts {
        let joined = merged.last().and_then(|&last| neighbors(b, last, part, *axis));
        match joined {
            Some((source, start, stop, step)) => {
                let whole = b.slice(source, &start, &stop, &step, origin);
                *merged.last_mut().expect("a part before") = whole;
            }
            None => merged.push(part),
        }
    }
    if merged[..] == *x {
        return None;
    }
    Some(if let [one] = merged[..] { one } else { b.make(op.clone(), &merged, ty.clone(), origin) })
}

fn neighbors(b: &Builder, first: NodeId, second: NodeId, axis: usize) -> Option<(NodeId, Axes, Shape, Axes)> {
    let (Op::Slice { start: s1, stop: e1, step: t1 }, Op::Slice { start: s2, stop: e2, step: t2 }) = (b.op_of(first), b.op_of(second))
    else {
        return None;
    };
    let source = b.operand(first);
    let others = (0..s1.len()).all(|a| a == axis || (s1[a] == s2[a] && e1[a] == e2[a]));
    if source != b.operand(second) || t1 != t2 || t1[axis] != 1 || !others || e1[axis] != s2[axis] {
        return None;
    }
    let mut stop = e1.clone();
    stop[axis] = e2[axis];
    Some((source, s1.clone(), stop, t1.clone()))
}
