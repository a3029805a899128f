//! Conditionals, calls with rules of their own, checkpoints.

use super::{Build, Noise, O, check, first_order, gradient, one, vector};
use crate::differentiate::{checkpoint, jvp, vjp, vjp_of};
use optc_abi::{DType, Tensor};
use optc_ir::ScalarOp::{Add, Cos, Exp, Lt, Mul, Sin, Tanh};
use optc_ir::graph::{CallOp, Graph, LoopOp, NodeId, Op, ReduceOp, Ty};
use optc_ir::interp::interpret;
use std::sync::Arc;

fn branch(inputs: &[&[usize]], build: impl Fn(&mut Graph, &[NodeId]) -> Vec<NodeId>) -> Arc<Graph> {
    let mut g = Graph::new();
    let x: Vec<NodeId> =
        inputs.iter().enumerate().map(|(k, s)| g.input(format!("x{k}"), Ty::new(DType::F64, s.iter().copied()), O)).collect();
    g.outputs = build(&mut g, &x);
    Arc::new(g)
}

/// Branches on the sign of the sum of x: (sin(x y), x) or (exp(x) cos(exp(x)), tanh(y) y).
fn conditional() -> Graph {
    let then = branch(&[&[2], &[2]], |g, x| {
        let product = g.map(Mul, &[x[0], x[1]], O);
        vec![g.map(Sin, &[product], O), x[0]]
    });
    let otherwise = branch(&[&[2], &[2]], |g, x| {
        let e = g.map(Exp, &[x[0]], O);
        let c = g.map(Cos, &[e], O);
        let t = g.map(Tanh, &[x[1]], O);
        vec![g.map(Mul, &[e, c], O), g.map(Mul, &[t, x[1]], O)]
    });
    let mut b = Build::new();
    let (x, y) = (b.input(&[2]), b.input(&[2]));
    let sum = b.g.reduce(ReduceOp::Sum, x, &[0], O);
    let zero = b.g.scalar(DType::F64, 0.0, O);
    let pred = b.g.map(Lt, &[zero, sum], O);
    let results = b.g.cond_results(pred, then, otherwise, &[x, y], O);
    b.finish(&results)
}

#[test]
fn both_branches() {
    let f = conditional();
    for x in [[1.0, 0.5], [-1.0, -0.5]] {
        let at = [vector(&x), vector(&[0.7, -0.3])];
        check(&f, &[0, 1], &at);
        check(&f, &[0], &at);
        check(&f, &[1], &at);
    }
}

#[test]
fn branches_share_places_for_residuals() {
    let reverse = vjp(&conditional(), &[0, 1]).unwrap();
    let first = reverse.ids().find_map(|id| match &reverse.node(id).op {
        Op::Cond { then, .. } => Some(then.outputs.len()),
        _ => None,
    });
    // Two results; one branch keeps cos(x y), the other e^x, cos(e^x), sin(e^x) and tanh(y).
    assert_eq!(first.unwrap(), 2 + 4);
}

#[test]
fn a_conditional_in_a_loop_in_a_conditional() {
    let double = branch(&[&[2]], |g, x| vec![g.map(Add, &[x[0], x[0]], O)]);
    let wave = branch(&[&[2]], |g, x| vec![g.map(Sin, &[x[0]], O)]);
    let mut body = Graph::new();
    let i = body.input("i", Ty::scalar(DType::I32), O);
    let c = body.input("c", Ty::new(DType::F64, [2]), O);
    let w = body.input("w", Ty::new(DType::F64, [2]), O);
    let limit = body.scalar(DType::I32, 2.0, O);
    let pred = body.map(Lt, &[i, limit], O);
    let scaled = body.map(Mul, &[c, w], O);
    let next = body.cond_results(pred, wave, double.clone(), &[scaled], O)[0];
    body.outputs = vec![next, c];
    let body = Arc::new(body);
    let looping = branch(&[&[2], &[2]], |g, x| {
        let op = LoopOp { trip: Some(4), reverse: false, carried: 1, scanned: 0, guard: None, body: body.clone() };
        let results = g.loop_results(op, &[x[0], x[1]], O);
        let sum = g.reduce(ReduceOp::Sum, results[1], &[0], O);
        vec![g.map(Mul, &[results[0], sum], O)]
    });
    let plain = branch(&[&[2], &[2]], |g, x| vec![g.map(Mul, &[x[0], x[1]], O)]);
    for yes in [1.0, 0.0] {
        let mut b = Build::new();
        let (x, w) = (b.input(&[2]), b.input(&[2]));
        let pred = b.g.scalar(DType::Bool, yes, O);
        let results = b.g.cond_results(pred, looping.clone(), plain.clone(), &[x, w], O);
        check(&b.finish(&results), &[0, 1], &[vector(&[0.4, 1.1]), vector(&[0.8, -0.6])]);
    }
}

#[test]
fn results_of_a_conditional_serve_as_residuals() {
    let then = branch(&[&[2]], |g, x| vec![g.map(Tanh, &[x[0]], O)]);
    let otherwise = branch(&[&[2]], |g, x| vec![g.map(Exp, &[x[0]], O)]);
    for yes in [1.0, 0.0] {
        let mut b = Build::new();
        let x = b.input(&[2]);
        let pred = b.g.scalar(DType::Bool, yes, O);
        let results = b.g.cond_results(pred, then.clone(), otherwise.clone(), &[x], O);
        let f = b.finish(&results);
        check(&f, &[0], &[vector(&[0.4, 1.1])]);
        let reverse = vjp(&f, &[0]).unwrap();
        assert!(reverse.ids().all(|id| !matches!(&reverse.node(id).op, Op::Cond { then, .. } if then.outputs.len() > 1)));
    }
}

#[test]
fn outputs_without_cotangents_cost_nothing() {
    let mut b = Build::new();
    let x = b.input(&[2]);
    let (loss, metric) = (b.g.map(Sin, &[x], O), b.g.map(Exp, &[x], O));
    let metric = b.g.map(Tanh, &[metric], O);
    let f = b.finish(&[metric, loss]);
    let g = vjp_of(&f, &[0], &[1]).unwrap();
    assert_eq!((g.inputs.len(), g.outputs.len()), (2, 3));
    let plain = f.live().len();
    assert_eq!(g.len(), plain + 3, "a cotangent, a cosine and a product");
}

/// sin with the rule `3 ct` in place of its derivative.
fn own_rule() -> CallOp {
    let body = branch(&[&[2]], |g, x| vec![g.map(Sin, &[x[0]], O)]);
    let rule = branch(&[&[2], &[2], &[2]], |g, x| {
        let ty = g.ty(x[0]).clone();
        let three = g.splat(&ty, 3.0, O);
        vec![g.map(Mul, &[x[2], three], O)]
    });
    CallOp { name: "sine".into(), body, vjp: Some(rule) }
}

fn calling(call: CallOp) -> Graph {
    let mut b = Build::new();
    let x = b.input(&[2]);
    let square = b.g.map(Mul, &[x, x], O);
    let call = b.g.op(Op::Call(call), &[square], O);
    let z = b.g.result(call, 0, O);
    b.finish(&[z])
}

#[test]
fn a_rule_of_ones_own_holds_in_both_modes() {
    let f = calling(own_rule());
    let at = vector(&[0.5, 2.0]);
    assert_eq!(gradient(&f, &[0], std::slice::from_ref(&at), &[vector(&[1.0, 1.0])]), [[3.0, 12.0]]);
    let forward = interpret(&jvp(&f, &[0]).unwrap(), &[at, vector(&[1.0, -1.0])]).unwrap();
    assert_eq!(forward[1].to_f64(), [3.0, -12.0]);
}

#[test]
fn a_rule_that_reads_operands_and_results_is_differentiated_itself() {
    // sin with its true derivative, written as a rule: cos from the operand plus a term that vanishes, sin - result.
    let body = branch(&[&[2]], |g, x| vec![g.map(Sin, &[x[0]], O)]);
    let rule = branch(&[&[2], &[2], &[2]], |g, x| {
        let (c, s) = (g.map(Cos, &[x[0]], O), g.map(Sin, &[x[0]], O));
        let nothing = g.map(optc_ir::ScalarOp::Sub, &[s, x[1]], O);
        let factor = g.map(Add, &[c, nothing], O);
        vec![g.map(Mul, &[x[2], factor], O)]
    });
    let f = calling(CallOp { name: "sine".into(), body, vjp: Some(rule) });
    check(&f, &[0], &[vector(&[0.5, 1.2])]);
}

#[test]
fn a_rule_may_work_with_another_float_type() {
    let mut rule = Graph::new();
    for name in ["x", "z"] {
        rule.input(name, Ty::new(DType::F64, [2]), O);
    }
    let ct = rule.input("ct", Ty::new(DType::F32, [2]), O);
    rule.outputs = vec![rule.map(Add, &[ct, ct], O)];
    let call = CallOp { vjp: Some(Arc::new(rule)), ..own_rule() };
    let f = calling(call);
    let at = vector(&[0.5, 2.0]);
    assert_eq!(gradient(&f, &[0], std::slice::from_ref(&at), &[vector(&[1.0, 1.0])]), [[2.0, 8.0]]);
    let forward = interpret(&jvp(&f, &[0]).unwrap(), &[at, vector(&[1.0, -1.0])]).unwrap();
    assert_eq!(forward[1].to_f64(), [2.0, -8.0]);
}

#[test]
fn a_call_without_a_rule_is_its_body() {
    let body = branch(&[&[2]], |g, x| vec![g.map(Sin, &[x[0]], O)]);
    check(&calling(CallOp { name: "sine".into(), body, vjp: None }), &[0], &[vector(&[0.5, 1.2])]);
}

/// A loop of `n` passes over c <- sin(exp(sin(c)) w), each checkpointed if asked.
fn deep(n: usize, recompute: bool) -> Graph {
    let step = branch(&[&[2], &[2]], |g, x| {
        let s = g.map(Sin, &[x[0]], O);
        let e = g.map(Exp, &[s], O);
        let product = g.map(Mul, &[e, x[1]], O);
        vec![g.map(Sin, &[product], O)]
    });
    let mut body = Graph::new();
    body.input("i", Ty::scalar(DType::I32), O);
    let c = body.input("c", Ty::new(DType::F64, [2]), O);
    let w = body.input("w", Ty::new(DType::F64, [2]), O);
    let next = if recompute {
        let call = body.op(Op::Call(checkpoint("step", step).unwrap()), &[c, w], O);
        body.result(call, 0, O)
    } else {
        body.inline(&step, &[c, w], "")[0]
    };
    body.outputs = vec![next];
    let mut b = Build::new();
    let (c, w) = (b.input(&[2]), b.input(&[2]));
    let op = LoopOp { trip: Some(n), reverse: false, carried: 1, scanned: 0, guard: None, body: Arc::new(body) };
    let results = b.g.loop_results(op, &[c, w], O);
    b.finish(&results)
}

#[test]
fn a_checkpoint_keeps_operands_only_and_changes_no_gradient() {
    let stacked = |f: &Graph| {
        let reverse = vjp(f, &[0, 1]).unwrap();
        reverse
            .ids()
            .find_map(|id| match &reverse.node(id).op {
                Op::Loop(l) => Some(l.body.outputs.len() - l.carried),
                _ => None,
            })
            .unwrap()
    };
    let at = [vector(&[0.4, 1.1]), vector(&[0.8, -0.6])];
    let (plain, lean) = (deep(3, false), deep(3, true));
    assert_eq!(stacked(&lean), 1);
    assert!(stacked(&plain) > 1);
    let ct = [vector(&[1.0, -2.0])];
    assert_eq!(gradient(&plain, &[0, 1], &at, &ct), gradient(&lean, &[0, 1], &at, &ct));
    check(&lean, &[0, 1], &at);
}

#[test]
fn integer_arguments_and_results_of_calls_have_no_cotangents() {
    let mut body = Graph::new();
    let x = body.input("x", Ty::new(DType::F64, [3]), O);
    let n = body.input("n", Ty::scalar(DType::I32), O);
    let row = body.gather(x, n, 0, O);
    let row = body.map(Mul, &[row, row], O);
    body.outputs = vec![n, row];
    let call = checkpoint("row", Arc::new(body)).unwrap();
    let mut b = Build::new();
    let (x, n) = (b.input(&[3]), b.int_input(&[]));
    let call = b.g.op(Op::Call(call), &[x, n], O);
    let (id, row) = (b.g.result(call, 0, O), b.g.result(call, 1, O));
    let f = b.finish(&[id, row]);
    check(&f, &[0], &[Noise::new(2).tensor(&[3], 0.5, 1.0), Tensor::scalar(1i32)]);
}

#[test]
fn integers_cannot_be_differentiated() {
    let mut b = Build::new();
    let n = b.int_input(&[]);
    let f = b.finish(&[n]);
    assert!(vjp(&f, &[0]).unwrap_err().message.contains("only floats"));
    assert!(jvp(&f, &[0]).is_err());
}

#[test]
fn origins_of_derivatives_name_the_primal_text() {
    use optc_base::{SourceId, Span};
    use optc_ir::Origin;
    let here = Origin { span: Span { source: SourceId(0), start: 3, end: 9 }, via: "" };
    let mut b = Build::new();
    let x = b.input(&[]);
    let z = b.g.map(Sin, &[x], here);
    let f = b.finish(&[z]);
    let reverse = vjp(&f, &[0]).unwrap();
    let cosine = reverse.ids().find(|&id| reverse.node(id).op == Op::Map(Cos)).unwrap();
    assert_eq!(reverse.origin(cosine), Origin { via: "grad", ..here });
    first_order(&f, &[0], &[one()], "f");
}
