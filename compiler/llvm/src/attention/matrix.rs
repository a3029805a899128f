//! Tiles of bf16 by the units for matrices: a warp has 16 rows, and weights stay in the registers that scores have come out in.

use super::TERMS;
use super::team::{Held, Sums, Team};
use crate::emit::Emit;
use crate::ins::{Opcode, V};
use crate::products::store::zero;
use optc_abi::DType;

/// Rows of a warp.
pub(super) const ROWS: i64 = 16;

/// Which digit, in base two, of `lane / 8` says in which half of 16 rows, or columns, the matrix lies that a lane names a row of.
#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
}

/// Four matrices of a tile, whose rows are lines of shared memory: the first of 16 rows and of 16 columns.
fn load(team: &Team, e: &Emit, held: Held<'_>, rows: (V, Half), terms: (V, Half), transposed: bool) -> [V; 4] {
    let i = &e.i;
    let lane = team.lane();
    let (within, number) = (i.op2(Opcode::LLVMURem, lane, i.i32(8)), i.op2(Opcode::LLVMUDiv, lane, i.i32(8)));
    let half = |which: Half| {
        let digit = if let Half::Low = which { Opcode::LLVMURem } else { Opcode::LLVMUDiv };
        i.times(i.op2(digit, number, i.i32(2)), i.i32(8))
    };
    let row = i.add_up(i.add_up(rows.0, half(rows.1)), within);
    let term = i.add_up(terms.0, half(terms.1));
    let at = held.slices.place(e, held.at, term, row);
    e.load_matrices(at, transposed)
}

pub(super) fn scores(team: &Team, e: &mut Emit, x: Held<'_>, y: Held<'_>) -> Vec<Vec<V>> {
    let (_, columns) = team.shape();
    let float = e.i.scalar(DType::F32);
    let tiles: Vec<[V; 4]> = (0..columns / 2).map(|_| std::array::from_fn(|_| zero(e, DType::F32))).collect();
    let first = team.warp_row(e);
    let (from, to, step) = (e.i.i32(0), e.i.i32(x.width), e.i.i32(TERMS));
    e.looped(from, to, step, |e, term| {
        let a = load(team, e, x, (first, Half::Low), (term, Half::High), false);
        for (n, pair) in tiles.chunks(2).enumerate() {
            let column = e.i.i32(TERMS * n as i64);
            let b = load(team, e, y, (column, Half::High), (term, Half::Low), false);
            for (half, at) in pair.iter().enumerate() {
                let old = at.map(|at| e.i.load(float, at, 8));
                let new = e.multiply_matrices(DType::BF16, a, [b[2 * half], b[2 * half + 1]], old);
                new.iter().zip(at).for_each(|(&x, &at)| e.i.store(x, at, 8));
            }
        }
    });
    // Of a tile of 8 columns a thread has two neighbors in each of two rows.
    let value = |r: usize, c: usize| e.i.load(float, tiles[c / 2][2 * r + c % 2], 8);
    (0..2).map(|r| (0..columns).map(|c| value(r, c)).collect()).collect()
}

/// Two values as neighbors of bf16.
fn packed(e: &Emit, low: V, high: V) -> V {
    let i = &e.i;
    let word = |x: V| i.cast(Opcode::LLVMZExt, e.narrow(DType::BF16, x), i.int_type(32));
    i.op2(Opcode::LLVMOr, word(low), i.op2(Opcode::LLVMShl, word(high), i.i32(16)))
}

pub(super) fn add(team: &Team, e: &mut Emit, sums: &Sums, weights: &[Vec<V>], y: Held<'_>) {
    let float = e.i.scalar(DType::F32);
    let columns = weights[0].len();
    for (n, c) in (0..columns).step_by(4).enumerate() {
        let pair = |r: usize, c: usize| packed(e, weights[r][c], weights[r][c + 1]);
        let a = [pair(0, c), pair(1, c), pair(0, c + 2), pair(1, c + 2)];
        let row = e.i.i32(TERMS * n as i64);
        for feature in (0..sums.at[0].len()).step_by(4) {
            let term = e.i.i32(4 * feature as i64);
            let b = load(team, e, y, (row, Half::Low), (term, Half::High), true);
            for half in 0..2 {
                let at: [V; 4] = std::array::from_fn(|n| sums.at[n / 2][feature + 2 * half + n % 2]);
                let old = at.map(|at| e.i.load(float, at, 8));
                let new = e.multiply_matrices(DType::BF16, a, [b[2 * half], b[2 * half + 1]], old);
                new.iter().zip(at).for_each(|(&x, at)| e.i.store(x, at, 8));
            }
        }
    }
}
