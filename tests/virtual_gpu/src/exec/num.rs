//! Numbers as a GPU rounds them.

/// How a result is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the nearest, ties to even.
    Nearest,
    /// To the nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// A binary format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Bits of the fraction that are stored.
    fraction: u32,
    /// Bits of the exponent.
    exponent: u32,
    /// Bits of a NaN.
    nan: u64,
    /// The largest finite number.
    largest: f64,
    /// Whether there are infinities.
    infinite: bool,
}

/// Half precision.
pub const F16: Format = Format { fraction: 10, exponent: 5, nan: 0x7FFF, largest: 65504.0, infinite: true };
/// The upper half of single precision.
pub const BF16: Format = Format { fraction: 7, exponent: 8, nan: 0x7FFF, largest: 3.389_531_389_251_535_5e38, infinite: true };
/// Single precision.
pub const F32: Format = Format { fraction: 23, exponent: 8, nan: 0x7FFF_FFFF, largest: f32::MAX as f64, infinite: true };
/// The 19 bits that tensor cores take of single precision, in the place they have in it.
pub const TF32: Format = Format { fraction: 10, exponent: 8, nan: 0x3FFFF, largest: 3.401_162_134_214_653e38, infinite: true };
/// Eight bits without infinities.
pub const E4M3: Format = Format { fraction: 3, exponent: 4, nan: 0x7F, largest: 448.0, infinite: false };
/// Eight bits as a shorter half.
pub const E5M2: Format = Format { fraction: 2, exponent: 5, nan: 0x7F, largest: 57344.0, infinite: true };

/// Rounds to a whole number.
pub fn whole(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Away => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// 2 to the power of `n`, which is that of a normal number or a subnormal one.
fn power(n: i32) -> f64 {
    if n >= -1022 { f64::from_bits(((n + 1023) as u64) << 52) } else { f64::from_bits(1u64 << (n + 1074)) }
}

impl Format {
    fn bias(&self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// The nearest number of the format, as the bits it has there. `saturate`: beyond the largest one stands the largest one.
    #[inline(never)]
    pub fn encode(&self, x: f64, round: Round, saturate: bool) -> u64 {
        if x.is_nan() {
            return self.nan;
        }
        let sign = u64::from(x.is_sign_negative()) << (self.fraction + self.exponent);
        let top = |bits: u64| sign | bits;
        let largest = || {
            let exponent = if self.infinite { (1 << self.exponent) - 2 } else { (1 << self.exponent) - 1 };
            let fraction = if self.infinite { (1 << self.fraction) - 1 } else { (1 << self.fraction) - 2 };
            top(exponent << self.fraction | fraction)
        };
        let infinity = || {
            if self.infinite { top(((1 << self.exponent) - 1) << self.fraction) } else { top(self.nan) }
        };
        if x.is_infinite() {
            return if saturate { largest() } else { infinity() };
        }
        if x == 0.0 {
            return sign;
        }
        let least = 1 - self.bias();
        let exponent = (((x.to_bits() >> 52) & 0x7FF) as i32 - 1023).max(least);
        let unit = exponent - self.fraction as i32;
        // Exact: a power of two, and the quotient has at most 53 bits.
        let steps = x / power(unit);
        let rounded = whole(steps, round);
        let value = rounded * power(unit);
        if value.abs() > self.largest {
            let up = match round {
                Round::Nearest | Round::Away => true,
                Round::Zero => false,
                Round::Down => x < 0.0,
                Round::Up => x > 0.0,
            };
            return if saturate || !up { largest() } else { infinity() };
        }
        let magnitude = rounded.abs() as u64;
        let hidden = 1u64 << self.fraction;
        if magnitude < hidden {
            return top(magnitude);
        }
        let (magnitude, exponent) = if magnitude == 2 * hidden { (hidden, exponent + 1) } else { (magnitude, exponent) };
        top(((exponent + self.bias()) as u64) << self.fraction | (magnitude - hidden))
    }

    /// The number that bits stand for.
    #[inline(never)]
    pub fn decode(&self, bits: u64) -> f64 {
        let fraction = bits & ((1 << self.fraction) - 1);
        let exponent = (bits >> self.fraction) & ((1 << self.exponent) - 1);
        let negative = bits >> (self.fraction + self.exponent) & 1 == 1;
        let value = if self.infinite && exponent == (1 << self.exponent) - 1 {
            if fraction == 0 { f64::INFINITY } else { f64::NAN }
        } else if !self.infinite && bits & 0x7F == self.nan {
            f64::NAN
        } else if exponent == 0 {
            fraction as f64 * power(1 - self.bias() - self.fraction as i32)
        } else {
            (fraction | 1 << self.fraction) as f64 * power(exponent as i32 - self.bias() - self.fraction as i32)
        };
        if negative { -value } else { value }
    }
}

/// Bits of a register as f32.
#[inline(always)]
pub fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}
/// An f32 result: there is one NaN.
#[inline(always)]
pub fn fr(x: f32) -> u64 {
    u64::from(if x.is_nan() { 0x7FFF_FFFF } else { x.to_bits() })
}
/// Bits of a register as f64.
#[inline(always)]
pub fn d(x: u64) -> f64 {
    f64::from_bits(x)
}
/// An f64 result.
#[inline(always)]
pub fn dr(x: f64) -> u64 {
    x.to_bits()
}
/// Subnormal numbers become zeros.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}
/// Within 0 and 1; NaN becomes 0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}
/// As above.
#[inline(always)]
pub fn saturate64(x: f64) -> f64 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}
/// Bits of a half as f32.
pub fn h(x: u64) -> f32 {
    F16.decode(x & 0xFFFF) as f32
}
/// An f16 result.
pub fn hr(x: f64) -> u64 {
    F16.encode(x, Round::Nearest, false)
}
/// Bits of a bf16 as f32.
#[inline(always)]
pub fn b(x: u64) -> f32 {
    f32::from_bits((x as u32) << 16)
}
/// A bf16 result.
pub fn br(x: f64) -> u64 {
    BF16.encode(x, Round::Nearest, false)
}

/// `a b + c` to the nearest f64 whose last bit is odd if it is not exact: rounding that to fewer bits gives what rounding the exact value would.
pub fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    // The product of two numbers of at most 24 bits is exact.
    add_odd(a * b, c)
}

/// `a + b`, odd if it is not exact.
pub fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    odd(sum, error)
}

/// A rounded result and the sign of what it lacks: the neighbor of the exact value that has an odd last bit.
pub fn odd(rounded: f64, error: f64) -> f64 {
    if error == 0.0 || rounded.to_bits() & 1 == 1 || !rounded.is_finite() {
        return rounded;
    }
    if error > 0.0 { rounded.next_up() } else { rounded.next_down() }
}

/// A rounded result and the sign of what it lacks, rounded in a direction instead.
pub fn directed(rounded: f64, error: f64, round: Round) -> f64 {
    if error == 0.0 || rounded.is_nan() {
        return rounded;
    }
    match round {
        Round::Up if error > 0.0 => rounded.next_up(),
        Round::Down if error < 0.0 => rounded.next_down(),
        Round::Zero if rounded > 0.0 && error < 0.0 => rounded.next_down(),
        Round::Zero if rounded < 0.0 && error > 0.0 => rounded.next_up(),
        _ => rounded,
    }
}
