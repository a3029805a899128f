//! Residuals that may live outside of memory between the forward and the backward pass.

use super::cut::depends;
use super::linearize::Linearized;
use super::residual::{Access, Policy, choose};
use optc_ir::graph::{Graph, NodeId, NodeTy, Op};

/// Lets the linear part of a function read what it needs of the rest through [`Op::Swap`]. What is kept is chosen as for a loop, of whose values none are at hand in
/// the backward pass; what follows from that by cheap work is computed again there.
pub fn residuals(lin: Linearized) -> Linearized {
    let f = &lin.g;
    let linear = depends(f, lin.input_tangents.iter().flatten().copied());
    let roots: Vec<NodeId> = lin.output_tangents.iter().flatten().copied().collect();
    let chosen = choose(f, &linear, &roots, |_| Access::Carried, Policy { hoist: false, keep_nothing: false, any_map: true });
    let mut g = Graph::new();
    // Each node as the forward pass has it, and as the backward pass finds it.
    let mut now: Vec<Option<NodeId>> = vec![None; f.len()];
    let mut later: Vec<Option<NodeId>> = vec![None; f.len()];
    for input in &f.inputs {
        now[input.node.index()] = Some(g.input(input.name.clone(), f.ty(input.node).clone(), f.origin(input.node)));
    }
    for id in f.ids() {
        let (k, node, origin) = (id.index(), f.node(id), f.origin(id));
        if now[k].is_none() {
            let source = if linear[k] { &later } else { &now };
            let operands: Option<Vec<NodeId>> = node.operands.iter().map(|o| source[o.index()]).collect();
            now[k] = operands.map(|operands| g.push(node.op.clone(), operands, node.ty.clone(), origin));
        }
        later[k] = if linear[k] {
            now[k]
        } else if chosen.saved.contains(&id) {
            now[k].map(|x| g.op(Op::Swap, &[x], origin))
        } else if matches!(node.op, Op::Const(_) | Op::Iota { .. }) {
            now[k]
        } else if matches!(node.ty, NodeTy::Array(_)) && !matches!(node.op, Op::Input { .. }) {
            let operands: Option<Vec<NodeId>> = node.operands.iter().map(|o| later[o.index()]).collect();
            operands.map(|operands| g.push(node.op.clone(), operands, node.ty.clone(), origin))
        } else {
            None
        };
    }
    let of = |id: &NodeId| now[id.index()].unwrap_or_else(|| panic!("compiler bug: a tangent without what it is made of"));
    Linearized {
        inputs: lin.inputs.iter().map(of).collect(),
        input_tangents: lin.input_tangents.iter().map(|t| t.as_ref().map(of)).collect(),
        outputs: lin.outputs.iter().map(of).collect(),
        output_tangents: lin.output_tangents.iter().map(|t| t.as_ref().map(of)).collect(),
        g,
    }
}
