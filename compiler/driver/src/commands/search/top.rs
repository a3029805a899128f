//! `optc search top`: the best programs of an archive, or the best of each form.

use super::archive::{of_optimizers, open, read, trouble};
use super::regress;
use crate::commands::say;
use crate::messages::Messages;
use crate::search::archive::{Archive, ProgramRow};
use crate::search::emit::rounded;
use crate::search::known::family;
use crate::search::report::short;
use crate::session::Failed;
use optc_search::evolve::Kind;
use optc_search::traits;
use optc_train::{Cell, Table};
use std::path::Path;

/// What is listed.
pub struct What<'a> {
    /// How many rows.
    pub n: usize,
    /// One row for each form.
    pub families: bool,
    /// Programs of this arm alone.
    pub arm: Option<&'a str>,
}

/// Programs whose forms are looked at, at most.
const LOOK: usize = 2000;
/// Programs that are read at a time.
const PAGE: usize = 200;

/// The best programs, or formulas.
///
/// # Errors
/// An archive that cannot be read, an arm that is none.
pub fn top(path: &Path, what: &What<'_>, messages: &Messages) -> Result<(), Failed> {
    let archive = open(path, messages)?;
    let no = |why: String| trouble(&why, None, messages);
    let formulas = archive.formulas().map_err(no)?;
    if !formulas.is_empty() {
        if what.families || what.arm.is_some() {
            of_optimizers(&archive, path, "top --families` and `--arm", messages)?;
        }
        regress::top(&formulas, what.n);
        return Ok(());
    }
    let arm = match what.arm {
        None => None,
        Some(name) => Some(Kind::named(name).ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
            trouble(&format!("there is no arm `{name}`"), Some(&format!("arms are {}", names.join(", "))), messages)
        })?),
    };
    let (rows, seen) = if what.families {
        forms(&archive, arm, what.n, messages)?
    } else {
        (archive.ranked(arm, (0, what.n)).map_err(no)?.into_iter().map(|r| (r, 1)).collect(), 0)
    };
    let axes = archive.axes().map_err(no)?;
    let front = archive.front(&axes).map_err(no)?;
    let mut heads = vec!["hash", "fitness", "arm", "statements", "states", "degree in g", "front", "program"];
    if what.families {
        heads.insert(1, "programs");
    }
    let mut table = Table::new(heads);
    for (row, count) in &rows {
        let genome = read(row, messages)?;
        let dag = genome.dag().ok();
        let degree = dag.and_then(|d| traits::traits(&d).degree).map_or("-".to_string(), |d| format!("{d}"));
        let body: Vec<String> = row.text.lines().skip(1).map(str::trim).filter(|l| !l.starts_with("return")).map(str::to_string).collect();
        let mut line = body.join("; ");
        if line.chars().count() > 90 {
            line = line.chars().take(89).chain(['…']).collect();
        }
        let on = if front.points().iter().any(|p| p.key == row.hash) { "yes" } else { "" };
        let (fitness, statements, states) = (rounded(row.fitness), row.statements.to_string(), row.states.to_string());
        let mut cells = vec![short(row.hash), fitness, row.arm.clone(), statements, states, degree, on.to_string(), line];
        if what.families {
            cells.insert(1, count.to_string());
        }
        table.push(cells.into_iter().map(Cell::Text));
    }
    say(&table.text());
    if what.families {
        say(&format!(
            "a form is what a program is when simplified by rules that are exact over the reals, without its numbers; {seen} programs were looked at, the best first"
        ));
    }
    let axes: Vec<&str> = axes.iter().map(|a| a.name()).collect();
    say(&format!(
        "front: no program of the archive is as good in {} and better in one; `optc search report` lists all {} of them",
        axes.join(", "),
        front.points().len()
    ));
    Ok(())
}

/// The best program of each form, with how many of those that were looked at have it, and how many these were.
fn forms(archive: &Archive, arm: Option<Kind>, n: usize, messages: &Messages) -> Result<(Vec<(ProgramRow, usize)>, usize), Failed> {
    let (mut found, mut seen): (Vec<(u128, ProgramRow, usize)>, usize) = (Vec::new(), 0);
    while seen < LOOK {
        let page = archive.ranked(arm, (seen, PAGE)).map_err(|why| trouble(&why, None, messages))?;
        let last = page.len() < PAGE;
        for row in page {
            let form = family(&read(&row, messages)?);
            match found.iter().position(|(key, ..)| *key == form) {
                Some(at) => found[at].2 += 1,
                None if found.len() == n => return Ok((found.into_iter().map(|(_, r, c)| (r, c)).collect(), seen)),
                None => found.push((form, row, 1)),
            }
            seen += 1;
        }
        if last {
            break;
        }
    }
    Ok((found.into_iter().map(|(_, r, c)| (r, c)).collect(), seen))
}
