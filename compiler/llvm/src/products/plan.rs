//! Which entries make a product, and how they are launched.

use super::column::{self, By};
use super::fma::{self, Cut};
use super::matrix;
use super::source::{Along, Digit, Source};
use super::{Product, Target};
use crate::entry::Entries;
use optc_abi::DType;
use optc_abi::device::{Argument, Launch, Work};
use optc_abi::plan::{Conv, ConvKind, Gemm, MatRef};
use std::collections::HashMap;

/// What is taken for the number of multiprocessors when work is cut: an H100 has 132, an A100 108. Results depend on it, so it is the same for all GPUs.
const MULTIPROCESSORS: i64 = 132;
/// More of an address's alignment is of no use.
const ALIGNED: i64 = 32;
/// The most parts of a sum.
const PARTS: [i64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Products that have entries already, with what runs them.
pub(crate) type Known = HashMap<Product, Work>;

fn source(dtype: DType, m: &MatRef, rows: usize, columns: usize, align: i64) -> Source {
    Source::matrix(dtype, (rows as i64, m.row_stride), (columns as i64, m.col_stride), &m.batch_strides, align.min(ALIGNED))
}

/// What runs a matrix product whose operands are aligned so; none where numbers of elements are too large.
pub(crate) fn gemm(d: Entries, known: &mut Known, g: &Gemm, align: [i64; 3]) -> (Entries, Option<Work>) {
    let (dtype, c) = (g.dtype, &g.c);
    let product = Product {
        m: g.m as i64,
        n: g.n as i64,
        k: g.k as i64,
        batch: g.batch.iter().map(|&n| n as i64).collect(),
        a: source(dtype, &g.a, g.m, g.k, align[0]),
        b: source(dtype, &g.b, g.k, g.n, align[1]).turned(),
        c: Target {
            dtype,
            row: c.row_stride,
            column: c.col_stride,
            batch: c.batch_strides.clone(),
            align: align[2].min(ALIGNED),
            accumulate: g.accumulate,
            symmetric: g.symmetric,
        },
    };
    make(d, known, product)
}

/// Row-major strides of an array of elements of `inner` each.
fn strides(extents: &[usize], inner: usize) -> Vec<i64> {
    let mut all = vec![inner as i64; extents.len()];
    for axis in (1..extents.len()).rev() {
        all[axis - 1] = all[axis] * extents[axis] as i64;
    }
    all
}

/// What runs a convolution whose operands are aligned so, as a product of matrices that are never made: rows and columns of patches say where in the image they lie.
pub(crate) fn conv(d: Entries, known: &mut Known, conv: &Conv, align: [i64; 3]) -> (Entries, Option<Work>) {
    let (g, dtype) = (&conv.dims, conv.dtype);
    let groups = g.groups as i64;
    let (inputs, outputs) = ((g.in_channels / g.groups) as i64, (g.out_channels / g.groups) as i64);
    let all = |extents: &[usize]| extents.iter().product::<usize>() as i64;
    let (taps, places, pixels, images) = (all(&g.filter), all(&g.output), all(&g.input), g.batch as i64);
    let channels = |extent, stride| Digit { extent, stride, along: None };
    // Digits of a place in space, the last axis fastest, each adding to its axis' coordinate.
    let space = |extents: &[usize], times: &dyn Fn(usize) -> i64| -> Vec<Digit> {
        (0..extents.len()).rev().map(|n| Digit { extent: extents[n] as i64, stride: 0, along: Some((n, times(n))) }).collect()
    };
    let number = |list: &[usize], n: usize| list[n] as i64;
    let align = align.map(|a| a.min(ALIGNED));
    // The patches of x: rows are places of y, columns taps and channels.
    let patches = |align| {
        let step = strides(&g.input, g.in_channels);
        let along = |n: usize| Along { start: -number(&g.pad_lo, n), divisor: 1, extent: number(&g.input, n), stride: step[n] };
        let mut rows = space(&g.output, &|n| number(&g.stride, n));
        rows.push(channels(images, pixels * g.in_channels as i64));
        let mut columns = vec![channels(inputs, 1)];
        columns.extend(space(&g.filter, &|n| number(&g.dilation, n)));
        Source { dtype, rows, columns, along: (0..g.input.len()).map(along).collect(), batch: vec![inputs], align }
    };
    let wide = g.out_channels as i64;
    let target =
        |row: i64, step: i64| Target { dtype, row, column: 1, batch: vec![step], align: align[2], accumulate: false, symmetric: false };
    let product = match conv.kind {
        ConvKind::Forward => Product {
            m: images * places,
            n: outputs,
            k: taps * inputs,
            batch: vec![groups],
            a: patches(align[0]),
            b: Source::matrix(dtype, (outputs, 1), (taps * inputs, wide), &[outputs], align[1]),
            c: target(wide, outputs),
        },
        ConvKind::InputGrad => {
            let step = strides(&g.output, g.out_channels);
            let along = |n: usize| Along {
                start: number(&g.pad_lo, n),
                divisor: number(&g.stride, n),
                extent: number(&g.output, n),
                stride: step[n],
            };
            let mut rows = space(&g.input, &|_| 1);
            rows.push(channels(images, places * wide));
            let mut columns = vec![channels(outputs, 1)];
            columns.extend(space(&g.filter, &|n| -number(&g.dilation, n)));
            let along = (0..g.input.len()).map(along).collect();
            Product {
                m: images * pixels,
                n: inputs,
                k: taps * outputs,
                batch: vec![groups],
                a: Source { dtype, rows, columns, along, batch: vec![outputs], align: align[0] },
                b: Source {
                    dtype,
                    rows: vec![channels(inputs, wide)],
                    columns: vec![channels(outputs, 1), channels(taps, inputs * wide)],
                    along: Vec::new(),
                    batch: vec![outputs],
                    align: align[1],
                },
                c: target(g.in_channels as i64, inputs),
            }
        }
        ConvKind::FilterGrad => Product {
            m: taps * inputs,
            n: outputs,
            k: images * places,
            batch: vec![groups],
            a: patches(align[0]).turned(),
            b: Source::matrix(dtype, (outputs, 1), (images * places, wide), &[outputs], align[1]),
            c: target(wide, outputs),
        },
    };
    make(d, known, product)
}

/// What runs a product, and its entries if there are none yet.
fn make(mut d: Entries, known: &mut Known, product: Product) -> (Entries, Option<Work>) {
    if let Some(work) = known.get(&product) {
        return (d, Some(work.clone()));
    }
    let p = &product;
    let most = [p.m, p.n, p.k].into_iter().max().unwrap_or(0);
    // Numbers of rows, columns and blocks have 31 bits.
    if most > i64::from(i32::MAX) / 2 || p.m * p.n / 256 * p.problems() > i64::from(i32::MAX) / 64 {
        return (d, None);
    }
    let mut work = Work::default();
    if p.m * p.n * p.problems() > 0 {
        d = if p.m == 1 || p.n == 1 { single(d, known.len(), p, &mut work) } else { tiled(d, known.len(), p, &mut work) };
    }
    known.insert(product.clone(), work.clone());
    (d, Some(work))
}

/// A launch of an entry of [`fma::PARAMETERS`].
fn launch(entry: &str, blocks: i64, threads: i64, shared: i64, operands: [usize; 2], parts: bool) -> Launch {
    let result = if parts { Argument::Scratch(0) } else { Argument::Buffer(2) };
    Launch {
        entry: entry.to_string(),
        blocks: [blocks as u32, 1, 1],
        threads: threads as u32,
        shared: shared as u32,
        arguments: vec![Argument::Buffer(operands[0]), Argument::Buffer(operands[1]), result, Argument::Status],
    }
}

/// The launch that adds up parts of sums.
fn add_up(d: Entries, name: &str, p: &Product, parts: i64, work: &mut Work) -> Entries {
    if parts == 1 {
        return d;
    }
    let count = p.m * p.n * p.problems();
    let name = format!("{name}_sum");
    work.scratch = (count * parts) as usize * p.sums().size();
    work.launches.push(Launch {
        entry: name.clone(),
        blocks: [((count + column::THREADS - 1) / column::THREADS) as u32, 1, 1],
        threads: column::THREADS as u32,
        shared: 0,
        arguments: vec![Argument::Scratch(0), Argument::Buffer(2), Argument::Status],
    });
    column::sum(d, &name, p, parts)
}

/// A matrix times a column, or a row times a matrix.
fn single(d: Entries, n: usize, p: &Product, work: &mut Work) -> Entries {
    let turned = p.n != 1;
    let other = p.turned();
    let (p, operands) = if turned { (&other, [1, 0]) } else { (p, [0, 1]) };
    let by = match p.a.columns_run() {
        true if p.m * p.problems() < 4 * MULTIPROCESSORS && p.k >= 2048 => By::Block,
        true => By::Warp,
        false => By::Lane,
    };
    let blocks = (p.m + by.rows() - 1) / by.rows() * p.problems();
    let enough = |parts: &&i64| by == By::Lane && blocks * **parts <= 4 * MULTIPROCESSORS && p.k / **parts >= 128;
    let parts = PARTS.iter().filter(enough).max().copied().unwrap_or(1);
    let name = format!("product_{n}");
    work.launches.push(launch(&name, blocks * parts, column::THREADS, 0, operands, parts > 1));
    let d = column::entry(d, &name, p, by, parts);
    add_up(d, &name, p, parts, work)
}

/// A product in tiles.
fn tiled(mut d: Entries, n: usize, p: &Product, work: &mut Work) -> Entries {
    let units = matches!(p.a.dtype, DType::BF16 | DType::F16) && d.copies;
    let cut = match d.cut {
        Some([rows, columns, parts]) => {
            let depth = if units { matrix::DEPTH } else { fma::depth(rows, columns) };
            Cut { rows, columns, depth, parts }
        }
        None => choose(p, units),
    };
    let name = format!("product_{n}");
    let (threads, shared);
    d.crowd = 2;
    if units {
        threads = matrix::threads(&cut);
        (d, shared) = matrix::entry(d, &name, p, &cut);
    } else {
        (threads, shared) = (fma::THREADS, 0);
        let copies = d.copies;
        d = fma::entry(d, &name, p, &cut, copies);
    }
    d.crowd = 0;
    work.launches.push(launch(&name, cut.blocks(p), threads, shared, [0, 1], cut.parts > 1));
    add_up(d, &name, p, cut.parts, work)
}

/// The cut that should take the least time, by a rough count of cycles.
fn choose(p: &Product, units: bool) -> Cut {
    let largest = if p.sums() == DType::F64 { 64 } else { 128 };
    let rows = [16, 32, 64, 128].into_iter().filter(|&n| n <= largest);
    let columns = if units { [32, 64, 128].as_slice() } else { [16, 32, 64, 128].as_slice() };
    let mut best: Option<(i64, Cut)> = None;
    for rows in rows {
        for &columns in columns.iter().filter(|&&n| n <= largest) {
            let depth = if units { matrix::DEPTH } else { fma::depth(rows, columns) };
            for parts in PARTS {
                let cut = Cut { rows, columns, depth, parts };
                // Where there are blocks enough, parts would only smooth the last round.
                if parts > 1 && (cut.slices(p.k) * depth < 64 || cut.blocks(p) / parts >= 2 * MULTIPROCESSORS) {
                    break;
                }
                let time = cycles(p, &cut, units);
                if best.is_none_or(|b| time < b.0) {
                    best = Some((time, cut));
                }
            }
        }
    }
    best.expect("there are candidates").1
}

/// About how many cycles a cut takes.
fn cycles(p: &Product, cut: &Cut, units: bool) -> i64 {
    let (rows, columns, depth) = (cut.rows, cut.columns, cut.depth);
    // Of a slice: multiplications, loads from shared memory, loads into it.
    let multiply = match (units, p.sums()) {
        (true, _) => rows * columns * depth / 1024,
        (_, DType::F64) => rows * columns * depth / 64,
        _ => rows * columns * depth / 128,
    };
    let per_thread = |n: i64| (n / 64).max(1);
    let shared = if units { (rows + columns) * depth / 16 } else { 8 * depth * (per_thread(rows) + per_thread(columns)) };
    let global = (rows + columns) * depth / if units { 128 } else { 32 };
    let slice = multiply.max(shared) + global;
    let busiest = (cut.blocks(p) + MULTIPROCESSORS - 1) / MULTIPROCESSORS;
    // Blocks that a multiprocessor has at a time hide what the others wait for.
    let at_once = if rows * columns > 64 * 64 { 2 } else { 4 };
    let waits = (busiest + at_once - 1) / at_once * 400;
    let slices = cut.slices(p.k);
    let sums = if cut.parts > 1 { 3000 + p.m * p.n * p.problems() * (cut.parts + 1) / 500 } else { 0 };
    slices * waits.max(busiest * slice) + 1000 + sums
}
