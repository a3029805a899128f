//! The execution plan: what runs, in which order, on which memory.
//!
//! A plan is plain data made by the compiler (`optc-plan`), turned into one native entry point by a back end, and run by `optc-exec`.
//! Kernels are named by their index in the list the back end compiled; the plan itself knows only their arguments.

pub use crate::attention::{Attention, AttentionKind, Strides};
pub use crate::library::{LibCall, LibDims};
use crate::offload::Touch;
use crate::{DType, Tensor};
use std::ffi::c_void;

/// Index of a buffer in [`Plan::buffers`].
pub type BufferId = usize;

/// Where a buffer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the arena, at this byte offset (a multiple of [`crate::tensor::ALIGN`]).
    Arena(usize),
    /// The caller's memory for input `k`.
    Input(usize),
    /// The caller's memory for output `k` (only outputs that alias no input).
    Output(usize),
    /// Constant `k` of [`Plan::constants`].
    Constant(usize),
}

/// A dense region of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferDecl {
    /// Element type.
    pub dtype: DType,
    /// Number of elements.
    pub len: usize,
    /// Where it lives.
    pub place: Place,
}

/// An input or output the caller binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotDecl {
    /// Its name, for messages (`net.linear.0.w`).
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
    /// For an output: the input whose memory it overwrites. The caller binds no memory of its own for it.
    pub alias: Option<usize>,
}

/// A buffer and a place in it: byte address = base + `offset` + sum over `steps` of (index of that loop) * step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BufRef {
    /// The buffer.
    pub buffer: BufferId,
    /// Bytes from its start.
    pub offset: i64,
    /// Bytes moved per pass of an enclosing [`Instr::Loop`], by loop id.
    pub steps: Vec<(LoopId, i64)>,
}

impl BufRef {
    /// The start of a buffer.
    pub fn whole(buffer: BufferId) -> Self {
        BufRef { buffer, offset: 0, steps: Vec::new() }
    }
}

/// Names a loop of the plan; unique within it.
pub type LoopId = usize;

/// One use of a kernel: its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelCall {
    /// One per buffer parameter of the kernel.
    pub buffers: Vec<BufRef>,
    /// Run-time extents, one per size parameter of the kernel.
    pub sizes: Vec<i64>,
    /// The parallel loop runs over `0..range` (1 for a kernel without one).
    pub range: i64,
    /// Passes of the parallel loop that make one unit of work for a thread; depends on shapes only.
    pub grain: i64,
}

/// A strided matrix operand of a product; strides count elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatRef {
    /// First element.
    pub data: BufRef,
    /// Elements between rows.
    pub row_stride: i64,
    /// Elements between columns.
    pub col_stride: i64,
    /// Elements between matrices, for each batch extent of the product.
    pub batch_strides: Vec<i64>,
}

/// `c = a b` (or `c += a b` if `accumulate`), for every index of `batch`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Element type of all three matrices: f64 accumulates in f64, f32, bf16 and f16 (GPUs alone) in f32, and a sum is rounded once.
    pub dtype: DType,
    /// Rows of `a` and `c`.
    pub m: usize,
    /// Columns of `b` and `c`.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// Batch extents, outermost first; empty for a single product.
    pub batch: Vec<usize>,
    /// Left operand, `m` x `k`.
    pub a: MatRef,
    /// Right operand, `k` x `n`.
    pub b: MatRef,
    /// Result, `m` x `n`; overlaps neither operand.
    pub c: MatRef,
    /// Add to `c` instead of overwriting it.
    pub accumulate: bool,
    /// `c` is known to be symmetric (`m` is `n`): half of it may be made and mirrored. What `accumulate` adds to is symmetric too.
    pub symmetric: bool,
}

/// Which of the three bilinear maps of a convolution is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvKind {
    /// `y = conv(x, w)`; operands x, w.
    Forward,
    /// The transpose in x: `dx` from operands dy, w.
    InputGrad,
    /// The transpose in w: `dw` from operands x, dy.
    FilterGrad,
}

/// The geometry of a (cross-correlation) convolution, always that of its forward map.
///
/// x is `[N, S..., C]`, w is `[K..., C / groups, O]`, y is `[N, T..., O]`, with
/// `y[n, t, o] = sum over k, c of x[n, t * stride + k * dilation - pad_lo, c] * w[k, c, o]` (zero outside).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvDims {
    /// N.
    pub batch: usize,
    /// C.
    pub in_channels: usize,
    /// O.
    pub out_channels: usize,
    /// Divides C and O.
    pub groups: usize,
    /// S, one per spatial axis.
    pub input: Vec<usize>,
    /// K, one per spatial axis.
    pub filter: Vec<usize>,
    /// T, one per spatial axis: `(S + pad_lo + pad_hi - dilation * (K - 1) - 1) / stride + 1`.
    pub output: Vec<usize>,
    /// Per spatial axis.
    pub stride: Vec<usize>,
    /// Per spatial axis.
    pub dilation: Vec<usize>,
    /// Zeros before the first element, per spatial axis.
    pub pad_lo: Vec<usize>,
    /// Zeros after the last element, per spatial axis.
    pub pad_hi: Vec<usize>,
}

/// A convolution call on dense row-major operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// f32 or f64.
    pub dtype: DType,
    /// Which map.
    pub kind: ConvKind,
    /// Geometry of the forward map.
    pub dims: ConvDims,
    /// First operand (x, dy or x).
    pub lhs: BufRef,
    /// Second operand (w, w or dy).
    pub rhs: BufRef,
    /// Result (y, dx or dw).
    pub out: BufRef,
    /// Scratch memory in the arena, of [`ConvDims::scratch_len`] elements.
    pub scratch: BufRef,
}

/// How often a loop runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trip {
    /// Known when compiled.
    Const(usize),
    /// An `i32` scalar read when the loop is reached; negative counts as 0.
    Run(BufRef),
    /// As long as a bool scalar, read before each pass, is true.
    While {
        /// The flag.
        go: BufRef,
        /// The most passes, as for [`Trip::Run`].
        most: BufRef,
    },
}

/// A library call, dispatched by name in the runtime. Operands are dense and row-major unless strides say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LibOp {
    /// Stable order of each row: operand `[rows, n]` of `dtype`, result `i32[rows, n]`.
    ArgSort {
        /// Rows.
        rows: usize,
        /// Row length.
        n: usize,
        /// Largest first; NaN is the largest value, ties keep their order.
        descending: bool,
    },
    /// Random words: operands key `u32[2]` and, if words are skipped, their number `u32`; result `u32[len]`, element `i` being [`crate::philox::bits_at`] of the key and
    /// `start + skipped + i`.
    RandomBits {
        /// Words of the key's sequence before the first one.
        start: u64,
        /// How many.
        len: usize,
        /// Whether others are skipped before them.
        skips: bool,
    },
    /// A key made from a key, [`crate::philox::fold`]: operands key `u32[2]` and, unless it is known, number `u32`; result `u32[2]`.
    RandomFold {
        /// Distinguishes places of draws.
        place: u32,
        /// The number, if it is known.
        number: Option<u32>,
    },
    /// Begins to write the first operand to a file, out of whose way it may then go: operand an array, result a byte that says so to what comes after.
    SwapOut {
        /// Which array of the plan's.
        slot: usize,
        /// Its bytes.
        bytes: usize,
    },
    /// Brings it back: operand that byte, result the array.
    SwapIn {
        /// Which array of the plan's.
        slot: usize,
        /// Its bytes.
        bytes: usize,
    },
    /// A function of whoever runs the plan ([`CallbackFn`]): first a flag, an f64 that becomes 0, or NaN where the function failed (a guard follows), then operands, then results.
    Callback {
        /// Which, as the plan's owner numbers them.
        function: u32,
    },
    /// The sums over all devices that run the plan, element by element, in the place of what this one has: one array, operand and result.
    AllReduce {
        /// Its elements.
        len: usize,
    },
    /// Attention or its derivatives: operands, then results, as [`Attention::operands`] and [`Attention::results`] list them.
    Attention {
        /// Which, and its extents.
        attention: Attention,
        /// How each operand and result lies in memory. Results overlap nothing.
        strides: Vec<Strides>,
    },
    /// A numerical call: operands as [`LibCall`] lists them (the matrix of [`LibCall::LuSolve`] left out), then results.
    Call {
        /// Which.
        call: LibCall,
        /// Its extents.
        dims: LibDims,
    },
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instr {
    /// Runs one kernel over one or several argument sets (several: the leaves of an optimizer step, independent of each other).
    Kernel {
        /// Index in the list of compiled kernels.
        kernel: usize,
        /// At least one.
        calls: Vec<KernelCall>,
    },
    /// Matrix product.
    Gemm(Gemm),
    /// Convolution.
    Conv(Conv),
    /// Copies bytes between buffers that do not overlap.
    Copy {
        /// From.
        src: BufRef,
        /// To.
        dst: BufRef,
        /// How many.
        bytes: usize,
    },
    /// Library call.
    Lib {
        /// Which.
        op: LibOp,
        /// Element type of the first operand.
        dtype: DType,
        /// Operands, then results.
        buffers: Vec<BufRef>,
    },
    /// Runs `body` `trip` times; the pass counter (i32) is written to `counter` before each pass. With `reverse` it counts down.
    Loop {
        /// Its id, for [`BufRef::steps`]. Steps use the pass counter, so they run backwards with it.
        id: LoopId,
        /// How often.
        trip: Trip,
        /// From the last index to the first.
        reverse: bool,
        /// An `i32` scalar in the arena.
        counter: BufRef,
        /// What each pass does.
        body: Vec<Instr>,
    },
    /// Runs `then` if the bool scalar `pred` is true, else `otherwise`.
    Cond {
        /// A bool scalar.
        pred: BufRef,
        /// If true.
        then: Vec<Instr>,
        /// If false.
        otherwise: Vec<Instr>,
    },
    /// Ends the whole plan with [`status::NOT_FINITE`] unless the float scalar is finite; stands before the first write to an aliased output.
    Guard {
        /// The scalar.
        value: BufRef,
        /// Its type.
        dtype: DType,
    },
}

/// A whole program for one device.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// All memory regions.
    pub buffers: Vec<BufferDecl>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Constant data.
    pub constants: Vec<Tensor>,
    /// What the caller passes, in order.
    pub inputs: Vec<SlotDecl>,
    /// What the caller gets, in order.
    pub outputs: Vec<SlotDecl>,
    /// What to do.
    pub code: Vec<Instr>,
    /// Spans that run-time errors refer to: [`Status::origin`] indexes it. (source id, start, end)
    pub origins: Vec<(u32, u32, u32)>,
    /// What instructions do with inputs that live in files, in order; empty if there are none.
    pub offload: Vec<Touch>,
}

/// What a kernel or plan reports. Written at most once with a non-zero code (the first error wins).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// One of [`status`].
    pub code: i32,
    /// Index into [`Plan::origins`], or -1.
    pub origin: i32,
    /// The offending index, for [`status::OUT_OF_RANGE`].
    pub index: i64,
    /// The extent it missed.
    pub extent: i64,
}

/// Codes of [`Status`].
pub mod status {
    /// All went well.
    pub const OK: i32 = 0;
    /// A gather or scatter index was outside its axis. The kernel goes on with a clamped index; results are void.
    pub const OUT_OF_RANGE: i32 = 1;
    /// A guarded scalar was NaN or infinite; nothing aliased has been written.
    pub const NOT_FINITE: i32 = 2;
    /// An array that lives in a file could not be read or written.
    pub const STORAGE: i32 = 3;
    /// What was written to a watched output holds NaN or infinity. The run was complete: everything has been written.
    pub const WRITTEN: i32 = 4;
    /// A callback failed, or there was none; nothing aliased has been written.
    pub const CALLBACK: i32 = 5;
    /// A device could not go on.
    pub const DEVICE: i32 = 6;
    /// Another of the devices that run the plan together has failed: its status says how.
    pub const PEER: i32 = 7;
}

/// What kernels report as [`Status::origin`] when a watched output they have written is not finite: no place of the text.
pub const WRITTEN_ORIGIN: u32 = i32::MAX as u32;

/// A compiled kernel. `buffers` holds one address per buffer parameter, `sizes` one extent per size parameter; the parallel loop runs over `begin..end`.
pub type KernelFn = unsafe extern "C" fn(buffers: *const *mut u8, sizes: *const i64, begin: i64, end: i64, status: *mut Status);

/// A function that a plan calls back ([`LibOp::Callback`]), with its number and the addresses of its operands and results: operands are to be read during the call alone, results
/// to be filled, of the same operands always the same in one run. Other than 0 it has failed, and the run ends.
pub type CallbackFn = unsafe extern "C" fn(data: *mut c_void, function: u32, buffers: *const *mut u8) -> i32;

/// One argument set of a kernel as compiled code hands it to the runtime (the run-time image of [`KernelCall`]).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawCall {
    /// Addresses.
    pub buffers: *const *mut u8,
    /// Extents.
    pub sizes: *const i64,
    /// Parallel passes.
    pub range: i64,
    /// Passes per unit of work.
    pub grain: i64,
}

/// What compiled code calls in the runtime. `ctx` is the runtime's own; descriptors are indices into the plan's tables prepared at load time.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RuntimeTable {
    /// The runtime's context, first argument of every entry.
    pub ctx: *mut c_void,
    /// Where kernels report errors.
    pub status: *mut Status,
    /// Runs `kernel` over `count` argument sets on the thread pool; returns when all are done. Which thread does what never changes the result.
    pub parallel: unsafe extern "C" fn(ctx: *mut c_void, kernel: KernelFn, calls: *const RawCall, count: i64),
    /// Runs matrix product `index` (of all [`Instr::Gemm`] in pre-order) on resolved addresses of a, b, c.
    pub gemm: unsafe extern "C" fn(ctx: *mut c_void, index: i64, a: *const u8, b: *const u8, c: *mut u8),
    /// Runs convolution `index` (of all [`Instr::Conv`] in pre-order) on resolved addresses of lhs, rhs, out, scratch.
    pub conv: unsafe extern "C" fn(ctx: *mut c_void, index: i64, lhs: *const u8, rhs: *const u8, out: *mut u8, scratch: *mut u8),
    /// Runs library call `index` (of all [`Instr::Lib`] in pre-order) on the resolved addresses.
    pub lib: unsafe extern "C" fn(ctx: *mut c_void, index: i64, buffers: *const *mut u8),
    /// Runs kernel instruction `touch` (of [`Plan::offload`]), chunk by chunk where it streams. Returns a code of [`status`].
    pub stream: unsafe extern "C" fn(ctx: *mut c_void, touch: i64, kernel: KernelFn, bases: *const *mut u8) -> i32,
    /// Before (`done` 0) and after (1) another instruction that uses offloaded inputs, `touch` of [`Plan::offload`]. Returns a code of [`status`].
    pub touch: unsafe extern "C" fn(ctx: *mut c_void, touch: i64, done: i64) -> i32,
    /// In code compiled for profiling: the time since the last call belongs to instruction `index` (in pre-order); -1 starts a run.
    pub mark: unsafe extern "C" fn(ctx: *mut c_void, index: i64),
}

/// The compiled plan: returns a code of [`status`]. `bases` holds the addresses of: arena, then inputs, then outputs (null where aliased), then constants.
pub type PlanFn = unsafe extern "C" fn(runtime: *const RuntimeTable, bases: *const *mut u8) -> i32;

impl Plan {
    /// Position of a buffer's base address in the table handed to [`PlanFn`].
    pub fn base_index(&self, buffer: BufferId) -> usize {
        match self.buffers[buffer].place {
            Place::Arena(_) => 0,
            Place::Input(k) => 1 + k,
            Place::Output(k) => 1 + self.inputs.len() + k,
            Place::Constant(k) => 1 + self.inputs.len() + self.outputs.len() + k,
        }
    }
    /// Byte offset of a buffer from that base.
    pub fn base_offset(&self, buffer: BufferId) -> i64 {
        match self.buffers[buffer].place {
            Place::Arena(offset) => offset as i64,
            _ => 0,
        }
    }
    /// Calls `visit` on every instruction, outer before inner, in order.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Instr)) {
        fn go<'a>(code: &'a [Instr], visit: &mut dyn FnMut(&'a Instr)) {
            for instr in code {
                visit(instr);
                match instr {
                    Instr::Loop { body, .. } => go(body, visit),
                    Instr::Cond { then, otherwise, .. } => {
                        go(then, visit);
                        go(otherwise, visit);
                    }
                    _ => {}
                }
            }
        }
        go(&self.code, visit)
    }
}

impl ConvDims {
    /// Elements of one spatial block of the input, filter, output.
    fn volume(extents: &[usize]) -> usize {
        extents.iter().product()
    }
    /// Elements of x.
    pub fn input_len(&self) -> usize {
        self.batch * Self::volume(&self.input) * self.in_channels
    }
    /// Elements of w.
    pub fn filter_len(&self) -> usize {
        Self::volume(&self.filter) * self.in_channels / self.groups * self.out_channels
    }
    /// Elements of y.
    pub fn output_len(&self) -> usize {
        self.batch * Self::volume(&self.output) * self.out_channels
    }
}
