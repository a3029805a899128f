//! What the emulator finds wrong, and where it goes.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Two accesses to the same bytes, at least one a write, without an order between them.
    Race,
    /// A read of shared memory that no thread of the block has written.
    Uninitialized,
    /// An access beyond the block's shared memory, or beyond the buffers of the launch.
    OutOfBounds,
    /// An access to several elements at once whose address is no multiple of their bytes.
    Misaligned,
    /// Not all threads of a block come to the same barrier.
    BarrierDivergence,
    /// Not all threads of a warp come to the same shuffle or synchronization.
    WarpDivergence,
    /// A shuffle in a warp of fewer than 32 threads.
    PartialWarp,
    /// Numbers of threads or blocks, or an amount of shared memory, that no GPU takes.
    Launch,
}

impl FaultKind {
    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            FaultKind::Race => "data race",
            FaultKind::Uninitialized => "uninitialized shared memory",
            FaultKind::OutOfBounds => "access out of bounds",
            FaultKind::Misaligned => "misaligned access",
            FaultKind::BarrierDivergence => "barrier divergence",
            FaultKind::WarpDivergence => "divergence within a warp",
            FaultKind::PartialWarp => "shuffle in a partial warp",
            FaultKind::Launch => "impossible launch",
        }
    }
}

/// Memory that an access is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// A block's shared memory.
    Shared,
    /// Everything else.
    Global,
}

/// Something a kernel must not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is.
    pub kind: FaultKind,
    /// The block that ran.
    pub block: i32,
    /// The threads concerned, as (block, thread): for an access the one that made it, and for a race the earlier one behind it.
    pub threads: Vec<(i32, i32)>,
    /// Where, for an access.
    pub space: Option<Space>,
    /// The offset into shared memory (negative before its beginning), or the address; 0 if there was no access.
    pub offset: i64,
    /// A sentence.
    pub words: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.title(), self.words)
    }
}

/// Numbers in ascending order as a list of ranges: `0-31, 40`.
pub(super) fn ranges(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &n in numbers {
        match parts.last_mut() {
            Some(last) if last.1 + 1 == n => last.1 = n,
            _ => parts.push((n, n)),
        }
    }
    let words = |&(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    // More says nothing more.
    let shown: Vec<String> = parts.iter().take(8).map(words).collect();
    format!("{}{}", shown.join(", "), if parts.len() > 8 { ", …" } else { "" })
}

static COLLECTING: AtomicBool = AtomicBool::new(false);
static COLLECTED: Mutex<Vec<Fault>> = Mutex::new(Vec::new());
static ENDING: Mutex<()> = Mutex::new(());

/// Whether faults are collected for [`take_faults`] and kernels run on, as far as they can. Otherwise the first fault ends the process.
pub fn collect(on: bool) {
    COLLECTING.store(on, Ordering::SeqCst);
}

pub(super) fn collecting() -> bool {
    COLLECTING.load(Ordering::SeqCst)
}

/// The faults of all launches since the last call.
pub fn take_faults() -> Vec<Fault> {
    std::mem::take(&mut *COLLECTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Hands faults on. If they are not collected this does not return.
pub(super) fn deliver(faults: Vec<Fault>) {
    let Some(first) = faults.first() else { return };
    if collecting() {
        COLLECTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(faults);
        return;
    }
    // Held to the end, so that of several host threads one reports.
    let _alone = ENDING.lock();
    eprintln!("error: the SIMT emulator stopped a kernel: {}", first.kind.title());
    eprintln!("  {}", first.words);
    eprintln!("  this is a mistake of the compiler, not of the program: please report it");
    std::process::exit(1);
}
