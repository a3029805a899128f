//! Streams, and their recording.

use super::{give, here, offer, safe};
use crate::device::capture::{self, Mode, THREAD_MODE};
use crate::device::code::Code;
use crate::device::drain::{block_on, enqueue, progress, tail};
use crate::device::state::{Kind, Stream, context_handle};
use crate::device::work::{HostFn, Work};
use std::ffi::{c_int, c_uint, c_void};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(stream: *mut *mut c_void, flags: c_uint, priority: c_int) -> i32 {
    here(|state, device| {
        if flags > 1 || stream.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let handle = state.handle(Kind::Stream);
        let new = Stream { priority: priority.clamp(-5, 0), flags, ..Stream::new(device, flags == 0) };
        state.streams.insert(handle, new);
        // SAFETY: the caller's pointer.
        unsafe { give(stream, handle as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, flags: c_uint) -> i32 {
    // SAFETY: as above.
    unsafe { cuStreamCreateWithPriority(stream, flags, 0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> i32 {
    here(|state, device| {
        let handle = stream as u64;
        if handle <= 2 {
            return Err(Code::INVALID_HANDLE);
        }
        let handle = state.stream(handle, device)?;
        if let Some(id) = state.streams[&handle].capture {
            capture::invalidate(state, id);
        }
        // Work that is queued is still done: what waits for it knows it by its number. Later work of the null stream must know it too.
        let left = state.streams.remove(&handle).ok_or(Code::INVALID_HANDLE)?;
        if left.blocking {
            let null = state.stream(0, device)?;
            state.streams.get_mut(&null).ok_or(Code::INVALID_HANDLE)?.tail.extend(left.tail);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        capture::forbidden_on(state, handle)?;
        capture::unsafe_call(state)?;
        if handle == state.devices[device].null {
            capture::implicit(state, device)?;
        }
        let targets = tail(state, handle);
        block_on(state, "cuStreamSynchronize", device, &targets)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: *mut c_void) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        capture::forbidden_on(state, handle)?;
        capture::unsafe_call(state)?;
        let targets = tail(state, handle);
        // Whoever asks often enough sees it done.
        let Some(first) = targets.first().copied() else { return Ok(()) };
        progress(state, Some(first));
        if let Some(code) = state.devices[device].sticky {
            return Err(code);
        }
        if tail(state, handle).is_empty() { Ok(()) } else { Err(Code::NOT_READY) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        let e = state.events.get(&(event as u64)).ok_or(Code::INVALID_HANDLE)?;
        if let Some((id, nodes)) = e.captured.clone() {
            return capture::join(state, handle, id, &nodes);
        }
        let recorded = e.recorded;
        if let Some(id) = state.streams[&handle].capture {
            // An event that was never recorded is nothing to wait for.
            if recorded.is_some() {
                capture::invalidate(state, id);
                return Err(Code::STREAM_CAPTURE_ISOLATION);
            }
            return Ok(());
        }
        if let Some(id) = recorded.filter(|id| state.ops.contains_key(id)) {
            // Something of the stream's own, so that its end is known even if nothing follows.
            enqueue(state, handle, Work::Nothing, &[id])?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(stream: *mut c_void, f: Option<HostFn>, data: *mut c_void) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        let f = f.ok_or(Code::INVALID_VALUE)?;
        enqueue(state, handle, Work::Host { f, data: data as usize }, &[]).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetPriority(stream: *mut c_void, priority: *mut c_int) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        // SAFETY: the caller's pointer.
        unsafe { give(priority, state.streams[&handle].priority) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetFlags(stream: *mut c_void, flags: *mut c_uint) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        // SAFETY: as above.
        unsafe { give(flags, state.streams[&handle].flags) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx(stream: *mut c_void, context: *mut *mut c_void) -> i32 {
    here(|state, device| {
        state.stream(stream as u64, device)?;
        // SAFETY: as above.
        unsafe { give(context, context_handle(device) as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, mode: c_uint) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        capture::begin(state, handle, Mode::parse(mode)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        // SAFETY: the caller's pointer.
        unsafe { give(graph, std::ptr::null_mut())? };
        let recorded = capture::end(state, handle)?;
        let new = state.handle(Kind::Graph);
        state.graphs.insert(new, recorded);
        // SAFETY: as above.
        unsafe { give(graph, new as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: *mut c_void, status: *mut c_uint) -> i32 {
    // SAFETY: as above.
    unsafe { cuStreamGetCaptureInfo(stream, status, std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo(stream: *mut c_void, status: *mut c_uint, id: *mut u64) -> i32 {
    here(|state, device| {
        let handle = state.stream(stream as u64, device)?;
        if handle == state.devices[device].null {
            capture::implicit(state, device)?;
        }
        let capture = state.streams[&handle].capture;
        let found = match capture.and_then(|id| state.captures.get(&id)) {
            None => 0,
            Some(capture) if capture.invalid => 2,
            Some(_) => 1,
        };
        // SAFETY: as above.
        unsafe {
            give(status, found)?;
            offer(id, capture.unwrap_or(0));
        }
        Ok(())
    })
}

/// The graph under way and its last nodes are not told.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: *mut c_void,
    status: *mut c_uint,
    id: *mut u64,
    graph: *mut *mut c_void,
    nodes: *mut *const *mut c_void,
    count: *mut usize,
) -> i32 {
    // SAFETY: the caller's pointers.
    unsafe {
        offer(graph, std::ptr::null_mut());
        offer(nodes, std::ptr::null());
        offer(count, 0);
        cuStreamGetCaptureInfo(stream, status, id)
    }
}

/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: *mut c_void,
    status: *mut c_uint,
    id: *mut u64,
    graph: *mut *mut c_void,
    nodes: *mut *const *mut c_void,
    edges: *mut *const c_void,
    count: *mut usize,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        offer(edges, std::ptr::null());
        cuStreamGetCaptureInfo_v2(stream, status, id, graph, nodes, count)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) -> i32 {
    super::call(|_| {
        if mode.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: as above.
        let new = Mode::parse(unsafe { *mode })?;
        let old = THREAD_MODE.replace(new);
        // SAFETY: as above.
        unsafe { give(mode, old as c_uint) }
    })
}

/// Moves attributes that a stream could have nowhere: there are none that matter here.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamAttachMemAsync(_stream: *mut c_void, _address: u64, _bytes: usize, _flags: c_uint) -> i32 {
    safe(|_, _| Err(Code::NOT_SUPPORTED))
}
