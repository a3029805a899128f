//! Batching of numerical library calls: they have batch axes of their own, and this is one more.

use super::{Batcher, Val};
use optc_ir::graph::{LibCall, Node, NodeId, NodeTy, Op, Origin};

impl Batcher {
    /// The results of a call. A solve with one matrix for the whole batch takes the right-hand sides of all elements as columns of one.
    pub(super) fn library_node(&mut self, call: LibCall, node: &Node, x: &[Val], o: Origin) -> Vec<Val> {
        let batched = x.iter().any(|v| v.batched);
        let solves = matches!(call, LibCall::TriangularSolve { .. } | LibCall::LuSolve { .. });
        if let Some((side, matrix)) = x.split_last()
            && solves
            && batched
            && matrix.iter().all(|v| !v.batched)
        {
            return vec![self.columns(call, matrix, *side, o)];
        }
        let operands: Vec<NodeId> = x.iter().map(|v| if batched { self.spread(*v, o).node } else { v.node }).collect();
        let new = self.g.op(Op::Lib(call), &operands, o);
        let results = match &node.ty {
            NodeTy::Array(_) => vec![new],
            NodeTy::Tuple(types) => (0..types.len()).map(|k| self.g.result(new, k, o)).collect(),
        };
        results.into_iter().map(|node| Val { node, batched }).collect()
    }

    /// `[size, …, n, k]` as `[…, n, size k]`, solved, and back.
    fn columns(&mut self, call: LibCall, matrix: &[Val], side: Val, o: Origin) -> Val {
        let shape = self.g.ty(side.node).shape.clone();
        let rank = shape.len();
        let turned = self.put_behind(side.node, rank - 2, 1, o);
        let wide: Vec<usize> = shape[1..rank - 1].iter().copied().chain([self.size * shape[rank - 1]]).collect();
        let flat = self.g.reshape(turned, &wide, o);
        let operands: Vec<NodeId> = matrix.iter().map(|v| v.node).chain([flat]).collect();
        let solved = self.g.op(Op::Lib(call), &operands, o);
        let split: Vec<usize> = shape[1..rank - 1].iter().copied().chain([self.size, shape[rank - 1]]).collect();
        let back = self.g.reshape(solved, &split, o);
        Val { node: self.brought_forward(back, rank - 2, 1, o), batched: true }
    }
}
