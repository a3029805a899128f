//! Orderings of optimizers that are known from papers, looked up in what was judged: a benchmark should reproduce them before it judges.

use super::{Row, Verdict};
use optc_search::rng::Stream;
use optc_search::stats::{Paired, paired};

/// What is known of two optimizers on a kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// The first is better.
    Better,
    /// The first is not worse.
    NoWorse,
    /// The first is worse below this batch, and better from it on.
    ByBatch(usize),
}

/// A known ordering.
struct Known {
    train: &'static str,
    first: &'static str,
    second: &'static str,
    claim: Claim,
    words: &'static str,
}

/// Sources: docs/search.md, and section 4.6 of Chen et al. (2023) for batches of Lion.
const KNOWN: [Known; 3] = [
    Known {
        train: "char_transformer",
        first: "adamw",
        second: "sgd(momentum = 0.9)",
        claim: Claim::Better,
        words: "AdamW is better than SGD with momentum on a transformer",
    },
    Known {
        train: "rotated_quadratic",
        first: "sgd(momentum = 0.9)",
        second: "adamw",
        claim: Claim::NoWorse,
        words: "SGD with momentum is no worse than AdamW on rotated quadratics",
    },
    Known {
        train: "char_transformer",
        first: "lion",
        second: "adamw",
        claim: Claim::ByBatch(64),
        words: "Lion is worse than AdamW on a transformer below batch 64, and better in large batches",
    },
];

impl Claim {
    /// Whether a comparison of the first with the second is what the claim says.
    fn holds(self, seen: &Paired, batch: Option<usize>) -> bool {
        let (better, worse) = (seen.apart() && seen.median < 0.0, seen.apart() && seen.median > 0.0);
        match self {
            Claim::Better => better,
            Claim::NoWorse => !worse,
            Claim::ByBatch(n) => {
                if batch.is_some_and(|b| b >= n) {
                    better
                } else {
                    worse
                }
            }
        }
    }
}

/// Each known ordering: whether it was reproduced, was not, or is not among the tasks.
pub fn orderings(verdicts: &[Verdict]) -> Vec<String> {
    let mut out = Vec::new();
    for known in &KNOWN {
        let mut seen = false;
        for v in verdicts.iter().filter(|v| v.train.rsplit('.').next() == Some(known.train)) {
            let row = |name: &str| v.rows.iter().find(|r: &&Row| r.name == name);
            let (Some(first), Some(second)) = (row(known.first), row(known.second)) else { continue };
            let pair = paired(&first.scores, &second.scores, &mut Stream::at([0x4F52, 0x4445], 0, 0));
            let said = if known.claim.holds(&pair, v.batch) { "reproduced" } else { "not reproduced" };
            let batch = if matches!(known.claim, Claim::ByBatch(_)) {
                v.batch.map_or(String::new(), |b| format!(" at batch {b}"))
            } else {
                String::new()
            };
            out.push(format!(
                "{}: {said} on `{}`{batch} ({} better, {} worse, p {})",
                known.words,
                v.task,
                pair.wins,
                pair.losses,
                optc_abi::number::shown(pair.p, 2)
            ));
            seen = true;
        }
        if !seen {
            out.push(format!("{}: not among the tasks", known.words));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Role, Verdict};
    use super::*;

    fn row(name: &str, shift: f64) -> Row {
        let scores: Vec<f64> = (0..20).map(|k| 1.0 + 0.01 * f64::from(k) + shift * (1.0 + 0.1 * f64::from(k))).collect();
        Row {
            name: name.to_string(),
            role: Role::Baseline,
            among: None,
            genome: Default::default(),
            tuned: None,
            rate: 0.1,
            edge: false,
            widened: 0,
            median: 1.0,
            scores,
            failed: 0,
            beside: None,
            p: 1.0,
        }
    }

    fn on(train: &str, batch: usize, rows: &[(&str, f64)]) -> Verdict {
        Verdict {
            task: train.to_string(),
            train: format!("tasks.{train}"),
            batch: Some(batch),
            seeds: 20,
            rows: rows.iter().map(|(n, s)| row(n, *s)).collect(),
            pairs: Vec::new(),
            same: paired(&[1.0], &[1.0], &mut Stream::new([1, 1])),
        }
    }

    #[test]
    fn orderings_are_those_of_the_rows() {
        let told = |verdicts: &[Verdict]| orderings(verdicts).join("\n");
        assert_eq!(told(&[]).matches("not among the tasks").count(), 3);
        let text = |batch, sgd, lion| on("char_transformer", batch, &[("adamw", 0.0), ("sgd(momentum = 0.9)", sgd), ("lion", lion)]);
        let seen = told(&[text(16, 0.5, 0.5)]);
        assert!(seen.matches(": reproduced on `char_transformer`").count() == 2 && seen.contains("at batch 16"), "{seen}");
        assert_eq!(told(&[text(16, -0.5, 0.0)]).matches("not reproduced").count(), 2);
        assert_eq!(told(&[text(256, 0.5, -0.5)]).matches(": reproduced").count(), 2);
        let bowl = |sgd| told(&[on("rotated_quadratic", 1, &[("adamw", 0.0), ("sgd(momentum = 0.9)", sgd)])]);
        assert!(
            bowl(0.0).contains(": reproduced on `rotated")
                && bowl(-0.5).contains(": reproduced on `rotated")
                && bowl(0.5).contains("not reproduced on")
        );
    }
}
