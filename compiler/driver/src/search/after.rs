//! What is measured when a search ends, none of which selects its programs: the best first program against itself, and the best programs on tasks that were held out.

use super::block::SearchSpec;
use super::emit::{Winner, simplest, winner};
use super::evaluate::Bench;
use super::funnel::Passed;
use super::hunt::{Hunt, Trouble, best_rate};
use super::judge::{Contest, Judged, Verdict, judge};
use super::seed::seed;
use super::task::task;
use optc_search::evolve::{admissible, measured};
use optc_search::genome::Genome;
use optc_search::text;
use std::path::Path;

/// The first seeds of what is measured here, far from those of searches and of the judge.
const HELD_OUT_SEED: u64 = 1 << 22;
const A_A_SEED: u64 = 1 << 23;
/// Seeds on which programs are compared on tasks that were held out.
const SEEDS: usize = 20;
/// Seeds of a task at one time, at most: their batches are all laid out.
const AT_ONCE: usize = 64;

/// A program against itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Noise {
    /// The program.
    pub name: String,
    /// Its fitness on two sets of seeds, of the size of the search's own, time and again.
    pub pairs: Vec<(f64, f64)>,
}

impl Noise {
    /// The difference below which 95 % of the pairs lie.
    pub fn floor(&self) -> f64 {
        let mut sizes: Vec<f64> = self.pairs.iter().map(|(a, b)| (a - b).abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let at = (0.95 * sizes.len() as f64).ceil() as usize;
        sizes.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// The standard deviation of the fitness over sets of seeds.
    pub fn deviation(&self) -> f64 {
        let all: Vec<f64> = self.pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (all.len() as f64 - 1.0)).sqrt()
    }

    /// How much better the best of so many programs looks that are all as good as this one, at most: sigma sqrt(2 ln n) (the mean of the largest of n normal numbers is below).
    pub fn luck(&self, programs: u64) -> f64 {
        self.deviation() * (2.0 * (programs.max(1) as f64).ln()).sqrt()
    }
}

impl Hunt {
    /// The best first program.
    fn best_start(&self) -> Option<(String, Genome)> {
        let runs = self.starts.iter().filter(|s| s.genome.dag().is_ok_and(|d| admissible(&d)));
        runs.min_by(|a, b| a.fitness.total_cmp(&b.fitness)).map(|s| (s.expression.clone(), s.genome.clone()))
    }

    /// The best first program against itself; nothing where none was asked for, or there is no first program.
    ///
    /// # Errors
    /// A task that cannot be, or fails at run time.
    pub fn noise(&self, file: &Path) -> Result<Option<Noise>, Trouble> {
        let (Some((name, genome)), n) = (self.best_start(), self.spec.a_a) else { return Ok(None) };
        if n == 0 {
            return Ok(None);
        }
        let dag = genome.dag().map_err(|_| format!("`{name}` is no program"))?;
        let set = self.spec.seeds.len();
        let whole: f64 = self.spec.tasks.iter().map(|t| t.weight).sum();
        let mut fitness = vec![0.0; 2 * n];
        for (t, reference) in self.spec.tasks.iter().zip(self.references()) {
            let sets: Vec<usize> = (0..2 * n).collect();
            for lot in sets.chunks((AT_ONCE / set).max(1)) {
                let seeds: Vec<u64> = lot.iter().flat_map(|k| (0..set).map(move |s| A_A_SEED + (k * set + s) as u64)).collect();
                let request = self.spec.request(file, t, &seeds, dag.states.len());
                let mut bench = Bench::new(task(&request).map_err(|r| Trouble::Task(t.label.clone(), r))?)?;
                let outcome = bench.run(&dag)?.ok_or_else(|| format!("`{name}` cannot be run"))?;
                for (k, rows) in lot.iter().zip(outcome.scores.chunks(set)) {
                    fitness[*k] += best_rate(rows, self.spec.combine) / reference * t.weight / whole;
                }
            }
        }
        Ok(Some(Noise { name, pairs: fitness.chunks(2).map(|p| (p[0], p[1])).collect() }))
    }

    /// The best of the search and its controls beside the first programs on the tasks that were held out, on seeds of their own; nothing where none were.
    ///
    /// # Errors
    /// A task that cannot be, or fails at run time.
    fn on_held_out(&self, file: &Path, winner: Option<&Winner>) -> Result<(Vec<Judged>, Vec<Verdict>), Trouble> {
        if self.spec.held_out.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut judged: Vec<Judged> = Vec::new();
        if let Some((name, genome)) = self.best_start() {
            judged.push(Judged { name, genome });
        } else {
            // From nothing: there is no first program to compare with.
            let adamw = seed("adamw", None).map_err(|r| Trouble::Seed("adamw".to_string(), r))?;
            judged.push(Judged { name: "adamw".to_string(), genome: adamw.genome });
        }
        let mut push = |name: &str, genome: &Genome| {
            let runs = genome.dag().is_ok_and(|d| admissible(&d));
            if runs && !judged.iter().any(|j| j.name == name) {
                judged.push(Judged { name: name.to_string(), genome: genome.clone() });
            }
        };
        if let Some(winner) = winner {
            push(FOUND, &winner.genome);
        }
        for start in &self.starts {
            push(&start.expression, &start.genome);
        }
        for arm in &self.arms[1..] {
            if let Some(best) = arm.best().filter(|b| measured(b.fitness)) {
                push(arm.kind.name(), &best.genome);
            }
        }
        let contest = Contest {
            file,
            tasks: &self.spec.held_out,
            metric: self.spec.metric.as_deref(),
            rates: &self.spec.rates,
            first: HELD_OUT_SEED,
            seeds: SEEDS,
        };
        let verdicts = judge(&contest, &judged)?;
        Ok((judged, verdicts))
    }

    /// Measures all that is owed when a search ends, and keeps it in the archive.
    ///
    /// # Errors
    /// A task that fails at run time, an archive that cannot be written.
    pub fn after(&mut self, file: &Path) -> Result<After, Trouble> {
        let (funnel, passed) = self.funnel(file)?;
        let winner = match passed {
            Some((genome, again, key)) => {
                Some(Winner { fitness: self.fitness(&genome), again: Some(again), genome, key, notes: Vec::new() })
            }
            None => winner(self),
        };
        let winner = winner.map(|w| self.polished(file, w)).transpose()?;
        self.archive().keep_end(&funnel, winner.as_ref())?;
        let noise = self.noise(file)?;
        if let Some(noise) = &noise {
            self.archive().keep_noise(noise)?;
        }
        let (judged, held_out) = self.on_held_out(file, winner.as_ref())?;
        let texts: Vec<(String, String)> = judged.into_iter().map(|j| (j.name, text::write(&j.genome))).collect();
        let opened = if held_out.is_empty() { 0 } else { self.archive().keep_held_out(&held_out, &texts)? };
        Ok(After { funnel, winner, noise, held_out, opened, stopped: false })
    }
}

impl After {
    /// A search that was stopped: its best program so far. Nothing is measured, and what is held out is not looked at.
    pub fn stopped(hunt: &mut Hunt) -> After {
        let winner = winner(hunt).map(|w| {
            let (genome, fitness) = simplest(hunt, &w.genome, w.fitness);
            Winner { genome, fitness, ..w }
        });
        After { funnel: Vec::new(), winner, noise: None, held_out: Vec::new(), opened: 0, stopped: true }
    }
}

/// What was measured when a search ended.
#[derive(Clone, Debug)]
pub struct After {
    /// The rungs of the funnel.
    pub funnel: Vec<Passed>,
    /// The best program: of the funnel's last rung, or of the evolution where there is none or nothing passed it.
    pub winner: Option<Winner>,
    /// The best first program against itself.
    pub noise: Option<Noise>,
    /// Programs on tasks that were held out.
    pub held_out: Vec<Verdict>,
    /// How often these have been looked at, this time included.
    pub opened: i64,
    /// Whether the search was stopped before its budget was spent, and nothing but the best program is here.
    pub stopped: bool,
}

/// Whether the tasks that a search holds out can be: said before it begins.
///
/// # Errors
/// Why one cannot.
pub fn check_held_out(spec: &SearchSpec, file: &Path) -> Result<(), Trouble> {
    for t in &spec.held_out {
        let request = spec.request(file, t, &[HELD_OUT_SEED], spec.space.states);
        task(&request).map_err(|r| Trouble::Task(t.label.clone(), r))?;
    }
    Ok(())
}

/// What results call the best of the evolution.
pub const FOUND: &str = "found";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_measured_by_its_pairs() {
        let noise = Noise { name: "sgd".to_string(), pairs: (1..=20).map(|k| (1.0, 1.0 + f64::from(k))).collect() };
        assert_eq!(noise.floor(), 19.0);
        let two = Noise { name: "sgd".to_string(), pairs: vec![(1.0, 3.0)] };
        assert!((two.deviation() - 2f64.sqrt()).abs() < 1e-15);
        assert!((two.luck(1000) - 2f64.sqrt() * (2.0 * 1000f64.ln()).sqrt()).abs() < 1e-12);
        assert_eq!(two.luck(1), 0.0);
    }
}
