//! What is said of what was found: programs by their hashes, learning rates with their units, controls as many as ran.

use super::{OWED, SPEC, folder, ok, optc};
use rusqlite::Connection;
use std::path::Path;

fn text_of(folder: &Path, query: &str) -> String {
    let db = Connection::open(folder.join("out.sqlite")).expect("an archive");
    db.query_row(&format!("SELECT CAST(({query}) AS TEXT)"), [], |r| r.get::<_, String>(0)).expect("a value")
}

#[test]
fn explained_learning_rates_have_the_unit_of_the_program() {
    let fast = "optimizer fast(lr: float >= 0 = 0.1) {\n  state m = 0\n  m <- 0.9 * m + 0.1 * g\n  w <- w - m * (lr * 50)\n}\n";
    let spec = SPEC.replace("start    [sgd, adamw]", "start    fast").replace("[0.03, 0.3, 3]", "[0.001, 0.01]");
    let folder = folder(&format!("{spec}\n{fast}"));
    ok(optc(folder.path(), &["search", "s.opt", "--children", "60", "-q"]));
    let hash = text_of(folder.path(), "SELECT lower(hex(program)) FROM start");
    let told = ok(optc(folder.path(), &["search", "explain", "out.sqlite", &hash]));
    // 50 times 0.001.
    assert!(told.contains("The learning rate is 50.0 times that of the program it was made from.") && told.contains("= 0.05)"), "{told}");
    // What was done to it, with conditions.
    assert!(told.contains("applications of rules") && told.contains("exact over the reals"), "{told}");
}

#[test]
fn what_is_emitted_is_in_the_archive_with_what_it_was_made_from() {
    let folder = folder(SPEC);
    let told = ok(optc(folder.path(), &["search", "s.opt", "--children", "600", "-q"]));
    let best = std::fs::read_to_string(folder.path().join("best.opt")).expect("written");
    let line = best.lines().find(|l| l.contains(", made from program ")).unwrap_or_else(|| panic!("{best}"));
    let hashes: Vec<&str> = line.split(|c: char| !c.is_ascii_hexdigit()).filter(|w| w.len() == 32).collect();
    let [own, parent] = hashes[..] else { panic!("{line}") };
    assert!(own != parent);
    // What is written is the program of that hash, and has that fitness.
    let simplified = ok(optc(folder.path(), &["search", "explain", "out.sqlite", own]));
    assert!(simplified.contains("optimizer found("), "{simplified}");
    let lineage = ok(optc(folder.path(), &["search", "lineage", "out.sqlite", own]));
    let rows: Vec<&str> = lineage.lines().filter(|l| l.contains(" fitness ")).collect();
    assert!(rows[0].starts_with(&own[..12]) && rows[0].contains("emitted") && rows[1].starts_with(&parent[..12]), "{lineage}");
    let fitness = text_of(folder.path(), "SELECT fitness FROM child WHERE arm = 'emitted'").parse::<f64>().expect("a number");
    assert!(line.contains(&format!("fitness {}", optc_abi::number::shown(fitness, 5))), "{line}: {fitness}");
    // Imported it is a first program of the same identity, and of that fitness; so it is under another name, and in a funnel.
    let seeded = SPEC
        .replace("search better", "search again")
        .replace("start    [sgd, adamw]", "start    better")
        .replace("out.sqlite", "again.sqlite")
        .replace("\"best.opt\"", "\"x.opt\"");
    std::fs::write(folder.path().join("again.opt"), format!("import \"best.opt\"\n{seeded}")).expect("written");
    ok(optc(folder.path(), &["search", "again.opt", "--children", "1", "-q"]));
    let db = Connection::open(folder.path().join("again.sqlite")).expect("an archive");
    let (first, again): (String, f64) =
        db.query_row("SELECT lower(hex(program)), fitness FROM start", [], |r| Ok((r.get(0)?, r.get(1)?))).expect("a first program");
    assert_eq!((first.as_str(), again), (own, fitness));
    let behind = seeded.replace("start    better", "start    b.better(lr = 0.5)").replace("again.sqlite", "third.sqlite");
    let behind = behind.replace("seed     3", "funnel [{ keep = 50%, beat = [b.better] }]\n  control none");
    std::fs::write(folder.path().join("third.opt"), format!("import \"best.opt\" as b\n{behind}")).expect("written");
    let third = ok(optc(folder.path(), &["search", "third.opt", "--children", "1", "-q"]));
    assert!(third.contains("to beat: `b.better`"), "{third}");
    assert!(told.contains("the best: "), "{told}");
}

#[test]
fn any_program_of_an_archive_is_emitted() {
    let folder = folder(SPEC);
    ok(optc(folder.path(), &["search", "s.opt", "--children", "300", "-q"]));
    for (k, arm) in ["evolution", "random", "emitted"].into_iter().enumerate() {
        let of = format!("FROM child WHERE arm = '{arm}' AND fitness IS NOT NULL AND parent <> zeroblob(16) ORDER BY fitness LIMIT 1");
        let of = if arm == "random" { of.replace(" AND parent <> zeroblob(16)", "") } else { of };
        let (hash, file) = (text_of(folder.path(), &format!("SELECT lower(hex(program)) {of}")), format!("p{k}.opt"));
        ok(optc(folder.path(), &["search", "emit", "out.sqlite", &hash[..16], "-o", &file]));
        let text = std::fs::read_to_string(folder.path().join(&file)).expect("written");
        let made = if arm == "emitted" { "written at the end".to_string() } else { format!("found by `{arm}`") };
        assert!(text.contains(&hash) && text.contains(&made) && text.contains("First program `sgd`"), "{text}");
        // One that was run has its scores, and the learning rate at which it was best.
        assert_eq!(text.contains("Task `descend`: "), arm != "emitted", "{text}");
        ok(optc(folder.path(), &["check", &file]));
        let run = format!(
            "import \"{file}\"\n{}\nexperiment go {{ run descend with {{ optimizer = better() }} }}\n",
            SPEC.split("search better").next().unwrap_or_default()
        );
        std::fs::write(folder.path().join("run.opt"), run).expect("written");
        let backends: &[&str] = if cfg!(feature = "llvm") { &["cranelift", "interpreter", "llvm"] } else { &["cranelift", "interpreter"] };
        for backend in backends {
            ok(optc(folder.path(), &["run", "run.opt", "--backend", backend, "-q"]));
        }
    }
    let printed =
        ok(optc(folder.path(), &["search", "emit", "out.sqlite", &text_of(folder.path(), "SELECT lower(hex(hash)) FROM program LIMIT 1")]));
    assert!(printed.contains("optimizer better("), "{printed}");
    let output = optc(folder.path(), &["search", "emit", "out.sqlite", "zz"]);
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("no program's hash begins"));
}

/// Where numbers alone do better than evolution, that is what a search says: on the summary, in the report.
#[test]
fn controls_are_told_as_they_were() {
    let spec = folder(SPEC);
    let told = ok(optc(spec.path(), &["search", "s.opt", "--children", "300", "-q"]));
    let ran = |arm: &str| text_of(spec.path(), &format!("SELECT COUNT(*) FROM child WHERE arm = '{arm}'"));
    let report = ok(optc(spec.path(), &["search", "report", "out.sqlite"]));
    for arm in ["constants_only", "random"] {
        let words = format!("the control `{arm}`");
        for text in [&told, &report] {
            let line = text.lines().find(|l| l.to_lowercase().contains(&words)).unwrap_or_else(|| panic!("{text}"));
            assert!(line.contains(&format!("{} programs where the evolution ran {}", ran(arm), ran("evolution"))), "{line}");
        }
    }
    assert!(report.contains("it has searched for ") && report.contains("one thread, started 2"), "{report}");
    // A control that was better is told to be.
    let db = Connection::open(spec.path().join("out.sqlite")).expect("an archive");
    db.execute("UPDATE child SET fitness = fitness / 1e6 WHERE arm = 'constants_only'", []).expect("changed");
    drop(db);
    let report = ok(optc(spec.path(), &["search", "report", "out.sqlite"]));
    assert!(report.contains("The control `constants_only` is better than the evolution"), "{report}");
    // Noise is measured where nothing is said, and not where controls are declined.
    assert!(told.contains("against itself on 20 pairs"), "{told}");
    let none = folder(&SPEC.replace("seed     3", "seed     3\n  control  none"));
    let told = ok(optc(none.path(), &["search", "s.opt", "--children", "60", "-q"]));
    assert!(!told.contains("against itself") && told.contains("Controls have run nothing"), "{told}");
    let off = folder(&OWED.replace("a_a = 6", "a_a = 0"));
    assert!(!ok(optc(off.path(), &["search", "s.opt", "--children", "60", "-q"])).contains("pairs of other seeds"));
}
