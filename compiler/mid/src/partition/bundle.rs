//! Sums over devices that do not wait for each other become one operation.

use optc_ir::graph::{Graph, NodeId, NodeTy, Op};
use rustc_hash::FxHashMap;

/// Whether devices add something up in a graph.
pub(super) fn sums(g: &Graph) -> bool {
    g.ids().any(|id| match &g.node(id).op {
        Op::AllReduce => true,
        Op::Loop(l) => sums(&l.body),
        Op::Cond { then, otherwise } => sums(then) || sums(otherwise),
        _ => false,
    })
}

/// The same graph, with sums that are equally far from the inputs in one operation.
pub(super) fn bundle(g: &Graph) -> Graph {
    let live = g.live();
    // How many times devices have met before a node can be computed.
    let mut level = vec![0usize; g.len()];
    let mut meets = vec![false; g.len()];
    let mut most = 0;
    for id in g.ids().filter(|id| live[id.index()]) {
        let node = g.node(id);
        let before = node.operands.iter().map(|o| level[o.index()] + usize::from(meets[o.index()])).max().unwrap_or(0);
        level[id.index()] = before;
        meets[id.index()] = match &node.op {
            Op::AllReduce => true,
            Op::Loop(l) => sums(&l.body),
            Op::Cond { then, otherwise } => sums(then) || sums(otherwise),
            _ => false,
        };
        most = most.max(before);
    }
    let mut out = Graph::new();
    let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    for input in &g.inputs {
        map.insert(input.node, out.input(input.name.clone(), g.ty(input.node).clone(), g.origin(input.node)));
    }
    // Where the result of a sum has gone.
    let mut sums: FxHashMap<NodeId, (NodeId, usize)> = FxHashMap::default();
    for now in 0..=most {
        let mut operands: Vec<NodeId> = Vec::new();
        let mut found = Vec::new();
        for id in g.ids().filter(|id| live[id.index()] && level[id.index()] == now) {
            let node = g.node(id);
            match &node.op {
                Op::Input { .. } => continue,
                Op::AllReduce => {
                    for &operand in &node.operands {
                        found.push((id, operands.len()));
                        operands.push(map[&operand]);
                    }
                }
                Op::Result { index } if sums.contains_key(&node.operands[0]) => {
                    let (tuple, first) = sums[&node.operands[0]];
                    map.insert(id, out.result(tuple, first + index, g.origin(id)));
                }
                _ => {
                    let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
                    map.insert(id, out.push(node.op.clone(), operands, node.ty.clone(), g.origin(id)));
                }
            }
        }
        if let Some(&(first, _)) = found.first() {
            let types = operands.iter().map(|&o| out.ty(o).clone()).collect();
            let tuple = out.push(Op::AllReduce, operands, NodeTy::Tuple(types), g.origin(first));
            for (id, place) in found {
                sums.entry(id).or_insert((tuple, place));
            }
        }
    }
    out.outputs = g.outputs.iter().map(|o| map[o]).collect();
    out
}
