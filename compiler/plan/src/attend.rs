//! Attention as an instruction: operands on memory as it lies, results in the order of axes that their readers want.

use crate::block::Block;
use crate::dot;
use crate::net::N;
use crate::schedule::Unit;
use optc_abi::plan::{Attention, BufRef, Instr, LibOp, Strides};
use optc_ir::build::strides;
use optc_ir::graph::AttentionOp;

impl Block<'_> {
    pub(crate) fn attention(&mut self, n: N, op: &AttentionOp) -> Unit {
        let net = self.net;
        let operands = net.nodes[n].operands.clone();
        let dtype = net.nodes[operands[0]].ty.dtype;
        let mut unit = Unit::new(n);
        let (mut buffers, mut layouts) = (Vec::new(), Vec::new());
        for &o in &operands {
            let view = dot::strided(net, &self.grouping.class, o)
                .unwrap_or_else(|| panic!("compiler bug: operand of attention that has no memory"));
            let place = self.place(view.base);
            self.reads_all(&mut unit, [view.base]);
            let offset = place.offset + view.offset * net.nodes[o].ty.dtype.size() as i64;
            buffers.push(BufRef { offset, ..place });
            layouts.push(layout(&view.strides));
        }
        let mut results = Vec::new();
        for ((shape, ty), turned) in op.what.results(dtype).into_iter().zip(&op.turned) {
            let extents: Vec<usize> = op.what.batch.iter().copied().chain(shape).collect();
            let dense = strides(&turned.iter().map(|&axis| extents[axis]).collect::<Vec<_>>());
            let mut by = vec![0; extents.len()];
            turned.iter().zip(&dense).for_each(|(&axis, &stride)| by[axis] = stride as i64);
            layouts.push(layout(&by));
            results.push(BufRef::whole(self.store.temporary(ty, extents.iter().product(), self.within)));
        }
        buffers.extend(results.iter().cloned());
        let op = LibOp::Attention { attention: Attention::clone(&op.what), strides: layouts };
        unit.code.push(Instr::Lib { op, dtype, buffers });
        self.take_results(n, &results, &mut unit);
        unit
    }
}

/// Strides of batch, rows and columns.
fn layout(by: &[i64]) -> Strides {
    let (batch, matrix) = by.split_at(by.len() - 2);
    Strides { row: matrix[0], column: matrix[1], batch: batch.to_vec() }
}
