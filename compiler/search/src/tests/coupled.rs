//! Programs that combine elements: their kernels, run by their meaning, against the trace in f64.

use super::properties::mutant_of;
use super::{gradients, read, weights};
use crate::dag::Dag;
use crate::genome::Genome;
use crate::kernel::{Leaves, of};
use crate::mutate::Space;
use crate::trace::Run;
use optc_abi::{DType, Tensor};
use optc_ir::kernel_interp::run_kernel_on;
use optc_ir::kernel_verify::verify_kernel;

/// Leaves as a task lays them out, each filled up.
fn laid_out(lens: &[usize]) -> Leaves {
    let mut offsets = Vec::new();
    let mut padded = 0;
    for len in lens {
        offsets.push(padded);
        padded += len.next_multiple_of(16);
    }
    Leaves { offsets, lens: lens.to_vec(), padded }
}

/// A flat array of leaves; what they are filled up with is NaN, which no sum may see.
fn flat(leaves: &Leaves, values: &[Vec<f64>]) -> Tensor {
    let mut out = Tensor::from_f64(DType::F32, &[leaves.padded], &vec![f64::NAN; leaves.padded]);
    for (offset, leaf) in leaves.offsets.iter().zip(values) {
        leaf.iter().enumerate().for_each(|(i, x)| out.set_f64(offset + i, *x));
    }
    out
}

/// Weights after some steps, by the kernel and by the trace.
fn both(dag: &Dag, lens: &[usize], steps: usize, lr: f64) -> (Vec<f64>, Vec<f64>) {
    let leaves = laid_out(lens);
    let kernel = of(dag, &leaves, dag.states.len()).expect("as many states");
    verify_kernel(&kernel).unwrap_or_else(|why| panic!("{why}\n{dag:?}"));
    let (w, gs) = (weights(lens), gradients(steps, lens));
    let mut run = Run::new(dag, w.clone());
    let init = |x: f64| Tensor::from_f64(DType::F32, &[leaves.padded], &vec![x; leaves.padded]);
    let mut buffers = vec![flat(&leaves, &w), flat(&leaves, &gs[0]), Tensor::from_slice(&[1], &[lr]), Tensor::from_slice(&[1], &[0i32])];
    buffers.extend(dag.states.iter().map(|s| init(s.init)));
    for (step, g) in gs.iter().enumerate() {
        buffers[1] = flat(&leaves, g);
        buffers[3] = Tensor::from_slice(&[1], &[step as i32]);
        run_kernel_on(&kernel, &mut buffers, &[]).expect("it runs");
        run.step(g, lr);
    }
    let found = leaves.offsets.iter().zip(lens).flat_map(|(at, n)| (*at..at + n).map(|i| buffers[0].get_f64(i)).collect::<Vec<_>>());
    (found.collect(), run.weights.concat())
}

fn close(genome: &Genome, lens: &[usize], steps: usize, tolerance: f64) {
    let dag = genome.dag().expect("a program");
    let (found, wanted) = both(&dag, lens, steps, 0.01);
    for (i, (a, b)) in found.iter().zip(&wanted).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "element {i}: {a} where {b} is right\n{}", crate::text::write(genome));
    }
}

#[test]
fn sums_are_of_leaves_or_of_all_and_see_no_filling() {
    for program in [
        "def train(w, g, lr):\n  n = global_norm(g)\n  u = g / n\n  update = u * lr\n  return update",
        "def train(w, g, lr):\n  n = norm(g)\n  u = g / n\n  update = u * lr\n  return update",
        "def train(w, g, lr):\n  s = sum(g)\n  t = total(w)\n  u = s + t\n  u = g * u\n  update = u * lr\n  return update",
        // Three levels; a number of each leaf summed over leaves, a state that is one.
        "def train(w, g, m, lr):\n  g = clip_by_global_norm(g, 0.5)\n  m = interpolate(m, g, 0.1)\n  n = norm(m)\n  a = global_norm(n)\n  u = m / a\n  c = cosine_sim(u, w)\n  m = n * c\n  u = u * c\n  update = u * lr\n  return update, m",
        // The number of the step, comparisons, and a number that is an update.
        "def train(w, g, m, lr):\n  d = dot(w, g)\n  b = raw_lt(d, 0.1)\n  x = raw_select(b, lr, t)\n  m = g * x\n  update = m - d\n  return update, m",
    ] {
        let program = program.replace("(w, g, m, lr):\n  d", "(w, g, m, lr, t):\n  d");
        close(&read(&program), &[5, 1, 33], 4, 2e-5);
    }
}

#[test]
fn sums_of_large_leaves_go_by_units() {
    let genome =
        read("def train(w, g, lr):\n  n = norm(g)\n  m = global_norm(w)\n  u = g / n\n  u = u * m\n  update = u * lr\n  return update");
    close(&genome, &[40_000, 3, 32_768], 1, 2e-5);
}

#[test]
fn a_norm_of_norms_is_that_of_all() {
    let key = |text: &str| crate::hash::keys(&read(text).dag().expect("a program")).exact;
    let total = key("def train(w, g):\n  s = sum(g)\n  s = total(s)\n  update = g * s\n  return update");
    assert_eq!(total, key("def train(w, g):\n  s = total(g)\n  update = g * s\n  return update"));
    assert_ne!(total, key("def train(w, g):\n  s = sum(g)\n  update = g * s\n  return update"));
}

#[test]
fn passes_are_counted() {
    let passes = |text: &str| read(text).dag().expect("a program").passes();
    assert_eq!(passes("def train(w, g):\n  update = g * 2.0\n  return update"), 1);
    assert_eq!(passes("def train(w, g):\n  n = norm(g)\n  m = global_norm(w)\n  n = n * m\n  update = g * n\n  return update"), 2);
    assert_eq!(passes("def train(w, g):\n  n = norm(g)\n  n = global_norm(n)\n  update = g * n\n  return update"), 2);
    assert_eq!(passes("def train(w, g):\n  g = clip(g, 1.0)\n  n = norm(g)\n  update = g / n\n  return update"), 3);
}

/// Kernels of random programs are well formed, whatever is combined with what.
#[test]
fn every_mutant_has_a_kernel() {
    let space = Space { statements: 40, states: 3, step_count: true, ..Space::default() };
    let (mut coupled, mut compared) = (0, 0);
    for seed in 0..800 {
        let genome = mutant_of(&space, seed, 10 + seed % 40);
        let dag = genome.dag().expect("a program");
        if dag.elementwise() {
            continue;
        }
        coupled += 1;
        let (found, wanted) = both(&dag, &[4, 19], 1, 0.01);
        // Where numbers stay within what f32 holds with some digits.
        if wanted.iter().all(|x| x.is_finite() && x.abs() < 1e3) && found.iter().all(|x| x.is_finite()) {
            compared += usize::from(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= 1e-3 * (1.0 + b.abs())));
        }
    }
    assert!(coupled > 40 && compared * 10 > coupled * 6, "{compared} of {coupled}");
}
