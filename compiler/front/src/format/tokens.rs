//! Tokens for the formatter: the text of a valid file cut into words, operators, brackets and comments, with the blanks between them.

/// Kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or keyword.
    Word,
    /// A number with its unit, or a string.
    Literal,
    /// An operator or punctuation.
    Sign,
    /// `(` `[` `{`
    Open,
    /// `)` `]` `}`
    Close,
    /// `# …`
    Comment,
}

/// A token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    /// Its text.
    pub text: &'t str,
    /// Which kind.
    pub kind: Kind,
    /// Newlines in front of it.
    pub newlines: usize,
    /// Blanks in front of it, on its line.
    pub gap: usize,
}

const SIGNS: &[&str] =
    &["...", "<-", "->", "|>", "==", "!=", "<=", ">=", "~=", "..", "//", "<<", ">>", "**", "&&", "||", "+=", "-=", "*=", "/="];

/// Cuts a text into tokens.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let (mut newlines, mut gap) = (0, 0);
    let mut i = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let word_end = |from: usize| text[from..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(text.len(), |n| from + n);
    while i < bytes.len() {
        let b = bytes[i];
        match b {
            b'\n' => {
                newlines += 1;
                gap = 0;
                i += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' => {
                gap += 1;
                i += 1;
                continue;
            }
            _ => {}
        }
        let (end, kind) = match b {
            b'#' => (text[i..].find('\n').map_or(text.len(), |n| i + n), Kind::Comment),
            b'"' => {
                let mut j = i + 1;
                while j < bytes.len() && bytes[j] != b'"' {
                    j += if bytes[j] == b'\\' { 2 } else { 1 };
                }
                ((j + 1).min(text.len()), Kind::Literal)
            }
            b'0'..=b'9' => (number_end(text, i, &word_end), Kind::Literal),
            b'(' | b'[' | b'{' => (i + 1, Kind::Open),
            b')' | b']' | b'}' => (i + 1, Kind::Close),
            _ => {
                let c = text[i..].chars().next().unwrap_or(' ');
                if c.is_alphanumeric() || c == '_' {
                    (word_end(i), Kind::Word)
                } else {
                    let length = SIGNS.iter().find(|s| text[i..].starts_with(**s)).map_or(c.len_utf8(), |s| s.len());
                    (i + length, Kind::Sign)
                }
            }
        };
        out.push(Token { text: text[i..end].trim_end(), kind, newlines, gap });
        (newlines, gap) = (0, 0);
        i = end;
    }
    out
}

fn number_end(text: &str, start: usize, word_end: &dyn Fn(usize) -> usize) -> usize {
    let bytes = text.as_bytes();
    let mut end = word_end(start);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = word_end(end + 1);
    }
    let hex = text[start..].starts_with("0x");
    if !hex
        && text[start..end].ends_with(['e', 'E'])
        && matches!(bytes.get(end), Some(b'+' | b'-'))
        && bytes.get(end + 1).is_some_and(u8::is_ascii_digit)
    {
        end = word_end(end + 1);
    }
    if bytes.get(end) == Some(&b'%') {
        let rest = &text[end + 1..];
        let next = rest.trim_start_matches(' ');
        let operand = next.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '(' | '[' | '{' | '"'));
        let negative = next.strip_prefix('-').is_some_and(|n| n.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '(')));
        if !rest.starts_with('=') && !operand && !negative {
            end += 1;
        }
    }
    end
}
