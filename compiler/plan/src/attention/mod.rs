//! Attention: where the graph computes `softmax(scale q kᵀ + …) v`, and what differentiation has made of it, one operation each that stores no array of queries x keys
//! ([`optc_abi::attention`]).
//!
//! It is known by its operations, not by names: a product whose left side is a softmax along the contracted axis of a product with one free axis on either side.
//! Between these two products there may be factors that are literals, arrays added, masks, and conversions between bf16 and f32. What reads the probabilities must all be
//! part of it; so the rewrite is tried, and given up if the probabilities, or their cotangents, are then still needed.

mod backward;
mod causal;
mod rebuild;
mod scores;
mod softmax;

use backward::{Backward, backward};
use optc_abi::DType;
use optc_abi::plan::{Attention, AttentionKind};
use optc_ir::graph::{Axes, Graph, NodeId, Op};
use rebuild::{Rewrite, rebuild};
use scores::{Scores, scores};
use softmax::{Softmax, softmax};
use std::sync::Arc;

/// Columns of an operand that kernels are made for: with two bytes or four, and with eight. Tiles of so many columns fit the shared memory of every GPU.
const WIDEST: [usize; 2] = [128, 64];

/// An array seen through permutations: axis `i` of what is meant is axis `axes[i]` of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    node: NodeId,
    axes: Axes,
}

impl Seen {
    fn new(g: &Graph, mut node: NodeId, mut axes: Axes) -> Seen {
        while let Op::Permute { perm } = &g.node(node).op {
            axes.iter_mut().for_each(|a| *a = perm[*a]);
            node = g.node(node).operands[0];
        }
        Seen { node, axes }
    }

    /// The extent of axis `i` of what is meant.
    fn extent(&self, g: &Graph, i: usize) -> usize {
        g.ty(self.node).shape[self.axes[i]]
    }
}

/// A result of the whole: axis `i` of the node is axis `order[i]` of batch, rows and columns.
#[derive(Clone, Debug)]
pub(super) struct Root {
    node: NodeId,
    order: Axes,
}

/// Attention found in a graph.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    root: Root,
    softmax: Softmax,
    scores: Scores,
    v: Seen,
    /// The softmax's axes: the batch's, that of queries, that of keys.
    axes: Axes,
    what: Attention,
}

/// One side of a product: its axes in the roles they have.
pub(super) struct Side {
    operand: NodeId,
    batch: Axes,
    free: Axes,
    contract: Axes,
}

/// Both sides of a product; none for other nodes.
pub(super) fn sides(g: &Graph, n: NodeId) -> Option<[Side; 2]> {
    let node = g.node(n);
    let Op::Dot(d) = &node.op else { return None };
    let side = |which: usize, batch: &Axes, contract: &Axes| {
        let operand = node.operands[which];
        let free = (0..g.ty(operand).rank()).filter(|i| !batch.contains(i) && !contract.contains(i)).collect();
        Side { operand, batch: batch.clone(), free, contract: contract.clone() }
    };
    Some([side(0, &d.lhs_batch, &d.lhs_contract), side(1, &d.rhs_batch, &d.rhs_contract)])
}

/// The node below conversions between f32 and bf16, and permutations: its axis for each of `axes`.
pub(super) fn below(g: &Graph, node: NodeId, axes: &[usize]) -> Seen {
    let mut seen = Seen::new(g, node, axes.into());
    while is_float_cast(g, seen.node) {
        seen = Seen::new(g, g.node(seen.node).operands[0], seen.axes);
    }
    seen
}

/// Whether a node converts between f32 and bf16.
pub(super) fn is_float_cast(g: &Graph, n: NodeId) -> bool {
    let narrow = |t: DType| matches!(t, DType::F32 | DType::BF16);
    matches!(g.node(n).op, Op::Cast) && narrow(g.ty(n).dtype) && narrow(g.ty(g.node(n).operands[0]).dtype)
}

/// The literal that all elements of an array are.
pub(super) fn splat(g: &Graph, mut n: NodeId) -> Option<f64> {
    loop {
        let node = g.node(n);
        match &node.op {
            Op::Broadcast { .. } | Op::Reshape => n = node.operands[0],
            Op::Const(t) => return crate::net::splat_of(t).map(|(float, _)| float),
            _ => return None,
        }
    }
}

/// The same function, with attention as single operations.
pub(crate) fn fuse(graph: &Graph) -> Graph {
    let mut rewrite = Rewrite::default();
    let users = graph.users();
    for root in graph.ids() {
        let Some(forward) = forward(graph, root) else { continue };
        let backward = backward(graph, &users, &forward);
        let mut tried = rewrite.clone();
        tried.add(graph, &users, &forward, &backward);
        let live = tried.live(graph);
        let gone = |b: &Backward| !live[b.product.index()];
        if !live[forward.softmax.p.index()] && !live[forward.scores.product.index()] && backward.iter().all(gone) {
            rewrite = tried;
        }
    }
    let inner = |sub: &Arc<Graph>| Arc::new(fuse(sub));
    rebuild(graph, &rewrite, &inner)
}

/// Attention whose last product is this node.
fn forward(g: &Graph, root: NodeId) -> Option<Forward> {
    let [l, r] = sides(g, root)?;
    if l.contract.len() != 1 || g.ty(root).is_empty() {
        return None;
    }
    of_side(g, root, &l, &r, false).or_else(|| of_side(g, root, &r, &l, true))
}

fn of_side(g: &Graph, root: NodeId, p: &Side, v: &Side, turned: bool) -> Option<Forward> {
    let ([row], [column]) = (&p.free[..], &v.free[..]) else { return None };
    let axes: Axes = p.batch.iter().chain([row]).chain(&p.contract).copied().collect();
    let seen = below(g, p.operand, &axes);
    let softmax = softmax(g, seen.node)?;
    let rank = axes.len();
    if softmax.axis != seen.axes[rank - 1] || g.ty(softmax.p).rank() != rank {
        return None;
    }
    let dtype = g.ty(root).dtype;
    let scores = scores(g, softmax.x, &seen.axes, dtype)?;
    let v_axes = v.batch.iter().chain(&v.contract).chain([column]).copied().collect();
    let v = Seen::new(g, v.operand, v_axes);
    let batch: Vec<usize> = (0..rank - 2).map(|i| scores.q.extent(g, i)).collect();
    let what = Attention {
        kind: AttentionKind::Forward,
        batch,
        queries: scores.q.extent(g, rank - 2),
        keys: scores.k.extent(g, rank - 2),
        width: scores.q.extent(g, rank - 1),
        out_width: v.extent(g, rank - 1),
        scale: scores.scale.into(),
        causal: scores.causal,
        mask: scores.mask.is_some(),
        bias: scores.bias.is_some(),
        hidden: scores.hidden.into(),
    };
    let widest = WIDEST[usize::from(dtype == DType::F64)];
    let known = matches!(dtype, DType::F32 | DType::F64 | DType::BF16);
    // Of no keys there is no softmax, and of scores that are all zero no cotangent is told from another.
    let sound = what.keys > 0 && what.width > 0 && scores.scale.is_finite() && scores.scale != 0.0;
    if !known || !sound || what.width.max(what.out_width) > widest {
        return None;
    }
    let order = if turned { (0..rank - 2).chain([rank - 1, rank - 2]).collect() } else { (0..rank).collect() };
    Some(Forward { root: Root { node: root, order }, softmax, scores, v, axes: seen.axes, what })
}
