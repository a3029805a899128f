//! Who made the first NaN: the step is replayed by the reference interpreter, node by node.

use optc_abi::Tensor;
use optc_base::Span;
use optc_elab::program::TrainProgram;
use optc_ir::graph::{NodeTy, Op};
use optc_ir::{Graph, NodeId};

/// Where a value stopped being finite.
pub struct Blame {
    /// The spec text.
    pub span: Span,
    /// The operation, in words.
    pub what: String,
    /// What it gave, and from what.
    pub detail: String,
    /// What became of the loss: `NaN` or `infinite`.
    pub loss: &'static str,
}

/// Replays a step on its inputs and finds the first operation with finite operands whose result is not. `None` if the interpreter's result is finite.
pub fn blame(program: &TrainProgram, slots: &[Tensor], rest: Vec<Tensor>) -> Option<Blame> {
    let inputs: Vec<Tensor> = slots.iter().cloned().chain(rest).collect();
    let mut graph: Graph = program.step.graph.clone();
    // Only what the loss depends on; each float array becomes an output.
    let loss = graph.outputs[slots.len()];
    graph.outputs = vec![loss];
    let live = graph.live();
    let wanted: Vec<NodeId> = graph
        .ids()
        .filter(|&id| live[id.index()] && matches!(&graph.node(id).ty, NodeTy::Array(ty) if ty.dtype.is_float()))
        .filter(|&id| !matches!(graph.node(id).op, Op::Input { .. }))
        .collect();
    graph.outputs = wanted.clone();
    let values = optc_ir::interp::interpret(&graph, &inputs).ok()?;
    let finite = |t: &Tensor| (0..t.len()).all(|i| t.get_f64(i).is_finite());
    let state: Vec<bool> = values.iter().map(finite).collect();
    let known = |id: NodeId| wanted.binary_search(&id).ok();
    let loss_value = values[known(loss)?].get_f64(0);
    for (k, &id) in wanted.iter().enumerate() {
        let node = graph.node(id);
        // Infinities that are written down (a mask's -inf) are nobody's fault.
        let introduces = !state[k] && !matches!(node.op, Op::Const(_) | Op::Broadcast { .. } | Op::Map(optc_ir::ScalarOp::Select));
        let clean = node.operands.iter().all(|&o| known(o).is_none_or(|p| state[p]));
        let nan = || (0..values[k].len()).any(|i| values[k].get_f64(i).is_nan());
        if introduces && (clean || (nan() && node.operands.iter().all(|&o| known(o).is_none_or(|p| !has_nan(&values[p]))))) {
            let bad = (0..values[k].len()).find(|&i| !values[k].get_f64(i).is_finite())?;
            let what = match &node.op {
                Op::Map(op) => format!("`{}`", op.name()),
                Op::Reduce { .. } => "a reduction".to_string(),
                Op::Dot(_) => "a matrix product".to_string(),
                Op::Loop(_) | Op::Result { .. } => "a loop or branch".to_string(),
                _ => "an operation".to_string(),
            };
            let value = values[k].get_f64(bad);
            return Some(Blame {
                span: graph.origin(id).span,
                what,
                detail: format!(
                    "gives {} at element {bad} of {}",
                    if value.is_nan() { "NaN".to_string() } else { value.to_string() },
                    values[k].len()
                ),
                loss: if loss_value.is_nan() { "NaN" } else { "infinite" },
            });
        }
    }
    None
}

fn has_nan(t: &Tensor) -> bool {
    (0..t.len()).any(|i| t.get_f64(i).is_nan())
}
