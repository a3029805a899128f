//! Kernels of optimizers for torch, launched by the Python module that goes with them, on a virtual GPU, beside the library for the processor.
#![cfg(all(feature = "llvm", target_os = "linux"))]

use optc_tests::virtual_gpu::{VirtualGpu, words};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const OPTC: &str = env!("CARGO_BIN_EXE_optc-under-test");
/// The tests themselves: plain Python, which has neither torch nor NumPy.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu_export/kernels.py");

/// A build of a rule, in a folder.
struct Built(tempfile::TempDir);

impl Built {
    fn new(rule: &str, kinds: &str, spec: Option<&str>) -> Built {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(OPTC);
        command.current_dir(folder.path()).arg("build");
        if let Some(text) = spec {
            std::fs::write(folder.path().join("rule.opt"), text).unwrap();
            command.arg("rule.opt");
        }
        let output = command.args(["--optimizer", rule, "--name", "rule", "--dtype", kinds, "--emit", "torch"]).output().unwrap();
        assert!(output.status.success(), "{rule}: {}", words(&output));
        Built(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    /// What the script says on a virtual GPU; nothing where there is no Python.
    fn run(&self, gpu: &VirtualGpu, arguments: &[&str], settings: &[(&str, &str)]) -> Option<Output> {
        let mut command = gpu.command("python3");
        command.arg("-B").arg(SCRIPT).arg(self.0.path()).arg("rule").args(arguments).env("OPTC_VGPU_CHECK", "races");
        command.envs(settings.iter().copied());
        match command.output() {
            Ok(output) => Some(output),
            Err(error) => {
                eprintln!("skipped: no python3: {error}");
                None
            }
        }
    }
}

/// Steps of a rule on the GPU and on the processor; results differ by no more than `tolerance`.
fn agrees(rule: &str, kinds: &str, tolerance: &str, spec: Option<&str>) {
    let (built, gpu) = (Built::new(rule, kinds, spec), VirtualGpu::default());
    let Some(output) = built.run(&gpu, &[tolerance], &[]) else { return };
    assert!(output.status.success(), "{rule}: {}", words(&output));
}

#[test]
fn adamw_has_the_bits_of_the_library() {
    agrees("adamw(weight_decay = 0.1)", "f32", "0", None);
}

#[test]
fn adamw_in_other_types_has_the_bits_of_the_library() {
    agrees("adamw()", "bf16,f64", "0", None);
}

#[test]
fn lion_and_momentum_have_the_bits_of_the_library() {
    agrees("lion()", "f32", "0", None);
    agrees("sgd(momentum = 0.9, nesterov = true)", "f32", "0", None);
}

#[test]
fn states_of_two_bytes_have_the_bits_of_the_library() {
    let spec = "import std.optim\n## Momentum in half the memory.\noptimizer short(lr: float >= 0 = 1e-2, beta: float in [0, 1) = 0.9) {\n  state m: bf16[...] = 0\n  m <- beta * m + (1 - beta) * g\n  w <- w - lr * m\n}\n";
    agrees("short()", "f32,bf16", "0", Some(spec));
}

/// A state of one number for each leaf; a condition on the number of the step.
#[test]
fn numbers_of_leaves_and_conditions() {
    agrees("nadam()", "f32", "1e-6", None);
    agrees("lookahead(adamw(), k = 2)", "f32", "1e-6", None);
}

#[test]
fn norms_of_leaves() {
    agrees("lamb()", "f32", "1e-5", None);
    agrees("stable_adamw()", "bf16", "1e-2", None);
}

#[test]
fn norms_of_all_leaves() {
    agrees("clip_by_global_norm(1.0) |> adamw()", "f32", "1e-5", None);
    agrees("prodigy()", "f32", "1e-5", None);
}

/// A number of the virtual GPU's log, by its place.
fn count(log: &Value, place: &[&str]) -> u64 {
    place.iter().fold(log, |v, key| &v[*key]).as_u64().unwrap_or(0)
}

/// Launches of a step and waits do not depend on how many leaves there are.
fn launches(rule: &str, entries: &[&str]) {
    let built = Built::new(rule, "f32", None);
    let mut waits = Vec::new();
    for turns in [2u64, 7] {
        let gpu = VirtualGpu::default();
        let Some(output) = built.run(&gpu, &["1e-5", "leaves", "100", &turns.to_string()], &[("OPTC_VGPU_CHECK", "off")]) else { return };
        assert!(output.status.success(), "{rule}: {}", words(&output));
        let log: Value = serde_json::from_str(&gpu.counts()).unwrap();
        for entry in entries {
            assert_eq!(count(&log, &["launches", entry]), turns, "{entry}: {log}");
        }
        // Besides, the table is written once.
        let table = count(&log, &["launches", "rule_words"]);
        assert!(table < 6, "{log}");
        assert_eq!(count(&log, &["kernel_launches"]), entries.len() as u64 * turns + table, "{log}");
        waits.push(count(&log, &["synchronizations"]));
    }
    assert_eq!(waits[0], waits[1]);
}

#[test]
fn a_step_of_a_hundred_leaves_is_two_launches_and_waits_for_nothing() {
    launches("adamw()", &["rule_f32_0_0", "rule_f32_0_1"]);
}

#[test]
fn a_step_with_a_norm_of_a_hundred_leaves_is_six_launches() {
    let entries = ["rule_f32_0_0", "rule_f32_0_1", "rule_f32_0_2", "rule_f32_0_3", "rule_f32_1_0", "rule_f32_1_1"];
    launches("clip_by_global_norm(1.0) |> adamw()", &entries);
}

#[test]
fn a_gpu_that_cannot_run_the_kernels_says_why() {
    let built = Built::new("lion()", "f32", None);
    let said = |settings: &[(&str, &str)]| -> Option<String> {
        let output = built.run(&VirtualGpu::default(), &["0"], settings)?;
        assert!(!output.status.success());
        Some(words(&output))
    };
    let Some(old) = said(&[("OPTC_VGPU_SM", "75")]) else { return };
    assert!(old.contains("Unavailable: GPU 0 has compute capability 7.5, and the kernels are for 8.0 or newer"), "{old}");
    let none = said(&[("LD_LIBRARY_PATH", "")]).unwrap_or_default();
    // A machine with a driver has one GPU at least, and runs them.
    assert!(none.is_empty() || none.contains("Unavailable: there is no NVIDIA driver") || none.contains("Unavailable"), "{none}");
    std::fs::write(built.file("rule_gpu.ptx"), built.text("rule_gpu.ptx").replace(".visible", ".invisible")).unwrap();
    let refused = said(&[]).unwrap_or_default();
    assert!(refused.contains("Unavailable: the driver refuses the kernels: CUDA_ERROR_INVALID_PTX"), "{refused}");
    std::fs::remove_file(built.file("rule_gpu.ptx")).unwrap();
    assert!(said(&[]).unwrap_or_default().contains("Unavailable: the kernels cannot be read"));
}

/// What `ptxas -v` says of a file; nothing where there is none.
fn assembled(file: &Path, gpu: &str) -> Option<String> {
    let program = std::env::var("OPTC_PTXAS").unwrap_or_else(|_| "ptxas".to_string());
    let done = Command::new(&program).args(["-v", "--gpu-name", gpu, "--output-file", "/dev/null"]).arg(file).output();
    let Ok(done) = done else {
        eprintln!("skipped: no {program} (pip install nvidia-cuda-nvcc, then OPTC_PTXAS=.../ptxas)");
        return None;
    };
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{}: {said}", file.display());
    Some(said)
}

#[test]
fn kernels_assemble_and_spill_nothing() {
    for (rule, most) in [("adamw()", 80), ("lion()", 80), ("lamb()", 128), ("clip_by_global_norm(1.0) |> adamw()", 128), ("prodigy()", 128)]
    {
        let built = Built::new(rule, "f32,bf16", None);
        let text = built.text("rule_gpu.ptx");
        assert!(text.contains(".target sm_80"), "{rule}");
        let narrow = text.split(".entry ").filter(|e| e.split('(').next().is_some_and(|name| name.ends_with("_narrow")));
        assert!(
            narrow.clone().count() > 0 && narrow.into_iter().all(|e| !e.split("\n}").next().unwrap_or_default().contains(".v4.")),
            "{rule}"
        );
        // Wide forms read and write four neighbors at a time.
        assert!(text.lines().any(|l| l.contains("ld.global.v4.")) && text.lines().any(|l| l.contains("st.global.v4.")), "{rule}");
        for gpu in ["sm_80", "sm_90"] {
            let Some(said) = assembled(&built.file("rule_gpu.ptx"), gpu) else { continue };
            let mut passes = 0;
            for entry in said.split("Compiling entry function '").skip(1) {
                let name = entry.split('\'').next().unwrap_or_default();
                // What one thread does for a leaf may be long.
                if name.ends_with("_narrow") || text.contains(&format!("entry {name}_narrow(")) {
                    let before = |word: &str| entry.split(word).next().and_then(|t| t.split_whitespace().last()?.parse::<u32>().ok());
                    // The assembler puts numbers aside that the loop over elements does not need, so that more threads fit.
                    let aside = if name.ends_with("_narrow") { 16 } else { 0 };
                    assert!(before("bytes spill stores").is_some_and(|n| n <= aside), "{rule}: {entry}");
                    assert!(before("registers").is_some_and(|n| n <= most), "{rule}: {entry}");
                    passes += 1;
                }
            }
            assert!(passes >= 4, "{rule}: {said}");
        }
    }
}
