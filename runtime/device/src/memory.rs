//! Memory of a GPU, and memory of this computer that it can reach by itself.

use crate::error::{Result, While};
use crate::gpu::Gpu;
use cudarc::driver::{result, sys};
use std::ffi::c_void;
use std::sync::Arc;

/// A stretch of a GPU's memory, aligned to 256 bytes.
pub(crate) struct Memory {
    gpu: Arc<Gpu>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Memory {
    /// Room for some bytes; what is there is not said.
    pub(crate) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Memory> {
        gpu.enter()?;
        // The driver gives nothing for nothing, and loads of four elements may reach beyond the last one of a scalar.
        let room = bytes.max(1).next_multiple_of(64);
        let doing = || format!("asking for {room} bytes of memory");
        // SAFETY: freed when this value is dropped.
        let address = unsafe { result::malloc_sync(room) }.when(&doing())?;
        Ok(Memory { gpu: gpu.clone(), address, bytes })
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies all of it from memory of this computer and waits.
    ///
    /// # Safety
    /// The address is valid for the bytes; nothing queued uses this memory.
    pub(crate) unsafe fn write_now(&self, from: *const u8) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.gpu.enter()?;
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemcpyHtoD_v2(self.address, from.cast::<c_void>(), self.bytes) }.result().when("copying to the GPU")
    }

    /// Copies all of it to memory of this computer and waits.
    ///
    /// # Safety
    /// The address is valid for the bytes; nothing queued writes this memory.
    pub(crate) unsafe fn read_now(&self, to: *mut u8) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.gpu.enter()?;
        // SAFETY: as the caller promises.
        unsafe { sys::cuMemcpyDtoH_v2(to.cast::<c_void>(), self.address, self.bytes) }.result().when("copying from the GPU")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Freeing waits for what is queued. A driver that has failed frees nothing, and says so where it is asked for something that matters.
        if self.gpu.enter().is_ok() {
            // SAFETY: allocated above, and nobody has the address any more.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Memory of this computer that does not move, for copies that nobody waits for.
pub(crate) struct Pinned {
    gpu: Arc<Gpu>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(crate) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Pinned> {
        gpu.enter()?;
        // SAFETY: freed when this value is dropped.
        let at = unsafe { result::malloc_host(bytes.max(1), 0) }.when("asking for memory that does not move")?;
        let at = at.cast::<u8>();
        // SAFETY: that much was allocated.
        unsafe { at.write_bytes(0, bytes) };
        Ok(Pinned { gpu: gpu.clone(), at, bytes })
    }

    /// The address of the byte `offset` from the start.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes, "a place in pinned memory");
        // SAFETY: within the allocation.
        unsafe { self.at.add(offset) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: allocated above; owners wait for copies before they drop it.
            let _ = unsafe { result::free_host(self.at.cast::<c_void>()) };
        }
    }
}
