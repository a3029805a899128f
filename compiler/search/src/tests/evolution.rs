//! The strategy, on scores that need no training.

use super::read;
use crate::dag::Dag;
use crate::evolve::{Arm, Evaluator, Found, Kind, Known, Memory, Plan, Round, Strategy, equal};
use crate::fingerprint::mark;
use crate::fun::{Fun, HERO};
use crate::hash::keys;
use crate::mutate::Space;
use crate::trace::Run;

/// A quadratic with its optimum away from 0, ill-conditioned, in f64: the least log loss over three rates.
struct Quadratic {
    runs: u64,
}

impl Evaluator for Quadratic {
    fn fitness(&mut self, dag: &Dag) -> f64 {
        self.runs += 1;
        const N: usize = 6;
        let curvature = |i: usize| 0.05 * 3f64.powi(i as i32);
        let target = |i: usize| (i as f64 * 1.3).sin() * 2.0;
        let mut best = f64::INFINITY;
        for lr in [0.3, 0.1, 0.03, 0.01] {
            let mut run = Run::new(dag, vec![vec![0.0; N]]);
            for _ in 0..40 {
                let g: Vec<f64> = (0..N).map(|i| curvature(i) * (run.weights[0][i] - target(i))).collect();
                run.step(&[g], lr);
            }
            let loss: f64 = (0..N).map(|i| curvature(i) * (run.weights[0][i] - target(i)).powi(2)).sum();
            if loss.is_finite() {
                best = best.min(loss);
            }
        }
        best
    }
}

fn plan(start: &str, seed: u64, restart_after: u64) -> Plan {
    let functions = HERO.iter().map(|(_, f)| *f).filter(|f: &Fun| f.elementwise()).collect();
    let space = Space { functions, statements: 12, states: 1, ..Space::default() };
    let strategy = Strategy { islands: 2, population: 30, tournament: 3, restart_after, round: 150, ..Strategy::default() };
    Plan { space, strategy, starts: vec![read(start)], seed }
}

const SGD: &str = "def train(w, g, lr):\n  update = g * lr\n  return update";

fn rounds(plan: &Plan, arm: &mut Arm, n: u64, found: &mut Vec<Found>) {
    let mut evaluator = Quadratic { runs: 0 };
    // What was run before this call is known.
    let mut shared = Memory::default();
    let mut learnt = 0;
    for _ in 0..n {
        found[learnt..].iter().for_each(|f| shared.insert(f.keys.exact, f.fitness, mark(&f.print)));
        learnt = found.len();
        for (number, island) in arm.islands.iter_mut().enumerate() {
            let round = Round { plan, kind: arm.kind, number, runs: None };
            let mut known = Known::new(&shared);
            round.make(island, &mut known, &mut evaluator, found);
        }
        arm.end_round(plan);
    }
}

const MOMENTUM: &str = "def train(w, g, m, lr):\n  m = interpolate(m, g, 0.5)\n  u = m * 0.7\n  update = u * lr\n  return update, m";

#[test]
fn a_search_goes_on_bit_for_bit() {
    let mut all_of_it = plan(MOMENTUM, 5, 100);
    all_of_it.strategy = Strategy { novelty: 0.3, tune: 20, skip: true, ..all_of_it.strategy };
    for (kind, plan) in [Kind::Evolution, Kind::ConstantsOnly, Kind::Random]
        .map(|k| (k, plan(SGD, 5, 100)))
        .into_iter()
        .chain([(Kind::Evolution, all_of_it.clone()), (Kind::ConstantsOnly, all_of_it.clone())])
    {
        let plan = &plan;
        let (mut whole, mut all) = (Arm::new(kind, 2), Vec::new());
        rounds(plan, &mut whole, 4, &mut all);
        // Stopped after one round, and gone on from what the arm holds, without the scores that were known.
        let (mut arm, mut found) = (Arm::new(kind, 2), Vec::new());
        rounds(plan, &mut arm, 1, &mut found);
        rounds(plan, &mut arm.clone(), 1, &mut Vec::new());
        rounds(plan, &mut arm, 3, &mut found);
        let populations = |a: &Arm| {
            a.islands
                .iter()
                .map(|i| (i.population.clone(), i.best.clone(), i.counters, i.restarts, i.elites.clone(), i.tuned))
                .collect::<Vec<_>>()
        };
        assert_eq!(populations(&arm), populations(&whole), "{}", kind.name());
        let first: std::collections::BTreeSet<u128> = all.iter().map(|f| f.keys.exact).collect();
        assert_eq!(found.iter().map(|f| f.keys.exact).collect::<std::collections::BTreeSet<_>>(), first);
    }
}

#[test]
fn evolution_improves_on_its_start_and_keeps_its_limits() {
    let plan = plan(SGD, 1, 10_000);
    let mut arm = Arm::new(Kind::Evolution, 2);
    let mut found = Vec::new();
    rounds(&plan, &mut arm, 6, &mut found);
    let start = Quadratic { runs: 0 }.fitness(&read(SGD).dag().expect("a program"));
    let best = arm.best().expect("something was found");
    assert!(best.fitness < 0.7 * start, "{} and {start}", best.fitness);
    assert!(found.iter().all(|f| f.genome.states.len() <= 1 && f.genome.body.len() <= 12));
    let counters = arm.counters();
    assert_eq!(counters.children, 2 * 6 * 150);
    assert!(counters.evaluated > 0 && counters.evaluated <= counters.children + 2);
    assert_eq!(counters.invalid + counters.known + counters.evaluated, counters.children + 2, "{counters:?}");
    // What was found is what it says.
    let again = Quadratic { runs: 0 }.fitness(&best.genome.dag().expect("a program"));
    assert_eq!((again, best.key), (best.fitness, keys(&best.genome.dag().expect("a program")).exact));
}

#[test]
fn the_constants_only_control_changes_numbers_alone() {
    let plan = plan("def train(w, g, m, lr):\n  m = interpolate(m, g, 0.5)\n  update = m * lr\n  return update, m", 3, 10_000);
    let (mut arm, mut found) = (Arm::new(Kind::ConstantsOnly, 2), Vec::new());
    rounds(&plan, &mut arm, 2, &mut found);
    let families: std::collections::BTreeSet<u128> = found.iter().map(|f| f.keys.family).collect();
    assert!(families.len() == 1 && found.len() > 100, "{} programs", found.len());
}

#[test]
fn the_numbers_of_the_best_are_tuned_within_the_budget() {
    let untuned = plan(MOMENTUM, 9, 10_000);
    let mut tuned = untuned.clone();
    tuned.strategy.tune = 60;
    let run = |plan: &Plan, kind| {
        let (mut arm, mut found) = (Arm::new(kind, 2), Vec::new());
        rounds(plan, &mut arm, 2, &mut found);
        (arm.counters(), arm.best().expect("a best").fitness, found.len() as u64)
    };
    let (without, with) = (run(&untuned, Kind::Evolution), run(&tuned, Kind::Evolution));
    // Two islands, two rounds; all of it is counted among what was run.
    assert_eq!((without.0.tuned, with.0.evaluated), (0, with.2));
    assert!(with.0.tuned > 60 && with.0.tuned <= 240, "{:?}", with.0);
    assert!(with.1 < without.1, "{} and {}", with.1, without.1);
    // A control has the same within what it may run, and runs all of that: also where its best has been tuned, and where there is nothing to tune.
    for start in [MOMENTUM, "def train(w, g, m, lr):\n  m = m + g\n  update = m * lr\n  return update, m"] {
        let mut plan = plan(start, 9, 10_000);
        plan.strategy.tune = 60;
        for kind in [Kind::ConstantsOnly, Kind::Random].into_iter().filter(|k| start == MOMENTUM || *k == Kind::Random) {
            let (mut arm, mut found, memory) = (Arm::new(kind, 1), Vec::new(), Memory::default());
            for round in 1..=3 {
                let mut known = Known::new(&memory);
                let evaluator = &mut Quadratic { runs: 0 };
                Round { plan: &plan, kind, number: 0, runs: Some(80) }.make(&mut arm.islands[0], &mut known, evaluator, &mut found);
                assert_eq!(arm.counters().evaluated, 80 * round, "{kind:?} {:?}", arm.counters());
            }
            assert_eq!(arm.counters().tuned > 0, kind == Kind::ConstantsOnly, "{:?}", arm.counters());
        }
    }
}

#[test]
fn elites_are_of_all_kinds_and_become_parents() {
    let mut plan = plan(SGD, 2, 10_000);
    plan.strategy.novelty = 0.5;
    let (mut arm, mut found) = (Arm::new(Kind::Evolution, 2), Vec::new());
    rounds(&plan, &mut arm, 4, &mut found);
    for island in &arm.islands {
        let cells: Vec<_> = island.elites.cells.keys().collect();
        let states: std::collections::BTreeSet<u8> = cells.iter().map(|c| c.states).collect();
        let degrees: std::collections::BTreeSet<Option<i8>> = cells.iter().map(|c| c.degree).collect();
        assert!(cells.len() > 3 && states.len() > 1 && degrees.len() > 1, "{cells:?}");
        for (cell, elite) in &island.elites.cells {
            assert_eq!(*cell, crate::novelty::Cell::of(elite, &elite.genome.dag().expect("a program")));
        }
    }
    let elites: std::collections::BTreeSet<u128> = arm.islands.iter().flat_map(|i| i.elites.cells.values().map(|m| m.key)).collect();
    assert!(found.iter().filter(|f| elites.contains(&f.parent)).count() > 20);
}

#[test]
fn fingerprints_count_and_skip_only_where_that_is_asked_for() {
    let counting = plan(MOMENTUM, 4, 10_000);
    let mut skipping = counting.clone();
    skipping.strategy.skip = true;
    let run = |plan: &Plan| {
        let (mut arm, mut found) = (Arm::new(Kind::Evolution, 2), Vec::new());
        rounds(plan, &mut arm, 3, &mut found);
        let run = |key: u128| found.iter().any(|f| f.keys.exact == key);
        assert!(arm.islands.iter().all(|i| i.best.as_ref().is_some_and(|b| run(b.key))), "a best that was not run");
        (arm.counters(), found)
    };
    // A program that fails where its twin does not is told apart.
    assert!(!equal(f64::INFINITY, 0.3) && !equal(0.3, f64::INFINITY) && equal(f64::INFINITY, f64::INFINITY) && !equal(f64::NAN, 0.3));
    assert!(equal(0.3, 0.3 + 1e-9) && !equal(0.3, 0.301));
    let ((counted, all), (skipped, fewer)) = (run(&counting), run(&skipping));
    assert!(counted.fp_hit > 10 && counted.fp_wrong < counted.fp_hit && counted.evaluated == all.len() as u64, "{counted:?}");
    assert!(skipped.fp_hit > 10 && skipped.evaluated == fewer.len() as u64, "{skipped:?}");
    // An island runs two programs with one fingerprint only where the second could be its best.
    let mut marks: Vec<(usize, u64)> = fewer.iter().map(|f| (f.island, mark(&f.print))).collect();
    let count = marks.len();
    marks.sort_unstable();
    marks.dedup();
    assert!(4 * (count - marks.len()) < skipped.fp_hit as usize, "{} of {}", count - marks.len(), skipped.fp_hit);
}

#[test]
fn simplification_finds_what_is_needed() {
    use crate::shorten::length;
    // Momentum with a noise of statements that do nothing that shows.
    let long = "def train(w, g, m, v, lr):\n  a = g * 1e-9\n  b = a + g\n  c = tanh(a)\n  d = b + c\n  m = interpolate(m, d, 0.3)\n  v = interpolate(v, a, 0.1)\n  e = v * 1e-6\n  u = m + e\n  f = abs(e)\n  u = u - f\n  update = u * lr\n  return update, m, v";
    let mut plan = plan(long, 6, 1_000_000);
    plan.space.states = 2;
    let first = Quadratic { runs: 0 }.fitness(&read(long).dag().expect("a program"));
    plan.strategy = Strategy { shorten: Some(first * 1.001), round: 400, ..plan.strategy };
    let (mut arm, mut found) = (Arm::new(Kind::Evolution, 2), Vec::new());
    rounds(&plan, &mut arm, 3, &mut found);
    let best = arm.best().expect("a best");
    let bare = crate::live::without_dead_code(&best.genome);
    assert!(best.fitness <= first * 1.001 && best.rank == length(&best.genome));
    assert!(bare.body.len() <= 3 && bare.states.len() == 1, "{}", crate::text::write(&bare));
}
