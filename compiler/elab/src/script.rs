//! The host script: `run`, results and their fields, and the entry points of experiments and trains.

use crate::data::CheckedData;
use crate::evaluator::{Eval, Evaluator, Mode};
use crate::given::{FunctionProgram, GivenArg};
use crate::grad::arrays_of;
use crate::host::{DataTable, HostEnv, RunResult};
use crate::optimizer::{AloneLeaf, AloneOptions, AloneProgram};
use crate::scope::Scope;
use crate::settings::Overrides;
use crate::sources::SourceFacts;
use crate::value::{BlockValue, CallArg, FnValue, OptimizerValue, RunValue, Series, Value};
use indexmap::IndexMap;
use optc_abi::Tensor;
use optc_base::{Code, Diagnostic, SourceId, Span};
use optc_front::ast::{BlockEntry, BlockKind, Expr, ExprKind, ItemKind, LetKind, Name};
use optc_front::{ItemRef, ModuleId, Program};
use optc_ir::Graph;
use optc_ops::Array;
use rustc_hash::FxHashMap;
use std::rc::Rc;
use std::sync::Arc;

/// What the host script keeps between statements.
#[derive(Default)]
pub struct ScriptState {
    /// What the command line asks of runs.
    pub settings: RunSettings,
    /// The experiment that runs.
    pub experiment: String,
    /// Loaded data blocks by item and arguments.
    pub tables: FxHashMap<String, Rc<DataTable>>,
    /// Data blocks seen while checking.
    pub checked: FxHashMap<ItemRef, Rc<CheckedData>>,
    /// What is known of arrays that sources gave.
    pub sources: SourceFacts,
    /// What lists have grown by since the last pass of a loop ended: computed with what the pass carries.
    pub(crate) pushed: Vec<Value>,
    /// Claims made in the loops that run.
    pub(crate) claims: crate::claims::Claims,
    /// How near the sides of `~=` must be in the `check` at hand.
    pub(crate) tolerance: crate::claims::Tolerance,
}

/// What the command line asks of runs.
#[derive(Clone, Debug, Default)]
pub struct RunSettings {
    /// `--set name=value`: dotted name and the value's text as a source of its own.
    pub set: Vec<(String, Expr, SourceId)>,
    /// Constants of the spec with another value, and its text.
    pub constants: Vec<(String, String)>,
    /// `--seed`
    pub seed: Option<u64>,
    /// `--resume`
    pub resume: bool,
}

/// What evaluates the script in the outside world `host`.
fn scripted<'p>(program: &'p Program, settings: &'p RunSettings, host: &'p mut dyn HostEnv) -> Evaluator<'p> {
    let mut ev = Evaluator::new(program, Mode::Host);
    ev.host = Some(host);
    ev.script.settings = settings.clone();
    ev
}

/// Runs an experiment.
///
/// # Errors
/// All that was found wrong; failed `check`s are outputs, not errors.
pub fn run_experiment<'p>(
    program: &'p Program,
    item: ItemRef,
    settings: &'p RunSettings,
    host: &'p mut dyn HostEnv,
) -> Result<(), Vec<Diagnostic>> {
    let mut ev = scripted(program, settings, host);
    let ItemKind::Experiment(experiment) = &program.item(item).kind else { panic!("compiler bug: not an experiment") };
    ev.script.experiment = experiment.name.text.to_string();
    let result = (|| {
        let args = ev.set_arguments(&experiment.params)?;
        let mut scope = ev.bind_block_params(item.module, &experiment.name, &experiment.params, &args, experiment.name.span)?;
        ev.block(&mut scope, &experiment.body)
    })();
    finish(ev, result.map(|_| ()))
}

/// Runs a `train` block as it stands.
///
/// # Errors
/// All that was found wrong.
pub fn run_train<'p>(
    program: &'p Program,
    item: ItemRef,
    settings: &'p RunSettings,
    host: &'p mut dyn HostEnv,
) -> Result<RunResult, Vec<Diagnostic>> {
    let mut ev = scripted(program, settings, host);
    let span = program.item(item).name().map_or(Span::default(), |n| n.span);
    let mut out = RunResult::default();
    let block = BlockValue { item, args: Vec::new(), split: None };
    let result = ev.train(&block, Vec::new(), span).map(|run| out = run.result.clone());
    finish(ev, result).map(|()| out)
}

/// Lowers a `train` block without running it, for `explain` and `bench`.
///
/// # Errors
/// All that was found wrong.
pub fn lower_only<'p>(
    program: &'p Program,
    item: ItemRef,
    settings: &'p RunSettings,
    host: &'p mut dyn HostEnv,
) -> Result<crate::TrainProgram, Vec<Diagnostic>> {
    let mut ev = scripted(program, settings, host);
    let span = program.item(item).name().map_or(Span::default(), |n| n.span);
    let block = BlockValue { item, args: Vec::new(), split: None };
    let mut out = None;
    let result = (|| {
        let overrides = ev.with_command_line(&block, Vec::new())?;
        let setup = ev.read_train(&block, &overrides, span)?;
        out = Some(ev.lower_train(&setup)?);
        Ok(())
    })();
    finish(ev, result)?;
    Ok(out.expect("lowering succeeded"))
}

/// A call of a function: what is compiled, and the values it is given.
pub struct LoweredCall {
    /// The computation.
    pub graph: Graph,
    /// Values of the graph's inputs.
    pub inputs: Vec<Arc<Tensor>>,
}

/// Lowers a call of a function with the defaults of its parameters, which are computed beforehand, for `explain` and `bench`.
///
/// # Errors
/// All that was found wrong; a parameter without default; a result without arrays.
pub fn lower_call<'p>(
    program: &'p Program,
    item: ItemRef,
    settings: &'p RunSettings,
    host: &'p mut dyn HostEnv,
) -> Result<LoweredCall, Vec<Diagnostic>> {
    let mut ev = scripted(program, settings, host);
    let ItemKind::Fn(function) = &program.item(item).kind else { panic!("compiler bug: not a function") };
    let span = function.name.span;
    let mut out = None;
    let result = (|| {
        let sig = ev.bind_sig(&function.name, item.module, &function.params, Vec::new(), span)?;
        let mut args = Vec::with_capacity(function.params.len());
        for p in &function.params {
            if let Some(found) = sig.scope.get(&p.name.text) {
                let value = found.value.clone();
                ev.force_tree(&value, span)?;
                args.push(CallArg { name: Some(p.name.text.clone()), value, span });
            }
        }
        let result = ev.apply(&Value::Fn(Rc::new(FnValue::Item(item))), args, span)?;
        let arrays: Vec<Array> = arrays_of(&result).into_iter().filter(|a| a.node.is_some()).collect();
        if arrays.is_empty() {
            return ev.fail(
                Diagnostic::error(Code("E0349"), span, format!("`{}` computes no array", function.name.text))
                    .help("a function that gives an array, a scalar that depends on one, or a tree of these can be looked at"),
            );
        }
        let (graph, inputs) = ev.depending(&arrays, span)?;
        out = Some(LoweredCall { graph, inputs });
        Ok(())
    })();
    finish(ev, result)?;
    Ok(out.expect("lowering succeeded"))
}

/// Lowers an optimizer of the spec, all of whose parameters have defaults, for leaves that come from outside.
///
/// # Errors
/// All that was found wrong.
pub fn lower_optimizer<'p>(
    program: &'p Program,
    item: ItemRef,
    leaves: &[AloneLeaf],
    options: AloneOptions,
    settings: &'p RunSettings,
    host: &'p mut dyn HostEnv,
) -> Result<AloneProgram, Vec<Diagnostic>> {
    let mut ev = scripted(program, settings, host);
    let span = program.item(item).name().map_or(Span::default(), |n| n.span);
    let optimizer = OptimizerValue::Single { item, args: Vec::new(), span };
    let mut out = None;
    let result = ev.lower_alone(&optimizer, leaves, options, span).map(|lowered| out = Some(lowered));
    finish(ev, result)?;
    Ok(out.expect("lowering succeeded"))
}

/// Lowers a call of a function (`fn` or `loss`) of the spec from outside; `call` is its text.
///
/// # Errors
/// All that was found wrong.
pub fn lower_function<'p>(
    program: &'p Program,
    item: ItemRef,
    args: &[GivenArg],
    call: Span,
    settings: &'p RunSettings,
    host: &'p mut dyn HostEnv,
) -> Result<FunctionProgram, Vec<Diagnostic>> {
    let mut ev = scripted(program, settings, host);
    let mut out = None;
    let result = ev.lower_function(item, args, call).map(|lowered| out = Some(lowered));
    finish(ev, result)?;
    Ok(out.expect("lowering succeeded"))
}

/// The data set that an expression of a module names, loaded.
///
/// # Errors
/// All that was found wrong.
pub fn data_table<'p>(
    program: &'p Program,
    module: ModuleId,
    e: &Expr,
    settings: &'p RunSettings,
    host: &'p mut dyn HostEnv,
) -> Result<Rc<DataTable>, Vec<Diagnostic>> {
    let mut ev = scripted(program, settings, host);
    let mut out = None;
    let result = ev.data_in(&mut Scope::new(module), e).map(|table| out = Some(table));
    finish(ev, result)?;
    Ok(out.expect("it was loaded"))
}

fn finish(ev: Evaluator<'_>, result: Eval<()>) -> Result<(), Vec<Diagnostic>> {
    if result.is_err() || ev.diagnostics.iter().any(|d| d.severity == optc_base::Severity::Error) {
        return Err(ev.diagnostics);
    }
    Ok(())
}

impl<'p> Evaluator<'p> {
    /// The outside world.
    ///
    /// # Errors
    /// Outside the host script.
    pub(crate) fn host_env(&mut self, span: Span) -> Eval<&mut (dyn HostEnv + 'p)> {
        if self.host.is_none() {
            return self.fail(
                Diagnostic::error(Code("E0349"), span, "this can only be done in an experiment or data block")
                    .help("files and runs belong to the host script"),
            );
        }
        match self.host.as_deref_mut() {
            Some(host) => Ok(host),
            None => unreachable!("checked above"),
        }
    }

    /// The values of a series as an array.
    pub(crate) fn series_array(&mut self, series: &Series) -> Array {
        self.literal(Tensor::from_f64(self.cx.float, &[series.values.len()], &series.values))
    }

    /// Trains a block with overrides.
    pub(crate) fn train(&mut self, block: &BlockValue, overrides: Overrides, span: Span) -> Eval<RunValue> {
        let drawn = self.draws;
        let overrides = self.with_command_line(block, overrides)?;
        let setup = self.read_train(block, &overrides, span)?;
        let mut program = self.lower_train(&setup)?;
        program.variant = self.variant(block, &overrides, span)?;
        let float = setup.working();
        let leaf_names: Vec<String> = program.leaves().iter().map(|&k| program.slots[k].name.clone()).collect();
        // What a run draws is its own.
        self.draws = drawn;
        let result = match self.host_env(span)?.train(program) {
            Ok(r) => r,
            Err(d) => return self.fail(d),
        };
        let mut models = IndexMap::new();
        for (name, model) in &setup.models {
            let prefix = format!("{name}.");
            let mut leaves = Vec::new();
            for (path, weight) in leaf_names.iter().zip(&result.weights) {
                if let Some(path) = path.strip_prefix(&prefix) {
                    let stored = setup.stored_as(name).is_some() && weight.dtype.is_float();
                    let weight = if stored { Arc::new(weight.cast(float)) } else { weight.clone() };
                    leaves.push((Arc::from(path), self.literal(weight)));
                }
            }
            let bound = match self.bind_model(model, &leaves) {
                Value::Model(m) => Value::Model(Rc::new(crate::value::ModelValue { float: Some(setup.precision), ..(*m).clone() })),
                other => other,
            };
            models.insert(name.clone(), bound);
        }
        Ok(RunValue { result, models })
    }

    /// `run T with { … }`
    pub(crate) fn run_expr(&mut self, scope: &mut Scope, target: &Expr, with: Option<&Expr>, span: Span) -> Eval {
        let value = self.expr(scope, target)?;
        let block = match value {
            Value::Block(b) => b,
            Value::Unknown => return Ok(Value::Unknown),
            _ => {
                return self.fail(
                    Diagnostic::error(Code("E0526"), target.span, "this is not a train block")
                        .help("`run` takes the name of a `train` block"),
                );
            }
        };
        let mut overrides = Overrides::new();
        if let Some(with) = with {
            match &with.kind {
                ExprKind::Record(fields) => {
                    for (path, e) in fields {
                        let name: Vec<&str> = path.iter().map(|n| &*n.text).collect();
                        let value = match &e.kind {
                            ExprKind::Name(n) if &**n == "all" && scope.get("all").is_none() => Value::None,
                            _ => self.expr(scope, e)?,
                        };
                        self.add_override(&block, name.join("."), value, e.span, &mut overrides);
                    }
                }
                _ => match self.expr(scope, with)? {
                    Value::Record(fields) => {
                        for (name, value) in fields.iter() {
                            self.add_override(&block, name.to_string(), value.clone(), with.span, &mut overrides);
                        }
                    }
                    Value::Unknown => {}
                    _ => {
                        return self.fail(
                            Diagnostic::error(Code("E0333"), with.span, "what follows `with` is a record")
                                .help("`with { seed = 1, steps = 200 }`"),
                        );
                    }
                },
            }
        }
        if self.mode == Mode::Check {
            self.read_train(&block, &overrides, span)?;
            return Ok(Value::Unknown);
        }
        if self.mode != Mode::Host {
            return self
                .fail(Diagnostic::error(Code("E0349"), span, "`run` belongs to the host script").help("move it to an `experiment`"));
        }
        let run = self.train(&block, overrides, span)?;
        Ok(Value::Run(Rc::new(run)))
    }

    /// Adds what `with` sets: `net = { hidden = 3 }`, where `net` is a model, is `net.hidden = 3`.
    fn add_override(&self, block: &BlockValue, name: String, value: Value, span: Span, out: &mut Overrides) {
        let ItemKind::Block(item) = &self.program.item(block.item).kind else { return };
        let is_model = item.entries.iter().any(|e| match e {
            BlockEntry::Setting(s) => {
                &*s.word.text == "model" && s.values.iter().any(|(n, _)| n.as_ref().is_some_and(|n| *n.text == *name))
            }
            _ => false,
        });
        match value {
            Value::Record(fields) if is_model => {
                out.extend(fields.iter().map(|(field, v)| (format!("{name}.{field}"), v.clone(), span)));
            }
            _ => out.push((name, value, span)),
        }
    }

    /// A field of a value only the script has; `None` if the value is of another kind.
    pub(crate) fn host_field(&mut self, value: &Value, field: &Name) -> Eval<Option<Value>> {
        let found = match value {
            Value::Run(run) => {
                if let Some(model) = run.models.get(&field.text) {
                    model.clone()
                } else if let Some(series) = run.result.series.get(&*field.text) {
                    Value::Series(Rc::new(series.clone()))
                } else if &*field.text == "seconds" {
                    Value::Float(Some(run.result.seconds))
                } else if let (Some(moved), "offload") = (&run.result.offload, &*field.text) {
                    Value::Record(Rc::new(moved.iter().map(|(name, x)| (Arc::from(*name), Value::Float(Some(*x)))).collect()))
                } else if let Some(group) = series_below(&run.result.series, &field.text) {
                    group
                } else {
                    let mut names: Vec<&str> = run.models.keys().map(|k| &**k).collect();
                    names.extend(run.result.series.keys().map(|k| k.as_str()));
                    names.push("seconds");
                    names.extend(run.result.offload.is_some().then_some("offload"));
                    let d = Diagnostic::error(Code("E0224"), field.span, format!("a run has no `{}`", field.text));
                    return self.fail(match crate::names::nearest(&field.text, names.iter().copied()) {
                        Some(near) => d.help(format!("did you mean `{near}`")),
                        None => d.help(format!("it has {}", names.join(", "))),
                    });
                }
            }
            Value::Series(series) => {
                let number = |x: Option<f64>| Value::Float(Some(x.unwrap_or(f64::NAN)));
                let finite = || series.values.iter().copied();
                match &*field.text {
                    "last" => number(series.values.last().copied()),
                    "first" => number(series.values.first().copied()),
                    "min" => number(finite().reduce(f64::min)),
                    "max" => number(finite().reduce(f64::max)),
                    "steps" => {
                        let steps: Vec<i32> = series.steps.iter().map(|&s| s as i32).collect();
                        Value::Array(self.literal(Tensor::from_slice(&[steps.len()], &steps)))
                    }
                    "values" => Value::Array(self.series_array(series)),
                    _ => {
                        return self.fail(
                            Diagnostic::error(Code("E0224"), field.span, format!("a series has no `{}`", field.text))
                                .help("it has last, first, min, max, steps and values"),
                        );
                    }
                }
            }
            Value::Block(block) => match &self.program.item(block.item).kind {
                ItemKind::Block(b) if b.kind == BlockKind::Data => self.data_field(block, field)?,
                _ => {
                    return self.fail(
                        Diagnostic::error(Code("E0224"), field.span, "a train block has no fields").help("run it first: `(run T).loss`"),
                    );
                }
            },
            Value::List(items)
                if items.iter().any(|v| matches!(v, Value::Run(_) | Value::Series(_) | Value::Record(_) | Value::Unknown)) =>
            {
                let mut out = Vec::with_capacity(items.len());
                for item in items.iter() {
                    let one = match self.host_field(item, field)? {
                        Some(v) => v,
                        None => self.plain_field(item, field)?,
                    };
                    out.push(one);
                }
                Value::List(Rc::new(out))
            }
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    /// A field of a record or an unknown value.
    fn plain_field(&mut self, value: &Value, field: &Name) -> Eval {
        match value {
            Value::Record(fields) => match fields.get(&field.text) {
                Some(v) => Ok(v.clone()),
                None => self.error("E0224", field.span, format!("there is no field `{}`", field.text)),
            },
            Value::Unknown => Ok(Value::Unknown),
            _ => self.error("E0224", field.span, format!("this value has no field `{}`", field.text)),
        }
    }

    /// Checks a `train` block with symbolic sizes.
    pub(crate) fn check_train(&mut self, item: ItemRef) -> Eval<()> {
        let span = self.program.item(item).name().map_or(Span::default(), |n| n.span);
        let block = BlockValue { item, args: Vec::new(), split: None };
        let setup = self.read_train(&block, &Overrides::new(), span)?;
        self.check_setup(&setup)
    }

    /// Checks a `data` block.
    pub(crate) fn check_data_item(&mut self, item: ItemRef) -> Eval<()> {
        let span = self.program.item(item).name().map_or(Span::default(), |n| n.span);
        self.check_data(&BlockValue { item, args: Vec::new(), split: None }, span).map(|_| ())
    }

    /// Checks an experiment.
    pub(crate) fn check_experiment(&mut self, item: ItemRef) -> Eval<()> {
        let program = self.program;
        let ItemKind::Experiment(experiment) = &program.item(item).kind else { return Ok(()) };
        let mut scope = self.bind_block_params(item.module, &experiment.name, &experiment.params, &[], experiment.name.span)?;
        let script = std::mem::replace(&mut self.in_script, true);
        let result = self.block(&mut scope, &experiment.body);
        self.in_script = script;
        result.map(|_| ())
    }

    /// Binds the variable of a `sweep` to each value of its domain.
    pub(crate) fn sweep(&mut self, scope: &mut Scope, name: &Name, domain: &Expr, body: &optc_front::ast::Block) -> Eval {
        let points = self.sweep_points(scope, domain)?;
        self.in_script_loop(|ev| {
            for x in points {
                scope.push();
                scope.bind(name.text.clone(), x, LetKind::Let, name.span);
                let (yields, exits) = (std::mem::take(&mut ev.yields), std::mem::take(&mut ev.exits));
                let result = ev.block(scope, body);
                (ev.yields, ev.exits) = (yields, exits);
                scope.pop();
                result?;
            }
            Ok(Value::None)
        })
    }

    fn sweep_points(&mut self, scope: &mut Scope, domain: &Expr) -> Eval<Vec<Value>> {
        if let ExprKind::Call { callee, args } = &domain.kind
            && let ExprKind::Name(f) = &callee.kind
            && ["log", "linear"].contains(&&**f)
            && args.len() == 3
        {
            let mut x = [0.0; 3];
            for (x, arg) in x.iter_mut().zip(args) {
                let v = self.expr(scope, &arg.value)?;
                *x = self.host_number(&v, arg.value.span)?;
            }
            let n = x[2];
            if n.is_nan() {
                return Ok(vec![Value::Float(None)]);
            }
            if n < 1.0 || n.fract() != 0.0 || (&**f == "log" && (x[0] <= 0.0 || x[1] <= 0.0)) {
                return self.fail(
                    Diagnostic::error(
                        Code("E0516"),
                        domain.span,
                        "a sweep needs positive bounds (for `log`) and a positive number of points",
                    )
                    .help("`sweep lr in log(1e-4, 1e-1, 7) { … }`"),
                );
            }
            let at = |k: f64| if n == 1.0 { 0.0 } else { k / (n - 1.0) };
            let point = |k: usize| {
                let t = at(k as f64);
                if &**f == "log" { (x[0].ln() * (1.0 - t) + x[1].ln() * t).exp() } else { x[0] * (1.0 - t) + x[1] * t }
            };
            return Ok((0..n as usize).map(|k| Value::Float(Some(point(k)))).collect());
        }
        match self.expr(scope, domain)? {
            Value::List(items) | Value::Tuple(items) => Ok(items.to_vec()),
            range @ (Value::Range { .. } | Value::Series(_)) => match self.items_of(&range, domain.span)? {
                Some(points) => Ok(points),
                None => Ok(vec![Value::Int(self.cx.fresh_symbol("?"))]),
            },
            Value::Array(a) if self.mode == Mode::Host && a.shape.len() == 1 => match self.elements(&a, domain.span)? {
                Value::List(items) => Ok(items.to_vec()),
                other => Ok(vec![other]),
            },
            Value::Unknown | Value::Array(_) => Ok(vec![Value::Unknown]),
            _ => self.fail(
                Diagnostic::error(Code("E0516"), domain.span, "a sweep runs over a list or range")
                    .help("`sweep lr in log(1e-4, 1e-1, 7) { … }`"),
            ),
        }
    }
}

/// The series whose names begin with a path (`block.0.size` below `block`), as a tree of records.
fn series_below(series: &IndexMap<String, Series>, path: &str) -> Option<Value> {
    let below = series.iter().filter_map(|(name, s)| {
        let rest = name.strip_prefix(path)?.strip_prefix('.')?;
        Some((Arc::from(rest), Value::Series(Rc::new(s.clone()))))
    });
    let leaves: Vec<(Arc<str>, Value)> = below.collect();
    (!leaves.is_empty()).then(|| crate::tree::nest(&leaves))
}
