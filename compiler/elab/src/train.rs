//! `train` blocks: settings are read by the host, loss and optimizer are lowered to the graphs of a [`TrainProgram`].

use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::DataTable;
use crate::optimizer::{Leaf, OptInputs, Pass};
use crate::program::{CheckpointSpec, DataUse, LogSpec, MetricProgram, Slot, SlotKind, StepProgram, TrainProgram};
use crate::scope::Scope;
use crate::settings::TrainSetup;
use crate::value::Value;
use indexmap::IndexMap;
use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, ExprKind, LetKind, Setting};
use optc_ir::graph::{LoopOp, Op};
use optc_ir::{Graph, NodeId, Ty};
use optc_ops::{Array, Dim, Val};
use std::rc::Rc;
use std::sync::Arc;

/// Place numbers of key folds, apart from those of draws in the text.
pub(crate) const FOLD_STEP: u32 = 0xF000_0001;
const FOLD_LETS: u32 = 0xF000_0002;
const FOLD_OPTIMIZER: u32 = 0xF000_0003;
const FOLD_BATCH: u32 = 0xF000_0004;

/// A leaf of the models: how it is stored.
#[derive(Clone, Debug)]
pub struct LeafDecl {
    /// Path with the model's name in front (`net.linear.0.w`).
    pub path: Arc<str>,
    /// Stored type.
    pub ty: Ty,
    /// Type the model sees.
    pub seen: DType,
    /// Whether it is a buffer.
    pub buffer: bool,
}

/// What one evaluation of the loss gives.
#[derive(Debug)]
struct LossParts {
    loss: Array,
    recorded: Vec<(String, Array)>,
    /// New value of each buffer leaf, in order.
    buffers: Vec<Array>,
}

/// The value-and-gradient function of one batch. Inputs: parameter leaves, buffer leaves, fields, key, captured arrays; outputs of `graph`: loss, recorded, buffers, and
/// after differentiation the gradients.
struct LossFunction {
    graph: Graph,
    captured: Vec<Array>,
    recorded: Vec<String>,
    buffers: usize,
    params: usize,
}

impl Evaluator<'_> {
    /// Lowers a `train` block with overrides to graphs.
    ///
    /// # Errors
    /// Whatever is wrong in it; recorded.
    pub fn lower_train(&mut self, setup: &TrainSetup) -> Eval<TrainProgram> {
        let mode = self.mode;
        self.mode = if mode == Mode::Host { Mode::Lower } else { mode };
        let script = std::mem::replace(&mut self.in_script, false);
        let (training, key) = (self.training, self.key.clone());
        let result = self.lower_train_inner(setup);
        (self.mode, self.in_script, self.training, self.key) = (mode, script, training, key);
        result
    }

    fn lower_train_inner(&mut self, setup: &TrainSetup) -> Eval<TrainProgram> {
        let (decls, states, init) = self.lower_init(setup)?;
        let mut slots: Vec<Slot> = decls
            .iter()
            .map(|d| Slot { name: d.path.to_string(), ty: d.ty.clone(), kind: if d.buffer { SlotKind::Buffer } else { SlotKind::Param } })
            .collect();
        slots.extend(states.iter().map(|(name, ty)| Slot { name: name.clone(), ty: ty.clone(), kind: SlotKind::State }));
        slots.push(Slot { name: "step".into(), ty: Ty::scalar(DType::I32), kind: SlotKind::Counter });
        let (step, has_eval) = self.lower_step(setup, &decls, &slots)?;
        let eval = if has_eval { Some(self.lower_eval(setup, &decls, &slots)?) } else { None };
        let mut metrics = Vec::new();
        for metric in &setup.metrics {
            if metric.clauses.iter().any(|c| &*c.word.text == "on") {
                metrics.push(self.lower_metric(setup, &decls, metric)?);
            }
        }
        let stop_when = match &setup.stop_when {
            Some(e) => Some(self.lower_stop(setup, e)?),
            None => None,
        };
        let given = self.given_leaves(setup, &slots)?;
        Ok(TrainProgram {
            name: setup.name.to_string(),
            file: self.program.module(setup.scope.module).name.clone(),
            span: setup.span,
            slots,
            init,
            given,
            step,
            eval,
            data: setup.data.as_ref().map(|d| data_use(d, &setup.fields)),
            batch: setup.batch,
            accumulate: setup.accumulate,
            shuffle: setup.shuffle,
            steps: setup.steps,
            seed: setup.seed,
            metrics,
            checkpoint: setup.checkpoint.clone().map(|(folder, every, keep)| CheckpointSpec { folder, every, keep }),
            resume: setup.resume,
            log: setup.log.clone().map(|(path, formats)| LogSpec { path, formats }),
            stop_when,
            stop_on_nan: setup.stop_on_nan,
            precision: setup.precision,
        })
    }

    // ------------------------------------------------------------ inputs

    /// Inputs for one batch of the fields.
    fn field_inputs(&mut self, data: Option<&DataTable>, fields: &[Arc<str>], lead: &[usize]) -> Vec<(Arc<str>, Array)> {
        let Some(data) = data else { return Vec::new() };
        let mut inputs = Vec::new();
        for (k, name) in fields.iter().enumerate() {
            let tensor = &data.fields[name];
            let shape: Vec<usize> = lead.iter().copied().chain(tensor.shape[1..].iter().copied()).collect();
            inputs.push((name.clone(), self.cx.input(&format!("field.{k}"), tensor.dtype, &shape)));
        }
        inputs
    }

    /// Ends the graph on top: its inputs in the order of `names` (those not asked for must be captured arrays, which become constants), `outputs` as its results.
    fn finish_graph(&mut self, outputs: &[Array], names: &[String], span: Span) -> Eval<Graph> {
        if !self.cx.emitting() {
            self.cx.pop_level();
            return Ok(Graph::new());
        }
        let outputs: Vec<NodeId> = outputs.iter().map(|a| self.cx.node(a)).collect();
        self.cx.graph().outputs = outputs;
        let (graph, captured) = self.cx.pop_level();
        let mut captured = captured.into_iter();
        let mut constants: IndexMap<usize, Arc<Tensor>> = IndexMap::new();
        for (k, input) in graph.inputs.iter().enumerate() {
            if input.name.starts_with("captured.") {
                let array = captured.next().expect("as many captured arrays as inputs for them");
                constants.insert(k, self.force(&array, span)?);
            }
        }
        let mut out = Graph::new();
        let origin = self.cx.origin;
        let mut args: Vec<Option<NodeId>> = vec![None; graph.inputs.len()];
        for name in names {
            let Some(k) = graph.inputs.iter().position(|i| i.name == *name) else { panic!("compiler bug: no input {name}") };
            let ty = graph.ty(graph.inputs[k].node).clone();
            args[k] = Some(out.input(name.clone(), ty, origin));
        }
        for (k, tensor) in constants {
            args[k] = Some(out.constant((*tensor).clone(), origin));
        }
        let args: Vec<NodeId> = args
            .into_iter()
            .zip(&graph.inputs)
            .map(|(arg, input)| arg.unwrap_or_else(|| panic!("compiler bug: input {} is left over", input.name)))
            .collect();
        out.outputs = out.inline(&graph, &args, "");
        Ok(out)
    }

    /// A key folded with a place and, if given, a number.
    pub(crate) fn fold_key(&mut self, key: &Array, place: u32, number: Option<&Array>) -> Array {
        let number = number.map_or(Value::Int(Dim::from(0i64)), |n| Value::Array(n.clone()));
        self.key_fold(key, &number, place)
    }

    // ------------------------------------------------------------ loss

    /// The scope the loss and metrics are evaluated in.
    fn loss_scope(
        &mut self,
        setup: &TrainSetup,
        models: &[(Arc<str>, Value)],
        fields: &[(Arc<str>, Array)],
        batch: Dim,
        key: Option<&Array>,
    ) -> Eval<Scope> {
        let mut scope = setup.scope.clone();
        scope.push();
        scope.bind("B", Value::Int(batch), LetKind::Let, setup.span);
        for (name, array) in fields {
            scope.bind(name.clone(), Value::Array(array.clone()), LetKind::Let, setup.span);
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
    fn bound_models(&mut self, setup: &TrainSetup, decls: &[LeafDecl], leaves: &[Array]) -> Vec<(Arc<str>, Value)> {
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
            bound.push((name.clone(), self.bind_model(model, &own)));
        }
        bound
    }

    /// Evaluates the loss with bound models.
    fn evaluate_loss(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        leaves: &[Array],
        fields: &[(Arc<str>, Array)],
        key: &Array,
    ) -> Eval<LossParts> {
        let models = self.bound_models(setup, decls, leaves);
        self.training = Some(true);
        let saved = (self.recorder.buffers.replace(IndexMap::new()), self.recorder.metrics.replace(Vec::new()));
        let result = (|ev: &mut Self| {
            let batch = ev.batch_dim(setup);
            let mut scope = ev.loss_scope(setup, &models, fields, batch, Some(key))?;
            ev.key = Some(ev.fold_key(key, FOLD_BATCH, None));
            ev.expr(&mut scope, &setup.loss)
        })(self);
        let buffers = std::mem::replace(&mut self.recorder.buffers, saved.0).unwrap_or_default();
        let metrics = std::mem::replace(&mut self.recorder.metrics, saved.1).unwrap_or_default();
        let (loss, mut recorded) = self.split_loss(setup, result?)?;
        for (name, value) in metrics {
            let array = self.scalar_f32(&value, setup.loss.span, "a metric")?;
            recorded.push((name.to_string(), array));
        }
        let mut new = Vec::new();
        for (decl, old) in decls.iter().zip(leaves).filter(|(d, _)| d.buffer) {
            let array = buffers.get(&decl.path).cloned().unwrap_or_else(|| old.clone());
            new.push(self.cast_array(&array, decl.ty.dtype));
        }
        Ok(LossParts { loss, recorded, buffers: new })
    }

    fn batch_dim(&mut self, setup: &TrainSetup) -> Dim {
        if self.mode == Mode::Check { self.cx.fresh_symbol("B") } else { Dim::from(setup.batch) }
    }

    /// The scalar loss and the auxiliary values of `(loss, { name = value })`.
    fn split_loss(&mut self, setup: &TrainSetup, value: Value) -> Eval<(Array, Vec<(String, Array)>)> {
        let span = setup.loss.span;
        let (loss, aux) = match &value {
            Value::Tuple(parts) if parts.len() == 2 => (parts[0].clone(), Some(parts[1].clone())),
            _ => (value, None),
        };
        let loss = self.scalar_f32(&loss, span, "the loss")?;
        let mut recorded = Vec::new();
        if let Some(Value::Record(fields)) = aux {
            for (name, value) in fields.iter() {
                recorded.push((name.to_string(), self.scalar_f32(value, span, name)?));
            }
        }
        Ok((loss, recorded))
    }

    /// A scalar as an f32 array.
    pub(crate) fn scalar_f32(&mut self, value: &Value, span: Span, what: &str) -> Eval<Array> {
        let array = match value {
            Value::Unknown => return Ok(Array { dtype: DType::F32, shape: Vec::new(), weak: false, node: None }),
            other => match other.to_val() {
                Some(val) => {
                    let made = optc_ops::materialize(&mut self.cx, &val, None);
                    self.lift(made, span)?
                }
                None => return self.error("E0320", span, format!("{what} must be a scalar")),
            },
        };
        if !array.shape.is_empty() {
            let shape: Vec<String> = array.shape.iter().map(|d| d.to_string()).collect();
            return self.fail(
                Diagnostic::error(Code("E0320"), span, format!("{what} must be a scalar, but it has shape [{}]", shape.join(", ")))
                    .help("take its mean or sum"),
            );
        }
        Ok(self.cast_array(&array, DType::F32))
    }

    /// Lowers the loss of one batch to a graph of its own.
    fn loss_function(&mut self, setup: &TrainSetup, decls: &[LeafDecl], lead: &[usize]) -> Eval<LossFunction> {
        self.cx.push_level();
        let mut leaves: Vec<Option<Array>> = vec![None; decls.len()];
        for buffer in [false, true] {
            for (k, d) in decls.iter().enumerate().filter(|(_, d)| d.buffer == buffer) {
                leaves[k] = Some(self.cx.input(&format!("leaf.{k}"), d.ty.dtype, &d.ty.shape));
            }
        }
        let leaves: Vec<Array> = leaves.into_iter().flatten().collect();
        let fields = self.field_inputs(setup.data.as_deref(), &setup.fields, lead);
        let key = self.cx.input("key", DType::U32, &[2]);
        let parts = self.evaluate_loss(setup, decls, &leaves, &fields, &key);
        let parts = match parts {
            Ok(p) => p,
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let recorded: Vec<String> = parts.recorded.iter().map(|(n, _)| n.clone()).collect();
        if self.cx.emitting() {
            let mut outputs = vec![self.cx.node(&parts.loss)];
            for array in parts.recorded.iter().map(|(_, a)| a).chain(&parts.buffers) {
                let origin = self.cx.origin;
                let node = self.cx.node(array);
                outputs.push(self.cx.graph().op(Op::StopGradient, &[node], origin));
            }
            self.cx.graph().outputs = outputs;
        }
        let (mut graph, captured) = self.cx.pop_level();
        if self.cx.emitting() && matches!(setup.precision, DType::BF16 | DType::F16) {
            graph = crate::precision::round_products(&graph, setup.precision);
        }
        let params = decls.iter().filter(|d| !d.buffer).count();
        Ok(LossFunction { graph, captured, recorded, buffers: parts.buffers.len(), params })
    }

    /// Puts value and gradients of a loss function into the graph on top. Gives loss, recorded values, buffers, gradients (of parameters).
    fn inline_gradients(&mut self, f: &LossFunction, args: &[Array], span: Span) -> Eval<(Array, Vec<Array>, Vec<Array>, Vec<Array>)> {
        let wrt: Vec<usize> = (0..f.params).collect();
        let derived = match optc_mid::differentiate::vjp_of(&f.graph, &wrt, &[0]) {
            Ok(g) => g,
            Err(e) => return self.fail(Diagnostic::error(Code("E0705"), e.origin.span, e.message).label(span, "differentiated here")),
        };
        let origin = self.cx.origin;
        let mut nodes: Vec<NodeId> = args.iter().chain(&f.captured).map(|a| self.cx.node(a)).collect();
        nodes.push(self.cx.graph().scalar(DType::F32, 1.0, origin));
        let results = self.cx.graph().inline(&derived, &nodes, "");
        let arrays: Vec<Array> = results.iter().map(|&n| self.cx.array(n)).collect();
        let (r, b) = (f.recorded.len(), f.buffers);
        Ok((arrays[0].clone(), arrays[1..1 + r].to_vec(), arrays[1 + r..1 + r + b].to_vec(), arrays[1 + r + b..].to_vec()))
    }

    // ------------------------------------------------------------ init

    /// The initial values: leaves, states (name and type), and the graph.
    fn lower_init(&mut self, setup: &TrainSetup) -> Eval<(Vec<LeafDecl>, Vec<(String, Ty)>, Graph)> {
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
    fn init_values(
        &mut self,
        setup: &TrainSetup,
        key: &Array,
        fields: &[(Arc<str>, Array)],
    ) -> Eval<(Vec<LeafDecl>, Vec<(String, Ty)>, Vec<Array>)> {
        self.training = Some(true);
        let models: Vec<(Arc<str>, Value)> = setup.models.iter().map(|(n, m)| (n.clone(), label_model(m, n))).collect();
        let batch = self.batch_dim(setup);
        let (_, leaves) = self.initialize(key.clone(), |ev| {
            let mut scope = ev.loss_scope(setup, &models, fields, batch, Some(key))?;
            let value = ev.expr(&mut scope, &setup.loss)?;
            ev.split_loss(setup, value)
        })?;
        let mut decls = Vec::new();
        let mut arrays = Vec::new();
        for leaf in &leaves {
            let stored =
                if leaf.buffer || !leaf.array.dtype.is_float() { leaf.array.dtype } else { setup.stored.unwrap_or(leaf.array.dtype) };
            let shape = leaf.array.shape.iter().map(|d| d.known().unwrap_or(1) as usize);
            decls.push(LeafDecl { path: leaf.path.clone(), ty: Ty::new(stored, shape), seen: leaf.array.dtype, buffer: leaf.buffer });
            arrays.push(self.cast_array(&leaf.array, stored));
        }
        if decls.iter().all(|d| d.buffer) && self.mode != Mode::Check {
            return self.fail(
                Diagnostic::error(Code("E0521"), setup.loss.span, "the loss depends on no parameters, so there is nothing to train")
                    .help("call a model that declares `param`s"),
            );
        }
        // The optimizer's states, from the initial weights; a real gradient only where a state's initial value asks for it.
        let mut weights = Vec::new();
        let needs_gradient = setup.state_uses_gradient;
        let gradients = if needs_gradient && self.cx.emitting() {
            let f = self.loss_function(setup, &decls, &[setup.batch])?;
            let args = order_leaves(&decls, &arrays).into_iter().chain(fields.iter().map(|(_, a)| a.clone())).chain([key.clone()]);
            Some(self.inline_gradients(&f, &args.collect::<Vec<_>>(), setup.span)?.3)
        } else {
            None
        };
        let mut g = gradients.into_iter().flatten();
        for (decl, w) in decls.iter().zip(&arrays).filter(|(d, _)| !d.buffer) {
            let gradient = match g.next() {
                Some(g) => g,
                None => self.zeros_like(w),
            };
            weights.push(Leaf { path: short_path(setup, &decl.path), w: w.clone(), g: gradient });
        }
        let step = optc_ops::materialize(&mut self.cx, &Val::Int(Dim::from(0i64)), Some(DType::I32));
        let step = self.lift(step, setup.span)?;
        let inputs = OptInputs {
            pass: Pass::Init,
            leaves: weights,
            step,
            total_steps: setup.steps as i64,
            scalars: self.unknown_scalars(setup),
            states: IndexMap::new(),
            key: Some(self.fold_key(key, FOLD_OPTIMIZER, None)),
            inputs: false,
        };
        let out = self.run_optimizer(&setup.optimizer, inputs)?;
        let mut states = Vec::new();
        for (name, array) in &out.states {
            states.push((name.clone(), Ty::new(array.dtype, array.shape.iter().map(|d| d.known().unwrap_or(1) as usize))));
            arrays.push(array.clone());
        }
        Ok((decls, states, arrays))
    }

    pub(crate) fn zeros_like(&mut self, w: &Array) -> Array {
        let dtype = w.dtype;
        let zero = optc_ops::materialize(&mut self.cx, &Val::Float(Some(0.0)), Some(dtype));
        let zero = zero.unwrap_or_else(|_| panic!("compiler bug: zero as {dtype}"));
        optc_ops::broadcast_to(&mut self.cx, &zero, &w.shape).unwrap_or_else(|_| panic!("compiler bug: broadcast of a scalar"))
    }

    /// `loss` and metrics before anything is known: NaN.
    fn unknown_scalars(&mut self, setup: &TrainSetup) -> Vec<(Arc<str>, Value)> {
        let names = setup.watched_names();
        std::iter::once(Arc::from("loss")).chain(names).map(|n| (n, Value::Float(Some(f64::NAN)))).collect()
    }

    // ------------------------------------------------------------ step

    fn lower_step(&mut self, setup: &TrainSetup, decls: &[LeafDecl], slots: &[Slot]) -> Eval<(StepProgram, bool)> {
        let lead = [setup.batch];
        let f = self.loss_function(setup, decls, &lead)?;
        self.cx.push_level();
        let result = self.step_values(setup, decls, slots, &f);
        let (outputs, recorded, record_every, hyper, has_eval) = match result {
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
        };
        Ok((step, has_eval))
    }

    #[expect(clippy::type_complexity, reason = "an internal tuple")]
    fn step_values(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        slots: &[Slot],
        f: &LossFunction,
    ) -> Eval<(Vec<Array>, Vec<String>, Vec<u64>, IndexMap<String, f64>, bool)> {
        let inputs: Vec<Array> =
            slots.iter().enumerate().map(|(k, s)| self.cx.input(&format!("slot.{k}"), s.ty.dtype, &s.ty.shape)).collect();
        let lead: Vec<usize> = if setup.accumulate > 1 { vec![setup.accumulate, setup.batch] } else { vec![setup.batch] };
        let fields = self.field_inputs(setup.data.as_deref(), &setup.fields, &lead);
        let run_key = self.cx.input("key", DType::U32, &[2]);
        let mut scalars: Vec<(Arc<str>, Value)> = Vec::new();
        for (k, name) in setup.watched_names().into_iter().enumerate() {
            let input = self.cx.input(&format!("watched.{k}"), DType::F32, &[]);
            scalars.push((name, Value::Array(self.weak_float(&input))));
        }
        let step = inputs[slots.len() - 1].clone();
        let key = self.fold_key(&run_key, FOLD_STEP, Some(&step));
        let leaves = &inputs[..decls.len()];
        let (loss, recorded_arrays, buffers, gradients) = if !self.cx.emitting() {
            let g = decls.iter().zip(leaves).filter(|(d, _)| !d.buffer).map(|(_, a)| a.clone()).collect();
            let scalar = Array { dtype: DType::F32, shape: Vec::new(), weak: false, node: None };
            (scalar.clone(), vec![scalar; f.recorded.len()], Vec::new(), g)
        } else if setup.accumulate > 1 {
            self.accumulate(setup, decls, leaves, &fields, &key, f)?
        } else {
            let args = order_leaves(decls, leaves).into_iter().chain(fields.iter().map(|(_, a)| a.clone())).chain([key.clone()]);
            self.inline_gradients(f, &args.collect::<Vec<_>>(), setup.span)?
        };
        // Metrics without `on` are computed on the step's batch, at the incoming weights.
        let mut recorded: Vec<(String, Array, u64)> = f.recorded.iter().cloned().zip(recorded_arrays).map(|(n, a)| (n, a, 1)).collect();
        for metric in setup.metrics.iter().filter(|m| m.clauses.iter().all(|c| &*c.word.text != "on")) {
            let (name, array, every) = self.batch_metric(setup, decls, leaves, &fields, &key, metric)?;
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
        };
        let out = self.run_optimizer(&setup.optimizer, opt)?;
        for (name, value) in &out.metrics {
            let array = self.scalar_f32(value, setup.span, name)?;
            recorded.push((name.clone(), array, 1));
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
                SlotKind::Buffer => new_b.next().unwrap_or_else(|| input.clone()),
                SlotKind::State => out.states.get(&slot.name).cloned().unwrap_or_else(|| input.clone()),
                SlotKind::Counter => next.clone(),
            });
        }
        outputs.push(loss);
        outputs.extend(recorded.iter().map(|(_, a, _)| a.clone()));
        let names = recorded.iter().map(|(n, _, _)| n.clone()).collect();
        let every = recorded.iter().map(|(_, _, e)| *e).collect();
        Ok((outputs, names, every, out.hyper, out.eval.is_some()))
    }

    /// Value and gradients as means over `accumulate` batches, in a counted loop.
    fn accumulate(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        leaves: &[Array],
        fields: &[(Arc<str>, Array)],
        key: &Array,
        f: &LossFunction,
    ) -> Eval<(Array, Vec<Array>, Vec<Array>, Vec<Array>)> {
        let k = setup.accumulate;
        let origin = self.cx.origin;
        let ordered = order_leaves(decls, leaves);
        let params = &ordered[..f.params];
        // Carried: loss, recorded, gradients (sums), then buffers (latest).
        let mut carried: Vec<Array> = Vec::new();
        for _ in 0..1 + f.recorded.len() {
            let node = self.cx.graph().scalar(DType::F32, 0.0, origin);
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
        let batch_key = self.fold_key(key, FOLD_BATCH, Some(&counter));
        let args: Vec<Array> = params.iter().cloned().chain(inner[sums..].iter().cloned()).chain(slices).chain([batch_key]).collect();
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
        let op = LoopOp { trip: Some(k), reverse: false, carried: carried.len(), scanned: fields.len(), body: Arc::new(body) };
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
        let r = f.recorded.len();
        let gradients = arrays[1 + r..sums].to_vec();
        Ok((arrays[0].clone(), arrays[1..1 + r].to_vec(), arrays[sums..].to_vec(), gradients))
    }

    /// A metric without `on`.
    fn batch_metric(
        &mut self,
        setup: &TrainSetup,
        decls: &[LeafDecl],
        leaves: &[Array],
        fields: &[(Arc<str>, Array)],
        key: &Array,
        metric: &Setting,
    ) -> Eval<(String, Array, u64)> {
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
        let array = self.scalar_f32(&value, e.span, "a metric")?;
        Ok((name, array, self.every(setup, metric)?))
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
    fn every(&mut self, setup: &TrainSetup, setting: &Setting) -> Eval<u64> {
        let Some(value) = setting.clauses.iter().find(|c| &*c.word.text == "every").and_then(|c| c.value.as_ref()) else { return Ok(1) };
        let mut scope = setup.scope.clone();
        let v = self.expr(&mut scope, value)?;
        let n = self.host_int(&v, value.span, "every")?;
        if n < 1 {
            return self.error("E0516", value.span, format!("`every` needs a positive number, not {n}"));
        }
        Ok(n as u64)
    }

    // ------------------------------------------------------------ evaluation

    /// The graph of the weights named by `eval w`.
    fn lower_eval(&mut self, setup: &TrainSetup, decls: &[LeafDecl], slots: &[Slot]) -> Eval<Graph> {
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

    fn lower_metric(&mut self, setup: &TrainSetup, decls: &[LeafDecl], metric: &Setting) -> Eval<MetricProgram> {
        let (name, e) = self.metric_parts(metric)?;
        let every = self.every(setup, metric)?;
        let on = metric.clauses.iter().find(|c| &*c.word.text == "on").and_then(|c| c.value.as_ref());
        let Some(on) = on else { return self.error("E0522", metric.span, "`on` needs a data set") };
        let data = self.data_of(setup, on)?;
        let n = data.len();
        if n == 0 && self.mode != Mode::Check {
            return self.error("E0523", on.span, format!("`{}` has no examples", data.name));
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

    fn metric_graph(
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
        let key = self.cx.input("key", DType::U32, &[2]);
        let result = (|ev: &mut Self| {
            let models = ev.bound_models(setup, decls, &leaves);
            ev.training = Some(false);
            let batch = if ev.mode == Mode::Check { ev.cx.fresh_symbol("B") } else { Dim::from(rows) };
            let mut scope = ev.loss_scope(setup, &models, &inputs, batch, Some(&key))?;
            ev.key = Some(key.clone());
            let Some(inner) = mean_of else {
                let value = ev.expr(&mut scope, e)?;
                let scalar = ev.scalar_f32(&value, e.span, "a metric")?;
                return Ok(vec![ev.cast_array(&scalar, DType::F64)]);
            };
            let value = ev.expr(&mut scope, inner)?;
            let array = ev.array_of(&value, inner.span)?;
            let array = if array.dtype.is_float() && !array.weak { array } else { ev.cast_array(&array, DType::F32) };
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
        names.push("key".into());
        self.finish_graph(&outputs, &names, setup.span)
    }

    fn lower_stop(&mut self, setup: &TrainSetup, e: &Expr) -> Eval<(Graph, Vec<String>)> {
        self.cx.push_level();
        let mut scope = setup.scope.clone();
        scope.push();
        let mut watched: Vec<Arc<str>> = vec![Arc::from("loss")];
        watched.extend(setup.watched_names());
        for (k, name) in watched.iter().enumerate() {
            let input = self.cx.input(&format!("watched.{k}"), DType::F32, &[]);
            let value = Value::Array(self.weak_float(&input));
            scope.bind(name.clone(), value, LetKind::Let, e.span);
        }
        let value = self.expr(&mut scope, e).and_then(|v| match v {
            Value::Unknown => Ok(Array { dtype: DType::Bool, shape: Vec::new(), weak: false, node: None }),
            v => self.array_of(&v, e.span),
        });
        let array = match value {
            Ok(a) if a.dtype == DType::Bool && a.shape.is_empty() => a,
            Ok(_) => {
                self.cx.pop_level();
                return self.fail(
                    Diagnostic::error(Code("E0524"), e.span, "`stop when` needs a scalar condition").help("`stop when accuracy > 0.99`"),
                );
            }
            Err(stop) => {
                self.cx.pop_level();
                return Err(stop);
            }
        };
        let names: Vec<String> = (0..watched.len()).map(|k| format!("watched.{k}")).collect();
        let graph = self.finish_graph(&[array], &names, e.span)?;
        Ok((graph, watched.iter().map(|n| n.to_string()).collect()))
    }

    /// `net.params = tree`: leaves by path and shape.
    fn given_leaves(&mut self, setup: &TrainSetup, slots: &[Slot]) -> Eval<Vec<(usize, Arc<Tensor>)>> {
        let mut given = Vec::new();
        for (model, tree, span) in &setup.given {
            let leaves = self.tree_leaves(tree, *span)?;
            let prefix = format!("{model}.");
            for (k, slot) in slots.iter().enumerate() {
                let Some(path) = slot.name.strip_prefix(&prefix) else { continue };
                if !matches!(slot.kind, SlotKind::Param | SlotKind::Buffer) {
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

/// Parameters before buffers, as a loss function takes them.
fn order_leaves(decls: &[LeafDecl], leaves: &[Array]) -> Vec<Array> {
    let pick = |buffer: bool| decls.iter().zip(leaves).filter(move |(d, _)| d.buffer == buffer).map(|(_, a)| a.clone());
    pick(false).chain(pick(true)).collect()
}

/// A leaf's path as optimizer bodies see it: without the model's name where there is only one model.
fn short_path(setup: &TrainSetup, path: &str) -> Arc<str> {
    match setup.models.as_slice() {
        [(name, _)] => Arc::from(path.strip_prefix(&format!("{name}.")).unwrap_or(path)),
        _ => Arc::from(path),
    }
}

/// The model under a label, so that initialization names its leaves.
fn label_model(model: &Value, label: &Arc<str>) -> Value {
    match model {
        Value::Model(m) => Value::Model(Rc::new(crate::value::ModelValue { label: Some(label.clone()), ..(**m).clone() })),
        other => other.clone(),
    }
}

fn data_use(table: &Rc<DataTable>, fields: &[Arc<str>]) -> DataUse {
    let example = fields.iter().map(|f| Ty::new(table.fields[f].dtype, table.fields[f].shape[1..].iter().copied())).collect();
    DataUse { table: Arc::new((**table).clone()), fields: fields.to_vec(), example }
}
