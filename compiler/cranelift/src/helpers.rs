//! Functions that generated code calls: kernels with many argument sets, copies.

use optc_abi::plan::{KernelFn, RawCall, RuntimeTable};
use std::cell::RefCell;

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
