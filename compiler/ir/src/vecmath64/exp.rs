//! Exponentials: exp, exp2, expm1, sinh, cosh, tanh, sigmoid, softplus.

use super::log::log1p_pair;
use super::pen::{Pair, X};
use crate::lanes64::Lanes64;
use std::f64::consts::{LN_2, LOG2_E};

/// ln 2 in 42 bits, so that its multiples up to 2^11 are exact, and the rest.
pub(super) const LN2_HI: f64 = 0.693_147_180_559_890_3;
pub(super) const LN2_LO: f64 = 5.497_923_018_708_371e-14;
/// The rest of [`LN_2`].
const LN_2_REST: f64 = 2.319_046_813_846_299_6e-17;

/// (cosh r - 1 - r^2 / 2) / r^4 in r^2 for r up to ln 2 / 2, to 2^-64 of the result.
const COSH: [f64; 5] = [2.091130642937964e-09, 2.755728282265834e-07, 2.4801587317239132e-05, 0.0013888888888886535, 0.041666666666666664];
/// (sinh r / r - 1) / r^2 in r^2, to 2^-59.
const SINH: [f64; 6] = [
    1.6086683797719665e-10,
    2.5052070943199732e-08,
    2.7557319247360055e-06,
    0.00019841269841263247,
    0.008333333333333333,
    0.16666666666666666,
];

/// e^x = 2^k e^tail (1 + half + even + r + odd), where half is r^2 / 2, 1 + half + even is cosh r, and r + odd is sinh r.
struct Reduced<'p, L: Lanes64> {
    k: X<'p, L>,
    r: X<'p, L>,
    tail: X<'p, L>,
    half: X<'p, L>,
    even: X<'p, L>,
    odd: X<'p, L>,
}

impl<'p, L: Lanes64> Reduced<'p, L> {
    /// Of k and a remainder up to ln 2 / 2 and a bit, given by two floats.
    fn new(k: X<'p, L>, Pair { h: r, l: tail }: Pair<'p, L>) -> Self {
        let half = Pair::product(r * 0.5, r);
        let z = half.h + half.h;
        Reduced { k: k.int_of_float(), r, tail, half: half.h, even: (z * z).fma(z.poly(&COSH), half.l), odd: r * z * z.poly(&SINH) }
    }
    /// Of x (up to 2^10) and a small addition to it.
    fn of(x: X<'p, L>, more: Option<X<'p, L>>) -> Self {
        let k = (x * LOG2_E).nearest();
        let r = k.fma(-LN2_HI, x);
        let mut low = k * -LN2_LO;
        if let Some(more) = more {
            low = low + more;
        }
        Self::new(k, Pair::sum(r, low))
    }
    /// e^x / 2^k without 1, r and half, which leave rounding errors worth keeping.
    fn rest(&self) -> X<'p, L> {
        self.even + self.odd + self.tail.fma(self.r, self.tail)
    }
    /// e^x / 2^k.
    fn mantissa(&self) -> Pair<'p, L> {
        let first = Pair::ordered_sum(self.r.f(1.0), self.r);
        Pair::ordered_sum(first.h, self.half).plus(first.l + self.rest()).settled()
    }
    fn value(&self) -> X<'p, L> {
        self.mantissa().round().scale(self.k)
    }
}

pub(super) fn exp<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    Reduced::of(x.at_least(-746.0).at_most(710.0), None).value()
}

/// e^(h + l) for a small l.
pub(super) fn exp_pair<'p, L: Lanes64>(x: Pair<'p, L>) -> X<'p, L> {
    let inside = x.h.abs().lt(746.0);
    Reduced::of(x.h.at_least(-746.0).at_most(710.0), Some(inside.select(x.l, 0.0))).value()
}

pub(super) fn exp2<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let x = x.at_least(-1076.0).at_most(1025.0);
    let k = x.nearest();
    let part = x - k;
    let r = Pair::product(part, part.f(LN_2));
    Reduced::new(k, r.plus(part * LN_2_REST)).value()
}

/// x itself where it is so small that the function rounds to it; zeros keep their sign.
pub(super) fn keep_tiny<'p, L: Lanes64>(x: X<'p, L>, y: X<'p, L>) -> X<'p, L> {
    x.abs().lt(2f64.powi(-28)).select(x, y)
}

pub(super) fn expm1<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let e = Reduced::of(x.at_least(-40.0).at_most(710.0), None);
    // Twice (2^(k-1) - 1/2) + 2^(k-1) (r + rest): no overflow before the result's.
    let power = e.k.iadd(e.k.i(-1)).exp2i();
    let start = Pair::sum(power, power.f(-0.5));
    let sum = Pair::sum(start.h, power * e.r);
    let more = Pair::sum(sum.h, power * e.half);
    let y = more.plus(power.fma(e.rest(), start.l + sum.l)).round();
    x.abs().lt(2f64.powi(-54)).select(x, y + y)
}

/// sinh and cosh of x in 0..=711, each a quarter of it.
fn hyperbolic<'p, L: Lanes64>(x: X<'p, L>) -> (Pair<'p, L>, Pair<'p, L>) {
    let e = Reduced::of(x, None);
    // sinh x = (2^k - 2^-k) / 2 cosh r + (2^k + 2^-k) / 2 sinh r, and cosh x with these factors exchanged: nothing cancels.
    let minus3 = e.k.i(-3);
    let grow = e.k.iadd(minus3).exp2i();
    // Beyond 2^100 the shrinking part does not count.
    let least = e.k.float_of_int().at_most(100.0).int_of_float();
    let shrink = minus3.isub(least).exp2i();
    let (minus, plus) = (Pair::sum(grow, -shrink), Pair::sum(grow, shrink));
    let join = |a: Pair<'p, L>, b: Pair<'p, L>| {
        let product = Pair::product(b.h, e.r);
        let sum = Pair::sum(a.h, product.h);
        let more = Pair::sum(sum.h, a.h * e.half);
        let low = a.h.fma(e.even, b.h * e.odd);
        (more, low + (more.l + (sum.l + (product.l + b.l.fma(e.r, a.l)))))
    };
    let ((sinh, sinh_low), (cosh, cosh_low)) = (join(minus, plus), join(plus, minus));
    let with_tail = |p: Pair<'p, L>, low: X<'p, L>, slope: X<'p, L>| Pair::new(p.h, slope.fma(e.tail, low));
    (with_tail(sinh, sinh_low, cosh.h), with_tail(cosh, cosh_low, sinh.h))
}

pub(super) fn sinh<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (y, _) = hyperbolic(x.abs().at_most(711.0));
    keep_tiny(x, (y.round() * 4.0) | x.sign())
}

pub(super) fn cosh<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (_, y) = hyperbolic(x.abs().at_most(711.0));
    y.round() * 4.0
}

pub(super) fn tanh<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (s, c) = hyperbolic(x.abs().at_most(22.0));
    keep_tiny(x, s.settled().over(c.settled()).round() | x.sign())
}

/// k and mantissa of e^-|x|.
fn decay<'p, L: Lanes64>(x: X<'p, L>) -> (X<'p, L>, Pair<'p, L>) {
    let e = Reduced::of((x | x.i(i64::MIN)).at_least(-746.0), None);
    (e.k, e.mantissa())
}

pub(super) fn sigmoid<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (k, e) = decay(x);
    // 1 / (1 + e^-x), or e^x / (1 + e^x) with the power of two applied last.
    let power = k.float_of_int().at_least(-200.0).int_of_float().exp2i();
    let below = e.scaled(power);
    let bottom = Pair::ordered_sum(x.f(1.0), below.h).plus(below.l);
    let negative = x.lt(0.0);
    let top = Pair::new(negative.select(e.h, 1.0), negative.select(e.l, 0.0));
    top.over(bottom).round().scale(negative & k)
}

/// max(x, 0) + log1p(e^-|x|): no overflow.
pub(super) fn softplus<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (k, e) = decay(x);
    let power = k.float_of_int().at_least(-1000.0).int_of_float().exp2i();
    let rest = log1p_pair(e.scaled(power));
    let positive = x.gt(0.0);
    let sum = Pair::sum(positive.select(x, 0.0), rest.h);
    let y = sum.plus(rest.l).round();
    // Far below, log1p(e^x) is e^x; infinity has no error to add.
    let y = x.lt(-60.0).select(e.round().scale(k), y);
    x.lt(f64::INFINITY).select(y, x)
}
