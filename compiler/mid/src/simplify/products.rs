//! Matrix products: transpositions become part of the pairing of axes.

use super::Exactness::{Budget, Exact};
use super::build::{Builder, Move};
use optc_ir::graph::{Axes, DotDims, NodeId, Op, Origin, Ty};

/// In the order they are tried.
pub const MOVES: &[Move] = &[
    Move { name: "product of a permuted left operand", exactness: Exact, step: permuted_left },
    Move { name: "product of a permuted right operand", exactness: Exact, step: permuted_right },
    Move { name: "contraction of axes of one element", exactness: Budget, step: unit_contraction },
];

/// Axes that are neither batch nor contracted.
fn free(rank: usize, batch: &[usize], contract: &[usize]) -> Axes {
    (0..rank).filter(|a| !batch.contains(a) && !contract.contains(a)).collect()
}

/// The pairing on the operand before its permutation, if the order of the result's axes stays.
fn before(perm: &[usize], batch: &[usize], contract: &[usize]) -> Option<(Axes, Axes)> {
    let back = |axes: &[usize]| -> Axes { axes.iter().map(|&a| perm[a]).collect() };
    let kept = back(&free(perm.len(), batch, contract));
    kept.windows(2).all(|w| w[0] < w[1]).then(|| (back(batch), back(contract)))
}

fn permuted_left(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Dot(d) = op else { return None };
    let Op::Permute { perm } = b.op_of(x[0]) else { return None };
    let (lhs_batch, lhs_contract) = before(perm, &d.lhs_batch, &d.lhs_contract)?;
    let source = b.operand(x[0]);
    Some(b.make(Op::Dot(DotDims { lhs_batch, lhs_contract, ..d.clone() }), &[source, x[1]], ty.clone(), origin))
}

fn permuted_right(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Dot(d) = op else { return None };
    let Op::Permute { perm } = b.op_of(x[1]) else { return None };
    let (rhs_batch, rhs_contract) = before(perm, &d.rhs_batch, &d.rhs_contract)?;
    let source = b.operand(x[1]);
    Some(b.make(Op::Dot(DotDims { rhs_batch, rhs_contract, ..d.clone() }), &[x[0], source], ty.clone(), origin))
}

/// A permutation that swaps the free axes of the operands as blocks is a product with the operands swapped.
pub fn transposed(b: &mut Builder, dot: NodeId, d: &DotDims, perm: &[usize], origin: Origin) -> Option<NodeId> {
    let (left, right) = (b.out.node(dot).operands[0], b.out.node(dot).operands[1]);
    let batch = d.lhs_batch.len();
    let m = free(b.ty(left).rank(), &d.lhs_batch, &d.lhs_contract).len();
    let n = free(b.ty(right).rank(), &d.rhs_batch, &d.rhs_contract).len();
    let swapped = (0..batch).chain(batch + m..batch + m + n).chain(batch..batch + m);
    if !swapped.eq(perm.iter().copied()) {
        return None;
    }
    let dims = DotDims {
        lhs_batch: d.rhs_batch.clone(),
        rhs_batch: d.lhs_batch.clone(),
        lhs_contract: d.rhs_contract.clone(),
        rhs_contract: d.lhs_contract.clone(),
    };
    Some(b.dot(right, left, dims, origin))
}

/// Contracted axes of extent 1 contribute nothing; they are reshaped away while others remain.
fn unit_contraction(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Dot(d) = op else { return None };
    let shape = b.ty(x[0]).shape.clone();
    let units: Vec<usize> = (0..d.lhs_contract.len()).filter(|&i| shape[d.lhs_contract[i]] == 1).collect();
    if units.is_empty() || units.len() == d.lhs_contract.len() {
        return None;
    }
    let drop_axes = |b: &mut Builder, id: NodeId, contract: &Axes, batch: &Axes| {
        let gone: Vec<usize> = units.iter().map(|&i| contract[i]).collect();
        let kept: Vec<usize> = b.ty(id).shape.iter().enumerate().filter(|(a, _)| !gone.contains(a)).map(|(_, &n)| n).collect();
        let shift = |a: usize| a - gone.iter().filter(|&&g| g < a).count();
        let contract: Axes = contract.iter().enumerate().filter(|(i, _)| !units.contains(i)).map(|(_, &a)| shift(a)).collect();
        let batch: Axes = batch.iter().map(|&a| shift(a)).collect();
        (b.reshape(id, &kept, origin), contract, batch)
    };
    let (left, lhs_contract, lhs_batch) = drop_axes(b, x[0], &d.lhs_contract, &d.lhs_batch);
    let (right, rhs_contract, rhs_batch) = drop_axes(b, x[1], &d.rhs_contract, &d.rhs_batch);
    Some(b.make(Op::Dot(DotDims { lhs_batch, rhs_batch, lhs_contract, rhs_contract }), &[left, right], ty.clone(), origin))
}
