//! Every array operation.

use super::{Build, Noise, O, check, gradient, ints, one, vector};
use optc_abi::plan::{ConvDims, ConvKind};
use optc_abi::{DType, Tensor};
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, DotDims, Graph, NodeId, Op, ReduceOp, ScatterMode};

/// Checks `op` on one input, composed with a square so that second derivatives are not all zero.
fn unary(shape: &[usize], build: impl Fn(&mut Graph, NodeId) -> NodeId) {
    let mut b = Build::new();
    let x = b.input(shape);
    let square = b.g.map(ScalarOp::Mul, &[x, x], O);
    let z = build(&mut b.g, square);
    let f = b.finish(&[z]);
    check(&f, &[0], &[Noise::new(3).tensor(shape, 0.2, 1.5)]);
}

#[test]
fn movement() {
    unary(&[2, 3], |g, x| g.reshape(x, &[3, 2], O));
    unary(&[2, 1, 3], |g, x| g.broadcast(x, &[0, 2, 3], &[2, 4, 5, 3], O));
    unary(&[2, 3, 4], |g, x| g.permute(x, &[2, 0, 1], O));
    unary(&[7, 5], |g, x| g.slice(x, &[1, 0], &[6, 5], &[2, 3], O));
    unary(&[3, 2], |g, x| g.op(Op::Flip { axes: [0].as_slice().into() }, &[x], O));
    unary(&[3, 2], |g, x| g.concat(&[x, x], 0, O));
    unary(&[4], |g, x| g.slice(x, &[2], &[2], &[1], O));
}

#[test]
fn padding_and_its_value() {
    let mut b = Build::new();
    let (x, v) = (b.input(&[3, 2]), b.input(&[]));
    let square = b.g.map(ScalarOp::Mul, &[v, v], O);
    let sine = b.g.map(ScalarOp::Sin, &[x], O);
    let z = b.g.pad(sine, square, &[1, 0], &[2, 1], &[2, 1], O);
    let f = b.finish(&[z]);
    let mut noise = Noise::new(8);
    let at = [noise.tensor(&[3, 2], -1.0, 1.0), noise.tensor(&[], 0.5, 1.0)];
    check(&f, &[0, 1], &at);
    check(&f, &[1], &at);
}

#[test]
fn windows_short_long_and_without_overlap() {
    for (n, size, stride, dilation) in
        [(8, 2, 2, 1), (9, 4, 4, 1), (9, 3, 2, 2), (6, 3, 1, 1), (40, 20, 3, 1), (7, 1, 3, 1), (45, 18, 5, 2)]
    {
        unary(&[2, n], |g, x| g.op(Op::Window { axis: 1, size, stride, dilation }, &[x], O));
    }
}

#[test]
fn joins_of_different_parts() {
    let mut b = Build::new();
    let (x, y) = (b.input(&[2, 3]), b.input(&[2, 2]));
    let fixed = b.g.splat(&optc_ir::Ty::new(DType::F64, [2, 1]), 4.0, O);
    let sine = b.g.map(ScalarOp::Sin, &[y], O);
    let z = b.g.concat(&[x, fixed, sine, x], 1, O);
    let f = b.finish(&[z]);
    let mut noise = Noise::new(9);
    let at = [noise.tensor(&[2, 3], -1.0, 1.0), noise.tensor(&[2, 2], -1.0, 1.0)];
    check(&f, &[0, 1], &at);
    check(&f, &[1], &at);
}

#[test]
fn split_parts_with_gaps_and_overlaps() {
    for ranges in [&[(0, 2), (2, 5)][..], &[(4, 6), (1, 3)], &[(0, 4), (2, 6)], &[(0, 0), (1, 6)]] {
        let mut b = Build::new();
        let x = b.input(&[2, 6]);
        let square = b.g.map(ScalarOp::Mul, &[x, x], O);
        let parts: Vec<NodeId> = ranges.iter().map(|&(from, to)| b.g.slice_axis(square, 1, from, to, O)).collect();
        let f = b.finish(&parts);
        check(&f, &[0], &[Noise::new(1).tensor(&[2, 6], -1.0, 1.0)]);
    }
}

#[test]
fn reductions() {
    for axes in [&[0][..], &[1], &[0, 2], &[0, 1, 2]] {
        for kind in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
            unary(&[2, 3, 2], |g, x| g.reduce(kind, x, axes, O));
        }
    }
}

#[test]
fn products_with_zeros_have_exact_slopes() {
    let product = |x: &[f64]| {
        let mut b = Build::new();
        let node = b.input(&[x.len()]);
        let z = b.g.reduce(ReduceOp::Prod, node, &[0], O);
        gradient(&b.finish(&[z]), &[0], &[vector(x)], &[one()]).remove(0)
    };
    assert_eq!(product(&[2.0, 0.0, 5.0]), [0.0, 10.0, 0.0]);
    assert_eq!(product(&[0.0, 3.0, 0.0]), [0.0, 0.0, 0.0]);
    assert_eq!(product(&[7.0]), [1.0]);
}

#[test]
fn extremes_share_among_ties() {
    let mut b = Build::new();
    let x = b.input(&[2, 3]);
    let z = b.g.reduce(ReduceOp::Max, x, &[1], O);
    let f = b.finish(&[z]);
    let at = Tensor::from_f64(DType::F64, &[2, 3], &[1.0, 4.0, 4.0, 2.0, 2.0, 2.0]);
    let third = 1.0 / 3.0;
    assert_eq!(gradient(&f, &[0], &[at], &[vector(&[1.0, 1.0])]), [[0.0, 0.5, 0.5, third, third, third]]);
}

#[test]
fn empty_arrays() {
    for kind in [ReduceOp::Sum, ReduceOp::Prod] {
        unary(&[0, 2], |g, x| g.reduce(kind, x, &[0], O));
    }
    for kind in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max] {
        unary(&[0, 2], |g, x| g.op(Op::Scan { kind, axis: 0, reverse: false }, &[x], O));
    }
    let mut b = Build::new();
    let x = b.input(&[0]);
    let z = b.g.reduce(ReduceOp::Max, x, &[0], O);
    assert_eq!(gradient(&b.finish(&[z]), &[0], &[vector(&[])], &[one()]), [[0.0; 0]]);
}

#[test]
fn running_combinations() {
    for kind in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
        for reverse in [false, true] {
            unary(&[5], |g, x| g.op(Op::Scan { kind, axis: 0, reverse }, &[x], O));
            unary(&[2, 4, 2], |g, x| g.op(Op::Scan { kind, axis: 1, reverse }, &[x], O));
        }
    }
}

#[test]
fn running_products_with_zeros() {
    let mut b = Build::new();
    let x = b.input(&[4]);
    let z = b.g.op(Op::Scan { kind: ReduceOp::Prod, axis: 0, reverse: false }, &[x], O);
    let f = b.finish(&[z]);
    let found = gradient(&f, &[0], &[vector(&[2.0, 0.0, 3.0, 5.0])], &[vector(&[1.0, 1.0, 1.0, 1.0])]);
    assert_eq!(found, [[1.0, 2.0 + 6.0 + 30.0, 0.0, 0.0]]);
}

fn two(f: impl Fn(&mut Graph, NodeId, NodeId) -> NodeId, a: &[usize], b: &[usize]) {
    let mut build = Build::new();
    let (x, y) = (build.input(a), build.input(b));
    let sine = build.g.map(ScalarOp::Sin, &[x], O);
    let z = f(&mut build.g, sine, y);
    let f = build.finish(&[z]);
    let mut noise = Noise::new(4);
    let at = [noise.tensor(a, -1.0, 1.0), noise.tensor(b, -1.0, 1.0)];
    check(&f, &[0, 1], &at);
    check(&f, &[1], &at);
}

#[test]
fn matrix_products_in_every_axis_order() {
    let axes = |a: &[usize]| -> Axes { a.into() };
    let cases: [(&[usize], &[usize], [&[usize]; 4]); 8] = [
        (&[2, 3], &[3, 4], [&[], &[], &[1], &[0]]),
        (&[3, 2], &[4, 3], [&[], &[], &[0], &[1]]),
        (&[3, 2], &[3, 4], [&[], &[], &[0], &[0]]),
        (&[3], &[3], [&[], &[], &[0], &[0]]),
        (&[2], &[3], [&[], &[], &[], &[]]),
        (&[5, 2, 3], &[4, 3, 5], [&[0], &[2], &[2], &[1]]),
        (&[2, 5, 3, 2], &[2, 3, 4, 5], [&[1], &[3], &[0, 2], &[0, 1]]),
        (&[2, 3, 4], &[4, 2, 3], [&[2, 0], &[0, 1], &[1], &[2]]),
    ];
    for (a, b, [lb, rb, lc, rc]) in cases {
        let dims = DotDims { lhs_batch: axes(lb), rhs_batch: axes(rb), lhs_contract: axes(lc), rhs_contract: axes(rc) };
        two(|g, x, y| g.dot(x, y, dims.clone(), O), a, b);
    }
    // Contracted axes paired in another order than they have in the operands.
    let dims = DotDims { lhs_contract: axes(&[0, 2]), rhs_contract: axes(&[2, 0]), ..DotDims::default() };
    two(|g, x, y| g.dot(x, y, dims.clone(), O), &[2, 5, 3], &[3, 4, 2]);
}

#[test]
fn a_product_of_a_matrix_with_itself() {
    unary(&[3, 3], |g, x| {
        let dims = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
        g.dot(x, x, dims, O)
    });
}

#[test]
fn convolutions_and_their_transposes() {
    let dims = |groups, stride: [usize; 2], dilation: [usize; 2], output: [usize; 2]| ConvDims {
        batch: 2,
        in_channels: 2,
        out_channels: 4,
        groups,
        input: vec![5, 4],
        filter: vec![3, 2],
        output: output.to_vec(),
        stride: stride.to_vec(),
        dilation: dilation.to_vec(),
        pad_lo: vec![1, 0],
        pad_hi: vec![1, 1],
    };
    for d in [dims(1, [1, 1], [1, 1], [5, 4]), dims(2, [2, 1], [1, 2], [3, 3])] {
        let (x, w, y) = optc_ir::infer::conv_shapes(&d);
        for (kind, a, b) in [(ConvKind::Forward, &x, &w), (ConvKind::InputGrad, &y, &w), (ConvKind::FilterGrad, &x, &y)] {
            two(|g, l, r| g.op(Op::Conv { kind, dims: d.clone() }, &[l, r], O), a, b);
        }
    }
}

#[test]
fn gathered_rows() {
    for axis in 0..2 {
        let mut b = Build::new();
        let (x, ids) = (b.input(&[3, 4]), b.int_input(&[2, 2]));
        let sine = b.g.map(ScalarOp::Sin, &[x], O);
        let z = b.g.gather(sine, ids, axis, O);
        let f = b.finish(&[z]);
        check(&f, &[0], &[Noise::new(2).tensor(&[3, 4], -1.0, 1.0), ints(&[2, 2], &[2, 0, 2, 1])]);
    }
}

#[test]
fn scattered_rows() {
    for mode in [ScatterMode::Add, ScatterMode::Set] {
        for (axis, shape, ids, updates) in [(0, [3, 2], &[3][..], &[3, 2][..]), (1, [2, 3], &[2, 2], &[2, 2, 2]), (0, [3, 2], &[], &[2])] {
            let mut b = Build::new();
            let (x, i, u) = (b.input(&shape), b.int_input(ids), b.input(updates));
            let (sine, square) = (b.g.map(ScalarOp::Sin, &[x], O), b.g.map(ScalarOp::Mul, &[u, u], O));
            let z = b.g.scatter(sine, i, square, axis, mode, O);
            let f = b.finish(&[z]);
            let mut noise = Noise::new(6);
            let n: usize = ids.iter().product();
            let at = [noise.tensor(&shape, -1.0, 1.0), ints(ids, &[1, 0, 1, 2][..n]), noise.tensor(updates, -1.0, 1.0)];
            check(&f, &[0, 2], &at);
            check(&f, &[0], &at);
            check(&f, &[2], &at);
        }
    }
}

#[test]
fn stopped_gradients_and_indices_give_zero() {
    let mut b = Build::new();
    let x = b.input(&[3]);
    let still = b.g.op(Op::StopGradient, &[x], O);
    let z = b.g.map(ScalarOp::Mul, &[x, still], O);
    let best = b.g.op(Op::ArgReduce { max: true, axis: 0 }, &[x], O);
    let order = b.g.op(Op::ArgSort { axis: 0, descending: false }, &[x], O);
    let sorted = b.g.gather(x, order, 0, O);
    let f = b.finish(&[z, best, sorted]);
    let at = vector(&[3.0, 1.0, 2.0]);
    let found = gradient(&f, &[0], &[at], &[vector(&[1.0, 1.0, 1.0]), vector(&[10.0, 20.0, 30.0])]);
    assert_eq!(found, [[33.0, 11.0, 22.0]]);
}

#[test]
fn unrelated_inputs_get_zeros() {
    let mut b = Build::new();
    let (x, _) = (b.input(&[2]), b.input(&[3]));
    let f = b.finish(&[x]);
    assert_eq!(gradient(&f, &[1, 0], &[vector(&[1.0, 2.0]), vector(&[1.0; 3])], &[vector(&[5.0, 6.0])]), [vec![0.0; 3], vec![5.0, 6.0]]);
    check(&f, &[0, 1], &[vector(&[1.0, 2.0]), vector(&[1.0; 3])]);
}
