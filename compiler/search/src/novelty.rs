//! The novelty archive of an island: one elite for each kind of program, where a kind is states, degree in the gradient and length. Parents and migrants that are drawn from it keep kinds alive that the
//! best of the day would drive out (quality diversity: Mouret and Clune 2015, arXiv 1504.04909).

use crate::dag::Dag;
use crate::evolve::Member;
use crate::live::without_dead_code;
use crate::traits::traits;
use std::collections::BTreeMap;

/// A kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// States that matter.
    pub states: u8,
    /// Twice the degree in the gradient, rounded, from -8 to 8; `None` where there is none.
    pub degree: Option<i8>,
    /// Statements that matter, in twos.
    pub length: u8,
}

impl Cell {
    /// The cell of a program.
    pub fn of(member: &Member, dag: &Dag) -> Cell {
        let statements = without_dead_code(&member.genome).body.len();
        Cell {
            states: dag.states.len() as u8,
            degree: traits(dag).degree.map(|d| (2.0 * d).round().clamp(-8.0, 8.0) as i8),
            length: (statements / 2).min(255) as u8,
        }
    }
}

/// Elites by their kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Elites {
    /// In order of the cells.
    pub cells: BTreeMap<Cell, Member>,
}

impl Elites {
    /// Takes a program in, if it is the best of its kind; what failed is no elite.
    pub fn offer(&mut self, cell: Cell, member: &Member) {
        if member.rank.is_finite() && self.cells.get(&cell).is_none_or(|e| member.rank < e.rank) {
            self.cells.insert(cell, member.clone());
        }
    }

    /// The elite with this number, counted around.
    pub fn nth(&self, n: usize) -> Option<&Member> {
        self.cells.values().nth(n.checked_rem(self.cells.len())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::keys;
    use crate::tests::{ADAM, read};

    #[test]
    fn the_best_of_each_kind_stays() {
        let member = |text: &str, fitness: f64| {
            let genome = read(text);
            let dag = genome.dag().expect("a program");
            let member = Member { genome, fitness, rank: fitness, key: keys(&dag).exact };
            (Cell::of(&member, &dag), member)
        };
        let sgd = "def train(w, g, lr):\n  update = g * lr\n  return update";
        let mut elites = Elites::default();
        for (text, fitness) in [(sgd, 2.0), (ADAM, 3.0), (sgd, 1.0), (sgd, 4.0), (ADAM, f64::INFINITY)] {
            let (cell, member) = member(text, fitness);
            elites.offer(cell, &member);
        }
        let kept: Vec<(u8, Option<i8>, f64)> = elites.cells.iter().map(|(c, m)| (c.states, c.degree, m.fitness)).collect();
        assert_eq!(kept, [(0, Some(2), 1.0), (2, Some(0), 3.0)]);
        assert_eq!((elites.nth(3).map(|m| m.fitness), Elites::default().nth(3)), (Some(3.0), None));
    }
}
