//! Models and layers: parameters by path, buffers, metrics.

use crate::args::takes_array;
use crate::evaluator::{Eval, Evaluator, Instance};
use crate::scope::Scope;
use crate::tally::Metrics;
use crate::value::{CallArg, ModelValue, Value};
use indexmap::IndexMap;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ItemRef;
use optc_front::ast::{Expr, ExprId, ExprKind, FnItem, FnKind, ItemKind, Name};
use optc_front::modules::Def;
use optc_ops::Array;
use rustc_hash::FxHashMap;
use std::rc::Rc;
use std::sync::Arc;

/// A parameter or buffer of a model.
#[derive(Clone, Debug)]
pub struct ParamLeaf {
    /// Its path, joined by points, with the model's label in front if it has one (`net.linear.0.w`).
    pub path: Arc<str>,
    /// Its initial value.
    pub array: Array,
    /// Whether it is a buffer.
    pub buffer: bool,
    /// Whether it is a parameter that stays as it is.
    pub frozen: bool,
    /// Its declaration.
    pub span: Span,
    /// The call of the layer that declares it.
    pub call: Span,
}

/// How `param` statements are answered.
#[derive(Clone, Debug)]
pub enum ParamMode {
    /// Values are drawn; the leaves so far.
    Init(Vec<ParamLeaf>),
    /// Values come from a tree.
    Apply(Value),
}

/// Where in a model evaluation is.
#[derive(Clone, Debug)]
pub struct ParamCx {
    /// Where values come from.
    pub mode: ParamMode,
    /// Path so far.
    pub path: Vec<Arc<str>>,
    /// Label of the model, in front of recorded paths.
    pub label: Option<Arc<str>>,
    /// Whether a leaf that exists may be met again: the instance is shared, or the model was called before.
    pub reuse: bool,
    /// Nesting of graphs when it began: initial values are made in that graph.
    pub depth: usize,
    /// Patterns of the paths of frozen parameters.
    pub frozen: Vec<String>,
}

/// Models being initialized by [`Evaluator::initialize`].
#[derive(Clone, Debug)]
pub struct Initializing {
    /// The key initial values are drawn with.
    pub key: Array,
    /// Leaves so far.
    pub leaves: Vec<ParamLeaf>,
    /// Leaves of an evaluation before this one, where the parameters of a model are asked for before they are drawn; types alone in the second of three.
    pub known: Vec<ParamLeaf>,
    /// Whether some were asked for that are neither drawn nor known.
    pub early: bool,
    /// Models whose parameters were asked for. They may be run on a tree made of these alone, which then draws them.
    pub asked: Vec<Arc<str>>,
}

/// What bodies leave behind besides their value.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    /// New values of buffers by path (with the label of the model in front), where they are wanted.
    pub buffers: Option<IndexMap<Arc<str>, Array>>,
    /// Values of buffers as they were read from their trees, by path.
    pub seen: IndexMap<Arc<str>, Array>,
    /// Values of `metric` statements, where they are wanted.
    pub metrics: Option<Metrics>,
    /// Path under which metrics of functions are recorded, that of the layer that called them.
    pub place: Arc<str>,
    /// Whether metrics are left out at the moment: a body is run for several leaves, and one of them counts.
    pub muted: bool,
    /// Models being initialized.
    pub initializing: Option<Initializing>,
}

impl ParamCx {
    /// Freezes parameters below the path at hand.
    fn freeze(&mut self, patterns: &[(Arc<str>, Span)]) {
        for (pattern, _) in patterns {
            let pattern = self.leaf_path(pattern);
            self.frozen.push(pattern.to_string());
        }
    }
    /// The path of a leaf declared here, without label.
    pub(crate) fn leaf_path(&self, name: &str) -> Arc<str> {
        let mut parts: Vec<&str> = self.path.iter().map(|p| &**p).collect();
        parts.push(name);
        Arc::from(parts.join("."))
    }
    pub(crate) fn labeled(&self, path: &Arc<str>) -> Arc<str> {
        match &self.label {
            Some(label) => Arc::from(format!("{label}.{path}")),
            None => path.clone(),
        }
    }
}

/// A value in a tree by path.
pub fn at_path(tree: &Value, path: &str) -> Option<Value> {
    let mut value = tree.clone();
    for part in path.split('.').filter(|p| !p.is_empty()) {
        value = match &value {
            Value::Record(fields) => fields.get(part)?.clone(),
            Value::List(items) | Value::Tuple(items) => items.get(part.parse::<usize>().ok()?)?.clone(),
            // A tree that is not known while checking has all leaves.
            Value::Unknown => return Some(Value::Unknown),
            _ => return None,
        };
    }
    Some(value)
}

impl Evaluator<'_> {
    /// The model an item is with these settings, if it is one.
    pub(crate) fn as_model(&self, item: ItemRef, args: Vec<CallArg>, span: Span) -> Option<ModelValue> {
        let f = self.fn_item(item)?;
        matches!(f.kind, FnKind::Layer | FnKind::Model).then(|| ModelValue::new(item, args, span))
    }
    /// Calls a layer or model item: inside a model with all its arguments it runs, otherwise it is a value that waits for the rest.
    pub(crate) fn apply_layer(
        &mut self,
        item_ref: ItemRef,
        item: &FnItem,
        args: Vec<CallArg>,
        span: Span,
        place: Option<&Expr>,
        part: Option<&Name>,
    ) -> Eval {
        let given = |name: &str| args.iter().any(|a| a.name.as_deref() == Some(name));
        let positional = args.iter().filter(|a| a.name.is_none()).count();
        let unnamed: Vec<_> = item.params.iter().filter(|p| !given(&p.name.text)).collect();
        let complete = unnamed.iter().skip(positional).all(|p| p.default.is_some());
        let inside = self.params.is_some() && !self.constructing;
        if inside && complete {
            return self.nested_call(item_ref, item, args, span, place, part, &[]);
        }
        // Settings are given by position to the parameters that are no arrays.
        let mut settings: Vec<CallArg> = Vec::new();
        let mut free = item.params.iter().filter(|p| !takes_array(p) && !given(&p.name.text));
        let mut arrays = item.params.iter().filter(|p| takes_array(p) && !given(&p.name.text));
        for arg in args.iter().cloned() {
            if arg.name.is_some() {
                if !item.params.iter().any(|p| Some(&*p.name.text) == arg.name.as_deref()) {
                    // Reports the unknown name.
                    self.bind_sig(&item.name, item_ref.module, &item.params, vec![arg], span)?;
                    continue;
                }
                settings.push(arg);
                continue;
            }
            let array = matches!(&arg.value, Value::Array(a) if !a.shape.is_empty()) || matches!(&arg.value, Value::List(_));
            if array
                && self.constructing
                && let Some(p) = arrays.next()
            {
                settings.push(CallArg { name: Some(p.name.text.clone()), ..arg });
                continue;
            }
            match free.next() {
                Some(p) if !array => settings.push(CallArg { name: Some(p.name.text.clone()), ..arg }),
                _ if inside => {
                    // Inside a model an incomplete call is a mistake, not a value.
                    self.bind_sig(&item.name, item_ref.module, &item.params, args.clone(), span)?;
                    return Ok(Value::Unknown);
                }
                _ => return self.unbound(item, span),
            }
        }
        for arg in &settings {
            if let Some(p) = item.params.iter().find(|p| Some(&*p.name.text) == arg.name.as_deref()) {
                let scope = Scope::new(item_ref.module);
                self.check_range(p, &scope, &arg.value, arg.span)?;
            }
        }
        Ok(Value::Model(Rc::new(ModelValue::new(item_ref, settings, span))))
    }
    fn unbound(&mut self, item: &FnItem, span: Span) -> Eval {
        let name = &item.name.text;
        let (word, help) = match item.kind {
            FnKind::Layer => ("layer", format!("call it inside a model or layer, or bind it to parameters: `{name}(…).with(p)(x)`")),
            _ => (
                "model",
                format!("bind it to parameters: `{name}(…).with(p)(x)` or `apply({name}(…), p, x)`, with `p = init({name}(…), x)`"),
            ),
        };
        self.fail(
            Diagnostic::error(Code("E0341"), span, format!("the {word} `{name}` is called without parameters"))
                .at("not bound to parameters")
                .label(item.name.span, "declared here")
                .help(help),
        )
    }
    /// Calls a model value.
    pub(crate) fn apply_model(
        &mut self,
        model: &Rc<ModelValue>,
        args: Vec<CallArg>,
        span: Span,
        place: Option<&Expr>,
        part: Option<&Name>,
    ) -> Eval {
        let Some(item) = self.fn_item(model.item) else { return Ok(Value::Unknown) };
        let mut all = model.args.clone();
        if let Some(float) = model.float {
            for mut arg in args {
                arg.value = self.converted(&arg.value, DType::F32, float, arg.span)?;
                all.push(arg);
            }
            let model = Rc::new(ModelValue { float: None, args: Vec::new(), ..(**model).clone() });
            let result = self.with_float(float, |ev| ev.apply_model(&model, all, span, place, part))?;
            return if matches!(float, DType::BF16 | DType::F16) {
                self.converted(&result, float, self.cx.float, span)
            } else {
                Ok(result)
            };
        }
        all.extend(args);
        if let Some(tree) = &model.params {
            let asked = |i: &Initializing| model.label.as_ref().is_some_and(|label| i.asked.contains(label));
            if self.recorder.initializing.as_ref().is_some_and(asked) {
                let unbound = ModelValue { params: None, dropping: false, args: Vec::new(), ..(**model).clone() };
                let value = self.apply_model(&Rc::new(unbound), all.clone(), span, None, None)?;
                if matches!(tree, Value::Unknown) {
                    return Ok(value);
                }
            }
            let cx = ParamCx {
                mode: ParamMode::Apply(tree.clone()),
                path: Vec::new(),
                label: model.label.clone(),
                reuse: true,
                depth: self.depth,
                frozen: model.frozen.iter().map(|(p, _)| p.to_string()).collect(),
            };
            // What `.with` has bound is a model of its own: its buffers are not those of the one at hand.
            let buffers = if model.dropping { self.recorder.buffers.take() } else { None };
            let known = self.diagnostics.len();
            let result = self.with_params(cx, |ev| ev.run_layer(model.item, &item, all, span)).map(|(value, _)| value);
            if model.dropping {
                self.recorder.buffers = buffers;
            }
            if result.is_err() {
                let of_the_tree = |d: &Diagnostic| d.code.0 == "E0425" || d.code.0 == "E0420" && d.message.starts_with("the leaf");
                self.name_call(known, span, "called with these parameters", of_the_tree);
            }
            return result;
        }
        if let Some(path) = &model.shared_path
            && self.params.is_some()
        {
            let path: Vec<Arc<str>> = path.split('.').map(Arc::from).collect();
            let cx = self.params.as_mut().expect("checked above");
            let saved = (std::mem::replace(&mut cx.path, path), std::mem::replace(&mut cx.reuse, true));
            let frozen = cx.frozen.len();
            cx.freeze(&model.frozen);
            let result = self.run_layer(model.item, &item, all, span);
            if let Some(cx) = &mut self.params {
                (cx.path, cx.reuse) = saved;
                cx.frozen.truncate(frozen);
            }
            return result;
        }
        if let (Some(label), Some(init)) = (&model.label, &mut self.recorder.initializing) {
            let prefix = format!("{label}.");
            let known: Vec<ParamLeaf> = init
                .leaves
                .iter()
                .filter_map(|l| l.path.strip_prefix(&prefix).map(|p| ParamLeaf { path: Arc::from(p), ..l.clone() }))
                .collect();
            let count = known.len();
            let label = label.clone();
            let cx = ParamCx {
                mode: ParamMode::Init(known),
                path: Vec::new(),
                label: Some(label.clone()),
                reuse: count > 0,
                depth: self.depth,
                frozen: model.frozen.iter().map(|(p, _)| p.to_string()).collect(),
            };
            let (value, cx) = self.with_params(cx, |ev| ev.run_layer(model.item, &item, all, span))?;
            if let (ParamMode::Init(leaves), Some(init)) = (cx.mode, &mut self.recorder.initializing) {
                init.leaves
                    .extend(leaves.into_iter().skip(count).map(|l| ParamLeaf { path: Arc::from(format!("{label}.{}", l.path)), ..l }));
            }
            return Ok(value);
        }
        if self.params.is_some() {
            return self.nested_call(model.item, &item, all, span, place, part, &model.frozen);
        }
        self.unbound(&item, span)
    }
    /// The value with its arrays of element type `from` as arrays of `to`.
    pub(crate) fn converted(&mut self, value: &Value, from: DType, to: DType, span: Span) -> Eval {
        self.map_tree(value, span, &mut |ev, _, leaf| match leaf {
            Value::Array(a) if a.dtype == from && !a.weak => Ok(Value::Array(ev.cast_array(a, to))),
            other => Ok(other.clone()),
        })
    }
    /// Runs `f` with parameters answered by `cx`; gives `cx` back as `f` left it.
    pub(crate) fn with_params<T>(&mut self, cx: ParamCx, f: impl FnOnce(&mut Self) -> Eval<T>) -> Eval<(T, ParamCx)> {
        let saved = self.params.replace(cx);
        let result = f(self);
        let cx = std::mem::replace(&mut self.params, saved).expect("what was put in");
        result.map(|value| (value, cx))
    }
    /// A call inside a model or layer: it has its own part of the path.
    fn nested_call(
        &mut self,
        item_ref: ItemRef,
        item: &FnItem,
        args: Vec<CallArg>,
        span: Span,
        place: Option<&Expr>,
        part: Option<&Name>,
        frozen: &[(Arc<str>, Span)],
    ) -> Eval {
        let mut path: Vec<Arc<str>> = match (part, place) {
            (Some(name), _) => vec![name.text.clone()],
            (None, Some(e)) if self.instance.names.contains_key(&e.id) => self.instance.names[&e.id].split('.').map(Arc::from).collect(),
            _ => vec![item.name.text.clone()],
        };
        path.extend(self.instance.passes.iter().map(|n| Arc::from(n.to_string())));
        let cx = self.params.as_mut().expect("inside a model");
        let depth = cx.path.len();
        cx.path.extend(path);
        let count = cx.frozen.len();
        cx.freeze(frozen);
        let result = self.run_layer(item_ref, item, args, span);
        if let Some(cx) = &mut self.params {
            cx.path.truncate(depth);
            cx.frozen.truncate(count);
        }
        result
    }
    /// Evaluates the body of a layer or model; `self.params` says where parameters come from.
    pub(crate) fn run_layer(&mut self, item_ref: ItemRef, item: &FnItem, args: Vec<CallArg>, span: Span) -> Eval {
        let params = self.params.take();
        let sig = self.bind_sig(&item.name, item_ref.module, &item.params, args, span);
        self.params = params;
        let mut sig = sig?;
        let saved_draw = self.draw_shape.take();
        let instance =
            Instance { names: self.numbering(item_ref, item), passes: Vec::new(), buffers: Vec::new(), place: self.place_at(span) };
        let saved = std::mem::replace(&mut self.instance, instance);
        let in_script = std::mem::replace(&mut self.in_script, false);
        let result = self.enter(Some(item_ref), span, |ev| {
            if ev.checking()
                && let Some(ty) = &item.result
                && ev.frames.iter().filter(|f| f.item == Some(item_ref)).count() > 1
            {
                return ev.instance_of(&mut sig, ty, false);
            }
            ev.body(item, &mut sig)
        });
        self.in_script = in_script;
        self.instance = saved;
        self.draw_shape = saved_draw;
        result
    }
    /// Path parts of the layer calls in a body: several unnamed calls of one layer are numbered in textual order.
    pub(crate) fn numbering(&mut self, item_ref: ItemRef, item: &FnItem) -> Rc<FxHashMap<ExprId, Arc<str>>> {
        if let Some(names) = self.numbering.get(&item.body.id) {
            return names.clone();
        }
        let program = self.program;
        let layer_name = |callee: &Expr| -> Option<Arc<str>> {
            let (module, name) = match &callee.kind {
                ExprKind::Name(n) => (item_ref.module, n.clone()),
                ExprKind::Field(base, n) => match &base.kind {
                    ExprKind::Name(m) => match program.lookup(item_ref.module, m)? {
                        Def::Module(module) => (module, n.text.clone()),
                        Def::Item(_) => return None,
                    },
                    _ => return None,
                },
                _ => return None,
            };
            match program.lookup(module, &name)? {
                Def::Item(i) => match &program.item(i).kind {
                    ItemKind::Fn(f) if matches!(f.kind, FnKind::Layer | FnKind::Model) => Some(f.name.text.clone()),
                    _ => None,
                },
                Def::Module(_) => None,
            }
        };
        let mut calls: Vec<(ExprId, Arc<str>)> = Vec::new();
        let mut named: Vec<ExprId> = Vec::new();
        crate::walk::expr(&item.body, &mut |e| {
            match &e.kind {
                ExprKind::NameCall(inner, _) => named.push(inner.id),
                ExprKind::Call { callee, .. } if !named.contains(&e.id) => {
                    if let Some(name) = layer_name(callee) {
                        calls.push((e.id, name));
                    }
                }
                ExprKind::Pipe(_, f) if matches!(f.kind, ExprKind::Name(_) | ExprKind::Field(..)) => {
                    if let Some(name) = layer_name(f) {
                        calls.push((f.id, name));
                    }
                }
                _ => {}
            }
            true
        });
        let mut names = FxHashMap::default();
        for (id, name) in &calls {
            let same: Vec<&ExprId> = calls.iter().filter(|(_, n)| n == name).map(|(i, _)| i).collect();
            let part = match same.iter().position(|i| *i == id) {
                Some(k) if same.len() > 1 => Arc::from(format!("{name}.{k}")),
                _ => name.clone(),
            };
            names.insert(*id, part);
        }
        let names = Rc::new(names);
        self.numbering.insert(item.body.id, names.clone());
        names
    }
}
