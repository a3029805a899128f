//! Logarithms and what is made of them: log, log2, log1p, asinh, acosh, atanh, pow.

use super::exp::{LN2_HI, LN2_LO, exp_pair};
use super::pen::{Pair, X};
use crate::lanes64::Lanes64;
use std::f64::consts::{FRAC_1_SQRT_2, LOG2_E};

/// The rest of [`LOG2_E`].
const LOG2_E_REST: f64 = 2.035_527_374_093_103_3e-17;

/// (2 artanh s / s - 2) / s^2 in s^2 for s up to 3 - 2 sqrt 2, to 2^-57.
const LOG: [f64; 7] = [
    0.14616449685043406,
    0.15331721600556042,
    0.18182889125261723,
    0.2222221113479508,
    0.28571428625975487,
    0.39999999999899505,
    0.666666666666667,
];
/// (2 artanh s / s - 2 - 2/3 s^2) / s^4 in s^2, to 2^-66.
const LOG_LONG: [f64; 9] = [
    0.10762291418628644,
    0.10456341945425285,
    0.11766812466114947,
    0.13333296549572363,
    0.15384615760977463,
    0.18181818179658246,
    0.22222222222228424,
    0.28571428571428564,
    0.4,
];

/// Exponent (as an integer) and mantissa in sqrt(1/2) .. sqrt(2) of a positive finite x.
fn split<'p, L: Lanes64>(x: X<'p, L>) -> (X<'p, L>, X<'p, L>) {
    let denormal = x.lt(f64::MIN_POSITIVE);
    let x = denormal.select(x * 2f64.powi(54), x);
    let e = x.isub(x.i(FRAC_1_SQRT_2.to_bits() as i64)).sar(52);
    let m = x.isub(e.shl(52));
    (e.isub(denormal & x.i(54)), m)
}

/// log(1 + f) + e ln 2, to about 2^-57.
fn log_of<'p, L: Lanes64>(e: X<'p, L>, f: Pair<'p, L>) -> Pair<'p, L> {
    let s = f.h / (f.h + 2.0);
    let z = s * s;
    // log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)).
    let half = f.h * 0.5;
    let square = Pair::product(half, f.h);
    let first = Pair::ordered_sum(f.h, -square.h);
    let low = s.fma(z.fma(z.poly(&LOG), square.h), first.l - square.l);
    let low = f.l.fma(f.h.fma(f.h - 1.0, 1.0), low);
    let sum = Pair::ordered_sum(e * LN2_HI, first.h);
    sum.plus(e.fma(LN2_LO, low))
}

/// log's values at zero, negative numbers, infinity and NaN, else y.
fn with_limits<'p, L: Lanes64>(x: X<'p, L>, y: X<'p, L>) -> X<'p, L> {
    let y = x.lt(f64::INFINITY).select(y, x);
    let y = x.lt(0.0).select(f64::NAN, y);
    x.eq(0.0).select(f64::NEG_INFINITY, y)
}

pub(super) fn log<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (e, m) = split(x);
    let f = m - 1.0;
    with_limits(x, log_of(e.float_of_int(), Pair::new(f, f.f(0.0))).round())
}

pub(super) fn log2<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (e, m) = split(x);
    let f = m - 1.0;
    let zero = f.f(0.0);
    let log = log_of(zero, Pair::new(f, zero));
    let product = Pair::product(log.h, f.f(LOG2_E));
    let low = log.l.fma(LOG2_E, log.h.fma(LOG2_E_REST, product.l));
    let sum = Pair::ordered_sum(e.float_of_int(), product.h);
    with_limits(x, sum.plus(low).round())
}

/// Logarithm of a pair of at least 2^-60 times 2^more; a low part counts only up to 2^500.
fn log_pair<'p, L: Lanes64>(u: Pair<'p, L>, more: X<'p, L>) -> Pair<'p, L> {
    let (e, m) = split(u.h);
    let e = e.float_of_int();
    let power = e.at_most(500.0).int_of_float();
    let low = u.l * power.i(0).isub(power).exp2i();
    log_of(e + more, Pair::sum(m - 1.0, low))
}

/// log(1 + x) for a pair.
pub(super) fn log1p_pair<'p, L: Lanes64>(x: Pair<'p, L>) -> Pair<'p, L> {
    let u = Pair::sum(x.h.f(1.0), x.h);
    log_pair(u.plus(x.l), x.h.f(0.0))
}

pub(super) fn log1p<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let y = log1p_pair(Pair::new(x, x.f(0.0))).round();
    let y = with_limits(x + 1.0, y);
    x.abs().lt(2f64.powi(-54)).select(x, y)
}

/// From here on x^2 and 1 differ by more than the digits hold: asinh and acosh are log 2x.
const LARGE: f64 = 268_435_456.0;

/// log(1 + a), or log 2x where x is large.
fn log1p_or_double<'p, L: Lanes64>(x: X<'p, L>, a: Pair<'p, L>) -> X<'p, L> {
    let large = x.gt(LARGE);
    let u = Pair::sum(x.f(1.0), a.h).plus(a.l);
    let u = Pair::select(large, Pair::new(x, x.f(0.0)), u);
    let y = log_pair(u, large.select(1.0, 0.0)).round();
    x.lt(f64::INFINITY).select(y, x)
}

/// log(|x| + sqrt(x^2 + 1)), that is log(1 + |x| + x^2 / (1 + sqrt(x^2 + 1))).
pub(super) fn asinh<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let a = x.abs();
    let c = a.at_most(LARGE);
    let square = Pair::product(c, c);
    let sum = Pair::sum(square.h, c.f(1.0));
    let root = sum.plus(square.l).settled().sqrt();
    let bottom = Pair::sum(root.h, c.f(1.0)).plus(root.l);
    let rest = square.over(bottom.settled());
    let total = Pair::sum(c, rest.h).plus(rest.l);
    let y = log1p_or_double(a, total.settled()) | x.sign();
    x.abs().lt(2f64.powi(-28)).select(x, y)
}

/// log(1 + t + sqrt(2 t + t^2)) for t = x - 1.
pub(super) fn acosh<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let c = x.at_most(LARGE);
    let t = c - 1.0;
    let square = Pair::product(t, t);
    let sum = Pair::sum(t + t, square.h).plus(square.l);
    let root = sum.settled().sqrt();
    let total = Pair::sum(root.h, t).plus(root.l);
    let y = log1p_or_double(x, total.settled());
    let y = x.eq(1.0).select(0.0, y);
    x.lt(1.0).select(f64::NAN, y)
}

/// Half of log(1 + 2|x| / (1 - |x|)).
pub(super) fn atanh<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let a = x.abs();
    let bottom = Pair::ordered_sum(a.f(1.0), -a);
    let ratio = Pair::new(a + a, a.f(0.0)).over(bottom);
    let y = log1p_pair(ratio).round() * 0.5;
    let y = a.eq(1.0).select(f64::INFINITY, y);
    let y = a.gt(1.0).select(f64::NAN, y | x.sign());
    a.lt(2f64.powi(-28)).select(x, y)
}

/// log of a positive finite x to about 2^-65.
fn log_long<'p, L: Lanes64>(x: X<'p, L>) -> Pair<'p, L> {
    let (e, m) = split(x);
    let e = e.float_of_int();
    let f = m - 1.0;
    let s = Pair::new(f, f.f(0.0)).over(Pair::ordered_sum(f.f(2.0), f));
    let z = s.times(s);
    // 2 s + s^3 (2/3 + z Q(z)).
    let third = Pair::ordered_sum(f.f(2.0 / 3.0), z.h * z.h.poly(&LOG_LONG)).plus(f.f(3.700_743_415_417_188e-17));
    let cube = z.times(third).times(s);
    let y = Pair::ordered_sum(s.h + s.h, cube.h).plus(cube.l + (s.l + s.l));
    let sum = Pair::ordered_sum(e * LN2_HI, y.h);
    sum.plus(e.fma(LN2_LO, y.l)).settled()
}

/// x^y as IEEE 754 defines it.
pub(super) fn pow<'p, L: Lanes64>(x: X<'p, L>, y: X<'p, L>) -> X<'p, L> {
    let a = x.abs();
    let log = log_long(a);
    let h = a.eq(0.0).select(f64::NEG_INFINITY, log.h);
    let h = a.eq(f64::INFINITY).select(f64::INFINITY, h);
    let product = Pair::product(y, h);
    let p = exp_pair(product.plus(y * log.l));
    let p = a.eq(1.0).select(1.0, p);
    // Negative bases, NaN, exponent zero, base one.
    let whole = y.trunc().eq(y);
    let half = y * 0.5;
    let odd = whole & !half.trunc().eq(half);
    let p = p ^ (odd & x.sign());
    let domain = x.lt(0.0) & x.gt(f64::NEG_INFINITY) & !whole;
    let p = domain.select(f64::NAN, p);
    let known = x.eq(x) & y.eq(y);
    let p = known.select(p, x + y);
    (y.eq(0.0) | x.eq(1.0)).select(1.0, p)
}
