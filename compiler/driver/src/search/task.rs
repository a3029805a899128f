//! A `train` block as a task of a search: its gradient step and its metric, compiled once, with the data of all runs at hand.

use super::block::{SearchSpec, TaskSpec};
use crate::commands::driver;
use crate::initial::initial_slots;
use crate::offload::Files;
use crate::pipeline::{self, CompileOptions, Timings};
use crate::session::Session;
use crate::stepper::Feed;
use crate::synthetic;
use crate::trainer::{metric_keys, run_key};
use optc_abi::plan::SlotDecl;
use optc_abi::{DType, Tensor};
use optc_base::Diagnostic;
use optc_elab::TrainProgram;
use optc_elab::program::{MetricProgram, SlotKind};
use optc_elab::script;
use optc_front::ast::{BlockKind, ItemKind};
use optc_front::{Def, ItemRef, ModuleId, Program};
use optc_ir::Graph;
use optc_search::run::{Conditions, Extents, Given, Metric, Part, Result as Gives, Whole, whole};
use optc_train::Batches;
use std::path::{Path, PathBuf};

/// What is asked of a task.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The spec.
    pub file: &'a Path,
    /// The train, as the spec names it.
    pub train: &'a str,
    /// What results call the task.
    pub label: &'a str,
    /// Overrides of its settings, `name=value`.
    pub set: &'a [String],
    /// The metric that scores a run; `None` for the loss of its last steps.
    pub metric: Option<&'a str>,
    /// Seeds.
    pub seeds: &'a [u64],
    /// Learning rates.
    pub rates: &'a [f64],
    /// States a candidate may have.
    pub states: usize,
    /// What is different from a search's own runs.
    pub conditions: Conditions,
}

impl SearchSpec {
    /// One of its tasks on these seeds, scored and with the learning rates as in the search.
    pub(super) fn request<'a>(&'a self, file: &'a Path, t: &'a TaskSpec, seeds: &'a [u64], states: usize) -> Request<'a> {
        Request {
            file,
            train: &t.train,
            label: &t.label,
            set: &t.set,
            metric: self.metric.as_deref(),
            seeds,
            rates: &self.rates,
            states,
            conditions: Conditions::default(),
        }
    }
}

/// Why a train is no task.
pub enum Refused {
    /// A mistake in the spec; the session has it.
    Spec(Box<Session>),
    /// A mistake while its data or first values were made.
    Run(Box<Diagnostic>, Box<Session>),
    /// What it asks that a task of a search cannot.
    Beyond(String),
}

/// A task, ready to be run with any candidate.
pub struct Task {
    /// Its name.
    pub name: String,
    /// The plan of all runs.
    pub whole: Whole,
    /// Inputs of the plan, in order. Those of states and limits are filled for each candidate.
    pub inputs: Vec<Tensor>,
    /// Outputs of the plan.
    pub outputs: Vec<SlotDecl>,
    /// Seeds.
    pub seeds: usize,
    /// Learning rates.
    pub rates: Vec<f64>,
    /// Steps of a run.
    pub steps: usize,
    /// Examples of a batch, where there is data.
    pub batch: Option<usize>,
    /// Whether a metric scores its runs.
    pub metric: bool,
    /// Whether that is a mean, of which parts give sums and counts.
    pub streamed: bool,
    /// Files and folders that its data was read from.
    pub files: Vec<PathBuf>,
}

/// An optimizer that leaves its gradients where they can be taken from, and the weights alone.
const CAPTURE: &str = "optimizer _gradients() { state gradient = 0; gradient <- g; g <- gradient }\n";

/// Bytes of batches that are laid out in advance at most.
const MOST_DATA: usize = 1 << 30;

/// The task of a train.
///
/// # Errors
/// Why there is none.
pub fn task(request: &Request<'_>) -> Result<Task, Refused> {
    let (program, session, files) = lowered(request)?;
    let beyond = |why: &str| Err(Refused::Beyond(format!("`{}` {why}", request.train)));
    if !program.players.is_empty() {
        return beyond("has several players");
    }
    if program.accumulate != 1 {
        return beyond("accumulates gradients of several batches");
    }
    if program.stop_when.is_some() {
        return beyond("ends by a condition (`stop when`)");
    }
    if program.device != optc_abi::device::Target::Cpu {
        return beyond("asks for a device; tasks of a search run on the CPU (`task … { device = \"cpu\" }`)");
    }
    if program.offload.is_some() {
        return beyond("keeps arrays in files");
    }
    if program.steps == 0 || program.steps > 1_000_000 {
        return beyond("makes no steps, or more than a million");
    }
    let steps = program.steps as usize;
    let params = program.weights();
    if let Some(slot) = params.iter().map(|k| &program.slots[*k]).find(|s| s.ty.dtype != DType::F32) {
        return beyond(&format!("has weights of {} (`{}`)", slot.ty.dtype, slot.name));
    }
    let kept: Vec<usize> =
        program.slots.iter().enumerate().filter(|(_, s)| matches!(s.kind, SlotKind::Buffer | SlotKind::Frozen)).map(|(k, _)| k).collect();
    let step = step_part(&program, &params, &kept).map_err(|why| Refused::Beyond(format!("`{}` {why}", request.train)))?;
    let scored = match request.metric {
        None => None,
        Some(name) => match program.metrics.iter().find(|m| m.name == name) {
            Some(metric) => Some(metric),
            None => {
                let names: Vec<&str> = program.metrics.iter().map(|m| m.name.as_str()).collect();
                let has = if names.is_empty() { "none".to_string() } else { names.join(", ") };
                return beyond(&format!("has no metric `{name}` on a data set (it has {has})"));
            }
        },
    };
    let metric = scored.map(|m| metric_part(&program, m, &params, &kept));
    let fields: Vec<(DType, Vec<usize>)> = program
        .data
        .iter()
        .flat_map(|d| &d.example)
        .map(|ty| (ty.dtype, [program.batch].into_iter().chain(ty.shape.iter().copied()).collect()))
        .collect();
    let batch_bytes: usize = fields.iter().map(|(dtype, shape)| shape.iter().product::<usize>() * dtype.size()).sum();
    let bytes = batch_bytes.saturating_mul(steps).saturating_mul(request.seeds.len());
    if bytes > MOST_DATA {
        return beyond(&format!(
            "needs {} MiB for the batches of all its runs, more than {}: fewer steps, seeds or examples in a batch",
            bytes >> 20,
            MOST_DATA >> 20
        ));
    }
    let extents = Extents {
        leaves: params.iter().map(|k| program.slots[*k].ty.len()).collect(),
        buffers: kept.iter().map(|k| (program.slots[*k].ty.dtype, program.slots[*k].ty.len())).collect(),
        fields,
        seeds: request.seeds.len(),
        rates: request.rates.len(),
        steps,
        states: request.states,
        conditions: request.conditions,
    };
    let whole = whole(&step, metric.as_ref(), &extents);
    let inputs = inputs(&program, &session, request, &whole, &params, &kept, scored)?;
    let outputs = whole.plan.outputs.clone();
    Ok(Task {
        name: request.label.to_string(),
        whole,
        inputs,
        outputs,
        seeds: request.seeds.len(),
        rates: request.rates.to_vec(),
        steps,
        batch: program.data.as_ref().map(|_| program.batch),
        metric: scored.is_some(),
        streamed: scored.is_some_and(|m| m.streamed),
        files,
    })
}

/// Overrides with others behind them, which count where both set the same.
pub fn overriding(set: &[String], others: &[String]) -> Vec<String> {
    let name = |s: &str| s.split_once('=').map_or("", |(name, _)| name).trim().to_string();
    let kept = set.iter().filter(|s| !others.iter().any(|o| name(o) == name(s)));
    kept.chain(others).cloned().collect()
}

/// The train that a name stands for in a module: one of its own, an imported one, or `l.name` behind an import with another name.
pub fn train_of(program: &Program, module: ModuleId, path: &str) -> Option<ItemRef> {
    let def = match path.split_once('.') {
        None => program.lookup(module, path)?,
        Some((behind, name)) => match program.lookup(module, behind)? {
            Def::Module(within) if !name.starts_with('_') => program.lookup(within, name)?,
            _ => return None,
        },
    };
    let Def::Item(item) = def else { return None };
    matches!(&program.item(item).kind, ItemKind::Block(b) if b.kind == BlockKind::Train).then_some(item)
}

/// Lowers the train with its optimizer replaced; with the files that its data was read from.
fn lowered(request: &Request<'_>) -> Result<(TrainProgram, Session, Vec<PathBuf>), Refused> {
    let mut session = synthetic::in_front_of(request.file, CAPTURE);
    let mut overrides = request.set.to_vec();
    overrides.push("optimizer=_gradients()".to_string());
    session.set(&overrides, None, false);
    if session.has_errors() {
        return Err(Refused::Spec(Box::new(session)));
    }
    // The spec is the only file that the one in front of it imports.
    let found = train_of(&session.program, ModuleId(1), request.train);
    let Some(item) = found else { return Err(Refused::Beyond(format!("there is no train `{}`", request.train))) };
    session.path = request.file.to_path_buf();
    let mut host = driver(&session, 1, true, false);
    match script::lower_only(&session.program, item, &session.settings, &mut host) {
        Ok(program) => Ok((program, session, host.data_files().map(Path::to_path_buf).collect())),
        Err(diagnostics) => {
            session.diagnostics.extend(diagnostics);
            Err(Refused::Spec(Box::new(session)))
        }
    }
}

/// Plans a graph, for one thread.
fn part(graph: Graph, options: &CompileOptions, given: Vec<Given>, results: Vec<Gives>) -> Part {
    let stages = pipeline::plan(graph, options, &mut Timings::default());
    let kernels = stages.planned.kernels.into_iter().map(|k| k.kernel).collect();
    Part { plan: stages.planned.plan, kernels, given, results }
}

/// The gradient step.
fn step_part(program: &TrainProgram, params: &[usize], kept: &[usize]) -> Result<Part, String> {
    let mut graph = program.step.graph.clone();
    let slots = program.slots.len();
    let (mut outputs, mut results, mut alias) = (Vec::new(), Vec::new(), Vec::new());
    for (leaf, k) in params.iter().enumerate() {
        // Bodies see leaves without the name of the model, where there is only one.
        let (whole, short) = (&*program.slots[*k].name, program.slots[*k].name.split_once('.').map_or("", |(_, rest)| rest));
        let is_gradient = |name: &str| name.split_once(".gradient.").is_some_and(|(_, path)| path == whole || path == short);
        let slot = program.slots.iter().position(|s| s.kind == SlotKind::State && is_gradient(&s.name));
        let slot = slot.ok_or_else(|| format!("has no gradient for `{}`", program.slots[*k].name))?;
        if program.slots[slot].ty.dtype != DType::F32 {
            return Err(format!("has gradients of {}", program.slots[slot].ty.dtype));
        }
        outputs.push(graph.outputs[slot]);
        results.push(Gives::Gradient(leaf));
    }
    for (number, k) in kept.iter().enumerate().filter(|(_, k)| program.slots[**k].kind == SlotKind::Buffer) {
        alias.push((outputs.len(), *k));
        outputs.push(graph.outputs[*k]);
        results.push(Gives::Buffer(number));
    }
    outputs.push(graph.outputs[program.loss_outputs().start]);
    results.push(Gives::Loss);
    graph.outputs = outputs;
    let live = graph.live();
    let mut given = Vec::new();
    for (k, input) in graph.inputs.iter().enumerate() {
        let used = live[input.node.index()];
        given.push(match input.name.split_once('.') {
            _ if k < slots => match program.slots[k].kind {
                SlotKind::Param => Given::Weight(params.iter().position(|p| *p == k).unwrap_or(0)),
                SlotKind::Buffer | SlotKind::Frozen => Given::Buffer(kept.iter().position(|b| *b == k).unwrap_or(0)),
                SlotKind::Counter => Given::Step,
                SlotKind::State => Given::Zero,
            },
            Some(("field", n)) => Given::Field(n.parse().unwrap_or(0)),
            _ if input.name == "key" => Given::Key,
            _ if used => return Err(format!("has a loss that depends on `{}`", input.name)),
            _ => Given::Zero,
        });
    }
    Ok(part(graph, &CompileOptions { alias, ..CompileOptions::default() }, given, results))
}

/// The metric.
fn metric_part(program: &TrainProgram, metric: &MetricProgram, params: &[usize], kept: &[usize]) -> Metric {
    let results = if metric.streamed { vec![Gives::Sum, Gives::Count] } else { vec![Gives::Sum] };
    let leaves = program.leaves();
    let fields = metric.data.fields.len();
    let given: Vec<Given> = leaves
        .iter()
        .map(|k| match params.iter().position(|p| p == k) {
            Some(leaf) => Given::Weight(leaf),
            None => Given::Buffer(kept.iter().position(|b| b == k).unwrap_or(0)),
        })
        .chain((0..fields).map(Given::Field))
        .chain([Given::StepKey, Given::PartKey])
        .collect();
    let make = |graph: &Graph| part(graph.clone(), &CompileOptions::default(), given.clone(), results.clone());
    let rows = metric.data.table.len();
    let chunk = metric.chunk.max(1);
    let all = |ty: &optc_ir::Ty| (ty.dtype, [rows].into_iter().chain(ty.shape.iter().copied()).collect());
    Metric {
        whole: make(&metric.whole),
        times: rows / chunk,
        rest: metric.rest.as_ref().map(make),
        chunk_bytes: metric.data.example.iter().map(|ty| chunk * ty.len() * ty.dtype.size()).collect(),
        fields: metric.data.example.iter().map(all).collect(),
    }
}

/// First values, batches and what the metric sees.
fn inputs(
    program: &TrainProgram,
    session: &Session,
    request: &Request<'_>,
    whole: &Whole,
    params: &[usize],
    kept: &[usize],
    scored: Option<&MetricProgram>,
) -> Result<Vec<Tensor>, Refused> {
    let mut tensors: Vec<Tensor> = whole.plan.inputs.iter().map(|slot| Tensor::zeros(slot.dtype, &slot.shape)).collect();
    let find = |name: &str| whole.plan.inputs.iter().position(|slot| slot.name == name);
    let mut host = driver(session, 1, true, false);
    let trouble = |d: Diagnostic| Refused::Run(Box::new(d), Box::new(synthetic::in_front_of(request.file, CAPTURE)));
    let fields = program.data.as_ref().map_or(0, |d| d.fields.len());
    let mut feed = program.data.as_ref().map(|data| Feed::new(data, &[request.seeds.len() * program.steps as usize * program.batch]));
    for (s, seed) in request.seeds.iter().enumerate() {
        let seeded = TrainProgram { seed: *seed, ..program.clone() };
        let slots = initial_slots(&seeded, &mut host.compiler, &Files::default()).map_err(trouble)?;
        for (leaf, k) in params.iter().enumerate() {
            let at = (s * whole.leaves.padded + whole.leaves.offsets[leaf]) * 4;
            let bytes = slots[*k].bytes();
            tensors[optc_search::run::input::WEIGHTS].bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }
        for (number, k) in kept.iter().enumerate() {
            let Some(input) = find(&format!("buffer.{number}")) else { continue };
            let bytes = slots[*k].bytes();
            tensors[input].bytes_mut()[s * bytes.len()..(s + 1) * bytes.len()].copy_from_slice(bytes);
        }
        let key = run_key(*seed);
        let keys = metric_keys(*seed, program.steps, whole.chunks);
        let at = s * keys.len();
        tensors[optc_search::run::input::METRIC_KEYS].as_mut_slice::<u32>()[at..at + keys.len()].copy_from_slice(&keys);
        tensors[optc_search::run::input::KEYS].bytes_mut()[s * 8..s * 8 + 8].copy_from_slice(key.bytes());
        if let (Some(feed), Some(data)) = (&mut feed, &program.data) {
            let shuffle = program.shuffle.then_some(*seed);
            let mut batches = Batches::new(data.table.len(), program.batch, shuffle)
                .map_err(|e| trouble(crate::trainer::file_error(&e, program.span)))?;
            for step in 0..program.steps {
                let at = (s * program.steps as usize + step as usize) * program.batch;
                feed.fill(at, batches.indices(step).iter().copied());
            }
        }
    }
    if let Some(feed) = feed {
        for (k, buffer) in feed.buffers.iter().enumerate().take(fields) {
            if let Some(input) = find(&format!("field.{k}")) {
                tensors[input].bytes_mut().copy_from_slice(buffer.bytes());
            }
        }
    }
    if let Some(metric) = scored {
        let rows = metric.data.table.len();
        let mut feed = Feed::new(&metric.data, &[rows]);
        feed.fill(0, 0..rows);
        for (k, buffer) in feed.buffers.iter().enumerate() {
            if let Some(input) = find(&format!("seen.{k}")) {
                tensors[input].bytes_mut().copy_from_slice(buffer.bytes());
            }
        }
    }
    tensors[optc_search::run::input::RATES].as_mut_slice::<f64>().copy_from_slice(request.rates);
    tensors[optc_search::run::input::LIMITS].as_mut_slice::<f32>().fill(f32::MAX);
    Ok(tensors)
}
