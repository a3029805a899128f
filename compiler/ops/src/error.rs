//! What an operation says when its operands do not fit.

use optc_base::{Code, Diagnostic, Span};
use std::ops::{Deref, DerefMut};

/// A mistake in the use of an operation, before it has a place: the elaborator knows the span of the call.
#[derive(Clone, Debug, PartialEq)]
pub struct OpError(Box<Facts>);

/// What an [`OpError`] knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Its code (E03xx types, E04xx shapes, E05xx values, E07xx not yet supported).
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// The place to blame, if it is narrower than the whole call.
    pub at: Option<Span>,
    /// Words under the primary span.
    pub label: String,
    /// Other places.
    pub labels: Vec<(Span, String)>,
    /// Facts (both shapes with the offending dimension marked).
    pub notes: Vec<String>,
    /// How to mend it.
    pub help: Option<String>,
}

/// The result of an operation.
pub type Res<T> = Result<T, OpError>;

impl Deref for OpError {
    type Target = Facts;
    fn deref(&self) -> &Facts {
        &self.0
    }
}
impl DerefMut for OpError {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.0
    }
}

impl OpError {
    /// An error with a message.
    pub fn new(code: &'static str, message: impl Into<String>) -> OpError {
        OpError(Box::new(Facts {
            code: Code(code),
            message: message.into(),
            at: None,
            label: String::new(),
            labels: Vec::new(),
            notes: Vec::new(),
            help: None,
        }))
    }
    /// A fact.
    pub fn note(mut self, note: impl Into<String>) -> OpError {
        self.notes.push(note.into());
        self
    }
    /// How to mend it.
    pub fn help(mut self, help: impl Into<String>) -> OpError {
        self.help = Some(help.into());
        self
    }
    /// The narrower place to blame.
    pub fn at(mut self, span: Span, label: impl Into<String>) -> OpError {
        (self.at, self.label) = (Some(span), label.into());
        self
    }
    /// Another place involved.
    pub fn label(mut self, span: Span, label: impl Into<String>) -> OpError {
        self.labels.push((span, label.into()));
        self
    }
    /// The diagnostic, blaming `call` unless a narrower place is known.
    pub fn diagnostic(self, call: Span) -> Diagnostic {
        let facts = *self.0;
        let mut d = Diagnostic::error(facts.code, facts.at.unwrap_or(call), facts.message).at(facts.label);
        for (span, text) in facts.labels {
            d = d.label(span, text);
        }
        for note in facts.notes {
            d = d.note(note);
        }
        match facts.help {
            Some(help) => d.help(help),
            None => d,
        }
    }
}
