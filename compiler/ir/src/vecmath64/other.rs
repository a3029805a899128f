//! Error function, roots and the remainder.

use super::exp::exp_pair;
use super::pen::{Pair, X};
use crate::lanes64::Lanes64;

/// erf x / x - 1 in x^2 for x up to 1, to 2^-56.
const ERF: [f64; 14] = [
    -4.230945824295338e-12,
    8.709045129053106e-11,
    -1.216456005728345e-09,
    1.4792401209404813e-08,
    -1.6364642158167616e-07,
    1.6462045441468418e-06,
    -1.4925647567519332e-05,
    0.00012055332902888736,
    -0.000854832702193483,
    0.0052239776254232985,
    -0.02686617064512984,
    0.1128379167095512,
    -0.37612638903183754,
    0.1283791670955126,
];
/// (1 - erf x) e^(x^2) in (x - 2) / (x + 2) for x in 1..6, to 2^-58 of erf x.
const ERFC: [f64; 17] = [
    -1.1352571477273627e-06,
    1.272567661840228e-06,
    4.011749647325067e-06,
    1.3058577122278017e-06,
    -1.3998283772784976e-05,
    -2.7562209161129353e-05,
    2.7527175557227246e-05,
    0.00017435947400205157,
    4.355558686575482e-05,
    -0.0009819769411038642,
    -0.00084714325299195,
    0.006997461736971578,
    0.0037328924043978336,
    -0.07897858101570611,
    0.24165819424246585,
    -0.4271858474139585,
    0.25539567631050575,
];

pub(super) fn erf<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let small = x.fma((x * x).poly(&ERF), x);
    let a = x.abs().at_most(6.0);
    let t = (a - 2.0) / (a + 2.0);
    let large = 1.0 - t.poly(&ERFC) * exp_pair(Pair::product(-a, a));
    x.abs().lt(1.0).select(small, large | x.sign())
}

/// 1 / sqrt(x), each rounded: the same bits everywhere.
pub(super) fn rsqrt<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    1.0 / x.sqrt()
}

/// m^(-1/3) for m in 1..2, to 2^-19.
const CBRT: [f64; 7] = [
    0.010066718649569128,
    -0.10750263607045218,
    0.49117031566066666,
    -1.2521242275997846,
    1.9538182209261572,
    -1.9720591905396232,
    1.8766297241212762,
];

pub(super) fn cbrt<'p, L: Lanes64>(x: X<'p, L>) -> X<'p, L> {
    let a = x.abs();
    let denormal = a.lt(f64::MIN_POSITIVE);
    let a = denormal.select(a * 2f64.powi(54), a);
    // a = 8^third 2^(0, 1 or 2) m.
    let exponent = a.shr(52).float_of_int() - denormal.select(1077.0, 1023.0);
    let third = (exponent * (1.0 / 3.0) + 0.125).floor();
    let left = third.fma(-3.0, exponent);
    let m = (a & a.i((1 << 52) - 1)) | a.f(1.0);
    // r = m^(-1/3) by a step of third order.
    let r = m.poly(&CBRT);
    let e = (r * r).fma(-(r * m), 1.0);
    let r = (e * r).fma(e.fma(2.0 / 9.0, 1.0 / 3.0), r);
    let (one, two) = (left.eq(1.0), left.eq(2.0));
    let factor = two.select(1.587_401_051_968_199_6, one.select(1.259_921_049_894_873_2, 1.0));
    let size = two.select(4.0, one.select(2.0, 1.0));
    // y = m^(1/3) times the root of 2 or 4, then one Newton step with the cube in two floats.
    let y = m * r * r * factor;
    let square = Pair::product(y, y);
    let cube = Pair::product(square.h, y).plus(square.l * y);
    let rest = (m * size - cube.h) - cube.l;
    let inverse = two.select(0.396_850_262_992_049_9, one.select(0.629_960_524_947_436_6, 1.0));
    let y = (rest * (1.0 / 3.0)).fma(r * r * inverse, y);
    let y = (y * third.int_of_float().exp2i()) | x.sign();
    (x.abs().lt(f64::INFINITY) & !x.eq(0.0)).select(y, x + x)
}

/// a b modulo m, in -m/2..=m/2, for integers a and b in that range and m in 2^52..2^53.
///
/// The quotient's rounding error is below 3/4, so that the product's leading float less the multiple, and then its error added, are integers up to
/// 2^53: every step is exact.
fn product_modulo<'p, L: Lanes64>(a: X<'p, L>, b: X<'p, L>, m: X<'p, L>) -> X<'p, L> {
    let p = Pair::product(a, b);
    let q = (p.h / m).nearest();
    near_zero((-q).fma(m, p.h) + p.l, m)
}

/// r in -m..=m brought into -m/2..=m/2.
fn near_zero<'p, L: Lanes64>(r: X<'p, L>, m: X<'p, L>) -> X<'p, L> {
    r - ((r.abs() * 2.0).gt(m) & (m | r.sign()))
}

/// Integer digits in 2^52..2^53 and exponent (a float) of a positive finite a.
fn integral<'p, L: Lanes64>(a: X<'p, L>) -> (X<'p, L>, X<'p, L>) {
    let denormal = a.lt(f64::MIN_POSITIVE);
    let a = denormal.select(a * 2f64.powi(54), a);
    let exponent = a.shr(52).float_of_int() - denormal.select(1075.0 + 54.0, 1075.0);
    ((a & a.i((1 << 52) - 1)) | a.f(2f64.powi(52)), exponent)
}

/// a modulo b for |a| >= 2^52 |b|: the power of two between them by repeated squaring, modulo the digits of b.
fn far_remainder<'p, L: Lanes64>([a, b]: [X<'p, L>; 2]) -> [X<'p, L>; 1] {
    let ((m, e), (n, f)) = (integral(a), integral(b));
    let distance = (e - f).int_of_float();
    // 2^(distance / 64), at most 2^33, and six squarings.
    let mut power = near_zero(distance.sar(6).exp2i(), n);
    for bit in [32, 16, 8, 4, 2, 1] {
        power = product_modulo(power, power, n);
        let twice = near_zero(power + power, n);
        power = distance.has_bit(bit).select(twice, power);
    }
    let r = product_modulo(near_zero(m - ((m.gt(n) | m.eq(n)) & n), n), power, n);
    let r = r + (r.lt(0.0) & n);
    [r.scale(f.int_of_float())]
}

/// Remainder with the sign of the divisor: the exact remainder of the division toward zero, plus the divisor if the signs differ.
pub(super) fn rem<'p, L: Lanes64>(x: X<'p, L>, y: X<'p, L>) -> X<'p, L> {
    let (a, b) = (x.abs(), y.abs());
    let ratio = a / b;
    // The quotient may be one too large: the remainder is negative then, and exact nevertheless.
    let near = (-ratio.trunc()).fma(b, a);
    let near = near + (near.lt(0.0) & b);
    let far = !ratio.lt(2f64.powi(52)) & a.lt(f64::INFINITY) & b.gt(0.0);
    let [r] = far.seldom([near], [a, b], far_remainder);
    let r = b.eq(f64::INFINITY).select(a, r) | x.sign();
    let differ = (x ^ y).shr(63).ieq(x.i(1));
    let r = (differ & !r.eq(0.0)).select(r + y, r);
    (a.lt(f64::INFINITY) & b.gt(0.0)).select(r, f64::NAN)
}
