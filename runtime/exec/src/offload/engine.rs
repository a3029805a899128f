//! The threads that read chunks ahead and write them behind, and what they share with the thread that computes.

use super::disk::{BLOCK, Disk};
use super::jobs::{Job, Jobs, Window, cut};
use super::throttle::Throttle;
use super::{Failure, Moved, Options, Stored};
use memmap2::MmapMut;
use optc_abi::plan::Plan;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that read: a disk is faster when it knows the next request before it has answered the last.
const READERS: usize = 2;
/// A job that has no memory.
const NONE: usize = usize::MAX;

/// Where a step stands: numbers of jobs that readers have taken, that are in memory, computed, and done with their writing.
#[derive(Default)]
struct State {
    running: bool,
    closing: bool,
    taken: usize,
    loaded: usize,
    computed: usize,
    complete: usize,
    /// Pieces of memory not in use.
    free: Vec<usize>,
    /// The piece of each job that is in memory, and whether it has been read.
    piece: Vec<usize>,
    ready: Vec<bool>,
    /// How many readers, and whether the writer, are at work outside the lock.
    reading: usize,
    writing: bool,
    failure: Option<Failure>,
    moved: Moved,
    /// Bytes of chunks in memory.
    resident: u64,
}

struct Shared {
    jobs: Jobs,
    files: Vec<(Stored, Disk)>,
    /// File of each input.
    file_of: Vec<Option<usize>>,
    memory: Pieces,
    state: Mutex<State>,
    change: Condvar,
    throttle: Arc<Throttle>,
}

/// Memory for chunks.
struct Pieces {
    pages: MmapMut,
    size: usize,
}

impl Pieces {
    fn address(&self, piece: usize) -> *mut u8 {
        self.pages.as_ptr().cast_mut().wrapping_add(piece * self.size)
    }
}

/// Arrays of one program that live in files. Dropping it ends its threads.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// When the step began.
    start: Instant,
    /// Ends of the written arrays' last blocks, to be taken over by the next chunk.
    carried: Vec<Vec<u8>>,
}

impl Engine {
    /// Opens the files and starts the threads.
    pub fn new(plan: &Plan, stored: Vec<Stored>, options: &Options, throttle: Arc<Throttle>) -> Result<Engine, Failure> {
        let mut file_of = vec![None; plan.inputs.len()];
        let mut files = Vec::new();
        for s in stored {
            file_of[s.input] = Some(files.len());
            match Disk::open(&s.path) {
                Ok(disk) => files.push((s, disk)),
                Err(error) => return Err(Failure { name: s.name, path: s.path, writing: false, error }),
            }
        }
        let bytes = |input: usize| file_of[input].map_or(0, |f: usize| files[f].0.bytes);
        let jobs = cut(plan, options.chunk, &bytes);
        let depth = options.depth.max(1);
        let size = jobs.largest.max(1).next_multiple_of(BLOCK);
        let pages = MmapMut::map_anon(depth * size).map_err(|error| {
            let (name, path) = files.first().map_or_else(Default::default, |(s, _)| (s.name.clone(), s.path.clone()));
            Failure { name, path, writing: false, error }
        })?;
        let state = State {
            free: (0..depth).rev().collect(),
            piece: vec![NONE; jobs.list.len()],
            ready: vec![false; jobs.list.len()],
            ..State::default()
        };
        let inputs = file_of.len();
        let shared = Arc::new(Shared {
            jobs,
            files,
            file_of,
            memory: Pieces { pages, size },
            state: Mutex::new(state),
            change: Condvar::new(),
            throttle,
        });
        let mut engine = Engine { shared, threads: Vec::new(), start: Instant::now(), carried: vec![Vec::with_capacity(BLOCK); inputs] };
        let readers = std::iter::repeat_n(("optc-read", read as fn(&Shared)), READERS);
        for (name, work) in readers.chain([("optc-write", write as fn(&Shared))]) {
            let shared = engine.shared.clone();
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || work(&shared));
            engine.threads.push(thread.unwrap_or_else(|e| panic!("the system refuses a thread: {e}")));
        }
        Ok(engine)
    }

    /// Starts a step: from now on its first chunks are read. False if a file has become too short.
    pub fn begin(&mut self) -> bool {
        self.start = Instant::now();
        let mut state = self.shared.lock();
        for (s, disk) in &self.shared.files {
            let error = match disk.len() {
                Ok(n) if n >= s.offset + s.bytes => continue,
                Ok(n) => io::Error::new(io::ErrorKind::UnexpectedEof, format!("it has {n} bytes, not {}", s.offset + s.bytes)),
                Err(e) => e,
            };
            state.failure.get_or_insert(Failure { name: s.name.clone(), path: s.path.clone(), writing: false, error });
        }
        (state.taken, state.loaded, state.computed, state.complete) = (0, 0, 0, 0);
        state.ready.fill(false);
        state.running = state.failure.is_none();
        self.shared.change.notify_all();
        state.running
    }

    /// Ends a step, also one that stopped on its way: waits until all that was computed is written. False if that failed.
    pub fn end(&mut self) -> bool {
        let start = Instant::now();
        let mut state = self.shared.lock();
        while state.failure.is_none() && state.complete < state.computed {
            state = self.shared.wait(state);
        }
        state.running = false;
        while state.reading > 0 || state.writing {
            state = self.shared.wait(state);
        }
        // What was read ahead of a step that stopped, or computed by one that failed.
        for job in state.complete..state.taken {
            let piece = std::mem::replace(&mut state.piece[job], NONE);
            if piece != NONE {
                state.free.push(piece);
            }
        }
        state.resident = 0;
        state.moved.waiting += start.elapsed();
        state.moved.stepping += self.start.elapsed();
        state.failure.is_none()
    }

    /// What was moved so far.
    pub fn moved(&self) -> Moved {
        self.shared.lock().moved
    }

    /// Takes the failure that stopped a step.
    pub fn take_failure(&mut self) -> Option<Failure> {
        self.shared.lock().failure.take()
    }

    /// Jobs of an entry of [`Plan::offload`].
    pub fn jobs_of(&self, touch: usize) -> std::ops::Range<usize> {
        self.shared.jobs.of[touch].clone()
    }

    /// Whether a job is a chunk (else an instruction as a whole).
    pub fn is_chunk(&self, job: usize) -> bool {
        !self.shared.jobs.list[job].parts.is_empty()
    }

    /// Waits until a job may run. False if reading failed.
    pub fn wait_for(&self, job: usize) -> bool {
        let mut state = self.shared.lock();
        if state.loaded <= job && state.failure.is_none() {
            let start = Instant::now();
            while state.loaded <= job && state.failure.is_none() {
                state = self.shared.wait(state);
            }
            state.moved.waiting += start.elapsed();
        }
        state.failure.is_none()
    }

    /// A chunk that was waited for, and where its windows are.
    pub fn chunk(&self, job: usize) -> (&Job, *mut u8) {
        let piece = self.shared.lock().piece[job];
        (&self.shared.jobs.list[job], self.shared.memory.address(piece))
    }

    /// Joins the edges of a computed chunk with those of its neighbors and hands it to the writer.
    pub fn computed(&mut self, job: usize, took: Duration) {
        let piece = self.shared.lock().piece[job];
        for w in &self.shared.jobs.list[job].windows {
            let memory = self.shared.memory.address(piece).wrapping_add(w.at);
            let kept = &mut self.carried[w.input];
            // SAFETY: the window lies in the chunk's memory, which is this thread's until the job counts as computed.
            unsafe {
                if w.carried {
                    std::ptr::copy_nonoverlapping(kept.as_ptr(), memory, kept.len());
                }
                if w.carries {
                    let from = (w.end / BLOCK as u64 * BLOCK as u64).max(w.blocks.0);
                    let start = memory.wrapping_add((from - w.blocks.0) as usize);
                    kept.clear();
                    kept.extend_from_slice(std::slice::from_raw_parts(start, (w.end - from) as usize));
                }
            }
        }
        self.done(job, took);
    }

    /// An instruction as a whole has run, or a chunk was computed.
    pub fn done(&self, job: usize, took: Duration) {
        let mut state = self.shared.lock();
        state.computed = job + 1;
        state.moved.computing += took;
        self.shared.change.notify_all();
    }
}

impl Drop for Engine {
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
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.change.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads or writes the blocks of one window.
    fn transfer(&self, piece: usize, w: &Window, writing: bool) -> Result<u64, Failure> {
        let (begin, end) = if writing { w.written } else { w.blocks };
        if begin == end {
            return Ok(0);
        }
        let (stored, disk) = &self.files[self.file_of[w.input].expect("a window is of an input in a file")];
        let memory = self.memory.address(piece).wrapping_add(w.at + (begin - w.blocks.0) as usize);
        // SAFETY: the window lies in the piece, which belongs to the thread that moves it.
        let memory = unsafe { std::slice::from_raw_parts_mut(memory, (end - begin) as usize) };
        let at = stored.offset + begin;
        let result = if writing { disk.write(memory, at) } else { disk.read(memory, at) };
        match result {
            Ok(()) => Ok(end - begin),
            Err(error) => Err(Failure { name: stored.name.clone(), path: stored.path.clone(), writing, error }),
        }
    }

    /// Moves all windows of a job, at the pace of the throttle.
    fn transfer_all(&self, piece: usize, job: &Job, writing: bool) -> (Duration, Result<u64, Failure>) {
        let start = Instant::now();
        let mut bytes = 0;
        for w in &job.windows {
            match self.transfer(piece, w, writing) {
                Ok(n) => bytes += n,
                Err(e) => return (start.elapsed(), Err(e)),
            }
        }
        self.throttle.wait(writing, start, bytes);
        (start.elapsed(), Ok(bytes))
    }
}

/// A reading thread.
fn read(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if state.closing {
            return;
        }
        let number = state.taken;
        let next = shared.jobs.list.get(number).filter(|job| state.running && state.failure.is_none() && state.complete >= job.after);
        let Some(job) = next.filter(|job| job.parts.is_empty() || !state.free.is_empty()) else {
            state = shared.wait(state);
            continue;
        };
        state.taken += 1;
        if !job.parts.is_empty() {
            let piece = state.free.pop().expect("checked above");
            state.piece[number] = piece;
            state.reading += 1;
            state.resident += job.bytes as u64;
            state.moved.peak = state.moved.peak.max(state.resident);
            drop(state);
            let (took, result) = shared.transfer_all(piece, job, false);
            state = shared.lock();
            state.reading -= 1;
            state.moved.reading += took;
            match result {
                Ok(bytes) => state.moved.read += bytes,
                Err(e) => {
                    state.failure.get_or_insert(e);
                    shared.change.notify_all();
                    continue;
                }
            }
        }
        state.ready[number] = true;
        while state.ready.get(state.loaded) == Some(&true) {
            state.loaded += 1;
        }
        shared.change.notify_all();
    }
}

/// The writing thread.
fn write(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if state.closing {
            return;
        }
        if state.complete >= state.computed || state.failure.is_some() {
            state = shared.wait(state);
            continue;
        }
        let number = state.complete;
        let job = &shared.jobs.list[number];
        if !job.parts.is_empty() {
            let piece = state.piece[number];
            state.writing = true;
            drop(state);
            let (took, result) = if job.windows.iter().any(|w| w.written.0 < w.written.1) {
                shared.transfer_all(piece, job, true)
            } else {
                (Duration::ZERO, Ok(0))
            };
            state = shared.lock();
            state.writing = false;
            state.moved.writing += took;
            match result {
                Ok(bytes) => state.moved.written += bytes,
                Err(e) => {
                    state.failure.get_or_insert(e);
                    shared.change.notify_all();
                    continue;
                }
            }
            state.piece[number] = NONE;
            state.free.push(piece);
            state.resident -= job.bytes as u64;
        }
        state.complete += 1;
        shared.change.notify_all();
    }
}
