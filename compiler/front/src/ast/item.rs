//! Items: what a file declares.

use super::{Block, Expr, Name, Pattern, Type};
use optc_base::Span;
use std::sync::Arc;

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

/// A range of a parameter: the ends between which a number lies, or the strings it may be.
#[derive(Clone, Debug)]
pub struct Range {
    /// Lower bound.
    pub low: Option<Bound>,
    /// Upper bound.
    pub high: Option<Bound>,
    /// All strings that are allowed, `in ["optax", "torch"]`; none for numbers.
    pub among: Vec<Arc<str>>,
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
