//! Lion-κ (Chen et al. 2024, arXiv 2310.05898): whether a program is an instance of the family, and numeric checks of its theory.
//!
//! A member keeps one momentum m and steps by the gradient of a convex function K of a blend of momentum and gradient:
//!
//! ```text
//! x <- x - lr (K'(b1 m + (1 - b1) g) + l x),      m <- b2 m + (1 - b2) g
//! ```
//!
//! For elementwise programs K' is a monotone odd function of one number; Lion's is the sign ([`shape`] names others). Members solve min f(x) + K*(l x) / l, for Lion under |x| <= 1 / l, where b1 <= b2.

use crate::dag::{Dag, Input, Node};
use crate::trace::Run;

/// A member, as far as it was looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// The share of the momentum in what the step looks at.
    pub beta1: f64,
    /// The share that the momentum keeps.
    pub beta2: f64,
    /// The decay: the coefficient of the weights in the step, without the learning rate.
    pub decay: f64,
    /// Whether the step does not depend on the size of its argument, as Lion's.
    pub sign: bool,
}

/// Why a program is no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Not {
    /// It has another number of states than one, or its elements depend on each other.
    States,
    /// The momentum is no average of itself and the gradient.
    Momentum,
    /// The step is not linear in the weights, or not proportional to the learning rate.
    Decay,
    /// The step is no function of one blend of momentum and gradient.
    Blend,
    /// That function is not odd and monotone.
    Monotone,
}

/// One step of a program from given weights, state and gradient: what is subtracted, and the new state.
fn step(dag: &Dag, w: f64, m: f64, g: f64, lr: f64) -> (f64, f64) {
    let mut run = Run::new(dag, vec![vec![w]]);
    run.states[0][0][0] = m;
    let update = run.step(&[vec![g]], lr)[0][0];
    (update, run.states[0][0][0])
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs() + b.abs())
}

/// The step for a momentum and a gradient at weights of 0 and a learning rate of 1.
fn direction(dag: &Dag, m: f64, g: f64) -> f64 {
    step(dag, 0.0, m, g, 1.0).0
}

/// Looks whether a program is a member, by running it at some places.
///
/// # Errors
/// What it is not.
pub fn member(dag: &Dag) -> Result<Member, Not> {
    if dag.states.len() != 1
        || !dag.elementwise()
        || dag.reads(Input::T)
        || dag.nodes.iter().any(|n| matches!(n, Node::Sum(_) | Node::Total(_)))
    {
        return Err(Not::States);
    }
    const PLACES: [(f64, f64); 6] = [(0.3, -0.7), (1.1, 0.4), (-0.6, 0.9), (2.0, -1.5), (-0.2, -0.3), (0.05, 0.8)];
    let state = |m: f64, g: f64| step(dag, 0.4, m, g, 0.01).1;
    let (beta2, gain) = (state(1.0, 0.0) - state(0.0, 0.0), state(0.0, 1.0) - state(0.0, 0.0));
    let linear =
        PLACES.iter().all(|(m, g)| near(state(*m, *g), beta2 * m + gain * g) && near(step(dag, -3.0, *m, *g, 0.01).1, state(*m, *g)));
    if !linear || !near(beta2 + gain, 1.0) || !(0.0..1.0).contains(&beta2) {
        return Err(Not::Momentum);
    }
    let update = |w: f64, m: f64, g: f64| step(dag, w, m, g, 1.0).0;
    let decay = update(1.0, 0.5, 0.5) - update(0.0, 0.5, 0.5);
    let proportional = PLACES.iter().all(|(m, g)| {
        near(update(2.0, *m, *g) - update(0.0, *m, *g), 2.0 * decay) && near(step(dag, 0.7, *m, *g, 0.03).0, 0.03 * update(0.7, *m, *g))
    });
    if !proportional || decay < -1e-12 {
        return Err(Not::Decay);
    }
    // Along the line of m and g on which the blend is 0 the step is 0: it is found by its change of sign.
    let direction = |m: f64, g: f64| direction(dag, m, g);
    let change = |g: f64, below: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (-1e4 * g.abs(), 1e4 * g.abs());
        if !(direction(low, g) < 0.0 && direction(high, g) > 0.0) {
            return None;
        }
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if below(direction(middle, g)) { low = middle } else { high = middle }
        }
        Some(high)
    };
    // A dead zone is 0 on both sides of it alike.
    let root = |g: f64| Some(0.5 * (change(g, &|d| d < 0.0)? + change(g, &|d| d <= 0.0)?));
    // b1 m + (1 - b1) g = 0 at m = -r g, with r = (1 - b1) / b1; without any weight of the momentum there is no such place.
    let beta1 = match (root(1.0), root(-2.0)) {
        (Some(a), Some(b)) if near(a, -0.5 * b) && a <= 0.0 => 1.0 / (1.0 - a),
        (None, None) if near(direction(0.3, 1.0), direction(-0.9, 1.0)) => 0.0,
        _ => return Err(Not::Blend),
    };
    let blend = |m: f64, g: f64| beta1 * m + (1.0 - beta1) * g;
    // Pairs with one blend give one step.
    for (m, g) in PLACES {
        let c = blend(m, g);
        if c.abs() > 1e-3 && !near(direction(m, g), direction(c, c)) {
            return Err(Not::Blend);
        }
    }
    let of = |c: f64| direction(c, c);
    let grid: Vec<f64> = (1..200).map(|k| 0.02 * f64::from(k)).collect();
    let odd = grid.iter().all(|c| near(of(*c), -of(-*c)));
    let monotone = grid.windows(2).all(|p| of(p[1]) >= of(p[0]) - 1e-12) && of(0.02) >= 0.0;
    if !odd || !monotone {
        return Err(Not::Monotone);
    }
    Ok(Member { beta1, beta2, decay, sign: near(of(0.02), of(3.9)) })
}

/// The Lyapunov function of the flow of a member on f, and how fast it falls, as the theory gives them (same source, theorem 3.1), for K = |.|^p / p summed over elements:
///
/// ```text
/// x' = K'(m - e (a f'(x) + c m)) - l x,      m' = -a f'(x) - c m
/// H  = a f(x) + (c / l) K*(l x) + (1 - e c) / (1 + e l) (K*(l x) + K(m) - l m x)
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// p of K, above 1.
    pub p: f64,
    /// a
    pub alpha: f64,
    /// c
    pub gamma: f64,
    /// l
    pub lambda: f64,
    /// e
    pub epsilon: f64,
}

impl Flow {
    fn k(&self, x: f64) -> f64 {
        x.abs().powf(self.p) / self.p
    }
    fn dk(&self, x: f64) -> f64 {
        x.signum() * x.abs().powf(self.p - 1.0)
    }
    fn q(&self) -> f64 {
        self.p / (self.p - 1.0)
    }
    /// K*, the convex conjugate.
    pub fn conjugate(&self, y: f64) -> f64 {
        y.abs().powf(self.q()) / self.q()
    }
    fn dconjugate(&self, y: f64) -> f64 {
        y.signum() * y.abs().powf(self.q() - 1.0)
    }
    /// The velocity of x and m where f has the gradient g.
    pub fn velocity(&self, x: &[f64], m: &[f64], g: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let blend = self.blend(m, g);
        let dx = blend.iter().zip(x).map(|(b, x)| self.dk(*b) - self.lambda * x).collect();
        let dm = m.iter().zip(g).map(|(m, g)| -self.alpha * g - self.gamma * m).collect();
        (dx, dm)
    }
    fn blend(&self, m: &[f64], g: &[f64]) -> Vec<f64> {
        m.iter().zip(g).map(|(m, g)| m - self.epsilon * (self.alpha * g + self.gamma * m)).collect()
    }
    /// H where f has this value.
    pub fn lyapunov(&self, f: f64, x: &[f64], m: &[f64]) -> f64 {
        let sum = |h: &dyn Fn(f64, f64) -> f64| x.iter().zip(m).map(|(x, m)| h(*x, *m)).sum::<f64>();
        let far = sum(&|x, _| self.conjugate(self.lambda * x));
        let gap = sum(&|x, m| self.conjugate(self.lambda * x) + self.k(m) - self.lambda * m * x);
        self.alpha * f + self.gamma / self.lambda * far + self.share() * gap
    }
    fn share(&self) -> f64 {
        (1.0 - self.epsilon * self.gamma) / (1.0 + self.epsilon * self.lambda)
    }
    /// H's derivatives in x and m.
    pub fn gradient(&self, x: &[f64], m: &[f64], g: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (l, s) = (self.lambda, self.share());
        let dx = x
            .iter()
            .zip(m)
            .zip(g)
            .map(|((x, m), g)| self.alpha * g + self.gamma * self.dconjugate(l * x) + s * l * (self.dconjugate(l * x) - m))
            .collect();
        let dm = x.iter().zip(m).map(|(x, m)| s * (self.dk(*m) - l * x)).collect();
        (dx, dm)
    }
    /// -H' along the flow, as the theorem gives it: a sum of two products of monotone differences, hence never negative.
    pub fn decrease(&self, x: &[f64], m: &[f64], g: &[f64]) -> f64 {
        let (l, e) = (self.lambda, self.epsilon);
        let blend = self.blend(m, g);
        let first: f64 = blend.iter().zip(x).map(|(b, x)| (self.dk(*b) - l * x) * (b - self.dconjugate(l * x))).sum();
        let second: f64 = blend.iter().zip(m).map(|(b, m)| (b - m) * (self.dk(*b) - self.dk(*m))).sum();
        (l + self.gamma) / (1.0 + e * l) * first + (1.0 - e * self.gamma) / (e * (1.0 + e * l)) * second
    }
}

mod falls;
mod shape;
#[cfg(test)]
mod tests;
mod walls;

pub use falls::{Fall, falls};
pub use shape::{Shape, shape};
pub use walls::{Walls, walls};
