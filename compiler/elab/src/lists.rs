//! Lists: sorted by a function, joined, and the elements of what can be taken for a list.

use crate::evaluator::{Eval, Evaluator};
use crate::loops::Passes;
use crate::tree::{describe, is_arrayish};
use crate::value::{CallArg, Value};
use optc_base::{Code, Diagnostic, Span};
use optc_ops::{Ix, Val};
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

/// What an element is sorted by.
enum Key {
    Number(f64),
    Text(Arc<str>),
}

impl Key {
    /// NaN is the largest number; numbers come before texts.
    fn order(&self, other: &Key) -> Ordering {
        match (self, other) {
            (Key::Number(a), Key::Number(b)) => match (a.is_nan(), b.is_nan()) {
                (false, false) => a.total_cmp(b),
                (a, b) => a.cmp(&b),
            },
            (Key::Text(a), Key::Text(b)) => a.cmp(b),
            (Key::Number(_), Key::Text(_)) => Ordering::Less,
            (Key::Text(_), Key::Number(_)) => Ordering::Greater,
        }
    }
}

/// Whether a value is a list of lists, at least one of which is no array.
pub(crate) fn joins_lists(value: &Value) -> bool {
    let (Value::List(parts) | Value::Tuple(parts)) = value else { return false };
    parts.iter().any(|p| matches!(p, Value::List(_)) && !is_arrayish(p)) && parts.iter().all(is_listed)
}

fn is_listed(value: &Value) -> bool {
    match value {
        Value::List(_) | Value::Series(_) | Value::Unknown => true,
        Value::Array(a) => !a.shape.is_empty(),
        _ => false,
    }
}

impl Evaluator<'_> {
    /// The elements of a list, an array or a series; `None` while their number is not known.
    pub(crate) fn items_of(&mut self, value: &Value, span: Span) -> Eval<Option<Vec<Value>>> {
        Ok(match self.passes(value.clone(), span)? {
            Passes::Items(items) => Some(items),
            Passes::Count { start, trip, reverse } => match (start.known(), trip.known()) {
                (Some(a), Some(n)) => {
                    let mut items: Vec<Value> = (a..a + n.max(0)).map(|i| Value::Int(i.into())).collect();
                    if reverse {
                        items.reverse();
                    }
                    Some(items)
                }
                _ => None,
            },
            Passes::Rows(a) => match a.shape[0].known() {
                Some(n) if !self.checking() || n <= 64 => {
                    let array = Value::Array(a);
                    let row = |ev: &mut Self, i: i64| ev.index(&array, vec![Ix::At(Val::Int(i.into()), span)], span);
                    Some((0..n).map(|i| row(self, i)).collect::<Eval<_>>()?)
                }
                _ => None,
            },
            Passes::Bounds { .. } | Passes::While { .. } | Passes::Unknown => None,
        })
    }
    /// `concat([xs, ys])` of lists.
    pub(crate) fn join_lists(&mut self, args: &[CallArg], span: Span) -> Eval {
        let (Value::List(parts) | Value::Tuple(parts)) = &args[0].value else { return Ok(Value::Unknown) };
        if let Some(other) = args.get(1) {
            return self.error("E0332", other.span, "lists are joined along their only axis");
        }
        let filled: Vec<&Value> = parts.iter().filter(|p| !matches!(p, Value::List(items) if items.is_empty())).collect();
        if !filled.is_empty() && filled.iter().all(|p| is_arrayish(p) || matches!(p, Value::Series(_))) {
            // Beside empty lists there are arrays alone.
            let arrays = Value::List(Rc::new(filled.into_iter().cloned().collect()));
            return self.call_op("concat", vec![arrays], span);
        }
        let mut out = Vec::new();
        for part in filled {
            match self.items_of(part, span)? {
                Some(items) => out.extend(items),
                None => return Ok(Value::Unknown),
            }
        }
        Ok(Value::List(Rc::new(out)))
    }
    /// `xs.join(", ")`: the elements as one text.
    pub(crate) fn join_text(&mut self, list: &Value, args: &[CallArg], span: Span) -> Eval {
        let between = match args {
            [] => "".into(),
            [CallArg { value: Value::Str(s), .. }] => s.clone(),
            [CallArg { value: Value::Unknown, .. }] => return Ok(Value::Unknown),
            [other, ..] => {
                return self.fail(
                    Diagnostic::error(Code("E0333"), other.span, "`join` takes the text between the elements").help("`names.join(\", \")`"),
                );
            }
        };
        let Some(items) = self.items_of(list, span)? else { return Ok(Value::Unknown) };
        let mut texts = Vec::with_capacity(items.len());
        for item in &items {
            match self.text(item, None, span)? {
                Some(text) => texts.push(text),
                None => return Ok(Value::Unknown),
            }
        }
        Ok(Value::Str(texts.join(&between).into()))
    }
    /// `sort(xs, by = f)` in the script; without `by` a list of what is no array.
    pub(crate) fn sort_list(&mut self, args: Vec<CallArg>, span: Span) -> Eval {
        let help = "`sort(xs, by = x -> x.loss)`, `sort(xs, by = f, descending = true)`";
        let (mut list, mut by, mut descending) = (None, None, false);
        for arg in args {
            match (arg.name.as_deref(), &arg.value) {
                (None, _) if list.is_none() => list = Some(arg),
                (Some("by"), _) => by = Some(arg),
                (Some("descending"), Value::Bool(on)) => descending = on.unwrap_or(false),
                (Some("descending"), Value::Unknown) => {}
                _ => return self.fail(Diagnostic::error(Code("E0332"), arg.span, "a list is sorted by a function").help(help)),
            }
        }
        let Some(list) = list else { return self.fail(Diagnostic::error(Code("E0331"), span, "`sort` needs a list").help(help)) };
        if matches!(list.value, Value::Array(_)) && !self.in_script {
            return self.fail(
                Diagnostic::error(Code("E0349"), span, "only the script sorts by a function")
                    .help("compute the keys and take the elements in their order: `x[argsort(keys)]`"),
            );
        }
        let known = if matches!(list.value, Value::Unknown) { None } else { self.items_of(&list.value, list.span)? };
        let Some(items) = known else { return Ok(Value::Unknown) };
        let mut keyed: Vec<(Key, Value)> = Vec::new();
        for item in items {
            let key = match &by {
                Some(f) => self.apply(&f.value, vec![CallArg { name: None, value: item.clone(), span }], span)?,
                None => item.clone(),
            };
            let key = match self.looked_at(key, span)? {
                Value::Int(d) => Key::Number(d.known().unwrap_or(0) as f64),
                Value::Float(x) => Key::Number(x.unwrap_or(f64::NAN)),
                Value::Bool(b) => Key::Number(f64::from(u8::from(b.unwrap_or(false)))),
                Value::Str(s) => Key::Text(s),
                Value::Unknown if self.checking() => return Ok(Value::Unknown),
                other => {
                    return self.fail(
                        Diagnostic::error(
                            Code("E0333"),
                            span,
                            format!("a list is sorted by numbers or texts, not by {}", describe(&other)),
                        )
                        .help(help),
                    );
                }
            };
            keyed.push((key, item));
        }
        if descending {
            keyed.sort_by(|a, b| b.0.order(&a.0));
        } else {
            keyed.sort_by(|a, b| a.0.order(&b.0));
        }
        let sorted: Vec<Value> = keyed.into_iter().map(|(_, v)| v).collect();
        match list.value {
            Value::List(_) | Value::Tuple(_) => Ok(Value::List(Rc::new(sorted))),
            _ => self.stack(&sorted, span),
        }
    }
}
