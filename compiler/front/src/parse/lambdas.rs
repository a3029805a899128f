//! Functions without a name, `x -> e` and `(x, y) -> e`: parameters in parentheses are read as an expression and turned into patterns here.

use super::build::{Builder, P, kids};
use super::codes;
use crate::ast::*;
use optc_base::Span;
use optc_grammar::Rule;
use std::sync::Arc;

impl Builder<'_> {
    /// A function with these parameters and the body of an `arrow`.
    pub fn lambda(&mut self, params: Vec<Pattern>, arrow: Option<P<'_>>, span: Span) -> Expr {
        let body = self.expect_expr(arrow.and_then(|a| kids(a).next()), span);
        let span = Span { end: body.span.end, ..span };
        self.make(ExprKind::Lambda(Arc::new(Lambda { params, body, span })), span)
    }

    /// What was read as an expression, as a pattern: the parameters of a function in parentheses.
    pub fn as_pattern(&mut self, e: Expr) -> Pattern {
        let span = e.span;
        let kind = match e.kind {
            ExprKind::Name(name) => super::stmts::simple_pattern(&name),
            ExprKind::Tuple(parts) => PatternKind::Tuple(parts.into_iter().map(|p| self.as_pattern(p)).collect()),
            ExprKind::Record(fields) if fields.iter().all(|(path, _)| path.len() == 1) => {
                let fields = fields.into_iter().map(|(mut path, value)| (path.remove(0), self.as_pattern(value)));
                PatternKind::Record(fields.collect())
            }
            // `{ x }` reads as a block.
            ExprKind::Block(Block { mut stmts, .. }) if stmts.len() == 1 => match stmts.remove(0).kind {
                StmtKind::Expr(Expr { kind: ExprKind::Name(text), span, .. }) => {
                    let kind = super::stmts::simple_pattern(&text);
                    PatternKind::Record(vec![(Name { text, span }, Pattern { kind, span })])
                }
                _ => return self.no_pattern(span),
            },
            ExprKind::Error => PatternKind::Ignore,
            _ => return self.no_pattern(span),
        };
        Pattern { kind, span }
    }
    fn no_pattern(&mut self, span: Span) -> Pattern {
        let error = self.error(codes::UNEXPECTED, span, "in front of `->` stand the names of parameters, not an expression");
        error.help = Some("write `(x, y) -> x + y`".into());
        Pattern { kind: PatternKind::Ignore, span }
    }

    /// `lambda_params`: the parameters of a function that is a trailing argument.
    pub fn lambda_params(&mut self, pair: P<'_>) -> Vec<Pattern> {
        let Some(first) = kids(pair).next() else { return Vec::new() };
        match first.as_rule() {
            Rule::lambda_list => kids(first).filter(|p| p.as_rule() == Rule::pattern).map(|p| self.pattern(p)).collect(),
            _ => {
                let span = self.span(&first);
                vec![Pattern { kind: super::stmts::simple_pattern(first.as_str()), span }]
            }
        }
    }
}
