//! Values that depend on positions alone, read by updates of several leaves.
//!
//! A pattern over the elements of a block (the spread of its draws, a mask) is one node of the graph wherever leaves have equal shapes, though it lies in no memory and costs a few additions.
//! As one node it would tie the updates of all leaves together, into one kernel over unrelated arrays or, where that is too large, into none. So the updates of each leaf compute their own.

use crate::net::{N, Net, PNode};
use crate::rows::{Class, class, cost};
use optc_ir::Op;
use rustc_hash::FxHashMap;

/// Additions per element up to which each reader computes a pattern for itself.
const CHEAP: usize = 6;

/// Gives nodes that serve only the updates `aliased` copies of the patterns that others read too: one for all nodes that are tied by other arrays.
pub(crate) fn part(net: &mut Net, aliased: &[N]) {
    let count = net.nodes.len();
    let patterns = patterns(net);
    let pattern = |n: N| patterns[n].is_some_and(|additions| additions <= CHEAP);
    // Nodes that are no patterns and read one, directly or through patterns.
    let mut readers = vec![0usize; count];
    for n in (0..count).rev() {
        let more = if pattern(n) { readers[n] } else { 1 };
        net.nodes[n].operands.iter().for_each(|&o| readers[o] += more);
    }
    let shared = |n: N| pattern(n) && patterns[n] != Some(0) && readers[n] > 1;
    if !(0..count).any(shared) {
        return;
    }
    let serving = crate::by_rows::serving(net, aliased, &vec![false; count]);
    // What is tied by other arrays, by union-find; single numbers and the words of keys are no arrays.
    let array = |mut n: N| {
        while class(net, n) == Class::View && !net.nodes[n].operands.is_empty() {
            n = net.nodes[n].operands[0];
        }
        (!pattern(n) && net.len_of(n) > 1 && !matches!(net.nodes[n].op, Op::RandomFold { .. })).then_some(n)
    };
    let mut parent: Vec<usize> = (0..count).collect();
    for n in (0..count).filter(|&n| serving[n] && array(n) == Some(n)) {
        for o in net.nodes[n].operands.iter().filter_map(|&o| array(o)) {
            let (a, b) = (find(&mut parent, n), find(&mut parent, o));
            parent[a] = b;
        }
    }
    let old = std::mem::take(&mut net.nodes);
    let mut at = vec![usize::MAX; count];
    let mut copies: FxHashMap<usize, FxHashMap<N, N>> = FxHashMap::default();
    for n in 0..count {
        let mut node = old[n].clone();
        let own = serving[n] && !pattern(n);
        let copies = copies.entry(find(&mut parent, n)).or_default();
        for o in &mut node.operands {
            *o = if own && shared(*o) { copied(&old, &patterns, &mut net.nodes, copies, &at, *o) } else { at[*o] };
        }
        net.nodes.push(node);
        at[n] = net.nodes.len() - 1;
    }
    net.inputs.iter_mut().chain(&mut net.outputs).for_each(|n| *n = at[*n]);
    net.sweep();
}

fn find(parent: &mut [usize], mut n: usize) -> usize {
    while parent[n] != n {
        parent[n] = parent[parent[n]];
        n = parent[n];
    }
    n
}

/// For what depends on positions and literals alone: the additions of one element.
fn patterns(net: &Net) -> Vec<Option<usize>> {
    let mut found: Vec<Option<usize>> = Vec::with_capacity(net.nodes.len());
    for (n, node) in net.nodes.iter().enumerate() {
        let operands = || node.operands.iter().try_fold(0usize, |sum, &o| Some(sum.saturating_add(found[o]?)));
        found.push(match node.op {
            Op::Iota { .. } => Some(0),
            Op::Const(_) if class(net, n) == Class::View => Some(0),
            Op::Reshape | Op::Broadcast { .. } | Op::Permute { .. } | Op::Slice { .. } | Op::Flip { .. } => operands(),
            Op::Map(_) | Op::Cast | Op::Bitcast => operands().map(|below| below.saturating_add(cost(net, n))),
            _ => None,
        });
    }
    found
}

/// A copy of pattern `n` and of the patterns it is made of, behind `nodes`; literals and positions are no one's own.
fn copied(old: &[PNode], patterns: &[Option<usize>], nodes: &mut Vec<PNode>, copies: &mut FxHashMap<N, N>, at: &[usize], n: N) -> N {
    if patterns[n] == Some(0) {
        return at[n];
    }
    if let Some(&copy) = copies.get(&n) {
        return copy;
    }
    let mut node = old[n].clone();
    node.operands.iter_mut().for_each(|o| *o = copied(old, patterns, nodes, copies, at, *o));
    nodes.push(node);
    copies.insert(n, nodes.len() - 1);
    nodes.len() - 1
}
