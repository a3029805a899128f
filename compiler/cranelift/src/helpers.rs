//! Functions that generated code calls: rare math, error reports, and kernels with many argument sets.

#[cfg(test)]
use crate::lanes::Rare;
use optc_abi::plan::{KernelFn, RawCall, RuntimeTable, Status, status};
use optc_ir::eval::eval_float;
use optc_ir::scalar::ScalarOp;
use std::cell::RefCell;

/// A rare f32 function, correctly rounded from f64: what the compiled slow path computes.
#[cfg(test)]
pub(crate) fn rare(function: Rare, x: f32) -> f32 {
    let x = f64::from(x);
    (match function {
        Rare::Sin => x.sin(),
        Rare::Cos => x.cos(),
        Rare::Tan => x.tan(),
    }) as f32
}

macro_rules! scalar_functions {
    ($($op:ident $arity:tt)*) => {
        /// Address of the f64 version of an operation, computed by the standard library or `libm`.
        pub(crate) fn f64_address(op: ScalarOp) -> usize {
            match op {
                $(ScalarOp::$op => scalar_functions!(@f64 $op $arity) as usize,)*
                _ => panic!("compiler bug: no function for {}", op.name()),
            }
        }
        /// Address of the f32 version of an operation, rounded from f64.
        pub(crate) fn f32_address(op: ScalarOp) -> usize {
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
pub(crate) unsafe extern "C" fn report(place: *mut Status, index: i64, extent: i64, origin: i64) {
    if (0..extent).contains(&index) {
        return;
    }
    // SAFETY: compiled code passes the status of the running plan.
    let place = unsafe { &mut *place };
    if place.code == status::OK {
        *place = Status { code: status::OUT_OF_RANGE, origin: origin as i32, index, extent };
    }
}

/// The arguments of a kernel with many argument sets, prepared when the plan was compiled.
pub(crate) struct CallTable {
    /// Base index and byte offset of each buffer argument, all calls one after the other.
    pub(crate) buffers: Vec<(usize, i64)>,
    /// Buffer arguments of one call.
    pub(crate) arity: usize,
    /// Extents of each call, `sizes_each` per call.
    pub(crate) sizes: Vec<i64>,
    /// Size arguments of one call.
    pub(crate) sizes_each: usize,
    /// Range and grain of each call.
    pub(crate) ranges: Vec<(i64, i64)>,
}

thread_local! {
    /// Resolved arguments of the call under way; grows to the largest table and stays.
    static RESOLVED: RefCell<(Vec<*mut u8>, Vec<RawCall>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Resolves the addresses of a table and runs the kernel over all argument sets: on the pool, or directly if `direct` is not 0.
pub(crate) unsafe extern "C" fn run_calls(
    table: *const CallTable,
    runtime: *const RuntimeTable,
    bases: *const *mut u8,
    kernel: KernelFn,
    direct: i64,
) {
    // SAFETY: compiled code passes tables that live as long as the code and the arguments of the running plan.
    let (table, runtime) = unsafe { (&*table, &*runtime) };
    // The vectors are taken out for the time of the call, so a plan run from inside a unit of work has its own.
    let (mut addresses, mut calls) = RESOLVED.take();
    addresses.clear();
    // SAFETY: base indices are positions in the plan's table of bases.
    addresses.extend(table.buffers.iter().map(|&(base, offset)| unsafe { (*bases.add(base)).wrapping_offset(offset as isize) }));
    if direct != 0 {
        for (i, &(range, _)) in table.ranges.iter().enumerate() {
            if range > 0 {
                // SAFETY: the addresses are those of this call's buffers.
                unsafe {
                    kernel(
                        addresses.as_ptr().add(i * table.arity),
                        table.sizes.as_ptr().add(i * table.sizes_each),
                        0,
                        range,
                        runtime.status,
                    )
                }
            }
        }
    } else {
        calls.clear();
        calls.extend(table.ranges.iter().enumerate().map(|(i, &(range, grain))| RawCall {
            buffers: addresses.as_ptr().wrapping_add(i * table.arity),
            sizes: table.sizes.as_ptr().wrapping_add(i * table.sizes_each),
            range,
            grain,
        }));
        // SAFETY: the runtime's own function with valid calls.
        unsafe { (runtime.parallel)(runtime.ctx, kernel, calls.as_ptr(), calls.len() as i64) };
    }
    RESOLVED.set((addresses, calls));
}

/// Copies bytes between places that do not overlap.
pub(crate) unsafe extern "C" fn copy_bytes(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the plan's copies stay inside their buffers, which do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) }
}
