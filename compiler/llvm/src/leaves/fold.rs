//! Numbers that are combined over all leaves.

use super::{BUNCH, Leaf, Rule, THREADS};
use crate::emit::Emit;
use crate::entry::Entries;
use crate::ins::{IntCC, V};
use optc_abi::DType;
use optc_ir::launches::{Folded, Spot};

impl Rule<'_> {
    /// Folds: each thread its leaves in order, threads in bunches, bunches in order.
    pub(super) fn fold(&self, mut d: Entries, folded: &[Folded]) -> Entries {
        let (g, _) = self.open(&mut d, &self.name, THREADS, &[]);
        let e = &mut d.e;
        e.unless_stopped(g.shared, None);
        let memory = e.block_memory(&self.name, 8 * THREADS);
        let thread = e.thread();
        let leads = e.is_first(thread);
        for f in folded {
            let slot = |e: &Emit, n: V| e.beyond(memory, e.i.mul(n, e.i.i64(8)));
            let of_leaf = |e: &Emit, number: V| {
                let leaf = Leaf { number, ..self.first(e) };
                e.read_back(f.dtype, self.address(e, g, leaf, f.part))
            };
            let many = e.i.i64(THREADS);
            let short = e.i.icmp(IntCC::LLVMIntSLT, g.count, many);
            let threads = e.i.select(short, g.count, many);
            let begun = e.i.icmp(IntCC::LLVMIntSLT, thread, threads);
            e.when(begun, |e| {
                let first = of_leaf(e, thread);
                let from = e.i.add(thread, many);
                let total = folding(e, f, first, [from, g.count, many], of_leaf);
                keep(e, f.dtype, total, slot(e, thread));
            });
            e.block_barrier();
            let read = |e: &Emit, n: V| e.read_back(f.dtype, slot(e, n));
            let bunch = e.i.i64(BUNCH);
            let begin = e.i.mul(thread, bunch);
            let some = e.i.icmp(IntCC::LLVMIntSLT, begin, threads);
            e.when(some, |e| {
                let end = e.i.add(begin, bunch);
                let beyond = e.i.icmp(IntCC::LLVMIntSGT, end, threads);
                let end = e.i.select(beyond, threads, end);
                let first = read(e, begin);
                let from = e.i.add(begin, e.i.i64(1));
                let total = folding(e, f, first, [from, end, e.i.i64(1)], read);
                keep(e, f.dtype, total, slot(e, begin));
            });
            e.block_barrier();
            e.when(leads, |e| {
                let first = read(e, e.i.i64(0));
                let total = folding(e, f, first, [bunch, threads, bunch], read);
                let to = self.address(e, g, self.first(e), Spot::Fold(f.fold));
                let begins = e.i.icmp(IntCC::LLVMIntNE, g.first, e.i.i64(0));
                let (start, on, done) = (e.i.block(), e.i.block(), e.i.block());
                e.i.branch(begins, start, on);
                e.i.go_to(start);
                keep(e, f.dtype, total, to);
                e.i.jump(done);
                e.i.go_to(on);
                let so_far = e.read_back(f.dtype, to);
                let sum = e.map(f.op, f.dtype, &[so_far, total]);
                keep(e, f.dtype, sum, to);
                e.i.jump(done);
                e.i.go_to(done);
            });
            // Shared memory is the next fold's.
            e.block_barrier();
        }
        d.close()
    }
}

/// A number as memory holds it.
fn keep(e: &Emit, dtype: DType, x: V, at: V) {
    let (x, bytes) = e.stored(dtype, x);
    e.put(x, at, bytes as u32);
}

/// Combines what stands at `from`, `from + step`, … below `to` into a first number.
fn folding(e: &mut Emit, f: &Folded, first: V, [from, to, step]: [V; 3], read: impl Fn(&Emit, V) -> V) -> V {
    let ty = e.i.scalar(f.dtype);
    let total = e.i.stack(ty, 8);
    e.i.store(first, total, 8);
    e.looped(from, to, step, |e, k| {
        let x = read(e, k);
        let so_far = e.i.load(ty, total, 8);
        let sum = e.map(f.op, f.dtype, &[so_far, x]);
        e.i.store(sum, total, 8);
    });
    e.i.load(ty, total, 8)
}
