//! Programs as `.opt` source: an optimizer that reads like one written by hand. What nothing needs is left out.

mod expr;
mod formula;
mod order;

pub(crate) use expr::number;
pub use formula::formula;

use crate::genome::Genome;
use crate::live::without_dead_code;
use std::fmt::Write;

/// What is printed around the body.
#[derive(Clone, Debug)]
pub struct Heading<'a> {
    /// The optimizer's name.
    pub name: &'a str,
    /// Lines of its documentation, without `##`.
    pub doc: &'a [String],
    /// The learning rate it has where none is given.
    pub lr: f64,
}

/// The functions of `std.search` that a text uses.
fn imports(body: &str) -> Vec<&'static str> {
    let used = |name: &str| {
        body.match_indices(name).any(|(at, _)| {
            let before = body[..at].chars().next_back();
            body[at + name.len()..].starts_with('(') && !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.')
        })
    };
    expr::LIBRARY.iter().map(|(_, name)| *name).filter(|name| used(name)).collect()
}

/// The program as a spec with one optimizer.
pub fn source(genome: &Genome, heading: &Heading<'_>) -> String {
    let live = without_dead_code(genome);
    let body = order::body(&live);
    let mut out = String::new();
    let imports = imports(&body);
    if !imports.is_empty() {
        let _ = writeln!(out, "import std.search.{{{}}}\n", imports.join(", "));
    }
    for line in heading.doc {
        let _ = writeln!(out, "{}", if line.is_empty() { "##".to_string() } else { format!("## {line}") });
    }
    let _ = writeln!(out, "optimizer {}(lr: float >= 0 = {}) {{", heading.name, expr::number(heading.lr));
    out.push_str(&body);
    out.push_str("}\n");
    out
}
