//! The driver interface, by its names in C.

pub mod attribute;
pub mod collectives;
pub mod context;
pub mod event;
pub mod graph;
pub mod launch;
pub mod memory;
pub mod module;
pub mod other;
pub mod products;
pub mod stream;
mod table;

pub use table::{cuGetProcAddress, cuGetProcAddress_v2};

use crate::device::capture;
use crate::device::code::{Answer, Code};
use crate::device::state::{Held, hold};
use crate::device::work::IN_HOST_FUNCTION;

/// Runs a call: not within a host function, not before `cuInit`, and without unwinding into the caller.
fn call(f: impl FnOnce(&mut Held) -> Answer) -> i32 {
    if IN_HOST_FUNCTION.get() {
        return Code::NOT_PERMITTED.0;
    }
    let run = || {
        let mut state = hold();
        if !state.initialized {
            return Err(Code::NOT_INITIALIZED);
        }
        f(&mut state)
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code.0,
        Err(_) => Code::UNKNOWN.0,
    }
}

/// A call in the current context, whose device it gets.
fn here(f: impl FnOnce(&mut Held, usize) -> Answer) -> i32 {
    call(|state| {
        let device = context::current(state)?;
        f(state, device)
    })
}

/// A call that may not be made while something is captured.
fn safe(f: impl FnOnce(&mut Held, usize) -> Answer) -> i32 {
    here(|state, device| {
        capture::unsafe_call(state)?;
        f(state, device)
    })
}

/// Writes a result to where the caller wants it.
///
/// # Safety
/// The pointer is null or may be written.
unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: as above.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a result if the caller wants it.
///
/// # Safety
/// As for [`give`].
unsafe fn offer<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: as above.
        unsafe { to.write(value) };
    }
}
