//! A module under construction, and what LLVM makes of it.

use crate::Error;
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
const GPU_PASSES: &str = "always-inline,cgscc(inline),function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,\
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
    /// The processor under the program, or one by LLVM's name for it.
    pub(crate) fn new(cpu: Option<&str>) -> Host {
        initialize();
        let native = || TargetMachine::get_host_cpu_name().to_string_lossy().into_owned();
        let features = || TargetMachine::get_host_cpu_features().to_string_lossy().into_owned();
        Host {
            triple: TargetMachine::get_default_triple(),
            cpu: cpu.map_or_else(native, str::to_string),
            features: if cpu.is_some() { String::new() } else { features() },
        }
    }

    pub(crate) fn machine(&self) -> Result<TargetMachine, Error> {
        let target = Target::from_triple(&self.triple).map_err(|e| Error(e.to_string()))?;
        target
            .create_target_machine(&self.triple, &self.cpu, &self.features, OptimizationLevel::Default, RelocMode::PIC, CodeModel::Default)
            .ok_or_else(|| Error(format!("LLVM has no back end for {} of {}", self.cpu, self.triple)))
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
    let Some((_, features)) = GPUS.iter().find(|(name, _)| *name == gpu) else {
        let known: Vec<&str> = GPUS.iter().map(|(name, _)| *name).collect();
        return Err(Error(format!("there is no code for a GPU `{gpu}`; there is for {}", known.join(", "))));
    };
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let target = Target::from_triple(&triple).map_err(|e| Error(e.to_string()))?;
    let machine = target
        .create_target_machine(&triple, gpu, features, OptimizationLevel::Default, RelocMode::Default, CodeModel::Default)
        .ok_or_else(|| Error(format!("LLVM has no back end for {gpu}")))?;
    Ok((triple, machine))
}

/// GPUs that code can be made for, each with the version of PTX: the oldest that it and the instructions in use ask for, so that every driver for it takes the code.
/// LLVM ends the process where a version is too old for a GPU, and takes an old one where it does not know a version.
pub const GPUS: &[(&str, &str)] = &[
    ("sm_70", "+ptx71"),
    ("sm_75", "+ptx71"),
    ("sm_80", "+ptx71"),
    ("sm_86", "+ptx71"),
    ("sm_87", "+ptx74"),
    ("sm_89", "+ptx78"),
    ("sm_90", "+ptx80"),
    ("sm_90a", "+ptx80"),
];

/// The name of the newest GPU in the list whose code runs on a GPU of this compute capability.
///
/// # Errors
/// An older one than all of them, in words.
pub fn gpu_for(major: u32, minor: u32) -> Result<&'static str, String> {
    let plain = GPUS.iter().filter_map(|(name, _)| Some((*name, name.strip_prefix("sm_")?.parse::<u32>().ok()?)));
    let fits = plain.filter(|(_, number)| *number <= 10 * major + minor).max_by_key(|(_, number)| *number);
    fits.map(|(name, _)| name)
        .ok_or_else(|| format!("there is no code for a GPU of compute capability {major}.{minor}; it begins with 7.0"))
}

/// The passes over host code; for experiments the environment may say others.
pub(crate) fn passes() -> String {
    std::env::var("OPTC_LLVM_PASSES").unwrap_or_else(|_| HOST_PASSES.to_string())
}

/// Verifies a module and runs the passes.
pub(crate) fn optimize(module: &Module<'_>, machine: &TargetMachine) -> Result<(), Error> {
    module.verify().map_err(|e| Error(format!("compiler bug: {}", e.to_string_lossy())))?;
    let gpu = machine.get_triple().as_str().to_bytes().starts_with(b"nvptx");
    let passes = if gpu { GPU_PASSES.to_string() } else { passes() };
    module.run_passes(&passes, machine, PassBuilderOptions::create()).map_err(|e| Error(format!("compiler bug: {}", e.to_string_lossy())))
}

/// Machine code of a module, as an object file or as text.
pub(crate) fn machine_code(module: &Module<'_>, machine: &TargetMachine, text: bool) -> Result<MemoryBuffer<'static>, Error> {
    let form = if text { FileType::Assembly } else { FileType::Object };
    machine.write_to_memory_buffer(module, form).map_err(|e| Error(e.to_string_lossy().into_owned()))
}

/// A new module for a machine.
pub(crate) fn module<'c>(context: &'c Context, name: &str, triple: &TargetTriple, machine: &TargetMachine) -> Module<'c> {
    let module = context.create_module(name);
    module.set_triple(triple);
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    module
}
