//! What is moved around products: packing, edges, rounding, mirroring.

use super::{Order, STEPS, each, either, least};
use crate::emit::{Emit, plain, scalar_type, vector_type};
use crate::ops::Val;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value, types};
use optc_abi::DType;

/// Side of the blocks of a matrix that is mirrored: rows of a block lie in one line of a cache.
const SIDE: usize = 16;

/// What elements of this type are as values.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Lanes of a register.
fn lanes_of(dtype: DType) -> usize {
    16 / wide(dtype).size()
}

/// A register of neighboring elements.
fn load(e: &mut Emit<'_>, dtype: DType, at: Value, offset: i32) -> Value {
    match dtype {
        DType::F64 => e.b.ins().load(types::F64X2, plain(), at, offset),
        _ => e.load_four(dtype, at, offset).units()[0],
    }
}

/// Lower halves of the registers, or upper ones, in turns: words of 32 bits or of 64.
fn zip(e: &mut Emit<'_>, a: Value, b: Value, word: u8, upper: bool) -> Value {
    let ty = e.type_of(a);
    let (a, b) = (e.bits(types::I8X16, a), e.bits(types::I8X16, b));
    let first = if upper { 8 } else { 0 };
    let mask: Vec<u8> = (0..8 / word).flat_map(|k| [0, 16].map(|side| side + first + k * word)).flat_map(|at| at..at + word).collect();
    let mask = e.b.func.dfg.immediates.push(mask.into());
    let y = e.b.ins().shuffle(a, b, mask);
    e.bits(ty, y)
}

/// A square of registers turned: two of doubles, four of others.
fn turned(e: &mut Emit<'_>, rows: &[Value]) -> Vec<Value> {
    match *rows {
        [a, b] => [false, true].map(|upper| zip(e, a, b, 8, upper)).to_vec(),
        [a, b, c, d] => [false, true]
            .into_iter()
            .flat_map(|upper| {
                let (left, right) = (zip(e, a, b, 4, upper), zip(e, c, d, 4, upper));
                [false, true].map(|upper| zip(e, left, right, 8, upper))
            })
            .collect(),
        _ => panic!("compiler bug: no square of {} registers", rows.len()),
    }
}

/// The function of (to, from, bytes between lanes, bytes between steps, lanes, steps) that packs a panel of `width` lanes. Lanes that are not there are zero, and so are steps up to a multiple of [`STEPS`].
pub(super) fn pack(e: &mut Emit<'_>, params: &[Value], dtype: DType, width: usize, order: Order) {
    let [to, from, lane, step, lanes, steps] = *params else { panic!("compiler bug: packing has six parameters") };
    let (size, line) = (wide(dtype).size(), width * wide(dtype).size());
    let zero = e.int(types::I64, 0);
    let rest = e.b.create_block();
    let begin = e.b.append_block_param(rest, types::I64);
    if order != Order::None {
        let (fast, slow) = (e.b.create_block(), e.b.create_block());
        let whole = e.int(types::I64, width as i64);
        let whole = e.icmp(IntCC::Equal, lanes, whole);
        e.b.ins().brif(whole, fast, &[], slow, &[]);
        e.b.switch_to_block(fast);
        e.b.seal_block(fast);
        let done = if order == Order::Lanes {
            each(e, zero, steps, 1, |e, s| {
                let offset = e.b.ins().imul(s, step);
                let from = e.b.ins().iadd(from, offset);
                let to = at_step(e, to, s, line);
                copy(e, dtype, from, to, width);
            });
            steps
        } else {
            let mask = e.int(types::I64, -(lanes_of(dtype) as i64));
            let most = e.b.ins().band(steps, mask);
            each(e, zero, most, lanes_of(dtype), |e, s| {
                let (from, to) = (at_step(e, from, s, dtype.size()), at_step(e, to, s, line));
                turn(e, dtype, [from, lane, to], width);
            });
            most
        };
        e.b.ins().jump(rest, &[BlockArg::Value(done)]);
        e.b.switch_to_block(slow);
        e.b.seal_block(slow);
    }
    e.b.ins().jump(rest, &[BlockArg::Value(zero)]);
    e.b.switch_to_block(rest);
    e.b.seal_block(rest);
    let width = e.int(types::I64, width as i64);
    let none = e.float_of(scalar_type(wide(dtype)), 0.0);
    each(e, begin, steps, 1, |e, s| {
        let offset = e.b.ins().imul(s, step);
        let from = e.b.ins().iadd(from, offset);
        let to = at_step(e, to, s, line);
        each(e, zero, lanes, 1, |e, l| {
            let offset = e.b.ins().imul(l, lane);
            let from = e.b.ins().iadd(from, offset);
            let x = e.load_scalar(dtype, from, 0);
            let to = at_step(e, to, l, size);
            e.b.ins().store(plain(), x, to, 0);
        });
        each(e, lanes, width, 1, |e, l| {
            let to = at_step(e, to, l, size);
            e.b.ins().store(plain(), none, to, 0);
        });
    });
    let padded = e.add_const(steps, STEPS as i64 - 1);
    let mask = e.int(types::I64, -(STEPS as i64));
    let padded = e.b.ins().band(padded, mask);
    each(e, steps, padded, 1, |e, s| {
        let to = at_step(e, to, s, line);
        each(e, zero, width, 1, |e, l| {
            let to = at_step(e, to, l, size);
            e.b.ins().store(plain(), none, to, 0);
        });
    });
}

/// The place so many times so many bytes on.
fn at_step(e: &mut Emit<'_>, at: Value, k: Value, bytes: usize) -> Value {
    let offset = e.mul_const(k, bytes as i64);
    e.b.ins().iadd(at, offset)
}

/// Neighboring elements, as values.
fn copy(e: &mut Emit<'_>, dtype: DType, from: Value, to: Value, count: usize) {
    let (lanes, size, kept) = (lanes_of(dtype), dtype.size(), wide(dtype).size());
    for k in (0..count - count % lanes).step_by(lanes) {
        let x = load(e, dtype, from, (k * size) as i32);
        e.b.ins().store(plain(), x, to, (k * kept) as i32);
    }
    for k in count - count % lanes..count {
        let x = e.load_scalar(dtype, from, (k * size) as i32);
        e.b.ins().store(plain(), x, to, (k * kept) as i32);
    }
}

/// One register of each of `width` lanes, step by step.
fn turn(e: &mut Emit<'_>, dtype: DType, [from, lane, to]: [Value; 3], width: usize) {
    let (lanes, kept) = (lanes_of(dtype), wide(dtype).size());
    let mut from = from;
    let rows: Vec<Value> = (0..width)
        .map(|k| {
            if k > 0 {
                from = e.b.ins().iadd(from, lane);
            }
            load(e, dtype, from, 0)
        })
        .collect();
    let (squares, pair) = rows.split_at(width - width % lanes);
    for (k, square) in squares.chunks(lanes).enumerate() {
        for (s, x) in turned(e, square).into_iter().enumerate() {
            e.b.ins().store(plain(), x, to, ((s * width + k * lanes) * kept) as i32);
        }
    }
    // Two lanes of four steps are left, of f32.
    if let [a, b] = *pair {
        for (half, upper) in [false, true].into_iter().enumerate() {
            let x = zip(e, a, b, 4, upper);
            let x = e.bits(types::I64X2, x);
            for s in 0..2 {
                let word = e.b.ins().extractlane(x, s as u8);
                e.b.ins().store(plain(), word, to, (((2 * half + s) * width + squares.len()) * kept) as i32);
            }
        }
    }
}

/// The function of (tile, to, bytes between rows, rows, columns) for a tile of `width` columns of which not all are there.
pub(super) fn edge(e: &mut Emit<'_>, params: &[Value], sum: DType, width: usize, add: bool) {
    let [tile, to, row_bytes, rows, cols] = *params else { panic!("compiler bug: an edge has five parameters") };
    let (size, zero) = (sum.size(), e.int(types::I64, 0));
    each(e, zero, rows, 1, |e, r| {
        let from = at_step(e, tile, r, width * size);
        let offset = e.b.ins().imul(r, row_bytes);
        let to = e.b.ins().iadd(to, offset);
        each(e, zero, cols, 1, |e, k| {
            let (from, to) = (at_step(e, from, k, size), at_step(e, to, k, size));
            let mut x = e.load_scalar(sum, from, 0);
            if add {
                let old = e.load_scalar(sum, to, 0);
                x = e.b.ins().fadd(x, old);
            }
            e.b.ins().store(plain(), x, to, 0);
        });
    });
}

/// The function of (sums, to, bytes between rows of both, rows, columns) that rounds f32 to a narrow type.
pub(super) fn round(e: &mut Emit<'_>, params: &[Value], dtype: DType, add: bool) {
    let [sums, to, sum_row, row_bytes, rows, cols] = *params else { panic!("compiler bug: rounding has six parameters") };
    let (zero, mask) = (e.int(types::I64, 0), e.int(types::I64, -4));
    let fours = e.b.ins().band(cols, mask);
    each(e, zero, rows, 1, |e, r| {
        let offsets = [sum_row, row_bytes].map(|row| e.b.ins().imul(r, row));
        let (from, to) = (e.b.ins().iadd(sums, offsets[0]), e.b.ins().iadd(to, offsets[1]));
        each(e, zero, fours, 4, |e, k| {
            let (from, to) = (at_step(e, from, k, 4), at_step(e, to, k, dtype.size()));
            let mut x = e.b.ins().load(vector_type(DType::F32), plain(), from, 0);
            if add {
                let old = load(e, dtype, to, 0);
                x = e.b.ins().fadd(x, old);
            }
            e.store_four(dtype, Val::Four(x), to, 0);
        });
        each(e, fours, cols, 1, |e, k| {
            let (from, to) = (at_step(e, from, k, 4), at_step(e, to, k, dtype.size()));
            let mut x = e.b.ins().load(types::F32, plain(), from, 0);
            if add {
                let old = e.load_scalar(dtype, to, 0);
                x = e.b.ins().fadd(x, old);
            }
            e.store_scalar(dtype, x, to, 0);
        });
    });
}

/// The function of (matrix, bytes between rows, rows) that writes what lies above the diagonal.
pub(super) fn mirror(e: &mut Emit<'_>, params: &[Value], dtype: DType) {
    let [matrix, row_bytes, n] = *params else { panic!("compiler bug: mirroring has three parameters") };
    let (zero, size) = (e.int(types::I64, 0), dtype.size());
    let place = |e: &mut Emit<'_>, row: Value, col: Value| {
        let row = e.b.ins().imul(row, row_bytes);
        let row = e.b.ins().iadd(matrix, row);
        at_step(e, row, col, size)
    };
    each(e, zero, n, SIDE, |e, top| {
        let end = e.add_const(top, SIDE as i64);
        let inside = e.icmp(IntCC::SignedLessThanOrEqual, end, n);
        let (end, beyond) = (least(e, end, n), e.add_const(top, 1));
        each(e, zero, beyond, SIDE, |e, left| {
            let scalars = |e: &mut Emit<'_>| {
                each(e, top, end, 1, |e, i| {
                    let right = e.add_const(left, SIDE as i64);
                    let right = least(e, right, i);
                    each(e, left, right, 1, |e, j| {
                        let (from, to) = (place(e, i, j), place(e, j, i));
                        // Bits are moved, whatever they mean.
                        match size {
                            2 => {
                                let x = e.b.ins().uload16(types::I32, plain(), from, 0);
                                e.b.ins().istore16(plain(), x, to, 0);
                            }
                            _ => {
                                let x = e.b.ins().load(scalar_type(dtype), plain(), from, 0);
                                e.b.ins().store(plain(), x, to, 0);
                            }
                        }
                    });
                });
            };
            if size == 2 {
                return scalars(e);
            }
            let below = e.icmp(IntCC::SignedLessThan, left, top);
            let square = e.b.ins().band(below, inside);
            let lanes = lanes_of(dtype);
            let squares = |e: &mut Emit<'_>| {
                each(e, top, end, lanes, |e, i| {
                    let (mut from, mut to) = (place(e, i, left), place(e, left, i));
                    let mut rows = vec![from];
                    for _ in 1..lanes {
                        from = e.b.ins().iadd(from, row_bytes);
                        rows.push(from);
                    }
                    for j in (0..SIDE).step_by(lanes) {
                        let square: Vec<Value> = rows.iter().map(|&row| load(e, dtype, row, (j * size) as i32)).collect();
                        for x in turned(e, &square) {
                            e.b.ins().store(plain(), x, to, 0);
                            to = e.b.ins().iadd(to, row_bytes);
                        }
                    }
                });
            };
            either(e, square, squares, scalars);
        });
    });
}
