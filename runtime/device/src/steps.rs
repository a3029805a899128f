//! The instructions of a plan, prepared for a GPU.

use crate::blas::Product;
use crate::code::{Code, Ready};
use crate::error::{DeviceError, Result};
use crate::memory::{Memory, Pinned};
use crate::team::Sum;
use optc_abi::DType;
use optc_abi::extent::spans;
use optc_abi::plan::{BufRef, Instr, KernelCall, LibOp, LoopId, Place, Plan, Status, Trip, WRITTEN_ORIGIN, status};
use optc_exec::{HostCall, Pool};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

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
        detours: Vec<Detour>,
    },
    /// A product of NVIDIA's library.
    Product {
        product: Box<Product>,
        places: Vec<BufRef>,
        detours: Vec<Detour>,
    },
    /// What the processor computes, on copies.
    Host {
        job: Box<Job>,
        parts: Vec<Part>,
        detours: Vec<Detour>,
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
    /// Both branches are queued; the launches of the one that is not taken find its status closed.
    Cond {
        pred: BufRef,
        then: Branch,
        otherwise: Branch,
    },
    Guard {
        value: BufRef,
        dtype: DType,
    },
    /// Arrays in place of which comes their sum over all GPUs, together.
    AllReduce {
        sums: Vec<Sum>,
    },
}

/// One branch, with a status of its own.
pub(crate) struct Branch {
    pub(crate) status: Memory,
    pub(crate) body: Vec<Step>,
}

/// Memory in which a result waits for a look at the status, because what makes it does not look: it belongs in an input's place, or into a branch.
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
    /// The status when its turn comes: of a run that has failed, or in a branch that is not taken, there is nothing to do.
    status: usize,
    memory: Pinned,
}

impl Job {
    /// Where the status is to be copied before the job.
    pub(crate) fn status(&self) -> *mut u8 {
        self.memory.at(self.status)
    }
}

/// Whether what is queued behind this status does nothing.
pub(crate) fn is_closed(found: &Status) -> bool {
    found.code != status::OK && found.origin != WRITTEN_ORIGIN as i32
}

/// Runs a [`Job`].
///
/// # Safety
/// `data` is the address of one whose memory is alive.
pub(crate) unsafe extern "C" fn run_job(data: *mut c_void) {
    // SAFETY: as the caller promises.
    let job = unsafe { &*data.cast::<Job>() };
    // SAFETY: the stream has copied a status there.
    if is_closed(&unsafe { job.status().cast::<Status>().read() }) {
        return;
    }
    // Streams of several GPUs may come to jobs at the same time; the pool takes one after the other.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
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
    /// Branches around the instruction at hand.
    depth: usize,
}

impl<'a> Preparing<'a> {
    pub(crate) fn new(code: &'a Code, plan: &'a Plan, pool: &'a Arc<Pool>) -> Self {
        Preparing { code, plan, pool, tables: 0, swapped: Vec::new(), waits: false, counts: [0; 3], depth: 0 }
    }

    pub(crate) fn steps(&mut self, code: &[Instr]) -> Result<Vec<Step>> {
        let mut steps: Vec<Step> = Vec::new();
        for instr in code {
            let Some(step) = self.step(instr)? else { continue };
            match (steps.last_mut(), step) {
                // Neighbors are one meeting of the GPUs.
                (Some(Step::AllReduce { sums }), Step::AllReduce { sums: more }) => sums.extend(more),
                (_, step) => steps.push(step),
            }
        }
        Ok(steps)
    }

    fn branch(&mut self, body: &[Instr]) -> Result<Branch> {
        Ok(Branch { status: Memory::new(&self.code.gpu, size_of::<Status>())?, body: self.steps(body)? })
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
            Instr::Lib { op, buffers, dtype } => {
                let count = self.counts[2];
                match op {
                    LibOp::SwapOut { slot, bytes } | LibOp::SwapIn { slot, bytes } => {
                        self.counts[2] = count + 1;
                        let out = matches!(op, LibOp::SwapOut { .. });
                        self.swapped.resize(self.swapped.len().max(slot + 1), 0);
                        self.swapped[*slot] = self.swapped[*slot].max(*bytes);
                        Step::Swap { place: buffers[usize::from(!out)].clone(), slot: *slot, bytes: *bytes, out }
                    }
                    LibOp::AllReduce { len } => {
                        self.counts[2] = count + 1;
                        Step::AllReduce { sums: vec![Sum { place: buffers[0].clone(), dtype: *dtype, len: *len }] }
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
                self.depth += 1;
                let then = self.branch(then)?;
                let otherwise = self.branch(otherwise)?;
                self.depth -= 1;
                Step::Cond { pred: pred.clone(), then, otherwise }
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
        let in_place = |place: &BufRef| self.depth > 0 || matches!(self.plan.buffers[place.buffer].place, Place::Input(_));
        let mut detours = Vec::new();
        for (which, s) in spans.iter().enumerate().filter(|(_, s)| s.write && !guarded && in_place(s.place)) {
            detours.push(Detour { memory: Memory::new(gpu, s.bytes)?, which, bytes: s.bytes, read: s.read });
        }
        if let Some(product) = product {
            return Ok(Step::Product { product: Box::new(product), places: spans.iter().map(|s| s.place.clone()).collect(), detours });
        }
        if let Some(work) = own {
            let scratch = (work.scratch > 0).then(|| Memory::new(gpu, work.scratch)).transpose()?;
            return Ok(Step::Work { work, places: spans.iter().map(|s| s.place.clone()).collect(), scratch, detours });
        }
        let call = HostCall::new(instr).expect("compiler bug: an instruction that nobody runs");
        let mut offsets = Vec::new();
        let total = spans.iter().fold(0, |at, s| {
            offsets.push(at);
            (at + s.bytes).next_multiple_of(ALIGN)
        });
        let memory = Pinned::new(gpu, total + size_of::<Status>())?;
        let parts: Vec<Part> = spans
            .iter()
            .zip(offsets)
            .map(|(s, offset)| Part { place: s.place.clone(), at: memory.at(offset), bytes: s.bytes, read: s.read, write: s.write })
            .collect();
        let addresses = parts.iter().map(|p| p.at).collect();
        let job = Box::new(Job { call, pool: self.pool.clone(), addresses, status: total, memory });
        Ok(Step::Host { job, parts, detours })
    }
}
