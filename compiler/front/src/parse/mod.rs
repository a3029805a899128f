//! The parser: text to syntax tree, with recovery.

mod build;
mod codes;
mod exprs;
mod items;
mod numbers;
mod scan;
mod stmts;

use crate::ast::File;
use build::{Builder, P, kids};
use optc_base::{Diagnostic, SourceId, Span};
use optc_grammar::{OptParser, Rule};
use pest::Parser;

/// Parses a file. Items and statements that cannot be read are left out (or stand as `Error` nodes); the diagnostics say why.
pub fn parse(source: SourceId, text: &str) -> (File, Vec<Diagnostic>) {
    let scan = scan::scan(text);
    if let Some(error) = scan.nesting_error(source, 0) {
        return (File::default(), vec![error]);
    }
    let mut builder = Builder { source, text, base: 0, comments: &scan.comments, next_id: 0, errors: Vec::new() };
    match OptParser::parse(Rule::file, text) {
        Ok(mut pairs) => {
            let mut file = File::default();
            let mut previous: Option<Span> = None;
            for pair in pairs.next().into_iter().flat_map(kids).filter(|p: &P<'_>| p.as_rule() == Rule::item) {
                let item = builder.item(pair);
                if let Some(before) = previous {
                    builder.check_separated(before, item.span, "item");
                }
                previous = Some(item.span);
                file.items.push(item);
            }
            (file, builder.errors)
        }
        Err(error) => {
            let at = match error.location {
                pest::error::InputLocation::Pos(p) => p,
                pest::error::InputLocation::Span((p, _)) => p,
            };
            let d = Diagnostic::error(codes::UNEXPECTED, Span::new(source, at, at + 1), format!("{}", error.variant.message()));
            (File::default(), vec![d])
        }
    }
}
