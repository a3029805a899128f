//! Cutting graphs: copying the part between given nodes, which become inputs, and given outputs.

use optc_ir::graph::{Graph, NodeId, Op, Origin};
use rustc_hash::FxHashMap;

/// The graph that computes `outputs` from `inputs`: every node of `inputs` becomes an input of the copy, in order, even if it
/// goes unused; what lies above them is left out. An input of `g` that is needed but not listed is a compiler bug.
pub fn extract(g: &Graph, inputs: &[NodeId], outputs: &[NodeId]) -> Graph {
    let mut out = Graph::new();
    let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    for (k, &id) in inputs.iter().enumerate() {
        let name = match g.node(id).op {
            Op::Input { index } => g.inputs[index as usize].name.clone(),
            _ => format!("r{k}"),
        };
        let new = out.input(name, g.ty(id).clone(), g.origin(id));
        map.entry(id).or_insert(new);
    }
    let live = reach(g, outputs, |id| map.contains_key(&id));
    for id in g.ids() {
        if !live[id.index()] || map.contains_key(&id) {
            continue;
        }
        let node = g.node(id);
        if let Op::Input { index } = node.op {
            panic!("compiler bug: input {} was not carried into an extracted graph", g.inputs[index as usize].name);
        }
        let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
        map.insert(id, out.push(node.op.clone(), operands, node.ty.clone(), g.origin(id)));
    }
    out.outputs = outputs.iter().map(|o| map[o]).collect();
    out
}

/// For each node, whether `roots` depend on it along paths that do not pass a node for which `stop` holds (such a node itself is reached).
pub fn reach(g: &Graph, roots: &[NodeId], stop: impl Fn(NodeId) -> bool) -> Vec<bool> {
    let mut live = vec![false; g.len()];
    for root in roots {
        live[root.index()] = true;
    }
    for id in g.ids().rev() {
        if live[id.index()] && !stop(id) {
            for operand in &g.node(id).operands {
                live[operand.index()] = true;
            }
        }
    }
    live
}

/// For each node, whether it depends on one of `sources` (which do themselves).
pub fn depends(g: &Graph, sources: impl IntoIterator<Item = NodeId>) -> Vec<bool> {
    let mut out = vec![false; g.len()];
    for source in sources {
        out[source.index()] = true;
    }
    for id in g.ids() {
        if g.node(id).operands.iter().any(|o| out[o.index()]) {
            out[id.index()] = true;
        }
    }
    out
}

/// The origin of a derivative of something with this origin.
pub fn derived(origin: Origin) -> Origin {
    Origin { span: origin.span, via: "grad" }
}
