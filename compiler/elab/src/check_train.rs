//! Checking `train` blocks and optimizer items with symbolic sizes: the loss must be a scalar, bodies must fit their leaves.

use crate::data::CheckedData;
use crate::evaluator::{Eval, Evaluator};
use crate::optimizer::{Leaf, OptInputs, Pass};
use crate::scope::Scope;
use crate::settings::TrainSetup;
use crate::tally::Metrics;
use crate::train::by_name;
use crate::value::{ModelValue, OptArg, OptimizerValue, Value};
use indexmap::IndexMap;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ItemRef;
use optc_front::ast::{Expr, ExprKind, FnItem, FnKind, ItemKind, LetKind, PatternKind, Stmt, StmtKind, TypeKind};
use optc_ops::{Array, Dim};
use std::rc::Rc;
use std::sync::Arc;

/// A scalar of a type, while checking.
fn scalar(dtype: DType) -> Array {
    Array { dtype, shape: Vec::new(), weak: false, node: None }
}

/// A recorded value as `stop when` and optimizers see it.
fn watched_scalar() -> Value {
    Value::Array(Array { weak: true, ..scalar(DType::F64) })
}

/// Names of what players record: what several have gets theirs behind it.
fn apart(setup: &TrainSetup, recorded: &[(Arc<str>, usize)]) -> Vec<Arc<str>> {
    let several = |name: &Arc<str>, k: usize| recorded.iter().any(|(n, other)| n == name && *other != k);
    let named = |(name, k): &(Arc<str>, usize)| match several(name, *k) {
        true => Arc::from(setup.players[*k].recorded(name)),
        false => name.clone(),
    };
    recorded.iter().map(named).collect()
}

impl Evaluator<'_> {
    /// The fields of a data set as arrays with `rows` examples.
    fn checked_fields(&self, data: Option<&Rc<CheckedData>>, rows: &Dim) -> Vec<(Arc<str>, Value)> {
        let Some(data) = data else { return Vec::new() };
        let of = |value: &Value| match value {
            Value::Array(a) if !a.shape.is_empty() => {
                let mut shape = a.shape.clone();
                shape[0] = rows.clone();
                let dtype = self.cx.written(a.dtype);
                Value::Array(Array { dtype, shape, ..a.clone() })
            }
            other => other.clone(),
        };
        data.fields.iter().map(|(n, v)| (n.clone(), of(v))).collect()
    }

    fn checked_scope(
        &mut self,
        setup: &TrainSetup,
        models: &[(Arc<str>, Value)],
        data: Option<&Rc<CheckedData>>,
        rows: &Dim,
    ) -> Eval<Scope> {
        let mut scope = setup.scope.clone();
        scope.push();
        if scope.get("B").is_none() {
            scope.bind("B", Value::Int(rows.clone()), LetKind::Let, setup.span);
        }
        for (name, value) in self.checked_fields(data, rows) {
            scope.bind(name, value, LetKind::Let, setup.span);
        }
        for (name, model) in models {
            scope.bind(name.clone(), model.clone(), LetKind::Let, setup.span);
        }
        for (pattern, value) in &setup.drawn {
            let v = self.expr(&mut scope, value)?;
            self.bind_pattern(&mut scope, pattern, v, LetKind::Let)?;
        }
        Ok(scope)
    }

    /// Checks loss, metrics and optimizer of a `train` block.
    pub(crate) fn check_setup(&mut self, setup: &TrainSetup) -> Eval<()> {
        self.with_float(setup.working(), |ev| ev.check_setup_inner(setup))
    }

    fn check_setup_inner(&mut self, setup: &TrainSetup) -> Eval<()> {
        let outer = self.recorder.metrics.replace(Metrics::new());
        let result = self.check_parts(setup);
        let recorded = std::mem::replace(&mut self.recorder.metrics, outer).unwrap_or_default();
        let mut scalars = result?;
        if let Some(e) = &setup.stop_when {
            scalars.extend(recorded.into_keys().map(|(_, name)| (name, watched_scalar())));
            self.stop_condition(setup, e, by_name(scalars))?;
        }
        Ok(())
    }

    /// Checks all but `stop when`; gives the scalars that may be watched, apart from metrics in bodies.
    fn check_parts(&mut self, setup: &TrainSetup) -> Eval<Vec<(Arc<str>, Value)>> {
        let rows = if setup.batch_known { Dim::from(setup.batch) } else { self.cx.fresh_symbol("B") };
        let labeled: Vec<(Arc<str>, Value)> = setup
            .models
            .iter()
            .map(|(n, m)| match m {
                Value::Model(m) => (n.clone(), Value::Model(Rc::new(ModelValue { label: Some(n.clone()), ..(**m).clone() }))),
                other => (n.clone(), other.clone()),
            })
            .collect();
        let key = Array { dtype: DType::U32, shape: vec![Dim::from(2i64)], weak: false, node: None };
        let (mut auxiliary, leaves) = self.initialize(key, false, |ev| {
            // What is drawn in each step may call models too: these calls say what leaves there are.
            let mut scope = ev.checked_scope(setup, &labeled, setup.checked.as_ref(), &rows)?;
            let mut auxiliary: Vec<(Arc<str>, usize)> = Vec::new();
            for (k, player) in setup.players.iter().enumerate() {
                let value = ev.expr(&mut scope, &player.loss)?;
                let (_, own) = ev.split_loss(player, value)?;
                auxiliary.extend(own.into_iter().map(|(name, _)| (Arc::from(name), k)));
            }
            Ok(auxiliary)
        })?;
        let losses = setup.loss_names();
        let given = setup.watched_names();
        let names = apart(setup, &auxiliary);
        self.recorded_once(setup, losses.iter().chain(&names).chain(&given).map(|n| &**n))?;
        self.frozen_paths(setup, &leaves)?;
        self.all_owned(setup, &leaves)?;
        // Metrics see models bound to their leaves.
        let mut bound = Vec::new();
        for (name, model) in &setup.models {
            let prefix = format!("{name}.");
            let own: Vec<(Arc<str>, Array)> =
                leaves.iter().filter_map(|l| l.path.strip_prefix(&prefix).map(|p| (Arc::from(p), l.array.clone()))).collect();
            bound.push((name.clone(), self.bind_model(model, &own)));
        }
        for metric in &setup.metrics {
            let [(Some(_), e)] = metric.values.as_slice() else {
                self.metric_parts(metric)?;
                continue;
            };
            let on = metric.clauses.iter().find(|c| &*c.word.text == "on").and_then(|c| c.value.as_ref());
            let data = match on {
                None => setup.checked.clone(),
                Some(on) => {
                    let mut outer = setup.scope.clone();
                    match self.expr(&mut outer, on)? {
                        Value::Block(b) => Some(self.check_data(&b, on.span)?),
                        _ => None,
                    }
                }
            };
            let rows = self.cx.fresh_symbol("B");
            let mut scope = self.checked_scope(setup, &bound, data.as_ref(), &rows)?;
            let value = self.expr(&mut scope, e)?;
            self.float_scalar(&value, e.span, "a metric")?;
            self.every(setup, metric)?;
        }
        let mut watched: Vec<(Arc<str>, Value)> = losses.into_iter().chain(given).map(|name| (name, watched_scalar())).collect();
        let recorded = by_name(watched.clone());
        for (k, player) in setup.players.iter().enumerate() {
            let mut seen: Vec<Leaf> = Vec::new();
            for leaf in leaves.iter().filter(|l| !l.buffer && !l.frozen && player.owns(&l.path)) {
                seen.push(Leaf { path: player.short_path(setup, &leaf.path), w: leaf.array.clone(), g: leaf.array.clone() });
            }
            let all = !seen.is_empty();
            if !all {
                seen.push(Leaf { path: Arc::from("w"), w: scalar(self.cx.float), g: scalar(self.cx.float) });
            }
            let names = std::iter::once(Arc::from("loss")).chain(setup.watched_names());
            let scalars = names.map(|name| (name, watched_scalar())).collect();
            let metrics = self.check_optimizer(&player.optimizer, seen, all, scalars, recorded.clone(), player.prefix())?;
            auxiliary.extend(metrics.into_iter().map(|name| (name, k)));
        }
        watched.extend(apart(setup, &auxiliary).into_iter().map(|name| (name, watched_scalar())));
        Ok(watched)
    }

    /// Checks an optimizer on all leaves or on one that stands for any; gives the names of its metrics.
    fn check_optimizer(
        &mut self,
        optimizer: &OptimizerValue,
        leaves: Vec<Leaf>,
        all_leaves: bool,
        scalars: Vec<(Arc<str>, Value)>,
        recorded: Vec<(Arc<str>, Value)>,
        prefix: String,
    ) -> Eval<Vec<Arc<str>>> {
        let inputs = OptInputs {
            pass: Pass::Step,
            leaves,
            step: scalar(DType::I32),
            total_steps: Some(1000),
            scalars,
            recorded,
            states: IndexMap::new(),
            key: None,
            inputs: Some(scalar(DType::I32)),
            prefix,
            all_leaves,
            apart: Default::default(),
            loss: None,
        };
        self.run_optimizer(optimizer, inputs).map(|out| out.metrics.into_keys().map(|(_, name)| name).collect())
    }

    /// Checks an optimizer item on a matrix of symbolic size with unknown hyperparameters.
    pub(crate) fn check_optimizer_item(&mut self, item: ItemRef) -> Eval<()> {
        let program = self.program;
        let ItemKind::Fn(f) = &program.item(item).kind else { return Ok(()) };
        if f.kind != FnKind::Optimizer {
            return Ok(());
        }
        self.changes_something(f)?;
        self.uses_what_it_holds(f)?;
        let args = self.unknown_arguments(f, item);
        let optimizer = OptimizerValue::Single { item, args, span: f.name.span };
        for rank in [2, 1] {
            let shape: Vec<Dim> = (0..rank).map(|k| self.cx.fresh_symbol(["R", "C"][k])).collect();
            let w = Array { dtype: DType::F32, shape, weak: false, node: None };
            let scalars = vec![(Arc::from("loss"), Value::Array(Array { weak: true, ..scalar(DType::F64) }))];
            let known = self.diagnostics.len();
            let leaf = crate::tree::array_type(&w);
            let result = self.check_optimizer(
                &optimizer,
                vec![Leaf { path: Arc::from("w"), w: w.clone(), g: w }],
                false,
                scalars,
                Vec::new(),
                String::new(),
            );
            for d in self.diagnostics[known..].iter_mut().filter(|d| d.code.0.starts_with("E04")) {
                let any = if rank == 2 { "matrix" } else { "vector" };
                d.notes.push(format!("`w` and `g` are seen here as {leaf}, any {any}"));
                d.help =
                    Some("write what holds for leaves of any shape, or a rule for each rank: `if ndim(w) == 2 { … } else { … }`".into());
            }
            result?;
        }
        Ok(())
    }

    /// Reports a body without any effect: `w` and `g` stay as they are, nothing is recorded, nothing that it holds steps.
    fn changes_something(&mut self, f: &FnItem) -> Eval<()> {
        let ExprKind::Block(body) = &f.body.kind else { return Ok(()) };
        let assigned = crate::walk::assigned(&body.stmts);
        let records = |s: &Stmt| matches!(s.kind, StmtKind::Metric { .. } | StmtKind::Eval { .. });
        let steps = |e: &Expr| matches!(&e.kind, ExprKind::Field(_, method) if matches!(&*method.text, "step" | "delta"));
        if assigned.iter().any(|n| matches!(&**n, "w" | "g")) || crate::walk::any(body, &records, &steps) {
            return Ok(());
        }
        let mut d = Diagnostic::error(Code("E0528"), f.name.span, format!("`{}` changes neither `w` nor `g`", f.name.text))
            .help("an update is written with `<-`: `w <- w - lr * g`");
        crate::walk::stmts(&body.stmts, &mut |s| {
            if let StmtKind::Let { pattern, .. } = &s.kind
                && matches!(&pattern.kind, PatternKind::Name(n) if matches!(&**n, "w" | "g"))
            {
                d.secondary.push(optc_base::Label { span: pattern.span, message: "a new name, which ends with the body".into() });
            }
        });
        self.fail(d)
    }

    /// An optimizer that a wrapper takes has to be mentioned in its body.
    fn uses_what_it_holds(&mut self, f: &FnItem) -> Eval<()> {
        let ExprKind::Block(body) = &f.body.kind else { return Ok(()) };
        for p in f.params.iter().filter(|p| p.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer))) {
            let name = &p.name.text;
            let mentions = |e: &Expr| matches!(&e.kind, ExprKind::Name(n) if n == name);
            if !crate::walk::any(body, &|_| false, &mentions) {
                let message = format!("`{}` never uses `{name}`: the optimizer it holds makes no step", f.name.text);
                return self.fail(
                    Diagnostic::error(Code("E0528"), p.name.span, message)
                        .help(format!("`{name}.step()` takes its step on the present `g` and `w`, `{name}.delta()` gives the change")),
                );
            }
        }
        Ok(())
    }

    /// Arguments for parameters without default.
    fn unknown_arguments(&mut self, f: &FnItem, item: ItemRef) -> Vec<OptArg> {
        let mut scope = Scope::new(item.module);
        let mut args = Vec::new();
        for p in f.params.iter().filter(|p| p.default.is_none()) {
            let value = match p.ty.as_ref().map(|t| &t.kind) {
                Some(TypeKind::Int) => Value::Int(self.cx.fresh_symbol(&p.name.text)),
                Some(TypeKind::Bool) => Value::Bool(None),
                // One that does nothing stands for any.
                Some(TypeKind::Optimizer) => Value::Optimizer(Rc::new(OptimizerValue::Chain(Vec::new()))),
                Some(TypeKind::Array { dims: None, .. }) if p.is_const => Value::Float(None),
                Some(TypeKind::Array { dims: None, .. }) => Value::Array(Array { weak: true, ..scalar(DType::F64) }),
                _ => Value::Unknown,
            };
            scope.bind(p.name.text.clone(), value, LetKind::Let, p.span);
            args.push((p.name.text.clone(), p.span));
        }
        args.into_iter()
            .map(|(name, span): (Arc<str>, Span)| OptArg {
                expr: Expr { kind: ExprKind::Name(name.clone()), span, id: Default::default() },
                name: Some(name),
                scope: scope.clone(),
                leaves: None,
            })
            .collect()
    }
}
