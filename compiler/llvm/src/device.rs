//! What a GPU runs for a whole plan, as PTX and on the emulator.

use crate::Error;
use crate::compile::head;
use crate::emit::Emit;
use crate::emulator;
use crate::entry::{Entries, Entry, thread};
use crate::facts::facts;
use crate::gpu;
use crate::host::Facts;
use crate::ins::Ins;
use crate::jit::Jit;
use crate::machine::Machine;
use crate::simt::Launch;
use crate::unit::{self, Host};
use inkwell::context::Context;
use optc_abi::device::{DeviceCode, KernelEntry};
use optc_abi::plan::{Instr, Plan};
use optc_ir::kernel::Kernel;
use std::collections::HashMap;

/// What a GPU, by LLVM's name for it (`sm_80`), runs for the instructions of a plan besides copies.
///
/// # Errors
/// If LLVM does not know the GPU.
pub fn device_code(kernels: &[Kernel], plan: &Plan, gpu: &str) -> Result<DeviceCode, Error> {
    let (triple, machine) = unit::nvptx(gpu)?;
    let context = Context::create();
    let module = unit::module(&context, "plan", &triple, &machine);
    // SAFETY: context and module outlive the builder, which `fill` ends.
    let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
    let (mut code, made) = fill(Entries::new(Emit { i: ins, machine: Machine::Nvptx }, Vec::new()), kernels, plan);
    unit::optimize(&module, &machine)?;
    code.text = head(made.iter().map(|e| (e.name.as_str(), e.launch)));
    code.text.push_str(&String::from_utf8_lossy(unit::machine_code(&module, &machine, true)?.as_slice()));
    Ok(code)
}

/// Adds all entries of a plan to a module.
fn fill(mut d: Entries, kernels: &[Kernel], plan: &Plan) -> (DeviceCode, Vec<Entry>) {
    let mut code = DeviceCode::default();
    let facts = facts(kernels, plan, true);
    let mut sets = vec![1; kernels.len()];
    let (mut gemms, mut convs, mut libs) = (0, 0, 0);
    plan.walk(&mut |instr| match instr {
        Instr::Kernel { kernel, calls } => sets[*kernel] = sets[*kernel].max(calls.len()),
        Instr::Gemm(_) => gemms += 1,
        Instr::Conv(_) => convs += 1,
        Instr::Lib { .. } => libs += 1,
        _ => {}
    });
    let mut known: HashMap<(&Kernel, &Facts), usize> = HashMap::new();
    for (k, kernel) in kernels.iter().enumerate() {
        let first = *known.entry((kernel, &facts[k])).or_insert(k);
        let Launch { threads, units, .. } = crate::simt::shape(kernel).launch;
        let mut entry = KernelEntry { one: format!("kernel_{first}"), many: None, threads: threads as u32, units };
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
    code.gemms.resize(gemms, None);
    code.convs.resize(convs, None);
    code.libs.resize(libs, None);
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
        let host = Host::new(None);
        let machine = host.machine()?;
        let context = Context::create();
        let module = unit::module(&context, "plan", &host.triple, &machine);
        // SAFETY: context and module outlive the builder, which `fill` ends.
        let ins = unsafe { Ins::new(context.raw(), module.as_mut_ptr()) };
        let kind = Machine::Emulated { fma: host.features.contains("+fma") };
        let (code, made) = fill(Entries::new(Emit { i: ins, machine: kind }, host.attributes()), kernels, plan);
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

    /// Launches an entry with its parameters, each of 8 bytes.
    ///
    /// # Safety
    /// The parameters are what the entry takes: addresses of memory of this computer that is as long as the entry uses it, and numbers.
    ///
    /// # Panics
    /// If there is no entry of this name.
    pub unsafe fn launch(&self, entry: &str, blocks: u32, threads: u32, shared: u32, parameters: &[u64]) {
        let &(thread, declared) = self.entries.get(entry).unwrap_or_else(|| panic!("there is no entry `{entry}`"));
        let bytes = declared + i64::from(shared);
        // SAFETY: as the caller promises.
        unsafe { emulator::optc_simt_launch(thread, parameters.as_ptr().cast(), threads as i32, blocks as i32, bytes) };
    }
}
