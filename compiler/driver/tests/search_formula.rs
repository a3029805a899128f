//! Searches for formulas from the command line.

use rusqlite::Connection;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// Coulomb's law, a law with noise, and one that no formula of the space has.
const SPEC: &str = r#"
data charges {
  let u = 1 + 4 * (random.uniform([200, 4]) as f64)
  q1 = u[:, 0]
  q2 = u[:, 1]
  epsilon = u[:, 2]
  r = u[:, 3]
  force = q1 * q2 * r / (4 * pi * epsilon * r^3)
}

data noisy {
  let u = 3 * (random.uniform([200]) as f64)
  t = u
  y = 2 * exp(-t / 2) + 0.01 * (random.normal([200]) as f64)
  wild = 2 * exp(-t / 2) + 50 * ((random.uniform([200]) < 0.2) as f64)
  pair = stack([u, u], axis = 1)
}

search coulomb(q1, q2, epsilon, r) {
  data    charges
  target  force
  budget  100_000
  archive "coulomb.sqlite"
  emit    "coulomb.opt"
}

search decay(t) {
  data     noisy, holdout = 25%
  target   y
  space    { ops = [add, sub, mul, div, exp], size <= 15 }
  strategy regularized_evolution { islands = 3, population = 50, tournament = 5, round = 200 }
  budget   12_000
  archive  "decay.sqlite"
  emit     "decay.opt"
  seed     2
}

search robust(t) {
  data    noisy
  target  wild
  loss    huber(prediction, target, delta = 0.1)
  space   { ops = [add, mul, exp], size <= 12 }
  budget  8_000
  archive "robust.sqlite"
}

search pairs(pair) { data noisy; target y; archive "pairs.sqlite" }
search sorted(t) { data noisy; target y; loss abs(sort(prediction) - target); archive "sorted.sqlite" }
"#;

fn optc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_optc")).current_dir(folder).args(args).output().expect("optc starts")
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("s.opt"), SPEC).expect("written");
    folder
}

fn text(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("written")
}

/// The state of a search and its formulas.
fn contents(path: &Path) -> Vec<String> {
    let db = Connection::open(path).expect("an archive");
    let mut all = Vec::new();
    for query in ["SELECT postfix || expression || loss || island || '/' || child FROM formula ORDER BY size", "SELECT state FROM run"] {
        let mut rows = db.prepare(query).expect("a query");
        all.extend(rows.query_map([], |r| r.get::<_, String>(0)).expect("rows").map(|r| r.expect("a row")));
    }
    all
}

#[test]
fn a_law_is_recovered_and_runs_on_every_back_end() {
    let folder = folder();
    let said = ok(optc(folder.path(), &["search", "s.opt", "coulomb", "-q"]));
    assert!(said.contains("coulomb(q1, q2, epsilon, r) = "), "{said}");
    let found = text(folder.path(), "coulomb.opt");
    ok(optc(folder.path(), &["check", "coulomb.opt"]));
    // At points that are no rows.
    let test = "import \"coulomb.opt\"
experiment equal {
  let u = 1.5 + iota(20) as f64 / 7
  let (q1, q2, epsilon, r) = (u, 7 - u, 0.3 * u + 1, 6 - u)
  let truth = q1 * q2 * r / (4 * pi * epsilon * r^3)
  check max(abs(coulomb(q1, q2, epsilon, r) / truth - 1)) < 1e-13, \"the formula is the law\"
}
";
    std::fs::write(folder.path().join("t.opt"), test).expect("written");
    for backend in if cfg!(feature = "llvm") { &["cranelift", "llvm", "interpreter"][..] } else { &["cranelift", "interpreter"] } {
        ok(optc(folder.path(), &["test", "t.opt", "--backend", backend]));
    }
    assert!(found.contains("pi") && found.contains("# Source"), "{found}");
}

#[test]
fn a_search_that_is_killed_goes_on_to_the_same_formulas() {
    let (whole, killed) = (folder(), folder());
    ok(optc(whole.path(), &["search", "s.opt", "decay", "-q"]));
    let mut child = Command::new(env!("CARGO_BIN_EXE_optc"))
        .current_dir(killed.path())
        .args(["search", "s.opt", "decay", "-q"])
        .spawn()
        .expect("optc starts");
    for _ in 0..600 {
        std::thread::sleep(Duration::from_millis(10));
        let path = killed.path().join("decay.sqlite");
        let db = path.exists().then(|| Connection::open(&path).ok()).flatten();
        let begun = db.and_then(|db| db.query_row("SELECT length(state) > 0 FROM run", [], |r| r.get::<_, bool>(0)).ok());
        if begun == Some(true) {
            break;
        }
    }
    child.kill().expect("killed");
    let _ = child.wait();
    ok(optc(killed.path(), &["search", "resume", "decay.sqlite", "-q", "--jobs", "3"]));
    assert_eq!(contents(&whole.path().join("decay.sqlite")), contents(&killed.path().join("decay.sqlite")));
    // Noise hides no more than it must, and what is held out is told.
    let report = ok(optc(whole.path(), &["search", "report", "decay.sqlite"]));
    assert!(report.contains("held out") && report.contains("best"), "{report}");
    assert_eq!(ok(optc(whole.path(), &["search", "top", "decay.sqlite", "-n", "100"])).lines().count() + 2, report.lines().count());
    let found = text(whole.path(), "decay.opt");
    assert!(found.contains("fn decay(t) = ") && found.contains("exp(") && found.contains("rows that were held out"), "{found}");
    ok(optc(whole.path(), &["check", "decay.opt"]));
    let nodes = report
        .lines()
        .find(|l| l.contains("best"))
        .and_then(|l| l.split_whitespace().find(|w| w.parse::<u32>().is_ok()))
        .expect("nodes")
        .to_string();
    assert!(ok(optc(whole.path(), &["search", "explain", "decay.sqlite", &nodes])).contains("in postfix form"));
}

/// A search for optimizers, for what wants one.
const TASKS: &str = "import std.search.tasks.axis_quadratic\nsearch bowl { start empty; task axis_quadratic; fitness median(validation_loss) over seed in 0..1, lr in [0.1] }\n";

/// Rows as files have them: numbers in f32, and in decimals.
#[test]
fn laws_of_csv_files_are_found_and_the_search_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |k: usize, by: f64| 0.5 + 2.5 * (k as f64 * by).fract();
    let rows = |write: &dyn Fn(f64, f64) -> String| {
        let all: Vec<String> = (0..200).map(|k| write(place(k, 0.618_033_988_7), place(k, 0.754_877_666_2))).collect();
        all.join("\n")
    };
    let narrow = rows(&|x, y| {
        let (x, y) = (x as f32, y as f32);
        format!("{x},{y},{}", x * y / 2.0 + x.sin())
    });
    let decimal = rows(&|x, y| format!("{x:.7},{y:.7},{:.7}", x * y / 2.0 + x.sin()));
    for (name, text) in [("narrow", narrow), ("decimal", decimal)] {
        std::fs::write(folder.path().join(format!("{name}.csv")), text).expect("written");
        let spec = format!(
            "data rows {{ let t = csv(\"{name}.csv\"); x = t[:, 0]; y = t[:, 1]; z = t[:, 2] }}\nsearch {name}(x, y) {{ data rows; target z; control none; budget 400_000 }}\n"
        );
        std::fs::write(folder.path().join(format!("{name}.opt")), spec).expect("written");
        let told = ok(optc(folder.path(), &["search", &format!("{name}.opt"), "-q"]));
        let law = told.lines().last().unwrap_or("");
        assert!(["1 / 2 * (y * x) + sin(x)", "1 / 2 * (x * y) + sin(x)"].iter().any(|l| law.ends_with(l)), "{told}");
        let made: u64 = told.lines().find_map(|l| l.split_once(" formulas, ")?.0.parse().ok()).expect("a count");
        assert!(made < 100_000 && !told.contains("control"), "{told}");
    }
}

/// Random formulas stand beside, and all of it is in the report.
#[test]
fn a_report_tells_the_front_its_control_and_the_best() {
    let folder = folder();
    let told = ok(optc(folder.path(), &["search", "s.opt", "decay", "--children", "6000", "-q"]));
    assert!(told.contains("control, 6000 random formulas"), "{told}");
    let best = told.lines().find_map(|l| l.strip_prefix("decay(t) = ")).expect("the best").to_string();
    let report = ok(optc(folder.path(), &["search", "report", "decay.sqlite"]));
    assert!(report.contains("as many random formulas: "), "{report}");
    let marked = |text: &str| text.lines().find(|l| l.contains("│ best ")).map(str::to_string);
    // What is the best does not depend on how much is shown.
    let row = marked(&report).expect("one is marked");
    for n in ["1", "2", "3", "40"] {
        let top = ok(optc(folder.path(), &["search", "top", "decay.sqlite", "-n", n]));
        match marked(&top) {
            Some(line) => assert!(line.contains(&best) && row.contains(&best), "{top}"),
            None => assert!(top.contains("the best has ") && top.contains(&best), "{top}"),
        }
    }
    ok(optc(folder.path(), &["search", "report", "decay.sqlite", "--html", "decay.html"]));
    let html = text(folder.path(), "decay.html");
    let escaped = best.replace('<', "&lt;").replace('>', "&gt;");
    for part in ["<svg", "The best formula", &escaped, "Control: random formulas", "not finite", "Version", "holdout"] {
        assert!(html.contains(part), "{part}");
    }
}

#[test]
fn a_loss_of_ones_own_is_what_is_fitted() {
    let folder = folder();
    let said = ok(optc(folder.path(), &["search", "s.opt", "robust", "-q"]));
    // A fifth of the rows is off by 50, and the formula does not follow them: a constant term would.
    let last = said.lines().rfind(|l| l.starts_with('│')).and_then(|l| l.rsplit('┆').next()).expect("a formula");
    let least = last.trim_matches(|c: char| c == '│' || c.is_whitespace());
    assert!(least.contains("exp("), "{said}");
    let at_zero = "import \"found.opt\"\nexperiment e { check abs(robust(0.0) - 2) < 0.1, \"as without them\" }\n";
    std::fs::write(folder.path().join("found.opt"), format!("fn robust(t) = {least}\n")).expect("written");
    std::fs::write(folder.path().join("e.opt"), at_zero).expect("written");
    ok(optc(folder.path(), &["test", "e.opt"]));
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let folder = folder();
    let refused = |args: &[&str]| {
        let output = optc(folder.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let shape = refused(&["search", "s.opt", "pairs"]);
    assert!(shape.contains("E0810") && shape.contains("[200, 2]"), "{shape}");
    let order = refused(&["search", "s.opt", "sorted"]);
    assert!(order.contains("E0810") && order.contains("other rows"), "{order}");
    assert!(refused(&["search", "judge", "s.opt", "decay"]).contains("no search for optimizers"));
    // An archive of formulas is no archive of optimizers.
    ok(optc(folder.path(), &["search", "s.opt", "robust", "--children", "1", "-q"]));
    for args in [
        &["search", "lineage", "robust.sqlite", "5"][..],
        &["search", "merge", "robust.sqlite", "robust.sqlite", "-o", "both.sqlite"],
        &["search", "judge", "tasks.opt", "--optimizer", "robust.sqlite"],
    ] {
        std::fs::write(folder.path().join("tasks.opt"), TASKS).expect("written");
        let told = refused(args);
        assert!(told.contains("robust.sqlite is of a search for a formula") && !told.contains("--jobs"), "{told}");
    }
    assert!(!folder.path().join("pairs.sqlite").exists() && !folder.path().join("sorted.sqlite").exists());
}
