//! The stable order of rows.
//!
//! An element becomes a number without sign that is larger where it comes later, and together with its index a key that no other element has, so that any method of sorting is
//! stable. Rows, or chunks of long ones, are sorted in shared memory by a bitonic network; chunks are then merged pairwise, each element finding its rank in the other run.

use crate::emit::Emit;
use crate::entry::{Entries, Parameter};
use crate::ins::{FloatCC, IntCC, Opcode, V};
use crate::simt::Launch;
use optc_abi::DType;
use optc_abi::device::{self, Argument, Work};
use optc_ir::kernel::Literal;

/// Elements that a block sorts at most.
const CHUNK: i64 = 2048;
/// Threads of a block at most.
const THREADS: i64 = 256;

/// A key: the number and, where both do not fit into one of 64 bits, the index beside it.
#[derive(Clone, Copy)]
struct Key {
    number: V,
    index: Option<V>,
}

/// Keys in memory: numbers, then indices if they are apart.
#[derive(Clone, Copy)]
struct Keys {
    base: V,
    count: i64,
    apart: bool,
}

/// Bytes of a key.
fn key_bytes(apart: bool) -> i64 {
    if apart { 12 } else { 8 }
}

impl Keys {
    fn places(&self, e: &Emit, n: V) -> (V, V) {
        let i = &e.i;
        let indices = i.element(i.int_type(64), self.base, i.i64(self.count));
        (i.element(i.int_type(64), self.base, n), i.element(i.int_type(32), indices, n))
    }
    fn load(&self, e: &Emit, n: V) -> Key {
        let (number, index) = self.places(e, n);
        e.noted_read(number, 8);
        let number = e.i.load(e.i.int_type(64), number, 8);
        if !self.apart {
            return Key { number, index: None };
        }
        e.noted_read(index, 4);
        Key { number, index: Some(e.i.load(e.i.int_type(32), index, 4)) }
    }
    fn store(&self, e: &Emit, n: V, key: Key) {
        let (number, index) = self.places(e, n);
        e.noted_write(number, 8);
        e.i.store(key.number, number, 8);
        if let Some(x) = key.index {
            e.noted_write(index, 4);
            e.i.store(x, index, 4);
        }
    }
}

/// Whether a key comes before another.
fn less(e: &Emit, a: Key, b: Key) -> V {
    let i = &e.i;
    let below = i.icmp(IntCC::LLVMIntULT, a.number, b.number);
    let (Some(x), Some(y)) = (a.index, b.index) else { return below };
    let same = i.icmp(IntCC::LLVMIntEQ, a.number, b.number);
    let before = i.icmp(IntCC::LLVMIntULT, x, y);
    i.op2(Opcode::LLVMOr, below, i.and(same, before))
}

/// The index of a key's element, as i32.
fn index_of(e: &Emit, key: Key) -> V {
    key.index.unwrap_or_else(|| e.i.cast(Opcode::LLVMTrunc, key.number, e.i.int_type(32)))
}

/// The number of an element that a buffer of a type holds, as i64.
fn number_of(e: &Emit, dtype: DType, memory: V, descending: bool) -> V {
    let i = &e.i;
    let long = i.int_type(64);
    let wide = dtype.size() == 8;
    let (ty, top) = if wide { (long, i64::MIN) } else { (i.int_type(32), i64::from(i32::MIN)) };
    let number = if dtype.is_float() {
        let x = e.widen(dtype, memory);
        let held = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        // Both zeros are the same number, and every NaN is the largest.
        let zero = e.literal(held, Literal::Int(0));
        let is_zero = i.fcmp(FloatCC::LLVMRealOEQ, x, zero);
        let bits = i.bits(i.select(is_zero, zero, x), ty);
        let negative = i.icmp(IntCC::LLVMIntSLT, bits, i.int(ty, 0));
        let not = i.op2(Opcode::LLVMXor, bits, i.int(ty, -1));
        let number = i.select(negative, not, i.op2(Opcode::LLVMXor, bits, i.int(ty, top)));
        let nan = i.fcmp(FloatCC::LLVMRealUNO, x, x);
        i.select(nan, i.int(ty, -1), number)
    } else {
        let x = i.cast(Opcode::LLVMZExt, memory, ty);
        if matches!(dtype, DType::I32 | DType::I64) { i.op2(Opcode::LLVMXor, x, i.int(ty, top)) } else { x }
    };
    let number = if descending { i.op2(Opcode::LLVMXor, number, i.int(ty, -1)) } else { number };
    i.cast(Opcode::LLVMZExt, number, long)
}

/// The key of a number and an index, an i32.
fn key(e: &Emit, apart: bool, number: V, index: V) -> Key {
    if apart {
        return Key { number, index: Some(index) };
    }
    let i = &e.i;
    let high = i.op2(Opcode::LLVMShl, number, i.i64(32));
    Key { number: i.op2(Opcode::LLVMOr, high, i.cast(Opcode::LLVMZExt, index, i.int_type(64))), index: None }
}

/// Order of rows: `i32` indices, ties in their order.
pub(crate) fn order(d: Entries, name: &str, rows: i64, n: i64, descending: bool, dtype: DType) -> (Entries, Option<Work>) {
    let mut work = Work::default();
    let long = i64::from(i32::MAX);
    if rows * n == 0 {
        return (d, Some(work));
    }
    if n > long / 2 || rows * ((n + CHUNK - 1) / CHUNK) > long / 2 {
        return (d, None);
    }
    let apart = dtype.size() == 8;
    let chunks = (n + CHUNK - 1) / CHUNK;
    let room = (rows * n * key_bytes(apart) + 255) / 256 * 256;
    let mut d = sorted(d, name, rows, n, descending, dtype, &mut work);
    if chunks == 1 {
        return (d, Some(work));
    }
    work.scratch = 2 * room as usize;
    let (whole, last) = (format!("{name}_merge"), format!("{name}_last"));
    let passes = 64 - ((chunks - 1) as u64).leading_zeros();
    let per_row = n;
    if passes > 1 {
        d = merge(d, &whole, rows, per_row, apart, false);
    }
    d = merge(d, &last, rows, per_row, apart, true);
    for pass in 0..passes {
        let (from, to) = if pass % 2 == 0 { (0, room as usize) } else { (room as usize, 0) };
        let (entry, result) = if pass + 1 == passes { (&last, Argument::Buffer(1)) } else { (&whole, Argument::Scratch(to)) };
        let shift = i64::from(CHUNK.trailing_zeros() + pass);
        work.launches.push(device::Launch {
            entry: entry.clone(),
            blocks: [((rows * n + THREADS - 1) / THREADS) as u32, 1, 1],
            threads: THREADS as u32,
            shared: 0,
            arguments: vec![Argument::Scratch(from), result, Argument::Number(shift), Argument::Status],
        });
    }
    (d, Some(work))
}

/// Adds the entry that sorts rows, or chunks of them: operand; indices, or keys where there are several chunks.
fn sorted(mut d: Entries, name: &str, rows: i64, n: i64, descending: bool, dtype: DType, work: &mut Work) -> Entries {
    let apart = dtype.size() == 8;
    let chunks = (n + CHUNK - 1) / CHUNK;
    let size = if chunks > 1 { CHUNK } else { (n as u64).next_power_of_two().max(2) as i64 };
    let threads = (size / 2).clamp(32, THREADS);
    let bytes = size * key_bytes(apart);
    let all = d.open(name, &[Parameter::Address; 3], Launch { threads, units: 1, pieces: 1, shared: bytes });
    let e = &mut d.e;
    e.unless_stopped(all[2], None);
    let keys = Keys { base: e.block_memory(name, bytes), count: size, apart };
    let (word, long) = (e.i.int_type(32), e.i.int_type(64));
    let block = e.block_index();
    let (row, chunk) = (e.i.op2(Opcode::LLVMUDiv, block, e.i.i64(chunks)), e.i.op2(Opcode::LLVMURem, block, e.i.i64(chunks)));
    let (start, first) = (e.i.mul(row, e.i.i64(n)), e.i.mul(chunk, e.i.i64(CHUNK)));
    let thread = e.i.cast(Opcode::LLVMZExt, e.special("tid.x"), long);
    let (step, end) = (e.i.i64(threads), e.i.i64(size));
    e.looped(thread, end, step, |e, at| {
        let i = &e.i;
        let index = i.add(first, at);
        let there = i.icmp(IntCC::LLVMIntSLT, index, i.i64(n));
        // What is missing comes last: the largest number, and an index behind all others.
        let place = i.select(there, i.add(start, index), i.i64(0));
        let memory = e.memory_type(dtype);
        let from = i.element(memory, all[0], place);
        e.noted_read(from, dtype.size() as i64);
        let x = i.load(memory, from, dtype.size() as u32);
        i.invariant(x);
        let most = if apart { -1 } else { i64::from(u32::MAX) };
        let number = i.select(there, number_of(e, dtype, x, descending), i.i64(most));
        keys.store(e, at, key(e, apart, number, i.cast(Opcode::LLVMTrunc, index, word)));
    });
    e.block_barrier();
    let one = e.i.i64(1);
    let steps = i64::from(size.trailing_zeros());
    let (from, to) = (e.i.i64(1), e.i.i64(steps + 1));
    e.looped(from, to, one, |e, level| {
        let zero = e.i.i64(0);
        e.looped(zero, level, one, |e, pass| {
            let i = &e.i;
            let distance = i.op2(Opcode::LLVMShl, one, i.op2(Opcode::LLVMSub, i.op2(Opcode::LLVMSub, level, pass), one));
            let run = i.op2(Opcode::LLVMShl, one, level);
            let (pairs, low) = (i.i64(size / 2), i.op2(Opcode::LLVMSub, distance, one));
            e.looped(thread, pairs, step, |e, pair| {
                let i = &e.i;
                let a = i.op2(Opcode::LLVMSub, i.add(pair, pair), i.and(pair, low));
                let b = i.add(a, distance);
                let (x, y) = (keys.load(e, a), keys.load(e, b));
                let up = i.icmp(IntCC::LLVMIntEQ, i.and(a, run), i.i64(0));
                let wrong = i.op2(Opcode::LLVMXor, less(e, y, x), up);
                // Both in order where runs go up, the other way round where they go down.
                let wrong = i.op2(Opcode::LLVMXor, wrong, i.bit(true));
                e.when(wrong, |e| {
                    keys.store(e, a, y);
                    keys.store(e, b, x);
                });
            });
            e.block_barrier();
        });
    });
    let left = e.i.op2(Opcode::LLVMSub, e.i.i64(n), first);
    let fewer = e.i.icmp(IntCC::LLVMIntSLT, left, end);
    let count = e.i.select(fewer, left, end);
    e.looped(thread, count, step, |e, at| {
        let key = keys.load(e, at);
        let to = e.i.add(start, e.i.add(first, at));
        if chunks > 1 {
            Keys { base: all[1], count: rows * n, apart }.store(e, to, key);
        } else {
            put(e, all[1], to, index_of(e, key));
        }
    });
    let result = if chunks > 1 { Argument::Scratch(0) } else { Argument::Buffer(1) };
    work.launches.push(device::Launch {
        entry: name.to_string(),
        blocks: [(rows * chunks) as u32, 1, 1],
        threads: threads as u32,
        shared: 0,
        arguments: vec![Argument::Buffer(0), result, Argument::Status],
    });
    d.close()
}

fn put(e: &Emit, base: V, at: V, x: V) {
    let at = e.i.element(e.i.int_type(32), base, at);
    e.noted_write(at, 4);
    e.i.store(x, at, 4);
}

/// Adds an entry that merges neighboring runs of 2 to the third parameter: each element goes to the sum of its place in its run and its rank in the other one.
fn merge(mut d: Entries, name: &str, rows: i64, n: i64, apart: bool, last: bool) -> Entries {
    use Parameter::{Address, Number};
    let all = d.open(name, &[Address, Address, Number, Address], Launch { threads: THREADS, units: 1, pieces: 1, shared: 0 });
    let e = &mut d.e;
    e.unless_stopped(all[3], None);
    let i = &e.i;
    let long = i.int_type(64);
    let thread = i.cast(Opcode::LLVMZExt, e.special("tid.x"), long);
    let number = i.add(i.mul(e.block_index(), i.i64(THREADS)), thread);
    let beyond = i.icmp(IntCC::LLVMIntSGE, number, i.i64(rows * n));
    e.leave_if(beyond);
    let i = &e.i;
    let shift = all[2];
    let at = i.op2(Opcode::LLVMURem, number, i.i64(n));
    let start = i.op2(Opcode::LLVMSub, number, at);
    let run = i.op2(Opcode::LLVMLShr, at, shift);
    let other = i.op2(Opcode::LLVMXor, run, i.i64(1));
    let begins = |r: V| {
        let at = i.op2(Opcode::LLVMShl, r, shift);
        let beyond = i.icmp(IntCC::LLVMIntSGT, at, i.i64(n));
        i.select(beyond, i.i64(n), at)
    };
    let (from, to) = (begins(other), begins(i.add(other, i.i64(1))));
    let from_keys = Keys { base: all[0], count: rows * n, apart };
    let key = from_keys.load(e, number);
    // The first of the other run that does not come before it.
    let (low, high) = (e.i.stack(long, 8), e.i.stack(long, 8));
    e.i.store(from, low, 8);
    e.i.store(to, high, 8);
    let (head, body, done) = (e.i.block(), e.i.block(), e.i.block());
    e.i.jump(head);
    e.i.go_to(head);
    let (l, h) = (e.i.load(long, low, 8), e.i.load(long, high, 8));
    let more = e.i.icmp(IntCC::LLVMIntSLT, l, h);
    e.i.branch(more, body, done);
    e.i.go_to(body);
    let middle = e.i.op2(Opcode::LLVMLShr, e.i.add(l, h), e.i.i64(1));
    let there = from_keys.load(e, e.i.add(start, middle));
    let before = less(e, there, key);
    let next = e.i.add(middle, e.i.i64(1));
    e.i.store(e.i.select(before, next, l), low, 8);
    e.i.store(e.i.select(before, h, middle), high, 8);
    e.i.jump(head);
    e.i.go_to(done);
    let i = &e.i;
    let rank = i.op2(Opcode::LLVMSub, i.load(long, low, 8), from);
    // Where both runs begin, and the place in its own.
    let pair = i.op2(Opcode::LLVMShl, i.and(run, i.i64(-2)), shift);
    let own = i.op2(Opcode::LLVMSub, at, i.op2(Opcode::LLVMShl, run, shift));
    let to = i.add(i.add(start, pair), i.add(own, rank));
    if last {
        put(e, all[1], to, index_of(e, key));
    } else {
        Keys { base: all[1], count: rows * n, apart }.store(e, to, key);
    }
    d.close()
}
