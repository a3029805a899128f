//! Plans that run elsewhere than on this processor.

use optc_abi::plan::Status;

/// A plan on a device with memory and an order of its own. Runs are queued, and what they give is collected later, the oldest first.
pub trait Remote: Send {
    /// Queues a run on the memory at `bases`: those of a native plan, the arena and constants (which are the device's) null. What the run reads of this memory has been copied
    /// when this returns; what it writes is there once the run is collected. There must be fewer than [`Remote::capacity`] runs in flight.
    ///
    /// # Errors
    /// What the device cannot do, in words.
    ///
    /// # Safety
    /// The addresses of inputs are valid now, and those of outputs and of inputs that are overwritten until the run is collected.
    unsafe fn submit(&mut self, bases: &[*mut u8]) -> Result<(), String>;

    /// Waits for the oldest run in flight and says how it ended. A run that ends with an error keeps those behind it from writing anything.
    ///
    /// # Errors
    /// As [`Remote::submit`].
    fn collect(&mut self) -> Result<Status, String>;

    /// Runs queued and not collected.
    fn in_flight(&self) -> usize;

    /// The most runs that may be in flight.
    fn capacity(&self) -> usize;

    /// Bytes of memory that the plan has on the device.
    fn bytes(&self) -> usize;
}
