//! Scalar table, graph IR, kernel IR, verifiers, text form and the f64 reference interpreter.

pub mod build;
pub mod eval;
pub mod graph;
pub mod infer;
pub mod interp;
pub mod kernel;
pub mod scalar;
pub mod verify;

pub use graph::{Graph, Node, NodeId, NodeTy, Op, Origin, Ty};
pub use interp::{interpret, interpret_with};
pub use scalar::ScalarOp;
pub use verify::verify;
