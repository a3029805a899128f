//! The driver as a library: whether it is there, and has all that is asked of it.

use crate::error::{DeviceError, Result};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::sync::OnceLock;

/// What this crate calls, by the path under which its sources do, and the driver's function behind it. A driver may lack one: some came with later versions of CUDA.
const FUNCTIONS: &[(&str, &str)] = &[
    ("result::init", "cuInit"),
    ("result::device::get", "cuDeviceGet"),
    ("result::device::get_attribute", "cuDeviceGetAttribute"),
    ("result::device::get_count", "cuDeviceGetCount"),
    ("result::device::get_name", "cuDeviceGetName"),
    ("result::device::total_mem", "cuDeviceTotalMem_v2"),
    ("result::primary_ctx::retain", "cuDevicePrimaryCtxRetain"),
    ("result::ctx::set_current", "cuCtxSetCurrent"),
    ("result::ctx::synchronize", "cuCtxSynchronize"),
    ("result::mem_get_info", "cuMemGetInfo_v2"),
    ("result::malloc_sync", "cuMemAlloc_v2"),
    ("result::free_sync", "cuMemFree_v2"),
    ("result::malloc_host", "cuMemHostAlloc"),
    ("result::free_host", "cuMemFreeHost"),
    ("result::module::get_function", "cuModuleGetFunction"),
    ("result::module::unload", "cuModuleUnload"),
    ("result::function::set_function_attribute", "cuFuncSetAttribute"),
    ("result::stream::create", "cuStreamCreate"),
    ("result::stream::destroy", "cuStreamDestroy_v2"),
    ("result::stream::synchronize", "cuStreamSynchronize"),
    ("result::stream::wait_event", "cuStreamWaitEvent"),
    ("result::stream::begin_capture", "cuStreamBeginCapture_v2"),
    ("result::stream::end_capture", "cuStreamEndCapture"),
    ("result::event::create", "cuEventCreate"),
    ("result::event::destroy", "cuEventDestroy_v2"),
    ("result::event::query", "cuEventQuery"),
    ("result::event::record", "cuEventRecord"),
    ("result::event::synchronize", "cuEventSynchronize"),
    ("result::graph::destroy", "cuGraphDestroy"),
    ("result::graph::exec_destroy", "cuGraphExecDestroy"),
    ("result::graph::launch", "cuGraphLaunch"),
    ("sys::cuEventElapsedTime", "cuEventElapsedTime"),
    ("sys::cuDriverGetVersion", "cuDriverGetVersion"),
    ("sys::cuGraphInstantiateWithFlags", "cuGraphInstantiateWithFlags"),
    ("sys::cuLaunchHostFunc", "cuLaunchHostFunc"),
    ("sys::cuLaunchKernel", "cuLaunchKernel"),
    ("sys::cuMemcpyDtoDAsync_v2", "cuMemcpyDtoDAsync_v2"),
    ("sys::cuMemcpyDtoHAsync_v2", "cuMemcpyDtoHAsync_v2"),
    ("sys::cuMemcpyDtoH_v2", "cuMemcpyDtoH_v2"),
    ("sys::cuMemcpyHtoDAsync_v2", "cuMemcpyHtoDAsync_v2"),
    ("sys::cuMemcpyHtoD_v2", "cuMemcpyHtoD_v2"),
    ("sys::cuMemsetD32Async", "cuMemsetD32Async"),
    ("sys::cuMemsetD8Async", "cuMemsetD8Async"),
    ("sys::cuModuleLoadDataEx", "cuModuleLoadDataEx"),
    // The words of errors.
    ("error_name", "cuGetErrorName"),
    ("error_string", "cuGetErrorString"),
];

/// Functions of cuBLASLt that products call.
const PRODUCTS: &[&str] = &[
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatrixLayoutSetAttribute",
];

fn has(library: &libloading::Library, name: &str) -> bool {
    // SAFETY: the symbol is looked for, and not used.
    unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_ok()
}

/// Looks for the driver, once.
///
/// # Errors
/// There is none, or it lacks a function that is used: calling one would end the process.
pub(crate) fn present() -> Result<()> {
    static FOUND: OnceLock<Result<()>> = OnceLock::new();
    FOUND.get_or_init(look).clone()
}

fn look() -> Result<()> {
    // SAFETY: loading the driver has no other precondition.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::absent(
            "there is no NVIDIA driver on this machine: libcuda.so cannot be loaded",
            "leave `device` out to run on the processor, or install the driver",
        ));
    }
    // SAFETY: it is there.
    let library = unsafe { sys::culib() };
    let missing: Vec<&str> = FUNCTIONS.iter().map(|f| f.1).filter(|name| !has(library, name)).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let others = if missing.len() > 1 { format!(" and {} other functions", missing.len() - 1) } else { String::new() };
    Err(DeviceError::absent(
        format!("the NVIDIA driver is too old: it lacks `{first}`{others}"),
        "update it (one for CUDA 12.0 or newer has all that is used), or leave `device` out to run on the processor",
    ))
}

/// Whether the library of matrix products is there, with all that is asked of it.
pub(crate) fn has_products() -> bool {
    use cudarc::cublaslt::sys;
    static FOUND: OnceLock<bool> = OnceLock::new();
    // SAFETY: loading a library has no other precondition.
    *FOUND.get_or_init(|| unsafe { sys::is_culib_present() && PRODUCTS.iter().all(|name| has(sys::culib(), name)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the sources call and is not looked for would be a panic on a driver that lacks it.
    #[test]
    fn all_that_is_called_is_looked_for() {
        let mut called = 0;
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("the sources").flatten() {
            // The library of products has a `result` of its own.
            if ["driver.rs", "blas.rs"].iter().any(|name| file.file_name() == *name) {
                continue;
            }
            let text = std::fs::read_to_string(file.path()).expect("a source");
            for start in ["result::", "sys::cu"] {
                for (at, _) in text.match_indices(start) {
                    let path: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
                    let before = text[..at].chars().next_back();
                    let is_call = text[at + path.len()..].starts_with('(') && !before.is_some_and(|c| c.is_alphanumeric() || c == ':');
                    if is_call {
                        called += 1;
                        assert!(FUNCTIONS.iter().any(|f| f.0 == path), "{}: {path}", file.path().display());
                    }
                }
            }
        }
        assert!(called >= FUNCTIONS.len() - 3, "{called} calls");
    }
}
