//! `optc build`: an optimizer or a run for use elsewhere.

use super::say;
use crate::backend::{self, Backend};
use crate::build::{self, Emit, executable};
use crate::cli::{Shape, StandaloneOptions};
use crate::messages::Messages;
use crate::session::Failed;
use crate::synthetic::Stored;
use optc_train::TrainError;
use std::path::Path;

/// What the command line asks for.
pub struct Options<'a> {
    /// A spec.
    pub file: Option<&'a Path>,
    /// The optimizer.
    pub optimizer: &'a str,
    /// What is written.
    pub emit: &'a [Emit],
    /// Prefix of names.
    pub name: Option<&'a str>,
    /// Element types.
    pub dtypes: &'a [Stored],
    /// Shapes of all leaves.
    pub shapes: &'a [Shape],
    /// Target triple.
    pub target: Option<&'a str>,
    /// The GPU of PTX.
    pub gpu: &'a str,
    /// Who makes machine code that is shown.
    pub backend: Backend,
    /// Where to.
    pub output: &'a Path,
}

/// Options that are for some builds and would do nothing in others.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What is written.
    pub emit: &'a [Emit],
    /// Target triple.
    pub target: Option<&'a str>,
    /// The GPU of PTX.
    pub gpu: Option<&'a str>,
    /// Who makes machine code.
    pub backend: Option<Backend>,
    /// Where runs are.
    pub device: Option<&'a str>,
}

impl Asked<'_> {
    /// Whether all of them do something for an optimizer.
    ///
    /// # Errors
    /// One does not (`R0137`).
    pub fn check(&self) -> Result<(), TrainError> {
        let idle = |what: String, help: &str| Err(TrainError::new("R0137", what).help(help.to_string()));
        let any = |of: &[Emit]| self.emit.iter().any(|e| of.contains(e));
        if self.device.is_some() {
            return idle(
                "`--device` says where a run is, and an optimizer is none".into(),
                "it is for `optc build --train` and `--experiment`; `--emit torch` has kernels for GPUs",
            );
        }
        if self.gpu.is_some() && !any(&[Emit::Ptx, Emit::Cubin, Emit::Torch]) {
            return idle("`--gpu` names the GPU that PTX is for, and none is written".into(), "add `--emit ptx`, `cubin` or `torch`");
        }
        if let Some(gpu) = self.gpu {
            backend::check_gpu(gpu)?;
        }
        match self.backend {
            Some(b @ (Backend::Simt | Backend::Interpreter)) => {
                return idle(
                    format!("the back end `{}` makes no code that could be written", b.name()),
                    "`--backend cranelift` and `--backend llvm` do",
                );
            }
            Some(Backend::Llvm) => {
                let others = [Emit::Asm, Emit::Llvm, Emit::Bc, Emit::Ptx, Emit::Cubin];
                if let Some(emit) = self.emit.iter().find(|e| !others.contains(e)) {
                    return idle(
                        format!("`--emit {}` is made by Cranelift", emit.name()),
                        "leave `--backend` out; `--emit llvm,bc,asm` is what LLVM makes",
                    );
                }
            }
            _ => {}
        }
        if let Some(target) = self.target {
            if !any(&[Emit::Obj, Emit::Staticlib, Emit::Cdylib, Emit::Torch, Emit::Jax, Emit::Llvm, Emit::Bc]) {
                return idle("`--target` names the machine that an object file is for, and none is written".into(), "add `--emit obj`");
            }
            let elsewhere = !target.starts_with(std::env::consts::ARCH);
            if let Some(emit) = self.emit.iter().find(|e| elsewhere && matches!(e, Emit::Clif | Emit::Asm)) {
                return idle(
                    format!("`--emit {}` shows code for this computer's processor", emit.name()),
                    "`--emit obj` has code for every target; `objdump -d` shows it",
                );
            }
        }
        Ok(())
    }

    /// Whether all of them do something for an executable.
    ///
    /// # Errors
    /// As [`Asked::check`].
    pub fn check_executable(&self) -> Result<(), TrainError> {
        match self.gpu {
            Some(_) => {
                Err(TrainError::new("R0137", "`--gpu` names the GPU that PTX is for; an executable makes code for the GPU that it finds")
                    .help("`--device cuda` has it run there"))
            }
            None => Ok(()),
        }
    }
}

/// Builds, and says what was written.
///
/// # Errors
/// As [`build::build`].
pub fn build(options: &Options<'_>, messages: &Messages) -> Result<(), Failed> {
    let mut stored = options.dtypes.to_vec();
    stored.dedup();
    let shapes: Vec<Vec<usize>> = options.shapes.iter().map(|s| s.0.clone()).collect();
    let request = build::Request {
        file: options.file,
        optimizer: options.optimizer,
        name: options.name,
        stored: &stored,
        shapes: &shapes,
        target: options.target,
        gpu: options.gpu,
        backend: options.backend,
        emit: options.emit,
        folder: options.output,
    };
    for path in build::build(&request, messages)? {
        say(&path.display().to_string());
    }
    Ok(())
}

/// Makes a stand-alone executable, and says what it holds.
///
/// # Errors
/// As [`executable::build`].
pub fn executable(
    file: &Path,
    options: &StandaloneOptions,
    places: executable::Places<'_>,
    output: Option<&Path>,
    messages: &Messages,
) -> Result<(), Failed> {
    let made = executable::build(file, options, places, output, messages)?;
    say(&made.path.display().to_string());
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    say(&format!(
        "  {} bytes: the program {}, {} and {} in {}",
        made.size,
        made.program,
        count(made.specs, "spec"),
        count(made.data, "data file"),
        made.size - made.program
    ));
    Ok(())
}
