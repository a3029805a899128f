//! The scalar table as functions of the C calling convention, for generated code to call: what is not worth code of its own, and error reports.

use crate::eval::eval_float;
use crate::scalar::ScalarOp;
use optc_abi::plan::{Status, status};

macro_rules! scalar_functions {
    ($($op:ident $arity:tt)*) => {
        /// The operations that are here.
        pub const FUNCTIONS: &[ScalarOp] = &[$(ScalarOp::$op),*];
        /// Address of the f64 version of an operation, computed by the standard library or `libm`.
        pub fn f64_address(op: ScalarOp) -> usize {
            match op {
                $(ScalarOp::$op => scalar_functions!(@f64 $op $arity) as usize,)*
                _ => panic!("compiler bug: no function for {}", op.name()),
            }
        }
        /// Address of the f32 version of an operation, rounded from f64.
        pub fn f32_address(op: ScalarOp) -> usize {
            match op {
                $(ScalarOp::$op => scalar_functions!(@f32 $op $arity) as usize,)*
                _ => panic!("compiler bug: no function for {}", op.name()),
            }
        }
    };
    (@f64 $op:ident 1) => {{ extern "C" fn call(x: f64) -> f64 { eval_float(ScalarOp::$op, &[x]) } call as extern "C" fn(f64) -> f64 }};
    (@f64 $op:ident 2) => {{ extern "C" fn call(x: f64, y: f64) -> f64 { eval_float(ScalarOp::$op, &[x, y]) } call as extern "C" fn(f64, f64) -> f64 }};
    (@f64 $op:ident 3) => {{ extern "C" fn call(x: f64, y: f64, z: f64) -> f64 { eval_float(ScalarOp::$op, &[x, y, z]) } call as extern "C" fn(f64, f64, f64) -> f64 }};
    (@f32 $op:ident 1) => {{ extern "C" fn call(x: f32) -> f32 { eval_float(ScalarOp::$op, &[x.into()]) as f32 } call as extern "C" fn(f32) -> f32 }};
    (@f32 $op:ident 2) => {{ extern "C" fn call(x: f32, y: f32) -> f32 { eval_float(ScalarOp::$op, &[x.into(), y.into()]) as f32 } call as extern "C" fn(f32, f32) -> f32 }};
    (@f32 $op:ident 3) => {{ extern "C" fn call(x: f32, y: f32, z: f32) -> f32 { x.mul_add(y, z) } call as extern "C" fn(f32, f32, f32) -> f32 }};
}

scalar_functions! {
    Rem 2 Pow 2 Atan2 2 Cbrt 1 Exp 1 Exp2 1 Expm1 1 Log 1 Log1p 1 Log2 1 Sin 1 Cos 1 Tan 1 Asin 1 Acos 1 Atan 1
    Sinh 1 Cosh 1 Tanh 1 Asinh 1 Acosh 1 Atanh 1 Sigmoid 1 Softplus 1 Erf 1 Floor 1 Ceil 1 Round 1 Trunc 1 Fma 3
}

/// Records an index outside `0..extent`, unless an error is there already.
///
/// # Safety
/// `place` points to a status that nobody else uses meanwhile.
pub unsafe extern "C" fn report(place: *mut Status, index: i64, extent: i64, origin: i64) {
    if (0..extent).contains(&index) {
        return;
    }
    // SAFETY: compiled code passes the status of the running plan.
    let place = unsafe { &mut *place };
    if place.code == status::OK {
        *place = Status { code: status::OUT_OF_RANGE, origin: origin as i32, index, extent };
    }
}
