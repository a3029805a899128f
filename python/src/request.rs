//! Requests in JSON and their answers.

use crate::step::Asked;
use crate::{Fault, call, module, on_a_deep_stack, runs, shared, step};
use optc_elab::given::Given;
use serde::Deserialize;
use serde_json::{Value, json};

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// The version.
    Version,
    /// Opens a spec.
    Open {
        /// A file.
        path: Option<String>,
        /// A text, and the name that stands for it.
        text: Option<String>,
        /// Its name.
        #[serde(default)]
        name: String,
    },
    /// Compiles a function for arguments.
    Function {
        /// Of which spec.
        module: u64,
        /// Its name.
        name: String,
        /// Arguments, by name where they have one.
        args: Vec<(Option<String>, Given)>,
    },
    /// Compiles an optimizer for leaves.
    Optimizer(Asked),
    /// Runs a train or an experiment.
    Run(runs::Asked),
    /// The optimizers of the standard library.
    Optimizers,
    /// The source of an item of the standard library.
    Show {
        /// Its name or path.
        path: String,
    },
    /// The number of threads, or a new one.
    Threads {
        /// 0: all cores.
        set: Option<usize>,
    },
}

/// Answers.
///
/// # Errors
/// What the request asks for cannot be done.
pub fn answer(request: Request) -> Result<Value, Fault> {
    match request {
        Request::Version => Ok(json!(env!("CARGO_PKG_VERSION"))),
        Request::Threads { set } => {
            if let Some(n) = set {
                shared::set_threads(n);
            }
            Ok(json!(shared::threads()))
        }
        Request::Optimizers => Ok(module::optimizers()),
        Request::Show { path } => module::show(&path),
        Request::Open { path, text, name } => on_a_deep_stack(|| module::open_module(path.as_deref(), text.as_deref(), &name)),
        Request::Function { module, name, args } => on_a_deep_stack(|| call::compile(module, &name, &args)),
        Request::Optimizer(asked) => on_a_deep_stack(|| step::compile(&asked)),
        Request::Run(asked) => on_a_deep_stack(|| runs::run(&asked)),
    }
}
