//! Matrix products in object files: operands are packed into panels that stay in the caches, and the result is made tile by tile in registers.
//!
//! The extents are known, so every product has a function with its loops; what it calls (packing, tiles) is made once for all products. Each element is summed over a chunk of at most [`DEPTH`] steps, one
//! fused multiply-add after the other from zero, and the chunks are added up in order, whatever the tile: so all processors with fused multiply-adds give the same bits. Those of x86-64 before AVX2 round
//! twice, as they multiply and add. bf16 is summed in f32 and rounded once. Of a symmetric result only tiles up to the diagonal are made; the rest is mirrored.

mod copy;
mod tile;

use super::{Object, trouble};
use crate::effort::Effort;
use crate::emit::Emit;
use crate::isa::Features;
use crate::{Error, assemble};
use cranelift_codegen::Context;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, AbiParam, BlockArg, FuncRef, InstBuilder, Value, types};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{FuncId, Module};
use optc_abi::DType;
use optc_abi::plan::Gemm;

/// Steps along k of a panel, at most: what a tile reads of both operands stays in the nearest cache.
const DEPTH: usize = 256;
/// Bytes of a row of packed columns: all panels of the right operand.
const COLUMN_BYTES: usize = 2048;
/// Bytes of a column of packed rows, a multiple of every tile's: these panels of the left operand stay in the second cache.
const ROW_BYTES: usize = 576;
/// Blocks of rows between two passes over all columns, which bounds what sums of bf16 take.
const PASS_BLOCKS: usize = 7;
/// Multiply-adds from which a product is worth packing for.
const LEAST_WORK: usize = 1 << 12;
/// Rows and columns from which tiles are not mostly empty.
const LEAST_SIDE: usize = 4;
/// Panels have a multiple of so many steps, the last ones zero: passes of a tile's loop.
const STEPS: usize = crate::wide::tile::STEPS;

/// A matrix operand's strides, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Strides {
    rows: i64,
    cols: i64,
}

/// A product of single matrices whose result has its rows in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    dtype: DType,
    m: usize,
    n: usize,
    k: usize,
    a: Strides,
    b: Strides,
    /// Elements between rows of the result.
    c: i64,
    accumulate: bool,
    symmetric: bool,
    /// The operands change places: the result is the transpose of the plan's.
    pub(super) exchanged: bool,
}

/// Rows and columns of a tile.
#[derive(Clone, Copy, Debug)]
struct Tile {
    rows: usize,
    cols: usize,
}

impl Tile {
    /// In 256-bit registers; in the sixteen 128-bit ones of x86-64; in the 32 of ARM.
    const ALL: [[usize; 2]; 3] = [[crate::wide::tile::ROWS, crate::wide::tile::ROW_BYTES], [4, 32], [4, 64]];

    fn new([rows, row_bytes]: [usize; 2], size: usize) -> Tile {
        Tile { rows, cols: row_bytes / size }
    }
    fn of(features: Features, size: usize) -> Tile {
        let which = if features.vectors.lanes().is_some() { 0 } else { 1 + usize::from(!features.x86) };
        Tile::new(Tile::ALL[which], size)
    }
}

/// Offsets in the memory that a product needs.
struct Space {
    left: usize,
    tile: usize,
    sums: usize,
    end: usize,
}

impl Packed {
    /// The product, if it is large enough and its result has rows or columns in order.
    pub(super) fn new(gemm: &Gemm) -> Option<Packed> {
        let &Gemm { dtype, m, n, k, accumulate, symmetric, .. } = gemm;
        if !matches!(dtype, DType::F32 | DType::F64 | DType::BF16) || m.min(n) < LEAST_SIDE || m * n * k < LEAST_WORK {
            return None;
        }
        let strides = |of: &optc_abi::plan::MatRef| Strides { rows: of.row_stride, cols: of.col_stride };
        let turned = |of: Strides| Strides { rows: of.cols, cols: of.rows };
        let (a, b, c) = (strides(&gemm.a), strides(&gemm.b), strides(&gemm.c));
        let straight = Packed { dtype, m, n, k, a, b, c: c.rows, accumulate, symmetric, exchanged: false };
        match (c.rows, c.cols) {
            (_, 1) => Some(straight),
            (1, _) => Some(Packed { m: n, n: m, a: turned(b), b: turned(a), c: c.cols, exchanged: true, ..straight }),
            _ => None,
        }
    }

    /// Bytes of memory beside the operands and the result, for any processor.
    pub(super) fn bytes(&self) -> usize {
        let size = self.sum().size();
        Tile::ALL.iter().map(|&t| self.space(Tile::new(t, size)).end).max().unwrap_or(0)
    }

    /// What is summed in.
    fn sum(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }
    fn narrow(&self) -> bool {
        self.dtype != self.sum()
    }
    /// How often, and how many steps at a time.
    fn chunks(&self) -> (usize, usize) {
        let chunks = self.k.div_ceil(DEPTH);
        (chunks, self.k.div_ceil(chunks))
    }
    fn block_rows(&self) -> usize {
        ROW_BYTES / self.sum().size()
    }
    fn block_cols(&self) -> usize {
        COLUMN_BYTES / self.sum().size()
    }
    /// Rows of a pass over all columns.
    fn pass_rows(&self) -> usize {
        if self.narrow() { PASS_BLOCKS * self.block_rows() } else { self.m }
    }

    /// Panels of the right operand, of the left one, a tile that is cut off, sums of narrow results.
    fn space(&self, tile: Tile) -> Space {
        let size = self.sum().size();
        let depth = self.chunks().1.next_multiple_of(STEPS);
        let (rows, cols) = (self.m.min(self.block_rows()).next_multiple_of(tile.rows), self.columns(tile));
        let left = cols * depth * size;
        let tile_at = left + (rows * depth * size).next_multiple_of(64);
        let sums = tile_at + (tile.rows * tile.cols * size).next_multiple_of(64);
        let sum_rows = if self.narrow() { self.m.min(self.pass_rows()).next_multiple_of(tile.rows) } else { 0 };
        Space { left, tile: tile_at, sums, end: sums + (sum_rows * cols * size).next_multiple_of(64) }
    }
    /// Columns of all panels that are packed at a time.
    fn columns(&self, tile: Tile) -> usize {
        self.n.min(self.block_cols()).next_multiple_of(tile.cols)
    }
}

/// What products call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Routine {
    /// (to, from, bytes between lanes, bytes between steps, lanes, steps): one panel of so many lanes; those that are not there are zero.
    Pack { dtype: DType, lanes: usize, order: Order },
    /// (left panel, right panel, result, bytes between its rows, end of the left panel): a whole tile.
    Tile { sum: DType, add: bool },
    /// (tile, to, bytes between rows, rows, columns): what there is of a tile at an edge.
    Edge { sum: DType, add: bool },
    /// (sums, to, bytes between rows of both, rows, columns): rounds to a narrow type.
    Round { dtype: DType, add: bool },
    /// (matrix, bytes between rows, rows): what lies above the diagonal from what lies below.
    Mirror { dtype: DType },
}

/// What of an operand lies in order in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Order {
    /// Rows of the left operand at one step, or columns of the right one.
    Lanes,
    /// Steps along k.
    Steps,
    /// Neither.
    None,
}

impl Order {
    fn of(lane: i64, step: i64) -> Order {
        match (lane, step) {
            (1, _) => Order::Lanes,
            (_, 1) => Order::Steps,
            _ => Order::None,
        }
    }
}

/// A loop: `at` from `from` up to `to` in steps of `by`.
fn each(e: &mut Emit<'_>, from: Value, to: Value, by: usize, body: impl FnOnce(&mut Emit<'_>, Value)) {
    let [head, inside, done] = [(); 3].map(|()| e.b.create_block());
    let at = e.b.append_block_param(head, types::I64);
    e.b.ins().jump(head, &[BlockArg::Value(from)]);
    e.b.switch_to_block(head);
    let more = e.icmp(IntCC::SignedLessThan, at, to);
    e.b.ins().brif(more, inside, &[], done, &[]);
    e.b.switch_to_block(inside);
    e.b.seal_block(inside);
    body(e, at);
    let next = e.add_const(at, by as i64);
    e.b.ins().jump(head, &[BlockArg::Value(next)]);
    e.b.seal_block(head);
    e.b.switch_to_block(done);
    e.b.seal_block(done);
}

/// One or the other.
fn either(e: &mut Emit<'_>, holds: Value, then: impl FnOnce(&mut Emit<'_>), otherwise: impl FnOnce(&mut Emit<'_>)) {
    let [yes, no, done] = [(); 3].map(|()| e.b.create_block());
    e.b.ins().brif(holds, yes, &[], no, &[]);
    e.b.switch_to_block(yes);
    e.b.seal_block(yes);
    then(e);
    e.b.ins().jump(done, &[]);
    e.b.switch_to_block(no);
    e.b.seal_block(no);
    otherwise(e);
    e.b.ins().jump(done, &[]);
    e.b.switch_to_block(done);
    e.b.seal_block(done);
}

fn least(e: &mut Emit<'_>, a: Value, b: Value) -> Value {
    let less = e.icmp(IntCC::SignedLessThan, a, b);
    e.b.ins().select(less, a, b)
}

fn most(e: &mut Emit<'_>, a: Value, b: Value) -> Value {
    let less = e.icmp(IntCC::SignedLessThan, a, b);
    e.b.ins().select(less, b, a)
}

/// `x` moved by `by` elements of a constant number of bytes.
fn moved(e: &mut Emit<'_>, x: Value, by: Value, bytes: i64) -> Value {
    let by = e.mul_const(by, bytes);
    e.b.ins().iadd(x, by)
}

/// A whole number divided by a constant; it is not negative.
fn divided(e: &mut Emit<'_>, x: Value, by: usize) -> Value {
    let by = e.int(types::I64, by as i64);
    e.b.ins().udiv(x, by)
}

impl Object {
    /// A function of the object, for one level, that takes numbers and addresses.
    fn inner(
        &mut self,
        level: usize,
        params: usize,
        fill: impl FnOnce(&mut Object, &mut Emit<'_>, &[Value]) -> Result<(), Error>,
    ) -> Result<FuncId, Error> {
        let target = self.levels[level].clone();
        let isa = target.isa(Effort::Loops);
        let mut signature = ir::Signature::new(isa.default_call_conv());
        signature.params.extend(vec![AbiParam::new(types::I64); params]);
        let id = self.module.declare_anonymous_function(&signature).map_err(trouble)?;
        let mut context = Context::new();
        context.func = ir::Function::with_name_signature(ir::UserFuncName::user(0, id.as_u32()), signature);
        let mut frontend = std::mem::take(&mut self.frontend);
        let mut b = FunctionBuilder::new(&mut context.func, &mut frontend);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let params = b.block_params(entry).to_vec();
        let mut e = Emit::new(b, target.features);
        fill(self, &mut e, &params)?;
        e.b.ins().return_(&[]);
        e.b.finalize(target.features.frontend);
        self.frontend = frontend;
        let code = assemble(isa, &mut context)?;
        self.module.define_function_bytes(id, code.align, &code.bytes, &code.relocs).map_err(trouble)?;
        Ok(id)
    }

    /// A routine of a level, made when it is first asked for.
    fn routine(&mut self, level: usize, routine: Routine) -> Result<FuncId, Error> {
        if let Some(&id) = self.routines.get(&(level, routine)) {
            return Ok(id);
        }
        let features = self.levels[level].features;
        let id = match routine {
            Routine::Tile { sum, add } if features.vectors.lanes().is_some() => {
                let mut signature = ir::Signature::new(cranelift_codegen::isa::CallConv::SystemV);
                signature.params.extend(vec![AbiParam::new(types::I64); 5]);
                let id = self.module.declare_anonymous_function(&signature).map_err(trouble)?;
                let bytes = crate::wide::tile::tile(sum == DType::F64, add);
                self.module.define_function_bytes(id, crate::WIDE_ALIGN, &bytes, &[]).map_err(trouble)?;
                id
            }
            Routine::Tile { sum, add } => {
                let shape = Tile::of(features, sum.size());
                self.inner(level, 5, |_, e, params| {
                    tile::tile(e, params, shape, sum, add);
                    Ok(())
                })?
            }
            Routine::Pack { dtype, lanes, order } => self.inner(level, 6, |_, e, params| {
                copy::pack(e, params, dtype, lanes, order);
                Ok(())
            })?,
            Routine::Edge { sum, add } => {
                let columns = Tile::of(features, sum.size()).cols;
                self.inner(level, 5, |_, e, params| {
                    copy::edge(e, params, sum, columns, add);
                    Ok(())
                })?
            }
            Routine::Round { dtype, add } => self.inner(level, 6, |_, e, params| {
                copy::round(e, params, dtype, add);
                Ok(())
            })?,
            Routine::Mirror { dtype } => self.inner(level, 3, |_, e, params| {
                copy::mirror(e, params, dtype);
                Ok(())
            })?,
        };
        self.routines.insert((level, routine), id);
        Ok(id)
    }

    /// A product for a level: a function of the addresses of the operands, the result, and memory.
    pub(super) fn product(&mut self, level: usize, p: &Packed) -> Result<FuncId, Error> {
        let (dtype, sum) = (p.dtype, p.sum());
        let tile = Tile::of(self.levels[level].features, sum.size());
        let mut routine = |r: Routine| self.routine(level, r);
        let pack_a = routine(Routine::Pack { dtype, lanes: tile.rows, order: Order::of(p.a.rows, p.a.cols) })?;
        let pack_b = routine(Routine::Pack { dtype, lanes: tile.cols, order: Order::of(p.b.cols, p.b.rows) })?;
        let [first, next] = [false, true].map(|add| routine(Routine::Tile { sum, add }));
        let (first, next) = (first?, next?);
        let mut ids = vec![pack_a, pack_b, first, next];
        if p.narrow() {
            ids.push(routine(Routine::Round { dtype, add: p.accumulate })?);
        } else {
            ids.push(routine(Routine::Edge { sum, add: false })?);
            ids.push(routine(Routine::Edge { sum, add: true })?);
        }
        let mirror = if p.symmetric { Some(routine(Routine::Mirror { dtype })?) } else { None };
        self.inner(level, 4, |object, e, params| {
            let mut here = |id: FuncId| object.module.declare_func_in_func(id, e.b.func);
            let calls: Vec<FuncRef> = ids.iter().map(|&id| here(id)).collect();
            let mirror = mirror.map(here);
            let space = p.space(tile);
            let at = |e: &mut Emit<'_>, offset: usize| e.add_const(params[3], offset as i64);
            let walk = Walk {
                p,
                tile,
                a: params[0],
                b: params[1],
                c: params[2],
                right: params[3],
                left: at(e, space.left),
                cut: at(e, space.tile),
                sums: at(e, space.sums),
                calls,
            };
            walk.passes(e);
            if let Some(mirror) = mirror {
                let (row, rows) = (e.int(types::I64, p.c * dtype.size() as i64), e.int(types::I64, p.m as i64));
                e.b.ins().call(mirror, &[params[2], row, rows]);
            }
            Ok(())
        })
    }
}

/// A product that is being written down.
struct Walk<'p> {
    p: &'p Packed,
    tile: Tile,
    a: Value,
    b: Value,
    c: Value,
    /// Panels of the right operand, of the left one, a tile at an edge, sums.
    right: Value,
    left: Value,
    cut: Value,
    sums: Value,
    /// Packing left and right, tiles, first and further; then rounding, or edges, first and further.
    calls: Vec<FuncRef>,
}

/// A block of the result at one chunk of steps: where it begins, and how much of it there is.
#[derive(Clone, Copy)]
struct Block {
    row: Value,
    rows: Value,
    col: Value,
    cols: Value,
    step: Value,
    steps: Value,
    /// Steps of a panel.
    padded: Value,
    /// First row of the pass.
    pass: Value,
    /// Whether what is in the result counts.
    add: Value,
}

impl Walk<'_> {
    fn int(e: &mut Emit<'_>, x: usize) -> Value {
        e.int(types::I64, x as i64)
    }
    fn sum_bytes(&self) -> i64 {
        self.p.sum().size() as i64
    }
    fn bytes(&self) -> i64 {
        self.p.dtype.size() as i64
    }
    /// Bytes between rows of what tiles are written to.
    fn row_bytes(&self) -> i64 {
        if self.p.narrow() { self.p.columns(self.tile) as i64 * self.sum_bytes() } else { self.p.c * self.bytes() }
    }

    /// Blocks of columns, and within them passes over rows and over chunks of steps.
    fn passes(&self, e: &mut Emit<'_>) {
        let p = self.p;
        let [zero, m, n, k] = [0, p.m, p.n, p.k].map(|x| Self::int(e, x));
        let (block, pass_rows, (_, depth)) = (p.block_cols(), p.pass_rows(), p.chunks());
        each(e, zero, n, block, |e, col| {
            let (rest, whole) = (e.b.ins().isub(n, col), Self::int(e, block));
            let cols = least(e, rest, whole);
            each(e, zero, m, pass_rows, |e, pass| {
                let end = e.add_const(pass, pass_rows as i64);
                let end = least(e, end, m);
                each(e, zero, k, depth, |e, step| {
                    let (rest, whole) = (e.b.ins().isub(k, step), Self::int(e, depth));
                    let steps = least(e, rest, whole);
                    let padded = e.add_const(steps, STEPS as i64 - 1);
                    let mask = e.int(types::I64, -(STEPS as i64));
                    let padded = e.b.ins().band(padded, mask);
                    let add = match p.accumulate && !p.narrow() {
                        true => e.int(types::I8, 1),
                        false => e.icmp(IntCC::NotEqual, step, zero),
                    };
                    let block = Block { row: pass, rows: end, col, cols, step, steps, padded, pass, add };
                    self.pack_right(e, block);
                    self.rows(e, block, end);
                });
                if p.narrow() {
                    self.round(e, [pass, end], [col, cols]);
                }
            });
        });
    }

    /// Bytes of a panel of so many lanes.
    fn panel(&self, e: &mut Emit<'_>, at: Block, lanes: usize) -> Value {
        e.mul_const(at.padded, lanes as i64 * self.sum_bytes())
    }

    fn pack_right(&self, e: &mut Emit<'_>, at: Block) {
        let (p, lanes) = (self.p, self.tile.cols);
        let from = moved(e, self.b, at.step, p.b.rows * self.bytes());
        let from = moved(e, from, at.col, p.b.cols * self.bytes());
        self.pack(e, at, self.calls[1], [from, self.right], at.cols, lanes, [p.b.cols, p.b.rows]);
    }

    /// Packs `count` lanes, panel by panel.
    #[expect(clippy::too_many_arguments, reason = "what a panel is made of")]
    fn pack(&self, e: &mut Emit<'_>, at: Block, call: FuncRef, [from, to]: [Value; 2], count: Value, lanes: usize, [lane, step]: [i64; 2]) {
        let bytes = self.panel(e, at, lanes);
        let [lane_bytes, step_bytes] = [lane, step].map(|s| e.int(types::I64, s * self.bytes()));
        let (zero, whole) = (Self::int(e, 0), Self::int(e, lanes));
        each(e, zero, count, lanes, |e, first| {
            let panel = divided(e, first, lanes);
            let offset = e.b.ins().imul(panel, bytes);
            let to = e.b.ins().iadd(to, offset);
            let from = moved(e, from, first, lane * self.bytes());
            let rest = e.b.ins().isub(count, first);
            let there = least(e, rest, whole);
            e.b.ins().call(call, &[to, from, lane_bytes, step_bytes, there, at.steps]);
        });
    }

    /// Blocks of rows up to `end`.
    fn rows(&self, e: &mut Emit<'_>, at: Block, end: Value) {
        let (p, block) = (self.p, self.p.block_rows());
        let mut first = at.pass;
        if p.symmetric {
            // Blocks above the diagonal are left out. Passes begin at multiples of a block.
            let (of_diagonal, whole) = (divided(e, at.col, block), Self::int(e, block));
            let diagonal = e.b.ins().imul(of_diagonal, whole);
            first = most(e, first, diagonal);
        }
        each(e, first, end, block, |e, row| {
            let (rest, whole) = (e.b.ins().isub(end, row), Self::int(e, block));
            let at = Block { row, rows: least(e, rest, whole), ..at };
            let from = moved(e, self.a, at.row, p.a.rows * self.bytes());
            let from = moved(e, from, at.step, p.a.cols * self.bytes());
            self.pack(e, at, self.calls[0], [from, self.left], at.rows, self.tile.rows, [p.a.rows, p.a.cols]);
            self.tiles(e, at);
        });
    }

    /// The tiles of a block: each panel of the right operand with all of the left one.
    fn tiles(&self, e: &mut Emit<'_>, at: Block) {
        let (p, tile) = (self.p, self.tile);
        let (left_bytes, right_bytes) = (self.panel(e, at, tile.rows), self.panel(e, at, tile.cols));
        let zero = Self::int(e, 0);
        let from = if p.narrow() { self.sums } else { moved(e, self.c, at.col, self.bytes()) };
        let row = if p.narrow() { e.b.ins().isub(at.row, at.pass) } else { at.row };
        let block = moved(e, from, row, self.row_bytes());
        each(e, zero, at.cols, tile.cols, |e, col| {
            let panel = divided(e, col, tile.cols);
            let offset = e.b.ins().imul(panel, right_bytes);
            let right = e.b.ins().iadd(self.right, offset);
            let mut first = zero;
            if p.symmetric {
                // The first panel of rows that reaches the diagonal.
                let place = e.b.ins().iadd(at.col, col);
                let above = e.b.ins().isub(place, at.row);
                let above = most(e, above, zero);
                let panel = divided(e, above, tile.rows);
                first = e.mul_const(panel, tile.rows as i64);
            }
            let to = moved(e, block, col, self.sum_bytes());
            each(e, first, at.rows, tile.rows, |e, row| {
                let panel = divided(e, row, tile.rows);
                let offset = e.b.ins().imul(panel, left_bytes);
                let left = e.b.ins().iadd(self.left, offset);
                let end = e.b.ins().iadd(left, left_bytes);
                let to = moved(e, to, row, self.row_bytes());
                self.one(e, at, [left, right, to, end], [row, col]);
            });
        });
    }

    /// A tile, whole or at an edge.
    fn one(&self, e: &mut Emit<'_>, at: Block, [left, right, to, end]: [Value; 4], [row, col]: [Value; 2]) {
        let tile = self.tile;
        let row_bytes = e.int(types::I64, self.row_bytes());
        let whole = |e: &mut Emit<'_>| {
            let call = |e: &mut Emit<'_>, k: usize| {
                e.b.ins().call(self.calls[k], &[left, right, to, row_bytes, end]);
            };
            either(e, at.add, |e| call(e, 3), |e| call(e, 2));
        };
        if self.p.narrow() {
            return whole(e);
        }
        let (rows, cols) = (e.b.ins().isub(at.rows, row), e.b.ins().isub(at.cols, col));
        let [few_rows, few_cols] = [(rows, tile.rows), (cols, tile.cols)].map(|(there, all)| {
            let all = Self::int(e, all);
            (e.icmp(IntCC::SignedLessThan, there, all), least(e, there, all))
        });
        let cut = e.b.ins().bor(few_rows.0, few_cols.0);
        let edge = |e: &mut Emit<'_>| {
            let narrow_row = e.int(types::I64, tile.cols as i64 * self.sum_bytes());
            e.b.ins().call(self.calls[2], &[left, right, self.cut, narrow_row, end]);
            let call = |e: &mut Emit<'_>, k: usize| {
                e.b.ins().call(self.calls[k], &[self.cut, to, row_bytes, few_rows.1, few_cols.1]);
            };
            either(e, at.add, |e| call(e, 5), |e| call(e, 4));
        };
        either(e, cut, edge, whole);
    }

    /// Rounds the sums of a pass, of a symmetric result some columns beyond the diagonal at most.
    fn round(&self, e: &mut Emit<'_>, [pass, end]: [Value; 2], [col, cols]: [Value; 2]) {
        const ROWS: usize = 16;
        let (sum_row, row_bytes) = (e.int(types::I64, self.row_bytes()), e.int(types::I64, self.p.c * self.bytes()));
        each(e, pass, end, ROWS, |e, row| {
            let (rest, whole) = (e.b.ins().isub(end, row), Self::int(e, ROWS));
            let rows = least(e, rest, whole);
            let mut there = cols;
            if self.p.symmetric {
                let below = e.b.ins().iadd(row, rows);
                let (below, zero) = (e.b.ins().isub(below, col), Self::int(e, 0));
                let below = most(e, below, zero);
                there = least(e, cols, below);
            }
            let in_pass = e.b.ins().isub(row, pass);
            let from = moved(e, self.sums, in_pass, self.row_bytes());
            let to = moved(e, self.c, row, self.p.c * self.bytes());
            let to = moved(e, to, col, self.bytes());
            e.b.ins().call(self.calls[4], &[from, to, sum_row, row_bytes, rows, there]);
        });
    }
}
