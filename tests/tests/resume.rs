//! Training that is killed and goes on, and training with other numbers of threads, end with the same bits.
//!
//! `OPTC_KILLS=20` sets how often the process is killed while it trains.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SPEC: &str = "\
import std.optim.{adamw, clip_by_global_norm}
import std.nn.{linear, relu, dropout}
import std.loss.mse

data noise {
  x = generate(200) { i -> random.normal([6]) }
  y = sum(x, axis = 1, keepdims = true)
}

model mlp(x: f32[B, In]) -> f32[B, 1] {
  let h = dropout(relu(linear(x, 32)), 0.1)
  linear(h, 1)
}

train fit {
  data       noise, batch = 32, shuffle = true
  model      net = mlp()
  loss       mse(net(x), y)
  optimizer  clip_by_global_norm(1.0) |> adamw(lr = 1e-3)
  steps      4000
  seed       3
  metric     error = mean((net(x) - y)^2) on noise every 500
  checkpoint \"out/fit\" every 50, keep = 2
}
";

/// Work of every kind that is cut into units for threads: a convolution, attention, products, normalization, draws, losses, the norm of all gradients.
const WIDE: &str = "\
import std.optim.{adamw, clip_by_global_norm}
import std.nn.{conv2d, linear, relu, dropout, transformer_block}
import std.loss.cross_entropy

data noise {
  let examples = generate(128) { i -> { x = random.normal([16, 16, 4]), y = i % 10 } }
  x = examples.x
  y = examples.y
  split train = 1.0, seed = 1
}

model net(x: f32[B, H, W, C]) -> f32[B, 10] {
  let a = relu(conv2d(x, 16))
  let h = transformer_block(reshape(a, B, -1, 64), 4, drop = 0.1)
  linear(dropout(relu(linear(reshape(h, B, -1), 256)), 0.1), 10)
}

train fit {
  data       noise.train, batch = 32, shuffle = true
  model      net = net()
  loss       cross_entropy(net(x), y)
  optimizer  clip_by_global_norm(1.0) |> adamw(lr = 1e-3)
  steps      12
  seed       3
  checkpoint \"out/fit\" every 12
}
";

/// Two players, one of which steps twice, the other in every third step; buffers, draws, accumulated gradients.
const PLAYERS: &str = "\
import std.optim.{adam, clip_by_global_norm}
import std.nn.{linear, relu, dropout, batch_norm}

data points {
  x = generate(160) { i -> [cos(0.1 * i), sin(0.1 * i)] + 0.1 * random.normal([2]) }
}

model maker(z: f32[B, L]) -> f32[B, 2] = linear(relu(batch_norm(linear(z, 16))), 2)

model judge(x: f32[B, 2]) -> f32[B] = reshape(linear(dropout(relu(linear(x, 16)), 0.1), 1), B)

train fit {
  data       points, batch = 16, shuffle = true
  let        z = random.normal([B, 4])
  model      gen = maker(), disc = judge()
  loss       gen = mean(softplus(-disc(gen(z)))), disc = mean(softplus(-disc(x))) + mean(softplus(disc(gen(z))))
  optimizer  disc = clip_by_global_norm(1.0) |> adam(lr = 1e-3), gen = adam(lr = 1e-3), disc times 2, gen every 3
  accumulate 2
  steps      2000
  seed       3
  checkpoint \"out/fit\" every 50, keep = 2
}
";

fn command(folder: &Path, threads: usize, resume: bool) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_optc-under-test"));
    c.current_dir(folder).args(["run", "fit.opt", "--quiet", "--threads", &threads.to_string()]);
    if resume {
        c.arg("--resume");
    }
    c.stdout(Stdio::null()).stderr(Stdio::piped());
    c
}

fn finish(mut c: Command) {
    let o = c.output().expect("the binary starts");
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
}

/// A folder with a spec.
fn folder(spec: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("fit.opt"), spec).expect("a file");
    dir
}

/// The newest checkpoint: its step, and names, types, shapes and bytes of all tensors.
fn tensors(folder: &Path) -> (u64, Vec<(String, String)>) {
    let store: PathBuf = folder.join("out/fit");
    let (found, _) = optc_train::Checkpoints::new(&store, None).latest().expect("a readable checkpoint");
    let (_, checkpoint) = found.expect("a checkpoint");
    (
        checkpoint.meta.step,
        checkpoint.tensors.iter().map(|(n, t)| (n.clone(), format!("{} {:?} {:?}", t.dtype, t.shape, t.bytes()))).collect(),
    )
}

#[test]
fn killed_and_resumed_is_never_killed() {
    killed(SPEC, 4000);
}

#[test]
fn players_killed_and_resumed_are_never_killed() {
    killed(PLAYERS, 2000);
}

fn killed(spec: &str, steps: u64) {
    let kills: usize = std::env::var("OPTC_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(3);
    let whole = folder(spec);
    let start = std::time::Instant::now();
    finish(command(whole.path(), 1, false));
    let expected = tensors(whole.path());
    assert_eq!(expected.0, steps);
    let duration = start.elapsed().as_millis() as u64;
    let mut dir = folder(spec);
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut killed = 0;
    while killed < kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wait = duration / 10 + (random >> 33) % (duration / 2).max(1);
        let mut child = command(dir.path(), 1, true).spawn().expect("the binary starts");
        std::thread::sleep(Duration::from_millis(wait));
        let ended = child.try_wait().expect("a state").is_some();
        // It may end between the question and the kill.
        let _ = child.kill();
        let o = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&o.stderr);
        assert!(!said.contains("error"), "after {killed} kills: {said}");
        if ended || o.status.success() {
            // This training is done, whatever was done to it; the next kills hit another.
            assert_eq!(tensors(dir.path()), expected);
            dir = folder(spec);
        } else {
            killed += 1;
            let (newest, _) = optc_train::Checkpoints::new(&dir.path().join("out/fit"), None).latest().expect("a readable checkpoint");
            let step = newest.map_or(0, |(_, checkpoint)| checkpoint.meta.step);
            println!("kill {killed}: after {wait} ms, the newest checkpoint is of step {step}");
        }
    }
    finish(command(dir.path(), 1, true));
    assert_eq!(tensors(dir.path()), expected);
}

#[test]
fn results_do_not_depend_on_threads() {
    for spec in [SPEC, WIDE, PLAYERS] {
        let results: Vec<_> = [1, 2, 3]
            .into_iter()
            .map(|threads| {
                let dir = folder(spec);
                finish(command(dir.path(), threads, false));
                tensors(dir.path())
            })
            .collect();
        assert!(results[0] == results[1] && results[0] == results[2]);
    }
}
