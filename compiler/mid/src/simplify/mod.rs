//! Simplification: a graph that computes the same results with less work.

use optc_ir::graph::{Graph, NodeId, Op};
use rustc_hash::FxHashMap;

/// What the simplifier may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Also apply rules that are exact over the reals but not bit for bit (`numerics fast`).
    pub fast: bool,
    /// Arrays of more elements are not folded to constants.
    pub fold_limit: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { fast: false, fold_limit: 1024 }
    }
}

/// The same function with less work. Inputs and outputs keep number, order and types.
pub fn simplify(graph: Graph, _config: &Config) -> Graph {
    remove_dead(&graph)
}

/// A copy without nodes no output depends on; inputs stay.
pub fn remove_dead(graph: &Graph) -> Graph {
    let live = graph.live();
    let mut out = Graph::new();
    let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    for id in graph.ids() {
        let node = graph.node(id);
        if let Op::Input { index } = node.op {
            let name = graph.inputs[index as usize].name.clone();
            map.insert(id, out.input(name, graph.ty(id).clone(), graph.origin(id)));
        } else if live[id.index()] {
            let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
            map.insert(id, out.push(node.op.clone(), operands, node.ty.clone(), graph.origin(id)));
        }
    }
    out.outputs = graph.outputs.iter().map(|o| map[o]).collect();
    out
}
