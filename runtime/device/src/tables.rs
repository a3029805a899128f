//! Many argument sets of one kernel in one launch.

use crate::code::Kernel;
use optc_abi::plan::KernelCall;

/// A table in the GPU's memory: rows of addresses and sizes, then items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Rows, then items, as bytes.
    pub(crate) bytes: Vec<u8>,
    /// Where the items begin.
    pub(crate) items: usize,
    /// How many there are.
    pub(crate) count: i64,
    /// Blocks of the launch.
    pub(crate) blocks: u32,
}

/// Items that a block gets, where there is enough to do: more, and none has to wait long for the slowest; fewer, and there is less to read.
const ITEMS_EACH: i64 = 8;

/// The table of some calls on a GPU that runs so many blocks of the kernel at a time.
pub(crate) fn table(kernel: &Kernel, calls: &[KernelCall], at_once: u32, address: impl Fn(usize, usize) -> u64) -> Table {
    let mut bytes = Vec::new();
    let mut rows = Vec::new();
    for (c, call) in calls.iter().enumerate() {
        rows.push(bytes.len() as i64);
        (0..call.buffers.len()).for_each(|b| bytes.extend(address(c, b).to_le_bytes()));
        call.sizes.iter().for_each(|s| bytes.extend(s.to_le_bytes()));
    }
    let items = bytes.len();
    let total: i64 = calls.iter().map(|c| c.range.max(0)).sum();
    let wanted = (total / (i64::from(at_once) * ITEMS_EACH)).max(1);
    let each = (wanted + kernel.units - 1) / kernel.units * kernel.units;
    let mut count = 0;
    for (call, row) in calls.iter().zip(rows) {
        let mut first = 0;
        while first < call.range {
            let end = (first + each).min(call.range);
            [row, first, end].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            count += 1;
            first = end;
        }
    }
    Table { bytes, items, count, blocks: (count.min(i64::from(at_once)) as u32).max(1) }
}
