//! What looks at the weights: metrics on data sets, evaluation weights, `stop when`, starting points.

use super::*;

impl Evaluator<'_> {
    /// The graph of the weights named by `eval w`.
    pub(super) fn lower_eval(&mut self, setup: &TrainSetup, decls: &[LeafDecl], slots: &[Slot]) -> Eval<Graph> {
        self.cx.push_level();
        let inputs: Vec<Array> =
            slots.iter().enumerate().map(|(k, s)| self.cx.input(&format!("slot.{k}"), s.ty.dtype, &s.ty.shape)).collect();
        let mut outputs = inputs[..decls.len()].to_vec();
        for player in &setup.players {
            if let Err(stop) = self.eval_weights(setup, player, decls, slots, &inputs, &mut outputs) {
                self.cx.pop_level();
                return Err(stop);
            }
        }
        let names: Vec<String> = (0..slots.len()).map(|k| format!("slot.{k}")).collect();
        self.finish_graph(&outputs, &names, setup.span)
    }

    /// Puts the weights that a player's optimizer names for evaluation in the place of its parameters.
    fn eval_weights(
        &mut self,
        setup: &TrainSetup,
        player: &Player,
        decls: &[LeafDecl],
        slots: &[Slot],
        inputs: &[Array],
        outputs: &mut [Array],
    ) -> Eval<()> {
        let own: Vec<usize> = (0..decls.len()).filter(|&k| !decls[k].buffer && player.owns(&decls[k].path)).collect();
        let mut leaves = Vec::with_capacity(own.len());
        for &k in &own {
            let g = self.zeros_like(&inputs[k]);
            leaves.push(Leaf { path: player.short_path(setup, &decls[k].path), w: inputs[k].clone(), g });
        }
        let opt = OptInputs {
            pass: Pass::Eval,
            leaves,
            step: self.steps_of(player, &inputs[slots.len() - 1], setup.span)?,
            total_steps: Some(setup.steps as i64),
            scalars: self.unknown_scalars(setup),
            recorded: self.unknown_recorded(setup),
            states: player::states_of(player, slots, inputs),
            key: None,
            inputs: None,
            prefix: player.prefix(),
            all_leaves: true,
            apart: Default::default(),
            loss: None,
        };
        let out = self.run_optimizer(&player.optimizer, opt)?;
        for (k, weight) in own.into_iter().zip(out.eval.unwrap_or_default()) {
            outputs[k] = weight;
        }
        Ok(())
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
    pub(super) fn lower_stop(&mut self, setup: &TrainSetup, e: &Expr, recorded: &[Record]) -> Eval<(Graph, Vec<String>)> {
        self.cx.push_level();
        let recorded = recorded.iter().map(|r| Arc::from(r.name.as_str()));
        let watched: IndexSet<Arc<str>> = recorded.chain(setup.watched_names()).collect();
        let mut scalars = Vec::new();
        for (k, name) in watched.iter().enumerate() {
            let input = self.cx.input(&format!("watched.{k}"), DType::F64, &[]);
            scalars.push((name.clone(), Value::Array(self.weak_float(&input))));
        }
        let array = match self.stop_condition(setup, e, by_name(scalars)) {
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
        self.data_in(&mut setup.scope.clone(), e)
    }

    /// The data set an expression names.
    pub(crate) fn data_in(&mut self, scope: &mut Scope, e: &Expr) -> Eval<Rc<DataTable>> {
        let mode = self.mode;
        if mode == Mode::Lower {
            self.mode = Mode::Host;
        }
        let value = self.expr(scope, e);
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

/// Scalars by the names they can be written with: `loss.gen` and `loss.disc` are the fields of `loss`.
pub(crate) fn by_name(scalars: Vec<(Arc<str>, Value)>) -> Vec<(Arc<str>, Value)> {
    let plain = |name: &Arc<str>| !name.contains('.');
    let mut out: Vec<(Arc<str>, Value)> = scalars.iter().filter(|(n, _)| plain(n)).cloned().collect();
    let mut nested: IndexMap<Arc<str>, Vec<(Arc<str>, Value)>> = IndexMap::new();
    for (name, value) in &scalars {
        if let Some((first, rest)) = name.split_once('.') {
            nested.entry(Arc::from(first)).or_default().push((Arc::from(rest), value.clone()));
        }
    }
    // A path that begins with the name of something else cannot be written.
    nested.retain(|name, _| !out.iter().any(|(n, _)| n == name));
    out.extend(nested.into_iter().map(|(name, fields)| (name, crate::tree::nest(&fields))));
    out
}
