//! The order of units of work, and which of them write where.

use crate::block::Settled;
use crate::net::{N, Net};
use crate::store::Store;
use optc_abi::plan::{BufRef, Instr, LibOp, Place};
use optc_ir::Op;
use rustc_hash::{FxHashMap, FxHashSet};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A node a unit reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub node: N,
    /// Which argument set of the unit.
    pub call: usize,
    /// Only at the element that is written in the same pass.
    pub aligned: bool,
    /// Time of the last read.
    pub last: usize,
}

/// A node a unit writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub node: N,
    pub call: usize,
    /// Time of the first write.
    pub first: usize,
}

/// Instructions that run together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unit {
    pub code: Vec<Instr>,
    pub reads: Vec<Read>,
    pub writes: Vec<Write>,
    /// Position in the original program.
    pub key: usize,
    /// A flat kernel, which may be one of several argument sets.
    pub flat: bool,
    /// A kernel so small that it should run together with others of that kind.
    pub small: bool,
    /// Brings an array back into memory.
    pub comes_back: bool,
    /// What a conditional, the last instruction, changes in place if the results get the memory of these inputs.
    pub in_place: Vec<InPlace>,
}

/// A result of a conditional in the memory of what it replaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InPlace {
    /// The result.
    pub node: N,
    /// The node that decides.
    pub pred: N,
    /// Whether each branch, the one for true first, makes another value of it.
    pub changed: [bool; 2],
}

/// An output that must be finite.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    pub node: N,
    pub guard: Instr,
    /// Tells whether it is not, and where: for what must be undone then.
    pub failed: Option<(Instr, BufRef)>,
}

impl Unit {
    pub fn new(key: usize) -> Unit {
        Unit { key, ..Unit::default() }
    }
    /// Whether functions outside of the plan are called: any of them may end it.
    fn calls_back(&self) -> bool {
        calls_back(&self.code)
    }
}

fn calls_back(code: &[Instr]) -> bool {
    code.iter().any(|instr| match instr {
        Instr::Lib { op: LibOp::Callback { .. }, .. } => true,
        Instr::Loop { body, .. } => calls_back(body),
        Instr::Cond { then, otherwise, .. } => calls_back(then) || calls_back(otherwise),
        _ => false,
    })
}

/// An output written to its place by the unit that computes it.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub node: N,
    pub unit: usize,
    /// The input whose memory is overwritten.
    pub input: Option<N>,
    pub memory: BufRef,
    pub bytes: usize,
}

/// Whether memory is an input of the plan, not of a loop or a branch in it.
fn belongs_to_caller(store: &Store, memory: &BufRef) -> bool {
    matches!(store.buffers[store.resolve(memory).buffer].place, Some(Place::Input(_)))
}

/// Dependencies between units through nodes, without repetition.
fn data_edges(net: &Net, units: &[Unit]) -> Vec<Vec<usize>> {
    let mut producer = vec![usize::MAX; net.nodes.len()];
    for (u, unit) in units.iter().enumerate() {
        unit.writes.iter().for_each(|w| producer[w.node] = u);
    }
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); units.len()];
    let mut marked = vec![usize::MAX; units.len()];
    for (u, unit) in units.iter().enumerate() {
        for read in &unit.reads {
            let p = producer[read.node];
            if p != usize::MAX && p != u && marked[p] != u {
                marked[p] = u;
                next[p].push(u);
            }
        }
    }
    next
}

/// Unites flat kernels of one code that stand equally far from the end, so that none depends on another: one instruction with several
/// argument sets.
fn unite(net: &Net, units: Vec<Unit>, claims: &mut [Claim]) -> Vec<Unit> {
    let next = data_edges(net, &units);
    let mut height = vec![0usize; units.len()];
    let large: FxHashSet<usize> = claims.iter().filter(|c| c.input.is_some() && c.bytes >= EARLY).map(|c| c.unit).collect();
    for &u in topological(&next).iter().rev() {
        height[u] = next[u].iter().map(|&v| height[v] + 1).max().unwrap_or(0);
    }
    let mut first: FxHashMap<(usize, usize), usize> = FxHashMap::default();
    let mut out: Vec<Unit> = Vec::new();
    let mut moved = vec![0; units.len()];
    for (u, unit) in units.into_iter().enumerate() {
        let kernel = match (&unit.code[..], unit.flat) {
            ([Instr::Kernel { kernel, .. }], true) if !large.contains(&u) => Some(*kernel),
            _ => None,
        };
        let same = kernel.and_then(|k| first.get(&(k, height[u])).copied());
        let Some(target) = same else {
            if let Some(k) = kernel {
                first.insert((k, height[u]), out.len());
            }
            moved[u] = out.len();
            out.push(unit);
            continue;
        };
        moved[u] = target;
        let into = &mut out[target];
        let call = into.writes.iter().map(|w| w.call + 1).max().unwrap_or(1);
        into.reads.extend(unit.reads.iter().map(|r| Read { call, ..*r }));
        into.writes.extend(unit.writes.iter().map(|w| Write { call, ..*w }));
        into.key = into.key.max(unit.key);
        into.small = false;
        if let (Instr::Kernel { calls, .. }, Some(Instr::Kernel { calls: more, .. })) = (&mut into.code[0], unit.code.into_iter().next()) {
            calls.extend(more);
        }
    }
    claims.iter_mut().for_each(|c| c.unit = moved[c.unit]);
    out
}

/// Bytes of an update from which it runs as soon as it can, on its own: the gradient it uses then needs no memory any more.
const EARLY: usize = 1 << 20;

/// Arrays come back into memory just before they are needed, and what is made of them alone waits for what else that meets.
fn bring_back_late(net: &Net, units: &mut [Unit]) {
    if !units.iter().any(|u| u.comes_back) {
        return;
    }
    let next = data_edges(net, units);
    let order = topological(&next);
    let (mut alone, mut depends, mut on_others) = (vec![false; units.len()], vec![false; units.len()], vec![false; units.len()]);
    for &u in &order {
        alone[u] = units[u].comes_back || (depends[u] && !on_others[u]);
        for &v in &next[u] {
            depends[v] = true;
            on_others[v] |= !alone[u];
        }
    }
    for &u in order.iter().rev().filter(|&&u| alone[u]) {
        let wanted = next[u].iter().map(|&v| units[v].key).min();
        units[u].key = units[u].key.max(wanted.unwrap_or(0));
    }
}

/// Whether a unit does not need some other one of weight, so that it may run before that.
fn outruns(units: &[Unit], data: &[Vec<usize>], u: usize) -> bool {
    let mut needed = vec![false; data.len()];
    needed[u] = true;
    for v in topological(data).into_iter().rev() {
        needed[v] |= data[v].iter().any(|&w| needed[w]);
    }
    (0..units.len()).any(|v| !needed[v] && !units[v].small && units[v].key < units[u].key)
}

/// Lets large updates follow the last of what they wait for: so do the guards, and the small kernels that either needs.
fn hurry(net: &Net, units: &mut [Unit], next: &[Vec<(usize, usize)>], early: &[bool], first_guard: usize) {
    let data = data_edges(net, units);
    let order = topological(&data);
    let mut before: Vec<bool> = (0..units.len()).map(|u| early[u] || u >= first_guard).collect();
    for &u in order.iter().rev() {
        before[u] |= data[u].iter().any(|&v| before[v]);
    }
    let mut last = vec![0usize; units.len()];
    for &u in &order {
        if before[u] && !early[u] && (units[u].small || u >= first_guard) {
            units[u].key = units[u].key.min(last[u]);
            units[u].small = false;
        }
        let key = units[u].key;
        data[u].iter().for_each(|&v| last[v] = last[v].max(key));
    }
    let mut last = vec![0usize; units.len()];
    for (u, list) in next.iter().enumerate().filter(|(u, _)| !early[*u]) {
        list.iter().for_each(|&(v, _)| last[v] = last[v].max(units[u].key));
    }
    (0..units.len()).filter(|&u| early[u]).for_each(|u| units[u].key = last[u]);
}

/// Units in an order in which each comes after what it depends on.
fn topological(next: &[Vec<usize>]) -> Vec<usize> {
    let mut degree = vec![0usize; next.len()];
    next.iter().flatten().for_each(|&v| degree[v] += 1);
    let mut todo: Vec<usize> = (0..next.len()).filter(|&u| degree[u] == 0).collect();
    let mut at = 0;
    while at < todo.len() {
        for &v in &next[todo[at]] {
            degree[v] -= 1;
            if degree[v] == 0 {
                todo.push(v);
            }
        }
        at += 1;
    }
    assert!(todo.len() == next.len(), "compiler bug: kernels that wait for each other");
    todo
}

/// Units that can run now. Small kernels wait until nothing else can run, and then run in a row, so that few remain after joining.
#[derive(Default)]
struct Ready {
    small: BinaryHeap<Reverse<(usize, usize)>>,
    other: BinaryHeap<Reverse<(usize, usize)>>,
    after_small: bool,
}

impl Ready {
    fn push(&mut self, unit: &Unit, u: usize) {
        if unit.small { &mut self.small } else { &mut self.other }.push(Reverse((unit.key, u)));
    }

    fn pop(&mut self) -> Option<usize> {
        self.after_small = if self.after_small { !self.small.is_empty() } else { self.other.is_empty() };
        let heap = if self.after_small { &mut self.small } else { &mut self.other };
        heap.pop().map(|Reverse((_, u))| u)
    }
}

/// Orders the units; returns their instructions and the copies left for the end. Forwards the memory of results.
pub(crate) fn order(
    store: &mut Store,
    net: &Net,
    units: Vec<Unit>,
    settled: Settled,
    places: &[Option<BufRef>],
) -> (Vec<Instr>, Vec<Instr>) {
    let Settled { mut claims, mut copies, guards } = settled;
    let mut units = unite(net, units, &mut claims);
    // Argument sets of one instruction run in any order: none may overwrite what another reads.
    let mut readers: FxHashMap<N, Vec<(usize, usize)>> = FxHashMap::default();
    for claim in &claims {
        if let Some(input) = claim.input {
            readers.entry(input).or_default();
        }
    }
    for (u, unit) in units.iter().enumerate() {
        for read in &unit.reads {
            if let Some(list) = readers.get_mut(&read.node) {
                list.push((u, read.call));
            }
        }
    }
    let calling: Vec<bool> = units.iter().map(Unit::calls_back).collect();
    let place = |n: N| places[n].clone().expect("compiler bug: an output without memory");
    let give_up = |claim: &Claim, copies: &mut Vec<Instr>| {
        copies.push(Instr::Copy { src: place(claim.node), dst: claim.memory.clone(), bytes: claim.bytes });
    };
    claims.retain(|claim| {
        let Some(input) = claim.input else { return true };
        let unit = &units[claim.unit];
        let call = unit.writes.iter().find(|w| w.node == claim.node).map_or(0, |w| w.call);
        // What ends with a failed callback must not have changed the caller's arrays.
        let keeps = !calling[claim.unit] || !belongs_to_caller(store, &claim.memory);
        let clear = keeps && readers[&input].iter().all(|&(u, c)| u != claim.unit || c == call);
        if !clear {
            give_up(claim, &mut copies);
        }
        clear
    });
    bring_back_late(net, &mut units);
    // Results that only overwrite inputs wait until the rest is done, unless they are large: then what they are made of had better go.
    let mut early = vec![false; units.len()];
    for claim in claims.iter().filter(|c| c.input.is_some()) {
        early[claim.unit] |= claim.bytes >= EARLY;
    }
    let first_guard = units.len();
    for guarded in &guards {
        let mut unit = Unit::new(net.nodes.len());
        unit.reads.push(Read { node: guarded.node, call: 0, aligned: false, last: 0 });
        units.push(unit);
    }
    let undone = undo(store, net, &mut units, &claims, places, &guards, first_guard);
    let mut next: Vec<Vec<(usize, usize)>> =
        data_edges(net, &units).into_iter().map(|list| list.into_iter().map(|v| (v, usize::MAX)).collect()).collect();
    for (c, claim) in claims.iter().enumerate() {
        let Some(input) = claim.input else { continue };
        let mut before: Vec<usize> = readers[&input].iter().map(|&(u, _)| u).filter(|&u| u != claim.unit).collect();
        before.extend((first_guard..units.len()).filter(|g| !undone.contains(&(claim.unit, *g))));
        if belongs_to_caller(store, &claim.memory) {
            before.extend((0..first_guard).filter(|&u| calling[u]));
        }
        before.sort_unstable();
        before.dedup();
        before.into_iter().for_each(|u| next[u].push((claim.unit, c)));
    }
    let mut degree = vec![0usize; units.len()];
    next.iter().flatten().for_each(|&(v, _)| degree[v] += 1);
    early.resize(units.len(), false);
    if early.contains(&true) {
        let data = data_edges(net, &units);
        early = (0..units.len()).map(|u| early[u] && outruns(&units[..first_guard], &data, u)).collect();
    }
    for claim in claims.iter().filter(|c| c.input.is_some() && !early[c.unit]) {
        let unit = &mut units[claim.unit];
        unit.key = unit.key.max(net.nodes.len() + claim.node);
    }
    if early.contains(&true) {
        hurry(net, &mut units, &next, &early, first_guard);
    }
    let mut ready = Ready::default();
    (0..units.len()).filter(|&u| degree[u] == 0).for_each(|u| ready.push(&units[u], u));
    let mut given_up = vec![false; claims.len()];
    let mut done = vec![false; units.len()];
    let mut sequence = Vec::with_capacity(units.len());
    while sequence.len() < units.len() {
        let Some(u) = ready.pop() else {
            // Units wait for each other because of memory: one result gets memory of its own and is copied at the end.
            let c = ring(&next, &done, &given_up)
                .into_iter()
                .min_by_key(|&c| (claims[c].bytes, c))
                .unwrap_or_else(|| panic!("compiler bug: kernels that wait for each other"));
            given_up[c] = true;
            give_up(&claims[c], &mut copies);
            for u in (0..units.len()).filter(|&u| !done[u]) {
                for &(v, label) in &next[u] {
                    if label == c {
                        degree[v] -= 1;
                        if degree[v] == 0 {
                            ready.push(&units[v], v);
                        }
                    }
                }
            }
            continue;
        };
        done[u] = true;
        sequence.push(u);
        for &(v, label) in &next[u] {
            if label != usize::MAX && given_up[label] {
                continue;
            }
            degree[v] -= 1;
            if degree[v] == 0 {
                ready.push(&units[v], v);
            }
        }
    }
    for (claim, gone) in claims.iter().zip(&given_up) {
        if !gone {
            let own = place(claim.node);
            store.buffers[own.buffer].forward = Some(claim.memory.clone());
        }
    }
    reuse(store, net, &units, &sequence, places);
    let mut code = Vec::new();
    for u in sequence {
        code.append(&mut units[u].code);
    }
    (code, copies)
}

/// Lets conditionals that guards depend on change their arrays in place all the same: a branch that does saves the old values first, and a guard that fails brings
/// them back. Gives the units that thereby need not wait for which guards.
fn undo(
    store: &mut Store,
    net: &Net,
    units: &mut [Unit],
    claims: &[Claim],
    places: &[Option<BufRef>],
    guards: &[Guarded],
    first_guard: usize,
) -> FxHashSet<(usize, usize)> {
    let mut free = FxHashSet::default();
    let next = data_edges(net, units);
    let mut back: Vec<Vec<Instr>> = vec![Vec::new(); guards.len()];
    for u in 0..first_guard {
        if units[u].in_place.is_empty() {
            continue;
        }
        let mut seen = vec![false; units.len()];
        let mut todo = vec![u];
        while let Some(v) = todo.pop() {
            todo.extend(next[v].iter().copied().filter(|&w| !std::mem::replace(&mut seen[w], true)));
        }
        let reached: Vec<usize> = (first_guard..units.len()).filter(|&g| seen[g]).collect();
        let own: Vec<&Claim> = claims.iter().filter(|c| c.unit == u && c.input.is_some()).collect();
        if reached.is_empty() || own.is_empty() || reached.iter().any(|&g| guards[g - first_guard].failed.is_none()) {
            continue;
        }
        let pred = units[u].in_place[0].pred;
        let (mut save, mut restore) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for claim in own {
            let Some(changed) = units[u].in_place.iter().find(|p| p.node == claim.node).map(|p| p.changed) else { continue };
            let ty = &net.nodes[claim.node].ty;
            let saved = BufRef::whole(store.temporary(ty.dtype, ty.len(), None));
            for side in (0..2).filter(|&side| changed[side]) {
                save[side].push(Instr::Copy { src: claim.memory.clone(), dst: saved.clone(), bytes: claim.bytes });
                restore[side].push(Instr::Copy { src: saved.clone(), dst: claim.memory.clone(), bytes: claim.bytes });
            }
        }
        let Some(Instr::Cond { then, otherwise, .. }) = units[u].code.last_mut() else {
            panic!("compiler bug: no conditional that changes arrays in place")
        };
        for (code, save) in [then, otherwise].into_iter().zip(save) {
            code.splice(0..0, save);
        }
        let [then, otherwise] = restore;
        let place = places[net.strip(pred)].clone().expect("compiler bug: a condition without memory");
        for g in reached {
            units[g].reads.push(Read { node: net.strip(pred), call: 0, aligned: false, last: 0 });
            back[g - first_guard].push(Instr::Cond { pred: place.clone(), then: then.clone(), otherwise: otherwise.clone() });
            free.insert((u, g));
        }
    }
    for ((unit, guarded), back) in units[first_guard..].iter_mut().zip(guards).zip(back) {
        if let Some((test, failed)) = guarded.failed.as_ref().filter(|_| !back.is_empty()) {
            unit.code.push(test.clone());
            unit.code.push(Instr::Cond { pred: failed.clone(), then: back, otherwise: Vec::new() });
        }
        unit.code.push(guarded.guard.clone());
    }
    free
}

/// The claims that make units of some ring wait for each other, where no unit can run.
fn ring(next: &[Vec<(usize, usize)>], done: &[bool], given_up: &[bool]) -> Vec<usize> {
    // For each unit one that it waits for, and the claim because of which it does.
    let mut before: Vec<Option<(usize, usize)>> = vec![None; next.len()];
    for (u, list) in next.iter().enumerate().filter(|(u, _)| !done[*u]) {
        for &(v, label) in list.iter().filter(|(_, label)| *label == usize::MAX || !given_up[*label]) {
            before[v].get_or_insert((u, label));
        }
    }
    let Some(mut at) = (0..next.len()).find(|&u| !done[u] && before[u].is_some()) else { return Vec::new() };
    // After as many steps back as there are units the walk is inside a ring.
    for _ in 0..next.len() {
        at = before[at].map_or(at, |(u, _)| u);
    }
    let (start, mut labels) = (at, Vec::new());
    while let Some((u, label)) = before[at] {
        labels.extend((label != usize::MAX).then_some(label));
        at = u;
        if at == start {
            break;
        }
    }
    labels
}

/// Lets results take the memory of arrays that are read for the last time, element by element, by the unit that writes them.
fn reuse(store: &mut Store, net: &Net, units: &[Unit], sequence: &[usize], places: &[Option<BufRef>]) {
    let mut last_use: FxHashMap<N, usize> = FxHashMap::default();
    for (position, &u) in sequence.iter().enumerate() {
        last_use.extend(units[u].reads.iter().map(|r| (r.node, position)));
    }
    last_use.extend(net.outputs.iter().map(|&o| (o, usize::MAX)));
    let mut taken: FxHashSet<N> = FxHashSet::default();
    for (position, &u) in sequence.iter().enumerate() {
        let unit = &units[u];
        for write in &unit.writes {
            let Some(own) = places[write.node].as_ref() else { continue };
            if store.buffers[own.buffer].forward.is_some() {
                continue;
            }
            let mine = &net.nodes[write.node].ty;
            let found = unit.reads.iter().find(|r| {
                let theirs = &net.nodes[r.node].ty;
                r.call == write.call
                    && r.aligned
                    && r.last < write.first
                    && last_use.get(&r.node) == Some(&position)
                    && theirs.len() == mine.len()
                    && theirs.dtype.size() == mine.dtype.size()
                    && !taken.contains(&r.node)
                    && !matches!(net.nodes[r.node].op, Op::Input { .. } | Op::Const(_))
                    && unit.reads.iter().filter(|o| o.node == r.node).all(|o| o.call == write.call && o.aligned && o.last < write.first)
            });
            let Some(read) = found else { continue };
            let Some(theirs) = places[read.node].as_ref() else { continue };
            let root = store.resolve(theirs);
            let buffer = &store.buffers[root.buffer];
            let same_life = buffer.within == store.buffers[own.buffer].within;
            if buffer.place.is_some() || !same_life || root.offset != 0 || !root.steps.is_empty() || root.buffer == own.buffer {
                continue;
            }
            taken.insert(read.node);
            store.buffers[own.buffer].forward = Some(theirs.clone());
        }
    }
}
