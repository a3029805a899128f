//! References with about 100 bits: sums of two floats and a power of two, by other formulas than the lanes use (series and Newton steps).

use std::f64::consts::{FRAC_PI_2, LN_2};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A number as a sum of two floats.
#[derive(Clone, Copy, Debug)]
pub struct Long(pub f64, pub f64);

/// A [`Long`] times a power of two: what a float can be, and beyond.
#[derive(Clone, Copy, Debug)]
pub struct Scaled(pub Long, pub i32);

fn sum(a: f64, b: f64) -> Long {
    let h = a + b;
    let t = h - a;
    Long(h, (a - (h - t)) + (b - t))
}
fn product(a: f64, b: f64) -> Long {
    let h = a * b;
    Long(h, a.mul_add(b, -h))
}

impl Add for Long {
    type Output = Long;
    fn add(self, o: Long) -> Long {
        let (s, t) = (sum(self.0, o.0), sum(self.1, o.1));
        let s = sum(s.0, s.1 + t.0);
        sum(s.0, s.1 + t.1)
    }
}
impl Neg for Long {
    type Output = Long;
    fn neg(self) -> Long {
        Long(-self.0, -self.1)
    }
}
impl Sub for Long {
    type Output = Long;
    fn sub(self, o: Long) -> Long {
        self + -o
    }
}
impl Mul for Long {
    type Output = Long;
    fn mul(self, o: Long) -> Long {
        let p = product(self.0, o.0);
        sum(p.0, p.1 + (self.0 * o.1 + self.1 * o.0))
    }
}
impl Div for Long {
    type Output = Long;
    fn div(self, o: Long) -> Long {
        let a = self.0 / o.0;
        let rest = self - o * long(a);
        let b = rest.0 / o.0;
        let rest = rest - o * long(b);
        sum(a, b) + long(rest.0 / o.0)
    }
}

/// A float.
pub fn long(x: f64) -> Long {
    Long(x, 0.0)
}
fn times(x: Long, power: f64) -> Long {
    Long(x.0 * power, x.1 * power)
}
fn two(k: i32) -> f64 {
    2f64.powi(k)
}
fn sqrt(x: Long) -> Long {
    if x.0 == 0.0 {
        return x;
    }
    let y = long(x.0.sqrt());
    y + times((x - y * y) / y, 0.5)
}

const LN2: Long = Long(LN_2, 2.319_046_813_846_299_6e-17);
const LN2_REST: f64 = 5.707_708_438_416_212e-34;
/// pi / 2 to 212 bits.
const HALF_PI: [f64; 4] = [FRAC_PI_2, 6.123_233_995_736_766e-17, -1.497_384_904_859_169_8e-33, 5.562_271_104_316_826e-50];

/// An exponent and em1 with e^x = 2^k (1 + em1).
fn expm1_parts(x: Long) -> (i32, Long) {
    let k = (x.0 / LN_2).round();
    let r = x - product(k, LN2.0) - product(k, LN2.1) - long(k * LN2_REST);
    let r = times(r, two(-8));
    let mut y = long(0.0);
    for n in (1..=12).rev() {
        y = r * (long(1.0) + y) / long(f64::from(n));
    }
    for _ in 0..8 {
        y = y * (y + long(2.0));
    }
    (k as i32, y)
}

/// e^x
pub fn exp(x: Long) -> Scaled {
    let (k, m) = expm1_parts(x);
    Scaled(m + long(1.0), k)
}
/// 2^x
pub fn exp2(x: f64) -> Scaled {
    let k = x.round();
    let Scaled(m, j) = exp(LN2 * long(x - k));
    Scaled(m, j + k as i32)
}
fn expm1_long(x: Long) -> Long {
    let (k, m) = expm1_parts(x);
    (long(two(k)) - long(1.0)) + times(m, two(k))
}
/// e^x - 1
pub fn expm1(x: f64) -> Scaled {
    if x > 100.0 { exp(long(x)) } else { Scaled(expm1_long(long(x)), 0) }
}

/// Logarithm of a number near one, given less one: a Newton step with e^y - 1.
fn log1p_near(x: Long) -> Long {
    let y = x.0.ln_1p();
    let m = expm1_long(long(-y));
    let e = x + m + x * m;
    long(y) + (e - times(e * e, 0.5) + e * e * e / long(3.0))
}
fn exponent(x: f64) -> i32 {
    if x < f64::MIN_POSITIVE { exponent(x * two(60)) - 60 } else { (x.to_bits() >> 52) as i32 - 1023 }
}
fn scale(x: f64, k: i32) -> f64 {
    let half = k / 2;
    x * two(half) * two(k - half)
}
/// Exponent and logarithm of the mantissa in sqrt(1/2)..sqrt(2).
fn log_parts(x: Scaled) -> (f64, Long) {
    let mut k = exponent(x.0.0);
    if scale(x.0.0, -k) > std::f64::consts::SQRT_2 {
        k += 1;
    }
    let m = Long(scale(x.0.0, -k), scale(x.0.1, -k));
    (f64::from(k + x.1), log1p_near(m - long(1.0)))
}
/// log x
pub fn log(x: Long) -> Long {
    let (k, m) = log_parts(Scaled(x, 0));
    product(k, LN2.0) + product(k, LN2.1) + m
}
/// log2 x
pub fn log2(x: f64) -> Long {
    let (k, m) = log_parts(Scaled(long(x), 0));
    long(k) + m / LN2
}
/// log(1 + x)
pub fn log1p(x: Long) -> Long {
    if x.0.abs() < 0.25 { log1p_near(x) } else { log(x + long(1.0)) }
}
/// x^y for positive x
pub fn pow(x: f64, y: f64) -> Scaled {
    let l = log(long(x));
    let size = l.0 * y;
    if size.abs() > 2000.0 { Scaled(long(1.0), if size > 0.0 { 3000 } else { -3000 }) } else { exp(l * long(y)) }
}

/// sinh of a positive x
pub fn sinh(x: f64) -> Scaled {
    if x > 50.0 {
        let Scaled(m, k) = exp(long(x));
        return Scaled(m, k - 1);
    }
    let e = expm1_long(long(x));
    Scaled(times(e + e / (e + long(1.0)), 0.5), 0)
}
/// cosh x
pub fn cosh(x: f64) -> Scaled {
    let x = x.abs();
    if x > 50.0 {
        return sinh(x);
    }
    let e = expm1_long(long(x)) + long(1.0);
    Scaled(times(e + long(1.0) / e, 0.5), 0)
}
/// tanh of a positive x
pub fn tanh(x: f64) -> Scaled {
    let e = expm1_long(long(2.0 * x.min(50.0)));
    Scaled(e / (e + long(2.0)), 0)
}
/// 1 / (1 + e^-x)
pub fn sigmoid(x: f64) -> Scaled {
    if x >= 0.0 {
        let e = exp(long(-x.min(100.0)));
        return Scaled(long(1.0) / (long(1.0) + times(e.0, two(e.1))), 0);
    }
    let e = exp(long(x));
    Scaled(e.0 / (long(1.0) + times(e.0, two(e.1.max(-200)))), e.1)
}
/// log(1 + e^x)
pub fn softplus(x: f64) -> Scaled {
    if x < -50.0 {
        let e = exp(long(x));
        return Scaled(e.0 * (long(1.0) - times(e.0, two(e.1.max(-200) - 1))), e.1);
    }
    let e = exp(long(-x.abs().min(300.0)));
    Scaled(long(x.max(0.0)) + log1p(times(e.0, two(e.1))), 0)
}
/// asinh of a positive x
pub fn asinh(x: f64) -> Long {
    if x > 1e100 {
        return log(long(x)) + LN2;
    }
    let s = product(x, x);
    log1p(long(x) + s / (long(1.0) + sqrt(s + long(1.0))))
}
/// acosh x
pub fn acosh(x: f64) -> Long {
    if x > 1e100 {
        return log(long(x)) + LN2;
    }
    let t = long(x) - long(1.0);
    log1p(t + sqrt(t * (t + long(2.0))))
}
/// atanh of a positive x
pub fn atanh(x: f64) -> Long {
    times(log1p(long(2.0 * x) / (long(1.0) - long(x))), 0.5)
}

/// Sine and cosine by their series, |r| up to 1.
fn series(r: Long) -> (Long, Long) {
    let z = -(r * r);
    let (mut s, mut c) = (long(0.0), long(0.0));
    for n in (1..=14).rev() {
        let n = f64::from(n);
        s = z / long(2.0 * n * (2.0 * n + 1.0)) * (long(1.0) + s);
        c = z / long(2.0 * n * (2.0 * n - 1.0)) * (long(1.0) + c);
    }
    (r + r * s, c + long(1.0))
}
/// Sine and cosine of an angle below 2^30.
pub fn sin_cos(x: Long) -> (Long, Long) {
    let k = (x.0 / FRAC_PI_2).round();
    let r = long((-k).mul_add(HALF_PI[0], x.0)) - product(k, HALF_PI[1]) - product(k, HALF_PI[2]) - long(k * HALF_PI[3]);
    let (s, c) = series(r + long(x.1));
    match k.rem_euclid(4.0) as i32 {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

/// Angle of (x, y), positive finite y, for coordinates whose exponents lie within 900 of one another or y / x with its exponent.
pub fn atan2(y: Long, x: Long) -> Scaled {
    if x.0 > 0.0 && y.0 > 0.0 && exponent(y.0) - exponent(x.0) < -60 {
        let (j, k) = (exponent(y.0), exponent(x.0));
        let down = |v: Long, k: i32| Long(scale(v.0, -k), scale(v.1, -k));
        return Scaled(down(y, j) / down(x, k), j - k);
    }
    let k = exponent(y.0.max(x.0.abs()));
    let down = |v: Long| Long(scale(v.0, -k), scale(v.1, -k));
    let (y, x) = (down(y), down(x));
    let start = y.0.atan2(x.0);
    let (s, c) = sin_cos(long(start));
    let t = (y * c - x * s) / (x * c + y * s);
    Scaled(long(start) + t - t * t * t / long(3.0), 0)
}
/// sqrt(1 - x^2)
fn other_leg(x: f64) -> Long {
    sqrt((long(1.0) - long(x)) * (long(1.0) + long(x)))
}
/// arcsin of a positive x
pub fn asin(x: f64) -> Scaled {
    if x == 1.0 { Scaled(Long(HALF_PI[0], HALF_PI[1]), 0) } else { atan2(long(x), other_leg(x)) }
}
/// arccos x
pub fn acos(x: f64) -> Scaled {
    match x {
        1.0 => Scaled(long(0.0), 0),
        -1.0 => Scaled(Long(2.0 * HALF_PI[0], 2.0 * HALF_PI[1]), 0),
        _ => atan2(other_leg(x), long(x)),
    }
}

/// erf of a positive x: 2 / sqrt(pi) e^(-x^2) times a series of positive terms.
pub fn erf(x: f64) -> Scaled {
    if x > 6.5 {
        return Scaled(long(1.0), 0);
    }
    let square = product(x, x);
    let Scaled(e, k) = exp(-square);
    let (mut term, mut total) = (long(1.0), long(1.0));
    let mut n = 1.0;
    while term.0 > total.0 * two(-110) {
        n += 2.0;
        term = term * times(square, 2.0) / long(n);
        total = total + term;
    }
    // sqrt(pi) / 2 from pi.
    let factor = sqrt(Long(2.0 * HALF_PI[0], 2.0 * HALF_PI[1]));
    let j = exponent(x);
    Scaled(times(total * long(scale(x, -j)), 2.0) * times(e, two(k)) / factor, j)
}
/// Cube root of a positive x
pub fn cbrt(x: f64) -> Scaled {
    let k = exponent(x).div_euclid(3);
    let x = scale(x, -3 * k);
    let y = long(x.cbrt());
    Scaled(y - (y * y * y - long(x)) / (y * y * long(3.0)), k)
}

/// The distance of a float from a number, in units of the last place of the float nearest to it.
pub fn ulps(got: f64, exact: Scaled) -> f64 {
    let Scaled(Long(h, l), k) = exact;
    let rounded = scale(h.clamp(-two(100), two(100)), k.clamp(-1200, 1100));
    if got == rounded && (rounded.is_infinite() || rounded == 0.0) {
        return 0.0;
    }
    let size = if h == 0.0 { -1022 } else { exponent(h.abs()) + k };
    if got.is_nan() || size > 1024 || got.is_infinite() {
        return f64::INFINITY;
    }
    // In units of 2^unit: the difference of what both are there.
    let unit = size.max(-1022) - 52;
    let place = |x: f64, k: i32| {
        let k = (k - unit).clamp(-1900, 1900);
        scale(x, k)
    };
    (place(got, 0) - place(h, k) - place(l, k)).abs()
}
