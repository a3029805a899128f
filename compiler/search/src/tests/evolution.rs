//! The strategy, on scores that need no training.

use super::read;
use crate::dag::Dag;
use crate::evolve::{Arm, Evaluator, Found, Kind, Known, Plan, Round, Scores, Strategy};
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
    let mut shared: Scores = found.iter().map(|f| (f.keys.exact, f.fitness)).collect();
    for _ in 0..n {
        let mut fresh = Scores::default();
        for (number, island) in arm.islands.iter_mut().enumerate() {
            let round = Round { plan, kind: arm.kind, number, runs: None };
            let mut known = Known::new(&shared);
            round.make(island, &mut known, &mut evaluator, found);
            fresh.extend(known.own);
        }
        shared.extend(fresh);
        arm.end_round();
    }
}

#[test]
fn a_search_goes_on_bit_for_bit() {
    let plan = plan(SGD, 5, 100);
    for kind in [Kind::Evolution, Kind::ConstantsOnly, Kind::Random] {
        let (mut whole, mut all) = (Arm::new(kind, 2), Vec::new());
        rounds(&plan, &mut whole, 4, &mut all);
        // Stopped after one round, and gone on from what the arm holds, without the scores that were known.
        let (mut arm, mut found) = (Arm::new(kind, 2), Vec::new());
        rounds(&plan, &mut arm, 1, &mut found);
        rounds(&plan, &mut arm.clone(), 1, &mut Vec::new());
        rounds(&plan, &mut arm, 3, &mut found);
        let populations =
            |a: &Arm| a.islands.iter().map(|i| (i.population.clone(), i.best.clone(), i.counters.children, i.restarts)).collect::<Vec<_>>();
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
