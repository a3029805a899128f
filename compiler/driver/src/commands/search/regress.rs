//! `optc search` of a formula: running it, going on with it, and what its archive holds.

use super::finish::write_emitted;
use super::hunt::{budget, can_emit, trouble, watch};
use crate::cli::SearchOptions;
use crate::commands::{date, say};
use crate::messages::Messages;
use crate::search::archive::{Archive, RunRow};
use crate::search::emit::rounded;
use crate::search::files::{self, Hashes};
use crate::search::regress::archive::FormulaRow;
use crate::search::regress::block::{self, Spec};
use crate::search::regress::hunt::{Hunt, best};
use crate::search::regress::{data, emit, report};
use crate::session::{Failed, Session};
use optc_front::ast::BlockItem;
use std::path::Path;
use std::time::{Duration, Instant};

fn spec_of(session: &Session, block: &BlockItem, messages: &Messages) -> Result<Spec, Failed> {
    block::read(session, block).map_err(|found| {
        messages.print(&found, &session.program.sources);
        Failed
    })
}

fn hunt(
    session: &Session,
    spec: Spec,
    file: &Path,
    mut archive: Archive,
    state: &str,
    options: &SearchOptions,
    messages: &Messages,
) -> Result<Hunt, Failed> {
    let loss = data::loss(file, &spec).map_err(|(found, own)| {
        messages.print(&found, own.as_ref().map_or(&session.program.sources, |s| &s.program.sources));
        Failed
    })?;
    let data = data::load(session, &spec).map_err(|found| {
        messages.print(&found, &session.program.sources);
        Failed
    })?;
    let read = Hashes::of(file, data.files.iter().cloned());
    read.and_then(|read| read.same_data(&mut archive)).map_err(|why| trouble(&why, None, messages))?;
    let jobs = options.jobs.clamp(1, spec.strategy.islands);
    Hunt::new(spec, data, loss, archive, state, jobs).map_err(|why| trouble(&why, None, messages))
}

/// The setting of an archive that tells what is searched, and its value for formulas.
const KIND: (&str, &str) = ("kind", "formula");

/// Whether an archive is that of a search for a formula.
pub fn is_formula(path: &Path) -> bool {
    Archive::open(path).is_ok_and(|a| a.setting(KIND.0).is_ok_and(|kind| kind.as_deref() == Some(KIND.1)))
}

/// Runs a search for a formula.
///
/// # Errors
/// If that fails; why has been printed.
pub fn run(session: &Session, block: &BlockItem, file: &Path, options: &SearchOptions, messages: &Messages) -> Result<(), Failed> {
    let spec = spec_of(session, block, messages)?;
    let path = crate::host_env::folder_of(file).join(&spec.archive);
    let row = RunRow { spec: file.to_string_lossy().into_owned(), spec_text: session.text.clone(), name: spec.name.clone() };
    let limit = budget(spec.budget, 0.0, options, messages)?;
    can_emit(file, spec.emit.as_deref(), messages)?;
    let mut archive = Archive::create(&path, &row).map_err(|why| {
        let help = format!("`optc search resume {}` goes on with it; remove it, or give `archive` another path", path.display());
        trouble(&format!("cannot make an archive: {why}"), Some(&help), messages)
    })?;
    let begin = |archive: &mut Archive| {
        archive.set(KIND.0, KIND.1)?;
        archive.set("seed", &spec.seed.to_string())?;
        archive.set("steers", &files::steers(session, block, None))?;
        archive.set("imports", &Hashes::imports(session).text())?;
        archive.set("started", &date())
    };
    begin(&mut archive).map_err(|why| trouble(&why, None, messages))?;
    match hunt(session, spec, file, archive, "", options, messages) {
        Ok(hunt) => go(hunt, file, &path, limit, options, messages),
        Err(failed) => {
            // An archive in which nothing is.
            let _ = std::fs::remove_file(&path);
            Err(failed)
        }
    }
}

/// Goes on with a search for a formula.
///
/// # Errors
/// If that fails; why has been printed.
pub fn resume(
    session: &Session,
    block: &BlockItem,
    file: &Path,
    (path, archive, state): (&Path, Archive, &str),
    options: &SearchOptions,
    messages: &Messages,
) -> Result<(), Failed> {
    let spec = spec_of(session, block, messages)?;
    let no = |why: String| trouble(&why, None, messages);
    let limit = budget(spec.budget, archive.elapsed().map_err(no)?, options, messages)?;
    can_emit(file, spec.emit.as_deref(), messages)?;
    let hunt = hunt(session, spec, file, archive, state, options, messages)?;
    go(hunt, file, path, limit, options, messages)
}

/// Says what formulas cost.
///
/// # Errors
/// If that fails; why has been printed.
pub fn time(session: &Session, block: &BlockItem, file: &Path, seconds: f64, messages: &Messages) -> Result<(), Failed> {
    let spec = spec_of(session, block, messages)?;
    let archive = Archive::none().map_err(|why| trouble(&why, None, messages))?;
    let mut hunt = hunt(session, spec, file, archive, "", &SearchOptions::default(), messages)?;
    let begin = Instant::now();
    let (mut rounds, mut state) = (0u64, hunt.state.clone());
    while begin.elapsed().as_secs_f64() < seconds.clamp(0.01, 3600.0) {
        hunt.problem.round(&mut state, 1);
        rounds += 1;
    }
    let spent = begin.elapsed().as_secs_f64();
    hunt.state = state;
    let c = hunt.state.counters();
    let views: Vec<&str> = hunt.problem.views().into_iter().map(optc_search::regress::view::View::name).collect();
    say(&format!(
        "{} formulas in {spent:.1} s on one thread, {} rows each: {:.0} in a second, {:.0} evaluated ({} rounds, {} formulas of the target fitted); views: {}",
        c.children,
        hunt.rows().0,
        c.children as f64 / spent,
        c.evaluated as f64 / spent,
        rounds,
        c.fitted,
        views.join(", ")
    ));
    Ok(())
}

/// Runs, tells, and writes what was found.
fn go(
    mut hunt: Hunt,
    file: &Path,
    archive: &Path,
    limit: crate::search::block::Budget,
    options: &SearchOptions,
    messages: &Messages,
) -> Result<(), Failed> {
    watch(options.quiet);
    let before = hunt.state.counters().children;
    let begin = Instant::now();
    let done = hunt.run(limit, |hunt, elapsed| {
        if !options.quiet {
            eprintln!("{}", line(hunt, elapsed, before));
        }
    });
    done.map_err(|why| trouble(&why, None, messages))?;
    let spent = begin.elapsed();
    let rows = hunt.finish().map_err(|why| trouble(&why, None, messages))?;
    say(&report::table(&rows, best(&rows)).text());
    let c = hunt.state.counters();
    let (fitted, held) = hunt.rows();
    let held = if held == 0 { String::new() } else { format!(", {held} held out") };
    say(&format!(
        "{} formulas, {} evaluated on {fitted} rows{held}, {:.0} s; archive {}",
        c.children,
        c.evaluated,
        spent.as_secs_f64(),
        archive.display()
    ));
    if let (Some(line), Some(control)) = (control_line(&hunt.control()), &hunt.state.control) {
        let c = control.counters();
        say(&format!("control, {} random formulas, {} evaluated: {line}", c.children, c.evaluated));
    }
    if let Some(k) = best(&rows) {
        say(&format!("{}({}) = {}", hunt.spec.name, hunt.spec.names().join(", "), rows[k].expression));
    }
    if let (Some(to), Some(text)) = (hunt.spec.emit.clone(), emit::emit(&hunt, &rows)) {
        let to = write_emitted(file, &to, &text, messages)?;
        say(&format!("the formulas: {}", to.display()));
    }
    Ok(())
}

/// One line about a search under way.
fn line(hunt: &Hunt, elapsed: Duration, before: u64) -> String {
    let c = hunt.state.counters();
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let front = hunt.problem.front(&hunt.state.hall);
    let last = front.last().map_or("none".to_string(), |w| {
        let expression = optc_search::print::formula(&w.formula, &hunt.spec.names());
        let short: String = if expression.chars().count() > 80 { expression.chars().take(79).chain(['…']).collect() } else { expression };
        format!("loss {} ({} nodes): {short}", rounded(w.loss), w.formula.size())
    });
    format!(
        "{seconds:6.1} s  {} formulas ({:.0}/s), {} in the front; {last}",
        c.children,
        (c.children - before) as f64 / seconds,
        front.len()
    )
}

/// The best of random formulas in words; nothing where there are none.
pub fn control_line(rows: &[FormulaRow]) -> Option<String> {
    let row = &rows[best(rows)?];
    let held = row.held_out.map_or(String::new(), |l| format!(", {} held out", rounded(l)));
    Some(format!("{} nodes, loss {}{held}, unexplained {}: {}", row.size, rounded(row.loss), rounded(row.unexplained), row.expression))
}

/// The largest formulas of a front, which have the least loss, with the best of all of it marked, or named where it is not among them.
pub fn top(rows: &[FormulaRow], n: usize) {
    let (from, chosen) = (rows.len().saturating_sub(n), best(rows));
    say(&report::table(&rows[from..], chosen.and_then(|k| k.checked_sub(from))).text());
    if let Some(row) = chosen.filter(|k| *k < from).map(|k| &rows[k]) {
        say(&format!("the best has {} nodes: {}", row.size, row.expression));
    }
}

/// What a search for a formula found, as text.
///
/// # Errors
/// An archive that cannot be read.
pub fn report(archive: &Archive, messages: &Messages) -> Result<(), Failed> {
    let no = |why: String| trouble(&why, None, messages);
    let (row, _) = archive.run().map_err(no)?;
    let rows = archive.formulas().map_err(no)?;
    say(&format!("search `{}` of {}", row.name, row.spec));
    say(&report::table(&rows, best(&rows)).text());
    if let Some(line) = control_line(&archive.random_formulas().map_err(no)?) {
        say(&format!("control, the best of as many random formulas: {line}"));
    }
    Ok(())
}

/// A formula of an archive, by its number of nodes.
///
/// # Errors
/// If there is none; why has been printed.
pub fn explain(archive: &Archive, rows: &[FormulaRow], nodes: &str, messages: &Messages) -> Result<(), Failed> {
    let Some(row) = rows.iter().find(|r| r.size.to_string() == nodes) else {
        let has: Vec<String> = rows.iter().map(|r| r.size.to_string()).collect();
        return Err(trouble(
            &format!("the archive has no formula of {nodes} nodes"),
            Some(&format!("formulas are named by their number of nodes: {}", has.join(", "))),
            messages,
        ));
    };
    let (run, _) = archive.run().map_err(|why| trouble(&why, None, messages))?;
    say(&format!("{} = {}", run.name, row.expression));
    say("");
    let line = |what: &str, value: String| say(&format!("  {what:<34}{value}"));
    line("nodes", row.size.to_string());
    line("loss", rounded(row.loss));
    line("share of the loss of a constant", rounded(row.unexplained));
    if let Some(held) = row.held_out {
        line("loss on rows that were held out", rounded(held));
    }
    line("found by", format!("island {}, child {}", row.island, row.child));
    line("in postfix form", row.postfix.clone());
    Ok(())
}
