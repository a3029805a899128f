//! Comprehensions: lists made at compile time.

use crate::evaluator::{Eval, Evaluator};
use crate::loops::{Passes, UNROLL_LIMIT};
use crate::scope::Scope;
use crate::value::Value;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{CompClause, Expr, LetKind};
use optc_ops::{Array, Ix, Val};
use std::rc::Rc;

impl Evaluator<'_> {
    /// `[element for p in xs if c …]`
    pub(crate) fn comprehension(&mut self, scope: &mut Scope, element: &Expr, clauses: &[CompClause], span: Span) -> Eval {
        let mut out = Vec::new();
        let known = self.in_script_loop(|ev| ev.collect(scope, element, clauses, &mut out))?;
        if !known {
            return Ok(Value::Unknown);
        }
        self.list(out, false, span)
    }
    /// Collects the elements; false if their number is not known while checking.
    fn collect(&mut self, scope: &mut Scope, element: &Expr, clauses: &[CompClause], out: &mut Vec<Value>) -> Eval<bool> {
        let Some((clause, rest)) = clauses.split_first() else {
            out.push(self.expr(scope, element)?);
            return Ok(true);
        };
        let iter = self.expr(scope, &clause.iter)?;
        let body_span = clause.iter.span;
        let mut known = true;
        let items: Vec<Value> = match self.passes(iter, body_span)? {
            Passes::Items(items) => items,
            Passes::Count { start, trip, reverse } => match (start.known(), trip.known()) {
                (Some(a), Some(n)) => {
                    if n > UNROLL_LIMIT * 10 {
                        return self.too_long(n, body_span);
                    }
                    let mut items: Vec<Value> = (a..a + n.max(0)).map(|i| Value::Int(i.into())).collect();
                    if reverse {
                        items.reverse();
                    }
                    items
                }
                _ if self.checking() => {
                    known = false;
                    vec![Value::Int(self.cx.fresh_symbol("?"))]
                }
                _ => return self.error("E0344", body_span, "the bounds of a comprehension are known at compile time"),
            },
            Passes::Rows(a) => match a.shape[0].known() {
                Some(n) => {
                    let mut rows = Vec::new();
                    for i in 0..n {
                        rows.push(self.index(&Value::Array(a.clone()), vec![Ix::At(Val::Int(i.into()), body_span)], body_span)?);
                    }
                    rows
                }
                None => {
                    known = false;
                    vec![Value::Array(Array { shape: a.shape[1..].to_vec(), weak: false, ..a })]
                }
            },
            Passes::Bounds { .. } => {
                return self.fail(
                    Diagnostic::error(Code("E0344"), body_span, "the bounds of a comprehension are known at compile time")
                        .help("use a loop: `for i in 0..n { … }`"),
                );
            }
            Passes::While { .. } | Passes::Unknown => {
                known = false;
                vec![Value::Unknown]
            }
        };
        for (i, item) in items.into_iter().enumerate() {
            self.instance.passes.push(i);
            self.counters.push(Value::Int(i.into()));
            scope.push();
            let result = self.comp_pass(scope, clause, rest, element, item, i, out);
            scope.pop();
            self.counters.pop();
            self.instance.passes.pop();
            known &= result?;
        }
        Ok(known)
    }
    fn comp_pass(
        &mut self,
        scope: &mut Scope,
        clause: &CompClause,
        rest: &[CompClause],
        element: &Expr,
        item: Value,
        i: usize,
        out: &mut Vec<Value>,
    ) -> Eval<bool> {
        let value = if clause.enumerate { Value::Tuple(Rc::new(vec![Value::Int(i.into()), item])) } else { item };
        self.bind_pattern(scope, &clause.pattern, value, LetKind::Let)?;
        if let Some(c) = &clause.cond {
            let value = self.expr(scope, c)?;
            match self.truth(&value, c.span)? {
                Some(true) => {}
                Some(false) => return Ok(true),
                None if self.checking() => {
                    self.collect(scope, element, rest, &mut Vec::new())?;
                    return Ok(false);
                }
                None => {
                    return self.fail(
                        Diagnostic::error(Code("E0344"), c.span, "the condition of a comprehension is known at compile time")
                            .help("choose elements with `where(mask, x, 0)`"),
                    );
                }
            }
        }
        self.collect(scope, element, rest, out)
    }
}
