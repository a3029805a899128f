//! Blocks, statements, patterns.

use super::build::{Builder, P, kids};
use super::codes;
use crate::ast::*;
use crate::sub::Sub;
use optc_grammar::Rule;
use std::sync::Arc;

/// The pattern of a single word.
pub(super) fn simple_pattern(word: &str) -> PatternKind {
    if word == "_" { PatternKind::Ignore } else { PatternKind::Name(Arc::from(word)) }
}

impl Builder<'_> {
    /// `body`: statements in braces.
    pub fn block(&mut self, pair: P<'_>) -> Block {
        let span = self.span(&pair);
        Block { stmts: self.stmts(pair), span }
    }

    /// The statements of `body` or `stmts`.
    pub fn stmts(&mut self, pair: P<'_>) -> Vec<Stmt> {
        let mut stmts: Vec<Stmt> = Vec::new();
        for part in kids(pair).filter(|p| p.as_rule() == Rule::stmt) {
            let stmt = self.stmt(part);
            if let Some(previous) = stmts.last() {
                self.check_separated(previous.span, stmt.span, "statement");
            }
            stmts.push(stmt);
        }
        stmts
    }

    fn stmt(&mut self, pair: P<'_>) -> Stmt {
        let span = self.span(&pair);
        let inner = pair.into_inner().next().expect("a statement has a kind");
        let kind = self.stmt_kind(inner);
        Stmt { kind, span }
    }

    fn stmt_kind(&mut self, pair: P<'_>) -> StmtKind {
        let span = self.span(&pair);
        match pair.as_rule() {
            Rule::let_stmt => {
                let kind = if pair.clone().into_inner().next().is_some_and(|p| p.as_rule() == Rule::kw_const) {
                    LetKind::Const
                } else {
                    LetKind::Let
                };
                self.binding(pair, kind, false)
            }
            Rule::var_stmt => self.binding(pair, LetKind::Var, false),
            Rule::shared_stmt => {
                let mut inner = pair.clone().into_inner().filter(|p| !matches!(p.as_rule(), Rule::kw_shared | Rule::decl_word));
                match inner.next().map(|p| p.as_rule()) {
                    Some(Rule::kw_state) => self.state(pair, true),
                    Some(Rule::kw_let) => self.binding(pair, LetKind::Let, true),
                    Some(Rule::kw_var) => self.binding(pair, LetKind::Var, true),
                    _ => {
                        let (name, value) = self.named(pair);
                        StmtKind::SharedLayer { name, value }
                    }
                }
            }
            Rule::state_stmt => self.state(pair, false),
            Rule::param_stmt | Rule::buffer_stmt => {
                let is_param = pair.as_rule() == Rule::param_stmt;
                let mut draws = false;
                let (mut name, mut ty, mut init) = (None, None, None);
                for p in kids(pair) {
                    match p.as_rule() {
                        Rule::name => name = Some(self.name(&p)),
                        Rule::ty => ty = Some(self.ty(p)),
                        Rule::draws => draws = true,
                        Rule::expr => init = Some(self.expr(p)),
                        _ => {}
                    }
                }
                let (Some(name), Some(ty), Some(init)) = (name, ty, init) else { return StmtKind::Error };
                if is_param { StmtKind::Param { name, ty, draws, init } } else { StmtKind::Buffer { name, ty, init } }
            }
            Rule::eval_stmt => {
                let (name, value) = self.named(pair);
                StmtKind::Eval { name, value }
            }
            Rule::metric_stmt => {
                let (name, value) = self.named(pair);
                StmtKind::Metric { name, value }
            }
            Rule::yield_stmt => StmtKind::Yield(self.expect_expr(kids(pair).next(), span)),
            Rule::break_stmt => StmtKind::Break(kids(pair).find(|p| p.as_rule() == Rule::expr).map(|p| self.expr(p))),
            Rule::continue_stmt => StmtKind::Continue(kids(pair).find(|p| p.as_rule() == Rule::expr).map(|p| self.expr(p))),
            Rule::return_stmt => {
                let expr = self.expect_expr(kids(pair).next(), span);
                let at = optc_base::Span { end: span.start + 6, ..span };
                let error = self.error(codes::RETURN, at, "there is no `return`");
                error.help = Some("the last expression of a block is its value; use `if … { … } else { … }` to choose".into());
                StmtKind::Expr(expr)
            }
            Rule::check_stmt => self.check(pair),
            Rule::sweep_stmt => {
                let mut parts = kids(pair);
                let name = parts.next().map(|p| self.name(&p)).expect("a sweep has a variable");
                let domain = self.expect_expr(parts.next(), span);
                StmtKind::Sweep { name, domain, body: self.expect_body(parts.next(), span) }
            }
            Rule::output_stmt => self.output(pair),
            Rule::expr_stmt => self.expr_stmt(pair),
            other => unreachable!("compiler bug: {other:?} is no statement"),
        }
    }

    /// `name = value`
    fn named(&mut self, pair: P<'_>) -> (Name, Expr) {
        let span = self.span(&pair);
        let mut parts = kids(pair).filter(|p| matches!(p.as_rule(), Rule::name | Rule::expr));
        let name = parts.next().map(|p| self.name(&p)).expect("a name");
        let value = self.expect_expr(parts.next(), span);
        (name, value)
    }

    fn binding(&mut self, pair: P<'_>, kind: LetKind, shared: bool) -> StmtKind {
        let span = self.span(&pair);
        let (mut pattern, mut ty, mut value) = (None, None, None);
        for p in kids(pair) {
            match p.as_rule() {
                Rule::let_indexed => {
                    let mut parts = kids(p);
                    let name = parts.next().map(|p| self.name(&p)).expect("an array has a name");
                    let indices = parts.next().map(|p| self.index_vars(p)).unwrap_or_default();
                    let value = self.expect_expr(parts.next(), span);
                    return StmtKind::LetIndexed { name, indices, value };
                }
                Rule::pattern => pattern = Some(self.pattern(p)),
                Rule::ty => ty = Some(self.ty(p)),
                Rule::expr => value = Some(self.expr(p)),
                _ => {}
            }
        }
        let (Some(pattern), Some(value)) = (pattern, value) else { return StmtKind::Error };
        StmtKind::Let { kind, shared, pattern, ty, value }
    }

    fn state(&mut self, pair: P<'_>, shared: bool) -> StmtKind {
        let (mut name, mut ty, mut init) = (None, None, None);
        for p in kids(pair) {
            match p.as_rule() {
                Rule::name => name = Some(self.name(&p)),
                Rule::ty => ty = Some(self.ty(p)),
                Rule::expr => init = Some(self.expr(p)),
                _ => {}
            }
        }
        match (name, init) {
            (Some(name), Some(init)) => StmtKind::State { shared, name, ty, init },
            _ => StmtKind::Error,
        }
    }

    fn check(&mut self, pair: P<'_>) -> StmtKind {
        let span = self.span(&pair);
        let mut parts: Vec<Condition> = Vec::new();
        let mut claim = None;
        let mut after = Rule::check_head;
        for p in pair.into_inner() {
            match p.as_rule() {
                Rule::kw_relative => {
                    if let Some((_, relative)) = parts.iter_mut().rev().find_map(|c| c.within.as_mut()) {
                        *relative = true;
                    }
                }
                rule @ (Rule::kw_within | Rule::comma | Rule::and) => after = rule,
                Rule::expr => {
                    let e = self.expr(p);
                    match after {
                        Rule::kw_within => self.bound(e, &mut parts),
                        Rule::comma => claim = Some(e),
                        _ => parts.push(Condition { cond: e, within: None }),
                    }
                }
                _ => {}
            }
        }
        if parts.is_empty() {
            let cond = self.make(ExprKind::Error, span);
            parts.push(Condition { cond, within: None });
        }
        StmtKind::Check { parts, claim }
    }

    /// What follows `within`: the bound of the condition before it, then further conditions joined by `and`.
    fn bound(&mut self, e: Expr, parts: &mut Vec<Condition>) {
        let mut rest = Vec::new();
        let mut bound = e;
        while let ExprKind::Binary(BinaryOp::And, a, b) = bound.kind {
            rest.push(b.into_inner());
            bound = a.into_inner();
        }
        if let Some(last) = parts.last_mut() {
            last.within = Some((bound, false));
        }
        let joined = rest.into_iter().rev().reduce(|a, b| {
            let span = a.span.to(b.span);
            self.make(ExprKind::Binary(BinaryOp::And, Sub::new(a), Sub::new(b)), span)
        });
        parts.extend(joined.map(|cond| Condition { cond, within: None }));
    }

    fn output(&mut self, pair: P<'_>) -> StmtKind {
        let mut values = Vec::new();
        let mut options = Vec::new();
        let mut word = None;
        for p in kids(pair) {
            match p.as_rule() {
                Rule::output_head => word = p.into_inner().find(|p| p.as_rule() == Rule::output_word).map(|p| self.name(&p)),
                Rule::output_value => {
                    let mut name = None;
                    for part in kids(p) {
                        match part.as_rule() {
                            Rule::name => name = Some(self.name(&part)),
                            _ => {
                                let value = self.expr(part);
                                match name.take() {
                                    Some(name) => options.push((name, value)),
                                    None => values.push(value),
                                }
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        match word {
            Some(word) => StmtKind::Output { word, values, options },
            None => StmtKind::Error,
        }
    }

    fn expr_stmt(&mut self, pair: P<'_>) -> StmtKind {
        let span = self.span(&pair);
        let mut parts = pair.into_inner().filter(|p| !matches!(p.as_rule(), Rule::decl_word));
        let target = self.expect_expr(parts.next(), span);
        let Some(op) = parts.next() else {
            return match target.kind {
                ExprKind::Error => StmtKind::Error,
                ExprKind::Call { callee, args } if self.host && is_output(&callee) => called_output(callee.into_inner(), args),
                _ => StmtKind::Expr(target),
            };
        };
        let at = self.span(&op);
        let value = self.expect_expr(parts.next(), span);
        let left = self.slice(target.span);
        let right = self.slice(value.span);
        match op.as_str().trim() {
            "<-" => {}
            "=" => {
                let help = format!("write `{left} <- {right}` to update, or `let {left} = {right}` for a new name");
                let error = self.error(codes::ASSIGN, at, "`=` does not update a variable");
                error.help = Some(help);
            }
            other => {
                let sign = other.trim_end_matches('=');
                let sign = match sign {
                    "|" => "or",
                    "&" => "and",
                    s => s,
                };
                let help = format!("write `{left} <- {left} {sign} {right}`");
                self.error(codes::OPERATOR, at, format!("`{other}` is not an operator of the language")).help = Some(help);
            }
        }
        if !is_target(&target) {
            let error = self.error(codes::UPDATE, target.span, "this cannot be updated");
            error.help = Some("the left side of `<-` is a name, a field, an indexed array, or a tuple of these".into());
            return StmtKind::Error;
        }
        StmtKind::Update { target, value }
    }

    /// `pattern`
    pub fn pattern(&mut self, pair: P<'_>) -> Pattern {
        let span = self.span(&pair);
        let inner = pair.into_inner().next().expect("a pattern has a kind");
        let kind = match inner.as_rule() {
            Rule::pattern_tuple => {
                PatternKind::Tuple(kids(inner).filter(|p| p.as_rule() == Rule::pattern).map(|p| self.pattern(p)).collect())
            }
            Rule::pattern_record => {
                let fields = kids(inner).filter(|p| p.as_rule() == Rule::pattern_field);
                PatternKind::Record(
                    fields
                        .map(|field| {
                            let mut parts = kids(field);
                            let name = parts.next().map(|p| self.name(&p)).expect("a field has a name");
                            let pattern = match parts.next() {
                                Some(p) => self.pattern(p),
                                None => Pattern { kind: simple_pattern(&name.text), span: name.span },
                            };
                            (name, pattern)
                        })
                        .collect(),
                )
            }
            _ => simple_pattern(inner.as_str()),
        };
        Pattern { kind, span }
    }
}

/// Whether this is a word that prints or checks in the host script.
fn is_output(callee: &Expr) -> bool {
    matches!(&callee.kind, ExprKind::Name(n) if matches!(&**n, "print" | "save" | "table" | "plot" | "check"))
}

/// `print(x)` and `check(c, "claim")`, written like calls.
fn called_output(callee: Expr, args: Vec<Arg>) -> StmtKind {
    let ExprKind::Name(word) = &callee.kind else { return StmtKind::Expr(callee) };
    let word = Name { text: word.clone(), span: callee.span };
    if &*word.text == "check" {
        let mut values = args.into_iter().map(|a| a.value);
        let cond = values.next().unwrap_or(Expr { kind: ExprKind::Error, ..callee });
        return StmtKind::Check { parts: vec![Condition { cond, within: None }], claim: values.next() };
    }
    let mut values = Vec::new();
    let mut options = Vec::new();
    for arg in args {
        match arg.name {
            Some(name) => options.push((name, arg.value)),
            None => values.push(arg.value),
        }
    }
    StmtKind::Output { word, values, options }
}

/// Whether `<-` may have this on its left.
fn is_target(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Name(_) | ExprKind::Error => true,
        ExprKind::Field(base, _) | ExprKind::Index { base, .. } => is_target(base),
        ExprKind::Tuple(parts) => !parts.is_empty() && parts.iter().all(is_target),
        _ => false,
    }
}
