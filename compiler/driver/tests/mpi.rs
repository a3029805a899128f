//! Searches under `mpirun`: processes that find the same again, of which one is killed, and that go on.

use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SPEC: &str = r#"
import std.optim.{sgd, adamw}

model point() { param x: f32[16] = 0; x }
loss bowl(x: f32[16]) -> f32 {
  let c = exp2(iota(16) as f32 * 0.4 - 3)
  mean(c * (x - cos(iota(16) as f32))^2)
}
train descend { model p = point(); loss bowl(p()); optimizer sgd(lr = 0.1); steps 60 }

search better {
  start    [sgd, adamw]
  space    { statements <= 32, states <= 2 }
  task     descend
  fitness  median(loss) over seed in 0..1, lr in [0.03, 0.3, 3]
  strategy regularized_evolution { islands = 2, population = 40, tournament = 3, round = 60, restart_after = 500 }
  control  { random, a_a = 2 }
  archive  "out.sqlite"
  emit     "best.opt"
  seed     3
}
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("s.opt"), SPEC).expect("written");
    folder
}

/// `mpirun` with so many processes, which are more than there may be cores; a test may be run by root.
fn mpirun(folder: &Path, processes: usize, args: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command.current_dir(folder).args(["--enable-recovery", "--oversubscribe", "-n", &processes.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_optc")).args(args).stdin(Stdio::null());
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").env("OPTC_MPI_SILENCE", "4");
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn ok(output: Output) -> String {
    let told = text(&output);
    assert!(output.status.success(), "{:?}: {told}", output.status);
    told
}

fn rows(path: &Path, query: &str) -> Vec<String> {
    let db = Connection::open(path).expect("an archive");
    let mut statement = db.prepare(query).expect("a query");
    statement.query_map([], |r| r.get::<_, String>(0)).expect("rows").map(|r| r.expect("a row")).collect()
}

/// All that the archive of a search holds, but for what its processes are called.
fn contents(folder: &Path) -> Vec<String> {
    let path = folder.join("out.sqlite");
    let mut all = rows(&path, "SELECT quote(hash) || text FROM program ORDER BY 1");
    all.extend(rows(
        &path,
        "SELECT arm || '/' || island || '/' || n || '/' || quote(program) || quote(parent) || bits FROM child ORDER BY 1",
    ));
    all.extend(rows(&path, "SELECT state FROM run"));
    all
}

/// Children of the evolution that the archive of a process has, 0 if there is none yet.
fn children(path: &Path) -> i64 {
    let query = "SELECT SUM(json_extract(value, '$.counters[0]')) FROM run, json_each(run.state, '$[0].islands')";
    let db = path.exists().then(|| Connection::open(path).ok()).flatten();
    db.and_then(|db| db.query_row(query, [], |r| r.get(0)).ok()).unwrap_or(0)
}

fn of_rank(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("out.rank{rank}.sqlite"))
}

/// The process of a rank below one of these processes.
fn process_of(launcher: u32, rank: usize) -> Option<i32> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|e| {
        let id: i32 = e.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(e.path().join("status")).ok()?;
        let parent: u32 = status.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim().parse().ok()?;
        let environment = std::fs::read(e.path().join("environ")).ok()?;
        let mark = format!("OMPI_COMM_WORLD_RANK={rank}");
        (parent == launcher && environment.split(|b| *b == 0).any(|v| v == mark.as_bytes())).then_some(id)
    })
}

#[test]
fn processes_of_mpi_find_the_same_again_and_are_merged() {
    let (one, two) = (folder(), folder());
    let told = ok(mpirun(one.path(), 2, &["search", "s.opt", "--children", "960", "-q"]).output().expect("mpirun starts"));
    assert!(told.contains("2 processes") && told.contains("the best: ") && told.contains("against itself on 2 pairs"), "{told}");
    // One of them speaks.
    assert_eq!(told.matches("children of evolution").count(), 1, "{told}");
    assert!(children(&one.path().join("out.sqlite")) >= 960);
    let (a, b) = (children(&of_rank(one.path(), 0)), children(&of_rank(one.path(), 1)));
    assert!(a > 0 && a == b && a + b == children(&one.path().join("out.sqlite")));
    // Half of it, and then the rest: the same.
    ok(mpirun(two.path(), 2, &["search", "s.opt", "--children", "480", "-q"]).output().expect("mpirun starts"));
    ok(mpirun(two.path(), 2, &["search", "resume", "out.sqlite", "--children", "960", "-q"]).output().expect("mpirun starts"));
    assert!(contents(one.path()) == contents(two.path()));
    // What is there is not overwritten, and another number of processes is another search. (The status of `mpirun --enable-recovery` is 0.)
    let again = mpirun(one.path(), 2, &["search", "s.opt", "--children", "960", "-q"]).output().expect("mpirun starts");
    assert!(text(&again).contains("is there already") && !text(&again).contains("children of evolution"), "{}", text(&again));
    let three = mpirun(one.path(), 3, &["search", "resume", "out.sqlite", "--children", "960", "-q"]).output().expect("mpirun starts");
    assert!(text(&three).contains("the search has 2 processes, not 3"), "{}", text(&three));
}

#[test]
fn killing_a_process_loses_only_what_it_had_not_committed() {
    let spec = folder();
    let mut command = mpirun(spec.path(), 3, &["search", "s.opt", "--children", "2880", "-q"]);
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun starts");
    let begin = Instant::now();
    let killed = loop {
        assert!(begin.elapsed() < Duration::from_secs(120), "the search does not begin");
        if children(&of_rank(spec.path(), 1)) > 0
            && let Some(id) = process_of(running.id(), 1)
        {
            // SAFETY: the process is one that this test started.
            assert_eq!(unsafe { libc::kill(id, libc::SIGKILL) }, 0);
            break children(&of_rank(spec.path(), 1));
        }
        assert!(running.try_wait().expect("it can be waited for").is_none(), "it ended too soon");
        std::thread::sleep(Duration::from_millis(5));
    };
    let told = ok(running.wait_with_output().expect("it ends"));
    assert!(told.contains("process 1 was lost") && told.contains("the best: "), "{told}");
    // The others made their share, and what the one had committed is there.
    let of = |r: usize| children(&of_rank(spec.path(), r));
    assert!(of(0) >= 960 && of(0) == of(2) && of(1) >= killed && of(1) < of(0), "{} {} {}", of(0), of(1), of(2));
    assert_eq!(children(&spec.path().join("out.sqlite")), of(0) + of(1) + of(2));
    // It is taken up again, and all make their share.
    let more = mpirun(spec.path(), 3, &["search", "resume", "out.sqlite", "--children", "2880", "-q"]).output().expect("mpirun starts");
    let told = ok(more);
    assert!(!told.contains("was lost"), "{told}");
    assert!(of(1) == of(0) && children(&spec.path().join("out.sqlite")) == 3 * of(0), "{} {} {}", of(0), of(1), of(2));
}
