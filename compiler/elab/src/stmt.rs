//! Statements and blocks.

use crate::evaluator::{Eval, Evaluator, Stop};
use crate::scope::Scope;
use crate::tree::describe;
use crate::types::{Sig, What};
use crate::value::Value;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, Expr, ExprKind, LetKind, Pattern, PatternKind, Stmt, StmtKind};
use optc_ops::{Ix, Val};
use std::rc::Rc;

impl Evaluator<'_> {
    /// The value of a block (its last expression, or `none`), in a scope of its own.
    ///
    /// # Errors
    /// Mistakes are recorded; while checking, all of them and not only the first.
    pub fn block(&mut self, scope: &mut Scope, b: &Block) -> Eval {
        scope.push();
        let result = self.stmts(scope, &b.stmts);
        scope.pop();
        result
    }
    /// Executes statements in the scope at hand.
    pub(crate) fn stmts(&mut self, scope: &mut Scope, stmts: &[Stmt]) -> Eval {
        let mut value = Value::None;
        let mut failed = false;
        for (k, s) in stmts.iter().enumerate() {
            match self.stmt(scope, s) {
                Ok(v) => {
                    if k + 1 < stmts.len() && self.checking() && self.dropped_step(&v, s) {
                        failed = true;
                    }
                    value = v;
                }
                Err(Stop::Reported) if self.checking() => {
                    // Go on with what the statement binds unknown: one run shows several mistakes.
                    failed = true;
                    value = Value::Unknown;
                    bind_unknown(scope, s);
                }
                Err(stop) => return Err(stop),
            }
            if self.exits.any()
                && let Some(rest) = self.unless_left(scope, &stmts[k + 1..], s.span)?
            {
                return Ok(rest);
            }
        }
        if failed { Err(Stop::Reported) } else { Ok(value) }
    }
    /// Executes a statement; an expression gives its value, others `none`.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub fn stmt(&mut self, scope: &mut Scope, s: &Stmt) -> Eval {
        match &s.kind {
            StmtKind::Expr(e) => return self.expr(scope, e),
            StmtKind::Let { kind, shared: _, pattern, ty, value } => {
                let mut v = self.expr(scope, value)?;
                if let Some(ty) = ty {
                    let mut sig = Sig::new(scope.clone());
                    if let Some(Value::DType(d)) = scope.get("float").map(|b| b.value.clone()) {
                        sig.float = Some(d);
                    }
                    let name = match &pattern.kind {
                        PatternKind::Name(n) => n.to_string(),
                        _ => "the value".to_string(),
                    };
                    v = self.match_type(&mut sig, ty, v, value.span, &What::Binding(&name))?;
                }
                if *kind == LetKind::Const {
                    v = self.looked_at(v, value.span)?;
                    if let Value::Array(a) = &v
                        && a.weak
                        && !self.checking()
                    {
                        return self.fail(
                            Diagnostic::error(Code("E0344"), value.span, "a `const` is known at compile time, this value is not")
                                .help("use `let`"),
                        );
                    }
                }
                self.bind_pattern(scope, pattern, v, *kind)?;
            }
            StmtKind::LetIndexed { name, indices, value } => {
                let array = self.indexed(scope, indices, value, s.span)?;
                scope.bind(name.text.clone(), array, LetKind::Let, name.span);
            }
            StmtKind::Update { target, value } => {
                let v = self.expr(scope, value)?;
                self.keep_named(&v);
                self.assign(scope, target, v, s.span)?;
            }
            StmtKind::Param { name, ty, draws, init } => self.param(scope, name, ty, *draws, init, false, s.span)?,
            StmtKind::Buffer { name, ty, init } => self.param(scope, name, ty, false, init, true, s.span)?,
            StmtKind::SharedLayer { name, value } => self.shared_layer(scope, name, value)?,
            StmtKind::Metric { name, value } => {
                let v = self.expr(scope, value)?;
                self.record_metric(&name.text, &v, value.span)?;
            }
            StmtKind::State { .. } | StmtKind::Eval { .. } => {
                let word = if matches!(s.kind, StmtKind::State { .. }) { "state" } else { "eval" };
                let d = if self.in_optimizer {
                    Diagnostic::error(Code("E0343"), s.span, format!("`{word}` cannot stand under a run-time condition or in a loop"))
                        .help("declare it at the top of the body, or under a condition that is known at compile time")
                } else {
                    Diagnostic::error(Code("E0343"), s.span, format!("`{word}` stands outside the body of an optimizer"))
                        .help("in a function, keep values in variables: `var m = 0.0`; in a layer, in a `buffer`")
                };
                return self.fail(d);
            }
            StmtKind::Yield(e) => {
                let v = self.expr(scope, e)?;
                match self.yields.last_mut() {
                    Some(list) => list.push(v),
                    None => {
                        return self.fail(
                            Diagnostic::error(Code("E0353"), s.span, "`yield` stands in a loop")
                                .help("`let ys = for x in xs { …; yield y }`"),
                        );
                    }
                }
            }
            StmtKind::Break(c) => return self.leave(scope, c.as_ref(), true, s.span),
            StmtKind::Continue(c) => return self.leave(scope, c.as_ref(), false, s.span),
            StmtKind::Check { parts, claim } if !self.in_script || self.in_optimizer => {
                self.check_when_compiled(scope, parts, claim.as_ref(), s.span)?
            }
            StmtKind::Output { .. } | StmtKind::Check { .. } | StmtKind::Sweep { .. } => {
                if !self.in_script {
                    return self.fail(
                        Diagnostic::error(Code("E0349"), s.span, "output stands in an experiment or a `host fn`, not in compiled code")
                            .help("return the value and print it in the experiment"),
                    );
                }
                return self.output_stmt(scope, s);
            }
            StmtKind::Error => return Err(Stop::Reported),
        }
        Ok(Value::None)
    }
    /// Whether a scalar condition holds; `None`: not known (a run-time value outside the script, or checking).
    ///
    /// # Errors
    /// A value that is no condition.
    pub fn truth(&mut self, value: &Value, span: Span) -> Eval<Option<bool>> {
        let value = self.schedule_now(value, span)?;
        match &value {
            Value::Bool(b) => Ok(*b),
            Value::Unknown => Ok(None),
            Value::Array(a) if !a.shape.is_empty() => self.fail(
                Diagnostic::error(Code("E0337"), span, "a condition is one truth value, this is an array")
                    .at(crate::tree::array_type(a))
                    .help("choose element by element with `where(mask, p, q)`, or combine with `all(…)` or `any(…)`"),
            ),
            Value::Array(a) if a.dtype == optc_abi::DType::Bool => {
                if self.may_look() {
                    let tensor = self.force(a, span)?;
                    Ok(Some(tensor.get_f64(0) != 0.0))
                } else {
                    Ok(None)
                }
            }
            other => {
                let what = describe(other);
                let d = Diagnostic::error(Code("E0336"), span, "a condition is a truth value").at(format!("this is {what}"));
                self.fail(if matches!(other, Value::Array(_) | Value::Int(_) | Value::Float(_)) {
                    d.help("compare it: `x != 0`")
                } else {
                    d
                })
            }
        }
    }
    /// `target <- value`
    pub(crate) fn assign(&mut self, scope: &mut Scope, target: &Expr, value: Value, span: Span) -> Eval<()> {
        if let ExprKind::Tuple(targets) = &target.kind {
            let parts: Vec<Value> = match &value {
                Value::Tuple(items) | Value::List(items) => items.to_vec(),
                Value::Unknown => vec![Value::Unknown; targets.len()],
                other => {
                    return self.fail(Diagnostic::error(
                        Code("E0335"),
                        target.span,
                        format!("{} variables are updated, but the value is {}", targets.len(), describe(other)),
                    ));
                }
            };
            if parts.len() != targets.len() {
                return self.fail(
                    Diagnostic::error(
                        Code("E0335"),
                        target.span,
                        format!("{} variables are updated with {} values", targets.len(), parts.len()),
                    )
                    .at(describe(&value)),
                );
            }
            for (t, v) in targets.iter().zip(parts) {
                self.assign(scope, t, v, span)?;
            }
            return Ok(());
        }
        self.assign_path(scope, target, value, span)
    }
    /// An update of a variable, a field or a part.
    pub(crate) fn assign_path(&mut self, scope: &mut Scope, target: &Expr, value: Value, span: Span) -> Eval<()> {
        match &target.kind {
            ExprKind::Name(name) => {
                let Some(binding) = scope.get(name).cloned() else {
                    if self.program.lookup(scope.module, name).is_some() {
                        return self.fail(
                            Diagnostic::error(Code("E0222"), target.span, format!("`{name}` is an item of the file and cannot be updated"))
                                .help("use a variable: `var x = …`"),
                        );
                    }
                    let d = Diagnostic::error(Code("E0223"), target.span, format!("`{name}` is updated but not declared"))
                        .at("no such variable");
                    let variables: Vec<String> = scope.names().map(|n| n.to_string()).collect();
                    return self.fail(match crate::names::nearest(name, variables.iter().map(String::as_str)) {
                        Some(near) => d.help(format!("did you mean `{near}`, or declare it: `var {name} = …`")),
                        None => d.help(format!("declare it before: `var {name} = …`")),
                    });
                };
                if binding.kind != LetKind::Var && scope.get(crate::optimizer::BODY).is_some() {
                    return self.not_of_the_body(name, target.span, binding.span);
                }
                if binding.kind != LetKind::Var {
                    let word = if binding.kind == LetKind::Const { "const" } else { "let" };
                    return self.fail(
                        Diagnostic::error(Code("E0222"), target.span, format!("`{name}` cannot be updated"))
                            .label(binding.span, format!("declared here, with `{word}` or as a parameter"))
                            .help(format!("declare it with `var`: `var {name} = …`")),
                    );
                }
                if scope.is_captured(name) && !self.instance.buffers.iter().any(|(n, _)| n == name) {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0222"),
                            target.span,
                            format!("`{name}` is declared outside this function, which has a copy of it"),
                        )
                        .at("the update would be lost")
                        .label(binding.span, "declared here")
                        .help("pass it as an argument, and give its new value as a result"),
                    );
                }
                let mut value = self.keep_type(&binding.value, value, span)?;
                if crate::tree::is_branch(&value) && crate::tree::same_structure(&binding.value, &value) {
                    // Loops and branches pair leaves by their order.
                    value = crate::tree::ordered_like(&binding.value, &value);
                }
                scope.set(name, value);
                self.record_buffer(scope, name);
                Ok(())
            }
            ExprKind::Field(base, field) => {
                let old = self.expr(scope, base)?;
                let new = match &old {
                    Value::Record(fields) => {
                        let Some(before) = fields.get(&field.text) else {
                            self.field(&old, field, target.span)?;
                            return Ok(());
                        };
                        let value = self.keep_type(before, value, span)?;
                        let mut fields = (**fields).clone();
                        fields.insert(field.text.clone(), value);
                        Value::Record(Rc::new(fields))
                    }
                    Value::Unknown => Value::Unknown,
                    other => {
                        let what = describe(other);
                        return self.fail(Diagnostic::error(Code("E0224"), field.span, format!("{what} has no field that can be updated")));
                    }
                };
                self.assign_path(scope, base, new, span)
            }
            ExprKind::Index { base, items } => {
                let old = self.expr(scope, base)?;
                let items = self.index_items(scope, items)?;
                let new = self.index_update(&old, items, value, span)?;
                self.assign_path(scope, base, new, span)
            }
            _ => self.fail(
                Diagnostic::error(Code("E0223"), target.span, "only variables, their fields and their parts can be updated")
                    .help("`x <- v`, `r.field <- v`, `x[i] <- v`"),
            ),
        }
    }
    /// A number keeps the element type and the shape of the array it replaces; a scalar is spread over it.
    fn keep_type(&mut self, old: &Value, new: Value, span: Span) -> Eval {
        let Value::Array(before) = old else { return Ok(new) };
        if before.weak {
            return Ok(new);
        }
        let number = matches!(new, Value::Int(_) | Value::Float(_)) || matches!(&new, Value::Array(a) if a.weak);
        let lossy = !before.dtype.is_float() && (matches!(new, Value::Float(_)) || matches!(&new, Value::Array(a) if a.dtype.is_float()));
        let array = match &new {
            _ if number && !lossy => {
                let val = self.val_of(&new, span)?;
                self.cx.at(span);
                let result = optc_ops::materialize(&mut self.cx, &val, Some(before.dtype));
                self.lift(result, span)?
            }
            Value::Array(a) if a.dtype == before.dtype && a.shape.is_empty() => a.clone(),
            _ => return Ok(new),
        };
        if before.shape.is_empty() {
            return Ok(Value::Array(array));
        }
        let result = optc_ops::broadcast_to(&mut self.cx, &array, &before.shape);
        self.lift(result, span).map(Value::Array)
    }
    fn index_update(&mut self, old: &Value, items: Vec<Ix>, value: Value, span: Span) -> Eval {
        match old {
            Value::Unknown => Ok(Value::Unknown),
            // Parts of a model that are numbered: `q.hidden[1]`.
            Value::Record(fields) if let Some(name) = crate::expr::number_of(fields, &items) => {
                let mut fields = (**fields).clone();
                fields.insert(name, value);
                Ok(Value::Record(Rc::new(fields)))
            }
            Value::List(list)
                if !crate::tree::is_arrayish(old) || (matches!(items.as_slice(), [Ix::At(Val::Int(_), _)]) && self.may_look()) =>
            {
                let n = list.len() as i64;
                let [Ix::At(Val::Int(at), at_span)] = items.as_slice() else {
                    return self.error("E0344", span, "a list is updated at one compile-time index");
                };
                let Some(i) = at.known() else { return Ok(Value::Unknown) };
                if !(-n..n).contains(&i) {
                    return self.error("E0531", *at_span, format!("index {i} is outside a list of {n}"));
                }
                let mut list = (**list).clone();
                list[i.rem_euclid(n) as usize] = value;
                Ok(Value::List(Rc::new(list)))
            }
            _ => {
                let base = self.array_of(old, span)?;
                let val = self.val_of(&value, span)?;
                if matches!(val, Val::Unknown) {
                    return Ok(old.clone());
                }
                self.cx.at(span);
                let result = optc_ops::index_update(&mut self.cx, &base, &items, &val);
                self.lift(result, span).map(Value::Array)
            }
        }
    }
}

/// After a failed statement: its names are known, their values are not.
fn bind_unknown(scope: &mut Scope, s: &Stmt) {
    fn pattern(scope: &mut Scope, p: &Pattern, kind: LetKind) {
        match &p.kind {
            PatternKind::Name(n) => scope.bind(n.clone(), Value::Unknown, kind, p.span),
            PatternKind::Ignore => {}
            PatternKind::Tuple(parts) => parts.iter().for_each(|p| pattern(scope, p, kind)),
            PatternKind::Record(fields) => fields.iter().for_each(|(_, p)| pattern(scope, p, kind)),
        }
    }
    match &s.kind {
        StmtKind::Let { pattern: p, kind, .. } => pattern(scope, p, *kind),
        StmtKind::LetIndexed { name, .. } | StmtKind::Param { name, .. } | StmtKind::SharedLayer { name, .. } => {
            scope.bind(name.text.clone(), Value::Unknown, LetKind::Let, name.span);
        }
        StmtKind::Buffer { name, .. } | StmtKind::State { name, .. } => {
            scope.bind(name.text.clone(), Value::Unknown, LetKind::Var, name.span);
        }
        StmtKind::Update { target, .. } => {
            if let ExprKind::Name(n) = &target.kind {
                scope.set(n, Value::Unknown);
            }
        }
        _ => {}
    }
}
