//! What a search shows, and how it is stopped.

use super::{SPEC, contents, folder, ok, optc};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The programs that nothing in the archive dominates, by their first digits: from the tables alone.
fn dominating(db: &Connection, values: &[&str]) -> BTreeSet<String> {
    let of = |t: &str| format!("{t} JOIN program {t}p ON {t}p.hash = {t}.program");
    let no_worse = values.iter().map(|v| format!("b{v} <= a{v}")).collect::<Vec<_>>().join(" AND ");
    let better = values.iter().map(|v| format!("b{v} < a{v}")).collect::<Vec<_>>().join(" OR ");
    let same = values.iter().map(|v| format!("b{v} = a{v}")).collect::<Vec<_>>().join(" AND ");
    let query = format!(
        "SELECT DISTINCT lower(substr(hex(a.program), 1, 12)) FROM child {} WHERE a.fitness IS NOT NULL AND a.arm <> 'emitted' AND NOT EXISTS (
           SELECT 1 FROM child {} WHERE b.fitness IS NOT NULL AND b.arm <> 'emitted' AND {no_worse} AND ({better} OR ({same} AND b.program < a.program)))",
        of("a"),
        of("b")
    );
    let mut rows = db.prepare(&query).expect("a query");
    rows.query_map([], |r| r.get(0)).expect("rows").map(|r| r.expect("a row")).collect()
}

/// The hashes in a text.
fn hashes(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_hexdigit()).filter(|w| w.len() == 12).map(str::to_string).collect()
}

#[test]
fn the_front_over_all_that_ran_is_kept() {
    let spec = SPEC.replace("  seed     3", "  pareto   [fitness, state_bytes, statements, flops]\n  seed     3");
    let spec = folder(&spec);
    let told = ok(optc(spec.path(), &["search", "s.opt", "--children", "300", "-q"]));
    let report = ok(optc(spec.path(), &["search", "report", "out.sqlite"]));
    let (_, front) = report.split_once("Pareto front").expect("a front");
    let db = Connection::open(spec.path().join("out.sqlite")).expect("an archive");
    let expected = dominating(&db, &[".fitness", "p.states", "p.n_live", "p.cost"]);
    assert!(expected.len() > 1, "{report}");
    assert_eq!(hashes(front), expected);
    // So is what is told at the end, shortened if need be, and what is written.
    let (_, front) = told.split_once("Pareto front").expect("a front");
    assert!(hashes(front).is_subset(&expected) && !hashes(front).is_empty(), "{told}");
    let best = std::fs::read_to_string(spec.path().join("best.opt")).expect("written");
    assert!(best.contains("Pareto front over fitness, state_bytes, statements, flops:") && best.contains("of `evolution`"), "{best}");
    let top = ok(optc(spec.path(), &["search", "top", "out.sqlite", "-n", "3"]));
    assert!(top.contains("yes") && top.contains("as good in fitness, state_bytes, statements, flops"), "{top}");
}

#[test]
fn programs_are_measured_by_their_speed_where_that_is_asked_for() {
    let spec = folder(&SPEC.replace("  seed     3", "  pareto   [fitness, ns]\n  control  none\n  seed     3"));
    ok(optc(spec.path(), &["search", "s.opt", "--children", "60", "-q"]));
    let db = Connection::open(spec.path().join("out.sqlite")).expect("an archive");
    let count = |query: &str| db.query_row(query, [], |r| r.get::<_, i64>(0)).expect("a count");
    let measured = count("SELECT COUNT(*) FROM speed WHERE ns > 0 AND ns < 1000");
    assert!(measured > 0 && measured == count("SELECT COUNT(DISTINCT program) FROM child WHERE arm <> 'emitted'"), "{measured}");
}

/// Starts a search that would take long, and waits until it has something to go on from.
fn begun(folder: &Path, stdin: Stdio, stderr: Stdio, quiet: bool) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_optc"));
    command.current_dir(folder).env("TERM", "xterm").args(["search", "s.opt", "--budget", "10min"]).args(quiet.then_some("-q"));
    let mut child = command.stdin(stdin).stderr(stderr).stdout(Stdio::piped()).spawn().expect("optc starts");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        let path = folder.join("out.sqlite");
        let db = path.exists().then(|| Connection::open(&path).ok()).flatten();
        if db.is_some_and(|db| db.query_row("SELECT length(state) > 0 FROM run", [], |r| r.get(0)).unwrap_or(false)) {
            return child;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("the search does not begin");
}

/// What it says when it has ended well, soon.
fn ended(mut child: Child) -> String {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            let mut told = String::new();
            child.stdout.take().expect("a pipe").read_to_string(&mut told).expect("text");
            assert!(status.success(), "{status}: {told}");
            return told;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("the search does not stop");
}

/// A stopped search has a whole archive, and goes on to what it would have become.
fn goes_on(stopped: &Path, told: &str) {
    assert!(told.contains("stopped before the budget was spent") && told.contains("the best: "), "{told}");
    let best = std::fs::read_to_string(stopped.join("best.opt")).expect("written");
    assert!(best.contains("has not been measured"), "{best}");
    let db = Connection::open(stopped.join("out.sqlite")).expect("an archive");
    let sum = "SELECT SUM(json_extract(value, '$.counters[0]')) FROM run, json_each(run.state, '$[0].islands')";
    let made: i64 = db.query_row(sum, [], |r| r.get(0)).expect("a number");
    drop(db);
    assert!(made > 0);
    let children = (made + 240).to_string();
    ok(optc(stopped, &["search", "resume", "out.sqlite", "--children", &children, "-q"]));
    let whole = folder(SPEC);
    ok(optc(whole.path(), &["search", "s.opt", "--children", &children, "-q"]));
    assert_eq!(contents(&stopped.join("out.sqlite")), contents(&whole.path().join("out.sqlite")));
}

#[test]
fn q_on_a_terminal_stops_a_search() {
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 40, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both numbers are written by the call.
    let made = unsafe { libc::openpty(&raw mut ours, &raw mut theirs, std::ptr::null_mut(), std::ptr::null(), &raw const size) };
    assert_eq!(made, 0, "a pseudo-terminal");
    // SAFETY: the call above opened both.
    let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) };
    let spec = folder(SPEC);
    let stdin = Stdio::from(theirs.try_clone().expect("a handle"));
    let child = begun(spec.path(), stdin, Stdio::from(theirs), false);
    let mut screen = ours.try_clone().expect("a handle");
    let shown = Arc::new(Mutex::new(String::new()));
    let reader = std::thread::spawn({
        let shown = shown.clone();
        move || {
            let mut part = [0; 4096];
            // A terminal that nobody holds any more gives an error.
            while let Ok(n @ 1..) = screen.read(&mut part) {
                shown.lock().expect("no panic").push_str(&String::from_utf8_lossy(&part[..n]));
            }
        }
    });
    let begin = Instant::now();
    while !shown.lock().expect("no panic").contains("Pareto front") && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    ours.write_all(b"q\n").expect("typed");
    let told = ended(child);
    reader.join().expect("read");
    let shown = shown.lock().expect("no panic").clone();
    for part in ["search `better`", "unique", "Pareto front", "children/s", "first programs: sgd", "`q` and Enter"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    goes_on(spec.path(), &told);
}

#[test]
fn an_interrupt_stops_a_search() {
    let spec = folder(SPEC);
    let child = begun(spec.path(), Stdio::null(), Stdio::null(), true);
    let id = i32::try_from(child.id()).expect("a small number");
    // SAFETY: the process is ours, and has not been waited for.
    assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
    let told = ended(child);
    goes_on(spec.path(), &told);
}

#[test]
fn a_report_is_one_file_with_all_that_is_owed() {
    let spec = folder(super::OWED);
    ok(optc(spec.path(), &["search", "s.opt", "--children", "120", "-q"]));
    ok(optc(spec.path(), &["search", "report", "out.sqlite", "--html", "report.html"]));
    let html = std::fs::read_to_string(spec.path().join("report.html")).expect("written");
    for part in [
        "Search `better`",
        "The best of ",
        "Best fitness",
        "constants_only",
        "Fitness and state_bytes",
        "Fitness and statements",
        "optimizer found(",
        "Its lineage",
        ", made from program ",
        "Searched for",
        "first of the archive",
        "Rung 1 of the funnel, 60 steps",
        "against itself on 6 pairs",
        "tasks.valley",
        "On `rotated_quadratic`, which was held out",
        "<pre class=\"spec\">",
    ] {
        // Only the controls that ran are there.
        assert_eq!(html.contains(part), part != "constants_only", "{part}");
    }
    assert_eq!(html.matches("<svg").count(), 4);
    let plain = html.replace("http://www.w3.org/2000/svg", "");
    assert!(["<script", "http:", "https:", "src=", "href="].iter().all(|bad| !plain.contains(bad)));
    // The text tells the funnel too, and lineages their mutations.
    let text = ok(optc(spec.path(), &["search", "report", "out.sqlite"]));
    assert!(text.contains("Rung 2 of the funnel, 100 steps") && text.contains("first program `sgd`"), "{text}");
}

#[cfg(not(feature = "mpi"))]
#[test]
fn several_processes_are_refused_by_a_build_without_mpi() {
    let spec = folder(SPEC);
    for (rank, told) in [("0", true), ("1", false)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_optc"));
        command.env("OMPI_COMM_WORLD_RANK", rank).env("OMPI_COMM_WORLD_SIZE", "2");
        let output = command.current_dir(spec.path()).args(["search", "s.opt", "--children", "60"]).output().expect("optc starts");
        assert_eq!(output.status.code(), Some(1));
        // One of them says why.
        assert_eq!(String::from_utf8_lossy(&output.stderr).contains("--features mpi"), told);
        assert!(!spec.path().join("out.sqlite").exists());
    }
}
