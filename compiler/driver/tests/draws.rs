//! Every draw is the same whether a graph is interpreted or compiled, and has the same bits for one thread and two.
//!
//! What is exact in the words (uniforms, integers, orders) has the same bits interpreted too; laws made with logarithms, cosines and error functions agree up to the rounding
//! of these.

use optc::Session;
use optc::host_env::{Driver, Settings};
use optc::session::Files;
use optc_abi::{DType, Tensor};
use optc_base::{Diagnostic, Severity};
use optc_elab::host::{HostEnv, Loaded, Output, ProcessRequest, RunResult, SourceRequest};
use optc_ir::Graph;
use optc_ir::interp::interpret;
use std::sync::Arc;

/// Runs each graph three ways and compares.
struct Three {
    one: Driver,
    two: Driver,
    graphs: usize,
    /// Whether interpreted bits are the same too.
    exact: bool,
}

impl HostEnv for Three {
    fn execute(&mut self, graph: &Graph, inputs: &[Arc<Tensor>]) -> Result<Vec<Tensor>, Diagnostic> {
        let one = self.one.execute(graph, inputs)?;
        let two = self.two.execute(graph, inputs)?;
        let plain: Vec<Tensor> = inputs.iter().map(|t| (**t).clone()).collect();
        let interpreted = interpret(graph, &plain).expect("the interpreter runs what is compiled");
        self.graphs += 1;
        for (k, ((a, b), i)) in one.iter().zip(&two).zip(&interpreted).enumerate() {
            assert_eq!(a.bytes(), b.bytes(), "result {k} on one thread and on two");
            let rounding = if self.exact { 0.0 } else { 16.0 * epsilon(a.dtype) };
            let same = |x: f64, y: f64| x.to_bits() == y.to_bits() || (x - y).abs() <= rounding * x.abs().max(1.0);
            let apart: Vec<(f64, f64)> = a.to_f64().into_iter().zip(i.to_f64()).filter(|(x, y)| !same(*x, *y)).collect();
            let ty = graph.ty(graph.outputs[k]);
            assert!(apart.is_empty(), "result {k}, {ty}, compiled and interpreted: {apart:?}");
        }
        Ok(one)
    }
    fn load(&mut self, request: &SourceRequest) -> Result<Loaded, Diagnostic> {
        self.one.load(request)
    }
    fn split(&mut self, n: usize, fractions: &[f64], seed: Option<u64>) -> Vec<Vec<usize>> {
        self.one.split(n, fractions, seed)
    }
    fn train(&mut self, program: optc_elab::TrainProgram) -> Result<RunResult, Diagnostic> {
        self.one.train(program)
    }
    fn ask(&mut self, request: &ProcessRequest) -> Result<(serde_json::Value, String), Diagnostic> {
        self.one.ask(request)
    }
    fn output(&mut self, output: Output) -> Result<(), Diagnostic> {
        self.one.output(output)
    }
    fn now(&mut self) -> f64 {
        self.one.now()
    }
}

/// The distance of 1 from the next number.
fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F32 => f64::from(f32::EPSILON),
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        _ => 0.0,
    }
}

/// Evaluates a draw three ways: by itself, in a loop and under `vmap`.
fn check(draw: &'static str, exact: bool) {
    let text = format!(
        "fn one() = {draw}
fn looped() = for i in 0..5 {{ yield {draw} }}
fn batch(x: f32[N]) = vmap(i -> ({draw}, i))(x)
experiment all {{
  let a = one()
  check tree.equal(a, a), \"by itself\"
  let l = looped()
  check tree.equal(l, l), \"in a loop\"
  let b = batch(zeros([3]))
  check tree.equal(b, b), \"in a batch\"
  print a, l, b
}}
"
    );
    let work = move || {
        let mut session = Session::from_text("draws.opt", text, &Files);
        session.check();
        let shown: String = session.diagnostics.iter().map(|d| d.render(&session.program.sources, false)).collect();
        assert!(session.diagnostics.iter().all(|d| d.severity != Severity::Error), "{shown}");
        let driver =
            |threads| Driver::new(Settings { threads, quiet: true, color: false, spec: session.path.clone(), text: session.text.clone() });
        let mut three = Three { one: driver(1), two: driver(2), graphs: 0, exact };
        let item = session.experiments().into_iter().next().expect("an experiment");
        if let Err(found) = optc_elab::script::run_experiment(&session.program, item, &session.settings, &mut three) {
            panic!("{draw}: {}", found.iter().map(|d| d.render(&session.program.sources, false)).collect::<String>());
        }
        assert!(three.graphs > 0 && three.one.failures.is_empty());
    };
    let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(work).expect("a thread can be started");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

macro_rules! draws {
    ($($name:ident $exact:literal: $($draw:literal),+;)*) => {
        $(#[test] fn $name() { [$($draw),+].into_iter().for_each(|draw| check(draw, $exact)); })*
    };
}

draws! {
    words true: "random.bits([3, 171])", "random.rademacher([300])", "random.rademacher([30], i32)";
    uniforms true: "random.uniform([3, 171])", "random.uniform([300], f64)", "random.uniform([300], bf16)", "random.uniform([300], -2, 3)";
    halves false: "random.uniform([300], f16)", "random.normal([300], f16)", "random.normal([300], bf16)";
    integers true: "random.integer([300], -5, 1000)", "random.integer([300], 0, 7, i64)", "random.bernoulli([300], 0.3)";
    orders true: "random.permutation(50)", "random.choice([40], 50, replace = false)", "random.choice([4, 10], iota(50))";
    normals false: "random.normal([3, 171])", "random.normal([300], f64)", "random.normal([300], 1.5, 0.1)";
    exponentials false: "random.exponential([300])", "random.exponential([300], 2, f64)";
    truncated_normals false: "random.truncated_normal([300])", "random.truncated_normal([300], 3.5, inf)", "random.truncated_normal([300], f64)";
    gammas false: "random.gamma([300], 2.5)", "random.gamma([100], 0.3, f64)";
    categories true: "random.categorical([300], [0.0, 1.0, -2.0])";
    weighted_choices true: "random.choice([30], 50, replace = false, p = iota(50) as f32)", "random.choice([30], 50, p = iota(50) as f32)";
}
