//! The tree of what the language can say, as snapshots.

use optc_base::SourceId;
use optc_front::{parse, print_ast};

fn tree(text: &str) -> String {
    let (file, errors) = parse(SourceId(0), text);
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
    print_ast(&file)
}

/// The tree of one expression.
fn expr(text: &str) -> String {
    let printed = tree(&format!("const c = {text}\n"));
    printed.trim().trim_start_matches("(const c ").trim_end_matches(')').to_string()
        + &")".repeat(printed.trim().chars().rev().take_while(|c| *c == ')').count() - 1)
}

#[test]
fn precedence() {
    let cases = [
        ("a + b * c", "(+ a (* b c))"),
        ("a * b + c", "(+ (* a b) c)"),
        ("-x^2", "(- (^ x 2))"),
        ("2^-1", "(^ 2 (- 1))"),
        ("2^3^4", "(^ 2 (^ 3 4))"),
        ("a - b - c", "(- (- a b) c)"),
        ("not a == b and c", "(and (not (== a b)) c)"),
        ("a or b and c", "(or a (and b c))"),
        ("x < -1", "(< x (- 1))"),
        ("0..n + 1", "(.. 0 (+ n 1))"),
        ("sum[k] a[k] * b[k] + c", "(+ (reduce sum (k) (* (index a k) (index b k))) c)"),
        ("x * sum[k] a[k] / 2", "(* x (reduce sum (k) (/ (index a k) 2)))"),
        ("sum[i] a[i] * max[j < M] b[i, j]", "(reduce sum (i) (* (index a i) (reduce max ((< j M)) (index b i j))))"),
        ("max[k]", "(index max k)"),
        ("max[0] + 1", "(+ (index max 0) 1)"),
        ("x as f32 / 255", "(/ (cast x f32) 255)"),
        ("f(x) as norm1", "(as (call f x) norm1)"),
        ("a.T @ y", "(@ (field a T) y)"),
        ("x |> f(a) |> y -> y + 1", "(|> (|> x (call f a)) (-> (y) (+ y 1)))"),
        ("x -> y -> x * y", "(-> (x) (-> (y) (* x y)))"),
        ("(a, (b, _)) -> a", "(-> (a (tuple b _)) a)"),
        ("-a * b", "(* (- a) b)"),
        ("a // b % c", "(% (// a b) c)"),
        ("a & b << 1", "(& a (<< b 1))"),
        ("~a xor b bit_or c", "(bit_or (xor (~ a) b) c)"),
        ("name matches \"*.bias\" or c", "(or (matches name \"*.bias\") c)"),
        ("if a { 1 } else { 2 } + 3", "(+ (if a (do 1) (do 2)) 3)"),
    ];
    for (text, want) in cases {
        assert_eq!(expr(text), want, "{text}");
    }
}

#[test]
fn braces_brackets_and_literals() {
    let cases = [
        ("{}", "(record)"),
        ("{ x, y }", "(record (x: x) (y: y))"),
        ("{ x }", "(do x)"),
        ("{ a.b = 1, c = { } }", "(record (a.b: 1) (c: (record)))"),
        (
            "{ \"*.bias\" | \"*.norm\": sgd(), ndim >= 2 and size < 10: f(), _: none }",
            "(groups ((name \"*.bias\" \"*.norm\") (call sgd)) ((and (>= ndim 2) (< size 10)) (call f)) (_ none))",
        ),
        ("(a,)", "(tuple a)"),
        ("()", "(tuple)"),
        ("((a))", "a"),
        ("[[1, 2], [3]]", "(list (list 1 2) (list 3))"),
        ("[f(i) for i in 0..n if c(i)]", "(collect (call f i) (for i (.. 0 n) (if (call c i))))"),
        ("[n for i, n in xs]", "(collect n (for (enumerate (tuple i n)) xs))"),
        ("x[:, -1, ..., none, ::2, a:b]", "(index x (slice _ _ _) (- 1) ... new-axis (slice _ _ 2) (slice a b _))"),
        ("reshape(x, n, ...)", "(call reshape x n ...)"),
        ("generate(8) { i -> [i] }", "(call generate 8 (-> (i) (list i)))"),
        ("1_000 + 0xFF + 1e-3", "(+ (+ 1000 255) 0.001)"),
        ("f(20%, 90s, 512MiB, 7 % 2)", "(call f (percent 0.2) (seconds 90.0) (bytes 536870912.0) (% 7 2))"),
        ("\"a {x + 1:.4f} {{b}} \\n{f(y)}\"", "(string \"a \" (format (+ x 1) \".4f\") \" {b} \\n\" (call f y))"),
        ("zeros([N], float)", "(call zeros (list N) float)"),
        ("run t(3) with { steps = 1 }", "(run (call t 3) (record (steps: 1)))"),
        ("(run t).loss", "(field (run t) loss)"),
        ("with seed = 7, precision = f64 { f(x) }", "(with (seed: 7) (precision: f64) (do (call f x)))"),
        ("time { f(x) }", "(time (do (call f x)))"),
        ("while c, at most n { f() }", "(while c (at-most n) (do (call f)))"),
        ("x.reshape(4, 2).for", "(field (call (field x reshape) 4 2) for)"),
    ];
    for (text, want) in cases {
        assert_eq!(expr(text), want, "{text}");
    }
}

#[test]
fn lines_continue_where_they_must() {
    let text = "fn f(x) {\n  let a = x +\n    1\n\n  let b = a\n    # a comment\n    |> g\n    .sum(axis = 0)\n  let c = h(\n    a,\n    { y ->\n      let z = y; z\n    })\n  if a { b }\n  else { c }\n}\n";
    let (file, errors) = parse(SourceId(0), text);
    assert_eq!(errors.len(), 1, "a call takes no block inside its parentheses: {errors:?}");
    assert_eq!(file.items.len(), 1);
    let text = text.replace("{ y ->\n      let z = y; z\n    })", "y -> {\n      let z = y; z\n    })");
    insta::assert_snapshot!("lines", tree(&text.replace('\n', "\r\n")));
}

#[test]
fn statements() {
    let text = "\u{feff}layer l(x: float[..., In], out: int) -> float[..., out] {
  param w: float[In, out] ~ random.normal() * sqrt(2 / In)
  param b: f32[out] = 0
  buffer m: f32[out] = 0
  shared cell = lstm_cell(hidden = 8)
  var s = 0.0; const k = 2 * out
  var (a, b) = (1, 2)
  let { w, b = (c, _) } = params
  let y[i < N, j] = sum[k] x[i, k] * w[k, j]
  let z = var(x) + data
  (h, c) <- cell(x, h, c)
  x[i, :] <- 1; r.f[0] <- 2
  for i, p in xs { break if p > 1; continue }
  metric n = norm(w)
  let path = for t in 0..T { h <- f(h); yield h }
  table[ids] + state
}
optimizer o(lr: float >= 0 = 1e-3, const beta: float in [0, 1) = 0.9, inner: optimizer) {
  state m: q8(block = 256)[...] = 0
  state v: keep[...] = 0
  shared state d: f32 = 1e-6
  shared let u = tree.norm(g)
  shared var e = 1
  eval w = m
}
fn round_ste(x: float[...], f: fn(f32, i32) -> f32, t: (f32, [tree]), r: { a: f32, b: forest[N] }) -> float[...] = round(x)

  gradient (ct) = ct
";
    insta::assert_snapshot!("statements", tree(text));
}

#[test]
fn blocks_and_scripts() {
    let text = "## Doc.
##   more
type forest[Cap] = { feat: i32[Cap, 15], n: i32 }
extern process decode(\"tools/qr decode\", timeout = 10s)(gray: f32[H, W]) -> { ok: bool, text: str }
data d(n: int = 4) {
  x = generate(8) { i -> i }  split train = 0.8, test = 0.2, seed = 0
}
train t {
  data      d.train, batch = 64
  model     gen = m(1) stored bf16, disc = m(2)
  optimizer gen = adam(), disc = sgd(), disc every 5
  metric    acc = mean(a == b) on d.test every 100, keep = 3
  let       z = 4
  stop when acc > 0.99
  on nan { stop }
  resume
  log \"runs/x\", formats = [csv, tensorboard]
}
search s(x, y) {
  start     [adamw, lion]
  space     { ops = std.search.lion_ops, statements <= 24, require elementwise, forbid [tan] }
  task      t { steps = 300 }, weight = 1
  fitness   median(loss) over seed in 0..3, lr in log(1e-4, 1e-1, 4)
  strategy  evolution { islands = 4 }
  control   { constants_only, random, a_a = 20 }
  budget    10min
}
experiment e(k: int) {
  let a = [run t with { seed = s } for s in 0..3]
  table { x = 1, y = 2 }
  table rows
  plot  a.loss, b.loss, x = step, log_y = true
  print \"{k}\"
  save \"f.png\", x
  check (a.last as f64) ~= b within 1e-5 relative, \"claim\"
  check a < b
  sweep lr in log(1e-4, 1e-1, 7) { print lr }
  xs.push(table)
}
";
    insta::assert_snapshot!("blocks", tree(text));
}

#[test]
fn words_of_the_script_are_names_elsewhere() {
    let joined = "experiment e {\n  check a ~= b within 1e-5 and c and d ~= e within 2 * x relative\n    and f, \"claim\"\n}\n";
    assert_eq!(tree(joined), "(experiment e () (check (~= a b) (within 1e-5) (and c (~= d e)) (within-relative (* 2 x)) f \"claim\"))\n");
    let script = "experiment e {\n  print(x, 2)\n  table(rows)\n  check(a < b, \"claim\")\n}\n";
    assert_eq!(tree(script), "(experiment e () (print x 2) (table rows) (check (< a b) \"claim\"))\n");
    let function = "fn f(x) {\n  print(x)\n  let table = check\n  table[0] + plot.y - save\n}\n";
    assert_eq!(tree(function), "(fn f (x) (do (call print x) (let table check) (- (+ (index table 0) (field plot y)) save)))\n");
    let words =
        "fn f(data, step, model, train, loss, with, run, time, on, param) = data + step * model(train) - with[run] / time + on + param\n";
    assert!(tree(words).contains("(index with run)"));
}

#[test]
fn spans_are_tight() {
    use optc_front::ast::{ExprKind, ItemKind, StmtKind};
    let text = "fn f(x) {\n  g(a, b) + (c * d)   # note\n\n  x[1 : 2]  # note\n    .sum()  # note\n  -y  \n  z -> z + 1  # end\n}\n";
    let (file, errors) = parse(SourceId(0), text);
    assert!(errors.is_empty());
    let ItemKind::Fn(f) = &file.items[0].kind else { panic!("a function") };
    let ExprKind::Block(body) = &f.body.kind else { panic!("a block") };
    let of = |i: usize| match &body.stmts[i].kind {
        StmtKind::Expr(e) => &text[e.span.range()],
        _ => "no expression",
    };
    assert_eq!(of(0), "g(a, b) + (c * d)");
    assert_eq!(of(1), "x[1 : 2]  # note\n    .sum()");
    assert_eq!(of(2), "-y");
    assert_eq!(of(3), "z -> z + 1");
    let StmtKind::Expr(first) = &body.stmts[0].kind else { panic!("an expression") };
    let ExprKind::Binary(_, _, right) = &first.kind else { panic!("a sum") };
    assert_eq!(&text[right.span.range()], "(c * d)");
}

#[test]
fn ids_are_unique_and_depend_on_the_text_alone() {
    use optc_front::ast::{ExprKind, ItemKind};
    let text = "const a = 1\nconst b = f(2, 3)\n";
    let ids = |source: u32| {
        let (file, _) = parse(SourceId(source), text);
        let mut ids = Vec::new();
        for item in &file.items {
            let ItemKind::Const { value, .. } = &item.kind else { continue };
            ids.push(value.id);
            if let ExprKind::Call { callee, args } = &value.kind {
                ids.push(callee.id);
                ids.extend(args.iter().map(|a| a.value.id));
            }
        }
        ids
    };
    let first = ids(3);
    assert_eq!(first, ids(3));
    let mut all = first.clone();
    all.extend(ids(4));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}
