//! Sums of matrix products over the passes of a loop.
//!
//! The cotangent of a matrix that every pass of a loop multiplies with is a sum of products, one per pass. Added up in the loop,
//! each pass would read and write the whole matrix. Instead the factors are stacked (most are anyway) and multiplied once after
//! the loop, with the passes as one more contracted axis; sums over axes of what is stacked join in.

use optc_ir::graph::{Axes, DotDims, Graph, NodeId, Op, Origin, ReduceOp};
use optc_ir::{ScalarOp, Ty};

/// What a pass adds to the sum.
#[derive(Clone, Debug)]
enum Work {
    /// The product of two values.
    Product(DotDims, [NodeId; 2]),
    /// The sum of a value over axes (perhaps none).
    Sum(Axes, NodeId),
}

/// One summand.
#[derive(Clone, Debug)]
pub struct Term {
    work: Work,
    /// Result axes are these axes of the work's result.
    perm: Option<Axes>,
}

/// A sum over passes in a transposed body.
pub struct PassSum {
    /// Its type.
    pub ty: Ty,
    /// The input with the sum so far.
    pub before: NodeId,
    /// The sum with what the pass adds.
    pub after: NodeId,
}

/// Which sums leave the loop, by their terms, and the values that are stacked for that.
pub fn choose(b: &Graph, sums: &[PassSum], at_hand: impl Fn(NodeId) -> bool) -> (Vec<Option<Vec<Term>>>, Vec<NodeId>) {
    let mut out: Vec<Option<Vec<Term>>> = vec![None; sums.len()];
    let mut stacked: Vec<NodeId> = Vec::new();
    for with_products in [true, false] {
        for (k, sum) in sums.iter().enumerate() {
            let Some(terms) = terms(b, sum) else { continue };
            if terms.iter().any(|t| matches!(t.work, Work::Product(..))) != with_products {
                continue;
            }
            let mut new: Vec<NodeId> = Vec::new();
            for &factor in terms.iter().flat_map(|t| match &t.work {
                Work::Product(_, factors) => &factors[..],
                Work::Sum(_, x) => std::slice::from_ref(x),
            }) {
                if !at_hand(factor) && !stacked.contains(&factor) && !new.contains(&factor) {
                    new.push(factor);
                }
            }
            // In the loop a pass would read and write the sum; here it writes the factors, which are read once later.
            let invariant = |id: NodeId| matches!(b.node(id).op, Op::Input { .. });
            let cost: usize = new.iter().map(|&id| b.ty(id).len()).sum();
            let limit = if with_products { 2 * sum.ty.len() } else { 0 };
            if cost <= limit && !new.iter().any(|&id| invariant(id)) {
                stacked.extend(new);
                out[k] = Some(terms);
            }
        }
    }
    (out, stacked)
}

/// The summands of a pass, if all are of the right kinds.
fn terms(b: &Graph, sum: &PassSum) -> Option<Vec<Term>> {
    let mut out = Vec::new();
    let mut at = sum.after;
    while at != sum.before {
        let node = b.node(at);
        if node.op != Op::Map(ScalarOp::Add) {
            return None;
        }
        out.push(term(b, node.operands[1]));
        at = node.operands[0];
    }
    out.reverse();
    Some(out)
}

fn term(b: &Graph, id: NodeId) -> Term {
    let node = b.node(id);
    let (id, perm) = match &node.op {
        Op::Permute { perm } => (node.operands[0], Some(perm.clone())),
        _ => (id, None),
    };
    let node = b.node(id);
    let work = match &node.op {
        Op::Dot(dims) => Work::Product(dims.clone(), [node.operands[0], node.operands[1]]),
        Op::Reduce { kind: ReduceOp::Sum, axes } => Work::Sum(axes.clone(), node.operands[0]),
        _ => Work::Sum(Axes::new(), id),
    };
    Term { work, perm }
}

/// A summand over all passes, from the stacked values.
pub fn over_all_passes(g: &mut Graph, term: &Term, stacked: impl Fn(NodeId) -> NodeId, o: Origin) -> NodeId {
    let moved = |axes: &Axes| -> Axes { axes.iter().map(|a| a + 1).collect() };
    let first = |axes: &Axes| -> Axes { std::iter::once(0).chain(axes.iter().map(|a| a + 1)).collect() };
    let total = match &term.work {
        Work::Product(dims, [p, q]) => {
            let dims = DotDims {
                lhs_batch: moved(&dims.lhs_batch),
                rhs_batch: moved(&dims.rhs_batch),
                lhs_contract: first(&dims.lhs_contract),
                rhs_contract: first(&dims.rhs_contract),
            };
            g.dot(stacked(*p), stacked(*q), dims, o)
        }
        Work::Sum(axes, x) => g.reduce(ReduceOp::Sum, stacked(*x), &first(axes), o),
    };
    match &term.perm {
        Some(perm) => g.permute(total, perm, o),
        None => total,
    }
}
