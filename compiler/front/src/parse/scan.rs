//! A linear scan of the bytes before parsing: comments, brackets, nesting.

use super::codes;
use optc_base::{Diagnostic, Label, SourceId, Span};

/// Deepest nesting of brackets, and longest run of prefix or right-associative operators.
pub(super) const LIMIT: usize = 256;

/// Places of the comments of a text, in order.
#[derive(Default, Debug)]
pub(super) struct Comments {
    ranges: Vec<(u32, u32)>,
}

impl Comments {
    /// The comments, as byte ranges without the newline.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    /// The comment that holds byte `at`.
    pub fn at(&self, at: usize) -> Option<(usize, usize)> {
        let i = self.ranges.partition_point(|r| r.0 as usize <= at);
        let (start, end) = *self.ranges.get(i.checked_sub(1)?)?;
        (at < end as usize).then_some((start as usize, end as usize))
    }

    /// The end of `start..end` without blanks and comments at its end.
    pub fn trim_end(&self, text: &str, start: usize, mut end: usize) -> usize {
        let bytes = text.as_bytes();
        while end > start {
            if bytes[end - 1].is_ascii_whitespace() {
                end -= 1;
            } else if let Some((from, _)) = self.at(end - 1) {
                end = from.max(start);
            } else {
                break;
            }
        }
        end
    }
}

/// A bracket with its partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bracket {
    /// Where.
    pub at: usize,
    /// Which byte.
    pub byte: u8,
    /// Depth inside it (closers: depth outside).
    pub depth: usize,
}

/// What the scan finds.
#[derive(Default, Debug)]
pub(super) struct Scan {
    /// Comments.
    pub comments: Comments,
    /// Brackets in order.
    pub brackets: Vec<Bracket>,
    /// Strings without an end: from the quote to the end of the line.
    pub open_strings: Vec<(usize, usize)>,
    /// Strings, quotes included.
    pub strings: Vec<(usize, usize)>,
    /// Where nesting passes the limit, and what is nested.
    pub too_deep: Option<(usize, &'static str)>,
}

fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// Scans `text` in one pass.
pub(super) fn scan(text: &str) -> Scan {
    let bytes = text.as_bytes();
    let mut out = Scan::default();
    // Per open bracket: the runs of operators that nest to the right at the moment it opened.
    let mut open: Vec<(u8, usize, usize)> = Vec::new();
    // `chain` counts arrows and `else` of the present expression, `run` prefix operators, powers and reductions in a row.
    let (mut chain, mut run) = (0usize, 0usize);
    let mut deep = |out: &mut Scan, at: usize, what: &'static str| {
        out.too_deep.get_or_insert((at, what));
    };
    // Whether an operand ended just now, so that `-` is infix.
    let mut operand = false;
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        match b {
            b'#' => {
                let end = bytes[i..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| i + n);
                out.comments.ranges.push((i as u32, end as u32));
                i = end;
                continue;
            }
            b'"' => {
                let mut j = i + 1;
                while j < bytes.len() && bytes[j] != b'"' && bytes[j] != b'\n' {
                    j += if bytes[j] == b'\\' && bytes.get(j + 1).is_some_and(|b| *b != b'\n') { 2 } else { 1 };
                }
                let j = j.min(bytes.len());
                if bytes.get(j) == Some(&b'"') {
                    out.strings.push((i, j + 1));
                    i = j + 1;
                } else {
                    out.open_strings.push((i, j));
                    i = j;
                }
                operand = true;
                continue;
            }
            b'(' | b'[' | b'{' => {
                open.push((b, chain, run));
                out.brackets.push(Bracket { at: i, byte: b, depth: open.len() });
                if open.len() > LIMIT {
                    deep(&mut out, i, "brackets");
                }
                (chain, operand) = (0, false);
                run = 0;
            }
            b')' | b']' | b'}' => {
                if let Some((opener, c, r)) = open.pop() {
                    // The operand of a reduction follows its brackets: the run goes on.
                    (chain, run) = (c, if opener == b'[' { r + 1 } else { r });
                }
                out.brackets.push(Bracket { at: i, byte: b, depth: open.len() });
                operand = true;
            }
            b'\n' => {
                if open.last().is_none_or(|o| o.0 == b'{') && operand {
                    run = 0;
                    let rest = text[i..].trim_start();
                    if !rest.starts_with("else") {
                        chain = 0;
                    }
                }
            }
            b',' | b';' | b':' => (chain, run, operand) = (0, 0, false),
            b'-' if bytes.get(i + 1) == Some(&b'>') => {
                chain += 1;
                (run, operand) = (0, false);
                i += 1;
            }
            b'-' | b'~' if !operand => run += 1,
            b'^' => {
                run += 1;
                operand = false;
            }
            b'.' if operand => operand = bytes.get(i + 1) != Some(&b'.'),
            _ if is_word_byte(b) => {
                let end = bytes[i..].iter().position(|b| !is_word_byte(*b)).map_or(bytes.len(), |n| i + n);
                match &text[i..end] {
                    "else" => {
                        chain += 1;
                        operand = false;
                    }
                    "not" | "run" => {
                        run += 1;
                        operand = false;
                    }
                    "and" | "or" | "xor" | "bit_or" | "matches" | "in" => {
                        run = 0;
                        operand = false;
                    }
                    // Prefix words with an operand behind them: `yield`, `if` and so on do not nest by themselves.
                    "if" | "yield" | "for" | "while" => operand = false,
                    _ => operand = true,
                }
                i = end;
                if chain > LIMIT {
                    deep(&mut out, i - 1, "branches");
                }
                if run > LIMIT {
                    deep(&mut out, i - 1, "operators");
                }
                continue;
            }
            _ if b.is_ascii_whitespace() => {}
            _ => {
                run = 0;
                operand = false;
            }
        }
        if run > LIMIT {
            deep(&mut out, i, "operators");
        }
        if chain > LIMIT {
            deep(&mut out, i, "arrows");
        }
        i += 1;
    }
    out
}

impl Scan {
    /// The error of nesting too deeply, if the text does.
    pub fn nesting_error(&self, source: SourceId, base: usize) -> Option<Diagnostic> {
        let (at, what) = self.too_deep?;
        let span = Span::new(source, base + at, base + at + 1);
        let mut error = Diagnostic::error(codes::NESTING, span, format!("more than {LIMIT} {what} are nested here"));
        error.help = Some("give a name to an inner part with `let`".into());
        Some(error)
    }

    /// The first bracket that has no partner: closers without an opener, or the innermost opener that is left or closed by another kind.
    pub fn unbalanced(&self, range: std::ops::Range<usize>) -> Option<Unbalanced> {
        let mut open: Vec<Bracket> = Vec::new();
        for b in self.brackets.iter().filter(|b| range.contains(&b.at)) {
            match b.byte {
                b'(' | b'[' | b'{' => open.push(*b),
                closer => match open.pop() {
                    // Ranges of parameters mix `[` and `)`.
                    Some(o) if partner(o.byte) == closer || (o.byte != b'{' && closer != b'}') => {}
                    Some(o) => return Some(Unbalanced::Mixed { opener: o, closer: *b }),
                    None => return Some(Unbalanced::Closer(*b)),
                },
            }
        }
        open.pop().map(Unbalanced::Opener)
    }
}

/// A bracket without its partner.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unbalanced {
    /// Never closed.
    Opener(Bracket),
    /// Closes nothing.
    Closer(Bracket),
    /// Closed by another kind.
    Mixed {
        /// The opener.
        opener: Bracket,
        /// What came instead of its closer.
        closer: Bracket,
    },
}

/// The closer of an opener.
pub(super) fn partner(opener: u8) -> u8 {
    match opener {
        b'(' => b')',
        b'[' => b']',
        _ => b'}',
    }
}
