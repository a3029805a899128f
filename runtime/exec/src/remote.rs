//! Plans that run elsewhere than on this processor.

use crate::program::Spent;
use optc_abi::plan::Status;
use std::fmt;

/// What is in the way of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The code of the error.
    pub code: &'static str,
    /// What is wrong, in the device's words.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Trouble {}

/// A plan on a device with memory and an order of its own. Runs are queued, and what they give is collected later, the oldest first.
pub trait Remote: Send {
    /// Queues a run on the memory at `bases`: those of a native plan, the arena and constants (which are the device's) null. What the run reads of this memory has been copied
    /// when this returns; what it writes is there once the run is collected. There must be fewer than [`Remote::capacity`] runs in flight.
    ///
    /// # Errors
    /// What the device cannot do.
    ///
    /// # Safety
    /// The addresses of inputs are valid now, and those of outputs and of inputs that are overwritten until the run is collected.
    unsafe fn submit(&mut self, bases: &[*mut u8]) -> Result<(), Trouble>;

    /// Waits for the oldest run in flight and says how it ended. A run that ends with an error keeps those behind it from writing anything.
    ///
    /// # Errors
    /// As [`Remote::submit`].
    fn collect(&mut self) -> Result<Status, Trouble>;

    /// From now on, the instructions of each run are timed one by one, and runs are not queued; or they are no longer. What was timed before is forgotten. No run may be in flight.
    ///
    /// # Errors
    /// Several devices run the plan together.
    fn time_instructions(&mut self, on: bool) -> Result<(), Trouble>;

    /// What each instruction of the plan (in the order of [`optc_abi::plan::Plan::walk`]) took in the runs that were timed; nothing if none were.
    fn times(&self) -> Vec<Spent>;

    /// Runs queued and not collected.
    fn in_flight(&self) -> usize;

    /// The most runs that may be in flight.
    fn capacity(&self) -> usize;

    /// Bytes of memory that the plan has on the device.
    fn bytes(&self) -> usize;
}
