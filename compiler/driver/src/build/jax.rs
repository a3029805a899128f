//! A module with an Optax transformation: the rule in `jax.numpy`, and on XLA's foreign function interface around a shared library.

use super::names::Names;
use super::rule::Built;

/// The module's text.
///
/// # Errors
/// An operation of the rule that has no form in `jax.numpy`.
pub fn module(_built: &Built, _names: &Names, _summary: &str) -> Result<String, String> {
    Err("not written yet".to_string())
}
