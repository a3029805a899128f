//! Attention and its derivatives on a GPU ([`optc_abi::attention`]).
//!
//! A block has a tile of queries (of keys, for the cotangents of keys and values) and goes through tiles of the others, which come to shared memory by asynchronous copies
//! while those before are worked on. Scores of a tile are in registers and never leave the block. The forward pass keeps of every query the largest score so far and the
//! sum of exponentials, and corrects what it has added up when a larger one comes (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135).
//! The backward pass makes the probabilities again from the final ones. Every sum belongs to one thread and has a fixed order, so results are the same bits in every run.

mod backward;
mod fma;
mod forward;
mod matrix;
#[cfg(test)]
mod mutants;
mod scores;
mod team;

use crate::entry::{Entries, Parameter};
use crate::products::{Source, Target};
use optc_abi::DType;
use optc_abi::device::{Argument, Launch, Work};
use optc_abi::plan::{Attention, AttentionKind, Strides};

/// What is taken for the number of multiprocessors when tiles are chosen, as for products. Results depend on it, so it is the same for all GPUs.
const MULTIPROCESSORS: i64 = 132;
/// More of an address's alignment is of no use.
const ALIGNED: i64 = 32;
/// Features that products of tiles take at a time.
const TERMS: i64 = 16;

/// Which of the passes an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Tiles of queries: out and statistics.
    Forward,
    /// Tiles of queries: dq, and of every query the sum of its probabilities times their cotangents.
    Queries,
    /// Tiles of keys: dk and dv.
    Keys,
}

/// How multiplications are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// By fused multiplications and additions of a block's 256 threads.
    Fma,
    /// By the units for matrices of bf16, 16 rows a warp.
    Matrix,
}

/// Rows and columns of a tile of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    rows: i64,
    columns: i64,
}

/// Attention with its operands and results in memory.
struct Problem<'a> {
    what: &'a Attention,
    dtype: DType,
    strides: &'a [Strides],
    align: &'a [i64],
    engine: Engine,
    batch: Vec<i64>,
    /// Rows, columns and element type of operands and results, in the order of buffers.
    shapes: Vec<(Vec<usize>, DType)>,
}

/// `n` and more, so that rows of shared memory are a power of two.
fn padded(n: usize) -> i64 {
    (n as u64).next_power_of_two().max(TERMS as u64) as i64
}

impl<'a> Problem<'a> {
    fn new(what: &'a Attention, dtype: DType, strides: &'a [Strides], align: &'a [i64], units: bool) -> Problem<'a> {
        let engine = if units && dtype == DType::BF16 { Engine::Matrix } else { Engine::Fma };
        let batch = what.batch.iter().map(|&n| n as i64).collect();
        let shapes = what.operands(dtype).into_iter().chain(what.results(dtype)).collect();
        Problem { what, dtype, strides, align, engine, batch, shapes }
    }

    fn problems(&self) -> i64 {
        self.batch.iter().product()
    }

    /// The type that sums are made in.
    fn sums(&self) -> DType {
        Attention::sums(self.dtype)
    }

    /// The type of elements in shared memory.
    fn held(&self) -> DType {
        if self.engine == Engine::Matrix { DType::BF16 } else { self.sums() }
    }

    /// Operand `n`, its columns as rows of a source: they lie together in shared memory.
    fn source(&self, n: usize) -> Source {
        let (shape, ty) = &self.shapes[n];
        let s = &self.strides[n];
        let (rows, columns) = ((shape[1] as i64, s.column), (shape[0] as i64, s.row));
        Source::matrix(*ty, rows, columns, &s.batch, self.align[n].min(ALIGNED))
    }

    /// Where array `n`, an operand or a result, lies.
    fn target(&self, n: usize) -> Target {
        let s = &self.strides[n];
        Target {
            dtype: self.shapes[n].1,
            row: s.row,
            column: s.column,
            batch: s.batch.clone(),
            align: self.align[n].min(ALIGNED),
            accumulate: false,
            symmetric: false,
        }
    }

    fn mask(&self) -> Option<usize> {
        self.what.mask.then_some(3)
    }

    fn bias(&self) -> Option<usize> {
        self.what.bias.then(|| 3 + usize::from(self.what.mask))
    }

    /// The first operand behind mask and bias: out, statistics and cotangent follow in a backward pass.
    fn rest(&self) -> usize {
        3 + usize::from(self.what.mask) + usize::from(self.what.bias)
    }

    /// The first result.
    fn first_result(&self) -> usize {
        self.rest() + if self.what.kind == AttentionKind::Backward { 3 } else { 0 }
    }

    /// Rows that tiles are made of, and what their columns are of.
    fn extents(&self, pass: Pass) -> (i64, i64) {
        let (queries, keys) = (self.what.queries as i64, self.what.keys as i64);
        if pass == Pass::Keys { (keys, queries) } else { (queries, keys) }
    }

    fn blocks(&self, pass: Pass, tile: Tile) -> i64 {
        (self.extents(pass).0 + tile.rows - 1) / tile.rows * self.problems()
    }

    fn threads(&self, tile: Tile) -> i64 {
        if self.engine == Engine::Matrix { tile.rows / matrix::ROWS * crate::simt::WARP } else { fma::THREADS }
    }

    /// Bytes of shared memory: tiles that stay, two stages of those that move, and weights on their way between threads.
    fn bytes(&self, pass: Pass, tile: Tile) -> i64 {
        let size = self.held().size() as i64;
        let pad = 16 / size;
        let (narrow, wide) = (padded(self.what.width) + pad, padded(self.what.out_width) + pad);
        let stay = narrow + if pass == Pass::Forward { 0 } else { wide };
        let weights = if self.engine == Engine::Fma { tile.rows * (tile.columns + pad) } else { 0 };
        (tile.rows * stay + 2 * tile.columns * (narrow + wide) + weights) * size
    }

    /// Blocks of the backward pass that a multiprocessor should have room for. Left to itself (0) the assembler finds room for two, or for three where it then spills a little.
    fn crowd(&self, pass: Pass, tile: Tile) -> i64 {
        match (self.engine == Engine::Fma && self.sums() == DType::F32, self.what.mask || self.what.bias) {
            (true, true) => 1,
            (true, false) if pass == Pass::Queries && tile.columns == 64 => 2,
            _ => 0,
        }
    }

    /// The most columns of a tile that leave registers enough: cotangents of keys and values are twice as many sums, and what cannot be copied 16 bytes at a time waits in registers.
    fn widest(&self, pass: Pass) -> i64 {
        if self.engine == Engine::Fma || pass == Pass::Forward {
            return 64;
        }
        let chunks = |n: usize| self.source(n).in_chunks(false, 16 / self.held().size() as i64);
        let loose = [0, 1, 2, self.rest() + 2].into_iter().any(|n| !chunks(n));
        match (pass == Pass::Keys && self.what.width.max(self.what.out_width) > 64, loose) {
            (true, _) => 16,
            (false, true) => 32,
            (false, false) => 64,
        }
    }

    /// The tile for a pass, where a block may have so many bytes of shared memory; none if even the smallest does not fit.
    fn tile(&self, pass: Pass, room: i64) -> Option<Tile> {
        let (rows, columns) = self.extents(pass);
        let enough = |n: i64| (n as u64).next_power_of_two() as i64;
        let widest = self.widest(pass);
        let mut chosen: Option<Tile> = None;
        for rows in [64, 32, 16].into_iter().filter(|&n| n <= enough(rows).max(16)) {
            // Two blocks of a multiprocessor hide what either waits for, unless tiles become too narrow for that.
            let shapes = [(64, 2), (32, 2), (32, 1), (16, 2), (16, 1)].into_iter();
            let fits = |&(columns, blocks): &(i64, i64)| self.bytes(pass, Tile { rows, columns }) * blocks <= room;
            let mut shapes = shapes.filter(|&(n, _)| n <= enough(columns).max(16) && n <= widest).filter(fits);
            let Some((columns, _)) = shapes.next() else { continue };
            let tile = Tile { rows, columns };
            if chosen.is_none() || 4 * self.blocks(pass, chosen?) < 3 * MULTIPROCESSORS {
                chosen = Some(tile);
            }
        }
        chosen
    }
}

/// The parameters of an entry: all buffers, the sums that the pass over queries hands on, the status.
fn parameters(p: &Problem<'_>, pass: Pass) -> Vec<Parameter> {
    vec![Parameter::Address; p.shapes.len() + 1 + usize::from(pass != Pass::Forward)]
}

/// What runs attention or its derivatives; none where a GPU's shared memory is too small, or numbers of elements are too large.
pub(crate) fn attention(
    mut d: Entries,
    name: &str,
    what: &Attention,
    strides: &[Strides],
    dtype: DType,
    align: &[i64],
) -> (Entries, Option<Work>) {
    let p = Problem::new(what, dtype, strides, align, d.copies);
    let mut work = Work::default();
    let most = what.queries.max(what.keys) as i64;
    let results: usize = what.batch.iter().product::<usize>() * what.queries * what.keys;
    if results == 0 && what.kind == AttentionKind::Forward && what.queries * p.problems() as usize == 0 {
        return (d, Some(work));
    }
    if results == 0 || most > i64::from(i32::MAX) / 4 || p.problems() * most > i64::from(i32::MAX) / 4 {
        return (d, None);
    }
    let passes: &[Pass] = if what.kind == AttentionKind::Forward { &[Pass::Forward] } else { &[Pass::Queries, Pass::Keys] };
    let mut tiles = Vec::new();
    for &pass in passes {
        let tile = match d.cut {
            Some([rows, columns, _]) => Some(Tile { rows, columns }).filter(|&t| p.bytes(pass, t) <= d.room),
            None => p.tile(pass, d.room),
        };
        let Some(tile) = tile else { return (d, None) };
        tiles.push((pass, tile));
    }
    for (pass, tile) in tiles {
        let entry = match pass {
            Pass::Forward => name.to_string(),
            Pass::Queries => format!("{name}_queries"),
            Pass::Keys => format!("{name}_keys"),
        };
        d = match pass {
            Pass::Forward => forward::entry(d, &entry, &p, tile),
            Pass::Queries => backward::queries(d, &entry, &p, tile),
            Pass::Keys => backward::keys(d, &entry, &p, tile),
        };
        let mut arguments: Vec<Argument> = (0..p.shapes.len()).map(Argument::Buffer).collect();
        arguments.extend((pass != Pass::Forward).then_some(Argument::Scratch(0)));
        arguments.push(Argument::Status);
        work.launches.push(Launch {
            entry,
            blocks: [p.blocks(pass, tile) as u32, 1, 1],
            threads: p.threads(tile) as u32,
            shared: p.bytes(pass, tile) as u32,
            arguments,
        });
    }
    if what.kind == AttentionKind::Backward {
        work.scratch = p.problems() as usize * what.queries * p.sums().size();
    }
    (d, Some(work))
}
