//! Lowering of index notation.

use crate::cx::Cx;
use crate::error::OpError;
use crate::ixpr::{IxExpr, IxLeft};
use crate::value::Array;

/// The array `let y[left] = body`: one axis per index on the left, in order, `...` for the leading axes that stay.
///
/// # Errors
/// Extents that do not agree or cannot be inferred.
pub fn indexed(_cx: &mut Cx, _left: &[IxLeft], _body: &IxExpr) -> Result<Array, OpError> {
    Err(OpError::new("E0701", "index notation is not yet supported"))
}

/// The value of an expression whose indices are all bound by reductions (`sum[k] a[k] * b[k]`): a scalar, or the leading axes that stay.
///
/// # Errors
/// As [`indexed`].
pub fn reduce_indexed(_cx: &mut Cx, _body: &IxExpr) -> Result<Array, OpError> {
    Err(OpError::new("E0701", "index notation is not yet supported"))
}
