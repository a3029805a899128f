//! Calls from outside: a function of the spec lowered for arguments of which the caller gives types, or values where they are known at compile time.

use crate::args::Limits;
use crate::evaluator::{Eval, Evaluator, Mode};
use crate::scope::Scope;
use crate::tree::describe;
use crate::value::{CallArg, FnValue, Value};
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ItemRef;
use optc_front::ast::{ElemType, ItemKind, Param, TypeKind};
use optc_ir::{Graph, Ty};
use optc_ops::{Array, Dim};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::rc::Rc;
use std::sync::Arc;

/// An argument. As callers of another language describe it: `{"array": ["f32", [2, 3]]}`, `"number"`, `{"record": [["w", …]]}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Given {
    /// An array, known when the compiled code runs.
    Array(#[serde(deserialize_with = "described_type")] Ty),
    /// A number, known when the compiled code runs (an f64 scalar); it takes the type it meets.
    Number,
    /// An integer known now.
    Int(i64),
    /// A number known now.
    Float(f64),
    /// A flag known now.
    Bool(bool),
    /// A text.
    Str(String),
    /// `none`
    None,
    /// A tuple.
    Tuple(Vec<Given>),
    /// A list.
    List(Vec<Given>),
    /// A record.
    Record(Vec<(String, Given)>),
}

fn described_type<'d, D: Deserializer<'d>>(from: D) -> Result<Ty, D::Error> {
    let (name, shape) = <(String, Vec<usize>)>::deserialize(from)?;
    let dtype = DType::parse(&name).ok_or_else(|| D::Error::custom(format!("there is no element type `{name}`")))?;
    Ok(Ty::new(dtype, shape))
}

/// An argument with its name, if it is given by name, and the text to blame.
#[derive(Clone, Debug)]
pub struct GivenArg {
    /// Its name.
    pub name: Option<String>,
    /// What it is.
    pub value: Given,
    /// Where it stands.
    pub span: Span,
}

/// What a function gives back.
#[derive(Clone, Debug, PartialEq)]
pub enum Returned {
    /// The output of this number.
    Array(usize),
    /// An integer known at compile time.
    Int(i64),
    /// A number known at compile time.
    Float(f64),
    /// A flag known at compile time.
    Bool(bool),
    /// A text.
    Str(String),
    /// `none`
    None,
    /// A tuple.
    Tuple(Vec<Returned>),
    /// A list.
    List(Vec<Returned>),
    /// A record.
    Record(Vec<(String, Returned)>),
}

/// A lowered call.
#[derive(Clone, Debug)]
pub struct FunctionProgram {
    /// Inputs: the arrays and numbers of the arguments, in order; outputs: those of [`Returned::Array`].
    pub graph: Graph,
    /// What it gives back.
    pub result: Returned,
    /// Numbers that must stay in the range of their parameter: the input, the parameter, the range.
    pub limits: Vec<(usize, String, Limits)>,
}

/// What a number given for a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Known at compile time.
    Constant,
    /// Known when the code runs, of the type it meets.
    Number,
    /// Known when the code runs, of this type.
    Scalar(DType),
    /// The parameter has no type: integers and flags are known at compile time, other numbers when the code runs.
    Any,
    /// An array with axes.
    Array,
}

/// What a number is that is given for a parameter.
pub fn wanted(param: &Param) -> Wanted {
    if param.is_const {
        return Wanted::Constant;
    }
    match param.ty.as_ref().map(|t| &t.kind) {
        None | Some(TypeKind::Tree | TypeKind::Named { .. }) => Wanted::Any,
        Some(TypeKind::Array { dims: Some(dims), .. }) if !dims.is_empty() => Wanted::Array,
        Some(TypeKind::Array { elem, .. }) => match elem {
            ElemType::Concrete(dtype) => Wanted::Scalar(*dtype),
            ElemType::Float => Wanted::Number,
            _ => Wanted::Any,
        },
        Some(_) => Wanted::Constant,
    }
}

impl Evaluator<'_> {
    /// Lowers a call of a function (`fn` or `loss`).
    ///
    /// # Errors
    /// What it reports; a result that is no tree of arrays and constants.
    pub(crate) fn lower_function(&mut self, item: ItemRef, args: &[GivenArg], call: Span) -> Eval<FunctionProgram> {
        let ItemKind::Fn(function) = &self.program.item(item).kind else { panic!("compiler bug: not a function") };
        let mode = std::mem::replace(&mut self.mode, Mode::Lower);
        let script = std::mem::replace(&mut self.in_script, false);
        let limits = self.given_limits(&function.params, item, args);
        self.cx.push_level();
        let made = (|| {
            let mut inputs = 0;
            let mut given = Vec::with_capacity(args.len());
            for arg in args {
                let value = self.given_value(&arg.value, &mut inputs);
                given.push(CallArg { name: arg.name.as_deref().map(Arc::from), value, span: arg.span });
            }
            let result = self.apply(&Value::Fn(Rc::new(FnValue::Item(item))), given, call)?;
            let mut outputs = Vec::new();
            let result = self.returned(&result, &function.name.text, call, &mut outputs)?;
            Ok((result, outputs, (0..inputs).map(|k| format!("given.{k}")).collect::<Vec<_>>()))
        })();
        let lowered = match made {
            Ok((result, outputs, names)) => {
                self.finish_graph(&outputs, &names, call).map(|graph| FunctionProgram { graph, result, limits: limits.unwrap_or_default() })
            }
            Err(stop) => {
                self.cx.pop_level();
                Err(stop)
            }
        };
        (self.mode, self.in_script) = (mode, script);
        lowered
    }

    fn given_value(&mut self, given: &Given, inputs: &mut usize) -> Value {
        let mut next = || {
            *inputs += 1;
            format!("given.{}", *inputs - 1)
        };
        match given {
            Given::Array(ty) => Value::Array(self.cx.input(&next(), ty.dtype, &ty.shape)),
            Given::Number => Value::Array(Array { weak: true, ..self.cx.input(&next(), DType::F64, &[]) }),
            Given::Int(n) => Value::Int(Dim::from(*n)),
            Given::Float(x) => Value::Float(Some(*x)),
            Given::Bool(b) => Value::Bool(Some(*b)),
            Given::Str(s) => Value::Str(Arc::from(&**s)),
            Given::None => Value::None,
            Given::Tuple(items) => Value::Tuple(Rc::new(items.iter().map(|g| self.given_value(g, inputs)).collect())),
            Given::List(items) => Value::List(Rc::new(items.iter().map(|g| self.given_value(g, inputs)).collect())),
            Given::Record(fields) => {
                Value::Record(Rc::new(fields.iter().map(|(n, g)| (Arc::from(&**n), self.given_value(g, inputs))).collect()))
            }
        }
    }

    /// The ranges of parameters for which a number is given that is known later.
    fn given_limits(&mut self, params: &[Param], item: ItemRef, args: &[GivenArg]) -> Eval<Vec<(usize, String, Limits)>> {
        let mut found = Vec::new();
        let (mut inputs, mut position) = (0, 0);
        for arg in args {
            let param = match &arg.name {
                Some(name) => params.iter().find(|p| *p.name.text == **name),
                None => {
                    position += 1;
                    params.get(position - 1)
                }
            };
            let is_scalar = matches!(&arg.value, Given::Number) || matches!(&arg.value, Given::Array(ty) if ty.shape.is_empty());
            if let Some(param) = param.filter(|p| is_scalar && p.range.is_some()) {
                // Ends that depend on other parameters are not known before these are.
                let known = self.diagnostics.len();
                let limits = self.limits(param, &Scope::new(item.module));
                self.diagnostics.truncate(known);
                if let Ok(limits) = limits {
                    found.push((inputs, param.name.text.to_string(), limits));
                }
            }
            inputs += count(&arg.value);
        }
        Ok(found)
    }

    fn returned(&mut self, value: &Value, of: &str, span: Span, outputs: &mut Vec<Array>) -> Eval<Returned> {
        let mut list =
            |ev: &mut Self, items: &[Value]| -> Eval<Vec<Returned>> { items.iter().map(|v| ev.returned(v, of, span, outputs)).collect() };
        Ok(match value {
            Value::Array(_) | Value::Series(_) => {
                let array = match value {
                    // What is computed from numbers alone is as exact as they are.
                    Value::Array(a) if a.weak && a.dtype.is_float() => self.cast_array(a, DType::F64),
                    _ => self.array_of(value, span)?,
                };
                outputs.push(array);
                Returned::Array(outputs.len() - 1)
            }
            Value::Int(d) if d.known().is_some() => Returned::Int(d.known().unwrap_or(0)),
            Value::Float(Some(x)) => Returned::Float(*x),
            Value::Bool(Some(b)) => Returned::Bool(*b),
            Value::Str(s) => Returned::Str(s.to_string()),
            Value::None => Returned::None,
            Value::Tuple(items) => Returned::Tuple(list(self, items)?),
            Value::List(items) => Returned::List(list(self, items)?),
            Value::Record(fields) => {
                let mut all = Vec::with_capacity(fields.len());
                for (name, v) in fields.iter() {
                    all.push((name.to_string(), self.returned(v, of, span, outputs)?));
                }
                Returned::Record(all)
            }
            other => {
                let what = describe(other);
                return self.fail(
                    Diagnostic::error(Code("E0349"), span, format!("`{of}` gives {what}, which cannot leave the compiled code"))
                        .help("arrays, numbers, texts, and tuples, lists and records of these can"),
                );
            }
        })
    }
}

/// Inputs that an argument takes.
fn count(given: &Given) -> usize {
    match given {
        Given::Array(_) | Given::Number => 1,
        Given::Tuple(items) | Given::List(items) => items.iter().map(count).sum(),
        Given::Record(fields) => fields.iter().map(|(_, g)| count(g)).sum(),
        _ => 0,
    }
}
