//! The kernel IR: loop nests of pure scalar expressions over flat buffers. The narrow waist between fusion and code generation.
//!
//! A kernel's meaning does not depend on the back end. In particular a reduction over a [`LoopKind::Vector`] loop has a fixed order:
//! there are [`LANES`] virtual lanes; element `j` of the loop is combined into lane `j % LANES` (lane values start at the operation's
//! identity: +0 for sums, -inf for maxima, …), and after the loop the lanes are combined pairwise (`l` with `l + LANES / 2`, then `LANES / 4`, …, 1) and the result is then
//! combined into the accumulator's previous value (accumulator first). Maximum and minimum, whose order does not matter, may be done in any way.
//! Reductions over serial loops go in order. So the interpreter of kernels, Cranelift, LLVM and GPU emulation agree bit for bit on exact operations.

use crate::graph::{Origin, ReduceOp};
use crate::scalar::ScalarOp;
use optc_abi::DType;

/// Virtual lanes of a vector reduction.
pub const LANES: usize = 16;

/// Elements that one pass of the parallel loop of a kernel over a flat array goes over; its vector loop's extent is a size parameter.
pub const FLAT_UNIT: i64 = 1 << 14;

/// Arrays of fewer elements are combined to one result in one vector loop; larger ones in units of [`FLAT_UNIT`], and then the partial results in one vector loop.
pub const REDUCED_WHOLE: i64 = 2 * FLAT_UNIT;

/// Index of a buffer parameter, or [`LOCAL`] plus the index of a local array.
pub type BufferId = usize;
/// The first number of local arrays.
pub const LOCAL: BufferId = 1 << 16;
/// Index of a size parameter (a run-time extent).
pub type SizeId = usize;
/// Names a loop variable; unique in the kernel.
pub type AxisId = usize;
/// Names a value; defined once, by [`Stmt::Let`], before its uses in the same or an inner block.
pub type ValueId = usize;
/// Names an accumulator.
pub type AccId = usize;

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only loads.
    Read,
    /// Only stores.
    Write,
    /// Both; an element is loaded before it is stored in the same pass, or earlier passes' stores are meant to be seen.
    ReadWrite,
}

/// A buffer parameter. Distinct parameters do not overlap, except exact aliases for in-place updates: then every pass loads its elements of
/// the read parameter before it stores the same elements of the written one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BufferParam {
    /// Element type in memory.
    pub dtype: DType,
    /// Access.
    pub access: Access,
}

/// Memory of the kernel's own, for what several loops of a row need: every pass of the outermost loop has it for itself, and finds nothing in it that was stored before.
/// It is small, so that it stays in the nearest cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// Element type; one that values have.
    pub dtype: DType,
    /// Number of elements.
    pub len: usize,
}

/// Number of passes of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Known.
    Const(i64),
    /// A size parameter.
    Size(SizeId),
}

/// How a loop is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoopKind {
    /// In order.
    Serial,
    /// Passes are independent but for accumulators; the back end uses vectors. Innermost: its body holds no loop.
    Vector,
    /// Passes are independent; only the outermost statement of a kernel may be one, and the kernel function runs `begin..end` of it.
    Parallel,
}

/// Element index of a load or store: `offset` + sum of axis * stride + sum of value (integer, i32 or i64) * stride.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Index {
    /// Constant part.
    pub offset: i64,
    /// Loop variables with strides in elements; no axis twice, no stride 0.
    pub axes: Vec<(AxisId, i64)>,
    /// Integer values with strides in elements.
    pub values: Vec<(ValueId, i64)>,
    /// Loop variables whose stride is `stride * size parameter` (row length of run-time size).
    pub sized: Vec<(AxisId, i64, SizeId)>,
}

/// A scalar literal.
#[derive(Clone, Copy, Debug)]
pub enum Literal {
    /// A float, rounded to the value's type.
    Float(f64),
    /// An integer or bool.
    Int(i64),
}

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Literal::Float(a), Literal::Float(b)) => a.to_bits() == b.to_bits(),
            (Literal::Int(a), Literal::Int(b)) => a == b,
            _ => false,
        }
    }
}
impl Eq for Literal {}
impl std::hash::Hash for Literal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Literal::Float(a) => (0u8, a.to_bits()).hash(state),
            Literal::Int(a) => (1u8, *a).hash(state),
        }
    }
}

/// A pure expression; operands are values. The type of the result stands in [`Stmt::Let`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// A literal.
    Const(Literal),
    /// A loop variable, as the value's integer type.
    Axis(AxisId),
    /// An element of a buffer. bf16 and f16 buffers load as f32 values; bool buffers load as bool values.
    Load {
        /// Which buffer.
        buffer: BufferId,
        /// Which element; in range, unless `guard` is false.
        index: Index,
        /// If this bool is false nothing is loaded and the value is `otherwise` (padding).
        guard: Option<(ValueId, ValueId)>,
    },
    /// A scalar operation.
    Map(ScalarOp, Vec<ValueId>),
    /// Conversion to the value's type, as [`crate::graph::Op::Cast`].
    Cast(ValueId),
    /// The same bits as the value's type.
    Bitcast(ValueId),
    /// The accumulator's present value. Not allowed inside a vector loop that updates it.
    Acc(AccId),
    /// Word `word` (u32) of Philox4x32-10 with key (u32, u32) and counter (u32, u32, u32, u32).
    Philox {
        /// Key.
        key: [ValueId; 2],
        /// Counter.
        counter: [ValueId; 4],
        /// 0 to 3.
        word: u8,
    },
    /// An index (i32 or i64 value) brought into `0..extent`; if it was outside, reports [`optc_abi::plan::status::OUT_OF_RANGE`] with `origin`.
    CheckedIndex {
        /// The index.
        index: ValueId,
        /// Size of the axis.
        extent: i64,
        /// Position in the plan's origins.
        origin: u32,
    },
}

/// An accumulator, a register variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acc {
    /// Type of the running value.
    pub dtype: DType,
    /// How [`Stmt::Update`] combines.
    pub op: AccOp,
}

/// How an accumulator combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccOp {
    /// Like a reduction.
    Reduce(ReduceOp),
    /// Overwritten (a scan's or search's state). Not updated inside vector loops.
    Assign,
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    /// A loop from 0 to `extent - 1`.
    For {
        /// Its variable.
        axis: AxisId,
        /// How often.
        extent: Extent,
        /// How run.
        kind: LoopKind,
        /// What each pass does.
        body: Vec<Stmt>,
    },
    /// Defines a value. Value types: f32, f64, i32, i64, u32, bool, u8 (never bf16 or f16, which live in memory only).
    Let {
        /// Its name.
        value: ValueId,
        /// Its type.
        dtype: DType,
        /// Its meaning.
        expr: Expr,
    },
    /// Sets an accumulator (before the loop that updates it).
    Init {
        /// Which.
        acc: AccId,
        /// To what.
        value: ValueId,
    },
    /// Combines a value into an accumulator.
    Update {
        /// Which.
        acc: AccId,
        /// What.
        value: ValueId,
    },
    /// Stores a value, rounding to the buffer's type.
    Store {
        /// Where.
        buffer: BufferId,
        /// Which element; in range.
        index: Index,
        /// What.
        value: ValueId,
    },
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Kernel {
    /// Buffer parameters.
    pub buffers: Vec<BufferParam>,
    /// Local arrays.
    pub locals: Vec<Local>,
    /// Number of size parameters.
    pub sizes: usize,
    /// Number of axes.
    pub axes: usize,
    /// Number of values.
    pub values: usize,
    /// Accumulators.
    pub accs: Vec<Acc>,
    /// Statements.
    pub body: Vec<Stmt>,
}

impl Kernel {
    /// The local array a buffer number stands for, if it is none of a parameter.
    pub fn local(&self, buffer: BufferId) -> Option<&Local> {
        buffer.checked_sub(LOCAL).and_then(|i| self.locals.get(i))
    }

    /// Element type of a parameter or local array.
    pub fn dtype(&self, buffer: BufferId) -> DType {
        self.local(buffer).map_or_else(|| self.buffers[buffer].dtype, |l| l.dtype)
    }
}

/// A kernel with what messages need; the kernel itself is shared by all places with the same structure.
#[derive(Clone, Debug)]
pub struct NamedKernel {
    /// Short description such as `softmax.512x64` for dumps and profiles.
    pub name: String,
    /// The kernel.
    pub kernel: Kernel,
    /// Where its main result comes from.
    pub origin: Origin,
}

/// The scalar operation that combines two values of a reduction.
pub fn combine_op(op: ReduceOp) -> ScalarOp {
    match op {
        ReduceOp::Sum => ScalarOp::Add,
        ReduceOp::Prod => ScalarOp::Mul,
        ReduceOp::Max => ScalarOp::Max,
        ReduceOp::Min => ScalarOp::Min,
        ReduceOp::And => ScalarOp::And,
        ReduceOp::Or => ScalarOp::Or,
    }
}

/// The value that changes nothing when combined.
pub fn identity(op: ReduceOp, dtype: DType) -> Literal {
    let (least, most) = match dtype {
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        DType::I64 => (i64::MIN, i64::MAX),
        DType::U32 => (0, i64::from(u32::MAX)),
        DType::U8 => (0, 255),
        _ => (0, 1),
    };
    match (op, dtype.is_float()) {
        (ReduceOp::Sum, true) => Literal::Float(0.0),
        (ReduceOp::Prod, true) => Literal::Float(1.0),
        (ReduceOp::Max, true) => Literal::Float(f64::NEG_INFINITY),
        (ReduceOp::Min, true) => Literal::Float(f64::INFINITY),
        (ReduceOp::Sum | ReduceOp::Or, _) => Literal::Int(0),
        (ReduceOp::Prod | ReduceOp::And, _) => Literal::Int(1),
        (ReduceOp::Max, _) => Literal::Int(least),
        (ReduceOp::Min, _) => Literal::Int(most),
    }
}
