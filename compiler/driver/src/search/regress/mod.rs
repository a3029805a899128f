//! Symbolic regression: `search f(x, y) { … }` over data.

pub mod archive;
pub mod block;
pub mod data;
pub mod emit;
pub mod hunt;
pub mod report;
