//! The evaluator: its state, and what every part of it needs.

use crate::host::HostEnv;
use crate::model::{ParamCx, ParamLeaf, Recorder};
use crate::value::Value;
use optc_base::{Code, Diagnostic, Span};
use optc_front::modules::Program;
use optc_ir::graph::Graph;
use optc_ops::{Array, Cx, OpError};

/// What evaluation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Types and shapes with symbolic sizes; nothing is computed.
    Check,
    /// Sizes are numbers; array operations become nodes of a graph.
    Lower,
    /// The experiment script: as `Lower`, and arrays can be looked at ([`Evaluator::force`]).
    Host,
}

/// Why evaluation of an expression ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A mistake; its diagnostic has been recorded.
    Reported,
    /// `break`
    Break,
    /// `continue`
    Continue,
}

/// The result of evaluation.
pub type Eval<T = Value> = Result<T, Stop>;

/// Evaluates expressions, statements and calls of one program.
pub struct Evaluator<'p> {
    /// The program.
    pub program: &'p Program,
    /// The graphs under construction.
    pub cx: Cx,
    /// What it is for.
    pub mode: Mode,
    /// What was found wrong so far.
    pub diagnostics: Vec<Diagnostic>,
    /// The outside world, in host mode.
    pub host: Option<&'p mut dyn HostEnv>,
    /// Whether parameters are drawn or looked up, inside a model.
    pub params: Option<ParamCx>,
    /// Buffers and metrics that bodies leave behind.
    pub recorder: Recorder,
    /// The key of draws (u32[2]); `None` is a key of seed 0 made at the first draw.
    pub key: Option<Array>,
    /// What `training` means now (`None`: not known while checking).
    pub training: Option<bool>,
    /// Whether an optimizer body is evaluated, so that `tree.*` are collectives.
    pub in_optimizer: bool,
    /// Whether the statement at hand belongs to the script itself (host mode, outside compiled functions).
    pub in_script: bool,
}

impl<'p> Evaluator<'p> {
    /// An evaluator of a program.
    pub fn new(program: &'p Program, mode: Mode) -> Evaluator<'p> {
        Evaluator {
            program,
            cx: if mode == Mode::Check { Cx::check() } else { Cx::lower() },
            mode,
            diagnostics: Vec::new(),
            host: None,
            params: None,
            recorder: Recorder::default(),
            key: None,
            training: if mode == Mode::Check { None } else { Some(false) },
            in_optimizer: false,
            in_script: mode == Mode::Host,
        }
    }
    /// Records a diagnostic and stops.
    ///
    /// # Errors
    /// Always [`Stop::Reported`].
    pub fn fail<T>(&mut self, diagnostic: Diagnostic) -> Eval<T> {
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
        Err(Stop::Reported)
    }
    /// An error with a code, a place and a message.
    ///
    /// # Errors
    /// Always [`Stop::Reported`].
    pub fn error<T>(&mut self, code: &'static str, span: Span, message: impl Into<String>) -> Eval<T> {
        self.fail(Diagnostic::error(Code(code), span, message))
    }
    /// The result of an operation, blaming `span` if it failed.
    ///
    /// # Errors
    /// The operation's error, recorded.
    pub fn lift<T>(&mut self, result: Result<T, OpError>, span: Span) -> Eval<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => self.fail(error.diagnostic(span)),
        }
    }
    /// Builds a graph of its own: `f` gets an evaluator whose graph on top is new (make its inputs first, with `cx.input`) and returns the outputs. Gives the graph,
    /// whose last inputs stand for arrays of outer graphs, and those arrays. While checking, the graph is empty.
    ///
    /// # Errors
    /// What `f` reports.
    pub fn subgraph<T>(&mut self, f: impl FnOnce(&mut Self) -> Eval<(T, Vec<Array>)>) -> Eval<(T, Graph, Vec<Array>)> {
        self.cx.push_level();
        let result = f(self);
        let outputs = match &result {
            Ok((_, outputs)) if self.cx.emitting() => outputs.iter().map(|a| self.cx.node(a)).collect(),
            _ => Vec::new(),
        };
        if self.cx.emitting() {
            self.cx.graph().outputs = outputs;
        }
        let (graph, captured) = self.cx.pop_level();
        result.map(|(value, _)| (value, graph, captured))
    }
    /// Evaluates `f` where calls of unbound models that carry a label draw their parameters; gives the leaves in order of declaration.
    ///
    /// # Errors
    /// What `f` reports.
    pub fn initialize<T>(&mut self, key: Array, f: impl FnOnce(&mut Self) -> Eval<T>) -> Eval<(T, Vec<ParamLeaf>)> {
        let saved_key = self.key.replace(key.clone());
        let saved = self.recorder.initializing.replace(crate::model::Initializing { key, leaves: Vec::new() });
        let result = f(self);
        self.key = saved_key;
        let done = std::mem::replace(&mut self.recorder.initializing, saved);
        result.map(|value| (value, done.map(|i| i.leaves).unwrap_or_default()))
    }
}
