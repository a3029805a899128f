//! Ids, spans, source map and diagnostics, shared by every stage.

pub mod diag;
pub mod id;
pub mod nearest;
pub mod pages;
pub mod source;

pub use diag::{Code, Diagnostic, Label, Severity};
pub use id::{Id, IdVec};
pub use nearest::nearest;
pub use source::{SourceId, SourceMap, Span};
