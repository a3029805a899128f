//! Graph passes: differentiation by linearize and transpose, and simplification by rules.

pub mod differentiate;
pub mod simplify;
