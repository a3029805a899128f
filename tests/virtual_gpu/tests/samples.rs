//! What our own compiler writes is read, and does what it should.

mod common;

use common::*;
use std::time::Instant;
use virtual_cuda::api::context::{counters, cuCtxSynchronize};

/// The folder of samples, or another one.
fn folder() -> String {
    std::env::var("OPTC_VGPU_SAMPLES").unwrap_or_else(|_| format!("{}/tests/samples", env!("CARGO_MANIFEST_DIR")))
}

#[test]
fn samples_are_read() {
    let gpu = Gpu::new();
    let mut n = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "ptx") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // `explain --stage ptx` puts one text behind the other.
        for part in text.split("# train ").filter(|p| p.contains(".version")) {
            let part = part.find("//").map_or(part, |at| &part[at..]);
            if let Err((code, words)) = gpu.try_load(part) {
                panic!("{}: {code} {words}", path.display())
            }
            n += 1;
        }
    }
    assert!(n >= 4, "{n} texts");
}

/// Elements of a unit of the kernel.
const UNIT: usize = 16384;

struct Lion {
    w: Vec<f32>,
    m: Vec<f32>,
    g: Vec<f32>,
}

impl Lion {
    fn new(n: usize) -> Lion {
        let wave = |scale: f32, shift: usize| (0..n).map(|i| scale * (((i * 37 + shift) % 101) as f32 / 50.0 - 1.0)).collect();
        Lion { w: wave(2.0, 1), m: wave(0.1, 40), g: wave(0.7, 77) }
    }

    /// One step on the device; gives parameters and momenta.
    fn step(&self, gpu: &Gpu, length: usize, units: usize, blocks: u32) -> (Vec<f32>, Vec<f32>) {
        let text = std::fs::read_to_string(format!("{}/tests/samples/lion.ptx", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let kernel = gpu.kernel(gpu.load(&text), "lion_f32_step_0");
        let scalar = |x: f64| Arg::U64(gpu.upload(&[x]));
        let (w, m, g) = (gpu.upload(&self.w), gpu.upload(&self.m), gpu.upload(&self.g));
        let status = gpu.upload(&[0u64; 8]);
        let args = [
            Arg::U64(m),
            scalar(0.99),
            Arg::U64(g),
            scalar(0.9),
            Arg::U64(w),
            scalar(0.1),
            scalar(0.01),
            Arg::U64(m),
            Arg::U64(w),
            Arg::U64(length as u64),
            Arg::U64(0),
            Arg::U64(0),
            Arg::U64(units as u64),
            Arg::U64(status),
        ];
        gpu.run(kernel, blocks, 256, &args);
        (gpu.download(w, self.w.len()), gpu.download(m, self.m.len()))
    }

    fn expected(&self) -> (Vec<f32>, Vec<f32>) {
        let one = |i: usize| {
            let (w, m, g) = (self.w[i], self.m[i], self.g[i]);
            let x = m * 0.9f64 as f32 + g * (1.0 - 0.9f64) as f32;
            let u = if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            };
            (w - (u + w * 0.1f64 as f32) * 0.01f64 as f32, m * 0.99f64 as f32 + g * (1.0 - 0.99f64) as f32)
        };
        (0..self.w.len()).map(one).unzip()
    }
}

#[test]
fn a_step_of_lion_is_its_formula_to_the_bit() {
    for options in [
        Options::default(),
        Options { order: Order::Random(5), apart: true, ..Options::default() },
        Options { hosts: 3, ..Options::default() },
    ] {
        let gpu = Gpu::with(options);
        for (length, units, blocks) in [(1003, 1, 1), (UNIT, 2, 1), (UNIT, 2, 7)] {
            let lion = Lion::new(length * units);
            assert!(lion.step(&gpu, length, units, blocks) == lion.expected());
        }
    }
}

/// Instructions of threads in a second on one thread of the host: `cargo nextest run -p optc-virtual-gpu --run-ignored all -E 'test(speed)' --no-capture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let gpu = Gpu::with(Options { hosts: 1, ..Options::default() });
    let lion = Lion::new(UNIT * 64);
    for _ in 0..3 {
        let before = steps();
        let start = Instant::now();
        lion.step(&gpu, UNIT, 64, 64);
        assert_eq!(cuCtxSynchronize(), 0);
        let (time, n) = (start.elapsed().as_secs_f64(), (steps() - before) as f64);
        println!("{:.0} million instructions of warps, {:.0} of threads in a second", n / time / 1e6, 32.0 * n / time / 1e6);
    }
}

/// Small launches in a second, in a stream and in a graph; as above.
#[test]
#[ignore = "a measurement"]
fn small_launches() {
    use virtual_cuda::api::{graph::*, stream::*};
    let gpu = Gpu::with(Options { hosts: 2, ..Options::default() });
    let text = text(
        "mul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd0, %rd2;\nadd.s64 %rd4, %rd1, %rd2;\nld.global.u32 %r1, [%rd3];\nst.global.u32 [%rd4], %r1;",
    );
    let (kernel, a) = (gpu.kernel(gpu.load(&text), "k"), gpu.alloc(4096));
    let s = gpu.stream();
    let n = 5000;
    let start = Instant::now();
    (0..n).for_each(|_| assert_eq!(gpu.launch(kernel, 4, 256, 0, s, &[Arg::U64(a), Arg::U64(a)]), 0));
    assert_eq!(cuStreamSynchronize(s), 0);
    println!("{:.0} launches in a second", f64::from(n) / start.elapsed().as_secs_f64());
    assert_eq!(cuStreamBeginCapture_v2(s, 1), 0);
    (0..100).for_each(|_| assert_eq!(gpu.launch(kernel, 4, 256, 0, s, &[Arg::U64(a), Arg::U64(a)]), 0));
    let (mut graph, mut exec) = (NULL, NULL);
    unsafe { assert_eq!((cuStreamEndCapture(s, &mut graph), cuGraphInstantiateWithFlags(&mut exec, graph, 0)), (0, 0)) };
    let start = Instant::now();
    (0..n / 100).for_each(|_| assert_eq!(cuGraphLaunch(exec, s), 0));
    assert_eq!(cuStreamSynchronize(s), 0);
    println!("{:.0} launches of graphs in a second", f64::from(n) / start.elapsed().as_secs_f64());
}

fn steps() -> u64 {
    let log = counters();
    let (_, rest) = log.split_once("\"warp_instructions\": ").unwrap();
    rest.split(',').next().unwrap().parse().unwrap()
}
