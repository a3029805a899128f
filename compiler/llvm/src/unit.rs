//! A module under construction, and what LLVM makes of it.

use crate::Error;
use crate::processors::{NATIVE, check_cpu, covers};
use crate::targets;
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple};
use std::sync::Once;

/// The passes over host code. Its vectors are in it already, but loops of scalars beside them are worth a look; then unrolling does most. Chosen by measuring: `default<O2>` takes
/// twice as long for code 1 % faster.
const HOST_PASSES: &str = "always-inline,cgscc(inline),function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,\
loop-mssa(loop-simplifycfg,licm,loop-rotate,licm),gvn,dse,loop-vectorize,loop-unroll<O2>,instcombine<no-verify-fixpoint>,simplifycfg,loop-mssa(licm))";

/// The passes over code of a GPU, whose threads are vectors enough.
pub(crate) const GPU_PASSES: &str = "always-inline,cgscc(inline),function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,\
loop-mssa(loop-simplifycfg,licm,loop-rotate,licm),gvn,instcombine<no-verify-fixpoint>,dse,loop-mssa(licm),loop-unroll<O2>,instcombine<no-verify-fixpoint>,simplifycfg),globaldce";

fn initialize() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        Target::initialize_x86(&InitializationConfig::default());
        Target::initialize_nvptx(&InitializationConfig::default());
    });
}

/// This computer's processor.
pub(crate) struct Host {
    pub(crate) triple: TargetTriple,
    pub(crate) cpu: String,
    pub(crate) features: String,
}

impl Host {
    /// The processor under the program (none, or `native`), or one by LLVM's name for it.
    ///
    /// # Errors
    /// A name that LLVM does not know.
    pub(crate) fn new(cpu: Option<&str>) -> Result<Host, Error> {
        initialize();
        let cpu = cpu.filter(|name| *name != NATIVE);
        cpu.map_or(Ok(()), check_cpu)?;
        let native = || TargetMachine::get_host_cpu_name().to_string_lossy().into_owned();
        let features = || TargetMachine::get_host_cpu_features().to_string_lossy().into_owned();
        Ok(Host {
            triple: TargetMachine::get_default_triple(),
            cpu: cpu.map_or_else(native, str::to_string),
            features: if cpu.is_some() { String::new() } else { features() },
        })
    }

    /// The same, whose code is to run on the processor under the program.
    ///
    /// # Errors
    /// This one lacks instructions that the other has.
    pub(crate) fn here(cpu: Option<&str>) -> Result<Host, Error> {
        let host = Host::new(cpu)?;
        // Those of the processor itself are its own.
        if cpu.is_some_and(|name| name != NATIVE) && !covers(&Host::new(None)?, (&host.cpu, ""))? {
            let own = TargetMachine::get_host_cpu_name();
            return Err(Error::asked(format!("code for `{}` does not run on this processor, `{}`", host.cpu, own.to_string_lossy())));
        }
        Ok(host)
    }

    /// Whether it multiplies and adds with one rounding.
    ///
    /// # Errors
    /// LLVM has no back end for it.
    pub(crate) fn fma(&self) -> Result<bool, Error> {
        if self.features.is_empty() { covers(self, ("x86-64", "+fma")) } else { Ok(self.features.split(',').any(|f| f == "+fma")) }
    }

    pub(crate) fn machine(&self) -> Result<TargetMachine, Error> {
        let target = Target::from_triple(&self.triple).map_err(|e| Error::new(e.to_string()))?;
        target
            .create_target_machine(&self.triple, &self.cpu, &self.features, OptimizationLevel::Default, RelocMode::PIC, CodeModel::Default)
            .ok_or_else(|| Error::new(format!("LLVM has no back end for {} of {}", self.cpu, self.triple)))
    }

    /// Attributes of every function.
    pub(crate) fn attributes(&self) -> Vec<(String, String)> {
        let mut all = vec![("target-cpu".to_string(), self.cpu.clone()), ("min-legal-vector-width".to_string(), "512".to_string())];
        if !self.features.is_empty() {
            all.push(("target-features".to_string(), self.features.clone()));
        }
        all.push(("prefer-vector-width".to_string(), "512".to_string()));
        all
    }
}

/// The back end for an NVIDIA GPU.
pub(crate) fn nvptx(gpu: &str) -> Result<(TargetTriple, TargetMachine), Error> {
    initialize();
    let features = targets::version(gpu)?;
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let target = Target::from_triple(&triple).map_err(|e| Error::new(e.to_string()))?;
    let machine = target
        .create_target_machine(&triple, gpu, features, OptimizationLevel::Default, RelocMode::Default, CodeModel::Default)
        .ok_or_else(|| Error::new(format!("LLVM has no back end for {gpu}")))?;
    Ok((triple, machine))
}

/// What replaces the passes over host code.
const PASSES: &str = "OPTC_LLVM_PASSES";

/// The passes over host code; for experiments the environment may say others.
pub(crate) fn passes() -> String {
    std::env::var(PASSES).unwrap_or_else(|_| HOST_PASSES.to_string())
}

/// Whether the passes that the environment says are some.
///
/// # Errors
/// LLVM does not understand them.
pub fn check_passes() -> Result<(), Error> {
    let Ok(passes) = std::env::var(PASSES) else { return Ok(()) };
    let host = Host::new(None)?;
    let (machine, context) = (host.machine()?, Context::create());
    let empty = module(&context, "empty", &host.triple, &machine);
    let run = empty.run_passes(&passes, &machine, PassBuilderOptions::create());
    run.map_err(|e| Error::asked(format!("{PASSES} is `{passes}`, which LLVM does not understand: {}", e.to_string_lossy().trim())))
}

/// Verifies a module and runs the passes.
pub(crate) fn optimize(module: &Module<'_>, machine: &TargetMachine) -> Result<(), Error> {
    module.verify().map_err(|e| Error::new(format!("compiler bug: {}", e.to_string_lossy())))?;
    let gpu = machine.get_triple().as_str().to_bytes().starts_with(b"nvptx");
    let passes = if gpu { GPU_PASSES.to_string() } else { passes() };
    let run = module.run_passes(&passes, machine, PassBuilderOptions::create());
    run.map_err(|e| Error::new(format!("compiler bug: {}", e.to_string_lossy())))
}

/// Machine code of a module, as an object file or as text.
pub(crate) fn machine_code(module: &Module<'_>, machine: &TargetMachine, text: bool) -> Result<MemoryBuffer<'static>, Error> {
    let form = if text { FileType::Assembly } else { FileType::Object };
    machine.write_to_memory_buffer(module, form).map_err(|e| Error::new(e.to_string_lossy().into_owned()))
}

/// A new module for a machine.
pub(crate) fn module<'c>(context: &'c Context, name: &str, triple: &TargetTriple, machine: &TargetMachine) -> Module<'c> {
    let module = context.create_module(name);
    module.set_triple(triple);
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    module
}
