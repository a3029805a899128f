//! Vectors with the emitter that makes them, so that formulas read as formulas; and pairs of floats, which hold twice the digits.

use crate::lanes64::Lanes64;
use std::array::from_fn;
use std::cell::RefCell;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};

/// The emitter, shared by the vectors of one formula.
pub(super) type Pen<'p, L> = RefCell<&'p mut L>;

/// A vector.
pub(super) struct X<'p, L: Lanes64> {
    pen: &'p Pen<'p, L>,
    v: L::V,
}

impl<L: Lanes64> Clone for X<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L: Lanes64> Copy for X<'_, L> {}

/// What can stand as an operand: a vector, or a constant of f64.
pub(super) trait Operand<'p, L: Lanes64> {
    fn of(self, beside: X<'p, L>) -> X<'p, L>;
}
impl<'p, L: Lanes64> Operand<'p, L> for X<'p, L> {
    fn of(self, _: X<'p, L>) -> X<'p, L> {
        self
    }
}
impl<'p, L: Lanes64> Operand<'p, L> for f64 {
    fn of(self, beside: X<'p, L>) -> X<'p, L> {
        beside.f(self)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $operation:ident;)*) => {$(
        impl<'p, L: Lanes64, A: Operand<'p, L>> $trait<A> for X<'p, L> {
            type Output = Self;
            fn $method(self, other: A) -> Self {
                let other = other.of(self);
                self.made(|l| l.$operation(self.v, other.v))
            }
        }
    )*};
}
operators! {
    Add add add;
    Sub sub sub;
    Mul mul mul;
    Div div div;
    BitAnd bitand and;
    BitOr bitor or;
    BitXor bitxor xor;
}

macro_rules! constants_first {
    ($($trait:ident $method:ident;)*) => {$(
        impl<'p, L: Lanes64> $trait<X<'p, L>> for f64 {
            type Output = X<'p, L>;
            fn $method(self, other: X<'p, L>) -> X<'p, L> {
                other.f(self).$method(other)
            }
        }
    )*};
}
constants_first! {
    Sub sub;
    Div div;
}

impl<L: Lanes64> Neg for X<'_, L> {
    type Output = Self;
    fn neg(self) -> Self {
        self ^ self.i(i64::MIN)
    }
}
impl<L: Lanes64> Not for X<'_, L> {
    type Output = Self;
    fn not(self) -> Self {
        self ^ self.i(-1)
    }
}

impl<'p, L: Lanes64> X<'p, L> {
    fn made(self, make: impl FnOnce(&mut L) -> L::V) -> Self {
        X { pen: self.pen, v: make(&mut self.pen.borrow_mut()) }
    }
    /// An f64 constant.
    pub fn f(self, x: f64) -> Self {
        self.made(|l| l.f(x))
    }
    /// An i64 constant.
    pub fn i(self, x: i64) -> Self {
        self.made(|l| l.i(x))
    }
    /// self * b + c with one rounding.
    pub fn fma(self, b: impl Operand<'p, L>, c: impl Operand<'p, L>) -> Self {
        let (b, c) = (b.of(self), c.of(self));
        self.made(|l| l.fma(self.v, b.v, c.v))
    }
    pub fn sqrt(self) -> Self {
        self.made(|l| l.sqrt(self.v))
    }
    pub fn trunc(self) -> Self {
        self.made(|l| l.trunc(self.v))
    }
    pub fn nearest(self) -> Self {
        self.made(|l| l.nearest(self.v))
    }
    pub fn floor(self) -> Self {
        self.made(|l| l.floor(self.v))
    }
    pub fn iadd(self, b: Self) -> Self {
        self.made(|l| l.iadd(self.v, b.v))
    }
    pub fn isub(self, b: Self) -> Self {
        self.made(|l| l.isub(self.v, b.v))
    }
    pub fn shl(self, bits: u8) -> Self {
        self.made(|l| l.shl(self.v, bits))
    }
    pub fn shr(self, bits: u8) -> Self {
        self.made(|l| l.shr(self.v, bits))
    }
    pub fn sar(self, bits: u8) -> Self {
        self.made(|l| l.sar(self.v, bits))
    }
    pub fn lt(self, b: impl Operand<'p, L>) -> Self {
        let b = b.of(self);
        self.made(|l| l.lt(self.v, b.v))
    }
    pub fn gt(self, b: impl Operand<'p, L>) -> Self {
        let b = b.of(self);
        self.made(|l| l.lt(b.v, self.v))
    }
    pub fn eq(self, b: impl Operand<'p, L>) -> Self {
        let b = b.of(self);
        self.made(|l| l.eq(self.v, b.v))
    }
    pub fn ieq(self, b: Self) -> Self {
        self.made(|l| l.ieq(self.v, b.v))
    }
    /// A mask: whether the bit of this integer is set.
    pub fn has_bit(self, bit: i64) -> Self {
        let bit = self.i(bit);
        (self & bit).ieq(bit)
    }
    /// Of a mask: a where it is set, else b.
    pub fn select(self, a: impl Operand<'p, L>, b: impl Operand<'p, L>) -> Self {
        let (a, b) = (a.of(self), b.of(self));
        self.made(|l| l.select(self.v, a.v, b.v))
    }
    pub fn float_of_int(self) -> Self {
        self.made(|l| l.float_of_int(self.v))
    }
    pub fn int_of_float(self) -> Self {
        self.made(|l| l.int_of_float(self.v))
    }
    pub fn abs(self) -> Self {
        self & self.i(i64::MAX)
    }
    /// The sign bit alone.
    pub fn sign(self) -> Self {
        self & self.i(i64::MIN)
    }
    /// The smaller of this and a bound; NaN stays.
    pub fn at_most(self, bound: f64) -> Self {
        self.gt(bound).select(bound, self)
    }
    /// The larger of this and a bound; NaN stays.
    pub fn at_least(self, bound: f64) -> Self {
        self.lt(bound).select(bound, self)
    }
    /// 2^k for integers k in -1022..=1023; -1023 gives 0.
    pub fn exp2i(self) -> Self {
        self.iadd(self.i(1023)).shl(52)
    }
    /// self * 2^k in two steps, so that results down to the denormals and up to infinity come out right.
    pub fn scale(self, k: Self) -> Self {
        let half = k.sar(1);
        self * half.exp2i() * k.isub(half).exp2i()
    }
    /// Polynomial with the highest coefficient first, by Estrin's scheme: neighbors are combined pairwise, level by level.
    pub fn poly(self, coefficients: &[f64]) -> Self {
        let mut terms: Vec<Self> = coefficients.iter().rev().map(|&c| self.f(c)).collect();
        let mut power = self;
        loop {
            terms = terms.chunks(2).map(|pair| if let [low, high] = *pair { high.fma(power, low) } else { pair[0] }).collect();
            if let [value] = terms[..] {
                return value;
            }
            power = power * power;
        }
    }
    /// See [`Lanes64::is_below`].
    pub fn is_below(self, bound: f64) -> bool {
        self.pen.borrow().is_below(self.v, bound)
    }
    /// Of a mask: see [`Lanes64::seldom`]; the rare values are computed from `of`.
    pub fn seldom<const M: usize, const N: usize>(
        self,
        usual: [Self; N],
        of: [Self; M],
        rare: impl for<'r> FnOnce([X<'r, L>; M]) -> [X<'r, L>; N],
    ) -> [Self; N] {
        let of = of.map(|x| x.v);
        let values = self.pen.borrow_mut().seldom(self.v, usual.map(|x| x.v), |l| {
            let pen = RefCell::new(l);
            compute(&pen, of, rare)
        });
        from_fn(|i| X { pen: self.pen, v: values[i] })
    }
}

/// Runs a formula.
pub(super) fn compute<'p, L: Lanes64, const M: usize, const N: usize>(
    pen: &'p Pen<'p, L>,
    of: [L::V; M],
    formula: impl FnOnce([X<'p, L>; M]) -> [X<'p, L>; N],
) -> [L::V; N] {
    formula(of.map(|v| X { pen, v })).map(|x| x.v)
}

/// The sum of two floats, of which the second is an error of the first or smaller.
pub(super) struct Pair<'p, L: Lanes64> {
    pub h: X<'p, L>,
    pub l: X<'p, L>,
}

impl<L: Lanes64> Clone for Pair<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L: Lanes64> Copy for Pair<'_, L> {}

impl<'p, L: Lanes64> Pair<'p, L> {
    pub fn new(h: X<'p, L>, l: X<'p, L>) -> Self {
        Pair { h, l }
    }
    /// a + b exactly, for any two numbers (Knuth).
    pub fn sum(a: X<'p, L>, b: X<'p, L>) -> Self {
        let h = a + b;
        let back = h - a;
        Pair { h, l: (a - (h - back)) + (b - back) }
    }
    /// a + b exactly, for |a| >= |b| or a = 0 (Dekker).
    pub fn ordered_sum(a: X<'p, L>, b: X<'p, L>) -> Self {
        let h = a + b;
        Pair { h, l: (a - h) + b }
    }
    /// a * b exactly.
    pub fn product(a: X<'p, L>, b: X<'p, L>) -> Self {
        let h = a * b;
        Pair { h, l: a.fma(b, -h) }
    }
    /// The pair plus a small number.
    pub fn plus(self, small: X<'p, L>) -> Self {
        Pair { h: self.h, l: self.l + small }
    }
    /// The pair times a pair, to about 2^-102.
    pub fn times(self, other: Self) -> Self {
        let p = Self::product(self.h, other.h);
        p.plus(self.h.fma(other.l, self.l * other.h))
    }
    /// The quotient of settled pairs, to about 2^-102: one division and its remainder, divided with one more.
    pub fn over(self, other: Self) -> Self {
        let q = self.h / other.h;
        let rest = (-q).fma(other.h, self.h) + (-q).fma(other.l, self.l);
        Pair { h: q, l: rest / other.h }
    }
    /// Square root of a settled positive pair, to about 2^-102.
    pub fn sqrt(self) -> Self {
        let h = self.h.sqrt();
        let rest = (-h).fma(h, self.h) + self.l;
        Pair { h, l: rest / (h + h) }
    }
    /// The parts moved so that the second is below half a digit of the first.
    pub fn settled(self) -> Self {
        Self::ordered_sum(self.h, self.l)
    }
    /// Both parts with the sign bits of `sign` flipped in.
    pub fn flip(self, sign: X<'p, L>) -> Self {
        Pair { h: self.h ^ sign, l: self.l ^ sign }
    }
    /// Both parts times a power of two.
    pub fn scaled(self, power: X<'p, L>) -> Self {
        Pair { h: self.h * power, l: self.l * power }
    }
    /// Of a mask: a where it is set, else b.
    pub fn select(mask: X<'p, L>, a: Self, b: Self) -> Self {
        Pair { h: mask.select(a.h, b.h), l: mask.select(a.l, b.l) }
    }
    /// The rounded sum.
    pub fn round(self) -> X<'p, L> {
        self.h + self.l
    }
}
