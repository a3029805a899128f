//! `extern process`: programs that answer the host script in JSON, one line each way.

use crate::evaluator::{Eval, Evaluator, Mode};
use crate::host::ProcessRequest;
use crate::scope::Scope;
use crate::tree::describe;
use crate::types::{Alias, Sig, What};
use crate::value::{CallArg, Value};
use indexmap::IndexMap;
use optc_abi::{DType, Tensor};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{ExternItem, Type, TypeKind};
use optc_front::{ItemRef, ModuleId};
use serde_json::Value as Json;
use std::rc::Rc;
use std::sync::Arc;

/// Seconds an answer may take if the spec does not say.
const TIMEOUT: f64 = 60.0;
/// Options of a process.
const OPTIONS: &str = "`timeout = 10s`, `record = \"log.jsonl\"` or `replay = \"log.jsonl\"`";

/// The settings of a process.
struct Settings {
    command: Arc<str>,
    timeout: f64,
    record: Option<Arc<str>>,
    replay: Option<Arc<str>>,
}

impl Evaluator<'_> {
    /// Checks the declaration of a process.
    pub(crate) fn check_extern(&mut self, item: ItemRef, e: &ExternItem) -> Eval<()> {
        self.process_settings(item.module, e)?;
        let mut sig = self.checked_params(item.module, &e.params, 0)?;
        for param in &e.params {
            if let Some(ty) = &param.ty
                && matches!(ty.kind, TypeKind::Fn(_) | TypeKind::Model | TypeKind::Optimizer | TypeKind::Data)
            {
                return self.unsent("a value of this type", ty.span);
            }
        }
        self.open_names(&mut sig, item.module, &e.params, &e.result);
        self.instance_of(&mut sig, &e.result, true).map(|_| ())
    }

    fn process_settings(&mut self, module: ModuleId, e: &ExternItem) -> Eval<Settings> {
        let mut scope = Scope::new(module);
        let wrong = |at: Span, what: &str| Diagnostic::error(Code("E0538"), at, what.to_string()).help(OPTIONS);
        let command = match self.expr(&mut scope, &e.command)? {
            Value::Str(s) => s,
            Value::Unknown => Arc::from(""),
            _ => return self.fail(wrong(e.command.span, "the command of a process is a string")),
        };
        let mut settings = Settings { command, timeout: TIMEOUT, record: None, replay: None };
        for (name, value) in &e.options {
            let given = self.expr(&mut scope, value)?;
            let file = match &given {
                Value::Str(s) => Some(Some(s.clone())),
                Value::None | Value::Unknown => Some(None),
                _ => None,
            };
            match (&*name.text, given, file) {
                ("timeout", Value::Float(Some(x)), _) if x > 0.0 && x < 1e9 => settings.timeout = x,
                ("timeout", Value::Int(n), _) if n.known().is_some_and(|n| n > 0) => settings.timeout = n.known().unwrap_or(1) as f64,
                ("timeout", Value::Unknown | Value::Float(None), _) => {}
                ("record", _, Some(path)) => settings.record = path,
                ("replay", _, Some(path)) => settings.replay = path,
                ("timeout", ..) => return self.fail(wrong(value.span, "a time-out is a positive duration")),
                ("record" | "replay", ..) => return self.fail(wrong(value.span, "a log is the path of a file, or `none`")),
                _ => return self.fail(wrong(name.span, &format!("a process has no option `{}`", name.text))),
            }
        }
        Ok(settings)
    }

    /// A call of a process: the arguments go out as an object with the names of the parameters, the answer comes back as the declared type.
    pub(crate) fn call_extern(&mut self, item: ItemRef, e: &ExternItem, args: Vec<CallArg>, span: Span) -> Eval {
        if !self.in_script {
            return self.fail(
                Diagnostic::error(Code("E0349"), span, format!("`{}` is a process: compiled code cannot call it", e.name.text))
                    .label(e.name.span, "declared here")
                    .help("call it in the experiment or in a `host fn`, and pass its result on"),
            );
        }
        let mut sig = self.bind_sig(&e.name, item.module, &e.params, args, span)?;
        self.open_names(&mut sig, item.module, &e.params, &e.result);
        if self.mode != Mode::Host {
            return self.instance_of(&mut sig, &e.result, false);
        }
        let settings = self.process_settings(item.module, e)?;
        let mut message = serde_json::Map::new();
        for param in &e.params {
            let value = sig.scope.get(&param.name.text).map_or(Value::None, |b| b.value.clone());
            message.insert(param.name.text.to_string(), self.sent(&value, span)?);
        }
        let request = ProcessRequest {
            command: settings.command,
            from: self.program.module(item.module).name.clone(),
            timeout: settings.timeout,
            record: settings.record,
            replay: settings.replay,
            message: Json::Object(message),
            span,
        };
        let (answer, line) = match self.host_env(span)?.ask(&request) {
            Ok(answer) => answer,
            Err(diagnostic) => return self.fail(diagnostic),
        };
        let known = self.diagnostics.len();
        let received = self.received(&mut sig, Some(&e.result), &answer)?;
        let result = self.match_type(&mut sig, &e.result, received, span, &What::Result(&e.name.text));
        if result.is_err() && self.diagnostics.len() > known {
            // What the declaration asks for is said; what came instead is shown.
            let why = self.diagnostics.split_off(known).remove(0);
            let shown: String = if line.chars().count() > 200 { line.chars().take(200).chain(['…']).collect() } else { line };
            return self.fail(
                Diagnostic::error(Code("R0126"), span, format!("an answer does not fit its type: {}", why.message))
                    .label(e.result.span, "declared here")
                    .help(format!("the process wrote {shown}")),
            );
        }
        result
    }

    fn unsent<T>(&mut self, what: &str, span: Span) -> Eval<T> {
        self.fail(
            Diagnostic::error(Code("E0538"), span, format!("{what} cannot be sent to a process"))
                .help("what is sent are numbers, strings, arrays, lists and records of these"),
        )
    }

    /// A value as JSON: arrays are nested lists.
    fn sent(&mut self, value: &Value, span: Span) -> Eval<Json> {
        let number = |x: f64| serde_json::Number::from_f64(x).map(Json::Number);
        Ok(match value {
            Value::None => Json::Null,
            Value::Bool(Some(b)) => Json::Bool(*b),
            Value::Str(s) => Json::String(s.to_string()),
            Value::Int(d) if d.known().is_some() => Json::from(d.known().unwrap_or(0)),
            Value::Float(Some(x)) => match number(*x) {
                Some(json) => json,
                None => return self.unsent("a number that is NaN or infinite", span),
            },
            Value::Array(a) => {
                let tensor = self.force(a, span)?;
                match nested(&tensor) {
                    Some(json) => json,
                    None => return self.unsent("an array that holds NaN or infinities", span),
                }
            }
            Value::Series(s) => match s.values.iter().map(|&x| number(x)).collect::<Option<Vec<_>>>() {
                Some(items) => Json::Array(items),
                None => return self.unsent("a series that holds NaN or infinities", span),
            },
            Value::List(items) | Value::Tuple(items) => Json::Array(items.iter().map(|v| self.sent(v, span)).collect::<Eval<Vec<_>>>()?),
            Value::Record(fields) => {
                let fields =
                    fields.iter().map(|(n, v)| Ok((n.to_string(), self.sent(v, span)?))).collect::<Eval<serde_json::Map<_, _>>>()?;
                Json::Object(fields)
            }
            other => return self.unsent(&describe(other), span),
        })
    }

    /// JSON as a value that may have this type. Nested lists of numbers of one shape are arrays, whose element type is that of what they meet, unless tuples or lists
    /// are declared.
    fn received(&mut self, sig: &mut Sig, ty: Option<&Type>, json: &Json) -> Eval {
        if let Some(Type { kind: TypeKind::Named { name, args }, .. }) = ty {
            return match self.alias(sig, name, args)? {
                Alias::Type { ty, .. } => self.received(sig, Some(&ty), json),
                Alias::Elem(_) | Alias::Unknown => self.received(sig, None, json),
            };
        }
        Ok(match (json, ty.map(|t| &t.kind)) {
            (Json::Null, _) => Value::None,
            (Json::Bool(b), _) => Value::Bool(Some(*b)),
            (Json::String(s), _) => Value::Str(s.as_str().into()),
            (Json::Number(n), _) => match n.as_i64() {
                Some(n) => Value::Int(n.into()),
                None => Value::Float(n.as_f64()),
            },
            (Json::Array(items), Some(TypeKind::Tuple(types))) => {
                let each = items.iter().enumerate().map(|(k, v)| self.received(sig, types.get(k), v));
                Value::Tuple(Rc::new(each.collect::<Eval<_>>()?))
            }
            (Json::Array(items), Some(TypeKind::List(inner))) => {
                Value::List(Rc::new(items.iter().map(|v| self.received(sig, Some(inner), v)).collect::<Eval<_>>()?))
            }
            (Json::Array(items), _) => match tensor_of(json) {
                Some(tensor) => {
                    let weak = tensor.dtype != DType::Bool;
                    Value::Array(optc_ops::Array { weak, ..self.literal(tensor) })
                }
                None => Value::List(Rc::new(items.iter().map(|v| self.received(sig, None, v)).collect::<Eval<_>>()?)),
            },
            (Json::Object(fields), kind) => {
                let types = if let Some(TypeKind::Record(types)) = kind { types.as_slice() } else { &[] };
                let of = |name: &str| types.iter().find(|(n, _)| &*n.text == name).map(|(_, t)| t);
                let fields = fields.iter().map(|(n, v)| Ok((n.as_str().into(), self.received(sig, of(n), v)?)));
                Value::Record(Rc::new(fields.collect::<Eval<IndexMap<Arc<str>, Value>>>()?))
            }
        })
    }
}

/// An array as nested lists; none if JSON cannot say one of its numbers.
fn nested(tensor: &Tensor) -> Option<Json> {
    fn level(tensor: &Tensor, axis: usize, at: &mut usize) -> Option<Json> {
        if axis < tensor.shape.len() {
            return (0..tensor.shape[axis]).map(|_| level(tensor, axis + 1, at)).collect::<Option<Vec<_>>>().map(Json::Array);
        }
        let x = tensor.get_f64(*at);
        *at += 1;
        match tensor.dtype {
            DType::Bool => Some(Json::Bool(x != 0.0)),
            d if d.is_float() => serde_json::Number::from_f64(x).map(Json::Number),
            _ => Some(Json::from(x as i64)),
        }
    }
    level(tensor, 0, &mut 0)
}

/// The array that nested lists of one shape make: of truth values, integers, or else floats. None for anything else, and for lists without elements, whose type nobody
/// knows.
fn tensor_of(json: &Json) -> Option<Tensor> {
    let mut shape = Vec::new();
    let mut first = json;
    while let Json::Array(items) = first {
        shape.push(items.len());
        first = items.first()?;
    }
    let mut leaves = Vec::new();
    fn collect<'j>(json: &'j Json, shape: &[usize], leaves: &mut Vec<&'j Json>) -> Option<()> {
        match (json, shape) {
            (Json::Array(items), [n, rest @ ..]) if items.len() == *n => items.iter().try_for_each(|i| collect(i, rest, leaves)),
            (Json::Number(_) | Json::Bool(_), []) => {
                leaves.push(json);
                Some(())
            }
            _ => None,
        }
    }
    collect(json, &shape, &mut leaves)?;
    if let Some(flags) = leaves.iter().map(|j| j.as_bool()).collect::<Option<Vec<bool>>>() {
        return Some(Tensor::from_f64(DType::Bool, &shape, &flags.iter().map(|&b| f64::from(b)).collect::<Vec<_>>()));
    }
    if let Some(whole) = leaves.iter().map(|j| j.as_i64()).collect::<Option<Vec<i64>>>() {
        return Some(Tensor::from_slice(&shape, &whole));
    }
    let numbers = leaves.iter().map(|j| j.as_f64()).collect::<Option<Vec<f64>>>()?;
    Some(Tensor::from_slice(&shape, &numbers))
}
