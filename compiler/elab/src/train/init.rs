//! Initial values of parameters, buffers and states.

use super::*;

impl Evaluator<'_> {
    /// The initial values: leaves, states (name and type), and the graph.
    pub(super) fn lower_init(&mut self, setup: &TrainSetup) -> Eval<(Vec<LeafDecl>, Vec<(String, Ty)>, Graph)> {
        self.cx.push_level();
        let key = self.cx.input("key", DType::U32, &[2]);
        let fields = self.field_inputs(setup.data.as_deref(), &setup.fields, &[setup.batch]);
        let result = self.init_values(setup, &key, &fields);
        let (decls, states, arrays) = match result {
            Ok(v) => v,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let mut outputs = arrays;
        let zero = optc_ops::materialize(&mut self.cx, &Val::Int(Dim::from(0i64)), Some(DType::I32));
        outputs.push(self.lift(zero, setup.span)?);
        let mut names = vec!["key".to_string()];
        names.extend((0..fields.len()).map(|k| format!("field.{k}")));
        let graph = self.finish_graph(&outputs, &names, setup.span)?;
        Ok((decls, states, graph))
    }

    #[expect(clippy::type_complexity, reason = "an internal triple")]
    pub(super) fn init_values(
        &mut self,
        setup: &TrainSetup,
        key: &Array,
        fields: &[(Arc<str>, Array)],
    ) -> Eval<(Vec<LeafDecl>, Vec<(String, Ty)>, Vec<Array>)> {
        self.training = Some(true);
        let models: Vec<(Arc<str>, Value)> = setup.models.iter().map(|(n, m)| (n.clone(), label_model(m, n))).collect();
        let batch = self.batch_dim(setup);
        let ahead = self.asks_for_parameters(setup);
        let (_, leaves) = self.initialize(key.clone(), ahead, |ev| {
            let mut scope = ev.loss_scope(setup, &models, fields, batch.clone(), Some(key))?;
            for player in &setup.players {
                let value = ev.expr(&mut scope, &player.loss)?;
                ev.split_loss(player, value)?;
            }
            Ok(())
        })?;
        let mut decls = Vec::new();
        let mut arrays = Vec::new();
        for leaf in &leaves {
            let model = leaf.path.split('.').next().unwrap_or_default();
            let kept = leaf.buffer || !leaf.array.dtype.is_float();
            let stored = if kept { leaf.array.dtype } else { setup.stored_as(model).unwrap_or(leaf.array.dtype) };
            let shape = leaf.array.shape.iter().map(|d| d.known().unwrap_or(1) as usize);
            decls.push(LeafDecl {
                path: leaf.path.clone(),
                ty: Ty::new(stored, shape),
                seen: leaf.array.dtype,
                buffer: leaf.buffer || leaf.frozen,
                frozen: leaf.frozen,
            });
            arrays.push(self.cast_array(&leaf.array, stored));
        }
        self.frozen_paths(setup, &leaves)?;
        self.all_owned(setup, &leaves)?;
        if decls.iter().all(|d| d.buffer) && self.mode != Mode::Check {
            let d = Diagnostic::error(
                Code("E0521"),
                setup.players[0].loss.span,
                "the loss depends on no parameters, so there is nothing to train",
            );
            return self.fail(if decls.iter().any(|d| d.frozen) {
                d.help("all parameters are frozen: leave some out of `freeze`")
            } else {
                d.help("call a model that declares `param`s")
            });
        }
        let mut states = Vec::new();
        let weights = arrays.clone();
        for k in 0..setup.players.len() {
            for (name, array) in self.initial_states(setup, k, &decls, &weights, fields, key)? {
                states.push((name, Ty::new(array.dtype, array.shape.iter().map(|d| d.known().unwrap_or(1) as usize))));
                arrays.push(array);
            }
        }
        Ok((decls, states, arrays))
    }

    /// The states of a player's optimizer, from the initial weights; with a real gradient only where a state's initial value asks for it.
    fn initial_states(
        &mut self,
        setup: &TrainSetup,
        number: usize,
        decls: &[LeafDecl],
        arrays: &[Array],
        fields: &[(Arc<str>, Array)],
        key: &Array,
    ) -> Eval<IndexMap<String, Array>> {
        let player = &setup.players[number];
        let seen = seen_by(player, decls);
        let mut loss_at: Option<Rc<dyn crate::optimizer::StepLoss>> = None;
        let mut gradients = Vec::new();
        if player.state_uses_gradient && self.cx.emitting() {
            let f = Rc::new(self.loss_function(setup, player, &seen, &[setup.batch], None)?);
            loss_at = Some(Rc::new(at::TrainLoss {
                setup: Rc::new(TrainSetup { accumulate: 1, ..setup.clone() }),
                player: number,
                decls: seen.clone(),
                leaves: arrays.to_vec(),
                fields: fields.to_vec(),
                key: key.clone(),
                f: f.clone(),
            }));
            let args = self
                .order_leaves(&seen, arrays)
                .into_iter()
                .chain(fields.iter().map(|(_, a)| a.clone()))
                .chain(LossKeys::of_step(key).inputs());
            gradients = self.inline_gradients(&f, &args.collect::<Vec<_>>(), player.loss.span)?.3;
        }
        let mut g = gradients.into_iter();
        let mut weights = Vec::new();
        for (decl, w) in seen.iter().zip(arrays).filter(|(d, _)| !d.buffer) {
            let gradient = match g.next() {
                Some(g) => g,
                None => self.zeros_like(w),
            };
            weights.push(Leaf { path: player.short_path(setup, &decl.path), w: w.clone(), g: gradient });
        }
        let step = optc_ops::materialize(&mut self.cx, &Val::Int(Dim::from(0i64)), Some(DType::I32));
        let inputs = OptInputs {
            pass: Pass::Init,
            leaves: weights,
            step: self.lift(step, setup.span)?,
            total_steps: Some(setup.steps as i64),
            scalars: self.unknown_scalars(setup),
            recorded: self.unknown_recorded(setup),
            states: IndexMap::new(),
            key: Some(self.fold_key(key, FOLD_OPTIMIZER, None)),
            inputs: None,
            prefix: player.prefix(),
            all_leaves: true,
            apart: Default::default(),
            loss: loss_at,
        };
        Ok(self.run_optimizer(&player.optimizer, inputs)?.states)
    }

    /// Whether the losses, or what they may call, mention `.params`.
    fn asks_for_parameters(&self, setup: &TrainSetup) -> bool {
        let mentions = |span: Span| self.program.sources.slice(span).contains(".params");
        let settings = setup.players.iter().map(|p| p.loss.span).chain(setup.drawn.iter().map(|(_, e)| e.span)).any(mentions);
        let own = self.program.modules.iter().filter(|m| !m.name.starts_with("std/"));
        settings || own.flat_map(|m| &m.file.items).any(|i| matches!(i.kind, optc_front::ast::ItemKind::Fn(_)) && mentions(i.span))
    }

    /// Every pattern of `freeze` names some parameter. While checking, numbers of layers do not count: loops may not have been followed to their end.
    pub(crate) fn frozen_paths(&mut self, setup: &TrainSetup, leaves: &[crate::model::ParamLeaf]) -> Eval<()> {
        for (name, model) in &setup.models {
            let Value::Model(model) = model else { continue };
            let prefix = format!("{name}.");
            let paths: Vec<&str> = leaves.iter().filter(|l| !l.buffer).filter_map(|l| l.path.strip_prefix(&prefix)).collect();
            if paths.is_empty() && self.checking() {
                // It is called where checking does not look; its parameters are known when it runs.
                continue;
            }
            for (pattern, span) in model.frozen.iter() {
                let plain = |path: &str| if self.checking() { without_numbers(path) } else { path.to_string() };
                if !paths.iter().any(|p| crate::arith::glob(&plain(pattern), &plain(p))) {
                    let d = Diagnostic::error(Code("E0532"), *span, format!("no parameter of `{name}` has a path like `{pattern}`"));
                    return self.fail(match crate::names::nearest(pattern, paths.iter().copied()) {
                        Some(near) => d.help(format!("did you mean `{near}`")),
                        None => d.help(format!("its paths are {}", paths.join(", "))),
                    });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn zeros_like(&mut self, w: &Array) -> Array {
        let dtype = w.dtype;
        let zero = optc_ops::materialize(&mut self.cx, &Val::Float(Some(0.0)), Some(dtype));
        let zero = zero.unwrap_or_else(|_| panic!("compiler bug: zero as {dtype}"));
        optc_ops::broadcast_to(&mut self.cx, &zero, &w.shape).unwrap_or_else(|_| panic!("compiler bug: broadcast of a scalar"))
    }

    /// `loss` and metrics before anything is known: NaN.
    pub(super) fn unknown_scalars(&self, setup: &TrainSetup) -> Vec<(Arc<str>, Value)> {
        let names = setup.watched_names();
        std::iter::once(Arc::from("loss")).chain(names).map(|n| (n, Value::Float(Some(f64::NAN)))).collect()
    }

    /// The last recorded losses before anything is recorded.
    pub(super) fn unknown_recorded(&self, setup: &TrainSetup) -> Vec<(Arc<str>, Value)> {
        evaluation::by_name(setup.loss_names().into_iter().map(|n| (n, Value::Float(Some(f64::NAN)))).collect())
    }
}

/// A path without its numbers: `block.0.w` is `block.w`.
pub(crate) fn without_numbers(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').filter(|p| p.parse::<u64>().is_err()).collect();
    parts.join(".")
}
