//! Tiles made by fused multiplications and additions: 256 threads, each with a share of 1, 2, 4 or 8 rows and as many columns.

use super::slices::{Flow, Form, Slices, warp_and_lane};
use super::store::{Place, zero};
use super::{Product, Target, WARP};
use crate::emit::Emit;
use crate::entry::{Entries, Parameter};
use crate::ins::{IntCC, Opcode, V};
use crate::simt::Launch;
use optc_abi::DType;

/// Threads of a block.
pub(crate) const THREADS: i64 = 256;
/// Groups of threads along rows and along columns.
const SIDE: i64 = 16;
/// Slices in shared memory.
const STAGES: i64 = 2;

/// How a product is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cut {
    /// Rows and columns of a tile.
    pub(crate) rows: i64,
    pub(crate) columns: i64,
    /// Terms of a slice.
    pub(crate) depth: i64,
    /// Parts that sums are cut into.
    pub(crate) parts: i64,
}

impl Cut {
    /// Slices of a part of a sum over `k` terms.
    pub(crate) fn slices(&self, k: i64) -> i64 {
        ((k + self.depth - 1) / self.depth + self.parts - 1) / self.parts
    }
    pub(crate) fn tiles(&self, p: &Product) -> (i64, i64) {
        ((p.m + self.rows - 1) / self.rows, (p.n + self.columns - 1) / self.columns)
    }
    pub(crate) fn blocks(&self, p: &Product) -> i64 {
        let (down, across) = self.tiles(p);
        down * across * p.problems() * self.parts
    }
}

/// Terms of a slice of a tile of this size.
pub(crate) fn depth(rows: i64, columns: i64) -> i64 {
    if rows * columns > 64 * 64 { 8 } else { 16 }
}

/// What a block works on.
pub(crate) struct Share {
    /// Its first row and column, as i32.
    pub(crate) row: V,
    pub(crate) column: V,
    /// Number of its problem.
    pub(crate) problem: V,
    /// Number of its problem in memory for parts.
    pub(crate) partial: V,
    /// Its slices.
    pub(crate) range: (V, V),
}

/// Rows of tiles that are worked on together, so that operands are found in the second cache.
const TOGETHER: i64 = 8;

/// Finds out what this block works on; ends those above the diagonal of a symmetric result.
pub(crate) fn share(e: &mut Emit, p: &Product, cut: &Cut) -> Share {
    let i = &e.i;
    let (down, across) = cut.tiles(p);
    let block = i.cast(Opcode::LLVMTrunc, e.block_index(), i.int_type(32));
    let (div, rem) = (|x: V, n: i64| i.op2(Opcode::LLVMUDiv, x, i.i32(n)), |x: V, n: i64| i.op2(Opcode::LLVMURem, x, i.i32(n)));
    let (tile, rest) = (rem(block, down * across), div(block, down * across));
    let (problem, part) = (rem(rest, p.problems()), div(rest, p.problems()));
    let (group, within) = (div(tile, TOGETHER * across), rem(tile, TOGETHER * across));
    let start = i.mul(group, i.i32(TOGETHER));
    // The last group may have fewer rows.
    let left = i.op2(Opcode::LLVMSub, i.i32(down), start);
    let fewer = i.icmp(IntCC::LLVMIntSLT, left, i.i32(TOGETHER));
    let height = i.select(fewer, left, i.i32(TOGETHER));
    let row = i.add(start, i.op2(Opcode::LLVMURem, within, height));
    let column = i.op2(Opcode::LLVMUDiv, within, height);
    let (row, column) = (i.times(row, i.i32(cut.rows)), i.times(column, i.i32(cut.columns)));
    let each = cut.slices(p.k);
    let all = (p.k + cut.depth - 1) / cut.depth;
    let from = i.mul(part, i.i32(each));
    let to = i.add(from, i.i32(each));
    let beyond = i.icmp(IntCC::LLVMIntSGT, to, i.i32(all));
    let to = i.select(beyond, i.i32(all), to);
    if p.c.symmetric {
        let last = i.add(row, i.i32(cut.rows - 1));
        let above = i.icmp(IntCC::LLVMIntULT, last, column);
        e.leave_if(above);
    }
    Share { row, column, problem, partial: rest, range: (from, to) }
}

/// The result of a part of each sum: matrices of sums one after the other, problem by problem, part by part.
pub(crate) fn partial(p: &Product) -> Target {
    Target { dtype: p.sums(), row: p.n, column: 1, batch: vec![p.m * p.n], align: 256, accumulate: false, symmetric: false }
}

/// Where a block stores its sums.
pub(crate) fn place<'t>(e: &Emit, p: &'t Product, parts: Option<&'t Target>, share: &Share, base: V, covered: (bool, bool)) -> Place<'t> {
    match parts {
        None => Place::new(e, p, &p.c, base, share.problem, covered),
        Some(target) => {
            let i = &e.i;
            let offset = i.mul(i.cast(Opcode::LLVMZExt, share.partial, i.int_type(64)), i.i64(p.m * p.n));
            let base = i.element(e.memory_type(target.dtype), base, offset);
            Place { target, extents: (p.m, p.n), covered, base }
        }
    }
}

/// The parameters of entries of products: operands, result or memory for parts, status.
pub(crate) const PARAMETERS: [Parameter; 4] = [Parameter::Address; 4];

/// Adds an entry that makes tiles of a product.
pub(crate) fn entry(mut d: Entries, name: &str, p: &Product, cut: &Cut, copies: bool) -> Entries {
    let held = p.sums();
    let form = |rows| Form { held, rows, depth: cut.depth, threads: THREADS, columns: p.k, either: false, copies };
    let (mut a, mut b) = (Slices::new(&p.a, &form(cut.rows)), Slices::new(&p.b, &form(cut.columns)));
    let bytes = Flow::bytes([&a, &b], STAGES);
    let all = d.open(name, &PARAMETERS, Launch { threads: THREADS, units: 1, pieces: 1, shared: bytes });
    let e = &mut d.e;
    e.unless_stopped(all[3], None);
    let shared = e.block_memory(name, bytes);
    let share = share(e, p, cut);
    let thread = e.special("tid.x");
    let covered = (p.m % cut.rows == 0, p.n % cut.columns == 0);
    a.open(e, thread, share.row, covered.0);
    b.open(e, thread, share.column, covered.1);
    let bases = [p.a.problem(e, all[0], share.problem, &p.batch), p.b.problem(e, all[1], share.problem, &p.batch)];
    // A warp's threads are four along rows and eight along columns.
    let (warp, lane) = warp_and_lane(e, thread);
    let i = &e.i;
    let mix = |w: V, steps: i64, l: V| i.add_up(i.times(w, i.i32(steps)), l);
    let down = mix(i.op2(Opcode::LLVMUDiv, warp, i.i32(2)), 4, i.op2(Opcode::LLVMUDiv, lane, i.i32(8)));
    let across = mix(i.op2(Opcode::LLVMURem, warp, i.i32(2)), 8, i.op2(Opcode::LLVMURem, lane, i.i32(8)));
    debug_assert_eq!(THREADS / WARP, 8);
    let rows = Run::new(cut.rows, held, down);
    let columns = Run::new(cut.columns, held, across);
    let sums: Vec<Vec<V>> = (0..rows.count()).map(|_| (0..columns.count()).map(|_| zero(e, held)).collect()).collect();
    let ty = e.i.scalar(held);
    let flow = Flow { operands: [(&a, bases[0]), (&b, bases[1])], stages: STAGES, shared, range: share.range };
    flow.run(e, |e, _, [left, right]| {
        for depth in 0..cut.depth {
            let x = rows.load(e, &a, left, depth);
            let y = columns.load(e, &b, right, depth);
            for (sums, &x) in sums.iter().zip(&x) {
                for (&at, &y) in sums.iter().zip(&y) {
                    let old = e.i.load(ty, at, 8);
                    let new = e.map(optc_ir::scalar::ScalarOp::Fma, held, &[x, y, old]);
                    e.i.store(new, at, 8);
                }
            }
        }
    });
    let sums: Vec<Vec<V>> = sums.iter().map(|s| s.iter().map(|&at| e.i.load(ty, at, 8)).collect()).collect();
    let parts = (cut.parts > 1).then(|| partial(p));
    let place = place(e, p, parts.as_ref(), &share, all[2], covered);
    for r in 0..rows.runs {
        for c in 0..columns.runs {
            let (r0, c0) = ((r * rows.width) as usize, (c * columns.width) as usize);
            let block: Vec<Vec<V>> =
                sums[r0..r0 + rows.width as usize].iter().map(|s| s[c0..c0 + columns.width as usize].to_vec()).collect();
            let (row, column) = (rows.start(e, r), columns.start(e, c));
            let (row, column) = (e.i.add_up(share.row, row), e.i.add_up(share.column, column));
            place.block(e, row, column, &block);
        }
    }
    d.close()
}

/// A thread's rows (or columns) of a tile: runs of neighbors, as many as are loaded at once.
struct Run {
    width: i64,
    runs: i64,
    /// Number of the thread among those along the rows.
    me: V,
}

impl Run {
    fn new(rows: i64, held: DType, me: V) -> Run {
        let each = rows / SIDE;
        let width = each.min(16 / held.size() as i64);
        Run { width, runs: each / width, me }
    }
    fn count(&self) -> i64 {
        self.width * self.runs
    }
    /// The first one of a run.
    fn start(&self, e: &Emit, run: i64) -> V {
        e.i.add_up(e.i.times(self.me, e.i.i32(self.width)), e.i.i32(run * SIDE * self.width))
    }
    /// Elements of all of them in a column of a slice.
    fn load(&self, e: &Emit, slices: &Slices<'_>, slice: V, column: i64) -> Vec<V> {
        let mut all = Vec::new();
        for run in 0..self.runs {
            let at = slices.place(e, slice, self.start(e, run), e.i.i32(column));
            let scalar = e.i.scalar(slices.held());
            let ty = if self.width == 1 { scalar } else { e.i.vector(scalar, self.width as usize) };
            let bytes = e.i.bytes(ty);
            e.noted_read(at, bytes);
            let x = e.i.load(ty, at, bytes as u32);
            if self.width == 1 {
                all.push(x);
            } else {
                all.extend((0..self.width).map(|l| e.i.lane(x, e.i.i32(l))));
            }
        }
        all
    }
}
