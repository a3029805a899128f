//! Arrays that leave memory, and large updates that do not wait for the rest.

mod common;
use common::*;
use optc_abi::plan::{Instr, LibOp, Place};
use optc_ir::ScalarOp;
use optc_ir::graph::{DotDims, Graph, NodeId, Op, ReduceOp};
use optc_plan::{Config, plan};

fn swapped(g: &mut Graph, x: NodeId) -> NodeId {
    g.op(Op::Swap, &[x], O)
}

/// A chain forward, and a product of what it made backward.
fn chain(g: &mut Graph, n: usize) {
    let mut h = input(g, &[n]);
    let mut kept = Vec::new();
    for _ in 0..4 {
        h = map(g, ScalarOp::Sin, &[h]);
        // A mean: rounding does not grow.
        let whole = g.reduce(ReduceOp::Sum, h, &[0], O);
        let whole = with(g, ScalarOp::Mul, whole, 1.0 / n as f64);
        let spread = g.broadcast(whole, &[], &[n], O);
        h = map(g, ScalarOp::Sub, &[h, spread]);
        kept.push(swapped(g, h));
    }
    let mut ct = h;
    for s in kept.into_iter().rev() {
        let c = map(g, ScalarOp::Cos, &[s]);
        let p = map(g, ScalarOp::Mul, &[ct, c]);
        let whole = g.reduce(ReduceOp::Max, p, &[0], O);
        let spread = g.broadcast(whole, &[], &[n], O);
        ct = map(g, ScalarOp::Add, &[p, spread]);
    }
    g.outputs = vec![ct];
}

#[test]
fn what_leaves_comes_back_late_and_unchanged() {
    let mut g = Graph::new();
    chain(&mut g, 400_000);
    let planned = check_with(&g, &Config { swap: Some(1), ..Config::default() }, &inputs(&g));
    let mut order = Vec::new();
    for instr in &planned.plan.code {
        match instr {
            Instr::Lib { op: LibOp::SwapOut { slot, bytes }, .. } => {
                assert_eq!(*bytes, 1_600_000);
                order.push((true, *slot));
            }
            Instr::Lib { op: LibOp::SwapIn { slot, .. }, .. } => order.push((false, *slot)),
            _ => {}
        }
    }
    let wanted: Vec<(bool, usize)> = (0..4).map(|k| (true, k)).chain((0..4).rev().map(|k| (false, k))).collect();
    assert_eq!(order, wanted, "{}", text(&planned));
    // Small ones stay, and so do all where none is to leave.
    for swap in [Some(1_600_001), None] {
        let planned = check_with(&g, &Config { swap, ..Config::default() }, &inputs(&g));
        assert!(!planned.plan.code.iter().any(|i| matches!(i, Instr::Lib { .. })));
    }
}

#[test]
fn inputs_seen_through_movement_do_not_leave() {
    let mut g = Graph::new();
    let w = input(&mut g, &[40, 30]);
    let turned = g.permute(w, &[1, 0], O);
    let (a, b) = (swapped(&mut g, w), swapped(&mut g, turned));
    let a = g.permute(a, &[1, 0], O);
    let sum = map(&mut g, ScalarOp::Add, &[a, b]);
    g.outputs = vec![sum];
    let planned = check_with(&g, &Config { swap: Some(1), ..Config::default() }, &inputs(&g));
    assert!(!planned.plan.code.iter().any(|i| matches!(i, Instr::Lib { .. })), "{}", text(&planned));
}

#[test]
fn a_large_update_follows_its_gradient() {
    // Three layers of a megabyte each; gradients are products, the loss guards all writes.
    let (n, b) = (512, 8);
    let mut g = Graph::new();
    let x = input(&mut g, &[b, n]);
    let weights: Vec<NodeId> = (0..3).map(|_| input(&mut g, &[n, n])).collect();
    let dims =
        |l: usize, r: usize| DotDims { lhs_contract: [l].as_slice().into(), rhs_contract: [r].as_slice().into(), ..DotDims::default() };
    let mut hs = vec![x];
    for &w in &weights {
        let z = g.dot(hs[hs.len() - 1], w, dims(1, 0), O);
        hs.push(map(&mut g, ScalarOp::Tanh, &[z]));
    }
    let loss = g.reduce(ReduceOp::Sum, hs[3], &[0, 1], O);
    let mut ct = hs[3];
    let mut gradients = Vec::new();
    for k in (0..3).rev() {
        gradients.push((k, g.dot(hs[k], ct, dims(0, 0), O)));
        ct = g.dot(ct, weights[k], dims(1, 1), O);
    }
    gradients.sort_by_key(|(k, _)| *k);
    g.outputs = vec![loss];
    for ((_, d), &w) in gradients.iter().zip(&weights) {
        let step = with(&mut g, ScalarOp::Mul, *d, 0.1);
        let new = map(&mut g, ScalarOp::Sub, &[w, step]);
        g.outputs.push(new);
    }
    let planned = plan(&g, &Config { alias: vec![(1, 1), (2, 2), (3, 3)], guards: vec![0], ..Config::default() });
    let code = &planned.plan.code;
    let writes = |input: usize| {
        let touches = |i: &Instr| matches!(i, Instr::Kernel { calls, .. } if calls.iter().any(|c| c.buffers.iter().any(|p| planned.plan.buffers[p.buffer].place == Place::Input(input))));
        code.iter().position(touches).expect("an update")
    };
    let guard = code.iter().position(|i| matches!(i, Instr::Guard { .. })).expect("a guard");
    let last_product = code.iter().rposition(|i| matches!(i, Instr::Gemm(_))).expect("a product");
    assert!(guard < writes(3) && writes(3) < writes(2) && writes(2) < writes(1), "{}", text(&planned));
    assert!(writes(2) < last_product, "{}", optc_plan::print(&planned));
    // One gradient is alive at a time.
    assert!(planned.plan.arena_bytes < 2 * 4 * n * n, "{} bytes", planned.plan.arena_bytes);
}
