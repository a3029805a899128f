//! Rules built for leaves of given shapes: the bits of the compiler's own program; products, which are added up in another order, to rounding.

use super::loaded::{Loaded, messages, numbers, with_stack};
use optc::build::fixed::{Fixed, lower};
use optc::build::{Emit, Request, build};
use optc::synthetic::Stored;
use optc_abi::{DType, Tensor};
use optc_cranelift::object::{ABI, Given};
use optc_exec::{Pool, Program};
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const SEED: u64 = 0x0123_4567_89AB_CDEF;

fn request<'a>(expression: &'a str, shapes: &'a [Vec<usize>], stored: &'a [Stored], emit: &'a [Emit], folder: &'a Path) -> Request<'a> {
    Request {
        file: None,
        optimizer: expression,
        name: Some("rule"),
        stored,
        shapes,
        target: None,
        gpu: "",
        backend: optc::backend::Backend::Cranelift,
        emit,
        folder,
    }
}

/// Runs a function of the rule as the compiler's program, on the arrays of the table.
fn in_memory(fixed: &Fixed, function: usize, table: &mut [Tensor], t: i32) {
    let whole = &fixed.variants[0].functions[function];
    let plan = Arc::new(whole.plan.clone());
    let code = optc_cranelift::compile(&whole.kernels, &plan, &optc_cranelift::Config::default()).expect("it compiles");
    let mut program = Program::new(plan.clone(), code.entry, Arc::new(code), Pool::new(1));
    let mut inputs: Vec<Tensor> = plan
        .inputs
        .iter()
        .zip(&whole.inputs)
        .map(|(slot, given)| match given {
            Given::Array(k) => table[*k].clone().reshaped(&slot.shape),
            Given::Counter => Tensor::scalar(t - 1),
            Given::Hyper(k) => Tensor::scalar(fixed.hyper[*k].value.default),
            Given::Seed => Tensor::from_slice(&[2], &[SEED as u32, (SEED >> 32) as u32]),
            Given::Nothing => Tensor::zeros(slot.dtype, &slot.shape),
        })
        .collect();
    let mut results = program.run(&mut inputs).expect("it runs").into_iter();
    for (given, slot) in whole.outputs.iter().zip(&plan.outputs) {
        let after = match slot.alias {
            Some(input) => inputs[input].clone(),
            None => results.next().expect("a result"),
        };
        if let Given::Array(k) = given {
            let shape = table[*k].shape.clone();
            table[*k] = after.reshaped(&shape);
        }
    }
}

/// All arrays of a rule, in the order of the table; states as they are before they are made. Arrays that a leaf has not are empty.
fn table(fixed: &Fixed) -> Vec<Tensor> {
    let variant = &fixed.variants[0];
    let kind = variant.stored.dtype();
    let length = |s: &Vec<usize>| s.iter().product::<usize>();
    let weights = fixed.shapes.iter().enumerate().map(|(k, s)| numbers(kind, length(s), 1 + k));
    let gradients = fixed.shapes.iter().map(|s| Tensor::zeros(kind, &[length(s)]));
    let states = variant.states.iter().flat_map(|s| &s.of).map(|ty| match ty {
        Some(ty) => numbers(ty.dtype, ty.len(), 9),
        None => Tensor::zeros(DType::U8, &[0]),
    });
    weights.chain(gradients).chain(states).collect()
}

/// Three steps from a shared library and as the compiler's program; equal to so much of the size of each array.
fn agrees(expression: &'static str, shapes: &[&[usize]], stored: Stored, within: f64) {
    let shapes: Vec<Vec<usize>> = shapes.iter().map(|s| s.to_vec()).collect();
    with_stack(move || {
        let folder = tempfile::tempdir().expect("a folder");
        let emit = [Emit::Cdylib, Emit::Header];
        let (types, shapes) = ([stored], &shapes[..]);
        let request = request(expression, shapes, &types, &emit, folder.path());
        build(&request, &messages()).unwrap_or_else(|_| panic!("{expression} does not build"));
        let fixed = lower(&request, &messages()).expect("it lowers");
        let library = Loaded::open(&folder.path().join("librule.so"));
        let prefix = format!("rule_{}", stored.dtype().name());
        // SAFETY: the header declares these types; the seed is passed over where it is not taken.
        let (init, step) = unsafe {
            (
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const u64, *mut u8, u64) -> i32>(
                    library.symbol(&format!("{prefix}_init")),
                ),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const u64, *mut u8, i32, *const u64, u64) -> i32>(
                    library.symbol(&format!("{prefix}_step")),
                ),
            )
        };
        let mut hyper = vec![(8 + 8 * fixed.hyper.len() as u64) | u64::from(ABI) << 32];
        hyper.extend(fixed.hyper.iter().map(|h| h.value.default.to_bits()));
        let mut work = Tensor::from_slice(&[fixed.variants[0].work().max(64)], &vec![0xFFu8; fixed.variants[0].work().max(64)]);
        let place = work.bytes_mut().as_mut_ptr();
        let (mut there, mut here) = (table(&fixed), table(&fixed));
        let addresses = |t: &[Tensor]| -> Vec<u64> { t.iter().map(|x| x.as_ptr() as u64).collect() };
        // SAFETY: the arrays are those of the header.
        assert_eq!(unsafe { init(addresses(&there).as_ptr(), place, SEED) }, 0);
        in_memory(&fixed, 1, &mut here, 1);
        let same = |there: &[Tensor], here: &[Tensor], when: &str| {
            for (k, (a, b)) in there.iter().zip(here).enumerate() {
                if within == 0.0 {
                    assert!(a.bytes() == b.bytes(), "{expression}, {when}: array {k}");
                    continue;
                }
                let size = b.to_f64().iter().fold(1e-6f64, |m, x| m.max(x.abs()));
                let worst = a.to_f64().iter().zip(b.to_f64()).fold(0f64, |m, (x, y)| m.max((x - y).abs()));
                assert!(worst <= within * size, "{expression}, {when}: array {k} by {worst} of {size}");
            }
        };
        same(&there, &here, "first states");
        let leaves = fixed.shapes.len();
        for t in 1..=3 {
            for k in leaves..2 * leaves {
                let n = there[k].len();
                there[k] = numbers(stored.dtype(), n, 100 * t as usize + k);
                here[k] = there[k].clone();
            }
            // SAFETY: as above.
            assert_eq!(unsafe { step(addresses(&there).as_ptr(), place, t, hyper.as_ptr(), SEED) }, 0);
            in_memory(&fixed, 0, &mut here, t);
            same(&there, &here, &format!("step {t}"));
        }
        let begin = table(&fixed);
        assert!(
            (0..leaves).all(|k| there[k].bytes() != begin[k].bytes() && there[k].to_f64().iter().all(|x| x.is_finite())),
            "{expression}"
        );
        // SAFETY: nothing is done.
        assert_eq!(unsafe { step(addresses(&there).as_ptr(), place, 0, hyper.as_ptr(), SEED) }, optc_cranelift::object::code::STEP);
    });
}

const SHAPES: &[&[usize]] = &[&[130, 140], &[33], &[6, 7], &[200, 150], &[2, 3, 5], &[5000]];

#[test]
fn rows_and_columns_have_the_bits_of_the_compiler() {
    for rule in ["adafactor(momentum = 0.9)", "sm3()", "adam_mini()"] {
        agrees(rule, SHAPES, Stored::F32, 0.0);
    }
    agrees("adafactor()", SHAPES, Stored::F64, 0.0);
}

#[test]
fn eight_bits_have_the_bits_of_the_compiler() {
    agrees("adamw8bit(lr = 1e-2)", &[&[100, 100], &[33], &[6000]], Stored::F32, 0.0);
    agrees("lion8bit(lr = 1e-2)", &[&[100, 100], &[33]], Stored::Bf16, 0.0);
}

#[test]
fn other_rules_for_given_shapes_have_the_bits_of_the_compiler() {
    for rule in ["clip_by_global_norm(0.5) |> came()", "ranger()", "rounded_at_random(sgd(lr = 0.1))", "sgld(lr = 0.1)"] {
        agrees(rule, &[&[130, 140], &[33], &[6, 7]], Stored::F32, 0.0);
    }
}

#[test]
fn products_agree_to_rounding() {
    agrees("muon(lr = 0.02)", &[&[64, 48], &[33], &[20, 70]], Stored::F32, 2e-4);
    agrees("muon(lr = 0.02)", &[&[64, 48], &[33], &[20, 70]], Stored::F64, 1e-11);
    agrees("muon(lr = 0.02, precision = \"bf16\")", &[&[64, 48], &[33], &[20, 70]], Stored::F32, 0.05);
}

#[test]
fn what_needs_the_runtime_is_refused_for_given_shapes_too() {
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let shapes = [vec![20, 30], vec![7]];
        for expression in ["shampoo()", "polyak_sgd()", "sam(sgd())", "clip(1.0)"] {
            let emit = [Emit::Obj];
            assert!(build(&request(expression, &shapes, &[Stored::F32], &emit, folder.path()), &messages()).is_err(), "{expression}");
        }
        assert!(build(&request("muon()", &shapes, &[Stored::F32], &[Emit::Stablehlo], folder.path()), &messages()).is_err());
        // A class has functions for each leaf by itself.
        let together = "clip_by_global_norm(1.0) |> muon()";
        assert!(build(&request(together, &shapes, &[Stored::F32], &[Emit::Torch], folder.path()), &messages()).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0);
    });
}

/// A C program with a factored second moment.
#[test]
fn a_c_program_links_a_rule_for_given_shapes() {
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (shapes, emit) = ([vec![2, 3], vec![4]], [Emit::Obj, Emit::Header]);
        let expression = "adafactor(min_factored = 2, relative = false, clipping = 1e9)";
        let named = Request { name: Some("factored"), ..request(expression, &shapes, &[Stored::F32], &emit, folder.path()) };
        build(&named, &messages()).expect("it builds");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/build/factored.c");
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(folder.path()).arg(&source);
        let compiled =
            cc.arg(folder.path().join("factored.o")).args(["-lm", "-o"]).arg(folder.path().join("a.out")).output().expect("a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let run = Command::new(folder.path().join("a.out")).output().expect("it starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        let nm = Command::new("nm").arg("-u").arg(folder.path().join("factored.o")).output().expect("binutils");
        let undefined: Vec<String> =
            String::from_utf8_lossy(&nm.stdout).split_whitespace().filter(|w| *w != "U").map(String::from).collect();
        assert!(undefined.iter().all(|u| u == "memcpy" || u == "pow"), "{undefined:?}");
    });
}
