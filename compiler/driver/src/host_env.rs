//! The outside world of the host script: files, compiled code, training runs, and what is shown.

use crate::cache::Compiler;
use crate::pipeline::CompileOptions;
use crate::trainer::{self, Surroundings, file_error, run_error};
use indexmap::IndexMap;
use optc_abi::Tensor;
use optc_base::{Code, Diagnostic, Span};
use optc_elab::TrainProgram;
use optc_elab::host::{self, Chart, Curve, Fact, HostEnv, Loaded, Output, ProcessRequest, RunResult, SourceRequest};
use optc_ir::Graph;
use optc_train::report::{Check, Report, RunSummary, Section};
use optc_train::{Cell, Line, Package, Plot, Table, progress};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Options of a session that runs things.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads; 0 is all cores.
    pub threads: usize,
    /// No progress and no output but failures.
    pub quiet: bool,
    /// Whether standard output is colored.
    pub color: bool,
    /// The root spec's path.
    pub spec: PathBuf,
    /// Its text.
    pub text: String,
}

/// Counts of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// That held.
    pub passed: usize,
    /// That did not.
    pub failed: usize,
}

/// The driver's [`HostEnv`].
pub struct Driver {
    settings: Settings,
    /// Compiles graphs, keeps their code.
    pub compiler: Compiler,
    sources: IndexMap<(String, PathBuf), Loaded>,
    start: Instant,
    plots: IndexMap<String, usize>,
    /// What a report would show.
    pub sections: Vec<Section>,
    /// Checks so far.
    pub checks: Checks,
    /// Failed checks: claim and what was found.
    pub failures: Vec<(String, String, Span)>,
    /// Folders runs have written to.
    written: trainer::Written,
    /// Processes that the script talks to.
    processes: optc_train::process::Processes,
    /// Where files are read from in place of the disk.
    package: Option<Arc<Package>>,
    /// What was saved.
    saved: Vec<PathBuf>,
    /// Whether numbers of csv files are read in double precision, as f64.
    pub wide_csv: bool,
}

impl Driver {
    /// A fresh environment.
    pub fn new(settings: Settings) -> Driver {
        Driver {
            compiler: Compiler::new(settings.threads),
            settings,
            sources: IndexMap::new(),
            start: Instant::now(),
            plots: IndexMap::new(),
            sections: Vec::new(),
            checks: Checks::default(),
            failures: Vec::new(),
            written: Vec::new(),
            processes: optc_train::process::Processes::default(),
            package: None,
            saved: Vec::new(),
            wide_csv: false,
        }
    }

    /// An environment that reads files from a package, but for those that runs have written, and writes to the current folder.
    #[must_use]
    pub fn reading(mut self, package: Arc<Package>) -> Driver {
        self.package = Some(package);
        self
    }

    /// Files and folders that data was read from, on disk.
    pub fn data_files(&self) -> impl Iterator<Item = &Path> {
        self.sources.keys().map(|(_, path)| path.as_path())
    }

    /// Where relative paths begin to which a spec of this name writes.
    fn base(&self, from: &str) -> PathBuf {
        if self.package.is_some() { PathBuf::from(".") } else { folder_of(Path::new(from)) }
    }

    /// Reads a source that lies at `path`, as seen from the spec.
    fn source(&self, request: &SourceRequest, path: &Path) -> optc_train::Result<optc_train::Source> {
        let source = match &self.package {
            None if self.wide_csv && &*request.kind == "csv" => Some(optc_train::data::read_wide(path)),
            None => optc_train::data::read(&request.kind, path),
            Some(package) => {
                let own = plain(&self.base(&request.from).join(&*request.path));
                let mut made = self.saved.iter().chain(self.written.iter().map(|(_, folder, _)| folder));
                if made.any(|made| own.starts_with(plain(made)) || plain(made).starts_with(&own)) {
                    optc_train::data::read(&request.kind, &own)
                } else {
                    optc_train::data::read_packed(package, &request.kind, &plain(path))
                }
            }
        };
        source.expect("the language's sources are those that can be read")
    }

    /// The folder relative paths of the spec start in.
    pub fn folder(&self) -> PathBuf {
        folder_of(&self.settings.spec)
    }

    /// Writes a line to standard output; nobody is left to tell if that is closed.
    fn say(&self, line: &str) {
        if !self.settings.quiet {
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }

    /// The report of everything that ran.
    pub fn report(&self, title: &str, command: &str, date: &str) -> Report {
        let facts = vec![
            ("optc".to_string(), env!("CARGO_PKG_VERSION").to_string()),
            ("threads".to_string(), self.compiler.pool().threads().to_string()),
            ("seconds".to_string(), format!("{:.1}", self.start.elapsed().as_secs_f64())),
        ];
        Report {
            title: title.to_string(),
            spec_name: self.settings.spec.display().to_string(),
            spec: self.settings.text.clone(),
            command: command.to_string(),
            date: date.to_string(),
            facts,
            sections: self.sections.clone(),
        }
    }

    fn plot_of(chart: Chart, title: &str) -> Plot {
        Plot {
            title: if chart.title.is_empty() { title.to_string() } else { chart.title },
            x_label: chart.x_label,
            y_label: chart.y_label,
            log_x: chart.log_x,
            log_y: chart.log_y,
            lines: chart.curves.into_iter().map(|c| Line { name: c.name, curves: c.runs }).collect(),
            points: chart.points,
            heat: chart.heat.map(|(rows, values)| optc_train::plot::Heat { rows, values }),
        }
    }

    fn summarize(&mut self, program: &TrainProgram, result: &RunResult) {
        let steps = result.ran;
        let mut settings = vec![("steps".to_string(), program.steps.to_string()), ("seed".to_string(), program.seed.to_string())];
        if program.data.is_some() {
            settings.push(("batch".into(), program.batch.to_string()));
        }
        settings.extend(program.step.hyper.iter().map(|(n, v)| (n.clone(), optc_abi::number::shown(*v, optc_train::table::DIGITS))));
        let parameters: usize = program.slots.iter().filter(|s| s.kind == optc_elab::program::SlotKind::Param).map(|s| s.ty.len()).sum();
        settings.push(("parameters".into(), parameters.to_string()));
        let mut results: Vec<(String, String)> = result
            .series
            .iter()
            .filter_map(|(n, s)| s.values.last().map(|v| (n.clone(), optc_abi::number::shown(*v, optc_train::table::DIGITS))))
            .collect();
        results.push(("seconds".into(), format!("{:.2}", result.seconds)));
        results
            .push(("steps per second".into(), optc_abi::number::shown(steps as f64 / result.seconds.max(1e-9), optc_train::table::DIGITS)));
        let plots = result
            .series
            .iter()
            .filter(|(_, s)| s.values.len() > 1)
            .map(|(n, s)| {
                let points = s.steps.iter().map(|&step| step as f64).zip(s.values.iter().copied()).collect();
                let curves = vec![Curve { name: n.clone(), runs: vec![points] }];
                let log_y = s.values.iter().all(|&v| v > 0.0);
                Self::plot_of(Chart { curves, x_label: "step".into(), y_label: n.clone(), log_y, ..Chart::default() }, n)
            })
            .collect();
        self.sections.push(Section::Run(RunSummary { name: program.name.clone(), settings, results, plots }));
    }
}

/// A value as the runtime writes it.
fn saved(value: host::Saved) -> optc_train::save::Value {
    use optc_train::save::Value;
    match value {
        host::Saved::Tensor(t) => Value::Tensor(t),
        host::Saved::Series(s) => Value::Series(optc_train::Series::from_parts(s.steps, s.values)),
        host::Saved::Number(x) => Value::Number(x),
        host::Saved::Bool(b) => Value::Bool(b),
        host::Saved::Text(t) => Value::Text(t),
        host::Saved::List(items) => Value::List(items.into_iter().map(saved).collect()),
        host::Saved::Record(fields) => Value::Record(fields.into_iter().map(|(n, v)| (n, saved(v))).collect()),
    }
}

/// A path as files of a package are named.
fn plain(path: &Path) -> PathBuf {
    PathBuf::from(crate::session::canonical(path))
}

/// The folder a file lies in.
pub fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// What stands between a script and its [`Driver`]: what it says nothing of is the driver's.
pub trait Between {
    /// The driver.
    fn driver(&mut self) -> &mut Driver;
    /// See [`HostEnv::load`].
    ///
    /// # Errors
    /// As there.
    fn load(&mut self, request: &SourceRequest) -> Result<Loaded, Diagnostic> {
        self.driver().load(request)
    }
    /// See [`HostEnv::train`].
    ///
    /// # Errors
    /// As there.
    fn train(&mut self, program: TrainProgram) -> Result<RunResult, Diagnostic> {
        self.driver().train(program)
    }
    /// See [`HostEnv::ask`].
    ///
    /// # Errors
    /// As there.
    fn ask(&mut self, request: &ProcessRequest) -> Result<(serde_json::Value, String), Diagnostic> {
        self.driver().ask(request)
    }
    /// See [`HostEnv::output`].
    ///
    /// # Errors
    /// As there.
    fn output(&mut self, output: Output) -> Result<(), Diagnostic>;
}

/// The environment of a script with something between it and the driver.
pub struct With<T>(pub T);

impl<T: Between> HostEnv for With<T> {
    fn execute(&mut self, graph: &Graph, inputs: &[Arc<Tensor>]) -> Result<Vec<Tensor>, Diagnostic> {
        self.0.driver().execute(graph, inputs)
    }
    fn load(&mut self, request: &SourceRequest) -> Result<Loaded, Diagnostic> {
        self.0.load(request)
    }
    fn split(&mut self, n: usize, fractions: &[f64], seed: Option<u64>) -> Vec<Vec<usize>> {
        self.0.driver().split(n, fractions, seed)
    }
    fn train(&mut self, program: TrainProgram) -> Result<RunResult, Diagnostic> {
        self.0.train(program)
    }
    fn ask(&mut self, request: &ProcessRequest) -> Result<(serde_json::Value, String), Diagnostic> {
        self.0.ask(request)
    }
    fn output(&mut self, output: Output) -> Result<(), Diagnostic> {
        self.0.output(output)
    }
    fn now(&mut self) -> f64 {
        self.0.driver().now()
    }
}

impl HostEnv for Driver {
    fn execute(&mut self, graph: &Graph, inputs: &[Arc<Tensor>]) -> Result<Vec<Tensor>, Diagnostic> {
        let span = graph.outputs.first().map_or(Span::default(), |&o| graph.origin(o).span);
        let mut program = self.compiler.program(graph, &CompileOptions::once()).map_err(|e| crate::trainer::backend_error(&e, span))?;
        let mut outputs = Vec::new();
        for (k, tensor) in inputs.iter().enumerate() {
            // SAFETY: no output is aliased, so inputs are only read; they have the graph's types and live through the run.
            unsafe { program.bind_input(k, tensor.as_ptr()) };
        }
        let slots = program.plan().outputs.clone();
        for (k, slot) in slots.iter().enumerate() {
            let tensor = Tensor::zeros(slot.dtype, &slot.shape);
            // SAFETY: as above.
            unsafe { program.bind_output(k, tensor.as_ptr()) };
            outputs.push(tensor);
        }
        // SAFETY: everything was bound just now.
        unsafe { program.run_bound() }.map_err(|e| run_error(&e, "this computation", span))?;
        Ok(outputs)
    }

    fn load(&mut self, request: &SourceRequest) -> Result<Loaded, Diagnostic> {
        let path = folder_of(Path::new(&*request.from)).join(&*request.path);
        let key = (request.kind.to_string(), path.clone());
        if let Some(loaded) = self.sources.get(&key) {
            return Ok(loaded.clone());
        }
        let source = self.source(request, &path).map_err(|e| file_error(&e, request.span))?;
        let loaded = match source {
            optc_train::Source::Array { array, facts } => {
                let fact = |f| match f {
                    optc_train::Fact::Number(n) => Fact::Number(n),
                    optc_train::Fact::Names(names) => Fact::Names(names),
                    optc_train::Fact::Array(t) => Fact::Array(t),
                };
                Loaded::Array { array, facts: Arc::new(facts.into_iter().map(|(name, f)| (Arc::from(name), fact(f))).collect()) }
            }
            optc_train::Source::Arrays(arrays, tree) => {
                Loaded::Arrays(Arc::new(arrays.into_iter().map(|(n, t)| (Arc::from(n), t)).collect()), tree.map(Arc::from))
            }
        };
        self.sources.insert(key, loaded.clone());
        Ok(loaded)
    }

    fn split(&mut self, n: usize, fractions: &[f64], seed: Option<u64>) -> Vec<Vec<usize>> {
        let named: Vec<(String, f64)> = fractions.iter().enumerate().map(|(k, &f)| (k.to_string(), f)).collect();
        match optc_train::split::cut(n, &named, seed) {
            Ok(parts) => parts.into_values().collect(),
            // A part too small for one example is empty; whoever uses it says so.
            Err(_) => fractions.iter().map(|_| Vec::new()).collect(),
        }
    }

    fn train(&mut self, program: TrainProgram) -> Result<RunResult, Diagnostic> {
        let folder = self.base(&program.file);
        let spec_hash = optc_train::report::sha256(self.settings.text.as_bytes());
        let progress = progress::Mode::detect(self.settings.quiet);
        let mut around = Surroundings { compiler: &mut self.compiler, folder, spec_hash, progress, written: &mut self.written };
        let result = trainer::train(&program, &mut around)?;
        self.summarize(&program, &result);
        if result.interrupted {
            let step = result.steps;
            let kept = if program.checkpoint.is_some() { "; a checkpoint holds its state, `--resume` goes on from it" } else { "" };
            return Err(Diagnostic::error(Code("R0204"), program.span, format!("interrupted after step {step}{kept}")));
        }
        Ok(result)
    }

    fn ask(&mut self, request: &ProcessRequest) -> Result<(serde_json::Value, String), Diagnostic> {
        let folder = self.base(&request.from);
        let file = |path: &Option<Arc<str>>| path.as_ref().map(|p| folder.join(&**p));
        if let (Some(package), Some(log), Some(path)) = (&self.package, file(&request.replay), &request.replay)
            && !self.processes.has_log(&log)
        {
            let name = plain(&folder_of(Path::new(&*request.from)).join(&**path));
            let text = package.file(&name.to_string_lossy()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            text.and_then(|text| self.processes.give_log(&log, &text)).map_err(|e| file_error(&e, request.span))?;
        }
        let command = optc_train::process::Command {
            line: request.command.to_string(),
            timeout: std::time::Duration::from_secs_f64(request.timeout),
            record: file(&request.record),
            replay: file(&request.replay),
            folder,
        };
        let reply = self.processes.ask(&command, &request.message).map_err(|e| file_error(&e, request.span))?;
        Ok((reply.value, reply.line))
    }

    fn output(&mut self, output: Output) -> Result<(), Diagnostic> {
        match output {
            Output::Print(line) => {
                self.say(&line);
                match self.sections.last_mut() {
                    Some(Section::Printed(lines)) => lines.push(line),
                    _ => self.sections.push(Section::Printed(vec![line])),
                }
            }
            Output::Table(columns, rows) => {
                let mut table = Table::new(columns);
                for row in rows {
                    table.push(row.into_iter().map(|c| match c {
                        host::Cell::Number(x) => Cell::Number(x),
                        host::Cell::Text(t) => Cell::Text(t),
                    }));
                }
                self.say(&table.text());
                self.sections.push(Section::Table(table));
            }
            Output::Plot { experiment, chart } => {
                let count = self.plots.entry(experiment.clone()).or_insert(0);
                let suffix = if *count == 0 { String::new() } else { format!("_{count}") };
                *count += 1;
                let plot = Self::plot_of(chart, &experiment);
                for extension in ["png", "svg"] {
                    let path = self.folder().join("out").join(format!("{experiment}{suffix}.{extension}"));
                    plot.write(&path).map_err(|e| file_error(&e, Span::default()))?;
                    if extension == "png" {
                        self.say(&format!("plot: {}", path.display()));
                    }
                }
                self.sections.push(Section::Plot(plot));
            }
            Output::Save { path, from, value, tree } => {
                let target = self.base(&from).join(&path);
                // What was read from there before, or from a folder it lies in, is out of date.
                let named = folder_of(Path::new(&*from)).join(&path);
                self.sources.retain(|(_, path), _| !named.starts_with(path));
                optc_train::save::save(&target, &saved(value), tree).map_err(|e| file_error(&e, Span::default()))?;
                if self.package.is_some() {
                    self.saved.push(target.clone());
                }
                self.say(&format!("saved: {}", target.display()));
            }
            Output::Check { claim, times, failures, detail, span } => {
                let (green, red, off) = if self.settings.color { ("\x1b[32m", "\x1b[1;31m", "\x1b[0m") } else { ("", "", "") };
                self.checks.passed += times - failures;
                self.checks.failed += failures;
                let passed = failures == 0;
                if passed {
                    let count = if times > 1 { format!(" ({times} times)") } else { String::new() };
                    self.say(&format!("{green}ok{off}    {claim}{count}"));
                } else {
                    self.failures.push((claim.clone(), detail.clone(), span));
                    // A failed check is worth saying even when quiet.
                    let _ = writeln!(std::io::stdout().lock(), "{red}FAIL{off}  {claim}: {detail}");
                }
                let check = Check { claim, passed, detail };
                match self.sections.last_mut() {
                    Some(Section::Checks(all)) => all.push(check),
                    _ => self.sections.push(Section::Checks(vec![check])),
                }
            }
        }
        Ok(())
    }

    fn now(&mut self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}
