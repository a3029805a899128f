//! Kernels for GPUs: which threads do what.
//!
//! One pass of a kernel's parallel loop, a unit, belongs to a group of threads: a whole block where vector loops are long, a warp where they are shorter, a single
//! thread where they are very short. Threads of a group run the same statements; passes of a vector loop are dealt out among them, each in turn (four neighbors
//! at a time where memory allows), and accumulators are combined in a fixed order: each thread's passes in order, then warps by butterfly, then warps in
//! order. So a result is the same bits in every run, though not those of other back ends. What a group has stored is read by its other threads only
//! behind a barrier; [`Touched`] says where one is needed.

use crate::body::{Body, Position, Real, updated};
use crate::host::Facts;
use crate::ins::{IntCC, Opcode, V};
use crate::machine::Machine;
use crate::nest::{Nest, dealt, nest};
use crate::tiles::Tiles;
use optc_abi::DType;
use optc_ir::kernel::{AccOp, AxisId, BufferId, Expr, Extent, FLAT_UNIT, Index, Kernel, LOCAL, LoopKind, Stmt, combine_op, identity};

/// Threads of a warp.
pub(crate) const WARP: i64 = 32;
/// Threads of a block that works on several units, or on one with long loops.
const BLOCK: i64 = 256;
/// Neighbors that a thread takes at a time.
const NEIGHBORS: i64 = 4;
/// Longest vector loop of units that belong to single threads.
const SHORT: i64 = 8;
/// Longest vector loop of units that belong to warps.
const MEDIUM: i64 = 512;
/// Shared memory that a block may have on every GPU.
const SHARED: i64 = 48 << 10;

/// How a kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Threads of a block.
    pub threads: i64,
    /// Units that a block works on at a time.
    pub units: i64,
    /// Pieces of a unit that different blocks may work on: there is work for `units * pieces` as many.
    pub pieces: i64,
    /// Bytes of shared memory of a block.
    pub shared: i64,
}

/// A kernel's launch and the size of its groups.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) launch: Launch,
    pub(crate) group: i64,
    /// Offset of each local array of the block's first group in shared memory; none where a thread has its own.
    locals: Vec<i64>,
    /// Bytes of local arrays of one group.
    local_bytes: i64,
    /// Where warps exchange what they have added up.
    scratch: i64,
    /// Where the block's threads agree on whether the run has been stopped, if the kernel itself may stop it and they wait for each other.
    pub(crate) verdict: Option<i64>,
    /// Loops that are taken apart.
    pub(crate) nest: Nest,
    /// Threads of a part of a block that takes passes of loops by itself, if there are such loops.
    team: Option<i64>,
    /// Accesses that go through tiles in shared memory.
    pub(crate) tiles: Option<Tiles>,
}

fn longest(body: &[Stmt], found: &mut i64) {
    for stmt in body {
        if let Stmt::For { extent, kind, body, .. } = stmt {
            if *kind == LoopKind::Vector {
                *found = (*found).max(match extent {
                    Extent::Const(n) => *n,
                    Extent::Size(_) => FLAT_UNIT,
                });
            }
            longest(body, found);
        }
    }
}

/// Whether a kernel may report an index out of range.
fn checks(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::For { body, .. } => checks(body),
        Stmt::Let { expr, .. } => matches!(expr, Expr::CheckedIndex { .. }),
        _ => false,
    })
}

/// Accumulators of the vector loop that updates most of them.
fn most_updated(body: &[Stmt]) -> usize {
    let inside = body.iter().map(|stmt| if let Stmt::For { body, .. } = stmt { most_updated(body) } else { 0 });
    inside.max().unwrap_or(0).max(updated(body).len())
}

/// Decides how a kernel's units are shared out.
pub(crate) fn shape(kernel: &Kernel, facts: &Facts) -> Shape {
    let nest = nest(kernel, facts);
    if let Some(tiles) = Tiles::of(kernel, &nest, facts) {
        let shared = tiles.bytes();
        let verdict = checks(&kernel.body).then_some(shared);
        let shared = shared + if verdict.is_some() { 8 } else { 0 };
        let launch = Launch { threads: BLOCK, units: tiles.units(), pieces: tiles.pieces(&nest), shared };
        return Shape {
            launch,
            group: BLOCK,
            locals: Vec::new(),
            local_bytes: 0,
            scratch: 0,
            verdict,
            nest,
            team: None,
            tiles: Some(tiles),
        };
    }
    let mut n = 0;
    longest(&kernel.body, &mut n);
    let mut offset = 0;
    let mut locals = Vec::new();
    for local in &kernel.locals {
        locals.push(offset);
        offset += ((local.len * local.dtype.size()) as i64 + 15) / 16 * 16;
    }
    let pieces = nest.pieces();
    let parallel = pieces > 1 || kernel.body.iter().any(|s| matches!(s, Stmt::For { kind: LoopKind::Parallel, .. }));
    let mut group = match n {
        n if n <= SHORT => 1,
        n if n <= MEDIUM => WARP,
        _ => BLOCK,
    };
    let threads = if parallel { BLOCK } else { group };
    let scratch_bytes = |group: i64| if group > WARP { most_updated(&kernel.body) as i64 * (group / WARP) * 8 } else { 0 };
    if group > 1 && offset * (threads / group) > SHARED {
        group = threads.max(BLOCK);
    }
    // A block for each unit where parts of it can share the passes of loops.
    let shares =
        |s: &Stmt| matches!(s, Stmt::For { axis, extent, kind: LoopKind::Serial, body } if dealt(kernel, *axis, *extent, body, facts));
    let team = (group <= WARP && nest.body.iter().any(shares)).then_some(group);
    if team.is_some() {
        group = BLOCK;
    }
    let threads = threads.max(group);
    let local_bytes = if group > 1 { offset } else { 0 };
    let scratch = local_bytes * (threads / group);
    let shared = scratch + scratch_bytes(group);
    let verdict = (group > 1 && checks(&kernel.body)).then_some(shared);
    let launch = Launch { threads, units: threads / group, pieces, shared: shared + if verdict.is_some() { 8 } else { 0 } };
    Shape { launch, group, locals, local_bytes, scratch, verdict, nest, team, tiles: None }
}

/// Buffers and local arrays that have been read and written since the last barrier of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    read: Vec<BufferId>,
    written: Vec<BufferId>,
}

impl Touched {
    fn index(list: &mut Vec<BufferId>, buffer: BufferId) {
        if !list.contains(&buffer) {
            list.push(buffer);
        }
    }
    fn of(body: &[Stmt], class: &dyn Fn(BufferId) -> BufferId) -> Touched {
        let mut all = Touched::default();
        for stmt in body {
            match stmt {
                Stmt::For { body, .. } => all.add(&Touched::of(body, class)),
                Stmt::Let { expr: Expr::Load { buffer, .. }, .. } => Touched::index(&mut all.read, class(*buffer)),
                Stmt::Store { buffer, .. } => Touched::index(&mut all.written, class(*buffer)),
                _ => {}
            }
        }
        all
    }
    fn add(&mut self, other: &Touched) {
        other.read.iter().for_each(|&b| Touched::index(&mut self.read, b));
        other.written.iter().for_each(|&b| Touched::index(&mut self.written, b));
    }
    /// Whether what comes next has to wait for the rest of the group.
    fn meets(&self, next: &Touched) -> bool {
        let any = |list: &[BufferId], other: &[BufferId]| list.iter().any(|b| other.contains(b));
        any(&self.written, &next.read) || any(&self.written, &next.written) || any(&self.read, &next.written)
    }
    fn has_locals(&self) -> bool {
        self.read.iter().chain(&self.written).any(|&b| b >= LOCAL)
    }
}

/// How threads share the kernel under construction.
pub(crate) struct Simt {
    shape: Shape,
    /// Number of the thread in its group.
    lane: V,
    /// Number of its group in the block.
    group: V,
    pub(crate) block: V,
    pub(crate) blocks: V,
    pub(crate) shared: Option<V>,
    /// Whether this thread is the one that stores what all threads of the group know; none if every thread is.
    pub(crate) store_by: Option<V>,
    pending: Touched,
    /// In a vector loop: nothing is to be waited for.
    pub(crate) inside: bool,
    /// What is known of parameters.
    facts: Facts,
}

impl Body<'_> {
    /// Finds out which thread this is; to be done before anything else. `alone`: the range of units is this block's, and not all blocks'.
    pub(crate) fn open_simt(&mut self, shape: Shape, facts: &Facts, shared: Option<V>, alone: bool) {
        let i = &self.e.i;
        let long = i.int_type(64);
        let [thread, block, blocks] = ["tid.x", "ctaid.x", "nctaid.x"].map(|name| i.cast(Opcode::LLVMZExt, self.e.special(name), long));
        let (block, blocks) = if alone { (i.i64(0), i.i64(1)) } else { (block, blocks) };
        let size = i.i64(shape.group);
        let (lane, group) = match shape.group {
            1 => (i.i64(0), thread),
            g if g == shape.launch.threads => (thread, i.i64(0)),
            _ => (i.op2(Opcode::LLVMURem, thread, size), i.op2(Opcode::LLVMUDiv, thread, size)),
        };
        let first = i.icmp(IntCC::LLVMIntEQ, lane, i.i64(0));
        let store_by = (shape.group > 1).then_some(first);
        for (l, local) in self.kernel.locals.iter().enumerate() {
            let at = match shared {
                Some(base) if shape.group > 1 => {
                    let offset = i.add(i.mul(group, i.i64(shape.local_bytes)), i.i64(shape.locals[l]));
                    i.element(i.int_type(8), base, offset)
                }
                _ => i.stack(i.array(i.scalar(local.dtype), local.len), 16),
            };
            self.locals.push(at);
        }
        let (pending, facts) = (Touched::default(), facts.clone());
        self.simt = Some(Simt { shape, lane, group, block, blocks, shared, store_by, pending, inside: false, facts });
    }

    pub(crate) fn simt(&mut self) -> &mut Simt {
        self.simt.as_mut().expect("a kernel for a GPU")
    }

    fn touched(&self, body: &[Stmt]) -> Touched {
        let aliased = &self.simt.as_ref().expect("a kernel for a GPU").facts.aliased;
        // All parameters that may be each other's memory count as one.
        let first = aliased.iter().position(|&a| a).unwrap_or(0);
        Touched::of(body, &|b| if aliased.get(b).copied().unwrap_or(false) { first } else { b })
    }

    /// The group's threads wait for each other.
    fn sync(&mut self) {
        let group = self.simt().shape.group;
        self.simt().pending = Touched::default();
        match group {
            1 => {}
            WARP => self.e.warp_sync(),
            _ => self.e.block_barrier(),
        }
    }

    /// Whether the statement under way stands in a vector loop whose passes are dealt out.
    pub(crate) fn lanes_here(&self) -> bool {
        self.simt.as_ref().is_some_and(|s| s.inside)
    }

    /// Before statements that touch memory.
    pub(crate) fn before(&mut self, body: &[Stmt]) {
        if self.simt.as_ref().is_none_or(|s| s.inside || s.shape.group == 1) {
            return;
        }
        let next = self.touched(body);
        if self.simt().pending.meets(&next) {
            self.sync();
        }
        self.simt().pending.add(&next);
    }

    /// At the end of the body of a loop in order, which will run again.
    pub(crate) fn again(&mut self, body: &[Stmt]) {
        if self.simt.as_ref().is_none_or(|s| s.inside || s.shape.group == 1) {
            return;
        }
        let next = self.touched(body);
        if self.simt().pending.meets(&next) {
            self.sync();
        }
    }

    /// All that the kernel does: pieces dealt out to groups where loops are taken apart.
    pub(crate) fn all(&mut self) {
        let s = self.simt.as_ref().expect("a kernel for a GPU");
        let nest = s.shape.nest.clone();
        if let Some(tiles) = s.shape.tiles.clone() {
            return self.tiled(&nest, &tiles);
        }
        let pieces = nest.pieces();
        if pieces == 1 {
            let kernel = self.kernel;
            return self.block(&kernel.body);
        }
        let i = &self.e.i;
        let (each, pieces) = (i.i64(s.shape.launch.units), i.i64(pieces));
        let first = i.add(i.mul(self.begin, pieces), i.add(i.mul(s.block, each), s.group));
        let (step, end) = (i.mul(s.blocks, each), i.mul(self.end, pieces));
        let axis = nest.parallel.unwrap_or(nest.apart[0].0);
        self.strided(axis, first, end, step, |b| {
            let mut rest = b.axes[axis].expect("the loop has set its axis");
            for &(axis, n) in nest.apart.iter().rev() {
                let i = &b.e.i;
                b.axes[axis] = Some(i.op2(Opcode::LLVMURem, rest, i.i64(n)));
                rest = i.op2(Opcode::LLVMUDiv, rest, i.i64(n));
            }
            if let Some(axis) = nest.parallel {
                b.axes[axis] = Some(rest);
            }
            b.block(&nest.between);
            b.block(&nest.body);
            if b.simt().pending.has_locals() {
                b.sync();
            }
        });
    }

    /// The parallel loop: units dealt out to groups.
    pub(crate) fn units(&mut self, axis: AxisId, body: &[Stmt]) {
        let i = &self.e.i;
        let s = self.simt.as_ref().expect("a kernel for a GPU");
        let each = i.i64(s.shape.launch.units);
        let first = i.add(self.begin, i.add(i.mul(s.block, each), s.group));
        let (step, end) = (i.mul(s.blocks, each), self.end);
        self.strided(axis, first, end, step, |b| {
            b.block(body);
            if b.simt().pending.has_locals() {
                b.sync();
            }
        });
    }

    /// Whether a loop in order is one whose passes are dealt out to parts of the block, which is then done.
    pub(crate) fn dealt_loop(&mut self, axis: AxisId, extent: Extent, n: V, body: &[Stmt]) -> bool {
        let Some(s) = &self.simt else { return false };
        let (Some(team), BLOCK) = (s.shape.team, s.shape.group) else { return false };
        if !dealt(self.kernel, axis, extent, body, &s.facts) {
            return false;
        }
        let next = self.touched(body);
        if self.simt().pending.meets(&next) {
            self.sync();
        }
        let i = &self.e.i;
        let s = self.simt.as_ref().expect("a kernel for a GPU");
        let thread = s.lane;
        let (lane, number) = match team {
            1 => (i.i64(0), thread),
            _ => (i.op2(Opcode::LLVMURem, thread, i.i64(team)), i.op2(Opcode::LLVMUDiv, thread, i.i64(team))),
        };
        let store_by = (team > 1).then(|| i.icmp(IntCC::LLVMIntEQ, lane, i.i64(0)));
        let mut outside = s.pending.clone();
        outside.add(&next);
        let before = self.simt().store_by;
        let s = self.simt();
        (s.shape.group, s.lane, s.store_by, s.pending) = (team, lane, store_by, Touched::default());
        let step = self.e.i.i64(BLOCK / team);
        self.strided(axis, number, n, step, |b| b.block(body));
        let s = self.simt();
        // The whole block waits before anything that meets what its parts have done.
        (s.shape.group, s.lane, s.store_by, s.pending) = (BLOCK, thread, before, outside);
        true
    }

    /// Whether some access of a loop can be of several neighbors at once; where none can, neighbors are better left to threads beside each other.
    fn any_wide(&self, axis: AxisId, body: &[Stmt]) -> bool {
        body.iter().any(|stmt| {
            let (buffer, index) = match stmt {
                Stmt::Let { expr: Expr::Load { buffer, index, .. }, .. } | Stmt::Store { buffer, index, .. } => (*buffer, index),
                _ => return false,
            };
            let size = self.kernel.dtype(buffer).size() as u32;
            index.axes.iter().any(|(a, _)| *a == axis) && self.aligned.get(buffer).is_none_or(|&bytes| bytes > size)
        })
    }

    /// A vector loop: passes dealt out to the threads of the group.
    pub(crate) fn shared_loop(&mut self, axis: AxisId, extent: Extent, n: V, body: &[Stmt]) {
        let group = self.simt().shape.group;
        if group == 1 {
            let zero = self.e.i.i64(0);
            self.counted(axis, zero, n, 1, |b| b.block(body));
            return;
        }
        let whole = Stmt::For { axis, extent, kind: LoopKind::Vector, body: body.to_vec() };
        self.before(std::slice::from_ref(&whole));
        self.simt().inside = true;
        let accs = updated(body);
        let parts: Vec<V> = accs.iter().map(|&acc| self.part(acc, 1)).collect();
        let lane = self.simt().lane;
        let mut from = lane;
        if neighbors(axis, extent, group, body) && self.any_wide(axis, body) {
            let wide: Vec<V> = accs.iter().map(|&acc| self.part(acc, NEIGHBORS as usize)).collect();
            self.lane_accs = accs.iter().copied().zip(wide.iter().copied()).collect();
            let to = self.e.i.and(n, self.e.i.i64(-NEIGHBORS));
            let start = self.e.i.mul(lane, self.e.i.i64(NEIGHBORS));
            let step = self.e.i.i64(group * NEIGHBORS);
            self.strided(axis, start, to, step, |b| {
                let start = b.axes[axis].expect("the loop has set its axis");
                b.position = Some(Position { axis, start, lanes: NEIGHBORS as usize, real: Real::All });
                b.block(body);
                b.position = None;
            });
            for ((&acc, &wide), &part) in accs.iter().zip(&wide).zip(&parts) {
                self.narrow_part(acc, wide, part);
            }
            from = self.e.i.add(to, lane);
        }
        self.lane_accs = accs.iter().copied().zip(parts.iter().copied()).collect();
        if !matches!(extent, Extent::Const(n) if n % NEIGHBORS == 0) || from == lane {
            let step = self.e.i.i64(group);
            self.strided(axis, from, n, step, |b| b.block(body));
        }
        self.lane_accs.clear();
        self.simt().inside = false;
        self.combine(&accs, &parts);
    }

    /// Room for a thread's share of an accumulator.
    fn part(&mut self, acc: usize, lanes: usize) -> V {
        let declared = &self.kernel.accs[acc];
        let AccOp::Reduce(op) = declared.op else { panic!("compiler bug: a vector loop assigns accumulator {acc}") };
        let start = self.e.literal(declared.dtype, identity(op, declared.dtype));
        let scalar = self.e.i.scalar(declared.dtype);
        let (ty, start) = if lanes == 1 { (scalar, start) } else { (self.e.i.vector(scalar, lanes), self.e.i.splat(start, lanes)) };
        let at = self.e.i.stack(ty, 64);
        self.e.i.store(start, at, 64);
        at
    }

    /// The lanes of a share, combined into a share of one.
    fn narrow_part(&mut self, acc: usize, wide: V, part: V) {
        let declared = &self.kernel.accs[acc];
        let AccOp::Reduce(op) = declared.op else { return };
        let (op, dtype) = (combine_op(op), declared.dtype);
        let x = self.e.i.load(self.e.i.vector(self.e.i.scalar(dtype), NEIGHBORS as usize), wide, 64);
        let lanes: Vec<V> = (0..NEIGHBORS).map(|l| self.e.i.lane(x, self.e.i.i32(l))).collect();
        let pairs = [self.e.map(op, dtype, &[lanes[0], lanes[2]]), self.e.map(op, dtype, &[lanes[1], lanes[3]])];
        let y = self.e.map(op, dtype, &pairs);
        self.e.i.store(y, part, 64);
    }

    /// Combines the shares of all threads of the group; every thread gets the result.
    fn combine(&mut self, accs: &[usize], parts: &[V]) {
        if accs.is_empty() {
            return;
        }
        let mut totals = Vec::new();
        for (&acc, &part) in accs.iter().zip(parts) {
            let declared = &self.kernel.accs[acc];
            let AccOp::Reduce(op) = declared.op else { continue };
            let (op, dtype) = (combine_op(op), declared.dtype);
            let mut x = self.e.i.load(self.e.i.scalar(dtype), part, 64);
            let mut distance = WARP / 2;
            while distance > 0 {
                let other = self.e.shuffle(dtype, x, distance);
                x = self.e.map(op, dtype, &[x, other]);
                distance /= 2;
            }
            totals.push(x);
        }
        if self.simt().shape.group > WARP {
            totals = self.exchange(accs, &totals);
        }
        for (&acc, &x) in accs.iter().zip(&totals) {
            let AccOp::Reduce(op) = self.kernel.accs[acc].op else { continue };
            let dtype = self.kernel.accs[acc].dtype;
            let old = self.acc(acc);
            let new = self.e.map(combine_op(op), dtype, &[old, x]);
            self.e.i.store(new, self.accs[acc], 8);
        }
    }

    /// What all warps of a block have, combined in their order.
    fn exchange(&mut self, accs: &[usize], totals: &[V]) -> Vec<V> {
        let s = self.simt.as_ref().expect("a kernel for a GPU");
        let (lane, warps, scratch) = (s.lane, s.shape.group / WARP, s.shape.scratch);
        let shared = s.shared.expect("a block that adds up has shared memory");
        // Nobody may still read what was there before.
        self.sync();
        let i = &self.e.i;
        let (warp, in_warp) = (i.op2(Opcode::LLVMUDiv, lane, i.i64(WARP)), i.op2(Opcode::LLVMURem, lane, i.i64(WARP)));
        let slot = |b: &Body<'_>, n: usize, warp: V| {
            let i = &b.e.i;
            let at = i.add(i.i64(scratch + n as i64 * warps * 8), i.mul(warp, i.i64(8)));
            i.element(i.int_type(8), shared, at)
        };
        let leads = i.icmp(IntCC::LLVMIntEQ, in_warp, i.i64(0));
        self.when(leads, |b| {
            for (n, (&acc, &x)) in accs.iter().zip(totals).enumerate() {
                let at = slot(b, n, warp);
                let (x, bytes) = b.e.stored(b.kernel.accs[acc].dtype, x);
                b.e.noted_write(at, bytes);
                b.e.i.store(x, at, 8);
            }
        });
        self.sync();
        let mut results = Vec::new();
        for (n, &acc) in accs.iter().enumerate() {
            let AccOp::Reduce(op) = self.kernel.accs[acc].op else { continue };
            let (op, dtype) = (combine_op(op), self.kernel.accs[acc].dtype);
            let mut level: Vec<V> = (0..warps)
                .map(|w| {
                    let at = slot(self, n, self.e.i.i64(w));
                    self.e.read_back(dtype, at)
                })
                .collect();
            while level.len() > 1 {
                let half = level.len() / 2;
                level = (0..half).map(|k| self.e.map(op, dtype, &[level[k], level[k + half]])).collect();
            }
            results.push(level[0]);
        }
        results
    }

    /// Records an index outside `0..extent`, unless something is recorded already.
    pub(crate) fn report_simt(&mut self, index: V, extent: i64, origin: u32) {
        if matches!(self.e.machine, Machine::Emulated { .. }) {
            return self.report_by_call(index, extent, origin);
        }
        use optc_abi::plan::{Status, status};
        use std::mem::offset_of;
        let i = &self.e.i;
        let (byte, word) = (i.int_type(8), i.int_type(32));
        let below = i.icmp(IntCC::LLVMIntSLT, index, i.i64(0));
        let above = i.icmp(IntCC::LLVMIntSGE, index, i.i64(extent));
        let outside = i.op2(Opcode::LLVMOr, below, above);
        self.when(outside, |b| {
            let i = &b.e.i;
            let field = |offset: usize| i.element(byte, b.status, i.i64(offset as i64));
            let old =
                i.exchange_if(field(offset_of!(Status, code)), i.int(word, status::OK.into()), i.int(word, status::OUT_OF_RANGE.into()));
            let first = i.icmp(IntCC::LLVMIntEQ, old, i.int(word, status::OK.into()));
            b.when(first, |b| {
                let i = &b.e.i;
                let field = |offset: usize| i.element(byte, b.status, i.i64(offset as i64));
                i.store(i.int(word, origin.into()), field(offset_of!(Status, origin)), 4);
                i.store(index, field(offset_of!(Status, index)), 8);
                i.store(i.i64(extent), field(offset_of!(Status, extent)), 8);
            });
        });
    }
}

/// Whether threads may take four neighboring passes at a time: every element a pass touches lies beside that of the next pass, or is the same.
fn neighbors(axis: AxisId, extent: Extent, group: i64, body: &[Stmt]) -> bool {
    if matches!(extent, Extent::Const(n) if n < 2 * NEIGHBORS.max(group / 2)) {
        return false;
    }
    let own: Vec<usize> = body.iter().filter_map(|s| if let Stmt::Let { value, .. } = s { Some(*value) } else { None }).collect();
    let flat = |index: &Index| {
        let stride: i64 = index.axes.iter().filter(|(a, _)| *a == axis).map(|a| a.1).sum();
        matches!(stride, 0 | 1) && !index.sized.iter().any(|s| s.0 == axis) && !index.values.iter().any(|(v, _)| own.contains(v))
    };
    body.iter().all(|stmt| match stmt {
        Stmt::Let { expr: Expr::Load { index, guard, .. }, .. } => flat(index) && guard.is_none(),
        Stmt::Let { expr: Expr::CheckedIndex { .. }, .. } => false,
        Stmt::Store { index, .. } => flat(index) && index.axes.iter().any(|(a, _)| *a == axis),
        _ => true,
    })
}

/// Bits of a value as they are exchanged.
pub(crate) fn words(dtype: DType) -> usize {
    if dtype.size() == 8 { 2 } else { 1 }
}
