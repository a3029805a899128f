//! A linear scan of the bytes before parsing: comments, brackets, nesting.

use super::codes;
use optc_base::{Diagnostic, SourceId, Span};

/// Deepest nesting of brackets, and longest run of prefix or right-associative operators.
pub(super) const LIMIT: usize = 256;
/// Deepest nesting of brackets and operators together.
const LEVELS: usize = 1024;
/// Most calls, indices, fields and conversions chained on one operand.
pub(super) const CHAIN: usize = 2000;

/// Places of the comments of a text, in order.
#[derive(Default, Debug)]
pub(super) struct Comments {
    ranges: Vec<(u32, u32)>,
}

impl Comments {
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
    /// Where nesting passes a limit, the limit, and what is nested.
    pub too_deep: Option<(usize, usize, &'static str)>,
    /// Most levels of brackets, prefix and right-associative operators, arrows and branches around one place.
    pub depth: usize,
}

fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// Scans `text` in one pass.
pub(super) fn scan(text: &str) -> Scan {
    let bytes = text.as_bytes();
    let mut out = Scan::default();
    // Per open bracket: the runs of operators that nest to the right at the moment it opened, and the chains around it.
    let mut open: Vec<(u8, usize, usize, (usize, usize))> = Vec::new();
    // Calls, indices, fields and conversions of the operand at hand, what stands in its brackets included; and the most of any operand in the bracket at hand.
    let (mut ops, mut most) = (0usize, 0usize);
    // `chain` counts arrows, `else` and words that expressions begin with in the present expression, `run` prefix operators, powers and reductions in a row.
    let (mut chain, mut run) = (0usize, 0usize);
    let deep = |out: &mut Scan, at: usize, limit: usize, what: &'static str| {
        out.too_deep.get_or_insert((at, limit, what));
    };
    // Levels around the innermost open bracket, itself included.
    let mut around_it = 0usize;
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
                if operand && b != b'{' {
                    ops += 1;
                    // What looked like the indices of a reduction was an index.
                    run -= usize::from(i > 0 && bytes[i - 1] == b']').min(run);
                }
                open.push((b, chain, run, (ops, most)));
                around_it += 1 + chain + run;
                (ops, most) = (0, 0);
                out.brackets.push(Bracket { at: i, byte: b });
                if open.len() > LIMIT {
                    deep(&mut out, i, LIMIT, "brackets");
                }
                (chain, operand) = (0, false);
                run = 0;
            }
            b')' | b']' | b'}' => {
                if let Some((opener, c, r, (around, before))) = open.pop() {
                    around_it -= 1 + c + r;
                    (ops, most) = (around + most, before.max(around + most));
                    // The operand of a reduction follows its brackets: the run goes on.
                    (chain, run) = (c, if opener == b'[' { r + 1 } else { r });
                }
                out.brackets.push(Bracket { at: i, byte: b });
                operand = true;
            }
            b'\n' => {
                if open.last().is_none_or(|o| o.0 == b'{') && operand {
                    (run, ops) = (0, 0);
                    let rest = text[i..].trim_start();
                    if !rest.starts_with("else") {
                        chain = 0;
                    }
                }
            }
            b',' | b';' | b':' => (chain, run, ops, operand) = (0, 0, 0, false),
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
            b'.' if operand => {
                ops += 1;
                operand = bytes.get(i + 1) != Some(&b'.');
            }
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
                    "as" => {
                        ops += 1;
                        most = most.max(ops);
                        operand = false;
                    }
                    "and" | "or" | "xor" | "bit_or" | "matches" | "in" => {
                        (ops, run) = (0, 0);
                        operand = false;
                    }
                    // An expression begins behind them, which may begin with one of them.
                    "if" | "for" | "while" | "with" => {
                        chain += usize::from(!text[..i].trim_end().ends_with("else"));
                        operand = false;
                    }
                    "yield" => operand = false,
                    _ => operand = true,
                }
                i = end;
                if chain > LIMIT {
                    deep(&mut out, i - 1, LIMIT, "branches");
                }
                if run > LIMIT {
                    deep(&mut out, i - 1, LIMIT, "operators");
                }
                out.depth = out.depth.max(around_it + chain + run);
                continue;
            }
            _ if b.is_ascii_whitespace() => {}
            _ => {
                (ops, run) = (0, 0);
                operand = false;
            }
        }
        most = most.max(ops);
        if ops > CHAIN {
            deep(&mut out, i, CHAIN, "calls in a chain");
        }
        if run > LIMIT {
            deep(&mut out, i, LIMIT, "operators");
        }
        if chain > LIMIT {
            deep(&mut out, i, LIMIT, "arrows");
        }
        out.depth = out.depth.max(around_it + chain + run);
        if out.depth > LEVELS {
            deep(&mut out, i, LEVELS, "brackets and operators");
        }
        i += 1;
    }
    out
}

impl Scan {
    /// The error of nesting too deeply, if the text does.
    pub fn nesting_error(&self, source: SourceId, base: usize) -> Option<Diagnostic> {
        let (at, limit, what) = self.too_deep?;
        let span = Span::new(source, base + at, base + at + 1);
        let mut error = Diagnostic::error(
            codes::NESTING,
            span,
            if what == "calls in a chain" {
                format!("more than {limit} calls, indices and fields in one chain")
            } else {
                format!("more than {limit} {what} are nested here")
            },
        );
        error.help = Some("give a name to an inner part with `let`".into());
        Some(error)
    }

    /// How many `{` are never closed.
    pub fn open_braces(&self) -> usize {
        let mut open = Vec::new();
        for b in &self.brackets {
            match b.byte {
                b'(' | b'[' | b'{' => open.push(b.byte),
                b'}' => while open.pop().is_some_and(|o| o != b'{') {},
                _ if open.last().is_some_and(|o| *o != b'{') => {
                    open.pop();
                }
                _ => {}
            }
        }
        open.iter().filter(|b| **b == b'{').count()
    }

    /// The string that holds byte `at`.
    pub fn string_at(&self, at: usize) -> Option<(usize, usize)> {
        let i = self.strings.partition_point(|s| s.0 <= at);
        let (start, end) = *self.strings.get(i.checked_sub(1)?)?;
        (at < end).then_some((start, end))
    }

    /// A bracket that has no partner: the first closer without an opener, or an opener that is never closed. Of several candidates for an unclosed `{` it is the
    /// innermost one whose closer stands further left than it.
    pub fn unbalanced(&self, text: &str) -> Option<Unbalanced> {
        let mut open: Vec<Bracket> = Vec::new();
        let mut suspect: Option<Bracket> = None;
        for b in &self.brackets {
            match b.byte {
                b'(' | b'[' | b'{' => open.push(*b),
                b'}' => {
                    // `}` closes over parentheses that were left open.
                    if let Some(left) = open.last().filter(|o| o.byte != b'{') {
                        return Some(Unbalanced::Opener(*left));
                    }
                    let Some(opener) = open.pop() else { return Some(Unbalanced::Closer(*b)) };
                    let (opened, closed) = (indent(text, opener.at), indent(text, b.at));
                    if closed.0 < opened.0 && closed.1 != opened.1 {
                        suspect.get_or_insert(opener);
                    }
                }
                // Ranges of parameters mix `[` and `)`.
                _ => match open.last() {
                    Some(o) if o.byte != b'{' => {
                        open.pop();
                    }
                    _ => return Some(Unbalanced::Closer(*b)),
                },
            }
        }
        let last = open.pop()?;
        Some(Unbalanced::Opener(if last.byte == b'{' { suspect.unwrap_or(last) } else { last }))
    }
}

/// Indentation and start of the line of byte `at`.
fn indent(text: &str, at: usize) -> (usize, usize) {
    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let line = &text[start..];
    (line.len() - line.trim_start_matches([' ', '\t']).len(), start)
}

/// A bracket without its partner.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unbalanced {
    /// Never closed.
    Opener(Bracket),
    /// Closes nothing.
    Closer(Bracket),
}

/// The closer of an opener.
pub(super) fn partner(opener: u8) -> u8 {
    match opener {
        b'(' => b')',
        b'[' => b']',
        _ => b'}',
    }
}
