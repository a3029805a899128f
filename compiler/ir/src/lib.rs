//! Scalar table, graph IR, kernel IR, verifiers, text form and the f64 reference interpreter.

pub mod build;
pub mod eval;
pub mod graph;
pub mod infer;
pub mod interp;
pub mod kernel;
pub mod kernel_interp;
pub mod kernel_verify;
pub mod lanes;
pub mod lanes64;
pub mod launches;
pub mod native;
pub mod scalar;
pub mod text;
pub mod vecmath;
pub mod vecmath64;
#[cfg(test)]
mod vecmath_tests;
pub mod verify;

pub use graph::{Graph, Node, NodeId, NodeTy, Op, Origin, Ty};
pub use interp::{interpret, interpret_with};
pub use kernel_interp::{run_kernel, run_kernel_on, run_verified};
pub use kernel_verify::verify_kernel;
pub use scalar::ScalarOp;
pub use verify::verify;
