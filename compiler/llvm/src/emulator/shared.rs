//! Shared memory of blocks, with room on both sides for those who miss it.

use std::alloc::Layout;

/// Bytes on both sides of shared memory whose use is out of bounds.
pub(super) const ZONE: usize = 1 << 20;

/// Shared memory between its zones.
pub(super) struct Shared {
    start: *mut u8,
    layout: Layout,
}

impl Shared {
    /// At least `bytes` of it.
    pub(super) fn new(bytes: usize) -> Shared {
        let bytes = bytes.next_multiple_of(64 << 10);
        let layout = Layout::from_size_align(2 * ZONE + bytes, 128).unwrap_or_else(|_| unreachable!("a few mebibytes"));
        // SAFETY: the layout is not empty. Zeroed, so that zones take no memory until somebody strays there.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Shared { start, layout }
    }

    /// Where the zone before it begins.
    pub(super) fn start(&self) -> usize {
        self.start as usize
    }

    /// Bytes from there to the end of the zone behind it.
    pub(super) fn whole(&self) -> usize {
        self.layout.size()
    }

    /// Bytes of shared memory there may be.
    pub(super) fn room(&self) -> usize {
        self.layout.size() - 2 * ZONE
    }

    /// Where it begins, aligned to 128 bytes.
    pub(super) fn base(&self) -> *mut u8 {
        // SAFETY: within the allocation.
        unsafe { self.start.add(ZONE) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.start, self.layout) };
    }
}
