//! Programs as specs: text in the standard layout.

use optc_search::genome::Genome;
use optc_search::print::{Heading, source};

/// The spec of one optimizer.
pub fn of(genome: &Genome, name: &str, doc: &[String], lr: f64) -> String {
    let text = source(genome, &Heading { name, doc, lr });
    optc_front::format(&text).unwrap_or(text)
}

/// A name for an optimizer: the first word of an expression.
pub fn name(expression: &str) -> String {
    let word: String = expression.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let plain = word.starts_with(|c: char| c.is_ascii_alphabetic()) && word != "optimizer";
    if plain { word } else { format!("p_{word}") }
}
