//! Values that several loops of a kernel need: where computing them again costs more, they are kept in memory.

use crate::emit::{Slot, value_type};
use crate::group::Grouping;
use crate::net::{N, Net};
use crate::rows::{Class, cost};
use crate::stage::{Kind, LoopKey, Stage, assign_phases};
use optc_abi::DType;
use optc_ir::{Op, ScalarOp};
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;

/// Additions from which a value is stored and loaded rather than computed twice.
const COSTLY: usize = 8;
/// How often the loops of a kernel may compute its values, on average, before some are kept.
const TIMES: usize = 4;
/// Additions per element, from what is in memory, up to which a value is computed again even then.
const WORTH: usize = 24;

/// Keeps values in memory of this kernel's own if its loops would compute the same ones many times over: the gradients of parameters deep in a chain of elementwise operations each need
/// all values of the chain before. So the size of a kernel grows with its members and not with their square.
pub(crate) fn keep_repeated(
    net: &Net,
    grouping: &Grouping,
    group: usize,
    rows: usize,
    scratch: &mut Vec<(DType, usize)>,
    stages: &mut Vec<Stage>,
) {
    let mut loops: BTreeMap<LoopKey, FxHashSet<N>> = BTreeMap::new();
    for (position, stage) in stages.iter().enumerate() {
        loops.entry(stage.loop_key(position)).or_default().extend(stage.inline.iter().chain(&stage.elsewhere));
    }
    let mut uses: BTreeMap<N, usize> = BTreeMap::new();
    loops.values().flatten().for_each(|&m| *uses.entry(m).or_default() += 1);
    let once: usize = uses.keys().map(|&m| 1 + cost(net, m)).sum();
    let spent: usize = uses.iter().map(|(&m, &times)| times * (1 + cost(net, m))).sum();
    if spent <= TIMES * once {
        return;
    }
    let mut at_hand: FxHashSet<N> = stages.iter().map(|s| s.node).collect();
    for (&m, &times) in &uses {
        let len = net.len_of(m);
        if times > 1 && grouping.group_of[m] == Some(group) && len.is_multiple_of(rows) && weighs(net, grouping, &at_hand, m, WORTH) {
            at_hand.insert(m);
            stages.push(Stage::new(net, m, Slot::Scratch(scratch.len())));
            scratch.push((value_type(net.nodes[m].ty.dtype), len));
        }
    }
    stages.sort_by_key(|s| s.node);
    assign_phases(net, grouping, group, rows, stages);
}

/// Additions from which a value is kept for a later loop of the same row: storing and loading it there costs about two.
const ROW_WORTH: usize = 6;
/// Bytes of all local arrays of a kernel: half of the nearest cache.
const ROW_BYTES: usize = 16 << 10;

/// Keeps rows of values that a later loop of the row needs again in local arrays, which stay in the nearest cache: a block's new values while their largest magnitude is looked for.
/// Then results that need nothing but these and what no other stage reads are computed in the last loop, where they mix with other work.
pub(crate) fn keep_rows(net: &Net, grouping: &Grouping, group: usize, rows: usize, stages: &mut Vec<Stage>) {
    let elementwise = |s: &Stage| matches!(s.kind, Kind::Store | Kind::Total(_));
    let Some(space) = stages.iter().filter(|s| elementwise(s)).map(|s| s.space).max() else { return };
    let mut phases: BTreeMap<N, Vec<usize>> = BTreeMap::new();
    for stage in stages.iter().filter(|s| elementwise(s) && s.space == space) {
        for &m in stage.inline.iter().filter(|&&m| net.len_of(m) == space) {
            let list = phases.entry(m).or_default();
            if !list.contains(&stage.phase) {
                list.push(stage.phase);
            }
        }
    }
    phases.retain(|m, list| list.len() > 1 && !stages.iter().any(|s| s.elsewhere.contains(m)));
    // What a later loop asks for itself, not on the way to another value it shares.
    let mut asked: FxHashSet<N> = FxHashSet::default();
    for stage in stages.iter().filter(|s| elementwise(s) && s.space == space) {
        let own = |u: &&N| phases.get(*u).is_none_or(|list| list.iter().all(|&p| p >= stage.phase));
        for &user in stage.inline.iter().chain([&stage.node]).filter(own) {
            let sources = net.nodes[user].operands.iter().map(|&o| source(net, grouping, o));
            asked.extend(sources.filter(|o| phases.get(o).is_some_and(|list| list.iter().any(|&p| p < stage.phase))));
        }
    }
    let mut at_hand: FxHashSet<N> = stages.iter().map(|s| s.node).collect();
    let mut bytes = 0;
    let mut added = false;
    for &m in phases.keys().filter(|m| asked.contains(m)) {
        let ty = &net.nodes[m].ty;
        let size = space / rows * ty.dtype.size();
        if value_type(ty.dtype) == ty.dtype
            && ty.dtype.size() == 4
            && bytes + size <= ROW_BYTES
            && weighs(net, grouping, &at_hand, m, ROW_WORTH)
        {
            bytes += size;
            at_hand.insert(m);
            stages.push(Stage::new(net, m, Slot::Row(m)));
            added = true;
        }
    }
    if added {
        stages.sort_by_key(|s| s.node);
        assign_phases(net, grouping, group, rows, stages);
        delay(net, grouping, space, stages);
        if let Some(m) = quotient(net, grouping, space, stages).filter(|_| bytes + space / rows * 4 <= ROW_BYTES) {
            stages.push(Stage::new(net, m, Slot::Row(m)));
            stages.sort_by_key(|s| s.node);
            assign_phases(net, grouping, group, rows, stages);
            delay(net, grouping, space, stages);
        }
    }
}

/// Whether a node occupies the unit that divides, of which a core has one.
fn divides(net: &Net, n: N) -> bool {
    matches!(net.nodes[n].op, Op::Map(ScalarOp::Div | ScalarOp::Sqrt | ScalarOp::Rsqrt))
}

/// Where the last loop of a row divides and takes roots, and no earlier one does: one of these, of kept rows alone, which an earlier loop may compute beside its other work.
fn quotient(net: &Net, grouping: &Grouping, space: usize, stages: &[Stage]) -> Option<N> {
    let last = stages.iter().filter(|s| s.kind == Kind::Store && s.space == space).map(|s| s.phase).max()?;
    let here = |n: N| divides(net, n) && net.len_of(n) == space;
    let (late, early): (Vec<&Stage>, Vec<&Stage>) = stages.iter().filter(|s| s.space == space).partition(|s| s.phase == last);
    let of = |stages: &[&Stage]| -> Vec<N> {
        let mut found: Vec<N> = stages.iter().flat_map(|s| s.inline.iter().chain([&s.node])).copied().filter(|&n| here(n)).collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let (found, taken) = (of(&late), of(&early));
    if last == 0 || found.len() < 2 || !taken.is_empty() {
        return None;
    }
    let kept: FxHashSet<N> = stages.iter().filter(|s| matches!(s.slot, Slot::Row(_)) && s.phase < last).map(|s| s.node).collect();
    let ready = |n: N| {
        let (mut todo, mut rows) = (vec![n], 0);
        while let Some(n) = todo.pop() {
            for &o in &net.nodes[n].operands {
                let o = source(net, grouping, o);
                if kept.contains(&o) {
                    rows += 1;
                } else if net.splat_value(o).is_some() || (net.len_of(o) == 1 && grouping.class[o] == Class::Leaf) {
                } else if matches!(grouping.class[o], Class::Elem | Class::View) && stages.iter().all(|s| s.node != o) {
                    todo.push(o);
                } else {
                    return false;
                }
            }
        }
        rows > 0
    };
    found.into_iter().find(|&n| value_type(net.nodes[n].ty.dtype).size() == 4 && grouping.class[n] == Class::Elem && ready(n))
}

/// The node whose elements, in other shapes or read as other types, these are.
fn source(net: &Net, grouping: &Grouping, n: N) -> N {
    let mut at = n;
    while matches!(net.nodes[at].op, Op::Reshape) || (net.nodes[at].op == Op::Bitcast && grouping.class[at] == Class::Elem) {
        at = net.nodes[at].operands[0];
    }
    at
}

/// Moves stores that nothing waits for into the last loop, where all they need is at hand there and no other stage of their loop needs any of it.
fn delay(net: &Net, grouping: &Grouping, space: usize, stages: &mut [Stage]) {
    let last = stages.iter().filter(|s| s.kind == Kind::Store && s.space == space).map(|s| s.phase).max().unwrap_or(0);
    let rows: FxHashSet<N> = stages.iter().filter(|s| matches!(s.slot, Slot::Row(_))).map(|s| s.node).collect();
    let needs = |s: &Stage| -> FxHashSet<N> {
        let operands = s.inline.iter().chain([&s.node]).flat_map(|&u| net.nodes[u].operands.iter());
        operands.map(|&o| source(net, grouping, o)).filter(|&o| net.len_of(o) == space && net.splat_value(o).is_none()).collect()
    };
    let all: Vec<FxHashSet<N>> = stages.iter().map(needs).collect();
    for i in 0..stages.len() {
        let s = &stages[i];
        let alone = |o: N| !stages.iter().zip(&all).any(|(t, needs)| t.node != s.node && t.phase == s.phase && needs.contains(&o));
        let movable = s.kind == Kind::Store
            && s.slot == Slot::Node(s.node)
            && s.space == space
            && s.phase < last
            && s.elsewhere.is_empty()
            && all[i].iter().any(|o| rows.contains(o))
            && all[i].iter().all(|&o| rows.contains(&o) || alone(o))
            && !stages.iter().any(|t| t.node != s.node && t.after.contains(&s.node));
        if movable {
            stages[i].phase = last;
        }
    }
}

/// Whether computing a member from what is at hand takes more than `worth`.
fn weighs(net: &Net, grouping: &Grouping, at_hand: &FxHashSet<N>, m: N, worth: usize) -> bool {
    let mut total = 0;
    let mut seen: FxHashSet<N> = FxHashSet::default();
    let mut todo = vec![m];
    while let Some(n) = todo.pop() {
        if !seen.insert(n) || (n != m && at_hand.contains(&n)) {
            continue;
        }
        match grouping.class[n] {
            Class::Leaf | Class::Apart => continue,
            Class::View => {}
            _ if n != m && grouping.group_of[n] != grouping.group_of[m] && grouping.stored[n] => continue,
            _ => total += 1 + cost(net, n),
        }
        if total > worth {
            return true;
        }
        todo.extend(&net.nodes[n].operands);
    }
    false
}

/// An expensive value that several phases of a row need is stored in the memory of a result that is written last, and loaded from there
/// until then. So the exponentials of a softmax are computed once.
pub(crate) fn hold(net: &Net, grouping: &Grouping, group: usize, rows: usize, stages: &mut Vec<Stage>) {
    let mut phases: BTreeMap<N, Vec<usize>> = BTreeMap::new();
    for stage in stages.iter() {
        for &m in stage.inline.iter().filter(|&&m| cost(net, m) >= COSTLY && net.len_of(m) == stage.space) {
            let list = phases.entry(m).or_default();
            if !list.contains(&stage.phase) {
                list.push(stage.phase);
            }
        }
    }
    let mut holders: Vec<N> = Vec::new();
    let mut added = false;
    for (m, list) in phases {
        let last = list.iter().copied().max().unwrap_or(0);
        if list.len() < 2 || stages.iter().any(|s| s.elsewhere.contains(&m)) {
            continue;
        }
        let (ty, space) = (&net.nodes[m].ty, net.len_of(m));
        let fits = |s: &&Stage| {
            let same = s.space == space && net.nodes[s.node].ty.dtype == ty.dtype && value_type(ty.dtype) == ty.dtype;
            s.kind == Kind::Store && s.slot == Slot::Node(s.node) && s.phase == last && same && !holders.contains(&s.node)
        };
        if let Some(holder) = stages.iter().find(fits).map(|s| s.node) {
            holders.push(holder);
            stages.push(Stage::new(net, m, Slot::Node(holder)));
            added = true;
        }
    }
    if added {
        stages.sort_by_key(|s| s.node);
        assign_phases(net, grouping, group, rows, stages);
    }
}
