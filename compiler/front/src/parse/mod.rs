//! The parser: text to syntax tree, with recovery.

mod build;
mod codes;
mod commas;
mod exprs;
mod items;
mod lambdas;
mod messages;
mod numbers;
mod recover;
mod scan;
mod stmts;

use crate::ast::File;
use build::{Builder, P, kids};
use optc_base::{Diagnostic, SourceId, Span};
use optc_grammar::{OptParser, Rule};
use pest::Parser;
use std::borrow::Cow;

/// Parses a file. Takes time in proportion to its length, never fails and never panics: items and statements that cannot be read stand as errors in the tree
/// (or are missing), and the diagnostics, in the order of the text, say why.
pub fn parse(source: SourceId, text: &str) -> (File, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let clean = without_marks(source, text, &mut errors);
    let scan = scan::scan(&clean);
    let mut builder =
        Builder { source, text: &clean, base: 0, comments: &scan.comments, next_id: 0, host: false, chained: Span::default(), errors };
    let whole = match scan.too_deep {
        None => with_room(scan.depth, || Some(items(&mut builder, OptParser::parse(Rule::file, &clean).ok()?))),
        Some(_) => None,
    };
    let file = match whole {
        Some(file) => file,
        None => {
            let file = recover::recover(&mut builder, &scan);
            if builder.errors.is_empty() {
                // Every part is fine, so it is their borders that are not.
                let span = file.items.first().map_or(Span::new(source, 0, 1), |i| i.span);
                builder.error(codes::UNEXPECTED, span, "the items of this file are not separated").help =
                    Some("begin each item on a new line".into());
            }
            file
        }
    };
    (file, recover::tidy(builder.errors, text.len()))
}

/// Levels of nesting that fit the stack of any thread.
const SHALLOW: usize = 24;
/// Bytes of stack that a level of nesting takes at most: some twenty rules of the grammar, then their tree, unoptimized.
const LEVEL: usize = 64 * 1024;

/// Calls `parse` where the stack has room for a text that nests `depth` levels.
fn with_room<T>(depth: usize, parse: impl FnOnce() -> T) -> T {
    if depth <= SHALLOW { parse() } else { stacker::grow(depth * LEVEL, parse) }
}

fn items<'i>(builder: &mut Builder<'_>, pairs: impl Iterator<Item = P<'i>>) -> File {
    let mut file = File::default();
    let mut previous: Option<Span> = None;
    for pair in pairs.flat_map(kids).filter(|p| p.as_rule() == Rule::item) {
        let item = builder.item(pair);
        if let Some(before) = previous {
            builder.check_separated(before, item.span, "item");
        }
        previous = Some(item.span);
        file.items.push(item);
    }
    file
}

/// The text without the character that the recovery uses as its mark.
fn without_marks<'t>(source: SourceId, text: &'t str, errors: &mut Vec<Diagnostic>) -> Cow<'t, str> {
    let Some(at) = text.find('\u{1}') else { return Cow::Borrowed(text) };
    errors.push(
        Diagnostic::error(codes::CHARACTER, Span::new(source, at, at + 1), "`\\u{1}` is not in the language")
            .help("remove the control character"),
    );
    Cow::Owned(text.replace('\u{1}', " "))
}
