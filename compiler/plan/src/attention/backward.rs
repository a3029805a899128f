//! What differentiation has made of attention: from the probabilities' readers to the cotangents of queries, keys and values.

use super::scores::Hides;
use super::softmax::{reduced, spread, two};
use super::{Forward, Root, Seen, is_float_cast, sides, splat};
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, Graph, NodeId, Op, ReduceOp};

/// The derivatives of attention for one cotangent of its result.
#[derive(Clone, Debug)]
pub(super) struct Backward {
    /// The cotangent: batch, queries, columns.
    pub d: Seen,
    /// The product that the probabilities' cotangents are.
    pub product: NodeId,
    /// Cotangents of q, k and v: which, and what they are multiplied by.
    pub roots: Vec<(usize, Root, f64)>,
}

/// A node on the way, with the softmax's axes in it and what it has been multiplied by.
#[derive(Clone)]
struct Step {
    node: NodeId,
    axes: Axes,
    factor: f64,
    hides: usize,
}

/// All that is found.
pub(super) fn backward(g: &Graph, users: &[Vec<NodeId>], f: &Forward) -> Vec<Backward> {
    let p = same(g, users, f.softmax.p);
    let readers = |n: NodeId| users[n.index()].iter().copied();
    let mut found: Vec<Backward> = Vec::new();
    let mut candidates: Vec<NodeId> = p.iter().flat_map(|&p| readers(p)).collect();
    // p ct - p sum is a difference of two readers.
    candidates.extend(candidates.clone().into_iter().flat_map(readers));
    candidates.sort_unstable();
    candidates.dedup();
    for n in candidates {
        let Some(ct) = cotangent(g, n, &p, f.softmax.axis) else { continue };
        let Some((d, product, factor)) = given(g, ct, f) else { continue };
        let start = Step { node: n, axes: f.axes.clone(), factor, hides: 0 };
        let mut roots = scores_roots(g, users, f, start);
        for &p in &p {
            roots.extend(readers(p).filter_map(|n| value_root(g, n, p, f, &d)).map(|root| (2, root, 1.0)));
        }
        if !roots.is_empty() && !found.iter().any(|b| b.product == product) {
            found.push(Backward { d, product, roots });
        }
    }
    found
}

/// The probabilities and what they become by conversions.
fn same(g: &Graph, users: &[Vec<NodeId>], p: NodeId) -> Vec<NodeId> {
    let mut all = vec![p];
    let mut at = 0;
    while at < all.len() {
        all.extend(users[all[at].index()].iter().copied().filter(|&u| is_float_cast(g, u)));
        at += 1;
    }
    all.dedup();
    all
}

/// `ct`, where a node is `p (ct - sum ct p)` or `ct p - p sum ct p`, sums along an axis.
fn cotangent(g: &Graph, n: NodeId, p: &[NodeId], axis: usize) -> Option<NodeId> {
    let with_p = |n: NodeId| {
        let [a, b] = two(g, n, ScalarOp::Mul)?;
        if p.contains(&a) { Some(b) } else { p.contains(&b).then_some(a) }
    };
    let mean = |n: NodeId| reduced(g, spread(g, n, axis)?, ReduceOp::Sum, axis).and_then(with_p);
    if let Some([ct, m]) = with_p(n).and_then(|rest| two(g, rest, ScalarOp::Sub)) {
        return (mean(m)? == ct).then_some(ct);
    }
    let [weighted, rest] = two(g, n, ScalarOp::Sub)?;
    let ct = with_p(weighted)?;
    (mean(with_p(rest)?)? == ct).then_some(ct)
}

/// The cotangent of the result, where the probabilities' is its product with the values, that product, and a factor.
fn given(g: &Graph, ct: NodeId, f: &Forward) -> Option<(Seen, NodeId, f64)> {
    let (mut n, mut axes, mut factor) = (ct, f.axes.clone(), 1.0);
    loop {
        let node = g.node(n);
        let o = &node.operands;
        match &node.op {
            Op::Cast if is_float_cast(g, n) => n = o[0],
            Op::Permute { perm } => {
                axes.iter_mut().for_each(|a| *a = perm[*a]);
                n = o[0];
            }
            Op::Map(ScalarOp::Mul) => {
                let (c, rest) = splat(g, o[0]).map(|c| (c, o[1])).or_else(|| splat(g, o[1]).map(|c| (c, o[0])))?;
                factor *= c;
                n = rest;
            }
            Op::Map(ScalarOp::Div) => {
                factor /= splat(g, o[1])?;
                n = o[0];
            }
            _ => break,
        }
    }
    let [l, r] = sides(g, n)?;
    let batch = l.batch.len();
    let ([_], [_], [_]) = (&l.contract[..], &l.free[..], &r.free[..]) else { return None };
    let (outer, matrix) = axes.split_at(axes.len() - 2);
    if outer.len() != batch || outer.iter().any(|&a| a >= batch) {
        return None;
    }
    let (d, v) = if matrix[0] == batch { (l, r) } else { (r, l) };
    let side = |s: &super::Side| {
        let axes = outer.iter().map(|&a| s.batch[a]).chain([s.free[0], s.contract[0]]).collect();
        Seen::new(g, s.operand, axes)
    };
    let d = side(&d);
    (side(&v) == f.v && g.ty(d.node).dtype == g.ty(f.v.node).dtype).then_some((d, n, factor))
}

/// Products of the scores' cotangents with queries or keys.
fn scores_roots(g: &Graph, users: &[Vec<NodeId>], f: &Forward, start: Step) -> Vec<(usize, Root, f64)> {
    let mut roots = Vec::new();
    let mut todo = vec![start];
    while let Some(step) = todo.pop() {
        for &u in &users[step.node.index()] {
            let o = &g.node(u).operands;
            let scaled = |by: f64| Step { node: u, factor: step.factor * by, ..step.clone() };
            match &g.node(u).op {
                Op::Cast if is_float_cast(g, u) => todo.push(scaled(1.0)),
                Op::Permute { perm } => {
                    let axes = step.axes.iter().map(|a| perm.iter().position(|p| p == a).expect("every axis is somewhere")).collect();
                    todo.push(Step { node: u, axes, ..step.clone() });
                }
                Op::Map(ScalarOp::Neg) => todo.push(scaled(-1.0)),
                Op::Map(ScalarOp::Mul) => {
                    let other = if o[0] == step.node { o[1] } else { o[0] };
                    todo.extend(splat(g, other).map(scaled));
                }
                Op::Map(ScalarOp::Div) if o[0] == step.node => todo.extend(splat(g, o[1]).map(|c| scaled(1.0 / c))),
                Op::Map(ScalarOp::Select) => {
                    let (negated, other) = if o[1] == step.node { (false, o[2]) } else { (true, o[1]) };
                    if f.scores.hides.contains(&Hides { mask: o[0], negated }) && splat(g, other) == Some(0.0) {
                        todo.push(Step { hides: step.hides + 1, ..scaled(1.0) });
                    }
                }
                Op::Dot(_) => roots.extend(score_root(g, u, &step, f)),
                _ => {}
            }
        }
    }
    roots
}

/// A product that sums over queries or over keys: the axes of its result are those of the other one and of what it is multiplied by.
fn product(g: &Graph, n: NodeId, from: NodeId, axes: &[usize], over: usize) -> Option<(Seen, Root)> {
    let [l, r] = sides(g, n)?;
    let rank = axes.len();
    let other = 2 * rank - 3 - over;
    let turned = l.operand != from;
    let (mine, theirs) = if turned { (&r, &l) } else { (&l, &r) };
    if mine.operand != from || mine.contract[..] != [axes[over]] || mine.free[..] != [axes[other]] || theirs.free.len() != 1 {
        return None;
    }
    let batch: Option<Axes> = axes[..rank - 2].iter().map(|a| mine.batch.iter().position(|b| b == a)).collect();
    let batch = batch?;
    let seen_axes = batch.iter().map(|&b| theirs.batch[b]).chain([theirs.contract[0], theirs.free[0]]).collect();
    // Axes of the result: the batch's as the product has them, then those of both sides.
    let mut order: Axes = (0..batch.len()).map(|i| batch.iter().position(|&b| b == i).expect("all of the batch")).collect();
    order.extend(if turned { [rank - 1, rank - 2] } else { [rank - 2, rank - 1] });
    Some((Seen::new(g, theirs.operand, seen_axes), Root { node: n, order }))
}

/// The cotangent of queries or keys that a product is.
fn score_root(g: &Graph, n: NodeId, step: &Step, f: &Forward) -> Option<(usize, Root, f64)> {
    if f.scores.hidden != f64::NEG_INFINITY && step.hides != f.scores.hides.len() {
        return None;
    }
    let rank = step.axes.len();
    let (over, which, operand) = [(rank - 1, 0, &f.scores.k), (rank - 2, 1, &f.scores.q)]
        .into_iter()
        .find(|(over, ..)| sides(g, n).is_some_and(|s| s.iter().any(|s| s.operand == step.node && s.contract[..] == [step.axes[*over]])))?;
    let (seen, root) = product(g, n, step.node, &step.axes, over)?;
    let widened = is_float_cast(g, seen.node) && g.ty(seen.node).dtype != g.ty(operand.node).dtype;
    let seen = if widened { Seen::new(g, g.node(seen.node).operands[0], seen.axes) } else { seen };
    (seen == *operand).then_some((which, root, step.factor))
}

/// The cotangent of values that a product of the probabilities is.
fn value_root(g: &Graph, n: NodeId, p: NodeId, f: &Forward, d: &Seen) -> Option<Root> {
    let (seen, root) = product(g, n, p, &f.axes, f.axes.len() - 2)?;
    (seen == *d).then_some(root)
}
