//! A launch under way: who waits for whom, and what accesses are wrong.

use super::faults::{Fault, FaultKind, Space, ranges};
use super::order::Set;
use super::shadow::{Access, Record, Shadow, Stretch, Trouble};
use super::shared::{Shared, ZONE};
use super::{Options, WARP};
use corosensei::Yielder;

/// What shared memory begins with.
const POISON: u8 = 0xFF;
/// Faults of a kind that are kept of a launch.
const KEPT: usize = 16;

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
    /// It has ended.
    Ended,
}

/// A thread of the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) wait: Wait,
    /// What it gives to a shuffle, then what it gets.
    pub(super) bits: i32,
    pub(super) yielder: *const Yielder<(), ()>,
    pub(super) stack: (usize, usize),
}

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
    pub(super) faults: Vec<Fault>,
    /// The launch cannot go on.
    pub(super) over: bool,
}

impl Launch {
    /// A launch before its first block.
    pub(super) fn new(options: Options, threads: usize, blocks: i32, shared: Shared, shared_bytes: usize, shadow: Shadow) -> Launch {
        Launch {
            options,
            threads,
            blocks,
            block: 0,
            thread: 0,
            stack: (0, 0),
            lanes: vec![Lane { wait: Wait::No, bits: 0, yielder: std::ptr::null(), stack: (0, 0) }; threads],
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
        self.lanes.fill(Lane { wait: Wait::No, bits: 0, yielder: std::ptr::null(), stack: (0, 0) });
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
            Wait::Warp | Wait::Shuffle { .. } => {
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
        if let Wait::Shuffle { mask } = kind {
            if lanes.len() < WARP as usize {
                let words = format!("the last warp of block {} has {} threads of 32 and shuffles", self.block, lanes.len());
                self.over = true;
                return self.fault(FaultKind::PartialWarp, lanes.map(|t| (self.block, t as i32)).collect(), None, words);
            }
            let given: Vec<i32> = lanes.clone().map(|t| self.lanes[t].bits).collect();
            for t in lanes.clone() {
                self.lanes[t].bits = given[(t - lanes.start) ^ mask as usize];
            }
        }
        self.warps[warp].waiting = 0;
        self.warps[warp].syncs += 1;
        self.go(lanes);
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
