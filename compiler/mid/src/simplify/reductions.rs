//! Reductions, searches and scans.

use super::Exactness::{Budget, Exact};
use super::build::{Builder, Move};
use super::facts::never_minus_zero;
use optc_abi::DType;
use optc_ir::graph::{Axes, NodeId, Op, Origin, ReduceOp, Ty};
use optc_ir::interp::{float_identity, int_identity};
use optc_ir::scalar::ScalarOp;

/// In the order they are tried.
pub const MOVES: &[Move] = &[
    Move { name: "reduction of nothing", exactness: Exact, step: of_nothing },
    Move { name: "extreme or logic of a reduction of the same kind", exactness: Exact, step: of_same_kind },
    Move { name: "reduction of axes of one element", exactness: Exact, step: of_single },
    Move { name: "reduction of added or dropped axes", exactness: Exact, step: of_reshape },
    Move { name: "extreme or logic of a broadcast", exactness: Exact, step: of_broadcast },
    Move { name: "sum of a broadcast", exactness: Budget, step: sum_of_broadcast },
    Move { name: "reduction of a permutation", exactness: Budget, step: of_permutation },
];

fn of_nothing(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Reduce { kind, axes } = op else { return None };
    if axes.is_empty() {
        return Some(x[0]);
    }
    if !axes.iter().any(|&a| b.ty(x[0]).shape[a] == 0) {
        return None;
    }
    let identity = if ty.dtype.is_float() {
        float_identity(*kind)
    } else if ty.dtype == DType::I64 && matches!(kind, ReduceOp::Max | ReduceOp::Min) {
        // Beyond the integers that f64 holds.
        return None;
    } else {
        int_identity(*kind, ty.dtype) as f64
    };
    Some(b.splat(ty, identity, origin))
}

/// The array plus 0, which turns -0 into 0 as a sum does; nothing if there is no -0.
fn plus_zero(b: &mut Builder, x: NodeId, origin: Origin) -> NodeId {
    let ty = b.ty(x).clone();
    if !ty.dtype.is_float() || never_minus_zero(&b.out, x) {
        return x;
    }
    let zero = b.splat(&ty, 0.0, origin);
    b.map(ScalarOp::Add, &[x, zero], origin)
}

fn of_single(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let shape = b.ty(x[0]).shape.clone();
    match op {
        Op::Reduce { kind, axes } => {
            let (units, rest): (Vec<usize>, Vec<usize>) = axes.iter().partition(|&&a| shape[a] == 1);
            if units.is_empty() {
                return None;
            }
            let kept: Vec<usize> = (0..shape.len()).filter(|a| !units.contains(a)).collect();
            let extents: Vec<usize> = kept.iter().map(|&a| shape[a]).collect();
            let flat = b.reshape(x[0], &extents, origin);
            let axes: Vec<usize> = rest.iter().map(|a| kept.iter().position(|k| k == a).expect("a kept axis")).collect();
            if axes.is_empty() && *kind == ReduceOp::Sum {
                return Some(plus_zero(b, flat, origin));
            }
            Some(b.reduce(*kind, flat, &axes, origin))
        }
        Op::ArgReduce { axis, .. } if shape[*axis] == 1 => Some(b.splat(ty, 0.0, origin)),
        Op::Scan { axis, .. } if shape[*axis] <= 1 => Some(x[0]),
        _ => None,
    }
}

/// A reshape that only adds or drops axes of one element is done after the reduction.
fn of_reshape(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Reduce { kind, axes } = op else { return None };
    let Op::Reshape = b.op_of(x[0]) else { return None };
    let source = b.operand(x[0]);
    let proper = |shape: &[usize]| -> Vec<usize> { (0..shape.len()).filter(|&a| shape[a] != 1).collect() };
    let (inner, outer) = (b.ty(source).shape.clone(), b.ty(x[0]).shape.clone());
    let (from, to) = (proper(&inner), proper(&outer));
    if !from.iter().map(|&a| inner[a]).eq(to.iter().map(|&a| outer[a])) {
        return None;
    }
    let mut places = Vec::with_capacity(axes.len());
    for axis in axes {
        places.push(from[to.iter().position(|t| t == axis)?]);
    }
    let small = b.reduce(*kind, source, &places, origin);
    Some(b.reshape(small, &ty.shape, origin))
}

/// Whether the order of combination makes no difference.
fn selects(kind: ReduceOp, dtype: DType) -> bool {
    !matches!(kind, ReduceOp::Sum | ReduceOp::Prod) || dtype.is_int()
}

fn of_same_kind(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Reduce { kind, axes } = op else { return None };
    if selects(*kind, ty.dtype) { join(b, *kind, axes, x[0], origin) } else { None }
}

fn join(b: &mut Builder, kind: ReduceOp, axes: &Axes, x: NodeId, origin: Origin) -> Option<NodeId> {
    let Op::Reduce { kind: inner, axes: first } = b.op_of(x).clone() else { return None };
    if inner != kind {
        return None;
    }
    let source = b.operand(x);
    let left: Vec<usize> = (0..b.ty(source).rank()).filter(|a| !first.contains(a)).collect();
    let all: Vec<usize> = first.iter().copied().chain(axes.iter().map(|&a| left[a])).collect();
    Some(b.reduce(kind, source, &all, origin))
}

/// What remains of a reduction of a broadcast: the reduction over the axes that vary, and how often each element was repeated.
fn split_broadcast(b: &Builder, x: NodeId, axes: &Axes) -> Option<(NodeId, Vec<usize>, usize, Axes)> {
    let Op::Broadcast { dims } = b.op_of(x) else { return None };
    let source = b.operand(x);
    let (from, to) = (&b.ty(source).shape, &b.ty(x).shape);
    let varies = |axis: usize| dims.iter().position(|&d| d == axis).filter(|&i| from[i] == to[axis]);
    let repeated: usize = axes.iter().filter(|&&a| varies(a).is_none()).map(|&a| to[a]).product();
    if axes.iter().all(|&a| varies(a).is_some()) {
        return None;
    }
    // Source axes on reduced result axes vanish: reduced if they vary, of extent 1 otherwise.
    let gone: Vec<usize> = (0..dims.len()).filter(|&i| axes.contains(&dims[i])).collect();
    let kept: Vec<usize> = (0..to.len()).filter(|a| !axes.contains(a)).collect();
    let places: Axes =
        (0..dims.len()).filter(|i| !gone.contains(i)).map(|i| kept.iter().position(|&k| k == dims[i]).expect("a kept axis")).collect();
    Some((source, gone, repeated, places))
}

fn of_broadcast(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Reduce { kind, axes } = op else { return None };
    if matches!(kind, ReduceOp::Sum | ReduceOp::Prod) {
        return None;
    }
    let (source, gone, _, places) = split_broadcast(b, x[0], axes)?;
    let small = b.reduce(*kind, source, &gone, origin);
    Some(b.broadcast(small, &places, &ty.shape, origin))
}

/// The sum of n equal elements is n times the element, which is exact where the sum may have been rounded.
fn sum_of_broadcast(b: &mut Builder, op: &Op, x: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Reduce { kind: ReduceOp::Sum, axes } = op else { return None };
    let exact = match ty.dtype {
        DType::F32 => 1 << 24,
        DType::F64 => 1 << 53,
        DType::I32 | DType::I64 | DType::U32 => i32::MAX as usize,
        _ => return None,
    };
    let (source, gone, repeated, places) = split_broadcast(b, x[0], axes)?;
    if repeated > exact {
        return None;
    }
    let small = b.reduce(ReduceOp::Sum, source, &gone, origin);
    let small_ty = b.ty(small).clone();
    let factor = b.splat(&small_ty, repeated as f64, origin);
    let product = b.map(ScalarOp::Mul, &[small, factor], origin);
    let product = plus_zero(b, product, origin);
    Some(b.broadcast(product, &places, &ty.shape, origin))
}

/// The reduction goes first; what is left to permute is smaller.
fn of_permutation(b: &mut Builder, op: &Op, x: &[NodeId], _: &Ty, origin: Origin) -> Option<NodeId> {
    let Op::Reduce { kind, axes } = op else { return None };
    let Op::Permute { perm } = b.op_of(x[0]).clone() else { return None };
    let source = b.operand(x[0]);
    let gone: Vec<usize> = axes.iter().map(|&a| perm[a]).collect();
    let left: Vec<usize> = (0..perm.len()).filter(|a| !gone.contains(a)).collect();
    let order: Vec<usize> =
        (0..perm.len()).filter(|a| !axes.contains(a)).map(|a| left.iter().position(|&l| l == perm[a]).expect("a kept axis")).collect();
    let small = b.reduce(*kind, source, &gone, origin);
    Some(b.permute(small, &order, origin))
}
