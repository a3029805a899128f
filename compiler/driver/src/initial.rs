//! Initial values of a train's parameters, states and buffers.

use crate::cache::Compiler;
use crate::pipeline::CompileOptions;
use crate::trainer::{Feed, backend_error, run_error, run_key};
use optc_abi::Tensor;
use optc_base::Diagnostic;
use optc_elab::TrainProgram;
use optc_ir::Graph;
use optc_ir::graph::{NodeId, Op};

/// Initial values of all slots.
///
/// # Errors
/// What the back end cannot do; an index out of range.
pub fn initial_slots(program: &TrainProgram, compiler: &mut Compiler) -> Result<Vec<Tensor>, Diagnostic> {
    let span = program.span;
    // Fresh memory is zero: slots that begin as zeros are not touched before the first step writes to them.
    let mut graph = program.init.clone();
    let drawn: Vec<bool> = graph.outputs.iter().map(|id| !is_zeros(&graph, *id)).collect();
    let mut keep = drawn.iter();
    graph.outputs.retain(|_| keep.next() == Some(&true));
    let mut init = compiler.program(&graph, &CompileOptions::once()).map_err(|e| backend_error(&e, span))?;
    let mut inputs = vec![run_key(program.seed)];
    if let Some(data) = &program.data {
        let mut feed = Feed::new(data, &[program.batch]);
        feed.fill(0, 0..program.batch);
        inputs.extend(feed.buffers);
    }
    let mut results = init.run(&mut inputs).map_err(|e| run_error(&e, "initial values", span))?.into_iter();
    let mut slots: Vec<Tensor> = (program.slots.iter().zip(drawn))
        .map(|(slot, drawn)| drawn.then(|| results.next()).flatten().unwrap_or_else(|| Tensor::zeros(slot.ty.dtype, &slot.ty.shape)))
        .collect();
    for (k, tensor) in &program.given {
        slots[*k] = (**tensor).clone();
    }
    Ok(slots)
}

/// Whether a node is an array of zeros whatever the inputs are.
fn is_zeros(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    match &node.op {
        Op::Const(tensor) => tensor.bytes().iter().all(|b| *b == 0),
        Op::Broadcast { .. } | Op::Reshape => is_zeros(graph, node.operands[0]),
        _ => false,
    }
}
