//! Array operations of the language: shape rules with symbolic dimensions, and their expansion into graph nodes.
//!
//! The same function checks (dimensions may be symbols, nothing is emitted) and lowers (dimensions are numbers, nodes are appended to the graph on top of the stack in [`Cx`]).

pub mod cx;
pub mod dim;
pub mod error;
pub mod ixpr;
pub mod value;

pub use cx::Cx;
pub use dim::{Dim, Symbol};
pub use error::OpError;
pub use value::{Arg, Array, Ix, LevelId, Val};
