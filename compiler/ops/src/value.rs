//! What operations take and give: arrays with symbolic shapes, and compile-time numbers.

use crate::dim::Dim;
use optc_abi::DType;
use optc_base::Span;
use optc_ir::NodeId;
use std::sync::Arc;

/// Position of a graph under construction in [`crate::Cx`]'s stack, unique for each push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LevelId(pub u32);

/// A run-time array: its type, and where it is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Element type.
    pub dtype: DType,
    /// Extents; all known while lowering.
    pub shape: Vec<Dim>,
    /// A scalar that takes the element type it meets: a loop index, `step`, `t`, a hyperparameter. Integers are i32; floats are held in f64 and rounded where they
    /// meet an array, so that `1 - beta` keeps its digits. Rank 0 only.
    pub weak: bool,
    /// The node, while lowering; `None` while checking.
    pub node: Option<(LevelId, NodeId)>,
}

/// A compile-time or run-time value as operations see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Val {
    /// A run-time array.
    Array(Array),
    /// A compile-time integer; symbolic while checking. Takes the element type it meets (i32 alone).
    Int(Dim),
    /// A compile-time float (`None`: not known while checking). Takes the float type it meets (f32 alone).
    Float(Option<f64>),
    /// A compile-time flag (`None`: not known while checking).
    Bool(Option<bool>),
    /// A string.
    Str(Arc<str>),
    /// An element type.
    DType(DType),
    /// `none`
    None,
    /// `a..b` with compile-time bounds
    Range(Dim, Dim),
    /// A list.
    List(Vec<Val>),
    /// A tuple.
    Tuple(Vec<Val>),
    /// A record (results of operations with several named results).
    Record(Vec<(Arc<str>, Val)>),
    /// Not known while checking, of unknown type: every operation accepts it and gives it.
    Unknown,
}

/// An argument of an operation.
#[derive(Clone, Debug)]
pub struct Arg {
    /// Its name, if given by name.
    pub name: Option<Arc<str>>,
    /// Its value.
    pub value: Val,
    /// Where it was written.
    pub span: Span,
}

/// One item of an index in brackets.
#[derive(Clone, Debug)]
pub enum Ix {
    /// An integer, an integer array (gather), or (in the host script) a bool mask.
    At(Val, Span),
    /// `start:stop:step`; a run-time scalar `start` is allowed where `stop - start` is a compile-time number: the elaborator then passes `length`.
    Slice {
        /// Start.
        start: Option<Val>,
        /// Stop.
        stop: Option<Val>,
        /// Step.
        step: Option<Val>,
        /// `stop - start`, where `start` is a run-time value.
        length: Option<Dim>,
        /// Where.
        span: Span,
    },
    /// `...`
    Ellipsis(Span),
    /// `none`
    NewAxis(Span),
}
