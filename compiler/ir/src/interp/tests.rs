//! Each operation on small arrays whose results are known.

use super::*;
use crate::graph::{DotDims, ReduceOp, ScatterMode};
use crate::scalar::ScalarOp;
use optc_abi::plan::{ConvDims, ConvKind};
use std::sync::Arc;

const O: Origin = Origin { span: optc_base::Span { source: optc_base::SourceId(0), start: 3, end: 5 }, via: "" };

fn f(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_slice(shape, v)
}
fn i(shape: &[usize], v: &[i32]) -> Tensor {
    Tensor::from_slice(shape, v)
}
/// Runs a graph built on constant inputs.
fn eval(inputs: &[Tensor], build: impl FnOnce(&mut Graph, &[NodeId]) -> NodeId) -> Result<Tensor, InterpError> {
    let mut g = Graph::new();
    let ids: Vec<NodeId> =
        inputs.iter().enumerate().map(|(k, t)| g.input(format!("x{k}"), Ty::new(t.dtype, t.shape.iter().copied()), O)).collect();
    let out = build(&mut g, &ids);
    g.outputs.push(out);
    crate::verify(&g).expect("the test's graph is well formed");
    interpret(&g, inputs).map(|mut r| r.remove(0))
}
fn ok(inputs: &[Tensor], build: impl FnOnce(&mut Graph, &[NodeId]) -> NodeId) -> Tensor {
    eval(inputs, build).expect("no run-time error")
}
fn count(n: usize) -> Vec<f32> {
    (0..n).map(|v| v as f32).collect()
}

#[test]
fn movement() {
    let x = f(&[2, 3], &count(6));
    let t = ok(std::slice::from_ref(&x), |g, x| g.permute(x[0], &[1, 0], O));
    assert_eq!(t, f(&[3, 2], &[0., 3., 1., 4., 2., 5.]));
    let t = ok(std::slice::from_ref(&x), |g, x| g.slice(x[0], &[0, 0], &[2, 3], &[1, 2], O));
    assert_eq!(t, f(&[2, 2], &[0., 2., 3., 5.]));
    let t = ok(std::slice::from_ref(&x), |g, x| g.op(Op::Flip { axes: [1].into_iter().collect() }, &[x[0]], O));
    assert_eq!(t, f(&[2, 3], &[2., 1., 0., 5., 4., 3.]));
    let t = ok(&[f(&[2], &[1., 2.]), f(&[], &[9.])], |g, x| g.pad(x[0], x[1], &[1], &[0], &[2], O));
    assert_eq!(t, f(&[5], &[9., 1., 9., 9., 2.]));
    let t = ok(&[x.clone(), f(&[2, 1], &[7., 8.])], |g, x| g.concat(&[x[0], x[1]], 1, O));
    assert_eq!(t, f(&[2, 4], &[0., 1., 2., 7., 3., 4., 5., 8.]));
    let t = ok(&[f(&[5], &count(5))], |g, x| g.op(Op::Window { axis: 0, size: 2, stride: 1, dilation: 2 }, &[x[0]], O));
    assert_eq!(t, f(&[3, 2], &[0., 2., 1., 3., 2., 4.]));
    let t = ok(&[f(&[2, 1], &[1., 2.])], |g, x| g.broadcast(x[0], &[0, 2], &[2, 2, 2], O));
    assert_eq!(t, f(&[2, 2, 2], &[1., 1., 1., 1., 2., 2., 2., 2.]));
    let t = ok(&[], |g, _| g.iota(DType::I32, &[2, 3], 1, O));
    assert_eq!(t, i(&[2, 3], &[0, 1, 2, 0, 1, 2]));
}

#[test]
fn reductions_scans_and_searches() {
    let nan = f32::NAN;
    let x = f(&[2, 3], &[1., 5., 2., 4., nan, 6.]);
    let t = ok(std::slice::from_ref(&x), |g, x| g.reduce(ReduceOp::Max, x[0], &[1], O));
    assert!(t.get_f64(0) == 5. && t.get_f64(1).is_nan());
    assert_eq!(ok(std::slice::from_ref(&x), |g, x| g.op(Op::ArgReduce { max: true, axis: 1 }, &[x[0]], O)), i(&[2], &[1, 1]));
    assert_eq!(ok(std::slice::from_ref(&x), |g, x| g.op(Op::ArgReduce { max: false, axis: 0 }, &[x[0]], O)), i(&[3], &[0, 1, 0]));
    assert_eq!(
        ok(std::slice::from_ref(&x), |g, x| g.op(Op::ArgSort { axis: 1, descending: false }, &[x[0]], O)),
        i(&[2, 3], &[0, 2, 1, 0, 2, 1])
    );
    assert_eq!(ok(&[x], |g, x| g.op(Op::ArgSort { axis: 1, descending: true }, &[x[0]], O)), i(&[2, 3], &[1, 2, 0, 1, 2, 0]));
    let t = ok(&[f(&[2, 2], &[1., 2., 3., 4.])], |g, x| g.op(Op::Scan { kind: ReduceOp::Sum, axis: 0, reverse: true }, &[x[0]], O));
    assert_eq!(t, f(&[2, 2], &[4., 6., 3., 4.]));
    assert_eq!(ok(&[f(&[0, 2], &[])], |g, x| g.reduce(ReduceOp::Prod, x[0], &[0], O)), f(&[2], &[1., 1.]));
    assert_eq!(ok(&[i(&[0], &[])], |g, x| g.reduce(ReduceOp::Max, x[0], &[0], O)), i(&[], &[i32::MIN]));
    assert_eq!(ok(&[f(&[2, 3], &count(6))], |g, x| g.reduce(ReduceOp::Sum, x[0], &[0], O)), f(&[3], &[3., 5., 7.]));
}

#[test]
fn gather_and_scatter_check_their_indices() {
    let x = f(&[3, 2], &count(6));
    let t = ok(&[x.clone(), i(&[2], &[2, 0])], |g, x| g.gather(x[0], x[1], 0, O));
    assert_eq!(t, f(&[2, 2], &[4., 5., 0., 1.]));
    let t = ok(&[x.clone(), i(&[2, 1], &[1, 1])], |g, x| g.gather(x[0], x[1], 1, O));
    assert_eq!(t, f(&[3, 2, 1], &[1., 1., 3., 3., 5., 5.]));
    let e = eval(&[x.clone(), i(&[1], &[3])], |g, x| g.gather(x[0], x[1], 0, O)).unwrap_err();
    assert_eq!((e.message.as_str(), e.origin), ("index 3 is out of range 0..3", O));
    let add = |mode| ok(&[f(&[2], &[1., 1.]), i(&[2], &[1, 1]), f(&[2], &[5., 7.])], |g, x| g.scatter(x[0], x[1], x[2], 0, mode, O));
    assert_eq!(add(ScatterMode::Add), f(&[2], &[1., 13.]));
    assert_eq!(add(ScatterMode::Set), f(&[2], &[1., 7.]));
}

#[test]
fn products() {
    let (a, b) = (f(&[2, 3, 2], &count(12)), f(&[2, 2, 3], &count(12)));
    let dims = DotDims { lhs_batch: [0][..].into(), rhs_batch: [1][..].into(), lhs_contract: [1][..].into(), rhs_contract: [2][..].into() };
    let got = ok(&[a.clone(), b.clone()], |g, x| g.dot(x[0], x[1], dims, O));
    let (a, b) = (a.as_slice::<f32>(), b.as_slice::<f32>());
    let mut want = Vec::new();
    for n in 0..2 {
        for i in 0..2 {
            for j in 0..2 {
                want.push((0..3).map(|k| a[n * 6 + k * 2 + i] * b[j * 6 + n * 3 + k]).sum::<f32>());
            }
        }
    }
    assert_eq!(got, f(&[2, 2, 2], &want));
}

fn geometry() -> ConvDims {
    ConvDims {
        batch: 2,
        in_channels: 4,
        out_channels: 6,
        groups: 2,
        input: vec![5, 4],
        filter: vec![3, 2],
        output: vec![3, 4],
        stride: vec![2, 1],
        dilation: vec![1, 2],
        pad_lo: vec![1, 1],
        pad_hi: vec![1, 1],
    }
}

/// <y', conv(x, w)> = <x, input_grad(y', w)> = <w, filter_grad(x, y')>, and a value computed by hand.
#[test]
fn convolutions_are_transposes_of_each_other() {
    let d = geometry();
    let (xs, ws, ys) = crate::infer::conv_shapes(&d);
    let fill = |shape: &[usize], seed: usize| {
        f(shape, &(0..shape.iter().product()).map(|k| ((k * 37 + seed) % 11) as f32 - 5.).collect::<Vec<_>>())
    };
    let (x, w, y) = (fill(&xs, 1), fill(&ws, 2), fill(&ys, 3));
    let run = |kind, a: &Tensor, b: &Tensor| ok(&[a.clone(), b.clone()], |g, v| g.op(Op::Conv { kind, dims: d.clone() }, &[v[0], v[1]], O));
    let inner = |a: &Tensor, b: &Tensor| a.to_f64().iter().zip(b.to_f64()).map(|(a, b)| a * b).sum::<f64>();
    let forward = run(ConvKind::Forward, &x, &w);
    let product = inner(&y, &forward);
    assert_ne!(product, 0.0);
    assert_eq!(product, inner(&x, &run(ConvKind::InputGrad, &y, &w)));
    assert_eq!(product, inner(&w, &run(ConvKind::FilterGrad, &x, &y)));
    // y[1, 2, 1, 4]: group 1, rows 3..6 (5 is padding), columns 0 and 2.
    let at = |t: &Tensor, shape: &[usize], index: &[usize]| t.get_f64(index.iter().zip(shape).fold(0, |place, (i, n)| place * n + i));
    let mut want = 0.0;
    for (row, k) in [(3, 0), (4, 1)] {
        for (column, l) in [(0, 0), (2, 1)] {
            for c in 0..2 {
                want += at(&x, &xs, &[1, row, column, 2 + c]) * at(&w, &ws, &[k, l, c, 4]);
            }
        }
    }
    assert_eq!(at(&forward, &ys, &[1, 2, 1, 4]), want);
}

#[test]
fn conversions() {
    let t = ok(&[f(&[4], &[2.7, -2.7, f32::NAN, 1e20])], |g, x| g.cast(x[0], DType::I32, O));
    assert_eq!(t, i(&[4], &[2, -2, 0, i32::MAX]));
    let t = ok(&[i(&[2], &[0, -3])], |g, x| g.cast(x[0], DType::Bool, O));
    assert_eq!(t.bytes(), [0, 1]);
    let t = ok(&[f(&[2], &[-1.0, 1.5])], |g, x| g.op_as(Op::Bitcast, &[x[0]], Ty::new(DType::I32, [2]), O));
    assert_eq!(t, i(&[2], &[(-1.0f32).to_bits() as i32, 1.5f32.to_bits() as i32]));
    let t = ok(&[f(&[1], &[1.0 + 1.0 / 512.0])], |g, x| g.cast(x[0], DType::BF16, O));
    assert_eq!(t.get_f64(0), 1.0);
}

/// Carried sum and running product, stacked; forward and backward; run-time and zero trip counts.
#[test]
fn loops() {
    let build = |trip: Option<usize>, reverse: bool, scanned: usize| {
        let mut b = Graph::new();
        let counter = b.input("i", Ty::scalar(DType::I32), O);
        let carry = b.input("c", Ty::scalar(DType::F32), O);
        let row = if scanned == 1 { b.input("x", Ty::scalar(DType::F32), O) } else { b.cast(counter, DType::F32, O) };
        let scale = b.input("k", Ty::scalar(DType::F32), O);
        let scaled = b.map(ScalarOp::Mul, &[row, scale], O);
        let next = b.map(ScalarOp::Add, &[carry, scaled], O);
        b.outputs = if scanned == 1 { vec![next, next, counter] } else { vec![next] };
        LoopOp { trip, reverse, carried: 1, scanned, guard: None, body: Arc::new(b) }
    };
    let run = |op: LoopOp, inputs: &[Tensor], result: usize| ok(inputs, |g, x| g.loop_results(op, x, O)[result]);
    let args = [f(&[], &[10.]), f(&[3], &[1., 2., 3.]), f(&[], &[2.])];
    assert_eq!(run(build(Some(3), false, 1), &args, 0), f(&[], &[22.]));
    assert_eq!(run(build(Some(3), false, 1), &args, 1), f(&[3], &[12., 16., 22.]));
    assert_eq!(run(build(Some(3), true, 1), &args, 1), f(&[3], &[22., 20., 16.]));
    assert_eq!(run(build(Some(3), true, 1), &args, 2), i(&[3], &[0, 1, 2]));
    for (n, want) in [(4, 22.), (0, 10.), (-5, 10.)] {
        let args = [i(&[], &[n]), f(&[], &[10.]), f(&[], &[2.])];
        assert_eq!(run(build(None, false, 0), &args, 0), f(&[], &[want]));
    }
}

#[test]
fn a_guarded_loop_ends_by_its_flag_or_its_limit() {
    // while c < limit { c <- c + c }
    let mut b = Graph::new();
    b.input("i", Ty::scalar(DType::I32), O);
    b.input("go", Ty::scalar(DType::Bool), O);
    let c = b.input("c", Ty::scalar(DType::F32), O);
    let limit = b.input("limit", Ty::scalar(DType::F32), O);
    let next = b.map(ScalarOp::Add, &[c, c], O);
    let go = b.map(ScalarOp::Lt, &[next, limit], O);
    b.outputs = vec![go, next];
    let guard = Some(crate::graph::Guard { most: None });
    let op = LoopOp { trip: None, reverse: false, carried: 2, scanned: 0, guard, body: Arc::new(b) };
    let run = |most: i32, go: bool| {
        let go = Tensor::from_f64(DType::Bool, &[], &[f64::from(u8::from(go))]);
        ok(&[i(&[], &[most]), go, f(&[], &[1.]), f(&[], &[10.])], |g, x| g.loop_results(op.clone(), x, O)[1])
    };
    assert_eq!(run(100, true), f(&[], &[16.]));
    assert_eq!(run(2, true), f(&[], &[4.]));
    assert_eq!(run(100, false), f(&[], &[1.]));
}

#[test]
fn conditionals_run_one_branch() {
    let mut then = Graph::new();
    let x = then.input("x", Ty::new(DType::F32, [2]), O);
    let ids = then.constant(i(&[1], &[9]), O);
    let bad = then.gather(x, ids, 0, O);
    then.outputs.push(bad);
    let mut otherwise = Graph::new();
    let x = otherwise.input("x", Ty::new(DType::F32, [2]), O);
    let part = otherwise.slice_axis(x, 0, 1, 2, O);
    otherwise.outputs.push(part);
    let (then, otherwise) = (Arc::new(then), Arc::new(otherwise));
    let run = |p: bool| {
        let pred = Tensor::from_f64(DType::Bool, &[], &[f64::from(u8::from(p))]);
        eval(&[pred, f(&[2], &[1., 2.])], |g, x| g.cond_results(x[0], then.clone(), otherwise.clone(), &x[1..], O)[0])
    };
    assert_eq!(run(false).unwrap(), f(&[1], &[2.]));
    assert!(run(true).is_err());
}

#[test]
fn draws_follow_philox() {
    // The published vector of key and counter 0 (Random123, `kat_vectors`).
    let mut g = Graph::new();
    let key = g.constant(Tensor::zeros(DType::U32, &[2]), O);
    let bits = g.op_as(Op::RandomBits { start: 0 }, &[key], Ty::new(DType::U32, [4]), O);
    g.outputs = vec![bits];
    let words = interpret(&g, &[]).unwrap().remove(0);
    assert_eq!(words.as_slice::<u32>(), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
    let key = Tensor::from_slice(&[2], &[5u32, 6]);
    let t = ok(std::slice::from_ref(&key), |g, x| g.op_as(Op::RandomBits { start: 0 }, &[x[0]], Ty::new(DType::U32, [3, 2]), O));
    let (first, second) = (optc_abi::philox::philox4x32([5, 6], [0; 4]), optc_abi::philox::philox4x32([5, 6], [1, 0, 0, 0]));
    assert_eq!(t, Tensor::from_slice(&[3, 2], &[first[0], first[1], first[2], first[3], second[0], second[1]]));
    let t = ok(std::slice::from_ref(&key), |g, x| g.op_as(Op::RandomBits { start: 3 }, &[x[0]], Ty::new(DType::U32, [2]), O));
    assert_eq!(t, Tensor::from_slice(&[2], &[first[3], second[0]]));
    let t = ok(&[key, Tensor::scalar(7u32)], |g, x| g.op(Op::RandomFold { place: 3 }, &[x[0], x[1]], O));
    assert_eq!(t.as_slice::<u32>(), &optc_abi::philox::philox4x32([5, 6], [7, 3, 1, 0])[..2]);
}

#[test]
fn exact_mode_rounds_nothing() {
    let mut g = Graph::new();
    let x = g.input("x", Ty::new(DType::F32, [1]), O);
    let third = g.splat(&Ty::new(DType::F32, [1]), 3.0, O);
    let y = g.map(ScalarOp::Div, &[x, third], O);
    g.outputs.push(y);
    let exact = interpret_with(&g, &[Tensor::from_slice(&[1], &[1.0f64])], Rounding::Exact).unwrap();
    assert_eq!(exact[0], Tensor::from_slice(&[1], &[1.0f64 / 3.0]));
    assert_eq!(interpret(&g, &[f(&[1], &[1.0])]).unwrap()[0], f(&[1], &[1.0f32 / 3.0]));
    assert!(interpret(&g, &[Tensor::from_slice(&[1], &[1.0f64])]).is_err());
}
