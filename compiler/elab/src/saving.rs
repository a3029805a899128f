//! `save`: values as they go to files, and trees as they come back.

use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::{Output, Saved};
use crate::scope::Scope;
use crate::tree::is_arrayish;
use crate::value::Value;
use indexmap::IndexMap;
use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::Expr;
use serde_json::Value as Json;
use std::rc::Rc;
use std::sync::Arc;

/// Marks a tuple in the description of a tree: `{"()": [null, null]}`. No field has this name.
const TUPLE: &str = "()";

impl Evaluator<'_> {
    /// `save "path", value`
    pub(crate) fn save(&mut self, scope: &mut Scope, values: &[Expr], span: Span) -> Eval<()> {
        let [path, e] = values else {
            return self.fail(
                Diagnostic::error(Code("E0535"), span, "`save` takes a path and a value")
                    .help("`save \"weights.safetensors\", r.net.params`"),
            );
        };
        let at = path.span;
        let path = match self.expr(scope, path)? {
            Value::Str(s) => s.to_string(),
            Value::Unknown => String::new(),
            _ => return self.error("E0535", at, "the path of `save` is a string"),
        };
        let value = self.expr(scope, e)?;
        if self.mode == Mode::Check {
            return Ok(());
        }
        let value = match value {
            Value::Model(m) if m.params.is_some() => m.params.clone().unwrap_or(Value::None),
            other => other,
        };
        let arrays = [".npy", ".npz", ".safetensors"].iter().any(|x| path.ends_with(x));
        let saved = self.saved(&value, arrays, e.span)?;
        let tree = (!is_arrayish(&value)).then(|| described(&value).to_string());
        let from = self.program.module(scope.module).name.clone();
        self.emit(Output::Save { path, from, value: saved, tree }, span)
    }
    /// A value as a file takes it; with `arrays` numbers are arrays of the type they have by themselves.
    fn saved(&mut self, value: &Value, arrays: bool, span: Span) -> Eval<Saved> {
        Ok(match value {
            Value::Float(Some(x)) if !arrays => Saved::Number(*x),
            Value::Int(d) if !arrays => Saved::Tensor(Tensor::scalar(d.known().unwrap_or(0))),
            Value::Bool(Some(b)) if !arrays => Saved::Bool(*b),
            Value::Str(s) => Saved::Text(s.to_string()),
            Value::Series(s) if arrays => Saved::Tensor(Tensor::from_f64(DType::F64, &[s.values.len()], &s.values)),
            Value::Series(s) => Saved::Series((**s).clone()),
            Value::Record(fields) => {
                let mut out = IndexMap::new();
                for (name, v) in fields.iter() {
                    out.insert(name.to_string(), self.saved(v, arrays, span)?);
                }
                Saved::Record(out)
            }
            Value::List(items) | Value::Tuple(items) if !is_arrayish(value) => {
                Saved::List(items.iter().map(|v| self.saved(v, arrays, span)).collect::<Eval<_>>()?)
            }
            other => {
                let array = self.array_of(other, span)?;
                Saved::Tensor((*self.force(&array, span)?).clone())
            }
        })
    }
    /// The arrays of a file as the tree they were saved from; without its description nested by the points in their names.
    pub(crate) fn loaded_tree(&mut self, arrays: &IndexMap<Arc<str>, Arc<Tensor>>, tree: Option<&str>) -> Value {
        let all: IndexMap<Arc<str>, Value> = arrays.iter().map(|(n, t)| (n.clone(), Value::Array(self.literal(t.clone())))).collect();
        let described: Option<Json> = tree.and_then(|text| serde_json::from_str(text).ok());
        if let Some(Json::Object(_) | Json::Array(_)) = &described {
            let mut used = 0;
            let value = described.and_then(|json| put(&json, "", &all, &mut used));
            if let Some(value) = value.filter(|_| used == all.len()) {
                return value;
            }
        }
        // A name that is also the beginning of others has no place in a tree.
        let clash = all.keys().any(|a| all.keys().any(|b| b.strip_prefix(&**a).is_some_and(|rest| rest.starts_with('.'))));
        if clash { Value::Record(Rc::new(all)) } else { crate::tree::nest(&all.into_iter().collect::<Vec<_>>()) }
    }
}

/// What a tree is made of: records as objects, lists as arrays, tuples marked as such, leaves as `null`.
fn described(value: &Value) -> Json {
    match value {
        Value::Record(fields) => Json::Object(fields.iter().map(|(n, v)| (n.to_string(), described(v))).collect()),
        Value::List(items) if !is_arrayish(value) => Json::Array(items.iter().map(described).collect()),
        Value::Tuple(items) => {
            let items = Json::Array(items.iter().map(described).collect());
            Json::Object([(TUPLE.to_string(), items)].into_iter().collect())
        }
        _ => Json::Null,
    }
}

/// The tree of a description with its leaves taken by path; `None` if one is missing.
fn put(json: &Json, path: &str, leaves: &IndexMap<Arc<str>, Value>, used: &mut usize) -> Option<Value> {
    let join = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    let items = |list: &[Json], used: &mut usize| {
        list.iter().enumerate().map(|(i, v)| put(v, &join(&i.to_string()), leaves, used)).collect::<Option<Vec<_>>>()
    };
    Some(match json {
        Json::Null => {
            *used += 1;
            leaves.get(path)?.clone()
        }
        Json::Array(list) => Value::List(Rc::new(items(list, used)?)),
        Json::Object(fields) => match (fields.len(), fields.get(TUPLE)) {
            (1, Some(Json::Array(list))) => Value::Tuple(Rc::new(items(list, used)?)),
            _ => {
                let mut out: IndexMap<Arc<str>, Value> = IndexMap::new();
                for (name, v) in fields {
                    out.insert(Arc::from(name.as_str()), put(v, &join(name), leaves, used)?);
                }
                Value::Record(Rc::new(out))
            }
        },
        _ => return None,
    })
}
