//! Products that are symmetric because of how they are made: x x', a a for a symmetric a, x' diag(d) x, b s b'.
//!
//! One question is asked: does array y equal array x with its axes in another order? It is answered by going down both at once; a symmetric product equals itself with its
//! free axes exchanged. Half of such a product is computed, the other half mirrored, which may differ in the last bits from what would have been computed there.

use crate::net::{N, Net};
use optc_abi::Tensor;
use optc_ir::build::strides;
use optc_ir::graph::{Axes, DotDims};
use optc_ir::{Op, ScalarOp};

/// Extent from which half a product is less work than a whole one.
const LEAST: usize = 48;
/// Pairs of nodes looked at for one product, which bounds what large graphs cost.
const LOOKS: usize = 256;

/// Elements up to which literals are compared.
const LARGE_LITERAL: usize = 1 << 12;

/// Marks the symmetric products.
pub(crate) fn mark(net: &mut Net) {
    for n in 0..net.nodes.len() {
        let Op::Dot(dims) = &net.nodes[n].op else { continue };
        let (a, b) = (net.nodes[n].operands[0], net.nodes[n].operands[1]);
        let extents = |x: N, batch: &Axes, contract: &Axes| -> Vec<usize> {
            free(net, x, batch, contract).into_iter().map(|i| net.nodes[x].ty.shape[i]).collect()
        };
        let (rows, cols) = (extents(a, &dims.lhs_batch, &dims.lhs_contract), extents(b, &dims.rhs_batch, &dims.rhs_contract));
        if rows.len() != 1 || rows != cols || rows[0] < LEAST {
            continue;
        }
        let mut search = Search { net: &*net, looks: LOOKS };
        let rank = net.nodes[n].ty.rank();
        let found = search.symmetric_product(n, dims, &exchange(rank, rank - 2, rank - 1));
        net.nodes[n].symmetric = found;
    }
}

/// Axes of an operand that are neither batch nor contracted.
fn free(net: &Net, x: N, batch: &[usize], contract: &[usize]) -> Axes {
    (0..net.nodes[x].ty.rank()).filter(|i| !batch.contains(i) && !contract.contains(i)).collect()
}

fn identity(rank: usize) -> Axes {
    (0..rank).collect()
}

fn exchange(rank: usize, p: usize, q: usize) -> Axes {
    (0..rank)
        .map(|i| {
            if i == p {
                q
            } else if i == q {
                p
            } else {
                i
            }
        })
        .collect()
}

fn is_identity(order: &[usize]) -> bool {
    order.iter().enumerate().all(|(i, &o)| i == o)
}

/// Axis `to` of the one operand is axis `from` of the other, for all pairs: as an order of axes, if each is named once.
fn order_of(rank: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Option<Axes> {
    let mut order: Axes = std::iter::repeat_n(usize::MAX, rank).collect();
    for (to, from) in pairs {
        if to >= rank || from >= rank || order[to] != usize::MAX || order.contains(&from) {
            return None;
        }
        order[to] = from;
    }
    order.iter().all(|&o| o != usize::MAX).then_some(order)
}

struct Search<'a> {
    net: &'a Net,
    looks: usize,
}

impl Search<'_> {
    /// Whether y is x with its axes in another order: y's axis i is x's axis `order[i]`.
    fn turned(&mut self, x: N, y: N, order: &Axes) -> bool {
        if x == y && is_identity(order) {
            return true;
        }
        if self.looks == 0 {
            return false;
        }
        self.looks -= 1;
        let net = self.net;
        let (nx, ny) = (&net.nodes[x], &net.nodes[y]);
        if let Op::Permute { perm } = &ny.op {
            let inner = order_of(perm.len(), perm.iter().zip(order).map(|(&p, &o)| (p, o)));
            return inner.is_some_and(|inner| self.turned(x, ny.operands[0], &inner));
        }
        if let Op::Permute { perm } = &nx.op {
            let inner: Axes = order.iter().map(|&o| perm[o]).collect();
            return self.turned(nx.operands[0], y, &inner);
        }
        let shapes_agree = order.len() == ny.ty.rank() && order.iter().zip(&ny.ty.shape).all(|(&o, &n)| nx.ty.shape[o] == n);
        if !shapes_agree || nx.ty.dtype != ny.ty.dtype || nx.partial || ny.partial || nx.operands.len() != ny.operands.len() {
            return false;
        }
        match (&nx.op, &ny.op) {
            (Op::Const(s), Op::Const(t)) => constants(s, t, order),
            (Op::Iota { axis }, Op::Iota { axis: other }) => order[*other] == *axis,
            (Op::Map(f), Op::Map(g)) if f == g => {
                let straight = nx.operands.iter().zip(&ny.operands).all(|(&a, &b)| self.turned(a, b, order));
                straight
                    || commutes(*f)
                        && self.turned(nx.operands[0], ny.operands[1], order)
                        && self.turned(nx.operands[1], ny.operands[0], order)
            }
            (Op::Cast, Op::Cast) | (Op::StopGradient, Op::StopGradient) => self.turned(nx.operands[0], ny.operands[0], order),
            (Op::Broadcast { dims: from }, Op::Broadcast { dims: to }) => {
                // Operand axes of one element are repeated like axes that are new.
                let axis = |n: N, dims: &Axes, i: usize| dims.iter().position(|&d| d == i).filter(|&p| net.nodes[n].ty.shape[p] > 1);
                let small = |n: N| -> Vec<usize> { (0..net.nodes[n].ty.rank()).filter(|&i| net.nodes[n].ty.shape[i] == 1).collect() };
                let (x0, y0) = (nx.operands[0], ny.operands[0]);
                let kept = (0..order.len()).map(|i| (axis(y0, to, i), axis(x0, from, order[i]))).filter(|p| *p != (None, None));
                let kept: Option<Vec<(usize, usize)>> =
                    kept.map(|p| if let (Some(to), Some(from)) = p { Some((to, from)) } else { None }).collect();
                let inner = kept.and_then(|kept| order_of(to.len(), kept.into_iter().chain(small(y0).into_iter().zip(small(x0)))));
                inner.is_some_and(|inner| inner.len() == from.len() && self.turned(x0, y0, &inner))
            }
            (Op::Reshape, Op::Reshape) => {
                let (from, to) = (nx.operands[0], ny.operands[0]);
                if is_identity(order) && net.nodes[from].ty.shape == net.nodes[to].ty.shape {
                    return self.turned(from, to, &identity(net.nodes[to].ty.rank()));
                }
                // Axes of one element come and go; what they pair with does not matter.
                let large = |n: N| -> Vec<usize> { (0..net.nodes[n].ty.rank()).filter(|&i| net.nodes[n].ty.shape[i] > 1).collect() };
                let small = |n: N| -> Vec<usize> { (0..net.nodes[n].ty.rank()).filter(|&i| net.nodes[n].ty.shape[i] == 1).collect() };
                let extents = |n: N| -> Vec<usize> { large(n).into_iter().map(|i| net.nodes[n].ty.shape[i]).collect() };
                if extents(from) != extents(x) || extents(to) != extents(y) {
                    return false;
                }
                let (large_x, large_from) = (large(x), large(from));
                let through = |i: usize| large_x.iter().position(|&a| a == i).map(|p| large_from[p]);
                let kept = large(to).into_iter().zip(large(y)).filter_map(|(t, i)| through(order[i]).map(|f| (t, f)));
                let pairs: Vec<(usize, usize)> = kept.chain(small(to).into_iter().zip(small(from))).collect();
                order_of(net.nodes[to].ty.rank(), pairs).is_some_and(|inner| self.turned(from, to, &inner))
            }
            (Op::Reduce { kind, axes }, Op::Reduce { kind: other, axes: others }) if kind == other && axes.len() == others.len() => {
                let (from, to) = (nx.operands[0], ny.operands[0]);
                let kept = |n: N, axes: &Axes| -> Axes { (0..net.nodes[n].ty.rank()).filter(|a| !axes.contains(a)).collect() };
                let (kept_from, kept_to) = (kept(from, axes), kept(to, others));
                let pairs = order.iter().enumerate().map(|(i, &o)| (kept_to[i], kept_from[o]));
                let inner = order_of(net.nodes[to].ty.rank(), pairs.chain(others.iter().copied().zip(axes.iter().copied())));
                inner.is_some_and(|inner| self.turned(from, to, &inner))
            }
            (Op::Slice { start: a, stop: b, step: c }, Op::Slice { start: d, stop: e, step: f }) => {
                let same = (0..order.len()).all(|i| a[order[i]] == d[i] && b[order[i]] == e[i] && c[order[i]] == f[i]);
                same && self.turned(nx.operands[0], ny.operands[0], order)
            }
            (Op::Pad { lo: a, hi: b, interior: c }, Op::Pad { lo: d, hi: e, interior: f }) => {
                let same = (0..order.len()).all(|i| a[order[i]] == d[i] && b[order[i]] == e[i] && c[order[i]] == f[i]);
                same && self.turned(nx.operands[0], ny.operands[0], order) && self.turned(nx.operands[1], ny.operands[1], &Axes::new())
            }
            (Op::Concat { axis }, Op::Concat { axis: other }) if order[*other] == *axis => {
                nx.operands.iter().zip(&ny.operands).all(|(&a, &b)| self.turned(a, b, order))
            }
            (Op::Dot(d), Op::Dot(e)) if nx.layout.is_none() && ny.layout.is_none() => {
                if x == y
                    && order.len() >= 2
                    && *order == exchange(order.len(), order.len() - 2, order.len() - 1)
                    && self.symmetric_product(x, d, order)
                {
                    return true;
                }
                self.products([(nx.operands[0], nx.operands[1]), (ny.operands[0], ny.operands[1])], [d, e], order)
            }
            _ => false,
        }
    }

    /// Whether the product of the second pair of operands is that of the first with its axes in another order.
    fn products(&mut self, [(a, b), (c, d)]: [(N, N); 2], [x, y]: [&DotDims; 2], order: &Axes) -> bool {
        let net = self.net;
        let batch = x.lhs_batch.len();
        if batch != y.lhs_batch.len() || x.lhs_contract.len() != y.lhs_contract.len() || order[..batch].iter().any(|&o| o >= batch) {
            return false;
        }
        // Axes of the result as axes of the operands: whose, and which.
        let sides = |(l, r): (N, N), dims: &DotDims| -> Vec<(bool, usize)> {
            let left = free(net, l, &dims.lhs_batch, &dims.lhs_contract).into_iter().map(|i| (false, i));
            left.chain(free(net, r, &dims.rhs_batch, &dims.rhs_contract).into_iter().map(|i| (true, i))).collect()
        };
        let (from, to) = (sides((a, b), x), sides((c, d), y));
        [false, true].into_iter().any(|crossed| {
            let pairs = |right: bool| -> Option<Vec<(usize, usize)>> {
                let (y_batch, y_contract) = if right { (&y.rhs_batch, &y.rhs_contract) } else { (&y.lhs_batch, &y.lhs_contract) };
                let (x_batch, x_contract) =
                    if right != crossed { (&x.rhs_batch, &x.rhs_contract) } else { (&x.lhs_batch, &x.lhs_contract) };
                let mut pairs: Vec<(usize, usize)> = (0..batch).map(|i| (y_batch[i], x_batch[order[i]])).collect();
                pairs.extend(y_contract.iter().copied().zip(x_contract.iter().copied()));
                for (i, &(side, axis)) in to.iter().enumerate().filter(|(_, (side, _))| *side == right) {
                    let (other, its) = *from.get(order[batch + i].checked_sub(batch)?)?;
                    if (other != side) != crossed {
                        return None;
                    }
                    pairs.push((axis, its));
                }
                Some(pairs)
            };
            let (first, second) = if crossed { (b, a) } else { (a, b) };
            let (Some(left), Some(right)) = (pairs(false), pairs(true)) else { return false };
            let orders = (order_of(net.nodes[c].ty.rank(), left), order_of(net.nodes[d].ty.rank(), right));
            let (Some(left), Some(right)) = orders else { return false };
            let ranks = net.nodes[first].ty.rank() == left.len() && net.nodes[second].ty.rank() == right.len();
            ranks && self.turned(first, c, &left) && self.turned(second, d, &right)
        })
    }

    /// Whether a product equals itself with its two free axes, the last ones, exchanged.
    fn symmetric_product(&mut self, n: N, dims: &DotDims, order: &Axes) -> bool {
        let net = self.net;
        let (a, b) = (net.nodes[n].operands[0], net.nodes[n].operands[1]);
        // Factors that go with the contracted and the batch axes weigh the terms of the sum, which are the same on both sides of the diagonal.
        let (x, y) = (unweighted(net, a, &dims.lhs_batch, &dims.lhs_contract), unweighted(net, b, &dims.rhs_batch, &dims.rhs_contract));
        self.products([(a, b), (a, b)], [dims, dims], order)
            || (x, y) != (a, b) && self.products([(x, y), (x, y)], [dims, dims], order)
            || self.congruence(a, b, dims, false)
            || self.congruence(a, b, dims, true)
    }

    /// Whether (l s) r is b s b' with a symmetric s; or l (s r), if `right`.
    fn congruence(&mut self, a: N, b: N, outer: &DotDims, right: bool) -> bool {
        let net = self.net;
        let DotDims { lhs_batch, rhs_batch, lhs_contract, rhs_contract } = outer;
        let (inner, inner_batch, inner_contract) = if right { (b, rhs_batch, rhs_contract) } else { (a, lhs_batch, lhs_contract) };
        let (side, side_batch, side_contract) = if right { (a, lhs_batch, lhs_contract) } else { (b, rhs_batch, rhs_contract) };
        let (Op::Dot(d), None) = (&net.nodes[inner].op, &net.nodes[inner].layout) else { return false };
        let batch = d.lhs_batch.len();
        let one = d.lhs_contract.len() == 1 && inner_contract.len() == 1 && inner_batch.iter().copied().eq(0..batch);
        // The outer contraction takes the axis that comes from s: the last of l s, the first of s r.
        if !one || inner_contract[0] != if right { batch } else { batch + 1 } || net.nodes[inner].ty.rank() != batch + 2 {
            return false;
        }
        let (l, s) = (net.nodes[inner].operands[0], net.nodes[inner].operands[1]);
        let (end, end_batch, end_contract, s, s_batch, s_contract) = if right {
            (s, &d.rhs_batch, d.rhs_contract[0], l, &d.lhs_batch, d.lhs_contract[0])
        } else {
            (l, &d.lhs_batch, d.lhs_contract[0], s, &d.rhs_batch, d.rhs_contract[0])
        };
        let (end_free, side_free) = (free(net, end, end_batch, &[end_contract]), free(net, side, side_batch, side_contract));
        let s_free = free(net, s, s_batch, &[s_contract]);
        if end_free.len() != 1 || side_free.len() != 1 || s_free.len() != 1 {
            return false;
        }
        let pairs = side_batch
            .iter()
            .copied()
            .zip(end_batch.iter().copied())
            .chain([(side_contract[0], end_contract), (side_free[0], end_free[0])]);
        let Some(order) = order_of(net.nodes[side].ty.rank(), pairs) else { return false };
        net.nodes[end].ty.rank() == order.len()
            && self.turned(end, side, &order)
            && self.turned(s, s, &exchange(net.nodes[s].ty.rank(), s_contract, s_free[0]))
    }
}

/// Whether a literal is another one with its axes in another order; large ones are not looked at.
fn constants(s: &Tensor, t: &Tensor, order: &[usize]) -> bool {
    let (steps, size) = (strides(&s.shape), s.dtype.size());
    t.len() <= LARGE_LITERAL
        && (0..t.len()).all(|flat| {
            let (mut rest, mut from) = (flat, 0);
            for i in (0..order.len()).rev() {
                from += rest % t.shape[i] * steps[order[i]];
                rest /= t.shape[i];
            }
            s.bytes()[from * size..(from + 1) * size] == t.bytes()[flat * size..(flat + 1) * size]
        })
}

/// An operand of a product without factors that only go with its batch and contracted axes.
fn unweighted(net: &Net, x: N, batch: &[usize], contract: &[usize]) -> N {
    let node = &net.nodes[x];
    let weighs = |n: N| match &net.nodes[n].op {
        Op::Broadcast { dims } => {
            let extents = &net.nodes[net.nodes[n].operands[0]].ty.shape;
            dims.iter().zip(extents).all(|(d, &extent)| extent == 1 || batch.contains(d) || contract.contains(d))
        }
        _ => false,
    };
    match node.op {
        Op::Map(ScalarOp::Mul) if weighs(node.operands[1]) => unweighted(net, node.operands[0], batch, contract),
        Op::Map(ScalarOp::Mul) if weighs(node.operands[0]) => unweighted(net, node.operands[1], batch, contract),
        Op::Map(ScalarOp::Div) if weighs(node.operands[1]) => unweighted(net, node.operands[0], batch, contract),
        _ => x,
    }
}

fn commutes(op: ScalarOp) -> bool {
    use ScalarOp::*;
    matches!(op, Add | Mul | Min | Max | And | Or | Xor | Eq | Ne)
}
