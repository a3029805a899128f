//! Residuals: which values of a loop body or branch the linear part gets handed, and which it computes anew.
//!
//! The linear part of a body can read for nothing what the body itself is given (the counter, slices of scanned arrays,
//! invariants), but not what it carries. Everything else it uses is either computed anew, when that takes only cheap elementwise
//! work and movement of values at hand, or kept. A broadcast is never kept, its operand is; what does not change from pass to
//! pass is computed once, outside.

use super::cut::reach;
use optc_ir::ScalarOp;
use optc_ir::graph::{Graph, NodeId, Op};

/// How an input of a body reaches the linear part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// At hand in each pass, different from pass to pass.
    Varying,
    /// At hand, and the same in every pass.
    Invariant,
    /// Not at hand: must be kept.
    Carried,
}

/// The nodes at which the linear part is cut from the rest, ascending in each list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residuals {
    /// Inputs of the body that the linear part reads.
    pub free: Vec<NodeId>,
    /// Invariant values, to be computed outside.
    pub hoisted: Vec<NodeId>,
    /// Values to be kept.
    pub saved: Vec<NodeId>,
}

/// What may be done.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Whether invariant work may move out (a branch must not: it may not run at all).
    pub hoist: bool,
    /// Whether nothing can be kept, so that everything that does not depend on carried values is computed anew.
    pub keep_nothing: bool,
    /// Whether keeping costs more than any elementwise work.
    pub any_map: bool,
}

/// Chooses the residuals of the linear nodes that `roots` need. `access` tells of every input that is not linear.
pub fn choose(g: &Graph, linear: &[bool], roots: &[NodeId], access: impl Fn(usize) -> Access, policy: Policy) -> Residuals {
    let is_linear = |id: NodeId| linear[id.index()];
    let live = reach(g, roots, |id| !is_linear(id));
    let mut wanted: Vec<bool> = g.ids().map(|id| live[id.index()] && !is_linear(id)).collect();
    // A broadcast's operand is smaller than the broadcast.
    for id in g.ids().rev() {
        if wanted[id.index()] && matches!(g.node(id).op, Op::Broadcast { .. }) {
            wanted[id.index()] = false;
            wanted[g.node(id).operands[0].index()] = true;
        }
    }
    let mut worst: Vec<Access> = Vec::with_capacity(g.len());
    for id in g.ids() {
        let node = g.node(id);
        worst.push(match node.op {
            Op::Input { .. } if is_linear(id) => Access::Carried,
            Op::Input { index } => access(index as usize),
            _ => node.operands.iter().map(|o| worst[o.index()]).fold(Access::Invariant, worse),
        });
    }
    let mut hand = Hand { g, linear, worst: &worst, policy, saved: vec![false; g.len()], ready: vec![false; g.len()] };
    hand.update();
    for id in g.ids().filter(|id| wanted[id.index()]) {
        if !hand.ready[id.index()] {
            let pick = hand.source(id);
            hand.saved[pick.index()] = true;
            hand.update();
        }
    }
    // What was kept early may by now follow from what was kept later.
    for id in g.ids() {
        if hand.saved[id.index()] {
            hand.saved[id.index()] = false;
            hand.update();
            if g.ids().any(|id| wanted[id.index()] && !hand.ready[id.index()]) {
                hand.saved[id.index()] = true;
            }
        }
    }
    let saved = hand.saved;
    let hoists = |id: NodeId| {
        // A gather may fail, and would do so even if the loop made no pass.
        policy.hoist && !(policy.keep_nothing && fallible(g, id)) && worst[id.index()] == Access::Invariant && !trivial(g, id)
    };
    let stop = |id: NodeId| !is_linear(id) && (saved[id.index()] || hoists(id) || matches!(g.node(id).op, Op::Input { .. }));
    let live = reach(g, roots, stop);
    let mut out = Residuals::default();
    for id in g.ids().filter(|id| live[id.index()] && stop(*id)) {
        if saved[id.index()] {
            out.saved.push(id);
        } else if matches!(g.node(id).op, Op::Input { .. }) {
            out.free.push(id);
        } else {
            out.hoisted.push(id);
        }
    }
    out
}

/// What the linear part can get at, given what is kept.
struct Hand<'a> {
    g: &'a Graph,
    linear: &'a [bool],
    worst: &'a [Access],
    policy: Policy,
    saved: Vec<bool>,
    ready: Vec<bool>,
}

impl Hand<'_> {
    /// Computes `ready` anew.
    fn update(&mut self) {
        for id in self.g.ids() {
            let k = id.index();
            let node = self.g.node(id);
            let simple = || self.cheap(&node.op) && node.operands.iter().all(|o| self.ready[o.index()]);
            let ready = match self.worst[k] {
                _ if self.linear[k] => false,
                _ if self.saved[k] => true,
                Access::Invariant if self.policy.hoist => true,
                Access::Carried => simple(),
                _ => self.policy.keep_nothing || matches!(node.op, Op::Input { .. } | Op::Const(_) | Op::Iota { .. }) || simple(),
            };
            self.ready[k] = ready;
        }
    }

    fn cheap(&self, op: &Op) -> bool {
        cheap(op) || (self.policy.any_map && matches!(op, Op::Map(_)))
    }

    /// The value to keep for the sake of `id`: that from which it follows by cheap work, if there is just one and it is no
    /// larger. So the derivative `z (1 - z)` of a sigmoid keeps z, which other derivatives need too. Where any elementwise work is cheap and there are several, the
    /// earliest value that all of it goes through: of an activation of `x w + b` its argument.
    fn source(&self, id: NodeId) -> NodeId {
        let bytes = |id: NodeId| self.g.ty(id).len() * self.g.ty(id).dtype.size();
        let mut missing = vec![false; id.index() + 1];
        missing[id.index()] = true;
        let mut sources = Vec::new();
        // Values still to be looked at.
        let (mut open, mut neck) = (1, id);
        for k in self.g.ids().rev().filter(|k| k.index() <= id.index()) {
            if !missing[k.index()] {
                continue;
            }
            if open == 1 && sources.is_empty() && bytes(k) <= bytes(id) {
                neck = k;
            }
            open -= 1;
            if self.cheap(&self.g.node(k).op) {
                for o in self.g.node(k).operands.iter().filter(|o| !self.ready[o.index()]) {
                    open += usize::from(!std::mem::replace(&mut missing[o.index()], true));
                }
            } else {
                sources.push(k);
            }
        }
        match sources[..] {
            [one] if bytes(one) <= bytes(id) => one,
            _ if self.policy.any_map => neck,
            _ => id,
        }
    }
}

fn worse(a: Access, b: Access) -> Access {
    match (a, b) {
        (Access::Carried, _) | (_, Access::Carried) => Access::Carried,
        (Access::Varying, _) | (_, Access::Varying) => Access::Varying,
        _ => Access::Invariant,
    }
}

/// Work that costs less than a store and a load of its result.
fn cheap(op: &Op) -> bool {
    match op {
        Op::Map(s) => *s != ScalarOp::Fma && s.row().cost <= 2,
        Op::Cast | Op::Broadcast { .. } | Op::Reshape | Op::Permute { .. } | Op::Slice { .. } | Op::Flip { .. } | Op::StopGradient => true,
        _ => false,
    }
}

/// Whether a value is made from literals and inputs by movement alone, so that computing it outside saves nothing.
fn trivial(g: &Graph, id: NodeId) -> bool {
    let node = g.node(id);
    match node.op {
        Op::Const(_) | Op::Iota { .. } | Op::Input { .. } => true,
        Op::Broadcast { .. } => true,
        Op::Reshape | Op::Slice { .. } => trivial(g, node.operands[0]),
        _ => false,
    }
}

/// Whether a value's computation may report an index out of range.
fn fallible(g: &Graph, id: NodeId) -> bool {
    let cone = reach(g, &[id], |_| false);
    g.ids().any(|id| {
        cone[id.index()] && matches!(g.node(id).op, Op::Gather { .. } | Op::Scatter { .. } | Op::Loop(_) | Op::Cond { .. } | Op::Call(_))
    })
}
