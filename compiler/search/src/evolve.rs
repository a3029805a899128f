//! The strategy: aging evolution in islands that exchange their best, with restarts; and the controls that a search owes, which change numbers alone or do not select.
//!
//! What child number n of an island is depends on the seed, the island and the population that child n - 1 left, never on time or threads: a search goes on bit for bit from what
//! [`Arm`] holds at the end of a round.

use crate::dag::{Dag, Input};
use crate::fingerprint::{fingerprint, mark};
use crate::genome::Genome;
use crate::hash::{Keys, keys};
use crate::live::without_dead_code;
pub use crate::memory::{Known, Memory, Scores};
use crate::mutate::{EVEN, Mix, Space, mutate, mutate_constant, with_states};
use crate::novelty::{Cell, Elites};
use crate::rng::Stream;
use crate::shorten::{length, shorten};
use crate::tune::Numbers;
use std::collections::VecDeque;

/// What scores programs; lower is better, infinity where a program fails, and from [`STOPPED`] on where it was not measured in full.
pub trait Evaluator {
    /// The fitness of a program that reads the gradient.
    fn fitness(&mut self, dag: &Dag) -> f64;

    /// Whether a round goes on: asked before each child of an island, which has done this.
    fn goes_on(&mut self, _done: &Counters) -> bool {
        true
    }
}

/// By what the mean score so far of a program that a hurdle stopped is multiplied: it is worse than all that were measured in full, and comparable with others that were stopped.
pub const STOPPED: f64 = 1e200;

/// Whether a fitness is that of a program that was measured in full, and got to the end.
pub fn measured(fitness: f64) -> bool {
    fitness < STOPPED
}

/// How a search goes about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strategy {
    /// Populations.
    pub islands: usize,
    /// Programs in each.
    pub population: usize,
    /// Members of which the best becomes a parent.
    pub tournament: usize,
    /// Children without a better one after which an island starts anew.
    pub restart_after: u64,
    /// Children of an island in a round, at whose end islands exchange their best and the search may be stopped.
    pub round: u64,
    /// Kinds of mutation.
    pub mix: Mix,
    /// The share of parents that are drawn from the elites of the novelty archive; above 0, one of them moves with the best to the next island.
    pub novelty: f64,
    /// Programs to run in a round to tune the numbers of an island's best by CMA-ES.
    pub tune: u64,
    /// Whether a program is not run where another one with its fingerprint was, whose score it takes.
    pub skip: bool,
    /// The fitness up to which programs count as equivalent: then the shortest of them is looked for, by what makes programs shorter alone.
    pub shorten: Option<f64>,
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy {
            islands: 4,
            population: 200,
            tournament: 2,
            restart_after: 50_000,
            round: 1000,
            mix: EVEN,
            novelty: 0.0,
            tune: 0,
            skip: false,
            shorten: None,
        }
    }
}

/// Who makes children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Typed mutation and selection.
    Evolution,
    /// Numbers of the first programs, with selection.
    ConstantsOnly,
    /// Mutations of the first programs, without selection.
    Random,
}

impl Kind {
    /// All there are.
    pub const ALL: [Kind; 3] = [Kind::Evolution, Kind::ConstantsOnly, Kind::Random];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Evolution => "evolution",
            Kind::ConstantsOnly => "constants_only",
            Kind::Random => "random",
        }
    }
    /// Its place in the random numbers.
    fn place(self) -> u32 {
        match self {
            Kind::Evolution => 1,
            Kind::ConstantsOnly => 2,
            Kind::Random => 3,
        }
    }
}

/// A program with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The program, redundant statements included.
    pub genome: Genome,
    /// Lower is better.
    pub fitness: f64,
    /// What selection looks at, lower is better: the fitness, or the length where programs are to become shorter.
    pub rank: f64,
    /// Its identity.
    pub key: u128,
}

/// What became of children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Children.
    pub children: u64,
    /// That mean nothing, ignore the gradient, are not what the space requires, or could not be made.
    pub invalid: u64,
    /// Whose program was known.
    pub known: u64,
    /// That were run.
    pub evaluated: u64,
    /// Of these, runs for the numbers of an island's best.
    pub tuned: u64,
    /// New programs with the fingerprint of another.
    pub fp_hit: u64,
    /// Of these, that were run and have another score than it: what the fingerprint would have merged wrongly.
    pub fp_wrong: u64,
}

impl Counters {
    /// What has come since these were counted.
    pub fn since(&self, before: &Counters) -> Counters {
        Counters {
            children: self.children - before.children,
            invalid: self.invalid - before.invalid,
            known: self.known - before.known,
            evaluated: self.evaluated - before.evaluated,
            tuned: self.tuned - before.tuned,
            fp_hit: self.fp_hit - before.fp_hit,
            fp_wrong: self.fp_wrong - before.fp_wrong,
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Counters) {
        self.children += other.children;
        self.invalid += other.invalid;
        self.known += other.known;
        self.evaluated += other.evaluated;
        self.tuned += other.tuned;
        self.fp_hit += other.fp_hit;
        self.fp_wrong += other.fp_wrong;
    }
}

/// A population.
#[derive(Clone, Debug, PartialEq)]
pub struct Island {
    /// Oldest first.
    pub population: VecDeque<Member>,
    /// The best since the last start.
    pub best: Option<Member>,
    /// The child that was it.
    pub best_at: u64,
    /// What it has done.
    pub counters: Counters,
    /// How often it started anew.
    pub restarts: u64,
    /// Its novelty archive.
    pub elites: Elites,
    /// The program whose numbers were tuned last.
    pub tuned: u128,
}

/// A program that was run for the first time.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The program without dead code.
    pub genome: Genome,
    /// Its identity.
    pub keys: Keys,
    /// Its score.
    pub fitness: f64,
    /// The island and child it was.
    pub island: usize,
    /// See `island`.
    pub child: u64,
    /// The identity of its parent.
    pub parent: u128,
    /// Its fingerprint.
    pub print: Vec<u8>,
}

/// One arm of a search: evolution, or a control.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Who makes children.
    pub kind: Kind,
    /// Populations.
    pub islands: Vec<Island>,
    /// Rounds made.
    pub rounds: u64,
}

/// All that is fixed in a search.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The programs that may be reached.
    pub space: Space,
    /// How.
    pub strategy: Strategy,
    /// First programs.
    pub starts: Vec<Genome>,
    /// The seed.
    pub seed: u64,
}

/// Most mutations of a first program in a random search.
const RANDOM_MUTATIONS: usize = 12;
/// A constants-only or random arm makes at most so many times as many children as it may run: most of those it makes are known.
const PATIENCE: u64 = 50;
/// Places in the random numbers beside those of children, whose islands are fewer.
const MIGRATION: u32 = 1 << 28;
const TUNING: u32 = 1 << 29;
/// Up to here scores are equal, relatively.
const EQUAL: f64 = 1e-6;

impl Plan {
    fn key(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// A first program of an island, with all states of the space.
    fn start(&self, number: usize) -> Genome {
        with_states(&self.starts[number % self.starts.len()], &self.space)
    }
}

/// Whether two scores are the same up to rounding.
pub(crate) fn equal(a: f64, b: f64) -> bool {
    a == b || a.is_finite() && b.is_finite() && (a - b).abs() <= EQUAL * a.abs().max(b.abs())
}

/// Whether a program can be an optimizer: it reads the gradient.
pub fn admissible(dag: &Dag) -> bool {
    dag.reads(Input::G)
}

impl Arm {
    /// An arm before its first round.
    pub fn new(kind: Kind, islands: usize) -> Arm {
        let island = Island {
            population: VecDeque::new(),
            best: None,
            best_at: 0,
            counters: Counters::default(),
            restarts: 0,
            elites: Elites::default(),
            tuned: 0,
        };
        Arm { kind, islands: vec![island; islands], rounds: 0 }
    }

    /// What all islands have done.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        self.islands.iter().for_each(|i| all.add(&i.counters));
        all
    }

    /// The best of all islands.
    pub fn best(&self) -> Option<&Member> {
        self.islands
            .iter()
            .filter_map(|i| i.best.as_ref())
            .min_by(|a, b| a.rank.total_cmp(&b.rank).then(a.fitness.total_cmp(&b.fitness)).then(a.key.cmp(&b.key)))
    }

    /// Whether its islands exchange programs.
    pub fn migrates(&self) -> bool {
        self.kind != Kind::Random
    }

    /// What moves on from an island when this many rounds have been made: its best, and one of its elites where there are some. `number` is that of the island among all.
    fn moving(&self, plan: &Plan, island: usize, number: usize, rounds: u64) -> Vec<Member> {
        let place = (self.kind.place() << 16) | MIGRATION | number as u32;
        let drawn = Stream::at(plan.key(), place, rounds).word() as usize;
        let i = &self.islands[island];
        i.best.iter().chain(i.elites.nth(drawn)).cloned().collect()
    }

    /// What moves on from the last island behind the round that has just been ended. `first` is the number of the first island among all.
    pub fn emigrants(&self, plan: &Plan, first: usize) -> Vec<Member> {
        match self.islands.len() {
            0 => Vec::new(),
            n => self.moving(plan, n - 1, first + n - 1, self.rounds),
        }
    }

    /// Ends a round: the best of each island moves to the next one, and one of its elites where there are some; from the last to the first.
    pub fn end_round(&mut self, plan: &Plan) {
        let n = self.islands.len();
        let last = if n < 2 { Vec::new() } else { self.moving(plan, n - 1, n - 1, self.rounds + 1) };
        self.end_round_of_part(plan, 0, &last);
    }

    /// Ends a round of islands that are a part of a ring and begin at number `first`: as [`Arm::end_round`], but for `immigrants`, who come to the first island.
    pub fn end_round_of_part(&mut self, plan: &Plan, first: usize, immigrants: &[Member]) {
        self.rounds += 1;
        if !self.migrates() {
            return;
        }
        let moving = (0..self.islands.len()).map(|k| self.moving(plan, k, first + k, self.rounds));
        let moved: Vec<Vec<Member>> = [immigrants.to_vec()].into_iter().chain(moving).collect();
        for (island, members) in self.islands.iter_mut().zip(moved) {
            for member in members {
                island.population.push_back(member);
                island.population.pop_front();
            }
        }
    }
}

/// The round of one island: so many children, or until so many were run. Islands do not see each other in a round.
pub struct Round<'a> {
    /// What is fixed.
    pub plan: &'a Plan,
    /// Who makes children.
    pub kind: Kind,
    /// The number of the island.
    pub number: usize,
    /// Programs to run at most in this round; children of evolution are counted, those of controls by what is run.
    pub runs: Option<u64>,
}

impl Round<'_> {
    /// Makes the round. `found` takes what was run for the first time on this island. False if the evaluator ended it early: a search does not go on from such an island.
    pub fn make(&self, island: &mut Island, scores: &mut Known<'_>, evaluator: &mut dyn Evaluator, found: &mut Vec<Found>) -> bool {
        let first = island.counters;
        if !evaluator.goes_on(&first) {
            return false;
        }
        if island.population.is_empty() && self.kind != Kind::Random {
            self.populate(island, scores, evaluator, found, false);
        }
        let round = self.plan.strategy.round;
        // What is left for tuning; a control has it within what it may run, and makes children of what tuning did not need.
        let mut tuning = if self.kind == Kind::Random { 0 } else { self.plan.strategy.tune.min(self.runs.map_or(u64::MAX, |r| r / 2)) };
        loop {
            let (children, evaluated) = (island.counters.children - first.children, island.counters.evaluated - first.evaluated);
            let done = match self.runs {
                None => children >= round,
                Some(runs) => evaluated + tuning >= runs || children >= PATIENCE * round.max(runs),
            };
            if !evaluator.goes_on(&island.counters) {
                return false;
            }
            if !done {
                self.child(island, scores, evaluator, found);
                continue;
            }
            self.tune(island, std::mem::take(&mut tuning), scores, evaluator, found);
            let left =
                self.runs.is_some_and(|runs| island.counters.evaluated - first.evaluated < runs && children < PATIENCE * round.max(runs));
            if !left {
                return evaluator.goes_on(&island.counters);
            }
        }
    }

    /// Fills a population with first programs, or with the best that was found.
    fn populate(
        &self,
        island: &mut Island,
        scores: &mut Known<'_>,
        evaluator: &mut dyn Evaluator,
        found: &mut Vec<Found>,
        from_best: bool,
    ) {
        let members: Vec<Member> = match (&island.best, from_best) {
            (Some(best), true) => vec![best.clone()],
            _ => {
                let starts = self.plan.starts.len();
                (0..starts).filter_map(|k| self.member(island, self.plan.start(k), 0, scores, evaluator, found)).collect()
            }
        };
        island.best = members.iter().min_by(|a, b| a.rank.total_cmp(&b.rank)).cloned();
        island.best_at = island.counters.children;
        island.population = members.iter().cycle().take(self.plan.strategy.population).cloned().collect();
    }

    /// A program with its score; `None` if it cannot be an optimizer.
    fn member(
        &self,
        island: &mut Island,
        genome: Genome,
        parent: u128,
        scores: &mut Known<'_>,
        evaluator: &mut dyn Evaluator,
        found: &mut Vec<Found>,
    ) -> Option<Member> {
        let dag = genome.dag().ok()?;
        if !admissible(&dag) {
            // The empty program may be a start.
            let empty = genome.body.is_empty();
            return empty.then_some(Member { genome, fitness: f64::INFINITY, rank: f64::INFINITY, key: 0 });
        }
        let keys = keys(&dag);
        let mut fresh = false;
        let fitness = match scores.score(keys.exact) {
            Some(known) => {
                island.counters.known += 1;
                known
            }
            None => {
                if !self.plan.space.allows(&dag) {
                    return None;
                }
                let print = fingerprint(&dag);
                let mark = mark(&print);
                let twin = scores.twin(mark);
                island.counters.fp_hit += u64::from(twin.is_some());
                // What could become the best of the island is run: it must have its own score.
                let may_lead = |score: f64| island.best.as_ref().is_none_or(|b| score < b.fitness) || self.plan.strategy.shorten.is_some();
                match twin.filter(|score| self.plan.strategy.skip && !may_lead(*score)) {
                    Some(score) => {
                        island.counters.known += 1;
                        // For the rest of the round; in a later one it is met anew, as it is where a search goes on.
                        scores.own.insert(keys.exact, score, mark);
                        score
                    }
                    None => {
                        fresh = true;
                        island.counters.evaluated += 1;
                        let fitness = evaluator.fitness(&dag);
                        island.counters.fp_wrong += u64::from(twin.is_some_and(|t| !equal(t, fitness)));
                        scores.own.insert(keys.exact, fitness, mark);
                        let bare = without_dead_code(&genome);
                        found.push(Found {
                            genome: bare,
                            keys,
                            fitness,
                            island: self.number,
                            child: island.counters.children,
                            parent,
                            print,
                        });
                        fitness
                    }
                }
            }
        };
        let rank = match self.plan.strategy.shorten {
            None => fitness,
            Some(limit) if fitness <= limit => length(&genome),
            Some(_) => f64::INFINITY,
        };
        let member = Member { genome, fitness, rank, key: keys.exact };
        if fresh && self.plan.strategy.novelty > 0.0 && self.kind == Kind::Evolution {
            island.elites.offer(Cell::of(&member, &dag), &member);
        }
        Some(member)
    }

    /// Tunes the numbers of the island's best, in at most so many runs; a better program becomes one of its members. Those of one program are tuned once.
    fn tune(&self, island: &mut Island, runs: u64, scores: &mut Known<'_>, evaluator: &mut dyn Evaluator, found: &mut Vec<Found>) {
        let Some(best) = island.best.clone().filter(|b| runs > 0 && b.rank.is_finite() && b.key != island.tuned) else { return };
        island.tuned = best.key;
        let Some(numbers) = Numbers::of(&best.genome) else { return };
        let first = island.counters.evaluated;
        let mut rng = Stream::at(self.plan.key(), (self.kind.place() << 16) | TUNING | self.number as u32, island.counters.children);
        let mut better = best.clone();
        numbers.tune(&mut rng, |genome| {
            if island.counters.evaluated - first >= runs || !evaluator.goes_on(&island.counters) {
                return None;
            }
            let member = self.member(island, genome, best.key, scores, evaluator, found);
            let rank = member.as_ref().map_or(f64::INFINITY, |m| m.rank);
            if let Some(member) = member
                && rank < better.rank
            {
                better = member;
            }
            Some(rank)
        });
        island.counters.tuned += island.counters.evaluated - first;
        if better.key != best.key {
            island.tuned = better.key;
            island.best = Some(better.clone());
            island.best_at = island.counters.children;
            island.population.push_back(better);
            island.population.pop_front();
        }
    }

    fn child(&self, island: &mut Island, scores: &mut Known<'_>, evaluator: &mut dyn Evaluator, found: &mut Vec<Found>) {
        let plan = self.plan;
        let strategy = &plan.strategy;
        let number = island.counters.children;
        let mut rng = Stream::at(plan.key(), (self.kind.place() << 16) | self.number as u32, number);
        island.counters.children += 1;
        let (made, parent) = match self.kind {
            Kind::Random => (self.random(&mut rng), 0),
            _ => {
                let n = island.population.len();
                if n == 0 {
                    island.counters.invalid += 1;
                    return;
                }
                let elite = strategy.novelty > 0.0 && self.kind == Kind::Evolution && rng.uniform() < strategy.novelty;
                let elite = if elite { island.elites.nth(rng.word() as usize) } else { None };
                let drawn = (0..strategy.tournament.max(1)).map(|_| rng.below(n)).collect::<Vec<_>>();
                let best = drawn.into_iter().min_by(|a, b| island.population[*a].rank.total_cmp(&island.population[*b].rank));
                let parent = elite.unwrap_or(&island.population[best.unwrap_or(0)]);
                let made = match self.kind {
                    Kind::ConstantsOnly => mutate_constant(&parent.genome, &mut rng),
                    _ if strategy.shorten.is_some() => shorten(&parent.genome, &plan.space, &mut rng),
                    _ => mutate(&parent.genome, &plan.space, strategy.mix, &mut rng),
                };
                (made.map(|m| m.0), parent.key)
            }
        };
        let member = made.and_then(|genome| self.member(island, genome, parent, scores, evaluator, found));
        let Some(member) = member else {
            island.counters.invalid += 1;
            return;
        };
        if island.best.as_ref().is_none_or(|b| member.rank < b.rank) {
            island.best = Some(member.clone());
            island.best_at = number;
        }
        if self.kind == Kind::Random {
            return;
        }
        island.population.push_back(member);
        island.population.pop_front();
        if number - island.best_at >= strategy.restart_after {
            island.restarts += 1;
            // From the best and from the first programs in turn.
            let from_best = island.restarts % 2 == 1;
            let kept = island.best.clone();
            self.populate(island, scores, evaluator, found, from_best);
            // What was found is not forgotten.
            if kept.as_ref().is_some_and(|k| island.best.as_ref().is_none_or(|b| k.rank < b.rank)) {
                island.best = kept;
            }
        }
    }

    fn random(&self, rng: &mut Stream) -> Option<Genome> {
        let mut genome = self.plan.start(rng.below(self.plan.starts.len()));
        for _ in 0..=rng.below(RANDOM_MUTATIONS) {
            if let Some((child, _)) = mutate(&genome, &self.plan.space, self.plan.strategy.mix, rng) {
                genome = child;
            }
        }
        Some(genome)
    }
}
