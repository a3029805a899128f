//! Where searches write, and what they read: nothing of a user's is overwritten, what cannot be is said before anything is searched, and what has changed is noticed.

use super::{OWED, SPEC, contents, folder, ok, optc};
use rusqlite::Connection;
use std::path::Path;

/// What is said by a command that is to fail.
fn refused(folder: &Path, args: &[&str]) -> String {
    let output = optc(folder, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    said
}

#[test]
fn a_search_overwrites_nothing_that_it_is_made_from() {
    let imported = format!("import \"more.opt\"\n{SPEC}");
    let to = |spec: &str, emit: &str| spec.replace("\"best.opt\"", &format!("\"{emit}\""));
    let cases = [
        (to(SPEC, "s.opt"), "`emit` would overwrite the spec itself"),
        (to(SPEC, "./out/../s.opt"), "`emit` would overwrite the spec itself"),
        (SPEC.replace("\"out.sqlite\"", "\"s.opt\""), "`archive` would overwrite the spec itself"),
        (to(&imported, "more.opt"), "`emit` would overwrite more.opt, which the spec imports"),
        (to(SPEC, "out.sqlite"), "`archive` and `emit` would be one file"),
        (to(SPEC, "out.sqlite-wal"), "`archive` and `emit` would be one file"),
    ];
    for (spec, why) in cases {
        let folder = folder(&spec);
        std::fs::write(folder.path().join("more.opt"), "const more = 1\n").expect("written");
        for args in [&["check", "s.opt"][..], &["search", "s.opt", "--children", "10", "-q"]] {
            let said = refused(folder.path(), args);
            // The block's own words are shown.
            assert!(said.contains("E0810") && said.contains(why) && said.contains("s.opt:"), "{args:?}: {said}");
        }
        assert_eq!(std::fs::read_to_string(folder.path().join("s.opt")).expect("there"), spec);
        assert!(!folder.path().join("out.sqlite").exists());
    }
    let formula =
        "data d { x = [1.0, 2, 3]; y = [2.0, 4, 6] }\nsearch y2(x) { data d\n target y\n emit \"s.opt\"\n archive \"f.sqlite\" }\n";
    let folder = folder(formula);
    assert!(refused(folder.path(), &["search", "s.opt", "--children", "10"]).contains("`emit` would overwrite the spec itself"));
}

#[test]
fn what_would_be_found_at_the_end_is_said_at_the_beginning() {
    // A folder that is a file, an optimizer that is none.
    let spec = folder(&SPEC.replace("\"best.opt\"", "\"s.opt/best.opt\""));
    assert!(refused(spec.path(), &["search", "s.opt", "--children", "10"]).contains("R0102"));
    assert!(!spec.path().join("out.sqlite").exists());
    let spec = folder(&OWED.replace("beat = [sgd]", "beat = [clip_by_value]"));
    let said = refused(spec.path(), &["search", "s.opt", "--children", "10"]);
    assert!(said.contains("clip_by_value") && !spec.path().join("out.sqlite").exists(), "{said}");
    // Commands that write do not overwrite what they read.
    let spec = folder(SPEC);
    ok(optc(spec.path(), &["search", "s.opt", "--children", "60", "-q"]));
    for to in ["out.sqlite", "s.opt"] {
        assert!(refused(spec.path(), &["search", "report", "out.sqlite", "--html", to]).contains("name another file"));
    }
    std::fs::write(spec.path().join("p.py"), "def train(w, g, m, v, lr):\n  update = g * lr\n  return update, m, v\n").expect("written");
    assert!(refused(spec.path(), &["search", "import-hero", "p.py", "-o", "p.py"]).contains("would overwrite p.py"));
}

/// `SPEC` with its train in a file of its own, which reads data.
fn in_two_files() -> tempfile::TempDir {
    let at = SPEC.find("search better").expect("a search");
    let tasks = SPEC[..at].replace(
        "train descend { model",
        "data rows { t = csv(\"rows.csv\"); a = t[:, 0] as f32 }\ntrain descend { data rows, batch = 2; model",
    );
    let tasks = tasks.replace("loss bowl(x: f32[16]) -> f32 {", "loss bowl(x: f32[16], a: f32[B]) -> f32 {");
    let tasks =
        tasks.replace("mean(c * (x - cos(iota(16) as f32))^2)", "mean(c * (x - cos(iota(16) as f32))^2) + 0.01 * mean(a) * mean(x)");
    let tasks = tasks.replace("loss bowl(p())", "loss bowl(p(), a)");
    let two = folder(&format!("import std.optim.{{sgd, adamw}}\nimport \"tasks.opt\"\n{}", &SPEC[at..]));
    std::fs::write(two.path().join("tasks.opt"), tasks.replace("import std.optim.{sgd, adamw}", "import std.optim.sgd")).expect("written");
    std::fs::write(two.path().join("rows.csv"), "1\n-1\n2\n-2\n").expect("written");
    two
}

#[test]
fn what_a_search_reads_is_what_it_was_when_it_goes_on() {
    let two = in_two_files();
    let at = |name: &str| two.path().join(name);
    ok(optc(two.path(), &["search", "s.opt", "--children", "120", "-q"]));
    let go_on = ["search", "resume", "out.sqlite", "--children", "240", "-q"];
    for name in ["tasks.opt", "rows.csv"] {
        let before = std::fs::read_to_string(at(name)).expect("there");
        std::fs::write(at(name), before.replace("steps 60", "steps 70").replace("-2", "-3")).expect("written");
        let (held, said) = (contents(&at("out.sqlite")), refused(two.path(), &go_on));
        assert!(said.contains(name) && said.contains("changed since the search was started"), "{said}");
        assert_eq!(contents(&at("out.sqlite")), held);
        if name == "tasks.opt" {
            // Nor is it merged with what was found on other tasks.
            std::fs::rename(at("out.sqlite"), at("first.sqlite")).expect("moved");
            ok(optc(two.path(), &["search", "s.opt", "--children", "60", "-q"]));
            let said = refused(two.path(), &["search", "merge", "first.sqlite", "out.sqlite", "-o", "both.sqlite"]);
            assert!(said.contains("tasks.opt was another file"), "{said}");
            std::fs::rename(at("first.sqlite"), at("out.sqlite")).expect("moved");
        }
        std::fs::write(at(name), before).expect("written");
    }
    ok(optc(two.path(), &go_on));
}

#[test]
fn a_spec_may_change_in_what_does_not_steer_its_search() {
    let (whole, changed) = (folder(OWED), folder(OWED));
    ok(optc(whole.path(), &["search", "s.opt", "--children", "120", "-q"]));
    ok(optc(changed.path(), &["search", "s.opt", "--children", "60", "-q"]));
    let other = OWED
        .replace("emit     \"best.opt\"", "emit     \"other/best.opt\"\n  budget   120")
        .replace("steps = 60, keep = 50%", "steps = 50, keep = 40%")
        .replace("a_a = 6", "a_a = 7")
        .replace(", tasks.valley(d = 4)]", "]");
    std::fs::write(changed.path().join("s.opt"), &other).expect("written");
    let told = ok(optc(changed.path(), &["search", "resume", "out.sqlite", "-q"]));
    for part in ["has changed in what does not steer", "Rung 1 of the funnel, 50 steps", "7 pairs", "best.opt"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(changed.path().join("other/best.opt").exists() && !told.contains("valley"));
    let held = |folder: &Path| contents(&folder.join("out.sqlite"));
    assert_eq!(held(whole.path()), held(changed.path()));
    // The archive has the spec of its end.
    let db = Connection::open(changed.path().join("out.sqlite")).expect("an archive");
    assert_eq!(db.query_row("SELECT spec_text FROM run", [], |r| r.get::<_, String>(0)).expect("a text"), other);
    // Controls, tasks and names of tasks steer.
    for steering in [
        other.replace("control  { random, a_a = 7 }", "control  { constants_only, a_a = 7 }"),
        other.replace("seed in 0..2", "seed in 0..3"),
        other.replace("d = 8, steps = 40 }\n", "d = 8, steps = 41 }\n"),
        other
            .replace("rotated_quadratic(d = 8)", "axis_quadratic(d = 9)")
            .replace("  task     axis_quadratic { d = 8, steps = 40, noise = \"multiplicative\" }\n", ""),
    ] {
        assert!(steering != other);
        std::fs::write(changed.path().join("s.opt"), steering).expect("written");
        assert!(refused(changed.path(), &["search", "resume", "out.sqlite", "-q"]).contains("has changed since"));
    }
}

#[test]
fn a_formula_goes_on_with_the_same_data_and_what_steers_it() {
    let spec = "data d { t = csv(\"d.csv\"); x = t[:, 0]; y = t[:, 1] }\n\nsearch of(x) {\n  data d\n  target y\n  strategy regularized_evolution { islands = 2, population = 30, round = 100 }\n  stop when unexplained < 1e-30\n  budget 400\n  archive \"f.sqlite\"\n  emit \"f.opt\"\n}\n";
    let folder = folder(spec);
    let at = |name: &str| folder.path().join(name);
    let rows = "0.1,1.3\n0.4,0.2\n0.9,2.1\n1.7,0.4\n2.2,3.9\n3.1,0.7\n";
    std::fs::write(at("d.csv"), rows).expect("written");
    ok(optc(folder.path(), &["search", "s.opt", "-q"]));
    let go_on = ["search", "resume", "f.sqlite", "-q"];
    std::fs::write(at("d.csv"), rows.replace("3.9", "4.9")).expect("written");
    let said = refused(folder.path(), &go_on);
    assert!(said.contains("d.csv have changed since the search was started"), "{said}");
    std::fs::write(at("d.csv"), rows).expect("written");
    std::fs::write(at("s.opt"), spec.replace("budget 400", "budget 800\n  control none")).expect("written");
    assert!(refused(folder.path(), &go_on).contains("has changed since"));
    std::fs::write(at("s.opt"), spec.replace("budget 400", "budget 800").replace("\"f.opt\"", "\"g.opt\"")).expect("written");
    ok(optc(folder.path(), &go_on));
    assert!(at("g.opt").exists());
    assert!(refused(folder.path(), &["search", "report", "f.sqlite", "--html", "f.sqlite"]).contains("name another file"));
}
