//! The C interface that the Python package `optc` loads.
//!
//! What is rare (opening a spec, compiling, running a train) is a request and a reply in JSON ([`optc_request`]); what is called often ([`optc_call`], [`optc_step`]) takes
//! addresses. Things live in a table and have numbers, so that a number that is out of date is an error and no crash. All entry points may be called from any thread. No panic
//! crosses the interface: it becomes an error that says it is a bug.

mod call;
mod handles;
mod host;
mod module;
mod request;
mod runs;
mod shared;
mod step;

use crate::handles::Thing;
use optc_abi::plan::CallbackFn;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use std::sync::atomic::Ordering;

/// The number of this interface; it changes when callers must.
const ABI: u32 = 2;

/// Memory for the evaluator's recursion; reserved, not used, until it is needed.
const STACK: usize = 512 << 20;

/// What went wrong, for the caller: an object with `kind`, `message` and, for what is wrong in a spec, `diagnostics`.
pub(crate) type Fault = Box<Value>;

/// A wrong argument.
pub(crate) fn wrong(message: impl Into<String>) -> Fault {
    Box::new(json!({ "kind": "value", "message": message.into() }))
}

thread_local! {
    static PANICKED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics say nothing on standard error; where they happened goes into the reply.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
            PANICKED_AT.with(|p| *p.borrow_mut() = place);
        }));
    });
}

/// Runs `f`; a panic in it is a fault.
fn guarded<T>(f: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    keep_panics();
    std::panic::catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        let what = payload.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| payload.downcast_ref::<String>().cloned());
        let what = what.unwrap_or_else(|| "a panic".to_string());
        let place = PANICKED_AT.with(|p| std::mem::take(&mut *p.borrow_mut()));
        let message = format!(
            "compiler bug: {} ({place}); please report this with the spec; this is optc {}",
            what.strip_prefix("compiler bug: ").unwrap_or(&what),
            env!("CARGO_PKG_VERSION")
        );
        Err(Box::new(json!({ "kind": "bug", "message": message })))
    })
}

/// Runs `f` with a stack that suits deep specs.
pub(crate) fn on_a_deep_stack<T: Send>(f: impl FnOnce() -> Result<T, Fault> + Send) -> Result<T, Fault> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("optc".into()).stack_size(STACK).spawn_scoped(scope, || guarded(f));
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(wrong("a thread ended without a result"))),
            Err(e) => Err(wrong(format!("cannot start a thread: {e}"))),
        }
    })
}

fn to_c(text: String) -> *mut c_char {
    // JSON escapes NUL, so there is none.
    CString::new(text).unwrap_or_default().into_raw()
}

/// Null if all went well, else the fault as JSON, to be freed.
fn outcome(result: Result<(), Fault>) -> *mut c_char {
    match result {
        Ok(()) => std::ptr::null_mut(),
        Err(fault) => to_c(fault.to_string()),
    }
}

/// Elements of C; none where there is no address.
///
/// # Safety
/// There are as many, and they live as long as they are used.
unsafe fn elements<'a, T>(first: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if first.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(first, count) } }
}

/// The number of this interface.
#[unsafe(no_mangle)]
pub extern "C" fn optc_abi() -> u32 {
    ABI
}

/// Answers a request: JSON in, JSON out (`{"ok": …}` or `{"fault": …}`), to be freed with [`optc_free`].
///
/// # Safety
/// `request` is a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn optc_request(request: *const c_char) -> *mut c_char {
    let result = guarded(|| {
        // SAFETY: the caller's promise.
        let text = unsafe { CStr::from_ptr(request) }.to_str().map_err(|_| wrong("a request is UTF-8"))?;
        let request: request::Request = serde_json::from_str(text).map_err(|e| wrong(format!("not a request: {e}")))?;
        request::answer(request)
    });
    to_c(match result {
        Ok(value) => json!({ "ok": value }).to_string(),
        Err(fault) => json!({ "fault": fault }).to_string(),
    })
}

/// Frees a string that this library gave.
///
/// # Safety
/// It is one of this library's, and was not freed before; or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn optc_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: made by `CString::into_raw`.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// Calls a compiled function: addresses of its inputs, then of its outputs. Null if all went well, else the fault as JSON, to be freed.
///
/// # Safety
/// `addresses` holds `count` addresses of arrays of the types that were asked for, aligned to their elements; outputs overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn optc_call(handle: u64, addresses: *const *mut u8, count: usize) -> *mut c_char {
    outcome(guarded(|| match &*handles::get(handle)? {
        Thing::Call(call) => {
            // SAFETY: the caller's promise.
            let addresses = unsafe { elements(addresses, count) };
            // SAFETY: the caller's promise.
            unsafe { call.run(addresses) }
        }
        _ => Err(wrong("this is no function")),
    }))
}

/// Runs a part of an optimizer ([`step::Part`]) on `count` addresses; `scalars` are the loss and the hyperparameters. A step that asks for the loss at other weights calls `callback`
/// ([`optc_elab::optimizer::Question`]); where that gives another number than 0 the step ends, and nothing was changed.
///
/// # Safety
/// As for [`optc_call`]; `scalars` holds as many numbers as `scalar_count` says; the callback does not run this optimizer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn optc_step(
    handle: u64,
    part: u32,
    addresses: *const *mut u8,
    count: usize,
    scalars: *const f64,
    scalar_count: usize,
    seed: u64,
    callback: Option<CallbackFn>,
) -> *mut c_char {
    outcome(guarded(|| match &*handles::get(handle)? {
        Thing::Step(step) => {
            // SAFETY: the caller's promise.
            let (addresses, scalars) = unsafe { (elements(addresses, count), elements(scalars, scalar_count)) };
            // SAFETY: the caller's promise.
            unsafe { step.run(part, addresses, scalars, seed, callback) }
        }
        _ => Err(wrong("this is no optimizer")),
    }))
}

/// Forgets a thing; what still runs on it ends first.
#[unsafe(no_mangle)]
pub extern "C" fn optc_release(handle: u64) {
    drop(guarded(|| {
        handles::remove(handle);
        Ok(())
    }));
}

/// With 1, trains end after the step at hand; with 0, later ones run again.
#[unsafe(no_mangle)]
pub extern "C" fn optc_interrupt(on: u32) {
    optc::trainer::INTERRUPTED.store(on != 0, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_fault_that_names_its_place() {
        let kinds =
            [guarded(|| -> Result<(), Fault> { panic!("compiler bug: a dimension {} got lost", 3) }), on_a_deep_stack(|| panic!("no"))];
        for (fault, words) in
            kinds.into_iter().zip(["compiler bug: a dimension 3 got lost (python/src/lib.rs", "compiler bug: no (python/src/lib.rs"])
        {
            let fault = fault.expect_err("it panicked");
            assert_eq!(fault["kind"], "bug");
            assert!(fault["message"].as_str().is_some_and(|m| m.starts_with(words)), "{fault}");
        }
    }

    #[test]
    fn what_is_released_is_an_error_and_no_crash() {
        let ask = |text: &str| {
            let text = CString::new(text).expect("there is no NUL in it");
            // SAFETY: a string of C, and one that this library gave.
            unsafe {
                let reply = optc_request(text.as_ptr());
                let value: Value = serde_json::from_str(CStr::from_ptr(reply).to_str().expect("UTF-8")).expect("JSON");
                optc_free(reply);
                value
            }
        };
        let opened = ask(r#"{"do": "open", "text": "fn f(x: f32[N]) = 2 * x"}"#);
        let number = opened["ok"]["module"].as_u64().expect("a number");
        let compile = format!(r#"{{"do": "function", "module": {number}, "name": "f", "args": [[null, {{"array": ["f32", [2]]}}]]}}"#);
        let made = ask(&compile);
        let call = made["ok"]["call"].as_u64().expect("a number");
        let (mut x, mut y) = ([1.0f32, 2.0], [0.0f32; 2]);
        let addresses = [x.as_mut_ptr().cast::<u8>(), y.as_mut_ptr().cast()];
        // SAFETY: arrays of the types that were asked for.
        assert!(unsafe { optc_call(call, addresses.as_ptr(), 2) }.is_null());
        assert_eq!(y, [2.0, 4.0]);
        optc_release(call);
        optc_release(number);
        // SAFETY: as above.
        let fault = unsafe { optc_call(call, addresses.as_ptr(), 2) };
        assert!(!fault.is_null());
        // SAFETY: one of this library's.
        unsafe { optc_free(fault) };
        assert_eq!(ask(&compile)["fault"]["message"], "this was released");
        assert!(ask("{").get("fault").is_some() && ask(r#"{"do": "nothing"}"#).get("fault").is_some());
    }
}
