//! The script of everything that is to be seen on a GPU, run through on the virtual one.
#![cfg(all(feature = "llvm", target_os = "linux"))]

use optc_tests::virtual_gpu::{VirtualGpu, words};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const OPTC: &str = env!("CARGO_BIN_EXE_optc-under-test");

fn bench(out: &Path, settings: &[(&str, &str)]) -> Output {
    let gpu = VirtualGpu::default();
    let mut command = gpu.command("bash");
    command.arg(optc_tests::root().join("bench/gpu.sh")).arg(OPTC).arg(out);
    for name in ["PARAMETERS", "TURNS", "SECONDS_EACH", "ONLY", "CASES", "GPUS", "PYTHON", "EXPORTS"] {
        command.env_remove(name);
    }
    command.envs(settings.iter().copied()).output().expect("bash starts")
}

fn report(out: &Path) -> (Value, String) {
    let text = |name: &str| std::fs::read_to_string(out.join(name)).expect("written");
    (serde_json::from_str(&text("gpu.json")).expect("JSON"), text("gpu.md"))
}

fn there_is_python() -> bool {
    let there = Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        eprintln!("skipped: no python3");
    }
    there
}

#[test]
fn the_script_passes_and_says_what_it_left_out() {
    if !there_is_python() {
        return;
    }
    let out = tempfile::tempdir().expect("a folder");
    let settings =
        [("ONLY", "cases,steps"), ("CASES", "groups,offloading"), ("PARAMETERS", "20000"), ("TURNS", "1"), ("SECONDS_EACH", "0.01")];
    let output = bench(out.path(), &settings);
    assert!(output.status.success(), "{}", words(&output));
    let (found, table) = report(out.path());
    let cases = &found["cases"];
    assert!(cases["status"] == 0 && cases["files"] == 1 && cases["counts"]["checks"].as_u64() > Some(0), "{cases}");
    assert_eq!(cases["skipped"][0]["case"], "offloading");
    assert!(table.contains("1 file of tests/cases/run on the GPU") && table.contains("skipped: offloading, arrays in files"), "{table}");
    let rows = found["steps"]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert!(row["trouble"].as_array().is_some_and(Vec::is_empty), "{row}");
        assert!(row["gaps"][0].as_f64().is_some_and(|part| (0.0..1.0).contains(&part)), "{row}");
        assert!(row["optc_ms"][0].as_f64() > Some(0.0) && row["gb_per_second"].as_f64() > Some(0.0), "{row}");
    }
}

/// What is listed as refused on a GPU is a case.
#[test]
fn cases_that_are_left_out_are_there() {
    for line in include_str!("../cases/not_on_gpu.txt").lines().filter(|l| !l.starts_with('#')) {
        let (name, why) = line.split_once(": ").expect("a case and why");
        assert!(optc_tests::root().join(format!("tests/cases/run/{name}.opt")).exists() && !why.is_empty(), "{line}");
    }
}

/// A GPU on which a case fails is told by the exit status.
#[test]
fn a_case_that_fails_is_told_by_the_exit_status() {
    if !there_is_python() {
        return;
    }
    let out = tempfile::tempdir().expect("a folder");
    let output = bench(out.path(), &[("ONLY", "cases"), ("CASES", "groups"), ("OPTC_VGPU_SM", "61")]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert_eq!(report(out.path()).0["cases"]["status"], 1);
}
