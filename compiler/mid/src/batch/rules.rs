//! Batching rules of the operations that yield one array. At least one operand is batched.

use super::{Batcher, Val, with_batch};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, DotDims, Node, NodeId, NodeTy, Op, Origin, ReduceOp, ScatterMode, Ty};
use std::iter::once;

impl Batcher {
    /// The batched result; `None` for an operation that is run by a loop over the batch. This is the place for the rule of a new operation.
    pub(super) fn array(&mut self, node: &Node, x: &[Val], o: Origin) -> Option<NodeId> {
        let NodeTy::Array(ty) = &node.ty else { return None };
        let ty = with_batch(ty, self.size);
        let first = x.first().map(|v| v.node);
        let next = |axes: &Axes| -> Axes { axes.iter().map(|a| a + 1).collect() };
        let led = |lead: usize, axes: &Axes| -> Axes { once(lead).chain(axes.iter().copied()).collect() };
        let op = match &node.op {
            Op::Map(_) => {
                let operands: Vec<NodeId> = x.iter().map(|v| self.spread(*v, o).node).collect();
                return Some(self.g.push(node.op.clone(), operands, NodeTy::Array(ty), o));
            }
            Op::Concat { axis } => {
                let operands: Vec<NodeId> = x.iter().map(|v| self.spread(*v, o).node).collect();
                return Some(self.g.push(Op::Concat { axis: axis + 1 }, operands, NodeTy::Array(ty), o));
            }
            Op::Cast | Op::Bitcast | Op::Reshape | Op::StopGradient | Op::Swap => node.op.clone(),
            Op::Reduce { kind, axes } => Op::Reduce { kind: *kind, axes: next(axes) },
            Op::ArgReduce { max, axis } => Op::ArgReduce { max: *max, axis: axis + 1 },
            Op::Scan { kind, axis, reverse } => Op::Scan { kind: *kind, axis: axis + 1, reverse: *reverse },
            Op::Flip { axes } => Op::Flip { axes: next(axes) },
            Op::ArgSort { axis, descending } => Op::ArgSort { axis: axis + 1, descending: *descending },
            Op::Window { axis, size, stride, dilation } => Op::Window { axis: axis + 1, size: *size, stride: *stride, dilation: *dilation },
            Op::Broadcast { dims } => Op::Broadcast { dims: once(0).chain(dims.iter().map(|d| d + 1)).collect() },
            Op::Permute { perm } => Op::Permute { perm: once(0).chain(perm.iter().map(|p| p + 1)).collect() },
            Op::Slice { start, stop, step } => Op::Slice { start: led(0, start), stop: led(self.size, stop), step: led(1, step) },
            Op::Pad { lo, hi, interior } => {
                let (lo, hi, interior) = (led(0, lo), led(0, hi), led(0, interior));
                return Some(self.pad(x, &lo, &hi, &interior, o));
            }
            Op::Dot(dims) => return Some(self.dot(dims, x[0], x[1], o)),
            Op::Conv { kind, dims } => return Some(self.conv(*kind, dims, &ty, [x[0], x[1]], o)),
            Op::Gather { axis } => return Some(self.gather(*axis, x[0], x[1], o)),
            Op::Scatter { axis, mode } => return Some(self.scatter(*axis, *mode, x[0], x[1], x[2], o)),
            Op::Input { .. }
            | Op::Const(_)
            | Op::Iota { .. }
            | Op::RandomBits { .. }
            | Op::RandomFold { .. }
            | Op::Lib(_)
            | Op::Attention(_)
            | Op::Callback { .. }
            | Op::AllReduce
            | Op::Loop(_)
            | Op::Cond { .. }
            | Op::Call(_)
            | Op::Result { .. } => return None,
        };
        Some(self.g.push(op, first, NodeTy::Array(ty), o))
    }

    fn pad(&mut self, x: &[Val], lo: &[usize], hi: &[usize], interior: &[usize], o: Origin) -> NodeId {
        let (array, fill) = (self.spread(x[0], o).node, x[1]);
        if !fill.batched {
            return self.g.pad(array, fill.node, lo, hi, interior, o);
        }
        // Another number per element: pad with zeros, and choose it where the array is not.
        let ty = self.g.ty(array).clone();
        let zero = self.g.constant(optc_abi::Tensor::zeros(ty.dtype, &[]), o);
        let padded = self.g.pad(array, zero, lo, hi, interior, o);
        let inside = self.g.splat(&ty.with_dtype(DType::Bool), 1.0, o);
        let outside = self.g.scalar(DType::Bool, 0.0, o);
        let inside = self.g.pad(inside, outside, lo, hi, interior, o);
        let fill = self.flags_like(fill.node, padded, o);
        self.g.map(ScalarOp::Select, &[inside, padded, fill], o)
    }

    /// Both batched: one more batch axis. One batched: the batch is one more of its other axes, one larger product.
    fn dot(&mut self, dims: &DotDims, a: Val, b: Val, o: Origin) -> NodeId {
        let moved = |axes: &Axes, by: bool| -> Axes { axes.iter().map(|a| a + usize::from(by)).collect() };
        let mut new = DotDims {
            lhs_batch: moved(&dims.lhs_batch, a.batched),
            rhs_batch: moved(&dims.rhs_batch, b.batched),
            lhs_contract: moved(&dims.lhs_contract, a.batched),
            rhs_contract: moved(&dims.rhs_contract, b.batched),
        };
        if a.batched && b.batched {
            new.lhs_batch.insert(0, 0);
            new.rhs_batch.insert(0, 0);
            return self.g.dot(a.node, b.node, new, o);
        }
        // Result axes: batch axes, others of the left operand, others of the right one; in these the batch comes first.
        let before = if a.batched { dims.lhs_batch.len() } else { self.g.ty(a.node).rank() - dims.lhs_contract.len() };
        let product = self.g.dot(a.node, b.node, new, o);
        self.brought_forward(product, before, 1, o)
    }

    /// Moves `count` axes from `at` to the front.
    pub(super) fn brought_forward(&mut self, x: NodeId, at: usize, count: usize, o: Origin) -> NodeId {
        let rank = self.g.ty(x).rank();
        let perm: Vec<usize> = (at..at + count).chain(0..at).chain(at + count..rank).collect();
        self.g.permute(x, &perm, o)
    }

    /// Moves the first `count` axes behind the `at` that follow.
    pub(super) fn put_behind(&mut self, x: NodeId, at: usize, count: usize, o: Origin) -> NodeId {
        let rank = self.g.ty(x).rank();
        let perm: Vec<usize> = (count..count + at).chain(0..count).chain(count + at..rank).collect();
        self.g.permute(x, &perm, o)
    }

    /// Indices with 0 for elements that are masked: theirs could be out of range.
    pub(super) fn safe_ids(&mut self, ids: Val, o: Origin) -> Val {
        let Some(mask) = self.mask else { return ids };
        let ty = self.g.ty(ids.node).clone();
        let flags = if ids.batched {
            self.flags_like(mask, ids.node, o)
        } else {
            let any = self.any(mask, o);
            self.g.broadcast(any, &[], &ty.shape, o)
        };
        let zeros = self.g.splat(&ty, 0.0, o);
        Val { node: self.g.map(ScalarOp::Select, &[flags, ids.node, zeros], o), batched: ids.batched }
    }

    /// Batched indices into an axis of `n` as indices into the batch and that axis as one; what is out of range stays so.
    fn joint_ids(&mut self, ids: NodeId, n: usize, o: Origin) -> NodeId {
        let ty = self.g.ty(ids).clone();
        let number = |b: &mut Self, value: f64| b.g.splat(&ty, value, o);
        let (zero, end, none) = (number(self, 0.0), number(self, n as f64), number(self, -1.0));
        let above = self.g.map(ScalarOp::Le, &[zero, ids], o);
        let below = self.g.map(ScalarOp::Lt, &[ids, end], o);
        let inside = self.g.map(ScalarOp::And, &[above, below], o);
        let element = self.g.iota(ty.dtype, &ty.shape, 0, o);
        let start = self.g.map(ScalarOp::Mul, &[element, end], o);
        let joint = self.g.map(ScalarOp::Add, &[start, ids], o);
        self.g.map(ScalarOp::Select, &[inside, joint, none], o)
    }

    fn gather(&mut self, axis: usize, x: Val, ids: Val, o: Origin) -> NodeId {
        let ids = self.safe_ids(ids, o);
        match (x.batched, ids.batched) {
            (_, false) => {
                let x = self.spread(x, o).node;
                self.g.gather(x, ids.node, axis + 1, o)
            }
            (false, true) => {
                let rows = self.g.gather(x.node, ids.node, axis, o);
                self.brought_forward(rows, axis, 1, o)
            }
            (true, true) => {
                let (rows, n) = self.joined(x.node, axis, o);
                let count = self.g.ty(ids.node).rank();
                let ids = self.joint_ids(ids.node, n, o);
                let found = self.g.gather(rows, ids, 0, o);
                // The batch, axes of ids, axes before, axes after.
                let rank = self.g.ty(found).rank();
                let perm: Vec<usize> = once(0).chain(count..count + axis).chain(1..count).chain(count + axis..rank).collect();
                self.g.permute(found, &perm, o)
            }
        }
    }

    /// A batched array with the batch and an axis joined in front, and the extent of that axis.
    fn joined(&mut self, x: NodeId, axis: usize, o: Origin) -> (NodeId, usize) {
        let rank = self.g.ty(x).rank();
        let perm: Vec<usize> = [0, axis + 1].into_iter().chain((1..rank).filter(|&i| i != axis + 1)).collect();
        let x = self.g.permute(x, &perm, o);
        let shape = self.g.ty(x).shape.clone();
        let joint: Vec<usize> = once(shape[0] * shape[1]).chain(shape[2..].iter().copied()).collect();
        (self.g.reshape(x, &joint, o), shape[1])
    }

    fn scatter(&mut self, axis: usize, mode: ScatterMode, x: Val, ids: Val, updates: Val, o: Origin) -> NodeId {
        let ids = self.safe_ids(ids, o);
        let (x, updates) = (self.spread(x, o).node, self.spread(updates, o).node);
        if !ids.batched {
            return self.g.scatter(x, ids.node, updates, axis + 1, mode, o);
        }
        let ty: Ty = self.g.ty(x).clone();
        let (rows, n) = self.joined(x, axis, o);
        let count = self.g.ty(ids.node).rank();
        let ids = self.joint_ids(ids.node, n, o);
        // Updates: the batch, axes before, axes of ids, axes after; wanted: the batch, axes of ids, axes before, axes after.
        let rank = self.g.ty(updates).rank();
        let perm: Vec<usize> = once(0).chain(1 + axis..axis + count).chain(1..1 + axis).chain(axis + count..rank).collect();
        let updates = self.g.permute(updates, &perm, o);
        let written = self.g.scatter(rows, ids, updates, 0, mode, o);
        let apart: Vec<usize> = [self.size, n].into_iter().chain((1..ty.rank()).filter(|&i| i != axis + 1).map(|i| ty.shape[i])).collect();
        let written = self.g.reshape(written, &apart, o);
        // Now the batch, the axis, axes before, axes after.
        let perm: Vec<usize> = once(0).chain(2..2 + axis).chain(once(1)).chain(2 + axis..ty.rank()).collect();
        self.g.permute(written, &perm, o)
    }

    /// Whether any element is set.
    pub(super) fn any(&mut self, flags: NodeId, o: Origin) -> NodeId {
        self.g.reduce(ReduceOp::Or, flags, &[0], o)
    }
}
