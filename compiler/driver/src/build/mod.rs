//! Ahead-of-time builds: an optimizer as an object file with a C header, as libraries, as packages for other frameworks; a run as an executable.

pub mod archive;
pub mod executable;
pub mod fixed;
mod gpu;
pub mod header;
mod jax;
mod leafwise;
pub mod lower;
pub mod names;
pub mod roll;
pub mod rule;
pub mod source;
mod stablehlo;
mod stages;
mod torch;

use crate::backend::{Backend, Llvm};
use crate::messages::Messages;
use crate::session::Failed;
use crate::synthetic::Stored;
use optc_train::TrainError;
use rule::Built;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a build writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Emit {
    /// An object file.
    Obj,
    /// A C header.
    Header,
    /// An archive of the object file.
    Staticlib,
    /// A shared library (needs the system's C compiler as a linker).
    Cdylib,
    /// A Python module with a `torch.optim.Optimizer`, the shared library that it calls, and in builds with the feature `llvm` the kernels that it launches on NVIDIA GPUs (`--gpu` and newer).
    Torch,
    /// A Python module with an Optax transformation, and the shared library that it calls.
    Jax,
    /// The update as StableHLO text, for a leaf of a few thousand elements.
    Stablehlo,
    /// Cranelift's intermediate code, as text.
    Clif,
    /// Machine code, as text.
    Asm,
    /// LLVM's intermediate code of the kernels after its passes, for this machine, as text (builds with the feature `llvm`).
    Llvm,
    /// The same as LLVM bitcode.
    Bc,
    /// The kernels for an NVIDIA GPU (`--gpu`), as text (builds with the feature `llvm`).
    Ptx,
    /// The same as a binary (needs NVIDIA's assembler, `ptxas`).
    Cubin,
}

impl Emit {
    /// Its name on the command line.
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or_else(String::new, |v| v.get_name().to_string())
    }
}

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The spec that defines the optimizer, if it is not the library's.
    pub file: Option<&'a Path>,
    /// The optimizer: a name, or an expression such as `adamw(weight_decay = 0.1)`.
    pub optimizer: &'a str,
    /// Prefix of all names; by default the optimizer's.
    pub name: Option<&'a str>,
    /// Element types.
    pub stored: &'a [Stored],
    /// Shapes of all leaves, in order; leaves of any shape if there are none.
    pub shapes: &'a [Vec<usize>],
    /// A target triple; this machine's if absent.
    pub target: Option<&'a str>,
    /// The GPU of PTX.
    pub gpu: &'a str,
    /// Who makes machine code as text.
    pub backend: Backend,
    /// What is written.
    pub emit: &'a [Emit],
    /// Where to.
    pub folder: &'a Path,
}

/// Builds, and tells which files were written.
///
/// # Errors
/// A mistake in the spec; a rule that is not of the form that leaves of any length need (`R0130`); a target there is no code for; trouble with files. Why has been printed.
pub fn build(request: &Request<'_>, messages: &Messages) -> Result<Vec<PathBuf>, Failed> {
    if !request.shapes.is_empty() {
        return fixed::build(request, messages);
    }
    let built = rule::build(request, messages)?;
    let write = |name: String, bytes: &[u8]| write_file(request, &name, bytes, messages);
    let mut object = None;
    let mut code = || -> Result<Vec<u8>, Failed> {
        if object.is_none() {
            let made = optc_cranelift::object::object(&built.library, request.target);
            object = Some(
                made.map_err(|e| messages.error("R0131", &e.to_string(), Some("`--target aarch64-unknown-linux-gnu`")))
                    .map_err(|()| Failed)?,
            );
        }
        Ok(object.clone().unwrap_or_default())
    };
    let name = &built.library.name;
    let mut files = Vec::new();
    for emit in request.emit {
        let file = match emit {
            Emit::Obj => write(format!("{name}.o"), &code()?)?,
            Emit::Header => write(format!("{name}.h"), header::header(&built).as_bytes())?,
            Emit::Staticlib => write(format!("lib{name}.a"), &archive::archive(&format!("{name}.o"), &code()?, &built.symbols()))?,
            Emit::Torch | Emit::Jax => {
                let framework = if *emit == Emit::Torch { "torch" } else { "optax" };
                let names = names::names(&built, &built.doc, framework);
                let summary = built.summary();
                let kernels = if *emit == Emit::Torch { gpu::files(&built, request.gpu) } else { Err(String::new()) };
                let module = match emit {
                    Emit::Torch => torch::module(&built, &names, &summary, kernels.as_ref().map_err(String::as_str)),
                    _ => jax::module(&built, &names, &summary),
                };
                let unknown =
                    |what: String| messages.error("R0130", &format!("`{}` has no form in Python: {what}", request.optimizer), None);
                let module = module.map_err(unknown).map_err(|()| Failed)?;
                if !request.emit.contains(&Emit::Cdylib) && !files.iter().any(|f: &PathBuf| f.extension().is_some_and(|e| e == "so")) {
                    files.push(shared(request, name, &code()?, messages)?);
                }
                if let Ok(kernels) = kernels {
                    for (name, text) in [kernels.ptx, kernels.module] {
                        files.push(write(name, text.as_bytes())?);
                    }
                }
                write(format!("{name}_{framework}.py"), module.as_bytes())?
            }
            Emit::Cdylib => shared(request, name, &code()?, messages)?,
            Emit::Stablehlo => {
                let text = stablehlo::module(&built);
                let unknown =
                    |what: String| messages.error("R0130", &format!("`{}` has no form in StableHLO: {what}", request.optimizer), None);
                write(format!("{name}.mlir"), text.map_err(unknown).map_err(|()| Failed)?.as_bytes())?
            }
            Emit::Llvm | Emit::Bc => {
                let (form, ending) = if *emit == Emit::Llvm { (Llvm::Text, "ll") } else { (Llvm::Bitcode, "bc") };
                let made = if request.target.is_some_and(|t| !t.starts_with(std::env::consts::ARCH)) {
                    Err(TrainError::new("R0137", "LLVM makes code for this computer's processor")
                        .help("`--emit obj` has code for every target"))
                } else {
                    let parts: Vec<_> = built.parts.iter().map(|p| (&*p.name, &*p.kernels, &p.plan)).collect();
                    crate::backend::llvm(&parts, form)
                };
                let made = made.map_err(|why| messages.trouble(&why)).map_err(|()| Failed)?;
                write(format!("{name}.{ending}"), &made)?
            }
            Emit::Ptx | Emit::Cubin => {
                let parts: Vec<_> = built.parts.iter().map(|p| (&*p.name, &*p.kernels, &p.plan)).collect();
                let made = crate::backend::llvm(&parts, Llvm::Ptx { gpu: request.gpu });
                let made = made.and_then(|ptx| if *emit == Emit::Ptx { Ok(ptx) } else { assembled(&ptx, request.gpu) });
                let made = made.map_err(|why| messages.trouble(&why)).map_err(|()| Failed)?;
                write(format!("{name}.{}", if *emit == Emit::Ptx { "ptx" } else { "cubin" }), &made)?
            }
            Emit::Asm if request.backend == Backend::Llvm => {
                let parts: Vec<_> = built.parts.iter().map(|p| (&*p.name, &*p.kernels, &p.plan)).collect();
                let made = crate::backend::llvm(&parts, Llvm::Assembly).map_err(|why| messages.trouble(&why)).map_err(|()| Failed)?;
                write(format!("{name}.asm"), &made)?
            }
            Emit::Clif => write(format!("{name}.clif"), text(&built, optc_cranelift::clif).as_bytes())?,
            Emit::Asm => write(format!("{name}.asm"), text(&built, optc_cranelift::asm).as_bytes())?,
        };
        files.push(file);
    }
    Ok(files)
}

/// A file of this name with these bytes in the folder that was asked for.
fn write_file(request: &Request<'_>, name: &str, bytes: &[u8], messages: &Messages) -> Result<PathBuf, Failed> {
    let path = request.folder.join(name);
    let written = std::fs::create_dir_all(request.folder).and_then(|()| std::fs::write(&path, bytes));
    written.map_err(|e| messages.error("R0102", &format!("cannot write {}: {e}", path.display()), None)).map_err(|()| Failed)?;
    Ok(path)
}

/// The shared library of an object file.
fn shared(request: &Request<'_>, name: &str, object: &[u8], messages: &Messages) -> Result<PathBuf, Failed> {
    let object = write_file(request, &format!("{name}.o"), object, messages)?;
    let library = request.folder.join(format!("lib{name}.so"));
    let linked = link(request, &object, &library);
    if !request.emit.contains(&Emit::Obj) {
        // A file that is gone already does no harm.
        let _ = std::fs::remove_file(&object);
    }
    linked.map_err(|why| messages.error("R0132", &why, Some("`--emit obj,header` needs no linker"))).map_err(|()| Failed)?;
    Ok(library)
}

/// Links a shared library with the system's C compiler, or the one that the environment variable `CC` names.
fn link(request: &Request<'_>, object: &Path, library: &Path) -> Result<(), String> {
    let cc = std::env::var("CC").ok().filter(|cc| !cc.trim().is_empty()).unwrap_or_else(|| match request.target {
        Some(triple) if triple.starts_with("aarch64") && !cfg!(target_arch = "aarch64") => "aarch64-linux-gnu-gcc".to_string(),
        _ => "cc".to_string(),
    });
    let mut words = cc.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("cc"));
    command.args(words).args(["-shared", "-o"]).arg(library).arg(object).arg("-lm");
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("`{cc}` could not link: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(e) => Err(format!("cannot run the linker `{cc}`: {e}")),
    }
}

/// What NVIDIA's assembler makes of PTX: the one that the environment variable `OPTC_PTXAS` names, or `ptxas` of the path.
fn assembled(ptx: &[u8], gpu: &str) -> Result<Vec<u8>, TrainError> {
    let trouble = |what: String| {
        TrainError::new("R0132", what).help("`pip install nvidia-cuda-nvcc`, then OPTC_PTXAS=.../bin/ptxas; `--emit ptx` needs none")
    };
    let program = std::env::var("OPTC_PTXAS").unwrap_or_else(|_| "ptxas".to_string());
    let folder = std::env::temp_dir().join(format!("optc-ptx-{}", std::process::id()));
    let (input, output) = (folder.join("kernels.ptx"), folder.join("kernels.cubin"));
    let made = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&input, ptx))
        .and_then(|()| Command::new(&program).args(["--gpu-name", gpu, "--output-file"]).arg(&output).arg(&input).output());
    let result = match made {
        Ok(done) if done.status.success() => std::fs::read(&output).map_err(|e| trouble(format!("cannot read what `{program}` made: {e}"))),
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            // An assembler knows the GPUs of its time: that of CUDA 13 none before sm_75, older ones none of today's.
            if said.contains("is not defined for option 'gpu-name'") {
                Err(TrainError::new("R0132", format!("`{program}` does not know the GPU `{gpu}`: {}", said.trim()))
                    .help("take one of the GPU's time, by OPTC_PTXAS, or `--emit ptx`, which the driver compiles; CUDA 13 has dropped GPUs before sm_75"))
            } else {
                Err(trouble(format!("`{program}` refuses the code: {}", said.trim())))
            }
        }
        Err(e) => Err(trouble(format!("cannot run NVIDIA's assembler `{program}`: {e}"))),
    };
    let _ = std::fs::remove_dir_all(&folder);
    result
}

/// The code of each function of each element type, as text.
fn text(built: &Built, print: impl Fn(&[optc_ir::kernel::Kernel], &optc_abi::plan::Plan) -> String) -> String {
    let mut out = String::new();
    for part in &built.parts {
        out.push_str(&format!("; ==== {}\n{}\n", part.name, print(&part.kernels, &part.plan)));
    }
    out
}
