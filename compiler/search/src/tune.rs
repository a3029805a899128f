//! The numbers of a program as a point of a space in which steps of one size mean the same everywhere: what CMA-ES moves.

use crate::cma::Cma;
use crate::genome::{Arg, Genome};
use crate::live::{Horizon, live};
use crate::rng::Stream;

/// The numbers of a program that matter.
#[derive(Clone, Debug)]
pub struct Numbers {
    genome: Genome,
    /// Statement and argument of each.
    places: Vec<(usize, usize)>,
}

/// The first step size: a tenth of the numbers change by more than half.
const SIGMA: f64 = 0.3;
/// More numbers than these are not tuned: a covariance of theirs is not learnt in the runs there are.
const MOST: usize = 24;

/// A number moved by x: multiplied by e^x, and between 1/2 and 1 so that its distance to 1 is, as for shares that averages keep.
fn moved(number: f64, x: f64) -> f64 {
    let near_one = number.abs() > 0.5 && number.abs() < 1.0;
    let size = if near_one { 1.0 - (1.0 - number.abs()) * x.exp() } else { number.abs() * x.exp() };
    size.copysign(number) * if size < 0.0 { -1.0 } else { 1.0 }
}

impl Numbers {
    /// Those that matter; `None` if it has none, or too many. 0, 1 and what is not finite stay as they are, and so does dead code.
    pub fn of(genome: &Genome) -> Option<Numbers> {
        let (genome, alive) = (genome.clone(), live(genome, Horizon::Run));
        let mut places = Vec::new();
        for (i, stmt) in genome.body.iter().enumerate().filter(|(i, _)| alive[*i]) {
            for (k, arg) in stmt.args().iter().enumerate() {
                if matches!(arg, Arg::Const(x) if *x != 0.0 && x.abs() != 1.0 && x.is_finite()) {
                    places.push((i, k));
                }
            }
        }
        (!places.is_empty() && places.len() <= MOST).then_some(Numbers { genome, places })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Their values in a program of the same statements.
    pub fn values(&self, genome: &Genome) -> Vec<f64> {
        let at = |(i, k): &(usize, usize)| match genome.body[*i].args[*k] {
            Arg::Const(x) => x,
            _ => f64::NAN,
        };
        self.places.iter().map(at).collect()
    }

    /// The program with its numbers moved.
    pub fn at(&self, x: &[f64]) -> Genome {
        let mut out = self.genome.clone();
        for ((i, k), x) in self.places.iter().zip(x) {
            if let Arg::Const(number) = &mut out.body[*i].args[*k] {
                let new = moved(*number, *x);
                if new.is_finite() {
                    *number = new;
                }
            }
        }
        out
    }

    /// Moves the numbers so that what `score` gives becomes less, generation by generation until that returns `None` (nothing may be run any more).
    pub fn tune(&self, rng: &mut Stream, mut score: impl FnMut(Genome) -> Option<f64>) {
        /// Generations after which nothing more is to be expected, should all scores be known.
        const GENERATIONS: usize = 400;
        let mut cma = Cma::new(vec![0.0; self.count()], SIGMA);
        for _ in 0..GENERATIONS {
            let mut points = Vec::with_capacity(cma.lambda());
            for _ in 0..cma.lambda() {
                let x = cma.ask(rng);
                let Some(value) = score(self.at(&x)) else { return };
                points.push((x, value));
            }
            cma.tell(&points);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{ADAM, read};
    use crate::trace::Run;

    #[test]
    fn numbers_move_and_nothing_else_does() {
        let numbers = Numbers::of(&read(ADAM)).expect("numbers");
        assert_eq!(numbers.count(), 3);
        assert_eq!(numbers.at(&[0.0; 3]), read(ADAM));
        let dead = read("def train(w, g, lr):\n  x = g * 0.3\n  u = g * 0.7\n  update = u * lr\n  return update");
        let numbers = Numbers::of(&dead).expect("a number");
        assert!(numbers.count() == 1 && numbers.at(&[0.1]).body[0] == dead.body[0] && numbers.at(&[0.1]).body[1] != dead.body[1]);
        assert!((moved(0.9, 2f64.ln()) - 0.8).abs() < 1e-12 && (moved(-0.1, 2f64.ln()) + 0.2).abs() < 1e-12);
        assert!(Numbers::of(&read("def train(w, g, lr):\n  update = g * lr\n  return update")).is_none());
    }

    #[test]
    fn momentum_is_tuned_on_an_ill_conditioned_bowl() {
        let heavy = read("def train(w, g, m, lr):\n  m = m * 0.2\n  m = m + g\n  u = m * 0.3\n  update = u * lr\n  return update, m");
        let loss = |genome: &Genome| {
            let dag = genome.dag().expect("a program");
            let mut run = Run::new(&dag, vec![vec![2.0, -1.0]]);
            for _ in 0..60 {
                let g = vec![vec![run.weights[0][0], 0.05 * run.weights[0][1]]];
                run.step(&g, 1.0);
            }
            run.weights[0][0].powi(2) + 0.05 * run.weights[0][1].powi(2)
        };
        let (first, mut best, mut runs) = (loss(&heavy), f64::INFINITY, 0);
        Numbers::of(&heavy).expect("numbers").tune(&mut Stream::new([1, 2]), |genome| {
            runs += 1;
            let value = loss(&genome);
            best = best.min(value);
            (runs < 400).then_some(value)
        });
        assert!(best < 1e-6 * first && runs == 400, "{best} and {first}");
    }
}
