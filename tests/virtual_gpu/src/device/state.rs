//! Everything that the driver knows, behind one lock.

use super::capture::Capture;
use super::code::{Answer, Code};
use super::log::Log;
use super::memory::{Heap, Remains};
use super::module::{Function, Module};
use super::work::Work;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// Number of a piece of queued work; those that it waits for have smaller ones.
pub type OpId = u64;

/// Queued work.
pub struct Op {
    pub device: usize,
    pub deps: Vec<OpId>,
    pub work: Work,
    pub running: bool,
}

/// The primary context of a device.
#[derive(Default)]
pub struct Device {
    pub retained: u32,
    pub flags: u32,
    /// A fault that every call answers from then on.
    pub sticky: Option<Code>,
    /// Devices whose memory may be touched, without itself.
    pub peers: u64,
    pub used: u64,
    /// Handle of the stream that waits for all others.
    pub null: u64,
}

/// A stream.
pub struct Stream {
    pub device: usize,
    /// Whether it waits for the null stream and the other way round.
    pub blocking: bool,
    pub priority: i32,
    pub flags: u32,
    /// What the next work in it waits for.
    pub tail: Vec<OpId>,
    /// Number of the capture that it takes part in.
    pub capture: Option<u64>,
    /// Nodes that the next one depends on.
    pub nodes: Vec<usize>,
}

/// An event.
pub struct Event {
    pub device: usize,
    pub timing: bool,
    pub recorded: Option<OpId>,
    /// Recorded while a capture was under way: its number, and nodes.
    pub captured: Option<(u64, Vec<usize>)>,
    pub time: Option<Instant>,
}

/// A node of a graph.
#[derive(Clone)]
pub struct Node {
    pub work: Work,
    pub deps: Vec<usize>,
}

/// A graph that can be launched.
pub struct Exec {
    pub device: usize,
    pub nodes: Arc<Vec<Node>>,
    /// The last launch, behind which the next one comes.
    pub last: Option<OpId>,
}

/// All of it.
#[derive(Default)]
pub struct State {
    pub initialized: bool,
    pub devices: Vec<Device>,
    pub heap: Heap,
    pub streams: HashMap<u64, Stream>,
    /// Streams of single threads of the host, by thread and device.
    pub own: HashMap<(std::thread::ThreadId, usize), u64>,
    pub events: HashMap<u64, Event>,
    pub modules: HashMap<u64, Module>,
    pub functions: HashMap<u64, Function>,
    pub graphs: HashMap<u64, (usize, Vec<Node>)>,
    pub execs: HashMap<u64, Exec>,
    /// What the library of matrix products knows.
    pub described: HashMap<u64, crate::api::products::Described>,
    pub captures: HashMap<u64, Capture>,
    /// Devices that add up together, by the number of the group.
    pub cliques: HashMap<u64, super::collective::Clique>,
    /// What communicators stand for: the group, and the rank in it.
    pub communicators: HashMap<u64, (u64, usize)>,
    pub ops: BTreeMap<OpId, Op>,
    pub next_op: OpId,
    pub next_handle: u64,
    pub running: usize,
    pub remains: Vec<Remains>,
    pub log: Log,
    pub chance: Option<crate::exec::Chance>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

/// The lock, held.
pub struct Held {
    guard: Option<MutexGuard<'static, Option<State>>>,
}

impl std::ops::Deref for Held {
    type Target = State;
    fn deref(&self) -> &State {
        self.guard.as_ref().and_then(|g| g.as_ref()).expect("held")
    }
}
impl std::ops::DerefMut for Held {
    fn deref_mut(&mut self) -> &mut State {
        self.guard.as_mut().and_then(|g| g.as_mut()).expect("held")
    }
}

/// Takes the lock.
pub fn hold() -> Held {
    let mut guard = STATE.lock().unwrap_or_else(|e| e.into_inner());
    guard.get_or_insert_with(State::default);
    Held { guard: Some(guard) }
}

impl Held {
    /// Lets others in while something runs.
    pub fn released<T>(&mut self, f: impl FnOnce() -> T) -> T {
        self.guard = None;
        let result = f();
        *self = hold();
        result
    }
    /// Waits until somebody says that something has changed.
    pub fn wait(&mut self) {
        let guard = self.guard.take().expect("held");
        self.guard = Some(CHANGED.wait(guard).unwrap_or_else(|e| e.into_inner()));
    }
    /// Says that something has changed.
    pub fn changed(&self) {
        CHANGED.notify_all();
    }
}

/// What a handle is of; in its bits, so that one kind cannot stand for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Graph,
    Exec,
    Node,
    Product,
    Communicator,
}

/// The handle of a device's context.
pub fn context_handle(device: usize) -> u64 {
    0x6700_0000_0000_0000 | (Kind::Context as u64) << 48 | (device as u64 + 1) << 4
}

/// The device of a context's handle.
pub fn device_of(handle: u64) -> Answer<usize> {
    let n = (handle & 0xFFFF_FFFF) >> 4;
    if n > 0 && handle == context_handle(n as usize - 1) { Ok(n as usize - 1) } else { Err(Code::INVALID_CONTEXT) }
}

impl State {
    /// A handle that was never given before and is no address.
    pub fn handle(&mut self, kind: Kind) -> u64 {
        self.next_handle += 1;
        0x6700_0000_0000_0000 | (kind as u64) << 48 | self.next_handle << 4
    }

    /// The stream of a handle as calls give it: 0 and 1 are the null stream, 2 the thread's own.
    pub fn stream(&mut self, handle: u64, device: usize) -> Answer<u64> {
        match handle {
            0 | 1 => {
                if self.devices[device].null == 0 {
                    let null = self.handle(Kind::Stream);
                    self.devices[device].null = null;
                    self.streams.insert(null, Stream::new(device, true));
                }
                Ok(self.devices[device].null)
            }
            2 => {
                let key = (std::thread::current().id(), device);
                if let Some(found) = self.own.get(&key) {
                    return Ok(*found);
                }
                let new = self.handle(Kind::Stream);
                self.streams.insert(new, Stream::new(device, true));
                self.own.insert(key, new);
                Ok(new)
            }
            handle => match self.streams.get(&handle) {
                Some(stream) if stream.device == device => Ok(handle),
                Some(_) => Err(Code::INVALID_CONTEXT),
                None => Err(Code::INVALID_HANDLE),
            },
        }
    }

    /// A mask of the devices whose memory a device may touch.
    pub fn reach(&self, device: usize) -> u64 {
        1 << device | self.devices[device].peers
    }
}

impl Stream {
    /// An empty one.
    pub fn new(device: usize, blocking: bool) -> Stream {
        Stream { device, blocking, priority: 0, flags: u32::from(!blocking), tail: Vec::new(), capture: None, nodes: Vec::new() }
    }
}
