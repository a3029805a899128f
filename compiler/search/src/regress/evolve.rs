//! The strategy: aging evolution in islands, each of which looks at the target through a view, with migration, restarts, and a parsimony that adapts to how full each size is (Cranmer 2023,
//! arXiv 2305.01582).
//!
//! What child number n of an island is depends on the seed, the island and the population that child n - 1 left, never on time or threads: a search goes on bit for bit from what
//! [`State`] holds at the end of a round.

use super::control::Control;
use super::fit::{Effort, Goal, Loss, fit, stiffness};
use super::formula::{Formula, Token};
use super::grain::Grain;
use super::grow::Space;
use super::readable::near;
use super::rows::{Columns, Scratch};
use super::threads::shared_out;
use super::tidy::tidy;
use super::view::{Lens, Memory, ROUNDING, View};
use crate::rng::Stream;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// How a search goes about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    /// Populations.
    pub islands: usize,
    /// Formulas in each.
    pub population: usize,
    /// Members of which the best becomes a parent.
    pub tournament: usize,
    /// Children without progress after which an island starts anew.
    pub restart_after: u64,
    /// Children of an island in a round, at whose end formulas migrate and the search may be stopped.
    pub round: u64,
    /// Views that islands take in turn, of those that suit the target.
    pub views: Vec<View>,
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy { islands: 8, population: 100, tournament: 8, restart_after: 20_000, round: 500, views: View::ALL.to_vec() }
    }
}

/// What is known of the data.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Rows that formulas are fitted on.
    pub table: Columns,
    /// Their targets.
    pub target: Vec<f64>,
    /// Their weights.
    pub weight: Option<Vec<f64>>,
    /// The loss of a row.
    pub loss: Loss,
    /// The formulas that may be reached.
    pub space: Space,
    /// How.
    pub strategy: Strategy,
    /// The seed.
    pub seed: u64,
    /// The search is over when less than this share of the loss of the best number for all rows is left, or no more than rounding of the rows explains ([`Problem::rounding`]).
    pub enough: f64,
    /// Whether random formulas are made beside, as many.
    pub control: bool,
    pub(super) lenses: Vec<Lens>,
    /// How finely targets and variables are known.
    pub(super) grains: (Grain, Vec<Grain>),
    /// The loss of the best number for all rows.
    pub baseline: f64,
}

/// A formula as an island knows it: what is not solved for.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The formula.
    pub formula: Formula,
    /// The share of the target that it leaves unexplained in the island's view.
    pub left: f64,
}

/// What became of children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Children.
    pub children: u64,
    /// That were not finite somewhere.
    pub invalid: u64,
    /// That were known in the round.
    pub known: u64,
    /// That were evaluated.
    pub evaluated: u64,
    /// Formulas of the target that were fitted.
    pub fitted: u64,
}

impl Counters {
    /// Adds another's.
    pub fn add(&mut self, other: &Counters) {
        self.children += other.children;
        self.invalid += other.invalid;
        self.known += other.known;
        self.evaluated += other.evaluated;
        self.fitted += other.fitted;
    }
}

/// A population.
#[derive(Clone, Debug, PartialEq)]
pub struct Island {
    /// Its view, as its place among those of the problem.
    pub lens: usize,
    /// Oldest first.
    pub population: VecDeque<Member>,
    /// The best of each size since the last start, by size.
    pub best: Vec<Option<Member>>,
    /// The child that last improved one of them.
    pub best_at: u64,
    /// What it has done.
    pub counters: Counters,
    /// How often it started anew.
    pub restarts: u64,
}

/// A formula of the target.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// The formula, its numbers fitted.
    pub formula: Formula,
    /// Its loss on the rows it was fitted on.
    pub loss: f64,
    /// The island and child that found it.
    pub island: usize,
    /// See `island`.
    pub child: u64,
}

/// Everything that a search goes on from.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Populations.
    pub islands: Vec<Island>,
    /// The best formula of each size, by size.
    pub hall: Vec<Option<Whole>>,
    /// Rounds made.
    pub rounds: u64,
    /// The round after which the search had what it looks for.
    pub reached: Option<u64>,
    /// Random formulas, as many.
    pub control: Option<Control>,
}

/// How strongly a size that many members have is avoided.
const CROWDING: f64 = 20.0;
/// The best of a tournament wins with this chance, else the next, and so on.
const WINS: f64 = 0.9;
/// A member is better than another of its size if it leaves so much less, relatively.
const BETTER: f64 = 1e-4;
/// Rounds of fitting for a formula that is kept, for one of a population, and while numbers are rounded.
const ROUNDS: (usize, usize, usize) = (40, 6, 6);
/// By how much a fit lowers a loss, generously.
const FIT_GAINS: f64 = 10.0;
/// Members whose numbers are fitted in a round: one in so many.
const TUNED: usize = 12;
/// Members that come from elsewhere in a round.
const MIGRANTS: usize = 4;
/// By how much a loss may grow for a readable number, relatively.
const MARGIN: f64 = 1e-3;

impl Problem {
    /// A problem over these rows.
    pub fn new(
        table: Columns,
        target: Vec<f64>,
        weight: Option<Vec<f64>>,
        loss: Loss,
        space: Space,
        strategy: Strategy,
        seed: u64,
    ) -> Problem {
        let views: Vec<View> = strategy.views.iter().copied().filter(|v| v.suits(&target) && space.sees(*v)).collect();
        let views = if views.is_empty() { vec![View::Sum] } else { views };
        let lenses = views.iter().map(|v| Lens::new(*v, &table, &target, weight.as_deref())).collect();
        let baseline = Goal { target: &target, weight: weight.as_deref(), loss: &loss }.of_constant(&mut Scratch::default());
        let grains = (Grain::of(&target), table.columns.iter().map(|c| Grain::of(c)).collect());
        Problem { table, target, weight, loss, space, strategy, seed, enough: ROUNDING, control: true, lenses, grains, baseline }
    }

    /// What is fitted.
    pub fn goal(&self) -> Goal<'_> {
        Goal { target: &self.target, weight: self.weight.as_deref(), loss: &self.loss }
    }

    /// The views of its islands.
    pub fn views(&self) -> Vec<View> {
        self.lenses.iter().map(|l| l.view).collect()
    }

    /// A search before its first round.
    pub fn start(&self) -> State {
        let island = |k: usize| Island {
            lens: k % self.lenses.len(),
            population: VecDeque::new(),
            best: vec![None; self.space.size + 1],
            best_at: 0,
            counters: Counters::default(),
            restarts: 0,
        };
        State {
            islands: (0..self.strategy.islands).map(island).collect(),
            hall: vec![None; self.space.size + 1],
            rounds: 0,
            reached: None,
            control: self.control.then(|| self.sampled()),
        }
    }

    pub(super) fn stream(&self, place: u32, n: u64) -> Stream {
        Stream::at([self.seed as u32, (self.seed >> 32) as u32], place, n)
    }

    /// Fits the numbers of a formula of the target, makes them readable where that costs nothing, and gives it in its short form with its loss.
    pub(super) fn polish(&self, formula: &Formula, worth: &dyn Fn(usize, f64) -> bool, scratch: &mut Scratch) -> Option<(Formula, f64)> {
        let mut out = tidy(formula);
        if out.size() > super::formula::LARGEST || !out.is_whole(self.table.columns.len()) {
            return None;
        }
        // A fit seldom gains more than this; what is far from what is kept is not worth one.
        if !worth(out.size().saturating_sub(4), self.loss_of(&out, scratch) / FIT_GAINS) {
            return None;
        }
        let goal = self.goal();
        let mut loss = fit(&mut out, &self.table, &goal, &Effort { rounds: ROUNDS.0, frozen: &[] }, scratch);
        // Numbers that become readable may go altogether: a little longer than what is kept is still worth it.
        if !loss.is_finite() || !worth(out.size().saturating_sub(4), loss) {
            return None;
        }
        out = self.rounded(out, &mut loss, scratch);
        let short = tidy(&out);
        if short != out {
            let again = self.loss_of(&short, scratch);
            if again <= self.limit(loss, &out, scratch) {
                (out, loss) = (short, again);
            }
        }
        Some((out, loss))
    }

    /// Whether the loss of a formula is as good as that of another, up to what a shorter formula may cost.
    pub fn as_good(&self, loss: f64, than: (&Formula, f64), scratch: &mut Scratch) -> bool {
        loss <= self.limit(than.1, than.0, scratch)
    }

    /// The loss that a formula in place of another may have: a little more, or what rounding of the rows explains.
    fn limit(&self, loss: f64, formula: &Formula, scratch: &mut Scratch) -> f64 {
        (loss + MARGIN * loss.abs()).max(self.rounding(formula, scratch)) + ROUNDING * self.baseline.abs()
    }

    /// The loss of a formula with the numbers it has.
    pub fn loss_of(&self, formula: &Formula, scratch: &mut Scratch) -> f64 {
        let mut predicted = Vec::new();
        scratch.eval(formula, &self.table, &mut predicted);
        self.goal().of(&predicted, scratch)
    }

    /// Readable numbers one after another, the others fitted anew, as long as the loss stays.
    fn rounded(&self, mut formula: Formula, loss: &mut f64, scratch: &mut Scratch) -> Formula {
        let goal = self.goal();
        let limit = self.limit(*loss, &formula, scratch);
        let mut frozen = Vec::new();
        for k in 0..formula.numbers().len() {
            let numbers = formula.numbers();
            let stiff = stiffness(&formula, &self.table, &goal, scratch);
            // Where numbers hang together in other ways than a quadratic says there is some room.
            let far = |y: f64| stiff.as_ref().is_some_and(|s| s[k] * (y - numbers[k]) * (y - numbers[k]) > 10.0 * (limit - *loss));
            let plain = std::iter::once(0.0).chain(near(numbers[k]).into_iter().map(|r| r.value));
            for value in plain.filter(|y| !far(*y)).collect::<Vec<_>>() {
                let mut tried = numbers.clone();
                tried[k] = value;
                let mut made = formula.clone();
                made.set_numbers(&tried);
                frozen.push(k);
                let after = fit(&mut made, &self.table, &goal, &Effort { rounds: ROUNDS.2, frozen: &frozen }, scratch);
                if after <= limit {
                    (formula, *loss) = (made, after);
                    break;
                }
                frozen.pop();
            }
        }
        formula
    }

    /// A round of all islands on so many threads; then what they found is kept and formulas migrate.
    pub fn round(&self, state: &mut State, threads: usize) {
        let hall = std::mem::take(&mut state.hall);
        let found = shared_out(state.islands.iter_mut(), threads, |lot| {
            let (mut scratch, mut memory) = (Scratch::default(), Memory::default());
            lot.into_iter().map(|(k, island)| (k, self.island_round(k, island, &hall, &mut scratch, &mut memory))).collect()
        });
        state.hall = hall;
        for whole in found.into_iter().flatten() {
            keep(&mut state.hall, whole);
        }
        self.migrate(state);
        let children = state.counters().children;
        if let Some(control) = &mut state.control {
            self.sample(control, children, threads);
        }
        state.rounds += 1;
        if state.reached.is_none() {
            let mut scratch = Scratch::default();
            if front(&state.hall).into_iter().any(|w| self.explained(&w.formula, w.loss, &mut scratch)) {
                state.reached = Some(state.rounds);
            }
        }
    }

    /// A loss as a share of that of the best number for all rows.
    pub fn unexplained(&self, loss: f64) -> f64 {
        if self.baseline > 0.0 { loss / self.baseline } else { loss }
    }

    /// Whether the search is at its end: it has what it looks for, and has looked for something shorter as long again as a quarter of the time it took.
    pub fn done(&self, state: &State) -> bool {
        state.reached.is_some_and(|at| state.rounds >= at + at / 4 + 3)
    }

    fn island_round(
        &self,
        number: usize,
        island: &mut Island,
        hall: &[Option<Whole>],
        scratch: &mut Scratch,
        memory: &mut Memory,
    ) -> Vec<Whole> {
        let lens = &self.lenses[island.lens];
        let mut known: FxHashMap<u128, f64> = FxHashMap::default();
        let mut improved = vec![false; self.space.size + 1];
        if island.population.is_empty() {
            self.populate(number, island, lens, scratch, memory);
            for (size, best) in island.best.iter().enumerate() {
                improved[size] = best.is_some();
            }
        }
        let mut sizes = vec![0usize; self.space.size + 2];
        island.population.iter().for_each(|m| sizes[m.formula.size()] += 1);
        for _ in 0..self.strategy.round {
            let mut rng = self.stream(number as u32, island.counters.children);
            island.counters.children += 1;
            let parent = self.parent(island, &sizes, &mut rng);
            let other = self.parent(island, &sizes, &mut rng);
            let child = {
                let of = |k: usize| &island.population[k].formula;
                self.space.child(of(parent), of(other), lens.view, &mut rng)
            };
            let key = child.key();
            let left = match known.get(&key) {
                Some(left) => {
                    island.counters.known += 1;
                    *left
                }
                None => {
                    island.counters.evaluated += 1;
                    let left = lens.unexplained(&child, scratch, memory);
                    known.insert(key, left);
                    left
                }
            };
            if !left.is_finite() {
                island.counters.invalid += 1;
                continue;
            }
            let size = child.size();
            let member = Member { formula: child, left };
            if note(island, &member) {
                improved[size] = true;
            }
            sizes[size] += 1;
            island.population.push_back(member);
            if let Some(oldest) = island.population.pop_front() {
                sizes[oldest.formula.size()] -= 1;
            }
        }
        self.tune(number, island, lens, &mut improved, scratch, memory);
        let mut found = Vec::new();
        for size in (0..=self.space.size).filter(|s| improved[*s]) {
            let Some(member) = &island.best[size] else { continue };
            let Some(whole) = lens.whole(&member.formula, scratch) else { continue };
            island.counters.fitted += 1;
            let worth = |size: usize, loss: f64| {
                let rival = hall.iter().take(size + 1).flatten().map(|w| w.loss).fold(f64::INFINITY, f64::min);
                loss < rival
            };
            let Some((formula, loss)) = self.polish(&whole, &worth, scratch) else { continue };
            if self.space.allows(&formula) {
                found.push(Whole { formula, loss, island: number, child: island.counters.children });
            }
        }
        if island.counters.children - island.best_at >= self.strategy.restart_after {
            island.restarts += 1;
            island.population.clear();
            island.best.fill(None);
            island.best_at = island.counters.children;
        }
        found
    }

    /// Fits numbers within the best formulas, and within some others.
    fn tune(&self, number: usize, island: &mut Island, lens: &Lens, improved: &mut [bool], scratch: &mut Scratch, memory: &mut Memory) {
        let mut rng = self.stream(0x4000_0000 | number as u32, island.counters.children);
        let mut lot: Vec<Formula> = island
            .best
            .iter()
            .enumerate()
            .filter(|(s, _)| improved[*s])
            .filter_map(|(_, m)| m.as_ref())
            .map(|m| m.formula.clone())
            .collect();
        for member in &island.population {
            if rng.below(TUNED) == 0 {
                lot.push(member.formula.clone());
            }
        }
        for formula in lot {
            let Some(tuned) = lens.tune(&formula, ROUNDS.1, scratch) else { continue };
            let left = lens.unexplained(&tuned, scratch, memory);
            if !left.is_finite() {
                continue;
            }
            let member = Member { formula: tuned, left };
            if note(island, &member) {
                improved[member.formula.size()] = true;
            }
            island.population.push_back(member);
            island.population.pop_front();
        }
    }

    fn populate(&self, number: usize, island: &mut Island, lens: &Lens, scratch: &mut Scratch, memory: &mut Memory) {
        let mut n = 0;
        let most = 50 * self.strategy.population as u64;
        while island.population.len() < self.strategy.population && n < most {
            let mut rng = self.stream(0x2000_0000 | number as u32, island.restarts * most + n);
            n += 1;
            let size = 1 + rng.below(self.space.size.min(7));
            let formula = self.space.random(size, &mut rng);
            let left = lens.unexplained(&formula, scratch, memory);
            if !left.is_finite() || formula.size() > self.space.size {
                continue;
            }
            let member = Member { formula, left };
            note(island, &member);
            island.population.push_back(member);
        }
        if island.population.is_empty() {
            // No formula is finite on all rows: the first variable stands in.
            island.population.push_back(Member { formula: Formula { tokens: vec![Token::Var(0)] }, left: 1.0 });
        }
    }

    /// The place of a parent in the population.
    fn parent(&self, island: &Island, sizes: &[usize], rng: &mut Stream) -> usize {
        let n = island.population.len();
        let score = |k: usize| {
            let member = &island.population[k];
            let crowd = sizes[member.formula.size()] as f64 / n as f64;
            (member.left + 1e-300).ln() + CROWDING * crowd
        };
        let mut drawn: Vec<(f64, usize)> = (0..self.strategy.tournament.max(1)).map(|_| rng.below(n)).map(|k| (score(k), k)).collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, k) in &drawn {
            if rng.uniform() < WINS {
                return *k;
            }
        }
        drawn[0].1
    }

    /// The best formulas of an island come to the next one of its view, some of any island and of the hall to each.
    fn migrate(&self, state: &mut State) {
        let n = state.islands.len();
        let best: Vec<Vec<Member>> = state.islands.iter().map(|i| i.best.iter().flatten().cloned().collect()).collect();
        let hall: Vec<Formula> = state.hall.iter().flatten().map(|w| w.formula.clone()).collect();
        let lenses: Vec<usize> = state.islands.iter().map(|i| i.lens).collect();
        let (mut scratch, mut memory) = (Scratch::default(), Memory::default());
        for (k, island) in state.islands.iter_mut().enumerate() {
            if island.population.is_empty() {
                continue;
            }
            let mut rng = self.stream(0x6000_0000 | k as u32, state.rounds);
            let alike = (1..=n).map(|d| (k + d) % n).find(|j| lenses[*j] == lenses[k]).unwrap_or(k);
            let mut coming: Vec<Formula> = Vec::new();
            for from in [&best[alike], &best[k]] {
                for _ in 0..MIGRANTS / 2 {
                    if !from.is_empty() {
                        coming.push(from[rng.below(from.len())].formula.clone());
                    }
                }
            }
            let any = &best[rng.below(n)];
            if !any.is_empty() {
                coming.push(any[rng.below(any.len())].formula.clone());
            }
            if !hall.is_empty() {
                coming.push(hall[rng.below(hall.len())].clone());
            }
            for formula in coming.into_iter().filter(|f| f.size() <= self.space.size) {
                let left = self.lenses[island.lens].unexplained(&formula, &mut scratch, &mut memory);
                if left.is_finite() {
                    island.population.push_back(Member { formula, left });
                    island.population.pop_front();
                }
            }
        }
    }
}

/// Keeps a member if it is the best of its size, and says whether that is progress: nothing smaller is as good.
fn note(island: &mut Island, member: &Member) -> bool {
    let size = member.formula.size();
    let better = |than: &Member| member.left < than.left * (1.0 - BETTER);
    if !island.best[size].as_ref().is_none_or(better) {
        return false;
    }
    let progress = island.best[..size].iter().flatten().all(better);
    island.best[size] = Some(member.clone());
    if progress {
        island.best_at = island.counters.children;
    }
    progress
}

/// Keeps a formula if it is the best of its size.
pub fn keep(hall: &mut [Option<Whole>], whole: Whole) {
    let size = whole.formula.size();
    if size < hall.len() && hall[size].as_ref().is_none_or(|w| whole.loss < w.loss) {
        hall[size] = Some(whole);
    }
}

impl State {
    /// What all islands have done.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        self.islands.iter().for_each(|i| all.add(&i.counters));
        all
    }

    /// The formulas of which none smaller is as good, the smallest first.
    pub fn front(&self) -> Vec<&Whole> {
        front(&self.hall)
    }
}

/// The formulas of which none smaller is as good, the smallest first.
pub fn front(hall: &[Option<Whole>]) -> Vec<&Whole> {
    let mut least = f64::INFINITY;
    let mut out = Vec::new();
    for whole in hall.iter().flatten() {
        if whole.loss < least {
            least = whole.loss;
            out.push(whole);
        }
    }
    out
}
