//! How each operation that yields one array carries layouts through. This is the place for the rule of a new operation.

use super::rows::same_place;
use super::{Layout, Partitioner, Val, part};
use Layout::{Partial, Replicated, Split};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{ConvKind, DotDims, LibCall, Node, NodeId, NodeTy, Op, Origin, ReduceOp, ScatterMode, Ty};

/// What an operation is given, and how its result lies then; `None` for one that works on whole arrays.
type Rule = Option<(Vec<Layout>, Layout)>;

impl Partitioner {
    /// The result of an operation on one array or several.
    pub(super) fn array(&mut self, node: &Node, x: &[Val], o: Origin) -> Val {
        let NodeTy::Array(ty) = &node.ty else { panic!("compiler bug: {:?} is partitioned as an array", node.op) };
        let (wanted, layout) = self.rule(node, ty, x).unwrap_or_else(|| (vec![Replicated; x.len()], Replicated));
        let operands: Vec<NodeId> = x.iter().zip(wanted).map(|(&v, wanted)| self.as_wanted(v, wanted, o).node).collect();
        if let (Op::Reduce { kind, axes }, [Val { layout: Split(axis), .. }], Replicated) = (&node.op, x, layout)
            && axes.contains(axis)
        {
            return self.reduced_across(*kind, axes, x[0], o);
        }
        let op = self.own_op(&node.op, layout);
        let ty = part(ty, layout, self.parts);
        Val { node: self.g.push(op, operands, NodeTy::Array(ty), o), layout }
    }

    /// The operation on what a device holds.
    fn own_op(&self, op: &Op, layout: Layout) -> Op {
        match op {
            Op::Slice { start, stop, step } => {
                let mut stop = stop.clone();
                if let Split(axis) = layout {
                    stop[axis] /= self.parts;
                }
                Op::Slice { start: start.clone(), stop, step: step.clone() }
            }
            Op::Conv { kind, dims } => {
                let batch = if layout == Replicated { dims.batch } else { dims.batch / self.parts };
                Op::Conv { kind: *kind, dims: optc_abi::plan::ConvDims { batch, ..dims.clone() } }
            }
            other => other.clone(),
        }
    }

    /// Largest, smallest, product, … along a split axis: of each device's rows, then of these.
    fn reduced_across(&mut self, kind: ReduceOp, axes: &[usize], v: Val, o: Origin) -> Val {
        let own = self.g.reduce(kind, v.node, axes, o);
        let shape = self.g.ty(own).shape.clone();
        let row: Vec<usize> = std::iter::once(1).chain(shape).collect();
        let row = self.g.reshape(own, &row, o);
        let all = self.gather(row, 0, o);
        Val { node: self.g.reduce(kind, all, &[0], o), layout: Replicated }
    }

    fn rule(&self, node: &Node, ty: &Ty, x: &[Val]) -> Rule {
        let split = x.iter().find_map(|v| if let Split(axis) = v.layout { Some(axis) } else { None });
        let partial = x.iter().any(|v| v.layout == Partial);
        if split.is_none() && !partial {
            return None;
        }
        let one = |axis: usize, to: usize| Some((vec![Split(axis)], Split(to)));
        let shape = |k: usize| &self.g.ty(x[k].node).shape;
        // How a single operand lies decides.
        let linear = || Some((vec![Partial], Partial));
        match (&node.op, split) {
            (Op::Map(_), Some(axis)) => Some((vec![Split(axis); x.len()], Split(axis))),
            (Op::Map(op), None) => self.linear_map(*op, x),
            (Op::Cast, Some(axis)) | (Op::Bitcast, Some(axis)) | (Op::Swap, Some(axis)) => one(axis, axis),
            (Op::Cast, None) if matches!(self.g.ty(x[0].node).dtype, DType::BF16 | DType::F16) && ty.dtype == DType::F32 => linear(),
            (Op::Swap, None) => linear(),
            (Op::Reduce { kind, axes }, Some(axis)) => match axes.contains(&axis) {
                true if *kind == ReduceOp::Sum => Some((vec![Split(axis)], Partial)),
                true => Some((vec![Split(axis)], Replicated)),
                false => one(axis, axis - axes.iter().filter(|&&a| a < axis).count()),
            },
            (Op::Reduce { kind: ReduceOp::Sum, .. } | Op::Scan { kind: ReduceOp::Sum, .. }, None) => linear(),
            (Op::ArgReduce { axis: along, .. }, Some(axis)) if *along != axis => one(axis, axis - usize::from(*along < axis)),
            (Op::Scan { axis: along, .. } | Op::ArgSort { axis: along, .. }, Some(axis)) if *along != axis => one(axis, axis),
            (Op::Flip { axes }, Some(axis)) if !axes.contains(&axis) => one(axis, axis),
            (Op::Flip { .. } | Op::Permute { .. } | Op::Reshape | Op::Slice { .. } | Op::Window { .. }, None) => linear(),
            (Op::Reshape, Some(axis)) => {
                let whole = Ty::new(ty.dtype, shape(0).iter().enumerate().map(|(i, n)| if i == axis { n * self.parts } else { *n }));
                one(axis, same_place(ty, &whole, axis, self.parts)?)
            }
            (Op::Broadcast { dims }, Some(axis)) => one(axis, dims[axis]),
            (Op::Broadcast { .. }, None) if ty.len() == self.g.ty(x[0].node).len() => linear(),
            (Op::Permute { perm }, Some(axis)) => one(axis, perm.iter().position(|&p| p == axis)?),
            (Op::Slice { start, stop, step }, Some(axis)) => {
                let whole = start[axis] == 0 && step[axis] == 1 && stop[axis] == shape(0)[axis] * self.parts;
                if whole { one(axis, axis) } else { None }
            }
            (Op::Window { axis: along, .. }, Some(axis)) if *along != axis => one(axis, axis + usize::from(*along < axis)),
            (Op::Pad { lo, hi, interior }, Some(_)) => match x[0].layout {
                Split(axis) if lo[axis] == 0 && hi[axis] == 0 && interior[axis] == 0 => Some((vec![Split(axis), Replicated], Split(axis))),
                _ => None,
            },
            (Op::Pad { .. }, None) if self.is_zero(x[1]) => Some((vec![Partial, Replicated], Partial)),
            (Op::Concat { axis: along }, Some(axis)) if *along != axis => Some((vec![Split(axis); x.len()], Split(axis))),
            (Op::Concat { .. }, None) => self.all_partial(x, x.len()),
            (Op::Dot(dims), _) => self.dot_rule(dims, ty, x),
            (Op::Conv { kind, .. }, Some(0)) => match kind {
                ConvKind::FilterGrad => Some((vec![Split(0), Split(0)], Partial)),
                _ if x[0].layout == Split(0) => Some((vec![Split(0), Replicated], Split(0))),
                _ => None,
            },
            (Op::Gather { axis: along }, Some(_)) => match (x[0].layout, x[1].layout) {
                (Split(axis), _) if axis != *along => {
                    let to = if axis < *along { axis } else { axis + shape(1).len() - 1 };
                    // Ids that are split are wanted whole.
                    Some((vec![Split(axis), Replicated], Split(to)))
                }
                (_, Split(axis)) => Some((vec![Replicated, Split(axis)], Split(along + axis))),
                _ => None,
            },
            (Op::Scatter { axis, mode }, _) => self.scatter_rule(*axis, *mode, x),
            _ => None,
        }
    }

    /// Partial arrays in elementwise operations that are linear in them.
    fn linear_map(&self, op: ScalarOp, x: &[Val]) -> Rule {
        let is = |k: usize, layout: Layout| x[k].layout == layout;
        match op {
            ScalarOp::Neg => Some((vec![Partial], Partial)),
            ScalarOp::Add | ScalarOp::Sub => self.all_partial(x, 2),
            ScalarOp::Mul if is(0, Partial) && is(1, Replicated) => Some((vec![Partial, Replicated], Partial)),
            ScalarOp::Mul if is(1, Partial) && is(0, Replicated) => Some((vec![Replicated, Partial], Partial)),
            ScalarOp::Div if is(0, Partial) && is(1, Replicated) => Some((vec![Partial, Replicated], Partial)),
            ScalarOp::Select if is(0, Replicated) => {
                let (mut wanted, layout) = self.all_partial(&x[1..], 2)?;
                wanted.insert(0, Replicated);
                Some((wanted, layout))
            }
            _ => None,
        }
    }

    /// Where all operands are partial, or zero.
    fn all_partial(&self, x: &[Val], count: usize) -> Rule {
        x.iter().all(|v| v.layout == Partial || self.is_zero(*v)).then(|| (vec![Partial; count], Partial))
    }

    fn dot_rule(&self, dims: &DotDims, ty: &Ty, x: &[Val]) -> Rule {
        let rank = |k: usize| self.g.ty(x[k].node).rank();
        let free = |k: usize, axis: usize| {
            let (batch, contract) = if k == 0 { (&dims.lhs_batch, &dims.lhs_contract) } else { (&dims.rhs_batch, &dims.rhs_contract) };
            let before = (0..axis).filter(|a| !batch.contains(a) && !contract.contains(a)).count();
            let others = if k == 0 { 0 } else { rank(0) - dims.lhs_batch.len() - dims.lhs_contract.len() };
            dims.lhs_batch.len() + others + before
        };
        // The first operand that is split decides; the other one follows.
        for k in 0..2 {
            let Split(axis) = x[k].layout else { continue };
            let ours = if k == 0 { (&dims.lhs_batch, &dims.lhs_contract) } else { (&dims.rhs_batch, &dims.rhs_contract) };
            let theirs = if k == 0 { (&dims.rhs_batch, &dims.rhs_contract) } else { (&dims.lhs_batch, &dims.lhs_contract) };
            let (other, result) = if let Some(p) = ours.0.iter().position(|&a| a == axis) {
                (Split(theirs.0[p]), Split(p))
            } else if let Some(p) = ours.1.iter().position(|&a| a == axis) {
                (Split(theirs.1[p]), Partial)
            } else {
                (Replicated, Split(free(k, axis)))
            };
            return Some((if k == 0 { vec![Split(axis), other] } else { vec![other, Split(axis)] }, result));
        }
        // A partial operand makes a partial result, if that is not more to add up.
        let smaller = |k: usize| ty.len() <= self.g.ty(x[k].node).len();
        match (x[0].layout, x[1].layout) {
            (Partial, Replicated) if smaller(0) => Some((vec![Partial, Replicated], Partial)),
            (Replicated, Partial) if smaller(1) => Some((vec![Replicated, Partial], Partial)),
            _ => None,
        }
    }

    /// Updates of a scatter that adds may be split along the axes of ids: what all of them add is the sum. Other axes of the array may be split too.
    fn scatter_rule(&self, along: usize, mode: ScatterMode, x: &[Val]) -> Rule {
        let ids = self.g.ty(x[1].node).rank();
        let of_ids = match (x[1].layout, x[2].layout) {
            (Split(axis), _) => Some(axis),
            (_, Split(axis)) if axis >= along && axis < along + ids => Some(axis - along),
            _ => None,
        };
        if let Some(axis) = of_ids {
            return (mode == ScatterMode::Add).then(|| (vec![Partial, Split(axis), Split(along + axis)], Partial));
        }
        let of_array = match (x[0].layout, x[2].layout) {
            (Split(axis), _) if axis != along => Some(axis),
            (_, Split(axis)) => Some(if axis < along { axis } else { axis + 1 - ids }),
            _ => None,
        };
        if let Some(axis) = of_array {
            let updates = if axis < along { axis } else { axis + ids - 1 };
            return Some((vec![Split(axis), Replicated, Split(updates)], Split(axis)));
        }
        let partial = |k: usize| x[k].layout == Partial || self.is_zero(x[k]);
        (mode == ScatterMode::Add && x[1].layout == Replicated && partial(0) && partial(2))
            .then(|| (vec![Partial, Replicated, Partial], Partial))
    }

    /// A library call: matrices of a batch may be shared out.
    pub(super) fn library_node(&mut self, node: &Node, x: &[Val], o: Origin) -> Vec<Val> {
        let Op::Lib(call) = &node.op else { panic!("compiler bug: no library call") };
        let own = if matches!(call, LibCall::Fft { .. }) { 1 } else { 2 };
        let lead = self.g.ty(x[0].node).rank() - own;
        let axis = x.iter().find_map(|v| if let Split(axis) = v.layout { Some(axis) } else { None }).filter(|&axis| axis < lead);
        let layout = axis.map_or(Replicated, Split);
        let operands: Vec<NodeId> = x.iter().map(|&v| self.as_wanted(v, layout, o).node).collect();
        let new = self.g.op(Op::Lib(*call), &operands, o);
        let results = match &node.ty {
            NodeTy::Array(_) => vec![new],
            NodeTy::Tuple(types) => (0..types.len()).map(|k| self.g.result(new, k, o)).collect(),
        };
        results.into_iter().map(|node| Val { node, layout }).collect()
    }

    /// What is asked of whoever runs the program is asked of whole arrays.
    pub(super) fn callback_node(&mut self, node: &Node, x: &[Val], o: Origin) -> Vec<Val> {
        let operands: Vec<NodeId> = x.iter().map(|&v| self.replicated(v, o)).collect();
        let new = self.g.push(node.op.clone(), operands, node.ty.clone(), o);
        let NodeTy::Tuple(types) = &node.ty else { panic!("compiler bug: a callback gives a tuple") };
        (0..types.len()).map(|k| Val { node: self.g.result(new, k, o), layout: Replicated }).collect()
    }
}
