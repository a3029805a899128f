//! Programs as text: the subset of Python that Hero writes, one assignment a line. Read by a parser of our own, with spans and codes; written so that it reads back as the
//! same program, redundant statements included. Archives keep this form.
//!
//! ```text
//! def train(w, g, m, lr):
//!   update = interpolate(g, m, 0.9)
//!   update = sign(update)
//!   m = interpolate(g, m, 0.99)
//!   update = update * lr
//!   return update, m
//! ```
//!
//! The parameters are the weights (`w`, `params`, …), their gradient (`g`, `gradient`, …), the learning rate (`lr`), the number of the step (`t`), and states, which may have a
//! first value (`m = 0.5`; 0 if none is given). `update=0.0` says that the update is read before it is assigned. Returned are the update and the states, in the order of the parameters.

mod lex;
mod read;

pub use read::{Imported, read};

use crate::genome::{Arg, Genome, Reg};
use std::fmt::Write;

/// A number as it is written: it reads back as the same.
pub fn number(x: f64) -> String {
    if x.is_nan() {
        "nan".to_string()
    } else if x.is_infinite() {
        if x > 0.0 { "inf" } else { "-inf" }.to_string()
    } else {
        format!("{x:?}")
    }
}

/// What the names of intermediate values begin with; a number follows.
const TEMP: char = 'x';

/// The number of the intermediate value that a name is reserved for.
fn temp_number(name: &str) -> Option<u8> {
    let digits = name.strip_prefix(TEMP)?;
    let canonical = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| canonical && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The name of a register.
pub fn register(genome: &Genome, reg: Reg) -> String {
    match reg {
        Reg::W => "w".to_string(),
        Reg::G => "g".to_string(),
        Reg::Lr => "lr".to_string(),
        Reg::T => "t".to_string(),
        Reg::Update => "update".to_string(),
        Reg::State(k) => genome.states[k as usize].name.clone(),
        Reg::Temp(k) => format!("{TEMP}{k}"),
    }
}

/// Operators, with the functions they stand for.
const OPERATORS: &[(&str, &str)] = &[("+", "add"), ("-", "sub"), ("*", "mul"), ("/", "div")];

/// The program as text.
pub fn write(genome: &Genome) -> String {
    let mut out = "def train(w, g, lr, t".to_string();
    for state in &genome.states {
        let _ = write!(out, ", {}", state.name);
        if state.init != 0.0 || state.init.is_sign_negative() {
            let _ = write!(out, "={}", number(state.init));
        }
    }
    if !sets_update_first(genome) {
        // In this form a name has no value before it is assigned one.
        out.push_str(", update=0.0");
    }
    out.push_str("):\n");
    for stmt in &genome.body {
        let args: Vec<String> = stmt
            .args()
            .iter()
            .map(|a| match a {
                Arg::Reg(r) => register(genome, *r),
                Arg::Const(x) => number(*x),
            })
            .collect();
        let name = stmt.fun.name();
        let value = match OPERATORS.iter().find(|(_, n)| *n == name) {
            Some((sign, _)) => format!("{} {sign} {}", args[0], args[1]),
            None => format!("{name}({})", args.join(", ")),
        };
        let _ = writeln!(out, "  {} = {value}", register(genome, stmt.out));
    }
    let states: String = genome.states.iter().map(|s| format!(", {}", s.name)).collect();
    let _ = writeln!(out, "  return update{states}");
    out
}

/// Whether the update is assigned before it is read or returned.
fn sets_update_first(genome: &Genome) -> bool {
    for stmt in &genome.body {
        if stmt.reads().any(|r| r == Reg::Update) {
            return false;
        }
        if stmt.out == Reg::Update {
            return true;
        }
    }
    false
}
