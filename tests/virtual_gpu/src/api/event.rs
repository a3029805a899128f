//! Events.

use super::{give, here};
use crate::device::capture;
use crate::device::code::Code;
use crate::device::drain::{block_on, enqueue, progress};
use crate::device::state::{Event, Kind};
use crate::device::work::Work;
use std::ffi::{c_uint, c_void};

/// No times are taken.
const DISABLE_TIMING: c_uint = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, flags: c_uint) -> i32 {
    here(|state, device| {
        if flags > 7 || event.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let handle = state.handle(Kind::Event);
        let timing = flags & DISABLE_TIMING == 0;
        state.events.insert(handle, Event { device, timing, recorded: None, captured: None, time: None });
        // SAFETY: the caller's pointer.
        unsafe { give(event, handle as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> i32 {
    here(|state, _| state.events.remove(&(event as u64)).map(drop).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> i32 {
    here(|state, device| {
        let handle = event as u64;
        let stream = state.stream(stream as u64, device)?;
        let e = state.events.get(&handle).ok_or(Code::INVALID_HANDLE)?;
        if e.device != device {
            return Err(Code::INVALID_HANDLE);
        }
        if state.streams[&stream].capture.is_some() {
            let id = capture::usable(state, stream)?;
            let nodes = state.streams[&stream].nodes.clone();
            let e = state.events.get_mut(&handle).ok_or(Code::INVALID_HANDLE)?;
            e.captured = Some((id, nodes));
            e.recorded = None;
            return Ok(());
        }
        let e = state.events.get_mut(&handle).ok_or(Code::INVALID_HANDLE)?;
        e.captured = None;
        e.time = None;
        let id = enqueue(state, stream, Work::Record(handle), &[])?;
        if let Some(e) = state.events.get_mut(&handle) {
            e.recorded = id;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: *mut c_void, stream: *mut c_void, _flags: c_uint) -> i32 {
    cuEventRecord(event, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: *mut c_void) -> i32 {
    here(|state, device| {
        capture::unsafe_call(state)?;
        let e = state.events.get(&(event as u64)).ok_or(Code::INVALID_HANDLE)?;
        if e.captured.is_some() {
            return Err(Code::CAPTURED_EVENT);
        }
        let Some(id) = e.recorded.filter(|id| state.ops.contains_key(id)) else { return Ok(()) };
        progress(state, Some(id));
        if let Some(code) = state.devices[device].sticky {
            return Err(code);
        }
        if state.ops.contains_key(&id) { Err(Code::NOT_READY) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: *mut c_void) -> i32 {
    here(|state, device| {
        capture::unsafe_call(state)?;
        let e = state.events.get(&(event as u64)).ok_or(Code::INVALID_HANDLE)?;
        if e.captured.is_some() {
            return Err(Code::CAPTURED_EVENT);
        }
        let targets: Vec<u64> = e.recorded.into_iter().collect();
        block_on(state, "cuEventSynchronize", device, &targets)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: *mut c_void, end: *mut c_void) -> i32 {
    here(|state, _| {
        let mut times = Vec::new();
        for handle in [start, end] {
            let e = state.events.get(&(handle as u64)).ok_or(Code::INVALID_HANDLE)?;
            if !e.timing || e.recorded.is_none() {
                return Err(Code::INVALID_HANDLE);
            }
            if e.recorded.is_some_and(|id| state.ops.contains_key(&id)) {
                return Err(Code::NOT_READY);
            }
            times.push(e.time.ok_or(Code::INVALID_HANDLE)?);
        }
        let passed =
            times[1].saturating_duration_since(times[0]).as_secs_f64() - times[0].saturating_duration_since(times[1]).as_secs_f64();
        // SAFETY: the caller's pointer.
        unsafe { give(milliseconds, (1e3 * passed) as f32) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: *mut c_void, end: *mut c_void) -> i32 {
    // SAFETY: as above.
    unsafe { cuEventElapsedTime(milliseconds, start, end) }
}
