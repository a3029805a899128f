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
mod hyper;
mod instances;
mod lockstep;
mod loss_at;
mod outside;
mod quantized;
mod states;

pub use alone::{AloneLeaf, AloneOptions, AloneProgram, AloneState};
pub(crate) use collectives::OF_LOSS;
pub(crate) use control::LockBody;
pub use hyper::Apart;
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
    /// Hyperparameters that are inputs of their own for groups of leaves.
    pub apart: Apart,
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
        let mut own = ["w", "g", "name"].map(Arc::from).to_vec();
        own.extend(item.params.iter().map(|p| p.name.text.clone()).filter(|name| self.differs(&scopes, name)));
        self.join_held(item, &mut scopes)?;
        if !is_block {
            return self.run_named(item, scopes, w, g);
        }
        let ExprKind::Block(body) = &item.body.kind else { unreachable!("checked above") };
        let place = std::mem::replace(&mut self.recorder.place, Arc::from(format!("{label}.{}", item.name.text)));
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
