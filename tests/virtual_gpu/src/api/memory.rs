//! Memory and copies.

use super::{give, here, offer, safe};
use crate::device::capture;
use crate::device::code::{Answer, Code};
use crate::device::drain::{all_of, block_on, enqueue, tail, wait_for};
use crate::device::memory::{host_of, is_device, is_pinned, piece, pin, pin_new, unpin};
use crate::device::state::{Held, OpId, context_handle};
use crate::device::work::{End, Work};
use crate::options::options;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

fn allocate(state: &mut Held, device: usize, bytes: usize, now: bool) -> Answer<u64> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let all = options().memory;
    let fits = |state: &Held| bytes as u64 <= all.saturating_sub(state.devices[device].used);
    if !fits(state) {
        // What streams are about to give back is there when they have come to it.
        let frees = state.ops.iter().filter(|(_, op)| op.device == device && matches!(op.work, Work::Free(_))).map(|(id, _)| *id);
        let frees: Vec<OpId> = frees.collect();
        wait_for(state, &frees);
    }
    if !fits(state) {
        return Err(Code::OUT_OF_MEMORY);
    }
    let address = state.heap.allocate(device, bytes as u64, now)?;
    state.devices[device].used += bytes as u64;
    state.log.allocations += 1;
    let total: u64 = state.devices.iter().map(|d| d.used).sum();
    state.log.peak_bytes = state.log.peak_bytes.max(total);
    Ok(address)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> i32 {
    safe(|state, device| {
        let at = allocate(state, device, bytes, true)?;
        // SAFETY: the caller's pointer.
        unsafe { give(address, at) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> i32 {
    safe(|state, device| {
        if address == 0 {
            return Ok(());
        }
        let len = state.heap.len(address).ok_or(Code::INVALID_VALUE)?;
        // Memory is given back when nothing that was asked for before can need it.
        let all = all_of(state, device);
        block_on(state, "cuMemFree", device, &all)?;
        let (_, _, owner) = piece(address).ok_or(Code::INVALID_VALUE)?;
        let remains = state.heap.free(address).ok_or(Code::INVALID_VALUE)?;
        state.devices[owner].used -= len;
        state.log.frees += 1;
        if state.running == 0 {
            drop(remains);
        } else {
            state.remains.push(remains);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: *mut c_void) -> i32 {
    here(|state, device| {
        let stream = state.stream(stream as u64, device)?;
        if state.streams[&stream].capture.is_some() {
            capture::forbidden_on(state, stream)?;
        }
        let at = allocate(state, device, bytes, false)?;
        enqueue(state, stream, Work::Open(at), &[])?;
        // SAFETY: as above.
        unsafe { give(address, at) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: *mut c_void) -> i32 {
    here(|state, device| {
        let stream = state.stream(stream as u64, device)?;
        capture::forbidden_on(state, stream)?;
        state.heap.len(address).ok_or(Code::INVALID_VALUE)?;
        state.log.frees += 1;
        enqueue(state, stream, Work::Free(address), &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> i32 {
    here(|state, device| {
        let all = options().memory;
        // SAFETY: as above.
        unsafe {
            offer(free, all.saturating_sub(state.devices[device].used) as usize);
            offer(total, all as usize);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(base: *mut u64, size: *mut usize, address: u64) -> i32 {
    here(|_, _| {
        let (start, len, _) = piece(address).ok_or(Code::NOT_FOUND)?;
        // SAFETY: as above.
        unsafe {
            offer(base, start);
            offer(size, len as usize);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) -> i32 {
    safe(|_, _| {
        if bytes == 0 || flags > 7 {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: as above.
        unsafe { give(pointer, pin_new(bytes)? as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) -> i32 {
    // SAFETY: as above.
    unsafe { cuMemHostAlloc(pointer, bytes, 0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> i32 {
    safe(|state, device| {
        if !is_pinned(pointer as usize, 1) {
            return Err(Code::INVALID_VALUE);
        }
        let all = all_of(state, device);
        block_on(state, "cuMemFreeHost", device, &all)?;
        unpin(pointer as usize, true).map(drop)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, _flags: c_uint) -> i32 {
    safe(|_, _| {
        if pointer.is_null() || bytes == 0 || is_device(pointer as u64) {
            return Err(Code::INVALID_VALUE);
        }
        pin(pointer as usize, bytes)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(pointer: *mut c_void) -> i32 {
    safe(|state, device| {
        let all = all_of(state, device);
        block_on(state, "cuMemHostUnregister", device, &all)?;
        unpin(pointer as usize, false).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(address: *mut u64, pointer: *mut c_void, _flags: c_uint) -> i32 {
    here(|_, _| {
        if !is_pinned(pointer as usize, 1) {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: as above.
        unsafe { give(address, pointer as u64) }
    })
}

/// What a pointer is: context, kind of memory, the pointer itself, device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(data: *mut c_void, attribute: c_int, address: u64) -> i32 {
    here(|_, device| {
        let found = piece(address);
        if found.is_none() && !is_pinned(address as usize, 1) {
            return Err(Code::INVALID_VALUE);
        }
        let owner = found.map_or(device, |p| p.2);
        // SAFETY: the caller has room for the attribute.
        unsafe {
            match attribute {
                1 => give(data.cast(), context_handle(owner)),
                2 => give(data.cast(), if found.is_some() { 2u32 } else { 1 }),
                3 | 4 => give(data.cast(), address),
                9 => give(data.cast(), owner as c_int),
                _ => Err(Code::INVALID_VALUE),
            }
        }
    })
}

/// A range of a device's memory that a call names.
fn checked(address: u64, bytes: u64) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    // Memory of a stream becomes memory only later.
    if is_device(address) && (host_of(address, bytes, u64::MAX).is_some() || piece(address).is_none()) {
        Ok(())
    } else {
        Err(Code::INVALID_VALUE)
    }
}

fn reserved_or_live(state: &Held, address: u64, bytes: u64) -> Answer {
    checked(address, bytes)?;
    if bytes > 0 && piece(address).is_none() {
        // Only what is reserved may be named before it is there.
        let known = state.heap.reserved_at(address).is_some_and(|left| bytes <= left);
        return if known { Ok(()) } else { Err(Code::INVALID_VALUE) };
    }
    Ok(())
}

/// A copy in a stream.
fn copy(state: &mut Held, device: usize, stream: *mut c_void, to: End, from: End, bytes: usize) -> Answer {
    let pageable = matches!(to, End::Host(at) if !is_pinned(at, bytes));
    let id = ask(state, device, stream as u64, to, from, bytes)?;
    match id {
        // A copy to memory that may be paged is over when the call is.
        Some(id) if pageable => block_on(state, "copy to pageable memory", device, &[id]),
        _ => Ok(()),
    }
}

/// Asks for a copy.
fn ask(state: &mut Held, device: usize, stream: u64, to: End, from: End, bytes: usize) -> Answer<Option<OpId>> {
    for end in [&to, &from] {
        match end {
            End::Device(address) => reserved_or_live(state, *address, bytes as u64)?,
            End::Host(at) if bytes > 0 && (*at == 0 || is_device(*at as u64)) => return Err(Code::INVALID_VALUE),
            _ => {}
        }
    }
    let stream = state.stream(stream, device)?;
    if state.streams[&stream].capture.is_some() {
        return enqueue(state, stream, Work::Copy { to, from, bytes: bytes as u64 }, &[]);
    }
    let from = match from {
        // Memory that may be paged is taken now.
        End::Host(at) if !is_pinned(at, bytes) => {
            // SAFETY: the caller vouches for it during the call.
            let data = if bytes == 0 { Vec::new() } else { unsafe { std::slice::from_raw_parts(at as *const u8, bytes).to_vec() } };
            End::Staged(Arc::new(data))
        }
        from => from,
    };
    enqueue(state, stream, Work::Copy { to, from, bytes: bytes as u64 }, &[])
}

/// A copy that is over when the call is.
fn copy_now(name: &'static str, to: End, from: End, bytes: usize) -> i32 {
    safe(|state, device| {
        let null = state.stream(0, device)?;
        let before = tail(state, null);
        let between = matches!((&to, &from), (End::Device(_), End::Device(_)));
        let id = ask(state, device, 0, to, from, bytes)?;
        if between {
            // From device to device nobody waits.
            return Ok(());
        }
        let mut all = before;
        all.extend(id);
        block_on(state, name, device, &all)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> i32 {
    copy_now("cuMemcpyHtoD", End::Device(to), End::Host(from as usize), bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> i32 {
    copy_now("cuMemcpyDtoH", End::Host(to as usize), End::Device(from), bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> i32 {
    copy_now("cuMemcpyDtoD", End::Device(to), End::Device(from), bytes)
}

fn end(address: u64) -> End {
    if is_device(address) { End::Device(address) } else { End::Host(address as usize) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> i32 {
    copy_now("cuMemcpy", end(to), end(from), bytes)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> i32 {
    here(|state, device| copy(state, device, stream, end(to), end(from), bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) -> i32 {
    here(|state, device| copy(state, device, stream, End::Device(to), End::Host(from as usize), bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) -> i32 {
    here(|state, device| copy(state, device, stream, End::Host(to as usize), End::Device(from), bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> i32 {
    here(|state, device| copy(state, device, stream, End::Device(to), End::Device(from), bytes))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    _to_context: *mut c_void,
    from: u64,
    _from_context: *mut c_void,
    bytes: usize,
    stream: *mut c_void,
) -> i32 {
    cuMemcpyDtoDAsync_v2(to, from, bytes, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeer(to: u64, _to_context: *mut c_void, from: u64, _from_context: *mut c_void, bytes: usize) -> i32 {
    cuMemcpyDtoD_v2(to, from, bytes)
}

fn set(stream: u64, to: u64, pattern: u32, width: u8, count: usize) -> i32 {
    here(|state, device| {
        if !to.is_multiple_of(width.into()) {
            return Err(Code::INVALID_VALUE);
        }
        reserved_or_live(state, to, count as u64 * u64::from(width))?;
        let stream = state.stream(stream, device)?;
        // Asynchronous for the host in either form.
        enqueue(state, stream, Work::Set { to, pattern, width, count: count as u64 }, &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> i32 {
    set(0, to, value.into(), 1, count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(to: u64, value: u16, count: usize) -> i32 {
    set(0, to, value.into(), 2, count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) -> i32 {
    set(0, to, value, 4, count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: *mut c_void) -> i32 {
    set(stream as u64, to, value.into(), 1, count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: *mut c_void) -> i32 {
    set(stream as u64, to, value.into(), 2, count)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: *mut c_void) -> i32 {
    set(stream as u64, to, value, 4, count)
}
