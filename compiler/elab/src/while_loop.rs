//! `while`: a loop that goes on as long as a condition holds. In compiled code it is a loop operation whose first carried value says whether
//! there is another pass.

use crate::cond::Part;
use crate::evaluator::{Eval, Evaluator};
use crate::exits::DONE;
use crate::loops::{Body, Passes};
use crate::scope::Scope;
use crate::tree::describe;
use crate::value::Value;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, Expr, ExprKind, LetKind, PatternKind, Stmt, StmtKind};
use std::rc::Rc;

/// The variable that says whether there is another pass. No name of the language is spelled like it.
pub(crate) const GO: &str = "%go";

impl Evaluator<'_> {
    /// `while cond, at most n { … }`.
    ///
    /// # Errors
    /// A condition that is no truth value, a bound not known at compile time, what the body reports.
    pub(crate) fn while_expr(&mut self, scope: &mut Scope, cond: &Expr, at_most: Option<&Expr>, block: &Block, span: Span) -> Eval {
        let most = match at_most {
            Some(e) => self.most_passes(scope, e)?,
            None => None,
        };
        let body = Body { pattern: None, enumerate: false, cond: Some(cond), block, span, lock: None };
        if self.checking() {
            self.yields_or_leaves(block)?;
            let value = self.expr(scope, cond)?;
            self.truth(&value, cond.span)?;
            if at_most.is_none() && !self.in_optimizer {
                self.ends_somehow(cond, block)?;
            }
            let outer = std::mem::replace(&mut self.run_time_exits, false);
            let result = self.check_loop(scope, &body, Passes::While { most });
            self.run_time_exits = outer;
            return result;
        }
        self.with_exits(scope, crate::walk::exits(&block.stmts), |ev, scope| {
            if ev.may_look() {
                return ev.in_script_loop(|ev| ev.while_in_script(scope, &body, cond, most));
            }
            if ev.must_unroll(scope, block) {
                return ev.cannot_unroll(span, block);
            }
            let value = ev.expr(scope, cond)?;
            let go = ev.schedule_now(&value, cond.span)?;
            if ev.truth(&go, cond.span)? == Some(false) || most == Some(0) {
                return Ok(Value::None);
            }
            scope.bind(GO, go, LetKind::Var, cond.span);
            ev.looped(scope, &body, &Passes::While { most })
        })
    }
    /// Reports a loop that is never left: its condition reads nothing that its body changes, and nothing in the body breaks.
    fn ends_somehow(&mut self, cond: &Expr, block: &Block) -> Eval<()> {
        let mut changed = crate::walk::assigned(&block.stmts);
        let (mut names, mut called) = (Vec::new(), false);
        crate::walk::expr(cond, &mut |e| {
            match &e.kind {
                ExprKind::Name(n) => names.push((n.clone(), e.span)),
                // A function may draw, or be told of a change in other ways.
                ExprKind::Call { callee, .. } => called |= !matches!(&callee.kind, ExprKind::Name(n) if optc_ops::is_builtin(n)),
                _ => {}
            }
            !called
        });
        // `xs.push(x)` changes a list.
        crate::walk::block(block, &mut |e| {
            if let ExprKind::Call { callee, .. } = &e.kind
                && let ExprKind::Field(base, _) = &callee.kind
            {
                changed.extend(crate::walk::root(base));
            }
            true
        });
        let always = matches!(cond.kind, ExprKind::Bool(true));
        if called
            || names.iter().any(|(n, _)| changed.contains(n))
            || names.is_empty() && !always
            || crate::walk::exits(&block.stmts).breaks
        {
            return Ok(());
        }
        let mut hidden = None;
        crate::walk::stmts(&block.stmts, &mut |s| {
            if let StmtKind::Let { pattern, .. } = &s.kind
                && let PatternKind::Name(n) = &pattern.kind
                && names.iter().any(|(read, _)| read == n)
            {
                hidden.get_or_insert((n.clone(), pattern.span));
            }
        });
        let d = Diagnostic::error(Code("E0355"), cond.span, "this `while` never ends: nothing in its body changes its condition");
        self.fail(match hidden {
            Some((n, at)) => d
                .label(at, format!("another `{n}`, which ends with the pass"))
                .help(format!("`let` makes a new name; update the one outside: `{n} <- …`")),
            None => {
                d.help("update in the body what the condition reads, leave by `break if …`, or give a bound: `while c, at most 100 { … }`")
            }
        })
    }
    /// The bound after `at most`; `None` if it is not known while checking.
    pub(crate) fn most_passes(&mut self, scope: &mut Scope, e: &Expr) -> Eval<Option<usize>> {
        let value = self.expr(scope, e)?;
        let value = if self.may_look() { self.looked_at(value, e.span)? } else { value };
        match &value {
            Value::Int(d) => match d.known() {
                Some(n) => Ok(Some(usize::try_from(n.clamp(0, i64::from(i32::MAX))).unwrap_or(0))),
                None if self.checking() => Ok(None),
                None => self.error("E0344", e.span, "this bound is not known at compile time"),
            },
            Value::Unknown => Ok(None),
            other => {
                let what = describe(other);
                self.fail(
                    Diagnostic::error(
                        Code("E0344"),
                        e.span,
                        format!("the bound of a `while` is an integer known at compile time, not {what}"),
                    )
                    .help("`while c, at most 100 { … }`; end earlier with `break if …`"),
                )
            }
        }
    }
    /// After a pass: whether there is another one. After a `break` the condition is not evaluated.
    ///
    /// # Errors
    /// A condition that is no truth value.
    pub(crate) fn goes_on(&mut self, scope: &mut Scope, cond: &Expr) -> Eval {
        let done = scope.get(DONE).map_or(Value::Bool(Some(false)), |b| b.value.clone());
        let value = match self.truth(&done, cond.span)? {
            Some(true) => return Ok(Value::Bool(Some(false))),
            Some(false) => self.expr(scope, cond)?,
            None => {
                let block = |e: Expr| Block { stmts: vec![Stmt { kind: StmtKind::Expr(e), span: cond.span }], span: cond.span };
                let (ends, asks) = (block(Expr { kind: ExprKind::Bool(false), ..cond.clone() }), block(cond.clone()));
                self.run_time_if(scope, &done, cond.span, [Part::Block(&ends), Part::Block(&asks)], cond.span)?
            }
        };
        let value = self.schedule_now(&value, cond.span)?;
        self.truth(&value, cond.span)?;
        Ok(value)
    }
    /// In the script: pass by pass, as the values turn out.
    fn while_in_script(&mut self, scope: &mut Scope, body: &Body<'_>, cond: &Expr, most: Option<usize>) -> Eval {
        let carried = crate::walk::updated(&body.block.stmts);
        self.yields.push(Vec::new());
        let mut all = Vec::new();
        let mut pass = 0;
        let result = loop {
            if most.is_some_and(|n| pass >= n) {
                break Ok(());
            }
            match self.script_goes_on(scope, cond) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(stop) => break Err(stop),
            }
            self.instance.passes.push(pass);
            self.counters.push(Value::Int(pass.into()));
            scope.push();
            let passed = self.pass_statements(scope, &body.block.stmts, body.span);
            scope.pop();
            self.counters.pop();
            self.instance.passes.pop();
            let own = std::mem::take(self.yields.last_mut().expect("pushed above"));
            if own.len() > 1 {
                break self.yields_twice(body.span);
            }
            all.extend(own);
            if let Err(stop) = passed {
                break Err(stop);
            }
            if self.loop_is_over(scope) {
                break Ok(());
            }
            // What the next pass starts from is computed now, so that each pass runs the same compiled code.
            let mut values: Vec<Value> = carried.iter().filter_map(|n| scope.get(n)).map(|b| b.value.clone()).collect();
            values.append(&mut self.script.pushed);
            if let Err(stop) = self.force_tree(&Value::Tuple(Rc::new(values)), body.span) {
                break Err(stop);
            }
            pass += 1;
        };
        self.yields.pop();
        result?;
        if all.is_empty() { Ok(Value::None) } else { self.stack(&all, body.span) }
    }
    fn script_goes_on(&mut self, scope: &mut Scope, cond: &Expr) -> Eval<bool> {
        let value = self.expr(scope, cond)?;
        match self.truth(&value, cond.span)? {
            Some(goes_on) => Ok(goes_on),
            None => self.error("E0344", cond.span, "this condition is not known"),
        }
    }
}
