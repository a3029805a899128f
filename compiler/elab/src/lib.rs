//! The staged evaluator: syntax tree to diagnostics (check), graphs (lower) and values (host script).

pub mod api;
pub mod evaluator;
pub mod host;
pub mod model;
pub mod program;
pub mod scope;
pub mod value;

pub use api::check;
pub use evaluator::{Eval, Evaluator, Mode, Stop};
pub use host::{HostEnv, RunResult};
pub use program::TrainProgram;
pub use scope::Scope;
pub use value::Value;
