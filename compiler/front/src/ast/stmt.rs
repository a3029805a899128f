//! Statements, blocks and patterns.

use super::{Expr, IndexVar, Name, Type};
use optc_base::Span;
use std::sync::Arc;

/// Statements; the last expression is the value.
#[derive(Clone, Debug)]
pub struct Block {
    /// In order.
    pub stmts: Vec<Stmt>,
    /// With the braces.
    pub span: Span,
}

/// A pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// What.
    pub kind: PatternKind,
    /// Where.
    pub span: Span,
}

/// Kinds of patterns.
#[derive(Clone, Debug)]
pub enum PatternKind {
    /// `x`
    Name(Arc<str>),
    /// `_`
    Ignore,
    /// `(a, b)`
    Tuple(Vec<Pattern>),
    /// `{ w, b = p }`: field name and pattern.
    Record(Vec<(Name, Pattern)>),
}

/// A statement.
#[derive(Clone, Debug)]
pub struct Stmt {
    /// What.
    pub kind: StmtKind,
    /// Where.
    pub span: Span,
}

/// How a binding may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LetKind {
    /// `let`
    Let,
    /// `var`
    Var,
    /// `const`
    Const,
}

/// Kinds of statements.
#[derive(Clone, Debug)]
pub enum StmtKind {
    /// `let p = e`, `var p = e`, `const n = e`; `shared let`, `shared var` in an optimizer.
    Let {
        /// Which.
        kind: LetKind,
        /// `shared`
        shared: bool,
        /// What is bound.
        pattern: Pattern,
        /// Type, if written (`let x: f32[3] = …`).
        ty: Option<Type>,
        /// Value.
        value: Expr,
    },
    /// `let y[i, j] = e`
    LetIndexed {
        /// The array's name.
        name: Name,
        /// Its indices.
        indices: Vec<IndexVar>,
        /// An element.
        value: Expr,
    },
    /// `target <- value`
    Update {
        /// A name, field path, index, or tuple of these.
        target: Expr,
        /// New value.
        value: Expr,
    },
    /// `param w: type ~ draws`, `param w: type = value`
    Param {
        /// Its name.
        name: Name,
        /// Its type.
        ty: Type,
        /// `~` (draws without a shape take the parameter's).
        draws: bool,
        /// The initial value.
        init: Expr,
    },
    /// `buffer b: type = value`
    Buffer {
        /// Its name.
        name: Name,
        /// Its type.
        ty: Type,
        /// The initial value.
        init: Expr,
    },
    /// `state m: type = value`, `shared state …`
    State {
        /// `shared`
        shared: bool,
        /// Its name.
        name: Name,
        /// Its type, if written.
        ty: Option<Type>,
        /// The initial value.
        init: Expr,
    },
    /// `shared cell = lstm_cell(hidden = 8)`
    SharedLayer {
        /// The instance's name.
        name: Name,
        /// The layer with its settings.
        value: Expr,
    },
    /// `eval w = e`
    Eval {
        /// `w`
        name: Name,
        /// The weights used in evaluation.
        value: Expr,
    },
    /// `metric name = e` in a body (in `train` it is a [`Setting`]).
    Metric {
        /// Its name.
        name: Name,
        /// Its value.
        value: Expr,
    },
    /// `yield e`
    Yield(Expr),
    /// `break`, `break if c`
    Break(Option<Expr>),
    /// `continue`, `continue if c`
    Continue(Option<Expr>),
    /// An expression.
    Expr(Expr),
    /// `print e`, `save "f", x`, `table e`, `plot e, options` (host script)
    Output {
        /// `print`, `save`, `table`, `plot`
        word: Name,
        /// Values.
        values: Vec<Expr>,
        /// `name = value` options.
        options: Vec<(Name, Expr)>,
    },
    /// `check c, "claim"`, `check a ~= b within e relative and c > 0, "claim"`
    Check {
        /// What must hold, all of it.
        parts: Vec<Condition>,
        /// The claim.
        claim: Option<Expr>,
    },
    /// `sweep lr in log(a, b, n) { … }`
    Sweep {
        /// The variable.
        name: Name,
        /// Its values.
        domain: Expr,
        /// What is done for each.
        body: Block,
    },
    /// Where the parser recovered.
    Error,
}

/// What a `check` asks for, up to the bound of its `~=`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// What must hold.
    pub cond: Expr,
    /// The tolerance of each `~=` in it, and whether it is relative.
    pub within: Option<(Expr, bool)>,
}
