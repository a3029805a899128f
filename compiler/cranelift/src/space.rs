//! Memory for code that comes and goes: a piece is written, run, and used again for other code, at the cost of two changes of its protection.

use memmap2::{Mmap, MmapMut};
use std::sync::{Arc, Mutex};

/// Bytes of a piece; code that is longer has none.
const BYTES: usize = 1 << 16;
/// Pieces kept for other code, at most.
const KEPT: usize = 8;

/// Pieces that nobody uses.
#[derive(Clone, Default)]
pub(crate) struct Free(Arc<Mutex<Vec<Mmap>>>);

impl Free {
    /// A piece for so many bytes. `None` where code is longer, where a processor has to be told that code has changed, or if the system gives no memory.
    pub(crate) fn take(&self, bytes: usize) -> Option<Space> {
        if bytes > BYTES || !cfg!(target_arch = "x86_64") {
            return None;
        }
        let kept = self.0.lock().ok()?.pop();
        // A new piece is made anew where an old one does not become writable.
        let memory = match kept.and_then(|piece| piece.make_mut().ok()) {
            Some(memory) => memory,
            None => MmapMut::map_anon(BYTES).ok()?,
        };
        Some(Space { held: Held::Open(memory), free: self.clone() })
    }
}

/// A piece in use; it is kept for others when it is dropped.
pub(crate) struct Space {
    held: Held,
    free: Free,
}

enum Held {
    /// It can be written.
    Open(MmapMut),
    /// It can be run.
    Closed(Mmap),
    /// It is gone.
    Nothing,
}

impl Space {
    /// Its first byte, at the start of a page.
    pub(crate) fn address(&self) -> *const u8 {
        match &self.held {
            Held::Open(memory) => memory.as_ptr(),
            Held::Closed(memory) => memory.as_ptr(),
            Held::Nothing => std::ptr::null(),
        }
    }

    /// Writes code of at most the length asked for and makes it executable; whether that went well. Once only.
    pub(crate) fn fill(&mut self, code: &[u8]) -> bool {
        let Held::Open(mut memory) = std::mem::replace(&mut self.held, Held::Nothing) else { return false };
        memory[..code.len()].copy_from_slice(code);
        let Ok(memory) = memory.make_exec() else { return false };
        self.held = Held::Closed(memory);
        true
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let Held::Closed(memory) = std::mem::replace(&mut self.held, Held::Nothing)
            && let Ok(mut free) = self.free.0.lock()
            && free.len() < KEPT
        {
            free.push(memory);
        }
    }
}
