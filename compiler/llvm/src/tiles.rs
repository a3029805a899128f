//! Transposes: kernels that go through some arrays along their vector loop and through others along a loop around it.
//!
//! A block takes a tile of 32 x 32 passes of the two loops. Whichever way its threads lie, along one loop or the other, neighbors would touch elements far apart of some arrays;
//! those go through shared memory, in lines of 33 elements so that threads meet different banks, and are read or written with the threads lying the other way.

use crate::body::Body;
use crate::host::Facts;
use crate::ins::{IntCC, Opcode, V};
use crate::nest::{Nest, place, written};
use optc_ir::kernel::{AxisId, BufferId, Expr, Extent, Index, Kernel, LOCAL, LoopKind, Stmt};
use std::collections::HashMap;

/// Passes of a tile each way.
const SIDE: i64 = 32;
/// Elements of a line in shared memory.
const LINE: i64 = SIDE + 1;
/// Rows of threads of a block.
const ROWS: i64 = 8;
/// The most arrays that go through shared memory.
const MOST: usize = 10;
/// Bytes of shared memory at most.
const SHARED: i64 = 48 << 10;

/// How a kernel's passes become tiles.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    /// The loop that neighboring threads lie along, and the other one, with their passes; none for the parallel loop.
    fast: (AxisId, Option<i64>),
    slow: (AxisId, Option<i64>),
    /// Statements of the vector loop.
    body: Vec<Stmt>,
    /// Those of them that load or store through shared memory, with the offset of their tile there.
    staged: Vec<(usize, i64)>,
    bytes: i64,
}

/// How far an index moves along a loop.
fn stride(index: &Index, axis: AxisId) -> i64 {
    index.axes.iter().filter(|a| a.0 == axis).map(|a| a.1).sum()
}

/// Whether neighbors along a loop touch neighbors in memory, or the same element.
fn near(index: &Index, axis: AxisId) -> bool {
    matches!(stride(index, axis).abs(), 0 | 1) && !index.sized.iter().any(|s| s.0 == axis)
}

/// Whether they touch neighbors.
fn beside(index: &Index, axis: AxisId) -> bool {
    near(index, axis) && stride(index, axis) != 0
}

fn access(stmt: &Stmt) -> Option<(BufferId, &Index)> {
    match stmt {
        Stmt::Let { expr: Expr::Load { buffer, index, guard: None }, .. } => Some((*buffer, index)),
        Stmt::Store { buffer, index, .. } => Some((*buffer, index)),
        _ => None,
    }
}

impl Tiles {
    /// Tiles of a kernel, if it has something to transpose.
    pub(crate) fn of(kernel: &Kernel, nest: &Nest, facts: &Facts) -> Option<Tiles> {
        let [Stmt::For { axis, extent: Extent::Const(n), kind: LoopKind::Vector, body }] = &nest.body[..] else { return None };
        let plain = |s: &Stmt| match s {
            Stmt::Let { expr: Expr::Acc(_), .. } => false,
            Stmt::Let { .. } | Stmt::Store { .. } => true,
            _ => false,
        };
        if !body.iter().all(plain) || *n < SIDE / 2 {
            return None;
        }
        let around = nest.apart.iter().map(|&(a, n)| (a, Some(n))).chain(nest.parallel.map(|a| (a, None)));
        let vector = (*axis, Some(*n));
        let mut best: Option<(usize, Tiles)> = None;
        for other in around.filter(|o| o.1.is_none_or(|n| n >= SIDE / 2)) {
            if !body.iter().filter_map(access).any(|(_, index)| !near(index, *axis) && beside(index, other.0)) {
                continue;
            }
            for (fast, slow) in [(vector, other), (other, vector)] {
                let Some(tiles) = Tiles::lying(kernel, body, fast, slow, facts) else { continue };
                // As few arrays as may be go through shared memory, and threads lie along the vector loop if that is all the same.
                if best.as_ref().is_none_or(|b| tiles.staged.len() < b.0) {
                    best = Some((tiles.staged.len(), tiles));
                }
            }
        }
        best.map(|b| b.1)
    }

    /// Tiles with threads lying so, if all accesses that this takes apart can go through shared memory.
    fn lying(kernel: &Kernel, body: &[Stmt], fast: (AxisId, Option<i64>), slow: (AxisId, Option<i64>), facts: &Facts) -> Option<Tiles> {
        let stored: Vec<Option<BufferId>> = written(body).into_iter().map(|b| place(b, facts)).collect();
        let mut tiles = Tiles { fast, slow, body: body.to_vec(), staged: Vec::new(), bytes: 0 };
        for (n, stmt) in body.iter().enumerate() {
            let Some((buffer, index)) = access(stmt) else { continue };
            if near(index, fast.0) || !beside(index, slow.0) || !index.values.is_empty() {
                continue;
            }
            let here = place(buffer, facts).filter(|&b| b < LOCAL);
            let others =
                || body.iter().enumerate().filter(|&(m, s)| m != n && access_of(s).is_some_and(|b| place(b, facts) == here)).count();
            let fine = match stmt {
                Stmt::Store { .. } => others() == 0,
                _ => !stored.contains(&here),
            };
            if here.is_none() || !fine || tiles.staged.len() == MOST {
                return None;
            }
            tiles.staged.push((n, tiles.bytes));
            tiles.bytes += (SIDE * LINE * kernel.dtype(buffer).size() as i64 + 15) / 16 * 16;
        }
        (tiles.bytes <= SHARED).then_some(tiles)
    }

    /// Bytes of shared memory.
    pub(crate) fn bytes(&self) -> i64 {
        self.bytes
    }

    fn parallel(&self) -> bool {
        self.fast.1.is_none() || self.slow.1.is_none()
    }

    /// How many tiles there are along a loop.
    fn count(axis: (AxisId, Option<i64>)) -> i64 {
        axis.1.map_or(1, |n| (n + SIDE - 1) / SIDE)
    }

    /// Loops that are neither.
    fn rest<'n>(&'n self, nest: &'n Nest) -> impl DoubleEndedIterator<Item = &'n (AxisId, i64)> {
        nest.apart.iter().filter(|a| a.0 != self.fast.0 && a.0 != self.slow.0)
    }

    /// Units of a tile, and tiles of so many units.
    pub(crate) fn units(&self) -> i64 {
        if self.parallel() { SIDE } else { 1 }
    }
    pub(crate) fn pieces(&self, nest: &Nest) -> i64 {
        Tiles::count(self.fast) * Tiles::count(self.slow) * self.rest(nest).map(|a| a.1).product::<i64>()
    }
}

/// The buffer of a load, guarded or not, or of a store.
fn access_of(stmt: &Stmt) -> Option<BufferId> {
    match stmt {
        Stmt::Let { expr: Expr::Load { buffer, .. }, .. } | Stmt::Store { buffer, .. } => Some(*buffer),
        _ => None,
    }
}

impl Body<'_> {
    /// A kernel in tiles.
    pub(crate) fn tiled(&mut self, nest: &Nest, tiles: &Tiles) {
        self.simt().inside = true;
        let (block, blocks) = (self.simt().block, self.simt().blocks);
        let i = &self.e.i;
        let thread = i.cast(Opcode::LLVMZExt, self.e.special("tid.x"), i.int_type(64));
        let (x, y) = (i.op2(Opcode::LLVMURem, thread, i.i64(SIDE)), i.op2(Opcode::LLVMUDiv, thread, i.i64(SIDE)));
        let units = i.op2(Opcode::LLVMSub, self.end, self.begin);
        let outer = if tiles.parallel() { i.op2(Opcode::LLVMSDiv, i.add(units, i.i64(SIDE - 1)), i.i64(SIDE)) } else { units };
        let total = i.mul(outer, i.i64(tiles.pieces(nest)));
        // Any axis will do for the number of the tile, as all are set within.
        self.strided(tiles.fast.0, block, total, blocks, |b| {
            let mut rest = b.axes[tiles.fast.0].expect("the loop has set its axis");
            let digit = |b: &Body<'_>, n: i64, rest: &mut V| {
                let i = &b.e.i;
                let value = i.op2(Opcode::LLVMURem, *rest, i.i64(n));
                *rest = i.op2(Opcode::LLVMUDiv, *rest, i.i64(n));
                value
            };
            let start = |b: &Body<'_>, rest: &mut V, axis: (AxisId, Option<i64>)| {
                axis.1.map(|_| {
                    let tile = digit(b, Tiles::count(axis), rest);
                    b.e.i.mul(tile, b.e.i.i64(SIDE))
                })
            };
            let (fast, slow) = (start(b, &mut rest, tiles.fast), start(b, &mut rest, tiles.slow));
            for &(axis, n) in tiles.rest(nest).rev() {
                b.axes[axis] = Some(digit(b, n, &mut rest));
            }
            // What is left counts units, or tiles of them.
            if let Some(axis) = nest.parallel {
                b.axes[axis] = Some(b.e.i.add(b.begin, rest));
            }
            let i = &b.e.i;
            let tile_of_units = i.add(b.begin, i.mul(rest, i.i64(SIDE)));
            let whole = |n: Option<i64>| n.map_or(b.end, |n| i.i64(n));
            let (fast, slow) = (fast.unwrap_or(tile_of_units), slow.unwrap_or(tile_of_units));
            let ends = [whole(tiles.fast.1), whole(tiles.slow.1)];
            b.tile(nest, tiles, [x, y], [fast, slow], ends);
        });
    }

    fn tile(&mut self, nest: &Nest, tiles: &Tiles, [x, y]: [V; 2], [fast, slow]: [V; 2], [fast_end, slow_end]: [V; 2]) {
        let rounds = SIDE / ROWS;
        let row = |b: &Body<'_>, r: i64| b.e.i.add(y, b.e.i.i64(r * ROWS));
        let loads: Vec<(usize, i64)> = tiles.staged.iter().copied().filter(|&(n, _)| matches!(tiles.body[n], Stmt::Let { .. })).collect();
        let stores: Vec<(usize, i64)> = tiles.staged.iter().copied().filter(|s| !loads.contains(s)).collect();
        // Loads with threads lying along the slow loop; beyond the edges the last element is loaded once more.
        let least = |b: &Body<'_>, at: V, end: V| {
            let i = &b.e.i;
            let last = i.op2(Opcode::LLVMSub, end, i.i64(1));
            i.select(i.icmp(IntCC::LLVMIntSLT, at, last), at, last)
        };
        let mut found = Vec::new();
        for r in 0..rounds {
            let (f, s) = (self.e.i.add(fast, row(self, r)), self.e.i.add(slow, x));
            self.axes[tiles.fast.0] = Some(least(self, f, fast_end));
            self.axes[tiles.slow.0] = Some(least(self, s, slow_end));
            for &(n, offset) in &loads {
                let Stmt::Let { expr: Expr::Load { buffer, index, .. }, .. } = &tiles.body[n] else { continue };
                let value = self.load(*buffer, index, None);
                found.push((self.e.narrow(self.kernel.dtype(*buffer), value), *buffer, offset, row(self, r)));
            }
        }
        for (value, buffer, offset, row) in found {
            self.put_tile(buffer, offset, row, x, value);
        }
        if !loads.is_empty() {
            self.e.block_barrier();
        }
        for r in 0..rounds {
            let (f, s) = (self.e.i.add(fast, x), self.e.i.add(slow, row(self, r)));
            self.axes[tiles.fast.0] = Some(f);
            self.axes[tiles.slow.0] = Some(s);
            let there = self.inside(f, s, fast_end, slow_end);
            let place = row(self, r);
            let places: HashMap<usize, i64> = tiles.staged.iter().copied().collect();
            self.when(there, |b| {
                b.block(&nest.between);
                for (n, stmt) in tiles.body.iter().enumerate() {
                    match (places.get(&n), stmt) {
                        (Some(&offset), Stmt::Let { value, dtype, expr: Expr::Load { buffer, .. } }) => {
                            let v = b.tile_value(*buffer, offset, x, place);
                            b.dtypes[*value] = *dtype;
                            b.values[*value] = Some(v);
                        }
                        (Some(&offset), Stmt::Store { buffer, value, .. }) => {
                            let v = b.e.narrow(b.kernel.dtype(*buffer), b.value(*value));
                            b.put_tile(*buffer, offset, x, place, v);
                        }
                        _ => b.block(std::slice::from_ref(stmt)),
                    }
                }
            });
        }
        if tiles.staged.is_empty() {
            return;
        }
        self.e.block_barrier();
        for r in 0..rounds {
            let (f, s) = (self.e.i.add(fast, row(self, r)), self.e.i.add(slow, x));
            self.axes[tiles.fast.0] = Some(f);
            self.axes[tiles.slow.0] = Some(s);
            let there = self.inside(f, s, fast_end, slow_end);
            if stores.is_empty() {
                break;
            }
            let place = row(self, r);
            self.when(there, |b| {
                for &(n, offset) in &stores {
                    let Stmt::Store { buffer, index, value } = &tiles.body[n] else { continue };
                    b.values[*value] = Some(b.tile_value(*buffer, offset, place, x));
                    b.store(*buffer, index, *value);
                }
            });
        }
        if !stores.is_empty() {
            // The next tile takes their place.
            self.e.block_barrier();
        }
    }

    fn inside(&self, f: V, s: V, fast_end: V, slow_end: V) -> V {
        let i = &self.e.i;
        i.and(i.icmp(IntCC::LLVMIntSLT, f, fast_end), i.icmp(IntCC::LLVMIntSLT, s, slow_end))
    }

    /// Address of an element of a tile in shared memory.
    fn tile_place(&self, buffer: BufferId, offset: i64, line: V, at: V) -> V {
        let i = &self.e.i;
        let base = self.simt.as_ref().and_then(|s| s.shared).expect("tiles have shared memory");
        let start = i.element(i.int_type(8), base, i.i64(offset));
        i.element(self.e.memory_type(self.kernel.dtype(buffer)), start, i.add(i.mul(line, i.i64(LINE)), at))
    }

    fn put_tile(&self, buffer: BufferId, offset: i64, line: V, at: V, x: V) {
        let size = self.kernel.dtype(buffer).size();
        let to = self.tile_place(buffer, offset, line, at);
        self.e.noted_write(to, size as i64);
        self.e.i.store(x, to, size as u32);
    }

    fn tile_value(&self, buffer: BufferId, offset: i64, line: V, at: V) -> V {
        let dtype = self.kernel.dtype(buffer);
        let from = self.tile_place(buffer, offset, line, at);
        self.e.noted_read(from, dtype.size() as i64);
        self.e.widen(dtype, self.e.i.load(self.e.memory_type(dtype), from, dtype.size() as u32))
    }
}
