//! Inverse sine, cosine and tangent.

use super::angle::FRAC_PI_2_LO;
use super::pen::{Pair, X};
use crate::lanes64::Lanes64;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

/// (arcsin s / s - 1) / s^2 in s^2 for s up to 1/2, to 2^-57.
const ASIN: [f64; 13] = [
    0.028757851367421566,
    -0.014851887071247204,
    0.01740087944269402,
    0.005457506718640358,
    0.01032281435018578,
    0.011479177415184906,
    0.013971212973552933,
    0.017352392720869973,
    0.02237217294214989,
    0.030381944138531247,
    0.04464285714635543,
    0.07499999999998433,
    0.16666666666666669,
];
/// (arctan u / u - 1) / u^2 in u^2 for u up to sqrt 2 - 1, to 2^-58.
const ATAN: [f64; 12] = [
    0.01627552168389342,
    -0.03456132296826231,
    0.04551233844829568,
    -0.05230375457576669,
    0.058789182929757273,
    -0.06666423954373413,
    0.07692296323157785,
    -0.09090908751706075,
    0.11111111105119366,
    -0.14285714285659457,
    0.19999999999999804,
    -0.3333333333333333,
];

/// pi times a power of two, by its leading float.
fn turn<'p, L: Lanes64>(x: X<'p, L>, pi: f64) -> Pair<'p, L> {
    Pair::new(x.f(pi), x.f(FRAC_PI_2_LO * (pi / FRAC_PI_2)))
}

/// a + b for |a.h| >= |b.h|.
fn add<'p, L: Lanes64>(a: Pair<'p, L>, b: Pair<'p, L>) -> Pair<'p, L> {
    Pair::ordered_sum(a.h, b.h).plus(a.l + b.l)
}

/// Whether |x| is below 1/2, and arcsin of |x| there, of sqrt((1 - |x|) / 2) elsewhere.
fn half_angle<'p, L: Lanes64>(x: X<'p, L>) -> (X<'p, L>, Pair<'p, L>) {
    let a = x.abs();
    let small = a.lt(0.5);
    let far = (1.0 - a.at_most(1.0)) * 0.5;
    let z = small.select(a * a, far);
    let root = Pair::new(far, far.f(0.0)).sqrt();
    let (h, l) = (small.select(a, root.h), (!small & far.gt(0.0)).select(root.l, 0.0));
    (small, Pair::ordered_sum(h, (h * z).fma(z.poly(&ASIN), l)))
}

/// y, NaN where |x| > 1 or x is NaN.
fn in_unit<'p, L: Lanes64>(x: X<'p, L>, y: X<'p, L>) -> X<'p, L> {
    (x.abs().lt(1.0) | x.abs().eq(1.0)).select(y, f64::NAN)
}

pub(super) fn asin<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (small, s) = half_angle(x);
    let large = add(turn(x, FRAC_PI_2), s.scaled(x.f(-2.0)));
    let y = small.select(s.round(), large.round()) | x.sign();
    in_unit(x, x.abs().lt(2f64.powi(-28)).select(x, y))
}

pub(super) fn acos<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let (small, s) = half_angle(x);
    // pi/2 - arcsin x, 2 s, or pi - 2 s.
    let middle = add(turn(x, FRAC_PI_2), s.flip(x.sign() ^ x.i(i64::MIN)));
    let twice = s.scaled(x.f(2.0));
    let right = twice.round();
    let left = add(turn(x, PI), twice.flip(x.i(i64::MIN)));
    in_unit(x, small.select(middle.round(), x.lt(0.0).select(left.round(), right)))
}

/// arctan(low / high) for 0 <= low <= high, high normal.
fn first_octant<'p, L: Lanes64>(low: X<'p, L>, high: X<'p, L>) -> Pair<'p, L> {
    // Beyond pi / 8: pi / 4 + arctan((low - high) / (low + high)).
    let beyond = low.gt(high * (std::f64::consts::SQRT_2 - 1.0));
    let zero = low.f(0.0);
    let top = Pair::select(beyond, Pair::ordered_sum(-high, low), Pair::new(low, zero));
    let bottom = Pair::select(beyond, Pair::ordered_sum(high, low), Pair::new(high, zero));
    let u = top.over(bottom);
    let z = u.h * u.h;
    let y = Pair::ordered_sum(u.h, (u.h * z).fma(z.poly(&ATAN), u.l));
    let quarter = turn(low, FRAC_PI_4);
    add(Pair::new(beyond & quarter.h, beyond & quarter.l), y)
}

/// arctan(a / b) for positive a and b.
fn quadrant<'p, L: Lanes64>(a: X<'p, L>, b: X<'p, L>) -> Pair<'p, L> {
    let steep = a.gt(b);
    let y = first_octant(steep.select(b, a), steep.select(a, b));
    let right = turn(a, FRAC_PI_2);
    let minus = steep & a.i(i64::MIN);
    add(Pair::new(steep & right.h, steep & right.l), y.flip(minus))
}

pub(super) fn atan<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    // Beyond 2^60 the result is pi / 2.
    let y = quadrant(x.abs().at_most(2f64.powi(60)), x.f(1.0)).round() | x.sign();
    x.abs().lt(2f64.powi(-28)).select(x, y)
}

/// Angle of the point (x, y) as IEEE 754 defines it.
pub(super) fn atan2<'p, L: Lanes64>(y: X<'p, L>, x: X<'p, L>) -> X<'p, L> {
    let (a, b) = (y.abs(), x.abs());
    // Infinities stand for one another, zeros against anything.
    let large = a.gt(b).select(a, b);
    let endless = large.eq(f64::INFINITY);
    let one = a.f(1.0);
    let is_inf = |v: X<'p, L>| v.eq(f64::INFINITY) & one;
    let (a, b) = (endless.select(is_inf(a), a), endless.select(is_inf(b), b));
    let b = large.eq(0.0).select(one, b);
    // Away from both ends of the exponents.
    let scale = large.lt(2f64.powi(-900)).select(2f64.powi(200), large.gt(2f64.powi(1000)).select(2f64.powi(-100), 1.0));
    let scale = endless.select(1.0, scale);
    let angle = quadrant(a * scale, b * scale);
    // Also for -0.
    let left = x.shr(63).ieq(x.i(1));
    let half = turn(x, PI);
    let angle = add(Pair::new(left & half.h, left & half.l), angle.flip(left & x.i(i64::MIN)));
    let known = x.eq(x) & y.eq(y);
    known.select(angle.round() | y.sign(), f64::NAN)
}
