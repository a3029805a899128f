//! What scores programs on the tasks of a search, and what threads tell of a round that is under way.

use super::archive::EvalRow;
use super::block::{Combine, SearchSpec};
use super::evaluate::Bench;
use super::hunt::Trouble;
use super::speed::Stopwatch;
use super::task::task;
use crate::trainer::INTERRUPTED;
use optc_search::dag::Dag;
use optc_search::evolve::{Counters, Evaluator, STOPPED};
use optc_search::hash::keys;
use optc_search::pareto::Axis;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A round that is under way on several threads: what it has done so far, and whether it is to end early.
#[derive(Debug)]
pub struct Watch {
    over: AtomicBool,
    done: Mutex<(Counters, f64)>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { over: AtomicBool::new(false), done: Mutex::new((Counters::default(), f64::INFINITY)) }
    }
}

impl Watch {
    /// Ends the round as soon as its programs at hand have been run.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// What has been done so far, and the best fitness of it.
    pub fn done(&self) -> (Counters, f64) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, counters: &Counters, best: f64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.0.add(counters);
        done.1 = done.1.min(best);
    }
}

/// Children after which a thread tells what it has done, if it has run none of them.
const TELL: u64 = 64;

/// What scores programs on the tasks of a search.
pub struct Scorer {
    pub(super) benches: Vec<Bench>,
    weights: Vec<f64>,
    /// The score of the first program on each task, by which others are divided where there are several tasks.
    pub(super) references: Vec<f64>,
    /// The mean score on the tasks so far above which a program is not run on more of them.
    hurdle: f64,
    combine: Combine,
    seeds: Vec<u64>,
    pub(super) evals: Vec<EvalRow>,
    /// Where programs are measured by their speed too.
    stopwatch: Option<Stopwatch>,
    pub(super) speeds: Vec<(u128, f64)>,
    trouble: Option<String>,
    /// The round under way.
    watch: Option<Arc<Watch>>,
    /// What the watch knows of the island at hand, and the best fitness since.
    told: Counters,
    best: f64,
}

/// The scores of seeds as one; infinite where a seed did not get to its end.
fn combined(how: Combine, mut scores: Vec<f64>) -> f64 {
    if scores.iter().any(|s| !s.is_finite()) {
        return f64::INFINITY;
    }
    scores.sort_by(f64::total_cmp);
    let n = scores.len();
    match how {
        Combine::Median if n % 2 == 1 => scores[n / 2],
        Combine::Median => 0.5 * (scores[n / 2 - 1] + scores[n / 2]),
        Combine::Mean => scores.iter().sum::<f64>() / n as f64,
        Combine::Max => scores[n - 1],
        Combine::Min => scores[0],
    }
}

impl Scorer {
    /// What scores programs of up to so many states.
    pub(super) fn new(spec: &SearchSpec, file: &Path, states: usize) -> Result<Scorer, Trouble> {
        let mut benches = Vec::new();
        for t in &spec.tasks {
            let request = spec.request(file, t, &spec.seeds, states);
            let made = task(&request).map_err(|r| Trouble::Task(t.train.clone(), r))?;
            benches.push(Bench::new(made)?);
        }
        Ok(Scorer {
            benches,
            weights: spec.tasks.iter().map(|t| t.weight).collect(),
            references: vec![1.0; spec.tasks.len()],
            hurdle: spec.hurdle,
            combine: spec.combine,
            seeds: spec.seeds.clone(),
            evals: Vec::new(),
            stopwatch: spec.pareto.contains(&Axis::Ns).then(Stopwatch::default),
            speeds: Vec::new(),
            trouble: None,
            watch: None,
            told: Counters::default(),
            best: f64::INFINITY,
        })
    }

    /// Tells this watch what becomes of an island that has done so much before.
    pub(super) fn begin(&mut self, watch: &Arc<Watch>, done: Counters) {
        (self.watch, self.told, self.best) = (Some(watch.clone()), done, f64::INFINITY);
    }

    /// Tells nobody any more.
    pub(super) fn end(&mut self) {
        self.watch = None;
    }

    /// Files and folders that the data of its tasks was read from.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.benches.iter().flat_map(|b| b.task.files.clone())
    }

    /// Divides scores from now on by those of this program, if all are above 0. Whether they are.
    pub(super) fn refer(&mut self, dag: &Dag) -> bool {
        let references: Vec<f64> = (0..self.benches.len()).map(|k| self.score(k, dag)).collect();
        let can = references.iter().all(|r| r.is_finite() && *r > 0.0);
        if can {
            self.references = references;
        }
        self.evals.clear();
        can
    }

    /// What went wrong at run time, if something did.
    pub(super) fn trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    /// The score on a task, at the best learning rate; infinite where there is none.
    fn score(&mut self, task: usize, dag: &Dag) -> f64 {
        let program = keys(dag).exact;
        let bench = &mut self.benches[task];
        let outcome = match bench.run(dag) {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return f64::INFINITY,
            Err(why) => {
                self.trouble.get_or_insert(why);
                return f64::INFINITY;
            }
        };
        for (row, run_seed) in outcome.scores.iter().zip(&self.seeds) {
            for (score, rate) in row.iter().zip(&bench.task.rates) {
                let task = bench.task.name.clone();
                self.evals.push(EvalRow { program, task, seed: *run_seed, rate: *rate, score: *score });
            }
        }
        best_rate(&outcome.scores, self.combine)
    }

    /// The weighted mean of the scores on all tasks. Where no rate is left on one, or the mean so far is above the hurdle, the rest is not run: it could hardly help.
    fn mean_score(&mut self, dag: &Dag) -> f64 {
        let whole: f64 = self.weights.iter().sum();
        let (mut sum, mut weight) = (0.0, 0.0);
        for task in 0..self.benches.len() {
            sum += self.score(task, dag) / self.references[task] * self.weights[task] / whole;
            weight += self.weights[task];
            let mean = sum * whole / weight;
            if !mean.is_finite() {
                return f64::INFINITY;
            }
            if task + 1 < self.benches.len() && mean > self.hurdle {
                return STOPPED * mean;
            }
        }
        sum
    }
}

/// The best over learning rates of what seeds give together.
pub(super) fn best_rate(scores: &[Vec<f64>], how: Combine) -> f64 {
    let rates = scores.first().map_or(0, Vec::len);
    let at = |r: usize| combined(how, scores.iter().map(|row| row[r]).collect());
    (0..rates).map(at).fold(f64::INFINITY, f64::min)
}

impl Evaluator for Scorer {
    fn fitness(&mut self, dag: &Dag) -> f64 {
        let fitness = self.mean_score(dag);
        if let Some(ns) = self.stopwatch.as_mut().and_then(|watch| watch.measure(dag)) {
            self.speeds.push((keys(dag).exact, ns));
        }
        self.best = self.best.min(fitness);
        fitness
    }

    fn goes_on(&mut self, done: &Counters) -> bool {
        if let Some(watch) = &self.watch {
            if done.evaluated != self.told.evaluated || done.children - self.told.children >= TELL {
                watch.add(&done.since(&self.told), self.best);
                self.told = *done;
            }
            if watch.over.load(Ordering::Relaxed) {
                return false;
            }
        }
        !INTERRUPTED.load(Ordering::Relaxed)
    }
}
