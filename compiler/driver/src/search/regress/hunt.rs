//! A symbolic regression that is run.

use super::super::archive::Archive;
use super::super::block::Budget;
use super::archive::{self, FormulaRow};
use super::block::Spec;
use super::data::{Data, Rows, problem};
use crate::trainer::INTERRUPTED;
use optc_search::print::formula as printed;
use optc_search::regress::evolve::{Problem, State, Whole, keep};
use optc_search::regress::fit::{Goal, Loss};
use optc_search::regress::formula::Formula;
use optc_search::regress::rows::Scratch;
use optc_search::regress::tidy::tidy;
use optc_search::simplify::shortest;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A search that can be run.
pub struct Hunt {
    /// Its block.
    pub spec: Spec,
    /// What is searched.
    pub problem: Problem,
    /// Where it is.
    pub state: State,
    held: Rows,
    archive: Archive,
    jobs: usize,
    /// Seconds that it had gone on before this process, and when that began.
    clock: (f64, Instant),
}

/// Seconds between writes to the archive.
const BETWEEN: f64 = 1.0;
/// The best formula is at most so much worse than the one of the least loss.
const NEAR: f64 = 1.5;

impl Hunt {
    /// A search; `state` is that of its archive, empty for a new one.
    ///
    /// # Errors
    /// A state that is none of this search.
    pub fn new(spec: Spec, data: Data, loss: Loss, archive: Archive, state: &str, jobs: usize) -> Result<Hunt, String> {
        let problem = problem(&spec, &data, loss);
        if !problem.baseline.is_finite() {
            return Err("the loss of a constant is not finite on these data".to_string());
        }
        let start = problem.start();
        let state = if state.is_empty() { start.clone() } else { archive::read(state)? };
        let sound = |f: &Formula| f.is_whole(problem.table.columns.len()) && f.size() <= problem.space.size;
        let members = state.islands.iter().flat_map(|i| i.population.iter().chain(i.best.iter().flatten())).map(|m| &m.formula);
        let fits = members.chain(state.hall.iter().flatten().map(|w| &w.formula)).all(sound)
            && state.islands.iter().all(|i| i.best.len() == start.islands[0].best.len())
            && state.islands.len() == start.islands.len()
            && state.hall.len() == start.hall.len()
            && state.control.as_ref().map(|c| (c.views.len(), c.hall.len()))
                == start.control.as_ref().map(|c| (c.views.len(), c.hall.len()))
            && state.islands.iter().all(|i| i.lens < problem.views().len());
        if !fits {
            return Err("its state belongs to another search: the data or the spec have changed".to_string());
        }
        let clock = (archive.elapsed()?, Instant::now());
        Ok(Hunt { spec, problem, state, held: data.held, archive, jobs, clock })
    }

    /// Goes on until the budget is spent, nothing is left to explain, or somebody stops it. `tell` sees the search now and then.
    ///
    /// # Errors
    /// An archive that cannot be written.
    pub fn run(&mut self, budget: Budget, mut tell: impl FnMut(&Hunt, Duration)) -> Result<(), String> {
        let begin = Instant::now();
        self.clock.1 = begin;
        let mut written = Instant::now();
        loop {
            let spent = match budget {
                Budget::Time(t) => begin.elapsed() >= t,
                Budget::Children(n) => self.state.counters().children >= n,
            };
            if spent || INTERRUPTED.load(Ordering::SeqCst) || self.problem.done(&self.state) {
                break;
            }
            self.problem.round(&mut self.state, self.jobs);
            if written.elapsed().as_secs_f64() > BETWEEN {
                self.commit()?;
                tell(self, begin.elapsed());
                written = Instant::now();
            }
        }
        self.commit()
    }

    fn commit(&mut self) -> Result<(), String> {
        let rows: Vec<FormulaRow> = self.problem.front(&self.state.hall).into_iter().map(|w| self.row(w)).collect();
        let (text, control) = (archive::state(&self.state), self.control());
        self.archive.set_elapsed(self.clock.0 + self.clock.1.elapsed().as_secs_f64())?;
        self.archive.commit_formulas(&rows, &control, &text)
    }

    /// The random formulas of which none smaller is as good.
    pub fn control(&self) -> Vec<FormulaRow> {
        let hall = self.state.control.as_ref().map_or(&[][..], |c| &c.hall);
        self.problem.front(hall).into_iter().map(|w| self.row(w)).collect()
    }

    /// A formula as the archive keeps it.
    pub fn row(&self, whole: &Whole) -> FormulaRow {
        FormulaRow {
            size: whole.formula.size() as i64,
            postfix: whole.formula.text(),
            expression: printed(&whole.formula, &self.spec.names()),
            loss: whole.loss,
            unexplained: self.problem.unexplained(whole.loss),
            held_out: self.held_out(&whole.formula),
            island: whole.island as i64,
            child: whole.child as i64,
        }
    }

    /// The loss of a formula on the rows that were held out, if there are any.
    pub fn held_out(&self, formula: &Formula) -> Option<f64> {
        if self.held.target.is_empty() {
            return None;
        }
        let (mut scratch, mut predicted) = (Scratch::default(), Vec::new());
        scratch.eval(formula, &self.held.table, &mut predicted);
        let goal = Goal { target: &self.held.target, weight: self.held.weight.as_deref(), loss: &self.problem.loss };
        Some(goal.of(&predicted, &mut scratch))
    }

    /// Rows that formulas are fitted on, and rows that are held out.
    pub fn rows(&self) -> (usize, usize) {
        (self.problem.table.rows, self.held.target.len())
    }

    /// The formulas of which none smaller is as good, each as short as equalities make it; and the archive is given them.
    ///
    /// # Errors
    /// An archive that cannot be written.
    pub fn finish(&mut self) -> Result<Vec<FormulaRow>, String> {
        let mut hall = self.state.hall.clone();
        let mut scratch = Scratch::default();
        let found: Vec<Whole> = self.problem.front(&self.state.hall).into_iter().cloned().collect();
        for whole in found {
            let short = tidy(&shortest(&whole.formula));
            if short.size() < whole.formula.size() && self.problem.space.allows(&short) {
                let loss = self.problem.loss_of(&short, &mut scratch);
                if self.problem.as_good(loss, (&whole.formula, whole.loss), &mut scratch) {
                    keep(&mut hall, Whole { formula: short, loss, ..whole });
                }
            }
        }
        // Below the rounding of the rows a larger formula is no better.
        let rows: Vec<FormulaRow> = self.problem.front(&hall).into_iter().map(|w| self.row(w)).collect();
        let (text, control) = (archive::state(&self.state), self.control());
        self.archive.commit_formulas(&rows, &control, &text)?;
        Ok(rows)
    }
}

/// The place of the best formula of a front: of those that are nearly as good as any, on rows that were held out if there are some, the one whose loss fell fastest from the one before, per node
/// (Cranmer 2023).
pub fn best(rows: &[FormulaRow]) -> Option<usize> {
    let judged = |r: &FormulaRow| r.held_out.unwrap_or(r.loss).max(0.0);
    let least = rows.iter().map(judged).fold(f64::INFINITY, f64::min);
    let floor = 1e-300;
    let fall = |k: usize| {
        if k == 0 {
            return 0.0;
        }
        let nodes = (rows[k].size - rows[k - 1].size) as f64;
        ((rows[k - 1].loss + floor).ln() - (rows[k].loss + floor).ln()) / nodes
    };
    (0..rows.len()).filter(|k| judged(&rows[*k]) <= NEAR * least + floor).max_by(|a, b| fall(*a).total_cmp(&fall(*b)).then(b.cmp(a)))
}
