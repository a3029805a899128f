//! A plan bound to a GPU's memory.

use crate::code::Code;
use crate::error::{DeviceError, Result};
use crate::gpu::Gpu;
use crate::memory::{Memory, Pinned};
use crate::ring::{Layout, Returned, Ring};
use crate::steps::{Preparing, Step, is_closed};
use crate::stream::{Event, Graph, Stream};
use crate::tables::{Table, table};
use crate::timing::Timing;
use crate::walk::{self, Env};
use optc_abi::plan::{BufRef, Place, Plan, Status};
use optc_exec::{Pool, Remote, Spent, Trouble};
use std::cell::RefCell;
use std::sync::Arc;

/// Threads that a multiprocessor holds, and blocks.
const THREADS_HELD: u32 = 2048;
const BLOCKS_HELD: u32 = 32;
/// Inputs up to this many bytes are compared with what was sent last, and sent only if they differ.
const COMPARED: usize = 4096;
/// Inputs from this many bytes on are sent by a stream of their own while the run before computes.
const AHEAD: usize = 64 << 10;

/// An input or output of the caller.
struct Slot {
    bytes: usize,
    /// The GPU's memory for it; none while a mirror stands for it.
    own: Option<Memory>,
    mirror: Option<Arc<Memory>>,
    /// Where it is in the ring on the way to the GPU, and on the way back.
    sent: Option<usize>,
    returned: Option<usize>,
    /// What was sent last.
    last: Vec<u8>,
    ahead: Option<Ahead>,
    /// Of the caller's array only this goes to the GPU.
    part: Option<Part>,
}

/// A part of an array: `count` pieces of `bytes` bytes, the first one `skip` bytes from the start, and `stride` bytes from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    count: usize,
    bytes: usize,
    skip: usize,
    stride: usize,
}

/// What one of several GPUs has of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    /// Its number.
    pub(crate) rank: usize,
    /// How many there are.
    pub(crate) parts: usize,
    /// Inputs of which each has a part, with the axis along which the caller's array is split.
    pub(crate) split: Vec<(usize, usize)>,
}

/// Memory for what is sent ahead, used in turn.
struct Ahead {
    rooms: [Memory; 2],
    arrived: [Event; 2],
    taken: [Event; 2],
    turn: usize,
}

impl Slot {
    fn address(&self) -> u64 {
        self.mirror.as_deref().or(self.own.as_ref()).map_or(0, Memory::address)
    }
    fn is_own(&self) -> bool {
        self.mirror.is_none()
    }
}

/// A plan on a GPU.
pub struct DevicePlan {
    pub(crate) gpu: Arc<Gpu>,
    plan: Arc<Plan>,
    pub(crate) code: Arc<Code>,
    pub(crate) steps: Vec<Step>,
    /// Nobody has to wait within a run, so that it can be recorded.
    pub(crate) flows: bool,
    arena: Memory,
    constants: Vec<Memory>,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    /// Status and, behind it, where words are read from.
    pub(crate) status: Memory,
    pub(crate) tables: Vec<Option<(Memory, Table)>>,
    pub(crate) swapped: Vec<Pinned>,
    pub(crate) word: Pinned,
    pub(crate) ring: Ring,
    pub(crate) graph: Option<Graph>,
    /// Runs since the addresses changed.
    pub(crate) runs: u64,
    bound: Vec<*mut u8>,
    generation: u64,
    /// Times of the instructions, where they are asked for.
    pub(crate) timing: RefCell<Option<Timing>>,
    /// An error stands in the status and has been reported.
    pub(crate) failed: bool,
    /// On one of several GPUs: a word that says whether any of them has failed.
    pub(crate) raised: Option<Memory>,
    /// Whether results come from here; other GPUs have the same.
    is_first: bool,
    /// Dropped last: dropping waits for the work.
    pub(crate) stream: Stream,
    sending: Stream,
}

// SAFETY: the addresses of the caller are used only in `submit` and `collect`, under their promises; the others belong to this value.
unsafe impl Send for DevicePlan {}

impl DevicePlan {
    /// Prepares a plan for running: memory, and what each instruction becomes. What has no code on the GPU runs on `pool`.
    ///
    /// # Errors
    /// Not enough memory on the GPU; an instruction that needs the caller.
    pub fn new(plan: Arc<Plan>, code: Arc<Code>, pool: &Arc<Pool>) -> Result<DevicePlan> {
        DevicePlan::shared(plan, code, pool, None)
    }

    /// As [`DevicePlan::new`], for one of several GPUs.
    pub(crate) fn shared(plan: Arc<Plan>, code: Arc<Code>, pool: &Arc<Pool>, share: Option<&Share>) -> Result<DevicePlan> {
        let gpu = code.gpu.clone();
        let (stream, sending) = (gpu.stream()?, gpu.stream()?);
        if !plan.offload.is_empty() {
            return Err(
                DeviceError::refused("arrays in files (`offload`) are for runs on the processor").help("leave out `offload` or `device`")
            );
        }
        let mut preparing = Preparing::new(&code, &plan, pool);
        let steps = preparing.steps(&plan.code)?;
        let (tables, flows) = (preparing.tables, !preparing.waits);
        let swapped = preparing.swapped.iter().map(|&bytes| Pinned::new(&gpu, bytes)).collect::<Result<_>>()?;
        let arena = Memory::new(&gpu, plan.arena_bytes)?;
        let mut constants = Vec::new();
        for tensor in &plan.constants {
            let memory = Memory::new(&gpu, tensor.bytes().len())?;
            // SAFETY: the tensor has that many bytes, and nothing is queued.
            unsafe { memory.write_now(tensor.as_ptr())? };
            constants.push(memory);
        }
        let mut layout = Layout::default();
        let size = |slot: &optc_abi::plan::SlotDecl| slot.shape.iter().product::<usize>() * slot.dtype.size();
        let overwritten = |k: usize| plan.outputs.iter().any(|o| o.alias == Some(k));
        let slot = |bytes| Slot { bytes, own: None, mirror: None, sent: None, returned: None, last: Vec::new(), ahead: None, part: None };
        let inputs = plan.inputs.iter().enumerate().map(|(k, decl)| {
            let bytes = size(decl);
            let returned = overwritten(k).then_some(0);
            Slot { sent: Some(0), returned, ..slot(bytes) }
        });
        let mut inputs: Vec<Slot> = inputs.collect();
        let mut outputs: Vec<Slot> =
            plan.outputs.iter().map(|decl| Slot { returned: decl.alias.is_none().then_some(0), ..slot(size(decl)) }).collect();
        for &(k, axis) in share.iter().flat_map(|s| &s.split) {
            let decl = &plan.inputs[k];
            let (rank, parts) = share.map_or((0, 1), |s| (s.rank, s.parts));
            let bytes = decl.shape[axis..].iter().product::<usize>() * decl.dtype.size();
            inputs[k].part = Some(Part { count: decl.shape[..axis].iter().product(), bytes, skip: rank * bytes, stride: parts * bytes });
        }
        // Mirrors are known when the plan is bound; until then places in the ring are only for what is small, which is cheap to have.
        let small = |s: &&mut Slot| s.bytes <= COMPARED;
        for s in inputs.iter_mut().chain(&mut outputs).filter(small) {
            s.sent = s.sent.map(|_| layout.add(s.bytes));
            s.returned = s.returned.map(|_| layout.add(s.bytes));
        }
        let status = Memory::new(&gpu, size_of::<Status>())?;
        let word = Pinned::new(&gpu, 2 * size_of::<Status>())?;
        let raised = share.map(|_| Memory::new(&gpu, size_of::<u32>())).transpose()?;
        let ring = Ring::new(&gpu, layout)?;
        let mut made = DevicePlan {
            gpu,
            plan,
            code,
            steps,
            flows,
            arena,
            constants,
            inputs,
            outputs,
            status,
            tables: (0..tables).map(|_| None).collect(),
            swapped,
            word,
            ring,
            graph: None,
            runs: 0,
            bound: Vec::new(),
            generation: 0,
            timing: RefCell::new(None),
            failed: false,
            raised,
            is_first: share.is_none_or(|s| s.rank == 0),
            stream,
            sending,
        };
        made.clear_status()?;
        Ok(made)
    }

    /// The status as that of a run in which nothing has happened.
    fn clear_status(&mut self) -> Result<()> {
        let at = self.status.address();
        // SAFETY: the status is a word of code, one of origin, and more.
        unsafe {
            self.stream.fill(at, 0, size_of::<Status>())?;
            self.stream.set(at + std::mem::offset_of!(Status, origin) as u64, u32::MAX)?;
        }
        self.failed = false;
        Ok(())
    }

    fn forget_graph(&mut self) -> Result<()> {
        if self.graph.is_some() {
            self.stream.wait()?;
            self.graph = None;
        }
        self.runs = 0;
        Ok(())
    }

    /// Finds the GPU's memory for the caller's arrays, where they have changed.
    fn bind(&mut self, bases: &[*mut u8]) -> Result<()> {
        let callers = 1..1 + self.inputs.len() + self.outputs.len();
        let generation = self.gpu.generation();
        if generation == self.generation && self.bound == bases[callers.clone()] {
            return Ok(());
        }
        let before: Vec<u64> = self.inputs.iter().chain(&self.outputs).map(Slot::address).collect();
        let mut roomy = true;
        for (k, slot) in self.inputs.iter_mut().chain(&mut self.outputs).enumerate() {
            let used = slot.sent.is_some() || slot.returned.is_some();
            slot.mirror = if used { self.gpu.mirrored(bases[1 + k]).filter(|m| m.bytes() == slot.bytes) } else { None };
            if used && slot.is_own() && slot.own.is_none() {
                slot.own = Some(Memory::new(&self.gpu, slot.bytes)?);
                slot.last = Vec::new();
                roomy &= slot.bytes <= COMPARED;
            }
        }
        if !roomy {
            self.make_room()?;
        }
        let first = std::mem::replace(&mut self.generation, generation) == 0;
        self.bound = bases[callers].to_vec();
        let after: Vec<u64> = self.inputs.iter().chain(&self.outputs).map(Slot::address).collect();
        if first || before != after {
            self.forget_graph()?;
            self.lay_tables()?;
        }
        Ok(())
    }

    /// Places in the ring for everything that goes to and fro.
    fn make_room(&mut self) -> Result<()> {
        assert!(self.ring.in_flight() == 0, "arrays change while runs are in flight");
        self.stream.wait()?;
        let mut layout = Layout::default();
        for slot in self.inputs.iter_mut().chain(&mut self.outputs).filter(|s| s.own.is_some() || s.bytes <= COMPARED) {
            slot.sent = slot.sent.map(|_| layout.add(slot.bytes));
            slot.returned = slot.returned.map(|_| layout.add(slot.bytes));
            if slot.sent.is_some() && slot.returned.is_none() && slot.bytes >= AHEAD && slot.ahead.is_none() {
                let room = || Memory::new(&self.gpu, slot.bytes);
                let event = || Event::new(&self.gpu);
                slot.ahead = Some(Ahead { rooms: [room()?, room()?], arrived: [event()?, event()?], taken: [event()?, event()?], turn: 0 });
            }
        }
        self.ring = Ring::new(&self.gpu, layout)?;
        Ok(())
    }

    /// Writes the tables of kernels with many argument sets, for the addresses as they are.
    fn lay_tables(&mut self) -> Result<()> {
        self.stream.wait()?;
        let mut tables = std::mem::take(&mut self.tables);
        self.each_table(&self.steps, &mut tables)?;
        self.tables = tables;
        Ok(())
    }

    fn each_table(&self, steps: &[Step], tables: &mut [Option<(Memory, Table)>]) -> Result<()> {
        for step in steps {
            match step {
                Step::Kernel { kernel, calls, table: Some(t) } => {
                    let kernel = &self.code.kernels[*kernel];
                    let made =
                        table(kernel, calls, self.at_once(kernel.threads), |c, b| self.address(&calls[c].buffers[b], &self.outside()));
                    if tables[*t].as_ref().is_some_and(|(_, old)| *old == made) {
                        continue;
                    }
                    let memory = Memory::new(&self.gpu, made.bytes.len())?;
                    // SAFETY: the table has that many bytes, and nothing is queued that uses the memory.
                    unsafe { memory.write_now(made.bytes.as_ptr())? };
                    tables[*t] = Some((memory, made));
                }
                Step::Loop { body, .. } => self.each_table(body, tables)?,
                Step::Cond { then, otherwise, .. } => {
                    self.each_table(&then.body, tables)?;
                    self.each_table(&otherwise.body, tables)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Blocks of so many threads that the GPU holds at a time.
    pub(crate) fn at_once(&self, threads: u32) -> u32 {
        self.gpu.properties().processors * (THREADS_HELD / threads.max(1)).clamp(1, BLOCKS_HELD)
    }

    /// Outside of all loops and branches.
    pub(crate) fn outside(&self) -> Env {
        Env { loops: Vec::new(), status: self.status.address() }
    }

    pub(crate) fn address(&self, place: &BufRef, env: &Env) -> u64 {
        let buffer = &self.plan.buffers[place.buffer];
        let base = match buffer.place {
            Place::Arena(offset) => self.arena.address() + offset as u64,
            Place::Input(k) => self.inputs[k].address(),
            Place::Output(k) => self.outputs[k].address(),
            Place::Constant(k) => self.constants[k].address(),
        };
        let steps: i64 = place.steps.iter().map(|(id, step)| step * env.loops.iter().rev().find(|e| e.0 == *id).map_or(0, |e| e.1)).sum();
        base.wrapping_add_signed(place.offset + steps)
    }

    /// Sends the caller's inputs that have changed.
    ///
    /// # Safety
    /// They are valid.
    unsafe fn send(&mut self, bases: &[*mut u8]) -> Result<()> {
        for (k, slot) in self.inputs.iter_mut().enumerate() {
            let (Some(offset), true) = (slot.sent, slot.is_own() && slot.bytes > 0) else { continue };
            let part = slot.part.unwrap_or(Part { count: 1, bytes: slot.bytes, skip: 0, stride: 0 });
            // SAFETY: as the caller promises.
            let piece = |n: usize| unsafe { std::slice::from_raw_parts(bases[1 + k].add(part.skip + n * part.stride), part.bytes) };
            let kept = slot.bytes <= COMPARED && slot.returned.is_none();
            let same = slot.last.len() == slot.bytes && slot.last.chunks(part.bytes).enumerate().all(|(n, last)| last == piece(n));
            if kept && same {
                continue;
            }
            if kept {
                slot.last = (0..part.count).flat_map(piece).copied().collect();
            }
            let at = self.ring.at(offset);
            let to = slot.own.as_ref().map_or(0, Memory::address);
            // SAFETY: the place in the ring has room, and is used by no run in flight.
            unsafe {
                for n in 0..part.count {
                    std::ptr::copy_nonoverlapping(piece(n).as_ptr(), at.add(n * part.bytes), part.bytes);
                }
                match &mut slot.ahead {
                    None => self.stream.send(to, at, slot.bytes)?,
                    Some(ahead) => {
                        let turn = ahead.turn;
                        self.sending.after(&ahead.taken[turn])?;
                        self.sending.send(ahead.rooms[turn].address(), at, slot.bytes)?;
                        self.sending.record(&ahead.arrived[turn])?;
                        self.stream.after(&ahead.arrived[turn])?;
                        self.stream.copy(to, ahead.rooms[turn].address(), slot.bytes)?;
                        self.stream.record(&ahead.taken[turn])?;
                        ahead.turn = 1 - turn;
                    }
                }
            }
        }
        Ok(())
    }

    /// What comes before a run: memory, and what the caller gives.
    ///
    /// # Safety
    /// As [`Remote::submit`].
    pub(crate) unsafe fn before(&mut self, bases: &[*mut u8]) -> Result<()> {
        self.gpu.enter()?;
        self.bind(bases)?;
        if self.failed && self.ring.in_flight() == 0 {
            self.clear_status()?;
        }
        // SAFETY: as the caller promises.
        unsafe { self.send(bases) }
    }

    /// What comes after it: results and status on their way back.
    ///
    /// # Safety
    /// As [`Remote::submit`].
    pub(crate) unsafe fn after(&mut self, bases: &[*mut u8]) -> Result<()> {
        self.gpu.enter()?;
        let mut results = Vec::new();
        for (k, slot) in self.inputs.iter().chain(&self.outputs).enumerate().filter(|_| self.is_first) {
            let (Some(offset), true) = (slot.returned, slot.is_own() && slot.bytes > 0) else { continue };
            // SAFETY: the place in the ring has room, and is used by no run in flight.
            unsafe { self.stream.fetch(self.ring.at(offset), slot.address(), slot.bytes)? };
            results.push(Returned { to: bases[1 + k], offset, bytes: slot.bytes });
        }
        // SAFETY: as above.
        unsafe { self.stream.fetch(self.ring.status(), self.status.address(), size_of::<Status>())? };
        self.stream.record(self.ring.mark())?;
        self.ring.queued(results.into_iter());
        Ok(())
    }
}

impl Remote for DevicePlan {
    unsafe fn submit(&mut self, bases: &[*mut u8]) -> std::result::Result<(), Trouble> {
        // SAFETY: as the caller promises.
        unsafe { self.before(bases) }?;
        walk::run(&mut [self], None)?;
        // SAFETY: as above.
        Ok(unsafe { self.after(bases) }?)
    }

    fn collect(&mut self) -> std::result::Result<Status, Trouble> {
        let collected = self.gpu.enter().and_then(|()| self.ring.collect());
        match collected {
            Ok(status) => {
                self.failed |= is_closed(&status);
                Ok(status)
            }
            Err(e) => {
                self.ring.clear();
                Err(e.into())
            }
        }
    }

    fn time_instructions(&mut self, on: bool) -> std::result::Result<(), Trouble> {
        let mut instructions = 0;
        self.plan.walk(&mut |_| instructions += 1);
        self.timing = RefCell::new(on.then(|| Timing::new(&self.gpu, instructions, self.flows)));
        Ok(())
    }

    fn times(&self) -> Vec<Spent> {
        self.timing.borrow().as_ref().map_or_else(Vec::new, Timing::spent)
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    fn bytes(&self) -> usize {
        let slots = self.inputs.iter().chain(&self.outputs).filter_map(|s| s.own.as_ref());
        self.arena.bytes() + self.constants.iter().chain(slots).map(Memory::bytes).sum::<usize>()
    }
}

impl Drop for DevicePlan {
    fn drop(&mut self) {
        // What is queued uses memory that goes away now; a driver that has failed has nothing queued.
        if self.gpu.enter().is_ok() {
            let _ = self.sending.wait();
            let _ = self.stream.wait();
        }
    }
}
