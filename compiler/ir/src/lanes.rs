//! Vectors of 32-bit lanes as the math functions see them: one interface, implemented by code emitters and, for tests, by plain numbers.

/// A function too rare to be vectorized; called lane by lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rare {
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Tangent.
    Tan,
}

/// Operations on vectors of f32 or i32 lanes (one type for both: the bits). Masks have all bits of a lane set or clear.
pub trait Lanes {
    /// A vector.
    type V: Copy;
    /// The same f32 in every lane.
    fn f(&mut self, x: f32) -> Self::V;
    /// The same i32 in every lane.
    fn i(&mut self, x: i32) -> Self::V;
    /// a + b
    fn add(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b
    fn sub(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b
    fn mul(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    fn div(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root, correctly rounded.
    fn sqrt(&mut self, a: Self::V) -> Self::V;
    /// a * b + c with one rounding.
    fn fma(&mut self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Toward zero.
    fn trunc(&mut self, a: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn nearest(&mut self, a: Self::V) -> Self::V;
    /// a + b of integers, wrapping.
    fn iadd(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b of integers, wrapping.
    fn isub(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Bitwise and.
    fn and(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Bitwise or.
    fn or(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Bitwise exclusive or.
    fn xor(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// Left shift.
    fn shl(&mut self, a: Self::V, bits: u8) -> Self::V;
    /// Arithmetic right shift.
    fn sar(&mut self, a: Self::V, bits: u8) -> Self::V;
    /// a < b as floats.
    fn lt(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// a == b as floats.
    fn eq(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// a == b as integers.
    fn ieq(&mut self, a: Self::V, b: Self::V) -> Self::V;
    /// a where the mask is set, else b.
    fn select(&mut self, mask: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// i32 to f32.
    fn float_of_int(&mut self, a: Self::V) -> Self::V;
    /// f32 with an integral value to i32; any value where it is out of range or NaN.
    fn int_of_float(&mut self, a: Self::V) -> Self::V;
    /// `value`, but `rare(x)` in the lanes where the mask is set, which happens seldom.
    fn patch(&mut self, mask: Self::V, value: Self::V, x: Self::V, rare: Rare) -> Self::V;

    /// Whether every lane of x is known to be a number of smaller magnitude than the bound.
    fn is_below(&self, _x: Self::V, _bound: f32) -> bool {
        false
    }

    /// The larger of x and a bound; NaN stays.
    fn at_least(&mut self, x: Self::V, bound: Self::V) -> Self::V {
        let below = self.lt(x, bound);
        self.select(below, bound, x)
    }
    /// The smaller of x and a bound; NaN stays.
    fn at_most(&mut self, x: Self::V, bound: Self::V) -> Self::V {
        let above = self.lt(bound, x);
        self.select(above, bound, x)
    }
    /// |a|
    fn abs(&mut self, a: Self::V) -> Self::V {
        let m = self.i(0x7FFF_FFFF);
        self.and(a, m)
    }
    /// The sign bit alone.
    fn sign(&mut self, a: Self::V) -> Self::V {
        let m = self.i(i32::MIN);
        self.and(a, m)
    }
    /// a * b + constant.
    fn fma_c(&mut self, a: Self::V, b: Self::V, c: f32) -> Self::V {
        let c = self.f(c);
        self.fma(a, b, c)
    }
    /// Polynomial in x, highest coefficient first. By Estrin's scheme: neighbors are combined pairwise, level by level, which takes a third of the
    /// time of Horner's when the processor waits for results.
    fn poly(&mut self, x: Self::V, coefficients: &[f32]) -> Self::V {
        let mut terms: Vec<Self::V> = Vec::with_capacity(coefficients.len());
        for &c in coefficients.iter().rev() {
            terms.push(self.f(c));
        }
        let mut power = x;
        while terms.len() > 1 {
            let mut next = Vec::with_capacity(terms.len().div_ceil(2));
            for pair in terms.chunks(2) {
                next.push(if let [low, high] = pair { self.fma(*high, power, *low) } else { pair[0] });
            }
            terms = next;
            if terms.len() > 1 {
                power = self.mul(power, power);
            }
        }
        terms[0]
    }
    /// 2^k for integers k in -126..=127.
    fn exp2i(&mut self, k: Self::V) -> Self::V {
        let bias = self.i(127);
        let k = self.iadd(k, bias);
        self.shl(k, 23)
    }
}
