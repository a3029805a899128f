//! Functional fingerprints: updates of a program on a fixed set of inputs, to a few digits. Programs with different fingerprints differ; programs with one fingerprint mostly do the same, and some do
//! not (what differs elsewhere, or in further digits, is not seen). So a fingerprint counts, and decides nothing unless that is asked for.

use crate::dag::Dag;
use crate::trace::Run;

/// Elements of the leaves and steps that are looked at.
const LENS: [usize; 2] = [2, 1];
const STEPS: usize = 3;
/// Digits of the mantissa that count, in binary: about five decimal ones.
const BITS: i32 = 17;

/// What archives call the inputs; other inputs would have another name.
pub const SHAPE: &str = "2+1 x 3";

/// The updates of a program, weights moving, each as exponent and rounded mantissa.
pub fn fingerprint(dag: &Dag) -> Vec<u8> {
    let leaves = |of: &dyn Fn(usize) -> f64| -> Vec<Vec<f64>> {
        let mut from = 0;
        LENS.iter()
            .map(|n| {
                from += n;
                (from - n..from).map(of).collect()
            })
            .collect()
    };
    let mut run = Run::new(dag, leaves(&|i| (i as f64 * 1.1 + 0.4).cos() * 0.8));
    let mut bytes = Vec::with_capacity(STEPS * 3 * 6);
    for step in 0..STEPS {
        let g = leaves(&|i| ((step * 3 + i) as f64 * 0.77 + 0.3).sin() * 1.7);
        for x in run.step(&g, 0.03).concat() {
            let (mantissa, exponent) = parts(x);
            bytes.extend(exponent.to_be_bytes());
            bytes.extend(mantissa.to_be_bytes());
        }
    }
    bytes
}

/// Mantissa and exponent of a number rounded to [`BITS`] bits; those of no number differ from all others.
fn parts(x: f64) -> (i32, i16) {
    if !x.is_finite() {
        let kind = if x.is_nan() { 0 } else { 1 };
        return (if x < 0.0 { -kind } else { kind }, i16::MAX);
    }
    if x == 0.0 {
        return (0, i16::MIN);
    }
    let mut exponent = x.abs().log2().floor() as i32;
    let mut mantissa = (x * (f64::from(BITS - 1 - exponent)).exp2()).round();
    if mantissa.abs() >= f64::from(1 << BITS) {
        exponent += 1;
        mantissa = (x * (f64::from(BITS - 1 - exponent)).exp2()).round();
    }
    if mantissa == 0.0 || !mantissa.is_finite() {
        // Below what the shift can hold.
        return (0, i16::MIN);
    }
    (mantissa as i32, exponent as i16)
}

/// A number for a fingerprint (FNV-1a, 64 bits).
pub fn mark(print: &[u8]) -> u64 {
    print.iter().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::{fingerprint, mark, parts};
    use crate::hash::keys;
    use crate::tests::read;

    #[test]
    fn equal_functions_have_one_fingerprint_and_others_do_not() {
        let of = |text: &str| {
            let dag = read(text).dag().expect("a program");
            (mark(&fingerprint(&dag)), keys(&dag).exact)
        };
        let two = of("def train(w, g, lr):\n  u = g * lr\n  update = u + u\n  return update");
        let doubled = of("def train(w, g, lr):\n  u = lr * 2.0\n  update = g * u\n  return update");
        assert!(two.0 == doubled.0 && two.1 != doubled.1);
        let single = of("def train(w, g, lr):\n  update = g * lr\n  return update");
        assert_ne!(single.0, two.0);
        // Leaves are told from all.
        let norm = |f: &str| of(&format!("def train(w, g, lr):\n  n = {f}(g)\n  u = g / n\n  update = u * lr\n  return update")).0;
        assert_ne!(norm("norm"), norm("global_norm"));
    }

    #[test]
    fn numbers_are_rounded_and_failures_told_apart() {
        assert_eq!(parts(1.0), parts(1.0 + 1e-7));
        assert_ne!(parts(1.0), parts(1.0 + 1e-4));
        assert_eq!(parts(2.0 - 1e-12), parts(2.0));
        let all = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 1.0, -1.0, 2.0].map(parts);
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{i}");
        }
        assert_eq!(parts(-0.0), parts(0.0));
    }
}
