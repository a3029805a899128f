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
#[cfg(target_os = "linux")]
mod entropy;
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
mod processors;
mod products;
mod simt;
mod stored;
mod targets;
mod threads;
mod tiles;
mod unit;

mod compile;
pub use compile::{Cache, Compiled, Config, Form, Ptx, compile, module, ptx};
pub use device::{DeviceConfig, Emulated, device_code, device_code_cut, device_code_for};
pub use leaves::{LeafEntry, LeafForm, LeafSteps, leaf_steps};
pub use processors::{CPUS, NATIVE, check_cpu, check_cpu_here};
pub use simt::Launch;
pub use targets::{GPUS, check_gpu, gpu_for, runs_on};
pub use unit::check_passes;

use std::fmt;

/// Why no code was made: something was asked for that there is not, a machine without what is needed, or a compiler bug.
#[derive(Clone, Debug)]
pub struct Error {
    words: String,
    asked: bool,
}

impl Error {
    pub(crate) fn new(words: impl Into<String>) -> Error {
        Error { words: words.into(), asked: false }
    }
    pub(crate) fn asked(words: impl Into<String>) -> Error {
        Error { words: words.into(), asked: true }
    }
    /// Whether another request (a GPU, a processor, passes) would have been answered.
    pub fn is_request(&self) -> bool {
        self.asked
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}
impl std::error::Error for Error {}
