//! The syntax tree: what was written, with spans, before any meaning.
//!
//! Names are resolved later, over the scopes of [`crate::modules`]; nothing here knows types, shapes or values.

use crate::sub::Sub;
use optc_abi::DType;
use optc_base::Span;
use std::sync::Arc;

/// A name with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The text.
    pub text: Arc<str>,
    /// Where.
    pub span: Span,
}

/// A parsed file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Items in order; those that could not be parsed are missing.
    pub items: Vec<Item>,
}

/// A top-level item.
#[derive(Clone, Debug)]
pub struct Item {
    /// Text of the `##` comments in front of it, without the marks, lines joined by `\n`.
    pub doc: String,
    /// All of it.
    pub span: Span,
    /// What it is.
    pub kind: ItemKind,
}

/// Kinds of items.
#[derive(Clone, Debug)]
pub enum ItemKind {
    /// `import …`
    Import(Import),
    /// `const name = expr` (and `const name: type = expr`).
    Const {
        /// Its name.
        name: Name,
        /// Its type, if written.
        ty: Option<Type>,
        /// Its value.
        value: Expr,
    },
    /// `type name[Dims] = type`
    TypeAlias {
        /// Its name.
        name: Name,
        /// Dimension parameters.
        dims: Vec<Name>,
        /// What it stands for.
        ty: Type,
    },
    /// `fn`, `host fn`, `layer`, `model`, `loss`, `schedule`, `optimizer`.
    Fn(Arc<FnItem>),
    /// `data name(params) { … }`, `train name(params) { … }`, `search name(params) { … }`.
    Block(Arc<BlockItem>),
    /// `experiment name(params) { … }`
    Experiment(Arc<ExperimentItem>),
    /// `extern process name("command", options)(params) -> type`
    Extern(Arc<ExternItem>),
}

impl Item {
    /// The name it defines; imports define none here.
    pub fn name(&self) -> Option<&Name> {
        Some(match &self.kind {
            ItemKind::Import(_) => return None,
            ItemKind::Const { name, .. } | ItemKind::TypeAlias { name, .. } => name,
            ItemKind::Fn(f) => &f.name,
            ItemKind::Block(b) => &b.name,
            ItemKind::Experiment(e) => &e.name,
            ItemKind::Extern(e) => &e.name,
        })
    }
}

/// An import.
#[derive(Clone, Debug)]
pub enum Import {
    /// `import std.optim.adamw`, `import std.optim.{lion, sam}`: path segments in front, and the names taken. `import std.optim as o` takes a whole folder.
    Std {
        /// `std`, `optim`.
        path: Vec<Name>,
        /// `adamw`; or `lion`, `sam`.
        names: Vec<Name>,
        /// The name after `as`.
        alias: Option<Name>,
    },
    /// `import "file.opt"`, `import "file.opt" as l`.
    File {
        /// Path, relative to the file.
        path: Arc<str>,
        /// Its place.
        path_span: Span,
        /// The name after `as`; without it, all items come into scope.
        alias: Option<Name>,
    },
}

/// What kind of function an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FnKind {
    /// `fn`
    Fn,
    /// `host fn`
    HostFn,
    /// `layer`
    Layer,
    /// `model`
    Model,
    /// `loss`
    Loss,
    /// `schedule`
    Schedule,
    /// `optimizer`
    Optimizer,
}

/// A function-like item. `optimizer a(…) = chain` has an expression body, as has `fn f(x) = e`; blocks are [`ExprKind::Block`].
#[derive(Clone, Debug)]
pub struct FnItem {
    /// Which keyword.
    pub kind: FnKind,
    /// Its name.
    pub name: Name,
    /// Parameters.
    pub params: Vec<Param>,
    /// Result type, if written.
    pub result: Option<Type>,
    /// Body.
    pub body: Expr,
    /// `gradient (ct) = …`
    pub gradient: Option<Gradient>,
    /// From the keyword to the end.
    pub span: Span,
}

/// A gradient of one's own.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// Names of the cotangents, one per result.
    pub cotangents: Vec<Name>,
    /// Gives one entry per argument.
    pub body: Expr,
    /// All of it.
    pub span: Span,
}

/// A parameter of an item.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name.
    pub name: Name,
    /// `const name: float`.
    pub is_const: bool,
    /// Its type, if written.
    pub ty: Option<Type>,
    /// Its range, if written.
    pub range: Option<Range>,
    /// Its default, if written.
    pub default: Option<Expr>,
    /// All of it.
    pub span: Span,
}

/// A range of a numeric parameter.
#[derive(Clone, Debug)]
pub struct Range {
    /// Lower bound.
    pub low: Option<Bound>,
    /// Upper bound.
    pub high: Option<Bound>,
    /// All of it.
    pub span: Span,
}

/// One end of a range.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The number.
    pub value: Expr,
    /// Whether the number itself is allowed.
    pub inclusive: bool,
}

/// A written type.
#[derive(Clone, Debug)]
pub struct Type {
    /// What.
    pub kind: TypeKind,
    /// Where.
    pub span: Span,
}

/// Kinds of types.
#[derive(Clone, Debug)]
pub enum TypeKind {
    /// `f32`, `float[B, N]`, `q8(block = 256)[...]`, `keep[...]`.
    Array {
        /// Element type.
        elem: ElemType,
        /// Dimensions; `None` if no brackets were written (a scalar), `Some(vec![])` for `bool[]`.
        dims: Option<Vec<DimExpr>>,
    },
    /// `int`
    Int,
    /// `str`
    Str,
    /// `bool` without brackets: a compile-time flag.
    Bool,
    /// `fn`; with a signature `fn(A, B) -> C`.
    Fn(Option<(Vec<Type>, Box<Type>)>),
    /// `model`
    Model,
    /// `optimizer`
    Optimizer,
    /// `data`
    Data,
    /// `type`
    Type,
    /// `tree`
    Tree,
    /// `(A, B)`
    Tuple(Vec<Type>),
    /// `{ w: A, b: B }`
    Record(Vec<(Name, Type)>),
    /// `[A]`: a list.
    List(Box<Type>),
    /// `cart`, `forest[100]`: an alias (resolved later; also an element type parameter).
    Named {
        /// The alias.
        name: Name,
        /// Dimension arguments.
        args: Vec<Expr>,
    },
}

/// An element type in a written type.
#[derive(Clone, Debug)]
pub enum ElemType {
    /// `f32` …
    Concrete(DType),
    /// `float`
    Float,
    /// A parameter of type `type`.
    Named(Name),
    /// `q8(block = 256, signed = false)`: a block-quantized state.
    Quantized(Vec<Arg>),
}

/// A dimension in a written type.
#[derive(Clone, Debug)]
pub enum DimExpr {
    /// `...`
    Ellipsis(Span),
    /// A number, name, or arithmetic.
    Expr(Expr),
}

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
    /// `check c, "claim"`, `check a ~= b within e relative, "claim"`
    Check {
        /// What must hold.
        cond: Expr,
        /// The tolerance.
        within: Option<Expr>,
        /// Whether it is relative.
        relative: bool,
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

/// `data`, `train` or `search`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// `data`
    Data,
    /// `train`
    Train,
    /// `search`
    Search,
}

/// A declarative block.
#[derive(Clone, Debug)]
pub struct BlockItem {
    /// Which.
    pub kind: BlockKind,
    /// Its name.
    pub name: Name,
    /// Parameters.
    pub params: Vec<Param>,
    /// Entries in order.
    pub entries: Vec<BlockEntry>,
    /// All of it.
    pub span: Span,
}

/// An entry of a declarative block.
#[derive(Clone, Debug)]
pub enum BlockEntry {
    /// `let p = e`
    Let {
        /// What is bound.
        pattern: Pattern,
        /// Value.
        value: Expr,
        /// All of it.
        span: Span,
    },
    /// `x = e` in `data`: a field.
    Field {
        /// Its name.
        name: Name,
        /// Its value.
        value: Expr,
    },
    /// A setting.
    Setting(Setting),
}

/// A setting: one word, values, clauses, options.
///
/// Special forms: `stop when c` has the clause `when` and no value; `on nan { stop }` the values `nan` and a block; `task t { steps = 300 }` the value
/// [`ExprKind::Run`], `strategy s { islands = 4 }` a call with named arguments; in `space` and `control`, `require e` and `forbid e` are clauses.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `steps`, `data`, `model`, …
    pub word: Name,
    /// `name = value` right after the word (`model net = mlp()`, `metric accuracy = e`, `optimizer gen = …, disc = …`, `split train = 0.8, seed = 0`: all of them,
    /// up to the first clause; in `model`, `loss` and `optimizer` behind clauses too), or one value without a name.
    pub values: Vec<(Option<Name>, Expr)>,
    /// `on e`, `over s in 0..3`, `every 100`, `when c`, `times 5`, `stored bf16`, `within e`.
    pub clauses: Vec<Clause>,
    /// `, name = value` options: those after a value without a name, or after a clause.
    pub options: Vec<(Name, Expr)>,
    /// All of it.
    pub span: Span,
}

/// A clause of a setting.
#[derive(Clone, Debug)]
pub struct Clause {
    /// `on`, `over`, `every`, `when`, …
    pub word: Name,
    /// `seed` of `over seed in 0..3`, `disc` of `disc every 5`.
    pub variable: Option<Name>,
    /// Its value, if it takes one.
    pub value: Option<Expr>,
}

/// An experiment.
#[derive(Clone, Debug)]
pub struct ExperimentItem {
    /// Its name.
    pub name: Name,
    /// Parameters.
    pub params: Vec<Param>,
    /// The script.
    pub body: Block,
    /// All of it.
    pub span: Span,
}

/// An external process.
#[derive(Clone, Debug)]
pub struct ExternItem {
    /// Its name.
    pub name: Name,
    /// The command.
    pub command: Expr,
    /// `timeout = 10s`, …
    pub options: Vec<(Name, Expr)>,
    /// Parameters.
    pub params: Vec<Param>,
    /// Result type.
    pub result: Type,
    /// All of it.
    pub span: Span,
}
