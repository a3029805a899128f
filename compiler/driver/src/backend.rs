//! Who makes machine code of kernels.

use clap::ValueEnum;
use optc_abi::plan::{Plan, PlanFn};
use optc_ir::kernel::Kernel;
use optc_train::TrainError;
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// A back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum Backend {
    /// Fast to compile, needs nothing.
    #[default]
    Cranelift,
    /// Slower to compile, as wide as the processor; in builds with the feature `llvm`.
    Llvm,
    /// The GPU's kernels on an emulator of its threads, slow: to check them where there is no GPU. In builds with the feature `llvm`.
    Simt,
    /// No machine code of kernels: their exact meaning, element by element, against which the others are compared. Hundreds of times slower.
    Interpreter,
}

impl Backend {
    /// All that this build has.
    pub fn present() -> &'static [Backend] {
        if cfg!(feature = "llvm") {
            &[Backend::Cranelift, Backend::Llvm, Backend::Simt, Backend::Interpreter]
        } else {
            &[Backend::Cranelift, Backend::Interpreter]
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Cranelift => "cranelift",
            Backend::Llvm => "llvm",
            Backend::Simt => "simt",
            Backend::Interpreter => "interpreter",
        }
    }
}

static CHOSEN: OnceLock<Backend> = OnceLock::new();

/// LLVM's name of the processor that its code is for.
static CPU: OnceLock<Option<String>> = OnceLock::new();

/// Chooses the processor that LLVM's code is made for, once: what the command line says, else what `OPTC_CPU` says, else the one under the program.
///
/// # Errors
/// LLVM knows none of this name.
pub fn choose_cpu(asked: Option<&str>) -> Result<(), TrainError> {
    let variable = std::env::var_os("OPTC_CPU").filter(|v| !v.is_empty()).map(|name| name.to_string_lossy().into_owned());
    let named = asked.map(|name| ("--cpu", name.to_string())).or(variable.map(|name| ("OPTC_CPU", name)));
    #[cfg(feature = "llvm")]
    if let Some((whose, name)) = &named {
        optc_llvm::check_cpu(name).map_err(|e| {
            TrainError::new("R0137", format!("{whose} is `{name}`: {e}"))
                .help("names are those of `llc -mcpu=help`, as x86-64-v3, znver4, native")
        })?;
    }
    CPU.get_or_init(|| named.map(|(_, name)| name));
    Ok(())
}

/// Whether code that LLVM makes for the chosen processor runs on this one.
///
/// # Errors
/// It does not.
pub fn check_cpu_here() -> Result<(), TrainError> {
    #[cfg(feature = "llvm")]
    {
        let help = "`--cpu native`, or none, makes code for the processor at hand; `optc build --emit llvm,bc` makes it for others";
        optc_llvm::check_cpu_here(cpu().as_deref()).map_err(|e| TrainError::new("R0137", e.to_string()).help(help))?;
    }
    Ok(())
}

/// What was chosen, if anything.
#[cfg(feature = "llvm")]
fn cpu() -> Option<String> {
    CPU.get().cloned().flatten()
}

/// What `OPTC_BACKEND` says.
///
/// # Errors
/// If it is no back end's name, or one that this build has not.
fn from_environment() -> Result<Option<Backend>, TrainError> {
    let Some(name) = std::env::var_os("OPTC_BACKEND") else { return Ok(None) };
    let name = name.to_string_lossy();
    let backend = Backend::from_str(&name, true).map_err(|_| {
        TrainError::new("R0137", format!("OPTC_BACKEND is `{name}`")).help("it may be cranelift, llvm, simt or interpreter")
    })?;
    check(backend).map(Some)
}

fn check(backend: Backend) -> Result<Backend, TrainError> {
    if Backend::present().contains(&backend) {
        return Ok(backend);
    }
    Err(TrainError {
        help: without_llvm().help,
        ..TrainError::new("R0136", format!("this optc was built without the back end `{}`", backend.name()))
    })
}

/// What a build without LLVM says.
pub(crate) fn without_llvm() -> TrainError {
    TrainError::new("R0136", "this optc was built without LLVM")
        .help("build it where LLVM 22 is: `cargo build --release --features llvm` (docs/backends.md)")
}

/// Chooses the back end of this process, once: what the command line says, else what `OPTC_BACKEND` says, else Cranelift.
///
/// # Errors
/// If the build has not got it, or `OPTC_BACKEND` names none, in words.
pub fn choose(asked: Option<Backend>) -> Result<Backend, TrainError> {
    choose_or(asked, None)
}

/// The same for an executable that was built for a back end, which is used if nothing else is said.
///
/// # Errors
/// As [`choose`].
pub fn choose_or(asked: Option<Backend>, built: Option<Backend>) -> Result<Backend, TrainError> {
    let backend = match asked {
        Some(backend) => check(backend)?,
        None => match from_environment()? {
            Some(backend) => backend,
            None => built.map_or(Ok(Backend::default()), check)?,
        },
    };
    Ok(*CHOSEN.get_or_init(|| backend))
}

/// The back end of this process.
pub fn chosen() -> Backend {
    *CHOSEN.get_or_init(|| from_environment().ok().flatten().unwrap_or_default())
}

/// Machine code of a plan, and what keeps it alive.
pub struct Code {
    /// The whole plan as one function.
    pub entry: PlanFn,
    /// Whatever must live as long.
    pub keep: Arc<dyn Any + Send + Sync>,
}

/// Compiles kernels and the plan that calls them.
///
/// # Errors
/// What the back end cannot do, in words.
pub fn compile(backend: Backend, kernels: &[Kernel], plan: &Arc<Plan>, config: &optc_cranelift::Config) -> Result<Code, String> {
    match backend {
        Backend::Cranelift => {
            let code = optc_cranelift::compile(kernels, plan, config).map_err(|e| e.to_string())?;
            Ok(Code { entry: code.entry, keep: Arc::new(code) })
        }
        #[cfg(feature = "llvm")]
        Backend::Llvm | Backend::Simt => {
            let emulate = backend == Backend::Simt;
            let cache = crate::disk::Disk::of_process().map(|disk| disk as Arc<dyn optc_llvm::Cache>);
            let llvm = optc_llvm::Config { compile_threads: config.compile_threads, emulate, cache, cpu: cpu().filter(|_| !emulate) };
            let made = optc_llvm::compile(kernels, plan, &llvm).map_err(|e| e.to_string())?;
            let code = optc_cranelift::compile_around(&made.kernels, plan, config).map_err(|e| e.to_string())?;
            Ok(Code { entry: code.entry, keep: Arc::new((code, made)) })
        }
        #[cfg(not(feature = "llvm"))]
        Backend::Llvm | Backend::Simt => Err(without_llvm().to_string()),
        Backend::Interpreter => crate::interpreter::compile(kernels, plan, config),
    }
}

/// Machine code of a plan in which kernels may be replaced, and what else must live as long. Cranelift, or with LLVM its code of the kernels; the other back ends serve to check these.
///
/// # Errors
/// What the back end cannot do, in words.
pub fn compile_open(
    backend: Backend,
    kernels: &[Kernel],
    plan: &Arc<Plan>,
    config: &optc_cranelift::Config,
) -> Result<(Arc<optc_cranelift::Compiled>, Option<Arc<dyn Any + Send + Sync>>), String> {
    #[cfg(feature = "llvm")]
    if backend == Backend::Llvm {
        let cache = crate::disk::Disk::of_process().map(|disk| disk as Arc<dyn optc_llvm::Cache>);
        let llvm = optc_llvm::Config { compile_threads: config.compile_threads, cache, cpu: cpu(), ..Default::default() };
        let made = optc_llvm::compile(kernels, plan, &llvm).map_err(|e| e.to_string())?;
        let code = optc_cranelift::compile_around(&made.kernels, plan, config).map_err(|e| e.to_string())?;
        return Ok((Arc::new(code), Some(Arc::new(made))));
    }
    let _ = backend;
    let code = optc_cranelift::compile(kernels, plan, config).map_err(|e| e.to_string())?;
    Ok((Arc::new(code), None))
}

/// Machine code of kernels as text, and with Cranelift that of the plan's entry.
///
/// # Errors
/// A back end that makes none.
pub fn assembly(backend: Backend, kernels: &[Kernel], plan: &Plan) -> Result<String, TrainError> {
    match backend {
        Backend::Cranelift => Ok(optc_cranelift::asm(kernels, plan)),
        Backend::Llvm => llvm(&[("kernel", kernels, plan)], Llvm::Assembly).map(|text| String::from_utf8_lossy(&text).into_owned()),
        _ => Err(TrainError::new("R0137", format!("the back end `{}` makes no machine code that could be shown", backend.name()))
            .help("`--backend cranelift` and `--backend llvm` do")),
    }
}

/// Whether there is code for a GPU of this name. A build without LLVM, which has none for any, says so where it is asked to write some.
///
/// # Errors
/// There is none.
pub fn check_gpu(name: &str) -> Result<(), TrainError> {
    #[cfg(feature = "llvm")]
    optc_llvm::check_gpu(name).map_err(|e| TrainError::new("R0137", e.to_string()))?;
    let _ = name;
    Ok(())
}

/// A form of kernels that LLVM writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Llvm<'a> {
    /// Its intermediate form after the passes, as text.
    Text,
    /// The same as bitcode.
    Bitcode,
    /// Machine code as text.
    Assembly,
    /// Code for an NVIDIA GPU as text.
    Ptx {
        /// Which, by LLVM's name (`sm_80`).
        gpu: &'a str,
    },
}

/// Kernels of several plans, each with a name, as one module of LLVM: kernel `n` of `name` is the function `name_n`.
///
/// # Errors
/// A build without LLVM; a machine that it has no back end for.
pub fn llvm(parts: &[(&str, &[Kernel], &Plan)], form: Llvm<'_>) -> Result<Vec<u8>, TrainError> {
    #[cfg(feature = "llvm")]
    {
        let trouble = |e: optc_llvm::Error| TrainError::new("R0137", e.to_string());
        let form = match form {
            Llvm::Text => optc_llvm::Form::Ir,
            Llvm::Bitcode => optc_llvm::Form::Bitcode,
            Llvm::Assembly => optc_llvm::Form::Asm,
            Llvm::Ptx { gpu } => return optc_llvm::ptx(parts, gpu).map(|p| p.text.into_bytes()).map_err(trouble),
        };
        optc_llvm::module(parts, &optc_llvm::Config { cpu: cpu(), ..Default::default() }, form).map_err(trouble)
    }
    #[cfg(not(feature = "llvm"))]
    {
        let _ = (parts, form);
        Err(without_llvm())
    }
}

/// All that an NVIDIA GPU runs for a plan besides copies, as text.
///
/// # Errors
/// As [`llvm`].
pub fn device_text(kernels: &[Kernel], plan: &Plan, gpu: &str) -> Result<String, TrainError> {
    #[cfg(feature = "llvm")]
    {
        let code = optc_llvm::device_code(kernels, plan, gpu).map_err(|e| TrainError::new("R0137", e.to_string()))?;
        Ok(code.text)
    }
    #[cfg(not(feature = "llvm"))]
    {
        let _ = (kernels, plan, gpu);
        Err(without_llvm())
    }
}
