//! Random numbers of a search: counter-based, so that what child number n is depends on the seed and on n alone.

use optc_abi::philox;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    block: u64,
    words: [u32; 4],
    left: usize,
}

impl Stream {
    /// The stream of a key.
    pub fn new(key: [u32; 2]) -> Stream {
        Stream { key, block: 0, words: [0; 4], left: 0 }
    }

    /// The stream for event number `n` at a place of the search.
    pub fn at(key: [u32; 2], place: u32, n: u64) -> Stream {
        let key = philox::fold(key, n as u32, place);
        Stream::new(philox::fold(key, (n >> 32) as u32, place ^ 0x8000_0000))
    }

    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        if self.left == 0 {
            self.words = philox::philox4x32(self.key, [self.block as u32, (self.block >> 32) as u32, 0, 0]);
            self.block += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.words[3 - self.left]
    }

    /// An integer below `n`, which is at least 1; equally likely up to `n / 2^32`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    /// Evenly in (0, 1), never 0.
    pub fn uniform(&mut self) -> f64 {
        let bits = (u64::from(self.word()) << 21) ^ (u64::from(self.word()) >> 11);
        ((bits & ((1 << 53) - 1)) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal, by the polar form's plain sibling (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let words = |s: &mut Stream| (0..9).map(|_| s.word()).collect::<Vec<_>>();
        assert_eq!(words(&mut Stream::at([1, 2], 3, 4)), words(&mut Stream::at([1, 2], 3, 4)));
        assert_ne!(words(&mut Stream::at([1, 2], 3, 4)), words(&mut Stream::at([1, 2], 4, 3)));
        assert_ne!(words(&mut Stream::at([1, 2], 3, 4)), words(&mut Stream::at([1, 2], 3, 4 + (1 << 32))));
    }

    #[test]
    fn draws_follow_their_laws() {
        let mut s = Stream::new([7, 0]);
        let n = 20_000i32;
        let (mut sum, mut squares, mut counts) = (0.0, 0.0, [0i32; 5]);
        for _ in 0..n {
            let x = s.normal();
            sum += x;
            squares += x * x;
            counts[s.below(5)] += 1;
            let u = s.uniform();
            assert!(u > 0.0 && u < 1.0);
        }
        assert!((sum / f64::from(n)).abs() < 0.03 && (squares / f64::from(n) - 1.0).abs() < 0.05);
        assert!(counts.iter().all(|c| (*c - n / 5).abs() < 300), "{counts:?}");
    }
}
