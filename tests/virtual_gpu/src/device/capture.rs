//! Recording of streams into graphs.

use super::code::{Answer, Code};
use super::state::{Held, Node, State};
use std::cell::Cell;
use std::thread::ThreadId;

/// How much else is forbidden while a capture is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To all threads.
    Global,
    /// To the thread that has begun it.
    Thread,
    /// Nothing.
    Relaxed,
}

impl Mode {
    /// As the interface numbers them.
    pub fn parse(n: u32) -> Answer<Mode> {
        match n {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::Thread),
            2 => Ok(Mode::Relaxed),
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

thread_local! {
    /// What this thread has asked for by `cuThreadExchangeStreamCaptureMode`.
    pub static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// A capture under way.
pub struct Capture {
    pub origin: u64,
    pub device: usize,
    pub mode: Mode,
    pub thread: ThreadId,
    pub invalid: bool,
    pub nodes: Vec<Node>,
}

/// Begins a capture.
pub fn begin(state: &mut Held, stream: u64, mode: Mode) -> Answer {
    let s = state.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
    if s.capture.is_some() {
        return Err(Code::ILLEGAL_STATE);
    }
    if stream == state.devices[s.device].null {
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
    }
    let device = s.device;
    state.next_handle += 1;
    let id = state.next_handle;
    let thread = std::thread::current().id();
    state.captures.insert(id, Capture { origin: stream, device, mode, thread, invalid: false, nodes: Vec::new() });
    let s = state.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
    s.capture = Some(id);
    s.nodes.clear();
    Ok(())
}

/// The capture of a stream, if it is still good.
pub fn usable(state: &State, stream: u64) -> Answer<u64> {
    let id = state.streams.get(&stream).and_then(|s| s.capture).ok_or(Code::ILLEGAL_STATE)?;
    match state.captures.get(&id) {
        Some(capture) if !capture.invalid => Ok(id),
        _ => Err(Code::STREAM_CAPTURE_INVALIDATED),
    }
}

/// Spoils a capture.
pub fn invalidate(state: &mut State, id: u64) {
    if let Some(capture) = state.captures.get_mut(&id) {
        capture.invalid = true;
    }
}

/// A call that must not be made on a stream that is recorded.
pub fn forbidden_on(state: &mut State, stream: u64) -> Answer {
    if let Some(id) = state.streams.get(&stream).and_then(|s| s.capture) {
        let already = state.captures.get(&id).is_none_or(|c| c.invalid);
        invalidate(state, id);
        return Err(if already { Code::STREAM_CAPTURE_INVALIDATED } else { Code::STREAM_CAPTURE_UNSUPPORTED });
    }
    Ok(())
}

/// A call that is not safe while something is recorded: whoever forbids it is spoiled.
pub fn unsafe_call(state: &mut State) -> Answer {
    let me = std::thread::current().id();
    let mode = THREAD_MODE.get();
    let forbids = |c: &Capture| match (mode, c.mode) {
        (Mode::Relaxed, _) | (_, Mode::Relaxed) => false,
        (Mode::Global, Mode::Global) => true,
        _ => c.thread == me,
    };
    let mut forbidden = false;
    for capture in state.captures.values_mut().filter(|c| !c.invalid && forbids(c)) {
        capture.invalid = true;
        forbidden = true;
    }
    if forbidden { Err(Code::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
}

/// Work in the null stream, which would wait for streams that are recorded.
pub fn implicit(state: &mut State, device: usize) -> Answer {
    let all: Vec<u64> = state.streams.values().filter(|s| s.device == device && s.blocking).filter_map(|s| s.capture).collect();
    for id in &all {
        invalidate(state, *id);
    }
    if all.is_empty() { Ok(()) } else { Err(Code::STREAM_CAPTURE_IMPLICIT) }
}

/// A stream that is recorded, or a fresh one, waits for an event of a capture.
pub fn join(state: &mut State, stream: u64, id: u64, nodes: &[usize]) -> Answer {
    match state.captures.get(&id) {
        Some(capture) if !capture.invalid => {}
        Some(_) => return Err(Code::STREAM_CAPTURE_INVALIDATED),
        // The capture has ended: its events are of no use any more.
        None => return Err(Code::CAPTURED_EVENT),
    }
    let s = state.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
    match s.capture {
        Some(own) if own != id => {
            invalidate(state, own);
            invalidate(state, id);
            return Err(Code::STREAM_CAPTURE_MERGE);
        }
        Some(_) => {}
        None if stream == state.devices[s.device].null => {
            invalidate(state, id);
            return Err(Code::STREAM_CAPTURE_IMPLICIT);
        }
        None => {}
    }
    let s = state.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
    if s.capture.is_none() {
        s.capture = Some(id);
        s.nodes.clear();
    }
    s.nodes.extend(nodes);
    s.nodes.sort_unstable();
    s.nodes.dedup();
    Ok(())
}

/// Ends a capture; gives what was recorded.
pub fn end(state: &mut Held, stream: u64) -> Answer<(usize, Vec<Node>)> {
    let id = state.streams.get(&stream).and_then(|s| s.capture).ok_or(Code::ILLEGAL_STATE)?;
    let capture = state.captures.get(&id).ok_or(Code::ILLEGAL_STATE)?;
    if capture.origin != stream {
        invalidate(state, id);
        return Err(Code::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.thread != std::thread::current().id() && capture.mode != Mode::Relaxed {
        return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
    }
    let capture = state.captures.remove(&id).ok_or(Code::ILLEGAL_STATE)?;
    let mut joined = vec![false; capture.nodes.len()];
    let mut stack = state.streams[&stream].nodes.clone();
    while let Some(n) = stack.pop() {
        if !std::mem::replace(&mut joined[n], true) {
            stack.extend(&capture.nodes[n].deps);
        }
    }
    let mut open = false;
    for s in state.streams.values_mut().filter(|s| s.capture == Some(id)) {
        open |= s.nodes.iter().any(|n| !joined[*n]);
        s.capture = None;
        s.nodes.clear();
    }
    if capture.invalid {
        return Err(Code::STREAM_CAPTURE_INVALIDATED);
    }
    if open {
        return Err(Code::STREAM_CAPTURE_UNJOINED);
    }
    Ok((capture.device, capture.nodes))
}
