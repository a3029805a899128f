//! Accuracy of the f64 functions, measured in plain numbers against references of twice the digits; special values against the interpreter.

use super::exact::{self as e, Long, Scaled, long, ulps};
use super::far_angles::FAR_ANGLES;
use super::{function, function_f32};
use crate::eval::eval_float;
use crate::lanes64::{Lanes64, Widen};
use crate::scalar::{Class, ScalarOp, TABLE};

/// One lane, computed by the processor in Rust: what emitted code must do too.
struct Plain64;

fn f(x: u64) -> f64 {
    f64::from_bits(x)
}
fn mask(b: bool) -> u64 {
    if b { u64::MAX } else { 0 }
}

impl Lanes64 for Plain64 {
    type V = u64;
    fn f(&mut self, x: f64) -> u64 {
        x.to_bits()
    }
    fn i(&mut self, x: i64) -> u64 {
        x as u64
    }
    fn add(&mut self, a: u64, b: u64) -> u64 {
        (f(a) + f(b)).to_bits()
    }
    fn sub(&mut self, a: u64, b: u64) -> u64 {
        (f(a) - f(b)).to_bits()
    }
    fn mul(&mut self, a: u64, b: u64) -> u64 {
        (f(a) * f(b)).to_bits()
    }
    fn div(&mut self, a: u64, b: u64) -> u64 {
        (f(a) / f(b)).to_bits()
    }
    fn sqrt(&mut self, a: u64) -> u64 {
        f(a).sqrt().to_bits()
    }
    fn fma(&mut self, a: u64, b: u64, c: u64) -> u64 {
        f(a).mul_add(f(b), f(c)).to_bits()
    }
    fn trunc(&mut self, a: u64) -> u64 {
        f(a).trunc().to_bits()
    }
    fn nearest(&mut self, a: u64) -> u64 {
        f(a).round_ties_even().to_bits()
    }
    fn floor(&mut self, a: u64) -> u64 {
        f(a).floor().to_bits()
    }
    fn iadd(&mut self, a: u64, b: u64) -> u64 {
        a.wrapping_add(b)
    }
    fn isub(&mut self, a: u64, b: u64) -> u64 {
        a.wrapping_sub(b)
    }
    fn and(&mut self, a: u64, b: u64) -> u64 {
        a & b
    }
    fn or(&mut self, a: u64, b: u64) -> u64 {
        a | b
    }
    fn xor(&mut self, a: u64, b: u64) -> u64 {
        a ^ b
    }
    fn shl(&mut self, a: u64, bits: u8) -> u64 {
        a << bits
    }
    fn shr(&mut self, a: u64, bits: u8) -> u64 {
        a >> bits
    }
    fn sar(&mut self, a: u64, bits: u8) -> u64 {
        ((a as i64) >> bits) as u64
    }
    fn lt(&mut self, a: u64, b: u64) -> u64 {
        mask(f(a) < f(b))
    }
    fn eq(&mut self, a: u64, b: u64) -> u64 {
        mask(f(a) == f(b))
    }
    fn ieq(&mut self, a: u64, b: u64) -> u64 {
        mask(a == b)
    }
    fn select(&mut self, m: u64, a: u64, b: u64) -> u64 {
        assert!(m == 0 || m == u64::MAX, "a mask is whole");
        (a & m) | (b & !m)
    }
}

impl Widen for Plain64 {
    type Narrow = f32;
    fn widen(&mut self, x: f32) -> u64 {
        f64::from(x).to_bits()
    }
    fn narrow(&mut self, x: u64) -> f32 {
        f(x) as f32
    }
}

fn call(op: ScalarOp, x: &[f64]) -> f64 {
    let bits: Vec<u64> = x.iter().map(|x| x.to_bits()).collect();
    f(function(&mut Plain64, op, &bits).expect("a function"))
}

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * 2f64.powi(-53)
    }
    fn between(&mut self, (lo, hi): (f64, f64)) -> f64 {
        lo + (hi - lo) * self.unit()
    }
    /// Any float, NaN and infinities among them.
    fn any(&mut self) -> f64 {
        f(self.bits())
    }
    /// Of either sign and a magnitude of 2^lo..2^hi.
    fn magnitude(&mut self, lo: f64, hi: f64) -> f64 {
        let m = self.between((lo, hi)).exp2() * self.between((1.0, 1.25));
        if self.bits() & 1 == 0 { m } else { -m }
    }
}

/// Samples of each kind; a longer run is asked for with `MATH64_SAMPLES`.
fn samples() -> usize {
    std::env::var("MATH64_SAMPLES").ok().and_then(|n| n.parse().ok()).unwrap_or(4000)
}

const SPECIAL: [f64; 38] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.0,
    3.0,
    -3.0,
    4.0,
    27.0,
    5e-324,
    -5e-324,
    1e-310,
    -1e-310,
    f64::MIN_POSITIVE,
    -f64::MIN_POSITIVE,
    f64::MAX,
    f64::MIN,
    1e10,
    1e22,
    -1e22,
    709.782712893384,
    709.7827128933841,
    710.4758600739439,
    710.475860073944,
    -745.1332191019411,
    -745.1332191019412,
    -708.3964185322641,
    1024.0,
    -1074.0,
    -1075.0,
    9_007_199_254_740_993.0,
    9_007_199_254_740_991.0,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
];

/// What the interpreter gives where that is no question of rounding: NaN, infinities and the signs of zeros.
fn same_kind(op: ScalarOp, x: &[f64], got: f64) {
    let want = eval_float(op, x);
    let same = got.is_nan() == want.is_nan() && got.is_infinite() == want.is_infinite();
    let signs = want.is_nan() || got.is_sign_negative() == want.is_sign_negative();
    // Results at the very ends may round to either side.
    let edge = |v: f64| v.abs() == f64::MAX || v.abs() <= 5e-324;
    let zeros = (got == 0.0) == (want == 0.0) || (edge(got) && edge(want));
    assert!((same || (edge(got) || edge(want))) && signs && zeros, "{}{x:?}: {got:e} where the interpreter gives {want:e}", op.name());
}

/// The largest error over the finite results of these arguments; special ones are compared with the interpreter.
fn worst(op: ScalarOp, arguments: impl Iterator<Item = f64>, reference: impl Fn(f64) -> Scaled) -> (f64, f64) {
    let (mut worst, mut at, mut denormal) = (0.0, 0.0, 0.0f64);
    for x in arguments {
        let got = call(op, &[x]);
        same_kind(op, &[x], got);
        let want = eval_float(op, &[x]);
        if x == 0.0 || !x.is_finite() || want.is_nan() || (want.is_infinite() && got == want) {
            let same = got == want || (got.is_nan() && want.is_nan()) || ulps(got, Scaled(long(want), 0)) <= 1.0;
            assert!(same, "{}({x}): {got} where the interpreter gives {want}", op.name());
            continue;
        }
        let error = ulps(got, reference(x));
        if got.is_subnormal() || got == 0.0 {
            denormal = denormal.max(error);
        } else if error > worst {
            (worst, at) = (error, x);
        }
    }
    assert!(denormal <= 0.85, "{}: {denormal} ulp of denormal results", op.name());
    println!("{:9} denormal {denormal:.3}", op.name());
    (worst, at)
}

/// Fails if a function errs by more than the budget on special values, any floats, each of these ranges, and the neighborhoods of integers and
/// powers of two.
fn check(op: ScalarOp, budget: f64, ranges: &[(f64, f64)], reference: impl Fn(f64) -> Scaled) {
    check_where(|_| true, op, budget, ranges, reference);
}

/// [`check`] for the numbers of some domain, and what is no number.
fn check_where(domain: fn(f64) -> bool, op: ScalarOp, budget: f64, ranges: &[(f64, f64)], reference: impl Fn(f64) -> Scaled) {
    let mut random = Random(op as u64);
    let mut x: Vec<f64> = SPECIAL.to_vec();
    for _ in 0..samples() {
        x.push(random.any());
        x.push(random.magnitude(-60.0, 12.0));
        x.extend(ranges.iter().map(|&r| random.between(r)));
        let near = (random.magnitude(-3.0, 5.0) * 4.0).round() / 4.0;
        x.push(near + random.magnitude(-54.0, -2.0));
    }
    for power in -1074..1024 {
        let p = (2f64.powi(power / 2)) * 2f64.powi(power - power / 2);
        x.extend([p, -p, f(p.to_bits() - 1), f(p.to_bits() + 1)]);
    }
    let (worst, at) = worst(op, x.into_iter().filter(|&x| domain(x) || !x.is_finite()), reference);
    println!("{:9} {worst:.3} at {at:e}", op.name());
    assert!(worst <= budget, "{}: {worst} ulp at {at:e}: {:e}", op.name(), call(op, &[at]));
}

/// x where it is so small that the function is x to more digits than the reference has, else that.
fn from_zero(x: f64, of: impl Fn(f64) -> Scaled) -> Scaled {
    if x.abs() < 2f64.powi(-120) { plain(long(x)) } else { of(x) }
}

/// An odd function by its values at positive numbers.
fn odd(x: f64, of: impl Fn(f64) -> Scaled) -> Scaled {
    let Scaled(y, k) = of(x.abs());
    Scaled(if x < 0.0 { -y } else { y }, k)
}
fn plain(x: Long) -> Scaled {
    Scaled(x, 0)
}

#[test]
fn exponentials() {
    check(ScalarOp::Exp, 0.55, &[(-1.0, 1.0), (-745.2, -700.0), (-700.0, 709.8)], |x| e::exp(long(x.clamp(-1000.0, 1000.0))));
    check(ScalarOp::Exp2, 0.55, &[(-1.0, 1.0), (-1076.0, -1020.0), (-1020.0, 1024.0)], |x| e::exp2(x.clamp(-1200.0, 1200.0)));
    check(ScalarOp::Expm1, 1.3, &[(-1.0, 1.0), (-40.0, 5.0), (5.0, 709.8)], |x| from_zero(x, |x| e::expm1(x.clamp(-100.0, 1000.0))));
}

#[test]
fn hyperbolic_functions() {
    check(ScalarOp::Sinh, 0.95, &[(-1.5, 1.5), (-40.0, 40.0), (-710.5, 710.5)], |x| from_zero(x, |x| odd(x, |a| e::sinh(a.min(1000.0)))));
    check(ScalarOp::Cosh, 0.8, &[(-1.5, 1.5), (-40.0, 40.0), (-710.5, 710.5)], |x| e::cosh(x.clamp(-1000.0, 1000.0)));
    check(ScalarOp::Tanh, 0.9, &[(-1.5, 1.5), (-22.0, 22.0)], |x| from_zero(x, |x| odd(x, e::tanh)));
}

#[test]
fn logistic_functions() {
    check(ScalarOp::Sigmoid, 0.8, &[(-2.0, 2.0), (-40.0, 40.0), (-745.0, -700.0)], |x| e::sigmoid(x.max(-1000.0)));
    check(ScalarOp::Softplus, 1.0, &[(-2.0, 2.0), (-70.0, 40.0), (-745.0, -700.0)], |x| e::softplus(x.max(-1000.0)));
}

#[test]
fn logarithms() {
    check(ScalarOp::Log, 0.7, &[(0.5, 1.5), (0.0, 20.0), (0.999, 1.001)], |x| plain(e::log(long(x))));
    check(ScalarOp::Log2, 0.7, &[(0.5, 1.5), (0.0, 20.0), (0.999, 1.001)], |x| plain(e::log2(x)));
    check(ScalarOp::Log1p, 0.8, &[(-0.5, 0.5), (-1.0, 20.0), (-0.001, 0.001)], |x| from_zero(x, |x| plain(e::log1p(long(x)))));
}

#[test]
fn inverse_hyperbolic_functions() {
    check(ScalarOp::Asinh, 0.8, &[(-1.0, 1.0), (-20.0, 20.0)], |x| from_zero(x, |x| odd(x, |a| plain(e::asinh(a)))));
    check(ScalarOp::Acosh, 0.8, &[(1.0, 1.1), (1.0, 20.0)], |x| plain(e::acosh(x)));
    check(ScalarOp::Atanh, 0.8, &[(-1.0, 1.0), (0.9, 1.0)], |x| from_zero(x, |x| odd(x, |a| plain(e::atanh(a)))));
}

/// Angles the reference reaches.
fn is_near(x: f64) -> bool {
    x.abs() < 2f64.powi(30)
}

#[test]
fn angles() {
    let near = [(-0.8, 0.8), (-10.0, 10.0), (-1e5, 1e5), (-1.07e9, 1.07e9)];
    check_where(is_near, ScalarOp::Sin, 0.9, &near, |x| from_zero(x, |x| plain(e::sin_cos(long(x)).0)));
    check_where(is_near, ScalarOp::Cos, 0.9, &near, |x| plain(e::sin_cos(long(x)).1));
    check_where(is_near, ScalarOp::Tan, 0.9, &near, |x| from_zero(x, |x| plain(e::sin_cos(long(x)).0 / e::sin_cos(long(x)).1)));
}

/// Digits of known ones, and for any others the standard library's value, which errs by itself.
#[test]
fn far_angles() {
    use ScalarOp::*;
    for &(bits, [s, sl, c, cl]) in FAR_ANGLES {
        let (sin, cos) = (Long(s, sl), Long(c, cl));
        for (x, sign) in [(f(bits), 1.0), (-f(bits), -1.0)] {
            let sin = Long(sign * sin.0, sign * sin.1);
            for (op, exact) in [(Sin, sin), (Cos, cos), (Tan, sin / cos)] {
                let error = ulps(call(op, &[x]), plain(exact));
                assert!(error <= 0.9, "{}({x:e}): {error} ulp", op.name());
            }
        }
    }
    for (op, of) in [(Sin, f64::sin as fn(f64) -> f64), (Cos, f64::cos), (Tan, f64::tan)] {
        check_where(|x| !is_near(x), op, 1.1, &[(1e9, 1e12), (1e15, 1e18)], |x| plain(long(of(x))));
    }
}

#[test]
fn inverse_trigonometric_functions() {
    check(ScalarOp::Asin, 0.8, &[(-1.0, 1.0), (0.45, 0.55), (0.99, 1.0)], |x| odd(x, e::asin));
    check(ScalarOp::Acos, 0.75, &[(-1.0, 1.0), (0.45, 0.55), (0.99, 1.0)], e::acos);
    check(ScalarOp::Atan, 0.9, &[(-1.0, 1.0), (0.3, 0.5), (-5.0, 5.0)], |x| odd(x, |a| e::atan2(long(a), long(1.0))));
}

#[test]
fn error_function_and_roots() {
    check(ScalarOp::Erf, 1.2, &[(-1.0, 1.0), (0.9, 1.2), (-6.0, 6.0)], |x| odd(x, e::erf));
    check(ScalarOp::Cbrt, 0.55, &[(-1.0, 1.0), (1.0, 8.0)], |x| odd(x, e::cbrt));
    for x in SPECIAL {
        let (got, want) = (call(ScalarOp::Rsqrt, &[x]), eval_float(ScalarOp::Rsqrt, &[x]));
        assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "rsqrt({x})");
    }
}

/// What the table of scalar operations computes by functions, and nothing else.
#[test]
fn every_function_of_the_table_is_here() {
    use ScalarOp::*;
    let instructions = [Div, Floor, Ceil, Round, Trunc, Sqrt, Fma];
    for row in TABLE {
        let is_function = (row.class == Class::Float && !instructions.contains(&row.op)) || row.op == Rem;
        let x = vec![1.0f64.to_bits(); row.arity.into()];
        assert_eq!(function(&mut Plain64, row.op, &x).is_some(), is_function, "{}", row.name);
    }
}

/// Pairs for functions of two arguments: special values in both places, any floats, close ones.
fn pairs(seed: u64) -> Vec<(f64, f64)> {
    let mut random = Random(seed);
    let mut all: Vec<(f64, f64)> = SPECIAL.iter().flat_map(|&x| SPECIAL.iter().map(move |&y| (x, y))).collect();
    for _ in 0..samples() {
        all.push((random.any(), random.any()));
        all.push((random.magnitude(-60.0, 60.0), random.magnitude(-60.0, 60.0)));
        let x = random.magnitude(-1000.0, 1000.0);
        all.push((x, x * random.magnitude(-2.0, 2.0)));
        all.push((random.between((0.0, 1.0)), random.between((-1.0, 1.0))));
        all.push(((random.magnitude(0.0, 20.0)).round(), (random.magnitude(0.0, 8.0)).round()));
        // Both ends of the exponents.
        all.push((random.magnitude(-1074.0, -1000.0), random.magnitude(-1074.0, -960.0)));
        all.push((random.magnitude(1000.0, 1023.0), random.magnitude(960.0, 1023.0)));
        all.push((random.magnitude(-1074.0, -900.0), random.magnitude(-10.0, 130.0)));
    }
    all
}

#[test]
fn angle_of_a_point() {
    let (mut worst, mut at) = (0.0, (0.0, 0.0));
    for (y, x) in pairs(1) {
        let got = call(ScalarOp::Atan2, &[y, x]);
        same_kind(ScalarOp::Atan2, &[y, x], got);
        let want = eval_float(ScalarOp::Atan2, &[y, x]);
        if want.is_nan() {
            continue;
        }
        if x == 0.0 || y == 0.0 || !x.is_finite() || !y.is_finite() {
            assert_eq!(got, want, "atan2({y}, {x})");
            continue;
        }
        let error = ulps(got, odd(y, |y| e::atan2(long(y), long(x))));
        if error > worst {
            (worst, at) = (error, (y, x));
        }
    }
    println!("atan2 {worst:.3} at {at:?}");
    assert!(worst <= 1.0, "atan2: {worst} ulp at {at:?}");
}

#[test]
fn powers() {
    let mut random = Random(3);
    let mut all = pairs(2);
    for _ in 0..samples() {
        let x = random.magnitude(-20.0, 20.0);
        all.push((x.abs(), random.between((-30.0, 30.0))));
        // Results near both ends, and bases near one.
        let y = random.between((-1080.0, 1025.0)) / x.abs().log2();
        all.push((x.abs(), y));
        all.push((x, y.round()));
        let base = 1.0 + random.magnitude(-40.0, -3.0);
        all.push((base, random.between((-700.0, 700.0)) / base.ln()));
    }
    let (mut worst, mut at) = (0.0, (0.0, 0.0));
    for (x, y) in all {
        let got = call(ScalarOp::Pow, &[x, y]);
        same_kind(ScalarOp::Pow, &[x, y], got);
        let want = eval_float(ScalarOp::Pow, &[x, y]);
        if want.is_nan() {
            continue;
        }
        if x == 0.0 || y == 0.0 || !x.is_finite() || !y.is_finite() {
            assert_eq!(got, want, "pow({x}, {y})");
            continue;
        }
        let Scaled(m, k) = e::pow(x.abs(), y);
        let error = ulps(got, Scaled(if want.is_sign_negative() { -m } else { m }, k));
        if error > worst {
            (worst, at) = (error, (x, y));
        }
    }
    println!("pow {worst:.3} at {at:?}");
    assert!(worst <= 0.9, "pow: {worst} ulp at {at:?}");
}

#[test]
fn remainders_are_exact() {
    let mut random = Random(5);
    let mut all = pairs(4);
    for _ in 0..samples() {
        let y = random.magnitude(-1074.0, 500.0);
        // Multiples, and their neighbors.
        let x = y * random.magnitude(0.0, 52.0).round();
        all.extend([(x, y), (f(x.to_bits() + 1), y), (f(x.to_bits().wrapping_sub(1)), y)]);
        all.push((random.magnitude(900.0, 1023.0), y));
    }
    for (x, y) in all {
        let (got, want) = (call(ScalarOp::Rem, &[x, y]), eval_float(ScalarOp::Rem, &[x, y]));
        assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "rem({x:e}, {y:e}): {got:e} where {want:e} is right");
    }
}

/// Functions of f32 that only these lanes have, and angles beyond the reduction of the f32 lanes.
#[test]
fn f32_results_are_rounded_from_f64() {
    use ScalarOp::*;
    let mut random = Random(6);
    for op in [Cbrt, Asin, Acos, Atan, Asinh, Acosh, Atanh, Sin, Cos, Tan, Atan2, Rem] {
        for i in 0..samples() {
            let mut any = || if i % 2 == 0 { f32::from_bits(random.bits() as u32) } else { random.between((-2.0, 2.0)) as f32 };
            let x = [any(), any()];
            let x = &x[..op.arity()];
            let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let (got, want) = (function_f32(&mut Plain64, op, x).expect("a function"), eval_float(op, &wide) as f32);
            assert!(
                got.to_bits().abs_diff(want.to_bits()) <= 1 || (got.is_nan() && want.is_nan()),
                "{}{x:?}: {got} where {want} is right",
                op.name()
            );
            if op == Rem {
                assert!(got.to_bits() == want.to_bits() || got.is_nan(), "rem{x:?}");
            }
        }
    }
}
