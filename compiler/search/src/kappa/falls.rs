//! The Lyapunov function of a member whose K is only known through the program: K' is read off it, K and its conjugate are computed on a grid.

use super::{Member, direction};
use crate::dag::Dag;

/// Largest argument of K' that is looked at, and points of the grid from 0 on.
const REACH: f64 = 16.0;
const POINTS: usize = 3200;
/// Steps of the flow, and their length.
const STEPS: usize = 4000;
const DT: f64 = 2e-3;
/// Curvatures of the quadratic, and its optimum.
const CURVES: [f64; 4] = [0.25, 1.0, 2.0, 4.0];
const OPTIMUM: [f64; 4] = [0.3, -0.2, 0.4, -0.1];

/// What was seen of H along the flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fall {
    /// Steps at which H fell or stayed, within rounding and the error of a step.
    pub falling: usize,
    /// Steps in all.
    pub steps: usize,
    /// H at the start and at the end.
    pub ends: (f64, f64),
}

/// K' of a program on a grid, with K.
struct Table {
    dk: Vec<f64>,
    k: Vec<f64>,
}

impl Table {
    fn of(dag: &Dag) -> Table {
        let h = REACH / POINTS as f64;
        let dk: Vec<f64> = (0..=POINTS).map(|i| if i == 0 { 0.0 } else { direction(dag, h * i as f64, h * i as f64) }).collect();
        let mut k = vec![0.0; POINTS + 1];
        for i in 1..=POINTS {
            // K' of a sign jumps at 0: its value there does not count.
            let before = if i == 1 { dk[1] } else { dk[i - 1] };
            k[i] = k[i - 1] + 0.5 * h * (before + dk[i]);
        }
        Table { dk, k }
    }

    fn at(values: &[f64], c: f64) -> f64 {
        let place = (c.abs() / REACH * POINTS as f64).min(POINTS as f64 - 1e-9);
        let i = place as usize;
        let share = place - i as f64;
        values[i] * (1.0 - share) + values[i + 1] * share
    }

    fn k(&self, c: f64) -> f64 {
        Self::at(&self.k, c)
    }

    /// The largest of y c - K(c) on the grid.
    fn conjugate(&self, y: f64) -> f64 {
        let h = REACH / POINTS as f64;
        self.k.iter().enumerate().map(|(i, k)| y.abs() * h * i as f64 - k).fold(0.0, f64::max)
    }
}

/// Follows the flow of a member on a quadratic of four weights and looks whether H falls (Chen et al. 2024, theorem 3.1), with a = c = 1 and e = 1 - beta1 / beta2, as of the discrete form in units of what its
/// momentum forgets. Where there is no decay H is a f + (1 - e c) K(m).
pub fn falls(dag: &Dag, member: &Member) -> Fall {
    let (table, lambda) = (Table::of(dag), member.decay.max(0.0));
    let epsilon = 1.0 - member.beta1 / member.beta2.max(1e-12);
    let share = (1.0 - epsilon) / (1.0 + epsilon * lambda);
    let h_of = |x: &[f64; 4], m: &[f64; 4]| {
        let mut h = 0.0;
        for i in 0..4 {
            h += 0.5 * CURVES[i] * (x[i] - OPTIMUM[i]).powi(2);
            let far = if lambda > 0.0 { table.conjugate(lambda * x[i]) } else { 0.0 };
            h += if lambda > 0.0 { far / lambda } else { 0.0 } + share * (far + table.k(m[i]) - lambda * m[i] * x[i]);
        }
        h
    };
    let (mut x, mut m) = ([0.9, -0.7, -0.5, 0.8], [0.2, -0.1, 0.3, 0.0]);
    let first = h_of(&x, &m);
    let (mut last, mut falling) = (first, 0);
    // A step errs by the square of its length; more where K' jumps.
    let tolerance = if member.sign { 40.0 } else { 4.0 } * DT * DT;
    for _ in 0..STEPS {
        for i in 0..4 {
            let g = CURVES[i] * (x[i] - OPTIMUM[i]);
            let blend = m[i] - epsilon * (g + m[i]);
            let dk = if blend == 0.0 { 0.0 } else { blend.signum() * Table::at(&table.dk, blend) };
            (x[i], m[i]) = (x[i] + DT * (dk - lambda * x[i]), m[i] - DT * (g + m[i]));
        }
        let now = h_of(&x, &m);
        falling += usize::from(now <= last + tolerance);
        last = now;
    }
    Fall { falling, steps: STEPS, ends: (first, last) }
}
