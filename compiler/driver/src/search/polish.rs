//! What is done to the best program before it is written: statements that do not matter are searched away, the e-graph simplifies what is left, and numbers are rounded to the digits that matter.

use super::emit::{MARGIN, Winner, rounded, simplest};
use super::evaluate::Bench;
use super::hunt::{Hunt, Trouble};
use super::scorer::best_rate;
use super::task::task;
use crate::trainer::INTERRUPTED;
use optc_search::dag::Dag;
use optc_search::evolve::{Arm, Kind, Known, Memory, Plan, Round, Strategy};
use optc_search::genome::{Arg, Genome};
use optc_search::live::without_dead_code;
use optc_search::shorten::length;
use std::path::Path;
use std::sync::atomic::Ordering;

/// The first seed on which rounding is judged, far from those of all else.
const FRESH_SEED: u64 = 1 << 25;
/// Sets of seeds, each as large as that of the fitness, and seeds at one time, at most (or one set).
const SETS: usize = 8;
const AT_ONCE: usize = 64;
/// Digits that are tried.
const DIGITS: std::ops::RangeInclusive<usize> = 1..=6;

impl Hunt {
    /// The program in its simplest form that scores as well, with its numbers rounded.
    ///
    /// # Errors
    /// A task that cannot be, or fails at run time.
    pub(super) fn polished(&mut self, file: &Path, winner: Winner) -> Result<Winner, Trouble> {
        let (mut notes, mut genome, mut fitness) = (winner.notes.clone(), winner.genome.clone(), winner.fitness);
        if self.spec.simplify > 0 && self.spec.margin.is_none() {
            let before = without_dead_code(&genome).body.len();
            (genome, fitness) = self.shortest(&genome, fitness)?;
            let after = without_dead_code(&genome).body.len();
            if after < before {
                notes.push(format!(
                    "Simplified by search: {before} statements became {after}, the fitness {} became {} (at most {} % worse is allowed).",
                    rounded(winner.fitness),
                    rounded(fitness),
                    100.0 * MARGIN
                ));
            }
        }
        let (genome, fitness) = simplest(self, &genome, fitness);
        let (genome, fitness) = match self.round_numbers(file, &genome)? {
            Some((rounded, note)) => {
                notes.push(note);
                let again = self.fitness(&rounded);
                (rounded, again)
            }
            None => (genome, fitness),
        };
        Ok(Winner { genome, fitness, notes, ..winner })
    }

    /// The shortest program that a search by deletions and merges finds from one, no worse within the margin.
    fn shortest(&mut self, genome: &Genome, fitness: f64) -> Result<(Genome, f64), Trouble> {
        let strategy = Strategy {
            islands: 1,
            population: 20,
            tournament: 3,
            round: self.spec.simplify,
            restart_after: u64::MAX,
            shorten: Some(fitness + MARGIN * fitness.abs()),
            ..Strategy::default()
        };
        let plan = Plan { space: self.plan.space.clone(), strategy, starts: vec![genome.clone()], seed: self.spec.seed };
        let mut arm = Arm::new(Kind::Evolution, 1);
        let (memory, mut found) = (Memory::default(), Vec::new());
        let scorer = &mut self.scorers[0];
        let round = Round { plan: &plan, kind: Kind::Evolution, number: 0, runs: None };
        round.make(&mut arm.islands[0], &mut Known::new(&memory), scorer, &mut found);
        scorer.evals.clear();
        scorer.speeds.clear();
        if let Some(why) = scorer.trouble() {
            return Err(why.into());
        }
        let best = arm.best().filter(|b| b.rank.is_finite() && b.rank < length(genome));
        Ok(best.map_or_else(|| (genome.clone(), fitness), |b| (b.genome.clone(), b.fitness)))
    }

    /// The program with its numbers rounded to the fewest digits with which its fitness on fresh seeds is not worse beyond the noise (on average by no more than a standard error of the differences, or than the margin),
    /// which the space allows, and which is as good as it has to be on the seeds of the search. In words, how it did. Nothing where no digits can be spared, or the program fails.
    fn round_numbers(&mut self, file: &Path, genome: &Genome) -> Result<Option<(Genome, String)>, Trouble> {
        let Ok(own) = genome.dag() else { return Ok(None) };
        let (mut candidates, mut dags) = (Vec::new(), vec![own]);
        for digits in DIGITS {
            let candidate = with_digits(genome, digits);
            if let Some(dag) = candidate.dag().ok().filter(|_| candidate != *genome && self.allows(&candidate)) {
                candidates.push((digits, candidate));
                dags.push(dag);
            }
        }
        if candidates.is_empty() || INTERRUPTED.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let fitness = self.on_fresh_seeds(file, &dags)?;
        let own = &fitness[0];
        let size = mean(own);
        if !size.is_finite() {
            return Ok(None);
        }
        let limit = self.plan.strategy.shorten.unwrap_or(f64::MAX);
        for ((digits, candidate), other) in candidates.into_iter().zip(&fitness[1..]) {
            let differences: Vec<f64> = other.iter().zip(own).map(|(a, b)| a - b).collect();
            let (worse, error) = (mean(&differences), standard_error(&differences));
            if worse <= error.max(MARGIN * size.abs()) && self.fitness(&candidate) <= limit {
                let note = format!(
                    "Numbers rounded to {digits} digit{}: on {SETS} sets of fresh seeds the fitness {} becomes {}; the standard error of the differences is {}.",
                    if digits == 1 { "" } else { "s" },
                    rounded(size),
                    rounded(size + worse),
                    rounded(error)
                );
                return Ok(Some((candidate, note)));
            }
        }
        Ok(None)
    }

    /// For each program its fitness on each of the sets of fresh seeds.
    fn on_fresh_seeds(&self, file: &Path, dags: &[Dag]) -> Result<Vec<Vec<f64>>, Trouble> {
        let set = self.spec.seeds.len();
        let states = dags.iter().map(|d| d.states.len()).max().unwrap_or(0);
        let whole: f64 = self.spec.tasks.iter().map(|t| t.weight).sum();
        let mut fitness = vec![vec![0.0; SETS]; dags.len()];
        for (t, reference) in self.spec.tasks.iter().zip(self.references()) {
            let sets: Vec<usize> = (0..SETS).collect();
            // Batches of all runs of a task are laid out at once.
            for lot in sets.chunks((AT_ONCE / set).max(1)) {
                let seeds: Vec<u64> = lot.iter().flat_map(|k| (0..set).map(move |s| FRESH_SEED + (k * set + s) as u64)).collect();
                let request = self.spec.request(file, t, &seeds, states);
                let mut bench = Bench::new(task(&request).map_err(|r| Trouble::Task(t.label.clone(), r))?)?;
                for (dag, sums) in dags.iter().zip(&mut fitness) {
                    let outcome = bench.run(dag)?.ok_or("a program has more states than its task has room for".to_string())?;
                    for (k, rows) in lot.iter().zip(outcome.scores.chunks(set)) {
                        sums[*k] += best_rate(rows, self.spec.combine) / reference * t.weight / whole;
                    }
                }
            }
        }
        Ok(fitness)
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// The standard error of the mean of some numbers.
fn standard_error(x: &[f64]) -> f64 {
    let (n, middle) = (x.len() as f64, mean(x));
    (x.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
}

/// The program with its numbers rounded.
fn with_digits(genome: &Genome, digits: usize) -> Genome {
    let mut out = genome.clone();
    let numbers = out.body.iter_mut().flat_map(|s| {
        let n = s.fun.arity();
        s.args[..n].iter_mut()
    });
    for arg in numbers {
        if let Arg::Const(x) = arg {
            *x = to_digits(*x, digits);
        }
    }
    out
}

/// A number with so many digits; between 1/2 and 1 they are those of its distance to 1 (0.999 has one), as for shares that averages keep.
fn to_digits(x: f64, digits: usize) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let rest = 1.0 - x.abs();
    if x.abs() > 0.5 && rest > 1e-12 {
        let places = digits as i32 - 1 - rest.log10().floor() as i32;
        return format!("{:.*}", places.max(1) as usize, x).parse().unwrap_or(x);
    }
    format!("{:.*e}", digits - 1, x).parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::{standard_error, to_digits};

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let of = |x: f64| [1, 2, 3].map(|d| to_digits(x, d));
        assert_eq!(of(0.998_219_678), [0.998, 0.9982, 0.99822]);
        assert_eq!(of(0.013_579), [0.01, 0.014, 0.0136]);
        assert_eq!(of(-273.15), [-300.0, -270.0, -273.0]);
        assert_eq!(of(-0.9123), [-0.91, -0.912, -0.9123]);
        assert_eq!(of(0.0), [0.0; 3]);
        assert_eq!(of(1.0), [1.0; 3]);
        assert_eq!(standard_error(&[1.0, 2.0, 3.0, 6.0]), (14.0f64 / 12.0).sqrt());
        assert!(to_digits(f64::NAN, 2).is_nan() && to_digits(f64::INFINITY, 2).is_infinite());
    }
}
