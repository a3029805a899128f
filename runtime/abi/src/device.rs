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
    /// Several NVIDIA GPUs, each with its part of a batch.
    Several(Numbers),
    /// All NVIDIA GPUs that there are.
    AllCuda,
}

/// Numbers of GPUs below [`Numbers::MOST`], at least two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbers(u64);

impl Numbers {
    /// Numbers are smaller.
    pub const MOST: u32 = 64;

    /// `0,1,4-7`: numbers and ranges of them, none twice.
    fn parse(text: &str) -> Option<Vec<u32>> {
        let number = |word: &str| -> Option<u32> {
            let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
            word.parse().ok().filter(|_| plain)
        };
        let mut all: Vec<u32> = Vec::new();
        for word in text.split(',') {
            let (first, last) = match word.split_once('-') {
                Some((a, b)) => (number(a)?, number(b)?),
                None => (number(word)?, number(word)?),
            };
            if last < first || (first != last && last >= Numbers::MOST) || (first..=last).any(|n| all.contains(&n)) {
                return None;
            }
            all.extend(first..=last);
        }
        all.sort_unstable();
        Some(all)
    }

    /// Them, ascending.
    pub fn list(self) -> Vec<u32> {
        (0..Numbers::MOST).filter(|n| self.0 >> n & 1 == 1).collect()
    }
}

impl Target {
    /// What [`Target::parse`] takes, for messages.
    pub const FORMS: &str = "`cpu`, `cuda` or `cuda:1` (one GPU), or `cuda:0,1`, `cuda:0-3` or `cuda:*` (several)";

    /// `cpu`, `cuda` (the first GPU), `cuda:N`, several numbers and ranges of them (`cuda:0,2-3`), or `cuda:*` (all GPUs); `None` for anything else.
    pub fn parse(text: &str) -> Option<Target> {
        match text {
            "cpu" => Some(Target::Cpu),
            "cuda" => Some(Target::Cuda(0)),
            "cuda:*" => Some(Target::AllCuda),
            _ => match &Numbers::parse(text.strip_prefix("cuda:")?)?[..] {
                [one] => Some(Target::Cuda(*one)),
                several if several.iter().all(|&n| n < Numbers::MOST) => {
                    Some(Target::Several(Numbers(several.iter().fold(0, |mask, n| mask | 1 << n))))
                }
                _ => None,
            },
        }
    }

    /// How many devices share out a batch, as far as the name says.
    pub fn devices(self) -> usize {
        match self {
            Target::Several(numbers) => numbers.list().len(),
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        let several = |text: &str| match Target::parse(text) {
            Some(Target::Several(numbers)) => numbers.list(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(Target::parse("cuda:12"), Some(Target::Cuda(12)));
        assert_eq!(Target::parse("cuda:3-3"), Some(Target::Cuda(3)));
        assert_eq!(Target::parse("cuda:*"), Some(Target::AllCuda));
        assert_eq!(several("cuda:1,0"), [0, 1]);
        assert_eq!(several("cuda:0-2,5"), [0, 1, 2, 5]);
        for none in
            ["cuda:", "cuda:-1", "cuda:1-", "cuda:2-1", "cuda:0,0", "cuda:0-2,1", "cuda:0,64", "cuda:+1", "cuda:0,", "gpu", "cuda:0, 1"]
        {
            assert_eq!(Target::parse(none), None, "{none}");
        }
    }
}
