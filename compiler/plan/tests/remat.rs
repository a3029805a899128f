//! What is computed again instead of kept, and how little memory that takes.

mod common;
use common::{O, check, input, map, text, with};
use optc_ir::graph::{DotDims, ReduceOp};
use optc_ir::{Graph, NodeId, ScalarOp};
use optc_plan::{Config, Planned, plan};

const ROWS: usize = 256;
const WIDE: usize = 256;
const NARROW: usize = 4;
/// Bytes of one wide array.
const ARRAY: usize = ROWS * WIDE * 4;

fn dot(g: &mut Graph, a: NodeId, b: NodeId, lhs: usize, rhs: usize) -> NodeId {
    let dims = DotDims { lhs_contract: [lhs].as_slice().into(), rhs_contract: [rhs].as_slice().into(), ..DotDims::default() };
    g.dot(a, b, dims, O)
}

/// An activation and what its derivative needs, as differentiation makes it: the value, a factor of the cotangent, and a factor of the cotangent
/// times the argument.
type Activation = fn(&mut Graph, NodeId) -> (NodeId, NodeId, Option<NodeId>);

fn activation(g: &mut Graph, x: NodeId, t: NodeId) -> (NodeId, NodeId, Option<NodeId>) {
    let up = with(g, ScalarOp::Add, t, 1.0);
    let square = map(g, ScalarOp::Mul, &[t, t]);
    let square = map(g, ScalarOp::Neg, &[square]);
    let slope = with(g, ScalarOp::Add, square, 1.0);
    (map(g, ScalarOp::Mul, &[x, up]), up, Some(slope))
}

/// x (1 + tanh x)
fn gelu(g: &mut Graph, x: NodeId) -> (NodeId, NodeId, Option<NodeId>) {
    let t = map(g, ScalarOp::Tanh, &[x]);
    activation(g, x, t)
}

/// The same with something that is quick to compute.
fn quick(g: &mut Graph, x: NodeId) -> (NodeId, NodeId, Option<NodeId>) {
    let t = map(g, ScalarOp::Abs, &[x]);
    activation(g, x, t)
}

/// Layers of wide products of narrow ones, forward and backward; the outputs are the gradients of all weights.
fn layers(count: usize, activation: Activation) -> Graph {
    let mut g = Graph::new();
    let mut x = input(&mut g, &[ROWS, NARROW]);
    let weights: Vec<(NodeId, NodeId)> = (0..count).map(|_| (input(&mut g, &[NARROW, WIDE]), input(&mut g, &[WIDE, NARROW]))).collect();
    let mut kept = Vec::new();
    for &(up, down) in &weights {
        let before = dot(&mut g, x, up, 1, 0);
        let active = activation(&mut g, before);
        kept.push((x, before, active));
        let y = dot(&mut g, active.0, down, 1, 0);
        let y = with(&mut g, ScalarOp::Mul, y, 1e-3);
        x = map(&mut g, ScalarOp::Sin, &[y]);
    }
    let mut cotangent = x;
    for (&(up, down), &(x, before, (value, first, second))) in weights.iter().zip(&kept).rev() {
        let of_down = dot(&mut g, value, cotangent, 0, 0);
        let back = dot(&mut g, cotangent, down, 1, 1);
        let mut sum = map(&mut g, ScalarOp::Mul, &[back, first]);
        if let Some(second) = second {
            let more = map(&mut g, ScalarOp::Mul, &[back, before]);
            let more = map(&mut g, ScalarOp::Mul, &[more, second]);
            sum = map(&mut g, ScalarOp::Add, &[sum, more]);
        }
        let of_up = dot(&mut g, x, sum, 0, 0);
        let bias = g.reduce(ReduceOp::Sum, sum, &[0], O);
        let y = dot(&mut g, sum, up, 1, 1);
        cotangent = with(&mut g, ScalarOp::Mul, y, 1e-3);
        g.outputs.extend([of_down, of_up, bias]);
    }
    g
}

fn unchecked(g: &Graph) -> Planned {
    plan(g, &Config::default())
}

/// The arena in wide arrays.
fn arrays(planned: &Planned) -> f64 {
    planned.plan.arena_bytes as f64 / ARRAY as f64
}

#[test]
fn what_an_activation_needs_is_computed_again_from_its_argument() {
    let planned = check(&layers(3, quick));
    // One array per layer lives until the backward pass, and one more while a layer is under way; kept, it would be four per layer.
    assert!(arrays(&planned) < 4.2, "{:.2} arrays\n{}", arrays(&planned), text(&planned));
}

#[test]
fn several_values_are_computed_again_from_the_one_that_takes_long() {
    let planned = check(&layers(3, gelu));
    // The argument and its hyperbolic tangent.
    assert!(arrays(&planned) < 7.2, "{:.2} arrays\n{}", arrays(&planned), text(&planned));
    assert_eq!(text(&planned).matches("= tanh(").count(), 1, "{}", text(&planned));
}

#[test]
fn nothing_is_computed_again_that_takes_longer_than_memory() {
    fn heavy(g: &mut Graph, x: NodeId) -> (NodeId, NodeId, Option<NodeId>) {
        let mut y = x;
        for _ in 0..4 {
            y = map(g, ScalarOp::Atan, &[y]);
        }
        (map(g, ScalarOp::Mul, &[y, x]), y, Some(x))
    }
    let planned = unchecked(&layers(1, heavy));
    assert_eq!(text(&planned).matches("= atan(").count(), 4, "{}", text(&planned));
    fn light(g: &mut Graph, x: NodeId) -> (NodeId, NodeId, Option<NodeId>) {
        let y = map(g, ScalarOp::Tanh, &[x]);
        (map(g, ScalarOp::Mul, &[y, x]), y, None)
    }
    let planned = unchecked(&layers(1, light));
    assert_eq!(text(&planned).matches("= tanh(").count(), 1, "no other kernel loads the argument: {}", text(&planned));
}

#[test]
fn a_second_copy_is_made_only_where_it_lowers_the_peak() {
    // The value of the only layer is needed once more right after the peak: a copy would be one array more.
    let one = unchecked(&layers(1, quick));
    assert!(arrays(&one) < 2.2, "{:.2} arrays\n{}", arrays(&one), text(&one));
    let (two, five) = (unchecked(&layers(2, quick)), unchecked(&layers(5, quick)));
    let per_layer = (arrays(&five) - arrays(&two)) / 3.0;
    assert!(per_layer < 1.1, "{per_layer:.2} arrays per layer");
}
