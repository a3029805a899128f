//! Library calls of a plan.

use optc_abi::DType;
use optc_abi::plan::LibOp;
use std::cmp::Ordering;

/// Runs a library call on resolved addresses (operands, then results).
///
/// # Safety
/// `buffers` must hold one valid address per operand and result of the call, of the extents the call states.
pub unsafe fn run(op: &LibOp, dtype: DType, buffers: *const *mut u8) {
    match op {
        LibOp::ArgSort { rows, n, descending } => {
            // SAFETY: operand and result have rows * n elements.
            unsafe {
                let (x, out) = (*buffers, std::slice::from_raw_parts_mut((*buffers.add(1)).cast::<i32>(), rows * n));
                let len = rows * n;
                match dtype {
                    DType::F64 => argsort(std::slice::from_raw_parts(x.cast::<f64>(), len), out, *n, *descending, f64::total_nan_last),
                    DType::I32 => argsort(std::slice::from_raw_parts(x.cast::<i32>(), len), out, *n, *descending, i32::cmp),
                    DType::I64 => argsort(std::slice::from_raw_parts(x.cast::<i64>(), len), out, *n, *descending, i64::cmp),
                    DType::U32 => argsort(std::slice::from_raw_parts(x.cast::<u32>(), len), out, *n, *descending, u32::cmp),
                    DType::U8 | DType::Bool => argsort(std::slice::from_raw_parts(x, len), out, *n, *descending, u8::cmp),
                    DType::F32 => argsort(std::slice::from_raw_parts(x.cast::<f32>(), len), out, *n, *descending, f32::total_nan_last),
                    DType::BF16 => argsort(std::slice::from_raw_parts(x.cast::<half::bf16>(), len), out, *n, *descending, |a, b| {
                        a.to_f32().total_nan_last(&b.to_f32())
                    }),
                    DType::F16 => argsort(std::slice::from_raw_parts(x.cast::<half::f16>(), len), out, *n, *descending, |a, b| {
                        a.to_f32().total_nan_last(&b.to_f32())
                    }),
                }
            }
        }
    }
}

/// Order of floats in which NaN is the largest value and both zeros are equal.
trait NanLast {
    fn total_nan_last(&self, other: &Self) -> Ordering;
}
macro_rules! nan_last {
    ($($t:ty),*) => { $(impl NanLast for $t {
        fn total_nan_last(&self, other: &Self) -> Ordering {
            self.partial_cmp(other).unwrap_or_else(|| self.is_nan().cmp(&other.is_nan()))
        }
    })* };
}
nan_last!(f32, f64);

fn argsort<T>(x: &[T], out: &mut [i32], n: usize, descending: bool, compare: impl Fn(&T, &T) -> Ordering) {
    if n == 0 {
        return;
    }
    for (row, order) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        order.iter_mut().enumerate().for_each(|(i, o)| *o = i as i32);
        // Stable, so equal elements keep their order in both directions.
        order.sort_by(|&a, &b| {
            let by = compare(&row[a as usize], &row[b as usize]);
            if descending { by.reverse() } else { by }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argsort_is_stable_and_puts_nan_last() {
        let x = [2.0f32, f32::NAN, -1.0, 2.0, 0.0, -0.0];
        let mut out = [0i32; 6];
        for (descending, want) in [(false, [2, 4, 5, 0, 3, 1]), (true, [1, 0, 3, 4, 5, 2])] {
            let buffers = [x.as_ptr().cast_mut().cast::<u8>(), out.as_mut_ptr().cast::<u8>()];
            // SAFETY: both arrays have six elements.
            unsafe { run(&LibOp::ArgSort { rows: 1, n: 6, descending }, DType::F32, buffers.as_ptr()) };
            assert_eq!(out, want);
        }
    }
}
