//! What depends on inputs only may wait: inputs are in memory all the time.
//!
//! Norms of inputs are taken where a kernel goes over the array anyway, if that is not later than they are needed. Elementwise functions of inputs join the kernel that
//! needs them, if nothing needs them before.
//!
//! A kernel that updates moments reads the weights for their decay, or the gradient; the norms of these need no pass of their own. Fusion places nodes one after
//! the other, so it is told to place a norm, and what scalars are made of it, only before the first node that needs them.

use super::{SMALL_WORK, State, bases, flat_size};
use crate::net::{N, Net};
use crate::rows::{Class, gcd, own_rows};
use optc_ir::Op;
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

/// What is placed late: reductions of whole inputs, the elementwise nodes that serve these alone, and what is computed from their results and inputs only.
pub(crate) fn deferred(net: &Net, class: &[Class]) -> Vec<bool> {
    let count = net.nodes.len();
    let mut late = vec![false; count];
    if !net.nodes.iter().any(|node| node.partial) {
        return late;
    }
    let input = |n: N| matches!(net.nodes[n].op, Op::Input { .. } | Op::Const(_));
    // Elementwise functions of inputs.
    let mut plain = vec![false; count];
    for n in 0..count {
        if class[n] == Class::View {
            continue;
        }
        let below = bases(net, class, n);
        if net.nodes[n].partial {
            late[n] = flat_size(net, class, n).is_some() && below.iter().all(|&(m, _)| plain[m] || input(m));
        } else if net.len_of(n) < SMALL_WORK && matches!(class[n], Class::Elem | Class::Staged) && below.iter().any(|&(m, _)| late[m]) {
            late[n] = below.iter().all(|&(m, _)| late[m] || input(m));
        } else {
            plain[n] = flat_size(net, class, n) == Some(net.len_of(n)) && below.iter().all(|&(m, _)| plain[m] || input(m));
        }
    }
    // Those that nothing else needs.
    let mut needed = vec![false; count];
    net.outputs.iter().for_each(|&o| needed[net.strip(o)] = true);
    for n in (0..count).rev() {
        late[n] |= plain[n] && !needed[n];
        if class[n] != Class::View && !late[n] {
            bases(net, class, n).iter().for_each(|&(m, _)| needed[m] = true);
        }
    }
    for n in 0..count {
        late[n] |= class[n] == Class::View && net.nodes[n].operands.iter().any(|&o| late[o]);
    }
    late
}

/// The deferred nodes not placed yet that `n` needs, in order, with those they need; and `n`.
pub(crate) fn with_deferred(net: &Net, late: &[bool], placed: &[bool], n: N) -> Vec<N> {
    let mut found = vec![n];
    let mut seen: FxHashSet<N> = FxHashSet::default();
    let mut at = 0;
    while let Some(&m) = found.get(at) {
        at += 1;
        for &o in &net.nodes[m].operands {
            if late[o] && !placed[o] && seen.insert(o) {
                found.push(o);
            }
        }
    }
    found.sort_unstable();
    found
}

impl State<'_> {
    /// Notes that `n`, of kernel `group` or an instruction of its own, reads what others compute.
    pub fn note_use(&mut self, n: N, group: Option<usize>, edges: &[(N, usize)]) {
        for &(m, _) in edges {
            if !self.is_member(m) {
                continue;
            }
            let g = self.group_of[m].expect("a member has a group");
            let g = self.find(g);
            if group.is_none_or(|own| self.find(own) != g) {
                self.first_user[g] = self.first_user[g].min(self.level[n]);
            }
        }
    }

    /// Lets elementwise functions of inputs that `n` reads wait for its level, if nothing needs them before: new moments, which a direction is made of as soon as their
    /// corrections are known. Inputs are in memory all the time.
    pub fn sink(&mut self, n: N, level: usize, rows: &mut usize, chosen: &mut SmallVec<[usize; 4]>, edges: &[(N, usize)]) {
        let Some(flat) = flat_size(self.net, &self.class, n).filter(|_| level > 0) else { return };
        for &(m, r) in edges {
            if !self.is_member(m) || self.cone[m] || self.level[m] > 0 {
                continue;
            }
            let g = self.group_of[m].expect("a member has a group");
            let g = self.find(g);
            if chosen.contains(&g) || self.groups[g].flat != Some(flat) || self.first_user[g] <= level {
                continue;
            }
            let joint = gcd(gcd(*rows, r), self.groups[g].rows);
            let mut with = chosen.clone();
            with.push(g);
            if self.accept(n, &with, joint) {
                self.groups[g].members.iter().for_each(|&m| self.level[m] = level);
                (*chosen, *rows) = (with, joint);
            }
        }
    }

    pub fn note_reader(&mut self, array: N, group: usize, level: usize) {
        let known = self.readers.get(&array).map(|&other| self.level_of(other));
        if known.is_none_or(|other| other <= level) {
            self.readers.insert(array, group);
        }
    }

    pub fn level_of(&self, mut g: usize) -> usize {
        while self.parent[g] != g {
            g = self.parent[g];
        }
        self.groups[g].members.first().map_or(0, |&m| self.level[m])
    }

    /// The latest kernel, of this level or a later one, that goes over an array which `n` goes over too, and its level.
    pub fn latest_reader(&mut self, n: N, level: usize, edges: &[(N, usize)]) -> Option<(usize, usize)> {
        let net = self.net;
        let flat = flat_size(net, &self.class, n)?;
        let mut best: Option<(usize, usize)> = None;
        for &(m, _) in edges.iter().filter(|e| net.len_of(e.0) == flat) {
            let Some(&g) = self.readers.get(&m) else { continue };
            let g = self.find(g);
            let at = self.level_of(g);
            let joint = gcd(own_rows(net, n), self.groups[g].rows);
            if at >= level && best.is_none_or(|b| b.1 < at) && self.groups[g].flat == Some(flat) && self.accept(n, &[g], joint) {
                best = Some((g, at));
            }
        }
        best
    }
}
