//! Object files, beside the same rules compiled in memory and in a C program.
#![cfg(all(unix, target_pointer_width = "64"))]

use optc::build::rule::{self, Built};
use optc::build::{Emit, Request, build};
use optc::synthetic::Stored;
use optc_abi::Tensor;
use optc_exec::{Pool, Program};
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

#[path = "build/arm.rs"]
mod arm;
#[path = "build/loaded.rs"]
mod loaded;
#[path = "build/products.rs"]
mod products;
#[path = "build/reductions.rs"]
mod reductions;
#[path = "build/shapes.rs"]
mod shapes;
#[path = "build/table.rs"]
mod table;

use loaded::{Loaded, messages, numbers, with_stack};

/// The part `name` of a rule as a program in memory, for a leaf of the length it was lowered for.
fn in_memory(built: &Built, name: &str) -> Program {
    let part = built.parts.iter().find(|p| p.name == name).expect("a part of this name");
    let plan = Arc::new(part.plan.clone());
    let code = optc_cranelift::compile(&part.kernels, &plan, &optc_cranelift::Config::default()).expect("it compiles");
    Program::new(plan, code.entry, Arc::new(code), Pool::new(1))
}

/// One step in memory: inputs by the names of the plan; aliased ones are updated.
fn step_in_memory(program: &mut Program, built: &Built, w: &mut Tensor, g: &Tensor, states: &mut [Tensor], t: i32) -> Vec<Tensor> {
    let mut kept = states.iter().cloned();
    let mut hyper = built.hyper.iter();
    let plan = program.plan().clone();
    let slots = plan.inputs.iter().filter(|s| s.name.starts_with("slot.")).count();
    let counter = format!("slot.{}", slots - 1);
    let mut inputs: Vec<Tensor> = plan
        .inputs
        .iter()
        .map(|slot| match &*slot.name {
            "slot.0" => w.clone(),
            name if *name == *counter => Tensor::scalar(t - 1),
            name if name.starts_with("slot.") => kept.next().expect("a state").reshaped(&slot.shape),
            name if name.starts_with("field.") => g.clone().reshaped(&slot.shape),
            name if name.starts_with("hyper.") => Tensor::scalar(hyper.next().expect("a hyperparameter").value.default),
            _ => Tensor::zeros(slot.dtype, &slot.shape),
        })
        .collect();
    let outputs = program.run(&mut inputs).expect("it runs");
    *w = inputs[0].clone();
    let after = inputs.iter().skip(1).take(slots - 2);
    states.iter_mut().zip(after).for_each(|(s, new)| *s = new.clone());
    outputs
}

/// Five steps of a rule from a shared library and in memory: all weights, states and changes have the same bits, also where the leaf is cut in two.
fn agrees(expression: &'static str, stored: Stored) {
    with_stack(move || {
        let folder = tempfile::tempdir().expect("a folder");
        let request = Request {
            file: None,
            optimizer: expression,
            name: Some("rule"),
            stored: &[stored],
            shapes: &[],
            target: None,
            gpu: "",
            backend: optc::backend::Backend::Cranelift,
            emit: &[Emit::Cdylib, Emit::Header],
            folder: folder.path(),
        };
        build(&request, &messages()).expect("it builds");
        let built = rule::build(&request, &messages()).expect("it builds");
        let library = Loaded::open(&folder.path().join("librule.so"));
        let prefix = format!("rule_{}", stored.dtype().name());
        let (mut program, mut change) = (in_memory(&built, &format!("{prefix}_step")), in_memory(&built, &format!("{prefix}_delta")));
        let n = program.plan().inputs[0].shape[0];
        let states = &built.variants[0].states;
        let fresh = || -> Vec<Tensor> { states.iter().map(|s| numbers(s.dtype, if s.scalar { 1 } else { n }, 9)).collect() };
        let mut hyper = vec![0u64; 1 + built.hyper.len()];
        // SAFETY: the structure has this size.
        let defaults =
            unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut u64) -> i32>(library.symbol("rule_defaults")) };
        // SAFETY: as above.
        assert_eq!(unsafe { defaults(hyper.as_mut_ptr()) }, 0);
        for (k, h) in built.hyper.iter().enumerate() {
            assert_eq!(f64::from_bits(hyper[1 + k]), h.value.default, "{}", h.name);
        }
        let mut w = numbers(stored.dtype(), n, 1);
        let (mut there, mut here) = (w.clone(), fresh());
        let leaf = |w: &Tensor, g: Option<&Tensor>, states: &[Tensor], from: usize, to: usize| -> Vec<u64> {
            let arrays = [w].into_iter().chain(g).chain(states);
            let places = arrays.map(|a| a.as_ptr() as u64 + if a.len() == 1 { 0 } else { from * a.dtype.size() } as u64);
            [(to - from) as u64].into_iter().chain(places).collect()
        };
        assert_eq!(library.init(&format!("{prefix}_init_many"), &leaf(&w, None, &here, 0, n)), 0);
        let mut kept = here.clone();
        let whole = states.iter().all(|s| !s.scalar);
        for t in 1..=5 {
            let g = numbers(stored.dtype(), n, 1 + t as usize);
            // The change first, on copies of the states.
            let other: Vec<Tensor> = here.iter().map(|s| s.clone().reshaped(&s.shape)).collect();
            let delta = Tensor::zeros(stored.dtype(), &[n]);
            let mut place = leaf(&there, Some(&g), &other, 0, n);
            place.push(delta.as_ptr() as u64);
            assert_eq!(library.step(&format!("{prefix}_delta_many"), &place, t, &hyper), 0);
            let mut again = kept.clone();
            let mut same = w.clone();
            let changes = step_in_memory(&mut change, &built, &mut same, &g, &mut again, t);
            assert_eq!(delta.bytes(), changes[0].bytes(), "{expression}: change of step {t}");
            step_in_memory(&mut program, &built, &mut w, &g, &mut kept, t);
            // A cut that is no multiple of anything.
            let cut = if whole { n / 3 + 1 } else { n };
            for (from, to) in [(0, cut), (cut, n)].into_iter().filter(|(from, to)| from < to) {
                assert_eq!(library.step(&format!("{prefix}_step_many"), &leaf(&there, Some(&g), &here, from, to), t, &hyper), 0);
            }
            assert_eq!(there.bytes(), w.bytes(), "{expression}: weights of step {t}");
            for ((a, b), s) in here.iter().zip(&kept).zip(states) {
                assert_eq!(a.bytes(), b.bytes(), "{expression}: state {} of step {t}", s.name);
            }
            for (a, b) in other.iter().zip(&again) {
                assert_eq!(a.bytes(), b.bytes(), "{expression}: states beside the change of step {t}");
            }
        }
        assert!(w.to_f64().iter().all(|x| x.is_finite()) && w.bytes() != numbers(stored.dtype(), n, 1).bytes());
        here.clear();
        there = w;
        drop(there);
    });
}

#[test]
fn adamw_has_the_bits_of_the_compiler() {
    for stored in [Stored::F32, Stored::F64, Stored::Bf16] {
        agrees("adamw(lr = 1e-2)", stored);
    }
}

#[test]
fn other_rules_have_the_bits_of_the_compiler() {
    for rule in [
        "lion()",
        "sgd(momentum = 0.9, nesterov = true)",
        "adagrad()",
        "rmsprop(momentum = 0.9)",
        "amsgrad()",
        "clip(0.1) |> adam(lr = 1e-2)",
    ] {
        agrees(rule, Stored::F32);
    }
}

#[test]
fn wrappers_and_schedules_have_the_bits_of_the_compiler() {
    for rule in ["schedule_free(adamw(lr = 1e-2))", "compensated(adamw(lr = 1e-2))", "adamw(lr = cosine(1e-2, total = 10))"] {
        agrees(rule, Stored::F32);
    }
}

#[test]
fn rules_that_need_more_are_refused() {
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for expression in [
            "muon()",
            "adafactor()",
            "centralize() |> sgd()",
            "polyak_sgd()",
            "add_noise() |> sgd()",
            "clip(1.0)",
            "adamw8bit()",
            "sam(sgd())",
            "no_such_rule",
        ] {
            let request = Request {
                file: None,
                optimizer: expression,
                name: None,
                stored: &[Stored::F32],
                shapes: &[],
                target: None,
                gpu: "",
                backend: optc::backend::Backend::Cranelift,
                emit: &[Emit::Header],
                folder: folder.path(),
            };
            assert!(build(&request, &messages()).is_err(), "{expression}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0);
    });
}

#[test]
fn a_c_program_links_the_object_and_the_archive() {
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let emit = [Emit::Obj, Emit::Header, Emit::Staticlib];
        let request = Request {
            file: None,
            optimizer: "adamw",
            name: None,
            stored: &[Stored::F32, Stored::F64],
            shapes: &[],
            target: None,
            gpu: "",
            backend: optc::backend::Backend::Cranelift,
            emit: &emit,
            folder: folder.path(),
        };
        build(&request, &messages()).expect("it builds");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/build/adamw.c");
        for library in ["adamw.o", "libadamw.a"] {
            let mut cc = Command::new("cc");
            cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(folder.path()).arg(&source);
            let compiled =
                cc.arg(folder.path().join(library)).args(["-lm", "-o"]).arg(folder.path().join("a.out")).output().expect("a C compiler");
            assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
            let run = Command::new(folder.path().join("a.out")).output().expect("it starts");
            assert!(run.status.success(), "{library}: {}", String::from_utf8_lossy(&run.stdout));
        }
        // What is left to the C library.
        let nm = Command::new("nm").arg("-u").arg(folder.path().join("adamw.o")).output().expect("binutils");
        let undefined: Vec<String> =
            String::from_utf8_lossy(&nm.stdout).split_whitespace().filter(|w| *w != "U").map(String::from).collect();
        assert_eq!(undefined, ["memcpy", "pow"]);
    });
}
