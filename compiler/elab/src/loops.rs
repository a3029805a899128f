//! Loops: unrolled where they must be, otherwise a counted loop whose body is a graph.

use crate::cond::LeafTy;
use crate::evaluator::{Eval, Evaluator, Stop};
use crate::scope::Scope;
use crate::tree::{describe, leaves, rebuild};
use crate::value::{FnValue, Value};
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, Expr, ExprKind, FnKind, For, LetKind, Pattern, Stmt, StmtKind};
use optc_front::modules::Def;
use optc_ir::graph::LoopOp;
use optc_ops::{Array, Dim, Ix, Val};
use std::rc::Rc;
use std::sync::Arc;

/// Loops of at most this many passes are unrolled: straight code fuses better.
const UNROLL_BELOW: i64 = 4;
/// Loops that must be unrolled may have at most this many passes.
pub(crate) const UNROLL_LIMIT: i64 = 10_000;
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
    /// Not known while checking.
    Unknown,
}

/// A pass of a loop as a graph.
struct Pass {
    outs: Vec<Value>,
    yields: Vec<Value>,
}

/// What stays the same from attempt to attempt.
pub(crate) struct Body<'a> {
    pub pattern: &'a Pattern,
    pub enumerate: bool,
    pub block: &'a Block,
    pub span: Span,
}

impl Evaluator<'_> {
    pub(crate) fn for_expr(&mut self, scope: &mut Scope, l: &For, span: Span) -> Eval {
        let iter = self.expr(scope, &l.iter)?;
        let passes = self.passes(iter, l.iter.span)?;
        let body = Body { pattern: &l.pattern, enumerate: l.enumerate, block: &l.body, span };
        if self.checking() {
            return self.check_loop(scope, &body, passes);
        }
        let unroll = self.must_unroll(scope, &l.body);
        match passes {
            Passes::Items(items) => self.unrolled(scope, &body, items),
            Passes::Count { start, trip, reverse } => {
                let (Some(from), Some(n)) = (start.known(), trip.known()) else {
                    return self.error("E0344", l.iter.span, "the bounds of this loop are not known at compile time");
                };
                let n = n.max(0);
                let items = || -> Vec<Value> {
                    let ids = from..from + n;
                    if reverse { ids.rev().map(|i| Value::Int(i.into())).collect() } else { ids.map(|i| Value::Int(i.into())).collect() }
                };
                if unroll || n < UNROLL_BELOW {
                    if n > UNROLL_LIMIT {
                        return self.too_long(n, span);
                    }
                    return self.unrolled(scope, &body, items());
                }
                let counted = Passes::Count { start, trip, reverse };
                if let Some(value) = self.attempt(scope, &body, &counted)? {
                    return Ok(value);
                }
                if n > UNROLL_LIMIT {
                    // Nothing else is left: show why it is no loop.
                    return self.looped(scope, &body, &counted);
                }
                self.unrolled(scope, &body, items())
            }
            Passes::Rows(array) => {
                let n = array.shape[0].known().unwrap_or(0);
                let rows = Passes::Rows(array.clone());
                if !unroll
                    && n >= UNROLL_BELOW
                    && let Some(value) = self.attempt(scope, &body, &rows)?
                {
                    return Ok(value);
                }
                if n > UNROLL_LIMIT {
                    return if unroll { self.too_long(n, span) } else { self.looped(scope, &body, &rows) };
                }
                let mut items = Vec::new();
                for i in 0..n {
                    items.push(self.index(&Value::Array(array.clone()), vec![Ix::At(Val::Int(i.into()), l.iter.span)], l.iter.span)?);
                }
                self.unrolled(scope, &body, items)
            }
            Passes::Bounds { .. } => {
                if unroll {
                    return self.cannot_unroll(span);
                }
                self.looped(scope, &body, &passes)
            }
            Passes::Unknown => Ok(Value::Unknown),
        }
    }
    pub(crate) fn too_long<T>(&mut self, n: i64, span: Span) -> Eval<T> {
        self.fail(
            Diagnostic::error(Code("E0717"), span, format!("this loop of {n} passes must be unrolled, and {UNROLL_LIMIT} is the limit"))
                .help("loops that own parameters, print or grow lists are unrolled; move such statements out of the loop"),
        )
    }
    pub(crate) fn cannot_unroll<T>(&mut self, span: Span) -> Eval<T> {
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
        let in_optimizer = self.in_optimizer;
        let on_stmt = |s: &Stmt| match &s.kind {
            StmtKind::Param { .. }
            | StmtKind::Buffer { .. }
            | StmtKind::State { .. }
            | StmtKind::SharedLayer { .. }
            | StmtKind::Metric { .. }
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
        let carried = crate::walk::assigned(body.block);
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
                Ok(()) => self.block(scope, body.block),
                Err(stop) => Err(stop),
            };
            scope.pop();
            self.counters.pop();
            self.instance.passes.pop();
            all.append(self.yields.last_mut().expect("pushed above"));
            match passed {
                Ok(_) | Err(Stop::Continue) => {}
                Err(Stop::Break) => break,
                Err(stop) => {
                    result = Err(stop);
                    break;
                }
            }
            if script {
                // What the next pass starts from is computed now, so that each pass runs the same compiled code.
                let values: Vec<Value> = carried.iter().filter_map(|n| scope.get(n)).map(|b| b.value.clone()).collect();
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
        if body.enumerate {
            let pair = Value::Tuple(Rc::new(vec![position, item]));
            return self.bind_pattern(scope, body.pattern, pair, LetKind::Let);
        }
        self.bind_pattern(scope, body.pattern, item, LetKind::Let)
    }
    /// Tries a loop; `None` if the body is no loop body, with everything as before.
    fn attempt(&mut self, scope: &mut Scope, body: &Body<'_>, passes: &Passes) -> Eval<Option<Value>> {
        let known = self.diagnostics.len();
        let saved = (scope.clone(), self.params.clone(), self.recorder.clone(), self.counters.clone());
        let yields = self.yields.clone();
        match self.looped(scope, body, passes) {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                self.diagnostics.truncate(known);
                (*scope, self.params, self.recorder, self.counters) = saved;
                self.yields = yields;
                Ok(None)
            }
        }
    }
    /// The loop as one operation.
    fn looped(&mut self, scope: &mut Scope, body: &Body<'_>, passes: &Passes) -> Eval {
        if self.initializing() {
            return self.one_pass(scope, body, passes);
        }
        let names: Vec<Arc<str>> = crate::walk::assigned(body.block).into_iter().filter(|n| scope.get(n).is_some()).collect();
        let done = has_break(body.block);
        let mut initial: Vec<Value> = Vec::new();
        for name in &names {
            let value = scope.get(name).map_or(Value::Unknown, |b| b.value.clone());
            let value = self.schedule_now(&value, body.span)?;
            initial.push(self.map_tree(&value, body.span, &mut |ev, _, leaf| match leaf {
                Value::List(_) => ev.array_of(leaf, body.span).map(Value::Array),
                other => Ok(other.clone()),
            })?);
        }
        if done {
            initial.push(Value::Bool(Some(false)));
        }
        for (name, value) in names.iter().zip(&initial) {
            if leaves(value).is_empty() && !matches!(value, Value::Tuple(_) | Value::Record(_) | Value::List(_)) {
                return self.fail(
                    Diagnostic::error(
                        Code("E0345"),
                        body.span,
                        format!("`{name}` is {} and cannot change from pass to pass", describe(value)),
                    )
                    .help("a loop carries arrays, numbers and trees of them"),
                );
            }
        }
        let mut types: Vec<LeafTy> = initial.iter().flat_map(leaves).filter_map(|(_, v)| LeafTy::of(&v)).collect();
        // Numbers take the type of what they become: find it first.
        let mut rounds = 0;
        let (pass, graph, captured) = loop {
            let attempt = self.pass(scope, body, passes, &names, &initial, &types)?;
            let (pass, ..) = &attempt;
            let mut settled = true;
            let outs: Vec<(Arc<str>, Value)> = pass.outs.iter().flat_map(leaves).collect();
            for (k, (_, out)) in outs.iter().enumerate() {
                let Some(have) = self.leaf_ty(out, body.span)? else {
                    return self.changes(&names, &initial, k, "", &describe(out), body.span);
                };
                if have == types[k] || (have.weak && !types[k].weak && have.meet(&types[k]).is_some()) {
                    continue;
                }
                let met = have.meet(&types[k]);
                let grown = types[k].weak && met.is_some();
                if !grown || rounds > 2 {
                    if met.is_some() && !types[k].weak && met.as_ref() == Some(&types[k]) {
                        continue;
                    }
                    return self.changes(&names, &initial, k, &types[k].text(), &have.text(), body.span);
                }
                types[k] = met.expect("checked");
                settled = false;
            }
            if settled {
                break attempt;
            }
            rounds += 1;
        };
        self.emit_loop(scope, body, passes, names, initial, types, pass, graph, captured)
    }
    fn changes<T>(&mut self, names: &[Arc<str>], initial: &[Value], leaf: usize, before: &str, after: &str, span: Span) -> Eval<T> {
        let mut at = 0;
        let mut name: Arc<str> = "a variable".into();
        for (n, value) in names.iter().zip(initial) {
            let count = leaves(value).len();
            if (at..at + count).contains(&leaf) {
                name = n.clone();
            }
            at += count;
        }
        self.carried_changes(&name, before, after, span)
    }
    fn carried_changes<T>(&mut self, name: &str, before: &str, after: &str, span: Span) -> Eval<T> {
        self.fail(
            Diagnostic::error(Code("E0424"), span, format!("`{name}` changes its type from pass to pass"))
                .note(format!("it is {before} before a pass and {after} after it"))
                .help("what a loop carries keeps its element type and shape"),
        )
    }
    /// One pass as a graph: inputs are the counter, the carried leaves, the slice of the array run over; outputs carried leaves, then yields.
    fn pass(
        &mut self,
        scope: &Scope,
        body: &Body<'_>,
        passes: &Passes,
        names: &[Arc<str>],
        initial: &[Value],
        types: &[LeafTy],
    ) -> Eval<(Pass, optc_ir::Graph, Vec<Array>)> {
        let mut inner = scope.clone();
        let recorder = self.recorder.clone();
        let depth = self.counters.len();
        let passes_before = self.instance.passes.len();
        self.yields.push(Vec::new());
        let result = self.subgraph(|ev| {
            let counter = Array { weak: true, ..ev.cx.input("i", DType::I32, &[]) };
            let mut carried = Vec::new();
            for (k, ty) in types.iter().enumerate() {
                let shape = ev.known_shape(&ty.shape);
                let input = ev.cx.input(&format!("carried.{k}"), ty.dtype, &shape);
                carried.push(Value::Array(Array { weak: ty.weak, ..input }));
            }
            let mut carried = carried.into_iter();
            for (name, value) in names.iter().zip(initial) {
                let value = rebuild(value, &mut carried);
                inner.set(name, value);
            }
            let done = if initial.len() > names.len() { carried.next() } else { None };
            let element = match passes {
                Passes::Rows(a) => {
                    let shape = ev.known_shape(&a.shape[1..]);
                    Value::Array(ev.cx.input("row", a.dtype, &shape))
                }
                Passes::Count { start, .. } if start.known() == Some(0) => Value::Array(counter.clone()),
                Passes::Count { start, .. } => ev.weak_sum(&counter, Value::Int(start.clone()), body.span)?,
                Passes::Bounds { start, .. } => ev.weak_sum(&counter, Value::Array(start.clone()), body.span)?,
                Passes::Items(_) | Passes::Unknown => Value::Unknown,
            };
            ev.counters.push(Value::Array(counter.clone()));
            inner.push();
            ev.bind_element(&mut inner, body, element, Value::Array(counter))?;
            inner.push();
            let before = ev.values_of(&inner, names);
            let left = ev.guarded(&mut inner, names, &body.block.stmts)?;
            inner.pop();
            inner.pop();
            let mut outs = ev.values_of(&inner, names);
            if let Some(done) = done {
                for (out, old) in outs.iter_mut().zip(&before) {
                    *out = ev.choose(&done, old, out, body.span)?;
                }
                let left = left.unwrap_or(Value::Bool(Some(false)));
                outs.push(ev.arithmetic(optc_front::ast::BinaryOp::Or, done, left, body.span)?);
            }
            let yields = ev.yields.last().cloned().unwrap_or_default();
            // Outputs in the types settled so far; leaves that do not fit yet are left for the next round.
            let mut arrays = Vec::new();
            for (out, ty) in outs.iter().flat_map(leaves).map(|(_, v)| v).zip(types) {
                if let Some(a) = ev.as_type(&out, ty, body.span)? {
                    arrays.push(a);
                }
            }
            for y in &yields {
                for (_, leaf) in leaves(y) {
                    arrays.push(ev.array_of(&leaf, body.span)?);
                }
            }
            Ok((Pass { outs, yields }, arrays))
        });
        self.yields.pop();
        self.counters.truncate(depth);
        self.instance.passes.truncate(passes_before);
        self.recorder = recorder;
        result
    }
    pub(crate) fn values_of(&self, scope: &Scope, names: &[Arc<str>]) -> Vec<Value> {
        names.iter().map(|n| scope.get(n).map_or(Value::Unknown, |b| b.value.clone())).collect()
    }
    fn weak_sum(&mut self, counter: &Array, by: Value, span: Span) -> Eval {
        match self.arithmetic(optc_front::ast::BinaryOp::Add, Value::Array(counter.clone()), by, span)? {
            Value::Array(a) => Ok(Value::Array(Array { weak: true, ..a })),
            other => Ok(other),
        }
    }
    /// A value as an array of a type; `None` if it does not fit.
    fn as_type(&mut self, value: &Value, ty: &LeafTy, span: Span) -> Eval<Option<Array>> {
        let Some(have) = self.leaf_ty(value, span)? else { return Ok(None) };
        if have.meet(ty).as_ref() != Some(ty) {
            return Ok(None);
        }
        let array = match value {
            Value::Array(a) if a.weak == ty.weak && a.dtype == ty.dtype => a.clone(),
            Value::Array(a) if a.weak && ty.weak => match self.cast(&Value::Array(Array { weak: false, ..a.clone() }), ty.dtype, span)? {
                Value::Array(a) => a,
                _ => return Ok(None),
            },
            other => {
                let val = self.val_of(other, span)?;
                self.cx.at(span);
                let result = optc_ops::materialize(&mut self.cx, &val, Some(ty.dtype));
                self.lift(result, span)?
            }
        };
        let result = optc_ops::broadcast_to(&mut self.cx, &array, &ty.shape);
        let array = self.lift(result, span)?;
        Ok(Some(Array { weak: ty.weak, ..array }))
    }
    /// The statements of a loop body; what follows `break if c` and `continue if c` only counts where `c` is false. Gives the condition under which the loop ends.
    fn guarded(&mut self, scope: &mut Scope, names: &[Arc<str>], stmts: &[Stmt]) -> Eval<Option<Value>> {
        for (k, s) in stmts.iter().enumerate() {
            let Some((cond, breaks)) = exit(s) else {
                self.stmt(scope, s)?;
                continue;
            };
            let value = self.expr(scope, cond)?;
            match self.truth(&value, cond.span)? {
                Some(false) => continue,
                Some(true) => return if breaks { Err(Stop::Break) } else { Err(Stop::Continue) },
                None => {}
            }
            let before = self.values_of(scope, names);
            let left = self.guarded(scope, names, &stmts[k + 1..])?;
            let after = self.values_of(scope, names);
            for ((name, old), new) in names.iter().zip(&before).zip(&after) {
                let chosen = self.choose(&value, old, new, cond.span)?;
                scope.set(name, chosen);
            }
            use optc_front::ast::{BinaryOp, UnaryOp};
            let not = self.prefix(UnaryOp::Not, value.clone(), cond.span)?;
            let later = match left {
                Some(l) => Some(self.arithmetic(BinaryOp::And, not, l, cond.span)?),
                None => None,
            };
            return Ok(match (breaks, later) {
                (true, Some(l)) => Some(self.arithmetic(BinaryOp::Or, value, l, cond.span)?),
                (true, None) => Some(value),
                (false, later) => later,
            });
        }
        Ok(None)
    }
    fn emit_loop(
        &mut self,
        scope: &mut Scope,
        body: &Body<'_>,
        passes: &Passes,
        names: Vec<Arc<str>>,
        initial: Vec<Value>,
        types: Vec<LeafTy>,
        pass: Pass,
        graph: optc_ir::Graph,
        captured: Vec<Array>,
    ) -> Eval {
        let span = body.span;
        self.cx.at(span);
        let origin = self.cx.origin;
        let mut operands = Vec::new();
        let (trip, reverse) = match passes {
            Passes::Count { trip, reverse, .. } => (Some(trip.known().unwrap_or(0).max(0) as usize), *reverse),
            Passes::Rows(a) => (Some(a.shape[0].known().unwrap_or(0) as usize), false),
            Passes::Bounds { start, stop, reverse } => {
                if !pass.yields.is_empty() {
                    return self.cannot_stack(span);
                }
                let count =
                    self.arithmetic(optc_front::ast::BinaryOp::Sub, Value::Array(stop.clone()), Value::Array(start.clone()), span)?;
                let count = self.call_op("maximum", vec![count, Value::Int(0i64.into())], span)?;
                let count = self.cast(&count, DType::I32, span)?;
                let count = self.array_of(&count, span)?;
                operands.push(self.cx.node(&count));
                (None, *reverse)
            }
            Passes::Items(_) | Passes::Unknown => return Ok(Value::Unknown),
        };
        for ((_, value), ty) in initial.iter().flat_map(leaves).zip(&types) {
            let Some(a) = self.as_type(&value, ty, span)? else {
                return self.carried_changes("a variable", &describe(&value), &ty.text(), span);
            };
            operands.push(self.cx.node(&a));
        }
        let mut scanned = 0;
        if let Passes::Rows(a) = passes {
            operands.push(self.cx.node(a));
            scanned = 1;
        }
        operands.extend(captured.iter().map(|c| self.cx.node(c)).collect::<Vec<_>>());
        let carried = types.len();
        let results = if graph.outputs.is_empty() {
            Vec::new()
        } else {
            let op = LoopOp { trip, reverse, carried, scanned, body: Arc::new(graph) };
            self.cx.graph().loop_results(op, &operands, origin)
        };
        let arrays: Vec<Array> = results.into_iter().map(|n| self.cx.array(n)).collect();
        let (carried, stacked) = arrays.split_at(carried.min(arrays.len()));
        let mut carried = carried.iter().zip(&types).map(|(a, ty)| Value::Array(Array { weak: ty.weak, ..a.clone() }));
        for (name, value) in names.iter().zip(&initial) {
            let value = rebuild(value, &mut carried);
            scope.set(name, value);
            self.record_buffer(scope, name);
        }
        match pass.yields.as_slice() {
            [] => Ok(Value::None),
            [one] => Ok(rebuild(one, &mut stacked.iter().cloned().map(Value::Array))),
            _ => self.fail(Diagnostic::error(Code("E0346"), span, "a pass yields once").help("yield a tuple or a record: `yield (a, b)`")),
        }
    }
    /// While parameters are drawn, values do not matter: one pass in the graph at hand shows all parameters.
    fn one_pass(&mut self, scope: &mut Scope, body: &Body<'_>, passes: &Passes) -> Eval {
        let (trip, item) = match passes {
            Passes::Count { start, trip, .. } => (trip.known(), Value::Array(self.weak_int(start))),
            Passes::Rows(a) => {
                let row = self.index(&Value::Array(a.clone()), vec![Ix::At(Val::Int(0i64.into()), body.span)], body.span)?;
                (a.shape[0].known(), row)
            }
            Passes::Bounds { start, .. } => (None, Value::Array(Array { weak: true, ..start.clone() })),
            Passes::Items(_) | Passes::Unknown => return Ok(Value::Unknown),
        };
        let zero = self.weak_int(&Dim::zero());
        self.yields.push(Vec::new());
        self.counters.push(Value::Array(zero.clone()));
        scope.push();
        let mut passed = self.bind_element(scope, body, item, Value::Array(zero)).map(|()| Value::None);
        if passed.is_ok() {
            let names: Vec<Arc<str>> = crate::walk::assigned(body.block).into_iter().filter(|n| scope.get(n).is_some()).collect();
            scope.push();
            passed = self.guarded(scope, &names, &body.block.stmts).map(|_| Value::None);
            scope.pop();
        }
        scope.pop();
        self.counters.pop();
        let yields = self.yields.pop().unwrap_or_default();
        passed?;
        let (Some(one), Some(n)) = (yields.first(), trip) else { return Ok(Value::None) };
        let span = body.span;
        self.map_tree(one, span, &mut |ev, _, leaf| {
            let a = ev.array_of(leaf, span)?;
            let mut shape = vec![Dim::from(n)];
            shape.extend(a.shape.iter().cloned());
            let result = optc_ops::broadcast_to(&mut ev.cx, &a, &shape);
            ev.lift(result, span).map(Value::Array)
        })
    }
    fn weak_int(&mut self, d: &Dim) -> Array {
        let value = d.known().unwrap_or(0);
        let array = self.literal(optc_abi::Tensor::from_slice::<i32>(&[], &[value as i32]));
        Array { weak: true, ..array }
    }
}

/// `break if c`, `continue if c`, `if c { break }`: the condition, and whether it breaks.
fn exit(s: &Stmt) -> Option<(&Expr, bool)> {
    match &s.kind {
        StmtKind::Break(Some(c)) => Some((c, true)),
        StmtKind::Continue(Some(c)) => Some((c, false)),
        StmtKind::Expr(Expr { kind: ExprKind::If { cond, then, otherwise: None }, .. }) => match then.stmts.as_slice() {
            [Stmt { kind: StmtKind::Break(None), .. }] => Some((cond, true)),
            [Stmt { kind: StmtKind::Continue(None), .. }] => Some((cond, false)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the body itself holds a `break`.
fn has_break(b: &Block) -> bool {
    b.stmts.iter().any(|s| exit(s).is_some_and(|(_, breaks)| breaks))
}

fn is_layer(program: &optc_front::modules::Program, item: optc_front::ItemRef) -> bool {
    matches!(&program.item(item).kind, optc_front::ast::ItemKind::Fn(f) if matches!(f.kind, FnKind::Layer | FnKind::Model))
}
