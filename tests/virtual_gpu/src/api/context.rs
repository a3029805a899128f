//! The driver, devices and contexts.

use super::{attribute, call, give, here, offer, safe};
use crate::device::code::{Answer, CODES, Code};
use crate::device::drain::{all_of, block_on};
use crate::device::state::{Device, Held, context_handle, device_of, hold};
use crate::device::{capture, log, work};
use crate::options::options;
use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint, c_void};

thread_local! {
    /// Contexts of this thread; the last is current. Zeros are none.
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The device of the current context, if it can be used.
pub(super) fn current(state: &Held) -> Answer<usize> {
    let handle = STACK.with_borrow(|s| s.last().copied().unwrap_or(0));
    if handle == 0 {
        return Err(Code::INVALID_CONTEXT);
    }
    let device = device_of(handle)?;
    if state.devices[device].retained == 0 {
        return Err(Code::CONTEXT_IS_DESTROYED);
    }
    state.devices[device].sticky.map_or(Ok(device), Err)
}

fn ordinal(state: &Held, device: c_int) -> Answer<usize> {
    if device >= 0 && (device as usize) < state.devices.len() { Ok(device as usize) } else { Err(Code::INVALID_DEVICE) }
}

extern "C" fn at_exit() {
    log::write();
}

unsafe extern "C" {
    fn atexit(f: extern "C" fn()) -> c_int;
}

/// Starts the driver.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> i32 {
    if flags != 0 {
        return Code::INVALID_VALUE.0;
    }
    let mut state = hold();
    if state.initialized {
        return 0;
    }
    let devices = options().devices;
    if devices == 0 {
        return Code::NO_DEVICE.0;
    }
    state.initialized = true;
    state.devices = (0..devices).map(|_| Device::default()).collect();
    state.chance = work::chance();
    if options().log.is_some() {
        // SAFETY: a function that stays as long as this library does, which is never taken out again.
        unsafe { atexit(at_exit) };
    }
    0
}

/// Makes the driver as fresh as before `cuInit`, with settings; for tests within this process.
pub fn restart(new: crate::options::Options) {
    *options() = new;
    let mut state = hold();
    for device in 0..state.devices.len() {
        tear_down(&mut state, device);
    }
    state.initialized = false;
    state.captures.clear();
    state.log = log::Log::default();
    drop(state);
    STACK.with_borrow_mut(Vec::clear);
}

/// The counters as JSON; for tests within this process.
pub fn counters() -> String {
    hold().log.json()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> i32 {
    // SAFETY: the caller's pointer.
    unsafe { give(version, 13000) }.map_or_else(|c| c.0, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: c_int, text: *mut *const c_char) -> i32 {
    let found = CODES.iter().find(|c| c.0 == error);
    // SAFETY: the caller's pointer; texts end with zeros.
    unsafe { give(text, found.map_or(std::ptr::null(), |c| c.1.as_ptr().cast())) }.ok();
    if found.is_some() { 0 } else { Code::INVALID_VALUE.0 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> i32 {
    let found = CODES.iter().find(|c| c.0 == error);
    // SAFETY: as above.
    unsafe { give(text, found.map_or(std::ptr::null(), |c| c.2.as_ptr().cast())) }.ok();
    if found.is_some() { 0 } else { Code::INVALID_VALUE.0 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> i32 {
    // SAFETY: the caller's pointer.
    call(|state| unsafe { give(count, state.devices.len() as c_int) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, number: c_int) -> i32 {
    call(|state| {
        let n = ordinal(state, number)?;
        // SAFETY: as above.
        unsafe { give(device, n as c_int) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> i32 {
    call(|state| {
        ordinal(state, device)?;
        if name.is_null() || len < 1 {
            return Err(Code::INVALID_VALUE);
        }
        let text = format!("Virtual GPU (sm_{})", options().capability);
        let n = text.len().min(len as usize - 1);
        // SAFETY: the caller has so many bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), n);
            *name.add(n) = 0;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> i32 {
    call(|state| {
        let n = ordinal(state, device)?;
        let mut bytes = *b"virtual-gpu-0000";
        bytes[15] = b'0' + n as u8 % 10;
        bytes[14] = b'0' + n as u8 / 10;
        // SAFETY: the caller's pointer.
        unsafe { give(uuid, bytes) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> i32 {
    // SAFETY: as above.
    unsafe { cuDeviceGetUuid_v2(uuid, device) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> i32 {
    call(|state| {
        ordinal(state, device)?;
        // SAFETY: as above.
        unsafe { give(bytes, options().memory as usize) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, number: c_int, device: c_int) -> i32 {
    call(|state| {
        ordinal(state, device)?;
        let found = attribute::attribute(number, options().capability).ok_or(Code::INVALID_VALUE)?;
        // SAFETY: as above.
        unsafe { give(value, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, device: c_int) -> i32 {
    // SAFETY: as above.
    unsafe {
        match cuDeviceGetAttribute(major, 75, device) {
            0 => cuDeviceGetAttribute(minor, 76, device),
            other => other,
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) -> i32 {
    call(|state| {
        let (device, peer) = (ordinal(state, device)?, ordinal(state, peer)?);
        // SAFETY: as above.
        unsafe { give(can, c_int::from(device != peer)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> i32 {
    call(|state| {
        let n = ordinal(state, device)?;
        // SAFETY: as above.
        unsafe { give(context, context_handle(n) as *mut c_void)? };
        state.devices[n].retained += 1;
        Ok(())
    })
}

/// Ends all that belongs to a device's context.
fn tear_down(state: &mut Held, device: usize) {
    let gone = state.ops.iter().filter(|(_, op)| op.device == device && !op.running).map(|(id, _)| *id).collect::<Vec<_>>();
    gone.iter().for_each(|id| drop(state.ops.remove(id)));
    while state.ops.values().any(|op| op.device == device) {
        state.wait();
    }
    state.streams.retain(|_, s| s.device != device);
    state.own.retain(|(_, d), _| *d != device);
    state.events.retain(|_, e| e.device != device);
    for module in state.modules.values().filter(|m| m.device == device) {
        module.alive.store(false, std::sync::atomic::Ordering::Relaxed);
    }
    state.modules.retain(|_, m| m.device != device);
    state.functions.retain(|_, f| f.device != device);
    state.graphs.retain(|_, g| g.0 != device);
    state.execs.retain(|_, e| e.device != device);
    for base in state.heap.of(device) {
        let remains = state.heap.free(base);
        state.remains.extend(remains);
    }
    if state.running == 0 {
        state.remains.clear();
    }
    state.devices[device] = Device { flags: state.devices[device].flags, ..Device::default() };
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> i32 {
    let mut last = false;
    let code = call(|state| {
        let n = ordinal(state, device)?;
        if state.devices[n].retained == 0 {
            return Err(Code::INVALID_CONTEXT);
        }
        state.devices[n].retained -= 1;
        if state.devices[n].retained == 0 {
            tear_down(state, n);
            last = true;
        }
        Ok(())
    });
    if last {
        log::write();
    }
    code
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease(device: c_int) -> i32 {
    cuDevicePrimaryCtxRelease_v2(device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> i32 {
    call(|state| {
        let n = ordinal(state, device)?;
        let retained = state.devices[n].retained;
        tear_down(state, n);
        state.devices[n].retained = retained;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset(device: c_int) -> i32 {
    cuDevicePrimaryCtxReset_v2(device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) -> i32 {
    call(|state| {
        let n = ordinal(state, device)?;
        state.devices[n].flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags(device: c_int, flags: c_uint) -> i32 {
    cuDevicePrimaryCtxSetFlags_v2(device, flags)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) -> i32 {
    call(|state| {
        let n = ordinal(state, device)?;
        // SAFETY: the caller's pointers.
        unsafe {
            give(flags, state.devices[n].flags)?;
            give(active, c_int::from(state.devices[n].retained > 0))
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> i32 {
    call(|state| {
        let handle = context as u64;
        if handle != 0 {
            ordinal(state, device_of(handle)? as c_int).map_err(|_| Code::INVALID_CONTEXT)?;
        }
        STACK.with_borrow_mut(|s| {
            s.pop();
            if handle != 0 {
                s.push(handle);
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> i32 {
    // SAFETY: as above.
    call(|_| unsafe { give(context, STACK.with_borrow(|s| s.last().copied().unwrap_or(0)) as *mut c_void) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: *mut c_void) -> i32 {
    call(|state| {
        ordinal(state, device_of(context as u64)? as c_int).map_err(|_| Code::INVALID_CONTEXT)?;
        STACK.with_borrow_mut(|s| s.push(context as u64));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut *mut c_void) -> i32 {
    call(|_| {
        let top = STACK.with_borrow_mut(|s| s.pop()).ok_or(Code::INVALID_CONTEXT)?;
        // SAFETY: as above.
        unsafe { offer(context, top as *mut c_void) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> i32 {
    // SAFETY: as above.
    here(|_, n| unsafe { give(device, n as c_int) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetFlags(flags: *mut c_uint) -> i32 {
    // SAFETY: as above.
    here(|state, n| unsafe { give(flags, state.devices[n].flags) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> i32 {
    safe(|state, device| {
        let capturing = state.streams.values().any(|s| s.device == device && s.capture.is_some());
        if capturing {
            let all: Vec<u64> = state.captures.iter().filter(|(_, c)| c.device == device).map(|(id, _)| *id).collect();
            all.iter().for_each(|id| capture::invalidate(state, *id));
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let all = all_of(state, device);
        block_on(state, "cuCtxSynchronize", device, &all)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> i32 {
    here(|_, _| {
        // SAFETY: as above.
        unsafe {
            offer(least, 0);
            offer(greatest, -5);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxEnablePeerAccess(peer: *mut c_void, flags: c_uint) -> i32 {
    here(|state, device| {
        let other = device_of(peer as u64)?;
        if flags != 0 || other == device {
            return Err(if flags != 0 { Code::INVALID_VALUE } else { Code::INVALID_DEVICE });
        }
        if state.devices[device].peers >> other & 1 == 1 {
            return Err(Code::PEER_ACCESS_ALREADY_ENABLED);
        }
        state.devices[device].peers |= 1 << other;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDisablePeerAccess(peer: *mut c_void) -> i32 {
    here(|state, device| {
        let other = device_of(peer as u64)?;
        if state.devices[device].peers >> other & 1 == 0 {
            return Err(Code::PEER_ACCESS_NOT_ENABLED);
        }
        state.devices[device].peers &= !(1 << other);
        Ok(())
    })
}
