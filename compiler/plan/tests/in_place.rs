//! Conditionals that leave arrays alone or change them in place, guards that come after, and checks of what is written.

mod common;
use common::*;
use optc_abi::plan::{Instr, Place, Plan, status};
use optc_abi::{DType, Tensor};
use optc_ir::graph::{DotDims, Graph, NodeId, ReduceOp, Ty};
use optc_ir::{ScalarOp, interpret};
use optc_plan::{Config, plan, reference};
use std::sync::Arc;

fn pred(g: &mut Graph) -> NodeId {
    g.input("pred", Ty::scalar(DType::Bool), O)
}

/// `if pred { w - x, sum(w x) } else { w, 0 }`.
fn sometimes(g: &mut Graph, p: NodeId, w: NodeId, x: NodeId) -> Vec<NodeId> {
    let n = g.ty(w).len();
    let branch = |steps: bool| {
        let mut b = Graph::new();
        // The array is handed over twice: to be left as it is, and to be read.
        let (old, w, x) = (input(&mut b, &[n]), input(&mut b, &[n]), input(&mut b, &[n]));
        let product = map(&mut b, ScalarOp::Mul, &[w, x]);
        let new = map(&mut b, ScalarOp::Sub, &[w, x]);
        let sum = b.reduce(ReduceOp::Sum, product, &[0], O);
        let zero = b.scalar(DType::F32, 0.0, O);
        b.outputs = if steps { vec![new, sum] } else { vec![old, zero] };
        Arc::new(b)
    };
    g.cond_results(p, branch(true), branch(false), &[w, w, x], O)
}

fn with_pred(g: &Graph, holds: bool) -> Vec<Tensor> {
    let mut given = inputs(g);
    given[0] = Tensor::from_f64(DType::Bool, &[], &[f64::from(holds)]);
    given
}

/// Copies into and out of inputs that run if the conditionals they stand in go this way.
fn copies(plan: &Plan, code: &[Instr], holds: bool) -> usize {
    code.iter()
        .map(|i| match i {
            Instr::Copy { bytes, .. } if *bytes > 64 => 1,
            Instr::Cond { pred, then, otherwise } => {
                let given = matches!(plan.buffers[pred.buffer].place, Place::Input(0));
                // What is undone after a failed guard does not count.
                if given { copies(plan, if holds { then } else { otherwise }, holds) } else { 0 }
            }
            _ => 0,
        })
        .sum()
}

#[test]
fn a_branch_that_leaves_an_array_alone_copies_nothing() {
    let mut g = Graph::new();
    let p = pred(&mut g);
    let (w, x) = (input(&mut g, &[300]), input(&mut g, &[300]));
    g.outputs = sometimes(&mut g, p, w, x);
    let config = Config { alias: vec![(0, 1)], ..Config::default() };
    for holds in [true, false] {
        let planned = check_with(&g, &config, &with_pred(&g, holds));
        assert_eq!(copies(&planned.plan, &planned.plan.code, holds), 0, "{}", text(&planned));
    }
}

#[test]
fn a_failed_guard_brings_back_what_a_conditional_has_changed() {
    let mut g = Graph::new();
    let p = pred(&mut g);
    let (w, x) = (input(&mut g, &[300]), input(&mut g, &[300]));
    g.outputs = sometimes(&mut g, p, w, x);
    let config = Config { alias: vec![(0, 1)], guards: vec![1], ..Config::default() };
    let planned = plan(&g, &config);
    for holds in [true, false] {
        check_with(&g, &config, &with_pred(&g, holds));
        // The old values are saved where they change.
        assert_eq!(copies(&planned.plan, &planned.plan.code, holds), usize::from(holds), "{}", text(&planned));
    }
    // The code that undoes it runs: make the guard of the plan the only thing that differs.
    let mut bad = with_pred(&g, true);
    bad[2].set_f64(3, f64::INFINITY);
    bad[1].set_f64(3, 0.0);
    let before = bad[1].clone();
    let mut undone = planned.clone();
    // Without its end the run hands memory back.
    undone.plan.code.retain(|i| !matches!(i, Instr::Guard { .. }));
    assert_eq!(
        reference::run(&planned, &mut bad.clone()),
        Err(reference::Fault::Reported(optc_abi::plan::Status { code: status::NOT_FINITE, origin: -1, index: 0, extent: 0 }))
    );
    let loss = reference::run(&undone, &mut bad).expect("runs");
    assert!(loss[0].get_f64(0).is_nan());
    assert_eq!(bad[1], before);
}

#[test]
fn readers_of_the_old_array_come_first() {
    // Someone else reads w, before and after: what a conditional overwrites must wait, or be given up.
    let mut g = Graph::new();
    let p = pred(&mut g);
    let (w, x) = (input(&mut g, &[300]), input(&mut g, &[300]));
    let results = sometimes(&mut g, p, w, x);
    let old = map(&mut g, ScalarOp::Mul, &[w, x]);
    let late = map(&mut g, ScalarOp::Mul, &[results[0], w]);
    let (a, b) = (g.reduce(ReduceOp::Sum, old, &[0], O), g.reduce(ReduceOp::Sum, late, &[0], O));
    g.outputs = vec![results[0], results[1], a, b];
    for guards in [vec![], vec![1], vec![2], vec![1, 3]] {
        for holds in [true, false] {
            check_with(&g, &Config { alias: vec![(0, 1)], guards: guards.clone(), ..Config::default() }, &with_pred(&g, holds));
        }
    }
}

#[test]
fn arrays_that_change_places() {
    let mut g = Graph::new();
    let p = pred(&mut g);
    let (a, b) = (input(&mut g, &[50]), input(&mut g, &[50]));
    let branch = |swap: bool| {
        let mut s = Graph::new();
        let (a, b) = (input(&mut s, &[50]), input(&mut s, &[50]));
        s.outputs = if swap { vec![b, a] } else { vec![a, b] };
        Arc::new(s)
    };
    g.outputs = g.cond_results(p, branch(true), branch(false), &[a, b], O);
    for holds in [true, false] {
        check_with(&g, &Config { alias: vec![(0, 1), (1, 2)], ..Config::default() }, &with_pred(&g, holds));
    }
}

/// `w - x` in place of w, by a kernel, a product, in a loop, under a condition.
fn written(kind: &str, n: usize, dtype: DType) -> Graph {
    let mut g = Graph::new();
    let p = pred(&mut g);
    let shape: Vec<usize> = if kind == "product" { vec![n, n] } else { vec![n] };
    let w = g.input("w", Ty::new(dtype, shape.iter().copied()), O);
    let x = g.input("x", Ty::new(dtype, shape.iter().copied()), O);
    let out = match kind {
        "product" => {
            let dims = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
            g.dot(w, x, dims, O)
        }
        "loop" => {
            let mut b = Graph::new();
            let _ = b.input("i", Ty::scalar(DType::I32), O);
            let w = b.input("w", Ty::new(dtype, [n]), O);
            let x = b.input("x", Ty::new(dtype, [n]), O);
            b.outputs = vec![b.map(ScalarOp::Sub, &[w, x], O)];
            let op = optc_ir::graph::LoopOp { trip: Some(3), reverse: false, carried: 1, scanned: 0, guard: None, body: Arc::new(b) };
            g.loop_results(op, &[w, x], O)[0]
        }
        "cond" => sometimes(&mut g, p, w, x)[0],
        _ => g.map(ScalarOp::Sub, &[w, x], O),
    };
    g.outputs = vec![out];
    g
}

#[test]
fn what_is_written_is_watched() {
    for (kind, n, dtype) in [
        ("kernel", 40_000, DType::F32),
        ("kernel", 5, DType::F32),
        ("kernel", 700, DType::F64),
        ("kernel", 700, DType::BF16),
        ("kernel", 700, DType::F16),
        ("product", 20, DType::F32),
        ("loop", 300, DType::F32),
        ("cond", 300, DType::F32),
    ] {
        let g = written(kind, n, dtype);
        let config = Config { alias: vec![(0, 1)], watch: vec![0], ..Config::default() };
        let planned = check_with(&g, &config, &with_pred(&g, true));
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for at in [0, n - 1] {
                let mut bad = with_pred(&g, true);
                bad[2].set_f64(at, value);
                assert!(!interpret(&g, &bad).expect("interpreted")[0].to_f64().iter().all(|x| x.is_finite()));
                let Err(reference::Fault::Reported(found)) = reference::run(&planned, &mut bad) else {
                    panic!("{kind} {dtype}: {value} at {at} is not noticed\n{}", text(&planned))
                };
                assert_eq!(found.origin, optc_abi::plan::WRITTEN_ORIGIN as i32, "{kind}");
            }
        }
        // Nothing else is there for it where a kernel writes the array.
        let plain = plan(&g, &Config { watch: Vec::new(), ..config });
        let more = usize::from(kind == "product");
        assert_eq!(counts(&planned).1, counts(&plain).1 + more, "{kind}\n{}", text(&planned));
    }
}

#[test]
fn a_branch_that_does_not_write_is_not_looked_at() {
    let g = written("cond", 300, DType::F32);
    let planned = plan(&g, &Config { alias: vec![(0, 1)], watch: vec![0], ..Config::default() });
    let mut given = with_pred(&g, false);
    given[2].set_f64(0, f64::NAN);
    assert!(reference::run(&planned, &mut given).is_ok());
}
