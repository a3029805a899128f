//! A compiled plan bound to memory.

use crate::gemm::PreparedGemm;
use crate::offload::{Engine as Files, Failure, Moved, Options, Scratch, Stored, Swapper, Throttle, run_kernel, swap};
use crate::pool::Pool;
use crate::remote::{Remote, Trouble};
use crate::{conv, lib_call};
use optc_abi::offload::Touch;
use optc_abi::pages::{self, LARGE};
use optc_abi::plan::{CallbackFn, Conv, Instr, KernelFn, LibOp, Plan, PlanFn, RawCall, RuntimeTable, Status, WRITTEN_ORIGIN, status};
use optc_abi::tensor::AlignedBytes;
use optc_abi::{DType, Tensor};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What compiled code reaches through [`RuntimeTable::ctx`].
struct Context {
    plan: Arc<Plan>,
    pool: Arc<Pool>,
    status: UnsafeCell<Status>,
    /// Inputs that live in files; used by the thread that runs the plan alone.
    offload: UnsafeCell<Option<Files>>,
    scratch: UnsafeCell<Scratch>,
    /// Arrays that leave memory within a step; likewise.
    swapper: UnsafeCell<Option<Swapper>>,
    /// Copies of these arrays where there is no file for them.
    kept: UnsafeCell<Vec<Vec<u8>>>,
    gemms: Vec<PreparedGemm>,
    convs: Vec<Conv>,
    libs: Vec<(LibOp, DType)>,
    clock: UnsafeCell<Clock>,
    callback: Option<Callback>,
}

/// What a plan calls back, and what that is handed first.
#[derive(Clone, Copy, Debug)]
pub struct Callback {
    /// The function.
    pub function: CallbackFn,
    /// The caller's own.
    pub data: *mut c_void,
}

impl Context {
    /// Calls a function of the caller; where it fails, or there is none, the flag ends the plan.
    ///
    /// # Safety
    /// `buffers` holds the addresses of the flag and of what the function takes.
    unsafe fn call_back(&self, function: u32, buffers: *const *mut u8) {
        // SAFETY: the caller's promise; only the thread that runs the plan writes the status here.
        unsafe {
            let done = self.callback.is_some_and(|c| (c.function)(c.data, function, buffers.add(1)) == 0);
            (*buffers).cast::<f64>().write(if done { 0.0 } else { f64::NAN });
            if !done {
                *self.status.get() = Status { code: status::CALLBACK, origin: -1, ..Status::default() };
            }
        }
    }
}

/// Where the time of profiled runs goes.
struct Clock {
    last: Instant,
    spent: Vec<Spent>,
}

/// What one instruction of a plan took in all runs so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How often it ran.
    pub runs: u64,
    /// For how long, all runs together.
    pub time: Duration,
}

/// Why a run did not give valid results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunError {
    /// What the compiled code reported.
    pub status: Status,
    /// Source id, start and end of the spec text to blame, if known.
    pub span: Option<(u32, u32, u32)>,
    /// What a device has to say, with [`status::DEVICE`].
    pub trouble: Option<Trouble>,
}

impl RunError {
    fn of(code: i32) -> RunError {
        RunError { status: Status { code, origin: -1, ..Status::default() }, span: None, trouble: None }
    }
    fn device(trouble: Trouble) -> RunError {
        RunError { trouble: Some(trouble), ..RunError::of(status::DEVICE) }
    }
}

/// What runs a plan.
enum Engine {
    /// Machine code of this processor; the result of the last run where nobody has asked for it yet.
    Native(PlanFn, Option<Result<(), RunError>>),
    Remote(Box<dyn Remote>),
}

/// Seconds of running per byte after which large pages are worth their price: some twenty times it, as they save a few percent.
const SETTLE: f64 = 25e-9;

/// Inputs updated in place with their bytes, without those that live in files.
fn updated(plan: &Plan) -> impl Iterator<Item = (usize, usize)> {
    let in_file = |k: &usize| {
        let reached = |t: &Touch| t.anywhere.iter().map(|a| a.0).chain(t.calls.iter().flatten().map(|r| r.input)).any(|i| i == *k);
        plan.offload.iter().any(reached)
    };
    let alias = plan.outputs.iter().filter_map(|slot| slot.alias).filter(move |k| !in_file(k));
    alias.map(|k| (k, plan.inputs[k].shape.iter().product::<usize>() * plan.inputs[k].dtype.size()))
}

/// A compiled plan with its arena and the addresses of inputs and outputs.
pub struct Program {
    plan: Arc<Plan>,
    engine: Engine,
    context: Box<Context>,
    bases: Vec<*mut u8>,
    arena: AlignedBytes,
    /// How long the program has run, while its memory is still behind ordinary pages.
    unsettled: Option<Duration>,
    /// Bytes of the arena and of inputs updated in place that large pages would suit.
    large: usize,
    throttle: Option<Arc<Throttle>>,
    /// Keeps the machine code alive.
    _code: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the addresses in `bases` are only used while `run` borrows the program mutably; their owners answer for them (see `bind_input`).
unsafe impl Send for Program {}

impl Program {
    /// Binds `entry`, compiled from `plan` and kept alive by `code`, to an arena of its own.
    pub fn new(plan: Arc<Plan>, entry: PlanFn, code: Arc<dyn Any + Send + Sync>, pool: Arc<Pool>) -> Self {
        let arena = AlignedBytes::zeroed(plan.arena_bytes);
        Self::with(plan, Engine::Native(entry, None), arena, code, pool)
    }

    /// A plan that a device runs, in memory of its own.
    pub fn remote(plan: Arc<Plan>, remote: Box<dyn Remote>, pool: Arc<Pool>) -> Self {
        Self::with(plan, Engine::Remote(remote), AlignedBytes::zeroed(0), Arc::new(()), pool)
    }

    fn with(plan: Arc<Plan>, engine: Engine, arena: AlignedBytes, code: Arc<dyn Any + Send + Sync>, pool: Arc<Pool>) -> Self {
        let mut context = Context {
            plan: plan.clone(),
            pool,
            status: UnsafeCell::default(),
            offload: UnsafeCell::default(),
            scratch: UnsafeCell::default(),
            swapper: UnsafeCell::default(),
            kept: UnsafeCell::default(),
            gemms: Vec::new(),
            convs: Vec::new(),
            libs: Vec::new(),
            callback: None,
            clock: UnsafeCell::new(Clock { last: Instant::now(), spent: Vec::new() }),
        };
        let mut instructions = 0;
        plan.walk(&mut |_| instructions += 1);
        context.clock.get_mut().spent = vec![Spent::default(); instructions];
        plan.walk(&mut |instr| match instr {
            Instr::Gemm(g) => context.gemms.push(PreparedGemm::new(g)),
            Instr::Conv(c) => context.convs.push(c.clone()),
            Instr::Lib { op, dtype, .. } => context.libs.push((op.clone(), *dtype)),
            _ => {}
        });
        let native = matches!(engine, Engine::Native(..));
        let mut bases = vec![std::ptr::null_mut(); 1 + plan.inputs.len() + plan.outputs.len() + plan.constants.len()];
        if native {
            bases[0] = arena.as_ptr();
            let first = 1 + plan.inputs.len() + plan.outputs.len();
            for (k, constant) in plan.constants.iter().enumerate() {
                bases[first + k] = constant.as_ptr();
            }
        }
        // Small arrays share large pages where they lie side by side.
        let large: usize = updated(&plan).map(|(_, bytes)| bytes).chain([plan.arena_bytes]).sum();
        let unsettled = (large >= LARGE && native).then_some(Duration::ZERO);
        let loops = plan.code.iter().any(|i| matches!(i, Instr::Loop { .. }));
        let program = Program { plan, engine, context: Box::new(context), bases, arena, unsettled, large, throttle: None, _code: code };
        if loops && native {
            // One run may be all there is, and goes over the arena many times.
            pages::prefer_large(program.arena.as_ptr(), program.arena_bytes());
        }
        program
    }

    /// Puts the arena and bound inputs that are updated in place behind large pages. Happens by itself in a program that has run for long enough.
    pub fn settle(&mut self) {
        if self.unsettled.take().is_none() {
            return;
        }
        pages::prefer_large(self.arena.as_ptr(), self.arena_bytes());
        let inputs: Vec<(*const u8, usize)> = updated(&self.plan).map(|(k, bytes)| (self.bases[1 + k].cast_const(), bytes)).collect();
        pages::prefer_large_together(inputs);
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What each instruction of the plan (in the order of [`Plan::walk`]) took since the last call of this. All zeros unless the code was compiled for
    /// profiling; loops and conditionals are always zero, what they hold is counted.
    pub fn take_profile(&mut self) -> Vec<Spent> {
        let spent = &mut self.context.clock.get_mut().spent;
        let fresh = vec![Spent::default(); spent.len()];
        std::mem::replace(spent, fresh)
    }

    /// On a device: from now on the instructions of each run are timed one by one, or no longer. No run may be in flight.
    ///
    /// # Errors
    /// Several devices run the plan together.
    pub fn time_instructions(&mut self, on: bool) -> Result<(), RunError> {
        match &mut self.engine {
            Engine::Native(..) => Ok(()),
            Engine::Remote(remote) => remote.time_instructions(on).map_err(RunError::device),
        }
    }

    /// On a device: what each instruction took in the runs that were timed, in the order of [`Plan::walk`].
    pub fn times(&self) -> Vec<Spent> {
        match &self.engine {
            Engine::Native(..) => Vec::new(),
            Engine::Remote(remote) => remote.times(),
        }
    }

    /// Whether it runs on a device.
    pub fn is_remote(&self) -> bool {
        matches!(self.engine, Engine::Remote(_))
    }

    /// Bytes of the arena; on a device, of all memory that the plan has there.
    pub fn arena_bytes(&self) -> usize {
        match &self.engine {
            Engine::Native(..) => self.arena.as_slice().len(),
            Engine::Remote(remote) => remote.bytes(),
        }
    }

    /// Replaces the arena, which must not have been used, by memory at least as large, such as a mapped file's.
    pub fn use_arena(&mut self, memory: Tensor) {
        assert!(memory.bytes().len() >= self.plan.arena_bytes, "an arena is too small");
        self.arena = memory.into_bytes();
        self.bases[0] = self.arena.as_ptr();
        self.unsettled = None;
    }

    /// Binds input `k` to memory; it stays bound for later runs.
    ///
    /// # Safety
    /// The memory must hold the input's elements, be aligned to [`optc_abi::tensor::MAPPED_ALIGN`], and stay valid and unshared during runs.
    pub unsafe fn bind_input(&mut self, k: usize, address: *mut u8) {
        self.bases[1 + k] = address;
    }

    /// Binds output `k` (one that aliases no input) to memory; it stays bound for later runs.
    ///
    /// # Safety
    /// As for [`Program::bind_input`].
    pub unsafe fn bind_output(&mut self, k: usize, address: *mut u8) {
        self.bases[1 + self.plan.inputs.len() + k] = address;
    }

    /// What runs call back from now on.
    ///
    /// # Safety
    /// During runs it may be called on the thread that runs the program, with the functions and arrays that the program was compiled for. It does not run this program.
    pub unsafe fn call_back(&mut self, callback: Option<Callback>) {
        self.context.callback = callback;
    }

    /// Keeps inputs in files: from now on runs read them ahead and write them behind. The program must have been compiled for it ([`Plan::offload`]), and the inputs
    /// must also be bound, to mappings of the files.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn offload(&mut self, stored: Vec<Stored>, options: &Options) -> Result<(), Failure> {
        let throttle = self.throttle(options);
        *self.context.offload.get_mut() = Some(Files::new(&self.plan, stored, options, throttle)?);
        Ok(())
    }

    /// Bytes of the file for [`Program::swap`]; 0 if nothing leaves memory.
    pub fn swapped_bytes(&self, options: &Options) -> u64 {
        swap::bytes(&self.plan, options)
    }

    /// Where arrays go that leave memory within a step: to a file of at least [`Program::swapped_bytes`], which nothing else uses. Without
    /// one they are copied to memory and back.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn swap(&mut self, path: &Path, options: &Options) -> Result<(), Failure> {
        let throttle = self.throttle(options);
        *self.context.swapper.get_mut() = Some(Swapper::new(&self.plan, path, options, throttle)?);
        Ok(())
    }

    /// The pace of all that this program moves.
    fn throttle(&mut self, options: &Options) -> Arc<Throttle> {
        self.throttle.get_or_insert_with(|| Arc::new(Throttle::new(options.throttle))).clone()
    }

    /// What was moved between memory and files so far.
    pub fn moved(&mut self) -> Moved {
        let streamed = self.context.offload.get_mut().as_ref().map_or_else(Moved::default, Files::moved);
        streamed.and(self.context.swapper.get_mut().as_ref().map_or_else(Moved::default, Swapper::moved))
    }

    /// Why the last run ended with [`status::STORAGE`].
    pub fn take_failure(&mut self) -> Option<Failure> {
        let swapper = self.context.swapper.get_mut().as_mut().and_then(Swapper::take_failure);
        self.context.offload.get_mut().as_mut().and_then(Files::take_failure).or(swapper)
    }

    /// Runs once on the bound memory.
    ///
    /// # Errors
    /// An index out of range, a guarded scalar that is not finite, a watched output that is not ([`status::WRITTEN`], after everything was done).
    ///
    /// # Safety
    /// Every input and every output that aliases no input must be bound to memory that is valid now.
    pub unsafe fn run_bound(&mut self) -> Result<(), RunError> {
        // SAFETY: as the caller promises.
        unsafe { self.submit_bound()? };
        self.collect()
    }

    /// Runs `n` times on the bound memory, with as many runs in flight as there may be.
    ///
    /// # Errors
    /// As [`Program::run_bound`], of the first run that fails.
    ///
    /// # Safety
    /// As [`Program::run_bound`].
    pub unsafe fn run_times(&mut self, n: u64) -> Result<(), RunError> {
        let mut queued = 0;
        for _ in 0..n {
            while queued < n && self.in_flight() < self.capacity() {
                // SAFETY: as the caller promises.
                unsafe { self.submit_bound()? };
                queued += 1;
            }
            if let Err(e) = self.collect() {
                while self.in_flight() > 0 {
                    let _ = self.collect();
                }
                return Err(e);
            }
        }
        Ok(())
    }

    /// How many runs may be queued before the first has to be collected; 1 where a run is over when [`Program::submit_bound`] returns.
    pub fn capacity(&self) -> usize {
        match &self.engine {
            Engine::Native(..) => 1,
            Engine::Remote(remote) => remote.capacity(),
        }
    }

    /// Runs queued and not collected.
    pub fn in_flight(&self) -> usize {
        match &self.engine {
            Engine::Native(_, last) => usize::from(last.is_some()),
            Engine::Remote(remote) => remote.in_flight(),
        }
    }

    /// Queues a run on the bound memory. Inputs may change once this returns; what the run writes is there when it has been collected.
    ///
    /// # Errors
    /// A device that cannot go on. Panics if [`Program::capacity`] runs are in flight.
    ///
    /// # Safety
    /// As [`Program::run_bound`]; memory that the run writes is valid until it is collected.
    pub unsafe fn submit_bound(&mut self) -> Result<(), RunError> {
        assert!(self.in_flight() < self.capacity(), "a program with too many runs in flight");
        match &mut self.engine {
            // SAFETY: as the caller promises.
            Engine::Remote(remote) => unsafe { remote.submit(&self.bases) }.map_err(RunError::device),
            &mut Engine::Native(entry, _) => {
                // SAFETY: as the caller promises.
                let result = unsafe { self.run_native(entry) };
                self.engine = Engine::Native(entry, Some(result));
                Ok(())
            }
        }
    }

    /// Waits for the oldest run in flight.
    ///
    /// # Errors
    /// As [`Program::run_bound`]. Panics if there is none.
    pub fn collect(&mut self) -> Result<(), RunError> {
        match &mut self.engine {
            Engine::Native(_, last) => last.take().expect("a run to be collected"),
            Engine::Remote(remote) => {
                let mut status = remote.collect().map_err(RunError::device)?;
                if status.origin == WRITTEN_ORIGIN as i32 {
                    status.code = status::WRITTEN;
                }
                self.ended(status)
            }
        }
    }

    fn ended(&self, status: Status) -> Result<(), RunError> {
        if status.code == status::OK {
            return Ok(());
        }
        let span = usize::try_from(status.origin).ok().and_then(|i| self.plan.origins.get(i)).copied();
        Err(RunError { status, span, trouble: None })
    }

    /// Runs machine code of this processor.
    ///
    /// # Safety
    /// As [`Program::run_bound`].
    unsafe fn run_native(&mut self, entry: PlanFn) -> Result<(), RunError> {
        *self.context.status.get_mut() = Status { origin: -1, ..Status::default() };
        let context: *mut Context = &mut *self.context;
        let table = RuntimeTable {
            ctx: context.cast::<c_void>(),
            // SAFETY: the context outlives the call.
            status: unsafe { (*context).status.get() },
            parallel,
            gemm: gemm_entry,
            conv: conv_entry,
            lib: lib_entry,
            stream,
            touch,
            mark,
        };
        if self.context.offload.get_mut().as_mut().is_some_and(|engine| !engine.begin()) {
            return Err(RunError::of(status::STORAGE));
        }
        if let Some(swapper) = self.context.swapper.get_mut() {
            swapper.begin();
        }
        let start = self.unsettled.map(|_| Instant::now());
        // SAFETY: the bases are as the compiled plan expects them.
        let code = unsafe { entry(&table, self.bases.as_ptr()) };
        if let (Some(spent), Some(start)) = (&mut self.unsettled, start) {
            *spent += start.elapsed();
            if spent.as_secs_f64() > SETTLE * self.large as f64 {
                self.settle();
            }
        }
        let mut status = *self.context.status.get_mut();
        if status.code == status::OK {
            status.code = code;
        } else if status.origin == WRITTEN_ORIGIN as i32 {
            status.code = if code == status::OK { status::WRITTEN } else { code };
        }
        let moved = self.context.offload.get_mut().as_mut().is_none_or(Files::end);
        let swapped = self.context.swapper.get_mut().as_mut().is_none_or(Swapper::end);
        if !moved || !swapped {
            status.code = status::STORAGE;
        }
        self.ended(status)
    }

    /// Runs once on `inputs` (aliased ones are updated in place) and returns the outputs that alias no input, in order.
    ///
    /// # Errors
    /// As for [`Program::run_bound`]. Panics if the number, types or shapes of the inputs are not the plan's (a compiler bug).
    pub fn run(&mut self, inputs: &mut [Tensor]) -> Result<Vec<Tensor>, RunError> {
        assert_eq!(inputs.len(), self.plan.inputs.len(), "number of inputs");
        let plan = self.plan.clone();
        for (k, (tensor, slot)) in inputs.iter().zip(&plan.inputs).enumerate() {
            assert!(tensor.dtype == slot.dtype && tensor.shape == slot.shape, "input {} is {tensor:?}, not {slot:?}", slot.name);
            // SAFETY: the tensor has the slot's type and shape and outlives the run.
            unsafe { self.bind_input(k, tensor.as_ptr()) };
        }
        let mut results = Vec::new();
        for (k, slot) in plan.outputs.iter().enumerate() {
            if slot.alias.is_none() {
                let tensor = Tensor::zeros(slot.dtype, &slot.shape);
                // SAFETY: as above.
                unsafe { self.bind_output(k, tensor.as_ptr()) };
                results.push(tensor);
            }
        }
        // SAFETY: everything was bound just now.
        unsafe { self.run_bound() }.map(|()| results)
    }
}

thread_local! {
    /// Running totals of units of the call under way; kept from call to call, so that a step allocates nothing.
    static ENDS: Cell<Vec<usize>> = const { Cell::new(Vec::new()) };
}

unsafe extern "C" fn parallel(ctx: *mut c_void, kernel: KernelFn, calls: *const RawCall, count: i64) {
    // SAFETY: compiled code passes the table's context and `count` valid calls.
    let (context, calls) = unsafe { (&*ctx.cast::<Context>(), std::slice::from_raw_parts(calls, count as usize)) };
    let status = StatusCell(context.status.get());
    let calls = Calls(calls);
    if calls.0.len() == 1 {
        let call = &calls.0[0];
        let units = (call.range.max(0) as u64).div_ceil(call.grain.max(1) as u64);
        context.pool.run(units as usize, &|unit| calls.run(0, unit as i64, kernel, &status));
        return;
    }
    // Many calls: units are (call, part), found through running totals.
    let mut ends = ENDS.take();
    ends.clear();
    let mut total = 0usize;
    for call in calls.0 {
        total += (call.range.max(0) as u64).div_ceil(call.grain.max(1) as u64) as usize;
        ends.push(total);
    }
    context.pool.run(total, &|unit| {
        let which = ends.partition_point(|&end| end <= unit);
        let first = if which == 0 { 0 } else { ends[which - 1] };
        calls.run(which, (unit - first) as i64, kernel, &status);
    });
    ENDS.set(ends);
}

pub(crate) struct StatusCell(pub(crate) *mut Status);
// SAFETY: kernels write it only to report an error; a race between two errors leaves one of them.
unsafe impl Sync for StatusCell {}

struct Calls<'a>(&'a [RawCall]);
// SAFETY: the addresses are those of the running plan; units write disjoint memory.
unsafe impl Sync for Calls<'_> {}

impl Calls<'_> {
    fn run(&self, which: usize, unit: i64, kernel: KernelFn, status: &StatusCell) {
        let call = &self.0[which];
        let grain = call.grain.max(1);
        let (begin, end) = (unit * grain, ((unit + 1) * grain).min(call.range));
        // SAFETY: compiled code prepared the arguments for this kernel.
        unsafe { kernel(call.buffers, call.sizes, begin, end, status.0) }
    }
}

unsafe extern "C" fn stream(ctx: *mut c_void, touch: i64, kernel: KernelFn, bases: *const *mut u8) -> i32 {
    // SAFETY: compiled code passes the table's context, an index of the plan and the bases of the run; only the thread that runs the plan calls this.
    unsafe {
        let context = &*ctx.cast::<Context>();
        let (engine, scratch) = (&mut *context.offload.get(), &mut *context.scratch.get());
        run_kernel(&context.plan, &context.pool, engine.as_mut(), scratch, touch as usize, kernel, bases, context.status.get())
    }
}

unsafe extern "C" fn touch(ctx: *mut c_void, touch: i64, done: i64) -> i32 {
    // SAFETY: as in `stream`.
    let engine = unsafe { (*(*ctx.cast::<Context>()).offload.get()).as_ref() };
    let Some(engine) = engine else { return status::OK };
    let job = engine.jobs_of(touch as usize).start;
    if done != 0 {
        engine.done(job, Duration::ZERO);
        return status::OK;
    }
    if engine.wait_for(job) { status::OK } else { status::STORAGE }
}

unsafe extern "C" fn gemm_entry(ctx: *mut c_void, index: i64, a: *const u8, b: *const u8, c: *mut u8) {
    // SAFETY: compiled code passes the table's context, an index of the plan and resolved addresses.
    unsafe {
        let context = &*ctx.cast::<Context>();
        context.gemms[index as usize].run(&context.pool, a, b, c);
    }
}

unsafe extern "C" fn conv_entry(ctx: *mut c_void, index: i64, lhs: *const u8, rhs: *const u8, out: *mut u8, scratch: *mut u8) {
    // SAFETY: as in `gemm_entry`.
    unsafe {
        let context = &*ctx.cast::<Context>();
        conv::run(&context.pool, &context.convs[index as usize], lhs, rhs, out, scratch);
    }
}

unsafe extern "C" fn lib_entry(ctx: *mut c_void, index: i64, buffers: *const *mut u8) {
    // SAFETY: as in `gemm_entry`.
    unsafe {
        let context = &*ctx.cast::<Context>();
        let (op, dtype) = &context.libs[index as usize];
        match (op, &mut *context.swapper.get()) {
            (LibOp::SwapOut { slot, .. }, Some(swapper)) => return swapper.out(*slot, *buffers),
            (LibOp::SwapIn { slot, .. }, Some(swapper)) => return swapper.back(*slot, *buffers.add(1)),
            (LibOp::SwapOut { slot, bytes }, None) => {
                let kept = &mut *context.kept.get();
                kept.resize(kept.len().max(slot + 1), Vec::new());
                kept[*slot].clear();
                kept[*slot].extend_from_slice(std::slice::from_raw_parts(*buffers, *bytes));
                return;
            }
            (LibOp::SwapIn { slot, bytes }, None) => {
                let kept = &(&*context.kept.get())[*slot];
                std::ptr::copy_nonoverlapping(kept.as_ptr(), *buffers.add(1), *bytes);
                return;
            }
            (LibOp::Callback { function }, _) => return context.call_back(*function, buffers),
            _ => {}
        }
        lib_call::run(&context.pool, op, *dtype, buffers);
    }
}

unsafe extern "C" fn mark(ctx: *mut c_void, index: i64) {
    // SAFETY: as in `gemm_entry`; only the thread that runs the plan calls this, between instructions.
    let clock = unsafe { &mut *(*ctx.cast::<Context>()).clock.get() };
    let now = Instant::now();
    if let Some(spent) = usize::try_from(index).ok().and_then(|i| clock.spent.get_mut(i)) {
        spent.runs += 1;
        spent.time += now - clock.last;
    }
    clock.last = now;
}
