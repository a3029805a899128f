//! Executables of runs: they need neither the compiler nor the spec nor its data, and give the bits that `optc run` gives.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SPEC: &str = "\
import \"lib/net.opt\"
import std.optim.adamw
import std.loss.cross_entropy

const file = \"data/points.csv\"

data points {
  let table = csv(file)
  x = table[:, 0:4]
  y = table[:, 4] as i32
  split train = 0.75, test = 0.25, seed = 0
}

train fit {
  data       points.train, batch = 8, shuffle = true
  model      net = net()
  loss       cross_entropy(net(x) * scale(), y)
  optimizer  adamw(lr = 1e-2)
  steps      40
  seed       5
  metric     accuracy = mean(argmax(net(x), axis = -1) == y) on points.test every 10
  checkpoint \"out/fit\" every 20
  log        \"out/log\", csv
}

experiment compare {
  let a = run fit
  let b = run fit with { seed = 7, optimizer = adamw(lr = 3e-2) }
  let shots = images(\"shots\")
  save \"out/loss.npy\", a.loss
  let back = npy(\"out/loss.npy\")
  print \"{a.loss.last} {b.loss.last} {shots.classes}\"
  check a.loss.last < a.loss.first, \"it goes down\"
  plot { a = a.loss, b = b.loss }
}
";

/// What `fit` leaves at its end.
const CHECKPOINT: &str = "out/fit/ckpt-000002-step-40.safetensors";

/// It reads data of its own, beside itself.
const NET: &str = "\
import std.nn.{linear, relu}

fn scale() = csv(\"scale.csv\")[0, 0]

model net(x: f32[B, In]) -> f32[B, 3] {
  linear(relu(linear(x, 16)), 3)
}
";

fn points(rows: usize) -> String {
    let row = |k: usize| {
        let numbers: Vec<String> = (0..4).map(|j| format!("{:.4}", ((k * 7 + j * 13) as f64 * 0.37).sin() + (k % 3) as f64)).collect();
        format!("{},{}\n", numbers.join(","), k % 3)
    };
    (0..rows).map(row).collect()
}

fn project() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let image = |v: u8| optc_train::png::encode(2, 2, 1, &[v, 1, 2, 3]);
    for (name, bytes) in [
        ("specs/main.opt", SPEC.as_bytes().to_vec()),
        ("specs/lib/net.opt", NET.as_bytes().to_vec()),
        ("specs/lib/scale.csv", b"0.5\n".to_vec()),
        ("specs/data/points.csv", points(60).into_bytes()),
        ("specs/data/other.csv", points(90).into_bytes()),
        ("specs/shots/cat/1.png", image(1)),
        ("specs/shots/dog/1.png", image(9)),
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, bytes).expect("a file");
    }
    std::fs::create_dir_all(dir.path().join("elsewhere")).expect("a folder");
    dir
}

fn run(program: &Path, folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.current_dir(folder).args(args).env_remove("RUST_BACKTRACE").env_remove("OPTC_STDLIB");
    command.output().expect("the binary starts")
}

fn optc(folder: &Path, args: &[&str]) -> Output {
    run(Path::new(env!("CARGO_BIN_EXE_optc-under-test")), folder, args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Builds an executable in another folder, with what it is made from out of the way.
fn built(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
    let out = format!("elsewhere/{name}");
    ok(optc(dir, &[&["build", "specs/main.opt", "-o", &out], args].concat()));
    dir.join(out)
}

/// What runs print, without the last two columns of the table of runs, which are times, and without its frame, which depends on them.
fn shown(output: &str) -> Vec<String> {
    let rows = output.lines().filter(|line| !line.starts_with(['┌', '╞', '├', '└']));
    let lines: Vec<String> = rows
        .map(|line| match line.strip_prefix('│') {
            Some(row) => {
                let cells: Vec<&str> = row.split('┆').map(str::trim).collect();
                cells[..cells.len().saturating_sub(2)].join(" ")
            }
            None => line.to_string(),
        })
        .collect();
    assert!(!lines.is_empty(), "something is shown: {output}");
    lines
}

#[test]
fn a_train_in_one_file_gives_the_same_bits() {
    let dir = project();
    let (specs, away) = (dir.path().join("specs"), dir.path().join("elsewhere"));
    let expected = ok(optc(&specs, &["run", "main.opt", "fit"]));
    let exe = built(dir.path(), "fit", &["--train", "fit"]);
    let again = built(dir.path(), "fit2", &["--train", "fit"]);
    assert!(std::fs::read(&exe).expect("it is there") == std::fs::read(&again).expect("it is there"), "equal input gives equal bytes");
    std::fs::rename(&specs, dir.path().join("gone")).expect("a folder is renamed");
    assert_eq!(shown(&ok(run(&exe, &away, &[]))), shown(&expected));
    for file in ["out/log/metrics.csv", CHECKPOINT] {
        let (ours, theirs) = (std::fs::read(away.join(file)), std::fs::read(dir.path().join("gone").join(file)));
        assert!(ours.expect(file) == theirs.expect(file), "{file}");
    }
    // Half of it, then the rest.
    std::fs::remove_dir_all(away.join("out")).expect("it is there");
    ok(run(&exe, &away, &["--set", "steps=20", "--quiet"]));
    ok(run(&exe, &away, &["--resume", "--threads", "1", "--report", "report.html"]));
    let (ours, theirs) = (std::fs::read(away.join(CHECKPOINT)), std::fs::read(dir.path().join("gone").join(CHECKPOINT)));
    assert!(ours.expect("a checkpoint") == theirs.expect("a checkpoint"), "resumed");
    assert!(std::fs::read_to_string(away.join("report.html")).expect("a report").contains("--report report.html"));
    let help = ok(run(&exe, &away, &["--help"]));
    for part in ["train `fit` of main.opt", "lib/net.opt", "lib/scale.csv", "data/points.csv", "--resume", "--set"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(!help.contains("shots") && !help.contains(dir.path().to_str().expect("a path in UTF-8")), "{help}");
    assert!(!exe.metadata().is_ok_and(|m| m.len() > Path::new(env!("CARGO_BIN_EXE_optc-under-test")).metadata().map_or(0, |m| m.len())));
}

#[test]
fn overrides_are_those_of_both_command_lines() {
    let dir = project();
    let (specs, away) = (dir.path().join("specs"), dir.path().join("elsewhere"));
    let exe = built(dir.path(), "fit", &["--train", "fit", "--set", "steps=6", "--set", "file=data/other.csv", "--seed", "11"]);
    let same = ok(optc(&specs, &["run", "main.opt", "fit", "--set", "steps=9", "--set", "file=data/other.csv", "--seed", "11"]));
    assert_eq!(shown(&ok(run(&exe, &away, &["--set", "steps=9"]))), shown(&same));
    // The other file is on the disk, but not in the executable.
    std::fs::create_dir_all(away.join("data")).expect("a folder");
    std::fs::copy(specs.join("data/points.csv"), away.join("data/points.csv")).expect("a file");
    let missing = run(&exe, &away, &["--set", "file=data/points.csv"]);
    let said = text(&missing.stderr);
    assert!(missing.status.code() == Some(1) && said.contains("R0134") && said.contains("data/points.csv"), "{said}");
    let exe = built(dir.path(), "both", &["--train", "fit", "--set", "steps=6", "--include", "data/other.csv"]);
    ok(run(&exe, &away, &["--set", "file=data/other.csv"]));
    assert_eq!(run(&exe, &away, &["--sed", "1"]).status.code(), Some(2));
}

#[test]
fn an_experiment_reads_what_it_saved_and_else_itself() {
    let dir = project();
    let (specs, away) = (dir.path().join("specs"), dir.path().join("elsewhere"));
    let exe = built(dir.path(), "compare", &["--experiment", "compare"]);
    assert!(!specs.join("out").exists(), "to build is not to run");
    let expected = ok(optc(&specs, &["run", "main.opt", "compare"]));
    assert!(!ok(run(&exe, &away, &["--help"])).contains("loss.npy"));
    std::fs::rename(&specs, dir.path().join("gone")).expect("a folder is renamed");
    assert_eq!(shown(&ok(run(&exe, &away, &[]))), shown(&expected));
    assert!(away.join("out/compare.png").exists() && away.join("out/loss.npy").exists());
}

#[test]
fn a_library_that_stands_for_the_embedded_one_comes_along() {
    let dir = project();
    let spec = "import std.optim.own\nmodel point() -> f32 { param x: f32 = 8.0\n  x }\n\
                train halve {\n  model net = point()\n  loss net()^2\n  optimizer own()\n  steps 3\n}\n";
    std::fs::write(dir.path().join("a.opt"), spec).expect("a file");
    std::fs::create_dir_all(dir.path().join("library/optim")).expect("a folder");
    let rule = "## Halves.\noptimizer own(lr: float = 0.25) {\n  w <- w - lr * g\n}\n";
    std::fs::write(dir.path().join("library/optim/own.opt"), rule).expect("a file");
    let with = |program: &Path, args: &[&str], library: &str| {
        ok(Command::new(program).current_dir(dir.path()).args(args).env("OPTC_STDLIB", library).output().expect("it starts"))
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_optc-under-test"));
    with(binary, &["build", "a.opt", "--train", "halve", "-o", "own"], "library");
    let expected = with(binary, &["run", "a.opt"], "library");
    std::fs::remove_dir_all(dir.path().join("library")).expect("it is there");
    let exe = dir.path().join("own");
    assert_eq!(shown(&with(&exe, &[], "library")), shown(&expected));
    assert_eq!(shown(&ok(run(&exe, dir.path(), &[]))), shown(&expected));
}

#[test]
fn damage_is_said_and_nothing_runs() {
    let dir = project();
    let exe = built(dir.path(), "fit", &["--train", "fit"]);
    let whole = std::fs::read(&exe).expect("it is there");
    let find = |word: &[u8]| whole.windows(word.len()).rposition(|w| w == word).expect("it is there");
    let index = find(b"{\"about\"");
    let fails = |what: &str, bytes: &[u8]| {
        std::fs::write(&exe, bytes).expect("it can be written");
        let o = run(&exe, dir.path(), &[]);
        let said = text(&o.stderr);
        assert!(o.status.code() == Some(1) && said.contains("R0133") && !said.contains("bug"), "{what}: {said}");
    };
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    fails("the index", &flipped(index + 20));
    fails("a file", &flipped(index - 20));
    fails("the trailer", &flipped(whole.len() - 40));
    fails("the end", &whole[..whole.len() - 1]);
    fails("half of it", &whole[..index - 10]);
    assert!(text(&optc(dir.path(), &["explain", "R0133"]).stdout).contains("checksum"));
}

#[test]
fn what_cannot_be_built_is_said() {
    let dir = project();
    let fails = |args: &[&str], status: i32, part: &str| {
        let o = optc(dir.path(), args);
        let said = text(&o.stderr);
        assert!(o.status.code() == Some(status) && said.contains(part), "{args:?}: {said}");
    };
    fails(&["build", "specs/main.opt", "--train", "fitt", "-o", "x"], 1, "did you mean `fit`");
    fails(&["build", "specs/main.opt", "--train", "compare", "-o", "x"], 1, "not a train");
    fails(&["build", "specs/main.opt", "-o", "x"], 2, "--train");
    fails(&["build", "specs/main.opt", "--train", "fit", "--optimizer", "lion"], 2, "cannot be used with");
    fails(&["build", "--train", "fit"], 2, "needs a spec");
    fails(&["build", "specs/main.opt", "--train", "fit", "-o", "specs/main.opt"], 1, "R0135");
    fails(&["build", "specs/main.opt", "--train", "fit", "-o", "x", "--include", "none.csv"], 1, "R0101");
    fails(&["build", "specs/main.opt", "--train", "fit", "-o", "x", "--set", "file=data/none.csv"], 1, "R0101");
    assert!(!dir.path().join("x").exists());
}

/// Where an executable runs can be said when it runs, by the environment, and when it is built.
#[test]
fn an_executable_takes_a_device_and_a_back_end() {
    let dir = project();
    let away = dir.path().join("elsewhere");
    let exe = built(dir.path(), "fit", &["--train", "fit"]);
    let expected = shown(&ok(run(&exe, &away, &[])));
    assert_eq!(shown(&ok(run(&exe, &away, &["--backend", "interpreter", "--set", "steps=40"]))), expected);
    let with = |exe: &Path, args: &[&str], variables: &[(&str, &str)]| {
        Command::new(exe).current_dir(&away).args(args).envs(variables.iter().copied()).output().expect("the binary starts")
    };
    let refused = |output: Output, why: &str| {
        assert!(output.status.code() == Some(1) && text(&output.stderr).contains(why), "{why}: {}", text(&output.stderr));
    };
    refused(run(&exe, &away, &["--device", "junk"]), "error[R0137]: --device is `junk`, which is no device");
    refused(with(&exe, &[], &[("OPTC_DEVICE", "junk")]), "error[R0137]: OPTC_DEVICE is `junk`");
    refused(with(&exe, &[], &[("OPTC_BACKEND", "junk")]), "error[R0137]: OPTC_BACKEND is `junk`");
    refused(with(&exe, &[], &[("OPTC_CACHE", "OFF")]), "error[R0137]: OPTC_CACHE is `OFF`");
    refused(optc(dir.path(), &["build", "specs/main.opt", "--train", "fit", "--device", "junk"]), "error[R0137]: --device is `junk`");
    refused(optc(dir.path(), &["build", "specs/main.opt", "--train", "fit", "--gpu", "sm_90"]), "error[R0137]: `--gpu` names the GPU");
    // A back end that it was built with is one that it says, and that another one takes the place of.
    let slow = built(dir.path(), "slow", &["--train", "fit", "--backend", "interpreter"]);
    assert!(ok(run(&slow, &away, &["--help"])).contains("built with --backend interpreter"));
    assert_eq!(shown(&ok(run(&slow, &away, &[]))), expected);
    assert_eq!(shown(&ok(run(&slow, &away, &["--backend", "cranelift"]))), expected);
}

/// A device that it was built for is where it runs, if it is told nothing else.
#[cfg(feature = "llvm")]
#[test]
fn an_executable_runs_on_the_device_that_it_was_built_for() {
    use optc_tests::virtual_gpu::{VirtualGpu, words};
    let dir = project();
    let away = dir.path().join("elsewhere");
    let exe = built(dir.path(), "fit", &["--train", "fit", "--device", "cuda"]);
    let losses = |output: Output| -> Vec<String> {
        assert!(output.status.success(), "{}", words(&output));
        shown(&text(&output.stdout))
    };
    let gpu = VirtualGpu::default();
    let there = losses(gpu.command(&exe).current_dir(&away).output().expect("the binary starts"));
    assert!(gpu.counts().contains("\"graph_launches\""), "{}", gpu.counts());
    let launches: u64 =
        serde_json::from_str::<serde_json::Value>(&gpu.counts()).expect("JSON")["graph_launches"].as_u64().expect("a number");
    assert!(launches > 30, "{launches}");
    // Elsewhere it says what is missing, or runs where it is told.
    let output = run(&exe, &away, &["--device", "cuda:77"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("error[R0138]"), "{}", text(&output.stderr));
    assert_eq!(losses(run(&exe, &away, &["--device", "cpu"])).len(), there.len());
    let output =
        Command::new(&exe).current_dir(&away).env("OPTC_DEVICE", "cpu").env_remove("LD_LIBRARY_PATH").output().expect("the binary starts");
    assert!(output.status.success(), "{}", words(&output));
}
