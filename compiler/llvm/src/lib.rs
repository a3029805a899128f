//! Kernels to machine code through LLVM.
//!
//! The same kernels that `optc-cranelift` compiles, for those who prefer fast code to fast compilation: host code as wide as the processor is, PTX for NVIDIA
//! GPUs, and the PTX kernels once more for this computer, where an emulator runs their threads. Kernels only: the plan's entry, which calls them, is Cranelift's.
//! Without the feature `llvm` the crate is empty.

#[cfg(feature = "llvm")]
mod access;
#[cfg(feature = "llvm")]
mod allowed;
#[cfg(feature = "llvm")]
mod body;
#[cfg(feature = "llvm")]
mod emit;
#[cfg(feature = "llvm")]
pub mod emulator;
#[cfg(feature = "llvm")]
mod facts;
#[cfg(feature = "llvm")]
mod gpu;
#[cfg(feature = "llvm")]
mod host;
#[cfg(feature = "llvm")]
mod ins;
#[cfg(feature = "llvm")]
mod jit;
#[cfg(feature = "llvm")]
mod machine;
#[cfg(feature = "llvm")]
mod math;
#[cfg(feature = "llvm")]
mod math64;
#[cfg(feature = "llvm")]
mod simt;
#[cfg(feature = "llvm")]
mod threads;
#[cfg(feature = "llvm")]
mod unit;

#[cfg(feature = "llvm")]
mod compile;
#[cfg(feature = "llvm")]
pub use compile::{Compiled, Config, Form, Ptx, compile, ptx, text};
#[cfg(feature = "llvm")]
pub use simt::Launch;
#[cfg(feature = "llvm")]
pub use unit::GPUS;

use std::fmt;

/// Why no code was made: a machine without what is needed, or a compiler bug.
#[derive(Clone, Debug)]
pub struct Error(pub(crate) String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Error {}
