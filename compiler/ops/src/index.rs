//! Indexing in brackets and updates of parts.

use crate::cx::Cx;
use crate::error::OpError;
use crate::value::{Array, Ix, Val};

/// `base[items]`: of an array, a list, a tuple.
///
/// # Errors
/// Too many indices, constants out of range, indices of the wrong type.
pub fn index(_cx: &mut Cx, _base: &Val, _items: &[Ix]) -> Result<Val, OpError> {
    Err(OpError::new("E0701", "indexing is not yet supported"))
}

/// The array with `base[items] <- value`; the value is broadcast to the part.
///
/// # Errors
/// As [`index`], and a value that does not fit the part.
pub fn index_update(_cx: &mut Cx, _base: &Array, _items: &[Ix], _value: &Val) -> Result<Array, OpError> {
    Err(OpError::new("E0701", "updates of parts are not yet supported"))
}
