//! Trees: nestings of tuples, lists and records whose leaves are arrays.

use crate::evaluator::{Eval, Evaluator};
use crate::value::{CallArg, Value};
use indexmap::IndexMap;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::BinaryOp;
use optc_ops::{Array, Val};
use std::rc::Rc;
use std::sync::Arc;

/// Whether a value is a number, an array, or a nesting of lists of such that is an array where one is wanted.
pub fn is_arrayish(value: &Value) -> bool {
    match value {
        Value::Array(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Unknown => true,
        Value::List(items) => list_depth(value).is_some() && !items.is_empty(),
        _ => false,
    }
}

/// Nesting depth of lists of scalars, if the nesting is regular.
fn list_depth(value: &Value) -> Option<(usize, usize)> {
    match value {
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => Some((0, 1)),
        Value::Array(a) if a.shape.is_empty() => Some((0, 1)),
        Value::List(items) => {
            let first = list_depth(items.first()?)?;
            items.iter().all(|i| list_depth(i) == Some(first)).then_some((first.0 + 1, first.1 * 31 + items.len()))
        }
        _ => None,
    }
}

fn join(path: &str, part: &str) -> String {
    if path.is_empty() { part.to_string() } else { format!("{path}.{part}") }
}

/// Leaves with their paths, in order. Values that are no trees are skipped.
pub fn leaves(value: &Value) -> Vec<(Arc<str>, Value)> {
    fn walk(value: &Value, path: String, out: &mut Vec<(Arc<str>, Value)>) {
        match value {
            _ if is_arrayish(value) => out.push((Arc::from(path), value.clone())),
            Value::Tuple(items) | Value::List(items) => {
                items.iter().enumerate().for_each(|(i, v)| walk(v, join(&path, &i.to_string()), out));
            }
            Value::Record(fields) => fields.iter().for_each(|(n, v)| walk(v, join(&path, n), out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(value, String::new(), &mut out);
    out
}

/// The tree with its leaves replaced, in order; missing ones become unknown.
pub fn rebuild(value: &Value, leaves: &mut dyn Iterator<Item = Value>) -> Value {
    match value {
        _ if is_arrayish(value) => leaves.next().unwrap_or(Value::Unknown),
        Value::Tuple(items) => Value::Tuple(Rc::new(items.iter().map(|v| rebuild(v, leaves)).collect())),
        Value::List(items) => Value::List(Rc::new(items.iter().map(|v| rebuild(v, leaves)).collect())),
        Value::Record(fields) => Value::Record(Rc::new(fields.iter().map(|(n, v)| (n.clone(), rebuild(v, leaves))).collect())),
        other => other.clone(),
    }
}

/// The tree with another value at a path (`a.0.b`); `None` if there is nothing at it.
pub fn with_leaf(tree: &Value, path: &str, new: &Value) -> Option<Value> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
    let changed = |old: &Value| match rest {
        None => Some(new.clone()),
        Some(rest) => with_leaf(old, rest, new),
    };
    match tree {
        Value::Record(fields) => {
            let mut fields = (**fields).clone();
            let old = fields.get_mut(first)?;
            *old = changed(old)?;
            Some(Value::Record(Rc::new(fields)))
        }
        Value::List(items) | Value::Tuple(items) => {
            let mut items = (**items).clone();
            let old = items.get_mut(first.parse::<usize>().ok()?)?;
            *old = changed(old)?;
            let items = Rc::new(items);
            Some(if matches!(tree, Value::List(_)) { Value::List(items) } else { Value::Tuple(items) })
        }
        _ => None,
    }
}

/// Whether a value is a tree of more than one array, or of none.
pub fn is_branch(value: &Value) -> bool {
    !is_arrayish(value) && matches!(value, Value::Tuple(_) | Value::List(_) | Value::Record(_))
}

impl Evaluator<'_> {
    /// Array leaves of a tree with their paths; a number is a leaf too.
    ///
    /// # Errors
    /// A value that is no tree.
    pub fn tree_leaves(&mut self, value: &Value, span: Span) -> Eval<Vec<(Arc<str>, Value)>> {
        if is_arrayish(value) || matches!(value, Value::Tuple(_) | Value::List(_) | Value::Record(_) | Value::None) {
            return Ok(leaves(value));
        }
        let what = describe(value);
        self.fail(Diagnostic::error(Code("E0333"), span, format!("a tree of arrays is wanted, this is {what}")))
    }
    /// A tree of the same structure with other leaves, in order.
    pub fn rebuild_tree(&self, value: &Value, new: &mut dyn Iterator<Item = Value>) -> Value {
        rebuild(value, new)
    }
    /// A tree of the same structure whose leaves `f` makes from the old ones.
    ///
    /// # Errors
    /// What `f` reports.
    pub fn map_tree(&mut self, value: &Value, span: Span, f: &mut dyn FnMut(&mut Self, &str, &Value) -> Eval) -> Eval {
        let _ = span;
        let mut new = Vec::new();
        for (path, leaf) in leaves(value) {
            new.push(f(self, &path, &leaf)?);
        }
        Ok(rebuild(value, &mut new.into_iter()))
    }
    /// A tree whose leaves `f` makes from the leaves of several trees of one structure; a single array meets every leaf.
    ///
    /// # Errors
    /// Structures that differ; what `f` reports.
    pub fn zip_trees(&mut self, trees: &[Value], span: Span, f: &mut dyn FnMut(&mut Self, &[Value]) -> Eval) -> Eval {
        let Some(model) = trees.iter().find(|t| is_branch(t)) else { return f(self, trees) };
        let model = model.clone();
        let mut parts: Vec<Vec<Value>> = Vec::new();
        for tree in trees {
            if !is_branch(tree) {
                parts.push(vec![tree.clone()]);
                continue;
            }
            if !same_structure(&model, tree) {
                return self.fail(
                    Diagnostic::error(Code("E0347"), span, "these trees have different structures")
                        .note(format!("one is {}", describe(&model)))
                        .note(format!("the other is {}", describe(tree))),
                );
            }
            parts.push(leaves(&ordered_like(&model, tree)).into_iter().map(|(_, v)| v).collect());
        }
        let count = leaves(&model).len();
        let mut new = Vec::with_capacity(count);
        for i in 0..count {
            let row: Vec<Value> = parts.iter().zip(trees).map(|(p, t)| if is_branch(t) { p[i].clone() } else { p[0].clone() }).collect();
            new.push(f(self, &row)?);
        }
        Ok(rebuild(&model, &mut new.into_iter()))
    }
    /// `tree.name(args)`.
    pub(crate) fn tree_call(&mut self, name: &str, args: Vec<CallArg>, span: Span) -> Eval {
        let values: Vec<Value> = args.iter().map(|a| a.value.clone()).collect();
        if values.iter().any(|v| matches!(v, Value::Unknown)) {
            return Ok(Value::Unknown);
        }
        let want = match name {
            "map" => 2,
            "dot" | "equal" | "unravel" => 2,
            _ => 1,
        };
        if values.len() < want {
            return self.fail(Diagnostic::error(
                Code("E0331"),
                span,
                format!("`tree.{name}` needs {want} arguments, {} given", values.len()),
            ));
        }
        match name {
            "map" => {
                let f = values[0].clone();
                // Draws depend on the leaf as on the index of a loop.
                let mut leaf = 0i64;
                self.zip_trees(&values[1..], span, &mut |ev, row| {
                    let args = row.iter().map(|v| CallArg { name: None, value: v.clone(), span }).collect();
                    ev.counters.push(Value::Int(leaf.into()));
                    leaf += 1;
                    let result = ev.apply(&f, args, span);
                    ev.counters.pop();
                    result
                })
            }
            "sum" | "mean" | "max" | "min" | "all" | "any" | "norm" | "count" => self.tree_combine(name, &values[0], span),
            "dot" => {
                let products = self.arithmetic(BinaryOp::Mul, values[0].clone(), values[1].clone(), span)?;
                self.tree_combine("sum_all", &products, span)
            }
            "equal" => {
                if !same_structure(&values[0], &values[1]) {
                    return Ok(Value::Bool(Some(false)));
                }
                let pairs = leaves(&values[0]).into_iter().zip(leaves(&ordered_like(&values[0], &values[1])));
                let mut all = Value::Bool(Some(true));
                for ((_, a), (_, b)) in pairs {
                    if let (Value::Array(x), Value::Array(y)) = (&a, &b)
                        && (x.dtype != y.dtype
                            || x.shape.len() != y.shape.len()
                            || x.shape.iter().zip(&y.shape).any(|(p, q)| p.provably_different(q)))
                    {
                        return Ok(Value::Bool(Some(false)));
                    }
                    let same = self.same_bits(a, b, span)?;
                    all = self.arithmetic(BinaryOp::And, all, same, span)?;
                }
                Ok(all)
            }
            "ravel" => {
                let mut flat = Vec::new();
                for (_, leaf) in leaves(&values[0]) {
                    flat.push(self.call_op("reshape", vec![leaf, Value::Int((-1i64).into())], span)?);
                }
                self.call_op("concat", vec![Value::List(Rc::new(flat))], span)
            }
            "unravel" => {
                let mut at = optc_ops::Dim::zero();
                let vector = values[0].clone();
                let mut wanted = optc_ops::Dim::zero();
                for (_, leaf) in leaves(&values[1]) {
                    let like = self.array_of(&leaf, span)?;
                    wanted = wanted.add(&optc_ops::Dim::product(&like.shape));
                }
                let given = self.array_of(&vector, args[0].span)?;
                if given.shape.len() != 1 || given.shape[0].provably_different(&wanted) {
                    let message = format!("`tree.unravel` needs a vector of as many elements as the tree has, {wanted}");
                    let d = Diagnostic::error(Code("E0406"), args[0].span, message).at(format!("this is {}", array_type(&given)));
                    return self.fail(d.help("`tree.ravel(t)` makes the vector of a tree, `tree.unravel(v, t)` is its inverse"));
                }
                let mut new = Vec::new();
                for (_, leaf) in leaves(&values[1]) {
                    let like = self.array_of(&leaf, span)?;
                    let next = at.add(&optc_ops::Dim::product(&like.shape));
                    let part = self.slice_first(&vector, at, next.clone(), span)?;
                    at = next;
                    let mut args = vec![part];
                    args.push(Value::List(Rc::new(like.shape.iter().cloned().map(Value::Int).collect())));
                    new.push(self.call_op("reshape", args, span)?);
                }
                Ok(rebuild(&values[1], &mut new.into_iter()))
            }
            _ => self.fail(
                Diagnostic::error(Code("E0220"), span, format!("there is no `tree.{name}`"))
                    .help("tree has map, sum, mean, max, min, all, any, count, norm, dot, equal, ravel and unravel"),
            ),
        }
    }
    fn same_bits(&mut self, a: Value, b: Value, span: Span) -> Eval {
        let mut bits = Vec::new();
        for v in [a, b] {
            let array = self.array_of(&v, span)?;
            let int = match (array.dtype.is_float(), array.dtype.size()) {
                (true, 4) => Some(optc_abi::DType::U32),
                (true, 8) => Some(optc_abi::DType::I64),
                _ => None,
            };
            bits.push(match int {
                Some(dtype) => self.call_op("bitcast", vec![Value::Array(array), Value::DType(dtype)], span)?,
                None => Value::Array(array),
            });
        }
        let b = bits.pop().unwrap_or(Value::Unknown);
        let a = bits.pop().unwrap_or(Value::Unknown);
        let same = self.arithmetic(BinaryOp::Eq, a, b, span)?;
        self.call_op("all", vec![same], span)
    }
    /// Combines an expression of the leaf over all leaves; `norm` and the internal `sum_all` reduce the leaves too.
    fn tree_combine(&mut self, name: &str, tree: &Value, span: Span) -> Eval {
        let parts: Vec<Value> = leaves(tree).into_iter().map(|(_, v)| v).collect();
        let count = parts.len();
        let mut total: Option<Value> = None;
        for leaf in parts {
            let part = match name {
                "norm" => {
                    let squares = self.arithmetic(BinaryOp::Mul, leaf.clone(), leaf, span)?;
                    self.call_op("sum", vec![squares], span)?
                }
                "sum_all" => self.call_op("sum", vec![leaf], span)?,
                "count" => self.call_op("size", vec![leaf], span)?,
                _ => leaf,
            };
            total = Some(match total {
                None => part,
                Some(sum) => match name {
                    "max" => self.call_op("maximum", vec![sum, part], span)?,
                    "min" => self.call_op("minimum", vec![sum, part], span)?,
                    "all" => self.arithmetic(BinaryOp::And, sum, part, span)?,
                    "any" => self.arithmetic(BinaryOp::Or, sum, part, span)?,
                    _ => self.arithmetic(BinaryOp::Add, sum, part, span)?,
                },
            });
        }
        let total = total.unwrap_or(Value::Float(Some(0.0)));
        match name {
            "norm" => self.call_op("sqrt", vec![total], span),
            "mean" => self.arithmetic(BinaryOp::Div, total, Value::Int(count.into()), span),
            _ => Ok(total),
        }
    }
    /// Part `from..to` of the first axis.
    pub(crate) fn slice_first(&mut self, value: &Value, from: optc_ops::Dim, to: optc_ops::Dim, span: Span) -> Eval {
        let base = self.val_of(value, span)?;
        let ix = optc_ops::Ix::Slice { start: Some(Val::Int(from)), stop: Some(Val::Int(to)), step: None, length: None, span };
        let result = optc_ops::index(&mut self.cx, &base, &[ix]);
        self.lift(result, span).map(Value::from_val)
    }
    /// The value as a run-time array that is not weak.
    ///
    /// # Errors
    /// A value that is no array.
    pub fn array_of(&mut self, value: &Value, span: Span) -> Eval<Array> {
        let val = self.val_of(value, span)?;
        self.cx.at(span);
        let result = optc_ops::materialize(&mut self.cx, &val, None);
        self.lift(result, span)
    }
    /// The value with series as the arrays they are.
    fn without_series(&mut self, value: &Value) -> Value {
        match value {
            Value::Series(s) => Value::Array(self.series_array(s)),
            Value::List(items) => Value::List(Rc::new(items.iter().map(|v| self.without_series(v)).collect())),
            Value::Tuple(items) => Value::Tuple(Rc::new(items.iter().map(|v| self.without_series(v)).collect())),
            other => other.clone(),
        }
    }
    /// What operations see of a value; schedules are read at the step in scope.
    pub(crate) fn val_of(&mut self, value: &Value, span: Span) -> Eval<Val> {
        if let Value::Schedule(_) = value {
            let now = self.schedule_now(value, span)?;
            if !matches!(now, Value::Schedule(_)) {
                return self.val_of(&now, span);
            }
        }
        if let Value::Series(series) = value {
            return Ok(Val::Array(self.series_array(series)));
        }
        match value.to_val() {
            Some(val) => Ok(val),
            None if holds_series(value) => {
                let plain = self.without_series(value);
                self.val_of(&plain, span)
            }
            None => {
                let what = describe(value);
                self.fail(Diagnostic::error(Code("E0333"), span, format!("{what} is used where an array is wanted")).at("not an array"))
            }
        }
    }
}

/// Whether a list or tuple holds series.
fn holds_series(value: &Value) -> bool {
    match value {
        Value::List(items) | Value::Tuple(items) => items.iter().any(|v| matches!(v, Value::Series(_)) || holds_series(v)),
        _ => false,
    }
}

/// A tree with the fields of its records in the order in which another one of the same structure has them.
pub(crate) fn ordered_like(model: &Value, tree: &Value) -> Value {
    let numbers = |n: usize| (0..n).map(|i| Arc::from(i.to_string())).collect::<Vec<Arc<str>>>();
    let (names, parts): (Vec<Arc<str>>, Vec<Value>) = match model {
        _ if is_arrayish(model) || is_arrayish(tree) => return tree.clone(),
        Value::Record(fields) => (fields.keys().cloned().collect(), fields.values().cloned().collect()),
        Value::Tuple(items) | Value::List(items) => (numbers(items.len()), items.to_vec()),
        _ => return tree.clone(),
    };
    match tree {
        Value::Record(fields) => {
            let own = names.into_iter().zip(&parts).filter_map(|(n, m)| fields.get(&n).map(|v| (n.clone(), ordered_like(m, v))));
            Value::Record(Rc::new(own.collect()))
        }
        Value::Tuple(items) | Value::List(items) => {
            let at = |n: &Arc<str>| items.get(n.parse::<usize>().ok()?);
            let own = names.iter().zip(&parts).filter_map(|(n, m)| at(n).map(|v| ordered_like(m, v))).collect();
            if matches!(tree, Value::Tuple(_)) { Value::Tuple(Rc::new(own)) } else { Value::List(Rc::new(own)) }
        }
        other => other.clone(),
    }
}

/// Whether two values are trees of one structure. Records with fields 0, 1, … (numbered layers) are lists.
pub fn same_structure(a: &Value, b: &Value) -> bool {
    match (a, b) {
        _ if is_arrayish(a) && is_arrayish(b) => true,
        (Value::Tuple(x), Value::Tuple(y)) | (Value::List(x), Value::List(y)) => {
            x.len() == y.len() && x.iter().zip(y.iter()).all(|(p, q)| same_structure(p, q))
        }
        (Value::Record(x), Value::Record(y)) => x.len() == y.len() && x.iter().all(|(n, p)| y.get(n).is_some_and(|q| same_structure(p, q))),
        (Value::Tuple(x) | Value::List(x), Value::Record(y)) | (Value::Record(y), Value::Tuple(x) | Value::List(x)) => {
            x.len() == y.len() && x.iter().enumerate().all(|(i, p)| y.get(i.to_string().as_str()).is_some_and(|q| same_structure(p, q)))
        }
        (Value::None, Value::None) => true,
        (Value::Unknown, _) | (_, Value::Unknown) => true,
        _ => false,
    }
}

/// A record from paths and values: `a.b` becomes a record in a record.
pub fn nest(leaves: &[(Arc<str>, Value)]) -> Value {
    let mut groups: IndexMap<Arc<str>, Vec<(Arc<str>, Value)>> = IndexMap::new();
    let mut fields: IndexMap<Arc<str>, Value> = IndexMap::new();
    for (path, value) in leaves {
        match path.split_once('.') {
            Some((head, rest)) => {
                let head: Arc<str> = Arc::from(head);
                fields.entry(head.clone()).or_insert(Value::Unknown);
                groups.entry(head).or_default().push((Arc::from(rest), value.clone()));
            }
            None => {
                fields.insert(path.clone(), value.clone());
            }
        }
    }
    for (head, inner) in groups {
        fields.insert(head, nest(&inner));
    }
    Value::Record(Rc::new(fields))
}

/// A value in words, for messages.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Array(a) => array_type(a),
        Value::Int(d) => match d.known() {
            Some(n) => format!("the integer {n}"),
            None => "an integer".into(),
        },
        Value::Float(_) => "a number".into(),
        Value::Bool(_) => "a flag".into(),
        Value::Str(_) => "a string".into(),
        Value::DType(d) => format!("the element type {d}"),
        Value::Quantized(_) => "a block-quantized storage type".into(),
        Value::None => "none".into(),
        Value::Range { .. } | Value::RunRange(..) => "a range".into(),
        Value::Tuple(items) => format!("({})", items.iter().map(describe).collect::<Vec<_>>().join(", ")),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Record(fields) => {
            format!("{{ {} }}", fields.iter().map(|(n, v)| format!("{n}: {}", describe(v))).collect::<Vec<_>>().join(", "))
        }
        Value::Fn(_) => "a function".into(),
        Value::Model(_) => "a model".into(),
        Value::Optimizer(_) => "an optimizer".into(),
        Value::Schedule(_) => "a schedule".into(),
        Value::Data(_) => "a data set".into(),
        Value::Block(_) => "a data or train block".into(),
        Value::Run(_) => "a finished run".into(),
        Value::Series(_) => "a series".into(),
        Value::Module(_) => "a module".into(),
        Value::Unknown => "a value".into(),
    }
}

/// The type of an array as it is written.
pub fn array_type(a: &Array) -> String {
    if a.shape.is_empty() { a.dtype.to_string() } else { format!("{}{}", a.dtype, shape_text(&a.shape)) }
}

/// A shape as it is written.
pub fn shape_text(shape: &[optc_ops::Dim]) -> String {
    format!("[{}]", shape.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(", "))
}
