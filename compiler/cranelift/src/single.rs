//! One kernel at a time, made in microseconds and freed as easily: code of candidates of a search, which a compiled plan calls in the place of one of its kernels.

use crate::effort::Effort;
use crate::space::{Free, Space};
use crate::{Compiled, Error, WIDE_ALIGN, WIDE_NAMESPACE, isa, kernel, wide};
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{Function, UserFuncName};
use cranelift_codegen::{Context, FinalizedMachReloc, FinalizedRelocTarget, ir::ExternalName};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, ModuleReloc, ModuleRelocTarget};
use optc_abi::plan::KernelFn;
use optc_ir::kernel::Kernel;
use std::sync::atomic::Ordering;

/// Machine code of one kernel; the code lives as long as this value.
pub struct KernelCode {
    /// The kernel.
    pub function: KernelFn,
    /// Bytes of machine code.
    pub code_bytes: usize,
    _memory: Memory,
}

/// Where code is.
enum Memory {
    /// In memory that code before it has used.
    Space { _space: Space },
    /// In a module of its own.
    Module(Option<JITModule>),
}

// SAFETY: the code is never written after it is made; the module is touched only to free it.
unsafe impl Send for KernelCode {}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Memory::Module(module) = self
            && let Some(module) = module.take()
        {
            // SAFETY: whoever calls the function keeps this value alive.
            unsafe { module.free_memory() }
        }
    }
}

/// Makes code of kernels, one after another.
pub struct KernelCompiler {
    context: Context,
    frontend: FunctionBuilderContext,
    free: Free,
}

impl Default for KernelCompiler {
    fn default() -> Self {
        KernelCompiler { context: Context::new(), frontend: FunctionBuilderContext::new(), free: Free::default() }
    }
}

/// A kernel's function before it has an address.
struct Loose<'a> {
    bytes: &'a [u8],
    align: usize,
    relocs: &'a [FinalizedMachReloc],
    /// Wide loops it calls.
    loops: Vec<Vec<u8>>,
}

impl KernelCompiler {
    /// Machine code of a kernel.
    ///
    /// # Errors
    /// If Cranelift does not support this machine.
    pub fn compile(&mut self, kernel: &Kernel) -> Result<KernelCode, Error> {
        let target = isa::target()?;
        let call_conv = target.isa(Effort::Once).default_call_conv();
        self.context.clear();
        self.context.func = Function::with_name_signature(UserFuncName::default(), kernel::signature(call_conv));
        let built = kernel::build(kernel, target.features, true, &mut self.context.func, &mut self.frontend);
        let isa = target.isa(if built.own_loops { Effort::Around } else { Effort::Once });
        self.context
            .compile(&**isa, &mut ControlPlane::default())
            .map_err(|e| Error(format!("{}\nin a kernel", cranelift_codegen::print_errors::pretty_error(e.func, e.inner))))?;
        let compiled = self.context.compiled_code().ok_or_else(|| Error("Cranelift made no code".to_string()))?;
        let loose = Loose {
            bytes: compiled.buffer.data(),
            align: compiled.buffer.alignment as usize,
            relocs: compiled.buffer.relocs(),
            loops: built.wide.iter().map(|program| wide::emit(program, false).0).collect(),
        };
        let code_bytes = loose.bytes.len() + loose.loops.iter().map(Vec::len).sum::<usize>();
        let (function, memory) = match in_space(&loose, &self.context.func, &self.free) {
            Some((function, space)) => (function, Memory::Space { _space: space }),
            None => {
                let (function, module) = in_module(&loose, &self.context.func, isa.clone())?;
                (function, Memory::Module(Some(module)))
            }
        };
        // SAFETY: the function was built with the signature of `KernelFn`.
        let function = unsafe { std::mem::transmute::<*const u8, KernelFn>(function) };
        Ok(KernelCode { function, code_bytes, _memory: memory })
    }
}

/// The number of the wide loop a call is of.
fn wide_loop(reloc: &FinalizedMachReloc, func: &Function) -> Option<usize> {
    let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = reloc.target else { return None };
    let name = &func.params.user_named_funcs()[name];
    (name.namespace == WIDE_NAMESPACE).then_some(name.index as usize)
}

/// Code in memory of ours: wide loops, then the kernel, which calls them at their addresses and nothing else. `None` where it calls other things, or there is no such memory.
fn in_space(loose: &Loose<'_>, func: &Function, free: &Free) -> Option<(*const u8, Space)> {
    let mut code = Vec::with_capacity(loose.bytes.len() + loose.loops.iter().map(|l| l.len() + WIDE_ALIGN as usize).sum::<usize>());
    let mut loops = Vec::with_capacity(loose.loops.len());
    for bytes in &loose.loops {
        code.resize(code.len().next_multiple_of(WIDE_ALIGN as usize), 0);
        loops.push(code.len());
        code.extend_from_slice(bytes);
    }
    code.resize(code.len().next_multiple_of(loose.align), 0);
    let start = code.len();
    code.extend_from_slice(loose.bytes);
    let calls: Vec<(usize, usize)> = loose
        .relocs
        .iter()
        .map(|r| match (r.kind, wide_loop(r, func)) {
            (Reloc::Abs8, Some(number)) if r.addend == 0 => Some((start + r.offset as usize, number)),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let mut space = free.take(code.len())?;
    let base = space.address() as usize;
    for (at, number) in calls {
        code[at..at + 8].copy_from_slice(&((base + loops[number]) as u64).to_le_bytes());
    }
    space.fill(&code).then(|| ((base + start) as *const u8, space))
}

/// Code in a module of its own.
fn in_module(loose: &Loose<'_>, func: &Function, isa: cranelift_codegen::isa::OwnedTargetIsa) -> Result<(*const u8, JITModule), Error> {
    let trouble = |e: cranelift_module::ModuleError| Error(e.to_string());
    let call_conv = isa.default_call_conv();
    let mut module = JITModule::new(JITBuilder::with_isa(isa, cranelift_module::default_libcall_names()));
    let mut loops = Vec::new();
    for (k, code) in loose.loops.iter().enumerate() {
        let id = module.declare_function(&format!("loop{k}"), Linkage::Local, &kernel::wide_signature()).map_err(trouble)?;
        module.define_function_bytes(id, WIDE_ALIGN, code, &[]).map_err(trouble)?;
        loops.push(id);
    }
    let mut relocs: Vec<ModuleReloc> = loose.relocs.iter().map(|r| ModuleReloc::from_mach_reloc(r, func, FuncId::from_u32(0))).collect();
    for reloc in &mut relocs {
        if let ModuleRelocTarget::User { namespace: WIDE_NAMESPACE, index } = reloc.name {
            reloc.name = ModuleRelocTarget::from(loops[index as usize]);
        }
    }
    let id = module.declare_function("kernel", Linkage::Local, &kernel::signature(call_conv)).map_err(trouble)?;
    module.define_function_bytes(id, loose.align as u64, loose.bytes, &relocs).map_err(trouble)?;
    module.finalize_definitions().map_err(trouble)?;
    Ok((module.get_finalized_function(id), module))
}

impl Compiled {
    /// Lets the plan call another function in the place of a kernel from now on.
    ///
    /// # Safety
    /// The plan is not running; while it runs the function is there, and does with the kernel's buffers what the kernel may do.
    pub unsafe fn replace(&self, kernel: usize, function: KernelFn) {
        self.kernels[kernel].store(function as usize, Ordering::Release);
    }
}
