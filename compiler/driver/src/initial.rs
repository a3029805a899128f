//! Initial values of a train's parameters, states and buffers.

use crate::cache::Compiler;
use crate::offload::Files;
use crate::pipeline::CompileOptions;
use crate::stepper::Feed;
use crate::trainer::{backend_error, file_error, run_error, run_key};
use optc_abi::Tensor;
use optc_base::Diagnostic;
use optc_elab::TrainProgram;
use optc_exec::{Program, RunError};
use optc_ir::Graph;
use optc_ir::graph::{NodeId, Op};

/// Initial values of all slots; those that live in files are made there.
///
/// # Errors
/// What the back end cannot do; an index out of range; trouble with files.
pub fn initial_slots(program: &TrainProgram, compiler: &mut Compiler, files: &Files) -> Result<Vec<Tensor>, Diagnostic> {
    let span = program.span;
    // Fresh memory is zero: slots that begin as zeros are not touched before the first step writes to them.
    let mut graph = program.init.clone();
    let drawn: Vec<bool> = graph.outputs.iter().map(|id| !is_zeros(&graph, *id)).collect();
    let mut keep = drawn.iter();
    graph.outputs.retain(|_| keep.next() == Some(&true));
    let mut slots = Vec::new();
    for (k, slot) in program.slots.iter().enumerate() {
        slots.push(match files.get(k) {
            Some(file) => file.map().map_err(|e| file_error(&e, span))?,
            None => Tensor::zeros(slot.ty.dtype, &slot.ty.shape),
        });
    }
    let mut init = compiler.program(&graph, &CompileOptions::once()).map_err(|e| backend_error(&e, span))?;
    if let Some(arena) = files.scratch(init.arena_bytes()).map_err(|e| file_error(&e, span))? {
        init.use_arena(arena);
    }
    let mut inputs = vec![run_key(program.seed)];
    if let Some(data) = &program.data {
        let mut feed = Feed::new(data, &[program.batch]);
        feed.fill(0, 0..program.batch);
        inputs.extend(feed.buffers);
    }
    let results = slots.iter().zip(drawn).filter(|(_, drawn)| *drawn).map(|(slot, _)| slot);
    run_into(&mut init, &inputs, results).map_err(|e| run_error(&e, "initial values", span))?;
    for (k, tensor) in &program.given {
        match files.get(*k) {
            Some(_) => slots[*k].bytes_mut().copy_from_slice(tensor.bytes()),
            None => slots[*k] = (**tensor).clone(),
        }
    }
    Ok(slots)
}

/// Runs a program once whose results go to memory at hand.
fn run_into<'t>(program: &mut Program, inputs: &[Tensor], results: impl Iterator<Item = &'t Tensor>) -> Result<(), RunError> {
    // SAFETY: inputs are only read, as no output is aliased; all have the graph's types and live through the run, and the caller owns the results.
    unsafe {
        for (k, tensor) in inputs.iter().enumerate() {
            program.bind_input(k, tensor.as_ptr());
        }
        for (k, tensor) in results.enumerate() {
            program.bind_output(k, tensor.as_ptr());
        }
        program.run_bound()
    }
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
