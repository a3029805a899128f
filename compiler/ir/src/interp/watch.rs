//! Watching an interpretation: what is made where, also inside loops and branches, with a note on each value.

use super::{InterpError, Rounding, Value, arguments, run};
use crate::graph::{Graph, NodeId};
use optc_abi::Tensor;
use std::rc::Rc;

/// Sees every value that an interpretation makes.
pub trait Watch {
    /// What is remembered with a value.
    type Tag: Clone + Default;
    /// A node of a graph, or of the body of a loop, branch or call, has made a value from its operands. Gives what is remembered with it.
    fn made(&mut self, graph: &Graph, id: NodeId, operands: &[(Rc<Value>, Self::Tag)], value: &Value) -> Self::Tag;
    /// What is remembered with a row of an array that a loop runs over.
    fn part(&mut self, whole: &Self::Tag, row: &Value) -> Self::Tag;
    /// What is remembered with rows that are stacked.
    fn join(&mut self, rows: &Self::Tag, row: &Self::Tag) -> Self::Tag;
    /// A pass of a loop begins.
    fn pass_begins(&mut self, counter: usize);
    /// The pass that began last is over.
    fn pass_ends(&mut self);
}

/// Nobody looks.
pub(super) struct Unwatched;

impl Watch for Unwatched {
    type Tag = ();
    fn made(&mut self, _: &Graph, _: NodeId, _: &[(Rc<Value>, ())], _: &Value) {}
    fn part(&mut self, (): &(), _: &Value) {}
    fn join(&mut self, (): &(), (): &()) {}
    fn pass_begins(&mut self, _: usize) {}
    fn pass_ends(&mut self) {}
}

/// As [`super::interpret_with`], under the eyes of `watch`: inputs come with their tags, results are given with theirs.
///
/// # Errors
/// As [`super::interpret`].
pub fn interpret_watched<W: Watch>(
    graph: &Graph,
    inputs: &[Tensor],
    tags: Vec<W::Tag>,
    rounding: Rounding,
    watch: &mut W,
) -> Result<Vec<(Tensor, W::Tag)>, InterpError> {
    let args: Vec<_> = arguments(graph, inputs, rounding)?.into_iter().zip(tags).collect();
    let results = run(graph, &args, rounding, watch)?;
    Ok(results.into_iter().map(|(value, tag)| (value.to_tensor(rounding), tag)).collect())
}
