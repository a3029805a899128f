//! Rebuilding a graph node by node; calls and conditionals.

use super::build::Builder;
use super::pattern::splat_value;
use optc_abi::Tensor;
use optc_ir::graph::{Graph, NodeId, NodeTy, Op, Origin};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// What a node of the source has become.
#[derive(Clone, Debug)]
pub enum Mapped {
    /// An array.
    One(NodeId),
    /// The results of a tuple; nothing for those nobody needs.
    Many(Vec<Option<NodeId>>),
}

impl Builder<'_> {
    /// Rebuilds the live nodes of `source` here, its inputs replaced by `args`; returns its outputs. A non-empty `via` marks origins.
    pub fn run(&mut self, source: &Graph, args: &[NodeId], via: &'static str) -> Vec<NodeId> {
        self.run_with(source, args, via, &FxHashMap::default())
    }

    /// As [`Builder::run`], with some nodes of the source replaced by given ones.
    pub fn run_with(&mut self, source: &Graph, args: &[NodeId], via: &'static str, preset: &FxHashMap<NodeId, NodeId>) -> Vec<NodeId> {
        let live = live_without(source, preset);
        let mut uses = vec![0u32; source.len()];
        let mut wanted: FxHashMap<NodeId, Vec<bool>> = FxHashMap::default();
        for id in source.ids().filter(|id| live[id.index()]) {
            let node = source.node(id);
            node.operands.iter().for_each(|o| uses[o.index()] += 1);
            if let Op::Result { index } = node.op {
                let tuple = node.operands[0];
                let count = match &source.node(tuple).ty {
                    NodeTy::Tuple(types) => types.len(),
                    NodeTy::Array(_) => panic!("compiler bug: a result of an array"),
                };
                wanted.entry(tuple).or_insert_with(|| vec![false; count])[index] = true;
            }
        }
        source.outputs.iter().for_each(|o| uses[o.index()] += 1);
        let mut map: Vec<Option<Mapped>> = vec![None; source.len()];
        for id in source.ids() {
            let node = source.node(id);
            if let Some(&given) = preset.get(&id) {
                map[id.index()] = Some(Mapped::One(given));
                continue;
            }
            if let Op::Input { index } = node.op {
                map[id.index()] = Some(Mapped::One(args[index as usize]));
                self.add_uses(args[index as usize], uses[id.index()]);
                continue;
            }
            if !live[id.index()] {
                continue;
            }
            let mut origin = source.origin(id);
            if !via.is_empty() {
                origin.via = via;
            }
            let one = |o: NodeId| match &map[o.index()] {
                Some(Mapped::One(id)) => *id,
                other => panic!("compiler bug: {other:?} where an array is wanted"),
            };
            let mapped = match &node.op {
                Op::Result { index } => match &map[node.operands[0].index()] {
                    Some(Mapped::Many(results)) => Mapped::One(results[*index].expect("compiler bug: an unwanted result is used")),
                    other => panic!("compiler bug: {other:?} where a tuple is wanted"),
                },
                Op::Call(c) => {
                    let operands: Vec<NodeId> = node.operands.iter().map(|&o| one(o)).collect();
                    let body = self.context.sub_graph(&c.body);
                    Mapped::Many(self.run(&body, &operands, via).into_iter().map(Some).collect())
                }
                Op::Loop(l) => {
                    let operands: Vec<NodeId> = node.operands.iter().map(|&o| one(o)).collect();
                    Mapped::Many(self.make_loop(l, &operands, &wanted[&id], origin))
                }
                Op::Cond { then, otherwise } => {
                    let operands: Vec<NodeId> = node.operands.iter().map(|&o| one(o)).collect();
                    Mapped::Many(self.make_cond(then, otherwise, &operands, &wanted[&id], origin))
                }
                op => {
                    let operands: Vec<NodeId> = node.operands.iter().map(|&o| one(o)).collect();
                    self.remake(op, &operands, &node.ty, origin)
                }
            };
            if let Mapped::One(new) = mapped {
                self.add_uses(new, uses[id.index()]);
            }
            map[id.index()] = Some(mapped);
        }
        source
            .outputs
            .iter()
            .map(|o| match &map[o.index()] {
                Some(Mapped::One(id)) => *id,
                other => panic!("compiler bug: {other:?} is no output"),
            })
            .collect()
    }

    fn make_cond(
        &mut self,
        then: &Arc<Graph>,
        otherwise: &Arc<Graph>,
        operands: &[NodeId],
        wanted: &[bool],
        origin: Origin,
    ) -> Vec<Option<NodeId>> {
        let (pred, args) = (operands[0], &operands[1..]);
        let (mut then, mut otherwise) = (self.context.sub_graph(then), self.context.sub_graph(otherwise));
        if let Some(value) = splat_value(&self.out, pred) {
            let branch = if value != 0.0 { then } else { otherwise };
            return self.run(&branch, args, "").into_iter().map(Some).collect();
        }
        // A result that is the same argument either way needs no condition.
        let passed: Vec<Option<usize>> = (0..wanted.len())
            .map(|i| {
                let place = |g: &Graph| g.inputs.iter().position(|input| input.node == g.outputs[i]);
                place(&then).filter(|p| place(&otherwise) == Some(*p))
            })
            .collect();
        let kept: Vec<bool> = (0..wanted.len()).map(|i| wanted[i] && passed[i].is_none()).collect();
        // Literals are known inside, where they can be folded.
        let literals: Vec<Option<Tensor>> = args.iter().map(|&a| literal(&self.out, a)).collect();
        let used: Vec<bool> =
            (0..args.len()).map(|i| literals[i].is_none() && (is_used(&then, i, &kept) || is_used(&otherwise, i, &kept))).collect();
        if kept.contains(&false) || used.contains(&false) {
            then = self.context.intern(restrict(&then, &used, &literals, &kept));
            otherwise = self.context.intern(restrict(&otherwise, &used, &literals, &kept));
            (then, otherwise) = (self.context.sub_graph(&then), self.context.sub_graph(&otherwise));
        }
        let mut results = if kept.contains(&true) {
            let args: Vec<NodeId> = args.iter().zip(&used).filter(|(_, used)| **used).map(|(&a, _)| a).collect();
            self.out.cond_results(pred, then, otherwise, &args, origin)
        } else {
            Vec::new()
        }
        .into_iter();
        (0..wanted.len())
            .map(|i| match passed[i] {
                Some(place) => Some(args[place]),
                None if kept[i] => results.next(),
                None => None,
            })
            .collect()
    }
}

/// For each node, whether an output needs it when some nodes are given.
fn live_without(graph: &Graph, preset: &FxHashMap<NodeId, NodeId>) -> Vec<bool> {
    let mut live = vec![false; graph.len()];
    graph.outputs.iter().for_each(|o| live[o.index()] = true);
    for id in graph.ids().rev() {
        if live[id.index()] && !preset.contains_key(&id) {
            graph.node(id).operands.iter().for_each(|o| live[o.index()] = true);
        }
    }
    live
}

/// Whether a kept output of the graph depends on input `index`.
fn is_used(graph: &Graph, index: usize, kept: &[bool]) -> bool {
    reachable(graph, kept)[graph.inputs[index].node.index()]
}

/// For each node, whether a kept output depends on it.
pub fn reachable(graph: &Graph, kept: &[bool]) -> Vec<bool> {
    let mut live = vec![false; graph.len()];
    graph.outputs.iter().zip(kept).filter(|(_, kept)| **kept).for_each(|(o, _)| live[o.index()] = true);
    for id in graph.ids().rev() {
        if live[id.index()] {
            graph.node(id).operands.iter().for_each(|o| live[o.index()] = true);
        }
    }
    live
}

/// The scalar all elements of a literal or a broadcast literal are equal to.
fn literal(graph: &Graph, id: NodeId) -> Option<Tensor> {
    let source = match &graph.node(id).op {
        Op::Broadcast { dims } if dims.is_empty() => graph.node(id).operands[0],
        _ => id,
    };
    match &graph.node(source).op {
        Op::Const(t) if t.shape.is_empty() => Some((**t).clone()),
        _ => None,
    }
}

/// The graph with only the kept inputs and outputs; inputs of known value become literals.
fn restrict(graph: &Graph, inputs: &[bool], literals: &[Option<Tensor>], outputs: &[bool]) -> Graph {
    let live = reachable(graph, outputs);
    let mut out = Graph::new();
    let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    for id in graph.ids() {
        let node = graph.node(id);
        if let Op::Input { index } = node.op {
            if let Some(value) = &literals[index as usize] {
                let scalar = out.constant(value.clone(), graph.origin(id));
                map.insert(id, out.broadcast(scalar, &[], &graph.ty(id).shape, graph.origin(id)));
            } else if inputs[index as usize] {
                let name = graph.inputs[index as usize].name.clone();
                map.insert(id, out.input(name, graph.ty(id).clone(), graph.origin(id)));
            }
        } else if live[id.index()] {
            let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
            map.insert(id, out.push(node.op.clone(), operands, node.ty.clone(), graph.origin(id)));
        }
    }
    out.outputs = graph.outputs.iter().zip(outputs).filter(|(_, kept)| **kept).map(|(o, _)| map[o]).collect();
    out
}
