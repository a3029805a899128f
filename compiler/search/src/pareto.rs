//! Pareto fronts: the programs that no other is at least as good as in everything that counts, and better in something.

use crate::evolve::Kind;

/// What a program is measured by; less is better on every axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// The fitness of the search.
    Fitness,
    /// Bytes of state a parameter.
    StateBytes,
    /// Statements without dead code.
    Statements,
    /// Operations a parameter and step, weighed by the costs of the scalar table.
    Flops,
    /// Nanoseconds a parameter and step, measured.
    Ns,
}

/// All axes, with their names in specs.
pub const AXES: &[(&str, Axis)] = &[
    ("fitness", Axis::Fitness),
    ("state_bytes", Axis::StateBytes),
    ("statements", Axis::Statements),
    ("flops", Axis::Flops),
    ("ns", Axis::Ns),
];

/// The axes of a search that names none.
pub const DEFAULT: &[Axis] = &[Axis::Fitness, Axis::StateBytes, Axis::Statements];

impl Axis {
    /// Its name in specs.
    pub fn name(self) -> &'static str {
        AXES.iter().find(|(_, a)| *a == self).map_or("", |(n, _)| n)
    }
    /// The axis of this name.
    pub fn named(name: &str) -> Option<Axis> {
        AXES.iter().find(|(n, _)| *n == name).map(|(_, a)| *a)
    }
}

/// A program with what it is measured by.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its identity.
    pub key: u128,
    /// The arm that ran it.
    pub arm: Kind,
    /// A value for each axis of the front.
    pub values: Vec<f64>,
}

/// The programs of a search that no other program of it dominates. What is in it does not depend on the order in which programs come.
#[derive(Clone, Debug, PartialEq)]
pub struct Front {
    axes: Vec<Axis>,
    points: Vec<Point>,
}

/// Whether no value of the first is above that of the second.
fn no_worse(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(x, y)| x <= y)
}

impl Front {
    /// A front without programs.
    pub fn new(axes: &[Axis]) -> Front {
        Front { axes: axes.to_vec(), points: Vec::new() }
    }

    /// What programs are measured by.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// Its programs, the first axis ascending.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Takes a program, unless one that is there is as good in everything. Of programs with the same values the one with the least identity stays. Programs with a value that is not finite are none.
    /// True if the front changed.
    pub fn insert(&mut self, point: Point) -> bool {
        if point.values.len() != self.axes.len() || !point.values.iter().all(|v| v.is_finite()) {
            return false;
        }
        let rank = |p: &Point| (p.key, p.arm.name());
        let beaten = |p: &Point| no_worse(&p.values, &point.values) && (p.values != point.values || rank(p) <= rank(&point));
        if self.points.iter().any(beaten) {
            return false;
        }
        self.points.retain(|p| !no_worse(&point.values, &p.values));
        let order = |p: &Point| {
            let by = p.values.iter().zip(&point.values).map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne());
            by.unwrap_or_else(|| p.key.cmp(&point.key)).is_lt()
        };
        let at = self.points.partition_point(order);
        self.points.insert(at, point);
        true
    }

    /// Takes the programs of another front with the same axes.
    pub fn merge(&mut self, other: &Front) {
        other.points.iter().for_each(|p| {
            self.insert(p.clone());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn point(key: u128, values: &[f64]) -> Point {
        Point { key, arm: Kind::Evolution, values: values.to_vec() }
    }

    #[test]
    fn a_front_holds_what_nothing_dominates_in_any_order() {
        let mut rng = Stream::new([9, 2]);
        for _ in 0..50 {
            // Few values, so that ties are common.
            let all: Vec<Point> = (0..40).map(|k| point(k, &[rng.below(6) as f64, rng.below(5) as f64, rng.below(4) as f64])).collect();
            let mut front = Front::new(DEFAULT);
            all.iter().for_each(|p| {
                front.insert(p.clone());
            });
            let dominated = |p: &Point| all.iter().any(|q| no_worse(&q.values, &p.values) && (q.values != p.values || q.key < p.key));
            let mut expected: Vec<u128> = all.iter().filter(|p| !dominated(p)).map(|p| p.key).collect();
            let mut seen: Vec<u128> = front.points().iter().map(|p| p.key).collect();
            assert!(front.points().windows(2).all(|w| w[0].values <= w[1].values));
            expected.sort_unstable();
            seen.sort_unstable();
            assert_eq!(seen, expected);
            // Backwards, and in two parts.
            let mut parts = [Front::new(DEFAULT), Front::new(DEFAULT)];
            all.iter().rev().enumerate().for_each(|(k, p)| {
                parts[k % 2].insert(p.clone());
            });
            let [mut whole, rest] = parts;
            whole.merge(&rest);
            assert_eq!(whole, front);
        }
    }

    #[test]
    fn what_failed_is_in_no_front() {
        let mut front = Front::new(&[Axis::Fitness, Axis::StateBytes]);
        assert!(!front.insert(point(1, &[f64::INFINITY, 0.0])) && !front.insert(point(1, &[f64::NAN, 0.0])));
        assert!(front.insert(point(1, &[2.0, 4.0])) && !front.insert(point(1, &[2.0, 4.0])) && !front.insert(point(2, &[2.0, 8.0])));
        assert_eq!(front.points().len(), 1);
        assert!(AXES.iter().all(|(name, axis)| Axis::named(name) == Some(*axis) && axis.name() == *name));
    }
}
