//! `optc search judge`.

use super::hunt::{print_trouble, read};
use super::{Named, of_spec, programs};
use crate::commands::say;
use crate::messages::Messages;
use crate::search::emit::rounded;
use crate::search::judge::{Judged, Row, Verdict, judge};
use crate::session::{Failed, Session};
use optc_train::{Cell, Table};
use std::path::{Path, PathBuf};

/// What everything is compared with, and what else is owed: tuned baselines with the same learning rates.
const BASELINES: &[&str] = &["adamw", "sgd(momentum = 0.9)", "lion", "adabelief"];

/// Judges optimizers on the tasks of a search.
///
/// # Errors
/// If that fails; why has been printed.
pub fn run(file: &Path, name: Option<&str>, optimizers: &[String], seeds: usize, messages: &Messages) -> Result<(), Failed> {
    let session = Session::open(file, &[], messages)?;
    let spec = read(&session, name, messages)?;
    let mut judged: Vec<Judged> = Vec::new();
    let mut push = |n: Named| judged.push(Judged { name: n.name, genome: n.genome });
    for baseline in BASELINES {
        push(Named { name: (*baseline).to_string(), ..of_spec(baseline, file, messages)? });
    }
    for text in optimizers {
        let path = PathBuf::from(text);
        if path.extension().is_some_and(|e| e == "opt" || e == "py") {
            programs(&path, None, messages)?.into_iter().for_each(&mut push);
        } else {
            push(Named { name: text.clone(), ..of_spec(text, file, messages)? });
        }
    }
    let verdicts = judge(&spec, file, &judged, seeds.clamp(2, 1000)).map_err(|t| print_trouble(t, messages))?;
    for verdict in &verdicts {
        show(verdict, spec.rates.len(), seeds);
    }
    say(
        "differences are medians over paired seeds, with 95 % bootstrap intervals; p is Wilcoxon's signed-rank test, corrected by Holm for the optimizers compared",
    );
    say(
        "below 0 the optimizer scores better than the reference; a claim about one that a search found counts its programs too (`optc search report`)",
    );
    Ok(())
}

fn show(verdict: &Verdict, rates: usize, seeds: usize) {
    let reference = &verdict.rows[0].name;
    say(&format!(
        "task `{}`: {rates} learning rates each, chosen on seeds of their own; {seeds} seeds, {reference} is the reference",
        verdict.task
    ));
    let mut table = Table::new(["optimizer", "lr", "median", "failed", "difference", "95 % interval", "better / worse", "p (Holm)"]);
    for row in &verdict.rows {
        let Row { name, rate, edge, median, failed, beside, p } = row;
        let rate = format!("{}{}", rounded(*rate), if *edge { " (edge)" } else { "" });
        let mut cells = vec![name.clone(), rate, rounded(*median), failed.to_string()];
        match beside {
            None => cells.extend(["", "", "", ""].map(String::from)),
            Some(b) => cells.extend([
                rounded(b.median),
                format!("{} to {}", rounded(b.interval.0), rounded(b.interval.1)),
                format!("{} / {}", b.wins, b.losses),
                optc_abi::number::shown(*p, 2),
            ]),
        }
        table.push(cells.into_iter().map(Cell::Text));
    }
    say(&table.text());
    let same = &verdict.same;
    say(&format!(
        "{reference} against itself on other seeds: {} ({} to {}), p {}",
        rounded(same.median),
        rounded(same.interval.0),
        rounded(same.interval.1),
        optc_abi::number::shown(same.p, 2)
    ));
}
