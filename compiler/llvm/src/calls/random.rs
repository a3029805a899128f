//! Random words: those of [`optc_abi::philox`].

use crate::emit::Emit;
use crate::entry::{Entries, Parameter};
use crate::ins::{IntCC, Opcode, V};
use crate::simt::Launch;
use optc_abi::device::{self, Argument, Work};

/// Threads of a block.
const THREADS: i64 = 256;
/// Blocks of a launch at most; each then takes counters in turn.
const BLOCKS: i64 = 132 * 8;

fn read(e: &Emit, base: V, n: i64) -> V {
    let word = e.i.int_type(32);
    let at = e.i.element(word, base, e.i.i64(n));
    e.noted_read(at, 4);
    let x = e.i.load(word, at, 4);
    e.i.invariant(x);
    x
}

fn write(e: &Emit, base: V, n: V, x: V) {
    let at = e.i.element(e.i.int_type(32), base, n);
    e.noted_write(at, 4);
    e.i.store(x, at, 4);
}

/// Words of a key's sequence from `start` on, and with `skips` from as many behind it as a number says: a thread makes the four of a counter.
pub(crate) fn bits(mut d: Entries, name: &str, start: u64, len: usize, skips: bool) -> (Entries, Option<Work>) {
    let mut work = Work::default();
    if len == 0 {
        return (d, Some(work));
    }
    let len = len as i64;
    let first = start / 4;
    // Where the first word is not known, one counter more may have some.
    let counters = if skips { (len + 3) / 4 + 1 } else { ((start + len as u64 - 1) / 4 - first + 1) as i64 };
    let blocks = ((counters + THREADS - 1) / THREADS).min(BLOCKS);
    let all = d.open(name, &[Parameter::Address; 4], Launch { threads: THREADS, units: 1, pieces: 1, shared: 0 });
    let e = &mut d.e;
    e.unless_stopped(all[3], None);
    let (word, long) = (e.i.int_type(32), e.i.int_type(64));
    let key = [read(e, all[0], 0), read(e, all[0], 1)];
    let thread = e.i.cast(Opcode::LLVMZExt, e.special("tid.x"), long);
    let from = e.i.add(e.i.mul(e.block_index(), e.i.i64(THREADS)), thread);
    let (to, step) = (e.i.i64(counters), e.i.mul(e.block_count(), e.i.i64(THREADS)));
    // The first counter, and what of it comes before.
    let (first, before) = if skips {
        let skipped = e.i.cast(Opcode::LLVMZExt, read(e, all[1], 0), long);
        let begin = e.i.add(skipped, e.i.i64(start as i64));
        (e.i.op2(Opcode::LLVMLShr, begin, e.i.i64(2)), e.i.op2(Opcode::LLVMAnd, begin, e.i.i64(3)))
    } else {
        (e.i.i64(first as i64), e.i.i64((start % 4) as i64))
    };
    let whole = !skips && start.is_multiple_of(4) && len % 4 == 0;
    e.looped(from, to, step, |e, n| {
        let counter = e.i.add(n, first);
        let high = e.i.op2(Opcode::LLVMLShr, counter, e.i.i64(32));
        let zero = e.i.i32(0);
        let counter = [e.i.cast(Opcode::LLVMTrunc, counter, word), e.i.cast(Opcode::LLVMTrunc, high, word), zero, zero];
        for w in 0..4 {
            let x = e.philox(key, counter, w as u8);
            let at = e.i.add(e.i.mul(n, e.i.i64(4)), e.i.i64(w));
            let at = e.i.op2(Opcode::LLVMSub, at, before);
            if whole {
                write(e, all[2], at, x);
                continue;
            }
            // Below zero is very large without a sign.
            let inside = e.i.icmp(IntCC::LLVMIntULT, at, e.i.i64(len));
            e.when(inside, |e| write(e, all[2], at, x));
        }
    });
    // Where nothing is skipped there is no buffer of how many.
    let (given, result) = if skips { (1, 2) } else { (0, 1) };
    work.launches.push(device::Launch {
        entry: name.to_string(),
        blocks: [blocks as u32, 1, 1],
        threads: THREADS as u32,
        shared: 0,
        arguments: vec![Argument::Buffer(0), Argument::Buffer(given), Argument::Buffer(result), Argument::Status],
    });
    (d.close(), Some(work))
}

/// A key made from a key.
pub(crate) fn fold(mut d: Entries, name: &str, place: u32, number: Option<u32>) -> (Entries, Option<Work>) {
    let all = d.open(name, &[Parameter::Address; 4], Launch { threads: 1, units: 1, pieces: 1, shared: 0 });
    let e = &mut d.e;
    e.unless_stopped(all[3], None);
    let key = [read(e, all[0], 0), read(e, all[0], 1)];
    let number_there = match number {
        Some(n) => e.i.i32(n.into()),
        None => read(e, all[1], 0),
    };
    let counter = [number_there, e.i.i32(place.into()), e.i.i32(1), e.i.i32(0)];
    let words = [e.philox(key, counter, 0), e.philox(key, counter, 1)];
    words.into_iter().enumerate().for_each(|(n, x)| write(e, all[2], e.i.i64(n as i64), x));
    // Where the number is known there is no buffer of it.
    let (given, result) = if number.is_some() { (0, 1) } else { (1, 2) };
    let launch = device::Launch {
        entry: name.to_string(),
        blocks: [1, 1, 1],
        threads: 1,
        shared: 0,
        arguments: vec![Argument::Buffer(0), Argument::Buffer(given), Argument::Buffer(result), Argument::Status],
    };
    (d.close(), Some(Work { launches: vec![launch], scratch: 0 }))
}
