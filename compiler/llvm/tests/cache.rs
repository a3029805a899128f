//! Kernels that were compiled before are found again, and only those.
#![cfg(feature = "llvm")]

#[path = "../../cranelift/tests/common/mod.rs"]
mod common;

use common::{Kept, at, bind, load, plan_of, read, write};
use optc_abi::{DType, Tensor};
use optc_exec::{Pool, Program};
use optc_ir::kernel::{Expr, Extent, Kernel, LoopKind, Stmt};
use optc_ir::scalar::ScalarOp;
use optc_llvm::Config;
use std::sync::Arc;

/// y = op(x, x) over `n` elements.
fn twice(op: ScalarOp, n: i64) -> Kernel {
    Kernel {
        buffers: vec![read(DType::F32), write(DType::F32)],
        axes: 1,
        values: 2,
        body: vec![Stmt::For {
            axis: 0,
            extent: Extent::Const(n),
            kind: LoopKind::Vector,
            body: vec![
                bind(0, DType::F32, load(0, at(&[(0, 1)]))),
                bind(1, DType::F32, Expr::Map(op, vec![0, 0])),
                Stmt::Store { buffer: 1, index: at(&[(0, 1)]), value: 1 },
            ],
        }],
        ..Kernel::default()
    }
}

/// Compiles a kernel, runs it on 1, 2, …, and gives the results and how many kernels the cache had.
fn run(kernel: &Kernel, config: &Config) -> (Vec<f64>, (usize, usize)) {
    let mut tensors = [Tensor::from_f64(DType::F32, &[20], &(1..=20).map(f64::from).collect::<Vec<_>>()), Tensor::zeros(DType::F32, &[20])];
    let plan = Arc::new(plan_of(kernel, &tensors, &[]));
    let made = optc_llvm::compile(std::slice::from_ref(kernel), &plan, config).expect("compiles");
    let different = made.different;
    let code = optc_cranelift::compile_around(&made.kernels, &plan, &optc_cranelift::Config::default()).expect("compiles");
    let entry = code.entry;
    let mut program = Program::new(plan, entry, Arc::new((code, made)), Pool::new(1));
    program.run(&mut tensors).expect("runs");
    (tensors[1].to_f64(), different)
}

#[test]
fn a_kernel_is_compiled_once() {
    let kept = Arc::new(Kept::default());
    let config = Config { cache: Some(kept.clone()), ..Config::default() };
    let add = twice(ScalarOp::Add, 20);
    let (first, different) = run(&add, &config);
    assert_eq!(different, (1, 0));
    assert_eq!(first[..3], [2.0, 4.0, 6.0]);
    assert_eq!(run(&add, &config), (first.clone(), (1, 1)));
    // Another operation, another length, another processor: other code.
    assert_eq!(run(&twice(ScalarOp::Mul, 20), &config).1, (1, 0));
    assert_eq!(run(&twice(ScalarOp::Add, 19), &config).1, (1, 0));
    assert_eq!(run(&add, &Config { cpu: Some("x86-64-v2".to_string()), ..config.clone() }), (first, (1, 0)));
    assert_eq!(kept.0.lock().expect("no panic").len(), 4);
}

#[test]
fn equal_kernels_of_a_plan_are_one() {
    let kernels = [twice(ScalarOp::Add, 20), twice(ScalarOp::Mul, 20), twice(ScalarOp::Add, 20)];
    let plan = optc_abi::plan::Plan::default();
    let made = optc_llvm::compile(&kernels, &plan, &Config::default()).expect("compiles");
    assert_eq!(made.different, (2, 0));
    assert_eq!(made.kernels[0], made.kernels[2]);
    assert_ne!(made.kernels[0], made.kernels[1]);
}

#[test]
fn what_is_no_object_file_is_made_anew() {
    let kept = Arc::new(Kept::default());
    let config = Config { cache: Some(kept.clone()), ..Config::default() };
    let add = twice(ScalarOp::Add, 20);
    let (first, _) = run(&add, &config);
    let whole = kept.0.lock().expect("no panic").values().next().expect("one").clone();
    for broken in [b"no object file".to_vec(), Vec::new(), whole[..whole.len() / 2].to_vec()] {
        kept.0.lock().expect("no panic").values_mut().for_each(|v| v.clone_from(&broken));
        assert_eq!(run(&add, &config), (first.clone(), (1, 0)));
        assert_eq!(*kept.0.lock().expect("no panic").values().next().expect("one"), whole);
    }
    // A whole one that defines something else.
    run(&twice(ScalarOp::Mul, 20), &config);
    let mut all = kept.0.lock().expect("no panic");
    let other = all.values().find(|v| **v != whole).expect("another").clone();
    all.values_mut().for_each(|v| v.clone_from(&other));
    drop(all);
    assert_eq!(run(&add, &config), (first, (1, 0)));
}

/// Another processor's code gives the same bits where IEEE 754 rounds, and functions stay within their budgets; with the same instructions they are the same bits too.
#[test]
fn processors_agree() {
    let on = |op, cpu: &str| run(&twice(op, 20), &Config { cpu: Some(cpu.to_string()), ..Config::default() }).0;
    let here = |cpu: &str| optc_llvm::check_cpu_here(Some(cpu)).is_ok();
    for op in [ScalarOp::Add, ScalarOp::Mul, ScalarOp::Div, ScalarOp::Max, ScalarOp::Rem] {
        let native = on(op, optc_llvm::NATIVE);
        for cpu in ["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"].into_iter().filter(|cpu| here(cpu)) {
            assert_eq!(on(op, cpu), native, "{op:?} on {cpu}");
        }
    }
    for op in [ScalarOp::Pow, ScalarOp::Atan2] {
        let native = on(op, optc_llvm::NATIVE);
        if here("x86-64-v3") {
            assert_eq!(on(op, "x86-64-v3"), native, "{op:?}");
        }
        let old = on(op, "x86-64-v2");
        let near = |a: f64, b: f64| (a - b).abs() <= 8.0 * f64::from(f32::EPSILON) * b.abs();
        assert!(old.iter().zip(&native).all(|(a, b)| near(*a, *b)), "{op:?}: {old:?} {native:?}");
    }
}

#[test]
fn processors_that_are_not_here_are_refused() {
    let compiled = |cpu: &str| {
        let plan = optc_abi::plan::Plan::default();
        optc_llvm::compile(&[twice(ScalarOp::Add, 20)], &plan, &Config { cpu: Some(cpu.to_string()), ..Config::default() }).map(|_| ())
    };
    let unknown = compiled("pdp11").expect_err("there is none");
    assert!(unknown.is_request() && unknown.to_string().contains("no processor `pdp11`"), "{unknown}");
    // No processor has all that these two have.
    let both = ["diamondrapids", "bdver4"].map(compiled);
    assert!(both.iter().any(|r| r.as_ref().is_err_and(|e| e.is_request() && e.to_string().contains("does not run on this processor"))));
}
