//! Which products are known to be symmetric: the reference mirrors those, so a wrong claim shows in the numbers too.

mod common;
use common::{O, check, input, map, text, with};
use optc_abi::DType;
use optc_abi::plan::Instr;
use optc_ir::graph::{DotDims, ReduceOp};
use optc_ir::{Graph, NodeId, ScalarOp};

const N: usize = 50;

/// The product that contracts these axes of its operands, over so many batch axes in front.
fn dot(g: &mut Graph, a: NodeId, b: NodeId, contract: (usize, usize), batch: usize) -> NodeId {
    let axes = |n: usize| (0..n).collect();
    let dims = DotDims {
        lhs_batch: axes(batch),
        rhs_batch: axes(batch),
        lhs_contract: [contract.0][..].into(),
        rhs_contract: [contract.1][..].into(),
    };
    g.dot(a, b, dims, O)
}

/// Plans and runs the graph; says of its products, in order, whether they are known to be symmetric.
fn flags(g: &Graph) -> Vec<bool> {
    let planned = check(g);
    let mut found = Vec::new();
    planned.plan.walk(&mut |instr| {
        if let Instr::Gemm(gemm) = instr {
            found.push(gemm.symmetric);
        }
    });
    assert!(!found.is_empty(), "{}", text(&planned));
    found
}

/// What the products of a function of one or two matrices are known to be.
fn of(shapes: [&[usize]; 2], make: impl Fn(&mut Graph, NodeId, NodeId) -> NodeId) -> Vec<bool> {
    let mut g = Graph::new();
    // Small numbers, so that sums of products of products stay near 1.
    let [x, y] = shapes.map(|shape| {
        let x = input(&mut g, shape);
        with(&mut g, ScalarOp::Mul, x, 0.1)
    });
    let out = make(&mut g, x, y);
    g.outputs = vec![out];
    flags(&g)
}

fn eye(g: &mut Graph) -> NodeId {
    let (rows, cols) = (g.iota(DType::I32, &[N, N], 0, O), g.iota(DType::I32, &[N, N], 1, O));
    let same = map(g, ScalarOp::Eq, &[rows, cols]);
    g.cast(same, DType::F32, O)
}

const TALL: [&[usize]; 2] = [&[N, 20], &[N, 20]];
const SQUARE: [&[usize]; 2] = [&[N, N], &[N, N]];

#[test]
fn a_matrix_times_its_transpose_is_symmetric() {
    assert_eq!(of(TALL, |g, x, _| dot(g, x, x, (1, 1), 0)), [true]);
    assert_eq!(of([&[20, N], &[1]], |g, x, _| dot(g, x, x, (0, 0), 0)), [true]);
    assert_eq!(of([&[3, N, 20], &[1]], |g, x, _| dot(g, x, x, (2, 2), 1)), [true]);
    let through_permute = |g: &mut Graph, x: NodeId, _: NodeId| {
        let t = g.permute(x, &[1, 0], O);
        let t = with(g, ScalarOp::Mul, t, 2.0);
        let x = with(g, ScalarOp::Mul, x, 2.0);
        dot(g, x, t, (1, 0), 0)
    };
    assert_eq!(of(TALL, through_permute), [true]);
    assert_eq!(of(TALL, |g, x, y| dot(g, x, y, (1, 1), 0)), [false]);
    assert_eq!(of(SQUARE, |g, x, _| dot(g, x, x, (1, 0), 0)), [false]);
    let scaled = |g: &mut Graph, x: NodeId, _: NodeId| {
        let twice = with(g, ScalarOp::Mul, x, 2.0);
        let squared = map(g, ScalarOp::Mul, &[x, x]);
        let first = dot(g, twice, x, (1, 1), 0);
        let second = dot(g, squared, x, (1, 1), 0);
        map(g, ScalarOp::Add, &[first, second])
    };
    assert_eq!(of(TALL, scaled), [true, false]);
}

#[test]
fn polynomials_of_symmetric_matrices_are_symmetric() {
    let newton_schulz = |g: &mut Graph, x: NodeId, _: NodeId| {
        let s = dot(g, x, x, (1, 1), 0);
        let square = dot(g, s, s, (1, 0), 0);
        let (s, square) = (with(g, ScalarOp::Mul, s, -4.775), with(g, ScalarOp::Mul, square, 2.0315));
        let p = map(g, ScalarOp::Add, &[s, square]);
        dot(g, p, x, (1, 0), 0)
    };
    assert_eq!(of(SQUARE, newton_schulz), [true, true, false]);
    let damped = |g: &mut Graph, x: NodeId, _: NodeId| {
        let s = dot(g, x, x, (1, 1), 0);
        let e = eye(g);
        let s = map(g, ScalarOp::Add, &[s, e]);
        dot(g, s, s, (0, 1), 0)
    };
    assert_eq!(of(TALL, damped), [true, true]);
    let of_sum = |g: &mut Graph, x: NodeId, _: NodeId| {
        let t = g.permute(x, &[1, 0], O);
        let s = map(g, ScalarOp::Add, &[x, t]);
        dot(g, s, s, (1, 0), 0)
    };
    assert_eq!(of(SQUARE, of_sum), [true]);
    let of_difference = |g: &mut Graph, x: NodeId, _: NodeId| {
        let t = g.permute(x, &[1, 0], O);
        let s = map(g, ScalarOp::Sub, &[x, t]);
        dot(g, s, x, (1, 0), 0)
    };
    assert_eq!(of(SQUARE, of_difference), [false]);
    // The product of two symmetric matrices is not.
    let of_two = |g: &mut Graph, x: NodeId, y: NodeId| {
        let (s, t) = (dot(g, x, x, (1, 1), 0), dot(g, y, y, (1, 1), 0));
        dot(g, s, t, (1, 0), 0)
    };
    assert_eq!(of(TALL, of_two), [true, true, false]);
    let outer = |g: &mut Graph, x: NodeId, _: NodeId| {
        let v = g.reduce(ReduceOp::Sum, x, &[1], O);
        let (rows, cols) = (g.broadcast(v, &[0], &[N, N], O), g.broadcast(v, &[1], &[N, N], O));
        let s = map(g, ScalarOp::Mul, &[rows, cols]);
        let s = with(g, ScalarOp::Add, s, 1.0);
        dot(g, s, s, (1, 0), 0)
    };
    assert_eq!(of(TALL, outer), [true]);
}

#[test]
fn weights_of_the_sum_and_congruences_keep_symmetry() {
    let weighted = |axis: usize| {
        move |g: &mut Graph, x: NodeId, w: NodeId| {
            let shape = g.ty(x).shape.to_vec();
            let w = g.broadcast(w, &[axis], &shape, O);
            let weighted = map(g, ScalarOp::Mul, &[x, w]);
            dot(g, weighted, x, (1, 1), 0)
        }
    };
    assert_eq!(of([&[N, 20], &[20]], weighted(1)), [true]);
    assert_eq!(of([&[N, 20], &[N]], weighted(0)), [false]);
    let by_unit_axis = |g: &mut Graph, x: NodeId, w: NodeId| {
        let w = g.broadcast(w, &[0, 1], &[20, N], O);
        let weighted = map(g, ScalarOp::Mul, &[w, x]);
        dot(g, x, weighted, (0, 0), 0)
    };
    assert_eq!(of([&[20, N], &[20, 1]], by_unit_axis), [true]);
    for right in [false, true] {
        let congruence = move |g: &mut Graph, x: NodeId, y: NodeId| {
            let s = dot(g, y, y, (1, 1), 0);
            if right {
                let inner = dot(g, s, x, (1, 1), 0);
                dot(g, x, inner, (1, 0), 0)
            } else {
                let inner = dot(g, x, s, (1, 0), 0);
                dot(g, inner, x, (1, 1), 0)
            }
        };
        assert_eq!(of(SQUARE, congruence), [true, false, true]);
        let batched = move |g: &mut Graph, x: NodeId, y: NodeId| {
            let s = dot(g, y, y, (2, 2), 1);
            let inner = if right { dot(g, s, x, (2, 2), 1) } else { dot(g, x, s, (2, 1), 1) };
            if right { dot(g, x, inner, (2, 1), 1) } else { dot(g, inner, x, (2, 2), 1) }
        };
        assert_eq!(of([&[2, N, 49], &[2, 49, 9]], batched), [true, false, true]);
    }
    // b s b with a b that is not symmetric.
    let other = |g: &mut Graph, x: NodeId, y: NodeId| {
        let s = dot(g, y, y, (1, 1), 0);
        let inner = dot(g, x, s, (1, 0), 0);
        dot(g, inner, x, (1, 0), 0)
    };
    assert_eq!(of(SQUARE, other), [true, false, false]);
    // b m b' with an m that is not.
    let of_any = |g: &mut Graph, x: NodeId, y: NodeId| {
        let inner = dot(g, x, y, (1, 0), 0);
        dot(g, inner, x, (1, 1), 0)
    };
    assert_eq!(of(SQUARE, of_any), [false, false]);
}

#[test]
fn products_of_bf16_stay_in_bf16() {
    let mut g = Graph::new();
    let x = input(&mut g, &[N, 20]);
    let x = g.cast(x, DType::BF16, O);
    let s = dot(&mut g, x, x, (1, 1), 0);
    let square = dot(&mut g, s, s, (1, 0), 0);
    g.outputs = vec![square];
    assert_eq!(flags(&g), [true, true]);
    check(&g).plan.walk(&mut |instr| {
        if let Instr::Gemm(gemm) = instr {
            assert_eq!(gemm.dtype, DType::BF16);
        }
    });
}
