//! Missing commas between arguments, elements and fields.

use super::build::Builder;
use super::codes;
use super::messages::{expectation, innermost, is_reserved, previous_end, previous_token, token};
use super::recover::{ITEM_WORDS, Part};
use super::scan::Scan;
use optc_base::{Diagnostic, Span};
use optc_grammar::Rule;

/// A place where a comma is missing.
pub(super) struct Missing {
    /// The blank or newline it may take the place of.
    pub at: usize,
    /// The bracket it would stand in.
    pub bracket: usize,
    /// What begins behind it.
    next: std::ops::Range<usize>,
}

impl Missing {
    pub fn error(&self, builder: &Builder<'_>, part: &Part) -> Diagnostic {
        let what = match part.text.as_bytes()[self.bracket] {
            b'(' if part.text[self.next.end..].trim_start().starts_with(':') => "parameter",
            b'(' => "argument",
            b'[' => "element",
            _ => "field",
        };
        let span = Span::new(builder.source, part.base + self.next.start, part.base + self.next.end);
        Diagnostic::error(codes::UNEXPECTED, span, "a comma is missing")
            .at(format!("another {what} begins here"))
            .help(format!("write `,` in front of `{}`", &part.text[self.next.clone()]))
    }
}

/// Whether reading failed at `at` because there is no comma: in brackets or in a record an operand follows another one.
pub(super) fn missing(text: &str, scan: &Scan, at: usize, expected: &[Rule]) -> Option<Missing> {
    if !matches!(expectation(expected), None | Some("`=`" | "`,`")) {
        return None;
    }
    let bracket = innermost(scan, at)?;
    let next = token(text, at);
    let end = previous_end(text, scan, at);
    let before = previous_token(text, end);
    let apart = text[..at].len() > end && text.as_bytes()[end].is_ascii_whitespace();
    if !apart || !ends_operand(before) || !begins_operand(next) {
        return None;
    }
    if bracket.byte == b'{' && !(is_record(text, bracket.at) && is_field(&text[at..]) && !is_block(text, scan, bracket.at)) {
        return None;
    }
    Some(Missing { at: end, bracket: bracket.at, next: at..at + next.len() })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_value_word(word: &str) -> bool {
    !is_reserved(word)
        || matches!(word, "true" | "false" | "none" | "float" | "f32" | "f64" | "bf16" | "f16" | "i32" | "i64" | "u32" | "u8" | "bool")
}

fn ends_operand(token: &str) -> bool {
    match token.chars().next_back() {
        Some(c) if is_word(c) => is_value_word(token),
        Some(')' | ']' | '}' | '"') => true,
        _ => false,
    }
}

fn begins_operand(token: &str) -> bool {
    match token.chars().next() {
        Some(c) if is_word(c) => is_value_word(token) || matches!(token, "not" | "if"),
        Some('"' | '{') => true,
        _ => false,
    }
}

/// Whether `name =` or `a.b =` begins the text.
fn is_field(text: &str) -> bool {
    let rest = text.trim_start().trim_start_matches(|c: char| is_word(c) || c == '.').trim_start();
    text.trim_start().starts_with(is_word) && rest.starts_with('=') && !rest.starts_with("==")
}

fn is_record(text: &str, brace: usize) -> bool {
    is_field(&text[brace + 1..])
}

/// Whether a brace opens the body of an item, where fields stand on lines of their own.
fn is_block(text: &str, scan: &Scan, brace: usize) -> bool {
    let first = text.trim_start();
    let item = ITEM_WORDS.iter().any(|w| first.starts_with(w));
    item && scan.brackets.iter().find(|b| b.byte == b'{').is_some_and(|b| b.at == brace) && !first.starts_with("const")
}
