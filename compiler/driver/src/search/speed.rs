//! What a step of a program takes, measured: nanoseconds a parameter, arrays in the cache.

use optc_abi::plan::{KernelFn, Status};
use optc_abi::{DType, Tensor};
use optc_cranelift::KernelCompiler;
use optc_search::dag::Dag;
use optc_search::kernel::{self, Leaves, buffer};
use std::time::Instant;

/// Parameters of the leaf on which steps are measured: weights, gradient and two states lie in the second cache.
const LEN: usize = 4096;
/// Steps, of which the fastest counts.
const STEPS: usize = 12;

/// Measures programs.
#[derive(Default)]
pub struct Stopwatch {
    compiler: KernelCompiler,
    arrays: Vec<Tensor>,
}

impl Stopwatch {
    /// Nanoseconds a parameter and step; nothing if the machine is not supported.
    pub fn measure(&mut self, dag: &Dag) -> Option<f64> {
        let states = dag.states.len();
        let leaves = Leaves::one(LEN);
        let code = self.compiler.compile(&kernel::of(dag, &leaves, states)?).ok()?;
        while self.arrays.len() < 2 + states {
            self.arrays.push(Tensor::zeros(DType::F32, &[LEN]));
        }
        for (k, array) in self.arrays.iter_mut().enumerate() {
            let first = k.checked_sub(2).and_then(|s| dag.states.get(s)).map(|s| s.init as f32);
            for (i, x) in array.as_mut_slice::<f32>().iter_mut().enumerate() {
                *x = first.unwrap_or_else(|| ((i * (k + 1)) as f32 * 0.37).sin());
            }
        }
        let (mut rate, mut step) = (1e-3f64, 0i32);
        let mut pointers: Vec<*mut u8> = vec![std::ptr::null_mut(); buffer::STATES + states];
        for (k, array) in self.arrays[..2 + states].iter().enumerate() {
            let at = match k {
                0 => buffer::WEIGHT,
                1 => buffer::GRADIENT,
                k => buffer::STATES + k - 2,
            };
            pointers[at] = array.as_ptr().cast();
        }
        pointers[buffer::RATE] = std::ptr::from_mut(&mut rate).cast();
        let mut best = f64::INFINITY;
        for _ in 0..STEPS {
            pointers[buffer::STEP] = std::ptr::from_mut(&mut step).cast();
            let begin = Instant::now();
            run(code.function, &pointers);
            best = best.min(begin.elapsed().as_secs_f64());
            step += 1;
        }
        Some(1e9 * best / LEN as f64)
    }
}

/// One step.
fn run(function: KernelFn, pointers: &[*mut u8]) {
    let mut status = Status::default();
    // SAFETY: the buffers are those that the kernel was made for, in its order, with as many elements.
    unsafe { function(pointers.as_ptr(), std::ptr::null(), 0, 1, &raw mut status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_search::text;

    #[test]
    fn a_longer_program_takes_longer() {
        let dag = |body: &str| {
            let program = format!("def train(w, g, m, v, lr):\n{body}\n  return update, m, v");
            text::read(Default::default(), &program).unwrap_or_else(|d| panic!("{}", d.message)).genome.dag().expect("a program")
        };
        let short = dag("  update = g * lr");
        let long = dag(
            "  a = exp(g)\n  b = log(a)\n  c = sin(b)\n  d = tanh(c)\n  m = interpolate(d, m, 0.9)\n  e = exp(m)\n  v = interpolate(e, v, 0.9)\n  f = sqrt(v)\n  update = f * lr",
        );
        let mut watch = Stopwatch::default();
        let (a, b) = (watch.measure(&short).expect("measured"), watch.measure(&long).expect("measured"));
        assert!(a > 0.0 && a < 1000.0 && b > a, "{a} {b}");
        // Steps were made: w - 12 lr g.
        watch.measure(&short).expect("measured");
        let (w, g) = (watch.arrays[0].as_slice::<f32>()[5], watch.arrays[1].as_slice::<f32>()[5]);
        assert!((w - ((5f32 * 0.37).sin() - STEPS as f32 * 1e-3 * g)).abs() < 1e-5, "{w} {g}");
    }
}
