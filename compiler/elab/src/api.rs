//! TEMP signatures.
use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::value::{CallArg, Value};
use optc_abi::Tensor;
use optc_base::{Diagnostic, Span};
use optc_front::ast::{self, LetKind};
use optc_front::modules::Program;
use optc_ops::Array;
use std::sync::Arc;

/// Checks every item of a program with symbolic sizes.
pub fn check(program: &Program) -> Vec<Diagnostic> {
    let _ = program;
    Vec::new()
}

impl Evaluator<'_> {
    /// The value of an expression.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub fn expr(&mut self, _scope: &mut Scope, e: &ast::Expr) -> Eval {
        self.error("E0700", e.span, "not built in yet")
    }
    /// The value of a block (its last expression, or `none`), in a scope of its own.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub fn block(&mut self, _scope: &mut Scope, b: &ast::Block) -> Eval {
        self.error("E0700", b.span, "not built in yet")
    }
    /// Executes a statement; an expression gives its value, others `none`.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub fn stmt(&mut self, _scope: &mut Scope, s: &ast::Stmt) -> Eval {
        self.error("E0700", s.span, "not built in yet")
    }
    /// Calls anything that can be called.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub fn apply(&mut self, _callee: &Value, _args: Vec<CallArg>, span: Span) -> Eval {
        self.error("E0700", span, "not built in yet")
    }
    /// Binds the names of a pattern.
    ///
    /// # Errors
    /// A value that does not fit the pattern.
    pub fn bind_pattern(&mut self, _scope: &mut Scope, p: &ast::Pattern, _value: Value, _kind: LetKind) -> Eval<()> {
        self.error("E0700", p.span, "not built in yet")
    }
    /// A scope with the parameters of an item bound to arguments: names, defaults, ranges, dimensions, types.
    ///
    /// # Errors
    /// Arguments that do not fit.
    pub fn bind_params(
        &mut self,
        _what: &str,
        _module: optc_front::ModuleId,
        _params: &[ast::Param],
        _args: Vec<CallArg>,
        span: Span,
    ) -> Eval<Scope> {
        self.error("E0700", span, "not built in yet")
    }
    /// Whether a scalar condition holds; `None`: not known (a run-time value outside the script, or checking).
    ///
    /// # Errors
    /// A value that is no condition.
    pub fn truth(&mut self, _value: &Value, span: Span) -> Eval<Option<bool>> {
        self.error("E0700", span, "not built in yet")
    }
    /// The value of an array now (host mode).
    ///
    /// # Errors
    /// A run-time failure.
    pub fn force(&mut self, _array: &Array, span: Span) -> Eval<Arc<Tensor>> {
        self.error("E0700", span, "not built in yet")
    }
    /// The array of a scalar or nested list of scalars, for operations and graphs.
    ///
    /// # Errors
    /// A value that is no array.
    pub fn array_of(&mut self, _value: &Value, span: Span) -> Eval<Array> {
        self.error("E0700", span, "not built in yet")
    }
    /// Array leaves of a tree with their paths.
    ///
    /// # Errors
    /// A value that is no tree.
    pub fn tree_leaves(&mut self, _value: &Value, span: Span) -> Eval<Vec<(Arc<str>, Value)>> {
        self.error("E0700", span, "not built in yet")
    }
    /// A tree of the same structure with other leaves, in order.
    ///
    /// # Errors
    /// What `f` reports.
    pub fn map_tree(&mut self, _value: &Value, span: Span, _f: &mut dyn FnMut(&mut Self, &str, &Value) -> Eval) -> Eval {
        self.error("E0700", span, "not built in yet")
    }
}
