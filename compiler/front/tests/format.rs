//! The formatter: files of the repository are in its style; formatting keeps the meaning and is stable.

use optc_base::SourceId;
use optc_front::{format, parse, print_ast};
use std::path::{Path, PathBuf};

fn specs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder exists").flatten() {
        let path = entry.path();
        if path.is_dir() {
            specs(&path, found);
        } else if path.extension().is_some_and(|e| e == "opt") {
            found.push(path);
        }
    }
}

fn files(folders: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for folder in folders {
        specs(&root.join(folder), &mut found);
    }
    found.sort();
    found.iter().map(|f| (f.display().to_string(), std::fs::read_to_string(f).expect("readable"))).collect()
}

fn tree(text: &str) -> String {
    print_ast(&parse(SourceId(0), text).0)
}

/// Lines that differ, for messages.
fn difference(a: &str, b: &str) -> String {
    let lines = a.lines().zip(b.lines()).filter(|(a, b)| a != b).take(8);
    lines.map(|(a, b)| format!("- {a}\n+ {b}\n")).collect()
}

#[test]
fn files_of_the_repository_are_formatted() {
    let mut faults = String::new();
    assert!(files(&["stdlib", "examples"]).len() > 40);
    for (name, text) in files(&["stdlib", "examples", "tests/parity", "bench/specs"]) {
        let done = format(&text).expect("it parses");
        if done != text {
            faults.push_str(&format!("{name}\n{}", difference(&text, &done)));
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// Every layout of a file gives the same text, tree included.
#[test]
fn formatting_is_stable_and_keeps_the_tree() {
    for (name, text) in files(&["stdlib", "examples", "bench/specs"]) {
        let flat: String = text.lines().map(|l| l.trim().to_string() + "\n").collect();
        let wide: String =
            text.lines().map(|l| if l.trim_start().starts_with('#') { l.to_string() } else { format!("    {l}   ") } + "\n\n\n").collect();
        let tight = text.replace(" + ", "+").replace(" * ", "*").replace(", ", ",").replace(" = ", "=").replace(" |> ", "|>");
        for variant in [flat, wide, tight] {
            let Ok(once) = format(&variant) else { panic!("{name} does not parse:\n{variant}") };
            let twice = format(&once).expect("it parses");
            assert_eq!(once, twice, "{name}: {}", difference(&once, &twice));
            let (before, after) = (tree(&variant), tree(&once));
            assert!(before == after, "{name}: {}", difference(&before, &after));
        }
    }
}

#[test]
fn style() {
    let text = "fn f(x:f32[N],n:int=2)->f32{
let a=if x<-1{-x}else{x*2^-1}   # note


      var s=0.0
for i in 0 .. n{s<-s+a [i]* -1}

let p={a=1,b=[1,2 , 3]}
let g = long_call(
a,
{ x = 1,
y = 2 },
)
let h = a +
b
|> f
if s>0 {
s
} else {
g(x [1 : 2],x[:,-1])
}
}
train t{
data d.train,batch=64
optimizer sgd(lr=0.1)
checkpoint \"a\" every 5
let z=not true
}
";
    let want = "fn f(x: f32[N], n: int = 2) -> f32 {
  let a = if x < -1 { -x } else { x * 2^-1 }   # note

  var s = 0.0
  for i in 0..n { s <- s + a [i] * -1 }

  let p = { a = 1, b = [1, 2, 3] }
  let g = long_call(
    a,
    { x = 1,
      y = 2 },
  )
  let h = a +
    b
    |> f
  if s > 0 {
    s
  } else {
    g(x [1 : 2], x[:, -1])
  }
}
train t {
  data      d.train, batch = 64
  optimizer sgd(lr = 0.1)
  checkpoint \"a\" every 5
  let       z = not true
}
";
    let text = text.replace("x<-1", "x< -1");
    let done = format(&text).expect("it parses");
    assert_eq!(done, want, "{done}");
    assert!(format("fn f( = 1").is_err());
    assert_eq!(format("").expect("empty"), "");
}

/// The variance is called, a declaration is not; a sign after a block and in brackets over several lines.
#[test]
fn variances_and_signs() {
    let text = "fn f(x){\n  var (a,b)=(1,2)\n  if a>b{\n    a<-1\n  }\n  -x[0]*var(x)+var(x)\n}\nfn g(a,b)=(a\n  - b)\n";
    let want = "fn f(x) {\n  var (a, b) = (1, 2)\n  if a > b {\n    a <- 1\n  }\n  -x[0] * var(x) + var(x)\n}\nfn g(a, b) = (a\n              - b)\n";
    assert_eq!(format(text).expect("it parses"), want);
}

#[test]
fn a_sign_behind_a_word_of_the_script_stays_one() {
    let text = "experiment e {\n  check -x < 1\n  for i in 0..3 { check -x < 1; print -x }\n  let y = { x - 1 }\n}\n";
    assert_eq!(format(text).expect("it parses"), text);
}
