//! A search under way: rounds of its arms on one or several threads, archived after each.

use super::after::check_held_out;
use super::archive::{self, Archive, EvalRow, arms as arms_of, measures, state};
use super::block::{Budget, Combine, SearchSpec};
use super::evaluate::Bench;
use super::ring::{Immigrants, Ring, leaving};
use super::seed::{self, seed};
use super::speed::Stopwatch;
use super::task::{self, task};
use super::validation::Validation;
use crate::trainer::INTERRUPTED;
use optc_search::dag::Dag;
use optc_search::evolve::{
    Arm, Counters, Evaluator, Found, Island, Kind, Known, Memory, Plan, Round, STOPPED, Scores, admissible, measured,
};
use optc_search::fingerprint::mark;
use optc_search::genome::Genome;
use optc_search::hash::keys;
use optc_search::mutate::{EVEN, mutate};
use optc_search::pareto::{Axis, Front, Point};
use optc_search::rng::Stream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Why a search cannot begin or go on.
pub enum Trouble {
    /// A seed is no program.
    Seed(String, seed::Refused),
    /// A task is none.
    Task(String, task::Refused),
    /// The rest, in words.
    Words(String),
}

impl From<String> for Trouble {
    fn from(words: String) -> Self {
        Trouble::Words(words)
    }
}

/// A first program and what it scores.
#[derive(Clone, Debug)]
pub struct Start {
    /// The expression, or `empty`.
    pub expression: String,
    /// The program.
    pub genome: Genome,
    /// Its fitness.
    pub fitness: f64,
}

/// What scores programs on the tasks of a search.
pub struct Scorer {
    benches: Vec<Bench>,
    weights: Vec<f64>,
    /// The score of the first program on each task, by which others are divided where there are several tasks.
    references: Vec<f64>,
    /// The mean score on the tasks so far above which a program is not run on more of them.
    hurdle: f64,
    combine: Combine,
    seeds: Vec<u64>,
    pub(super) evals: Vec<EvalRow>,
    /// Where programs are measured by their speed too.
    stopwatch: Option<Stopwatch>,
    pub(super) speeds: Vec<(u128, f64)>,
    trouble: Option<String>,
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
        })
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
        fitness
    }
}

/// A search that can be run.
pub struct Hunt {
    /// Its block.
    pub spec: SearchSpec,
    /// First programs.
    pub starts: Vec<Start>,
    /// Its arms, evolution first.
    pub arms: Vec<Arm>,
    pub(super) plan: Plan,
    pub(super) scorers: Vec<Scorer>,
    /// What each arm has run.
    memory: Vec<Memory>,
    /// The programs of all arms that no other dominates.
    front: Front,
    pub(super) archive: Archive,
    /// The program by whose scores those of others are divided where there are several tasks.
    pub(super) reference: Dag,
    /// What is measured on tasks of validation.
    pub(super) validation: Option<Validation>,
    /// The number of its first island among those of all processes.
    first: usize,
}

/// What candidates cost.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Children that were made, and how many programs they are.
    pub children: u64,
    /// See `children`.
    pub unique: u64,
    /// Seconds to mutate, hash and look up one.
    pub child: f64,
    /// Programs that were compiled.
    pub compiled: u64,
    /// Seconds to compile one.
    pub compile: f64,
    /// For each first program: seconds for all its runs, and steps in a second.
    pub runs: Vec<(String, f64, f64)>,
}

/// What a round of an island gave.
struct Made {
    island: usize,
    found: Vec<Found>,
    evals: Vec<EvalRow>,
    speeds: Vec<(u128, f64)>,
    trouble: Option<String>,
}

/// Why a search whose validation has turned does not go on.
const OVER: &str = "the search has ended: its validation found nothing better for as many measurements as `patience` says; another search, with another archive, may have more";

/// Mutations away from a first program that children are on which costs are measured, at most.
const GENERATIONS: u64 = 30;

impl Hunt {
    /// Prepares a search; `state` is that of its archive, empty for a new one.
    ///
    /// # Errors
    /// A start or task that cannot be; an archive that cannot be read.
    pub fn new(spec: SearchSpec, file: &Path, mut archive: Archive, held: &str, jobs: usize) -> Result<Hunt, Trouble> {
        let mut starts = Vec::new();
        for (expression, _) in &spec.starts {
            let found = seed(expression, Some(file)).map_err(|r| Trouble::Seed(expression.clone(), r))?;
            let dag = found.genome.dag().map_err(|_| Trouble::Words(format!("`{expression}` is no program")))?;
            if !admissible(&dag) {
                return Err(Trouble::Words(format!("`{expression}` does not look at the gradient")));
            }
            if let Some(required) = spec.space.refuses(&dag) {
                let instead = required.instead(&dag);
                return Err(Trouble::Words(format!(
                    "`{expression}` {instead} where the space has `require {required}`: a search starts from programs of its space"
                )));
            }
            if dag.states.len() > spec.space.states {
                let (has, most) = (dag.states.len(), spec.space.states);
                return Err(Trouble::Words(format!(
                    "`{expression}` has {has} states where the space has {most}: `space {{ states <= {has} }}`"
                )));
            }
            if found.genome.body.len() > spec.space.statements {
                let (has, most) = (found.genome.body.len(), spec.space.statements);
                return Err(Trouble::Words(format!(
                    "`{expression}` has {has} statements where the space has {most}: `space {{ statements <= {} }}`",
                    2 * has
                )));
            }
            starts.push(Start { expression: expression.clone(), genome: found.genome, fitness: f64::INFINITY });
        }
        if starts.is_empty() {
            starts.push(Start { expression: "empty".to_string(), genome: Genome::default(), fitness: f64::INFINITY });
        }
        check_held_out(&spec, file)?;
        // Where the first program does nothing, tasks are measured by AdamW.
        let reference = match starts[0].genome.dag() {
            Ok(dag) if admissible(&dag) => dag,
            _ => seed("adamw", None)
                .map_err(|r| Trouble::Seed("adamw".to_string(), r))?
                .genome
                .dag()
                .map_err(|_| "`adamw` is no program".to_string())?,
        };
        let states = spec.space.states.max(reference.states.len());
        let mut scorers = (0..jobs.max(1)).map(|_| Scorer::new(&spec, file, states)).collect::<Result<Vec<_>, _>>()?;
        if spec.tasks.len() > 1 {
            if !scorers[0].refer(&reference) && spec.hurdle.is_finite() {
                let why = "a hurdle is a multiple of the first program's score, which must get to the end of all tasks with scores above 0";
                return Err(Trouble::Words(format!("{why}: leave `hurdle` out")));
            }
            let references = scorers[0].references.clone();
            scorers.iter_mut().for_each(|s| s.references.clone_from(&references));
        }
        for start in &mut starts {
            let Ok(dag) = start.genome.dag() else { continue };
            if !admissible(&dag) {
                continue;
            }
            start.fitness = scorers[0].fitness(&dag);
        }
        scorers[0].evals.clear();
        scorers[0].speeds.clear();
        let validation = Validation::new(&spec, file, &archive, &reference)?;
        archive.keep_settings(&spec, &starts)?;
        let front = archive.front(&spec.pareto)?;
        let mut strategy = spec.strategy;
        if let Some(margin) = spec.margin {
            let best = starts.iter().map(|s| s.fitness).fold(f64::INFINITY, f64::min);
            if !best.is_finite() {
                return Err(Trouble::Words("no first program gets to the end of its runs: there is nothing to simplify".to_string()));
            }
            strategy.shorten = Some(best + margin * best.abs());
        }
        let plan = Plan { space: spec.space.clone(), strategy, starts: starts.iter().map(|s| s.genome.clone()).collect(), seed: spec.seed };
        let islands = spec.strategy.islands;
        let arms = if held.is_empty() {
            let mut kinds = vec![Kind::Evolution];
            // A program without numbers has none to tune.
            if spec.constants_only && !spec.starts.is_empty() {
                kinds.push(Kind::ConstantsOnly);
            }
            if spec.random {
                kinds.push(Kind::Random);
            }
            kinds.into_iter().map(|kind| Arm::new(kind, islands)).collect()
        } else {
            arms_of(held)?
        };
        let memory = arms.iter().map(|arm| archive.memory(arm.kind)).collect::<Result<Vec<_>, _>>()?;
        Ok(Hunt { spec, starts, arms, plan, scorers, memory, front, archive, reference, validation, first: 0 })
    }

    /// Its islands are a part of those of all processes: the first has this number.
    pub fn begin_at(&mut self, island: usize) {
        self.first = island;
    }

    /// Goes on with what an archive holds, such as that of all processes.
    ///
    /// # Errors
    /// An archive that cannot be read.
    pub fn take_over(&mut self, mut archive: Archive) -> Result<(), String> {
        self.arms = arms_of(&archive.run()?.1)?;
        self.memory = self.arms.iter().map(|arm| archive.memory(arm.kind)).collect::<Result<Vec<_>, _>>()?;
        archive.keep_settings(&self.spec, &self.starts)?;
        self.front = archive.front(&self.spec.pareto)?;
        (self.first, self.archive) = (0, archive);
        Ok(())
    }

    /// Goes on until the budget is spent, or somebody stops it: then this is false. `tell` sees the search after each round of all arms. In a ring, children are counted in all processes together.
    ///
    /// # Errors
    /// A task that fails at run time, an archive that cannot be written.
    pub fn run(
        &mut self,
        budget: Budget,
        mut ring: Option<&mut Ring>,
        mut tell: impl FnMut(&Hunt, Option<&mut Ring>, Duration),
    ) -> Result<bool, String> {
        let processes = ring.as_ref().map_or(1, |r| r.size() as u64);
        let (begin, rounds) = (Instant::now(), self.arms[0].rounds);
        loop {
            let least = self.arms.iter().map(|a| a.rounds).min().unwrap_or(0);
            let next = self.arms.iter().position(|a| a.rounds == least).unwrap_or(0);
            if next == 0 {
                if self.validate()? {
                    let begun = self.arms[0].rounds > rounds;
                    return if begun { Ok(true) } else { Err(OVER.to_string()) };
                }
                let spent = match budget {
                    Budget::Time(t) => begin.elapsed() >= t,
                    Budget::Children(n) => self.arms[0].counters().children >= n.div_ceil(processes),
                };
                if spent {
                    return Ok(true);
                }
            }
            if INTERRUPTED.load(Ordering::SeqCst) {
                return Ok(false);
            }
            if !self.round(next, ring.as_deref_mut())? {
                return Ok(ring.is_some_and(|r| r.all_ended()) && !INTERRUPTED.load(Ordering::SeqCst));
            }
            if next + 1 == self.arms.len() {
                tell(self, ring.as_deref_mut(), begin.elapsed());
            }
        }
    }

    /// A round of one arm. False if it was not ended, since whoever another process waits for is through; the search is then as it was before.
    fn round(&mut self, number: usize, mut ring: Option<&mut Ring>) -> Result<bool, String> {
        let target = self.arms[0].counters().evaluated;
        let arm = &mut self.arms[number];
        let kind = arm.kind;
        // Controls run as many programs as evolution has.
        let runs = (kind != Kind::Evolution).then(|| target.saturating_sub(arm.counters().evaluated).div_ceil(arm.islands.len() as u64));
        let (plan, scorers, shared, first) = (&self.plan, &mut self.scorers, &self.memory[number], self.first);
        let jobs = scorers.len();
        let mut lots: Vec<Vec<(usize, &mut Island)>> = (0..jobs).map(|_| Vec::new()).collect();
        for (k, island) in arm.islands.iter_mut().enumerate() {
            lots[k % jobs].push((k, island));
        }
        let work = |scorer: &mut Scorer, lot: Vec<(usize, &mut Island)>| -> Vec<Made> {
            lot.into_iter()
                .map(|(number, island)| {
                    let (mut found, mut known) = (Vec::new(), Known::new(shared));
                    Round { plan, kind, number: first + number, runs }.make(island, &mut known, scorer, &mut found);
                    let (evals, speeds) = (std::mem::take(&mut scorer.evals), std::mem::take(&mut scorer.speeds));
                    Made { island: number, found, evals, speeds, trouble: scorer.trouble.take() }
                })
                .collect()
        };
        let mut made: Vec<Made> = std::thread::scope(|scope| {
            let mut pairs: Vec<_> = scorers.iter_mut().zip(lots).collect();
            let own = pairs.remove(0);
            let others: Vec<_> = pairs.into_iter().map(|(scorer, lot)| scope.spawn(move || work(scorer, lot))).collect();
            let mut all = work(own.0, own.1);
            for other in others {
                all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            all
        });
        made.sort_by_key(|m| m.island);
        if let Some(why) = made.iter().find_map(|m| m.trouble.clone()) {
            return Err(why);
        }
        let arm = &mut self.arms[number];
        let round = arm.rounds;
        match ring.as_deref_mut().filter(|_| arm.migrates()).map(|r| r.immigrants(arm, &self.plan, first, round)) {
            None => arm.end_round(&self.plan),
            Some(Immigrants::Come(members)) => arm.end_round_of_part(&self.plan, first, &members),
            Some(Immigrants::Over) => {
                self.arms = self.committed()?;
                return Ok(false);
            }
        }
        let sent = ring.as_ref().filter(|_| self.arms[number].migrates()).map(|_| leaving(&self.arms[number].emigrants(&self.plan, first)));
        let (mut found, mut evals, mut speeds) = (Vec::new(), Vec::new(), Vec::new());
        for m in made {
            found.extend(m.found);
            evals.extend(m.evals);
            speeds.extend(m.speeds);
        }
        found.iter().for_each(|f| self.memory[number].insert(f.keys.exact, f.fitness, mark(&f.print)));
        self.extend_front(kind, &found, &speeds);
        let text = state(&self.arms);
        let sent_now = sent.as_deref().map(|member| (round, member));
        self.archive.commit(&archive::Made { kind, found: &found, evals: &evals, speeds: &speeds, sent: sent_now, state: &text })?;
        if let (Some(ring), Some(member)) = (ring, sent) {
            ring.emigrate(kind, round, &member);
        }
        Ok(true)
    }

    /// The arms as they are in the archive.
    fn committed(&self) -> Result<Vec<Arm>, String> {
        match self.archive.run()?.1 {
            empty if empty.is_empty() => Ok(self.arms.iter().map(|a| Arm::new(a.kind, a.islands.len())).collect()),
            state => arms_of(&state),
        }
    }

    /// Takes what a round of an arm found into the front.
    fn extend_front(&mut self, arm: Kind, found: &[Found], speeds: &[(u128, f64)]) {
        let speeds: Scores = speeds.iter().copied().collect();
        for f in found.iter().filter(|f| measured(f.fitness)) {
            let Ok(dag) = f.genome.dag() else { continue };
            let (statements, ns) = (f.genome.body.len(), speeds.get(&f.keys.exact).copied());
            let values = measures(self.front.axes(), f.fitness, statements, &dag, ns);
            self.front.insert(Point { key: f.keys.exact, arm, values });
        }
    }

    /// The programs of all arms that no other dominates.
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// What scores on each task are divided by.
    pub(super) fn references(&self) -> &[f64] {
        &self.scorers[0].references
    }

    /// Where everything is kept, to be read.
    pub fn archived(&self) -> &Archive {
        &self.archive
    }

    /// Whether the space allows a program.
    pub(super) fn allows(&self, genome: &Genome) -> bool {
        genome.dag().is_ok_and(|dag| admissible(&dag) && self.plan.space.allows(&dag))
    }

    /// Where everything is kept.
    pub fn archive(&mut self) -> &mut Archive {
        &mut self.archive
    }

    /// The fitness of a program.
    pub fn fitness(&mut self, genome: &Genome) -> f64 {
        let Ok(dag) = genome.dag() else { return f64::INFINITY };
        let fitness = if admissible(&dag) { self.scorers[0].fitness(&dag) } else { f64::INFINITY };
        self.scorers[0].evals.clear();
        self.scorers[0].speeds.clear();
        fitness
    }

    /// What a candidate costs here, each measured for so long on one thread.
    ///
    /// # Errors
    /// A task that fails at run time.
    pub fn costs(&mut self, each: Duration) -> Result<Costs, String> {
        let (mut seen, mut costs, mut dags) = (Scores::default(), Costs::default(), Vec::new());
        let start = optc_search::mutate::with_states(&self.starts[0].genome, &self.plan.space);
        let (begin, mut genome) = (Instant::now(), start.clone());
        while begin.elapsed() < each {
            let mut rng = Stream::at([0, 0], 0, costs.children);
            costs.children += 1;
            // Some mutations away from the start, as in a population.
            if costs.children % GENERATIONS == 0 {
                genome.clone_from(&start);
            }
            let Some((child, _)) = mutate(&genome, &self.plan.space, EVEN, &mut rng) else { continue };
            genome = child;
            let Ok(dag) = genome.dag() else { continue };
            if admissible(&dag) && seen.insert(keys(&dag).exact, 0.0).is_none() && dags.len() < 20_000 {
                dags.push(dag);
            }
        }
        costs.unique = seen.len() as u64;
        costs.child = begin.elapsed().as_secs_f64() / costs.children.max(1) as f64;
        let begin = Instant::now();
        while begin.elapsed() < each && !dags.is_empty() {
            self.scorers[0].benches[0].compile(&dags[costs.compiled as usize % dags.len()])?;
            costs.compiled += 1;
        }
        costs.compile = begin.elapsed().as_secs_f64() / costs.compiled.max(1) as f64;
        for start in &self.starts {
            let Ok(dag) = start.genome.dag() else { continue };
            let (begin, mut runs, mut steps) = (Instant::now(), 0u64, 0u64);
            while admissible(&dag) && begin.elapsed() < each {
                for bench in &mut self.scorers[0].benches {
                    steps += bench.run(&dag)?.map_or(0, |o| o.steps);
                }
                runs += 1;
            }
            let seconds = begin.elapsed().as_secs_f64();
            costs.runs.push((start.expression.clone(), seconds / runs.max(1) as f64, steps as f64 / seconds));
        }
        Ok(costs)
    }

    /// Makes so many children and the code of those that were not seen lately, as a search does without end. How many had code, and what `look` says (the memory of the process)
    /// after a tenth of them and at the end.
    ///
    /// # Errors
    /// If the machine is not supported.
    pub fn churn(&mut self, children: u64, look: impl Fn() -> f64) -> Result<(u64, f64, f64), String> {
        /// Programs remembered.
        const SEEN: usize = 1 << 14;
        let start = optc_search::mutate::with_states(&self.starts[0].genome, &self.plan.space);
        let (mut seen, mut genome, mut compiled, mut early) = (vec![0u128; SEEN], start.clone(), 0, 0.0);
        for child in 0..children {
            if child == children / 10 {
                early = look();
            }
            if child % GENERATIONS == 0 {
                genome.clone_from(&start);
            }
            let Some((next, _)) = mutate(&genome, &self.plan.space, EVEN, &mut Stream::at([1, 0], 0, child)) else { continue };
            genome = next;
            let Ok(dag) = genome.dag() else { continue };
            let key = keys(&dag).exact;
            let place = &mut seen[key as usize % SEEN];
            if admissible(&dag) && *place != key {
                *place = key;
                self.scorers[0].benches[0].compile(&dag)?;
                compiled += 1;
            }
        }
        Ok((compiled, early, look()))
    }

    /// What the arm of evolution has done.
    pub fn counters(&self) -> Counters {
        self.arms[0].counters()
    }
}
