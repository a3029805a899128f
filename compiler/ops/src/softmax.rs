//! Softmax as a function with a derivative rule of its own.

use optc_ir::ScalarOp;
use optc_ir::graph::{CallOp, Graph, NodeId, Op, Origin, ReduceOp, Ty};
use std::sync::Arc;

/// `exp(x - max x) / sum exp(x - max x)` along axes, of a float array of type `ty`.
///
/// # Gradient
/// `p (ct - sum ct p)` from the result `p` alone. Differentiated operation by operation, the exponentials would be needed as
/// well, and once more exponentiated or kept.
pub(crate) fn softmax_call(ty: &Ty, axes: &[usize], o: Origin) -> CallOp {
    let mut body = Graph::new();
    let x = body.input("x", ty.clone(), o);
    let top = body.reduce(ReduceOp::Max, x, axes, o);
    let top = body.op(Op::StopGradient, &[top], o);
    let top = along(&mut body, top, ty, axes, o);
    let low = body.map(ScalarOp::Sub, &[x, top], o);
    let e = body.map(ScalarOp::Exp, &[low], o);
    let sum = body.reduce(ReduceOp::Sum, e, axes, o);
    // One division per row instead of one per element.
    let sums = body.ty(sum).clone();
    let one = body.splat(&sums, 1.0, o);
    let inverse = body.map(ScalarOp::Div, &[one, sum], o);
    let inverse = along(&mut body, inverse, ty, axes, o);
    body.outputs = vec![body.map(ScalarOp::Mul, &[e, inverse], o)];

    let mut rule = Graph::new();
    rule.input("x", ty.clone(), o);
    let p = rule.input("p", ty.clone(), o);
    let ct = rule.input("ct", ty.clone(), o);
    let weighted = rule.map(ScalarOp::Mul, &[ct, p], o);
    let mean = rule.reduce(ReduceOp::Sum, weighted, axes, o);
    let mean = along(&mut rule, mean, ty, axes, o);
    let rest = rule.map(ScalarOp::Sub, &[ct, mean], o);
    rule.outputs = vec![rule.map(ScalarOp::Mul, &[p, rest], o)];
    CallOp { name: "softmax".into(), body: Arc::new(body), vjp: Some(Arc::new(rule)) }
}

/// A reduced array spread over the axes it lost.
fn along(g: &mut Graph, r: NodeId, ty: &Ty, axes: &[usize], o: Origin) -> NodeId {
    let kept: Vec<usize> = (0..ty.rank()).filter(|i| !axes.contains(i)).collect();
    g.broadcast(r, &kept, &ty.shape, o)
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::{DType, Tensor};
    use optc_ir::interp::interpret;
    use optc_mid::differentiate::{jvp, vjp};

    fn program(own_rule: bool) -> Graph {
        let o = Origin::default();
        let ty = Ty::new(DType::F64, [2, 3]);
        let mut call = softmax_call(&ty, &[1], o);
        if !own_rule {
            call.vjp = None;
        }
        let mut g = Graph::new();
        let x = g.input("x", ty, o);
        let call = g.op(Op::Call(call), &[x], o);
        g.outputs = vec![g.result(call, 0, o)];
        g
    }

    #[test]
    fn the_rule_is_the_derivative_of_the_function() {
        let t = |v: &[f64]| Tensor::from_f64(DType::F64, &[2, 3], v);
        let at = [t(&[0.1, -0.7, 1.3, 2.0, 0.4, -0.5]), t(&[1.0, -2.0, 0.5, 0.3, 0.7, -0.1])];
        let close = |a: &[Tensor], b: &[Tensor]| {
            a.iter().zip(b).all(|(a, b)| a.to_f64().iter().zip(b.to_f64()).all(|(a, b)| (a - b).abs() < 1e-14))
        };
        let (own, plain) = (program(true), program(false));
        let run = |g: &Graph| interpret(g, &at).unwrap();
        assert!(close(&run(&vjp(&own, &[0]).unwrap()), &run(&vjp(&plain, &[0]).unwrap())));
        assert!(close(&run(&jvp(&own, &[0]).unwrap()), &run(&jvp(&plain, &[0]).unwrap())));
    }
}
