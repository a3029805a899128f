//! Loops as one operation: a counted loop whose body is a graph.

use crate::cond::LeafTy;
use crate::evaluator::{Eval, Evaluator};
use crate::exits::DONE;
use crate::loops::{Body, Passes};
use crate::scope::Scope;
use crate::tally::{Count, Recorded, Tally};
use crate::tree::{describe, leaves, rebuild};
use crate::value::Value;
use crate::while_loop::GO;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::LetKind;
use optc_ir::Graph;
use optc_ir::graph::{Guard, LoopOp};
use optc_ops::{Array, Dim, Ix, Val};
use std::sync::Arc;

/// What goes from pass to pass.
struct Carried {
    /// Variables that are updated.
    names: Vec<Arc<str>>,
    /// Buffers, by path, that layers called in the body update.
    paths: Vec<Arc<str>>,
    /// Values before the first pass: of the names, then of the paths.
    initial: Vec<Value>,
    /// Types of their leaves.
    types: Vec<LeafTy>,
}

/// A pass as a graph: inputs are the counter, the carried leaves, the row of the array run over; outputs the carried leaves, what is yielded, what is recorded.
struct Pass {
    outs: Vec<Value>,
    yields: Vec<Value>,
    recorded: Recorded,
    graph: Graph,
    captured: Vec<Array>,
}

impl Evaluator<'_> {
    /// Tries a loop; `None` if the body is no loop body, with everything as before.
    pub(crate) fn attempt(&mut self, scope: &mut Scope, body: &Body<'_>, passes: &Passes) -> Eval<Option<Value>> {
        let known = self.diagnostics.len();
        let saved = (scope.clone(), self.params.clone(), self.recorder.clone(), self.counters.clone());
        let (yields, exits) = (self.yields.clone(), self.exits);
        match self.looped(scope, body, passes) {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                self.diagnostics.truncate(known);
                (*scope, self.params, self.recorder, self.counters) = saved;
                (self.yields, self.exits) = (yields, exits);
                Ok(None)
            }
        }
    }
    /// The loop as one operation.
    pub(crate) fn looped(&mut self, scope: &mut Scope, body: &Body<'_>, passes: &Passes) -> Eval {
        if self.initializing() {
            return self.one_pass(scope, body, passes);
        }
        if self.may_end(body, passes) {
            scope.bind(GO, Value::Bool(Some(true)), LetKind::Var, body.span);
        }
        let mut carried = self.carried(scope, body, passes)?;
        // Numbers take the type of what they become, and buffers show when a pass is seen: find both first.
        let mut rounds = 0;
        let pass = loop {
            let pass = self.pass(scope, body, passes, &carried)?;
            let mut settled = !self.carry_buffers(&mut carried, &pass.recorded);
            let outs: Vec<(Arc<str>, Value)> = pass.outs.iter().flat_map(leaves).collect();
            for (k, (_, out)) in outs.iter().enumerate() {
                let Some(have) = self.leaf_ty(out, body.span)? else {
                    return self.changes(&carried, k, "", &describe(out), body.span);
                };
                let ty = &carried.types[k];
                if have == *ty || (have.weak && !ty.weak && have.meet(ty).is_some()) {
                    continue;
                }
                let met = have.meet(ty);
                let grown = ty.weak && met.is_some();
                if !grown || rounds > 2 {
                    if met.is_some() && !ty.weak && met.as_ref() == Some(ty) {
                        continue;
                    }
                    let before = ty.text();
                    return self.changes(&carried, k, &before, &have.text(), body.span);
                }
                carried.types[k] = met.expect("checked");
                settled = false;
            }
            if settled {
                break pass;
            }
            rounds += 1;
        };
        self.emit_loop(scope, body, passes, &carried, pass)
    }
    /// Whether a loop of a known number of passes may end before: then it ends as a `while` does, and passes after a `break` cost nothing.
    fn may_end(&self, body: &Body<'_>, passes: &Passes) -> bool {
        self.exits.breaks && body.cond.is_none() && body.lock.is_none() && matches!(passes, Passes::Count { reverse: false, .. })
    }
    /// What the body updates, as far as its text shows.
    fn carried(&mut self, scope: &Scope, body: &Body<'_>, passes: &Passes) -> Eval<Carried> {
        let mut names: Vec<Arc<str>> = crate::walk::assigned(&body.block.stmts).into_iter().filter(|n| scope.get(n).is_some()).collect();
        if body.cond.is_some() || self.may_end(body, passes) {
            // Says whether there is another pass, also after a `break`.
            names.insert(0, GO.into());
        } else if self.exits.breaks {
            names.push(DONE.into());
        }
        if let Some(lock) = body.lock {
            names = body.cond.iter().map(|_| GO.into()).chain(lock.names.iter().cloned()).collect();
        }
        let mut initial: Vec<Value> = Vec::new();
        for name in &names {
            let value = scope.get(name).map_or(Value::Unknown, |b| b.value.clone());
            let value = self.schedule_now(&value, body.span)?;
            let value = self.map_tree(&value, body.span, &mut |ev, _, leaf| match leaf {
                Value::List(_) => ev.array_of(leaf, body.span).map(Value::Array),
                other => Ok(other.clone()),
            })?;
            if leaves(&value).is_empty() && !matches!(value, Value::Tuple(_) | Value::Record(_) | Value::List(_)) {
                return self.fail(
                    Diagnostic::error(
                        Code("E0424"),
                        body.span,
                        format!("`{name}` is {} and cannot change from pass to pass", describe(&value)),
                    )
                    .help("a loop carries arrays, numbers and trees of them"),
                );
            }
            initial.push(value);
        }
        let types = initial.iter().flat_map(leaves).filter_map(|(_, v)| LeafTy::of(&v)).collect();
        Ok(Carried { names, paths: Vec::new(), initial, types })
    }
    /// Has the buffers that a pass changed carried; whether there are new ones.
    fn carry_buffers(&mut self, carried: &mut Carried, recorded: &Recorded) -> bool {
        let count = carried.paths.len();
        for (path, _) in &recorded.buffers {
            // Those of the layer at hand are carried as the variables they are.
            let own = self.instance.buffers.iter().any(|(n, p)| p == path && carried.names.contains(n));
            if own || carried.paths.contains(path) {
                continue;
            }
            if let Some(before) = self.buffer_before(path) {
                let value = Value::Array(before);
                carried.types.extend(LeafTy::of(&value));
                carried.initial.push(value);
                carried.paths.push(path.clone());
            }
        }
        carried.paths.len() > count
    }
    fn changes<T>(&mut self, carried: &Carried, leaf: usize, before: &str, after: &str, span: Span) -> Eval<T> {
        let mut at = 0;
        let mut name: Arc<str> = "a variable".into();
        for (n, value) in carried.names.iter().chain(&carried.paths).zip(&carried.initial) {
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
    /// One pass as a graph of its own.
    fn pass(&mut self, scope: &Scope, body: &Body<'_>, passes: &Passes, carried: &Carried) -> Eval<Pass> {
        let mut inner = scope.clone();
        let (depth, place) = (self.counters.len(), self.instance.clone());
        self.yields.push(Vec::new());
        let result = self.subgraph(|ev| {
            let ((outs, yields), recorded) = ev.recording(|ev| ev.one_turn(&mut inner, body, passes, carried))?;
            // Outputs in the types settled so far; leaves that do not fit yet are left for the next round.
            let mut arrays = Vec::new();
            for (out, ty) in outs.iter().flat_map(leaves).map(|(_, v)| v).zip(&carried.types) {
                if let Some(a) = ev.as_type(&out, ty, body.span)? {
                    arrays.push(a);
                }
            }
            for y in &yields {
                for (_, leaf) in leaves(y) {
                    arrays.push(ev.array_of(&leaf, body.span)?);
                }
            }
            let metrics = Recorded { buffers: Vec::new(), metrics: recorded.metrics.clone() };
            arrays.extend(metrics.arrays());
            Ok(((outs, yields, recorded), arrays))
        });
        self.yields.pop();
        self.counters.truncate(depth);
        self.instance = place;
        let ((outs, yields, recorded), graph, captured) = result?;
        Ok(Pass { outs, yields, recorded, graph, captured })
    }
    /// Evaluates a pass in the graph on top, whose inputs it makes: gives the carried values after it, and what it yields.
    fn one_turn(&mut self, inner: &mut Scope, body: &Body<'_>, passes: &Passes, carried: &Carried) -> Eval<(Vec<Value>, Vec<Value>)> {
        let counter = Array { weak: true, ..self.cx.input("i", DType::I32, &[]) };
        let mut inputs = Vec::new();
        for (k, ty) in carried.types.iter().enumerate() {
            let shape = self.known_shape(&ty.shape);
            let input = self.cx.input(&format!("carried.{k}"), ty.dtype, &shape);
            inputs.push(Value::Array(Array { weak: ty.weak, ..input }));
        }
        let element = match passes {
            Passes::Rows(a) => {
                let shape = self.known_shape(&a.shape[1..]);
                Value::Array(self.cx.input("row", a.dtype, &shape))
            }
            Passes::Count { start, .. } if start.known() == Some(0) => Value::Array(counter.clone()),
            Passes::Count { start, .. } => self.weak_sum(&counter, Value::Int(start.clone()), body.span)?,
            Passes::Bounds { start, .. } => self.weak_sum(&counter, Value::Array(start.clone()), body.span)?,
            Passes::Items(_) | Passes::While { .. } | Passes::Unknown => Value::Unknown,
        };
        let mut inputs = inputs.into_iter();
        for (name, value) in carried.names.iter().zip(&carried.initial) {
            inner.set(name, rebuild(value, &mut inputs));
        }
        for path in &carried.paths {
            if let (Some(buffers), Some(Value::Array(a))) = (&mut self.recorder.buffers, inputs.next()) {
                buffers.insert(path.clone(), a);
            }
        }
        self.counters.push(Value::Array(counter.clone()));
        if let Some(lock) = body.lock {
            self.locked_pass(inner, body, lock, element, Value::Array(counter))?;
        } else {
            inner.push();
            self.bind_element(inner, body, element, Value::Array(counter))?;
            self.pass_statements(inner, &body.block.stmts, body.span)?;
            inner.pop();
            if let Some(cond) = body.cond {
                let go = self.goes_on(inner, cond)?;
                inner.set(GO, go);
            } else if self.may_end(body, passes) {
                let done = inner.get(DONE).map_or(Value::Unknown, |b| b.value.clone());
                let go = self.prefix(optc_front::ast::UnaryOp::Not, done, body.span)?;
                inner.set(GO, go);
            }
        }
        let mut outs = self.values_of(inner, &carried.names);
        for path in &carried.paths {
            let now = self.recorder.buffers.as_ref().and_then(|b| b.get(path)).expect("a buffer that was put there");
            outs.push(Value::Array(now.clone()));
        }
        Ok((outs, self.yields.last().cloned().unwrap_or_default()))
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
    /// The operation, with the metrics of its passes summed up in carried scalars of their own.
    fn emit_loop(&mut self, scope: &mut Scope, body: &Body<'_>, passes: &Passes, carried: &Carried, pass: Pass) -> Eval {
        let span = body.span;
        self.cx.at(span);
        let origin = self.cx.origin;
        let mut operands = Vec::new();
        let mut guard = None;
        let (trip, reverse) = match passes {
            Passes::Count { trip, .. } if self.may_end(body, passes) => {
                let most = trip.known().unwrap_or(0).max(0) as usize;
                operands.push(self.cx.graph().scalar(DType::I32, most as f64, origin));
                guard = Some(Guard { most: Some(most) });
                (None, false)
            }
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
            Passes::While { most } => {
                if !pass.yields.is_empty() {
                    return self.cannot_stack(span);
                }
                let limit = most.unwrap_or(i32::MAX as usize);
                operands.push(self.cx.graph().scalar(DType::I32, limit as f64, origin));
                guard = Some(Guard { most: *most });
                (None, false)
            }
            Passes::Items(_) | Passes::Unknown => return Ok(Value::Unknown),
        };
        for ((_, value), ty) in carried.initial.iter().flat_map(leaves).zip(&carried.types) {
            let Some(a) = self.as_type(&value, ty, span)? else {
                return self.carried_changes("a variable", &describe(&value), &ty.text(), span);
            };
            operands.push(self.cx.node(&a));
        }
        let scanned = usize::from(matches!(passes, Passes::Rows(_)));
        let (graph, metrics) = self.summed(&pass, carried.types.len(), trip);
        let sums = metrics.arrays().len();
        for _ in 0..sums {
            let zero = self.float_number(0.0);
            operands.push(self.cx.node(&zero));
        }
        if let Passes::Rows(a) = passes {
            operands.push(self.cx.node(a));
        }
        operands.extend(pass.captured.iter().map(|c| self.cx.node(c)).collect::<Vec<_>>());
        let results = if graph.outputs.is_empty() {
            Vec::new()
        } else {
            let op = LoopOp { trip, reverse, carried: carried.types.len() + sums, scanned, guard, body: Arc::new(graph) };
            self.cx.graph().loop_results(op, &operands, origin)
        };
        let mut arrays = results.into_iter().map(|n| self.cx.array(n)).collect::<Vec<_>>().into_iter();
        let mut after =
            arrays.by_ref().take(carried.types.len()).zip(&carried.types).map(|(a, ty)| Value::Array(Array { weak: ty.weak, ..a }));
        let values: Vec<Value> = carried.initial.iter().map(|value| rebuild(value, &mut after)).collect();
        let mut recorded = metrics.with(&mut arrays);
        for (k, value) in values.into_iter().enumerate() {
            match (carried.names.get(k), value) {
                (Some(name), value) => {
                    scope.set(name, value);
                    self.record_buffer(scope, name);
                }
                (None, Value::Array(a)) => recorded.buffers.push((carried.paths[k - carried.names.len()].clone(), a)),
                (None, _) => {}
            }
        }
        self.replay_recorded(recorded);
        match pass.yields.as_slice() {
            [] => Ok(Value::None),
            [one] => Ok(rebuild(one, &mut arrays.map(Value::Array))),
            _ => self.yields_twice(span),
        }
    }
    /// The graph of a pass with the sums (and, where they vary, the counts) of its metrics as carried values after the others; and the metrics of the whole loop.
    fn summed(&mut self, pass: &Pass, carried: usize, trip: Option<usize>) -> (Graph, Recorded) {
        if pass.recorded.metrics.is_empty() {
            return (pass.graph.clone(), Recorded::default());
        }
        let origin = self.cx.origin;
        let mut metrics = Recorded::default();
        for (key, tally) in &pass.recorded.metrics {
            let count = match (&tally.count, trip) {
                (Count::Times(n), Some(trip)) => Count::Times(n * trip as u64),
                _ => Count::Array(tally.sum.clone()),
            };
            metrics.metrics.insert(key.clone(), Tally { sum: tally.sum.clone(), count });
        }
        let types = pass.graph.input_types();
        let mut graph = Graph::new();
        let mut args: Vec<_> =
            types[..=carried].iter().enumerate().map(|(k, ty)| graph.input(format!("x.{k}"), ty.clone(), origin)).collect();
        let dtype = self.cx.kept();
        let before: Vec<_> = metrics.arrays().iter().map(|_| graph.input("sum", optc_ir::Ty::scalar(dtype), origin)).collect();
        args.extend(
            types[carried + 1..].iter().enumerate().map(|(k, ty)| graph.input(format!("y.{k}"), ty.clone(), origin)).collect::<Vec<_>>(),
        );
        let mut outputs = graph.inline(&pass.graph, &args, "");
        let own = pass.recorded.metrics.values().map(|t| t.arrays().len()).sum::<usize>();
        let mut own = outputs.split_off(outputs.len() - own).into_iter();
        let mut before = before.into_iter();
        let mut after = Vec::new();
        for (key, tally) in &pass.recorded.metrics {
            let sum = own.next().expect("an output for the sum");
            after.push(graph.map(optc_ir::ScalarOp::Add, &[before.next().expect("a sum before"), sum], origin));
            let count = match &tally.count {
                Count::Array(_) => own.next(),
                Count::Times(n) if matches!(metrics.metrics[key].count, Count::Array(_)) => Some(graph.scalar(dtype, *n as f64, origin)),
                Count::Times(_) => None,
            };
            if let Some(count) = count {
                after.push(graph.map(optc_ir::ScalarOp::Add, &[before.next().expect("a count before"), count], origin));
            }
        }
        let yields = outputs.split_off(carried);
        graph.outputs = outputs.into_iter().chain(after).chain(yields).collect();
        (graph, metrics)
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
            Passes::While { .. } => (None, Value::None),
            Passes::Items(_) | Passes::Unknown => return Ok(Value::Unknown),
        };
        let zero = self.weak_int(&Dim::zero());
        self.yields.push(Vec::new());
        self.counters.push(Value::Array(zero.clone()));
        scope.push();
        let mut passed = self.bind_element(scope, body, item, Value::Array(zero)).map(|()| Value::None);
        if passed.is_ok() {
            passed = self.pass_statements(scope, &body.block.stmts, body.span);
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
