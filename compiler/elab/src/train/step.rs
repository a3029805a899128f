//! One training step: gradients (accumulated where asked), metrics on the batch, the optimizer.

use super::*;
use crate::program::Ranged;
use optc_ir::ScalarOp;

/// A step as lowered.
pub(super) struct StepValues {
    /// Slots, loss, recorded, ranged.
    outputs: Vec<Array>,
    recorded: Vec<String>,
    record_every: Vec<u64>,
    hyper: IndexMap<String, f64>,
    ranged: Vec<Ranged>,
    has_eval: bool,
}

impl Evaluator<'_> {
    pub(super) fn lower_step(&mut self, setup: &TrainSetup, decls: &[LeafDecl], slots: &[Slot]) -> Eval<(StepProgram, bool)> {
        let lead = [setup.batch];
        let f = Rc::new(self.loss_function(setup, decls, &lead)?);
        self.cx.push_level();
        let result = self.step_values(setup, decls, slots, &f);
        let StepValues { outputs, recorded, record_every, hyper, ranged, has_eval } = match result {
            Ok(v) => v,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let watched = setup.watched_names();
        let mut names: Vec<String> = (0..slots.len()).map(|k| format!("slot.{k}")).collect();
        names.extend((0..setup.fields.len()).map(|k| format!("field.{k}")));
        names.push("key".into());
        names.extend(hyper.keys().map(|n| format!("hyper.{n}")));
        names.extend((0..watched.len()).map(|k| format!("watched.{k}")));
        let graph = self.finish_graph(&outputs, &names, setup.span)?;
        let step = StepProgram {
            graph,
            hyper: hyper.into_iter().collect(),
            watched: watched.iter().map(|n| n.to_string()).collect(),
            recorded,
            record_every,
            ranged,
        };
        Ok((step, has_eval))
    }

    pub(super) fn step_values(&mut self, setup: &TrainSetup, decls: &[LeafDecl], slots: &[Slot], f: &Rc<LossFunction>) -> Eval<StepValues> {
        let inputs: Vec<Array> =
            slots.iter().enumerate().map(|(k, s)| self.cx.input(&format!("slot.{k}"), s.ty.dtype, &s.ty.shape)).collect();
        let lead: Vec<usize> = if setup.accumulate > 1 { vec![setup.accumulate, setup.batch] } else { vec![setup.batch] };
        let fields = self.field_inputs(setup.data.as_deref(), &setup.fields, &lead);
        let run_key = self.cx.input("key", DType::U32, &[2]);
        let mut scalars: Vec<(Arc<str>, Value)> = Vec::new();
        for (k, name) in setup.watched_names().into_iter().enumerate() {
            let input = self.cx.input(&format!("watched.{k}"), DType::F64, &[]);
            scalars.push((name, Value::Array(self.weak_float(&input))));
        }
        let step = inputs[slots.len() - 1].clone();
        let key = self.fold_key(&run_key, FOLD_STEP, Some(&step));
        let leaves = &inputs[..decls.len()];
        let (loss, recorded_arrays, buffers, gradients) = if !self.cx.emitting() {
            let g = decls.iter().zip(leaves).filter(|(d, _)| !d.buffer).map(|(_, a)| a.clone()).collect();
            let scalar = Array { dtype: self.cx.float, shape: Vec::new(), weak: false, node: None };
            (scalar.clone(), vec![scalar; f.recorded_arrays()], Vec::new(), g)
        } else if setup.accumulate > 1 {
            self.accumulate(setup, decls, leaves, &fields, &key, f)?
        } else {
            let args = order_leaves(decls, leaves)
                .into_iter()
                .chain(fields.iter().map(|(_, a)| a.clone()))
                .chain(LossKeys::of_step(&key).inputs());
            self.inline_gradients(f, &args.collect::<Vec<_>>(), setup.span)?
        };
        // Metrics without `on` are computed on the step's batch, at the incoming weights.
        let means = self.recorded_means(f, recorded_arrays);
        let mut recorded: Vec<(String, Array, u64)> = means.into_iter().map(|(n, a)| (n, a, 1)).collect();
        for metric in setup.metrics.iter().filter(|m| m.clauses.iter().all(|c| &*c.word.text != "on")) {
            let every = self.every(setup, metric)?;
            let (name, array) = if every > 1 && self.cx.emitting() {
                self.metric_when_due(setup, decls, leaves, &fields, &key, metric, (&step, every))?
            } else {
                self.batch_metric(setup, decls, leaves, &fields, &key, metric)?
            };
            recorded.push((name, array, every));
        }
        let mut gradient = gradients.into_iter();
        let opt_leaves: Vec<Leaf> = decls
            .iter()
            .zip(leaves)
            .filter(|(d, _)| !d.buffer)
            .map(|(d, w)| Leaf {
                path: short_path(setup, &d.path),
                w: w.clone(),
                g: gradient.next().expect("a gradient for every parameter"),
            })
            .collect();
        let loss_value = Value::Array(self.weak_float(&loss));
        scalars.insert(0, (Arc::from("loss"), loss_value));
        let states =
            slots.iter().zip(&inputs).filter(|(s, _)| s.kind == SlotKind::State).map(|(s, a)| (s.name.clone(), a.clone())).collect();
        let loss_at = Rc::new(at::TrainLoss {
            setup: Rc::new(setup.clone()),
            decls: decls.into(),
            leaves: leaves.to_vec(),
            fields: fields.clone(),
            key: key.clone(),
            f: f.clone(),
        });
        let opt_key = self.fold_key(&key, FOLD_OPTIMIZER, None);
        let opt = OptInputs {
            pass: Pass::Step,
            leaves: opt_leaves,
            step: step.clone(),
            total_steps: setup.steps as i64,
            scalars,
            states,
            key: Some(opt_key),
            inputs: true,
            all_leaves: true,
            loss: Some(loss_at),
        };
        let out = self.run_optimizer(&setup.optimizer, opt)?;
        for (name, tally) in self.named_metrics(out.metrics, &|stage| Arc::from(stage)) {
            recorded.push((name, self.mean_of_tally(&tally.sum, &tally.count), 1));
        }
        let next = optc_ops::binary(&mut self.cx, optc_ops::BinOp::Add, &Val::Array(step.clone()), &Val::Int(Dim::from(1i64)));
        let next = match self.lift(next, setup.span)? {
            Val::Array(a) => self.cast_array(&a, DType::I32),
            other => panic!("compiler bug: a counter became {other:?}"),
        };
        let (mut new_w, mut new_b) = (out.w.into_iter(), buffers.into_iter());
        let mut outputs: Vec<Array> = Vec::new();
        for (slot, input) in slots.iter().zip(&inputs) {
            outputs.push(match slot.kind {
                SlotKind::Param => new_w.next().expect("a new value for every parameter"),
                SlotKind::Buffer | SlotKind::Frozen => new_b.next().unwrap_or_else(|| input.clone()),
                SlotKind::State => out.states.get(&slot.name).cloned().unwrap_or_else(|| input.clone()),
                SlotKind::Counter => next.clone(),
            });
        }
        outputs.push(loss);
        outputs.extend(recorded.iter().map(|(_, a, _)| a.clone()));
        let (ranged, computed): (Vec<Ranged>, Vec<Array>) = out.ranged.into_iter().unzip();
        outputs.extend(computed.iter().cloned());
        if !ranged.is_empty() {
            outputs.push(self.in_ranges(&ranged, &computed));
        }
        Ok(StepValues {
            outputs,
            recorded: recorded.iter().map(|(n, _, _)| n.clone()).collect(),
            record_every: recorded.iter().map(|(_, _, e)| *e).collect(),
            hyper: out.hyper,
            ranged,
            has_eval: out.eval.is_some(),
        })
    }

    /// 0 where all of these hyperparameters are in their ranges, NaN where one is not: what the step is guarded by.
    fn in_ranges(&mut self, ranged: &[Ranged], values: &[Array]) -> Array {
        let origin = self.cx.origin;
        let mut inside = self.cx.graph().scalar(DType::Bool, 1.0, origin);
        for (r, value) in ranged.iter().zip(values) {
            let x = self.cx.node(value);
            let graph = self.cx.graph();
            let ends = [(r.limits.low, false), (r.limits.high, true)];
            for ((limit, inclusive), high) in ends.into_iter().filter_map(|(end, high)| Some((end?, high))) {
                let slack = if inclusive { crate::args::slack(limit) } else { 0.0 };
                let end = graph.scalar(DType::F64, if high { limit + slack } else { limit - slack }, origin);
                let op = if inclusive { ScalarOp::Le } else { ScalarOp::Lt };
                let holds = graph.map(op, &if high { [x, end] } else { [end, x] }, origin);
                inside = graph.map(ScalarOp::And, &[inside, holds], origin);
            }
        }
        let graph = self.cx.graph();
        let (zero, nan) = (graph.scalar(DType::F64, 0.0, origin), graph.scalar(DType::F64, f64::NAN, origin));
        let node = graph.map(ScalarOp::Select, &[inside, zero, nan], origin);
        self.cx.array(node)
    }

    /// Value and gradients as means over `accumulate` batches, in a counted loop.
    pub(super) fn accumulate(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        leaves: &[Array],
        fields: &[(Arc<str>, Array)],
        key: &Array,
        f: &LossFunction,
    ) -> Eval<(Array, Vec<Array>, Vec<Array>, Vec<Array>)> {
        let k = setup.accumulate;
        let float = self.cx.float;
        let origin = self.cx.origin;
        let ordered = order_leaves(decls, leaves);
        let params = &ordered[..f.params];
        // Carried: loss, recorded, gradients (sums), then buffers (latest).
        let mut carried: Vec<Array> = Vec::new();
        for _ in 0..1 + f.recorded_arrays() {
            let node = self.cx.graph().scalar(float, 0.0, origin);
            carried.push(self.cx.array(node));
        }
        for w in params {
            carried.push(self.zeros_like(w));
        }
        carried.extend(ordered[f.params..].iter().cloned());
        let sums = carried.len() - f.buffers;
        self.cx.push_level();
        let counter = self.cx.input("counter", DType::I32, &[]);
        let shape_of = |a: &Array| -> Vec<usize> { a.shape.iter().map(|d| d.known().unwrap_or(1) as usize).collect() };
        let inner: Vec<Array> = carried.iter().map(|a| self.cx.input("carried", a.dtype, &shape_of(a))).collect();
        let slices: Vec<Array> = fields.iter().map(|(_, a)| self.cx.input("slice", a.dtype, &shape_of(a)[1..])).collect();
        let keys = LossKeys { step: key.clone(), batch: self.fold_key(key, FOLD_BATCH, Some(&counter)) };
        let args: Vec<Array> = params.iter().cloned().chain(inner[sums..].iter().cloned()).chain(slices).chain(keys.inputs()).collect();
        let (loss, recorded, buffers, gradients) = match self.inline_gradients(f, &args, setup.span) {
            Ok(v) => v,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let mut outputs = Vec::new();
        for (sum, part) in inner[..sums].iter().zip([loss].into_iter().chain(recorded).chain(gradients)) {
            let (a, b) = (self.cx.node(sum), self.cx.node(&part));
            outputs.push(self.cx.graph().map(optc_ir::ScalarOp::Add, &[a, b], origin));
        }
        outputs.extend(buffers.iter().map(|b| self.cx.node(b)));
        self.cx.graph().outputs = outputs;
        let (body, captured) = self.cx.pop_level();
        let op = LoopOp { trip: Some(k), reverse: false, carried: carried.len(), scanned: fields.len(), guard: None, body: Arc::new(body) };
        let operands: Vec<NodeId> = carried.iter().chain(fields.iter().map(|(_, a)| a)).chain(&captured).map(|a| self.cx.node(a)).collect();
        let results = self.cx.graph().loop_results(op, &operands, origin);
        let mut arrays = Vec::new();
        for (i, &node) in results.iter().enumerate() {
            let node = if i < sums {
                let ty = self.cx.graph().ty(node).clone();
                let scale = self.cx.graph().splat(&ty, 1.0 / k as f64, origin);
                self.cx.graph().map(optc_ir::ScalarOp::Mul, &[node, scale], origin)
            } else {
                node
            };
            arrays.push(self.cx.array(node));
        }
        let r = f.recorded_arrays();
        let gradients = arrays[1 + r..sums].to_vec();
        Ok((arrays[0].clone(), arrays[1..1 + r].to_vec(), arrays[sums..].to_vec(), gradients))
    }

    /// A metric without `on` that is recorded every few steps: computed on these alone, NaN on the others.
    fn metric_when_due(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        leaves: &[Array],
        fields: &[(Arc<str>, Array)],
        key: &Array,
        metric: &Setting,
        (step, every): (&Array, u64),
    ) -> Eval<(String, Array)> {
        // Keys made in the branch end with it.
        let outer = self.key.clone();
        let result = self.subgraph(|ev| {
            let (name, array) = ev.batch_metric(setup, decls, leaves, fields, key, metric)?;
            Ok((name, vec![array]))
        });
        self.key = outer;
        let (name, then, captured) = result?;
        let origin = self.cx.origin;
        let mut otherwise = Graph::new();
        for input in &then.inputs {
            otherwise.input(input.name.clone(), then.ty(input.node).clone(), origin);
        }
        let ty = then.ty(then.outputs[0]).clone();
        otherwise.outputs = vec![otherwise.scalar(ty.dtype, f64::NAN, origin)];
        // As the loop around the steps counts them: the step at hand is `step + 1`, the last one is always recorded.
        let args: Vec<NodeId> = captured.iter().map(|a| self.cx.node(a)).collect();
        let before = self.cx.node(step);
        let graph = self.cx.graph();
        let [one, zero, every, last] = [1.0, 0.0, every as f64, setup.steps as f64].map(|x| graph.scalar(DType::I32, x, origin));
        let number = graph.map(ScalarOp::Add, &[before, one], origin);
        let rest = graph.map(ScalarOp::Rem, &[number, every], origin);
        let due = graph.map(ScalarOp::Eq, &[rest, zero], origin);
        let is_last = graph.map(ScalarOp::Eq, &[number, last], origin);
        let due = graph.map(ScalarOp::Or, &[due, is_last], origin);
        let results = graph.cond_results(due, Arc::new(then), Arc::new(otherwise), &args, origin);
        Ok((name, self.cx.array(results[0])))
    }

    /// A metric without `on`.
    pub(super) fn batch_metric(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        leaves: &[Array],
        fields: &[(Arc<str>, Array)],
        key: &Array,
        metric: &Setting,
    ) -> Eval<(String, Array)> {
        let (name, e) = self.metric_parts(metric)?;
        let mut own = Vec::new();
        for (field, array) in fields {
            let array = if setup.accumulate > 1 && self.cx.emitting() {
                // The first of the step's batches stands for all.
                let node = self.cx.node(array);
                let (shape, origin) = (self.cx.graph().ty(node).shape.clone(), self.cx.origin);
                let first = self.cx.graph().slice_axis(node, 0, 0, 1, origin);
                let node = self.cx.graph().reshape(first, &shape[1..], origin);
                self.cx.array(node)
            } else {
                array.clone()
            };
            own.push((field.clone(), array));
        }
        let models = self.bound_models(setup, decls, leaves);
        self.training = Some(false);
        let batch = self.batch_dim(setup);
        let mut scope = self.loss_scope(setup, &models, &own, batch, Some(key))?;
        let value = self.expr(&mut scope, &e)?;
        let array = self.float_scalar(&value, e.span, "a metric")?;
        Ok((name, array))
    }

    /// Name and expression of a metric.
    pub(crate) fn metric_parts(&mut self, metric: &Setting) -> Eval<(String, Expr)> {
        match metric.values.as_slice() {
            [(Some(name), e)] => Ok((name.text.to_string(), e.clone())),
            _ => self.fail(
                Diagnostic::error(Code("E0522"), metric.span, "a metric needs a name and an expression")
                    .help("`metric accuracy = mean(argmax(net(x), axis = -1) == y) on digits.test every 100`"),
            ),
        }
    }

    /// The number after `every`; 1 if there is none.
    pub(crate) fn every(&mut self, setup: &TrainSetup, setting: &Setting) -> Eval<u64> {
        let Some(value) = setting.clauses.iter().find(|c| &*c.word.text == "every").and_then(|c| c.value.as_ref()) else { return Ok(1) };
        let mut scope = setup.scope.clone();
        let v = self.expr(&mut scope, value)?;
        let n = self.host_int(&v, value.span, "every")?;
        if n < 1 {
            return self.error("E0516", value.span, format!("`every` needs a positive number, not {n}"));
        }
        Ok(n as u64)
    }
}
