//! No input makes the parser panic, hang or overflow the stack.

use optc_base::SourceId;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

fn texts() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for folder in ["stdlib", "examples", "bench/specs", "tests/cases"] {
        specs(&root.join(folder), &mut files);
    }
    files.sort();
    files.iter().map(|f| std::fs::read_to_string(f).expect("readable")).filter(|t| t.len() < 6000).collect()
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n.max(1)
    }
}

const TOKENS: &[&str] = &[
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\"",
    "<-",
    "->",
    "|>",
    "=",
    "==",
    "..",
    "...",
    ",",
    ";",
    "\n",
    "#",
    ":",
    "~",
    "-",
    "^",
    "*",
    "sum[k] ",
    "if x ",
    "else ",
    "for i in ",
    "let ",
    "var ",
    "fn ",
    "model ",
    "train ",
    "import ",
    "{ x -> ",
    "check ",
    "run t with ",
    "with seed = 1 ",
    "\u{1}",
    "β",
    "\u{feff}",
    "0x",
    "1.",
    ".5",
    "20%",
    "10min",
    "\"{",
    "yield ",
    "as ",
    "none",
    "f32",
    "state ",
    "return ",
    "+=",
    "\\",
    "$",
    "\r\n",
];

fn mutate(text: &str, texts: &[String], random: &mut Random) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + random.below(4) {
        let at = random.below(chars.len() + 1);
        match random.below(6) {
            0 if !chars.is_empty() => {
                let end = (at + 1 + random.below(8)).min(chars.len());
                chars.drain(at.min(end)..end);
            }
            1 if chars.len() > 1 => {
                let other = random.below(chars.len());
                let this = at.min(chars.len() - 1);
                chars.swap(this, other);
            }
            2 => {
                let token = TOKENS[random.below(TOKENS.len())];
                chars.splice(at..at, token.chars());
            }
            3 => {
                let other: Vec<char> = texts[random.below(texts.len())].chars().collect();
                let start = random.below(other.len());
                let end = (start + random.below(60)).min(other.len());
                chars.splice(at..at, other[start..end].iter().copied());
            }
            4 => chars.truncate(at),
            _ => {
                let end = (at + random.below(40)).min(chars.len());
                let part: Vec<char> = chars[at..end].to_vec();
                let to = random.below(chars.len() + 1);
                chars.splice(to..to, part);
            }
        }
    }
    chars.into_iter().collect()
}

#[test]
fn mutations_of_valid_files() {
    let texts = texts();
    let rounds: usize = std::env::var("OPTC_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut slowest = (Duration::ZERO, String::new());
    for _ in 0..rounds {
        let broken = mutate(&texts[random.below(texts.len())], &texts, &mut random);
        let start = Instant::now();
        let (_, errors) = optc_front::parse(SourceId(0), &broken);
        let took = start.elapsed();
        for error in &errors {
            let span = error.primary.span;
            assert!(span.start <= span.end && span.start as usize <= broken.len(), "{error:?}\n{broken}");
        }
        if took > slowest.0 {
            slowest = (took, broken);
        }
    }
    println!("slowest: {:?}", slowest.0);
    assert!(slowest.0 < Duration::from_secs(10), "{:?} for\n{}", slowest.0, slowest.1);
}

fn in_time(what: &str, text: &str) -> usize {
    let start = Instant::now();
    let (_, errors) = optc_front::parse(SourceId(0), text);
    let took = start.elapsed();
    println!("{what}: {took:?}, {} errors", errors.len());
    assert!(took < Duration::from_secs(20), "{what} took {took:?}");
    errors.len()
}

#[test]
fn deep_nesting_is_an_error() {
    let deep = 5000;
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("f(", "1", ")"),
        ("{ ", "1", " }"),
        ("-", "1", ""),
        ("not ", "true", ""),
        ("2^", "1", ""),
        ("x -> ", "1", ""),
        ("sum[k] ", "1", ""),
        ("if a { 1 } else ", "{ 1 }", ""),
        ("if a { ", "1", " } else { 2 }"),
        ("a[", "1", "]"),
        ("run x with { a = ", "1", "}"),
        ("with a = ", "1", " { 1 }"),
        ("~", "1", ""),
        ("- -", "1", ""),
        ("1 ^ -", "1", ""),
        ("if ", "a", ""),
        ("while ", "a", ""),
        ("for x in ", "a", ""),
        ("with a = ", "1", ""),
        ("sum[k, \"", "\"", "]"),
        ("sum[k, [", "1", "]]"),
    ] {
        let text = format!("fn f(x: f32) -> f32 {{ {}{middle}{} }}\n", open.repeat(deep), close.repeat(deep));
        assert!(in_time(open, &text) > 0, "{open} is accepted {deep} times");
    }
    for (open, middle, close) in [("(", "f32", ")"), ("fn(f32) -> ", "f32", ""), ("{ a: ", "f32", "}")] {
        let text = format!("fn f(x: {}{middle}{}) = x\n", open.repeat(deep), close.repeat(deep));
        assert!(in_time(open, &text) > 0, "{open} is accepted {deep} times");
    }
    // Just below the limit everything works.
    let text = format!("fn f(x: f32) -> f32 = {}x{}\n", "(".repeat(250), ")".repeat(250));
    assert_eq!(in_time("250 parentheses", &text), 0);
    let text = format!("fn f(x: f32) -> f32 = {}x\n", "- ".repeat(250));
    assert_eq!(in_time("250 signs", &text), 0);
    let mixed = |levels: usize| {
        let (open, n) = (format!("({}", "-".repeat(199)), levels / 200);
        format!("fn f(x: f32) -> f32 = {}x{}\n", open.repeat(n), ")".repeat(n))
    };
    assert_eq!(in_time("1000 levels", &mixed(1000)), 0);
    assert_eq!(in_time("1200 levels", &mixed(1200)), 1);
}

#[test]
fn failing_nests_take_linear_time() {
    let depth = 40;
    for (open, close) in [
        ("{ x = ", "}"),
        ("check ({ ", "})"),
        ("return { ", "}"),
        ("with a = { ", "} {"),
        ("if f(x) { a -> ", "}"),
        ("sum[k < ", "] x"),
        ("max[i, ", "]"),
        ("f(a = ", ")"),
        ("run x with { a = ", "}"),
        ("((x), ", ")"),
        ("{ \"a\": ", "}"),
        ("f(x) { a -> ", "}"),
        ("let y[i < ", "] = 1"),
        ("[x for y in ", "]"),
        ("table { a = ", "}"),
        ("time { ", "}"),
    ] {
        let text = format!("experiment e {{ {} $ {} }}\n", open.repeat(depth), close.repeat(depth));
        assert!(in_time(open, &text) > 0);
        let text = format!("experiment e {{ {} 1\n", open.repeat(depth));
        assert!(in_time(open, &text) > 0);
    }
}

#[test]
fn long_files_take_linear_time() {
    let line = "  let y = x * 2 + f(x, a = 1)[0]\n";
    let text = format!("fn f(x: f32) -> f32 {{\n{}  x\n}}\n", line.repeat(300_000 / line.len()));
    assert_eq!(in_time("statements", &text), 0);
    for more in [" + 1", " - x", " and y", " |> f", " .. (1)", " * x[0].a(1)", " == (x)"] {
        let errors = usize::from(more.contains("=="));
        let text = format!("const c = x{}\n", more.repeat(if more == " + 1" { 100_000 } else { 10_000 }));
        assert_eq!(in_time("a chain", &text), errors, "{more}");
        let text = format!("const c = {}x{}\n", "(".repeat(20), format!("{})", more.repeat(1000)).repeat(20));
        assert_eq!(in_time("a chain of chains", &text), 20 * errors, "{more}");
    }
    for more in [".a", "(1)", "[0]", " as f32"] {
        let text = format!("const c = x{}\n", more.repeat(1990));
        assert_eq!(in_time("calls", &text), 0);
        let text = format!("const c = x{}\n", more.repeat(50_000));
        assert_eq!(in_time("too many calls", &text), 1);
        let text = format!("const c = {}x{}\n", "(".repeat(200), format!("{})", more.repeat(1000)).repeat(200));
        assert_eq!(in_time("too many calls in brackets", &text), 1);
        let text = format!("const c = {}x{}\n", "(".repeat(200), format!(" + 1{more})").repeat(200));
        assert_eq!(in_time("few calls in brackets", &text), 0);
    }
    let text = format!("const c = [{}]\n", "1.5, ".repeat(50_000));
    assert_eq!(in_time("a list", &text), 0);
    let text = "fn f(x: f32) -> f32 = x +\n".repeat(4000);
    assert!(in_time("errors", &text) > 0);
    let text = format!("fn f() = 1\n{}\n", "# comment\n".repeat(20_000));
    assert_eq!(in_time("comments", &text), 0);
}
