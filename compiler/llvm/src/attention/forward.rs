//! The forward pass: tiles of queries.

use super::scores::{Scorer, element, of_problem};
use super::team::{Held, Team, open, place, range, share, slices, terms};
use super::{Pass, Problem, Tile, parameters};
use crate::entry::Entries;
use crate::ins::{FloatCC, IntCC, Opcode, V};
use crate::products::slices::Flow;
use crate::products::store::zero;
use crate::simt::Launch;
use optc_abi::DType;
use optc_ir::kernel::Literal;
use optc_ir::scalar::ScalarOp;

/// Adds the entry.
pub(super) fn entry(mut d: Entries, name: &str, p: &Problem<'_>, tile: Tile) -> Entries {
    let (threads, copies) = (p.threads(tile), d.copies);
    let sources = [0, 1, 2].map(|n| p.source(n));
    let [mut q, mut k, mut v] =
        [(0, tile.rows), (1, tile.columns), (2, tile.columns)].map(|(n, rows)| slices(&sources[n], p, rows, threads, copies));
    d.crowd = if p.sums() == DType::F64 { 1 } else { 2 };
    let all = d.open(name, &parameters(p, Pass::Forward), Launch { threads, units: 1, pieces: 1, shared: 0 });
    d.crowd = 0;
    let e = &mut d.e;
    e.unless_stopped(*all.last().expect("the status"), None);
    let shared = e.launch_memory(name);
    let after = |e: &crate::emit::Emit, at: V, bytes: i64| e.i.element(e.i.int_type(8), at, e.i.i64(bytes));
    let weights = after(e, shared, q.bytes());
    let moving = after(e, shared, p.bytes(Pass::Forward, tile) - Flow::bytes([&k, &v], 2));
    let team = Team::new(e, p, tile, weights);
    let share = share(e, p, Pass::Forward, tile);
    let (width, wide) = (p.what.width, p.what.out_width);
    open(e, &mut q, team.thread, width);
    open(e, &mut k, team.thread, width);
    open(e, &mut v, team.thread, wide);
    let bases = [0, 1, 2].map(|n| of_problem(e, p, n, all[n], share.problem));
    q.begin(e, bases[0], share.tile, shared);
    if q.copied() {
        e.end_copies();
    }
    q.finish(e, shared);
    let covered = (p.what.queries as i64 % tile.rows == 0, p.what.keys as i64 % tile.columns == 0);
    let scorer = Scorer::new(e, p, &all, share.problem, covered);
    let (rows, columns) = team.shape();
    let sums = p.sums();
    let ty = e.i.scalar(sums);
    let infinity = e.literal(sums, Literal::Float(f64::NEG_INFINITY));
    let out = team.sums(e, wide);
    let totals: Vec<V> = (0..rows).map(|_| zero(e, sums)).collect();
    let tops: Vec<V> = (0..rows).map(|_| zero(e, sums)).collect();
    tops.iter().for_each(|&at| e.i.store(infinity, at, 8));
    let range = range(e, p, Pass::Forward, tile, &share);
    let queries: Vec<V> = (0..rows).map(|r| e.i.add_up(share.first, team.row(e, r))).collect();
    let flow = Flow { operands: [(&k, bases[1]), (&v, bases[2])], stages: 2, shared: moving, range };
    let held = |slices, at, width| Held { slices, at, width: terms(width) };
    flow.run(e, |e, number, [keys, values]| {
        let products = team.scores(e, held(&q, shared, width), held(&k, keys, width));
        let first = e.i.times(number, e.i.i32(tile.columns));
        let key: Vec<V> = (0..columns).map(|c| e.i.add_up(first, team.column(e, c))).collect();
        let mut weights = Vec::new();
        for (r, products) in products.iter().enumerate() {
            let scores: Vec<V> = products.iter().zip(&key).map(|(&x, &key)| scorer.score(e, queries[r], key, x).value).collect();
            let largest = scores[1..].iter().fold(scores[0], |m, &x| e.map(ScalarOp::Max, sums, &[m, x]));
            let largest = team.across(e, ScalarOp::Max, largest);
            let old = e.i.load(ty, tops[r], 8);
            let top = e.map(ScalarOp::Max, sums, &[old, largest]);
            e.i.store(top, tops[r], 8);
            // Where nothing has been seen yet there is nothing to take the difference from.
            let none = e.i.fcmp(FloatCC::LLVMRealOEQ, top, infinity);
            let base = e.i.select(none, e.i.null(ty), top);
            let exp = |e: &mut crate::emit::Emit, x: V| {
                let low = e.i.op2(Opcode::LLVMFSub, x, base);
                e.map(ScalarOp::Exp, sums, &[low])
            };
            let correction = exp(e, old);
            let row: Vec<V> = scores.iter().map(|&x| exp(e, x)).collect();
            let mut total = e.i.op2(Opcode::LLVMFMul, e.i.load(ty, totals[r], 8), correction);
            row.iter().for_each(|&x| total = e.i.op2(Opcode::LLVMFAdd, total, x));
            e.i.store(total, totals[r], 8);
            for &at in &out.at[r] {
                e.i.store(e.i.op2(Opcode::LLVMFMul, e.i.load(ty, at, 8), correction), at, 8);
            }
            weights.push(row);
        }
        team.add(e, &out, &weights, held(&v, values, wide));
    });
    let one = e.literal(sums, Literal::Int(1));
    let mut inverses = Vec::new();
    for &total in &totals {
        let x = e.i.load(ty, total, 8);
        let x = team.across(e, ScalarOp::Add, x);
        inverses.push(e.i.op2(Opcode::LLVMFDiv, one, x));
    }
    let result = p.first_result();
    let target = p.target(result);
    let placed = place(e, p, result, &target, all[result], &share, tile);
    team.store(e, &out, &placed, share.first, &inverses);
    // One of the threads that share a row says what it has come to.
    let base = of_problem(e, p, result + 1, all[result + 1], share.problem);
    let mine = e.i.icmp(IntCC::LLVMIntEQ, team.sharer(e).0, e.i.i32(0));
    for r in 0..rows {
        let there = e.i.icmp(IntCC::LLVMIntULT, queries[r], e.i.i32(p.what.queries as i64));
        let stores = e.i.and(mine, there);
        let top = e.i.load(ty, tops[r], 8);
        e.when(stores, |e| {
            for (n, x) in [top, inverses[r]].into_iter().enumerate() {
                let at = element(e, p, result + 1, base, queries[r], e.i.i32(n as i64));
                e.noted_write(at, sums.size() as i64);
                e.i.store(x, at, sums.size() as u32);
            }
        });
    }
    d.close()
}
