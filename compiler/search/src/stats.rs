//! Statistics of paired scores: what a judge may say about two optimizers that ran on the same seeds.

use crate::rng::Stream;

/// A comparison of paired scores, lower is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// The median of the differences, first minus second.
    pub median: f64,
    /// A 95 % bootstrap interval of it.
    pub interval: (f64, f64),
    /// Two-sided p-value of Wilcoxon's signed-rank test.
    pub p: f64,
    /// Pairs in which the first is better.
    pub wins: usize,
    /// Pairs in which the second is.
    pub losses: usize,
}

/// The level at which a judge tells two optimizers apart.
pub const LEVEL: f64 = 0.01;

impl Paired {
    /// Whether they can be told apart: the test says so, and the interval does not hold 0.
    pub fn apart(&self) -> bool {
        self.p < LEVEL && (self.interval.0 > 0.0 || self.interval.1 < 0.0)
    }
}

/// Samples of a bootstrap.
const RESAMPLES: usize = 2000;

/// The middle of some numbers, the mean of two in the middle; NaN of none.
pub fn median(x: &[f64]) -> f64 {
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}

/// Compares paired scores. A pair in which one failed (is not finite) is a loss for it, larger than all finite differences.
pub fn paired(first: &[f64], second: &[f64], rng: &mut Stream) -> Paired {
    let finite = first.iter().chain(second).filter(|x| x.is_finite()).fold(0.0f64, |a, x| a.max(x.abs()));
    let bound = |x: f64| if x.is_finite() { x } else { 4.0 * finite.max(1e-300) };
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| bound(*a) - bound(*b)).collect();
    let n = differences.len();
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<f64> = (0..n).map(|_| differences[rng.below(n)]).collect();
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians.get((share * (RESAMPLES - 1) as f64).round() as usize).copied().unwrap_or(f64::NAN);
    Paired {
        median: median(&differences),
        interval: if n == 0 { (f64::NAN, f64::NAN) } else { (at(0.025), at(0.975)) },
        p: signed_rank(&differences),
        wins: differences.iter().filter(|d| **d < 0.0).count(),
        losses: differences.iter().filter(|d| **d > 0.0).count(),
    }
}

/// Largest number of differences for which the distribution of ranks is computed exactly.
const EXACT: usize = 50;

/// The two-sided p-value of Wilcoxon's signed-rank test that differences are symmetric around 0. Zeros are left out; ties share their ranks.
///
/// # Numerics
/// Exact up to 50 differences without ties, by counting sets of ranks; else the normal approximation with corrections for ties and continuity (Wilcoxon 1945, Pratt 1959).
pub fn signed_rank(differences: &[f64]) -> f64 {
    let mut kept: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0 && !d.is_nan()).collect();
    let n = kept.len();
    if n == 0 {
        return 1.0;
    }
    kept.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let (mut plus, mut ties, mut tied) = (0.0, 0.0, false);
    let mut at = 0;
    while at < n {
        let same = kept[at..].iter().take_while(|d| d.abs() == kept[at].abs()).count();
        let rank = at as f64 + (same as f64 + 1.0) / 2.0;
        plus += rank * kept[at..at + same].iter().filter(|d| **d > 0.0).count() as f64;
        let t = same as f64;
        ties += t * t * t - t;
        tied |= same > 1;
        at += same;
    }
    let total = (n * (n + 1)) as f64 / 2.0;
    let least = plus.min(total - plus);
    if n <= EXACT && !tied {
        // Shares of the sets of ranks with this sum.
        let sums = n * (n + 1) / 2;
        let mut share = vec![0.0f64; sums + 1];
        share[0] = 1.0;
        for rank in 1..=n {
            for s in (0..=sums).rev() {
                let with = if s >= rank { share[s - rank] } else { 0.0 };
                share[s] = 0.5 * (share[s] + with);
            }
        }
        return (2.0 * share[..=least as usize].iter().sum::<f64>()).min(1.0);
    }
    let m = n as f64;
    let variance = m * (m + 1.0) * (2.0 * m + 1.0) / 24.0 - ties / 48.0;
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (least - total / 2.0 + 0.5).min(0.0) / variance.sqrt();
    (2.0 * normal_below(z)).min(1.0)
}

/// The share of a standard normal below z.
fn normal_below(z: f64) -> f64 {
    use optc_ir::eval::eval_float;
    0.5 * (1.0 + eval_float(optc_ir::ScalarOp::Erf, &[z / std::f64::consts::SQRT_2]))
}

/// p-values of several tests, made larger so that with probability 1 - a none below a is a chance find (Holm 1979). In the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (mut out, mut so_far) = (vec![1.0; p.len()], 0.0f64);
    for (k, i) in order.into_iter().enumerate() {
        so_far = so_far.max((p.len() - k) as f64 * p[i]).min(1.0);
        out[i] = so_far;
    }
    out
}

/// Performance profiles (Dolan and More 2002): for each optimizer and factor, the share of tasks on which its score is within the factor of the best there. `scores` has a row for each task, lower is
/// better; what is not finite is within no factor, and where the best is not above 0 only the best is.
pub fn profiles(scores: &[Vec<f64>], factors: &[f64]) -> Vec<Vec<f64>> {
    let optimizers = scores.first().map_or(0, Vec::len);
    let within = |k: usize, factor: f64| {
        let count = scores.iter().filter(|row| {
            let best = row.iter().copied().filter(|x| x.is_finite()).fold(f64::INFINITY, f64::min);
            row[k].is_finite() && row[k] <= if best > 0.0 { factor * best } else { best }
        });
        count.count() as f64 / scores.len() as f64
    };
    (0..optimizers).map(|k| factors.iter().map(|f| within(k, *f)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_ranks_have_their_published_probabilities() {
        // Five differences of one sign: 2 / 2^5.
        assert!((signed_rank(&[1.0, 2.0, 3.0, 4.0, 5.0]) - 0.0625).abs() < 1e-15);
        // One against five, the smallest: sets of {1..6} with a sum of at most 1, both sides: 2 * 2 / 64.
        assert!((signed_rank(&[-0.5, 2.0, 3.0, 4.0, 5.0, 6.0]) - 4.0 / 64.0).abs() < 1e-15);
        // The table of Wilcoxon: n = 10, a rank sum of 8 is the last at 5 %.
        let with_sum = |ranks: &[usize]| (1..=10).map(|r| if ranks.contains(&r) { -(r as f64) } else { r as f64 }).collect::<Vec<_>>();
        assert!(
            signed_rank(&with_sum(&[8])) < 0.05 && signed_rank(&with_sum(&[9])) > 0.05 - 0.011 && signed_rank(&with_sum(&[1, 8])) > 0.05
        );
        assert_eq!(signed_rank(&[0.0, 0.0]), 1.0);
        // The approximation is near the exact value.
        let many: Vec<f64> = (1..=50).map(|i| if i % 3 == 0 { -(i as f64) } else { i as f64 }).collect();
        let more: Vec<f64> = many.iter().copied().chain([50.5, -51.0]).collect();
        assert!((signed_rank(&many).ln() - signed_rank(&more).ln()).abs() < 1.0);
    }

    #[test]
    fn holm_is_monotone_and_bounded() {
        assert_eq!(holm(&[0.01, 0.04, 0.03]), vec![0.03, 0.06, 0.06]);
        assert_eq!(holm(&[0.6, 0.9]), vec![1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn equal_optimizers_are_not_told_apart() {
        // A/A: two samples of one law.
        let pair = |repeat: u64| {
            let mut rng = Stream::at([3, 1], 0, repeat);
            let seed: Vec<f64> = (0..20).map(|_| rng.normal()).collect();
            let mut sample = || seed.iter().map(|s| s + 0.3 * rng.normal()).collect::<Vec<_>>();
            (sample(), sample())
        };
        let told = (0..100).filter(|k| paired(&pair(*k).0, &pair(*k).1, &mut Stream::at([4, 4], 0, *k)).apart()).count();
        assert!(told <= 5, "{told} of 100");
        // The test keeps its level.
        let p_of = |k| signed_rank(&pair(k).0.iter().zip(&pair(k).1).map(|(a, b)| a - b).collect::<Vec<_>>());
        let below = (0..2000).filter(|k| p_of(*k) < 0.05).count();
        assert!((60..=130).contains(&below), "{below} of 2000");
        // A shift of one deviation of the noise is found.
        let mut rng = Stream::new([5, 5]);
        let a: Vec<f64> = (0..20).map(|i| i as f64 + 0.3 * rng.normal()).collect();
        let b: Vec<f64> = a.iter().map(|x| x + 0.4 + 0.2 * rng.normal()).collect();
        let seen = paired(&a, &b, &mut rng);
        assert!(seen.apart() && seen.interval.1 < 0.0 && seen.wins > seen.losses, "{seen:?}");
    }

    #[test]
    fn profiles_count_tasks_within_a_factor() {
        let scores = [vec![1.0, 1.5, f64::NAN], vec![4.0, 1.0, 2.0], vec![-1.0, -1.0, 3.0], vec![f64::INFINITY, f64::NAN, f64::NAN]];
        let seen = profiles(&scores, &[1.0, 2.0, 4.0]);
        assert_eq!(seen, vec![vec![0.5, 0.5, 0.75], vec![0.5, 0.75, 0.75], vec![0.0, 0.25, 0.25]]);
        assert!(profiles(&[], &[1.0]).is_empty());
    }

    #[test]
    fn failed_runs_are_losses() {
        let seen = paired(&[1.0, f64::INFINITY, f64::NAN], &[2.0, 2.0, 2.0], &mut Stream::new([1, 1]));
        assert_eq!((seen.wins, seen.losses), (1, 2));
        assert!(seen.median > 0.0);
    }
}
