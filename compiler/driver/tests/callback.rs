//! Plans that call back: where a callback fails nothing of the caller's has been changed.

use optc::cache::Compiler;
use optc::pipeline::CompileOptions;
use optc_abi::plan::status;
use optc_abi::{DType, Tensor};
use optc_exec::Callback;
use optc_ir::graph::{Graph, LoopOp, NodeId, Op};
use optc_ir::{Origin, ScalarOp, Ty};
use std::ffi::c_void;
use std::sync::Arc;

const LEN: usize = 600_000;

/// Calls made, and the one that fails.
struct Asked {
    calls: usize,
    fails: usize,
}

/// Function 0: a loss, and the gradient 2 w.
unsafe extern "C" fn answer(data: *mut c_void, function: u32, buffers: *const *mut u8) -> i32 {
    // SAFETY: the data of the test; a vector, a scalar of f64 and a vector.
    let (asked, w, loss, gradient) = unsafe {
        let asked = &mut *data.cast::<Asked>();
        let w = std::slice::from_raw_parts((*buffers).cast::<f32>(), LEN);
        let gradient = std::slice::from_raw_parts_mut((*buffers.add(2)).cast::<f32>(), LEN);
        (asked, w, &mut *(*buffers.add(1)).cast::<f64>(), gradient)
    };
    asked.calls += 1;
    if function != 0 || asked.calls == asked.fails {
        return 1;
    }
    *loss = w.iter().map(|x| f64::from(x * x)).sum();
    gradient.iter_mut().zip(w).for_each(|(g, w)| *g = 2.0 * w);
    0
}

fn ask(g: &mut Graph, w: NodeId) -> [NodeId; 2] {
    let o = Origin::default();
    let results = [Ty::scalar(DType::F64), Ty::new(DType::F32, [LEN])].into();
    let call = g.op(Op::Callback { function: 0, results }, &[w], o);
    [0, 1].map(|k| g.result(call, k, o))
}

/// `w - gradient / 4`, half of `w`.
fn descend(g: &mut Graph, w: NodeId) -> NodeId {
    let o = Origin::default();
    let [_, gradient] = ask(g, w);
    let quarter = g.splat(&Ty::new(DType::F32, [LEN]), 0.25, o);
    let step = g.map(ScalarOp::Mul, &[gradient, quarter], o);
    g.map(ScalarOp::Sub, &[w, step], o)
}

/// Updates of a vector and of two arrays that do not depend on what is asked, one of them large enough to be made early.
fn with(update: impl FnOnce(&mut Graph, NodeId, NodeId) -> NodeId) -> Graph {
    let o = Origin::default();
    let mut g = Graph::new();
    let w = g.input("w", Ty::new(DType::F32, [LEN]), o);
    let m = g.input("m", Ty::new(DType::F32, [LEN]), o);
    let count = g.input("count", Ty::scalar(DType::I32), o);
    let one = g.scalar(DType::I32, 1.0, o);
    let next = g.map(ScalarOp::Add, &[count, one], o);
    let more = g.map(ScalarOp::Add, &[m, m], o);
    let new = update(&mut g, w, next);
    g.outputs = vec![new, more, next];
    g
}

/// Three halvings in a loop whose number of passes is known when it runs.
fn in_a_loop(g: &mut Graph, w: NodeId, passes: NodeId) -> NodeId {
    let o = Origin::default();
    let mut body = Graph::new();
    body.input("pass", Ty::scalar(DType::I32), o);
    let x = body.input("x", Ty::new(DType::F32, [LEN]), o);
    let new = descend(&mut body, x);
    body.outputs = vec![new];
    let op = LoopOp { trip: None, reverse: false, carried: 1, scanned: 0, guard: None, body: Arc::new(body) };
    g.loop_results(op, &[passes, w], o)[0]
}

/// Two halvings in a branch.
fn in_a_branch(g: &mut Graph, w: NodeId, number: NodeId) -> NodeId {
    let o = Origin::default();
    let side = |descends: bool| {
        let mut side = Graph::new();
        let mut x = side.input("x", Ty::new(DType::F32, [LEN]), o);
        for _ in 0..if descends { 2 } else { 0 } {
            x = descend(&mut side, x);
        }
        side.outputs = vec![x];
        Arc::new(side)
    };
    let zero = g.scalar(DType::I32, 0.0, o);
    let pred = g.map(ScalarOp::Lt, &[zero, number], o);
    g.cond_results(pred, side(true), side(false), &[w], o)[0]
}

#[test]
fn a_callback_that_fails_leaves_everything_as_it_was() {
    let cases = [
        (with(|g, w, _| descend(g, w)), 1, 0.5),
        (with(in_a_loop), 3, 0.125),
        (with(in_a_branch), 2, 0.25),
        (
            with(|g, w, passes| {
                let x = in_a_loop(g, w, passes);
                descend(g, x)
            }),
            4,
            0.0625,
        ),
    ];
    for (k, (graph, calls, factor)) in cases.into_iter().enumerate() {
        let mut compiler = Compiler::new(2);
        let options = CompileOptions { alias: vec![(0, 0), (1, 1), (2, 2)], ..CompileOptions::default() };
        let mut program = compiler.program(&graph, &options).expect("it compiles");
        let start: Vec<f32> = (0..LEN).map(|i| i as f32).collect();
        let mut inputs = [Tensor::from_slice(&[LEN], &start), Tensor::from_slice(&[LEN], &start), Tensor::scalar(2i32)];
        let before = inputs.clone();
        for fails in (1..=calls).chain([0]) {
            let mut asked = Asked { calls: 0, fails };
            let callback = Callback { function: answer, data: (&raw mut asked).cast() };
            // SAFETY: the function fits the graph, and runs no program.
            unsafe { program.call_back(Some(callback)) };
            let ran = program.run(&mut inputs);
            if fails > 0 {
                assert_eq!(ran.expect_err("it failed").status.code, status::CALLBACK, "case {k}");
                assert!(asked.calls == fails && inputs == before, "case {k}, call {fails}");
                continue;
            }
            ran.expect("it runs");
            assert_eq!(asked.calls, calls, "case {k}");
            for (n, x) in inputs[0].as_slice::<f32>().iter().enumerate() {
                assert_eq!(*x, factor * n as f32, "case {k}");
            }
            assert_eq!(inputs[2].get_f64(0), 3.0);
        }
        // Without a callback a run fails, too.
        // SAFETY: there is none.
        unsafe { program.call_back(None) };
        let before = inputs.clone();
        assert_eq!(program.run(&mut inputs).expect_err("nobody answers").status.code, status::CALLBACK);
        assert!(inputs == before);
    }
}

#[test]
fn equal_questions_are_asked_once() {
    let graph = with(|g, w, _| {
        let (a, b) = (descend(g, w), descend(g, w));
        g.map(ScalarOp::Add, &[a, b], Origin::default())
    });
    let mut program = Compiler::new(1).program(&graph, &CompileOptions::default()).expect("it compiles");
    let mut asked = Asked { calls: 0, fails: 0 };
    // SAFETY: the function fits the graph, and runs no program.
    unsafe { program.call_back(Some(Callback { function: answer, data: (&raw mut asked).cast() })) };
    let ones = Tensor::from_slice(&[LEN], &vec![1f32; LEN]);
    let out = program.run(&mut [ones.clone(), ones, Tensor::scalar(0i32)]).expect("it runs");
    assert_eq!((asked.calls, out[0].get_f64(5)), (1, 1.0));
}
