//! An optimizer as functions over leaves of any length: what it takes, what it keeps, its kernels.

use super::{Emit, Request, lower};
use crate::commands::explain;
use crate::messages::Messages;
use crate::session::{Failed, Session};
use crate::synthetic::{self, Stored};
use optc_abi::DType;
use optc_abi::plan::Plan;
use optc_cranelift::object::{Flat, Function, Hyper, Library, Rule, Xla, code};
use optc_elab::TrainProgram;
use optc_front::ast::{Bound, ExprKind, FnKind, ItemKind, UnaryOp};
use optc_ir::kernel::Kernel;
use optc_ir::{Graph, ScalarOp};

/// The weight among the arrays of a leaf.
pub const WEIGHT: usize = 0;
/// The gradient.
pub const GRADIENT: usize = 1;
/// The first state.
pub const STATES: usize = 2;

/// The function that makes the new states alone: for XLA, which makes the change of the weight of them itself.
pub const MOMENTS: &str = "moments";

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
    /// The change may take the place of the gradient: each element of it is read for the last time before it is written.
    pub change_in_place: bool,
}

/// Code that can be shown.
#[derive(Default)]
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
    /// Names of the inputs: `w`, `g`, `t`, `s_STATE`, `h_HYPER`, `folds[0]`, and [`LENGTH`](super::source::LENGTH).
    pub inputs: Vec<String>,
    /// Gives the new weight and states.
    pub step: Graph,
    /// Gives the change of the weight and the new states.
    pub delta: Graph,
    /// Gives the change of the weight, where inputs that are states stand for the new ones; if it depends on no old state.
    pub change: Option<Graph>,
    /// Gives, of the weight, the initial values of the states that `fills` has none for.
    pub init: Graph,
    /// The initial value of each state that has one everywhere.
    pub fills: Vec<Option<f64>>,
    /// What leaves contribute to numbers that are combined over all of them.
    pub rounds: Vec<Contribution>,
}

/// What a leaf contributes in one round.
#[derive(Clone, Debug, Default)]
pub struct Contribution {
    /// Gives the parts; has the inputs of the step, and the combinations of earlier rounds.
    pub graph: Graph,
    /// Which combinations they are for, and how they are combined.
    pub folds: Vec<(usize, ScalarOp)>,
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

    /// How often all leaves are gone through in a step.
    pub fn rounds(&self) -> usize {
        self.functions("step").map(|f| f.flat.rounds()).max().unwrap_or(1)
    }

    /// Whether elements of a leaf, or leaves, are combined.
    pub fn reduces(&self) -> bool {
        self.functions("step").any(|f| f.flat.reduces())
    }

    /// The functions of this name, for each element type.
    pub fn functions(&self, name: &str) -> impl Iterator<Item = &Function> {
        self.library.rules.iter().flat_map(|r| &r.functions).filter(move |f| f.name == name)
    }

    /// Names of all functions.
    pub fn symbols(&self) -> Vec<String> {
        let mut names = vec![format!("{}_defaults", self.library.name), format!("{}_error", self.library.name)];
        for rule in &self.library.rules {
            for function in &rule.functions {
                let name = format!("{}_{}", rule.name, function.name);
                names.extend([name.clone(), format!("{name}_many")]);
                if function.flat.rounds() > 1 {
                    names.push(format!("{name}_round"));
                }
                if function.xla.is_some() {
                    names.push(format!("{name}_xla"));
                }
            }
        }
        names
    }
}

/// Lowers the rule for each element type.
///
/// # Errors
/// As [`super::build`].
pub fn build(request: &Request<'_>, messages: &Messages) -> Result<Built, Failed> {
    let name = c_name(request, messages)?;
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
        let lowered = lower::lower(request, stored, messages)?;
        let states = lowered.states;
        built.expression = synthetic::completed(request.optimizer, request.file);
        built.hyper = lowered.hyper;
        let prefix = format!("{name}_{}", stored.dtype().name());
        built.variants.push(Variant { stored, change_in_place: lowered.delta.flat.may_overwrite(GRADIENT, STATES + states.len()), states });
        let states = built.variants.last().map(|v| v.states.as_slice()).unwrap_or_default();
        let mut functions = rule(&prefix, stored, states, [&lowered.step.flat, &lowered.delta.flat, &lowered.init.flat]);
        // Only XLA makes the change of the weight by itself.
        if let Some(moments) = lowered.moments.filter(|_| request.emit.contains(&Emit::Jax)) {
            functions.functions.push(moments_of(&moments.flat, states));
        }
        built.library.rules.push(functions);
        for (function, piece) in [("step", lowered.step), ("delta", lowered.delta), ("init", lowered.init)] {
            built.parts.extend(piece.parts.into_iter().map(|p| Part { name: format!("{prefix}_{function}{}", p.name), ..p }));
        }
        if built.variants.len() == 1 {
            built.source = lowered.source;
            built.doc = lowered.doc;
        }
    }
    built.library.hyper = built.hyper.iter().map(|h| h.value.clone()).collect();
    built.library.messages = messages_of(&built.library.name, &built.hyper);
    if built.rounds() > 1 {
        let rounds = format!("rounds are counted from 0 to {}", built.rounds() - 1);
        built.library.messages.push((code::ROUND, rounds));
    }
    Ok(built)
}

/// The name that those of C functions begin with.
pub(super) fn c_name(request: &Request<'_>, messages: &Messages) -> Result<String, Failed> {
    let name = match request.name {
        Some(name) => name.to_string(),
        None => request.optimizer.split(|c: char| !c.is_alphanumeric() && c != '_').find(|w| !w.is_empty()).unwrap_or("rule").to_string(),
    };
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        messages.error("", &format!("`{name}` cannot begin the names of C functions"), Some("`--name` gives another"));
        return Err(crate::wrong_usage());
    }
    Ok(name)
}

/// What the codes of the functions mean.
pub(super) fn messages_of(name: &str, hyper: &[HyperDecl]) -> Vec<(i32, String)> {
    let mut all = vec![
        (code::OK, "success".to_string()),
        (code::NULL, "a pointer is null".to_string()),
        (code::VERSION, format!("the hyperparameters are not those of this library: call {name}_defaults first")),
        (code::STEP, "steps are counted from 1".to_string()),
    ];
    for (k, h) in hyper.iter().enumerate() {
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
fn rule(prefix: &str, stored: Stored, states: &[StateDecl], [step, delta_of, init]: [&Flat; 3]) -> Rule {
    let width = stored.dtype().size();
    let kept: Vec<usize> = (STATES..STATES + states.len()).collect();
    let delta = STATES + states.len();
    let all = |first: &[usize], last: &[usize]| [first, &kept, last].concat();
    let written = written(states);
    // In the form for XLA: the weight or the change, then the states.
    let xla =
        |first: usize| Some(Xla { operands: all(&[WEIGHT, GRADIENT], &[]), results: [&[(first, width as i64)][..], &written].concat() });
    Rule {
        name: prefix.to_string(),
        functions: vec![
            Function { name: "step", flat: step.clone(), takes: all(&[WEIGHT, GRADIENT], &[]), stepping: true, xla: xla(WEIGHT) },
            Function { name: "delta", flat: delta_of.clone(), takes: all(&[WEIGHT, GRADIENT], &[delta]), stepping: true, xla: xla(delta) },
            Function { name: "init", flat: init.clone(), takes: all(&[WEIGHT], &[]), stepping: false, xla: None },
        ],
    }
}

/// What a function for XLA writes of the states: arrays, and bytes of an element.
fn written(states: &[StateDecl]) -> Vec<(usize, i64)> {
    states.iter().enumerate().map(|(k, s)| (STATES + k, s.dtype.size() as i64 * if s.scalar { -1 } else { 1 })).collect()
}

/// The function that makes the new states alone.
fn moments_of(flat: &Flat, states: &[StateDecl]) -> Function {
    let takes: Vec<usize> = [WEIGHT, GRADIENT].into_iter().chain(STATES..STATES + states.len()).collect();
    let xla = Some(Xla { operands: takes.clone(), results: written(states) });
    Function { name: MOMENTS, flat: flat.clone(), takes, stepping: true, xla }
}

/// A state with a name that no other has: that of the rule, with its part's number where two parts have one of the name.
pub(super) fn state(path: &str, dtype: DType, scalar: bool, used: &mut Vec<String>) -> StateDecl {
    let mut words = path.rsplit('.');
    let mut name = words.next().unwrap_or(path).to_string();
    for part in words {
        if !used.contains(&name) && !name.starts_with(|c: char| c.is_ascii_digit()) {
            break;
        }
        // A name does not begin with the number of one of several.
        name = if name.starts_with(|c: char| c.is_ascii_digit()) { format!("{part}_{name}") } else { format!("{name}_{part}") };
    }
    let name = word(name);
    used.push(name.clone());
    StateDecl { name, dtype, scalar }
}

/// Hyperparameters with short names, defaults and the ranges that the text of their optimizers gives.
pub(super) fn hyperparameters(program: &TrainProgram, session: &Session) -> Vec<HyperDecl> {
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
pub(super) fn documentation(session: &Session, expression: &str) -> String {
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
