//! From a lowered graph to a program that runs: simplify, fuse and plan, generate code.

use crate::backend::{self, Backend};
use crate::cache::Compiled;
use crate::device::{Made, Place};
use optc_abi::plan::Plan;
use optc_exec::Pool;
use optc_ir::Graph;
use optc_mid::partition::{Partitioned, partition};
use optc_train::TrainError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a graph is compiled.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// Outputs that overwrite the memory of an input: (output, input).
    pub alias: Vec<(usize, usize)>,
    /// Indices of scalar outputs that must be finite before anything aliased is overwritten.
    pub guards: Vec<usize>,
    /// Indices of outputs that are reported where they are written and not finite.
    pub watch: Vec<usize>,
    /// Bytes from which arrays that may leave memory during a step do.
    pub swap: Option<usize>,
    /// Inputs whose memory is a file's.
    pub offload: Vec<usize>,
    /// The program runs once, so that its code had better be made quickly.
    pub once: bool,
    /// All outputs are updates of leaves, also those in memory of their own.
    pub updates: bool,
    /// Outputs wanted as partial results of chunks.
    pub partials: Vec<usize>,
    /// For a GPU: small kernels stay apart, and attention is one operation.
    pub apart: bool,
    /// Inputs that hold a batch, and the axis of its examples: where there are several devices, each gets a part. Programs without such inputs run on the first one.
    pub split: Vec<(usize, usize)>,
}

impl CompileOptions {
    /// For a program that runs once.
    pub fn once() -> CompileOptions {
        CompileOptions { once: true, ..CompileOptions::default() }
    }
}

/// Why a graph has become no program.
#[derive(Debug)]
pub enum CompileError {
    /// What the back end cannot do: a compiler bug unless the machine is not supported.
    Backend(String),
    /// What is in the way of a device.
    Device(TrainError),
}

impl CompileError {
    /// Its code.
    pub fn code(&self) -> &'static str {
        match self {
            CompileError::Backend(_) => "E0702",
            CompileError::Device(e) => e.code,
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompileError::Backend(words) => f.write_str(words),
            CompileError::Device(e) => e.fmt(f),
        }
    }
}

impl From<String> for CompileError {
    fn from(words: String) -> Self {
        CompileError::Backend(words)
    }
}

impl From<TrainError> for CompileError {
    fn from(e: TrainError) -> Self {
        CompileError::Device(e)
    }
}

/// How long each stage took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Graph to graph.
    pub simplify: Duration,
    /// Fusion, schedule, memory.
    pub plan: Duration,
    /// Machine code.
    pub codegen: Duration,
}

impl Timings {
    /// All stages.
    pub fn total(&self) -> Duration {
        self.simplify + self.plan + self.codegen
    }
    /// Adds another compilation's.
    pub fn add(&mut self, other: &Timings) {
        self.simplify += other.simplify;
        self.plan += other.plan;
        self.codegen += other.codegen;
    }
}

/// A graph after each stage, for those who want to look.
pub struct Stages {
    /// After simplification.
    pub simplified: Graph,
    /// Kernels and plan.
    pub planned: optc_plan::Planned,
}

/// Simplifies and plans a graph.
pub fn plan(graph: Graph, options: &CompileOptions, timings: &mut Timings) -> Stages {
    let start = Instant::now();
    let simplified = optc_mid::simplify::simplify(graph, &optc_mid::simplify::Config::default());
    timings.simplify = start.elapsed();
    let start = Instant::now();
    let config = optc_plan::Config {
        alias: options.alias.clone(),
        guards: options.guards.clone(),
        watch: options.watch.clone(),
        swap: options.swap,
        offload: options.offload.clone(),
        updates: options.updates,
        partials: options.partials.clone(),
        apart: options.apart,
        attention: options.apart,
    };
    let planned = optc_plan::plan(&simplified, &config);
    timings.plan = start.elapsed();
    Stages { simplified, planned }
}

/// The graph for each of several devices, which share out the inputs that [`CompileOptions::split`] names.
pub fn for_each_device(graph: Graph, options: &CompileOptions, devices: usize) -> Partitioned {
    let graph = optc_mid::simplify::simplify(graph, &optc_mid::simplify::Config::default());
    let axis = |k: usize| options.split.iter().find(|s| s.0 == k).map(|s| s.1);
    let axes: Vec<Option<usize>> = (0..graph.inputs.len()).map(axis).collect();
    partition(&graph, &axes, devices)
}

/// Compiles a graph for a place. On the processor it becomes machine code that runs on a pool; with `profile` it reports how long each instruction takes.
///
/// # Errors
/// What the back end or the device cannot do.
pub fn compile(
    graph: Graph,
    options: &CompileOptions,
    pool: &Arc<Pool>,
    profile: bool,
    backend: Backend,
    place: &Place,
) -> Result<(Compiled, Timings), CompileError> {
    let mut timings = Timings::default();
    let options = CompileOptions { apart: options.apart || !place.is_processor(), ..options.clone() };
    let graph = if place.devices() > 1 { for_each_device(graph, &options, place.devices()).graph } else { graph };
    let stages = plan(graph, &options, &mut timings);
    let start = Instant::now();
    let optc_plan::Planned { plan, kernels } = stages.planned;
    let kernels: Vec<optc_ir::kernel::Kernel> = kernels.into_iter().map(|k| k.kernel).collect();
    let plan: Arc<Plan> = Arc::new(plan);
    let config = optc_cranelift::Config { threads: pool.threads(), profile, once: options.once, ..Default::default() };
    let made = match place {
        Place::Processor => {
            let code = backend::compile(backend, &kernels, &plan, &config)?;
            Made::Native(code.entry, code.keep)
        }
        #[cfg(feature = "llvm")]
        Place::Gpu(gpu) => crate::device::compile(gpu, &kernels, &plan)?,
        #[cfg(feature = "llvm")]
        Place::Gpus(team) => crate::device::compile_for_all(team, &kernels, &plan, &options.split)?,
    };
    timings.codegen = start.elapsed();
    Ok((Compiled { plan, made, once: options.once }, timings))
}
