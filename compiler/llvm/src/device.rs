//! What a GPU runs for a whole plan, as PTX and on the emulator.

use crate::Error;
use crate::calls;
use crate::compile::{Cache, Digesting, head};
use crate::emit::Emit;
use crate::emulator;
use crate::entry::{Entries, Entry, thread};
use crate::facts::{alignment, facts};
use crate::gpu;
use crate::host::Facts;
use crate::ins::Ins;
use crate::jit::Jit;
use crate::machine::Machine;
use crate::products;
use crate::simt::Launch;
use crate::stored;
use crate::targets::{self, has_copies, room};
use crate::unit::{self, Host};
use inkwell::context::Context;
use inkwell::module::Module;
use optc_abi::DType;
use optc_abi::device::{Argument, DeviceCode, KernelEntry, Work};
use optc_abi::plan::{BufRef, Instr, Plan, Status};
use optc_ir::kernel::Kernel;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;

/// For which GPU code is made, and how.
#[derive(Clone, Debug, Default)]
pub struct DeviceConfig<'a> {
    /// LLVM's name for it (`sm_80`).
    pub gpu: &'a str,
    /// Bytes of shared memory that a block of the GPU at hand may have, which may be another one than that of the name; what the name says if there is nothing.
    pub shared: Option<u32>,
    /// Where code is looked up before it is made, and kept afterwards.
    pub cache: Option<Arc<dyn Cache>>,
}

/// What a GPU, by LLVM's name for it (`sm_80`), runs for the instructions of a plan besides copies.
///
/// # Errors
/// If LLVM does not know the GPU.
pub fn device_code(kernels: &[Kernel], plan: &Plan, gpu: &str) -> Result<DeviceCode, Error> {
    code_for(kernels, plan, gpu, room(gpu), None)
}

/// The same for a GPU at hand, made once and found again. Also says whether it was found.
///
/// # Errors
/// As [`device_code`].
pub fn device_code_for(kernels: &[Kernel], plan: &Plan, config: &DeviceConfig<'_>) -> Result<(DeviceCode, bool), Error> {
    let room = config.shared.map_or(room(config.gpu), |bytes| room(config.gpu).min(i64::from(bytes)));
    let Some(cache) = &config.cache else { return Ok((code_for(kernels, plan, config.gpu, room, None)?, false)) };
    let key = key(kernels, plan, config.gpu, room);
    if let Some(code) = cache.get(&key).as_deref().and_then(stored::decode) {
        return Ok((code, true));
    }
    let code = code_for(kernels, plan, config.gpu, room, None)?;
    cache.put(&key, &stored::encode(&code));
    Ok((code, false))
}

/// Everything that code depends on: this crate and what it is built of, LLVM, the GPU, the passes, the kernels, what is known of their calls, and what else the plan asks for.
fn key(kernels: &[Kernel], plan: &Plan, gpu: &str, room: i64) -> [u8; 32] {
    let mut digest = Digesting(Sha256::new());
    ("a plan's code for a GPU", env!("CARGO_PKG_VERSION"), env!("OPTC_LLVM_SOURCES"), inkwell::support::get_llvm_version())
        .hash(&mut digest);
    (gpu, targets::version(gpu).unwrap_or_default(), room, unit::GPU_PASSES, kernels, facts(kernels, plan, true)).hash(&mut digest);
    let align = |at: &BufRef, dtype: DType| alignment(plan, at, dtype.size(), true);
    plan.walk(&mut |instr| match instr {
        Instr::Kernel { kernel, calls } => ("kernel", *kernel, calls.len()).hash(&mut digest),
        Instr::Gemm(g) => ("product", g, [&g.a, &g.b, &g.c].map(|m| align(&m.data, g.dtype))).hash(&mut digest),
        Instr::Conv(c) => ("convolution", c, [&c.lhs, &c.rhs, &c.out].map(|b| align(b, c.dtype))).hash(&mut digest),
        Instr::Lib { op, dtype, buffers } => {
            let places: Vec<_> = buffers.iter().map(|b| (plan.buffers[b.buffer].dtype, align(b, plan.buffers[b.buffer].dtype))).collect();
            ("call", op, *dtype, places).hash(&mut digest);
        }
        _ => {}
    });
    digest.0.finalize().into()
}

/// The same with products in tiles of so many rows and columns and sums in so many parts, for tests.
///
/// # Errors
/// As [`device_code`].
pub fn device_code_cut(kernels: &[Kernel], plan: &Plan, gpu: &str, cut: [i64; 3]) -> Result<DeviceCode, Error> {
    code_for(kernels, plan, gpu, room(gpu), Some(cut))
}

fn code_for(kernels: &[Kernel], plan: &Plan, gpu: &str, room: i64, cut: Option<[i64; 3]>) -> Result<DeviceCode, Error> {
    let (triple, machine) = unit::nvptx(gpu)?;
    let context = Context::create();
    let module = unit::module(&context, "plan", &triple, &machine);
    // SAFETY: context and module outlive the builder, which `fill` ends.
    let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
    let entries = Entries { cut, room, ..Entries::new(Emit { i: ins, machine: Machine::Nvptx }, Vec::new(), has_copies(gpu)) };
    let (mut code, made) = fill(entries, kernels, plan);
    unit::optimize(&module, &machine)?;
    let kernels = made.iter().filter(|e| e.name.starts_with("kernel_"));
    code.text = head(kernels.map(|e| (e.name.as_str(), e.launch)));
    for (what, works) in [("product", &code.gemms), ("convolution", &code.convs), ("library call", &code.libs)] {
        works.iter().enumerate().for_each(|(n, work)| code.text.push_str(&format!("// {what} {n}: {}\n", described(work.as_ref()))));
    }
    code.text.push_str(&String::from_utf8_lossy(unit::machine_code(&module, &machine, true)?.as_slice()));
    Ok(code)
}

/// The launches of an instruction, in words.
fn described(work: Option<&Work>) -> String {
    let Some(work) = work else { return "computed by the host".to_string() };
    let launch = |l: &optc_abi::device::Launch| {
        let shared = if l.shared > 0 { format!(" with {} bytes of shared memory", l.shared) } else { String::new() };
        format!("{} in {} blocks of {} threads{shared}", l.entry, l.blocks[0], l.threads)
    };
    let mut words = work.launches.iter().map(launch).collect::<Vec<_>>().join(", then ");
    if work.launches.is_empty() {
        words.push_str("nothing to do");
    }
    if work.scratch > 0 {
        words.push_str(&format!("; {} bytes of memory beside the plan's", work.scratch));
    }
    words
}

/// Adds all entries of a plan to a module.
fn fill(mut d: Entries, kernels: &[Kernel], plan: &Plan) -> (DeviceCode, Vec<Entry>) {
    let mut code = DeviceCode::default();
    let facts = facts(kernels, plan, true);
    let mut sets = vec![1; kernels.len()];
    let (mut gemms, mut convs, mut libs) = (Vec::new(), Vec::new(), Vec::new());
    plan.walk(&mut |instr| match instr {
        Instr::Kernel { kernel, calls } => sets[*kernel] = sets[*kernel].max(calls.len()),
        Instr::Gemm(g) => gemms.push(g.clone()),
        Instr::Conv(c) => convs.push(c.clone()),
        Instr::Lib { op, dtype, buffers } => libs.push((op.clone(), *dtype, buffers.clone())),
        _ => {}
    });
    let mut known: HashMap<(&Kernel, &Facts), usize> = HashMap::new();
    for (k, kernel) in kernels.iter().enumerate() {
        let first = *known.entry((kernel, &facts[k])).or_insert(k);
        let Launch { threads, units, pieces, .. } = crate::simt::shape(kernel, &facts[k]).launch;
        let mut entry = KernelEntry { one: format!("kernel_{first}"), many: None, threads: threads as u32, units, pieces };
        if first == k {
            if d.e.machine == Machine::Nvptx {
                let (e, launch) = gpu::ptx(d.e, &entry.one, kernel, &facts[k]);
                d.e = e;
                d.made.push(Entry { name: entry.one.clone(), launch });
            } else {
                d = gpu::one(d, &entry.one, kernel, &facts[k]);
            }
        }
        if sets[k] > 1 {
            let name = format!("kernel_{first}_many");
            if !d.made.iter().any(|e| e.name == name) {
                d = gpu::many(d, &name, kernel, &facts[k]);
            }
            entry.many = Some(name);
        }
        code.kernels.push(entry);
    }
    let mut products = products::Known::new();
    let align = |at: &BufRef, dtype: DType| alignment(plan, at, dtype.size(), true) as i64;
    for g in &gemms {
        let aligned = [&g.a, &g.b, &g.c].map(|m| align(&m.data, g.dtype));
        let (next, work) = products::gemm(d, &mut products, g, aligned);
        d = next;
        code.gemms.push(work);
    }
    for c in &convs {
        let aligned = [&c.lhs, &c.rhs, &c.out].map(|b| align(b, c.dtype));
        let (next, work) = products::conv(d, &mut products, c, aligned);
        d = next;
        code.convs.push(work);
    }
    let mut called = calls::Known::new();
    for (op, dtype, buffers) in &libs {
        let aligned: Vec<i64> = buffers.iter().map(|b| align(b, plan.buffers[b.buffer].dtype)).collect();
        let (next, work) = calls::call(d, &mut called, op, *dtype, &aligned);
        d = next;
        code.libs.push(work);
    }
    (code, d.made)
}

/// The same entries for the emulator.
pub struct Emulated {
    /// How they are launched; there is no text.
    pub code: DeviceCode,
    /// Of each entry its thread and the bytes of shared memory that it declares.
    entries: HashMap<String, (emulator::Thread, i64)>,
    _jit: Jit,
}

impl Emulated {
    /// Compiles what a GPU runs for a plan for this computer.
    ///
    /// # Errors
    /// If LLVM has no back end for this machine.
    pub fn new(kernels: &[Kernel], plan: &Plan) -> Result<Emulated, Error> {
        Emulated::like(kernels, plan, "sm_90", None)
    }

    /// What a certain GPU runs; with `cut` products are made in tiles of so many rows and columns and sums in so many parts.
    ///
    /// # Errors
    /// As [`Emulated::new`].
    pub fn like(kernels: &[Kernel], plan: &Plan, gpu: &str, cut: Option<[i64; 3]>) -> Result<Emulated, Error> {
        Emulated::changed(kernels, plan, gpu, cut, |_| ())
    }

    /// The same after a change to the code, for tests.
    pub(crate) fn changed(
        kernels: &[Kernel],
        plan: &Plan,
        gpu: &str,
        cut: Option<[i64; 3]>,
        change: impl FnOnce(&Module<'_>),
    ) -> Result<Emulated, Error> {
        let host = Host::new(None)?;
        let machine = host.machine()?;
        let context = Context::create();
        let module = unit::module(&context, "plan", &host.triple, &machine);
        // SAFETY: context and module outlive the builder, which `fill` ends.
        let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
        let kind = Machine::Emulated { fma: host.fma()? };
        let entries = Entries { cut, room: room(gpu), ..Entries::new(Emit { i: ins, machine: kind }, host.attributes(), has_copies(gpu)) };
        let (code, made) = fill(entries, kernels, plan);
        change(&module);
        unit::optimize(&module, &machine)?;
        let jit = Jit::link(&[unit::machine_code(&module, &machine, false)?.as_slice().to_vec()])?;
        let address = |e: &Entry| -> Result<_, Error> {
            let address = jit.address(&thread(&e.name))?;
            // SAFETY: a thread of an entry, as `Entries::open` begins it.
            let thread = unsafe { std::mem::transmute::<usize, emulator::Thread>(address) };
            Ok((e.name.clone(), (thread, e.launch.shared)))
        };
        let entries = made.iter().map(address).collect::<Result<_, _>>()?;
        Ok(Emulated { code, entries, _jit: jit })
    }

    /// Launches an entry with its parameters, each of 8 bytes. It is a fault if it uses global memory that is not in the list, unless the list is empty.
    ///
    /// # Safety
    /// The parameters are what the entry takes: addresses of memory of this computer that is as long as the list says, and numbers.
    ///
    /// # Panics
    /// If there is no entry of this name.
    pub unsafe fn launch(&self, entry: &str, blocks: u32, threads: u32, shared: u32, parameters: &[u64], memory: &[Range<usize>]) {
        let &(thread, declared) = self.entries.get(entry).unwrap_or_else(|| panic!("there is no entry `{entry}`"));
        let bytes = declared + i64::from(shared);
        emulator::memory(memory.to_vec());
        // SAFETY: as the caller promises.
        unsafe { emulator::optc_simt_launch(thread, parameters.as_ptr().cast(), threads as i32, blocks as i32, bytes) };
    }

    /// Does the work of an instruction on its buffers, which lie in the memory that is listed, unless the list is empty.
    ///
    /// # Safety
    /// Buffers are those of the instruction that the work is for.
    pub unsafe fn work(&self, work: &Work, buffers: &[*mut u8], status: &mut Status, memory: &[Range<usize>]) {
        let mut scratch = vec![u128::MAX; work.scratch.div_ceil(16)];
        let start = scratch.as_mut_ptr() as u64;
        let mut memory = memory.to_vec();
        if !memory.is_empty() {
            memory.push(start as usize..start as usize + work.scratch);
        }
        let parameter = |argument: &Argument| match *argument {
            Argument::Buffer(b) => buffers[b] as u64,
            Argument::Scratch(at) => start + at as u64,
            Argument::Number(n) => n as u64,
            Argument::Status => &raw const *status as u64,
        };
        for launch in &work.launches {
            let parameters: Vec<u64> = launch.arguments.iter().map(parameter).collect();
            // SAFETY: as the caller promises.
            unsafe { self.launch(&launch.entry, launch.blocks[0], launch.threads, launch.shared, &parameters, &memory) };
        }
    }
}
