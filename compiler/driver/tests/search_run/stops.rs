//! Searches that are stopped, killed or out of time at any moment: they end soon, say what is left out, and go on to what they would have become.

use super::{OWED, SPEC, contents, folder, ok, optc};
use rusqlite::Connection;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A search under way.
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    fn start(folder: &Path, args: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_optc"));
        command.current_dir(folder).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(Some(command.spawn().expect("optc starts")))
    }

    /// Waits until an archive is at some moment; false if the search ended before.
    fn until(&mut self, archive: &Path, moment: impl Fn(&[i64], &Connection) -> bool) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(120) {
            if self.0.as_mut().is_some_and(|c| c.try_wait().is_ok_and(|s| s.is_some())) {
                return false;
            }
            // Opening what is not there would make it.
            let db = archive.exists().then(|| Connection::open(archive).ok()).flatten();
            if db.is_some_and(|db| moment(&rounds(&db), &db)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the moment does not come");
    }

    fn kill(mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().expect("killed");
            let _ = child.wait();
        }
    }

    fn interrupt(&self) {
        let id = self.0.as_ref().map(|c| i32::try_from(c.id()).expect("a small number")).expect("a process");
        // SAFETY: the process is ours, and has not been waited for.
        assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
    }

    fn output(mut self) -> Output {
        self.0.take().map(|c| c.wait_with_output().expect("it ends")).expect("a process")
    }
}

/// Rounds that each arm has made.
fn rounds(db: &Connection) -> Vec<i64> {
    let query = "SELECT json_extract(value, '$.rounds') FROM run, json_each(CASE WHEN run.state = '' THEN '[]' ELSE run.state END)";
    let Ok(mut rows) = db.prepare(query) else { return Vec::new() };
    rows.query_map([], |r| r.get(0)).map(|all| all.flatten().collect()).unwrap_or_default()
}

/// A search of which a round takes some time.
fn slow() -> String {
    SPEC.replace("steps 60", "steps 60_000").replace("round = 60", "round = 2000")
}

#[test]
fn a_search_that_is_killed_at_any_moment_goes_on_to_the_same_archive() {
    let (whole, killed) = (folder(SPEC), folder(SPEC));
    ok(optc(whole.path(), &["search", "s.opt", "--children", "720", "-q"]));
    let archive = killed.path().join("out.sqlite");
    // In the first control's round, in a later round of the evolution, in the second control's round, at the end.
    let behind = |rounds: &[i64], arm: usize, least: i64| {
        rounds.len() == 3 && rounds[0] >= least && rounds[arm] < rounds[0] && rounds[..arm].iter().all(|r| *r == rounds[0])
    };
    let moments: [&dyn Fn(&[i64]) -> bool; 4] =
        [&|r| behind(r, 1, 1), &|r| r.len() == 3 && r[2] >= 2 && r[2] == r[0], &|r| behind(r, 2, 3), &|r| r.len() == 3 && r[2] >= 6];
    let mut args = vec!["search", "s.opt", "--children", "720", "-q"];
    let mut met = 0;
    for moment in moments {
        let mut running = Running::start(killed.path(), &args);
        met += usize::from(running.until(&archive, |rounds, _| moment(rounds)));
        running.kill();
        args = vec!["search", "resume", "out.sqlite", "--children", "720", "-q", "--jobs", "2"];
    }
    assert!(met >= 3, "{met} of the moments were met");
    ok(optc(killed.path(), &args));
    let (a, b) = (contents(&whole.path().join("out.sqlite")), contents(&archive));
    assert_eq!(a.len(), b.len());
    if let Some((x, y)) = a.iter().zip(&b).find(|(x, y)| x != y) {
        panic!("{x}\n{y}");
    }
    let emitted = |folder: &Path| std::fs::read_to_string(folder.join("best.opt")).expect("written");
    assert_eq!(emitted(whole.path()), emitted(killed.path()));
}

#[test]
fn a_budget_ends_a_round_that_is_longer() {
    let spec = folder(&slow());
    let begin = Instant::now();
    let output = optc(spec.path(), &["search", "s.opt", "--budget", "3s"]);
    let (took, told) = (begin.elapsed(), String::from_utf8_lossy(&output.stdout).into_owned());
    assert!(output.status.success(), "{told}");
    // The round would take many times as long; its best is handed on, and made again where the search goes on.
    assert!(
        told.contains("the round that was not ended is left out, but for the best of it") && took < Duration::from_secs(25),
        "{took:?}: {told}"
    );
    assert!(told.contains(", 3 s; archive") && told.contains("the best: "), "{told}");
    let best = std::fs::read_to_string(spec.path().join("best.opt")).expect("written");
    assert!(best.contains("of a round that was not ended"), "{best}");
    // What it does is told while the round is under way.
    let lines = String::from_utf8_lossy(&output.stderr).into_owned();
    let children: Vec<u64> = lines.lines().filter_map(|l| l.split(" children").next()?.split("s  ").last()?.trim().parse().ok()).collect();
    assert!(children.len() >= 2 && children[0] == 0 && children.windows(2).all(|w| w[0] < w[1]), "{lines}");
    // Nothing of that round is in the arms, and going on has no time left.
    let archive = spec.path().join("out.sqlite");
    let db = Connection::open(&archive).expect("an archive");
    let count = |query: &str| db.query_row(query, [], |r| r.get::<_, i64>(0)).expect("a count");
    assert_eq!((count("SELECT COUNT(*) FROM child WHERE arm <> 'emitted'"), count("SELECT length(state) FROM run")), (0, 0));
    assert!(count("SELECT COUNT(*) FROM child") > 0);
    let elapsed: f64 = db.query_row("SELECT CAST(value AS REAL) FROM setting WHERE name = 'elapsed'", [], |r| r.get(0)).expect("a number");
    assert!((3.0..10.0).contains(&elapsed), "{elapsed}");
    drop(db);
    let text = slow().replace("seed     3", "budget   3s\n  seed     3");
    std::fs::write(spec.path().join("s.opt"), text).expect("written");
    let begin = Instant::now();
    let again = ok(optc(spec.path(), &["search", "resume", "out.sqlite", "-q"]));
    assert!(begin.elapsed() < Duration::from_secs(20) && again.contains("0 children of evolution"), "{again}");
}

#[test]
fn an_interrupt_ends_a_round_at_once() {
    let spec = folder(&slow());
    let mut running = Running::start(spec.path(), &["search", "s.opt", "--budget", "10min", "-q"]);
    let archive = spec.path().join("out.sqlite");
    assert!(running.until(&archive, |_, db| db.query_row("SELECT COUNT(*) FROM start", [], |r| r.get::<_, i64>(0)).is_ok_and(|n| n > 0)));
    std::thread::sleep(Duration::from_millis(500));
    running.interrupt();
    let begin = Instant::now();
    let output = running.output();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && begin.elapsed() < Duration::from_secs(10), "{:?}: {told}", begin.elapsed());
    assert!(told.contains("the round that was not ended is left out") && told.contains("stopped before the budget"), "{told}");
}

#[test]
fn an_interrupt_ends_what_is_owed_at_the_end() {
    let long = OWED.replace("steps = 60, keep", "steps = 60_000, keep").replace("steps = 100, keep", "steps = 100_000, keep");
    let spec = folder(&long);
    let archive = spec.path().join("out.sqlite");
    let mut running = Running::start(spec.path(), &["search", "s.opt", "--children", "120", "-q"]);
    let ended = |rounds: &[i64], _: &Connection| rounds == [2, 2];
    assert!(running.until(&archive, ended));
    // The best is there before anything else is measured.
    let begin = Instant::now();
    while !spec.path().join("best.opt").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let first = std::fs::read_to_string(spec.path().join("best.opt")).expect("written");
    assert!(first.contains("Not measured: the funnel"), "{first}");
    std::thread::sleep(Duration::from_millis(200));
    running.interrupt();
    let begin = Instant::now();
    let output = running.output();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && begin.elapsed() < Duration::from_secs(20), "{:?}: {told}", begin.elapsed());
    for part in [
        "stopped at its end; not measured: the funnel from its rung 1 on",
        "the noise of the fitness",
        "`rotated_quadratic`, which is held out",
        "the best: ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let count =
        |query: &str| Connection::open(&archive).expect("an archive").query_row(query, [], |r| r.get::<_, i64>(0)).expect("a count");
    assert_eq!((count("SELECT COUNT(*) FROM a_a"), count("SELECT COUNT(*) FROM held_out")), (0, 0));
    // Going on measures it, and nothing else has changed.
    std::fs::write(spec.path().join("s.opt"), OWED).expect("written");
    let told = ok(optc(spec.path(), &["search", "resume", "out.sqlite", "--children", "120", "-q"]));
    assert!(told.contains("Rung 2 of the funnel") && told.contains("first time") && !told.contains("not measured"), "{told}");
    let whole = folder(OWED);
    ok(optc(whole.path(), &["search", "s.opt", "--children", "120", "-q"]));
    assert_eq!(contents(&archive), contents(&whole.path().join("out.sqlite")));
    let emitted = |folder: &Path| std::fs::read_to_string(folder.join("best.opt")).expect("written");
    assert_eq!(emitted(spec.path()), emitted(whole.path()));
}
