//! From pest's tree to the syntax tree: the builder's state, names, spans, small helpers.

use super::codes;
use super::scan::Comments;
use crate::ast::{Expr, ExprId, ExprKind, Name};
use optc_base::{Code, Diagnostic, SourceId, Span};
use optc_grammar::Rule;
use pest::iterators::Pair;
use std::sync::Arc;

pub(super) type P<'i> = Pair<'i, Rule>;

/// Builds the tree of one text (or of a part of it that starts at `base`).
pub(super) struct Builder<'a> {
    /// The file.
    pub source: SourceId,
    /// Its whole text, as parsed.
    pub text: &'a str,
    /// Where the part being parsed starts in it.
    pub base: usize,
    /// Comments of the text.
    pub comments: &'a Comments,
    /// Next expression number.
    pub next_id: u32,
    /// Whether the statements being built are of the host script.
    pub host: bool,
    /// The last chain of comparisons that was reported.
    pub chained: Span,
    /// Errors found while building.
    pub errors: Vec<Diagnostic>,
}

/// Whether a pair is a word of the grammar that carries no content.
pub(super) fn is_word(rule: Rule) -> bool {
    use Rule::*;
    matches!(
        rule,
        kw_let
            | kw_var
            | kw_if
            | kw_else
            | kw_for
            | kw_in
            | kw_while
            | kw_at_most
            | kw_yield
            | kw_import
            | kw_as
            | kw_with
            | kw_time
            | kw_run
            | kw_param
            | kw_buffer
            | kw_eval
            | kw_metric
            | kw_check
            | kw_within
            | kw_sweep
            | kw_break
            | kw_continue
            | kw_type
            | kw_extern
            | kw_process
            | kw_gradient
            | kw_experiment
            | kw_fn
            | kw_return
            | eq
            | ty_colon
            | decl_word
            | operand_after
            | check_head
            | return_head
            | reduction_ahead
            | word_next
            | less
            | EOI
    )
}

/// The inner pairs with content.
pub(super) fn kids<'i>(pair: P<'i>) -> impl Iterator<Item = P<'i>> {
    pair.into_inner().filter(|p| !is_word(p.as_rule()))
}

impl<'a> Builder<'a> {
    /// The span of a pair without the blanks and comments at its end.
    pub fn span(&self, pair: &P<'_>) -> Span {
        let s = pair.as_span();
        let start = self.base + s.start();
        // Mending may have added a `}` behind the end of the text.
        let end = self.comments.trim_end(self.text, start, (self.base + s.end()).min(self.text.len()));
        Span::new(self.source, start, end)
    }

    /// The text under a span.
    pub fn slice(&self, span: Span) -> &'a str {
        self.text.get(span.range()).unwrap_or("")
    }

    /// An expression with the next id.
    pub fn make(&mut self, kind: ExprKind, span: Span) -> Expr {
        let id = ExprId((self.source.0 << 20).wrapping_add(self.next_id));
        self.next_id = self.next_id.wrapping_add(1);
        Expr { kind, span, id }
    }

    /// Reports an error and returns it for labels and help.
    pub fn error(&mut self, code: Code, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        self.errors.push(Diagnostic::error(code, span, message));
        let last = self.errors.len() - 1;
        &mut self.errors[last]
    }

    /// A name from a pair of rule `name`, `field` or a word.
    pub fn name(&self, pair: &P<'_>) -> Name {
        Name { text: Arc::from(pair.as_str()), span: self.span(pair) }
    }

    /// The names of `names`, `path` and other lists of names.
    pub fn names(&self, pair: P<'_>) -> Vec<Name> {
        kids(pair).filter(|p| matches!(p.as_rule(), Rule::name | Rule::field)).map(|p| self.name(&p)).collect()
    }

    /// Checks that what stands between two statements, entries or items separates them.
    pub fn check_separated(&mut self, previous: Span, next: Span, what: &str) {
        let between = self.text.get(previous.end as usize..next.start as usize).unwrap_or("");
        let closed = self.slice(previous).ends_with('}');
        if closed || between.contains(['\n', ';']) {
            return;
        }
        let word: String = self.slice(next).chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let place = Span { end: next.start + word.len() as u32, ..next };
        let error = self.error(codes::SEPARATOR, place, format!("expected the end of the {what}, found `{word}`"));
        error.secondary.push(optc_base::Label { span: previous, message: format!("this {what} is complete") });
        error.help = Some("begin a new line, write `;`, or put an operator between them".into());
    }

    /// The text of a string without interpolation; an interpolation in it is an error.
    pub fn plain_string(&mut self, pair: &P<'_>) -> Arc<str> {
        let span = self.span(pair);
        let expr = self.string(pair);
        let ExprKind::Str(parts) = expr.kind else { return Arc::from("") };
        let mut out = String::new();
        for part in parts {
            match part {
                crate::ast::StrPart::Text(t) => out.push_str(&t),
                crate::ast::StrPart::Expr(..) => {
                    self.error(codes::STRING, span, "no `{…}` can stand in this string").help =
                        Some("write `{{` and `}}` for braces".into());
                }
            }
        }
        Arc::from(out)
    }
}
