//! Numbers with their units, element types, strings with interpolation.

use super::build::{Builder, P};
use super::{codes, scan};
use crate::ast::{ElemType, Expr, ExprKind, StrPart, Unit};
use crate::sub::Sub;
use optc_abi::DType;
use optc_base::Span;
use optc_grammar::{OptParser, Rule};
use pest::Parser;
use std::sync::Arc;

/// The element type a word names.
pub(crate) fn dtype(word: &str) -> Option<ElemType> {
    Some(ElemType::Concrete(match word {
        "f32" => DType::F32,
        "f64" => DType::F64,
        "bf16" => DType::BF16,
        "f16" => DType::F16,
        "i32" => DType::I32,
        "i64" => DType::I64,
        "u32" => DType::U32,
        "u8" => DType::U8,
        "bool" => DType::Bool,
        "float" => return Some(ElemType::Float),
        _ => return None,
    }))
}

/// Units with their factors to seconds or bytes.
fn unit(suffix: &str) -> Option<(f64, Unit)> {
    Some(match suffix {
        "%" => (0.01, Unit::Percent),
        "ms" => (1e-3, Unit::Seconds),
        "s" => (1.0, Unit::Seconds),
        "min" => (60.0, Unit::Seconds),
        "h" => (3600.0, Unit::Seconds),
        "d" => (86400.0, Unit::Seconds),
        "KiB" => (1024.0, Unit::Bytes),
        "MiB" => (1024.0 * 1024.0, Unit::Bytes),
        "GiB" => (1024.0 * 1024.0 * 1024.0, Unit::Bytes),
        "TiB" => (1024.0 * 1024.0 * 1024.0 * 1024.0, Unit::Bytes),
        _ => return None,
    })
}

/// Length of the numeric part of a token, by the rules of the grammar.
fn numeric_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut i: usize| {
        while i < bytes.len() && (bytes[i].is_ascii_digit() || (bytes[i] == b'_' && i > 0)) {
            i += 1;
        }
        i
    };
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            end += 1 + sign;
            while bytes.get(end).is_some_and(u8::is_ascii_digit) {
                end += 1;
            }
        }
    }
    end
}

impl Builder<'_> {
    /// `number` or `bad_point`.
    pub fn number(&mut self, pair: &P<'_>) -> Expr {
        let span = self.span(pair);
        let text = pair.as_str();
        if pair.as_rule() == Rule::bad_point {
            self.error(codes::NUMBER, span, "a number starts with a digit").help = Some(format!("write `0{text}`"));
            return self.make(ExprKind::Float(format!("0{text}").parse().unwrap_or(0.0)), span);
        }
        if let Some(hex) = text.strip_prefix("0x") {
            let length = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
            if length < hex.len() {
                let at = Span { start: span.start + 2 + length as u32, ..span };
                self.error(codes::NUMBER, at, format!("`{}` is not a hexadecimal digit", &hex[length..]));
            }
            let value = u64::from_str_radix(&hex[..length], 16).ok().filter(|v| *v <= u64::from(u32::MAX) || i64::try_from(*v).is_ok());
            let Some(value) = value else {
                self.error(codes::NUMBER, span, "the number does not fit into 64 bits");
                return self.make(ExprKind::Error, span);
            };
            return self.make(ExprKind::Int(value as i64), span);
        }
        let split = numeric_length(text);
        let (digits, suffix) = text.split_at(split);
        let plain: String = digits.chars().filter(|c| *c != '_').collect();
        let is_float = plain.contains(['.', 'e', 'E']);
        if !suffix.is_empty() {
            if let Some((factor, unit)) = unit(suffix) {
                let number: f64 = plain.parse().unwrap_or(0.0);
                let value = if unit == Unit::Percent { number / 100.0 } else { number * factor };
                return self.make(ExprKind::Quantity(value, unit), span);
            }
            let at = Span { start: span.start + split as u32, ..span };
            if suffix == "." {
                self.error(codes::NUMBER, span, "digits must follow the decimal point").help = Some(format!("write `{digits}.0`"));
            } else {
                let error = self.error(codes::NUMBER, at, format!("`{suffix}` follows a number without an operator"));
                error.primary.message = "not a unit of a duration or size".into();
                error.help = Some(format!("write `{digits} * {suffix}` for a product; units are `s`, `min`, `h`, `MiB`, `GiB`, `%`"));
                return self.make(ExprKind::Error, span);
            }
        }
        if is_float || suffix == "." {
            return self.make(ExprKind::Float(plain.parse().unwrap_or(0.0)), span);
        }
        match plain.parse::<i64>() {
            Ok(value) => self.make(ExprKind::Int(value), span),
            Err(_) => {
                self.error(codes::NUMBER, span, "the number does not fit into 64 bits").help =
                    Some(format!("write `{plain}.0` for a float"));
                self.make(ExprKind::Error, span)
            }
        }
    }

    /// `string`
    pub fn string(&mut self, pair: &P<'_>) -> Expr {
        let span = self.span(pair);
        let raw = pair.as_str();
        let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or("");
        let start = span.start as usize + 1;
        let mut parts = Vec::new();
        let mut text = String::new();
        let bytes = inner.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            match bytes[i] {
                b'\\' => {
                    let at = Span::new(self.source, start + i, start + (i + 2).min(inner.len()));
                    match bytes.get(i + 1) {
                        Some(b'n') => text.push('\n'),
                        Some(b't') => text.push('\t'),
                        Some(b'"') => text.push('"'),
                        Some(b'\\') => text.push('\\'),
                        _ => {
                            let error = self.error(codes::STRING, at, "unknown escape in a string");
                            error.help = Some("the escapes are `\\n`, `\\t`, `\\\"` and `\\\\`".into());
                        }
                    }
                    i += 1 + inner[i + 1..].chars().next().map_or(0, char::len_utf8);
                }
                b'{' if bytes.get(i + 1) == Some(&b'{') => {
                    text.push('{');
                    i += 2;
                }
                b'}' => {
                    if bytes.get(i + 1) != Some(&b'}') {
                        let at = Span::new(self.source, start + i, start + i + 1);
                        self.error(codes::STRING, at, "`}` closes no `{` of this string").help = Some("write `}}` for a brace".into());
                        i += 1;
                    } else {
                        i += 2;
                    }
                    text.push('}');
                }
                b'{' => {
                    let (length, colon) = interpolation(&inner[i..]);
                    let Some(length) = length else {
                        let at = Span::new(self.source, start + i, start + i + 1);
                        self.error(codes::STRING, at, "this `{` is not closed in the string").help = Some("write `{{` for a brace".into());
                        i = bytes.len();
                        continue;
                    };
                    if !text.is_empty() {
                        parts.push(StrPart::Text(Arc::from(std::mem::take(&mut text))));
                    }
                    let close = i + length;
                    let end = colon.map_or(close, |c| i + c);
                    let format = colon.map(|c| Arc::from(&inner[i + c + 1..close]));
                    let value = self.interpolated(start + i + 1, start + end);
                    parts.push(StrPart::Expr(Sub::new(value), format));
                    i = close + 1;
                }
                _ => {
                    let c = inner[i..].chars().next().unwrap_or(' ');
                    text.push(c);
                    i += c.len_utf8();
                }
            }
        }
        if !text.is_empty() || parts.is_empty() {
            parts.push(StrPart::Text(Arc::from(text)));
        }
        self.make(ExprKind::Str(parts), span)
    }

    /// The expression at `start..end` of the text, inside a string.
    fn interpolated(&mut self, start: usize, end: usize) -> Expr {
        let span = Span::new(self.source, start, end);
        let part = self.text.get(start..end).unwrap_or("");
        if part.trim().is_empty() {
            let place = Span::new(self.source, start - 1, end + 1);
            self.error(codes::STRING, place, "an expression is missing between the braces").help = Some("write `{{}}` for braces".into());
            return self.make(ExprKind::Error, span);
        }
        let found = scan::scan(part);
        if let Some(error) = found.nesting_error(self.source, start) {
            self.errors.push(error);
            return self.make(ExprKind::Error, span);
        }
        let parsed = super::with_room(found.depth, || {
            let mut pairs = OptParser::parse(Rule::one_interp, part).ok()?;
            let before = std::mem::replace(&mut self.base, start);
            let expr = pairs.next().into_iter().flat_map(P::into_inner).find(|p| p.as_rule() == Rule::expr).map(|p| self.expr(p));
            self.base = before;
            expr
        });
        parsed.unwrap_or_else(|| {
            let error = self.error(codes::STRING, span, "this is not an expression");
            error.help = Some("what stands in `{…}` of a string is an expression; write `{{` and `}}` for braces".into());
            self.make(ExprKind::Error, span)
        })
    }
}

/// Length of `{…` up to its `}`, and the first `:` outside brackets.
fn interpolation(text: &str) -> (Option<usize>, Option<usize>) {
    let mut depth = 0usize;
    let mut colon = None;
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'(' | b'[' | b'{' => depth += 1,
            b'}' if depth == 1 => return (Some(i), colon),
            b')' | b']' | b'}' => depth = depth.saturating_sub(1).max(1),
            b':' if depth == 1 => colon = colon.or(Some(i)),
            _ => {}
        }
    }
    (None, None)
}
