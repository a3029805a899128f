//! The kernel tests of `optc-cranelift`, compiled by this crate.
#![cfg(feature = "llvm")]

#[path = "../../cranelift/tests/functions.rs"]
mod functions;
#[path = "../../cranelift/tests/local_arrays.rs"]
mod local_arrays;
#[path = "../../cranelift/tests/philox.rs"]
mod philox;
#[path = "../../cranelift/tests/random_kernels.rs"]
mod random_kernels;
