//! Properties of random programs.

use super::{ADAM, RAW_LION, gradients, read, weights};
use crate::fun::Ty;
use crate::genome::Genome;
use crate::hash::keys;
use crate::live::without_dead_code;
use crate::mutate::{EVEN, Space, mutate, with_states};
use crate::rng::Stream;
use crate::text;
use crate::trace::updates;
use proptest::prelude::*;

/// A program some mutations away from a known one.
pub(crate) fn mutant(seed: u32, generations: u32) -> Genome {
    mutant_of(&Space { statements: 40, states: 3, step_count: true, ..Space::default() }, seed, generations)
}

/// In a space of one's own.
pub(crate) fn mutant_of(space: &Space, seed: u32, generations: u32) -> Genome {
    let start = read(if seed.is_multiple_of(2) { RAW_LION } else { ADAM });
    let mut genome = with_states(&start, space);
    for n in 0..generations {
        if let Some((child, _)) = mutate(&genome, space, EVEN, &mut Stream::at([seed, 1], 0, u64::from(n))) {
            genome = child;
        }
    }
    genome
}

fn bits(trace: &[Vec<Vec<f64>>]) -> Vec<u64> {
    trace.iter().flatten().flatten().map(|x| if x.is_nan() { u64::MAX } else { x.to_bits() }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn children_mean_something_and_read_back(seed in any::<u32>(), generations in 0u32..60) {
        let genome = mutant(seed, generations);
        prop_assert_eq!(genome.check(), Ok(Ty::Leaf));
        let again = read(&text::write(&genome));
        prop_assert_eq!(text::write(&again), text::write(&genome));
        // Also what does not matter: a search goes on from the text.
        prop_assert_eq!(&again, &genome);
        prop_assert_eq!(keys(&again.dag().unwrap()), keys(&genome.dag().unwrap()));
    }

    #[test]
    fn dead_code_changes_no_bit(seed in any::<u32>(), generations in 0u32..60) {
        let genome = mutant(seed, generations);
        let bare = without_dead_code(&genome);
        prop_assert!(bare.body.len() <= genome.body.len());
        let lens = [4, 1];
        let (w, gs) = (weights(&lens), gradients(4, &lens));
        let (whole, less) = (genome.dag().unwrap(), bare.dag().unwrap());
        prop_assert_eq!(keys(&whole), keys(&less));
        prop_assert_eq!(bits(&updates(&whole, &w, &gs, 0.01)), bits(&updates(&less, &w, &gs, 0.01)));
        // Nothing more can be left out.
        prop_assert_eq!(without_dead_code(&bare).body.len(), bare.body.len());
    }

    #[test]
    fn equal_hashes_mean_equal_updates(seed in any::<u32>(), other in any::<u32>()) {
        // Mutants of few generations collide often.
        let (a, b) = (mutant(seed & !1, 2 + seed % 3), mutant(other & !1, 2 + other % 3));
        let (x, y) = (a.dag().unwrap(), b.dag().unwrap());
        if keys(&x).exact == keys(&y).exact {
            let lens = [5];
            let (w, gs) = (weights(&lens), gradients(5, &lens));
            prop_assert_eq!(bits(&updates(&x, &w, &gs, 0.01)), bits(&updates(&y, &w, &gs, 0.01)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn exact_rules_change_no_bit(seed in any::<u32>(), generations in 0u32..30) {
        use crate::simplify::{Class, simplify};
        let genome = mutant(seed, generations);
        let simplified = simplify(&genome, Class::Exact).unwrap().genome;
        let lens = [4, 1];
        let (w, gs) = (weights(&lens), gradients(4, &lens));
        let (a, b) = (genome.dag().unwrap(), simplified.dag().unwrap());
        prop_assert_eq!(bits(&updates(&a, &w, &gs, 0.01)), bits(&updates(&b, &w, &gs, 0.01)), "{}\n{}", text::write(&genome), text::write(&simplified));
    }
}
