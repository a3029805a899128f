//! What does elsewhere what the runtime does: packed products, and kernels for small ones and for random words.

use super::product::Packed;
use crate::Error;
use optc_abi::DType;
use optc_abi::plan::{Gemm, Instr, LibOp};
use optc_ir::ScalarOp;
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Acc, AccOp, Access, AxisId, BufferParam, Expr, Extent, Index, Kernel, Literal, LoopKind, Stmt, ValueId};
use std::collections::VecDeque;

/// Columns of a product that are computed at a time, so that two rows of the result and four of the second operand stay in the nearest cache.
const COLUMNS: i64 = 1024;

/// What is called in the place of the runtime: a packed product or a kernel, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Made {
    Product(usize),
    Kernel(usize),
}

/// The place of `x` in a list, where it is put if it is not there.
fn place<T: PartialEq>(all: &mut Vec<T>, x: T) -> usize {
    all.iter().position(|known| *known == x).unwrap_or_else(|| {
        all.push(x);
        all.len() - 1
    })
}

/// Appends the kernels and packed products of a plan's products and library calls, and which of them is called, in the order of the plan.
pub(super) fn kernels(
    code: &[Instr],
    all: &mut Vec<Kernel>,
    products: &mut Vec<Packed>,
    numbers: &mut VecDeque<Made>,
) -> Result<(), Error> {
    for instr in code {
        let made = match instr {
            Instr::Gemm(gemm) => match Packed::new(gemm) {
                Some(packed) => {
                    numbers.push_back(Made::Product(place(products, packed)));
                    continue;
                }
                None => product(gemm),
            },
            Instr::Lib { op: LibOp::RandomFold { place, number }, .. } => fold(*place, *number),
            Instr::Lib { op: LibOp::RandomBits { start, len, skips: false }, .. } => bits(*start, *len),
            Instr::Lib { op: LibOp::RandomBits { .. }, .. } => return Err(Error("it shares out its draws".to_string())),
            Instr::Lib { op: LibOp::ArgSort { .. }, .. } => return Err(Error("it sorts".to_string())),
            Instr::Lib { op: LibOp::Call { call, .. }, .. } => return Err(Error(format!("it needs the runtime's `{}`", call.name()))),
            Instr::Lib { op: LibOp::Attention { .. }, .. } => return Err(Error("it needs the runtime's attention".to_string())),
            Instr::Lib { .. } => return Err(Error("it keeps arrays in files".to_string())),
            Instr::Conv(_) => return Err(Error("it convolves".to_string())),
            Instr::Loop { body, .. } => {
                kernels(body, all, products, numbers)?;
                continue;
            }
            Instr::Cond { then, otherwise, .. } => {
                kernels(then, all, products, numbers)?;
                kernels(otherwise, all, products, numbers)?;
                continue;
            }
            _ => continue,
        };
        numbers.push_back(Made::Kernel(place(all, made)));
    }
    Ok(())
}

/// A kernel under construction.
#[derive(Default)]
struct Writer {
    axes: usize,
    values: usize,
    accs: Vec<Acc>,
    /// Open blocks, the innermost last.
    blocks: Vec<Vec<Stmt>>,
}

impl Writer {
    fn new() -> Writer {
        Writer { blocks: vec![Vec::new()], ..Writer::default() }
    }

    fn push(&mut self, stmt: Stmt) {
        self.blocks.last_mut().unwrap_or_else(|| panic!("compiler bug: no open block")).push(stmt);
    }

    /// A loop of so many passes, unless there are none.
    fn repeat(&mut self, extent: i64, kind: LoopKind, body: impl FnOnce(&mut Writer, AxisId)) {
        if extent <= 0 {
            return;
        }
        let axis = self.axes;
        self.axes += 1;
        self.blocks.push(Vec::new());
        body(self, axis);
        let body = self.blocks.pop().unwrap_or_default();
        self.push(Stmt::For { axis, extent: Extent::Const(extent), kind, body });
    }

    fn value(&mut self, dtype: DType, expr: Expr) -> ValueId {
        let value = self.values;
        self.values += 1;
        self.push(Stmt::Let { value, dtype, expr });
        value
    }

    fn load(&mut self, dtype: DType, buffer: usize, index: Index) -> ValueId {
        self.value(dtype, Expr::Load { buffer, index, guard: None })
    }

    fn int(&mut self, dtype: DType, x: i64) -> ValueId {
        self.value(dtype, Expr::Const(Literal::Int(x)))
    }

    fn finish(mut self, buffers: &[(DType, Access)]) -> Kernel {
        let buffers = buffers.iter().map(|&(dtype, access)| BufferParam { dtype, access }).collect();
        let body = self.blocks.pop().unwrap_or_default();
        Kernel { buffers, locals: Vec::new(), sizes: 0, axes: self.axes, values: self.values, accs: self.accs, body }
    }
}

/// An index; axes of stride 0 do not count.
fn index(offset: i64, axes: &[(AxisId, i64)]) -> Index {
    let mut axes: Vec<(AxisId, i64)> = axes.iter().copied().filter(|a| a.1 != 0).collect();
    axes.sort_unstable();
    Index { offset, axes, ..Index::default() }
}

/// A matrix operand: which buffer, and its strides.
#[derive(Clone, Copy)]
struct Mat {
    buffer: usize,
    rows: i64,
    cols: i64,
}

impl Mat {
    fn turned(self) -> Mat {
        Mat { rows: self.cols, cols: self.rows, ..self }
    }
}

/// A matrix product: rows of the result in pairs, where rows of the second operand lie in order; inner products where its columns do.
fn product(gemm: &Gemm) -> Kernel {
    let mut w = Writer::new();
    let mat = |buffer: usize, m: &optc_abi::plan::MatRef| Mat { buffer, rows: m.row_stride, cols: m.col_stride };
    let (mut a, mut b, mut c) = (mat(0, &gemm.a), mat(1, &gemm.b), mat(2, &gemm.c));
    let (mut m, mut n, k) = (gemm.m as i64, gemm.n as i64, gemm.k as i64);
    // Rows of the result are to lie in order, or else those of its transpose.
    if c.cols != 1 && c.rows == 1 {
        (a, b, c) = (b.turned(), a.turned(), c.turned());
        (m, n) = (n, m);
    }
    let dtype = gemm.dtype;
    // Narrow results are rounded once, so that their sums are not kept in them.
    let narrow = matches!(dtype, DType::BF16 | DType::F16);
    if narrow || (b.cols != 1 && b.rows == 1 && a.cols == 1) {
        let dtype = if narrow { DType::F32 } else { dtype };
        inner_products(&mut w, dtype, [a, b, c], [m, n, k], gemm.accumulate);
    } else {
        by_rows(&mut w, dtype, [a, b, c], [m, n, k], gemm.accumulate);
    }
    w.finish(&[(dtype, Access::Read), (dtype, Access::Read), (dtype, Access::ReadWrite)])
}

/// `c[i, j] += sum over p of a[i, p] b[p, j]`, with `j` innermost.
fn by_rows(w: &mut Writer, dtype: DType, [a, b, c]: [Mat; 3], [m, n, k]: [i64; 3], accumulate: bool) {
    for (begin, rows) in [(0, 2), (m - m % 2, 1)] {
        let count = if rows == 2 { m / 2 } else { m % 2 };
        w.repeat(count, LoopKind::Serial, |w, i| {
            for (first, columns) in [(0, COLUMNS), (n - n % COLUMNS, n % COLUMNS)] {
                let tiles = if columns == COLUMNS && first == 0 { n / COLUMNS } else { i64::from(columns > 0) };
                w.repeat(tiles, LoopKind::Serial, |w, tile| {
                    let at_c = |r: i64, j: AxisId| {
                        index((begin + r) * c.rows + first * c.cols, &[(i, rows * c.rows), (tile, COLUMNS * c.cols), (j, c.cols)])
                    };
                    if !accumulate {
                        w.repeat(columns, LoopKind::Vector, |w, j| {
                            let zero = w.value(dtype, Expr::Const(Literal::Float(0.0)));
                            (0..rows).for_each(|r| w.push(Stmt::Store { buffer: c.buffer, index: at_c(r, j), value: zero }));
                        });
                    }
                    for (from, depth) in [(0, 4), (k - k % 4, 1)] {
                        let count = if depth == 4 { k / 4 } else { k % 4 };
                        w.repeat(count, LoopKind::Serial, |w, p| {
                            let mut left = Vec::new();
                            for r in 0..rows {
                                for d in 0..depth {
                                    let at = index((begin + r) * a.rows + (from + d) * a.cols, &[(i, rows * a.rows), (p, depth * a.cols)]);
                                    left.push(w.load(dtype, a.buffer, at));
                                }
                            }
                            w.repeat(columns, LoopKind::Vector, |w, j| {
                                let right: Vec<ValueId> = (0..depth)
                                    .map(|d| {
                                        let axes = [(p, depth * b.rows), (tile, COLUMNS * b.cols), (j, b.cols)];
                                        w.load(dtype, b.buffer, index((from + d) * b.rows + first * b.cols, &axes))
                                    })
                                    .collect();
                                for r in 0..rows {
                                    let mut sum = w.load(dtype, c.buffer, at_c(r, j));
                                    for d in 0..depth {
                                        let factors = vec![left[(r * depth + d) as usize], right[d as usize], sum];
                                        sum = w.value(dtype, Expr::Map(ScalarOp::Fma, factors));
                                    }
                                    w.push(Stmt::Store { buffer: c.buffer, index: at_c(r, j), value: sum });
                                }
                            });
                        });
                    }
                });
            }
        });
    }
}

/// The same, each element a sum over `p` innermost, two by two, in values of type `dtype`.
fn inner_products(w: &mut Writer, dtype: DType, [a, b, c]: [Mat; 3], [m, n, k]: [i64; 3], accumulate: bool) {
    w.accs = (0..4).map(|_| Acc { dtype, op: AccOp::Reduce(ReduceOp::Sum) }).collect();
    for (row, rows) in [(0, 2), (m - m % 2, 1)] {
        w.repeat(if rows == 2 { m / 2 } else { m % 2 }, LoopKind::Serial, |w, i| {
            for (column, columns) in [(0, 2), (n - n % 2, 1)] {
                w.repeat(if columns == 2 { n / 2 } else { n % 2 }, LoopKind::Serial, |w, j| {
                    let at_c =
                        |r: i64, s: i64| index((row + r) * c.rows + (column + s) * c.cols, &[(i, rows * c.rows), (j, columns * c.cols)]);
                    let zero = w.value(dtype, Expr::Const(Literal::Float(0.0)));
                    let pairs: Vec<(i64, i64)> = (0..rows).flat_map(|r| (0..columns).map(move |s| (r, s))).collect();
                    for (acc, &(r, s)) in pairs.iter().enumerate() {
                        let start = if accumulate { w.load(dtype, c.buffer, at_c(r, s)) } else { zero };
                        w.push(Stmt::Init { acc, value: start });
                    }
                    w.repeat(k, LoopKind::Vector, |w, p| {
                        let left: Vec<ValueId> = (0..rows)
                            .map(|r| w.load(dtype, a.buffer, index((row + r) * a.rows, &[(i, rows * a.rows), (p, a.cols)])))
                            .collect();
                        let right: Vec<ValueId> = (0..columns)
                            .map(|s| w.load(dtype, b.buffer, index((column + s) * b.cols, &[(j, columns * b.cols), (p, b.rows)])))
                            .collect();
                        for (acc, &(r, s)) in pairs.iter().enumerate() {
                            let term = w.value(dtype, Expr::Map(ScalarOp::Mul, vec![left[r as usize], right[s as usize]]));
                            w.push(Stmt::Update { acc, value: term });
                        }
                    });
                    for (acc, &(r, s)) in pairs.iter().enumerate() {
                        let sum = w.value(dtype, Expr::Acc(acc));
                        w.push(Stmt::Store { buffer: c.buffer, index: at_c(r, s), value: sum });
                    }
                });
            }
        });
    }
}

/// A key made from a key: [`optc_abi::philox::fold`].
fn fold(place: u32, number: Option<u32>) -> Kernel {
    let mut w = Writer::new();
    let key = [0, 1].map(|k| w.load(DType::U32, 0, index(k, &[])));
    let counted = match number {
        Some(n) => w.int(DType::U32, i64::from(n)),
        None => w.load(DType::U32, 1, index(0, &[])),
    };
    let (place, one, zero) = (w.int(DType::U32, i64::from(place)), w.int(DType::U32, 1), w.int(DType::U32, 0));
    let out = if number.is_some() { 1 } else { 2 };
    for word in 0..2 {
        let value = w.value(DType::U32, Expr::Philox { key, counter: [counted, place, one, zero], word });
        w.push(Stmt::Store { buffer: out, index: index(i64::from(word), &[]), value });
    }
    let mut buffers = vec![(DType::U32, Access::Read); out];
    buffers.push((DType::U32, Access::Write));
    w.finish(&buffers)
}

/// Words of a key's sequence: [`optc_abi::philox::bits_at`].
fn bits(start: u64, len: usize) -> Kernel {
    let mut w = Writer::new();
    let key = [0, 1].map(|k| w.load(DType::U32, 0, index(k, &[])));
    for word in 0..4u64 {
        // The first element that is this word of its four.
        let first = (word + 4 - start % 4) % 4;
        let count = (len as u64).saturating_sub(first).div_ceil(4) as i64;
        let block = (start + first) / 4;
        w.repeat(count, LoopKind::Vector, |w, q| {
            let along = w.value(DType::I64, Expr::Axis(q));
            let base = w.int(DType::I64, block as i64);
            let at = w.value(DType::I64, Expr::Map(ScalarOp::Add, vec![along, base]));
            let half = w.int(DType::I64, 32);
            let upper = w.value(DType::I64, Expr::Map(ScalarOp::Shr, vec![at, half]));
            let mask = w.int(DType::I64, 0xFFFF_FFFF);
            let lower = w.value(DType::I64, Expr::Map(ScalarOp::And, vec![at, mask]));
            let [low, high] = [lower, upper].map(|x| w.value(DType::U32, Expr::Cast(x)));
            let zero = w.int(DType::U32, 0);
            let value = w.value(DType::U32, Expr::Philox { key, counter: [low, high, zero, zero], word: word as u8 });
            w.push(Stmt::Store { buffer: 1, index: index(first as i64, &[(q, 4)]), value });
        });
    }
    w.finish(&[(DType::U32, Access::Read), (DType::U32, Access::Write)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::plan::{BufRef, MatRef};
    use optc_abi::{Tensor, philox};
    use optc_ir::kernel_interp::run_kernel_on;

    fn run(kernel: &Kernel, buffers: &[Tensor]) -> Vec<Tensor> {
        let mut buffers = buffers.to_vec();
        run_kernel_on(kernel, &mut buffers, &[]).expect("it runs");
        buffers
    }

    #[test]
    fn products_of_all_layouts() {
        for (m, n, k) in [(1, 1, 1), (2, 3, 4), (5, 7, 6), (4, 1030, 9)] {
            for turned in 0..8 {
                for accumulate in [false, true] {
                    let mat = |rows: usize, cols: usize, turn: bool| MatRef {
                        data: BufRef::whole(0),
                        row_stride: if turn { 1 } else { cols as i64 },
                        col_stride: if turn { rows as i64 } else { 1 },
                        batch_strides: Vec::new(),
                    };
                    let (a, b, c) = (mat(m, k, turned & 1 > 0), mat(k, n, turned & 2 > 0), mat(m, n, turned & 4 > 0));
                    let at = |x: &MatRef, i: usize, j: usize| (i as i64 * x.row_stride + j as i64 * x.col_stride) as usize;
                    let gemm = Gemm { dtype: DType::F64, m, n, k, batch: Vec::new(), a, b, c, accumulate, symmetric: false };
                    let numbers = |len: usize, salt: usize| {
                        let x: Vec<f64> = (0..len).map(|i| ((i * 37 + salt) % 23) as f64 / 8.0 - 1.0).collect();
                        Tensor::from_slice(&[len], &x)
                    };
                    let given = [numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3)];
                    let found = run(&product(&gemm), &given);
                    for i in 0..m {
                        for j in 0..n {
                            let x = |t: usize, o: usize| given[t].get_f64(o);
                            let mut sum = if accumulate { x(2, at(&gemm.c, i, j)) } else { 0.0 };
                            (0..k).for_each(|p| sum += x(0, at(&gemm.a, i, p)) * x(1, at(&gemm.b, p, j)));
                            // All numbers are multiples of 1/64 of moderate size, so that sums are exact.
                            assert_eq!(found[2].get_f64(at(&gemm.c, i, j)), sum, "{m} x {n} x {k}, {turned}, {i} {j}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn random_words_are_those_of_the_runtime() {
        let key = [0x1234_5678u32, 0x9ABC_DEF0];
        let given = Tensor::from_slice(&[2], &key);
        for (start, len) in [(0u64, 1usize), (0, 9), (3, 10), (6, 5), ((1 << 34) - 2, 7)] {
            let found = run(&bits(start, len), &[given.clone(), Tensor::zeros(DType::U32, &[len])]);
            let wanted: Vec<u32> = (0..len as u64).map(|i| philox::bits_at(key, start + i)).collect();
            assert_eq!(found[1].as_slice::<u32>(), wanted, "{start}");
        }
        let folded = philox::fold(key, 5, 77);
        let known = run(&fold(77, Some(5)), &[given.clone(), Tensor::zeros(DType::U32, &[2])]);
        assert_eq!(known[1].as_slice::<u32>(), folded);
        let number = Tensor::from_slice(&[1], &[5u32]);
        let found = run(&fold(77, None), &[given, number, Tensor::zeros(DType::U32, &[2])]);
        assert_eq!(found[2].as_slice::<u32>(), folded);
    }
}
