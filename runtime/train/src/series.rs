//! Recorded values: what a loss or metric was at which step.

use serde::{Deserialize, Serialize};

/// Values with the steps at which they were recorded, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    steps: Vec<u64>,
    values: Vec<f64>,
}

impl Series {
    /// Without values.
    pub fn new() -> Self {
        Self::default()
    }
    /// From steps and as many values. Panics if their numbers differ.
    pub fn from_parts(steps: Vec<u64>, values: Vec<f64>) -> Self {
        assert_eq!(steps.len(), values.len(), "compiler bug: steps and values of a series");
        Series { steps, values }
    }
    /// Makes room for so many further values, so that recording them does not allocate.
    pub fn reserve(&mut self, additional: usize) {
        self.steps.reserve(additional);
        self.values.reserve(additional);
    }
    /// Records a value.
    #[inline]
    pub fn push(&mut self, step: u64, value: f64) {
        self.steps.push(step);
        self.values.push(value);
    }
    /// Number of values.
    pub fn len(&self) -> usize {
        self.values.len()
    }
    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
    /// The steps.
    pub fn steps(&self) -> &[u64] {
        &self.steps
    }
    /// The values.
    pub fn values(&self) -> &[f64] {
        &self.values
    }
    /// The first value.
    pub fn first(&self) -> Option<f64> {
        self.values.first().copied()
    }
    /// The last value.
    pub fn last(&self) -> Option<f64> {
        self.values.last().copied()
    }
    /// The least value that is not NaN.
    pub fn min(&self) -> Option<f64> {
        self.values.iter().copied().filter(|v| !v.is_nan()).reduce(f64::min)
    }
    /// The greatest value that is not NaN.
    pub fn max(&self) -> Option<f64> {
        self.values.iter().copied().filter(|v| !v.is_nan()).reduce(f64::max)
    }
    /// Forgets what was recorded after this step.
    pub fn truncate_after(&mut self, step: u64) {
        let keep = self.steps.partition_point(|&s| s <= step);
        self.steps.truncate(keep);
        self.values.truncate(keep);
    }
    /// Steps and values as points.
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.steps.iter().map(|&s| s as f64).zip(self.values.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_skip_nan_and_truncation_keeps_the_step() {
        let mut s = Series::from_parts(vec![0, 10, 20, 30], vec![2.0, f64::NAN, 0.5, 1.0]);
        assert_eq!((s.first(), s.last(), s.min(), s.max()), (Some(2.0), Some(1.0), Some(0.5), Some(2.0)));
        s.truncate_after(20);
        assert_eq!(s.steps(), [0, 10, 20]);
        assert_eq!(Series::new().min(), None);
    }
}
