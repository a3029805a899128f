//! Local arrays, and what a block of codes needs: bytes read with and without their sign, packed again, positions, signs of integers, largest magnitudes.

mod common;

use common::{Body, Rng, at, check, int, lit, load, read, reduce, write};
use optc_abi::{DType, Tensor};
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Expr, Extent, Kernel, LOCAL, Local, LoopKind, Stmt};
use optc_ir::kernel_interp::run_kernel_on;
use optc_ir::kernel_verify::verify_kernel;
use optc_ir::scalar::ScalarOp;

/// In each of `rows` rows of `n` elements: numbers decoded from bytes are changed, their largest magnitude is found, and they become bytes again.
fn blocks(rows: i64, n: i64) -> Kernel {
    let row = |inner: usize| at(&[(0, n), (inner, 1)]);
    let (f, i) = (DType::F32, DType::I32);
    let mut b = Body::default();
    // Buffers: x, bytes with a sign, bytes without, halves; scales, the same three again, flags.
    let x = b.bind(f, load(0, row(1)));
    let byte = b.bind(DType::U8, load(1, row(1)));
    let code = b.bind(i, Expr::Cast(byte));
    let high = b.with(ScalarOp::Shl, code, 24);
    let number = b.with(ScalarOp::Shr, high, 24);
    let zero = b.bind(i, int(0));
    let below = b.map(DType::Bool, ScalarOp::Lt, &[number, zero]);
    let unit = b.bind(f, lit(0.25));
    let opposite = b.map(f, ScalarOp::Neg, &[unit]);
    let side = b.map(f, ScalarOp::Select, &[below, opposite, unit]);
    let size = b.map(i, ScalarOp::Abs, &[number]);
    let size = b.with(ScalarOp::Shl, size, 20);
    let size = b.with(ScalarOp::Add, size, 127 << 23);
    let size = b.bind(f, Expr::Bitcast(size));
    let less = b.map(f, ScalarOp::Neg, &[side]);
    let m = b.map(f, ScalarOp::Fma, &[size, side, less]);
    let plain = b.bind(DType::U8, load(2, row(1)));
    let plain = b.bind(f, Expr::Cast(plain));
    let half = b.bind(f, load(3, row(1)));
    let sum = b.map(f, ScalarOp::Add, &[m, x]);
    let other = b.map(f, ScalarOp::Fma, &[plain, half, x]);
    let bits = b.bind(i, Expr::Bitcast(sum));
    let magnitude = b.with(ScalarOp::And, bits, i64::from(i32::MAX));
    b.store(LOCAL, at(&[(1, 1)]), sum);
    b.store(LOCAL + 1, at(&[(1, 1)]), bits);
    b.store(LOCAL + 2, at(&[(1, 1)]), other);
    b.stmts.push(Stmt::Update { acc: 0, value: magnitude });
    let first = b.take();
    let start = b.bind(i, int(i64::from(i32::MIN)));
    let open = vec![b.take().remove(0), Stmt::Init { acc: 0, value: start }];
    let most = b.bind(i, Expr::Acc(0));
    let scale = b.bind(f, Expr::Bitcast(most));
    b.store(4, at(&[(0, 1)]), scale);
    let one = b.bind(f, lit(1.0));
    let top = b.bind(f, lit(61438.0));
    let factor = b.map(f, ScalarOp::Div, &[top, scale]);
    let between = b.take();
    let sum = b.bind(f, load(LOCAL, at(&[(2, 1)])));
    let bits = b.bind(i, load(LOCAL + 1, at(&[(2, 1)])));
    let other = b.bind(f, load(LOCAL + 2, at(&[(2, 1)])));
    let size = b.map(f, ScalarOp::Abs, &[sum]);
    let v = b.map(f, ScalarOp::Fma, &[size, factor, one]);
    let v = b.bind(i, Expr::Bitcast(v));
    let place = b.bind(i, Expr::Axis(2));
    let lane = b.with(ScalarOp::And, place, 15);
    let lane = b.with(ScalarOp::Mul, lane, 7 << 16);
    let lane = b.with(ScalarOp::And, lane, 15 << 16);
    let chunk = b.with(ScalarOp::And, place, -16);
    let chunk = b.with(ScalarOp::Shl, chunk, 6);
    let noise = b.map(i, ScalarOp::Xor, &[lane, chunk]);
    let v = b.map(i, ScalarOp::Add, &[v, noise]);
    let v = b.with(ScalarOp::Sub, v, 127 << 23);
    let v = b.with(ScalarOp::Shr, v, 20);
    let sign = b.map(i, ScalarOp::Sign, &[bits]);
    let code = b.map(i, ScalarOp::Mul, &[v, sign]);
    let code = b.bind(DType::U8, Expr::Cast(code));
    // Below 0 and above 255 as well.
    let near = b.bind(i, Expr::Cast(other));
    let near = b.with(ScalarOp::Shr, near, 18);
    let near = b.with(ScalarOp::Max, near, 0);
    let near = b.with(ScalarOp::Min, near, 255);
    let near = b.bind(DType::U8, Expr::Cast(near));
    let odd = b.with(ScalarOp::And, place, 5);
    let flag = b.map(DType::Bool, ScalarOp::Eq, &[odd, sign]);
    let whole = b.bind(i, Expr::Cast(sum));
    let low = b.bind(DType::U8, Expr::Cast(whole));
    b.store(5, row(2), code);
    b.store(6, row(2), near);
    b.store(7, row(2), other);
    b.store(8, row(2), flag);
    b.store(9, row(2), low);
    let second = b.take();
    let mut body = open;
    body.push(Stmt::For { axis: 1, extent: Extent::Const(n), kind: LoopKind::Vector, body: first });
    body.extend(between);
    body.push(Stmt::For { axis: 2, extent: Extent::Const(n), kind: LoopKind::Vector, body: second });
    let (u, h) = (DType::U8, DType::BF16);
    Kernel {
        buffers: [f, u, u, h].map(read).into_iter().chain([f, u, u, h, DType::Bool, u].map(write)).collect(),
        locals: [f, i, f].map(|dtype| Local { dtype, len: n as usize }).into(),
        axes: 3,
        values: b.next,
        accs: vec![reduce(i, ReduceOp::Max)],
        body: vec![Stmt::For { axis: 0, extent: Extent::Const(rows), kind: LoopKind::Parallel, body }],
        ..Kernel::default()
    }
}

/// Inputs with zeros of both signs and numbers of all sizes, and room for the results.
fn tensors(rows: usize, n: usize) -> Vec<Tensor> {
    let mut rng = Rng(7);
    let count = rows * n;
    let shape = [rows, n];
    let size = |rng: &mut Rng| 10f64.powi(rng.below(12) as i32 - 6) * (rng.below(2001) as f64 - 1000.0);
    let x: Vec<f64> = (0..count).map(|k| if k % 29 == 0 { -0.0 } else { size(&mut rng) }).collect();
    let bytes = |rng: &mut Rng| -> Vec<f64> { (0..count).map(|_| rng.below(256) as f64).collect() };
    let (signed, plain) = (bytes(&mut rng), bytes(&mut rng));
    let halves: Vec<f64> = (0..count).map(|_| size(&mut rng)).collect();
    let inputs = [(DType::F32, x), (DType::U8, signed), (DType::U8, plain), (DType::BF16, halves)];
    let mut all: Vec<Tensor> = inputs.iter().map(|(d, v)| Tensor::from_f64(*d, &shape, v)).collect();
    all.push(Tensor::zeros(DType::F32, &[rows]));
    all.extend([DType::U8, DType::U8, DType::BF16, DType::Bool, DType::U8].map(|d| Tensor::zeros(d, &shape)));
    all
}

#[test]
fn blocks_of_codes_are_the_same_in_all_back_ends() {
    for n in [256, 160, 40, 37, 3] {
        check(&blocks(5, n), &tensors(5, n as usize), &[]);
    }
}

#[test]
fn bytes_wrap_or_stay_within_bounds() {
    let mut all = tensors(4, 64);
    run_kernel_on(&blocks(4, 64), &mut all, &[]).unwrap();
    let column = |k: usize| all[k].to_f64();
    // Both ends of the clamped bytes and both signs of the others occur.
    assert!(column(6).contains(&0.0) && column(6).contains(&255.0));
    assert!(column(5).iter().any(|c| *c > 128.0) && column(5).iter().any(|c| *c > 0.0 && *c < 128.0));
    for (k, code) in column(5).iter().enumerate() {
        let size = if *code < 128.0 { *code } else { 256.0 - code };
        assert!(size <= 127.0, "element {k}: {code}");
    }
}

#[test]
fn a_local_array_has_bounds_and_a_type_of_values() {
    let mut kernel = blocks(1, 16);
    kernel.locals[0].len = 15;
    assert!(run_kernel_on(&kernel, &mut tensors(1, 16), &[]).unwrap_err().contains("element 15"));
    kernel.locals[0].dtype = DType::BF16;
    assert!(verify_kernel(&kernel).unwrap_err().contains("local array 0"));
    kernel.locals.clear();
    assert!(verify_kernel(&kernel).unwrap_err().contains("does not exist"));
}
