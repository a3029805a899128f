//! Operations in both modes: values through the graph interpreter, shapes with symbols.

mod arithmetic;
mod builtins;
mod indexing;
mod laws;
mod notation;
mod random;
mod robust;

use optc_abi::{DType, Tensor};
use optc_base::Span;
use optc_ops::{Arg, Array, Cx, Dim, Ix, OpError, Symbol, Val, call, materialize};
use std::sync::Arc;

/// Shape and elements of what `f` makes while lowering. The graph is verified first.
fn run(f: impl FnOnce(&mut Cx) -> Result<Val, OpError>) -> (Vec<usize>, Vec<f64>) {
    let t = tensor(f);
    (t.shape.clone(), t.to_f64())
}

fn tensor(f: impl FnOnce(&mut Cx) -> Result<Val, OpError>) -> Tensor {
    let mut cx = Cx::lower();
    let v = f(&mut cx).unwrap_or_else(|e| panic!("{e:?}"));
    let a = materialize(&mut cx, &v, None).unwrap_or_else(|e| panic!("{e:?}"));
    let node = cx.node(&a);
    let (mut graph, captured) = cx.pop_level();
    assert!(captured.is_empty());
    graph.outputs = vec![node];
    optc_ir::verify(&graph).expect("a right graph");
    optc_ir::interpret(&graph, &[]).expect("a run").remove(0)
}

/// The message of a mistake while lowering.
fn error(f: impl FnOnce(&mut Cx) -> Result<Val, OpError>) -> OpError {
    f(&mut Cx::lower()).expect_err("a mistake")
}

/// The type of what `f` makes while checking.
fn checked(f: impl FnOnce(&mut Cx) -> Result<Val, OpError>) -> String {
    match f(&mut Cx::check()).unwrap_or_else(|e| panic!("{e:?}")) {
        Val::Array(a) => {
            let dims: Vec<String> = a.shape.iter().map(Dim::to_string).collect();
            format!("{}[{}]", a.dtype, dims.join(", "))
        }
        v => format!("{v:?}"),
    }
}

fn check_error(f: impl FnOnce(&mut Cx) -> Result<Val, OpError>) -> OpError {
    f(&mut Cx::check()).expect_err("a mistake")
}

/// A literal array.
fn arr(cx: &mut Cx, dtype: DType, shape: &[usize], values: &[f64]) -> Val {
    fn nest(shape: &[usize], values: &[f64], float: bool) -> Val {
        match shape.split_first() {
            None if float => Val::Float(Some(values[0])),
            None => Val::Int(Dim::from(values[0] as i64)),
            Some((&n, rest)) => {
                let step = values.len() / n.max(1);
                Val::List((0..n).map(|i| nest(rest, &values[i * step..(i + 1) * step], float)).collect())
            }
        }
    }
    let v = if dtype == DType::Bool {
        let x = materialize(cx, &nest(shape, values, false), Some(DType::I32)).expect("an array");
        return optc_ops::cast(cx, &Val::Array(x), DType::Bool).expect("flags");
    } else {
        nest(shape, values, dtype.is_float())
    };
    Val::Array(materialize(cx, &v, Some(dtype)).expect("an array"))
}

fn f32s(cx: &mut Cx, shape: &[usize], values: &[f64]) -> Val {
    arr(cx, DType::F32, shape, values)
}
fn i32s(cx: &mut Cx, shape: &[usize], values: &[f64]) -> Val {
    arr(cx, DType::I32, shape, values)
}
/// `0, 1, 2, …` as f32.
fn ramp(cx: &mut Cx, shape: &[usize]) -> Val {
    let n: usize = shape.iter().product();
    f32s(cx, shape, &(0..n).map(|i| i as f64).collect::<Vec<_>>())
}

fn int(n: i64) -> Val {
    Val::Int(Dim::from(n))
}
fn float(x: f64) -> Val {
    Val::Float(Some(x))
}
fn ints(n: &[i64]) -> Val {
    Val::List(n.iter().map(|&n| int(n)).collect())
}

/// A named size.
fn sym(name: &str) -> Dim {
    Dim::symbol(Symbol { name: Arc::from(name), id: name.bytes().map(u32::from).sum() })
}
/// An array while checking.
fn typed(dtype: DType, shape: &[Dim]) -> Val {
    Val::Array(Array { dtype, shape: shape.to_vec(), weak: false, node: None })
}
/// A weak scalar.
fn weak(cx: &mut Cx, dtype: DType, value: f64) -> Val {
    match arr(cx, dtype, &[], &[value]) {
        Val::Array(a) => Val::Array(Array { weak: true, ..a }),
        v => v,
    }
}

/// Calls a built-in with positional and named arguments.
fn op(cx: &mut Cx, name: &str, args: &[Val], named: &[(&str, Val)]) -> Result<Val, OpError> {
    let mut all: Vec<Arg> = args.iter().map(|v| Arg { name: None, value: v.clone(), span: Span::default() }).collect();
    all.extend(named.iter().map(|(n, v)| Arg { name: Some(Arc::from(*n)), value: v.clone(), span: Span::default() }));
    call(cx, name, &all, None)
}

fn close(found: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(found.len(), want.len(), "{found:?} {want:?}");
    for (a, b) in found.iter().zip(want) {
        let same = (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= tolerance * b.abs().max(1.0);
        assert!(same, "{found:?} is not {want:?}");
    }
}

/// `x[items]` items.
fn at(v: Val) -> Ix {
    Ix::At(v, Span::default())
}
fn part(start: Option<i64>, stop: Option<i64>, step: Option<i64>) -> Ix {
    Ix::Slice { start: start.map(int), stop: stop.map(int), step: step.map(int), length: None, span: Span::default() }
}
