//! Kernels to machine code through LLVM.
//!
//! The same kernels that `optc-cranelift` compiles, for those who prefer fast code to fast compilation: host code as wide as the processor is, PTX for NVIDIA
//! GPUs, and the PTX kernels once more for this computer, where an emulator runs their threads. Kernels only: the plan's entry, which calls them, is Cranelift's.
//! Without the feature `llvm` the crate is empty.

#![cfg(feature = "llvm")]

mod access;
mod allowed;
mod attention;
mod body;
mod calls;
mod device;
mod emit;
pub mod emulator;
mod entry;
mod facts;
mod gpu;
mod host;
mod ins;
mod jit;
mod leaves;
mod machine;
mod math;
mod math64;
#[cfg(test)]
mod mutants;
mod nest;
mod products;
mod simt;
mod threads;
mod tiles;
mod unit;

mod compile;
pub use compile::{Cache, Compiled, Config, Form, Ptx, compile, module, ptx};
pub use device::{Emulated, device_code, device_code_cut};
pub use leaves::{LeafEntry, LeafForm, LeafSteps, leaf_steps};
pub use simt::Launch;
pub use unit::{GPUS, gpu_for};

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
