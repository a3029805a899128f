//! `optc plot`: a schedule as a chart.

use super::{driver, say};
use crate::host_env::Driver;
use crate::messages::Messages;
use crate::session::Failed;
use crate::synthetic;
use optc_abi::Tensor;
use optc_base::Diagnostic;
use optc_elab::TrainProgram;
use optc_elab::host::{HostEnv, Loaded, Output, ProcessRequest, RunResult, SourceRequest};
use optc_elab::script;
use optc_ir::Graph;
use optc_train::{Line, Plot};
use std::path::Path;
use std::sync::Arc;

/// Draws the first `steps` values of a schedule of the file or the standard library.
///
/// # Errors
/// A mistake in the file or the expression, a chart that cannot be written.
pub fn plot(file: &Path, expression: &str, steps: usize, output: &Path, messages: &Messages) -> Result<(), Failed> {
    if let Err(why) = crate::session::read_text(file) {
        messages.error("R0101", &format!("cannot read {}: {why}", file.display()), None);
        return Err(Failed);
    }
    let session = synthetic::schedule(expression, Some(file), steps.max(1)).checked(messages)?;
    let values = values(&session, messages)?;
    let chart =
        Plot { title: expression.to_string(), x_label: "step".to_string(), lines: vec![Line::values("", &values)], ..Plot::default() };
    if let Err(e) = chart.write(output) {
        messages.error(e.code, &e.to_string(), e.help.as_ref().map(|h| h.to_string()).as_deref());
        return Err(Failed);
    }
    let (first, last) = (values.first().copied().unwrap_or(f64::NAN), values.last().copied().unwrap_or(f64::NAN));
    let (least, greatest) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    let number = |x: f64| optc_abi::number::shown(x, optc_train::table::DIGITS);
    say(&format!(
        "{}: {} steps, first {}, last {}, least {}, greatest {}",
        output.display(),
        values.len(),
        number(first),
        number(last),
        number(least),
        number(greatest)
    ));
    Ok(())
}

/// The values that the experiment of the session plots.
fn values(session: &crate::Session, messages: &Messages) -> Result<Vec<f64>, Failed> {
    let mut capture = Capture { driver: driver(session, 1, true, false), values: Vec::new() };
    let item = session.experiments().pop().ok_or(Failed)?;
    match script::run_experiment(&session.program, item, &session.settings, &mut capture) {
        Ok(()) => Ok(capture.values),
        Err(diagnostics) => {
            messages.print(&diagnostics, &session.program.sources);
            Err(Failed)
        }
    }
}

/// The driver's environment, but curves are kept instead of drawn.
struct Capture {
    driver: Driver,
    values: Vec<f64>,
}

impl HostEnv for Capture {
    fn execute(&mut self, graph: &Graph, inputs: &[Arc<Tensor>]) -> Result<Vec<Tensor>, Diagnostic> {
        self.driver.execute(graph, inputs)
    }
    fn load(&mut self, request: &SourceRequest) -> Result<Loaded, Diagnostic> {
        self.driver.load(request)
    }
    fn split(&mut self, n: usize, fractions: &[f64], seed: Option<u64>) -> Vec<Vec<usize>> {
        self.driver.split(n, fractions, seed)
    }
    fn train(&mut self, program: TrainProgram) -> Result<RunResult, Diagnostic> {
        self.driver.train(program)
    }
    fn ask(&mut self, request: &ProcessRequest) -> Result<(serde_json::Value, String), Diagnostic> {
        self.driver.ask(request)
    }
    fn output(&mut self, output: Output) -> Result<(), Diagnostic> {
        match output {
            Output::Plot { chart, .. } => {
                self.values = chart.curves.into_iter().flat_map(|c| c.runs).flatten().map(|(_, y)| y).collect();
                Ok(())
            }
            other => self.driver.output(other),
        }
    }
    fn now(&mut self) -> f64 {
        self.driver.now()
    }
}
