//! What goes to and fro with each run: places in memory that does not move, used in turn.

use crate::error::Result;
use crate::gpu::Gpu;
use crate::memory::Pinned;
use crate::stream::Event;
use optc_abi::plan::Status;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of pinned memory that all places together take, unless two need more.
const ROOM: usize = 64 << 20;
/// The most runs in flight.
const MOST: usize = 16;
/// Alignment of arrays.
const ALIGN: usize = 64;

/// Arrays one after the other in a place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    bytes: usize,
}

impl Layout {
    /// Room for another array; gives its offset.
    pub(crate) fn add(&mut self, bytes: usize) -> usize {
        let at = self.bytes;
        self.bytes = (at + bytes).next_multiple_of(ALIGN);
        at
    }
}

/// What is to be copied to the caller when a run is collected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returned {
    pub(crate) to: *mut u8,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// A place and the mark behind the run that uses it.
struct Slot {
    memory: Pinned,
    done: Event,
    results: Vec<Returned>,
}

// SAFETY: the addresses of results are the callers', who answer for them until the run is collected.
unsafe impl Send for Slot {}

/// The places, and which are in use.
pub(crate) struct Ring {
    slots: Vec<Slot>,
    /// Where the status of a run comes to.
    status: usize,
    queue: VecDeque<usize>,
    next: usize,
}

impl Ring {
    pub(crate) fn new(gpu: &Arc<Gpu>, mut layout: Layout) -> Result<Ring> {
        let status = layout.add(size_of::<Status>());
        let count = (ROOM / layout.bytes).clamp(2, MOST);
        let slot = || Ok(Slot { memory: Pinned::new(gpu, layout.bytes)?, done: Event::new(gpu)?, results: Vec::new() });
        Ok(Ring { slots: (0..count).map(|_| slot()).collect::<Result<_>>()?, status, queue: VecDeque::new(), next: 0 })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.queue.len()
    }

    /// The place of the run about to be queued: an address within it.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        self.slots[self.next].memory.at(offset)
    }

    pub(crate) fn status(&self) -> *mut u8 {
        self.at(self.status)
    }

    /// The mark behind that run.
    pub(crate) fn mark(&self) -> &Event {
        &self.slots[self.next].done
    }

    /// The run is queued.
    pub(crate) fn queued(&mut self, results: impl Iterator<Item = Returned>) {
        let slot = &mut self.slots[self.next];
        slot.results.clear();
        slot.results.extend(results);
        self.queue.push_back(self.next);
        self.next = (self.next + 1) % self.slots.len();
    }

    /// Waits for the oldest run and copies its results to where they belong.
    pub(crate) fn collect(&mut self) -> Result<Status> {
        let slot = self.queue.pop_front().expect("a run to be collected");
        let slot = &self.slots[slot];
        slot.done.wait()?;
        for r in &slot.results {
            // SAFETY: the caller of `submit` has promised that the memory is valid until now.
            unsafe { std::ptr::copy_nonoverlapping(slot.memory.at(r.offset), r.to, r.bytes) };
        }
        // SAFETY: the run has copied a status there, and the place is aligned.
        Ok(unsafe { slot.memory.at(self.status).cast::<Status>().read() })
    }

    /// Whether the oldest run is done.
    pub(crate) fn is_done(&self) -> Result<bool> {
        self.queue.front().map_or(Ok(true), |&slot| self.slots[slot].done.is_reached())
    }

    /// Forgets all runs, which the GPU will not finish.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }
}
