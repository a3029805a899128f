//! Types and shapes in messages.

use crate::dim::Dim;
use crate::error::OpError;
use crate::value::{Array, Val};
use optc_abi::DType;

/// `f32[B, 784]`; `f32` for a scalar.
pub fn type_of(dtype: DType, shape: &[Dim]) -> String {
    if shape.is_empty() {
        return dtype.to_string();
    }
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("{dtype}[{}]", dims.join(", "))
}

/// `[B, 784]`
pub fn shape(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The type of an array.
pub fn array(a: &Array) -> String {
    type_of(a.dtype, &a.shape)
}

/// Lines that name two types and mark one axis of each (`None`: mark nothing). The first line is a title, because notes are printed with a prefix there.
pub fn pair(left: (&str, &Array, Option<usize>), right: (&str, &Array, Option<usize>)) -> String {
    let width = left.0.chars().count().max(right.0.chars().count());
    let line = |(name, a, marked): (&str, &Array, Option<usize>)| {
        let text = array(a);
        let mut out = format!("{name:<width$}  {text}");
        if let Some(axis) = marked {
            let before: usize = a.dtype.name().len() + 1 + a.shape[..axis].iter().map(|d| d.to_string().chars().count() + 2).sum::<usize>();
            out.push_str(&format!("\n{}{}", " ".repeat(width + 2 + before), "^".repeat(a.shape[axis].to_string().chars().count())));
        }
        out
    };
    format!("the two types\n{}\n{}", line(left), line(right))
}

/// What kind of value it is, with an article.
pub fn kind(v: &Val) -> String {
    match v {
        Val::Array(a) if a.shape.is_empty() => format!("a scalar `{}`", a.dtype),
        Val::Array(a) => format!("an array `{}`", array(a)),
        Val::Int(d) => match d.known() {
            Some(n) => format!("the integer {n}"),
            None => "an integer".into(),
        },
        Val::Float(_) => "a float".into(),
        Val::Bool(_) => "a flag".into(),
        Val::Str(_) => "a string".into(),
        Val::DType(d) => format!("the element type `{d}`"),
        Val::None => "`none`".into(),
        Val::Range(..) => "a range".into(),
        Val::List(_) => "a list".into(),
        Val::Tuple(_) => "a tuple".into(),
        Val::Record(_) => "a record".into(),
        Val::Unknown => "an unknown value".into(),
    }
}

/// The error for two element types that meet.
pub fn mixed_types(op: &str, a: DType, b: DType) -> OpError {
    let to = match (a.is_float(), b.is_float()) {
        (true, false) => a,
        (false, true) => b,
        _ if b.size() > a.size() => b,
        _ => a,
    };
    OpError::new("E0301", format!("{op} of `{a}` and `{b}`: element types differ"))
        .note("element types are never converted silently")
        .help(format!("convert one of them, such as `x as {to}`"))
}
