//! `optc plot`: a schedule as a chart.

use super::{driver, say};
use crate::host_env::{Between, Driver, With};
use crate::messages::Messages;
use crate::session::Failed;
use crate::synthetic;
use optc_base::Diagnostic;
use optc_elab::host::{HostEnv, Output};
use optc_elab::script;
use optc_train::{Line, Plot};
use std::path::Path;

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
    let mut capture = With(Capture { driver: driver(session, 1, true, false), values: Vec::new() });
    let item = session.experiments().pop().ok_or(Failed)?;
    match script::run_experiment(&session.program, item, &session.settings, &mut capture) {
        Ok(()) => Ok(capture.0.values),
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

impl Between for Capture {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
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
}
