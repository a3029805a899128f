//! All kernels of a plan: modules in parallel, one linked whole.

use crate::Error;
use crate::emit::Emit;
use crate::facts::facts;
use crate::gpu;
use crate::host::{self, Facts};
use crate::ins::Ins;
use crate::jit::Jit;
use crate::machine::Machine;
use crate::simt::Launch;
use crate::unit::{self, Host};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::targets::TargetMachine;
use optc_abi::plan::Plan;
use optc_ir::kernel::Kernel;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How code is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that compile.
    pub compile_threads: usize,
    /// LLVM's name of the processor; the one under the program if there is none.
    pub cpu: Option<String>,
    /// Make the kernels of a GPU, for the emulator of its threads.
    pub emulate: bool,
}

impl Default for Config {
    fn default() -> Self {
        let compile_threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        Config { compile_threads, cpu: None, emulate: false }
    }
}

/// Machine code of kernels; it lives as long as this value.
pub struct Compiled {
    /// The address of each kernel, a function as [`optc_abi::plan::KernelFn`].
    pub kernels: Vec<usize>,
    /// Bytes of object files.
    pub code_bytes: usize,
    _jit: Jit,
}

/// Kernels of one module.
const PER_MODULE: usize = 16;

/// A module with some kernels, before any pass.
pub(crate) fn build<'c>(
    context: &'c Context,
    kernels: &[Kernel],
    facts: &[Facts],
    which: &[usize],
    host: &Host,
    machine: &TargetMachine,
    emulate: bool,
) -> Module<'c> {
    let module = unit::module(context, "kernels", &host.triple, machine);
    let features = machine.get_feature_string().to_string_lossy().into_owned();
    let fma = features.contains("+fma") || host.features.contains("+fma") || matches!(host.cpu.as_str(), "x86-64-v3" | "x86-64-v4");
    // SAFETY: context and module outlive the builder, which ends here.
    let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
    let kind = if emulate { Machine::Emulated { fma } } else { Machine::Host { fma } };
    let mut e = Emit { i: ins, machine: kind };
    let attributes = host.attributes();
    for &n in which {
        e = if emulate {
            gpu::emulated(e, n, &kernels[n], &facts[n], &attributes)
        } else {
            host::kernel(e, n, &kernels[n], &facts[n], &attributes)
        };
    }
    drop(e);
    module
}

/// Compiles kernels for this computer.
///
/// # Errors
/// If LLVM has no back end for this machine.
pub fn compile(kernels: &[Kernel], plan: &Plan, config: &Config) -> Result<Compiled, Error> {
    let host = Host::new(config.cpu.as_deref());
    let facts = facts(kernels, plan, false);
    let parts: Vec<Vec<usize>> = {
        let all: Vec<usize> = (0..kernels.len()).collect();
        let each = all.len().div_ceil(config.compile_threads.max(1)).clamp(1, PER_MODULE);
        all.chunks(each).map(<[usize]>::to_vec).collect()
    };
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Vec<u8>>, Error> {
        let machine = host.machine()?;
        let mut done = Vec::new();
        loop {
            let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(done) };
            let context = Context::create();
            let module = build(&context, kernels, &facts, part, &host, &machine, config.emulate);
            unit::optimize(&module, &machine)?;
            done.push(unit::machine_code(&module, &machine, false)?.as_slice().to_vec());
        }
    };
    let helpers = parts.len().min(config.compile_threads).saturating_sub(1);
    let objects = std::thread::scope(|scope| -> Result<Vec<Vec<u8>>, Error> {
        let others: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut all = work()?;
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })?;
    let jit = Jit::link(&objects)?;
    let addresses = (0..kernels.len()).map(|n| jit.address(&host::symbol(n))).collect::<Result<_, _>>()?;
    Ok(Compiled { kernels: addresses, code_bytes: objects.iter().map(Vec::len).sum(), _jit: jit })
}

/// PTX of kernels, and how each is launched.
#[derive(Clone, Debug)]
pub struct Ptx {
    /// The module.
    pub text: String,
    /// The launch of each kernel; they are named `optc_kernel_0`, ….
    pub launches: Vec<Launch>,
}

/// The kernels for an NVIDIA GPU, by LLVM's name for it (`sm_80`).
///
/// # Errors
/// If LLVM does not know the GPU.
pub fn ptx(kernels: &[Kernel], plan: &Plan, gpu: &str) -> Result<Ptx, Error> {
    let (triple, machine) = unit::nvptx(gpu)?;
    let facts = facts(kernels, plan, true);
    let context = Context::create();
    let module = unit::module(&context, "kernels", &triple, &machine);
    // SAFETY: context and module outlive the builder, which ends with this block.
    let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
    let mut e = Emit { i: ins, machine: Machine::Nvptx };
    let mut launches = Vec::new();
    for (n, kernel) in kernels.iter().enumerate() {
        let (next, launch) = gpu::ptx(e, n, kernel, &facts[n]);
        e = next;
        launches.push(launch);
    }
    drop(e);
    unit::optimize(&module, &machine)?;
    let text = String::from_utf8_lossy(unit::machine_code(&module, &machine, true)?.as_slice()).into_owned();
    Ok(Ptx { text, launches })
}

/// A text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// LLVM's intermediate form after the passes.
    Ir,
    /// Machine code.
    Asm,
}

/// The kernels as text.
///
/// # Errors
/// As [`compile`].
pub fn text(kernels: &[Kernel], plan: &Plan, config: &Config, form: Form) -> Result<String, Error> {
    let host = Host::new(config.cpu.as_deref());
    let machine = host.machine()?;
    let context = Context::create();
    let all: Vec<usize> = (0..kernels.len()).collect();
    let module = build(&context, kernels, &facts(kernels, plan, false), &all, &host, &machine, config.emulate);
    unit::optimize(&module, &machine)?;
    Ok(match form {
        Form::Ir => module.print_to_string().to_string(),
        Form::Asm => String::from_utf8_lossy(unit::machine_code(&module, &machine, true)?.as_slice()).into_owned(),
    })
}
