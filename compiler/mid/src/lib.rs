//! Graph passes: differentiation by linearize and transpose, batching, simplification by rules, and the partition of a step among devices.

pub mod batch;
pub mod differentiate;
pub mod partition;
pub mod simplify;
