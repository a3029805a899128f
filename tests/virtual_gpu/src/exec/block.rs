//! Blocks and launches.

use super::memory::{Fabric, Seen};
use super::program::*;
use super::warp::{Fragment, Frame, Room, Wait, Warp};
use super::{Fault, FaultKind};
use std::alloc::Layout;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Instructions of a warp after which a block is taken to hang.
const LIMIT: u64 = 20_000_000_000;
/// Instructions that a launch is worth a second thread of the host for.
const WORTH: u64 = 20_000;

/// A kernel, and what it is launched with.
pub struct Launch<'a> {
    pub program: &'a Program,
    pub params: &'a [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic: usize,
    pub fabric: &'a dyn Fabric,
    /// Whether accesses are told to the fabric.
    pub watched: bool,
    /// Every lane by itself between two meetings.
    pub apart: bool,
    /// Blocks and warps in another order than that of their numbers.
    pub seed: Option<u64>,
    /// All blocks at the same time.
    pub cooperative: bool,
    /// Threads of the host that may take part.
    pub hosts: usize,
    pub multiprocessors: u32,
}

/// What a launch has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Instructions of warps.
    pub steps: u64,
}

/// Numbers that look like chance, the same ones for the same seed.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// The next one, below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }
    /// Some order of the numbers below `n`.
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i, self.below(i as u64 + 1) as usize);
        }
        all
    }
}

/// Memory with an alignment, filled with the byte 0xFF.
struct Bytes {
    at: *mut u8,
    layout: Layout,
}

impl Bytes {
    fn new(len: usize) -> Bytes {
        let layout = Layout::from_size_align(len.max(1), 1024).expect("a size that is checked");
        // SAFETY: the size is not zero.
        let at = unsafe { std::alloc::alloc(layout) };
        assert!(!at.is_null(), "the host has no memory for {len} bytes");
        let bytes = Bytes { at, layout };
        bytes.fill();
        bytes
    }
    fn fill(&self) {
        // SAFETY: ours.
        unsafe { std::ptr::write_bytes(self.at, 0xFF, self.layout.size()) };
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: allocated so.
        unsafe { std::alloc::dealloc(self.at, self.layout) };
    }
}

/// A block under way, whose memory serves one after another.
struct Block<'a> {
    room: Room<'a>,
    warps: Vec<Warp>,
    order: Vec<usize>,
    shared: Bytes,
    local: Bytes,
}

impl<'a> Block<'a> {
    fn new(launch: &'a Launch<'a>) -> Block<'a> {
        let program = launch.program;
        let threads: usize = launch.block.iter().map(|n| *n as usize).product();
        let warps = threads.div_ceil(WARP);
        let shared_bytes = program.shared + launch.dynamic;
        let (shared, local) = (Bytes::new(shared_bytes), Bytes::new(program.local * WARP * warps));
        let nothing = Seen { base: 0, len: 0, host: 0 };
        let room = Room { launch, block: [0; 3], shared: shared.at, shared_bytes, seen: nothing, steps: 0, met: false, arrived: [0; 16] };
        let warp = |index: usize| Warp {
            index: index as u32,
            alive: 0,
            fragments: Vec::new(),
            regs: Vec::new(),
            local: local.at.wrapping_add(index * WARP * program.local),
            copies: Vec::new(),
            group: [0; WARP],
            seen: nothing,
        };
        let warps = (0..warps).map(warp).collect();
        Block { room, warps, order: Vec::new(), shared, local }
    }

    fn begin(&mut self, number: u64) {
        let launch = self.room.launch;
        let [x, y, _] = launch.grid.map(u64::from);
        self.room.block = [number % x, number / x % y, number / (x * y)].map(|n| n as u32);
        self.room.arrived = [0; 16];
        self.room.met = false;
        if self.room.shared_bytes > 0 {
            self.shared.fill();
        }
        if launch.program.local > 0 {
            self.local.fill();
        }
        let threads: usize = launch.block.iter().map(|n| *n as usize).product();
        let registers = launch.program.routines[0].registers.max(1);
        for (n, warp) in self.warps.iter_mut().enumerate() {
            let lanes = (threads - n * WARP).min(WARP);
            warp.alive = if lanes == WARP { ALL } else { (1 << lanes) - 1 };
            // What nobody has set is the same in every run, whoever was here before.
            warp.regs.clear();
            warp.regs.resize(registers, Row([u64::MAX; WARP]));
            warp.copies.clear();
            warp.group = [0; WARP];
            let frame = Frame { routine: 0, base: 0, local: 0 };
            let whole = Fragment { pc: 0, mask: warp.alive, frame, stack: Vec::new(), wait: Wait::Nothing, stamp: 0 };
            warp.fragments.clear();
            if launch.apart {
                warp.fragments.extend((0..lanes).map(|l| Fragment { mask: 1 << l, ..whole.clone() }));
            } else {
                warp.fragments.push(whole);
            }
        }
        self.order = match launch.seed {
            Some(seed) => Chance(seed ^ number.wrapping_mul(0x51_7C_C1_B7_27_22_0A_95)).order(self.warps.len()),
            None => (0..self.warps.len()).collect(),
        };
    }

    /// Lets every warp run for a while; whether all have ended.
    fn round(&mut self) -> Result<bool, Fault> {
        let mut ran = false;
        for n in 0..self.order.len() {
            let warp = &mut self.warps[self.order[n]];
            if warp.fragments.iter().any(|f| f.wait == Wait::Nothing) {
                self.room.run_warp(warp)?;
                ran = true;
            }
        }
        if self.warps.iter().all(|w| w.fragments.is_empty()) {
            return Ok(true);
        }
        if self.warps.iter().any(|w| w.fragments.iter().any(|f| f.wait == Wait::Nothing)) {
            return Ok(false);
        }
        if !self.room.release(&mut self.warps)? && !ran {
            return Err(self.stuck());
        }
        Ok(false)
    }

    /// All threads wait for others that will not come.
    fn stuck(&self) -> Fault {
        let code = &self.room.launch.program.code;
        let mut places = Vec::new();
        let mut first = None;
        for warp in &self.warps {
            for f in &warp.fragments {
                let line = code[f.pc as usize].line;
                first.get_or_insert((warp, f.mask.trailing_zeros() as usize, line));
                let at = match f.wait {
                    Wait::Block { number, .. } => format!("barrier {number}"),
                    _ => "their warp".to_string(),
                };
                places.push(format!("lanes {:#010x} of warp {} at {at} in line {line}", f.mask, warp.index));
            }
        }
        let ended: u32 = self.warps.iter().map(|w| w.alive.count_ones()).sum();
        let threads: u32 = self.room.launch.block.iter().product();
        places.truncate(8);
        let words =
            format!("threads wait for others that never come: {}; {} of {threads} threads have ended", places.join(", "), threads - ended);
        match first {
            Some((warp, lane, line)) => self.room.fault(warp, lane, line, FaultKind::Failed, words),
            None => Fault { kind: FaultKind::Failed, words, block: self.room.block, thread: [0; 3], line: 0 },
        }
    }

    fn late(&self, since: u64) -> Result<(), Fault> {
        if self.room.steps - since <= LIMIT {
            return Ok(());
        }
        let words = format!("more than {LIMIT} instructions in one block");
        Err(Fault { kind: FaultKind::Timeout, words, block: self.room.block, thread: [0; 3], line: 0 })
    }
}

/// Runs a launch to its end or its first fault.
pub fn run(launch: &Launch) -> Result<Outcome, Fault> {
    let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
    if launch.cooperative {
        return at_once(launch, blocks);
    }
    let order = launch.seed.filter(|_| blocks < 1 << 24).map(|seed| Chance(seed).order(blocks as usize));
    let next = AtomicU64::new(0);
    let steps = AtomicU64::new(0);
    // Of several faults the one of the first block is told.
    let worst: Mutex<Option<(u64, Fault)>> = Mutex::new(None);
    let work = |until: u64| {
        let mut block = Block::new(launch);
        let mut since = 0;
        while block.room.steps < until {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= blocks {
                break;
            }
            let number = order.as_ref().map_or(n, |o| o[n as usize] as u64);
            block.begin(number);
            let result = loop {
                match block.round().and_then(|done| block.late(since).map(|()| done)) {
                    Ok(false) => {}
                    Ok(true) => break Ok(()),
                    Err(fault) => break Err(fault),
                }
            };
            since = block.room.steps;
            if let Err(fault) = result {
                let mut worst = worst.lock().unwrap_or_else(|e| e.into_inner());
                if worst.as_ref().is_none_or(|(w, _)| number < *w) {
                    *worst = Some((number, fault));
                }
                next.store(blocks, Ordering::Relaxed);
                break;
            }
        }
        steps.fetch_add(block.room.steps, Ordering::Relaxed);
    };
    if launch.hosts < 2 || blocks < 2 {
        work(u64::MAX);
    } else {
        work(WORTH);
        let left = blocks.saturating_sub(next.load(Ordering::Relaxed));
        if left > 0 {
            std::thread::scope(|scope| {
                for _ in 1..launch.hosts.min(left as usize) {
                    scope.spawn(|| work(u64::MAX));
                }
                work(u64::MAX);
            });
        }
    }
    match worst.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((_, fault)) => Err(fault),
        None => Ok(Outcome { steps: steps.into_inner() }),
    }
}

/// All blocks by turns, as a cooperative launch promises.
fn at_once(launch: &Launch, blocks: u64) -> Result<Outcome, Fault> {
    let mut running: Vec<Block> = (0..blocks).map(|_| Block::new(launch)).collect();
    for (n, block) in running.iter_mut().enumerate() {
        block.begin(n as u64);
    }
    let mut steps = 0;
    while !running.is_empty() {
        let mut left = Vec::new();
        for mut block in running {
            let done = block.round()?;
            block.late(0)?;
            if done {
                steps += block.room.steps;
            } else {
                left.push(block);
            }
        }
        running = left;
    }
    Ok(Outcome { steps })
}
