//! Optimizer bodies: written for one leaf, run for all leaves in lockstep.
//!
//! A body is lowered statement by statement: each statement is evaluated for every leaf before the next one begins, so that a collective (`tree.norm(g)`) sees all
//! leaves at the same point. A body is run in three passes over different inputs ([`Pass`]): to find the states and their initial values, to make the step, and to
//! find the weights used in evaluation.

mod alone;
mod chains;
mod collectives;
mod control;
mod evaluated;
mod instances;
mod lockstep;
mod loss_at;
mod outside;
mod quantized;
mod states;

pub use alone::{AloneLeaf, AloneOptions, AloneProgram, AloneState};
pub(crate) use collectives::OF_LOSS;
pub(crate) use control::LockBody;
pub(crate) use instances::{arguments_mention, key_text};
pub(crate) use loss_at::{Asked, StepLoss};
pub use outside::Question;

use crate::args::Limits;
use crate::evaluator::{Eval, Evaluator, Mode};
use crate::model::Recorder;
use crate::program::Ranged;
use crate::scope::Scope;
use crate::tally::Metrics;
use crate::value::{CallArg, OptArg, OptGroup, OptimizerValue, Value};
use indexmap::IndexMap;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, Expr, ExprId, ExprKind, FnItem, ItemKind, LetKind, Param, Stmt, StmtKind, TypeKind};
use optc_front::{ItemRef, ModuleId};
use optc_ops::{Array, Dim, Quantized, Stored};
use rustc_hash::FxHashMap;
use std::rc::Rc;
use std::sync::Arc;

/// What a run of a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// `w` and `g` are initial values; only the initial values of states matter.
    Init,
    /// A step: states come in, new ones go out.
    Step,
    /// After a step: states and weights are what the step left, updates are skipped, `eval w` is read.
    Eval,
}

/// A leaf of the parameter tree.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Its path, `linear.0.w`.
    pub path: Arc<str>,
    /// The parameter as stored.
    pub w: Array,
    /// Its gradient.
    pub g: Array,
}

/// What surrounds an optimizer.
pub struct OptInputs {
    /// What the run is for.
    pub pass: Pass,
    /// All leaves.
    pub leaves: Vec<Leaf>,
    /// Steps made before this one, an i32 scalar.
    pub step: Array,
    /// `total_steps`; `None` where nobody has said how many there will be.
    pub total_steps: Option<i64>,
    /// `loss` and metrics by name, as bodies see them.
    pub scalars: Vec<(Arc<str>, Value)>,
    /// What arguments written in a `train` see in their place: the last recorded values.
    pub recorded: Vec<(Arc<str>, Value)>,
    /// The states by name, for [`Pass::Step`] and [`Pass::Eval`].
    pub states: IndexMap<String, Array>,
    /// A key for draws, folded with the step.
    pub key: Option<Array>,
    /// Where hyperparameters that are numbers become inputs: the graph of this array. `None`: they stay numbers.
    pub inputs: Option<Array>,
    /// What stands in front of the numbers of the bodies, in the names of states and hyperparameters.
    pub prefix: String,
    /// Whether `leaves` are all there are. While an item is checked, one stands for any; a step may be lowered for some of the leaves, groups without leaves are then no mistake.
    pub all_leaves: bool,
    /// The step's loss at other weights, where there is a step.
    pub loss: Option<Rc<dyn StepLoss>>,
}

/// What a run of an optimizer gives.
#[derive(Debug, Default)]
pub struct OptOutputs {
    /// New parameters, as stored, by leaf.
    pub w: Vec<Array>,
    /// States by name: initial values after [`Pass::Init`], new values after [`Pass::Step`].
    pub states: IndexMap<String, Array>,
    /// Whose the states are that bodies declare (`None`: of all leaves), the body's number, and the name in it; after [`Pass::Init`].
    pub owners: IndexMap<String, (Option<usize>, Arc<str>, Arc<str>)>,
    /// Recorded scalars.
    pub metrics: Metrics,
    /// Weights used in evaluation, by leaf, if a body names them.
    pub eval: Option<Vec<Array>>,
    /// Hyperparameters that became inputs: name and value.
    pub hyper: IndexMap<String, f64>,
    /// The ranges that these are declared with, in the same order.
    pub limits: Vec<Limits>,
    /// Hyperparameters with a range that are computed in the step.
    pub ranged: Vec<(Ranged, Array)>,
}

/// A name that is bound in the bodies of optimizers. No name of the language is spelled like it.
pub(crate) const BODY: &str = "%body";

/// The run in progress.
pub struct OptRun {
    inputs: OptInputs,
    outputs: OptOutputs,
    /// Inputs already made for hyperparameters.
    hyper: IndexMap<String, Array>,
    /// The states as they are now.
    states: IndexMap<String, Array>,
    instance: Instance,
    body: BodyRun,
    /// The examples of the step's loss, while checking: one size.
    examples: Option<Dim>,
    /// The states that count the steps of what wrappers hold.
    counters: Vec<String>,
    /// The slots of states that all leaves of an instance share.
    shared_slots: Vec<String>,
}

/// An optimizer with leaves of its own: the whole one, a group, or the optimizer a wrapper holds.
#[derive(Clone, Debug)]
struct Instance {
    leaves: Vec<Member>,
    /// Steps it has made, an i32 scalar.
    step: Array,
    /// What stands in front of the numbers of its bodies.
    prefix: String,
    /// How many optimizers with a body ran before.
    stages: usize,
}

/// A leaf of an instance.
#[derive(Clone, Debug)]
struct Member {
    /// Its place among all leaves.
    index: usize,
    /// The leaf as it was before the step.
    leaf: Leaf,
}

/// A body being run for the leaves of an instance.
#[derive(Clone, Debug, Default)]
struct BodyRun {
    /// Which body of the whole optimizer: its number in a chain, with those of what holds it in front.
    label: Arc<str>,
    /// Scopes of all leaves at the beginning of the statement.
    snapshot: Vec<Scope>,
    /// Leaves the statement runs for.
    active: Vec<usize>,
    /// The leaf at hand; `None` for what all share.
    leaf: Option<usize>,
    /// Collectives of this statement that have been computed.
    cache: Vec<collectives::Computed>,
    /// Names of shared states and variables.
    shared: Vec<Arc<str>>,
    /// Variables whose values differ from leaf to leaf.
    own: Vec<Arc<str>>,
    /// States: name in the body, leaf (or none), full names with their storage type.
    stage_states: Vec<StageState>,
    /// Nesting of graphs at the beginning of the statement.
    depth: usize,
    /// Whether the statement stands under a condition known at run time only.
    conditional: bool,
    /// The key of the leaf at hand, or of what all leaves share.
    key: Option<Array>,
    /// Arrays read from block-quantized storage, with what is stored.
    coded: Vec<(Array, Stored)>,
    /// Where the optimizer was named.
    named_at: Span,
    /// Branches in the middle of this statement's expression that have been executed before it.
    lifted: Vec<Lifted>,
}

/// What a branch gave.
#[derive(Clone, Debug)]
struct Lifted {
    id: ExprId,
    span: Span,
    /// By leaf.
    values: Vec<(usize, Value)>,
}

#[derive(Clone, Debug)]
struct StageState {
    name: Arc<str>,
    leaf: Option<usize>,
    /// One per array of the state's tree.
    parts: Vec<StatePart>,
}

/// An array of a state.
#[derive(Clone, Debug)]
struct StatePart {
    /// Its full name.
    name: String,
    storage: Storage,
    shape: Vec<Dim>,
    /// The element type bodies see.
    seen: DType,
}

/// How values are kept between steps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Storage {
    /// As they are.
    Plain(DType),
    /// As codes and scales, two slots.
    Blocks(Quantized),
}

/// Tells the draws of bodies from those around them.
const BODY_PLACE: u64 = 0x626f_6479;

/// The element type bodies compute in for values stored as `dtype`.
fn compute_type(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

impl Evaluator<'_> {
    /// Runs an optimizer or chain on all leaves.
    pub fn run_optimizer(&mut self, optimizer: &OptimizerValue, inputs: OptInputs) -> Eval<OptOutputs> {
        let w: Vec<Array> = inputs.leaves.iter().map(|l| l.w.clone()).collect();
        let g: Vec<Array> = inputs.leaves.iter().map(|l| l.g.clone()).collect();
        let leaves = inputs.leaves.iter().enumerate().map(|(index, leaf)| Member { index, leaf: leaf.clone() }).collect();
        let run = OptRun {
            outputs: OptOutputs::default(),
            hyper: IndexMap::new(),
            states: inputs.states.clone(),
            instance: Instance { leaves, step: inputs.step.clone(), prefix: inputs.prefix.clone(), stages: 0 },
            body: BodyRun::default(),
            examples: None,
            counters: Vec::new(),
            shared_slots: Vec::new(),
            inputs,
        };
        let outer = self.opt.replace(run);
        // The key given says where the optimizer runs.
        let saved = (self.key.clone(), std::mem::take(&mut self.counters));
        let step = self.opt_run().inputs.pass == Pass::Step;
        let recorder = std::mem::replace(&mut self.recorder, Recorder { metrics: step.then(Metrics::new), ..Recorder::default() });
        let in_optimizer = std::mem::replace(&mut self.in_optimizer, true);
        let result = self.run_stage(optimizer, w, g);
        (self.key, self.counters) = saved;
        self.in_optimizer = in_optimizer;
        let recorder = std::mem::replace(&mut self.recorder, recorder);
        let mut run = std::mem::replace(&mut self.opt, outer).expect("the run that was put in");
        run.outputs.w = result?.0;
        run.outputs.states = run.states;
        run.outputs.metrics = recorder.metrics.unwrap_or_default();
        Ok(run.outputs)
    }

    fn opt_run(&mut self) -> &mut OptRun {
        self.opt.as_mut().expect("compiler bug: no optimizer is running")
    }

    /// Runs one optimizer or, in order, the parts of a chain, on the leaves of the instance; takes and gives weights (as stored) and gradients.
    fn run_stage(&mut self, optimizer: &OptimizerValue, w: Vec<Array>, g: Vec<Array>) -> Eval<(Vec<Array>, Vec<Array>)> {
        match optimizer {
            OptimizerValue::Chain(parts) => {
                let mut at = (w, g);
                for part in parts {
                    at = self.run_stage(part, at.0, at.1)?;
                }
                Ok(at)
            }
            OptimizerValue::Single { item, args, span } => self.run_body(*item, args, *span, w, g),
            OptimizerValue::Groups { groups, span } => self.run_groups(groups, *span, w, g),
            OptimizerValue::Inner { label, of } => {
                let leaves = self.opt_run().instance.leaves.clone();
                self.run_inner(label, of, leaves, w, g)
            }
        }
    }

    fn run_body(&mut self, item_ref: ItemRef, args: &[OptArg], span: Span, w: Vec<Array>, g: Vec<Array>) -> Eval<(Vec<Array>, Vec<Array>)> {
        let program = self.program;
        let ItemKind::Fn(item) = &program.item(item_ref).kind else { panic!("compiler bug: an optimizer that is no function") };
        // While checking, one leaf stands for all.
        let leaves = if self.checking() { w.len().min(1) } else { w.len() };
        let is_block = matches!(item.body.kind, ExprKind::Block(_));
        let label: Arc<str> = {
            let instance = &mut self.opt_run().instance;
            let label = format!("{}{}", instance.prefix, instance.stages);
            // Named chains have no states of their own and are not counted.
            instance.stages += usize::from(is_block);
            Arc::from(label)
        };
        let mut scopes = Vec::with_capacity(leaves);
        for leaf in 0..leaves {
            let mut scope = Scope::new(item_ref.module);
            self.bind_leaf(&mut scope, leaf, &w[leaf], &g[leaf]);
            if !is_block {
                chains::mark(&mut scope);
            }
            self.bind_hyperparameters(item, item_ref, args, span, &label, &mut scope, leaf)?;
            scope.push();
            scopes.push(scope);
        }
        self.join_held(item, &mut scopes)?;
        if !is_block {
            return self.run_named(item, scopes, w, g);
        }
        let ExprKind::Block(body) = &item.body.kind else { unreachable!("checked above") };
        let place = std::mem::replace(&mut self.recorder.place, Arc::from(format!("{label}.{}", item.name.text)));
        let own = ["w", "g", "name"].map(Arc::from).to_vec();
        let outer = std::mem::replace(&mut self.opt_run().body, BodyRun { label, own, named_at: span, ..BodyRun::default() });
        let active: Vec<usize> = (0..leaves).collect();
        self.check_eval_weights(body)?;
        self.eval_inner(&scopes)?;
        // What a body draws does not depend on where the optimizer is named.
        let inside = crate::rng::mix(self.instance.place, BODY_PLACE);
        let outside = std::mem::replace(&mut self.instance.place, inside);
        self.lock_block(&mut scopes, &active, body)?;
        self.instance.place = outside;
        self.finish_stage(&scopes, item)?;
        let (mut new, mut gradients) = (w, g);
        for (leaf, scope) in scopes.iter().enumerate() {
            gradients[leaf] = self.leaf_array(scope, "g", leaf, item.span)?;
            let w = self.leaf_array(scope, "w", leaf, item.span)?;
            let storage = new[leaf].dtype;
            new[leaf] = self.cast_array(&w, storage);
        }
        self.opt_run().body = outer;
        self.recorder.place = place;
        Ok((new, gradients))
    }

    /// Where the optimizer whose body is at hand was named.
    pub(crate) fn optimizer_named_at(&self) -> Option<Span> {
        self.opt.as_ref().map(|run| run.body.named_at).filter(|at| *at != Span::default())
    }

    /// Binds what a body sees of its leaf and of the run.
    fn bind_leaf(&mut self, scope: &mut Scope, leaf: usize, w: &Array, g: &Array) {
        let info = self.opt_run().instance.leaves[leaf].leaf.clone();
        let compute = compute_type(w.dtype);
        let w = self.cast_array(w, compute);
        let g = self.cast_array(g, compute);
        let span = Span::default();
        self.bind_run_scalars(scope);
        scope.bind(BODY, Value::None, LetKind::Let, span);
        scope.bind("name", Value::Str(info.path), LetKind::Let, span);
        scope.bind("w", Value::Array(w), LetKind::Var, span);
        scope.bind("g", Value::Array(g), LetKind::Var, span);
    }

    /// Binds `step`, `t`, `total_steps`, `loss` and the metrics, where the scope has no such name of its own.
    fn bind_run_scalars(&mut self, scope: &mut Scope) {
        let span = Span::default();
        let (step, total, scalars, pass) = {
            let run = self.opt_run();
            (run.instance.step.clone(), run.inputs.total_steps, run.inputs.scalars.clone(), run.inputs.pass)
        };
        let step = Array { weak: true, ..step };
        // After a step the counter has moved on: what was `t` in the step is the number of steps made.
        let (step, t) = if pass == Pass::Eval { (self.offset(&step, -1), step) } else { (step.clone(), self.offset(&step, 1)) };
        let mut bind = |name: &str, value: Value| {
            if chains::is_free(scope, name) {
                scope.bind(name, value, LetKind::Let, span);
            }
        };
        bind("step", Value::Array(step));
        bind("t", Value::Array(t));
        if let Some(total) = total {
            bind("total_steps", Value::Int(Dim::from(total)));
        }
        for (name, value) in scalars {
            bind(&name, value);
        }
    }

    /// A weak integer scalar plus a number.
    fn offset(&mut self, x: &Array, by: i64) -> Array {
        let sum =
            optc_ops::binary(&mut self.cx, optc_ops::BinOp::Add, &optc_ops::Val::Array(x.clone()), &optc_ops::Val::Int(Dim::from(by)));
        match sum {
            Ok(optc_ops::Val::Array(a)) => Array { weak: true, ..a },
            other => panic!("compiler bug: a counter plus {by} is {other:?}"),
        }
    }

    /// An array as another element type.
    pub(crate) fn cast_array(&mut self, x: &Array, dtype: DType) -> Array {
        if x.dtype == dtype && !x.weak {
            return x.clone();
        }
        match optc_ops::cast(&mut self.cx, &optc_ops::Val::Array(x.clone()), dtype) {
            Ok(optc_ops::Val::Array(a)) => Array { weak: false, ..a },
            other => panic!("compiler bug: a conversion to {dtype} is {other:?}"),
        }
    }

    /// The array a name holds at the end of a body, of the leaf's shape.
    fn leaf_array(&mut self, scope: &Scope, name: &str, leaf: usize, span: Span) -> Eval<Array> {
        let w = self.opt_run().instance.leaves[leaf].leaf.w.clone();
        let (shape, dtype) = (w.shape, compute_type(w.dtype));
        let value = scope.get(name).map_or(Value::Unknown, |b| b.value.clone());
        self.fit(&value, dtype, &shape, name, span)
    }

    /// A value as an array of a type and shape: broadcast, converted between float types. Anything else is the spec's mistake.
    fn fit(&mut self, value: &Value, dtype: DType, shape: &[Dim], name: &str, span: Span) -> Eval<Array> {
        if matches!(value, Value::Unknown) {
            return Ok(Array { dtype, shape: shape.to_vec(), weak: false, node: None });
        }
        let Some(val) = value.to_val() else {
            return self.fail(Diagnostic::error(Code("E0333"), span, format!("`{name}` is not an array at the end of the body")));
        };
        self.cx.at(span);
        let array = match optc_ops::materialize(&mut self.cx, &val, Some(dtype)) {
            Ok(a) => a,
            Err(e) => return self.fail(e.diagnostic(span)),
        };
        if array.shape == shape {
            return Ok(array);
        }
        match optc_ops::broadcast_to(&mut self.cx, &array, shape) {
            Ok(a) => Ok(a),
            Err(e) => self.fail(e.diagnostic(span).note(format!("`{name}` keeps the shape it began with"))),
        }
    }

    /// Binds the parameters of an optimizer item for one leaf.
    fn bind_hyperparameters(
        &mut self,
        item: &FnItem,
        item_ref: ItemRef,
        args: &[OptArg],
        span: Span,
        stage: &str,
        scope: &mut Scope,
        leaf: usize,
    ) -> Eval<()> {
        let mut positional = args.iter().filter(|a| a.name.is_none());
        let mut used = 0;
        let index = self.opt_run().instance.leaves[leaf].index;
        for param in &item.params {
            let named = args.iter().find(|a| a.name.as_deref() == Some(&*param.name.text));
            let arg = named.or_else(|| positional.next());
            let value = match arg {
                Some(arg) if param.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer)) => {
                    used += 1;
                    // An optimizer counts steps of its own: what its arguments say of steps and leaves is read where it runs.
                    let value = self.expr(&mut arg.scope_of(index).clone(), &arg.expr)?;
                    self.held_optimizer(item, param, value, arg.expr.span, stage)?
                }
                Some(arg) => {
                    used += 1;
                    let mut inner = arg.scope_of(index).clone();
                    inner.push();
                    for (name, value) in self.opt_run().inputs.recorded.clone() {
                        if inner.get(&name).is_none() {
                            inner.bind(name, value, LetKind::Let, Span::default());
                        }
                    }
                    self.bind_run_scalars(&mut inner);
                    for name in ["w", "g", "name"] {
                        if chains::is_free(&inner, name)
                            && let Some(b) = scope.get(name)
                        {
                            let value = b.value.clone();
                            inner.bind(name, value, LetKind::Let, Span::default());
                        }
                    }
                    let value = self.drawn_by_name(stage, &param.name.text, |ev| ev.expr(&mut inner, &arg.expr))?;
                    let number =
                        matches!(param.ty.as_ref().map(|t| &t.kind), Some(TypeKind::Array { .. } | TypeKind::Int | TypeKind::Bool));
                    if number && matches!(value, Value::Optimizer(_) | Value::Model(_) | Value::Fn(_) | Value::Str(_)) {
                        let what = crate::tree::describe(&value);
                        let message = format!("`{}` of `{}` is a number, this is {what}", param.name.text, item.name.text);
                        let d = Diagnostic::error(Code("E0333"), arg.expr.span, message).label(param.span, "declared here");
                        return self.fail(match (&value, &arg.expr.kind) {
                            (Value::Optimizer(_), _) => d.help("a chain runs two: `a |> b`; a wrapper takes an optimizer: `lookahead(a)`"),
                            (Value::Fn(_), ExprKind::Name(f)) => d.help(format!("a schedule with arguments is called: `{f}(…)`")),
                            _ => d,
                        });
                    }
                    self.hyper_value(scope, param, value, arg.expr.span, stage, item)?
                }
                None => match &param.default {
                    Some(default) if param.ty.as_ref().is_some_and(|t| matches!(t.kind, TypeKind::Optimizer)) => {
                        let value = self.expr(&mut Scope::new(item_ref.module), default)?;
                        self.held_optimizer(item, param, value, default.span, stage)?
                    }
                    Some(default) => {
                        let value = self.drawn_by_name(stage, &param.name.text, |ev| ev.expr(scope, default))?;
                        self.hyper_value(scope, param, value, default.span, stage, item)?
                    }
                    None => {
                        return self.fail(
                            Diagnostic::error(Code("E0331"), span, format!("`{}` needs `{}`", item.name.text, param.name.text))
                                .label(param.span, "has no default"),
                        );
                    }
                },
            };
            scope.bind(param.name.text.clone(), value, LetKind::Let, param.span);
        }
        if leaf == 0 && used < args.len() {
            return self.unused_argument(item, item_ref, args, span);
        }
        Ok(())
    }

    fn unused_argument(&mut self, item: &FnItem, _item_ref: ItemRef, args: &[OptArg], span: Span) -> Eval<()> {
        let names: Vec<&str> = item.params.iter().map(|p| &*p.name.text).collect();
        let unknown = args.iter().find(|a| a.name.as_ref().is_some_and(|n| !names.contains(&&**n)));
        let diagnostic = match unknown {
            Some(arg) => {
                let name = arg.name.as_deref().unwrap_or_default();
                let d = Diagnostic::error(Code("E0221"), arg.expr.span, format!("`{}` has no parameter `{name}`", item.name.text))
                    .label(item.name.span, "defined here");
                match crate::names::nearest(name, names.iter().copied()) {
                    Some(near) => d.help(format!("did you mean `{near}`")),
                    None => d.help(format!("its parameters are {}", names.join(", "))),
                }
            }
            None => Diagnostic::error(Code("E0332"), span, format!("too many arguments for `{}`", item.name.text))
                .label(item.name.span, format!("takes {}", names.len())),
        };
        self.fail(diagnostic)
    }

    /// A hyperparameter's value: schedules are read at this step; numbers become inputs of the step, so that changing one never recompiles.
    fn hyper_value(&mut self, scope: &Scope, param: &Param, value: Value, span: Span, stage: &str, item: &FnItem) -> Eval<Value> {
        let compile_time = param.is_const || param.ty.as_ref().is_some_and(|t| !matches!(t.kind, TypeKind::Array { .. }));
        let value = match value {
            Value::Schedule(_) => {
                let mut scope = Scope::new(ModuleId(0));
                self.bind_run_scalars(&mut scope);
                let step = scope.get("step").map_or(Value::Unknown, |b| b.value.clone());
                self.apply(&value, vec![CallArg { name: None, value: step, span }], span)?
            }
            other => other,
        };
        self.check_range(param, scope, &value, span)?;
        self.watch_range(param, scope, &value, span, item)?;
        let number = match &value {
            Value::Int(d) => d.known().map(|n| n as f64),
            Value::Float(x) => *x,
            Value::Array(a) if a.shape.is_empty() && a.dtype.is_float() => {
                return Ok(Value::Array(self.weak_float(a)));
            }
            _ => return Ok(value),
        };
        let home = self.opt_run().inputs.inputs.clone();
        let Some(home) = home.filter(|_| !compile_time && self.opt_run().inputs.pass == Pass::Step) else { return Ok(value) };
        let Some(number) = number else {
            // Not known while checking: some scalar.
            return Ok(Value::Array(Array { dtype: DType::F64, shape: Vec::new(), weak: true, node: None }));
        };
        let base = format!("{stage}.{}.{}", item.name.text, param.name.text);
        let mut name = base.clone();
        let mut k = 1;
        // Leaves may have values of their own (`weight_decay = if ndim(w) < 2 { 0 } else { 0.1 }`).
        while self.opt_run().outputs.hyper.get(&name).is_some_and(|&v| v.to_bits() != number.to_bits()) {
            name = format!("{base}.{k}");
            k += 1;
        }
        if let Some(array) = self.opt_run().hyper.get(&name) {
            return Ok(Value::Array(array.clone()));
        }
        let limits = self.limits(param, scope)?;
        // The inputs of the step are those of its own graph, also where an optimizer runs under a condition.
        let array = Array { weak: true, ..self.cx.input_beside(&home, &format!("hyper.{name}"), DType::F64, &[]) };
        let run = self.opt_run();
        run.outputs.hyper.insert(name.clone(), number);
        run.outputs.limits.push(limits);
        run.hyper.insert(name, array.clone());
        Ok(Value::Array(array))
    }

    /// Has a computed hyperparameter checked against its range at every step.
    fn watch_range(&mut self, param: &Param, scope: &Scope, value: &Value, span: Span, item: &FnItem) -> Eval<()> {
        let (Some(range), Value::Array(a)) = (&param.range, value) else { return Ok(()) };
        let run = self.opt_run();
        let own = run.inputs.step.node.map(|(level, _)| level);
        if run.inputs.pass != Pass::Step || run.inputs.inputs.is_none() || !a.shape.is_empty() || !self.cx.emitting() {
            return Ok(());
        }
        // One that is computed under a condition may not have been computed at all.
        if self.cx.top() != own {
            return Ok(());
        }
        let limits = self.limits(param, scope)?;
        let name = param.name.text.clone();
        let ranged = Ranged { optimizer: item.name.text.clone(), name, limits, span, range: range.span };
        let array = self.cast_array(a, DType::F64);
        let known = &mut self.opt_run().outputs.ranged;
        // All leaves share it, unless it depends on the leaf.
        if !known.iter().any(|(r, other)| *r == ranged && *other == array) {
            known.push((ranged, array));
        }
        Ok(())
    }

    /// A float scalar that takes the type it meets.
    pub(crate) fn weak_float(&mut self, a: &Array) -> Array {
        if a.weak {
            return a.clone();
        }
        Array { weak: true, ..self.cast_array(a, DType::F64) }
    }
}

/// Whether an expression may hold states or collectives in blocks.
fn is_control(e: &Expr) -> bool {
    matches!(e.kind, ExprKind::If { .. } | ExprKind::Block(_))
}

/// The variable an update goes to.
fn root_name(target: &Expr) -> Option<Arc<str>> {
    match &target.kind {
        ExprKind::Name(n) => Some(n.clone()),
        ExprKind::Field(base, _) | ExprKind::Index { base, .. } => root_name(base),
        _ => None,
    }
}
