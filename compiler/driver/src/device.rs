//! Where programs run: on this computer's processor, or on a GPU.

use crate::cache::Compiled;
use crate::pipeline::CompileError;
use optc_abi::Tensor;
use optc_abi::device::Target;
use optc_exec::{Pool, Program};
use optc_train::TrainError;
use std::sync::{Arc, OnceLock};

static CHOSEN: OnceLock<Option<Target>> = OnceLock::new();

/// Chooses the device of this process, once: what the command line says, else what `OPTC_DEVICE` says; else it is each train's own.
///
/// # Errors
/// A name that is none.
pub fn choose(asked: Option<&str>) -> Result<(), TrainError> {
    choose_or(asked, None)
}

/// The same for an executable that was built for a device, which is used if nothing else is said.
///
/// # Errors
/// As [`choose`].
pub fn choose_or(asked: Option<&str>, built: Option<&str>) -> Result<(), TrainError> {
    let variable = std::env::var_os("OPTC_DEVICE").map(|name| name.to_string_lossy().into_owned());
    let named = asked.map(|name| ("--device", name)).or(variable.as_deref().map(|name| ("OPTC_DEVICE", name)));
    let named = named.or(built.map(|name| ("the device that this was built for", name)));
    let target = named.map(|(whose, name)| parse(whose, name)).transpose()?;
    CHOSEN.get_or_init(|| target);
    Ok(())
}

fn parse(whose: &str, name: &str) -> Result<Target, TrainError> {
    Target::parse(name).ok_or_else(|| {
        TrainError::new("R0137", format!("{whose} is `{name}`, which is no device")).help(format!("it may be {}", Target::FORMS))
    })
}

/// Whether what the command line names is a device that this build has code for; whether it is there will be seen where it is used.
///
/// # Errors
/// A name that is none; a GPU in a build without LLVM.
pub fn check(asked: Option<&str>) -> Result<(), TrainError> {
    match asked.map(|name| parse("--device", name)).transpose()? {
        Some(target) if target != Target::Cpu && !cfg!(feature = "llvm") => Err(crate::backend::without_llvm()),
        _ => Ok(()),
    }
}

/// The device that was asked for outside of specs.
pub fn chosen() -> Option<Target> {
    CHOSEN.get().copied().flatten()
}

/// A device that is there.
#[derive(Clone, Debug, Default)]
pub enum Place {
    /// This computer's processor.
    #[default]
    Processor,
    /// A GPU.
    #[cfg(feature = "llvm")]
    Gpu(Arc<optc_device::Gpu>),
    /// Several GPUs, which share out batches; what has none runs on the first.
    #[cfg(feature = "llvm")]
    Gpus(Arc<optc_device::Team>),
}

/// What is in the way of a device, as an error with a code.
#[cfg(feature = "llvm")]
fn trouble(e: optc_device::DeviceError) -> TrainError {
    let error = TrainError::new(e.code, e.message);
    match e.help {
        Some(help) => error.help(help),
        None => error,
    }
}

/// Opens a device.
///
/// # Errors
/// There is no such GPU or no driver for it, or the build has no code for GPUs.
pub fn open(target: Target) -> Result<Place, TrainError> {
    match target {
        Target::Cpu => Ok(Place::Processor),
        #[cfg(feature = "llvm")]
        Target::Cuda(ordinal) => optc_device::Gpu::open(ordinal).map(Place::Gpu).map_err(trouble),
        #[cfg(feature = "llvm")]
        Target::Several(numbers) => optc_device::Team::open(&numbers.list()).map(Place::Gpus).map_err(trouble),
        #[cfg(feature = "llvm")]
        Target::AllCuda => match optc_device::count().map_err(trouble)? {
            0 | 1 => open(Target::Cuda(0)),
            count => optc_device::Team::open(&(0..count).collect::<Vec<_>>()).map(Place::Gpus).map_err(trouble),
        },
        #[cfg(not(feature = "llvm"))]
        _ => Err(crate::backend::without_llvm()),
    }
}

impl Place {
    /// A number that tells devices apart, in keys of compiled code.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Place::Processor => 0,
            #[cfg(feature = "llvm")]
            Place::Gpu(gpu) => 1 + u64::from(gpu.ordinal()),
            #[cfg(feature = "llvm")]
            Place::Gpus(team) => team.gpus().iter().fold(1 << 63, |all, gpu| all | 1 << (gpu.ordinal() % 63)),
        }
    }

    /// How many devices share out a batch.
    pub fn devices(&self) -> usize {
        match self {
            #[cfg(feature = "llvm")]
            Place::Gpus(team) => team.gpus().len(),
            _ => 1,
        }
    }

    /// Where what is not shared out runs.
    pub fn main(&self) -> Place {
        match self {
            #[cfg(feature = "llvm")]
            Place::Gpus(team) => Place::Gpu(team.gpus()[0].clone()),
            other => other.clone(),
        }
    }

    /// Whether programs run on this computer's processor.
    pub fn is_processor(&self) -> bool {
        matches!(self, Place::Processor)
    }
}

/// Code of a plan for the place that it was made for.
#[derive(Clone)]
pub enum Made {
    /// Machine code of this processor: the entry, and what keeps it alive.
    Native(optc_abi::plan::PlanFn, Arc<dyn std::any::Any + Send + Sync>),
    /// Code on a GPU.
    #[cfg(feature = "llvm")]
    Device(Arc<optc_device::Code>),
    /// Code on several GPUs, and the inputs of which each has a part, with the axis along which these are cut.
    #[cfg(feature = "llvm")]
    Devices(Arc<optc_device::Team>, Vec<Arc<optc_device::Code>>, Vec<(usize, usize)>),
}

/// Makes a GPU's code of a plan.
///
/// # Errors
/// What the back end or the driver cannot do.
#[cfg(feature = "llvm")]
pub(crate) fn compile(
    gpu: &Arc<optc_device::Gpu>,
    kernels: &[optc_ir::kernel::Kernel],
    plan: &optc_abi::plan::Plan,
) -> Result<Made, CompileError> {
    let code = text_for(gpu, kernels, plan)?;
    Ok(Made::Device(Arc::new(optc_device::Code::load(gpu, &code).map_err(trouble)?)))
}

#[cfg(feature = "llvm")]
fn text_for(
    gpu: &optc_device::Gpu,
    kernels: &[optc_ir::kernel::Kernel],
    plan: &optc_abi::plan::Plan,
) -> Result<optc_abi::device::DeviceCode, CompileError> {
    let properties = gpu.properties();
    let (major, minor) = properties.capability;
    let Some(name) = optc_llvm::gpu_for(major, minor) else {
        let first = optc_llvm::GPUS[0].0.trim_start_matches("sm_").parse().unwrap_or(0);
        let message = format!(
            "the GPU cuda:{}, `{}`, is too old: it has compute capability {major}.{minor}, and code needs {}.{}",
            gpu.ordinal(),
            properties.name,
            first / 10,
            first % 10
        );
        return Err(TrainError::new("R0138", message).help("leave `device` out to run on the processor").into());
    };
    let cache = crate::disk::Disk::of_process().map(|disk| disk as Arc<dyn optc_llvm::Cache>);
    let config = optc_llvm::DeviceConfig { gpu: name, shared: Some(properties.shared), cache };
    let (code, _) = optc_llvm::device_code_for(kernels, plan, &config).map_err(|e| e.to_string())?;
    Ok(code)
}

/// Makes the code of several GPUs, which are alike, of a plan that was made for each of them.
///
/// # Errors
/// As [`compile`].
#[cfg(feature = "llvm")]
pub(crate) fn compile_for_all(
    team: &Arc<optc_device::Team>,
    kernels: &[optc_ir::kernel::Kernel],
    plan: &optc_abi::plan::Plan,
    split: &[(usize, usize)],
) -> Result<Made, CompileError> {
    let code = text_for(&team.gpus()[0], kernels, plan)?;
    let loaded = team.gpus().iter().map(|gpu| Ok(Arc::new(optc_device::Code::load(gpu, &code).map_err(trouble)?)));
    Ok(Made::Devices(team.clone(), loaded.collect::<Result<_, CompileError>>()?, split.to_vec()))
}

/// A program with memory of its own.
///
/// # Errors
/// A GPU without room for it.
pub(crate) fn program(compiled: &Compiled, pool: &Arc<Pool>) -> Result<Program, CompileError> {
    match &compiled.made {
        Made::Native(entry, code) => Ok(Program::new(compiled.plan.clone(), *entry, code.clone(), pool.clone())),
        #[cfg(feature = "llvm")]
        Made::Device(code) => {
            let device = optc_device::DevicePlan::new(compiled.plan.clone(), code.clone(), pool).map_err(trouble)?;
            Ok(Program::remote(compiled.plan.clone(), Box::new(device), pool.clone()))
        }
        #[cfg(feature = "llvm")]
        Made::Devices(team, codes, split) => {
            let devices = optc_device::TeamPlan::new(&compiled.plan, codes, team, split, pool).map_err(trouble)?;
            Ok(Program::remote(compiled.plan.clone(), Box::new(devices), pool.clone()))
        }
    }
}

/// Copies of arrays on a device, which stand for them there. On the processor there are none, and the arrays are themselves.
#[derive(Default)]
pub struct Mirrors {
    #[cfg(feature = "llvm")]
    all: Vec<(usize, optc_device::Mirror)>,
    /// On other GPUs, where the same is computed.
    #[cfg(feature = "llvm")]
    _others: Vec<optc_device::Mirror>,
}

impl Mirrors {
    /// Mirrors of arrays, which stay where they are as long as these live.
    ///
    /// # Errors
    /// A GPU without room for them.
    pub fn new<'t>(place: &Place, arrays: impl IntoIterator<Item = &'t Tensor>) -> Result<Mirrors, TrainError> {
        match place {
            Place::Processor => {
                let _ = arrays;
                Ok(Mirrors::default())
            }
            #[cfg(feature = "llvm")]
            Place::Gpu(gpu) => Mirrors::on(std::slice::from_ref(gpu), arrays),
            #[cfg(feature = "llvm")]
            Place::Gpus(team) => Mirrors::on(team.gpus(), arrays),
        }
    }

    #[cfg(feature = "llvm")]
    fn on<'t>(gpus: &[Arc<optc_device::Gpu>], arrays: impl IntoIterator<Item = &'t Tensor>) -> Result<Mirrors, TrainError> {
        let (mut all, mut others) = (Vec::new(), Vec::new());
        for (k, tensor) in arrays.into_iter().enumerate().filter(|(_, t)| !t.bytes().is_empty()) {
            for (rank, gpu) in gpus.iter().enumerate() {
                // SAFETY: the tensor is alive and, as the caller has it, stays in place.
                let mirror = unsafe { gpu.mirror(tensor.as_ptr(), tensor.bytes().len()) }.map_err(trouble)?;
                if rank == 0 {
                    all.push((k, mirror));
                } else {
                    others.push(mirror);
                }
            }
        }
        Ok(Mirrors { all, _others: others })
    }

    /// Brings the arrays, the same as were given to [`Mirrors::new`], up to date with the device.
    ///
    /// # Errors
    /// A GPU that has failed.
    pub fn fetch(&self, arrays: &mut [Tensor]) -> Result<(), TrainError> {
        #[cfg(feature = "llvm")]
        for (k, mirror) in &self.all {
            let _: &mut [u8] = arrays[*k].bytes_mut();
            // SAFETY: the array is the one the mirror was made of, and borrowed here.
            unsafe { mirror.fetch() }.map_err(trouble)?;
        }
        #[cfg(not(feature = "llvm"))]
        let _ = arrays;
        Ok(())
    }
}
