//! Messages for broken files.

use optc_base::{SourceId, SourceMap};
use std::path::Path;

fn messages(name: &str, text: &str) -> String {
    let mut sources = SourceMap::default();
    sources.add(name, text);
    let (_, errors) = optc_front::parse(SourceId(0), text);
    errors.iter().map(|e| e.render(&sources, false)).collect()
}

#[test]
fn broken_specs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/check");
    let mut names: Vec<String> = std::fs::read_dir(folder.clone())
        .expect("the folder exists")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n.starts_with("syntax_") && n.ends_with(".opt"))
        .collect();
    names.sort();
    let mut all = String::new();
    for name in names {
        let text = std::fs::read_to_string(folder.join(&name)).expect("readable");
        let printed = messages(&name, &text);
        assert!(!printed.is_empty(), "{name} gives no message");
        all.push_str(&printed);
    }
    insta::assert_snapshot!("broken_specs", all);
}

/// Code, line and text under the primary label of every message.
fn brief(text: &str) -> Vec<String> {
    let mut sources = SourceMap::default();
    sources.add("t", text);
    let (_, errors) = optc_front::parse(SourceId(0), text);
    let line = |e: &optc_base::Diagnostic| sources.line_column(e.primary.span).0;
    errors.iter().map(|e| format!("{} {} {:?}: {}", e.code, line(e), sources.slice(e.primary.span), e.message)).collect()
}

#[test]
fn several_errors_of_one_file() {
    let text = "fn f(x: f32) -> f32 {
  let a = x +
  let b = (a * 2
  let c = [1, 2 3]
  a + b
}

train t {
  data  d.train, batch = = 64
  model net = m(
  loss  net(x)
  steps 10 20
}

fn g(x: f32) -> f32 = x

experiment e {
  let r = run t with { seed = 1, }
  check r.loss.last < 1 0, \"x\"
  for i 0..3 { print i }
  plot { a = r.loss } x = step
}

fn h(x: f32, -> f32 = x
const k: = 3
";
    insta::assert_snapshot!("several_errors", brief(text).join("\n"));
    let (file, _) = optc_front::parse(SourceId(0), text);
    let names: Vec<&str> = file.items.iter().filter_map(|i| i.name()).map(|n| &*n.text).collect();
    assert_eq!(names, ["f", "t", "g", "e", "h", "k"], "every item is in the tree, broken ones too");
}

#[test]
fn common_slips() {
    let cases = [
        ("def f(x) = x\n", "E0112 1 \"def\": no item starts with `def`"),
        ("let x = 3\n", "E0112 1 \"let\": no item starts with `let`"),
        ("fn f(x) = x ? 1 : 2\n", "E0116 1 \"?\": `?` is not in the language"),
        ("fn f(x) = 'a'\n", "E0116 1 \"'\": `'` is not in the language"),
        ("fn f(x) = x.0\n", "E0101 1 \"0\": tuples have no fields"),
        ("fn f(x) = x)\n", "E0102 1 \")\": this `)` closes nothing"),
        ("fn f(x) = f(a: 1)\n", "E0101 1 \":\": expected an operator, `,` or `)`, found `:`"),
        ("fn f(x) {\n  for i 0..3 { }\n}\n", "E0101 2 \"0\": expected `in`, found `0`"),
        ("fn f(x) {\n  if x > 0\n  { 1 }\n}\n", "E0101 3 \"{\": a block starts on the line of its head"),
        ("const s = \"{x\"\n", "E0103 1 \"{\": this `{` is not closed in the string"),
        ("const s = \"\\q\"\n", "E0103 1 \"\\\\q\": unknown escape in a string"),
        ("const s = \"{1 +}\"\n", "E0103 1 \"1 +\": this is not an expression"),
        ("const s = 99999999999999999999\n", "E0106 1 \"99999999999999999999\": the number does not fit into 64 bits"),
        ("fn f(x) = 2^sum[k] x[k]\n", "E0111 1 \"sum[k] x[k]\": a reduction in an exponent needs parentheses"),
        ("fn f(x) {\n  f(x) <- 2\n}\n", "E0114 2 \"f(x)\": this cannot be updated"),
        ("fn f(x) {\n  x y\n}\n", "E0115 2 \"y\": expected the end of the statement, found `y`"),
        ("fn f(x) = x fn g(x) = x\n", "E0115 1 \"fn\": expected the end of the item, found `fn`"),
        ("fn f(x): f32 = x\n", "E0101 1 \":\": expected `=` or `{`, found `:`"),
        ("fn f(x) = g(x]\n", "E0102 1 \"]\": this `]` cannot close a `(`"),
        ("layer l(x) {\n  param w = 0\n  x\n}\n", "E0113 2 \"w\": a type is missing after `w`"),
        ("import std.nn.{linear relu}\n", "E0101 1 \"relu\": expected `,`, found `relu`"),
        ("fn f(x) { let (a, b = x; a }\n", "E0102 1 \"(\": this `(` is not closed"),
        ("fn f(x)\n  x + 1\n", "E0101 1 \")\": expected `=` or `{` after `)`, but the line ends"),
        ("model m {\n  1\n}\n", "E0101 1 \"{\": expected `(` and parameters, found `{`"),
    ];
    let mut faults = String::new();
    for (text, want) in cases {
        let got = brief(text);
        if got != [want] {
            faults.push_str(&format!("{text}gives {got:#?}\ninstead of {want}\n"));
        }
    }
    assert!(faults.is_empty(), "{faults}");
}
