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

/// Whether figures of the assembler are those of the snapshots, which one version has made.
fn as_recorded() -> bool {
    let program = std::env::var("OPTC_PTXAS").unwrap_or_else(|_| "ptxas".to_string());
    Command::new(program).arg("--version").output().is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("release 13.5"))
}

/// A line for each entry of a module: registers, bytes spilled, and how many of its loads and stores of global memory are of four neighbors.
fn record(text: &str, said: &str) -> String {
    let mut lines = String::new();
    for part in said.split("Compiling entry function '").skip(1) {
        let name = part.split('\'').next().unwrap_or_default();
        // From its head to the next one's.
        let code = text.split(".entry ").find(|code| code.starts_with(&format!("{name}("))).unwrap_or_default();
        let wide = |what: &str| code.lines().filter(|l| l.contains(what) && l.contains(".v4.")).count();
        let number = |word: &str| before(part, word).first().copied().unwrap_or(0);
        lines.push_str(&format!(
            "{name}: {} registers, {} bytes spilled, {} loads and {} stores of four\n",
            number(" registers"),
            number(" bytes spill stores"),
            wide("ld.global"),
            wide("st.global")
        ));
    }
    lines
}

/// Steps of optimizers read and write four neighbors at a time and keep everything in registers.
#[test]
fn steps_of_optimizers_are_wide_and_spill_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut report = String::new();
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
            report.push_str(&format!("# {rule}, {gpu}\n{}", record(&text, &said)));
        }
    }
    if as_recorded() {
        insta::assert_snapshot!("optimizers", report);
    }
}

/// LLVM ends the process where a version of PTX is too old for a GPU; the assembler says whether the GPU has what the code uses.
#[test]
fn every_gpu_has_code() {
    let dir = tempfile::tempdir().expect("a folder");
    let program = std::env::var("OPTC_PTXAS").unwrap_or_else(|_| "ptxas".to_string());
    let known = Command::new(program).arg("--help").output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let mut assembled_for = 0;
    let mut none = Command::new(env!("CARGO_BIN_EXE_optc-under-test"));
    let said = none
        .args(["build", "--optimizer", "lion", "--emit", "ptx", "--gpu", "none"])
        .current_dir(dir.path())
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let gpus: Vec<&str> = said.lines().find_map(|l| l.split_once("; there is for ")).expect("a list").1.split(", ").collect();
    assert!(gpus.len() > 25 && gpus.contains(&"sm_90a") && gpus.contains(&"sm_121f"), "{gpus:?}");
    for gpu in gpus {
        optc(dir.path(), &["build", "--optimizer", "lion", "--emit", "ptx", "--gpu", gpu]);
        let file = dir.path().join("lion.ptx");
        let text = std::fs::read_to_string(&file).expect("written");
        assert!(text.lines().any(|l| l.trim_end() == format!(".target {gpu}")), "{gpu}");
        // Assemblers have dropped the oldest GPUs, and one that has another name now.
        if known.as_ref().is_ok_and(|help| help.contains(&format!("'{gpu}'"))) {
            assembled(&file, gpu);
            assembled_for += 1;
        }
    }
    assert!(known.is_err() || assembled_for > 8, "{assembled_for}");
}

/// A GPU that the assembler does not know is told as that.
#[test]
fn an_assembler_may_not_know_a_gpu() {
    let dir = tempfile::tempdir().expect("a folder");
    let script = dir.path().join("ptxas");
    std::fs::write(&script, "#!/bin/sh\necho \"ptxas fatal   : Value 'sm_70' is not defined for option 'gpu-name'\" >&2\nexit 1\n")
        .expect("written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let mut command = Command::new(env!("CARGO_BIN_EXE_optc-under-test"));
    command.args(["--color", "never", "build", "--optimizer", "lion", "--emit", "cubin", "--gpu", "sm_70"]).current_dir(dir.path());
    let output = command.env("OPTC_PTXAS", &script).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("does not know the GPU `sm_70`") && said.contains("`--emit ptx`"), "{said}");
}

/// All kernels of whole training steps assemble, also those of doubles and with every function.
#[test]
fn kernels_of_specs_assemble() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = optc_tests::root();
    let mut report = String::new();
    for spec in ["bench/specs/gpt.opt", "bench/specs/cnn.opt", "examples/digits.opt"] {
        let text = optc(dir.path(), &["explain", &root.join(spec).to_string_lossy(), "--stage", "ptx"]);
        // A spec of several trains has a module for each.
        for (n, module) in text.split("# train ").filter(|m| m.contains(".version")).enumerate() {
            let start = module.find("//").expect("a module");
            let file = dir.path().join(format!("{n}.ptx"));
            std::fs::write(&file, &module[start..]).expect("written");
            if let Some(said) = assembled(&file, "sm_80") {
                report.push_str(&format!("# {spec}, module {n}, sm_80\n{}", record(&module[start..], &said)));
            }
        }
    }
    if as_recorded() {
        assert!(report.lines().count() > 50, "{report}");
        insta::assert_snapshot!("specs", report);
    }
}
