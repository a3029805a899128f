//! A shared library in the test's process, and numbers to call it with.

use clap::Parser;
use optc::messages::Messages;
use optc_abi::{DType, Tensor};
use std::ffi::{CString, c_void};
use std::path::Path;

pub fn messages() -> Messages {
    Messages::new(&optc::cli::Cli::parse_from(["optc", "show", "std"]))
}

/// Runs something on a thread with the stack the compiler has.
pub fn with_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(512 << 20).spawn(work).expect("a thread can be started");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A shared library that stays loaded.
pub struct Loaded(*mut c_void);

impl Loaded {
    pub fn open(path: &Path) -> Loaded {
        let name = CString::new(path.to_str().expect("a path in UTF-8")).expect("no zeros");
        // SAFETY: a library that has no initializers.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "{} does not load", path.display());
        Loaded(handle)
    }
    pub fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).expect("no zeros");
        // SAFETY: the handle is open.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null(), "no {name:?}");
        address
    }
    /// `RULE_step_many` or `RULE_delta_many` on one leaf.
    pub fn step(&self, name: &str, leaf: &[u64], t: i32, hyper: &[u64]) -> i32 {
        // SAFETY: the header declares this type.
        let f =
            unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u64, *const u64, i32, *const u64) -> i32>(self.symbol(name)) };
        // SAFETY: the leaf's arrays are as long as it says.
        unsafe { f(1, leaf.as_ptr(), t, hyper.as_ptr()) }
    }
    /// `RULE_step_many` or `RULE_delta_many` on a list of leaves.
    pub fn many(&self, name: &str, rows: &[Vec<u64>], t: i32, hyper: &[u64]) -> i32 {
        // SAFETY: the header declares this type.
        let f =
            unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u64, *const u64, i32, *const u64) -> i32>(self.symbol(name)) };
        let table: Vec<u64> = rows.concat();
        // SAFETY: the leaves' arrays are as long as they say.
        unsafe { f(rows.len() as u64, table.as_ptr(), t, hyper.as_ptr()) }
    }
    pub fn init(&self, name: &str, leaf: &[u64]) -> i32 {
        // SAFETY: the header declares this type.
        let f = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u64, *const u64) -> i32>(self.symbol(name)) };
        // SAFETY: as above.
        unsafe { f(1, leaf.as_ptr()) }
    }
}

/// Numbers over several decades, some of them 0.
pub fn numbers(dtype: DType, n: usize, salt: usize) -> Tensor {
    let values: Vec<f64> = (0..n)
        .map(|i| {
            let k = (i * 2_654_435_761 + salt * 40_503) % 1_000_003;
            if k.is_multiple_of(17) { 0.0 } else { (k as f64 / 5e5 - 1.0) * 10f64.powi(-((k % 4) as i32)) }
        })
        .collect();
    Tensor::from_f64(dtype, &[n], &values)
}
