//! Searches from the command line: what they find depends on the spec alone, however often they are killed, and the budgets of rediscovery.

#[path = "search_run/found.rs"]
mod found;
#[path = "search_run/places.rs"]
mod places;
#[path = "search_run/ring.rs"]
mod ring;
#[cfg(unix)]
#[path = "search_run/stops.rs"]
mod stops;
#[cfg(unix)]
#[path = "search_run/view.rs"]
mod view;

use rusqlite::Connection;
use std::path::Path;
use std::process::{Command, Output};

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

/// All that an archive holds of what its arms have run, in order.
fn contents(path: &Path) -> Vec<String> {
    let db = Connection::open(path).expect("an archive");
    let mut all = Vec::new();
    for query in [
        "SELECT quote(hash) || quote(family) || text || n_live || states || coalesce(scale_deg_g, 'none') FROM program WHERE hash IN (SELECT program FROM child WHERE arm <> 'emitted') ORDER BY 1",
        "SELECT arm || '/' || island || '/' || n || '/' || quote(program) || quote(parent) || bits FROM child WHERE arm <> 'emitted' ORDER BY 1",
        "SELECT quote(program) || task || seed || '/' || lr || '/' || coalesce(score, 'none') || status FROM eval WHERE rung = 0 ORDER BY 1",
        "SELECT quote(program) || shape || quote(bytes) FROM fp ORDER BY 1",
        "SELECT n || '/' || children || '/' || quote(program) || coalesce(score, 'none') FROM validation ORDER BY n",
        "SELECT state FROM run",
    ] {
        let mut rows = db.prepare(query).expect("a query");
        all.extend(rows.query_map([], |r| r.get::<_, String>(0)).expect("rows").map(|r| r.expect("a row")));
    }
    all
}

#[test]
fn an_archive_answers_questions() {
    let whole = folder(SPEC);
    ok(optc(whole.path(), &["search", "s.opt", "--children", "600", "-q"]));
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
    // A start outside of the space: by its degree, and by what it combines.
    let degree = folder(&SPEC.replace("states <= 2", "states <= 2, require scale_degree(g) == 1"));
    let said = stderr(degree.path(), &["search", "s.opt", "--children", "10"]);
    assert!(said.contains("`adamw` has degree 0 in g where the space has `require scale_degree(g) == 1`"), "{said}");
    let coupled = folder(&SPEC.replace("states <= 2", "states <= 2, require not elementwise"));
    assert!(stderr(coupled.path(), &["search", "s.opt", "--children", "10"]).contains("`sgd` combines no elements"));
    let cost = folder(&SPEC.replace("states <= 2", "states <= 2, require cost <= 0.5"));
    assert!(stderr(cost.path(), &["search", "s.opt", "--children", "10"]).contains("`adamw` costs 1.000 times the operations of AdamW"));
    // What is forbidden is forbidden to first programs, whether it is protected or not; `ops` alone says what mutations draw.
    let forbidden = folder(&SPEC.replace("states <= 2", "states <= 2, ops = [add, mul, sub], forbid [sqrt, div]"));
    assert!(stderr(forbidden.path(), &["search", "s.opt", "--children", "10"]).contains("which the space forbids"));
    assert!(!forbidden.path().join("out.sqlite").exists());
    let drawn = folder(&SPEC.replace("states <= 2", "states <= 2, ops = [add, mul, sub]"));
    let told = ok(optc(drawn.path(), &["search", "s.opt", "--children", "120", "-q"]));
    assert!(told.contains("raw_sqrt") && told.contains("which mutations do not draw"), "{told}");
    let metric = folder(&SPEC.replace("median(loss)", "median(accuracy)"));
    assert!(stderr(metric.path(), &["search", "s.opt", "--children", "10"]).contains("no metric `accuracy`"));
    // An archive is not overwritten, and does not go on with another spec.
    ok(optc(plain.path(), &["search", "s.opt", "--children", "60", "-q"]));
    assert!(stderr(plain.path(), &["search", "s.opt", "--children", "60"]).contains("is there already"));
    std::fs::write(plain.path().join("s.opt"), SPEC.replace("seed     3", "seed     4")).expect("written");
    assert!(stderr(plain.path(), &["search", "resume", "out.sqlite", "--children", "90"]).contains("has changed"));
}

/// Settings that say nothing together are refused where the spec is checked.
#[test]
fn settings_that_do_not_go_together_are_refused() {
    let refused_as = |code: &str, spec: &str, why: &str| {
        let folder = folder(spec);
        let output = optc(folder.path(), &["check", "s.opt"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(code) && said.contains(why), "{why}: {said}");
    };
    let refused = |spec: &str, why: &str| refused_as("E0810", spec, why);
    let evolution = "regularized_evolution { islands = 2, population = 40, tournament = 3, round = 60, restart_after = 500 }";
    let simplification = SPEC.replace(evolution, "simplification { margin = 1% }");
    assert!(simplification != SPEC);
    refused(&simplification.replace("seed     3", "control { random }"), "a search that simplifies has no control");
    refused(&simplification.replace("seed     3", "funnel [{ steps = 100, keep = 50% }]"), "a search that simplifies has no funnel");
    refused(&SPEC.replace("restart_after = 500", "hurdle = 2"), "there is one task alone");
    refused(&OWED.replace("round = 60", "hurdle = 1"), "a hurdle is above 1");
    refused_as("E0226", &simplification.replace("margin = 1%", "hurdle = 2"), "no setting `hurdle`");
    refused_as("E0527", &OWED.replace("a_a = 6", "a_a = 6, a_a = 7"), "`a_a` is set twice");
    let looked_at = OWED.replace("control  {", "validation rotated_quadratic(d = 8)\n  control  {");
    refused(&looked_at, "is held out, and one of its validation");
    let searched = OWED.replace("control  {", "validation axis_quadratic(d = 8, steps = 40)\n  control  {");
    refused(&searched, "is for validation, and a task of the search");
    refused(&OWED.replace("valley(d = 4)]", "valley(d = 4)], every = 3"), "`held_out` has no option `every`");
    refused(
        &simplification.replace("seed     3", "control none\n  validation [run descend with { steps = 90 }]"),
        "a search that simplifies has no validation",
    );
    refused_as("E0527", &SPEC.replace("restart_after = 500", "round = 50"), "`round` is set twice");
    refused(&SPEC.replace("states <= 2", "states <= 2, cost <= 2"), "`cost` is required");
    refused(&SPEC.replace("states <= 2", "states <= 2, require cost <= 0"), "the cost of a step is above 0");
}

/// Programs that are bad on the first tasks are not run on the others; the others score as without a hurdle.
#[test]
fn hurdles_spare_what_is_hopeless() {
    let lines: Vec<&str> = OWED.lines().filter(|l| !["funnel", "held_out"].iter().any(|w| l.trim_start().starts_with(w))).collect();
    let plain = lines.join("\n").replace(", a_a = 6", "");
    let hurdle = plain.replace("round = 60", "round = 60, hurdle = 1.5");
    let scored = |spec: &str| -> Vec<(Vec<u8>, i64, Option<f64>)> {
        let folder = folder(spec);
        ok(optc(folder.path(), &["search", "s.opt", "--children", "240", "-q"]));
        let db = Connection::open(folder.path().join("out.sqlite")).expect("an archive");
        let mut rows = db
            .prepare(
                "SELECT c.program, COUNT(DISTINCT e.task), c.fitness FROM child c JOIN eval e ON e.program = c.program GROUP BY c.program",
            )
            .expect("a query");
        rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).expect("rows").map(|r| r.expect("a row")).collect()
    };
    let (all, some) = (scored(&plain), scored(&hurdle));
    let spared: Vec<_> = some.iter().filter(|(_, tasks, _)| *tasks == 1).collect();
    assert!(spared.len() > 20 && spared.iter().all(|(_, _, fitness)| fitness.is_none_or(|f| f > 1.5)), "{spared:?}");
    let mut same = 0;
    for (program, tasks, fitness) in &some {
        let Some((_, _, without)) = all.iter().find(|(p, _, _)| p == program) else { continue };
        if *tasks == 2 {
            assert_eq!(fitness, without);
            same += 1;
        }
    }
    assert!(same > 10, "{same} programs in both");
    // A program that gets nowhere on the first task is not run on the second, hurdle or not.
    assert!(all.iter().all(|(_, tasks, fitness)| *tasks == 2 || fitness.is_none()));
    // From nothing scores are multiples of AdamW's, whatever states the space has, also on the rungs of a funnel, where all are measured in full.
    let empty = OWED
        .replace("start    [sgd, adamw]", "start    empty")
        .replace("states <= 2", "states <= 1")
        .replace("round = 60", "round = 60, hurdle = 1.5");
    let from_nothing = folder(&empty.replace("steps = 100, keep = 20%, beat = [sgd]", "steps = 100, keep = 20%, beat = [adamw]"));
    let told = ok(optc(from_nothing.path(), &["search", "s.opt", "--children", "240", "-q"]));
    assert!(told.contains("to beat: `adamw` 1"), "{told}");
    // A multiple of a score that is not there is no hurdle.
    let nowhere = folder(&hurdle.replace("[0.03, 0.3]", "[1e30, 1e31]"));
    let output = optc(nowhere.path(), &["search", "s.opt", "--children", "10", "-q"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("a hurdle is a multiple of the first program's score"), "{said}");
}

/// The best of the evolution is measured on tasks that select no parent; the best there is what the search hands on, and it ends where nothing better has come for long.
#[test]
fn validation_chooses_what_is_handed_on() {
    let lines: Vec<&str> = OWED.lines().filter(|l| !l.trim_start().starts_with("funnel")).collect();
    let spec = lines.join("\n").replace(
        "held_out [rotated_quadratic(d = 8), tasks",
        "validation rotated_quadratic(d = 8, steps = 40)\n  seed 2\n  held_out [tasks",
    );
    let (whole, parts) = (folder(&spec), folder(&spec));
    let told = ok(optc(whole.path(), &["search", "s.opt", "--children", "600", "-q"]));
    assert!(told.contains("Validation of the best so far"), "{told}");
    ok(optc(parts.path(), &["search", "s.opt", "--children", "300", "-q"]));
    ok(optc(parts.path(), &["search", "resume", "out.sqlite", "--children", "600", "-q", "--jobs", "2"]));
    assert_eq!(contents(&whole.path().join("out.sqlite")), contents(&parts.path().join("out.sqlite")));
    let db = Connection::open(whole.path().join("out.sqlite")).expect("an archive");
    let of = |query: &str| db.query_row(&format!("SELECT CAST(({query}) AS TEXT)"), [], |r| r.get::<_, String>(0)).expect("a row");
    let measured = "SELECT quote(program) FROM validation WHERE score IS NOT NULL ORDER BY score, n LIMIT 1";
    assert_eq!(of("SELECT quote(program) FROM winner"), of(measured));
    // By what selects programs the last point is the best; on tasks of validation an earlier one.
    let points = of("SELECT COUNT(*) FROM validation").parse::<i64>().expect("a number");
    let number = |column: &str| {
        of(&format!("SELECT n FROM validation WHERE score IS NOT NULL ORDER BY {column}, n LIMIT 1")).parse::<i64>().expect("a number")
    };
    assert!(points >= 4 && number("fitness") == points - 1 && number("score") < points - 1, "{points} points");
    let best = std::fs::read_to_string(whole.path().join("best.opt")).expect("written");
    assert!(best.contains("Validation of the best so far"), "{best}");
    let report = ok(optc(whole.path(), &["search", "report", "out.sqlite", "--html", "r.html"]));
    assert!(report.contains("r.html"));
    assert!(std::fs::read_to_string(whole.path().join("r.html")).expect("written").contains("on tasks of validation"));
    // It ends where the curve has turned, and what is owed is measured then.
    let short = folder(&spec.replace("steps = 40)\n", "steps = 40), patience = 1\n"));
    let told = ok(optc(short.path(), &["search", "s.opt", "--children", "60000", "-q"]));
    let children: u64 = told.lines().find_map(|l| l.split_once(" children of evolution")?.0.trim().parse().ok()).expect("a number");
    assert!(children < 60_000 && told.contains("task `tasks.valley`") && told.contains("ended before its budget"), "{told}");
    let again = optc(short.path(), &["search", "resume", "out.sqlite", "--children", "60000", "-q"]);
    assert!(again.status.code() == Some(1) && String::from_utf8_lossy(&again.stderr).contains("the search has ended"));
}

/// What is emitted is simplified and rounded, but stays what the space requires.
#[test]
fn what_is_emitted_stays_in_the_space() {
    let slight = "optimizer slight(lr: float >= 0 = 0.1) {\n  w <- w - lr * (g + 1e-12 * norm(g) * g)\n}\n";
    let spec = SPEC.replace("start    [sgd, adamw]", "start    slight").replace("seed     3", "seed     3\n  control  none");
    let emitted = |space: &str| {
        let folder = folder(&format!("{}\n{slight}", spec.replace("states <= 2", space)));
        ok(optc(folder.path(), &["search", "s.opt", "--children", "60", "-q"]));
        ok(optc(folder.path(), &["check", "best.opt"]));
        std::fs::read_to_string(folder.path().join("best.opt")).expect("written")
    };
    // The source alone, without comments.
    let combines = |text: &str| text.lines().any(|l| !l.trim_start().starts_with('#') && (l.contains("norm(") || l.contains("sum(")));
    let (free, bound) = (emitted("ops = std.search.hero_ops"), emitted("ops = std.search.hero_ops, require not elementwise"));
    assert!(!combines(&free) && combines(&bound), "{free}\n{bound}");
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

/// Gradients that point to and fro, so that only their average shows the way: a sign of the gradient gets nowhere, and steps in proportion to it end up beside the optimum.
const ZIGZAG: &str = r#"
data sides { s = [1, 0.2, -1, -0.2] }

model point() { param x: f32[8] = 0; x }

fn bowl(x: f32[8]) -> f32 = mean(exp2(iota(8) as f32 * 0.4 - 2) * (100 * x - 1 - cos(iota(8) as f32))^2)

loss pushed(x: f32[8], s: f32[B]) -> f32 { bowl(x) / 100 + 6 * mean(s) * mean(x) }

train zigzag {
  data      sides, batch = 1
  model     p = point()
  loss      pushed(p(), s)
  optimizer plain_adamw()
  steps     61
  metric    validation_loss = 0.01 + bowl(p()) on sides every 61
}

## AdamW without bias correction, which the search for Lion began with.
optimizer plain_adamw(lr: float >= 0 = 0.1) {
  state m = 0
  state v = 0
  m <- 0.9 * m + 0.1 * g
  v <- 0.99 * v + 0.01 * g^2
  w <- w - lr * (m / (sqrt(v) + 1e-8) + 1e-4 * w)
}

search fewer {
  start    plain_adamw
  space    { statements <= 32, states <= 2, require scale_degree(g) == 0 }
  task     zigzag
  fitness  median(validation_loss) over seed in 0..1, lr in log(1e-5, 1e-2, 13)
  strategy simplification { margin = 90%, islands = 4, population = 10, tournament = 2, round = 500, restart_after = 2_000 }
  archive  "out.sqlite"
  emit     "best.opt"
}
"#;

/// From AdamW by what makes programs shorter alone: the average of squares goes, the square of the momentum stands under the root, and the e-graph knows what that is.
#[test]
fn the_sign_of_momentum_is_found_from_adamw_by_deletion() {
    let folder = folder(ZIGZAG);
    ok(optc(folder.path(), &["search", "s.opt", "--children", "40000", "-q"]));
    let simplified = ok(optc(folder.path(), &["search", "simplify", "best.opt", "--class", "approximate", "-q"]));
    assert!(simplified.contains("state m") && !simplified.contains("state v"), "{simplified}");
    assert!(simplified.contains("w <- w - lr * sign(m)"), "{simplified}");
}

/// Norms in the space: starts and finds combine elements, scores are those of the emitted optimizer, and what is required holds for all that was run.
#[test]
fn programs_that_combine_elements_are_searched() {
    let spec = SPEC
        .replace("{sgd, adamw}", "{sgd, lamb, clip_by_global_norm}")
        .replace("start    [sgd, adamw]", "start    [clip_by_global_norm(0.5) |> sgd, lamb(weight_decay = 0.1)]")
        .replace("states <= 2", "states <= 2, ops = std.search.hero_ops, require not elementwise, require state_bytes <= 8")
        .replace("seed     3", "seed     3\n  control  none");
    let folder = folder(&spec);
    let told = ok(optc(folder.path(), &["search", "s.opt", "--children", "360", "-q"]));
    assert!(told.contains("lamb"), "{told}");
    let db = Connection::open(folder.path().join("out.sqlite")).expect("an archive");
    let mut rows = db.prepare("SELECT text FROM program").expect("a query");
    let texts: Vec<String> = rows.query_map([], |r| r.get(0)).expect("rows").map(|r| r.expect("a row")).collect();
    let combines = |t: &String| ["norm(", "dot(", "cosine_sim(", "sum(", "total("].iter().any(|f| t.contains(f));
    assert!(texts.len() > 60 && texts.iter().all(combines), "{} programs", texts.len());
    ok(optc(folder.path(), &["check", "best.opt"]));
    assert!(std::fs::read_to_string(folder.path().join("best.opt")).expect("written").contains("norm("));
}

/// Tasks of the library, one of them held out, and all that is owed at the end.
const OWED: &str = r#"
import std.optim.{sgd, adamw}
import std.search.tasks.{axis_quadratic, rotated_quadratic}
import std.search.tasks as tasks

search better {
  start    [sgd, adamw]
  space    { statements <= 32, states <= 2 }
  task     axis_quadratic { d = 8, steps = 40 }
  task     axis_quadratic { d = 8, steps = 40, noise = "multiplicative" }
  fitness  median(validation_loss) over seed in 0..2, lr in [0.03, 0.3]
  strategy regularized_evolution { islands = 1, population = 30, tournament = 3, round = 60 }
  funnel   [{ steps = 60, keep = 50% }, { steps = 100, keep = 20%, beat = [sgd] }]
  held_out [rotated_quadratic(d = 8), tasks.valley(d = 4)]
  control  { random, a_a = 6 }
  archive  "out.sqlite"
  emit     "best.opt"
}
"#;

#[test]
fn what_is_owed_at_the_end_is_measured_and_selects_nothing() {
    let whole = folder(OWED);
    let told = ok(optc(whole.path(), &["search", "s.opt", "--children", "120", "-q"]));
    for part in [
        "Rung 1 of the funnel, 60 steps",
        "to beat: `sgd`",
        "against itself on 6 pairs",
        "task `rotated_quadratic`",
        "task `tasks.valley`",
        "first time",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Two tasks of one train are told apart in the archive.
    let db = Connection::open(whole.path().join("out.sqlite")).expect("an archive");
    let tasks: i64 = db.query_row("SELECT COUNT(DISTINCT task) FROM eval WHERE rung = 0", [], |r| r.get(0)).expect("a count");
    assert_eq!(tasks, 2);
    let rows = |query: &str| db.query_row(query, [], |r| r.get::<_, i64>(0)).expect("a count");
    assert_eq!(rows("SELECT COUNT(*) FROM a_a"), 6);
    // Noise is noise: the pairs differ, in both directions.
    assert!(rows("SELECT COUNT(*) FROM a_a WHERE first < second") > 0 && rows("SELECT COUNT(*) FROM a_a WHERE first > second") > 0);
    // First programs, the best and the control, on two tasks.
    assert_eq!(rows("SELECT COUNT(*) FROM held_out"), 8);
    drop(db);
    let best = std::fs::read_to_string(whole.path().join("best.opt")).expect("written");
    assert!(best.contains("Held out `rotated_quadratic`") && best.contains("Rung 2 of the funnel") && best.contains("Noise: `"), "{best}");
    ok(optc(whole.path(), &["check", "best.opt"]));
    // What entered each rung is kept with its scores, on seeds of its own.
    let rows = |query: &str| {
        let db = Connection::open(whole.path().join("out.sqlite")).expect("an archive");
        db.query_row(query, [], |r| r.get::<_, i64>(0)).expect("a count")
    };
    for rung in [1, 2] {
        let entered = rows(&format!("SELECT entered FROM funnel WHERE rung = {rung} - 1"));
        let kept = rows(&format!("SELECT COUNT(DISTINCT program) FROM eval WHERE rung = {rung}"));
        // The second has its baseline beside them.
        assert!(entered > 0 && (entered..=entered + 1).contains(&kept), "{entered} entered rung {rung}, {kept} have scores");
        assert_eq!(rows(&format!("SELECT COUNT(*) FROM eval WHERE rung = {rung} AND seed < 1000")), 0);
    }
    // To go on without a round, the same having been found, is no second look.
    let same = ok(optc(whole.path(), &["search", "resume", "out.sqlite", "--children", "120", "-q"]));
    assert!(same.contains("first time") && same.contains("not again now") && same.contains("6 pairs"), "{same}");
    assert_eq!(std::fs::read_to_string(whole.path().join("best.opt")).expect("written"), best);
    // A look at other tasks is one; that is counted, and the report shows the last.
    let other = OWED.replace("tasks.valley(d = 4)]", "tasks.valley(d = 4), tasks.valley(d = 6)]");
    std::fs::write(whole.path().join("s.opt"), other).expect("written");
    let again = ok(optc(whole.path(), &["search", "resume", "out.sqlite", "--children", "120", "-q"]));
    assert!(again.contains("2. time") && again.contains("has changed in what does not steer the search"), "{again}");
    let report = ok(optc(whole.path(), &["search", "report", "out.sqlite"]));
    assert!(report.contains("2. time") && report.contains("tasks.valley") && report.contains("6 pairs"), "{report}");
    // Without all that the search finds the same.
    let lines: Vec<&str> = OWED.lines().filter(|l| !["funnel", "held_out"].iter().any(|w| l.trim_start().starts_with(w))).collect();
    let bare = folder(&lines.join("\n").replace(", a_a = 6", ""));
    ok(optc(bare.path(), &["search", "s.opt", "--children", "120", "-q"]));
    assert_eq!(contents(&whole.path().join("out.sqlite")), contents(&bare.path().join("out.sqlite")));
}

#[test]
fn a_judge_tells_profiles_and_audits() {
    let spec = folder(OWED);
    let told = ok(optc(spec.path(), &["search", "judge", "s.opt", "--seeds", "4", "--audits", "--optimizer", "signum"]));
    assert!(told.contains("performance profiles") && told.contains("x 1.25"), "{told}");
    // A sign does not see the unit of gradients; gradient descent does.
    let audit = told.split("audits of `").nth(1).expect("an audit");
    assert!(audit.contains("gradient x 1000") && audit.contains("400 steps"), "{audit}");
    let cells = |name: &str| -> Vec<String> {
        let line = audit.lines().find(|l| l.contains(&format!(" {name} "))).unwrap_or_else(|| panic!("{name}: {audit}"));
        line.split(['│', '┆']).map(|c| c.trim().to_string()).filter(|c| !c.is_empty()).skip(1).collect()
    };
    let (sign, descent) = (cells("signum"), cells("sgd(momentum = 0.9)"));
    assert_eq!((&sign[0], &sign[0]), (&sign[1], &sign[2]));
    assert!(descent[0] != descent[1] && descent[0] != descent[2], "{descent:?}");
    // What an archive holds is judged by name, with more rates than it was found with.
    ok(optc(spec.path(), &["search", "s.opt", "--children", "60", "-q"]));
    let told = ok(optc(spec.path(), &["search", "judge", "s.opt", "--seeds", "4", "--optimizer", "out.sqlite", "--rates", "7"]));
    for part in ["7 learning rates each", " better ", " random of better ", " nadamw "] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let output = optc(spec.path(), &["search", "judge", "s.opt", "--rates", "1"]);
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("1 learning rates cannot be tried"));
}

/// Elites, tuned numbers and skipped fingerprints are part of what a search goes on from, and nothing depends on threads.
#[test]
fn all_of_the_strategy_goes_on_to_the_same_archive() {
    let strategy =
        "regularized_evolution { islands = 2, population = 30, tournament = 3, round = 60, novelty = 20%, tune = 15, fingerprint = skip }";
    let old = "regularized_evolution { islands = 2, population = 40, tournament = 3, round = 60, restart_after = 500 }";
    let spec = SPEC.replace(old, strategy).replace("[sgd, adamw]", "[sgd(momentum = 0.8), adamw]");
    assert!(spec.contains(strategy));
    let (whole, parts) = (folder(&spec), folder(&spec));
    let told = ok(optc(whole.path(), &["search", "s.opt", "--children", "480", "-q"]));
    assert!(told.contains("fingerprints: ") && told.contains("they were not run"), "{told}");
    ok(optc(parts.path(), &["search", "s.opt", "--children", "240", "-q", "--jobs", "2"]));
    ok(optc(parts.path(), &["search", "resume", "out.sqlite", "--children", "480", "-q", "--jobs", "2"]));
    let (a, b) = (contents(&whole.path().join("out.sqlite")), contents(&parts.path().join("out.sqlite")));
    assert_eq!(a.len(), b.len());
    if let Some((x, y)) = a.iter().zip(&b).find(|(x, y)| x != y) {
        panic!("{x}\n{y}");
    }
    // Every program that was run has its fingerprint, and the numbers of what is emitted have few digits.
    let db = Connection::open(whole.path().join("out.sqlite")).expect("an archive");
    let count = |table: &str| db.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |r| r.get::<_, i64>(0)).expect("a count");
    assert_eq!(count("fp"), count("program WHERE hash IN (SELECT program FROM child WHERE arm <> 'emitted')"));
    let best = std::fs::read_to_string(whole.path().join("best.opt")).expect("written");
    assert!(best.contains("Numbers rounded to") && told.contains("Numbers rounded to"), "{best}");
    ok(optc(whole.path(), &["check", "best.opt"]));
}

/// A search that only makes programs shorter.
#[test]
fn simplification_is_a_strategy() {
    let spec = SPEC.replace("start    [sgd, adamw]", "start    verbose").replace(
        "regularized_evolution { islands = 2, population = 40, tournament = 3, round = 60, restart_after = 500 }",
        "simplification { margin = 1%, islands = 1, population = 20, tournament = 3, round = 200 }",
    );
    let verbose = "optimizer verbose(lr: float >= 0 = 0.1) {\n  state m = 0\n  state v = 0\n  let a = 1e-9 * g\n  m <- 0.7 * m + 0.3 * (g + a + tanh(a))\n  v <- 0.9 * v + 0.1 * a\n  w <- w - lr * (m + 1e-6 * v - abs(1e-6 * a))\n}\n";
    let folder = folder(&format!("{spec}\n{verbose}"));
    let told = ok(optc(folder.path(), &["search", "s.opt", "--children", "1000", "-q"]));
    // No controls: they look for better programs, not for shorter ones.
    assert!(!told.contains("constants_only"), "{told}");
    let best = std::fs::read_to_string(folder.path().join("best.opt")).expect("written");
    assert!(best.contains("state m") && !best.contains("state v") && !best.contains("tanh") && !best.contains("abs"), "{best}");
    ok(optc(folder.path(), &["check", "best.opt"]));
}

/// Code of candidates is freed: what a search holds does not grow with the children it has made.
#[test]
#[cfg(target_os = "linux")]
fn a_hundred_thousand_children_take_no_memory() {
    let spec = folder(SPEC);
    let told = ok(optc(spec.path(), &["search", "time", "s.opt", "--children", "100000"]));
    let numbers: Vec<f64> = told.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|w| w.parse().ok()).collect();
    let [children, compiled, early, late] = numbers[..] else { panic!("{told}") };
    assert!(children == 1e5 && compiled > 2000.0 && early > 1.0, "{told}");
    assert!(late < early + 2.0, "{told}");
}
