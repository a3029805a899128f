//! What a space requires of its programs, beyond meaning something.

use crate::dag::{Dag, Input};
use crate::interval::{Given, finite};
use crate::mutate::Space;
use crate::traits::Look;
use std::fmt;

/// A requirement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Require {
    /// No element depends on another, or, if false, some does.
    Elementwise(bool),
    /// Updates of gradients c g (or at weights c w) are c^degree times as large, within what running the program in some places tells.
    Degree {
        /// [`Input::G`] or [`Input::W`].
        of: Input,
        /// The degree.
        degree: f64,
    },
    /// What updates of -g (or at -w) are: the negative, or the same.
    Parity {
        /// [`Input::G`] or [`Input::W`].
        of: Input,
        /// Whether they change their sign.
        odd: bool,
    },
    /// Bytes of state for each parameter, at most.
    StateBytes(usize),
    /// Operations on arrays in a step, by the scalar table's costs, at most so many times those of a reference ([`Dag::cost`]).
    Cost {
        /// How many times.
        most: f64,
        /// The cost of the reference, AdamW.
        reference: u32,
    },
    /// Intervals show that updates and states are finite for gradients and weights up to a size.
    Finite(f64),
}

/// Bytes of a state for each parameter: states of a search are f32.
pub const STATE_BYTES: usize = 4;
/// How far a degree may be from the one that is required; epsilons in denominators shift them.
const NEAR: f64 = 0.011;

fn letter(of: Input) -> char {
    if of == Input::W { 'w' } else { 'g' }
}

impl Require {
    /// Whether a program is so.
    pub fn holds(self, dag: &Dag) -> bool {
        match self {
            Require::Elementwise(wanted) => dag.elementwise() == wanted,
            Require::Degree { of, degree } => Look::at(dag, of).degree().is_some_and(|d| (d - degree).abs() < NEAR),
            Require::Parity { of, odd } => Look::at(dag, of).parity() == if odd { -1 } else { 1 },
            Require::StateBytes(most) => STATE_BYTES * dag.states.len() <= most,
            Require::Cost { most, reference } => f64::from(dag.cost().0) <= most * f64::from(reference),
            Require::Finite(size) => finite(dag, &Given { size, ..Given::default() }),
        }
    }

    /// What a program is instead, in words that follow its name.
    pub fn instead(self, dag: &Dag) -> String {
        match self {
            Require::Elementwise(true) => "combines elements".to_string(),
            Require::Elementwise(false) => "combines no elements".to_string(),
            Require::Degree { of, .. } => match Look::at(dag, of).degree() {
                Some(d) => format!("has degree {d} in {}", letter(of)),
                None => format!("has no degree in {}", letter(of)),
            },
            Require::Parity { of, .. } => {
                let is = match Look::at(dag, of).parity() {
                    1 => "even",
                    -1 => "odd",
                    _ => "neither odd nor even",
                };
                format!("is {is} in {}", letter(of))
            }
            Require::StateBytes(_) => format!("keeps {} bytes of state for each parameter", STATE_BYTES * dag.states.len()),
            Require::Cost { reference, .. } => {
                format!("costs {:.3} times the operations of AdamW", f64::from(dag.cost().0) / f64::from(reference))
            }
            Require::Finite(_) => "is not known to be finite (intervals of its values have no bounds)".to_string(),
        }
    }

    /// Whether no program can be both.
    pub fn excludes(self, other: Require) -> bool {
        match (self, other) {
            (Require::Elementwise(a), Require::Elementwise(b)) => a != b,
            (Require::Degree { of: a, degree: x }, Require::Degree { of: b, degree: y }) => a == b && (x - y).abs() > 2.0 * NEAR,
            (Require::Parity { of: a, odd: x }, Require::Parity { of: b, odd: y }) => a == b && x != y,
            _ => false,
        }
    }
}

impl fmt::Display for Require {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Require::Elementwise(true) => f.write_str("elementwise"),
            Require::Elementwise(false) => f.write_str("not elementwise"),
            Require::Degree { of, degree } => write!(f, "scale_degree({}) == {degree}", letter(of)),
            Require::Parity { of, odd } => write!(f, "parity({}) == {}", letter(of), if odd { "odd" } else { "even" }),
            Require::StateBytes(most) => write!(f, "state_bytes <= {most}"),
            Require::Cost { most, .. } => write!(f, "cost <= {most}"),
            Require::Finite(size) if size == Given::default().size => f.write_str("finite"),
            Require::Finite(size) => write!(f, "finite({size:e})"),
        }
    }
}

impl Space {
    /// Whether a program is all that is required.
    pub fn allows(&self, dag: &Dag) -> bool {
        self.refuses(dag).is_none()
    }

    /// The first requirement that a program does not meet.
    pub fn refuses(&self, dag: &Dag) -> Option<Require> {
        self.require.iter().copied().find(|r| !r.holds(dag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{ADAM, read};

    fn dag(text: &str) -> Dag {
        read(text).dag().expect("a program")
    }

    #[test]
    fn programs_are_what_is_required_or_say_what_they_are() {
        let (sgd, adam) = (dag("def train(w, g, lr):\n  update = g * lr\n  return update"), dag(ADAM));
        let decay = dag("def train(w, g, lr):\n  update = w * lr\n  u = g * 0.0\n  update = update + u\n  return update");
        let clipped = dag("def train(w, g, lr):\n  u = clip(g, 1.0)\n  update = u * lr\n  return update");
        let degree = |of, degree| Require::Degree { of, degree };
        assert!(degree(Input::G, 1.0).holds(&sgd) && !degree(Input::G, 0.0).holds(&sgd) && degree(Input::G, 0.0).holds(&adam));
        assert!(degree(Input::W, 0.0).holds(&sgd) && degree(Input::W, 1.0).holds(&decay));
        assert_eq!(degree(Input::G, 0.0).instead(&sgd), "has degree 1 in g");
        let odd = Require::Parity { of: Input::G, odd: true };
        assert!(odd.holds(&sgd) && odd.holds(&adam) && !Require::Parity { of: Input::G, odd: false }.holds(&sgd));
        assert!(Require::Parity { of: Input::W, odd: true }.holds(&decay) && Require::Parity { of: Input::W, odd: false }.holds(&sgd));
        assert!(Require::Elementwise(true).holds(&adam) && Require::Elementwise(false).holds(&clipped));
        assert!(Require::StateBytes(8).holds(&adam) && !Require::StateBytes(4).holds(&adam));
        assert_eq!(Require::StateBytes(4).instead(&adam), "keeps 8 bytes of state for each parameter");
        let cost = |most| Require::Cost { most, reference: adam.cost().0 };
        assert!(cost(1.0).holds(&adam) && cost(1.0).holds(&sgd) && !cost(0.99).holds(&adam) && !cost(0.01).holds(&sgd));
        assert_eq!(cost(0.5).instead(&adam), "costs 1.000 times the operations of AdamW");
        assert_eq!(cost(1.5).to_string(), "cost <= 1.5");
        assert!(Require::Finite(1e3).holds(&adam));
    }

    #[test]
    fn requirements_that_exclude_each_other_are_known() {
        let degree = |of, degree| Require::Degree { of, degree };
        assert!(degree(Input::G, 1.0).excludes(degree(Input::G, 0.0)) && !degree(Input::G, 1.0).excludes(degree(Input::W, 0.0)));
        assert!(Require::Elementwise(true).excludes(Require::Elementwise(false)));
        assert!(!Require::Elementwise(true).excludes(Require::Elementwise(true)));
        assert_eq!(Require::Finite(1e3).to_string(), "finite(1e3)");
    }
}
