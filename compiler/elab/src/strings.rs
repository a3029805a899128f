//! Strings with interpolations and formats.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::value::Value;
use optc_abi::number::{exact, exact_f32};
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::StrPart;

impl Evaluator<'_> {
    /// The value of a string literal. In the script, arrays in it are looked at.
    pub(crate) fn string(&mut self, scope: &mut Scope, parts: &[StrPart], span: Span) -> Eval {
        let mut out = String::new();
        let mut known = true;
        for part in parts {
            match part {
                StrPart::Text(t) => out.push_str(t),
                StrPart::Expr(e, format) => {
                    let value = self.expr(scope, e)?;
                    match self.text(&value, format.as_deref(), e.span)? {
                        Some(text) => out.push_str(&text),
                        None => known = false,
                    }
                }
            }
        }
        let _ = span;
        Ok(if known { Value::Str(out.into()) } else { Value::Unknown })
    }
    /// A value as text under a format (`.4f`, `8.2e`, `.1%`, `d`); `None` if it is not known while checking.
    ///
    /// # Errors
    /// A format that is none, a value that has no text.
    pub fn text(&mut self, value: &Value, format: Option<&str>, span: Span) -> Eval<Option<String>> {
        let spec = match format.map(parse_format) {
            None => None,
            Some(Some(spec)) => Some(spec),
            Some(None) => {
                return self.fail(
                    Diagnostic::error(Code("E0348"), span, format!("`{}` is not a format", format.unwrap_or("")))
                        .help("formats are `.4f`, `.2e`, `.1%`, `d`, each with a width in front if wanted: `8.3f`"),
                );
            }
        };
        Ok(Some(match value {
            Value::Unknown | Value::Float(None) | Value::Bool(None) => return Ok(None),
            Value::Int(d) => match (d.known(), spec) {
                (None, _) => return Ok(None),
                (Some(n), None) => n.to_string(),
                (Some(n), Some(s)) => s.apply(n as f64),
            },
            Value::Float(Some(x)) => spec.map_or_else(|| exact(*x), |s| s.apply(*x)),
            Value::Bool(Some(b)) => b.to_string(),
            Value::Str(s) => match spec {
                Some(f) => format!("{s:<width$}", width = f.width),
                None => s.to_string(),
            },
            Value::None => "none".into(),
            Value::DType(d) => d.to_string(),
            Value::Quantized(q) => q.to_string(),
            Value::Array(a) => {
                if self.checking() {
                    return Ok(None);
                }
                let tensor = self.force(a, span)?;
                let values = tensor.to_f64();
                let integer = !a.dtype.is_float();
                let one = |x: f64| match spec {
                    Some(s) => s.apply(x),
                    None if a.dtype == optc_abi::DType::Bool => (x != 0.0).to_string(),
                    None if integer => format!("{}", x as i64),
                    None if a.dtype == optc_abi::DType::F64 => exact(x),
                    None => exact_f32(x as f32),
                };
                nested(&tensor.shape, &mut values.into_iter().map(one))
            }
            Value::Tuple(items) | Value::List(items) => {
                let mut parts = Vec::new();
                for item in items.iter() {
                    match self.text(item, format, span)? {
                        Some(t) => parts.push(t),
                        None => return Ok(None),
                    }
                }
                let inner = parts.join(", ");
                if matches!(value, Value::Tuple(_)) { format!("({inner})") } else { format!("[{inner}]") }
            }
            Value::Record(fields) => {
                let mut parts = Vec::new();
                for (name, item) in fields.iter() {
                    match self.text(item, format, span)? {
                        Some(t) => parts.push(format!("{name} = {t}")),
                        None => return Ok(None),
                    }
                }
                format!("{{ {} }}", parts.join(", "))
            }
            Value::Series(s) => {
                format!("[{}]", s.values.iter().map(|x| spec.map_or_else(|| exact(*x), |f| f.apply(*x))).collect::<Vec<_>>().join(", "))
            }
            other => {
                let what = crate::tree::describe(other);
                return self.fail(Diagnostic::error(Code("E0348"), span, format!("{what} has no text")));
            }
        }))
    }
}

fn nested(shape: &[usize], items: &mut dyn Iterator<Item = String>) -> String {
    match shape.split_first() {
        None => items.next().unwrap_or_default(),
        Some((&n, rest)) => {
            let parts: Vec<String> = (0..n).map(|_| nested(rest, items)).collect();
            format!("[{}]", parts.join(", "))
        }
    }
}

/// A format of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Format {
    width: usize,
    precision: Option<usize>,
    kind: char,
}

fn parse_format(text: &str) -> Option<Format> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let width = if digits == 0 { 0 } else { text[..digits].parse().ok()? };
    let mut rest = &text[digits..];
    let mut precision = None;
    if let Some(after) = rest.strip_prefix('.') {
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        precision = Some(after[..digits].parse().ok()?);
        rest = &after[digits..];
    }
    let kind = match rest {
        "" => {
            if precision.is_some() {
                'g'
            } else {
                'd'
            }
        }
        "f" | "e" | "g" | "d" | "%" => rest.chars().next()?,
        _ => return None,
    };
    (width <= 200 && precision.is_none_or(|p| p <= 100)).then_some(Format { width, precision, kind })
}

impl Format {
    fn apply(self, x: f64) -> String {
        let p = self.precision.unwrap_or(6);
        let text = match self.kind {
            'f' => format!("{x:.p$}"),
            'e' => {
                // Two digits of exponent at least, as everywhere else.
                let text = format!("{x:.p$e}");
                match text.split_once('e') {
                    Some((m, e)) => {
                        let (sign, digits) = if let Some(d) = e.strip_prefix('-') { ("-", d) } else { ("+", e) };
                        format!("{m}e{sign}{digits:0>2}")
                    }
                    None => text,
                }
            }
            '%' => format!("{:.p$}%", 100.0 * x, p = self.precision.unwrap_or(0)),
            'd' if x.fract() == 0.0 => format!("{x:.0}"),
            'd' => exact(x),
            _ => {
                let size = x.abs();
                let digits = self.precision.unwrap_or(6).max(1);
                if x == 0.0 || !x.is_finite() {
                    format!("{x}")
                } else {
                    let exponent = size.log10().floor() as i64;
                    if exponent < -4 || exponent >= digits as i64 {
                        Format { kind: 'e', precision: Some(digits - 1), width: 0 }.apply(x)
                    } else {
                        format!("{x:.p$}", p = (digits as i64 - 1 - exponent).max(0) as usize)
                    }
                }
            }
        };
        format!("{text:>width$}", width = self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fmt(format: &str, x: f64) -> String {
        parse_format(format).expect("a format").apply(x)
    }

    #[test]
    fn formats_as_written() {
        assert_eq!(fmt(".4f", 0.123456), "0.1235");
        assert_eq!(fmt("8.2f", 1.5), "    1.50");
        assert_eq!(fmt(".2e", 12345.0), "1.23e+04");
        assert_eq!(fmt(".1%", 0.1234), "12.3%");
        assert_eq!(fmt("3d", 7.0), "  7");
        assert_eq!(fmt(".3", 0.000012345), "1.23e-05");
        assert_eq!(fmt(".3", 12.345), "12.3");
        assert_eq!(parse_format("x"), None);
    }
}
