//! The graph with some nodes made by other operations.

use super::{AttentionKind, Backward, Forward, Root, Seen};
use optc_abi::plan::Attention;
use optc_ir::ScalarOp;
use optc_ir::graph::{AttentionOp, Axes, Graph, NodeId, NodeTy, Op};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// An operand of a new operation.
#[derive(Clone, Debug)]
enum Operand {
    /// A node, its axes in the order of batch, rows and columns.
    Of(Seen),
    /// What a node is not.
    Not(Seen),
    /// The second result of an earlier operation.
    Statistics(usize),
}

impl Operand {
    fn node(&self) -> Option<NodeId> {
        match self {
            Operand::Of(seen) | Operand::Not(seen) => Some(seen.node),
            Operand::Statistics(_) => None,
        }
    }
}

/// A new operation.
#[derive(Clone, Debug)]
struct Made {
    op: AttentionOp,
    operands: Vec<Operand>,
}

/// New operations, and which nodes are their results.
#[derive(Clone, Debug, Default)]
pub(super) struct Rewrite {
    made: Vec<Made>,
    /// Operation, number of the result, and what that is multiplied by.
    roots: FxHashMap<NodeId, (usize, usize, f64)>,
}

/// A root whose only reader exchanges axes: that one, or the last of several, as long as columns then still lie together.
fn turned(g: &Graph, users: &[Vec<NodeId>], root: &Root) -> Root {
    let mut root = root.clone();
    loop {
        let readers = &users[root.node.index()];
        let Some(&reader) = readers.first().filter(|&first| readers.iter().all(|r| r == first)) else { return root };
        let Op::Permute { perm } = &g.node(reader).op else { return root };
        let next: Axes = perm.iter().map(|&p| root.order[p]).collect();
        let together = |o: &[usize]| o.last() == Some(&(o.len() - 1));
        if g.outputs.contains(&root.node) || (together(&root.order) && !together(&next)) {
            return root;
        }
        root = Root { node: reader, order: next };
    }
}

impl Rewrite {
    /// Adds attention and its derivatives.
    pub(super) fn add(&mut self, g: &Graph, users: &[Vec<NodeId>], f: &Forward, backward: &[Backward]) {
        let rank = f.what.batch.len() + 2;
        let plain: Axes = (0..rank).collect();
        let root = turned(g, users, &f.root);
        let mut operands: Vec<Operand> = [&f.scores.q, &f.scores.k, &f.v].into_iter().cloned().map(Operand::Of).collect();
        operands.extend(f.scores.mask.clone().map(|(mask, negated)| if negated { Operand::Not(mask) } else { Operand::Of(mask) }));
        operands.extend(f.scores.bias.clone().map(Operand::Of));
        let forward = self.made.len();
        self.roots.insert(root.node, (forward, 0, 1.0));
        let op = AttentionOp { what: f.what.clone(), turned: vec![root.order.clone(), plain.clone()] };
        self.made.push(Made { op, operands: operands.clone() });
        let back = |order: &Axes| (0..rank).map(|a| order.iter().position(|&o| o == a).expect("every axis is somewhere")).collect();
        let out = Operand::Of(Seen { node: root.node, axes: back(&root.order) });
        for b in backward {
            let mut orders = vec![plain.clone(); 3];
            for (which, root, factor) in &b.roots {
                let root = turned(g, users, root);
                // Of several that are the same result the first one says in which order it lies.
                let known = self.roots.values().any(|&(made, n, _)| made == self.made.len() && n == *which);
                if known && orders[*which] != root.order {
                    continue;
                }
                orders[*which] = root.order;
                let times = if *which == 2 { *factor } else { factor / f.scores.scale };
                let times = if (times - 1.0).abs() < 1e-6 { 1.0 } else { times };
                self.roots.insert(root.node, (self.made.len(), *which, times));
            }
            let what = Attention { kind: AttentionKind::Backward, ..f.what.clone() };
            let rest = [out.clone(), Operand::Statistics(forward), Operand::Of(b.d.clone())];
            let operands = operands.iter().cloned().chain(rest).collect();
            self.made.push(Made { op: AttentionOp { what, turned: orders }, operands });
        }
    }

    /// What a node is computed from.
    fn needs(&self, g: &Graph, n: NodeId) -> Vec<NodeId> {
        match self.roots.get(&n) {
            Some(&(made, ..)) => self.needs_of(made),
            None => g.node(n).operands.to_vec(),
        }
    }

    fn needs_of(&self, made: usize) -> Vec<NodeId> {
        let operands = &self.made[made].operands;
        let earlier = operands.iter().filter_map(|o| if let Operand::Statistics(m) = o { Some(*m) } else { None });
        operands.iter().filter_map(Operand::node).chain(earlier.flat_map(|m| self.needs_of(m))).collect()
    }

    /// For each node, whether an output depends on it then.
    pub(super) fn live(&self, g: &Graph) -> Vec<bool> {
        let mut live = vec![false; g.len()];
        let mut todo = g.outputs.clone();
        while let Some(n) = todo.pop() {
            if !std::mem::replace(&mut live[n.index()], true) {
                todo.extend(self.needs(g, n));
            }
        }
        live
    }
}

struct Rebuilding<'a> {
    old: &'a Graph,
    new: Graph,
    rewrite: &'a Rewrite,
    map: Vec<Option<NodeId>>,
    made: Vec<Option<NodeId>>,
    inner: &'a dyn Fn(&Arc<Graph>) -> Arc<Graph>,
}

/// The rewritten graph; sub-graphs are what `inner` makes of them. Nodes keep their order as far as that is possible.
pub(super) fn rebuild(old: &Graph, rewrite: &Rewrite, inner: &dyn Fn(&Arc<Graph>) -> Arc<Graph>) -> Graph {
    let live = rewrite.live(old);
    let (map, made) = (vec![None; old.len()], vec![None; rewrite.made.len()]);
    let mut b = Rebuilding { old, new: Graph::new(), rewrite, map, made, inner };
    for input in &old.inputs {
        b.map[input.node.index()] = Some(b.new.input(input.name.clone(), old.ty(input.node).clone(), old.origin(input.node)));
    }
    for n in old.ids().filter(|n| live[n.index()]) {
        // What a new operation needs may stand behind the node that it makes.
        let mut todo = vec![n];
        while let Some(&n) = todo.last() {
            let missing: Vec<NodeId> = b.rewrite.needs(old, n).into_iter().filter(|o| b.map[o.index()].is_none()).collect();
            if missing.is_empty() || b.map[n.index()].is_some() {
                todo.pop();
                b.node(n);
            } else {
                todo.extend(missing);
            }
        }
    }
    b.new.outputs = old.outputs.iter().map(|o| b.at(*o)).collect();
    b.new
}

impl Rebuilding<'_> {
    fn at(&self, n: NodeId) -> NodeId {
        self.map[n.index()].expect("compiler bug: a node before its operands")
    }

    fn node(&mut self, n: NodeId) {
        if self.map[n.index()].is_some() {
            return;
        }
        let origin = self.old.origin(n);
        let made = match self.rewrite.roots.get(&n) {
            Some(&(made, result, times)) => {
                let tuple = self.operation(made, n);
                let result = self.new.result(tuple, result, origin);
                if times == 1.0 {
                    result
                } else {
                    let ty = self.new.ty(result).clone();
                    let times = self.new.splat(&ty, times, origin);
                    self.new.map(ScalarOp::Mul, &[result, times], origin)
                }
            }
            None => {
                let node = self.old.node(n);
                let operands: Vec<NodeId> = node.operands.iter().map(|&o| self.at(o)).collect();
                let op = match &node.op {
                    Op::Loop(l) => Op::Loop(optc_ir::graph::LoopOp { body: (self.inner)(&l.body), ..l.clone() }),
                    Op::Cond { then, otherwise } => Op::Cond { then: (self.inner)(then), otherwise: (self.inner)(otherwise) },
                    op => op.clone(),
                };
                self.new.push(op, operands, node.ty.clone(), origin)
            }
        };
        self.map[n.index()] = Some(made);
    }

    /// The node of a new operation, which `root` is a result of.
    fn operation(&mut self, made: usize, root: NodeId) -> NodeId {
        if let Some(done) = self.made[made] {
            return done;
        }
        let origin = self.old.origin(root);
        let Made { op, operands } = &self.rewrite.made[made];
        let mut nodes = Vec::new();
        for operand in operands {
            let (seen, not) = match operand {
                Operand::Of(seen) => (seen, false),
                Operand::Not(seen) => (seen, true),
                Operand::Statistics(forward) => {
                    let forward = self.operation(*forward, root);
                    nodes.push(self.new.result(forward, 1, origin));
                    continue;
                }
            };
            let turned = self.new.permute(self.at(seen.node), &seen.axes, origin);
            nodes.push(if not { self.new.map(ScalarOp::Not, &[turned], origin) } else { turned });
        }
        let types: Vec<&NodeTy> = nodes.iter().map(|&n| &self.new.node(n).ty).collect();
        let op = Op::Attention(Arc::new(op.clone()));
        let ty = optc_ir::infer::infer(&op, &types, None).unwrap_or_else(|message| panic!("compiler bug: {message}"));
        let node = self.new.push(op, nodes, ty, origin);
        self.made[made] = Some(node);
        node
    }
}
