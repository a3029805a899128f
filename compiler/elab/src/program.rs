//! A lowered `train` block: graphs and plain data; all the driver needs to train.

use crate::host::DataTable;
use optc_abi::DType;
use optc_base::Span;
use optc_ir::{Graph, Ty};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// A trainable parameter.
    Param,
    /// A parameter that stays as it is (`freeze`): no gradient, no optimizer state.
    Frozen,
    /// A buffer of a model.
    Buffer,
    /// A state of the optimizer (of one leaf, or shared).
    State,
    /// The optimizer's step counter (i32 scalar, counts from 0).
    Counter,
}

/// A persistent array of a run: read and overwritten by each step.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Unique name: `net.linear.0.w`, `optimizer.1.m.net.linear.0.w`, `optimizer.t`.
    pub name: String,
    /// Type.
    pub ty: Ty,
    /// What it is.
    pub kind: SlotKind,
}

/// The examples a train or metric draws from.
#[derive(Clone, Debug)]
pub struct DataUse {
    /// The table (a split).
    pub table: Arc<DataTable>,
    /// Names of the fields that are graph inputs, in order.
    pub fields: Vec<Arc<str>>,
    /// Element type and shape of one example of each.
    pub example: Vec<Ty>,
}

/// One training step as a graph.
///
/// Inputs: all slots; then `[accumulate,] batch, …` arrays of each field of the data; then a key u32[2] made from the seed (low word, high word; the graph folds the step counter in, so draws differ from step to step);
/// then the hyperparameters (f64 scalars); then the watched values (f64 scalars: last recorded loss and metrics).
/// Outputs: all slots anew (aliased with their inputs); then the recorded scalars, of which the losses (of the working precision) are the first; then the hyperparameters to be
/// checked (f64 scalars) and, if there are any, an f64 scalar that is 0 where all of them are in their ranges and NaN where one is not.
#[derive(Clone, Debug)]
pub struct StepProgram {
    /// The graph.
    pub graph: Graph,
    /// Values of the hyperparameter inputs.
    pub hyper: Vec<(String, f64)>,
    /// Names of the watched inputs (`loss`, metric names).
    pub watched: Vec<String>,
    /// The recorded outputs: the losses (one for each player), auxiliary values and `metric` statements in bodies, metrics of the train without `on`.
    pub recorded: Vec<Record>,
    /// How many of them are losses.
    pub losses: usize,
    /// Hyperparameters with a range whose value is only known in the step: the outputs after the recorded ones (f64 scalars), in this order.
    pub ranged: Vec<Ranged>,
    /// How the optimizers look at the loss again: `grad_at`, `hvp_at`, ….
    pub asked_again: BTreeSet<&'static str>,
}

/// A scalar that a step gives, and when it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name: `loss`, `loss.gen`, `kl`.
    pub name: String,
    /// Every how many steps.
    pub every: u64,
    /// Whether also after the last step; not what belongs to a player that does not step then.
    pub last: bool,
}

impl Record {
    /// Whether it is recorded after step number `step`, from 1, of `steps`.
    pub fn due(&self, step: u64, steps: u64) -> bool {
        step.is_multiple_of(self.every) || (self.last && step == steps)
    }
}

/// A player of a train.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlayerSpec {
    /// Its name, that of its model.
    pub name: String,
    /// It steps in the steps whose number, from 1, is a multiple of this.
    pub every: u64,
    /// So often in each of them.
    pub times: u64,
}

/// A hyperparameter that must stay in its range.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranged {
    /// Of which optimizer.
    pub optimizer: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its range.
    pub limits: crate::args::Limits,
    /// Where its value is written.
    pub span: Span,
    /// Where its range is written.
    pub range: Span,
}

/// A metric on a data set.
#[derive(Clone, Debug)]
pub struct MetricProgram {
    /// Its name.
    pub name: String,
    /// Every how many steps (also after the last).
    pub every: u64,
    /// The data it sees.
    pub data: DataUse,
    /// Graphs by number of examples. Inputs: model leaves (parameters and buffers, in slot order; evaluation weights), fields with a leading axis of that many examples,
    /// then the key of the step and that of the chunk.
    /// Outputs: for a streamed `mean`, the sum (f64 scalar) and the count (f64 scalar); otherwise the value (f64 scalar).
    pub chunk: usize,
    /// For `chunk` examples.
    pub whole: Graph,
    /// For the last, shorter chunk, if there is one.
    pub rest: Option<Graph>,
    /// Whether it is a streamed mean.
    pub streamed: bool,
}

/// `checkpoint "dir" every n, keep = k`
#[derive(Clone, Debug)]
pub struct CheckpointSpec {
    /// Folder, as written; that of the run is below it if it has a variant.
    pub folder: String,
    /// Every how many steps.
    pub every: u64,
    /// How many are kept.
    pub keep: usize,
}

/// `log "dir", formats = […]`
#[derive(Clone, Debug)]
pub struct LogSpec {
    /// Folder, as written; that of the run is below it if it has a variant.
    pub path: String,
    /// `csv`, `jsonl`, `tensorboard`.
    pub formats: Vec<String>,
}

/// `offload "dir", weights = true, states = true, activations = true, chunk = 8MiB, depth = 4, throttle = 400MiB`
#[derive(Clone, Debug, PartialEq)]
pub struct OffloadSpec {
    /// Folder, as written; that of the run is below it if it has a variant.
    pub folder: String,
    /// Whether parameters and buffers of the model live there too, not only states of the optimizer.
    pub weights: bool,
    /// Whether states of the optimizer do.
    pub states: bool,
    /// Whether residuals that a model hands over for it (`checkpoint(f, residuals = "swap")`) are there between the forward and the backward pass.
    pub activations: bool,
    /// Bytes of arrays that are updated at one time.
    pub chunk: usize,
    /// Chunks in memory.
    pub depth: usize,
    /// Most bytes a second each way.
    pub throttle: Option<f64>,
}

impl Default for OffloadSpec {
    fn default() -> Self {
        OffloadSpec { folder: String::new(), weights: false, states: true, activations: true, chunk: 8 << 20, depth: 4, throttle: None }
    }
}

impl OffloadSpec {
    /// Bytes below which an array stays in memory: a file is read by the block.
    pub const SMALLEST: usize = 4096;

    /// Whether a slot lives in a file.
    pub fn holds(&self, slot: &Slot) -> bool {
        let kind = match slot.kind {
            SlotKind::State => self.states,
            SlotKind::Param | SlotKind::Frozen | SlotKind::Buffer => self.weights,
            SlotKind::Counter => false,
        };
        kind && slot.ty.len() * slot.ty.dtype.size() >= Self::SMALLEST
    }
}

/// A lowered `train` block.
#[derive(Clone, Debug)]
pub struct TrainProgram {
    /// The train's name.
    pub name: String,
    /// What sets the run apart from the train as written, as the name of a folder (`seed=3,net.hidden=32`); empty for a plain run.
    pub variant: String,
    /// Name of the file it stands in (paths are relative to it).
    pub file: Arc<str>,
    /// Where it stands.
    pub span: Span,
    /// Persistent arrays.
    pub slots: Vec<Slot>,
    /// Input: a key u32[2] made from the seed, then the fields of the first batch if `init_needs_batch`. Outputs: the initial value of each slot.
    pub init: Graph,
    /// Initial values that replace outputs of `init` (`net.params = tree`), by slot.
    pub given: Vec<(usize, Arc<optc_abi::Tensor>)>,
    /// The step.
    pub step: StepProgram,
    /// Evaluation weights: inputs all slots, outputs one array per parameter and buffer; `None` if they are the slots themselves.
    pub eval: Option<Graph>,
    /// Training data; `None` for a loss of parameters alone.
    pub data: Option<DataUse>,
    /// Examples per batch (of one of `accumulate`).
    pub batch: usize,
    /// Batches per step.
    pub accumulate: usize,
    /// Whether examples are shuffled each epoch.
    pub shuffle: bool,
    /// Number of steps.
    pub steps: u64,
    /// Seed of initial values, shuffling and draws.
    pub seed: u64,
    /// Metrics with `on`.
    pub metrics: Vec<MetricProgram>,
    /// Checkpoints.
    pub checkpoint: Option<CheckpointSpec>,
    /// `resume`
    pub resume: bool,
    /// Logs.
    pub log: Option<LogSpec>,
    /// Which slots live in files.
    pub offload: Option<OffloadSpec>,
    /// Stop after the step when this graph (inputs: watched values, f64 scalars, by these names) gives true (bool scalar).
    pub stop_when: Option<(Graph, Vec<String>)>,
    /// Players in the order of their steps; none where losses and optimizers have no names.
    pub players: Vec<PlayerSpec>,
    /// Whether all players see the weights that came in.
    pub simultaneous: bool,
    /// Whether a NaN or infinite loss ends the run (`on nan { stop }`, the default) or is left to the optimizer.
    pub stop_on_nan: bool,
    /// Element type of the model's arithmetic (`precision bf16`).
    pub precision: DType,
    /// Where it is trained.
    pub device: optc_abi::device::Target,
}

impl TrainProgram {
    /// Slots that live in files.
    pub fn offloaded(&self) -> Vec<usize> {
        let Some(spec) = &self.offload else { return Vec::new() };
        self.slots.iter().enumerate().filter(|(_, slot)| spec.holds(slot)).map(|(k, _)| k).collect()
    }
    /// Bytes from which residuals handed over for it leave memory in a step, if they do.
    pub fn swap(&self) -> Option<usize> {
        self.offload.as_ref().filter(|o| o.activations).map(|_| OffloadSpec::SMALLEST)
    }
    /// The outputs of the step that are losses.
    pub fn loss_outputs(&self) -> std::ops::Range<usize> {
        self.slots.len()..self.slots.len() + self.step.losses
    }
    /// The outputs of the step that are hyperparameters to be checked.
    pub fn ranged_outputs(&self) -> std::ops::Range<usize> {
        let first = self.slots.len() + self.step.recorded.len();
        first..first + self.step.ranged.len()
    }
    /// The outputs of the step that must be finite, else the step is not made: nothing is overwritten.
    pub fn guards(&self) -> Vec<usize> {
        let losses = self.loss_outputs().filter(|_| self.stop_on_nan);
        let ranges = (!self.step.ranged.is_empty()).then_some(self.ranged_outputs().end);
        losses.chain(ranges).collect()
    }
    /// Positions of the trained parameters among the slots: a step that makes one of them NaN or infinite is noticed.
    pub fn weights(&self) -> Vec<usize> {
        self.slots.iter().enumerate().filter(|(_, s)| s.kind == SlotKind::Param).map(|(i, _)| i).collect()
    }
    /// Positions of the model's leaves (parameters and buffers) among the slots.
    pub fn leaves(&self) -> Vec<usize> {
        let leaf = |kind| matches!(kind, SlotKind::Param | SlotKind::Frozen | SlotKind::Buffer);
        self.slots.iter().enumerate().filter(|(_, s)| leaf(s.kind)).map(|(i, _)| i).collect()
    }
}
