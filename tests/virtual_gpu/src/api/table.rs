//! Functions by name.

use super::context::*;
use super::event::*;
use super::graph::*;
use super::launch::*;
use super::memory::*;
use super::module::*;
use super::other::*;
use super::stream::*;
use crate::device::code::Code;
use std::ffi::{CStr, c_char, c_int, c_void};

macro_rules! table {
    ($($name:ident),* $(,)?) => {
        /// All functions, by the names under which they are exported.
        fn find(name: &str) -> Option<*mut c_void> {
            match name {
                $(stringify!($name) => Some($name as *const c_void as *mut c_void),)*
                _ => None,
            }
        }
    };
}

table! {
    cuInit, cuDriverGetVersion, cuGetErrorName, cuGetErrorString, cuDeviceGetCount, cuDeviceGet, cuDeviceGetName, cuDeviceGetUuid, cuDeviceGetUuid_v2,
    cuDeviceTotalMem_v2, cuDeviceGetAttribute, cuDeviceComputeCapability, cuDeviceCanAccessPeer, cuDevicePrimaryCtxRetain,
    cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset_v2,
    cuDevicePrimaryCtxSetFlags, cuDevicePrimaryCtxSetFlags_v2, cuDevicePrimaryCtxGetState, cuCtxSetCurrent, cuCtxGetCurrent,
    cuCtxPushCurrent_v2, cuCtxPopCurrent_v2, cuCtxGetDevice, cuCtxGetFlags, cuCtxSynchronize, cuCtxGetStreamPriorityRange,
    cuCtxEnablePeerAccess, cuCtxDisablePeerAccess, cuMemAlloc_v2, cuMemFree_v2, cuMemAllocAsync, cuMemFreeAsync, cuMemGetInfo_v2,
    cuMemGetAddressRange_v2, cuMemHostAlloc, cuMemAllocHost_v2, cuMemFreeHost, cuMemHostRegister_v2, cuMemHostUnregister,
    cuMemHostGetDevicePointer_v2, cuPointerGetAttribute, cuMemcpy, cuMemcpyAsync, cuMemcpyHtoD_v2, cuMemcpyDtoH_v2, cuMemcpyDtoD_v2,
    cuMemcpyHtoDAsync_v2, cuMemcpyDtoHAsync_v2, cuMemcpyDtoDAsync_v2, cuMemcpyPeer, cuMemcpyPeerAsync, cuMemsetD8_v2, cuMemsetD16_v2,
    cuMemsetD32_v2, cuMemsetD8Async, cuMemsetD16Async, cuMemsetD32Async, cuStreamCreate, cuStreamCreateWithPriority, cuStreamDestroy_v2,
    cuStreamSynchronize, cuStreamQuery, cuStreamWaitEvent, cuStreamGetPriority, cuStreamGetFlags, cuStreamGetCtx, cuStreamBeginCapture_v2,
    cuStreamEndCapture, cuStreamIsCapturing, cuStreamGetCaptureInfo, cuStreamGetCaptureInfo_v2, cuStreamGetCaptureInfo_v3,
    cuThreadExchangeStreamCaptureMode, cuStreamAttachMemAsync, cuLaunchHostFunc, cuEventCreate, cuEventDestroy_v2, cuEventRecord,
    cuEventRecordWithFlags, cuEventQuery, cuEventSynchronize, cuEventElapsedTime, cuEventElapsedTime_v2, cuModuleLoadData,
    cuModuleLoadDataEx, cuModuleUnload, cuModuleGetFunction, cuModuleGetGlobal_v2, cuFuncGetAttribute, cuFuncSetAttribute,
    cuFuncSetCacheConfig, cuOccupancyMaxActiveBlocksPerMultiprocessor, cuLaunchKernel, cuLaunchKernelEx, cuLaunchCooperativeKernel,
    cuGraphCreate, cuGraphDestroy, cuGraphInstantiate, cuGraphInstantiate_v2, cuGraphInstantiateWithFlags, cuGraphUpload, cuGraphLaunch,
    cuGraphExecDestroy, cuGraphExecUpdate_v2, cuGraphGetNodes, cuGraphGetRootNodes, cuGraphNodeGetType, cuGraphExecKernelNodeSetParams_v2, cuCtxGetLimit, cuCtxSetLimit, cuCtxGetCacheConfig,
    cuCtxSetCacheConfig, cuCtxSetFlags, cuDeviceGetPCIBusId, cuDeviceGetDefaultMemPool, cuDeviceGetMemPool, cuDeviceSetMemPool,
    cuMemPoolGetAttribute, cuMemPoolSetAttribute, cuMemPoolTrimTo, cuMemAllocFromPoolAsync, cuMemAllocManaged, cuModuleLoad, cuFuncGetModule,
    cuFuncGetParamInfo, cuFuncLoad, cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, cuOccupancyAvailableDynamicSMemPerBlock,
    cuProfilerStart, cuProfilerStop, cuGetProcAddress, cuGetProcAddress_v2,
}

/// The newest form of a function, by its name in the header.
fn newest(name: &str) -> Option<*mut c_void> {
    if name == "cuGraphInstantiate" {
        return find("cuGraphInstantiateWithFlags");
    }
    ["_v3", "_v2", ""].iter().find_map(|end| find(&format!("{name}{end}"))).or_else(|| find(name))
}

fn look_up(symbol: *const c_char, function: *mut *mut c_void) -> Result<(), Code> {
    if symbol.is_null() || function.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller's text and pointer.
    let found = newest(&unsafe { CStr::from_ptr(symbol) }.to_string_lossy());
    // SAFETY: as above.
    unsafe { *function = found.unwrap_or(std::ptr::null_mut()) };
    found.map(drop).ok_or(Code::NOT_FOUND)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(symbol: *const c_char, function: *mut *mut c_void, _version: c_int, _flags: u64) -> i32 {
    look_up(symbol, function).map_or_else(|c| c.0, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    function: *mut *mut c_void,
    _version: c_int,
    _flags: u64,
    status: *mut c_int,
) -> i32 {
    let result = look_up(symbol, function);
    // SAFETY: the caller's pointer. 1: no such symbol.
    unsafe { super::offer(status, c_int::from(result.is_err())) };
    result.map_or_else(|c| c.0, |()| 0)
}
