//! Code for NVIDIA GPUs, read and assembled on machines without one.
#![cfg(feature = "llvm")]

use std::path::Path;
use std::process::Command;

fn optc(folder: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_optc-under-test")).current_dir(folder).args(args).output().expect("the binary starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
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

/// The numbers before a word in what the assembler says.
fn before(said: &str, word: &str) -> Vec<u32> {
    said.match_indices(word).filter_map(|(at, _)| said[..at].split_whitespace().last()?.parse().ok()).collect()
}

/// Steps of optimizers read and write four neighbors at a time and keep everything in registers.
#[test]
fn steps_of_optimizers_are_wide_and_spill_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    for (rule, loads) in [("adamw", 4), ("lion", 3), ("sgd(momentum = 0.9)", 3), ("adan", 5)] {
        for gpu in ["sm_80", "sm_90"] {
            optc(dir.path(), &["build", "--optimizer", rule, "--emit", "ptx", "--gpu", gpu]);
            let file = dir.path().join(format!("{}.ptx", rule.split('(').next().unwrap_or(rule)));
            let text = std::fs::read_to_string(&file).expect("written");
            assert!(text.contains(&format!(".target {gpu}")), "{rule}");
            assert!(text.matches("ld.global").count() > 0);
            let wide = text.lines().filter(|l| l.contains("ld.global") && l.contains(".v4.")).count();
            assert!(wide >= loads, "{rule}: {wide} loads of four");
            assert!(text.lines().any(|l| l.contains("st.global") && l.contains(".v4.")), "{rule} stores four");
            let Some(said) = assembled(&file, gpu) else { continue };
            assert!(before(&said, "bytes spill stores").iter().all(|&n| n == 0), "{rule}: {said}");
            let registers = before(&said, "registers");
            assert!(!registers.is_empty() && registers.iter().all(|&n| n <= 80), "{rule}: {registers:?}");
        }
    }
}

/// LLVM ends the process where a version of PTX is too old for a GPU.
#[test]
fn every_gpu_has_code() {
    let dir = tempfile::tempdir().expect("a folder");
    for gpu in ["sm_70", "sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_90a"] {
        optc(dir.path(), &["build", "--optimizer", "lion", "--emit", "ptx", "--gpu", gpu]);
        let text = std::fs::read_to_string(dir.path().join("lion.ptx")).expect("written");
        assert!(text.lines().any(|l| l.trim_end() == format!(".target {gpu}")), "{gpu}");
    }
}

/// All kernels of whole training steps assemble, also those of doubles and with every function.
#[test]
fn kernels_of_specs_assemble() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = optc_tests::root();
    for spec in ["bench/specs/gpt.opt", "bench/specs/cnn.opt", "examples/digits.opt"] {
        let text = optc(dir.path(), &["explain", &root.join(spec).to_string_lossy(), "--stage", "ptx"]);
        // A spec of several trains has a module for each.
        for (n, module) in text.split("# train ").filter(|m| m.contains(".version")).enumerate() {
            let start = module.find("//").expect("a module");
            let file = dir.path().join(format!("{n}.ptx"));
            std::fs::write(&file, &module[start..]).expect("written");
            assembled(&file, "sm_80");
        }
    }
}
