//! From the operand of a softmax down to the product of queries and keys.

use super::causal::causal;
use super::{Seen, is_float_cast, sides, splat};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, Graph, NodeId, Op};

/// A mask as the graph has it: an array of bools, and whether it says what is not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hides {
    pub mask: NodeId,
    pub negated: bool,
}

/// What a softmax is of.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    /// Axes: batch, rows, columns.
    pub q: Seen,
    pub k: Seen,
    pub scale: f64,
    pub causal: Option<i64>,
    /// What is seen, or not if the second is true.
    pub mask: Option<(Seen, bool)>,
    pub bias: Option<Seen>,
    pub hidden: f64,
    /// All masks, as they stand in the graph.
    pub hides: Vec<Hides>,
    /// The product of queries and keys.
    pub product: NodeId,
}

/// What is known above a node.
#[derive(Clone)]
struct Above {
    /// Of the node: axes of the batch, of queries, of keys.
    axes: Axes,
    scale: f64,
    causal: Option<i64>,
    mask: Option<(Seen, bool)>,
    bias: Option<Seen>,
    hidden: Option<f64>,
    hides: Vec<Hides>,
}

/// The scores that a node is, of a softmax whose axes of batch, queries and keys these are; queries and keys are of this type.
pub(super) fn scores(g: &Graph, x: NodeId, axes: &[usize], dtype: DType) -> Option<Scores> {
    let above = Above { axes: axes.into(), scale: 1.0, causal: None, mask: None, bias: None, hidden: None, hides: Vec::new() };
    walk(g, x, above, dtype)
}

fn walk(g: &Graph, x: NodeId, mut above: Above, dtype: DType) -> Option<Scores> {
    let node = g.node(x);
    let o = &node.operands;
    match &node.op {
        Op::Dot(_) => finish(g, x, above, dtype),
        Op::Cast if is_float_cast(g, x) => walk(g, o[0], above, dtype),
        Op::Permute { perm } => {
            above.axes.iter_mut().for_each(|a| *a = perm[*a]);
            walk(g, o[0], above, dtype)
        }
        Op::Map(ScalarOp::Mul) => {
            let (factor, rest) = splat(g, o[0]).map(|c| (c, o[1])).or_else(|| splat(g, o[1]).map(|c| (c, o[0])))?;
            above.scale *= factor;
            walk(g, rest, above, dtype)
        }
        Op::Map(ScalarOp::Div) => {
            above.scale /= splat(g, o[1])?;
            walk(g, o[0], above, dtype)
        }
        Op::Map(ScalarOp::Add) if above.scale == 1.0 && above.bias.is_none() && g.ty(x).dtype == dtype => {
            let with = |bias: NodeId| Above { bias: Some(Seen::new(g, bias, above.axes.clone())), ..above.clone() };
            walk(g, o[0], with(o[1]), dtype).or_else(|| walk(g, o[1], with(o[0]), dtype))
        }
        Op::Map(ScalarOp::Select) => {
            let (value, negated, rest) = match (splat(g, o[2]), splat(g, o[1])) {
                (Some(value), _) => (value, false, o[1]),
                (None, Some(value)) => (value, true, o[2]),
                _ => return None,
            };
            let value = value * above.scale;
            let infinite = value == f64::NEG_INFINITY;
            // What is added above goes to hidden scores too, and what is multiplied above has to keep the sign of the infinite one.
            if (above.bias.is_some() && !infinite) || above.hidden.is_some_and(|h| h != value) || above.scale <= 0.0 || above.scale.is_nan()
            {
                return None;
            }
            above.hidden = Some(value);
            above.hides.push(Hides { mask: o[0], negated });
            match causal(g, o[0], &above.axes, negated) {
                Some(offset) => above.causal = Some(above.causal.map_or(offset, |c| c.min(offset))),
                None if above.mask.is_none() => above.mask = Some((Seen::new(g, o[0], above.axes.clone()), negated)),
                None => return None,
            }
            walk(g, rest, above, dtype)
        }
        _ => None,
    }
}

fn finish(g: &Graph, product: NodeId, above: Above, dtype: DType) -> Option<Scores> {
    let [l, r] = sides(g, product)?;
    let batch = l.batch.len();
    let ([_], [_], [_]) = (&l.contract[..], &l.free[..], &r.free[..]) else { return None };
    let (outer, matrix) = above.axes.split_at(above.axes.len() - 2);
    if outer.len() != batch || outer.iter().any(|&a| a >= batch) {
        return None;
    }
    let (q, k) = if matrix[0] == batch { (l, r) } else { (r, l) };
    let side = |s: &super::Side| {
        let axes: Axes = outer.iter().map(|&a| s.batch[a]).chain([s.free[0], s.contract[0]]).collect();
        // Products of bf16 have sums in f32, whatever type their factors have been given before.
        let widened = is_float_cast(g, s.operand) && g.ty(s.operand).dtype != dtype;
        Seen::new(g, if widened { g.node(s.operand).operands[0] } else { s.operand }, axes)
    };
    let (q, k) = (side(&q), side(&k));
    if g.ty(q.node).dtype != dtype || g.ty(k.node).dtype != dtype {
        return None;
    }
    let Above { scale, causal, mask, bias, hidden, hides, .. } = above;
    Some(Scores { q, k, scale, causal, mask, bias, hidden: hidden.unwrap_or(f64::NEG_INFINITY), hides, product })
}
