//! The verifier of graphs: the invariants stated in `graph.rs`, checked between passes and after every reading.

use crate::graph::{Graph, Node, NodeId, NodeTy, Op};
use crate::infer::infer;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Facts a successful verification has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphInfo {
    /// Nodes, those of sub-graphs included (a shared sub-graph counts once).
    pub nodes: usize,
    /// Nesting of sub-graphs: 0 for a flat graph.
    pub depth: usize,
    /// Elements of the largest array.
    pub largest: usize,
}

impl GraphInfo {
    fn absorb(&mut self, sub: GraphInfo) {
        self.nodes += sub.nodes;
        self.depth = self.depth.max(sub.depth + 1);
        self.largest = self.largest.max(sub.largest);
    }
}

/// Checks a graph and its sub-graphs.
///
/// # Errors
/// The first broken invariant, in words, with the node it was found at.
pub fn verify(graph: &Graph) -> Result<GraphInfo, String> {
    check(graph, &mut FxHashMap::default())
}

fn check(graph: &Graph, done: &mut FxHashMap<*const Graph, GraphInfo>) -> Result<GraphInfo, String> {
    let mut info = GraphInfo { nodes: graph.len(), ..GraphInfo::default() };
    for (i, input) in graph.inputs.iter().enumerate() {
        let is_input = input.node.index() < graph.len() && matches!(graph.node(input.node).op, Op::Input { index } if index as usize == i);
        if !is_input {
            return Err(format!("input {i} `{}` is node {:?}, which is not that input", input.name, input.node));
        }
    }
    for id in graph.ids() {
        let node = graph.node(id);
        check_node(graph, id, node).map_err(|message| format!("node {id:?}: {message}"))?;
        for sub in sub_graphs(&node.op) {
            let key = Arc::as_ptr(sub);
            if let Some(known) = done.get(&key) {
                info.absorb(GraphInfo { nodes: 0, ..*known });
                continue;
            }
            let inner = check(sub, done).map_err(|message| format!("node {id:?}: in its sub-graph: {message}"))?;
            done.insert(key, inner);
            info.absorb(inner);
        }
        let arrays = match &node.ty {
            NodeTy::Array(ty) => std::slice::from_ref(ty),
            NodeTy::Tuple(types) => types,
        };
        for ty in arrays {
            info.largest = info.largest.max(ty.len());
        }
    }
    for (i, output) in graph.outputs.iter().enumerate() {
        if output.index() >= graph.len() {
            return Err(format!("output {i} is node {output:?}, which does not exist"));
        }
        if let NodeTy::Tuple(_) = graph.node(*output).ty {
            return Err(format!("output {i} is node {output:?}, a tuple"));
        }
    }
    Ok(info)
}

fn check_node(graph: &Graph, id: NodeId, node: &Node) -> Result<(), String> {
    if let Some(late) = node.operands.iter().find(|o| o.index() >= id.index()) {
        return Err(format!("operand {late:?} does not come before its user"));
    }
    if let Op::Input { index } = node.op
        && graph.inputs.get(index as usize).is_none_or(|input| input.node != id)
    {
        return Err(format!("input node {index} is missing in the list of inputs"));
    }
    if let Op::Call(call) = &node.op
        && let Some(vjp) = &call.vjp
    {
        let shapes = |g: &Graph, nodes: &mut dyn Iterator<Item = NodeId>| nodes.map(|n| g.ty(n).shape.clone()).collect::<Vec<_>>();
        let body = &call.body;
        let (args, results) = (shapes(body, &mut body.inputs.iter().map(|i| i.node)), shapes(body, &mut body.outputs.iter().copied()));
        let wanted = [&args[..], &results[..], &results[..]].concat();
        if shapes(vjp, &mut vjp.inputs.iter().map(|i| i.node)) != wanted || shapes(vjp, &mut vjp.outputs.iter().copied()) != args {
            return Err(format!("the derivative rule of `{}` does not fit its function", call.name));
        }
    }
    let operands: Vec<&NodeTy> = node.operands.iter().map(|&o| &graph.node(o).ty).collect();
    let found = infer(&node.op, &operands, Some(&node.ty))?;
    if found != node.ty {
        return Err(format!("type {:?} where {found:?} follows from operation and operands", node.ty));
    }
    Ok(())
}

/// The sub-graphs of an operation, in a fixed order.
pub fn sub_graphs(op: &Op) -> impl Iterator<Item = &Arc<Graph>> {
    let (first, second) = match op {
        Op::Loop(l) => (Some(&l.body), None),
        Op::Cond { then, otherwise } => (Some(then), Some(otherwise)),
        Op::Call(c) => (Some(&c.body), c.vjp.as_ref()),
        _ => (None, None),
    };
    first.into_iter().chain(second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{LoopOp, Origin, Ty};
    use crate::scalar::ScalarOp;
    use optc_abi::DType;

    fn f32s(n: usize) -> Ty {
        Ty::new(DType::F32, [n])
    }

    #[test]
    fn a_wrong_claim_is_found() {
        let mut g = Graph::new();
        let x = g.input("x", f32s(3), Origin::default());
        let y = g.push(Op::Map(ScalarOp::Neg), [x], NodeTy::Array(f32s(4)), Origin::default());
        g.outputs.push(y);
        let message = verify(&g).unwrap_err();
        assert!(message.contains("#1") && message.contains("f32[4]"), "{message}");
    }

    #[test]
    fn faults_inside_a_loop_body_are_found_and_depth_is_counted() {
        let counter = Ty::scalar(DType::I32);
        let build = |claim: usize| {
            let mut body = Graph::new();
            body.input("i", counter.clone(), Origin::default());
            let x = body.input("x", f32s(3), Origin::default());
            let twice = body.map(ScalarOp::Add, &[x, x], Origin::default());
            body.push(Op::Map(ScalarOp::Neg), [x], NodeTy::Array(f32s(claim)), Origin::default());
            body.outputs.push(twice);
            let mut g = Graph::new();
            let x = g.input("x", f32s(3), Origin::default());
            let op = LoopOp { trip: Some(4), reverse: false, carried: 1, scanned: 0, guard: None, body: Arc::new(body) };
            g.outputs = g.loop_results(op, &[x], Origin::default());
            g
        };
        assert_eq!(verify(&build(3)), Ok(GraphInfo { nodes: 7, depth: 1, largest: 3 }));
        assert!(verify(&build(5)).unwrap_err().contains("sub-graph"));
    }

    #[test]
    fn a_tuple_is_no_output_and_inputs_must_be_listed() {
        let mut g = Graph::new();
        let x = g.input("x", f32s(3), Origin::default());
        g.outputs.push(x);
        assert!(verify(&g).is_ok());
        g.inputs.clear();
        assert!(verify(&g).unwrap_err().contains("missing"));
    }
}
