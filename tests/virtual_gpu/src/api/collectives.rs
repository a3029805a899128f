//! The part of the library of sums over devices (NCCL) that the device runtime calls.

use super::give;
use crate::device::capture;
use crate::device::code::{Answer, Code};
use crate::device::collective::{Clique, Element, Meet, Part, come};
use crate::device::state::{Held, Kind, Node, hold};
use crate::device::work::{IN_HOST_FUNCTION, Work};
use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// Results of this library.
const UNHANDLED: c_int = 1;
const INTERNAL: c_int = 3;
const INVALID_ARGUMENT: c_int = 4;
const INVALID_USAGE: c_int = 5;

/// A call within a group: the communicator, the stream, the array.
type Asked = (u64, u64, Part);

thread_local! {
    /// Groups that are open, and what was asked for in them.
    static GROUP: RefCell<(u32, Vec<Asked>)> = const { RefCell::new((0, Vec::new())) };
}

fn call(f: impl FnOnce(&mut Held) -> Result<(), c_int>) -> c_int {
    if IN_HOST_FUNCTION.get() {
        return INVALID_USAGE;
    }
    let run = || {
        let mut state = hold();
        if !state.initialized {
            return Err(UNHANDLED);
        }
        f(&mut state)
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status,
        Err(_) => INTERNAL,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller's pointer.
    call(|_| unsafe { give(version, 22_703) }.map_err(|_| INVALID_ARGUMENT))
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(result: c_int) -> *const c_char {
    match result {
        0 => c"no error",
        UNHANDLED => c"unhandled cuda error",
        INTERNAL => c"internal error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        _ => c"unknown result code",
    }
    .as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitAll(communicators: *mut *mut c_void, count: c_int, devices: *const c_int) -> c_int {
    call(|state| {
        if communicators.is_null() || count < 1 {
            return Err(INVALID_ARGUMENT);
        }
        let device = |k: c_int| {
            if devices.is_null() {
                k
            } else {
                // SAFETY: as many as the caller says.
                unsafe { *devices.add(k as usize) }
            }
        };
        let all: Vec<c_int> = (0..count).map(device).collect();
        let there = |d: &c_int| usize::try_from(*d).is_ok_and(|d| d < state.devices.len());
        // Each device once, as the library has it.
        if !all.iter().all(there) || (0..all.len()).any(|k| all[..k].contains(&all[k])) {
            return Err(INVALID_USAGE);
        }
        state.next_handle += 1;
        let clique = state.next_handle;
        state.cliques.insert(clique, Clique::new(all.iter().map(|&d| d as usize).collect()));
        for rank in 0..all.len() {
            let handle = state.handle(Kind::Communicator);
            state.communicators.insert(handle, (clique, rank));
            // SAFETY: the caller has room for all.
            unsafe { *communicators.add(rank) = handle as *mut c_void };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommDestroy(communicator: *mut c_void) -> c_int {
    call(|state| state.communicators.remove(&(communicator as u64)).map(drop).ok_or(INVALID_ARGUMENT))
}

/// Whatever waits for this device, or of this device for others, waits no more.
#[unsafe(no_mangle)]
pub extern "C" fn ncclCommAbort(communicator: *mut c_void) -> c_int {
    call(|state| {
        let (clique, _) = state.communicators.remove(&(communicator as u64)).ok_or(INVALID_ARGUMENT)?;
        state.cliques.remove(&clique);
        for op in state.ops.values_mut() {
            if matches!(op.work, Work::Absent) {
                op.work = Work::Nothing;
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> c_int {
    GROUP.with_borrow_mut(|g| g.0 += 1);
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> c_int {
    let asked = GROUP.with_borrow_mut(|g| {
        if g.0 == 0 {
            return None;
        }
        g.0 -= 1;
        Some(if g.0 == 0 { std::mem::take(&mut g.1) } else { Vec::new() })
    });
    let Some(asked) = asked else { return INVALID_USAGE };
    call(|state| launch(state, asked))
}

/// The calls of a group: those of one communicator are one meeting.
fn launch(state: &mut Held, asked: Vec<Asked>) -> Result<(), c_int> {
    let mut meets: Vec<(u64, u64, Meet)> = Vec::new();
    for (communicator, stream, part) in asked {
        let &(clique, rank) = state.communicators.get(&communicator).ok_or(INVALID_ARGUMENT)?;
        let device = state.cliques.get(&clique).ok_or(INVALID_ARGUMENT)?.devices[rank];
        match meets.iter_mut().find(|m| m.0 == communicator) {
            Some((_, theirs, meet)) if *theirs == stream => meet.parts.push(part),
            Some(_) => return Err(INVALID_USAGE),
            None => meets.push((communicator, stream, Meet { clique, rank, device, parts: vec![part] })),
        }
    }
    let recorded = |state: &Held, stream: u64| state.streams.get(&stream).is_some_and(|s| s.capture.is_some());
    let captured = meets.iter().filter(|m| recorded(state, m.1)).count();
    // Either all devices record, or none does.
    if captured != 0 && captured != meets.len() {
        return Err(INVALID_USAGE);
    }
    for (_, stream, meet) in meets {
        queue(state, stream, Arc::new(meet)).map_err(|_| UNHANDLED)?;
    }
    Ok(())
}

fn queue(state: &mut Held, stream: u64, meet: Arc<Meet>) -> Answer {
    let s = state.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
    if s.capture.is_none() {
        state.log.launched("ncclAllReduce");
        return come(state, stream, &meet);
    }
    let capture = capture::usable(state, stream)?;
    let s = state.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
    let deps = std::mem::take(&mut s.nodes);
    let graph = state.captures.get_mut(&capture).ok_or(Code::ILLEGAL_STATE)?;
    graph.nodes.push(Node { work: Work::Meet(meet), deps });
    let n = graph.nodes.len() - 1;
    state.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?.nodes = vec![n];
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclAllReduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: c_int,
    how: c_int,
    communicator: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let (Some(element), 0 | 2) = (Element::parse(element), how) else { return INVALID_ARGUMENT };
    let part = Part { from: from as u64, to: to as u64, count: count as u64, element, largest: how == 2 };
    let mut known = 0;
    let result = call(|state| {
        let &(clique, rank) = state.communicators.get(&(communicator as u64)).ok_or(INVALID_ARGUMENT)?;
        let device = state.cliques.get(&clique).ok_or(INVALID_ARGUMENT)?.devices[rank];
        known = state.stream(stream as u64, device).map_err(|_| INVALID_ARGUMENT)?;
        Ok(())
    });
    if result != 0 {
        return result;
    }
    let asked = (communicator as u64, known, part);
    if GROUP.with_borrow_mut(|g| {
        let open = g.0 > 0;
        if open {
            g.1.push(asked);
        }
        open
    }) {
        return 0;
    }
    call(|state| launch(state, vec![asked]))
}
