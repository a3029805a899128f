//! The syntax tree: what was written, with spans, before any meaning.
//!
//! Names are resolved later, over the scopes of [`crate::modules`]; nothing here knows types, shapes or values.

mod expr;
mod item;
mod stmt;
mod ty;

pub use expr::*;
pub use item::*;
pub use stmt::*;
pub use ty::*;

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
