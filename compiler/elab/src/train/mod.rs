//! `train` blocks: settings are read by the host, loss and optimizer are lowered to the graphs of a [`TrainProgram`].

mod at;
mod evaluation;
mod init;
mod loss;
mod player;
mod step;

pub(crate) use evaluation::by_name;
pub(crate) use init::without_numbers;

use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::DataTable;
use crate::optimizer::{Leaf, OptInputs, Pass};
use crate::players::Player;
use crate::program::{CheckpointSpec, DataUse, LogSpec, MetricProgram, PlayerSpec, Record, Slot, SlotKind, StepProgram, TrainProgram};
use crate::scope::Scope;
use crate::settings::TrainSetup;
use crate::tally::{Count, Metrics, Tally};
use crate::value::Value;
use indexmap::{IndexMap, IndexSet};
use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, ExprKind, LetKind, Setting};
use optc_ir::graph::{LoopOp, Op};
use optc_ir::{Graph, NodeId, Ty};
use optc_ops::{Array, Dim, Val};
use std::rc::Rc;
use std::sync::Arc;

/// Place numbers of key folds, apart from those of draws in the text: of the step at hand, counted from 0.
pub const FOLD_STEP: u32 = 0xF000_0001;
const FOLD_LETS: u32 = 0xF000_0002;
pub(crate) const FOLD_OPTIMIZER: u32 = 0xF000_0003;
/// Of a batch of the step, or of a part of the data set that a metric runs through.
pub const FOLD_BATCH: u32 = 0xF000_0004;
/// Of what is drawn once for the whole run, in its settings.
pub(crate) const FOLD_SETTINGS: u32 = 0xF000_0005;
/// Of a player, with its number.
const FOLD_PLAYER: u32 = 0xF000_0100;
/// The place of the expressions of a run.
pub(crate) const RUN_PLACE: u64 = 0;

/// What a loss draws from.
#[derive(Clone, Debug)]
struct LossKeys {
    /// The key of the step, for what the `let`s of the block draw: the same for all batches of the step.
    step: Array,
    /// The key of the batch.
    batch: Array,
}

impl LossKeys {
    /// Those of the only batch of a step.
    fn of_step(key: &Array) -> LossKeys {
        LossKeys { step: key.clone(), batch: key.clone() }
    }
    /// As inputs of a loss function.
    fn inputs(&self) -> [Array; 2] {
        [self.step.clone(), self.batch.clone()]
    }
}

/// A leaf of the models: how it is stored.
#[derive(Clone, Debug)]
pub struct LeafDecl {
    /// Path with the model's name in front (`net.linear.0.w`).
    pub path: Arc<str>,
    /// Stored type.
    pub ty: Ty,
    /// Type the model sees.
    pub seen: DType,
    /// Whether it is a buffer, frozen, or another player's: takes no gradient, is not seen by the optimizer.
    pub buffer: bool,
    /// Whether it is a frozen parameter.
    pub frozen: bool,
}

/// What one evaluation of the loss gives.
#[derive(Debug)]
struct LossParts {
    loss: Array,
    recorded: Vec<(String, Tally)>,
    /// New value of each buffer leaf, in order.
    buffers: Vec<Array>,
}

/// The value-and-gradient function of one batch. Inputs: parameter leaves, buffer leaves, fields, keys of the step and of the batch, for the loss of one example its number in
/// the batch, captured arrays; outputs of `graph`: loss, recorded (each a sum
/// and, where its number is known at run time only, a count), buffers, and after differentiation the gradients.
struct LossFunction {
    graph: Graph,
    captured: Vec<Array>,
    /// Names, and whether a count follows the sum.
    recorded: Vec<(String, bool)>,
    buffers: usize,
    params: usize,
    /// The draws it makes, in order: where in its key's sequence, and of which shape.
    draws: Arc<Vec<(usize, Vec<usize>)>>,
}

impl LossFunction {
    /// Number of outputs for what is recorded.
    fn recorded_arrays(&self) -> usize {
        self.recorded.iter().map(|(_, counted)| 1 + usize::from(*counted)).sum()
    }
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
        let training = self.training;
        // A run depends on its settings and its seed, not on where it stands in the script.
        let result = self.isolated(RUN_PLACE, None, |ev| ev.with_float(setup.working(), |ev| ev.lower_train_inner(setup)));
        (self.mode, self.in_script, self.training) = (mode, script, training);
        result
    }

    fn lower_train_inner(&mut self, setup: &TrainSetup) -> Eval<TrainProgram> {
        let (decls, states, init) = self.lower_init(setup)?;
        let mut slots: Vec<Slot> = decls
            .iter()
            .map(|d| {
                let kind = match (d.frozen, d.buffer) {
                    (true, _) => SlotKind::Frozen,
                    (false, true) => SlotKind::Buffer,
                    (false, false) => SlotKind::Param,
                };
                Slot { name: d.path.to_string(), ty: d.ty.clone(), kind }
            })
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
        let given_names = metrics.iter().map(|m| m.name.as_str());
        self.recorded_once(setup, step.recorded.iter().map(|r| r.name.as_str()).chain(given_names))?;
        let stop_when = match &setup.stop_when {
            Some(e) => Some(self.lower_stop(setup, e, &step.recorded)?),
            None => None,
        };
        let given = self.given_leaves(setup, &slots)?;
        Ok(TrainProgram {
            name: setup.name.to_string(),
            variant: String::new(),
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
            offload: setup.offload.clone(),
            stop_when,
            stop_on_nan: setup.stop_on_nan,
            players: setup.players.iter().filter_map(player_spec).collect(),
            simultaneous: setup.simultaneous,
            precision: setup.precision,
            device: setup.device,
        })
    }

    /// What a run records has names of its own.
    pub(crate) fn recorded_once<'n>(&mut self, setup: &TrainSetup, names: impl Iterator<Item = &'n str>) -> Eval<()> {
        let mut seen: Vec<&str> = Vec::new();
        for name in names {
            if !seen.contains(&name) {
                seen.push(name);
                continue;
            }
            let setting = setup.metrics.iter().find(|m| m.values.first().and_then(|(n, _)| n.as_ref()).is_some_and(|n| &*n.text == name));
            let place = setting.map_or(setup.players[0].loss.span, |m| m.span);
            return self.fail(Diagnostic::error(Code("E0537"), place, format!("`{name}` is recorded twice")).help(
                "give each metric of the train, the loss, the model and the optimizer, and each auxiliary value, a name of its own",
            ));
        }
        Ok(())
    }

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
    pub(crate) fn finish_graph(&mut self, outputs: &[Array], names: &[String], span: Span) -> Eval<Graph> {
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

    /// Parameters before buffers, as a loss function takes them: parameters as the model sees them, so that their gradients are not rounded to what weights are
    /// stored in.
    fn order_leaves(&mut self, decls: &[LeafDecl], leaves: &[Array]) -> Vec<Array> {
        let mut out = Vec::with_capacity(leaves.len());
        for buffer in [false, true] {
            for (d, a) in decls.iter().zip(leaves).filter(|(d, _)| d.buffer == buffer) {
                out.push(if buffer { a.clone() } else { self.cast_array(a, d.seen) });
            }
        }
        out
    }

    /// A key folded with a place and, if given, a number.
    pub(crate) fn fold_key(&mut self, key: &Array, place: u32, number: Option<&Array>) -> Array {
        let number = number.map_or(Value::Int(Dim::from(0i64)), |n| Value::Array(n.clone()));
        self.key_fold(key, &number, place)
    }
}

/// The leaves as a player sees them: those of the others are given.
fn seen_by(player: &Player, decls: &[LeafDecl]) -> Rc<[LeafDecl]> {
    decls.iter().map(|d| LeafDecl { buffer: d.buffer || !player.owns(&d.path), ..d.clone() }).collect()
}

fn player_spec(player: &Player) -> Option<PlayerSpec> {
    let name = player.name.as_ref()?.to_string();
    Some(PlayerSpec { name, every: player.every, times: player.times })
}

/// A path as metrics are named after: without the model's name where there is only one model.
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
