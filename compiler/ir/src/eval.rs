//! The meaning of scalar operations: on f64 for floats, on i64 (wrapped to the element type) for integers and bools.

use crate::scalar::ScalarOp;
use optc_abi::DType;

/// The value of a float operation; comparisons and tests give 1 or 0.
///
/// # Numerics
/// Computed in f64 with the standard library or `libm`; results of f32 programs are rounded by the caller.
pub fn eval_float(op: ScalarOp, x: &[f64]) -> f64 {
    use ScalarOp::*;
    let truth = |b: bool| f64::from(u8::from(b));
    match op {
        Add => x[0] + x[1],
        Sub => x[0] - x[1],
        Mul => x[0] * x[1],
        Div => x[0] / x[1],
        FloorDiv => (x[0] / x[1]).floor(),
        Rem => rem(x[0], x[1]),
        Min => min(x[0], x[1]),
        Max => -min(-x[0], -x[1]),
        Pow => x[0].powf(x[1]),
        Atan2 => x[0].atan2(x[1]),
        Neg => -x[0],
        Abs => x[0].abs(),
        Sign => sign(x[0]),
        Floor => x[0].floor(),
        Ceil => x[0].ceil(),
        Round => x[0].round_ties_even(),
        Trunc => x[0].trunc(),
        Sqrt => x[0].sqrt(),
        Rsqrt => 1.0 / x[0].sqrt(),
        Cbrt => x[0].cbrt(),
        Exp => x[0].exp(),
        Exp2 => x[0].exp2(),
        Expm1 => x[0].exp_m1(),
        Log => x[0].ln(),
        Log1p => x[0].ln_1p(),
        Log2 => x[0].log2(),
        Sin => x[0].sin(),
        Cos => x[0].cos(),
        Tan => x[0].tan(),
        Asin => x[0].asin(),
        Acos => x[0].acos(),
        Atan => x[0].atan(),
        Sinh => x[0].sinh(),
        Cosh => x[0].cosh(),
        Tanh => x[0].tanh(),
        Asinh => libm::asinh(x[0]),
        Acosh => acosh(x[0]),
        Atanh => libm::atanh(x[0]),
        Sigmoid => sigmoid(x[0]),
        Softplus => (if x[0] <= 0.0 { 0.0 } else { x[0] }) + (-x[0].abs()).exp().ln_1p(),
        Erf => libm::erf(x[0]),
        Eq => truth(x[0] == x[1]),
        Ne => truth(x[0] != x[1]),
        Lt => truth(x[0] < x[1]),
        Le => truth(x[0] <= x[1]),
        IsFinite => truth(x[0].is_finite()),
        IsNan => truth(x[0].is_nan()),
        Select => {
            if x[0] != 0.0 {
                x[1]
            } else {
                x[2]
            }
        }
        Fma => x[0].mul_add(x[1], x[2]),
        And | Or | Xor | Not | Shl | Shr => panic!("compiler bug: {} of floats", op.name()),
    }
}

/// 1 / (1 + e^-x) without overflow.
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// NaN below 1, where `libm` gives numbers for some arguments.
fn acosh(x: f64) -> f64 {
    if x < 1.0 { f64::NAN } else { libm::acosh(x) }
}

fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }
}

/// The smaller, NaN if either is NaN, -0 below +0.
fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == b {
        if a.is_sign_negative() { a } else { b }
    } else if a < b {
        a
    } else {
        b
    }
}

/// Remainder with the sign of the divisor.
fn rem(a: f64, b: f64) -> f64 {
    let r = a % b;
    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
}

/// The value of an integer or bool operation, wrapped to `dtype` (the operands' type); comparisons give 1 or 0.
pub fn eval_int(op: ScalarOp, dtype: DType, x: &[i64]) -> i64 {
    use ScalarOp::*;
    let bits = (dtype.size() * 8) as i64;
    let signed = matches!(dtype, DType::I32 | DType::I64);
    let truth = |b: bool| i64::from(b);
    let value = match op {
        Add => x[0].wrapping_add(x[1]),
        Sub => x[0].wrapping_sub(x[1]),
        Mul => x[0].wrapping_mul(x[1]),
        FloorDiv if x[1] == 0 => 0,
        FloorDiv => x[0].wrapping_div_euclid(x[1]) - i64::from(x[1] < 0 && x[0].wrapping_rem_euclid(x[1]) != 0),
        Rem if x[1] == 0 => 0,
        Rem => {
            let r = x[0].wrapping_rem_euclid(x[1]);
            if x[1] < 0 && r != 0 { r + x[1] } else { r }
        }
        Min => x[0].min(x[1]),
        Max => x[0].max(x[1]),
        Neg => x[0].wrapping_neg(),
        Abs => x[0].wrapping_abs(),
        Sign => x[0].signum(),
        And => x[0] & x[1],
        Or => x[0] | x[1],
        Xor => x[0] ^ x[1],
        Not if dtype == DType::Bool => 1 - x[0],
        Not => !x[0],
        Shl if !(0..bits).contains(&x[1]) => 0,
        Shl => x[0].wrapping_shl(x[1] as u32),
        Shr if !(0..bits).contains(&x[1]) => {
            if signed && x[0] < 0 {
                -1
            } else {
                0
            }
        }
        Shr => x[0] >> x[1],
        Eq => return truth(x[0] == x[1]),
        Ne => return truth(x[0] != x[1]),
        Lt => return truth(x[0] < x[1]),
        Le => return truth(x[0] <= x[1]),
        Select => {
            if x[0] != 0 {
                x[1]
            } else {
                x[2]
            }
        }
        _ => panic!("compiler bug: {} of {dtype}", op.name()),
    };
    wrap(dtype, value)
}

/// An integer reduced to the range of `dtype`.
pub fn wrap(dtype: DType, value: i64) -> i64 {
    match dtype {
        DType::I32 => i64::from(value as i32),
        DType::U32 => i64::from(value as u32),
        DType::U8 => i64::from(value as u8),
        DType::Bool => value & 1,
        _ => value,
    }
}

/// A float rounded to the values of `dtype` (f64 for types that are no floats).
pub fn round_to(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::BF16 => optc_abi::dtype::to_bf16(value).to_f64(),
        DType::F16 => optc_abi::dtype::to_f16(value).to_f64(),
        _ => value,
    }
}

/// The float operation on values of `dtype`, rounded to it; comparisons and tests give 1 or 0.
///
/// # Numerics
/// Sums, products, quotients and square roots are correctly rounded (f64 holds more than twice the digits of f32, so the second rounding does
/// no harm); a fused multiply-add of f32 is done in f32, where it would.
pub fn eval_typed(op: ScalarOp, dtype: DType, x: &[f64]) -> f64 {
    if op == ScalarOp::Fma && dtype == DType::F32 {
        return f64::from((x[0] as f32).mul_add(x[1] as f32, x[2] as f32));
    }
    round_to(dtype, eval_float(op, x))
}

/// An integer as a float of `dtype`, rounded once (f16 and bf16 by way of f32).
pub fn int_to_float(dtype: DType, value: i64) -> f64 {
    match dtype {
        DType::F64 => value as f64,
        _ => round_to(dtype, f64::from(value as f32)),
    }
}

/// A float converted to an integer type: truncated, saturated, NaN gives 0; to bool `!= 0`.
pub fn float_to_int(dtype: DType, value: f64) -> i64 {
    match dtype {
        DType::I32 => i64::from(value as i32),
        DType::U32 => i64::from(value as u32),
        DType::U8 => i64::from(value as u8),
        DType::Bool => i64::from(value != 0.0),
        _ => value as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_rounds_down_and_the_remainder_has_the_divisors_sign() {
        for (a, b) in [(7, 2), (-7, 2), (7, -2), (-7, -2), (6, 3), (-6, 3)] {
            let q = eval_int(ScalarOp::FloorDiv, DType::I32, &[a, b]);
            let r = eval_int(ScalarOp::Rem, DType::I32, &[a, b]);
            assert_eq!(q, (a as f64 / b as f64).floor() as i64);
            assert_eq!(q * b + r, a);
            assert_eq!(eval_float(ScalarOp::Rem, &[a as f64, b as f64]), r as f64);
        }
        assert_eq!(eval_int(ScalarOp::Rem, DType::I32, &[5, 0]), 0);
    }

    #[test]
    fn extremes_know_nan_and_signed_zeros() {
        assert!(eval_float(ScalarOp::Min, &[f64::NAN, 1.0]).is_nan() && eval_float(ScalarOp::Max, &[1.0, f64::NAN]).is_nan());
        assert!(eval_float(ScalarOp::Min, &[0.0, -0.0]).is_sign_negative());
        assert!(eval_float(ScalarOp::Max, &[-0.0, 0.0]).is_sign_positive());
    }

    #[test]
    fn integers_wrap_and_shift_safely() {
        assert_eq!(eval_int(ScalarOp::Add, DType::U8, &[250, 10]), 4);
        assert_eq!(eval_int(ScalarOp::Mul, DType::U32, &[0xFFFF_FFFF, 0xFFFF_FFFF]), 1);
        assert_eq!(eval_int(ScalarOp::Shl, DType::I32, &[1, 40]), 0);
        assert_eq!(eval_int(ScalarOp::Shr, DType::I32, &[-8, 99]), -1);
        assert_eq!(eval_int(ScalarOp::Not, DType::Bool, &[1]), 0);
        assert_eq!(float_to_int(DType::I32, f64::NAN), 0);
    }

    /// Every float row of the table against an independent formula, at points where both are accurate.
    #[test]
    fn every_float_operation_means_what_its_name_says() {
        use crate::scalar::{Class, TABLE};
        let reference = |op: ScalarOp, x: f64, y: f64| -> f64 {
            use ScalarOp::*;
            match op {
                Add => y + x,
                Sub => -(y - x),
                Mul => y * x,
                Div => x * y.recip(),
                FloorDiv => ((x - x.rem_euclid(y)) / y).round(),
                Rem => x.rem_euclid(y),
                Min => x.min(y),
                Max => x.max(y),
                Pow => (y * x.ln()).exp(),
                Atan2 => (x / y).atan(),
                Neg => 0.0 - x,
                Abs => (x * x).sqrt(),
                Sign => x / x.abs(),
                Floor => x - x.rem_euclid(1.0),
                Ceil => x - x.rem_euclid(1.0) + 1.0,
                Round => (x + 0.5) - (x + 0.5).rem_euclid(1.0),
                Trunc => x as i64 as f64,
                Sqrt => x.powf(0.5),
                Rsqrt => x.powf(-0.5),
                Cbrt => x.powf(1.0 / 3.0),
                Exp => std::f64::consts::E.powf(x),
                Exp2 => (x * 2f64.ln()).exp(),
                Expm1 => x.exp() - 1.0,
                Log => x.log10() / std::f64::consts::E.log10(),
                Log1p => (1.0 + x).ln(),
                Log2 => x.ln() / 2f64.ln(),
                Sin => (1.0 - x.cos() * x.cos()).sqrt(),
                Cos => 1.0 - 2.0 * (x / 2.0).sin() * (x / 2.0).sin(),
                Tan => x.sin() / x.cos(),
                Asin => x.atan2((1.0 - x * x).sqrt()),
                Acos => (1.0 - x * x).sqrt().atan2(x),
                Atan => x.atan2(1.0),
                Sinh => (x.exp() - (-x).exp()) / 2.0,
                Cosh => (x.exp() + (-x).exp()) / 2.0,
                Tanh => 1.0 - 2.0 / ((2.0 * x).exp() + 1.0),
                Asinh => (x + (x * x + 1.0).sqrt()).ln(),
                Acosh => (x + (x * x - 1.0).sqrt()).ln(),
                Atanh => 0.5 * ((1.0 + x) / (1.0 - x)).ln(),
                Sigmoid => 0.5 * (1.0 + (x / 2.0).tanh()),
                Softplus => (1.0 + x.exp()).ln(),
                // Maclaurin series.
                Erf => {
                    let (mut sum, mut term) = (0.0, x);
                    for n in 0..60 {
                        sum += term / f64::from(2 * n + 1);
                        term *= -x * x / f64::from(n + 1);
                    }
                    sum * 2.0 / std::f64::consts::PI.sqrt()
                }
                Eq | IsNan => 0.0,
                Ne | IsFinite => 1.0,
                Lt => f64::from(u8::from(y > x)),
                Le => f64::from(u8::from(y >= x)),
                Select => y,
                Fma => x * y + 0.25,
                And | Or | Xor | Not | Shl | Shr => unreachable!(),
            }
        };
        for row in TABLE.iter().filter(|r| r.class != Class::Bits) {
            for x in [0.3, 0.62, 1.7] {
                // Where the functions are real.
                let x = match row.op {
                    ScalarOp::Asin | ScalarOp::Acos | ScalarOp::Atanh => x / 2.0,
                    ScalarOp::Acosh => x + 1.0,
                    _ => x,
                };
                let (got, want) = (eval_float(row.op, &[x, 0.8, 0.25][..row.arity as usize]), reference(row.op, x, 0.8));
                assert!((got - want).abs() <= 1e-12 * want.abs().max(1.0), "{} of {x}: {got} where {want} is right", row.name);
            }
        }
    }

    #[test]
    fn limits_of_the_numerically_careful_ones() {
        assert_eq!(eval_float(ScalarOp::Sigmoid, &[-1000.0]), 0.0);
        assert_eq!(eval_float(ScalarOp::Sigmoid, &[1000.0]), 1.0);
        assert_eq!(eval_float(ScalarOp::Expm1, &[1e-20]), 1e-20);
        assert_eq!(eval_float(ScalarOp::Log1p, &[1e-20]), 1e-20);
        assert_eq!(eval_float(ScalarOp::Round, &[2.5]), 2.0);
        assert!(eval_float(ScalarOp::Sign, &[-0.0]).is_sign_negative() && eval_float(ScalarOp::Sign, &[f64::NAN]).is_nan());
        assert_eq!(eval_float(ScalarOp::Rsqrt, &[0.0]), f64::INFINITY);
        for x in [0.5, -1.0, -3.0, -29_663.121, -1e300, f64::NEG_INFINITY] {
            assert!(eval_float(ScalarOp::Acosh, &[x]).is_nan(), "acosh({x})");
        }
    }

    #[test]
    fn results_are_rounded_once() {
        // In f32, 1 + 2^-24 + 2^-50 rounds up; by way of a rounded product it would not.
        let (x, y) = (1.0 + 2f64.powi(-12), 1.0 - 2f64.powi(-12));
        let fused = eval_typed(ScalarOp::Fma, DType::F32, &[x, y, 2f64.powi(-23)]);
        assert_eq!(fused, f64::from((x as f32).mul_add(y as f32, 2f32.powi(-23))));
        assert_eq!(eval_typed(ScalarOp::Div, DType::F32, &[1.0, 3.0]), f64::from(1.0f32 / 3.0f32));
        assert_eq!(int_to_float(DType::F32, (1 << 25) + 3), f64::from(((1i64 << 25) + 3) as f32));
        assert_eq!(round_to(DType::BF16, 1.0 + 2f64.powi(-9)), 1.0);
        assert_eq!(float_to_int(DType::U8, 300.0), 255);
        assert_eq!(wrap(DType::U8, 300), 44);
    }
}
