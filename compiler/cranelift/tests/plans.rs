//! Plans: loops with moving addresses, conditionals, copies, guards, many argument sets, library calls.

mod common;

use common::{at, bind, load, plan_over, read, run_plan};
use optc_abi::plan::{BufRef, Gemm, Instr, KernelCall, LibOp, MatRef, Trip, status};
use optc_abi::{DType, Tensor};
use optc_ir::kernel::{Access, BufferParam, Expr, Extent, Kernel, LoopKind, Stmt};
use optc_ir::scalar::ScalarOp;

/// y[i] = x[i] + y[i] for a run-time number of elements, in parallel parts of 16.
fn add() -> Kernel {
    Kernel {
        buffers: vec![read(DType::F32), BufferParam { dtype: DType::F32, access: Access::ReadWrite }],
        sizes: 1,
        axes: 1,
        values: 3,
        body: vec![Stmt::For {
            axis: 0,
            extent: Extent::Size(0),
            kind: LoopKind::Parallel,
            body: vec![
                bind(0, DType::F32, load(0, at(&[(0, 1)]))),
                bind(1, DType::F32, load(1, at(&[(0, 1)]))),
                bind(2, DType::F32, Expr::Map(ScalarOp::Add, vec![0, 1])),
                Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: 2 },
            ],
        }],
        ..Kernel::default()
    }
}

fn call(x: BufRef, y: BufRef, n: i64) -> KernelCall {
    KernelCall { buffers: vec![x, y], sizes: vec![n], range: n, grain: 3 }
}

fn numbers(n: usize, from: f32) -> Tensor {
    Tensor::from_slice(&[n], &(0..n).map(|i| from + i as f32).collect::<Vec<f32>>())
}

#[test]
fn loops_move_addresses_forwards_and_backwards() {
    for (trip, reverse, threads) in [(false, false, 1), (true, false, 2), (false, true, 3)] {
        let mut t = [
            numbers(12, 1.0),
            Tensor::zeros(DType::F32, &[4]),
            Tensor::zeros(DType::I32, &[1]),
            Tensor::scalar(3i32),
            Tensor::zeros(DType::F32, &[12]),
        ];
        let step = |buffer| BufRef { buffer, offset: 0, steps: vec![(7, 16)] };
        let body = vec![
            Instr::Kernel { kernel: 0, calls: vec![call(step(0), BufRef::whole(1), 4)] },
            Instr::Copy { src: BufRef::whole(1), dst: step(4), bytes: 16 },
        ];
        let trip = if trip { Trip::Run(BufRef::whole(3)) } else { Trip::Const(3) };
        let code = vec![Instr::Loop { id: 7, trip, reverse, counter: BufRef::whole(2), body }];
        let plan = plan_over(&t, code);
        run_plan(&[add()], plan, &mut t, threads).unwrap();
        assert_eq!(t[1].to_f64(), [15.0, 18.0, 21.0, 24.0]);
        assert_eq!(t[2].to_f64(), [if reverse { 0.0 } else { 2.0 }]);
        let last = if reverse { 0 } else { 8 };
        assert_eq!(t[4].to_f64()[last..last + 4], [15.0, 18.0, 21.0, 24.0]);
        let first = if reverse { 8 } else { 0 };
        assert_eq!(t[4].to_f64()[first], t[0].get_f64(first));
    }
}

#[test]
fn a_loop_ends_by_its_flag_or_its_limit() {
    for (flag, most, want) in [(1u8, 5, 1.0), (1, 0, 0.0), (0, 5, 0.0)] {
        let flags = |x: u8| Tensor::from_f64(DType::Bool, &[], &[f64::from(x)]);
        let mut t = [numbers(4, 1.0), Tensor::zeros(DType::F32, &[4]), Tensor::scalar(9i32), Tensor::scalar(most), flags(flag), flags(0)];
        // One pass, which takes the flag away.
        let body = vec![
            Instr::Kernel { kernel: 0, calls: vec![call(BufRef::whole(0), BufRef::whole(1), 4)] },
            Instr::Copy { src: BufRef::whole(5), dst: BufRef::whole(4), bytes: 1 },
        ];
        let trip = Trip::While { go: BufRef::whole(4), most: BufRef::whole(3) };
        let plan = plan_over(&t, vec![Instr::Loop { id: 0, trip, reverse: false, counter: BufRef::whole(2), body }]);
        run_plan(&[add()], plan, &mut t, 1).unwrap();
        assert_eq!(t[1].to_f64()[0], want * t[0].to_f64()[0], "{flag} {most}");
        assert_eq!(t[2].to_f64(), [if want == 1.0 { 0.0 } else { 9.0 }]);
    }
}

#[test]
fn no_pass_of_a_loop_with_negative_trip_count() {
    let mut t = [numbers(4, 1.0), numbers(4, 0.0), Tensor::scalar(9i32), Tensor::scalar(-5i32)];
    let body = vec![Instr::Kernel { kernel: 0, calls: vec![call(BufRef::whole(0), BufRef::whole(1), 4)] }];
    let code = vec![Instr::Loop { id: 0, trip: Trip::Run(BufRef::whole(3)), reverse: false, counter: BufRef::whole(2), body }];
    let plan = plan_over(&t, code);
    run_plan(&[add()], plan, &mut t, 1).unwrap();
    assert_eq!(t[1].to_f64(), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(t[2].to_f64(), [9.0]);
}

#[test]
fn conditionals_take_one_branch() {
    for truth in [0u8, 1] {
        let mut t = [numbers(4, 1.0), numbers(4, 0.0), numbers(4, 0.0), Tensor::from_f64(DType::Bool, &[], &[truth.into()])];
        let branch = |y| vec![Instr::Kernel { kernel: 0, calls: vec![call(BufRef::whole(0), BufRef::whole(y), 4)] }];
        let code = vec![Instr::Cond { pred: BufRef::whole(3), then: branch(1), otherwise: branch(2) }];
        let plan = plan_over(&t, code);
        run_plan(&[add()], plan, &mut t, 2).unwrap();
        let (changed, kept) = if truth == 1 { (1, 2) } else { (2, 1) };
        assert_eq!(t[changed].to_f64(), [1.0, 3.0, 5.0, 7.0]);
        assert_eq!(t[kept].to_f64(), [0.0, 1.0, 2.0, 3.0]);
    }
}

#[test]
fn a_guard_stops_before_what_follows() {
    for (value, stops) in [(1.0, false), (f64::NAN, true), (f64::NEG_INFINITY, true)] {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let mut t = [numbers(4, 1.0), numbers(4, 0.0), Tensor::from_f64(dtype, &[], &[value])];
            let code = vec![
                Instr::Guard { value: BufRef::whole(2), dtype },
                Instr::Kernel { kernel: 0, calls: vec![call(BufRef::whole(0), BufRef::whole(1), 4)] },
            ];
            let plan = plan_over(&t, code);
            let result = run_plan(&[add()], plan, &mut t, 1);
            assert_eq!(result.err().map(|e| e.status.code), stops.then_some(status::NOT_FINITE));
            assert_eq!(t[1].get_f64(3), if stops { 3.0 } else { 7.0 });
        }
    }
}

#[test]
fn many_argument_sets_run_all() {
    for threads in [1, 2, 3] {
        let count = 23;
        let mut t: Vec<Tensor> = (0..2 * count).map(|i| numbers(1 + i / 2, i as f32)).collect();
        let calls = (0..count).map(|i| call(BufRef::whole(2 * i), BufRef::whole(2 * i + 1), 1 + i as i64)).collect();
        let plan = plan_over(&t, vec![Instr::Kernel { kernel: 0, calls }]);
        run_plan(&[add()], plan, &mut t, threads).unwrap();
        for i in 0..count {
            let want: Vec<f64> = (0..=i).map(|j| (4 * i + 1 + 2 * j) as f64).collect();
            assert_eq!(t[2 * i + 1].to_f64(), want);
        }
    }
}

#[test]
fn long_plans_run_their_kernels_in_order() {
    // Sums that each build on the one before: parts of one unit, of several, and in a loop, where addresses move.
    for (parts, threads) in [(2, 1), (2, 3), (8, 3)] {
        let mut t = [numbers(8, 1.0), Tensor::zeros(DType::F32, &[8]), numbers(8, 0.0), Tensor::scalar(0i32)];
        let mut code: Vec<Instr> = (0..40)
            .map(|k| {
                let (x, y) = if k % 2 == 0 { (0, 1) } else { (1, 0) };
                Instr::Kernel { kernel: 0, calls: vec![call(BufRef::whole(x), BufRef::whole(y), parts)] }
            })
            .collect();
        let step = BufRef { buffer: 2, offset: 0, steps: vec![(5, 4)] };
        let body = vec![Instr::Kernel { kernel: 0, calls: vec![call(BufRef::whole(0), step, 1)] }];
        code.push(Instr::Loop { id: 5, trip: Trip::Const(3), reverse: false, counter: BufRef::whole(3), body });
        let plan = plan_over(&t, code);
        run_plan(&[add()], plan, &mut t, threads).unwrap();
        // Fibonacci numbers, as each sum is of the last two.
        let (mut x, mut y) = (1.0f32, 0.0f32);
        for _ in 0..20 {
            y += x;
            x += y;
        }
        assert_eq!((t[0].get_f64(0), t[1].get_f64(0)), (f64::from(x), f64::from(y)));
        assert_eq!(t[2].to_f64()[..4], [f64::from(x), f64::from(1.0 + x), f64::from(2.0 + x), 3.0]);
        assert_eq!(t[0].get_f64(7) == 8.0, parts == 2);
    }
}

#[test]
fn copies_of_any_size() {
    for n in [1, 2, 3, 7, 15, 16, 31, 63, 64, 65, 1000] {
        let bytes: Vec<u8> = (0..n + 8).map(|i| i as u8 ^ 0x5A).collect();
        let mut t = [Tensor::from_slice(&[n + 8], &bytes), Tensor::zeros(DType::U8, &[n + 8])];
        let src = BufRef { buffer: 0, offset: 3, steps: vec![] };
        let plan = plan_over(&t, vec![Instr::Copy { src, dst: BufRef::whole(1), bytes: n }]);
        run_plan(&[], plan, &mut t, 1).unwrap();
        assert_eq!(t[1].as_slice::<u8>()[..n], bytes[3..3 + n]);
        assert!(t[1].as_slice::<u8>()[n..].iter().all(|&b| b == 0));
    }
}

#[test]
fn products_and_library_calls_are_numbered_in_order() {
    let mat = |buffer, row| MatRef { data: BufRef::whole(buffer), row_stride: row, col_stride: 1, batch_strides: vec![] };
    let product = |m, n, k, c| {
        let (a, b, c) = (mat(0, k as i64), mat(1, n as i64), mat(c, n as i64));
        Instr::Gemm(Gemm { dtype: DType::F32, m, n, k, batch: vec![], a, b, c, accumulate: false, symmetric: false })
    };
    let mut t = [
        Tensor::from_slice(&[4], &[1.0f32, 2.0, 3.0, 4.0]),
        Tensor::from_slice(&[4], &[1.0f32, 0.0, 0.0, 2.0]),
        Tensor::zeros(DType::F32, &[4]),
        Tensor::zeros(DType::F32, &[1]),
        Tensor::zeros(DType::I32, &[4]),
        Tensor::from_f64(DType::Bool, &[], &[1.0]),
    ];
    let sort = Instr::Lib {
        op: LibOp::ArgSort { rows: 1, n: 4, descending: true },
        dtype: DType::F32,
        buffers: vec![BufRef::whole(0), BufRef::whole(4)],
    };
    let code = vec![
        Instr::Cond { pred: BufRef::whole(5), then: vec![product(2, 2, 2, 2)], otherwise: vec![product(1, 1, 1, 2)] },
        product(1, 1, 4, 3),
        sort,
    ];
    let plan = plan_over(&t, code);
    run_plan(&[], plan, &mut t, 1).unwrap();
    assert_eq!(t[2].to_f64(), [1.0, 4.0, 3.0, 8.0]);
    assert_eq!(t[3].to_f64(), [9.0]);
    assert_eq!(t[4].to_f64(), [3.0, 2.0, 1.0, 0.0]);
}

#[test]
fn listings_show_every_function() {
    let t = [numbers(4, 1.0), numbers(4, 0.0)];
    let plan = plan_over(&t, vec![Instr::Kernel { kernel: 0, calls: vec![call(BufRef::whole(0), BufRef::whole(1), 4)] }]);
    let (clif, asm) = (optc_cranelift::clif(&[add()], &plan), optc_cranelift::asm(&[add()], &plan));
    assert!(clif.contains("; kernel 0") && clif.contains("fadd") && clif.contains("; entry"));
    assert!(asm.contains("; kernel 0") && asm.contains("; entry") && asm.contains("ret"));
}
