//! Batching of loops, conditionals and calls.

use super::{Batcher, Val, body, with_batch};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{CallOp, Graph, LoopOp, NodeId, Op, Origin, ReduceOp, Ty};
use std::sync::Arc;

impl Batcher {
    /// A loop: one for all elements. Where elements differ in their number of passes, or in the flag that ends the loop, it runs until all
    /// are done, and those that are done keep their values.
    pub(super) fn loop_node(&mut self, l: &LoopOp, x: &[Val], o: Origin) -> Vec<Val> {
        let (trip, x) = x.split_at(usize::from(l.trip.is_none()));
        let trip = trip.first().map(|t| self.where_it_runs(*t, o));
        let mut x = x.to_vec();
        if l.guard.is_some() {
            x[0] = self.where_it_runs(x[0], o);
        }
        let own_trip = trip.filter(|t| t.batched);
        let results = l.body.outputs.len();
        // Carried values that are batched after a pass are batched from the start; where elements end on their own, all are.
        let mut flags: Vec<bool> = std::iter::once(false).chain(x.iter().map(|v| v.batched)).collect();
        let (inner, outputs, apart) = loop {
            let apart = own_trip.is_some() || (l.guard.is_some() && flags[1]);
            if apart {
                flags[1..=l.carried].fill(true);
            }
            let all: Vec<bool> = (0..results).map(|k| k < l.carried && flags[1 + k]).collect();
            let (inner, outputs) = body(&l.body, &flags, self.size, self.mask.is_some() || apart, &all);
            let grown: Vec<usize> = (0..l.carried).filter(|&k| outputs[k] && !flags[1 + k]).collect();
            if grown.is_empty() {
                break (inner, outputs, apart);
            }
            grown.into_iter().for_each(|k| flags[1 + k] = true);
        };
        let mut operands: Vec<NodeId> = trip.map(|t| t.node).into_iter().collect();
        if let Some(trip) = own_trip {
            operands[0] = self.g.reduce(ReduceOp::Max, trip.node, &[0], o);
        }
        let own_flag = l.guard.is_some() && apart;
        if own_flag {
            let go = self.spread(x[0], o).node;
            operands.push(self.any(go, o));
        }
        let scans = l.carried..l.carried + l.scanned;
        for (k, v) in x.iter().enumerate() {
            let v = if flags[1 + k] { self.spread(*v, o) } else { *v };
            // The axis of the passes comes first, then the batch.
            operands.push(if v.batched && scans.contains(&k) { self.brought_forward(v.node, 1, 1, o) } else { v.node });
        }
        operands.extend(self.mask);
        operands.extend(own_trip.map(|t| t.node));
        let inner = if apart { self.until_done(l, inner, own_trip.is_some(), o) } else { inner };
        let op = LoopOp { carried: l.carried + usize::from(own_flag), body: Arc::new(inner), ..l.clone() };
        let nodes = self.g.loop_results(op, &operands, o);
        nodes
            .into_iter()
            .skip(usize::from(own_flag))
            .zip(outputs)
            .enumerate()
            .map(|(k, (node, batched))| {
                let node = if batched && k >= l.carried { self.brought_forward(node, 1, 1, o) } else { node };
                Val { node, batched }
            })
            .collect()
    }

    /// A number of passes or a flag, 0 or false for masked elements.
    fn where_it_runs(&mut self, v: Val, o: Origin) -> Val {
        let Some(mask) = self.mask else { return v };
        let ty = self.g.ty(v.node).clone();
        let zero = self.g.splat(&ty, 0.0, o);
        let runs = if v.batched { mask } else { self.any(mask, o) };
        Val { node: self.g.map(ScalarOp::Select, &[runs, v.node, zero], o), batched: v.batched }
    }

    /// A batched loop body whose last input is its mask, as one in which elements that are done keep what they carry. With `counted` its last
    /// input is the number of passes of each element; of a guarded loop the first carried value is whether any element goes on.
    fn until_done(&self, l: &LoopOp, inner: Graph, counted: bool, o: Origin) -> Graph {
        let mut g = Graph::new();
        let count = inner.inputs.len() - 1;
        let mut args: Vec<NodeId> = Vec::with_capacity(count + 1);
        for (k, input) in inner.inputs[..count].iter().enumerate() {
            if k == 1 && l.guard.is_some() {
                g.input("any", Ty::scalar(DType::Bool), o);
            }
            args.push(g.input(input.name.clone(), inner.ty(input.node).clone(), inner.origin(input.node)));
        }
        let mut on: Option<NodeId> = self.mask.map(|_| g.input("mask", Ty::new(DType::Bool, [self.size]), o));
        let mut also = |g: &mut Graph, flags: NodeId| {
            on = Some(match on {
                Some(on) => g.map(ScalarOp::And, &[on, flags], o),
                None => flags,
            });
        };
        if counted {
            let trips = g.input("trips", Ty::new(DType::I32, [self.size]), o);
            let counter = g.broadcast(args[0], &[], &[self.size], o);
            let runs = g.map(ScalarOp::Lt, &[counter, trips], o);
            also(&mut g, runs);
        }
        if l.guard.is_some() {
            also(&mut g, args[1]);
        }
        let on = on.expect("compiler bug: elements that end on their own, by nothing");
        args.push(on);
        g.outputs = g.inline(&inner, &args, "");
        for k in 0..l.carried {
            let (old, new) = (args[1 + k], g.outputs[k]);
            let shape = g.ty(new).shape.clone();
            let flags = g.broadcast(on, &[0], &shape, o);
            g.outputs[k] = g.map(ScalarOp::Select, &[flags, new, old], o);
        }
        if l.guard.is_some() {
            let any = g.reduce(ReduceOp::Or, g.outputs[0], &[0], o);
            g.outputs.insert(0, any);
        }
        g
    }

    /// A conditional. On a batched predicate both branches are computed, each for the elements that take it.
    pub(super) fn cond_node(&mut self, then: &Arc<Graph>, otherwise: &Arc<Graph>, x: &[Val], o: Origin) -> Vec<Val> {
        let (pred, args) = (x[0], &x[1..]);
        let flags: Vec<bool> = args.iter().map(|v| v.batched).collect();
        let mut operands: Vec<NodeId> = args.iter().map(|v| v.node).collect();
        let results = then.outputs.len();
        if !pred.batched {
            let masked = self.mask.is_some();
            let mut all = vec![false; results];
            let [a, b] = loop {
                let sides = [then, otherwise].map(|f| body(f, &flags, self.size, masked, &all));
                let either: Vec<bool> = (0..results).map(|k| sides.iter().any(|s| s.1[k])).collect();
                if sides.iter().all(|s| s.1 == either) {
                    break sides;
                }
                all = either;
            };
            operands.extend(self.mask);
            let nodes = self.g.cond_results(pred.node, Arc::new(a.0), Arc::new(b.0), &operands, o);
            return nodes.into_iter().zip(a.1).map(|(node, batched)| Val { node, batched }).collect();
        }
        let not = self.g.map(ScalarOp::Not, &[pred.node], o);
        let sides: Vec<Vec<Val>> = [(then, pred.node), (otherwise, not)]
            .into_iter()
            .map(|(f, takes)| {
                let (graph, batched) = body(f, &flags, self.size, true, &vec![false; results]);
                let mask = match self.mask {
                    Some(mask) => self.g.map(ScalarOp::And, &[mask, takes], o),
                    None => takes,
                };
                let nodes = self.g.inline(&graph, &[&operands[..], &[mask]].concat(), "");
                nodes.into_iter().zip(batched).map(|(node, batched)| Val { node, batched }).collect()
            })
            .collect();
        (0..results).map(|k| self.choose(pred.node, sides[0][k], sides[1][k], o)).collect()
    }

    /// A call. With a rule of its own, the rule is batched too; the cotangent of an operand that all elements share is the sum of theirs.
    pub(super) fn call_node(&mut self, c: &CallOp, x: &[Val], o: Origin) -> Vec<Val> {
        if x.iter().all(|v| !v.batched) && self.mask.is_none() {
            let ids: Vec<NodeId> = x.iter().map(|v| v.node).collect();
            let call = self.g.op(Op::Call(c.clone()), &ids, o);
            return (0..c.body.outputs.len()).map(|k| Val { node: self.g.result(call, k, o), batched: false }).collect();
        }
        let flags: Vec<bool> = x.iter().map(|v| v.batched).collect();
        let masked = self.mask.is_some();
        let results = c.body.outputs.len();
        let (inner, outputs) = body(&c.body, &flags, self.size, masked, &vec![true; results]);
        debug_assert!(outputs.iter().all(|b| *b));
        let vjp = c.vjp.as_ref().map(|rule| Arc::new(self.rule(c, rule, &flags, o)));
        let operands: Vec<NodeId> = x.iter().map(|v| v.node).chain(self.mask).collect();
        let call = self.g.op(Op::Call(CallOp { name: c.name.clone(), body: Arc::new(inner), vjp }), &operands, o);
        (0..results).map(|k| Val { node: self.g.result(call, k, o), batched: true }).collect()
    }

    /// A reverse rule for the batch. Its inputs: operands, the mask if there is one, results, cotangents of the results; the latter two are all batched.
    fn rule(&self, c: &CallOp, rule: &Graph, flags: &[bool], o: Origin) -> Graph {
        let (operands, results) = (flags.len(), c.body.outputs.len());
        let masked = self.mask.is_some();
        let inputs: Vec<bool> = (0..rule.inputs.len()).map(|i| i >= operands || flags[i]).collect();
        let (inner, outputs) = body(rule, &inputs, self.size, masked, flags);
        let mut g = Graph::new();
        let types = inner.input_types();
        let mut args: Vec<NodeId> = types[..operands].iter().map(|ty| g.input("x", ty.clone(), o)).collect();
        let mask = masked.then(|| g.input("mask", Ty::new(DType::Bool, [self.size]), o));
        args.extend(types[operands..operands + 2 * results].iter().map(|ty| g.input("y", ty.clone(), o)).collect::<Vec<_>>());
        args.extend(mask);
        let cotangents = g.inline(&inner, &args, "");
        for (k, ct) in cotangents.into_iter().enumerate() {
            let shared = outputs[k] && !flags[k];
            let ty = g.ty(ct).clone();
            let ct = match shared {
                false => ct,
                true if ty.dtype.is_float() => g.reduce(ReduceOp::Sum, ct, &[0], o),
                true => g.splat(&Ty::new(ty.dtype, ty.shape[1..].iter().copied()), 0.0, o),
            };
            g.outputs.push(ct);
        }
        if masked {
            let none = g.splat(&Ty::new(DType::Bool, [self.size]), 0.0, o);
            g.outputs.push(none);
        }
        debug_assert!(c.body.inputs.iter().zip(&g.outputs).zip(flags).all(|((input, &out), &batched)| {
            let ty = c.body.ty(input.node);
            g.ty(out).shape == if batched { with_batch(ty, self.size).shape } else { ty.shape.clone() }
        }));
        g
    }
}
