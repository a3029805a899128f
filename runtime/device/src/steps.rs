//! The instructions of a plan, prepared for a GPU.

use crate::blas::Product;
use crate::code::{Code, Ready};
use crate::error::{DeviceError, Result};
use crate::memory::{Memory, Pinned};
use optc_abi::DType;
use optc_abi::extent::spans;
use optc_abi::plan::{BufRef, Instr, KernelCall, LibOp, LoopId, Place, Plan, Trip};
use optc_exec::{HostCall, Pool};
use std::ffi::c_void;
use std::sync::Arc;

/// A prepared instruction.
pub(crate) enum Step {
    Kernel {
        kernel: usize,
        calls: Vec<KernelCall>,
        /// The table of all calls in one launch.
        table: Option<usize>,
    },
    /// Launches of the GPU's own code.
    Work {
        work: Ready,
        places: Vec<BufRef>,
        scratch: Option<Memory>,
        detour: Option<Detour>,
    },
    /// A product of NVIDIA's library.
    Product {
        product: Box<Product>,
        places: Vec<BufRef>,
        detour: Option<Detour>,
    },
    /// What the processor computes, on copies.
    Host {
        job: Box<Job>,
        parts: Vec<Part>,
        detour: Option<Detour>,
    },
    Copy {
        from: BufRef,
        to: BufRef,
        bytes: usize,
    },
    /// An array goes to memory of the computer, or comes back.
    Swap {
        place: BufRef,
        slot: usize,
        bytes: usize,
        out: bool,
    },
    Loop {
        id: LoopId,
        trip: Trip,
        reverse: bool,
        counter: BufRef,
        body: Vec<Step>,
    },
    Cond {
        pred: BufRef,
        then: Vec<Step>,
        otherwise: Vec<Step>,
    },
    Guard {
        value: BufRef,
        dtype: DType,
    },
}

/// Memory in which a result waits for a look at the status, because what makes it does not look: it belongs in an input's place.
pub(crate) struct Detour {
    pub(crate) memory: Memory,
    /// Which of the instruction's places.
    pub(crate) which: usize,
    pub(crate) bytes: usize,
    /// What is in the place is used.
    pub(crate) read: bool,
}

/// One array of a [`Step::Host`].
pub(crate) struct Part {
    pub(crate) place: BufRef,
    pub(crate) at: *mut u8,
    pub(crate) bytes: usize,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// Work of the processor in a stream of the GPU.
pub(crate) struct Job {
    call: HostCall,
    pool: Arc<Pool>,
    addresses: Vec<*mut u8>,
    _memory: Pinned,
}

/// Runs a [`Job`].
///
/// # Safety
/// `data` is the address of one whose memory is alive.
pub(crate) unsafe extern "C" fn run_job(data: *mut c_void) {
    // SAFETY: as the caller promises.
    let job = unsafe { &*data.cast::<Job>() };
    // SAFETY: the addresses lie in the job's own memory.
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unsafe { job.call.run(&job.pool, &job.addresses) }));
    if done.is_err() {
        // Unwinding through the driver is not possible; the panic's message has been printed.
        std::process::abort();
    }
}

/// Alignment of arrays of a job.
const ALIGN: usize = 64;

/// Prepares a plan's instructions.
pub(crate) struct Preparing<'a> {
    pub(crate) code: &'a Code,
    pub(crate) plan: &'a Plan,
    pub(crate) pool: &'a Arc<Pool>,
    /// Kernel instructions that are one launch over a table.
    pub(crate) tables: usize,
    /// Bytes of each array that leaves memory.
    pub(crate) swapped: Vec<usize>,
    /// Somebody has to wait for values to know what to do.
    pub(crate) waits: bool,
    counts: [usize; 3],
}

impl<'a> Preparing<'a> {
    pub(crate) fn new(code: &'a Code, plan: &'a Plan, pool: &'a Arc<Pool>) -> Self {
        Preparing { code, plan, pool, tables: 0, swapped: Vec::new(), waits: false, counts: [0; 3] }
    }

    pub(crate) fn steps(&mut self, code: &[Instr]) -> Result<Vec<Step>> {
        code.iter().map(|instr| self.step(instr)).filter_map(Result::transpose).collect()
    }

    fn step(&mut self, instr: &Instr) -> Result<Option<Step>> {
        Ok(Some(match instr {
            Instr::Kernel { kernel, calls } => {
                let fixed = calls.iter().all(|c| c.buffers.iter().all(|b| b.steps.is_empty()));
                let table = (calls.len() > 1 && fixed && self.code.kernels[*kernel].many.is_some()).then(|| {
                    self.tables += 1;
                    self.tables - 1
                });
                Step::Kernel { kernel: *kernel, calls: calls.clone(), table }
            }
            Instr::Gemm(_) => self.instruction(instr, 0)?,
            Instr::Conv(_) => self.instruction(instr, 1)?,
            Instr::Lib { op, buffers, .. } => {
                let count = self.counts[2];
                match op {
                    LibOp::SwapOut { slot, bytes } | LibOp::SwapIn { slot, bytes } => {
                        self.counts[2] = count + 1;
                        let out = matches!(op, LibOp::SwapOut { .. });
                        self.swapped.resize(self.swapped.len().max(slot + 1), 0);
                        self.swapped[*slot] = self.swapped[*slot].max(*bytes);
                        Step::Swap { place: buffers[usize::from(!out)].clone(), slot: *slot, bytes: *bytes, out }
                    }
                    _ => self.instruction(instr, 2)?,
                }
            }
            Instr::Copy { src, dst, bytes } => Step::Copy { from: src.clone(), to: dst.clone(), bytes: *bytes },
            Instr::Loop { id, trip, reverse, counter, body } => {
                self.waits |= !matches!(trip, Trip::Const(_));
                Step::Loop { id: *id, trip: trip.clone(), reverse: *reverse, counter: counter.clone(), body: self.steps(body)? }
            }
            Instr::Cond { pred, then, otherwise } => {
                self.waits = true;
                Step::Cond { pred: pred.clone(), then: self.steps(then)?, otherwise: self.steps(otherwise)? }
            }
            Instr::Guard { value, dtype } => Step::Guard { value: value.clone(), dtype: *dtype },
        }))
    }

    /// A product, convolution or library call: the GPU's own code where there is some, else the processor's.
    fn instruction(&mut self, instr: &Instr, kind: usize) -> Result<Step> {
        let k = self.counts[kind];
        self.counts[kind] += 1;
        let own = [&self.code.gemms, &self.code.convs, &self.code.libs][kind].get(k).cloned().flatten();
        let (Some(spans), gpu) = (spans(instr), &self.code.gpu) else {
            return Err(DeviceError::refused("a rule whose step calls a function of the caller's does not run on a GPU")
                .help("leave `device` out: closures are for the processor"));
        };
        let product = match (instr, &self.code.blas) {
            (Instr::Gemm(g), Some(blas)) => Product::new(blas, g),
            _ => None,
        };
        let guarded = product.is_none() && own.as_ref().is_some_and(Ready::is_guarded);
        let in_place = |place: &BufRef| matches!(self.plan.buffers[place.buffer].place, Place::Input(_));
        let mut detours = Vec::new();
        for (which, s) in spans.iter().enumerate().filter(|(_, s)| s.write && !guarded && in_place(s.place)) {
            detours.push(Detour { memory: Memory::new(gpu, s.bytes)?, which, bytes: s.bytes, read: s.read });
        }
        assert!(detours.len() < 2, "compiler bug: an instruction overwrites two inputs");
        let detour = detours.pop();
        if let Some(product) = product {
            return Ok(Step::Product { product: Box::new(product), places: spans.iter().map(|s| s.place.clone()).collect(), detour });
        }
        if let Some(work) = own {
            let scratch = (work.scratch > 0).then(|| Memory::new(gpu, work.scratch)).transpose()?;
            return Ok(Step::Work { work, places: spans.iter().map(|s| s.place.clone()).collect(), scratch, detour });
        }
        let call = HostCall::new(instr).expect("compiler bug: an instruction that nobody runs");
        let mut offsets = Vec::new();
        let total = spans.iter().fold(0, |at, s| {
            offsets.push(at);
            (at + s.bytes).next_multiple_of(ALIGN)
        });
        let memory = Pinned::new(gpu, total)?;
        let parts: Vec<Part> = spans
            .iter()
            .zip(offsets)
            .map(|(s, offset)| Part { place: s.place.clone(), at: memory.at(offset), bytes: s.bytes, read: s.read, write: s.write })
            .collect();
        let addresses = parts.iter().map(|p| p.at).collect();
        let job = Box::new(Job { call, pool: self.pool.clone(), addresses, _memory: memory });
        Ok(Step::Host { job, parts, detour })
    }
}
