//! Library calls on a GPU.

mod random;
mod sort;

use crate::entry::Entries;
use optc_abi::DType;
use optc_abi::device::Work;
use optc_abi::plan::LibOp;
use std::collections::HashMap;

/// Calls that have entries already, with what runs them.
pub(crate) type Known = HashMap<(LibOp, DType, Vec<i64>), Option<Work>>;

/// What runs a library call whose buffers are aligned so; none where the host does.
pub(crate) fn call(mut d: Entries, known: &mut Known, op: &LibOp, dtype: DType, align: &[i64]) -> (Entries, Option<Work>) {
    let matters = matches!(op, LibOp::Attention { .. });
    let key = (op.clone(), dtype, if matters { align.to_vec() } else { Vec::new() });
    if let Some(work) = known.get(&key) {
        return (d, work.clone());
    }
    let name = format!("call_{}", known.len());
    let work;
    (d, work) = match op {
        LibOp::RandomBits { start, len, skips } => random::bits(d, &name, *start, *len, *skips),
        LibOp::RandomFold { place, number } => random::fold(d, &name, *place, *number),
        LibOp::ArgSort { rows, n, descending } => sort::order(d, &name, *rows as i64, *n as i64, *descending, dtype),
        LibOp::Attention { attention, strides } => crate::attention::attention(d, &name, attention, strides, dtype, align),
        // Arrays of files and functions of the program are the host's; factorizations have no entries yet.
        LibOp::SwapOut { .. } | LibOp::SwapIn { .. } | LibOp::Callback { .. } | LibOp::AllReduce { .. } | LibOp::Call { .. } => (d, None),
    };
    known.insert(key, work.clone());
    (d, work)
}
