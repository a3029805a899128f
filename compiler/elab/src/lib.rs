//! The staged evaluator: syntax tree to diagnostics (check), graphs (lower) and values (host script).

pub mod args;
mod arith;
mod branches;
mod call;
pub mod check;
pub mod check_train;
mod comprehension;
mod cond;
pub mod data;
pub mod evaluator;
mod exits;
mod expr;
mod force;
mod foreign;
mod grad;
pub mod host;
mod loop_check;
mod looped;
mod loops;
mod methods;
pub mod model;
pub mod names;
mod notation;
pub mod optimizer;
pub mod output;
mod param;
mod process;
pub mod program;
mod rng;
mod run_settings;
pub mod scope;
pub mod script;
pub mod settings;
pub mod sources;
mod special;
mod stmt;
pub mod strings;
mod tally;
pub mod train;
pub mod tree;
pub mod types;
pub mod value;
mod variant;
mod walk;
mod with;

#[cfg(test)]
mod tests;

pub use check::{check, check_module};
pub use evaluator::{Eval, Evaluator, Mode, Stop};
pub use grad::Differentiated;
pub use host::{HostEnv, RunResult};
pub use program::TrainProgram;
pub use scope::Scope;
pub use value::Value;
