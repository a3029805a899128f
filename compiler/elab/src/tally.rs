//! What bodies leave behind in sub-graphs: buffers that changed, and metrics as sums and counts, so that a metric is the mean of what a step recorded.

use crate::evaluator::{Eval, Evaluator};
use crate::value::Value;
use indexmap::IndexMap;
use optc_base::Span;
use optc_ir::ScalarOp;
use optc_ops::Array;
use std::sync::Arc;

/// How often a metric was recorded.
#[derive(Clone, Debug)]
pub enum Count {
    /// So often, whatever the values are.
    Times(u64),
    /// As this float scalar says: some of it stands under a run-time condition or in a loop with run-time bounds.
    Array(Array),
}

/// What the `metric` statements of one name recorded at one place.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The sum of the values, a float scalar.
    pub sum: Array,
    /// The number of values.
    pub count: Count,
}

impl Tally {
    /// The sum and, if it is an array, the count.
    pub fn arrays(&self) -> Vec<Array> {
        let mut out = vec![self.sum.clone()];
        if let Count::Array(a) = &self.count {
            out.push(a.clone());
        }
        out
    }
}

/// Metrics by path of the body they stand in and name.
pub type Metrics = IndexMap<(Arc<str>, Arc<str>), Tally>;

/// What was recorded in a sub-graph.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Buffers with a new value, by path.
    pub buffers: Vec<(Arc<str>, Array)>,
    /// Metrics.
    pub metrics: Metrics,
}

impl Recorded {
    /// All arrays of it: outputs of the sub-graph.
    pub fn arrays(&self) -> Vec<Array> {
        let buffers = self.buffers.iter().map(|(_, a)| a.clone());
        buffers.chain(self.metrics.values().flat_map(Tally::arrays)).collect()
    }
    /// The same with other arrays, in the order of [`Recorded::arrays`].
    pub fn with(&self, arrays: &mut dyn Iterator<Item = Array>) -> Recorded {
        let mut next = || arrays.next().expect("an array for everything recorded");
        Recorded {
            buffers: self.buffers.iter().map(|(path, _)| (path.clone(), next())).collect(),
            metrics: self
                .metrics
                .iter()
                .map(|(key, tally)| {
                    let sum = next();
                    let count = match &tally.count {
                        Count::Times(n) => Count::Times(*n),
                        Count::Array(_) => Count::Array(next()),
                    };
                    (key.clone(), Tally { sum, count })
                })
                .collect(),
        }
    }
}

impl Evaluator<'_> {
    /// `metric name = value` in a body.
    pub(crate) fn record_metric(&mut self, name: &Arc<str>, value: &Value, span: Span) -> Eval<()> {
        if (self.recorder.metrics.is_none() || self.recorder.muted) && !self.checking() {
            return Ok(());
        }
        let sum = self.float_scalar(value, span, "a metric")?;
        let sum = self.stopped(&sum, span);
        let key = (self.metric_place(), name.clone());
        self.add_tally(key, Tally { sum, count: Count::Times(1) });
        Ok(())
    }
    /// The path under which metrics of the body at hand are recorded.
    pub(crate) fn metric_place(&self) -> Arc<str> {
        if self.recorder.metrics.is_none() {
            return self.recorder.place.clone();
        }
        match &self.params {
            Some(cx) => {
                let parts: Vec<&str> = cx.label.iter().chain(&cx.path).map(|p| &**p).collect();
                Arc::from(parts.join("."))
            }
            None => self.recorder.place.clone(),
        }
    }
    /// Adds to what was recorded under a name before.
    pub(crate) fn add_tally(&mut self, key: (Arc<str>, Arc<str>), new: Tally) {
        let Some(old) = self.recorder.metrics.as_ref().map(|m| m.get(&key).cloned()) else { return };
        let tally = match old {
            None => new,
            Some(old) => {
                let count = match (&old.count, &new.count) {
                    (Count::Times(a), Count::Times(b)) => Count::Times(a + b),
                    (a, b) => {
                        let (a, b) = (self.count_array(a), self.count_array(b));
                        Count::Array(self.scalar_op(ScalarOp::Add, &a, &b))
                    }
                };
                Tally { sum: self.scalar_op(ScalarOp::Add, &old.sum, &new.sum), count }
            }
        };
        if let Some(metrics) = &mut self.recorder.metrics {
            metrics.insert(key, tally);
        }
    }
    /// A count as a float scalar of the graph on top.
    pub(crate) fn count_array(&mut self, count: &Count) -> Array {
        match count {
            Count::Array(a) => a.clone(),
            Count::Times(n) => self.float_number(*n as f64),
        }
    }
    /// A scalar of the precision in which metrics are kept.
    pub(crate) fn float_number(&mut self, x: f64) -> Array {
        let dtype = self.cx.kept();
        self.literal(optc_abi::Tensor::from_f64(dtype, &[], &[x]))
    }
    fn scalar_op(&mut self, op: ScalarOp, a: &Array, b: &Array) -> Array {
        if !self.cx.emitting() {
            return a.clone();
        }
        let (origin, x, y) = (self.cx.origin, self.cx.node(a), self.cx.node(b));
        let node = self.cx.graph().map(op, &[x, y], origin);
        self.cx.array(node)
    }
    /// The mean of what was recorded, from its sum and its count; NaN where nothing was.
    pub(crate) fn mean_of_tally(&mut self, sum: &Array, count: &Count) -> Array {
        match count {
            Count::Times(0) => self.float_number(f64::NAN),
            Count::Times(1) => sum.clone(),
            count => {
                let count = self.count_array(count);
                self.scalar_op(ScalarOp::Div, sum, &count)
            }
        }
    }
    /// Names for metrics: as written where there is one of that name, else with the path of the body in front. `short` shortens paths.
    pub(crate) fn named_metrics(&self, metrics: Metrics, short: &dyn Fn(&str) -> Arc<str>) -> Vec<(String, Tally)> {
        let mut places: IndexMap<Arc<str>, usize> = IndexMap::new();
        for (_, name) in metrics.keys() {
            *places.entry(name.clone()).or_default() += 1;
        }
        metrics
            .into_iter()
            .map(|((path, name), tally)| {
                let path = short(&path);
                let full = if places[&name] > 1 && !path.is_empty() { format!("{path}.{name}") } else { name.to_string() };
                (full, tally)
            })
            .collect()
    }
    /// Evaluates `f` with a recorder of its own, which sees the buffers as they are; gives what was recorded, in arrays of the graph on top.
    ///
    /// # Errors
    /// What `f` reports.
    pub(crate) fn recording<T>(&mut self, f: impl FnOnce(&mut Self) -> Eval<T>) -> Eval<(T, Recorded)> {
        let buffers = self.recorder.buffers.clone();
        let metrics = self.recorder.metrics.take();
        self.recorder.metrics = metrics.as_ref().map(|_| Metrics::new());
        let result = f(self);
        let after = std::mem::replace(&mut self.recorder.buffers, buffers).unwrap_or_default();
        let recorded = std::mem::replace(&mut self.recorder.metrics, metrics).unwrap_or_default();
        let before = self.recorder.buffers.as_ref();
        let changed = after
            .into_iter()
            .filter(|(path, array)| before.and_then(|b| b.get(path)).is_none_or(|old| old.node != array.node || !self.cx.emitting()));
        let buffers = changed.collect();
        result.map(|value| (value, Recorded { buffers, metrics: recorded }))
    }
    /// Records what was recorded in a sub-graph, with its values in the graph on top.
    pub(crate) fn replay_recorded(&mut self, recorded: Recorded) {
        if let Some(buffers) = &mut self.recorder.buffers {
            buffers.extend(recorded.buffers);
        }
        for (key, tally) in recorded.metrics {
            self.add_tally(key, tally);
        }
    }
    /// The value of a buffer before the sub-graph that changed it.
    pub(crate) fn buffer_before(&self, path: &Arc<str>) -> Option<Array> {
        let now = self.recorder.buffers.as_ref().and_then(|b| b.get(path));
        now.or_else(|| self.recorder.seen.get(path)).filter(|a| self.cx.reaches(a)).cloned()
    }
}
