//! Who makes machine code of kernels.

use clap::ValueEnum;
use optc_abi::plan::{Plan, PlanFn};
use optc_ir::kernel::Kernel;
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
}

impl Backend {
    /// All that this build has.
    pub fn present() -> &'static [Backend] {
        if cfg!(feature = "llvm") { &[Backend::Cranelift, Backend::Llvm, Backend::Simt] } else { &[Backend::Cranelift] }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Cranelift => "cranelift",
            Backend::Llvm => "llvm",
            Backend::Simt => "simt",
        }
    }
}

static CHOSEN: OnceLock<Backend> = OnceLock::new();

/// What `OPTC_BACKEND` says.
///
/// # Errors
/// If it is no back end's name, or one that this build has not.
fn from_environment() -> Result<Option<Backend>, String> {
    let Some(name) = std::env::var_os("OPTC_BACKEND") else { return Ok(None) };
    let name = name.to_string_lossy();
    let backend = Backend::from_str(&name, true).map_err(|_| format!("OPTC_BACKEND is `{name}`; it may be cranelift, llvm or simt"))?;
    check(backend).map(Some)
}

fn check(backend: Backend) -> Result<Backend, String> {
    if Backend::present().contains(&backend) {
        return Ok(backend);
    }
    Err(format!(
        "this optc was built without the back end `{}`: build it with `cargo build --release --features llvm`, which needs LLVM 22 (docs/backends.md)",
        backend.name()
    ))
}

/// Chooses the back end of this process, once: what the command line says, else what `OPTC_BACKEND` says, else Cranelift.
///
/// # Errors
/// If the build has not got it, or `OPTC_BACKEND` names none, in words.
pub fn choose(asked: Option<Backend>) -> Result<Backend, String> {
    let backend = match asked {
        Some(backend) => check(backend)?,
        None => from_environment()?.unwrap_or_default(),
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
            let llvm = optc_llvm::Config { compile_threads: config.compile_threads, emulate, ..Default::default() };
            let made = optc_llvm::compile(kernels, plan, &llvm).map_err(|e| e.to_string())?;
            let code = optc_cranelift::compile_around(&made.kernels, plan, config).map_err(|e| e.to_string())?;
            Ok(Code { entry: code.entry, keep: Arc::new((code, made)) })
        }
        #[cfg(not(feature = "llvm"))]
        Backend::Llvm | Backend::Simt => Err(check(backend).err().unwrap_or_default()),
    }
}
