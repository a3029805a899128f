//! What is measured when a search ends, none of which selects its programs: the best first program against itself, and the best programs on tasks that were held out.

use super::archive::HeldOutRow;
use super::block::SearchSpec;
use super::emit::{Winner, simplest, winner};
use super::evaluate::Bench;
use super::funnel::Passed;
use super::hunt::{Hunt, Trouble};
use super::judge::{Contest, Judged, Role, Verdict, correct, judge};
use super::scorer::best_rate;
use super::seed::seed;
use super::task::task;
use crate::trainer::INTERRUPTED;
use optc_search::evolve::{admissible, measured};
use optc_search::genome::Genome;
use optc_search::text;
use optc_train::report::sha256;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

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

    /// The best first program against itself, as the archive has it or measured now; nothing where none was asked for, there is no first program, or somebody stops the search.
    ///
    /// # Errors
    /// A task that cannot be, or fails at run time.
    pub fn noise(&self, file: &Path) -> Result<Option<Noise>, Trouble> {
        let (Some((name, genome)), n) = (self.best_start(), self.spec.a_a) else { return Ok(None) };
        if n == 0 {
            return Ok(None);
        }
        // Whatever the search has found, this is the same.
        if let Some(noise) = self.archived().noise()?.filter(|kept| kept.name == name && kept.pairs.len() == n) {
            return Ok(Some(noise));
        }
        let dag = genome.dag().map_err(|_| format!("`{name}` is no program"))?;
        let set = self.spec.seeds.len();
        let whole: f64 = self.spec.tasks.iter().map(|t| t.weight).sum();
        let mut fitness = vec![0.0; 2 * n];
        for (t, reference) in self.spec.tasks.iter().zip(self.references()) {
            let sets: Vec<usize> = (0..2 * n).collect();
            for lot in sets.chunks((AT_ONCE / set).max(1)) {
                if interrupted() {
                    return Ok(None);
                }
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

    /// The programs that are measured on tasks which are held out: first programs, the best one first, the best of the search and of its controls.
    fn judged(&self, winner: Option<&Winner>) -> Result<Vec<Judged>, Trouble> {
        let mut judged: Vec<Judged> = Vec::new();
        if let Some((name, genome)) = self.best_start() {
            judged.push(Judged::new(name, genome, Role::Baseline));
        } else {
            // From nothing: there is no first program to compare with.
            let adamw = seed("adamw", None).map_err(|r| Trouble::Seed("adamw".to_string(), r))?;
            judged.push(Judged::new("adamw", adamw.genome, Role::Baseline));
        }
        let mut push = |name: &str, genome: &Genome, role: Role, among: Option<u64>| {
            let runs = genome.dag().is_ok_and(|d| admissible(&d));
            if runs && !judged.iter().any(|j| j.name == name) {
                judged.push(Judged { name: name.to_string(), genome: genome.clone(), role, among });
            }
        };
        if let Some(winner) = winner {
            push(FOUND, &winner.genome, Role::Found, self.arms.first().map(|a| a.counters().evaluated));
        }
        for start in &self.starts {
            push(&start.expression, &start.genome, Role::Baseline, None);
        }
        for arm in &self.arms[1..] {
            if let Some(best) = arm.best().filter(|b| measured(b.fitness)) {
                push(arm.kind.name(), &best.genome, Role::Control, Some(arm.counters().evaluated));
            }
        }
        Ok(judged)
    }

    /// What was found on tasks that were held out, on seeds of their own: as the archive has it where the same programs were measured on the same tasks, else measured now. Names of tasks that somebody's stopping left out go to `owing`.
    fn on_held_out(&mut self, file: &Path, winner: Option<&Winner>, owing: &mut Vec<String>) -> Result<HeldOut, Trouble> {
        /// The setting of an archive that tells what was measured.
        const MEASURED: &str = "held_out";
        if self.spec.held_out.is_empty() {
            return Ok(HeldOut::default());
        }
        let judged = self.judged(winner)?;
        let texts: Vec<(String, String)> = judged.iter().map(|j| (j.name.clone(), text::write(&j.genome))).collect();
        let tasks: Vec<_> = self.spec.held_out.iter().map(|t| (&t.train, &t.set)).collect();
        let what = format!("{texts:?}{tasks:?}{:?}{:?}{}", self.spec.metric, self.spec.rates, self.held_out_files.text());
        let what = sha256(what.as_bytes());
        if self.archived().setting(MEASURED)?.is_some_and(|kept| kept == what) {
            let (opened, rows) = self.archived().held_out()?;
            return Ok(HeldOut { fresh: Vec::new(), rows, opened });
        }
        let mut fresh = Vec::new();
        for task in &self.spec.held_out {
            let contest = Contest {
                file,
                tasks: std::slice::from_ref(task),
                metric: self.spec.metric.as_deref(),
                rates: &self.spec.rates,
                first: HELD_OUT_SEED,
                seeds: SEEDS,
                tune: 0,
            };
            let verdicts = if interrupted() { Vec::new() } else { judge(&contest, &judged)? };
            if verdicts.is_empty() {
                owing.push(format!("`{}`, which is held out", task.label));
            }
            fresh.extend(verdicts);
        }
        if fresh.is_empty() {
            return Ok(HeldOut::default());
        }
        // One family of comparisons, whatever tasks there are.
        correct(&mut fresh);
        let whole = fresh.len() == self.spec.held_out.len();
        self.archive().keep_held_out(&fresh, &texts)?;
        self.archive().set(MEASURED, if whole { &what } else { "" })?;
        let (opened, rows) = self.archived().held_out()?;
        Ok(HeldOut { fresh, rows, opened })
    }

    /// What the end of the search depends on: a search that goes on from its end without a round has it already.
    fn end(&self) -> Result<String, Trouble> {
        let rungs: Vec<_> = self.spec.funnel.iter().map(|r| (r.steps, r.keep, r.beat.iter().map(|b| &b.0).collect::<Vec<_>>())).collect();
        let (state, curve) = (self.archived().run()?.1, self.curve().len());
        Ok(sha256(format!("{state}{rungs:?}{curve}{}", self.spec.simplify).as_bytes()))
    }

    /// The rungs of the funnel and the best program as the archive has them, if this is where it ended before.
    fn ended(&self) -> Result<Option<(Vec<Passed>, Winner)>, Trouble> {
        if self.unfinished.is_some() || self.archived().setting(END)?.is_none_or(|kept| self.end().is_ok_and(|now| kept != now)) {
            return Ok(None);
        }
        let Some(row) = self.archived().winner()? else { return Ok(None) };
        let notes = self.archived().setting(NOTES)?.unwrap_or_default().lines().map(str::to_string).collect();
        let genome = text::read(Default::default(), &row.text).map_err(|d| d.message)?.genome;
        let winner = Winner { genome, fitness: row.fitness, again: row.again, key: row.program, from: row.from, notes };
        Ok(Some((self.archived().funnel()?, winner)))
    }

    /// The rungs of the funnel and the best program, in its simplest form.
    fn handed_on(&mut self, file: &Path, owing: &mut Vec<String>) -> Result<(Vec<Passed>, Option<Winner>), Trouble> {
        if let Some((funnel, winner)) = self.ended()? {
            return Ok((funnel, Some(winner)));
        }
        let (funnel, passed) = self.funnel(file)?;
        if interrupted() && funnel.len() < self.spec.funnel.len() && funnel.last().is_none_or(|r| r.kept > 0) {
            owing.push(format!("the funnel from its rung {} on", funnel.len() + 1));
        }
        let winner = match passed {
            Some((genome, again, key)) => {
                let fitness = self.fitness(&genome);
                Some(Winner { fitness, again: Some(again), genome, key, from: fitness, notes: Vec::new() })
            }
            None => winner(self),
        };
        let winner = winner.map(|w| self.polished(file, w)).transpose()?;
        if interrupted() && self.spec.simplify > 0 {
            owing.push("which of its statements and digits can be spared".to_string());
        }
        let end = if interrupted() || self.unfinished.is_some() { String::new() } else { self.end()? };
        let notes = winner.as_ref().map_or(String::new(), |w| w.notes.join("\n"));
        let archive = self.archive();
        archive.keep_end(&funnel, winner.as_ref())?;
        archive.set(NOTES, &notes)?;
        archive.set(END, &end)?;
        Ok((funnel, winner))
    }

    /// Measures all that is owed when a search ends, and keeps it in the archive; what is there already is not measured again. Where somebody stops it, the rest is left out.
    ///
    /// # Errors
    /// A task that fails at run time, an archive that cannot be written.
    pub fn after(&mut self, file: &Path) -> Result<After, Trouble> {
        let mut owing = Vec::new();
        let (funnel, winner) = self.handed_on(file, &mut owing)?;
        let noise = self.noise(file)?;
        match &noise {
            Some(noise) => self.archive().keep_noise(noise)?,
            None if interrupted() && self.spec.a_a > 0 => owing.push("the noise of the fitness".to_string()),
            None => {}
        }
        let held_out = self.on_held_out(file, winner.as_ref(), &mut owing)?;
        let reached = if owing.is_empty() { Reached::End } else { Reached::Owing(owing) };
        Ok(After { funnel, winner, noise, held_out, reached })
    }

    /// What is owed at the end of the search.
    fn owed(&self) -> Vec<String> {
        let all = [
            (!self.spec.funnel.is_empty(), "the funnel"),
            (self.spec.simplify > 0, "which of its statements and digits can be spared"),
            (self.spec.a_a > 0, "the noise of the fitness"),
            (!self.spec.held_out.is_empty(), "tasks that are held out"),
        ];
        all.into_iter().filter(|(is, _)| *is).map(|(_, what)| what.to_string()).collect()
    }
}

/// Settings of an archive: what its end depends on, and what was done to the best program then.
const END: &str = "end";
const NOTES: &str = "end_notes";

/// Whether somebody stops the search.
fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

impl After {
    /// A search that was stopped: its best program so far. Nothing is measured, and what is held out is not looked at.
    pub fn stopped(hunt: &mut Hunt) -> After {
        After::so_far(hunt, Reached::Stopped)
    }

    /// A search whose budget is spent: its best program, before anything else is measured. Nothing where the archive has all of it.
    pub fn before(hunt: &mut Hunt) -> Option<After> {
        let owed = hunt.owed();
        let there = owed.is_empty() || hunt.ended().is_ok_and(|e| e.is_some());
        (!there).then(|| After::so_far(hunt, Reached::Owing(owed)))
    }

    fn so_far(hunt: &mut Hunt, reached: Reached) -> After {
        let winner = winner(hunt).map(|w| {
            let (genome, fitness) = simplest(hunt, &w.genome, w.fitness);
            Winner { genome, fitness, ..w }
        });
        After { funnel: Vec::new(), winner, noise: None, held_out: HeldOut::default(), reached }
    }
}

/// How far a search came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// All that is owed at its end has been measured.
    End,
    /// Somebody stopped it before its budget was spent.
    Stopped,
    /// Its budget is spent; of what is owed at its end, this has not been measured.
    Owing(Vec<String>),
}

/// What was found on tasks that were held out.
#[derive(Clone, Debug, Default)]
pub struct HeldOut {
    /// What was measured just now.
    pub fresh: Vec<Verdict>,
    /// What the archive has of it.
    pub rows: Vec<HeldOutRow>,
    /// How often these tasks have been looked at, this time included.
    pub opened: i64,
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
    pub held_out: HeldOut,
    /// How far the search came.
    pub reached: Reached,
}

/// Whether the tasks that a search holds out can be: said before it begins. Files and folders that they read.
///
/// # Errors
/// Why one cannot.
pub fn check_held_out(spec: &SearchSpec, file: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let mut files = Vec::new();
    for t in &spec.held_out {
        let request = spec.request(file, t, &[HELD_OUT_SEED], spec.space.states);
        files.extend(task(&request).map_err(|r| Trouble::Task(t.label.clone(), r))?.files);
    }
    Ok(files)
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
