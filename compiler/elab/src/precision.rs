//! `precision bf16`: matrix products and convolutions of a loss see their operands rounded, and sum in f32, as tensor cores do; all else stays in f32.

use optc_abi::DType;
use optc_ir::graph::{CallOp, LoopOp, Op};
use optc_ir::{Graph, NodeId};
use std::sync::Arc;

/// The same graph with the operands of every product rounded to `narrow` (`bf16` or `f16`), sub-graphs included.
pub fn round_products(graph: &Graph, narrow: DType) -> Graph {
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.len());
    for id in graph.ids() {
        let node = graph.node(id);
        let origin = graph.origin(id);
        let mut operands: Vec<NodeId> = node.operands.iter().map(|o| map[o.index()]).collect();
        let inner = |g: &Arc<Graph>| Arc::new(round_products(g, narrow));
        let op = match &node.op {
            Op::Input { .. } => {
                let input = graph.inputs.iter().find(|i| i.node == id).expect("inputs are listed");
                map.push(out.input(input.name.clone(), graph.ty(id).clone(), origin));
                continue;
            }
            Op::Dot(_) | Op::Conv { .. } => {
                for operand in &mut operands {
                    if out.ty(*operand).dtype == DType::F32 {
                        let rounded = out.cast(*operand, narrow, origin);
                        *operand = out.cast(rounded, DType::F32, origin);
                    }
                }
                node.op.clone()
            }
            Op::Loop(l) => Op::Loop(LoopOp { body: inner(&l.body), ..l.clone() }),
            Op::Cond { then, otherwise } => Op::Cond { then: inner(then), otherwise: inner(otherwise) },
            Op::Call(c) => Op::Call(CallOp { name: c.name.clone(), body: inner(&c.body), vjp: c.vjp.clone() }),
            other => other.clone(),
        };
        map.push(out.push(op, operands, node.ty.clone(), origin));
    }
    out.outputs = graph.outputs.iter().map(|o| map[o.index()]).collect();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_ir::graph::DotDims;
    use optc_ir::{Origin, Ty};

    #[test]
    fn operands_of_products_are_rounded() {
        let mut g = Graph::new();
        let o = Origin::default();
        let a = g.input("a", Ty::new(DType::F32, [2, 3]), o);
        let b = g.input("b", Ty::new(DType::F32, [3, 2]), o);
        let dims = DotDims { lhs_contract: [1].into_iter().collect(), rhs_contract: [0].into_iter().collect(), ..DotDims::default() };
        let c = g.dot(a, b, dims, o);
        g.outputs = vec![c];
        let rounded = round_products(&g, DType::BF16);
        assert_eq!(rounded.ids().filter(|&id| matches!(rounded.node(id).op, Op::Cast)).count(), 4);
        assert_eq!(rounded.output_types(), g.output_types());
    }
}
