//! All kernels of a plan: one module each, made in parallel or found in a cache, one linked whole.

use crate::Error;
use crate::emit::Emit;
use crate::facts::{Around, around, facts, joined};
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
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Object files made before. Whatever it has under a key was put there under the key, or else it has nothing: what is damaged is not handed out.
pub trait Cache: Debug + Send + Sync {
    /// The object file under a key.
    fn get(&self, key: &[u8; 32]) -> Option<Vec<u8>>;
    /// Keeps an object file.
    fn put(&self, key: &[u8; 32], object: &[u8]);
}

/// How code is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that compile.
    pub compile_threads: usize,
    /// LLVM's name of the processor; the one under the program if there is none, or `native`.
    pub cpu: Option<String>,
    /// Make the kernels of a GPU, for the emulator of its threads.
    pub emulate: bool,
    /// Where kernels are looked up before they are compiled, and kept afterwards.
    pub cache: Option<Arc<dyn Cache>>,
}

impl Default for Config {
    fn default() -> Self {
        let compile_threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        Config { compile_threads, cpu: None, emulate: false, cache: None }
    }
}

/// Machine code of kernels; it lives as long as this value.
pub struct Compiled {
    /// The address of each kernel, a function as [`optc_abi::plan::KernelFn`].
    pub kernels: Vec<usize>,
    /// Bytes of object files.
    pub code_bytes: usize,
    /// Different kernels, and how many of them the cache had.
    pub different: (usize, usize),
    _jit: Jit,
}

/// A kernel that becomes a function.
pub(crate) struct Unit<'k> {
    pub(crate) name: String,
    /// Its number, which the emulator's functions are named by.
    pub(crate) number: usize,
    pub(crate) kernel: &'k Kernel,
    pub(crate) facts: &'k Facts,
    /// For the emulator: the memory it may use, if that is known.
    pub(crate) around: Option<Around>,
}

/// A module with some kernels, before any pass.
pub(crate) fn build<'c>(
    context: &'c Context,
    units: &[Unit<'_>],
    host: &Host,
    machine: &TargetMachine,
    fma: bool,
    emulate: bool,
) -> Module<'c> {
    let module = unit::module(context, "kernels", &host.triple, machine);
    // SAFETY: context and module outlive the builder, which ends here.
    let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
    let kind = if emulate { Machine::Emulated { fma } } else { Machine::Host { fma } };
    let mut e = Emit { i: ins, machine: kind };
    let attributes = host.attributes();
    for unit in units {
        e = if emulate { gpu::emulated(e, unit, &attributes) } else { host::kernel(e, &unit.name, unit.kernel, unit.facts, &attributes) };
    }
    drop(e);
    module
}

/// A digest as what `Hash` writes to.
pub(crate) struct Digesting(pub(crate) Sha256);

impl Hasher for Digesting {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        0
    }
}

/// Everything an object file depends on: this crate and what it is built of, LLVM, the machine, the passes, the kernel and what is known of its calls.
fn key(host: &Host, kernel: &Kernel, facts: &Facts) -> [u8; 32] {
    let mut digest = Digesting(Sha256::new());
    let made_by = (env!("CARGO_PKG_VERSION"), env!("OPTC_LLVM_SOURCES"), inkwell::support::get_llvm_version());
    let made_for = (host.triple.as_str().to_bytes(), &host.cpu, &host.features);
    (made_by, made_for, unit::passes(), kernel, facts).hash(&mut digest);
    digest.0.finalize().into()
}

/// The name of the function in the object file under a key.
fn symbol(key: &[u8; 32]) -> String {
    let digits: String = key[..16].iter().map(|b| format!("{b:02x}")).collect();
    format!("optc_{digits}")
}

/// Compiles kernels for this computer.
///
/// # Errors
/// If LLVM has no back end for this machine, or this is not the processor that code is asked for.
pub fn compile(kernels: &[Kernel], plan: &Plan, config: &Config) -> Result<Compiled, Error> {
    let host = Host::here(config.cpu.as_deref())?;
    let facts = facts(kernels, plan, false);
    let keys: Vec<[u8; 32]> = kernels.iter().zip(&facts).map(|(k, f)| key(&host, k, f)).collect();
    let mut first: HashMap<[u8; 32], usize> = HashMap::new();
    for (n, key) in keys.iter().enumerate() {
        first.entry(*key).or_insert(n);
    }
    let mut different: Vec<usize> = first.values().copied().collect();
    different.sort_unstable();
    // The emulator's functions are named by numbers of this plan.
    let cache = config.cache.as_deref().filter(|_| !config.emulate);
    let name = |n: usize| if config.emulate { host::symbol(first[&keys[n]]) } else { symbol(&keys[n]) };
    let found: Vec<Option<Vec<u8>>> = different.iter().map(|&n| cache.and_then(|c| c.get(&keys[n]))).collect();
    let hits = found.iter().flatten().count();
    let mut missing: Vec<usize> = different.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(&n, _)| n).collect();
    // Kernels that share code are called with the memory of them all.
    let mut memory: HashMap<[u8; 32], Option<Around>> = HashMap::new();
    for (key, here) in keys.iter().zip(if config.emulate { around(kernels, plan) } else { Vec::new() }) {
        let all = memory.entry(*key).or_insert_with(|| here.clone());
        *all = all.take().zip(here).map(|(a, b)| joined(&a, &b));
    }
    let unit = |n: usize| {
        let around = memory.get(&keys[n]).cloned().flatten();
        Unit { name: name(n), number: n, kernel: &kernels[n], facts: &facts[n], around }
    };
    let whole = |objects: Vec<Vec<u8>>, hits: usize| -> Result<Compiled, Error> {
        let jit = Jit::link(&objects)?;
        let addresses = (0..kernels.len()).map(|n| jit.address(&name(n))).collect::<Result<_, _>>()?;
        let code_bytes = objects.iter().map(Vec::len).sum();
        Ok(Compiled { kernels: addresses, code_bytes, different: (different.len(), hits), _jit: jit })
    };
    let made = make(&mut missing, &host, config, unit, |n, object| {
        if let Some(cache) = cache {
            cache.put(&keys[n], object);
        }
    })?;
    let linked = whole(found.into_iter().flatten().chain(made).collect(), hits);
    if hits == 0 || linked.is_ok() {
        return linked;
    }
    // Something in the cache is no object file of ours: as if there were none.
    whole(make(&mut different.clone(), &host, config, unit, |n, object| cache.into_iter().for_each(|c| c.put(&keys[n], object)))?, 0)
}

/// Object files of some kernels, one each, made in parallel, long ones first.
fn make<'k>(
    which: &mut [usize],
    host: &Host,
    config: &Config,
    unit: impl Fn(usize) -> Unit<'k> + Sync,
    made: impl Fn(usize, &[u8]) + Sync,
) -> Result<Vec<Vec<u8>>, Error> {
    which.sort_by_key(|&n| Reverse(unit(n).kernel.values));
    let which = &*which;
    let fma = if which.is_empty() { false } else { host.fma()? };
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Vec<u8>>, Error> {
        let machine = host.machine()?;
        let context = Context::create();
        let mut done = Vec::new();
        loop {
            let Some(&n) = which.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(done) };
            let module = build(&context, &[unit(n)], host, &machine, fma, config.emulate);
            unit::optimize(&module, &machine)?;
            let object = unit::machine_code(&module, &machine, false)?.as_slice().to_vec();
            made(n, &object);
            done.push(object);
        }
    };
    if which.is_empty() {
        return Ok(Vec::new());
    }
    let helpers = which.len().min(config.compile_threads).saturating_sub(1);
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut all = work()?;
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

/// PTX of kernels, and how each is launched.
#[derive(Clone, Debug)]
pub struct Ptx {
    /// The module; launches stand in comments before it.
    pub text: String,
    /// Name and launch of each kernel.
    pub launches: Vec<(String, Launch)>,
}

/// The kernels of some plans for an NVIDIA GPU, by LLVM's name for it (`sm_80`); kernel `n` of the part `name` is the entry `name_n`.
///
/// Parameters of an entry are the addresses of its buffers, its sizes, the range of units (from, up to) and the address of a [`optc_abi::plan::Status`].
///
/// # Errors
/// If LLVM does not know the GPU.
pub fn ptx(parts: &[(&str, &[Kernel], &Plan)], gpu: &str) -> Result<Ptx, Error> {
    let (triple, machine) = unit::nvptx(gpu)?;
    let context = Context::create();
    let module = unit::module(&context, "kernels", &triple, &machine);
    // SAFETY: context and module outlive the builder, which ends with the loop below.
    let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
    let mut e = Emit { i: ins, machine: Machine::Nvptx };
    let mut launches = Vec::new();
    for &(part, kernels, plan) in parts {
        let facts = facts(kernels, plan, true);
        for (n, kernel) in kernels.iter().enumerate() {
            let name = format!("{part}_{n}");
            let (next, launch) = gpu::ptx(e, &name, kernel, &facts[n]);
            e = next;
            launches.push((name, launch));
        }
    }
    drop(e);
    unit::optimize(&module, &machine)?;
    let mut text = head(launches.iter().map(|(name, launch)| (name.as_str(), *launch)));
    text.push_str(&String::from_utf8_lossy(unit::machine_code(&module, &machine, true)?.as_slice()));
    Ok(Ptx { text, launches })
}

/// Comments before a module that say how its entries are launched.
pub(crate) fn head<'n>(launches: impl Iterator<Item = (&'n str, Launch)>) -> String {
    launches
        .map(|(name, Launch { threads, units, pieces, .. })| {
            let what = if pieces == 1 { "units".to_string() } else { format!("of {pieces} pieces of each unit") };
            format!("// {name}: blocks of {threads} threads, {units} {what} at a time; any number of blocks\n")
        })
        .collect()
}

/// A form to be looked at, or for other tools of LLVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// LLVM's intermediate form after the passes, as text.
    Ir,
    /// The same as bitcode.
    Bitcode,
    /// Machine code, as text.
    Asm,
}

/// The kernels of some plans in one module; kernel `n` of the part `name` is the function `name_n`.
///
/// # Errors
/// As [`compile`].
pub fn module(parts: &[(&str, &[Kernel], &Plan)], config: &Config, form: Form) -> Result<Vec<u8>, Error> {
    let host = Host::new(config.cpu.as_deref())?;
    let machine = host.machine()?;
    let context = Context::create();
    let facts: Vec<Vec<Facts>> = parts.iter().map(|(_, kernels, plan)| facts(kernels, plan, false)).collect();
    let units: Vec<Unit<'_>> = parts
        .iter()
        .zip(&facts)
        .flat_map(|(&(part, kernels, _), facts)| {
            kernels.iter().zip(facts).enumerate().map(move |(n, (kernel, facts))| Unit {
                name: format!("{part}_{n}"),
                number: n,
                kernel,
                facts,
                around: None,
            })
        })
        .collect();
    let module = build(&context, &units, &host, &machine, host.fma()?, false);
    unit::optimize(&module, &machine)?;
    Ok(match form {
        Form::Ir => module.print_to_string().to_bytes().to_vec(),
        Form::Bitcode => module.write_bitcode_to_memory().as_slice().to_vec(),
        Form::Asm => unit::machine_code(&module, &machine, true)?.as_slice().to_vec(),
    })
}
