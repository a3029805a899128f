//! Kernels as they are executed: decoded once, operands as rows of a register file.

use crate::ptx::Space;

/// Lanes of a warp.
pub const WARP: usize = 32;
/// A mask of all lanes.
pub const ALL: u32 = u32::MAX;
/// Instead of a register: there is none.
pub const NONE: i32 = i32::MAX;
/// Where a block's shared memory begins, as an address of that space: what lies below belongs to the system, as on devices since sm_80.
pub const SHARED_START: u64 = 1024;
/// Where the shared space lies among generic addresses.
pub const SHARED_WINDOW: u64 = 0x2000_0000_0000_0000;
/// Where the local space lies among generic addresses.
pub const LOCAL_WINDOW: u64 = 0x1000_0000_0000_0000;
/// Where a thread's local memory begins, as an address of that space.
pub const LOCAL_START: u64 = 16;
/// Where addresses of device functions lie.
pub const FUNCTION_WINDOW: u64 = 0x0F00_0000_0000_0000;
/// Local memory that a thread may have if functions call themselves.
pub const RECURSIVE_BYTES: usize = 64 << 10;

/// A register of all lanes of a warp.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Row(pub [u64; WARP]);

/// Registers of the frame under way, and constants.
pub struct Lanes {
    pub regs: *mut Row,
    pub consts: *const Row,
}

impl Lanes {
    /// Values of an operand.
    ///
    /// # Safety
    /// The operand is one of the function whose frame this is.
    #[inline(always)]
    pub unsafe fn source(&self, operand: i32) -> *const u64 {
        // SAFETY: lowering numbers operands within the frame and the table of constants.
        unsafe { if operand >= 0 { self.regs.add(operand as usize).cast() } else { self.consts.add(!operand as usize).cast() } }
    }
    /// The row of a destination.
    ///
    /// # Safety
    /// As for [`Lanes::source`]; the operand is a register.
    #[inline(always)]
    pub unsafe fn target(&self, operand: i32) -> *mut u64 {
        // SAFETY: as above.
        unsafe { self.regs.add(operand as usize).cast() }
    }
}

/// An instruction that only computes.
pub type Alu = unsafe fn(&Lanes, &Ins, u32);

/// A value of its own in each thread, block or launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Warps,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    Clock,
    DynamicShared,
    TotalShared,
    Nanoseconds,
    Multiprocessor,
    Multiprocessors,
}

/// How a kernel touches memory, as far as other blocks are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A load.
    Read,
    /// A load of what nobody writes while the kernel runs (`ld.global.nc`).
    ReadOnly,
    Write,
    /// An access that other threads may meet (`volatile`, `relaxed` and stronger ones).
    Strong,
}

/// A load or store of one or several elements.
#[derive(Clone, Debug)]
pub struct Access {
    pub space: Space,
    /// Bytes of an element.
    pub bytes: u8,
    /// For loads: bits of the register that takes a number with a sign, else 0.
    pub extend: u8,
    pub offset: i64,
    pub touch: Touch,
    /// Registers of the elements.
    pub rows: Vec<i32>,
}

/// An atomic operation: what becomes of the word there, given the operands.
#[derive(Clone, Debug)]
pub struct Atomic {
    pub space: Space,
    pub bytes: u8,
    pub offset: i64,
    pub apply: fn(u64, u64, u64) -> u64,
    /// Whether the old value is wanted.
    pub returns: bool,
}

/// What threads of a warp do together.
#[derive(Clone, Debug)]
pub enum Together {
    Sync,
    Shuffle(Shuffle),
    /// Predicate result: all, any, uniform.
    VoteAll,
    VoteAny,
    VoteUniform,
    Ballot,
    MatchAny,
    MatchAll,
    Reduce(fn(u32, u32) -> u32),
    Elect,
    LoadMatrix {
        rows: Vec<i32>,
        transposed: bool,
        offset: i64,
        space: Space,
    },
    StoreMatrix {
        rows: Vec<i32>,
        transposed: bool,
        offset: i64,
        space: Space,
    },
    Multiply(Box<Multiply>),
}

/// Modes of `shfl.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Kinds of `mma.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaKind {
    Bf16,
    F16,
    /// Sums in f16.
    F16Half,
    Tf32,
    F64,
}

/// A product of fragments, `d = a b + c`.
#[derive(Clone, Debug)]
pub struct Multiply {
    pub kind: MmaKind,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub d: Vec<i32>,
    pub a: Vec<i32>,
    pub b: Vec<i32>,
    pub c: Vec<i32>,
}

/// What a barrier of a block gives its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    Nothing,
    Popc,
    And,
    Or,
}

/// A barrier of a block.
#[derive(Clone, Debug)]
pub struct Barrier {
    /// Whether all threads of a warp have to come to it together.
    pub aligned: bool,
    /// Whether the threads wait.
    pub waits: bool,
    pub gather: Gather,
    pub negated: bool,
}

/// Where an argument of a call comes from or goes to.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Reg(i32),
    /// Bytes of the frame.
    Frame(usize),
}

/// A call of a device function.
#[derive(Clone, Debug)]
pub struct Call {
    /// None if a register says.
    pub target: Option<usize>,
    pub args: Vec<(Place, usize)>,
    pub results: Vec<(Place, usize)>,
}

/// A copy from global to shared memory that runs beside the thread.
#[derive(Clone, Debug)]
pub struct CopyAsync {
    pub to: i64,
    pub from: i64,
    pub bytes: u8,
    /// Register of the bytes that are really read (the rest is zeros), or a predicate that says to read none.
    pub size: i32,
    pub ignore: i32,
}

/// What an instruction is.
#[derive(Clone, Debug)]
pub enum Op {
    Alu(Alu),
    /// Somebody may jump here.
    Label,
    Bra(u32),
    Brx(Vec<u32>),
    Call(Box<Call>),
    Ret,
    Exit,
    Trap,
    Special(Special),
    /// Address of bytes of this frame, in the local space.
    FrameAddress(usize),
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Barrier(Box<Barrier>),
    Together(Box<Together>),
    ActiveMask,
    CopyAsync(Box<CopyAsync>),
    Commit,
    /// Waits until at most so many groups are pending; none for all copies, committed or not.
    WaitGroup(Option<u32>),
    IsSpace(Space),
}

/// A decoded instruction.
#[derive(Clone, Debug)]
pub struct Ins {
    pub op: Op,
    /// Predicate register, or [`NONE`].
    pub guard: i32,
    pub negated: bool,
    /// Destination and second destination.
    pub d: i32,
    pub e: i32,
    /// Operands: registers, or complements of numbers of constants.
    pub a: i32,
    pub b: i32,
    pub c: i32,
    pub line: u32,
}

/// A function as calls need it.
#[derive(Clone, Debug)]
pub struct Routine {
    pub name: String,
    pub start: u32,
    pub registers: usize,
    pub frame: usize,
    /// Where arguments and results lie in its frame.
    pub params: Vec<(Place, usize)>,
    pub results: Vec<(Place, usize)>,
}

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub offset: usize,
    pub bytes: usize,
}

/// A kernel with all that it calls.
pub struct Program {
    pub name: String,
    pub code: Vec<Ins>,
    pub consts: Vec<Row>,
    /// The first is the kernel.
    pub routines: Vec<Routine>,
    /// Local bytes of a thread.
    pub local: usize,
    /// Bytes of static shared memory.
    pub shared: usize,
    pub params: Vec<Parameter>,
    pub param_bytes: usize,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
}
