//! The functions of a rule on one element type: the step, the change it makes, the initial states.

use super::Request;
use super::roll::{self, Role, Rolled};
use super::rule::{self, Contribution, GRADIENT, Graphs, HyperDecl, Part, STATES, StateDecl, WEIGHT};
use super::source::{LENGTH, STEPS_BEFORE};
use super::stages::{self, stages};
use crate::commands::explain;
use crate::cost;
use crate::messages::Messages;
use crate::pipeline::{self, CompileOptions, Timings};
use crate::session::{Failed, Session};
use crate::synthetic::Stored;
use optc_abi::{DType, Tensor};
use optc_cranelift::object::{self, Flat, Source};
use optc_elab::TrainProgram;
use optc_elab::program::SlotKind;
use optc_ir::graph::{NodeId, Op, Origin};
use optc_ir::kernel::Kernel;
use optc_ir::{Graph, ScalarOp};
use rustc_hash::FxHashMap;

/// A function, and its code for those who want to look.
pub struct Made {
    /// What it does.
    pub flat: Flat,
    /// Names here are `.0`, `.1`, … where there are several.
    pub parts: Vec<Part>,
}

/// The functions of a rule.
pub struct Lowered {
    /// States of a leaf.
    pub states: Vec<StateDecl>,
    /// Hyperparameters.
    pub hyper: Vec<HyperDecl>,
    /// Gives the weight and the states.
    pub step: Made,
    /// Gives the change of the weight, and the states.
    pub delta: Made,
    /// Gives the states alone, where the change is a function of these.
    pub moments: Option<Made>,
    /// Gives the first states.
    pub init: Made,
    /// All that as graphs.
    pub source: Graphs,
    /// The documentation of the optimizer.
    pub doc: String,
}

/// The length that kernels are made for: whole units and a rest.
const LENGTH_OF_PLANS: usize = 3 * object::UNIT as usize + 5;

/// Leaves that a rule is looked at with: long and short, with one to four axes, large and small extents, each of another number of elements.
fn shapes() -> Vec<Vec<usize>> {
    vec![vec![LENGTH_OF_PLANS], vec![101], vec![6, 7], vec![130, 131], vec![2, 3, 5], vec![3, 2, 2, 4]]
}

/// Why a rule is not lowered.
pub enum Refused {
    /// A mistake in the spec; the session has it.
    Spec(Box<Session>),
    /// It only transforms gradients.
    Transform,
    /// What it does that functions for leaves of any length cannot do.
    Beyond(String),
}

impl Refused {
    /// Prints what is wrong. `form` is what the rule should have had a form for, `help` what to do instead.
    pub fn print(&self, request: &Request<'_>, form: &str, help: &str, messages: &Messages) -> Failed {
        match self {
            Refused::Spec(session) => {
                messages.print(&session.diagnostics, &session.program.sources);
            }
            Refused::Transform => {
                let what = format!("`{}` only transforms gradients", request.optimizer);
                messages.error("R0130", &what, Some("chain it: `clip(1.0) |> sgd(lr = 0.1)`"));
            }
            Refused::Beyond(why) => {
                let what = format!("`{}` has no form {form}: {why}", request.optimizer);
                messages.error("R0130", &what, Some(help));
            }
        }
        Failed
    }
}

/// Lowers a rule. What is wrong has been printed.
pub fn lower(request: &Request<'_>, stored: Stored, messages: &Messages) -> Result<Lowered, Failed> {
    attempt(request, stored).map_err(|refused| refused.print(request, "for leaves of any length", HELP, messages))
}

/// Lowers a rule.
///
/// # Errors
/// Why it is not.
pub fn attempt(request: &Request<'_>, stored: Stored) -> Result<Lowered, Refused> {
    let shapes = shapes();
    let step = |shapes: &[Vec<usize>]| {
        explain::find_optimizer_step(request.optimizer, request.file, shapes, stored, 1).map_err(|s| Refused::Spec(Box::new(s)))
    };
    let (program, session, transform) = step(&shapes)?;
    if transform {
        return Err(Refused::Transform);
    }
    if let Some(how) = program.step.asked_again.first() {
        return Err(Refused::Beyond(format!("it looks at the loss again (`{how}`)")));
    }
    let hyper = rule::hyperparameters(&program, &session);
    let doc = rule::documentation(&session, request.optimizer);
    let update = Update::new(&program, &shapes);
    let rolled = update.rolled(&program).map_err(Refused::Beyond)?;
    let initial = update.initial(&program).map_err(Refused::Beyond)?;
    let mut found = None;
    if !rolled.reduces() {
        // Conditions on scalars stay conditions in the plan for one leaf; where that keeps arrays, both sides are computed in one pass.
        let (program, ..) = step(&shapes[..1])?;
        found = Update::new(&program, &shapes[..1]).elementwise(&program).ok();
    }
    let (step, delta, apart, graphs) = match found {
        Some(found) => found,
        None => {
            let (step, delta, graphs) = update.in_stages(&rolled).map_err(Refused::Beyond)?;
            (step, delta, None, graphs)
        }
    };
    let (moments, change) = apart.unzip();
    let (init, fills, start) = update.first_states(initial).map_err(Refused::Beyond)?;
    let states = update.declared();
    let source = Graphs { change, ..update.graphs(&rolled, graphs, &hyper, &states, start, fills) };
    Ok(Lowered { states, hyper, step, delta, moments, init, source, doc })
}

/// An update as the compiler has it for leaves of these shapes.
pub struct Whole {
    /// The update; its outputs are the slots.
    pub graph: Graph,
    /// How it is compiled.
    pub options: CompileOptions,
    /// What the inputs are; the first are the slots.
    pub inputs: Vec<Role>,
    /// Gives the first states, in the order of their slots.
    pub start: Graph,
    /// What its inputs are.
    pub start_inputs: Vec<Role>,
    /// What its outputs are.
    pub start_outputs: Vec<Role>,
}

/// What a rule is for leaves of these shapes. What is wrong has been printed.
pub fn whole(request: &Request<'_>, stored: Stored, shapes: &[Vec<usize>], messages: &Messages) -> Result<Whole, Failed> {
    let (program, ..) = explain::optimizer_step(request.optimizer, request.file, shapes, stored, 1, messages)?;
    let update = Update::new(&program, shapes);
    let (graph, options) = cost::update_only(&program);
    let (_, inputs) = update.graph(&program);
    let (start, start_inputs, start_outputs) = update.start(&program);
    Ok(Whole { graph, options, inputs, start, start_inputs, start_outputs })
}

const HELP: &str = "functions for leaves of any shape go over elements in order and may combine all of them; `--shapes 512x512,512` builds for given leaves, the Python module compiles any rule for the shapes at hand";

/// A state of the lowered update.
pub(super) struct State {
    /// `0.m`
    pub path: String,
    dtype: DType,
    pub scalar: bool,
    /// All leaves share it.
    pub shared: bool,
}

/// What the slots of a lowered update are.
pub(super) struct Update {
    shapes: Vec<Vec<usize>>,
    pub states: Vec<State>,
    /// Of each slot.
    pub slots: Vec<Role>,
}

/// The step and the change as graphs, with the names of their inputs' sources.
type Sources = (Graph, Graph, Vec<Source>);

/// The function that makes the states alone, and the change as a graph over these.
type Apart = Option<(Made, Graph)>;

impl Update {
    pub fn new(program: &TrainProgram, shapes: &[Vec<usize>]) -> Update {
        let leaves = shapes.len();
        let mut states: Vec<State> = Vec::new();
        let mut weights = 0..;
        let mut slots = Vec::new();
        for slot in &program.slots {
            let role = match slot.kind {
                SlotKind::Counter => Role { leaf: None, source: Source::Counter },
                SlotKind::State => {
                    // `optimizer.1.m.w0`, `optimizer.1.m.w0.2` for one of several, or without a leaf's path if it is shared.
                    let path = slot.name.strip_prefix("optimizer.").unwrap_or(&slot.name);
                    let words: Vec<&str> = path.split('.').collect();
                    let number = |word: &&str| word.strip_prefix('w').and_then(|k| k.parse().ok()).filter(|&k: &usize| k < leaves);
                    let place = words.iter().rposition(|w| number(w).is_some());
                    let leaf = place.and_then(|p| number(&words[p]));
                    let path = words.iter().enumerate().filter(|(k, _)| Some(*k) != place).map(|(_, w)| *w).collect::<Vec<_>>().join(".");
                    let known = states.iter().position(|s| s.path == path);
                    let k = known.unwrap_or(states.len());
                    if known.is_none() {
                        states.push(State { path, dtype: slot.ty.dtype, scalar: slot.ty.len() == 1, shared: leaf.is_none() });
                    }
                    Role { leaf, source: Source::Array(STATES + k) }
                }
                _ => Role { leaf: weights.next(), source: Source::Array(WEIGHT) },
            };
            slots.push(role);
        }
        Update { shapes: shapes.to_vec(), states, slots }
    }

    /// States with names that no other has.
    pub fn declared(&self) -> Vec<StateDecl> {
        let mut used = Vec::new();
        self.states.iter().map(|s| rule::state(&s.path, s.dtype, s.scalar, &mut used)).collect()
    }

    /// The array number and type of the states that all leaves share.
    fn shared(&self) -> Vec<(usize, DType)> {
        self.states.iter().enumerate().filter(|(_, s)| s.shared).map(|(k, s)| (STATES + k, s.dtype)).collect()
    }

    /// A shared state by its number among those.
    fn as_shared(&self, role: Role) -> Role {
        match (role.leaf, role.source) {
            (None, Source::Array(k)) => {
                let shared = self.shared().iter().position(|s| s.0 == k);
                Role { source: shared.map_or(role.source, Source::Shared), ..role }
            }
            _ => role,
        }
    }

    /// The array that a shared state is among those of a leaf.
    fn as_array(&self, source: Source) -> Source {
        match source {
            Source::Shared(k) => Source::Array(self.shared()[k].0),
            other => other,
        }
    }

    /// The update without the count of steps, and what its inputs are.
    pub fn graph(&self, program: &TrainProgram) -> (Graph, Vec<Role>) {
        let (mut graph, _) = cost::update_only(program);
        let roles = graph.inputs.iter().enumerate().map(|(k, input)| {
            let shared = |source: Source| Role { leaf: None, source };
            if let Some(name) = input.name.strip_prefix("hyper.") {
                return shared(program.step.hyper.iter().position(|(n, _)| n == name).map_or(Source::Nothing, Source::Hyper));
            }
            if let Some(role) = self.slots.get(k) {
                return *role;
            }
            match input.name.strip_prefix("field.").and_then(|n| n.parse().ok()) {
                Some(leaf) => Role { leaf: Some(leaf), source: Source::Array(GRADIENT) },
                None => shared(Source::Nothing),
            }
        });
        let roles = roles.collect();
        let kept = self.kept();
        graph.outputs = kept.iter().map(|&k| graph.outputs[k]).collect();
        (graph, roles)
    }

    /// Slots but the count of steps.
    pub fn kept(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|&k| self.slots[k].source != Source::Counter).collect()
    }

    /// The update of one leaf among any number.
    fn rolled(&self, program: &TrainProgram) -> Result<Rolled, String> {
        let (graph, inputs) = self.graph(program);
        let inputs: Vec<Role> = inputs.into_iter().map(|r| self.as_shared(r)).collect();
        let outputs: Vec<Role> = self.kept().into_iter().map(|k| self.slots[k]).collect();
        roll::roll(&graph, &self.shapes, &inputs, &outputs)
    }

    /// The step and the change of one leaf, as the compiler plans them.
    fn elementwise(&self, program: &TrainProgram) -> Result<(Made, Made, Apart, Sources), String> {
        let (graph, inputs) = self.graph(program);
        let inputs: Vec<Source> = inputs.iter().map(|r| r.source).collect();
        let outputs: Vec<Source> = self.kept().into_iter().map(|k| self.slots[k].source).collect();
        let (weight, change) = (0, STATES + self.states.len());
        let alias = |first: usize| -> Vec<(usize, usize)> { self.kept().into_iter().enumerate().skip(first).collect() };
        let options = CompileOptions { alias: alias(0), ..CompileOptions::default() };
        let (step, simplified) = planned(graph.clone(), &options, &inputs, &outputs)?;
        let options = CompileOptions { alias: alias(1), updates: true, ..CompileOptions::default() };
        let mut to = outputs.clone();
        to[weight] = Source::Array(change);
        let (delta, changed) = planned(changed(&graph, graph.inputs[weight].node), &options, &inputs, &to)?;
        let apart = self.apart(&changed, &inputs, &outputs);
        Ok((step, delta, apart, (simplified, changed, inputs)))
    }

    /// The function that makes the new states alone, and the change of the weight as a graph in which the inputs that are states stand for the new ones; if the change is such a function.
    fn apart(&self, changed: &Graph, inputs: &[Source], outputs: &[Source]) -> Apart {
        if self.states.is_empty() || self.states.iter().any(|s| s.scalar || s.shared) {
            return None;
        }
        let mut out = Graph::new();
        let fresh: Vec<NodeId> =
            changed.inputs.iter().map(|i| out.input(i.name.clone(), changed.ty(i.node).clone(), Origin::default())).collect();
        let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        for (k, (input, source)) in changed.inputs.iter().zip(inputs).enumerate() {
            if !matches!(source, Source::Array(a) if *a >= STATES) {
                map.insert(input.node, fresh[k]);
            }
        }
        for (node, state) in changed.outputs.iter().zip(outputs).skip(1) {
            map.insert(*node, fresh[inputs.iter().position(|s| s == state)?]);
        }
        for id in changed.ids() {
            let node = changed.node(id);
            if map.contains_key(&id) || matches!(node.op, Op::Input { .. }) {
                continue;
            }
            // What needs an old state is left out, with all that needs it.
            let Some(operands) = node.operands.iter().map(|o| map.get(o).copied()).collect::<Option<Vec<NodeId>>>() else { continue };
            let copy = out.push(node.op.clone(), operands, node.ty.clone(), changed.origin(id));
            map.insert(id, copy);
        }
        out.outputs = vec![*map.get(&changed.outputs[0])?];
        let mut states = changed.clone();
        states.outputs.remove(0);
        let alias = self.kept().into_iter().skip(1).enumerate().collect();
        let options = CompileOptions { alias, ..CompileOptions::default() };
        let (made, _) = planned(states, &options, inputs, &outputs[1..]).ok()?;
        Some((made, optc_mid::simplify::simplify(out, &optc_mid::simplify::Config::default())))
    }

    /// The same in stages.
    fn in_stages(&self, rolled: &Rolled) -> Result<(Made, Made, Sources), String> {
        let outputs = |first: usize| -> Vec<Source> {
            let states =
                self.states.iter().enumerate().map(|(k, s)| Role { leaf: (!s.shared).then_some(0), source: Source::Array(STATES + k) });
            [Source::Array(first)].into_iter().chain(states.map(|r| self.as_shared(r).source)).collect()
        };
        let shared = self.shared();
        let step = stages("", rolled, LENGTH_OF_PLANS, &outputs(WEIGHT), &shared)?;
        let weight = rolled.inputs.iter().position(|s| *s == Source::Array(WEIGHT)).ok_or_else(|| "it has no weight".to_string())?;
        let other = Rolled { graph: changed(&rolled.graph, rolled.graph.inputs[weight].node), ..rolled.clone() };
        let delta = stages("", &other, LENGTH_OF_PLANS, &outputs(STATES + self.states.len()), &shared)?;
        let made = |s: stages::Stages| Made { flat: s.flat, parts: s.parts };
        let sources = rolled.inputs.iter().map(|s| self.as_array(*s)).collect();
        Ok((made(step), made(delta), (rolled.graph.clone(), other.graph, sources)))
    }

    /// Initial states as functions of the weights.
    pub fn start(&self, program: &TrainProgram) -> (Graph, Vec<Role>, Vec<Role>) {
        let init = &program.init;
        let mut out = Graph::new();
        let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        let mut roles = Vec::new();
        for (k, role) in self.slots.iter().enumerate().filter(|(_, r)| r.source == Source::Array(WEIGHT)) {
            let drawn = init.outputs[k];
            map.insert(drawn, out.input("w", init.ty(drawn).clone(), Origin::default()));
            roles.push(*role);
        }
        for input in &init.inputs {
            let node = out.input(input.name.clone(), init.ty(input.node).clone(), Origin::default());
            map.insert(input.node, node);
            roles.push(Role { leaf: None, source: Source::Nothing });
        }
        for id in init.ids() {
            if map.contains_key(&id) {
                continue;
            }
            let node = init.node(id);
            let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
            let copy = out.push(node.op.clone(), operands, node.ty.clone(), init.origin(id));
            map.insert(id, copy);
        }
        let state = |k: &usize| matches!(self.slots[*k].source, Source::Array(a) if a >= STATES);
        let states: Vec<usize> = self.kept().into_iter().filter(state).collect();
        out.outputs = states.iter().map(|k| map[&init.outputs[*k]]).collect();
        let outputs = states.iter().map(|k| self.slots[*k]).collect();
        (out, roles, outputs)
    }

    /// Initial states of one leaf as functions of its weight.
    fn initial(&self, program: &TrainProgram) -> Result<Rolled, String> {
        let (graph, inputs, outputs) = self.start(program);
        let rolled = roll::roll(&graph, &self.shapes, &inputs, &outputs)?;
        match rolled.folds.is_empty() {
            true => Ok(rolled),
            false => Err("its first states depend on all leaves".to_string()),
        }
    }

    /// The function that makes them, and the values of those that have one everywhere.
    fn first_states(&self, initial: Rolled) -> Result<(Made, Vec<Option<f64>>, Graph), String> {
        let mut rolled = initial;
        rolled.graph = optc_mid::simplify::simplify(rolled.graph, &optc_mid::simplify::Config::default());
        let filled: Vec<Option<Vec<u8>>> = rolled.graph.outputs.iter().map(|&id| splat(&rolled.graph, id)).collect();
        let drawn: Vec<usize> = (0..filled.len()).filter(|&k| filled[k].is_none()).collect();
        rolled.graph.outputs = drawn.iter().map(|&k| rolled.graph.outputs[k]).collect();
        rolled.results = drawn.len();
        let outputs: Vec<Source> = drawn.iter().map(|k| Source::Array(STATES + k)).collect();
        let mut init = stages("", &rolled, LENGTH_OF_PLANS, &outputs, &[])?;
        let mut fills = Vec::new();
        for (k, element) in filled.iter().enumerate() {
            let state = &self.states[k];
            if let Some(element) = element {
                init.flat.fill(STATES + k, state.scalar, element);
            }
            let mut one = Tensor::zeros(state.dtype, &[]);
            fills.push(element.as_ref().map(|bytes| {
                one.bytes_mut().copy_from_slice(bytes);
                one.get_f64(0)
            }));
        }
        for (input, source) in rolled.graph.inputs.iter_mut().zip(&rolled.inputs) {
            input.name = if *source == Source::Length { LENGTH } else { "w" }.to_string();
        }
        Ok((Made { flat: init.flat, parts: init.parts }, fills, rolled.graph))
    }

    /// The update as graphs with names.
    fn graphs(
        &self,
        rolled: &Rolled,
        (step, delta, inputs): Sources,
        hyper: &[HyperDecl],
        states: &[StateDecl],
        init: Graph,
        fills: Vec<Option<f64>>,
    ) -> Graphs {
        let name = |source: &Source| match *source {
            Source::Array(WEIGHT) => "w".to_string(),
            Source::Array(GRADIENT) => "g".to_string(),
            Source::Array(k) => format!("s_{}", states[k - STATES].name),
            Source::Counter => STEPS_BEFORE.to_string(),
            Source::Hyper(k) => format!("h_{}", hyper[k].name),
            Source::Length => LENGTH.to_string(),
            Source::Fold(k) => format!("folds[{k}]"),
            _ => "None".to_string(),
        };
        let results = 1 + states.len();
        let only = |graph: &Graph, outputs: &[NodeId]| {
            let mut graph = graph.clone();
            graph.outputs = outputs.to_vec();
            optc_mid::simplify::simplify(graph, &optc_mid::simplify::Config::default())
        };
        let of_rounds = stages::rounds(rolled);
        let mut rounds = Vec::new();
        for round in 0..of_rounds.iter().max().map_or(0, |r| r + 1) {
            let folds: Vec<usize> = (0..of_rounds.len()).filter(|&k| of_rounds[k] == round).collect();
            let parts: Vec<NodeId> = folds.iter().map(|k| rolled.graph.outputs[rolled.results + k]).collect();
            let folds = folds.into_iter().map(|k| (k, rolled.folds[k].0)).collect();
            rounds.push(Contribution { graph: only(&rolled.graph, &parts), folds });
        }
        Graphs {
            inputs: inputs.iter().map(name).collect(),
            step: only(&step, &step.outputs[..results]),
            delta: only(&delta, &delta.outputs[..results]),
            change: None,
            init,
            fills,
            rounds,
        }
    }
}

/// A graph as one function, planned as the compiler does it.
fn planned(graph: Graph, options: &CompileOptions, inputs: &[Source], outputs: &[Source]) -> Result<(Made, Graph), String> {
    let pipeline::Stages { planned, simplified } = pipeline::plan(graph, options, &mut Timings::default());
    let kernels: Vec<Kernel> = planned.kernels.into_iter().map(|k| k.kernel).collect();
    let flat = object::flatten(&planned.plan, &kernels, LENGTH_OF_PLANS, inputs, outputs).map_err(|e| e.to_string())?;
    Ok((Made { flat, parts: vec![Part { name: String::new(), kernels, plan: planned.plan }] }, simplified))
}

/// The update with the change of the weight in the place of its new value: what `w - x` subtracts, as it is, or the difference.
fn changed(graph: &Graph, old: NodeId) -> Graph {
    let mut out = graph.clone();
    let new = graph.outputs[0];
    let node = graph.node(new);
    out.outputs[0] = match (&node.op, &*node.operands) {
        (Op::Map(ScalarOp::Sub), &[a, x]) if a == old => out.map(ScalarOp::Neg, &[x], Origin::default()),
        (Op::Map(ScalarOp::Add), &[a, x]) if a == old => x,
        (Op::Map(ScalarOp::Add), &[x, a]) if a == old => x,
        _ => out.map(ScalarOp::Sub, &[new, old], Origin::default()),
    };
    out
}

/// The element of an array that is one constant everywhere.
fn splat(graph: &Graph, id: NodeId) -> Option<Vec<u8>> {
    let node = graph.node(id);
    match &node.op {
        Op::Const(tensor) => {
            let width = tensor.dtype.size();
            let (first, rest) = tensor.bytes().split_at_checked(width)?;
            rest.chunks(width).all(|x| x == first).then(|| first.to_vec())
        }
        Op::Broadcast { .. } | Op::Reshape => splat(graph, node.operands[0]),
        _ => None,
    }
}
