//! Sine, cosine and tangent of every angle.

use super::exp::keep_tiny;
use super::pen::{Pair, X};
use crate::lanes64::Lanes64;
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// pi / 2 beyond [`FRAC_PI_2`].
pub(super) const FRAC_PI_2_LO: f64 = 6.123_233_995_736_766e-17;
const FRAC_PI_2_REST: f64 = -1.497_384_904_859_169_8e-33;

/// (sin r / r - 1) / r^2 in r^2 for r up to pi / 4, to 2^-57.
const SIN: [f64; 7] = [
    -7.586691094197958e-13,
    1.6058531516797758e-10,
    -2.5052106231802837e-08,
    2.7557319219337312e-06,
    -0.00019841269841265063,
    0.008333333333333331,
    -0.16666666666666666,
];
/// (cos r - 1 + r^2 / 2) / r^4 in r^2, to 2^-59.
const COS: [f64; 6] = [
    -1.1382623647474604e-11,
    2.087614614655861e-09,
    -2.7557317271145144e-07,
    2.480158729876456e-05,
    -0.0013888888888887398,
    0.041666666666666664,
];

/// 2 / pi in groups of 48 bits.
const TWO_OVER_PI: [u64; 25] = [
    0xA2F9_836E_4E44,
    0x1529_FC27_57D1,
    0xF534_DDC0_DB62,
    0x9599_3C43_9041,
    0xFE51_63AB_DEBB,
    0xC561_B724_6E3A,
    0x424D_D2E0_0649,
    0x2EEA_09D1_921C,
    0xFE1D_EB1C_B129,
    0xA73E_E882_35F5,
    0x2EBB_4484_E99C,
    0x7026_B45F_7E41,
    0x3991_D639_8353,
    0x39F4_9C84_5F8B,
    0xBDF9_283B_1FF8,
    0x97FF_DE05_980F,
    0xEF2F_118B_5A0A,
    0x6D1F_6D36_7ECF,
    0x27CB_09B7_4F46,
    0x3F66_9E5F_EA2D,
    0x7527_BAC7_EBE5,
    0xF17B_3D07_39F7,
    0x8A52_92EA_6BFB,
    0x5FB1_1F8D_5D08,
    0x5603_3046_FC7B,
];

/// Angles from here on are reduced with as many digits of pi as they have themselves.
const FAR: f64 = 1_073_741_824.0;

/// Quarter turns (an integer) of an angle below [`FAR`], and the rest, up to pi / 4 and a bit.
fn reduce_near<'p, L: Lanes64>([x]: [X<'p, L>; 1]) -> [X<'p, L>; 3] {
    let k = (x * FRAC_2_PI).nearest();
    // Exact: a multiple of the last digit of x or of pi / 2, and below one.
    let r = k.fma(-FRAC_PI_2, x);
    let p = Pair::product(k, k.f(-FRAC_PI_2_LO));
    let r = Pair::sum(r, p.h);
    let r = r.plus(k.fma(-FRAC_PI_2_REST, p.l)).settled();
    [k.int_of_float(), r.h, r.l]
}

/// p - 4 n for the integer n that makes it smallest.
fn modulo4<'p, L: Lanes64>(p: X<'p, L>) -> X<'p, L> {
    (p * 0.25).nearest().fma(-4.0, p)
}

/// [`reduce_near`] of angles of 2^30 and more (Payne and Hanek): x times those 240 bits of 2 / pi that make the fraction.
fn reduce_far<'p, L: Lanes64>([x]: [X<'p, L>; 1]) -> [X<'p, L>; 3] {
    // Groups in front, whose product with x is a multiple of four: they are left out, and x is made smaller for that.
    let exponent = (x.shr(52) & x.i(0x7FF)).float_of_int() - 1023.0;
    let skip = ((exponent - 53.5) * (1.0 / 48.0)).floor().at_least(0.0);
    let down = (skip * 48.0).int_of_float().shl(52);
    let mut digits = x.isub(down);
    let skip = skip.int_of_float();
    let mut words: Vec<X<'p, L>> = TWO_OVER_PI.iter().map(|&w| x.f(w as f64)).collect();
    for step in [16, 8, 4, 2, 1] {
        let is_set = skip.has_bit(step as i64);
        // Five words are needed after the last step, and as many more as later steps may skip.
        let needed = (step + 4).min(words.len());
        words = (0..needed).map(|i| words.get(i + step).map_or(words[i], |&later| is_set.select(later, words[i]))).collect();
    }
    // The products exactly, largest first, less the multiples of four that the first four contain.
    let mut terms = Vec::with_capacity(10);
    for word in words {
        digits = digits * 2f64.powi(-48);
        let p = Pair::product(digits, word);
        terms.extend([p.h, p.l]);
    }
    for i in [0, 1, 2, 4] {
        terms[i] = modulo4(terms[i]);
    }
    let mut sum = terms[0];
    let (mut low, mut rest): (Option<X<'p, L>>, X<'p, L>) = (None, terms[9]);
    for &term in &terms[1..9] {
        let s = Pair::sum(sum, term);
        sum = s.h;
        low = Some(low.map_or(s.l, |l| {
            let t = Pair::sum(l, s.l);
            rest = rest + t.l;
            t.h
        }));
    }
    let k = sum.nearest();
    let turns = Pair::sum(sum - k, low.unwrap_or(rest)).plus(rest).settled();
    let r = Pair::product(turns.h, x.f(FRAC_PI_2));
    let r = r.plus(turns.h.fma(FRAC_PI_2_LO, turns.l * FRAC_PI_2)).settled();
    [k.int_of_float(), r.h, r.l]
}

/// Quarter turns, and sine and cosine of the rest.
struct Turned<'p, L: Lanes64> {
    quarters: X<'p, L>,
    sin: Pair<'p, L>,
    cos: Pair<'p, L>,
}

fn turned<'p, L: Lanes64>(x: X<'p, L>) -> Turned<'p, L> {
    let near = reduce_near([x]);
    let [quarters, r, tail] = if x.is_below(FAR) { near } else { (!x.abs().lt(FAR)).seldom(near, [x], reduce_far) };
    let z = r * r;
    let half = Pair::product(r * 0.5, r);
    // sin (r + t) = r + (r^3 S + t (1 - r^2 / 2)), cos (r + t) = 1 - r^2 / 2 + (r^4 C - r t).
    let sin = Pair::ordered_sum(r, (r * z).fma(z.poly(&SIN), (-half.h).fma(tail, tail)));
    let cos = Pair::ordered_sum(r.f(1.0), -half.h);
    let cos = cos.plus((z * z).fma(z.poly(&COS), (-r).fma(tail, -half.l)));
    Turned { quarters, sin, cos }
}

/// Sine of an angle `ahead` quarter turns further.
fn sine<'p, L: Lanes64>(x: X<'p, L>, ahead: i64) -> X<'p, L> {
    let t = turned(x);
    let quarters = if ahead == 0 { t.quarters } else { t.quarters.iadd(x.i(ahead)) };
    let y = quarters.has_bit(1).select(t.cos.round(), t.sin.round());
    let flip = (quarters & x.i(2)).shl(62);
    finite_or_nan(x, y ^ flip)
}

/// y, NaN where x is infinite.
fn finite_or_nan<'p, L: Lanes64>(x: X<'p, L>, y: X<'p, L>) -> X<'p, L> {
    x.abs().lt(f64::INFINITY).select(y, f64::NAN)
}

pub(super) fn sin<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    keep_tiny(x, sine(x, 0))
}

pub(super) fn cos<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    sine(x, 1)
}

pub(super) fn tan<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let t = turned(x);
    let odd = t.quarters.has_bit(1);
    let (sin, cos) = (t.sin.settled(), t.cos.settled());
    let y = Pair::select(odd, cos.flip(x.i(i64::MIN)), sin).over(Pair::select(odd, sin, cos));
    keep_tiny(x, finite_or_nan(x, y.round()))
}
