//! Reproducible permutations of examples, and cutting them into parts.

use crate::error::{Result, TrainError};
use indexmap::IndexMap;
use optc_abi::philox::philox4x32;

/// The name of a part and its share of the examples.
pub type Fraction = (String, f64);

/// What a permutation is for; each use has its own stream of random words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Cutting a data set into parts.
    Split,
    /// Shuffling the examples of this epoch, from 0.
    Epoch(u64),
}

/// Writes a permutation of `0..n` to `out`, drawn from `seed`.
///
/// Fisher-Yates from the end: for `i = n-1, …, 1` element `i` is swapped with element `floor(r * (i + 1) / 2^32)`, where `r` is the
/// next random word. Word `k` is word `k % 4` of Philox 4x32-10 with the seed as key and the counter
/// `[k / 4, epoch low, epoch high, 2 for a split, 3 for an epoch]`. A choice's probability is off by less than `n / 2^32` relative.
/// Panics if `n` is not below `2^32`.
pub fn permute(n: usize, seed: u64, purpose: Purpose, out: &mut Vec<usize>) {
    assert!(u32::try_from(n).is_ok(), "compiler bug: too many examples to shuffle");
    let (epoch, domain) = match purpose {
        Purpose::Split => (0, 2),
        Purpose::Epoch(e) => (e, 3),
    };
    let key = [seed as u32, (seed >> 32) as u32];
    out.clear();
    out.extend(0..n);
    let mut words = [0; 4];
    for (k, i) in (1..n).rev().enumerate() {
        if k % 4 == 0 {
            words = philox4x32(key, [(k / 4) as u32, epoch as u32, (epoch >> 32) as u32, domain]);
        }
        let j = (u64::from(words[k % 4]) * (i as u64 + 1)) >> 32;
        out.swap(i, j as usize);
    }
}

/// Cuts the numbers `0..rows` into named parts, after a permutation drawn from `seed`, in order without one.
///
/// With the cumulated fractions `c_1, c_2, …`, part `k` is what lies between `round(rows * c_(k-1))` and `round(rows * c_k)` (halves
/// up); so parts whose fractions sum to 1 hold every example once. If the sum is less, the rest is left out. `R0113` if a fraction is
/// not in (0, 1], the sum exceeds 1, a part gets no example, or a name occurs twice.
pub fn cut(rows: usize, fractions: &[Fraction], seed: Option<u64>) -> Result<IndexMap<String, Vec<usize>>> {
    let (names, fractions): (Vec<&str>, Vec<f64>) = fractions.iter().map(|(name, f)| (name.as_str(), *f)).unzip();
    if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
        return Err(TrainError::new("R0113", format!("`{}` occurs twice in the split", twice.1)));
    }
    let parts = cut_named(rows, &fractions, seed, &|i| format!("`{}`", names[i]))?;
    Ok(names.into_iter().map(str::to_string).zip(parts).collect())
}

/// As [`cut`], for parts without names.
pub fn parts(rows: usize, fractions: &[f64], seed: Option<u64>) -> Result<Vec<Vec<usize>>> {
    cut_named(rows, fractions, seed, &|i| format!("part {}", i + 1))
}

fn cut_named(rows: usize, fractions: &[f64], seed: Option<u64>, name: &dyn Fn(usize) -> String) -> Result<Vec<Vec<usize>>> {
    let fail = |m: String| Err(TrainError::new("R0113", m));
    if rows > u32::MAX as usize {
        return fail(format!("{rows} examples are too many to shuffle (the limit is 2^32 - 1)"));
    }
    let mut order = Vec::new();
    match seed {
        Some(seed) => permute(rows, seed, Purpose::Split, &mut order),
        None => order.extend(0..rows),
    }
    let mut parts = Vec::new();
    let (mut sum, mut from) = (0.0, 0);
    for (i, &fraction) in fractions.iter().enumerate() {
        if !(fraction > 0.0 && fraction <= 1.0) {
            return fail(format!("the fraction of {} is {fraction}, not between 0 and 1", name(i)));
        }
        sum += fraction;
        if sum > 1.0 + 1e-9 {
            return fail(format!("the fractions of the split sum to {sum}, more than 1"));
        }
        // 0.7 + 0.2 + 0.1 is not 1 in floating point.
        let to = if sum > 1.0 - 1e-9 { rows } else { (rows as f64 * sum + 1e-9).round() as usize };
        if to <= from {
            return fail(format!("{} gets no example: {fraction} of {rows}", name(i)));
        }
        parts.push(order[from..to].to_vec());
        from = to;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(rows: usize, fractions: &[(&str, f64)], seed: Option<u64>) -> Result<Vec<Vec<usize>>> {
        let fractions: Vec<Fraction> = fractions.iter().map(|(n, f)| (n.to_string(), *f)).collect();
        Ok(cut(rows, &fractions, seed)?.into_values().collect())
    }

    #[test]
    fn permutations_are_permutations_and_depend_on_seed_and_use() {
        let of = |n, seed, purpose| {
            let mut p = Vec::new();
            permute(n, seed, purpose, &mut p);
            p
        };
        for n in [0, 1, 2, 7, 100] {
            let mut p = of(n, 5, Purpose::Epoch(3));
            p.sort_unstable();
            assert_eq!(p, (0..n).collect::<Vec<_>>());
        }
        let base = of(100, 0, Purpose::Epoch(0));
        assert_eq!(base, of(100, 0, Purpose::Epoch(0)));
        for other in
            [of(100, 1, Purpose::Epoch(0)), of(100, 1 << 32, Purpose::Epoch(0)), of(100, 0, Purpose::Epoch(1)), of(100, 0, Purpose::Split)]
        {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn every_permutation_of_three_is_about_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        let mut p = Vec::new();
        for seed in 0..6000 {
            permute(3, seed, Purpose::Split, &mut p);
            *counts.entry(p.clone()).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Six standard deviations of a binomial count.
        assert!(counts.values().all(|&c| (827..1173).contains(&c)), "{counts:?}");
    }

    #[test]
    fn the_permutation_is_pinned() {
        // Changing it would change the results of every spec with a seed.
        let mut p = Vec::new();
        permute(10, 0, Purpose::Split, &mut p);
        let words: Vec<u32> = (0..3).flat_map(|b| philox4x32([0, 0], [b, 0, 0, 2])).collect();
        let mut expected: Vec<usize> = (0..10).collect();
        for (k, i) in (1..10).rev().enumerate() {
            expected.swap(i, ((words[k] as u64 * (i as u64 + 1)) >> 32) as usize);
        }
        assert_eq!(p, expected);
    }

    #[test]
    fn parts_hold_every_example_once() {
        let p = named(1797, &[("train", 0.8), ("test", 0.2)], Some(0)).unwrap();
        assert_eq!((p[0].len(), p[1].len()), (1438, 359));
        let mut all = p.concat();
        all.sort_unstable();
        assert_eq!(all, (0..1797).collect::<Vec<_>>());
        assert_eq!(named(10, &[("a", 0.7), ("b", 0.2), ("c", 0.1)], None).unwrap(), [vec![0, 1, 2, 3, 4, 5, 6], vec![7, 8], vec![9]]);
        assert_eq!(named(10, &[("a", 0.25)], None).unwrap()[0].len(), 3);
        assert_eq!(parts(1797, &[0.8, 0.2], Some(0)).unwrap(), p);
    }

    #[test]
    fn impossible_fractions_are_refused() {
        let cases: [&[(&str, f64)]; 6] =
            [&[("a", 0.8), ("b", 0.3)], &[("a", 0.0)], &[("a", f64::NAN)], &[("a", -1.0)], &[("a", 0.01)], &[("a", 0.5), ("a", 0.5)]];
        for case in cases {
            assert_eq!(named(10, case, None).unwrap_err().code, "R0113", "{case:?}");
        }
    }
}
