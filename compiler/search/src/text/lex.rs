//! Words of a program's text.

use optc_base::{Code, Diagnostic, SourceId, Span};

/// A word and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub word: Word,
    pub span: Span,
}

/// A word.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    Name(String),
    Number(f64),
    Sign(char),
    /// `**`, `//`, `==` and other signs that are not in the subset.
    Long(String),
    /// The end of a statement: a newline outside of brackets, or `;`.
    End,
}

/// Cuts a text into words. Comments go; brackets join lines.
pub(super) fn words(source: SourceId, text: &str) -> Result<Vec<Token>, Diagnostic> {
    let bytes = text.as_bytes();
    let span = |from: usize, to: usize| Span::new(source, from, to);
    let (mut out, mut at, mut depth) = (Vec::new(), 0, 0usize);
    while at < bytes.len() {
        let start = at;
        let c = bytes[at];
        match c {
            b' ' | b'\t' | b'\r' | 0x0C => at += 1,
            b'#' => at += text[at..].find('\n').unwrap_or(text.len() - at),
            b'\\' if text[at + 1..].starts_with('\n') => at += 2,
            b'\n' if depth > 0 => at += 1,
            b'\n' | b';' => {
                at += 1;
                out.push(Token { word: Word::End, span: span(start, at) });
            }
            b'0'..=b'9' | b'.' => {
                at += number_len(&text[at..]);
                let digits = text[start..at].replace('_', "");
                let Ok(value) = digits.parse::<f64>() else {
                    return Err(Diagnostic::error(Code("E0801"), span(start, at), format!("`{}` is not a number", &text[start..at])));
                };
                out.push(Token { word: Word::Number(value), span: span(start, at) });
            }
            _ if c.is_ascii_alphabetic() || c == b'_' => {
                at += text[at..].bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
                out.push(Token { word: Word::Name(text[start..at].to_string()), span: span(start, at) });
            }
            _ => {
                let Some(sign) = text[at..].chars().next() else { break };
                at += sign.len_utf8();
                match sign {
                    '(' | '[' => depth += 1,
                    ')' | ']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                let long = ["**", "//", "==", "<=", ">=", "!=", "->"].into_iter().find(|l| text[start..].starts_with(l));
                let word = match long {
                    Some(long) => {
                        at = start + long.len();
                        Word::Long(long.to_string())
                    }
                    None => Word::Sign(sign),
                };
                out.push(Token { word, span: span(start, at) });
            }
        }
    }
    let end = text.len();
    out.push(Token { word: Word::End, span: span(end, end) });
    Ok(out)
}

/// Bytes of the number a text starts with.
fn number_len(text: &str) -> usize {
    let b = text.as_bytes();
    let digits = |from: usize| b[from..].iter().take_while(|c| c.is_ascii_digit() || **c == b'_').count();
    let mut n = digits(0);
    if b.get(n) == Some(&b'.') {
        n += 1;
        n += digits(n);
    }
    if matches!(b.get(n), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(b.get(n + 1), Some(b'+' | b'-')));
        let exponent = digits((n + 1 + sign).min(b.len()));
        if exponent > 0 {
            n += 1 + sign + exponent;
        }
    }
    n
}
