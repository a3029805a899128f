//! The judge: optimizers beside tuned baselines on the tasks of a search, on seeds that the search has not seen.
//!
//! Every optimizer has the same learning rates to choose from. The rate is chosen on seeds of its own; scores are then taken on others, the same for all optimizers, so that they are paired.

use super::archive::HeldOutRow;
use super::block::TaskSpec;
use super::emit::rounded;
use super::evaluate::Bench;
use super::hunt::Trouble;
use super::task::{Request, overriding, task};
use crate::trainer::INTERRUPTED;
use optc_search::evolve::admissible;
use optc_search::genome::{Genome, MAX_STATES};
use optc_search::rng::Stream;
use optc_search::run::Conditions;
use optc_search::stats::{Paired, holm, median, paired};
use optc_train::{Cell, Table};
use std::path::Path;
use std::sync::atomic::Ordering;

/// An optimizer that is judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// Its program.
    pub genome: Genome,
}

/// What was seen of an optimizer on a task.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The learning rate that was chosen.
    pub rate: f64,
    /// Whether that is the first or last there was: better ones may lie outside.
    pub edge: bool,
    /// The median of its scores.
    pub median: f64,
    /// Runs that did not get to their end.
    pub failed: usize,
    /// Beside the reference; `None` for the reference itself.
    pub beside: Option<Paired>,
    /// Its p-value among all comparisons (Holm).
    pub p: f64,
}

/// What was seen on a task.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The task.
    pub task: String,
    /// Seeds on which scores were taken.
    pub seeds: usize,
    /// Optimizers, the reference first.
    pub rows: Vec<Row>,
    /// The reference against itself on other seeds: what differences of no meaning look like.
    pub same: Paired,
}

/// The first seed of the judge, far from those of searches.
pub const FIRST_SEED: u64 = 1 << 21;
/// Seeds on which rates are chosen.
const TUNING: usize = 5;

/// On what optimizers are compared.
#[derive(Clone, Copy, Debug)]
pub struct Contest<'a> {
    /// The spec.
    pub file: &'a Path,
    /// Tasks.
    pub tasks: &'a [TaskSpec],
    /// The metric that scores a run; `None` for its loss.
    pub metric: Option<&'a str>,
    /// Learning rates to choose from.
    pub rates: &'a [f64],
    /// The first seed.
    pub first: u64,
    /// Seeds on which scores are taken.
    pub seeds: usize,
}

impl Contest<'_> {
    /// A task of it, ready to run.
    pub(super) fn bench(
        &self,
        t: &TaskSpec,
        set: &[String],
        conditions: Conditions,
        seeds: &[u64],
        rates: &[f64],
    ) -> Result<Bench, Trouble> {
        let set = overriding(&t.set, set);
        let request = Request {
            file: self.file,
            train: &t.train,
            label: &t.label,
            set: &set,
            metric: self.metric,
            seeds,
            rates,
            states: MAX_STATES,
            conditions,
        };
        Ok(Bench::new(task(&request).map_err(|r| Trouble::Task(t.label.clone(), r))?)?)
    }

    /// Seeds behind those on which rates are chosen.
    pub(super) fn scored_on(&self) -> Vec<u64> {
        (0..self.seeds as u64).map(|k| self.first + TUNING as u64 + k).collect()
    }
}

/// Judges optimizers, of which the first is the reference; the rest of the tasks is left out when somebody stops it.
///
/// # Errors
/// A task that cannot be, or fails at run time.
pub fn judge(contest: &Contest<'_>, judged: &[Judged]) -> Result<Vec<Verdict>, Trouble> {
    let (seeds, rates) = (contest.seeds, contest.rates);
    let all: Vec<u64> = (0..(TUNING + 2 * seeds) as u64).map(|k| contest.first + k).collect();
    let mut verdicts = Vec::new();
    for t in contest.tasks {
        let mut bench = contest.bench(t, &[], Conditions::default(), &all, rates)?;
        let mut scores = Vec::new();
        for j in judged {
            // A task is measured whole or not at all.
            if INTERRUPTED.load(Ordering::SeqCst) {
                return Ok(verdicts);
            }
            let dag = j.genome.dag().map_err(|_| format!("`{}` is no program", j.name))?;
            if !admissible(&dag) {
                return Err(Trouble::Words(format!("`{}` does not look at the gradient", j.name)));
            }
            let outcome = bench.run(&dag)?.ok_or_else(|| format!("`{}` has more than {MAX_STATES} states", j.name))?;
            scores.push(outcome.scores);
        }
        let chosen: Vec<usize> = scores.iter().map(|s| best(&s[..TUNING])).collect();
        let of = |k: usize, from: usize| -> Vec<f64> { scores[k][from..from + seeds].iter().map(|row| row[chosen[k]]).collect() };
        let (first, second) = (of(0, TUNING), of(0, TUNING + seeds));
        let mut rng = Stream::at([0x4A55, 0x4447], 0, 0);
        let same = paired(&first, &second, &mut rng);
        let beside: Vec<Option<Paired>> = (0..judged.len()).map(|k| (k > 0).then(|| paired(&of(k, TUNING), &first, &mut rng))).collect();
        let p = holm(&beside.iter().flatten().map(|b| b.p).collect::<Vec<_>>());
        let rows = judged
            .iter()
            .enumerate()
            .map(|(k, j)| {
                let own = of(k, TUNING);
                Row {
                    name: j.name.clone(),
                    rate: rates[chosen[k]],
                    edge: rates.len() > 1 && (chosen[k] == 0 || chosen[k] + 1 == rates.len()),
                    median: median(&own.iter().map(|x| if x.is_finite() { *x } else { f64::INFINITY }).collect::<Vec<_>>()),
                    failed: own.iter().filter(|x| !x.is_finite()).count(),
                    beside: beside[k],
                    p: if k == 0 { 1.0 } else { p[k - 1] },
                }
            })
            .collect();
        verdicts.push(Verdict { task: t.label.clone(), seeds, rows, same });
    }
    Ok(verdicts)
}

/// The rate with the least median; a seed that did not get to its end counts as infinite.
fn best(scores: &[Vec<f64>]) -> usize {
    let at = |r: usize| median(&scores.iter().map(|row| if row[r].is_finite() { row[r] } else { f64::INFINITY }).collect::<Vec<_>>());
    let rates = scores.first().map_or(1, Vec::len);
    (0..rates).min_by(|a, b| at(*a).total_cmp(&at(*b))).unwrap_or(0)
}

/// Programs on tasks that were held out.
pub fn held_out_table(rows: &[HeldOutRow]) -> Table {
    let mut table = Table::new(["held out", "program", "lr", "median", "failed", "difference", "95 % interval", "p (Holm)"]);
    for row in rows {
        let mut cells = vec![row.task.clone(), row.program.clone(), rounded(row.rate), rounded(row.median), row.failed.to_string()];
        match row.beside {
            None => cells.extend(["", "", ""].map(String::from)),
            Some([of, low, high, p]) => {
                cells.extend([rounded(of), format!("{} to {}", rounded(low), rounded(high)), optc_abi::number::shown(p, 2)]);
            }
        }
        table.push(cells.into_iter().map(Cell::Text));
    }
    table
}
