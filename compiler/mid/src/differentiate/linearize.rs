//! Linearization: a copy of a graph in which every value that matters has its tangent beside it, a linear function of the inputs' tangents.

use super::DiffError;
use super::activity::{Flags, active, needed};
use super::cut::derived;
use super::scalar::{Partial, partial};
use optc_abi::DType;
use optc_base::Code;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, Graph, LoopOp, Node, NodeId, NodeTy, Op, Origin, ReduceOp, ScatterMode, Ty};
use smallvec::SmallVec;
use std::sync::Arc;

/// What becomes of control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Values and tangents are computed together: forward mode.
    Joint,
    /// Tangents are computed by loops and conditionals of their own, which are linear and can be transposed; those of the values
    /// hand over what they need.
    Split,
}

/// A graph with tangents.
pub struct Linearized {
    /// Values and tangents. Its inputs are the inputs of the original, then the tangents of the active ones.
    pub g: Graph,
    /// The original's inputs.
    pub inputs: Vec<NodeId>,
    /// Their tangents.
    pub input_tangents: Vec<Option<NodeId>>,
    /// The original's outputs.
    pub outputs: Vec<NodeId>,
    /// Their tangents; none where zero or not asked for.
    pub output_tangents: Vec<Option<NodeId>>,
}

/// Linearizes `f` in the inputs marked in `active_inputs`, for the tangents of the outputs marked in `needed_outputs`.
pub fn linearize(f: &Graph, active_inputs: &[bool], needed_outputs: &[bool], mode: Mode) -> Result<Linearized, DiffError> {
    let mut g = Graph::new();
    let inputs: Vec<NodeId> = f.inputs.iter().map(|i| g.input(i.name.clone(), f.ty(i.node).clone(), f.origin(i.node))).collect();
    let input_tangents: Vec<Option<NodeId>> = f
        .inputs
        .iter()
        .zip(active_inputs)
        .map(|(i, &on)| on.then(|| g.input(format!("d_{}", i.name), f.ty(i.node).clone(), derived(f.origin(i.node)))))
        .collect();
    let on = active(f, active_inputs);
    let wanted: Vec<Flags> =
        needed(f, needed_outputs).iter().zip(&on).map(|(a, b)| a.iter().zip(b).map(|(a, b)| *a && *b).collect()).collect();
    let mut l = Linearizer { g, mode, values: vec![SmallVec::new(); f.len()], tangents: vec![SmallVec::new(); f.len()] };
    let live = f.live();
    for id in f.ids() {
        if let Op::Input { index } = f.node(id).op {
            l.values[id.index()] = SmallVec::from_slice(&[inputs[index as usize]]);
            l.tangents[id.index()] = SmallVec::from_slice(&[input_tangents[index as usize]]);
        } else if live[id.index()] {
            l.node(f, id, &wanted[id.index()])?;
        }
    }
    let outputs = f.outputs.iter().map(|o| l.values[o.index()][0]).collect();
    let output_tangents = f.outputs.iter().zip(needed_outputs).map(|(o, &n)| if n { l.tangents[o.index()][0] } else { None }).collect();
    Ok(Linearized { g: l.g, inputs, input_tangents, outputs, output_tangents })
}

/// The state of one linearization. Values and tangents are listed per result of each node of the original.
pub(super) struct Linearizer {
    pub(super) g: Graph,
    pub(super) mode: Mode,
    values: Vec<SmallVec<[NodeId; 1]>>,
    tangents: Vec<SmallVec<[Option<NodeId>; 1]>>,
}

/// Values and tangents of the results of a node with several.
pub(super) type Results = (Vec<NodeId>, Vec<Option<NodeId>>);

impl Linearizer {
    fn node(&mut self, f: &Graph, id: NodeId, wanted: &[bool]) -> Result<(), DiffError> {
        let node = f.node(id);
        if let Op::Result { index } = node.op {
            let tuple = node.operands[0].index();
            self.values[id.index()] = SmallVec::from_slice(&[self.values[tuple][index]]);
            self.tangents[id.index()] = SmallVec::from_slice(&[self.tangents[tuple][index]]);
            return Ok(());
        }
        let origin = f.origin(id);
        let x: Vec<NodeId> = node.operands.iter().map(|o| self.values[o.index()][0]).collect();
        let t: Vec<Option<NodeId>> = node.operands.iter().map(|o| self.tangents[o.index()][0]).collect();
        let quiet = !wanted.contains(&true) || t.iter().all(Option::is_none);
        let (values, tangents) = match &node.op {
            Op::Attention(_) => panic!("compiler bug: attention is put together after differentiation"),
            Op::Callback { .. } | Op::AllReduce if !quiet => {
                let message = "what is asked of a function outside of the program has no derivative".to_string();
                return Err(DiffError { code: Code("E0720"), message, origin });
            }
            Op::Loop(_) | Op::Cond { .. } | Op::Call(_) | Op::Callback { .. } | Op::AllReduce if quiet => {
                let results = self.copy_tuple(node, &x, origin);
                let none = vec![None; results.len()];
                (results, none)
            }
            Op::Loop(l) => self.loop_node(l, &x, &t, wanted, origin)?,
            Op::Cond { then, otherwise } => self.cond_node(then, otherwise, &x, &t, wanted, origin)?,
            Op::Call(c) => self.call_node(c, &x, &t, wanted, origin)?,
            Op::Lib(call) => self.library_node(*call, node, &x, &t, quiet, origin),
            op => {
                let value = self.g.push(op.clone(), x.iter().copied(), node.ty.clone(), origin);
                let tangent = if quiet { None } else { self.array(node, &x, &t, value, derived(origin)) };
                (vec![value], vec![tangent])
            }
        };
        self.values[id.index()] = values.into();
        self.tangents[id.index()] = tangents.into();
        Ok(())
    }

    /// A node with several results as it is.
    pub(super) fn copy_tuple(&mut self, node: &Node, x: &[NodeId], origin: Origin) -> Vec<NodeId> {
        let NodeTy::Tuple(types) = &node.ty else { panic!("compiler bug: {:?} yields one array", node.op) };
        let new = self.g.push(node.op.clone(), x.iter().copied(), node.ty.clone(), origin);
        (0..types.len()).map(|k| self.g.result(new, k, origin)).collect()
    }

    /// A tangent, zeros if there is none.
    pub(super) fn or_zeros(&mut self, tangent: Option<NodeId>, ty: &Ty, origin: Origin) -> NodeId {
        tangent.unwrap_or_else(|| self.g.splat(ty, 0.0, origin))
    }

    fn sum(&mut self, a: Option<NodeId>, b: Option<NodeId>, origin: Origin) -> Option<NodeId> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.g.map(ScalarOp::Add, &[a, b], origin)),
            (a, b) => a.or(b),
        }
    }

    /// The tangent of an operation that yields one array: a row per operation.
    fn array(&mut self, node: &Node, x: &[NodeId], t: &[Option<NodeId>], z: NodeId, o: Origin) -> Option<NodeId> {
        // Linear in its first operand: the same operation on the tangent (and the other operands).
        let same = |l: &mut Self| {
            let operands: Vec<NodeId> = t[..1].iter().map(|t| t.expect("a tangent")).chain(x[1..].iter().copied()).collect();
            Some(l.g.push(node.op.clone(), operands, node.ty.clone(), o))
        };
        match &node.op {
            Op::Map(op) => self.map(*op, x, t, z, o),
            // Tangents are where they are.
            Op::Swap => t[0],
            Op::Cast
            | Op::Reshape
            | Op::Broadcast { .. }
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Flip { .. }
            | Op::Window { .. }
            | Op::Gather { .. }
            | Op::Reduce { kind: ReduceOp::Sum, .. }
            | Op::Scan { kind: ReduceOp::Sum, .. } => {
                t[0]?;
                same(self)
            }
            Op::Reduce { kind: ReduceOp::Max | ReduceOp::Min, axes } => self.reduce_extreme(x[0], t[0]?, z, axes, o),
            Op::Reduce { kind: ReduceOp::Prod, axes } => self.reduce_product(x[0], t[0]?, axes, o),
            Op::Scan { kind, axis, reverse } => self.scan(*kind, *axis, *reverse, x[0], t[0]?, z, o),
            Op::Dot(_) | Op::Conv { .. } => {
                let mut total = None;
                for position in 0..2 {
                    if let Some(tangent) = t[position] {
                        let mut operands = [x[0], x[1]];
                        operands[position] = tangent;
                        let term = self.g.push(node.op.clone(), operands, node.ty.clone(), o);
                        total = self.sum(total, Some(term), o);
                    }
                }
                total
            }
            Op::Pad { .. } | Op::Concat { .. } => {
                let operands: Vec<NodeId> = x
                    .iter()
                    .zip(t)
                    .map(|(&x, &t)| {
                        let ty = self.g.ty(x).clone();
                        self.or_zeros(t, &ty, o)
                    })
                    .collect();
                Some(self.g.push(node.op.clone(), operands, node.ty.clone(), o))
            }
            Op::Scatter { axis, mode } => self.scatter(*axis, *mode, x, t, o),
            Op::Reduce { kind: ReduceOp::And | ReduceOp::Or, .. }
            | Op::Input { .. }
            | Op::Const(_)
            | Op::Iota { .. }
            | Op::Bitcast
            | Op::ArgReduce { .. }
            | Op::ArgSort { .. }
            | Op::RandomBits { .. }
            | Op::RandomFold { .. }
            | Op::StopGradient => None,
            Op::Lib(_)
            | Op::Attention(_)
            | Op::Callback { .. }
            | Op::AllReduce
            | Op::Loop(_)
            | Op::Cond { .. }
            | Op::Call(_)
            | Op::Result { .. } => {
                panic!("compiler bug: {:?} has a rule of its own", node.op)
            }
        }
    }

    fn map(&mut self, op: ScalarOp, x: &[NodeId], t: &[Option<NodeId>], z: NodeId, o: Origin) -> Option<NodeId> {
        if op == ScalarOp::Select {
            if t[1].is_none() && t[2].is_none() {
                return None;
            }
            let ty = self.g.ty(z).clone();
            let (then, otherwise) = (self.or_zeros(t[1], &ty, o), self.or_zeros(t[2], &ty, o));
            return Some(self.g.map(ScalarOp::Select, &[x[0], then, otherwise], o));
        }
        let mut total = None;
        for (position, tangent) in t.iter().enumerate() {
            let Some(tangent) = *tangent else { continue };
            let term = match partial(&mut self.g, op, x, z, position, o) {
                Partial::Zero => continue,
                Partial::One => tangent,
                Partial::MinusOne => match total {
                    Some(sum) => {
                        total = Some(self.g.map(ScalarOp::Sub, &[sum, tangent], o));
                        continue;
                    }
                    None => self.g.map(ScalarOp::Neg, &[tangent], o),
                },
                Partial::Factor(f) => self.g.map(ScalarOp::Mul, &[tangent, f], o),
                Partial::Over(d) => self.g.map(ScalarOp::Div, &[tangent, d], o),
            };
            total = self.sum(total, Some(term), o);
        }
        total
    }

    /// The mean of the tangents of the elements that tie for the extreme.
    fn reduce_extreme(&mut self, x: NodeId, t: NodeId, z: NodeId, axes: &Axes, o: Origin) -> Option<NodeId> {
        let ty = self.g.ty(x).clone();
        if ty.is_empty() {
            return None;
        }
        let kept: Axes = (0..ty.rank()).filter(|a| !axes.contains(a)).collect();
        let spread = self.g.broadcast(z, &kept, &ty.shape, o);
        let ties = self.g.map(ScalarOp::Eq, &[x, spread], o);
        let ones = self.g.cast(ties, ty.dtype, o);
        let count = self.g.reduce(ReduceOp::Sum, ones, axes, o);
        let zeros = self.g.splat(&ty, 0.0, o);
        let chosen = self.g.map(ScalarOp::Select, &[ties, t, zeros], o);
        let total = self.g.reduce(ReduceOp::Sum, chosen, axes, o);
        Some(self.g.map(ScalarOp::Div, &[total, count], o))
    }

    /// Each element's tangent times the product of the others, which is that of those before and those after: no division, so
    /// zeros are fine.
    fn reduce_product(&mut self, x: NodeId, t: NodeId, axes: &Axes, o: Origin) -> Option<NodeId> {
        let ty = self.g.ty(x).clone();
        if ty.is_empty() {
            return None;
        }
        let kept: Axes = (0..ty.rank()).filter(|a| !axes.contains(a)).collect();
        let perm: Axes = kept.iter().chain(axes).copied().collect();
        let mut shape: Axes = kept.iter().map(|&a| ty.shape[a]).collect();
        let n: usize = axes.iter().map(|&a| ty.shape[a]).product();
        let axis = shape.len();
        shape.push(n);
        let [x, t] = [x, t].map(|v| {
            let v = self.g.permute(v, &perm, o);
            self.g.reshape(v, &shape, o)
        });
        let weighted = if n == 1 {
            t
        } else {
            let before = self.exclusive_product(x, axis, false, o);
            let after = self.exclusive_product(x, axis, true, o);
            let others = self.g.map(ScalarOp::Mul, &[before, after], o);
            self.g.map(ScalarOp::Mul, &[t, others], o)
        };
        Some(self.g.reduce(ReduceOp::Sum, weighted, &[axis], o))
    }

    /// The product of the elements before (or, reversed, after) each element.
    fn exclusive_product(&mut self, x: NodeId, axis: usize, reverse: bool, o: Origin) -> NodeId {
        let running = self.g.op(Op::Scan { kind: ReduceOp::Prod, axis, reverse }, &[x], o);
        self.shifted(running, axis, reverse, 1.0, o)
    }

    /// Moves elements one place along the direction of a scan, so that each sees the result before its own; the first sees `start`.
    fn shifted(&mut self, x: NodeId, axis: usize, reverse: bool, start: f64, o: Origin) -> NodeId {
        let ty = self.g.ty(x).clone();
        let n = ty.shape[axis];
        let (from, to) = if reverse { (1, n) } else { (0, n - 1) };
        let part = self.g.slice_axis(x, axis, from, to, o);
        let value = self.g.scalar(ty.dtype, start, o);
        let (mut lo, mut hi, interior): (Axes, Axes, Axes) = (zeros(ty.rank()), zeros(ty.rank()), zeros(ty.rank()));
        *(if reverse { &mut hi[axis] } else { &mut lo[axis] }) = 1;
        self.g.pad(part, value, &lo, &hi, &interior, o)
    }

    /// Running products and extremes: the tangent follows the recurrence `t_i <- a_i t_{i-1} + b_i t_i`.
    fn scan(&mut self, kind: ReduceOp, axis: usize, reverse: bool, x: NodeId, t: NodeId, z: NodeId, o: Origin) -> Option<NodeId> {
        let ty = self.g.ty(x).clone();
        if ty.is_empty() {
            return None;
        }
        let (a, b) = match kind {
            ReduceOp::Prod => (x, self.shifted(z, axis, reverse, 1.0, o)),
            ReduceOp::Max | ReduceOp::Min => {
                let worst = if kind == ReduceOp::Max { f64::NEG_INFINITY } else { f64::INFINITY };
                let before = self.shifted(z, axis, reverse, worst, o);
                let op = if kind == ReduceOp::Max { ScalarOp::Max } else { ScalarOp::Min };
                let Partial::Factor(b) = partial(&mut self.g, op, &[x, before], z, 0, o) else {
                    panic!("compiler bug: the derivative of {} is a factor", op.name())
                };
                let one = self.g.splat(&ty, 1.0, o);
                (self.g.map(ScalarOp::Sub, &[one, b], o), b)
            }
            ReduceOp::Sum | ReduceOp::And | ReduceOp::Or => panic!("compiler bug: a running {kind:?} is linear or of bools"),
        };
        let u = self.g.map(ScalarOp::Mul, &[t, b], o);
        Some(self.recurrence(a, u, axis, reverse, o))
    }

    /// `c_i = a_i c_{i-1} + u_i` along an axis, as a loop that is linear in `u`.
    fn recurrence(&mut self, a: NodeId, u: NodeId, axis: usize, reverse: bool, o: Origin) -> NodeId {
        let ty = self.g.ty(u).clone();
        let perm: Axes = std::iter::once(axis).chain((0..ty.rank()).filter(|&i| i != axis)).collect();
        let slice = Ty::new(ty.dtype, perm[1..].iter().map(|&i| ty.shape[i]));
        let mut body = Graph::new();
        body.input("i", Ty::scalar(DType::I32), o);
        let c = body.input("c", slice.clone(), o);
        let a_i = body.input("a", slice.clone(), o);
        let u_i = body.input("u", slice.clone(), o);
        let scaled = body.map(ScalarOp::Mul, &[c, a_i], o);
        let next = body.map(ScalarOp::Add, &[scaled, u_i], o);
        body.outputs = vec![next, next];
        let [a, u] = [a, u].map(|v| self.g.permute(v, &perm, o));
        let start = self.g.splat(&slice, 0.0, o);
        let op = LoopOp { trip: Some(ty.shape[axis]), reverse, carried: 1, scanned: 2, guard: None, body: Arc::new(body) };
        let stacked = self.g.loop_results(op, &[start, a, u], o)[1];
        let mut back: Axes = zeros(ty.rank());
        for (i, &p) in perm.iter().enumerate() {
            back[p] = i;
        }
        self.g.permute(stacked, &back, o)
    }

    fn scatter(&mut self, axis: usize, mode: ScatterMode, x: &[NodeId], t: &[Option<NodeId>], o: Origin) -> Option<NodeId> {
        if mode == ScatterMode::Add && t[2].is_none() {
            return t[0];
        }
        if t[0].is_none() && t[2].is_none() {
            return None;
        }
        let (base, updates) = (self.g.ty(x[0]).clone(), self.g.ty(x[2]).clone());
        let (base, updates) = (self.or_zeros(t[0], &base, o), self.or_zeros(t[2], &updates, o));
        Some(self.g.scatter(base, x[1], updates, axis, mode, o))
    }
}

/// As many zeros.
pub fn zeros(n: usize) -> Axes {
    std::iter::repeat_n(0, n).collect()
}
