//! Back ends from the command line: what each shows and makes, and what LLVM's code keeps on disk.

use std::path::Path;
#[cfg(feature = "llvm")]
use std::process::Stdio;
use std::process::{Command, Output};

const SPEC: &str = "\
import std.optim.sgd

model point(at: float = 2.0) -> f32[20] {
  param x: f32[20] = at
  x
}

train descend {
  model     net = point()
  loss      sum(exp(net()) + net()^2)
  optimizer sgd(lr = 0.1)
  steps     10
}

experiment holds {
  let r = run descend
  print \"loss {r.loss.last:.4f}\"
  check r.loss.last < r.loss.first, \"it goes down\"
}
";

fn optc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_optc-under-test")).current_dir(folder).args(args).output().expect("the binary starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed: {}{}", out(output), err(output)))
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("spec.opt"), SPEC).expect("a file");
    dir
}

/// The last loss that a run prints.
fn loss(output: &Output) -> String {
    assert_eq!(status(output), 0, "{}", err(output));
    let text = out(output);
    let at = text.rfind("loss ").unwrap_or_else(|| panic!("no loss in {text}"));
    text[at..].split_whitespace().nth(1).unwrap_or_default().to_string()
}

#[test]
fn llvm_is_there_or_said_to_be_missing() {
    let dir = folder();
    if cfg!(feature = "llvm") {
        let o = optc(dir.path(), &["explain", "spec.opt", "--stage", "llvm"]);
        assert!(status(&o) == 0 && out(&o).contains("define void @kernel_0(ptr"), "{}{}", out(&o), err(&o));
        let o = optc(dir.path(), &["explain", "spec.opt", "--stage", "asm", "--backend", "llvm"]);
        assert!(status(&o) == 0 && out(&o).contains("kernel_0:"), "{}{}", out(&o), err(&o));
        let o = optc(dir.path(), &["build", "--optimizer", "lion", "--emit", "llvm,bc"]);
        assert_eq!(status(&o), 0, "{}", err(&o));
        let text = std::fs::read_to_string(dir.path().join("lion.ll")).expect("written");
        assert!(text.contains("define void @lion_f32_step_0(ptr") && text.contains("define void @lion_f32_delta_0(ptr"), "{text}");
        assert!(std::fs::read(dir.path().join("lion.bc")).expect("written").starts_with(b"BC\xC0\xDE"));
    } else {
        let asked = [
            "explain spec.opt --stage llvm",
            "run spec.opt --backend llvm",
            "build --optimizer lion --emit llvm",
            "build --optimizer lion --emit bc",
        ];
        for args in asked.map(|a| a.split(' ').collect::<Vec<_>>()) {
            let o = optc(dir.path(), &args);
            assert!(status(&o) == 1 && err(&o).contains("error[R0136]") && err(&o).contains("--features llvm"), "{}", err(&o));
        }
    }
    let o = optc(dir.path(), &["explain", "spec.opt", "--stage", "asm", "--backend", "interpreter"]);
    assert!(status(&o) == 1 && err(&o).contains("error[R0137]"), "{}", err(&o));
}

/// The same losses, whoever runs the kernels.
#[test]
fn the_interpreter_trains_as_well() {
    let dir = folder();
    let (fast, slow) =
        (optc(dir.path(), &["run", "spec.opt", "holds"]), optc(dir.path(), &["run", "spec.opt", "holds", "--backend", "interpreter"]));
    assert_eq!(loss(&fast), loss(&slow));
}

#[cfg(feature = "llvm")]
#[test]
fn processes_share_compiled_kernels() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_optc-under-test"));
        command.args(["run", "spec.opt", "holds", "--backend", "llvm"]).current_dir(dir.path()).env("OPTC_CACHE", &cache);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let files = || -> std::collections::BTreeMap<_, _> {
        let entries = std::fs::read_dir(&cache).expect("the folder").flatten();
        entries.map(|e| (e.path(), std::fs::read(e.path()).expect("a file"))).collect()
    };
    let both = [start(), start()].map(|child| child.wait_with_output().expect("it ends"));
    let first = loss(&both[0]);
    assert_eq!(first, loss(&both[1]));
    let kept = files();
    assert!(!kept.is_empty() && kept.keys().all(|p| p.extension().is_some_and(|e| e == "kernel")), "{:?}", kept.keys());
    // Nothing new the next time; what was damaged is there again.
    assert_eq!(loss(&start().wait_with_output().expect("it ends")), first);
    assert_eq!(files(), kept);
    for path in kept.keys() {
        std::fs::write(path, b"damaged").expect("written");
    }
    assert_eq!(loss(&start().wait_with_output().expect("it ends")), first);
    assert_eq!(files(), kept);
}

fn with(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_optc-under-test"));
    command.current_dir(folder).args(args).envs(variables.iter().copied()).output().expect("the binary starts")
}

/// A setting that is none is told instead of changing nothing.
#[test]
fn settings_of_the_environment_that_mean_nothing_are_refused() {
    let dir = folder();
    for (name, value) in [("OPTC_CACHE", "OFF"), ("OPTC_CACHE_MB", "abc"), ("OPTC_VECTORS", "1024"), ("OPTC_PTXAS", "")] {
        let o = with(dir.path(), &["run", "spec.opt", "holds"], &[(name, value)]);
        let said = format!("error[R0137]: {name} is `{value}`");
        assert!(status(&o) == 1 && err(&o).contains(&said) && err(&o).contains("= help: "), "{}", err(&o));
    }
    assert!(!dir.path().join("OFF").exists());
    #[cfg(feature = "llvm")]
    for args in [&["run", "spec.opt", "holds", "--backend", "llvm"][..], &["explain", "spec.opt", "--stage", "llvm"]] {
        let o = with(dir.path(), args, &[("OPTC_LLVM_PASSES", "foo")]);
        assert!(status(&o) == 1 && err(&o).contains("error[R0137]: OPTC_LLVM_PASSES is `foo`") && !err(&o).contains("bug"), "{}", err(&o));
    }
}

/// Options of a build that would do nothing.
#[test]
fn options_that_a_build_has_no_use_for_are_refused() {
    let dir = folder();
    let refused = [
        ("--emit obj --gpu sm_90", "`--gpu` names the GPU that PTX is for, and none is written"),
        ("--emit obj --backend llvm", if cfg!(feature = "llvm") { "`--emit obj` is made by Cranelift" } else { "built without" }),
        ("--emit asm --backend interpreter", "the back end `interpreter` makes no code that could be written"),
        ("--emit asm --target aarch64-unknown-linux-gnu", "`--target` names the machine that an object file is for"),
        ("--emit obj,asm --target aarch64-unknown-linux-gnu", "`--emit asm` shows code for this computer's processor"),
        ("--emit header --device cuda", if cfg!(feature = "llvm") { "`--device` says where a run is" } else { "built without LLVM" }),
        ("--emit obj --device junk", "--device is `junk`, which is no device"),
    ];
    for (args, why) in refused {
        let o = optc(dir.path(), &[&["build", "--optimizer", "lion"][..], &args.split(' ').collect::<Vec<_>>()].concat());
        assert!(status(&o) == 1 && err(&o).contains("error[R013") && err(&o).contains(why), "{args}: {}", err(&o));
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("the folder").count(), 1, "nothing was written");
    #[cfg(feature = "llvm")]
    {
        let o = optc(dir.path(), &["build", "--optimizer", "lion", "--emit", "torch", "--gpu", "sm_999"]);
        assert!(status(&o) == 1 && err(&o).contains("error[R0137]: there is no code for a GPU `sm_999`"), "{}", err(&o));
        let o = optc(dir.path(), &["build", "--optimizer", "lion", "--emit", "ptx", "--target", "aarch64-unknown-linux-gnu"]);
        assert!(status(&o) == 1 && err(&o).contains("`--target` names the machine"), "{}", err(&o));
        let o = optc(dir.path(), &["build", "--optimizer", "lion", "--emit", "asm", "--backend", "llvm", "--cpu", "x86-64-v4"]);
        assert_eq!(status(&o), 0, "{}", err(&o));
        let text = std::fs::read_to_string(dir.path().join("lion.asm")).expect("written");
        assert!(text.contains("lion_f32_step_0:") && text.contains("%zmm"), "LLVM's code of that processor");
    }
}

/// The processor that LLVM's code is for.
#[cfg(all(feature = "llvm", target_arch = "x86_64"))]
#[test]
fn a_processor_can_be_named() {
    let dir = folder();
    let o = optc(dir.path(), &["build", "--optimizer", "lion", "--emit", "llvm", "--cpu", "x86-64-v2"]);
    assert_eq!(status(&o), 0, "{}", err(&o));
    let text = std::fs::read_to_string(dir.path().join("lion.ll")).expect("written");
    assert!(text.contains("\"target-cpu\"=\"x86-64-v2\""), "{text}");
    let expected = loss(&optc(dir.path(), &["run", "spec.opt", "holds", "--backend", "llvm"]));
    for cpu in ["x86-64-v2", "native"] {
        assert_eq!(loss(&optc(dir.path(), &["run", "spec.opt", "holds", "--backend", "llvm", "--cpu", cpu])), expected, "{cpu}");
    }
    let o = with(dir.path(), &["run", "spec.opt", "--backend", "llvm"], &[("OPTC_CPU", "pdp11")]);
    assert!(status(&o) == 1 && err(&o).contains("error[R0137]: OPTC_CPU is `pdp11`"), "{}", err(&o));
    let o = optc(dir.path(), &["run", "spec.opt", "--cpu", "x86-64-v2"]);
    assert!(status(&o) == 1 && err(&o).contains("error[R0137]: `--cpu` is for code that LLVM makes"), "{}", err(&o));
}
