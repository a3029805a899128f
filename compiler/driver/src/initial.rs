//! Initial values of a train's parameters, states and buffers.

use crate::cache::Compiler;
use crate::offload::Files;
use crate::pipeline::CompileOptions;
use crate::stepper::Feed;
use crate::trainer::{backend_error, file_error, run_error, run_key};
use indexmap::IndexMap;
use optc_abi::Tensor;
use optc_base::Diagnostic;
use optc_elab::TrainProgram;
use optc_elab::program::{Slot, SlotKind};
use optc_exec::{Program, RunError};
use optc_ir::Graph;
use optc_ir::graph::{NodeId, Op};
use rustc_hash::FxHashSet;

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
    let mut slots = in_rows(&program.slots, &|k| files.get(k).is_none());
    for (k, slot) in slots.iter_mut().enumerate() {
        if let Some(file) = files.get(k) {
            *slot = file.map().map_err(|e| file_error(&e, span))?;
        }
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
        slots[*k].bytes_mut().copy_from_slice(tensor.bytes());
    }
    Ok(slots)
}

/// Memory for all slots: that of the leaves in a row, and so that of each state of all leaves, as an update goes over them. Slots for which there is to be none are empty.
fn in_rows(slots: &[Slot], here: &dyn Fn(usize) -> bool) -> Vec<Tensor> {
    // A state is named after its leaf without the model's name (`net.linear.0.w`, `optimizer.1.m.linear.0.w`): what stands before is the same for all leaves.
    let paths: FxHashSet<&str> =
        slots.iter().filter(|s| s.kind != SlotKind::State).flat_map(|s| ends(&s.name).map(|(_, end)| end)).collect();
    let state = |name: &str| ends(name).find(|(_, end)| paths.contains(end)).map_or(name.len(), |(at, _)| at);
    let mut rows: IndexMap<&str, Vec<usize>> = IndexMap::new();
    for (k, slot) in slots.iter().enumerate() {
        let row = if slot.kind == SlotKind::State { &slot.name[..state(&slot.name)] } else { "" };
        rows.entry(row).or_default().push(k);
    }
    let mut made: Vec<Option<Tensor>> = slots.iter().map(|_| None).collect();
    for row in rows.values() {
        let none: &[usize] = &[0];
        let types = row.iter().map(|&k| (slots[k].ty.dtype, if here(k) { &slots[k].ty.shape[..] } else { none }));
        for (&k, tensor) in row.iter().zip(Tensor::zeros_in_a_row(types)) {
            made[k] = Some(tensor);
        }
    }
    made.into_iter().map(|t| t.unwrap_or_else(|| panic!("compiler bug: a slot in no row"))).collect()
}

/// The parts of a dotted name from each of its words on, and where they begin.
fn ends(name: &str) -> impl Iterator<Item = (usize, &str)> {
    std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1)).map(move |at| (at, &name[at..]))
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

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::DType;
    use optc_ir::graph::Ty;

    /// Leaves and each of their states lie in rows of their own, in the order of the leaves.
    #[test]
    fn slots_lie_in_rows() {
        let slot = |name: String, kind: SlotKind, n: usize| Slot { name, ty: Ty::new(DType::F32, [n]), kind };
        let leaves = (0..200).map(|k| slot(format!("net.linear.{k}.w"), SlotKind::Param, 6000 + k));
        let states = ["m", "v"].iter().flat_map(|s| (0..200).map(move |k| (format!("optimizer.1.{s}.linear.{k}.w"), 6000 + k)));
        let states = states.map(|(name, n)| slot(name, SlotKind::State, n));
        let slots: Vec<Slot> = leaves.chain(states).chain([slot("step".to_string(), SlotKind::Counter, 1)]).collect();
        let made = in_rows(&slots, &|_| true);
        for row in made[..600].chunks(200) {
            for (k, pair) in row.windows(2).enumerate() {
                let end = pair[0].as_ptr().addr() + pair[0].bytes().len();
                assert_eq!(pair[1].as_ptr().addr(), end.next_multiple_of(optc_abi::tensor::ALIGN), "{k}");
            }
        }
        let none = in_rows(&slots, &|k| k >= 200);
        assert!(
            none[..200].iter().all(Tensor::is_empty) && none[200..].iter().zip(&slots[200..]).all(|(t, s)| t.shape[..] == s.ty.shape[..])
        );
    }
}
