//! Operators of the language: arithmetic, comparisons, logic, on compile-time numbers and arrays alike.

use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::OpError;
use crate::value::{Array, Val};
use optc_abi::DType;

/// A binary operator of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`, always a float quotient.
    Div,
    /// `//`
    FloorDiv,
    /// `%`
    Rem,
    /// `@`
    MatMul,
    /// `^`
    Pow,
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
    /// `and`
    And,
    /// `or`
    Or,
    /// `&`
    BitAnd,
    /// `bit_or`
    BitOr,
    /// `xor`
    BitXor,
    /// `<<`
    Shl,
    /// `>>`
    Shr,
}

/// A prefix operator of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnOp {
    /// `-x`
    Neg,
    /// `not x`
    Not,
    /// `~x`
    BitNot,
}

/// Applies a binary operator.
///
/// # Errors
/// Element types that differ, shapes that do not broadcast, operands of the wrong kind.
pub fn binary(_cx: &mut Cx, op: BinOp, _a: &Val, _b: &Val) -> Result<Val, OpError> {
    Err(OpError::new("E0701", format!("{op:?} is not yet supported")))
}

/// Applies a prefix operator.
///
/// # Errors
/// Operands of the wrong kind.
pub fn unary(_cx: &mut Cx, op: UnOp, _a: &Val) -> Result<Val, OpError> {
    Err(OpError::new("E0701", format!("{op:?} is not yet supported")))
}

/// `x as dtype`.
///
/// # Errors
/// A value that is no number.
pub fn cast(_cx: &mut Cx, _a: &Val, _dtype: DType) -> Result<Val, OpError> {
    Err(OpError::new("E0701", "casts are not yet supported"))
}

/// The value as a run-time array that is not weak: numbers, lists of numbers and weak scalars take `dtype`, or i32, f32 and bool alone.
///
/// # Errors
/// A value that is no array or number; an array of another type than `dtype`.
pub fn materialize(_cx: &mut Cx, _a: &Val, _dtype: Option<DType>) -> Result<Array, OpError> {
    Err(OpError::new("E0701", "arrays are not yet supported"))
}

/// The array broadcast to a shape by NumPy's rule.
///
/// # Errors
/// Shapes that do not fit.
pub fn broadcast_to(_cx: &mut Cx, _a: &Array, _shape: &[Dim]) -> Result<Array, OpError> {
    Err(OpError::new("E0701", "broadcasts are not yet supported"))
}

/// An array literal `[a, b, c]`: an array if all elements are scalars or arrays of one shape that need a run-time place; a list if one is no number, or if all are
/// compile-time integers, flags or lists of such (it turns into an array where one is wanted).
///
/// # Errors
/// Scalars whose element types differ.
pub fn array_literal(_cx: &mut Cx, _elements: &[Val]) -> Result<Val, OpError> {
    Err(OpError::new("E0701", "arrays are not yet supported"))
}
