//! Values of arrays in the script: the part of the graph an array depends on is executed, and what it gave is remembered, also of values with names on the way.

use crate::evaluator::{Eval, Evaluator};
use crate::grad::arrays_of;
use crate::small;
use crate::value::Value;
use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_ir::graph::{Graph, NodeId, NodeTy, Op, Origin};
use optc_ops::Array;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Literals of more elements are inputs of what is compiled, so that the code is the same for other values.
const LITERAL_LIMIT: usize = 8;
/// A value with a name of more bytes is kept from the second time on that something is computed from it: the first time it may never have to exist as a whole.
const LARGE: usize = 64 << 20;
/// Bytes of values that are kept. Beyond it those go that were not used for the longest time; should they be needed, they are computed anew.
const KEPT: usize = 1 << 30;

/// Values of nodes of the script's graph that are known.
#[derive(Default)]
pub(crate) struct Forced {
    values: FxHashMap<NodeId, Held>,
    /// Nodes whose values have names in the script, and whether something was computed from them.
    named: FxHashMap<NodeId, bool>,
    bytes: usize,
    /// Counts executions.
    clock: u64,
}

struct Held {
    value: Arc<Tensor>,
    used: u64,
}

impl Forced {
    fn get(&mut self, node: NodeId) -> Option<Arc<Tensor>> {
        let held = self.values.get_mut(&node)?;
        held.used = self.clock;
        Some(held.value.clone())
    }
    fn insert(&mut self, node: NodeId, value: Tensor) {
        self.bytes += value.bytes().len();
        let held = Held { value: Arc::new(value), used: self.clock };
        if let Some(old) = self.values.insert(node, held) {
            self.bytes -= old.value.bytes().len();
        }
    }
    /// Drops what was not used for the longest time, down to half of `limit`, if there is more than that.
    fn shrink(&mut self, limit: usize) {
        if self.bytes <= limit {
            return;
        }
        let mut order: Vec<(u64, NodeId)> = self.values.iter().map(|(&n, h)| (h.used, n)).collect();
        order.sort_unstable();
        for (used, node) in order {
            if self.bytes <= limit / 2 || used == self.clock {
                break;
            }
            if let Some(old) = self.values.remove(&node) {
                self.bytes -= old.value.bytes().len();
            }
        }
    }
}

impl Evaluator<'_> {
    /// The value of an array now (host mode).
    ///
    /// # Errors
    /// A run-time failure; an array that is no value yet, because it stands in compiled code.
    pub fn force(&mut self, array: &Array, span: Span) -> Eval<Arc<Tensor>> {
        let mut values = self.force_all(std::slice::from_ref(array), span)?;
        Ok(values.pop().expect("one value per array"))
    }
    /// The values of all arrays of a tree.
    ///
    /// # Errors
    /// As [`Evaluator::force`].
    pub fn force_tree(&mut self, value: &Value, span: Span) -> Eval<()> {
        let arrays: Vec<Array> = arrays_of(value).into_iter().filter(|a| a.node.is_some()).collect();
        if self.mode == crate::evaluator::Mode::Host && !arrays.is_empty() {
            self.force_all(&arrays, span)?;
        }
        Ok(())
    }
    /// The values of several arrays, computed together.
    ///
    /// # Errors
    /// As [`Evaluator::force`].
    pub fn force_all(&mut self, arrays: &[Array], span: Span) -> Eval<Vec<Arc<Tensor>>> {
        let nodes = self.bottom_nodes(arrays, span)?;
        self.forced.clock += 1;
        let mut values: Vec<Option<Arc<Tensor>>> = nodes.iter().map(|&n| self.known_value(n)).collect();
        let mut missing: Vec<NodeId> = nodes.iter().zip(&values).filter(|(_, v)| v.is_none()).map(|(&n, _)| n).collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            self.execute(&missing, span)?;
            for (node, value) in nodes.iter().zip(&mut values) {
                if value.is_none() {
                    *value = self.forced.get(*node);
                }
            }
            self.forced.shrink(KEPT);
        }
        Ok(values.into_iter().map(|v| v.expect("computed above")).collect())
    }
    /// The graph that gives the arrays (its first outputs), with the values of its inputs: what is known already, large literals, keys.
    ///
    /// # Errors
    /// An array that is no value yet.
    pub(crate) fn depending(&mut self, arrays: &[Array], span: Span) -> Eval<(Graph, Vec<Arc<Tensor>>)> {
        let nodes = self.bottom_nodes(arrays, span)?;
        let (graph, inputs, _) = extract(self.cx.bottom(), &nodes, &mut self.forced);
        Ok((graph, inputs))
    }
    fn bottom_nodes(&mut self, arrays: &[Array], span: Span) -> Eval<Vec<NodeId>> {
        let mut nodes = Vec::with_capacity(arrays.len());
        for array in arrays {
            let Some(node) = self.cx.bottom_node(array) else {
                return self.fail(
                    Diagnostic::error(Code("E0349"), span, "this value is only known when the compiled code runs")
                        .help("look at it in the experiment, after the function has returned"),
                );
            };
            nodes.push(node);
        }
        Ok(nodes)
    }
    /// A literal, or what was computed before.
    fn known_value(&mut self, node: NodeId) -> Option<Arc<Tensor>> {
        match &self.cx.bottom().node(node).op {
            Op::Const(t) => Some(t.clone()),
            _ => self.forced.get(node),
        }
    }
    /// In the script: the arrays of a value that gets a name are kept once something is computed from them.
    pub(crate) fn keep_named(&mut self, value: &Value) {
        if !self.may_look() {
            return;
        }
        match value {
            Value::Array(a) => {
                if let Some(node) = self.cx.bottom_node(a) {
                    self.forced.named.entry(node).or_insert(false);
                }
            }
            Value::Tuple(items) | Value::List(items) => items.iter().for_each(|v| self.keep_named(v)),
            Value::Record(fields) => fields.values().for_each(|v| self.keep_named(v)),
            Value::Model(m) => {
                if let Some(params) = &m.params {
                    self.keep_named(params);
                }
            }
            _ => {}
        }
    }
    fn execute(&mut self, wanted: &[NodeId], span: Span) -> Eval<()> {
        let (graph, inputs, outputs) = extract(self.cx.bottom(), wanted, &mut self.forced);
        let results = match small::evaluate(&graph, &inputs) {
            Some(results) => Ok(results),
            None => match self.host.as_mut() {
                Some(host) => host.execute(&graph, &inputs),
                None => return self.error("E0349", span, "there is nothing here that could compute this value"),
            },
        };
        match results {
            Ok(results) => {
                for (node, tensor) in outputs.into_iter().zip(results) {
                    self.forced.insert(node, tensor);
                }
                Ok(())
            }
            Err(mut diagnostic) => {
                if diagnostic.primary.span == Span::default() {
                    diagnostic.primary.span = span;
                }
                self.fail(diagnostic)
            }
        }
    }
}

/// The part of a graph that nodes depend on, with large literals, keys and known values as inputs. Its outputs are the nodes wanted, then those with names; also
/// which these are.
fn extract(graph: &Graph, wanted: &[NodeId], forced: &mut Forced) -> (Graph, Vec<Arc<Tensor>>, Vec<NodeId>) {
    // From the last node downward; nodes come after their operands.
    let mut open: BTreeSet<NodeId> = wanted.iter().copied().collect();
    let mut needed: Vec<(NodeId, Option<Arc<Tensor>>)> = Vec::new();
    while let Some(id) = open.pop_last() {
        let value = match &graph.node(id).op {
            Op::Const(t) => (t.len() > LITERAL_LIMIT || t.dtype == DType::U32).then(|| t.clone()),
            _ => forced.get(id),
        };
        if value.is_none() {
            open.extend(graph.node(id).operands.iter().copied());
        }
        needed.push((id, value));
    }
    let mut out = Graph::new();
    let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    let mut inputs = Vec::new();
    let mut kept = Vec::new();
    for (id, value) in needed.into_iter().rev() {
        let node = graph.node(id);
        if let Some(t) = value {
            map.insert(id, out.input(format!("value.{}", inputs.len()), graph.ty(id).clone(), Origin::default()));
            inputs.push(t);
            continue;
        }
        if let Some(seen) = forced.named.get_mut(&id)
            && !matches!(node.op, Op::Const(_))
            && let NodeTy::Array(ty) = &node.ty
        {
            if *seen || ty.len() * ty.dtype.size() <= LARGE {
                kept.push(id);
            }
            *seen = true;
        }
        let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
        map.insert(id, out.push(node.op.clone(), operands, node.ty.clone(), graph.origin(id)));
    }
    kept.retain(|id| !wanted.contains(id));
    let outputs: Vec<NodeId> = wanted.iter().copied().chain(kept).collect();
    out.outputs = outputs.iter().map(|n| map[n]).collect();
    (out, inputs, outputs)
}
