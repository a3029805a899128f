//! Random programs, with loops and conditionals inside each other.

use super::{Noise, O, check, first_order, near};
use crate::differentiate::vjp;
use crate::simplify::{Config, simplify};
use optc_abi::{DType, Tensor};
use optc_ir::ScalarOp;
use optc_ir::graph::{DotDims, Graph, LoopOp, NodeId, Op, ReduceOp, ScatterMode, Ty};
use optc_ir::interp::interpret;
use optc_ir::verify::verify;
use std::sync::Arc;

/// The shape of most values.
const SHAPE: [usize; 2] = [2, 3];

fn ty() -> Ty {
    Ty::new(DType::F64, SHAPE)
}

struct Gen {
    noise: Noise,
}

impl Gen {
    fn below(&mut self, n: usize) -> usize {
        (self.noise.number(0.0, n as f64) as usize).min(n - 1)
    }
    fn pick(&mut self, pool: &[NodeId]) -> NodeId {
        let late = self.below(2) == 0;
        let from = if late { pool.len() - pool.len().min(3) } else { 0 };
        pool[from + self.below(pool.len() - from)]
    }
    /// Adds `steps` values to the pool.
    fn grow(&mut self, g: &mut Graph, pool: &mut Vec<NodeId>, steps: usize, depth: usize) {
        for _ in 0..steps {
            let (x, y) = (self.pick(pool), self.pick(pool));
            let new = self.step(g, pool, x, y, depth);
            pool.push(new);
        }
    }
    fn step(&mut self, g: &mut Graph, pool: &[NodeId], x: NodeId, y: NodeId, depth: usize) -> NodeId {
        use ScalarOp::*;
        let axis = self.below(2);
        let tame = |g: &mut Graph, x: NodeId| g.map(Tanh, &[x], O);
        match self.below(if depth > 0 { 23 } else { 18 }) {
            0 => g.map(Sin, &[x], O),
            1 => g.map(Sigmoid, &[x], O),
            2 => g.map(Add, &[x, y], O),
            3 => g.map(Sub, &[x, y], O),
            4 => {
                let z = g.map(Mul, &[x, y], O);
                tame(g, z)
            }
            5 => {
                let e = g.map(Exp, &[x], O);
                let one = g.splat(&ty(), 1.0, O);
                let below = g.map(Add, &[e, one], O);
                g.map(Div, &[y, below], O)
            }
            6 | 7 => {
                let kind = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max][self.below(3)];
                let r = g.reduce(kind, x, &[axis], O);
                let r = g.broadcast(r, &[1 - axis], &SHAPE, O);
                tame(g, r)
            }
            8 => {
                let dims = DotDims { lhs_contract: [0].as_slice().into(), rhs_contract: [0].as_slice().into(), ..DotDims::default() };
                let square = g.dot(x, y, dims, O);
                let dims = DotDims { lhs_contract: [1].as_slice().into(), rhs_contract: [1].as_slice().into(), ..DotDims::default() };
                let z = g.dot(x, square, dims, O);
                tame(g, z)
            }
            9 => {
                let z = g.permute(x, &[1, 0], O);
                g.reshape(z, &SHAPE, O)
            }
            10 => {
                let (a, b) = (g.slice(x, &[0, 1], &[2, 3], &[1, 1], O), g.slice(y, &[0, 0], &[2, 2], &[1, 2], O));
                g.concat(&[b, a], 1, O)
            }
            11 => {
                let part = g.slice(x, &[0, 0], &[1, 3], &[1, 2], O);
                let sum = g.reduce(ReduceOp::Sum, y, &[0, 1], O);
                g.pad(part, sum, &[1, 0], &[0, 0], &[0, 1], O)
            }
            12 => {
                let w = g.op(Op::Window { axis: 1, size: 2, stride: 1, dilation: 1 }, &[x], O);
                let r = g.reduce(ReduceOp::Sum, w, &[2], O);
                let first = g.slice_axis(y, 1, 0, 1, O);
                g.concat(&[r, first], 1, O)
            }
            13 => {
                let kind = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max][self.below(3)];
                let z = g.op(Op::Scan { kind, axis, reverse: self.below(2) == 0 }, &[x], O);
                tame(g, z)
            }
            14 => {
                let ids = g.constant(Tensor::from_slice(&[3], &[2i32, 0, 2]), O);
                g.gather(x, ids, 1, O)
            }
            15 => {
                let ids = g.constant(Tensor::from_slice(&[2], &[1i32, 1]), O);
                let mode = [ScatterMode::Add, ScatterMode::Set][self.below(2)];
                g.scatter(x, ids, y, 0, mode, O)
            }
            16 => {
                let c = g.map(Lt, &[x, y], O);
                g.map(Select, &[c, y, x], O)
            }
            17 => g.op(Op::Flip { axes: [axis].as_slice().into() }, &[x], O),
            18 | 19 => {
                // Carried: two values; scanned: rows of another; invariant: one more.
                let mut body = Graph::new();
                let i = body.input("i", Ty::scalar(DType::I32), O);
                let (a, b) = (body.input("a", ty(), O), body.input("b", ty(), O));
                let row = body.input("row", Ty::new(DType::F64, [SHAPE[1]]), O);
                let inv = body.input("inv", ty(), O);
                let wide = body.broadcast(row, &[1], &SHAPE, O);
                let i = body.cast(i, DType::F64, O);
                let i = body.broadcast(i, &[], &SHAPE, O);
                let i = body.map(Sigmoid, &[i], O);
                let mut inner = vec![a, b, inv, wide, i];
                self.grow(&mut body, &mut inner, 5, depth - 1);
                let (next_a, next_b) = (self.pick(&inner), self.pick(&inner));
                let (next_a, next_b) = (tame(&mut body, next_a), tame(&mut body, next_b));
                let out = self.pick(&inner);
                let out = body.reduce(ReduceOp::Sum, out, &[0], O);
                body.outputs = vec![next_a, next_b, out];
                let op = LoopOp { trip: Some(2), reverse: self.below(2) == 0, carried: 2, scanned: 1, guard: None, body: Arc::new(body) };
                let (s, w) = (self.pick(pool), self.pick(pool));
                let results = g.loop_results(op, &[x, y, s, w], O);
                let which = self.below(3);
                results[which]
            }
            20 => {
                // The number of passes as a run-time value.
                let mut body = Graph::new();
                let i = body.input("i", Ty::scalar(DType::I32), O);
                let (a, w) = (body.input("a", ty(), O), body.input("w", ty(), O));
                let i = body.cast(i, DType::F64, O);
                let i = body.broadcast(i, &[], &SHAPE, O);
                let i = body.map(Sigmoid, &[i], O);
                let mut inner = vec![a, w, i];
                self.grow(&mut body, &mut inner, 4, depth - 1);
                let next = self.pick(&inner);
                body.outputs = vec![tame(&mut body, next)];
                let trip = g.scalar(DType::I32, 3.0, O);
                let op = LoopOp { trip: None, reverse: self.below(2) == 0, carried: 1, scanned: 0, guard: None, body: Arc::new(body) };
                g.loop_results(op, &[trip, x, y], O)[0]
            }
            _ => {
                let mut branch = || {
                    let mut b = Graph::new();
                    let mut inner = vec![b.input("x", ty(), O), b.input("y", ty(), O)];
                    self.grow(&mut b, &mut inner, 4, depth - 1);
                    b.outputs = vec![*inner.last().expect("values")];
                    Arc::new(b)
                };
                let (then, otherwise) = (branch(), branch());
                let sum = g.reduce(ReduceOp::Sum, x, &[0, 1], O);
                let zero = g.scalar(DType::F64, 0.1, O);
                let pred = g.map(Lt, &[zero, sum], O);
                g.cond_results(pred, then, otherwise, &[x, y], O)[0]
            }
        }
    }
}

fn program(seed: u64) -> (Graph, Vec<Tensor>) {
    let mut generator = Gen { noise: Noise::new(seed) };
    let mut g = Graph::new();
    let mut pool: Vec<NodeId> = (0..3).map(|k| g.input(format!("x{k}"), ty(), O)).collect();
    generator.grow(&mut g, &mut pool, 10, 2);
    g.outputs = pool[pool.len() - 2..].to_vec();
    let at = (0..3).map(|_| generator.noise.tensor(&SHAPE, -1.0, 1.0)).collect();
    (g, at)
}

#[test]
fn first_derivatives() {
    for seed in 0..60 {
        let (f, at) = program(seed);
        first_order(&f, &[0, 1, 2], &at, &format!("program {seed}"));
        first_order(&f, &[(seed % 3) as usize], &at, &format!("program {seed}"));
    }
}

#[test]
fn second_derivatives() {
    for seed in 100..125 {
        let (f, at) = program(seed);
        check(&f, &[0, 1, 2], &at);
    }
}

#[test]
fn simplification_keeps_gradients() {
    for seed in 200..240 {
        let (f, at) = program(seed);
        let cts: Vec<Tensor> = f.outputs.iter().map(|_| Noise::new(1).tensor(&SHAPE, -1.0, 1.0)).collect();
        let reverse = vjp(&f, &[0, 1, 2]).unwrap();
        let point = [&at[..], &cts].concat();
        let plain = interpret(&reverse, &point).unwrap();
        let simple = simplify(reverse, &Config::default());
        verify(&simple).unwrap_or_else(|e| panic!("program {seed}: {e}"));
        for (a, b) in plain.iter().zip(interpret(&simple, &point).unwrap()) {
            let close = a.to_f64().iter().zip(b.to_f64()).all(|(a, b)| near(*a, b, 1e-9));
            assert!(close, "program {seed}: {:?} and simplified {:?}", a.to_f64(), b.to_f64());
        }
    }
}

#[test]
fn a_gradient_is_a_few_times_as_large_as_its_program() {
    let mut generator = Gen { noise: Noise::new(3) };
    let mut g = Graph::new();
    let mut pool: Vec<NodeId> = (0..3).map(|k| g.input(format!("x{k}"), ty(), O)).collect();
    generator.grow(&mut g, &mut pool, 1000, 0);
    g.outputs = pool;
    let reverse = vjp(&g, &[0, 1, 2]).unwrap();
    assert!(reverse.len() < 6 * g.len(), "{} nodes from {}", reverse.len(), g.len());
}

#[test]
fn the_result_is_the_same_every_time() {
    let (f, at) = program(7);
    let cts: Vec<Tensor> = f.outputs.iter().map(|_| Noise::new(1).tensor(&SHAPE, -1.0, 1.0)).collect();
    let run = || -> Vec<Vec<f64>> {
        let reverse = vjp(&f, &[0, 1, 2]).unwrap();
        interpret(&reverse, &[&at[..], &cts].concat()).unwrap().iter().map(Tensor::to_f64).collect()
    };
    assert_eq!(run(), run());
}
