//! What looks at the weights: metrics on data sets, evaluation weights, `stop when`, starting points.

use super::*;

impl Evaluator<'_> {
    /// The graph of the weights named by `eval w`.
    pub(super) fn lower_eval(&mut self, setup: &TrainSetup, decls: &[LeafDecl], slots: &[Slot]) -> Eval<Graph> {
        self.cx.push_level();
        let inputs: Vec<Array> =
            slots.iter().enumerate().map(|(k, s)| self.cx.input(&format!("slot.{k}"), s.ty.dtype, &s.ty.shape)).collect();
        let mut leaves = Vec::new();
        for (d, w) in decls.iter().zip(&inputs).filter(|(d, _)| !d.buffer) {
            let g = self.zeros_like(w);
            leaves.push(Leaf { path: short_path(setup, &d.path), w: w.clone(), g });
        }
        let states = slots.iter().zip(&inputs).filter(|(s, _)| s.kind == SlotKind::State).map(|(s, a)| (s.name.clone(), a.clone()));
        let opt = OptInputs {
            pass: Pass::Eval,
            leaves,
            step: inputs[slots.len() - 1].clone(),
            total_steps: setup.steps as i64,
            scalars: self.unknown_scalars(setup),
            states: states.collect(),
            key: None,
            inputs: false,
            all_leaves: true,
            loss: None,
        };
        let out = match self.run_optimizer(&setup.optimizer, opt) {
            Ok(out) => out,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let mut weights = out.eval.unwrap_or_default().into_iter();
        let mut outputs = Vec::new();
        for (d, input) in decls.iter().zip(&inputs) {
            outputs.push(if d.buffer { input.clone() } else { weights.next().unwrap_or_else(|| input.clone()) });
        }
        let names: Vec<String> = (0..slots.len()).map(|k| format!("slot.{k}")).collect();
        self.finish_graph(&outputs, &names, setup.span)
    }

    pub(super) fn lower_metric(&mut self, setup: &TrainSetup, decls: &[LeafDecl], metric: &Setting) -> Eval<MetricProgram> {
        let (name, e) = self.metric_parts(metric)?;
        let every = self.every(setup, metric)?;
        let on = metric.clauses.iter().find(|c| &*c.word.text == "on").and_then(|c| c.value.as_ref());
        let Some(on) = on else { return self.error("E0522", metric.span, "`on` needs a data set") };
        let data = self.data_of(setup, on)?;
        let n = data.len();
        if n == 0 && self.mode != Mode::Check {
            return self.error("E0516", on.span, format!("`{}` has no examples", data.name));
        }
        let mean_of = match &e.kind {
            ExprKind::Call { callee, args } => match (&callee.kind, args.as_slice()) {
                (ExprKind::Name(f), [arg]) if &**f == "mean" && arg.name.is_none() => Some(arg.value.clone()),
                _ => None,
            },
            _ => None,
        };
        let fields = crate::settings::mentioned_fields(self.program, &data, &[e.span], setup);
        let chunk = if mean_of.is_some() { n.min(setup.batch.max(256)) } else { n };
        let lower = |ev: &mut Self, rows: usize| ev.metric_graph(setup, decls, &data, &fields, mean_of.as_ref(), &e, rows);
        let whole = lower(self, chunk)?;
        let rest = match n % chunk.max(1) {
            0 => None,
            rows => Some(lower(self, rows)?),
        };
        Ok(MetricProgram { name, every, data: data_use(&data, &fields), chunk, whole, rest, streamed: mean_of.is_some() })
    }

    pub(super) fn metric_graph(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        data: &Rc<DataTable>,
        fields: &[Arc<str>],
        mean_of: Option<&Expr>,
        e: &Expr,
        rows: usize,
    ) -> Eval<Graph> {
        self.cx.push_level();
        let leaves: Vec<Array> =
            decls.iter().enumerate().map(|(k, d)| self.cx.input(&format!("leaf.{k}"), d.ty.dtype, &d.ty.shape)).collect();
        let inputs = self.field_inputs(Some(data), fields, &[rows]);
        let key = self.cx.input("step_key", DType::U32, &[2]);
        let part = self.cx.input("key", DType::U32, &[2]);
        let result = (|ev: &mut Self| {
            let models = ev.bound_models(setup, decls, &leaves);
            ev.training = Some(false);
            let batch = if ev.mode == Mode::Check { ev.cx.fresh_symbol("B") } else { Dim::from(rows) };
            let mut scope = ev.loss_scope(setup, &models, &inputs, batch, Some(&key))?;
            ev.key = Some(part.clone());
            let Some(inner) = mean_of else {
                let value = ev.expr(&mut scope, e)?;
                let scalar = ev.float_scalar(&value, e.span, "a metric")?;
                return Ok(vec![ev.cast_array(&scalar, DType::F64)]);
            };
            let value = ev.expr(&mut scope, inner)?;
            let array = ev.array_of(&value, inner.span)?;
            let array = if array.dtype.is_float() && !array.weak { array } else { ev.cast_array(&array, ev.cx.float) };
            let (sum, count) = if array.shape.is_empty() {
                // A scalar per chunk weighs as many examples as the chunk has.
                let sum = ev.cast_array(&array, DType::F64);
                let scaled = ev.arithmetic(optc_front::ast::BinaryOp::Mul, Value::Array(sum), Value::Int(Dim::from(rows)), e.span)?;
                (scaled, rows as f64)
            } else {
                let count = array.shape.iter().map(|d| d.known().unwrap_or(1) as f64).product();
                (ev.builtin("sum", vec![Value::Array(array)], e.span)?, count)
            };
            let sum = ev.array_of(&sum, e.span)?;
            let count = optc_ops::materialize(&mut ev.cx, &Val::Float(Some(count)), Some(DType::F64));
            let count = ev.lift(count, e.span)?;
            Ok(vec![ev.cast_array(&sum, DType::F64), count])
        })(self);
        let outputs = match result {
            Ok(o) => o,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let mut names: Vec<String> = (0..decls.len()).map(|k| format!("leaf.{k}")).collect();
        names.extend((0..fields.len()).map(|k| format!("field.{k}")));
        names.extend(["step_key".into(), "key".into()]);
        self.finish_graph(&outputs, &names, setup.span)
    }

    /// `stop when` as a graph of the watched values, and their names.
    pub(super) fn lower_stop(&mut self, setup: &TrainSetup, e: &Expr, recorded: &[String]) -> Eval<(Graph, Vec<String>)> {
        self.cx.push_level();
        // What is recorded under a path has no name that could be written.
        let recorded = recorded.iter().filter(|n| !n.contains('.')).map(|n| Arc::from(n.as_str()));
        let watched: IndexSet<Arc<str>> = std::iter::once(Arc::from("loss")).chain(recorded).chain(setup.watched_names()).collect();
        let mut scalars = Vec::new();
        for (k, name) in watched.iter().enumerate() {
            let input = self.cx.input(&format!("watched.{k}"), DType::F64, &[]);
            scalars.push((name.clone(), Value::Array(self.weak_float(&input))));
        }
        let array = match self.stop_condition(setup, e, scalars) {
            Ok(a) => a,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let names: Vec<String> = (0..watched.len()).map(|k| format!("watched.{k}")).collect();
        let graph = self.finish_graph(&[array], &names, e.span)?;
        Ok((graph, watched.iter().map(|n| n.to_string()).collect()))
    }

    /// The condition of `stop when`, where the loss and the metrics are these scalars.
    ///
    /// # Errors
    /// It is no scalar truth value.
    pub(crate) fn stop_condition(&mut self, setup: &TrainSetup, e: &Expr, scalars: Vec<(Arc<str>, Value)>) -> Eval<Array> {
        let mut scope = setup.scope.clone();
        scope.push();
        for (name, value) in scalars {
            scope.bind(name, value, LetKind::Let, e.span);
        }
        let scalar = Array { dtype: DType::Bool, shape: Vec::new(), weak: false, node: None };
        let value = self.expr(&mut scope, e)?;
        let found = match &value {
            Value::Unknown => return Ok(scalar),
            Value::Bool(_) | Value::Array(_) => self.array_of(&value, e.span)?,
            _ => Array { dtype: DType::F32, ..scalar },
        };
        if found.dtype == DType::Bool && found.shape.is_empty() {
            return Ok(found);
        }
        self.fail(
            Diagnostic::error(Code("E0524"), e.span, "`stop when` needs a scalar condition")
                .at(crate::tree::describe(&value))
                .help("compare `loss` or a metric: `stop when accuracy > 0.99`"),
        )
    }

    /// `net.params = tree`: leaves by path and shape.
    pub(super) fn given_leaves(&mut self, setup: &TrainSetup, slots: &[Slot]) -> Eval<Vec<(usize, Arc<Tensor>)>> {
        let mut given = Vec::new();
        for (model, tree, span) in &setup.given {
            // A model on its parameters stands for them.
            let leaves = match tree {
                Value::Model(m) if m.params.is_some() => self.tree_leaves(m.params.as_ref().unwrap_or(tree), *span)?,
                _ => self.tree_leaves(tree, *span)?,
            };
            let prefix = format!("{model}.");
            for (k, slot) in slots.iter().enumerate() {
                let Some(path) = slot.name.strip_prefix(&prefix) else { continue };
                if !matches!(slot.kind, SlotKind::Param | SlotKind::Frozen | SlotKind::Buffer) {
                    continue;
                }
                let Some((_, value)) = leaves.iter().find(|(p, _)| &**p == path) else {
                    return self.fail(
                        Diagnostic::error(Code("E0525"), *span, format!("the starting point has no leaf `{path}`"))
                            .help("it needs every parameter of the model, by path"),
                    );
                };
                let array = self.array_of(value, *span)?;
                let tensor = self.force(&array, *span)?;
                if tensor.shape[..] != slot.ty.shape[..] {
                    return self.error(
                        "E0525",
                        *span,
                        format!("leaf `{path}` has shape {:?}, but the model declares {:?}", tensor.shape, slot.ty.shape),
                    );
                }
                given.push((k, Arc::new(tensor.cast(slot.ty.dtype))));
            }
        }
        Ok(given)
    }

    /// The data set an expression of a train names.
    pub(crate) fn data_of(&mut self, setup: &TrainSetup, e: &Expr) -> Eval<Rc<DataTable>> {
        let mut scope = setup.scope.clone();
        let mode = self.mode;
        if mode == Mode::Lower {
            self.mode = Mode::Host;
        }
        let value = self.expr(&mut scope, e);
        let table = match value {
            Ok(Value::Block(block)) => self.table_of(&block, e.span),
            Ok(Value::Data(table)) => Ok(table),
            Ok(_) => self.fail(
                Diagnostic::error(Code("E0510"), e.span, "this is not a data set")
                    .help("name a `data` block or one of its splits: `digits.test`"),
            ),
            Err(stop) => Err(stop),
        };
        self.mode = mode;
        table
    }
}
