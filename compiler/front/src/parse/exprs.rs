//! Expressions.

use super::build::{Builder, P, kids};
use super::codes;
use super::numbers;
use crate::ast::*;
use crate::sub::Sub;
use optc_base::{Label, Span};
use optc_grammar::Rule;
use pest::pratt_parser::{Assoc, Op, PrattParser};
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

/// Operators, loosest first (section 4 of the language reference).
static PRATT: LazyLock<PrattParser<Rule>> = LazyLock::new(|| {
    let left = |r| Op::infix(r, Assoc::Left);
    PrattParser::new()
        .op(left(Rule::pipe))
        .op(left(Rule::or) | left(Rule::bad_or))
        .op(left(Rule::and) | left(Rule::bad_and))
        .op(Op::prefix(Rule::not))
        .op(left(Rule::eq_eq)
            | left(Rule::ne)
            | left(Rule::near)
            | left(Rule::lt)
            | left(Rule::le)
            | left(Rule::gt)
            | left(Rule::ge)
            | left(Rule::matches))
        .op(left(Rule::range_op))
        .op(left(Rule::bit_or))
        .op(left(Rule::xor))
        .op(left(Rule::bit_and))
        .op(left(Rule::shl) | left(Rule::shr))
        .op(left(Rule::add) | left(Rule::sub))
        .op(Op::prefix(Rule::reduction))
        .op(left(Rule::mul) | left(Rule::div) | left(Rule::floor_div) | left(Rule::rem) | left(Rule::matmul))
        .op(Op::prefix(Rule::neg) | Op::prefix(Rule::bit_not))
        .op(Op::infix(Rule::power, Assoc::Right) | Op::infix(Rule::bad_pow, Assoc::Right))
});

/// An operand with whether it stands in parentheses.
type Operand = (Expr, bool);

fn is_comparison(op: BinaryOp) -> bool {
    use BinaryOp::*;
    matches!(op, Eq | Ne | Lt | Le | Gt | Ge | Near)
}

impl Builder<'_> {
    /// `expr` or `arith`.
    pub fn expr(&mut self, pair: P<'_>) -> Expr {
        let mut inner = pair.clone().into_inner().filter(|p| !super::build::is_word(p.as_rule()));
        if let (Some(only), None) = (inner.next(), inner.next()) {
            return self.atom(only).0;
        }
        let this = RefCell::new(self);
        // `arith` wraps its operators in `arith_op`.
        let pairs = kids(pair).map(|p| if p.as_rule() == Rule::arith_op { p.into_inner().next().expect("an operator") } else { p });
        let (expr, _) = PRATT
            .map_primary(|p| this.borrow_mut().atom(p))
            .map_prefix(|op, rhs| this.borrow_mut().prefix(op, rhs))
            .map_infix(|lhs, op, rhs| this.borrow_mut().infix(lhs, op, rhs))
            .parse(pairs);
        expr
    }

    fn prefix(&mut self, op: P<'_>, (operand, _): Operand) -> Operand {
        let at = self.span(&op);
        let span = at.to(operand.span);
        let kind = match op.as_rule() {
            Rule::neg => ExprKind::Unary(UnaryOp::Neg, Sub::new(operand)),
            Rule::not => ExprKind::Unary(UnaryOp::Not, Sub::new(operand)),
            Rule::bit_not => ExprKind::Unary(UnaryOp::BitNot, Sub::new(operand)),
            _ => {
                let mut parts = kids(op);
                let name = parts.next().map(|p| self.name(&p)).expect("a reduction has a name");
                let indices = parts.next().map(|p| self.index_vars(p)).unwrap_or_default();
                ExprKind::Reduction { op: name, indices, body: Sub::new(operand) }
            }
        };
        (self.make(kind, span), false)
    }

    fn infix(&mut self, (lhs, lhs_closed): Operand, op: P<'_>, (rhs, rhs_closed): Operand) -> Operand {
        let at = self.span(&op);
        let span = lhs.span.to(rhs.span);
        let wrong = |this: &mut Self, write: &str| {
            let error = this.error(codes::OPERATOR, at, format!("`{}` is not an operator of the language", op.as_str()));
            error.help = Some(format!("write `{write}`"));
        };
        let binary = match op.as_rule() {
            Rule::pipe => return (self.make(ExprKind::Pipe(Sub::new(lhs), Sub::new(rhs)), span), false),
            Rule::range_op => return (self.make(ExprKind::Range(Sub::new(lhs), Sub::new(rhs)), span), false),
            Rule::bad_or => {
                wrong(self, "or");
                BinaryOp::Or
            }
            Rule::bad_and => {
                wrong(self, "and");
                BinaryOp::And
            }
            Rule::bad_pow => {
                wrong(self, "^");
                BinaryOp::Pow
            }
            Rule::or => BinaryOp::Or,
            Rule::and => BinaryOp::And,
            Rule::eq_eq => BinaryOp::Eq,
            Rule::ne => BinaryOp::Ne,
            Rule::near => BinaryOp::Near,
            Rule::lt => BinaryOp::Lt,
            Rule::le => BinaryOp::Le,
            Rule::gt => BinaryOp::Gt,
            Rule::ge => BinaryOp::Ge,
            Rule::matches => BinaryOp::Matches,
            Rule::bit_or => BinaryOp::BitOr,
            Rule::xor => BinaryOp::Xor,
            Rule::bit_and => BinaryOp::BitAnd,
            Rule::shl => BinaryOp::Shl,
            Rule::shr => BinaryOp::Shr,
            Rule::add => BinaryOp::Add,
            Rule::sub => BinaryOp::Sub,
            Rule::mul => BinaryOp::Mul,
            Rule::div => BinaryOp::Div,
            Rule::floor_div => BinaryOp::FloorDiv,
            Rule::rem => BinaryOp::Rem,
            Rule::matmul => BinaryOp::MatMul,
            Rule::power => BinaryOp::Pow,
            other => unreachable!("compiler bug: {other:?} is not an operator"),
        };
        if is_comparison(binary)
            && !lhs_closed
            && let ExprKind::Binary(first, _, middle) = &lhs.kind
            && is_comparison(*first)
            // Of a longer chain the first link is reported.
            && std::mem::replace(&mut self.chained, span) != lhs.span
        {
            let (left, mid, right) = (self.slice(lhs.span), self.slice(middle.span), self.slice(rhs.span));
            let help = format!("write `{left} and {mid} {} {right}`", op.as_str());
            let first_span = lhs.span;
            let error = self.error(codes::CHAINED, span, "comparisons do not chain");
            error.secondary.push(Label { span: first_span, message: "this comparison gives a bool".into() });
            error.help = Some(help);
        }
        if binary == BinaryOp::Pow && !rhs_closed && matches!(rhs.kind, ExprKind::Reduction { .. }) {
            let help = format!("write `^({})`", self.slice(rhs.span));
            self.error(codes::REDUCTION, rhs.span, "a reduction in an exponent needs parentheses").help = Some(help);
        }
        // `sum[k] -a[k]`: what looks like a reduction of a negative operand would be a difference.
        if binary == BinaryOp::Sub
            && let ExprKind::Index { base, items } = &lhs.kind
            && let ExprKind::Name(name) = &base.kind
            && is_reduction(name)
            && items.iter().all(|i| matches!(i, IndexItem::At(Expr { kind: ExprKind::Name(_), .. }) | IndexItem::Ellipsis(_)))
            && at.start > lhs.span.end
            && rhs.span.start == at.end
        {
            let help = format!(
                "write `{} (-{})`, or `-{} {}`",
                self.slice(lhs.span),
                self.slice(rhs.span),
                self.slice(lhs.span),
                self.slice(rhs.span)
            );
            let head = lhs.span;
            let error = self.error(codes::REDUCTION, at.to(rhs.span), "the operand of a reduction cannot start with `-`");
            error.secondary.push(Label { span: head, message: "of this reduction".into() });
            error.help = Some(help);
            return (self.make(ExprKind::Error, span), false);
        }
        (self.make(ExprKind::Binary(binary, Sub::new(lhs), Sub::new(rhs)), span), false)
    }

    /// An operand of a chain; the flag says that it stands in parentheses.
    fn atom(&mut self, pair: P<'_>) -> Operand {
        let span = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::postfixed => return self.postfixed(pair),
            Rule::lambda => {
                let mut parts = kids(pair);
                let name = parts.next().and_then(|p| kids(p).next()).map(|p| self.name(&p)).expect("a lambda has a parameter");
                let params = vec![Pattern { kind: super::stmts::simple_pattern(&name.text), span: name.span }];
                return (self.lambda(params, parts.next(), span), false);
            }
            Rule::if_expr => self.if_expr(pair),
            Rule::for_expr => {
                let mut parts = kids(pair).peekable();
                let (pattern, enumerate) = self.loop_pattern(&mut parts);
                let iter = self.expect_expr(parts.next(), span);
                let body = self.expect_body(parts.next(), span);
                ExprKind::For(Box::new(For { pattern, enumerate, iter, body }))
            }
            Rule::while_expr => {
                let mut parts = kids(pair).filter(|p| p.as_rule() != Rule::comma).peekable();
                let cond = Sub::new(self.expect_expr(parts.next(), span));
                let at_most = parts.next_if(|p| p.as_rule() == Rule::expr).map(|p| Sub::new(self.expr(p)));
                ExprKind::While { cond, at_most, body: self.expect_body(parts.next(), span) }
            }
            Rule::with_expr => {
                let mut settings = Vec::new();
                let mut body = None;
                for part in kids(pair) {
                    match part.as_rule() {
                        Rule::option => settings.push(self.option(part)),
                        Rule::body => body = Some(self.block(part)),
                        _ => {}
                    }
                }
                ExprKind::With { settings, body: body.unwrap_or(Block { stmts: Vec::new(), span }) }
            }
            Rule::time_expr => ExprKind::Time(self.expect_body(kids(pair).next(), span)),
            Rule::run_expr => {
                let mut parts = kids(pair);
                let target = Sub::new(self.call_path(parts.next().expect("`run` has a target")));
                let overrides = parts.next().map(|p| {
                    Sub::new(match p.as_rule() {
                        Rule::brace_record => self.record(p),
                        _ => self.path_expr(p),
                    })
                });
                ExprKind::Run { target, overrides }
            }
            Rule::brace_record => return (self.record(pair), false),
            Rule::groups => self.groups(pair),
            Rule::body => ExprKind::Block(self.block(pair)),
            other => unreachable!("compiler bug: {other:?} is not an operand"),
        };
        (self.make(kind, span), false)
    }

    fn postfixed(&mut self, pair: P<'_>) -> Operand {
        let whole = self.span(&pair);
        let mut parts = kids(pair).peekable();
        let first = parts.next().expect("an operand");
        if let Some(arrow) = parts.next_if(|p| p.as_rule() == Rule::arrow) {
            let elements: Vec<Expr> = kids(first).filter(|p| p.as_rule() == Rule::expr).map(|p| self.expr(p)).collect();
            let params = elements.into_iter().map(|e| self.as_pattern(e)).collect();
            return (self.lambda(params, Some(arrow), whole), false);
        }
        let (mut expr, mut closed) = self.primary(first);
        for part in parts {
            closed = false;
            let at = self.span(&part);
            let span = expr.span.to(at);
            let kind = match part.as_rule() {
                Rule::call => ExprKind::Call { callee: Sub::new(expr), args: self.args(part) },
                Rule::index => ExprKind::Index { base: Sub::new(expr), items: self.index_items(part) },
                Rule::dot_field => {
                    let field = kids(part).next().map(|p| self.name(&p)).expect("a field has a name");
                    ExprKind::Field(Sub::new(expr), field)
                }
                Rule::as_name => {
                    let word = kids(part).next().expect("`as` has a word");
                    let name = self.name(&word);
                    match numbers::dtype(&name.text) {
                        Some(elem) => ExprKind::Cast(Sub::new(expr), elem),
                        None if matches!(expr.kind, ExprKind::Call { .. }) => ExprKind::NameCall(Sub::new(expr), name),
                        None => ExprKind::Cast(Sub::new(expr), ElemType::Named(name)),
                    }
                }
                other => unreachable!("compiler bug: {other:?} is no suffix"),
            };
            expr = self.make(kind, span);
        }
        (expr, closed)
    }

    fn primary(&mut self, pair: P<'_>) -> Operand {
        let span = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::number | Rule::bad_point => return (self.number(&pair), false),
            Rule::string => return (self.string(&pair), false),
            Rule::truth => ExprKind::Bool(pair.as_str() == "true"),
            Rule::none => ExprKind::None,
            Rule::dtype => ExprKind::DType(numbers::dtype(pair.as_str()).expect("an element type")),
            Rule::name => ExprKind::Name(Arc::from(pair.as_str())),
            Rule::error_mark => ExprKind::Error,
            Rule::paren => {
                let comma = pair.clone().into_inner().any(|p| p.as_rule() == Rule::comma);
                let mut elements: Vec<Expr> = kids(pair).filter(|p| p.as_rule() == Rule::expr).map(|p| self.expr(p)).collect();
                if elements.len() == 1 && !comma {
                    let mut inner = elements.pop().expect("one element");
                    inner.span = span;
                    return (inner, true);
                }
                ExprKind::Tuple(elements)
            }
            Rule::list => self.list(pair),
            other => unreachable!("compiler bug: {other:?} is no primary"),
        };
        (self.make(kind, span), false)
    }

    fn list(&mut self, pair: P<'_>) -> ExprKind {
        let span = self.span(&pair);
        let mut elements = Vec::new();
        let mut clauses = Vec::new();
        for part in kids(pair) {
            match part.as_rule() {
                Rule::expr => elements.push(self.expr(part)),
                Rule::comp => {
                    let mut parts = kids(part).peekable();
                    let (pattern, enumerate) = self.loop_pattern(&mut parts);
                    let iter = self.expect_expr(parts.next(), span);
                    let cond = parts.next().map(|p| self.expr(p));
                    clauses.push(CompClause { pattern, enumerate, iter, cond });
                }
                _ => {}
            }
        }
        match (clauses.is_empty(), elements.pop()) {
            (false, Some(element)) => ExprKind::Comprehension { element: Sub::new(element), clauses },
            (_, last) => {
                elements.extend(last);
                ExprKind::List(elements)
            }
        }
    }

    /// `p` or `i, p` in front of `in`.
    fn loop_pattern<'i>(&mut self, parts: &mut std::iter::Peekable<impl Iterator<Item = P<'i>>>) -> (Pattern, bool) {
        let first = self.pattern(parts.next().expect("a loop has a pattern"));
        if parts.next_if(|p| p.as_rule() == Rule::comma).is_none() {
            return (first, false);
        }
        let second = self.pattern(parts.next().expect("a pattern follows the comma"));
        let span = first.span.to(second.span);
        (Pattern { kind: PatternKind::Tuple(vec![first, second]), span }, true)
    }

    fn if_expr(&mut self, pair: P<'_>) -> ExprKind {
        let span = self.span(&pair);
        let mut parts = kids(pair);
        let cond = Sub::new(self.expect_expr(parts.next(), span));
        let then = self.expect_body(parts.next(), span);
        let otherwise = parts.next().map(|p| match p.as_rule() {
            Rule::if_expr => {
                let span = self.span(&p);
                let kind = self.if_expr(p);
                let expr = self.make(kind, span);
                Block { stmts: vec![Stmt { kind: StmtKind::Expr(expr), span }], span }
            }
            _ => self.block(p),
        });
        ExprKind::If { cond, then, otherwise }
    }

    /// Arguments of `call`, the trailing function included.
    pub fn args(&mut self, pair: P<'_>) -> Vec<Arg> {
        let mut args = Vec::new();
        for part in kids(pair) {
            let span = self.span(&part);
            match part.as_rule() {
                Rule::arg => {
                    let mut name = None;
                    let mut value = None;
                    for p in kids(part) {
                        match p.as_rule() {
                            Rule::name => name = Some(self.name(&p)),
                            Rule::expr => value = Some(self.expr(p)),
                            Rule::ellipsis => value = Some(self.make(ExprKind::Name(Arc::from("...")), span)),
                            _ => {}
                        }
                    }
                    let value = value.unwrap_or_else(|| self.make(ExprKind::Error, span));
                    args.push(Arg { name, value });
                }
                Rule::trailing => {
                    let mut parts = kids(part);
                    let params = parts.next().map(|p| self.lambda_params(p)).unwrap_or_default();
                    let stmts = parts.next().map(|p| self.stmts(p)).unwrap_or_default();
                    let body = match stmts.first() {
                        Some(Stmt { kind: StmtKind::Expr(only), .. }) if stmts.len() == 1 => only.clone(),
                        _ => {
                            let inside = match (stmts.first(), stmts.last()) {
                                (Some(a), Some(b)) => a.span.to(b.span),
                                _ => span,
                            };
                            self.make(ExprKind::Block(Block { stmts, span: inside }), inside)
                        }
                    };
                    let value = self.make(ExprKind::Lambda(Arc::new(Lambda { params, body, span })), span);
                    args.push(Arg { name: None, value });
                }
                _ => {}
            }
        }
        args
    }

    fn index_items(&mut self, pair: P<'_>) -> Vec<IndexItem> {
        let items = kids(pair).filter(|p| p.as_rule() == Rule::index_item);
        items
            .map(|item| {
                let span = self.span(&item);
                let mut slots: [Option<Expr>; 3] = [None, None, None];
                let mut colons = 0;
                for part in kids(item) {
                    match part.as_rule() {
                        Rule::ellipsis => return IndexItem::Ellipsis(span),
                        Rule::colon => colons += 1,
                        Rule::expr => slots[colons.min(2)] = Some(self.expr(part)),
                        _ => {}
                    }
                }
                let [start, stop, step] = slots;
                match (colons, start) {
                    (0, Some(Expr { kind: ExprKind::None, .. })) => IndexItem::NewAxis(span),
                    (0, Some(at)) => IndexItem::At(at),
                    (_, start) => IndexItem::Slice { start, stop, step, span },
                }
            })
            .collect()
    }

    /// `index_vars`
    pub fn index_vars(&mut self, pair: P<'_>) -> Vec<IndexVar> {
        kids(pair)
            .filter(|p| p.as_rule() == Rule::index_var)
            .map(|var| {
                let mut parts = kids(var);
                let name = parts.next().map(|p| self.name(&p)).expect("an index has a name");
                let extent = parts.next().map(|p| self.expr(p));
                IndexVar { name, extent }
            })
            .collect()
    }

    /// `brace_record`
    pub fn record(&mut self, pair: P<'_>) -> Expr {
        let span = self.span(&pair);
        let mut fields = Vec::new();
        for part in kids(pair).filter(|p| p.as_rule() == Rule::record_field) {
            let at = self.span(&part);
            let mut parts = kids(part);
            let path = parts.next().expect("a field has a name");
            let value = match parts.next() {
                Some(value) => self.expr(value),
                None => {
                    let value = self.path_expr(path.clone());
                    if !matches!(value.kind, ExprKind::Name(_)) {
                        let error = self.error(codes::UNEXPECTED, at, "expected `=` and a value after the path of a field");
                        error.help = Some("only a plain name may stand alone: `{ x, y }` is short for `{ x = x, y = y }`".into());
                    }
                    value
                }
            };
            fields.push((self.names(path), value));
        }
        self.make(ExprKind::Record(fields), span)
    }

    /// `a.b.c` as an expression.
    pub fn path_expr(&mut self, pair: P<'_>) -> Expr {
        let mut names = self.names(pair).into_iter();
        let first = names.next().expect("a path has a name");
        let mut expr = self.make(ExprKind::Name(first.text), first.span);
        for name in names {
            let span = expr.span.to(name.span);
            expr = self.make(ExprKind::Field(Sub::new(expr), name), span);
        }
        expr
    }

    /// `call_path`: a path, called or not.
    pub fn call_path(&mut self, pair: P<'_>) -> Expr {
        let span = self.span(&pair);
        let mut parts = kids(pair);
        let callee = self.path_expr(parts.next().expect("a path"));
        match parts.next() {
            Some(call) => {
                let args = self.args(call);
                self.make(ExprKind::Call { callee: Sub::new(callee), args }, span)
            }
            None => callee,
        }
    }

    fn groups(&mut self, pair: P<'_>) -> ExprKind {
        let mut groups = Vec::new();
        for part in kids(pair).filter(|p| p.as_rule() == Rule::group) {
            let span = self.span(&part);
            let mut parts = kids(part);
            let key = parts.next().expect("a group has a key");
            let mut ones = kids(key).filter(|p| p.as_rule() == Rule::group_one).map(|p| self.group_one(p)).collect::<Vec<_>>().into_iter();
            let first = ones.next().unwrap_or(GroupKey::Any);
            let key = ones.fold(first, |a, b| GroupKey::And(Box::new(a), Box::new(b)));
            let value = self.expect_expr(parts.next(), span);
            groups.push((key, value));
        }
        ExprKind::Groups(groups)
    }

    fn group_one(&mut self, pair: P<'_>) -> GroupKey {
        let mut parts = kids(pair).peekable();
        match parts.peek().map(|p| p.as_rule()) {
            Some(Rule::string) => {
                GroupKey::Patterns(parts.filter(|p| p.as_rule() == Rule::string).map(|p| self.plain_string(&p)).collect())
            }
            Some(Rule::name) => {
                let name = parts.next().map(|p| self.name(&p)).expect("a name");
                let op = match parts.next().map_or("", |p| p.as_str().trim()) {
                    "==" => BinaryOp::Eq,
                    "!=" => BinaryOp::Ne,
                    ">=" => BinaryOp::Ge,
                    "<=" => BinaryOp::Le,
                    ">" => BinaryOp::Gt,
                    _ => BinaryOp::Lt,
                };
                let literal = parts.next().expect("a key has a literal");
                let mut negative = None;
                let mut value = None;
                for p in literal.into_inner() {
                    match p.as_rule() {
                        Rule::neg => negative = Some(self.span(&p)),
                        Rule::string => value = Some(self.string(&p)),
                        _ => value = Some(self.number(&p)),
                    }
                }
                let value = value.expect("a literal");
                let value = match negative {
                    Some(at) => {
                        let span = at.to(value.span);
                        self.make(ExprKind::Unary(UnaryOp::Neg, Sub::new(value)), span)
                    }
                    None => value,
                };
                GroupKey::Compare(name, op, value)
            }
            _ => GroupKey::Any,
        }
    }

    /// `name = value`
    pub fn option(&mut self, pair: P<'_>) -> (Name, Expr) {
        let span = self.span(&pair);
        let mut parts = kids(pair);
        let name = parts.next().map(|p| self.name(&p)).expect("an option has a name");
        let value = self.expect_expr(parts.next(), span);
        (name, value)
    }

    /// The expression of a pair that the grammar says is there.
    pub fn expect_expr(&mut self, pair: Option<P<'_>>, span: Span) -> Expr {
        match pair {
            Some(p) => self.expr(p),
            None => self.make(ExprKind::Error, span),
        }
    }

    /// The block of a pair that the grammar says is there.
    pub fn expect_body(&mut self, pair: Option<P<'_>>, span: Span) -> Block {
        match pair {
            Some(p) => self.block(p),
            None => Block { stmts: Vec::new(), span },
        }
    }
}

/// The reductions of index notation.
pub(crate) fn is_reduction(name: &str) -> bool {
    matches!(name, "sum" | "prod" | "mean" | "max" | "min" | "any" | "all" | "argmax" | "argmin" | "logsumexp" | "norm")
}
