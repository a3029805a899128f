//! Running a kernel instruction over arrays in files.

use super::engine::Engine;
use crate::pool::Pool;
use crate::program::StatusCell;
use optc_abi::plan::{Instr, KernelCall, KernelFn, Plan, Status, status};
use std::sync::Arc;
use std::time::Instant;

/// Arguments of what runs at one time; kept from call to call, so that a step allocates nothing.
#[derive(Default)]
pub(crate) struct Scratch {
    addresses: Vec<*mut u8>,
    parts: Vec<Run>,
}

/// Passes of a kernel with their arguments.
struct Run {
    /// Position of its first address.
    addresses: usize,
    sizes: *const i64,
    begin: i64,
    end: i64,
    grain: i64,
    /// Units of work up to and including this one's.
    units: usize,
}

struct Work<'a> {
    scratch: &'a Scratch,
    kernel: KernelFn,
    status: StatusCell,
}
// SAFETY: the addresses are those of the running plan; units write disjoint memory.
unsafe impl Sync for Work<'_> {}

impl Scratch {
    fn clear(&mut self) {
        self.addresses.clear();
        self.parts.clear();
    }

    /// Adds passes of a call. `moved` gives the memory that stands for an input's, as if the array began there.
    fn push(
        &mut self,
        plan: &Plan,
        call: &KernelCall,
        passes: (i64, i64),
        bases: *const *mut u8,
        moved: impl Fn(usize) -> Option<*mut u8>,
    ) {
        let first = self.addresses.len();
        for place in &call.buffers {
            let base = match plan.input_of(place.buffer).and_then(&moved) {
                Some(base) => base,
                // SAFETY: the table has an address for every buffer of the plan.
                None => unsafe { *bases.add(plan.base_index(place.buffer)) }.wrapping_offset(plan.base_offset(place.buffer) as isize),
            };
            self.addresses.push(base.wrapping_offset(place.offset as isize));
        }
        let (begin, end) = passes;
        let grain = call.grain.max(1);
        let units = (end - begin).max(0) as u64;
        let before = self.parts.last().map_or(0, |p| p.units);
        let units = before + units.div_ceil(grain as u64) as usize;
        self.parts.push(Run { addresses: first, sizes: call.sizes.as_ptr(), begin, end, grain, units });
    }

    fn run(&self, pool: &Arc<Pool>, kernel: KernelFn, place: *mut Status) {
        let total = self.parts.last().map_or(0, |p| p.units);
        let work = Work { scratch: self, kernel, status: StatusCell(place) };
        pool.run(total, &|unit| work.unit(unit));
    }
}

impl Work<'_> {
    fn unit(&self, unit: usize) {
        let parts = &self.scratch.parts;
        let which = parts.partition_point(|p| p.units <= unit);
        let first = if which == 0 { 0 } else { parts[which - 1].units };
        let p = &parts[which];
        let begin = p.begin + (unit - first) as i64 * p.grain;
        let end = (begin + p.grain).min(p.end);
        // SAFETY: the arguments were prepared for this kernel.
        unsafe { (self.kernel)(self.scratch.addresses.as_ptr().add(p.addresses), p.sizes, begin, end, self.status.0) }
    }
}

/// Runs the kernel instruction of an entry of [`Plan::offload`]: chunk by chunk where it streams, else as a whole on mapped memory.
///
/// # Safety
/// `kernel` and `bases` must be those of the running plan, `place` its status.
#[expect(clippy::too_many_arguments, reason = "what a running plan consists of")]
pub(crate) unsafe fn run_kernel(
    plan: &Plan,
    pool: &Arc<Pool>,
    engine: Option<&mut Engine>,
    scratch: &mut Scratch,
    touch: usize,
    kernel: KernelFn,
    bases: *const *mut u8,
    place: *mut Status,
) -> i32 {
    let Instr::Kernel { calls, .. } = &plan.code[plan.offload[touch].position] else {
        panic!("compiler bug: an instruction that is no kernel is to stream");
    };
    let whole = |scratch: &mut Scratch| {
        scratch.clear();
        for call in calls {
            scratch.push(plan, call, (0, call.range), bases, |_| None);
        }
        scratch.run(pool, kernel, place);
    };
    let Some(engine) = engine else {
        whole(scratch);
        return status::OK;
    };
    for job in engine.jobs_of(touch) {
        if !engine.wait_for(job) {
            return status::STORAGE;
        }
        let start = Instant::now();
        if !engine.is_chunk(job) {
            whole(scratch);
            engine.done(job, start.elapsed());
            continue;
        }
        let (chunk, memory) = engine.chunk(job);
        scratch.clear();
        for part in &chunk.parts {
            let windows = &chunk.windows[part.windows.clone()];
            scratch.push(plan, &calls[part.call], (part.begin, part.end), bases, |input| {
                let w = windows.iter().find(|w| w.input == input)?;
                Some(memory.wrapping_add(w.at).wrapping_sub(w.blocks.0 as usize))
            });
        }
        scratch.run(pool, kernel, place);
        engine.computed(job, start.elapsed());
    }
    status::OK
}
