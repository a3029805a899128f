//! The box of a member whose K' is bounded: weights do not leave |w| <= sup K' / decay, and come to it by a factor of 1 - lr decay a step (Chen et al. 2024, phase I).

use super::{Member, direction};
use crate::dag::Dag;
use crate::trace::Run;

/// Steps of the program, and the share of a weight that decay takes in one.
const STEPS: usize = 2000;
const SHARE: f64 = 0.01;
/// Curvatures of the quadratic; its optimum, and where the run begins, in multiples of the bound.
const CURVES: [f64; 5] = [0.25, 1.0, 2.0, 4.0, 1.0];
const OPTIMUM: [f64; 5] = [3.0, -2.0, 0.5, -0.2, 0.9];
const BEGIN: [f64; 5] = [5.0, 4.0, -3.0, 0.1, -0.9];
/// What rounding may add, as a share of the bound.
const ROUNDING: f64 = 1e-9;

/// What was seen of the box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Walls {
    /// Half the side of the box.
    pub bound: f64,
    /// Steps after which no weight was further outside than 1 - lr decay times what it was; those within stayed there.
    pub kept: usize,
    /// Steps in all.
    pub steps: usize,
    /// How far the furthest weight was outside, at the start and at the end.
    pub outside: (f64, f64),
}

/// Runs a member on a quadratic whose optimum is outside of the box for some weights, from a start that is for others. `None` where it has no decay, or K' is not bounded.
pub fn walls(dag: &Dag, member: &Member) -> Option<Walls> {
    let (far, further) = (direction(dag, 1e4, 1e4), direction(dag, 1e8, 1e8));
    let bounded = further > 0.0 && (further - far).abs() <= 1e-3 * further;
    if member.decay <= 0.0 || !bounded {
        return None;
    }
    let (bound, lr) = (further / member.decay, SHARE / member.decay);
    let distance = |w: f64| (w.abs() - bound).max(0.0);
    let mut run = Run::new(dag, vec![BEGIN.iter().map(|x| x * bound).collect()]);
    let furthest = |w: &[f64]| w.iter().map(|x| distance(*x)).fold(0.0, f64::max);
    let first = furthest(&run.weights[0]);
    let mut kept = 0;
    for _ in 0..STEPS {
        let before = run.weights[0].clone();
        let g: Vec<f64> = before.iter().zip(CURVES).zip(OPTIMUM).map(|((w, c), o)| c * (w - o * bound)).collect();
        run.step(&[g], lr);
        let step = before.iter().zip(&run.weights[0]).all(|(a, b)| distance(*b) <= (1.0 - SHARE) * distance(*a) + ROUNDING * bound);
        kept += usize::from(step);
    }
    Some(Walls { bound, kept, steps: STEPS, outside: (first, furthest(&run.weights[0])) })
}
