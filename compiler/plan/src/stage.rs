//! From a fused group to a kernel: which members are stages with loops, in which phase of a row each runs, and the loops themselves.
//!
//! A kernel works row by row. Within a row there are phases; a stage runs in a later phase than the stages it depends on, unless it uses
//! exactly the element computed in the same pass of the same loop. Members that are no stages are computed where they are used.

use crate::emit::{Emitter, Origins, Slot, value_type};
use crate::group::Grouping;
use crate::index::Idx;
use crate::keep::{hold, keep_repeated, keep_rows};
use crate::lin::{Lin, Misfit};
use crate::loops::runs;
use crate::net::{CHUNK, N, Net, identity};
use crate::rows::{Class, cost, edge_rows};
use optc_abi::DType;
use optc_abi::plan::WRITTEN_ORIGIN;
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{AccId, AccOp, Access, Expr, Extent, Kernel, LoopKind, ValueId};
use optc_ir::{Op, ScalarOp};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// Nanoseconds of one element operation, for the choice of units of work.
pub(crate) const NS_PER_OP: f64 = 0.12;
/// Nanoseconds one unit of work should take at least.
pub(crate) const UNIT_NS: f64 = 25_000.0;
/// Elements of one row of an elementwise kernel that make its loops worth their overhead.
const ROW: usize = 512;

/// One use of a kernel's code, before memory is known.
#[derive(Clone, Debug)]
pub(crate) struct CallShape {
    pub sizes: Vec<i64>,
    pub range: i64,
    pub grain: i64,
    /// Rows of [`CHUNK`] elements before this call's first one.
    pub skip: usize,
}

/// A kernel with what its buffers stand for.
pub(crate) struct Emitted {
    pub kernel: Kernel,
    pub slots: Vec<Slot>,
    pub scratch: Vec<(DType, usize)>,
    pub calls: Vec<CallShape>,
    /// Elements of the arrays of a flat kernel; 0 for others.
    pub flat: usize,
    /// Estimated time of one run on one thread.
    pub ns: f64,
    /// For each buffer: whether an output may overwrite it in place, given the time of its last load; and the time of its first store.
    pub aligned: Vec<bool>,
    pub times: Vec<(usize, usize)>,
    pub name: String,
    /// The node whose origin stands for the kernel.
    pub main: N,
}

/// How a stage runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Stores one value per element of its space.
    Store,
    /// Combines all elements of the row to one value.
    Total(ReduceOp),
    /// Has loops of its own.
    Own,
}

pub(crate) struct Stage {
    pub node: N,
    pub kind: Kind,
    /// Elements of its index space.
    pub space: usize,
    pub phase: usize,
    /// Members computed in the same pass, in order.
    pub inline: Vec<N>,
    /// Members computed at other places than the present one.
    pub elsewhere: Vec<N>,
    /// Stages it depends on.
    pub after: Vec<N>,
    /// Where a stored result goes.
    pub slot: Slot,
}

/// The accumulators of a stage.
struct Accs {
    /// Of a reduction.
    total: Option<AccId>,
    /// Of a watched array.
    finite: Option<AccId>,
}

/// Which loop of a kernel a stage runs in, in order: phase, elements, and a number of its own for a stage that shares no loop.
pub(crate) type LoopKey = (usize, usize, usize);

impl Stage {
    pub fn new(net: &Net, node: N, slot: Slot) -> Stage {
        Stage {
            node,
            kind: Kind::Own,
            space: space_of(net, node),
            phase: 0,
            inline: Vec::new(),
            elsewhere: Vec::new(),
            after: Vec::new(),
            slot,
        }
    }

    /// Stages of one phase and space share a loop; a stage with loops of its own stands alone. `position` is the stage's among all.
    pub fn loop_key(&self, position: usize) -> LoopKey {
        (self.phase, self.space, if self.kind == Kind::Own { position + 1 } else { 0 })
    }
}

/// Emits the kernel of a group.
pub(crate) fn emit_group(net: &Net, grouping: &Grouping, group: usize, origins: &mut Origins) -> Emitted {
    let g = &grouping.groups[group];
    let mut stages = stages(net, grouping, group);
    let work: usize = g.members.iter().map(|&m| (1 + cost(net, m)) * space_of(net, m)).sum();
    let ns = work as f64 * NS_PER_OP;
    let mut e = Emitter::new(net, grouping, Some(group), origins);
    let main = *g.members.iter().max_by_key(|&&m| (cost(net, m) * space_of(net, m), m)).expect("a group has members");
    let name = name(net, &g.members, main);
    if let Some(size) = g.flat {
        assign_phases(net, grouping, group, 1, &mut stages);
        return flat_kernel(e, &stages, size, ns, name, main);
    }
    let rows = choose_rows(net, &stages, g.rows, ns);
    assign_phases(net, grouping, group, rows, &mut stages);
    keep_repeated(net, grouping, group, rows, &mut e.scratch, &mut stages);
    hold(net, grouping, group, rows, &mut stages);
    keep_rows(net, grouping, group, rows, &mut stages);
    e.rows = rows;
    let row = if rows > 1 {
        let axis = e.b.open(Extent::Const(rows as i64), LoopKind::Parallel);
        e.row_axis = Some(axis);
        Lin::axis(axis)
    } else {
        Lin::default()
    };
    let mut phases: BTreeMap<LoopKey, Vec<&Stage>> = BTreeMap::new();
    for (position, stage) in stages.iter().enumerate() {
        phases.entry(stage.loop_key(position)).or_default().push(stage);
    }
    for bucket in phases.values() {
        let done = match bucket[..] {
            [one] if one.kind == Kind::Own => e.own_loops(one.node, rows, &row),
            _ => e.shared_loop(bucket, rows, &row),
        };
        if let Err(misfit) = done {
            panic!("compiler bug: no loop owns the axis of {misfit:?}");
        }
    }
    if rows > 1 {
        e.b.close();
    }
    let grain = if ns <= 2.0 * UNIT_NS { rows } else { ((UNIT_NS * rows as f64 / ns).ceil() as usize).clamp(1, rows) };
    let calls = vec![CallShape { sizes: Vec::new(), range: rows as i64, grain: grain as i64, skip: 0 }];
    finish(e, calls, 0, ns, name, main)
}

/// Packs up.
pub(crate) fn finish(e: Emitter<'_>, calls: Vec<CallShape>, flat: usize, ns: f64, name: String, main: N) -> Emitted {
    let times = e.b.times.clone();
    let aligned = e.unaligned.iter().map(|u| !u).collect();
    Emitted { kernel: e.b.finish(), slots: e.slots, scratch: e.scratch, calls, flat, ns, aligned, times, name, main }
}

fn space_of(net: &Net, n: N) -> usize {
    match net.nodes[n].op {
        Op::Reduce { .. } | Op::ArgReduce { .. } => net.len_of(net.nodes[n].operands[0]),
        _ => net.len_of(n),
    }
}

/// A short description: the most expensive operations and the shape of the main one.
fn name(net: &Net, members: &[N], main: N) -> String {
    let mut words: Vec<(usize, &'static str)> = Vec::new();
    for &m in members {
        let word = match &net.nodes[m].op {
            Op::Map(s) => s.name(),
            Op::Reduce { kind, .. } => match kind {
                ReduceOp::Sum => "sum",
                ReduceOp::Prod => "prod",
                ReduceOp::Max => "max",
                ReduceOp::Min => "min",
                ReduceOp::And => "all",
                ReduceOp::Or => "any",
            },
            Op::ArgReduce { .. } => "argreduce",
            Op::Scan { .. } => "scan",
            Op::Gather { .. } => "gather",
            Op::Concat { .. } => "concat",
            Op::Cast => "cast",
            _ => "copy",
        };
        if !words.iter().any(|w| w.1 == word) {
            words.push((cost(net, m) + usize::from(matches!(net.nodes[m].op, Op::Reduce { .. })) * 10, word));
        }
    }
    words.sort_by_key(|w| std::cmp::Reverse(w.0));
    let words: Vec<&str> = words.into_iter().take(3).map(|w| w.1).collect();
    let main = if let Op::Reduce { .. } = net.nodes[main].op { net.nodes[main].operands[0] } else { main };
    let dims: Vec<String> = net.nodes[main].ty.shape.iter().map(|d| d.to_string()).collect();
    if dims.is_empty() { words.join("_") } else { format!("{}.{}", words.join("_"), dims.join("x")) }
}

/// The members that need loops, in topological order.
fn stages(net: &Net, grouping: &Grouping, group: usize) -> Vec<Stage> {
    let g = &grouping.groups[group];
    let is_stage = |m: &&N| grouping.stored[**m] || grouping.class[**m] == Class::Staged;
    g.members.iter().filter(is_stage).map(|&node| Stage::new(net, node, Slot::Node(node))).collect()
}

/// Decides how each stage runs for this number of rows, and when.
pub(crate) fn assign_phases(net: &Net, grouping: &Grouping, group: usize, rows: usize, stages: &mut [Stage]) {
    let index: FxHashMap<N, usize> = stages.iter().enumerate().map(|(i, s)| (s.node, i)).collect();
    for i in 0..stages.len() {
        let node = stages[i].node;
        stages[i].kind = match &net.nodes[node].op {
            Op::Reduce { kind, axes } => {
                let shape = &net.nodes[net.nodes[node].operands[0]].ty.shape;
                let inner = runs(shape, |a| axes.contains(&a));
                let single = net.nodes[node].partial || net.len_of(node) == rows;
                let kept_first = inner.iter().skip_while(|r| !r.1).all(|r| r.1);
                if single && kept_first { Kind::Total(*kind) } else { Kind::Own }
            }
            _ if grouping.class[node] == Class::Elem => Kind::Store,
            _ => Kind::Own,
        };
        let (deps, inline, elsewhere) = dependencies(net, grouping, group, &index, node, stages[i].space);
        let mut phase = 0;
        stages[i].after = deps.iter().map(|&(dep, _)| stages[dep].node).collect();
        for (dep, local) in deps {
            let other = &stages[dep];
            let same_pass = local && other.kind == Kind::Store && other.space == stages[i].space && stages[i].kind != Kind::Own;
            phase = phase.max(other.phase + usize::from(!same_pass));
        }
        stages[i].phase = phase;
        stages[i].inline = inline;
        stages[i].elsewhere = elsewhere;
    }
}

/// The stages a stage's expression reaches (and whether at the same element), and the members it computes at the same element, or at others.
fn dependencies(
    net: &Net,
    grouping: &Grouping,
    group: usize,
    index: &FxHashMap<N, usize>,
    node: N,
    space: usize,
) -> (Vec<(usize, bool)>, Vec<N>, Vec<N>) {
    let mut deps = Vec::new();
    let (mut inline, mut elsewhere) = (Vec::new(), Vec::new());
    let mut seen: FxHashSet<(N, bool)> = FxHashSet::default();
    let mut todo: Vec<(N, bool)> = Vec::new();
    let step = |n: N, local: bool, todo: &mut Vec<(N, bool)>| {
        for (k, &o) in net.nodes[n].operands.iter().enumerate() {
            let rows = if n == node && matches!(net.nodes[n].op, Op::Reduce { .. }) { space } else { edge_rows(net, n, k) };
            todo.push((o, local && rows == space && net.len_of(o) == space));
        }
    };
    step(node, true, &mut todo);
    while let Some((n, local)) = todo.pop() {
        if !seen.insert((n, local)) {
            continue;
        }
        if let Some(&stage) = index.get(&n) {
            deps.push((stage, local));
            continue;
        }
        let here = grouping.group_of[n] == Some(group);
        let loaded = match grouping.class[n] {
            Class::Leaf | Class::Apart => true,
            Class::View => false,
            _ => !here && grouping.stored[n],
        };
        if loaded {
            continue;
        }
        if grouping.class[n] == Class::Elem {
            if local { &mut inline } else { &mut elsewhere }.push(n);
        }
        step(n, local, &mut todo);
    }
    inline.sort_unstable();
    (deps, inline, elsewhere)
}

/// How many rows a kernel's parallel loop has. Elementwise kernels want long rows; kernels with stages that need whole rows take them.
fn choose_rows(net: &Net, stages: &[Stage], rows: usize, ns: f64) -> usize {
    let elementwise = stages.iter().all(|s| !matches!(net.nodes[s.node].op, Op::Reduce { .. } | Op::ArgReduce { .. } | Op::Scan { .. }));
    if !elementwise {
        return rows;
    }
    if ns <= 2.0 * UNIT_NS {
        return 1;
    }
    let Some(widest) = stages.iter().max_by_key(|s| s.space) else { return 1 };
    let size = widest.space;
    let mut best = 1;
    let mut product = 1;
    for &extent in &net.nodes[widest.node].ty.shape {
        product *= extent;
        if rows.is_multiple_of(product) && size / product >= ROW {
            best = product;
        }
    }
    if best >= 8 {
        return best;
    }
    let found = (4 * ROW..64 * ROW).find(|n| size.is_multiple_of(*n) && rows.is_multiple_of(size / n));
    found.map_or(best, |n| size / n)
}

/// A kernel on whole arrays in order, of a size known when it is called.
fn flat_kernel(mut e: Emitter<'_>, stages: &[Stage], size: usize, ns: f64, name: String, main: N) -> Emitted {
    e.b.kernel.sizes = 1;
    // The number of chunks is the call's; the extent here only says that it is not known.
    let chunk = e.b.open(Extent::Size(1), LoopKind::Parallel);
    e.b.kernel.sizes = 2;
    e.row_axis = Some(chunk);
    let accs: Vec<Accs> = stages.iter().map(|s| e.accs(s)).collect();
    let i = e.b.open(Extent::Size(0), LoopKind::Vector);
    let at = Lin::axis(chunk).scaled(CHUNK as i64).add_scaled(&Lin::axis(i), 1);
    let order: Vec<&Stage> = stages.iter().collect();
    if e.pass(&order, &accs, &at, size).is_err() {
        panic!("compiler bug: a flat kernel with an index that is not flat");
    }
    e.b.close();
    e.results(&order, &accs, &Lin::axis(chunk));
    e.b.close();
    let grain = (UNIT_NS * (size / CHUNK) as f64 / ns).ceil().clamp(1.0, 64.0) as i64;
    finish(e, chunk_calls(size, grain), size, ns, name, main)
}

/// The uses of a flat kernel on arrays of `size` elements: whole chunks, and the rest.
pub(crate) fn chunk_calls(size: usize, grain: i64) -> Vec<CallShape> {
    let (full, rest) = (size / CHUNK, size % CHUNK);
    let mut calls = Vec::new();
    if full > 0 {
        calls.push(CallShape { sizes: vec![CHUNK as i64, full as i64], range: full as i64, grain, skip: 0 });
    }
    if rest > 0 {
        calls.push(CallShape { sizes: vec![rest as i64, 1], range: 1, grain: 1, skip: full });
    }
    calls
}

impl Emitter<'_> {
    /// A new accumulator at its identity, in the present loop.
    pub fn accumulator(&mut self, kind: ReduceOp, dtype: DType) -> AccId {
        let acc = self.b.acc(value_type(dtype), AccOp::Reduce(kind));
        let start = identity(kind, dtype);
        let start = self.b.literal(value_type(dtype), start, start as i64);
        self.b.init(acc, start);
        acc
    }

    fn accs(&mut self, stage: &Stage) -> Accs {
        let dtype = self.net.nodes[stage.node].ty.dtype;
        let watched = self.grouping.watched[stage.node] && stage.kind == Kind::Store && stage.slot == Slot::Node(stage.node);
        Accs {
            total: if let Kind::Total(kind) = stage.kind { Some(self.accumulator(kind, dtype)) } else { None },
            finite: watched.then(|| self.finite(dtype)),
        }
    }

    /// The accumulator of a watched array: of floats of 32 bits and less the largest magnitude as bits, which an integer maximum finds without waiting for sums; of
    /// others a sum of zeros, which one value that is not finite makes NaN.
    pub fn finite(&mut self, dtype: DType) -> AccId {
        if value_type(dtype) == DType::F32 { self.accumulator(ReduceOp::Max, DType::U32) } else { self.accumulator(ReduceOp::Sum, dtype) }
    }

    /// Notes a value of a watched array.
    pub fn note(&mut self, finite: AccId, value: ValueId) {
        let dtype = self.b.dtype(value);
        let seen = if dtype == DType::F32 {
            let bits = self.b.pure(DType::U32, Expr::Bitcast(value));
            let magnitude = self.b.literal(DType::U32, 0.0, 0x7FFF_FFFF);
            self.b.map(ScalarOp::And, DType::U32, &[bits, magnitude])
        } else {
            let zero = self.b.literal(dtype, 0.0, 0);
            self.b.map(ScalarOp::Mul, dtype, &[value, zero])
        };
        self.b.update(finite, seen);
    }

    /// Reports a watched array of type `stored` that was not finite. What is noted may still have to be rounded to that type, and become infinite by that.
    pub fn check(&mut self, finite: AccId, stored: DType) {
        let found = self.b.read(finite);
        let bad = if self.b.dtype(found) == DType::U32 {
            let least = match stored {
                DType::F16 => 0x477F_F000,
                DType::BF16 => 0x7F7F_8000,
                _ => 0x7F80_0000,
            };
            let infinity = self.b.literal(DType::U32, 0.0, least);
            self.b.map(ScalarOp::Le, DType::Bool, &[infinity, found])
        } else {
            self.b.map(ScalarOp::IsNan, DType::Bool, &[found])
        };
        let index = self.b.cast(bad, DType::I32);
        self.b.pure(DType::I32, Expr::CheckedIndex { index, extent: 1, origin: WRITTEN_ORIGIN });
    }

    /// One pass over an element: all values first, then what changes memory.
    fn pass(&mut self, stages: &[&Stage], accs: &[Accs], at: &Lin, space: usize) -> Result<(), Misfit> {
        self.here = Some((at.clone(), space));
        let mut values: Vec<ValueId> = Vec::with_capacity(stages.len());
        for stage in stages {
            for &m in &stage.inline {
                self.emit(m, &Idx::Flat(at.clone()), None)?;
            }
            values.push(match stage.kind {
                Kind::Store => self.emit_stored(stage, at)?,
                _ => self.emit(self.net.nodes[stage.node].operands[0], &Idx::Flat(at.clone()), None)?,
            });
        }
        for ((stage, acc), value) in stages.iter().zip(accs).zip(values) {
            match acc.total {
                Some(acc) => self.b.update(acc, value),
                None => {
                    let buffer = self.buffer(stage.slot, Access::Write);
                    let at = self.place_in(stage.slot, at);
                    self.b.store(buffer, &at, value);
                }
            }
            if let Some(finite) = acc.finite {
                self.note(finite, value);
            }
        }
        self.here = None;
        Ok(())
    }

    /// After a loop: totals become values of the row, stored arrays can be loaded.
    fn results(&mut self, stages: &[&Stage], accs: &[Accs], row: &Lin) {
        for (stage, acc) in stages.iter().zip(accs) {
            if let Some(finite) = acc.finite {
                self.check(finite, self.net.nodes[stage.node].ty.dtype);
            }
            match acc.total {
                Some(acc) => {
                    let value = self.b.read(acc);
                    self.row_values.insert(stage.node, value);
                    if self.grouping.stored[stage.node] {
                        let buffer = self.buffer(Slot::Node(stage.node), Access::Write);
                        self.b.store(buffer, row, value);
                    }
                }
                None => {
                    self.in_memory.insert(stage.node, stage.slot);
                }
            }
        }
    }

    /// The loop of several stages over one index space.
    fn shared_loop(&mut self, stages: &[&Stage], rows: usize, row: &Lin) -> Result<(), Misfit> {
        let space = stages[0].space;
        let inner = space / rows;
        let accs: Vec<Accs> = stages.iter().map(|s| self.accs(s)).collect();
        self.nest(&[inner], LoopKind::Vector, &mut |e, at| {
            let at = row.scaled(inner as i64).add_scaled(&at[0], 1);
            e.pass(stages, &accs, &at, space)
        })?;
        self.results(stages, &accs, row);
        Ok(())
    }
}
