//! An optimizer as functions over leaves of any length: what it takes, what it keeps, its kernels.

use super::Request;
use crate::commands::explain;
use crate::cost;
use crate::messages::Messages;
use crate::pipeline::{self, CompileOptions, Timings};
use crate::session::{Failed, Session};
use crate::synthetic::{self, Stored};
use optc_abi::plan::Plan;
use optc_abi::{DType, Tensor};
use optc_cranelift::object::{self, Flat, Function, Hyper, Library, NotFlat, Rule, Source, Xla, code};
use optc_elab::TrainProgram;
use optc_elab::program::SlotKind;
use optc_front::ast::{Bound, ExprKind, FnKind, ItemKind, UnaryOp};
use optc_ir::graph::{NodeId, Op, Origin};
use optc_ir::kernel::Kernel;
use optc_ir::{Graph, ScalarOp};
use rustc_hash::FxHashMap;

/// The weight among the arrays of a leaf.
pub const WEIGHT: usize = 0;
/// The gradient.
pub const GRADIENT: usize = 1;
/// The first state.
pub const STATES: usize = 2;

/// A hyperparameter of the C structure.
#[derive(Clone, Debug, PartialEq)]
pub struct HyperDecl {
    /// Its name there: `beta1`, or `clip_max_norm` where several parts have one of the name.
    pub name: String,
    /// Its default and range.
    pub value: Hyper,
}

/// A state of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDecl {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// One number for the whole leaf.
    pub scalar: bool,
}

/// The rule on one element type.
#[derive(Clone, Debug)]
pub struct Variant {
    /// How weights and gradients are kept.
    pub stored: Stored,
    /// Its states.
    pub states: Vec<StateDecl>,
    /// The change may take the place of the gradient: each element of it is read before it is written.
    pub change_in_place: bool,
}

/// Code that can be shown.
pub struct Part {
    /// `adamw_f32_step`
    pub name: String,
    /// Kernels.
    pub kernels: Vec<Kernel>,
    /// The plan for a leaf of a few units.
    pub plan: Plan,
}

/// A rule ready for an object file and what goes with it.
pub struct Built {
    /// The expression it was built from.
    pub expression: String,
    /// What the object file holds.
    pub library: Library,
    /// Hyperparameters.
    pub hyper: Vec<HyperDecl>,
    /// The rule on each element type, as in `library.rules`.
    pub variants: Vec<Variant>,
    /// Code that can be shown.
    pub parts: Vec<Part>,
    /// The update as it is written out in other languages.
    pub source: Graphs,
    /// The documentation of the optimizer.
    pub doc: String,
}

/// The update of a leaf as graphs.
#[derive(Clone, Debug, Default)]
pub struct Graphs {
    /// Names of the inputs: `w`, `g`, `t`, `s_STATE`, `h_HYPER`.
    pub inputs: Vec<String>,
    /// Gives the new weight and states.
    pub step: Graph,
    /// Gives the change of the weight and the new states.
    pub delta: Graph,
    /// Gives, of the weight, the initial values of the states that `fills` has none for.
    pub init: Graph,
    /// The initial value of each state that has one everywhere.
    pub fills: Vec<Option<f64>>,
}

impl Built {
    /// The first sentence of the documentation.
    pub fn summary(&self) -> String {
        let first = self.doc.lines().next().unwrap_or_default().trim();
        if first.is_empty() { self.expression.clone() } else { first.to_string() }
    }

    /// Arguments of the rule as it is written out in Python: weight, gradient, states, hyperparameters.
    pub fn rule_arguments(&self) -> Vec<String> {
        let states = self.variants.first().map(|v| v.states.as_slice()).unwrap_or_default();
        let given = ["w", "g"].map(String::from).into_iter();
        given.chain(states.iter().map(|s| format!("s_{}", s.name))).chain(self.hyper.iter().map(|h| format!("h_{}", h.name))).collect()
    }

    /// Names of all functions.
    pub fn symbols(&self) -> Vec<String> {
        let mut names = vec![format!("{}_defaults", self.library.name), format!("{}_error", self.library.name)];
        for rule in &self.library.rules {
            for function in &rule.functions {
                let name = format!("{}_{}", rule.name, function.name);
                names.extend([name.clone(), format!("{name}_many")]);
                if function.xla.is_some() {
                    names.push(format!("{name}_xla"));
                }
            }
        }
        names
    }
}

/// Lengths of the leaves that a rule is lowered for: whole units and a rest. What comes out the same for both does for any.
const LENGTHS: [usize; 2] = [3 * object::UNIT as usize + 5, 5 * object::UNIT as usize + 9];

/// Lowers the rule for each element type.
///
/// # Errors
/// As [`super::build`].
pub fn build(request: &Request<'_>, messages: &Messages) -> Result<Built, Failed> {
    let name = match request.name {
        Some(name) => name.to_string(),
        None => request.optimizer.split(|c: char| !c.is_alphanumeric() && c != '_').find(|w| !w.is_empty()).unwrap_or("rule").to_string(),
    };
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        messages.error("", &format!("`{name}` cannot begin the names of C functions"), Some("`--name` gives another"));
        return Err(crate::wrong_usage());
    }
    let mut built = Built {
        expression: String::new(),
        library: Library { name: name.clone(), ..Library::default() },
        hyper: Vec::new(),
        variants: Vec::new(),
        parts: Vec::new(),
        source: Graphs::default(),
        doc: String::new(),
    };
    for &stored in request.stored {
        let mut made = Vec::new();
        for length in LENGTHS {
            let (program, session, transform) =
                explain::optimizer_step(request.optimizer, request.file, &[vec![length]], stored, 1, messages)?;
            if transform {
                messages.error(
                    "R0130",
                    &format!("`{}` only transforms gradients", request.optimizer),
                    Some("chain it: `clip(1.0) |> sgd(lr = 0.1)`"),
                );
                return Err(Failed);
            }
            if let Some(how) = program.step.asked_again.first() {
                return Err(not_flat(request, &format!("it looks at the loss again (`{how}`)"), messages));
            }
            let lowered = lower(&program, length).map_err(|why| not_flat(request, &why, messages))?;
            made.push((program, session, lowered));
        }
        if made[0].2.functions() != made[1].2.functions() {
            return Err(not_flat(request, "numbers in it depend on the leaf's length", messages));
        }
        let Some((program, session, lowered)) = made.into_iter().next() else { return Err(Failed) };
        let hyper = hyperparameters(&program, &session);
        let mut used: Vec<String> = Vec::new();
        let states: Vec<StateDecl> = lowered.states.iter().map(|&k| state(&program, k, &mut used)).collect();
        built.expression = synthetic::completed(request.optimizer, request.file);
        built.hyper = hyper;
        let prefix = format!("{name}_{}", stored.dtype().name());
        built.library.rules.push(rule(&prefix, stored, &states, &lowered));
        for (function, piece) in [("step", &lowered.step), ("delta", &lowered.delta), ("init", &lowered.init)] {
            built.parts.push(Part { name: format!("{prefix}_{function}"), kernels: piece.kernels.clone(), plan: piece.plan.clone() });
        }
        if built.variants.is_empty() {
            built.source = lowered.graphs(&built.hyper, &states);
            built.doc = documentation(&session, request.optimizer);
        }
        built.variants.push(Variant { stored, states, change_in_place: lowered.delta.flat.passes() <= 1 });
    }
    built.library.hyper = built.hyper.iter().map(|h| h.value.clone()).collect();
    built.library.messages = messages_of(&built);
    Ok(built)
}

fn not_flat(request: &Request<'_>, why: &str, messages: &Messages) -> Failed {
    let help = "a function that takes leaves of any length goes over each element once; other rules run through the Python module, which compiles them for the shapes at hand";
    messages.error("R0130", &format!("`{}` has no form for leaves of any length: {why}", request.optimizer), Some(help));
    Failed
}

/// What the codes of the functions mean.
fn messages_of(built: &Built) -> Vec<(i32, String)> {
    let mut all = vec![
        (code::OK, "success".to_string()),
        (code::NULL, "a pointer is null".to_string()),
        (code::VERSION, format!("the hyperparameters are not those of this library: call {}_defaults first", built.library.name)),
        (code::STEP, "steps are counted from 1".to_string()),
    ];
    for (k, h) in built.hyper.iter().enumerate() {
        let end = |end: Option<(f64, bool)>, strict: &str, wide: &str| {
            end.map(|(x, inclusive)| format!("{} {x}", if inclusive { wide } else { strict }))
        };
        let ends: Vec<String> = [end(h.value.low, ">", ">="), end(h.value.high, "<", "<=")].into_iter().flatten().collect();
        if !ends.is_empty() {
            all.push((code::RANGE + k as i32, format!("{} must be {}", h.name, ends.join(" and "))));
        }
    }
    all
}

/// The functions of a rule: its arrays are the weight, the gradient, the states and the change.
fn rule(prefix: &str, stored: Stored, states: &[StateDecl], lowered: &Lowered) -> Rule {
    let width = stored.dtype().size();
    let kept: Vec<usize> = (STATES..STATES + states.len()).collect();
    let delta = STATES + states.len();
    let all = |first: &[usize], last: &[usize]| [first, &kept, last].concat();
    let written: Vec<(usize, i64)> =
        states.iter().zip(&kept).map(|(s, &k)| (k, s.dtype.size() as i64 * if s.scalar { -1 } else { 1 })).collect();
    // In the form for XLA: the weight or the change, then the states.
    let xla =
        |first: usize| Some(Xla { operands: all(&[WEIGHT, GRADIENT], &[]), results: [&[(first, width as i64)][..], &written].concat() });
    Rule {
        name: prefix.to_string(),
        functions: vec![
            Function {
                name: "step",
                flat: lowered.step.flat.clone(),
                takes: all(&[WEIGHT, GRADIENT], &[]),
                stepping: true,
                xla: xla(WEIGHT),
            },
            Function {
                name: "delta",
                flat: lowered.delta.flat.clone(),
                takes: all(&[WEIGHT, GRADIENT], &[delta]),
                stepping: true,
                xla: xla(delta),
            },
            Function { name: "init", flat: lowered.init.flat.clone(), takes: all(&[WEIGHT], &[]), stepping: false, xla: None },
        ],
    }
}

/// One function's kernels.
struct Piece {
    kernels: Vec<Kernel>,
    plan: Plan,
    flat: Flat,
    simplified: Graph,
}

/// The functions of a rule at one length.
struct Lowered {
    /// Slots that are states.
    states: Vec<usize>,
    /// Where the inputs of the step come from.
    inputs: Vec<Source>,
    /// The output that is the weight, those that are states.
    outputs: Vec<usize>,
    /// Initial values of the states that have one everywhere.
    fills: Vec<Option<f64>>,
    step: Piece,
    delta: Piece,
    init: Piece,
}

impl Lowered {
    fn functions(&self) -> [&Flat; 3] {
        [&self.step.flat, &self.delta.flat, &self.init.flat]
    }

    /// The update as graphs with names.
    fn graphs(&self, hyper: &[HyperDecl], states: &[StateDecl]) -> Graphs {
        let name = |source: &Source| match *source {
            Source::Array(WEIGHT) => "w".to_string(),
            Source::Array(GRADIENT) => "g".to_string(),
            Source::Array(k) => format!("s_{}", states[k - STATES].name),
            Source::Counter => super::source::STEPS_BEFORE.to_string(),
            Source::Hyper(k) => format!("h_{}", hyper[k].name),
            Source::Nothing => "None".to_string(),
        };
        let only = |graph: &Graph| {
            let mut graph = graph.clone();
            graph.outputs = self.outputs.iter().map(|&k| graph.outputs[k]).collect();
            graph
        };
        Graphs {
            inputs: self.inputs.iter().map(name).collect(),
            step: only(&self.step.simplified),
            delta: only(&self.delta.simplified),
            init: self.init.simplified.clone(),
            fills: self.fills.clone(),
        }
    }
}

/// Lowers the step, the change it makes and the initial states.
fn lower(program: &TrainProgram, length: usize) -> Result<Lowered, String> {
    let of_kind = |kind: SlotKind| program.slots.iter().enumerate().filter(move |(_, s)| s.kind == kind).map(|(k, _)| k);
    let (Some(weight), states) = (of_kind(SlotKind::Param).next(), of_kind(SlotKind::State).collect::<Vec<_>>()) else {
        return Err("it has no weight".to_string());
    };
    let slot = |k: usize| match program.slots[k].kind {
        SlotKind::Counter => Source::Counter,
        SlotKind::State => states.iter().position(|&s| s == k).map_or(Source::Nothing, |i| Source::Array(STATES + i)),
        _ => Source::Array(WEIGHT),
    };
    let (graph, options) = cost::update_only(program);
    let slots = program.slots.len();
    let inputs: Vec<Source> = graph
        .inputs
        .iter()
        .enumerate()
        .map(|(k, input)| match input.name.strip_prefix("hyper.") {
            Some(name) => program.step.hyper.iter().position(|(n, _)| n == name).map_or(Source::Nothing, Source::Hyper),
            None if k < slots => slot(k),
            None if input.name.starts_with("field.") => Source::Array(GRADIENT),
            None => Source::Nothing,
        })
        .collect();
    let outputs: Vec<Source> = (0..slots).map(slot).collect();
    let no = |e: NotFlat| e.to_string();
    let step = piece(graph.clone(), &options, length, &inputs, &outputs).map_err(no)?;

    let change = changed(&graph, weight);
    let mut outputs_of_change = outputs;
    outputs_of_change[weight] = Source::Array(STATES + states.len());
    let alias = options.alias.iter().copied().filter(|&(_, input)| input != weight).collect();
    let options = CompileOptions { alias, updates: true, ..options };
    let delta = piece(change, &options, length, &inputs, &outputs_of_change).map_err(no)?;
    let given = inputs;

    let (start, filled) = without_splats(initial(program, weight, &states));
    let inputs: Vec<Source> = start.inputs.iter().map(|i| if i.name == "w" { Source::Array(WEIGHT) } else { Source::Nothing }).collect();
    let drawn = filled.iter().enumerate().filter(|(_, f)| f.is_none());
    let outputs: Vec<Source> = drawn.map(|(i, _)| Source::Array(STATES + i)).collect();
    let mut init = piece(start, &CompileOptions { updates: true, ..CompileOptions::default() }, length, &inputs, &outputs).map_err(no)?;
    for (i, element) in filled.iter().enumerate() {
        if let Some(element) = element {
            init.flat.fill(STATES + i, program.slots[states[i]].ty.len() == 1, element);
        }
    }
    let outputs = [weight].into_iter().chain(states.iter().copied()).collect();
    let number = |(i, element): (usize, &Option<Vec<u8>>)| {
        let mut one = Tensor::zeros(program.slots[states[i]].ty.dtype, &[]);
        element.as_ref().map(|bytes| {
            one.bytes_mut().copy_from_slice(bytes);
            one.get_f64(0)
        })
    };
    let fills = filled.iter().enumerate().map(number).collect();
    Ok(Lowered { states, inputs: given, outputs, fills, step, delta, init })
}

fn piece(graph: Graph, options: &CompileOptions, length: usize, inputs: &[Source], outputs: &[Source]) -> Result<Piece, NotFlat> {
    let pipeline::Stages { planned, simplified } = pipeline::plan(graph, options, &mut Timings::default());
    let kernels: Vec<Kernel> = planned.kernels.into_iter().map(|k| k.kernel).collect();
    let flat = object::flatten(&planned.plan, &kernels, length, inputs, outputs)?;
    Ok(Piece { kernels, plan: planned.plan, flat, simplified })
}

/// The update with the change of the weight in the place of its new value: what `w - x` subtracts, as it is, or the difference.
fn changed(graph: &Graph, weight: usize) -> Graph {
    let mut out = graph.clone();
    let (old, new) = (graph.inputs[weight].node, graph.outputs[weight]);
    let node = graph.node(new);
    out.outputs[weight] = match (&node.op, &*node.operands) {
        (Op::Map(ScalarOp::Sub), &[a, x]) if a == old => out.map(ScalarOp::Neg, &[x], Origin::default()),
        (Op::Map(ScalarOp::Add), &[a, x]) if a == old => x,
        (Op::Map(ScalarOp::Add), &[x, a]) if a == old => x,
        _ => out.map(ScalarOp::Sub, &[new, old], Origin::default()),
    };
    out
}

/// Initial values of the states as functions of the weight.
fn initial(program: &TrainProgram, weight: usize, states: &[usize]) -> Graph {
    let init = &program.init;
    let mut out = Graph::new();
    let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    let drawn = init.outputs[weight];
    map.insert(drawn, out.input("w", init.ty(drawn).clone(), Origin::default()));
    for input in &init.inputs {
        let node = out.input(input.name.clone(), init.ty(input.node).clone(), Origin::default());
        map.insert(input.node, node);
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
    out.outputs = states.iter().map(|&k| map[&init.outputs[k]]).collect();
    out
}

/// Takes the outputs out of a graph that are one constant everywhere, and gives their elements.
fn without_splats(graph: Graph) -> (Graph, Vec<Option<Vec<u8>>>) {
    let mut graph = optc_mid::simplify::simplify(graph, &optc_mid::simplify::Config::default());
    let filled: Vec<Option<Vec<u8>>> = graph.outputs.iter().map(|&id| splat(&graph, id)).collect();
    let mut drawn = filled.iter();
    graph.outputs.retain(|_| drawn.next().is_some_and(Option::is_none));
    (graph, filled)
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

/// A state with a name that no other has: that of the rule, with its part's number where two parts have one of the name.
fn state(program: &TrainProgram, slot: usize, used: &mut Vec<String>) -> StateDecl {
    let slot = &program.slots[slot];
    // `optimizer.1.m.w0`, or without a leaf's path if it is shared
    let path = slot.name.strip_prefix("optimizer.").unwrap_or(&slot.name);
    let path = path.strip_suffix(".w0").unwrap_or(path);
    let mut words = path.rsplit('.');
    let mut name = words.next().unwrap_or(path).to_string();
    for part in words {
        if !used.contains(&name) && !name.starts_with(|c: char| c.is_ascii_digit()) {
            break;
        }
        name = format!("{name}_{part}");
    }
    let name = word(name);
    used.push(name.clone());
    StateDecl { name, dtype: slot.ty.dtype, scalar: slot.ty.len() == 1 }
}

/// Hyperparameters with short names, defaults and the ranges that the text of their optimizers gives.
fn hyperparameters(program: &TrainProgram, session: &Session) -> Vec<HyperDecl> {
    let all: Vec<(&str, f64)> = program.step.hyper.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    // The parameter alone, with its optimizer, with the whole path: the shortest that no other has.
    let tail = |name: &str, words: usize| {
        let parts: Vec<&str> = explain::hyper_name(name).split('.').collect();
        parts[parts.len().saturating_sub(words)..].join("_")
    };
    let chosen = |k: usize| {
        let unique = |words: usize| all.iter().filter(|(n, _)| tail(n, words) == tail(all[k].0, words)).count() == 1;
        (1..4).find(|&words| unique(words)).map_or_else(|| format!("part{}", all[k].0.replace('.', "_")), |words| tail(all[k].0, words))
    };
    let decl = |k: usize| {
        let (low, high) = range(session, explain::hyper_name(all[k].0));
        HyperDecl { name: word(chosen(k)), value: Hyper { default: all[k].1, low, high } }
    };
    (0..all.len()).map(decl).collect()
}

/// The documentation of the first optimizer in an expression.
fn documentation(session: &Session, expression: &str) -> String {
    let first = expression.split(|c: char| !c.is_alphanumeric() && c != '_').find(|w| !w.is_empty()).unwrap_or_default();
    let items = session.program.modules.iter().flat_map(|m| &m.file.items);
    let found =
        items.into_iter().find(|item| matches!(&item.kind, ItemKind::Fn(f) if f.kind == FnKind::Optimizer && &*f.name.text == first));
    found.map(|item| item.doc.to_string()).unwrap_or_default()
}

/// A name that is no reserved word of C, C++ or Python.
fn word(name: String) -> String {
    const RESERVED: &[&str] = &[
        "and", "as", "assert", "auto", "await", "bool", "break", "case", "char", "class", "const", "continue", "def", "default", "del",
        "delete", "do", "double", "elif", "else", "enum", "except", "extern", "finally", "float", "for", "from", "global", "goto", "if",
        "import", "in", "inline", "int", "is", "lambda", "long", "new", "nonlocal", "not", "or", "pass", "private", "public", "raise",
        "register", "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch", "this", "try", "typedef", "union",
        "unsigned", "void", "volatile", "while", "with", "yield", "n", "t", "w", "g", "hyper",
    ];
    if RESERVED.contains(&name.as_str()) { format!("{name}_") } else { name }
}

/// An end of a range.
type End = Option<(f64, bool)>;

/// The range that the definition of `adamw.beta1` gives, as far as it is written in numbers.
fn range(session: &Session, name: &str) -> (End, End) {
    let mut words = name.rsplit('.');
    let (Some(parameter), Some(optimizer)) = (words.next(), words.next()) else { return (None, None) };
    let items = session.program.modules.iter().flat_map(|m| &m.file.items);
    let found = items.into_iter().find_map(|item| match &item.kind {
        ItemKind::Fn(f) if f.kind == FnKind::Optimizer && &*f.name.text == optimizer => {
            f.params.iter().find(|p| &*p.name.text == parameter)
        }
        _ => None,
    });
    let Some(range) = found.and_then(|p| p.range.as_ref()) else { return (None, None) };
    let end = |bound: &Option<Bound>| bound.as_ref().and_then(|b| number(&b.value.kind).map(|x| (x, b.inclusive)));
    (end(&range.low), end(&range.high))
}

fn number(kind: &ExprKind) -> Option<f64> {
    match kind {
        ExprKind::Int(n) => Some(*n as f64),
        ExprKind::Float(x) => Some(*x),
        ExprKind::Unary(UnaryOp::Neg, x) => number(&x.kind).map(|x| -x),
        _ => None,
    }
}
