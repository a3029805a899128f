//! Rules that combine elements of a leaf, or leaves: the bits of the compiler's own program for the shapes at hand.

use super::loaded::{Loaded, messages, numbers, with_stack};
use optc::build::lower::{Whole, whole};
use optc::build::roll::Role;
use optc::build::rule::{self, Built, GRADIENT, STATES, WEIGHT};
use optc::build::{Emit, Request, build};
use optc::pipeline::{self, CompileOptions, Timings};
use optc::synthetic::Stored;
use optc_abi::Tensor;
use optc_cranelift::object::Source;
use optc_exec::{Pool, Program};
use optc_ir::Graph;
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A leaf: weight, gradient, states, in the order in which functions take them, flat.
#[derive(Clone)]
struct Leaf {
    arrays: Vec<Tensor>,
}

impl Leaf {
    /// As a row of a list of leaves; `more` are further arrays.
    fn row(&self, more: &[&Tensor]) -> Vec<u64> {
        let n = self.arrays[WEIGHT].len() as u64;
        [n].into_iter().chain(self.arrays.iter().chain(more.iter().copied()).map(|a| a.as_ptr() as u64)).collect()
    }
}

fn compiled(graph: Graph, options: &CompileOptions) -> Program {
    let planned = pipeline::plan(graph, options, &mut Timings::default()).planned;
    let kernels: Vec<_> = planned.kernels.into_iter().map(|k| k.kernel).collect();
    let plan = Arc::new(planned.plan);
    let code = optc_cranelift::compile(&kernels, &plan, &optc_cranelift::Config::default()).expect("it compiles");
    Program::new(plan, code.entry, Arc::new(code), Pool::new(1))
}

/// What an input is filled with: of the leaves as they are, shared states as the first leaf has them.
fn given(program: &Program, roles: &[Role], leaves: &[Leaf], hyper: &[f64], t: i32) -> Vec<Tensor> {
    let slots = program.plan().inputs.clone();
    let value = |role: &Role, shape: &[usize], dtype| match role.source {
        Source::Array(k) => leaves[role.leaf.unwrap_or(0)].arrays[k].clone().reshaped(shape),
        Source::Counter => Tensor::scalar(t - 1),
        Source::Hyper(k) => Tensor::scalar(hyper[k]),
        _ => Tensor::zeros(dtype, shape),
    };
    slots.iter().zip(roles).map(|(slot, role)| value(role, &slot.shape, slot.dtype)).collect()
}

/// Has the compiler's program make a step: weights and states of the leaves are those after it.
fn step(program: &mut Program, whole: &Whole, leaves: &mut [Leaf], hyper: &[f64], t: i32) {
    let mut inputs = given(program, &whole.inputs, leaves, hyper, t);
    program.run(&mut inputs).expect("it runs");
    let aliased = whole.options.alias.len();
    for (role, after) in whole.inputs.iter().zip(inputs).take(aliased) {
        let Source::Array(k) = role.source else { continue };
        for (_, leaf) in leaves.iter_mut().enumerate().filter(|(i, _)| role.leaf.is_none_or(|l| l == *i)) {
            let shape = leaf.arrays[k].shape.clone();
            leaf.arrays[k] = after.clone().reshaped(&shape);
        }
    }
}

/// Leaves with weights, and with what states have before they are made.
fn leaves(shapes: &[Vec<usize>], built: &Built, stored: Stored) -> Vec<Leaf> {
    let leaf = |(i, shape): (usize, &Vec<usize>)| {
        let n = shape.iter().product();
        let states = built.variants[0].states.iter().map(|s| numbers(s.dtype, if s.scalar { 1 } else { n }, 9));
        let arrays = [numbers(stored.dtype(), n, 1 + i), Tensor::zeros(stored.dtype(), &[n])].into_iter().chain(states).collect();
        Leaf { arrays }
    };
    shapes.iter().enumerate().map(leaf).collect()
}

fn same(there: &[Leaf], here: &[Leaf], what: &str) {
    for (i, (a, b)) in there.iter().zip(here).enumerate() {
        for (k, (x, y)) in a.arrays.iter().zip(&b.arrays).enumerate() {
            assert!(x.bytes() == y.bytes(), "{what}: array {k} of leaf {i} with {} elements", a.arrays[WEIGHT].len());
        }
    }
}

/// A library of a rule, and what is known of it.
struct Made {
    _folder: tempfile::TempDir,
    built: Built,
    library: Loaded,
    prefix: String,
    hyper: Vec<u64>,
    defaults: Vec<f64>,
}

impl Made {
    fn new(expression: &str, stored: Stored) -> Made {
        let folder = tempfile::tempdir().expect("a folder");
        let emit = [Emit::Cdylib, Emit::Header];
        let request = Request {
            file: None,
            optimizer: expression,
            name: Some("rule"),
            stored: &[stored],
            shapes: &[],
            target: None,
            gpu: "",
            backend: optc::backend::Backend::Cranelift,
            emit: &emit,
            folder: folder.path(),
        };
        build(&request, &messages()).unwrap_or_else(|_| panic!("{expression} does not build"));
        let built = rule::build(&request, &messages()).expect("it builds");
        let library = Loaded::open(&folder.path().join("librule.so"));
        let defaults: Vec<f64> = built.hyper.iter().map(|h| h.value.default).collect();
        let size = 8 + 8 * defaults.len() as u64;
        let hyper = [size | u64::from(optc_cranelift::object::ABI) << 32].into_iter().chain(defaults.iter().map(|x| x.to_bits())).collect();
        Made { prefix: format!("rule_{}", stored.dtype().name()), _folder: folder, built, library, hyper, defaults }
    }

    fn many(&self, name: &str, rows: &[Vec<u64>], t: i32) -> i32 {
        self.library.many(&format!("{}_{name}_many", self.prefix), rows, t, &self.hyper)
    }
}

/// Four steps of a rule from a shared library and as the compiler's program for these leaves.
fn agrees(made: &Made, expression: &str, stored: Stored, shapes: &[Vec<usize>]) {
    let folder = Path::new(".");
    let request = Request {
        file: None,
        optimizer: expression,
        name: Some("rule"),
        stored: &[stored],
        shapes: &[],
        target: None,
        gpu: "",
        backend: optc::backend::Backend::Cranelift,
        emit: &[],
        folder,
    };
    let whole = whole(&request, stored, shapes, &messages()).expect("it lowers");
    let mut program = compiled(whole.graph.clone(), &whole.options);
    let mut here = leaves(shapes, &made.built, stored);
    let mut there = here.clone();
    for leaf in &there {
        let mut row = leaf.row(&[]);
        // The function takes no gradient.
        row.remove(1 + GRADIENT);
        assert_eq!(made.library.init(&format!("{}_init_many", made.prefix), &row), 0);
    }
    let mut start = compiled(whole.start.clone(), &CompileOptions::default());
    let mut inputs = given(&start, &whole.start_inputs, &here, &[], 1);
    let first = start.run(&mut inputs).expect("it runs");
    for (role, value) in whole.start_outputs.iter().zip(first) {
        let Source::Array(k) = role.source else { continue };
        for (_, leaf) in here.iter_mut().enumerate().filter(|(i, _)| role.leaf.is_none_or(|l| l == *i)) {
            let shape = leaf.arrays[k].shape.clone();
            leaf.arrays[k] = value.clone().reshaped(&shape);
        }
    }
    same(&there, &here, &format!("{expression}, first states"));
    let begin = here.clone();
    for t in 1..=4 {
        for (i, leaf) in here.iter_mut().enumerate() {
            let n = leaf.arrays[WEIGHT].len();
            leaf.arrays[GRADIENT] = numbers(stored.dtype(), n, 100 * t as usize + i);
        }
        there.iter_mut().zip(&here).for_each(|(a, b)| a.arrays[GRADIENT] = b.arrays[GRADIENT].clone());
        // The change, on copies of the states.
        let other: Vec<Leaf> =
            there.iter().map(|l| Leaf { arrays: l.arrays.iter().map(|a| a.clone().reshaped(&a.shape)).collect() }).collect();
        let changes: Vec<Tensor> = other.iter().map(|l| Tensor::zeros(stored.dtype(), &[l.arrays[WEIGHT].len()])).collect();
        let rows: Vec<Vec<u64>> = other.iter().zip(&changes).map(|(l, c)| l.row(&[c])).collect();
        assert_eq!(made.many("delta", &rows, t), 0);
        let rows: Vec<Vec<u64>> = there.iter().map(|l| l.row(&[])).collect();
        assert_eq!(made.many("step", &rows, t), 0);
        step(&mut program, &whole, &mut here, &made.defaults, t);
        same(&there, &here, &format!("{expression} {stored:?}, step {t}"));
        for ((a, b), change) in other.iter().zip(&there).zip(&changes) {
            assert!((STATES..a.arrays.len()).all(|k| a.arrays[k].bytes() == b.arrays[k].bytes()), "{expression}: states beside the change");
            let moved = a.arrays[WEIGHT].to_f64().into_iter().zip(b.arrays[WEIGHT].to_f64()).zip(change.to_f64());
            let tolerance = if stored == Stored::Bf16 { 2e-2 } else { 1e-6 };
            for ((old, new), d) in moved {
                assert!((old + d - new).abs() <= tolerance * (old.abs() + new.abs() + 1e-3), "{expression}: {old} + {d} is not {new}");
            }
        }
    }
    for (leaf, old) in here.iter().zip(&begin) {
        assert!(leaf.arrays[WEIGHT].to_f64().iter().all(|x| x.is_finite()), "{expression}: not finite");
        assert!(
            leaf.arrays[WEIGHT].len() < 100 || leaf.arrays[WEIGHT].bytes() != old.arrays[WEIGHT].bytes(),
            "{expression}: nothing moves"
        );
    }
}

/// Lengths around the lanes, the units and the length from which sums are made in parts; the last has more units than there are lanes.
fn many_lengths() -> Vec<Vec<usize>> {
    [2, 15, 16, 17, 1000, 16384, 32767, 32768, 49157, 300_001].into_iter().map(|n| vec![n]).chain([vec![5, 7], vec![2, 3, 4]]).collect()
}

fn all_agree(rules: &[&'static str], stored: Stored) {
    let rules = rules.to_vec();
    with_stack(move || {
        for expression in rules {
            let made = Made::new(expression, stored);
            agrees(&made, expression, stored, &many_lengths());
        }
    });
}

#[test]
fn norms_of_leaves_have_the_bits_of_the_compiler() {
    all_agree(&["lamb(lr = 1e-2, weight_decay = 0.1)", "lars(lr = 0.1, weight_decay = 0.01)", "novograd()", "fromage()"], Stored::F32);
}

#[test]
fn norms_of_leaves_in_other_types() {
    all_agree(&["lamb(lr = 1e-2, weight_decay = 0.1)"], Stored::F64);
    all_agree(&["lamb(lr = 1e-2, weight_decay = 0.1)", "clip_by_global_norm(0.5) |> adamw(lr = 1e-2)"], Stored::Bf16);
}

#[test]
fn norms_of_all_leaves_have_the_bits_of_the_compiler() {
    all_agree(&["clip_by_global_norm(0.5) |> adamw(lr = 1e-2)", "prodigy()", "dadapt_adam()"], Stored::F32);
}

#[test]
fn conditions_on_norms_have_the_bits_of_the_compiler() {
    all_agree(&["apply_if_finite(sgd(lr = 0.1))", "lookahead(adamw(lr = 1e-2))", "stable_adamw(lr = 1e-2)"], Stored::F32);
}

#[test]
fn one_leaf_at_a_time_has_the_bits_of_the_compiler() {
    with_stack(|| {
        for expression in ["lamb(lr = 1e-2)", "clip_by_global_norm(0.5) |> sgd(lr = 0.1)"] {
            let made = Made::new(expression, Stored::F32);
            for n in [2, 17, 1000, 32767, 32768, 50_000] {
                agrees(&made, expression, Stored::F32, &[vec![n]]);
            }
        }
    });
}

/// The rounds called one by one, on two lists, give what one list gives; empty leaves and empty lists do no harm.
#[test]
fn rounds_on_several_lists_are_one_step() {
    with_stack(|| {
        let expression = "clip_by_global_norm(0.5) |> adamw(lr = 1e-2)";
        let made = Made::new(expression, Stored::F32);
        assert_eq!(made.built.rounds(), 2);
        let shapes = [vec![1000], vec![40_000], vec![17]];
        let mut all = leaves(&shapes, &made.built, Stored::F32);
        for (i, leaf) in all.iter_mut().enumerate() {
            let n = leaf.arrays[WEIGHT].len();
            leaf.arrays[GRADIENT] = numbers(optc_abi::DType::F32, n, 50 + i);
        }
        let empty = Leaf { arrays: all[0].arrays.iter().map(|a| Tensor::zeros(a.dtype, &[0])).collect() };
        let apart = |l: &Leaf| Leaf { arrays: l.arrays.iter().map(|a| a.clone().reshaped(&a.shape)).collect() };
        let (one, two): (Vec<Leaf>, Vec<Leaf>) = (all.iter().map(apart).collect(), all.iter().map(apart).collect());
        let rows = |list: &[Leaf]| -> Vec<Vec<u64>> { list.iter().map(|l| l.row(&[])).collect() };
        let mut first = rows(&one);
        first.insert(1, empty.row(&[]));
        assert_eq!(made.many("step", &first, 3), 0);
        // SAFETY: the header declares this type.
        let round = unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u64, *const u64, i32, *const u64, i32, *mut f64) -> i32>(
                made.library.symbol(&format!("{}_step_round", made.prefix)),
            )
        };
        let mut folds = vec![0.0f64; 2 * made.built.functions("step").next().expect("a step").flat.folds()];
        let lists = [rows(&two[..1]), Vec::new(), rows(&two[1..])];
        for number in 0..2 {
            for list in &lists {
                let table: Vec<u64> = list.concat();
                // SAFETY: arrays are as long as the rows say.
                let code = unsafe { round(list.len() as u64, table.as_ptr(), 3, made.hyper.as_ptr(), number, folds.as_mut_ptr()) };
                assert_eq!(code, 0);
            }
        }
        same(&one, &two, expression);
        let table = lists[0].concat();
        // SAFETY: as above; nothing is done.
        let wrong = unsafe { round(1, table.as_ptr(), 3, made.hyper.as_ptr(), 2, folds.as_mut_ptr()) };
        assert_eq!(wrong, optc_cranelift::object::code::ROUND);
        assert_eq!(made.many("step", &[empty.row(&[])], 1), 0);
        assert_eq!(made.many("step", &[], 1), 0);
    });
}

/// A C program with gradients clipped by the norm of all leaves.
#[test]
fn a_c_program_clips_by_the_norm_of_all_leaves() {
    with_stack(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let request = Request {
            file: None,
            optimizer: "clip_by_global_norm(1.0) |> adamw()",
            name: Some("clipped"),
            stored: &[Stored::F32],
            shapes: &[],
            target: None,
            gpu: "",
            backend: optc::backend::Backend::Cranelift,
            emit: &[Emit::Obj, Emit::Header],
            folder: folder.path(),
        };
        build(&request, &messages()).expect("it builds");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/build/clipped.c");
        let mut cc = Command::new("cc");
        cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(folder.path()).arg(&source);
        let compiled =
            cc.arg(folder.path().join("clipped.o")).args(["-lm", "-o"]).arg(folder.path().join("a.out")).output().expect("a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let run = Command::new(folder.path().join("a.out")).output().expect("it starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        let nm = Command::new("nm").arg("-u").arg(folder.path().join("clipped.o")).output().expect("binutils");
        let undefined: Vec<String> =
            String::from_utf8_lossy(&nm.stdout).split_whitespace().filter(|w| *w != "U").map(String::from).collect();
        assert_eq!(undefined, ["memcpy", "pow"]);
    });
}
