//! What a program does to scales and signs of the gradient, found by running it: advisory, since a program is looked at in a few places only.

use crate::dag::{Dag, Input};
use crate::trace::Run;

/// What is known of a program's update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traits {
    /// d where the update of gradients c g is c^d times that of g, weights at 0.
    pub degree: Option<f64>,
    /// 1 where the update of -g is that of g, -1 where it is its negative, 0 where it is neither.
    pub parity: i8,
}

/// Steps that are looked at, and elements of the leaves.
const STEPS: usize = 4;
const LENS: [usize; 2] = [3, 2];

/// How a program's updates change where its gradients or weights do.
pub struct Look {
    base: Vec<f64>,
    larger: Vec<f64>,
    negative: Vec<f64>,
}

/// Updates for gradients and weights scaled by factors. The weights stand still.
fn updates(dag: &Dag, gradient: f64, weight: f64) -> Vec<f64> {
    let at = |k: usize| k as f64 * 0.77 + 0.3;
    let leaves = |of: &dyn Fn(usize) -> f64| -> Vec<Vec<f64>> {
        let mut number = 0;
        let mut next = || {
            number += 1;
            of(number - 1)
        };
        LENS.iter().map(|n| (0..*n).map(|_| next()).collect()).collect()
    };
    let weights = leaves(&|i| weight * (at(i) + 1.0).cos());
    let len: usize = LENS.iter().sum();
    let mut run = Run::new(dag, weights.clone());
    let mut all = Vec::new();
    for s in 0..STEPS {
        let g = leaves(&|i| gradient * at(s * len + i).sin());
        all.extend(run.step(&g, 0.01).concat());
        run.weights.clone_from(&weights);
    }
    all
}

impl Look {
    /// Runs a program in a few places: with gradients ([`Input::G`]) or weights ([`Input::W`]) as they are, four times as large, and negative. Gradients are looked at with weights of 0, so that decay
    /// does not count; with others where the updates are then all 0.
    pub fn at(dag: &Dag, of: Input) -> Look {
        const FACTOR: f64 = 4.0;
        let look = |weight: f64| {
            let at = |c: f64| if of == Input::W { updates(dag, 1.0, c * weight) } else { updates(dag, c, weight) };
            Look { base: at(1.0), larger: at(FACTOR), negative: at(-1.0) }
        };
        if of == Input::W {
            return look(1.0);
        }
        let still = look(0.0);
        if still.base.iter().all(|x| *x == 0.0) { look(1.0) } else { still }
    }

    fn plain(&self) -> bool {
        self.base.iter().all(|x| x.is_finite()) && self.base.iter().any(|x| *x != 0.0)
    }

    /// d where updates are c^d times as large, to two digits behind the point.
    pub fn degree(&self) -> Option<f64> {
        let pairs = || self.base.iter().zip(&self.larger);
        let (a, b) = pairs().max_by(|a, b| a.0.abs().total_cmp(&b.0.abs())).filter(|_| self.plain())?;
        let degree = (b / a).abs().log(4.0);
        let factor = 4f64.powf(degree);
        let all = degree.is_finite() && pairs().all(|(a, b)| close(a * factor, *b) || a.abs() < 1e-9);
        all.then(|| (degree * 100.0).round() / 100.0 + 0.0)
    }

    /// 1 where updates stay, -1 where they change their sign, 0 where they do neither.
    pub fn parity(&self) -> i8 {
        let pairs = || self.base.iter().zip(&self.negative);
        if !self.plain() {
            0
        } else if pairs().all(|(a, b)| close(*a, *b)) {
            1
        } else if pairs().all(|(a, b)| close(*a, -*b)) {
            -1
        } else {
            0
        }
    }
}

fn close(a: f64, b: f64) -> bool {
    const NEAR: f64 = 1e-3;
    (a - b).abs() <= NEAR * (a.abs() + b.abs()).max(1e-300)
}

/// Looks at a program.
pub fn traits(dag: &Dag) -> Traits {
    let look = Look::at(dag, Input::G);
    Traits { degree: look.degree(), parity: look.parity() }
}

/// For small gradients (about 1e-6) and for large ones (about 1e6) the degree that updates have there, if they have one.
pub fn limits(dag: &Dag) -> [Option<f64>; 2] {
    let degree = |size: f64, weight: f64| {
        let (base, larger) = (updates(dag, size, weight), updates(dag, 4.0 * size, weight));
        let pairs = || base.iter().zip(&larger);
        let (a, b) = pairs().max_by(|a, b| a.0.abs().total_cmp(&b.0.abs())).filter(|(a, _)| **a != 0.0)?;
        let degree = (b / a).abs().log(4.0);
        let factor = 4f64.powf(degree);
        let all = degree.is_finite() && pairs().all(|(x, y)| close(x * factor, *y) || x.abs() < 1e-9 * a.abs());
        all.then(|| (degree * 100.0).round() / 100.0 + 0.0)
    };
    [1e-6, 1e6].map(|size| degree(size, 0.0).or_else(|| degree(size, 1.0)))
}

/// How much alike the updates of two programs are: the cosine of the angle between them over forty steps of gradients that drift and are noisy, weights standing still. The unit of the learning rate
/// does not count.
pub fn likeness(a: &Dag, b: &Dag) -> f64 {
    const STEPS: usize = 40;
    const LEN: usize = 6;
    let all = |dag: &Dag| -> Vec<f64> {
        let weights: Vec<f64> = (0..LEN).map(|i| (i as f64 * 1.1 + 0.4).cos()).collect();
        let mut run = Run::new(dag, vec![weights.clone()]);
        let mut out = Vec::with_capacity(STEPS * LEN);
        for step in 0..STEPS {
            let of = |i: usize| {
                let (slow, noise) = ((0.05 * step as f64 + i as f64).sin(), (12.9898 * (step * LEN + i) as f64 + 0.7).sin());
                4f64.powi(i as i32 - 3) * (slow + noise)
            };
            out.extend(run.step(&[(0..LEN).map(of).collect()], 0.01).concat());
            run.weights[0].clone_from(&weights);
        }
        out
    };
    let (x, y) = (all(a), all(b));
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let cosine = dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt();
    if cosine.is_finite() { cosine } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{likeness, limits, traits};
    use crate::tests::{ADAM, read};

    #[test]
    fn limits_are_degrees_far_away() {
        let of = |text: &str| limits(&read(text).dag().expect("a program"));
        assert_eq!(of("def train(w, g, lr):\n  update = g * lr\n  return update"), [Some(1.0), Some(1.0)]);
        assert_eq!(of("def train(w, g, lr):\n  u = tanh(g)\n  update = u * lr\n  return update"), [Some(1.0), Some(0.0)]);
        assert_eq!(of("def train(w, g, lr):\n  u = g * g\n  u = g + u\n  update = u * lr\n  return update"), [Some(1.0), Some(2.0)]);
        assert_eq!(of("def train(w, g, lr):\n  u = exp(g)\n  update = u * lr\n  return update"), [Some(0.0), None]);
    }

    #[test]
    fn programs_are_like_those_of_their_kind() {
        let of = |text: &str| read(text).dag().expect("a program");
        let lion = "def train(w, g, m, lr):\n  c = interpolate(g, m, 0.9)\n  m = interpolate(g, m, 0.99)\n  u = sign(c)\n  update = u * lr\n  return update, m";
        let (adam, lion, sgd) = (of(ADAM), of(lion), of("def train(w, g, lr):\n  update = g * lr\n  return update"));
        let half = of("def train(w, g, lr):\n  u = g * 0.5\n  update = u * lr\n  return update");
        let signum =
            of("def train(w, g, m, lr):\n  m = interpolate(g, m, 0.9)\n  update = sign(m)\n  update = update * lr\n  return update, m");
        assert!((likeness(&sgd, &half) - 1.0).abs() < 1e-12 && (likeness(&adam, &adam) - 1.0).abs() < 1e-12);
        assert!(likeness(&lion, &signum) > likeness(&lion, &sgd) && likeness(&lion, &signum) > 0.5);
    }

    #[test]
    fn known_optimizers_have_known_degrees() {
        let of = |text: &str| traits(&read(text).dag().expect("a program"));
        let sgd = of("def train(w, g, lr):\n  update = g * lr\n  return update");
        assert_eq!((sgd.degree, sgd.parity), (Some(1.0), -1));
        let sign =
            of("def train(w, g, m, lr):\n  m = interpolate(g, m, 0.9)\n  update = sign(m)\n  update = update * lr\n  return update, m");
        assert_eq!((sign.degree, sign.parity), (Some(0.0), -1));
        let adam = of(ADAM);
        assert_eq!((adam.degree, adam.parity), (Some(0.0), -1));
        let square = of("def train(w, g, lr):\n  q = g * g\n  update = q * lr\n  return update");
        assert_eq!((square.degree, square.parity), (Some(2.0), 1));
        let mixed = of("def train(w, g, lr):\n  q = exp(g)\n  update = q * lr\n  return update");
        assert_eq!((mixed.degree, mixed.parity), (None, 0));
    }
}
