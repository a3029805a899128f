//! Differentiation of graphs: forward mode, and reverse mode by linearizing and transposing.

use optc_ir::graph::{CallOp, Graph, Origin};
use std::sync::Arc;

/// Why a graph cannot be differentiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffError {
    /// What stands in the way, as a sentence without a final period.
    pub message: String,
    /// The operation in question.
    pub origin: Origin,
}

/// Forward mode. Inputs of the result are `f`'s inputs, then one tangent per index in `wrt` (float inputs); outputs are `f`'s outputs, then one
/// tangent per float output, in order, zeros where none.
///
/// # Errors
/// If `wrt` names an input that is not a float.
pub fn jvp(f: &Graph, wrt: &[usize]) -> Result<Graph, DiffError> {
    let _ = (f, wrt);
    Err(DiffError { message: "derivatives are not built in yet".into(), origin: Origin::default() })
}

/// Reverse mode. Inputs of the result are `f`'s inputs, then one cotangent per float output of `f`, in order; outputs are `f`'s outputs, then one
/// cotangent per index in `wrt` (float inputs), zeros where no output depends on it.
///
/// # Errors
/// If `wrt` names an input that is not a float, or if a loop with a run-time number of passes would have to remember its values.
pub fn vjp(f: &Graph, wrt: &[usize]) -> Result<Graph, DiffError> {
    let _ = (f, wrt);
    Err(DiffError { message: "derivatives are not built in yet".into(), origin: Origin::default() })
}

/// `f` as a call whose reverse rule computes it anew from its operands instead of keeping intermediate values.
///
/// # Errors
/// As [`vjp`].
pub fn checkpoint(name: &str, f: Arc<Graph>) -> Result<CallOp, DiffError> {
    let _ = (name, f);
    Err(DiffError { message: "derivatives are not built in yet".into(), origin: Origin::default() })
}
