//! Arrays that live in files: all states are bit for bit those of a run in memory, whatever happens on the way, and trouble with files is an error.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SPEC: &str = "\
import std.optim.{adamw, lion, adafactor, clip_by_global_norm, lamb}
import std.nn.{linear, relu}

data noise {
  x = generate(64) { i -> random.normal([40]) }
  y = sum(x, axis = 1, keepdims = true)
}

model mlp(x: f32[B, In]) -> f32[B, 1] = linear(relu(linear(relu(linear(x, 1000)), 33)), 1)

optimizer narrow(lr: float = 1e-3) {
  state m: bf16[...] = 0
  state v: f32[...] = g^2
  m <- 0.9 * m + 0.1 * g
  v <- 0.99 * v + 0.01 * g^2
  w <- w - lr * m / (sqrt(v) + 1e-6)
}

train fit {
  data       noise, batch = 16, shuffle = true
  model      net = mlp()
  loss       mean((net(x) - y)^2)
  optimizer  OPTIMIZER
  steps      STEPS
  seed       3
  OFFLOAD
  checkpoint \"out/fit\" every EVERY
}
";

fn spec(optimizer: &str, steps: u64, every: u64, offload: &str) -> String {
    SPEC.replace("OPTIMIZER", optimizer)
        .replace("STEPS", &steps.to_string())
        .replace("EVERY", &every.to_string())
        .replace("OFFLOAD", offload)
}

fn folder(spec: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("fit.opt"), spec).expect("a file");
    dir
}

fn command(folder: &Path, threads: usize, resume: bool) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_optc-under-test"));
    c.current_dir(folder).args(["run", "fit.opt", "--quiet", "--threads", &threads.to_string()]);
    if resume {
        c.arg("--resume");
    }
    c.stdout(Stdio::null()).stderr(Stdio::piped());
    c
}

fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

fn finish(mut c: Command) {
    let o = c.output().expect("the binary starts");
    assert!(o.status.success(), "{}", err(&o));
}

fn newest(folder: &Path) -> Option<optc_train::Checkpoint> {
    let store: PathBuf = folder.join("out/fit");
    optc_train::Checkpoints::new(&store, None).latest().expect("a folder").0.map(|(_, c)| c)
}

/// The newest checkpoint: step, and bits of everything.
fn bits(folder: &Path) -> (u64, Vec<(String, String)>) {
    let c = newest(folder).expect("a checkpoint");
    (c.meta.step, c.tensors.iter().map(|(n, t)| (n.clone(), format!("{} {:?} {:?}", t.dtype, t.shape, t.bytes()))).collect())
}

#[test]
fn all_states_are_those_of_a_run_in_memory() {
    for optimizer in
        ["adamw(lr = 1e-3)", "lion(lr = 1e-3)", "adafactor()", "clip_by_global_norm(0.1) |> adamw(lr = 1e-3)", "lamb()", "narrow()"]
    {
        let memory = folder(&spec(optimizer, 5, 5, ""));
        finish(command(memory.path(), 1, false));
        let expected = bits(memory.path());
        for (threads, options) in [(1, "depth = 1"), (2, "depth = 4"), (2, "weights = true, depth = 2, chunk = 230_000")] {
            let chunk = if options.contains("chunk") { "" } else { ", chunk = 150_000" };
            let files = folder(&spec(optimizer, 5, 5, &format!("offload \"out/states\", {options}{chunk}")));
            finish(command(files.path(), threads, false));
            assert!(bits(files.path()) == expected, "{optimizer} with {options} on {threads} threads");
            // The files are ordinary arrays that hold the final states.
            let c = newest(files.path()).expect("a checkpoint");
            let mut compared = 0;
            for (name, tensor) in c.tensors.iter().filter(|(_, t)| t.dtype.to_string() == "f32") {
                let path = files.path().join(format!("out/states/{name}.npy"));
                if path.exists() {
                    compared += 1;
                    assert!(optc_train::data::npy::read(&path).expect("an npy file") == *tensor, "{name}");
                }
            }
            assert!(compared > 0 || optimizer == "adafactor()", "{optimizer} has files");
        }
    }
}

#[test]
fn killed_within_a_step_and_resumed_is_never_killed() {
    // A step takes some 10 ms and is in the middle of its files most of that time.
    let text = spec("adamw(lr = 1e-3)", 60, 7, "offload \"out/states\", chunk = 140_000, depth = 2, throttle = 60MiB");
    let whole = folder(&spec("adamw(lr = 1e-3)", 60, 7, ""));
    finish(command(whole.path(), 1, false));
    let expected = bits(whole.path());
    let dir = folder(&text);
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut stopped = 0;
    for _ in 0..4 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let before = newest(dir.path()).map_or(0, |c| c.meta.step);
        let mut child = command(dir.path(), 1, true).spawn().expect("the binary starts");
        let start = Instant::now();
        // Once it has written a checkpoint, it is stopped at some moment.
        while newest(dir.path()).map_or(0, |c| c.meta.step) <= before && start.elapsed() < Duration::from_secs(30) {
            if child.try_wait().expect("a state").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        std::thread::sleep(Duration::from_micros((random >> 33) % 30_000));
        stopped += usize::from(child.try_wait().expect("a state").is_none());
        let _ = child.kill();
        let o = child.wait_with_output().expect("it ends");
        assert!(!err(&o).contains("error"), "{}", err(&o));
    }
    assert!(stopped > 0, "no run was stopped");
    finish(command(dir.path(), 2, true));
    assert_eq!(expected.0, 60);
    assert!(bits(dir.path()) == expected);
}

#[test]
fn trouble_with_files_is_an_error_that_says_what_to_do() {
    // A file where the folder should be.
    let dir = folder(&spec("adamw(lr = 1e-3)", 5, 5, "offload \"out/states\""));
    std::fs::create_dir_all(dir.path().join("out")).expect("a folder");
    std::fs::write(dir.path().join("out/states"), "").expect("a file");
    let o = command(dir.path(), 1, false).output().expect("the binary starts");
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("R0102") && err(&o).contains("out/states"), "{}", err(&o));
    // More than any disk has.
    let huge = "\
import std.optim.adamw
model field() -> f32 {
  param w: f32[1_000_000, 1_000_000] = 0
  mean(w^2)
}
train fit {
  model     net = field()
  loss      net()
  optimizer adamw()
  steps     1
  offload   \"out/states\", weights = true
}
";
    let dir = folder(huge);
    let o = command(dir.path(), 1, false).output().expect("the binary starts");
    assert_eq!(o.status.code(), Some(1), "{}", err(&o));
    assert!(err(&o).contains("R0128") && err(&o).contains("4000000000000 bytes"), "{}", err(&o));
    assert_eq!(std::fs::read_dir(dir.path().join("out/states")).expect("a folder").count(), 0, "nothing is left");
}

#[test]
fn a_file_cut_off_during_a_run_ends_it_and_a_checkpoint_goes_on() {
    let whole = folder(&spec("adamw(lr = 1e-3)", 200, 10, ""));
    finish(command(whole.path(), 1, false));
    let dir = folder(&spec("adamw(lr = 1e-3)", 200, 10, "offload \"out/states\", chunk = 140_000, throttle = 30MiB"));
    let child = command(dir.path(), 1, false).spawn().expect("the binary starts");
    let start = Instant::now();
    while newest(dir.path()).is_none() && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(3));
    }
    let states = std::fs::read_dir(dir.path().join("out/states")).expect("a folder").flatten().map(|e| e.path());
    let large = states.max_by_key(|p| p.metadata().map_or(0, |m| m.len())).expect("a file");
    std::fs::OpenOptions::new().write(true).open(&large).and_then(|f| f.set_len(8192)).expect("it is cut off");
    let o = child.wait_with_output().expect("it ends");
    assert_eq!(o.status.code(), Some(1), "{}", err(&o));
    assert!(err(&o).contains("R0129") && err(&o).contains("--resume"), "{}", err(&o));
    finish(command(dir.path(), 1, true));
    assert!(bits(dir.path()) == bits(whole.path()));
}
