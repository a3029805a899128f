//! Operators and built-in operations on values: trees leaf by leaf, schedules symbolically, everything else by the array operations.

use crate::evaluator::{Eval, Evaluator};
use crate::tree::is_branch;
use crate::value::{CallArg, ScheduleValue, Value};
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{BinaryOp, UnaryOp};
use optc_ops::{Arg, BinOp, UnOp, Val};
use std::rc::Rc;
use std::sync::Arc;

/// The operation of an operator; `None` for `~=` and `matches`.
pub(crate) fn bin_op(op: BinaryOp) -> Option<BinOp> {
    Some(match op {
        BinaryOp::Or => BinOp::Or,
        BinaryOp::And => BinOp::And,
        BinaryOp::Eq => BinOp::Eq,
        BinaryOp::Ne => BinOp::Ne,
        BinaryOp::Lt => BinOp::Lt,
        BinaryOp::Le => BinOp::Le,
        BinaryOp::Gt => BinOp::Gt,
        BinaryOp::Ge => BinOp::Ge,
        BinaryOp::Add => BinOp::Add,
        BinaryOp::Sub => BinOp::Sub,
        BinaryOp::Mul => BinOp::Mul,
        BinaryOp::Div => BinOp::Div,
        BinaryOp::FloorDiv => BinOp::FloorDiv,
        BinaryOp::Rem => BinOp::Rem,
        BinaryOp::MatMul => BinOp::MatMul,
        BinaryOp::Pow => BinOp::Pow,
        BinaryOp::BitAnd => BinOp::BitAnd,
        BinaryOp::BitOr => BinOp::BitOr,
        BinaryOp::Xor => BinOp::BitXor,
        BinaryOp::Shl => BinOp::Shl,
        BinaryOp::Shr => BinOp::Shr,
        BinaryOp::Near | BinaryOp::Matches => return None,
    })
}

impl Evaluator<'_> {
    /// `a op b`.
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn arithmetic(&mut self, op: BinaryOp, a: Value, b: Value, span: Span) -> Eval {
        if matches!(a, Value::Unknown) || matches!(b, Value::Unknown) {
            return Ok(match op {
                BinaryOp::Matches => Value::Bool(None),
                _ => Value::Unknown,
            });
        }
        if op == BinaryOp::Matches {
            return self.matches(&a, &b, span);
        }
        if op == BinaryOp::Near {
            if self.in_script {
                return self.near(&a, &b, span);
            }
            return self.fail(
                Diagnostic::error(Code("E0348"), span, "`~=` compares within a tolerance and stands only in the script")
                    .help("write `check a ~= b within 1e-5` in an experiment, or `abs(a - b) < 1e-5` in compiled code"),
            );
        }
        if let (Value::Str(x), Value::Str(y)) = (&a, &b) {
            match op {
                BinaryOp::Eq => return Ok(Value::Bool(Some(x == y))),
                BinaryOp::Ne => return Ok(Value::Bool(Some(x != y))),
                BinaryOp::Add => return Ok(Value::Str(format!("{x}{y}").into())),
                _ => {}
            }
        }
        let none = |v: &Value| matches!(v, Value::None);
        if (none(&a) || none(&b)) && matches!(op, BinaryOp::Eq | BinaryOp::Ne) {
            return Ok(Value::Bool(Some((none(&a) && none(&b)) == (op == BinaryOp::Eq))));
        }
        let same_type = match (&a, &b) {
            (Value::DType(x), Value::DType(y)) => Some(x == y),
            (Value::Quantized(x), Value::Quantized(y)) => Some(x == y),
            (Value::DType(_), Value::Quantized(_)) | (Value::Quantized(_), Value::DType(_)) => Some(false),
            _ => None,
        };
        if let (Some(same), BinaryOp::Eq | BinaryOp::Ne) = (same_type, op) {
            return Ok(Value::Bool(Some(same == (op == BinaryOp::Eq))));
        }
        if let (Value::Optimizer(_) | Value::Model(_) | Value::Fn(_), _) | (_, Value::Optimizer(_) | Value::Model(_) | Value::Fn(_)) =
            (&a, &b)
        {
            let what = crate::tree::describe(if crate::tree::is_arrayish(&a) { &b } else { &a });
            let optimizers = matches!((&a, &b), (Value::Optimizer(_), _) | (_, Value::Optimizer(_)));
            let help = if optimizers { "optimizers run one after another in a chain: `a |> b`" } else { "call it first" };
            return self.fail(Diagnostic::error(Code("E0333"), span, format!("{what} has no arithmetic")).help(help));
        }
        if matches!(a, Value::Schedule(_)) || matches!(b, Value::Schedule(_)) {
            let (a, b) = (self.schedule_now(&a, span)?, self.schedule_now(&b, span)?);
            if matches!(a, Value::Schedule(_)) || matches!(b, Value::Schedule(_)) {
                return Ok(Value::Schedule(Rc::new(ScheduleValue::Binary(op, a, b, span))));
            }
            return self.arithmetic(op, a, b, span);
        }
        if is_branch(&a) || is_branch(&b) {
            return self.zip_trees(&[a, b], span, &mut |ev, row| ev.arithmetic(op, row[0].clone(), row[1].clone(), span));
        }
        let Some(op) = bin_op(op) else { return Ok(Value::Unknown) };
        let (x, y) = (self.val_of(&a, span)?, self.val_of(&b, span)?);
        self.cx.at(span);
        let result = match optc_ops::binary(&mut self.cx, op, &x, &y) {
            Err(error) if self.in_script => optc_ops::binary(&mut self.cx, op, &counted(x), &counted(y)).map_err(|_| error),
            result => result,
        };
        self.lift(result, span).map(Value::from_val)
    }
    /// `op a`.
    pub(crate) fn prefix(&mut self, op: UnaryOp, a: Value, span: Span) -> Eval {
        if matches!(a, Value::Unknown) {
            return Ok(Value::Unknown);
        }
        if let Value::Schedule(_) = a {
            return match self.schedule_now(&a, span)? {
                Value::Schedule(_) if op == UnaryOp::Neg => Ok(Value::Schedule(Rc::new(ScheduleValue::Neg(a, span)))),
                now => self.prefix(op, now, span),
            };
        }
        if is_branch(&a) {
            return self.map_tree(&a, span, &mut |ev, _, leaf| ev.prefix(op, leaf.clone(), span));
        }
        let val = self.val_of(&a, span)?;
        let op = match op {
            UnaryOp::Neg => UnOp::Neg,
            UnaryOp::Not => UnOp::Not,
            UnaryOp::BitNot => UnOp::BitNot,
        };
        self.cx.at(span);
        let result = optc_ops::unary(&mut self.cx, op, &val);
        self.lift(result, span).map(Value::from_val)
    }
    /// `a as dtype`, leaf by leaf.
    ///
    /// # Errors
    /// A value that is no number.
    pub fn cast(&mut self, a: &Value, dtype: DType, span: Span) -> Eval {
        if is_branch(a) {
            return self.map_tree(a, span, &mut |ev, _, leaf| ev.cast(leaf, dtype, span));
        }
        let val = self.val_of(a, span)?;
        if matches!(val, Val::Unknown) {
            return Ok(Value::Unknown);
        }
        self.cx.at(span);
        let result = optc_ops::cast(&mut self.cx, &val, dtype);
        let cast = self.lift(result, span)?;
        let narrow = matches!(&cast, optc_ops::Val::Int(d) if d.known().is_some()) && !matches!(dtype, DType::I32 | DType::Bool);
        if self.in_script && (matches!(&cast, optc_ops::Val::Float(_)) && dtype.is_float() || narrow) {
            // In the script a number that is converted has the type it is converted to from now on.
            let made = optc_ops::materialize(&mut self.cx, &cast, Some(dtype));
            return self.lift(made, span).map(Value::Array);
        }
        Ok(Value::from_val(cast))
    }
    /// Calls an array operation with arguments in order.
    ///
    /// # Errors
    /// Arguments that do not fit.
    pub fn call_op(&mut self, name: &str, values: Vec<Value>, span: Span) -> Eval {
        let args = values.into_iter().map(|value| CallArg { name: None, value, span }).collect();
        self.call_op_args(name, args, span)
    }
    /// Calls an array operation.
    pub(crate) fn call_op_args(&mut self, name: &str, args: Vec<CallArg>, span: Span) -> Eval {
        // Elementwise operations of one argument go through trees, as arithmetic does.
        if let [one] = args.as_slice()
            && is_branch(&one.value)
            && matches!(one.value, Value::Record(_))
            && ELEMENTWISE.contains(&name)
        {
            let value = one.value.clone();
            return self.map_tree(&value, span, &mut |ev, _, leaf| ev.call_op(name, vec![leaf.clone()], span));
        }
        let random = name.starts_with("random.");
        let mut list = Vec::with_capacity(args.len());
        for arg in &args {
            let value = self.val_of(&arg.value, arg.span)?;
            list.push(Arg { name: arg.name.clone(), value, span: arg.span });
        }
        let key = if random {
            self.draw_defaults(name, &mut list, span);
            Some(self.draw_key(span))
        } else {
            None
        };
        self.cx.at(span);
        let result = match optc_ops::call(&mut self.cx, name, &list, key.as_ref()) {
            Err(error) if self.in_script => self.with_sizes_looked_at(name, list, key.as_ref())?.ok_or(error),
            result => result,
        };
        self.lift(result, span).map(Value::from_val)
    }
    /// In the script integers it computed may be sizes: the call again with scalars, and in turn each list of few numbers, as compile-time numbers.
    fn with_sizes_looked_at(&mut self, name: &str, mut args: Vec<Arg>, key: Option<&optc_ops::Array>) -> Eval<Option<Val>> {
        let mut found = false;
        for arg in &mut args {
            if matches!(&arg.value, Val::Array(a) if a.shape.is_empty() && a.dtype != DType::Bool) {
                arg.value = self.compile_time(&arg.value, arg.span)?;
                found = true;
            }
        }
        if found && let Ok(value) = optc_ops::call(&mut self.cx, name, &args, key) {
            return Ok(Some(value));
        }
        for k in 0..args.len() {
            let small = |a: &optc_ops::Array| a.shape.len() == 1 && a.shape[0].known().is_some_and(|n| n <= 8) && a.dtype.is_int();
            if matches!(&args[k].value, Val::Array(a) if small(a)) {
                let listed = self.compile_time(&args[k].value, args[k].span)?;
                let kept = std::mem::replace(&mut args[k].value, listed);
                if let Ok(value) = optc_ops::call(&mut self.cx, name, &args, key) {
                    return Ok(Some(value));
                }
                args[k].value = kept;
            }
        }
        Ok(None)
    }
    /// A scalar or short list of integers the script computed, as compile-time numbers: symbols while checking.
    fn compile_time(&mut self, value: &Val, span: Span) -> Eval<Val> {
        let Val::Array(a) = value else { return Ok(value.clone()) };
        let numbers: Vec<Option<f64>> = if self.checking() {
            vec![None; a.shape.first().and_then(optc_ops::Dim::known).unwrap_or(1) as usize]
        } else if self.cx.bottom_node(a).is_some() {
            let tensor = self.force(a, span)?;
            (0..tensor.len()).map(|i| Some(tensor.get_f64(i))).collect()
        } else {
            return Ok(value.clone());
        };
        let mut out = Vec::new();
        for x in numbers {
            out.push(match x {
                Some(x) if x.fract() == 0.0 => Val::Int((x as i64).into()),
                Some(x) => Val::Float(Some(x)),
                None => Val::Int(self.cx.fresh_symbol("?")),
            });
        }
        Ok(if a.shape.is_empty() { out.pop().unwrap_or(Val::Unknown) } else { Val::List(out) })
    }
    /// A draw without a shape takes that of the parameter it initializes, and its element type.
    fn draw_defaults(&mut self, name: &str, args: &mut Vec<Arg>, span: Span) {
        let Some((shape, dtype)) = self.draw_shape.clone() else { return };
        let params = optc_ops::parameters(name).unwrap_or_default();
        let shaped = params.first() == Some(&"shape") && !matches!(name, "random.categorical" | "random.choice");
        if !shaped || args.iter().any(|a| a.name.as_deref() == Some("shape") || (a.name.is_none() && !matches!(a.value, Val::DType(_)))) {
            return;
        }
        args.insert(0, Arg { name: None, value: Val::List(shape.into_iter().map(Val::Int).collect()), span });
        let typed = params.contains(&"dtype") && args.iter().all(|a| !matches!(a.value, Val::DType(_)));
        if typed && dtype.is_float() && !matches!(name, "random.integer" | "random.bernoulli") {
            args.push(Arg { name: Some(Arc::from("dtype")), value: Val::DType(dtype), span });
        }
    }
    /// `name matches "*.bias"`
    fn matches(&mut self, a: &Value, b: &Value, span: Span) -> Eval {
        match (a, b) {
            (Value::Str(name), Value::Str(pattern)) => Ok(Value::Bool(Some(glob(pattern, name)))),
            _ => self.fail(
                Diagnostic::error(Code("E0348"), span, "`matches` compares a string with a pattern").help("`name matches \"*.bias\"`"),
            ),
        }
    }
}

/// In the script a scalar integer that was computed takes the type it meets, as one that is known does: it counts, and is no element of data.
pub(crate) fn counted(value: Val) -> Val {
    match value {
        Val::Array(a) if a.shape.is_empty() && a.dtype.is_int() => Val::Array(optc_ops::Array { weak: true, ..a }),
        other => other,
    }
}

const ELEMENTWISE: &[&str] =
    &["abs", "sqrt", "rsqrt", "exp", "log", "sign", "zeros_like", "tanh", "sigmoid", "relu", "is_finite", "is_nan"];

/// Whether a name fits a pattern in which `*` stands for any text.
pub fn glob(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let (first, last) = (parts[0], parts[parts.len() - 1]);
    if parts.len() == 1 {
        return pattern == name;
    }
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    for part in &parts[1..parts.len() - 1] {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn patterns_match_whole_names() {
        assert!(glob("*.bias", "net.linear.0.bias"));
        assert!(glob("block.*", "block.2.w"));
        assert!(glob("*.norm.*", "a.norm.scale"));
        assert!(glob("w", "w"));
        assert!(!glob("w", "ww"));
        assert!(!glob("*.bias", "bias"));
        assert!(!glob("a*a", "a"));
    }
}
