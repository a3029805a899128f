//! Wide loops where random kernels seldom go: constants as operands of extrema, conversions at their ends, every form of fused multiply-add, more masks and values than registers.

mod common;

use common::{at, bind, check, int, lit, load, plan_of, read, run_compiled_as, same, write};
use optc_abi::{DType, Tensor};
use optc_cranelift::{Config, Vectors};
use optc_ir::kernel::{BufferParam, Expr, Extent, Kernel, LoopKind, Stmt};
use optc_ir::scalar::ScalarOp;

const N: usize = 131;

fn specials() -> Vec<f64> {
    let x = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e-40,
        -1e-40,
        3e9,
        -3e9,
        2_147_483_648.0,
        -2_147_483_648.0,
        2.5,
        -7.75,
    ];
    (0..N).map(|i| x[i * 7 % x.len()]).collect()
}

/// One long vector loop; fails if it has no wide form on a processor that has one.
fn kernel(buffers: Vec<BufferParam>, values: usize, body: Vec<Stmt>, tensors: &[Tensor]) -> Kernel {
    let body = vec![Stmt::For { axis: 0, extent: Extent::Const(N as i64), kind: LoopKind::Vector, body }];
    let kernel = Kernel { buffers, axes: 1, values, body, ..Kernel::default() };
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        let text = optc_cranelift::asm(std::slice::from_ref(&kernel), &plan_of(&kernel, tensors, &[]));
        assert!(text.contains("wide loop"), "{kernel:#?}");
    }
    kernel
}

/// Enough additions to make a loop worth a call, from value `from` on; the last has the number `from + count - 1`.
fn work(dtype: DType, of: usize, from: usize, count: usize) -> Vec<Stmt> {
    (0..count).map(|i| bind(from + i, dtype, Expr::Map(ScalarOp::Xor, vec![of, if i == 0 { of } else { from + i - 1 }]))).collect()
}

#[test]
fn extrema_with_constants() {
    let x = Tensor::from_f64(DType::F32, &[N], &specials());
    for op in [ScalarOp::Max, ScalarOp::Min] {
        for bound in [0.0, -0.0, 1.0, f64::NAN, f64::INFINITY] {
            for swapped in [false, true] {
                let operands = if swapped { vec![1, 0] } else { vec![0, 1] };
                let mut body = vec![
                    bind(0, DType::F32, load(0, at(&[(0, 1)]))),
                    bind(1, DType::F32, lit(bound)),
                    bind(2, DType::F32, Expr::Map(op, operands)),
                ];
                // The same value again and again, so that the loop is long enough.
                body.extend((3..16).map(|v| bind(v, DType::F32, Expr::Map(ScalarOp::Neg, vec![v - 1]))));
                body.push(Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: 2 });
                body.push(Stmt::Store { buffer: 2, index: at(&[(0, 1)]), value: 15 });
                let tensors = [x.clone(), Tensor::zeros(DType::F32, &[N]), Tensor::zeros(DType::F32, &[N])];
                let k = kernel(vec![read(DType::F32), write(DType::F32), write(DType::F32)], 16, body, &tensors);
                check(&k, &tensors, &[]);
            }
        }
    }
}

#[test]
fn conversions_at_their_ends() {
    let words: Vec<f64> =
        (0..N).map(|i| [0.0, 1.0, 16_777_217.0, 2_147_483_647.0, 2_147_483_648.0, 4_294_967_295.0, 65_535.0, 65_536.0][i % 8]).collect();
    let pairs = [
        (DType::F32, DType::I32),
        (DType::F32, DType::Bool),
        (DType::U32, DType::F32),
        (DType::I32, DType::F32),
        (DType::U32, DType::Bool),
    ];
    for (from, to) in pairs {
        let x = Tensor::from_f64(from, &[N], &if from == DType::F32 { specials() } else { words.clone() });
        let mut body = vec![bind(0, from, load(0, at(&[(0, 1)]))), bind(1, to, Expr::Cast(0))];
        body.push(bind(2, DType::I32, Expr::Axis(0)));
        body.extend(work(DType::I32, 2, 3, 12));
        body.push(Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: 1 });
        body.push(Stmt::Store { buffer: 2, index: at(&[(0, 1)]), value: 14 });
        let tensors = [x, Tensor::zeros(to, &[N]), Tensor::zeros(DType::I32, &[N])];
        let k = kernel(vec![read(from), write(to), write(DType::I32)], 15, body, &tensors);
        check(&k, &tensors, &[]);
    }
}

#[test]
fn fused_multiply_add_whichever_operand_lives_on() {
    // Operands: loaded and used once, loaded and used again, a constant, computed and used once, computed and used again.
    const KINDS: usize = 5;
    let column = |i: usize| {
        Tensor::from_f64(DType::F32, &[N], &(0..N).map(|j| ((j * (31 + i) + 7 * i) % 97) as f64 / 13.0 - 3.0).collect::<Vec<_>>())
    };
    for kinds in 0..KINDS * KINDS * KINDS {
        let kinds = [kinds % KINDS, kinds / KINDS % KINDS, kinds / KINDS / KINDS];
        if kinds == [2, 2, 2] {
            // Nothing is left in the loop.
            continue;
        }
        let mut body: Vec<Stmt> = (0..3).map(|i| bind(i, DType::F32, load(i, at(&[(0, 1)])))).collect();
        let mut values = 3;
        let mut operands = Vec::new();
        let mut push = |body: &mut Vec<Stmt>, expr: Expr| {
            body.push(bind(values, DType::F32, expr));
            values += 1;
            values - 1
        };
        for (i, kind) in kinds.iter().enumerate() {
            operands.push(match kind {
                0 | 1 => i,
                2 => push(&mut body, lit(1.5 + i as f64)),
                _ => push(&mut body, Expr::Map(ScalarOp::Mul, vec![i, i])),
            });
        }
        let mut sum = push(&mut body, Expr::Map(ScalarOp::Fma, operands.clone()));
        for (&operand, kind) in operands.iter().zip(kinds) {
            if matches!(kind, 1 | 4) {
                sum = push(&mut body, Expr::Map(ScalarOp::Add, vec![sum, operand]));
            }
        }
        for _ in 0..12 {
            sum = push(&mut body, Expr::Map(ScalarOp::Abs, vec![sum]));
            sum = push(&mut body, Expr::Map(ScalarOp::Neg, vec![sum]));
        }
        body.push(Stmt::Store { buffer: 3, index: at(&[(0, 1)]), value: sum });
        let tensors = [column(0), column(1), column(2), Tensor::zeros(DType::F32, &[N])];
        let k = kernel(vec![read(DType::F32), read(DType::F32), read(DType::F32), write(DType::F32)], values, body, &tensors);
        let run = |vectors: Vectors| {
            let mut t = tensors.to_vec();
            run_compiled_as(&k, &mut t, &[], &Config { threads: 1, vectors, ..Config::default() }).expect("runs");
            t.pop().expect("a result")
        };
        let plain = run(Vectors::Bits128);
        for vectors in [Vectors::Bits256, Vectors::Bits512] {
            assert!(same(&run(vectors), &plain), "operands {kinds:?}, {vectors:?}");
        }
    }
}

#[test]
fn angles_of_random_words_need_no_slow_path() {
    let words: Vec<f64> = (0..N).map(|i| [0.0, 1.0, 255.0, 256.0, 4_294_967_295.0, 2_147_483_648.0, 123_456_789.0][i % 7]).collect();
    for op in [ScalarOp::Cos, ScalarOp::Sin, ScalarOp::Tan] {
        let body = vec![
            bind(0, DType::U32, load(0, at(&[(0, 1)]))),
            bind(1, DType::U32, Expr::Const(optc_ir::kernel::Literal::Int(8))),
            bind(2, DType::U32, Expr::Map(ScalarOp::Shr, vec![0, 1])),
            bind(3, DType::I32, Expr::Bitcast(2)),
            bind(4, DType::F32, Expr::Cast(3)),
            bind(5, DType::F32, lit(std::f64::consts::TAU / f64::from(1 << 24))),
            bind(6, DType::F32, Expr::Map(ScalarOp::Mul, vec![4, 5])),
            bind(7, DType::F32, Expr::Map(op, vec![6])),
            Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: 7 },
        ];
        let tensors = [Tensor::from_f64(DType::U32, &[N], &words), Tensor::zeros(DType::F32, &[N])];
        let k = kernel(vec![read(DType::U32), write(DType::F32)], 8, body, &tensors);
        check(&k, &tensors, &[]);
    }
}

#[test]
fn more_masks_and_values_than_registers() {
    const MANY: usize = 12;
    for (values_between, random) in [(0, false), (45, false), (0, true), (45, true)] {
        let mut body = vec![bind(0, DType::F32, load(0, at(&[(0, 1)])))];
        let mut values = 1;
        let mut push = |body: &mut Vec<Stmt>, dtype: DType, expr: Expr| {
            body.push(bind(values, dtype, expr));
            values += 1;
            values - 1
        };
        let word = random.then(|| {
            let position = push(&mut body, DType::U32, Expr::Axis(0));
            let key = push(&mut body, DType::U32, int(7));
            push(&mut body, DType::U32, Expr::Philox { key: [key, key], counter: [position, key, position, key], word: 2 })
        });
        let bounds: Vec<usize> = (0..MANY).map(|i| push(&mut body, DType::F32, lit(i as f64 - 5.5))).collect();
        let mut masks: Vec<usize> = bounds.iter().map(|&b| push(&mut body, DType::Bool, Expr::Map(ScalarOp::Lt, vec![0, b]))).collect();
        if let Some(word) = word {
            let half = push(&mut body, DType::U32, int(1 << 31));
            masks.push(push(&mut body, DType::Bool, Expr::Map(ScalarOp::Lt, vec![word, half])));
        }
        let between: Vec<usize> =
            (0..values_between).map(|i| push(&mut body, DType::F32, Expr::Map(ScalarOp::Mul, vec![0, bounds[i % MANY]]))).collect();
        // Logic of masks with masks, the last first; a selection by each; each as a number.
        let mut all = masks[0];
        for (i, &m) in masks.iter().enumerate().rev() {
            let op = [ScalarOp::And, ScalarOp::Or, ScalarOp::Xor][i % 3];
            all = push(&mut body, DType::Bool, Expr::Map(op, vec![all, m]));
            if i % 4 == 0 {
                all = push(&mut body, DType::Bool, Expr::Map(ScalarOp::Not, vec![all]));
            }
        }
        let mut sum = push(&mut body, DType::F32, Expr::Cast(all));
        for (i, &m) in masks.iter().enumerate() {
            let chosen = push(&mut body, DType::F32, Expr::Map(ScalarOp::Select, vec![m, sum, bounds[i % MANY]]));
            let number = push(&mut body, DType::F32, Expr::Cast(m));
            sum = push(&mut body, DType::F32, Expr::Map(ScalarOp::Add, vec![chosen, number]));
        }
        for &x in between.iter().rev() {
            sum = push(&mut body, DType::F32, Expr::Map(ScalarOp::Sub, vec![sum, x]));
        }
        body.push(Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: sum });
        body.push(Stmt::Store { buffer: 2, index: at(&[(0, 1)]), value: all });
        if let Some(word) = word {
            body.push(Stmt::Store { buffer: 3, index: at(&[(0, 1)]), value: word });
        }
        let x: Vec<f64> = (0..N).map(|i| (i * 37 % 29) as f64 / 2.0 - 7.0).collect();
        let tensors = [
            Tensor::from_f64(DType::F32, &[N], &x),
            Tensor::zeros(DType::F32, &[N]),
            Tensor::zeros(DType::Bool, &[N]),
            Tensor::zeros(DType::U32, &[N]),
        ];
        let buffers = [read(DType::F32), write(DType::F32), write(DType::Bool), write(DType::U32)];
        let count = if random { 4 } else { 3 };
        let k = kernel(buffers[..count].to_vec(), values, body, &tensors[..count]);
        check(&k, &tensors[..count], &[]);
    }
}
