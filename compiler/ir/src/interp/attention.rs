//! Attention and its derivatives by their definition, row by row ([`optc_abi::attention`]).

use super::movement;
use super::value::{Data, Value};
use crate::graph::{Attention, AttentionKind, AttentionOp, Op, Ty};
use std::rc::Rc;

/// The results, of types `types`, whose axes may be turned.
pub fn run(op: &AttentionOp, x: &[&Value], types: &[Ty]) -> Vec<Value> {
    let what = &op.what;
    let problems: usize = what.batch.iter().product();
    let plain = |ty: &Ty, turned: &[usize]| {
        let mut shape = ty.shape.clone();
        turned.iter().zip(&ty.shape).for_each(|(&axis, &n)| shape[axis] = n);
        Value::zeros(Ty { dtype: ty.dtype, shape })
    };
    let mut results: Vec<Value> = types.iter().zip(&op.turned).map(|(ty, turned)| plain(ty, turned)).collect();
    for problem in 0..problems {
        let part = |v: &Value| {
            let len = v.ty.len() / problems;
            problem * len..(problem + 1) * len
        };
        let found = Problem::new(what, x, &|v| part(v)).run();
        for (result, values) in results.iter_mut().zip(found) {
            let range = part(result);
            let Data::Float(all) = &mut result.data else { panic!("compiler bug: attention of no floats") };
            all[range].copy_from_slice(&values);
        }
    }
    let turn = |(result, (turned, ty)): (Value, (&crate::graph::Axes, &Ty))| match turned.windows(2).all(|w| w[0] < w[1]) {
        true => result,
        false => movement::rearrange(&Op::Permute { perm: turned.clone() }, &[Rc::new(result)], ty),
    };
    results.into_iter().zip(op.turned.iter().zip(types)).map(turn).collect()
}

/// One index of the batch.
struct Problem<'a> {
    what: &'a Attention,
    floats: Vec<&'a [f64]>,
    mask: Option<&'a [i64]>,
    bias: Option<&'a [f64]>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn add_scaled(to: &mut [f64], by: f64, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(t, x)| *t += by * x);
}

impl<'a> Problem<'a> {
    fn new(what: &'a Attention, x: &[&'a Value], part: &dyn Fn(&Value) -> std::ops::Range<usize>) -> Problem<'a> {
        let mut operands = x.iter();
        let mut float = || operands.next().map(|v| &v.floats()[part(v)]).expect("compiler bug: an operand of attention is missing");
        let mut floats: Vec<&[f64]> = (0..3).map(|_| float()).collect();
        let mut rest = x[3..].iter();
        let mask = what.mask.then(|| rest.next().map(|v| &v.ints()[part(v)])).flatten();
        let mut float = || rest.next().map(|v| &v.floats()[part(v)]);
        let bias = if what.bias { float() } else { None };
        floats.extend(std::iter::from_fn(float));
        Problem { what, floats, mask, bias }
    }

    /// Row `i` of an operand of so many columns.
    fn row(&self, operand: usize, i: usize, columns: usize) -> &'a [f64] {
        &self.floats[operand][i * columns..(i + 1) * columns]
    }

    fn seen(&self, i: usize, j: usize) -> bool {
        let a = self.what;
        a.causal.is_none_or(|offset| j as i64 <= i as i64 + offset) && self.mask.is_none_or(|m| m[i * a.keys + j] != 0)
    }

    /// Scores of a query.
    fn scores(&self, i: usize) -> Vec<f64> {
        let a = self.what;
        let q = self.row(0, i, a.width);
        let score = |j: usize| {
            if !self.seen(i, j) {
                return a.hidden.get();
            }
            a.scale.get() * dot(q, self.row(1, j, a.width)) + self.bias.map_or(0.0, |b| b[i * a.keys + j])
        };
        (0..a.keys).map(score).collect()
    }

    fn run(&self) -> Vec<Vec<f64>> {
        match self.what.kind {
            AttentionKind::Forward => self.forward(),
            AttentionKind::Backward => self.backward(),
        }
    }

    fn forward(&self) -> Vec<Vec<f64>> {
        let a = self.what;
        let (mut out, mut statistics) = (vec![0.0; a.queries * a.out_width], vec![0.0; a.queries * 2]);
        for i in 0..a.queries {
            let z = self.scores(i);
            let top = z.iter().fold(f64::NEG_INFINITY, |m, &x| if m.is_nan() || x.is_nan() { f64::NAN } else { m.max(x) });
            let e: Vec<f64> = z.iter().map(|x| (x - top).exp()).collect();
            let inverse = 1.0 / e.iter().sum::<f64>();
            let row = &mut out[i * a.out_width..(i + 1) * a.out_width];
            e.iter().enumerate().for_each(|(j, e)| add_scaled(row, e * inverse, self.row(2, j, a.out_width)));
            statistics[2 * i..2 * i + 2].copy_from_slice(&[top, inverse]);
        }
        vec![out, statistics]
    }

    fn backward(&self) -> Vec<Vec<f64>> {
        let a = self.what;
        let (width, wide) = (a.width, a.out_width);
        let (mut dq, mut dk, mut dv) = (vec![0.0; a.queries * width], vec![0.0; a.keys * width], vec![0.0; a.keys * wide]);
        for i in 0..a.queries {
            let (out, statistics, d) = (self.row(3, i, wide), self.row(4, i, 2), self.row(5, i, wide));
            let mean = dot(out, d);
            for (j, z) in self.scores(i).into_iter().enumerate() {
                let p = (z - statistics[0]).exp() * statistics[1];
                add_scaled(&mut dv[j * wide..(j + 1) * wide], p, d);
                if self.seen(i, j) {
                    let t = a.scale.get() * p * (dot(d, self.row(2, j, wide)) - mean);
                    add_scaled(&mut dq[i * width..(i + 1) * width], t, self.row(1, j, width));
                    add_scaled(&mut dk[j * width..(j + 1) * width], t, self.row(0, i, width));
                }
            }
        }
        vec![dq, dk, dv]
    }
}
