//! Gradients are lean: nothing is built that a person would leave out.

use super::{Build, O, check, vector};
use crate::differentiate::vjp;
use optc_abi::{DType, Tensor};
use optc_ir::ScalarOp::{Div, Eq, Exp, Log, Max, Mul, Rsqrt, Select, Sub};
use optc_ir::Ty;
use optc_ir::graph::{DotDims, Graph, NodeId, Op, ReduceOp};

/// Nodes that do work (no leaves, no movement) which the vjp has beyond the values, with only the cotangents as outputs.
fn extra_work(f: &Graph, wrt: &[usize]) -> usize {
    let count = |g: &Graph| {
        let live = g.live();
        g.ids()
            .filter(|id| {
                live[id.index()]
                    && !matches!(g.node(*id).op, Op::Input { .. } | Op::Const(_) | Op::Iota { .. } | Op::Broadcast { .. } | Op::Reshape)
            })
            .count()
    };
    count(&vjp(f, wrt).unwrap()) - count(f)
}

fn last_axis(g: &mut Graph, kind: ReduceOp, x: NodeId) -> NodeId {
    let shape = g.ty(x).shape.clone();
    let axis = shape.len() - 1;
    let reduced = g.reduce(kind, x, &[axis], O);
    g.broadcast(reduced, &(0..axis).collect::<Vec<_>>(), &shape, O)
}

#[test]
fn a_picked_logit_costs_one_selection() {
    let mut b = Build::new();
    let (x, y) = (b.input(&[3, 4]), b.int_input(&[3]));
    let iota = b.g.iota(DType::I32, &[3, 4], 1, O);
    let wide = b.g.broadcast(y, &[0], &[3, 4], O);
    let hit = b.g.map(Eq, &[iota, wide], O);
    let zero = b.g.splat(&Ty::new(DType::F64, [3, 4]), 0.0, O);
    let picked = b.g.map(Select, &[hit, x, zero], O);
    let sum = b.g.reduce(ReduceOp::Sum, picked, &[0, 1], O);
    assert_eq!(extra_work(&b.finish(&[sum]), &[0]), 1);
}

#[test]
fn softmax_costs_five_operations() {
    let mut b = Build::new();
    let x = b.input(&[2, 3]);
    let top = last_axis(&mut b.g, ReduceOp::Max, x);
    let top = b.g.op(Op::StopGradient, &[top], O);
    let low = b.g.map(Sub, &[x, top], O);
    let e = b.g.map(Exp, &[low], O);
    let sum = last_axis(&mut b.g, ReduceOp::Sum, e);
    let p = b.g.map(Div, &[e, sum], O);
    let f = b.finish(&[p]);
    check(&f, &[0], &[Tensor::from_f64(DType::F64, &[2, 3], &[0.1, 0.7, -0.4, 1.0, 0.2, 0.3])]);
    // ct / sum; p / sum, negated, times ct, summed; their sum; times e.
    assert!(extra_work(&f, &[0]) <= 7, "{}", extra_work(&f, &[0]));
}

#[test]
fn logsumexp_costs_a_division_and_a_product() {
    let mut b = Build::new();
    let x = b.input(&[2, 3]);
    let e = b.g.map(Exp, &[x], O);
    let sum = b.g.reduce(ReduceOp::Sum, e, &[1], O);
    let z = b.g.map(Log, &[sum], O);
    assert_eq!(extra_work(&b.finish(&[z]), &[0]), 2);
}

#[test]
fn layer_norm_agrees_and_stays_small() {
    let mut b = Build::new();
    let (x, w) = (b.input(&[2, 4]), b.input(&[4]));
    let quarter = b.g.splat(&Ty::new(DType::F64, [2, 4]), 0.25, O);
    let sum = last_axis(&mut b.g, ReduceOp::Sum, x);
    let mean = b.g.map(Mul, &[sum, quarter], O);
    let c = b.g.map(Sub, &[x, mean], O);
    let square = b.g.map(Mul, &[c, c], O);
    let sum = last_axis(&mut b.g, ReduceOp::Sum, square);
    let var = b.g.map(Mul, &[sum, quarter], O);
    let r = b.g.map(Rsqrt, &[var], O);
    let n = b.g.map(Mul, &[c, r], O);
    let wide = b.g.broadcast(w, &[1], &[2, 4], O);
    let y = b.g.map(Mul, &[n, wide], O);
    let f = b.finish(&[y]);
    check(
        &f,
        &[0, 1],
        &[Tensor::from_f64(DType::F64, &[2, 4], &[0.1, 0.7, -0.4, 1.0, 0.2, 0.3, 1.3, -1.0]), vector(&[1.0, 0.5, 2.0, -1.0])],
    );
    assert!(extra_work(&f, &[0, 1]) <= 20, "{}", extra_work(&f, &[0, 1]));
}

#[test]
fn a_linear_layer_transposes_nothing() {
    let mut b = Build::new();
    let (x, w) = (b.input(&[5, 3]), b.input(&[3, 2]));
    let dims = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
    let y = b.g.dot(x, w, dims, O);
    let f = b.finish(&[y]);
    assert_eq!(extra_work(&f, &[0, 1]), 2, "two products, no permutation");
    assert_eq!(extra_work(&f, &[1]), 1);
}

#[test]
fn a_three_way_split_is_joined_not_padded() {
    let mut b = Build::new();
    let x = b.input(&[2, 6]);
    let parts: Vec<NodeId> = (0..3).map(|k| b.g.slice_axis(x, 1, 2 * k, 2 * k + 2, O)).collect();
    let f = b.finish(&parts);
    let reverse = vjp(&f, &[0]).unwrap();
    assert!(reverse.ids().all(|id| !matches!(reverse.node(id).op, Op::Pad { .. } | Op::Map(_))));
}

#[test]
fn a_relu_by_selection_or_maximum() {
    let mut b = Build::new();
    let x = b.input(&[3]);
    let zero = b.g.splat(&Ty::new(DType::F64, [3]), 0.0, O);
    let z = b.g.map(Max, &[x, zero], O);
    assert!(extra_work(&b.finish(&[z]), &[0]) <= 5);
}
