//! What other frameworks call a rule's states and hyperparameters: read from the section of its documentation that carries the framework's name.
//!
//! ```text
//! ## # torch
//! ## m = exp_avg, v = exp_avg_sq, weight_decay = 1e-2, amsgrad = False
//! ```
//! The left side is a state (then the right side is its name there), a hyperparameter (its default there), or anything else: a key that its groups carry, with this value. A state that the rule
//! has not with the arguments at hand is passed over.

use super::rule::Built;

/// What one framework calls things.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// Names of the states, in order.
    pub states: Vec<String>,
    /// Defaults of the hyperparameters, in order, as they are written there.
    pub defaults: Vec<String>,
    /// Other keys and their values.
    pub extra: Vec<(String, String)>,
}

/// The names that the documentation `doc` gives for a framework.
pub fn names(built: &Built, doc: &str, framework: &str) -> Names {
    let states = built.variants.first().map(|v| v.states.as_slice()).unwrap_or_default();
    let mut names = Names {
        states: states.iter().map(|s| s.name.clone()).collect(),
        defaults: built.hyper.iter().map(|h| number(h.value.default)).collect(),
        extra: Vec::new(),
    };
    let section =
        doc.lines().skip_while(|l| l.trim() != format!("# {framework}")).skip(1).take_while(|l| !l.trim_start().starts_with("# "));
    let text: Vec<&str> = section.collect();
    for entry in text.join(" ").split(',') {
        let Some((left, right)) = entry.split_once('=') else { continue };
        let (left, right) = (left.trim(), right.trim());
        if let Some(k) = states.iter().position(|s| s.name == left) {
            names.states[k] = right.to_string();
        } else if let Some(k) = built.hyper.iter().position(|h| h.name == left) {
            // What the expression sets is not the framework's to change.
            if !built.expression.contains(&format!("{left} =")) {
                names.defaults[k] = right.to_string();
            }
        } else if literal(right) {
            names.extra.push((left.to_string(), right.to_string()));
        }
    }
    names
}

/// A number in Python.
fn number(x: f64) -> String {
    if x.is_finite() { format!("{x:?}") } else { format!("float(\"{x}\")") }
}

/// Whether this is a value in Python; a bare word is what the framework calls a state, here one that the rule has not with these arguments.
fn literal(text: &str) -> bool {
    matches!(text, "True" | "False" | "None") || text.parse::<f64>().is_ok() || text.starts_with('"')
}

/// `adamw_bf16` as the name of a class: `AdamwBf16`; names that are known otherwise as they are known.
pub fn class_name(name: &str) -> String {
    const KNOWN: &[(&str, &str)] = &[
        ("adamw", "AdamW"),
        ("sgd", "SGD"),
        ("sgdw", "SGDW"),
        ("rmsprop", "RMSprop"),
        ("nadam", "NAdam"),
        ("nadamw", "NAdamW"),
        ("radam", "RAdam"),
        ("asgd", "ASGD"),
    ];
    if let Some((_, class)) = KNOWN.iter().find(|(n, _)| *n == name) {
        return class.to_string();
    }
    name.split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
        })
        .collect()
}
