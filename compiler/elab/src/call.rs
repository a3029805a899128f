//! Calls of everything that can be called.

use crate::batching::transformed;
use crate::evaluator::{Eval, Evaluator, Frame, Instance};
use crate::scope::Scope;
use crate::tree::describe;
use crate::types::{Sig, What};
use crate::value::{BlockValue, CallArg, FnValue, ModelValue, OptArg, OptimizerValue, ScheduleValue, Transform, Value, WrtArg};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ItemRef;
use optc_front::ast::{self, Expr, ExprKind, FnItem, FnKind, ItemKind, LetKind, Name};
use optc_ops::Dim;
use std::rc::Rc;
use std::sync::Arc;

/// Calls nested deeper than this are taken for a recursion without end.
const CALL_LIMIT: usize = 100;

impl Evaluator<'_> {
    /// A call. `given` is the value piped in, the first argument.
    pub(crate) fn call(&mut self, scope: &mut Scope, e: &Expr, part: Option<&Name>, given: Option<CallArg>) -> Eval {
        let ExprKind::Call { callee, args } = &e.kind else {
            if let ExprKind::NameCall(inner, name) = &e.kind {
                return self.call(scope, inner, Some(name), given);
            }
            // `as name` on something that is no call, or a pipe into a bare function.
            let value = if given.is_some() { self.callee(scope, e)? } else { self.expr(scope, e)? };
            return match given {
                Some(arg) => self.apply_at(&value, vec![arg], e.span, Some(e), part),
                None => match part {
                    None => Ok(value),
                    Some(name) => self.fail(
                        Diagnostic::error(Code("E0330"), name.span, "`as` names a call of a layer, or converts to an element type")
                            .help("`linear(x, 10) as head`, `x as f32`"),
                    ),
                },
            };
        };
        if let ExprKind::Name(name) = &callee.kind
            && &**name == "q8"
            && self.lookup(scope, name, callee.span)?.is_none()
        {
            return self.quantized(scope, args, e.span);
        }
        if self.in_optimizer
            && let Some(value) = self.of_all_leaves(scope, e, callee, args)?
        {
            return Ok(value);
        }
        if let ExprKind::Field(base, method) = &callee.kind {
            if let Some(name) = self.namespaced(scope, base, method) {
                let args = self.call_args(scope, args, given)?;
                return self.builtin_at(&name, args, e.span);
            }
            return self.method(scope, e, base, method, args, part, given);
        }
        let function = self.callee(scope, callee)?;
        self.call_value(scope, function, e, args, part, given)
    }
    fn call_value(
        &mut self,
        scope: &mut Scope,
        function: Value,
        e: &Expr,
        args: &[ast::Arg],
        part: Option<&Name>,
        given: Option<CallArg>,
    ) -> Eval {
        match &function {
            Value::Fn(f) => match &**f {
                FnValue::Item(item) if self.fn_item(*item).is_some_and(|f| f.kind == FnKind::Optimizer) => {
                    let args = args
                        .iter()
                        .map(|a| OptArg {
                            name: a.name.as_ref().map(|n| n.text.clone()),
                            expr: a.value.clone(),
                            scope: scope.clone(),
                            leaves: None,
                        })
                        .collect();
                    let single = OptimizerValue::Single { item: *item, args, span: e.span };
                    return Ok(Value::Optimizer(Rc::new(single)));
                }
                FnValue::Builtin(name)
                    if matches!(&**name, "grad" | "value_and_grad" | "jacobian" | "hessian") && args.iter().any(|a| a.name.is_some()) =>
                {
                    // `wrt` names parameters, not variables.
                    let (mut rest, mut wrt) = (Vec::new(), Vec::new());
                    for arg in args {
                        if arg.name.as_ref().is_some_and(|n| &*n.text == "wrt") {
                            wrt = self.wrt_args(&arg.value)?;
                        } else {
                            rest.push(arg.clone());
                        }
                    }
                    let args = self.call_args(scope, &rest, given)?;
                    let made = self.builtin_at(name, args, e.span)?;
                    return Ok(if wrt.is_empty() { made } else { with_wrt(&made, &wrt) });
                }
                FnValue::Builtin(name) if crate::sources::is_source(name) => {
                    let args = self.call_args(scope, args, given)?;
                    return self.source(scope, name, args, e.span);
                }
                FnValue::Builtin(name) if matches!(&**name, "init" | "apply" | "freeze") => {
                    // The model given is a value here, also inside a model.
                    let args = self.constructing_args(scope, args, given)?;
                    return self.apply_at(&function, args, e.span, Some(e), part);
                }
                _ => {}
            },
            Value::Block(block) => {
                let args = self.call_args(scope, args, given)?;
                return Ok(Value::Block(Rc::new(BlockValue { args, ..(**block).clone() })));
            }
            _ => {}
        }
        let args = self.call_args(scope, args, given)?;
        self.apply_at(&function, args, e.span, Some(e), part)
    }
    fn constructing_args(&mut self, scope: &mut Scope, args: &[ast::Arg], given: Option<CallArg>) -> Eval<Vec<CallArg>> {
        let saved = std::mem::replace(&mut self.constructing, true);
        let first = args.first().filter(|_| given.is_none());
        let mut out: Eval<Vec<CallArg>> = Ok(given.into_iter().collect());
        if let Some(first) = first {
            let value = self.expr(scope, &first.value);
            out = value.map(|value| vec![CallArg { name: first.name.as_ref().map(|n| n.text.clone()), value, span: first.value.span }]);
        }
        self.constructing = saved;
        let mut out = out?;
        let rest = if first.is_some() { &args[1..] } else { args };
        out.extend(self.call_args(scope, rest, None)?);
        Ok(out)
    }
    /// Evaluates arguments.
    pub(crate) fn call_args(&mut self, scope: &mut Scope, args: &[ast::Arg], given: Option<CallArg>) -> Eval<Vec<CallArg>> {
        let saved = std::mem::replace(&mut self.constructing, false);
        let mut out: Vec<CallArg> = given.into_iter().collect();
        let mut result = Ok(());
        for arg in args {
            match self.expr(scope, &arg.value) {
                Ok(value) => out.push(CallArg { name: arg.name.as_ref().map(|n| n.text.clone()), value, span: arg.value.span }),
                Err(stop) => {
                    result = Err(stop);
                    break;
                }
            }
        }
        self.constructing = saved;
        result.map(|()| out)
    }
    /// `base.method(args)`: a value's own fields and methods come before functions in scope.
    fn method(
        &mut self,
        scope: &mut Scope,
        e: &Expr,
        base: &Expr,
        method: &Name,
        args: &[ast::Arg],
        part: Option<&Name>,
        given: Option<CallArg>,
    ) -> Eval {
        let constructing = std::mem::replace(&mut self.constructing, matches!(&*method.text, "with" | "freeze"));
        let value = self.expr(scope, base);
        self.constructing = constructing;
        let value = value?;
        match &value {
            Value::Module(module) => {
                let function = self.module_member(*module, &method.text, method.span)?;
                return self.call_value(scope, function, e, args, part, given);
            }
            Value::Record(fields)
                if fields.contains_key(&method.text)
                    && matches!(fields[&method.text], Value::Fn(_) | Value::Model(_) | Value::Schedule(_)) =>
            {
                let function = fields[&method.text].clone();
                return self.call_value(scope, function, e, args, part, given);
            }
            Value::Model(model) if &*method.text == "with" => {
                let args = self.call_args(scope, args, given)?;
                return match args.into_iter().next() {
                    Some(arg) => Ok(Value::Model(Rc::new(ModelValue { params: Some(arg.value), dropping: true, ..(**model).clone() }))),
                    None => self.error("E0331", e.span, "`with` needs the tree of parameters"),
                };
            }
            Value::Fn(f) if &*method.text == "with" => {
                if let FnValue::Item(item) = &**f
                    && let Some(model) = self.as_model(*item, Vec::new(), e.span)
                {
                    let args = self.call_args(scope, args, given.clone())?;
                    if let Some(arg) = args.into_iter().next() {
                        return Ok(Value::Model(Rc::new(ModelValue { params: Some(arg.value), dropping: true, ..model })));
                    }
                }
            }
            Value::List(_) | Value::Tuple(_) | Value::Array(_) | Value::Series(_) if &*method.text == "join" => {
                let args = self.call_args(scope, args, given)?;
                return self.join_text(&value, &args, e.span);
            }
            Value::List(_) if matches!(&*method.text, "push" | "pop") => {
                let args = self.call_args(scope, args, given)?;
                return self.list_method(scope, base, value, method, args, e.span);
            }
            Value::Unknown => {
                self.call_args(scope, args, given)?;
                return Ok(Value::Unknown);
            }
            _ => {}
        }
        let mut all = self.call_args(scope, args, given)?;
        if let Some(result) = self.host_method(scope, &value, base, method, &all, e.span)? {
            return Ok(result);
        }
        let function = match self.function_named(scope, &method.text, method.span)? {
            Some(f) => f,
            None => {
                let what = describe(&value);
                let d = Diagnostic::error(
                    Code("E0224"),
                    method.span,
                    format!("{what} has no method `{}`, and there is no such function", method.text),
                );
                if matches!(value, Value::Optimizer(_)) && &*method.text == "step" {
                    return self.fail(
                        d.help("`start` makes what steps: `var o = sgd(lr = 0.1).start(p)`, then `o <- o.step(f)`; the weights are `o.w`"),
                    );
                }
                return self.fail(match crate::names::nearest(&method.text, optc_ops::operations()) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d,
                });
            }
        };
        all.insert(0, CallArg { name: None, value, span: base.span });
        self.apply_at(&function, all, e.span, Some(e), part)
    }
    /// `xs.push(v)`, `xs.pop()`, `xs.pop(i)`.
    fn list_method(&mut self, scope: &mut Scope, base: &Expr, value: Value, method: &Name, args: Vec<CallArg>, span: Span) -> Eval {
        let Value::List(mut items) = value else { return Ok(Value::Unknown) };
        if let ExprKind::Name(name) = &base.kind
            && &*method.text == "push"
            && scope.get(name).is_some_and(|b| b.kind == LetKind::Var)
        {
            // The variable gives the list away for now, so that it grows in place.
            scope.set(name, Value::None);
        }
        let list = Rc::make_mut(&mut items);
        let result = if &*method.text == "push" {
            for arg in args {
                self.keep_named(&arg.value);
                if self.may_look() && self.script.claims.in_loop() {
                    self.script.pushed.push(arg.value.clone());
                }
                list.push(arg.value);
            }
            Value::None
        } else {
            let at = match args.first() {
                None => list.len() as i64 - 1,
                Some(arg) => match self.looked_at(arg.value.clone(), arg.span)? {
                    Value::Int(d) => d.known().unwrap_or(0),
                    _ => return self.error("E0333", arg.span, "an index into a list is an integer"),
                },
            };
            let n = list.len() as i64;
            match (-n..n).contains(&at) {
                true => list.remove(at.rem_euclid(n) as usize),
                false if self.checking() && n == 0 => Value::Unknown,
                false => return self.fail(Diagnostic::error(Code("E0531"), span, format!("index {at} is outside a list of {n}"))),
            }
        };
        self.assign_path(scope, base, Value::List(items), span)?;
        Ok(result)
    }
    /// `left |> b`
    pub(crate) fn pipe(&mut self, scope: &mut Scope, left: Value, at: Span, b: &Expr) -> Eval {
        if let Some(first) = self.as_optimizer(&left, at) {
            let right = self.expr(scope, b)?;
            let Some(second) = self.as_optimizer(&right, b.span) else {
                return self.fail(
                    Diagnostic::error(Code("E0333"), b.span, "an optimizer is chained with another optimizer")
                        .at(format!("this is {}", describe(&right)))
                        .label(at, "an optimizer"),
                );
            };
            let mut parts = Vec::new();
            for part in [first, second] {
                match &*part {
                    OptimizerValue::Chain(inner) => parts.extend(inner.iter().cloned()),
                    _ => parts.push(part),
                }
            }
            return Ok(Value::Optimizer(Rc::new(OptimizerValue::Chain(parts))));
        }
        let given = CallArg { name: None, value: left, span: at };
        self.call(scope, b, None, Some(given))
    }
    pub(crate) fn as_optimizer(&mut self, value: &Value, span: Span) -> Option<Rc<OptimizerValue>> {
        match value {
            Value::Optimizer(o) => Some(o.clone()),
            Value::Fn(f) => match &**f {
                FnValue::Item(item) if self.fn_item(*item)?.kind == FnKind::Optimizer => {
                    Some(Rc::new(OptimizerValue::Single { item: *item, args: Vec::new(), span }))
                }
                _ => None,
            },
            _ => None,
        }
    }
    /// What an expression in the place of a function stands for: there a variable that is no function hides nothing.
    pub(crate) fn callee(&mut self, scope: &mut Scope, e: &Expr) -> Eval {
        if let ExprKind::Name(name) = &e.kind
            && let Some(function) = self.function_named(scope, name, e.span)?
        {
            return Ok(function);
        }
        self.expr(scope, e)
    }
    /// The function of a name: of bindings those that can be called, else what the name would stand for without them.
    pub(crate) fn function_named(&mut self, scope: &Scope, name: &str, span: Span) -> Eval<Option<Value>> {
        let value = self.lookup(scope, name, span)?;
        if scope.get(name).is_none() || value.as_ref().is_none_or(can_be_called) {
            return Ok(value);
        }
        match self.lookup(&Scope::new(scope.module), name, span)? {
            Some(outer) if can_be_called(&outer) => Ok(Some(outer)),
            _ => Ok(value),
        }
    }
    /// The function-like item.
    pub(crate) fn fn_item(&self, item: ItemRef) -> Option<Arc<FnItem>> {
        match &self.program.item(item).kind {
            ItemKind::Fn(f) => Some(f.clone()),
            _ => None,
        }
    }
    /// Calls anything that can be called.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub fn apply(&mut self, callee: &Value, args: Vec<CallArg>, span: Span) -> Eval {
        self.apply_at(callee, args, span, None, None)
    }
    pub(crate) fn apply_at(&mut self, callee: &Value, args: Vec<CallArg>, span: Span, place: Option<&Expr>, part: Option<&Name>) -> Eval {
        match callee {
            Value::Unknown => Ok(Value::Unknown),
            Value::Fn(f) => match &**f {
                FnValue::Builtin(name) => self.builtin_at(name, args, span),
                FnValue::Item(item) => self.apply_item(*item, args, span, place, part),
                FnValue::Lambda { lambda, scope } => {
                    let mut scope = scope.clone();
                    scope.enter_literal();
                    let mut args = args;
                    if lambda.params.len() != args.len() {
                        // A tuple may be taken apart by several names.
                        match args.as_slice() {
                            [CallArg { value: Value::Tuple(items), span, .. }] if items.len() == lambda.params.len() => {
                                let span = *span;
                                args = items.iter().map(|v| CallArg { name: None, value: v.clone(), span }).collect();
                            }
                            _ => {
                                let code = if args.len() < lambda.params.len() { "E0331" } else { "E0332" };
                                return self.fail(
                                    Diagnostic::error(
                                        Code(code),
                                        span,
                                        format!(
                                            "this function takes {} argument{}, {} given",
                                            lambda.params.len(),
                                            if lambda.params.len() == 1 { "" } else { "s" },
                                            args.len()
                                        ),
                                    )
                                    .label(lambda.span, "the function"),
                                );
                            }
                        }
                    }
                    for (p, arg) in lambda.params.iter().zip(args) {
                        self.bind_pattern(&mut scope, p, arg.value, LetKind::Let)?;
                    }
                    self.enter(None, span, |ev| {
                        let place = ev.place_at(span);
                        let saved = std::mem::replace(&mut ev.instance.place, place);
                        // A function made in the body of an optimizer speaks of all leaves wherever it is called.
                        let made = scope.get(crate::optimizer::BODY).is_some() && ev.opt.is_some();
                        let outer = ev.in_optimizer;
                        ev.in_optimizer |= made;
                        let result = ev.expr(&mut scope, &lambda.body);
                        ev.in_optimizer = outer;
                        ev.instance.place = saved;
                        result
                    })
                }
                FnValue::Transformed(transform) => self.apply_transform(transform, args, span),
            },
            Value::Model(model) => self.apply_model(model, args, span, place, part),
            Value::Schedule(_) => {
                let Some(arg) = args.into_iter().next() else {
                    return self.fail(Diagnostic::error(Code("E0331"), span, "a schedule is called with a step").help("`s(step - 100)`"));
                };
                self.schedule_at(callee, arg.value, span)
            }
            Value::List(items) => {
                // A list of functions or models (several seeds of a run) is called element by element.
                let mut out = Vec::new();
                for (k, item) in items.iter().enumerate() {
                    self.counters.push(Value::Int(k.into()));
                    let result = self.apply(item, args.clone(), span);
                    self.counters.pop();
                    out.push(result?);
                }
                self.list(out, false, span)
            }
            other => {
                let what = describe(other);
                let at = match place.map(|e| &e.kind) {
                    Some(ExprKind::Call { callee, .. }) => callee.span,
                    _ => span,
                };
                let d = Diagnostic::error(Code("E0330"), at, format!("{what} cannot be called")).at("not a function");
                self.fail(if matches!(other, Value::Array(_)) {
                    d.help("elements are read with brackets: `x[i]`; a product needs `*`")
                } else {
                    d
                })
            }
        }
    }
    /// Runs `f` as a call: limits the depth, keeps what belongs to the caller.
    pub(crate) fn enter<T>(&mut self, item: Option<ItemRef>, span: Span, f: impl FnOnce(&mut Self) -> Eval<T>) -> Eval<T> {
        let limit = if self.checking() { CALL_LIMIT / 2 } else { CALL_LIMIT };
        if self.frames.len() >= limit {
            return self.fail(
                Diagnostic::error(Code("E0350"), span, format!("calls are nested more than {limit} deep"))
                    .help("functions are expanded where they are called, so a recursion must end at compile time"),
            );
        }
        let known = self.diagnostics.len();
        self.frames.push(Frame { item, span });
        let yields = std::mem::take(&mut self.yields);
        let exits = std::mem::take(&mut self.exits);
        let constructing = std::mem::replace(&mut self.constructing, false);
        let result = f(self);
        self.constructing = constructing;
        self.exits = exits;
        self.yields = yields;
        self.frames.pop();
        if result.is_err() {
            // One call is enough: the innermost of the file that calls.
            let elsewhere =
                |d: &Diagnostic| d.primary.span.source != span.source && !d.secondary.iter().any(|l| l.span.source == span.source);
            self.name_call(known, span, "in this call", elsewhere);
        }
        result
    }
    /// Adds the call to the mistakes found since there were `known`, those that are `wanted`: a mistake that shows in another file is often one of the call.
    pub(crate) fn name_call(&mut self, known: usize, call: Span, words: &str, wanted: impl Fn(&Diagnostic) -> bool) {
        for d in self.diagnostics.split_off(known.min(self.diagnostics.len())) {
            let seen = d.primary.span == call || d.secondary.iter().any(|l| l.span == call) || d.secondary.len() > 3;
            self.report(if seen || !wanted(&d) { d } else { d.label(call, words) });
        }
    }
    fn apply_item(&mut self, item_ref: ItemRef, args: Vec<CallArg>, span: Span, place: Option<&Expr>, part: Option<&Name>) -> Eval {
        if let ItemKind::Extern(e) = &self.program.item(item_ref).kind {
            return self.call_extern(item_ref, e, args, span);
        }
        let Some(item) = self.fn_item(item_ref) else { return self.error("E0330", span, "this item cannot be called") };
        match item.kind {
            FnKind::Fn | FnKind::Loss => self.call_fn(item_ref, &item, args, span),
            FnKind::HostFn => {
                if !self.in_script {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0349"),
                            span,
                            format!("`{}` is a host function: compiled code cannot call it", item.name.text),
                        )
                        .label(item.name.span, "declared here")
                        .help("call it in the experiment and pass its result on"),
                    );
                }
                self.call_fn(item_ref, &item, args, span)
            }
            FnKind::Schedule => {
                self.bind_sig(&item.name, item_ref.module, &item.params, args.clone(), span)?;
                Ok(Value::Schedule(Rc::new(ScheduleValue::Item { item: item_ref, args, span })))
            }
            FnKind::Optimizer => {
                let args = args
                    .into_iter()
                    .map(|a| {
                        let mut scope = Scope::new(item_ref.module);
                        scope.bind("(argument)", a.value, LetKind::Let, a.span);
                        OptArg {
                            name: a.name,
                            expr: Expr { kind: ExprKind::Name("(argument)".into()), span: a.span, id: Default::default() },
                            scope,
                            leaves: None,
                        }
                    })
                    .collect();
                Ok(Value::Optimizer(Rc::new(OptimizerValue::Single { item: item_ref, args, span })))
            }
            FnKind::Layer | FnKind::Model => self.apply_layer(item_ref, &item, args, span, place, part),
        }
    }
    fn call_fn(&mut self, item_ref: ItemRef, item: &FnItem, args: Vec<CallArg>, span: Span) -> Eval {
        // A model that a function is given may draw its parameters there.
        let follow = self.recorder.initializing.is_some() && args.iter().any(|a| crate::model_tree::holds_unbound(&a.value));
        let mut sig = self.bind_sig(&item.name, item_ref.module, &item.params, args, span)?;
        if self.checking() {
            if let Some(result) = item.result.as_ref().filter(|_| !follow) {
                return self.instance_of(&mut sig, result, false);
            }
            if self.frames.iter().any(|f| f.item == Some(item_ref)) {
                return Ok(Value::Unknown);
            }
        }
        let known = self.diagnostics.len();
        let instance = Instance { place: self.place_at(span), ..Instance::default() };
        let saved = std::mem::replace(&mut self.instance, instance);
        let place = self.metric_place();
        let place = std::mem::replace(&mut self.recorder.place, place);
        let params = self.params.take();
        let in_optimizer = std::mem::replace(&mut self.in_optimizer, false);
        let in_script = self.in_script;
        self.in_script &= item.kind == FnKind::HostFn;
        for param in &item.params {
            if let Some(binding) = sig.scope.get(&param.name.text) {
                self.keep_named(&binding.value);
            }
        }
        let result = self.enter(Some(item_ref), span, |ev| match &item.gradient {
            Some(gradient) if !ev.checking() => ev.custom_call(item, gradient, &mut sig, span),
            _ => ev.body(item, &mut sig),
        });
        self.in_script = in_script;
        self.in_optimizer = in_optimizer;
        self.params = params;
        self.recorder.place = place;
        self.instance = saved;
        if result.is_err() && !self.checking() && self.diagnostics.len() == known + 1 {
            // The mistake shows in the function, but the call may be to blame.
            let last = self.diagnostics.last_mut().expect("just added");
            if last.secondary.len() < 4 && last.primary.span != span && !last.secondary.iter().any(|l| l.span == span) {
                let label = last.clone().label(span, "in this call");
                *last = label;
            }
        }
        result
    }
    /// The value of an item's body with its parameters bound, checked against the declared result.
    pub(crate) fn body(&mut self, item: &FnItem, sig: &mut Sig) -> Eval {
        let mut scope = sig.scope.clone();
        scope.push();
        let value = self.expr(&mut scope, &item.body)?;
        let span = last_span(&item.body);
        let value = match &item.result {
            Some(ty) => self.match_type(sig, ty, value, span, &What::Result(&item.name.text))?,
            None => value,
        };
        if item.kind == FnKind::Loss {
            self.scalar_loss(item, &value, span)?;
        }
        Ok(value)
    }
    fn scalar_loss(&mut self, item: &FnItem, value: &Value, span: Span) -> Eval<()> {
        let first = match value {
            Value::Tuple(items) => items.first().cloned().unwrap_or(Value::None),
            v => v.clone(),
        };
        let fine = match &first {
            Value::Array(a) => a.shape.is_empty() && a.dtype.is_float(),
            Value::Float(_) | Value::Int(_) | Value::Unknown => true,
            _ => false,
        };
        if fine {
            return Ok(());
        }
        let place = item.result.as_ref().map_or(span, |t| t.span);
        self.fail(
            Diagnostic::error(
                Code("E0340"),
                span,
                format!("the loss `{}` must be a float scalar, but is {}", item.name.text, describe(&first)),
            )
            .at(describe(&first))
            .label(place, "its result")
            .help("reduce it: `mean(…)` or `sum(…)`"),
        )
    }

    /// A schedule where a number is needed: its value at the step in force, if there is one.
    pub(crate) fn schedule_now(&mut self, value: &Value, span: Span) -> Eval {
        match (&self.step, value) {
            (Some(step), Value::Schedule(_)) => {
                let step = step.clone();
                self.schedule_at(value, step, span)
            }
            _ => Ok(value.clone()),
        }
    }
    /// The value of a schedule at a step.
    ///
    /// # Errors
    /// Mistakes in its body.
    pub fn schedule_at(&mut self, schedule: &Value, step: Value, span: Span) -> Eval {
        let Value::Schedule(s) = schedule else { return Ok(schedule.clone()) };
        match &**s {
            ScheduleValue::Binary(op, a, b, at) => {
                self.guard(*at)?;
                let x = self.schedule_at(a, step.clone(), span)?;
                let y = self.schedule_at(b, step, span)?;
                self.arithmetic(*op, x, y, *at)
            }
            ScheduleValue::Neg(a, at) => {
                let x = self.schedule_at(a, step, span)?;
                self.prefix(ast::UnaryOp::Neg, x, *at)
            }
            ScheduleValue::Item { item, args, span: made } => {
                let Some(f) = self.fn_item(*item) else { return Ok(Value::Unknown) };
                let mut sig = self.bind_sig(&f.name, item.module, &f.params, args.clone(), *made)?;
                sig.scope.bind("step", step.clone(), LetKind::Let, span);
                let saved = self.step.replace(step);
                let result = self.enter(Some(*item), span, |ev| ev.body(&f, &mut sig));
                self.step = saved;
                result
            }
        }
    }
    /// Sizes of the dimensions of an array.
    pub(crate) fn known_shape(&self, shape: &[Dim]) -> Vec<usize> {
        shape.iter().map(|d| d.known().unwrap_or(0).max(0) as usize).collect()
    }
}

/// A gradient, Jacobian or Hessian with its `wrt`.
fn with_wrt(made: &Value, wrt: &[WrtArg]) -> Value {
    let Value::Fn(function) = made else { return made.clone() };
    let wrt = wrt.to_vec();
    match &**function {
        FnValue::Transformed(Transform::Grad { f, value, .. }) => transformed(Transform::Grad { f: f.clone(), wrt, value: *value }),
        FnValue::Transformed(Transform::Jacobian { f, hessian, .. }) => {
            transformed(Transform::Jacobian { f: f.clone(), wrt, hessian: *hessian })
        }
        _ => made.clone(),
    }
}

/// The place of the value of a body: its last expression.
pub(crate) fn last_span(e: &Expr) -> Span {
    match &e.kind {
        ExprKind::Block(b) => match b.stmts.last().map(|s| (&s.kind, s.span)) {
            Some((ast::StmtKind::Expr(e), _)) => last_span(e),
            Some((_, span)) => span,
            None => b.span,
        },
        _ => e.span,
    }
}

/// Whether a call of the value has a meaning.
fn can_be_called(value: &Value) -> bool {
    match value {
        Value::Fn(_) | Value::Model(_) | Value::Schedule(_) | Value::Block(_) | Value::Unknown => true,
        Value::List(items) => !items.is_empty() && items.iter().all(can_be_called),
        _ => false,
    }
}
