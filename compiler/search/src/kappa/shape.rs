//! The convex function K of a member, read off its derivative where it is a known one.

use super::direction;
use crate::dag::Dag;
use std::fmt;

/// A known K, summed over elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// s |x|, the norm of sums: K' is s times the sign, and weights stay within s / decay.
    Sum(f64),
    /// s x^2 / 2: K' is s x.
    Square(f64),
    /// s |x|^p / p: K' is s sign(x) |x|^(p - 1).
    Power(f64, f64),
    /// Huber's: s x^2 / (2 e) up to e, linear with slope s beyond.
    Huber(f64, f64),
    /// s max(|x| - e, 0): K' is 0 up to e, and s times the sign beyond.
    DeadZone(f64, f64),
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = |s: f64| if (s - 1.0).abs() < 1e-6 { String::new() } else { format!("{} ", plain(s)) };
        match *self {
            Shape::Sum(s) => write!(f, "{}|x|_1", scale(s)),
            Shape::Square(s) => write!(f, "{}|x|^2 / 2", scale(s)),
            Shape::Power(s, p) => write!(f, "{}|x|_p^p / p with p = {}", scale(s), plain(p)),
            Shape::Huber(s, e) => write!(f, "{}Huber's function, square up to {}", scale(s), plain(e)),
            Shape::DeadZone(s, e) => write!(f, "{}max(|x| - {}, 0), a dead zone", scale(s), plain(e)),
        }
    }
}

fn plain(x: f64) -> String {
    optc_abi::number::shown(x, 5)
}

/// Places at which K' is looked at: 1e-6 to 1e3, evenly in their logarithm, eight to a power of ten.
fn places() -> impl Iterator<Item = f64> {
    (0..=72).map(|k| 10f64.powf(f64::from(k) / 8.0 - 6.0))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * (a.abs() + b.abs())
}

/// Where a condition that holds from somewhere on begins to, between two places, to the last digits.
fn begins(low: f64, high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (low, high);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if holds(middle) { high = middle } else { low = middle }
    }
    high
}

/// The K of a member, if it is a known one.
pub fn shape(dag: &Dag) -> Option<Shape> {
    let of = |c: f64| direction(dag, c, c);
    let all: Vec<(f64, f64)> = places().map(|c| (c, of(c))).collect();
    let ((first, least), (last, most)) = (all[0], all[all.len() - 1]);
    if !(most > 0.0 && most.is_finite()) {
        return None;
    }
    if all.iter().all(|(_, d)| near(*d, most)) {
        return Some(Shape::Sum(most));
    }
    if least > 0.0 {
        let power = (most / least).ln() / (last / first).ln();
        let scale = most / last.powf(power);
        if power > 1e-6 && all.iter().all(|(c, d)| near(*d, scale * c.powf(power))) {
            return Some(if near(power, 1.0) { Shape::Square(scale) } else { Shape::Power(scale, power + 1.0) });
        }
    }
    let flat = all.iter().position(|(_, d)| near(*d, most)).filter(|k| *k > 0 && *k + 1 < all.len())?;
    let edge = begins(all[flat - 1].0, all[flat].0, |c| near(of(c), most));
    if all[..flat].iter().all(|(_, d)| *d == 0.0) {
        return Some(Shape::DeadZone(most, edge));
    }
    let slope = least / first;
    let bend = most / slope;
    (slope > 0.0 && all.iter().all(|(c, d)| near(*d, (slope * c).min(most)))).then_some(Shape::Huber(most, bend))
}
