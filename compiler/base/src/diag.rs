//! Diagnostics: made where the fact is known, printed in one place.

use crate::source::{SourceMap, Span};
use codespan_reporting::diagnostic as cs;
use codespan_reporting::files::SimpleFiles;
use codespan_reporting::term;
use std::fmt;

/// A diagnostic code such as `E0401`: its number, and a page in `compiler/base/pages/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub &'static str);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// How serious a diagnostic is. Only errors stop the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The program means something, but probably not what was intended.
    Warning,
    /// The program is not accepted.
    Error,
}

/// A place involved in a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What is to be seen there; may be empty.
    pub message: String,
}

/// One message to the user: span, cause, fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its code.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// One sentence, lower case, no full stop.
    pub message: String,
    /// The place to blame; the first label printed.
    pub primary: Label,
    /// Other places involved.
    pub secondary: Vec<Label>,
    /// What was expected and found, or other facts.
    pub notes: Vec<String>,
    /// How to mend it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            primary: Label { span, message: String::new() },
            secondary: Vec::new(),
            notes: Vec::new(),
            help: None,
        }
    }
    /// A warning at `span`.
    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Self::error(code, span, message) }
    }
    /// Words under the primary span.
    pub fn at(mut self, message: impl Into<String>) -> Self {
        self.primary.message = message.into();
        self
    }
    /// Another place involved.
    pub fn label(mut self, span: Span, message: impl Into<String>) -> Self {
        self.secondary.push(Label { span, message: message.into() });
        self
    }
    /// A fact worth knowing.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
    /// How to mend it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The message with source lines, as a terminal shows it; `color` adds ANSI escapes.
    pub fn render(&self, sources: &SourceMap, color: bool) -> String {
        let mut files = SimpleFiles::new();
        for (_, source) in sources.iter() {
            files.add(source.name.clone(), source.text.to_string());
        }
        let severity = match self.severity {
            Severity::Error => cs::Severity::Error,
            Severity::Warning => cs::Severity::Warning,
        };
        let clamp = |span: Span| {
            let text = sources.get(span.source).map_or("", |s| &s.text);
            let start = text.floor_char_boundary((span.start as usize).min(text.len()));
            start..text.ceil_char_boundary((span.end as usize).clamp(start, text.len()))
        };
        let mut labels =
            vec![cs::Label::primary(self.primary.span.source.0 as usize, clamp(self.primary.span)).with_message(&self.primary.message)];
        labels
            .extend(self.secondary.iter().map(|l| cs::Label::secondary(l.span.source.0 as usize, clamp(l.span)).with_message(&l.message)));
        let mut notes: Vec<String> = self.notes.iter().map(|n| format!("note: {n}")).collect();
        notes.extend(self.help.iter().map(|h| format!("help: {h}")));
        let diagnostic =
            cs::Diagnostic::new(severity).with_code(self.code.0).with_message(&self.message).with_labels(labels).with_notes(notes);
        let config = term::Config::default();
        let printed = if color {
            let mut out = term::termcolor::Ansi::new(Vec::new());
            term::emit_to_write_style(&mut out, &config, &files, &diagnostic).map(|()| out.into_inner())
        } else {
            let mut out = term::termcolor::NoColor::new(Vec::new());
            term::emit_to_write_style(&mut out, &config, &files, &diagnostic).map(|()| out.into_inner())
        };
        match printed {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => format!("error[{}]: {}\n", self.code, self.message),
        }
    }

    /// The message as one JSON value (file, line, column, code, message, labels, notes, help).
    pub fn to_json(&self, sources: &SourceMap) -> serde_json::Value {
        let place = |l: &Label| {
            let (line, column) = sources.line_column(l.span);
            serde_json::json!({
                "file": sources.get(l.span.source).map(|s| s.name.as_str()),
                "line": line, "column": column, "start": l.span.start, "end": l.span.end, "message": l.message,
            })
        };
        serde_json::json!({
            "code": self.code.0,
            "severity": match self.severity { Severity::Error => "error", Severity::Warning => "warning" },
            "message": self.message,
            "primary": place(&self.primary),
            "labels": self.secondary.iter().map(place).collect::<Vec<_>>(),
            "notes": self.notes,
            "help": self.help,
        })
    }
}
