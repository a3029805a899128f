//! Conditionals at run time: both sides become graphs, and what they leave behind becomes results of one operation.

use crate::cond::{LeafTy, Part, YIELDED, pass_is_over};
use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::tally::{Count, Recorded, Tally};
use crate::tree::{describe, leaves, ordered_like, rebuild, same_structure};
use crate::value::Value;
use indexmap::IndexSet;
use optc_abi::DType;
use optc_base::Span;
use optc_ir::graph::{Graph, NodeId};
use optc_ops::Array;
use std::rc::Rc;
use std::sync::Arc;

/// A side of a conditional as a graph: its outputs are the arrays of the values, then what was recorded.
struct Side {
    /// The value, the variables assigned, what was yielded (a tuple).
    values: Vec<Value>,
    recorded: Recorded,
    /// Whether it ends with the pass, so that its value does not matter.
    gone: bool,
    graph: Graph,
    captured: Vec<Array>,
}

impl Evaluator<'_> {
    /// A conditional: both sides become graphs.
    pub(crate) fn run_time_if(&mut self, scope: &mut Scope, cond: &Value, cond_span: Span, sides: [Part<'_>; 2], span: Span) -> Eval {
        let names = self.carried_by(scope, sides);
        if self.initializing() {
            // Parameters are made in the graph at hand: both sides are evaluated, their values chosen.
            return self.chosen_if(scope, cond, &names, sides, span);
        }
        let a = self.branch(scope, sides, 0, &names, &[], span)?;
        let b = self.branch(scope, sides, 1, &names, &a.values, span)?;
        // Leaves in pairs: those that are the same number in both need no conditional.
        let mut captured: Vec<Array> = a.captured.clone();
        for array in &b.captured {
            if !captured.iter().any(|c| c.node == array.node) {
                captured.push(array.clone());
            }
        }
        let before: Vec<Array> = self.buffers_before(&a.recorded, &b.recorded);
        for array in &before {
            if !captured.iter().any(|c| c.node == array.node) {
                captured.push(array.clone());
            }
        }
        let mut builders = [&a, &b].map(|side| BranchBuilder::new(&captured, side, self));
        let mut results: Vec<(Value, Vec<Option<LeafTy>>)> = Vec::new();
        for (k, (x, y)) in a.values.iter().zip(&b.values).enumerate() {
            let zeros = match (k, a.gone, b.gone) {
                (0, true, false) => Some(zeros_for(y)),
                (0, false, true) => Some(zeros_for(x)),
                _ => None,
            };
            let (x, y, model) = match &zeros {
                Some(zeros) if a.gone => (zeros, y, y),
                Some(zeros) => (x, zeros, x),
                None => (x, y, x),
            };
            let name = match k {
                0 => "the value".to_string(),
                k if k <= names.len() => format!("`{}`", names[k - 1]),
                _ => YIELDED.to_string(),
            };
            if let (Value::Tuple(x), Value::Tuple(y)) = (x, y)
                && k > names.len()
                && x.len() != y.len()
            {
                return self.yields_differ(x.len(), y.len(), span);
            }
            let (p, q) = (leaves(x), leaves(y));
            if !same_structure(x, y) || p.len() != q.len() {
                return self.sides_differ(&describe(x), &describe(y), span, sides, &name);
            }
            let mut types = Vec::new();
            for ((_, u), (_, v)) in p.iter().zip(&q) {
                let same_number = match (u, v) {
                    (Value::Int(m), Value::Int(n)) => m == n,
                    (Value::Float(m), Value::Float(n)) => m == n,
                    (Value::Bool(m), Value::Bool(n)) => m == n,
                    _ => false,
                };
                if same_number {
                    types.push(None);
                    continue;
                }
                let (Some(s), Some(t)) = (LeafTy::of(u), LeafTy::of(v)) else {
                    return self.sides_differ(&describe(u), &describe(v), span, sides, &name);
                };
                let Some(ty) = s.meet(&t) else {
                    return self.sides_differ(&s.text(), &t.text(), span, sides, &name);
                };
                for (builder, leaf) in builders.iter_mut().zip([u, v]) {
                    builder.push(leaf, &ty, self);
                }
                types.push(Some(ty));
            }
            results.push((model.clone(), types));
        }
        let recorded = self.join_recorded(&mut builders, [&a.recorded, &b.recorded], &captured);
        let [first, second] = builders.map(|b| Arc::new(b.graph));
        self.cx.at(span);
        let origin = self.cx.origin;
        let pred = self.array_of(cond, cond_span)?;
        let pred = self.cx.node(&pred);
        let args: Vec<NodeId> = captured.iter().map(|c| self.cx.node(c)).collect();
        let nodes = if first.outputs.is_empty() { Vec::new() } else { self.cx.graph().cond_results(pred, first, second, &args, origin) };
        let mut arrays = nodes.into_iter().map(|n| self.cx.array(n)).collect::<Vec<_>>().into_iter();
        let mut values = Vec::new();
        for (model, types) in results {
            let old = leaves(&model);
            let mut new = Vec::new();
            for ((_, leaf), ty) in old.into_iter().zip(types) {
                new.push(match ty {
                    None => leaf,
                    Some(ty) => {
                        let array = arrays.next().expect("one result per leaf");
                        Value::Array(Array { weak: ty.weak, ..array })
                    }
                });
            }
            values.push(rebuild(&model, &mut new.into_iter()));
        }
        self.replay_recorded(recorded.with(&mut arrays));
        let mut values = values.into_iter();
        let value = values.next().unwrap_or(Value::None);
        for (name, v) in names.iter().zip(&mut values) {
            scope.set(name, v);
            self.record_buffer(scope, name);
        }
        if let (Some(Value::Tuple(yielded)), Some(list)) = (values.next(), self.yields.last_mut()) {
            list.extend(yielded.iter().cloned());
        }
        Ok(value)
    }
    /// The values that buffers changed on one side only have on the other.
    fn buffers_before(&self, a: &Recorded, b: &Recorded) -> Vec<Array> {
        let lacks = |side: &Recorded, path: &Arc<str>| !side.buffers.iter().any(|(p, _)| p == path);
        let one_sided =
            a.buffers.iter().filter(|(p, _)| lacks(b, p)).chain(b.buffers.iter().filter(|(p, _)| lacks(a, p))).map(|(path, _)| path);
        one_sided.filter_map(|path| self.buffer_before(path)).collect()
    }
    /// Makes what either side recorded results of both: buffers the other side left alone keep their values, metrics it has not count as recorded no times.
    fn join_recorded(&mut self, builders: &mut [BranchBuilder; 2], sides: [&Recorded; 2], captured: &[Array]) -> Recorded {
        let mut joined = Recorded::default();
        let paths: IndexSet<Arc<str>> = sides.iter().flat_map(|s| s.buffers.iter().map(|(p, _)| p.clone())).collect();
        for path in paths {
            let own = sides.map(|s| s.buffers.iter().position(|(p, _)| *p == path));
            let before = self.buffer_before(&path);
            if own.contains(&None) && before.is_none() {
                continue;
            }
            let mut array = None;
            for (builder, at) in builders.iter_mut().zip(own) {
                let node = match at {
                    Some(at) => builder.recorded[at],
                    None => {
                        let before = before.as_ref().expect("checked above");
                        builder.inputs[captured.iter().position(|c| c.node == before.node).expect("captured for this")]
                    }
                };
                builder.graph.outputs.push(node);
            }
            for (side, at) in sides.iter().zip(own) {
                array = array.or(at.map(|at| side.buffers[at].1.clone()));
            }
            joined.buffers.push((path, array.expect("one side changes it")));
        }
        let keys: IndexSet<_> = sides.iter().flat_map(|s| s.metrics.keys().cloned()).collect();
        for key in keys {
            let own = sides.map(|s| s.metrics.get(&key));
            let count = match own.map(|t| t.map(|t| &t.count)) {
                [Some(Count::Times(a)), Some(Count::Times(b))] if a == b => Some(*a),
                _ => None,
            };
            for (k, builder) in builders.iter_mut().enumerate() {
                let nodes = own[k].map(|_| builder.tally(sides[k], &key));
                let dtype = self.cx.kept();
                let number = |x: f64, builder: &mut BranchBuilder| builder.graph.scalar(dtype, x, self.cx.origin);
                let sum = match nodes {
                    Some((sum, _)) => sum,
                    None => number(0.0, builder),
                };
                builder.graph.outputs.push(sum);
                if count.is_none() {
                    let n = match (nodes, own[k].map(|t| &t.count)) {
                        (Some((_, Some(n))), _) => n,
                        (_, Some(Count::Times(n))) => number(*n as f64, builder),
                        _ => number(0.0, builder),
                    };
                    builder.graph.outputs.push(n);
                }
            }
            let one = own.iter().flatten().next().expect("one side records it").sum.clone();
            let count = count.map_or(Count::Array(one.clone()), Count::Times);
            joined.metrics.insert(key, Tally { sum: one, count });
        }
        joined
    }
    /// One side as a graph; fields of its records are in the order of those of `like`, the values of the other side.
    fn branch(&mut self, scope: &Scope, sides: [Part<'_>; 2], which: usize, names: &[Arc<str>], like: &[Value], span: Span) -> Eval<Side> {
        let mut inner = scope.clone();
        let valued = matches!(sides, [Part::Block(_), Part::Block(_)] | [Part::Lock(_), Part::Lock(_)]);
        let yields = self.yields.last().map_or(0, Vec::len);
        let result = self.subgraph(|ev| {
            let (value, recorded) = ev.recording(|ev| ev.side(&mut inner, sides[which]))?;
            let mut values = vec![if valued { value } else { Value::None }];
            values.extend(ev.values_of(&inner, names));
            let yielded = ev.yields.last_mut().map_or(Vec::new(), |list| list.split_off(yields));
            values.push(Value::Tuple(Rc::new(yielded)));
            for (value, model) in values.iter_mut().zip(like) {
                if same_structure(model, value) {
                    *value = ordered_like(model, value);
                }
            }
            // Lists of numbers become the arrays they are.
            for value in &mut values {
                *value = ev.map_tree(value, span, &mut |ev, _, leaf| match leaf {
                    Value::List(_) => ev.array_of(leaf, span).map(Value::Array),
                    other => Ok(other.clone()),
                })?;
            }
            let arrays = values.iter().flat_map(leaves).filter_map(|(_, v)| if let Value::Array(a) = v { Some(a) } else { None });
            let arrays = arrays.chain(recorded.arrays()).collect();
            Ok(((values, recorded, pass_is_over(&inner)), arrays))
        });
        let ((values, recorded, gone), graph, captured) = result?;
        Ok(Side { values, recorded, gone, graph, captured })
    }
}

/// A value in the place of another one that does not matter.
fn zeros_for(value: &Value) -> Value {
    let zeros: Vec<Value> = leaves(value)
        .into_iter()
        .map(|(_, leaf)| match &leaf {
            Value::Array(a) if a.dtype == DType::Bool => Value::Bool(Some(false)),
            Value::Array(_) | Value::Int(_) | Value::Float(_) => Value::Int(0i64.into()),
            _ => leaf,
        })
        .collect();
    rebuild(value, &mut zeros.into_iter())
}

/// Puts a side into the form conditionals need: the inputs of both sides, results of the common types.
struct BranchBuilder {
    graph: Graph,
    inputs: Vec<NodeId>,
    /// Arrays of the values not asked for yet.
    values: std::vec::IntoIter<NodeId>,
    /// What was recorded.
    recorded: Vec<NodeId>,
}

impl BranchBuilder {
    fn new(captured: &[Array], side: &Side, ev: &Evaluator<'_>) -> BranchBuilder {
        let mut graph = Graph::new();
        let origin = ev.cx.origin;
        let inputs: Vec<NodeId> = captured
            .iter()
            .enumerate()
            .map(|(i, a)| {
                let ty = optc_ir::Ty::new(a.dtype, ev.known_shape(&a.shape));
                graph.input(format!("captured.{i}"), ty, origin)
            })
            .collect();
        let own = side.captured.iter();
        let args: Vec<NodeId> =
            own.map(|a| inputs[captured.iter().position(|c| c.node == a.node).expect("a capture of the side")]).collect();
        let mut values = graph.inline(&side.graph, &args, "");
        let recorded = values.split_off(values.len() - side.recorded.arrays().len());
        BranchBuilder { graph, inputs, values: values.into_iter(), recorded }
    }
    /// Adds a leaf as a result of type `ty`: the next array of the values if it is one, a constant if it is a number.
    fn push(&mut self, leaf: &Value, ty: &LeafTy, ev: &Evaluator<'_>) {
        let origin = ev.cx.origin;
        let node = match leaf {
            Value::Array(_) => {
                let node = self.values.next().expect("an output for every array");
                self.graph.cast(node, ty.dtype, origin)
            }
            Value::Int(d) => self.graph.scalar(ty.dtype, d.known().unwrap_or(0) as f64, origin),
            Value::Float(x) => self.graph.scalar(ty.dtype, x.unwrap_or(0.0), origin),
            Value::Bool(b) => self.graph.scalar(ty.dtype, f64::from(u8::from(b.unwrap_or(false))), origin),
            _ => unreachable!("leaves are arrays or numbers"),
        };
        let node = self.graph.broadcast_to(node, &ev.known_shape(&ty.shape), origin);
        self.graph.outputs.push(node);
    }
    /// Sum and, where it is an array, count of a metric of the side.
    fn tally(&self, side: &Recorded, key: &(Arc<str>, Arc<str>)) -> (NodeId, Option<NodeId>) {
        let at = side.metrics.get_index_of(key).expect("a metric of the side");
        let before: usize = side.metrics.values().take(at).map(|t| t.arrays().len()).sum();
        let at = side.buffers.len() + before;
        let counted = matches!(side.metrics[key].count, Count::Array(_));
        (self.recorded[at], counted.then(|| self.recorded[at + 1]))
    }
}
