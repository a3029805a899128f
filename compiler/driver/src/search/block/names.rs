//! What a `search` block names is looked up where the spec is checked: optimizers with their arguments, settings of tasks, the metric. Each is checked as a line behind the spec that says the same,
//! and what is wrong with it is told where the block says it.

use super::{SearchSpec, TaskSpec, bad};
use crate::search::task::train_of;
use crate::session::{Files, Session, canonical};
use crate::synthetic::{called, completed, missing_imports};
use optc_base::{Diagnostic, Label, Severity, SourceId, Span, nearest};
use optc_front::ModuleId;
use optc_front::ast::{BlockEntry, BlockItem, ItemKind};
use std::fmt::Write;

/// Lines behind a spec, and what parts of them are in its block.
#[derive(Default)]
struct Lines {
    text: String,
    /// Where a part begins and ends in the text, the words of the block that it is, and whether these are the same words.
    parts: Vec<(usize, usize, Span, bool)>,
    count: usize,
}

impl Lines {
    /// Words of the block.
    fn words(&mut self, words: &str, span: Span) {
        let begin = self.text.len();
        self.text.push_str(words);
        self.parts.push((begin, self.text.len(), span, words.len() == (span.end - span.start) as usize));
    }

    /// An optimizer that is the expression.
    fn optimizer(&mut self, session: &Session, expression: &str, span: Span) {
        let _ = write!(self.text, "optimizer _named_{}() = ", self.count);
        self.count += 1;
        let plain = expression.chars().all(|c| c.is_alphanumeric() || c == '_');
        if plain {
            let whole = completed(expression, Some(&session.path));
            let whole = called(&whole);
            match whole.strip_prefix(expression) {
                Some(rest) => {
                    self.words(expression, span);
                    self.text.push_str(rest);
                }
                None => self.words(&whole, span),
            }
        } else {
            self.words(expression, span);
        }
        self.text.push('\n');
    }

    /// A run of a task.
    fn task(&mut self, session: &Session, t: &TaskSpec) {
        let _ = write!(self.text, "experiment _named_{} {{ run ", self.count);
        self.count += 1;
        self.words(&t.train, t.span);
        for (k, (name, span)) in t.given.iter().enumerate() {
            let _ = write!(self.text, "{}{name} = ", if k == 0 { " with { " } else { ", " });
            self.words(session.program.sources.slice(*span), *span);
        }
        self.text.push_str(if t.given.is_empty() { " }\n" } else { " } }\n" });
    }

    /// Where the block says what stands at a place of the text.
    fn place(&self, start: usize, end: usize) -> Option<Span> {
        let (begin, _, span, same) = self.parts.iter().find(|(begin, over, ..)| *begin <= start && start < *over)?;
        if !same {
            return Some(*span);
        }
        let (from, to) = (span.start as usize + start - begin, span.start as usize + end - begin);
        Some(Span::new(span.source, from, to.min(span.end as usize).max(from)))
    }
}

/// What is wrong with names in searches.
pub(super) fn check(session: &Session, specs: &[SearchSpec]) -> Vec<Diagnostic> {
    let mut lines = Lines::default();
    for spec in specs {
        let beat = spec.funnel.iter().flat_map(|r| &r.beat);
        for (expression, span) in spec.starts.iter().chain(beat) {
            lines.optimizer(session, expression, *span);
        }
        for t in all_tasks(spec) {
            lines.task(session, t);
        }
    }
    let mut found: Vec<Diagnostic> = specs.iter().flat_map(|spec| metrics(session, spec)).collect();
    // A spec that does not parse has been told so.
    if lines.count == 0 || session.has_errors() {
        return found;
    }
    let imports: String = specs
        .iter()
        .flat_map(|s| s.starts.iter().chain(s.funnel.iter().flat_map(|r| &r.beat)))
        .map(|(expression, _)| {
            missing_imports(&completed(expression, Some(&session.path)), |n| session.program.lookup(ModuleId(0), n).is_some())
        })
        .collect();
    let mut imports: Vec<&str> = imports.lines().collect();
    imports.sort_unstable();
    imports.dedup();
    let base = session.text.len() + 1;
    let text = format!("{}\n{}{}\n", session.text, lines.text, imports.join("\n"));
    let own = Session::from_text(&canonical(&session.path), text, &Files);
    let all = own.diagnostics.iter().cloned().chain(optc_elab::check(&own.program));
    for d in all.filter(|d| d.severity == Severity::Error) {
        let Some(span) = moved(session, &own, &lines, base, d.primary.span).filter(|_| behind(d.primary.span, base)) else { continue };
        let value = specs.iter().flat_map(all_tasks).flat_map(|t| &t.given).any(|(_, s)| s.start <= span.start && span.end <= s.end);
        // Names in a setting's value are those of the module that has the train.
        if value && d.code.0 == "E0220" {
            continue;
        }
        let label = |l: &Label| Some(Label { span: moved(session, &own, &lines, base, l.span)?, ..l.clone() });
        let secondary = d.secondary.iter().filter_map(label).collect();
        found.push(Diagnostic { primary: Label { span, ..d.primary.clone() }, secondary, ..d });
    }
    found.dedup();
    found
}

/// Tasks of all kinds.
fn all_tasks(spec: &SearchSpec) -> impl Iterator<Item = &TaskSpec> {
    spec.tasks.iter().chain(&spec.validation).chain(&spec.held_out)
}

/// Whether a place is in the lines behind a spec.
fn behind(span: Span, base: usize) -> bool {
    span.source == SourceId(0) && span.start as usize >= base
}

/// A place of the longer spec in the sources of the spec itself; nothing where it has none.
fn moved(session: &Session, own: &Session, lines: &Lines, base: usize, span: Span) -> Option<Span> {
    if behind(span, base) {
        return lines.place(span.start as usize - base, span.end as usize - base);
    }
    let source = own.program.sources.get(span.source)?;
    let (id, _) = session.program.sources.iter().find(|(id, s)| s.name == source.name && (id.0 > 0 || span.source.0 == 0))?;
    Some(Span { source: id, ..span })
}

/// Tasks whose trains do not have the metric that the search is scored by.
fn metrics(session: &Session, spec: &SearchSpec) -> Vec<Diagnostic> {
    let Some(metric) = &spec.metric else { return Vec::new() };
    let mut found: Vec<Diagnostic> = Vec::new();
    for t in all_tasks(spec) {
        let Some(item) = train_of(&session.program, ModuleId(0), &t.train) else { continue };
        let ItemKind::Block(block) = &session.program.item(item).kind else { continue };
        let Some(names) = metrics_of(block) else { continue };
        if names.contains(&metric.as_str()) {
            continue;
        }
        let has = if names.is_empty() { "none".to_string() } else { names.join(", ") };
        let d = bad(spec.metric_span, format!("`{}` has no metric `{metric}`", t.train)).label(t.span, "a task of the search");
        found.push(match nearest(metric, names.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{near}`")),
            None => d.help(format!("its metrics: {has}; `loss` is the mean loss of its last steps")),
        });
    }
    found
}

/// Names of a train's metrics; nothing where they are not all written out.
fn metrics_of(block: &BlockItem) -> Option<Vec<&str>> {
    let settings = block.entries.iter().filter_map(|e| if let BlockEntry::Setting(s) = e { Some(s) } else { None });
    let values = settings.filter(|s| &*s.word.text == "metric").flat_map(|s| &s.values);
    values.map(|(name, _)| name.as_ref().map(|n| &*n.text)).collect()
}
