//! Searches from the command line: what they find depends on the spec alone, however often they are killed, and the budgets of rediscovery.

use rusqlite::Connection;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// A small task, ill-conditioned and away from 0, and searches on it.
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
  archive  "out.sqlite"
  emit     "best.opt"
  seed     3
}
"#;

fn optc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_optc")).current_dir(folder).args(args).output().expect("optc starts")
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn folder(spec: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("s.opt"), spec).expect("written");
    folder
}

/// All that an archive holds, in order.
fn contents(path: &Path) -> Vec<String> {
    let db = Connection::open(path).expect("an archive");
    let mut all = Vec::new();
    for query in [
        "SELECT quote(hash) || quote(family) || text || n_live || states || coalesce(scale_deg_g, 'none') FROM program ORDER BY 1",
        "SELECT arm || '/' || island || '/' || n || '/' || quote(program) || quote(parent) || bits FROM child ORDER BY 1",
        "SELECT quote(program) || task || seed || '/' || lr || '/' || coalesce(score, 'none') || status FROM eval ORDER BY 1",
        "SELECT state FROM run",
    ] {
        let mut rows = db.prepare(query).expect("a query");
        all.extend(rows.query_map([], |r| r.get::<_, String>(0)).expect("rows").map(|r| r.expect("a row")));
    }
    all
}

#[test]
fn a_search_that_is_killed_goes_on_to_the_same_archive() {
    let (whole, killed) = (folder(SPEC), folder(SPEC));
    ok(optc(whole.path(), &["search", "s.opt", "--children", "600", "-q"]));
    let mut child = Command::new(env!("CARGO_BIN_EXE_optc"))
        .current_dir(killed.path())
        .args(["search", "s.opt", "--children", "600", "-q"])
        .spawn()
        .expect("optc starts");
    // Killed in the middle of a round, once there is something to go on from.
    for _ in 0..400 {
        std::thread::sleep(Duration::from_millis(10));
        let path = killed.path().join("out.sqlite");
        // Opening what is not there would make it.
        let db = path.exists().then(|| Connection::open(&path).ok()).flatten();
        let begun = db.and_then(|db| db.query_row("SELECT length(state) > 0 FROM run", [], |r| r.get::<_, bool>(0)).ok());
        if begun == Some(true) {
            break;
        }
    }
    child.kill().expect("killed");
    let _ = child.wait();
    ok(optc(killed.path(), &["search", "resume", "out.sqlite", "--children", "600", "-q", "--jobs", "2"]));
    let (a, b) = (contents(&whole.path().join("out.sqlite")), contents(&killed.path().join("out.sqlite")));
    assert_eq!(a.len(), b.len());
    if let Some((x, y)) = a.iter().zip(&b).find(|(x, y)| x != y) {
        panic!("{x}\n{y}");
    }
    // The archive answers questions, and the best is a spec that checks.
    let top = ok(optc(whole.path(), &["search", "top", "out.sqlite", "-n", "3"]));
    let hash = top.lines().find_map(|l| l.split(|c: char| !c.is_ascii_hexdigit()).find(|w| w.len() == 12)).expect("a hash").to_string();
    let explained = ok(optc(whole.path(), &["search", "explain", "out.sqlite", &hash]));
    assert!(explained.contains("optimizer found(") && explained.contains("degree in the gradient"), "{explained}");
    assert!(ok(optc(whole.path(), &["search", "lineage", "out.sqlite", &hash])).contains(&hash));
    assert!(ok(optc(whole.path(), &["search", "report", "out.sqlite"])).contains("constants_only"));
    ok(optc(whole.path(), &["check", "best.opt"]));
    let best = std::fs::read_to_string(whole.path().join("best.opt")).expect("written");
    assert!(best.contains("Control `random`") && best.contains("First program `sgd`"), "{best}");
}

#[test]
fn searches_that_cannot_be_are_refused() {
    let stderr = |folder: &Path, args: &[&str]| {
        let output = optc(folder, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let plain = folder(SPEC);
    assert!(stderr(plain.path(), &["search", "s.opt", "worse"]).contains("R0146"));
    assert!(stderr(plain.path(), &["search", "resume", "out.sqlite"]).contains("R0146"));
    assert!(stderr(plain.path(), &["search", "top", "s.opt"]).contains("no archive"));
    let few = folder(&SPEC.replace("states <= 2", "states <= 1"));
    assert!(stderr(few.path(), &["search", "s.opt", "--children", "10"]).contains("states <= 2"));
    let muon = folder(&SPEC.replace("{sgd, adamw}", "{sgd, adamw, muon}").replace("[sgd, adamw]", "[sgd, muon]"));
    assert!(stderr(muon.path(), &["search", "s.opt", "--children", "10"]).contains("no program of the search"));
    assert!(!muon.path().join("out.sqlite").exists());
    let metric = folder(&SPEC.replace("median(loss)", "median(accuracy)"));
    assert!(stderr(metric.path(), &["search", "s.opt", "--children", "10"]).contains("no metric `accuracy`"));
    // An archive is not overwritten, and does not go on with another spec.
    ok(optc(plain.path(), &["search", "s.opt", "--children", "60", "-q"]));
    assert!(stderr(plain.path(), &["search", "s.opt", "--children", "60"]).contains("is there already"));
    std::fs::write(plain.path().join("s.opt"), SPEC.replace("seed     3", "seed     4")).expect("written");
    assert!(stderr(plain.path(), &["search", "resume", "out.sqlite", "--children", "90"]).contains("has changed"));
}

/// Momentum, in whatever form, is found from gradient descent on an ill-conditioned bowl.
#[test]
fn momentum_is_found_from_gradient_descent() {
    let spec = SPEC
        .replace("start    [sgd, adamw]", "start    sgd")
        .replace("states <= 2", "states <= 1, ops = [interpolate, add, sub]")
        .replace("statements <= 32,", "statements <= 8,");
    let spec = spec.replace(
        "islands = 2, population = 40, tournament = 3, round = 60, restart_after = 500",
        "islands = 2, population = 50, tournament = 4, round = 200, restart_after = 100_000",
    );
    let folder = folder(&spec);
    ok(optc(folder.path(), &["search", "s.opt", "--children", "4000", "-q"]));
    let db = Connection::open(folder.path().join("out.sqlite")).expect("an archive");
    // The best has a state that averages gradients, is of degree 1, and is far better than numbers alone.
    let (fitness, states, degree): (f64, i64, Option<f64>) = db
        .query_row("SELECT c.fitness, p.states, p.scale_deg_g FROM child c JOIN program p ON p.hash = c.program WHERE c.arm = 'evolution' AND c.fitness IS NOT NULL ORDER BY c.fitness LIMIT 1", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .expect("a best program");
    let numbers: f64 =
        db.query_row("SELECT MIN(fitness) FROM child WHERE arm = 'constants_only'", [], |r| r.get(0)).unwrap_or(f64::INFINITY);
    assert!(states == 1 && fitness < 0.5 * numbers, "{fitness} with {states} states, numbers alone {numbers}, degree {degree:?}");
}
