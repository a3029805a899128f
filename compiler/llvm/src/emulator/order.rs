//! Which thread runs next.

/// The order of blocks, and of threads that could run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The lowest number first.
    #[default]
    Forward,
    /// The highest number first.
    Reverse,
    /// Any, drawn with a seed.
    Random(u64),
}

impl Order {
    /// `forward`, `reverse` or `random:SEED`.
    pub(crate) fn parse(text: &str) -> Option<Order> {
        match text {
            "forward" => Some(Order::Forward),
            "reverse" => Some(Order::Reverse),
            _ => text.strip_prefix("random:").and_then(|seed| seed.parse().ok()).map(Order::Random),
        }
    }
}

/// Choices of a launch; the same for all launches of the same kind, whichever host thread makes them.
pub(super) struct Chooser {
    order: Order,
    state: u64,
}

impl Chooser {
    pub(super) fn new(order: Order) -> Chooser {
        let state = if let Order::Random(seed) = order { seed } else { 0 };
        Chooser { order, state }
    }

    /// Below `n`, by splitmix64.
    fn draw(&mut self, n: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    /// The blocks, in order.
    pub(super) fn blocks(&mut self, n: i32) -> Vec<i32> {
        let mut all: Vec<i32> = (0..n).collect();
        match self.order {
            Order::Forward => {}
            Order::Reverse => all.reverse(),
            Order::Random(_) => {
                for k in (1..all.len()).rev() {
                    let other = self.draw(k as u64 + 1) as usize;
                    all.swap(k, other);
                }
            }
        }
        all
    }

    /// One of the threads of a set.
    pub(super) fn thread(&mut self, ready: &Set) -> Option<usize> {
        match self.order {
            Order::Forward => ready.first(),
            Order::Reverse => ready.last(),
            Order::Random(_) if ready.len == 0 => None,
            Order::Random(_) => {
                let n = self.draw(u64::from(ready.len));
                ready.nth(n as u32)
            }
        }
    }
}

/// A set of threads of a block.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    bits: [u64; 16],
    len: u32,
}

impl Set {
    pub(super) fn insert(&mut self, n: usize) {
        let bit = 1 << (n % 64);
        self.len += u32::from(self.bits[n / 64] & bit == 0);
        self.bits[n / 64] |= bit;
    }

    pub(super) fn remove(&mut self, n: usize) {
        let bit = 1 << (n % 64);
        self.len -= u32::from(self.bits[n / 64] & bit != 0);
        self.bits[n / 64] &= !bit;
    }

    fn first(&self) -> Option<usize> {
        let word = self.bits.iter().position(|&w| w != 0)?;
        Some(word * 64 + self.bits[word].trailing_zeros() as usize)
    }

    fn last(&self) -> Option<usize> {
        let word = self.bits.iter().rposition(|&w| w != 0)?;
        Some(word * 64 + 63 - self.bits[word].leading_zeros() as usize)
    }

    fn nth(&self, mut n: u32) -> Option<usize> {
        for (at, &word) in self.bits.iter().enumerate() {
            if n < word.count_ones() {
                let mut rest = word;
                for _ in 0..n {
                    rest &= rest - 1;
                }
                return Some(at * 64 + rest.trailing_zeros() as usize);
            }
            n -= word.count_ones();
        }
        None
    }
}
