//! What becomes of scores under conditions for which no learning rate was chosen: gradients and weights of another unit, turned coordinates, narrow memory, a restart, weights
//! without gradient, other batches, longer runs. Reported, not scored.

use super::hunt::Trouble;
use super::judge::{Contest, Judged, Verdict};
use optc_ir::ScalarOp;
use optc_search::fun::Fun;
use optc_search::genome::{Arg, Genome, Reg, Stmt};
use optc_search::run::Conditions;
use optc_search::stats::median;

/// Seeds of an audit at most: some are ten times as long as the task.
const SEEDS: usize = 10;
/// Seeds of one that is more than `MOST_WORK` times the work of the task.
const FEW_SEEDS: usize = 3;
/// See `FEW_SEEDS`.
const MOST_WORK: usize = 10;

/// Optimizers on a task under several conditions.
#[derive(Clone, Debug)]
pub struct Audit {
    /// The task.
    pub task: String,
    /// Seeds.
    pub seeds: usize,
    /// The conditions; the first is the task as it is.
    pub conditions: Vec<String>,
    /// For each optimizer its median under each condition; infinite where half of the runs failed.
    pub rows: Vec<(String, Vec<f64>)>,
}

/// The program on gradients that are `by` times as large.
pub fn rescaled(genome: &Genome, by: f64) -> Genome {
    let mut out = genome.clone();
    out.body.insert(0, times(Reg::G, by));
    out
}

/// The program on weights that are `by` times as large, where the function of the weights is the same: gradients are as many times smaller, and what is subtracted is divided.
pub fn in_other_units(genome: &Genome, by: f64) -> Genome {
    let mut out = rescaled(genome, 1.0 / by);
    out.body.insert(0, times(Reg::W, by));
    out.body.push(times(Reg::Update, 1.0 / by));
    out
}

fn times(reg: Reg, by: f64) -> Stmt {
    Stmt::new(reg, Fun::Plain(ScalarOp::Mul), &[Arg::Reg(reg), Arg::Const(by)])
}

/// What is different from what was judged.
#[derive(Clone, Debug, Default)]
struct Condition {
    name: String,
    /// Settings of the task.
    set: Vec<String>,
    /// The factor of gradients.
    gradient: Option<f64>,
    /// The factor of weights, the function of them being the same.
    weight: Option<f64>,
    /// How runs are made.
    runs: Conditions,
    /// How many times the work of the task it is.
    work: usize,
}

impl Condition {
    fn of(&self, genome: &Genome) -> Genome {
        let genome = self.gradient.map_or_else(|| genome.clone(), |by| rescaled(genome, by));
        self.weight.map_or(genome.clone(), |by| in_other_units(&genome, by))
    }
}

/// The batch beyond which sizes are told apart; see `conditions`.
const LARGE: usize = 1024;

/// The conditions of a task of so many steps and examples: what a find may depend on without anybody having looked.
fn conditions(steps: usize, batch: Option<usize>) -> Vec<Condition> {
    let named = |name: &str| Condition { name: name.to_string(), work: 1, ..Condition::default() };
    let runs = |name: &str, runs: Conditions| Condition { runs, ..named(name) };
    let mut all = vec![
        named("as judged"),
        Condition { gradient: Some(1e3), ..named("gradient x 1000") },
        Condition { gradient: Some(1e-3), ..named("gradient / 1000") },
        Condition { weight: Some(10.0), ..named("weights x 10") },
        Condition { weight: Some(0.1), ..named("weights / 10") },
        runs("rotated", Conditions { rotated: true, ..Conditions::default() }),
        runs("bf16", Conditions { narrow: true, ..Conditions::default() }),
        runs("restart", Conditions { restart: Some(steps / 2), ..Conditions::default() }),
        runs("bare rows", Conditions { bare: true, ..Conditions::default() }),
    ];
    if let Some(batch) = batch {
        let of = |n: usize| Condition { set: vec![format!("batch={n}")], work: n.div_ceil(batch), ..named(&format!("batch {n}")) };
        all.extend((batch >= 4).then(|| of(batch / 4)));
        all.push(of(4 * batch));
        all.extend((4 * batch < LARGE).then(|| of(LARGE)));
    }
    all.push(Condition { set: vec![format!("steps={}", 10 * steps)], work: 10, ..named(&format!("{} steps", 10 * steps)) });
    all
}

/// Looks at what was judged under other conditions, each optimizer at the learning rate that was chosen for it.
///
/// # Errors
/// A task that cannot be so, or fails at run time.
pub fn audits(contest: &Contest<'_>, judged: &[Judged], verdicts: &[Verdict]) -> Result<Vec<Audit>, Trouble> {
    let mut seeds = contest.scored_on();
    seeds.truncate(SEEDS);
    let mut all = Vec::new();
    for (t, verdict) in contest.tasks.iter().zip(verdicts) {
        let mut plain = contest.bench(t, &[], Conditions::default(), &seeds, &[1.0])?;
        let conditions = conditions(plain.task.steps, plain.task.batch);
        let mut rows: Vec<(String, Vec<f64>)> = judged.iter().map(|j| (j.name.clone(), Vec::new())).collect();
        for condition in &conditions {
            let as_is = condition.set.is_empty() && condition.runs == Conditions::default();
            let few = &seeds[..if condition.work > MOST_WORK { seeds.len().min(FEW_SEEDS) } else { seeds.len() }];
            let mut other = if as_is { None } else { Some(contest.bench(t, &condition.set, condition.runs, few, &[1.0])?) };
            let bench = other.as_mut().unwrap_or(&mut plain);
            for ((judged, row), out) in judged.iter().zip(&verdict.rows).zip(&mut rows) {
                let dag = condition.of(&row.genome).dag().map_err(|_| format!("`{}` is no program", judged.name))?;
                bench.set_rates(&[row.rate]);
                let outcome = bench.run(&dag)?.ok_or_else(|| format!("`{}` cannot be run", judged.name))?;
                let scores: Vec<f64> = outcome.scores.iter().map(|s| if s[0].is_finite() { s[0] } else { f64::INFINITY }).collect();
                out.1.push(median(&scores));
            }
        }
        let conditions = conditions.into_iter().map(|c| c.name).collect();
        all.push(Audit { task: verdict.task.clone(), seeds: seeds.len(), conditions, rows });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::seed::seed;
    use optc_search::hash::keys;

    #[test]
    fn gradients_of_another_unit_are_a_statement_in_front() {
        let of = |expression: &str| seed(expression, None).map(|s| s.genome).unwrap_or_default();
        let (sgd, scaled) = (of("sgd(lr = 1.0)"), rescaled(&of("sgd(lr = 1.0)"), 1e3));
        assert_ne!(keys(&sgd.dag().expect("a program")).exact, keys(&scaled.dag().expect("a program")).exact);
        // By 1, every bit stays.
        assert_eq!(keys(&sgd.dag().expect("a program")).exact, keys(&rescaled(&sgd, 1.0).dag().expect("a program")).exact);
    }

    #[test]
    fn an_update_in_other_units_is_the_same_change_of_the_function() {
        use optc_search::trace::updates;
        // Gradient descent moves a weight of ten times the size a tenth of what the function asks: the unit squared.
        let descent = seed("sgd(lr = 1.0)", None).map(|s| s.genome).unwrap_or_default();
        let step = |g: &Genome| updates(&g.dag().expect("a program"), &[vec![2.0]], &[vec![vec![3.0]]], 0.5)[0][0][0];
        assert!((step(&in_other_units(&descent, 10.0)) - step(&descent) / 100.0).abs() < 1e-15);
        // A sign does not see gradients, and moves by its own unit.
        let sign = seed("signum(lr = 1.0)", None).map(|s| s.genome).unwrap_or_default();
        assert!((step(&in_other_units(&sign, 10.0)) - step(&sign) / 10.0).abs() < 1e-15);
    }

    #[test]
    fn conditions_have_no_batch_below_one() {
        let names = |batch| conditions(100, batch).into_iter().map(|c| c.name).skip(9).collect::<Vec<_>>();
        assert_eq!(names(Some(32)), ["batch 8", "batch 128", "batch 1024", "1000 steps"]);
        assert_eq!(names(Some(2)), ["batch 8", "batch 1024", "1000 steps"]);
        assert_eq!(names(Some(512)), ["batch 128", "batch 2048", "1000 steps"]);
        assert_eq!(names(None), ["1000 steps"]);
    }
}
