//! One mistake each: the code, and where.

use super::*;

fn one(text: &str, code: &str, place: &str) {
    let (errors, program) = check(text);
    let found: Vec<&str> = errors.iter().map(|d| d.code.0).collect();
    assert_eq!(found, [code], "{}", show(&errors, &program));
    assert_eq!(program.sources.slice(errors[0].primary.span), place, "{}", show(&errors, &program));
}

#[test]
fn names() {
    one("fn f(x: f32) -> f32 = x + yy", "E0220", "yy");
    one("fn f(x: f32[N]) -> f32 = summ(x)", "E0220", "summ");
    one("fn f(x: f32, scale: f32 = 1) -> f32 = x * scale\nfn g(x: f32) -> f32 = f(x, sclae = 2)", "E0221", "2");
    one("fn f(x: f32) -> f32 {\n  let s = x\n  s <- s + 1\n  s\n}", "E0222", "s");
    one("fn f(x: f32) -> f32 {\n  total <- x\n  x\n}", "E0223", "total");
    one("fn f(x: f32[N]) -> f32 {\n  let r = { total = sum(x), count = 3 }\n  r.totl\n}", "E0224", "totl");
    one("fn f(x: f32[N]) -> f32 = x.mean_value", "E0224", "mean_value");
}

#[test]
fn calls() {
    one("fn f(x: f32) -> f32 = x(3)", "E0330", "x");
    one("fn f(x: f32, y: f32) -> f32 = x + y\nfn g(x: f32) -> f32 = f(x)", "E0331", "f(x)");
    one("fn f(x: f32) -> f32 = x\nfn g(x: f32) -> f32 = f(x, 1, 2)", "E0332", "1");
    one("fn f(x: f32[N]) -> f32 {\n  let (a, b, c) = (sum(x), mean(x))\n  a + b + c\n}", "E0335", "(a, b, c)");
    one("fn f(x: f32[N]) -> i32[N] = x * 2", "E0334", "x * 2");
    one("loss l(x: f32[B, K]) -> f32[B] = sum(x, axis = -1)", "E0340", "sum(x, axis = -1)");
}

#[test]
fn conditions() {
    one("fn f(x: f32[N]) -> f32[N] = if x > 0 { x } else { -x }", "E0337", "x > 0");
    one("fn f(x: f32) -> f32 = if x { 1.0 } else { 2.0 }", "E0336", "x");
    one("fn f(x: f32, n: i32) -> f32 = if x > 0 { x } else { n }", "E0338", "if x > 0 { x } else { n }");
}

#[test]
fn shapes() {
    one("fn norm3(x: f32[3]) -> f32 = norm(x)\nfn f(y: f32[4]) -> f32 = norm3(y)", "E0420", "y");
    one("fn dot2(x: f32[N], y: f32[N]) -> f32 = sum(x * y)\nfn f(a: f32[3], b: f32[5]) -> f32 = dot2(a, b)", "E0421", "b");
    one("fn f(x: f32[B, In], w: f32[In, Out]) -> f32[Out, B] = x @ w", "E0422", "x @ w");
    one("layer l(x: f32[B, 4]) -> f32[B, 3] {\n  param w: f32[4, 3] ~ random.normal([5, 3])\n  x @ w\n}", "E0423", "random.normal([5, 3])");
    one("fn f(x: f32[3], n: i32) -> f32[3] {\n  var h = x\n  for i in 0..n { h <- concat([h, h]) }\n  h\n}", "E0424", "concat([h, h])");
    let model = "model m(x: f32[B, 64]) -> f32[B, 10] {\n  param w: f32[64, 10] ~ random.normal()\n  x @ w\n}\n";
    one(&format!("{model}fn f(x: f32[8, 63]) -> f32[8, 10] {{\n  let p = init(m(), zeros([8, 64]))\n  apply(m(), p, x)\n}}"), "E0420", "x");
}

#[test]
fn models() {
    one(
        "model m(x: f32[B, 4]) -> f32[B, 4] {\n  param w: f32[4] = 1\n  x * w\n}\nfn f(x: f32[2, 4]) -> f32[2, 4] = m()(x)",
        "E0341",
        "m()(x)",
    );
    one("fn f(x: f32[N]) -> f32[N] {\n  param w: f32[N] = 0\n  x + w\n}", "E0342", "param w: f32[N] = 0");
    one("fn f(x: f32[N]) -> f32[N] {\n  state m = 0\n  x + m\n}", "E0343", "state m = 0");
}

#[test]
fn derivatives() {
    one("fn f(x: f32[N]) -> f32[N] = x^2\nfn g(x: f32[N]) -> f32[N] = grad(f)(x)", "E0339", "grad(f)(x)");
    one("fn f(x: f32[N]) -> f32[N] = x^3\nfn g(x: f32[N]) -> f32[N, N] = hessian(f)(x)", "E0339", "hessian(f)(x)");
    one("fn f(x: f32) -> f32 = x^2\nfn g(x: f32) -> f32 = vmap(f)(x)", "E0428", "x");
}

#[test]
fn several_mistakes_are_found_in_one_run() {
    assert_eq!(
        codes("fn f(x: f32) -> f32 {\n  let a = xx\n  let b = yy\n  a + b\n}\nfn g(x: f32) -> f32 = zz"),
        ["E0220", "E0220", "E0220"]
    );
}

#[test]
fn ranges() {
    one("fn f(x: f32, rate: float in [0, 1) = 0.5) -> f32 = x * rate\nfn g(x: f32) -> f32 = f(x, rate = 1.0)", "E0530", "1.0");
    clean("fn f(x: f32, rate: float in [0, 1] = 0.5) -> f32 = x * rate\nfn g(x: f32) -> f32 = f(x, rate = 1.0)");
}

/// The specs on the pages of this crate's own codes: the first has the mistake, the second has none.
#[test]
fn yields_and_exits_of_loops() {
    one("fn f(x: f32[N]) -> f32[N] = for v in x { if v > 0 { yield v } }", "E0354", "if v > 0 { yield v }");
    one("fn f(x: f32[N]) -> f32[N] = for v in x { yield v; yield v }", "E0354", "for v in x { yield v; yield v }");
    one("fn f(x: f32[3]) -> f32[6] = for v in x { yield v; yield v }", "E0354", "for v in x { yield v; yield v }");
    clean("fn f(x: f32[N]) -> f32[N] = for v in x { if v > 0 { yield v } else { yield 0 } }");
    one("fn f(x: f32[N]) -> f32[N] = for v in x { break if v > 2; yield v }", "E0354", "for v in x { break if v > 2; yield v }");
    one(
        "fn f(x: f32[3]) -> f32[3] = for v in x { if v > 2 { continue }; yield v }",
        "E0354",
        "for v in x { if v > 2 { continue }; yield v }",
    );
    clean("fn f(n: int, x: f32[N]) -> f32[N] = for v in x { continue if n > 2; yield v }");
    one("fn f(x: f32) -> f32 { break if x > 0; x }", "E0353", "break if x > 0");
    one("fn f(x: f32[N]) -> f32 {\n  var s = 0.0\n  for v in x { let g = y -> { break; y }; s <- s + g(v) }\n  s\n}", "E0353", "break");
}

#[test]
fn pages_show_the_mistake_and_the_remedy() {
    let own = |code: &str| matches!(&code[..4], "E022" | "E033" | "E034" | "E035" | "E042" | "E053" | "E071");
    let mut faults = String::new();
    let mut seen = 0;
    for (code, page) in optc_base::pages::all().iter().filter(|(c, _)| own(c)) {
        let block = |mark: &str| page.split_once(mark).and_then(|(_, rest)| rest.split_once("```")).map(|(text, _)| text);
        let (Some(fail), Some(fix)) = (block("```opt fail\n"), block("```opt fix\n")) else {
            faults.push_str(&format!("{code}: no specs\n"));
            continue;
        };
        seen += 1;
        // A recursion ends, or not, only when it is followed; what has no meaning yet is met when code is made. Both pages are with the tests of the driver.
        let found = if matches!(*code, "E0350" | "E0710") { vec![*code] } else { codes(fail) };
        if !found.contains(code) {
            faults.push_str(&format!("{code}: the first spec gives {found:?}\n"));
        }
        let (errors, program) = check(fix);
        if !errors.is_empty() {
            faults.push_str(&format!("{code}: the second spec\n{}\n", show(&errors, &program)));
        }
    }
    assert!(seen > 30, "{seen} pages");
    assert!(faults.is_empty(), "{faults}");
}
