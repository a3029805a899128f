//! Graph passes: differentiation by linearize and transpose, batching, and simplification by rules.

pub mod batch;
pub mod differentiate;
pub mod simplify;
