//! Loops: unrolled where they must be, otherwise a counted loop whose body is a graph.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::tree::describe;
use crate::value::{FnValue, Value};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, Expr, ExprKind, FnKind, For, LetKind, Pattern, Stmt, StmtKind};
use optc_front::modules::Def;
use optc_ops::{Array, Dim, Ix, Val};
use std::rc::Rc;

/// Loops of at most this many passes are unrolled: straight code fuses better.
const UNROLL_BELOW: i64 = 4;
/// Loops that must be unrolled may have at most this many passes.
pub(crate) const UNROLL_LIMIT: i64 = 10_000;
/// Loops of the script may have at most this many passes; a `while` has no such limit.
const SCRIPT_LIMIT: i64 = 1_000_000;
/// What a loop runs over.
pub(crate) enum Passes {
    /// Compile-time integers.
    Count { start: Dim, trip: Dim, reverse: bool },
    /// Run-time integers: first, one past the last.
    Bounds { start: Array, stop: Array, reverse: bool },
    /// Values known one by one.
    Items(Vec<Value>),
    /// The first axis of an array.
    Rows(Array),
    /// As long as a condition holds, but at most so often.
    While { most: Option<usize> },
    /// Not known while checking.
    Unknown,
}

/// What stays the same from attempt to attempt.
pub(crate) struct Body<'a> {
    /// What an element is bound to, in a `for`.
    pub pattern: Option<&'a Pattern>,
    pub enumerate: bool,
    /// The condition of a `while`.
    pub cond: Option<&'a Expr>,
    pub block: &'a Block,
    pub span: Span,
    /// For loops of an optimizer's body about all leaves: what is carried is theirs.
    pub lock: Option<&'a crate::optimizer::LockBody<'a>>,
}

impl Evaluator<'_> {
    pub(crate) fn for_expr(&mut self, scope: &mut Scope, l: &For, span: Span) -> Eval {
        let iter = self.expr(scope, &l.iter)?;
        let passes = self.passes(iter, l.iter.span)?;
        let body = Body { pattern: Some(&l.pattern), enumerate: l.enumerate, cond: None, block: &l.body, span, lock: None };
        if self.checking() {
            self.yields_or_leaves(&l.body)?;
            let outer = std::mem::replace(&mut self.run_time_exits, false);
            let result = self.check_loop(scope, &body, passes);
            let leaves = std::mem::replace(&mut self.run_time_exits, outer);
            if leaves && !matches!(result, Ok(Value::None) | Err(_)) {
                return self.may_not_yield(span);
            }
            return result;
        }
        self.with_exits(scope, crate::walk::exits(&l.body.stmts), |ev, scope| ev.loop_over(scope, &body, passes, l.iter.span))
    }
    fn may_not_yield<T>(&mut self, span: Span) -> Eval<T> {
        self.fail(Diagnostic::error(Code("E0354"), span, "a pass yields once, but this loop may be left before it does").help(
            if self.in_script {
                "`break` and `continue` stand in loops without `yield`; let a list grow: `ys.push(y)`"
            } else {
                "`break` and `continue` stand in loops without `yield`; write into an array: `ys[i] <- y`"
            },
        ))
    }
    /// In the script, where every condition is a run-time one: a loop that yields is not left, as in compiled code.
    ///
    /// # Errors
    /// A body with both.
    pub(crate) fn yields_or_leaves(&mut self, body: &Block) -> Eval<()> {
        match crate::walk::first_yield(&body.stmts) {
            Some(span) if self.in_script && crate::walk::exits(&body.stmts).any() => self.may_not_yield(span),
            _ => Ok(()),
        }
    }
    /// Unrolled where it must be or is short, else as one operation.
    fn loop_over(&mut self, scope: &mut Scope, body: &Body<'_>, passes: Passes, over: Span) -> Eval {
        let span = body.span;
        let unroll = self.must_unroll(scope, body.block);
        let limit = if self.may_look() { SCRIPT_LIMIT } else { UNROLL_LIMIT };
        match passes {
            Passes::Items(items) => self.unrolled(scope, body, items),
            Passes::Count { start, trip, reverse } => {
                let (Some(from), Some(n)) = (start.known(), trip.known()) else {
                    return self.error("E0344", over, "the bounds of this loop are not known at compile time");
                };
                let n = n.max(0);
                let items = || -> Vec<Value> {
                    let ids = from..from + n;
                    if reverse { ids.rev().map(|i| Value::Int(i.into())).collect() } else { ids.map(|i| Value::Int(i.into())).collect() }
                };
                if unroll || n < UNROLL_BELOW {
                    if n > limit {
                        return self.too_long(n, span);
                    }
                    return self.unrolled(scope, body, items());
                }
                let counted = Passes::Count { start, trip, reverse };
                if let Some(value) = self.attempt(scope, body, &counted)? {
                    return Ok(value);
                }
                if n > limit {
                    // Nothing else is left: show why it is no loop.
                    return self.looped(scope, body, &counted);
                }
                self.unrolled(scope, body, items())
            }
            Passes::Rows(array) => {
                let n = array.shape[0].known().unwrap_or(0);
                let rows = Passes::Rows(array.clone());
                if !unroll
                    && n >= UNROLL_BELOW
                    && let Some(value) = self.attempt(scope, body, &rows)?
                {
                    return Ok(value);
                }
                if n > limit {
                    return if unroll { self.too_long(n, span) } else { self.looped(scope, body, &rows) };
                }
                let mut items = Vec::new();
                for i in 0..n {
                    items.push(self.index(&Value::Array(array.clone()), vec![Ix::At(Val::Int(i.into()), over)], over)?);
                }
                self.unrolled(scope, body, items)
            }
            Passes::Bounds { .. } | Passes::While { .. } => {
                if unroll {
                    return self.cannot_unroll(span, body.block);
                }
                self.looped(scope, body, &passes)
            }
            Passes::Unknown => Ok(Value::Unknown),
        }
    }
    pub(crate) fn too_long<T>(&mut self, n: i64, span: Span) -> Eval<T> {
        let limit = if self.may_look() { SCRIPT_LIMIT } else { UNROLL_LIMIT };
        self.fail(
            Diagnostic::error(Code("E0717"), span, format!("this loop of {n} passes must be unrolled, and {limit} is the limit"))
                .help("loops that own parameters, print or grow lists are unrolled; move such statements out of the loop"),
        )
    }
    pub(crate) fn yields_twice<T>(&mut self, span: Span) -> Eval<T> {
        self.fail(Diagnostic::error(Code("E0354"), span, "a pass yields once").help("yield a tuple or a record: `yield (a, b)`"))
    }
    pub(crate) fn cannot_unroll<T>(&mut self, span: Span, body: &Block) -> Eval<T> {
        let holds = |s: &Stmt| matches!(s.kind, StmtKind::State { .. } | StmtKind::Param { .. });
        let asks = |e: &Expr| matches!(&e.kind, ExprKind::Field(base, _) if matches!(&base.kind, ExprKind::Name(n) if &**n == "tree"));
        if self.in_optimizer && !crate::walk::any(body, &holds, &|_| false) && crate::walk::any(body, &|_| false, &asks) {
            let d =
                Diagnostic::error(Code("E0717"), span, "a loop with run-time bounds that asks about all leaves is a statement of the body");
            return self.fail(d.help("let it update a variable: `shared var s = 0.0`, and in the loop `s <- s + tree.norm(g)`"));
        }
        self.fail(
            Diagnostic::error(Code("E0717"), span, "a loop with run-time bounds cannot own parameters, states or growing lists")
                .help("make one instance of the layer before the loop: `shared cell = …`"),
        )
    }
    pub(crate) fn cannot_stack<T>(&mut self, span: Span) -> Eval<T> {
        self.fail(
            Diagnostic::error(
                Code("E0717"),
                span,
                "a loop with run-time bounds cannot stack what it yields: the result's size would not be known",
            )
            .help("give the loop compile-time bounds, or write into an array: `ys[i] <- y`"),
        )
    }
    pub(crate) fn passes(&mut self, iter: Value, span: Span) -> Eval<Passes> {
        Ok(match iter {
            Value::Range { start, stop, reverse } => Passes::Count { trip: stop.sub(&start), start, reverse },
            Value::RunRange(start, stop, reverse) => {
                if self.may_look() {
                    let (a, b) = (self.looked_at(Value::Array(start), span)?, self.looked_at(Value::Array(stop), span)?);
                    let (Value::Int(a), Value::Int(b)) = (a, b) else {
                        return self.error("E0346", span, "the ends of a range are integers");
                    };
                    return Ok(Passes::Count { trip: b.sub(&a), start: a, reverse });
                }
                Passes::Bounds { start, stop, reverse }
            }
            Value::List(items) | Value::Tuple(items) => Passes::Items(items.to_vec()),
            Value::Record(fields) => {
                Passes::Items(fields.iter().map(|(n, v)| Value::Tuple(Rc::new(vec![Value::Str(n.clone()), v.clone()]))).collect())
            }
            Value::Series(s) => Passes::Items(s.values.iter().map(|x| Value::Float(Some(*x))).collect()),
            Value::Array(a) if !a.shape.is_empty() => Passes::Rows(a),
            Value::Unknown => Passes::Unknown,
            other => {
                let what = describe(&other);
                let d =
                    Diagnostic::error(Code("E0346"), span, format!("a loop runs over a range, a list or an array, not {what}")).at(what);
                return self.fail(if matches!(other, Value::Int(_) | Value::Array(_)) { d.help("write `0..n` for a count") } else { d });
            }
        })
    }
    /// Whether a body cannot be one graph for all passes.
    pub(crate) fn must_unroll(&mut self, scope: &Scope, body: &Block) -> bool {
        let in_script = self.may_look();
        let in_optimizer = self.in_optimizer && !self.joint_loop;
        let on_stmt = |s: &Stmt| match &s.kind {
            StmtKind::Param { .. }
            | StmtKind::Buffer { .. }
            | StmtKind::State { .. }
            | StmtKind::SharedLayer { .. }
            | StmtKind::Eval { .. }
            | StmtKind::Output { .. }
            | StmtKind::Check { .. }
            | StmtKind::Sweep { .. } => true,
            StmtKind::Break(_) | StmtKind::Continue(_) => in_script,
            _ => false,
        };
        let program = self.program;
        let names = self.instance.names.clone();
        let on_expr = |e: &Expr| match &e.kind {
            ExprKind::Run { .. } | ExprKind::Time(_) | ExprKind::NameCall(..) => true,
            ExprKind::Call { callee, .. } => {
                names.contains_key(&e.id)
                    || match &callee.kind {
                        ExprKind::Field(base, n) => {
                            matches!(&*n.text, "push" | "pop")
                                || (in_optimizer && matches!(&base.kind, ExprKind::Name(b) if &**b == "tree"))
                        }
                        ExprKind::Name(n) => match scope.get(n).map(|b| &b.value) {
                            Some(Value::Model(m)) => m.params.is_none() && m.shared_path.is_none(),
                            Some(Value::Fn(f)) => match &**f {
                                FnValue::Item(i) => is_layer(program, *i),
                                _ => false,
                            },
                            Some(_) => false,
                            None => match program.lookup(scope.module, n) {
                                Some(Def::Item(i)) => is_layer(program, i),
                                _ => false,
                            },
                        },
                        _ => false,
                    }
            }
            ExprKind::Pipe(_, f) => names.contains_key(&f.id),
            _ => false,
        };
        crate::walk::any(body, &on_stmt, &on_expr)
    }
    /// Pass by pass.
    pub(crate) fn unrolled(&mut self, scope: &mut Scope, body: &Body<'_>, items: Vec<Value>) -> Eval {
        if self.may_look() { self.in_script_loop(|ev| ev.passes_of(scope, body, items)) } else { self.passes_of(scope, body, items) }
    }
    fn passes_of(&mut self, scope: &mut Scope, body: &Body<'_>, items: Vec<Value>) -> Eval {
        let carried = crate::walk::updated(&body.block.stmts);
        let script = self.may_look() && items.len() > 1;
        self.yields.push(Vec::new());
        let mut all = Vec::new();
        let mut result = Ok(());
        for (i, item) in items.into_iter().enumerate() {
            self.instance.passes.push(i);
            self.counters.push(Value::Int(i.into()));
            scope.push();
            let bound = self.bind_element(scope, body, item, Value::Int(i.into()));
            let passed = match bound {
                Ok(()) => self.pass_statements(scope, &body.block.stmts, body.span),
                Err(stop) => Err(stop),
            };
            scope.pop();
            self.counters.pop();
            self.instance.passes.pop();
            let own = std::mem::take(self.yields.last_mut().expect("pushed above"));
            if own.len() > 1 {
                result = self.yields_twice(body.span);
                break;
            }
            all.extend(own);
            if let Err(stop) = passed {
                result = Err(stop);
                break;
            }
            if self.loop_is_over(scope) {
                break;
            }
            if script {
                // What the next pass starts from is computed now, so that each pass runs the same compiled code.
                let mut values: Vec<Value> = carried.iter().filter_map(|n| scope.get(n)).map(|b| b.value.clone()).collect();
                values.append(&mut self.script.pushed);
                if let Err(stop) = self.force_tree(&Value::Tuple(Rc::new(values)), body.span) {
                    result = Err(stop);
                    break;
                }
            }
        }
        self.yields.pop();
        result?;
        if all.is_empty() { Ok(Value::None) } else { self.stack(&all, body.span) }
    }
    /// Stacks the values of the passes, leaf by leaf.
    pub(crate) fn stack(&mut self, values: &[Value], span: Span) -> Eval {
        self.zip_trees(values, span, &mut |ev, row| {
            if row.iter().any(|v| matches!(v, Value::Unknown)) {
                return Ok(Value::Unknown);
            }
            let mut arrays = Vec::new();
            for v in row {
                arrays.push(Value::Array(ev.array_of(v, span)?));
            }
            ev.call_op("stack", vec![Value::List(Rc::new(arrays))], span)
        })
    }
    pub(crate) fn bind_element(&mut self, scope: &mut Scope, body: &Body<'_>, item: Value, position: Value) -> Eval<()> {
        let Some(pattern) = body.pattern else { return Ok(()) };
        if body.enumerate {
            let pair = Value::Tuple(Rc::new(vec![position, item]));
            return self.bind_pattern(scope, pattern, pair, LetKind::Let);
        }
        self.bind_pattern(scope, pattern, item, LetKind::Let)
    }
}

fn is_layer(program: &optc_front::modules::Program, item: optc_front::ItemRef) -> bool {
    matches!(&program.item(item).kind, optc_front::ast::ItemKind::Fn(f) if matches!(f.kind, FnKind::Layer | FnKind::Model))
}
