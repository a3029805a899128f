//! Simplification: a graph that computes the same results with less work.
//!
//! The graph is rebuilt node by node; every node goes through the builder, which applies the algebraic rules (a table, `rules.rs`) and
//! the rules of movement, reductions and products (tables of functions). Hash-consing merges equal nodes on the way; what nothing needs is left
//! behind. Loops and conditionals are simplified from the inside out. Passes repeat until nothing changes, a few times at most.

mod algebra;
mod build;
mod control;
mod facts;
mod indexing;
mod loops;
mod movement;
mod pattern;
mod products;
mod reductions;
pub mod rules;

use build::{Builder, Context};
use optc_ir::graph::{Graph, NodeId, Op};
use optc_ir::text::same_graph;
use rustc_hash::FxHashMap;

/// How far a rewrite may change results. Each includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exactness {
    /// Not at all: bit for bit (payloads and signs of NaN aside).
    Exact,
    /// Within what the replaced operations are allowed anyway: their error in the scalar table, and the order of a summation.
    Budget,
    /// Equal over the real numbers (`numerics fast`).
    Fast,
}

/// What the simplifier may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which rules apply.
    pub exactness: Exactness,
    /// Arrays of more elements are not folded to constants.
    pub fold_limit: usize,
    /// Greatest number of passes.
    pub passes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { exactness: Exactness::Budget, fold_limit: 1024, passes: 4 }
    }
}

/// The same function with less work. Inputs and outputs keep number, order, names and types.
///
/// Calls are inlined and `StopGradient` is removed, so differentiation must come first.
pub fn simplify(graph: Graph, config: &Config) -> Graph {
    let mut context = Context::new(config.clone());
    simplify_in(graph, &mut context)
}

/// Every rewrite with its exactness: the rows of the rule table, then the rules that are functions.
pub fn catalog() -> Vec<(&'static str, Exactness)> {
    let table = rules::RULES.iter().map(|r| (r.name, r.exactness));
    let moves = [algebra::MOVES, movement::MOVES, indexing::MOVES, reductions::MOVES, products::MOVES].into_iter().flatten();
    table.chain(moves.map(|m| (m.name, m.exactness))).collect()
}

fn simplify_in(graph: Graph, context: &mut Context) -> Graph {
    let mut graph = graph;
    for _ in 0..context.config.passes {
        let mut builder = Builder::new(context, &graph);
        let args: Vec<NodeId> =
            graph.inputs.iter().map(|i| builder.out.input(i.name.clone(), graph.ty(i.node).clone(), graph.origin(i.node))).collect();
        let outputs = builder.run(&graph, &args, "");
        let mut next = builder.out;
        next.outputs = outputs;
        let next = remove_dead(&next);
        let done = same_graph(&graph, &next);
        graph = next;
        if done {
            break;
        }
    }
    graph
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

#[cfg(test)]
mod tests;
