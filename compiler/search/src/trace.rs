//! The meaning of programs in f64: updates step by step on given gradients. The truth that compiled candidates are compared with.

use crate::dag::{Dag, Input, Node};
use crate::fun::Ty;
use optc_ir::eval::eval_float;

/// What a program works on: leaves of any lengths.
#[derive(Clone, Debug, PartialEq)]
pub struct Run<'a> {
    dag: &'a Dag,
    /// The weights, leaf by leaf; they move with each step.
    pub weights: Vec<Vec<f64>>,
    /// The states, likewise, by state and leaf.
    pub states: Vec<Vec<Vec<f64>>>,
    /// Steps made.
    pub steps: u64,
}

/// A value: one number for all, one for each leaf, or all elements.
#[derive(Clone, Debug)]
enum Value {
    Scalar(f64),
    Leaves(Vec<f64>),
    Elements(Vec<Vec<f64>>),
}

impl Value {
    fn get(&self, leaf: usize, i: usize) -> f64 {
        match self {
            Value::Scalar(x) => *x,
            Value::Leaves(x) => x[leaf],
            Value::Elements(x) => x[leaf][i],
        }
    }
}

impl<'a> Run<'a> {
    /// A run from these weights, with states at their first values.
    pub fn new(dag: &'a Dag, weights: Vec<Vec<f64>>) -> Run<'a> {
        let states = dag.states.iter().map(|s| weights.iter().map(|leaf| vec![s.init; leaf.len()]).collect()).collect();
        Run { dag, weights, states, steps: 0 }
    }

    /// Makes a step; what was subtracted from the weights.
    pub fn step(&mut self, gradient: &[Vec<f64>], lr: f64) -> Vec<Vec<f64>> {
        self.steps += 1;
        let lens: Vec<usize> = self.weights.iter().map(Vec::len).collect();
        let mut values: Vec<Value> = Vec::with_capacity(self.dag.nodes.len());
        for id in self.dag.ids() {
            let value = match *self.dag.node(id) {
                Node::Input(Input::W) => Value::Elements(self.weights.clone()),
                Node::Input(Input::G) => Value::Elements(gradient.to_vec()),
                Node::Input(Input::Lr) => Value::Scalar(lr),
                Node::Input(Input::T) => Value::Scalar(self.steps as f64),
                Node::Input(Input::State(k)) => Value::Elements(self.states[k as usize].clone()),
                Node::Const(bits) => Value::Scalar(f64::from_bits(bits)),
                Node::Map(op, x) => {
                    let of = |leaf, i| {
                        let x = x.map(|id| values[id.0 as usize].get(leaf, i));
                        eval_float(op, &x[..op.arity()])
                    };
                    match self.dag.ty(id) {
                        Ty::Scalar => Value::Scalar(of(0, 0)),
                        Ty::LeafScalar => Value::Leaves((0..lens.len()).map(|leaf| of(leaf, 0)).collect()),
                        Ty::Leaf => {
                            Value::Elements(lens.iter().enumerate().map(|(leaf, n)| (0..*n).map(|i| of(leaf, i)).collect()).collect())
                        }
                    }
                }
                Node::Sum(x) => {
                    let x = &values[x.0 as usize];
                    Value::Leaves(lens.iter().enumerate().map(|(leaf, n)| (0..*n).map(|i| x.get(leaf, i)).sum()).collect())
                }
                Node::Total(x) => {
                    let each = self.dag.ty(x) == Ty::Leaf;
                    let x = &values[x.0 as usize];
                    let of = |leaf: usize| (0..if each { lens[leaf] } else { 1 }).map(|i| x.get(leaf, i)).sum::<f64>();
                    Value::Scalar((0..lens.len()).map(of).sum())
                }
            };
            values.push(value);
        }
        let whole = |value: &Value| -> Vec<Vec<f64>> {
            lens.iter().enumerate().map(|(leaf, n)| (0..*n).map(|i| value.get(leaf, i)).collect()).collect()
        };
        let update = whole(&values[self.dag.update.0 as usize]);
        for (k, state) in self.dag.states.iter().enumerate() {
            self.states[k] = whole(&values[state.next.0 as usize]);
        }
        for (w, u) in self.weights.iter_mut().flatten().zip(update.iter().flatten()) {
            *w -= u;
        }
        update
    }
}

/// The updates of several steps on given gradients.
pub fn updates(dag: &Dag, weights: &[Vec<f64>], gradients: &[Vec<Vec<f64>>], lr: f64) -> Vec<Vec<Vec<f64>>> {
    let mut run = Run::new(dag, weights.to_vec());
    gradients.iter().map(|g| run.step(g, lr)).collect()
}
