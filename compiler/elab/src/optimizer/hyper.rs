//! Hyperparameters: what an optimizer is given, as bodies see it, and which of it are inputs of the step.

use super::*;
use optc_ir::graph::{Graph, NodeId, Op};
use optc_ir::text::print_full;
use std::fmt::Write;

/// Hyperparameters that groups of leaves have values of their own of, beside what the rule says: parameter groups of a framework.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// The group of each leaf; of none, if no hyperparameter is apart.
    pub groups: Vec<usize>,
    /// Which hyperparameters: `0.adamw.lr`.
    pub names: Vec<String>,
}

impl Evaluator<'_> {
    /// Binds the parameters of an optimizer item for one leaf.
    pub(super) fn bind_hyperparameters(
        &mut self,
        item: &FnItem,
        item_ref: ItemRef,
        args: &[OptArg],
        span: Span,
        stage: &str,
        scope: &mut Scope,
        leaf: usize,
    ) -> Eval<()> {
        let mut positional = args.iter().filter(|a| a.name.is_none());
        let mut used = 0;
        let index = self.opt_run().instance.leaves[leaf].index;
        for param in &item.params {
            let named = args.iter().find(|a| a.name.as_deref() == Some(&*param.name.text));
            let arg = named.or_else(|| positional.next());
            let value = match arg {
                Some(arg) if param.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer)) => {
                    used += 1;
                    // An optimizer counts steps of its own: what its arguments say of steps and leaves is read where it runs.
                    let value = self.expr(&mut arg.scope_of(index).clone(), &arg.expr)?;
                    self.held_optimizer(item, param, value, arg.expr.span, stage)?
                }
                Some(arg) => {
                    used += 1;
                    let mut inner = arg.scope_of(index).clone();
                    inner.push();
                    for (name, value) in self.opt_run().inputs.recorded.clone() {
                        if inner.get(&name).is_none() {
                            inner.bind(name, value, LetKind::Let, Span::default());
                        }
                    }
                    self.bind_run_scalars(&mut inner);
                    for name in ["w", "g", "name"] {
                        if chains::is_free(&inner, name)
                            && let Some(b) = scope.get(name)
                        {
                            let value = b.value.clone();
                            inner.bind(name, value, LetKind::Let, Span::default());
                        }
                    }
                    let value = self.drawn_by_name(stage, &param.name.text, |ev| ev.expr(&mut inner, &arg.expr))?;
                    let number =
                        matches!(param.ty.as_ref().map(|t| &t.kind), Some(TypeKind::Array { .. } | TypeKind::Int | TypeKind::Bool));
                    if number && matches!(value, Value::Optimizer(_) | Value::Model(_) | Value::Fn(_) | Value::Str(_)) {
                        let what = crate::tree::describe(&value);
                        let message = format!("`{}` of `{}` is a number, this is {what}", param.name.text, item.name.text);
                        let d = Diagnostic::error(Code("E0333"), arg.expr.span, message).label(param.span, "declared here");
                        return self.fail(match (&value, &arg.expr.kind) {
                            (Value::Optimizer(_), _) => d.help("a chain runs two: `a |> b`; a wrapper takes an optimizer: `lookahead(a)`"),
                            (Value::Fn(_), ExprKind::Name(f)) => d.help(format!("a schedule with arguments is called: `{f}(…)`")),
                            _ => d,
                        });
                    }
                    self.hyper_value((scope, index), param, value, arg.expr.span, stage, item)?
                }
                None => match &param.default {
                    Some(default) if param.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer)) => {
                        let value = self.expr(&mut Scope::new(item_ref.module), default)?;
                        self.held_optimizer(item, param, value, default.span, stage)?
                    }
                    Some(default) => {
                        let value = self.drawn_by_name(stage, &param.name.text, |ev| ev.expr(scope, default))?;
                        self.hyper_value((scope, index), param, value, default.span, stage, item)?
                    }
                    None => {
                        return self.fail(
                            Diagnostic::error(Code("E0331"), span, format!("`{}` needs `{}`", item.name.text, param.name.text))
                                .label(param.span, "has no default"),
                        );
                    }
                },
            };
            scope.bind(param.name.text.clone(), value, LetKind::Let, param.span);
        }
        if leaf == 0 && used < args.len() {
            return self.unused_argument(item, item_ref, args, span);
        }
        Ok(())
    }

    /// Whether a hyperparameter has another value for some leaf than for the first.
    pub(super) fn differs(&mut self, scopes: &[Scope], name: &str) -> bool {
        let mut values = scopes.iter().filter_map(|scope| scope.get(name).map(|b| b.value.clone()));
        let Some(first) = values.next() else { return false };
        values.any(|other| match (&first, &other) {
            (Value::Array(a), Value::Array(b)) => a.node != b.node && self.computed(a) != self.computed(b),
            (Value::Array(_), _) | (_, Value::Array(_)) => true,
            (Value::Float(a), Value::Float(b)) => a.map(f64::to_bits) != b.map(f64::to_bits),
            // What is known at compile time may decide leaf by leaf.
            _ => false,
        })
    }

    /// How an array of the graph on top is computed, in words: what was made twice has equal ones.
    fn computed(&mut self, array: &Array) -> Option<String> {
        let (_, node) = array.node.filter(|(level, _)| self.cx.top() == Some(*level))?;
        let graph: &Graph = self.cx.graph();
        // Operands first, in the order in which they are reached, not that in which they were made.
        let mut numbers: FxHashMap<NodeId, usize> = FxHashMap::default();
        let (mut words, mut todo) = (String::new(), vec![node]);
        while let Some(&at) = todo.last() {
            let made = graph.node(at);
            let before = todo.len();
            todo.extend(made.operands.iter().rev().filter(|o| !numbers.contains_key(o)));
            if todo.len() > before {
                continue;
            }
            todo.pop();
            if numbers.contains_key(&at) {
                continue;
            }
            let operands: Vec<usize> = made.operands.iter().map(|o| numbers[o]).collect();
            let op = match &made.op {
                Op::Cond { then, otherwise } => format!("cond {} {}", print_full(then), print_full(otherwise)),
                Op::Loop(l) => format!("loop {:?} {} {} {:?} {}", l.trip, l.reverse, l.carried, l.guard, print_full(&l.body)),
                Op::Call(c) => format!("call {}", print_full(&c.body)),
                op => format!("{op:?}"),
            };
            numbers.insert(at, numbers.len());
            let _ = writeln!(words, "{op} {operands:?} {:?}", made.ty);
        }
        Some(words)
    }

    fn unused_argument(&mut self, item: &FnItem, _item_ref: ItemRef, args: &[OptArg], span: Span) -> Eval<()> {
        let names: Vec<&str> = item.params.iter().map(|p| &*p.name.text).collect();
        let unknown = args.iter().find(|a| a.name.as_ref().is_some_and(|n| !names.contains(&&**n)));
        let diagnostic = match unknown {
            Some(arg) => {
                let name = arg.name.as_deref().unwrap_or_default();
                let d = Diagnostic::error(Code("E0221"), arg.expr.span, format!("`{}` has no parameter `{name}`", item.name.text))
                    .label(item.name.span, "defined here");
                match crate::names::nearest(name, names.iter().copied()) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help(format!("its parameters are {}", names.join(", "))),
                }
            }
            None => Diagnostic::error(Code("E0332"), span, format!("too many arguments for `{}`", item.name.text))
                .label(item.name.span, format!("takes {}", names.len())),
        };
        self.fail(diagnostic)
    }

    /// A hyperparameter's value: schedules are read at this step; numbers become inputs of the step, so that changing one never recompiles.
    fn hyper_value(
        &mut self,
        (scope, leaf): (&Scope, usize),
        param: &Param,
        value: Value,
        span: Span,
        stage: &str,
        item: &FnItem,
    ) -> Eval<Value> {
        let compile_time = param.is_const || param.ty.as_ref().is_some_and(|t| !matches!(t.kind, TypeKind::Array { .. }));
        let value = match value {
            Value::Schedule(_) => {
                let mut scope = Scope::new(ModuleId(0));
                self.bind_run_scalars(&mut scope);
                let step = scope.get("step").map_or(Value::Unknown, |b| b.value.clone());
                self.apply(&value, vec![CallArg { name: None, value: step, span }], span)?
            }
            other => other,
        };
        self.check_range(param, scope, &value, span)?;
        self.watch_range(param, scope, &value, span, item)?;
        let number = match &value {
            Value::Int(d) => d.known().map(|n| n as f64),
            Value::Float(x) => *x,
            Value::Array(a) if a.shape.is_empty() && a.dtype.is_float() => {
                return Ok(Value::Array(self.weak_float(a)));
            }
            _ => return Ok(value),
        };
        let home = self.opt_run().inputs.inputs.clone();
        let Some(home) = home.filter(|_| !compile_time && self.opt_run().inputs.pass == Pass::Step) else { return Ok(value) };
        let Some(number) = number else {
            // Not known while checking: some scalar.
            return Ok(Value::Array(Array { dtype: DType::F64, shape: Vec::new(), weak: true, node: None }));
        };
        let mut base = format!("{stage}.{}.{}", item.name.text, param.name.text);
        let apart = &self.opt_run().inputs.apart;
        if apart.names.contains(&base) {
            base = format!("{base}@{}", apart.groups[leaf]);
        }
        let mut name = base.clone();
        let mut k = 1;
        // Leaves may have values of their own (`weight_decay = if ndim(w) < 2 { 0 } else { 0.1 }`).
        while self.opt_run().outputs.hyper.get(&name).is_some_and(|&v| v.to_bits() != number.to_bits()) {
            name = format!("{base}.{k}");
            k += 1;
        }
        if let Some(array) = self.opt_run().hyper.get(&name) {
            return Ok(Value::Array(array.clone()));
        }
        let limits = self.limits(param, scope)?;
        // The inputs of the step are those of its own graph, also where an optimizer runs under a condition.
        let array = Array { weak: true, ..self.cx.input_beside(&home, &format!("hyper.{name}"), DType::F64, &[]) };
        let run = self.opt_run();
        run.outputs.hyper.insert(name.clone(), number);
        run.outputs.limits.push(limits);
        run.hyper.insert(name, array.clone());
        Ok(Value::Array(array))
    }

    /// Has a computed hyperparameter checked against its range at every step.
    fn watch_range(&mut self, param: &Param, scope: &Scope, value: &Value, span: Span, item: &FnItem) -> Eval<()> {
        let (Some(range), Value::Array(a)) = (&param.range, value) else { return Ok(()) };
        let run = self.opt_run();
        let own = run.inputs.step.node.map(|(level, _)| level);
        if run.inputs.pass != Pass::Step || run.inputs.inputs.is_none() || !a.shape.is_empty() || !self.cx.emitting() {
            return Ok(());
        }
        // One that is computed under a condition may not have been computed at all.
        if self.cx.top() != own {
            return Ok(());
        }
        let limits = self.limits(param, scope)?;
        let name = param.name.text.clone();
        let ranged = Ranged { optimizer: item.name.text.clone(), name, limits, span, range: range.span };
        let array = self.cast_array(a, DType::F64);
        let known = &mut self.opt_run().outputs.ranged;
        // All leaves share it, unless it depends on the leaf.
        if !known.iter().any(|(r, other)| *r == ranged && *other == array) {
            known.push((ranged, array));
        }
        Ok(())
    }
}
