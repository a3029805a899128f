//! The threads of a block and what each has of a tile of scores and of the sums made from it.

use super::{Engine, Pass, Problem, TERMS, Tile, fma, matrix};
use crate::emit::Emit;
use crate::ins::{IntCC, Opcode, V};
use crate::products::slices::{Form, Slices};
use crate::products::store::{Place, zero};
use crate::products::{Source, Target, batch_offset};
use optc_abi::DType;
use optc_ir::scalar::ScalarOp;

/// Elements of the sums that a thread has of a tile's rows: addresses of registers, row by row.
pub(super) struct Sums {
    pub(super) at: Vec<Vec<V>>,
    /// Columns that belong together, and lie together in memory.
    pub(super) run: usize,
}

/// A tile of an operand in shared memory.
#[derive(Clone, Copy)]
pub(super) struct Held<'s> {
    pub(super) slices: &'s Slices<'s>,
    pub(super) at: V,
    /// Columns of the operand, up to a multiple of [`TERMS`].
    pub(super) width: i64,
}

pub(super) struct Team {
    engine: Engine,
    tile: Tile,
    pub(super) sums: DType,
    pub(super) held: DType,
    pub(super) thread: V,
    warp: V,
    lane: V,
    /// Where weights go from thread to thread.
    pub(super) weights: V,
}

impl Team {
    /// `weights` is the shared memory for them.
    pub(super) fn new(e: &Emit, p: &Problem<'_>, tile: Tile, weights: V) -> Team {
        let thread = e.special("tid.x");
        let (warp, lane) = crate::products::slices::warp_and_lane(e, thread);
        Team { engine: p.engine, tile, sums: p.sums(), held: p.held(), thread, warp, lane, weights }
    }

    /// How many rows of a tile a thread has, and how many columns of scores.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self.engine {
            Engine::Fma => ((self.tile.rows / fma::SIDE) as usize, (self.tile.columns / fma::SIDE) as usize),
            Engine::Matrix => (2, (self.tile.columns / 4) as usize),
        }
    }

    /// Number of a thread's row within the tile.
    pub(super) fn row(&self, e: &Emit, r: usize) -> V {
        let i = &e.i;
        let (first, next) = match self.engine {
            Engine::Fma => (i.times(self.down(e), i.i32(self.tile.rows / fma::SIDE)), r as i64),
            Engine::Matrix => {
                let rows = i.times(self.warp, i.i32(matrix::ROWS));
                (i.add_up(rows, i.op2(Opcode::LLVMUDiv, self.lane, i.i32(4))), 8 * r as i64)
            }
        };
        i.add_up(first, i.i32(next))
    }

    /// Number of a thread's column of scores within the tile.
    pub(super) fn column(&self, e: &Emit, c: usize) -> V {
        let i = &e.i;
        match self.engine {
            Engine::Fma => i.add_up(self.across_index(e), i.i32(fma::SIDE * c as i64)),
            Engine::Matrix => {
                let pair = i.times(i.op2(Opcode::LLVMURem, self.lane, i.i32(4)), i.i32(2));
                i.add_up(pair, i.i32(8 * (c as i64 / 2) + c as i64 % 2))
            }
        }
    }

    /// Which of the threads that share rows this one is, and how many there are.
    pub(super) fn sharer(&self, e: &Emit) -> (V, i64) {
        match self.engine {
            Engine::Fma => (self.across_index(e), fma::SIDE),
            Engine::Matrix => (e.i.op2(Opcode::LLVMURem, self.lane, e.i.i32(4)), 4),
        }
    }

    fn across_index(&self, e: &Emit) -> V {
        e.i.op2(Opcode::LLVMURem, self.lane, e.i.i32(fma::SIDE))
    }

    fn down(&self, e: &Emit) -> V {
        let i = &e.i;
        i.add_up(i.times(self.warp, i.i32(2)), i.op2(Opcode::LLVMUDiv, self.lane, i.i32(fma::SIDE)))
    }

    /// A value combined over all threads that share a row.
    pub(super) fn across(&self, e: &mut Emit, op: ScalarOp, mut x: V) -> V {
        let mut distance = self.sharer(e).1 / 2;
        while distance > 0 {
            let other = e.shuffle(self.sums, x, distance);
            x = e.map(op, self.sums, &[x, other]);
            distance /= 2;
        }
        x
    }

    /// Registers for sums of so many columns, at zero.
    pub(super) fn sums(&self, e: &Emit, width: usize) -> Sums {
        let rows = self.shape().0;
        let (columns, run) = match self.engine {
            Engine::Fma => {
                let each = super::padded(width) / fma::SIDE;
                (each, each.min(16 / self.sums.size() as i64))
            }
            Engine::Matrix => ((width as i64 + TERMS - 1) / TERMS * TERMS / 4, 2),
        };
        let at = (0..rows).map(|_| (0..columns).map(|_| zero(e, self.sums)).collect()).collect();
        Sums { at, run: run as usize }
    }

    /// The first column of a run of sums.
    pub(super) fn start(&self, e: &Emit, sums: &Sums, run: usize) -> V {
        let i = &e.i;
        let width = sums.run as i64;
        let (me, step) = match self.engine {
            Engine::Fma => (self.across_index(e), fma::SIDE * width),
            Engine::Matrix => (i.op2(Opcode::LLVMURem, self.lane, i.i32(4)), 8),
        };
        i.add_up(i.times(me, i.i32(width)), i.i32(run as i64 * step))
    }

    /// Products of the rows of one tile with those of another one.
    pub(super) fn scores(&self, e: &mut Emit, x: Held<'_>, y: Held<'_>) -> Vec<Vec<V>> {
        match self.engine {
            Engine::Fma => fma::scores(self, e, x, y),
            Engine::Matrix => matrix::scores(self, e, x, y),
        }
    }

    /// Adds weights times the rows of a tile to sums.
    pub(super) fn add(&self, e: &mut Emit, sums: &Sums, weights: &[Vec<V>], y: Held<'_>) {
        match self.engine {
            Engine::Fma => fma::add(self, e, sums, weights, y),
            Engine::Matrix => matrix::add(self, e, sums, weights, y),
        }
    }

    /// Weights may be added a second time without a barrier between: nobody reads those before any more.
    pub(super) fn again(&self, e: &Emit) {
        if self.engine == Engine::Fma {
            e.warp_sync();
        }
    }

    /// The warp's first row.
    pub(super) fn warp_row(&self, e: &Emit) -> V {
        e.i.times(self.warp, e.i.i32(matrix::ROWS))
    }

    pub(super) fn lane(&self) -> V {
        self.lane
    }

    /// Elements from one row of weights in shared memory to the next.
    pub(super) fn weights_line(&self) -> i64 {
        self.tile.columns + 16 / self.held.size() as i64
    }

    /// Stores sums times a factor each row has.
    pub(super) fn store(&self, e: &mut Emit, sums: &Sums, place: &Place<'_>, first: V, factors: &[V]) {
        let ty = e.i.scalar(self.sums);
        for (r, row) in sums.at.iter().enumerate() {
            let number = e.i.add_up(first, self.row(e, r));
            for (n, run) in row.chunks(sums.run).enumerate() {
                let values = run.iter().map(|&at| e.i.op2(Opcode::LLVMFMul, e.i.load(ty, at, 8), factors[r])).collect();
                let column = self.start(e, sums, n);
                place.block(e, number, column, &[values]);
            }
        }
    }
}

/// What a block works on.
pub(super) struct Share {
    /// Number of the tile and of its first row.
    pub(super) tile: V,
    pub(super) first: V,
    /// Number of the problem.
    pub(super) problem: V,
}

/// Finds out what this block works on; where later tiles have more to do, they come first.
pub(super) fn share(e: &Emit, p: &Problem<'_>, pass: Pass, tile: Tile) -> Share {
    let i = &e.i;
    let count = (p.extents(pass).0 + tile.rows - 1) / tile.rows;
    let block = i.cast(Opcode::LLVMTrunc, e.block_index(), i.int_type(32));
    let (within, problem) = (i.op2(Opcode::LLVMURem, block, i.i32(count)), i.op2(Opcode::LLVMUDiv, block, i.i32(count)));
    let number = if p.what.skips() && pass != Pass::Keys { i.op2(Opcode::LLVMSub, i.i32(count - 1), within) } else { within };
    Share { tile: number, first: i.times(number, i.i32(tile.rows)), problem }
}

/// The tiles of columns that a block goes through: the first one, and the one after the last.
pub(super) fn range(e: &Emit, p: &Problem<'_>, pass: Pass, tile: Tile, share: &Share) -> (V, V) {
    let i = &e.i;
    let count = (p.extents(pass).1 + tile.columns - 1) / tile.columns;
    let all = (i.i32(0), i.i32(count));
    let Some(offset) = p.what.causal.filter(|_| p.what.skips()) else { return all };
    let offset = offset.min(i64::from(i32::MAX) / 4);
    let less = |a: V, b: V| i.select(i.icmp(IntCC::LLVMIntSLT, a, b), a, b);
    if pass == Pass::Keys {
        // Queries from the first one on that sees the first key.
        let from = i.op2(Opcode::LLVMSub, share.first, i.i32(offset));
        let from = i.select(i.icmp(IntCC::LLVMIntSGT, from, i.i32(0)), from, i.i32(0));
        return (less(i.op2(Opcode::LLVMSDiv, from, i.i32(tile.columns)), i.i32(count)), i.i32(count));
    }
    let last = i.add(share.first, i.i32(tile.rows - 1 + offset));
    let to = i.add(i.op2(Opcode::LLVMSDiv, last, i.i32(tile.columns)), i.i32(1));
    (i.i32(0), less(to, i.i32(count)))
}

/// An operand's tiles of so many rows.
pub(super) fn slices<'s>(source: &'s Source, p: &Problem<'_>, rows: i64, threads: i64, copies: bool) -> Slices<'s> {
    let extent = |digits: &[crate::products::Digit]| digits.iter().map(|d| d.extent).product::<i64>();
    let form = Form {
        held: p.held(),
        rows: padded_rows(extent(&source.rows)),
        depth: rows,
        threads,
        columns: extent(&source.columns),
        either: false,
        copies,
    };
    Slices::new(source, &form)
}

fn padded_rows(n: i64) -> i64 {
    super::padded(n as usize)
}

/// Says what this thread moves of an operand's tiles.
pub(super) fn open(e: &Emit, slices: &mut Slices<'_>, thread: V, columns: usize) {
    slices.open(e, thread, e.i.i32(0), columns as i64 == super::padded(columns));
}

/// Columns of an operand, up to a multiple of [`TERMS`].
pub(super) fn terms(n: usize) -> i64 {
    (n as i64 + TERMS - 1) / TERMS * TERMS
}

/// Where a block's results go.
pub(super) fn place<'t>(e: &Emit, p: &Problem<'_>, n: usize, target: &'t Target, base: V, share: &Share, tile: Tile) -> Place<'t> {
    let shape = &p.shapes[n].0;
    let offset = batch_offset(e, share.problem, &p.batch, &target.batch);
    let base = e.i.element(e.memory_type(target.dtype), base, offset);
    let columns = if p.engine == Engine::Matrix { terms(shape[1]) } else { super::padded(shape[1]) };
    let covered = (shape[0] as i64 % tile.rows == 0, shape[1] as i64 == columns);
    Place { target, extents: (shape[0] as i64, shape[1] as i64), covered, base }
}
