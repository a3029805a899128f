//! Loops with a run-time number of passes cannot stack what their derivative needs, since there is no bound on its size. Their
//! linear loop runs the passes before its own anew in each pass: quadratic in the number of passes, but with no memory beyond the
//! carried values.

use optc_ir::ScalarOp;
use optc_ir::graph::{Graph, LoopOp, NodeId, Origin, Ty};
use std::sync::Arc;

/// The body of such a linear loop. `linear` computes the tangents of the carried values from: counter, carried values,
/// invariants, tangents of `carried` carried values, tangents of invariants. Inputs of the result: counter, tangents of carried
/// values; then, as invariants, the number of passes, the initial values, the invariants, and tangents of invariants.
pub fn replayed(l: &LoopOp, linear: &Graph, carried: usize, o: Origin) -> Graph {
    let mut g = Graph::new();
    let types = linear.input_types();
    let invariants = l.body.inputs.len() - 1 - l.carried;
    let (values, tangents) = types[1..].split_at(l.carried + invariants);
    let inputs = |g: &mut Graph, name: &str, types: &[Ty]| -> Vec<NodeId> { types.iter().map(|t| g.input(name, t.clone(), o)).collect() };
    let counter = inputs(&mut g, "i", &types[..1])[0];
    let carried_tangents = inputs(&mut g, "d_carried", &tangents[..carried]);
    let trip = inputs(&mut g, "trip", &types[..1])[0];
    let start = inputs(&mut g, "start", &values[..l.carried]);
    let invariant = inputs(&mut g, "invariant", &values[l.carried..]);
    let invariant_tangents = inputs(&mut g, "d_invariant", &tangents[carried..]);

    let mut operands = vec![counter];
    operands.extend(start.iter().chain(&invariant));
    let mut body = l.body.clone();
    if l.reverse {
        // Counting down from trip - 1, the passes before this one are those with counters above it.
        let one = g.scalar(types[0].dtype, 1.0, o);
        let next = g.map(ScalarOp::Add, &[counter, one], o);
        operands[0] = g.map(ScalarOp::Sub, &[trip, next], o);
        operands.push(next);
        body = Arc::new(shifted(&body, o));
    }
    let op = LoopOp { trip: None, reverse: l.reverse, carried: l.carried, scanned: 0, guard: None, body };
    let now = g.loop_results(op, &operands, o);
    let args = [&[counter][..], &now, &invariant, &carried_tangents, &invariant_tangents].concat();
    g.outputs = g.inline(linear, &args, "");
    g
}

/// A loop body with one more invariant, which is added to the counter.
fn shifted(body: &Graph, o: Origin) -> Graph {
    let mut g = Graph::new();
    let mut args: Vec<NodeId> = body.inputs.iter().map(|i| g.input(i.name.clone(), body.ty(i.node).clone(), body.origin(i.node))).collect();
    let offset = g.input("offset", body.ty(body.inputs[0].node).clone(), o);
    args[0] = g.map(ScalarOp::Add, &[args[0], offset], o);
    g.outputs = g.inline(body, &args, "");
    g
}
