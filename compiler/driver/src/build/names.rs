//! What other frameworks call a rule's states and hyperparameters: read from the section of its documentation that carries the framework's name.
//!
//! ```text
//! ## # torch
//! ## m = exp_avg, v = exp_avg_sq, weight_decay = 1e-2, amsgrad = False
//! ```
//! A right side that is a word, for a hyperparameter, is the key of a group that holds it: `clipping = d`, its negative (`decay_rate = -beta2_decay`) or a place of a tuple (`eps = eps[0]`, with `eps[0] = None` its default
//! there; None is the rounding of the parameter's type). A heading `# torch, variant = "torch"` counts only where the expression says that.
//!
//! The left side is a state (then the right side is its name there), a hyperparameter (its default there), or anything else: a key that its groups carry, with this value. A state that the rule
//! has not with the arguments at hand is passed over.

use super::rule::{Built, HyperDecl};

/// What one framework calls things.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// Names of the states, in order.
    pub states: Vec<String>,
    /// Defaults of the hyperparameters, in order, as they are written there.
    pub defaults: Vec<String>,
    /// Where groups hold the hyperparameters, in order.
    pub keys: Vec<Key>,
    /// Other keys and their values.
    pub extra: Vec<(String, String)>,
}

/// Where a group holds a hyperparameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The key.
    pub name: String,
    /// Its place in the tuple that the key holds.
    pub place: Option<usize>,
    /// The group holds its negative.
    pub negated: bool,
    /// The default of the key, or of the place, as it is written there.
    pub default: Option<String>,
}

impl Key {
    /// `-beta2_decay`, `eps[0]`
    fn read(text: &str) -> Option<Key> {
        let negated = text.starts_with('-');
        let word = text.trim_start_matches('-');
        let (name, place) = match word.split_once('[') {
            Some((name, rest)) => (name, Some(rest.strip_suffix(']')?.parse().ok()?)),
            None => (word, None),
        };
        let letters = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        (letters && !literal(text)).then(|| Key { name: name.to_string(), place, negated, default: None })
    }

    fn text(&self) -> String {
        self.place.map_or(self.name.clone(), |p| format!("{}[{p}]", self.name))
    }
}

/// The names that the documentation `doc` gives for a framework.
pub fn names(built: &Built, doc: &str, framework: &str) -> Names {
    let states = built.variants.first().map(|v| v.states.as_slice()).unwrap_or_default();
    let states: Vec<String> = states.iter().map(|s| s.name.clone()).collect();
    of(&states, &built.hyper, &built.expression, doc, framework)
}

/// The names for states and hyperparameters of an expression.
pub fn of(states: &[String], hyper: &[HyperDecl], expression: &str, doc: &str, framework: &str) -> Names {
    let own = |h: &HyperDecl| Key { name: h.name.clone(), place: None, negated: false, default: None };
    let mut names = Names {
        states: states.to_vec(),
        defaults: hyper.iter().map(|h| number(h.value.default)).collect(),
        keys: hyper.iter().map(own).collect(),
        extra: Vec::new(),
    };
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    let heads = |line: &str| match line.trim().strip_prefix(&format!("# {framework}")) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(", ").is_some_and(|wanted| bare(expression).contains(&bare(wanted))),
        None => false,
    };
    let section = doc.lines().skip_while(|l| !heads(l)).skip(1).take_while(|l| !l.trim_start().starts_with("# "));
    let text: Vec<&str> = section.collect();
    let text = text.join(" ");
    let mut rest = Vec::new();
    for entry in text.split(',') {
        let Some((left, right)) = entry.split_once('=') else { continue };
        let (left, right) = (left.trim(), right.trim());
        if let Some(k) = states.iter().position(|s| s == left) {
            names.states[k] = right.to_string();
        } else if let Some(k) = hyper.iter().position(|h| h.name == left) {
            match Key::read(right) {
                Some(key) => names.keys[k] = key,
                // What the expression sets is not the framework's to change.
                None if !expression.contains(&format!("{left} =")) => names.defaults[k] = right.to_string(),
                None => {}
            }
        } else if literal(right) {
            rest.push((left.to_string(), right.to_string()));
        }
    }
    for (left, right) in rest {
        match names.keys.iter_mut().find(|k| k.text() == left) {
            Some(key) => key.default = Some(right),
            None => names.extra.push((left, right)),
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
