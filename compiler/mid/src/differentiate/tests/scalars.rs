//! Every row of the derivative table, and the values at kinks.

use super::{Build, Noise, check, gradient, vector};
use crate::differentiate::scalar::{constant_value, has_partial};
use crate::differentiate::vjp;
use optc_abi::DType;
use optc_ir::graph::Graph;
use optc_ir::scalar::{Class, TABLE};
use optc_ir::verify::verify;
use optc_ir::{ScalarOp, Ty};

/// A range on which each operand of an operation is smooth.
fn range(op: ScalarOp, position: usize) -> (f64, f64) {
    use ScalarOp::*;
    match (op, position) {
        (Sqrt | Rsqrt | Cbrt | Log | Log2, _) | (Pow, 0) => (0.3, 2.0),
        (Log1p, _) => (-0.5, 2.0),
        (Acosh, _) => (1.3, 3.0),
        (Asin | Acos | Atanh, _) => (-0.8, 0.8),
        (Tan, _) => (-1.0, 1.0),
        (Rem, 0) => (2.2, 2.8),
        (Rem, _) => (1.0, 1.05),
        (Div, 1) | (Abs, _) => (0.4, 2.0),
        (Min | Max, 0) => (0.0, 1.0),
        (Min | Max, _) => (0.2, 0.9),
        _ => (-1.5, 1.5),
    }
}

fn graph(op: ScalarOp, n: usize) -> Graph {
    let mut b = Build::new();
    let x: Vec<_> = (0..op.arity()).map(|_| b.input(&[n])).collect();
    let z = b.g.map(op, &x, super::O);
    b.finish(&[z])
}

#[test]
fn every_smooth_row_agrees_with_difference_quotients() {
    let mut seen = 0;
    for row in TABLE.iter().filter(|r| matches!(r.class, Class::Float | Class::Number) && has_partial(r.op, 0)) {
        let f = graph(row.op, 6);
        let mut noise = Noise::new(row.op as u64 + 1);
        let at: Vec<_> = (0..row.op.arity())
            .map(|k| {
                let (lo, hi) = range(row.op, k);
                noise.tensor(&[6], lo, hi)
            })
            .collect();
        let all: Vec<usize> = (0..at.len()).collect();
        check(&f, &all, &at);
        for k in all {
            check(&f, &[k], &at);
        }
        seen += 1;
    }
    assert!(seen >= 30, "only {seen} rows were seen");
}

#[test]
fn constant_exponents() {
    for n in [0.0, 1.0, 2.0, 3.0, 0.5, -1.5, 4.0] {
        let mut b = Build::new();
        let x = b.input(&[4]);
        let ty = b.g.ty(x).clone();
        let n = b.g.splat(&ty, n, super::O);
        let z = b.g.map(ScalarOp::Pow, &[x, n], super::O);
        let f = b.finish(&[z]);
        check(&f, &[0], &[vector(&[0.3, 0.9, 1.4, 2.0])]);
    }
}

#[test]
fn literals_are_seen_through_exact_conversions_only() {
    let mut g = Graph::new();
    let two = g.scalar(DType::I32, 2.0, super::O);
    let two = g.cast(two, DType::F64, super::O);
    assert_eq!(constant_value(&g, two), Some(2.0));
    let x = g.scalar(DType::F64, 2.7, super::O);
    let int = g.cast(x, DType::I32, super::O);
    let back = g.cast(int, DType::F64, super::O);
    assert_eq!(constant_value(&g, back), None);
}

#[test]
fn selection_passes_to_the_chosen_side() {
    let mut b = Build::new();
    let (x, y) = (b.input(&[5]), b.input(&[5]));
    let zero = b.g.splat(&b.g.ty(x).clone(), 0.0, super::O);
    let c = b.g.map(ScalarOp::Lt, &[zero, x], super::O);
    let sine = b.g.map(ScalarOp::Sin, &[x], super::O);
    let z = b.g.map(ScalarOp::Select, &[c, sine, y], super::O);
    let f = b.finish(&[z]);
    let at = [vector(&[-1.0, 2.0, 0.5, -0.3, 1.0]), vector(&[1.0, 2.0, 3.0, 4.0, 5.0])];
    check(&f, &[0, 1], &at);
    check(&f, &[0], &at);
    check(&f, &[1], &at);
}

/// Gradients of `sum(op(x, …))` in all operands at given points.
fn slopes(op: ScalarOp, x: &[&[f64]]) -> Vec<Vec<f64>> {
    let n = x[0].len();
    let f = graph(op, n);
    let all: Vec<usize> = (0..x.len()).collect();
    let at: Vec<_> = x.iter().map(|x| vector(x)).collect();
    gradient(&f, &all, &at, &[vector(&vec![1.0; n])])
}

#[test]
fn values_at_kinks() {
    use ScalarOp::*;
    assert_eq!(slopes(Abs, &[&[-2.0, 0.0, 3.0]]), [[-1.0, 0.0, 1.0]]);
    assert_eq!(slopes(Max, &[&[1.0, 2.0, 3.0], &[2.0, 2.0, 2.0]]), [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]);
    assert_eq!(slopes(Min, &[&[1.0, 2.0, 3.0], &[2.0, 2.0, 2.0]]), [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]);
    assert_eq!(slopes(Pow, &[&[0.0, 0.0, 0.0], &[0.0, 1.0, 2.0]]), [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]);
    assert_eq!(slopes(Rem, &[&[5.5, -5.5], &[2.0, 2.0]]), [[1.0, 1.0], [-2.0, 3.0]]);
    assert_eq!(slopes(Sqrt, &[&[0.0]]), [[f64::INFINITY]]);
    for op in [Sign, Floor, Ceil, Round, Trunc] {
        assert_eq!(slopes(op, &[&[0.4, -1.7]]), [[0.0, 0.0]], "{}", op.name());
    }
}

#[test]
fn saturated_sigmoids_have_finite_slopes() {
    for op in [ScalarOp::Sigmoid, ScalarOp::Softplus, ScalarOp::Tanh, ScalarOp::Erf] {
        for slope in &slopes(op, &[&[-800.0, 800.0, 0.0]])[0] {
            assert!(slope.is_finite(), "{}: {slope}", op.name());
        }
    }
}

#[test]
fn conversions_between_floats_pass_and_others_do_not() {
    let mut b = Build::new();
    let x = b.input(&[3]);
    let low = b.g.cast(x, DType::F32, super::O);
    let back = b.g.cast(low, DType::F64, super::O);
    let int = b.g.cast(x, DType::I32, super::O);
    let int = b.g.cast(int, DType::F64, super::O);
    let z = b.g.map(ScalarOp::Mul, &[back, int], super::O);
    let f = b.finish(&[z]);
    let found = gradient(&f, &[0], &[vector(&[1.5, 2.5, -3.5])], &[vector(&[1.0, 1.0, 1.0])]);
    assert_eq!(found, [[1.0, 2.0, -3.0]]);
}

#[test]
fn derivatives_keep_the_element_type() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for row in TABLE.iter().filter(|r| matches!(r.class, Class::Float | Class::Number)) {
            let mut g = Graph::new();
            let x: Vec<_> = (0..row.arity).map(|_| g.input("x", Ty::new(dtype, [2]), super::O)).collect();
            let z = g.map(row.op, &x, super::O);
            g.outputs = vec![z];
            let all: Vec<usize> = (0..x.len()).collect();
            let reverse = vjp(&g, &all).unwrap();
            verify(&reverse).unwrap();
            assert!(reverse.output_types().iter().all(|t| t.dtype == dtype), "{}", row.name);
        }
    }
}
