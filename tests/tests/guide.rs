//! Pages of the guide (`docs/guide/*.md`): what they show is run, what they claim is checked.
//!
//! Blocks of a page by the words after their three backquotes:
//! - `opt`: all of them together are the page's spec; every experiment in it is run and all its checks have to hold.
//! - `opt error E0401`: a mistake. The block, followed by the blocks `opt` above it, gives an error of this code.
//! - `message`, right after such a block: the whole message, word for word.
//! - `console`: commands after `$ ` and what they print (messages and progress only where they fail), run in a folder that holds the page's spec. `…` stands for any text within a line, a line of it alone for any lines.
//! - `console numbers vary`: the same, but numbers, units of time and blanks are not compared.
//!
//! Other blocks are for reading only.

use optc::Session;
use optc::host_env::{Driver, Settings};
use optc::session::Files;
use optc_tests::{check_text, errors, rendered, root, stem, with_stack};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A fenced block: the words after the backquotes, its text, the line its text begins in (from 1).
struct Block {
    kind: String,
    text: String,
    line: usize,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in page.lines().enumerate() {
        match (open, line.strip_prefix("```")) {
            (false, Some(kind)) => {
                found.push(Block { kind: kind.trim().to_string(), text: String::new(), line: number + 2 });
                open = true;
            }
            (true, Some("")) => open = false,
            (true, _) => {
                if let Some(last) = found.last_mut() {
                    last.text.push_str(line);
                    last.text.push('\n');
                }
            }
            (false, None) => {}
        }
    }
    assert!(!open, "a block that is not closed");
    found
}

/// The page's spec. Its lines have the numbers they have in the page, so that messages point into it.
fn spec(blocks: &[Block]) -> String {
    let mut text = String::new();
    let mut line = 1;
    for block in blocks.iter().filter(|b| b.kind == "opt") {
        while line < block.line {
            text.push('\n');
            line += 1;
        }
        text.push_str(&block.text);
        line += block.text.lines().count();
    }
    text
}

/// Runs every experiment of a spec, adds what is wrong to `faults`, returns how many checks held.
fn run_experiments(session: &Session, faults: &mut String) -> usize {
    let settings = Settings { threads: 2, quiet: true, color: false, spec: session.path.clone(), text: session.text.clone() };
    let mut driver = Driver::new(settings);
    for item in session.experiments() {
        if let Err(diagnostics) = optc_elab::script::run_experiment(&session.program, item, &session.settings, &mut driver) {
            faults.extend(diagnostics.iter().map(|d| d.render(&session.program.sources, false)));
        }
    }
    faults.extend(driver.failures.iter().map(|(claim, detail, _)| format!("FAIL {claim}: {detail}\n")));
    driver.checks.passed
}

/// Whether a line is what the page says, where `…` is any text.
fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

fn lines_match(patterns: &[String], lines: &[String]) -> bool {
    match (patterns.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((p, more)), _) if p.trim() == "…" => (0..=lines.len()).any(|n| lines_match(more, &lines[n..])),
        (Some((p, more)), Some((l, rest))) => line_matches(p, l) && lines_match(more, rest),
        _ => false,
    }
}

/// A line without its numbers, units of time and blanks.
fn without_numbers(line: &str) -> String {
    let mut out = String::new();
    let mut number = false;
    for word in line.split_whitespace() {
        if number && ["s", "ms", "µs", "ns"].contains(&word.trim_end_matches([',', ')'])) {
            continue;
        }
        number = false;
        for c in word.chars() {
            number |= c.is_ascii_digit();
            let of_number = number && (c.is_ascii_digit() || matches!(c, '.' | '_' | ','));
            let again = matches!(c, '─' | '═') && out.ends_with(c);
            if !of_number && !again {
                out.push(c);
            }
        }
        out.push(' ');
    }
    out
}

/// Runs the commands of a block and compares what they print.
fn run_console(block: &Block, folder: &Path, bin: &Path, faults: &mut String) {
    let vary = block.kind.ends_with("numbers vary");
    let mut lines = block.text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ") else {
            let _ = writeln!(faults, "console at line {}: `{line}` follows no command", block.line);
            return;
        };
        let mut expected = Vec::new();
        while let Some(next) = lines.next_if(|l| !l.starts_with("$ ")) {
            expected.push(next.trim_end().to_string());
        }
        let path = std::env::join_paths(
            std::iter::once(bin.to_path_buf()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let output = Command::new("sh")
            .args(["-c", command.split(" # ").next().unwrap_or(command)])
            .current_dir(folder)
            .env("PATH", path.expect("names without a colon"))
            .output()
            .expect("a shell");
        // Progress is not shown; what went wrong is.
        let error = if output.status.success() { "".into() } else { String::from_utf8_lossy(&output.stderr) };
        let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &error;
        let shown: Vec<String> = printed.lines().map(|l| l.trim_end().to_string()).collect();
        let same = if vary {
            let plain = |lines: &[String]| lines.iter().map(|l| without_numbers(l)).collect::<Vec<_>>();
            lines_match(&plain(&expected), &plain(&shown))
        } else {
            lines_match(&expected, &shown)
        };
        if !same {
            let _ = writeln!(faults, "console at line {}: `{command}` prints\n{}", block.line, shown.join("\n"));
        }
    }
}

/// What is wrong with a page; nothing if it is right.
fn faults_of(name: &str, page: &str, folder: &Path, bin: &Path) -> String {
    let blocks = blocks(page);
    let mut faults = String::new();
    let text = spec(&blocks);
    let path = folder.join(format!("{name}.opt"));
    std::fs::write(&path, &text).expect("a file");
    let session = check_text(&path.display().to_string(), &text);
    if !errors(&session).is_empty() {
        faults += &rendered(&session);
        return faults;
    }
    let mut proven = run_experiments(&session, &mut faults);
    for (k, block) in blocks.iter().enumerate() {
        if let Some(code) = block.kind.strip_prefix("opt error ") {
            let above: String = blocks[..k].iter().filter(|b| b.kind == "opt").map(|b| b.text.as_str()).collect();
            let session = Session::from_text("spec.opt", format!("{}\n{above}", block.text), &Files);
            let session = with_check(session);
            if !errors(&session).iter().any(|d| d.code.0 == code) {
                let _ = writeln!(faults, "line {}: no {code}, but\n{}", block.line, rendered(&session));
            }
            if let Some(message) = blocks.get(k + 1).filter(|b| b.kind == "message") {
                let shown: Vec<String> = rendered(&session).lines().map(|l| l.trim_end().to_string()).collect();
                if shown.join("\n").trim() != message.text.trim() {
                    let _ = writeln!(faults, "line {}: the message is\n{}", message.line, shown.join("\n"));
                }
            }
            proven += 1;
        } else if block.kind.starts_with("console") {
            run_console(block, folder, bin, &mut faults);
            proven += 1;
        } else if block.kind.starts_with("opt ") {
            let _ = writeln!(faults, "line {}: what kind of block is `{}`?", block.line, block.kind);
        }
    }
    if proven == 0 {
        faults += "nothing on this page is checked\n";
    }
    faults
}

fn with_check(mut session: Session) -> Session {
    session.check();
    session
}

/// A folder in which `data/` is that of the examples, and one that holds `optc`.
fn folders() -> (tempfile::TempDir, tempfile::TempDir) {
    let (work, bin) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    std::os::unix::fs::symlink(root().join("examples/data"), work.path().join("data")).expect("a link");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_optc-under-test"), bin.path().join("optc")).expect("a link");
    (work, bin)
}

fn check_page(name: &str, page: String) -> String {
    let name = name.to_string();
    with_stack(move || {
        let (work, bin) = folders();
        faults_of(&name, &page, work.path(), bin.path())
    })
}

fn pages() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("docs/guide")).expect("the guide");
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    found.sort();
    found
}

macro_rules! pages {
    ($($name:ident)*) => {
        mod page {
            use super::{check_page, root};

            $(#[test] fn $name() {
                let path = root().join(concat!("docs/guide/", stringify!($name), ".md"));
                let faults = check_page(stringify!($name), std::fs::read_to_string(&path).expect("a page"));
                assert!(faults.is_empty(), "{}: \n{faults}", path.display());
            })*
        }

        #[test]
        fn every_page_is_run_and_listed() {
            let mut listed = vec![$(stringify!($name)),*];
            let index = std::fs::read_to_string(root().join("docs/guide/README.md")).expect("the index");
            let places: Vec<usize> = listed.iter().map(|n| index.find(&format!("({n}.md)")).unwrap_or_else(|| panic!("the index lacks {n}"))).collect();
            assert!(places.is_sorted(), "the index has another order than the test");
            let found: Vec<String> = pages().iter().map(|p| stem(p)).filter(|n| n != "README").collect();
            listed.sort_unstable();
            assert_eq!(found, listed);
        }
    };
}

pages! {
    first_run
    functions
    derivatives
    randomness
    models
    losses_and_data
    optimizers
    schedules
    training
    experiments
    linear_algebra
    loops
    errors
    performance
    from_a_paper
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    for path in pages() {
        let text = std::fs::read_to_string(&path).expect("a page");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or("");
            if !target.contains("://") && !file.is_empty() && !path.with_file_name(file).exists() {
                faults.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A page may claim only what is so.
#[test]
fn a_page_that_is_wrong_fails() {
    let page = |kind: &str, text: &str| format!("# A page\n\n```{kind}\n{text}\n```\n");
    let right = page("opt", "experiment e {\n  check 1 + 1 == 2, \"two\"\n}");
    assert_eq!(check_page("page", right.clone()), "");
    let claim = check_page("page", right.replace("== 2", "== 3"));
    assert!(claim.contains("FAIL two"), "{claim}");
    let place = check_page("page", right.replace("1 + 1", "1 + one"));
    assert!(place.contains("page.opt:5:13"), "a message points into the page: {place}");
    let mistake = "fn f(x: f32[N], y: f32[M]) -> f32[N] = x + y";
    assert_eq!(check_page("page", page("opt error E0401", mistake)), "");
    let code = check_page("page", page("opt error E0301", mistake));
    assert!(code.contains("no E0301") && code.contains("error[E0401]"), "{code}");
    let message = check_page("page", page("opt error E0401", mistake) + &page("message", "error[E0401]: nothing"));
    assert!(message.contains("the message is\nerror[E0401]"), "{message}");
    let command = page("console", "$ echo 12 steps in 3.5 s\n12 steps in … s");
    assert_eq!(check_page("page", command.clone()), "");
    assert!(check_page("page", command.replace("\n12", "\n13")).contains("prints\n12 steps"));
    let timed = |shown: &str| check_page("page", page("console numbers vary", &format!("$ echo 12 steps in 3.5 s\n{shown}")));
    assert_eq!(timed("13 steps in 20 ms"), "");
    assert!(timed("13 stops in 20 ms").contains("prints"));
    assert!(check_page("page", "# Prose\n".to_string()).contains("nothing on this page is checked"));
}
