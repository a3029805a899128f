//! Objects for another processor, where its C compiler and an emulator are installed.

use super::loaded::{messages, with_stack};
use optc::build::{Emit, Request, build};
use optc::synthetic::Stored;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const ARM: &str = "aarch64-unknown-linux-gnu";
pub const CC: &str = "aarch64-linux-gnu-gcc";
pub const EMULATOR: &str = "qemu-aarch64";

/// Whether there is such a program.
pub fn there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

/// Whether programs for ARM can be made and run here; says what is missing.
fn can_run() -> bool {
    let missing: Vec<&str> = [CC, EMULATOR].into_iter().filter(|p| !there(p)).collect();
    if !missing.is_empty() {
        println!("not run: it takes {}", missing.join(" and "));
    }
    missing.is_empty()
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/build").join(name)
}

/// What a C program around the rule prints, on this processor or another.
fn printed(expression: &str, name: &str, shapes: &[Vec<usize>], target: Option<&str>, program: &str, defines: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let (stored, emit) = ([Stored::F32], [Emit::Obj, Emit::Header]);
    let request = Request {
        file: None,
        optimizer: expression,
        name: Some(name),
        stored: &stored,
        shapes,
        target,
        gpu: "",
        backend: optc::backend::Backend::Cranelift,
        emit: &emit,
        folder: folder.path(),
    };
    build(&request, &messages()).expect("it builds");
    let object = folder.path().join(format!("{name}.o"));
    if target.is_some() {
        let bytes = std::fs::read(&object).expect("the object");
        // ELF, 64 bits, machine 183.
        assert_eq!((&bytes[..5], u16::from_le_bytes([bytes[18], bytes[19]])), (&b"\x7fELF\x02"[..], 183));
    }
    let made = folder.path().join("a.out");
    let mut cc = Command::new(if target.is_some() { CC } else { "cc" });
    cc.arg("-std=gnu11").args(defines.iter().map(|d| format!("-D{d}"))).arg("-I").arg(folder.path()).arg(source(program)).arg(&object);
    let compiled =
        cc.args(if target.is_some() { &["-lm", "-static", "-o"][..] } else { &["-lm", "-o"] }).arg(&made).output().expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut run = if target.is_some() { Command::new(EMULATOR) } else { Command::new(&made) };
    if target.is_some() {
        run.arg(&made);
    }
    let output = run.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{expression}: {text}");
    text
}

#[test]
fn programs_for_arm_run_where_there_is_an_emulator() {
    with_stack(|| {
        let matrix = [vec![2, 3], vec![4]];
        for (expression, name, shapes, program) in [
            ("adamw()", "adamw", &[][..], "adamw.c"),
            ("clip_by_global_norm(1.0) |> adamw()", "clipped", &[], "clipped.c"),
            ("adafactor(min_factored = 2, relative = false, clipping = 1e9)", "factored", &matrix, "factored.c"),
        ] {
            if !can_run() {
                return;
            }
            printed(expression, name, shapes, Some(ARM), program, &[]);
        }
    });
}

/// Rules with norms, and for given shapes: rows and columns, 8 bits with random rounding, products. `pow` is each C library's own, products and sums are the same.
#[test]
fn rules_for_arm_give_what_they_give_here() {
    with_stack(|| {
        if !can_run() {
            return;
        }
        let shapes = [vec![40, 30], vec![7]];
        for (expression, shapes, defines) in [
            ("lamb()", &[][..], &[][..]),
            ("prodigy()", &[], &[]),
            ("adafactor(min_factored = 2)", &shapes, &["SHAPES"]),
            ("adamw8bit(block = 64, small = 16)", &shapes, &["SHAPES", "SEEDED"]),
            ("muon(lr = 0.02)", &shapes, &["SHAPES"]),
        ] {
            let [here, there] = [None, Some(ARM)].map(|target| printed(expression, "rule", shapes, target, "any.c", defines));
            let numbers = |text: &str| -> Vec<f64> { text.lines().map(|l| l.parse().expect("a number")).collect() };
            let (here, there) = (numbers(&here), numbers(&there));
            assert!(here.len() == there.len() && here.len() > 300, "{expression}");
            let apart = here.iter().zip(&there).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart <= 2e-6, "{expression}: {apart}");
            assert!(here.iter().all(|x| x.is_finite()), "{expression}");
        }
    });
}
