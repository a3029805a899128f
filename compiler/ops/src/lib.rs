//! Array operations of the language: shape rules with symbolic dimensions, and their expansion into graph nodes.
//!
//! The same function checks (dimensions may be symbols, nothing is emitted) and lowers (dimensions are numbers, nodes are appended to the graph on top of the stack in [`Cx`]).

mod args;
pub mod arith;
pub mod builtin;
mod conv;
mod create;
pub mod cx;
pub mod dim;
pub mod dim_arith;
pub mod dim_solve;
mod einsum;
mod elementwise;
pub mod error;
mod fold;
mod gamma;
pub mod index;
mod index_plan;
pub mod ixpr;
mod linalg;
mod matmul;
mod meet;
pub mod notation;
mod order;
mod prim;
pub mod quantize;
mod random;
mod reduce;
mod shape_ops;
mod show;
mod softmax;
pub mod value;

pub use arith::{BinOp, UnOp, array_literal, as_written, binary, broadcast_to, cast, materialize, unary};
pub use builtin::{builtin_names, call, constant, is_builtin, operations, parameters};
pub use cx::{Cx, Draws};
pub use dim::{Dim, Symbol};
pub use dim_arith::Fit;
pub use dim_solve::{Bindings, substitute, unify};
pub use error::OpError;
pub use index::{index, index_update};
pub use ixpr::{IxExpr, IxId, IxKind, IxLeft, IxVar};
pub use meet::are_flags;
pub use notation::{indexed, reduce_indexed};
pub use quantize::{Quantized, Stored};
pub use shape_ops::transposed;
pub use value::{Arg, Array, Ix, LevelId, Val};
