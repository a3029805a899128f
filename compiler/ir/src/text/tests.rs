//! Round trips and messages of the text forms.

use super::*;
use crate::graph::{Attention, AttentionKind, AttentionOp, CallOp, LoopOp, NodeId, Origin, ReduceOp, Ty};
use crate::scalar::ScalarOp;
use optc_abi::{DType, Tensor};
use std::sync::Arc;

const O: Origin = Origin { span: optc_base::Span { source: optc_base::SourceId(0), start: 0, end: 0 }, via: "" };

fn scalar(dtype: DType) -> Ty {
    Ty::scalar(dtype)
}

/// A graph with a loop, a conditional, a call with its own derivative and one of a function outside.
fn nested() -> Graph {
    let mut body = Graph::new();
    body.input("i", scalar(DType::I32), O);
    let c = body.input("c \"quoted\"\n", scalar(DType::F32), O);
    let twice = body.map(ScalarOp::Add, &[c, c], O);
    body.outputs = vec![twice, c];
    let mut identity = Graph::new();
    let x = identity.input("x", scalar(DType::F32), O);
    identity.outputs.push(x);
    let mut rule = Graph::new();
    let rule_inputs: Vec<NodeId> = ["x", "y", "dy"].iter().map(|n| rule.input(*n, scalar(DType::F32), O)).collect();
    rule.outputs.push(rule_inputs[2]);
    let mut g = Graph::new();
    let x = g.input("net.linear.0.w", scalar(DType::F32), O);
    let body = Arc::new(body);
    let results = g.loop_results(LoopOp { trip: Some(3), reverse: true, carried: 1, scanned: 0, guard: None, body }, &[x], O);
    let identity = Arc::new(identity);
    let pred = g.map(ScalarOp::Lt, &[x, results[0]], O);
    let chosen = g.cond_results(pred, identity.clone(), identity.clone(), &[x], O)[0];
    let call = g.op(Op::Call(CallOp { name: "f".into(), body: identity, vjp: Some(Arc::new(rule)) }), &[chosen], O);
    let called = g.result(call, 0, O);
    let sum = g.reduce(ReduceOp::Sum, results[1], &[0], O);
    let asked = Op::Callback { function: 3, results: [scalar(DType::F64), Ty::new(DType::F32, [2])].into() };
    let answer = g.op(asked, &[called, sum], O);
    let answer = g.result(answer, 1, O);
    g.outputs = vec![called, sum, answer];
    g
}

#[test]
fn nested_graphs_come_back() {
    let g = nested();
    let text = print_full(&g);
    let back = read(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert!(same_graph(&g, &back), "{text}");
    assert_eq!(print_full(&back), text);
    assert!(!same_graph(&g, &{
        let mut other = back.clone();
        other.outputs.swap(0, 1);
        other
    }));
}

#[test]
fn guards_of_loops_come_back() {
    let loop_of = |most| {
        let mut body = Graph::new();
        body.input("i", scalar(DType::I32), O);
        let go = body.input("go", scalar(DType::Bool), O);
        let stop = body.map(ScalarOp::Not, &[go], O);
        body.outputs = vec![stop];
        let mut g = Graph::new();
        let trip = g.input("n", scalar(DType::I32), O);
        let go = g.input("go", scalar(DType::Bool), O);
        let guard = Some(crate::graph::Guard { most });
        let op = LoopOp { trip: None, reverse: false, carried: 1, scanned: 0, guard, body: Arc::new(body) };
        g.outputs = g.loop_results(op, &[trip, go], O);
        g
    };
    for most in [None, Some(7)] {
        let g = loop_of(most);
        let text = print_full(&g);
        let back = read(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(same_graph(&g, &back), "{text}");
        assert!(!same_graph(&loop_of(Some(8)), &back), "{text}");
    }
}

#[test]
fn attention_comes_back() {
    for (kind, causal, mask, bias, hidden) in [
        (AttentionKind::Forward, None, false, false, f64::NEG_INFINITY),
        (AttentionKind::Backward, Some(-3), true, true, -1e9),
        (AttentionKind::Backward, Some(2), false, true, 0.1),
    ] {
        let (batch, scale) = (vec![2], (1.0 / 3.0f64).into());
        let what = Attention { kind, batch, queries: 4, keys: 5, width: 6, out_width: 7, scale, causal, mask, bias, hidden: hidden.into() };
        let mut g = Graph::new();
        let operands: Vec<NodeId> = what
            .operands(DType::F32)
            .into_iter()
            .enumerate()
            .map(|(n, (shape, ty))| g.input(format!("x{n}"), Ty::new(ty, std::iter::once(2).chain(shape)), O))
            .collect();
        let results = what.results(DType::F32).len();
        let turned = (0..results).map(|n| if n == 0 { [1, 0, 2] } else { [0, 1, 2] }.into_iter().collect()).collect();
        let node = g.op(Op::Attention(Arc::new(AttentionOp { what, turned })), &operands, O);
        g.outputs = (0..results).map(|n| g.result(node, n, O)).collect();
        let text = print_full(&g);
        let back = read(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(same_graph(&g, &back), "{text}");
        assert_eq!(print_full(&back), text);
    }
}

#[test]
fn constants_keep_their_bits() {
    let mut g = Graph::new();
    let floats = [0.1f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0x7fc0_0001), f32::from_bits(1), f32::MAX, 1e-7];
    let all = [
        Tensor::from_slice(&[9], &floats),
        Tensor::from_slice(&[2], &[f64::MIN_POSITIVE, 0.1]),
        Tensor::from_slice(&[2], &[i64::MAX, i64::MIN]),
        Tensor::from_slice(&[1], &[u32::MAX]),
        Tensor::from_f64(DType::BF16, &[3], &[1.1, f64::NAN, -3e38]),
        Tensor::from_f64(DType::F16, &[2], &[1.1, 6e-8]),
        Tensor::from_f64(DType::Bool, &[2], &[0.0, 1.0]),
        Tensor::zeros(DType::F32, &[0, 3]),
        Tensor::scalar(7u8),
    ];
    for t in all {
        let id = g.constant(t, O);
        g.outputs.push(id);
    }
    let back = read(&print_full(&g)).unwrap();
    assert!(same_graph(&g, &back));
}

#[test]
fn long_constants_are_abbreviated_for_people() {
    let mut g = Graph::new();
    let id = g.constant(Tensor::zeros(DType::F32, &[100]), O);
    g.outputs.push(id);
    let text = print(&g);
    assert!(text.contains("const (0.0, 0.0, 0.0, 0.0, …) : f32[100]"), "{text}");
    assert!(read(&text).unwrap_err().message.contains("abbreviated"));
}

#[test]
fn mistakes_name_their_line() {
    let check = |text: &str, line: usize, part: &str| {
        let e = read(text).unwrap_err();
        assert!(e.line == line && e.message.contains(part), "{e} for {text}");
    };
    check("graph {\n  %0 = input \"x\" : f32[2]\n  %1 = add %0, %2 : f32[2]\n  return %1\n}", 3, "%2");
    check("graph {\n  %0 = input \"x\" : f32[2]\n  %1 = neg %0 : f32[3]\n  return %1\n}", 3, "f32[3]");
    check("graph {\n  %0 = frobnicate : f32\n  return %0\n}", 2, "no operation");
    check("graph {\n  %0 = const (1, 2) : f32\n  return %0\n}", 2, "2 elements");
    check("graph {", 1, "expected");
    check("graph { %0 = const (300) : u8 return %0 }", 1, "no u8");
    check("graph { %0 = input \"x : f32 return %0 }", 1, "without end");
    for cut in 0..print_full(&nested()).len() {
        let text = print_full(&nested());
        if text.is_char_boundary(cut) && cut + 1 < text.len() {
            assert!(read(&text[..cut]).is_err());
        }
    }
}

#[test]
fn kernels_read_like_code() {
    use crate::kernel::*;
    let kernel = Kernel {
        buffers: vec![BufferParam { dtype: DType::F32, access: Access::Read }],
        sizes: 1,
        axes: 1,
        values: 2,
        accs: vec![Acc { dtype: DType::F32, op: AccOp::Reduce(ReduceOp::Max) }],
        locals: vec![Local { dtype: DType::F32, len: 4 }],
        body: vec![Stmt::For {
            axis: 0,
            extent: Extent::Size(0),
            kind: LoopKind::Vector,
            body: vec![
                Stmt::Let {
                    value: 0,
                    dtype: DType::F32,
                    expr: Expr::Load { buffer: 0, index: Index { offset: -3, axes: vec![(0, 4)], ..Index::default() }, guard: None },
                },
                Stmt::Store { buffer: LOCAL, index: Index::default(), value: 0 },
                Stmt::Update { acc: 0, value: 0 },
            ],
        }],
    };
    let want = "kernel k(in b0: f32, n0)\n  local l0: f32[4]\n  acc a0: f32 by max\n  for i0 in 0..n0 vector\n    v0: f32 = b0[4*i0 - 3]\n    l0[0] = v0\n    a0 max= v0\n";
    assert_eq!(print_kernel("k", &kernel), want);
}
