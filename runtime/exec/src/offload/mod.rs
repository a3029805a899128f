//! Arrays larger than memory: inputs of a plan that live in files, read ahead and written behind in chunks while a step runs.
//!
//! A step is a list of jobs ([`jobs`]): chunks of a kernel's passes with the bytes they use, and instructions that use arrays in any order. Threads read chunks into a
//! bounded number of pieces of memory, the caller's thread runs the kernel on them as soon as they are there, another thread writes them back. The kernels and their
//! units of work are those of a run in memory, so results are the same bits. A step ends when all is written.
//!
//! Instructions that use an array in any order (a matrix product with weights in a file) find it mapped to memory, left to the operating system.

mod disk;
mod engine;
mod jobs;
mod run;
pub(crate) mod swap;
mod throttle;

pub use disk::BLOCK;
pub(crate) use engine::Engine;
pub(crate) use run::{Scratch, run_kernel};
pub(crate) use swap::Swapper;
pub(crate) use throttle::Throttle;

use std::path::PathBuf;
use std::time::Duration;

/// An input whose memory is a file's.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Number of the input.
    pub input: usize,
    /// Its name, for messages.
    pub name: String,
    /// The file, of a length that is a multiple of [`BLOCK`].
    pub path: PathBuf,
    /// Where the array begins in it, a multiple of [`BLOCK`].
    pub offset: u64,
    /// Bytes of the array.
    pub bytes: u64,
}

/// How arrays are moved between memory and disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Bytes of memory for what is updated at one time, all arrays together.
    pub chunk: usize,
    /// Chunks in memory: one is updated, the others are being read or written. With 1 reading, updating and writing take turns.
    pub depth: usize,
    /// Bytes a second that are read, and written, at most: for tests and for disks that others use too.
    pub throttle: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Options { chunk: 8 << 20, depth: 4, throttle: None }
    }
}

/// What was moved so far, and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moved {
    /// Bytes read in chunks.
    pub read: u64,
    /// Bytes written in chunks.
    pub written: u64,
    /// Bytes of them that left memory in a step to come back in it.
    pub swapped: u64,
    /// Most bytes of chunks that were in memory at one time.
    pub peak: u64,
    /// Time of all steps, from their beginning until all was written.
    pub stepping: Duration,
    /// Time the readers were busy, all of them together, waiting for a throttle included.
    pub reading: Duration,
    /// Time the writer was busy.
    pub writing: Duration,
    /// Time of computing on chunks.
    pub computing: Duration,
    /// Time the computation waited for a chunk, or at the end of a step for the last ones to be written.
    pub waiting: Duration,
}

impl Moved {
    /// What both have moved.
    pub fn and(self, o: Moved) -> Moved {
        Moved {
            read: self.read + o.read,
            written: self.written + o.written,
            swapped: self.swapped + o.swapped,
            peak: self.peak + o.peak,
            stepping: self.stepping.max(o.stepping),
            reading: self.reading + o.reading,
            writing: self.writing + o.writing,
            computing: self.computing + o.computing,
            waiting: self.waiting + o.waiting,
        }
    }
}

/// Why an array in a file could not be used.
#[derive(Debug)]
pub struct Failure {
    /// The array's name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Whether it was to be written (else read).
    pub writing: bool,
    /// The system's reason.
    pub error: std::io::Error,
}
