//! Methods of values that only the script has.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::value::{CallArg, Value};
use optc_base::Span;
use optc_front::ast::{Expr, Name};

impl Evaluator<'_> {
    /// A method of a value only the script has; `None` if it has no such method.
    pub(crate) fn host_method(
        &mut self,
        _scope: &mut Scope,
        _value: &Value,
        _base: &Expr,
        _name: &Name,
        _args: &[CallArg],
        _span: Span,
    ) -> Eval<Option<Value>> {
        Ok(None)
    }
}
