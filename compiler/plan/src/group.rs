//! Fusion: which nodes share a kernel, and which are stored.
//!
//! Every node gets a level: an upper bound of the number of kernel boundaries on a path to it. Nodes of one kernel have one level and
//! are connected by fused edges; a boundary raises the level. So no path leaves a kernel and comes back, whatever is merged later within
//! a level, and two kernels of one level do not depend on each other.

use crate::net::{ENOUGH_ROWS, N, Net};
use crate::rows::{Class, class, cost, edge_rows, gcd, own_rows};
use optc_ir::Op;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

mod late;
use late::{deferred, with_deferred};

/// Element operations below which a kernel need not run on several threads.
pub(crate) const SMALL_WORK: usize = 1 << 14;
/// Elements of one row of a kernel that should stay in a core's cache.
pub(crate) const ROW_ELEMENTS: usize = 1 << 15;
/// Additions per element up to which a value is computed again rather than stored and loaded.
const CHEAP: usize = 6;
/// Nodes of one kernel: code generators take more than linear time.
pub(crate) const MOST_MEMBERS: usize = 400;

/// A level above those of all kernels that wait for nothing that has left memory.
const LATE: usize = 1 << 20;

/// A set of nodes computed by one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Number of rows all members agree on.
    pub rows: usize,
    work: usize,
    /// If every member reads and writes whole arrays of this many elements in order (and scalars): that number.
    pub flat: Option<usize>,
    /// Updates of aliased outputs only.
    pub cone: bool,
    /// Has members with loops over rows.
    staged: bool,
    /// In topological order.
    pub members: Vec<N>,
}

/// The result of fusion.
pub(crate) struct Grouping {
    pub class: Vec<Class>,
    /// The kernel a node belongs to.
    pub group_of: Vec<Option<usize>>,
    pub groups: Vec<Group>,
    /// Nodes that have memory.
    pub stored: Vec<bool>,
    /// Nodes whose elements must be finite where they are written.
    pub watched: Vec<bool>,
}

/// The nodes an expression of `n` reaches through views, with the rows of the path.
pub(crate) fn bases(net: &Net, class: &[Class], n: N) -> SmallVec<[(N, usize); 4]> {
    let mut out = SmallVec::new();
    for k in 0..net.nodes[n].operands.len() {
        reach(net, class, net.nodes[n].operands[k], edge_rows(net, n, k), &mut out);
    }
    out
}

fn reach(net: &Net, class: &[Class], n: N, rows: usize, out: &mut SmallVec<[(N, usize); 4]>) {
    if class[n] != Class::View {
        match out.iter_mut().find(|(m, _)| *m == n) {
            Some((_, r)) => *r = gcd(*r, rows),
            None => out.push((n, rows)),
        }
        return;
    }
    for k in 0..net.nodes[n].operands.len() {
        let inner = edge_rows(net, n, k);
        reach(net, class, net.nodes[n].operands[k], gcd(rows, inner), out);
    }
}

/// Views that must have memory of their own, and nodes that must have memory because of who reads them.
fn demands(net: &Net, class: &mut [Class], stored: &mut [bool]) {
    let mut need = |class: &mut [Class], n: N| {
        let n = net.strip(n);
        if class[n] == Class::View && !matches!(net.nodes[n].op, Op::Const(_)) {
            class[n] = Class::Elem;
        }
        stored[n] = true;
    };
    for &output in &net.outputs {
        need(class, output);
    }
    for n in 0..net.nodes.len() {
        let operands = net.nodes[n].operands.clone();
        match &net.nodes[n].op {
            Op::Dot(_) | Op::Attention(_) => {
                for o in operands {
                    match crate::dot::strided(net, class, o) {
                        Some(view) => need(class, view.base),
                        None => need(class, o),
                    }
                }
            }
            Op::RandomFold { .. } => {
                need(class, operands[0]);
                if crate::rows::known_number(net, n).is_none() {
                    need(class, operands[1]);
                }
            }
            Op::RandomBits { .. }
            | Op::Swap
            | Op::Conv { .. }
            | Op::ArgSort { .. }
            | Op::Lib(_)
            | Op::Callback { .. }
            | Op::AllReduce
            | Op::Loop(_)
            | Op::Cond { .. } => operands.into_iter().for_each(|o| need(class, o)),
            Op::Scatter { .. } => {
                if !is_splat(net, operands[0]) {
                    need(class, operands[0]);
                }
                for &o in &operands[1..] {
                    let mut found = SmallVec::new();
                    reach(net, class, o, 1, &mut found);
                    let x = net.strip(operands[0]);
                    if found.iter().any(|&(m, _)| m == x) {
                        need(class, o);
                    } else {
                        found.iter().for_each(|&(m, _)| need(class, m));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether all elements are one literal.
pub(crate) fn is_splat(net: &Net, n: N) -> bool {
    match &net.nodes[n].op {
        Op::Const(_) => net.splat_value(n).is_some(),
        Op::Broadcast { .. } | Op::Reshape => is_splat(net, net.nodes[n].operands[0]),
        _ => false,
    }
}

/// Nodes that serve only to update aliased outputs, element by element: they make flat kernels that all leaves share.
fn cones(net: &Net, class: &[Class], aliased: &[N]) -> Vec<bool> {
    let mut cone = vec![false; net.nodes.len()];
    let mut users: Vec<(usize, usize)> = vec![(0, 0); net.nodes.len()];
    let (mut output, mut overwrites) = (vec![false; net.nodes.len()], vec![false; net.nodes.len()]);
    net.outputs.iter().for_each(|&o| output[o] = true);
    aliased.iter().for_each(|&o| overwrites[o] = true);
    for n in (0..net.nodes.len()).rev() {
        let (all, inside) = users[n];
        let size = net.len_of(n);
        cone[n] = match net.nodes[n].op {
            // A reshape passes on whether all its users are inside.
            Op::Reshape => all > 0 && all == inside,
            _ => {
                let serves = overwrites[n] || (all > 0 && !output[n]);
                size > 1 && class[n] == Class::Elem && all == inside && serves && flat_size(net, class, n) == Some(size)
            }
        };
        for &o in &net.nodes[n].operands {
            let counts = cone[n] && net.len_of(o) == size;
            users[o].0 += 1;
            users[o].1 += usize::from(counts);
        }
    }
    cone
}

/// If the node combines whole arrays of one size in row-major order, and scalars: that size.
pub(crate) fn flat_size(net: &Net, class: &[Class], n: N) -> Option<usize> {
    let node = &net.nodes[n];
    let size = if node.partial { net.len_of(node.operands[0]) } else { node.ty.len() };
    let fits = node.partial || (class[n] == Class::Elem && matches!(node.op, Op::Map(_) | Op::Cast | Op::Bitcast));
    let operand = |&o: &N| {
        let o = net.strip(o);
        if class[o] != Class::View {
            return net.len_of(o) == size;
        }
        match &net.nodes[o].op {
            Op::Const(_) => true,
            Op::Broadcast { .. } => {
                let base = net.strip(net.nodes[o].operands[0]);
                net.len_of(base) == 1 && (class[base] != Class::View || matches!(net.nodes[base].op, Op::Const(_)))
            }
            _ => false,
        }
    };
    (fits && size > 1 && node.operands.iter().all(operand)).then_some(size)
}

/// Fuses the nodes of a net. `aliased` are the outputs that overwrite inputs.
pub(crate) fn group(net: &Net, aliased: &[N]) -> Grouping {
    let count = net.nodes.len();
    let mut class: Vec<Class> = (0..count).map(|n| class(net, n)).collect();
    let mut stored = vec![false; count];
    demands(net, &mut class, &mut stored);
    let mut cone = cones(net, &class, aliased);
    crate::by_rows::join_rows(net, &class, aliased, &mut cone);
    let mut state = State {
        net,
        class,
        stored,
        cone,
        level: vec![0; count],
        group_of: vec![None; count],
        parent: Vec::new(),
        groups: Vec::new(),
        again: vec![None; count],
        flat_again: vec![false; count],
        siblings: FxHashMap::default(),
        updates: FxHashMap::default(),
        late: Vec::new(),
        readers: FxHashMap::default(),
        first_user: Vec::new(),
    };
    state.late = deferred(net, &state.class);
    let mut placed = vec![false; count];
    let late = (0..count).filter(|&n| state.late[n]);
    for n in (0..count).filter(|&n| !state.late[n]).chain(late).collect::<Vec<_>>() {
        for m in with_deferred(net, &state.late, &placed, n) {
            if !std::mem::replace(&mut placed[m], true) {
                state.place(m);
            }
        }
    }
    state.finish()
}

struct State<'a> {
    net: &'a Net,
    class: Vec<Class>,
    stored: Vec<bool>,
    cone: Vec<bool>,
    level: Vec<usize>,
    group_of: Vec<Option<usize>>,
    /// Union-find over groups.
    parent: Vec<usize>,
    groups: Vec<Group>,
    /// For a node that may be computed again: the additions of one element, and the stored arrays it reads.
    again: Vec<Option<(usize, SmallVec<[N; 3]>)>>,
    /// Whether what computing it again takes is flat or scalar, as flat kernels need it.
    flat_again: Vec<bool>,
    /// Kernels by level and an array they read element by element.
    siblings: FxHashMap<(usize, N), usize>,
    /// A kernel of updates that reads all of an array.
    updates: FxHashMap<N, usize>,
    /// Nodes that are placed late.
    late: Vec<bool>,
    /// The latest flat kernel that goes over all of an array.
    readers: FxHashMap<N, usize>,
    /// For a group the lowest level of what reads its results from memory; updates do not count, nothing waits for them.
    first_user: Vec<usize>,
}

impl State<'_> {
    fn find(&mut self, mut g: usize) -> usize {
        while self.parent[g] != g {
            self.parent[g] = self.parent[self.parent[g]];
            g = self.parent[g];
        }
        g
    }

    fn is_member(&self, n: N) -> bool {
        matches!(self.class[n], Class::Elem | Class::Staged)
    }

    /// The level at which a stored node can be loaded.
    fn ready(&self, n: N) -> usize {
        match self.class[n] {
            Class::Leaf if !matches!(self.net.nodes[n].op, Op::Result { .. }) => 0,
            _ => self.level[n] + 1,
        }
    }

    fn place(&mut self, n: N) {
        let net = self.net;
        match self.class[n] {
            Class::View => return,
            Class::Leaf => {
                if let Op::Result { .. } = net.nodes[n].op {
                    self.level[n] = self.level[net.nodes[n].operands[0]];
                }
                return;
            }
            Class::Apart => {
                let bases = bases(net, &self.class, n);
                self.level[n] = bases.iter().map(|&(m, _)| self.ready(m)).max().unwrap_or(0);
                if net.comes_back(n) {
                    // What needs it shares no kernel with what comes before.
                    self.level[n] = self.level[n].max(LATE);
                }
                self.note_use(n, None, &bases);
                return;
            }
            Class::Elem | Class::Staged => {}
        }
        let edges = bases(net, &self.class, n);
        self.again[n] = self.recomputable(n, &edges);
        self.flat_again[n] = self.again[n].is_some()
            && (net.len_of(n) == 1 || flat_size(net, &self.class, n).is_some())
            && edges.iter().all(|&(m, _)| self.stored[m] || self.class[m] != Class::Elem || self.flat_again[m]);
        if self.cone[n] {
            return self.place_update(n, &edges);
        }
        let mut level = 0;
        for &(m, _) in &edges {
            level = level.max(if self.is_member(m) { self.level[m] } else { self.ready(m) });
        }
        let near: SmallVec<[(N, usize); 4]> = edges.iter().copied().filter(|&(m, _)| self.is_member(m) && self.level[m] == level).collect();
        let mut chosen: SmallVec<[usize; 4]> = SmallVec::new();
        let mut rows = own_rows(net, n);
        let mut apart = false;
        for &(m, r) in &near {
            let g = self.group_of[m].expect("a member has a group");
            let g = self.find(g);
            let joint = gcd(gcd(rows, r), self.groups[g].rows);
            let mut with = chosen.clone();
            if !with.contains(&g) {
                with.push(g);
            }
            if self.accept(n, &with, joint) {
                (chosen, rows) = (with, joint);
            } else if !self.again[m].as_ref().is_some_and(|(_, leaves)| leaves.iter().all(|&l| self.ready(l) <= level)) {
                apart = true;
            }
        }
        if apart {
            level += 1;
            chosen.clear();
            rows = own_rows(net, n);
        }
        self.sink(n, level, &mut rows, &mut chosen, &edges);
        if chosen.is_empty() {
            // Kernels of one level are independent: join one that reads the same array.
            for &(m, r) in &edges {
                if r == net.len_of(n)
                    && net.len_of(m) == r
                    && r > 1
                    && let Some(&g) = self.siblings.get(&(level, m))
                    && self.level_of(g) == level
                {
                    let g = self.find(g);
                    let joint = gcd(rows, self.groups[g].rows);
                    if self.accept(n, &[g], joint) {
                        chosen.push(g);
                        rows = joint;
                        break;
                    }
                }
            }
        }
        if chosen.is_empty() && self.late[n] {
            // Nothing waits for it yet: a later kernel may be the one that reads the array.
            if let Some((g, at)) = self.latest_reader(n, level, &edges) {
                (level, rows) = (at, gcd(rows, self.groups[g].rows));
                chosen.push(g);
            }
        }
        self.join(n, level, rows, &chosen);
        let g = self.group_of[n].expect("just joined");
        self.note_use(n, Some(g), &edges);
        let flat = flat_size(net, &self.class, n);
        for &(m, r) in &edges {
            if r == net.len_of(m) {
                let known = self.siblings.get(&(level, m)).is_some_and(|&other| self.level_of(other) == level);
                if !known {
                    self.siblings.insert((level, m), g);
                }
            }
            if flat == Some(net.len_of(m)) {
                self.note_reader(m, g, level);
                // What is computed again here is read here.
                let again = self.again[m].as_ref().filter(|_| self.is_member(m) && self.group_of[m] != Some(g));
                for leaf in again.map(|(_, leaves)| leaves.clone()).unwrap_or_default() {
                    self.note_reader(leaf, g, level);
                }
            }
        }
    }

    /// Puts a node that serves only updates with the others it is connected to: nothing outside waits for them, so levels do not matter.
    fn place_update(&mut self, n: N, edges: &[(N, usize)]) {
        let mut chosen: SmallVec<[usize; 4]> = SmallVec::new();
        for &(m, _) in edges {
            if self.cone[m] && self.is_member(m) {
                let g = self.group_of[m].expect("a member has a group");
                let g = self.find(g);
                if !chosen.contains(&g) {
                    chosen.push(g);
                }
            }
        }
        // Updates that read one array in the same order (Lion's `w` and `m` both read `g`) are one pass over it.
        let flat = flat_size(self.net, &self.class, n);
        let length = self.net.len_of(n);
        let whole = |m: N, r: usize| !self.cone[m] && length > 1 && r == length && self.net.len_of(m) == length;
        let shared: SmallVec<[N; 4]> = edges.iter().filter(|&&(m, r)| whole(m, r)).map(|&(m, _)| m).collect();
        for m in &shared {
            if let Some(&g) = self.updates.get(m) {
                let g = self.find(g);
                if flat.is_some() && self.groups[g].flat == flat && !chosen.contains(&g) {
                    chosen.push(g);
                }
            }
        }
        let mut rows = own_rows(self.net, n);
        for &(m, r) in edges.iter().filter(|e| self.cone[e.0]) {
            rows = gcd(rows, if self.is_member(m) { r } else { 0 });
        }
        for &g in &chosen {
            rows = gcd(rows, self.groups[g].rows);
        }
        self.join(n, 0, rows, &chosen);
        let g = self.group_of[n].expect("just joined");
        for m in shared {
            self.updates.entry(m).or_insert(g);
        }
    }

    /// Whether `n` may join the kernels `with`, which then work on `joint` rows.
    fn accept(&self, n: N, with: &[usize], joint: usize) -> bool {
        let net = self.net;
        let flat = flat_size(net, &self.class, n);
        // Rows that loops over whole rows run on already; elementwise members take any.
        let mut before = if self.class[n] == Class::Staged { own_rows(net, n) } else { 0 };
        let mut work = self.work(n);
        let mut members = 1;
        let mut widest = net.len_of(n);
        let holds_partial = |g: &usize| self.groups[*g].members.iter().take(2).any(|&m| net.nodes[m].partial);
        let partial = net.nodes[n].partial || with.iter().any(holds_partial);
        for &g in with {
            let group = &self.groups[g];
            if group.cone || (partial && (flat.is_none() || group.flat != flat)) {
                return false;
            }
            before = before.max(if group.staged { group.rows } else { 0 });
            work += group.work;
            members += group.members.len();
            widest = widest.max(group.work / group.members.len().max(1));
        }
        if members > MOST_MEMBERS {
            return false;
        }
        // Flat kernels with partial results go by chunks, whatever the rows.
        partial
            || joint == before
            || (joint >= ENOUGH_ROWS && widest / joint <= ROW_ELEMENTS)
            || (before < ENOUGH_ROWS && work <= SMALL_WORK)
    }

    fn work(&self, n: N) -> usize {
        let size = match self.net.nodes[n].op {
            Op::Reduce { .. } | Op::ArgReduce { .. } => self.net.len_of(self.net.nodes[n].operands[0]),
            _ => self.net.len_of(n),
        };
        size * (1 + cost(self.net, n))
    }

    fn join(&mut self, n: N, level: usize, rows: usize, chosen: &[usize]) {
        let flat = flat_size(self.net, &self.class, n);
        let work = self.work(n);
        self.level[n] = level;
        let Some((&first, others)) = chosen.split_first() else {
            let staged = self.class[n] == Class::Staged;
            self.groups.push(Group { rows, work, flat, cone: self.cone[n], staged, members: vec![n] });
            self.parent.push(self.groups.len() - 1);
            self.first_user.push(usize::MAX);
            self.group_of[n] = Some(self.groups.len() - 1);
            return;
        };
        let mut target = first;
        for &other in others {
            let (keep, gone) =
                if self.groups[target].members.len() >= self.groups[other].members.len() { (target, other) } else { (other, target) };
            let moved = std::mem::take(&mut self.groups[gone].members);
            let (more, other_flat, staged) = (self.groups[gone].work, self.groups[gone].flat, self.groups[gone].staged);
            let group = &mut self.groups[keep];
            // A partial reduction stays among the first two, where `accept` looks.
            if moved.iter().take(2).any(|&m| self.net.nodes[m].partial) {
                let old = std::mem::replace(&mut group.members, moved);
                group.members.extend(old);
            } else {
                group.members.extend(moved);
            }
            group.work += more;
            group.staged |= staged;
            if group.flat != other_flat {
                group.flat = None;
            }
            self.parent[gone] = keep;
            self.first_user[keep] = self.first_user[keep].min(self.first_user[gone]);
            target = keep;
        }
        let group = &mut self.groups[target];
        group.rows = rows;
        group.work += work;
        group.staged |= self.class[n] == Class::Staged;
        if group.flat != flat {
            group.flat = None;
        }
        if self.net.nodes[n].partial {
            group.members.insert(0, n);
        } else {
            group.members.push(n);
        }
        self.group_of[n] = Some(target);
    }

    /// Whether computing `n` again costs less than storing it: few additions on few arrays that are stored anyway.
    fn recomputable(&self, n: N, edges: &[(N, usize)]) -> Option<(usize, SmallVec<[N; 3]>)> {
        if self.class[n] != Class::Elem || self.stored[n] || matches!(self.net.nodes[n].op, Op::Gather { .. }) {
            return None;
        }
        let size = self.net.len_of(n);
        let mut total = cost(self.net, n);
        let mut leaves: SmallVec<[N; 3]> = SmallVec::new();
        for &(m, _) in edges {
            match &self.again[m] {
                Some((more, below)) if self.class[m] == Class::Elem && !self.stored[m] => {
                    total += more;
                    below.iter().for_each(|&l| {
                        if !leaves.contains(&l) {
                            leaves.push(l)
                        }
                    });
                }
                _ if self.class[m] == Class::Elem && !self.stored[m] => return None,
                _ => {
                    if !leaves.contains(&m) {
                        leaves.push(m);
                    }
                }
            }
        }
        let large = leaves.iter().filter(|&&l| self.net.len_of(l) * 8 > size).count();
        (total <= CHEAP && large <= 1 && leaves.len() <= 3).then_some((total, leaves))
    }

    fn finish(mut self) -> Grouping {
        let net = self.net;
        for n in 0..net.nodes.len() {
            if let Some(g) = self.group_of[n] {
                let g = self.find(g);
                self.group_of[n] = Some(g);
            }
        }
        // What crosses a boundary is stored, or computed again from stored leaves.
        for n in 0..net.nodes.len() {
            if self.class[n] == Class::View || self.class[n] == Class::Leaf {
                continue;
            }
            let apart = self.class[n] == Class::Apart;
            for (m, _) in bases(net, &self.class, n) {
                if !self.is_member(m) || (!apart && self.group_of[m] == self.group_of[n]) {
                    continue;
                }
                let fits = self.flat_again[m] || self.group_of[n].is_none_or(|g| self.groups[g].flat.is_none());
                match &self.again[m] {
                    Some((_, leaves)) if fits && !self.stored[m] => {
                        for leaf in leaves.clone() {
                            self.stored[leaf] = true;
                        }
                    }
                    _ => self.stored[m] = true,
                }
            }
        }
        let mut index = vec![usize::MAX; self.groups.len()];
        let mut groups = Vec::new();
        for (g, mut group) in self.groups.into_iter().enumerate() {
            if self.parent[g] == g {
                group.members.sort_unstable();
                index[g] = groups.len();
                groups.push(group);
            }
        }
        let group_of = self.group_of.iter().map(|g| g.map(|g| index[g])).collect();
        let watched = vec![false; net.nodes.len()];
        Grouping { class: self.class, group_of, groups, stored: self.stored, watched }
    }
}
