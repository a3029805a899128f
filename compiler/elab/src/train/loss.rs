//! The loss of one batch as a function with gradients.

use super::*;
use optc_ops::Draws;

impl Evaluator<'_> {
    /// The scope the loss and metrics are evaluated in.
    pub(super) fn loss_scope(
        &mut self,
        setup: &TrainSetup,
        models: &[(Arc<str>, Value)],
        fields: &[(Arc<str>, Array)],
        batch: Dim,
        key: Option<&Array>,
    ) -> Eval<Scope> {
        let mut scope = setup.scope.clone();
        scope.push();
        // A `let` of that name hides the size of the batch.
        if scope.get("B").is_none() {
            scope.bind("B", Value::Int(batch), LetKind::Let, setup.span);
        }
        for (name, array) in fields {
            let array = if array.dtype == DType::F32 { self.cast_array(array, setup.working()) } else { array.clone() };
            scope.bind(name.clone(), Value::Array(array), LetKind::Let, setup.span);
        }
        for (name, model) in models {
            scope.bind(name.clone(), model.clone(), LetKind::Let, setup.span);
        }
        if let Some(key) = key {
            self.key = Some(self.fold_key(key, FOLD_LETS, None));
        }
        for (pattern, value) in &setup.drawn {
            let v = self.expr(&mut scope, value)?;
            self.bind_pattern(&mut scope, pattern, v, LetKind::Let)?;
        }
        Ok(scope)
    }

    /// The models bound to leaves.
    pub(super) fn bound_models(&mut self, setup: &TrainSetup, decls: &[LeafDecl], leaves: &[Array]) -> Vec<(Arc<str>, Value)> {
        let mut bound = Vec::new();
        for (name, model) in &setup.models {
            let prefix = format!("{name}.");
            let mut own: Vec<(Arc<str>, Array)> = Vec::new();
            for (decl, array) in decls.iter().zip(leaves) {
                if let Some(path) = decl.path.strip_prefix(&prefix) {
                    let seen = self.cast_array(array, decl.seen);
                    own.push((Arc::from(path), seen));
                }
            }
            // With the label buffers are recorded under the path of their slot.
            let model = self.bind_model(model, &own);
            bound.push((name.clone(), label_model(&model, name)));
        }
        bound
    }

    /// Evaluates the loss with bound models.
    pub(super) fn evaluate_loss(
        &mut self,
        setup: &TrainSetup,
        player: &Player,
        decls: &[LeafDecl],
        leaves: &[Array],
        fields: &[(Arc<str>, Array)],
        keys: &LossKeys,
    ) -> Eval<LossParts> {
        let models = self.bound_models(setup, decls, leaves);
        self.training = Some(true);
        let saved = (self.recorder.buffers.replace(IndexMap::new()), self.recorder.metrics.replace(Metrics::new()));
        let result = (|ev: &mut Self| {
            let batch = ev.batch_dim(setup);
            let mut scope = ev.loss_scope(setup, &models, fields, batch, Some(&keys.step))?;
            ev.key = Some(ev.fold_key(&keys.batch, FOLD_BATCH, None));
            ev.expr(&mut scope, &player.loss)
        })(self);
        let buffers = std::mem::replace(&mut self.recorder.buffers, saved.0).unwrap_or_default();
        let metrics = std::mem::replace(&mut self.recorder.metrics, saved.1).unwrap_or_default();
        let (loss, auxiliary) = self.split_loss(player, result?)?;
        let once = |(name, sum)| (name, Tally { sum, count: Count::Times(1) });
        let mut recorded: Vec<(String, Tally)> = auxiliary.into_iter().map(once).collect();
        for (name, tally) in self.named_metrics(metrics, &|path| short_path(setup, path)) {
            // A count that is known makes a mean at once; the others are divided by when all batches of the step have been seen.
            let tally = match &tally.count {
                Count::Times(_) => Tally { sum: self.mean_of_tally(&tally.sum, &tally.count), count: Count::Times(1) },
                Count::Array(_) => tally,
            };
            recorded.push((name, tally));
        }
        let mut new = Vec::new();
        for (decl, old) in decls.iter().zip(leaves).filter(|(d, _)| d.buffer) {
            let array = buffers.get(&decl.path).cloned().unwrap_or_else(|| old.clone());
            new.push(self.cast_array(&array, decl.ty.dtype));
        }
        Ok(LossParts { loss, recorded, buffers: new })
    }

    pub(super) fn batch_dim(&mut self, setup: &TrainSetup) -> Dim {
        if self.mode == Mode::Check { self.cx.fresh_symbol("B") } else { Dim::from(setup.batch) }
    }

    /// The scalar loss and the auxiliary values of `(loss, { name = value })`.
    pub(crate) fn split_loss(&mut self, player: &Player, value: Value) -> Eval<(Array, Vec<(String, Array)>)> {
        let span = player.loss.span;
        let (loss, aux) = match &value {
            Value::Tuple(parts) if parts.len() == 2 => (parts[0].clone(), Some(parts[1].clone())),
            _ => (value, None),
        };
        let loss = self.float_scalar(&loss, span, &player.described())?;
        let mut recorded = Vec::new();
        if let Some(Value::Record(fields)) = aux {
            for (name, value) in fields.iter() {
                recorded.push((name.to_string(), self.float_scalar(value, span, name)?));
            }
        }
        Ok((loss, recorded))
    }

    /// A scalar as an array of the precision in which numbers are kept.
    pub(crate) fn float_scalar(&mut self, value: &Value, span: Span, what: &str) -> Eval<Array> {
        let array = match value {
            Value::Unknown => return Ok(Array { dtype: self.cx.kept(), shape: Vec::new(), weak: false, node: None }),
            other => match other.to_val() {
                Some(val) => {
                    let made = optc_ops::materialize(&mut self.cx, &val, None);
                    self.lift(made, span)?
                }
                None => return self.error("E0340", span, format!("{what} must be a scalar")),
            },
        };
        if !array.shape.is_empty() {
            let shape: Vec<String> = array.shape.iter().map(|d| d.to_string()).collect();
            return self.fail(
                Diagnostic::error(Code("E0340"), span, format!("{what} must be a scalar, but it has shape [{}]", shape.join(", ")))
                    .help("take its mean or sum"),
            );
        }
        Ok(self.cast_array(&array, self.cx.kept()))
    }

    /// What was recorded by name, from sums and counts over the step's batches.
    pub(super) fn recorded_tallies(&mut self, f: &LossFunction, arrays: Vec<Array>) -> Vec<(String, Tally)> {
        let mut arrays = arrays.into_iter();
        let mut next = || arrays.next().expect("as many arrays as the loss function records");
        let mut out = Vec::new();
        for (name, counted) in &f.recorded {
            let sum = next();
            let count = if *counted { Count::Array(next()) } else { Count::Times(1) };
            out.push((name.clone(), Tally { sum, count }));
        }
        out
    }

    /// Lowers a player's loss of one batch to a graph of its own; `decls` are the leaves as the player sees them.
    /// With `of_batch`, the loss of the batch it belongs to and the size of that, it is the loss of one example, which has its part of the draws of the batch.
    pub(super) fn loss_function(
        &mut self,
        setup: &TrainSetup,
        player: &Player,
        decls: &[LeafDecl],
        lead: &[usize],
        of_batch: Option<(&LossFunction, usize)>,
    ) -> Eval<LossFunction> {
        self.cx.push_level();
        let mut leaves: Vec<Option<Array>> = vec![None; decls.len()];
        for buffer in [false, true] {
            for (k, d) in decls.iter().enumerate().filter(|(_, d)| d.buffer == buffer) {
                let dtype = if buffer { d.ty.dtype } else { d.seen };
                leaves[k] = Some(self.cx.input(&format!("leaf.{k}"), dtype, &d.ty.shape));
            }
        }
        let leaves: Vec<Array> = leaves.into_iter().flatten().collect();
        let fields = self.field_inputs(setup.data.as_deref(), &setup.fields, lead);
        let step = self.cx.input("step_key", DType::U32, &[2]);
        let batch = self.cx.input("key", DType::U32, &[2]);
        let draws = match of_batch {
            Some((f, batch)) => {
                let example = self.cx.input("example", DType::I32, &[]);
                Draws::OfExample { whole: f.draws.clone(), made: 0, batch, example }
            }
            None => Draws::Noted(Vec::new()),
        };
        let outer = std::mem::replace(&mut self.cx.draws, draws);
        let parts = self.evaluate_loss(setup, player, decls, &leaves, &fields, &LossKeys { step, batch });
        let draws = match std::mem::replace(&mut self.cx.draws, outer) {
            Draws::Noted(noted) => Arc::new(noted),
            Draws::Made | Draws::OfExample { .. } => Arc::default(),
        };
        let parts = match parts {
            Ok(p) => p,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let counted = |tally: &Tally| matches!(tally.count, Count::Array(_));
        let recorded: Vec<(String, bool)> = parts.recorded.iter().map(|(n, t)| (n.clone(), counted(t))).collect();
        if self.cx.emitting() {
            let mut outputs = vec![self.cx.node(&parts.loss)];
            let tallies = parts.recorded.iter().flat_map(|(_, t)| t.arrays());
            for array in tallies.chain(parts.buffers.iter().cloned()) {
                let origin = self.cx.origin;
                let node = self.cx.node(&array);
                outputs.push(self.cx.graph().op(Op::StopGradient, &[node], origin));
            }
            self.cx.graph().outputs = outputs;
        }
        let (graph, captured) = self.cx.pop_level();
        let params = decls.iter().filter(|d| !d.buffer).count();
        Ok(LossFunction { graph, captured, recorded, buffers: parts.buffers.len(), params, draws })
    }

    /// Puts value and gradients of a loss function into the graph on top. Gives loss, sums and counts of recorded values, buffers, gradients (of parameters).
    pub(super) fn inline_gradients(
        &mut self,
        f: &LossFunction,
        args: &[Array],
        span: Span,
    ) -> Eval<(Array, Vec<Array>, Vec<Array>, Vec<Array>)> {
        let wrt: Vec<usize> = (0..f.params).collect();
        let derived = match optc_mid::differentiate::vjp_of(&f.graph, &wrt, &[0]) {
            Ok(g) => g,
            Err(e) => return self.fail(Diagnostic::error(Code("E0720"), e.origin.span, e.message).label(span, "differentiated here")),
        };
        let origin = self.cx.origin;
        let mut nodes: Vec<NodeId> = args.iter().chain(&f.captured).map(|a| self.cx.node(a)).collect();
        let float = self.cx.float;
        nodes.push(self.cx.graph().scalar(float, 1.0, origin));
        let results = self.cx.graph().inline(&derived, &nodes, "");
        let arrays: Vec<Array> = results.iter().map(|&n| self.cx.array(n)).collect();
        let (r, b) = (f.recorded_arrays(), f.buffers);
        Ok((arrays[0].clone(), arrays[1..1 + r].to_vec(), arrays[1 + r..1 + r + b].to_vec(), arrays[1 + r + b..].to_vec()))
    }
}
