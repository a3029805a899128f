//! Expressions.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::tree::describe;
use crate::value::{FnValue, Value};
use indexmap::IndexMap;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{self, BinaryOp, ElemType, Expr, ExprKind, IndexItem, LetKind, Name};
use optc_ops::{Ix, Val};
use std::rc::Rc;
use std::sync::Arc;

impl Evaluator<'_> {
    /// The value of an expression.
    ///
    /// # Errors
    /// Mistakes are recorded.
    pub fn expr(&mut self, scope: &mut Scope, e: &Expr) -> Eval {
        self.guard(e.span)?;
        match &e.kind {
            ExprKind::Int(n) => Ok(Value::Int((*n).into())),
            ExprKind::Float(x) | ExprKind::Quantity(x, _) => Ok(Value::Float(Some(*x))),
            ExprKind::Bool(b) => Ok(Value::Bool(Some(*b))),
            ExprKind::None => Ok(Value::None),
            ExprKind::Str(parts) => self.string(scope, parts, e.span),
            ExprKind::Name(name) => self.name(scope, name, e.span),
            ExprKind::DType(elem) => self.elem_type(scope, elem, e.span).map(|d| d.map_or(Value::Unknown, Value::DType)),
            ExprKind::Tuple(items) => Ok(Value::Tuple(Rc::new(self.exprs(scope, items)?))),
            ExprKind::List(items) => {
                let values = self.exprs(scope, items)?;
                let rows = items.iter().all(|i| matches!(i.kind, ExprKind::List(_)));
                self.list(values, rows, e.span)
            }
            ExprKind::Comprehension { element, clauses } => self.comprehension(scope, element, clauses, e.span),
            ExprKind::Record(fields) => {
                let mut record: IndexMap<Arc<str>, Value> = IndexMap::new();
                for (key, value) in fields {
                    let name: Vec<&str> = key.iter().map(|n| &*n.text).collect();
                    let value = self.expr(scope, value)?;
                    record.insert(Arc::from(name.join(".")), value);
                }
                Ok(Value::Record(Rc::new(record)))
            }
            ExprKind::Groups(groups) => self.groups(scope, groups, e.span),
            ExprKind::Block(b) => self.block(scope, b),
            ExprKind::Lambda(lambda) => Ok(Value::Fn(Rc::new(FnValue::Lambda { lambda: lambda.clone(), scope: scope.clone() }))),
            ExprKind::Unary(op, a) => {
                let value = self.expr(scope, a)?;
                self.prefix(*op, value, e.span)
            }
            ExprKind::Binary(..) | ExprKind::Pipe(..) | ExprKind::Range(..) => self.chain(scope, e),
            ExprKind::Call { .. } => self.call(scope, e, None, None),
            ExprKind::Index { base, items } => {
                let value = self.expr(scope, base)?;
                let items = self.index_items(scope, items)?;
                self.index(&value, items, e.span)
            }
            ExprKind::Reduction { op, indices, body } => self.reduction(scope, op, indices, body, e.span),
            ExprKind::Field(base, name) => self.field_expr(scope, base, name, e.span),
            ExprKind::Cast(a, elem) => {
                let value = self.expr(scope, a)?;
                match self.elem_type(scope, elem, e.span)? {
                    Some(dtype) => self.cast(&value, dtype, e.span),
                    None => Ok(Value::Unknown),
                }
            }
            ExprKind::NameCall(a, name) => self.call(scope, a, Some(name), None),
            ExprKind::If { cond, then, otherwise } => match self.lifted_branch(e) {
                Some(value) => Ok(value),
                None => self.if_expr(scope, cond, then, otherwise.as_ref(), e.span),
            },
            ExprKind::For(l) => self.for_expr(scope, l, e.span),
            ExprKind::While { cond, at_most, body } => self.while_expr(scope, cond, at_most.as_deref(), body, e.span),
            ExprKind::With { settings, body } => self.with(scope, settings, body),
            ExprKind::Time(body) => self.time(scope, body, e.span),
            ExprKind::Run { target, overrides } => self.run_expr(scope, target, overrides.as_deref(), e.span),
            // The parser has reported it.
            ExprKind::Error => Err(crate::evaluator::Stop::Reported),
        }
    }
    /// A chain of left-associative operators, `a + b - c |> f`: from left to right, without recursion, because such chains may be long.
    fn chain(&mut self, scope: &mut Scope, e: &Expr) -> Eval {
        let mut links: Vec<&Expr> = Vec::new();
        let mut first = e;
        while let ExprKind::Binary(_, a, _) | ExprKind::Pipe(a, _) | ExprKind::Range(a, _) = &first.kind {
            links.push(first);
            first = a;
        }
        let mut left = self.expr(scope, first)?;
        let mut at = first.span;
        for link in links.into_iter().rev() {
            left = match &link.kind {
                ExprKind::Binary(op, _, b) => self.link(scope, *op, left, b, link.span)?,
                ExprKind::Pipe(_, f) => self.pipe(scope, left, at, f)?,
                ExprKind::Range(_, b) => {
                    let stop = self.expr(scope, b)?;
                    self.range(left, stop, link.span)?
                }
                other => panic!("compiler bug: {other:?} is no operator"),
            };
            at = link.span;
        }
        Ok(left)
    }
    /// `left op right`, the left side evaluated.
    fn link(&mut self, scope: &mut Scope, op: BinaryOp, left: Value, right: &Expr, span: Span) -> Eval {
        // Compile-time flags short-circuit: the right side may not even make sense.
        match (&left, op) {
            (Value::Bool(Some(false)), BinaryOp::And) | (Value::Bool(Some(true)), BinaryOp::Or) => return Ok(left),
            _ => {}
        }
        let right = self.expr(scope, right)?;
        let logical = matches!(op, BinaryOp::And | BinaryOp::Or);
        if logical && matches!(left, Value::Bool(Some(_))) && matches!(right, Value::Bool(_)) {
            return Ok(right);
        }
        self.arithmetic(op, left, right, span)
    }
    pub(crate) fn exprs(&mut self, scope: &mut Scope, items: &[Expr]) -> Eval<Vec<Value>> {
        items.iter().map(|e| self.expr(scope, e)).collect()
    }
    /// A list literal: an array where its elements are scalars of one type, or (with `rows`) were written as such lists. Arrays computed elsewhere stay a list.
    pub(crate) fn list(&mut self, values: Vec<Value>, rows: bool, span: Span) -> Eval {
        let numbers = values.iter().all(|v| match v {
            Value::Array(a) => a.shape.is_empty(),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => true,
            Value::List(_) => crate::tree::is_arrayish(v),
            _ => false,
        });
        let nested = rows && values.iter().all(|v| matches!(v, Value::Array(_)) || crate::tree::is_arrayish(v));
        if values.is_empty() || !(numbers || nested) || values.iter().any(|v| matches!(v, Value::Unknown)) {
            return Ok(Value::List(Rc::new(values)));
        }
        let vals: Vec<Val> = values.iter().filter_map(Value::to_val).collect();
        self.cx.at(span);
        let result = optc_ops::array_literal(&mut self.cx, &vals, rows);
        self.lift(result, span).map(Value::from_val)
    }
    /// `a..b`
    pub(crate) fn range(&mut self, start: Value, stop: Value, span: Span) -> Eval {
        let (start, stop) = (self.looked_at(start, span)?, self.looked_at(stop, span)?);
        match (start, stop) {
            (Value::Int(start), Value::Int(stop)) => Ok(Value::Range { start, stop, reverse: false }),
            (Value::Unknown, _) | (_, Value::Unknown) => {
                Ok(Value::Range { start: 0i64.into(), stop: self.cx.fresh_symbol("?"), reverse: false })
            }
            (start, stop) => {
                let mut ends = Vec::new();
                for end in [start, stop] {
                    let a = self.array_of(&end, span)?;
                    if !a.dtype.is_int() || !a.shape.is_empty() {
                        return self.fail(
                            Diagnostic::error(Code("E0346"), span, "the ends of a range are integers")
                                .note(format!("this one is {}", crate::tree::array_type(&a))),
                        );
                    }
                    ends.push(a);
                }
                let stop = ends.pop().expect("two ends");
                let start = ends.pop().expect("two ends");
                Ok(Value::RunRange(start, stop, false))
            }
        }
    }
    /// In the script a scalar array that steers (a bound, a list index) is looked at; elsewhere the value itself.
    pub(crate) fn looked_at(&mut self, value: Value, span: Span) -> Eval {
        match &value {
            Value::Array(a) if self.in_script && self.checking() && a.shape.is_empty() => Ok(match a.dtype {
                optc_abi::DType::Bool => Value::Bool(None),
                d if d.is_int() => Value::Int(self.cx.fresh_symbol("?")),
                _ => Value::Float(None),
            }),
            Value::Array(a) if self.may_look() && a.shape.is_empty() => {
                let tensor = self.force(a, span)?;
                let x = tensor.get_f64(0);
                Ok(match a.dtype {
                    optc_abi::DType::Bool => Value::Bool(Some(x != 0.0)),
                    d if d.is_int() => Value::Int((x as i64).into()),
                    _ => Value::Float(Some(x)),
                })
            }
            _ => Ok(value),
        }
    }
    /// The elements of a vector as numbers the script knows; unknown while checking.
    pub(crate) fn elements(&mut self, array: &optc_ops::Array, span: Span) -> Eval {
        if self.checking() {
            return Ok(Value::Unknown);
        }
        let tensor = self.force(array, span)?;
        let number = |x: f64| match tensor.dtype {
            optc_abi::DType::Bool => Value::Bool(Some(x != 0.0)),
            d if d.is_int() => Value::Int((x as i64).into()),
            _ => Value::Float(Some(x)),
        };
        Ok(Value::List(Rc::new(tensor.to_f64().into_iter().map(number).collect())))
    }
    /// The element type written, `None` if it is not known while checking.
    pub(crate) fn elem_type(&mut self, scope: &Scope, elem: &ElemType, span: Span) -> Eval<Option<optc_abi::DType>> {
        match elem {
            ElemType::Concrete(d) => Ok(Some(self.cx.written(*d))),
            ElemType::Float => match scope.get("float").map(|b| b.value.clone()) {
                Some(Value::DType(d)) => Ok(Some(d)),
                Some(_) => Ok(None),
                None => Ok(Some(self.cx.float)),
            },
            ElemType::Named(name) => match self.name(scope, &name.text, name.span)? {
                Value::DType(d) => Ok(Some(d)),
                Value::Unknown => Ok(None),
                other => self.fail(Diagnostic::error(
                    Code("E0351"),
                    name.span,
                    format!("`{}` is {}, not an element type", name.text, describe(&other)),
                )),
            },
            ElemType::Quantized(_) => self.fail(
                Diagnostic::error(Code("E0351"), span, "only states of optimizers are block-quantized")
                    .help("`state m: q8(block = 256)[...] = 0` in the body of an optimizer; elsewhere use `bf16` or `f16`"),
            ),
        }
    }
    /// Items in index brackets.
    pub(crate) fn index_items(&mut self, scope: &mut Scope, items: &[IndexItem]) -> Eval<Vec<Ix>> {
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            out.push(match item {
                IndexItem::At(e) => {
                    let value = self.expr(scope, e)?;
                    if let Value::Range { start, stop, reverse: false } = value {
                        Ix::Slice { start: Some(Val::Int(start)), stop: Some(Val::Int(stop)), step: None, length: None, span: e.span }
                    } else {
                        Ix::At(self.val_of(&value, e.span)?, e.span)
                    }
                }
                IndexItem::Slice { start, stop, step, span } => {
                    let mut part = |ev: &mut Self, e: &Option<Expr>| -> Eval<Option<Val>> {
                        let Some(e) = e else { return Ok(None) };
                        let value = ev.expr(scope, e)?;
                        if matches!(value, Value::None) {
                            return Ok(None);
                        }
                        let value = ev.looked_at(value, e.span)?;
                        ev.val_of(&value, e.span).map(Some)
                    };
                    let (from, to, by) = (part(self, start)?, part(self, stop)?, part(self, step)?);
                    let length = match (&from, start, stop) {
                        (Some(Val::Array(_)), Some(a), Some(b)) => self.span_length(scope, a, b)?,
                        _ => None,
                    };
                    if length.is_none() && matches!((&from, &to), (Some(Val::Array(_)), _) | (_, Some(Val::Array(_)))) {
                        return self.fail(
                            Diagnostic::error(Code("E0344"), *span, "the length of this slice is not known at compile time")
                                .help("write `x[a : a + L]` with a compile-time `L`, or `x[0 : n]` with a compile-time `n`"),
                        );
                    }
                    Ix::Slice { start: from, stop: to, step: by, length, span: *span }
                }
                IndexItem::Ellipsis(span) => Ix::Ellipsis(*span),
                IndexItem::NewAxis(span) => Ix::NewAxis(*span),
            });
        }
        Ok(out)
    }
    /// `stop - start` of `x[a : a + L]`: the stop is written as the start plus a compile-time number.
    fn span_length(&mut self, scope: &mut Scope, start: &Expr, stop: &Expr) -> Eval<Option<optc_ops::Dim>> {
        let (mut terms, mut minus) = (Vec::new(), Vec::new());
        fn flatten<'e>(e: &'e Expr, positive: bool, plus: &mut Vec<&'e Expr>, minus: &mut Vec<&'e Expr>) {
            match &e.kind {
                ExprKind::Binary(BinaryOp::Add, a, b) => {
                    flatten(a, positive, plus, minus);
                    flatten(b, positive, plus, minus);
                }
                ExprKind::Binary(BinaryOp::Sub, a, b) => {
                    flatten(a, positive, plus, minus);
                    flatten(b, !positive, plus, minus);
                }
                _ if positive => plus.push(e),
                _ => minus.push(e),
            }
        }
        flatten(stop, true, &mut terms, &mut minus);
        flatten(start, false, &mut terms, &mut minus);
        // Terms that occur with both signs cancel; what is left must be compile-time.
        let mut length = optc_ops::Dim::zero();
        let mut left_minus: Vec<&Expr> = minus;
        for term in terms {
            if let Some(at) = left_minus.iter().position(|m| same_text(m, term)) {
                left_minus.remove(at);
                continue;
            }
            match self.expr(scope, term)? {
                Value::Int(d) => length = length.add(&d),
                _ => return Ok(None),
            }
        }
        for term in left_minus {
            match self.expr(scope, term)? {
                Value::Int(d) => length = length.sub(&d),
                _ => return Ok(None),
            }
        }
        Ok(Some(length))
    }
    /// `base[items]`
    pub(crate) fn index(&mut self, base: &Value, items: Vec<Ix>, span: Span) -> Eval {
        match base {
            Value::Unknown => return Ok(Value::Unknown),
            Value::List(values) | Value::Tuple(values) if !crate::tree::is_arrayish(base) || items.len() == 1 => {
                if let Some(found) = self.list_index(values, &items, matches!(base, Value::Tuple(_)), span)? {
                    return Ok(found);
                }
            }
            Value::Record(fields) if let Some(part) = numbered(fields, &items) => return Ok(part),
            Value::Fn(_) | Value::Model(_) | Value::Optimizer(_) | Value::Schedule(_) | Value::Module(_) | Value::Record(_) => {
                let what = describe(base);
                let d = Diagnostic::error(Code("E0333"), span, format!("{what} cannot be indexed"));
                return self.fail(if matches!(base, Value::Record(_)) { d.help("fields of a record are read as `r.name`") } else { d });
            }
            _ => {}
        }
        let items = match items.as_slice() {
            [Ix::At(flags @ Val::List(_), at)] if self.in_script && optc_ops::are_flags(flags) => {
                let made = optc_ops::materialize(&mut self.cx, flags, None);
                vec![Ix::At(Val::Array(self.lift(made, *at)?), *at)]
            }
            _ => items,
        };
        if let [Ix::At(Val::Array(mask), _)] = items.as_slice()
            && mask.dtype == optc_abi::DType::Bool
            && self.in_script
        {
            if self.checking() {
                let Value::Array(base) = base else { return Ok(Value::Unknown) };
                let mut shape = vec![self.cx.fresh_symbol("?")];
                shape.extend(base.shape.iter().skip(mask.shape.len()).cloned());
                return Ok(Value::Array(optc_ops::Array { shape, weak: false, ..base.clone() }));
            }
            return self.mask_index(base, mask, span);
        }
        let val = self.val_of(base, span)?;
        self.cx.at(span);
        let result = optc_ops::index(&mut self.cx, &val, &items);
        self.lift(result, span).map(Value::from_val)
    }
    /// An element or part of a list or tuple; `None` if arrays must do it.
    fn list_index(&mut self, values: &[Value], items: &[Ix], tuple: bool, span: Span) -> Eval<Option<Value>> {
        let number = |v: &Val| match v {
            Val::Int(d) => d.known(),
            _ => None,
        };
        let n = values.len() as i64;
        match items {
            [Ix::At(at, at_span)] => {
                let at = match at {
                    Val::Array(a) if self.in_script && a.shape.is_empty() => {
                        let looked = self.looked_at(Value::Array(a.clone()), *at_span)?;
                        looked.to_val().unwrap_or(Val::Unknown)
                    }
                    other => other.clone(),
                };
                match number(&at) {
                    Some(i) if (-n..n).contains(&i) => Ok(Some(values[i.rem_euclid(n) as usize].clone())),
                    Some(i) => self.fail(Diagnostic::error(Code("E0531"), *at_span, format!("index {i} is outside a list of {n}")).help(
                        if n == 0 {
                            "the list is empty".to_string()
                        } else {
                            format!("indices run from 0 to {}, or from -{n} to -1", n - 1)
                        },
                    )),
                    None if matches!(at, Val::Int(_) | Val::Unknown) => {
                        // While checking: any of them.
                        let mut joined = values.first().cloned().unwrap_or(Value::Unknown);
                        for v in values.iter().skip(1) {
                            joined = self.join(&joined, v);
                        }
                        Ok(Some(joined))
                    }
                    None if self.in_script && !crate::tree::is_arrayish(&Value::List(Rc::new(values.to_vec()))) => {
                        self.picked(values, &at, *at_span).map(Some)
                    }
                    None if tuple => self.fail(
                        Diagnostic::error(Code("E0344"), span, "a tuple is indexed by a compile-time integer")
                            .help("take it apart: `let (a, b) = …`"),
                    ),
                    None => Ok(None),
                }
            }
            [Ix::Slice { start, stop, step, .. }] => {
                let end = |v: &Option<Val>, default: i64| match v {
                    None => Some(default),
                    Some(v) => number(v).map(|i| if i < 0 { (i + n).max(0) } else { i.min(n) }),
                };
                let by = step.as_ref().map_or(Some(1), number);
                let (Some(from), Some(to), Some(by)) = (end(start, 0), end(stop, n), by) else { return Ok(Some(Value::Unknown)) };
                if by < 1 {
                    return self.error("E0531", span, "the step of a slice is at least 1");
                }
                let part: Vec<Value> = (from..to).step_by(by as usize).filter_map(|i| values.get(i as usize).cloned()).collect();
                Ok(Some(Value::List(Rc::new(part))))
            }
            _ => Ok(None),
        }
    }
    /// `xs[ids]` and `xs[mask]` of a list in the script: the elements with these numbers, or where the mask holds.
    fn picked(&mut self, values: &[Value], at: &Val, span: Span) -> Eval {
        let made = optc_ops::materialize(&mut self.cx, at, None);
        let array = self.lift(made, span)?;
        let is_bool = array.dtype == optc_abi::DType::Bool;
        if array.shape.len() != 1 || !(is_bool || array.dtype.is_int()) {
            let what = crate::tree::array_type(&array);
            return self.fail(
                Diagnostic::error(Code("E0304"), span, format!("a list is indexed by integers or a mask, not by {what}"))
                    .help("`xs[i]`, `xs[order]`, `xs[mask]`"),
            );
        }
        if self.checking() {
            return Ok(Value::Unknown);
        }
        let tensor = self.force(&array, span)?;
        if is_bool {
            if tensor.len() != values.len() {
                return self.error("E0402", span, format!("a mask of {} for a list of {}", tensor.len(), values.len()));
            }
            let kept = values.iter().enumerate().filter(|(i, _)| tensor.get_f64(*i) != 0.0).map(|(_, v)| v.clone());
            return Ok(Value::List(Rc::new(kept.collect())));
        }
        let n = values.len() as i64;
        let mut out = Vec::with_capacity(tensor.len());
        for i in tensor.to_f64() {
            let i = i as i64;
            if !(-n..n).contains(&i) {
                return self.error("E0531", span, format!("index {i} is outside a list of {n}"));
            }
            out.push(values[i.rem_euclid(n) as usize].clone());
        }
        Ok(Value::List(Rc::new(out)))
    }
    /// `x[mask]` in the script: the elements where the mask holds.
    fn mask_index(&mut self, base: &Value, mask: &optc_ops::Array, span: Span) -> Eval {
        let tensor = self.force(mask, span)?;
        let ids: Vec<i32> = (0..tensor.len()).filter(|&i| tensor.get_f64(i) != 0.0).map(|i| i as i32).collect();
        let mut base = base.clone();
        if mask.shape.len() > 1 {
            // Several axes are masked at once: flatten them first.
            let array = self.array_of(&base, span)?;
            let mut shape = vec![Value::Int((-1i64).into())];
            shape.extend(array.shape[mask.shape.len()..].iter().cloned().map(Value::Int));
            base = self.call_op("reshape", vec![base, Value::List(Rc::new(shape))], span)?;
        }
        let ids = self.literal(optc_abi::Tensor::from_slice::<i32>(&[ids.len()], &ids));
        let val = self.val_of(&base, span)?;
        let result = optc_ops::index(&mut self.cx, &val, &[Ix::At(Val::Array(ids), span)]);
        self.lift(result, span).map(Value::from_val)
    }
    /// `base.name`
    fn field_expr(&mut self, scope: &mut Scope, base: &Expr, name: &Name, span: Span) -> Eval {
        if let Some(builtin) = self.namespaced(scope, base, name) {
            return Ok(crate::names::builtin(&builtin));
        }
        let value = self.expr(scope, base)?;
        self.field(&value, name, span)
    }
    /// `random.normal`, `tree.map`: the full name, if `base` is a namespace that nothing hides.
    pub(crate) fn namespaced(&mut self, scope: &Scope, base: &Expr, name: &Name) -> Option<String> {
        let ExprKind::Name(space) = &base.kind else { return None };
        let hidden = scope.get(space).is_some() || self.program.lookup(scope.module, space).is_some();
        (matches!(&**space, "random" | "tree") && !hidden).then(|| format!("{space}.{}", name.text))
    }
    /// A field of a value.
    pub(crate) fn field(&mut self, value: &Value, name: &Name, span: Span) -> Eval {
        let field = &*name.text;
        match value {
            Value::Unknown => Ok(Value::Unknown),
            Value::Module(module) => self.module_member(*module, field, name.span),
            Value::Record(fields) => match fields.get(field) {
                Some(v) => Ok(v.clone()),
                None => {
                    let mut d = Diagnostic::error(Code("E0224"), name.span, format!("this record has no field `{field}`"))
                        .label(span, describe(value));
                    if let Some(near) = crate::names::nearest(field, fields.keys().map(|k| &**k)) {
                        d = d.help(format!("did you mean `{near}`"));
                    }
                    self.fail(d)
                }
            },
            Value::Array(_) | Value::Int(_) | Value::Float(_) if field == "T" => {
                self.call_op("swap_axes", vec![value.clone(), Value::Int((-1i64).into()), Value::Int((-2i64).into())], span)
            }
            Value::Model(model) if field == "params" => match &model.params {
                Some(tree) => Ok(tree.clone()),
                None => self.shared_params(model, span),
            },
            Value::List(items) if !items.is_empty() && items.iter().all(|v| !crate::tree::is_arrayish(v)) => {
                // A field of a list of records or runs is the list of the fields.
                let mut out = Vec::with_capacity(items.len());
                for item in items.iter() {
                    out.push(self.field(item, name, span)?);
                }
                self.list(out, false, span)
            }
            _ => {
                let found = match value {
                    Value::Array(array) => self.source_fact(array, name)?,
                    _ => self.host_field(value, name)?,
                };
                if let Some(found) = found {
                    return Ok(found);
                }
                let what = describe(value);
                let d = Diagnostic::error(Code("E0224"), name.span, format!("{what} has no field `{field}`"));
                let callable = optc_ops::is_builtin(field);
                self.fail(if callable { d.help(format!("`{field}` is a function: call it, `x.{field}()` or `{field}(x)`")) } else { d })
            }
        }
    }
    /// `time { … }`
    fn time(&mut self, scope: &mut Scope, body: &ast::Block, span: Span) -> Eval {
        let now = |ev: &mut Self| ev.host.as_mut().map_or(0.0, |h| h.now());
        let start = now(self);
        let value = self.block(scope, body)?;
        if self.may_look() {
            // What the block computes counts, not what it describes.
            self.force_tree(&value, span)?;
        }
        let seconds = now(self) - start;
        let seconds = if self.checking() { None } else { Some(seconds) };
        let mut record: IndexMap<Arc<str>, Value> = IndexMap::new();
        record.insert("value".into(), value);
        record.insert("seconds".into(), Value::Float(seconds));
        Ok(Value::Record(Rc::new(record)))
    }
    /// Binds the names of a pattern.
    ///
    /// # Errors
    /// A value that does not fit the pattern.
    pub fn bind_pattern(&mut self, scope: &mut Scope, p: &ast::Pattern, value: Value, kind: LetKind) -> Eval<()> {
        match &p.kind {
            ast::PatternKind::Name(name) => {
                self.keep_named(&value);
                scope.bind(name.clone(), value, kind, p.span);
            }
            ast::PatternKind::Ignore => {}
            ast::PatternKind::Tuple(parts) => {
                let items: Vec<Value> = match &value {
                    Value::Tuple(items) | Value::List(items) => items.to_vec(),
                    // Named results in their order: `let (q, r) = qr(a)`.
                    Value::Record(fields) => fields.values().cloned().collect(),
                    Value::Unknown => vec![Value::Unknown; parts.len()],
                    Value::Array(a) if a.shape.first().and_then(|d| d.known()) == Some(parts.len() as i64) => {
                        let mut rows = Vec::new();
                        for i in 0..parts.len() {
                            rows.push(self.index(&value, vec![Ix::At(Val::Int(i.into()), p.span)], p.span)?);
                        }
                        rows
                    }
                    other => {
                        return self.fail(
                            Diagnostic::error(
                                Code("E0335"),
                                p.span,
                                format!("this pattern takes apart a tuple of {}, but the value is {}", parts.len(), describe(other)),
                            )
                            .at(format!("{} names", parts.len())),
                        );
                    }
                };
                if items.len() != parts.len() {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0335"),
                            p.span,
                            format!("this pattern has {} parts, the value has {}", parts.len(), items.len()),
                        )
                        .at(format!("{} names for {}", parts.len(), describe(&value)))
                        .help("use `_` for parts that are not needed"),
                    );
                }
                for (part, item) in parts.iter().zip(items) {
                    self.bind_pattern(scope, part, item, kind)?;
                }
            }
            ast::PatternKind::Record(fields) => {
                for (name, part) in fields {
                    let item = match &value {
                        Value::Unknown => Value::Unknown,
                        _ => self.field(&value, name, p.span)?,
                    };
                    self.bind_pattern(scope, part, item, kind)?;
                }
            }
        }
        Ok(())
    }
}

/// A part of a tree of parameters by its number: `p.block[1]` of the layers `block.0`, `block.1`.
fn numbered(fields: &IndexMap<Arc<str>, Value>, items: &[Ix]) -> Option<Value> {
    number_of(fields, items).and_then(|name| fields.get(&name).cloned())
}

/// The name of that part.
pub(crate) fn number_of(fields: &IndexMap<Arc<str>, Value>, items: &[Ix]) -> Option<Arc<str>> {
    match items {
        [Ix::At(Val::Int(d), _)] => fields.get_key_value(d.known()?.to_string().as_str()).map(|(name, _)| name.clone()),
        _ => None,
    }
}

/// Whether two expressions are the same names, fields, indices and numbers.
fn same_text(a: &Expr, b: &Expr) -> bool {
    match (&a.kind, &b.kind) {
        (ExprKind::Name(x), ExprKind::Name(y)) => x == y,
        (ExprKind::Int(x), ExprKind::Int(y)) => x == y,
        (ExprKind::Field(x, m), ExprKind::Field(y, n)) => m.text == n.text && same_text(x, y),
        (ExprKind::Binary(p, a, b), ExprKind::Binary(q, c, d)) => p == q && same_text(a, c) && same_text(b, d),
        (ExprKind::Index { base: x, items: p }, ExprKind::Index { base: y, items: q }) => {
            same_text(x, y)
                && p.len() == q.len()
                && p.iter().zip(q).all(|(i, j)| matches!((i, j), (IndexItem::At(a), IndexItem::At(b)) if same_text(a, b)))
        }
        (ExprKind::Call { callee: f, args: p }, ExprKind::Call { callee: g, args: q }) => {
            same_text(f, g) && p.len() == q.len() && p.iter().zip(q).all(|(i, j)| i.name == j.name && same_text(&i.value, &j.value))
        }
        _ => false,
    }
}
