//! A plan bound to a GPU's memory.

use crate::code::Code;
use crate::error::{DeviceError, Result};
use crate::gpu::Gpu;
use crate::memory::{Memory, Pinned};
use crate::ring::{Layout, Returned, Ring};
use crate::steps::{Branch, Detour, Part, Preparing, Step, is_closed, run_job};
use crate::stream::{Entry, Event, Graph, Stream};
use crate::tables::{Table, table};
use crate::utilities::COPY_THREADS;
use optc_abi::device::Argument;
use optc_abi::plan::{BufRef, KernelCall, Place, Plan, Status, Trip};
use optc_exec::{Pool, Remote};
use std::ffi::c_void;
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
    gpu: Arc<Gpu>,
    plan: Arc<Plan>,
    code: Arc<Code>,
    steps: Vec<Step>,
    /// Nobody has to wait within a run, so that it can be recorded.
    flows: bool,
    arena: Memory,
    constants: Vec<Memory>,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    /// Status and, behind it, where words are read from.
    status: Memory,
    tables: Vec<Option<(Memory, Table)>>,
    swapped: Vec<Pinned>,
    word: Pinned,
    ring: Ring,
    graph: Option<Graph>,
    /// Runs since the addresses changed.
    runs: u64,
    bound: Vec<*mut u8>,
    generation: u64,
    /// An error stands in the status and has been reported.
    failed: bool,
    /// Dropped last: dropping waits for the work.
    stream: Stream,
    sending: Stream,
}

// SAFETY: the addresses of the caller are used only in `submit` and `collect`, under their promises; the others belong to this value.
unsafe impl Send for DevicePlan {}

/// Where in the plan something is queued.
struct Env {
    /// Positions of the loops that are running.
    loops: Vec<(usize, i64)>,
    /// The status of the run, or of the innermost branch.
    status: u64,
}

impl DevicePlan {
    /// Prepares a plan for running: memory, and what each instruction becomes. What has no code on the GPU runs on `pool`.
    ///
    /// # Errors
    /// Not enough memory on the GPU; an instruction that needs the caller.
    pub fn new(plan: Arc<Plan>, code: Arc<Code>, pool: &Arc<Pool>) -> Result<DevicePlan> {
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
        let slot = |bytes| Slot { bytes, own: None, mirror: None, sent: None, returned: None, last: Vec::new(), ahead: None };
        let inputs = plan.inputs.iter().enumerate().map(|(k, decl)| {
            let bytes = size(decl);
            let returned = overwritten(k).then_some(0);
            Slot { sent: Some(0), returned, ..slot(bytes) }
        });
        let mut inputs: Vec<Slot> = inputs.collect();
        let mut outputs: Vec<Slot> =
            plan.outputs.iter().map(|decl| Slot { returned: decl.alias.is_none().then_some(0), ..slot(size(decl)) }).collect();
        // Mirrors are known when the plan is bound; until then places in the ring are only for what is small, which is cheap to have.
        let small = |s: &&mut Slot| s.bytes <= COMPARED;
        for s in inputs.iter_mut().chain(&mut outputs).filter(small) {
            s.sent = s.sent.map(|_| layout.add(s.bytes));
            s.returned = s.returned.map(|_| layout.add(s.bytes));
        }
        let status = Memory::new(&gpu, size_of::<Status>())?;
        let word = Pinned::new(&gpu, 2 * size_of::<Status>())?;
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
            failed: false,
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
    fn at_once(&self, threads: u32) -> u32 {
        self.gpu.properties().processors * (THREADS_HELD / threads.max(1)).clamp(1, BLOCKS_HELD)
    }

    /// Outside of all loops and branches.
    fn outside(&self) -> Env {
        Env { loops: Vec::new(), status: self.status.address() }
    }

    fn address(&self, place: &BufRef, env: &Env) -> u64 {
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

    /// Queues all steps.
    fn walk(&self, steps: &[Step], env: &mut Env) -> Result<()> {
        steps.iter().try_for_each(|step| self.queue(step, env))
    }

    fn queue(&self, step: &Step, env: &mut Env) -> Result<()> {
        let status = env.status;
        match step {
            Step::Kernel { kernel, table: Some(t), .. } => {
                let kernel = &self.code.kernels[*kernel];
                let (Some(entry), Some((memory, table))) = (&kernel.many, &self.tables[*t]) else {
                    return Err(DeviceError::refused("compiler bug: a launch without its table"));
                };
                let mut parameters = [memory.address(), memory.address() + table.items as u64, table.count as u64, status];
                // SAFETY: the parameters are those of the entry, over memory of this plan.
                unsafe { self.stream.launch(entry, [table.blocks, 1, 1], kernel.threads, 0, &mut parameters) }
            }
            Step::Kernel { kernel, calls, table: None } => calls.iter().try_for_each(|call| self.launch(*kernel, call, env)),
            Step::Work { work, places, scratch, detours } => self.around(detours, places, env, |places| {
                work.launches.iter().try_for_each(|l| {
                    let parameter = |a: &Argument| match *a {
                        Argument::Buffer(b) => places[b],
                        Argument::Scratch(offset) => scratch.as_ref().map_or(0, Memory::address) + offset as u64,
                        Argument::Number(n) => n as u64,
                        Argument::Status => status,
                    };
                    let mut parameters: Vec<u64> = l.arguments.iter().map(parameter).collect();
                    // SAFETY: whoever made the work has stated its parameters.
                    unsafe { self.stream.launch(&l.entry, l.blocks, l.threads, l.shared, &mut parameters) }
                })
            }),
            Step::Product { product, places, detours } => self.around(detours, places, env, |places| {
                // SAFETY: the places are those of the instruction that the product was made of.
                unsafe { product.queue(&self.stream, [places[0], places[1], places[2]]) }
            }),
            Step::Host { job, parts, detours } => {
                let places: Vec<BufRef> = parts.iter().map(|p| p.place.clone()).collect();
                self.around(detours, &places, env, |places| {
                    // SAFETY: the job's memory holds all parts, and lives as long as this plan.
                    unsafe {
                        for (Part { at, bytes, .. }, from) in parts.iter().zip(places).filter(|(p, _)| p.read) {
                            self.stream.fetch(*at, *from, *bytes)?;
                        }
                        self.stream.fetch(job.status(), status, size_of::<Status>())?;
                        self.stream.call(run_job, std::ptr::from_ref(&**job).cast_mut().cast::<c_void>())?;
                        parts.iter().zip(places).filter(|(p, _)| p.write).try_for_each(|(p, to)| self.stream.send(*to, p.at, p.bytes))
                    }
                })
            }
            Step::Copy { from, to, bytes } => self.copy(self.address(to, env), self.address(from, env), *bytes, status),
            Step::Swap { place, slot, bytes, out } => {
                let (there, here) = (self.address(place, env), self.swapped[*slot].at(0));
                // SAFETY: both have that many bytes.
                unsafe { if *out { self.stream.fetch(here, there, *bytes) } else { self.stream.send(there, here, *bytes) } }
            }
            Step::Loop { id, trip, reverse, counter, body } => self.repeat(*id, trip, *reverse, counter, body, env),
            Step::Cond { pred, then, otherwise } => {
                let mut parameters = [self.address(pred, env), status, then.status.address(), otherwise.status.address()];
                // SAFETY: a flag and three statuses.
                unsafe { self.stream.launch(&self.code.gate, [1; 3], 1, 0, &mut parameters)? };
                [then, otherwise].into_iter().try_for_each(|branch| self.branch(branch, env))
            }
            Step::Guard { value, dtype } => {
                let mut parameters = [self.address(value, env), status];
                // SAFETY: a scalar of the type, and the status.
                unsafe { self.stream.launch(&self.code.guard(*dtype), [1; 3], 1, 0, &mut parameters) }
            }
        }
    }

    fn branch(&self, branch: &Branch, env: &mut Env) -> Result<()> {
        let outer = std::mem::replace(&mut env.status, branch.status.address());
        let done = self.walk(&branch.body, env);
        env.status = outer;
        done?;
        let mut parameters = [branch.status.address(), outer];
        // SAFETY: two statuses.
        unsafe { self.stream.launch(&self.code.join, [1; 3], 1, 0, &mut parameters) }
    }

    fn launch(&self, kernel: usize, call: &KernelCall, env: &Env) -> Result<()> {
        let kernel = &self.code.kernels[kernel];
        let range = call.range.max(0);
        if range == 0 {
            return Ok(());
        }
        let mut parameters: Vec<u64> = call.buffers.iter().map(|b| self.address(b, env)).collect();
        parameters.extend(call.sizes.iter().map(|&s| s as u64));
        parameters.extend([0, range as u64, env.status]);
        let blocks = ((range * kernel.pieces) as u64).div_ceil(kernel.units as u64).min(u64::from(self.at_once(kernel.threads))) as u32;
        // SAFETY: the parameters are those of the kernel, over memory of this plan.
        unsafe { self.stream.launch(&kernel.one, [blocks, 1, 1], kernel.threads, 0, &mut parameters) }
    }

    /// Copies unless the run has failed, or the branch is not taken.
    fn copy(&self, to: u64, from: u64, bytes: usize, status: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut parameters = [to, from, bytes as u64, status];
        let pieces = bytes.div_ceil(16 * COPY_THREADS as usize).min(self.at_once(COPY_THREADS) as usize) as u32;
        let entry: &Entry = &self.code.copy;
        // SAFETY: both stretches have that many bytes.
        unsafe { self.stream.launch(entry, [pieces.max(1), 1, 1], COPY_THREADS, 0, &mut parameters) }
    }

    /// Queues work on the addresses of places, of which some may be other arrays first.
    fn around(&self, detours: &[Detour], places: &[BufRef], env: &Env, work: impl FnOnce(&[u64]) -> Result<()>) -> Result<()> {
        let mut addresses: Vec<u64> = places.iter().map(|p| self.address(p, env)).collect();
        for d in detours {
            let place = std::mem::replace(&mut addresses[d.which], d.memory.address());
            if d.read {
                self.copy(d.memory.address(), place, d.bytes, env.status)?;
            }
        }
        work(&addresses)?;
        detours.iter().try_for_each(|d| self.copy(self.address(&places[d.which], env), d.memory.address(), d.bytes, env.status))
    }

    fn repeat(&self, id: usize, trip: &Trip, reverse: bool, counter: &BufRef, body: &[Step], env: &mut Env) -> Result<()> {
        let most = match trip {
            Trip::Const(n) => Some(*n as i64),
            Trip::Run(n) => self.read::<i32>(self.address(n, env), env.status)?.map(|n| i64::from(n).max(0)),
            Trip::While { most, .. } => self.read::<i32>(self.address(most, env), env.status)?.map(|n| i64::from(n).max(0)),
        };
        // Nothing that follows a failure matters.
        let Some(n) = most else { return Ok(()) };
        for pass in 0..n {
            if let Trip::While { go, .. } = trip
                && self.read::<u8>(self.address(go, env), env.status)?.is_none_or(|go| go == 0)
            {
                break;
            }
            let at = if reverse { n - 1 - pass } else { pass };
            // SAFETY: a counter is a word in the arena.
            unsafe { self.stream.set(self.address(counter, env), at as i32 as u32)? };
            env.loops.push((id, at));
            let done = self.walk(body, env);
            env.loops.pop();
            done?;
        }
        Ok(())
    }

    /// Waits for a value; `None` if the run has failed, or the branch is not taken.
    fn read<T: Copy>(&self, at: u64, status: u64) -> Result<Option<T>> {
        // SAFETY: room for a status and a value; the copies are waited for.
        unsafe {
            self.stream.fetch(self.word.at(0), status, size_of::<Status>())?;
            self.stream.fetch(self.word.at(size_of::<Status>()), at, size_of::<T>())?;
            self.stream.wait()?;
            let found = self.word.at(0).cast::<Status>().read();
            Ok((!is_closed(&found)).then(|| self.word.at(size_of::<Status>()).cast::<T>().read_unaligned()))
        }
    }

    /// Sends the caller's inputs that have changed.
    ///
    /// # Safety
    /// They are valid.
    unsafe fn send(&mut self, bases: &[*mut u8]) -> Result<()> {
        for (k, slot) in self.inputs.iter_mut().enumerate() {
            let (Some(offset), true) = (slot.sent, slot.is_own() && slot.bytes > 0) else { continue };
            // SAFETY: as the caller promises.
            let bytes = unsafe { std::slice::from_raw_parts(bases[1 + k].cast_const(), slot.bytes) };
            let kept = slot.bytes <= COMPARED && slot.returned.is_none();
            if kept && slot.last == bytes {
                continue;
            }
            if kept {
                slot.last = bytes.to_vec();
            }
            let at = self.ring.at(offset);
            let to = slot.own.as_ref().map_or(0, Memory::address);
            // SAFETY: the place in the ring has room, and is used by no run in flight.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
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

    fn run(&mut self) -> Result<()> {
        let all = |plan: &DevicePlan| {
            let mut status = [plan.status.address()];
            // SAFETY: the entry takes the status.
            unsafe { plan.stream.launch(&plan.code.begin, [1; 3], 1, 0, &mut status)? };
            plan.walk(&plan.steps, &mut plan.outside())
        };
        if self.flows && self.runs > 0 && self.graph.is_none() {
            self.graph = Some(self.stream.captured(|| all(self))?);
        }
        self.runs += 1;
        match &self.graph {
            Some(graph) => self.stream.replay(graph),
            None => all(self),
        }
    }

    /// # Safety
    /// As [`Remote::submit`].
    unsafe fn queue_run(&mut self, bases: &[*mut u8]) -> Result<()> {
        self.gpu.enter()?;
        self.bind(bases)?;
        if self.failed && self.ring.in_flight() == 0 {
            self.clear_status()?;
        }
        // SAFETY: as the caller promises.
        unsafe { self.send(bases)? };
        self.run()?;
        let mut results = Vec::new();
        for (k, slot) in self.inputs.iter().chain(&self.outputs).enumerate() {
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
    unsafe fn submit(&mut self, bases: &[*mut u8]) -> std::result::Result<(), String> {
        // SAFETY: as the caller promises.
        unsafe { self.queue_run(bases) }.map_err(|e| e.to_string())
    }

    fn collect(&mut self) -> std::result::Result<Status, String> {
        let collected = self.gpu.enter().and_then(|()| self.ring.collect());
        match collected {
            Ok(status) => {
                self.failed |= is_closed(&status);
                Ok(status)
            }
            Err(e) => {
                self.ring.clear();
                Err(e.to_string())
            }
        }
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
