//! `optc bench`: how long compiling, the first step and the steps of a spec take; an optimizer's step alone.

use super::{driver, explain, say};
use crate::cache::Compiler;
use crate::cost;
use crate::device::{self, Mirrors, Place};
use crate::messages::Messages;
use crate::offload::Files;
use crate::pipeline::{self, CompileOptions};
use crate::profile::Profile;
use crate::session::{Failed, Session};
use crate::stages;
use crate::stepper::Stepper;
use crate::synthetic::Stored;
use crate::trainer::{self, run_key};
use optc_abi::Tensor;
use optc_base::{SourceMap, Span};
use optc_elab::TrainProgram;
use optc_elab::script;
use optc_exec::Program;
use optc_front::ItemRef;
use optc_ir::Graph;
use optc_train::TrainError;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Seconds of measurement per train.
    pub seconds: f64,
    /// One JSON object instead of text.
    pub json: bool,
    /// Say where the time of a step goes.
    pub profile: bool,
    /// Threads; 0 is all cores.
    pub threads: usize,
}

/// Shortest block of steps that is timed as one, in seconds.
const BLOCK: f64 = 0.05;
/// Least number of blocks, however long they are.
const BLOCKS: usize = 5;

/// The middle of the blocks and how far they lie apart, in steps per second.
struct Rate {
    median: f64,
    low: f64,
    high: f64,
    blocks: usize,
    steps: u64,
}

/// Quartiles of the blocks' rates.
fn rate(mut rates: Vec<f64>, steps: u64) -> Rate {
    rates.sort_by(f64::total_cmp);
    let at = |q: f64| rates[((rates.len() - 1) as f64 * q).round() as usize];
    Rate { median: at(0.5), low: at(0.25), high: at(0.75), blocks: rates.len(), steps }
}

/// Runs something in blocks. Each call of `block` gets how many steps to make; the number is grown until a block is long enough to be timed.
struct Blocks {
    size: u64,
    rates: Vec<f64>,
    steps: u64,
    spent: f64,
}

impl Blocks {
    /// Warms up: finds the block size.
    fn warm_up<E>(step: &mut impl FnMut(u64) -> Result<(), E>) -> Result<Blocks, E> {
        let mut size = 1;
        loop {
            let start = Instant::now();
            step(size)?;
            let seconds = start.elapsed().as_secs_f64();
            if seconds >= BLOCK {
                // One more block, now that caches and the clock have settled.
                step(size)?;
                return Ok(Blocks { size, rates: Vec::new(), steps: 0, spent: 0.0 });
            }
            let wanted = (size as f64 * BLOCK / seconds.max(1e-9) * 1.2).ceil() as u64;
            size = wanted.clamp(size + 1, size * 16);
        }
    }
    /// Times one block.
    fn one<E>(&mut self, step: &mut impl FnMut(u64) -> Result<(), E>) -> Result<(), E> {
        let start = Instant::now();
        step(self.size)?;
        let seconds = start.elapsed().as_secs_f64();
        self.rates.push(self.size as f64 / seconds.max(1e-12));
        self.steps += self.size;
        self.spent += seconds;
        Ok(())
    }
    fn done(&self, seconds: f64) -> bool {
        self.spent >= seconds && self.rates.len() >= BLOCKS
    }
}

/// Steps on a device in which each instruction is timed by itself.
const TIMED: u64 = 10;

/// A train that is being measured.
struct Measured {
    program: TrainProgram,
    stepper: Stepper,
    /// Dropped before the arrays that they are copies of.
    _mirrors: Mirrors,
    /// The stepper holds addresses of these.
    _slots: Vec<Tensor>,
    at: u64,
    blocks: Option<Blocks>,
    report: Value,
    lines: Vec<String>,
}

impl Measured {
    fn steps(&mut self, n: u64) -> Result<(), optc_exec::RunError> {
        let end = self.at + n;
        let mut queued = self.at;
        while self.at < end {
            while queued < end && self.stepper.has_room() {
                self.stepper.submit(queued)?;
                queued += 1;
            }
            self.stepper.collect()?;
            self.at += 1;
        }
        Ok(())
    }
}

/// Where the time of `steps` steps went, which took `seconds`.
fn profile(program: &mut Program, graph: &Graph, options: &CompileOptions, sources: &SourceMap, steps: u64, seconds: f64) -> Profile {
    // Planned anew for the kernels' names: planning depends on the graph alone, and on the kind of place.
    let options = CompileOptions { apart: options.apart || program.is_remote(), ..options.clone() };
    let planned = pipeline::plan(graph.clone(), &options, &mut Default::default()).planned;
    if program.is_remote() {
        // Instructions were timed in steps of their own.
        let spent = program.times();
        return Profile::new(program.plan(), &planned.kernels, &spent, sources, TIMED, seconds * TIMED as f64 / steps.max(1) as f64)
            .on_device();
    }
    let spent = program.take_profile();
    Profile::new(program.plan(), &planned.kernels, &spent, sources, steps, seconds)
}

/// Several GPUs have no profile.
///
/// # Errors
/// It is asked for there.
fn check_profile(settings: &Settings, place: &Place) -> Result<(), TrainError> {
    if settings.profile && place.devices() > 1 {
        return Err(TrainError::new("R0137", "`--profile` times the instructions of one GPU, not of several together")
            .help("name one GPU: `--device cuda:0`"));
    }
    Ok(())
}

/// Times the trains of a spec: loading, checking, lowering, each stage of the compiler, the time to the first step, steps per second. Trains of one file take turns, block by block.
/// A function of the name is timed instead: to the first result, per call.
///
/// # Errors
/// A mistake in the spec, a step that fails.
pub fn spec(file: &Path, name: Option<&str>, set: &[String], settings: &Settings, messages: &Messages) -> Result<(), Failed> {
    let begin = Instant::now();
    let session = Session::open(file, set, messages)?;
    let front = begin.elapsed().as_secs_f64();
    if let Some(item) = name.and_then(|n| session.function(n)) {
        return function(&session, item, begin, settings, messages);
    }
    let all = session.trains();
    let items = match name {
        Some(name) => match session.find(name, &all, "train") {
            Ok(item) => vec![item],
            Err((message, help)) => {
                messages.error("", &message, help.as_deref());
                return Err(Failed);
            }
        },
        None => all.into_iter().filter(|&i| !session.needs_arguments(i)).collect(),
    };
    if items.is_empty() {
        messages.error("", &format!("{} has no train to time", file.display()), Some("`--optimizer NAME` times an optimizer alone"));
        return Err(Failed);
    }
    let fail = |d: optc_base::Diagnostic| {
        messages.print(&[d], &session.program.sources);
        Failed
    };
    let mut compiler = Compiler::new(settings.threads);
    compiler.profile = settings.profile;
    let threads = compiler.pool().threads();
    let mut measured = Vec::new();
    for item in items {
        let start = Instant::now();
        let program = {
            let mut driver = driver(&session, 1, true, false);
            script::lower_only(&session.program, item, &session.settings, &mut driver).map_err(|diagnostics| {
                messages.print(&diagnostics, &session.program.sources);
                Failed
            })?
        };
        let lower = start.elapsed().as_secs_f64();
        let slots = crate::initial::initial_slots(&program, &mut compiler, &Files::default()).map_err(fail)?;
        let init = start.elapsed().as_secs_f64() - lower;
        compiler.timings = Default::default();
        compiler.place =
            device::open(device::chosen().unwrap_or(program.device)).map_err(|e| fail(trainer::file_error(&e, program.span)))?;
        check_profile(settings, &compiler.place).map_err(|e| fail(trainer::file_error(&e, program.span)))?;
        let mirrors = Mirrors::new(&compiler.place, &slots).map_err(|e| fail(trainer::file_error(&e, program.span)))?;
        let mut stepper = Stepper::new(&program, &slots, &Files::default(), &mut compiler).map_err(fail)?;
        let timings = compiler.timings;
        let before = start.elapsed();
        let first = stepper.step(0);
        let step = start.elapsed() - before;
        first.map_err(|e| fail(trainer::run_error(&e, "step 1", program.span)))?;
        let to_first = front + start.elapsed().as_secs_f64();
        // What is timed from here on is the steady state.
        stepper.compiled_mut().settle();
        let plan = stepper.compiled().plan();
        let mut instructions = 0;
        plan.walk(&mut |_| instructions += 1);
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        let memory: usize = program.slots.iter().map(|s| s.ty.len() * s.ty.dtype.size()).sum();
        let report = json!({
            "train": session.name(item),
            "threads": threads,
            "nodes": program.step.graph.len(),
            "instructions": instructions,
            "arena_bytes": plan.arena_bytes,
            "slot_bytes": memory,
            "ms": {
                "load_and_check": front * 1e3, "lower": lower * 1e3, "initialize": init * 1e3, "simplify": ms(timings.simplify), "plan": ms(timings.plan),
                "codegen": ms(timings.codegen), "first_step": ms(step), "to_first_step": to_first * 1e3,
            },
        });
        let lines = vec![
            format!(
                "{}: {} graph nodes, {instructions} instructions, {threads} thread{}",
                session.name(item),
                program.step.graph.len(),
                if threads == 1 { "" } else { "s" }
            ),
            format!(
                "  ms: load and check {:.1}, lower {:.1}, initial values {:.1}, simplify {:.1}, plan {:.1}, code {:.1}, the step itself {:.1}; to the first step {:.1}",
                front * 1e3,
                lower * 1e3,
                init * 1e3,
                ms(timings.simplify),
                ms(timings.plan),
                ms(timings.codegen),
                ms(step),
                to_first * 1e3
            ),
            format!("  memory: {:.1} MB of parameters and states, {:.1} MB between", memory as f64 / 1e6, plan.arena_bytes as f64 / 1e6),
        ];
        measured.push(Measured { program, stepper, _mirrors: mirrors, _slots: slots, at: 1, blocks: None, report, lines });
    }
    // No seconds to measure for: compiling and the first step are all that is asked.
    for m in measured.iter_mut().filter(|_| settings.seconds > 0.0) {
        let done = Blocks::warm_up(&mut |n| m.steps(n));
        m.blocks = Some(done.map_err(|e| fail(trainer::run_error(&e, &format!("step {}", m.at + 1), m.program.span)))?);
        m.stepper.compiled_mut().take_profile();
    }
    loop {
        let mut busy = false;
        for m in &mut measured {
            let Some(mut blocks) = m.blocks.take() else { continue };
            if !blocks.done(settings.seconds) {
                busy = true;
                let done = blocks.one(&mut |n| m.steps(n));
                done.map_err(|e| fail(trainer::run_error(&e, &format!("step {}", m.at + 1), m.program.span)))?;
            }
            m.blocks = Some(blocks);
        }
        if !busy {
            break;
        }
    }
    let mut reports = Vec::new();
    for mut m in measured {
        if let Some(blocks) = m.blocks.take() {
            if settings.profile {
                if m.stepper.compiled().is_remote() {
                    let timed = m.stepper.compiled_mut().time_instructions(true).and_then(|()| m.steps(TIMED));
                    timed.map_err(|e| fail(trainer::run_error(&e, &format!("step {}", m.at + 1), m.program.span)))?;
                }
                let (graph, options) = (&m.program.step.graph, stages::step_options(&m.program));
                let profile = profile(m.stepper.compiled_mut(), graph, &options, &session.program.sources, blocks.steps, blocks.spent);
                m.report["profile"] = profile.json();
                m.lines.push(profile.text());
            }
            let r = rate(blocks.rates, blocks.steps);
            m.report["steps_per_second"] = rate_json(&r);
            m.lines.push(format!(
                "  {} steps/s (quartiles {} to {}; {} blocks, {} steps)",
                optc_abi::number::shown(r.median, optc_train::table::DIGITS),
                optc_abi::number::shown(r.low, optc_train::table::DIGITS),
                optc_abi::number::shown(r.high, optc_train::table::DIGITS),
                r.blocks,
                r.steps
            ));
        }
        if !settings.json {
            say(&m.lines.join("\n"));
        }
        reports.push(m.report);
    }
    let peak = peak_bytes();
    if settings.json {
        let version = env!("CARGO_PKG_VERSION");
        say(&json!({ "spec": file.display().to_string(), "optc": version, "trains": reports, "peak_bytes": peak }).to_string());
    } else if let Some(bytes) = peak {
        say(&format!("peak memory of the process: {:.1} MB", bytes as f64 / 1e6));
    }
    Ok(())
}

/// Times a call of a function with the defaults of its parameters, which are computed beforehand.
fn function(session: &Session, item: ItemRef, begin: Instant, settings: &Settings, messages: &Messages) -> Result<(), Failed> {
    let call = explain::lower_call(session, item, settings.threads, messages)?;
    let lowered = begin.elapsed();
    let mut compiler = Compiler::new(settings.threads);
    compiler.profile = settings.profile;
    let options = CompileOptions::default();
    let span = session.program.item(item).name().map_or(Span::default(), |n| n.span);
    let fail = |d: optc_base::Diagnostic| {
        messages.print(&[d], &session.program.sources);
        Failed
    };
    let mut program = compiler.program(&call.graph, &options).map_err(|e| fail(trainer::backend_error(&e, span)))?;
    let timings = compiler.timings;
    let outputs: Vec<Tensor> = program.plan().outputs.iter().map(|o| Tensor::zeros(o.dtype, &o.shape)).collect();
    for (k, tensor) in call.inputs.iter().enumerate() {
        // SAFETY: the tensors have the types of the graph's inputs and live until the last call; they are only read.
        unsafe { program.bind_input(k, tensor.as_ptr()) };
    }
    for (k, tensor) in outputs.iter().enumerate() {
        // SAFETY: made of the plan's types just now; nobody reads them meanwhile.
        unsafe { program.bind_output(k, tensor.as_ptr()) };
    }
    let name = session.name(item);
    let failed = |e: optc_exec::RunError| fail(trainer::run_error(&e, &format!("`{name}`"), span));
    let run = |program: &mut Program, n: u64| {
        // SAFETY: everything was bound just now.
        unsafe { program.run_times(n) }
    };
    run(&mut program, 1).map_err(failed)?;
    let to_first = begin.elapsed();
    program.settle();
    let mut instructions = 0;
    program.plan().walk(&mut |_| instructions += 1);
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    let mut report = json!({
        "function": name, "threads": compiler.pool().threads(), "nodes": call.graph.len(), "instructions": instructions, "optc": env!("CARGO_PKG_VERSION"),
        "ms": {
            "load_check_lower": ms(lowered), "simplify": ms(timings.simplify), "plan": ms(timings.plan), "codegen": ms(timings.codegen),
            "to_first_result": ms(to_first),
        },
    });
    let mut lines = vec![format!(
        "{name}: {} graph nodes, {instructions} instructions; ms to the first result {:.1} (load, check, lower {:.1}; compile {:.1})",
        call.graph.len(),
        ms(to_first),
        ms(lowered),
        ms(timings.total())
    )];
    if settings.seconds > 0.0 {
        let mut blocks = Blocks::warm_up(&mut |n| run(&mut program, n)).map_err(failed)?;
        program.take_profile();
        while !blocks.done(settings.seconds) {
            blocks.one(&mut |n| run(&mut program, n)).map_err(failed)?;
        }
        if settings.profile {
            let profile = profile(&mut program, &call.graph, &options, &session.program.sources, blocks.steps, blocks.spent);
            report["profile"] = profile.json();
            lines.push(profile.text());
        }
        let r = rate(blocks.rates, blocks.steps);
        report["ms_per_call"] = json!({ "median": 1e3 / r.median, "low": 1e3 / r.high, "high": 1e3 / r.low });
        lines.push(format!("  {:.4} ms a call (quartiles {:.4} to {:.4}; {} calls)", 1e3 / r.median, 1e3 / r.high, 1e3 / r.low, r.steps));
    }
    say(&if settings.json { report.to_string() } else { lines.join("\n") });
    Ok(())
}

/// The most memory this process has held so far, where the system says it (Linux).
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn rate_json(r: &Rate) -> Value {
    json!({ "median": r.median, "low": r.low, "high": r.high, "blocks": r.blocks, "steps": r.steps })
}

/// `tensors` leaves of a shape; without one, `size` parameters are cut into leaves of nearly equal length.
pub fn leaves(size: usize, tensors: usize, shape: &[usize]) -> Vec<Vec<usize>> {
    if !shape.is_empty() {
        return vec![shape.to_vec(); tensors];
    }
    if size == 0 || tensors == 0 {
        return Vec::new();
    }
    let tensors = tensors.min(size);
    (0..tensors).map(|k| vec![(size * (k + 1)) / tensors - size * k / tensors]).collect()
}

/// Times the update of an optimizer alone: gradients lie in memory and never change.
///
/// # Errors
/// A mistake in the spec or the optimizer.
pub fn optimizer(file: &Path, expression: &str, shapes: &[Vec<usize>], settings: &Settings, messages: &Messages) -> Result<(), Failed> {
    let begin = Instant::now();
    if let Err(why) = crate::session::read_text(file) {
        messages.error("R0101", &format!("cannot read {}: {why}", file.display()), None);
        return Err(Failed);
    }
    let size: usize = shapes.iter().map(|s| s.iter().product::<usize>()).sum();
    if size == 0 || shapes.iter().flatten().any(|&n| n == 0) {
        messages.error("", "`--size`, `--tensors` and what `--shape` lists are at least 1", None);
        return Err(crate::wrong_usage());
    }
    let (program, session, _) = explain::optimizer_step(expression, Some(file), shapes, Stored::F32, settings.threads, messages)?;
    let lowered = begin.elapsed().as_secs_f64();
    let fail = |d: optc_base::Diagnostic| {
        messages.print(&[d], &session.program.sources);
        Failed
    };
    let mut compiler = Compiler::new(settings.threads);
    compiler.profile = settings.profile;
    let threads = compiler.pool().threads();
    let slots = crate::initial::initial_slots(&program, &mut compiler, &Files::default()).map_err(fail)?;
    compiler.timings = Default::default();
    compiler.place = device::open(device::chosen().unwrap_or_default()).map_err(|e| fail(trainer::file_error(&e, program.span)))?;
    check_profile(settings, &compiler.place).map_err(|e| fail(trainer::file_error(&e, program.span)))?;
    let (graph, options) = cost::update_only(&program);
    let mut update = compiler.program(&graph, &options).map_err(|e| {
        messages.error(e.code(), &e.to_string(), None);
        Failed
    })?;
    let timings = compiler.timings;
    // Inputs in the order of the step: slots, gradients, key, hyperparameters, watched values.
    let given: Vec<&Tensor> = program.data.iter().flat_map(|d| d.fields.iter().map(|f| &*d.table.fields[f])).collect();
    // In a training step they lie in the arena.
    let mut gradients = Tensor::zeros_in_a_row(given.iter().map(|g| (g.dtype, &g.shape[..])));
    gradients.iter_mut().zip(given).for_each(|(to, from)| to.bytes_mut().copy_from_slice(from.bytes()));
    optc_abi::pages::prefer_large_together(gradients.iter().map(|g| (g.as_ptr().cast_const(), g.bytes().len())));
    let key = run_key(program.seed);
    let scalars: Vec<Tensor> = program
        .step
        .hyper
        .iter()
        .map(|(_, v)| Tensor::scalar(*v))
        .chain(program.step.watched.iter().map(|_| Tensor::scalar(0f64)))
        .collect();
    let inputs: Vec<&Tensor> = slots.iter().chain(&gradients).chain([&key]).chain(&scalars).collect();
    let _mirrors = Mirrors::new(&compiler.place, inputs.iter().copied()).map_err(|e| fail(trainer::file_error(&e, program.span)))?;
    for (k, tensor) in inputs.iter().enumerate() {
        // SAFETY: the tensors have the types of the graph's inputs and live until the last step; only slots are written, and nobody reads them meanwhile.
        unsafe { update.bind_input(k, tensor.as_ptr()) };
    }
    update.settle();
    let step = |update: &mut Program, n: u64| {
        // SAFETY: all inputs were bound just now, every output overwrites an input.
        unsafe { update.run_times(n) }
    };
    let failed = |e: optc_exec::RunError| fail(trainer::run_error(&e, "the update", program.span));
    let mut blocks = Blocks::warm_up(&mut |n| step(&mut update, n)).map_err(failed)?;
    update.take_profile();
    while !blocks.done(settings.seconds) {
        blocks.one(&mut |n| step(&mut update, n)).map_err(failed)?;
    }
    if settings.profile && update.is_remote() {
        update.time_instructions(true).and_then(|()| step(&mut update, TIMED)).map_err(failed)?;
    }
    let profile = settings.profile.then(|| profile(&mut update, &graph, &options, &session.program.sources, blocks.steps, blocks.spent));
    let r = rate(blocks.rates, blocks.steps);
    let nominal = cost::nominal_bytes(&program);
    let per_step = nominal as f64 / size as f64;
    let bandwidth = |steps_per_second: f64| steps_per_second * nominal as f64 / 1e9;
    if settings.json {
        let mut report = json!({
            "optimizer": expression, "parameters": size, "tensors": shapes.len(), "threads": threads, "nominal_bytes_per_parameter": per_step,
            "ms": { "median": 1e3 / r.median, "low": 1e3 / r.high, "high": 1e3 / r.low },
            "gb_per_second": { "median": bandwidth(r.median), "low": bandwidth(r.low), "high": bandwidth(r.high) },
            "compile_ms": { "load_check_lower": lowered * 1e3, "simplify": timings.simplify.as_secs_f64() * 1e3, "plan": timings.plan.as_secs_f64() * 1e3, "codegen": timings.codegen.as_secs_f64() * 1e3 },
            "blocks": r.blocks, "steps": r.steps, "optc": env!("CARGO_PKG_VERSION"),
        });
        if let Some(profile) = profile {
            report["profile"] = profile.json();
        }
        say(&report.to_string());
    } else {
        say(&format!(
            "{expression}: {size} parameters in {} tensor{}, {threads} thread{}",
            shapes.len(),
            if shapes.len() == 1 { "" } else { "s" },
            if threads == 1 { "" } else { "s" }
        ));
        say(&format!(
            "  {:.3} ms a step (quartiles {:.3} to {:.3}), {:.1} GB/s of {per_step:.0} B per parameter; compiled in {:.1} ms",
            1e3 / r.median,
            1e3 / r.high,
            1e3 / r.low,
            bandwidth(r.median),
            timings.total().as_secs_f64() * 1e3
        ));
        if let Some(profile) = profile {
            say(&profile.text());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_hold_all_parameters() {
        for (size, tensors) in [(10, 3), (7, 1), (5, 9), (1000, 1000)] {
            let shapes = leaves(size, tensors, &[]);
            assert_eq!(shapes.iter().flatten().sum::<usize>(), size);
            assert!(shapes.iter().all(|s| s[0] > 0) && shapes.len() == tensors.min(size));
        }
        assert_eq!(leaves(50, 2, &[3, 4]), [[3, 4], [3, 4]]);
        assert!(leaves(0, 1, &[]).is_empty() && leaves(1, 0, &[]).is_empty());
    }

    #[test]
    fn a_rate_is_the_median_of_its_blocks() {
        let r = rate(vec![5.0, 1.0, 3.0, 2.0, 4.0], 9);
        assert_eq!((r.median, r.low, r.high, r.blocks, r.steps), (3.0, 2.0, 4.0, 5, 9));
    }
}
