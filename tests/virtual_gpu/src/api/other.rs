//! Calls that programs make beside the point: limits, pools, profilers.

use super::context::cuDeviceGetAttribute;
use super::memory::cuMemAllocAsync;
use super::module::{cuModuleLoadData, cuOccupancyMaxActiveBlocksPerMultiprocessor};
use super::{attribute, call, give, here};
use crate::device::code::{Answer, Code};
use crate::device::module::function;
use crate::options::options;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;

/// Stack, heap and others of a thread, by their number; what is set is taken and changes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetLimit(value: *mut usize, limit: c_uint) -> i32 {
    here(|_, _| {
        let found = match limit {
            0 => crate::exec::program::RECURSIVE_BYTES,
            1 => 1 << 20,
            2 => 8 << 20,
            _ => return Err(Code::INVALID_VALUE),
        };
        // SAFETY: the caller's pointer.
        unsafe { give(value, found) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: c_uint, _value: usize) -> i32 {
    here(|_, _| if limit <= 6 { Ok(()) } else { Err(Code::INVALID_VALUE) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCacheConfig(config: *mut c_uint) -> i32 {
    // SAFETY: as above.
    here(|_, _| unsafe { give(config, 0) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(config: c_uint) -> i32 {
    here(|_, _| if config <= 3 { Ok(()) } else { Err(Code::INVALID_VALUE) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: c_uint) -> i32 {
    here(|state, device| {
        state.devices[device].flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(text: *mut c_char, len: c_int, device: c_int) -> i32 {
    let mut found = 0;
    // SAFETY: a pointer of ours; checks the number of the device.
    let code = unsafe { cuDeviceGetAttribute(&mut found, 1, device) };
    if code != 0 {
        return code;
    }
    call(|_| {
        let id = format!("0000:{:02X}:00.0\0", device + 1);
        if text.is_null() || (len as usize) < id.len() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller has so many bytes.
        unsafe { std::ptr::copy_nonoverlapping(id.as_ptr().cast(), text, id.len()) };
        Ok(())
    })
}

/// The one pool that a device has.
const POOL: u64 = 0x6700_00F0_0000_0010;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut *mut c_void, device: c_int) -> i32 {
    call(|state| {
        if device < 0 || device as usize >= state.devices.len() {
            return Err(Code::INVALID_DEVICE);
        }
        // SAFETY: the caller's pointer.
        unsafe { give(pool, (POOL + 16 * device as u64) as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut *mut c_void, device: c_int) -> i32 {
    // SAFETY: as above.
    unsafe { cuDeviceGetDefaultMemPool(pool, device) }
}

fn is_pool(state: &crate::device::state::State, pool: *mut c_void) -> Answer {
    let n = (pool as u64).wrapping_sub(POOL) / 16;
    if n < state.devices.len() as u64 { Ok(()) } else { Err(Code::INVALID_VALUE) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(_device: c_int, pool: *mut c_void) -> i32 {
    call(|state| is_pool(state, pool))
}

/// Attributes of a pool are taken and change nothing: memory is given back at once.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(pool: *mut c_void, _attribute: c_uint, _value: *mut c_void) -> i32 {
    call(|state| is_pool(state, pool))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(pool: *mut c_void, _attribute: c_uint, value: *mut u64) -> i32 {
    call(|state| {
        is_pool(state, pool)?;
        // SAFETY: as above.
        unsafe { give(value, 0) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: *mut c_void, _bytes: usize) -> i32 {
    call(|state| is_pool(state, pool))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocFromPoolAsync(address: *mut u64, bytes: usize, pool: *mut c_void, stream: *mut c_void) -> i32 {
    match call(|state| is_pool(state, pool)) {
        // SAFETY: as above.
        0 => unsafe { cuMemAllocAsync(address, bytes, stream) },
        code => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocManaged(_address: *mut u64, _bytes: usize, _flags: c_uint) -> i32 {
    here(|_, _| Err(Code::NOT_SUPPORTED))
}

/// A module from a file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: *mut *mut c_void, path: *const c_char) -> i32 {
    if path.is_null() {
        return Code::INVALID_VALUE.0;
    }
    // SAFETY: the caller's text.
    let path = std::ffi::OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes());
    match std::fs::read(path).ok().and_then(|bytes| CString::new(bytes).ok()) {
        // SAFETY: a text that ends with a zero.
        Some(text) => unsafe { cuModuleLoadData(module, text.as_ptr().cast()) },
        None => 301,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetModule(module: *mut *mut c_void, f: *mut c_void) -> i32 {
    here(|state, device| {
        let found = function(state, f as u64, device)?.module;
        // SAFETY: as above.
        unsafe { give(module, found as *mut c_void) }
    })
}

/// Where a parameter lies; `INVALID_VALUE` after the last one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(f: *mut c_void, number: usize, offset: *mut usize, bytes: *mut usize) -> i32 {
    here(|state, device| {
        let found = *function(state, f as u64, device)?.program.params.get(number).ok_or(Code::INVALID_VALUE)?;
        // SAFETY: as above.
        unsafe {
            super::offer(bytes, found.bytes);
            give(offset, found.offset)
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncLoad(f: *mut c_void) -> i32 {
    here(|state, device| function(state, f as u64, device).map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    f: *mut c_void,
    threads: c_int,
    dynamic: usize,
    _flags: c_uint,
) -> i32 {
    // SAFETY: as above.
    unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, f, threads, dynamic) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: *mut usize, f: *mut c_void, blocks: c_int, _threads: c_int) -> i32 {
    here(|state, device| {
        let found = function(state, f as u64, device)?;
        if blocks < 1 {
            return Err(Code::INVALID_VALUE);
        }
        let all = (attribute::shared_limit(options().capability) + 1024) / blocks as usize;
        // SAFETY: as above.
        unsafe { give(bytes, all.saturating_sub(1024 + found.program.shared).min(found.dynamic)) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> i32 {
    here(|_, _| Ok(()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> i32 {
    here(|_, _| Ok(()))
}
