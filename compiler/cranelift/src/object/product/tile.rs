//! A tile in 128-bit registers.

use super::{STEPS, Tile};
use crate::emit::{Emit, plain, scalar_type, vector_type};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value, types};
use optc_abi::DType;

/// The function of (left panel, right panel, result, bytes between its rows, end of the left panel).
pub(super) fn tile(e: &mut Emit<'_>, params: &[Value], shape: Tile, sum: DType, add: bool) {
    let [left, right, to, row_bytes, end] = *params else { panic!("compiler bug: a tile has five parameters") };
    let (size, vector, scalar) = (sum.size(), vector_type(sum), scalar_type(sum));
    let vectors = shape.cols * size / 16;
    let zero = e.float_of(vector, 0.0);
    let (head, done) = (e.b.create_block(), e.b.create_block());
    let types_of = [vec![types::I64; 2], vec![vector; shape.rows * vectors]].concat();
    let state: Vec<Value> = types_of.iter().map(|&t| e.b.append_block_param(head, t)).collect();
    let start: Vec<BlockArg> = [left, right].into_iter().chain(vec![zero; shape.rows * vectors]).map(BlockArg::Value).collect();
    e.b.ins().jump(head, &start);
    e.b.switch_to_block(head);
    let (left, right) = (state[0], state[1]);
    let mut sums = state[2..].to_vec();
    for step in 0..STEPS {
        let row: Vec<Value> =
            (0..vectors).map(|v| e.b.ins().load(vector, plain(), right, (step * shape.cols * size + 16 * v) as i32)).collect();
        for r in 0..shape.rows {
            let x = e.b.ins().load(scalar, plain(), left, ((step * shape.rows + r) * size) as i32);
            let x = e.b.ins().splat(vector, x);
            for (v, &y) in row.iter().enumerate() {
                let old = sums[r * vectors + v];
                sums[r * vectors + v] = if e.features.fma {
                    e.b.ins().fma(x, y, old)
                } else {
                    let term = e.b.ins().fmul(x, y);
                    e.b.ins().fadd(old, term)
                };
            }
        }
    }
    let left = e.add_const(left, (STEPS * shape.rows * size) as i64);
    let right = e.add_const(right, (STEPS * shape.cols * size) as i64);
    let more = e.icmp(IntCC::UnsignedLessThan, left, end);
    let again: Vec<BlockArg> = [left, right].into_iter().chain(sums.iter().copied()).map(BlockArg::Value).collect();
    e.b.ins().brif(more, head, &again, done, &[]);
    e.b.seal_block(head);
    e.b.switch_to_block(done);
    e.b.seal_block(done);
    let mut to = to;
    for r in 0..shape.rows {
        if r > 0 {
            to = e.b.ins().iadd(to, row_bytes);
        }
        for v in 0..vectors {
            let mut x = sums[r * vectors + v];
            if add {
                let old = e.b.ins().load(vector, plain(), to, 16 * v as i32);
                x = e.b.ins().fadd(x, old);
            }
            e.b.ins().store(plain(), x, to, 16 * v as i32);
        }
    }
}
