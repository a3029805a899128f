//! Expressions.

use super::{Block, ElemType, Name, Pattern};
use crate::sub::Sub;
use optc_base::Span;
use std::sync::Arc;

/// An expression.
#[derive(Clone, Debug)]
pub struct Expr {
    /// What.
    pub kind: ExprKind,
    /// Where.
    pub span: Span,
    /// Unique in a process: the identity of this place (for draws, layer calls, caches).
    pub id: ExprId,
}

/// Identity of an expression in the text. Equal ids are the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ExprId(pub u32);

/// Binary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// `or`
    Or,
    /// `and`
    And,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `~=` (only in `check`)
    Near,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `//`
    FloorDiv,
    /// `%`
    Rem,
    /// `@`
    MatMul,
    /// `^`
    Pow,
    /// `&`
    BitAnd,
    /// `bit_or`
    BitOr,
    /// `xor`
    Xor,
    /// `<<`
    Shl,
    /// `>>`
    Shr,
    /// `matches` (name patterns)
    Matches,
}

/// Unary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// `-`
    Neg,
    /// `not`
    Not,
    /// `~`
    BitNot,
}

/// A unit suffix of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `20%`: the value is already divided by 100.
    Percent,
    /// A duration; the value is in seconds.
    Seconds,
    /// A size; the value is in bytes.
    Bytes,
}

/// An argument of a call.
#[derive(Clone, Debug)]
pub struct Arg {
    /// `name = value`
    pub name: Option<Name>,
    /// The value.
    pub value: Expr,
}

/// Kinds of expressions.
#[derive(Clone, Debug)]
pub enum ExprKind {
    /// `12`, `0xFF`
    Int(i64),
    /// `0.5`, `1e-3`
    Float(f64),
    /// `10min`, `20%`
    Quantity(f64, Unit),
    /// `true`, `false`
    Bool(bool),
    /// `none`
    None,
    /// A string with interpolations.
    Str(Vec<StrPart>),
    /// A name. `...` as an argument of a call (`reshape(x, n, ...)`) is the name "...".
    Name(Arc<str>),
    /// An element type or `float` as a value (`zeros([N], float)`).
    DType(ElemType),
    /// `(a, b)`, `(a,)`, `()`
    Tuple(Vec<Expr>),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `[e for p in xs if c]`
    Comprehension {
        /// What is collected.
        element: Sub,
        /// `for p in xs if c`, outermost first.
        clauses: Vec<CompClause>,
    },
    /// `{ w = a, b = c }`; keys may be dotted (`net.hidden = 32`).
    Record(Vec<(Vec<Name>, Expr)>),
    /// Optimizer groups: `{ "*.bias": sgd(), ndim >= 2: muon(), _: adamw() }`.
    Groups(Vec<(GroupKey, Expr)>),
    /// `{ statements }`
    Block(Block),
    /// `x -> e`, `(x, y) -> e`
    Lambda(Arc<Lambda>),
    /// `-x`, `not x`
    Unary(UnaryOp, Sub),
    /// `a + b`
    Binary(BinaryOp, Sub, Sub),
    /// `a |> b`
    Pipe(Sub, Sub),
    /// `a..b`
    Range(Sub, Sub),
    /// `f(a, b, n = c)`; a trailing `{ x -> … }` is the last argument.
    Call {
        /// What is called.
        callee: Sub,
        /// With what.
        args: Vec<Arg>,
    },
    /// `x[i, 2:5, ...]`
    Index {
        /// What is indexed.
        base: Sub,
        /// By what.
        items: Vec<IndexItem>,
    },
    /// `sum[k] e`, `max[u < size, v] e`
    Reduction {
        /// `sum`, `max`, …
        op: Name,
        /// The indices it runs over.
        indices: Vec<IndexVar>,
        /// Of what.
        body: Sub,
    },
    /// `x.name`
    Field(Sub, Name),
    /// `x as f32`
    Cast(Sub, ElemType),
    /// `call as name`: names a layer call.
    NameCall(Sub, Name),
    /// `if c { … } else { … }`
    If {
        /// The condition.
        cond: Sub,
        /// If true.
        then: Block,
        /// If false; another `if` is a block that holds only it.
        otherwise: Option<Block>,
    },
    /// `for p in xs { … }`
    For(Box<For>),
    /// `while c, at most n { … }`
    While {
        /// The condition.
        cond: Sub,
        /// The bound.
        at_most: Option<Sub>,
        /// The body.
        body: Block,
    },
    /// `with seed = 7, precision = f64 { … }`
    With {
        /// What is set.
        settings: Vec<(Name, Expr)>,
        /// For what.
        body: Block,
    },
    /// `time { … }` (host script)
    Time(Block),
    /// `run T with { … }` (host script)
    Run {
        /// The train, or a call of it.
        target: Sub,
        /// The record after `with`.
        overrides: Option<Sub>,
    },
    /// Where the parser recovered from an error that has been reported.
    Error,
}

/// A part of a string.
#[derive(Clone, Debug)]
pub enum StrPart {
    /// Text, escapes resolved.
    Text(Arc<str>),
    /// `{expr:format}`
    Expr(Sub, Option<Arc<str>>),
}

/// A `for` clause of a comprehension.
#[derive(Clone, Debug)]
pub struct CompClause {
    /// What each element is bound to; `for i, n in xs` is a tuple pattern (position, element).
    pub pattern: Pattern,
    /// Whether it was written `i, n` without parentheses, so that the first name counts positions.
    pub enumerate: bool,
    /// What is run over.
    pub iter: Expr,
    /// `if c`
    pub cond: Option<Expr>,
}

/// The key of an optimizer group.
#[derive(Clone, Debug)]
pub enum GroupKey {
    /// `_`
    Any,
    /// `"a" | "b"`
    Patterns(Vec<Arc<str>>),
    /// `ndim >= 2`, `size < 100`, `name == "w"`
    Compare(Name, BinaryOp, Expr),
    /// Two keys joined by `and`.
    And(Box<GroupKey>, Box<GroupKey>),
}

/// An anonymous function.
#[derive(Clone, Debug)]
pub struct Lambda {
    /// Parameters.
    pub params: Vec<Pattern>,
    /// Body.
    pub body: Expr,
    /// All of it.
    pub span: Span,
}

/// One item in index brackets.
#[derive(Clone, Debug)]
pub enum IndexItem {
    /// `i`, an integer, an array of integers or bools
    At(Expr),
    /// `a:b:c`
    Slice {
        /// Start.
        start: Option<Expr>,
        /// End.
        stop: Option<Expr>,
        /// Step.
        step: Option<Expr>,
        /// Where.
        span: Span,
    },
    /// `...`
    Ellipsis(Span),
    /// `none`: a new axis.
    NewAxis(Span),
}

/// An index of index notation: `k`, `k < K`, or `...`.
#[derive(Clone, Debug)]
pub struct IndexVar {
    /// Its name; `...` is the name "...".
    pub name: Name,
    /// Its extent, if given.
    pub extent: Option<Expr>,
}

/// A loop.
#[derive(Clone, Debug)]
pub struct For {
    /// What each element is bound to.
    pub pattern: Pattern,
    /// `for i, x in xs`: the first name counts.
    pub enumerate: bool,
    /// What is run over.
    pub iter: Expr,
    /// The body.
    pub body: Block,
}
