//! Loops that end by a flag, for reverse mode: it stacks what it needs per pass, so the loop must have a bound.

use super::DiffError;
use super::cut::derived;
use optc_base::Code;
use optc_ir::graph::{Graph, Guard, LoopOp, NodeId, Origin};
use std::sync::Arc;

/// The loop as one of as many passes as it makes at most; passes after its end keep the carried values. Its operands are those of the
/// loop without the number of passes.
pub fn bounded(l: &LoopOp, guard: Guard, origin: Origin) -> Result<LoopOp, DiffError> {
    let Some(most) = guard.most else {
        let message = "reverse mode goes through a `while` only if the number of its passes has a bound".to_string();
        return Err(DiffError { code: Code("E0722"), message, origin });
    };
    let o = derived(origin);
    let inputs = |g: &mut Graph| -> Vec<NodeId> {
        l.body.inputs.iter().map(|i| g.input(i.name.clone(), l.body.ty(i.node).clone(), l.body.origin(i.node))).collect()
    };
    let mut done = Graph::new();
    done.outputs = inputs(&mut done)[1..=l.carried].to_vec();
    let mut g = Graph::new();
    let args = inputs(&mut g);
    g.outputs = g.cond_results(args[1], l.body.clone(), Arc::new(done), &args, o);
    Ok(LoopOp { trip: Some(most), guard: None, body: Arc::new(g), ..l.clone() })
}
