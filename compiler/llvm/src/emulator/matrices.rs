//! Operations of a warp on matrices of halfwords.

use super::WARP;
use super::launch::WORDS;

/// Bits of a bf16 or f16 as a number.
fn number(bits: u32, f16: bool) -> f64 {
    if f16 { half_number(bits) } else { f64::from(f32::from_bits(bits << 16)) }
}

/// Bits of an f16 as a number: a sign, five digits of the exponent, ten of the fraction.
fn half_number(bits: u32) -> f64 {
    let (exponent, fraction) = ((bits >> 10 & 31) as i32, f64::from(bits & 1023) / 1024.0);
    let size = match exponent {
        0 => fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
    };
    if bits >> 15 & 1 == 1 { -size } else { size }
}

/// The two numbers of a word.
fn pair(word: u32, f16: bool) -> [f64; 2] {
    [number(word & 0xFFFF, f16), number(word >> 16, f16)]
}

/// Words of `d = c + a b` of every lane: a is 16 x 16, b 16 x 8, of bf16 or f16, c and d are 16 x 8, of f32. In order: a (4), b (2), c (4).
pub(super) fn product(given: &[[u32; WORDS]], f16: bool) -> [[u32; 4]; WARP as usize] {
    let (mut a, mut b, mut c) = ([[0.0; 16]; 16], [[0.0; 8]; 16], [[0.0; 8]; 16]);
    let place = |lane: usize| (lane / 4, 2 * (lane % 4));
    for (lane, words) in given.iter().enumerate() {
        let (group, at) = place(lane);
        for half in 0..2 {
            for (n, &word) in words[..4].iter().enumerate() {
                a[group + 8 * (n % 2)][at + 8 * (n / 2) + half] = pair(word, f16)[half];
            }
            for (n, &word) in words[4..6].iter().enumerate() {
                b[at + 8 * n + half][group] = pair(word, f16)[half];
            }
            for n in 0..2 {
                c[group + 8 * n][at + half] = f64::from(f32::from_bits(words[6 + 2 * n + half]));
            }
        }
    }
    std::array::from_fn(|lane| {
        let (group, at) = place(lane);
        std::array::from_fn(|n| {
            let (row, column) = (group + 8 * (n / 2), at + n % 2);
            let sum = (0..16).fold(c[row][column], |sum: f64, k| sum + a[row][k] * b[k][column]);
            (sum as f32).to_bits()
        })
    })
}

/// What each lane gets of four matrices, whose rows lanes 8 n to 8 n + 7 have named.
pub(super) fn fragments(rows: &[[u16; 8]; WARP as usize], transposed: bool) -> [[u32; 4]; WARP as usize] {
    std::array::from_fn(|lane| {
        let (group, at) = (lane / 4, 2 * (lane % 4));
        std::array::from_fn(|n| {
            let matrix = &rows[8 * n..8 * n + 8];
            let element = |k: usize| u32::from(if transposed { matrix[at + k][group] } else { matrix[group][at + k] });
            element(0) | element(1) << 16
        })
    })
}
