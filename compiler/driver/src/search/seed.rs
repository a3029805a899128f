//! Optimizers of a spec or of the standard library as programs of the search.

use crate::commands::explain;
use crate::session::Session;
use crate::synthetic::Stored;
use optc_elab::TrainProgram;
use optc_elab::program::SlotKind;
use optc_search::genome::Genome;
use optc_search::hash::keys;
use optc_search::import::{self, Role, StateOf, Update};
use std::path::Path;

/// An optimizer as a program.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The expression it came from.
    pub expression: String,
    /// The program; hyperparameters other than the learning rate are numbers in it.
    pub genome: Genome,
    /// The learning rate that the expression gives.
    pub lr: f64,
}

/// Why an optimizer is no program.
pub enum Refused {
    /// A mistake in the spec or expression; the session has it.
    Spec(Box<Session>),
    /// What it does that programs cannot.
    Beyond(String),
}

/// Lengths of the leaves it is looked at with: two that differ, so that what is done with all leaves, or depends on their lengths, is known as such; and others, with which the program must be the same.
const LENGTHS: [[usize; 2]; 2] = [[7, 5], [6, 11]];

/// The program of an optimizer expression.
///
/// # Errors
/// Why there is none.
pub fn seed(expression: &str, file: Option<&Path>) -> Result<Seed, Refused> {
    let (genome, lr) = with_lengths(expression, file, LENGTHS[0])?;
    let (other, _) = with_lengths(expression, file, LENGTHS[1])?;
    let key = |genome: &Genome| genome.dag().map(|dag| keys(&dag).exact);
    if key(&genome) != key(&other) {
        return Err(Refused::Beyond("what it does depends on how many elements there are".to_string()));
    }
    Ok(Seed { expression: expression.to_string(), genome, lr })
}

fn with_lengths(expression: &str, file: Option<&Path>, lengths: [usize; 2]) -> Result<(Genome, f64), Refused> {
    let shapes: Vec<Vec<usize>> = lengths.iter().map(|n| vec![*n]).collect();
    let (program, _, transform) =
        explain::find_optimizer_step(expression, file, &shapes, Stored::F64, 1).map_err(|s| Refused::Spec(Box::new(s)))?;
    if transform {
        return Err(Refused::Beyond("it only transforms gradients and takes no step".to_string()));
    }
    if let Some(how) = program.step.asked_again.first() {
        return Err(Refused::Beyond(format!("it looks at the loss again (`{how}`)")));
    }
    of_step(&program, lengths[0]).map_err(Refused::Beyond)
}

/// Whether a hyperparameter is a learning rate.
fn is_rate(name: &str) -> bool {
    name.rsplit('.').next() == Some("lr")
}

/// The program of a step on the leaves above, that of the first; and the value of the learning rate.
fn of_step(program: &TrainProgram, len: usize) -> Result<(Genome, f64), String> {
    let graph = &program.step.graph;
    let first = |name: &str| name.split('.').any(|part| part == "w0");
    let second = |name: &str| name.split('.').any(|part| part == "w1");
    let of_first = |name: &str| name.split('.').map(|part| if part == "w1" { "w0" } else { part }).collect::<Vec<_>>().join(".");
    let shared = |name: &str| !first(name) && !second(name);
    let states: Vec<(usize, String)> = program
        .slots
        .iter()
        .enumerate()
        .filter(|(_, s)| s.kind == SlotKind::State && !second(&s.name))
        .map(|(k, s)| {
            let words: Vec<&str> =
                s.name.split('.').filter(|w| *w != "optimizer" && *w != "net" && *w != "w0" && w.parse::<usize>().is_err()).collect();
            (k, words.join("_"))
        })
        .collect();
    let mut rates = Vec::new();
    let roles = graph.inputs.iter().enumerate().map(|(k, input)| {
        if let Some(name) = input.name.strip_prefix("hyper.") {
            let value = program.step.hyper.iter().find(|(n, _)| n == name).map_or(f64::NAN, |(_, v)| *v);
            if is_rate(name) {
                rates.push(value);
                return Role::Rate;
            }
            return Role::Number(value);
        }
        if let Some(slot) = program.slots.get(k) {
            return match slot.kind {
                SlotKind::Counter => Role::Step,
                SlotKind::Param if first(&slot.name) => Role::Weight,
                SlotKind::Param if second(&slot.name) => Role::Other(Box::new(Role::Weight)),
                SlotKind::State => match states.iter().position(|(s, _)| *s == k || program.slots[*s].name == of_first(&slot.name)) {
                    Some(n) if shared(&slot.name) => Role::Shared(n),
                    Some(n) if first(&slot.name) => Role::State(n),
                    Some(n) => Role::Other(Box::new(Role::State(n))),
                    None => Role::Foreign("other leaves".to_string()),
                },
                _ => Role::Foreign("other leaves".to_string()),
            };
        }
        match input.name.as_str() {
            "field.0" => Role::Gradient,
            "field.1" => Role::Other(Box::new(Role::Gradient)),
            "key" => Role::Foreign("random numbers".to_string()),
            name if name.starts_with("field.") => Role::Foreign("other leaves".to_string()),
            _ => Role::Foreign("the loss or a metric".to_string()),
        }
    });
    let roles: Vec<Role> = roles.collect();
    if rates.len() > 1 {
        return Err("it has several learning rates".to_string());
    }
    let weight =
        |is: &dyn Fn(&str) -> bool| program.slots.iter().position(|s| s.kind == SlotKind::Param && is(&s.name)).ok_or("it has no weights");
    let weight = [weight(&first)?, weight(&second)?];
    let other = |k: usize| program.slots.iter().position(|s| second(&s.name) && of_first(&s.name) == program.slots[k].name).unwrap_or(k);
    let states = states.iter().map(|(k, name)| StateOf { name: name.clone(), next: [*k, other(*k)], first: *k }).collect();
    let update = Update { graph, roles, weight, states, initial: &program.init, len };
    let genome = import::program(&update)?;
    Ok((genome, rates.first().copied().unwrap_or(1.0)))
}
