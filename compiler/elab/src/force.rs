//! Values of arrays in the script: the part of the graph an array depends on is executed, and what it gave is remembered.

use crate::evaluator::{Eval, Evaluator};
use crate::grad::arrays_of;
use crate::value::Value;
use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_ir::graph::{Graph, NodeId, Op, Origin};
use optc_ops::Array;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Literals of more elements are inputs of what is compiled, so that the code is the same for other values.
const LITERAL_LIMIT: usize = 8;

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
        let mut wanted = Vec::new();
        for array in arrays {
            let Some(node) = self.cx.bottom_node(array) else {
                return self.fail(
                    Diagnostic::error(Code("E0349"), span, "this value is only known when the compiled code runs")
                        .help("look at it in the experiment, after the function has returned"),
                );
            };
            wanted.push(node);
        }
        let missing: Vec<NodeId> = wanted.iter().copied().filter(|n| !self.forced.contains_key(n)).collect();
        if !missing.is_empty() {
            self.execute(missing, span)?;
        }
        Ok(wanted.iter().map(|n| self.forced[n].clone()).collect())
    }
    fn execute(&mut self, mut wanted: Vec<NodeId>, span: Span) -> Eval<()> {
        wanted.sort_unstable();
        wanted.dedup();
        let (graph, inputs) = {
            let forced = &self.forced;
            let bottom = self.cx.bottom();
            // Literals are values already.
            let known: Vec<(NodeId, Arc<Tensor>)> = wanted
                .iter()
                .filter_map(|&n| match &bottom.node(n).op {
                    Op::Const(t) => Some((n, t.clone())),
                    _ => None,
                })
                .collect();
            wanted.retain(|n| !known.iter().any(|(k, _)| k == n));
            let extracted = extract(bottom, &wanted, forced);
            for (n, t) in known {
                self.forced.insert(n, t);
            }
            extracted
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let Some(host) = self.host.as_mut() else {
            return self.error("E0349", span, "there is nothing here that could compute this value");
        };
        match host.execute(&graph, &inputs) {
            Ok(results) => {
                for (node, tensor) in wanted.into_iter().zip(results) {
                    self.forced.insert(node, Arc::new(tensor));
                }
                Ok(())
            }
            Err(diagnostic) => {
                let diagnostic = if diagnostic.primary.span == Span::default() {
                    let mut d = diagnostic;
                    d.primary.span = span;
                    d
                } else {
                    diagnostic
                };
                self.fail(diagnostic)
            }
        }
    }
}

/// The part of a graph that nodes depend on, with large literals, keys and known values as inputs.
fn extract(graph: &Graph, wanted: &[NodeId], forced: &FxHashMap<NodeId, Arc<Tensor>>) -> (Graph, Vec<Arc<Tensor>>) {
    let mut needed = vec![false; graph.len()];
    for n in wanted {
        needed[n.index()] = true;
    }
    let value = |id: NodeId| -> Option<Arc<Tensor>> {
        if let Some(t) = forced.get(&id) {
            return Some(t.clone());
        }
        match &graph.node(id).op {
            Op::Const(t) if t.len() > LITERAL_LIMIT || t.dtype == DType::U32 => Some(t.clone()),
            _ => None,
        }
    };
    for id in graph.ids().rev() {
        if needed[id.index()] && value(id).is_none() {
            for operand in &graph.node(id).operands {
                needed[operand.index()] = true;
            }
        }
    }
    let mut out = Graph::new();
    let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    let mut inputs = Vec::new();
    for id in graph.ids().filter(|id| needed[id.index()]) {
        let node = graph.node(id);
        if let Some(t) = value(id) {
            map.insert(id, out.input(format!("value.{}", inputs.len()), graph.ty(id).clone(), Origin::default()));
            inputs.push(t);
            continue;
        }
        let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
        map.insert(id, out.push(node.op.clone(), operands, node.ty.clone(), graph.origin(id)));
    }
    out.outputs = wanted.iter().map(|n| map[n]).collect();
    (out, inputs)
}
