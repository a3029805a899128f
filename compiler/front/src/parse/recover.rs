//! Recovery: when a file does not parse, its items are read one by one, and in an item that does not parse the statement in error is put out of the way.
//!
//! A statement is replaced by [`MARK`] and blanks of the same length, so that all offsets stay; what it declares is kept (`let y = ` + mark). An item that
//! cannot be mended becomes a constant with an error for a value: uses of its name then cause no further messages.

use super::build::Builder;
use super::commas;
use super::messages;
use super::scan::{self, Scan};
use crate::ast::{ExprKind, File, Item, ItemKind, Name};
use optc_base::{Diagnostic, Span};
use optc_grammar::{OptParser, Rule};
use pest::Parser;
use std::ops::Range;
use std::sync::Arc;

/// Stands for text that has been reported (rule `error_mark`).
const MARK: u8 = 1;
/// Most messages of one file.
const MOST: usize = 60;
/// Most attempts to mend one item.
const ATTEMPTS: usize = 24;

/// Words that start an item.
pub(super) const ITEM_WORDS: &[&str] = &[
    "import",
    "const",
    "type",
    "extern",
    "fn",
    "host",
    "layer",
    "model",
    "loss",
    "schedule",
    "optimizer",
    "data",
    "train",
    "search",
    "experiment",
];

/// A part of the file being mended; keeps offsets.
pub(super) struct Part {
    /// Where it starts in the file.
    pub base: usize,
    /// Its text, changed by mending.
    pub text: String,
}

impl Part {
    /// Fills a range with a mark and blanks.
    fn mark(&mut self, range: Range<usize>) {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        for (i, b) in bytes[range].iter_mut().enumerate() {
            *b = if i == 0 { MARK } else { b' ' };
        }
        self.text = String::from_utf8(bytes).unwrap_or_default();
    }

    /// Writes a comma in place of a blank or newline.
    fn put_comma(&mut self, at: usize) {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        bytes[at] = b',';
        self.text = String::from_utf8(bytes).unwrap_or_default();
    }

    /// Fills a range with blanks.
    fn blank(&mut self, range: Range<usize>) {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        bytes[range].fill(b' ');
        self.text = String::from_utf8(bytes).unwrap_or_default();
    }
}

/// Reads what can be read of a file that does not parse as a whole.
pub(super) fn recover(builder: &mut Builder<'_>, scan: &Scan) -> File {
    let text = builder.text;
    let mut file = File::default();
    let starts = item_starts(text, scan);
    for (i, start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(text.len());
        if builder.errors.len() >= MOST {
            break;
        }
        let next = (end < text.len()).then_some(end);
        mend(builder, Part { base: *start, text: text[*start..end].to_string() }, next, &mut file);
    }
    file
}

/// Parses a part as a file, mending it until it parses.
fn mend(builder: &mut Builder<'_>, mut part: Part, next: Option<usize>, file: &mut File) {
    let attempts = if part.text.len() > 100_000 { 3 } else { ATTEMPTS };
    let length = part.text.len();
    let mut marked: Vec<(Range<usize>, u32)> = Vec::new();
    // Reserved words that were taken for names: their uses are consequences.
    let mut reserved: Vec<String> = Vec::new();
    // Brackets in which a comma was missing.
    let mut commas: Vec<usize> = Vec::new();
    for _ in 0..attempts {
        let found = scan::scan(&part.text);
        if let Some(error) = found.nesting_error(builder.source, part.base) {
            builder.errors.push(error);
            break;
        }
        if let Some((start, end)) = found.open_strings.first().copied() {
            builder.errors.push(messages::open_string(builder, part.base + start, part.base + end));
            let around = statement(&part.text, &found, start);
            neutralize(&mut part, around.start..end.max(around.start + 1), start, &mut marked);
            continue;
        }
        let parsed = super::with_room(found.depth, || {
            let pairs = OptParser::parse(Rule::file, &part.text)?;
            builder.base = part.base;
            file.items.extend(super::items(builder, pairs).items);
            builder.base = 0;
            Ok::<(), pest::error::Error<Rule>>(())
        });
        let Err(failed) = parsed else { return };
        if let Some(fault) = found.unbalanced(&part.text) {
            // Of the braces added below, one closes nothing any more: what it was added for has been put out of the way.
            if matches!(fault, scan::Unbalanced::Closer(b) if b.at >= length) {
                part.text.truncate(length);
                continue;
            }
            builder.errors.push(messages::unbalanced(builder, &fault, part.base, next));
            match fault {
                scan::Unbalanced::Opener(b) if b.byte == b'{' => part.text.push_str(&"\n}".repeat(found.open_braces().max(1))),
                scan::Unbalanced::Opener(b) => {
                    let line = part.text[b.at..].find('\n').map_or(part.text.len(), |n| b.at + n);
                    let around = statement(&part.text, &found, b.at);
                    neutralize(&mut part, around.start..line.min(around.end).max(b.at + 1), b.at, &mut marked);
                }
                scan::Unbalanced::Closer(b) => part.blank(b.at..b.at + 1),
            }
            continue;
        }
        let at = match failed.location {
            pest::error::InputLocation::Pos(p) | pest::error::InputLocation::Span((p, _)) => p.min(part.text.len()),
        };
        let expected = match &failed.variant {
            pest::error::ErrorVariant::ParsingError { positives, .. } => positives.as_slice(),
            _ => &[],
        };
        if let Some(missing) = commas::missing(&part.text, &found, at, expected) {
            // Of several in one bracket the first is reported; the rest of the statement is read as it was meant.
            if !commas.contains(&missing.bracket) {
                builder.errors.push(missing.error(builder, &part));
                commas.push(missing.bracket);
            }
            part.put_comma(missing.at);
            continue;
        }
        let around = statement(&part.text, &found, messages::blamed(&part.text, &found, at));
        // A second failure in the same place is a consequence of the first.
        let again = marked.iter().any(|(r, _)| r.start <= around.start && around.end <= r.end)
            || messages::innermost(&found, at).is_some_and(|b| commas.contains(&b.at));
        if !again && !messages::involves(&part.text, &found, at, &reserved) {
            let error = messages::unexpected(builder, &part, &found, at, expected);
            if error.code == super::codes::RESERVED {
                reserved.push(builder.slice(error.primary.span).to_string());
            }
            builder.errors.push(error);
        }
        // With the `{` on the line of its head the rest may be fine.
        if let Some(blanks) = messages::stray_block(&part.text, &found, at).filter(|_| !again) {
            part.blank(blanks);
            continue;
        }
        if around.is_empty() || !neutralize(&mut part, around, at, &mut marked) {
            break;
        }
    }
    if let Some(item) = stub(builder, part.base) {
        file.items.push(item);
    }
}

/// Puts a statement (or the body of an item) out of the way. False if that was tried before.
fn neutralize(part: &mut Part, range: Range<usize>, at: usize, marked: &mut Vec<(Range<usize>, u32)>) -> bool {
    let range = range.start..range.end.min(part.text.len());
    let tried = marked.iter_mut().find(|(r, _)| r.start == range.start);
    let level = match tried {
        Some((_, level)) => {
            *level += 1;
            *level
        }
        None => {
            marked.push((range.clone(), 0));
            0
        }
    };
    let keep = if level == 0 { kept(part, range.clone(), at) } else { 0 };
    let whole_item = range.start == leading(&part.text);
    match level {
        0 if keep > 0 => part.mark(range.start + keep..range.end),
        0 | 1 if !whole_item => part.mark(range),
        2 if !whole_item => part.blank(range),
        _ => return false,
    }
    true
}

/// How much of a statement's text to keep: the declaration up to its `=`, or the word of a setting.
fn kept(part: &Part, range: Range<usize>, at: usize) -> usize {
    let text = &part.text[range.clone()];
    let word_end = |from: usize| text[from..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(text.len(), |n| from + n);
    let first = &text[..word_end(0)];
    // The first `=` outside brackets that is no comparison.
    let mut depth = 0i32;
    let bytes = text.as_bytes();
    let mut assign = None;
    for (i, b) in bytes.iter().enumerate() {
        match b {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b'"' | b'#' => break,
            b'=' if depth == 0 && bytes.get(i + 1) != Some(&b'=') && !bytes[..i].last().is_some_and(|p| b"=<>!~+-*/^%@|&".contains(p)) => {
                assign = Some(i + 1);
                break;
            }
            _ => {}
        }
    }
    let assign = assign.filter(|a| range.start + a <= at && range.start + a < range.end);
    let block_word = part.text[leading(&part.text)..].split(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
    let in_block = matches!(block_word, "data" | "train" | "search") && range.start > leading(&part.text);
    let declares = matches!(first, "let" | "var" | "const" | "shared" | "state" | "eval" | "metric") || in_block;
    let whole_item = range.start == leading(&part.text);
    match assign {
        Some(a) if declares || whole_item => a,
        _ if in_block && !first.is_empty() && first != "let" && first.len() < text.len() => first.len() + 1,
        _ => 0,
    }
}

/// Where the text of a part begins, after blanks and comments.
fn leading(text: &str) -> usize {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        if !trimmed.starts_with('#') {
            return at;
        }
        at += trimmed.find('\n').unwrap_or(trimmed.len());
    }
}

/// The statement that holds byte `at`: within the innermost `{`, from separator to separator; outside braces, the whole item.
fn statement(text: &str, scan: &Scan, at: usize) -> Range<usize> {
    let bytes = text.as_bytes();
    // The innermost open `{` at this place.
    let mut open: Vec<usize> = Vec::new();
    let mut close_of = None;
    let mut depth_after = 0usize;
    for b in &scan.brackets {
        if b.at < at {
            match b.byte {
                b'{' => open.push(b.at),
                b'}' => {
                    open.pop();
                }
                _ => {}
            }
        } else {
            match b.byte {
                b'{' => depth_after += 1,
                b'}' if depth_after == 0 => {
                    close_of = Some(b.at);
                    break;
                }
                b'}' => depth_after -= 1,
                _ => {}
            }
        }
    }
    let Some(opener) = open.last().copied() else {
        let start = leading(text).min(text.len());
        let end = scan.comments.trim_end(text, start, text.len());
        return start..end;
    };
    let end_of_block = close_of.unwrap_or(text.len());
    // Separators at the level of the block.
    let mut start = opener + 1;
    let mut end = end_of_block;
    let mut depth = 0usize;
    let mut i = opener + 1;
    while i < end_of_block {
        if let Some((_, comment_end)) = scan.comments.at(i) {
            i = comment_end;
            continue;
        }
        if let Some((_, string_end)) = scan.string_at(i) {
            i = string_end;
            continue;
        }
        match bytes[i] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'\n' | b';' if depth == 0 => {
                if i < at {
                    if bytes[i] == b';' || !continues(text, scan, i) {
                        start = i + 1;
                    }
                } else if bytes[i] == b';' || !continues(text, scan, i) {
                    end = i;
                    break;
                }
            }
            _ => {}
        }
        i += 1;
    }
    let end = scan.comments.trim_end(text, start.min(end), end);
    let inside = text.get(start..end).unwrap_or("");
    let start = start + leading(inside).min(inside.len());
    start..end.max(start)
}

/// Whether the line that ends at `newline` goes on in the next one.
fn continues(text: &str, scan: &Scan, newline: usize) -> bool {
    let end = scan.comments.trim_end(text, 0, newline);
    let before = &text[..end];
    if before.ends_with(['+', '-', '*', '/', '%', '@', '^', ',', '=', '~', ':', '&', '|', '<', '>', '(', '[', '{']) {
        return true;
    }
    if ["and", "or", "not"]
        .iter()
        .any(|w| before.ends_with(w) && !before[..before.len() - w.len()].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
    {
        return true;
    }
    let after = &text[newline..];
    let after = &after[leading(after).min(after.len())..];
    let word = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
    after.starts_with("|>") || matches!(word, "else" | "and" | "or" | "gradient") || (after.starts_with('.') && !after.starts_with(".."))
}

/// Where items start: lines without indentation that begin like one, and the first line with content.
fn item_starts(text: &str, scan: &Scan) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut brackets = scan.brackets.iter().peekable();
    let mut depth = 0usize;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        while let Some(b) = brackets.next_if(|b| b.at < at) {
            match b.byte {
                b'(' | b'[' | b'{' => depth += 1,
                _ => depth = depth.saturating_sub(1),
            }
        }
        if let Some(strong) = item_like(line)
            && (strong || depth == 0)
        {
            starts.push(at);
            depth = 0;
        }
        at += line.len();
    }
    let first = leading(text);
    if first < text.len() && starts.first().is_none_or(|s| *s > first) {
        starts.insert(0, first);
    }
    starts
}

/// Whether a line begins like an item: `Some(true)` with a known word, `Some(false)` with another word and a name behind it.
fn item_like(line: &str) -> Option<bool> {
    let is_name = |w: &str| w.starts_with(|c: char| c.is_alphabetic() || c == '_') && w.chars().all(|c| c.is_alphanumeric() || c == '_');
    let end = line.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    let (word, rest) = line.split_at(end);
    if !is_name(word) || !rest.starts_with([' ', '\t']) {
        return None;
    }
    let rest = rest.trim_start();
    if word == "import" {
        return Some(true);
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    if !is_name(name) {
        return ITEM_WORDS.contains(&word).then_some(false);
    }
    let after = after.trim_start();
    let strong = match word {
        "fn" | "layer" | "model" | "loss" | "schedule" | "optimizer" => after.starts_with('('),
        "host" => name == "fn",
        "extern" => name == "process",
        "data" | "train" | "search" | "experiment" => after.starts_with(['{', '(']),
        "const" => after.starts_with([':', '=']),
        "type" => after.starts_with(['[', '=']),
        _ => return (after.starts_with(['(', '{', '='])).then_some(false),
    };
    Some(strong)
}

/// A constant with an error for a value, under the name that the item in error would have had.
fn stub(builder: &mut Builder<'_>, start: usize) -> Option<Item> {
    let text = builder.text;
    let from = start + leading(&text[start..]);
    let mut at = from;
    let mut words = Vec::new();
    for _ in 0..3 {
        let rest = &text[at..];
        let rest_trimmed = rest.trim_start_matches([' ', '\t']);
        at += rest.len() - rest_trimmed.len();
        let end = rest_trimmed.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest_trimmed.len());
        if end == 0 {
            break;
        }
        words.push((at, &rest_trimmed[..end]));
        at += end;
    }
    if words.first().is_none_or(|w| w.1 == "import") {
        return None;
    }
    let (at, word) = match words.as_slice() {
        [(_, "host"), (_, "fn"), name] | [(_, "extern"), (_, "process"), name] => *name,
        [_, name, ..] => *name,
        _ => return None,
    };
    if super::messages::is_reserved(word) {
        return None;
    }
    let span = Span::new(builder.source, at, at + word.len());
    let value = builder.make(ExprKind::Error, span);
    let name = Name { text: Arc::from(word), span };
    Some(Item { doc: String::new(), span, kind: ItemKind::Const { name, ty: None, value } })
}

/// Sorts messages by place and removes those that say the same of the same place; `length` is that of the text.
pub(super) fn tidy(mut errors: Vec<Diagnostic>, length: usize) -> Vec<Diagnostic> {
    for error in &mut errors {
        for label in std::iter::once(&mut error.primary).chain(&mut error.secondary) {
            label.span.end = label.span.end.min(length as u32);
            label.span.start = label.span.start.min(label.span.end);
        }
    }
    errors.sort_by_key(|e| e.primary.span.start);
    errors.dedup_by(|a, b| a.code == b.code && a.primary.span == b.primary.span);
    errors
}
