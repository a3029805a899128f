//! Object files in memory, linked and ready to be called.

use crate::Error;
use crate::math::symbol;
use inkwell::llvm_sys::core::LLVMCreateMemoryBufferWithMemoryRangeCopy;
use inkwell::llvm_sys::error::{LLVMDisposeErrorMessage, LLVMErrorRef, LLVMGetErrorMessage};
use inkwell::llvm_sys::orc2::lljit::*;
use inkwell::llvm_sys::orc2::*;
use optc_abi::DType;
use optc_ir::native;
use std::ffi::{CStr, CString, c_void};

unsafe extern "C" {
    fn memcpy(to: *mut c_void, from: *const c_void, n: usize) -> *mut c_void;
    fn memmove(to: *mut c_void, from: *const c_void, n: usize) -> *mut c_void;
    fn memset(to: *mut c_void, byte: i32, n: usize) -> *mut c_void;
}

/// Code that lives as long as this value.
pub(crate) struct Jit(LLVMOrcLLJITRef);

// SAFETY: after `link` the code is only read; LLJIT locks what it changes itself.
unsafe impl Send for Jit {}
// SAFETY: as above.
unsafe impl Sync for Jit {}

impl Drop for Jit {
    fn drop(&mut self) {
        // SAFETY: made by `link`; whoever calls the code keeps this value.
        unsafe { LLVMOrcDisposeLLJIT(self.0) };
    }
}

fn outcome(error: LLVMErrorRef) -> Result<(), Error> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the message belongs to us and is freed once.
    unsafe {
        let text = LLVMGetErrorMessage(error);
        let words = CStr::from_ptr(text).to_string_lossy().into_owned();
        LLVMDisposeErrorMessage(text);
        Err(Error::new(words))
    }
}

/// What code may call, by name.
fn symbols() -> Vec<(String, usize)> {
    let mut all = vec![
        (crate::host::REPORT.to_string(), native::report as *const () as usize),
        ("memcpy".to_string(), memcpy as *const () as usize),
        ("memmove".to_string(), memmove as *const () as usize),
        ("memset".to_string(), memset as *const () as usize),
    ];
    all.extend(crate::emulator::symbols());
    for &op in native::FUNCTIONS {
        all.push((symbol(op, DType::F64), native::f64_address(op)));
        all.push((symbol(op, DType::F32), native::f32_address(op)));
    }
    all
}

impl Jit {
    /// Links object files with what they call.
    pub(crate) fn link(objects: &[Vec<u8>]) -> Result<Jit, Error> {
        // SAFETY: every reference is made here and handed over once, as the C interface asks for.
        unsafe {
            let mut jit = std::ptr::null_mut();
            outcome(LLVMOrcCreateLLJIT(&mut jit, std::ptr::null_mut()))?;
            let jit = Jit(jit);
            let library = LLVMOrcLLJITGetMainJITDylib(jit.0);
            let mut pairs: Vec<LLVMOrcCSymbolMapPair> = symbols()
                .iter()
                .map(|(name, address)| {
                    let name = CString::new(name.as_str()).unwrap_or_default();
                    let flags = LLVMJITSymbolFlags {
                        GenericFlags: LLVMJITSymbolGenericFlags::LLVMJITSymbolGenericFlagsExported as u8,
                        TargetFlags: 0,
                    };
                    let sym = LLVMJITEvaluatedSymbol { Address: *address as u64, Flags: flags };
                    LLVMOrcCSymbolMapPair { Name: LLVMOrcLLJITMangleAndIntern(jit.0, name.as_ptr()), Sym: sym }
                })
                .collect();
            let unit = LLVMOrcAbsoluteSymbols(pairs.as_mut_ptr(), pairs.len());
            outcome(LLVMOrcJITDylibDefine(library, unit))?;
            // Functions of the C library that LLVM makes up itself.
            let mut generator = std::ptr::null_mut();
            let prefix = LLVMOrcLLJITGetGlobalPrefix(jit.0);
            if outcome(LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess(&mut generator, prefix, None, std::ptr::null_mut())).is_ok() {
                LLVMOrcJITDylibAddGenerator(library, generator);
            }
            for object in objects {
                let bytes = LLVMCreateMemoryBufferWithMemoryRangeCopy(object.as_ptr().cast(), object.len(), c"kernels".as_ptr());
                outcome(LLVMOrcLLJITAddObjectFile(jit.0, library, bytes))?;
            }
            Ok(jit)
        }
    }

    /// The address of a function.
    pub(crate) fn address(&self, name: &str) -> Result<usize, Error> {
        let name = CString::new(name).unwrap_or_default();
        let mut address = 0;
        // SAFETY: the jit is alive.
        outcome(unsafe { LLVMOrcLLJITLookup(self.0, &mut address, name.as_ptr()) })?;
        Ok(address as usize)
    }
}
