//! Loops: what does not change leaves the body, what nobody needs vanishes.

use super::build::Builder;
use super::control::reachable;
use super::pattern::splat_value;
use optc_abi::DType;
use optc_ir::graph::{Axes, Graph, LoopOp, NodeId, Op, Origin, Ty};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// What becomes of one input of the body.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It stays what it is.
    Keep,
    /// Nothing needs it.
    Drop,
    /// Every pass sees this outer node.
    Same(NodeId),
}

/// Where a result comes from after the change.
#[derive(Clone, Copy)]
enum Source {
    /// Nobody needs it.
    Nowhere,
    /// This outer node.
    Outer(NodeId),
    /// This result of the new loop.
    Result(usize),
}

impl Builder<'_> {
    /// A loop in its simplest form; returns the wanted results.
    pub fn make_loop(&mut self, l: &LoopOp, operands: &[NodeId], wanted: &[bool], origin: Origin) -> Vec<Option<NodeId>> {
        let body = self.context.sub_graph(&l.body);
        let (count, args) = if l.trip.is_none() { (Some(operands[0]), &operands[1..]) } else { (None, operands) };
        let trip = match count.and_then(|id| splat_value(&self.out, id)) {
            // A run-time count that turned out to be known.
            Some(n) => Some(n.max(0.0) as usize),
            None => l.trip,
        };
        let ended = l.guard.is_some() && splat_value(&self.out, args[0]) == Some(0.0);
        match trip {
            Some(0) => return self.no_pass(l, &body, args, origin),
            _ if ended => return self.no_pass(l, &body, args, origin),
            Some(1) if l.guard.is_none() => return self.one_pass(l, &body, args, origin),
            _ => {}
        }
        // A known count is the limit of a guarded loop, not its count.
        let trip = trip.filter(|_| l.guard.is_none());
        let l = LoopOp { trip, body: body.clone(), ..l.clone() };
        let count = if trip.is_none() { count } else { None };
        self.reduce_loop(&l, &body, count, args, wanted, origin)
    }

    fn no_pass(&mut self, l: &LoopOp, body: &Graph, args: &[NodeId], origin: Origin) -> Vec<Option<NodeId>> {
        let mut results: Vec<Option<NodeId>> = args[..l.carried].iter().copied().map(Some).collect();
        for &out in &body.outputs[l.carried..] {
            let row = body.ty(out);
            let ty = Ty::new(row.dtype, std::iter::once(0).chain(row.shape.iter().copied()));
            results.push(Some(self.splat(&ty, 0.0, origin)));
        }
        results
    }

    fn one_pass(&mut self, l: &LoopOp, body: &Graph, args: &[NodeId], origin: Origin) -> Vec<Option<NodeId>> {
        let mut inner = vec![self.splat(&Ty::scalar(DType::I32), 0.0, origin)];
        for (i, &arg) in args.iter().enumerate() {
            let scanned = i >= l.carried && i < l.carried + l.scanned;
            inner.push(if scanned { self.first_row(arg, origin) } else { arg });
        }
        let outputs = self.run(body, &inner, "");
        let mut results = Vec::with_capacity(outputs.len());
        for (i, out) in outputs.into_iter().enumerate() {
            results.push(Some(if i < l.carried {
                out
            } else {
                let shape: Vec<usize> = std::iter::once(1).chain(self.ty(out).shape.iter().copied()).collect();
                self.reshape(out, &shape, origin)
            }));
        }
        results
    }

    fn first_row(&mut self, x: NodeId, origin: Origin) -> NodeId {
        let shape = self.ty(x).shape.clone();
        let start: Axes = shape.iter().map(|_| 0).collect();
        let step: Axes = shape.iter().map(|_| 1).collect();
        let mut stop = shape.clone();
        stop[0] = 1;
        let row = self.slice(x, &start, &stop, &step, origin);
        self.reshape(row, &shape[1..], origin)
    }

    /// Whether all parts of the leading axis are equal.
    fn rows_are_equal(&self, x: NodeId) -> bool {
        match self.op_of(x) {
            Op::Broadcast { dims } => dims.first() != Some(&0) || self.ty(self.operand(x)).shape[0] == 1,
            _ => false,
        }
    }

    fn reduce_loop(
        &mut self,
        l: &LoopOp,
        body: &Arc<Graph>,
        count: Option<NodeId>,
        args: &[NodeId],
        wanted: &[bool],
        origin: Origin,
    ) -> Vec<Option<NodeId>> {
        // Which outputs are needed: wanted results, and carried values that needed outputs depend on.
        let mut kept = wanted.to_vec();
        if l.guard.is_some() {
            kept[0] = true;
        }
        let mut live = reachable(body, &kept);
        loop {
            let more: Vec<usize> = (0..l.carried).filter(|&k| !kept[k] && live[body.inputs[1 + k].node.index()]).collect();
            if more.is_empty() {
                break;
            }
            more.iter().for_each(|&k| kept[k] = true);
            live = reachable(body, &kept);
        }
        let mut fates = vec![Fate::Keep];
        for (i, &arg) in args.iter().enumerate() {
            let input = body.inputs[1 + i].node;
            let scanned = i >= l.carried && i < l.carried + l.scanned;
            fates.push(if i < l.carried {
                match (kept[i], body.outputs[i] == input) {
                    _ if i == 0 && l.guard.is_some() => Fate::Keep,
                    (_, true) => Fate::Same(arg),
                    (false, _) => Fate::Drop,
                    _ => Fate::Keep,
                }
            } else if !live[input.index()] {
                Fate::Drop
            } else if scanned && self.rows_are_equal(arg) {
                let row = self.first_row(arg, origin);
                Fate::Same(row)
            } else if scanned {
                Fate::Keep
            } else {
                Fate::Same(arg)
            });
        }
        let hoist = self.hoistable(l, body, &fates, &kept);
        let mut sources: Vec<Source> = vec![Source::Nowhere; wanted.len()];
        let outer = self.hoist(body, &fates, &hoist, origin);

        // The new body: counter, kept carried values, kept scans, invariants.
        let mut operands: Vec<NodeId> = count.into_iter().collect();
        let mut new_args: Vec<Option<NodeId>> = vec![None; body.inputs.len()];
        let mut preset: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        let hoisted_types: Vec<Ty> = outer.iter().map(|&o| self.ty(o).clone()).collect();
        let same: Vec<(usize, NodeId)> =
            fates.iter().enumerate().filter_map(|(i, f)| if let Fate::Same(o) = f { Some((i, *o)) } else { None }).collect();
        let literals: Vec<Option<f64>> = same.iter().map(|&(_, o)| splat_value(&self.out, o)).collect();
        let mut inner = Builder::new(self.context, body);
        let (mut carried, mut scanned) = (0, 0);
        for (i, fate) in fates.iter().enumerate() {
            let input = &body.inputs[i];
            let ty = body.ty(input.node).clone();
            if *fate == Fate::Keep {
                new_args[i] = Some(inner.out.input(input.name.clone(), ty, body.origin(input.node)));
                if i > 0 {
                    operands.push(args[i - 1]);
                    if i <= l.carried { carried += 1 } else { scanned += 1 }
                }
            }
        }
        let mut invariants: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        for (&(i, outer), literal) in same.iter().zip(&literals) {
            let input = &body.inputs[i];
            if !live[input.node.index()] {
                continue;
            }
            let ty = body.ty(input.node).clone();
            new_args[i] = Some(match literal {
                Some(value) if exact_literal(ty.dtype, *value) => inner.splat(&ty, *value, body.origin(input.node)),
                _ => *invariants.entry(outer).or_insert_with(|| {
                    operands.push(outer);
                    inner.out.input(input.name.clone(), ty, body.origin(input.node))
                }),
            });
        }
        for ((&node, &outer), ty) in hoist.iter().zip(&outer).zip(hoisted_types) {
            let input = *invariants.entry(outer).or_insert_with(|| {
                operands.push(outer);
                inner.out.input("hoisted", ty, body.origin(node))
            });
            preset.insert(node, input);
        }
        // Inputs that nothing live depends on may stand for anything of the new body.
        let new_args: Vec<NodeId> = new_args.iter().map(|a| a.unwrap_or(inner.out.inputs[0].node)).collect();
        let mut targets = Vec::new();
        for (k, &out) in body.outputs.iter().enumerate() {
            if !kept[k] || (k < l.carried && fates[1 + k] != Fate::Keep) {
                continue;
            }
            let stacked_invariant = k >= l.carried && hoist.contains(&out);
            if !stacked_invariant {
                targets.push((k, out));
            }
        }
        let mut cut = (**body).clone();
        cut.outputs = targets.iter().map(|t| t.1).collect();
        let outputs = inner.run_with(&cut, &new_args, "", &preset);
        let mut new_body = inner.out;
        for (&(k, _), &out) in targets.iter().zip(&outputs) {
            // Equal stacks are stacked once.
            let place = match new_body.outputs[carried.min(new_body.outputs.len())..].iter().position(|&o| o == out) {
                Some(known) if k >= l.carried => carried + known,
                _ => {
                    new_body.outputs.push(out);
                    new_body.outputs.len() - 1
                }
            };
            sources[k] = Source::Result(place);
        }
        for k in 0..l.carried {
            if let Fate::Same(init) = fates[1 + k] {
                sources[k] = Source::Outer(init);
            }
        }
        for (k, out) in body.outputs.iter().enumerate().skip(l.carried) {
            if let (true, Some(place)) = (kept[k], hoist.iter().position(|h| h == out)) {
                let row = self.ty(outer[place]).shape.clone();
                let trip = l.trip.expect("compiler bug: a run-time loop stacks results");
                let shape: Vec<usize> = std::iter::once(trip).chain(row.iter().copied()).collect();
                let dims: Axes = (1..shape.len()).collect();
                sources[k] = Source::Outer(self.broadcast(outer[place], &dims, &shape, origin));
            }
        }
        if targets.is_empty() {
            return self.resolve(&sources, wanted, &[]);
        }
        let new_body = super::remove_dead(&new_body);
        let new_body = self.context.intern(new_body);
        let new_body = self.context.sub_graph(&new_body);
        let op = LoopOp { trip: l.trip, reverse: l.reverse, carried, scanned, guard: l.guard, body: new_body };
        let results = self.out.loop_results(op, &operands, origin);
        self.resolve(&sources, wanted, &results)
    }

    fn resolve(&self, sources: &[Source], wanted: &[bool], results: &[NodeId]) -> Vec<Option<NodeId>> {
        sources
            .iter()
            .zip(wanted)
            .map(|(source, wanted)| match source {
                _ if !wanted => None,
                Source::Nowhere => panic!("compiler bug: a wanted result of a loop has no source"),
                Source::Outer(id) => Some(*id),
                Source::Result(place) => Some(results[*place]),
            })
            .collect()
    }

    /// Nodes of the body worth computing once, outside: those that depend on invariants only and cost something, where the rest of the body
    /// meets them; and stacked results that are the same in every pass.
    fn hoistable(&self, l: &LoopOp, body: &Graph, fates: &[Fate], kept: &[bool]) -> Vec<NodeId> {
        let live = reachable(body, kept);
        let mut varies = vec![false; body.len()];
        for id in body.ids() {
            let node = body.node(id);
            varies[id.index()] = match &node.op {
                Op::Input { index } => fates[*index as usize] == Fate::Keep,
                // With a run-time count the body may never run, so nothing that can fail is moved before it.
                Op::Gather { .. } | Op::Scatter { .. } | Op::Callback { .. } | Op::Loop(_) | Op::Cond { .. } | Op::Call(_)
                    if l.trip.is_none() =>
                {
                    true
                }
                _ => node.operands.iter().any(|o| varies[o.index()]),
            };
        }
        let mut chosen: Vec<NodeId> = Vec::new();
        let mut seen = vec![false; body.len()];
        let mut frontier: Vec<NodeId> = Vec::new();
        for id in body.ids().filter(|id| live[id.index()] && varies[id.index()]) {
            frontier.extend(body.node(id).operands.iter().copied().filter(|o| !varies[o.index()]));
        }
        frontier.extend(body.outputs[..l.carried].iter().zip(kept).filter(|(o, kept)| **kept && !varies[o.index()]).map(|(o, _)| *o));
        while let Some(id) = frontier.pop() {
            if std::mem::replace(&mut seen[id.index()], true) {
                continue;
            }
            match &body.node(id).op {
                Op::Input { .. } | Op::Const(_) | Op::Iota { .. } => {}
                Op::Reshape | Op::Broadcast { .. } | Op::Permute { .. } | Op::Slice { .. } | Op::Flip { .. } => {
                    frontier.extend(body.node(id).operands.iter().copied());
                }
                _ => chosen.push(id),
            }
        }
        for (&out, _) in body.outputs[l.carried..].iter().zip(&kept[l.carried..]).filter(|(_, kept)| **kept) {
            if !varies[out.index()] && !chosen.contains(&out) {
                chosen.push(out);
            }
        }
        chosen.sort_unstable();
        chosen
    }

    /// Computes nodes of the body here, from the outer values of its invariants.
    fn hoist(&mut self, body: &Graph, fates: &[Fate], nodes: &[NodeId], origin: Origin) -> Vec<NodeId> {
        if nodes.is_empty() {
            return Vec::new();
        }
        let nothing = self.splat(&Ty::scalar(DType::I32), 0.0, origin);
        let args: Vec<NodeId> = fates.iter().map(|f| if let Fate::Same(outer) = f { *outer } else { nothing }).collect();
        let mut cut = body.clone();
        cut.outputs = nodes.to_vec();
        self.run(&cut, &args, "")
    }
}

/// Whether a literal comes back from f64 unchanged.
fn exact_literal(dtype: DType, value: f64) -> bool {
    dtype != DType::I64 || value.abs() < 9e15
}
