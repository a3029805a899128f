//! Light syntax coloring of a spec: comments, strings, numbers, words that open an item or steer, and built-in types.

use super::escape;

const KEYWORDS: &[&str] = &[
    "as",
    "buffer",
    "by",
    "check",
    "checkpoint",
    "const",
    "data",
    "else",
    "eval",
    "every",
    "experiment",
    "extern",
    "false",
    "fn",
    "for",
    "generate",
    "grad",
    "host",
    "if",
    "import",
    "in",
    "keep",
    "layer",
    "let",
    "log",
    "loss",
    "match",
    "metric",
    "model",
    "none",
    "on",
    "optimizer",
    "param",
    "plot",
    "print",
    "report",
    "resume",
    "run",
    "save",
    "schedule",
    "search",
    "seed",
    "shared",
    "split",
    "state",
    "steps",
    "stop",
    "sweep",
    "table",
    "then",
    "time",
    "train",
    "true",
    "type",
    "update",
    "var",
    "where",
    "while",
    "with",
    "within",
];
const TYPES: &[&str] = &["bf16", "bool", "f16", "f32", "f64", "float", "i32", "i64", "int", "str", "u32", "u8"];

/// The source as HTML: escaped text in which tokens are wrapped in `span`s of class `c`, `s`, `d`, `k` or `t`.
pub(super) fn html(source: &str) -> String {
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let until = |end: &dyn Fn(char) -> bool| rest.find(end).unwrap_or(rest.len());
        let (class, length) = match c {
            '#' => ("c", until(&|c| c == '\n')),
            '"' => ("s", string(rest)),
            c if c.is_ascii_digit() => ("d", number(rest)),
            c if c.is_alphabetic() || c == '_' => {
                let length = until(&|c| !(c.is_alphanumeric() || c == '_'));
                let word = &rest[..length];
                let class = if KEYWORDS.contains(&word) {
                    "k"
                } else if TYPES.contains(&word) {
                    "t"
                } else {
                    ""
                };
                (class, length)
            }
            c => ("", c.len_utf8()),
        };
        let text = escape(&rest[..length]);
        if class.is_empty() {
            out.push_str(&text);
        } else {
            out.push_str(&format!("<span class=\"{class}\">{text}</span>"));
        }
        rest = &rest[length..];
    }
    out
}

/// Length of a string with its quotes; it ends with the line at the latest.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return i,
            '"' if !escaped => return i + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// Length of a number: digits, a point followed by a digit, an exponent with its sign, and a unit.
fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut i = 1;
    while i < bytes.len() {
        let (previous, b, next) = (bytes[i - 1], bytes[i], bytes.get(i + 1));
        let part = b.is_ascii_alphanumeric()
            || b == b'_'
            || (b == b'.' && next.is_some_and(u8::is_ascii_digit))
            || (matches!(b, b'+' | b'-') && matches!(previous, b'e' | b'E') && next.is_some_and(u8::is_ascii_digit));
        if !part {
            break;
        }
        i += 1;
    }
    i
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_wrapped_and_text_is_kept() {
        let source = "let x: f32[N] = 1e-3 * \"a\\\"<b\" # c > d\nlets ← x2 + 0..3 \"open\nend";
        let h = html(source);
        for part in [
            "<span class=\"k\">let</span> x: <span class=\"t\">f32</span>[N]",
            "<span class=\"d\">1e-3</span> *",
            "<span class=\"s\">&quot;a\\&quot;&lt;b&quot;</span>",
            "<span class=\"c\"># c &gt; d</span>\nlets ← x2 + <span class=\"d\">0</span>..<span class=\"d\">3</span>",
            "<span class=\"s\">&quot;open</span>\nend",
        ] {
            assert!(h.contains(part), "{part} in {h}");
        }
        let mut text = String::new();
        h.split('<').for_each(|p| text.push_str(p.split_once('>').map_or(p, |(_, t)| t)));
        assert_eq!(text, escape(source));
    }

    #[test]
    fn no_cut_of_a_source_panics() {
        let source = "model m { w: f32 = \"é\\\\\" 1.5e+ 2.é # ü\n}";
        for (i, _) in source.char_indices() {
            html(&source[..i]);
        }
    }
}
