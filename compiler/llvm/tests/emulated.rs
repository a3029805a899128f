//! Kernels of a GPU on the emulator: right results, no fault; and a fault where units are not independent.
#![cfg(feature = "llvm")]

use optc_abi::plan::{BufRef, BufferDecl, Instr, KernelCall, Place, Plan, SlotDecl};
use optc_abi::{DType, Tensor};
use optc_exec::{Pool, Program};
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{Acc, AccOp, Access, BufferParam, Expr, Extent, Index, Kernel, LOCAL, Literal, Local, LoopKind, Stmt};
use optc_ir::kernel_interp::run_kernel_on;
use optc_ir::scalar::ScalarOp;
use optc_llvm::emulator::{self, FaultKind};
use std::sync::{Arc, Mutex};

/// Faults are collected by the process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn at(axes: &[(usize, i64)], offset: i64) -> Index {
    Index { offset, axes: axes.to_vec(), ..Index::default() }
}
fn bind(value: usize, dtype: DType, expr: Expr) -> Stmt {
    Stmt::Let { value, dtype, expr }
}
fn load(buffer: usize, index: Index) -> Expr {
    Expr::Load { buffer, index, guard: None }
}
fn over(axis: usize, n: i64, kind: LoopKind, body: Vec<Stmt>) -> Stmt {
    Stmt::For { axis, extent: Extent::Const(n), kind, body }
}

/// Of every row of `b0` the exponentials, divided by their sum, backwards: each pass of the last loop reads what another thread has stored.
fn turned_softmax(rows: i64, n: i64, local: bool) -> Kernel {
    let middle = if local { LOCAL } else { 1 };
    let place = |axis: usize| if local { at(&[(axis, 1)], 0) } else { at(&[(0, n), (axis, 1)], 0) };
    let backwards = |axis: usize| if local { at(&[(axis, -1)], n - 1) } else { at(&[(0, n), (axis, -1)], n - 1) };
    let body = vec![
        bind(0, DType::F32, Expr::Const(Literal::Float(0.0))),
        Stmt::Init { acc: 0, value: 0 },
        over(
            1,
            n,
            LoopKind::Vector,
            vec![
                bind(1, DType::F32, load(0, at(&[(0, n), (1, 1)], 0))),
                bind(2, DType::F32, Expr::Map(ScalarOp::Exp, vec![1])),
                Stmt::Store { buffer: middle, index: place(1), value: 2 },
                Stmt::Update { acc: 0, value: 2 },
            ],
        ),
        bind(3, DType::F32, Expr::Acc(0)),
        over(
            2,
            n,
            LoopKind::Vector,
            vec![
                bind(4, DType::F32, load(middle, backwards(2))),
                bind(5, DType::F32, Expr::Map(ScalarOp::Div, vec![4, 3])),
                Stmt::Store { buffer: 2, index: at(&[(0, n), (2, 1)], 0), value: 5 },
            ],
        ),
    ];
    let param = |access| BufferParam { dtype: DType::F32, access };
    Kernel {
        buffers: vec![param(Access::Read), param(Access::ReadWrite), param(Access::Write)],
        locals: if local { vec![Local { dtype: DType::F32, len: n as usize }] } else { Vec::new() },
        axes: 3,
        values: 6,
        accs: vec![Acc { dtype: DType::F32, op: AccOp::Reduce(ReduceOp::Sum) }],
        body: vec![over(0, rows, LoopKind::Parallel, body)],
        ..Kernel::default()
    }
}

/// Runs a kernel on the emulator; gives the tensors after it.
fn run(kernel: &Kernel, tensors: &[Tensor], range: i64) -> Vec<Tensor> {
    let buffers = tensors.iter().enumerate().map(|(k, t)| BufferDecl { dtype: t.dtype, len: t.len(), place: Place::Input(k) }).collect();
    let slots = tensors.iter().map(|t| SlotDecl { name: String::new(), dtype: t.dtype, shape: t.shape.clone(), alias: None }).collect();
    let call = KernelCall { buffers: (0..tensors.len()).map(BufRef::whole).collect(), sizes: Vec::new(), range, grain: range };
    let code = vec![Instr::Kernel { kernel: 0, calls: vec![call] }];
    let plan = Arc::new(Plan { buffers, arena_bytes: 64, inputs: slots, code, ..Plan::default() });
    let config = optc_llvm::Config { emulate: true, ..Default::default() };
    let made = optc_llvm::compile(std::slice::from_ref(kernel), &plan, &config).expect("LLVM compiles");
    let code = optc_cranelift::compile_around(&made.kernels, &plan, &optc_cranelift::Config::default()).expect("compiles");
    let mut all = tensors.to_vec();
    let mut program = Program::new(plan, code.entry, Arc::new((code, made)), Pool::new(1));
    program.run(&mut all).expect("runs");
    all
}

fn rows_of(rows: i64, n: i64) -> Vec<Tensor> {
    let values: Vec<f64> = (0..rows * n).map(|k| ((k * 37 % 101) as f64 - 50.0) / 25.0).collect();
    let shape = [rows as usize, n as usize];
    vec![Tensor::from_f64(DType::F32, &shape, &values), Tensor::zeros(DType::F32, &shape), Tensor::zeros(DType::F32, &shape)]
}

#[test]
fn units_of_threads_warps_and_blocks_give_the_interpreters_results() {
    let _alone = ALONE.lock();
    emulator::collect(true);
    for local in [false, true] {
        for n in [1, 3, 8, 9, 32, 33, 100, 512, 513, 1000, 3001] {
            for rows in [1, 2, 7, 40] {
                let (kernel, tensors) = (turned_softmax(rows, n, local), rows_of(rows, n));
                let mut want = tensors.clone();
                run_kernel_on(&kernel, &mut want, &[]).expect("the interpreter runs");
                let got = run(&kernel, &tensors, rows);
                let faults = emulator::take_faults();
                assert!(faults.is_empty(), "{rows} x {n}: {}", faults[0]);
                for (x, y) in got[2].to_f64().iter().zip(want[2].to_f64()) {
                    assert!((x - y).abs() <= 4e-6 * y.abs(), "{rows} x {n}, local {local}: {x} and {y}");
                }
            }
        }
    }
}

/// Rows that overlap: two units store to the same element.
#[test]
fn units_that_are_not_independent_are_found() {
    let _alone = ALONE.lock();
    emulator::collect(true);
    let mut kernel = turned_softmax(4, 600, true);
    let Stmt::For { body, .. } = &mut kernel.body[0] else { panic!("a loop") };
    let Some(Stmt::For { body, .. }) = body.last_mut() else { panic!("a loop") };
    let Some(Stmt::Store { index, .. }) = body.last_mut() else { panic!("a store") };
    index.axes[0].1 = 599;
    run(&kernel, &rows_of(4, 600), 4);
    let faults = emulator::take_faults();
    assert!(faults.iter().any(|f| f.kind == FaultKind::Race), "{faults:?}");
}

/// A row too many: the last unit reads and writes behind the buffers.
#[test]
fn accesses_beyond_buffers_are_found() {
    let _alone = ALONE.lock();
    emulator::collect(true);
    let kernel = turned_softmax(4, 600, true);
    // A kernel for four rows of arrays that have three; the arrays are larger than the plan says, so that nothing is destroyed.
    let tensors = rows_of(4, 600);
    let decl = |k: usize| BufferDecl { dtype: DType::F32, len: 3 * 600, place: Place::Input(k) };
    let slot = |t: &Tensor| SlotDecl { name: String::new(), dtype: t.dtype, shape: vec![4, 600], alias: None };
    let call = KernelCall { buffers: (0..3).map(BufRef::whole).collect(), sizes: Vec::new(), range: 4, grain: 4 };
    let code = vec![Instr::Kernel { kernel: 0, calls: vec![call] }];
    let plan =
        Plan { buffers: (0..3).map(decl).collect(), arena_bytes: 64, inputs: tensors.iter().map(slot).collect(), code, ..Plan::default() };
    let config = optc_llvm::Config { emulate: true, ..Default::default() };
    let made = optc_llvm::compile(std::slice::from_ref(&kernel), &plan, &config).expect("LLVM compiles");
    let addresses: Vec<*mut u8> = tensors.iter().map(Tensor::as_ptr).collect();
    let mut status = optc_abi::plan::Status::default();
    // SAFETY: a kernel of this plan, and arrays that are as long as it is wrong about.
    let run: optc_abi::plan::KernelFn = unsafe { std::mem::transmute(made.kernels[0]) };
    for (rows, faulty) in [(3, false), (4, true)] {
        // SAFETY: as above.
        unsafe { run(addresses.as_ptr(), std::ptr::null(), 0, rows, &raw mut status) };
        let faults = emulator::take_faults();
        assert_eq!(faults.iter().any(|f| f.kind == FaultKind::OutOfBounds), faulty, "{rows} rows: {faults:?}");
    }
}
