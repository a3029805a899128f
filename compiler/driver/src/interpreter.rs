//! Plans whose kernels are interpreted: slow, and the exact meaning of each kernel, against which the back ends are compared.

use crate::backend::Code;
use optc_abi::plan::{BufRef, Instr, Plan, Status, status};
use optc_ir::kernel::Kernel;
use optc_ir::kernel_interp::{Memory, run_verified};
use optc_ir::kernel_verify::{KernelInfo, verify_kernel};
use std::sync::Arc;

/// A kernel at one place of the plan.
struct Place {
    kernel: Arc<(Kernel, KernelInfo)>,
    /// Bytes from where each buffer argument begins to the end of what it lies in.
    bytes: Vec<usize>,
}

/// Bytes from the address that a reference stands for to the end of its buffer, at most.
fn bytes_from(plan: &Plan, at: &BufRef) -> usize {
    let buffer = &plan.buffers[at.buffer];
    let whole = buffer.len * buffer.dtype.size();
    if at.steps.iter().any(|s| s.1 < 0) { whole } else { whole.saturating_sub(at.offset.max(0) as usize) }
}

/// Runs passes of a kernel.
///
/// # Safety
/// `place` is the address of a [`Place`]; the rest is what the plan hands to the kernel.
unsafe extern "C" fn run(place: usize, buffers: *const *mut u8, sizes: *const i64, begin: i64, end: i64, report: *mut Status) {
    // SAFETY: whoever runs the code keeps the places alive; the plan passes what the kernel's parameters ask for.
    let found = unsafe {
        let place = &*(place as *const Place);
        let (kernel, info) = &*place.kernel;
        let list: Vec<Memory> = place.bytes.iter().enumerate().map(|(k, &bytes)| Memory { at: *buffers.add(k), bytes }).collect();
        let sizes: Vec<i64> = (0..kernel.sizes).map(|k| *sizes.add(k)).collect();
        run_verified(kernel, info, &list, &sizes, begin, end)
    };
    let found = found.unwrap_or_else(|e| panic!("compiler bug: a kernel goes wrong: {e}"));
    // SAFETY: compiled code passes the status of the running plan; the first error stands.
    unsafe {
        if found.code != status::OK && (*report).code == status::OK {
            *report = found;
        }
    }
}

/// The plan's code, with calls of the interpreter for kernels.
///
/// # Errors
/// A kernel that is malformed; a machine that Cranelift does not support.
pub fn compile(kernels: &[Kernel], plan: &Plan, config: &optc_cranelift::Config) -> Result<Code, String> {
    let verified = kernels.iter().map(|k| verify_kernel(k).map(|info| Arc::new((k.clone(), info)))).collect::<Result<Vec<_>, _>>()?;
    // Each kernel instruction is told by a number of its own, as its buffers are.
    let mut plan = plan.clone();
    let mut lengths: Vec<Vec<usize>> = Vec::new();
    plan.walk(&mut |instr| {
        let Instr::Kernel { calls, .. } = instr else { return };
        let most = |k: usize| calls.iter().map(|c| bytes_from(&plan, &c.buffers[k])).max().unwrap_or(0);
        lengths.push((0..calls.first().map_or(0, |c| c.buffers.len())).map(most).collect());
    });
    let mut places: Vec<Place> = Vec::new();
    number(&mut plan.code, &mut lengths.into_iter(), &verified, &mut places);
    // From here on the places stay where they are.
    let bound = optc_cranelift::bind(run, places.iter().map(|p| std::ptr::from_ref(p) as usize)).map_err(|e| e.to_string())?;
    let code = optc_cranelift::compile_around(&bound.kernels, &Arc::new(plan), config).map_err(|e| e.to_string())?;
    Ok(Code { entry: code.entry, keep: Arc::new((code, bound, places)) })
}

/// Gives each kernel instruction the number of its place.
fn number(
    code: &mut [Instr],
    lengths: &mut impl Iterator<Item = Vec<usize>>,
    kernels: &[Arc<(Kernel, KernelInfo)>],
    places: &mut Vec<Place>,
) {
    for instr in code {
        match instr {
            Instr::Kernel { kernel, .. } => {
                places.push(Place { kernel: kernels[*kernel].clone(), bytes: lengths.next().unwrap_or_default() });
                *kernel = places.len() - 1;
            }
            Instr::Loop { body, .. } => number(body, lengths, kernels, places),
            Instr::Cond { then, otherwise, .. } => {
                number(then, lengths, kernels, places);
                number(otherwise, lengths, kernels, places);
            }
            _ => {}
        }
    }
}
