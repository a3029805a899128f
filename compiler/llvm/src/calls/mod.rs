//! Library calls on a GPU.

mod random;
mod sort;

use crate::entry::Entries;
use optc_abi::DType;
use optc_abi::device::Work;
use optc_abi::plan::LibOp;
use std::collections::HashMap;

/// Calls that have entries already, with what runs them.
pub(crate) type Known = HashMap<(LibOp, DType), Option<Work>>;

/// What runs a library call; none where the host does.
pub(crate) fn call(mut d: Entries, known: &mut Known, op: &LibOp, dtype: DType) -> (Entries, Option<Work>) {
    let key = (op.clone(), dtype);
    if let Some(work) = known.get(&key) {
        return (d, work.clone());
    }
    let name = format!("call_{}", known.len());
    let work;
    (d, work) = match op {
        LibOp::RandomBits { start, len, skips } => random::bits(d, &name, *start, *len, *skips),
        LibOp::RandomFold { place, number } => random::fold(d, &name, *place, *number),
        LibOp::ArgSort { rows, n, descending } => sort::order(d, &name, *rows as i64, *n as i64, *descending, dtype),
        // Arrays of files and functions of the program are the host's; factorizations have no entries yet.
        LibOp::SwapOut { .. } | LibOp::SwapIn { .. } | LibOp::Callback { .. } | LibOp::AllReduce { .. } | LibOp::Call { .. } => (d, None),
    };
    known.insert(key, work.clone());
    (d, work)
}
