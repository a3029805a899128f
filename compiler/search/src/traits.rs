//! What a program does to scales and signs of the gradient, found by running it: advisory, since a program is looked at in a few places only.

use crate::dag::Dag;
use crate::trace::Run;

/// What is known of a program's update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traits {
    /// d where the update of gradients c g is c^d times that of g, weights at 0.
    pub degree: Option<f64>,
    /// 1 where the update of -g is that of g, -1 where it is its negative, 0 where it is neither.
    pub parity: i8,
}

/// Steps that are looked at, and elements of the leaf.
const STEPS: usize = 4;
const LEN: usize = 5;

/// Updates at weights 0 for gradients scaled by a factor.
fn updates(dag: &Dag, factor: f64) -> Vec<f64> {
    let mut run = Run::new(dag, vec![vec![0.0; LEN]]);
    let mut all = Vec::new();
    for s in 0..STEPS {
        let g = (0..LEN).map(|i| factor * ((s * LEN + i) as f64 * 0.77 + 0.3).sin()).collect();
        all.extend(run.step(&[g], 0.01).remove(0));
        run.weights[0].fill(0.0);
    }
    all
}

/// Looks at a program.
pub fn traits(dag: &Dag) -> Traits {
    const NEAR: f64 = 1e-3;
    let base = updates(dag, 1.0);
    let (double, negative) = (updates(dag, 4.0), updates(dag, -1.0));
    let plain = base.iter().all(|x| x.is_finite()) && base.iter().any(|x| *x != 0.0);
    let close = |a: f64, b: f64| (a - b).abs() <= NEAR * (a.abs() + b.abs()).max(1e-300);
    let parity = if !plain {
        0
    } else if base.iter().zip(&negative).all(|(a, b)| close(*a, *b)) {
        1
    } else if base.iter().zip(&negative).all(|(a, b)| close(*a, -*b)) {
        -1
    } else {
        0
    };
    let largest = base.iter().zip(&double).max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
    let degree = largest.filter(|_| plain).map(|(a, b)| (b / a).abs().log(4.0)).filter(|d| {
        let factor = 4f64.powf(*d);
        d.is_finite() && base.iter().zip(&double).all(|(a, b)| close(a * factor, *b) || a.abs() < 1e-9)
    });
    Traits { degree: degree.map(|d| (d * 100.0).round() / 100.0), parity }
}

#[cfg(test)]
mod tests {
    use super::traits;
    use crate::tests::{ADAM, read};

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
