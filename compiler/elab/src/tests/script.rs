//! The script: arrays that are looked at.

use super::*;
use crate::host::{HostEnv, Loaded, Output, ProcessRequest, RunResult, SourceRequest};
use optc_ir::Graph;
use std::sync::Arc;

#[derive(Default)]
struct Host {
    /// Matrix products in what was executed.
    products: usize,
    executed: usize,
}
impl HostEnv for Host {
    fn execute(&mut self, graph: &Graph, inputs: &[Arc<Tensor>]) -> Result<Vec<Tensor>, Diagnostic> {
        self.executed += 1;
        self.products += graph.ids().filter(|&id| matches!(graph.node(id).op, optc_ir::Op::Dot(_))).count();
        optc_ir::verify::verify(graph).expect("a sound graph");
        let inputs: Vec<Tensor> = inputs.iter().map(|t| (**t).clone()).collect();
        Ok(optc_ir::interp::interpret(graph, &inputs).expect("it runs"))
    }
    fn load(&mut self, _request: &SourceRequest) -> Result<Loaded, Diagnostic> {
        unreachable!("no data here")
    }
    fn split(&mut self, _n: usize, _fractions: &[f64], _seed: Option<u64>) -> Vec<Vec<usize>> {
        Vec::new()
    }
    fn train(&mut self, _program: crate::TrainProgram) -> Result<RunResult, Diagnostic> {
        unreachable!("no training here")
    }
    /// Answers with what it was asked, beside how much that was.
    fn ask(&mut self, request: &ProcessRequest) -> Result<(serde_json::Value, String), Diagnostic> {
        let mut reply = request.message.clone();
        let fields = reply.as_object_mut().expect("an object");
        fields.insert("count".into(), fields.len().into());
        let line = reply.to_string();
        Ok((reply, line))
    }
    fn output(&mut self, _output: Output) -> Result<(), Diagnostic> {
        Ok(())
    }
    fn now(&mut self) -> f64 {
        0.0
    }
}

/// The text of a string that `f()` of a script gives.
fn says(text: &str, want: &str) {
    says_on(&mut Host::default(), text, want);
}

fn says_on(host: &mut Host, text: &str, want: &str) {
    let program = load(text);
    let mut ev = Evaluator::new(&program, Mode::Host);
    ev.host = Some(host);
    let Some(Def::Item(item)) = program.lookup(ModuleId(0), "f") else { panic!("no f") };
    let f = ev.item_value(item, Span::default()).expect("f");
    let result = ev.apply(&f, Vec::new(), Span::default());
    let Ok(value) = result else { panic!("{}", show(&ev.diagnostics, &program)) };
    let got = ev.text(&value, None, Span::default()).ok().flatten().unwrap_or_default();
    assert_eq!(got, want);
}

#[test]
fn values_are_looked_at_where_the_script_steers() {
    says("host fn f() { let x = sum(iota(5) as f32); if x > 9 { \"{x:.1f}\" } else { \"small\" } }", "10.0");
    says("host fn f() { var xs = []; for i in 0..4 { xs.push(i * i) }; \"{xs} {len(xs)}\" }", "[0, 1, 4, 9] 4");
    says("host fn f() { let x = iota(6) as f32; \"{x[x > 2]}\" }", "[3, 4, 5]");
    says("fn zs(n: int) -> f32[n] = ones([n])\nhost fn f() { let k = argmax([1.0, 5.0, 2.0]) + 1; \"{zs(k)}\" }", "[1, 1]");
    says("host fn f() { var w = 1.0; for i in 0..5 { w <- w - 0.5 * grad(w -> w^2)(w); continue if w > 10 }; \"{w}\" }", "0");
}

#[test]
fn lists_are_sorted_and_taken_apart() {
    says("host fn f() { let xs = [(2, 1), (1, 5)]; let ys = sort(xs, by = p -> { let (a, b) = p; a }); \"{ys}\" }", "[(1, 5), (2, 1)]");
    says("host fn f() { var out = \"\"; for (k, v) in { a = 1, b = 2 } { out <- out + \"{k}{v}\" }; out }", "a1b2");
}

#[test]
fn processes_get_and_give_what_is_declared() {
    let spec = |result: &str, body: &str| {
        format!(
            "extern process echo(\"echo\", timeout = 2s)(x: f32[H, W], n: int, names: [str], ok: bool = true) -> {result}\n\
             host fn f() {{ let r = echo([[0.5, 1.5, inf_not], [2.0, 3.0, 4.0]], 3, [\"a\", \"b\"]); {body} }}\n"
        )
        .replace("inf_not", "-1.0")
    };
    says(
        &spec("{ x: f32[H, W], n: int, names: [str], ok: bool, count: i32 }", "\"{r.x + 1} {r.n + 1} {r.names[1]} {r.ok} {r.count}\""),
        "[[1.5, 2.5, 0], [3, 4, 5]] 4 b true 4",
    );
    // Names of dimensions that only the answer gives.
    says(&spec("{ x: f32[A, B] }", "\"{shape(r.x)[1]}\""), "3");
}

#[test]
fn values_with_names_are_computed_once() {
    let times = |body: &str, want: &str| {
        let mut host = Host::default();
        says_on(&mut host, &format!("fn w() = with seed = 1 {{ let a = random.normal([8, 8]); a @ a }}\nhost fn f() {{ {body} }}"), want);
        (host.products, host.executed)
    };
    // Looked at in each pass of a loop: one product. Elements of what is known are not worth a program.
    let (products, executed) = times("let w = w(); var n = 0; for i in 0..20 { if w[i % 8, 0] > -100 { n <- n + 1 } }; \"{n}\"", "20");
    assert_eq!(products, 1);
    assert!(executed <= 3, "{executed}");
    assert_eq!(times("let r = { a = [w()], k = 1 }; for i in 0..5 { \"{sum(r.a[0]):.0f}\" }; \"\"", "").0, 1);
    assert_eq!(times("var xs = []; xs.push(w()); for i in 0..5 { \"{xs[0][i, i]:.0f}\" }; \"\"", "").0, 1);
}

#[test]
fn small_exact_computations_need_no_program() {
    let mut host = Host::default();
    says_on(&mut host, "host fn f() { let x = iota(2000) as f32; var s = 0.0; for i in 0..50 { s <- s + x[i * 3] }; \"{s}\" }", "3675");
    assert!(host.executed <= 1, "{}", host.executed);
}
