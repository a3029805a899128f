//! Random damage to valid specs: whatever the text, loading and checking ends soon, with messages and without a panic.
//!
//! `OPTC_MUTATIONS=100000` sets the number of mutations, `OPTC_MUTATIONS_SEED` where the random numbers start; `OPTC_MUTATIONS_TRACE=file` keeps the text at hand in a file, for
//! faults that end the process.

use optc::Session;
use optc::session::Files;
use optc_tests::{all_specs, with_stack};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest time one text may take, in seconds of the thread's own time.
const LIMIT: f64 = 1.0;
/// After this long on the clock the text at hand counts as a hang.
const HANG: Duration = Duration::from_secs(60);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
}

/// What is put in at random places.
const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ";",
    ":",
    "=",
    "<-",
    "->",
    "~",
    "|>",
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "@",
    "^",
    "..",
    "...",
    ".",
    "==",
    "<",
    ">=",
    "~=",
    "\n",
    " ",
    "\"",
    "#",
    "##",
    "let ",
    "var ",
    "if ",
    "else ",
    "for ",
    "in ",
    "while ",
    "yield ",
    "fn ",
    "import ",
    "as ",
    "and ",
    "or ",
    "not ",
    "true",
    "none",
    "f32",
    "i32",
    "bool",
    "float",
    "int",
    "str",
    "tree",
    "param ",
    "state ",
    "buffer ",
    "shared ",
    "eval ",
    "metric ",
    "check ",
    "print ",
    "run ",
    "with ",
    "train ",
    "model ",
    "data ",
    "loss ",
    "optimizer ",
    "schedule ",
    "experiment ",
    "steps ",
    "grad",
    "sum",
    "sum[k] ",
    "max[j] ",
    "x[i]",
    "shape(w)[0]",
    "reshape",
    "where",
    "-1",
    "0",
    "1",
    "2",
    "3.5",
    "1e-3",
    "1e400",
    "99999999999999999999",
    "0x",
    "1_000",
    "20%",
    "3s",
    "inf",
    "nan",
    "pi",
    "_",
    "β1",
    "é",
    "日本",
    "\u{0}",
    "\u{1}",
    "\r\n",
    "\t",
    "x",
    "w",
    "g",
    "net",
    "B",
    "N",
    "step",
    "t",
    "\"{x:.3f}\"",
    "\"*.b\"",
    "std.optim.adam",
    "import std.nn.linear\n",
];

/// Cuts a text into tokens, roughly: words, numbers, single marks.
fn tokens(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut word = false;
    for (i, c) in text.char_indices() {
        let is_word = c.is_alphanumeric() || c == '_';
        if i > start && !(is_word && word) {
            out.push(&text[start..i]);
            start = i;
        }
        word = is_word;
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
    out
}

/// One to four changes of a text.
fn mutate(text: &str, others: &[String], random: &mut Random) -> String {
    let mut parts: Vec<String> = tokens(text).into_iter().map(str::to_string).collect();
    for _ in 0..1 + random.below(4) {
        let n = parts.len();
        if n == 0 {
            break;
        }
        let at = random.below(n);
        match random.below(10) {
            0 => {
                parts.remove(at);
            }
            1 => {
                let end = (at + 1 + random.below(20)).min(n);
                parts.drain(at..end);
            }
            2 => parts.insert(at, PIECES[random.below(PIECES.len())].to_string()),
            3 => parts[at] = PIECES[random.below(PIECES.len())].to_string(),
            4 => {
                let other = random.below(n);
                parts.swap(at, other);
            }
            5 => {
                let end = (at + 1 + random.below(12)).min(n);
                let copy = parts[at..end].to_vec();
                let to = random.below(n + 1);
                parts.splice(to..to, copy);
            }
            6 => {
                // A passage of another spec.
                let other = tokens(&others[random.below(others.len())]).into_iter().map(str::to_string).collect::<Vec<_>>();
                let start = random.below(other.len());
                let end = (start + 1 + random.below(30)).min(other.len());
                parts.splice(at..at, other[start..end].to_vec());
            }
            7 => parts.truncate(at),
            8 => {
                // One word instead of another of the same text.
                let words: Vec<usize> = (0..n).filter(|&i| parts[i].starts_with(char::is_alphabetic)).collect();
                if words.len() > 1 {
                    let (a, b) = (words[random.below(words.len())], words[random.below(words.len())]);
                    parts[a] = parts[b].clone();
                }
            }
            _ => {
                // A character inside a token.
                let mut chars: Vec<char> = parts[at].chars().collect();
                let c = char::from_u32(random.below(0x250) as u32).unwrap_or('?');
                let place = random.below(chars.len());
                chars[place] = c;
                parts[at] = chars.into_iter().collect();
            }
        }
    }
    parts.concat()
}

/// Seconds this thread has computed; the clock's seconds where the system does not say.
fn thread_seconds(start: Instant) -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = text.and_then(|t| t.split_whitespace().next()?.parse::<f64>().ok());
    nanos.map_or_else(|| start.elapsed().as_secs_f64(), |n| n / 1e9)
}

/// Mutates and checks; the fault of the first text that panics or takes too long.
fn work(count: usize, seed: u64, texts: &[(String, String)], current: &Mutex<(String, Instant)>) -> Result<(), String> {
    let all: Vec<String> = texts.iter().map(|t| t.1.clone()).collect();
    let trace = std::env::var_os("OPTC_MUTATIONS_TRACE");
    for k in 0..count {
        let mut random = Random(seed ^ (k as u64).wrapping_mul(0x2545_F491_4F6C_DD1D));
        let (name, text) = &texts[random.below(texts.len())];
        let text = mutate(text, &all, &mut random);
        *current.lock().expect("not poisoned") = (text.clone(), Instant::now());
        if let Some(path) = &trace {
            std::fs::write(path, format!("# {name}\n{text}")).expect("a trace");
        }
        let start = Instant::now();
        let before = thread_seconds(start);
        let shown = std::panic::catch_unwind(|| {
            let mut session = Session::from_text(name, text.clone(), &Files);
            session.check();
            // Every message can be shown.
            session.diagnostics.iter().map(|d| d.render(&session.program.sources, false).len()).sum::<usize>()
        });
        let seconds = thread_seconds(start) - before;
        if shown.is_err() {
            return Err(format!("mutation {k} of {name} panics:\n{text}"));
        }
        if seconds > LIMIT {
            return Err(format!("mutation {k} of {name} takes {seconds:.1} s:\n{text}"));
        }
    }
    Ok(())
}

#[test]
fn no_text_makes_the_compiler_panic_or_hang() {
    let setting = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let count = setting("OPTC_MUTATIONS", 2_000) as usize;
    let seed = setting("OPTC_MUTATIONS_SEED", 1);
    let mut texts: Vec<(String, String)> = all_specs()
        .into_iter()
        .filter_map(|p| Some((optc::session::canonical(&p), std::fs::read_to_string(&p).ok()?)))
        // Long files of numbers teach nothing.
        .filter(|(_, text)| text.len() < 6_000 && text.len() > 40)
        .collect();
    texts.sort();
    let current = Arc::new(Mutex::new((String::new(), Instant::now())));
    let (send, receive) = mpsc::channel();
    let shared = current.clone();
    std::thread::spawn(move || {
        let result = with_stack(move || work(count, seed, &texts, &shared));
        let _ = send.send(result);
    });
    loop {
        match receive.recv_timeout(Duration::from_secs(1)) {
            Ok(result) => {
                if let Err(fault) = result {
                    panic!("{fault}");
                }
                return;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let at = current.lock().expect("not poisoned");
                assert!(at.1.elapsed() < HANG || at.0.is_empty(), "a hang:\n{}", at.0);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                panic!("the checking thread died at:\n{}", current.lock().expect("not poisoned").0)
            }
        }
    }
}
