//! One kernel at a time, made in microseconds and freed as easily: code of candidates of a search, which a compiled plan calls in the place of one of its kernels.

use crate::effort::Effort;
use crate::{Compiled, Error, WIDE_ALIGN, WIDE_NAMESPACE, isa, kernel, wide};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{Function, UserFuncName};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, ModuleReloc, ModuleRelocTarget};
use optc_abi::plan::KernelFn;
use optc_ir::kernel::Kernel;
use std::sync::atomic::Ordering;

/// Machine code of one kernel; the code lives as long as this value.
pub struct KernelCode {
    /// The kernel.
    pub function: KernelFn,
    /// Bytes of machine code.
    pub code_bytes: usize,
    module: Option<JITModule>,
}

// SAFETY: the code is never written after it is made; the module is touched only to free it.
unsafe impl Send for KernelCode {}

impl Drop for KernelCode {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: whoever calls the function keeps this value alive.
            unsafe { module.free_memory() }
        }
    }
}

/// Makes code of kernels, one after another.
pub struct KernelCompiler {
    context: Context,
    frontend: FunctionBuilderContext,
}

impl Default for KernelCompiler {
    fn default() -> Self {
        KernelCompiler { context: Context::new(), frontend: FunctionBuilderContext::new() }
    }
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
        let built = kernel::build(kernel, target.features, &mut self.context.func, &mut self.frontend);
        let isa = target.isa(if built.own_loops { Effort::Around } else { Effort::Once });
        let trouble = |e: cranelift_module::ModuleError| Error(e.to_string());
        let mut module = JITModule::new(JITBuilder::with_isa(isa.clone(), cranelift_module::default_libcall_names()));
        let compiled = self
            .context
            .compile(&**isa, &mut ControlPlane::default())
            .map_err(|e| Error(format!("{}\nin a kernel", cranelift_codegen::print_errors::pretty_error(e.func, e.inner))))?;
        let (bytes, align) = (compiled.buffer.data().to_vec(), u64::from(compiled.buffer.alignment));
        let relocs = compiled.buffer.relocs().to_vec();
        let none = cranelift_module::FuncId::from_u32(0);
        let mut relocs: Vec<ModuleReloc> = relocs.iter().map(|r| ModuleReloc::from_mach_reloc(r, &self.context.func, none)).collect();
        let (mut loops, mut code_bytes) = (Vec::new(), bytes.len());
        for (k, program) in built.wide.iter().enumerate() {
            let code = wide::emit(program, false).0;
            code_bytes += code.len();
            let id = module.declare_function(&format!("loop{k}"), Linkage::Local, &kernel::wide_signature()).map_err(trouble)?;
            module.define_function_bytes(id, WIDE_ALIGN, &code, &[]).map_err(trouble)?;
            loops.push(id);
        }
        for reloc in &mut relocs {
            if let ModuleRelocTarget::User { namespace: WIDE_NAMESPACE, index } = reloc.name {
                reloc.name = ModuleRelocTarget::from(loops[index as usize]);
            }
        }
        let id = module.declare_function("kernel", Linkage::Local, &kernel::signature(call_conv)).map_err(trouble)?;
        module.define_function_bytes(id, align, &bytes, &relocs).map_err(trouble)?;
        module.finalize_definitions().map_err(trouble)?;
        let function = module.get_finalized_function(id);
        // SAFETY: the function was built with the signature of `KernelFn`.
        let function = unsafe { std::mem::transmute::<*const u8, KernelFn>(function) };
        Ok(KernelCode { function, code_bytes, module: Some(module) })
    }
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
