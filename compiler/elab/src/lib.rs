//! The staged evaluator: syntax tree to diagnostics (check), graphs (lower) and values (host script).

mod arith;
mod call;
pub mod check;
mod cond;
pub mod evaluator;
mod expr;
mod force;
mod grad;
mod hooks;
pub mod host;
mod loops;
mod methods;
pub mod model;
pub mod names;
mod notation;
pub mod program;
mod rng;
pub mod scope;
mod special;
mod stmt;
pub mod strings;
pub mod tree;
pub mod types;
pub mod value;
mod walk;

pub use check::{check, check_module};
pub use evaluator::{Eval, Evaluator, Mode, Stop};
pub use grad::Differentiated;
pub use host::{HostEnv, RunResult};
pub use program::TrainProgram;
pub use scope::Scope;
pub use value::Value;
