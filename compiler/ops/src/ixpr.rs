//! Index notation: expressions whose elements are addressed by named indices.
//!
//! The elaborator translates the right-hand side of `let y[i, j] = …` and the operand of `sum[k] …` into an [`IxExpr`]; [`crate::indexed`] lowers it to matrix products,
//! convolutions, windows, gathers, and elementwise arrays whose axes are the indices.

use crate::dim::Dim;
use crate::value::Val;
use optc_base::Span;
use std::sync::Arc;

/// Identity of an index within one binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IxId(pub u32);

/// An index: its name and, if it was given, its extent.
#[derive(Clone, Debug)]
pub struct IxVar {
    /// Identity.
    pub id: IxId,
    /// Name, for messages.
    pub name: Arc<str>,
    /// `i < N`
    pub extent: Option<Dim>,
    /// Where it was introduced.
    pub span: Span,
}

/// One place of the left-hand side `y[…, i, j]`.
#[derive(Clone, Debug)]
pub enum IxLeft {
    /// An index.
    Var(IxVar),
    /// `...`: the leading axes that the body leaves unnamed.
    Ellipsis(Span),
}

/// An expression over indices.
#[derive(Clone, Debug)]
pub struct IxExpr {
    /// What.
    pub kind: IxKind,
    /// Where.
    pub span: Span,
}

/// Kinds of expressions over indices.
#[derive(Clone, Debug)]
pub enum IxKind {
    /// A value without indices: the same for all.
    Value(Val),
    /// An index as an integer.
    Index(IxId),
    /// `a[i, 2*j + u, ids[k], 3, ...]`: one entry per axis of the base (`None`: the rest of its leading axes, written `...`, which stay leading axes of the result).
    Access {
        /// The array.
        base: Val,
        /// Subscripts.
        subscripts: Vec<Option<IxExpr>>,
    },
    /// An operator or builtin elementwise operation by its name in [`crate::call`] (`add`, `exp`, `where`, `eq`, …).
    Apply {
        /// Which.
        op: &'static str,
        /// Operands.
        args: Vec<IxExpr>,
    },
    /// `as f32`
    Cast(Box<IxExpr>, optc_abi::DType),
    /// `sum[k] …`
    Reduce {
        /// `sum prod mean max min any all argmax argmin logsumexp norm`
        op: Arc<str>,
        /// The indices it runs over.
        indices: Vec<IxVar>,
        /// Of what.
        body: Box<IxExpr>,
    },
}
