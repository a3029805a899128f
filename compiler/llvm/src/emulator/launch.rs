//! A launch under way: who waits for whom, and what accesses are wrong.

use super::faults::{Fault, FaultKind, Space, ranges};
use super::matrices;
use super::order::Set;
use super::shadow::{Access, Record, Shadow, Stretch, Trouble};
use super::shared::{Shared, ZONE};
use super::{Options, WARP};
use corosensei::Yielder;
use std::ops::Range;

/// What shared memory begins with.
const POISON: u8 = 0xFF;
/// Faults of a kind that are kept of a launch.
const KEPT: usize = 16;

/// Words that a lane gives to an operation of its warp, at most.
pub(super) const WORDS: usize = 10;

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing: it runs, or could.
    No,
    Barrier,
    Warp,
    Shuffle {
        mask: u32,
    },
    /// A load of four matrices by the warp.
    Matrices {
        transposed: bool,
    },
    /// A product of matrices by the warp.
    Product {
        f16: bool,
    },
    /// It has ended.
    Ended,
}

/// A copy to shared memory under way: what was asked for last has not happened.
#[derive(Clone, Copy, Debug)]
struct Copy {
    group: u32,
    to: usize,
    from: usize,
    bytes: usize,
    /// Bytes that are copied; the others become zero.
    real: usize,
}

/// A thread of the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) wait: Wait,
    /// What it gives to an operation of its warp, then what it gets.
    pub(super) words: [u32; WORDS],
    /// Groups of copies that it has closed.
    groups: u32,
    pub(super) yielder: *const Yielder<(), ()>,
    pub(super) stack: (usize, usize),
}

const LANE: Lane = Lane { wait: Wait::No, words: [0; WORDS], groups: 0, yielder: std::ptr::null(), stack: (0, 0) };

/// Lanes of a warp that wait for each other, and how often they have since the last barrier.
#[derive(Clone, Copy, Debug, Default)]
struct Warp {
    waiting: u32,
    syncs: u32,
}

/// A launch under way.
pub(super) struct Launch {
    options: Options,
    pub(super) threads: usize,
    pub(super) blocks: i32,
    pub(super) block: i32,
    /// The thread that runs.
    pub(super) thread: usize,
    pub(super) lanes: Vec<Lane>,
    /// Copies under way, of each thread.
    copies: Vec<Vec<Copy>>,
    warps: Vec<Warp>,
    /// The stack of the thread that runs, from its lowest address to its end.
    pub(super) stack: (usize, usize),
    pub(super) ready: Set,
    at_barrier: usize,
    pub(super) ended: usize,
    /// Stretches between barriers, counted from 1 through all blocks.
    interval: u32,
    /// The first interval of this block.
    first: u32,
    /// The first interval of each block so far.
    firsts: Vec<(u32, i32)>,
    pub(super) shared: Shared,
    shared_bytes: usize,
    shared_shadow: Stretch,
    pub(super) shadow: Shadow,
    /// Global memory that may be used; all of it if nothing is said.
    memory: Vec<Range<usize>>,
    /// Where in the list the last access was.
    recent: usize,
    pub(super) faults: Vec<Fault>,
    /// The launch cannot go on.
    pub(super) over: bool,
}

impl Launch {
    /// A launch before its first block.
    pub(super) fn new(
        options: Options,
        threads: usize,
        blocks: i32,
        shared: (Shared, usize),
        shadow: Shadow,
        memory: Vec<Range<usize>>,
    ) -> Launch {
        let (shared, shared_bytes) = shared;
        Launch {
            options,
            threads,
            blocks,
            block: 0,
            thread: 0,
            stack: (0, 0),
            lanes: vec![LANE; threads],
            copies: vec![Vec::new(); threads],
            warps: vec![Warp::default(); threads.div_ceil(WARP as usize)],
            ready: Set::default(),
            at_barrier: 0,
            ended: 0,
            interval: 0,
            first: 0,
            firsts: Vec::new(),
            shared,
            shared_bytes,
            shared_shadow: Stretch::new(if options.check { shared_bytes } else { 0 }),
            shadow,
            memory,
            recent: 0,
            faults: Vec::new(),
            over: false,
        }
    }

    fn fault(&mut self, kind: FaultKind, threads: Vec<(i32, i32)>, at: Option<(Space, i64)>, words: String) {
        if self.faults.iter().filter(|f| f.kind == kind).count() < KEPT {
            let (space, offset) = at.map_or((None, 0), |(space, offset)| (Some(space), offset));
            self.faults.push(Fault { kind, block: self.block, threads, space, offset, words });
        }
        self.over |= self.options.first_only;
    }

    pub(super) fn begin_block(&mut self, block: i32) {
        self.block = block;
        self.next_interval();
        self.first = self.interval;
        self.firsts.push((self.first, block));
        // SAFETY: that much was allocated, and no thread runs.
        unsafe { std::ptr::write_bytes(self.shared.base(), POISON, self.shared_bytes) };
        self.lanes.fill(LANE);
        self.copies.iter_mut().for_each(Vec::clear);
        (0..self.threads).for_each(|t| self.ready.insert(t));
        (self.at_barrier, self.ended) = (0, 0);
    }

    fn next_interval(&mut self) {
        if self.interval == u32::MAX {
            // Hours of barriers: what comes now could not be told from what was at the beginning.
            self.options.check = false;
        } else {
            self.interval += 1;
        }
        self.warps.fill(Warp::default());
    }

    fn lanes_of(&self, warp: usize) -> std::ops::Range<usize> {
        let from = warp * WARP as usize;
        from..self.threads.min(from + WARP as usize)
    }

    /// The thread that ran has come to where it waits, or its end.
    pub(super) fn arrived(&mut self, thread: usize) {
        self.ready.remove(thread);
        match self.lanes[thread].wait {
            Wait::No => {}
            Wait::Barrier => self.at_barrier += 1,
            Wait::Ended => self.ended += 1,
            Wait::Warp | Wait::Shuffle { .. } | Wait::Matrices { .. } | Wait::Product { .. } => {
                let warp = thread / WARP as usize;
                self.warps[warp].waiting += 1;
                if self.warps[warp].waiting as usize == self.lanes_of(warp).len() {
                    self.meet(warp);
                }
            }
        }
        if self.at_barrier == self.threads {
            self.at_barrier = 0;
            self.next_interval();
            self.go(0..self.threads);
        }
    }

    /// All lanes of a warp wait for each other.
    fn meet(&mut self, warp: usize) {
        let lanes = self.lanes_of(warp);
        let kind = self.lanes[lanes.start].wait;
        if lanes.clone().any(|t| self.lanes[t].wait != kind) {
            return self.stuck();
        }
        if kind != Wait::Warp && lanes.len() < WARP as usize {
            let what = if matches!(kind, Wait::Shuffle { .. }) { "shuffles" } else { "multiplies matrices" };
            let words = format!("the last warp of block {} has {} threads of 32 and {what}", self.block, lanes.len());
            self.over = true;
            return self.fault(FaultKind::PartialWarp, lanes.map(|t| (self.block, t as i32)).collect(), None, words);
        }
        let given: Vec<[u32; WORDS]> = lanes.clone().map(|t| self.lanes[t].words).collect();
        match kind {
            Wait::Shuffle { mask } => {
                for t in lanes.clone() {
                    self.lanes[t].words[0] = given[(t - lanes.start) ^ mask as usize][0];
                }
            }
            Wait::Matrices { transposed } => self.load_matrices(lanes.start, &given, transposed),
            Wait::Product { f16 } => {
                let results = matrices::product(&given, f16);
                lanes.clone().zip(results).for_each(|(t, d)| self.lanes[t].words[..4].copy_from_slice(&d));
            }
            _ => {}
        }
        if self.over {
            return;
        }
        self.warps[warp].waiting = 0;
        self.warps[warp].syncs += 1;
        self.go(lanes);
    }

    /// Four matrices of 8 x 8 halfwords, from the rows that lanes name.
    fn load_matrices(&mut self, first: usize, given: &[[u32; WORDS]], transposed: bool) {
        let runs = self.thread;
        let mut rows = [[0u16; 8]; WARP as usize];
        for (lane, (row, words)) in rows.iter_mut().zip(given).enumerate() {
            let address = (u64::from(words[1]) << 32 | u64::from(words[0])) as usize;
            self.thread = first + lane;
            let faults = self.faults.len();
            self.access(address, 16, false);
            self.aligned(address, 16);
            if self.faults.len() == faults {
                // SAFETY: within shared memory, or what the kernel says is its own.
                *row = unsafe { (address as *const [u16; 8]).read_unaligned() };
            }
        }
        self.thread = runs;
        for (lane, words) in matrices::fragments(&rows, transposed).into_iter().enumerate() {
            self.lanes[first + lane].words[..4].copy_from_slice(&words);
        }
    }

    /// An address that has to be a multiple of a number of bytes.
    fn aligned(&mut self, address: usize, bytes: usize) {
        if !address.is_multiple_of(bytes) {
            let words =
                format!("thread {} of block {} uses {bytes} bytes at address {address:#x}, no multiple of that", self.thread, self.block);
            self.fault(FaultKind::Misaligned, vec![(self.block, self.thread as i32)], None, words);
        }
    }

    /// Begins a copy to shared memory, which may happen at any time until the thread has waited for it.
    pub(super) fn copy(&mut self, to: usize, from: usize, bytes: usize, real: usize) {
        self.aligned(to, bytes);
        if real > 0 {
            self.aligned(from, bytes);
            self.access(from, real as i64, false);
        }
        let faults = self.faults.len();
        self.access(to, bytes as i64, true);
        if self.faults.len() == faults {
            let group = self.lanes[self.thread].groups;
            self.copies[self.thread].push(Copy { group, to, from, bytes, real });
        }
    }

    /// Closes a group of copies.
    pub(super) fn close_copies(&mut self) {
        self.lanes[self.thread].groups += 1;
    }

    /// Waits for all groups of copies but the last ones.
    pub(super) fn await_copies(&mut self, but: u32) {
        let done = self.lanes[self.thread].groups.saturating_sub(but);
        let (now, later): (Vec<Copy>, Vec<Copy>) = self.copies[self.thread].iter().partition(|c| c.group < done);
        self.copies[self.thread] = later;
        for copy in now {
            self.access(copy.to, copy.bytes as i64, true);
            // SAFETY: both were found to be what the kernel may use when the copy began.
            unsafe {
                std::ptr::write_bytes(copy.to as *mut u8, 0, copy.bytes);
                std::ptr::copy(copy.from as *const u8, copy.to as *mut u8, copy.real);
            }
        }
    }

    fn go(&mut self, threads: std::ops::Range<usize>) {
        for t in threads {
            self.lanes[t].wait = Wait::No;
            self.ready.insert(t);
        }
    }

    /// Nobody can go on though not all have ended, or a warp cannot.
    pub(super) fn stuck(&mut self) {
        let mut groups: Vec<(Wait, Vec<u32>)> = Vec::new();
        for (t, lane) in self.lanes.iter().enumerate() {
            match groups.iter_mut().find(|g| g.0 == lane.wait) {
                Some(group) => group.1.push(t as u32),
                None => groups.push((lane.wait, vec![t as u32])),
            }
        }
        groups.retain(|g| g.0 != Wait::No);
        // A warp that does not come together keeps the others at their barrier: it is the cause.
        let torn = self.warps.iter().any(|w| w.waiting > 0);
        let kind = if torn { FaultKind::WarpDivergence } else { FaultKind::BarrierDivergence };
        let words = |(wait, who): &(Wait, Vec<u32>)| {
            let one = who.len() == 1;
            let what = match wait {
                Wait::Barrier if one => "waits at a barrier".to_string(),
                Wait::Barrier => "wait at a barrier".to_string(),
                Wait::Warp if one => "waits at a synchronization of its warp".to_string(),
                Wait::Warp => "wait at a synchronization of their warp".to_string(),
                Wait::Shuffle { mask } => format!("{} at a shuffle with mask {mask}", if one { "waits" } else { "wait" }),
                Wait::Matrices { .. } => format!("{} at a load of matrices", if one { "waits" } else { "wait" }),
                Wait::Product { .. } => format!("{} at a product of matrices", if one { "waits" } else { "wait" }),
                Wait::Ended | Wait::No => if one { "has ended" } else { "have ended" }.to_string(),
            };
            format!("{} {} {what}", if one { "thread" } else { "threads" }, ranges(who))
        };
        let sentence = format!("in block {} {}", self.block, groups.iter().map(words).collect::<Vec<_>>().join(", "));
        let waiting = groups.iter().filter(|g| g.0 != Wait::Ended).flat_map(|g| &g.1);
        let mut threads: Vec<(i32, i32)> = waiting.map(|&t| (self.block, t as i32)).collect();
        threads.sort_unstable();
        self.over = true;
        self.fault(kind, threads, None, sentence);
    }

    /// The block of an interval.
    fn block_of(&self, interval: u32) -> i32 {
        let n = self.firsts.partition_point(|f| f.0 <= interval);
        self.firsts[n.saturating_sub(1)].1
    }

    /// Whether bytes from an address on lie in one of the launch's buffers.
    fn within(&mut self, address: usize, length: usize) -> bool {
        let holds = |r: &Range<usize>| r.start <= address && address + length <= r.end;
        if holds(&self.memory[self.recent]) {
            return true;
        }
        let found = self.memory.iter().position(holds);
        self.recent = found.unwrap_or(self.recent);
        found.is_some()
    }

    pub(super) fn access(&mut self, address: usize, bytes: i64, write: bool) {
        let Ok(length) = usize::try_from(bytes) else { return };
        let low = self.shared.start();
        let within = address.wrapping_sub(low);
        let shared = within < self.shared.whole();
        if shared && (within < ZONE || within + length > ZONE + self.shared_bytes) {
            let offset = within as i64 - ZONE as i64;
            let what = if write { "writes" } else { "reads" };
            let words = format!(
                "thread {} of block {} {what} {bytes} bytes at offset {offset} of {} bytes of shared memory",
                self.thread, self.block, self.shared_bytes
            );
            return self.fault(FaultKind::OutOfBounds, vec![(self.block, self.thread as i32)], Some((Space::Shared, offset)), words);
        }
        let private = self.stack.0 <= address && address < self.stack.1;
        if !shared && !private && !self.memory.is_empty() && !self.within(address, length) {
            let what = if write { "writes" } else { "reads" };
            let words =
                format!("thread {} of block {} {what} {bytes} bytes at address {address:#x}, which no buffer has", self.thread, self.block);
            return self.fault(
                FaultKind::OutOfBounds,
                vec![(self.block, self.thread as i32)],
                Some((Space::Global, address as i64)),
                words,
            );
        }
        if !self.options.check || private {
            return;
        }
        let me = Record::new(self.interval, self.thread as u32, self.warps[self.thread / WARP as usize].syncs);
        let access = Access { me, first: self.first, shared, write };
        let trouble = if shared {
            self.shared_shadow.touch(within - ZONE, within - ZONE + length, &access)
        } else {
            self.shadow.touch(address, length, &access)
        };
        if let Some((at, trouble)) = trouble {
            self.report(trouble, at, address, length, &access);
        }
    }

    #[cold]
    fn report(&mut self, trouble: Trouble, at: usize, address: usize, length: usize, access: &Access) {
        let (block, thread) = (self.block, self.thread as i32);
        let did = if access.write { "writes" } else { "reads" };
        let (space, offset, place) = if access.shared {
            let from = address - self.shared.base() as usize;
            (Space::Shared, at as i64, format!("offset {from} of shared memory"))
        } else {
            (Space::Global, at as i64, format!("address {address:#x}"))
        };
        let start = format!("thread {thread} of block {block} {did} {length} bytes at {place}");
        match trouble {
            Trouble::Unwritten => {
                let words = format!("{start}; no thread of the block has written the byte at offset {offset}");
                self.fault(FaultKind::Uninitialized, vec![(block, thread)], Some((space, offset)), words);
            }
            Trouble::Race { other, wrote } => {
                let who = (self.block_of(other.interval()), other.thread() as i32);
                let known = |f: &Fault| f.kind == FaultKind::Race && f.space == Some(space) && f.threads == [(block, thread), who];
                if self.faults.iter().any(known) {
                    return;
                }
                let verb = match (access.write, wrote) {
                    (true, true) => "writes too",
                    (_, true) => "writes",
                    (_, false) => "reads",
                };
                let order = if who.0 != block {
                    format!("thread {} of block {} {verb}; nothing orders two blocks", who.1, who.0)
                } else if thread as u32 / WARP == other.thread() / WARP {
                    format!("thread {} of its warp {verb}, with no barrier, shuffle or synchronization of the warp between", who.1)
                } else {
                    format!("thread {} {verb}, with no barrier between", who.1)
                };
                self.fault(FaultKind::Race, vec![(block, thread), who], Some((space, offset)), format!("{start}, which {order}"));
            }
        }
    }
}
