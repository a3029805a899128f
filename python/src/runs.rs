//! Trains and experiments.

use crate::host::{Kept, series};
use crate::module::{environment, module, open, spec_fault};
use crate::shared::locked;
use crate::{Fault, handles, wrong};
use optc::host_env::With;
use optc_abi::Tensor;
use optc_elab::script;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is to be run.
#[derive(Debug, Deserialize)]
pub struct Asked {
    module: u64,
    /// A train or an experiment.
    item: String,
    /// `name=value` each.
    set: Vec<String>,
    seed: Option<u64>,
    resume: bool,
    verbose: bool,
}

/// An array for the caller, who releases it.
fn handed_out(tensor: &Arc<Tensor>) -> Value {
    let address = tensor.as_ptr() as usize;
    json!({ "handle": handles::add(handles::Thing::Memory(tensor.clone())), "address": address, "dtype": tensor.dtype.name(), "shape": tensor.shape })
}

/// Runs a train or an experiment of a spec, which is read anew, so that overrides are its own.
///
/// # Errors
/// There is none of this name; mistakes; a failure at run time. An interrupted run has the kind `interrupted`.
pub fn run(asked: &Asked) -> Result<Value, Fault> {
    let (name, text) = {
        let of = module(asked.module)?;
        let session = locked(&of.session);
        (session.path.to_string_lossy().into_owned(), session.text.clone())
    };
    let session = open(None, Some(&text), &name, &asked.set, asked.seed, asked.resume)?;
    let (trains, experiments) = (session.trains(), session.experiments());
    let is_train = trains.iter().any(|&i| session.name(i) == asked.item);
    let all: Vec<_> = trains.into_iter().chain(experiments).collect();
    let item = session
        .find(&asked.item, &all, "train or experiment")
        .map_err(|(message, help)| wrong(help.map_or(message.clone(), |help| format!("{message}; {help}"))))?;
    let mut kept = With(Kept::new(environment(&session, crate::shared::threads(), !asked.verbose), asked.verbose));
    let program = &session.program;
    let result = if is_train {
        script::run_train(program, item, &session.settings, &mut kept).map(Some)
    } else {
        script::run_experiment(program, item, &session.settings, &mut kept).map(|()| None)
    };
    let kept = kept.0;
    let result = result.map_err(|diagnostics| {
        let mut fault = spec_fault(&diagnostics, &program.sources);
        if kept.interrupted {
            fault["kind"] = json!("interrupted");
        }
        fault
    })?;
    Ok(match result {
        Some(result) => {
            let weights: Vec<Value> =
                kept.leaves.iter().zip(&result.weights).map(|(&k, t)| json!([kept.slots[k], handed_out(t)])).collect();
            let slots: Vec<Value> = kept.slots.iter().zip(&result.slots).map(|(name, t)| json!([name, handed_out(t)])).collect();
            json!({ "steps": result.steps, "seconds": result.seconds, "series": series(&result), "weights": weights, "slots": slots })
        }
        None => json!({
            "passed": kept.failed == 0, "checks": kept.checks, "tables": kept.tables, "printed": kept.printed, "plots": kept.plots, "saved": kept.saved,
            "runs": kept.runs,
        }),
    })
}
