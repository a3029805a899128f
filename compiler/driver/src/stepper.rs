//! The compiled step of a train, its memory, and the batches it is fed.

use crate::cache::Compiler;
use crate::offload::{self, Files};
use crate::pipeline::CompileOptions;
use crate::trainer::{backend_error, file_error, run_key};
use indexmap::IndexMap;
use optc_abi::Tensor;
use optc_base::Diagnostic;
use optc_elab::program::{DataUse, TrainProgram};
use optc_elab::value::Series;
use optc_exec::{Program, RunError};
use optc_train::{Batches, TrainError};
use std::sync::Arc;

/// A data set cut into batch buffers.
pub(crate) struct Feed {
    fields: Vec<Arc<Tensor>>,
    row_bytes: Vec<usize>,
    rows: Option<Arc<Vec<usize>>>,
    /// One per input of the data.
    pub(crate) buffers: Vec<Tensor>,
}

impl Feed {
    /// Buffers with these leading extents.
    pub(crate) fn new(data: &DataUse, lead: &[usize]) -> Feed {
        let fields: Vec<Arc<Tensor>> = data.fields.iter().map(|f| data.table.fields[f].clone()).collect();
        let row_bytes = data.example.iter().map(|ty| ty.len() * ty.dtype.size()).collect();
        let buffers = data
            .example
            .iter()
            .map(|ty| Tensor::zeros(ty.dtype, &lead.iter().copied().chain(ty.shape.iter().copied()).collect::<Vec<_>>()))
            .collect();
        Feed { fields, row_bytes, rows: data.table.rows.clone(), buffers }
    }
    /// Copies examples (numbers within the split) into the buffers, from example `at` of the buffer on.
    pub(crate) fn fill(&mut self, at: usize, examples: impl Iterator<Item = usize> + Clone) {
        for ((field, &size), buffer) in self.fields.iter().zip(&self.row_bytes).zip(&mut self.buffers) {
            let (from, to) = (field.bytes(), &mut buffer.bytes_mut()[at * size..]);
            for (k, example) in examples.clone().enumerate() {
                let row = self.rows.as_ref().map_or(example, |r| r[example]);
                to[k * size..(k + 1) * size].copy_from_slice(&from[row * size..(row + 1) * size]);
            }
        }
    }
}

/// The inputs of a step that hold its batch, and the axis of the examples, for several devices; none for one, or without data.
///
/// # Errors
/// A batch without as many equal parts.
pub(crate) fn shared_out(program: &TrainProgram, devices: usize) -> Result<Vec<(usize, usize)>, TrainError> {
    let (Some(data), true) = (&program.data, devices > 1) else { return Ok(Vec::new()) };
    let batch = program.batch;
    if !batch.is_multiple_of(devices) {
        let fitting = match batch / devices * devices {
            0 => format!("{devices}"),
            below => format!("{below} or {}", below + devices),
        };
        let fewer = (1..devices).rev().find(|n| batch.is_multiple_of(*n)).unwrap_or(1);
        let devices_word = if fewer == 1 { "1 GPU".to_string() } else { format!("{fewer} GPUs") };
        let message = format!("a batch of {batch} examples has no {devices} equal parts for as many GPUs");
        return Err(TrainError::new("R0147", message).help(format!("take `batch = {fitting}`, or {devices_word}")));
    }
    let axis = usize::from(program.accumulate > 1);
    let first = program.slots.len();
    Ok((0..data.fields.len()).map(|k| (first + k, axis)).collect())
}

/// The compiled step with its memory bound.
pub struct Stepper {
    pub(crate) program: Program,
    feed: Option<Feed>,
    batches: Option<Batches>,
    accumulate: usize,
    outputs: Vec<Tensor>,
    /// Hyperparameters that ask for recorded values, by the names of these.
    pub(crate) watched: Vec<(String, Tensor)>,
    /// The batch is the same at every step and lies in the buffers.
    settled: bool,
    is_whole: bool,
    _held: Vec<Tensor>,
}

impl Stepper {
    /// Compiles the step and binds it to the slots, which must live and stay in place as long as it runs.
    ///
    /// # Errors
    /// What the back end cannot do; a batch that does not fit the data.
    pub fn new(program: &TrainProgram, slots: &[Tensor], files: &Files, compiler: &mut Compiler) -> Result<Stepper, Diagnostic> {
        let split = shared_out(program, compiler.place.devices()).map_err(|e| file_error(&e, program.span))?;
        let options = CompileOptions { split, ..crate::stages::step_options(program) };
        let mut compiled = compiler.program(&program.step.graph, &options).map_err(|e| backend_error(&e, program.span))?;
        if !files.is_empty() {
            let opened = compiled.offload(files.stored(), &offload::options(program));
            opened.map_err(|e| offload::failed(&e, "before the first step", program.span))?;
        }
        files.swap(&mut compiled, &offload::options(program), program.span)?;
        let lead: Vec<usize> = if program.accumulate > 1 { vec![program.accumulate, program.batch] } else { vec![program.batch] };
        let feed = program.data.as_ref().map(|d| Feed::new(d, &lead));
        let rows = program.data.as_ref().map_or(0, |d| d.table.len());
        let batches = match &feed {
            None => None,
            Some(_) => {
                Some(Batches::new(rows, program.batch, program.shuffle.then_some(program.seed)).map_err(|e| file_error(&e, program.span))?)
            }
        };
        let key = run_key(program.seed);
        let hyper: Vec<Tensor> = program.step.hyper.iter().map(|(_, v)| Tensor::scalar(*v)).collect();
        let watched: Vec<(String, Tensor)> = program.step.watched.iter().map(|n| (n.clone(), Tensor::scalar(f64::NAN))).collect();
        let outputs: Vec<Tensor> = compiled.plan().outputs[slots.len()..].iter().map(|s| Tensor::zeros(s.dtype, &s.shape)).collect();
        let inputs =
            slots.iter().chain(feed.iter().flat_map(|f| &f.buffers)).chain([&key]).chain(&hyper).chain(watched.iter().map(|(_, t)| t));
        for (k, tensor) in inputs.enumerate() {
            // SAFETY: the tensors have the graph's types and live as long as the stepper (slots: as long as the caller promises).
            unsafe { compiled.bind_input(k, tensor.as_ptr()) };
        }
        for (k, tensor) in outputs.iter().enumerate() {
            // SAFETY: as above.
            unsafe { compiled.bind_output(slots.len() + k, tensor.as_ptr()) };
        }
        let mut held = hyper;
        held.push(key);
        let is_whole = program.batch * program.accumulate == rows && program.accumulate == 1;
        Ok(Stepper {
            program: compiled,
            feed,
            batches,
            accumulate: program.accumulate,
            outputs,
            watched,
            settled: false,
            is_whole,
            _held: held,
        })
    }

    /// Makes step number `step` (from 0).
    ///
    /// # Errors
    /// A loss that is not finite, an index out of range.
    pub fn step(&mut self, step: u64) -> Result<(), RunError> {
        self.submit(step)?;
        self.collect()
    }

    /// Whether another step may be queued.
    pub fn has_room(&self) -> bool {
        self.program.in_flight() < self.program.capacity()
    }

    /// Queues step number `step` (from 0).
    ///
    /// # Errors
    /// A device that cannot go on.
    pub fn submit(&mut self, step: u64) -> Result<(), RunError> {
        self.fill(step);
        // SAFETY: everything was bound in `new`.
        unsafe { self.program.submit_bound() }
    }

    /// Waits for the oldest step in the queue.
    ///
    /// # Errors
    /// A loss that is not finite, an index out of range.
    pub fn collect(&mut self) -> Result<(), RunError> {
        self.program.collect()
    }

    /// The batches of a step into their buffers.
    pub(crate) fn fill(&mut self, step: u64) {
        if let (Some(feed), Some(batches), false) = (&mut self.feed, &mut self.batches, self.settled) {
            for part in 0..self.accumulate {
                let size = batches.batch();
                let examples = batches.indices(step * self.accumulate as u64 + part as u64);
                feed.fill(part * size, examples.iter().copied());
            }
            self.settled = self.is_whole;
        }
    }

    /// The compiled program, to take its profile.
    pub fn compiled_mut(&mut self) -> &mut Program {
        &mut self.program
    }
    /// The compiled program.
    pub fn compiled(&self) -> &Program {
        &self.program
    }

    /// A recorded scalar of the last step; the losses are the first.
    pub(crate) fn output(&self, k: usize) -> f64 {
        self.outputs[k].get_f64(0)
    }

    /// Hands the last recorded values to hyperparameters that ask for them.
    pub(crate) fn watch(&mut self, series: &IndexMap<String, Series>) {
        for (name, tensor) in &mut self.watched {
            let last = series.get(name).and_then(|s| s.values.last()).copied().unwrap_or(f64::NAN);
            tensor.as_mut_slice::<f64>()[0] = last;
        }
    }

    /// The inputs of the step graph after the slots, as they are now.
    pub(crate) fn inputs_after_slots(&self) -> Vec<Tensor> {
        let (key, hyper) = self._held.split_last().expect("the key is held");
        let buffers = self.feed.iter().flat_map(|f| f.buffers.iter().cloned());
        buffers.chain([key.clone()]).chain(hyper.iter().cloned()).chain(self.watched.iter().map(|(_, t)| t.clone())).collect()
    }
}
