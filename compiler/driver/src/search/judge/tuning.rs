//! Numbers of optimizers tuned for a task: baselines and what is judged have the same number of runs.

use super::super::evaluate::Bench;
use super::super::hunt::Trouble;
use super::bounded;
use optc_search::genome::Genome;
use optc_search::rng::Stream;
use optc_search::stats::median;
use optc_search::tune::Numbers;

/// How the numbers of an optimizer were tuned.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuned {
    /// Runs that were made, each over all learning rates and the seeds that rates are chosen on; the first is of the numbers as they were. None where the program has no numbers, or too many.
    pub runs: usize,
    /// Its numbers before and after.
    pub numbers: Vec<(f64, f64)>,
}

/// The program with the numbers for which the median over the seeds of a task, at the best learning rate, is least, among as many runs of CMA-ES; how it came to them.
///
/// # Errors
/// A program that cannot be run, a task that fails at run time.
pub fn tuned(bench: &mut Bench, genome: &Genome, runs: usize, rng: &mut Stream) -> Result<(Genome, Tuned), Trouble> {
    let Some(numbers) = Numbers::of(genome) else { return Ok((genome.clone(), Tuned { runs: 0, numbers: Vec::new() })) };
    let mut score = |g: &Genome| -> Result<f64, Trouble> {
        let dag = g.dag().map_err(|_| "an optimizer is no program".to_string())?;
        let outcome = bench.run(&dag)?.ok_or_else(|| "an optimizer has too many states".to_string())?;
        let rates = outcome.scores.first().map_or(0, Vec::len);
        let at = |r: usize| median(&bounded(&outcome.scores.iter().map(|row| row[r]).collect::<Vec<_>>()));
        Ok((0..rates).map(at).fold(f64::INFINITY, f64::min))
    };
    let (mut best, mut least, mut made) = (genome.clone(), score(genome)?, 1);
    let mut failed = None;
    numbers.tune(rng, |g| {
        if made >= runs {
            return None;
        }
        made += 1;
        let value = score(&g).map_err(|t| failed = Some(t)).ok()?;
        if value < least {
            (best, least) = (g, value);
        }
        Some(value)
    });
    if let Some(trouble) = failed {
        return Err(trouble);
    }
    let numbers = numbers.values(genome).into_iter().zip(numbers.values(&best)).collect();
    Ok((best, Tuned { runs: made, numbers }))
}
