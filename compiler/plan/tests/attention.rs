//! Attention and its derivatives become one operation each, whatever form they have, and only where nothing else reads the probabilities.

mod common;

use common::{O, check_with, inputs, map, with};
use optc_abi::DType;
use optc_abi::plan::{Attention, AttentionKind, Instr, LibOp};
use optc_ir::graph::{Axes, DotDims, ReduceOp};
use optc_ir::{Graph, NodeId, ScalarOp, Ty};
use optc_plan::{Config, Planned};

const SHAPE: [usize; 4] = [2, 3, 5, 7];
const WIDTH: usize = 6;

/// What a graph is like.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Form {
    dtype: DType,
    /// Heads stand behind rows in q, k, v and the result.
    heads_inside: bool,
    /// Keys on the left of the first product, values on the left of the second one.
    turned: bool,
    causal: Option<i64>,
    /// An array of bools that is what is hidden, not what is seen.
    hiding: bool,
    mask: bool,
    hidden: f64,
    bias: bool,
    /// Scale on q instead of scores.
    scaled_before: bool,
    /// `e / sum` instead of `e (1 / sum)`.
    divided: bool,
    /// `p ct - p sum` instead of `p (ct - sum)`.
    spread_out: bool,
    /// Softmax in f32 around bf16.
    widened: bool,
    backward: bool,
}

const PLAIN: Form = Form {
    dtype: DType::F32,
    heads_inside: false,
    turned: false,
    causal: None,
    hiding: false,
    mask: false,
    hidden: f64::NEG_INFINITY,
    bias: false,
    scaled_before: false,
    divided: false,
    spread_out: false,
    widened: false,
    backward: true,
};

struct Made {
    g: Graph,
    p: NodeId,
    scores_back: Option<NodeId>,
}

fn dot(g: &mut Graph, a: NodeId, b: NodeId, lhs_batch: &[usize], rhs_batch: &[usize], lhs: usize, rhs: usize) -> NodeId {
    let axes = |a: &[usize]| a.iter().copied().collect::<Axes>();
    let dims = DotDims { lhs_batch: axes(lhs_batch), rhs_batch: axes(rhs_batch), lhs_contract: axes(&[lhs]), rhs_contract: axes(&[rhs]) };
    g.dot(a, b, dims, O)
}

fn swapped(g: &mut Graph, x: NodeId, if_: bool) -> NodeId {
    if if_ { g.permute(x, &[0, 1, 3, 2], O) } else { x }
}

/// softmax(scale q kᵀ …) v, and its cotangents as differentiation has them.
fn graph(f: Form) -> Made {
    let [b, h, t, s] = SHAPE;
    let mut g = Graph::new();
    // Axes of batch, heads, rows and columns in an array.
    let at: [usize; 4] = if f.heads_inside { [0, 2, 1, 3] } else { [0, 1, 2, 3] };
    let array = |g: &mut Graph, name: &str, rows: usize, columns: usize| {
        let mut shape = [0; 4];
        at.iter().zip([b, h, rows, columns]).for_each(|(&a, n)| shape[a] = n);
        g.input(name, Ty::new(f.dtype, shape), O)
    };
    let (q, k, v) = (array(&mut g, "q", t, WIDTH), array(&mut g, "k", s, WIDTH), array(&mut g, "v", s, WIDTH + 2));
    let d = array(&mut g, "d", t, WIDTH + 2);
    let mask = g.input("mask", Ty::new(DType::Bool, [b, t, s]), O);
    let bias = g.input("bias", Ty::new(f.dtype, [h, t, s]), O);
    let whole = [b, h, t, s];
    let batch = [at[0], at[1]];
    let scale = 0.375;
    let scaled_q = if f.scaled_before { with(&mut g, ScalarOp::Mul, q, scale) } else { q };
    let product = if f.turned {
        let z = dot(&mut g, k, scaled_q, &batch, &batch, at[3], at[3]);
        swapped(&mut g, z, true)
    } else {
        dot(&mut g, scaled_q, k, &batch, &batch, at[3], at[3])
    };
    let inner = if f.widened { DType::F32 } else { f.dtype };
    let mut z = g.cast(product, inner, O);
    if !f.scaled_before {
        z = with(&mut g, ScalarOp::Div, z, 1.0 / scale);
    }
    if f.bias {
        let spread = g.broadcast(bias, &[1, 2, 3], &whole, O);
        z = map(&mut g, ScalarOp::Add, &[z, spread]);
    }
    let mut hides = Vec::new();
    if let Some(offset) = f.causal {
        let (i, j) = (g.iota(DType::I32, &[t, s], 0, O), g.iota(DType::I32, &[t, s], 1, O));
        let last = with(&mut g, ScalarOp::Add, i, offset as f64);
        let seen = if f.hiding { map(&mut g, ScalarOp::Lt, &[last, j]) } else { map(&mut g, ScalarOp::Le, &[j, last]) };
        hides.push(g.broadcast(seen, &[2, 3], &whole, O));
    }
    if f.mask {
        hides.push(g.broadcast(mask, &[0, 2, 3], &whole, O));
    }
    let select = |g: &mut Graph, m: NodeId, x: NodeId, value: f64| {
        let ty = g.ty(x).clone();
        let hidden = g.splat(&ty, value, O);
        let [yes, no] = if f.hiding { [hidden, x] } else { [x, hidden] };
        g.map(ScalarOp::Select, &[m, yes, no], O)
    };
    for &m in &hides {
        z = select(&mut g, m, z, f.hidden);
    }
    let along = |g: &mut Graph, x: NodeId| g.broadcast(x, &[0, 1, 2], &whole, O);
    let top = g.reduce(ReduceOp::Max, z, &[3], O);
    let top = along(&mut g, top);
    let low = map(&mut g, ScalarOp::Sub, &[z, top]);
    let e = map(&mut g, ScalarOp::Exp, &[low]);
    let sum = g.reduce(ReduceOp::Sum, e, &[3], O);
    let p = if f.divided {
        let sum = along(&mut g, sum);
        map(&mut g, ScalarOp::Div, &[e, sum])
    } else {
        let ty = g.ty(sum).clone();
        let one = g.splat(&ty, 1.0, O);
        let inverse = map(&mut g, ScalarOp::Div, &[one, sum]);
        let inverse = along(&mut g, inverse);
        map(&mut g, ScalarOp::Mul, &[e, inverse])
    };
    let given = g.cast(p, f.dtype, O);
    let mixed = if f.turned { dot(&mut g, v, given, &batch, &[0, 1], at[2], 3) } else { dot(&mut g, given, v, &[0, 1], &batch, 3, at[2]) };
    let mixed = swapped(&mut g, mixed, f.turned);
    let back = |g: &mut Graph, x: NodeId| if f.heads_inside { g.permute(x, &[0, 2, 1, 3], O) } else { x };
    let out = back(&mut g, mixed);
    g.outputs = vec![out];
    if !f.backward {
        return Made { g, p, scores_back: None };
    }
    let dv = dot(&mut g, given, d, &[0, 1], &batch, 2, at[2]);
    let dp = dot(&mut g, d, v, &batch, &batch, at[3], at[3]);
    let ct = g.cast(dp, inner, O);
    let weighted = map(&mut g, ScalarOp::Mul, &[p, ct]);
    let mean = g.reduce(ReduceOp::Sum, weighted, &[3], O);
    let mean = along(&mut g, mean);
    let mut dz = if f.spread_out {
        let rest = map(&mut g, ScalarOp::Mul, &[p, mean]);
        map(&mut g, ScalarOp::Sub, &[weighted, rest])
    } else {
        let rest = map(&mut g, ScalarOp::Sub, &[ct, mean]);
        map(&mut g, ScalarOp::Mul, &[p, rest])
    };
    for &m in &hides {
        dz = select(&mut g, m, dz, 0.0);
    }
    let scores_back = Some(dz);
    if !f.scaled_before {
        dz = with(&mut g, ScalarOp::Div, dz, 1.0 / scale);
    }
    let dz = g.cast(dz, f.dtype, O);
    let mut dq = dot(&mut g, dz, k, &[0, 1], &batch, 3, at[2]);
    let dk = dot(&mut g, dz, scaled_q, &[0, 1], &batch, 2, at[2]);
    if f.scaled_before {
        dq = with(&mut g, ScalarOp::Mul, dq, scale);
    }
    for x in [dq, dk, dv] {
        let x = back(&mut g, x);
        g.outputs.push(x);
    }
    Made { g, p, scores_back }
}

fn found(planned: &Planned) -> Vec<&Attention> {
    planned
        .plan
        .code
        .iter()
        .filter_map(|i| if let Instr::Lib { op: LibOp::Attention { attention, .. }, .. } = i { Some(attention) } else { None })
        .collect()
}

fn fused(g: &Graph) -> Planned {
    check_with(g, &Config { attention: true, ..Config::default() }, &inputs(g))
}

/// Largest array of the plan's own.
fn largest(planned: &Planned) -> usize {
    planned.plan.buffers.iter().filter(|b| matches!(b.place, optc_abi::plan::Place::Arena(_))).map(|b| b.len).max().unwrap_or(0)
}

#[test]
fn all_forms_are_known() {
    let forms = [
        PLAIN,
        Form { heads_inside: true, ..PLAIN },
        Form { turned: true, ..PLAIN },
        Form { turned: true, heads_inside: true, causal: Some(2), ..PLAIN },
        Form { causal: Some(0), ..PLAIN },
        Form { causal: Some(2), hiding: true, ..PLAIN },
        Form { mask: true, hidden: -1e9, ..PLAIN },
        Form { mask: true, hiding: true, hidden: -1e9, ..PLAIN },
        Form { bias: true, ..PLAIN },
        Form { bias: true, mask: true, causal: Some(3), hidden: -1e9, heads_inside: true, ..PLAIN },
        Form { scaled_before: true, ..PLAIN },
        Form { divided: true, spread_out: true, ..PLAIN },
        Form { dtype: DType::F64, causal: Some(2), ..PLAIN },
        Form { dtype: DType::BF16, ..PLAIN },
        Form { dtype: DType::BF16, widened: true, causal: Some(1), heads_inside: true, ..PLAIN },
    ];
    for form in forms {
        for backward in [false, true] {
            let form = Form { backward, ..form };
            let made = graph(form);
            let planned = fused(&made.g);
            let found = found(&planned);
            let kinds: Vec<AttentionKind> = found.iter().map(|a| a.kind).collect();
            let want = if backward { vec![AttentionKind::Forward, AttentionKind::Backward] } else { vec![AttentionKind::Forward] };
            assert_eq!(kinds, want, "{form:?}");
            let what = found[0];
            assert_eq!((what.causal, what.mask, what.bias), (form.causal, form.mask, form.bias), "{form:?}");
            assert_eq!((&what.batch[..], what.queries, what.keys, what.width, what.out_width), (&[2, 3][..], 5, 7, 6, 8), "{form:?}");
            let scale = if form.scaled_before { 1.0 } else { 0.375 };
            assert!((what.scale.get() - scale).abs() < 1e-2, "{form:?}: {:?}", what.scale);
            if !form.hiding && !form.bias && !form.mask && !form.scaled_before {
                let floats = |p: &Planned| p.plan.code.iter().filter(|i| matches!(i, Instr::Gemm(_))).count();
                assert_eq!(floats(&planned), 0, "{form:?}");
                assert!(planned.kernels.is_empty(), "{form:?}: {}", optc_plan::print(&planned));
                // Statistics, no scores.
                assert!(largest(&planned) <= 2 * 2 * 3 * 5, "{form:?}");
            }
        }
    }
}

#[test]
fn without_being_asked_for_nothing_changes() {
    let made = graph(PLAIN);
    let planned = check_with(&made.g, &Config::default(), &inputs(&made.g));
    assert!(found(&planned).is_empty());
}

#[test]
fn what_else_reads_the_probabilities_keeps_them() {
    let mut made = graph(PLAIN);
    made.g.outputs.push(made.p);
    assert!(found(&fused(&made.g)).is_empty(), "probabilities are a result");
    let mut made = graph(PLAIN);
    made.g.outputs.push(made.scores_back.expect("there is a backward pass"));
    assert!(found(&fused(&made.g)).is_empty(), "what is added has a gradient");
    // Dropout between softmax and values.
    let mut made = graph(Form { backward: false, ..PLAIN });
    let g = &mut made.g;
    let ty = g.ty(made.p).clone();
    let kept = g.input("kept", ty, O);
    let dropped = map(g, ScalarOp::Mul, &[made.p, kept]);
    let v = g.inputs[2].node;
    let out = dot(g, dropped, v, &[0, 1], &[0, 1], 3, 2);
    g.outputs = vec![out];
    assert!(found(&fused(g)).is_empty(), "dropout");
}

#[test]
fn a_causal_mask_that_is_data_is_one_too() {
    for (offset, rows, columns) in [(0i64, 4usize, 4usize), (3, 4, 7), (-1, 4, 6)] {
        let mut g = Graph::new();
        let (q, k) = (g.input("q", Ty::new(DType::F32, [1, rows, 4]), O), g.input("k", Ty::new(DType::F32, [1, columns, 4]), O));
        let seen: Vec<f64> = (0..rows * columns).map(|n| f64::from((n % columns) as i64 <= (n / columns) as i64 + offset)).collect();
        let mask = g.constant(optc_abi::Tensor::from_f64(DType::Bool, &[rows, columns], &seen), O);
        let mask = g.broadcast(mask, &[1, 2], &[1, rows, columns], O);
        let z = dot(&mut g, q, k, &[0], &[0], 2, 2);
        let ty = g.ty(z).clone();
        let hidden = g.splat(&ty, -1e9, O);
        let z = g.map(ScalarOp::Select, &[mask, z, hidden], O);
        let top = g.reduce(ReduceOp::Max, z, &[2], O);
        let top = g.broadcast(top, &[0, 1], &ty.shape, O);
        let low = map(&mut g, ScalarOp::Sub, &[z, top]);
        let e = map(&mut g, ScalarOp::Exp, &[low]);
        let sum = g.reduce(ReduceOp::Sum, e, &[2], O);
        let sum = g.broadcast(sum, &[0, 1], &ty.shape, O);
        let p = map(&mut g, ScalarOp::Div, &[e, sum]);
        let out = dot(&mut g, p, k, &[0], &[0], 2, 1);
        g.outputs = vec![out];
        let planned = fused(&g);
        let found = found(&planned);
        assert_eq!(found.iter().map(|a| (a.causal, a.mask)).collect::<Vec<_>>(), [(Some(offset), false)]);
    }
}

#[test]
fn a_loop_over_examples_has_it_in_its_body() {
    let mut body = graph(Form { causal: Some(2), ..PLAIN }).g;
    // The counter comes first, then what the loop goes through.
    let mut shifted = Graph::new();
    shifted.input("i", Ty::scalar(DType::I32), O);
    let given: Vec<NodeId> = body.inputs.clone().iter().map(|i| shifted.input(i.name.clone(), body.ty(i.node).clone(), O)).collect();
    let results = shifted.inline(&body, &given, "");
    shifted.outputs = results;
    body = shifted;
    let mut g = Graph::new();
    let operands: Vec<NodeId> = body.inputs[1..]
        .iter()
        .map(|i| {
            let ty = body.ty(i.node);
            g.input(i.name.clone(), Ty::new(ty.dtype, std::iter::once(3).chain(ty.shape.iter().copied())), O)
        })
        .collect();
    let scanned = operands.len();
    let op = optc_ir::graph::LoopOp { trip: Some(3), reverse: false, carried: 0, scanned, guard: None, body: std::sync::Arc::new(body) };
    g.outputs = g.loop_results(op, &operands, O);
    let planned = fused(&g);
    let mut count = 0;
    planned.plan.walk(&mut |i| count += usize::from(matches!(i, Instr::Lib { op: LibOp::Attention { .. }, .. })));
    assert_eq!(count, 2, "{}", optc_plan::print(&planned));
}
