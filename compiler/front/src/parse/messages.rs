//! Messages for text that does not parse: what was expected at the place where pest gave up, and what is there.

use super::build::Builder;
use super::codes;
use super::recover::{ITEM_WORDS, Part};
use super::scan::{Bracket, Scan, Unbalanced, partner};
use optc_base::{Diagnostic, Span, nearest};
use optc_grammar::Rule;

const RESERVED: &[&str] = &[
    "let", "if", "else", "for", "in", "while", "yield", "fn", "import", "as", "and", "or", "not", "true", "false", "none", "f32", "f64",
    "bf16", "f16", "i32", "i64", "u32", "u8", "bool", "float",
];

/// Whether a word is reserved everywhere.
pub(super) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// A string that does not end on its line.
pub(super) fn open_string(builder: &Builder<'_>, start: usize, end: usize) -> Diagnostic {
    Diagnostic::error(codes::STRING, Span::new(builder.source, start, end), "this string does not end")
        .at("it starts here")
        .help("close it with `\"` on the same line; write `\\n` for a newline in it")
}

/// A bracket without its partner.
pub(super) fn unbalanced(builder: &Builder<'_>, fault: &Unbalanced, base: usize, next: Option<usize>) -> Diagnostic {
    let span = |at: usize| Span::new(builder.source, base + at, base + at + 1);
    match fault {
        Unbalanced::Opener(b) => {
            let (open, close) = (b.byte as char, partner(b.byte) as char);
            let mut error = Diagnostic::error(codes::BRACKET, span(b.at), format!("this `{open}` is not closed"))
                .help(format!("add the missing `{close}`"));
            if let Some(next) = next.filter(|_| b.byte == b'{') {
                let length = builder.text[next..].find(|c: char| !c.is_alphanumeric()).unwrap_or(1);
                error = error.label(Span::new(builder.source, next, next + length), "the next item starts here");
            }
            error
        }
        Unbalanced::Closer(b) => {
            let close = b.byte as char;
            Diagnostic::error(codes::BRACKET, span(b.at), format!("this `{close}` closes nothing"))
                .help("remove it, or add what it should close")
        }
    }
}

/// The token at `at`: its text, shortened.
pub(super) fn token(text: &str, at: usize) -> &str {
    let rest = &text[at.min(text.len())..];
    let Some(first) = rest.chars().next() else { return "" };
    let end = if first.is_alphanumeric() || first == '_' {
        rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
    } else if first == '"' {
        rest[1..].find(['"', '\n']).map_or(rest.len(), |n| n + 2).min(rest.len())
    } else {
        let two = ["<-", "->", "|>", "==", "!=", "<=", ">=", "~=", "..", "//", "**", "&&", "||", "+=", "-=", "*=", "/=", "=>", ":=", "++"];
        two.iter().find(|t| rest.starts_with(**t)).map_or(first.len_utf8(), |t| t.len())
    };
    &rest[..rest.floor_char_boundary(end.min(40))]
}

/// End of the last token before `at`.
pub(super) fn previous_end(text: &str, scan: &Scan, at: usize) -> usize {
    scan.comments.trim_end(text, 0, at)
}

/// The operator or word that ends at `end`.
pub(super) fn previous_token(text: &str, end: usize) -> &str {
    let before = &text[..end];
    let Some(last) = before.chars().next_back() else { return "" };
    let start = if last.is_alphanumeric() || last == '_' {
        before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| i + before[i..].chars().next().map_or(1, char::len_utf8))
    } else {
        let two = ["<-", "->", "|>", "==", "!=", "<=", ">=", "~=", "..", "//", "**", "<<", ">>"];
        end - two.iter().find(|t| before.ends_with(**t)).map_or(last.len_utf8(), |t| t.len())
    };
    &before[start..]
}

/// Whether an expression must follow this token.
fn wants_operand(token: &str) -> bool {
    matches!(
        token,
        "+" | "-"
            | "*"
            | "/"
            | "//"
            | "%"
            | "@"
            | "^"
            | "=="
            | "!="
            | "<"
            | "<="
            | ">"
            | ">="
            | "~="
            | ".."
            | "="
            | "<-"
            | "->"
            | "|>"
            | "and"
            | "or"
            | "not"
            | "~"
            | "&"
            | "<<"
            | ">>"
            | "xor"
            | "bit_or"
            | "in"
            | "yield"
    )
}

/// The place to blame for a failure at `at`: the operator before it, if it is on an earlier line and lacks its operand.
pub(super) fn blamed(text: &str, scan: &Scan, at: usize) -> usize {
    let end = previous_end(text, scan, at);
    let newline_between = text[end..at].contains('\n') || at >= text.len();
    if newline_between && wants_operand(previous_token(text, end)) { end.saturating_sub(1) } else { at }
}

/// For a `{` that starts a line though no statement can start with it: the blanks in front of it.
pub(super) fn stray_block(text: &str, scan: &Scan, at: usize) -> Option<std::ops::Range<usize>> {
    let end = previous_end(text, scan, at);
    (text[at..].starts_with('{') && end > 0 && text[end..at].contains('\n')).then_some(end..at)
}

/// Whether the failure at `at` is about one of these words.
pub(super) fn involves(text: &str, scan: &Scan, at: usize, words: &[String]) -> bool {
    let previous = previous_token(text, previous_end(text, scan, at));
    words.iter().any(|w| w == previous || w == token(text, at))
}

/// The innermost open bracket at `at`.
pub(super) fn innermost(scan: &Scan, at: usize) -> Option<Bracket> {
    let mut open = Vec::new();
    for b in scan.brackets.iter().take_while(|b| b.at < at) {
        match b.byte {
            b'(' | b'[' | b'{' => open.push(*b),
            _ => {
                open.pop();
            }
        }
    }
    open.pop()
}

/// What pest expected, in words; `None` where only the context can tell.
pub(super) fn expectation(expected: &[Rule]) -> Option<&'static str> {
    use Rule::*;
    let has = |rules: &[Rule]| expected.iter().any(|r| rules.contains(r));
    if has(&[ty, ty_atom, ty_fn, ty_tuple, ty_record, ty_list]) {
        return Some("a type");
    }
    if has(&[ty_colon]) {
        return Some("`:` and a type");
    }
    if has(&[add, sub, mul, div, power, matmul, pipe, and, or, eq_eq, lt, gt, call, index, dot_field, as_name, range_op]) {
        return None;
    }
    if has(&[expr, number, string, postfixed, lambda, lambda_name, lambda_params, neg, list, paren, arg, arith]) {
        return Some("an expression");
    }
    if has(&[stmt, expr_stmt, let_stmt]) {
        return Some("a statement");
    }
    if has(&[entry, setting, entry_field]) {
        return Some("a setting");
    }
    if has(&[item, fn_item, block_item, import_item]) {
        return Some("an item");
    }
    if has(&[pattern, pattern_tuple, pattern_record, let_indexed]) {
        return Some("a name");
    }
    if has(&[params]) {
        return Some("`(` and parameters");
    }
    if has(&[param]) {
        return Some("a parameter");
    }
    if has(&[name, path, field, import_path]) {
        return Some("a name");
    }
    if has(&[eq]) {
        return Some(if has(&[body]) { "`=` or `{`" } else { "`=`" });
    }
    if has(&[kw_in]) {
        return Some("`in`");
    }
    if has(&[comma]) {
        return Some("`,`");
    }
    if has(&[body, brace_record]) {
        return Some("`{`");
    }
    None
}

/// Message for a failure at byte `at` of a part.
pub(super) fn unexpected(builder: &Builder<'_>, part: &Part, scan: &Scan, at: usize, expected: &[Rule]) -> Diagnostic {
    let text = part.text.as_str();
    let span = |start: usize, end: usize| {
        let end = end.max(start + 1).min(text.len().max(start));
        Span::new(builder.source, part.base + start, part.base + end)
    };
    let found = token(text, at);
    let here = span(at, at + found.len());
    let end = previous_end(text, scan, at);
    let previous = previous_token(text, end);
    let previous_span = span(end - previous.len(), end);
    let line_break = text[end..at].contains('\n') || at >= text.len();
    let wants_type = expectation(expected) == Some("a type");

    if found == "<-" {
        return Diagnostic::error(codes::UPDATE, here, "`<-` is no part of an expression")
            .at("an update is a statement of its own")
            .help("for a comparison with a negative number write `< -`; otherwise put the update on a line of its own");
    }
    if wants_type || (previous == ":" && matches!(found, ")" | "," | "=" | "]" | "}" | "")) || (previous == "->" && found == "=") {
        return Diagnostic::error(
            codes::TYPE,
            if line_break { previous_span } else { here },
            format!("expected a type after `{previous}`{}", but(found)),
        )
        .help("for example `f32`, `f32[N, 3]`, `int` or `float[...]`");
    }
    if expectation(expected) == Some("`:` and a type") {
        return Diagnostic::error(codes::TYPE, previous_span, format!("a type is missing after `{previous}`"))
            .help(format!("write `{previous}: f32[N]`, with the type that is meant"));
    }
    if let (Some(opener), ")" | "]") = (innermost(scan, at), found)
        && opener.byte != b'{'
        && found.as_bytes()[0] != partner(opener.byte)
    {
        let open = opener.byte as char;
        return Diagnostic::error(codes::BRACKET, here, format!("this `{found}` cannot close a `{open}`"))
            .label(span(opener.at, opener.at + 1), "opened here")
            .help(format!("write `{}`", partner(opener.byte) as char));
    }
    if let Some(error) = character(found, here) {
        return error;
    }
    if stray_block(text, scan, at).is_some() {
        return Diagnostic::error(codes::UNEXPECTED, here, "a block starts on the line of its head")
            .label(previous_span, "write `{` behind this")
            .help("a newline ends a statement; move the `{` to the end of the line before");
    }
    if previous == "." && found.starts_with(|c: char| c.is_ascii_digit()) {
        return Diagnostic::error(codes::UNEXPECTED, here, "tuples have no fields").help("take the tuple apart: `let (a, b) = …`");
    }
    if let Some(error) = unknown_item(text, at, here, expected) {
        return error;
    }
    let names = [
        "let",
        "var",
        "const",
        "param",
        "buffer",
        "state",
        "shared",
        "fn",
        "layer",
        "model",
        "loss",
        "schedule",
        "optimizer",
        "data",
        "train",
        "for",
    ];
    let wants_name = matches!(expectation(expected), Some("a name" | "a parameter")) || names.contains(&previous);
    if is_reserved(found) && wants_name && !line_break {
        return Diagnostic::error(codes::RESERVED, here, format!("`{found}` is a reserved word"))
            .at("a name is expected here")
            .help(format!("choose another name, for example `{found}_`"));
    }
    if wants_operand(previous) && (line_break || matches!(found, ")" | "]" | "}" | "," | ";" | "")) {
        return Diagnostic::error(codes::UNEXPECTED, previous_span, format!("an operand is missing after `{previous}`"))
            .help(format!("write the operand, or remove `{previous}`"));
    }
    let what = match expectation(expected) {
        Some(what) => what.to_string(),
        None => match innermost(scan, at).map(|b| b.byte) {
            Some(b'(') => "an operator, `,` or `)`".into(),
            Some(b'[') => "an operator, `,` or `]`".into(),
            Some(_) => "an operator or the end of the line".into(),
            None => "an operator or the end of the item".into(),
        },
    };
    let ends = found.is_empty() || found.trim().is_empty();
    let after = if ends { format!(" after `{previous}`") } else { String::new() };
    let mut error =
        Diagnostic::error(codes::UNEXPECTED, if ends { previous_span } else { here }, format!("expected {what}{after}{}", but(found)));
    error.help = match found {
        "=" if innermost(scan, at).is_none_or(|b| b.byte == b'{') => {
            Some("`=` only follows the name in a binding: `let name = value`; compare with `==`".into())
        }
        "then" => Some("write `if c { a } else { b }`".into()),
        "," if text[..at].lines().next_back().is_some_and(|l| l.starts_with("import ")) => {
            Some("several names stand in braces: `import std.nn.{linear, relu}`".into())
        }
        _ if previous == "lambda" => Some("write `x -> x + 1`".into()),
        _ if what == "`=` or `{`" => Some("a body is `= expression`, or statements in braces that start on this line".into()),
        "=>" => Some("functions are written with `->`".into()),
        ":=" => Some("bind with `let name = value`, update with `name <- value`".into()),
        ":" if previous == ")" && what == "`=` or `{`" => Some("the type of the result follows `->`".into()),
        ":" if what.contains("`)`") => Some("arguments are named with `=`: `f(x, scale = 2)`".into()),
        ":" if innermost(scan, at).is_some_and(|b| b.byte == b'{') && previous.starts_with(char::is_alphabetic) => Some(format!(
            "fields of a record are written `{{ {previous} = value }}`; in groups of an optimizer a name is a pattern in quotes: `{{ \"{previous}\": sgd() }}`"
        )),
        "at" if text[at..].starts_with("at most") => Some("a comma stands before the bound: `while c, at most 100 { … }`".into()),
        "{" if what.contains("operator") => Some("begin a new line in front of a block".into()),
        _ if what == "an expression" && matches!(found, "*" | "/" | "+" | "@" | "^" | "%" | "==" | "<" | ">" | "|>" | "and" | "or") => {
            Some(format!("`{found}` needs an operand on its left"))
        }
        _ => None,
    };
    error
}

fn but(found: &str) -> String {
    match found {
        "" => ", but the text ends".into(),
        "\n" => ", but the line ends".into(),
        "\u{1}" => String::new(),
        other => format!(", found `{other}`"),
    }
}

/// Characters that are not in the language.
fn character(found: &str, here: Span) -> Option<Diagnostic> {
    let c = found.chars().next()?;
    let help = match c {
        '!' if found == "!" => "write `not`",
        '\'' => "strings are written with `\"`",
        '?' => "write `if c { a } else { b }`",
        '$' | '`' | '\\' => "remove it",
        '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}' => "use the plain quote `\"`",
        '\u{2212}' | '\u{2013}' => "use the plain minus `-`",
        '×' | '·' => "write `*`",
        '≤' => "write `<=`",
        '≥' => "write `>=`",
        '≠' => "write `!=`",
        '←' => "write `<-`",
        '→' => "write `->`",
        '\u{a0}' => "use a plain space",
        c if c.is_control() && !c.is_whitespace() && c != '\u{1}' => "remove the control character",
        c if !c.is_ascii() && !c.is_alphanumeric() => "remove it",
        _ => return None,
    };
    let shown = if c.is_control() || c.is_whitespace() { c.escape_unicode().to_string() } else { c.to_string() };
    Some(Diagnostic::error(codes::CHARACTER, here, format!("`{shown}` is not in the language")).help(help))
}

/// The first word of an item that is none.
fn unknown_item(text: &str, at: usize, here: Span, expected: &[Rule]) -> Option<Diagnostic> {
    let first = text.len() - text.trim_start().len();
    let wants_item = expectation(expected) == Some("an item") || at == first;
    let word = token(text, at);
    if !wants_item || !word.starts_with(|c: char| c.is_alphabetic()) || ITEM_WORDS.contains(&word) {
        return None;
    }
    let error = Diagnostic::error(codes::ITEM, here, format!("no item starts with `{word}`"));
    let known = [
        "model",
        "layer",
        "loss",
        "optimizer",
        "schedule",
        "data",
        "train",
        "experiment",
        "import",
        "const",
        "type",
        "fn",
        "search",
        "extern",
    ];
    Some(error.help(match word {
        "def" | "func" | "function" | "fun" => "write `fn`".into(),
        "class" | "struct" | "module" => "write `model`, `layer` or `type`".into(),
        "let" | "var" => "at top level write `const name = value`".into(),
        "from" | "use" | "include" | "using" => "write `import std.nn.{linear, relu}` or `import \"file.opt\"`".into(),
        _ => match nearest(word, known) {
            Some(near) => format!("did you mean `{near}`"),
            None => format!("items start with one of {}", known.map(|k| format!("`{k}`")).join(", ")),
        },
    }))
}
