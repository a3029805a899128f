//! The evaluator: its state, and what every part of it needs.

use crate::exits::Exits;
use crate::force::Forced;
use crate::host::HostEnv;
use crate::model::{Initializing, ParamCx, ParamLeaf, Recorder};
use crate::optimizer::OptRun;
use crate::rng::OtherSites;
use crate::script::ScriptState;
use crate::sites::Sites;
use crate::value::Value;
use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ItemRef;
use optc_front::ast::ExprId;
use optc_front::modules::Program;
use optc_ir::graph::Graph;
use optc_ops::{Array, Cx, Dim, OpError};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of stack that nested evaluation may use; the driver gives it more.
const STACK_LIMIT: usize = 48 << 20;

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
}

/// The result of evaluation.
pub type Eval<T = Value> = Result<T, Stop>;

/// The body being evaluated: which layer calls it holds, how often its loops have gone round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instance {
    /// Path parts of the layer calls of the body, by place.
    pub names: Rc<FxHashMap<ExprId, Arc<str>>>,
    /// Numbers of the passes of unrolled loops around the place at hand.
    pub passes: Vec<usize>,
    /// Buffers of the layer: name in the body, path.
    pub buffers: Vec<(Arc<str>, Arc<str>)>,
    /// Distinguishes this body from others, for draws.
    pub place: u64,
}

/// A call in progress, for limits and messages.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub item: Option<ItemRef>,
    /// The call.
    pub span: Span,
}

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
    /// The key of draws (u32[2]); `None` is the key of seed 0.
    pub key: Option<Array>,
    /// Indices of the loops entered since the key was set; draws depend on them.
    pub counters: Vec<Value>,
    /// What `training` means now (`None`: not known while checking).
    pub training: Option<bool>,
    /// The step schedules are read at, where there is one that is not bound in the scope.
    pub step: Option<Value>,
    /// Whether an optimizer body is evaluated, so that `tree.*` are collectives.
    pub in_optimizer: bool,
    /// Whether a loop about all leaves is being checked.
    pub(crate) joint_loop: bool,
    /// Whether the statement at hand belongs to the script itself (host mode, outside compiled functions).
    pub in_script: bool,
    /// The train blocks whose settings are being read.
    pub(crate) reading: Vec<ItemRef>,
    /// Where the stack was when evaluation began.
    stack_base: Option<usize>,
    /// Whether the stack was used up; nothing more is evaluated in this item.
    pub(crate) too_deep: bool,
    /// Shape and element type of the parameter being drawn: what draws without a shape take.
    pub draw_shape: Option<(Vec<Dim>, DType)>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) instance: Instance,
    /// The numbers of calls and draws by the text, once they are needed.
    pub(crate) sites: Option<Rc<Sites>>,
    /// Those of calls that the text does not show, by place and span, and how many each place has.
    pub(crate) other_sites: OtherSites,
    /// Whether they are used: not for arguments that may stand anywhere.
    pub(crate) by_text: bool,
    /// How many draws have been evaluated so far: tells whether something draws.
    pub(crate) draws: u64,
    /// Constants by item and working precision.
    pub(crate) consts: FxHashMap<(ItemRef, DType), Option<Value>>,
    pub(crate) numbering: FxHashMap<ExprId, Rc<FxHashMap<ExprId, Arc<str>>>>,
    pub(crate) forced: Forced,
    pub(crate) yields: Vec<Vec<Value>>,
    /// How the body of the loop at hand can be left.
    pub(crate) exits: Exits,
    /// While checking: whether a pass of the loop at hand may end under a run-time condition.
    pub(crate) run_time_exits: bool,
    /// Whether models named now are wanted as values, also inside a model.
    pub(crate) constructing: bool,
    /// Nesting of graphs under construction.
    pub(crate) depth: usize,
    /// The optimizer being run.
    pub(crate) opt: Option<OptRun>,
    /// How optimizers have looked at the loss again so far.
    pub(crate) asked_again: BTreeSet<&'static str>,
    /// What the host script keeps.
    pub(crate) script: ScriptState,
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
            counters: Vec::new(),
            training: if mode == Mode::Check { None } else { Some(false) },
            step: None,
            in_optimizer: false,
            joint_loop: false,
            in_script: mode == Mode::Host,
            reading: Vec::new(),
            stack_base: None,
            too_deep: false,
            draw_shape: None,
            frames: Vec::new(),
            instance: Instance::default(),
            sites: None,
            other_sites: OtherSites::default(),
            by_text: true,
            draws: 0,
            consts: FxHashMap::default(),
            numbering: FxHashMap::default(),
            forced: Forced::default(),
            yields: Vec::new(),
            exits: Exits::default(),
            run_time_exits: false,
            constructing: false,
            depth: 0,
            opt: None,
            asked_again: BTreeSet::new(),
            script: ScriptState::default(),
        }
    }
    /// Whether sizes are symbols and nothing is computed.
    pub fn checking(&self) -> bool {
        self.mode == Mode::Check
    }
    /// Records a diagnostic and stops.
    ///
    /// # Errors
    /// Always [`Stop::Reported`].
    pub fn fail<T>(&mut self, diagnostic: Diagnostic) -> Eval<T> {
        self.report(diagnostic);
        Err(Stop::Reported)
    }
    /// Ends an evaluation that nests without end: definitions that use themselves in a way that nothing else notices.
    ///
    /// # Errors
    /// More of the stack is in use than any sensible spec needs.
    pub(crate) fn guard(&mut self, span: Span) -> Eval<()> {
        let here = std::ptr::from_ref(&span).addr();
        let base = *self.stack_base.get_or_insert(here);
        if base.abs_diff(here) < STACK_LIMIT && !self.too_deep {
            return Ok(());
        }
        if std::mem::replace(&mut self.too_deep, true) {
            return Err(Stop::Reported);
        }
        self.fail(
            Diagnostic::error(Code("E0350"), span, "this uses itself without end")
                .help("definitions are expanded where they are used, so a recursion must end at compile time"),
        )
    }
    /// Records a diagnostic, once.
    pub fn report(&mut self, diagnostic: Diagnostic) {
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
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
    /// whose last inputs stand for arrays of outer graphs, and those arrays. While checking, the graph is empty. What is evaluated in `f` is compiled code, not script.
    ///
    /// # Errors
    /// What `f` reports.
    pub fn subgraph<T>(&mut self, f: impl FnOnce(&mut Self) -> Eval<(T, Vec<Array>)>) -> Eval<(T, Graph, Vec<Array>)> {
        let in_script = std::mem::replace(&mut self.in_script, false);
        self.cx.push_level();
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        if let Ok((_, outputs)) = &result
            && self.cx.emitting()
        {
            let nodes = outputs.iter().map(|a| self.cx.node(a)).collect();
            self.cx.graph().outputs = nodes;
        }
        let (graph, captured) = self.cx.pop_level();
        self.in_script = in_script;
        result.map(|(value, _)| (value, graph, captured))
    }
    /// Evaluates `f` where calls of unbound models that carry a label draw their parameters with keys made from `key`; gives the leaves in order of declaration. `ahead` says
    /// that `f` may ask for the parameters of a model (`net.params`) before they are drawn: then it is evaluated several times, the first time for their types alone.
    ///
    /// # Errors
    /// What `f` reports.
    pub fn initialize<T>(&mut self, key: Array, ahead: bool, mut f: impl FnMut(&mut Self) -> Eval<T>) -> Eval<(T, Vec<ParamLeaf>)> {
        let mut known = Vec::new();
        if ahead && self.cx.emitting() {
            known = self.only_types(|ev| {
                let (_, leaves, early) = ev.initialize_once(&key, Vec::new(), &mut f)?;
                if early { Ok(ev.initialize_once(&key, leaves, &mut f)?.1) } else { Ok(leaves) }
            })?;
        }
        let (value, leaves, early) = self.initialize_once(&key, known, &mut f)?;
        if !early {
            return Ok((value, leaves));
        }
        let (value, leaves, _) = self.initialize_once(&key, leaves, &mut f)?;
        Ok((value, leaves))
    }
    fn initialize_once<T>(
        &mut self,
        key: &Array,
        known: Vec<ParamLeaf>,
        f: &mut impl FnMut(&mut Self) -> Eval<T>,
    ) -> Eval<(T, Vec<ParamLeaf>, bool)> {
        let saved_key = self.key.replace(key.clone());
        let counters = std::mem::take(&mut self.counters);
        let start = Initializing { key: key.clone(), leaves: Vec::new(), known, early: false, asked: Vec::new() };
        let saved = self.recorder.initializing.replace(start);
        let result = f(self);
        self.key = saved_key;
        self.counters = counters;
        let done = std::mem::replace(&mut self.recorder.initializing, saved);
        result.map(|value| done.map_or_else(|| unreachable!("what was put in"), |i| (value, i.leaves, i.early)))
    }
    /// Evaluates `f` as while checking: nothing is emitted, all that comes of it are types.
    fn only_types<T>(&mut self, f: impl FnOnce(&mut Self) -> Eval<T>) -> Eval<T> {
        let mut cx = Cx::check();
        (cx.float, cx.origin) = (self.cx.float, self.cx.origin);
        let cx = std::mem::replace(&mut self.cx, cx);
        let mode = std::mem::replace(&mut self.mode, Mode::Check);
        let consts = std::mem::take(&mut self.consts);
        let result = f(self);
        (self.cx, self.mode, self.consts) = (cx, mode, consts);
        result
    }
    /// Evaluates `f` with another working precision.
    ///
    /// # Errors
    /// What `f` reports.
    pub fn with_float<T>(&mut self, float: DType, f: impl FnOnce(&mut Self) -> Eval<T>) -> Eval<T> {
        let saved = std::mem::replace(&mut self.cx.float, float);
        let result = f(self);
        self.cx.float = saved;
        result
    }
    /// A literal array in the graph on top.
    pub fn literal(&mut self, tensor: impl Into<Arc<Tensor>>) -> Array {
        let tensor: Arc<Tensor> = tensor.into();
        let shape: Vec<Dim> = tensor.shape.iter().map(|&n| Dim::from(n)).collect();
        if !self.cx.emitting() {
            return Array { dtype: tensor.dtype, shape, weak: false, node: None };
        }
        let origin = self.cx.origin;
        let ty = optc_ir::Ty::new(tensor.dtype, tensor.shape.iter().copied());
        let node = self.cx.graph().push(optc_ir::graph::Op::Const(tensor), [], optc_ir::graph::NodeTy::Array(ty), origin);
        self.cx.array(node)
    }
    /// Whether an operation may look at values: the script, not what it compiles.
    pub fn may_look(&self) -> bool {
        self.mode == Mode::Host && self.in_script
    }
}
