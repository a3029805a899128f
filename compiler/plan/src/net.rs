//! The planner's own node list of one graph: calls inlined, degenerate cases removed, large reductions cut in two, narrow products widened.

use optc_abi::plan::{ConvKind, LibCall};
use optc_abi::{DType, Tensor};
use optc_ir::graph::{Axes, DotDims, ReduceOp, Shape};
use optc_ir::infer::infer;
use optc_ir::{Graph, NodeId, NodeTy, Op, Origin, ScalarOp, Ty};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// Position of a node in [`Net::nodes`].
pub(crate) type N = usize;

/// Elements of one chunk of a flat kernel: what one pass of its parallel loop works on.
pub(crate) const CHUNK: usize = optc_ir::kernel::FLAT_UNIT as usize;
/// Multiply-adds up to which a matrix product is written as loops.
const TINY_DOT: usize = 512;
/// Elements from which a reduction to few results is done in two steps, so that it can run on several threads.
const LARGE_REDUCE: usize = optc_ir::kernel::REDUCED_WHOLE as usize;
/// Rows that are enough for all threads.
pub(crate) const ENOUGH_ROWS: usize = 8;

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct PNode {
    pub op: Op,
    pub operands: SmallVec<[N; 3]>,
    /// Type of an array node; of a tuple node a placeholder.
    pub ty: Ty,
    pub origin: Origin,
    /// A reduction of all elements, seen as one row, to one partial result per [`CHUNK`] of them.
    pub partial: bool,
    /// For a matrix product: result axis `i` is axis `layout[i]` of the product, if they are not in order.
    pub layout: Option<Axes>,
    /// A product of two free axes that may change places ([`crate::symmetric`]).
    pub symmetric: bool,
}

/// A graph as the planner sees it: live nodes in topological order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    pub nodes: Vec<PNode>,
    pub inputs: Vec<N>,
    /// Results, seen through reshapes: the memory is the same.
    pub outputs: Vec<N>,
    /// Bytes from which an array that may leave memory does.
    swap: Option<usize>,
    /// Products of f16 are instructions of their own: those of a GPU. Elsewhere they are products of f32.
    halves: bool,
}

impl Net {
    /// The body of a loop, or a branch, of this one.
    pub fn inside(&self, graph: &Graph) -> Net {
        Net::new(graph, None, self.halves)
    }

    /// Arrays of `swap` bytes and more that may leave memory ([`Op::Swap`]) do. An array that leaves is two nodes: one byte that says that it has left, and the array as it comes back.
    /// `halves`: products of f16 are instructions.
    pub fn new(graph: &Graph, swap: Option<usize>, halves: bool) -> Net {
        let mut net = Net { swap, halves, ..Net::default() };
        for input in &graph.inputs {
            let node = net.push(graph.node(input.node).op.clone(), &[], graph.ty(input.node).clone(), graph.origin(input.node));
            net.inputs.push(node);
        }
        let args = net.inputs.clone();
        let outputs = net.add(graph, &args);
        net.outputs = outputs.into_iter().map(|o| net.strip(o)).collect();
        net.sweep();
        crate::symmetric::mark(&mut net);
        net.turn_products();
        net
    }

    /// A product only used with its axes in another order is written in that order, as long as its rows stay contiguous.
    fn turn_products(&mut self) {
        let mut users = vec![0usize; self.nodes.len()];
        self.nodes.iter().flat_map(|n| &n.operands).chain(&self.outputs).for_each(|&o| users[o] += 1);
        let mut turned = false;
        for n in 0..self.nodes.len() {
            let Op::Permute { perm } = &self.nodes[n].op else { continue };
            let (perm, product) = (perm.clone(), self.nodes[n].operands[0]);
            let source = &self.nodes[product];
            let rows_stay = perm.last().is_some_and(|&p| p + 1 == perm.len());
            if !matches!(source.op, Op::Dot(_)) || users[product] != 1 || source.layout.is_some() || !rows_stay {
                continue;
            }
            let (op, operands, symmetric) = (source.op.clone(), source.operands.clone(), source.symmetric);
            let node = &mut self.nodes[n];
            (node.op, node.operands, node.layout, node.symmetric) = (op, operands, Some(perm), symmetric);
            turned = true;
        }
        if turned {
            self.sweep();
        }
    }

    /// Gives the partial results of output `k` in its place, if it combines all elements of an array in two steps: their type.
    pub fn ask_for_partials(&mut self, k: usize) -> Option<Ty> {
        let part = *self.nodes[self.outputs[k]].operands.first()?;
        if !matches!(self.nodes[self.outputs[k]].op, Op::Reduce { .. }) || !self.nodes[part].partial {
            return None;
        }
        let ty = self.nodes[part].ty.clone();
        self.outputs[k] = part;
        self.sweep();
        Some(ty)
    }

    /// Reads input `first` wherever input `second`, which is the same array, is read.
    pub fn merge_inputs(&mut self, second: usize, first: usize) {
        let (from, to) = (self.inputs[second], self.inputs[first]);
        let nodes = self.nodes.iter_mut().flat_map(|n| n.operands.iter_mut());
        nodes.chain(&mut self.outputs).filter(|o| **o == from).for_each(|o| *o = to);
    }

    /// The node whose memory a chain of reshapes shows.
    pub fn strip(&self, mut n: N) -> N {
        while matches!(self.nodes[n].op, Op::Reshape) {
            n = self.nodes[n].operands[0];
        }
        n
    }

    pub fn len_of(&self, n: N) -> usize {
        self.nodes[n].ty.len()
    }

    /// The only value of a constant whose elements are all equal.
    pub fn splat_value(&self, n: N) -> Option<(f64, i64)> {
        let Op::Const(t) = &self.nodes[n].op else { return None };
        splat_of(t)
    }

    /// Drops nodes no output depends on; inputs stay.
    pub fn sweep(&mut self) {
        let mut live = vec![false; self.nodes.len()];
        self.inputs.iter().chain(&self.outputs).for_each(|&n| live[n] = true);
        for n in (0..self.nodes.len()).rev() {
            if live[n] {
                self.nodes[n].operands.iter().for_each(|&o| live[o] = true);
            }
        }
        let mut at = vec![usize::MAX; self.nodes.len()];
        let mut kept = Vec::with_capacity(self.nodes.len());
        for (n, mut node) in std::mem::take(&mut self.nodes).into_iter().enumerate() {
            if live[n] {
                at[n] = kept.len();
                node.operands.iter_mut().for_each(|o| *o = at[*o]);
                kept.push(node);
            }
        }
        self.nodes = kept;
        self.inputs.iter_mut().chain(&mut self.outputs).for_each(|n| *n = at[*n]);
    }

    fn add(&mut self, graph: &Graph, args: &[N]) -> Vec<N> {
        let live = graph.live();
        let mut map: Vec<N> = vec![usize::MAX; graph.len()];
        let mut calls: Vec<Vec<N>> = Vec::new();
        for (input, &arg) in graph.inputs.iter().zip(args) {
            map[input.node.index()] = arg;
        }
        for id in graph.ids() {
            if !live[id.index()] || map[id.index()] != usize::MAX {
                continue;
            }
            let node = graph.node(id);
            let operands: SmallVec<[N; 3]> = node.operands.iter().map(|o| map[o.index()]).collect();
            map[id.index()] = match (&node.op, &node.ty) {
                (Op::Call(call), _) => {
                    calls.push(self.add(&call.body, &operands));
                    // Results of calls are found through the position in `calls`, kept out of the way of node numbers.
                    usize::MAX - calls.len()
                }
                (Op::Result { index }, NodeTy::Array(ty)) => match operands[0] {
                    call if call > self.nodes.len() => calls[usize::MAX - call - 1][*index],
                    tuple => self.push(node.op.clone(), &[tuple], ty.clone(), graph.origin(id)),
                },
                (_, NodeTy::Tuple(_)) => self.push(node.op.clone(), &operands, Ty::scalar(DType::Bool), graph.origin(id)),
                (_, NodeTy::Array(ty)) => self.array(&node.op, &operands, ty, graph.origin(id)),
            };
        }
        graph.outputs.iter().map(|o: &NodeId| map[o.index()]).collect()
    }

    fn push(&mut self, op: Op, operands: &[N], ty: Ty, origin: Origin) -> N {
        self.nodes.push(PNode {
            op,
            operands: operands.iter().copied().collect(),
            ty,
            origin,
            partial: false,
            layout: None,
            symmetric: false,
        });
        self.nodes.len() - 1
    }

    /// A node that is another one as it is, but has memory of its own.
    pub fn taken_over(&mut self, n: N) -> N {
        let (ty, origin) = (self.nodes[n].ty.clone(), self.nodes[n].origin);
        self.push(Op::Cast, &[n], ty, origin)
    }

    fn op(&mut self, op: Op, operands: &[N], origin: Origin) -> N {
        let types: Vec<NodeTy> = operands.iter().map(|&o| NodeTy::Array(self.nodes[o].ty.clone())).collect();
        let types: Vec<&NodeTy> = types.iter().collect();
        match infer(&op, &types, None) {
            Ok(NodeTy::Array(ty)) => self.push(op, operands, ty, origin),
            other => panic!("compiler bug: {other:?}"),
        }
    }

    fn cast(&mut self, x: N, dtype: DType, origin: Origin) -> N {
        if self.nodes[x].ty.dtype == dtype {
            return x;
        }
        let ty = self.nodes[x].ty.with_dtype(dtype);
        self.push(Op::Cast, &[x], ty, origin)
    }

    fn reshape(&mut self, x: N, shape: &[usize], origin: Origin) -> N {
        let x = self.strip(x);
        if self.nodes[x].ty.shape[..] == *shape {
            return x;
        }
        let ty = Ty::new(self.nodes[x].ty.dtype, shape.iter().copied());
        self.push(Op::Reshape, &[x], ty, origin)
    }

    /// An array of equal elements; integers and bools are given as floats too.
    fn splat(&mut self, ty: &Ty, value: f64, origin: Origin) -> N {
        let scalar = Tensor::from_f64(ty.dtype, &[], &[value]);
        let scalar = self.push(Op::Const(Arc::new(scalar)), &[], Ty::scalar(ty.dtype), origin);
        self.push(Op::Broadcast { dims: Axes::new() }, &[scalar], ty.clone(), origin)
    }

    fn array(&mut self, op: &Op, x: &[N], ty: &Ty, origin: Origin) -> N {
        if ty.is_empty() {
            let empty = Tensor::zeros(ty.dtype, &ty.shape);
            return self.push(Op::Const(Arc::new(empty)), &[], ty.clone(), origin);
        }
        if is_narrow(ty.dtype) && matches!(op, Op::Map(_) | Op::Reduce { .. } | Op::Scan { .. }) {
            // Computed in f32, and every result rounded, also where nothing of it is written to memory.
            let wide: SmallVec<[N; 3]> =
                x.iter().map(|&o| if is_narrow(self.nodes[o].ty.dtype) { self.cast(o, DType::F32, origin) } else { o }).collect();
            let result = self.array(op, &wide, &ty.with_dtype(DType::F32), origin);
            return self.cast(result, ty.dtype, origin);
        }
        let empty = |net: &Net, n: N| net.nodes[n].ty.is_empty();
        match op {
            Op::StopGradient => x[0],
            Op::Swap => match self.swap {
                Some(least) if ty.len() * ty.dtype.size() >= least && !self.is_given(x[0]) => {
                    let left = self.push(Op::Swap, x, Ty::scalar(DType::U8), origin);
                    self.push(Op::Swap, &[left], ty.clone(), origin)
                }
                _ => x[0],
            },
            Op::Reshape => self.reshape(x[0], &ty.shape, origin),
            Op::Reduce { kind, axes } => {
                if empty(self, x[0]) {
                    return self.splat(ty, identity(*kind, ty.dtype), origin);
                }
                self.reduce(*kind, x[0], axes, ty, origin)
            }
            Op::Pad { .. } if empty(self, x[0]) => self.push(Op::Broadcast { dims: Axes::new() }, &[x[1]], ty.clone(), origin),
            Op::Concat { axis } => {
                let parts: Vec<N> = x.iter().copied().filter(|&p| !empty(self, p)).collect();
                match parts[..] {
                    [one] => one,
                    _ => self.push(Op::Concat { axis: *axis }, &parts, ty.clone(), origin),
                }
            }
            Op::ArgSort { axis, descending } if axis + 1 != ty.rank() => {
                // Rows of a sort are contiguous.
                let mut perm: Axes = (0..ty.rank()).filter(|a| a != axis).collect();
                perm.push(*axis);
                let mut back: Axes = perm.clone();
                perm.iter().enumerate().for_each(|(i, &p)| back[p] = i);
                let turned = self.op(Op::Permute { perm }, x, origin);
                let sorted = self.op(Op::ArgSort { axis: ty.rank() - 1, descending: *descending }, &[turned], origin);
                self.op(Op::Permute { perm: back }, &[sorted], origin)
            }
            Op::Scatter { .. } if empty(self, x[2]) => x[0],
            // The matrix itself has served the derivative.
            Op::Lib(LibCall::LuSolve { .. }) => self.push(op.clone(), &x[1..], ty.clone(), origin),
            Op::Dot(dims) => self.dot(dims, x[0], x[1], ty, origin),
            Op::Conv { kind, dims } => {
                if empty(self, x[0]) || empty(self, x[1]) {
                    return self.splat(ty, 0.0, origin);
                }
                if matches!(ty.dtype, DType::F32 | DType::F64) {
                    return self.push(op.clone(), x, ty.clone(), origin);
                }
                let (a, b) = (self.cast(x[0], DType::F32, origin), self.cast(x[1], DType::F32, origin));
                let (kind, dims): (ConvKind, _) = (*kind, dims.clone());
                let wide = self.push(Op::Conv { kind, dims }, &[a, b], ty.with_dtype(DType::F32), origin);
                self.cast(wide, ty.dtype, origin)
            }
            _ => self.push(op.clone(), x, ty.clone(), origin),
        }
    }

    /// Whether an array is an input or a constant, seen through movement: it is in memory anyway.
    fn is_given(&self, x: N) -> bool {
        match self.nodes[x].op {
            Op::Input { .. } | Op::Const(_) | Op::Iota { .. } => true,
            Op::Reshape | Op::Broadcast { .. } | Op::Permute { .. } | Op::Slice { .. } | Op::Flip { .. } => {
                self.is_given(self.nodes[x].operands[0])
            }
            _ => false,
        }
    }

    /// Whether a node is an array that comes back into memory.
    pub fn comes_back(&self, n: N) -> bool {
        matches!(self.nodes[n].op, Op::Swap) && matches!(self.nodes[self.nodes[n].operands[0]].op, Op::Swap)
    }

    /// A reduction; one of many elements to few results is cut in two steps.
    fn reduce(&mut self, kind: ReduceOp, x: N, axes: &[usize], ty: &Ty, origin: Origin) -> N {
        let shape = self.nodes[x].ty.shape.clone();
        let Some(&first) = axes.iter().find(|&&a| shape[a] > 1) else { return self.reshape(x, &ty.shape, origin) };
        let total: usize = shape.iter().product();
        let rows: usize = shape[..first].iter().product();
        if total < LARGE_REDUCE || rows >= ENOUGH_ROWS {
            return self.push(Op::Reduce { kind, axes: axes.into() }, &[x], ty.clone(), origin);
        }
        let dtype = ty.dtype;
        if ty.len() == 1 && !is_rearranged(&self.nodes[self.strip(x)].op) {
            let parts = Ty::new(dtype, [total.div_ceil(CHUNK)]);
            let all: Axes = (0..shape.len()).collect();
            let part = self.push(Op::Reduce { kind, axes: all }, &[x], parts, origin);
            self.nodes[part].partial = true;
            let sum = self.op(Op::Reduce { kind, axes: smallvec![0] }, &[part], origin);
            return self.reshape(sum, &ty.shape, origin);
        }
        // Parts of an equal number of elements along the first reduced axis, at least some thousand elements each.
        let most = (total / (1 << 12)).clamp(1, 64);
        let Some(parts) = (2..=most).rev().find(|&p| shape[first].is_multiple_of(p)) else {
            return self.push(Op::Reduce { kind, axes: axes.into() }, &[x], ty.clone(), origin);
        };
        let mut cut: Shape = shape.clone();
        cut[first] /= parts;
        cut.insert(first, parts);
        let cut = self.reshape(x, &cut, origin);
        let inner: Axes = axes.iter().filter(|&&a| a >= first).map(|a| a + 1).collect();
        let part = self.op(Op::Reduce { kind, axes: inner }, &[cut], origin);
        let mut outer: Axes = axes.iter().copied().filter(|&a| a < first).collect();
        outer.push(first);
        self.op(Op::Reduce { kind, axes: outer }, &[part], origin)
    }

    fn dot(&mut self, dims: &DotDims, a: N, b: N, ty: &Ty, origin: Origin) -> N {
        let contracted: usize = dims.lhs_contract.iter().map(|&i| self.nodes[a].ty.shape[i]).product();
        if contracted == 0 {
            return self.splat(ty, 0.0, origin);
        }
        if contracted == 1 || ty.len() * contracted <= TINY_DOT {
            return self.small_dot(dims, a, b, ty, origin);
        }
        if dims.lhs_contract.len() > 1 {
            return self.merge_contracted(dims, a, b, ty, origin);
        }
        if matches!(ty.dtype, DType::F32 | DType::F64 | DType::BF16) || ty.dtype == DType::F16 && self.halves {
            return self.push(Op::Dot(dims.clone()), &[a, b], ty.clone(), origin);
        }
        let (a, b) = (self.cast(a, DType::F32, origin), self.cast(b, DType::F32, origin));
        let wide = self.push(Op::Dot(dims.clone()), &[a, b], ty.with_dtype(DType::F32), origin);
        self.cast(wide, ty.dtype, origin)
    }

    /// A product over several axes as one over a single axis, by reshaping where the axes are neighbors.
    fn merge_contracted(&mut self, dims: &DotDims, a: N, b: N, ty: &Ty, origin: Origin) -> N {
        let mut pairs: Vec<(usize, usize)> = dims.lhs_contract.iter().copied().zip(dims.rhs_contract.iter().copied()).collect();
        pairs.sort_unstable();
        let mut side = |x: N, batch: &Axes, contract: Axes| -> (N, Axes, Axes) {
            let shape = self.nodes[x].ty.shape.clone();
            let merged: usize = contract.iter().map(|&i| shape[i]).product();
            if contract.windows(2).all(|w| w[1] == w[0] + 1) {
                let (first, count) = (contract[0], contract.len());
                let mut cut: Shape = shape.clone();
                cut.drain(first..first + count);
                cut.insert(first, merged);
                let batch = batch.iter().map(|&i| if i > first { i - (count - 1) } else { i }).collect();
                return (self.reshape(x, &cut, origin), batch, smallvec![first]);
            }
            let kept: Axes = (0..shape.len()).filter(|i| !contract.contains(i)).collect();
            let perm: Axes = kept.iter().chain(&contract).copied().collect();
            let turned = self.op(Op::Permute { perm }, &[x], origin);
            let cut: Shape = kept.iter().map(|&i| shape[i]).chain([merged]).collect();
            let batch = batch.iter().map(|b| kept.iter().position(|k| k == b).expect("a batch axis is kept")).collect();
            (self.reshape(turned, &cut, origin), batch, smallvec![kept.len()])
        };
        let (a, lhs_batch, lhs_contract) = side(a, &dims.lhs_batch, pairs.iter().map(|p| p.0).collect());
        let (b, rhs_batch, rhs_contract) = side(b, &dims.rhs_batch, pairs.iter().map(|p| p.1).collect());
        self.dot(&DotDims { lhs_batch, rhs_batch, lhs_contract, rhs_contract }, a, b, ty, origin)
    }

    /// A product as multiplication and sum.
    fn small_dot(&mut self, dims: &DotDims, a: N, b: N, ty: &Ty, origin: Origin) -> N {
        let (a, b) = if is_narrow(ty.dtype) { (self.cast(a, DType::F32, origin), self.cast(b, DType::F32, origin)) } else { (a, b) };
        let dtype = self.nodes[a].ty.dtype;
        let split = |net: &Net, x: N, batch: &[usize], contract: &[usize]| -> (Axes, Shape) {
            let rank = net.nodes[x].ty.rank();
            let free: Axes = (0..rank).filter(|i| !batch.contains(i) && !contract.contains(i)).collect();
            let perm: Axes = batch.iter().chain(&free).chain(contract).copied().collect();
            (perm, free)
        };
        let (perm_a, free_a) = split(self, a, &dims.lhs_batch, &dims.lhs_contract);
        let (perm_b, free_b) = split(self, b, &dims.rhs_batch, &dims.rhs_contract);
        let full: Shape = ty.shape.iter().copied().chain(dims.lhs_contract.iter().map(|&i| self.nodes[a].ty.shape[i])).collect();
        let (nb, na, nr, nc) = (dims.lhs_batch.len(), free_a.len(), free_b.len(), dims.lhs_contract.len());
        let contract = nb + na + nr..nb + na + nr + nc;
        let dims_a: Axes = (0..nb + na).chain(contract.clone()).collect();
        let dims_b: Axes = (0..nb).chain(nb + na..nb + na + nr + nc).collect();
        let mut side = |x: N, perm: Axes, dims: Axes| {
            let turned = self.op(Op::Permute { perm }, &[x], origin);
            self.push(Op::Broadcast { dims }, &[turned], Ty { dtype, shape: full.clone() }, origin)
        };
        let (a, b) = (side(a, perm_a, dims_a), side(b, perm_b, dims_b));
        let product = self.op(Op::Map(ScalarOp::Mul), &[a, b], origin);
        let axes: Axes = contract.collect();
        let sum = if axes.is_empty() {
            product
        } else {
            self.reduce(ReduceOp::Sum, product, &axes, &Ty { dtype, shape: ty.shape.clone() }, origin)
        };
        self.cast(sum, ty.dtype, origin)
    }
}

/// Whether values of this type are computed in f32.
fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// Whether elements are read in another order or number than row-major.
fn is_rearranged(op: &Op) -> bool {
    use Op::*;
    matches!(op, Broadcast { .. } | Permute { .. } | Slice { .. } | Flip { .. } | Window { .. } | Pad { .. } | Iota { .. })
}

/// The identity of a reduction, as a float.
pub(crate) fn identity(kind: ReduceOp, dtype: DType) -> f64 {
    match kind {
        ReduceOp::Sum | ReduceOp::Or => 0.0,
        ReduceOp::Prod | ReduceOp::And => 1.0,
        ReduceOp::Max if dtype.is_float() => f64::NEG_INFINITY,
        ReduceOp::Min if dtype.is_float() => f64::INFINITY,
        ReduceOp::Max => match dtype {
            DType::I32 => f64::from(i32::MIN),
            DType::I64 => i64::MIN as f64,
            _ => 0.0,
        },
        ReduceOp::Min => match dtype {
            DType::I32 => f64::from(i32::MAX),
            DType::I64 => i64::MAX as f64,
            DType::U32 => f64::from(u32::MAX),
            _ => 255.0,
        },
    }
}

/// The common value of all elements, as float and as integer.
pub(crate) fn splat_of(t: &Tensor) -> Option<(f64, i64)> {
    let size = t.dtype.size();
    let bytes = t.bytes();
    let first = bytes.get(..size)?;
    if bytes.chunks_exact(size).any(|element| element != first) {
        return None;
    }
    let int = match t.dtype {
        DType::I64 => t.as_slice::<i64>()[0],
        _ => t.get_f64(0) as i64,
    };
    Some((t.get_f64(0), int))
}
