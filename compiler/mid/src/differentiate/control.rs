//! Linearization of loops, conditionals and calls.

use super::activity::{loop_active, loop_needed};
use super::bounded::bounded;
use super::cut::{depends, derived, extract};
use super::linearize::{Linearizer, Mode, Results, linearize};
use super::replay::replayed;
use super::residual::{Access, Policy, choose};
use super::swap;
use super::{DiffError, vjp};
use optc_ir::graph::{CallOp, Graph, LoopOp, NodeId, Op, Origin, SWAPPED, Ty};
use std::sync::Arc;

impl Linearizer {
    /// A loop some of whose results need tangents. `x` and `t` are its operands and their tangents.
    pub(super) fn loop_node(
        &mut self,
        l: &LoopOp,
        x: &[NodeId],
        t: &[Option<NodeId>],
        wanted: &[bool],
        origin: Origin,
    ) -> Result<Results, DiffError> {
        if let (Some(guard), Mode::Split) = (l.guard, self.mode) {
            let l = bounded(l, guard, origin)?;
            return self.loop_node(&l, &x[1..], &t[1..], wanted, origin);
        }
        let offset = usize::from(l.trip.is_none());
        let trip = x[..offset].to_vec();
        let (x, t) = (&x[offset..], &t[offset..]);
        let operands: Vec<bool> = t.iter().map(Option::is_some).collect();
        let (active, _) = loop_active(l, &operands);
        let (_, needed) = loop_needed(l, wanted);
        // Of the carried values only those that are both active and needed get a tangent; of the rest of the inputs those that have one.
        let on: Vec<bool> = (0..active.len()).map(|i| active[i] && (i == 0 || i > l.carried || needed[i - 1])).collect();
        let lin = linearize(&l.body, &on, &needed, self.mode)?;
        let o = derived(origin);
        let (scans, invs) = (1 + l.carried..1 + l.carried + l.scanned, 1 + l.carried + l.scanned..on.len());
        let carried: Vec<usize> = (0..l.carried).filter(|&k| on[1 + k]).collect();
        let stacked: Vec<usize> = (l.carried..needed.len()).filter(|&k| lin.output_tangents[k].is_some()).collect();
        let mut g = lin.g;
        // A carried tangent that comes out as zero still has its place.
        let mut tangent_outputs = Vec::new();
        for &k in carried.iter().chain(&stacked) {
            let ty = g.ty(lin.outputs[k]).clone();
            tangent_outputs.push(lin.output_tangents[k].unwrap_or_else(|| g.splat(&ty, 0.0, o)));
        }
        let tangent_in = |range: std::ops::Range<usize>| -> Vec<NodeId> { range.filter_map(|i| lin.input_tangents[i]).collect() };
        let mut starts = Vec::new();
        for &k in &carried {
            let ty = self.g.ty(x[k]).clone();
            starts.push(self.or_zeros(t[k], &ty, o));
        }
        let outer = |range: std::ops::Range<usize>| -> Vec<NodeId> { range.filter(|&i| on[i]).filter_map(|i| t[i - 1]).collect() };
        let (scanned_tangents, invariant_tangents) = (outer(scans.clone()), outer(invs.clone()));
        let results = needed.len();
        let mut tangents = vec![None; results];

        if self.mode == Mode::Joint {
            let inner = [
                &lin.inputs[..1 + l.carried],
                &tangent_in(1..1 + l.carried),
                &lin.inputs[scans.clone()],
                &tangent_in(scans.clone()),
                &lin.inputs[invs.clone()],
                &tangent_in(invs.clone()),
            ]
            .concat();
            let outputs = [
                &lin.outputs[..l.carried],
                &tangent_outputs[..carried.len()],
                &lin.outputs[l.carried..],
                &tangent_outputs[carried.len()..],
            ]
            .concat();
            let body = Arc::new(extract(&g, &inner, &outputs));
            let args = [
                trip,
                x[..l.carried].to_vec(),
                starts,
                x[l.carried..l.carried + l.scanned].to_vec(),
                scanned_tangents.clone(),
                x[l.carried + l.scanned..].to_vec(),
                invariant_tangents,
            ]
            .concat();
            let op = LoopOp {
                trip: l.trip,
                reverse: l.reverse,
                carried: l.carried + carried.len(),
                scanned: l.scanned + scanned_tangents.len(),
                guard: l.guard,
                body,
            };
            let all = self.g.loop_results(op, &args, origin);
            let (dc, ns) = (carried.len(), results - l.carried);
            let values = [&all[..l.carried], &all[l.carried + dc..l.carried + dc + ns]].concat();
            for (j, &k) in carried.iter().enumerate() {
                tangents[k] = Some(all[l.carried + j]);
            }
            for (j, &k) in stacked.iter().enumerate() {
                tangents[k] = Some(all[l.carried + dc + ns + j]);
            }
            return Ok((values, tangents));
        }

        let linear = depends(&g, lin.input_tangents.iter().flatten().copied());
        let access = |input: usize| match input {
            0 => Access::Varying,
            i if i <= l.carried => Access::Carried,
            i if scans.contains(&i) => Access::Varying,
            _ => Access::Invariant,
        };
        let policy = Policy { hoist: l.trip != Some(0), keep_nothing: l.trip.is_none(), any_map: false };
        let kept = choose(&g, &linear, &tangent_outputs, access, policy);
        if l.trip.is_none() && !kept.saved.is_empty() {
            let values = self.g.loop_results(l.clone(), &[&trip, x].concat(), origin);
            let inner = [&lin.inputs[..], &tangent_in(1..1 + l.carried), &tangent_in(invs.clone())].concat();
            let body = Arc::new(replayed(l, &extract(&g, &inner, &tangent_outputs), carried.len(), o));
            let args = [&trip[..], &starts, &trip, x, &invariant_tangents].concat();
            let op = LoopOp { trip: None, reverse: l.reverse, carried: carried.len(), scanned: 0, guard: None, body };
            for (&k, result) in carried.iter().zip(self.g.loop_results(op, &args, o)) {
                tangents[k] = Some(result);
            }
            return Ok((values, tangents));
        }
        // The loop itself, which now also stacks what the linear one needs and it does not stack anyway.
        let own = |id: &NodeId| (l.carried..results).find(|&k| lin.outputs[k] == *id);
        let extra: Vec<NodeId> = kept.saved.iter().copied().filter(|id| own(id).is_none()).collect();
        let body = if extra.is_empty() { l.body.clone() } else { Arc::new(extract(&g, &lin.inputs, &[&lin.outputs[..], &extra].concat())) };
        let op = LoopOp { trip: l.trip, reverse: l.reverse, carried: l.carried, scanned: l.scanned, guard: None, body };
        let mut values = self.g.loop_results(op, &[&trip[..], x].concat(), origin);
        let mut new = values.split_off(results).into_iter();
        let stacks: Vec<NodeId> = kept.saved.iter().filter_map(|id| own(id).map(|k| values[k]).or_else(|| new.next())).collect();
        // The linear loop.
        let position = |id: NodeId| lin.inputs.iter().position(|&i| i == id).expect("a free residual is an input");
        let free_scanned: Vec<usize> = kept.free.iter().map(|&id| position(id)).filter(|i| scans.contains(i)).collect();
        let free_invariant: Vec<usize> = kept.free.iter().map(|&id| position(id)).filter(|i| invs.contains(i)).collect();
        let hoisted = if kept.hoisted.is_empty() {
            Vec::new()
        } else {
            let outside = extract(&g, &lin.inputs[invs.clone()], &kept.hoisted);
            self.g.inline(&outside, &x[invs.start - 1..], "")
        };
        let pick = |from: &[NodeId], at: &[usize], shift: usize| -> Vec<NodeId> { at.iter().map(|&i| from[i - shift]).collect() };
        let inner = [
            &lin.inputs[..1],
            &tangent_in(1..1 + l.carried),
            &tangent_in(scans.clone()),
            &pick(&lin.inputs, &free_scanned, 0),
            &kept.saved,
            &tangent_in(invs.clone()),
            &pick(&lin.inputs, &free_invariant, 0),
            &kept.hoisted,
        ]
        .concat();
        let scanned = scanned_tangents.len() + free_scanned.len() + stacks.len();
        let args =
            [trip, starts, scanned_tangents, pick(x, &free_scanned, 1), stacks, invariant_tangents, pick(x, &free_invariant, 1), hoisted]
                .concat();
        let body = Arc::new(extract(&g, &inner, &tangent_outputs));
        let op = LoopOp { trip: l.trip, reverse: l.reverse, carried: carried.len(), scanned, guard: None, body };
        let all = self.g.loop_results(op, &args, o);
        for (&k, &result) in carried.iter().chain(&stacked).zip(&all) {
            tangents[k] = Some(result);
        }
        Ok((values, tangents))
    }

    /// A conditional some of whose results need tangents.
    pub(super) fn cond_node(
        &mut self,
        then: &Arc<Graph>,
        otherwise: &Arc<Graph>,
        x: &[NodeId],
        t: &[Option<NodeId>],
        wanted: &[bool],
        origin: Origin,
    ) -> Result<Results, DiffError> {
        let o = derived(origin);
        let (pred, args) = (x[0], &x[1..]);
        let on: Vec<bool> = t[1..].iter().map(Option::is_some).collect();
        let tangent_args: Vec<NodeId> = t[1..].iter().flatten().copied().collect();
        let mut branches = [linearize(then, &on, wanted, self.mode)?, linearize(otherwise, &on, wanted, self.mode)?];
        let with: Vec<usize> = (0..wanted.len()).filter(|&k| branches.iter().any(|b| b.output_tangents[k].is_some())).collect();
        let tangent_outputs: Vec<Vec<NodeId>> = branches
            .iter_mut()
            .map(|b| {
                with.iter()
                    .map(|&k| {
                        let ty = b.g.ty(b.outputs[k]).clone();
                        b.output_tangents[k].unwrap_or_else(|| b.g.splat(&ty, 0.0, o))
                    })
                    .collect()
            })
            .collect();
        let mut tangents = vec![None; wanted.len()];
        if self.mode == Mode::Joint {
            let [a, b] = [0, 1].map(|side| {
                let b = &branches[side];
                let inputs: Vec<NodeId> = b.g.inputs.iter().map(|i| i.node).collect();
                Arc::new(extract(&b.g, &inputs, &[&b.outputs[..], &tangent_outputs[side]].concat()))
            });
            let mut values = self.g.cond_results(pred, a, b, &[args, &tangent_args].concat(), origin);
            let derivatives = values.split_off(wanted.len());
            for (&k, &d) in with.iter().zip(&derivatives) {
                tangents[k] = Some(d);
            }
            return Ok((values, tangents));
        }
        // Both branches hand over their residuals in shared places: results that there are anyway, and new ones by type. What a
        // branch does not fill holds zeros.
        let mut slots: Vec<Slot> = Vec::new();
        let mut fills: Vec<Vec<Option<NodeId>>> = vec![Vec::new(); 2];
        let mut free: Vec<usize> = Vec::new();
        for (side, (b, roots)) in branches.iter().zip(&tangent_outputs).enumerate() {
            let linear = depends(&b.g, b.input_tangents.iter().flatten().copied());
            let kept = choose(&b.g, &linear, roots, |_| Access::Varying, Policy { hoist: false, keep_nothing: false, any_map: false });
            free.extend(b.inputs.iter().enumerate().filter(|(_, id)| kept.free.contains(id)).map(|(i, _)| i));
            for id in kept.saved {
                let wanted = match b.outputs.iter().position(|&out| out == id) {
                    Some(k) => Slot::Result(k),
                    None => Slot::New(b.g.ty(id).clone()),
                };
                let place = (0..slots.len()).find(|&s| fills[side].get(s).is_none_or(|f| f.is_none()) && slots[s] == wanted);
                let place = place.unwrap_or_else(|| {
                    slots.push(wanted);
                    slots.len() - 1
                });
                let fill = &mut fills[side];
                fill.resize(fill.len().max(place + 1), None);
                fill[place] = Some(id);
            }
        }
        free.sort_unstable();
        free.dedup();
        fills.iter_mut().for_each(|fill| fill.resize(slots.len(), None));
        let new: Vec<(usize, &Ty)> =
            slots.iter().enumerate().filter_map(|(s, slot)| if let Slot::New(ty) = slot { Some((s, ty)) } else { None }).collect();
        let mut values = if new.is_empty() {
            self.g.cond_results(pred, then.clone(), otherwise.clone(), args, origin)
        } else {
            let [a, b] = [0, 1].map(|side| {
                let b = &mut branches[side];
                let mut outputs = b.outputs.clone();
                outputs.extend(new.iter().map(|&(s, ty)| fills[side][s].unwrap_or_else(|| b.g.splat(ty, 0.0, o))));
                Arc::new(extract(&b.g, &b.inputs, &outputs))
            });
            self.g.cond_results(pred, a, b, args, origin)
        };
        let mut added = values.split_off(wanted.len()).into_iter();
        let residuals: Vec<NodeId> = slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Result(k) => Some(values[*k]),
                Slot::New(_) => added.next(),
            })
            .collect();
        let [a, b] = [0, 1].map(|side| {
            let b = &mut branches[side];
            let mut inputs: Vec<NodeId> = free.iter().map(|&i| b.inputs[i]).collect();
            for (fill, &residual) in fills[side].iter().zip(&residuals) {
                let ty = self.g.ty(residual).clone();
                inputs.push(fill.unwrap_or_else(|| b.g.input("unused", ty, o)));
            }
            inputs.extend(b.input_tangents.iter().flatten());
            Arc::new(extract(&b.g, &inputs, &tangent_outputs[side]))
        });
        let free: Vec<NodeId> = free.iter().map(|&i| args[i]).collect();
        let derivatives = self.g.cond_results(pred, a, b, &[&free[..], &residuals, &tangent_args].concat(), o);
        for (&k, &d) in with.iter().zip(&derivatives) {
            tangents[k] = Some(d);
        }
        Ok((values, tangents))
    }

    /// A call: its body is differentiated in place, unless it has a rule of its own.
    pub(super) fn call_node(
        &mut self,
        c: &CallOp,
        x: &[NodeId],
        t: &[Option<NodeId>],
        wanted: &[bool],
        origin: Origin,
    ) -> Result<Results, DiffError> {
        let on: Vec<bool> = t.iter().map(Option::is_some).collect();
        let tangent_args: Vec<NodeId> = t.iter().flatten().copied().collect();
        let Some(rule) = &c.vjp else {
            let mut lin = linearize(&c.body, &on, wanted, self.mode)?;
            if c.name == SWAPPED && self.mode == Mode::Split {
                lin = swap::residuals(lin);
            }
            lin.g.outputs = lin.outputs.iter().chain(lin.output_tangents.iter().flatten()).copied().collect();
            let mut values = self.g.inline(&lin.g, &[x, &tangent_args].concat(), "");
            let mut derivatives = values.split_off(wanted.len()).into_iter();
            let tangents = lin.output_tangents.iter().map(|d| d.and_then(|_| derivatives.next())).collect();
            return Ok((values, tangents));
        };
        let o = derived(origin);
        let call = self.g.op(Op::Call(c.clone()), x, origin);
        let values: Vec<NodeId> = (0..wanted.len()).map(|k| self.g.result(call, k, origin)).collect();
        let rule = own_rule(rule, &c.body, &on, wanted, o);
        let residuals: Vec<NodeId> = rule.reads.iter().map(|&i| if i < x.len() { x[i] } else { values[i - x.len()] }).collect();
        let with: Vec<usize> = (0..wanted.len()).filter(|&k| wanted[k]).collect();
        let derivatives = if self.mode == Mode::Joint {
            // The rule is linear in the cotangents, so its transpose in them is the forward derivative; where they are does not matter.
            let places: Vec<usize> = (rule.reads.len()..rule.graph.inputs.len()).collect();
            let mut forward = vjp(&rule.graph, &places)?;
            forward.outputs.drain(..rule.graph.outputs.len());
            let mut args = residuals;
            for &k in &with {
                let ty = self.g.ty(values[k]).clone();
                args.push(self.g.splat(&ty, 0.0, o));
            }
            args.extend(&tangent_args);
            self.g.inline(&forward, &args, "grad")
        } else {
            // A linear node that stands for the transpose of the rule and carries it; transposition takes it apart again.
            let mut body = Graph::new();
            for &r in residuals.iter().chain(&tangent_args) {
                body.input("x", self.g.ty(r).clone(), o);
            }
            for &k in &with {
                let ty = self.g.ty(values[k]).clone();
                let zeros = body.splat(&ty, 0.0, o);
                body.outputs.push(zeros);
            }
            let linear = CallOp { name: c.name.clone(), body: Arc::new(body), vjp: Some(Arc::new(rule.graph)) };
            let node = self.g.op(Op::Call(linear), &[&residuals[..], &tangent_args].concat(), o);
            (0..with.len()).map(|j| self.g.result(node, j, o)).collect()
        };
        let mut tangents = vec![None; wanted.len()];
        for (&k, &d) in with.iter().zip(&derivatives) {
            tangents[k] = Some(d);
        }
        Ok((values, tangents))
    }
}

/// A place in which branches hand over a residual.
#[derive(PartialEq, Eq)]
enum Slot {
    /// A result of the conditional itself.
    Result(usize),
    /// One more result.
    New(Ty),
}

/// A reverse rule cut down to what one use needs: inputs are the operands and results it reads, then the cotangents of the wanted results;
/// outputs are the cotangents of the active operands.
struct OwnRule {
    graph: Graph,
    /// Which operands and results (counted after the operands) it reads.
    reads: Vec<usize>,
}

fn own_rule(rule: &Graph, body: &Graph, on: &[bool], wanted: &[bool], o: Origin) -> OwnRule {
    let plain = body.inputs.len() + body.outputs.len();
    assert!(
        rule.inputs.len() == plain + body.outputs.len() && rule.outputs.len() == body.inputs.len(),
        "compiler bug: a reverse rule of the wrong arity"
    );
    let mut g = Graph::new();
    let mut args: Vec<NodeId> = rule.inputs[..plain].iter().map(|i| g.input(i.name.clone(), rule.ty(i.node).clone(), o)).collect();
    let reads = args.clone();
    let mut seeds = Vec::new();
    // Cotangents have the types of what they belong to, whatever types the rule works with.
    for (k, input) in rule.inputs[plain..].iter().enumerate() {
        let ty = rule.ty(input.node).clone();
        if wanted[k] {
            let seed = g.input(input.name.clone(), body.ty(body.outputs[k]).clone(), o);
            seeds.push(seed);
            args.push(g.cast(seed, ty.dtype, o));
        } else {
            args.push(g.splat(&ty, 0.0, o));
        }
    }
    let all = g.inline(rule, &args, "");
    for (k, &cotangent) in all.iter().enumerate().filter(|(k, _)| on[*k]) {
        let dtype = body.ty(body.inputs[k].node).dtype;
        let cotangent = g.cast(cotangent, dtype, o);
        g.outputs.push(cotangent);
    }
    let live = g.live();
    let reads: Vec<(usize, NodeId)> = reads.into_iter().enumerate().filter(|(_, id)| live[id.index()]).collect();
    let inputs: Vec<NodeId> = reads.iter().map(|(_, id)| *id).chain(seeds).collect();
    let graph = extract(&g, &inputs, &g.outputs);
    OwnRule { graph, reads: reads.into_iter().map(|(i, _)| i).collect() }
}
