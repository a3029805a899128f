//! Runs of candidates: one native call for all steps, seeds and learning rates of a task.

use super::task::Task;
use crate::backend;
use optc_abi::Tensor;
use optc_cranelift::{Compiled, Config, KernelCode, KernelCompiler};
use optc_exec::{Pool, Program};
use optc_search::dag::Dag;
use optc_search::kernel;
use optc_search::run::{input, output};
use std::any::Any;
use std::sync::Arc;

/// What a candidate's runs gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// By seed and learning rate: the score of a run, lower is better; NaN where it did not get to its end.
    pub scores: Vec<Vec<f64>>,
    /// Steps made in all runs.
    pub steps: u64,
}

/// A task with its code and memory.
pub struct Bench {
    /// The task.
    pub task: Task,
    program: Program,
    code: Arc<Compiled>,
    /// Code of the task's kernels, where another back end made it.
    _kernels: Option<Arc<dyn Any + Send + Sync>>,
    results: Vec<Tensor>,
    compiler: KernelCompiler,
    /// Code of the candidate at hand.
    candidate: Option<KernelCode>,
}

/// Shares of a run's last steps whose mean loss is its score where there is no metric.
const LAST_SHARE: usize = 10;

impl Bench {
    /// Compiles a task.
    ///
    /// # Errors
    /// If the machine is not supported.
    pub fn new(task: Task) -> Result<Bench, String> {
        let plan = Arc::new(task.whole.plan.clone());
        let config = Config { threads: 1, ..Config::default() };
        let (code, kernels) = backend::compile_open(backend::chosen(), &task.whole.kernels, &plan, &config)?;
        let mut program = Program::new(plan, code.entry, code.clone(), Pool::new(1));
        let results: Vec<Tensor> = task.outputs.iter().map(|slot| Tensor::zeros(slot.dtype, &slot.shape)).collect();
        // SAFETY: the tensors have the slots' types and shapes, and live as long as the program, beside it.
        unsafe {
            for (k, tensor) in task.inputs.iter().enumerate() {
                program.bind_input(k, tensor.as_ptr());
            }
            for (k, tensor) in results.iter().enumerate() {
                program.bind_output(k, tensor.as_ptr());
            }
        }
        Ok(Bench { task, program, code, _kernels: kernels, results, compiler: KernelCompiler::default(), candidate: None })
    }

    /// Other learning rates, as many as the task was made with.
    pub fn set_rates(&mut self, rates: &[f64]) {
        self.task.inputs[input::RATES].as_mut_slice::<f64>().copy_from_slice(rates);
        self.task.rates = rates.to_vec();
    }

    /// Runs a candidate. `None` if it has more states than the task has room for.
    ///
    /// # Errors
    /// If the machine is not supported; an index out of range in the task.
    pub fn run(&mut self, dag: &Dag) -> Result<Option<Outcome>, String> {
        if !self.compile(dag)? {
            return Ok(None);
        }
        let padded = self.task.whole.leaves.padded;
        let first = self.task.inputs[input::STATES].as_mut_slice::<f32>();
        for (state, memory) in dag.states.iter().zip(first.chunks_mut(padded)) {
            memory.fill(state.init as f32);
        }
        self.results[output::LOSSES].as_mut_slice::<f32>().fill(f32::NAN);
        self.results[output::LAST].as_mut_slice::<i32>().fill(-1);
        // SAFETY: everything was bound when the bench was made.
        match unsafe { self.program.run_bound() } {
            Ok(()) => Ok(Some(self.outcome())),
            Err(e) => Err(format!("task `{}`: status {} at run time", self.task.name, e.status.code)),
        }
    }

    /// Makes the code of a candidate, which the plan calls from then on; that of the one before is freed. False if it has none.
    ///
    /// # Errors
    /// If the machine is not supported.
    pub fn compile(&mut self, dag: &Dag) -> Result<bool, String> {
        let states = self.task.inputs[input::STATES].shape[0];
        let Some(kernel) = kernel::of(dag, &self.task.whole.leaves, states) else { return Ok(false) };
        let code = self.compiler.compile(&kernel).map_err(|e| e.to_string())?;
        // SAFETY: the plan is not running, and the code is kept until another takes its place.
        unsafe { self.code.replace(self.task.whole.candidate, code.function) };
        self.candidate = Some(code);
        Ok(true)
    }

    /// The losses of the last candidate's runs: seeds, learning rates, steps.
    pub fn losses(&self) -> &[f32] {
        self.results[output::LOSSES].as_slice()
    }

    fn outcome(&self) -> Outcome {
        let (seeds, rates, steps) = (self.task.seeds, self.task.rates.len(), self.task.steps);
        let losses = self.losses();
        let last = self.results[output::LAST].as_slice::<i32>();
        let mut made = 0;
        let score = |run: usize, made: &mut u64| {
            let count = (last[run] + 1) as usize;
            *made += count as u64;
            let row = &losses[run * steps..(run + 1) * steps];
            if count < steps || !row[steps - 1].is_finite() {
                return f64::NAN;
            }
            if self.task.metric {
                let chunks = self.task.whole.chunks;
                let sums = &self.results[output::METRIC].as_slice::<f64>()[run * chunks * 2..(run + 1) * chunks * 2];
                return score_of(sums, self.task.streamed);
            }
            let tail = &row[steps - (steps / LAST_SHARE).max(1)..];
            tail.iter().map(|l| f64::from(*l)).sum::<f64>() / tail.len() as f64
        };
        let scores = (0..seeds).map(|s| (0..rates).map(|r| score(s * rates + r, &mut made)).collect()).collect();
        Outcome { scores, steps: made }
    }
}

/// The value of a metric: a mean over all examples, or what its only part gave.
fn score_of(sums: &[f64], streamed: bool) -> f64 {
    if !streamed {
        return sums[0];
    }
    let (sum, count) = sums.chunks(2).fold((0.0, 0.0), |(s, c), pair| (s + pair[0], c + pair[1]));
    sum / count
}
