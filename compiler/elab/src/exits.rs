//! `break` and `continue`: flags in the scope of a loop, on which the statements that follow are made conditional.
//!
//! A loop whose body can be left binds [`DONE`] (the loop is over) around all passes and [`LEFT`] (the pass is over) around each. `break` and `continue` set them,
//! also in nested branches, which carry them like any variable. After a statement that may have set [`LEFT`] the rest of a block runs only where it is false: not at
//! all if that is known, else as one side of a conditional. No pass runs where [`DONE`] holds.

use crate::cond::Part;
use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::value::Value;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, LetKind, Stmt};

/// The variable that says whether the pass at hand is over. No name of the language is spelled like it.
pub(crate) const LEFT: &str = "%left";
/// The variable that says whether the loop is over.
pub(crate) const DONE: &str = "%done";

/// How a loop's body can be left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exits {
    /// By `break`.
    pub breaks: bool,
    /// By `continue`.
    pub continues: bool,
}

impl Exits {
    /// Whether it can be left at all.
    pub fn any(self) -> bool {
        self.breaks || self.continues
    }
    /// Takes in those of a part of the body.
    pub fn add(&mut self, part: Exits) {
        self.breaks |= part.breaks;
        self.continues |= part.continues;
    }
}

impl Evaluator<'_> {
    /// Evaluates a loop with the flags its exits set.
    ///
    /// # Errors
    /// What `f` reports.
    pub(crate) fn with_exits<T>(&mut self, scope: &mut Scope, exits: Exits, f: impl FnOnce(&mut Self, &mut Scope) -> Eval<T>) -> Eval<T> {
        let outer = std::mem::replace(&mut self.exits, exits);
        scope.push();
        if exits.any() {
            scope.bind(DONE, Value::Bool(Some(false)), LetKind::Var, Span::default());
        }
        let result = f(self, scope);
        scope.pop();
        self.exits = outer;
        result
    }
    /// Executes the statements of one pass in a scope that holds what the pass runs over.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub(crate) fn pass_statements(&mut self, scope: &mut Scope, stmts: &[Stmt], span: Span) -> Eval {
        if !self.exits.any() {
            return self.stmts(scope, stmts);
        }
        scope.bind(LEFT, Value::Bool(Some(false)), LetKind::Var, Span::default());
        let done = scope.get(DONE).map_or(Value::Unknown, |b| b.value.clone());
        match self.truth(&done, span)? {
            Some(true) => Ok(Value::None),
            Some(false) => self.stmts(scope, stmts),
            None => self.run_time_if(scope, &done, span, [Part::Nothing, Part::Rest(stmts)], span),
        }
    }
    /// Whether the loop is known to be over.
    pub(crate) fn loop_is_over(&self, scope: &Scope) -> bool {
        matches!(scope.get(DONE).map(|b| &b.value), Some(Value::Bool(Some(true))))
    }
    /// `break`, `break if c`, `continue`, `continue if c`.
    ///
    /// # Errors
    /// It stands outside a loop; a condition that is none.
    pub(crate) fn leave(&mut self, scope: &mut Scope, c: Option<&Expr>, breaks: bool, span: Span) -> Eval {
        if self.yields.is_empty() || (!self.checking() && scope.get(LEFT).is_none()) {
            let word = if breaks { "break" } else { "continue" };
            return self.fail(
                Diagnostic::error(Code("E0353"), span, format!("`{word}` stands in a loop"))
                    .help("it is a statement of the body of a `for`, or of a branch in it; functions and the body of a `sweep` end with their last expression"),
            );
        }
        let cond = match c {
            None => Value::Bool(Some(true)),
            Some(c) => {
                let value = self.expr(scope, c)?;
                let value = self.schedule_now(&value, c.span)?;
                match self.truth(&value, c.span)? {
                    Some(known) => Value::Bool(Some(known)),
                    None => value,
                }
            }
        };
        if self.checking() {
            self.run_time_exits |= matches!(cond, Value::Array(_)) && !self.in_script;
        } else {
            scope.set(LEFT, cond.clone());
            if breaks {
                scope.set(DONE, cond);
            }
        }
        Ok(Value::None)
    }
    /// After a statement of a body with exits: executes the `rest` where the pass is not over. `None` if it cannot be over.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub(crate) fn unless_left(&mut self, scope: &mut Scope, rest: &[Stmt], span: Span) -> Eval<Option<Value>> {
        match scope.get(LEFT).map(|b| b.value.clone()) {
            Some(Value::Bool(Some(true))) => Ok(Some(Value::None)),
            Some(_) if rest.is_empty() => Ok(None),
            Some(left @ Value::Array(_)) => self.run_time_if(scope, &left, span, [Part::Left, Part::Rest(rest)], span).map(Some),
            _ => Ok(None),
        }
    }
}
