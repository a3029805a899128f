//! The backward pass: an entry for tiles of queries, then one for tiles of keys, which make the probabilities again from the statistics of the forward pass.

use super::scores::{Score, Scorer, element, of_problem};
use super::team::{Held, Share, Team, open, place, range, share, slices, terms};
use super::{Pass, Problem, Tile, parameters};
use crate::emit::Emit;
use crate::entry::Entries;
use crate::ins::{IntCC, Opcode, V};
use crate::products::slices::Flow;
use crate::products::store::zero;
use crate::simt::Launch;
use optc_ir::kernel::Literal;
use optc_ir::scalar::ScalarOp;

/// Of a query: the largest score, one over the sum of exponentials, and the sum of probabilities times their cotangents.
#[derive(Clone, Copy)]
struct Known {
    top: V,
    inverse: V,
    mean: V,
}

/// An element of an operand as a value, or of the first row where there is none.
fn read(e: &Emit, p: &Problem<'_>, n: usize, base: V, row: V, column: V) -> V {
    let row = e.i.select(e.i.icmp(IntCC::LLVMIntULT, row, e.i.i32(p.what.queries as i64)), row, e.i.i32(0));
    let at = element(e, p, n, base, row, column);
    let dtype = p.shapes[n].1;
    e.noted_read(at, dtype.size() as i64);
    let x = e.i.load(e.memory_type(dtype), at, dtype.size() as u32);
    e.i.invariant(x);
    e.widen(dtype, x)
}

/// Both statistics of a query.
fn statistics(e: &Emit, p: &Problem<'_>, base: V, query: V) -> [V; 2] {
    [0, 1].map(|n| read(e, p, p.rest() + 1, base, query, e.i.i32(n)))
}

/// Address of a query's place among the sums that the pass over queries hands on.
fn handed(e: &Emit, p: &Problem<'_>, base: V, problem: V, query: V) -> V {
    let i = &e.i;
    let long = |x: V| i.cast(Opcode::LLVMZExt, x, i.int_type(64));
    let at = i.add(i.mul(long(problem), i.i64(p.what.queries as i64)), long(query));
    i.element(i.scalar(p.sums()), base, at)
}

/// The probability of a score; zero where there is none.
fn probability(e: &mut Emit, p: &Problem<'_>, score: &Score, known: Known) -> V {
    let sums = p.sums();
    let low = e.i.op2(Opcode::LLVMFSub, score.value, known.top);
    let x = e.map(ScalarOp::Exp, sums, &[low]);
    let probability = e.i.op2(Opcode::LLVMFMul, x, known.inverse);
    match score.real {
        Some(real) => e.i.select(real, probability, e.i.null(e.i.scalar(sums))),
        None => probability,
    }
}

/// The cotangent of a score before it is scaled, from its probability and that one's cotangent. Where nothing is seen it is zero, even if the probability is no number.
fn back(e: &Emit, score: &Score, probability: V, known: Known, cotangent: V) -> V {
    let mut back = e.i.op2(Opcode::LLVMFMul, probability, e.i.op2(Opcode::LLVMFSub, cotangent, known.mean));
    for there in [score.seen, score.real].into_iter().flatten() {
        back = e.i.select(there, back, e.i.null(e.i.type_of(back)));
    }
    back
}

/// Tiles in shared memory: two that stay, and where those begin that move.
struct Room {
    stay: [V; 2],
    weights: V,
    moving: V,
}

fn room(e: &Emit, name: &str, p: &Problem<'_>, pass: Pass, tile: Tile, stay: [i64; 2], moving: i64) -> Room {
    let shared = e.launch_memory(name);
    let after = |at: V, bytes: i64| e.i.element(e.i.int_type(8), at, e.i.i64(bytes));
    let second = after(shared, stay[0]);
    Room { stay: [shared, second], weights: after(second, stay[1]), moving: after(shared, p.bytes(pass, tile) - moving) }
}

/// The sum over features of the result times its cotangent, of a query: that of its probabilities times theirs.
fn mean(e: &mut Emit, p: &Problem<'_>, team: &Team, bases: [V; 2], query: V) -> V {
    let sums = p.sums();
    let ty = e.i.scalar(sums);
    let total = zero(e, sums);
    let (me, count) = team.sharer(e);
    let (to, step) = (e.i.i32(p.what.out_width as i64), e.i.i32(count));
    e.looped(me, to, step, |e, column| {
        let [x, y] = [(p.rest(), bases[0]), (p.rest() + 2, bases[1])].map(|(n, base)| read(e, p, n, base, query, column));
        let old = e.i.load(ty, total, 8);
        let new = e.map(ScalarOp::Fma, sums, &[x, y, old]);
        e.i.store(new, total, 8);
    });
    let x = e.i.load(ty, total, 8);
    team.across(e, ScalarOp::Add, x)
}

fn held<'s>(slices: &'s crate::products::slices::Slices<'s>, at: V, width: usize) -> Held<'s> {
    Held { slices, at, width: terms(width) }
}

/// Whether tiles of queries and of keys hold nothing that is not there.
fn covered(p: &Problem<'_>, queries: i64, keys: i64) -> (bool, bool) {
    (p.what.queries as i64 % queries == 0, p.what.keys as i64 % keys == 0)
}

/// Adds the entry that makes dq, and hands on a sum of every query.
pub(super) fn queries(mut d: Entries, name: &str, p: &Problem<'_>, tile: Tile) -> Entries {
    let (threads, copies, rest) = (p.threads(tile), d.copies, p.rest());
    let sources = [0, rest + 2, 1, 2].map(|n| p.source(n));
    let rows = [tile.rows, tile.rows, tile.columns, tile.columns];
    let [mut q, mut g, mut k, mut v] = std::array::from_fn(|n| slices(&sources[n], p, rows[n], threads, copies));
    d.crowd = p.crowd(Pass::Queries, tile);
    let all = d.open(name, &parameters(p, Pass::Queries), Launch { threads, units: 1, pieces: 1, shared: 0 });
    d.crowd = 0;
    let e = &mut d.e;
    e.unless_stopped(*all.last().expect("the status"), None);
    let room = room(e, name, p, Pass::Queries, tile, [q.bytes(), g.bytes()], Flow::bytes([&k, &v], 2));
    let team = Team::new(e, p, tile, room.weights);
    let share = share(e, p, Pass::Queries, tile);
    let (width, wide) = (p.what.width, p.what.out_width);
    for (slices, width) in [(&mut q, width), (&mut g, wide), (&mut k, width), (&mut v, wide)] {
        open(e, slices, team.thread, width);
    }
    let base = |e: &Emit, n: usize| of_problem(e, p, n, all[n], share.problem);
    begin(e, &[(&q, base(e, 0), room.stay[0]), (&g, base(e, rest + 2), room.stay[1])], &share);
    let scorer = Scorer::new(e, p, &all, share.problem, covered(p, tile.rows, tile.columns));
    let (rows, columns) = team.shape();
    let queries: Vec<V> = (0..rows).map(|r| e.i.add_up(share.first, team.row(e, r))).collect();
    let bases = [rest, rest + 2].map(|n| base(e, n));
    let of_statistics = base(e, rest + 1);
    let sums = p.sums();
    let mine = e.i.icmp(IntCC::LLVMIntEQ, team.sharer(e).0, e.i.i32(0));
    let mut known = Vec::new();
    for &query in &queries {
        let mean = mean(e, p, &team, bases, query);
        let [top, inverse] = statistics(e, p, of_statistics, query);
        known.push(Known { top, inverse, mean });
        let there = e.i.icmp(IntCC::LLVMIntULT, query, e.i.i32(p.what.queries as i64));
        let stores = e.i.and(mine, there);
        e.when(stores, |e| {
            let at = handed(e, p, all[p.shapes.len()], share.problem, query);
            e.noted_write(at, sums.size() as i64);
            e.i.store(mean, at, sums.size() as u32);
        });
    }
    let dq = team.sums(e, width);
    let range = range(e, p, Pass::Queries, tile, &share);
    let moving = [(&k, base(e, 1)), (&v, base(e, 2))];
    let flow = Flow { operands: moving, stages: 2, shared: room.moving, range };
    flow.run(e, |e, number, [keys, values]| {
        let products = team.scores(e, held(&q, room.stay[0], width), held(&k, keys, width));
        let first = e.i.times(number, e.i.i32(tile.columns));
        let key: Vec<V> = (0..columns).map(|c| e.i.add_up(first, team.column(e, c))).collect();
        let mut found = vec![Vec::new(); rows];
        for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let score = scorer.score(e, queries[r], key[c], products[r][c]);
            let x = probability(e, p, &score, known[r]);
            found[r].push((score, x));
        }
        let cotangents = team.scores(e, held(&g, room.stay[1], wide), held(&v, values, wide));
        let row = |(r, row): (usize, &Vec<(Score, V)>)| {
            row.iter().enumerate().map(|(c, (score, x))| back(e, score, *x, known[r], cotangents[r][c])).collect()
        };
        let back: Vec<Vec<V>> = found.iter().enumerate().map(row).collect();
        team.add(e, &dq, &back, held(&k, keys, width));
    });
    let result = p.first_result();
    let target = p.target(result);
    let placed = place(e, p, result, &target, all[result], &share, tile);
    let scale = e.literal(sums, Literal::Float(p.what.scale.get()));
    team.store(e, &dq, &placed, share.first, &vec![scale; rows]);
    d.close()
}

/// Brings the tiles to shared memory that stay there.
fn begin(e: &mut Emit, tiles: &[(&crate::products::slices::Slices<'_>, V, V)], share: &Share) {
    for (slices, base, at) in tiles {
        slices.begin(e, *base, share.tile, *at);
        slices.finish(e, *at);
    }
    if tiles.iter().any(|t| t.0.copied()) {
        e.end_copies();
    }
}

/// Adds the entry that makes dk and dv.
pub(super) fn keys(mut d: Entries, name: &str, p: &Problem<'_>, tile: Tile) -> Entries {
    let (threads, copies, rest) = (p.threads(tile), d.copies, p.rest());
    let sources = [1, 2, 0, rest + 2].map(|n| p.source(n));
    let rows = [tile.rows, tile.rows, tile.columns, tile.columns];
    let [mut k, mut v, mut q, mut g] = std::array::from_fn(|n| slices(&sources[n], p, rows[n], threads, copies));
    d.crowd = p.crowd(Pass::Keys, tile);
    let all = d.open(name, &parameters(p, Pass::Keys), Launch { threads, units: 1, pieces: 1, shared: 0 });
    d.crowd = 0;
    let e = &mut d.e;
    e.unless_stopped(*all.last().expect("the status"), None);
    let room = room(e, name, p, Pass::Keys, tile, [k.bytes(), v.bytes()], Flow::bytes([&q, &g], 2));
    let team = Team::new(e, p, tile, room.weights);
    let share = share(e, p, Pass::Keys, tile);
    let (width, wide) = (p.what.width, p.what.out_width);
    for (slices, width) in [(&mut k, width), (&mut v, wide), (&mut q, width), (&mut g, wide)] {
        open(e, slices, team.thread, width);
    }
    let base = |e: &Emit, n: usize| of_problem(e, p, n, all[n], share.problem);
    begin(e, &[(&k, base(e, 1), room.stay[0]), (&v, base(e, 2), room.stay[1])], &share);
    let scorer = Scorer::new(e, p, &all, share.problem, covered(p, tile.columns, tile.rows));
    let (rows, columns) = team.shape();
    let keys: Vec<V> = (0..rows).map(|r| e.i.add_up(share.first, team.row(e, r))).collect();
    let of_statistics = base(e, rest + 1);
    let sums = p.sums();
    let (dk, dv) = (team.sums(e, width), team.sums(e, wide));
    let range = range(e, p, Pass::Keys, tile, &share);
    let moving = [(&q, base(e, 0)), (&g, base(e, rest + 2))];
    let flow = Flow { operands: moving, stages: 2, shared: room.moving, range };
    flow.run(e, |e, number, [queries, given]| {
        let products = team.scores(e, held(&k, room.stay[0], width), held(&q, queries, width));
        let first = e.i.times(number, e.i.i32(tile.columns));
        let (mut probabilities, mut scores, mut known) = (vec![Vec::new(); rows], vec![Vec::new(); rows], Vec::new());
        for c in 0..columns {
            let query = e.i.add_up(first, team.column(e, c));
            let [top, inverse] = statistics(e, p, of_statistics, query);
            let there = e.i.icmp(IntCC::LLVMIntULT, query, e.i.i32(p.what.queries as i64));
            let at = handed(e, p, all[p.shapes.len()], share.problem, e.i.select(there, query, e.i.i32(0)));
            e.noted_read(at, sums.size() as i64);
            let mean = e.i.load(e.i.scalar(sums), at, sums.size() as u32);
            known.push(Known { top, inverse, mean });
            for r in 0..rows {
                let score = scorer.score(e, query, keys[r], products[r][c]);
                probabilities[r].push(probability(e, p, &score, known[c]));
                scores[r].push(score);
            }
        }
        team.add(e, &dv, &probabilities, held(&g, given, wide));
        let cotangents = team.scores(e, held(&v, room.stay[1], wide), held(&g, given, wide));
        let of = |r: usize, c: usize| back(e, &scores[r][c], probabilities[r][c], known[c], cotangents[r][c]);
        let back: Vec<Vec<V>> = (0..rows).map(|r| (0..columns).map(|c| of(r, c)).collect()).collect();
        team.again(e);
        team.add(e, &dk, &back, held(&q, queries, width));
    });
    // A block whose keys no query sees has not waited for what it has begun.
    let unseen = p.what.skips() && p.what.causal.is_some_and(|offset| (p.what.keys as i64) > p.what.queries as i64 + offset);
    if copies && unseen {
        e.wait_copies(0);
    }
    let result = p.first_result();
    let scale = e.literal(sums, Literal::Float(p.what.scale.get()));
    let one = e.literal(sums, Literal::Int(1));
    for (n, sums, factor) in [(1, &dk, scale), (2, &dv, one)] {
        let target = p.target(result + n);
        let placed = place(e, p, result + n, &target, all[result + n], &share, tile);
        team.store(e, sums, &placed, share.first, &vec![factor; rows]);
    }
    d.close()
}
