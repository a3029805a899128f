//! What each rewrite is for, and that none changes a result.

use super::*;
use optc_abi::{DType, Tensor};
use optc_ir::graph::{DotDims, LoopOp, Origin, ReduceOp, ScatterMode, Ty};
use optc_ir::text::print;
use optc_ir::{ScalarOp, interpret, verify};
use std::sync::Arc;

const O: Origin = Origin { span: optc_base::Span { source: optc_base::SourceId(0), start: 0, end: 0 }, via: "" };

fn f32s(shape: &[usize]) -> Ty {
    Ty::new(DType::F32, shape.iter().copied())
}

/// Awkward but reproducible inputs.
fn inputs_of(g: &Graph) -> Vec<Tensor> {
    let pool = [1.5, -2.0, 0.0, -0.0, 3.25, 0.1, -7.0, 1e-3, 12.0, -0.7, 2.0];
    g.input_types()
        .iter()
        .enumerate()
        .map(|(k, ty)| {
            let values: Vec<f64> = (0..ty.len())
                .map(|i| if ty.dtype.is_float() { pool[(i * 7 + k * 3) % pool.len()] } else { ((i + k) % 2) as f64 })
                .collect();
            Tensor::from_f64(ty.dtype, &ty.shape, &values)
        })
        .collect()
}

/// Simplifies, checks that results stay (bit for bit in exact mode), and returns the result in default mode.
fn check(g: &Graph) -> Graph {
    verify(g).unwrap();
    let inputs = inputs_of(g);
    let want = interpret(g, &inputs).unwrap();
    let mut last = Graph::new();
    for exactness in [Exactness::Exact, Exactness::Budget] {
        let small = simplify(g.clone(), &Config { exactness, ..Config::default() });
        verify(&small).unwrap_or_else(|e| panic!("{e}\n{}", print(&small)));
        assert_eq!(small.input_types(), g.input_types());
        let got = interpret(&small, &inputs).unwrap();
        for (a, b) in want.iter().zip(&got) {
            assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape));
            for i in 0..a.len() {
                let (x, y) = (a.get_f64(i), b.get_f64(i));
                let close = x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
                let close = close || (exactness == Exactness::Budget && (x - y).abs() <= 1e-5 * x.abs().max(1e-3));
                assert!(close, "{x:?} became {y:?}\n{}\n{}", print(g), print(&small));
            }
        }
        last = small;
    }
    last
}

fn ops(g: &Graph) -> Vec<String> {
    g.ids()
        .filter(|&id| !matches!(g.node(id).op, Op::Input { .. } | Op::Const(_)))
        .map(|id| match &g.node(id).op {
            Op::Map(op) => op.name().to_string(),
            op => format!("{op:?}").split([' ', '(']).next().unwrap_or_default().to_lowercase(),
        })
        .collect()
}

fn graph(shapes: &[&[usize]], build: impl FnOnce(&mut Graph, &[NodeId]) -> Vec<NodeId>) -> Graph {
    let mut g = Graph::new();
    let inputs: Vec<NodeId> = shapes.iter().enumerate().map(|(i, s)| g.input(format!("x{i}"), f32s(s), O)).collect();
    g.outputs = build(&mut g, &inputs);
    g
}

#[test]
fn views_of_views_become_one() {
    let g = check(&graph(&[&[2, 3, 4]], |g, x| {
        let a = g.permute(x[0], &[2, 0, 1], O);
        let b = g.permute(a, &[1, 2, 0], O);
        let c = g.reshape(b, &[6, 4], O);
        let d = g.reshape(c, &[24], O);
        let e = g.slice(d, &[2], &[20], &[3], O);
        vec![g.slice(e, &[1], &[6], &[2], O)]
    }));
    assert_eq!(ops(&g), ["reshape", "slice"]);
    let g = check(&graph(&[&[3, 1]], |g, x| {
        let a = g.reshape(x[0], &[3], O);
        let b = g.broadcast(a, &[1], &[2, 3], O);
        let c = g.broadcast(b, &[0, 2], &[2, 5, 3], O);
        vec![g.permute(c, &[2, 0, 1], O)]
    }));
    assert_eq!(ops(&g).last().unwrap(), "broadcast");
    assert!(ops(&g).len() <= 2, "{}", print(&g));
    let g = check(&graph(&[&[4]], |g, x| {
        let a = g.op(Op::Flip { axes: [0][..].into() }, &[x[0]], O);
        vec![g.op(Op::Flip { axes: [0][..].into() }, &[a], O)]
    }));
    assert_eq!(ops(&g), [""; 0]);
}

#[test]
fn slices_look_through_pads_joins_and_broadcasts() {
    let g = check(&graph(&[&[4], &[3]], |g, x| {
        let zero = g.scalar(DType::F32, 0.0, O);
        let padded = g.pad(x[0], zero, &[2], &[3], &[0], O);
        let joined = g.concat(&[x[0], x[1]], 0, O);
        let wide = g.broadcast(x[1], &[1], &[5, 3], O);
        vec![
            g.slice_axis(padded, 0, 2, 6, O),
            g.slice_axis(padded, 0, 0, 4, O),
            g.slice_axis(padded, 0, 6, 9, O),
            g.slice_axis(joined, 0, 4, 6, O),
            g.slice(wide, &[1, 0], &[4, 2], &[2, 1], O),
        ]
    }));
    assert_eq!(g.outputs[0], g.inputs[0].node);
    assert!(!ops(&g).contains(&"concat".to_string()), "{}", print(&g));
}

#[test]
fn gradients_of_slices_become_a_join() {
    let g = check(&graph(&[&[2, 3], &[2, 1], &[2, 2]], |g, x| {
        let zero = g.scalar(DType::F32, 0.0, O);
        let a = g.pad(x[0], zero, &[0, 0], &[0, 3], &[0, 0], O);
        let b = g.pad(x[1], zero, &[0, 3], &[0, 2], &[0, 0], O);
        let c = g.pad(x[2], zero, &[0, 4], &[0, 0], &[0, 0], O);
        let ab = g.map(ScalarOp::Add, &[a, c], O);
        vec![g.map(ScalarOp::Add, &[ab, b], O)]
    }));
    assert!(!ops(&g).contains(&"pad".into()), "{}", print(&g));
    let g = check(&graph(&[&[2, 3], &[2, 1], &[2, 2]], |g, x| {
        let zero = g.scalar(DType::F32, 0.0, O);
        let a = g.pad(x[0], zero, &[0, 0], &[0, 3], &[0, 0], O);
        let b = g.pad(x[1], zero, &[0, 3], &[0, 2], &[0, 0], O);
        let c = g.pad(x[2], zero, &[0, 4], &[0, 0], &[0, 0], O);
        let ab = g.map(ScalarOp::Add, &[b, a], O);
        vec![g.map(ScalarOp::Add, &[ab, c], O)]
    }));
    assert!(!ops(&g).contains(&"pad".into()), "{}", print(&g));
}

#[test]
fn broadcasts_sink_below_elementwise_operations() {
    let g = check(&graph(&[&[], &[3]], |g, x| {
        let row = g.broadcast(x[1], &[1], &[50, 3], O);
        let scale = g.broadcast(x[0], &[], &[50, 3], O);
        let two = g.splat(&f32s(&[50, 3]), 2.0, O);
        let a = g.map(ScalarOp::Mul, &[row, scale], O);
        vec![g.map(ScalarOp::Add, &[a, two], O)]
    }));
    let last = *g.outputs.first().unwrap();
    assert!(matches!(g.node(last).op, Op::Broadcast { .. }), "{}", print(&g));
    assert!(g.ids().filter(|&id| matches!(g.node(id).op, Op::Map(_))).all(|id| g.ty(id).len() == 3));
}

#[test]
fn literals_are_folded_and_equal_nodes_merged() {
    let g = check(&graph(&[&[2]], |g, x| {
        let a = g.splat(&f32s(&[2]), 3.0, O);
        let b = g.splat(&f32s(&[2]), 4.0, O);
        let seven = g.map(ScalarOp::Add, &[a, b], O);
        let one = g.map(ScalarOp::Sub, &[b, a], O);
        let p = g.map(ScalarOp::Add, &[x[0], seven], O);
        let q = g.map(ScalarOp::Add, &[seven, x[0]], O);
        let q = g.map(ScalarOp::Mul, &[q, one], O);
        vec![g.map(ScalarOp::Sub, &[p, q], O)]
    }));
    assert_eq!(ops(&g), ["broadcast", "add", "sub"]);
}

#[test]
fn division_by_powers_of_two_only() {
    let divide = |by: f64| {
        let g = check(&graph(&[&[11]], |g, x| {
            let k = g.splat(&f32s(&[11]), by, O);
            vec![g.map(ScalarOp::Div, &[x[0], k], O)]
        }));
        ops(&g).last().unwrap().clone()
    };
    assert_eq!([divide(8.0), divide(-0.25), divide(3.0), divide(0.0)], ["mul", "mul", "div", "div"]);
}

#[test]
fn transposed_operands_go_into_products() {
    let g = check(&graph(&[&[3, 4], &[3, 5]], |g, x| {
        let t = g.permute(x[0], &[1, 0], O);
        let dims = DotDims { lhs_contract: [1][..].into(), rhs_contract: [0][..].into(), ..DotDims::default() };
        let y = g.dot(t, x[1], dims, O);
        vec![g.permute(y, &[1, 0], O)]
    }));
    assert_eq!(ops(&g), ["dot"]);
    assert_eq!(g.ty(g.outputs[0]), &f32s(&[5, 4]));
}

#[test]
fn known_indices_are_views() {
    let g = check(&graph(&[&[5, 2], &[3, 2]], |g, x| {
        let rows = g.iota(DType::I32, &[3], 0, O);
        let one = g.scalar(DType::I32, 4.0, O);
        let shift = g.splat(&Ty::new(DType::I32, [3]), 1.0, O);
        let shifted = g.map(ScalarOp::Add, &[rows, shift], O);
        let zeros = g.splat(&f32s(&[5, 2]), 0.0, O);
        let table = g.constant(Tensor::from_slice(&[3, 1], &[2, 3, 4]), O);
        vec![
            g.gather(x[0], rows, 0, O),
            g.gather(x[0], one, 0, O),
            g.gather(x[0], table, 0, O),
            g.scatter(zeros, shifted, x[1], 0, ScatterMode::Add, O),
            g.scatter(x[0], rows, x[1], 0, ScatterMode::Set, O),
            g.scatter(x[0], shifted, x[1], 0, ScatterMode::Add, O),
        ]
    }));
    assert!(!ops(&g).iter().any(|o| o == "gather" || o == "scatter"), "{}", print(&g));
    // An index outside the axis still fails when the program runs, and gaps are left alone.
    let left = |ids: &[i32]| {
        let ids = Tensor::from_slice(&[ids.len()], ids);
        let g = graph(&[&[5, 2]], |g, x| {
            let ids = g.constant(ids, O);
            vec![g.gather(x[0], ids, 0, O)]
        });
        ops(&simplify(g, &Config::default())).contains(&"gather".to_string())
    };
    assert!(left(&[4, 5]) && left(&[-1, 0]) && left(&[0, 2]) && !left(&[1, 2]));
}

#[test]
fn reductions() {
    let g = check(&graph(&[&[3], &[2, 1, 4]], |g, x| {
        let wide = g.broadcast(x[0], &[1], &[8, 3], O);
        let sum = g.reduce(ReduceOp::Sum, wide, &[0], O);
        let max = g.reduce(ReduceOp::Max, wide, &[0, 1], O);
        let single = g.reduce(ReduceOp::Sum, x[1], &[1], O);
        let twice = g.reduce(ReduceOp::Max, x[1], &[2], O);
        let twice = g.reduce(ReduceOp::Max, twice, &[0, 1], O);
        vec![sum, max, single, twice]
    }));
    let kinds: Vec<String> = ops(&g).into_iter().filter(|o| o == "reduce").collect();
    assert_eq!(kinds.len(), 2, "{}", print(&g));
    let empty = check(&graph(&[&[0, 2]], |g, x| vec![g.reduce(ReduceOp::Max, x[0], &[0], O)]));
    assert_eq!(ops(&empty), ["broadcast"]);
}

/// A loop with an unused carried value, an unused stack, work that does not change, and a carried value that stays.
#[test]
fn loops_keep_only_what_changes_and_is_needed() {
    let mut b = Graph::new();
    b.input("i", Ty::scalar(DType::I32), O);
    let c = b.input("c", f32s(&[3]), O);
    let unused = b.input("u", f32s(&[3]), O);
    let still = b.input("s", f32s(&[3]), O);
    let row = b.input("x", f32s(&[3]), O);
    let k = b.input("k", f32s(&[3]), O);
    let work = b.map(ScalarOp::Exp, &[k], O);
    let work = b.map(ScalarOp::Mul, &[work, still], O);
    let next = b.map(ScalarOp::Add, &[c, work], O);
    let next = b.map(ScalarOp::Add, &[next, row], O);
    let waste = b.map(ScalarOp::Sin, &[unused], O);
    b.outputs = vec![next, waste, still, next, work, waste, next];
    let op = LoopOp { trip: Some(4), reverse: true, carried: 3, scanned: 1, guard: None, body: Arc::new(b) };
    let g = check(&graph(&[&[3], &[3], &[3], &[4, 3], &[3]], |g, x| {
        let r = g.loop_results(op, x, O);
        vec![r[0], r[2], r[3], r[4], r[6]]
    }));
    let l = g.ids().find_map(|id| if let Op::Loop(l) = &g.node(id).op { Some(l.clone()) } else { None }).unwrap();
    assert_eq!((l.carried, l.scanned, l.body.outputs.len(), l.body.inputs.len()), (1, 1, 2, 4), "{}", print(&g));
    assert_eq!(ops(&l.body), ["add", "add"], "{}", print(&g));
    assert_eq!(g.outputs[2], g.outputs[4]);
    assert!(ops(&g).contains(&"exp".into()));
}

#[test]
fn loops_of_no_and_one_pass_vanish_and_run_time_counts_can_be_known() {
    let body = || {
        let mut b = Graph::new();
        let i = b.input("i", Ty::scalar(DType::I32), O);
        let c = b.input("c", f32s(&[]), O);
        let x = b.cast(i, DType::F32, O);
        let next = b.map(ScalarOp::Sub, &[c, x], O);
        b.outputs = vec![next];
        Arc::new(b)
    };
    for (trip, left) in [(0, 0), (1, 0), (2, 1)] {
        let g = check(&graph(&[&[]], |g, x| {
            let n = g.scalar(DType::I32, f64::from(trip), O);
            g.loop_results(LoopOp { trip: None, reverse: false, carried: 1, scanned: 0, guard: None, body: body() }, &[n, x[0]], O)
        }));
        assert_eq!(g.ids().filter(|&id| matches!(g.node(id).op, Op::Loop(_))).count(), left);
    }
}

#[test]
fn equal_loops_are_run_once() {
    let body = |waste: bool| {
        let mut b = Graph::new();
        b.input("i", Ty::scalar(DType::I32), O);
        let c = b.input("c", f32s(&[2]), O);
        if waste {
            b.map(ScalarOp::Exp, &[c], O);
        }
        let next = b.map(ScalarOp::Sin, &[c], O);
        b.outputs = vec![next];
        LoopOp { trip: Some(3), reverse: false, carried: 1, scanned: 0, guard: None, body: Arc::new(b) }
    };
    let g = check(&graph(&[&[2]], |g, x| [false, true].into_iter().flat_map(|w| g.loop_results(body(w), x, O)).collect()));
    assert_eq!(g.outputs[0], g.outputs[1]);
}

#[test]
fn long_chains_do_not_exhaust_the_stack() {
    let g = graph(&[&[2], &[2]], |g, x| {
        let mut sum = x[0];
        for i in 0..20_000 {
            let neg = g.map(ScalarOp::Neg, &[sum], O);
            sum = if i % 2 == 0 { g.map(ScalarOp::Add, &[sum, x[1]], O) } else { g.map(ScalarOp::Mul, &[neg, x[1]], O) };
        }
        vec![sum]
    });
    let small = simplify(g, &Config::default());
    assert!(verify(&small).is_ok());
}

#[test]
fn conditionals_calls_and_stops() {
    let branch = |op: ScalarOp| {
        let mut b = Graph::new();
        let x = b.input("x", f32s(&[]), O);
        let y = b.input("y", f32s(&[]), O);
        let z = b.map(op, &[x], O);
        b.outputs = vec![z, y, x];
        Arc::new(b)
    };
    let call = optc_ir::graph::CallOp { name: "f".into(), body: branch(ScalarOp::Neg), vjp: None };
    let mut g = graph(&[&[], &[]], |g, x| {
        let p = g.map(ScalarOp::Lt, &[x[0], x[1]], O);
        let yes = g.map(ScalarOp::Eq, &[p, p], O);
        let sure = g.map(ScalarOp::Lt, &[yes, yes], O);
        let a = g.cond_results(p, branch(ScalarOp::Exp), branch(ScalarOp::Sin), x, O);
        let two = g.scalar(DType::F32, 2.0, O);
        let known = g.cond_results(p, branch(ScalarOp::Exp), branch(ScalarOp::Sin), &[two, x[1]], O)[0];
        let b = g.cond_results(sure, branch(ScalarOp::Exp), branch(ScalarOp::Sin), x, O);
        let c = g.op(Op::Call(call), &[a[0], b[0]], O);
        let c = g.result(c, 0, O);
        vec![g.op(Op::StopGradient, &[c], O), a[1], known]
    });
    g.outputs.push(g.inputs[0].node);
    let small = check(&g);
    assert_eq!(small.outputs[1], small.inputs[1].node);
    assert_eq!(ops(&small).iter().filter(|o| *o == "cond").count(), 2, "{}", print(&small));
    // The branches know the literal and are literals themselves.
    let arguments: Vec<usize> =
        small.ids().filter(|&id| matches!(small.node(id).op, Op::Cond { .. })).map(|id| small.node(id).operands.len()).collect();
    assert_eq!(arguments, [2, 1]);
    assert!(!ops(&small).iter().any(|o| o == "call" || o == "stopgradient"));
}

#[test]
fn ten_thousand_nodes_are_quick() {
    let mut g = Graph::new();
    let mut x = g.input("x", f32s(&[64, 64]), O);
    let y = g.input("y", f32s(&[64]), O);
    for i in 0..2000 {
        let row = g.broadcast(y, &[1], &[64, 64], O);
        let k = g.splat(&f32s(&[64, 64]), f64::from(i % 7), O);
        let scaled = g.map(ScalarOp::Mul, &[row, k], O);
        x = g.map(ScalarOp::Add, &[x, scaled], O);
        let t = g.permute(x, &[1, 0], O);
        let s = g.map(ScalarOp::Tanh, &[t], O);
        x = g.permute(s, &[1, 0], O);
    }
    g.outputs.push(x);
    let start = std::time::Instant::now();
    let small = simplify(g, &Config::default());
    verify(&small).unwrap();
    assert!(start.elapsed().as_secs_f64() < 3.0, "{:?}", start.elapsed());
}
