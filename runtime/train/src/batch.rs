//! Which examples each batch holds: a pure function of seed and batch number, so that a run can be resumed at any step.

use crate::error::{Result, TrainError};
use crate::split::{Purpose, permute};

/// The order in which batches of a fixed size are drawn from a data set.
///
/// **Shuffled**: each epoch is a new permutation drawn from (seed, epoch); it gives `rows / batch` whole batches, and the examples left
/// over are dropped for this epoch. **In order**: batch `k` holds the examples `k * batch, …` modulo the number of examples, so nothing
/// is dropped.
#[derive(Clone, Debug)]
pub struct Batches {
    rows: usize,
    batch: usize,
    shuffle: Option<u64>,
    /// The permutation of this epoch, if shuffling.
    epoch: Option<u64>,
    order: Vec<usize>,
    /// The last batch, if in order.
    current: Vec<usize>,
}

impl Batches {
    /// Batches of `batch` of `rows` examples; `shuffle` is the seed, or none to keep the order. `R0114` if the batch is empty or larger
    /// than the data.
    pub fn new(rows: usize, batch: usize, shuffle: Option<u64>) -> Result<Self> {
        if batch == 0 {
            return Err(TrainError::new("R0114", "a batch needs at least one example"));
        }
        if batch > rows {
            return Err(TrainError::new("R0114", format!("a batch of {batch} does not fit {rows} examples"))
                .help("choose a smaller batch, or `batch = all`"));
        }
        if rows > u32::MAX as usize && shuffle.is_some() {
            return Err(TrainError::new("R0114", format!("{rows} examples are too many to shuffle (the limit is 2^32 - 1)")));
        }
        // Shuffling one batch of everything would only reorder the sums.
        let shuffle = shuffle.filter(|_| batch < rows);
        Ok(Batches { rows, batch, shuffle, epoch: None, order: Vec::new(), current: Vec::new() })
    }
    /// Examples in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }
    /// Whether every batch is the whole data set in order, so that it needs to be copied only once.
    pub fn is_whole(&self) -> bool {
        self.batch == self.rows
    }
    /// Number of examples.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Batches that make up so many epochs: whole batches if shuffled, rounded up if in order.
    pub fn in_epochs(&self, epochs: u64) -> u64 {
        match self.shuffle {
            Some(_) => epochs * (self.rows / self.batch) as u64,
            None => (epochs as u128 * self.rows as u128).div_ceil(self.batch as u128) as u64,
        }
    }
    /// The epoch (from 0) in which batch `k` begins.
    pub fn epoch_of(&self, k: u64) -> u64 {
        match self.shuffle {
            Some(_) => k / (self.rows / self.batch) as u64,
            None => (k as u128 * self.batch as u128 / self.rows as u128) as u64,
        }
    }
    /// Numbers of the examples of batch `k` of the run, from 0. Going on to the next batch is cheap; any `k` may be asked for.
    pub fn indices(&mut self, k: u64) -> &[usize] {
        let Some(seed) = self.shuffle else {
            let first = (k as u128 * self.batch as u128 % self.rows as u128) as usize;
            if self.current.first() != Some(&first) {
                self.current.clear();
                self.current.extend((first..self.rows).chain(0..first).take(self.batch));
            }
            return &self.current;
        };
        let per_epoch = (self.rows / self.batch) as u64;
        let epoch = k / per_epoch;
        if self.epoch != Some(epoch) {
            permute(self.rows, seed, Purpose::Epoch(epoch), &mut self.order);
            self.epoch = Some(epoch);
        }
        let at = (k % per_epoch) as usize * self.batch;
        &self.order[at..at + self.batch]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_each_example_at_most_once() {
        let mut b = Batches::new(10, 3, Some(7)).unwrap();
        assert_eq!((b.in_epochs(2), b.epoch_of(2), b.epoch_of(3)), (6, 0, 1));
        let epochs: Vec<Vec<usize>> = (0..2).map(|e| (0..3).flat_map(|k| b.indices(3 * e + k).to_vec()).collect()).collect();
        for e in &epochs {
            let mut sorted = e.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 9);
        }
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn a_batch_does_not_depend_on_what_was_asked_before() {
        for shuffle in [Some(3), None] {
            let mut b = Batches::new(11, 4, shuffle).unwrap();
            let forward: Vec<Vec<usize>> = (0..9).map(|k| b.indices(k).to_vec()).collect();
            for k in [8, 0, 5, 4, 8] {
                assert_eq!(Batches::new(11, 4, shuffle).unwrap().indices(k), forward[k as usize]);
                assert_eq!(b.indices(k), forward[k as usize]);
            }
        }
    }

    #[test]
    fn in_order_nothing_is_dropped() {
        let mut b = Batches::new(5, 2, None).unwrap();
        let seen: Vec<usize> = (0..5).flat_map(|k| b.indices(k).to_vec()).collect();
        assert_eq!(seen, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
        assert_eq!((b.in_epochs(1), b.in_epochs(2), b.epoch_of(2), b.epoch_of(3)), (3, 5, 0, 1));
    }

    #[test]
    fn the_whole_set_keeps_its_order() {
        let mut all = Batches::new(3, 3, Some(1)).unwrap();
        assert!(all.is_whole() && !Batches::new(3, 2, None).unwrap().is_whole());
        assert_eq!(all.indices(5), [0, 1, 2]);
    }

    #[test]
    fn impossible_batches_are_refused() {
        for batch in [0, 4] {
            assert_eq!(Batches::new(3, batch, None).unwrap_err().code, "R0114");
        }
    }
}
