//! Trees of parameters as values: `net.params`, `init`, `apply`, shared instances.

use crate::evaluator::{Eval, Evaluator};
use crate::model::{ParamCx, ParamLeaf, ParamMode, at_path};
use crate::scope::Scope;
use crate::tree::{describe, nest};
use crate::value::{CallArg, FnValue, ModelValue, Value};
use indexmap::IndexMap;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, ExprKind, LetKind, Name};
use optc_ops::Array;
use std::rc::Rc;
use std::sync::Arc;

impl Evaluator<'_> {
    /// `shared cell = lstm_cell(hidden = 8)`
    pub(crate) fn shared_layer(&mut self, scope: &mut Scope, name: &Name, value: &Expr) -> Eval<()> {
        let Some(cx) = &self.params else {
            return self.fail(Diagnostic::error(Code("E0342"), name.span, "`shared` layers stand in a model or layer"));
        };
        let path = cx.leaf_path(&name.text);
        let saved = std::mem::replace(&mut self.constructing, true);
        let made = self.expr(scope, value);
        self.constructing = saved;
        let model = match made? {
            Value::Model(m) => ModelValue { shared_path: Some(path), ..(*m).clone() },
            Value::Fn(f) => match &*f {
                FnValue::Item(item) => match self.as_model(*item, Vec::new(), value.span) {
                    Some(m) => ModelValue { shared_path: Some(path), ..m },
                    None => return self.error("E0333", value.span, "a shared instance is a layer with its settings"),
                },
                _ => return self.error("E0333", value.span, "a shared instance is a layer with its settings"),
            },
            Value::Unknown => {
                scope.bind(name.text.clone(), Value::Unknown, LetKind::Let, name.span);
                return Ok(());
            }
            other => {
                return self.fail(Diagnostic::error(
                    Code("E0333"),
                    value.span,
                    format!("a shared instance is a layer with its settings, not {}", describe(&other)),
                ));
            }
        };
        scope.bind(name.text.clone(), Value::Model(Rc::new(model)), LetKind::Let, name.span);
        Ok(())
    }
    /// `cell.params` of a shared instance.
    pub(crate) fn shared_params(&mut self, model: &ModelValue, span: Span) -> Eval {
        if let Some(label) = &model.label
            && self.recorder.initializing.is_some()
        {
            return self.params_being_drawn(model, label, span);
        }
        let (Some(path), Some(cx)) = (&model.shared_path, &self.params) else {
            return self.fail(
                Diagnostic::error(Code("E0341"), span, "this model has no parameters yet")
                    .help("`init(model, x)` makes a tree of parameters, `model.with(p)` binds the model to one"),
            );
        };
        match &cx.mode {
            ParamMode::Apply(tree) => Ok(at_path(tree, path).unwrap_or(Value::Unknown)),
            ParamMode::Init(leaves) => {
                let prefix = format!("{path}.");
                let inner: Vec<(Arc<str>, Value)> = leaves
                    .iter()
                    .filter_map(|l| l.path.strip_prefix(&prefix).map(|p| (Arc::from(p), Value::Array(l.array.clone()))))
                    .collect();
                Ok(nest(&inner))
            }
        }
    }
    /// `net.params` where the parameters of `net` are being drawn: those that are not drawn yet are those of an evaluation before this one.
    fn params_being_drawn(&mut self, model: &ModelValue, label: &Arc<str>, span: Span) -> Eval {
        let prefix = format!("{label}.");
        let own = |leaves: &[ParamLeaf]| -> Vec<(Arc<str>, Array)> {
            leaves.iter().filter_map(|l| l.path.strip_prefix(&prefix).map(|p| (Arc::from(p), l.array.clone()))).collect()
        };
        let complete = self.fn_item(model.item).is_some_and(|f| {
            let given = |name: &str| model.args.iter().any(|a| a.name.as_deref() == Some(name));
            f.params.iter().all(|p| p.default.is_some() || given(&p.name.text))
        });
        if complete {
            // A model that needs no more arguments is called here.
            self.apply_model(&Rc::new(model.clone()), Vec::new(), span, None, None)?;
        }
        let checking = self.checking();
        let Some(init) = &mut self.recorder.initializing else { return Ok(Value::Unknown) };
        if !init.asked.contains(label) {
            init.asked.push(label.clone());
        }
        let (drawn, known) = (own(&init.leaves), own(&init.known));
        if known.is_empty() && !complete {
            init.early = true;
            if checking {
                return Ok(Value::Unknown);
            }
            if drawn.is_empty() {
                return self.fail(
                    Diagnostic::error(Code("E0341"), span, format!("the parameters of `{label}` are not known"))
                        .help(format!("call `{label}` in the loss: its first call draws them")),
                );
            }
        }
        let mut list: Vec<(Arc<str>, Value)> = Vec::new();
        let mut early = false;
        for (path, before) in &known {
            let array = match drawn.iter().find(|(p, _)| p == path) {
                Some((_, array)) => array.clone(),
                None if checking || before.node.is_some() => before.clone(),
                None => {
                    early = true;
                    self.zeros_like(before)
                }
            };
            list.push((path.clone(), Value::Array(array)));
        }
        let more = drawn.into_iter().filter(|(p, _)| !known.iter().any(|(q, _)| p == q));
        list.extend(more.map(|(path, array)| (path, Value::Array(array))));
        if let (true, Some(init)) = (early, &mut self.recorder.initializing) {
            init.early = true;
        }
        Ok(nest(&list))
    }
    /// The leaves of a model for these arguments, drawn with keys made from the one in force.
    ///
    /// # Errors
    /// Whatever is wrong in the model or its arguments.
    pub fn init_model(&mut self, model: &Value, args: Vec<CallArg>, span: Span) -> Eval<Vec<ParamLeaf>> {
        let model = match model {
            Value::Model(m) => (**m).clone(),
            Value::Fn(f) => match &**f {
                FnValue::Item(item) => match self.as_model(*item, Vec::new(), span) {
                    Some(m) => m,
                    None => return self.error("E0333", span, "only models and layers have parameters"),
                },
                _ => return self.error("E0333", span, "only models and layers have parameters"),
            },
            Value::Unknown => return Ok(Vec::new()),
            other => {
                return self.fail(Diagnostic::error(
                    Code("E0333"),
                    span,
                    format!("only models and layers have parameters, this is {}", describe(other)),
                ));
            }
        };
        let Some(item) = self.fn_item(model.item) else { return Ok(Vec::new()) };
        let mut all = model.args;
        all.extend(args);
        let cx = ParamCx {
            mode: ParamMode::Init(Vec::new()),
            path: Vec::new(),
            label: None,
            reuse: false,
            depth: self.depth,
            frozen: Vec::new(),
        };
        let (_, cx) = self.with_params(cx, |ev| ev.run_layer(model.item, &item, all, span))?;
        match cx.mode {
            ParamMode::Init(leaves) => Ok(leaves),
            ParamMode::Apply(_) => Ok(Vec::new()),
        }
    }
    /// The model bound to leaves given by path (with or without its label in front), as a value.
    pub fn bind_model(&mut self, model: &Value, leaves: &[(Arc<str>, Array)]) -> Value {
        let Value::Model(m) = model else { return model.clone() };
        if leaves.is_empty() && m.params.is_some() {
            // It was made with parameters of its own (`mlp().with(p)`), which stay.
            return model.clone();
        }
        let prefix = m.label.as_ref().map(|l| format!("{l}."));
        let inner: Vec<(Arc<str>, Value)> = leaves
            .iter()
            .map(|(path, array)| {
                let path = prefix.as_ref().and_then(|p| path.strip_prefix(p.as_str())).map_or_else(|| path.clone(), Arc::from);
                (path, Value::Array(array.clone()))
            })
            .collect();
        Value::Model(Rc::new(ModelValue { params: Some(nest(&inner)), dropping: false, ..(**m).clone() }))
    }
    /// `init(model, x, …)`: the tree of its leaves.
    pub(crate) fn init_call(&mut self, mut args: Vec<CallArg>, span: Span) -> Eval {
        if args.is_empty() {
            return self.error("E0331", span, "`init` needs a model and the arguments of a call");
        }
        let model = args.remove(0);
        if matches!(model.value, Value::Unknown) {
            return Ok(Value::Unknown);
        }
        let place = self.place_at(span);
        let saved = (self.key.clone(), std::mem::replace(&mut self.instance.place, place));
        if self.cx.emitting() {
            self.key = Some(self.draw_key(span));
        }
        let counters = std::mem::take(&mut self.counters);
        let leaves = self.init_model(&model.value, args, span);
        self.counters = counters;
        (self.key, self.instance.place) = saved;
        let list: Vec<(Arc<str>, Value)> = leaves?.into_iter().map(|l| (l.path, Value::Array(l.array))).collect();
        Ok(nest(&list))
    }
    /// `apply(model, p, x, …, training = …, keep_buffers = …)`.
    pub(crate) fn apply_call(&mut self, args: Vec<CallArg>, span: Span) -> Eval {
        let mut flags = [None, None];
        let mut rest = Vec::new();
        for arg in args {
            match (arg.name.as_deref(), &arg.value) {
                (Some("training"), Value::Bool(b)) => flags[0] = Some(*b),
                (Some("keep_buffers"), Value::Bool(b)) => flags[1] = Some(*b),
                _ => rest.push(arg),
            }
        }
        if rest.len() < 2 {
            return self.error("E0331", span, "`apply` needs a model, its parameters and the arguments of a call");
        }
        let (model, params) = (rest.remove(0), rest.remove(0));
        let bound = match &model.value {
            Value::Model(m) => ModelValue { params: Some(params.value.clone()), label: None, dropping: false, ..(**m).clone() },
            Value::Fn(f) => match &**f {
                FnValue::Item(item) => match self.as_model(*item, Vec::new(), span) {
                    Some(m) => ModelValue { params: Some(params.value.clone()), ..m },
                    None => return self.error("E0333", model.span, "`apply` takes a model"),
                },
                _ => return self.error("E0333", model.span, "`apply` takes a model"),
            },
            Value::Unknown => return Ok(Value::Unknown),
            other => {
                return self.fail(Diagnostic::error(
                    Code("E0333"),
                    model.span,
                    format!("`apply` takes a model, this is {}", describe(other)),
                ));
            }
        };
        let training = self.training;
        if let Some(flag) = flags[0] {
            self.training = flag;
        }
        let keep = flags[1] == Some(Some(true));
        let saved = std::mem::replace(&mut self.recorder.buffers, keep.then(IndexMap::new));
        let result = self.apply_model(&Rc::new(bound), rest, span, None, None);
        let buffers = std::mem::replace(&mut self.recorder.buffers, saved);
        self.training = training;
        let value = result?;
        if !keep {
            return Ok(value);
        }
        if matches!(params.value, Value::Unknown) {
            return Ok(Value::Tuple(Rc::new(vec![value, Value::Unknown])));
        }
        let mut leaves = crate::tree::leaves(&params.value);
        for (path, array) in buffers.unwrap_or_default() {
            match leaves.iter_mut().find(|(p, _)| *p == path) {
                Some((_, v)) => *v = Value::Array(array),
                None => leaves.push((path, Value::Array(array))),
            }
        }
        Ok(Value::Tuple(Rc::new(vec![value, nest(&leaves)])))
    }
}

/// Whether a value holds a model of a `train` that is not bound to parameters yet.
pub(crate) fn holds_unbound(value: &Value) -> bool {
    match value {
        Value::Model(m) => m.label.is_some() && m.params.is_none(),
        Value::Tuple(items) | Value::List(items) => items.iter().any(holds_unbound),
        Value::Record(fields) => fields.values().any(holds_unbound),
        Value::Fn(f) => match &**f {
            FnValue::Lambda { lambda, scope } => {
                let mut found = false;
                crate::walk::expr(&lambda.body, &mut |e| {
                    if let ExprKind::Name(n) = &e.kind {
                        found |= matches!(scope.get(n).map(|b| &b.value), Some(Value::Model(m)) if m.label.is_some() && m.params.is_none());
                    }
                    !found
                });
                found
            }
            _ => false,
        },
        _ => false,
    }
}
