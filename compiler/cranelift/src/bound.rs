//! Kernels that are no machine code: functions with a kernel's signature that call another one, which is told which kernel is meant.

use crate::kernel::signature;
use crate::{Error, isa};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{self, AbiParam, Function, InstBuilder, UserFuncName, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module};
use optc_abi::plan::Status;

/// What is called: a kernel's arguments ([`optc_abi::plan::KernelFn`]), and before them the number that is bound to the function.
pub type Callee =
    unsafe extern "C" fn(number: usize, buffers: *const *mut u8, sizes: *const i64, begin: i64, end: i64, status: *mut Status);

/// Functions of [`bind`]; their code lives as long as this value.
pub struct Bound {
    /// The address of each, a function as [`optc_abi::plan::KernelFn`].
    pub kernels: Vec<usize>,
    module: Option<JITModule>,
}

// SAFETY: the code is never written after `bind`; the module is touched only to free it.
unsafe impl Send for Bound {}
// SAFETY: as above.
unsafe impl Sync for Bound {}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: whoever calls the functions keeps this value alive.
            unsafe { module.free_memory() }
        }
    }
}

/// A function for each number, which hands its arguments and the number on.
///
/// # Errors
/// If Cranelift does not support this machine.
pub fn bind(callee: Callee, numbers: impl IntoIterator<Item = usize>) -> Result<Bound, Error> {
    let isa = isa::target()?.isa(crate::effort::Effort::Once).clone();
    let convention = isa.default_call_conv();
    let trouble = |e: cranelift_module::ModuleError| Error(e.to_string());
    let mut module = JITModule::new(JITBuilder::with_isa(isa.clone(), cranelift_module::default_libcall_names()));
    let (mut context, mut frontend, mut ids) = (Context::new(), FunctionBuilderContext::new(), Vec::new());
    for (i, number) in numbers.into_iter().enumerate() {
        context.clear();
        context.func = Function::with_name_signature(UserFuncName::default(), signature(convention));
        let mut b = FunctionBuilder::new(&mut context.func, &mut frontend);
        let block = b.create_block();
        b.append_block_params_for_function_params(block);
        b.switch_to_block(block);
        b.seal_block(block);
        let mut arguments = vec![b.ins().iconst(types::I64, number as i64)];
        arguments.extend_from_slice(b.block_params(block));
        let mut called = ir::Signature::new(convention);
        called.params = vec![AbiParam::new(types::I64); arguments.len()];
        let called = b.import_signature(called);
        let to = b.ins().iconst(types::I64, callee as usize as i64);
        b.ins().call_indirect(called, to, &arguments);
        b.ins().return_(&[]);
        b.finalize(isa.frontend_config());
        let code = context.compile(&*isa, &mut ControlPlane::default()).map_err(|e| Error(format!("{:?}", e.inner)))?;
        let (align, bytes) = (u64::from(code.buffer.alignment), code.buffer.data().to_vec());
        let id = module.declare_function(&format!("bound{i}"), Linkage::Local, &signature(convention)).map_err(trouble)?;
        module.define_function_bytes(id, align, &bytes, &[]).map_err(trouble)?;
        ids.push(id);
    }
    module.finalize_definitions().map_err(trouble)?;
    let kernels = ids.iter().map(|&id| module.get_finalized_function(id) as usize).collect();
    Ok(Bound { kernels, module: Some(module) })
}
