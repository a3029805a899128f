//! `jacobian`, `hessian` and `hvp`: derivatives made of directional ones and pull-backs, batched over a basis.

use crate::batching::transformed;
use crate::evaluator::{Eval, Evaluator};
use crate::grad::{arrays_of, put_values};
use crate::tree::{describe, leaves};
use crate::value::{CallArg, Transform, Value, WrtArg};
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_ir::ScalarOp;
use optc_ir::graph::{Graph, NodeId, Origin, Ty};
use optc_mid::batch::batch;
use optc_mid::differentiate;
use optc_ops::{Array, Dim};
use std::rc::Rc;

impl Evaluator<'_> {
    /// `hvp(f, x, v)`: the Hessian of a scalar function times a direction.
    ///
    /// # Errors
    /// As `jvp` and `grad`.
    pub(crate) fn hvp_call(&mut self, mut args: Vec<CallArg>, span: Span) -> Eval {
        if args.len() != 3 {
            return self.error("E0331", span, "`hvp` takes a scalar function, a point and a direction: `hvp(f, x, v)`");
        }
        args[0].value = transformed(Transform::Grad { f: args[0].value.clone(), wrt: Vec::new(), value: false });
        match self.jvp_call(args, span)? {
            Value::Tuple(parts) if parts.len() == 2 => Ok(parts[1].clone()),
            other => Ok(other),
        }
    }
    /// `jacobian(f, wrt)(args)`: for each array of the value, its derivatives in the arrays of the arguments, of the extents of both.
    ///
    /// # Errors
    /// A value that is no tree of float arrays; what cannot be differentiated; what `f` reports.
    pub(crate) fn apply_jacobian(&mut self, f: &Value, wrt: &[WrtArg], args: Vec<CallArg>, span: Span) -> Eval {
        if matches!(f, Value::Unknown) || (self.checking() && args.iter().any(|a| matches!(a.value, Value::Unknown))) {
            return Ok(Value::Unknown);
        }
        let mut args = args;
        let (positions, arrays) = self.wrt_arrays(f, wrt, &mut args, span)?;
        let points: Vec<Value> = positions.iter().map(|&k| args[k].value.clone()).collect();
        let point = if points.len() == 1 { points[0].clone() } else { Value::Tuple(Rc::new(points)) };
        let mut call = |ev: &mut Self, inputs: Vec<Array>| {
            let mut inputs = inputs.into_iter();
            let mut inner = args.clone();
            for &k in &positions {
                inner[k].value = crate::grad::put_floats(&args[k].value, &mut inputs);
            }
            let value = ev.apply(f, inner, span)?;
            let value = ev.only_arrays(&value, span)?;
            ev.only_floats(&value, span)?;
            Ok(value)
        };
        if self.only_looked_at() {
            let value = self.one_deeper(|ev| call(ev, arrays))?;
            return self.map_tree(&value, span, &mut |ev, _, leaf| {
                let Value::Array(out) = leaf else { return Ok(Value::Unknown) };
                ev.map_tree(&point, span, &mut |ev, _, leaf| match leaf {
                    Value::Array(a) => {
                        let shape: Vec<_> = out.shape.iter().chain(&a.shape).cloned().collect();
                        let dtype = if a.dtype.is_float() { out.dtype } else { a.dtype };
                        Ok(Value::Array(ev.some_array(dtype, &shape)))
                    }
                    other => Ok(other.clone()),
                })
            });
        }
        let traced = self.trace(&arrays, span, &mut call)?;
        let results = arrays_of(&traced.value);
        let sizes = |arrays: &[Array]| -> Vec<Vec<usize>> { arrays.iter().map(|a| self.known_shape(&a.shape)).collect() };
        let (from, to) = (sizes(&arrays), sizes(&results));
        let total = |shapes: &[Vec<usize>]| shapes.iter().map(|s| s.iter().product::<usize>()).sum::<usize>();
        let mut forward = total(&from) <= total(&to);
        let wrt: Vec<usize> = (0..arrays.len()).collect();
        let of: Vec<usize> = (0..results.len()).collect();
        let mut made = if forward { differentiate::jvp(&traced.graph, &wrt) } else { differentiate::vjp_of(&traced.graph, &wrt, &of) };
        if !forward && made.is_err() {
            // Forward mode goes where reverse mode does not: through a `while` without a bound.
            forward = true;
            made = differentiate::jvp(&traced.graph, &wrt).or(made);
        }
        let mut derivative = match made {
            Ok(graph) => graph,
            Err(e) => return self.not_differentiable(e, span),
        };
        if forward {
            // No tangents of what was recorded beside the value.
            derivative.outputs.truncate(traced.graph.outputs.len() + results.len());
        }
        self.cx.at(span);
        let origin = self.cx.origin;
        let fixed: Vec<NodeId> = arrays.iter().chain(&traced.captured).map(|a| self.cx.node(a)).collect();
        let values = traced.graph.outputs.len();
        // One direction of a basis per element of a batch, array by array.
        let (directions, given) = if forward { (&from, &arrays) } else { (&to, &results) };
        let mut columns: Vec<Vec<NodeId>> = Vec::new();
        let mut outputs = Vec::new();
        for k in 0..directions.len() {
            let size: usize = directions[k].iter().product();
            let mut operands = fixed.clone();
            for (j, shape) in directions.iter().enumerate() {
                let ty = Ty::new(given[j].dtype, shape.iter().copied());
                let graph = self.cx.graph();
                operands.push(if j == k { basis(graph, &ty, origin) } else { graph.splat(&ty, 0.0, origin) });
            }
            let flags: Vec<bool> = (0..operands.len()).map(|i| i == fixed.len() + k).collect();
            let all: Vec<bool> = (0..derivative.outputs.len()).map(|i| i >= values).collect();
            let batched = batch(&derivative, &flags, size, &all);
            assert!(batched.outputs[..values].iter().all(|b| !b), "compiler bug: a value depends on a direction");
            let mut nodes = self.cx.graph().inline(&batched.graph, &operands, "grad");
            columns.push(nodes.split_off(values));
            outputs = nodes;
        }
        let outputs: Vec<Array> = outputs.into_iter().map(|n| self.cx.array(n)).collect();
        self.replay(&traced, &outputs);
        let mut blocks: Vec<Value> = Vec::new();
        for (i, out) in to.iter().enumerate() {
            let mut row = Vec::new();
            for (j, at) in from.iter().enumerate() {
                let shape: Vec<usize> = out.iter().chain(at).copied().collect();
                let graph = self.cx.graph();
                let node = if forward {
                    let column = columns[j][i];
                    let rank = graph.ty(column).rank();
                    let perm: Vec<usize> = (1..rank).chain([0]).collect();
                    graph.permute(column, &perm, origin)
                } else {
                    columns[i][j]
                };
                let node = graph.reshape(node, &shape, origin);
                row.push(self.cx.array(node));
            }
            let mut row = row.into_iter();
            let dims = results[i].shape.clone();
            blocks.push(self.map_tree(&point, span, &mut |ev, _, leaf| match leaf {
                Value::Array(a) if a.dtype.is_float() => Ok(row.next().map_or(Value::Unknown, Value::Array)),
                Value::Array(a) => {
                    let shape: Vec<usize> = ev.known_shape(&dims.iter().chain(&a.shape).cloned().collect::<Vec<_>>());
                    Ok(Value::Array(ev.literal(optc_abi::Tensor::zeros(a.dtype, &shape))))
                }
                other => Ok(other.clone()),
            })?);
        }
        Ok(put_values(&traced.value, &mut blocks.into_iter()))
    }
    /// An array of a type whose values do not matter.
    fn some_array(&mut self, dtype: DType, shape: &[Dim]) -> Array {
        if self.cx.emitting() {
            let shape = self.known_shape(shape);
            return self.literal(optc_abi::Tensor::zeros(dtype, &shape));
        }
        Array { dtype, shape: shape.to_vec(), weak: false, node: None }
    }
    fn only_floats(&mut self, value: &Value, span: Span) -> Eval<()> {
        let all = leaves(value);
        let odd = all.iter().find(|(_, v)| !matches!(v, Value::Unknown) && !matches!(v, Value::Array(a) if a.dtype.is_float()));
        let what = match odd {
            Some((_, v)) => describe(v),
            None if all.is_empty() && !matches!(value, Value::Unknown) => describe(value),
            None => return Ok(()),
        };
        self.fail(
            Diagnostic::error(Code("E0339"), span, format!("a Jacobian is taken of float arrays, but this function gives {what}")).at(what),
        )
    }
}

/// The unit arrays of a type, one after the other.
fn basis(g: &mut Graph, ty: &Ty, o: Origin) -> NodeId {
    let n = ty.len();
    let (row, column) = (g.iota(DType::I32, &[n, n], 0, o), g.iota(DType::I32, &[n, n], 1, o));
    let unit = g.map(ScalarOp::Eq, &[row, column], o);
    let unit = g.cast(unit, ty.dtype, o);
    let shape: Vec<usize> = std::iter::once(n).chain(ty.shape.iter().copied()).collect();
    g.reshape(unit, &shape, o)
}
