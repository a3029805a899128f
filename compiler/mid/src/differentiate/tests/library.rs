//! The numerical library calls, through functions that do not depend on the choice of signs and bases.

use super::{Build, Noise, O, check, gradient};
use optc_abi::{DType, Tensor};
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, DotDims, Graph, LibCall, NodeId, Op};

fn product(g: &mut Graph, a: NodeId, b: NodeId, b_transposed: bool) -> NodeId {
    let n = g.ty(a).rank() - 2;
    let batch: Axes = (0..n).collect();
    let dims = DotDims {
        lhs_batch: batch.clone(),
        rhs_batch: batch,
        lhs_contract: Axes::from_slice(&[n + 1]),
        rhs_contract: Axes::from_slice(&[n + usize::from(b_transposed)]),
    };
    g.dot(a, b, dims, O)
}

fn results(g: &mut Graph, call: LibCall, x: &[NodeId], count: usize) -> Vec<NodeId> {
    let tuple = g.op(Op::Lib(call), x, O);
    (0..count).map(|k| g.result(tuple, k, O)).collect()
}

/// `a diag(f(v)) b`.
fn between(g: &mut Graph, a: NodeId, v: NodeId, b: NodeId, b_transposed: bool) -> NodeId {
    let f = g.map(ScalarOp::Sin, &[v], O);
    let shape = g.ty(a).shape.clone();
    let last = shape.len() - 1;
    let dims: Axes = (0..last - 1).chain([last]).collect();
    let scale = g.broadcast(f, &dims, &shape, O);
    let scaled = g.map(ScalarOp::Mul, &[a, scale], O);
    product(g, scaled, b, b_transposed)
}

/// `X X' + 1`.
fn definite(g: &mut Graph, x: NodeId) -> NodeId {
    let square = product(g, x, x, true);
    let ty = g.ty(square).clone();
    let [i, j] = [ty.rank() - 2, ty.rank() - 1].map(|axis| g.iota(DType::I32, &ty.shape, axis, O));
    let eye = g.map(ScalarOp::Eq, &[i, j], O);
    let eye = g.cast(eye, DType::F64, O);
    g.map(ScalarOp::Add, &[square, eye], O)
}

#[test]
fn cholesky() {
    for shape in [&[3usize, 3][..], &[2, 3, 3]] {
        let mut b = Build::new();
        let x = b.input(shape);
        let a = definite(&mut b.g, x);
        let l = b.g.op(Op::Lib(LibCall::Cholesky), &[a], O);
        let f = b.finish(&[l]);
        check(&f, &[0], &[Noise::new(3).tensor(shape, -1.0, 1.0)]);
    }
}

#[test]
fn only_the_lower_triangle_counts() {
    let mut b = Build::new();
    let x = b.input(&[3, 3]);
    let l = b.g.op(Op::Lib(LibCall::Cholesky), &[x], O);
    let values = results(&mut b.g, LibCall::Eigh, &[x], 2)[0];
    let f = b.finish(&[l, values]);
    check(&f, &[0], &[Tensor::from_f64(DType::F64, &[3, 3], &[3.0, 9.0, -7.0, 1.0, 4.0, 5.0, 0.5, 0.3, 2.0])]);
}

#[test]
fn triangular_solves() {
    for (lower, transposed, unit) in
        [(true, false, false), (true, true, false), (false, false, false), (false, true, true), (true, false, true), (false, true, false)]
    {
        let mut b = Build::new();
        let (x, y) = (b.input(&[2, 3, 3]), b.input(&[2, 3, 2]));
        let a = definite(&mut b.g, x);
        let z = b.g.op(Op::Lib(LibCall::TriangularSolve { lower, transposed, unit }), &[a, y], O);
        let f = b.finish(&[z]);
        let mut noise = Noise::new(4);
        let at = [noise.tensor(&[2, 3, 3], -1.0, 1.0), noise.tensor(&[2, 3, 2], -1.0, 1.0)];
        check(&f, &[0, 1], &at);
        check(&f, &[1], &at);
    }
}

#[test]
fn general_solves() {
    for transposed in [false, true] {
        let mut b = Build::new();
        let (a, y) = (b.input(&[2, 3, 3]), b.input(&[2, 3, 2]));
        let factors = results(&mut b.g, LibCall::Lu, &[a], 2);
        let z = b.g.op(Op::Lib(LibCall::LuSolve { transposed }), &[a, factors[0], factors[1], y], O);
        let f = b.finish(&[z]);
        let mut noise = Noise::new(6);
        let at = [noise.tensor(&[2, 3, 3], -1.0, 1.0), noise.tensor(&[2, 3, 2], -1.0, 1.0)];
        check(&f, &[0, 1], &at);
        check(&f, &[0], &at);
    }
}

#[test]
fn the_factors_themselves() {
    let mut b = Build::new();
    let a = b.input(&[2, 4, 4]);
    let lu = results(&mut b.g, LibCall::Lu, &[a], 1)[0];
    let f = b.finish(&[lu]);
    check(&f, &[0], &[Noise::new(9).tensor(&[2, 4, 4], -1.0, 1.0)]);
    for shape in [[4, 3], [3, 3], [3, 5]] {
        let mut b = Build::new();
        let a = b.input(&shape);
        let qr = results(&mut b.g, LibCall::Qr, &[a], 2);
        let f = b.finish(&qr);
        check(&f, &[0], &[Noise::new(9).tensor(&shape, -1.0, 1.0)]);
    }
}

#[test]
fn eigenvalues_and_vectors() {
    let mut b = Build::new();
    let a = b.input(&[2, 4, 4]);
    let e = results(&mut b.g, LibCall::Eigh, &[a], 2);
    let z = between(&mut b.g, e[1], e[0], e[1], true);
    let f = b.finish(&[e[0], z]);
    check(&f, &[0], &[Noise::new(11).tensor(&[2, 4, 4], -1.0, 1.0)]);
}

#[test]
fn singular_values_and_vectors() {
    for shape in [&[4usize, 3][..], &[3, 3], &[3, 4], &[2, 2, 3]] {
        let mut b = Build::new();
        let a = b.input(shape);
        let d = results(&mut b.g, LibCall::Svd, &[a], 3);
        let z = between(&mut b.g, d[0], d[1], d[2], false);
        let f = b.finish(&[d[1], z]);
        check(&f, &[0], &[Noise::new(12).tensor(shape, -1.0, 1.0)]);
    }
}

#[test]
fn pseudoinverses_of_any_shape_and_rank() {
    for (m, r, n) in [(4, 3, 3), (3, 3, 4), (3, 3, 3), (4, 2, 3), (3, 1, 3)] {
        let mut b = Build::new();
        let (x, y) = (b.input(&[m, r]), b.input(&[r, n]));
        let a = product(&mut b.g, x, y, false);
        let z = b.g.op(Op::Lib(LibCall::Pinv), &[a], O);
        let f = b.finish(&[z]);
        let mut noise = Noise::new(15);
        // Far from a lower rank.
        let mut near_unit = |m: usize, n: usize| {
            let values: Vec<f64> = (0..m * n).map(|at| noise.number(-0.3, 0.3) + if at / n == at % n { 1.0 } else { 0.0 }).collect();
            Tensor::from_f64(DType::F64, &[m, n], &values)
        };
        check(&f, &[0, 1], &[near_unit(m, r), near_unit(r, n)]);
    }
}

#[test]
fn transforms() {
    for inverse in [false, true] {
        let mut b = Build::new();
        let (re, im) = (b.input(&[2, 5]), b.input(&[2, 5]));
        let square = b.g.map(ScalarOp::Mul, &[re, im], O);
        let y = results(&mut b.g, LibCall::Fft { inverse }, &[square, im], 2);
        let f = b.finish(&[y[0], y[1]]);
        let mut g = f.clone();
        g.outputs = vec![y[1]];
        let mut noise = Noise::new(16);
        let at = [noise.tensor(&[2, 5], -1.0, 1.0), noise.tensor(&[2, 5], -1.0, 1.0)];
        check(&f, &[0, 1], &at);
        check(&g, &[0], &at);
    }
}

#[test]
fn equal_values_give_no_nan() {
    // The values of the identity coincide; a function of the values alone has its derivative all the same.
    let eye = Tensor::from_f64(DType::F64, &[3, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let ones = Tensor::from_f64(DType::F64, &[3], &[1.0; 3]);
    let cotangents = Tensor::from_f64(DType::F64, &[3, 3], &[1.0; 9]);
    for (call, count, values) in [(LibCall::Eigh, 2, 0), (LibCall::Svd, 3, 1)] {
        let mut b = Build::new();
        let a = b.input(&[3, 3]);
        let d = results(&mut b.g, call, &[a], count);
        let f = b.finish(&[d[values], d[count - 1]]);
        let found = gradient(&f, &[0], std::slice::from_ref(&eye), &[ones.clone(), cotangents.clone()]);
        assert_eq!(found[0], eye.to_f64(), "{call:?}");
    }
}
