//! Loops and conditionals.

use super::{Body, Layout, Partitioner, Val, body};
use Layout::{Partial, Replicated, Split};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{Graph, LoopOp, NodeId, Origin, Ty};
use std::sync::Arc;

impl Partitioner {
    /// A loop: all devices make the same passes. What a pass hands on lies as it comes out of one, if that is the same after each.
    pub(super) fn loop_node(&mut self, l: &LoopOp, x: &[Val], o: Origin) -> Vec<Val> {
        let (trip, x) = x.split_at(usize::from(l.trip.is_none()));
        let scans = l.carried..l.carried + l.scanned;
        if x[scans.clone()].iter().any(|v| v.layout == Split(0)) && l.carried == 0 && l.guard.is_none() && l.trip.is_some() {
            return self.passes_shared(l, x, o);
        }
        let mut inputs = vec![Replicated];
        for (k, v) in x.iter().enumerate() {
            inputs.push(match v.layout {
                // Zeros may be what a pass likes; sums are what they most often become.
                _ if k < l.carried && self.g.ty(v.node).dtype != DType::Bool && self.is_zero(*v) => Partial,
                Split(axis) if scans.contains(&k) => axis.checked_sub(1).map_or(Replicated, Split),
                other => other,
            });
        }
        if l.guard.is_some() {
            inputs[1] = Replicated;
        }
        let mut wanted: Vec<Option<Layout>> = vec![None; l.body.outputs.len()];
        if l.guard.is_some() {
            wanted[0] = Some(Replicated);
        }
        let mut tries = vec![0; l.carried];
        let made = loop {
            let made = body(&l.body, &inputs, self.parts, &wanted);
            let mut settled = true;
            for k in 0..l.carried {
                let (before, after) = (inputs[1 + k], made.layouts[k]);
                if before == after {
                    continue;
                }
                settled = false;
                tries[k] += 1;
                if tries[k] > 2 {
                    (inputs[1 + k], wanted[k]) = (Replicated, Some(Replicated));
                } else {
                    inputs[1 + k] = after;
                }
            }
            if settled {
                break made;
            }
        };
        let Body { graph, layouts, gathered } = made;
        self.gathered.extend(gathered);
        let mut operands: Vec<NodeId> = trip.iter().map(|&t| self.replicated(t, o)).collect();
        for (k, &v) in x.iter().enumerate() {
            let layout = match inputs[1 + k] {
                Split(axis) if scans.contains(&k) => Split(axis + 1),
                other => other,
            };
            operands.push(self.as_wanted(v, layout, o).node);
        }
        operands.push(self.rank);
        let nodes = self.g.loop_results(LoopOp { body: Arc::new(graph), ..l.clone() }, &operands, o);
        let outer = |k: usize, layout: Layout| match layout {
            Split(axis) if k >= l.carried => Split(axis + 1),
            other => other,
        };
        nodes.into_iter().zip(layouts).enumerate().map(|(k, (node, layout))| Val { node, layout: outer(k, layout) }).collect()
    }

    /// A loop over the rows of a split array that hands on nothing: each device makes the passes of its rows.
    fn passes_shared(&mut self, l: &LoopOp, x: &[Val], o: Origin) -> Vec<Val> {
        let count = l.trip.expect("compiler bug: a loop without a count") / self.parts;
        let mut g = Graph::new();
        let args: Vec<NodeId> =
            l.body.inputs.iter().map(|i| g.input(i.name.clone(), l.body.ty(i.node).clone(), l.body.origin(i.node))).collect();
        let first = g.input("first", Ty::scalar(DType::I32), o);
        let pass = g.map(ScalarOp::Add, &[args[0], first], o);
        let args: Vec<NodeId> = std::iter::once(pass).chain(args[1..].iter().copied()).collect();
        g.outputs = g.inline(&l.body, &args, "");
        let mut operands: Vec<NodeId> = Vec::new();
        for (k, &v) in x.iter().enumerate() {
            let layout = if k < l.scanned { Split(0) } else { Replicated };
            operands.push(self.as_wanted(v, layout, o).node);
        }
        operands.push(self.first(count, o));
        let nodes = self.g.loop_results(LoopOp { trip: Some(count), body: Arc::new(g), ..l.clone() }, &operands, o);
        nodes.into_iter().map(|node| Val { node, layout: Split(0) }).collect()
    }

    /// A conditional: all devices take the same branch.
    pub(super) fn cond_node(&mut self, then: &Arc<Graph>, otherwise: &Arc<Graph>, x: &[Val], o: Origin) -> Vec<Val> {
        let pred = self.replicated(x[0], o);
        let inputs: Vec<Layout> = x[1..].iter().map(|v| v.layout).collect();
        let free = vec![None; then.outputs.len()];
        let mut sides = [then, otherwise].map(|f| body(f, &inputs, self.parts, &free));
        let both: Vec<Layout> = sides[0]
            .layouts
            .iter()
            .zip(&sides[1].layouts)
            .map(|pair| match pair {
                (a, b) if a == b => *a,
                (Split(axis), Replicated) | (Replicated, Split(axis)) => Split(*axis),
                (Partial, Replicated) | (Replicated, Partial) => Partial,
                _ => Replicated,
            })
            .collect();
        if sides.iter().any(|s| s.layouts != both) {
            let wanted: Vec<Option<Layout>> = both.iter().map(|&layout| Some(layout)).collect();
            sides = [then, otherwise].map(|f| body(f, &inputs, self.parts, &wanted));
        }
        let [a, b] = sides;
        self.gathered.extend(a.gathered.into_iter().chain(b.gathered));
        let operands: Vec<NodeId> = x[1..].iter().map(|v| v.node).chain([self.rank]).collect();
        let nodes = self.g.cond_results(pred, Arc::new(a.graph), Arc::new(b.graph), &operands, o);
        nodes.into_iter().zip(both).map(|(node, layout)| Val { node, layout }).collect()
    }
}
