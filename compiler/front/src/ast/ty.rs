//! Types as they are written.

use super::{Arg, Expr, Name};
use optc_abi::DType;
use optc_base::Span;

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
