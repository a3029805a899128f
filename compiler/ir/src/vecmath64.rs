//! f64 functions as formulas over [`Lanes64`], for every argument.
//!
//! Straight-line code without branches, loops or tables in memory: what a vector of a processor and a thread of a GPU run alike, and with the same bits,
//! since every step rounds once. Coefficients are interpolations at Chebyshev nodes in 60 digits, derived by `coefficients.py` beside this crate's
//! manifest. The reductions are those of the literature: Cody and Waite (exp, near angles), Payne and Hanek (far angles), and for sums of two floats
//! Knuth and Dekker; log's splitting into f - f^2/2 + s (f^2/2 + R) is that of fdlibm (Sun).
//!
//! # Numerics
//! Special values (signed zeros, infinities, NaN, arguments outside the domain) are those of [`crate::eval`]; denormals are neither flushed as
//! arguments nor as results. `rem` and `rsqrt` have the interpreter's bits. Largest errors seen, in units in the last place of the exact value, over a
//! million arguments each (all floats, the ranges where the functions bend, neighborhoods of integers and powers of two), against references of 100
//! bits; and operations without constants, in brackets those that only rare lanes need (see [`Lanes64::seldom`]):
//!
//! | function | ulp | operations | function | ulp | operations |
//! |---|---|---|---|---|---|
//! | exp | 0.53 | 61 | asin | 0.67 | 60 |
//! | exp2 | 0.54 | 58 | acos | 0.65 | 69 |
//! | expm1 | 0.62 | 72 | atan | 0.83 | 69 |
//! | log | 0.65 | 50 | atan2 | 0.80 | 99 |
//! | log2 | 0.65 | 59 | asinh | 0.63 | 126 |
//! | log1p | 0.64 | 76 | acosh | 0.67 | 109 |
//! | sin | 0.81 | 76 (219) | atanh | 0.63 | 88 |
//! | cos | 0.76 | 74 (219) | sigmoid | 0.52 | 85 |
//! | tan | 0.88 | 90 (219) | softplus | 0.96 | 149 |
//! | sinh | 0.58 | 117 | erf | 1.05 | 120 |
//! | cosh | 0.57 | 112 | cbrt | 0.51 | 70 |
//! | tanh | 0.60 | 129 | pow | 0.78 | 174 |
//! | rsqrt | 1.5 | 2 | rem | 0 | 32 (229) |
//!
//! Denormal results of exp, exp2, sigmoid, softplus and pow are rounded twice: 0.75.

mod angle;
mod arc;
#[cfg(test)]
mod exact;
mod exp;
#[cfg(test)]
mod far_angles;
mod log;
mod other;
mod pen;
#[cfg(test)]
mod tests;

use crate::lanes64::{Lanes64, Widen};
use crate::scalar::ScalarOp;
use pen::{Pen, X, compute};
use std::cell::RefCell;

/// A function of the scalar table; none if it is no function but an instruction.
pub fn function<L: Lanes64>(l: &mut L, op: ScalarOp, x: &[L::V]) -> Option<L::V> {
    let unary: for<'p> fn(X<'p, L>) -> X<'p, L> = match op {
        ScalarOp::Exp => exp::exp,
        ScalarOp::Exp2 => exp::exp2,
        ScalarOp::Expm1 => exp::expm1,
        ScalarOp::Log => log::log,
        ScalarOp::Log2 => log::log2,
        ScalarOp::Log1p => log::log1p,
        ScalarOp::Sin => angle::sin,
        ScalarOp::Cos => angle::cos,
        ScalarOp::Tan => angle::tan,
        ScalarOp::Asin => arc::asin,
        ScalarOp::Acos => arc::acos,
        ScalarOp::Atan => arc::atan,
        ScalarOp::Sinh => exp::sinh,
        ScalarOp::Cosh => exp::cosh,
        ScalarOp::Tanh => exp::tanh,
        ScalarOp::Asinh => log::asinh,
        ScalarOp::Acosh => log::acosh,
        ScalarOp::Atanh => log::atanh,
        ScalarOp::Sigmoid => exp::sigmoid,
        ScalarOp::Softplus => exp::softplus,
        ScalarOp::Erf => other::erf,
        ScalarOp::Cbrt => other::cbrt,
        ScalarOp::Rsqrt => other::rsqrt,
        ScalarOp::Atan2 | ScalarOp::Pow | ScalarOp::Rem => {
            let binary: for<'p> fn(X<'p, L>, X<'p, L>) -> X<'p, L> = match op {
                ScalarOp::Atan2 => arc::atan2,
                ScalarOp::Pow => log::pow,
                _ => other::rem,
            };
            let pen: Pen<L> = RefCell::new(l);
            let [y] = compute(&pen, [x[0], x[1]], |[a, b]| [binary(a, b)]);
            return Some(y);
        }
        _ => return None,
    };
    let pen: Pen<L> = RefCell::new(l);
    let [y] = compute(&pen, [x[0]], |[a]| [unary(a)]);
    Some(y)
}

/// The f32 version of a function by way of f64 lanes, rounded once: right in all but some of a billion arguments. For functions that
/// [`crate::vecmath`] does not have, and for angles too large for its reduction.
pub fn function_f32<L: Widen>(l: &mut L, op: ScalarOp, x: &[L::Narrow]) -> Option<L::Narrow> {
    let wide: Vec<L::V> = x.iter().map(|&x| l.widen(x)).collect();
    let y = function(l, op, &wide)?;
    Some(l.narrow(y))
}
