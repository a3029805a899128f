//! A softmax along one axis, by its operations: exponentials of what is left of the largest element, over their sum.

use super::splat;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, Graph, NodeId, Op, ReduceOp};

/// `p = softmax(x)` along an axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    pub p: NodeId,
    pub x: NodeId,
    pub axis: usize,
}

/// The two operands of an operation.
pub(super) fn two(g: &Graph, n: NodeId, op: ScalarOp) -> Option<[NodeId; 2]> {
    let node = g.node(n);
    (node.op == Op::Map(op)).then(|| [node.operands[0], node.operands[1]])
}

fn strip(g: &Graph, mut n: NodeId) -> NodeId {
    while matches!(g.node(n).op, Op::Reshape) {
        n = g.node(n).operands[0];
    }
    n
}

/// What an array repeats along one axis and nothing else: an array without that axis.
pub(super) fn spread(g: &Graph, n: NodeId, axis: usize) -> Option<NodeId> {
    let node = g.node(n);
    let Op::Broadcast { dims } = &node.op else { return None };
    let from = g.ty(node.operands[0]);
    let all: Axes = (0..g.ty(n).rank()).collect();
    let others: Axes = all.iter().copied().filter(|&a| a != axis).collect();
    let kept = *dims == all && from.shape[axis] == 1;
    let whole = dims.iter().enumerate().all(|(i, &d)| d == axis || from.shape[i] == g.ty(n).shape[d]);
    if !whole || (!kept && *dims != others) {
        return None;
    }
    let inner = strip(g, node.operands[0]);
    let without: Axes = others.iter().map(|&a| g.ty(n).shape[a]).collect();
    (g.ty(inner).shape == without).then_some(inner)
}

/// What a reduction along one axis reduces.
pub(super) fn reduced(g: &Graph, n: NodeId, kind: ReduceOp, axis: usize) -> Option<NodeId> {
    let node = g.node(n);
    match &node.op {
        Op::Reduce { kind: k, axes } if *k == kind && axes[..] == [axis] => Some(node.operands[0]),
        _ => None,
    }
}

/// The axis that a reduced and spread array has lost, and the reduction.
fn summed(g: &Graph, n: NodeId, e: NodeId) -> Option<usize> {
    let axis = |axis: usize| {
        let sum = spread(g, n, axis)?;
        (reduced(g, sum, ReduceOp::Sum, axis)? == e).then_some(axis)
    };
    (0..g.ty(e).rank()).rev().find_map(axis)
}

/// The same for one over a sum.
fn inverse(g: &Graph, n: NodeId, e: NodeId) -> Option<usize> {
    let axis = |axis: usize| {
        let [one, sum] = two(g, spread(g, n, axis)?, ScalarOp::Div)?;
        (splat(g, one)? == 1.0 && reduced(g, strip(g, sum), ReduceOp::Sum, axis)? == e).then_some(axis)
    };
    (0..g.ty(e).rank()).rev().find_map(axis)
}

/// The softmax that a node is.
pub(super) fn softmax(g: &Graph, p: NodeId) -> Option<Softmax> {
    let (e, axis) = match two(g, p, ScalarOp::Mul) {
        Some([a, b]) => inverse(g, b, a).map(|axis| (a, axis)).or_else(|| inverse(g, a, b).map(|axis| (b, axis)))?,
        None => {
            let [e, sum] = two(g, p, ScalarOp::Div)?;
            (e, summed(g, sum, e)?)
        }
    };
    let node = g.node(e);
    if node.op != Op::Map(ScalarOp::Exp) {
        return None;
    }
    let [x, top] = two(g, node.operands[0], ScalarOp::Sub)?;
    (reduced(g, spread(g, top, axis)?, ReduceOp::Max, axis)? == x).then_some(Softmax { p, x, axis })
}
