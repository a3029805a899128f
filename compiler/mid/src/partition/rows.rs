//! A device's own rows of an array that is whole on each: computed as rows where that is less work, else taken out.

use super::Partitioner;
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{NodeId, NodeTy, Op, Origin, Ty};

impl Partitioner {
    /// The own part of a whole array along an axis whose extent is a multiple of the number of devices.
    pub(super) fn own_rows(&mut self, node: NodeId, axis: usize, o: Origin) -> NodeId {
        if let Some(&known) = self.rows.get(&(node, axis)) {
            return known;
        }
        let made = self.computed_rows(node, axis, o).unwrap_or_else(|| self.rows_taken(node, axis, o));
        self.rows.insert((node, axis), made);
        made
    }

    /// Rows that need not the whole array.
    fn computed_rows(&mut self, node: NodeId, axis: usize, o: Origin) -> Option<NodeId> {
        let source = self.g.node(node).clone();
        let NodeTy::Array(ty) = &source.ty else { return None };
        let mut own = ty.clone();
        own.shape[axis] /= self.parts;
        let x = &source.operands;
        match &source.op {
            Op::Broadcast { dims } => {
                let operand = dims.iter().position(|&d| d == axis).filter(|&i| self.g.ty(x[0]).shape[i] == ty.shape[axis]);
                let rows = match operand {
                    Some(i) => self.own_rows(x[0], i, o),
                    None => x[0],
                };
                Some(self.g.broadcast(rows, dims, &own.shape, o))
            }
            Op::Iota { axis: counted } => {
                let here = self.g.iota(own.dtype, &own.shape, *counted, o);
                if *counted != axis {
                    return Some(here);
                }
                let first = self.first(own.shape[axis], o);
                let first = self.g.cast(first, own.dtype, o);
                let first = self.g.broadcast(first, &[], &own.shape, o);
                Some(self.g.map(ScalarOp::Add, &[here, first], o))
            }
            Op::Map(_) | Op::Cast | Op::Bitcast => {
                let rows: Vec<NodeId> = x.iter().map(|&operand| self.own_rows(operand, axis, o)).collect();
                Some(self.g.push(source.op.clone(), rows, NodeTy::Array(own), o))
            }
            // Words are counted through the whole array; rows in front of which there are no other axes are a run of them.
            Op::RandomBits { .. } if ty.shape[..axis].iter().all(|&n| n == 1) && ty.len() <= i32::MAX as usize => {
                let first = self.first(own.len(), o);
                let first = self.g.cast(first, DType::U32, o);
                let skipped = match x.get(1) {
                    Some(&before) => self.g.map(ScalarOp::Add, &[before, first], o),
                    None => first,
                };
                let key = x[0];
                Some(self.g.op_as(source.op.clone(), &[key, skipped], own, o))
            }
            Op::Permute { perm } => {
                let rows = self.own_rows(x[0], perm[axis], o);
                Some(self.g.permute(rows, perm, o))
            }
            Op::Reshape => {
                let from = same_place(&self.g.ty(x[0]).clone(), ty, axis, self.parts)?;
                let rows = self.own_rows(x[0], from, o);
                Some(self.g.reshape(rows, &own.shape, o))
            }
            _ => None,
        }
    }

    /// Rows out of the whole array.
    fn rows_taken(&mut self, node: NodeId, axis: usize, o: Origin) -> NodeId {
        let count = self.g.ty(node).shape[axis] / self.parts;
        let here = self.g.iota(DType::I32, &[count], 0, o);
        let first = self.first(count, o);
        let first = self.g.broadcast(first, &[], &[count], o);
        let ids = self.g.map(ScalarOp::Add, &[here, first], o);
        self.g.gather(node, ids, axis, o)
    }

    /// The number of the first own row, of so many for each device.
    pub(super) fn first(&mut self, count: usize, o: Origin) -> NodeId {
        let count = self.g.scalar(DType::I32, count as f64, o);
        self.g.map(ScalarOp::Mul, &[self.rank, count], o)
    }
}

/// The axis of `to` whose parts are those of an axis of `from`, where an array of type `from` is reshaped: both are the slowest of the axes that are joined or taken
/// apart, or the same.
pub(super) fn same_place(to: &Ty, from: &Ty, axis: usize, parts: usize) -> Option<usize> {
    let before: usize = from.shape[..axis].iter().product();
    let (mut product, mut at) = (1, 0);
    while at < to.rank() && product < before {
        product *= to.shape[at];
        at += 1;
    }
    if product != before {
        return None;
    }
    // Axes of one element in between change nothing.
    while at < to.rank() && to.shape[at] == 1 {
        at += 1;
    }
    let extent = *to.shape.get(at)?;
    // A part is a run of rows of both.
    (extent.is_multiple_of(parts) && from.shape[axis].is_multiple_of(parts) && !to.is_empty() && {
        let after_from: usize = from.shape[axis..].iter().product();
        let after_to: usize = to.shape[at..].iter().product();
        after_from == after_to
    })
    .then_some(at)
}
