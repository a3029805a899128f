//! How often a step passes over memory, where norms stand between its parts.

mod common;
use common::{O, check_with, counts, input, inputs, map, text, with};
use optc_abi::DType;
use optc_abi::plan::Instr;
use optc_ir::graph::{ReduceOp, Ty};
use optc_ir::{Graph, NodeId, ScalarOp};
use optc_plan::{Config, Planned};

fn norm(g: &mut Graph, x: NodeId) -> NodeId {
    let q = map(g, ScalarOp::Mul, &[x, x]);
    let axes: Vec<usize> = (0..g.ty(x).rank()).collect();
    let s = g.reduce(ReduceOp::Sum, q, &axes, O);
    map(g, ScalarOp::Sqrt, &[s])
}

fn mean_of(g: &mut Graph, old: NodeId, new: NodeId, beta: f64) -> NodeId {
    let a = with(g, ScalarOp::Mul, old, beta);
    let b = with(g, ScalarOp::Mul, new, 1.0 - beta);
    map(g, ScalarOp::Add, &[a, b])
}

/// One step of LAMB on a leaf; the norm of the weights is asked for before or after the direction.
fn lamb(shape: &[usize], norm_first: bool) -> (Graph, Config) {
    let mut g = Graph::new();
    let rate = g.input("rate", Ty::scalar(DType::F32), O);
    let (w, m, v, grad) = (input(&mut g, shape), input(&mut g, shape), input(&mut g, shape), input(&mut g, shape));
    let first = norm_first.then(|| norm(&mut g, w));
    let m1 = mean_of(&mut g, m, grad, 0.9);
    let q = map(&mut g, ScalarOp::Mul, &[grad, grad]);
    let v = map(&mut g, ScalarOp::Abs, &[v]);
    let v1 = mean_of(&mut g, v, q, 0.999);
    let root = map(&mut g, ScalarOp::Sqrt, &[v1]);
    let root = with(&mut g, ScalarOp::Add, root, 1e-3);
    let u = map(&mut g, ScalarOp::Div, &[m1, root]);
    let decay = with(&mut g, ScalarOp::Mul, w, 0.01);
    let u = map(&mut g, ScalarOp::Add, &[u, decay]);
    let length = norm(&mut g, u);
    let size = first.unwrap_or_else(|| norm(&mut g, w));
    let trust = map(&mut g, ScalarOp::Div, &[size, length]);
    let trust = map(&mut g, ScalarOp::Mul, &[trust, rate]);
    let trust = g.broadcast(trust, &[], shape, O);
    let step = map(&mut g, ScalarOp::Mul, &[u, trust]);
    let w1 = map(&mut g, ScalarOp::Sub, &[w, step]);
    g.outputs = vec![w1, m1, v1];
    (g, Config { alias: vec![(0, 1), (1, 2), (2, 3)], ..Config::default() })
}

/// Kernels that go over arrays chunk by chunk.
fn passes(planned: &Planned) -> usize {
    planned.plan.code.iter().filter(|i| matches!(i, Instr::Kernel { calls, .. } if calls.iter().any(|c| !c.sizes.is_empty()))).count()
}

#[test]
fn moments_and_both_norms_are_one_pass_and_the_step_another() {
    // Whether the number of chunks divides that of elements, or not.
    for shape in [vec![512, 256], vec![300, 211], vec![70_001]] {
        for norm_first in [false, true] {
            let (g, config) = lamb(&shape, norm_first);
            let planned = check_with(&g, &config, &inputs(&g));
            assert_eq!(passes(&planned), 2, "{shape:?} {norm_first}: {}", text(&planned));
            assert_eq!(counts(&planned).0, 3, "and one for the ends of the sums: {}", text(&planned));
        }
    }
}

#[test]
fn norms_of_inputs_wait_no_longer_than_they_may() {
    // The scale is asked for before anything else reads the array.
    let mut g = Graph::new();
    let (w, x) = (input(&mut g, &[300, 211]), input(&mut g, &[300, 211]));
    let size = norm(&mut g, w);
    let size = g.broadcast(size, &[], &[300, 211], O);
    let scaled = map(&mut g, ScalarOp::Div, &[w, size]);
    let y = map(&mut g, ScalarOp::Mul, &[scaled, x]);
    let length = norm(&mut g, y);
    let all = norm(&mut g, x);
    g.outputs = vec![y, length, all];
    let planned = check_with(&g, &Config::default(), &inputs(&g));
    assert_eq!(passes(&planned), 2, "the norm of x is taken with that of y: {}", text(&planned));
}

#[test]
fn an_array_that_a_state_takes_over_is_written_by_the_update() {
    let mut g = Graph::new();
    let shape = [300, 211];
    let (w, m, before, grad) = (input(&mut g, &shape), input(&mut g, &shape), input(&mut g, &shape), input(&mut g, &shape));
    let change = map(&mut g, ScalarOp::Sub, &[grad, before]);
    let m1 = mean_of(&mut g, m, change, 0.9);
    let step = with(&mut g, ScalarOp::Mul, m1, 0.1);
    let w1 = map(&mut g, ScalarOp::Sub, &[w, step]);
    g.outputs = vec![w1, m1, grad];
    let planned = check_with(&g, &Config { alias: vec![(0, 0), (1, 1), (2, 2)], ..Config::default() }, &inputs(&g));
    assert_eq!(counts(&planned), (1, 1, 0), "{}", text(&planned));
    // The weights of the step before.
    g.outputs = vec![w1, m1, w];
    let planned = check_with(&g, &Config { alias: vec![(0, 0), (1, 1), (2, 2)], ..Config::default() }, &inputs(&g));
    assert_eq!(counts(&planned), (1, 1, 0), "{}", text(&planned));
    // Arrays that change places.
    g.outputs = vec![m, w];
    check_with(&g, &Config { alias: vec![(0, 0), (1, 1)], ..Config::default() }, &inputs(&g));
}
