//! Products with AVX-512: operands are packed into panels, the result is made tile by tile in registers.
//!
//! A panel holds lanes of 32 bits: an f32, or two bf16 that follow each other along k (`vdpbf16ps` multiplies and adds both). Every element of the result is summed in the
//! same order wherever its tile lies, so how tiles are shared among threads never changes a bit. bf16 is summed in f32 and rounded once; with `vdpbf16ps`, subnormal operands
//! and sums count as 0. A symmetric result is made up to its diagonal, then mirrored.

mod mirror;
mod pack;
mod tile;

use crate::gemm::Address;
use crate::pool::Pool;
use pack::{Lanes, Pairs, Single, Wide};
use std::cell::Cell;

/// Rows of a tile.
const ROWS: usize = 12;
/// Columns of a tile, two registers.
const COLS: usize = 32;
/// Steps along k of a panel: what one tile reads of an operand's rows stays in the nearest cache, what all tiles read of the other operand's columns in the second.
const DEPTH: usize = 256;
/// Columns packed at a time.
const BLOCK_COLS: usize = 512;
/// Rows packed at a time.
const BLOCK_ROWS: usize = 48;
/// Rows between two passes over all columns, which bounds what sums of bf16 take.
const PASS_ROWS: usize = 4096;
/// Units there should be for the threads to share.
const ENOUGH: usize = 8;

/// Element types, and what the instructions take them as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// f32.
    F32,
    /// bf16 in pairs.
    Pairs,
    /// bf16 made f32 while packing, for machines without `vdpbf16ps`.
    Widened,
}

impl Kind {
    /// How f32 is multiplied, if this machine can.
    pub fn f32() -> Option<Kind> {
        let wide = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl");
        wide.then_some(Kind::F32)
    }
    /// How bf16 is multiplied, if this machine can.
    pub fn bf16() -> Option<Kind> {
        Self::f32().map(|_| if std::is_x86_feature_detected!("avx512bf16") { Kind::Pairs } else { Kind::Widened })
    }
}

/// Extents and strides (in elements) of `c = a b`, or `c += a b`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    pub kind: Kind,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a_row: isize,
    pub a_col: isize,
    pub b_row: isize,
    pub b_col: isize,
    pub c_row: isize,
    pub c_col: isize,
    /// Add to c.
    pub accumulate: bool,
    /// c is symmetric.
    pub symmetric: bool,
}

impl Packed {
    /// The product with c's rows contiguous, if either its rows or its columns are: c' = b' a' otherwise.
    pub fn oriented(self) -> Option<(Packed, bool)> {
        if self.c_col == 1 || self.n == 1 {
            return Some((self, false));
        }
        let Packed { kind, m, n, k, a_row, a_col, b_row, b_col, c_row, c_col, accumulate, symmetric } = self;
        (c_row == 1).then_some((
            Packed {
                kind,
                m: n,
                n: m,
                k,
                a_row: b_col,
                a_col: b_row,
                b_row: a_col,
                b_col: a_row,
                c_row: c_col,
                c_col: 1,
                accumulate,
                symmetric,
            },
            true,
        ))
    }
}

/// Computes an oriented product, alone or with the threads of a pool.
///
/// # Safety
/// The machine must have the instructions of the kind; the pointers must be valid for all elements the strides reach, and `c` must overlap neither operand.
pub(crate) unsafe fn product(s: &Packed, pool: Option<&Pool>, a: *const u8, b: *const u8, c: *mut u8) {
    // SAFETY: forwarded.
    unsafe {
        match s.kind {
            Kind::F32 => go::<Single>(s, pool, a.cast(), b.cast(), c),
            Kind::Pairs => go::<Pairs>(s, pool, a.cast(), b.cast(), c),
            Kind::Widened => go::<Wide>(s, pool, a.cast(), b.cast(), c),
        }
    }
}

unsafe fn go<L: Lanes>(s: &Packed, pool: Option<&Pool>, a: *const L::Element, b: *const L::Element, c: *mut u8) {
    let steps = s.k.div_ceil(L::PER);
    let chunks = steps.div_ceil(DEPTH).max(1);
    let depth = steps.div_ceil(chunks);
    let narrow = s.kind != Kind::F32;
    let mut space = SPACE.take();
    let panels_of = |cols: usize| cols.div_ceil(COLS);
    let widest = s.n.min(BLOCK_COLS);
    let b_panels = Address(space.b.lines(panels_of(widest) * depth * COLS).cast::<u32>());
    // A result in bf16 that is not done in one go is summed in f32 beside it.
    let partial = Address(if narrow && chunks > 1 {
        space.c.lines(s.m.min(PASS_ROWS) * widest.next_multiple_of(COLS)).cast::<f32>()
    } else {
        std::ptr::null_mut()
    });
    let partial_row = widest.next_multiple_of(COLS) as isize;
    let (a, b, wide_c, narrow_c) = (Address(a.cast_mut()), Address(b.cast_mut()), Address(c.cast::<f32>()), Address(c.cast::<u16>()));
    let direct_b = s.kind == Kind::F32 && s.b_col == 1 && (s.b_row % 1024 != 0 || s.m <= BLOCK_ROWS);
    let direct_a = s.kind == Kind::F32 && s.a_row % 1024 != 0 && s.a_col <= 512;
    let passes = (0..s.m).step_by(PASS_ROWS).flat_map(|row| (0..s.n).step_by(BLOCK_COLS).map(move |col| (row, col)));
    for (first_row, first_col) in passes {
        let last_row = (first_row + PASS_ROWS).min(s.m);
        let row_blocks = (last_row - first_row).div_ceil(BLOCK_ROWS);
        let cols = (s.n - first_col).min(BLOCK_COLS);
        let panels = panels_of(cols);
        let col_parts = if pool.is_some() { (ENOUGH.div_ceil(row_blocks)).min(panels) } else { 1 };
        for chunk in 0..chunks {
            let first_step = chunk * depth;
            let (from, depth) = (first_step * L::PER, depth.min(steps - first_step));
            let elements = (s.k - from).min(depth * L::PER);
            share(pool, panels, &|panel| {
                if direct_b && (panel + 1) * COLS <= cols {
                    return;
                }
                let col = first_col + panel * COLS;
                // SAFETY: the caller vouches for every element the strides reach; panels are apart.
                unsafe {
                    let source = b.at(from as isize * s.b_row + col as isize * s.b_col);
                    L::pack(
                        COLS,
                        b_panels.at((panel * depth * COLS) as isize),
                        source,
                        [s.b_col, s.b_row],
                        (s.n - col).min(COLS),
                        elements,
                    );
                }
            });
            share(pool, row_blocks * col_parts, &|unit| {
                // The longest rows of a triangle come first.
                let block = row_blocks - 1 - unit / col_parts;
                let top = first_row + block * BLOCK_ROWS;
                let bottom = (top + BLOCK_ROWS).min(last_row);
                let end = if s.symmetric { panels.min((bottom.saturating_sub(first_col)).div_ceil(COLS)) } else { panels };
                let (left, right) = (end * (unit % col_parts) / col_parts, end * (unit % col_parts + 1) / col_parts);
                if left == right {
                    return;
                }
                let mut own = OWN.take();
                let strip = own.lines(BLOCK_ROWS * depth).cast::<u32>();
                for first in (top..bottom).step_by(ROWS).filter(|_| !direct_a) {
                    let rows = (bottom - first).min(ROWS);
                    // SAFETY: as above; units write tiles of their own.
                    unsafe {
                        let source = a.at(first as isize * s.a_row + from as isize * s.a_col);
                        let strip = strip.add((first - top) * depth);
                        L::pack(ROWS, strip, source, [s.a_row, s.a_col], rows, elements);
                    }
                }
                for first in (top..bottom).step_by(ROWS) {
                    let rows = (bottom - first).min(ROWS);
                    for panel in left..right {
                        let col = first_col + panel * COLS;
                        if s.symmetric && col >= first + rows {
                            break;
                        }
                        let out = tile::Out {
                            add: if narrow { chunk > 0 } else { s.accumulate || chunk > 0 },
                            round: narrow && chunk + 1 == chunks,
                            keep: narrow && s.accumulate && chunk + 1 == chunks,
                            // Beyond the diagonal nothing is asked for.
                            cols: (if s.symmetric { first + rows - col } else { s.n - col }).min(COLS),
                        };
                        let at = first as isize * s.c_row + col as isize;
                        // SAFETY: as above.
                        unsafe {
                            let sums = if !narrow {
                                wide_c.at(at)
                            } else if chunks > 1 {
                                partial.at((first - first_row) as isize * partial_row + (panel * COLS) as isize)
                            } else {
                                std::ptr::null_mut()
                            };
                            let place = tile::Place {
                                sums,
                                sums_row: if narrow { partial_row } else { s.c_row },
                                narrow: narrow_c.at(if narrow { at } else { 0 }),
                                narrow_row: s.c_row,
                            };
                            let left = if direct_a {
                                tile::Side {
                                    from: a.at(first as isize * s.a_row + from as isize * s.a_col).cast(),
                                    lane: s.a_row,
                                    step: s.a_col,
                                }
                            } else {
                                tile::Side { from: strip.add((first - top) * depth), lane: 1, step: ROWS as isize }
                            };
                            let right = if direct_b && (panel + 1) * COLS <= cols {
                                tile::Side { from: b.at(from as isize * s.b_row + col as isize).cast(), lane: 1, step: s.b_row }
                            } else {
                                tile::Side { from: b_panels.at((panel * depth * COLS) as isize), lane: 1, step: COLS as isize }
                            };
                            L::tile(rows, depth, left, right, out, place);
                        }
                    }
                }
                OWN.set(own);
            });
        }
    }
    if s.symmetric {
        share(pool, s.m.div_ceil(mirror::UNIT), &|unit| {
            // SAFETY: units read below the diagonal and write above it, each its own rows and columns.
            unsafe {
                if narrow {
                    mirror::bf16(unit, s.m, narrow_c.at(0), s.c_row);
                } else {
                    mirror::f32(unit, s.m, wide_c.at(0), s.c_row);
                }
            }
        });
    }
    SPACE.set(space);
}

/// Units of work on the threads of a pool, or one after the other.
fn share(pool: Option<&Pool>, units: usize, unit: &(impl Fn(usize) + Sync)) {
    match pool {
        Some(pool) => pool.run(units, unit),
        None => (0..units).for_each(unit),
    }
}

thread_local! {
    /// What a product packs for all its threads; taken while in use.
    static SPACE: Cell<Space> = const { Cell::new(Space { b: Block(Vec::new()), c: Block(Vec::new()) }) };
    /// What a thread packs for itself.
    static OWN: Cell<Block> = const { Cell::new(Block(Vec::new())) };
}

#[derive(Default)]
struct Space {
    b: Block,
    c: Block,
}

/// Memory aligned to a cache line, kept from product to product.
#[derive(Default)]
struct Block(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "only its size and alignment count")] [u32; 16]);

impl Block {
    /// Room for so many lanes and one register more, of any content.
    fn lines(&mut self, lanes: usize) -> *mut Line {
        let lines = lanes.div_ceil(16) + 1;
        if self.0.capacity() < lines {
            self.0 = Vec::with_capacity(lines);
        }
        self.0.as_mut_ptr()
    }
}
