//! The outside world of a train or an experiment that is run from Python: what it shows is kept, and shown only where that is asked for.

use optc::host_env::{Between, Driver};
use optc_base::Diagnostic;
use optc_elab::host::{Cell, Chart, HostEnv, Output, RunResult};
use optc_elab::program::TrainProgram;
use serde_json::{Value, json};

/// A driver, and what was shown.
pub struct Kept {
    driver: Driver,
    verbose: bool,
    /// Names of the slots of the last train, and which of them are leaves of models.
    pub slots: Vec<String>,
    /// See `slots`.
    pub leaves: Vec<usize>,
    /// Whether Ctrl-C ended a train.
    pub interrupted: bool,
    /// Trains, in short.
    pub runs: Vec<Value>,
    /// Lines.
    pub printed: Vec<String>,
    /// Tables: lists of records.
    pub tables: Vec<Value>,
    /// Plots.
    pub plots: Vec<Value>,
    /// Paths of what was saved.
    pub saved: Vec<String>,
    /// Claims and whether they hold.
    pub checks: Vec<Value>,
    /// How many of them do not.
    pub failed: usize,
}

impl Kept {
    /// Around a driver.
    pub fn new(driver: Driver, verbose: bool) -> Kept {
        Kept {
            driver,
            verbose,
            slots: Vec::new(),
            leaves: Vec::new(),
            interrupted: false,
            runs: Vec::new(),
            printed: Vec::new(),
            tables: Vec::new(),
            plots: Vec::new(),
            saved: Vec::new(),
            checks: Vec::new(),
            failed: 0,
        }
    }
}

/// The recorded values of a run: steps and values by name.
pub fn series(result: &RunResult) -> Value {
    let all = result.series.iter().map(|(name, s)| (name.clone(), json!({ "steps": s.steps, "values": numbers(&s.values) })));
    Value::Object(all.collect())
}

/// Numbers in JSON, which has no NaN and no infinities: those are texts.
fn numbers(values: &[f64]) -> Vec<Value> {
    values.iter().map(|&x| number(x)).collect()
}

/// A number in JSON.
pub fn number(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}

fn plot(chart: &Chart) -> Value {
    let points = |run: &[(f64, f64)]| run.iter().map(|&(x, y)| json!([number(x), number(y)])).collect::<Vec<_>>();
    let curves: Vec<Value> =
        chart.curves.iter().map(|c| json!({ "name": c.name, "runs": c.runs.iter().map(|r| points(r)).collect::<Vec<_>>() })).collect();
    json!({
        "title": chart.title, "x": chart.x_label, "y": chart.y_label, "log_x": chart.log_x, "log_y": chart.log_y, "points": chart.points, "curves": curves,
        "heat": chart.heat.as_ref().map(|(rows, values)| json!({ "rows": rows, "values": numbers(values) })),
    })
}

impl Between for Kept {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn train(&mut self, program: TrainProgram) -> Result<RunResult, Diagnostic> {
        self.slots = program.slots.iter().map(|s| s.name.clone()).collect();
        self.leaves = program.leaves();
        let (name, seed) = (program.name.clone(), program.seed);
        let result = self.driver.train(program);
        self.interrupted |= result.is_err() && optc::trainer::INTERRUPTED.load(std::sync::atomic::Ordering::SeqCst);
        let result = result?;
        self.runs.push(json!({ "train": name, "seed": seed, "steps": result.steps, "seconds": result.seconds, "series": series(&result) }));
        Ok(result)
    }

    fn output(&mut self, output: Output) -> Result<(), Diagnostic> {
        match &output {
            Output::Print(line) => self.printed.push(line.clone()),
            Output::Table(columns, rows) => {
                let cell = |c: &Cell| match c {
                    Cell::Number(x) => number(*x),
                    Cell::Text(t) => json!({ "text": t }),
                };
                let row = |row: &Vec<Cell>| Value::Object(columns.iter().cloned().zip(row.iter().map(cell)).collect());
                self.tables.push(Value::Array(rows.iter().map(row).collect()));
            }
            Output::Plot { experiment, chart } => {
                let mut shown = plot(chart);
                if chart.title.is_empty() {
                    shown["title"] = json!(experiment);
                }
                self.plots.push(shown);
                return self.driver.output(output);
            }
            Output::Save { path, .. } => {
                self.saved.push(path.clone());
                return self.driver.output(output);
            }
            Output::Check { claim, times, failures, detail, .. } => {
                self.failed += failures;
                self.checks
                    .push(json!({ "claim": claim, "passed": *failures == 0, "times": times, "failures": failures, "detail": detail }));
            }
        }
        if self.verbose { self.driver.output(output) } else { Ok(()) }
    }
}
