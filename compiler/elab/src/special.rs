//! Built-in operations that work on functions, models, lists and the context; all others go to the array operations.

use crate::batching::{MapAxes, transformed};
use crate::evaluator::{Eval, Evaluator};
use crate::lists::joins_lists;
use crate::tree::describe;
use crate::value::{CallArg, FnValue, Residuals, Transform, Value};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{FnKind, ItemKind};
use optc_ir::graph::Op;
use optc_ops::Dim;
use std::rc::Rc;

impl Evaluator<'_> {
    /// Calls a built-in operation.
    pub(crate) fn builtin_at(&mut self, name: &str, mut args: Vec<CallArg>, span: Span) -> Eval {
        if let Some(op) = name.strip_prefix("tree.") {
            return self.tree_call(op, args, span);
        }
        if matches!(name, "vmap" | "grad" | "value_and_grad" | "jacobian" | "hessian" | "jvp" | "vjp" | "hvp" | "checkpoint")
            && let Some(f) = args.first()
        {
            self.compiled_function(name, f)?;
        }
        match name {
            "vmap" => self.vmap(args, span),
            "hvp" => self.hvp_call(args, span),
            "grad" | "value_and_grad" | "jacobian" | "hessian" => {
                let Some(f) = args.first() else { return self.error("E0331", span, format!("`{name}` needs a function")) };
                if !callable(&f.value) {
                    let what = describe(&f.value);
                    return self.fail(
                        Diagnostic::error(Code("E0333"), f.span, format!("`{name}` takes a function, this is {what}"))
                            .help(format!("`{name}(f)(x)`, or `{name}(x -> …)(x)`")),
                    );
                }
                let f = f.value.clone();
                let mut wrt = Vec::new();
                for arg in &args[1..] {
                    match (&arg.name, &arg.value) {
                        (Some(n), value) if &**n == "wrt" => match value {
                            Value::Int(d) => wrt.push(crate::value::WrtArg::Position(d.known().unwrap_or(0).max(0) as usize)),
                            Value::Str(s) => wrt.push(crate::value::WrtArg::Name(s.clone())),
                            Value::Tuple(items) | Value::List(items) => {
                                for item in items.iter() {
                                    match item {
                                        Value::Int(d) => wrt.push(crate::value::WrtArg::Position(d.known().unwrap_or(0).max(0) as usize)),
                                        Value::Str(s) => wrt.push(crate::value::WrtArg::Name(s.clone())),
                                        _ => return self.error("E0333", arg.span, "`wrt` names parameters of the function"),
                                    }
                                }
                            }
                            _ => return self.error("E0333", arg.span, "`wrt` names parameters of the function"),
                        },
                        (Some(n), _) => {
                            return self.fail(Diagnostic::error(Code("E0332"), arg.span, format!("`{name}` has no argument `{n}`")).help(
                                format!("parameters are named by `wrt`: `{name}(f, wrt = b)(x, y)`, `{name}(f, wrt = (a, b))(x, y)`"),
                            ));
                        }
                        (None, _) => {
                            return self.fail(
                                Diagnostic::error(Code("E0332"), arg.span, format!("`{name}` takes a function and `wrt`"))
                                    .help(format!("it gives a function, which takes the arguments: `{name}(f)(x, y)`")),
                            );
                        }
                    }
                }
                Ok(transformed(match name {
                    "jacobian" | "hessian" => Transform::Jacobian { f, wrt, hessian: name == "hessian" },
                    _ => Transform::Grad { f, wrt, value: name == "value_and_grad" },
                }))
            }
            "checkpoint" => match args.as_slice() {
                [f, rest @ ..] if callable(&f.value) && rest.len() <= 1 => {
                    let residuals = match rest {
                        [] => Residuals::Recompute,
                        [policy] if policy.name.as_deref() != Some("residuals") => {
                            let d = Diagnostic::error(Code("E0332"), policy.span, "`checkpoint` takes a function and `residuals`");
                            return self.fail(d.help("it gives a function, which takes the arguments: `checkpoint(f)(x)`"));
                        }
                        [policy, ..] => match &policy.value {
                            Value::Str(word) if &**word == "recompute" => Residuals::Recompute,
                            Value::Str(word) if &**word == "swap" => Residuals::Swap,
                            Value::Str(word) if &**word == "keep" => Residuals::Keep,
                            Value::Unknown => Residuals::Recompute,
                            _ => {
                                let d = Diagnostic::error(
                                    Code("E0333"),
                                    policy.span,
                                    "`residuals` is one of \"recompute\", \"swap\" and \"keep\"",
                                );
                                return self.fail(d.help("what becomes of the values of the forward pass that the backward pass needs"));
                            }
                        },
                    };
                    Ok(Value::Fn(Rc::new(FnValue::Transformed(Transform::Checkpoint(f.value.clone(), residuals)))))
                }
                _ => self.fail(Diagnostic::error(Code("E0333"), span, "`checkpoint` takes a function").help("`checkpoint(f)(x)`")),
            },
            "jvp" => self.jvp_call(args, span),
            "vjp" => {
                if args.len() < 2 || !callable(&args[0].value) {
                    return self
                        .fail(Diagnostic::error(Code("E0331"), span, "`vjp` takes a function and its arguments").help("`vjp(f, x)(ct)`"));
                }
                let f = args.remove(0).value;
                let args = args.into_iter().map(|a| a.value).collect();
                Ok(Value::Fn(Rc::new(FnValue::Transformed(Transform::Pullback { f, args }))))
            }
            "stop_gradient" => {
                let Some(x) = args.first() else { return self.error("E0331", span, "`stop_gradient` needs an array or a tree") };
                let (value, at) = (x.value.clone(), x.span);
                self.map_tree(&value, span, &mut |ev, _, leaf| match leaf {
                    Value::Array(a) => Ok(Value::Array(ev.stopped(a, span))),
                    Value::List(_) => ev.array_of(leaf, at).map(Value::Array),
                    other => Ok(other.clone()),
                })
            }
            "freeze" => self.freeze(args, span),
            "init" => self.init_call(args, span),
            "apply" => self.apply_call(args, span),
            "rev" => match args.first().map(|a| a.value.clone()) {
                Some(Value::Range { start, stop, reverse }) => Ok(Value::Range { start, stop, reverse: !reverse }),
                Some(Value::RunRange(a, b, reverse)) => Ok(Value::RunRange(a, b, !reverse)),
                Some(Value::List(items)) => Ok(Value::List(Rc::new(items.iter().rev().cloned().collect()))),
                Some(Value::Unknown) => Ok(Value::Unknown),
                _ => self.fail(
                    Diagnostic::error(Code("E0333"), span, "`rev` takes a range or a list").help("`flip(x, axis)` reverses an array"),
                ),
            },
            "len" if args.len() == 1 => match &args[0].value {
                Value::List(items) | Value::Tuple(items) => Ok(Value::Int(items.len().into())),
                Value::Record(fields) => Ok(Value::Int(fields.len().into())),
                Value::Str(s) => Ok(Value::Int(s.chars().count().into())),
                Value::Series(s) => Ok(Value::Int(s.values.len().into())),
                Value::Range { start, stop, .. } => Ok(Value::Int(stop.sub(start))),
                _ => self.call_op_args(name, args, span),
            },
            "sort"
                if args.iter().any(|a| a.name.as_deref() == Some("by"))
                    || matches!(args.first().map(|a| &a.value), Some(list @ Value::List(_)) if !crate::tree::is_arrayish(list)) =>
            {
                self.sort_list(args, span)
            }
            "concat" if args.first().is_some_and(|a| joins_lists(&a.value)) => self.join_lists(&args, span),
            "nonzero" => self.nonzero(args, span),
            _ if args.iter().any(|a| matches!(a.value, Value::Unknown)) && !self.checking() => Ok(Value::Unknown),
            _ => self.call_op_args(name, args, span),
        }
    }
    /// What is differentiated or batched is compiled: no process, no function of the script.
    fn compiled_function(&mut self, name: &str, f: &CallArg) -> Eval<()> {
        let Value::Fn(function) = &f.value else { return Ok(()) };
        let FnValue::Item(item) = **function else { return Ok(()) };
        let (what, declared) = match &self.program.item(item).kind {
            ItemKind::Extern(e) => ("a process", &e.name),
            ItemKind::Fn(f) if f.kind == FnKind::HostFn => ("a host function", &f.name),
            _ => return Ok(()),
        };
        let message = format!("`{}` is {what}: compiled code cannot call it, and `{name}` compiles what it is given", declared.text);
        self.fail(
            Diagnostic::error(Code("E0349"), f.span, message)
                .label(declared.span, "declared here")
                .help("call it in a loop of the script: `[f(x) for x in xs]`"),
        )
    }
    /// `vmap(f, axes = …)` as a function.
    fn vmap(&mut self, args: Vec<CallArg>, span: Span) -> Eval {
        let help = "`vmap(f)(xs)`, or `vmap(f, axes = (0, none))(xs, y)`";
        let (mut f, mut axes) = (None, MapAxes::All(Some(0)));
        for arg in args {
            match arg.name.as_deref() {
                None if f.is_none() => f = Some(arg),
                Some("axes") => axes = self.map_axes(&arg.value, arg.span)?,
                Some(n) => {
                    let d = Diagnostic::error(Code("E0332"), arg.span, format!("`vmap` has no argument `{n}`"));
                    return self.fail(d.help("`vmap(f, axes = (0, none))(xs, y)`; results are stacked along a new first axis"));
                }
                None => return self.fail(Diagnostic::error(Code("E0332"), arg.span, "`vmap` takes a function and `axes`").help(help)),
            }
        }
        match f {
            Some(f) if callable(&f.value) => Ok(transformed(Transform::Vmap { f: f.value, axes })),
            Some(f) => {
                let what = describe(&f.value);
                self.fail(Diagnostic::error(Code("E0333"), f.span, format!("`vmap` takes a function, this is {what}")).help(help))
            }
            None => self.fail(Diagnostic::error(Code("E0331"), span, "`vmap` needs a function").help(help)),
        }
    }
    /// The array without its gradient.
    pub(crate) fn stopped(&mut self, a: &optc_ops::Array, span: Span) -> optc_ops::Array {
        if !self.cx.emitting() {
            return a.clone();
        }
        self.cx.at(span);
        let origin = self.cx.origin;
        let node = self.cx.node(a);
        let node = self.cx.graph().op(Op::StopGradient, &[node], origin);
        let stopped = self.cx.array(node);
        optc_ops::Array { weak: a.weak, ..stopped }
    }
    /// `freeze(x, "block.*", …)`: the model or tree whose parameters with such paths stay as they are.
    fn freeze(&mut self, mut args: Vec<CallArg>, span: Span) -> Eval {
        let help = "`freeze(mlp(), \"block.*\")`, or `mlp().freeze(\"block.*\", \"head.b\")`";
        if args.is_empty() {
            return self.fail(Diagnostic::error(Code("E0331"), span, "`freeze` takes a model or tree, and patterns of paths").help(help));
        }
        let of = args.remove(0);
        let mut patterns = Vec::new();
        for arg in &args {
            match &arg.value {
                Value::Str(s) => patterns.push((s.clone(), arg.span)),
                Value::Unknown => {}
                other => {
                    let what = describe(other);
                    return self.fail(
                        Diagnostic::error(Code("E0333"), arg.span, format!("a pattern of paths is a string, this is {what}")).help(help),
                    );
                }
            }
        }
        if args.is_empty() {
            return self.fail(Diagnostic::error(Code("E0331"), span, "`freeze` needs patterns of the paths to freeze").help(help));
        }
        let model = match &of.value {
            Value::Unknown => return Ok(Value::Unknown),
            Value::Model(m) => Some((**m).clone()),
            Value::Fn(f) => match &**f {
                crate::value::FnValue::Item(item) => self.as_model(*item, Vec::new(), span),
                _ => None,
            },
            Value::Record(_) | Value::List(_) | Value::Tuple(_) => {
                return self.map_tree(&of.value, span, &mut |ev, path, leaf| match leaf {
                    Value::Array(a) if patterns.iter().any(|(p, _)| crate::arith::glob(p, path)) => Ok(Value::Array(ev.stopped(a, span))),
                    other => Ok(other.clone()),
                });
            }
            _ => None,
        };
        let Some(mut model) = model else {
            let what = describe(&of.value);
            return self.fail(
                Diagnostic::error(Code("E0333"), of.span, format!("`freeze` takes a model or a tree of parameters, this is {what}"))
                    .help(help),
            );
        };
        Rc::make_mut(&mut model.frozen).extend(patterns);
        Ok(Value::Model(Rc::new(model)))
    }
    /// `nonzero(mask)`: the positions where it holds, in the script.
    fn nonzero(&mut self, args: Vec<CallArg>, span: Span) -> Eval {
        let Some(x) = args.first() else { return self.error("E0331", span, "`nonzero` needs an array") };
        if !self.in_script {
            return self.fail(
                Diagnostic::error(Code("E0349"), span, "the size of `nonzero` depends on values, which only the script may look at")
                    .help("use a mask: `where(mask, x, 0)`"),
            );
        }
        if self.checking() {
            let n: Dim = self.cx.fresh_symbol("?");
            return Ok(Value::Array(optc_ops::Array { dtype: optc_abi::DType::I32, shape: vec![n], weak: false, node: None }));
        }
        let array = self.array_of(&x.value, x.span)?;
        let tensor = self.force(&array, span)?;
        let ids: Vec<i32> = (0..tensor.len()).filter(|&i| tensor.get_f64(i) != 0.0).map(|i| i as i32).collect();
        Ok(Value::Array(self.literal(optc_abi::Tensor::from_slice::<i32>(&[ids.len()], &ids))))
    }
}

fn callable(value: &Value) -> bool {
    matches!(value, Value::Fn(_) | Value::Model(_) | Value::Unknown | Value::Schedule(_))
}
