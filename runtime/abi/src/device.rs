//! A plan's code for a GPU: plain data that a compiler makes and the device runtime loads and launches.

/// What a GPU runs for a plan, besides copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceCode {
    /// The module, as text the driver compiles (PTX).
    pub text: String,
    /// Kernel `k` of the plan.
    pub kernels: Vec<KernelEntry>,
    /// What runs matrix product `k` (of all [`crate::plan::Instr::Gemm`] in pre-order), if a library does not. Buffers: a, b, c.
    pub gemms: Vec<Option<Work>>,
    /// What runs convolution `k` likewise. Buffers: lhs, rhs, out, scratch.
    pub convs: Vec<Option<Work>>,
    /// What runs library call `k` likewise. Buffers: the call's. Where there is nothing, the host computes it.
    pub libs: Vec<Option<Work>>,
}

/// How one kernel of a plan is launched. A unit is one pass of its parallel loop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelEntry {
    /// The entry for one argument set, with parameters: addresses of buffers, sizes, first unit, end of units (i64), address of a [`crate::plan::Status`].
    pub one: String,
    /// The entry for many argument sets, with parameters: address of a table, address of items, their number (i64), address of the status. A row of the table holds
    /// the addresses and sizes of an argument set; an item is two i64, the byte offset of its row and its first unit, and an end of units: three i64 in all.
    pub many: Option<String>,
    /// Threads of a block.
    pub threads: u32,
    /// Units, or pieces of units, that a block works on at a time.
    pub units: i64,
    /// Pieces of a unit that blocks of [`KernelEntry::one`] may share: for a range of units there is work for `range * pieces / units` blocks.
    pub pieces: i64,
}

/// Launches, one after the other, that do the work of one instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// In order.
    pub launches: Vec<Launch>,
    /// Bytes of memory that they need beside the plan's; it may hold anything before, and is aligned to 256.
    pub scratch: usize,
}

/// One launch with fixed extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Name of the entry.
    pub entry: String,
    /// Blocks of the grid (x, y, z).
    pub blocks: [u32; 3],
    /// Threads of a block (x).
    pub threads: u32,
    /// Bytes of shared memory that the entry does not declare itself.
    pub shared: u32,
    /// Its parameters, each of 8 bytes.
    pub arguments: Vec<Argument>,
}

/// A parameter of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Address of the instruction's buffer with this number.
    Buffer(usize),
    /// An address within the work's own memory, this many bytes from its start.
    Scratch(usize),
    /// A number.
    Number(i64),
    /// Address of the plan's [`crate::plan::Status`].
    Status,
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Target {
    /// This computer's processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU with this number.
    Cuda(u32),
}

impl Target {
    /// What [`Target::parse`] takes, for messages.
    pub const FORMS: &str = "`cpu`, `cuda` or `cuda:1`";

    /// `cpu`, `cuda` (the first GPU) or `cuda:N`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Target> {
        match text {
            "cpu" => Some(Target::Cpu),
            "cuda" => Some(Target::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:")?;
                let plain = number.bytes().all(|b| b.is_ascii_digit());
                number.parse().ok().filter(|_| plain).map(Target::Cuda)
            }
        }
    }
}
