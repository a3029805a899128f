//! Gathers and scatters whose indices are known to be consecutive are slices, joins and pads.

use super::Exactness::Exact;
use super::build::{Builder, Move};
use super::pattern::splat_value;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, NodeId, Op, Origin, ScatterMode, Ty};

/// In the order they are tried.
pub const MOVES: &[Move] = &[
    Move { name: "gather of consecutive indices", exactness: Exact, step: gather },
    Move { name: "scatter to consecutive indices", exactness: Exact, step: scatter },
];

/// The first index, if the indices are `first, first + 1, …` in row-major order.
fn consecutive(b: &Builder, ids: NodeId) -> Option<i64> {
    let whole = |v: f64| (v == v.trunc()).then_some(v as i64);
    if b.ty(ids).len() == 1
        && let Some(v) = splat_value(&b.out, ids)
    {
        return whole(v);
    }
    let node = b.out.node(ids);
    match &node.op {
        Op::Const(t) => {
            let first = t.get_f64(0);
            (0..t.len()).all(|i| t.get_f64(i) == first + i as f64).then(|| whole(first)).flatten()
        }
        Op::Iota { axis } if b.ty(ids).shape.iter().enumerate().all(|(a, &n)| a == *axis || n == 1) => Some(0),
        Op::Reshape => consecutive(b, node.operands[0]),
        Op::Slice { start, step, .. } if start.len() == 1 && step[0] == 1 => Some(consecutive(b, node.operands[0])? + start[0] as i64),
        Op::Map(ScalarOp::Add) => Some(consecutive(b, node.operands[0])? + whole(splat_value(&b.out, node.operands[1])?)?),
        Op::Map(ScalarOp::Sub) => Some(consecutive(b, node.operands[0])? - whole(splat_value(&b.out, node.operands[1])?)?),
        _ => None,
    }
}

/// The range of consecutive indices, if it lies in the axis (what does not is left to fail at run time).
fn range(b: &Builder, x: NodeId, ids: NodeId, axis: usize) -> Option<(usize, usize)> {
    let count = b.ty(ids).len();
    if count == 0 {
        return None;
    }
    let first = usize::try_from(consecutive(b, ids)?).ok()?;
    (first + count <= b.ty(x).shape[axis]).then_some((first, first + count))
}

fn part(b: &mut Builder, x: NodeId, axis: usize, start: usize, stop: usize, origin: Origin) -> NodeId {
    let shape = b.ty(x).shape.clone();
    let mut from: Axes = shape.iter().map(|_| 0).collect();
    let step: Axes = shape.iter().map(|_| 1).collect();
    let mut to = shape;
    (from[axis], to[axis]) = (start, stop);
    b.slice(x, &from, &to, &step, origin)
}

fn gather(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Gather { axis } = op else { return None };
    let (start, stop) = range(b, x[0], x[1], *axis)?;
    let rows = part(b, x[0], *axis, start, stop, origin);
    Some(b.reshape(rows, &ty.shape, origin))
}

fn scatter(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Scatter { axis, mode } = op else { return None };
    let (start, stop) = range(b, x[0], x[1], *axis)?;
    let n = ty.shape[*axis];
    let mut shape = ty.shape.clone();
    shape[*axis] = stop - start;
    let mut middle = b.reshape(x[2], &shape, origin);
    if *mode == ScatterMode::Add {
        let before = part(b, x[0], *axis, start, stop, origin);
        middle = b.map(ScalarOp::Add, &[before, middle], origin);
    }
    if let Op::Broadcast { dims } = b.op_of(x[0])
        && dims.is_empty()
    {
        let around = b.operand(x[0]);
        let none: Axes = ty.shape.iter().map(|_| 0).collect();
        let (mut lo, mut hi) = (none.clone(), none.clone());
        (lo[*axis], hi[*axis]) = (start, n - stop);
        return Some(b.pad(middle, around, &lo, &hi, &none, origin));
    }
    let mut parts = Vec::new();
    if start > 0 {
        parts.push(part(b, x[0], *axis, 0, start, origin));
    }
    parts.push(middle);
    if stop < n {
        parts.push(part(b, x[0], *axis, stop, n, origin));
    }
    Some(if let [one] = parts[..] { one } else { b.concat(&parts, *axis, origin) })
}
