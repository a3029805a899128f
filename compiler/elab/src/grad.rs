//! Derivatives of functions, and functions with a gradient of their own.

use crate::batching::transformed;
use crate::evaluator::{Eval, Evaluator};
use crate::tally::Recorded;
use crate::tree::{array_type, describe, leaves, rebuild};
use crate::types::Sig;
use crate::value::{CallArg, FnValue, Residuals, Transform, Value, WrtArg};
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, ExprKind, FnItem, Gradient, LetKind, PatternKind};
use optc_ir::graph::{CallOp, Graph, NodeId};
use optc_mid::differentiate;
use optc_ops::Array;
use std::rc::Rc;
use std::sync::Arc;

/// What a differentiated function gave.
pub struct Differentiated {
    /// Its value.
    pub value: Value,
    /// One gradient per array it was differentiated in.
    pub gradients: Vec<Array>,
}

/// A function evaluated into a graph: its value, of which the arrays are the first outputs, and what was recorded, the other outputs.
pub(crate) struct Traced {
    pub(crate) value: Value,
    pub(crate) graph: Graph,
    pub(crate) captured: Vec<Array>,
    pub(crate) recorded: Recorded,
    /// Number of arrays of the value.
    pub(crate) arrays: usize,
}

impl Evaluator<'_> {
    /// Evaluates `f` on new arrays of the types of `wrt` in a graph of its own.
    pub(crate) fn trace(&mut self, wrt: &[Array], span: Span, f: &mut dyn FnMut(&mut Self, Vec<Array>) -> Eval) -> Eval<Traced> {
        let ((value, recorded, arrays), graph, captured) = self.subgraph(|ev| {
            let mut inputs = Vec::new();
            for (k, a) in wrt.iter().enumerate() {
                let shape = ev.known_shape(&a.shape);
                inputs.push(ev.cx.input(&format!("x.{k}"), a.dtype, &shape));
            }
            let (value, recorded) = ev.recording(|ev| f(ev, inputs))?;
            let value = ev.schedule_now(&value, span)?;
            // The loss itself may be a number (a constant function); everything else in it stays as it is.
            let value = match &value {
                Value::Int(_) | Value::Float(_) => Value::Array(ev.float_of(&value, span)?),
                Value::Tuple(items) if matches!(items.first(), Some(Value::Int(_) | Value::Float(_))) => {
                    let mut items = items.to_vec();
                    items[0] = Value::Array(ev.float_of(&items[0], span)?);
                    Value::Tuple(Rc::new(items))
                }
                _ => value,
            };
            let mut arrays: Vec<Array> = arrays_of(&value);
            let count = arrays.len();
            arrays.extend(recorded.arrays());
            Ok(((value, recorded, count), arrays))
        })?;
        Ok(Traced { value, graph, captured, recorded, arrays })
    }
    /// A number as a float scalar.
    pub(crate) fn float_of(&mut self, value: &Value, span: Span) -> Eval<Array> {
        let val = self.val_of(value, span)?;
        let float = self.cx.float;
        let result = optc_ops::materialize(&mut self.cx, &val, Some(float));
        self.lift(result, span)
    }
    /// Value and gradients of a scalar function of arrays: `f` gets arrays that stand for `wrt` and gives the scalar, or a tuple that begins with it. Buffers and metrics
    /// recorded in `f` are recorded outside with their values.
    ///
    /// # Errors
    /// What `f` reports; a value that is no float scalar; what cannot be differentiated.
    pub fn differentiate(&mut self, wrt: &[Array], span: Span, f: &mut dyn FnMut(&mut Self, Vec<Array>) -> Eval) -> Eval<Differentiated> {
        if self.only_looked_at() {
            let value = self.one_deeper(|ev| f(ev, wrt.to_vec()))?;
            self.scalar_result(&value, span)?;
            return Ok(Differentiated { value, gradients: wrt.to_vec() });
        }
        let traced = self.trace(wrt, span, f)?;
        self.scalar_result(&traced.value, span)?;
        let indices: Vec<usize> = (0..wrt.len()).collect();
        let derivative = match differentiate::vjp_of(&traced.graph, &indices, &[0]) {
            Ok(g) => g,
            Err(e) => return self.not_differentiable(e, span),
        };
        self.cx.at(span);
        let origin = self.cx.origin;
        let mut args: Vec<NodeId> = wrt.iter().chain(&traced.captured).map(|a| self.cx.node(a)).collect();
        let loss = traced.graph.outputs[0];
        let dtype = traced.graph.ty(loss).dtype;
        let one = self.cx.graph().scalar(dtype, 1.0, origin);
        args.push(one);
        let outputs = self.cx.graph().inline(&derivative, &args, "grad");
        let count = traced.graph.outputs.len();
        let arrays: Vec<Array> = outputs.into_iter().map(|n| self.cx.array(n)).collect();
        let value = self.replay(&traced, &arrays[..count]);
        Ok(Differentiated { value, gradients: arrays[count..].to_vec() })
    }
    /// Whether what a differentiated or mapped function does to values is of no interest: while checking its types are, while parameters are drawn its parameters,
    /// which are made in the graph at hand.
    pub(crate) fn only_looked_at(&self) -> bool {
        self.checking() || self.initializing()
    }
    /// Evaluates a function that is compiled code, while it is only looked at.
    pub(crate) fn one_deeper(&mut self, f: impl FnOnce(&mut Self) -> Eval) -> Eval {
        let depth = self.depth;
        self.depth += usize::from(self.checking());
        let result = f(self);
        self.depth = depth;
        result
    }
    /// The value of a traced function from its outputs; what it recorded is recorded here.
    pub(crate) fn replay(&mut self, traced: &Traced, outputs: &[Array]) -> Value {
        let (own, rest) = outputs.split_at(traced.arrays);
        let value = put_arrays(&traced.value, &mut own.iter().cloned());
        self.replay_recorded(traced.recorded.with(&mut rest.iter().cloned()));
        value
    }
    pub(crate) fn not_differentiable<T>(&mut self, e: differentiate::DiffError, span: Span) -> Eval<T> {
        let place = if e.origin.span == Span::default() { span } else { e.origin.span };
        let unbounded = e.code.0 == "E0722";
        let d = Diagnostic::error(e.code, place, e.message).label(span, "differentiated here");
        self.fail(if unbounded { d.help("give it one: `while c, at most 100 { … }`; forward mode (`jvp`) needs none") } else { d })
    }
    fn scalar_result(&mut self, value: &Value, span: Span) -> Eval<()> {
        let first = match value {
            Value::Tuple(items) => items.first().cloned().unwrap_or(Value::None),
            v => v.clone(),
        };
        match &first {
            Value::Array(a) if a.shape.is_empty() && a.dtype.is_float() => Ok(()),
            Value::Unknown | Value::Float(_) | Value::Int(_) => Ok(()),
            Value::Array(a) => self.fail(
                Diagnostic::error(
                    Code("E0339"),
                    span,
                    format!("a gradient is taken of a float scalar, but this function gives {}", array_type(a)),
                )
                .at(array_type(a))
                .help("reduce it: `x -> sum(f(x))`"),
            ),
            other => {
                let what = describe(other);
                self.fail(Diagnostic::error(
                    Code("E0339"),
                    span,
                    format!("a gradient is taken of a float scalar, but this function gives {what}"),
                ))
            }
        }
    }
    /// `grad(f, wrt = …)` and the like, with their arguments as written.
    pub(crate) fn wrt_args(&mut self, e: &Expr) -> Eval<Vec<WrtArg>> {
        let one = |e: &Expr| match &e.kind {
            ExprKind::Name(n) => Some(WrtArg::Name(n.clone())),
            ExprKind::Int(n) if *n >= 0 => Some(WrtArg::Position(*n as usize)),
            _ => None,
        };
        let list = match &e.kind {
            ExprKind::Tuple(items) | ExprKind::List(items) => items.iter().map(one).collect::<Option<Vec<_>>>(),
            _ => one(e).map(|w| vec![w]),
        };
        match list {
            Some(list) => Ok(list),
            None => self.fail(
                Diagnostic::error(Code("E0333"), e.span, "`wrt` names parameters of the function")
                    .help("`grad(f, wrt = b)`, `grad(f, wrt = (a, b))`"),
            ),
        }
    }
    /// Names of a function's parameters, where it has any.
    fn param_names(&self, f: &Value) -> Vec<Arc<str>> {
        match f {
            Value::Fn(f) => match &**f {
                FnValue::Item(item) => {
                    self.fn_item(*item).map(|f| f.params.iter().map(|p| p.name.text.clone()).collect()).unwrap_or_default()
                }
                FnValue::Lambda { lambda, .. } => lambda
                    .params
                    .iter()
                    .map(|p| match &p.kind {
                        PatternKind::Name(n) => n.clone(),
                        _ => Arc::from(""),
                    })
                    .collect(),
                FnValue::Transformed(
                    Transform::Grad { f, .. } | Transform::Jacobian { f, .. } | Transform::Vmap { f, .. } | Transform::Checkpoint(f, _),
                ) => self.param_names(f),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
    pub(crate) fn apply_transform(&mut self, transform: &Transform, args: Vec<CallArg>, span: Span) -> Eval {
        match transform {
            Transform::Grad { f, wrt, value } => self.apply_grad(f, wrt, *value, args, span),
            Transform::Jacobian { f, wrt, hessian: false } => self.apply_jacobian(f, wrt, args, span),
            Transform::Jacobian { f, wrt, hessian: true } => {
                let gradient = transformed(Transform::Grad { f: f.clone(), wrt: wrt.clone(), value: false });
                self.apply_jacobian(&gradient, wrt, args, span)
            }
            Transform::Vmap { f, axes } => self.apply_vmap(f, axes, args, span),
            Transform::Checkpoint(f, residuals) => self.apply_checkpoint(f, *residuals, args, span),
            Transform::Pullback { f, args: at } => {
                let Some(ct) = args.into_iter().next() else { return self.error("E0331", span, "a pull-back is called with a cotangent") };
                self.pull_back(f, at, &ct, span)
            }
        }
    }
    /// Positions among the arguments of a call that `wrt` names, and the float arrays in them in order, which the arguments then hold.
    pub(crate) fn wrt_arrays(&mut self, f: &Value, wrt: &[WrtArg], args: &mut [CallArg], span: Span) -> Eval<(Vec<usize>, Vec<Array>)> {
        let positions = self.wrt_positions(f, wrt, args, span)?;
        let mut arrays = Vec::new();
        for &k in &positions {
            let (value, floats) = self.float_leaves(&args[k].value, args[k].span)?;
            args[k].value = value;
            arrays.extend(floats);
        }
        Ok((positions, arrays))
    }
    /// Positions among the arguments of a call that `wrt` names.
    fn wrt_positions(&mut self, f: &Value, wrt: &[WrtArg], args: &[CallArg], span: Span) -> Eval<Vec<usize>> {
        if wrt.is_empty() {
            return if args.is_empty() { self.error("E0331", span, "a gradient needs an argument to be taken in") } else { Ok(vec![0]) };
        }
        let names = self.param_names(f);
        let mut out = Vec::new();
        for w in wrt {
            let at = match w {
                WrtArg::Position(k) => (*k < args.len()).then_some(*k),
                WrtArg::Name(n) => args.iter().position(|a| a.name.as_ref() == Some(n)).or_else(|| {
                    let k = names.iter().position(|p| p == n)?;
                    args.get(k).filter(|a| a.name.is_none()).map(|_| k)
                }),
            };
            match at {
                Some(k) => out.push(k),
                None => {
                    let what = match w {
                        WrtArg::Position(k) => format!("argument {k}"),
                        WrtArg::Name(n) => format!("an argument for `{n}`"),
                    };
                    return self.fail(Diagnostic::error(
                        Code("E0331"),
                        span,
                        format!("the gradient is taken in {what}, which is not given"),
                    ));
                }
            }
        }
        Ok(out)
    }
    /// The float arrays of an argument, numbers as scalars; and the argument with its numbers made arrays.
    pub(crate) fn float_leaves(&mut self, value: &Value, span: Span) -> Eval<(Value, Vec<Array>)> {
        let value = self.map_tree(value, span, &mut |ev, _, leaf| match leaf {
            Value::Float(_) => ev.float_of(leaf, span).map(Value::Array),
            Value::Int(_) | Value::List(_) => ev.array_of(leaf, span).map(Value::Array),
            Value::Array(a) if a.weak => {
                let dtype = if a.dtype.is_float() { ev.cx.float } else { a.dtype };
                ev.cast(&Value::Array(Array { weak: false, ..a.clone() }), dtype, span)
            }
            other => Ok(other.clone()),
        })?;
        let arrays: Vec<Array> = arrays_of(&value).into_iter().filter(|a| a.dtype.is_float()).collect();
        if arrays.is_empty() && !matches!(value, Value::Unknown) && !holds_unknown(&value) {
            let what = describe(&value);
            return self.fail(
                Diagnostic::error(Code("E0339"), span, format!("a gradient is taken in float arrays, but this argument is {what}"))
                    .at(what)
                    .help("convert it: `x as f32`"),
            );
        }
        Ok((value, arrays))
    }
    /// A tree in which numbers have the element types of the arrays that they stand beside.
    fn numbers_like(&mut self, value: &Value, arrays: &[Array], span: Span) -> Eval {
        if leaves(value).len() != arrays.len() {
            return Ok(value.clone());
        }
        let mut like = arrays.iter();
        self.map_tree(value, span, &mut |ev, _, leaf| match (leaf, like.next()) {
            (Value::Int(_) | Value::Float(_), Some(a)) => {
                let val = ev.val_of(leaf, span)?;
                let result = optc_ops::materialize(&mut ev.cx, &val, Some(a.dtype));
                ev.lift(result, span).map(Value::Array)
            }
            (Value::Array(x), Some(a)) if x.weak => ev.cast(&Value::Array(Array { weak: false, ..x.clone() }), a.dtype, span),
            _ => Ok(leaf.clone()),
        })
    }
    fn apply_grad(&mut self, f: &Value, wrt: &[WrtArg], with_value: bool, args: Vec<CallArg>, span: Span) -> Eval {
        if matches!(f, Value::Unknown) || args.iter().any(|a| matches!(a.value, Value::Unknown)) && self.checking() {
            let result = if matches!(f, Value::Unknown) { Value::Unknown } else { self.apply(f, args.clone(), span)? };
            self.scalar_result(&result, span)?;
            let gradient = if wrt.is_empty() { args.first().map_or(Value::Unknown, |a| a.value.clone()) } else { Value::Unknown };
            return Ok(if with_value { Value::Tuple(Rc::new(vec![result, gradient])) } else { gradient });
        }
        let mut args = args;
        let (positions, arrays) = self.wrt_arrays(f, wrt, &mut args, span)?;
        let result = self.differentiate(&arrays, span, &mut |ev, inputs| {
            let mut inputs = inputs.into_iter();
            let mut inner = args.clone();
            for &k in &positions {
                inner[k].value = put_floats(&args[k].value, &mut inputs);
            }
            ev.apply(f, inner, span)
        })?;
        let mut gradients = result.gradients.into_iter();
        let mut trees = Vec::new();
        for &k in &positions {
            let value = args[k].value.clone();
            // Leaves that are no floats have no gradient.
            let tree = self.map_tree(&value, span, &mut |ev, _, leaf| match leaf {
                Value::Array(a) if a.dtype.is_float() => Ok(gradients.next().map_or(Value::Unknown, Value::Array)),
                Value::Array(_) => ev.call_op("zeros_like", vec![leaf.clone()], span),
                other => Ok(other.clone()),
            })?;
            trees.push(tree);
        }
        let gradient = if wrt.len() > 1 { Value::Tuple(Rc::new(trees)) } else { trees.pop().unwrap_or(Value::None) };
        Ok(if with_value { Value::Tuple(Rc::new(vec![result.value, gradient])) } else { gradient })
    }
    /// `jvp(f, x, v)`: the value at `x` and its derivative in direction `v`.
    pub(crate) fn jvp_call(&mut self, args: Vec<CallArg>, span: Span) -> Eval {
        let [f, x, v] = args.as_slice() else {
            return self.error("E0331", span, "`jvp` takes a function, a point and a direction: `jvp(f, x, v)`");
        };
        let (point, arrays) = self.float_leaves(&x.value, x.span)?;
        let given = self.numbers_like(&v.value, &arrays, v.span)?;
        let given = crate::tree::ordered_like(&point, &given);
        let (direction, tangents) = self.float_leaves(&given, v.span)?;
        if !crate::tree::same_structure(&point, &direction) || arrays.len() != tangents.len() {
            return self.fail(Diagnostic::error(Code("E0347"), v.span, "the direction is a tree of the same structure as the point"));
        }
        for (a, t) in arrays.iter().zip(&tangents) {
            if a.shape.len() != t.shape.len()
                || a.shape.iter().zip(&t.shape).any(|(p, q)| p.fit(q) == optc_ops::Fit::Different)
                || a.dtype != t.dtype
            {
                return self.fail(Diagnostic::error(
                    Code("E0420"),
                    v.span,
                    format!("the direction is {}, but the point is {}", array_type(t), array_type(a)),
                ));
            }
        }
        let (f, fx) = (f.value.clone(), x.span);
        let mut body = |ev: &mut Self, inputs: Vec<Array>| {
            let value = put_floats(&point, &mut inputs.into_iter());
            ev.apply(&f, vec![CallArg { name: None, value, span: fx }], span)
        };
        if self.only_looked_at() {
            let value = self.one_deeper(|ev| body(ev, arrays))?;
            return Ok(Value::Tuple(Rc::new(vec![value.clone(), value])));
        }
        let traced = self.trace(&arrays, span, &mut body)?;
        let indices: Vec<usize> = (0..arrays.len()).collect();
        let graph = match differentiate::jvp(&traced.graph, &indices) {
            Ok(g) => g,
            Err(e) => return self.not_differentiable(e, span),
        };
        let nodes: Vec<NodeId> = arrays.iter().chain(&traced.captured).chain(&tangents).map(|a| self.cx.node(a)).collect();
        let outputs = self.cx.graph().inline(&graph, &nodes, "grad");
        let outputs: Vec<Array> = outputs.into_iter().map(|n| self.cx.array(n)).collect();
        let count = traced.graph.outputs.len();
        let value = self.replay(&traced, &outputs[..count]);
        let mut tangents = outputs[count..].iter().cloned();
        // Only float outputs have a tangent.
        let mut list = Vec::new();
        for a in arrays_of(&traced.value) {
            list.push(if a.dtype.is_float() { tangents.next().map_or(Value::Unknown, Value::Array) } else { Value::None });
        }
        let tangent = put_values(&value, &mut list.into_iter());
        Ok(Value::Tuple(Rc::new(vec![value, tangent])))
    }
    /// The cotangents of a function's arguments.
    fn pull_back(&mut self, f: &Value, at: &[Value], ct: &CallArg, span: Span) -> Eval {
        let mut points = Vec::new();
        let mut arrays = Vec::new();
        for value in at {
            let (value, floats) = self.float_leaves(value, span)?;
            points.push(value);
            arrays.extend(floats);
        }
        if self.only_looked_at() {
            let args = points.iter().map(|p| CallArg { name: None, value: p.clone(), span }).collect();
            let value = self.one_deeper(|ev| ev.apply(f, args, span))?;
            if !holds_unknown(&value) && !holds_unknown(&ct.value) {
                self.cotangents(&value, ct)?;
            }
            return Ok(if points.len() == 1 { points.pop().unwrap_or(Value::None) } else { Value::Tuple(Rc::new(points)) });
        }
        let traced = self.trace(&arrays, span, &mut |ev, inputs| {
            let mut inputs = inputs.into_iter();
            let args = points.iter().map(|p| CallArg { name: None, value: put_floats(p, &mut inputs), span }).collect();
            ev.apply(f, args, span)
        })?;
        let indices: Vec<usize> = (0..arrays.len()).collect();
        let of: Vec<usize> = arrays_of(&traced.value).iter().enumerate().filter(|(_, a)| a.dtype.is_float()).map(|(k, _)| k).collect();
        let graph = match differentiate::vjp_of(&traced.graph, &indices, &of) {
            Ok(g) => g,
            Err(e) => return self.not_differentiable(e, span),
        };
        let cotangents = self.cotangents(&traced.value, ct)?;
        let nodes: Vec<NodeId> = arrays.iter().chain(&traced.captured).chain(&cotangents).map(|a| self.cx.node(a)).collect();
        let outputs = self.cx.graph().inline(&graph, &nodes, "grad");
        let outputs: Vec<Array> = outputs.into_iter().map(|n| self.cx.array(n)).collect();
        let (values, cotangents) = outputs.split_at(traced.graph.outputs.len());
        self.replay(&traced, values);
        let mut outputs = cotangents.iter().cloned();
        let mut trees: Vec<Value> = points.iter().map(|p| put_floats(p, &mut outputs)).collect();
        Ok(if trees.len() == 1 { trees.pop().unwrap_or(Value::None) } else { Value::Tuple(Rc::new(trees)) })
    }
    /// The cotangents of the float arrays of a function's value.
    fn cotangents(&mut self, value: &Value, ct: &CallArg) -> Eval<Vec<Array>> {
        let value = self.only_arrays(value, ct.span)?;
        let results: Vec<Array> = arrays_of(&value).into_iter().filter(|a| a.dtype.is_float()).collect();
        let given = self.numbers_like(&ct.value, &results, ct.span)?;
        let given = crate::tree::ordered_like(&value, &given);
        let (given, mut cotangents) = self.float_leaves(&given, ct.span)?;
        let wrong = |code, given: &str, value: &str| {
            let d = Diagnostic::error(Code(code), ct.span, format!("the cotangent is {given}, but the function's value is {value}"));
            d.help("a pull-back takes a tree like the value: an array of its shape for each array")
        };
        if cotangents.len() != results.len() {
            return self.fail(wrong("E0347", &describe(&given), &describe(&value)));
        }
        for (c, r) in cotangents.iter_mut().zip(&results) {
            match optc_ops::broadcast_to(&mut self.cx, c, &r.shape) {
                Ok(spread) => *c = spread,
                Err(_) => return self.fail(wrong("E0420", &array_type(c), &array_type(r))),
            }
        }
        Ok(cotangents)
    }
    /// `checkpoint(f)(x)`: a call whose derivative computes it anew, or finds what it needs where it may have been out of memory.
    fn apply_checkpoint(&mut self, f: &Value, residuals: Residuals, args: Vec<CallArg>, span: Span) -> Eval {
        if self.checking() || self.initializing() || residuals == Residuals::Keep {
            return self.apply(f, args, span);
        }
        let traced = self.trace(&[], span, &mut |ev, _| ev.apply(f, args.clone(), span))?;
        if traced.graph.outputs.is_empty() {
            return Ok(traced.value);
        }
        let body = Arc::new(traced.graph.clone());
        if residuals == Residuals::Swap {
            let call = CallOp { name: optc_ir::graph::SWAPPED.to_string(), body, vjp: None };
            let outputs = self.emit_call(call, &traced.captured, span);
            return Ok(self.replay(&traced, &outputs));
        }
        let call = match differentiate::checkpoint("checkpoint", body) {
            Ok(call) => call,
            Err(e) => return self.not_differentiable(e, span),
        };
        let outputs = self.emit_call(call, &traced.captured, span);
        Ok(self.replay(&traced, &outputs))
    }
    fn emit_call(&mut self, call: CallOp, operands: &[Array], span: Span) -> Vec<Array> {
        self.cx.at(span);
        let origin = self.cx.origin;
        let nodes: Vec<NodeId> = operands.iter().map(|a| self.cx.node(a)).collect();
        let results = call.body.outputs.len();
        let graph = self.cx.graph();
        let node = graph.op(optc_ir::graph::Op::Call(call), &nodes, origin);
        let ids: Vec<NodeId> = (0..results).map(|i| graph.result(node, i, origin)).collect();
        ids.into_iter().map(|n| self.cx.array(n)).collect()
    }
    /// A call of a function with a gradient of its own: arrays among the arguments are operands, its body and its gradient graphs of them.
    pub(crate) fn custom_call(&mut self, item: &FnItem, gradient: &Gradient, sig: &mut Sig, span: Span) -> Eval {
        let params: Vec<Arc<str>> = item.params.iter().map(|p| p.name.text.clone()).collect();
        // Numbers for scalar parameters are operands too: the gradient may be taken in them.
        for param in &item.params {
            let scalar = matches!(&param.ty, Some(t) if matches!(&t.kind, optc_front::ast::TypeKind::Array { .. }));
            if scalar
                && !param.is_const
                && let Some(v @ (Value::Float(_) | Value::Int(_))) = sig.scope.get(&param.name.text).map(|b| b.value.clone())
            {
                let a = self.float_of(&v, span)?;
                sig.scope.set(&param.name.text, Value::Array(a));
            }
        }
        let args: Vec<Value> = params.iter().map(|n| sig.scope.get(n).map_or(Value::None, |b| b.value.clone())).collect();
        let operands: Vec<Array> = args.iter().flat_map(arrays_of).collect();
        let place = |ev: &Self, sig: &mut Sig, inputs: Vec<Array>| {
            let _ = ev;
            let mut inputs = inputs.into_iter();
            for (name, value) in params.iter().zip(&args) {
                let value = put_arrays(value, &mut inputs);
                sig.scope.set(name, value);
            }
        };
        let mut body_sig = sig.clone();
        let traced = self.trace(&operands, span, &mut |ev, inputs| {
            place(ev, &mut body_sig, inputs);
            ev.body(item, &mut body_sig)
        })?;
        if !traced.captured.is_empty() {
            return self.fail(
                Diagnostic::error(Code("E0721"), gradient.span, "a function with a gradient of its own may use only its arguments")
                    .label(span, "called here")
                    .help("pass the arrays it draws or reads from outside as arguments"),
            );
        }
        // What it records counts as a result, which the rule has no use for.
        let results: Vec<Array> = arrays_of(&traced.value).into_iter().chain(traced.recorded.arrays()).collect();
        let body = Arc::new(traced.graph.clone());
        // The reverse rule: inputs are operands, results, cotangents of the results.
        let mut all: Vec<Array> = operands.clone();
        all.extend(results.iter().cloned());
        all.extend(results.iter().cloned());
        let count = operands.len();
        let mut rule_sig = sig.clone();
        let value = traced.value.clone();
        let muted = std::mem::replace(&mut self.recorder.muted, true);
        let rule = self.trace(&all, span, &mut |ev, inputs| {
            place(ev, &mut rule_sig, inputs[..count].to_vec());
            let result = put_arrays(&value, &mut inputs[count..count + results.len()].iter().cloned());
            let cts = put_arrays(&value, &mut inputs[count + results.len()..].iter().cloned());
            let mut scope = rule_sig.scope.clone();
            scope.push();
            scope.bind("result", result, LetKind::Let, gradient.span);
            match gradient.cotangents.as_slice() {
                [one] => scope.bind(one.text.clone(), cts, LetKind::Let, one.span),
                several => {
                    let Value::Tuple(items) = &cts else {
                        return ev.error("E0335", gradient.span, "several cotangents are given for one result");
                    };
                    if items.len() != several.len() {
                        return ev.error(
                            "E0335",
                            gradient.span,
                            format!("{} cotangents are named for {} results", several.len(), items.len()),
                        );
                    }
                    for (n, v) in several.iter().zip(items.iter()) {
                        scope.bind(n.text.clone(), v.clone(), LetKind::Let, n.span);
                    }
                }
            }
            let gradients = ev.expr(&mut scope, &gradient.body)?;
            ev.gradient_leaves(&args, gradients, gradient)
        });
        self.recorder.muted = muted;
        let rule = rule?;
        if !rule.captured.is_empty() {
            return self.fail(
                Diagnostic::error(
                    Code("E0721"),
                    gradient.span,
                    "a gradient of one's own may use only the arguments, `result` and the cotangents",
                )
                .label(span, "called here"),
            );
        }
        let call = CallOp { name: item.name.text.to_string(), body, vjp: Some(Arc::new(rule.graph)) };
        let outputs = self.emit_call(call, &operands, span);
        Ok(self.replay(&traced, &outputs))
    }
    /// What a gradient of one's own returned, as one array per operand.
    fn gradient_leaves(&mut self, args: &[Value], gradients: Value, gradient: &Gradient) -> Eval {
        let span = gradient.body.span;
        // Compile-time arguments have no operand; an entry for them may be left out if there is one entry only.
        let given: Vec<Value> = match &gradients {
            Value::Tuple(items) if items.len() == args.len() => items.to_vec(),
            one => {
                let arrays = args.iter().filter(|a| !arrays_of(a).is_empty()).count();
                if arrays != 1 {
                    return self.fail(
                        Diagnostic::error(Code("E0335"), span, format!("a gradient returns one entry per argument: {} here", args.len()))
                            .at(describe(one))
                            .help("use `none` for arguments without a gradient"),
                    );
                }
                args.iter().map(|a| if arrays_of(a).is_empty() { Value::None } else { one.clone() }).collect()
            }
        };
        let mut out = Vec::new();
        for (arg, entry) in args.iter().zip(given) {
            let operands = arrays_of(arg);
            let entries: Vec<Value> = leaves(&entry).into_iter().map(|(_, v)| v).collect();
            for (k, operand) in operands.iter().enumerate() {
                let array = match entries.get(k) {
                    Some(v) => {
                        let val = self.val_of(v, span)?;
                        let dtype = operand.dtype.is_float().then_some(operand.dtype);
                        let number = !matches!(v, Value::Array(a) if !a.weak);
                        let result = optc_ops::materialize(&mut self.cx, &val, if number { dtype } else { None });
                        let array = self.lift(result, span)?;
                        let array = if array.dtype == operand.dtype { array } else { self.cast_to(&array, operand.dtype, span)? };
                        match optc_ops::broadcast_to(&mut self.cx, &array, &operand.shape) {
                            Ok(a) => a,
                            Err(_) => {
                                return self.fail(Diagnostic::error(
                                    Code("E0420"),
                                    span,
                                    format!("this gradient is {}, but the argument is {}", array_type(&array), array_type(operand)),
                                ));
                            }
                        }
                    }
                    None => {
                        let shape = self.known_shape(&operand.shape);
                        self.literal(optc_abi::Tensor::zeros(operand.dtype, &shape))
                    }
                };
                out.push(Value::Array(array));
            }
        }
        Ok(Value::Tuple(Rc::new(out)))
    }
    fn cast_to(&mut self, array: &Array, dtype: DType, span: Span) -> Eval<Array> {
        match self.cast(&Value::Array(array.clone()), dtype, span)? {
            Value::Array(a) => Ok(a),
            _ => self.error("E0333", span, "no array"),
        }
    }
}

/// The arrays among the leaves of a value; lists of numbers are no arrays yet.
pub(crate) fn arrays_of(value: &Value) -> Vec<Array> {
    match value {
        Value::Array(a) => vec![a.clone()],
        Value::Tuple(items) | Value::List(items) => items.iter().flat_map(arrays_of).collect(),
        Value::Record(fields) => fields.values().flat_map(arrays_of).collect(),
        _ => Vec::new(),
    }
}

/// The value with its arrays replaced, in order.
pub(crate) fn put_arrays(value: &Value, arrays: &mut dyn Iterator<Item = Array>) -> Value {
    match value {
        Value::Array(a) => match arrays.next() {
            Some(new) => Value::Array(Array { weak: a.weak, ..new }),
            None => value.clone(),
        },
        Value::Tuple(items) => Value::Tuple(Rc::new(items.iter().map(|v| put_arrays(v, arrays)).collect())),
        Value::List(items) => Value::List(Rc::new(items.iter().map(|v| put_arrays(v, arrays)).collect())),
        Value::Record(fields) => Value::Record(Rc::new(fields.iter().map(|(n, v)| (n.clone(), put_arrays(v, arrays))).collect())),
        other => other.clone(),
    }
}

pub(crate) fn put_values(value: &Value, new: &mut dyn Iterator<Item = Value>) -> Value {
    match value {
        Value::Array(_) => new.next().unwrap_or(Value::Unknown),
        Value::Tuple(items) => Value::Tuple(Rc::new(items.iter().map(|v| put_values(v, new)).collect())),
        Value::List(items) => Value::List(Rc::new(items.iter().map(|v| put_values(v, new)).collect())),
        Value::Record(fields) => Value::Record(Rc::new(fields.iter().map(|(n, v)| (n.clone(), put_values(v, new))).collect())),
        other => other.clone(),
    }
}

/// The value with its float arrays replaced, in order.
pub(crate) fn put_floats(value: &Value, arrays: &mut dyn Iterator<Item = Array>) -> Value {
    let list: Vec<Value> = leaves(value)
        .into_iter()
        .map(|(_, leaf)| match &leaf {
            Value::Array(a) if a.dtype.is_float() => arrays.next().map_or(Value::Unknown, Value::Array),
            _ => leaf,
        })
        .collect();
    rebuild(value, &mut list.into_iter())
}

fn holds_unknown(value: &Value) -> bool {
    leaves(value).iter().any(|(_, v)| matches!(v, Value::Unknown))
}
