//! Batched graphs against the original run element by element.

use super::batch;
use crate::differentiate::{jvp, vjp};
use optc_abi::{DType, Tensor};
use optc_base::{SourceId, Span};
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, CallOp, DotDims, Graph, Guard, LoopOp, NodeId, Op, Origin, ReduceOp, ScatterMode, Ty};
use optc_ir::interp::interpret;
use optc_ir::verify::verify;
use std::sync::Arc;

const O: Origin = Origin { span: Span { source: SourceId(0), start: 0, end: 0 }, via: "" };
const B: usize = 3;

struct Noise(u64);

impl Noise {
    fn next(&mut self, lo: f64, hi: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        lo + (hi - lo) * ((self.0 >> 33) as f64 / (1u64 << 31) as f64)
    }
    fn tensor(&mut self, ty: &Ty, limit: f64) -> Tensor {
        let n: usize = ty.shape.iter().product();
        let values: Vec<f64> = (0..n)
            .map(|_| match ty.dtype {
                DType::F64 => self.next(0.2, 1.8),
                DType::Bool => self.next(0.0, 2.0).floor(),
                _ => self.next(0.0, limit).floor(),
            })
            .collect();
        Tensor::from_f64(ty.dtype, &ty.shape, &values)
    }
}

fn element(t: &Tensor, b: usize) -> Tensor {
    let n: usize = t.shape[1..].iter().product();
    Tensor::from_f64(t.dtype, &t.shape[1..], &t.to_f64()[b * n..(b + 1) * n])
}

/// Batches `f` for every choice of batched inputs, and compares with one run per element. Integers are below `limit`.
fn check_plain(f: &Graph, limit: f64) {
    verify(f).expect("a test graph");
    let count = f.inputs.len();
    for choice in 1..1usize << count.min(4) {
        let flags: Vec<bool> = (0..count).map(|i| choice >> i & 1 == 1).collect();
        let mut noise = Noise(choice as u64 * 77 + 5);
        let args: Vec<Tensor> = f
            .input_types()
            .iter()
            .zip(&flags)
            .map(|(ty, &on)| {
                let shape = if on { std::iter::once(B).chain(ty.shape.iter().copied()).collect() } else { ty.shape.clone() };
                noise.tensor(&Ty { dtype: ty.dtype, shape }, limit)
            })
            .collect();
        let batched = batch(f, &flags, B, &vec![true; f.outputs.len()]);
        verify(&batched.graph).unwrap_or_else(|e| panic!("{e:?} for {flags:?}"));
        let got = interpret(&batched.graph, &args).expect("a batched run");
        for b in 0..B {
            let one: Vec<Tensor> = args.iter().zip(&flags).map(|(t, &on)| if on { element(t, b) } else { t.clone() }).collect();
            let want = interpret(f, &one).expect("a run");
            for (k, (have, want)) in got.iter().zip(&want).enumerate() {
                let (x, y) = (element(have, b).to_f64(), want.to_f64());
                let near = x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= 1e-11 * (1.0 + y.abs()));
                assert!(near && x.len() == y.len(), "output {k}, element {b}, {flags:?}: {x:?} for {y:?}");
            }
        }
    }
}

/// The same for the graph and its derivatives.
fn check(f: &Graph, limit: f64) {
    check_plain(f, limit);
    let wrt: Vec<usize> = (0..f.inputs.len()).filter(|&i| f.ty(f.inputs[i].node).dtype.is_float()).collect();
    check_plain(&vjp(f, &wrt).expect("a derivative"), limit);
    check_plain(&jvp(f, &wrt).expect("a derivative"), limit);
    // And the derivative of the batched graph.
    let flags: Vec<bool> = (0..f.inputs.len()).map(|i| i % 2 == 0).collect();
    let batched = batch(f, &flags, B, &vec![true; f.outputs.len()]).graph;
    verify(&vjp(&batched, &wrt).expect("a derivative")).expect("a derivative of a batched graph");
}

fn graph(inputs: &[Ty], f: impl FnOnce(&mut Graph, &[NodeId]) -> Vec<NodeId>) -> Graph {
    let mut g = Graph::new();
    let ids: Vec<NodeId> = inputs.iter().enumerate().map(|(k, ty)| g.input(format!("x{k}"), ty.clone(), O)).collect();
    g.outputs = f(&mut g, &ids);
    g
}

fn f64s(shape: &[usize]) -> Ty {
    Ty::new(DType::F64, shape.iter().copied())
}
fn i32s(shape: &[usize]) -> Ty {
    Ty::new(DType::I32, shape.iter().copied())
}
fn axes(a: &[usize]) -> Axes {
    a.into()
}

#[test]
fn movement_and_reductions() {
    check(
        &graph(&[f64s(&[4, 3]), f64s(&[4])], |g, x| {
            let spread = g.broadcast(x[1], &[0], &[4, 3], O);
            let product = g.map(ScalarOp::Mul, &[x[0], spread], O);
            let turned = g.permute(product, &[1, 0], O);
            let flipped = g.op(Op::Flip { axes: axes(&[1]) }, &[turned], O);
            let part = g.slice(flipped, &[0, 1], &[3, 4], &[1, 2], O);
            let joined = g.concat(&[part, turned], 1, O);
            let windows = g.op(Op::Window { axis: 1, size: 2, stride: 2, dilation: 1 }, &[joined], O);
            let most = g.reduce(ReduceOp::Max, windows, &[2], O);
            let running = g.op(Op::Scan { kind: ReduceOp::Sum, axis: 1, reverse: true }, &[most], O);
            let flat = g.reshape(running, &[9], O);
            let place = g.op(Op::ArgReduce { max: false, axis: 0 }, &[flat], O);
            let total = g.reduce(ReduceOp::Prod, most, &[0, 1], O);
            let half = g.slice_axis(x[1], 0, 1, 2, O);
            let half = g.reshape(half, &[], O);
            let padded = g.pad(turned, half, &[1, 0], &[0, 2], &[0, 1], O);
            vec![flat, place, total, padded]
        }),
        0.0,
    );
}

#[test]
fn products() {
    let dims = |lb: &[usize], rb: &[usize], lc: &[usize], rc: &[usize]| DotDims {
        lhs_batch: axes(lb),
        rhs_batch: axes(rb),
        lhs_contract: axes(lc),
        rhs_contract: axes(rc),
    };
    for (a, b, d) in [
        (f64s(&[2, 3]), f64s(&[3, 4]), dims(&[], &[], &[1], &[0])),
        (f64s(&[5, 2, 3]), f64s(&[3, 4, 5]), dims(&[0], &[2], &[2], &[0])),
        (f64s(&[3]), f64s(&[3]), dims(&[], &[], &[0], &[0])),
        (f64s(&[2]), f64s(&[3]), dims(&[], &[], &[], &[])),
    ] {
        check(&graph(&[a, b], |g, x| vec![g.dot(x[0], x[1], d, O)]), 0.0);
    }
}

#[test]
fn convolutions() {
    for groups in [1, 2] {
        let dims = optc_abi::plan::ConvDims {
            batch: 2,
            in_channels: 4,
            out_channels: 2,
            groups,
            input: vec![5],
            filter: vec![3],
            output: vec![3],
            stride: vec![2],
            dilation: vec![1],
            pad_lo: vec![1],
            pad_hi: vec![1],
        };
        let f = graph(&[f64s(&[2, 5, 4]), f64s(&[3, 4 / groups, 2])], |g, x| {
            vec![g.op(Op::Conv { kind: optc_ir::graph::ConvKind::Forward, dims }, x, O)]
        });
        check(&f, 0.0);
    }
}

#[test]
fn gathers_and_scatters() {
    for axis in [0, 1] {
        let n = [5, 4][axis];
        check(&graph(&[f64s(&[5, 4, 2]), i32s(&[3, 2])], |g, x| vec![g.gather(x[0], x[1], axis, O)]), n as f64);
        for mode in [ScatterMode::Add, ScatterMode::Set] {
            let updates = if axis == 0 { f64s(&[3, 2, 4, 2]) } else { f64s(&[5, 3, 2, 2]) };
            let f = graph(&[f64s(&[5, 4, 2]), i32s(&[3, 2]), updates], |g, x| vec![g.scatter(x[0], x[1], x[2], axis, mode, O)]);
            if mode == ScatterMode::Add { check(&f, n as f64) } else { check_plain(&f, n as f64) }
        }
    }
    check(
        &graph(&[f64s(&[6, 2])], |g, x| {
            let order = g.op(Op::ArgSort { axis: 0, descending: true }, &[x[0]], O);
            let first = g.slice_axis(order, 1, 0, 1, O);
            let first = g.reshape(first, &[6], O);
            vec![g.gather(x[0], first, 0, O)]
        }),
        0.0,
    );
}

#[test]
fn an_index_out_of_range_stays_one() {
    let f = graph(&[f64s(&[4]), i32s(&[2])], |g, x| vec![g.gather(x[0], x[1], 0, O)]);
    let batched = batch(&f, &[true, true], 2, &[true]).graph;
    let x = Tensor::from_f64(DType::F64, &[2, 4], &[0.0; 8]);
    for bad in [4.0, -1.0] {
        let ids = Tensor::from_f64(DType::I32, &[2, 2], &[0.0, bad, 1.0, 2.0]);
        assert!(interpret(&batched, &[x.clone(), ids]).is_err());
    }
}

/// `x <- x * sin(x) + row`, stacking x, over rows.
fn body(scanned: bool) -> Graph {
    let mut types = vec![Ty::scalar(DType::I32), f64s(&[2]), f64s(&[2])];
    types.truncate(if scanned { 3 } else { 2 });
    types.push(f64s(&[]));
    graph(&types, |g, x| {
        let sine = g.map(ScalarOp::Sin, &[x[1]], O);
        let step = g.cast(x[0], DType::F64, O);
        let step = g.broadcast(step, &[], &[2], O);
        let factor = g.broadcast(x[x.len() - 1], &[], &[2], O);
        let next = g.map(ScalarOp::Mul, &[sine, factor], O);
        let next = g.map(ScalarOp::Add, &[next, if scanned { x[2] } else { step }], O);
        if scanned { vec![next, sine] } else { vec![next] }
    })
}

#[test]
fn loops() {
    for reverse in [false, true] {
        check(
            &graph(&[f64s(&[2]), f64s(&[4, 2]), f64s(&[])], |g, x| {
                let op = LoopOp { trip: Some(4), reverse, carried: 1, scanned: 1, guard: None, body: Arc::new(body(true)) };
                g.loop_results(op, x, O)
            }),
            0.0,
        );
        check(
            &graph(&[f64s(&[2]), i32s(&[]), f64s(&[])], |g, x| {
                let op = LoopOp { trip: None, reverse, carried: 1, scanned: 0, guard: None, body: Arc::new(body(false)) };
                g.loop_results(op, &[x[1], x[0], x[2]], O)
            }),
            5.0,
        );
    }
}

/// `while x < limit { x <- x * factor + i; n <- n + 1 }`, `most` passes at most.
fn growing(most: Option<usize>) -> Graph {
    graph(&[f64s(&[]), f64s(&[]), f64s(&[])], |g, x| {
        let lower = |g: &mut Graph, a: NodeId, b: NodeId| g.map(ScalarOp::Lt, &[a, b], O);
        let types = [Ty::scalar(DType::I32), Ty::scalar(DType::Bool), f64s(&[]), i32s(&[]), f64s(&[]), f64s(&[])];
        let body = graph(&types, |g, x| {
            let step = g.cast(x[0], DType::F64, O);
            let next = g.map(ScalarOp::Mul, &[x[2], x[4]], O);
            let next = g.map(ScalarOp::Add, &[next, step], O);
            let one = g.scalar(DType::I32, 1.0, O);
            vec![lower(g, next, x[5]), next, g.map(ScalarOp::Add, &[x[3], one], O)]
        });
        let go = lower(g, x[0], x[2]);
        let zero = g.scalar(DType::I32, 0.0, O);
        let limit = g.scalar(DType::I32, most.unwrap_or(1 << 30) as f64, O);
        let guard = Some(Guard { most });
        let op = LoopOp { trip: None, reverse: false, carried: 3, scanned: 0, guard, body: Arc::new(body) };
        g.loop_results(op, &[limit, go, x[0], zero, x[1], x[2]], O)[1..].to_vec()
    })
}

#[test]
fn loops_that_end_by_a_flag() {
    // Factors and limits are below 1.8, so some loops make no pass and some three or more.
    check(&growing(Some(6)), 0.0);
    check_plain(&growing(None), 0.0);
    check_plain(&jvp(&growing(None), &[0, 1, 2]).expect("forward mode"), 0.0);
    let refused = vjp(&growing(None), &[0, 1]).expect_err("no bound");
    assert_eq!(refused.code.0, "E0722");
}

#[test]
fn conditionals_and_what_their_sides_must_not_do() {
    // if i < 4 { a[i] * y } else { y / a[0] }, where i may be 6.
    let side = |taken: bool| {
        Arc::new(graph(&[f64s(&[4]), i32s(&[]), f64s(&[])], |g, x| {
            if taken {
                let item = g.gather(x[0], x[1], 0, O);
                vec![g.map(ScalarOp::Mul, &[item, x[2]], O)]
            } else {
                let first = g.slice_axis(x[0], 0, 0, 1, O);
                let first = g.reshape(first, &[], O);
                vec![g.map(ScalarOp::Div, &[x[2], first], O)]
            }
        }))
    };
    check(
        &graph(&[f64s(&[4]), i32s(&[]), f64s(&[])], |g, x| {
            let four = g.scalar(DType::I32, 4.0, O);
            let pred = g.map(ScalarOp::Lt, &[x[1], four], O);
            g.cond_results(pred, side(true), side(false), x, O)
        }),
        7.0,
    );
}

#[test]
fn calls_with_rules_of_their_own() {
    let f = Arc::new(graph(&[f64s(&[3]), i32s(&[]), f64s(&[])], |g, x| {
        let factor = g.broadcast(x[2], &[], &[3], O);
        let item = g.gather(x[0], x[1], 0, O);
        let y = g.map(ScalarOp::Mul, &[x[0], factor], O);
        vec![g.map(ScalarOp::Exp, &[y], O), item]
    }));
    let call: CallOp = crate::differentiate::checkpoint("c", f).expect("a call");
    check(
        &graph(&[f64s(&[3]), i32s(&[]), f64s(&[])], |g, x| {
            let node = g.op(Op::Call(call), x, O);
            (0..2).map(|k| g.result(node, k, O)).collect()
        }),
        3.0,
    );
}

#[test]
fn draws_are_those_of_each_key() {
    let f = graph(&[Ty::new(DType::U32, [2]), Ty::scalar(DType::U32)], |g, x| {
        let key = g.op_as(Op::RandomFold { place: 7 }, &[x[0], x[1]], Ty::new(DType::U32, [2]), O);
        vec![g.op_as(Op::RandomBits { start: 3 }, &[key], Ty::new(DType::U32, [2, 3]), O)]
    });
    check_plain(&f, 1000.0);
}

#[test]
fn twice() {
    let f = graph(&[f64s(&[2, 3]), f64s(&[3])], |g, x| {
        let dims = DotDims { lhs_contract: axes(&[1]), rhs_contract: axes(&[0]), ..DotDims::default() };
        vec![g.dot(x[0], x[1], dims, O)]
    });
    check(&batch(&f, &[false, true], 2, &[true]).graph, 0.0);
    check(&batch(&f, &[true, false], 2, &[true]).graph, 0.0);
}

#[test]
fn library_calls() {
    use optc_ir::graph::LibCall;
    // Far from singular: noise between 0.2 and 1.8 on a heavy diagonal.
    let heavy = |g: &mut Graph, x: NodeId| {
        let shape = g.ty(x).shape.clone();
        let [i, j] = [0, 1].map(|axis| g.iota(DType::I32, &shape, axis, O));
        let on = g.map(ScalarOp::Eq, &[i, j], O);
        let eye = g.cast(on, DType::F64, O);
        let ten = g.splat(&Ty::new(DType::F64, shape.iter().copied()), 10.0, O);
        let diagonal = g.map(ScalarOp::Mul, &[eye, ten], O);
        g.map(ScalarOp::Add, &[x, diagonal], O)
    };
    check(
        &graph(&[f64s(&[3, 3]), f64s(&[3, 2])], |g, x| {
            let a = heavy(g, x[0]);
            let l = g.op(Op::Lib(LibCall::Cholesky), &[a], O);
            let y = g.op(Op::Lib(LibCall::TriangularSolve { lower: true, transposed: true, unit: false }), &[l, x[1]], O);
            let lu = g.op(Op::Lib(LibCall::Lu), &[a], O);
            let (factors, perm) = (g.result(lu, 0, O), g.result(lu, 1, O));
            let z = g.op(Op::Lib(LibCall::LuSolve { transposed: false }), &[a, factors, perm, x[1]], O);
            let svd = g.op(Op::Lib(LibCall::Svd), &[a], O);
            vec![y, z, g.result(svd, 1, O)]
        }),
        3.0,
    );
}
