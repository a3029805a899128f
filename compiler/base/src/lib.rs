//! Ids, spans, source map and diagnostics, shared by every stage.

pub mod diag;
pub mod id;
pub mod source;

pub use diag::{Code, Diagnostic, Label, Severity};
pub use id::{Id, IdVec};
pub use source::{SourceId, SourceMap, Span};
