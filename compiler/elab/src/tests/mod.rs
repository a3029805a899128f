//! Small specs, checked, lowered and run through the interpreter of graphs.

mod cases;
mod files;
mod lower;
mod script;
mod stdlib;

use crate::evaluator::{Evaluator, Mode};
use crate::value::{CallArg, Value};
use optc_abi::Tensor;
use optc_base::{Diagnostic, Span};
use optc_front::modules::{Def, FileLoader, ModuleId, Program};

struct NoFiles;
impl FileLoader for NoFiles {
    fn read(&self, _from: &str, path: &str) -> Result<(String, String), String> {
        Err(format!("no file {path}"))
    }
}

/// Parses a spec that must parse.
pub fn load(text: &str) -> Program {
    let (program, errors) = optc_front::load("test.opt", text, &NoFiles);
    assert!(errors.is_empty(), "{}", show(&errors, &program));
    program
}

pub fn show(errors: &[Diagnostic], program: &Program) -> String {
    errors.iter().map(|d| d.render(&program.sources, false)).collect::<Vec<_>>().join("\n")
}

/// The diagnostics of checking a spec.
pub fn check(text: &str) -> (Vec<Diagnostic>, Program) {
    let program = load(text);
    let errors = crate::check(&program);
    (errors, program)
}

/// Checks a spec that must be right.
pub fn clean(text: &str) {
    let (errors, program) = check(text);
    assert!(errors.is_empty(), "{}", show(&errors, &program));
}

/// Codes of the errors of a spec.
pub fn codes(text: &str) -> Vec<&'static str> {
    check(text).0.iter().map(|d| d.code.0).collect()
}

/// Lowers a call of `f` on tensors and runs it; the leaves of the result in order.
pub fn run(text: &str, args: &[Tensor]) -> Vec<Tensor> {
    clean(text);
    lower(text, args)
}

/// As [`run`], without checking first.
pub fn lower(text: &str, args: &[Tensor]) -> Vec<Tensor> {
    optc_ir::interp::interpret(&graph(text, args), args).expect("it runs")
}

/// A call of `f` on tensors of these types, lowered.
pub fn graph(text: &str, args: &[Tensor]) -> optc_ir::Graph {
    let program = load(text);
    let mut ev = Evaluator::new(&program, Mode::Lower);
    let Some(Def::Item(item)) = program.lookup(ModuleId(0), "f") else { panic!("no f") };
    let mut inputs = Vec::new();
    for (i, t) in args.iter().enumerate() {
        let array = ev.cx.input(&format!("a{i}"), t.dtype, &t.shape);
        inputs.push(CallArg { name: None, value: Value::Array(array), span: Span::default() });
    }
    let f = ev.item_value(item, Span::default()).expect("f is an item");
    let result = ev.apply(&f, inputs, Span::default());
    let Ok(value) = result else { panic!("{}", show(&ev.diagnostics, &program)) };
    assert!(ev.diagnostics.is_empty(), "{}", show(&ev.diagnostics, &program));
    let mut nodes = Vec::new();
    for (_, leaf) in crate::tree::leaves(&value) {
        let a = ev.array_of(&leaf, Span::default()).expect("an array");
        nodes.push(ev.cx.node(&a));
    }
    let graph = ev.cx.graph();
    graph.outputs = nodes;
    optc_ir::verify::verify(graph).expect("a sound graph");
    graph.clone()
}

/// An f32 tensor.
pub fn t(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::from_f64(optc_abi::DType::F32, shape, values)
}

/// An i32 tensor.
pub fn n(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::from_f64(optc_abi::DType::I32, shape, values)
}

/// The values of the results of `f`.
pub fn values(text: &str, args: &[Tensor]) -> Vec<Vec<f64>> {
    run(text, args).iter().map(Tensor::to_f64).collect()
}

/// The only result of `f`, close to what is expected.
pub fn close(text: &str, args: &[Tensor], want: &[f64]) {
    let got = values(text, args);
    assert_eq!(got.len(), 1, "one result");
    assert_eq!(got[0].len(), want.len(), "{:?} for {want:?}", got[0]);
    for (a, b) in got[0].iter().zip(want) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{:?} for {want:?}", got[0]);
    }
}
