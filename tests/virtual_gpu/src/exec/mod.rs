//! Execution of kernels: warps of 32 lanes, blocks, launches.

pub mod alu;
mod block;
mod collective;
mod memory;
pub mod num;
pub mod program;
mod warp;

pub use block::{Chance, Launch, Outcome, run};
pub use memory::{Fabric, Seen};

/// What a kernel did that it must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    IllegalAddress,
    Misaligned,
    /// Threads that do not come together, and other breaches that a device answers with a failure or by hanging.
    Failed,
    /// A `trap`.
    Trap,
    /// Calls too deep.
    Stack,
    /// It does not end.
    Timeout,
}

/// A fault of a launch.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    pub words: String,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    /// Line of the PTX text.
    pub line: u32,
}
