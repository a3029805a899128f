//! `tree.norm(g)` and its like inside a body: over all leaves at this point of the body.

use super::*;

impl Evaluator<'_> {
    /// A `tree.…` call inside a body: over all leaves at this point of the body. `id` is the call's place.
    pub fn collective(&mut self, scope: &mut Scope, id: ExprId, name: &str, args: &[optc_front::ast::Arg], span: Span) -> Eval {
        if let Some(value) = self.opt_run().cache.get(&id) {
            return Ok(value.clone());
        }
        let snapshot = self.opt_run().snapshot.clone();
        let active: Vec<usize> = self.opt_run().active.clone();
        let mut total: Option<Value> = None;
        let mut count = 0usize;
        for leaf in active {
            // The present scope may hold names that the beginning of the statement did not.
            let mut inner = if snapshot.len() == 1 { scope.clone() } else { snapshot[leaf].clone() };
            let mut values = Vec::new();
            for arg in args {
                values.push(self.expr(&mut inner, &arg.value)?);
            }
            let part = self.collective_part(name, &values, span)?;
            count += 1;
            total = Some(match total {
                None => part,
                Some(sum) => self.collective_join(name, sum, part, span)?,
            });
        }
        let total = total.unwrap_or(Value::Float(Some(0.0)));
        let value = match name {
            "norm" => self.builtin("sqrt", vec![total], span)?,
            "mean" => self.arithmetic(optc_front::ast::BinaryOp::Div, total, Value::Int(Dim::from(count)), span)?,
            _ => total,
        };
        self.opt_run().cache.insert(id, value.clone());
        Ok(value)
    }

    /// What one leaf contributes.
    pub(super) fn collective_part(&mut self, name: &str, values: &[Value], span: Span) -> Eval {
        use optc_front::ast::BinaryOp::Mul;
        let arg = |k: usize| values.get(k).cloned().unwrap_or(Value::Unknown);
        match name {
            "norm" => {
                let squares = self.arithmetic(Mul, arg(0), arg(0), span)?;
                self.builtin("sum", vec![squares], span)
            }
            "dot" => {
                let products = self.arithmetic(Mul, arg(0), arg(1), span)?;
                self.builtin("sum", vec![products], span)
            }
            "count" => match arg(0) {
                Value::Array(a) => {
                    let n = a.shape.iter().fold(Dim::from(1i64), |n, d| n.mul(d));
                    Ok(Value::Int(n))
                }
                _ => Ok(Value::Int(Dim::from(1i64))),
            },
            "sum" | "mean" | "max" | "min" | "all" | "any" => Ok(arg(0)),
            _ => {
                self.fail(Diagnostic::error(Code("E0224"), span, format!("`tree.{name}` is not a collective")).help(
                    "collectives are tree.sum, tree.mean, tree.max, tree.min, tree.all, tree.any, tree.count, tree.norm and tree.dot",
                ))
            }
        }
    }

    pub(super) fn collective_join(&mut self, name: &str, a: Value, b: Value, span: Span) -> Eval {
        use optc_front::ast::BinaryOp::{Add, And, Or};
        match name {
            "max" => self.builtin("maximum", vec![a, b], span),
            "min" => self.builtin("minimum", vec![a, b], span),
            "all" => self.arithmetic(And, a, b, span),
            "any" => self.arithmetic(Or, a, b, span),
            _ => self.arithmetic(Add, a, b, span),
        }
    }

    /// Calls a built-in operation on values.
    pub(crate) fn builtin(&mut self, name: &str, values: Vec<Value>, span: Span) -> Eval {
        let args = values.into_iter().map(|value| CallArg { name: None, value, span }).collect();
        self.apply(&Value::Fn(Rc::new(crate::value::FnValue::Builtin(Arc::from(name)))), args, span)
    }
}
