//! Vectors of 64-bit lanes as the f64 math functions see them: one interface, implemented by code emitters and, for tests, by plain numbers.

/// Operations on vectors of f64 or i64 lanes (one type for both: the bits). Masks have all bits of a lane set or clear.
///
/// Every operation exists in vectors of LLVM, in scalar PTX and in plain Rust. Float operations round once, to nearest, and keep denormals; an
/// emitter must not let later passes contract or reassociate them: sums of two floats carry their own rounding errors.
pub trait Lanes64 {
    /// A vector.
    type V: Copy;
    /// The same f64 in every lane.
    fn f(&mut self, x: f64) -> Self::V;
    /// The same i64 in every lane.
    fn i(&mut self, x: i64) -> Self::V;
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
    /// Toward minus infinity.
    fn floor(&mut self, a: Self::V) -> Self::V;
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
    /// Logical right shift.
    fn shr(&mut self, a: Self::V, bits: u8) -> Self::V;
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

    /// `usual`, but `rare` in the lanes where the mask is set, which happens seldom: an emitter that can branch may jump over `rare` if no lane needs it.
    fn seldom<const N: usize>(&mut self, mask: Self::V, usual: [Self::V; N], rare: impl FnOnce(&mut Self) -> [Self::V; N]) -> [Self::V; N] {
        let rare = rare(self);
        std::array::from_fn(|i| self.select(mask, rare[i], usual[i]))
    }
    /// Whether every lane of x is known to be a number of smaller magnitude than the bound.
    fn is_below(&self, _x: Self::V, _bound: f64) -> bool {
        false
    }
    /// i64 below 2^51 in magnitude to f64: placed among the digits of 1.5 * 2^52.
    fn float_of_int(&mut self, a: Self::V) -> Self::V {
        let bits = self.i(MAGIC.to_bits() as i64);
        let sum = self.iadd(a, bits);
        let magic = self.f(MAGIC);
        self.sub(sum, magic)
    }
    /// f64 with an integral value below 2^51 in magnitude to i64; any value else.
    fn int_of_float(&mut self, a: Self::V) -> Self::V {
        let magic = self.f(MAGIC);
        let sum = self.add(a, magic);
        let bits = self.i(MAGIC.to_bits() as i64);
        self.isub(sum, bits)
    }
}

/// Adding it moves an integer into the low digits.
const MAGIC: f64 = 6_755_399_441_055_744.0;

/// Lanes that also convert to and from vectors of as many f32.
pub trait Widen: Lanes64 {
    /// A vector of f32.
    type Narrow: Copy;
    /// f32 to f64, exact.
    fn widen(&mut self, x: Self::Narrow) -> Self::V;
    /// f64 to f32, rounded to nearest, ties to even.
    fn narrow(&mut self, x: Self::V) -> Self::Narrow;
}
