//! Plans and what is done with them.

use optc_abi::Tensor;
use optc_abi::plan::Plan;
use optc_exec::{Pool, Program};
use optc_ir::kernel::Kernel;
use optc_llvm::emulator;
use std::ops::Range;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The plan's inputs after the host has run it.
pub fn on_host(kernels: &[Kernel], plan: &Plan, tensors: &[Tensor]) -> Vec<Tensor> {
    let plan = Arc::new(plan.clone());
    let code = optc_cranelift::compile(kernels, &plan, &optc_cranelift::Config::default()).expect("compiles");
    let mut all = tensors.to_vec();
    Program::new(plan, code.entry, Arc::new(code), Pool::new(1)).run(&mut all).expect("runs");
    all
}

/// Faults are collected by the process: one test at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    emulator::collect(true);
    emulator::take_faults();
    guard
}

/// The memory of arrays.
pub fn memory(tensors: &[Tensor]) -> Vec<Range<usize>> {
    tensors.iter().map(|t| t.as_ptr() as usize..t.as_ptr() as usize + t.bytes().len()).collect()
}

/// Nothing was wrong since the last call.
#[track_caller]
pub fn no_faults(what: &str) {
    let faults = emulator::take_faults();
    assert!(faults.is_empty(), "{what}: {}", faults[0]);
}

/// An entry as the assembler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    pub name: String,
    pub registers: u32,
    pub spilled: u32,
    pub shared: u32,
}

/// Whether figures of the assembler are those of the snapshots, which one version has made.
pub fn as_recorded() -> bool {
    let program = std::env::var("OPTC_PTXAS").unwrap_or_else(|_| "ptxas".to_string());
    Command::new(program).arg("--version").output().is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("release 13.5"))
}

/// What `ptxas -v` says of each entry of a module; nothing where there is none.
pub fn assembled(text: &str, gpu: &str) -> Option<Vec<Assembled>> {
    let program = std::env::var("OPTC_PTXAS").unwrap_or_else(|_| "ptxas".to_string());
    let file = std::env::temp_dir().join(format!("optc-{}-{:?}.ptx", std::process::id(), std::thread::current().id()));
    std::fs::write(&file, text).expect("written");
    let done = Command::new(&program).args(["-v", "--gpu-name", gpu, "--output-file", "/dev/null"]).arg(&file).output();
    let Ok(done) = done else {
        eprintln!("skipped: no {program} (pip install nvidia-cuda-nvcc, then OPTC_PTXAS=.../ptxas)");
        return None;
    };
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{}: {said}", file.display());
    std::fs::remove_file(&file).expect("it was there");
    let before = |line: &str, word: &str| line.find(word).and_then(|at| line[..at].split_whitespace().last()?.parse::<u32>().ok());
    let mut all: Vec<Assembled> = Vec::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default().to_string();
            all.push(Assembled { name, registers: 0, spilled: 0, shared: 0 });
        } else if let Some(last) = all.last_mut() {
            last.registers = before(line, " registers").unwrap_or(last.registers);
            last.shared = before(line, " bytes smem").unwrap_or(last.shared);
            last.spilled = before(line, " bytes spill stores").unwrap_or(last.spilled);
        }
    }
    Some(all)
}
