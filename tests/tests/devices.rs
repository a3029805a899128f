//! Programs on several GPUs, which are virtual ones: each has its part of every batch, and what they come to is what one comes to.
#![cfg(all(feature = "llvm", target_os = "linux"))]

use optc_tests::copy_of_cases;
use optc_tests::virtual_gpu::{VirtualGpu, words};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const OPTC: &str = env!("CARGO_BIN_EXE_optc-under-test");

/// Cases with a batch that two GPUs cannot share, by its size.
const UNEVEN: &[(&str, usize)] = &[("checkpoints", 7), ("draws_of_examples", 3), ("private_gradients", 3), ("shared_layers", 1)];

mod cases {
    use super::*;

    /// All checks of a case, its trains on two GPUs.
    fn run(name: &'static str) {
        let (gpu, cases) = (VirtualGpu::default().with_sums(), copy_of_cases());
        let file = cases.path().join(format!("{name}.opt"));
        let mut command = gpu.command(OPTC);
        command.args(["--color", "never", "--device", "cuda:0,1", "test", "--quiet"]).arg(file).env("OPTC_VGPU_DEVICES", "2");
        let output = command.output().unwrap();
        let said = words(&output);
        match UNEVEN.iter().find(|(uneven, _)| *uneven == name) {
            Some((_, batch)) => {
                let why = format!("error[R0147]: a batch of {batch} examples has no 2 equal parts");
                assert!(!output.status.success() && said.contains(&why), "{said}");
            }
            None => assert!(output.status.success(), "{said}"),
        }
    }
    /// Those with trains on data that take no long.
    macro_rules! cases {
        ($($name:ident)*) => { $(#[test] fn $name() { run(stringify!($name)); })* };
    }
    cases! {
        batches
        batching
        buffers
        checkpoints
        conditionals
        data_blocks
        draws_of_examples
        freezing
        groups
        layers
        loss_at
        metrics
        metrics_when_due
        optimizer_bodies
        players
        precision
        private_gradients
        randomness
        recurrent
        shared_layers
        train_settings
        while_loops
        wrappers
    }
}

const MLP: &str = r#"
import std.nn.{linear, relu}
import std.loss.cross_entropy
import std.optim.adamw
data points {
  let raw = generate(64) { i -> { x = [sin(i as f32), cos(2.0 * i as f32)], label = i % 3 } }
  x = raw.x
  y = raw.label
}
model net(x: f32[B, In]) -> f32[B, 3] { linear(relu(linear(x, 8)), 3) }
train t {
  data      points, batch = 16
  model     n = net()
  loss      cross_entropy(n(x), y)
  metric    hit = mean((argmax(n(x), axis = 1) == y) as f32)
  optimizer adamw(lr = 1e-2)
  steps     40
  seed      3
  log       "log"
}
"#;

/// As the digits: images, convolutions, statistics of the batch that are normalized by and kept, dropout.
const IMAGES: &str = r#"
import std.nn.{linear, relu, conv2d, batch_norm, dropout}
import std.loss.cross_entropy
import std.optim.{adamw, clip_by_global_norm}
data images {
  let raw = generate(48) { i -> { x = reshape(sin(iota(36) as f32 * (1.0 + i as f32)), 6, 6, 1), label = i % 4 } }
  x = raw.x
  y = raw.label
}
model net(x: f32[B, 6, 6, 1]) -> f32[B, 4] {
  let h = relu(batch_norm(conv2d(x, 3)))
  linear(dropout(reshape(h, B, -1), 0.2), 4)
}
train t {
  data      images, batch = 8
  model     n = net()
  loss      cross_entropy(n(x), y)
  optimizer clip_by_global_norm(0.5) |> adamw(lr = 1e-2)
  accumulate 2
  steps     12
  seed      3
  log       "log"
}
"#;

fn spec(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("spec.opt"), text).unwrap();
    folder
}

fn gpus() -> VirtualGpu {
    VirtualGpu::default().with_sums()
}

fn command(gpu: &VirtualGpu, folder: &Path, device: &str) -> Command {
    let mut command = gpu.command(OPTC);
    command.args(["--color", "never", "run", "spec.opt", "--device", device]).current_dir(folder).env("OPTC_VGPU_DEVICES", "4");
    command
}

/// The log of a run.
fn logged(gpu: &VirtualGpu, folder: &Path, device: &str, more: &[&str]) -> String {
    let output = command(gpu, folder, device).args(more).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    std::fs::read_to_string(folder.join("log/metrics.csv")).unwrap()
}

/// The numbers of a log, of a step in each row.
fn numbers(log: &str) -> Vec<Vec<f64>> {
    log.lines().skip(1).map(|l| l.split(',').map(|cell| cell.parse().unwrap_or(f64::NAN)).collect()).collect()
}

fn assert_alike(a: &str, b: &str, tolerance: f64) {
    let (x, y) = (numbers(a), numbers(b));
    assert!(x.len() == y.len() && !x.is_empty());
    for (a, b) in x.iter().flatten().zip(y.iter().flatten()) {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()) || a.is_nan() && b.is_nan(), "{a} is not {b}\n{x:?}\n{y:?}");
    }
}

/// A number of the virtual GPUs' log, by its place.
fn count(gpu: &VirtualGpu, place: &[&str]) -> u64 {
    let log: Value = serde_json::from_str(&gpu.counts()).unwrap();
    let found = place.iter().fold(&log, |v, key| &v[*key]);
    found.as_u64().unwrap_or_else(|| panic!("no {place:?} in {log}"))
}

#[test]
fn losses_are_those_of_one_device() {
    for (text, tolerance) in [(MLP, 1e-5), (IMAGES, 1e-4)] {
        let (gpu, folder) = (gpus(), spec(text));
        let one = logged(&gpu, folder.path(), "cuda:0", &[]);
        for device in ["cuda:0,1", "cuda:0-3", "cuda:*", "cuda:3,1"] {
            assert_alike(&logged(&gpu, folder.path(), device, &[]), &one, tolerance);
        }
    }
}

#[test]
fn devices_meet_once_in_a_step_and_nobody_waits_for_them() {
    let (gpu, folder) = (gpus(), spec(MLP));
    logged(&gpu, folder.path(), "cuda:0-3", &[]);
    // One graph for each device and step but the first; loss, metric and gradients are one array; a word says whether one has failed.
    assert_eq!(count(&gpu, &["graph_launches"]), 4 * 39);
    assert_eq!(count(&gpu, &["all_reduce", "count"]), 40);
    assert_eq!(count(&gpu, &["all_reduce", "arrays"]), 2 * 40);
    assert_eq!((count(&gpu, &["host_functions"]), count(&gpu, &["faults"])), (0, 0));
    // Copies of slots and constants wait, when the run begins and ends; steps do not.
    let waits = count(&gpu, &["blocked"]);
    let longer = MLP.replace("steps     40", "steps     400");
    let folder = spec(&longer);
    logged(&gpu, folder.path(), "cuda:0-3", &[]);
    assert_eq!(count(&gpu, &["all_reduce", "count"]), 400);
    assert!(count(&gpu, &["blocked"]) < waits + 40, "{} and {waits}", count(&gpu, &["blocked"]));
}

#[test]
fn every_order_of_queued_work_gives_the_same_bits() {
    let run = |order: &str| {
        let (gpu, folder) = (gpus(), spec(IMAGES));
        let output = command(&gpu, folder.path(), "cuda:0,1").env("OPTC_VGPU_ORDER", order).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        std::fs::read_to_string(folder.path().join("log/metrics.csv")).unwrap()
    };
    let lazy = run("lazy");
    assert_eq!(lazy, run("lazy"));
    assert_eq!(lazy, run("eager"));
    assert_eq!(lazy, run("random:5"));
}

#[test]
fn a_run_goes_on_with_another_number_of_devices() {
    let kept = MLP.replace("  log ", "  checkpoint \"kept\" every 20\n  log ");
    let (gpu, folder) = (gpus(), spec(&kept));
    let whole = logged(&gpu, folder.path(), "cuda:0", &[]);
    let folder = spec(&kept);
    logged(&gpu, folder.path(), "cuda:0,1", &["--set", "steps=20"]);
    let four = logged(&gpu, folder.path(), "cuda:0-3", &["--resume"]);
    assert_alike(&four, &whole, 1e-5);
    // And on the processor.
    let folder = spec(&kept);
    logged(&gpu, folder.path(), "cuda:0-3", &["--set", "steps=20"]);
    assert_alike(&logged(&gpu, folder.path(), "cpu", &["--resume"]), &whole, 1e-5);
}

#[test]
fn failures_of_a_part_are_those_of_the_whole() {
    let broken = [
        // The loss of a single example is not a number: those of the others are.
        MLP.replace("cross_entropy(n(x), y)", "mean(log(x[:, 0] - -0.99999 + 1e-9 * n(x)[:, 0]))"),
        // An index out of range, in one example of the last part.
        MLP.replace("cross_entropy(n(x), y)", "mean((n(x)[:, 0] - [1.0, 2.0, 3.0][y])^2)").replace("i % 3 }", "i % 3 + i // 63 * 7 }"),
        MLP.replace("adamw(lr = 1e-2)", "adamw(lr = 1e18)"),
    ];
    for text in broken {
        let run = |device: &str| {
            let (gpu, folder) = (gpus(), spec(&text));
            let output = command(&gpu, folder.path(), device).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", words(&output));
            // The line of progress tells how fast it was.
            String::from_utf8_lossy(&output.stderr).lines().filter(|l| !l.contains("steps/s")).collect::<Vec<_>>().join("\n")
        };
        let one = run("cuda:0");
        assert!(one.contains("error[R02"), "{one}");
        assert_eq!(run("cuda:0,1"), one);
        assert_eq!(run("cuda:0-3"), one);
    }
}

#[test]
fn what_does_not_go_is_said() {
    let folder = spec(MLP);
    let fails = |gpu: &VirtualGpu, device: &str, devices: &str| {
        let output = command(gpu, folder.path(), device).env("OPTC_VGPU_DEVICES", devices).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        words(&output)
    };
    let said = fails(&gpus(), "cuda:0-2", "4");
    assert!(said.contains("error[R0147]: a batch of 16 examples has no 3 equal parts for as many GPUs"), "{said}");
    assert!(said.contains("take `batch = 15 or 18`, or 2 GPUs"), "{said}");
    let said = fails(&gpus(), "cuda:1-4", "4");
    assert!(said.contains("error[R0138]: there is no GPU cuda:4"), "{said}");
    let said = fails(&VirtualGpu::default(), "cuda:0,1", "2");
    assert!(said.contains("error[R0138]") && said.contains("NCCL") && said.contains("libnccl.so.2 cannot be loaded"), "{said}");
    let said = fails(&gpus(), "cuda:0,0", "4");
    assert!(said.contains("error[R0137]: --device is `cuda:0,0`, which is no device") && said.contains("cuda:0-3"), "{said}");
}

#[test]
fn one_device_needs_no_library_and_a_spec_names_several() {
    // `cuda:*` on a machine with one GPU is that one.
    let (gpu, folder) = (VirtualGpu::default(), spec(MLP));
    let output = command(&gpu, folder.path(), "cuda:*").env("OPTC_VGPU_DEVICES", "1").output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    // Named in the spec; a train without data has nothing to share out, and runs on the first.
    let named = format!(
        "{}\nmodel bowl() -> f32 {{ param w: f32[3] = 1.0\n  sum(w^2) }}\ntrain u {{ model b = bowl()\n  loss b()\n  optimizer adamw(lr = 1e-1)\n  steps 3\n  device \"cuda:0,1\" }}\n",
        MLP.replace("  log ", "  device \"cuda:0-1\"\n  log ")
    );
    let (gpu, folder) = (gpus(), spec(&named));
    let output = gpu.command(OPTC).args(["run", "spec.opt"]).current_dir(folder.path()).env("OPTC_VGPU_DEVICES", "2").output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(count(&gpu, &["all_reduce", "count"]), 40);
}

#[test]
fn how_a_step_is_shared_out_is_explained() {
    let folder = spec(MLP);
    let explain = |more: &[&str]| {
        let output = Command::new(OPTC).args(["explain", "spec.opt"]).args(more).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = explain(&["--device", "cuda:0-3"]);
    assert!(said.contains("on 4 devices: 4 examples each, 6 arrays of 212 bytes added up in 1 meeting"), "{said}");
    let plan = explain(&["--device", "cuda:0,1", "--stage", "plan"]);
    assert_eq!(plan.matches("all_reduce f32").count(), 1, "{plan}");
    assert!(!explain(&["--stage", "plan"]).contains("all_reduce"));
}
