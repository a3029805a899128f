//! Tasks that a search names: those it is scored on, and those its best is measured on when it ends.

use super::{Read, Rung, SearchSpec, TaskSpec, bad, expressions, name_of, number, once, only, unknown, whole};
use crate::search::task::{overriding, train_of};
use crate::session::Session;
use optc_base::{Diagnostic, nearest};
use optc_front::ast::{Expr, ExprKind, Setting};
use optc_front::{Def, ModuleId, std_lib};

/// Settings that a search has its own of.
const OWN: &[&str] = &["optimizer", "seed", "accumulate"];

impl SearchSpec {
    pub(super) fn set_task(&mut self, session: &Session, s: &Setting) -> Read<()> {
        let mut task = named(session, only(s)?)?;
        once(s.options.iter().map(|(name, _)| name))?;
        for (name, value) in &s.options {
            match &*name.text {
                "weight" => task.weight = number(value)?,
                _ => return Err(unknown(name, "`task`", ["weight"].into_iter())),
            }
        }
        if !(task.weight > 0.0 && task.weight.is_finite()) {
            return Err(bad(s.span, "the weight of a task is above 0"));
        }
        self.tasks.push(task);
        Ok(())
    }

    pub(super) fn set_held_out(&mut self, session: &Session, s: &Setting) -> Read<()> {
        self.held_out = several(session, s, "`held_out [valley, teacher_student(depth = 4)]`")?;
        Ok(())
    }

    /// `validation [deep_linear, autoencoder], every = 5, patience = 10`
    pub(super) fn set_validation(&mut self, session: &Session, s: &Setting) -> Read<()> {
        self.validation = several(session, s, "`validation [deep_linear, autoencoder], every = 5, patience = 10`")?;
        once(s.options.iter().map(|(name, _)| name))?;
        for (name, value) in &s.options {
            match &*name.text {
                "every" => self.validate_every = whole(value, 1, 1 << 30, "the number of rounds")?,
                "patience" => self.patience = whole(value, 1, 1 << 30, "the number of measurements")? as usize,
                _ => return Err(unknown(name, "`validation`", ["every", "patience"].into_iter())),
            }
        }
        Ok(())
    }
}

/// Tasks of a setting that names at least one.
fn several(session: &Session, s: &Setting, help: &str) -> Read<Vec<TaskSpec>> {
    let e = only(s)?;
    let all: Vec<&Expr> = if let ExprKind::List(items) = &e.kind { items.iter().collect() } else { vec![e] };
    if all.is_empty() {
        return Err(bad(e.span, "names of tasks are expected here").help(help));
    }
    all.into_iter().map(|e| named(session, e)).collect()
}

impl SearchSpec {
    /// `[{ steps = 300, keep = 20% }, { steps = 1000, keep = 10%, beat = [adamw, lion] }]`
    pub(super) fn set_funnel(&mut self, session: &Session, e: &Expr) -> Read<()> {
        let all: Vec<&Expr> = if let ExprKind::List(items) = &e.kind { items.iter().collect() } else { vec![e] };
        let help = "`funnel [{ steps = 300, keep = 20% }, { steps = 1000, keep = 10%, beat = [adamw] }]`";
        if all.is_empty() {
            return Err(bad(e.span, "a funnel has rungs").help(help));
        }
        let rung = |e: &Expr| {
            let ExprKind::Record(fields) = &e.kind else { return Err(bad(e.span, "a rung of a funnel is a record").help(help)) };
            let mut rung = Rung { steps: None, keep: 1.0, beat: Vec::new() };
            for (path, value) in fields {
                let [name] = &path[..] else { return Err(bad(value.span, "settings of a rung have one name").help(help)) };
                match &*name.text {
                    "steps" => rung.steps = Some(whole(value, 1, 1_000_000, "the number of steps")?),
                    "keep" => {
                        rung.keep = number(value)?;
                        if !(rung.keep > 0.0 && rung.keep <= 1.0) {
                            return Err(bad(value.span, "a share above 0 and of at most 1 is kept").help("`keep = 20%`"));
                        }
                    }
                    "beat" => rung.beat = expressions(session, value),
                    _ => return Err(unknown(name, "a rung of a funnel", ["steps", "keep", "beat"].into_iter())),
                }
            }
            Ok(rung)
        };
        self.funnel = all.into_iter().map(rung).collect::<Read<_>>()?;
        Ok(())
    }
}

/// The names of tasks in results: that of the train, and its settings where it is there several times.
///
/// # Errors
/// A task that is there twice.
pub(super) fn label(spec: &mut SearchSpec) -> Read<()> {
    let of_all = spec.tasks.iter().chain(&spec.validation).chain(&spec.held_out);
    let all: Vec<(String, Vec<String>)> = of_all.map(|t| (t.train.clone(), t.set.clone())).collect();
    let (searched, looked_at) = (spec.tasks.len(), spec.tasks.len() + spec.validation.len());
    for (k, t) in spec.tasks.iter_mut().chain(&mut spec.validation).chain(&mut spec.held_out).enumerate() {
        if let Some(before) = all[..k].iter().position(|o| *o == all[k]) {
            let twice = if before < looked_at && k >= looked_at {
                let where_else = if before < searched { "a task of the search" } else { "one of its validation" };
                bad(t.span, format!("`{}` is held out, and {where_else}", t.train))
                    .help("a task that selects programs says nothing new about them; hold out another, or a variant: `held_out [train(width = 64)]`")
            } else if before < searched && k >= searched {
                bad(t.span, format!("`{}` is for validation, and a task of the search", t.train))
                    .help("validation is on tasks that select no parent: another, or a variant: `validation [train(width = 64)]`")
            } else {
                bad(t.span, format!("`{}` is there twice with the same settings", t.train))
            };
            return Err(twice);
        }
        let alone = all.iter().filter(|o| o.0 == t.train).count() == 1;
        t.label =
            if alone || t.set.is_empty() { t.train.clone() } else { format!("{}({})", t.train, t.set.join(", ").replace('=', " = ")) };
    }
    Ok(())
}

/// The train that an expression names, with the settings it gives: `name`, `name(d = 4)`, `name { steps = 300 }`, `run name with { steps = 300 }`.
fn named(session: &Session, e: &Expr) -> Read<TaskSpec> {
    let (mut set, mut given) = (Vec::new(), Vec::new());
    let target = match &e.kind {
        ExprKind::Run { target, overrides } => {
            let head = named(session, target)?;
            set.extend(head.set);
            given.extend(head.given);
            if let Some(record) = overrides {
                let ExprKind::Record(fields) = &record.kind else {
                    return Err(bad(record.span, "settings of a task are written out").help("`task digits_mlp { steps = 300 }`"));
                };
                for (path, value) in fields {
                    let name: Vec<&str> = path.iter().map(|n| &*n.text).collect();
                    push(session, &mut set, &name.join("."), value)?;
                    given.retain(|(other, _)| *other != name.join("."));
                    given.push((name.join("."), value.span));
                }
            }
            return Ok(TaskSpec { set, given, ..head });
        }
        ExprKind::Call { callee, args } => {
            for arg in args {
                let Some(name) = &arg.name else {
                    return Err(bad(arg.value.span, "arguments of a task have names").help("`teacher_student(width = 64)`"));
                };
                push(session, &mut set, &name.text, &arg.value)?;
                given.retain(|(other, _)| **other != *name.text);
                given.push((name.text.to_string(), arg.value.span));
            }
            &**callee
        }
        _ => e,
    };
    let train = path(target).ok_or_else(|| bad(e.span, "a task is a train").help("`task digits_mlp { steps = 300 }`"))?;
    if train_of(&session.program, ModuleId(0), &train).is_none() {
        return Err(unknown_train(session, target, &train));
    }
    Ok(TaskSpec { label: train.clone(), train, set, weight: 1.0, span: target.span, given })
}

fn push(session: &Session, set: &mut Vec<String>, name: &str, value: &Expr) -> Read<()> {
    if OWN.contains(&name) {
        return Err(bad(value.span, format!("the `{name}` of a task is the search's own")));
    }
    *set = overriding(set, &[format!("{name}={}", session.program.sources.slice(value.span))]);
    Ok(())
}

/// `name`, `module.name`
fn path(e: &Expr) -> Option<String> {
    match &e.kind {
        ExprKind::Name(n) => Some(n.to_string()),
        ExprKind::Field(of, n) => Some(format!("{}.{}", name_of(of)?, n.text)),
        _ => None,
    }
}

fn unknown_train(session: &Session, target: &Expr, train: &str) -> Diagnostic {
    let module = ModuleId(0);
    if let Some(Def::Item(_)) = session.program.lookup(module, train) {
        return bad(target.span, format!("`{train}` is no train"))
            .help("a task is any `train` block; its optimizer is replaced by the candidate");
    }
    let d = bad(target.span, format!("there is no train `{train}` in this file"));
    if let Some(path) = std_lib::std_lookup(train) {
        return d.help(format!("missing import: `import {path}`"));
    }
    let scope = session.program.module(module).scope.keys().map(|k| &**k);
    let trains: Vec<&str> = scope.filter(|name| train_of(&session.program, module, name).is_some()).collect();
    match nearest(train, trains.iter().copied()) {
        Some(near) => d.help(format!("did you mean `{near}`")),
        None => d.help("a task is any `train` block of the file, or one that it imports (`import std.search.tasks.valley`); its optimizer is replaced by the candidate"),
    }
}
