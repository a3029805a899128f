//! The training loop: compiled steps over bound memory, with metrics, logs, checkpoints and progress around them.

use crate::cache::Compiler;
use crate::device::{self, Mirrors};
use crate::initial::initial_slots;
use crate::offload::{self, Files};
use crate::pipeline::{CompileError, CompileOptions};
use crate::ranges::out_of_range_error;
use crate::stepper::{Feed, Stepper};
use indexmap::IndexMap;
use optc_abi::plan::status;
use optc_abi::{Tensor, philox};
use optc_base::{Code, Diagnostic, SourceId, Span};
use optc_elab::host::RunResult;
use optc_elab::program::{MetricProgram, TrainProgram};
use optc_elab::train::{FOLD_BATCH, FOLD_STEP};
use optc_elab::value::Series;
use optc_exec::{Program, RunError};
use optc_train::{Checkpoint, Checkpoints, Format, Logger, Progress, TrainError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Set by Ctrl-C: training ends after the step at hand.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Bytes of arrays in files up to which a loss that is not finite is traced to where it came from.
const SEARCHED: usize = 256 << 20;

/// What surrounds a run.
pub struct Surroundings<'a> {
    /// Compiles.
    pub compiler: &'a mut Compiler,
    /// Relative paths of checkpoints and logs start here.
    pub folder: PathBuf,
    /// SHA-256 of the spec.
    pub spec_hash: String,
    /// How progress is shown.
    pub progress: optc_train::progress::Mode,
    /// Where runs of this session have written to.
    pub written: &'a mut Written,
}

/// Folders that runs which started anew have written to, oldest first: the folder of their variant, their own, and how many steps they were to make.
pub type Written = Vec<(PathBuf, PathBuf, u64)>;

impl Surroundings<'_> {
    /// The folder for files of a run, where the spec says `written`. Below it each variant of a train has a folder of its own, and so has a run that starts anew with
    /// another number of steps than the first of its variant in this session. A run that is resumed goes on from the newest one.
    fn folder_of(&mut self, program: &TrainProgram, written: &str) -> PathBuf {
        let mut base = self.folder.join(written);
        if !program.variant.is_empty() {
            base.push(&program.variant);
        }
        if program.resume {
            return self.written.iter().rev().find(|(b, ..)| *b == base).map_or(base, |(_, own, _)| own.clone());
        }
        let own = match self.written.iter().find(|(b, ..)| *b == base) {
            Some((.., steps)) if *steps != program.steps => base.join(format!("steps={}", program.steps)),
            _ => base.clone(),
        };
        self.written.push((base, own.clone(), program.steps));
        own
    }
}

/// The key of a run: the words of its seed.
pub fn run_key(seed: u64) -> Tensor {
    Tensor::from_slice(&[2], &key_words(seed))
}

fn key_words(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// The words of the keys of a metric after `step` steps, from 1: that of the last of them, then those of the parts of the examples.
pub fn metric_keys(seed: u64, step: u64, parts: usize) -> Vec<u32> {
    let step_key = philox::fold(key_words(seed), (step - 1) as u32, FOLD_STEP);
    let part_keys = (0..parts).map(|k| philox::fold(step_key, k as u32, FOLD_BATCH));
    std::iter::once(step_key).chain(part_keys).flatten().collect()
}

/// An error around files as a diagnostic.
pub fn file_error(error: &TrainError, span: Span) -> Diagnostic {
    let d = Diagnostic::error(Code(error.code), span, error.to_string());
    match &error.help {
        Some(help) => d.help(help.to_string()),
        None => d,
    }
}

/// A failed run as a diagnostic.
pub fn run_error(error: &RunError, what: &str, span: Span) -> Diagnostic {
    let place = error.span.map_or(span, |(source, start, end)| Span { source: SourceId(source), start, end });
    match error.status.code {
        status::DEVICE => {
            let trouble = error.trouble.as_ref();
            let words = trouble.map_or("the GPU has failed", |t| t.message.as_str());
            let diagnostic = Diagnostic::error(Code(trouble.map_or("R0139", |t| t.code)), span, format!("{what}: {words}"));
            match trouble.and_then(|t| t.help.as_ref()) {
                Some(help) => diagnostic.help(help.clone()),
                None => diagnostic,
            }
        }
        status::OUT_OF_RANGE => Diagnostic::error(
            Code("R0201"),
            place,
            format!("{what}: index {} is outside an axis of {} elements", error.status.index, error.status.extent),
        )
        .at("this index")
        .help("indices run from 0 to the extent minus 1; nothing wraps around"),
        _ => Diagnostic::error(Code("R0202"), place, format!("{what}: a value that must be finite is NaN or infinite")),
    }
}

/// What the back end or the device could not do, as a diagnostic.
pub fn backend_error(error: &CompileError, span: Span) -> Diagnostic {
    match error {
        CompileError::Backend(words) => {
            Diagnostic::error(Code("E0702"), span, words.clone()).note("this is a compiler bug unless the machine is not supported")
        }
        CompileError::Device(e) => file_error(e, span),
    }
}

/// A compiled metric.
struct Metric<'a> {
    spec: &'a MetricProgram,
    whole: Program,
    rest: Option<Program>,
    feed: Feed,
    rest_feed: Option<Feed>,
    seed: u64,
}

impl<'a> Metric<'a> {
    fn new(spec: &'a MetricProgram, compiler: &mut Compiler, seed: u64) -> Result<Self, CompileError> {
        let n = spec.data.table.len();
        let rest_rows = n % spec.chunk.max(1);
        Ok(Metric {
            whole: compiler.program(&spec.whole, &CompileOptions::default())?,
            rest: spec.rest.as_ref().map(|g| compiler.program(g, &CompileOptions::default())).transpose()?,
            feed: Feed::new(&spec.data, &[spec.chunk]),
            rest_feed: spec.rest.is_some().then(|| Feed::new(&spec.data, &[rest_rows])),
            spec,
            seed,
        })
    }

    /// The metric after `step` steps, which draws from the key of the last of them.
    fn evaluate(&mut self, weights: &[*mut u8], step: u64) -> Result<f64, RunError> {
        let step_key = philox::fold(key_words(self.seed), (step - 1) as u32, FOLD_STEP);
        let n = self.spec.data.table.len();
        let (mut sum, mut count) = (0.0, 0.0);
        let mut at = 0;
        while at < n {
            let rows = self.spec.chunk.min(n - at);
            let (program, feed) = match (&mut self.rest, &mut self.rest_feed) {
                (Some(p), Some(f)) if rows < self.spec.chunk => (p, f),
                _ => (&mut self.whole, &mut self.feed),
            };
            feed.fill(0, at..at + rows);
            let mut out = [Tensor::scalar(0f64), Tensor::scalar(1f64)];
            // Parts of a data set draw like the batches of a step.
            let part_key = philox::fold(step_key, (at / self.spec.chunk) as u32, FOLD_BATCH);
            let keys = [step_key, part_key].map(|k| Tensor::from_slice(&[2], &k));
            // SAFETY: weights are the run's leaves, buffers have the program's shapes; all live through the call.
            unsafe {
                let inputs = weights.iter().copied().chain(feed.buffers.iter().map(Tensor::as_ptr)).chain(keys.iter().map(Tensor::as_ptr));
                for (k, address) in inputs.enumerate() {
                    program.bind_input(k, address);
                }
                for (k, t) in out.iter_mut().take(program.plan().outputs.len()).enumerate() {
                    program.bind_output(k, t.as_ptr());
                }
                program.run_bound()?;
            }
            sum += out[0].get_f64(0);
            count += out[1].get_f64(0);
            at += rows;
        }
        Ok(sum / count)
    }
}

/// The state of a run in progress.
struct Run<'a> {
    program: &'a TrainProgram,
    slots: Vec<Tensor>,
    /// Where a device trains: the slots there.
    mirrors: Mirrors,
    /// Those of them that live in files.
    files: Files,
    /// The recorded scalars, of which the losses are the first, then metrics.
    series: IndexMap<String, Series>,
    step: u64,
}

impl Run<'_> {
    /// Brings the slots up to date with the device.
    fn fetch(&mut self) -> Result<(), TrainError> {
        self.mirrors.fetch(&mut self.slots)
    }

    /// Of the slots as they were last fetched.
    fn checkpoint(&self, spec_hash: &str) -> Result<Checkpoint, TrainError> {
        let mut c = Checkpoint::default();
        c.meta.train = self.program.name.clone();
        c.meta.step = self.step;
        c.meta.batches = self.step * self.program.accumulate as u64;
        c.meta.seed = self.program.seed;
        c.meta.spec_sha256 = spec_hash.to_string();
        for (k, (slot, tensor)) in self.program.slots.iter().zip(&self.slots).enumerate() {
            c.tensors.insert(slot.name.clone(), self.files.value(k, tensor)?);
        }
        for (name, s) in &self.series {
            c.series.insert(name.clone(), optc_train::Series::from_parts(s.steps.clone(), s.values.clone()));
        }
        Ok(c)
    }

    /// Goes on from a checkpoint.
    fn restore(&mut self, c: &Checkpoint) -> Result<(), TrainError> {
        c.expect(self.program.slots.iter().map(|s| (s.name.as_str(), s.ty.dtype, &s.ty.shape[..])))?;
        for (slot, tensor) in self.program.slots.iter().zip(&mut self.slots) {
            tensor.bytes_mut().copy_from_slice(c.tensors[&slot.name].bytes());
        }
        for (name, s) in &c.series {
            self.series.insert(name.clone(), Series { steps: s.steps().to_vec(), values: s.values().to_vec() });
        }
        self.step = c.meta.step;
        Ok(())
    }
}

/// Trains, on the device that the program or the command line names.
///
/// # Errors
/// A loss that is not finite (unless the program says otherwise), an index out of range, trouble with files or a device.
pub fn train(program: &TrainProgram, around: &mut Surroundings<'_>) -> Result<RunResult, Diagnostic> {
    let place = device::open(device::chosen().unwrap_or(program.device)).map_err(|e| file_error(&e, program.span))?;
    // Without a batch there is nothing that several devices could share out.
    let place = if program.data.is_some() { place } else { place.main() };
    let before = std::mem::replace(&mut around.compiler.place, place);
    let result = train_there(program, around);
    around.compiler.place = before;
    result
}

fn train_there(program: &TrainProgram, around: &mut Surroundings<'_>) -> Result<RunResult, Diagnostic> {
    let span = program.span;
    let start = Instant::now();
    let in_files = match &program.offload {
        Some(spec) => Files::create(program, &around.folder_of(program, &spec.folder)).map_err(|e| file_error(&e, span))?,
        None => Files::default(),
    };
    let slots = initial_slots(program, around.compiler, &in_files)?;
    let mut run = Run { program, slots, mirrors: Mirrors::default(), files: in_files, series: IndexMap::new(), step: 0 };
    for name in program.step.recorded.iter().map(|r| &r.name).chain(program.metrics.iter().map(|m| &m.name)) {
        run.series.insert(name.to_string(), Series::default());
    }
    let files = |e: TrainError| file_error(&e, span);
    let checkpoints = program.checkpoint.as_ref().map(|c| Checkpoints::new(&around.folder_of(program, &c.folder), Some(c.keep)));
    if let Some(store) = &checkpoints
        && let Some(owner) = store.owner().map_err(files)?
        && owner != program.name
    {
        let message = format!("{} holds checkpoints of the train `{owner}`", store.dir().display());
        return Err(Diagnostic::error(Code("R0206"), span, message)
            .help(format!("give `{}` a folder of its own, or remove the old checkpoints", program.name)));
    }
    if program.resume {
        let Some(store) = &checkpoints else {
            return Err(Diagnostic::error(Code("R0203"), span, "there is nothing to resume from: the train has no `checkpoint` setting")
                .help("add `checkpoint \"out/name\" every 500`"));
        };
        let (found, warnings) = store.latest().map_err(files)?;
        for w in warnings {
            eprintln!("warning: {w}");
        }
        if let Some((_, checkpoint)) = found {
            run.restore(&checkpoint).map_err(files)?;
        }
    }
    run.files.settle().map_err(files)?;
    run.mirrors = Mirrors::new(&around.compiler.place, &run.slots).map_err(files)?;
    let columns: Vec<String> = run.series.keys().cloned().collect();
    let mut logger = match &program.log {
        None => None,
        Some(log) => {
            let formats: Vec<Format> = log.formats.iter().filter_map(|f| Format::parse(f)).collect();
            let resume = (run.step > 0).then_some(run.step);
            Some(Logger::open(&around.folder_of(program, &log.path), &formats, &columns, resume).map_err(files)?)
        }
    };
    let mut metrics = Vec::new();
    for m in &program.metrics {
        metrics.push(Metric::new(m, around.compiler, program.seed).map_err(|e| backend_error(&e, span))?);
    }
    let mut eval = Evaluation::new(program, around.compiler).map_err(|e| backend_error(&e, span))?;
    let mut stop = match &program.stop_when {
        None => None,
        Some((graph, names)) => {
            // A few numbers: not worth the way to a device.
            Some((around.compiler.program(graph, &CompileOptions::once()).map_err(|e| backend_error(&e, span))?, names))
        }
    };
    let mut stepper = Stepper::new(program, &run.slots, &run.files, around.compiler)?;
    let mut progress = Progress::new(&program.name, run.step, program.steps, around.progress);
    let recorded = program.step.recorded.len();
    for s in run.series.values_mut().take(recorded) {
        let more = (program.steps.saturating_sub(s.steps.last().copied().unwrap_or(0))).min(1 << 24) as usize;
        s.steps.reserve(more);
        s.values.reserve(more);
    }
    let first = run.step;
    // Steps are queued ahead of those whose results are known, up to the next one after which somebody looks at the weights.
    let (mut queued, mut last) = (run.step, program.steps);
    let looked_at = |step: u64| {
        let saved = program.checkpoint.as_ref().is_some_and(|c| c.every > 0 && step.is_multiple_of(c.every));
        saved || program.stop_when.is_some() || program.metrics.iter().any(|m| step.is_multiple_of(m.every))
    };
    let (mut interrupted, mut warned) = (false, false);
    while run.step < last {
        let mut made = Ok(());
        while made.is_ok() && queued < last && stepper.has_room() {
            if queued > run.step && (looked_at(queued) || !stepper.watched.is_empty()) {
                break;
            }
            if !stepper.watched.is_empty() {
                stepper.watch(&run.series);
            }
            made = stepper.submit(queued);
            queued += 1;
        }
        match made.and_then(|()| stepper.collect()) {
            // The step was made; an optimizer that is left alone may go on.
            Err(e) if e.status.code == status::WRITTEN && !program.stop_on_nan => {
                if !warned {
                    run.fetch().map_err(files)?;
                    eprintln!("warning: {}", weights_not_finite(program, &run, checkpoints.as_ref()).message);
                    warned = true;
                }
            }
            Err(e) => return Err(failed_step(program, &mut run, &mut stepper, &e, checkpoints.as_ref(), around)),
            Ok(()) => {}
        }
        run.step += 1;
        let step = run.step;
        let mut logged: Vec<(usize, f64)> = Vec::new();
        for (k, series) in run.series.values_mut().take(recorded).enumerate() {
            if program.step.recorded[k].due(step, program.steps) {
                let value = stepper.output(k);
                series.steps.push(step);
                series.values.push(value);
                if logger.is_some() {
                    logged.push((k, value));
                }
            }
        }
        for metric in &mut metrics {
            if step.is_multiple_of(metric.spec.every) || step == program.steps {
                let weights = eval.weights(program, &run.slots).map_err(|e| run_error(&e, &format!("step {step}"), span))?;
                let value = metric
                    .evaluate(&weights, step)
                    .map_err(|e| run_error(&e, &format!("metric `{}` at step {step}", metric.spec.name), span))?;
                let (k, _, series) = run.series.get_full_mut(&metric.spec.name).expect("every metric has a series");
                series.steps.push(step);
                series.values.push(value);
                if logger.is_some() {
                    logged.push((k, value));
                }
            }
        }
        if let Some(logger) = &mut logger {
            let named: Vec<(&str, f64)> =
                logged.iter().filter_map(|&(k, v)| run.series.get_index(k).map(|(name, _)| (name.as_str(), v))).collect();
            logger.write(step, &named).map_err(files)?;
        }
        let stopped = match &mut stop {
            None => false,
            Some((program, names)) => stop_holds(program, names, &run.series).map_err(|e| run_error(&e, "stop when", span))?,
        };
        if INTERRUPTED.load(Ordering::Relaxed) {
            last = queued;
            interrupted = step == last;
        }
        if let (Some(store), Some(spec)) = (&checkpoints, &program.checkpoint) {
            let due = spec.every > 0 && step.is_multiple_of(spec.every);
            if due || step == program.steps || stopped || interrupted {
                if let Some(logger) = &mut logger {
                    logger.flush().map_err(files)?;
                }
                run.fetch().and_then(|()| run.checkpoint(&around.spec_hash)).and_then(|c| store.save(&c)).map_err(files)?;
            }
        }
        if progress.due() {
            let latest = latest(&run.series);
            progress.report(step, &latest);
        }
        if stopped || interrupted {
            break;
        }
    }
    progress.finish(run.step, &latest(&run.series));
    if let Some(logger) = &mut logger {
        logger.flush().map_err(files)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    eval.weights(program, &run.slots).map_err(|e| run_error(&e, "evaluation weights", span))?;
    eval.fetch().map_err(files)?;
    run.fetch().map_err(files)?;
    let moved = program.offload.is_some().then(|| offload::record(&run.files, &stepper.program.moved()));
    drop(stepper);
    run.mirrors = Mirrors::default();
    run.files.finish().map_err(files)?;
    let mut slots = Vec::new();
    for (k, slot) in std::mem::take(&mut run.slots).into_iter().enumerate() {
        slots.push(Arc::new(match run.files.get(k) {
            Some(file) => file.view().map_err(files)?,
            None => slot,
        }));
    }
    let weights = match eval.into_outputs() {
        Some(outputs) => outputs.into_iter().map(Arc::new).collect(),
        None => program.leaves().iter().map(|&k| slots[k].clone()).collect(),
    };
    Ok(RunResult { series: run.series, steps: run.step, ran: run.step - first, slots, weights, seconds, offload: moved, interrupted })
}

fn latest(series: &IndexMap<String, Series>) -> Vec<(&str, f64)> {
    series.iter().filter_map(|(n, s)| s.values.last().map(|&v| (n.as_str(), v))).collect()
}

fn stop_holds(program: &mut Program, names: &[String], series: &IndexMap<String, Series>) -> Result<bool, RunError> {
    let last = |n: &String| series.get(n).and_then(|s| s.values.last()).copied().unwrap_or(f64::NAN);
    let mut inputs: Vec<Tensor> = names.iter().map(|n| Tensor::scalar(last(n))).collect();
    Ok(program.run(&mut inputs)?[0].get_f64(0) != 0.0)
}

/// The weights used in evaluation.
struct Evaluation {
    program: Option<Program>,
    outputs: Option<Vec<Tensor>>,
    /// Where a device trains: the outputs there.
    mirrors: Mirrors,
}

impl Evaluation {
    fn new(program: &TrainProgram, compiler: &mut Compiler) -> Result<Self, CompileError> {
        let Some(graph) = &program.eval else { return Ok(Evaluation { program: None, outputs: None, mirrors: Mirrors::default() }) };
        let compiled = compiler.program(graph, &CompileOptions::default())?;
        let outputs: Vec<Tensor> = compiled.plan().outputs.iter().map(|s| Tensor::zeros(s.dtype, &s.shape)).collect();
        let mirrors = Mirrors::new(&compiler.place.main(), &outputs)?;
        Ok(Evaluation { program: Some(compiled), outputs: Some(outputs), mirrors })
    }

    /// Brings the weights up to date with the device.
    fn fetch(&mut self) -> Result<(), TrainError> {
        self.outputs.as_mut().map_or(Ok(()), |outputs| self.mirrors.fetch(outputs))
    }

    /// The weights, unless they are the model's own.
    fn into_outputs(self) -> Option<Vec<Tensor>> {
        self.outputs
    }

    /// Addresses of the model's leaves as evaluation sees them now.
    fn weights(&mut self, program: &TrainProgram, slots: &[Tensor]) -> Result<Vec<*mut u8>, RunError> {
        match (&mut self.program, &self.outputs) {
            (Some(compiled), Some(outputs)) => {
                // SAFETY: slots and outputs have the graph's types and live through the call.
                unsafe {
                    for (k, slot) in slots.iter().enumerate() {
                        compiled.bind_input(k, slot.as_ptr());
                    }
                    for (k, out) in outputs.iter().enumerate() {
                        compiled.bind_output(k, out.as_ptr());
                    }
                    compiled.run_bound()?;
                }
                Ok(outputs.iter().map(Tensor::as_ptr).collect())
            }
            _ => Ok(program.leaves().iter().map(|&k| slots[k].as_ptr()).collect()),
        }
    }
}

/// What to say of a step that failed, after saving the last good state where checkpoints are kept.
fn failed_step(
    program: &TrainProgram,
    run: &mut Run<'_>,
    stepper: &mut Stepper,
    error: &RunError,
    store: Option<&Checkpoints>,
    around: &mut Surroundings<'_>,
) -> Diagnostic {
    let step = run.step + 1;
    // What was queued behind the step has not been made; the batch of the step is wanted again.
    while stepper.program.in_flight() > 0 {
        let _ = stepper.collect();
    }
    if error.status.code == status::DEVICE {
        return run_error(error, &format!("step {step}"), program.span);
    }
    stepper.fill(run.step);
    if let Err(e) = run.fetch() {
        return file_error(&e, program.span);
    }
    let run = &*run;
    if let Some(failure) = stepper.program.take_failure() {
        return offload::failed(&failure, &format!("step {step}"), program.span);
    }
    if error.status.code == status::WRITTEN {
        return weights_not_finite(program, run, store);
    }
    if error.status.code != status::NOT_FINITE {
        return run_error(error, &format!("step {step}"), program.span);
    }
    let ranges =
        out_of_range(program, run, stepper, around.compiler).unwrap_or_else(|e| Some(run_error(&e, &format!("step {step}"), program.span)));
    let mut diagnostic = match ranges {
        Some(d) => d,
        // The search for the culprit holds everything in memory.
        None => {
            match (run.files.bytes() <= SEARCHED).then(|| crate::nan::blame(program, &run.slots, stepper.inputs_after_slots())).flatten() {
                Some(b) => Diagnostic::error(Code("R0202"), b.span, format!("step {step}: {} here makes {} {}", b.what, b.loss, b.value))
                    .at(b.detail),
                None => Diagnostic::error(Code("R0202"), program.span, format!("step {step}: the loss is not finite")),
            }
            .help("lower the learning rate, clip the gradient, or guard the operation; `on nan { skip }` leaves it to the optimizer")
        }
    };
    if let Some(store) = store {
        // The state before this step is good: the guards stood in front of every write.
        match run.checkpoint(&around.spec_hash).and_then(|c| store.save(&c)) {
            Ok(path) => diagnostic = diagnostic.note(format!("the state after step {} is kept in {}", run.step, path.display())),
            Err(e) => diagnostic = diagnostic.note(format!("the state after step {} could not be saved: {e}", run.step)),
        }
    }
    diagnostic
}

/// The parameter that the step after `run.step` has left NaN or infinite.
fn weights_not_finite(program: &TrainProgram, run: &Run<'_>, store: Option<&Checkpoints>) -> Diagnostic {
    let step = run.step + 1;
    let found = program.weights().into_iter().find_map(|k| {
        let value = run.files.value(k, &run.slots[k]).ok()?;
        let bad = (0..value.len()).find(|&i| !value.get_f64(i).is_finite())?;
        Some((program.slots[k].name.as_str(), bad, value.len(), value.get_f64(bad)))
    });
    let message = match found {
        Some((name, ..)) => format!("step {step}: the update makes `{name}` NaN or infinite"),
        // A check that sees more than is left: a value that was overwritten by a later player's step.
        None => format!("step {step}: an update makes a parameter NaN or infinite"),
    };
    let mut d = Diagnostic::error(Code("R0207"), program.span, message);
    if let Some((_, bad, len, value)) = found {
        let number = if value.is_nan() { "NaN".to_string() } else { value.to_string() };
        d = d.note(if len == 1 { format!("it is {number}") } else { format!("element {bad} of {len} is {number}") });
    }
    d = d.note(
        "the loss at the weights before it is finite: look at what the optimizer divides by, at its learning rate, and at the gradient",
    );
    if let Some((path, _)) = store.and_then(|s| s.latest().ok()).and_then(|(found, _)| found) {
        d = d.note(format!("the last good checkpoint is {}", path.display()));
    }
    d.help("lower the learning rate, clip the gradient, or guard the division; `on nan { skip }` goes on after a warning")
}

/// The hyperparameter whose range kept the step from being made; `None` if it was the loss. Computes them anew from the state before the step.
fn out_of_range(program: &TrainProgram, run: &Run<'_>, stepper: &Stepper, compiler: &mut Compiler) -> Result<Option<Diagnostic>, RunError> {
    if program.step.ranged.is_empty() {
        return Ok(None);
    }
    let mut graph = program.step.graph.clone();
    let wanted = program.loss_outputs().chain(program.ranged_outputs());
    graph.outputs = wanted.map(|k| graph.outputs[k]).collect();
    let Ok(mut compiled) = compiler.program(&graph, &CompileOptions::default()) else { return Ok(None) };
    let mut inputs: Vec<Tensor> = run.slots.iter().cloned().chain(stepper.inputs_after_slots()).collect();
    let values = compiled.run(&mut inputs)?;
    let (losses, values) = values.split_at(program.step.losses);
    if program.stop_on_nan && losses.iter().any(|loss| !loss.get_f64(0).is_finite()) {
        return Ok(None);
    }
    let step = run.step;
    // Players count steps of their own.
    let count = program.players.is_empty().then_some(step);
    Ok(out_of_range_error(&program.step.ranged, values, &format!("step {}", step + 1), count))
}
