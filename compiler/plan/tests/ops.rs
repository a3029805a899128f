//! Every graph operation through the planner.

mod common;
use common::{O, check, counts, inputs};
use optc_abi::plan::{ConvDims, ConvKind};
use optc_abi::{DType, Tensor};
use optc_ir::graph::{DotDims, LoopOp, ReduceOp, ScatterMode, Ty};
use optc_ir::{Graph, Op, ScalarOp};
use optc_plan::reference;
use std::sync::Arc;

fn input(g: &mut Graph, dtype: DType, shape: &[usize]) -> optc_ir::NodeId {
    let name = format!("x{}", g.inputs.len());
    g.input(name, Ty::new(dtype, shape.iter().copied()), O)
}

const F: DType = DType::F32;

#[test]
fn elementwise() {
    for shape in [&[][..], &[1], &[7], &[3, 5], &[2, 1, 4], &[0], &[3, 0]] {
        let mut g = Graph::new();
        let (a, b) = (input(&mut g, F, shape), input(&mut g, F, shape));
        let s = g.map(ScalarOp::Mul, &[a, b], O);
        let e = g.map(ScalarOp::Exp, &[s], O);
        let i = g.cast(e, DType::I32, O);
        let lt = g.map(ScalarOp::Lt, &[a, b], O);
        let sel = g.map(ScalarOp::Select, &[lt, e, a], O);
        g.outputs = vec![e, i, lt, sel];
        let planned = check(&g);
        assert!(counts(&planned).1 <= 1, "{}", common::text(&planned));
    }
}

#[test]
fn views() {
    let mut g = Graph::new();
    let x = input(&mut g, F, &[4, 6]);
    let v = input(&mut g, F, &[6]);
    let one = g.scalar(F, 1.5, O);
    let outs = [
        g.permute(x, &[1, 0], O),
        g.slice(x, &[1, 0], &[4, 6], &[2, 3], O),
        g.op(Op::Flip { axes: [1].as_slice().into() }, &[x], O),
        g.pad(x, one, &[1, 0], &[0, 2], &[1, 0], O),
        g.pad(v, one, &[2], &[1], &[2], O),
        g.reshape(x, &[2, 12], O),
        g.broadcast(v, &[1], &[3, 6, 2], O),
        g.op(Op::Window { axis: 1, size: 3, stride: 2, dilation: 1 }, &[x], O),
        g.concat(&[x, x], 0, O),
        g.concat(&[x, x], 1, O),
        g.iota(DType::I32, &[3, 4], 1, O),
        g.iota(DType::I64, &[3, 4], 0, O),
    ];
    g.outputs = outs.to_vec();
    check(&g);
}

#[test]
fn views_compose_inside_kernels() {
    let mut g = Graph::new();
    let x = input(&mut g, F, &[4, 6]);
    let y = input(&mut g, F, &[8, 3]);
    let t = g.permute(x, &[1, 0], O);
    let r = g.reshape(t, &[8, 3], O);
    let s = g.map(ScalarOp::Add, &[r, y], O);
    let f = g.op(Op::Flip { axes: [0, 1].as_slice().into() }, &[s], O);
    let q = g.reshape(f, &[2, 3, 4], O);
    let p = g.permute(q, &[2, 0, 1], O);
    let e = g.map(ScalarOp::Sin, &[p], O);
    let w = g.op(Op::Window { axis: 0, size: 2, stride: 1, dilation: 2 }, &[e], O);
    let red = g.reduce(ReduceOp::Sum, w, &[1], O);
    let odd = g.reshape(x, &[3, 8], O);
    let odd = g.permute(odd, &[1, 0], O);
    let odd = g.reshape(odd, &[6, 4], O);
    let odd = g.permute(odd, &[1, 0], O);
    let odd = g.map(ScalarOp::Mul, &[odd, x], O);
    g.outputs = vec![e, red, s, odd];
    check(&g);
}

#[test]
fn reductions() {
    for shape in [&[5][..], &[3, 4], &[2, 3, 4], &[17, 40], &[40, 17], &[1, 9], &[9, 1], &[2, 3, 2, 9]] {
        for kind in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
            let mut g = Graph::new();
            let x = input(&mut g, F, shape);
            let y = g.map(ScalarOp::Sin, &[x], O);
            for mask in 1..1 << shape.len() {
                let axes: Vec<usize> = (0..shape.len()).filter(|a| mask >> a & 1 == 1).collect();
                let r = g.reduce(kind, y, &axes, O);
                g.outputs.push(r);
            }
            check(&g);
        }
    }
}

#[test]
fn reductions_of_other_types_and_of_nothing() {
    for dtype in [DType::I32, DType::U8, DType::F64, DType::BF16, DType::F16, DType::I64, DType::U32] {
        let mut g = Graph::new();
        let x = input(&mut g, dtype, &[12, 16]);
        let e = input(&mut g, dtype, &[3, 0]);
        for axes in [&[0][..], &[1], &[0, 1]] {
            for kind in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min] {
                let r = g.reduce(kind, x, axes, O);
                let s = g.reduce(kind, e, axes, O);
                g.outputs.extend([r, s]);
            }
        }
        check(&g);
    }
    let mut g = Graph::new();
    let x = input(&mut g, DType::Bool, &[3, 20]);
    g.outputs = vec![g.reduce(ReduceOp::And, x, &[1], O), g.reduce(ReduceOp::Or, x, &[0], O)];
    check(&g);
}

#[test]
fn narrow_values_are_rounded_also_where_they_stay_in_a_kernel() {
    for dtype in [DType::BF16, DType::F16] {
        let mut g = Graph::new();
        let x = input(&mut g, dtype, &[6, 20]);
        let third = g.scalar(dtype, 1.0 / 3.0, O);
        let third = g.broadcast(third, &[], &[6, 20], O);
        let a = g.map(ScalarOp::Mul, &[x, third], O);
        let b = g.map(ScalarOp::Add, &[a, x], O);
        let m = g.reduce(ReduceOp::Sum, b, &[1], O);
        let m = g.broadcast(m, &[0], &[6, 20], O);
        let c = g.map(ScalarOp::Div, &[b, m], O);
        g.outputs = vec![g.cast(c, F, O)];
        let given = inputs(&g);
        let planned = check(&g);
        assert_eq!(counts(&planned).1, 1, "one kernel");
        let have = reference::run(&planned, &mut given.clone()).unwrap().remove(0);
        let rounded = have.cast(dtype).cast(F);
        assert_eq!(have, rounded, "results of {dtype} operations are {dtype} numbers");
        assert_eq!(have, optc_ir::interpret(&g, &given).unwrap().remove(0));
    }
}

#[test]
fn large_reductions_in_two_steps() {
    for shape in [&[40_003][..], &[300, 120], &[120, 300], &[2, 20_000]] {
        let mut g = Graph::new();
        let x = input(&mut g, F, shape);
        let y = g.map(ScalarOp::Mul, &[x, x], O);
        let all: Vec<usize> = (0..shape.len()).collect();
        g.outputs = vec![g.reduce(ReduceOp::Sum, y, &all, O), g.reduce(ReduceOp::Max, x, &[0], O)];
        if shape.len() > 1 {
            let last = g.reduce(ReduceOp::Sum, y, &[1], O);
            g.outputs.push(last);
        }
        check(&g);
    }
}

#[test]
fn searches_and_scans() {
    for shape in [&[7][..], &[3, 9], &[2, 5, 3], &[4, 20]] {
        let mut g = Graph::new();
        let x = input(&mut g, F, shape);
        let y = g.map(ScalarOp::Cos, &[x], O);
        for axis in 0..shape.len() {
            for flag in [false, true] {
                let a = g.op(Op::ArgReduce { max: flag, axis }, &[y], O);
                let s = g.op(Op::Scan { kind: ReduceOp::Sum, axis, reverse: flag }, &[y], O);
                let p = g.op(Op::Scan { kind: ReduceOp::Max, axis, reverse: flag }, &[x], O);
                let o = g.op(Op::ArgSort { axis, descending: flag }, &[y], O);
                g.outputs.extend([a, s, p, o]);
            }
        }
        check(&g);
    }
}

#[test]
fn products() {
    let cases: [(&[usize], &[usize], [&[usize]; 4]); 8] = [
        (&[9, 40], &[40, 11], [&[], &[], &[1], &[0]]),
        (&[40, 9], &[11, 40], [&[], &[], &[0], &[1]]),
        (&[3, 9, 20], &[3, 20, 11], [&[0], &[0], &[2], &[1]]),
        (&[9, 3, 20], &[11, 3, 20], [&[1], &[1], &[2], &[2]]),
        (&[4, 5, 20], &[20, 11], [&[], &[], &[2], &[0]]),
        (&[4, 5, 20], &[4, 5, 11], [&[], &[], &[0, 1], &[0, 1]]),
        (&[4, 20, 5], &[5, 7, 4], [&[], &[], &[0, 2], &[2, 0]]),
        (&[3], &[4], [&[], &[], &[], &[]]),
    ];
    for dtype in [F, DType::F64, DType::BF16] {
        for (a, b, [lb, rb, lc, rc]) in &cases {
            let mut g = Graph::new();
            let (x, y) = (input(&mut g, dtype, a), input(&mut g, dtype, b));
            let dims = DotDims { lhs_batch: (*lb).into(), rhs_batch: (*rb).into(), lhs_contract: (*lc).into(), rhs_contract: (*rc).into() };
            let d = g.dot(x, y, dims, O);
            let n = g.map(ScalarOp::Neg, &[d], O);
            g.outputs = vec![d, n];
            check(&g);
        }
    }
}

#[test]
fn products_of_views_need_no_copies() {
    let mut g = Graph::new();
    let (q, k) = (input(&mut g, F, &[2, 6, 12]), input(&mut g, F, &[2, 6, 12]));
    let heads = |g: &mut Graph, x| {
        let x = g.reshape(x, &[2, 6, 3, 4], O);
        g.permute(x, &[0, 2, 1, 3], O)
    };
    let (qh, kh) = (heads(&mut g, q), heads(&mut g, k));
    let dims = DotDims {
        lhs_batch: [0, 1].as_slice().into(),
        rhs_batch: [0, 1].as_slice().into(),
        lhs_contract: [3].as_slice().into(),
        rhs_contract: [3].as_slice().into(),
    };
    let d = g.dot(qh, kh, dims, O);
    g.outputs = vec![d];
    let planned = check(&g);
    assert_eq!(counts(&planned).0, 1, "{}", common::text(&planned));
}

#[test]
fn convolutions() {
    let dims = ConvDims {
        batch: 2,
        in_channels: 4,
        out_channels: 6,
        groups: 2,
        input: vec![5, 4],
        filter: vec![3, 2],
        output: vec![3, 4],
        stride: vec![2, 1],
        dilation: vec![1, 1],
        pad_lo: vec![1, 0],
        pad_hi: vec![1, 1],
    };
    for dtype in [F, DType::F16] {
        let mut g = Graph::new();
        let (x, w, y) = (input(&mut g, dtype, &[2, 5, 4, 4]), input(&mut g, dtype, &[3, 2, 2, 6]), input(&mut g, dtype, &[2, 3, 4, 6]));
        let z = g.map(ScalarOp::Neg, &[y], O);
        let f = g.op(Op::Conv { kind: ConvKind::Forward, dims: dims.clone() }, &[x, w], O);
        let i = g.op(Op::Conv { kind: ConvKind::InputGrad, dims: dims.clone() }, &[z, w], O);
        let k = g.op(Op::Conv { kind: ConvKind::FilterGrad, dims: dims.clone() }, &[x, z], O);
        let r = g.map(ScalarOp::Abs, &[f], O);
        g.outputs = vec![f, i, k, r];
        check(&g);
    }
}

#[test]
fn gathers_and_scatters() {
    let mut g = Graph::new();
    let x = input(&mut g, F, &[4, 5]);
    let ids = input(&mut g, DType::I32, &[2, 3]);
    let a = g.gather(x, ids, 0, O);
    let b = g.gather(x, ids, 1, O);
    let y = g.map(ScalarOp::Sin, &[x], O);
    let c = g.gather(y, ids, 0, O);
    let ua = g.map(ScalarOp::Mul, &[a, c], O);
    let s = g.scatter(x, ids, ua, 0, ScatterMode::Add, O);
    let t = g.scatter(y, ids, b, 1, ScatterMode::Set, O);
    let zeros = g.splat(&Ty::new(F, [4, 5]), 0.0, O);
    let z = g.scatter(zeros, ids, ua, 0, ScatterMode::Add, O);
    let e = g.map(ScalarOp::Exp, &[z], O);
    g.outputs = vec![a, b, c, s, t, z, e];
    check(&g);
}

#[test]
fn an_index_out_of_range_is_reported_with_its_origin() {
    let mut g = Graph::new();
    let x = input(&mut g, F, &[4]);
    let ids = input(&mut g, DType::I32, &[2]);
    let origin = optc_ir::Origin { span: optc_base::Span::new(optc_base::SourceId(3), 5, 9), via: "" };
    let y = g.op(Op::Gather { axis: 0 }, &[x, ids], origin);
    g.outputs = vec![y];
    let planned = optc_plan::plan(&g, &Default::default());
    let mut given = [Tensor::from_f64(F, &[4], &[0.0; 4]), Tensor::from_f64(DType::I32, &[2], &[1.0, 9.0])];
    let Err(optc_plan::reference::Fault::Reported(status)) = optc_plan::reference::run(&planned, &mut given) else { panic!("no report") };
    assert_eq!((status.index, status.extent), (9, 4));
    assert_eq!(planned.plan.origins[status.origin as usize], (3, 5, 9));
}

#[test]
fn random_draws() {
    let mut g = Graph::new();
    let key = input(&mut g, DType::U32, &[2]);
    let number = input(&mut g, DType::U32, &[]);
    let folded = g.op(Op::RandomFold { place: 7 }, &[key, number], O);
    for shape in [&[][..], &[3], &[4], &[5, 8], &[2, 2]] {
        let bits = g.op_as(Op::RandomBits { start: 5 }, &[folded], Ty::new(DType::U32, shape.iter().copied()), O);
        let f = g.cast(bits, F, O);
        g.outputs.extend([bits, f]);
    }
    g.outputs.push(folded);
    check(&g);
}

#[test]
fn loops() {
    // Cumulative product with everything: carried, scanned, stacked, invariant.
    let mut body = Graph::new();
    let i = body.input("i", Ty::scalar(DType::I32), O);
    let h = body.input("h", Ty::new(F, [5]), O);
    let x = body.input("x", Ty::new(F, [5]), O);
    let w = body.input("w", Ty::new(F, [5, 5]), O);
    let dims = DotDims { lhs_contract: [0].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
    let wx = body.dot(h, w, dims, O);
    let s = body.map(ScalarOp::Add, &[wx, x], O);
    let n = body.map(ScalarOp::Tanh, &[s], O);
    let c = body.cast(i, F, O);
    let c = body.broadcast(c, &[], &[5], O);
    let y = body.map(ScalarOp::Mul, &[n, c], O);
    body.outputs = vec![n, y];
    let body = Arc::new(body);
    for reverse in [false, true] {
        for trip in [0, 1, 4] {
            let mut g = Graph::new();
            let (h, x, w) = (input(&mut g, F, &[5]), input(&mut g, F, &[trip, 5]), input(&mut g, F, &[5, 5]));
            let op = LoopOp { trip: Some(trip), reverse, carried: 1, scanned: 1, guard: None, body: body.clone() };
            let r = g.loop_results(op, &[h, x, w], O);
            let total = g.reduce(ReduceOp::Sum, r[1], &[0], O);
            g.outputs = vec![r[0], r[1], total];
            check(&g);
        }
    }
}

#[test]
fn loops_that_swap_and_nest_and_count_at_run_time() {
    let mut inner = Graph::new();
    let _ = inner.input("i", Ty::scalar(DType::I32), O);
    let a = inner.input("a", Ty::new(F, [3]), O);
    let b = inner.input("b", Ty::new(F, [3]), O);
    let s = inner.map(ScalarOp::Add, &[a, b], O);
    inner.outputs = vec![b, s];
    let mut outer = Graph::new();
    let i = outer.input("i", Ty::scalar(DType::I32), O);
    let a = outer.input("a", Ty::new(F, [3]), O);
    let b = outer.input("b", Ty::new(F, [3]), O);
    let op = LoopOp { trip: None, reverse: false, carried: 2, scanned: 0, guard: None, body: Arc::new(inner) };
    let r = outer.loop_results(op, &[i, a, b], O);
    outer.outputs = vec![r[1], r[0], r[0]];
    let mut g = Graph::new();
    let (a, b) = (input(&mut g, F, &[3]), input(&mut g, F, &[3]));
    let op = LoopOp { trip: Some(3), reverse: true, carried: 2, scanned: 0, guard: None, body: Arc::new(outer) };
    g.outputs = g.loop_results(op, &[a, b], O);
    check(&g);
}

#[test]
fn a_scatter_in_a_loop_copies_nothing() {
    let mut body = Graph::new();
    let i = body.input("i", Ty::scalar(DType::I32), O);
    let x = body.input("x", Ty::new(F, [50]), O);
    let one = body.scalar(DType::I32, 1.0, O);
    let next = body.map(ScalarOp::Add, &[i, one], O);
    let v = body.gather(x, i, 0, O);
    let w = body.map(ScalarOp::Sin, &[v], O);
    let y = body.scatter(x, next, w, 0, ScatterMode::Set, O);
    body.outputs = vec![y];
    let mut g = Graph::new();
    let x = input(&mut g, F, &[50]);
    let op = LoopOp { trip: Some(9), reverse: false, carried: 1, scanned: 0, guard: None, body: Arc::new(body) };
    g.outputs = g.loop_results(op, &[x], O);
    let planned = check(&g);
    let mut inside = 0;
    planned.plan.walk(&mut |instr| {
        if let optc_abi::plan::Instr::Loop { body, .. } = instr {
            inside += body.iter().filter(|i| matches!(i, optc_abi::plan::Instr::Copy { .. })).count();
        }
    });
    assert_eq!(inside, 0, "{}", common::text(&planned));
}

#[test]
fn loops_that_end_by_a_flag() {
    // while sum(x) < limit { x <- x * x + 1 }
    let mut body = Graph::new();
    body.input("i", Ty::scalar(DType::I32), O);
    body.input("go", Ty::scalar(DType::Bool), O);
    let x = body.input("x", Ty::new(F, [5]), O);
    let limit = body.input("limit", Ty::scalar(F), O);
    let square = body.map(ScalarOp::Mul, &[x, x], O);
    let one = body.splat(&Ty::new(F, [5]), 1.0, O);
    let next = body.map(ScalarOp::Add, &[square, one], O);
    let total = body.reduce(ReduceOp::Sum, next, &[0], O);
    let go = body.map(ScalarOp::Lt, &[total, limit], O);
    body.outputs = vec![go, next];
    let body = Arc::new(body);
    for start in [0.0, 1.0] {
        let mut g = Graph::new();
        let x = input(&mut g, F, &[5]);
        let (most, go) = (g.scalar(DType::I32, 50.0, O), g.scalar(DType::Bool, start, O));
        let limit = g.scalar(F, 1000.0, O);
        let guard = Some(optc_ir::graph::Guard { most: Some(50) });
        let op = LoopOp { trip: None, reverse: false, carried: 2, scanned: 0, guard, body: body.clone() };
        g.outputs = g.loop_results(op, &[most, go, x, limit], O);
        check(&g);
    }
}

#[test]
fn conditionals() {
    let branch = |op: ScalarOp| {
        let mut b = Graph::new();
        let x = b.input("x", Ty::new(F, [4]), O);
        let y = b.input("y", Ty::new(F, [4]), O);
        let z = b.map(op, &[x, y], O);
        let e = b.map(ScalarOp::Exp, &[z], O);
        b.outputs = vec![e, x];
        Arc::new(b)
    };
    let mut g = Graph::new();
    let p = input(&mut g, DType::Bool, &[]);
    let q = g.map(ScalarOp::Not, &[p], O);
    let (x, y) = (input(&mut g, F, &[4]), input(&mut g, F, &[4]));
    let a = g.cond_results(p, branch(ScalarOp::Add), branch(ScalarOp::Sub), &[x, y], O);
    let b = g.cond_results(q, branch(ScalarOp::Max), branch(ScalarOp::Mul), &[a[0], y], O);
    let c = g.map(ScalarOp::Add, &[b[0], b[1]], O);
    g.outputs = vec![a[0], a[1], b[0], c];
    check(&g);
}

#[test]
fn narrow_conversions_round() {
    for narrow in [DType::BF16, DType::F16] {
        let mut g = Graph::new();
        let x = input(&mut g, F, &[9]);
        let down = g.cast(x, narrow, O);
        let up = g.cast(down, F, O);
        g.outputs = vec![up];
        let values = [0.1, -3.3333333, 65519.0, 65520.0, 1e-7, 6.0e-8, -0.0, f64::NAN, 1e38];
        let given = [Tensor::from_f64(F, &[9], &values)];
        let planned = optc_plan::plan(&g, &Default::default());
        let have = optc_plan::reference::run(&planned, &mut given.clone()).unwrap();
        let want = optc_ir::interpret(&g, &given).unwrap();
        for (h, w) in have[0].to_f64().iter().zip(want[0].to_f64()) {
            assert!(h.to_bits() == w.to_bits() || (h.is_nan() && w.is_nan()), "{h} {w}");
        }
    }
}
