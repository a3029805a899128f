//! What an arm has run: scores by identity, and by fingerprint.

use rustc_hash::FxHashMap;

/// Scores of programs by identity.
pub type Scores = FxHashMap<u128, f64>;

/// Programs by their fingerprint: of those that share one, that with the least key, whatever order they were found in.
pub type Prints = FxHashMap<u64, (u128, f64)>;

/// Scores and fingerprints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Scores.
    pub scores: Scores,
    /// Fingerprints.
    pub prints: Prints,
}

impl Memory {
    /// Takes a program in.
    pub fn insert(&mut self, key: u128, fitness: f64, mark: u64) {
        self.scores.insert(key, fitness);
        let twin = self.prints.entry(mark).or_insert((key, fitness));
        if key < twin.0 {
            *twin = (key, fitness);
        }
    }
}

/// What an island knows in a round, and does not run again: what all islands of its arm had run before the round, and its own since.
pub struct Known<'a> {
    /// Of all islands, before the round.
    pub shared: &'a Memory,
    /// Its own in the round.
    pub own: Memory,
}

impl<'a> Known<'a> {
    /// At the start of a round.
    pub fn new(shared: &'a Memory) -> Known<'a> {
        Known { shared, own: Memory::default() }
    }

    /// The score of a program.
    pub fn score(&self, key: u128) -> Option<f64> {
        self.own.scores.get(&key).or_else(|| self.shared.scores.get(&key)).copied()
    }

    /// The score of another program with the same fingerprint.
    pub fn twin(&self, mark: u64) -> Option<f64> {
        self.shared.prints.get(&mark).or_else(|| self.own.prints.get(&mark)).map(|(_, fitness)| *fitness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shares_a_fingerprint_does_not_depend_on_the_order_it_was_found_in() {
        let all = [(5, 1.0, 7), (2, 3.0, 7), (9, 2.0, 7), (4, 8.0, 1)];
        let (mut forth, mut back) = (Memory::default(), Memory::default());
        all.iter().for_each(|(k, f, m)| forth.insert(*k, *f, *m));
        all.iter().rev().for_each(|(k, f, m)| back.insert(*k, *f, *m));
        assert!(forth == back && forth.prints[&7] == (2, 3.0));
        let mut known = Known::new(&forth);
        known.own.insert(1, 6.0, 7);
        assert_eq!((known.score(1), known.score(5), known.twin(7), known.twin(2)), (Some(6.0), Some(1.0), Some(3.0), None));
    }
}
