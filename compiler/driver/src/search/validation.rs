//! Meta-validation: while a search goes on, the best of its evolution is measured on tasks that select no parent. Where that curve turns, the search has begun to learn its own tasks by heart: it
//! ends, and what it hands on is the program of the curve's best point (Chen et al. 2023, arXiv 2302.06675, section 3).

use super::archive::Archive;
use super::block::SearchSpec;
use super::hunt::{Hunt, Trouble};
use super::scorer::Scorer;
use optc_search::dag::Dag;
use optc_search::evolve::{Evaluator, measured};
use optc_search::genome::{Genome, MAX_STATES};
use optc_search::live::without_dead_code;
use optc_search::text;
use rusqlite::params;
use std::path::{Path, PathBuf};

/// The first seed of validation, far from those of all else.
const FIRST_SEED: u64 = 3 << 19;

/// A best program of the evolution, when it was one.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Children of the evolution until then.
    pub children: u64,
    /// The program's identity.
    pub program: u128,
    /// Its text.
    pub text: String,
    /// Its fitness, by which it was selected.
    pub fitness: f64,
    /// Its score on the tasks of validation, as a fitness is one; relative to the first program's where there are several.
    pub score: f64,
}

/// The curve of a search, and what measures it.
pub struct Validation {
    scorer: Scorer,
    every: u64,
    patience: usize,
    curve: Vec<Validated>,
}

/// The best point of a curve: the first of those that score the least.
pub fn best(curve: &[Validated]) -> Option<&Validated> {
    curve.iter().filter(|v| v.score.is_finite()).min_by(|a, b| a.score.total_cmp(&b.score))
}

/// Whether so many points behind the best one were no better.
fn turned(curve: &[Validated], patience: usize) -> bool {
    let at = best(curve).and_then(|b| curve.iter().position(|v| v == b));
    patience > 0 && at.is_some_and(|at| curve.len() - 1 - at >= patience)
}

impl Validation {
    /// What the block asks for; nothing where it asks for none. `first` is the program that scores are relative to.
    pub(super) fn new(spec: &SearchSpec, file: &Path, archive: &Archive, first: &Dag) -> Result<Option<Validation>, Trouble> {
        if spec.validation.is_empty() {
            return Ok(None);
        }
        let mut own = spec.clone();
        own.tasks.clone_from(&spec.validation);
        own.seeds = (FIRST_SEED..).take(spec.seeds.len()).collect();
        own.hurdle = f64::INFINITY;
        let mut scorer = Scorer::new(&own, file, MAX_STATES)?;
        if own.tasks.len() > 1 {
            scorer.refer(first);
        }
        Ok(Some(Validation { scorer, every: spec.validate_every, patience: spec.patience, curve: archive.validated()? }))
    }
}

impl Validation {
    /// Files and folders that the data of its tasks was read from.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.scorer.files()
    }
}

impl Hunt {
    /// Measures the best of the evolution, if it is time to and it is another than the last. Whether the curve has turned.
    ///
    /// # Errors
    /// A task that fails at run time, an archive that cannot be written.
    pub(super) fn validate(&mut self) -> Result<bool, String> {
        let Some(v) = &mut self.validation else { return Ok(false) };
        let (rounds, children) = (self.arms[0].rounds, self.arms[0].counters().children);
        let best = self.arms[0].best().filter(|b| measured(b.fitness));
        if let Some(best) = best.filter(|b| rounds > 0 && rounds % v.every == 0 && v.curve.last().is_none_or(|l| l.program != b.key))
            && let Ok(dag) = best.genome.dag()
        {
            let score = v.scorer.fitness(&dag);
            if let Some(why) = v.scorer.trouble() {
                return Err(why);
            }
            v.scorer.evals.clear();
            v.scorer.speeds.clear();
            let text = text::write(&without_dead_code(&best.genome));
            let point = Validated { children, program: best.key, text, fitness: best.fitness, score };
            self.archive.keep_validated(v.curve.len(), &point)?;
            v.curve.push(point);
        }
        Ok(self.turned())
    }

    /// Whether validation has ended the search.
    pub fn turned(&self) -> bool {
        self.validation.as_ref().is_some_and(|v| turned(&v.curve, v.patience))
    }

    /// The curve of validation so far.
    pub fn curve(&self) -> &[Validated] {
        self.validation.as_ref().map_or(&[], |v| &v.curve)
    }

    /// The program of the curve's best point, with its fitness and identity.
    pub(super) fn validated(&self) -> Option<(Genome, f64, u128)> {
        let point = best(self.curve())?;
        let genome = text::read(Default::default(), &point.text).ok()?.genome;
        Some((genome, point.fitness, point.program))
    }
}

impl Archive {
    /// Keeps a point of the curve.
    ///
    /// # Errors
    /// In words.
    pub fn keep_validated(&mut self, n: usize, v: &Validated) -> Result<(), String> {
        let (hash, score) = (v.program.to_be_bytes().to_vec(), v.score.is_finite().then_some(v.score));
        let row = params![n as i64, v.children as i64, hash, v.text, v.fitness, score];
        self.db.execute("INSERT OR REPLACE INTO validation VALUES(?1, ?2, ?3, ?4, ?5, ?6)", row).map(|_| ()).map_err(|e| e.to_string())
    }

    /// The curve, oldest point first.
    ///
    /// # Errors
    /// In words.
    pub fn validated(&self) -> Result<Vec<Validated>, String> {
        let mut query =
            self.db.prepare("SELECT children, program, text, fitness, score FROM validation ORDER BY n").map_err(|e| e.to_string())?;
        let row = |r: &rusqlite::Row<'_>| {
            let hash: Vec<u8> = r.get(1)?;
            Ok(Validated {
                children: r.get::<_, i64>(0)?.max(0) as u64,
                program: hash.iter().take(16).fold(0, |h, b| (h << 8) | u128::from(*b)),
                text: r.get(2)?,
                fitness: r.get(3)?,
                score: r.get::<_, Option<f64>>(4)?.unwrap_or(f64::INFINITY),
            })
        };
        let rows = query.query_map([], row).map_err(|e| e.to_string())?;
        rows.collect::<Result<_, _>>().map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::{Validated, best, turned};

    fn curve(scores: &[f64]) -> Vec<Validated> {
        let point = |(k, score): (usize, &f64)| Validated {
            children: k as u64,
            program: k as u128,
            text: String::new(),
            fitness: 1.0 / (k + 1) as f64,
            score: *score,
        };
        scores.iter().enumerate().map(point).collect()
    }

    #[test]
    fn a_curve_turns_when_nothing_better_came_for_long() {
        let (falling, other) = (curve(&[3.0, 2.0, 1.0]), curve(&[3.0, 1.0, 2.0, 1.0, f64::INFINITY]));
        assert!(!turned(&falling, 1) && !turned(&[], 1) && !turned(&curve(&[f64::INFINITY, f64::INFINITY]), 1));
        // Of equal points the first counts.
        assert_eq!(best(&other).map(|b| b.program), Some(1));
        assert!(turned(&other, 3) && !turned(&other, 4));
        // Without patience it goes on.
        assert!(!turned(&other, 0));
    }
}
