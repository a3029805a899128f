//! What can be known about a node's values.

use super::pattern::splat_value;
use optc_ir::graph::{Graph, NodeId, Op, ReduceOp};
use optc_ir::scalar::ScalarOp;

/// Whether no element of a float array can be -0. Looks a few nodes deep.
pub fn never_minus_zero(graph: &Graph, id: NodeId) -> bool {
    search(graph, id, 6)
}

fn search(graph: &Graph, id: NodeId, depth: usize) -> bool {
    if depth == 0 {
        return false;
    }
    if let Some(v) = splat_value(graph, id) {
        return !(v == 0.0 && v.is_sign_negative());
    }
    let node = graph.node(id);
    let operand = |i: usize| search(graph, node.operands[i], depth - 1);
    match &node.op {
        Op::Const(t) => !t.dtype.is_float() || (0..t.len()).all(|i| !(t.get_f64(i) == 0.0 && t.get_f64(i).is_sign_negative())),
        Op::Map(op) => match op {
            // Rounding to nearest gives -0 only for (-0) + (-0).
            ScalarOp::Add => operand(0) || operand(1),
            ScalarOp::Mul => node.operands[0] == node.operands[1],
            // The larger of -0 and a negative number is -0.
            ScalarOp::Max => (operand(0) && operand(1)) || (0..2).any(|i| at_least_plus_zero(graph, node.operands[i])),
            ScalarOp::Min => operand(0) && operand(1),
            ScalarOp::Abs | ScalarOp::Exp | ScalarOp::Exp2 | ScalarOp::Sigmoid | ScalarOp::Softplus | ScalarOp::Cosh => true,
            ScalarOp::Select => operand(1) && operand(2),
            ScalarOp::Sqrt | ScalarOp::Sign | ScalarOp::Cbrt | ScalarOp::Floor => operand(0),
            _ => false,
        },
        Op::Cast => !graph.ty(node.operands[0]).dtype.is_float(),
        // Sums start from +0.
        Op::Reduce { kind, .. } => match kind {
            ReduceOp::Sum => true,
            ReduceOp::Max | ReduceOp::Min => operand(0),
            _ => false,
        },
        Op::Reshape
        | Op::Broadcast { .. }
        | Op::Permute { .. }
        | Op::Slice { .. }
        | Op::Flip { .. }
        | Op::Window { .. }
        | Op::Gather { .. } => operand(0),
        Op::Pad { .. } => operand(0) && operand(1),
        Op::Concat { .. } => (0..node.operands.len()).all(operand),
        _ => false,
    }
}

fn at_least_plus_zero(graph: &Graph, id: NodeId) -> bool {
    splat_value(graph, id).is_some_and(|v| v >= 0.0 && v.is_sign_positive())
}
