//! Optimizers, compiled for given leaves: all leaves in one step, hyperparameters as inputs.

use crate::call::dtype;
use crate::module::{environment, rule, spec_fault};
use crate::shared::{Lazy, locked};
use crate::{Fault, handles, wrong};
use optc::Session;
use optc::pipeline::CompileOptions;
use optc::ranges::out_of_range_error;
use optc::trainer::{run_error, run_key};
use optc_abi::plan::CallbackFn;
use optc_abi::{DType, Tensor};
use optc_base::Span;
use optc_elab::optimizer::{AloneLeaf, AloneOptions, AloneProgram, AloneState, Question};
use optc_elab::script;
use optc_exec::{Callback, Program, RunError};
use optc_ir::Ty;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// A leaf as the caller describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Leaf {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    gradient: String,
    outputs_first: bool,
    /// Whose hyperparameters it has, where some are those of groups.
    #[serde(default)]
    group: usize,
}

/// Where an optimizer is written.
#[derive(Clone, Debug, Deserialize)]
pub struct Asked {
    rule: String,
    file: Option<String>,
    module: Option<u64>,
    leaves: Vec<Leaf>,
    total_steps: Option<i64>,
    /// Examples of a batch, for rules that look at the gradient of each.
    examples: Option<usize>,
    /// Hyperparameters that each group of leaves has by itself.
    #[serde(default)]
    apart: Vec<String>,
    /// Whether the leaves are some of those that the rule's groups are of.
    #[serde(default)]
    part: bool,
    /// Whether it is to be said whether the rule cares for the order of axes.
    #[serde(default)]
    axes: bool,
}

/// Parts of an optimizer that can be run, by their numbers, with the addresses they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Weights, gradients (null where they are not needed), states to fill.
    Init = 0,
    /// Weights, gradients, states, count: all but the gradients are updated in place.
    Step = 1,
    /// Weights, gradients, states, count, then the changes of the weights to fill: states and count are updated in place.
    Changes = 2,
    /// Weights, gradients, states, count, then changes, new states and new count to fill: nothing is overwritten.
    Update = 3,
    /// Weights, states, count, then the weights used in evaluation to fill.
    Eval = 4,
}

const PARTS: [Part; 5] = [Part::Init, Part::Step, Part::Changes, Part::Update, Part::Eval];

/// A compiled part, with what it reads besides the caller's arrays.
struct Ready {
    lazy: Lazy,
    /// Loss, then hyperparameters.
    scalars: Vec<Tensor>,
    key: Tensor,
    /// What the step says of computed hyperparameters.
    checked: Vec<Tensor>,
}

/// A compiled optimizer.
pub struct Step {
    program: AloneProgram,
    session: Session,
    span: Span,
    names: Vec<String>,
    parts: [Mutex<Option<Ready>>; 5],
}

/// Lowers an optimizer: its number, its states and hyperparameters.
///
/// # Errors
/// Mistakes in it; a rule that changes no weights.
pub fn compile(asked: &Asked) -> Result<Value, Fault> {
    let session = rule(&asked.rule, asked.file.as_deref(), asked.module)?;
    let (item, _) = session.items().next().ok_or_else(|| wrong("there is no optimizer"))?;
    let mut leaves = Vec::with_capacity(asked.leaves.len());
    let mut seen = HashSet::new();
    for leaf in &asked.leaves {
        let weight = dtype(&leaf.dtype)?;
        let gradient = dtype(&leaf.gradient)?;
        if !weight.is_float() || !gradient.is_float() {
            return Err(wrong(format!("weights and gradients are floats; `{}` is {weight} with gradients of {gradient}", leaf.name)));
        }
        if !seen.insert(&leaf.name) {
            return Err(wrong(format!("two leaves are called `{}`", leaf.name)));
        }
        leaves.push(AloneLeaf {
            path: Arc::from(&*leaf.name),
            weight: Ty::new(weight, leaf.shape.iter().copied()),
            gradient,
            outputs_first: leaf.outputs_first,
            group: leaf.group,
        });
    }
    if leaves.is_empty() {
        return Err(wrong("an optimizer needs leaves"));
    }
    let span = session.program.item(item).name().map_or(Span::default(), |n| n.span);
    let lowered = |leaves: &[AloneLeaf]| {
        let mut host = environment(&session, 1, true);
        let options =
            AloneOptions { total_steps: asked.total_steps, whole: !asked.part, examples: asked.examples, apart: asked.apart.clone() };
        script::lower_optimizer(&session.program, item, leaves, options, &session.settings, &mut host)
            .map_err(|d| spec_fault(&d, &session.program.sources))
    };
    let program = lowered(&leaves)?;
    let blind = asked.axes && {
        let mut other = leaves.clone();
        other.iter_mut().for_each(|leaf| leaf.outputs_first = !leaf.outputs_first);
        let other = lowered(&other)?;
        if leaves[0].outputs_first { other.blind_to_axes(&program) } else { program.blind_to_axes(&other) }
    };
    if !program.changes_weights() {
        return Err(wrong(format!(
            "`{0}` only changes gradients; let a rule follow that changes weights: `{0} |> sgd(lr = 0.1)`",
            asked.rule
        )));
    }
    let names = short_names(&program);
    let states: Vec<Value> = program
        .states
        .iter()
        .zip(state_names(&program.states))
        .map(
            |(s, short)| json!({ "full": s.full, "name": short, "own": s.name, "leaf": s.leaf, "dtype": s.ty.dtype.name(), "shape": s.ty.shape.to_vec() }),
        )
        .collect();
    let hyper: Vec<Value> = program
        .hyper
        .iter()
        .zip(&names)
        .map(|((full, value), short)| json!({ "full": full, "name": short, "value": crate::host::number(*value) }))
        .collect();
    let facts = json!({
        "states": states, "hyper": hyper, "needs_loss": program.needs_loss(), "draws": program.draws(),
        "begins_with_gradients": program.begins_with_gradients(), "has_eval": program.eval.is_some(),
        "asks": program.asks().into_iter().map(Question::name).collect::<Vec<_>>(), "couples_leaves": program.couples_leaves(), "blind_to_axes": asked.axes.then_some(blind),
    });
    let step = Step { program, session, span, names, parts: Default::default() };
    let mut reply = facts;
    reply["step"] = json!(handles::add(handles::Thing::Step(step)));
    Ok(reply)
}

/// The shortest end of the names of hyperparameters that tells them apart: `lr`, `adamw.lr`, `0.adamw.lr`.
fn short_names(program: &AloneProgram) -> Vec<String> {
    let ends = |full: &str| -> Vec<String> {
        let parts: Vec<&str> = full.split('.').collect();
        let numbered = parts.last().is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
        let parameter = parts.len().saturating_sub(1 + usize::from(numbered));
        [parameter, parameter.saturating_sub(1), 0].map(|from| parts[from..].join(".")).to_vec()
    };
    let all: Vec<Vec<String>> = program.hyper.iter().map(|(full, _)| ends(full)).collect();
    shortest(&all)
}

/// The names of states: `m` where only one body has a state of this name, else with the body's number: `1.m`.
fn state_names(states: &[AloneState]) -> Vec<String> {
    let mut bodies: HashMap<&str, HashSet<&str>> = HashMap::new();
    for s in states {
        bodies.entry(&s.name).or_default().insert(&s.body);
    }
    // The count of the steps has this name.
    let plain = |s: &AloneState| bodies[&*s.name].len() == 1 && (s.name != "step" || s.leaf.is_some());
    states.iter().map(|s| if plain(s) { s.name.clone() } else { format!("{}.{}", s.body, s.name) }).collect()
}

fn shortest(all: &[Vec<String>]) -> Vec<String> {
    let unique = |name: &String, level: usize| all.iter().filter(|other| other[level] == *name).count() == 1;
    all.iter()
        .map(|own| {
            own.iter().enumerate().find(|(level, n)| unique(n, *level)).map_or_else(|| own[own.len() - 1].clone(), |(_, n)| n.clone())
        })
        .collect()
}

impl Step {
    fn lazy(&self, part: Part) -> Option<Lazy> {
        let p = &self.program;
        let (leaves, states) = (p.leaves, p.states.len());
        // Outputs of the step that live on: weights, states, count; their inputs.
        let weights = (0..leaves).map(|k| (k, k));
        let kept = (0..=states).map(|k| (leaves + k, 2 * leaves + k));
        let guards: Vec<usize> = p.guard().into_iter().collect();
        let options = |alias: Vec<(usize, usize)>| CompileOptions { alias, guards: guards.clone(), ..CompileOptions::default() };
        Some(match part {
            Part::Init => Lazy::new(p.init.clone(), CompileOptions::once()),
            Part::Step => Lazy::new(p.step.clone(), options(weights.chain(kept).collect())),
            Part::Changes => Lazy::new(p.changes(), options(kept.collect())),
            Part::Update => Lazy::new(p.changes(), options(Vec::new())),
            Part::Eval => Lazy::new(p.eval.clone()?, CompileOptions::default()),
        })
    }

    /// Numbers of addresses: inputs, outputs.
    fn counts(&self, part: Part) -> (usize, usize) {
        let (leaves, states) = (self.program.leaves, self.program.states.len());
        match part {
            Part::Init => (2 * leaves, states),
            Part::Step => (2 * leaves + states + 1, 0),
            Part::Changes => (2 * leaves + states + 1, leaves),
            Part::Update => (2 * leaves + states + 1, leaves + states + 1),
            Part::Eval => (leaves + states + 1, leaves),
        }
    }

    /// Runs a part; see [`Part`] for the addresses. Where the step asks for the loss at other weights, `callback` answers ([`Question`]).
    ///
    /// # Errors
    /// Hyperparameters outside their ranges; an index out of range; a fault of the kind `callback` where that failed: nothing was changed.
    ///
    /// # Safety
    /// The addresses are of arrays of the optimizer's types, aligned to their elements, which outlive the call; no two that are written overlap, and nobody else uses them.
    /// The callback does not run this part of this optimizer.
    pub unsafe fn run(
        &self,
        part: u32,
        addresses: &[*mut u8],
        scalars: &[f64],
        seed: u64,
        callback: Option<CallbackFn>,
    ) -> Result<(), Fault> {
        let part = PARTS.into_iter().find(|p| *p as u32 == part).ok_or_else(|| wrong("there is no such part of an optimizer"))?;
        let (inputs, outputs) = self.counts(part);
        let hyper = self.program.hyper.len();
        if addresses.len() != inputs + outputs || scalars.len() != 1 + hyper {
            return Err(wrong(format!(
                "{inputs} + {outputs} arrays and {} numbers are wanted, not {} and {}",
                1 + hyper,
                addresses.len(),
                scalars.len()
            )));
        }
        for ((x, limits), name) in scalars[1..].iter().zip(&self.program.limits).zip(&self.names) {
            if let Some(must) = limits.broken_by(*x) {
                return Err(wrong(format!("`{name}` is {x}, but must be {must}")));
            }
        }
        let mut ready = locked(&self.parts[part as usize]);
        if ready.is_none() {
            let lazy = self.lazy(part).ok_or_else(|| wrong("this rule evaluates the weights as they are"))?;
            let scalars = (0..=hyper).map(|_| Tensor::scalar(0f64)).collect();
            let checked = if self.program.ranged.is_empty() { 0 } else { self.program.ranged.len() + 1 };
            let checked = (0..checked).map(|_| Tensor::scalar(0f64)).collect();
            *ready = Some(Ready { lazy, scalars, key: run_key(0), checked });
        }
        let ready = ready.as_mut().ok_or_else(|| wrong("nothing was compiled"))?;
        for (tensor, x) in ready.scalars.iter_mut().zip(scalars) {
            tensor.as_mut_slice::<f64>()[0] = *x;
        }
        ready.key.as_mut_slice::<u32>().copy_from_slice(&[seed as u32, (seed >> 32) as u32]);
        let (program, fresh) = ready.lazy.get()?;
        let (leaves, states) = (self.program.leaves, self.program.states.len());
        // SAFETY: the caller's promise; what is not the caller's lives in `ready`, which the lock keeps.
        let ran = unsafe {
            if part == Part::Init {
                program.bind_input(0, ready.key.as_ptr());
                bind(program, 1, &addresses[..inputs]);
            } else {
                bind(program, 0, &addresses[..inputs]);
            }
            let steps = matches!(part, Part::Step | Part::Changes | Part::Update);
            if fresh && steps {
                program.bind_input(inputs, ready.key.as_ptr());
                for (k, tensor) in ready.scalars.iter().enumerate() {
                    program.bind_input(inputs + 1 + k, tensor.as_ptr());
                }
                for (k, tensor) in ready.checked.iter().enumerate() {
                    program.bind_output(leaves + states + 1 + k, tensor.as_ptr());
                }
            }
            for (k, &address) in addresses[inputs..].iter().enumerate() {
                program.bind_output(k, address);
            }
            program.call_back(callback.map(|function| Callback { function, data: std::ptr::null_mut() }));
            program.run_bound()
        };
        // SAFETY: the caller's promise.
        ran.map_err(|e| unsafe { self.failed(&e, addresses, ready) })
    }

    /// Why a step failed: a computed hyperparameter that left its range is named.
    ///
    /// # Safety
    /// As for [`Step::run`]: a step that failed.
    unsafe fn failed(&self, error: &RunError, addresses: &[*mut u8], ready: &Ready) -> Fault {
        let sources = &self.session.program.sources;
        if error.status.code == optc_abi::plan::status::CALLBACK {
            return Box::new(json!({ "kind": "callback", "message": "the loss at other weights was asked for, and not to be had" }));
        }
        let plain = || spec_fault(&[run_error(error, "this step", self.span)], sources);
        let p = &self.program;
        if p.ranged.is_empty() || error.status.code != optc_abi::plan::status::NOT_FINITE {
            return plain();
        }
        let first = p.leaves + p.states.len() + 1;
        let mut graph = p.step.clone();
        graph.outputs = graph.outputs[first..first + p.ranged.len()].to_vec();
        let mut lazy = Lazy::new(graph, CompileOptions::once());
        let Ok((program, _)) = lazy.get() else { return plain() };
        let values: Vec<Tensor> = p.ranged.iter().map(|_| Tensor::scalar(0f64)).collect();
        let inputs = 2 * p.leaves + p.states.len() + 1;
        let count = {
            let mut count = Tensor::zeros(DType::I32, &[]);
            // SAFETY: the last input of the caller is the count, an i32.
            count.bytes_mut().copy_from_slice(unsafe { std::slice::from_raw_parts(addresses[inputs - 1], 4) });
            count.get_f64(0) as u64
        };
        // SAFETY: the same arrays that the step was given, which it has not overwritten.
        let ran = unsafe {
            bind(program, 0, &addresses[..inputs]);
            program.bind_input(inputs, ready.key.as_ptr());
            for (k, tensor) in ready.scalars.iter().enumerate() {
                program.bind_input(inputs + 1 + k, tensor.as_ptr());
            }
            for (k, tensor) in values.iter().enumerate() {
                program.bind_output(k, tensor.as_ptr());
            }
            program.run_bound()
        };
        let found = ran.ok().and_then(|()| out_of_range_error(&p.ranged, &values, &format!("step {}", count + 1), Some(count)));
        found.map_or_else(plain, |d| spec_fault(&[d], sources))
    }
}

/// Binds inputs from `first` on.
///
/// # Safety
/// As for [`Program::bind_input`].
unsafe fn bind(program: &mut Program, first: usize, addresses: &[*mut u8]) {
    for (k, &address) in addresses.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { program.bind_input(first + k, address) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_as_short_as_they_can_be() {
        let ends = |full: &[&str]| full.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let all =
            [ends(&["lr", "sgd.lr", "0.sgd.lr"]), ends(&["lr", "adamw.lr", "1.adamw.lr"]), ends(&["eps", "adamw.eps", "1.adamw.eps"])];
        assert_eq!(super::shortest(&all), ["sgd.lr", "adamw.lr", "eps"]);
    }
}
