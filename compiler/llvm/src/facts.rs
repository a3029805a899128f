//! What all calls of a kernel have in common.

use crate::host::Facts;
use optc_abi::plan::{BufRef, Instr, Place, Plan};
use optc_abi::tensor::ALIGN;
use optc_ir::kernel::Kernel;
use std::ops::Range;

/// The bytes a buffer takes, from its base address.
fn bytes(plan: &Plan, at: &BufRef) -> (usize, Range<i64>) {
    let buffer = &plan.buffers[at.buffer];
    let start = plan.base_offset(at.buffer);
    (plan.base_index(at.buffer), start..start + (buffer.len * buffer.dtype.size()) as i64)
}

/// Bytes that an address certainly is a multiple of.
pub(crate) fn alignment(plan: &Plan, at: &BufRef, least: usize, ours: bool) -> usize {
    let base = match plan.buffers[at.buffer].place {
        Place::Arena(_) | Place::Constant(_) => ALIGN,
        Place::Input(_) | Place::Output(_) if ours => ALIGN,
        // Memory of the caller's.
        Place::Input(_) | Place::Output(_) => least,
    };
    let moves = at.steps.iter().map(|s| s.1).chain([plan.base_offset(at.buffer) + at.offset]);
    moves.filter(|&m| m != 0).map(|m| 1 << m.trailing_zeros().min(30)).fold(base, usize::min).max(least)
}

/// What is known of parameters that share nothing and lie at the start of arrays.
fn unaliased(buffers: usize) -> Facts {
    Facts { aliased: vec![false; buffers], aligned: vec![ALIGN as u32; buffers], places: (0..buffers).map(Some).collect() }
}

/// Whether two parameters are the same array at the same place.
fn same(plan: &Plan, kernel: &Kernel, list: &[BufRef], i: usize, j: usize) -> bool {
    let place = |at: &BufRef| (plan.base_index(at.buffer), plan.base_offset(at.buffer) + at.offset, at.steps.clone());
    place(&list[i]) == place(&list[j]) && kernel.buffers[i].dtype.size() == kernel.buffers[j].dtype.size()
}

/// The facts of each kernel; `ours` says that inputs and outputs lie in memory of the runtime's making, as on a GPU.
pub(crate) fn facts(kernels: &[Kernel], plan: &Plan, ours: bool) -> Vec<Facts> {
    let mut all: Vec<Facts> = kernels.iter().map(|k| unaliased(k.buffers.len())).collect();
    let mut called = vec![false; kernels.len()];
    plan.walk(&mut |instr| {
        let Instr::Kernel { kernel, calls } = instr else { return };
        called[*kernel] = true;
        let facts = &mut all[*kernel];
        for call in calls {
            let places: Vec<(usize, Range<i64>)> = call.buffers.iter().map(|b| bytes(plan, b)).collect();
            for (i, (base, range)) in places.iter().enumerate() {
                let meets =
                    |(j, (other, r)): (usize, &(usize, Range<i64>))| j != i && other == base && r.start < range.end && range.start < r.end;
                facts.aliased[i] |= places.iter().enumerate().any(meets);
                for (j, _) in places.iter().enumerate().filter(|&p| meets(p)) {
                    facts.places[i] = match facts.places[i] {
                        Some(first) if same(plan, &kernels[*kernel], &call.buffers, i, j) => Some(first.min(j)),
                        _ => None,
                    };
                }
                let least = kernels[*kernel].buffers[i].dtype.size();
                facts.aligned[i] = facts.aligned[i].min(alignment(plan, &call.buffers[i], least, ours) as u32);
            }
        }
    });
    for facts in &mut all {
        // The first of a place is that of all who have it; one that overlaps somebody takes all of its place along.
        for i in 0..facts.places.len() {
            if let Some(first) = facts.places[i] {
                facts.places[i] = facts.places[first].map(|f| f.min(first));
            }
        }
    }
    for ((facts, kernel), called) in all.iter_mut().zip(kernels).zip(called) {
        if !called {
            // Nothing is known of a kernel that somebody else will call.
            facts.aliased.fill(true);
            facts.places.fill(None);
            facts.aligned = kernel.buffers.iter().map(|b| b.dtype.size() as u32).collect();
        }
    }
    all
}

/// Memory that a kernel may use: of each parameter the bytes around its address, in all calls together.
pub(crate) type Around = Vec<Range<i64>>;

/// The memory of each kernel's parameters as the plan calls it; nothing of a kernel that somebody else will call.
pub(crate) fn around(kernels: &[Kernel], plan: &Plan) -> Vec<Option<Around>> {
    let mut all: Vec<Option<Around>> = vec![None; kernels.len()];
    plan.walk(&mut |instr| {
        let Instr::Kernel { kernel, calls } = instr else { return };
        for call in calls {
            let whole = |at: &BufRef| {
                let buffer = &plan.buffers[at.buffer];
                let bytes = (buffer.len * buffer.dtype.size()) as i64;
                // Where a loop moves the address, it may lie anywhere within.
                if at.steps.is_empty() { -at.offset..bytes - at.offset } else { -bytes..bytes }
            };
            let here: Around = call.buffers.iter().map(whole).collect();
            all[*kernel] = Some(match all[*kernel].take() {
                None => here,
                Some(before) => joined(&before, &here),
            });
        }
    });
    all
}

/// What either covers.
pub(crate) fn joined(a: &Around, b: &Around) -> Around {
    a.iter().zip(b).map(|(x, y)| x.start.min(y.start)..x.end.max(y.end)).collect()
}
