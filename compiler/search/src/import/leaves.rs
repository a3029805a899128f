//! What an update takes from all leaves. An update is looked at with two leaves; what it does to the second must be what it does to the first, and a sum over leaves is a sum of two terms that differ in
//! the leaf alone.

use super::{Role, splat};
use optc_ir::graph::{NodeId, Op, ReduceOp};
use optc_ir::{Graph, ScalarOp};
use rustc_hash::{FxHashMap, FxHashSet};

/// Which leaves a value depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Depends {
    first: bool,
    second: bool,
}

/// The sums over leaves of an update.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// For the sum of two leaves' terms that of the first leaf.
    terms: FxHashMap<NodeId, NodeId>,
}

impl Sums {
    /// The term of the first leaf, if this is a sum over leaves.
    pub(super) fn term(&self, id: NodeId) -> Option<NodeId> {
        self.terms.get(&id).copied()
    }

    /// Finds them, those inside others first.
    pub(super) fn find(graph: &Graph, roles: &[Role]) -> Sums {
        let mut sums = Sums::default();
        let mut depends: FxHashMap<NodeId, Depends> = FxHashMap::default();
        for id in graph.ids() {
            let node = graph.node(id);
            let of = |x: &NodeId| depends.get(x).copied().unwrap_or_default();
            let mut all = Depends::default();
            for x in &node.operands {
                all = Depends { first: all.first || of(x).first, second: all.second || of(x).second };
            }
            if let Op::Input { index } = node.op {
                match &roles[index as usize] {
                    Role::Weight | Role::Gradient | Role::State(_) => all.first = true,
                    Role::Other(_) => all.second = true,
                    _ => {}
                }
            }
            if matches!(node.op, Op::Map(ScalarOp::Add)) && graph.ty(id).len() == 1 {
                let (a, b) = (node.operands[0], node.operands[1]);
                for (x, y) in [(a, b), (b, a)] {
                    let apart = of(&x) == Depends { first: true, second: false } && of(&y) == Depends { first: false, second: true };
                    if apart && (Mirror { graph, roles, sums: &sums }).same(x, y) {
                        sums.terms.insert(id, x);
                        all = Depends::default();
                    }
                }
            }
            depends.insert(id, all);
        }
        sums
    }
}

/// Compares what is done to two leaves.
pub(super) struct Mirror<'a> {
    pub(super) graph: &'a Graph,
    pub(super) roles: &'a [Role],
    pub(super) sums: &'a Sums,
}

impl Mirror<'_> {
    /// Whether `second` is to the second leaf what `first` is to the first, whatever their shapes.
    pub(super) fn same(&self, first: NodeId, second: NodeId) -> bool {
        let mut seen = FxHashSet::default();
        let mut open = vec![(first, second)];
        while let Some((a, b)) = open.pop() {
            if !seen.insert((a, b)) {
                continue;
            }
            let (x, y) = (self.graph.node(a), self.graph.node(b));
            let equal = match (&x.op, &y.op) {
                (Op::Input { index: i }, Op::Input { index: j }) => {
                    let (p, q) = (&self.roles[*i as usize], &self.roles[*j as usize]);
                    match q {
                        Role::Other(of) => **of == *p,
                        _ => i == j && !matches!(p, Role::Weight | Role::Gradient | Role::State(_)),
                    }
                }
                (Op::Const(p), Op::Const(q)) => match (splat(p), splat(q)) {
                    (Some(p), Some(q)) => p.to_bits() == q.to_bits(),
                    _ => a == b,
                },
                (Op::Map(p), Op::Map(q)) => p == q,
                (Op::Reduce { kind: p, axes: s }, Op::Reduce { kind: q, axes: t }) => p == q && s == t,
                (Op::Cast, Op::Cast) => self.graph.ty(a).dtype == self.graph.ty(b).dtype,
                (Op::Reshape, Op::Reshape)
                | (Op::Broadcast { .. }, Op::Broadcast { .. })
                | (Op::Slice { .. }, Op::Slice { .. })
                | (Op::Permute { .. }, Op::Permute { .. })
                | (Op::StopGradient, Op::StopGradient) => true,
                _ => a == b,
            };
            if !equal || x.operands.len() != y.operands.len() {
                return false;
            }
            // A sum over leaves is one for both.
            if a == b && self.sums.term(a).is_some() {
                continue;
            }
            open.extend(x.operands.iter().copied().zip(y.operands.iter().copied()));
        }
        true
    }
}

/// The operands of a product that is summed over a leaf.
fn summed_product(graph: &Graph, sum: NodeId) -> Option<(NodeId, NodeId)> {
    let node = graph.node(sum);
    let Op::Reduce { kind: ReduceOp::Sum, .. } = node.op else { return None };
    let product = graph.node(node.operands[0]);
    matches!(product.op, Op::Map(ScalarOp::Mul)).then(|| (product.operands[0], product.operands[1]))
}

/// A norm or product that several nodes make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Norm(NodeId),
    GlobalNorm(NodeId),
    Dot(NodeId, NodeId),
}

/// What a node is where it is looked at with those it is made of.
pub(super) fn whole(graph: &Graph, sums: &Sums, id: NodeId) -> Option<Whole> {
    let node = graph.node(id);
    if let Some(term) = sums.term(id) {
        return summed_product(graph, term).map(|(x, y)| Whole::Dot(x, y));
    }
    if !matches!(node.op, Op::Map(ScalarOp::Sqrt)) {
        return None;
    }
    let under = node.operands[0];
    match sums.term(under) {
        Some(term) => summed_product(graph, term).filter(|(x, y)| x == y).map(|(x, _)| Whole::GlobalNorm(x)),
        None => summed_product(graph, under).filter(|(x, y)| x == y).map(|(x, _)| Whole::Norm(x)),
    }
}
