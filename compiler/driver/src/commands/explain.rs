//! `optc explain`: stages of the compiler, parameters, error codes, the cost of an optimizer.

use super::{driver, say};
use crate::cli::Stage;
use crate::messages::Messages;
use crate::pipeline::CompileOptions;
use crate::session::{Failed, Session, params};
use crate::synthetic::Stored;
use crate::{cost, stages, synthetic};
use optc_base::nearest;
use optc_elab::TrainProgram;
use optc_elab::program::SlotKind;
use optc_elab::script::{self, LoweredCall};
use optc_front::ItemRef;
use optc_train::{Cell, Table, TrainError};
use std::path::Path;

/// What is asked.
pub struct Request<'a> {
    /// A spec or an error code.
    pub subject: &'a Option<String>,
    /// An item of the spec.
    pub name: &'a Option<String>,
    /// The stage.
    pub stage: Option<Stage>,
    /// An optimizer.
    pub optimizer: &'a Option<String>,
    /// Whether parameters are listed.
    pub params: bool,
    /// The GPU that kernels, plan and PTX are for.
    pub gpu: Option<&'a str>,
    /// Overrides.
    pub set: &'a [String],
}

/// Explains.
///
/// # Errors
/// An unknown code or name, a mistake in the spec.
pub fn explain(request: &Request<'_>, messages: &Messages) -> Result<(), Failed> {
    if let Some(expression) = request.optimizer {
        return optimizer(expression, request.subject.as_deref().map(Path::new), messages);
    }
    let Some(subject) = request.subject else {
        messages.error("", "name a spec or an error code", Some("`optc explain E0401`, `optc explain spec.opt --stage graph`"));
        return Err(crate::wrong_usage());
    };
    if is_code(subject) && request.stage.is_none() && !request.params {
        return code_page(&subject.to_uppercase(), messages);
    }
    let session = Session::open(Path::new(subject), request.set, messages)?;
    if request.params {
        return parameters(&session, request.name.as_deref(), messages);
    }
    stage(&session, request, messages)
}

/// `E0123`, `r0101`
fn is_code(text: &str) -> bool {
    text.len() == 5 && text.starts_with(['E', 'R', 'e', 'r']) && text[1..].bytes().all(|b| b.is_ascii_digit())
}

fn code_page(code: &str, messages: &Messages) -> Result<(), Failed> {
    if let Some(page) = optc_base::pages::page(code) {
        let page = page.trim_end();
        // Pages open with the title as a Markdown heading.
        let page = page.strip_prefix("# ").unwrap_or(page);
        say(&if page.starts_with(code) { page.to_string() } else { format!("{code}: {page}") });
        return Ok(());
    }
    if let Some(page) = optc_train::pages::page(code) {
        say(page.trim_end());
        return Ok(());
    }
    let known: Vec<&str> = optc_base::pages::all().iter().map(|p| p.0).collect();
    let help = nearest(code, known.iter().copied()).map(|n| format!("did you mean {n}"));
    messages.error("", &format!("there is no code {code}"), help.as_deref());
    Err(Failed)
}

/// The trains asked for: the one of this name, or all that can be lowered without arguments.
fn trains(session: &Session, name: Option<&str>, messages: &Messages) -> Result<Vec<ItemRef>, Failed> {
    let all = session.trains();
    let found = match name {
        Some(name) => session.find(name, &all, "train").map(|i| vec![i]),
        None => {
            let ready: Vec<ItemRef> = all.iter().copied().filter(|&i| !session.needs_arguments(i)).collect();
            if ready.is_empty() {
                Err((format!("{} has no train that could be looked at", session.path.display()), None))
            } else {
                Ok(ready)
            }
        }
    };
    found.map_err(|(message, help)| {
        messages.error("", &message, help.as_deref());
        Failed
    })
}

/// Lowers a train of a session.
pub(crate) fn lower(session: &Session, item: ItemRef, threads: usize, messages: &Messages) -> Result<TrainProgram, Failed> {
    let mut driver = driver(session, threads, true, false);
    script::lower_only(&session.program, item, &session.settings, &mut driver).map_err(|diagnostics| {
        messages.print(&diagnostics, &session.program.sources);
        Failed
    })
}

/// Lowers a call of a function of a session with the defaults of its parameters.
pub(crate) fn lower_call(session: &Session, item: ItemRef, threads: usize, messages: &Messages) -> Result<LoweredCall, Failed> {
    if let Some(p) = params(session.program.item(item)).iter().find(|p| p.default.is_none()) {
        let message = format!("`{}` needs an argument: its parameter `{}` has no default", session.name(item), p.name.text);
        messages.error("", &message, Some("a function without parameters that calls it can be looked at and timed"));
        return Err(Failed);
    }
    let mut driver = driver(session, threads, true, false);
    script::lower_call(&session.program, item, &session.settings, &mut driver).map_err(|diagnostics| {
        messages.print(&diagnostics, &session.program.sources);
        Failed
    })
}

fn stage(session: &Session, request: &Request<'_>, messages: &Messages) -> Result<(), Failed> {
    let (name, stage) = (request.name.as_deref(), request.stage.unwrap_or(Stage::Types));
    match stage {
        Stage::Ast => {
            let all: Vec<ItemRef> = session.items().filter(|(_, i)| i.name().is_some()).map(|(r, _)| r).collect();
            let item = match name.map(|n| session.find(n, &all, "item")).transpose() {
                Ok(item) => item,
                Err((message, help)) => {
                    messages.error("", &message, help.as_deref());
                    return Err(Failed);
                }
            };
            say(stages::ast(session, item).trim_end());
        }
        Stage::Hir => say(stages::names(session).trim_end()),
        Stage::Types => {
            for (item, what) in session.items() {
                if name.is_some_and(|n| n != session.name(item)) {
                    continue;
                }
                if let Some(signature) = stages::signature(&session.program.sources, what) {
                    say(&signature.line());
                }
                if session.trains().contains(&item) && !session.needs_arguments(item) {
                    let program = lower(session, item, 1, messages)?;
                    say(stages::slots(&program).trim_end());
                    match stages::sharing(&program, &session.program.sources) {
                        Ok(text) if text.is_empty() => {}
                        Ok(text) => say(text.trim_end()),
                        Err(e) => {
                            messages.trouble(&e);
                            return Err(Failed);
                        }
                    }
                }
            }
        }
        _ => {
            let none = |why: TrainError| {
                messages.trouble(&why);
                Failed
            };
            if let Some(item) = name.and_then(|n| session.function(n)) {
                let call = lower_call(session, item, 1, messages)?;
                say(stages::compiled(&call.graph, &CompileOptions::default(), stage, request.gpu).map_err(none)?.trim_end());
                return Ok(());
            }
            let items = trains(session, name, messages)?;
            for &item in &items {
                if items.len() > 1 {
                    say(&format!("# train {}", session.name(item)));
                }
                say(stages::step(&lower(session, item, 1, messages)?, stage, request.gpu).map_err(none)?.trim_end());
            }
        }
    }
    Ok(())
}

fn parameters(session: &Session, name: Option<&str>, messages: &Messages) -> Result<(), Failed> {
    let items = trains(session, name, messages)?;
    for &item in &items {
        let program = lower(session, item, 1, messages)?;
        let mut table = Table::new(["path", "type", "elements", "kind"]);
        let (mut trained, mut frozen, mut buffers) = (0usize, 0usize, 0usize);
        for slot in &program.slots {
            let kind = match slot.kind {
                SlotKind::Param => "param",
                SlotKind::Frozen => "frozen",
                SlotKind::Buffer => "buffer",
                SlotKind::State | SlotKind::Counter => continue,
            };
            let total = match slot.kind {
                SlotKind::Param => &mut trained,
                SlotKind::Frozen => &mut frozen,
                _ => &mut buffers,
            };
            *total += slot.ty.len();
            let text = |t: &str| Cell::Text(t.to_string());
            table.push([text(&slot.name), text(&slot.ty.to_string()), text(&grouped(slot.ty.len())), text(kind)]);
        }
        if items.len() > 1 {
            say(&format!("train {}", session.name(item)));
        }
        say(&table.text());
        let mut more = if frozen > 0 { format!(", {} more frozen", grouped(frozen)) } else { String::new() };
        if buffers > 0 {
            more += &format!(", {} elements of buffers", grouped(buffers));
        }
        say(&format!("{} parameters{more}", grouped(trained)));
    }
    Ok(())
}

/// `1_234_567`
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (k, c) in digits.chars().enumerate() {
        if k > 0 && (digits.len() - k).is_multiple_of(3) {
            out.push('_');
        }
        out.push(c);
    }
    out
}

/// The step of an optimizer on leaves of these shapes. A rule that only transforms gradients is followed by gradient descent; then the second result is true.
pub(crate) fn optimizer_step(
    expression: &str,
    file: Option<&Path>,
    shapes: &[Vec<usize>],
    stored: Stored,
    threads: usize,
    messages: &Messages,
) -> Result<(TrainProgram, Session, bool), Failed> {
    find_optimizer_step(expression, file, shapes, stored, threads).map_err(|session| {
        messages.print(&session.diagnostics, &session.program.sources);
        Failed
    })
}

/// [`optimizer_step`], but what is wrong is in the session that is returned.
pub(crate) fn find_optimizer_step(
    expression: &str,
    file: Option<&Path>,
    shapes: &[Vec<usize>],
    stored: Stored,
    threads: usize,
) -> Result<(TrainProgram, Session, bool), Session> {
    let expression = &*synthetic::completed(expression, file);
    let lowered = |text: &str, curved: bool| {
        let mut session = synthetic::optimizer(text, file, shapes, stored, curved);
        session.check();
        if session.has_errors() {
            return Err(session);
        }
        let Some(&item) = session.trains().last() else { return Err(session) };
        let mut driver = driver(&session, threads, true, false);
        match script::lower_only(&session.program, item, &session.settings, &mut driver) {
            Ok(program) => Ok((program, session)),
            Err(diagnostics) => {
                session.diagnostics.extend(diagnostics);
                Err(session)
            }
        }
    };
    let attempt = |text: &str| match lowered(text, false) {
        Ok((program, _)) if !program.step.asked_again.is_empty() => lowered(text, true),
        other => other,
    };
    match attempt(expression) {
        Ok((program, session)) if cost::changes_weights(&program) => Ok((program, session, false)),
        first => {
            if let Ok((program, session)) = attempt(&format!("{} |> sgd(lr = 0.01)", synthetic::called(expression))) {
                return Ok((program, session, true));
            }
            match first {
                Ok((program, session)) => Ok((program, session, false)),
                Err(session) => Err(session),
            }
        }
    }
}

fn optimizer(expression: &str, file: Option<&Path>, messages: &Messages) -> Result<(), Failed> {
    let (program, _, transform) = optimizer_step(expression, file, &[vec![1000, 1000]], Stored::F32, 1, messages)?;
    let cost = cost::cost(&program);
    let number = |x: f64| cost::rounded(x, 1000.0);
    let followed = if transform { ", followed by sgd(lr = 0.01)" } else { "" };
    let completed = synthetic::completed(expression, file);
    let shown = if completed == synthetic::called(expression) { expression } else { &*completed };
    say(&format!("{shown}{followed}: f32, one leaf of {} parameters", grouped(cost.parameters)));
    let line = |what: &str, value: String| say(&format!("  {what:<34}{value}"));
    line("state per parameter", format!("{} bytes", number(cost.state_bytes)));
    line(
        "moved per parameter and step",
        format!("{} bytes ({} read, {} written)", number(cost.read + cost.written), number(cost.read), number(cost.written)),
    );
    line("passes over memory", cost.passes.to_string());
    line("kernels", cost.kernels.to_string());
    if cost.library_calls > 0 {
        line("matrix products and sorts", cost.library_calls.to_string());
    }
    line("elementwise", if cost.needs.elementwise { "yes" } else { "no" }.to_string());
    let needs: Vec<String> = cost.needs.words().into_iter().filter(|w| w != "elementwise").collect();
    if !needs.is_empty() {
        line("needs", needs.join(", "));
    }
    if !cost.needs.loss.is_empty() {
        line("", "(figures include those of the loss of this measurement, a quadratic)".to_string());
    }
    if !program.step.hyper.is_empty() {
        let list: Vec<String> =
            program.step.hyper.iter().map(|(n, v)| format!("{} = {}", hyper_name(n), optc_abi::number::exact_as_stored(*v))).collect();
        line("hyperparameters (run-time inputs)", list.join(", "));
    }
    Ok(())
}

/// The name of a hyperparameter without the number of its stage: `adamw.lr` of `1.adamw.lr`.
pub(crate) fn hyper_name(name: &str) -> &str {
    match name.split_once('.') {
        Some((stage, rest)) if !stage.is_empty() && stage.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_and_numbers() {
        assert!(super::is_code("E0401") && super::is_code("r0101") && !super::is_code("E401") && !super::is_code("E040é"));
        assert_eq!(
            (super::grouped(1_234_567), super::grouped(999), super::grouped(1000)),
            ("1_234_567".into(), "999".into(), "1_000".into())
        );
    }
}
