//! `optc search judge`.

use super::archive::best_of_arms;
use super::hunt::{print_trouble, read};
use super::{Named, of_spec, programs};
use crate::commands::say;
use crate::messages::Messages;
use crate::search::audit::{Audit, audits};
use crate::search::emit::rounded;
use crate::search::judge::{Contest, FIRST_SEED, Judged, Row, Verdict, judge};
use crate::session::{Failed, Session};
use optc_search::stats::profiles;
use optc_train::{Cell, Table};
use std::path::{Path, PathBuf};

/// What everything is compared with, and what else is owed: tuned baselines with the same learning rates.
const BASELINES: &[&str] = &["adamw", "sgd(momentum = 0.9)", "lion", "adabelief", "nadamw"];

/// How optimizers are judged.
pub struct How<'a> {
    /// Expressions, specs and archives.
    pub optimizers: &'a [String],
    /// How many learning rates, if not those of the search.
    pub rates: Option<usize>,
    /// Seeds.
    pub seeds: usize,
    /// Whether scores are looked at under other conditions.
    pub audits: bool,
}

/// Judges optimizers on the tasks of a search.
///
/// # Errors
/// If that fails; why has been printed.
pub fn run(file: &Path, name: Option<&str>, how: &How<'_>, messages: &Messages) -> Result<(), Failed> {
    let session = Session::open(file, &[], messages)?;
    let spec = read(&session, name, messages)?;
    let mut judged: Vec<Judged> = Vec::new();
    let mut push = |n: Named| {
        let mut name = n.name;
        // What was found may be called as a baseline is.
        while judged.iter().any(|j| j.name == name) {
            name.push('\'');
        }
        judged.push(Judged { name, genome: n.genome });
    };
    for baseline in BASELINES {
        push(Named { name: (*baseline).to_string(), ..of_spec(baseline, file, messages)? });
    }
    for text in how.optimizers {
        let path = PathBuf::from(text);
        if path.extension().is_some_and(|e| e == "opt" || e == "py") {
            programs(&path, None, messages)?.into_iter().for_each(&mut push);
        } else if is_archive(&path) {
            best_of_arms(&path, messages)?.into_iter().for_each(&mut push);
        } else {
            push(Named { name: text.clone(), ..of_spec(text, file, messages)? });
        }
    }
    let rates = match how.rates {
        None => spec.rates.clone(),
        Some(n) => spread(&spec.rates, n).map_err(|why| {
            messages.error(
                "R0146",
                &why,
                Some("`--rates 13` judges with more learning rates than the search had, between its first and last"),
            );
            Failed
        })?,
    };
    let contest = Contest {
        file,
        tasks: &spec.tasks,
        metric: spec.metric.as_deref(),
        rates: &rates,
        first: FIRST_SEED,
        seeds: how.seeds.clamp(2, 1000),
    };
    let verdicts = judge(&contest, &judged).map_err(|t| print_trouble(t, messages))?;
    for verdict in &verdicts {
        show(verdict, rates.len());
    }
    if how.audits {
        for audit in audits(&contest, &judged, &verdicts).map_err(|t| print_trouble(t, messages))? {
            show_audit(&audit);
        }
    }
    if verdicts.len() > 1 {
        show_profiles(&verdicts);
    }
    say(
        "differences are medians over paired seeds, with 95 % bootstrap intervals; p is Wilcoxon's signed-rank test, corrected by Holm for the optimizers compared",
    );
    say(
        "below 0 the optimizer scores better than the reference; a claim about one that a search found counts its programs too (`optc search report`)",
    );
    say(
        "of what is known about these baselines, tasks of this size do not show that Lion gains at large batches (not measured), and on bowls PowerSign and AddSign beat AdamW: `bench/specs/orderings.opt`, docs/search.md",
    );
    Ok(())
}

/// Whether a file is a database, whatever it is called.
fn is_archive(path: &Path) -> bool {
    const HEAD: &[u8; 16] = b"SQLite format 3\0";
    let mut head = [0; HEAD.len()];
    std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut head)).is_ok_and(|()| head == *HEAD)
}

/// So many rates, even in their logarithm, from the least to the largest of a search.
fn spread(rates: &[f64], n: usize) -> Result<Vec<f64>, String> {
    let (low, high) = rates.iter().fold((f64::INFINITY, 0f64), |(l, h), r| (l.min(*r), h.max(*r)));
    if low >= high {
        return Err("the search has one learning rate alone: there is nothing between its first and last".to_string());
    }
    if !(2..=MOST_RATES).contains(&n) {
        return Err(format!("{n} learning rates cannot be tried: 2 to {MOST_RATES} can"));
    }
    let step = (high / low).ln() / (n - 1) as f64;
    Ok((0..n).map(|k| if k + 1 == n { high } else { low * (step * k as f64).exp() }).collect())
}

/// The most learning rates that optimizers are judged with.
const MOST_RATES: usize = 200;

/// Factors of performance profiles.
const FACTORS: &[f64] = &[1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0];

/// Shares of tasks on which optimizers are within factors of the best.
fn show_profiles(verdicts: &[Verdict]) {
    let scores: Vec<Vec<f64>> = verdicts.iter().map(|v| v.rows.iter().map(|r| r.median).collect()).collect();
    say(&format!(
        "performance profiles: the share of the {} tasks on which the median is within a factor of the best there",
        verdicts.len()
    ));
    let heads =
        ["optimizer".to_string()].into_iter().chain(FACTORS.iter().map(|f| if *f == 1.0 { "best".to_string() } else { format!("x {f}") }));
    let mut table = Table::new(heads);
    for (row, shares) in verdicts[0].rows.iter().zip(profiles(&scores, FACTORS)) {
        let cells = [row.name.clone()].into_iter().chain(shares.iter().map(|s| format!("{:.0} %", 100.0 * s)));
        table.push(cells.map(Cell::Text));
    }
    say(&table.text());
}

fn show_audit(audit: &Audit) {
    say(&format!("audits of `{}`, not scored: medians over {} seeds with the learning rates chosen above", audit.task, audit.seeds));
    let mut table = Table::new(["optimizer".to_string()].into_iter().chain(audit.conditions.iter().cloned()));
    for (name, medians) in &audit.rows {
        let cells =
            [name.clone()].into_iter().chain(medians.iter().map(|m| if m.is_finite() { rounded(*m) } else { "failed".to_string() }));
        table.push(cells.map(Cell::Text));
    }
    say(&table.text());
}

/// Optimizers on a task.
pub(super) fn show(verdict: &Verdict, rates: usize) {
    let reference = &verdict.rows[0].name;
    say(&format!(
        "task `{}`: {rates} learning rates each, chosen on seeds of their own; {} seeds, {reference} is the reference",
        verdict.task, verdict.seeds
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

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn rates_are_spread_between_those_of_the_search() {
        let rates = spread(&[1e-3, 1e-1, 1e-2], 5).expect("rates");
        let want = [1e-3, 10f64.powf(-2.5), 1e-2, 10f64.powf(-1.5), 1e-1];
        assert!(rates.iter().zip(want).all(|(a, b)| (a / b - 1.0).abs() < 1e-14) && rates.len() == 5, "{rates:?}");
        assert_eq!((rates[0], rates[4]), (1e-3, 1e-1));
        assert!(spread(&[0.1], 5).is_err() && spread(&[0.1, 1.0], 1).is_err() && spread(&[0.1, 1.0], 1000).is_err());
    }
}
