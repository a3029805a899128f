//! A spec: what is in it, and what is wrong with it.

use crate::shared::locked;
use crate::{Fault, handles, wrong};
use optc::host_env::{Driver, Settings};
use optc::session::{Files, kind, params};
use optc::{Session, stages, synthetic};
use optc_base::{Diagnostic, Severity, SourceMap, nearest};
use optc_elab::given::{Wanted, wanted};
use optc_front::ast::{ItemKind, Param};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A checked spec.
pub struct Module {
    /// The spec. Places of calls are added to its sources.
    pub session: Mutex<Session>,
}

/// Diagnostics as a fault, rendered and as data.
pub fn spec_fault(diagnostics: &[Diagnostic], sources: &SourceMap) -> Fault {
    let errors: Vec<&Diagnostic> = diagnostics.iter().filter(|d| d.severity == Severity::Error).collect();
    let rendered: Vec<String> = errors.iter().map(|d| d.render(sources, false).trim_end().to_string()).collect();
    Box::new(json!({
        "kind": "spec",
        "message": rendered.join("\n\n"),
        "diagnostics": diagnostics.iter().map(|d| d.to_json(sources)).collect::<Vec<_>>(),
    }))
}

/// The environment that a session's items are lowered in (one thread), or run in.
pub fn environment(session: &Session, threads: usize, quiet: bool) -> Driver {
    Driver::new(Settings { threads, quiet, color: false, spec: session.path.clone(), text: session.text.clone() })
}

/// A session without mistakes.
fn checked(mut session: Session) -> Result<Session, Fault> {
    session.check();
    if session.has_errors() { Err(spec_fault(&session.diagnostics, &session.program.sources)) } else { Ok(session) }
}

/// Loads a spec with overrides, and checks it.
///
/// # Errors
/// It cannot be read; mistakes in it.
pub fn open(path: Option<&str>, text: Option<&str>, name: &str, set: &[String], seed: Option<u64>, resume: bool) -> Result<Session, Fault> {
    let mut session = match (path, text) {
        (Some(path), _) => Session::load(Path::new(path)).map_err(|why| {
            let message = format!("cannot read {path}: {why}");
            Box::new(json!({ "kind": "spec", "message": message, "diagnostics": [{ "code": "R0101", "severity": "error", "message": message }] }))
        })?,
        (None, Some(text)) => Session::from_text(name, text.to_string(), &Files),
        (None, None) => return Err(wrong("a spec is a path or a text")),
    };
    session.set(set, seed, resume);
    checked(session)
}

/// Opens a spec: its number and what is in it.
///
/// # Errors
/// As [`open`].
pub fn open_module(path: Option<&str>, text: Option<&str>, name: &str) -> Result<Value, Fault> {
    let session = open(path, text, name, &[], None, false)?;
    let sources = &session.program.sources;
    let items: Vec<Value> = session
        .items()
        .filter(|(_, item)| item.name().is_some())
        .map(|(at, item)| {
            let shown = |p: &Param| sources.slice(p.span).split_whitespace().collect::<Vec<_>>().join(" ");
            let list: Vec<Value> = params(item)
                .iter()
                .map(|p| json!({ "name": &*p.name.text, "text": shown(p), "number": number(p), "optional": p.default.is_some() }))
                .collect();
            json!({ "name": session.name(at), "kind": kind(item), "doc": item.doc, "signature": stages::signature(sources, item).map(|s| s.line()), "params": list })
        })
        .collect();
    let warnings: Vec<Value> = session.diagnostics.iter().map(|d| d.to_json(sources)).collect();
    let number = handles::add(handles::Thing::Module(Arc::new(Module { session: Mutex::new(session) })));
    Ok(json!({ "module": number, "items": items, "warnings": warnings }))
}

fn number(param: &Param) -> String {
    match wanted(param) {
        Wanted::Constant => "constant".into(),
        Wanted::Number => "number".into(),
        Wanted::Scalar(dtype) => dtype.name().into(),
        Wanted::Any => "any".into(),
        Wanted::Array => "array".into(),
    }
}

/// The spec of a number.
///
/// # Errors
/// It is none.
pub fn module(number: u64) -> Result<Arc<Module>, Fault> {
    match &*handles::get(number)? {
        handles::Thing::Module(m) => Ok(m.clone()),
        _ => Err(wrong("this is no spec")),
    }
}

/// A spec whose first item is an optimizer that is this expression, in the sight of a spec at hand.
///
/// # Errors
/// Mistakes in it.
pub fn rule(expression: &str, file: Option<&str>, of: Option<u64>) -> Result<Session, Fault> {
    let around = of.map(module).transpose()?;
    let around = around.as_ref().map(|m| {
        let session = locked(&m.session);
        (session.path.to_string_lossy().into_owned(), session.text.clone())
    });
    let own = match (file, &around) {
        (Some(file), _) => Some(synthetic::Own::File(Path::new(file))),
        (None, Some((name, text))) => Some(synthetic::Own::Text { name, text }),
        (None, None) => None,
    };
    checked(synthetic::rule(expression, own))
}

/// The optimizers of the standard library, with the first line of what is said about each.
pub fn optimizers() -> Value {
    let mut all = serde_json::Map::new();
    for folder in optc_front::std_lib::std_folders().into_iter().filter(|f| *f == "std.optim" || f.starts_with("std.optim.")) {
        for name in optc_front::std_lib::std_members(folder) {
            let text = optc_front::std_lib::std_file_of(folder, name).map_or("", |f| f.text);
            let (file, _) = optc_front::parse(Default::default(), text);
            let found = file.items.iter().find_map(|item| match &item.kind {
                ItemKind::Fn(f) if f.kind == optc_front::ast::FnKind::Optimizer && &*f.name.text == name => Some(item.doc.clone()),
                _ => None,
            });
            if let Some(doc) = found {
                all.insert(name.to_string(), json!(doc.lines().next().unwrap_or_default()));
            }
        }
    }
    Value::Object(all)
}

/// The source of an item of the standard library, or the list of a folder.
///
/// # Errors
/// There is none of this name.
pub fn show(path: &str) -> Result<Value, Fault> {
    use optc_front::std_lib::{std_folders, std_lookup, std_members, std_source};
    if let Some(text) = std_source(path).or_else(|| std_source(&std_lookup(path)?)) {
        return Ok(json!(text.trim_end()));
    }
    let names: Vec<&str> = std_folders().into_iter().flat_map(std_members).collect();
    let last = path.rsplit('.').next().unwrap_or(path);
    let near = nearest(last, names).map(|n| format!("; did you mean `{n}`")).unwrap_or_default();
    Err(wrong(format!("the standard library has no `{path}`{near}")))
}
