//! What simplification leaves of gradients.

use optc_abi::{DType, Tensor};
use optc_ir::graph::{DotDims, Graph, NodeId, Op, Origin, ReduceOp, Ty};
use optc_ir::text::print;
use optc_ir::{ScalarOp, interpret, verify};
use optc_mid::differentiate::vjp;
use optc_mid::simplify::{Config, simplify};

const O: Origin = Origin { span: optc_base::Span { source: optc_base::SourceId(0), start: 0, end: 0 }, via: "" };

fn f32s(shape: &[usize]) -> Ty {
    Ty::new(DType::F32, shape.iter().copied())
}

fn matmul(g: &mut Graph, a: NodeId, b: NodeId) -> NodeId {
    g.dot(a, b, DotDims { lhs_contract: [1][..].into(), rhs_contract: [0][..].into(), ..DotDims::default() }, O)
}

/// Two layers, relu, softmax cross entropy against integer labels, mean over the batch.
fn network(batch: usize) -> Graph {
    let (inputs, hidden, classes) = (5, 7, 3);
    let mut g = Graph::new();
    let x = g.input("x", f32s(&[batch, inputs]), O);
    let labels = g.input("labels", Ty::new(DType::I32, [batch]), O);
    let w1 = g.input("w1", f32s(&[inputs, hidden]), O);
    let b1 = g.input("b1", f32s(&[hidden]), O);
    let w2 = g.input("w2", f32s(&[hidden, classes]), O);
    let b2 = g.input("b2", f32s(&[classes]), O);
    let h = matmul(&mut g, x, w1);
    let b = g.broadcast_to(b1, &[batch, hidden], O);
    let h = g.map(ScalarOp::Add, &[h, b], O);
    let zero = g.splat(&f32s(&[batch, hidden]), 0.0, O);
    let h = g.map(ScalarOp::Max, &[h, zero], O);
    let y = matmul(&mut g, h, w2);
    let b = g.broadcast_to(b2, &[batch, classes], O);
    let y = g.map(ScalarOp::Add, &[y, b], O);
    let rows = |g: &mut Graph, v: NodeId| g.broadcast(v, &[0], &[batch, classes], O);
    let max = g.reduce(ReduceOp::Max, y, &[1], O);
    let max = g.op(Op::StopGradient, &[max], O);
    let shift = rows(&mut g, max);
    let y = g.map(ScalarOp::Sub, &[y, shift], O);
    let e = g.map(ScalarOp::Exp, &[y], O);
    let sum = g.reduce(ReduceOp::Sum, e, &[1], O);
    let log = g.map(ScalarOp::Log, &[sum], O);
    let log = rows(&mut g, log);
    let logp = g.map(ScalarOp::Sub, &[y, log], O);
    let index = g.iota(DType::I32, &[batch, classes], 1, O);
    let labels = rows(&mut g, labels);
    let hit = g.map(ScalarOp::Eq, &[index, labels], O);
    let none = g.splat(&f32s(&[batch, classes]), 0.0, O);
    let chosen = g.map(ScalarOp::Select, &[hit, logp, none], O);
    let total = g.reduce(ReduceOp::Sum, chosen, &[0, 1], O);
    let n = g.scalar(DType::F32, -(batch as f64), O);
    let loss = g.map(ScalarOp::Div, &[total, n], O);
    g.outputs.push(loss);
    g
}

fn inputs_of(g: &Graph) -> Vec<Tensor> {
    let fill = |(k, ty): (usize, &Ty)| {
        let values: Vec<f64> = (0..ty.len())
            .map(|i| if ty.dtype.is_float() { (((i * 37 + k * 11) % 23) as f64 - 11.0) / 9.0 } else { ((i + k) % 3) as f64 })
            .collect();
        Tensor::from_f64(ty.dtype, &ty.shape, &values)
    };
    g.input_types().iter().enumerate().map(fill).collect()
}

fn count(g: &Graph, pick: impl Fn(&Op) -> bool) -> usize {
    g.ids().filter(|&id| pick(&g.node(id).op)).count()
}

#[test]
fn gradient_of_a_network_is_small() {
    let f = network(4);
    let grad = vjp(&f, &[2, 3, 4, 5]).unwrap();
    verify(&grad).unwrap();
    let small = simplify(grad.clone(), &Config::default());
    verify(&small).unwrap();
    let inputs = inputs_of(&grad);
    let (want, got) = (interpret(&grad, &inputs).unwrap(), interpret(&small, &inputs).unwrap());
    for (a, b) in want.iter().zip(&got) {
        for (x, y) in a.to_f64().iter().zip(b.to_f64()) {
            assert!((x - y).abs() <= 1e-5 * x.abs().max(1e-2), "{x} became {y}");
        }
    }
    assert_eq!(count(&small, |op| matches!(op, Op::Dot(_))), 5, "{}", print(&small));
    assert_eq!(count(&small, |op| matches!(op, Op::Permute { .. } | Op::Pad { .. } | Op::Slice { .. } | Op::StopGradient)), 0);
    assert!(small.len() < grad.len(), "{} of {} nodes left", small.len(), grad.len());
}
