//! Library calls of a plan.

use crate::gemm::Address;
use crate::pool::Pool;
use optc_abi::plan::LibOp;
use optc_abi::{DType, philox};
use std::cmp::Ordering;

/// Runs a library call on resolved addresses (operands, then results).
///
/// # Safety
/// `buffers` must hold one valid address per operand and result of the call, of the extents the call states.
pub unsafe fn run(pool: &Pool, op: &LibOp, dtype: DType, buffers: *const *mut u8) {
    match op {
        LibOp::Call { call, dims } => {
            // SAFETY: as the caller promises.
            let operands = unsafe { optc_linalg::Operands::new(*call, *dims, dtype, buffers) };
            pool.run(operands.units(), &|unit| operands.run(unit));
        }
        LibOp::RandomBits { start, len, skips } => {
            // SAFETY: a key of two words, a number of one if words are skipped, and a result of `len`.
            let (key, start, out) = unsafe {
                let skipped = if *skips { (*buffers.add(1)).cast::<u32>().read() } else { 0 };
                let out = *buffers.add(1 + usize::from(*skips));
                ((*buffers).cast::<[u32; 2]>().read(), start + u64::from(skipped), Address(out.cast::<u32>()))
            };
            pool.run(len.div_ceil(UNIT_WORDS), &|unit| {
                let (begin, end) = (unit * UNIT_WORDS, ((unit + 1) * UNIT_WORDS).min(*len));
                // SAFETY: units write disjoint parts of the result.
                let part = unsafe { std::slice::from_raw_parts_mut(out.at(begin as isize), end - begin) };
                words_from(key, start + begin as u64, part);
            });
        }
        // SAFETY: as the caller promises.
        LibOp::Attention { attention, strides } => unsafe { crate::attention::run(pool, attention, strides, dtype, buffers) },
        LibOp::SwapOut { .. } | LibOp::SwapIn { .. } => panic!("compiler bug: arrays that leave memory are the program's"),
        LibOp::AllReduce { .. } => panic!("compiler bug: sums over devices on a processor"),
        LibOp::Callback { .. } => panic!("compiler bug: what is called back is the program's"),
        LibOp::RandomFold { place, number } => {
            // SAFETY: a key of two words, a number of one unless it is known, and a result of two words.
            unsafe {
                let key = (*buffers).cast::<[u32; 2]>().read();
                let (number, result) = match number {
                    Some(n) => (*n, *buffers.add(1)),
                    None => ((*buffers.add(1)).cast::<u32>().read(), *buffers.add(2)),
                };
                result.cast::<[u32; 2]>().write(philox::fold(key, number, *place));
            }
        }
        LibOp::ArgSort { rows, n, descending } => {
            // SAFETY: operand and result have rows * n elements.
            unsafe {
                let (x, out) = (*buffers, std::slice::from_raw_parts_mut((*buffers.add(1)).cast::<i32>(), rows * n));
                let len = rows * n;
                match dtype {
                    DType::F64 => argsort(std::slice::from_raw_parts(x.cast::<f64>(), len), out, *n, *descending, f64::total_nan_last),
                    DType::I32 => argsort(std::slice::from_raw_parts(x.cast::<i32>(), len), out, *n, *descending, i32::cmp),
                    DType::I64 => argsort(std::slice::from_raw_parts(x.cast::<i64>(), len), out, *n, *descending, i64::cmp),
                    DType::U32 => argsort(std::slice::from_raw_parts(x.cast::<u32>(), len), out, *n, *descending, u32::cmp),
                    DType::U8 | DType::Bool => argsort(std::slice::from_raw_parts(x, len), out, *n, *descending, u8::cmp),
                    DType::F32 => argsort(std::slice::from_raw_parts(x.cast::<f32>(), len), out, *n, *descending, f32::total_nan_last),
                    DType::BF16 => argsort(std::slice::from_raw_parts(x.cast::<half::bf16>(), len), out, *n, *descending, |a, b| {
                        a.to_f32().total_nan_last(&b.to_f32())
                    }),
                    DType::F16 => argsort(std::slice::from_raw_parts(x.cast::<half::f16>(), len), out, *n, *descending, |a, b| {
                        a.to_f32().total_nan_last(&b.to_f32())
                    }),
                }
            }
        }
    }
}

/// Words of one unit of work.
const UNIT_WORDS: usize = 1 << 14;
/// Blocks made at once: two vector registers of AVX2 per word.
const LANES: usize = 16;

/// The words of a key from word `start` on.
fn words_from(key: [u32; 2], start: u64, out: &mut [u32]) {
    // Words of a block that has begun are made one by one.
    let begun = ((4 - start % 4) % 4).min(out.len() as u64);
    let (head, rest) = out.split_at_mut(begun as usize);
    head.iter_mut().zip(start..).for_each(|(w, i)| *w = philox::bits_at(key, i));
    random_words(key, (start + begun) / 4, rest);
}

/// Words of consecutive blocks, the first of which has the number `block`.
fn random_words(key: [u32; 2], block: u64, out: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has AVX2.
        return unsafe { random_words_avx2(key, block, out) };
    }
    random_words_any(key, block, out);
}

/// [`random_words_any`] for AVX2: eight blocks in the lanes of a register, two such groups in turn, because a round waits for its products.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn random_words_avx2(key: [u32; 2], block: u64, out: &mut [u32]) {
    use std::arch::x86_64::*;
    /// High and low halves of the products of all lanes with one multiplier.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn products(x: __m256i, by: __m256i) -> (__m256i, __m256i) {
        let (even, odd) = (_mm256_mul_epu32(x, by), _mm256_mul_epu32(_mm256_srli_epi64::<32>(x), by));
        let high = _mm256_blend_epi32::<0xAA>(_mm256_srli_epi64::<32>(even), odd);
        (high, _mm256_blend_epi32::<0xAA>(even, _mm256_slli_epi64::<32>(odd)))
    }
    let all = |word: u32| _mm256_set1_epi32(word as i32);
    let [by0, by1] = philox::MULTIPLIERS.map(all);
    let mut chunks = out.chunks_exact_mut(4 * LANES);
    let mut at = block;
    for chunk in &mut chunks {
        let mut state = [0, 8].map(|first| {
            let number = |l: u64| at + first + l;
            let low: [u32; 8] = std::array::from_fn(|l| number(l as u64) as u32);
            let high: [u32; 8] = std::array::from_fn(|l| (number(l as u64) >> 32) as u32);
            // SAFETY: both arrays have 32 bytes.
            unsafe { [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast()), all(0), all(0)] }
        });
        let [mut k0, mut k1] = key;
        for _ in 0..philox::ROUNDS {
            for c in &mut state {
                let ((h0, l0), (h1, l1)) = (products(c[0], by0), products(c[2], by1));
                let (n0, n2) = (_mm256_xor_si256(h1, c[1]), _mm256_xor_si256(h0, c[3]));
                *c = [_mm256_xor_si256(n0, all(k0)), l1, _mm256_xor_si256(n2, all(k1)), l0];
            }
            k0 = k0.wrapping_add(philox::WEYL[0]);
            k1 = k1.wrapping_add(philox::WEYL[1]);
        }
        for (c, words) in state.into_iter().zip(chunk.chunks_exact_mut(32)) {
            // Word w of block l to place 4 l + w: a transpose of 4 by 4 in each half of the registers, then of the halves.
            let (a, b) = (_mm256_unpacklo_epi32(c[0], c[1]), _mm256_unpackhi_epi32(c[0], c[1]));
            let (d, e) = (_mm256_unpacklo_epi32(c[2], c[3]), _mm256_unpackhi_epi32(c[2], c[3]));
            let rows = [_mm256_unpacklo_epi64(a, d), _mm256_unpackhi_epi64(a, d), _mm256_unpacklo_epi64(b, e), _mm256_unpackhi_epi64(b, e)];
            let ordered = [
                _mm256_permute2x128_si256::<0x20>(rows[0], rows[1]),
                _mm256_permute2x128_si256::<0x20>(rows[2], rows[3]),
                _mm256_permute2x128_si256::<0x31>(rows[0], rows[1]),
                _mm256_permute2x128_si256::<0x31>(rows[2], rows[3]),
            ];
            for (register, eight) in ordered.into_iter().zip(words.chunks_exact_mut(8)) {
                // SAFETY: eight words are 32 bytes.
                unsafe { _mm256_storeu_si256(eight.as_mut_ptr().cast(), register) };
            }
        }
        at += LANES as u64;
    }
    random_words_any(key, at, chunks.into_remainder());
}

/// Philox on [`LANES`] blocks side by side, a loop over lanes per operation so that it becomes vector code.
fn random_words_any(key: [u32; 2], block: u64, out: &mut [u32]) {
    let mut chunks = out.chunks_exact_mut(4 * LANES);
    let mut at = block;
    for chunk in &mut chunks {
        let (mut c0, mut c1, mut c2, mut c3) = ([0u32; LANES], [0u32; LANES], [0u32; LANES], [0u32; LANES]);
        for l in 0..LANES {
            let number = at + l as u64;
            (c0[l], c1[l]) = (number as u32, (number >> 32) as u32);
        }
        let [mut k0, mut k1] = key;
        for _ in 0..philox::ROUNDS {
            let (mut n0, mut n1, mut n2, mut n3) = ([0u32; LANES], [0u32; LANES], [0u32; LANES], [0u32; LANES]);
            for l in 0..LANES {
                let p0 = u64::from(philox::MULTIPLIERS[0]) * u64::from(c0[l]);
                let p1 = u64::from(philox::MULTIPLIERS[1]) * u64::from(c2[l]);
                (n0[l], n1[l]) = ((p1 >> 32) as u32 ^ c1[l] ^ k0, p1 as u32);
                (n2[l], n3[l]) = ((p0 >> 32) as u32 ^ c3[l] ^ k1, p0 as u32);
            }
            (c0, c1, c2, c3) = (n0, n1, n2, n3);
            k0 = k0.wrapping_add(philox::WEYL[0]);
            k1 = k1.wrapping_add(philox::WEYL[1]);
        }
        for l in 0..LANES {
            chunk[4 * l..4 * l + 4].copy_from_slice(&[c0[l], c1[l], c2[l], c3[l]]);
        }
        at += LANES as u64;
    }
    for four in chunks.into_remainder().chunks_mut(4) {
        let words = philox::philox4x32(key, [at as u32, (at >> 32) as u32, 0, 0]);
        four.copy_from_slice(&words[..four.len()]);
        at += 1;
    }
}

/// Order of floats in which NaN is the largest value and both zeros are equal.
trait NanLast {
    fn total_nan_last(&self, other: &Self) -> Ordering;
}
macro_rules! nan_last {
    ($($t:ty),*) => { $(impl NanLast for $t {
        fn total_nan_last(&self, other: &Self) -> Ordering {
            self.partial_cmp(other).unwrap_or_else(|| self.is_nan().cmp(&other.is_nan()))
        }
    })* };
}
nan_last!(f32, f64);

fn argsort<T>(x: &[T], out: &mut [i32], n: usize, descending: bool, compare: impl Fn(&T, &T) -> Ordering) {
    if n == 0 {
        return;
    }
    for (row, order) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        order.iter_mut().enumerate().for_each(|(i, o)| *o = i as i32);
        // Stable, so equal elements keep their order in both directions.
        order.sort_by(|&a, &b| {
            let by = compare(&row[a as usize], &row[b as usize]);
            if descending { by.reverse() } else { by }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argsort_is_stable_and_puts_nan_last() {
        let x = [2.0f32, f32::NAN, -1.0, 2.0, 0.0, -0.0];
        let mut out = [0i32; 6];
        for (descending, want) in [(false, [2, 4, 5, 0, 3, 1]), (true, [1, 0, 3, 4, 5, 2])] {
            let buffers = [x.as_ptr().cast_mut().cast::<u8>(), out.as_mut_ptr().cast::<u8>()];
            // SAFETY: both arrays have six elements.
            unsafe { run(&Pool::new(1), &LibOp::ArgSort { rows: 1, n: 6, descending }, DType::F32, buffers.as_ptr()) };
            assert_eq!(out, want);
        }
    }

    #[test]
    fn random_words_are_those_of_the_generator_whatever_cuts_them() {
        let key = [0xDEAD_BEEF, 17];
        for (block, len) in [(0, 1), (3, 2 * 4 * LANES + 7), ((1u64 << 32) - 5, 4 * LANES + 3)] {
            let (mut any, mut best) = (vec![0u32; len], vec![0u32; len]);
            random_words_any(key, block, &mut any);
            random_words(key, block, &mut best);
            let want: Vec<u32> = (0..len as u64).map(|i| philox::bits_at(key, 4 * block + i)).collect();
            assert!(any == want && best == want, "{block} {len}");
        }
        // The published vector of key and counter 0 (Random123, `kat_vectors`).
        let mut zero = [0u32; 4];
        random_words([0, 0], 0, &mut zero);
        assert_eq!(zero, [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        let len = UNIT_WORDS + 5;
        let mut out = vec![0u32; len];
        let buffers = [key.as_ptr().cast_mut().cast::<u8>(), out.as_mut_ptr().cast::<u8>()];
        // SAFETY: a key of two words and a result of `len`.
        unsafe { run(&Pool::new(2), &LibOp::RandomBits { start: 0, len, skips: false }, DType::U32, buffers.as_ptr()) };
        assert!(out.iter().enumerate().all(|(i, &w)| w == philox::bits_at(key, i as u64)));
        for (start, len) in [(1, UNIT_WORDS + 5), (2, 1), (7, 40), (9, 3), (1 << 34, 6)] {
            // SAFETY: `out` holds at least `len` words.
            unsafe { run(&Pool::new(2), &LibOp::RandomBits { start, len, skips: false }, DType::U32, buffers.as_ptr()) };
            assert!(out[..len].iter().zip(start..).all(|(&w, i)| w == philox::bits_at(key, i)), "{start} {len}");
        }
        let skipped = (1u32 << 31) + 3;
        let buffers = [buffers[0], (&raw const skipped).cast_mut().cast(), buffers[1]];
        // SAFETY: key, number and result lie at these addresses.
        unsafe { run(&Pool::new(2), &LibOp::RandomBits { start: 2, len: 9, skips: true }, DType::U32, buffers.as_ptr()) };
        assert!(out[..9].iter().zip(5 + (1u64 << 31)..).all(|(&w, i)| w == philox::bits_at(key, i)));
    }

    #[test]
    fn keys_are_folded_with_known_and_with_computed_numbers() {
        let (key, number, mut out) = ([5u32, 6], 9u32, [0u32; 2]);
        let buffers = [key.as_ptr().cast_mut().cast::<u8>(), (&raw const number).cast_mut().cast(), out.as_mut_ptr().cast::<u8>()];
        // SAFETY: key, number and result lie at these addresses.
        unsafe { run(&Pool::new(1), &LibOp::RandomFold { place: 3, number: None }, DType::U32, buffers.as_ptr()) };
        assert_eq!(out, philox::fold(key, 9, 3));
        let buffers = [buffers[0], buffers[2]];
        // SAFETY: as above, without a number.
        unsafe { run(&Pool::new(1), &LibOp::RandomFold { place: 4, number: Some(1) }, DType::U32, buffers.as_ptr()) };
        assert_eq!(out, philox::fold(key, 1, 4));
    }
}
