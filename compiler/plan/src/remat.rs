//! Rematerialization: large values that a late kernel can compute again from what it loads anyway are not kept in memory until then.
//!
//! Differentiation makes the backward pass read values of the forward pass. Each of them costs a store, a load and, above all, memory for the
//! whole time in between. Two things are done about it, neither of which changes a result, because the same operations are computed:
//! - a value that only kernels read is not stored at all if its readers can compute it from arrays they load anyway, or several from one that is
//!   stored in their place, and that takes less time than storing and loading them (`1 + tanh x` and `1 - tanh² x` are computed from `tanh x`);
//! - a value that an instruction like a matrix product needs in memory, early and once more late, is computed and stored a second time by a late
//!   kernel that loads what it takes anyway (the output of an activation or of a normalization, for the gradient of the weights it meets).

use crate::group::{Grouping, MOST_MEMBERS, flat_size};
use crate::net::{N, Net, PNode};
use crate::peak::{Load, peak};
use crate::rows::{Class, cost};
use optc_ir::Op;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// Bytes from which a value is worth a thought; smaller ones stay in a core's cache.
const LARGE: usize = 1 << 18;
/// How many times smaller an array must be for its memory not to count.
const SMALL_RATIO: usize = 8;
/// Nanoseconds of one addition per element, in vectors.
const NS_PER_ADD: f64 = 0.04;
/// Nanoseconds of storing one byte and of loading it later, in the stream of a kernel that has others.
const NS_PER_STORED: f64 = 0.05;
const NS_PER_LOADED: f64 = 0.03;
/// Additions per element that a second copy may take beyond what its kernel computes anyway.
const COPY_ADDITIONS: usize = 8;

/// What a kernel takes from elsewhere.
#[derive(Clone, Debug, Default)]
struct Intake {
    /// Arrays it loads; false if not every path reads each element at the position being computed, once.
    loads: FxHashMap<N, bool>,
    /// Values of other kernels that it computes itself.
    computes: FxHashSet<N>,
}

/// How a value is computed again in a kernel.
#[derive(Debug, Default)]
struct Chain {
    /// What the kernel does not compute yet.
    nodes: FxHashSet<N>,
    /// Additions per element of these.
    additions: usize,
    /// Small values that must be stored for it.
    store: Vec<N>,
}

/// Values to keep out of memory.
#[derive(Debug, Default)]
struct Trade {
    /// Nanoseconds saved.
    gain: f64,
    values: Vec<N>,
    /// What is stored instead.
    store: Vec<N>,
}

/// A second copy that was decided on.
struct Again {
    node: N,
    /// The kernel that computes it.
    kernel: usize,
    /// The instructions that read it.
    users: Vec<N>,
    /// Small values that must be stored for it.
    store: Vec<N>,
}

/// Applies both rules to a net and its grouping.
pub(crate) fn rematerialize(net: &mut Net, grouping: &mut Grouping) {
    let large = |n: &N| is_large(net, *n) && grouping.stored[*n] && grouping.class[*n] == Class::Elem;
    if !(0..net.nodes.len()).any(|n| large(&n)) {
        return;
    }
    let mut pass = Pass::new(net, grouping);
    pass.drop_stores();
    let again = pass.second_copies();
    insert(net, grouping, again);
}

fn bytes(net: &Net, n: N) -> usize {
    net.len_of(n) * net.nodes[n].ty.dtype.size()
}

fn is_large(net: &Net, n: N) -> bool {
    bytes(net, n) >= LARGE
}

/// Whether node `n` reads each element of an operand at most once, and an elementwise node at the same position.
fn reads_once(net: &Net, n: N) -> bool {
    matches!(
        net.nodes[n].op,
        Op::Map(_) | Op::Cast | Op::Bitcast | Op::Reshape | Op::Permute { .. } | Op::Flip { .. } | Op::Reduce { .. } | Op::Concat { .. }
    )
}

/// Nodes with memory or a kernel that a node reads, and whether it reads each element of theirs once, at the position being computed.
type Sources = SmallVec<[(N, bool); 4]>;

/// The nodes that the operands of `n` show through views, and whether every path reads each element once.
fn sources(net: &Net, class: &[Class], n: N) -> Sources {
    let mut found = Sources::new();
    let mut todo: SmallVec<[(N, bool); 8]> = net.nodes[n].operands.iter().map(|&o| (o, reads_once(net, n))).collect();
    while let Some((m, once)) = todo.pop() {
        if class[m] == Class::View {
            let once = once && reads_once(net, m);
            todo.extend(net.nodes[m].operands.iter().map(|&o| (o, once)));
        } else {
            match found.iter_mut().find(|f| f.0 == m) {
                Some(f) => f.1 &= once,
                None => found.push((m, once)),
            }
        }
    }
    found
}

struct Pass<'a> {
    net: &'a Net,
    grouping: &'a mut Grouping,
    /// [`sources`] of every node that is no view.
    sources: Vec<Sources>,
    intake: Vec<Intake>,
    /// Values that must be in memory because of who reads them.
    demanded: Vec<bool>,
    /// Instructions of their own that read a value.
    apart: FxHashMap<N, Vec<N>>,
}

impl<'a> Pass<'a> {
    fn new(net: &'a Net, grouping: &'a mut Grouping) -> Pass<'a> {
        let mut demanded = vec![false; net.nodes.len()];
        net.outputs.iter().for_each(|&o| demanded[net.strip(o)] = true);
        let of = |n: N| if grouping.class[n] == Class::View { Sources::new() } else { sources(net, &grouping.class, n) };
        let sources: Vec<Sources> = (0..net.nodes.len()).map(of).collect();
        let mut apart: FxHashMap<N, Vec<N>> = FxHashMap::default();
        for n in (0..net.nodes.len()).filter(|&n| grouping.class[n] == Class::Apart) {
            for &(m, _) in &sources[n] {
                demanded[m] = true;
                apart.entry(m).or_default().push(n);
            }
        }
        let mut pass = Pass { net, grouping, sources, intake: Vec::new(), demanded, apart };
        pass.intake = (0..pass.grouping.groups.len()).map(|g| pass.trace(g)).collect();
        pass
    }

    fn len(&self, n: N) -> usize {
        self.net.len_of(n)
    }

    /// What kernel `g` takes from elsewhere as things stand.
    fn trace(&self, g: usize) -> Intake {
        let mut intake = Intake::default();
        let mut todo: Vec<(N, bool)> = self.grouping.groups[g].members.iter().map(|&m| (m, true)).collect();
        let mut seen: FxHashSet<(N, bool)> = todo.iter().copied().collect();
        while let Some((n, once)) = todo.pop() {
            for &(m, edge) in &self.sources[n] {
                let once = once && edge;
                if self.grouping.group_of[m] == Some(g) {
                    continue;
                }
                if self.grouping.class[m] == Class::Elem && !self.grouping.stored[m] {
                    intake.computes.insert(m);
                    if seen.insert((m, once)) {
                        todo.push((m, once));
                    }
                } else {
                    intake.loads.entry(m).and_modify(|o| *o &= once).or_insert(once);
                }
            }
        }
        intake
    }

    /// Adds to `chain` what computing `n` again in kernel `g` takes, if `n` and what is in `dropped` were not stored, but `waist` was. False if it
    /// cannot be done from `waist` and large arrays that the kernel loads anyway.
    fn extend(&self, chain: &mut Chain, n: N, g: usize, dropped: &[N], waist: Option<N>) -> bool {
        let mut todo = vec![n];
        while let Some(m) = todo.pop() {
            if self.intake[g].computes.contains(&m) || !chain.nodes.insert(m) {
                continue;
            }
            let flat = self.grouping.groups[g].flat;
            let fits = flat.is_none() || flat_size(self.net, &self.grouping.class, m) == flat;
            if matches!(self.net.nodes[m].op, Op::Gather { .. }) || !fits {
                return false;
            }
            chain.additions += cost(self.net, m);
            for &(o, once) in &self.sources[m] {
                if waist == Some(o) && once {
                    continue;
                }
                let small = self.len(o) * SMALL_RATIO <= self.len(n);
                let kept = self.grouping.stored[o] && !dropped.contains(&o);
                match self.grouping.class[o] {
                    Class::Elem | Class::Staged if !kept && small => {
                        let home = self.grouping.group_of[o].expect("a member has a kernel");
                        if self.grouping.groups[home].flat.is_some() {
                            return false;
                        }
                        chain.store.push(o);
                    }
                    Class::Elem if !kept && once => todo.push(o),
                    _ if small => {}
                    Class::Elem | Class::Staged if !kept => return false,
                    _ if !once || !self.intake[g].loads.contains_key(&o) => return false,
                    _ => {}
                }
            }
        }
        true
    }

    /// Kernels that load `n`.
    fn readers(&self, n: N) -> Vec<usize> {
        (0..self.intake.len()).filter(|&g| self.intake[g].loads.contains_key(&n)).collect()
    }

    /// How many loops of kernel `g` would compute `n`, at most.
    fn loops_with(&self, n: N, g: usize) -> usize {
        let mut inside: FxHashSet<N> = FxHashSet::default();
        let mut loops = 0;
        for &m in &self.grouping.groups[g].members {
            if self.sources[m].iter().any(|(o, _)| *o == n || inside.contains(o)) {
                if self.grouping.stored[m] || self.grouping.class[m] == Class::Staged {
                    loops += 1;
                } else {
                    inside.insert(m);
                }
            }
        }
        loops.max(1)
    }

    /// Whether kernel `g` may compute `n` again, given what it has at hand.
    fn can_compute(&self, chain: &mut Chain, n: N, g: usize, dropped: &[N], waist: Option<N>) -> bool {
        let group = &self.grouping.groups[g];
        (!group.cone || group.flat.is_some()) && self.intake[g].loads[&n] && self.extend(chain, n, g, dropped, waist)
    }

    /// Nanoseconds saved if those of `values` stay out of memory that their readers can compute again, and `waist` is stored instead.
    fn instead(&self, values: &[N], waist: Option<N>) -> Trade {
        let kept_out = |&n: &N| self.readers(n).into_iter().all(|g| self.can_compute(&mut Chain::default(), n, g, values, waist));
        let values: Vec<N> = values.iter().copied().filter(kept_out).collect();
        let mut chains: FxHashMap<usize, Chain> = FxHashMap::default();
        let mut gain = 0.0;
        let traffic = |n: N, readers: usize| bytes(self.net, n) as f64 * (NS_PER_STORED + NS_PER_LOADED * readers as f64);
        for &n in &values {
            let readers = self.readers(n);
            gain += traffic(n, readers.len());
            for g in readers {
                let chain = chains.entry(g).or_default();
                let before = chain.additions;
                if !self.can_compute(chain, n, g, &values, waist) {
                    return Trade::default();
                }
                gain -= (chain.additions - before) as f64 * self.len(n) as f64 * NS_PER_ADD * self.loops_with(n, g) as f64;
            }
        }
        gain -= waist.map_or(0.0, |w| traffic(w, chains.len()));
        let store = chains.into_values().flat_map(|c| c.store).chain(waist).collect();
        Trade { gain, values, store }
    }

    /// Members of kernel `g` that `values` are computed from and that could be stored in their place.
    fn waists(&self, values: &[N], g: usize) -> Vec<N> {
        let mut found = Vec::new();
        let mut todo = values.to_vec();
        let mut seen: FxHashSet<N> = values.iter().copied().collect();
        while let Some(n) = todo.pop() {
            for &(o, once) in &self.sources[n] {
                let inside = self.grouping.group_of[o] == Some(g) && self.grouping.class[o] == Class::Elem && !self.grouping.stored[o];
                if inside && once && self.len(o) == self.len(n) && seen.insert(o) {
                    todo.push(o);
                    if bytes(self.net, o) <= bytes(self.net, n) {
                        found.push(o);
                    }
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Lets kernels compute large values of others again where that is quicker than memory.
    fn drop_stores(&mut self) {
        for g in 0..self.grouping.groups.len() {
            let stored = |n: &N| self.grouping.stored[*n] && self.grouping.class[*n] == Class::Elem;
            let all: Vec<N> = self.grouping.groups[g].members.iter().copied().filter(stored).collect();
            let values: Vec<N> = all.into_iter().filter(|&n| is_large(self.net, n) && !self.demanded[n]).collect();
            if values.is_empty() {
                continue;
            }
            let waists = self.waists(&values, g).into_iter().map(Some);
            let together = std::iter::once(None).chain(waists).map(|w| self.instead(&values, w));
            let alone = values.iter().map(|&n| self.instead(&[n], None));
            let best = together.chain(alone).reduce(|a, b| if b.gain > a.gain { b } else { a }).unwrap_or_default();
            if best.gain > 0.0 {
                self.unstore(&best.values, &best.store);
            }
        }
    }

    fn unstore(&mut self, values: &[N], store: &[N]) {
        let mut changed: Vec<usize> = values.iter().flat_map(|&n| self.readers(n)).collect();
        changed.sort_unstable();
        changed.dedup();
        values.iter().for_each(|&n| self.grouping.stored[n] = false);
        store.iter().for_each(|&n| self.grouping.stored[n] = true);
        for g in changed {
            self.intake[g] = self.trace(g);
        }
    }

    /// All units of work, with the second copies in `copies` as values from the number of nodes on; and the sizes of values.
    fn loads(&self, copies: &[Again]) -> (Vec<Load>, Vec<usize>) {
        let (net, grouping) = (self.net, &*self.grouping);
        let count = net.nodes.len();
        let mut size = vec![0; count + copies.len()];
        for n in 0..count {
            let in_arena = match grouping.class[n] {
                Class::Apart => true,
                Class::Leaf => matches!(net.nodes[n].op, Op::Result { .. }),
                _ => grouping.group_of[n].is_some() && grouping.stored[n],
            };
            size[n] = if in_arena { bytes(net, n) } else { 0 };
        }
        // Results have memory of their own.
        net.outputs.iter().for_each(|&o| size[o] = 0);
        let mut loads = Vec::new();
        for (g, intake) in self.intake.iter().enumerate() {
            let members = &grouping.groups[g].members;
            let mut load = Load { key: *members.last().expect("a group has members"), in_place: true, ..Load::default() };
            load.reads.extend(intake.loads.keys());
            load.writes.extend(members.iter().filter(|&&m| grouping.stored[m]));
            loads.push(load);
        }
        let mut unit_of: FxHashMap<N, usize> = FxHashMap::default();
        for n in (0..count).filter(|&n| grouping.class[n] == Class::Apart) {
            let scratch =
                if let Op::Conv { kind, dims } = &net.nodes[n].op { dims.scratch_len(*kind) * net.nodes[n].ty.dtype.size() } else { 0 };
            unit_of.insert(n, loads.len());
            loads.push(Load { key: n, writes: vec![n], scratch, ..Load::default() });
        }
        for n in (0..count).filter(|&n| matches!(net.nodes[n].op, Op::Result { .. })) {
            if let Some(&u) = unit_of.get(&net.nodes[n].operands[0]) {
                loads[u].writes.push(n);
            }
        }
        for (&n, users) in &self.apart {
            users.iter().for_each(|u| loads[unit_of[u]].reads.push(n));
        }
        for (k, copy) in copies.iter().enumerate() {
            size[count + k] = bytes(net, copy.node);
            loads[copy.kernel].writes.push(count + k);
            loads[copy.kernel].reads.extend(&copy.store);
            for u in &copy.users {
                let reads = &mut loads[unit_of[u]].reads;
                reads.retain(|&v| v != copy.node);
                reads.push(count + k);
            }
        }
        // Each value once, and nothing of its own: a read is what a unit waits for.
        for load in &mut loads {
            load.reads.sort_unstable();
            load.reads.dedup();
            load.reads.retain(|v| !load.writes.contains(v));
        }
        (loads, size)
    }

    fn peak(&self, copies: &[Again]) -> Option<(usize, N)> {
        let (loads, size) = self.loads(copies);
        peak(&loads, &size)
    }

    /// Large values in memory before and after the peak, with the late kernel that computes each a second time, as far as that lowers the peak.
    fn second_copies(&mut self) -> Vec<Again> {
        let Some((without, at)) = self.peak(&[]) else { return Vec::new() };
        let mut copies = self.candidates(at);
        if copies.is_empty() {
            return copies;
        }
        let mut most = self.peak(&copies).map_or(usize::MAX, |(most, _)| most);
        if most >= without {
            // Some of them cost more than they save, or make kernels wait for each other.
            for k in (0..copies.len()).rev() {
                let copy = copies.remove(k);
                match self.peak(&copies) {
                    Some((fewer, _)) if fewer < most => most = fewer,
                    None => {}
                    _ => copies.insert(k, copy),
                }
            }
        }
        if most >= without {
            return Vec::new();
        }
        copies.iter().flat_map(|c| &c.store).for_each(|&s| self.grouping.stored[s] = true);
        copies
    }

    /// Second copies that can be had cheaply, of values that live across `at`.
    fn candidates(&mut self, at: N) -> Vec<Again> {
        let mut out: Vec<Again> = Vec::new();
        for n in 0..at {
            let kept = self.grouping.class[n] == Class::Elem && self.grouping.stored[n] && is_large(self.net, n);
            if !kept || self.net.outputs.contains(&n) {
                continue;
            }
            let Some(users) = self.apart.get(&n) else { continue };
            let late: Vec<N> = users.iter().copied().filter(|&u| u > at).collect();
            let products = late.iter().all(|&u| matches!(self.net.nodes[u].op, Op::Dot(_) | Op::Conv { .. }));
            let other = self.readers(n).iter().any(|&g| self.grouping.groups[g].members.last().is_some_and(|&m| m > at));
            if late.is_empty() || !products || other {
                continue;
            }
            let mut best: Option<(usize, Chain)> = None;
            for g in 0..self.intake.len() {
                let group = &self.grouping.groups[g];
                let is_late = group.members.first().is_some_and(|&m| m > at);
                let fits =
                    !group.cone && group.flat.is_none() && group.members.len() < MOST_MEMBERS && self.len(n).is_multiple_of(group.rows);
                let mut chain = Chain::default();
                let found = is_late && fits && self.extend(&mut chain, n, g, &[n], None) && chain.additions <= COPY_ADDITIONS;
                if found && best.as_ref().is_none_or(|b| chain.additions < b.1.additions) {
                    best = Some((g, chain));
                }
            }
            let Some((kernel, chain)) = best else { continue };
            self.intake[kernel].loads.extend(chain.store.iter().map(|&s| (s, false)));
            self.intake[kernel].computes.extend(&chain.nodes);
            out.push(Again { node: n, kernel, users: late, store: chain.store });
        }
        out
    }
}

/// A node to come, in front of an old one. Operands from `count` on mean new nodes.
struct New {
    before: N,
    node: PNode,
    class: Class,
    group: Option<usize>,
}

/// Puts the copies into the net, and lets their users read them.
fn insert(net: &mut Net, grouping: &mut Grouping, copies: Vec<Again>) {
    if copies.is_empty() {
        return;
    }
    let count = net.nodes.len();
    let mut fresh: Vec<New> = Vec::new();
    for copy in &copies {
        let before = *copy.users.iter().min().expect("a copy has users");
        let mut twin: FxHashMap<N, N> = FxHashMap::default();
        twin.insert(copy.node, count + fresh.len());
        fresh.push(New { before, node: net.nodes[copy.node].clone(), class: Class::Elem, group: Some(copy.kernel) });
        for &user in &copy.users {
            // Views between the value and its user are made anew: others see the first copy through them.
            let mut views = Vec::new();
            let mut todo: Vec<N> = net.nodes[user].operands.to_vec();
            while let Some(n) = todo.pop() {
                if n < count && grouping.class[n] == Class::View && !views.contains(&n) {
                    views.push(n);
                    todo.extend(&net.nodes[n].operands);
                }
            }
            views.sort_unstable();
            for view in views {
                if twin.contains_key(&view) || !net.nodes[view].operands.iter().any(|o| twin.contains_key(o)) {
                    continue;
                }
                let mut node = net.nodes[view].clone();
                node.operands.iter_mut().for_each(|o| *o = twin.get(o).copied().unwrap_or(*o));
                twin.insert(view, count + fresh.len());
                fresh.push(New { before, node, class: Class::View, group: None });
            }
            net.nodes[user].operands.iter_mut().for_each(|o| *o = twin.get(o).copied().unwrap_or(*o));
        }
    }
    let mut order: Vec<usize> = (0..fresh.len()).collect();
    order.sort_by_key(|&k| fresh[k].before);
    let mut at = vec![usize::MAX; count + fresh.len()];
    let mut waiting = order.into_iter().peekable();
    let mut sequence: Vec<usize> = Vec::with_capacity(at.len());
    for n in 0..count {
        while let Some(k) = waiting.next_if(|&k| fresh[k].before == n) {
            sequence.push(count + k);
        }
        sequence.push(n);
    }
    sequence.iter().enumerate().for_each(|(position, &id)| at[id] = position);
    let mut old: Vec<Option<PNode>> = std::mem::take(&mut net.nodes).into_iter().map(Some).collect();
    let (mut class, mut group_of, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    for &id in &sequence {
        let mut node = match id.checked_sub(count) {
            Some(k) => {
                class.push(fresh[k].class);
                group_of.push(fresh[k].group);
                stored.push(fresh[k].group.is_some());
                fresh[k].node.clone()
            }
            None => {
                class.push(grouping.class[id]);
                group_of.push(grouping.group_of[id]);
                stored.push(grouping.stored[id]);
                old[id].take().expect("every node once")
            }
        };
        node.operands.iter_mut().for_each(|o| *o = at[*o]);
        net.nodes.push(node);
    }
    (grouping.class, grouping.group_of, grouping.stored) = (class, group_of, stored);
    net.inputs.iter_mut().chain(&mut net.outputs).for_each(|n| *n = at[*n]);
    for (g, group) in grouping.groups.iter_mut().enumerate() {
        group.members.iter_mut().for_each(|m| *m = at[*m]);
        let more = fresh.iter().enumerate().filter(|(_, new)| new.group == Some(g)).map(|(k, _)| at[count + k]);
        group.members.extend(more);
        group.members.sort_unstable();
    }
}
