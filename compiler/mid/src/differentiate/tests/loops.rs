//! Loops: carried, scanned, stacked and invariant values, both directions, nested, with a run-time number of passes.

use super::{Build, Noise, O, check, first_order, gradient};
use crate::differentiate::vjp;
use optc_abi::{DType, Tensor};
use optc_ir::ScalarOp::{Add, Mul, Sigmoid, Sin, Tanh};
use optc_ir::graph::{DotDims, Graph, LoopOp, NodeId, Op, ReduceOp, Ty};
use std::sync::Arc;

/// A body with an f64 input of each given shape after the counter.
fn body(shapes: &[&[usize]], build: impl Fn(&mut Graph, NodeId, &[NodeId]) -> Vec<NodeId>) -> Arc<Graph> {
    let mut g = Graph::new();
    let i = g.input("i", Ty::scalar(DType::I32), O);
    let x: Vec<NodeId> =
        shapes.iter().enumerate().map(|(k, s)| g.input(format!("x{k}"), Ty::new(DType::F64, s.iter().copied()), O)).collect();
    g.outputs = build(&mut g, i, &x);
    Arc::new(g)
}

/// c <- tanh(c * w + s) with `c * s` stacked; inputs c, s, w.
fn recurrent(trip: usize, reverse: bool) -> Graph {
    let body = body(&[&[2], &[2], &[2]], |g, _, x| {
        let scaled = g.map(Mul, &[x[0], x[2]], O);
        let sum = g.map(Add, &[scaled, x[1]], O);
        let next = g.map(Tanh, &[sum], O);
        let out = g.map(Mul, &[x[0], x[1]], O);
        vec![next, out]
    });
    let mut b = Build::new();
    let (c, s, w) = (b.input(&[2]), b.input(&[trip, 2]), b.input(&[2]));
    let results = b.g.loop_results(LoopOp { trip: Some(trip), reverse, carried: 1, scanned: 1, guard: None, body }, &[c, s, w], O);
    b.finish(&results)
}

fn point(shapes: &[&[usize]]) -> Vec<Tensor> {
    let mut noise = Noise::new(11);
    shapes.iter().map(|s| noise.tensor(s, 0.3, 1.2)).collect()
}

#[test]
fn carried_scanned_stacked_and_invariant_values() {
    for trip in [0, 1, 4] {
        for reverse in [false, true] {
            let f = recurrent(trip, reverse);
            let at = point(&[&[2], &[trip, 2], &[2]]);
            check(&f, &[0, 1, 2], &at);
            for k in 0..3 {
                check(&f, &[k], &at);
            }
        }
    }
}

#[test]
fn third_order_through_a_loop() {
    let f = recurrent(3, false);
    let at = point(&[&[2], &[3, 2], &[2]]);
    let mut noise = Noise::new(21);
    let (u, v) = (noise.tensor(&[2], -1.0, 1.0), noise.tensor(&[3, 2], -1.0, 1.0));
    let gradient = vjp(&f, &[0, 2]).unwrap();
    let mut gradient_only = gradient.clone();
    gradient_only.outputs.drain(..2);
    let mut second = vjp(&gradient_only, &[0, 2]).unwrap();
    second.outputs.drain(..2);
    let w = [noise.tensor(&[2], -1.0, 1.0), noise.tensor(&[2], -1.0, 1.0)];
    first_order(&second, &[0, 1, 2], &[&at[..], &[u, v], &w].concat(), "second derivative");
}

#[test]
fn only_some_results_matter() {
    let full = recurrent(3, false);
    for keep in [0, 1] {
        let mut f = full.clone();
        f.outputs = vec![full.outputs[keep]];
        check(&f, &[0, 1, 2], &point(&[&[2], &[3, 2], &[2]]));
    }
}

#[test]
fn carried_values_that_feed_each_other_late() {
    // a <- b, b <- c, c <- sin(a) s: activity takes several rounds to reach every carried value.
    let body = body(&[&[], &[], &[], &[]], |g, _, x| {
        let sine = g.map(Sin, &[x[0]], O);
        let c = g.map(Mul, &[sine, x[3]], O);
        vec![x[1], x[2], c]
    });
    let mut b = Build::new();
    let (x, s) = (b.input(&[]), b.input(&[5]));
    let (p, q) = (b.g.scalar(DType::F64, 0.4, O), b.g.scalar(DType::F64, 0.9, O));
    let results = b.g.loop_results(LoopOp { trip: Some(5), reverse: false, carried: 3, scanned: 1, guard: None, body }, &[p, q, x, s], O);
    let f = b.finish(&results);
    let at = point(&[&[], &[5]]);
    check(&f, &[0, 1], &at);
    check(&f, &[0], &at);
    check(&f, &[1], &at);
}

#[test]
fn carried_integers_and_the_counter_are_read_but_have_no_gradient() {
    let mut g = Graph::new();
    let i = g.input("i", Ty::scalar(DType::I32), O);
    let n = g.input("n", Ty::scalar(DType::I32), O);
    let c = g.input("c", Ty::scalar(DType::F64), O);
    let (fi, fn_) = (g.cast(i, DType::F64, O), g.cast(n, DType::F64, O));
    let more = g.map(Add, &[n, i], O);
    let scaled = g.map(Mul, &[c, fn_], O);
    let sine = g.map(Sin, &[scaled], O);
    let next = g.map(Add, &[sine, fi], O);
    let next = g.map(Mul, &[next, c], O);
    g.outputs = vec![more, next, n];
    let mut b = Build::new();
    let x = b.input(&[]);
    let start = b.g.scalar(DType::I32, 1.0, O);
    let op = LoopOp { trip: Some(4), reverse: false, carried: 2, scanned: 0, guard: None, body: Arc::new(g) };
    let results = b.g.loop_results(op, &[start, x], O);
    check(&b.finish(&results), &[0], &[Tensor::from_f64(DType::F64, &[], &[0.7])]);
}

#[test]
fn nested_loops() {
    let inner = body(&[&[2], &[2], &[2]], |g, _, x| {
        let sine = g.map(Sin, &[x[0]], O);
        let scaled = g.map(Mul, &[sine, x[2]], O);
        let next = g.map(Add, &[scaled, x[1]], O);
        vec![next, sine]
    });
    let outer = body(&[&[2], &[3, 2], &[2]], |g, _, x| {
        let op = LoopOp { trip: Some(3), reverse: true, carried: 1, scanned: 1, guard: None, body: inner.clone() };
        let results = g.loop_results(op, &[x[0], x[1], x[2]], O);
        let sum = g.reduce(ReduceOp::Sum, results[1], &[0], O);
        let next = g.map(Mul, &[results[0], sum], O);
        vec![next]
    });
    let mut b = Build::new();
    let (c, s, w) = (b.input(&[2]), b.input(&[2, 3, 2]), b.input(&[2]));
    let results =
        b.g.loop_results(LoopOp { trip: Some(2), reverse: false, carried: 1, scanned: 1, guard: None, body: outer }, &[c, s, w], O);
    let f = b.finish(&results);
    check(&f, &[0, 1, 2], &point(&[&[2], &[2, 3, 2], &[2]]));
}

/// c <- c (2 sin(w) + i) or sin(c) (2 sin(w) + i), run `n` times; inputs c, w, n.
fn counted_at_run_time(nonlinear: bool, reverse: bool) -> Graph {
    let body = body(&[&[], &[]], |g, i, x| {
        let two = g.scalar(DType::F64, 2.0, O);
        let i = g.cast(i, DType::F64, O);
        let factor = g.map(Sin, &[x[1]], O);
        let factor = g.map(Mul, &[factor, two], O);
        let factor = g.map(Add, &[factor, i], O);
        let value = if nonlinear { g.map(Sin, &[x[0]], O) } else { x[0] };
        let next = g.map(Mul, &[value, factor], O);
        vec![next]
    });
    let mut b = Build::new();
    let (c, w, n) = (b.input(&[]), b.input(&[]), b.int_input(&[]));
    let results = b.g.loop_results(LoopOp { trip: None, reverse, carried: 1, scanned: 0, guard: None, body }, &[n, c, w], O);
    b.finish(&results)
}

#[test]
fn a_run_time_number_of_passes() {
    for nonlinear in [false, true] {
        for reverse in [false, true] {
            let f = counted_at_run_time(nonlinear, reverse);
            for n in [0, 1, 4, -2] {
                let at = [Tensor::from_f64(DType::F64, &[], &[0.8]), Tensor::from_f64(DType::F64, &[], &[0.4]), Tensor::scalar(n)];
                check(&f, &[0], &at);
                check(&f, &[0, 1], &at);
            }
        }
    }
}

#[test]
fn a_linear_loop_with_a_run_time_number_of_passes_is_not_replayed() {
    let reverse = vjp(&counted_at_run_time(false, false), &[0]).unwrap();
    for id in reverse.ids() {
        if let Op::Loop(l) = &reverse.node(id).op {
            assert!(l.body.ids().all(|id| !matches!(l.body.node(id).op, Op::Loop(_))));
        }
    }
}

/// The loops of a graph, by number of carried, scanned and stacked values.
fn loops(g: &Graph) -> Vec<(usize, usize, usize)> {
    g.ids()
        .filter_map(|id| match &g.node(id).op {
            Op::Loop(l) => Some((l.carried, l.scanned, l.body.outputs.len() - l.carried)),
            _ => None,
        })
        .collect()
}

#[test]
fn invariants_are_not_stacked() {
    // y_i = s_i * exp(w): exp(w) and its derivative are the same in every pass.
    let body = body(&[&[2], &[2]], |g, _, x| {
        let e = g.map(optc_ir::ScalarOp::Exp, &[x[1]], O);
        vec![g.map(Mul, &[x[0], e], O)]
    });
    let mut b = Build::new();
    let (s, w) = (b.input(&[4, 2]), b.input(&[2]));
    let results = b.g.loop_results(LoopOp { trip: Some(4), reverse: false, carried: 0, scanned: 1, guard: None, body }, &[s, w], O);
    let f = b.finish(&results);
    check(&f, &[0, 1], &point(&[&[4, 2], &[2]]));
    // The loop itself stacks its own result only; the backward loop carries the sum for w and reads s and the cotangent.
    assert_eq!(loops(&vjp(&f, &[0, 1]).unwrap()), [(0, 1, 1), (1, 2, 1)]);
}

#[test]
fn a_tanh_cell_stacks_two_values_per_pass() {
    // tanh' comes from its result; the factor's gradient needs the carried value; 1 - tanh^2 is computed anew.
    let f = recurrent(4, false);
    let found = loops(&vjp(&f, &[0, 1, 2]).unwrap());
    assert_eq!(found[0], (1, 1, 1 + 2), "own stacked result, carried value, tanh");
}

#[test]
fn sums_over_passes_have_a_fixed_order() {
    // The gradient in an invariant is added up from the last pass to the first, in f32 visibly so.
    let mut body = Graph::new();
    body.input("i", Ty::scalar(DType::I32), O);
    let s = body.input("s", Ty::scalar(DType::F32), O);
    let w = body.input("w", Ty::scalar(DType::F32), O);
    let product = body.map(Mul, &[s, w], O);
    body.outputs = vec![product];
    let mut g = Graph::new();
    let s = g.input("s", Ty::new(DType::F32, [3]), O);
    let w = g.input("w", Ty::scalar(DType::F32), O);
    let op = LoopOp { trip: Some(3), reverse: false, carried: 0, scanned: 1, guard: None, body: Arc::new(body) };
    g.outputs = g.loop_results(op, &[s, w], O);
    let at = [Tensor::from_slice(&[3], &[1e8f32, 1.0, -1e8]), Tensor::scalar(1f32)];
    let ones = [Tensor::from_slice(&[3], &[1f32; 3])];
    assert_eq!(gradient(&g, &[1], &at, &ones), [[0.0]]);
    let at = [Tensor::from_slice(&[3], &[1f32, 1e8, -1e8]), Tensor::scalar(1f32)];
    assert_eq!(gradient(&g, &[1], &at, &ones), [[1.0]]);
}

#[test]
fn an_embedding_in_a_loop_scatters_into_its_running_sum() {
    let mut body = Graph::new();
    body.input("i", Ty::scalar(DType::I32), O);
    let id = body.input("id", Ty::scalar(DType::I32), O);
    let table = body.input("table", Ty::new(DType::F64, [4, 2]), O);
    let row = body.gather(table, id, 0, O);
    let square = body.map(Mul, &[row, row], O);
    body.outputs = vec![square];
    let mut b = Build::new();
    let (ids, table) = (b.int_input(&[3]), b.input(&[4, 2]));
    let op = LoopOp { trip: Some(3), reverse: false, carried: 0, scanned: 1, guard: None, body: Arc::new(body) };
    let results = b.g.loop_results(op, &[ids, table], O);
    let f = b.finish(&results);
    check(&f, &[1], &[super::ints(&[3], &[1, 3, 1]), Noise::new(3).tensor(&[4, 2], -1.0, 1.0)]);
    let reverse = vjp(&f, &[1]).unwrap();
    let adds_tables = |g: &Graph| g.ids().any(|id| g.node(id).op == Op::Map(Add) && g.ty(id).shape[..] == [4, 2]);
    for id in reverse.ids() {
        if let Op::Loop(l) = &reverse.node(id).op {
            assert!(!adds_tables(&l.body));
        }
    }
}

#[test]
fn what_a_loop_stacks_anyway_is_not_stacked_twice() {
    // h <- tanh(h + s), every h stacked: the derivative needs h alone.
    let body = body(&[&[2], &[2]], |g, _, x| {
        let sum = g.map(Add, &[x[0], x[1]], O);
        let next = g.map(Tanh, &[sum], O);
        vec![next, next]
    });
    let mut b = Build::new();
    let (h, s) = (b.input(&[2]), b.input(&[4, 2]));
    let results = b.g.loop_results(LoopOp { trip: Some(4), reverse: false, carried: 1, scanned: 1, guard: None, body }, &[h, s], O);
    let f = b.finish(&results);
    check(&f, &[0, 1], &point(&[&[2], &[4, 2]]));
    assert_eq!(loops(&vjp(&f, &[0, 1]).unwrap())[0], (1, 1, 1));
}

/// h <- tanh(h u + x w + v), all h stacked; inputs h [B, H], x [T, B, D], u [H, H], w [D, H], v [H].
fn recurrent_layer(t: usize, b: usize, d: usize, h: usize) -> Graph {
    let product = || DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
    let body = body(&[&[b, h], &[b, d], &[h, h], &[d, h], &[h]], |g, _, x| {
        let (hu, xw) = (g.dot(x[0], x[2], product(), O), g.dot(x[1], x[3], product(), O));
        let sum = g.map(Add, &[hu, xw], O);
        let v = g.broadcast(x[4], &[1], &[b, h], O);
        let sum = g.map(Add, &[sum, v], O);
        let next = g.map(Tanh, &[sum], O);
        vec![next, next]
    });
    let mut build = Build::new();
    let inputs = [vec![b, h], vec![t, b, d], vec![h, h], vec![d, h], vec![h]].map(|s| build.input(&s));
    let results = build.g.loop_results(LoopOp { trip: Some(t), reverse: false, carried: 1, scanned: 1, guard: None, body }, &inputs, O);
    build.finish(&results)
}

#[test]
fn weights_of_a_recurrent_layer_are_multiplied_once_after_the_loop() {
    let f = recurrent_layer(3, 1, 3, 4);
    let shapes = f.input_types();
    let shapes: Vec<&[usize]> = shapes.iter().map(|t| &t.shape[..]).collect();
    check(&f, &[0, 1, 2, 3, 4], &point(&shapes));
    let reverse = vjp(&f, &[0, 1, 2, 3, 4]).unwrap();
    // The loop stacks h and the carried h; backward it carries the cotangent of h and stacks that of x and that of the sum.
    assert_eq!(loops(&reverse), [(1, 1, 2), (1, 2, 2)]);
    let products = reverse.ids().filter(|&id| matches!(reverse.node(id).op, Op::Dot(_))).count();
    assert_eq!(products, 2, "u and w");
}

#[test]
fn a_large_batch_adds_its_weights_up_in_the_loop() {
    let f = recurrent_layer(2, 20, 2, 2);
    let shapes = f.input_types();
    let shapes: Vec<&[usize]> = shapes.iter().map(|t| &t.shape[..]).collect();
    first_order(&f, &[2, 3, 4], &point(&shapes), "layer");
    let reverse = vjp(&f, &[2, 3, 4]).unwrap();
    assert!(reverse.ids().all(|id| !matches!(reverse.node(id).op, Op::Dot(_))));
}

#[test]
fn a_long_short_term_memory_keeps_each_gate_once() {
    let (t, n, h) = (3, 2, 3);
    let product = || DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
    let body = body(&[&[n, h], &[n, h], &[n, 4 * h], &[h, 4 * h]], |g, _, x| {
        let hu = g.dot(x[0], x[3], product(), O);
        let z = g.map(Add, &[hu, x[2]], O);
        let gates: Vec<NodeId> = (0..4)
            .map(|k| {
                let part = g.slice_axis(z, 1, k * h, (k + 1) * h, O);
                g.map(if k == 3 { Tanh } else { Sigmoid }, &[part], O)
            })
            .collect();
        let (keep, write) = (g.map(Mul, &[gates[1], x[1]], O), g.map(Mul, &[gates[0], gates[3]], O));
        let cell = g.map(Add, &[keep, write], O);
        let shown = g.map(Tanh, &[cell], O);
        let hidden = g.map(Mul, &[gates[2], shown], O);
        vec![hidden, cell, hidden]
    });
    let mut build = Build::new();
    let inputs = [vec![n, h], vec![n, h], vec![t, n, 4 * h], vec![h, 4 * h]].map(|s| build.input(&s));
    let results = build.g.loop_results(LoopOp { trip: Some(t), reverse: false, carried: 2, scanned: 1, guard: None, body }, &inputs, O);
    let f = build.finish(&results);
    let shapes = f.input_types();
    let shapes: Vec<&[usize]> = shapes.iter().map(|t| &t.shape[..]).collect();
    check(&f, &[0, 1, 2, 3], &point(&shapes));
    let found = loops(&vjp(&f, &[0, 1, 2, 3]).unwrap());
    // Four gates, tanh of the cell, and the carried cell and hidden state; beside the hidden states stacked anyway.
    assert_eq!(found[0], (2, 1, 1 + 7));
}
