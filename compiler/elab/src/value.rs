//! Values of the staged evaluator: everything an expression of the language can be.

use crate::batching::MapAxes;
use crate::host::{DataTable, RunResult};
use crate::scope::Scope;
use indexmap::IndexMap;
use optc_abi::DType;
use optc_base::Span;
use optc_front::ast;
use optc_front::{ItemRef, ModuleId};
use optc_ops::{Array, Dim, Quantized, Val};
use std::rc::Rc;
use std::sync::Arc;

/// A value. Arrays are nodes of a graph (or only types, while checking); all else is compile-time.
#[derive(Clone, Debug)]
pub enum Value {
    /// A run-time array.
    Array(Array),
    /// A compile-time integer.
    Int(Dim),
    /// A compile-time float; `None` is not known while checking.
    Float(Option<f64>),
    /// A compile-time flag; `None` is not known while checking.
    Bool(Option<bool>),
    /// A string.
    Str(Arc<str>),
    /// An element type.
    DType(DType),
    /// `q8(block = 256)`: how a state is stored.
    Quantized(Quantized),
    /// `none`; also the value of a block without one.
    None,
    /// `a..b` with compile-time bounds; with `reverse` it runs downward.
    Range {
        /// First.
        start: Dim,
        /// One past the last.
        stop: Dim,
        /// `rev(a..b)`
        reverse: bool,
    },
    /// `0..n` with a run-time scalar bound: (start, stop, reverse).
    RunRange(Array, Array, bool),
    /// A tuple.
    Tuple(Rc<Vec<Value>>),
    /// A list.
    List(Rc<Vec<Value>>),
    /// A record.
    Record(Rc<IndexMap<Arc<str>, Value>>),
    /// A function.
    Fn(Rc<FnValue>),
    /// A model or layer with its settings.
    Model(Rc<ModelValue>),
    /// An optimizer with its settings, or a chain.
    Optimizer(Rc<OptimizerValue>),
    /// A schedule with its settings, or an arithmetic expression of such: waits for its step.
    Schedule(Rc<ScheduleValue>),
    /// A loaded data block (host script).
    Data(Rc<DataTable>),
    /// A `data` or `train` item, not instantiated; with the arguments given.
    Block(Rc<BlockValue>),
    /// The result of a training run (host script).
    Run(Rc<RunValue>),
    /// A recorded series (host script).
    Series(Rc<Series>),
    /// A module: `std.optim`.
    Module(ModuleId),
    /// Not known while checking: every operation accepts it.
    Unknown,
}

/// A function value.
#[derive(Clone, Debug)]
pub enum FnValue {
    /// A built-in operation (`exp`, `random.normal`, `tree.norm`, `grad`, …).
    Builtin(Arc<str>),
    /// A function of a module.
    Item(ItemRef),
    /// A lambda with what it sees.
    Lambda {
        /// Its text.
        lambda: Arc<ast::Lambda>,
        /// Bindings in scope where it was made.
        scope: Scope,
    },
    /// `grad(f)`, `value_and_grad(f)`, `checkpoint(f)`, `vjp(f, x)`'s pull-back, and the like.
    Transformed(Transform),
}

/// What becomes of the values of the forward pass that the backward pass needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residuals {
    /// They are computed again.
    Recompute,
    /// They stay in memory, or are in a file until then.
    Swap,
    /// They stay in memory.
    Keep,
}

/// A function made from another.
#[derive(Clone, Debug)]
pub enum Transform {
    /// `grad(f, wrt)` or, with `value`, `value_and_grad(f, wrt)`. `wrt` holds positions of arguments.
    Grad {
        /// Of what.
        f: Value,
        /// Argument names or positions; empty means the first.
        wrt: Vec<WrtArg>,
        /// Also give the value.
        value: bool,
    },
    /// `jacobian(f, wrt)` or, with `hessian`, `hessian(f, wrt)`: the Jacobian of the gradient.
    Jacobian {
        /// Of what.
        f: Value,
        /// As for the gradient.
        wrt: Vec<WrtArg>,
        /// Of its gradient.
        hessian: bool,
    },
    /// `vmap(f, axes)`
    Vmap {
        /// The function of one element.
        f: Value,
        /// Where the elements of the arguments are.
        axes: MapAxes,
    },
    /// `checkpoint(f)`, and what becomes of its residuals.
    Checkpoint(Value, Residuals),
    /// The pull-back of `vjp(f, x, …)`.
    Pullback {
        /// The function.
        f: Value,
        /// Where.
        args: Vec<Value>,
    },
}

/// An argument a gradient is taken in.
#[derive(Clone, Debug)]
pub enum WrtArg {
    /// By position.
    Position(usize),
    /// By name.
    Name(Arc<str>),
}

/// A model or layer.
#[derive(Clone, Debug)]
pub struct ModelValue {
    /// The item.
    pub item: ItemRef,
    /// Arguments given at construction (`mlp(hidden = 64)`), by position or name.
    pub args: Vec<CallArg>,
    /// The parameters it is bound to: a tree keyed by path segments.
    pub params: Option<Value>,
    /// For instances made by `shared`: the path of the instance.
    pub shared_path: Option<Arc<str>>,
    /// Name of the model in a `train` block: stands in front of its leaves' paths where initial values and buffers are recorded; an unbound model with a label draws its
    /// parameters within [`crate::Evaluator::initialize`].
    pub label: Option<Arc<str>>,
    /// Patterns of paths below this model whose parameters stay as they are (`freeze`), and where each is written.
    pub frozen: Rc<Vec<(Arc<str>, Span)>>,
    /// Whether new values of its buffers are dropped: it was bound by `.with`.
    pub dropping: bool,
    /// The precision its body computes in, whatever the caller's: `f32` arguments are converted to it, and results of a narrower one back to the caller's. `None`: the
    /// caller's.
    pub float: Option<DType>,
    /// Where it was made.
    pub span: Span,
}

impl ModelValue {
    /// An unbound model with these settings.
    pub(crate) fn new(item: ItemRef, args: Vec<CallArg>, span: Span) -> Self {
        ModelValue { item, args, params: None, shared_path: None, label: None, frozen: Rc::default(), dropping: false, float: None, span }
    }
}

/// An optimizer.
#[derive(Clone, Debug)]
pub enum OptimizerValue {
    /// One item with arguments; hyperparameters that depend on the step are schedules or closures.
    Single {
        /// The item.
        item: ItemRef,
        /// Arguments, unevaluated where they may depend on `step`, the leaf or metrics: expressions with what they see.
        args: Vec<OptArg>,
        /// Where it was made.
        span: Span,
    },
    /// `a |> b`, in order.
    Chain(Vec<Rc<OptimizerValue>>),
    /// `optimizer { "*.bias": sgd(), _: adamw() }`: each leaf has the first whose key it matches.
    Groups {
        /// In order.
        groups: Vec<OptGroup>,
        /// Where they were written.
        span: Span,
    },
    /// The optimizer that the body of a wrapper holds: all mentions are one instance, with states of its own.
    Inner {
        /// The wrapper's place in the whole optimizer, and the name it has for it.
        label: Arc<str>,
        /// What is held.
        of: Rc<OptimizerValue>,
    },
}

/// A group of leaves with an optimizer.
#[derive(Clone, Debug)]
pub struct OptGroup {
    /// Which leaves.
    pub key: ast::GroupKey,
    /// Theirs; `none` leaves them alone.
    pub optimizer: Option<Rc<OptimizerValue>>,
    /// Where it was written.
    pub span: Span,
}

/// An argument of an optimizer: evaluated anew where it is used, because it may mention `step`, `t`, `w`, `ndim(w)`, `name`, `loss` or a metric.
#[derive(Clone, Debug)]
pub struct OptArg {
    /// The parameter it is for, if given by name.
    pub name: Option<Arc<str>>,
    /// Its text.
    pub expr: ast::Expr,
    /// What it sees.
    pub scope: Scope,
    /// What it sees for the leaf of a number, where it was written in a named chain whose hyperparameters each leaf has for itself.
    pub leaves: Option<Rc<Vec<(usize, Scope)>>>,
}

impl OptArg {
    /// What it sees for the leaf of a number among all leaves.
    pub(crate) fn scope_of(&self, leaf: usize) -> &Scope {
        // The leaves are in order.
        let found = self.leaves.as_ref().and_then(|all| all.binary_search_by_key(&leaf, |(index, _)| *index).ok().map(|k| &all[k].1));
        found.unwrap_or(&self.scope)
    }
}

/// A schedule.
#[derive(Clone, Debug)]
pub enum ScheduleValue {
    /// An item with its arguments.
    Item {
        /// The item.
        item: ItemRef,
        /// Arguments.
        args: Vec<CallArg>,
        /// Where it was made.
        span: Span,
    },
    /// Arithmetic between schedules and numbers.
    Binary(ast::BinaryOp, Value, Value, Span),
    /// Negation.
    Neg(Value, Span),
}

/// An evaluated argument of a call.
#[derive(Clone, Debug)]
pub struct CallArg {
    /// Its name, if given by name.
    pub name: Option<Arc<str>>,
    /// Its value.
    pub value: Value,
    /// Where it was written.
    pub span: Span,
}

/// A `data`, `train` or `experiment` item with arguments.
#[derive(Clone, Debug)]
pub struct BlockValue {
    /// The item.
    pub item: ItemRef,
    /// Arguments.
    pub args: Vec<CallArg>,
    /// The split taken, for `digits.train`.
    pub split: Option<Arc<str>>,
}

/// A finished run with the models it trained.
#[derive(Clone, Debug)]
pub struct RunValue {
    /// What the driver gave back.
    pub result: RunResult,
    /// Names of the models of the `train` block with their values bound to the trained parameters.
    pub models: IndexMap<Arc<str>, Value>,
}

/// A recorded series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Steps at which values were recorded.
    pub steps: Vec<u64>,
    /// The values.
    pub values: Vec<f64>,
}

impl Value {
    /// What operations work on; `None` for functions, models and the like.
    pub fn to_val(&self) -> Option<Val> {
        Some(match self {
            Value::Array(a) => Val::Array(a.clone()),
            Value::Int(d) => Val::Int(d.clone()),
            Value::Float(x) => Val::Float(*x),
            Value::Bool(b) => Val::Bool(*b),
            Value::Str(s) => Val::Str(s.clone()),
            Value::DType(d) => Val::DType(*d),
            Value::None => Val::None,
            Value::Range { start, stop, reverse: false } => Val::Range(start.clone(), stop.clone()),
            Value::Tuple(items) => Val::Tuple(items.iter().map(Value::to_val).collect::<Option<_>>()?),
            Value::List(items) => Val::List(items.iter().map(Value::to_val).collect::<Option<_>>()?),
            Value::Record(fields) => Val::Record(fields.iter().map(|(n, v)| Some((n.clone(), v.to_val()?))).collect::<Option<_>>()?),
            Value::Unknown => Val::Unknown,
            _ => return None,
        })
    }
    /// A value from an operation's result.
    pub fn from_val(val: Val) -> Value {
        match val {
            Val::Array(a) => Value::Array(a),
            Val::Int(d) => Value::Int(d),
            Val::Float(x) => Value::Float(x),
            Val::Bool(b) => Value::Bool(b),
            Val::Str(s) => Value::Str(s),
            Val::DType(d) => Value::DType(d),
            Val::None => Value::None,
            Val::Range(start, stop) => Value::Range { start, stop, reverse: false },
            Val::List(items) => Value::List(Rc::new(items.into_iter().map(Value::from_val).collect())),
            Val::Tuple(items) => Value::Tuple(Rc::new(items.into_iter().map(Value::from_val).collect())),
            Val::Record(fields) => Value::Record(Rc::new(fields.into_iter().map(|(n, v)| (n, Value::from_val(v))).collect())),
            Val::Unknown => Value::Unknown,
        }
    }
}
