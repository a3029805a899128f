//! Parts of the language that other files give a meaning to, as long as they do not: a proper "not yet supported" for each.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::value::{CallArg, Value};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ItemRef;
use optc_front::ast::{Arg, Expr, ExprId, Name, Stmt};

impl Evaluator<'_> {
    fn absent<T>(&mut self, what: &str, span: Span) -> Eval<T> {
        self.fail(Diagnostic::error(Code("E0718"), span, format!("{what} is not yet supported")))
    }
    /// A `tree.…` call in an optimizer body.
    pub(crate) fn collective(&mut self, _scope: &mut Scope, _id: ExprId, _name: &str, _args: &[Arg], span: Span) -> Eval {
        self.absent("a collective", span)
    }
    /// A source of data.
    pub(crate) fn source(&mut self, _scope: &mut Scope, kind: &str, _args: Vec<CallArg>, span: Span) -> Eval {
        self.absent(kind, span)
    }
    /// Output of the script.
    pub(crate) fn output_stmt(&mut self, _scope: &mut Scope, s: &Stmt) -> Eval {
        if self.checking() {
            return Ok(Value::None);
        }
        self.absent("output", s.span)
    }
    /// `run T with { … }`
    pub(crate) fn run_expr(&mut self, _scope: &mut Scope, _target: &Expr, _with: Option<&Expr>, span: Span) -> Eval {
        if self.checking() {
            return Ok(Value::Unknown);
        }
        self.absent("`run`", span)
    }
    /// A field of a value only the script has.
    pub(crate) fn host_field(&mut self, _value: &Value, _name: &Name) -> Eval<Option<Value>> {
        Ok(if self.checking() { Some(Value::Unknown) } else { None })
    }
    /// Checks a `train` block.
    pub(crate) fn check_train(&mut self, _item: ItemRef) -> Eval<()> {
        Ok(())
    }
    /// Checks a `data` block.
    pub(crate) fn check_data_item(&mut self, _item: ItemRef) -> Eval<()> {
        Ok(())
    }
    /// Checks an experiment.
    pub(crate) fn check_experiment(&mut self, _item: ItemRef) -> Eval<()> {
        Ok(())
    }
    /// Checks an optimizer.
    pub(crate) fn check_optimizer_item(&mut self, _item: ItemRef) -> Eval<()> {
        Ok(())
    }
}
