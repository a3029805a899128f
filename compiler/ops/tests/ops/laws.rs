//! The laws of draws: Kolmogorov-Smirnov distances and chi-square statistics against the exact distributions, at fixed keys.
//!
//! A correct draw exceeds the bounds with probability 0.001; the keys are fixed, so a test either always passes or never.

use super::*;

const N: usize = 6000;
/// The distance that N draws of a continuous law exceed with probability 0.001.
fn largest_distance() -> f64 {
    1.95 / (N as f64).sqrt()
}

fn draw(name: &str, args: &[Val], key: f64) -> Vec<f64> {
    let all: Vec<Arg> = args.iter().map(|v| Arg { name: None, value: v.clone(), span: Span::default() }).collect();
    draw_named(name, all, key)
}

fn draw_named(name: &str, args: Vec<Arg>, key: f64) -> Vec<f64> {
    let t = tensor(|cx| {
        let Val::Array(key) = arr(cx, DType::U32, &[2], &[key, 11.0]) else { panic!("a key") };
        call(cx, name, &args, Some(&key))
    });
    t.to_f64()
}

/// The logarithm of the gamma function: Stirling's series at `a + 20`.
fn ln_gamma(a: f64) -> f64 {
    let y = a + 20.0;
    let stirling = (y - 0.5) * y.ln() - y + 0.5 * (2.0 * std::f64::consts::PI).ln() + 1.0 / (12.0 * y) - 1.0 / (360.0 * y.powi(3));
    stirling - (0..20).map(|k| (a + f64::from(k)).ln()).sum::<f64>()
}

/// The regularized lower incomplete gamma function, by its series (DLMF 8.7.1).
fn gamma_p(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let (mut term, mut sum) = (1.0 / a, 1.0 / a);
    for n in 1..2000 {
        term *= x / (a + f64::from(n));
        sum += term;
        if term < 1e-17 * sum {
            break;
        }
    }
    (a * x.ln() - x - ln_gamma(a)).exp() * sum
}

/// The distribution function of the standard normal law.
fn normal(x: f64) -> f64 {
    0.5 + 0.5 * x.signum() * gamma_p(0.5, x * x / 2.0)
}

/// The largest distance of the draws' distribution function from `law`.
fn distance(mut x: Vec<f64>, law: impl Fn(f64) -> f64) -> f64 {
    x.sort_by(f64::total_cmp);
    let n = x.len() as f64;
    let both = |(k, x): (usize, &f64)| {
        let p = law(*x);
        (p - k as f64 / n).abs().max(((k + 1) as f64 / n - p).abs())
    };
    x.iter().enumerate().map(both).fold(0.0, f64::max)
}

/// Checks counts against probabilities: the statistic stays below the 0.999 quantile (Wilson and Hilferty 1931).
fn counts(found: &[usize], expected: &[f64]) {
    let n: usize = found.iter().sum();
    assert!(found.iter().zip(expected).all(|(&c, &p)| p > 0.0 || c == 0), "what has no probability was drawn: {found:?}");
    let cells: Vec<(f64, f64)> = found.iter().zip(expected).filter(|(_, p)| **p > 0.0).map(|(&c, &p)| (c as f64, p * n as f64)).collect();
    let statistic: f64 = cells.iter().map(|(c, e)| (c - e).powi(2) / e).sum();
    let df = (cells.len() - 1) as f64;
    let bound = df * (1.0 - 2.0 / (9.0 * df) + 3.09 * (2.0 / (9.0 * df)).sqrt()).powi(3);
    assert!(statistic < bound, "chi-square {statistic} of {found:?} is above {bound}");
}

fn histogram(x: &[f64], cells: usize) -> Vec<usize> {
    let mut out = vec![0; cells];
    x.iter().for_each(|&v| out[v as usize] += 1);
    out
}

fn n() -> Val {
    ints(&[N as i64])
}

#[test]
fn uniform() {
    for (key, d) in [(1.0, DType::F32), (2.0, DType::F64), (3.0, DType::BF16), (4.0, DType::F16)] {
        let x = draw("random.uniform", &[n(), Val::DType(d)], key);
        assert!(x.iter().all(|x| (0.0..1.0).contains(x)));
        // The law of what the type holds: steps of 2^-8 and 2^-11.
        let step = match d {
            DType::BF16 => 1.0 / 256.0,
            DType::F16 => 1.0 / 2048.0,
            _ => 0.0,
        };
        assert!(distance(x, |x| x) < largest_distance() + step, "{d}");
    }
    let x = draw("random.uniform", &[n(), int(-2), float(3.0)], 5.0);
    assert!(x.iter().all(|x| (-2.0..=3.0).contains(x)));
    assert!(distance(x, |x| (x + 2.0) / 5.0) < largest_distance());
}

#[test]
fn normal_and_truncated() {
    for (key, d) in [(1.0, DType::F32), (2.0, DType::F64)] {
        assert!(distance(draw("random.normal", &[n(), Val::DType(d)], key), normal) < largest_distance());
    }
    let shifted = draw("random.normal", &[n(), float(1.5), float(0.2)], 3.0);
    assert!(distance(shifted, |x| normal((x - 1.5) / 0.2)) < largest_distance());
    for (key, low, high) in [(4.0, -2.0, 2.0), (5.0, 0.5, 1.5), (6.0, 4.0, 5.0), (7.0, -1.0, f64::INFINITY), (8.0, -6.5, -5.5)] {
        let x = draw("random.truncated_normal", &[n(), float(low), float(high)], key);
        // In the tail on the right the law is told by the tail on the left, where small probabilities have all their digits.
        let law =
            |x: f64| if low >= 0.0 { 1.0 - tail(-high, -x) / tail(-high, -low) } else { (upto(x) - upto(low)) / (upto(high) - upto(low)) };
        assert!(x.iter().all(|x| (low..=high).contains(x)));
        assert!(distance(x, law) < largest_distance(), "{low} to {high}");
    }
}

/// The normal law up to `x`, also far on the left: the continued fraction of Mills' ratio below -3.
fn upto(x: f64) -> f64 {
    if x == f64::INFINITY {
        return 1.0;
    }
    if x > -3.0 {
        return normal(x);
    }
    let t = -x;
    let mut fraction = t;
    for k in (1..200).rev() {
        fraction = t + f64::from(k) / fraction;
    }
    (-0.5 * t * t).exp() / ((2.0 * std::f64::consts::PI).sqrt() * fraction)
}

fn tail(low: f64, high: f64) -> f64 {
    upto(high) - upto(low)
}

#[test]
fn exponential_and_gamma() {
    let x = draw("random.exponential", &[n()], 1.0);
    assert!(distance(x, |x| 1.0 - (-x).exp()) < largest_distance());
    let x = draw("random.exponential", &[n(), float(2.5), Val::DType(DType::F64)], 2.0);
    assert!(distance(x, |x| 1.0 - (-2.5 * x).exp()) < largest_distance());
    for (key, a) in [(3.0, 0.1), (4.0, 0.7), (5.0, 1.0), (6.0, 2.5), (7.0, 60.0)] {
        let x = draw("random.gamma", &[n(), float(a)], key);
        assert!(distance(x, |x| gamma_p(a, x)) < largest_distance(), "a = {a}");
    }
    let x = draw("random.gamma", &[n(), float(3.0), float(0.5), Val::DType(DType::F64)], 8.0);
    assert!(distance(x, |x| gamma_p(3.0, 0.5 * x)) < largest_distance());
}

#[test]
fn flags_signs_and_integers() {
    let x = draw("random.bernoulli", &[n(), float(0.2)], 1.0);
    counts(&histogram(&x, 2), &[0.8, 0.2]);
    let x = draw("random.rademacher", &[n()], 2.0);
    counts(&histogram(&x.iter().map(|x| (x + 1.0) / 2.0).collect::<Vec<_>>(), 2), &[0.5, 0.5]);
    let x = draw("random.integer", &[n(), int(-3), int(10)], 3.0);
    counts(&histogram(&x.iter().map(|x| x + 3.0).collect::<Vec<_>>(), 13), &[1.0 / 13.0; 13]);
    let words = draw("random.bits", &[n()], 4.0);
    for bit in 0..32 {
        let set = words.iter().filter(|&&w| (w as u32 >> bit) & 1 == 1).count();
        counts(&[N - set, set], &[0.5, 0.5]);
    }
    let bytes: Vec<f64> = words.iter().map(|&w| f64::from(w as u32 >> 24)).collect();
    counts(&histogram(&bytes, 256), &[1.0 / 256.0; 256]);
}

#[test]
fn categories_and_choices() {
    let p = [0.1, 0.0, 0.6, 0.3];
    let logits = Val::List(p.iter().map(|p: &f64| float(p.ln())).collect());
    counts(&histogram(&draw("random.categorical", &[n(), logits], 1.0), 4), &p);
    counts(&histogram(&draw("random.choice", &[n(), int(5)], 2.0), 5), &[0.2; 5]);
    let weights = Val::List(p.iter().map(|p| float(7.0 * p)).collect());
    let named = |name: &str, value: Val| Arg { name: Some(Arc::from(name)), value, span: Span::default() };
    let plain = |value: Val| Arg { name: None, value, span: Span::default() };
    let x = draw_named("random.choice", vec![plain(n()), plain(int(4)), named("p", weights)], 3.0);
    counts(&histogram(&x, 4), &p);
}

#[test]
fn orders() {
    // All orders of three are equally likely, and so are the pairs without replacement.
    let number = |p: &[f64]| (p[0] * 2.0 + f64::from(p[1] > p[2])) as usize;
    let mut found = [0; 6];
    for key in 0..1200 {
        found[number(&draw("random.permutation", &[int(3)], f64::from(key)))] += 1;
    }
    counts(&found, &[1.0 / 6.0; 6]);
    // With weights 1, 2 and 3: first i with w_i / 6, then j with w_j / (6 - w_i).
    let weights = Val::List([1.0, 2.0, 3.0].map(float).to_vec());
    let mut pairs = [0; 9];
    for key in 0..1200 {
        let args = vec![
            Arg { name: None, value: ints(&[2]), span: Span::default() },
            Arg { name: None, value: int(3), span: Span::default() },
            Arg { name: Some(Arc::from("replace")), value: Val::Bool(Some(false)), span: Span::default() },
            Arg { name: Some(Arc::from("p")), value: weights.clone(), span: Span::default() },
        ];
        let x = draw_named("random.choice", args, f64::from(key));
        pairs[(3.0 * x[0] + x[1]) as usize] += 1;
    }
    let p = |i: usize, j: usize| if i == j { 0.0 } else { (i + 1) as f64 / 6.0 * (j + 1) as f64 / (5 - i) as f64 };
    counts(&pairs, &(0..9).map(|k| p(k / 3, k % 3)).collect::<Vec<_>>());
}
