//! Models: parameters by path, buffers, metrics.

use crate::evaluator::{Eval, Evaluator};
use crate::value::{CallArg, Value};
use indexmap::IndexMap;
use optc_base::Span;
use optc_ops::Array;
use std::sync::Arc;

/// A parameter or buffer of a model.
#[derive(Clone, Debug)]
pub struct ParamLeaf {
    /// Its path, joined by points, with the model's label in front if it has one (`net.linear.0.w`).
    pub path: Arc<str>,
    /// Its initial value.
    pub array: Array,
    /// Whether it is a buffer.
    pub buffer: bool,
    /// Its declaration.
    pub span: Span,
}

/// How `param` statements are answered.
#[derive(Clone, Debug)]
pub enum ParamMode {
    /// Values are drawn; the leaves so far.
    Init(Vec<ParamLeaf>),
    /// Values come from a tree.
    Apply(Value),
}

/// Where in a model evaluation is.
#[derive(Clone, Debug)]
pub struct ParamCx {
    /// Where values come from.
    pub mode: ParamMode,
    /// Path so far.
    pub path: Vec<Arc<str>>,
}

/// Models being initialized by [`Evaluator::initialize`].
#[derive(Clone, Debug)]
pub struct Initializing {
    /// The key initial values are drawn with.
    pub key: Array,
    /// Leaves so far.
    pub leaves: Vec<ParamLeaf>,
}

/// What bodies leave behind besides their value.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    /// New values of buffers by path (with the label of the model in front), where they are wanted.
    pub buffers: Option<IndexMap<Arc<str>, Array>>,
    /// Values of `metric` statements by name, where they are wanted.
    pub metrics: Option<Vec<(Arc<str>, Value)>>,
    /// Models being initialized.
    pub initializing: Option<Initializing>,
}

impl Evaluator<'_> {
    /// The leaves of a model for these arguments, drawn with the present key.
    ///
    /// # Errors
    /// Whatever is wrong in the model or its arguments.
    pub fn init_model(&mut self, _model: &Value, _args: Vec<CallArg>, span: Span) -> Eval<Vec<ParamLeaf>> {
        self.error("E0700", span, "models are not built in yet")
    }
    /// The model bound to leaves given by path (without label), as a value.
    pub fn bind_model(&mut self, model: &Value, leaves: &[(Arc<str>, Array)]) -> Value {
        let _ = leaves;
        model.clone()
    }
}
