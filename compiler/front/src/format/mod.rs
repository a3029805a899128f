//! The formatter: indentation, spacing between tokens and alignment of columns; line breaks are the author's.
//!
//! It works on tokens, so comments stay where they are. What it decides depends only on the tokens and on whether the author left a blank or a wider gap at
//! places where both styles are good; hence formatting twice changes nothing.

mod tokens;

use optc_base::{Diagnostic, SourceId};
use tokens::{Kind, Token, tokens};

/// Longest setting word that widens the column of a `train` block.
const SETTING: usize = 9;

/// The text in the style of the language: two blanks of indentation, blanks around operators, aligned settings, at most one empty line.
///
/// # Errors
/// The messages of a file that does not parse; such a file is not touched.
pub fn format(text: &str) -> Result<String, Vec<Diagnostic>> {
    let (_, errors) = crate::parse(SourceId(0), text);
    if !errors.is_empty() {
        return Err(errors);
    }
    let tokens = tokens(text);
    let mut lines = lines(&tokens);
    align(&mut lines);
    let mut out = String::new();
    for line in &lines {
        if line.blank_before && !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&" ".repeat(line.indent));
        for (i, piece) in line.pieces.iter().enumerate() {
            if i > 0 {
                out.push_str(&" ".repeat(piece.space));
            }
            out.push_str(piece.text);
        }
        out.truncate(out.trim_end_matches([' ', '\t']).len());
        out.push('\n');
    }
    Ok(out)
}

/// A token with the blanks in front of it.
struct Piece<'t> {
    text: &'t str,
    space: usize,
    /// Blanks the author had there.
    gap: usize,
    kind: Kind,
    /// Open brackets of this line in front of it.
    depth: usize,
}

/// What kind of block a line stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At top level or in an ordinary block.
    Plain,
    /// Directly in `train` or `search`.
    Settings(usize),
}

struct Line<'t> {
    indent: usize,
    pieces: Vec<Piece<'t>>,
    blank_before: bool,
    place: Place,
    /// It starts a statement, and does not continue one.
    starts: bool,
}

/// An open bracket.
struct Open<'t> {
    text: &'t str,
    /// Indentation of lines inside.
    inner: usize,
    /// Indentation of a line that starts with its closer.
    outer: usize,
    /// Commas separate its parts: `(`, `[`, records.
    list: bool,
    /// No blanks inside: the braces of an import.
    tight: bool,
    /// Lines inside are settings of this block.
    place: Place,
    /// Indentation of the statement being written inside.
    statement: usize,
}

fn is_keyword(word: &str) -> bool {
    matches!(
        word,
        "if" | "else"
            | "in"
            | "and"
            | "or"
            | "not"
            | "return"
            | "yield"
            | "while"
            | "for"
            | "as"
            | "let"
            | "var"
            | "const"
            | "xor"
            | "bit_or"
            | "matches"
    )
}

/// Whether an operand must follow, so that `-` is a sign and a newline is blank.
fn wants_operand(t: &Token<'_>) -> bool {
    match t.kind {
        Kind::Sign => !matches!(t.text, ";" | "..."),
        Kind::Open => true,
        Kind::Word => is_keyword(t.text) && !matches!(t.text, "let" | "var" | "const"),
        _ => false,
    }
}

fn lines<'t>(tokens: &[Token<'t>]) -> Vec<Line<'t>> {
    let mut lines: Vec<Line<'t>> = Vec::new();
    let mut open: Vec<Open<'t>> = Vec::new();
    let mut top_statement = 0usize;
    let mut previous: Option<usize> = None; // last token that is no comment
    let mut blocks = 0usize;
    let mut depth_in_line = 0usize;
    let mut column = 0usize;
    for (i, token) in tokens.iter().enumerate() {
        let before = previous.map(|p| &tokens[p]);
        let first = lines.is_empty() || token.newlines > 0;
        if first {
            let (indent, starts) = indentation(tokens, i, &open, top_statement, before, &lines);
            if starts {
                match open.last_mut() {
                    Some(o) => o.statement = indent,
                    None => top_statement = indent,
                }
            }
            let after_open = lines.last().is_some_and(|l| l.pieces.last().is_some_and(|p| p.kind == Kind::Open));
            let blank_before = token.newlines > 1 && !after_open && token.kind != Kind::Close;
            let place = open.last().map_or(Place::Plain, |o| o.place);
            lines.push(Line { indent, pieces: Vec::new(), blank_before, place, starts });
            depth_in_line = 0;
            column = indent;
        }
        let space = if first { 0 } else { spacing(tokens, i, &open, before) };
        if !first {
            column += space;
        }
        let line = lines.last_mut().expect("a line was begun");
        if token.kind == Kind::Close {
            depth_in_line = depth_in_line.saturating_sub(1);
            open.pop();
        }
        line.pieces.push(Piece { text: token.text, space, gap: token.gap, kind: token.kind, depth: depth_in_line });
        column += token.text.chars().count();
        if token.kind == Kind::Open {
            depth_in_line += 1;
            let line_indent = lines.last().map_or(0, |l| l.indent);
            let entry = opened(tokens, i, &open, before, top_statement, column, line_indent, &mut blocks);
            open.push(entry);
        }
        if token.kind != Kind::Comment {
            previous = Some(i);
        }
    }
    lines
}

/// The bracket at token `i`, with the indentation of what it holds.
fn opened<'t>(
    tokens: &[Token<'t>],
    i: usize,
    open: &[Open<'t>],
    before: Option<&Token<'t>>,
    top_statement: usize,
    column: usize,
    line_indent: usize,
    blocks: &mut usize,
) -> Open<'t> {
    let text = tokens[i].text;
    let breaks = tokens.get(i + 1).is_some_and(|t| t.newlines > 0 || t.kind == Kind::Comment);
    let statement = open.last().map_or(top_statement, |o| o.statement);
    if text != "{" {
        let (inner, outer) = if breaks { (line_indent + 2, line_indent) } else { (column, column) };
        return Open { text, inner, outer, list: true, tight: false, place: Place::Plain, statement: inner };
    }
    let tight = before.is_some_and(|b| b.text == ".");
    let list = tight || ((!open.is_empty() || before.is_some_and(|b| b.text == "=")) && is_record(&tokens[i + 1..]));
    let mut place = Place::Plain;
    if open.is_empty() && !list {
        // The word that begins the item.
        let words = tokens[..i].iter().rev().take_while(|t| t.newlines == 0).count();
        let start = i.saturating_sub(words + 1);
        if tokens[start..i].iter().any(|t| matches!(t.text, "train" | "search")) && matches!(tokens[start].text, "train" | "search") {
            *blocks += 1;
            place = Place::Settings(*blocks);
        }
    }
    // In brackets whose lines are broken, a block is indented from its line.
    let outer = if open.last().is_some_and(|o| o.text != "{") { line_indent.min(statement) } else { statement };
    Open { text, inner: outer + 2, outer, list, tight, place, statement: outer + 2 }
}

/// Whether what follows a `{` is a record, groups or a pattern.
fn is_record(after: &[Token<'_>]) -> bool {
    let mut rest = after.iter().filter(|t| t.kind != Kind::Comment);
    let Some(first) = rest.next() else { return false };
    match first.kind {
        Kind::Close => true,
        Kind::Word | Kind::Literal => loop {
            match rest.next() {
                Some(t) if t.text == "." => {
                    rest.next();
                }
                Some(t) => return matches!(t.text, "=" | "," | ":" | "|"),
                None => return false,
            }
        },
        _ => false,
    }
}

/// Indentation of the line that starts with token `i`, and whether a statement starts there.
fn indentation(
    tokens: &[Token<'_>],
    i: usize,
    open: &[Open<'_>],
    top_statement: usize,
    before: Option<&Token<'_>>,
    lines: &[Line<'_>],
) -> (usize, bool) {
    let token = &tokens[i];
    // A comment is indented like what follows it.
    let next = tokens[i..].iter().find(|t| t.kind != Kind::Comment);
    if token.kind == Kind::Close
        && let Some(o) = open.last()
    {
        return (o.outer, false);
    }
    if let Some(o) = open.last().filter(|o| o.list) {
        let continued = o.text == "{" && before.is_some_and(|b| wants_operand(b) && b.text != "," && b.kind != Kind::Open);
        return (if continued { o.inner + 2 } else { o.inner }, true);
    }
    let base = open.last().map_or(0, |o| o.inner);
    let statement = open.last().map_or(top_statement, |o| o.statement);
    let starts_block = before.is_none_or(|b| b.kind == Kind::Open);
    let Some(next) = next.filter(|_| !starts_block) else { return (base, true) };
    if next.text == "else" {
        // Like the line of its `if`, which is the last one at this level that is not inside a block.
        let level = lines
            .iter()
            .rev()
            .find(|l| l.pieces.first().is_some_and(|p| p.kind != Kind::Close && p.kind != Kind::Comment) && l.indent <= statement + 2);
        let own =
            lines.iter().rev().find(|l| l.pieces.iter().any(|p| p.text == "if") && l.indent <= statement + 2 && l.indent >= statement);
        return (own.or(level).map_or(statement, |l| l.indent), false);
    }
    let goes_on = before.is_some_and(|b| wants_operand(b) && b.text != ";") && token.kind != Kind::Comment;
    let leads = matches!(next.text, "|>" | "." | "and" | "or" | "gradient") && next.kind != Kind::Literal;
    if goes_on || leads { (statement + 2, false) } else { (base, true) }
}

/// Blanks between token `i` and the one before it on its line.
fn spacing(tokens: &[Token<'_>], i: usize, open: &[Open<'_>], before: Option<&Token<'_>>) -> usize {
    let token = &tokens[i];
    if token.kind == Kind::Comment {
        return token.gap.max(2);
    }
    let Some(before) = before else { return 0 };
    let authored = token.gap.min(1);
    let inside = open.last();
    match (before.kind, before.text, token.text) {
        (_, "{", "}") => return 0,
        (_, "{", _) | (_, _, "}") => return usize::from(!inside.is_some_and(|o| o.tight)),
        (Kind::Open, ..) => return 0,
        (.., ")" | "]" | "," | ";") => return 0,
        (_, "," | ";", _) => return 1,
        (_, "." | "..", _) | (.., ".") => return 0,
        (.., "..") | (_, "^", _) | (.., "^") => return 0,
        (.., ":") | (_, ":", _) if inside.is_some_and(|o| o.text == "[") => return authored,
        (.., ":") => return 0,
        (_, ":", _) => return 1,
        _ => {}
    }
    // A sign in front of an operand.
    if matches!(before.text, "-" | "~") && is_prefix(tokens, i, before, inside) {
        return 0;
    }
    if matches!(token.text, "(" | "[") {
        let callable = match before.kind {
            Kind::Word if before.text == "var" => !declares(&tokens[i..]),
            Kind::Word => !is_keyword(before.text),
            Kind::Close => before.text != "}",
            _ => false,
        };
        return if callable { authored } else { 1 };
    }
    1
}

/// Whether what follows `var`, from its parenthesis on, is a list of names and `=`, and not the argument of the variance.
fn declares(after: &[Token<'_>]) -> bool {
    let mut depth = 0usize;
    for (k, t) in after.iter().enumerate() {
        match t.kind {
            Kind::Open => depth += 1,
            Kind::Close => {
                depth -= 1;
                if depth == 0 {
                    return after.get(k + 1).is_some_and(|t| t.text == "=");
                }
            }
            _ => {}
        }
    }
    false
}

/// Whether the sign before token `i` has no operand on its left. In braces and at top level a newline ends what stands before the sign.
fn is_prefix(tokens: &[Token<'_>], i: usize, sign: &Token<'_>, inside: Option<&Open<'_>>) -> bool {
    let at = tokens[..i].iter().rposition(|t| std::ptr::eq(t, sign));
    let Some(at) = at else { return false };
    let Some(left_at) = tokens[..at].iter().rposition(|t| t.kind != Kind::Comment) else { return true };
    // The first of its line, or of its statement: `check -x < 1`.
    let follows = left_at > 0 && matches!(tokens[left_at - 1].text, "{" | ";");
    let begins = tokens[left_at].newlines > 0
        || left_at == 0
        || (follows && matches!(tokens[left_at].text, "check" | "print" | "save" | "table" | "plot"));
    match &tokens[left_at] {
        left if wants_operand(left) => true,
        // `loss -mean(x)`: a setting, then its value.
        left => {
            (sign.newlines > 0 && inside.is_none_or(|o| o.text == "{" && !o.list))
                || (left.kind == Kind::Word && begins && sign.gap > 0 && tokens[i].gap == 0)
        }
    }
}

/// Pads settings of `train` and `search` blocks, and columns that the author aligned.
fn align(lines: &mut [Line<'_>]) {
    // Settings: one column per block.
    let mut widths: std::collections::BTreeMap<usize, usize> = std::collections::BTreeMap::new();
    let setting = |line: &Line<'_>| match (line.place, line.pieces.first()) {
        (Place::Settings(block), Some(p))
            if line.starts && p.kind == Kind::Word && line.pieces.get(1).is_some_and(|p| p.kind != Kind::Comment && p.text != "=") =>
        {
            Some((block, p.text.chars().count()))
        }
        _ => None,
    };
    for (block, length) in lines.iter().filter_map(setting) {
        let width = widths.entry(block).or_default();
        if length <= SETTING {
            *width = (*width).max(length);
        }
    }
    for line in lines.iter_mut() {
        if let Some((block, length)) = setting(line) {
            line.pieces[1].space = (widths[&block] + 1).saturating_sub(length).max(1);
        }
    }
    // Outputs of a script, then `=` and `~` of neighbors that begin with the same word.
    group(lines, |line| {
        let first = line.pieces.first()?;
        matches!(first.text, "print" | "save" | "table" | "plot")
            .then(|| line.pieces.get(1).filter(|p| p.text == "{" || p.kind == Kind::Literal || p.gap > 1))
            .flatten()
            .map(|_| (1, "output"))
    });
    group(lines, |line| {
        if matches!(line.place, Place::Settings(_)) {
            return None;
        }
        let first = line.pieces.first()?;
        let at = line.pieces.iter().position(|p| p.depth == 0 && matches!(p.text, "=" | "~" | "<-"))?;
        (at > 0 && first.kind == Kind::Word && line.pieces[at].text != "<-").then_some((at, if at == 1 { "=" } else { first.text }))
    });
}

/// Aligns the pieces that `key` picks in neighboring lines of one key, if the author left a wide gap in one of them.
fn group<'t>(lines: &mut [Line<'t>], key: impl for<'l> Fn(&'l Line<'t>) -> Option<(usize, &'t str)>) {
    let mut start = 0;
    while start < lines.len() {
        let Some((_, word)) = key(&lines[start]).filter(|_| lines[start].starts) else {
            start += 1;
            continue;
        };
        let mut end = start + 1;
        while end < lines.len()
            && lines[end].starts
            && !lines[end].blank_before
            && lines[end].indent == lines[start].indent
            && key(&lines[end]).is_some_and(|(_, w)| w == word)
        {
            end += 1;
        }
        let width = |line: &Line<'_>, at: usize| -> usize {
            line.pieces[..at].iter().enumerate().map(|(i, p)| p.text.chars().count() + if i == 0 { 0 } else { p.space }).sum()
        };
        let picks: Vec<usize> = (start..end).filter_map(|i| key(&lines[i]).map(|k| k.0)).collect();
        if (start..end).zip(&picks).any(|(i, at)| lines[i].pieces[*at].gap > 1) {
            let widest = (start..end).zip(&picks).map(|(i, at)| width(&lines[i], *at)).max().unwrap_or(0);
            for (i, at) in (start..end).zip(&picks) {
                let own = width(&lines[i], *at);
                lines[i].pieces[*at].space = widest - own + 1;
            }
        }
        start = end;
    }
}
