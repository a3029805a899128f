//! Arrays that leave memory between the forward and the backward pass: written behind, read ahead.
//!
//! What leaves is copied to pieces of memory that a thread writes to the file; what comes back is read into such pieces ahead of its use, in the order in which the plan
//! asks for it, as soon as all that leaves before has left. The arena's own memory is free in between.

use super::disk::{BLOCK, Disk};
use super::throttle::Throttle;
use super::{Failure, Moved, Options};
use memmap2::MmapMut;
use optc_abi::plan::{Instr, LibOp, Plan};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// A part of an array that is moved at one time.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where it lies in the array.
    begin: usize,
    bytes: usize,
    /// Where in the file.
    at: u64,
}

/// What a plan moves, in the order in which it asks for it.
#[derive(Default)]
struct Schedule {
    /// Parts of each array by its number in the plan.
    parts: Vec<Vec<Part>>,
    /// Parts that come back, in order: array, part, and how many arrays leave before.
    back: Vec<(usize, usize, usize)>,
    /// Bytes of the file.
    bytes: u64,
}

impl Schedule {
    fn of(plan: &Plan, piece: usize) -> Schedule {
        let mut s = Schedule::default();
        let mut left = 0;
        plan.walk(&mut |instr| match instr {
            Instr::Lib { op: LibOp::SwapOut { slot, bytes }, .. } => {
                left += 1;
                s.parts.resize(s.parts.len().max(slot + 1), Vec::new());
                let mut parts = Vec::new();
                for begin in (0..*bytes).step_by(piece) {
                    let part = Part { begin, bytes: piece.min(bytes - begin), at: s.bytes };
                    s.bytes += part.bytes.next_multiple_of(BLOCK) as u64;
                    parts.push(part);
                }
                s.parts[*slot] = parts;
            }
            Instr::Lib { op: LibOp::SwapIn { slot, .. }, .. } => {
                let count = s.parts.get(*slot).map_or(0, Vec::len);
                s.back.extend((0..count).map(|part| (*slot, part, left)));
            }
            _ => {}
        });
        s
    }
}

/// Bytes of a file for all that leaves memory in a step of a plan.
pub(crate) fn bytes(plan: &Plan, options: &Options) -> u64 {
    Schedule::of(plan, piece(options)).bytes
}

fn piece(options: &Options) -> usize {
    (options.chunk / BLOCK).max(1) * BLOCK
}

#[derive(Default)]
struct State {
    closing: bool,
    /// Pieces of memory not in use.
    free: Vec<usize>,
    /// To be written: piece, array, part.
    queue: VecDeque<(usize, usize, usize)>,
    /// Parts of each array that are on the disk.
    written: Vec<usize>,
    /// Arrays that have left in this step.
    left: usize,
    /// Of what comes back: how many parts are being read or in memory, and which piece each is in.
    taken: usize,
    pieces: Vec<Option<usize>>,
    /// How many parts have been handed over.
    used: usize,
    /// A piece is being read or written outside the lock.
    busy: usize,
    running: bool,
    failure: Option<Failure>,
    moved: Moved,
    resident: u64,
}

struct Shared {
    schedule: Schedule,
    disk: Disk,
    path: std::path::PathBuf,
    memory: MmapMut,
    piece: usize,
    state: Mutex<State>,
    change: Condvar,
    throttle: Arc<Throttle>,
}

/// Arrays of one program on their way to a file and back. Dropping it ends its threads.
pub(crate) struct Swapper {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Numbers of what comes back next.
    next: usize,
    /// When the step began.
    start: Instant,
}

impl Swapper {
    /// Moves what a plan asks for to and from a file that is large enough.
    pub fn new(plan: &Plan, path: &Path, options: &Options, throttle: Arc<Throttle>) -> Result<Swapper, Failure> {
        let failure = |error| Failure { name: "activations".into(), path: path.to_path_buf(), writing: true, error };
        let piece = piece(options);
        let schedule = Schedule::of(plan, piece);
        let disk = Disk::open(path).map_err(failure)?;
        // One piece each for writing and reading ahead at least.
        let depth = options.depth.max(2);
        let memory = MmapMut::map_anon(depth * piece).map_err(failure)?;
        let state = State {
            free: (0..depth).rev().collect(),
            written: vec![0; schedule.parts.len()],
            pieces: vec![None; schedule.back.len()],
            ..State::default()
        };
        let shared = Arc::new(Shared {
            schedule,
            disk,
            path: path.to_path_buf(),
            memory,
            piece,
            state: Mutex::new(state),
            change: Condvar::new(),
            throttle,
        });
        let mut swapper = Swapper { shared, threads: Vec::new(), next: 0, start: Instant::now() };
        for (name, work) in [("optc-swap-out", write as fn(&Shared)), ("optc-swap-in", read as fn(&Shared))] {
            let shared = swapper.shared.clone();
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || work(&shared));
            swapper.threads.push(thread.unwrap_or_else(|e| panic!("the system refuses a thread: {e}")));
        }
        Ok(swapper)
    }

    /// Starts a step.
    pub fn begin(&mut self) {
        (self.next, self.start) = (0, Instant::now());
        let mut state = self.shared.lock();
        (state.left, state.taken, state.used) = (0, 0, 0);
        state.written.fill(0);
        state.running = true;
    }

    /// Ends a step, also one that stopped on its way. False if something could not be moved.
    pub fn end(&mut self) -> bool {
        let mut state = self.shared.lock();
        state.running = false;
        self.shared.change.notify_all();
        while (state.busy > 0 || !state.queue.is_empty()) && state.failure.is_none() {
            state = self.shared.wait(state);
        }
        while state.busy > 0 {
            state = self.shared.wait(state);
        }
        let dropped: Vec<usize> = state.queue.drain(..).map(|(piece, ..)| piece).collect();
        state.free.extend(dropped);
        for k in 0..state.pieces.len() {
            if let Some(piece) = state.pieces[k].take() {
                state.free.push(piece);
            }
        }
        state.resident = 0;
        state.moved.stepping += self.start.elapsed();
        state.failure.is_none()
    }

    /// An array leaves.
    ///
    /// # Safety
    /// `from` must hold its bytes.
    pub unsafe fn out(&self, slot: usize, from: *const u8) {
        for (k, part) in self.shared.schedule.parts[slot].iter().enumerate() {
            let start = Instant::now();
            let mut state = self.shared.lock();
            while state.free.is_empty() && state.failure.is_none() {
                state = self.shared.wait(state);
            }
            state.moved.waiting += start.elapsed();
            let Some(piece) = state.free.pop().filter(|_| state.failure.is_none()) else { break };
            state.resident += part.bytes as u64;
            state.moved.peak = state.moved.peak.max(state.resident);
            drop(state);
            // SAFETY: the piece is this thread's until it is queued; the part lies in the array.
            unsafe { std::ptr::copy_nonoverlapping(from.add(part.begin), self.shared.address(piece), part.bytes) };
            self.shared.lock().queue.push_back((piece, slot, k));
            self.shared.change.notify_all();
        }
        self.shared.lock().left += 1;
        self.shared.change.notify_all();
    }

    /// It comes back. Zeros if that failed: the step then counts as failed.
    ///
    /// # Safety
    /// `to` must have room for its bytes.
    pub unsafe fn back(&mut self, slot: usize, to: *mut u8) {
        for part in &self.shared.schedule.parts[slot] {
            let number = self.next;
            self.next += 1;
            let start = Instant::now();
            let mut state = self.shared.lock();
            while state.failure.is_none() && state.pieces[number].is_none() {
                state = self.shared.wait(state);
            }
            state.moved.waiting += start.elapsed();
            let piece = state.pieces[number].take();
            drop(state);
            // SAFETY: the piece was read for this part and is nobody else's until it is free again.
            unsafe {
                match piece {
                    Some(piece) => std::ptr::copy_nonoverlapping(self.shared.address(piece), to.add(part.begin), part.bytes),
                    None => to.add(part.begin).write_bytes(0, part.bytes),
                }
            }
            let mut state = self.shared.lock();
            state.used = number + 1;
            state.resident = state.resident.saturating_sub(part.bytes as u64);
            state.free.extend(piece);
            self.shared.change.notify_all();
        }
    }

    /// What was moved so far.
    pub fn moved(&self) -> Moved {
        self.shared.lock().moved
    }

    /// Takes the failure that stopped a step.
    pub fn take_failure(&mut self) -> Option<Failure> {
        self.shared.lock().failure.take()
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.change.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to save.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.change.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
    fn address(&self, piece: usize) -> *mut u8 {
        self.memory.as_ptr().cast_mut().wrapping_add(piece * self.piece)
    }

    /// Reads or writes a part, in whole blocks.
    fn transfer(&self, piece: usize, part: &Part, writing: bool) -> Result<u64, Failure> {
        let start = Instant::now();
        let bytes = part.bytes.next_multiple_of(BLOCK);
        // SAFETY: the piece belongs to the thread that moves it.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.address(piece), bytes) };
        let result = if writing { self.disk.write(memory, part.at) } else { self.disk.read(memory, part.at) };
        self.throttle.wait(writing, start, bytes as u64);
        match result {
            Ok(()) => Ok(bytes as u64),
            Err(error) => Err(Failure { name: "activations".into(), path: self.path.clone(), writing, error }),
        }
    }
}

/// The writing thread.
fn write(shared: &Shared) {
    let mut state = shared.lock();
    while !state.closing {
        let next = if state.failure.is_none() { state.queue.pop_front() } else { None };
        let Some((piece, slot, k)) = next else {
            state = shared.wait(state);
            continue;
        };
        state.busy += 1;
        drop(state);
        let start = Instant::now();
        let part = &shared.schedule.parts[slot][k];
        let result = shared.transfer(piece, part, true);
        state = shared.lock();
        state.busy -= 1;
        state.moved.writing += start.elapsed();
        match result {
            Ok(bytes) => {
                state.moved.written += bytes;
                state.moved.swapped += bytes;
            }
            Err(e) => drop(state.failure.get_or_insert(e)),
        }
        state.written[slot] += 1;
        state.free.push(piece);
        state.resident = state.resident.saturating_sub(part.bytes as u64);
        shared.change.notify_all();
    }
}

/// The reading thread.
fn read(shared: &Shared) {
    let mut state = shared.lock();
    while !state.closing {
        let next = shared.schedule.back.get(state.taken).filter(|(slot, part, left)| {
            state.running && state.failure.is_none() && state.left >= *left && state.written[*slot] > *part && !state.free.is_empty()
        });
        let Some(&(slot, k, _)) = next else {
            state = shared.wait(state);
            continue;
        };
        let number = state.taken;
        state.taken += 1;
        state.busy += 1;
        let piece = state.free.pop().expect("checked above");
        let part = &shared.schedule.parts[slot][k];
        state.resident += part.bytes as u64;
        state.moved.peak = state.moved.peak.max(state.resident);
        drop(state);
        let start = Instant::now();
        let result = shared.transfer(piece, part, false);
        state = shared.lock();
        state.busy -= 1;
        state.moved.reading += start.elapsed();
        match result {
            Ok(bytes) => {
                state.moved.read += bytes;
                state.pieces[number] = Some(piece);
            }
            Err(e) => {
                state.failure.get_or_insert(e);
                state.free.push(piece);
            }
        }
        shared.change.notify_all();
    }
}
