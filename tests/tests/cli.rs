//! The command line as a user meets it: exit statuses, messages, files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn optc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_optc-under-test"))
        .current_dir(folder)
        .args(args)
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("the binary starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed: {}{}", out(output), err(output)))
}

/// A temporary folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    dir
}

const SPEC: &str = "\
import std.optim.sgd

const start = 2.0

schedule ramp(top: float = 1.0) = top * step / 10

model point(at: float = start) -> f32 {
  param x: f32 = at
  x
}

train descend {
  model     net = point()
  loss      net()^2
  optimizer sgd(lr = 0.1)
  steps     10
}

experiment holds {
  let r = run descend
  print \"loss {r.loss.last:.4f}\"
  check r.loss.last < r.loss.first, \"it goes down\"
}

experiment fails {
  check 1 > 2, \"one is more than two\"
}
";

#[test]
fn wrong_usage_is_status_2_and_help_is_0() {
    let dir = folder(&[]);
    for bad in [&["frobnicate"][..], &[], &["run"], &["check", "--color", "blue", "x"], &["explain"]] {
        assert_eq!(status(&optc(dir.path(), bad)), 2, "{bad:?}");
    }
    for command in ["run", "check", "test", "explain", "plot", "fmt", "show", "list", "bench", "new", "build", "completions"] {
        let o = optc(dir.path(), &[command, "--help"]);
        assert!(status(&o) == 0 && out(&o).contains("Examples:"), "{command}");
    }
    assert!(out(&optc(dir.path(), &["--version"])).starts_with("optc "));
}

#[test]
fn run_trains_and_sums_up() {
    let dir = folder(&[("a.opt", SPEC)]);
    let o = optc(dir.path(), &["run", "a.opt"]);
    assert_eq!(status(&o), 0, "{}", err(&o));
    let text = out(&o);
    assert!(["descend", "loss", "seconds", "steps/s"].iter().all(|w| text.contains(w)), "{text}");
    let o = optc(dir.path(), &["run", "a.opt", "descend", "--set", "steps=3", "--set", "start=0.0", "--quiet"]);
    assert!(status(&o) == 0 && out(&o).is_empty(), "{}{}", out(&o), err(&o));
}

#[test]
fn experiments_by_name_and_failed_checks() {
    let dir = folder(&[("a.opt", SPEC)]);
    let o = optc(dir.path(), &["run", "a.opt", "holds"]);
    assert!(status(&o) == 0 && out(&o).contains("loss 0.0"), "{}{}", out(&o), err(&o));
    let o = optc(dir.path(), &["run", "a.opt", "fails"]);
    assert!(status(&o) == 1 && out(&o).contains("one is more than two"), "{}{}", out(&o), err(&o));
    let o = optc(dir.path(), &["run", "a.opt", "hold"]);
    assert!(status(&o) == 1 && err(&o).contains("did you mean `holds`"), "{}", err(&o));
    let o = optc(dir.path(), &["run", "a.opt", "point"]);
    assert!(status(&o) == 1 && err(&o).contains("is a model"), "{}", err(&o));
}

#[test]
fn test_runs_every_experiment_of_a_folder() {
    let good = "experiment fine {\n  check 1 < 2, \"order\"\n}\n";
    let dir = folder(&[("a/one.opt", good), ("a/b/two.opt", good), ("bad/three.opt", SPEC), ("a/.hidden/four.opt", "nonsense")]);
    let o = optc(dir.path(), &["test", "a"]);
    assert!(status(&o) == 0 && out(&o).contains("2 experiments passed; 2 checks"), "{}{}", out(&o), err(&o));
    let o = optc(dir.path(), &["test", "."]);
    assert!(status(&o) == 1 && out(&o).contains("3 experiments passed, 1 failed"), "{}{}", out(&o), err(&o));
    let o = optc(dir.path(), &["test", "bad/three.opt", "holds"]);
    assert_eq!(status(&o), 0, "{}", err(&o));
}

#[test]
fn check_reports_all_errors_of_all_files() {
    let dir = folder(&[("good.opt", SPEC), ("bad/a.opt", "const a = b\n\nconst c = d\n"), ("bad/b.opt", "import \"a.opt\"\n")]);
    let o = optc(dir.path(), &["check", "good.opt"]);
    assert!(status(&o) == 0 && out(&o).contains("1 file, no errors"), "{}{}", out(&o), err(&o));
    let o = optc(dir.path(), &["check", "."]);
    let text = err(&o);
    assert!(status(&o) == 1 && text.contains("bad/a.opt:1:11") && text.contains("bad/a.opt:3:11"), "{text}");
    assert_eq!(text.matches("bad/a.opt:1:11").count(), 1, "an imported file is reported once: {text}");
    let o = optc(dir.path(), &["check", "missing.opt"]);
    assert!(status(&o) == 1 && err(&o).contains("missing.opt"), "{}", err(&o));
    std::fs::write(dir.path().join("binary.opt"), [0x66, 0xff, 0xfe]).expect("a file");
    let o = optc(dir.path(), &["check", "binary.opt"]);
    assert!(status(&o) == 1 && err(&o).contains("byte 1 is not UTF-8"), "{}", err(&o));
}

#[test]
fn messages_as_json_are_one_object_a_line() {
    let dir = folder(&[("a.opt", "const a = b\nconst c = 1 +\n")]);
    let o = optc(dir.path(), &["check", "a.opt", "--message-format", "json"]);
    assert_eq!(status(&o), 1);
    let lines: Vec<serde_json::Value> = err(&o).lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    assert!(!lines.is_empty());
    for line in &lines {
        assert!(line["code"].as_str().is_some_and(|c| c.starts_with('E')) && line["severity"] == "error", "{line}");
        assert!(line["primary"]["line"].is_number() && line["primary"]["file"] == "a.opt", "{line}");
    }
    let o = optc(dir.path(), &["check", "none.opt", "--message-format", "json"]);
    assert!(serde_json::from_str::<serde_json::Value>(err(&o).trim()).is_ok(), "{}", err(&o));
}

#[test]
fn overrides_have_places_in_messages() {
    let dir = folder(&[("a.opt", SPEC)]);
    let o = optc(dir.path(), &["run", "a.opt", "--set", "steps=(3"]);
    assert!(status(&o) == 1 && err(&o).contains("command line:1:"), "{}", err(&o));
    let o = optc(dir.path(), &["run", "a.opt", "--set", "stepz=3"]);
    assert!(status(&o) == 1 && err(&o).contains("--set stepz=3"), "{}", err(&o));
}

#[test]
fn explain_shows_stages_pages_and_costs() {
    let dir = folder(&[("a.opt", SPEC)]);
    for stage in ["ast", "hir", "types", "graph", "simplified", "kernels", "plan", "clif", "asm"] {
        let o = optc(dir.path(), &["explain", "a.opt", "--stage", stage]);
        assert!(status(&o) == 0 && out(&o).lines().count() > 2, "{stage}: {}{}", out(&o), err(&o));
    }
    let o = optc(dir.path(), &["explain", "a.opt", "--params"]);
    assert!(status(&o) == 0 && out(&o).contains("net.x") && out(&o).contains("1 parameters"), "{}", out(&o));
    let o = optc(dir.path(), &["explain", "R0104"]);
    assert!(status(&o) == 0 && out(&o).starts_with("R0104: "), "{}", out(&o));
    assert_eq!(status(&optc(dir.path(), &["explain", "E9999"])), 1);
    let o = optc(dir.path(), &["explain", "--optimizer", "lion"]);
    let text = out(&o);
    assert!(status(&o) == 0 && text.contains("4 bytes") && text.contains("20 bytes (12 read, 8 written)"), "{text}{}", err(&o));
    assert!(text.lines().any(|l| l.contains("elementwise") && l.ends_with("yes")), "{text}");
    // A chain with a norm over all leaves is two passes, 8-bit states take none of their own.
    for (optimizer, state, moved, passes) in [
        ("adamw", "8 bytes", "28 bytes (16 read, 12 written)", "1"),
        ("clip_by_global_norm(1.0) |> adamw()", "8 bytes", "32.001 bytes (20 read, 12 written)", "2"),
        ("adamw8bit", "2.01 bytes", "16.04 bytes (10.02 read, 6.02 written)", "1"),
        ("clip_by_global_norm(1.0) |> adamw8bit()", "2.01 bytes", "20.041 bytes (14.02 read, 6.02 written)", "2"),
        ("lion8bit", "1.005 bytes", "14.02 bytes (9.01 read, 5.01 written)", "1"),
    ] {
        let text = out(&optc(dir.path(), &["explain", "--optimizer", optimizer]));
        let says = |what: &str, value: &str| text.lines().any(|l| l.trim_start().starts_with(what) && l.ends_with(&format!("  {value}")));
        assert!(says("state per parameter", state) && says("moved per parameter and step", moved), "{optimizer}: {text}");
        assert!(says("passes over memory", passes), "{optimizer}: {text}");
    }
    // Of a ring of gradients one slot is written and one is read: 4 bytes each, like the gradient, which comes in, and the weights in and out.
    let ring = "optimizer ring() {\n  state h: f32[100, ...] = 0\n  h[step % 100] <- g\n  w <- w - 0.01 * h[(step + 1) % 100]\n}\n";
    std::fs::write(dir.path().join("ring.opt"), ring).expect("a file");
    let o = optc(dir.path(), &["explain", "--optimizer", "ring", "ring.opt"]);
    let line = out(&o).lines().find(|l| l.contains("moved per parameter and step")).map(str::to_string);
    let moved: Option<f64> = line.as_ref().and_then(|l| l.split_whitespace().find_map(|w| w.parse().ok()));
    assert!(moved.is_some_and(|bytes| (20.0..=28.1).contains(&bytes)), "{}{}", out(&o), err(&o));
    let passes = out(&o).lines().find(|l| l.contains("passes over memory")).and_then(|l| l.split_whitespace().last()?.parse().ok());
    assert!(passes.is_some_and(|n: usize| n >= 1), "{}", out(&o));
    let o = optc(dir.path(), &["explain", "--optimizer", "lionn"]);
    assert!(status(&o) == 1 && err(&o).contains("lionn"), "{}", err(&o));
}

#[test]
fn a_name_that_two_files_of_the_library_define_is_reported() {
    let rule = "optimizer mine() {\n  w <- w - 0.1 * g\n}\n";
    let dir = folder(&[("std/optim/a.opt", rule), ("std/optim/b.opt", rule), ("a.opt", "import std.optim.mine\n")]);
    let o = Command::new(env!("CARGO_BIN_EXE_optc-under-test"))
        .current_dir(dir.path())
        .args(["check", "a.opt"])
        .env("OPTC_STDLIB", dir.path().join("std"))
        .output()
        .expect("the binary starts");
    assert!(status(&o) == 1 && err(&o).contains("E0254") && err(&o).contains("std/optim/b.opt"), "{}{}", out(&o), err(&o));
}

#[test]
fn plot_draws_a_schedule_of_the_file_or_the_library() {
    let dir = folder(&[("a.opt", SPEC)]);
    let o = optc(dir.path(), &["plot", "a.opt", "ramp", "--steps", "21", "-o", "ramp.svg"]);
    assert!(status(&o) == 0 && out(&o).contains("first 0, last 2"), "{}{}", out(&o), err(&o));
    let svg = std::fs::read_to_string(dir.path().join("ramp.svg")).expect("a chart");
    assert!(svg.starts_with("<svg"), "{}", &svg[..40]);
    let o = optc(dir.path(), &["plot", "a.opt", "warmup_cosine(peak = 1e-3, warmup = 50, total = 1000)", "-o", "w.png"]);
    assert_eq!(status(&o), 0, "{}", err(&o));
    assert!(std::fs::read(dir.path().join("w.png")).expect("a chart").starts_with(b"\x89PNG"));
    assert_eq!(status(&optc(dir.path(), &["plot", "a.opt", "point", "-o", "p.png"])), 1);
}

#[test]
fn fmt_changes_layout_once_and_check_changes_nothing() {
    let dir = folder(&[("a.opt", "const   a=1\n\n\n\nconst b  = 2"), ("bad.opt", "const =\n")]);
    let path = dir.path().join("a.opt");
    let before = std::fs::read_to_string(&path).expect("a file");
    let o = optc(dir.path(), &["fmt", "--check", "a.opt"]);
    assert!(status(&o) == 1 && out(&o).contains("a.opt"), "{}", out(&o));
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), before);
    assert_eq!(status(&optc(dir.path(), &["fmt", "a.opt"])), 0);
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "const a = 1\n\nconst b = 2\n");
    assert_eq!(status(&optc(dir.path(), &["fmt", "--check", "a.opt"])), 0);
    assert_eq!(status(&optc(dir.path(), &["fmt", "bad.opt"])), 1);
    assert_eq!(std::fs::read_to_string(dir.path().join("bad.opt")).expect("a file"), "const =\n");
}

#[test]
fn show_prints_the_library() {
    let dir = folder(&[]);
    let o = optc(dir.path(), &["show", "std.optim.lion"]);
    assert!(status(&o) == 0 && out(&o).contains("optimizer lion("), "{}", out(&o));
    assert!(out(&optc(dir.path(), &["show", "std.optim"])).contains("std.optim.adamw: "));
    let o = optc(dir.path(), &["show", "std.optim.lyon"]);
    assert!(status(&o) == 1 && err(&o).contains("std.optim.lion"), "{}", err(&o));
}

#[test]
fn list_says_what_the_library_has() {
    let dir = folder(&[]);
    for (what, item, summary) in [
        ("schedules", "cosine", "Half a cosine from `peak`"),
        ("losses", "cross_entropy", "Softmax cross entropy"),
        ("layers", "conv2d", "Convolution"),
        ("initializers", "he_normal", "He's normal initializer"),
        ("minimizers", "bfgs", "BFGS"),
    ] {
        let text = out(&optc(dir.path(), &["list", what]));
        assert!(text.lines().any(|l| l.starts_with(&format!("{item} ")) && l.contains(summary)), "{what}: {text}");
        let table = out(&optc(dir.path(), &["list", what, "--markdown"]));
        assert!(table.lines().any(|l| l.starts_with(&format!("| `{item}` | ")) && l.contains(summary)), "{what}: {table}");
        let items: serde_json::Value = serde_json::from_str(&out(&optc(dir.path(), &["list", what, "--json"]))).expect("JSON");
        let items = items.as_array().expect("an array");
        assert!(
            items.iter().any(|i| i["name"] == item && i["signature"].as_str().is_some_and(|s| s.contains(&format!("{item}(")))),
            "{what}"
        );
        assert_eq!(items.len(), text.lines().count(), "{what}");
    }
    assert_eq!(status(&optc(dir.path(), &["list", "cats"])), 2);
    let o = optc(dir.path(), &["show", "std.optim", "--pages", "pages"]);
    assert!(status(&o) == 2 && err(&o).contains("whole library"), "{}", err(&o));
}

#[test]
fn a_new_project_runs() {
    let dir = folder(&[]);
    let o = optc(dir.path(), &["new", "project"]);
    assert!(status(&o) == 0 && out(&o).contains("project/main.opt"), "{}{}", out(&o), err(&o));
    assert_eq!(status(&optc(dir.path(), &["fmt", "--check", "project"])), 0, "{}", out(&optc(dir.path(), &["fmt", "--check", "project"])));
    let o = optc(dir.path(), &["run", "project/main.opt"]);
    assert_eq!(status(&o), 0, "{}", err(&o));
    let o = optc(dir.path(), &["test", "project"]);
    assert_eq!(status(&o), 0, "{}{}", out(&o), err(&o));
    assert_eq!(status(&optc(dir.path(), &["new", "project"])), 1);
}

#[test]
fn completions_exist_for_shells() {
    let dir = folder(&[]);
    for shell in ["bash", "zsh", "fish"] {
        let o = optc(dir.path(), &["completions", shell]);
        assert!(status(&o) == 0 && out(&o).contains("optc"), "{shell}");
    }
}

#[test]
fn a_report_is_one_page() {
    let dir = folder(&[("a.opt", SPEC)]);
    let o = optc(dir.path(), &["run", "a.opt", "holds", "--report", "r.html"]);
    assert_eq!(status(&o), 0, "{}", err(&o));
    let page = std::fs::read_to_string(dir.path().join("r.html")).expect("a report");
    assert!(page.contains("it goes down") && page.contains("descend") && page.trim_end().ends_with("</html>"));
    let o = optc(dir.path(), &["run", "a.opt", "holds", "--report", "no/such/folder/../../../a.opt/r.html"]);
    assert_eq!(status(&o), 1, "{}", err(&o));
}

#[test]
fn bench_times_a_spec_and_an_optimizer() {
    let dir = folder(&[("a.opt", SPEC)]);
    let o = optc(dir.path(), &["bench", "a.opt", "--seconds", "0.1", "--json", "--threads", "1"]);
    assert_eq!(status(&o), 0, "{}", err(&o));
    let report: serde_json::Value = serde_json::from_str(&out(&o)).expect("JSON");
    assert!(report["trains"][0]["steps_per_second"]["median"].as_f64().is_some_and(|r| r > 0.0), "{report}");
    let o = optc(dir.path(), &["bench", "a.opt", "--seconds", "0", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out(&o)).expect("JSON");
    let train = &report["trains"][0];
    assert!(train["ms"]["to_first_step"].as_f64().is_some_and(|ms| ms > 0.0) && train["steps_per_second"].is_null(), "{report}");
    if cfg!(target_os = "linux") {
        assert!(report["peak_bytes"].as_u64().is_some_and(|b| b > 1 << 20), "{report}");
    }
    let args = ["bench", "a.opt", "--optimizer", "adamw", "--size", "10000", "--tensors", "3", "--seconds", "0.1", "--json", "--profile"];
    let o = optc(dir.path(), &args);
    assert_eq!(status(&o), 0, "{}", err(&o));
    let report: serde_json::Value = serde_json::from_str(&out(&o)).expect("JSON");
    let rows = report["profile"]["rows"].as_array().expect("a profile");
    let inside: f64 = rows.iter().filter_map(|r| r["ms_per_step"].as_f64()).sum();
    let whole = report["profile"]["ms_per_step"].as_f64().unwrap_or(0.0);
    assert!(inside > 0.2 * whole && inside <= 1.01 * whole, "the rows make up the step: {report}");
    assert!(report["nominal_bytes_per_parameter"].as_f64().is_some_and(|b| (b - 28.0).abs() < 0.01), "{report}");
    let args = ["bench", "a.opt", "--optimizer", "muon", "--shape", "16x24", "--tensors", "3", "--seconds", "0.01", "--json"];
    let o = optc(dir.path(), &args);
    assert_eq!(status(&o), 0, "{}", err(&o));
    let report: serde_json::Value = serde_json::from_str(&out(&o)).expect("JSON");
    assert_eq!((report["parameters"].as_u64(), report["tensors"].as_u64()), (Some(1152), Some(3)), "{report}");
    for bad in [&["--shape", "16x0"][..], &["--size", "0"], &["--shape", "4x"], &["--shape", "4", "--size", "8"]] {
        let o = optc(dir.path(), &[&["bench", "a.opt", "--optimizer", "muon"], bad].concat());
        assert_eq!(status(&o), 2, "{bad:?}: {}", err(&o));
    }
}

#[test]
fn functions_can_be_looked_at_and_timed() {
    let spec = "fn total(x: f32[N] = random.normal([1000]), n: int = 100) { var s = 0.0; for i in 0..n { s <- s + sum(exp(x * s)) }; s }\n\
                fn open(x: f32[N]) = sum(x)\nfn number(n: int = 2) = n + 1\n";
    let dir = folder(&[("a.opt", spec)]);
    let o = optc(dir.path(), &["bench", "a.opt", "total", "--seconds", "0.05", "--json", "--profile"]);
    assert_eq!(status(&o), 0, "{}", err(&o));
    let report: serde_json::Value = serde_json::from_str(&out(&o)).expect("JSON");
    assert!(
        report["ms_per_call"]["median"].as_f64().is_some_and(|ms| ms > 0.0) && report["ms"]["to_first_result"].as_f64().is_some(),
        "{report}"
    );
    assert!(report["profile"]["rows"].as_array().is_some_and(|r| !r.is_empty()), "{report}");
    let o = optc(dir.path(), &["explain", "a.opt", "total", "--stage", "graph"]);
    assert!(status(&o) == 0 && out(&o).contains("loop"), "{}{}", out(&o), err(&o));
    // What is drawn for the default is an input, and not part of what is timed.
    assert!(!out(&o).contains("random"), "{}", out(&o));
    for (name, message) in [("open", "its parameter `x` has no default"), ("number", "computes no array")] {
        let o = optc(dir.path(), &["bench", "a.opt", name]);
        assert!(status(&o) == 1 && err(&o).contains(message), "{name}: {}", err(&o));
    }
}

#[test]
fn a_closed_output_is_no_error() {
    let dir = folder(&[("a.opt", SPEC)]);
    for args in [&["show", "std.optim"][..], &["explain", "a.opt", "--stage", "ast"], &["run", "a.opt"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_optc-under-test"))
            .current_dir(dir.path())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        drop(child.stdout.take());
        let o = child.wait_with_output().expect("it ends");
        assert!(status(&o) == 0 && !err(&o).contains("compiler bug"), "{args:?}: {}", err(&o));
    }
}

#[test]
fn files_beside_the_spec_are_found_from_anywhere() {
    let text = "data d {\n  x = csv(\"numbers.csv\")\n}\n\nexperiment reads {\n  check sum(d.x) ~= 10.0 within 0, \"the file\"\n}\n";
    let dir = folder(&[("deep/er/a.opt", text), ("deep/er/numbers.csv", "1,2\n3,4\n"), ("deep/b.opt", "import \"er/a.opt\" as a\n")]);
    let path: PathBuf = ["deep", "er", "a.opt"].iter().collect();
    let o = optc(dir.path(), &["test", path.to_str().expect("a name")]);
    assert_eq!(status(&o), 0, "{}{}", out(&o), err(&o));
    assert_eq!(status(&optc(dir.path(), &["check", "deep"])), 0);
    std::fs::remove_file(dir.path().join("deep/er/numbers.csv")).expect("a file");
    let o = optc(dir.path(), &["test", "deep/er/a.opt"]);
    assert!(status(&o) == 1 && err(&o).contains("[R0101]") && err(&o).contains("deep/er/a.opt:2:"), "{}", err(&o));
}

#[test]
fn a_schedule_that_leaves_its_range_ends_the_run() {
    let text = SPEC.replace("sgd(lr = 0.1)", "sgd(lr = ramp(0.1) - 0.035)");
    let dir = folder(&[("spec.opt", &text), ("fine.opt", &SPEC.replace("sgd(lr = 0.1)", "sgd(lr = ramp(0.1))"))]);
    let output = optc(dir.path(), &["run", "spec.opt", "descend"]);
    assert_eq!(status(&output), 1);
    let message = err(&output);
    assert!(message.contains("error[R0205]: step 1: `lr` of `sgd` is -0.035, but must be at least 0"), "{message}");
    assert!(message.contains("ramp(0.1) - 0.035") && message.contains("its range"), "{message}");
    assert_eq!(status(&optc(dir.path(), &["run", "fine.opt", "descend"])), 0);
}

#[test]
fn what_makes_the_loss_nan_is_named_inside_loops_and_branches() {
    let spec = |loss: &str| {
        format!(
            "import std.optim.sgd\n\nmodel point() -> f32 {{\n  param w: f32 = 1.0\n  w\n}}\n\ndata d {{\n  x = generate(2) {{ i -> 1 / (i - 1) }}\n}}\n\n{loss}\n\ntrain t {{\n  data d, batch = 1\n  model net = point()\n  loss bad(net(), x)\n  optimizer sgd(lr = 0.1)\n  steps 3\n}}\n"
        )
    };
    let cases = [
        // In a loop: the line, and the pass.
        (
            "loss bad(w: f32, x: f32[B]) -> f32 {\n  var s = w\n  for i in 0..10 {\n    s <- s + 0.1\n    s <- s + sqrt(4.5 - i)\n  }\n  s\n}",
            ["step 1: `sqrt` here makes the loss NaN", "s <- s + sqrt(4.5 - i)", "gives NaN in pass 5 of its loop"],
        ),
        // In a branch, in a loop in a loop.
        (
            "loss bad(w: f32, x: f32[B]) -> f32 {\n  var s = w\n  for i in 0..6 {\n    for j in 0..7 {\n      if i * j > 20 { s <- s * log(s * 0) } else { s <- s + w }\n    }\n  }\n  s\n}",
            ["step 1: `log` here makes the loss NaN", "s <- s * log(s * 0)", "gives -inf in passes 4, 6 of its loops"],
        ),
        // Not the first value that is not finite, but the one the loss comes from.
        (
            "loss bad(w: f32, x: f32[B]) -> f32 {\n  let unused = where(w > 0, w, log(0 * w))\n  var s = unused\n  for i in 0..5 { s <- s / (w - 1) }\n  s\n}",
            ["step 1: `div` here makes the loss infinite", "s / (w - 1)", "gives inf in pass 0 of its loop"],
        ),
        // The data.
        (
            "loss bad(w: f32, x: f32[B]) -> f32 = mean((w * x)^2)",
            ["step 2: a value of the data `x` here makes the loss infinite", "train t", "gives"],
        ),
    ];
    for (loss, expected) in cases {
        let dir = folder(&[("a.opt", &spec(loss))]);
        let o = optc(dir.path(), &["run", "a.opt"]);
        let message = err(&o);
        assert!(status(&o) == 1 && message.contains("error[R0202]"), "{message}");
        for part in expected {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
}

#[test]
fn logs_go_where_they_are_sent() {
    let spec = SPEC.replace("  steps     10\n", "  steps     10\n  log \"logs\", formats = [csv, jsonl]\n")
        + "\nexperiment sent {\n  let a = run descend with { log = \"elsewhere\" }\n  let b = run descend with { log = none, steps = 20 }\n  let c = run descend with { seed = 1, log = \"more\" }\n  check a.loss.last == b.loss[9], \"the same run\"\n}\n";
    let dir = folder(&[("a.opt", &spec), ("plain.opt", SPEC)]);
    let lines = |path: &str| std::fs::read_to_string(dir.path().join(path)).map(|t| t.lines().count()).unwrap_or(0);
    let o = optc(dir.path(), &["run", "a.opt", "sent"]);
    assert_eq!(status(&o), 0, "{}{}", out(&o), err(&o));
    assert_eq!([lines("elsewhere/metrics.csv"), lines("elsewhere/metrics.jsonl")], [11, 10], "the formats stay");
    assert_eq!(lines("more/seed=1/metrics.csv"), 11, "a run of its own");
    assert!(!dir.path().join("logs").exists(), "none went to the folder that is written");
    // A train without a log gets one, from the command line too.
    let o = optc(dir.path(), &["run", "plain.opt", "descend", "--set", "log=\"here\""]);
    assert_eq!((status(&o), lines("here/metrics.csv")), (0, 11), "{}", err(&o));
    let o = optc(dir.path(), &["run", "plain.opt", "descend", "--set", "log=3"]);
    assert!(status(&o) == 1 && err(&o).contains("error[E0516]") && err(&o).contains("`log` is a path"), "{}", err(&o));
}

/// The newest checkpoint of a folder: its step and its tensors.
fn newest(store: &Path) -> (u64, Vec<(String, Vec<u8>)>) {
    let (found, _) = optc_train::Checkpoints::new(store, None).latest().expect("readable checkpoints");
    let (_, checkpoint) = found.expect("a checkpoint");
    (checkpoint.meta.step, checkpoint.tensors.iter().map(|(n, t)| (n.clone(), t.bytes().to_vec())).collect())
}

#[test]
fn a_step_whose_hyperparameter_leaves_its_range_is_not_made() {
    let train = |name: &str, optimizer: &str, rest: &str| {
        format!(
            "train {name} {{\n  model net = plane()\n  loss sum(net()^2) / 2\n  optimizer {optimizer}\n  steps 8\n  {rest}\n  checkpoint \"out/{name}\" every 100\n}}\n\n"
        )
    };
    let spec = "import std.optim.{sgd, adam}\n\nmodel plane() -> f32[100] {\n  param x: f32[100] ~ random.normal()\n  x\n}\n\n".to_string()
        // A schedule, one without a guarded loss, one that depends on the leaf, one on the last loss.
        + &train("scheduled", "adam(lr = 0.35 - step / 10)", "")
        + &train("skipping", "adam(lr = 0.35 - step / 10)", "on nan { skip }")
        + &train("of_the_leaf", "sgd(lr = 0.5 - 0.3 * t * (norm(g) / norm(w)))", "")
        + &train("of_the_loss", "sgd(lr = if step < 2 { 0.1 } else { -loss })", "")
        // And one that is not finite.
        + &train("no_number", "adam(lr = 1 / (3 - step) - 1 / (3 - step) + 0.1)", "");
    let dir = folder(&[("a.opt", &spec)]);
    for (name, good) in [("scheduled", 4), ("skipping", 4), ("of_the_leaf", 1), ("of_the_loss", 2), ("no_number", 3)] {
        let o = optc(dir.path(), &["run", "a.opt", name]);
        let message = err(&o);
        assert!(
            status(&o) == 1 && message.contains("error[R0205]") && message.contains(&format!("step {}", good + 1)),
            "{name}: {message}"
        );
        let store = dir.path().join("out").join(name);
        let stopped = newest(&store);
        assert_eq!(stopped.0, good, "{name}");
        std::fs::remove_dir_all(&store).expect("a folder");
        let o = optc(dir.path(), &["run", "a.opt", name, "--set", &format!("steps={good}")]);
        assert_eq!(status(&o), 0, "{}", err(&o));
        assert!(newest(&store) == stopped, "{name}: the state is that before the step");
    }
}

#[test]
fn a_step_that_makes_a_parameter_infinite_is_noticed() {
    // The loss saturates, so it is finite whatever the weights are. With players the second one's weights, which it steps every other time.
    let model = "model plane(n: int) -> f32[n] {\n  param x: f32[n] = 1\n  x\n}\n\n\
                 loss bounded(x: f32[N]) -> f32 = mean(clip(x, -5, 5)^2)\n\n\
                 optimizer wild() {\n  w <- w - where(step < 3, 0.1, 3e38) * 1e2 * g\n}\n\n";
    let plain = |name: &str, rest: &str| {
        format!("train {name} {{\n  model net = plane(70)\n  loss bounded(net())\n  optimizer wild()\n  steps 6\n  {rest}\n}}\n\n")
    };
    let spec = format!(
        "{model}{}{}train players {{\n  model calm = plane(3), net = plane(70)\n  loss calm = bounded(calm()), net = bounded(net())\n  \
         optimizer calm = wild() |> still(), net = wild(), net every 2\n  steps 20\n}}\n\noptimizer still() {{\n  state old = w\n  w <- old\n}}\n",
        plain("stopping", "checkpoint \"out\" every 2"),
        plain("skipping", "on nan { skip }"),
    );
    let dir = folder(&[("a.opt", &spec)]);
    let o = optc(dir.path(), &["run", "a.opt", "stopping"]);
    let message = err(&o);
    assert!(status(&o) == 1 && message.contains("error[R0207]: step 4: the update makes `net.x` NaN or infinite"), "{message}");
    assert!(message.contains("element 0 of 70 is") && message.contains("the last good checkpoint is"), "{message}");
    assert_eq!(newest(&dir.path().join("out")).0, 2, "the state after the step is not kept");
    let o = optc(dir.path(), &["run", "a.opt", "skipping"]);
    let message = err(&o);
    assert_eq!(status(&o), 0, "{message}");
    assert_eq!(message.matches("warning: step 4: the update makes `net.x` NaN or infinite").count(), 1, "{message}");
    let o = optc(dir.path(), &["run", "a.opt", "players"]);
    let message = err(&o);
    assert!(status(&o) == 1 && message.contains("error[R0207]") && message.contains("step 8") && message.contains("`net.x`"), "{message}");
}

/// Names of the folders below one, sorted.
fn folders(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).expect("a folder").flatten().filter(|e| e.path().is_dir());
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn runs_with_other_settings_have_folders_of_their_own() {
    let train = SPEC.replace("  steps     10\n", "  steps     10\n  checkpoint \"out/d\" every 5\n  log \"logs\"\n");
    let spec = train
        + "
experiment several {
  let a = [run descend with { seed = s, optimizer = sgd(lr = r) } for (s, r) in [(0, 0.1), (0, 0.2), (1, 0.1)]]
  let b = run descend with { steps = 20 }
  let c = run descend with { net.at = 3.0, steps = 4 }
  check len(a) == 3, \"all ran\"
}
";
    let dir = folder(&[("a.opt", &spec)]);
    let ok = |args: &[&str]| {
        let o = optc(dir.path(), args);
        assert_eq!(status(&o), 0, "{}", err(&o));
    };
    ok(&["run", "a.opt", "several", "--quiet"]);
    for place in ["out/d", "logs"] {
        let found = folders(&dir.path().join(place));
        let count = |start: &str, end: &str| found.iter().filter(|n| n.starts_with(start) && n.ends_with(end)).count();
        let counts = [count("net.at=3", "3"), count("optimizer=sgd-", ",seed=0"), count("optimizer=sgd-", ",seed=1")];
        assert!(counts == [1, 2, 1] && found.len() == 4, "{found:?}");
    }
    // The command line counts like `with`; lengths of runs and places of files do not.
    ok(&["run", "a.opt", "descend", "--quiet", "--seed", "7", "--set", "start=4.0", "--set", "steps=6"]);
    assert!(dir.path().join("out/d/seed=7,start=4.0").is_dir(), "{:?}", folders(&dir.path().join("out/d")));
    assert!(!dir.path().join("out/d/steps=6").exists());
}

#[test]
fn a_folder_of_checkpoints_belongs_to_one_train() {
    let train = |name: &str| {
        format!(
            "train {name} {{\n  model net = point()\n  loss net()^2\n  optimizer sgd(lr = 0.1)\n  steps 5\n  checkpoint \"out/x\" every 5\n}}\n"
        )
    };
    let spec = format!("import std.optim.sgd\nmodel point() -> f32 {{\n  param x: f32 = 1.0\n  x\n}}\n{}{}", train("one"), train("two"));
    let dir = folder(&[("a.opt", &spec)]);
    assert_eq!(status(&optc(dir.path(), &["run", "a.opt", "one"])), 0);
    assert_eq!(status(&optc(dir.path(), &["run", "a.opt", "one"])), 0);
    for args in [&["run", "a.opt", "two"][..], &["run", "a.opt", "two", "--resume"]] {
        let o = optc(dir.path(), args);
        assert!(status(&o) == 1 && err(&o).contains("error[R0206]") && err(&o).contains("of the train `one`"), "{}", err(&o));
    }
    let o = optc(dir.path(), &["explain", "R0206"]);
    assert!(status(&o) == 0 && out(&o).contains("belongs to another train"), "{}", out(&o));
}

#[test]
fn words_are_strings_where_strings_are_wanted() {
    let spec = "import std.optim.sgd\n\
        const tag = \"plain\"\n\
        model point(kind: str = \"one\") -> f32 {\n  param x: f32 = 1.0\n  if kind == \"two\" { 2 * x } else { x }\n}\n\
        train fit(act: str = \"square\") {\n  let word = \"a\"\n  model net = point()\n  loss if act == \"abs\" and word == \"b\" { abs(net()) } else { net()^2 }\n  \
        optimizer sgd(lr = 0.1)\n  steps 1\n}\n\
        experiment given(name: str, n: int = 1) {\n  check name == \"lion\" and n == 3 and tag == \"data/x.csv\", \"words\"\n}\n\
        experiment trained {\n  let r = run fit\n  check r.loss.first == 2.0, \"settings of a train\"\n}\n";
    let dir = folder(&[("a.opt", spec)]);
    let o = optc(dir.path(), &["run", "a.opt", "given", "--set", "name=lion", "--set", "n=3", "--set", "tag=data/x.csv"]);
    assert_eq!(status(&o), 0, "{}{}", out(&o), err(&o));
    let o = optc(dir.path(), &["run", "a.opt", "trained", "--set", "act=abs", "--set", "word=b", "--set", "net.kind=two"]);
    assert_eq!(status(&o), 0, "{}{}", out(&o), err(&o));
    let o = optc(dir.path(), &["run", "a.opt", "trained", "--set", "steps=abs"]);
    assert!(status(&o) == 1 && err(&o).contains("--set steps=abs"), "{}", err(&o));
}

#[test]
fn claims_of_a_loop_are_counted() {
    let spec = "experiment e {\n  for k in 0..5 {\n    check k < 5, \"small\"\n    check k != 3, \"not three\"\n    check k >= 0, \"pass {k}\"\n  }\n}\n";
    let dir = folder(&[("a.opt", spec)]);
    let o = optc(dir.path(), &["run", "a.opt"]);
    let text = out(&o);
    assert!(status(&o) == 1 && text.contains("small (5 times)") && text.contains("pass 0") && text.contains("pass 4"), "{text}");
    assert!(text.contains("not three: k is 3 (1 of 5 times)") && text.contains("1 of 15 checks failed"), "{text}");
}
