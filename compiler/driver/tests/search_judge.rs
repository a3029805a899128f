//! The judge from the command line: what optimizers are compared with, on which tasks, and what its numbers are said to mean.

use std::path::Path;
use std::process::{Command, Output};

const SPEC: &str = r#"
import std.optim.{sgd, adamw}
import std.search.tasks.{axis_quadratic, rotated_quadratic}

search better {
  start    sgd(momentum = 0.8)
  space    { statements <= 16, states <= 2 }
  task     axis_quadratic { d = 8, steps = 30 }
  fitness  median(validation_loss) over seed in 0..2, lr in log(1e-2, 1, 3)
  strategy regularized_evolution { islands = 1, population = 20, tournament = 2, round = 40 }
  held_out [rotated_quadratic(d = 8, steps = 30)]
  archive  "out.sqlite"
  emit     "best.opt"
  seed     3
}
"#;

/// Optimizers without tasks.
const FOUND: &str = "
## A step along the sign of an average.
optimizer careful(lr: float >= 0 = 1e-3) {
  state m = 0
  m <- 0.7 * m + 0.3 * g
  w <- w - lr * sign(m)
}
";

fn optc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_optc")).current_dir(folder).args(args).output().expect("optc starts")
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("s.opt"), SPEC).expect("written");
    std::fs::write(folder.path().join("found.opt"), FOUND).expect("written");
    folder
}

/// Cells of the lines of a text that begin with this one.
fn rows(text: &str, first: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.split(['│', '┆']).map(|c| c.trim().to_string()).filter(|c| !c.is_empty()).collect::<Vec<_>>();
    text.lines().map(cells).filter(|c| c.first().is_some_and(|c| c == first)).collect()
}

/// What a search found stands beside AdamW, Lion and the controls of the search, with the number of programs that it is the best of.
#[test]
fn what_is_found_is_judged_beside_lion_and_controls() {
    let folder = folder();
    let told = ok(optc(folder.path(), &["search", "s.opt", "--children", "200", "-q"]));
    // Held-out tasks have the controls beside what was found too.
    assert!(rows(&told, "found").iter().any(|r| r.get(1).is_some_and(|c| c == "constants_only" || c == "random")), "{told}");
    assert!(told.contains("found among"), "{told}");
    let report = ok(optc(folder.path(), &["search", "report", "out.sqlite"]));
    assert!(report.contains("beside") && report.contains("`found` is the best of "), "{report}");
    let judge = ["search", "judge", "s.opt", "--seeds", "4"];
    let told = ok(optc(folder.path(), &[&judge[..], &["--optimizer", "out.sqlite"]].concat()));
    let beside = |name: &str| rows(&told, name).into_iter().map(|r| r.get(1).cloned().unwrap_or_default()).collect::<Vec<_>>();
    let better = beside("better");
    assert!(better.contains(&"lion".to_string()) && better.contains(&"constants_only of better".to_string()), "{better:?} {told}");
    assert!(beside("constants_only of better").contains(&"lion".to_string()) && !beside("nadamw").contains(&"lion".to_string()), "{told}");
    let among: u64 = better[0].parse().unwrap_or_else(|_| panic!("{told}"));
    assert!(among > 1 && told.contains(&format!("`better` was found among {among} programs")), "{told}");
    // Another reference: AdamW is compared with it.
    let told = ok(optc(folder.path(), &[&judge[..], &["--reference", "lion"]].concat()));
    assert!(told.contains("lion is the reference") && rows(&told, "lion")[0].len() == 4 && rows(&told, "adamw")[0].len() > 4, "{told}");
    assert!(refused(optc(folder.path(), &[&judge[..], &["--reference", "lions"]].concat())).contains("takes one of adamw"));
}

/// p-values are those of Holm over all tasks and optimizers.
#[test]
fn comparisons_of_all_tasks_are_one_family() {
    let folder = folder();
    std::fs::write(
        folder.path().join("two.opt"),
        SPEC.replace("  held_out [rotated_quadratic(d = 8, steps = 30)]\n", "")
            .replace("  fitness", "  task     rotated_quadratic { d = 8, steps = 30 }\n  fitness"),
    )
    .expect("written");
    let comparisons = |spec: &str, more: &[&str]| {
        let told = ok(optc(folder.path(), &[&["search", "judge", spec, "--seeds", "3"], more].concat()));
        let text = told.split("by Holm for all ").nth(1).unwrap_or_else(|| panic!("{told}"));
        text.split(' ').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or_else(|| panic!("{told}"))
    };
    assert_eq!((comparisons("s.opt", &[]), comparisons("two.opt", &[])), (4, 8));
    // One more optimizer: beside AdamW, and beside Lion.
    assert_eq!(comparisons("two.opt", &["--optimizer", "found.opt"]), 12);
    assert_eq!(comparisons("two.opt", &["--task", "axis_quadratic"]), 4);
    assert!(refused(optc(folder.path(), &["search", "judge", "two.opt", "--task", "valley"])).contains("there is no task `valley`"));
}

/// One program has one row, whatever it is called, and rates go on where the best is the last.
#[test]
fn a_program_has_one_row_and_rates_go_on_at_their_ends() {
    let folder = folder();
    let args =
        ["search", "judge", "s.opt", "--seeds", "3", "--optimizer", "adamw", "--optimizer", "adamw(lr = 0.3)", "--optimizer", "signum"];
    let told = ok(optc(folder.path(), &args));
    assert!(
        told.contains("`adamw` is the same program as `adamw`: it has no row of its own") && rows(&told, "adamw'").is_empty(),
        "{told}"
    );
    // At a hundredth of its rates gradient descent is always at the last of them.
    std::fs::write(folder.path().join("slow.opt"), SPEC.replace("log(1e-2, 1, 3)", "log(1e-6, 1e-5, 2)")).expect("written");
    let told = ok(optc(folder.path(), &["search", "judge", "slow.opt", "--seeds", "3"]));
    let rate = &rows(&told, "sgd(momentum = 0.9)")[0][1];
    assert!(rate.contains("(+4 rates)") && rate.contains("(edge)") && rate.starts_with("0.1"), "{told}");
    assert!(told.contains("no claim is made of rows at the edge") && told.contains("`sgd(momentum = 0.9)` on `axis_quadratic`"), "{told}");
}

/// Numbers of all optimizers are tuned alike.
#[test]
fn baselines_are_tuned_with_as_many_runs() {
    let folder = folder();
    let args = ["search", "judge", "s.opt", "--seeds", "4", "--optimizer", "found.opt", "--optimizer", "sgd"];
    let (plain, tuned) = (ok(optc(folder.path(), &args)), ok(optc(folder.path(), &[&args[..], &["--tune", "12"]].concat())));
    assert!(plain.contains("numbers of all optimizers are as given") && !plain.contains("tuned in"), "{plain}");
    for name in ["adamw", "lion", "adabelief", "nadamw", "careful", "sgd(momentum = 0.9)"] {
        let line =
            tuned.lines().find(|l| l.starts_with(&format!("{name}, tuned in 12 runs: "))).unwrap_or_else(|| panic!("{name}: {tuned}"));
        assert!(name == "careful" || line.contains("0.9"), "{line}");
    }
    assert!(tuned.contains("sgd: no numbers to tune") && tuned.contains(" -> ") && tuned.contains("at most 12 runs of CMA-ES"), "{tuned}");
    // Tuned numbers are another program's scores.
    assert_ne!(rows(&plain, "adamw")[0], rows(&tuned, "adamw")[0]);
}

/// Optimizers without tasks are judged on the suite, and the known orderings are looked up in what was judged.
#[test]
fn optimizers_alone_are_judged_on_the_suite() {
    let folder = folder();
    let args = ["search", "judge", "found.opt", "--seeds", "3", "--task", "rotated_quadratic"];
    let told = ok(optc(folder.path(), &args));
    assert!(told.contains("task `rotated_quadratic`") && rows(&told, "careful").len() == 2, "{told}");
    assert!(told.contains("known ordering: SGD with momentum is no worse than AdamW on rotated quadratics: reproduced on"), "{told}");
    assert!(told.contains("AdamW is better than SGD with momentum on a transformer: not among the tasks"), "{told}");
    // The whole suite is there.
    let none = refused(optc(folder.path(), &["search", "judge", "found.opt", "--task", "nothing"]));
    for task in ["char_transformer", "conv_digits", "recurrent", "valley", "sparse_features", "autoencoder"] {
        assert!(none.contains(task), "{none}");
    }
    // Several files.
    std::fs::write(folder.path().join("more.opt"), FOUND.replace("careful", "other").replace("0.7", "0.6").replace("0.3 ", "0.4 "))
        .expect("written");
    let told = ok(optc(folder.path(), &["search", "judge", "found.opt", "more.opt", "--seeds", "2", "--task", "rotated_quadratic"]));
    assert!(!rows(&told, "other").is_empty() && !rows(&told, "careful").is_empty(), "{told}");
}

#[test]
fn an_archive_in_place_of_the_spec_is_told() {
    let folder = folder();
    ok(optc(folder.path(), &["search", "s.opt", "--children", "10", "-q"]));
    let told = refused(optc(folder.path(), &["search", "judge", "out.sqlite"]));
    assert!(told.contains("is an archive of a search") && told.contains("optc search judge s.opt better --optimizer out.sqlite"), "{told}");
    let told = refused(optc(folder.path(), &["search", "judge", "s.opt", "better", "found.opt"]));
    assert!(told.contains("--optimizer found.opt"), "{told}");
}

/// `explain` names known forms, and `top` lists arms and forms.
#[test]
fn known_forms_are_named_and_forms_are_listed() {
    let folder = folder();
    let addsign = "optimizer addsign(lr: float >= 0 = 1e-3) {\n  state m = 0\n  m <- 0.8 * m + 0.2 * g\n  w <- w - lr * (1 + sign(m) * sign(g)) * g\n}\n";
    let spec = SPEC
        .replace("import std.optim.{sgd, adamw}", &format!("import std.optim.{{lion, sgd}}\n{addsign}"))
        .replace("start    sgd(momentum = 0.8)", "start    [lion(weight_decay = 0.1), addsign, sgd]")
        .replace("  held_out [rotated_quadratic(d = 8, steps = 30)]\n", "");
    std::fs::write(folder.path().join("known.opt"), spec).expect("written");
    ok(optc(folder.path(), &["search", "known.opt", "--children", "60", "-q"]));
    let search = |args: &[&str]| ok(optc(folder.path(), &[&["search"], args].concat()));
    let listed = |text: &str| -> Vec<Vec<String>> {
        let cells = |line: &str| line.split(['│', '┆']).map(|c| c.trim().to_string()).skip(1).collect::<Vec<_>>();
        text.lines().map(cells).filter(|c| c.first().is_some_and(|h| h.len() >= 8 && h.bytes().all(|b| b.is_ascii_hexdigit()))).collect()
    };
    let all = listed(&search(&["top", "out.sqlite", "-n", "500"]));
    // Gradient descent in another unit is gradient descent.
    let short = all.iter().filter(|r| r[2] == "evolution" && r[3] == "2");
    let told: Vec<String> = short.map(|r| search(&["explain", "out.sqlite", &r[0]])).collect();
    let line = |text: &str, what: &str| text.lines().find(|l| l.trim_start().starts_with(what)).unwrap_or_default().to_string();
    assert!(told.iter().any(|t| line(t, "same form as").ends_with(" sgd")), "{told:?}");
    assert!(told.iter().all(|t| !line(t, "nearest known optimizer").is_empty()), "{told:?}");
    // Arms.
    let random = listed(&search(&["top", "out.sqlite", "-n", "500", "--arm", "random"]));
    assert!(!random.is_empty() && random.len() < all.len() && random.iter().all(|r| r[2] == "random"), "{random:?}");
    assert!(refused(optc(folder.path(), &["search", "top", "out.sqlite", "--arm", "best"])).contains("arms are evolution"));
    // Forms: none twice, and all programs are of one.
    let forms = search(&["top", "out.sqlite", "-n", "500", "--families"]);
    let rows = listed(&forms);
    let counted: usize = rows.iter().map(|r| r[1].parse::<usize>().expect("a count")).sum();
    assert!(rows.len() < all.len() && counted == all.len() && forms.contains(&format!("{counted} programs were looked at")), "{forms}");
}
