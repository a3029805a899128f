//! A funnel: what a search ends with, run again, longer and on seeds that it has not seen, rung after rung; each keeps a share.

use super::archive::EvalRow;
use super::block::{Rung, SearchSpec};
use super::hunt::{Hunt, Trouble, baseline};
use super::scorer::Scorer;
use super::task::overriding;
use crate::trainer::INTERRUPTED;
use optc_search::dag::Dag;
use optc_search::evolve::{Evaluator, measured};
use optc_search::genome::{Genome, MAX_STATES};
use rustc_hash::FxHashSet;
use std::path::Path;
use std::sync::atomic::Ordering;

/// The first seed of a funnel, far from those of all else; each rung has as many as this apart.
const FIRST_SEED: u64 = 1 << 24;
const APART: u64 = 1 << 12;

/// What became of a rung.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Steps of its runs, where it has its own.
    pub steps: Option<u64>,
    /// Programs that came in.
    pub entered: usize,
    /// Those that went on.
    pub kept: usize,
    /// The best fitness, by which programs were kept.
    pub best: f64,
    /// The fitness of that program on further seeds.
    pub again: f64,
    /// Baselines with their fitness.
    pub baselines: Vec<(String, f64)>,
}

/// A program in a funnel.
struct Entrant {
    genome: Genome,
    dag: Dag,
    key: u128,
    fitness: f64,
}

impl Hunt {
    /// Programs of the last populations, the best of each island and the best of validation, each once.
    fn entrants(&self) -> Vec<Entrant> {
        let mut seen = FxHashSet::default();
        let mut all = Vec::new();
        for m in self.arms[0].islands.iter().flat_map(|i| i.population.iter().chain(&i.best)) {
            if measured(m.fitness)
                && seen.insert(m.key)
                && let Ok(dag) = m.genome.dag()
            {
                all.push(Entrant { genome: m.genome.clone(), dag, key: m.key, fitness: m.fitness });
            }
        }
        if let Some((genome, fitness, key)) = self.validated()
            && seen.insert(key)
            && let Ok(dag) = genome.dag()
        {
            all.push(Entrant { genome, dag, key, fitness });
        }
        sort(&mut all);
        all
    }

    /// Runs the funnel. Its rungs, and the best program of the last, with its identity and what it scored on further seeds; none if no program passed.
    ///
    /// # Errors
    /// A task or baseline that cannot be, or fails at run time.
    pub fn funnel(&mut self, file: &Path) -> Result<(Vec<Passed>, Option<(Genome, f64, u128)>), Trouble> {
        let mut entrants = self.entrants();
        let (mut rungs, mut winner) = (Vec::new(), None);
        if entrants.is_empty() {
            return Ok((rungs, winner));
        }
        for (k, rung) in self.spec.funnel.clone().iter().enumerate() {
            let from = FIRST_SEED + 2 * k as u64 * APART;
            let mut scorer = self.scorer_of(rung, file, from)?;
            let mut again = self.scorer_of(rung, file, from + APART)?;
            let baselines = baselines(rung, file, &mut scorer)?;
            for e in &mut entrants {
                // A rung is measured whole or not at all.
                if INTERRUPTED.load(Ordering::SeqCst) {
                    return Ok((rungs, winner));
                }
                e.fitness = scorer.fitness(&e.dag);
            }
            sort(&mut entrants);
            let entered = entrants.len();
            let limit = baselines.iter().map(|b| b.1).fold(f64::INFINITY, f64::min);
            entrants.truncate(((rung.keep * entered as f64).ceil() as usize).max(1));
            entrants.retain(|e| e.fitness.is_finite() && (baselines.is_empty() || e.fitness < limit));
            let best = entrants.first();
            let again_best = best.map_or(f64::INFINITY, |e| again.fitness(&e.dag));
            winner = best.map(|e| (e.genome.clone(), again_best, e.key));
            let fitness = best.map_or(f64::INFINITY, |e| e.fitness);
            rungs.push(Passed { steps: rung.steps, entered, kept: entrants.len(), best: fitness, again: again_best, baselines });
            if let Some(why) = scorer.trouble().or(again.trouble()) {
                return Err(why.into());
            }
            let evals: Vec<EvalRow> = scorer.evals.drain(..).chain(again.evals.drain(..)).collect();
            self.archive().keep_rung(k, &evals)?;
            if entrants.is_empty() {
                break;
            }
        }
        Ok((rungs, winner))
    }

    /// What scores programs on a rung, relative to the reference where there are several tasks.
    fn scorer_of(&self, rung: &Rung, file: &Path, from: u64) -> Result<Scorer, Trouble> {
        let mut scorer = Scorer::new(&of_rung(&self.spec, rung, from), file, MAX_STATES)?;
        if self.spec.tasks.len() > 1 {
            scorer.refer(&self.reference);
        }
        Ok(scorer)
    }
}

fn sort(entrants: &mut [Entrant]) {
    entrants.sort_by(|a, b| a.fitness.total_cmp(&b.fitness).then(a.key.cmp(&b.key)));
}

/// The spec of a rung: its steps, and seeds of its own. All that enter are measured in full.
fn of_rung(spec: &SearchSpec, rung: &Rung, from: u64) -> SearchSpec {
    let mut out = spec.clone();
    out.seeds = (from..from + spec.seeds.len() as u64).collect();
    out.hurdle = f64::INFINITY;
    if let Some(steps) = rung.steps {
        for t in &mut out.tasks {
            t.set = overriding(&t.set, &[format!("steps={steps}")]);
        }
    }
    out
}

/// The fitness of optimizers that a rung wants to be beaten.
fn baselines(rung: &Rung, file: &Path, scorer: &mut Scorer) -> Result<Vec<(String, f64)>, Trouble> {
    let fitness = |(expression, _): &(String, _)| Ok((expression.clone(), scorer.fitness(&baseline(expression, file)?)));
    rung.beat.iter().map(fitness).collect()
}
