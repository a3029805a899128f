//! What becomes of scores under conditions for which no learning rate was chosen: gradients of another unit, other batches, longer runs. Reported, not scored.

use super::hunt::Trouble;
use super::judge::{Contest, Judged, Verdict};
use optc_ir::ScalarOp;
use optc_search::fun::Fun;
use optc_search::genome::{Arg, Genome, Reg, Stmt};
use optc_search::stats::median;

/// Seeds of an audit at most: some are ten times as long as the task.
const SEEDS: usize = 10;

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
    out.body.insert(0, Stmt::new(Reg::G, Fun::Plain(ScalarOp::Mul), &[Arg::Reg(Reg::G), Arg::Const(by)]));
    out
}

/// A condition: its name, settings of the task, the factor of gradients.
type Condition = (String, Vec<String>, f64);

/// The conditions of a task of so many steps and examples.
fn conditions(steps: usize, batch: Option<usize>) -> Vec<Condition> {
    let mut all = vec![
        ("as judged".to_string(), Vec::new(), 1.0),
        ("gradient x 1000".to_string(), Vec::new(), 1e3),
        ("gradient / 1000".to_string(), Vec::new(), 1e-3),
    ];
    if let Some(batch) = batch {
        if batch >= 4 {
            all.push((format!("batch {}", batch / 4), vec![format!("batch={}", batch / 4)], 1.0));
        }
        all.push((format!("batch {}", 4 * batch), vec![format!("batch={}", 4 * batch)], 1.0));
    }
    all.push((format!("{} steps", 10 * steps), vec![format!("steps={}", 10 * steps)], 1.0));
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
        let mut plain = contest.bench(t, &[], &seeds, &[1.0])?;
        let conditions = conditions(plain.task.steps, plain.task.batch);
        let mut rows: Vec<(String, Vec<f64>)> = judged.iter().map(|j| (j.name.clone(), Vec::new())).collect();
        for (_, set, by) in &conditions {
            let mut other = if set.is_empty() { None } else { Some(contest.bench(t, set, &seeds, &[1.0])?) };
            let bench = other.as_mut().unwrap_or(&mut plain);
            for ((judged, row), out) in judged.iter().zip(&verdict.rows).zip(&mut rows) {
                let dag = rescaled(&judged.genome, *by).dag().map_err(|_| format!("`{}` is no program", judged.name))?;
                bench.set_rates(&[row.rate]);
                let outcome = bench.run(&dag)?.ok_or_else(|| format!("`{}` cannot be run", judged.name))?;
                let scores: Vec<f64> = outcome.scores.iter().map(|s| if s[0].is_finite() { s[0] } else { f64::INFINITY }).collect();
                out.1.push(median(&scores));
            }
        }
        let conditions = conditions.into_iter().map(|c| c.0).collect();
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
    fn conditions_have_no_batch_below_one() {
        let names = |batch| conditions(100, batch).into_iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!(names(Some(32)), ["as judged", "gradient x 1000", "gradient / 1000", "batch 8", "batch 128", "1000 steps"]);
        assert_eq!(names(Some(2)), ["as judged", "gradient x 1000", "gradient / 1000", "batch 8", "1000 steps"]);
        assert_eq!(names(None).len(), 4);
    }
}
