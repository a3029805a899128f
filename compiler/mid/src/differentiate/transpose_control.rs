//! Transposition of linear loops, conditionals and calls.

use super::DiffError;
use super::activity::loop_needed;
use super::cotangent::Contribution;
use super::cut::{depends, extract, reach};
use super::fission::{self, PassSum};
use super::transpose::{Transposer, transpose};
use optc_ir::graph::{CallOp, Graph, LoopOp, NodeId, Origin, Ty};
use rustc_hash::FxHashMap;
use std::sync::Arc;

impl Transposer<'_> {
    /// A linear loop runs backward: cotangents of carried values are carried from the last pass to the first, those of invariants
    /// are added up over the passes in that order (or after the loop, see `fission`), those of scanned slices are stacked.
    pub(super) fn loop_node(&mut self, l: &LoopOp, operands: &[NodeId], cts: &[Option<NodeId>], o: Origin) -> Result<(), DiffError> {
        let offset = usize::from(l.trip.is_none());
        let args = &operands[offset..];
        let mut b: Graph = (*l.body).clone();
        let input = |i: usize| l.body.inputs[i].node;
        // Every carried value of a linear loop is linear, even one that starts from plain zeros.
        let is_linear = |i: usize| i > 0 && (i <= l.carried || self.is_linear(args[i - 1]));
        let linear = depends(&b, (0..b.inputs.len()).filter(|&i| is_linear(i)).map(input));
        let given: Vec<bool> = cts.iter().map(Option::is_some).collect();
        let (needed_in, needed_out) = loop_needed(l, &given);
        let carried: Vec<usize> = (0..l.carried).filter(|&k| needed_out[k]).collect();
        let stacked: Vec<usize> = (l.carried..cts.len()).filter(|&k| given[k]).collect();
        let (first_scan, first_inv) = (1 + l.carried, 1 + l.carried + l.scanned);
        let scans: Vec<usize> = (first_scan..first_inv).filter(|&i| is_linear(i) && needed_in[i]).collect();
        let invs: Vec<usize> = (first_inv..b.inputs.len()).filter(|&i| is_linear(i) && needed_in[i]).collect();

        let mut seeds = Vec::new();
        let mut ct_inputs = Vec::new();
        for &k in carried.iter().chain(&stacked) {
            let ty = b.ty(b.outputs[k]).clone();
            let ct = b.input(format!("ct{k}"), ty, o);
            seeds.push((b.outputs[k], Contribution::Whole(ct)));
            ct_inputs.push(ct);
        }
        let stacked_cts = ct_inputs.split_off(carried.len());
        let mut sums = Vec::new();
        for &i in &invs {
            let ty = b.ty(input(i)).clone();
            let sum = b.input(format!("sum{i}"), ty, o);
            seeds.push((input(i), Contribution::Whole(sum)));
            sums.push(sum);
        }
        let targets: Vec<NodeId> =
            carried.iter().map(|k| 1 + k).chain(invs.iter().copied()).chain(scans.iter().copied()).map(input).collect();
        let found = transpose(&mut b, linear, seeds, &targets)?;
        let found: Vec<NodeId> = targets
            .iter()
            .zip(found)
            .map(|(&target, ct)| {
                let ty = b.ty(target).clone();
                ct.unwrap_or_else(|| b.splat(&ty, 0.0, o))
            })
            .collect();
        let (carried_out, rest) = found.split_at(carried.len());
        let (sums_out, scans_out) = rest.split_at(invs.len());

        // Sums over the passes that are better taken after the loop.
        let mut outer_of: FxHashMap<NodeId, NodeId> =
            (first_scan..first_inv).filter(|&i| !is_linear(i)).map(|i| (input(i), args[i - 1])).collect();
        outer_of.extend(stacked_cts.iter().copied().zip(stacked.iter().filter_map(|&k| cts[k])));
        let (late, late_stacks) = if l.trip.is_some() {
            let pass_sums: Vec<PassSum> =
                sums.iter().zip(sums_out).map(|(&before, &after)| PassSum { ty: b.ty(before).clone(), before, after }).collect();
            fission::choose(&b, &pass_sums, |id| outer_of.contains_key(&id))
        } else {
            (vec![None; sums.len()], Vec::new())
        };
        let early: Vec<usize> = (0..invs.len()).filter(|&j| late[j].is_none()).collect();
        let pick = |from: &[NodeId]| -> Vec<NodeId> { early.iter().map(|&j| from[j]).collect() };

        let outputs = [carried_out, &pick(sums_out), scans_out, &late_stacks].concat();
        let live = reach(&b, &outputs, |_| false);
        let reads = |from: usize, to: usize| -> Vec<usize> { (from..to).filter(|&i| !is_linear(i) && live[input(i).index()]).collect() };
        let (read_scans, read_invs) = (reads(first_scan, first_inv), reads(first_inv, l.body.inputs.len()));
        let inputs_of = |at: &[usize]| -> Vec<NodeId> { at.iter().map(|&i| input(i)).collect() };
        let inner = [&[input(0)][..], &ct_inputs, &pick(&sums), &inputs_of(&read_scans), &stacked_cts, &inputs_of(&read_invs)].concat();
        let body = Arc::new(extract(&b, &inner, &outputs));

        let mut outer: Vec<NodeId> = operands[..offset].to_vec();
        for &k in &carried {
            let ty = self.g.ty(args[k]).clone();
            outer.push(cts[k].unwrap_or_else(|| self.g.splat(&ty, 0.0, o)));
        }
        for &j in &early {
            let ty = self.g.ty(args[invs[j] - 1]).clone();
            outer.push(self.g.splat(&ty, 0.0, o));
        }
        outer.extend(read_scans.iter().map(|&i| args[i - 1]));
        outer.extend(stacked.iter().filter_map(|&k| cts[k]));
        outer.extend(read_invs.iter().map(|&i| args[i - 1]));
        let op = LoopOp {
            trip: l.trip,
            reverse: !l.reverse,
            carried: carried.len() + early.len(),
            scanned: read_scans.len() + stacked.len(),
            guard: None,
            body,
        };
        let results = self.g.loop_results(op, &outer, o);
        let summed = early.iter().map(|&j| invs[j] - 1);
        let receivers: Vec<NodeId> = carried.iter().copied().chain(summed).chain(scans.iter().map(|i| i - 1)).map(|k| args[k]).collect();
        let (direct, late_results) = results.split_at(receivers.len());
        for (receiver, &ct) in receivers.into_iter().zip(direct) {
            self.whole(receiver, ct);
        }
        outer_of.extend(late_stacks.into_iter().zip(late_results.iter().copied()));
        for (j, terms) in late.iter().enumerate() {
            for term in terms.iter().flatten() {
                let ct = fission::over_all_passes(self.g, term, |id| outer_of[&id], o);
                self.whole(args[invs[j] - 1], ct);
            }
        }
        Ok(())
    }

    /// Each branch is transposed by itself.
    pub(super) fn cond_node(
        &mut self,
        then: &Graph,
        otherwise: &Graph,
        operands: &[NodeId],
        cts: &[Option<NodeId>],
        o: Origin,
    ) -> Result<(), DiffError> {
        let (pred, args) = (operands[0], &operands[1..]);
        let targets: Vec<usize> = (0..args.len()).filter(|&i| self.is_linear(args[i])).collect();
        let mut branches = Vec::new();
        for branch in [then, otherwise] {
            let mut b = branch.clone();
            let nodes: Vec<NodeId> = targets.iter().map(|&i| b.inputs[i].node).collect();
            let linear = depends(&b, nodes.iter().copied());
            let mut seeds = Vec::new();
            let mut ct_inputs = Vec::new();
            for (k, _) in cts.iter().enumerate().filter(|(_, ct)| ct.is_some()) {
                let ty = b.ty(b.outputs[k]).clone();
                let ct = b.input(format!("ct{k}"), ty, o);
                seeds.push((b.outputs[k], Contribution::Whole(ct)));
                ct_inputs.push(ct);
            }
            let found = transpose(&mut b, linear, seeds, &nodes)?;
            branches.push((b, ct_inputs, found));
        }
        let reached: Vec<usize> = (0..targets.len()).filter(|&j| branches.iter().any(|(_, _, found)| found[j].is_some())).collect();
        let mut read = vec![false; args.len()];
        let mut outputs = Vec::new();
        for (b, _, found) in &mut branches {
            let out: Vec<NodeId> = reached
                .iter()
                .map(|&j| {
                    let ty: Ty = b.ty(b.inputs[targets[j]].node).clone();
                    found[j].unwrap_or_else(|| b.splat(&ty, 0.0, o))
                })
                .collect();
            let live = reach(b, &out, |_| false);
            for i in (0..args.len()).filter(|i| !targets.contains(i)) {
                read[i] |= live[b.inputs[i].node.index()];
            }
            outputs.push(out);
        }
        let read: Vec<usize> = (0..args.len()).filter(|&i| read[i]).collect();
        let [a, b] = [0, 1].map(|side| {
            let (b, ct_inputs, _) = &branches[side];
            let inputs: Vec<NodeId> = read.iter().map(|&i| b.inputs[i].node).chain(ct_inputs.iter().copied()).collect();
            Arc::new(extract(b, &inputs, &outputs[side]))
        });
        let outer: Vec<NodeId> = read.iter().map(|&i| args[i]).chain(cts.iter().flatten().copied()).collect();
        let results = self.g.cond_results(pred, a, b, &outer, o);
        for (&j, ct) in reached.iter().zip(results) {
            self.whole(args[targets[j]], ct);
        }
        Ok(())
    }

    /// The linear stand-in of a call with its own rule: operands are what the rule reads, then tangents; the rule takes what it reads, then
    /// cotangents.
    pub(super) fn call_node(&mut self, c: &CallOp, operands: &[NodeId], cts: &[Option<NodeId>], o: Origin) {
        let Some(rule) = &c.vjp else { panic!("compiler bug: a linear call without a rule") };
        let (reads, tangents) = operands.split_at(operands.len() - rule.outputs.len());
        let mut args = reads.to_vec();
        for (ct, &out) in cts.iter().zip(&c.body.outputs) {
            let ty = c.body.ty(out).clone();
            args.push(ct.unwrap_or_else(|| self.g.splat(&ty, 0.0, o)));
        }
        let results = self.g.inline(rule, &args, "grad");
        for (&tangent, ct) in tangents.iter().zip(results) {
            self.whole(tangent, ct);
        }
    }
}
