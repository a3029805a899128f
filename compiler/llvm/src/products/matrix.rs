//! Tiles of bf16 and f16 made by the units for matrices (`mma.sync`, from sm_80 on), with sums in f32.

use super::fma::{Cut, PARAMETERS, partial, place, share};
use super::slices::{Flow, Form, Slices, warp_and_lane};
use super::store::zero;
use super::{Product, WARP};
use crate::emit::Emit;
use crate::entry::Entries;
use crate::ins::{Opcode, V};
use crate::simt::Launch;
use optc_abi::DType;

/// Rows, columns and terms of one product of matrices.
const ROWS: i64 = 16;
const COLUMNS: i64 = 8;
const TERMS: i64 = 16;
/// Terms of a slice.
pub(crate) const DEPTH: i64 = 32;

/// Warps of a block along rows and columns, for a tile; each has at most 64 rows and 32 columns.
fn warps(cut: &Cut) -> (i64, i64) {
    ((cut.rows / 64).max(if cut.rows > 16 { 2 } else { 1 }), cut.columns / 32)
}

/// Threads of a block.
pub(crate) fn threads(cut: &Cut) -> i64 {
    let (down, across) = warps(cut);
    down * across * WARP
}

/// How many slices there are in shared memory: more than two where all of it is copied asynchronously.
fn stages(a: &Slices<'_>, b: &Slices<'_>) -> i64 {
    if a.copied() && b.copied() { 4 } else { 2 }
}

/// Adds an entry that makes tiles of a product; gives the bytes of shared memory that its launch has to say.
pub(crate) fn entry(mut d: Entries, name: &str, p: &Product, cut: &Cut) -> (Entries, i64) {
    let threads = threads(cut);
    let form = |rows| Form { held: p.a.dtype, rows, depth: cut.depth, threads, columns: p.k, either: true, copies: true };
    let (mut a, mut b) = (Slices::new(&p.a, &form(cut.rows)), Slices::new(&p.b, &form(cut.columns)));
    let stages = stages(&a, &b);
    let bytes = Flow::bytes([&a, &b], stages);
    let all = d.open(name, &PARAMETERS, Launch { threads, units: 1, pieces: 1, shared: 0 });
    let e = &mut d.e;
    e.unless_stopped(all[3], None);
    let shared = e.launch_memory(name);
    let share = share(e, p, cut);
    let thread = e.special("tid.x");
    let covered = (p.m % cut.rows == 0, p.n % cut.columns == 0);
    a.open(e, thread, share.row, covered.0);
    b.open(e, thread, share.column, covered.1);
    let bases = [p.a.problem(e, all[0], share.problem, &p.batch), p.b.problem(e, all[1], share.problem, &p.batch)];
    let (warp, lane) = warp_and_lane(e, thread);
    let i = &e.i;
    let (down, across) = warps(cut);
    let (own_rows, own_columns) = (cut.rows / down, cut.columns / across);
    let first_row = i.mul(i.op2(Opcode::LLVMUDiv, warp, i.i32(across)), i.i32(own_rows));
    let first_column = i.mul(i.op2(Opcode::LLVMURem, warp, i.i32(across)), i.i32(own_columns));
    let (tall, wide) = ((own_rows / ROWS) as usize, (own_columns / COLUMNS) as usize);
    let sums: Vec<Vec<[V; 4]>> = (0..tall).map(|_| (0..wide).map(|_| std::array::from_fn(|_| zero(e, DType::F32))).collect()).collect();
    let float = e.i.scalar(DType::F32);
    let flow = Flow { operands: [(&a, bases[0]), (&b, bases[1])], stages, shared, range: share.range };
    flow.run(e, |e, _, [left, right]| {
        for term in (0..cut.depth).step_by(TERMS as usize) {
            let x: Vec<[V; 4]> = (0..tall as i64).map(|r| load_left(e, &a, left, first_row, r * ROWS, term, lane)).collect();
            let y: Vec<[V; 4]> =
                (0..wide as i64 / 2).map(|c| load_right(e, &b, right, first_column, c * 2 * COLUMNS, term, lane)).collect();
            for (sums, x) in sums.iter().zip(&x) {
                for (c, at) in sums.iter().enumerate() {
                    let old = at.map(|at| e.i.load(float, at, 8));
                    let [b0, b1] = [y[c / 2][2 * (c % 2)], y[c / 2][2 * (c % 2) + 1]];
                    let new = e.multiply_matrices(p.a.dtype, *x, [b0, b1], old);
                    new.iter().zip(at).for_each(|(&x, at)| e.i.store(x, *at, 8));
                }
            }
        }
    });
    let parts = (cut.parts > 1).then(|| partial(p));
    let place = place(e, p, parts.as_ref(), &share, all[2], covered);
    let i = &e.i;
    let row = i.add_up(i.add_up(share.row, first_row), i.op2(Opcode::LLVMUDiv, lane, i.i32(4)));
    let column = i.mul(i.op2(Opcode::LLVMURem, lane, i.i32(4)), i.i32(2));
    let column = i.add_up(i.add_up(share.column, first_column), column);
    for (r, sums) in sums.iter().enumerate() {
        for (c, at) in sums.iter().enumerate() {
            let x = at.map(|at| e.i.load(float, at, 8));
            let column = e.i.add_up(column, e.i.i32(c as i64 * COLUMNS));
            for half in 0..2 {
                let row = e.i.add_up(row, e.i.i32(r as i64 * ROWS + 8 * half));
                let half = 2 * half as usize;
                place.block(e, row, column, &[vec![x[half], x[half + 1]]]);
            }
        }
    }
    (d.close(), bytes)
}

/// `lane / 8` in two digits, and `lane % 8`: which of four matrices a lane names a row of, and which row.
fn named(e: &Emit, lane: V) -> (V, V, V) {
    let i = &e.i;
    let matrix = i.op2(Opcode::LLVMUDiv, lane, i.i32(8));
    let (low, high) = (i.op2(Opcode::LLVMURem, matrix, i.i32(2)), i.op2(Opcode::LLVMUDiv, matrix, i.i32(2)));
    (low, high, i.op2(Opcode::LLVMURem, lane, i.i32(8)))
}

fn load(e: &Emit, slices: &Slices<'_>, slice: V, first: V, row: (i64, V), column: (i64, V), within: V) -> [V; 4] {
    let i = &e.i;
    let (mut row, mut column) =
        (i.add_up(i.add_up(first, i.times(row.1, i.i32(8))), i.i32(row.0)), i.add_up(i.times(column.1, i.i32(8)), i.i32(column.0)));
    // A row of a matrix lies together: columns of one row, or rows of one column, which are exchanged on the way.
    let along = if slices.columns_together { &mut row } else { &mut column };
    *along = i.add_up(*along, within);
    let at = slices.place(e, slice, row, column);
    e.load_matrices(at, !slices.columns_together)
}

/// 16 rows of the left operand, 16 terms: rows 0 to 7 and 8 to 15 of terms 0 to 7, then of terms 8 to 15.
fn load_left(e: &Emit, slices: &Slices<'_>, slice: V, first: V, row: i64, term: i64, lane: V) -> [V; 4] {
    let (low, high, within) = named(e, lane);
    load(e, slices, slice, first, (row, low), (term, high), within)
}

/// 16 columns of the right operand, 16 terms: of columns 0 to 7 terms 0 to 7 and 8 to 15, then of columns 8 to 15.
fn load_right(e: &Emit, slices: &Slices<'_>, slice: V, first: V, row: i64, term: i64, lane: V) -> [V; 4] {
    let (low, high, within) = named(e, lane);
    load(e, slices, slice, first, (row, high), (term, low), within)
}
