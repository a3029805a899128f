//! Tiles by fused multiplications and additions: 16 threads, half a warp, share rows. Weights go through shared memory, from the threads of a row to themselves.

use super::TERMS;
use super::team::{Held, Sums, Team};
use crate::emit::Emit;
use crate::ins::V;
use crate::products::store::zero;
use optc_ir::scalar::ScalarOp;

/// Threads of a block.
pub(super) const THREADS: i64 = 256;
/// Threads that share rows; and groups of them.
pub(super) const SIDE: i64 = 16;

/// Elements of shared memory from an address on, one by one.
fn loaded(team: &Team, e: &Emit, at: V, width: usize) -> Vec<V> {
    let scalar = e.i.scalar(team.held);
    let ty = if width == 1 { scalar } else { e.i.vector(scalar, width) };
    let bytes = e.i.bytes(ty);
    e.noted_read(at, bytes);
    let x = e.i.load(ty, at, bytes as u32);
    if width == 1 { vec![x] } else { (0..width).map(|l| e.i.lane(x, e.i.i32(l as i64))).collect() }
}

/// Adds a product to a sum.
fn fused(team: &Team, e: &mut Emit, at: V, x: V, y: V) {
    let old = e.i.load(e.i.scalar(team.sums), at, 8);
    let new = e.map(ScalarOp::Fma, team.sums, &[x, y, old]);
    e.i.store(new, at, 8);
}

/// Elements that are loaded at once.
fn width(team: &Team) -> i64 {
    16 / team.held.size() as i64
}

pub(super) fn scores(team: &Team, e: &mut Emit, x: Held<'_>, y: Held<'_>) -> Vec<Vec<V>> {
    let (rows, columns) = team.shape();
    let sums: Vec<Vec<V>> = (0..rows).map(|_| (0..columns).map(|_| zero(e, team.sums)).collect()).collect();
    let ty = e.i.scalar(team.sums);
    let wide = width(team);
    let (from, to, step) = (e.i.i32(0), e.i.i32(x.width), e.i.i32(TERMS));
    let (row, column): (Vec<V>, Vec<V>) = ((0..rows).map(|r| team.row(e, r)).collect(), (0..columns).map(|c| team.column(e, c)).collect());
    e.looped(from, to, step, |e, term| {
        for next in (0..TERMS).step_by(wide as usize) {
            let term = e.i.add_up(term, e.i.i32(next));
            let one = |e: &Emit, h: &Held<'_>, n: V| loaded(team, e, h.slices.place(e, h.at, term, n), wide as usize);
            let left: Vec<Vec<V>> = row.iter().map(|&n| one(e, &x, n)).collect();
            let right: Vec<Vec<V>> = column.iter().map(|&n| one(e, &y, n)).collect();
            for l in 0..wide as usize {
                for (sums, x) in sums.iter().zip(&left) {
                    for (&at, y) in sums.iter().zip(&right) {
                        fused(team, e, at, x[l], y[l]);
                    }
                }
            }
        }
    });
    sums.iter().map(|s| s.iter().map(|&at| e.i.load(ty, at, 8)).collect()).collect()
}

pub(super) fn add(team: &Team, e: &mut Emit, sums: &Sums, weights: &[Vec<V>], y: Held<'_>) {
    let (rows, columns) = team.shape();
    let (line, size) = (team.weights_line(), team.held.size() as i64);
    let ty = e.i.scalar(team.held);
    let place = |e: &Emit, row: V, column: V| {
        let at = e.i.add_up(e.i.times(row, e.i.i32(line)), column);
        e.i.element(ty, team.weights, e.i.cast(crate::ins::Opcode::LLVMZExt, at, e.i.int_type(64)))
    };
    let row: Vec<V> = (0..rows).map(|r| team.row(e, r)).collect();
    for (r, weights) in weights.iter().enumerate() {
        for (c, &x) in weights.iter().enumerate() {
            let at = place(e, row[r], team.column(e, c));
            e.noted_write(at, size);
            e.i.store(x, at, size as u32);
        }
    }
    e.warp_sync();
    let wide = width(team);
    let runs = sums.at[0].len() / sums.run;
    let starts: Vec<V> = (0..runs).map(|n| team.start(e, sums, n)).collect();
    let (from, to, step) = (e.i.i32(0), e.i.i32(columns as i64 * SIDE), e.i.i32(wide));
    e.looped(from, to, step, |e, column| {
        let left: Vec<Vec<V>> = row.iter().map(|&row| loaded(team, e, place(e, row, column), wide as usize)).collect();
        for l in 0..wide as usize {
            let at = e.i.add_up(column, e.i.i32(l as i64));
            let right: Vec<V> = starts.iter().flat_map(|&start| loaded(team, e, y.slices.place(e, y.at, start, at), sums.run)).collect();
            for (sums, x) in sums.at.iter().zip(&left) {
                for (&at, &y) in sums.iter().zip(&right) {
                    fused(team, e, at, x[l], y);
                }
            }
        }
    });
}
