//! The report of a search for a formula as one HTML file, made from its archive alone.

use super::super::archive::{Archive, VERSION};
use super::super::emit::rounded;
use super::super::report::Heading;
use super::archive::{self, FormulaRow};
use super::hunt::best;
use optc_search::regress::evolve::Counters;
use optc_train::report::Section;
use optc_train::{Cell, Line, Plot, Report, Table};
use std::path::Path;

/// Makes the report of an archive.
///
/// # Errors
/// An archive that cannot be read, in words.
pub fn report(archive: &Archive, path: &Path, heading: &Heading) -> Result<Report, String> {
    let (run, held) = archive.run()?;
    let (rows, control) = (archive.formulas()?, archive.random_formulas()?);
    let state = archive::read(&held)?;
    let mut facts = vec![("Archive".to_string(), path.display().to_string()), ("Version".to_string(), VERSION.to_string())];
    if let Some(seed) = archive.setting("seed")? {
        facts.push(("Seed".to_string(), seed));
    }
    let mut sections = vec![Section::Heading("Verdict".to_string())];
    sections.extend(verdict(&rows, &control).into_iter().map(Section::Text));
    sections.push(Section::Heading("Front".to_string()));
    sections.push(Section::Plot(chart(&rows, &control, "loss", |r| Some(r.loss))));
    if rows.iter().any(|r| r.held_out.is_some()) {
        sections.push(Section::Plot(chart(&rows, &control, "loss on rows that were held out", |r| r.held_out)));
    }
    sections.push(Section::Table(table(&rows, best(&rows))));
    if !control.is_empty() {
        sections.push(Section::Heading("Control: random formulas".to_string()));
        sections.push(Section::Table(table(&control, best(&control))));
    }
    sections.push(Section::Heading("Counters".to_string()));
    let mut counts = vec![("evolution", state.counters())];
    counts.extend(state.control.as_ref().map(|c| ("random", c.counters())));
    sections.push(Section::Table(counters(&counts)));
    sections.push(Section::Text(format!(
        "{} rounds; {} islands started anew.",
        state.rounds,
        state.islands.iter().map(|i| i.restarts).sum::<u64>()
    )));
    let (title, spec_name) = (format!("Search `{}`", run.name), run.spec.clone());
    let (command, date) = (heading.command.clone(), heading.date.clone());
    Ok(Report { title, spec_name, spec: run.spec_text, command, date, facts, sections })
}

/// What came out, in words.
fn verdict(rows: &[FormulaRow], control: &[FormulaRow]) -> Vec<String> {
    let Some(row) = best(rows).map(|k| &rows[k]) else { return vec!["No formula is finite on all rows.".to_string()] };
    let held = |r: &FormulaRow| r.held_out.map_or(String::new(), |l| format!(", and {} on rows that were held out", rounded(l)));
    let mut words = vec![
        format!("The best formula: {}", row.expression),
        format!(
            "It has {} nodes and a loss of {}, {} of that of the best number for all rows{}.",
            row.size,
            rounded(row.loss),
            rounded(row.unexplained),
            held(row)
        ),
    ];
    match control.iter().filter(|r| r.size <= row.size).min_by(|a, b| a.loss.total_cmp(&b.loss)) {
        Some(r) => words.push(format!(
            "Of as many random formulas, seen through the same views and fitted alike, the best of at most as many nodes leaves {}{}: {}",
            rounded(r.loss),
            held(r),
            r.expression
        )),
        None => words.push("There was no control of random formulas.".to_string()),
    }
    words
}

/// A loss over sizes.
fn chart(rows: &[FormulaRow], control: &[FormulaRow], what: &str, of: impl Fn(&FormulaRow) -> Option<f64>) -> Plot {
    let points = |rows: &[FormulaRow]| rows.iter().filter_map(|r| Some((r.size as f64, of(r)?))).collect::<Vec<_>>();
    let mut lines = vec![Line { name: "evolution".to_string(), curves: vec![points(rows)] }];
    if !control.is_empty() {
        lines.push(Line { name: "random".to_string(), curves: vec![points(control)] });
    }
    Plot {
        title: format!("The least {what} over the number of nodes"),
        x_label: "nodes".to_string(),
        y_label: what.to_string(),
        log_y: true,
        lines,
        ..Plot::default()
    }
}

/// Formulas with what they leave; one of them is the best.
pub fn table(rows: &[FormulaRow], chosen: Option<usize>) -> Table {
    let held = rows.iter().any(|r| r.held_out.is_some());
    let mut heads = vec!["", "nodes", "loss", "unexplained"];
    heads.extend(held.then_some("held out"));
    heads.push("formula");
    let mut table = Table::new(heads);
    for (k, r) in rows.iter().enumerate() {
        let mark = if chosen == Some(k) { "best" } else { "" };
        let mut cells = vec![mark.to_string(), r.size.to_string(), rounded(r.loss), rounded(r.unexplained)];
        if held {
            cells.push(r.held_out.map_or(String::new(), rounded));
        }
        cells.push(r.expression.clone());
        table.push(cells.into_iter().map(Cell::Text));
    }
    table
}

fn counters(all: &[(&str, Counters)]) -> Table {
    let mut table = Table::new(["arm", "formulas", "known", "evaluated", "not finite", "fitted to the target"]);
    for (name, c) in all {
        let numbers = [c.children, c.known, c.evaluated, c.invalid, c.fitted].map(|n| n.to_string());
        table.push([(*name).to_string()].into_iter().chain(numbers).map(Cell::Text));
    }
    table
}
