//! Accuracy of the vector functions, measured in plain numbers against f64.

use crate::eval::eval_float;
use crate::lanes::{Lanes, Rare};
use crate::scalar::ScalarOp;
use crate::vecmath;

/// A rare f32 function, rounded from f64: what the compiled slow path computes.
fn exact(function: Rare, x: f32) -> f32 {
    let x = f64::from(x);
    (match function {
        Rare::Sin => x.sin(),
        Rare::Cos => x.cos(),
        Rare::Tan => x.tan(),
    }) as f32
}

/// One lane, computed by the processor in Rust: what emitted code must do too.
struct Plain;

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}
fn mask(b: bool) -> u32 {
    if b { u32::MAX } else { 0 }
}

impl Lanes for Plain {
    type V = u32;
    fn f(&mut self, x: f32) -> u32 {
        x.to_bits()
    }
    fn i(&mut self, x: i32) -> u32 {
        x as u32
    }
    fn add(&mut self, a: u32, b: u32) -> u32 {
        (f(a) + f(b)).to_bits()
    }
    fn sub(&mut self, a: u32, b: u32) -> u32 {
        (f(a) - f(b)).to_bits()
    }
    fn mul(&mut self, a: u32, b: u32) -> u32 {
        (f(a) * f(b)).to_bits()
    }
    fn div(&mut self, a: u32, b: u32) -> u32 {
        (f(a) / f(b)).to_bits()
    }
    fn sqrt(&mut self, a: u32) -> u32 {
        f(a).sqrt().to_bits()
    }
    fn fma(&mut self, a: u32, b: u32, c: u32) -> u32 {
        f(a).mul_add(f(b), f(c)).to_bits()
    }
    fn trunc(&mut self, a: u32) -> u32 {
        f(a).trunc().to_bits()
    }
    fn nearest(&mut self, a: u32) -> u32 {
        f(a).round_ties_even().to_bits()
    }
    fn iadd(&mut self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    fn isub(&mut self, a: u32, b: u32) -> u32 {
        a.wrapping_sub(b)
    }
    fn and(&mut self, a: u32, b: u32) -> u32 {
        a & b
    }
    fn or(&mut self, a: u32, b: u32) -> u32 {
        a | b
    }
    fn xor(&mut self, a: u32, b: u32) -> u32 {
        a ^ b
    }
    fn shl(&mut self, a: u32, bits: u8) -> u32 {
        a << bits
    }
    fn sar(&mut self, a: u32, bits: u8) -> u32 {
        ((a as i32) >> bits) as u32
    }
    fn lt(&mut self, a: u32, b: u32) -> u32 {
        mask(f(a) < f(b))
    }
    fn eq(&mut self, a: u32, b: u32) -> u32 {
        mask(f(a) == f(b))
    }
    fn ieq(&mut self, a: u32, b: u32) -> u32 {
        mask(a == b)
    }
    fn select(&mut self, m: u32, a: u32, b: u32) -> u32 {
        (a & m) | (b & !m)
    }
    fn float_of_int(&mut self, a: u32) -> u32 {
        (a as i32 as f32).to_bits()
    }
    fn int_of_float(&mut self, a: u32) -> u32 {
        f(a) as i32 as u32
    }
    fn patch(&mut self, m: u32, value: u32, x: u32, rare: Rare) -> u32 {
        if m == 0 {
            return value;
        }
        exact(rare, f(x)).to_bits()
    }
}

/// Error in units in the last place of the exact value's f32 neighborhood.
fn ulps(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if got.is_nan() || rounded.is_nan() {
        return if got.is_nan() == rounded.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if got == rounded {
        return 0.0;
    }
    if got.is_infinite() || rounded.is_infinite() {
        return f64::INFINITY;
    }
    let size = (rounded.abs().max(f32::MIN_POSITIVE)).to_bits() >> 23;
    let ulp = 2.0f64.powi(size as i32 - 127 - 23);
    (f64::from(got) - exact).abs() / ulp
}

/// Every `step`-th float.
fn floats(step: u32) -> impl Iterator<Item = f32> {
    (0..u32::MAX / step).map(move |i| f32::from_bits(i * step))
}

const SPECIAL: [f32; 22] = [
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
    1e-45,
    -1e-45,
    1e-38,
    3.4e38,
    -3.4e38,
    1e10,
    88.72284,
    -103.97,
    16_777_217.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

fn check1(op: ScalarOp, function: fn(&mut Plain, u32) -> u32) {
    let budget = f64::from(op.row().ulp);
    let (mut worst, mut at) = (0.0, 0.0);
    for x in floats(20_011).chain(SPECIAL) {
        let (got, exact) = (f(function(&mut Plain, x.to_bits())), eval_float(op, &[f64::from(x)]));
        let error = ulps(got, exact);
        if error > worst {
            (worst, at) = (error, x);
        }
        if got == 0.0 && exact == 0.0 {
            assert_eq!(got.is_sign_negative(), exact.is_sign_negative(), "{}({x})", op.name());
        }
    }
    assert!(worst <= budget, "{}: {worst} ulp at {at:e}: {}", op.name(), f(function(&mut Plain, at.to_bits())));
}

#[test]
fn functions_of_one_argument_keep_their_budgets() {
    check1(ScalarOp::Exp, vecmath::exp);
    check1(ScalarOp::Exp2, vecmath::exp2);
    check1(ScalarOp::Expm1, vecmath::expm1);
    check1(ScalarOp::Log, vecmath::log);
    check1(ScalarOp::Log2, vecmath::log2);
    check1(ScalarOp::Log1p, vecmath::log1p);
    check1(ScalarOp::Tanh, vecmath::tanh);
    check1(ScalarOp::Sigmoid, vecmath::sigmoid);
    check1(ScalarOp::Softplus, vecmath::softplus);
    check1(ScalarOp::Erf, vecmath::erf);
    check1(ScalarOp::Sin, vecmath::sin);
    check1(ScalarOp::Cos, vecmath::cos);
    check1(ScalarOp::Tan, vecmath::tan);
    check1(ScalarOp::Sinh, vecmath::sinh);
    check1(ScalarOp::Cosh, vecmath::cosh);
    check1(ScalarOp::Rsqrt, vecmath::rsqrt);
}

#[test]
fn power_keeps_its_budget_and_its_special_cases() {
    let (mut worst, mut at) = (0.0, (0.0, 0.0));
    let mut look = |x: f32, y: f32| {
        let got = f(vecmath::pow(&mut Plain, x.to_bits(), y.to_bits()));
        let exact = f64::from(x).powf(f64::from(y));
        let error = ulps(got, exact);
        if error > worst {
            (worst, at) = (error, (x, y));
        }
    };
    for x in SPECIAL {
        for y in SPECIAL {
            look(x, y);
        }
    }
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1 << 24) as f32
    };
    for _ in 0..200_000 {
        let (x, y) = ((next() * 20.0 - 10.0).exp2(), next() * 30.0 - 15.0);
        look(x, y);
        look(1.0 + (next() - 0.5) * 0.01, (next() - 0.5) * 20_000.0);
        look((next() * 250.0 - 125.0).exp2(), next() * 2.0 - 1.0);
        look(-x, (y * 0.5).round());
    }
    assert!(worst <= f64::from(ScalarOp::Pow.row().ulp), "pow: {worst} ulp at {at:?}");
}
