//! Derivatives against central differences in f64, forward against reverse mode, at first and second order.

mod arrays;
mod control;
mod lean;
mod library;
mod loops;
mod random;
mod scalars;

use super::{jvp, vjp};
use optc_abi::{DType, Tensor};
use optc_ir::graph::{Graph, NodeId, Origin, Ty};
use optc_ir::interp::interpret;
use optc_ir::verify::verify;

/// Nowhere.
pub const O: Origin = Origin { span: optc_base::Span { source: optc_base::SourceId(0), start: 0, end: 0 }, via: "" };

/// A graph under construction, of f64 arrays.
pub struct Build {
    pub g: Graph,
}

impl Build {
    pub fn new() -> Build {
        Build { g: Graph::new() }
    }
    pub fn input(&mut self, shape: &[usize]) -> NodeId {
        let name = format!("x{}", self.g.inputs.len());
        self.g.input(name, Ty::new(DType::F64, shape.iter().copied()), O)
    }
    pub fn int_input(&mut self, shape: &[usize]) -> NodeId {
        let name = format!("i{}", self.g.inputs.len());
        self.g.input(name, Ty::new(DType::I32, shape.iter().copied()), O)
    }
    pub fn finish(mut self, outputs: &[NodeId]) -> Graph {
        self.g.outputs = outputs.to_vec();
        verify(&self.g).expect("a test graph");
        self.g
    }
}

/// A small generator of numbers that look random.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    /// Between `lo` and `hi`.
    pub fn number(&mut self, lo: f64, hi: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        lo + (hi - lo) * ((self.0 >> 33) as f64 / (1u64 << 31) as f64)
    }
    pub fn tensor(&mut self, shape: &[usize], lo: f64, hi: f64) -> Tensor {
        let n: usize = shape.iter().product();
        let values: Vec<f64> = (0..n).map(|_| self.number(lo, hi)).collect();
        Tensor::from_f64(DType::F64, shape, &values)
    }
}

pub fn ints(shape: &[usize], values: &[i32]) -> Tensor {
    Tensor::from_slice(shape, values)
}

fn dot(a: &[Tensor], b: &[Tensor]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).flat_map(|(a, b)| a.to_f64().into_iter().zip(b.to_f64())).map(|(a, b)| a * b).sum()
}

fn floats(t: Vec<Tensor>) -> Vec<Tensor> {
    t.into_iter().filter(|t| t.dtype.is_float()).collect()
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()))
}

/// Checks the derivatives of `f` in `wrt` at a point to second order, with every combination of modes.
pub fn check(f: &Graph, wrt: &[usize], at: &[Tensor]) {
    first_order(f, wrt, at, "f");
    // Gradients are functions of the point and of the cotangents.
    let mut noise = Noise::new(77);
    let reverse = vjp(f, wrt).unwrap();
    let cts: Vec<Tensor> = floats(interpret(f, at).unwrap()).iter().map(|t| noise.tensor(&t.shape, -1.0, 1.0)).collect();
    let with: Vec<usize> = wrt.iter().copied().chain(at.len()..at.len() + cts.len()).collect();
    first_order(&reverse, &with, &[at, &cts].concat(), "vjp of f");
    let forward = jvp(f, wrt).unwrap();
    let directions: Vec<Tensor> = wrt.iter().map(|&i| noise.tensor(&at[i].shape, -1.0, 1.0)).collect();
    let with: Vec<usize> = wrt.iter().copied().chain(at.len()..at.len() + directions.len()).collect();
    first_order(&forward, &with, &[at, &directions].concat(), "jvp of f");
}

/// Checks forward mode against central differences and reverse mode by `<J v, u> = <v, J' u>`.
pub fn first_order(f: &Graph, wrt: &[usize], at: &[Tensor], what: &str) {
    let mut noise = Noise::new(5);
    verify(f).unwrap_or_else(|e| panic!("{what}: {e}"));
    let v: Vec<Tensor> = wrt.iter().map(|&i| noise.tensor(&at[i].shape, -1.0, 1.0)).collect();
    let values = interpret(f, at).unwrap();
    let forward = jvp(f, wrt).unwrap();
    verify(&forward).unwrap_or_else(|e| panic!("jvp of {what}: {e}"));
    let mut tangents = interpret(&forward, &[at, &v].concat()).unwrap();
    let derivatives = tangents.split_off(values.len());
    same(&values, &tangents, &format!("values of the jvp of {what}"));

    let step = 1e-5;
    let moved = |sign: f64| -> Vec<Tensor> {
        let mut point = at.to_vec();
        for (&i, v) in wrt.iter().zip(&v) {
            let sum: Vec<f64> = at[i].to_f64().iter().zip(v.to_f64()).map(|(x, v)| x + sign * step * v).collect();
            point[i] = Tensor::from_f64(DType::F64, &at[i].shape, &sum);
        }
        floats(interpret(f, &point).unwrap())
    };
    let (up, down) = (moved(1.0), moved(-1.0));
    assert_eq!(derivatives.len(), up.len(), "{what}: one tangent per float output");
    for (k, d) in derivatives.iter().enumerate() {
        for (i, d) in d.to_f64().into_iter().enumerate() {
            let slope = (up[k].get_f64(i) - down[k].get_f64(i)) / (2.0 * step);
            assert!(near(d, slope, 2e-6), "{what}: tangent of output {k}, element {i} is {d}, the difference quotient {slope}");
        }
    }

    let reverse = vjp(f, wrt).unwrap();
    verify(&reverse).unwrap_or_else(|e| panic!("vjp of {what}: {e}"));
    let u: Vec<Tensor> = derivatives.iter().map(|t| noise.tensor(&t.shape, -1.0, 1.0)).collect();
    let mut gradients = interpret(&reverse, &[at, &u].concat()).unwrap();
    let cotangents = gradients.split_off(values.len());
    same(&values, &gradients, &format!("values of the vjp of {what}"));
    for (c, v) in cotangents.iter().zip(&v) {
        assert_eq!(c.shape, v.shape, "{what}: a cotangent has the shape of its input");
    }
    let (left, right) = (dot(&derivatives, &u), dot(&v, &cotangents));
    assert!(near(left, right, 1e-10), "{what}: <J v, u> is {left}, <v, J' u> is {right}");
}

fn same(a: &[Tensor], b: &[Tensor], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.to_f64(), b.to_f64(), "{what}");
    }
}

/// The cotangents of `f` in `wrt` at a point for given cotangents of its float outputs.
pub fn gradient(f: &Graph, wrt: &[usize], at: &[Tensor], cts: &[Tensor]) -> Vec<Vec<f64>> {
    let results = interpret(&vjp(f, wrt).unwrap(), &[at, cts].concat()).unwrap();
    results[f.outputs.len()..].iter().map(Tensor::to_f64).collect()
}

pub fn one() -> Tensor {
    Tensor::from_f64(DType::F64, &[], &[1.0])
}

pub fn vector(values: &[f64]) -> Tensor {
    Tensor::from_f64(DType::F64, &[values.len()], values)
}
