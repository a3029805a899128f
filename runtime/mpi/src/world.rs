//! The thread that talks to MPI.

use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::{Threading, environment};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a message is.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// For whoever uses this.
    Data = 1,
    /// The sender is there.
    Beat = 2,
    /// The sender is about to leave.
    Leave = 3,
}

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(250);
/// A process that was silent for so long is taken for dead; `OPTC_MPI_SILENCE` gives another number of seconds.
const SILENCE: Duration = Duration::from_secs(10);
/// Time between two looks at what came.
const LOOK: Duration = Duration::from_millis(1);
/// How long a process that leaves waits for its last messages to go out.
const FLUSH: Duration = Duration::from_secs(30);

/// What the thread is asked.
enum Ask {
    /// To send this to a rank.
    Send(usize, Vec<u8>),
    /// To end.
    Leave,
}

/// The processes of a run.
pub struct World {
    rank: usize,
    alive: Arc<Vec<AtomicBool>>,
    asks: mpsc::Sender<Ask>,
    inbox: mpsc::Receiver<(usize, Vec<u8>)>,
    thread: Option<JoinHandle<()>>,
}

/// Starts MPI.
///
/// # Errors
/// In words, if MPI cannot be started.
pub fn start() -> Result<World, String> {
    let (asks, asked) = mpsc::channel();
    let (post, inbox) = mpsc::channel();
    let (ready, started) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("mpi".to_string())
        .spawn(move || {
            let Some((universe, _)) = environment::initialize_with_threading(Threading::Funneled) else {
                let _ = ready.send(Err("MPI was started before".to_string()));
                return;
            };
            let world = universe.world();
            // SAFETY: the communicator is there.
            let set = unsafe { ffi::MPI_Comm_set_errhandler(world.as_raw(), ffi::RSMPI_ERRORS_RETURN) };
            let (rank, size) = (world.rank() as usize, world.size() as usize);
            let alive: Arc<Vec<AtomicBool>> = Arc::new((0..size).map(|_| AtomicBool::new(true)).collect());
            if set != ffi::MPI_SUCCESS as c_int {
                let _ = ready.send(Err("MPI does not return errors".to_string()));
                return;
            }
            let _ = ready.send(Ok((rank, alive.clone())));
            let mut post = Post::new(world, alive, post);
            let whole = post.work(&asked);
            // Ending MPI waits for all; where one is gone, or did not say that it leaves, the launcher sees the end of the process.
            if !whole {
                std::mem::forget(universe);
            }
        })
        .map_err(|e| e.to_string())?;
    let (rank, alive) = started.recv().map_err(|_| "MPI could not be started".to_string())??;
    Ok(World { rank, alive, asks, inbox, thread: Some(thread) })
}

impl World {
    /// The number of this process.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.alive.len()
    }

    /// Whether a process was heard of lately and has not left; this one always is. Where this is false, all that came from it can be received.
    pub fn alive(&self, rank: usize) -> bool {
        rank == self.rank || self.alive.get(rank).is_some_and(|a| a.load(Ordering::Acquire))
    }

    /// Sends a message; it is on its way when this returns. Messages of one process to another come in order. Those to processes that are taken for dead are dropped.
    pub fn send(&self, to: usize, message: Vec<u8>) {
        // A thread that ended has nobody to send to.
        let _ = self.asks.send(Ask::Send(to, message));
    }

    /// A message that has come, with its sender.
    pub fn receive(&self) -> Option<(usize, Vec<u8>)> {
        self.inbox.try_recv().ok()
    }

    /// Sends what is left and waits until all that are alive leave too.
    pub fn leave(mut self) {
        let _ = self.asks.send(Ask::Leave);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A message on its way.
struct Sending {
    to: usize,
    request: ffi::MPI_Request,
    /// Where MPI reads it, until it is sent.
    _message: Vec<u8>,
}

/// A message that is coming.
struct Receiving {
    from: usize,
    tag: c_int,
    request: ffi::MPI_Request,
    message: Vec<u8>,
}

/// What the thread knows.
struct Post {
    world: SimpleCommunicator,
    rank: usize,
    inbox: mpsc::Sender<(usize, Vec<u8>)>,
    alive: Arc<Vec<AtomicBool>>,
    heard: Vec<Instant>,
    /// Whether they said that they leave.
    left: Vec<bool>,
    sending: Vec<Sending>,
    receiving: Vec<Receiving>,
    /// The last beat to each, while it is on its way.
    beats: Vec<Option<Sending>>,
    last_beat: Instant,
    silence: Duration,
}

/// How long a process may be silent.
fn silence() -> Duration {
    let asked = std::env::var("OPTC_MPI_SILENCE").ok().and_then(|s| s.parse::<f64>().ok());
    asked.and_then(|s| Duration::try_from_secs_f64(s).ok()).map_or(SILENCE, |s| s.max(4 * BEAT))
}

impl Post {
    fn new(world: SimpleCommunicator, alive: Arc<Vec<AtomicBool>>, inbox: mpsc::Sender<(usize, Vec<u8>)>) -> Post {
        let (rank, size, now) = (world.rank() as usize, alive.len(), Instant::now());
        let beats = (0..size).map(|_| None).collect();
        let (heard, left) = (vec![now; size], vec![false; size]);
        Post {
            world,
            rank,
            inbox,
            alive,
            heard,
            left,
            sending: Vec::new(),
            receiving: Vec::new(),
            beats,
            last_beat: now,
            silence: silence(),
        }
    }

    /// Works until it is asked to leave and all that are alive leave too. Whether all have, and nothing is on its way.
    fn work(&mut self, asked: &mpsc::Receiver<Ask>) -> bool {
        let mut leaving: Option<Instant> = None;
        loop {
            loop {
                match asked.try_recv() {
                    Ok(Ask::Send(to, message)) => self.send(to, message, Tag::Data),
                    Ok(Ask::Leave) | Err(mpsc::TryRecvError::Disconnected) => {
                        if leaving.is_none() {
                            leaving = Some(Instant::now());
                            for r in 0..self.left.len() {
                                self.send(r, Vec::new(), Tag::Leave);
                            }
                        }
                        break;
                    }
                    Err(mpsc::TryRecvError::Empty) => break,
                }
            }
            self.receive();
            self.beat();
            self.tidy();
            if let Some(since) = leaving {
                let others = || (0..self.left.len()).filter(|r| *r != self.rank);
                let gone = |r: usize| self.left[r] || !self.alive[r].load(Ordering::Acquire);
                let sent = self.sending.is_empty() || since.elapsed() > FLUSH;
                if sent && others().all(gone) {
                    return self.sending.is_empty() && others().all(|r| self.left[r]);
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Starts to send a message.
    fn start(&self, to: usize, message: Vec<u8>, tag: Tag) -> Option<Sending> {
        let count = c_int::try_from(message.len()).ok()?;
        // SAFETY: a request is a handle, which the call fills.
        let mut request = unsafe { std::mem::zeroed() };
        // SAFETY: the message is kept where it is until the request has completed.
        let code = unsafe {
            ffi::MPI_Isend(
                message.as_ptr().cast::<c_void>(),
                count,
                ffi::RSMPI_UINT8_T,
                to as c_int,
                tag as c_int,
                self.world.as_raw(),
                &raw mut request,
            )
        };
        (code == ffi::MPI_SUCCESS as c_int).then_some(Sending { to, request, _message: message })
    }

    fn send(&mut self, to: usize, message: Vec<u8>, tag: Tag) {
        if to == self.rank || to >= self.left.len() || self.left[to] || !self.alive[to].load(Ordering::Acquire) {
            return;
        }
        if let Some(sending) = self.start(to, message, tag) {
            self.sending.push(sending);
        }
    }

    /// Takes what has come.
    fn receive(&mut self) {
        while let Some(r) = self.matched() {
            self.receiving.push(r);
        }
        let mut waits = vec![false; self.left.len()];
        let mut kept = Vec::new();
        for mut r in std::mem::take(&mut self.receiving) {
            // Messages of one process are handed on in the order in which they were sent.
            let done = if waits[r.from] { Progress::Under } else { progress(&mut r.request) };
            if done == Progress::Under {
                waits[r.from] = true;
                kept.push(r);
                continue;
            }
            if done == Progress::Failed {
                continue;
            }
            self.heard[r.from] = Instant::now();
            if r.tag == Tag::Leave as i32 {
                self.left[r.from] = true;
            } else if r.tag == Tag::Data as i32 {
                // Whoever asked may be gone already.
                let _ = self.inbox.send((r.from, r.message));
            }
        }
        self.receiving = kept;
    }

    /// Begins to take a message that has been announced: the rest of a long one comes later, or never if its sender is gone.
    fn matched(&self) -> Option<Receiving> {
        let mut status = std::mem::MaybeUninit::<ffi::MPI_Status>::zeroed();
        let (mut there, mut count): (c_int, c_int) = (0, 0);
        // SAFETY: flag, handle and status are written by the calls, and the communicator is there; what is announced is as long as the status says, and lies where it is until the request has completed.
        unsafe {
            let mut handle = std::mem::zeroed();
            let (any, tag, world) = (ffi::RSMPI_ANY_SOURCE, ffi::RSMPI_ANY_TAG, self.world.as_raw());
            let code = ffi::MPI_Improbe(any, tag, world, &raw mut there, &raw mut handle, status.as_mut_ptr());
            if code != ffi::MPI_SUCCESS as c_int || there == 0 {
                return None;
            }
            let status = status.assume_init();
            ffi::MPI_Get_count(&raw const status, ffi::RSMPI_UINT8_T, &raw mut count);
            let mut message = vec![0u8; count.max(0) as usize];
            let mut request = std::mem::zeroed();
            let into = message.as_mut_ptr().cast::<c_void>();
            let code = ffi::MPI_Imrecv(into, count, ffi::RSMPI_UINT8_T, &raw mut handle, &raw mut request);
            let from = usize::try_from(status.MPI_SOURCE).ok().filter(|f| *f < self.left.len())?;
            (code == ffi::MPI_SUCCESS as c_int).then_some(Receiving { from, tag: status.MPI_TAG, request, message })
        }
    }

    /// Tells others that this process is there, and looks who was silent.
    fn beat(&mut self) {
        let now = Instant::now();
        for r in (0..self.left.len()).filter(|r| *r != self.rank) {
            let there = !self.left[r] && now.duration_since(self.heard[r]) < self.silence;
            self.alive[r].store(there, Ordering::Release);
        }
        if now.duration_since(self.last_beat) < BEAT {
            return;
        }
        self.last_beat = now;
        for r in (0..self.left.len()).filter(|r| *r != self.rank) {
            // One that is on its way is enough; to one that is gone none more are.
            if self.beats[r].is_none() && !self.left[r] {
                self.beats[r] = self.start(r, Vec::new(), Tag::Beat);
            }
        }
    }

    /// Forgets messages that are sent.
    fn tidy(&mut self) {
        let there: Vec<bool> = self.alive.iter().map(|a| a.load(Ordering::Acquire)).collect();
        let mut kept = Vec::new();
        for mut s in self.sending.drain(..) {
            if progress(&mut s.request) != Progress::Under {
                continue;
            }
            if there[s.to] {
                kept.push(s);
            } else {
                // MPI may still read what was meant for one that is gone.
                std::mem::forget(s);
            }
        }
        self.sending = kept;
        for beat in &mut self.beats {
            if beat.as_mut().is_some_and(|s| progress(&mut s.request) != Progress::Under) {
                *beat = None;
            }
        }
    }
}

/// How far a message is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// On its way.
    Under,
    /// Through.
    Done,
    /// It never will be through.
    Failed,
}

fn progress(request: &mut ffi::MPI_Request) -> Progress {
    let mut flag: c_int = 0;
    // SAFETY: the request was made by a call of MPI and has not been completed.
    let code = unsafe { ffi::MPI_Test(request, &raw mut flag, ffi::RSMPI_STATUS_IGNORE) };
    match (code == ffi::MPI_SUCCESS as c_int, flag != 0) {
        (false, _) => Progress::Failed,
        (true, true) => Progress::Done,
        (true, false) => Progress::Under,
    }
}
