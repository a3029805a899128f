//! A matrix times a column, and sums of parts.

use super::fma::{PARAMETERS, partial};
use super::slices::warp_and_lane;
use super::store::Place;
use super::{Product, WARP};
use crate::emit::Emit;
use crate::entry::{Entries, Parameter};
use crate::ins::{IntCC, Opcode, V};
use crate::simt::Launch;
use optc_abi::DType;
use optc_ir::kernel::Literal;
use optc_ir::scalar::ScalarOp;

/// Threads of a block.
pub(crate) const THREADS: i64 = 256;
/// Elements that a thread takes at a time.
const NEIGHBORS: i64 = 4;

/// Who makes the sum of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum By {
    /// A warp, its lanes along the row.
    Warp,
    /// A block.
    Block,
    /// The threads of a block with the same lane: terms go to warps in turn.
    Lane,
}

impl By {
    /// Rows of a block.
    pub(crate) fn rows(self) -> i64 {
        match self {
            By::Warp => THREADS / WARP,
            By::Block => 1,
            By::Lane => WARP,
        }
    }
}

/// Adds an entry that makes the only column of a product, in `parts` parts of each sum.
pub(crate) fn entry(mut d: Entries, name: &str, p: &Product, by: By, parts: i64) -> Entries {
    let sums = p.sums();
    let bytes = if by == By::Warp { 0 } else { THREADS * sums.size() as i64 };
    let all = d.open(name, &PARAMETERS, Launch { threads: THREADS, units: 1, pieces: 1, shared: bytes });
    let e = &mut d.e;
    e.unless_stopped(all[3], None);
    let shared = (bytes > 0).then(|| e.block_memory(name, bytes));
    let i = &e.i;
    let block = i.cast(Opcode::LLVMTrunc, e.block_index(), i.int_type(32));
    let groups = (p.m + by.rows() - 1) / by.rows();
    let (group, rest) = (i.op2(Opcode::LLVMURem, block, i.i32(groups)), i.op2(Opcode::LLVMUDiv, block, i.i32(groups)));
    let (problem, part) = (i.op2(Opcode::LLVMURem, rest, i.i32(p.problems())), i.op2(Opcode::LLVMUDiv, rest, i.i32(p.problems())));
    let thread = e.special("tid.x");
    let (warp, lane) = warp_and_lane(e, thread);
    let i = &e.i;
    let first = i.mul(group, i.i32(by.rows()));
    let (row, me, step) = match by {
        By::Warp => (i.add(first, warp), lane, WARP),
        By::Block => (first, thread, THREADS),
        By::Lane => (i.add(first, lane), warp, THREADS / WARP),
    };
    let covered = p.m % by.rows() == 0;
    let (a, b) = (p.a.problem(e, all[0], problem, &p.batch), p.b.problem(e, all[1], problem, &p.batch));
    let (a_row, b_row) = (p.a.part(e, false, row, 0, covered), p.b.part(e, false, e.i.i32(0), 0, true));
    let i = &e.i;
    let each = (p.k + parts - 1) / parts;
    let from = i.mul(part, i.i32(each));
    let to = i.add(from, i.i32(each));
    let beyond = i.icmp(IntCC::LLVMIntSGT, to, i.i32(p.k));
    let to = i.select(beyond, i.i32(p.k), to);
    // Several sums at a time, so that loads do not wait for each other.
    let at: Vec<V> = (0..NEIGHBORS).map(|_| super::store::zero(e, sums)).collect();
    let wide = by != By::Lane && parts == 1 && p.a.in_chunks(true, NEIGHBORS) && p.b.in_chunks(true, NEIGHBORS);
    let ty = e.i.scalar(sums);
    let add = |e: &mut Emit, n: usize, x: V, y: V| {
        let old = e.i.load(ty, at[n], 8);
        let new = e.map(ScalarOp::Fma, sums, &[x, y, old]);
        e.i.store(new, at[n], 8);
    };
    let start = e.i.add(from, if wide { e.i.mul(me, e.i.i32(NEIGHBORS)) } else { me });
    let step = step * NEIGHBORS;
    let stride = e.i.i32(step);
    e.looped(start, to, stride, |e, k| {
        if wide {
            let column = p.a.part(e, true, k, 0, true);
            let other = p.b.part(e, true, k, 0, true);
            let (x, real) = p.a.element(e, a, &a_row, &column);
            let (y, _) = p.b.element(e, b, &b_row, &other);
            let (x, y) = (loaded(e, p.a.dtype, x, NEIGHBORS, real), loaded(e, p.b.dtype, y, NEIGHBORS, None));
            for n in 0..NEIGHBORS {
                let (x, y) = (e.i.lane(x, e.i.i32(n)), e.i.lane(y, e.i.i32(n)));
                add(e, n as usize, x, y);
            }
            return;
        }
        for n in 0..NEIGHBORS {
            let k = e.i.add(k, e.i.i32(n * (step / NEIGHBORS)));
            let some = |e: &mut Emit| {
                let column = p.a.part(e, true, k, 0, true);
                let other = p.b.part(e, true, k, 0, true);
                let (x, real) = p.a.element(e, a, &a_row, &column);
                let (y, _) = p.b.element(e, b, &b_row, &other);
                let (x, y) = (loaded(e, p.a.dtype, x, 1, real), loaded(e, p.b.dtype, y, 1, None));
                add(e, n as usize, x, y);
            };
            if n == 0 {
                some(e);
            } else {
                let there = e.i.icmp(IntCC::LLVMIntSLT, k, to);
                e.when(there, some);
            }
        }
    });
    let mut level: Vec<V> = at.iter().map(|&at| e.i.load(ty, at, 8)).collect();
    while level.len() > 1 {
        let half = level.len() / 2;
        level = (0..half).map(|n| e.i.op2(Opcode::LLVMFAdd, level[n], level[n + half])).collect();
    }
    let mut sum = level[0];
    if by != By::Lane {
        let mut distance = WARP / 2;
        while distance > 0 {
            let other = e.shuffle(sums, sum, distance);
            sum = e.i.op2(Opcode::LLVMFAdd, sum, other);
            distance /= 2;
        }
    }
    let size = sums.size() as i64;
    let slot = |e: &Emit, n: V| e.i.element(ty, shared.expect("shared memory"), e.i.cast(Opcode::LLVMZExt, n, e.i.int_type(64)));
    if by != By::Warp {
        let mine = slot(e, thread);
        e.noted_write(mine, size);
        e.i.store(sum, mine, size as u32);
        e.block_barrier();
        // Warps in order; of a block's row every lane of a warp has the same.
        let steps = THREADS / WARP;
        let parts: Vec<V> = (0..steps)
            .map(|w| {
                let at = slot(e, e.i.add(lane, e.i.i32(w * WARP)));
                e.noted_read(at, size);
                e.i.load(ty, at, size as u32)
            })
            .collect();
        sum = parts[1..].iter().fold(parts[0], |sum, &x| e.i.op2(Opcode::LLVMFAdd, sum, x));
    }
    let who = if by == By::Lane {
        warp
    } else if by == By::Warp {
        lane
    } else {
        thread
    };
    let stores = e.i.icmp(IntCC::LLVMIntEQ, who, e.i.i32(0));
    let target = if parts > 1 { partial(p) } else { p.c.clone() };
    let place = if parts > 1 {
        let i = &e.i;
        let offset = i.mul(i.cast(Opcode::LLVMZExt, rest, i.int_type(64)), i.i64(p.m * p.n));
        Place { target: &target, extents: (p.m, p.n), covered: (covered, true), base: i.element(ty, all[2], offset) }
    } else {
        Place::new(e, p, &target, all[2], problem, (covered, true))
    };
    e.when(stores, |e| {
        let zero = e.i.i32(0);
        place.one(e, row, zero, sum);
    });
    d.close()
}

/// Elements from an address on; zero where there are none.
fn loaded(e: &Emit, dtype: DType, at: V, width: i64, real: Option<V>) -> V {
    let memory = e.memory_type(dtype);
    let ty = if width == 1 { memory } else { e.i.vector(memory, width as usize) };
    let bytes = width * dtype.size() as i64;
    e.noted_read(at, bytes);
    let x = e.i.load(ty, at, bytes.min(16) as u32);
    e.i.invariant(x);
    let x = e.widen(dtype, x);
    match real {
        Some(real) => e.i.select(real, x, e.i.null(e.i.type_of(x))),
        None => x,
    }
}

/// Adds an entry that adds up parts of sums, in order, a thread for each: memory for parts, result, status.
pub(crate) fn sum(mut d: Entries, name: &str, p: &Product, parts: i64) -> Entries {
    let sums = p.sums();
    let all = d.open(name, &[Parameter::Address; 3], Launch { threads: THREADS, units: 1, pieces: 1, shared: 0 });
    let e = &mut d.e;
    e.unless_stopped(all[2], None);
    let i = &e.i;
    let (long, ty) = (i.int_type(64), i.scalar(sums));
    let thread = i.cast(Opcode::LLVMZExt, e.special("tid.x"), long);
    let number = i.add(i.mul(e.block_index(), i.i64(THREADS)), thread);
    let count = p.m * p.n * p.problems();
    let beyond = i.icmp(IntCC::LLVMIntSGE, number, i.i64(count));
    e.leave_if(beyond);
    let i = &e.i;
    let (within, problem) = (i.op2(Opcode::LLVMURem, number, i.i64(p.m * p.n)), i.op2(Opcode::LLVMUDiv, number, i.i64(p.m * p.n)));
    let (row, column) = (i.op2(Opcode::LLVMUDiv, within, i.i64(p.n)), i.op2(Opcode::LLVMURem, within, i.i64(p.n)));
    let word = |x: V| i.cast(Opcode::LLVMTrunc, x, i.int_type(32));
    let (row, column, problem) = (word(row), word(column), word(problem));
    if p.c.symmetric {
        // Tiles above the diagonal have not been made.
        let above = e.i.icmp(IntCC::LLVMIntULT, row, column);
        e.leave_if(above);
    }
    let total = e.i.stack(ty, 8);
    e.i.store(e.literal(sums, Literal::Int(0)), total, 8);
    let (first, step, end) = (number, e.i.i64(count), e.i.i64(count * parts));
    e.looped(first, end, step, |e, n| {
        let at = e.i.element(ty, all[0], n);
        e.noted_read(at, sums.size() as i64);
        let x = e.i.load(ty, at, sums.size() as u32);
        let old = e.i.load(ty, total, 8);
        e.i.store(e.i.op2(Opcode::LLVMFAdd, old, x), total, 8);
    });
    let place = Place::new(e, p, &p.c, all[1], problem, (true, true));
    let sum = e.i.load(ty, total, 8);
    place.one(e, row, column, sum);
    d.close()
}
