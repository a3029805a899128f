//! Built-in operations by name.

use crate::cx::Cx;
use crate::error::OpError;
use crate::value::{Arg, Array, Val};

/// Whether an operation of this name exists (`exp`, `random.normal`; names that give "not yet supported" too).
pub fn is_builtin(_name: &str) -> bool {
    false
}

/// All names, for suggestions.
pub fn builtin_names() -> Vec<&'static str> {
    Vec::new()
}

/// `pi`, `inf`, `nan`.
pub fn constant(name: &str) -> Option<Val> {
    match name {
        "pi" => Some(Val::Float(Some(std::f64::consts::PI))),
        "inf" => Some(Val::Float(Some(f64::INFINITY))),
        "nan" => Some(Val::Float(Some(f64::NAN))),
        _ => None,
    }
}

/// Calls an operation. `key` is the u32[2] key of a draw (`random.*`), `None` elsewhere.
///
/// # Errors
/// Arguments that do not fit.
pub fn call(_cx: &mut Cx, name: &str, _args: &[Arg], _key: Option<&Array>) -> Result<Val, OpError> {
    Err(OpError::new("E0701", format!("`{name}` is not yet supported")))
}
