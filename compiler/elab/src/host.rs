//! What the host script needs from outside: files, compiled code, training runs, output. The driver implements [`HostEnv`]; nothing here touches files or devices.

use crate::program::TrainProgram;
use crate::value::Series;
use indexmap::IndexMap;
use optc_abi::Tensor;
use optc_base::{Diagnostic, Span};
use optc_ir::Graph;
use std::sync::Arc;

/// A data source asked for.
#[derive(Clone, Debug)]
pub struct SourceRequest {
    /// The source's name (`csv`, `images`, …).
    pub kind: Arc<str>,
    /// The path as written (relative to `from`).
    pub path: Arc<str>,
    /// Name of the file that asks.
    pub from: Arc<str>,
    /// Where it asks.
    pub span: Span,
}

/// A loaded source.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// One array, and what else is known of it by name (`vocab`, `labels`, …).
    Array {
        /// The array.
        array: Arc<Tensor>,
        /// Facts about it.
        facts: Arc<IndexMap<Arc<str>, Fact>>,
    },
    /// Arrays by name, and what was saved with them about the tree they are.
    Arrays(Arc<IndexMap<Arc<str>, Arc<Tensor>>>, Option<Arc<str>>),
}

/// Something known of a source's array.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A number.
    Number(i64),
    /// Names by index.
    Names(Vec<String>),
    /// An array with one element for each example.
    Array(Arc<Tensor>),
}

/// The fields of a data block, whole or one split.
#[derive(Clone, Debug, Default)]
pub struct DataTable {
    /// The block's name (`digits`) or split (`digits.train`).
    pub name: String,
    /// Fields with one leading example axis of the same length.
    pub fields: IndexMap<Arc<str>, Arc<Tensor>>,
    /// Splits by name: example numbers in order. Empty for a split itself or a block without `split`.
    pub splits: IndexMap<Arc<str>, Arc<Vec<usize>>>,
    /// For a split: which examples of `fields` it has, in order; `None` means all.
    pub rows: Option<Arc<Vec<usize>>>,
}

impl DataTable {
    /// Number of examples.
    pub fn len(&self) -> usize {
        match &self.rows {
            Some(rows) => rows.len(),
            None => self.fields.values().next().map_or(0, |t| t.shape.first().copied().unwrap_or(0)),
        }
    }
    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a training run gives back.
#[derive(Clone, Debug, Default)]
pub struct RunResult {
    /// `loss`, metrics and auxiliary values, in order of their first record.
    pub series: IndexMap<String, Series>,
    /// Steps made, with those before a resume.
    pub steps: u64,
    /// Steps made by this run, without those before a resume.
    pub ran: u64,
    /// The final value of each slot of the program, in its order.
    pub slots: Vec<Arc<Tensor>>,
    /// The weights used in evaluation, one per model leaf (parameters and buffers), in slot order; equal to the slots where no `eval w` is given.
    pub weights: Vec<Arc<Tensor>>,
    /// Wall time of the training loop.
    pub seconds: f64,
    /// What was moved between memory and files, by name (`read`, `written`, …), where arrays live in files.
    pub offload: Option<Vec<(&'static str, f64)>>,
    /// Whether it was interrupted (Ctrl-C).
    pub interrupted: bool,
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A number.
    Number(f64),
    /// Words.
    Text(String),
}

/// A curve of a plot: one or several series (seeds), with its name.
#[derive(Clone, Debug)]
pub struct Curve {
    /// In the legend.
    pub name: String,
    /// Points (x, y) of each run; several runs are shown as their mean and range.
    pub runs: Vec<Vec<(f64, f64)>>,
}

/// What `plot` shows.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Curves, or groups of points.
    pub curves: Vec<Curve>,
    /// Points without lines.
    pub points: bool,
    /// Above it; the experiment's name where it is empty.
    pub title: String,
    /// A matrix in place of curves: its number of rows, its elements.
    pub heat: Option<(usize, Vec<f64>)>,
    /// Axis label.
    pub x_label: String,
    /// Axis label.
    pub y_label: String,
    /// Logarithmic axis.
    pub log_x: bool,
    /// Logarithmic axis, or colors.
    pub log_y: bool,
}

/// A value as `save` writes it.
#[derive(Clone, Debug)]
pub enum Saved {
    /// An array.
    Tensor(Tensor),
    /// A series.
    Series(Series),
    /// A number.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Several values.
    List(Vec<Saved>),
    /// Named values.
    Record(IndexMap<String, Saved>),
}

/// Something the script shows or writes.
#[derive(Clone, Debug)]
pub enum Output {
    /// `print`
    Print(String),
    /// `table`: column names, rows.
    Table(Vec<String>, Vec<Vec<Cell>>),
    /// `plot`
    Plot {
        /// Experiment it stands in, and which plot of it (from 0): names the file.
        experiment: String,
        /// What it shows.
        chart: Chart,
    },
    /// `save "path", value`: named arrays (one without a name for a single array).
    Save {
        /// As written.
        path: String,
        /// Name of the file that asks.
        from: Arc<str>,
        /// What.
        value: Saved,
        /// What a tree is made of beside its arrays, as a text that goes with them and is given back with them; `None` for a single array.
        tree: Option<String>,
    },
    /// `check`
    Check {
        /// The claim (or the text of the condition).
        claim: String,
        /// How often it was made: more than once in a loop.
        times: usize,
        /// How often it did not hold.
        failures: usize,
        /// What was found, for a failed check.
        detail: String,
        /// Where.
        span: Span,
    },
}

/// A request to a process.
#[derive(Clone, Debug)]
pub struct ProcessRequest {
    /// The command as written.
    pub command: Arc<str>,
    /// Name of the file that declares it; paths start from its folder.
    pub from: Arc<str>,
    /// Seconds an answer may take.
    pub timeout: f64,
    /// Log to write.
    pub record: Option<Arc<str>>,
    /// Log that answers instead of the process.
    pub replay: Option<Arc<str>>,
    /// What to send.
    pub message: serde_json::Value,
    /// Where it is asked.
    pub span: Span,
}

/// The outside world of the host script.
pub trait HostEnv {
    /// Runs a graph on inputs (compiled, cached by structure).
    ///
    /// # Errors
    /// A run-time failure (an index out of range) with its place.
    fn execute(&mut self, graph: &Graph, inputs: &[Arc<Tensor>]) -> Result<Vec<Tensor>, Diagnostic>;
    /// Loads a data source (cached by path).
    ///
    /// # Errors
    /// A missing or malformed file.
    fn load(&mut self, request: &SourceRequest) -> Result<Loaded, Diagnostic>;
    /// Cuts `n` examples into parts by fractions, after a permutation drawn from `seed` if there is one.
    fn split(&mut self, n: usize, fractions: &[f64], seed: Option<u64>) -> Vec<Vec<usize>>;
    /// Trains.
    ///
    /// # Errors
    /// A NaN, a run-time failure, a checkpoint that cannot be written.
    fn train(&mut self, program: TrainProgram) -> Result<RunResult, Diagnostic>;
    /// Sends a request to a process, which is started if it does not run, and gives its answer with the line it wrote.
    ///
    /// # Errors
    /// No such process, one that ends or does not answer in time, a log that does not hold the request.
    fn ask(&mut self, request: &ProcessRequest) -> Result<(serde_json::Value, String), Diagnostic>;
    /// Shows or writes something.
    ///
    /// # Errors
    /// A file that cannot be written.
    fn output(&mut self, output: Output) -> Result<(), Diagnostic>;
    /// Seconds since some fixed moment.
    fn now(&mut self) -> f64;
}
