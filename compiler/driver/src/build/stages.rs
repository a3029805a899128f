//! The update of a leaf, cut where elements are combined, each stage planned by itself.

use super::roll::Rolled;
use super::rule::Part;
use crate::pipeline::{self, CompileOptions, Timings};
use optc_abi::DType;
use optc_cranelift::object::{Flat, RoundOf, Source, Stage, Staged};
use optc_ir::Graph;
use optc_ir::graph::{NodeId, Op, Origin};
use rustc_hash::{FxHashMap, FxHashSet};

/// A function of a rule in stages, and their plans for those who want to look.
pub struct Stages {
    /// What it does.
    pub flat: Flat,
    /// Kernels and plan of each stage.
    pub parts: Vec<Part>,
}

/// Cuts and plans the update. `outputs` says where its results go; `shared` which states all leaves share, by their numbers among the arrays of a leaf.
///
/// # Errors
/// What does not fit into passes over a leaf, in words.
pub fn stages(name: &str, rolled: &Rolled, length: usize, outputs: &[Source], shared: &[(usize, DType)]) -> Result<Stages, String> {
    let graph = &rolled.graph;
    let parts = (0..rolled.folds.len()).map(Source::Part);
    let outputs: Vec<Source> = outputs.iter().copied().chain(parts).collect();
    let rounds = rounds(rolled);
    let last = rounds.iter().max().map_or(0, |r| r + 1);
    let mut cut = Cut { rolled, outputs: &outputs, staged: Staged::default(), found: Vec::new(), name };
    for round in 0..=last {
        let wanted: Vec<usize> = match round == last {
            true => (0..rolled.results).collect(),
            false => (0..rounds.len()).filter(|&k| rounds[k] == round).map(|k| rolled.results + k).collect(),
        };
        let mut stages = cut.round(&wanted, round == last);
        stages.folds = wanted.iter().filter_map(|&o| o.checked_sub(rolled.results)).collect();
        cut.staged.rounds.push(stages);
    }
    cut.staged.folds.clone_from(&rolled.folds);
    cut.staged.shared = shared.to_vec();
    debug_assert_eq!(graph.outputs.len(), outputs.len());
    let flat = cut.staged.flatten(length).map_err(|e| e.to_string())?;
    Ok(Stages { flat, parts: cut.found })
}

/// In which round each fold is known: after those it depends on.
pub fn rounds(rolled: &Rolled) -> Vec<usize> {
    let graph = &rolled.graph;
    let mut known: Vec<usize> = Vec::new();
    for k in 0..rolled.folds.len() {
        let needed = below(graph, &[graph.outputs[rolled.results + k]], &FxHashMap::default());
        let folds = graph.inputs.iter().zip(&rolled.inputs).filter(|(i, _)| needed.contains(&i.node));
        let before = folds.filter_map(|(_, s)| if let Source::Fold(j) = s { Some(known[*j] + 1) } else { None });
        known.push(before.max().unwrap_or(0));
    }
    known
}

/// What nodes depend on, themselves included, but not what those given stand for.
fn below(graph: &Graph, of: &[NodeId], given: &FxHashMap<NodeId, Source>) -> FxHashSet<NodeId> {
    let mut found: FxHashSet<NodeId> = FxHashSet::default();
    let mut todo = of.to_vec();
    while let Some(id) = todo.pop() {
        if found.insert(id) && !given.contains_key(&id) {
            todo.extend(&graph.node(id).operands);
        }
    }
    found
}

struct Cut<'a> {
    rolled: &'a Rolled,
    outputs: &'a [Source],
    staged: Staged,
    found: Vec<Part>,
    name: &'a str,
}

impl Cut<'_> {
    /// The stages that give these outputs; `last` if they are the results.
    fn round(&mut self, wanted: &[usize], last: bool) -> RoundOf {
        let graph = &self.rolled.graph;
        let nodes: Vec<NodeId> = wanted.iter().map(|&o| graph.outputs[o]).collect();
        let needed = below(graph, &nodes, &FxHashMap::default());
        // How many passes come before a node is known.
        let mut phase: FxHashMap<NodeId, usize> = FxHashMap::default();
        for id in graph.ids().filter(|id| needed.contains(id)) {
            let before = graph.node(id).operands.iter().map(|o| phase[o]).max().unwrap_or(0);
            phase.insert(id, before + usize::from(combines(graph, id)));
        }
        let most = nodes.iter().map(|n| phase[n]).max().unwrap_or(0);
        let sums = |p: usize| -> Vec<NodeId> {
            graph.ids().filter(|id| needed.contains(id) && combines(graph, *id) && phase[id] == p + 1).collect()
        };
        let early = if last { self.early(wanted, &phase, most, &sums) } else { Vec::new() };
        let mut given: FxHashMap<NodeId, Source> = FxHashMap::default();
        let mut round = RoundOf::default();
        for p in 0..=most {
            let reduced = if p < most { sums(p) } else { Vec::new() };
            let mut results: Vec<(NodeId, Source)> = Vec::new();
            for id in reduced {
                let Op::Reduce { kind, .. } = &graph.node(id).op else { continue };
                self.staged.reductions.push((*kind, graph.ty(id).dtype));
                results.push((id, Source::Reduced(self.staged.reductions.len() - 1)));
            }
            let written = wanted.iter().filter(|o| if early.contains(o) { phase[&graph.outputs[**o]] == p } else { p == most });
            results.extend(written.map(|&o| (graph.outputs[o], self.outputs[o])));
            round.stages.push(self.stage(&results, &given));
            for (id, source) in results {
                // What is known and what has been written is read from now on.
                if matches!(source, Source::Reduced(_)) || matches!(source, Source::Array(_)) && p < most {
                    given.insert(id, source);
                }
            }
        }
        round
    }

    /// New states that are written as soon as they are known, because sums are made of them and later passes need no longer what they overwrite.
    fn early(&self, wanted: &[usize], phase: &FxHashMap<NodeId, usize>, most: usize, sums: &dyn Fn(usize) -> Vec<NodeId>) -> Vec<usize> {
        let graph = &self.rolled.graph;
        let input = |source: Source| self.rolled.inputs.iter().position(|s| *s == source).map(|k| graph.inputs[k].node);
        let mut chosen: Vec<usize> = Vec::new();
        for &o in wanted {
            let node = graph.outputs[o];
            let whole = graph.ty(node).len() > 1 && !matches!(graph.node(node).op, Op::Input { .. });
            let twice = wanted.iter().filter(|&&other| graph.outputs[other] == node).count() > 1;
            if !whole || twice || phase[&node] >= most || input(self.outputs[o]).is_none() {
                continue;
            }
            let made = below(graph, &sums(phase[&node]), &FxHashMap::default());
            if made.contains(&node) {
                chosen.push(o);
            }
        }
        loop {
            let refused = chosen.iter().copied().find(|&o| {
                let at = phase[&graph.outputs[o]];
                let Some(old) = input(self.outputs[o]) else { return true };
                // What is known after that stage.
                let mut given: FxHashMap<NodeId, Source> = FxHashMap::default();
                given.extend((0..=at).flat_map(sums).map(|id| (id, Source::Nothing)));
                given.extend(chosen.iter().filter(|&&c| phase[&graph.outputs[c]] <= at).map(|&c| (graph.outputs[c], Source::Nothing)));
                let later = wanted.iter().filter(|w| !chosen.contains(w) || phase[&graph.outputs[**w]] > at).map(|&w| graph.outputs[w]);
                let later: Vec<NodeId> = later.chain((at + 1..most).flat_map(sums)).collect();
                below(graph, &later, &given).contains(&old)
            });
            match refused {
                Some(o) => chosen.retain(|&c| c != o),
                None => return chosen,
            }
        }
    }

    /// One stage: these nodes from the inputs and what is given.
    fn stage(&mut self, results: &[(NodeId, Source)], given: &FxHashMap<NodeId, Source>) -> Stage {
        let graph = &self.rolled.graph;
        let mut out = Graph::new();
        let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        let mut inputs: Vec<Source> = Vec::new();
        // What is a result here is made here.
        let given: FxHashMap<NodeId, Source> =
            given.iter().filter(|(id, s)| !results.iter().any(|r| r.0 == **id && r.1 == **s)).map(|(id, s)| (*id, *s)).collect();
        let nodes: Vec<NodeId> = results.iter().map(|r| r.0).collect();
        let needed = below(graph, &nodes, &given);
        let known: FxHashMap<NodeId, Source> = graph.inputs.iter().zip(&self.rolled.inputs).map(|(i, s)| (i.node, *s)).collect();
        for id in graph.ids().filter(|id| needed.contains(id)) {
            let node = graph.node(id);
            let made = match given.get(&id).or_else(|| known.get(&id)) {
                Some(source) => {
                    inputs.push(*source);
                    out.input(format!("{source:?}"), graph.ty(id).clone(), Origin::default())
                }
                None => {
                    let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
                    out.push(node.op.clone(), operands, node.ty.clone(), graph.origin(id))
                }
            };
            map.insert(id, made);
        }
        out.outputs = nodes.iter().map(|n| map[n]).collect();
        let outputs: Vec<Source> = results.iter().map(|r| r.1).collect();
        let place = |o: &Source| inputs.iter().position(|i| i == o);
        let arrays = outputs.iter().enumerate().filter(|(_, s)| matches!(s, Source::Array(_)));
        let alias = arrays.filter_map(|(k, s)| place(s).map(|i| (k, i))).collect();
        let partials = (0..outputs.len()).filter(|&k| matches!(outputs[k], Source::Reduced(_))).collect();
        let options = CompileOptions { alias, updates: true, partials, ..CompileOptions::default() };
        let planned = pipeline::plan(out, &options, &mut Timings::default()).planned;
        let kernels: Vec<optc_ir::kernel::Kernel> = planned.kernels.into_iter().map(|k| k.kernel).collect();
        let name = format!("{}.{}", self.name, self.found.len());
        self.found.push(Part { name, kernels: kernels.clone(), plan: planned.plan.clone() });
        Stage { plan: planned.plan, kernels, inputs, outputs }
    }
}

/// Whether all elements of an array are combined.
fn combines(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op, Op::Reduce { .. })
}
