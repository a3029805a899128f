//! What a body says of all leaves at once: `tree.norm(g)` and its like, the loss at other weights, the optimizer a wrapper holds.
//!
//! Such a call is evaluated for all leaves when the first leaf comes to it, and kept until the statement ends.

use super::*;
use crate::value::OptimizerValue;
use optc_front::ast::Arg;

/// Collectives about the step's loss.
pub(crate) const OF_LOSS: &[&str] = &["loss_at", "grad_at", "value_and_grad_at", "hvp_at", "grad_each_at"];

/// Collectives over the leaves.
pub(super) const TREE: &[&str] = &["sum", "mean", "max", "min", "all", "any", "count", "norm", "dot"];

/// A call that has been evaluated in the statement at hand.
#[derive(Clone, Debug)]
pub(super) struct Computed {
    id: ExprId,
    /// What its arguments see besides the variables of the body.
    locals: Vec<String>,
    /// The leaf that came to it first.
    by: Option<usize>,
    /// One value for all leaves, or one each.
    values: Vec<Value>,
}

/// A call about all leaves.
enum Collective<'a> {
    Tree(&'a str),
    Loss(&'a str),
    Inner { label: Arc<str>, of: Rc<OptimizerValue>, method: &'a str },
}

impl Evaluator<'_> {
    /// The value of a call inside a body, if it is about all leaves.
    pub(crate) fn of_all_leaves(&mut self, scope: &mut Scope, e: &Expr, callee: &Expr, args: &[Arg]) -> Eval<Option<Value>> {
        let what = match &callee.kind {
            ExprKind::Name(n) if OF_LOSS.contains(&&**n) && scope.get(n).is_none() => Collective::Loss(n),
            ExprKind::Field(base, method) => {
                if let Some(name) = self.namespaced(scope, base, method) {
                    match name.strip_prefix("tree.") {
                        Some(_) if TREE.contains(&&*method.text) => Collective::Tree(&method.text),
                        _ => return Ok(None),
                    }
                } else {
                    let ExprKind::Name(n) = &base.kind else { return Ok(None) };
                    let Some(Value::Optimizer(o)) = scope.get(n).map(|b| b.value.clone()) else { return Ok(None) };
                    match (&*o, &*method.text) {
                        (OptimizerValue::Inner { label, of }, "step" | "delta") => {
                            Collective::Inner { label: label.clone(), of: of.clone(), method: &method.text }
                        }
                        _ => return Ok(None),
                    }
                }
            }
            _ => return Ok(None),
        };
        self.collective(scope, e, what, args).map(Some)
    }

    fn collective(&mut self, scope: &mut Scope, e: &Expr, what: Collective<'_>, args: &[Arg]) -> Eval {
        let (active, here) = {
            let body = &self.opt_run().body;
            (body.active.clone(), body.leaf)
        };
        let at = here.or_else(|| active.first().copied()).unwrap_or(0);
        let position = active.iter().position(|&l| l == at).unwrap_or(0);
        let of_position = |values: &[Value]| values.get(position).or(values.first()).cloned().unwrap_or(Value::Unknown);
        let locals = self.locals_of(scope, at, args);
        let kept: Vec<Computed> = self.opt_run().body.cache.iter().filter(|c| c.id == e.id).cloned().collect();
        for known in &kept {
            if known.locals == locals && known.values.iter().all(|v| self.is_reachable(v)) {
                return Ok(of_position(&known.values));
            }
        }
        if let Some(other) = kept.iter().find(|c| c.locals != locals && c.by != here && here.is_some())
            && active.first() != here.as_ref()
            && kept.iter().all(|c| c.by == other.by)
            && !kept.iter().any(|c| c.locals == locals)
        {
            return self.fail(
                Diagnostic::error(
                    Code("E0542"),
                    e.span,
                    "this is evaluated once for all leaves, but what it is given differs from leaf to leaf",
                )
                .help("take it in a statement of the body: `let n = tree.norm(g)`"),
            );
        }
        if let Collective::Tree(name) = what {
            let wanted = if name == "dot" { 2 } else { 1 };
            if args.len() != wanted {
                let form = if wanted == 2 { "a, b".to_string() } else { "e".to_string() };
                let d = Diagnostic::error(
                    Code(if args.len() < wanted { "E0331" } else { "E0332" }),
                    e.span,
                    format!("`tree.{name}` takes {wanted} argument{}", if wanted == 1 { "" } else { "s" }),
                );
                return self.fail(d.help(format!("`tree.{name}({form})` of expressions of the leaf, over all leaves")));
            }
        }
        // The arguments of all leaves.
        let key = self.key.clone();
        let mut values: Vec<Vec<Value>> = Vec::with_capacity(active.len());
        for &leaf in &active {
            let mut inner = self.scope_of(scope, at, leaf, e.span)?;
            let mut own = Vec::with_capacity(args.len());
            self.opt_run().body.leaf = Some(leaf);
            self.key = self.key_within(key.as_ref(), leaf);
            for arg in args {
                own.push(self.expr(&mut inner, &arg.value)?);
            }
            values.push(own);
        }
        self.opt_run().body.leaf = here;
        self.key = key;
        let results = match what {
            Collective::Tree(name) => vec![self.over_leaves(name, &values, e.span)?],
            Collective::Loss(name) => self.of_loss(name, &active, &values, e.span)?,
            Collective::Inner { label, of, method } => {
                if self.depth != self.opt_run().body.depth && !self.checking() {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0542"),
                            e.span,
                            "the optimizer a wrapper holds steps for all leaves at once, in a statement of the body",
                        )
                        .help(
                            "call it in the body or in a branch of it, not in a function or in part of an expression that has conditions",
                        ),
                    );
                }
                self.of_inner(scope, at, &label, &of, method, args, &values, e.span)?
            }
        };
        let value = of_position(&results);
        self.opt_run().body.cache.push(Computed { id: e.id, locals, by: here, values: results });
        Ok(value)
    }

    /// What the arguments of a call see besides the variables of the body: arguments of functions, counters.
    fn locals_of(&mut self, scope: &Scope, at: usize, args: &[Arg]) -> Vec<String> {
        let empty = Scope::new(scope.module);
        let snapshot = self.opt_run().body.snapshot.get(at).cloned().unwrap_or(empty);
        let mut names: Vec<Arc<str>> = Vec::new();
        for arg in args {
            crate::walk::expr(&arg.value, &mut |e| {
                if let ExprKind::Name(n) = &e.kind
                    && !names.contains(n)
                {
                    names.push(n.clone());
                }
                true
            });
        }
        let mut locals = Vec::new();
        for name in names {
            let Some(binding) = scope.get(&name) else { continue };
            if snapshot.get(&name).is_some_and(|b| b.span == binding.span) {
                continue;
            }
            for (path, leaf) in crate::tree::leaves(&binding.value) {
                let text = match &leaf {
                    Value::Array(a) => format!("{:?}", a.node),
                    Value::Int(d) => d.to_string(),
                    Value::Float(x) => format!("{:?}", x.map(f64::to_bits)),
                    Value::Bool(b) => format!("{b:?}"),
                    Value::Str(s) => s.to_string(),
                    _ => String::new(),
                };
                locals.push(format!("{name}.{path}={text}"));
            }
        }
        locals
    }

    /// The scope another leaf has at the place at hand: variables of the body are its own, what was bound since the statement began is shared.
    fn scope_of(&mut self, here: &Scope, at: usize, leaf: usize, span: Span) -> Eval<Scope> {
        if leaf == at {
            return Ok(here.clone());
        }
        let body = &self.opt_run().body;
        let (mine, theirs) = (body.snapshot[at].clone(), body.snapshot[leaf].clone());
        let mut scope = here.clone();
        let mut seen: Vec<Arc<str>> = Vec::new();
        for name in mine.names() {
            if seen.contains(name) {
                continue;
            }
            seen.push(name.clone());
            let (Some(now), Some(then), Some(other)) = (here.get(name), mine.get(name), theirs.get(name)) else { continue };
            if now.span != then.span {
                continue;
            }
            let nodes = |v: &Value| crate::grad::arrays_of(v).iter().map(|a| a.node).collect::<Vec<_>>();
            if nodes(&now.value) != nodes(&then.value) {
                return self.fail(
                    Diagnostic::error(Code("E0542"), span, format!("`{name}` was updated after the function with this call was made"))
                        .label(then.span, "declared here")
                        .help("make the function after the update"),
                );
            }
            scope.set(name, other.value.clone());
        }
        Ok(scope)
    }

    fn is_reachable(&self, value: &Value) -> bool {
        crate::grad::arrays_of(value).iter().all(|a| self.cx.reaches(a))
    }

    /// `tree.norm(g)` and its like, from the arguments of all leaves.
    fn over_leaves(&mut self, name: &str, values: &[Vec<Value>], span: Span) -> Eval {
        let mut total: Option<Value> = None;
        for own in values {
            let part = self.collective_part(name, own, span)?;
            total = Some(match total {
                None => part,
                Some(sum) => self.collective_join(name, sum, part, span)?,
            });
        }
        let total = total.unwrap_or(Value::Float(Some(0.0)));
        match name {
            "norm" => self.builtin("sqrt", vec![total], span),
            "mean" => self.arithmetic(optc_front::ast::BinaryOp::Div, total, Value::Int(Dim::from(values.len())), span),
            _ => Ok(total),
        }
    }

    /// `inner.step()` and `inner.delta(g, w)`: runs what the wrapper holds on all leaves. A step is made by the statement it stands in ([`Evaluator::step_of_inner`]).
    #[expect(clippy::too_many_arguments, reason = "the call with its place")]
    fn of_inner(
        &mut self,
        here: &Scope,
        at: usize,
        label: &str,
        of: &OptimizerValue,
        method: &str,
        args: &[Arg],
        values: &[Vec<Value>],
        span: Span,
    ) -> Eval<Vec<Value>> {
        let active = self.opt_run().body.active.clone();
        if method == "step" {
            if self.checking() {
                return Ok(vec![Value::None]);
            }
            return self.fail(
                Diagnostic::error(Code("E0542"), span, "a step of the optimizer a wrapper holds is a statement of its own")
                    .help("`inner.delta()` is the change as a value: `w <- w + 0.5 * inner.delta()`"),
            );
        }
        if self.opt_run().inputs.pass == Pass::Eval {
            return Ok(active.iter().map(|_| Value::Float(Some(0.0))).collect());
        }
        let position = |name: &str, k: usize| {
            let mut unnamed = args.iter().enumerate().filter(|(_, a)| a.name.is_none()).map(|(at, _)| at);
            args.iter().position(|a| a.name.as_ref().is_some_and(|n| &*n.text == name)).or_else(|| unnamed.nth(k))
        };
        if let Some(bad) = args.iter().find(|a| a.name.as_ref().is_some_and(|n| !matches!(&*n.text, "g" | "w"))) {
            return self.fail(
                Diagnostic::error(Code("E0221"), bad.value.span, "`delta` has parameters `g` and `w`")
                    .help("`inner.delta(g = p @ g, w = p @ w)`"),
            );
        }
        let (g_at, w_at) = (position("g", 0), position("w", 1));
        let (mut leaves, mut weights, mut gradients) = (Vec::new(), Vec::new(), Vec::new());
        for (&leaf, own) in active.iter().zip(values) {
            let member = self.opt_run().instance.leaves[leaf].clone();
            let scope = self.scope_of(here, at, leaf, span)?;
            let given = |k: Option<usize>, name: &str| match k {
                Some(k) => own[k].clone(),
                None => scope.get(name).map_or(Value::Unknown, |b| b.value.clone()),
            };
            let (g, w) = (given(g_at, "g"), given(w_at, "w"));
            let compute = compute_type(member.leaf.w.dtype);
            let g = self.float_array(&g, compute, span)?;
            // With a gradient of another shape alone, the argument begins at zero: only differences matter.
            let w = match self.float_array(&w, compute, span)? {
                w if w.shape == g.shape || w_at.is_some() => w,
                _ if !self.cx.emitting() => g.clone(),
                _ => self.zeros_like(&g),
            };
            leaves.push(Member { index: member.index, leaf: Leaf { path: member.leaf.path, w: w.clone(), g: g.clone() } });
            weights.push(w);
            gradients.push(g);
        }
        let (new, _) = self.placed(span, |ev| ev.run_inner(label, of, leaves, weights.clone(), gradients))?;
        let mut out = Vec::new();
        for (new, old) in new.into_iter().zip(weights) {
            out.push(self.arithmetic(optc_front::ast::BinaryOp::Sub, Value::Array(new), Value::Array(old), span)?);
        }
        Ok(out)
    }

    /// A value as an array of a float type.
    pub(super) fn float_array(&mut self, value: &Value, dtype: DType, span: Span) -> Eval<Array> {
        if matches!(value, Value::Unknown) {
            return Ok(Array { dtype, shape: Vec::new(), weak: false, node: None });
        }
        let array = self.array_of(value, span)?;
        Ok(self.cast_array(&array, dtype))
    }

    /// What one leaf contributes.
    pub(super) fn collective_part(&mut self, name: &str, values: &[Value], span: Span) -> Eval {
        use optc_front::ast::BinaryOp::Mul;
        let arg = |k: usize| values.get(k).cloned().unwrap_or(Value::Unknown);
        match name {
            "norm" => {
                let squares = self.arithmetic(Mul, arg(0), arg(0), span)?;
                self.builtin("sum", vec![squares], span)
            }
            "dot" => {
                let products = self.arithmetic(Mul, arg(0), arg(1), span)?;
                self.builtin("sum", vec![products], span)
            }
            "count" => match arg(0) {
                Value::Array(a) => {
                    let n = a.shape.iter().fold(Dim::from(1i64), |n, d| n.mul(d));
                    Ok(Value::Int(n))
                }
                _ => Ok(Value::Int(Dim::from(1i64))),
            },
            "sum" | "mean" | "max" | "min" | "all" | "any" => Ok(arg(0)),
            _ => {
                self.fail(Diagnostic::error(Code("E0224"), span, format!("`tree.{name}` is not a collective")).help(
                    "collectives are tree.sum, tree.mean, tree.max, tree.min, tree.all, tree.any, tree.count, tree.norm and tree.dot",
                ))
            }
        }
    }

    pub(super) fn collective_join(&mut self, name: &str, a: Value, b: Value, span: Span) -> Eval {
        use optc_front::ast::BinaryOp::{Add, And, Or};
        match name {
            "max" => self.builtin("maximum", vec![a, b], span),
            "min" => self.builtin("minimum", vec![a, b], span),
            "all" => self.arithmetic(And, a, b, span),
            "any" => self.arithmetic(Or, a, b, span),
            _ => self.arithmetic(Add, a, b, span),
        }
    }

    /// Calls a built-in operation on values.
    pub(crate) fn builtin(&mut self, name: &str, values: Vec<Value>, span: Span) -> Eval {
        let args = values.into_iter().map(|value| CallArg { name: None, value, span }).collect();
        self.apply(&Value::Fn(Rc::new(crate::value::FnValue::Builtin(Arc::from(name)))), args, span)
    }
}
