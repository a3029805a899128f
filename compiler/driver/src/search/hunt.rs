//! A search under way: rounds of its arms on one or several threads, archived after each.

use super::after::{After, check_held_out};
use super::archive::{self, Archive, EvalRow, arms as arms_of, measures, state};
use super::block::{Budget, SearchSpec};
use super::files::Hashes;
use super::ring::{Immigrants, Ring, leaving};
use super::scorer::{Scorer, Watch};
use super::seed::{self, seed};
use super::task;
use super::validation::Validation;
use super::view::View;
use crate::trainer::INTERRUPTED;
use optc_search::dag::Dag;
use optc_search::evolve::{Arm, Counters, Evaluator, Found, Island, Kind, Known, Memory, Plan, Round, Scores, admissible, measured};
use optc_search::fingerprint::mark;
use optc_search::fun::Fun;
use optc_search::genome::Genome;
use optc_search::pareto::{Front, Point};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
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
    /// Whether a round was not ended.
    cut: bool,
    /// The best of a round of the evolution that was not ended, if it is better than what the archive holds.
    pub(super) unfinished: Option<Found>,
    /// Files that tasks which are held out read.
    pub(super) held_out_files: Hashes,
    /// Seconds that it had gone on before this process, and when that began.
    clock: (f64, Instant),
}

/// How a round of an arm ended.
enum Turn {
    /// It was ended, and archived.
    Whole,
    /// It was not, since whoever another process waits for is through.
    Over,
    /// It was not, since somebody stopped it or its time was spent.
    Cut,
}

/// What a round of an island gave.
struct Made {
    island: usize,
    found: Vec<Found>,
    evals: Vec<EvalRow>,
    speeds: Vec<(u128, f64)>,
    trouble: Option<String>,
    /// Whether it was ended.
    whole: bool,
}

/// Time between two looks at whether a round is to end early, and between two tellings of how it stands.
const LOOK: Duration = Duration::from_millis(40);
const TELL: Duration = Duration::from_millis(300);

/// Why a search whose validation has turned does not go on.
const OVER: &str = "the search has ended: its validation found nothing better for as many measurements as `patience` says; another search, with another archive, may have more";

/// What sees a search under way.
type Tell<'a> = dyn FnMut(&View, Option<&mut Ring>, Duration) + 'a;

/// A search with what a round of one of its arms has done so far.
fn with(shown: &View, arm: usize, watch: &Watch, shortens: bool) -> View {
    let (mut view, (counters, best)) = (shown.clone(), watch.done());
    view.arms[arm].counters.add(&counters);
    // Where programs are to become shorter, the best is not the fittest.
    if !shortens {
        view.arms[arm].best = view.arms[arm].best.min(best);
    }
    view
}

/// An optimizer that a rung of a funnel wants to be beaten.
///
/// # Errors
/// If it is no program that could be.
pub(super) fn baseline(expression: &str, file: &Path) -> Result<Dag, Trouble> {
    let found = seed(expression, Some(file)).map_err(|r| Trouble::Seed(expression.to_string(), r))?;
    let dag = found.genome.dag().map_err(|_| format!("`{expression}` is no program"))?;
    if !admissible(&dag) {
        return Err(format!("`{expression}` does not look at the gradient").into());
    }
    Ok(dag)
}

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
            if let Some(s) = found.genome.body.iter().find(|s| spec.forbidden.contains(&s.fun)) {
                let name = s.fun.name();
                return Err(Trouble::Words(format!(
                    "`{expression}` has `{name}`, which the space forbids: a search starts from programs of its space"
                )));
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
        for (expression, _) in spec.funnel.iter().flat_map(|r| &r.beat) {
            baseline(expression, file)?;
        }
        let held_out_files = Hashes::of(file, check_held_out(&spec, file)?)?;
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
        let read = scorers[0].files().chain(validation.iter().flat_map(Validation::files));
        Hashes::of(file, read)?.same_data(&mut archive)?;
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
        let clock = (archive.elapsed()?, Instant::now());
        Ok(Hunt {
            spec,
            starts,
            arms,
            plan,
            scorers,
            memory,
            front,
            archive,
            reference,
            validation,
            first: 0,
            cut: false,
            unfinished: None,
            held_out_files,
            clock,
        })
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

    /// Goes on until the budget is spent, or somebody stops it: then this is false. `tell` sees the search after each round of an arm, and about once a second within one. In a ring, children are
    /// counted in all processes together. A round that is not ended in time is dropped: what the archive holds is always at the end of one.
    ///
    /// # Errors
    /// A task that fails at run time, an archive that cannot be written.
    pub fn run(
        &mut self,
        budget: Budget,
        mut ring: Option<&mut Ring>,
        mut tell: impl FnMut(&View, Option<&mut Ring>, Duration),
    ) -> Result<bool, String> {
        self.clock.1 = Instant::now();
        let done = self.turns(budget, &mut ring, &mut tell);
        let elapsed = self.elapsed();
        self.archive.set_elapsed(elapsed)?;
        done
    }

    fn turns(&mut self, budget: Budget, ring: &mut Option<&mut Ring>, tell: &mut Tell<'_>) -> Result<bool, String> {
        let processes = ring.as_ref().map_or(1, |r| r.size() as u64);
        let (begin, rounds) = (self.clock.1, self.arms[0].rounds);
        let spent = || matches!(budget, Budget::Time(t) if begin.elapsed() >= t);
        loop {
            let least = self.arms.iter().map(|a| a.rounds).min().unwrap_or(0);
            let next = self.arms.iter().position(|a| a.rounds == least).unwrap_or(0);
            if next == 0 {
                if self.validate()? {
                    let begun = self.arms[0].rounds > rounds;
                    return if begun { Ok(true) } else { Err(OVER.to_string()) };
                }
                if matches!(budget, Budget::Children(n) if self.arms[0].counters().children >= n.div_ceil(processes)) {
                    return Ok(true);
                }
            }
            if INTERRUPTED.load(Ordering::SeqCst) {
                return Ok(false);
            }
            if spent() {
                return Ok(true);
            }
            match self.round(next, ring, &spent, tell)? {
                Turn::Whole => tell(&self.view(), ring.as_deref_mut(), begin.elapsed()),
                Turn::Over => return Ok(ring.as_ref().is_some_and(|r| r.all_ended()) && !INTERRUPTED.load(Ordering::SeqCst)),
                Turn::Cut => {
                    self.cut = true;
                    return Ok(!INTERRUPTED.load(Ordering::SeqCst));
                }
            }
        }
    }

    /// Seconds that the search has gone on, in all processes that went on with it one after another.
    pub fn elapsed(&self) -> f64 {
        self.clock.0 + self.clock.1.elapsed().as_secs_f64()
    }

    /// A round of one arm. Where it is not ended, the search is as it was before.
    fn round(
        &mut self,
        number: usize,
        ring: &mut Option<&mut Ring>,
        spent: &dyn Fn() -> bool,
        tell: &mut Tell<'_>,
    ) -> Result<Turn, String> {
        let target = self.arms[0].counters().evaluated;
        let (before, shown, begin) = (self.arms[number].clone(), self.view(), self.clock.1);
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
        let (watch, shortens) = (&Arc::new(Watch::default()), plan.strategy.shorten.is_some());
        let work = |scorer: &mut Scorer, lot: Vec<(usize, &mut Island)>| -> Vec<Made> {
            lot.into_iter()
                .map(|(number, island)| {
                    let (mut found, mut known) = (Vec::new(), Known::new(shared));
                    scorer.begin(watch, island.counters);
                    let whole = Round { plan, kind, number: first + number, runs }.make(island, &mut known, scorer, &mut found);
                    scorer.end();
                    let (evals, speeds) = (std::mem::take(&mut scorer.evals), std::mem::take(&mut scorer.speeds));
                    Made { island: number, found, evals, speeds, trouble: scorer.trouble(), whole }
                })
                .collect()
        };
        let mut made: Vec<Made> = std::thread::scope(|scope| {
            let (at_work, ended) = mpsc::channel::<()>();
            let spawned = scorers.iter_mut().zip(lots).map(|(scorer, lot)| {
                let at_work = at_work.clone();
                scope.spawn(move || {
                    let made = work(scorer, lot);
                    drop(at_work);
                    made
                })
            });
            let threads: Vec<_> = spawned.collect();
            drop(at_work);
            let mut told = Instant::now();
            // Threads hang up when they are through.
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if told.elapsed() >= TELL {
                    told = Instant::now();
                    tell(&with(&shown, number, watch, shortens), ring.as_deref_mut(), begin.elapsed());
                }
                if INTERRUPTED.load(Ordering::SeqCst) || spent() {
                    watch.end();
                }
            }
            threads.into_iter().flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        made.sort_by_key(|m| m.island);
        if let Some(why) = made.iter().find_map(|m| m.trouble.clone()) {
            return Err(why);
        }
        if made.iter().any(|m| !m.whole) {
            self.arms[number] = before;
            self.keep_unfinished(kind, made);
            return Ok(Turn::Cut);
        }
        let arm = &mut self.arms[number];
        let round = arm.rounds;
        match ring.as_deref_mut().filter(|_| arm.migrates()).map(|r| r.immigrants(arm, &self.plan, first, round)) {
            None => arm.end_round(&self.plan),
            Some(Immigrants::Come(members)) => arm.end_round_of_part(&self.plan, first, &members),
            Some(Immigrants::Over) => {
                self.arms[number] = before;
                self.keep_unfinished(kind, made);
                return Ok(Turn::Over);
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
        let elapsed = self.elapsed();
        self.archive.commit(&archive::Made {
            kind,
            found: &found,
            evals: &evals,
            speeds: &speeds,
            sent: sent_now,
            state: &text,
            elapsed,
        })?;
        self.unfinished = None;
        if let (Some(ring), Some(member)) = (ring.as_deref_mut(), sent) {
            ring.emigrate(kind, round, &member);
        }
        Ok(Turn::Whole)
    }

    /// Keeps the best of a round of the evolution that was not ended, to be handed on if the search ends here.
    fn keep_unfinished(&mut self, kind: Kind, made: Vec<Made>) {
        if kind != Kind::Evolution || self.plan.strategy.shorten.is_some() {
            return;
        }
        let least = self.arms[0].best().map_or(f64::INFINITY, |b| b.fitness);
        let found = made.into_iter().flat_map(|m| m.found).filter(|f| measured(f.fitness) && f.fitness < least);
        self.unfinished = found.min_by(|a, b| a.fitness.total_cmp(&b.fitness).then(a.keys.exact.cmp(&b.keys.exact)));
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

    /// Whether a round was not ended when it ran last.
    pub fn cut(&self) -> bool {
        self.cut
    }

    /// Functions of first programs that mutations draw neither with protection nor without.
    pub fn beyond_ops(&self) -> Vec<String> {
        let used = self.starts.iter().flat_map(|s| &s.genome.body).map(|s| s.fun);
        let drawn = |f: &Fun| self.plan.space.functions.iter().any(|g| g == f || g.plain() == Some(*f));
        let beyond: BTreeSet<Fun> = used.filter(|f| *f != Fun::Copy && !drawn(f)).collect();
        beyond.into_iter().map(Fun::name).collect()
    }

    /// The best of that round, if it is better than all before.
    pub fn unfinished(&self) -> Option<&Found> {
        self.unfinished.as_ref()
    }

    /// Keeps the best program in the archive, as it is written.
    ///
    /// # Errors
    /// An archive that cannot be written.
    pub fn keep_emitted(&mut self, after: &After) -> Result<(), String> {
        let children = self.counters().children;
        match &after.winner {
            Some(winner) => self.archive.keep_emitted(winner, self.unfinished.as_ref(), children),
            None => Ok(()),
        }
    }

    /// What the arm of evolution has done.
    pub fn counters(&self) -> Counters {
        self.arms[0].counters()
    }
}
