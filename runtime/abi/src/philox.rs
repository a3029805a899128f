//! Philox 4x32-10, the counter-based generator behind every random draw.
//!
//! Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

/// Multiplier of the first and the third counter word.
pub const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What is added to the two key words after each round (golden ratio and sqrt(3) - 1).
pub const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Number of rounds.
pub const ROUNDS: usize = 10;

/// Four random words for a key and a counter. Equal arguments give equal words, on every machine.
#[inline]
pub const fn philox4x32(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [mut k0, mut k1] = key;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let mut round = 0;
    while round < ROUNDS {
        let p0 = MULTIPLIERS[0] as u64 * c0 as u64;
        let p1 = MULTIPLIERS[1] as u64 * c2 as u64;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
        round += 1;
    }
    [c0, c1, c2, c3]
}

/// Element `index` of the array of random words with this key: word `index % 4` for the counter `[index / 4 low, index / 4 high, 0, 0]`.
#[inline]
pub const fn bits_at(key: [u32; 2], index: u64) -> u32 {
    let block = index / 4;
    philox4x32(key, [block as u32, (block >> 32) as u32, 0, 0])[(index % 4) as usize]
}

/// A new key for the draw with this number at this place of the program: the first two words for the counter `[number, place, 1, 0]`.
#[inline]
pub const fn fold(key: [u32; 2], number: u32, place: u32) -> [u32; 2] {
    let [a, b, _, _] = philox4x32(key, [number, place, 1, 0]);
    [a, b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        let ones = 0xFFFF_FFFF;
        assert_eq!(philox4x32([0, 0], [0, 0, 0, 0]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(philox4x32([ones; 2], [ones; 4]), [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]);
        assert_eq!(
            philox4x32([0xA409_3822, 0x299F_31D0], [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344]),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
        );
    }

    #[test]
    fn elements_are_words_of_consecutive_blocks() {
        let key = [7, 9];
        assert_eq!(bits_at(key, 6), philox4x32(key, [1, 0, 0, 0])[2]);
        assert_eq!(bits_at(key, 4 * (1 << 32) + 3), philox4x32(key, [0, 1, 0, 0])[3]);
        assert_ne!(fold(key, 0, 1), fold(key, 1, 0));
    }
}
