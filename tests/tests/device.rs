//! Programs on a GPU, which is a virtual one: the driver's interface over an interpreter of the text that goes to a GPU, with streams that are as late as they may be.
#![cfg(all(feature = "llvm", target_os = "linux"))]

use optc_tests::copy_of_cases;
use optc_tests::virtual_gpu::{VirtualGpu, words};
use serde_json::Value;

const OPTC: &str = env!("CARGO_BIN_EXE_optc-under-test");

/// Cases that do not run on a GPU, each with the words in which it is refused.
const REFUSED: &str = include_str!("../cases/not_on_gpu.txt");

mod cases {
    use super::*;

    fn run(name: &'static str) {
        let (gpu, cases) = (VirtualGpu::default(), copy_of_cases());
        let file = cases.path().join(format!("{name}.opt"));
        let output = gpu.command(OPTC).args(["--color", "never", "--device", "cuda", "test", "--quiet"]).arg(file).output().unwrap();
        let said = words(&output);
        let mut refused = REFUSED.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(": "));
        match refused.find(|(refused, _)| *refused == name) {
            Some((_, why)) => assert!(!output.status.success() && said.contains(why), "{said}"),
            None => assert!(output.status.success(), "{said}"),
        }
    }
    optc_tests::every_case!(run);
}

/// A number of the virtual GPU's log, by its place.
fn count(log: &Value, place: &[&str]) -> u64 {
    let found = place.iter().fold(log, |v, key| &v[*key]);
    found.as_u64().unwrap_or_else(|| panic!("no {place:?} in {log}"))
}

const SPEC: &str = r#"
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
  optimizer adamw(lr = 1e-2)
  steps     60
  seed      3
}
"#;

fn spec(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("spec.opt"), text).unwrap();
    folder
}

/// The last loss in what `optc run` prints.
fn table(output: &std::process::Output) -> Vec<String> {
    assert!(output.status.success(), "{}", words(output));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect()
}

#[test]
fn without_a_driver_a_device_is_an_error_and_nothing_else_is() {
    let folder = spec(SPEC);
    let run = |device: &[&str]| {
        let mut command = std::process::Command::new(OPTC);
        command.env_remove("LD_LIBRARY_PATH").args(["--color", "never", "run", "spec.opt"]).args(device).current_dir(folder.path());
        command.output().unwrap()
    };
    assert!(run(&[]).status.success());
    // A machine with a GPU has nothing to be tested here.
    let output = run(&["--device", "cuda:77"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("error[R0138]"), "{}", words(&output));
    assert!(words(&run(&["--device", "gpu"])).contains("error[R0137]: --device is `gpu`"));
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let (gpu, folder) = (VirtualGpu::default(), spec(&SPEC.replace("steps     60", "steps     60\n  device \"cuda:2\"")));
    let output = gpu.command(OPTC).args(["run", "spec.opt"]).current_dir(folder.path()).env("OPTC_VGPU_DEVICES", "2").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert!(said.contains("there is no GPU cuda:2") && said.contains("there are 2 GPUs, cuda:0 to cuda:1"), "{said}");
}

#[test]
fn a_gpu_without_room_says_so() {
    let (gpu, folder) = (VirtualGpu::default(), spec(SPEC));
    let output = gpu
        .command(OPTC)
        .args(["run", "spec.opt", "--device", "cuda"])
        .current_dir(folder.path())
        .env("OPTC_VGPU_MEMORY", "2000")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert!(said.contains("OUT_OF_MEMORY") && said.contains("smaller batch"), "{said}");
}

/// Memory that runs short in a step, where its arrays are first bound, is told with the same help as before any step.
#[test]
fn a_gpu_without_room_for_a_step_says_so() {
    let folder = spec(SPEC);
    let run = |memory: u64| {
        let gpu = VirtualGpu::default();
        let mut command = gpu.command(OPTC);
        command.args(["--color", "never", "run", "spec.opt", "--device", "cuda", "--quiet"]).current_dir(folder.path());
        words(&command.env("OPTC_VGPU_MEMORY", memory.to_string()).output().unwrap())
    };
    let mut in_a_step = 0;
    for memory in (2000..400_000).step_by(1500) {
        let said = run(memory);
        if !said.contains("error") {
            break;
        }
        assert!(said.contains("error[R0139]") && said.contains("OUT_OF_MEMORY") && said.contains("= help: a smaller batch"), "{said}");
        in_a_step += usize::from(said.contains("step 1"));
    }
    assert!(in_a_step > 0);
}

/// A GPU that no code is for, by its name.
#[test]
fn a_gpu_that_is_too_old_is_named() {
    let (gpu, folder) = (VirtualGpu::default(), spec(SPEC));
    let mut command = gpu.command(OPTC);
    let output =
        command.args(["run", "spec.opt", "--device", "cuda"]).current_dir(folder.path()).env("OPTC_VGPU_SM", "61").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert!(
        said.contains("error[R0138]") && said.contains("compute capability 6.1, and code needs 7.0") && !said.contains("bug"),
        "{said}"
    );
    assert!(said.contains("the GPU cuda:0, `"), "{said}");
}

/// A driver from before a function that is used came.
#[test]
fn a_driver_that_lacks_functions_is_too_old() {
    let (folder, source) = (spec(SPEC), "int cuInit(unsigned f) { return 0; }\nint cuDeviceGetCount(int *n) { *n = 1; return 0; }\n");
    std::fs::write(folder.path().join("driver.c"), source).unwrap();
    let library = folder.path().join("libcuda.so");
    let made = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(folder.path().join("driver.c")).status();
    if !made.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no cc");
        return;
    }
    std::fs::copy(&library, folder.path().join("libcuda.so.1")).unwrap();
    let mut command = std::process::Command::new(OPTC);
    command.args(["--color", "never", "run", "spec.opt", "--device", "cuda"]).env("LD_LIBRARY_PATH", folder.path());
    let output = command.current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert!(said.contains("error[R0138]: the NVIDIA driver is too old: it lacks `cuDeviceGet` and"), "{said}");
    assert!(said.contains("= help: update it") && !said.contains("bug"), "{said}");
}

const WIDE_HEADS: &str = r#"
import std.nn.attend
import std.optim.sgd
model heads() -> f32 {
  param q: f32[100, 33, 1, 128] ~ random.normal()
  param k: f32[100, 33, 1, 128] ~ random.normal()
  param v: f32[100, 33, 1, 128] ~ random.normal()
  mean(attend(q, k, v, causal = true)^2)
}
train t {
  model     n = heads()
  loss      n()
  optimizer sgd(lr = 1e-3)
  steps     1
}
"#;

/// Blocks ask for no more shared memory than the GPU at hand has, though the largest tiles would like more.
#[test]
fn wide_heads_fit_gpus_with_little_shared_memory() {
    let folder = spec(WIDE_HEADS);
    for capability in ["86", "120"] {
        let gpu = VirtualGpu::default();
        let mut command = gpu.command(OPTC);
        command.args(["run", "spec.opt", "--device", "cuda", "--quiet"]).current_dir(folder.path());
        let output = command.env("OPTC_VGPU_SM", capability).output().unwrap();
        assert!(output.status.success(), "{capability}: {}", words(&output));
        let log: Value = serde_json::from_str(&gpu.counts()).unwrap();
        assert_eq!(count(&log, &["launches", "call_1_keys"]), 1, "{log}");
    }
}

/// The code of a plan is kept on disk: the second process makes none.
#[test]
fn code_for_a_gpu_is_kept() {
    let folder = spec(SPEC);
    let cache = folder.path().join("cache");
    let files = || -> std::collections::BTreeMap<_, _> {
        let entries = std::fs::read_dir(&cache).expect("the folder").flatten();
        entries.map(|e| (e.path(), e.metadata().and_then(|m| m.modified()).expect("a file"))).collect()
    };
    let run = || {
        let gpu = VirtualGpu::default();
        let mut command = gpu.command(OPTC);
        let output =
            command.args(["run", "spec.opt", "--device", "cuda"]).current_dir(folder.path()).env("OPTC_CACHE", &cache).output().unwrap();
        // Seconds differ.
        table(&output)[3].split('┆').take(3).map(str::to_string).collect::<Vec<_>>()
    };
    let first = run();
    let kept = files();
    assert!(!kept.is_empty());
    assert_eq!(run(), first);
    // Nothing was written again.
    assert_eq!(files(), kept);
}

/// A profile has the rows of the processor's: each instruction of the plan ran in every step, and what is left are gaps.
#[test]
fn a_profile_on_a_gpu_names_its_instructions() {
    let folder = spec(&SPEC.replace("linear(x, 8)", "linear(x, 64)"));
    let bench = |more: &[&str]| {
        let gpu = VirtualGpu::default();
        let mut command = gpu.command(OPTC);
        command.args(["bench", "spec.opt", "--seconds", "0.05", "--profile"]).args(more).current_dir(folder.path());
        command.env("OPTC_VGPU_DEVICES", "2").output().unwrap()
    };
    for order in ["lazy", "eager"] {
        let gpu = VirtualGpu::default();
        let mut command = gpu.command(OPTC);
        command.args(["bench", "spec.opt", "--seconds", "0.05", "--profile", "--json", "--device", "cuda"]).current_dir(folder.path());
        let output = command.env("OPTC_VGPU_ORDER", order).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let train = &found["trains"][0];
        let profile = &train["profile"];
        let rows = profile["rows"].as_array().expect("rows");
        assert!(rows.iter().all(|r| r["ms_per_step"].as_f64() > Some(0.0)), "{profile}");
        let instructions: f64 = rows.iter().map(|r| r["runs_per_step"].as_f64().unwrap()).sum();
        assert_eq!(instructions, train["instructions"].as_f64().unwrap(), "{profile}");
        assert!(rows.iter().any(|r| r["flop_per_step"].as_f64() > Some(0.0)), "products are told: {profile}");
        assert!(rows.iter().any(|r| r["where"].as_str().is_some_and(|w| w.contains("spec.opt:"))), "{profile}");
        let (inside, share) = (profile["inside_ms_per_step"].as_f64().unwrap(), profile["outside_share"].as_f64().unwrap());
        assert!(inside > 0.0 && (0.0..1.0).contains(&share) && profile["outside"] == "between launches", "{profile}");
    }
    let text = words(&bench(&["--device", "cuda"]));
    assert!(text.contains("between launches") && text.contains("kernel 0"), "{text}");
    let several = words(&bench(&["--device", "cuda:0,1"]));
    assert!(
        several.contains("error[R0137]: `--profile` times the instructions of one GPU") || several.contains("error[R0138]"),
        "{several}"
    );
}

/// Models in f16 have products of f16, by the units for matrices, on a GPU alone.
#[test]
fn products_of_f16_are_the_gpus() {
    let folder = spec(&SPEC.replace("  steps     60", "  precision f16\n  steps     5").replace("linear(x, 8)", "linear(x, 64)"));
    let shown = |more: &[&str]| {
        let output = std::process::Command::new(OPTC).args(["explain", "spec.opt"]).args(more).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(shown(&["--stage", "plan", "--gpu", "sm_90"]).contains("gemm f16 "));
    assert!(!shown(&["--stage", "plan"]).contains("gemm f16 "));
    assert!(shown(&["--stage", "ptx", "--gpu", "sm_90"]).contains("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"));
    let losses = |gpu: Option<VirtualGpu>| {
        let mut command = match &gpu {
            Some(gpu) => gpu.command(OPTC),
            None => std::process::Command::new(OPTC),
        };
        command.args(["run", "spec.opt", "--set", "log=\"log\""]).args(gpu.is_some().then_some("--device=cuda")).current_dir(folder.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        let log = std::fs::read_to_string(folder.path().join("log/metrics.csv"))
            .or_else(|_| std::fs::read_to_string(folder.path().join("log.csv")));
        let log = log.unwrap();
        let at = log.lines().next().expect("a head").split(',').position(|c| c == "loss").expect("losses");
        log.lines().skip(1).map(|l| l.split(',').nth(at).expect("a loss").parse().expect("a number")).collect::<Vec<f64>>()
    };
    let (here, there) = (losses(None), losses(Some(VirtualGpu::default())));
    assert_eq!(there, losses(Some(VirtualGpu::default())));
    assert!(here.len() == 5 && here.iter().zip(&there).all(|(a, b)| (a - b).abs() < 2e-3 * a.abs()), "{here:?} and {there:?}");
    let by_library = losses(Some(VirtualGpu::default().with_products()));
    assert!(here.iter().zip(&by_library).all(|(a, b)| (a - b).abs() < 2e-3 * a.abs()), "{here:?} and {by_library:?}");
}

#[test]
fn steps_are_one_graph_each_and_wait_for_nothing() {
    let (gpu, folder) = (VirtualGpu::default(), spec(SPEC));
    let output = gpu.command(OPTC).args(["run", "spec.opt", "--device", "cuda"]).current_dir(folder.path()).output().unwrap();
    let there = table(&output);
    let log: Value = serde_json::from_str(&gpu.counts()).unwrap();
    // The first step is not recorded; the others are replayed.
    assert_eq!(count(&log, &["graph_launches"]), 59, "{log}");
    // Sixteen steps are in flight, and the one that is waited for is the oldest.
    assert!(count(&log, &["host_functions"]) == 0 && count(&log, &["faults"]) == 0, "{log}");
    let here = std::process::Command::new(OPTC).args(["run", "spec.opt"]).current_dir(folder.path()).output().unwrap();
    // Seconds differ; steps and losses do not.
    let cells = |lines: &[String]| -> Vec<String> { lines[3].split('┆').take(3).map(str::to_string).collect() };
    assert_eq!(cells(&there), cells(&table(&here)));
}

/// A step of AdamW is a scalar kernel, one for all leaves and the one that begins a step, however many leaves there are.
#[test]
fn all_leaves_are_one_launch() {
    let (gpu, folder) = (VirtualGpu::default(), spec("import std.optim.{adamw, lion}\n"));
    for optimizer in ["adamw", "lion"] {
        let output = gpu
            .command(OPTC)
            .args([
                "bench",
                "spec.opt",
                "--optimizer",
                optimizer,
                "--size",
                "600",
                "--tensors",
                "60",
                "--seconds",
                "0.02",
                "--device",
                "cuda",
            ])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", words(&output));
        let log: Value = serde_json::from_str(&gpu.counts()).unwrap();
        let steps = count(&log, &["graph_launches"]);
        assert!(steps > 0 && count(&log, &["graph_nodes"]) == 3 * steps, "{log}");
        let many: Vec<u64> = log["graph_kernels"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(n, _)| n.ends_with("_many"))
            .filter_map(|(_, n)| n.as_u64())
            .collect();
        assert_eq!(many, [steps], "{log}");
    }
}

#[test]
fn every_order_of_queued_work_gives_the_same() {
    let folder = spec(SPEC);
    let run = |order: &str| {
        let gpu = VirtualGpu::default();
        let mut command = gpu.command(OPTC);
        command
            .args(["run", "spec.opt", "--device", "cuda", "--set", "log=\"log\""])
            .current_dir(folder.path())
            .env("OPTC_VGPU_ORDER", order);
        assert!(command.output().unwrap().status.success());
        std::fs::read_to_string(folder.path().join("log/metrics.csv"))
            .or_else(|_| std::fs::read_to_string(folder.path().join("log.csv")))
            .unwrap()
    };
    let lazy = run("lazy");
    assert!(lazy.lines().count() > 60);
    assert_eq!(lazy, run("eager"));
    assert_eq!(lazy, run("random:5"));
}

#[test]
fn failures_are_those_of_the_processor() {
    let broken = [
        SPEC.replace("adamw(lr = 1e-2)", "adamw(lr = 1e18)"),
        // The loss overflows after some steps; more are queued by then.
        SPEC.replace("cross_entropy(n(x), y)", "0.0 - mean(exp(n(x)))").replace("lr = 1e-2", "lr = 3.0"),
        SPEC.replace("cross_entropy(n(x), y)", "mean((n(x)[:, 0] - [1.0, 2.0, 3.0][y])^2)").replace("i % 3 }", "i % 4 }"),
    ];
    for text in broken {
        let folder = spec(&text);
        let run = |command: &mut std::process::Command| {
            let output = command.args(["--color", "never", "run", "spec.opt"]).current_dir(folder.path()).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", words(&output));
            // The line of progress tells how fast it was.
            String::from_utf8_lossy(&output.stderr).lines().filter(|l| !l.contains("steps/s")).collect::<Vec<_>>().join("\n")
        };
        let gpu = VirtualGpu::default();
        let there = run(gpu.command(OPTC).args(["--device", "cuda"]));
        assert_eq!(there, run(&mut std::process::Command::new(OPTC)));
        assert!(there.contains("error[R02"), "{there}");
    }
}

#[test]
fn products_of_the_library_are_those_of_the_plan() {
    let products = |gpu: &VirtualGpu| {
        let cases = copy_of_cases();
        let mut by_library = 0;
        for name in ["linear_algebra", "symmetric_products", "narrow_weights"] {
            let file = cases.path().join(format!("{name}.opt"));
            let output = gpu.command(OPTC).args(["--color", "never", "--device", "cuda", "test", "--quiet"]).arg(file).output().unwrap();
            assert!(output.status.success(), "{}", words(&output));
            let log: Value = serde_json::from_str(&gpu.counts()).unwrap();
            by_library += log["launches"]["cublasLtMatmul"].as_u64().unwrap_or(0);
        }
        by_library
    };
    assert!(products(&VirtualGpu::default().with_products()) > 20);
    assert_eq!(products(&VirtualGpu::default()), 0);
}

const TRANSFORMER: &str = r#"
import std.nn.{transformer_block, projection, layer_norm}
import std.loss.cross_entropy
import std.optim.adamw
data passages {
  let examples = generate(4) { i -> { x = random.integer([40], 0, 11), y = random.integer([40], 0, 11) } }
  x = examples.x
  y = examples.y
}
model characters(ids: i32[B, T]) -> f32[B, T, 11] {
  param tok: f32[11, 16] ~ random.normal() * 0.3
  var h = tok[ids]
  for i in 0..2 { h <- transformer_block(h, 2) }
  projection(layer_norm(h), 11, bias = false)
}
train t {
  data      passages, batch = 4
  model     n = characters()
  loss      cross_entropy(n(x), y)
  optimizer adamw(lr = 1e-2)
  steps     2
  seed      3
}
"#;

/// A step of two layers has two launches of attention and four of its derivatives, and no array of queries x keys.
#[test]
fn attention_is_one_launch_and_its_derivatives_are_two() {
    let (gpu, folder) = (VirtualGpu::default(), spec(TRANSFORMER));
    let output = gpu.command(OPTC).args(["run", "spec.opt", "--device", "cuda"]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    let log: Value = serde_json::from_str(&gpu.counts()).unwrap();
    for call in ["call_0", "call_1_queries", "call_1_keys"] {
        assert_eq!(count(&log, &["launches", call]), 2, "{log}");
    }
    let plan = |more: &[&str]| {
        let output =
            gpu.command(OPTC).args(["explain", "spec.opt", "--stage", "plan"]).args(more).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (there, here) = (plan(&["--gpu", "sm_90"]), plan(&[]));
    let lines = |text: &str, start: &str| text.lines().filter(|l| l.trim_start().starts_with(start)).count();
    assert_eq!((lines(&there, "attention f32 40x40x8x8 "), lines(&there, "attention_grad f32 40x40x8x8 ")), (2, 2), "{there}");
    assert_eq!(lines(&here, "attention"), 0, "{here}");
    let arena =
        |text: &str| text.lines().find_map(|l| l.strip_prefix("arena: ")?.strip_suffix(" bytes")?.parse::<usize>().ok()).expect("an arena");
    // Probabilities of one layer at least, of four examples and two heads.
    assert!(arena(&there) + 4 * 2 * 40 * 40 * 4 <= arena(&here), "{} and {}", arena(&there), arena(&here));
}
