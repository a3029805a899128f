//! The judge: optimizers beside tuned baselines on the tasks of a search, on seeds that the search has not seen.
//!
//! Every optimizer has the same learning rates to choose from, and a few beyond them where its best is the first or last. The rate is chosen on seeds of its own, and numbers are where that is asked for; scores are
//! then taken on others, the same for all optimizers, so that they are paired.

use super::archive::{HeldOutRow, PairRow};
use super::block::TaskSpec;
use super::emit::rounded;
use super::evaluate::{Bench, Outcome};
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
pub use tuning::{Tuned, tuned};

pub mod orderings;
mod tuning;

/// What an optimizer is among those that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One that everything is compared with.
    Baseline,
    /// The best of an arm of a search that selects nothing, or constants alone.
    Control,
    /// What is judged.
    Found,
}

/// An optimizer that is judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// Its program.
    pub genome: Genome,
    /// What it is.
    pub role: Role,
    /// Of how many programs that a search ran it is the best, where that is known.
    pub among: Option<u64>,
}

impl Judged {
    /// One of which no search is known.
    pub fn new(name: impl Into<String>, genome: Genome, role: Role) -> Judged {
        Judged { name: name.into(), genome, role, among: None }
    }
}

/// What was seen of an optimizer on a task.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Of how many programs it is the best, where that is known.
    pub among: Option<u64>,
    /// The program that was scored: that which was given, or with the numbers that were found for it.
    pub genome: Genome,
    /// How its numbers were tuned, where that was asked for.
    pub tuned: Option<Tuned>,
    /// The learning rate that was chosen.
    pub rate: f64,
    /// Whether that is the first or last that was tried, those beyond the given ones included: better ones may lie outside.
    pub edge: bool,
    /// How many rates beyond the given ones were tried, as the best so far was the first or last.
    pub widened: usize,
    /// The median of its scores.
    pub median: f64,
    /// Its scores, by seed; what is not finite is a run that failed.
    pub scores: Vec<f64>,
    /// Runs that did not get to their end.
    pub failed: usize,
    /// Beside the reference; `None` for the reference itself.
    pub beside: Option<Paired>,
    /// Its p-value among all comparisons of all tasks (Holm).
    pub p: f64,
}

/// A comparison with another than the reference.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The row that is compared.
    pub row: usize,
    /// The one it is compared with.
    pub with: usize,
    /// The comparison.
    pub beside: Paired,
    /// Its p-value among all comparisons of all tasks (Holm).
    pub p: f64,
}

/// What was seen on a task.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The task.
    pub task: String,
    /// The train that it is made of.
    pub train: String,
    /// Examples of a batch, where there is data.
    pub batch: Option<usize>,
    /// Seeds on which scores were taken.
    pub seeds: usize,
    /// Optimizers, the reference first.
    pub rows: Vec<Row>,
    /// What is judged beside Lion and beside controls.
    pub pairs: Vec<Pair>,
    /// The reference against itself on other seeds: what differences of no meaning look like.
    pub same: Paired,
}

/// The first seed of the judge, far from those of searches.
pub const FIRST_SEED: u64 = 1 << 21;
/// Seeds on which rates, and numbers, are chosen.
pub const TUNING: usize = 5;
/// Rates that are tried beyond the given ones at most, each as far from the one before as these are at that end.
pub const WIDER: usize = 4;
/// The baseline that what is judged is compared with beside the reference.
const ALSO: &str = "lion";

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
    /// Runs in which the numbers of each optimizer are tuned for each task; 0 to leave them as they are.
    pub tune: usize,
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
    let mut verdicts = Vec::new();
    for (number, t) in contest.tasks.iter().enumerate() {
        let Some(verdict) = on_task(contest, (number, t), judged)? else { break };
        verdicts.push(verdict);
    }
    correct(&mut verdicts);
    Ok(verdicts)
}

/// Whether somebody stops it.
fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Holm's correction over all comparisons of all tasks.
pub fn correct(verdicts: &mut [Verdict]) {
    let raw = |v: &Verdict| v.rows.iter().filter_map(|r| r.beside).chain(v.pairs.iter().map(|p| p.beside)).map(|b| b.p).collect::<Vec<_>>();
    let mut corrected = holm(&verdicts.iter().flat_map(raw).collect::<Vec<_>>()).into_iter();
    for v in verdicts {
        v.rows.iter_mut().filter(|r| r.beside.is_some()).for_each(|r| r.p = corrected.next().unwrap_or(1.0));
        v.pairs.iter_mut().for_each(|p| p.p = corrected.next().unwrap_or(1.0));
    }
}

/// How many comparisons the p-values are corrected for.
pub fn comparisons(verdicts: &[Verdict]) -> usize {
    verdicts.iter().map(|v| v.rows.iter().filter(|r| r.beside.is_some()).count() + v.pairs.len()).sum()
}

/// Scores of an optimizer: for each learning rate that was tried, in their order, by seed.
struct Tried {
    rates: Vec<f64>,
    scores: Vec<Vec<f64>>,
    widened: usize,
}

impl Tried {
    fn new(rates: &[f64], outcome: &Outcome) -> Tried {
        let mut made = Tried { rates: Vec::new(), scores: Vec::new(), widened: 0 };
        made.take(rates, outcome);
        made
    }

    fn take(&mut self, rates: &[f64], outcome: &Outcome) {
        self.rates.extend_from_slice(rates);
        self.scores.extend((0..rates.len()).map(|r| outcome.scores.iter().map(|row| row[r]).collect()));
        let mut order: Vec<usize> = (0..self.rates.len()).collect();
        order.sort_by(|a, b| self.rates[*a].total_cmp(&self.rates[*b]));
        self.rates = order.iter().map(|k| self.rates[*k]).collect();
        self.scores = order.iter().map(|k| std::mem::take(&mut self.scores[*k])).collect();
    }

    /// The median at a rate over the first seeds; a seed that did not get to its end counts as infinite.
    fn at(&self, rate: usize) -> f64 {
        median(&bounded(&self.scores[rate][..TUNING]))
    }

    /// The rate with the least median.
    fn best(&self) -> usize {
        (0..self.rates.len()).min_by(|a, b| self.at(*a).total_cmp(&self.at(*b))).unwrap_or(0)
    }

    /// Whether the best is the first or last, and better than the one beside it; or no rate gets to its end.
    fn edge(&self) -> bool {
        let (best, last) = (self.best(), self.rates.len() - 1);
        let beside = if best == 0 { 1 } else { best - 1 };
        last > 0 && (best == 0 || best == last) && (self.at(best) < self.at(beside) || !self.at(best).is_finite())
    }

    /// So many rates beyond the end at which the best is.
    fn beyond(&self, n: usize) -> Vec<f64> {
        let last = self.rates.len() - 1;
        let (end, factor) = if self.best() == 0 {
            (self.rates[0], self.rates[0] / self.rates[1])
        } else {
            (self.rates[last], self.rates[last] / self.rates[last - 1])
        };
        (1..=n as i32).map(|k| end * factor.powi(k)).collect()
    }
}

/// Scores with infinity for runs that failed.
fn bounded(scores: &[f64]) -> Vec<f64> {
    scores.iter().map(|x| if x.is_finite() { *x } else { f64::INFINITY }).collect()
}

/// What is seen on a task; a task is measured whole or not at all.
fn on_task(contest: &Contest<'_>, (number, t): (usize, &TaskSpec), judged: &[Judged]) -> Result<Option<Verdict>, Trouble> {
    let (seeds, rates) = (contest.seeds, contest.rates);
    let all: Vec<u64> = (0..(TUNING + 2 * seeds) as u64).map(|k| contest.first + k).collect();
    let mut genomes: Vec<(Genome, Option<Tuned>)> = judged.iter().map(|j| (j.genome.clone(), None)).collect();
    if contest.tune > 0 {
        let mut bench = contest.bench(t, &[], Conditions::default(), &all[..TUNING], rates)?;
        for (k, (genome, how)) in genomes.iter_mut().enumerate() {
            if interrupted() {
                return Ok(None);
            }
            let mut rng = Stream::at([0x4A55, 0x5455], k as u32, number as u64);
            let (found, told) = tuned(&mut bench, genome, contest.tune, &mut rng)?;
            (*genome, *how) = (found, Some(told));
        }
    }
    let mut bench = contest.bench(t, &[], Conditions::default(), &all, rates)?;
    let mut tried = Vec::new();
    for (j, (genome, _)) in judged.iter().zip(&genomes) {
        if interrupted() {
            return Ok(None);
        }
        let dag = genome.dag().map_err(|_| format!("`{}` is no program", j.name))?;
        if !admissible(&dag) {
            return Err(Trouble::Words(format!("`{}` does not look at the gradient", j.name)));
        }
        let run = |bench: &mut Bench, rates: &[f64]| -> Result<Outcome, Trouble> {
            bench.set_rates(rates);
            Ok(bench.run(&dag)?.ok_or_else(|| format!("`{}` has more than {MAX_STATES} states", j.name))?)
        };
        let mut own = Tried::new(rates, &run(&mut bench, rates)?);
        // The bench has room for so many rates at once.
        while own.edge() && own.widened < WIDER {
            let more = own.beyond(rates.len());
            let outcome = run(&mut bench, &more)?;
            let some = rates.len().min(WIDER - own.widened);
            own.take(&more[..some], &outcome);
            own.widened += some;
        }
        tried.push(own);
    }
    let of = |k: usize, from: usize| -> Vec<f64> { tried[k].scores[tried[k].best()][from..from + seeds].to_vec() };
    let first = of(0, TUNING);
    let mut rng = Stream::at([0x4A55, 0x4447], 0, 0);
    let same = paired(&first, &of(0, TUNING + seeds), &mut rng);
    let rows: Vec<Row> = judged
        .iter()
        .zip(genomes)
        .enumerate()
        .map(|(k, (j, (genome, tuned)))| {
            let scores = of(k, TUNING);
            Row {
                name: j.name.clone(),
                role: j.role,
                among: j.among,
                genome,
                tuned,
                rate: tried[k].rates[tried[k].best()],
                edge: tried[k].edge(),
                widened: tried[k].widened,
                median: median(&bounded(&scores)),
                failed: scores.iter().filter(|x| !x.is_finite()).count(),
                beside: (k > 0).then(|| paired(&scores, &first, &mut rng)),
                scores,
                p: 1.0,
            }
        })
        .collect();
    let pairs = compared(&rows)
        .into_iter()
        .map(|(row, with)| Pair { row, with, beside: paired(&rows[row].scores, &rows[with].scores, &mut rng), p: 1.0 })
        .collect();
    Ok(Some(Verdict { task: t.label.clone(), train: t.train.clone(), batch: bench.task.batch, seeds, rows, pairs, same }))
}

/// What is compared beside the reference: what is judged with Lion and with each control, controls with Lion.
fn compared(rows: &[Row]) -> Vec<(usize, usize)> {
    let with = |k: usize| (rows[k].role == Role::Baseline && rows[k].name == ALSO) || rows[k].role == Role::Control;
    let of = |k: usize| {
        (0..rows.len()).filter(move |o| *o != k && *o != 0 && with(*o) && (rows[*o].role == Role::Baseline || rows[k].role == Role::Found))
    };
    (1..rows.len()).filter(|k| rows[*k].role != Role::Baseline).flat_map(|k| of(k).map(move |o| (k, o))).collect()
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

/// Programs beside each other on tasks that were held out.
pub fn held_out_pairs(rows: &[PairRow]) -> Table {
    let mut table = Table::new(["held out", "program", "beside", "difference", "95 % interval", "better / worse", "p (Holm)"]);
    for row in rows {
        let [of, low, high, p] = row.difference;
        let cells = [
            row.task.clone(),
            row.program.clone(),
            row.beside.clone(),
            rounded(of),
            format!("{} to {}", rounded(low), rounded(high)),
            format!("{} / {}", row.wins.0, row.wins.1),
            optc_abi::number::shown(p, 2),
        ];
        table.push(cells.map(Cell::Text));
    }
    table
}

/// How many programs stand behind what was measured on tasks that were held out.
pub fn examined(arms: &[(&str, u64)]) -> String {
    let each: Vec<String> = arms.iter().map(|(name, n)| format!("`{name}` is the best of {n} programs")).collect();
    format!("{}: p counts all comparisons on all tasks (Holm), on seeds that selected none of them", each.join(", "))
}
