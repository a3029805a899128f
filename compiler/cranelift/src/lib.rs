//! Kernels and plans to machine code through Cranelift.
//!
//! Kernels and the plan's entry are compiled independently of each other (in parallel when there are many) and refer to each other only
//! through a table of addresses. Vector loops run four lanes at a time in Cranelift's 128-bit registers, and their whole passes, where the
//! processor allows, eight at a time in code of our own ([`wide`]); the math functions of f32 are polynomials over an interface of lanes.

mod access;
mod accs;
mod bound;
mod effort;
mod emit;
mod entry;
mod helpers;
mod hoist;
mod isa;
mod kernel;
mod memory;
pub mod object;
mod ops;
mod single;
mod space;
mod wide;

pub use bound::{Bound, Callee, bind};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{Function, UserFuncName};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, ModuleReloc, ModuleRelocTarget};
use effort::{Effort, Efforts};
use isa::Target;
use optc_abi::plan::{Plan, PlanFn};
use optc_ir::kernel::Kernel;
pub use single::{KernelCode, KernelCompiler};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How code is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Threads of the pool the plan will run on; with 1 kernels are called directly, without the pool.
    pub threads: usize,
    /// Threads that compile.
    pub compile_threads: usize,
    /// Report to the runtime after each instruction of the plan, so that it can tell how long each takes.
    pub profile: bool,
    /// The plan runs once, so that making good code may cost more than it saves.
    pub once: bool,
    /// The widest registers that vector loops may use where the processor has them.
    pub vectors: Vectors,
}

impl Default for Config {
    fn default() -> Self {
        let compile_threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        Config { threads: 1, compile_threads, profile: false, once: false, vectors: Vectors::Bits512 }
    }
}

pub use wide::Vectors;

/// Why no code was made: a machine without the needed instructions, or a compiler bug.
#[derive(Clone, Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Error {}

/// Machine code of a plan; the code lives as long as this value.
pub struct Compiled {
    /// The whole plan as one function.
    pub entry: PlanFn,
    /// Bytes of machine code.
    pub code_bytes: usize,
    module: Option<JITModule>,
    /// Addresses of the kernels, read by the entry.
    kernels: Box<[AtomicUsize]>,
    _statics: entry::Statics,
}

// SAFETY: the code and its tables are never written after `compile`; the module is touched only to free it.
unsafe impl Send for Compiled {}
// SAFETY: as above.
unsafe impl Sync for Compiled {}

impl Drop for Compiled {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: whoever runs the entry keeps this value alive.
            unsafe { module.free_memory() }
        }
    }
}

/// Kernels below this number are not worth another compiling thread.
const KERNELS_PER_THREAD: usize = 8;

/// One function's machine code.
struct Code {
    bytes: Vec<u8>,
    align: u64,
    relocs: Vec<ModuleReloc>,
    /// Wide loops it calls, by their number.
    wide: Vec<Vec<u8>>,
}

/// Alignment of wide loops and their constants.
const WIDE_ALIGN: u64 = 64;
/// Names of wide loops in code that calls them.
pub(crate) const WIDE_NAMESPACE: u32 = 1;

fn assemble(isa: &OwnedTargetIsa, context: &mut Context) -> Result<Code, Error> {
    let compiled = context
        .compile(&**isa, &mut ControlPlane::default())
        .map_err(|e| Error(format!("{}\n{}", cranelift_codegen::print_errors::pretty_error(e.func, e.inner), "in a kernel")))?;
    let bytes = compiled.buffer.data().to_vec();
    let align = u64::from(compiled.buffer.alignment);
    let relocs = compiled.buffer.relocs().to_vec();
    let relocs = relocs.iter().map(|r| ModuleReloc::from_mach_reloc(r, &context.func, cranelift_module::FuncId::from_u32(0))).collect();
    Ok(Code { bytes, align, relocs, wide: Vec::new() })
}

/// A kernel's function and what loops it has.
fn kernel_function(
    kernel: &Kernel,
    call_conv: CallConv,
    features: isa::Features,
    frontend: &mut FunctionBuilderContext,
) -> (Function, kernel::Built) {
    let mut func = Function::with_name_signature(UserFuncName::default(), kernel::signature(call_conv));
    let built = kernel::build(kernel, features, false, &mut func, frontend);
    (func, built)
}

/// Compiles all kernels; the order of results is that of the kernels.
fn compile_kernels(
    kernels: &[Kernel],
    efforts: &Efforts,
    target: &Target,
    call_conv: CallConv,
    compile_threads: usize,
) -> Result<Vec<Code>, Error> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Code)>, Error> {
        let (mut frontend, mut context) = (FunctionBuilderContext::new(), Context::new());
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(kernel) = kernels.get(i) else { return Ok(done) };
            context.clear();
            let (func, built) = kernel_function(kernel, call_conv, target.features, &mut frontend);
            context.func = func;
            let wide = built.wide.iter().map(|program| wide::emit(program, false).0).collect();
            let isa = target.isa(efforts.of(i, built.own_loops));
            done.push((i, Code { wide, ..assemble(isa, &mut context)? }));
        }
    };
    let helpers = (kernels.len() / KERNELS_PER_THREAD).min(compile_threads.saturating_sub(1));
    let mut all = std::thread::scope(|scope| -> Result<Vec<(usize, Code)>, Error> {
        let others: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut all = work()?;
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })?;
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, code)| code).collect())
}

/// Compiles kernels and the plan that calls them.
///
/// # Errors
/// If Cranelift does not support this machine.
pub fn compile(kernels: &[Kernel], plan: &Arc<Plan>, config: &Config) -> Result<Compiled, Error> {
    let mut target = isa::target()?;
    target.features.vectors = target.features.vectors.min(config.vectors);
    let call_conv = target.isa(Effort::Around).default_call_conv();
    let efforts = Efforts::new(kernels, plan, config.once);
    let codes = compile_kernels(kernels, &efforts, &target, call_conv, config.compile_threads)?;
    let table = (0..kernels.len().max(1)).map(|_| AtomicUsize::new(0)).collect();
    whole(codes, table, plan, config, &target)
}

/// Compiles a plan whose kernels are code already: their addresses.
///
/// # Errors
/// If Cranelift does not support this machine.
pub fn compile_around(kernels: &[usize], plan: &Arc<Plan>, config: &Config) -> Result<Compiled, Error> {
    let table = if kernels.is_empty() { &[0] } else { kernels };
    let table = table.iter().map(|address| AtomicUsize::new(*address)).collect();
    whole(Vec::new(), table, plan, config, &isa::target()?)
}

/// Links kernels, if any are to be linked, and the entry, which finds the kernels in a table.
fn whole(mut codes: Vec<Code>, table: Box<[AtomicUsize]>, plan: &Arc<Plan>, config: &Config, target: &Target) -> Result<Compiled, Error> {
    let isa = target.isa(if config.once { Effort::Once } else { Effort::Around }).clone();
    let call_conv = isa.default_call_conv();
    let kernels = codes.len();
    let mut context = Context::new();
    context.func = Function::with_name_signature(UserFuncName::default(), entry::signature(call_conv));
    let mut frontend = FunctionBuilderContext::new();
    let statics = entry::build(plan, table.as_ptr() as usize, config, target.features, &mut context.func, &mut frontend);
    codes.push(assemble(&isa, &mut context)?);
    let code_bytes = codes.iter().map(|c| c.bytes.len() + c.wide.iter().map(Vec::len).sum::<usize>()).sum();
    let mut module = JITModule::new(JITBuilder::with_isa(isa, cranelift_module::default_libcall_names()));
    let trouble = |e: cranelift_module::ModuleError| Error(e.to_string());
    let mut ids = Vec::new();
    for (i, mut code) in codes.into_iter().enumerate() {
        let mut loops = Vec::new();
        for (k, bytes) in code.wide.iter().enumerate() {
            let id = module.declare_function(&format!("f{i}_{k}"), Linkage::Local, &kernel::wide_signature()).map_err(trouble)?;
            module.define_function_bytes(id, WIDE_ALIGN, bytes, &[]).map_err(trouble)?;
            loops.push(id);
        }
        for reloc in &mut code.relocs {
            if let ModuleRelocTarget::User { namespace: WIDE_NAMESPACE, index } = reloc.name {
                reloc.name = ModuleRelocTarget::from(loops[index as usize]);
            }
        }
        let signature = if i < kernels { kernel::signature(call_conv) } else { entry::signature(call_conv) };
        let id = module.declare_function(&format!("f{i}"), Linkage::Local, &signature).map_err(trouble)?;
        module.define_function_bytes(id, code.align, &code.bytes, &code.relocs).map_err(trouble)?;
        ids.push(id);
    }
    module.finalize_definitions().map_err(trouble)?;
    for (slot, &id) in table.iter().zip(&ids[..kernels]) {
        slot.store(module.get_finalized_function(id) as usize, Ordering::Relaxed);
    }
    let entry = module.get_finalized_function(ids[kernels]);
    // SAFETY: the function was built with the signature of `PlanFn`.
    let entry = unsafe { std::mem::transmute::<*const u8, PlanFn>(entry) };
    Ok(Compiled { entry, code_bytes, module: Some(module), kernels: table, _statics: statics })
}

/// Calls `show` on every function (kernels, then the entry) before it is compiled.
fn each_function(
    kernels: &[Kernel],
    plan: &Plan,
    mut show: impl FnMut(String, Function, Vec<wide::Program>, &OwnedTargetIsa),
) -> Result<(), Error> {
    let target = isa::target()?;
    let isa = target.isa(Effort::Around);
    let efforts = Efforts::new(kernels, plan, false);
    let call_conv = isa.default_call_conv();
    let mut frontend = FunctionBuilderContext::new();
    for (i, kernel) in kernels.iter().enumerate() {
        let (func, built) = kernel_function(kernel, call_conv, target.features, &mut frontend);
        let isa = target.isa(efforts.of(i, built.own_loops));
        show(format!("kernel {i}"), func, built.wide, isa);
    }
    let mut func = Function::with_name_signature(UserFuncName::default(), entry::signature(call_conv));
    entry::build(plan, 0, &Config { threads: 1, ..Config::default() }, target.features, &mut func, &mut frontend);
    show("entry".to_string(), func, Vec::new(), isa);
    Ok(())
}

/// Cranelift's intermediate form of every kernel and of the plan's entry, as text.
pub fn clif(kernels: &[Kernel], plan: &Plan) -> String {
    let mut text = String::new();
    let done = each_function(kernels, plan, |name, func, _, _| text.push_str(&format!("; {name}\n{}\n", func.display())));
    done.map_or_else(|e| e.to_string(), |()| text)
}

/// Machine code of every kernel and of the plan's entry, as text.
pub fn asm(kernels: &[Kernel], plan: &Plan) -> String {
    let mut text = String::new();
    let done = each_function(kernels, plan, |name, func, loops, isa| {
        let mut context = Context::for_function(func);
        context.set_disasm(true);
        let listing = match context.compile(&**isa, &mut ControlPlane::default()) {
            Ok(code) => code.vcode.clone().unwrap_or_default(),
            Err(e) => cranelift_codegen::print_errors::pretty_error(e.func, e.inner),
        };
        text.push_str(&format!("; {name}\n{listing}\n"));
        for (k, program) in loops.iter().enumerate() {
            text.push_str(&format!("; {name}, wide loop {k}\n{}\n", wide::emit(program, true).1));
        }
    });
    done.map_or_else(|e| e.to_string(), |()| text)
}
