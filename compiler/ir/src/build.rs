//! Constructors that compute the type of the node they push. Wrong arguments are compiler bugs and panic.

use crate::graph::{Axes, DotDims, Graph, LoopOp, NodeId, NodeTy, Op, Origin, ReduceOp, ScatterMode, Shape, Ty};
use crate::infer::infer;
use crate::scalar::ScalarOp;
use optc_abi::{DType, Tensor};
use rustc_hash::FxHashMap;
use std::sync::Arc;

impl Graph {
    /// Pushes a node whose type follows from its operation and operands.
    pub fn op(&mut self, op: Op, operands: &[NodeId], origin: Origin) -> NodeId {
        let types: Vec<&NodeTy> = operands.iter().map(|&o| &self.node(o).ty).collect();
        match infer(&op, &types, None) {
            Ok(ty) => self.push(op, operands.iter().copied(), ty, origin),
            Err(message) => panic!("compiler bug: {message}"),
        }
    }
    /// Pushes a node whose type is stated, and checked.
    pub fn op_as(&mut self, op: Op, operands: &[NodeId], ty: Ty, origin: Origin) -> NodeId {
        let types: Vec<&NodeTy> = operands.iter().map(|&o| &self.node(o).ty).collect();
        let claimed = NodeTy::Array(ty);
        match infer(&op, &types, Some(&claimed)) {
            Ok(ty) => self.push(op, operands.iter().copied(), ty, origin),
            Err(message) => panic!("compiler bug: {message}"),
        }
    }
    /// An elementwise operation on operands of one shape.
    pub fn map(&mut self, op: ScalarOp, operands: &[NodeId], origin: Origin) -> NodeId {
        self.op(Op::Map(op), operands, origin)
    }
    /// A literal array.
    pub fn constant(&mut self, value: Tensor, origin: Origin) -> NodeId {
        let ty = Ty::new(value.dtype, value.shape.iter().copied());
        self.push(Op::Const(Arc::new(value)), [], NodeTy::Array(ty), origin)
    }
    /// A literal scalar.
    pub fn scalar(&mut self, dtype: DType, value: f64, origin: Origin) -> NodeId {
        self.constant(Tensor::from_f64(dtype, &[], &[value]), origin)
    }
    /// An array whose elements are all `value`.
    pub fn splat(&mut self, ty: &Ty, value: f64, origin: Origin) -> NodeId {
        let scalar = self.scalar(ty.dtype, value, origin);
        self.broadcast(scalar, &[], &ty.shape, origin)
    }
    /// Operand axis `i` becomes result axis `dims[i]`. No node if nothing changes.
    pub fn broadcast(&mut self, x: NodeId, dims: &[usize], shape: &[usize], origin: Origin) -> NodeId {
        let ty = self.ty(x);
        if ty.shape[..] == *shape && dims.iter().enumerate().all(|(i, &d)| i == d) {
            return x;
        }
        let ty = Ty::new(ty.dtype, shape.iter().copied());
        self.op_as(Op::Broadcast { dims: dims.into() }, &[x], ty, origin)
    }
    /// NumPy broadcasting to a larger shape: axes are aligned at the end.
    pub fn broadcast_to(&mut self, x: NodeId, shape: &[usize], origin: Origin) -> NodeId {
        let rank = self.ty(x).rank();
        let dims: Axes = (shape.len() - rank..shape.len()).collect();
        self.broadcast(x, &dims, shape, origin)
    }
    /// The same elements under another shape. No node if nothing changes.
    pub fn reshape(&mut self, x: NodeId, shape: &[usize], origin: Origin) -> NodeId {
        let ty = self.ty(x);
        if ty.shape[..] == *shape {
            return x;
        }
        let ty = Ty::new(ty.dtype, shape.iter().copied());
        self.op_as(Op::Reshape, &[x], ty, origin)
    }
    /// Result axis `i` is operand axis `perm[i]`. No node if nothing changes.
    pub fn permute(&mut self, x: NodeId, perm: &[usize], origin: Origin) -> NodeId {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return x;
        }
        self.op(Op::Permute { perm: perm.into() }, &[x], origin)
    }
    /// Conversion to another element type. No node if nothing changes.
    pub fn cast(&mut self, x: NodeId, dtype: DType, origin: Origin) -> NodeId {
        let ty = self.ty(x);
        if ty.dtype == dtype {
            return x;
        }
        let ty = ty.with_dtype(dtype);
        self.op_as(Op::Cast, &[x], ty, origin)
    }
    /// Combines along axes, which vanish. No node for no axes.
    pub fn reduce(&mut self, kind: ReduceOp, x: NodeId, axes: &[usize], origin: Origin) -> NodeId {
        if axes.is_empty() {
            return x;
        }
        let mut axes: Axes = axes.into();
        axes.sort_unstable();
        self.op(Op::Reduce { kind, axes }, &[x], origin)
    }
    /// General matrix product.
    pub fn dot(&mut self, a: NodeId, b: NodeId, dims: DotDims, origin: Origin) -> NodeId {
        self.op(Op::Dot(dims), &[a, b], origin)
    }
    /// `start..stop` by `step`, per axis. No node if nothing changes.
    pub fn slice(&mut self, x: NodeId, start: &[usize], stop: &[usize], step: &[usize], origin: Origin) -> NodeId {
        let whole = start.iter().all(|&s| s == 0) && step.iter().all(|&s| s == 1) && self.ty(x).shape[..] == *stop;
        if whole {
            return x;
        }
        self.op(Op::Slice { start: start.into(), stop: stop.into(), step: step.into() }, &[x], origin)
    }
    /// Part `start..stop` of one axis.
    pub fn slice_axis(&mut self, x: NodeId, axis: usize, start: usize, stop: usize, origin: Origin) -> NodeId {
        let shape = self.ty(x).shape.clone();
        let mut from: Axes = shape.iter().map(|_| 0).collect();
        let mut to: Axes = shape.clone();
        let step: Axes = shape.iter().map(|_| 1).collect();
        (from[axis], to[axis]) = (start, stop);
        self.slice(x, &from, &to, &step, origin)
    }
    /// Surrounds with a scalar. No node if nothing changes.
    pub fn pad(&mut self, x: NodeId, value: NodeId, lo: &[usize], hi: &[usize], interior: &[usize], origin: Origin) -> NodeId {
        if lo.iter().chain(hi).chain(interior).all(|&p| p == 0) {
            return x;
        }
        self.op(Op::Pad { lo: lo.into(), hi: hi.into(), interior: interior.into() }, &[x, value], origin)
    }
    /// Indices along an axis.
    pub fn iota(&mut self, dtype: DType, shape: &[usize], axis: usize, origin: Origin) -> NodeId {
        self.op_as(Op::Iota { axis }, &[], Ty::new(dtype, shape.iter().copied()), origin)
    }
    /// Joins along an axis. No node for one operand.
    pub fn concat(&mut self, parts: &[NodeId], axis: usize, origin: Origin) -> NodeId {
        if let [one] = parts {
            return *one;
        }
        self.op(Op::Concat { axis }, parts, origin)
    }
    /// Axis `axis` of x replaced by the axes of ids.
    pub fn gather(&mut self, x: NodeId, ids: NodeId, axis: usize, origin: Origin) -> NodeId {
        self.op(Op::Gather { axis }, &[x, ids], origin)
    }
    /// x with updates combined in at ids.
    pub fn scatter(&mut self, x: NodeId, ids: NodeId, updates: NodeId, axis: usize, mode: ScatterMode, origin: Origin) -> NodeId {
        self.op(Op::Scatter { axis, mode }, &[x, ids, updates], origin)
    }
    /// One result of a tuple node.
    pub fn result(&mut self, tuple: NodeId, index: usize, origin: Origin) -> NodeId {
        self.op(Op::Result { index }, &[tuple], origin)
    }
    /// A counted loop; returns all results.
    pub fn loop_results(&mut self, op: LoopOp, operands: &[NodeId], origin: Origin) -> Vec<NodeId> {
        let results = op.body.outputs.len();
        let node = self.op(Op::Loop(op), operands, origin);
        (0..results).map(|i| self.result(node, i, origin)).collect()
    }
    /// A conditional; returns all results.
    pub fn cond_results(&mut self, pred: NodeId, then: Arc<Graph>, otherwise: Arc<Graph>, args: &[NodeId], origin: Origin) -> Vec<NodeId> {
        let results = then.outputs.len();
        let mut operands = vec![pred];
        operands.extend(args);
        let node = self.op(Op::Cond { then, otherwise }, &operands, origin);
        (0..results).map(|i| self.result(node, i, origin)).collect()
    }
    /// Copies the live nodes of `sub` here with its inputs replaced by `args`; returns its outputs. A non-empty `via` marks the copies' origins.
    pub fn inline(&mut self, sub: &Graph, args: &[NodeId], via: &'static str) -> Vec<NodeId> {
        assert_eq!(sub.inputs.len(), args.len(), "compiler bug: number of arguments of an inlined graph");
        let live = sub.live();
        let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        for (input, &arg) in sub.inputs.iter().zip(args) {
            map.insert(input.node, arg);
        }
        for id in sub.ids() {
            if !live[id.index()] || map.contains_key(&id) {
                continue;
            }
            let node = sub.node(id);
            let mut origin = sub.origin(id);
            if !via.is_empty() {
                origin.via = via;
            }
            let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
            map.insert(id, self.push(node.op.clone(), operands, node.ty.clone(), origin));
        }
        sub.outputs.iter().map(|o| map[o]).collect()
    }
    /// The types of the inputs.
    pub fn input_types(&self) -> Vec<Ty> {
        self.inputs.iter().map(|i| self.ty(i.node).clone()).collect()
    }
    /// The types of the outputs.
    pub fn output_types(&self) -> Vec<Ty> {
        self.outputs.iter().map(|&o| self.ty(o).clone()).collect()
    }
}

/// Row-major strides of a shape, in elements.
pub fn strides(shape: &[usize]) -> Shape {
    let mut out: Shape = shape.iter().map(|_| 1).collect();
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        out[axis] = out[axis + 1] * shape[axis + 1];
    }
    out
}
