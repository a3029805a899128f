//! The kernel tests of `optc-cranelift`, compiled by this crate.
#![cfg(feature = "llvm")]
#![allow(clippy::duplicate_mod, reason = "each file has the helpers, there as here")]

#[path = "../../cranelift/tests/functions.rs"]
mod functions;
#[path = "../../cranelift/tests/local_arrays.rs"]
mod local_arrays;
#[path = "../../cranelift/tests/philox.rs"]
mod philox;
#[path = "../../cranelift/tests/random_kernels.rs"]
mod random_kernels;
