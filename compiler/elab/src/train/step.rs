//! One training step: gradients (accumulated where asked), metrics on the batch, the optimizer.

use super::player::{At, StepCx, in_range, states_of};
use super::*;
use crate::program::Ranged;
use optc_ir::ScalarOp;

/// A step as lowered.
pub(super) struct StepValues {
    /// Slots, recorded, ranged.
    outputs: Vec<Array>,
    recorded: Vec<Record>,
    hyper: IndexMap<String, f64>,
    ranged: Vec<Ranged>,
    has_eval: bool,
}

/// What is recorded at a step, and whose it is.
struct Found {
    name: String,
    array: Array,
    every: u64,
    /// Number of the player; none of the train's own metrics.
    player: Option<usize>,
}

impl Evaluator<'_> {
    pub(super) fn lower_step(&mut self, setup: &TrainSetup, decls: &[LeafDecl], slots: &[Slot]) -> Eval<(StepProgram, bool)> {
        let mut losses = Vec::with_capacity(setup.players.len());
        for player in &setup.players {
            let seen = seen_by(player, decls);
            losses.push((Rc::new(self.loss_function(setup, player, &seen, &[setup.batch], None)?), seen));
        }
        self.cx.push_level();
        let result = self.step_values(setup, decls, slots, losses);
        let StepValues { outputs, recorded, hyper, ranged, has_eval } = match result {
            Ok(v) => v,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let watched = self.watched_in_step(setup);
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
            losses: setup.players.len(),
            ranged,
            asked_again: std::mem::take(&mut self.asked_again),
        };
        Ok((step, has_eval))
    }

    /// Names of the recorded values that a step reads: metrics, and losses where an optimizer's arguments mention them.
    fn watched_in_step(&self, setup: &TrainSetup) -> Vec<Arc<str>> {
        let mut names = setup.watched_names();
        if setup.players.iter().any(|p| crate::optimizer::arguments_mention(&p.optimizer, "loss")) {
            names.extend(setup.loss_names());
        }
        names
    }

    fn step_values(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        slots: &[Slot],
        losses: Vec<(Rc<LossFunction>, Rc<[LeafDecl]>)>,
    ) -> Eval<StepValues> {
        let inputs: Vec<Array> =
            slots.iter().enumerate().map(|(k, s)| self.cx.input(&format!("slot.{k}"), s.ty.dtype, &s.ty.shape)).collect();
        let lead: Vec<usize> = if setup.accumulate > 1 { vec![setup.accumulate, setup.batch] } else { vec![setup.batch] };
        let fields = self.field_inputs(setup.data.as_deref(), &setup.fields, &lead);
        let run_key = self.cx.input("key", DType::U32, &[2]);
        let mut scalars: Vec<(Arc<str>, Value)> = Vec::new();
        for (k, name) in self.watched_in_step(setup).into_iter().enumerate() {
            let input = self.cx.input(&format!("watched.{k}"), DType::F64, &[]);
            scalars.push((name, Value::Array(self.weak_float(&input))));
        }
        let recorded_losses = evaluation::by_name(scalars.split_off(setup.watched_names().len()));
        let step = inputs[slots.len() - 1].clone();
        let key = self.fold_key(&run_key, FOLD_STEP, Some(&step));
        let leaves = &inputs[..decls.len()];
        // Metrics without `on` are computed on the step's batch, at the incoming weights.
        let mut of_batch = Vec::new();
        for metric in setup.metrics.iter().filter(|m| m.clauses.iter().all(|c| &*c.word.text != "on")) {
            let every = self.every(setup, metric)?;
            let (name, array) = if every > 1 && self.cx.emitting() {
                self.metric_when_due(setup, decls, leaves, &fields, &key, metric, (&step, every))?
            } else {
                self.batch_metric(setup, decls, leaves, &fields, &key, metric)?
            };
            of_batch.push(Found { name, array, every, player: None });
        }
        let mut states = IndexMap::new();
        for player in &setup.players {
            states.extend(states_of(player, slots, &inputs));
        }
        let old = At { leaves: leaves.to_vec(), states };
        let cx = StepCx { setup, decls, fields: &fields, key, step: step.clone(), scalars, recorded: recorded_losses, losses };
        let mut now = old.clone();
        let (mut found_losses, mut found, mut ranged, mut hyper) = (Vec::new(), Vec::new(), Vec::new(), IndexMap::new());
        let mut has_eval = false;
        for (k, player) in setup.players.iter().enumerate() {
            let made = if setup.simultaneous {
                let mut own = old.clone();
                let made = self.play(&cx, k, &mut own)?;
                cx.bring(k, &own, &mut now);
                made
            } else {
                self.play(&cx, k, &mut now)?
            };
            let every = player.every;
            found_losses.push(Found { name: player.recorded("loss"), array: made.loss, every, player: Some(k) });
            for (name, tally) in made.recorded {
                let array = self.mean_of_tally(&tally.sum, &tally.count);
                found.push(Found { name, array, every, player: Some(k) });
            }
            ranged.extend(made.ranged);
            hyper.extend(made.hyper);
            has_eval |= made.has_eval;
        }
        let next = optc_ops::binary(&mut self.cx, optc_ops::BinOp::Add, &Val::Array(step.clone()), &Val::Int(Dim::from(1i64)));
        let next = match self.lift(next, setup.span)? {
            Val::Array(a) => self.cast_array(&a, DType::I32),
            other => panic!("compiler bug: a counter became {other:?}"),
        };
        let mut outputs: Vec<Array> = Vec::new();
        for (k, slot) in slots.iter().enumerate() {
            outputs.push(match slot.kind {
                SlotKind::Param | SlotKind::Buffer | SlotKind::Frozen => now.leaves[k].clone(),
                SlotKind::State => now.states[&slot.name].clone(),
                SlotKind::Counter => next.clone(),
            });
        }
        apart(setup, &mut found);
        let all: Vec<Found> = found_losses.into_iter().chain(found).chain(of_batch).collect();
        outputs.extend(all.iter().map(|f| f.array.clone()));
        let (ranged, computed): (Vec<Ranged>, Vec<Array>) = ranged.into_iter().unzip();
        outputs.extend(computed.iter().cloned());
        if !ranged.is_empty() {
            outputs.push(self.in_ranges(&ranged, &computed));
        }
        let recorded = all.into_iter().map(|f| Record { last: f.player.is_none() || f.every == 1, name: f.name, every: f.every }).collect();
        Ok(StepValues { outputs, recorded, hyper, ranged, has_eval })
    }

    /// 0 where all of these hyperparameters are in their ranges, NaN where one is not: what the step is guarded by.
    pub(crate) fn in_ranges(&mut self, ranged: &[Ranged], values: &[Array]) -> Array {
        let origin = self.cx.origin;
        let mut inside = self.cx.graph().scalar(DType::Bool, 1.0, origin);
        for (r, value) in ranged.iter().zip(values) {
            let x = self.cx.node(value);
            let graph = self.cx.graph();
            let holds = in_range(graph, r, x);
            inside = graph.map(ScalarOp::And, &[inside, holds], origin);
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
        let ordered = self.order_leaves(decls, leaves);
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

/// What several players record under one name gets theirs behind it: `kl.gen`, `kl.disc`.
fn apart(setup: &TrainSetup, found: &mut [Found]) {
    let owners: Vec<(String, Option<usize>)> = found.iter().map(|f| (f.name.clone(), f.player)).collect();
    for f in found {
        if let Some(k) = f.player
            && owners.iter().any(|(name, player)| *name == f.name && *player != Some(k))
        {
            f.name = setup.players[k].recorded(&f.name);
        }
    }
}
