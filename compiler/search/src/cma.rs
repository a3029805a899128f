//! CMA-ES: minimization of a function of some numbers by sampling from a normal distribution whose mean, step size and covariance follow what was best (Hansen, "The CMA Evolution Strategy: A Tutorial",
//! arXiv 1604.00772, appendix A, with its default parameters and positive weights).

use crate::rng::Stream;

/// The state of a minimization.
#[derive(Clone, Debug)]
pub struct Cma {
    n: usize,
    weights: Vec<f64>,
    mu_eff: f64,
    c_sigma: f64,
    d_sigma: f64,
    c_c: f64,
    c_1: f64,
    c_mu: f64,
    /// The expected length of a standard normal vector.
    chi: f64,
    mean: Vec<f64>,
    sigma: f64,
    covariance: Vec<Vec<f64>>,
    path_c: Vec<f64>,
    path_sigma: Vec<f64>,
    /// Columns: directions; see `scales`.
    basis: Vec<Vec<f64>>,
    /// Roots of the eigenvalues.
    scales: Vec<f64>,
    generation: u64,
}

impl Cma {
    /// A minimization from a point, with a step size for all coordinates.
    pub fn new(mean: Vec<f64>, sigma: f64) -> Cma {
        let n = mean.len();
        let size = n as f64;
        let lambda = 4 + (3.0 * size.ln().max(0.0)).floor() as usize;
        let mu = lambda / 2;
        let raw: Vec<f64> = (1..=mu).map(|i| ((lambda as f64 + 1.0) / 2.0).ln() - (i as f64).ln()).collect();
        let sum: f64 = raw.iter().sum();
        let weights: Vec<f64> = raw.iter().map(|w| w / sum).collect();
        let mu_eff = 1.0 / weights.iter().map(|w| w * w).sum::<f64>();
        let c_sigma = (mu_eff + 2.0) / (size + mu_eff + 5.0);
        let d_sigma = 1.0 + 2.0 * (((mu_eff - 1.0) / (size + 1.0)).sqrt() - 1.0).max(0.0) + c_sigma;
        let c_c = (4.0 + mu_eff / size) / (size + 4.0 + 2.0 * mu_eff / size);
        let c_1 = 2.0 / ((size + 1.3).powi(2) + mu_eff);
        let c_mu = (1.0 - c_1).min(2.0 * (0.25 + mu_eff + 1.0 / mu_eff - 2.0) / ((size + 2.0).powi(2) + mu_eff));
        let chi = size.sqrt() * (1.0 - 1.0 / (4.0 * size) + 1.0 / (21.0 * size * size));
        let unit = |i: usize| (0..n).map(|j| f64::from(u8::from(i == j))).collect::<Vec<f64>>();
        Cma {
            n,
            weights,
            mu_eff,
            c_sigma,
            d_sigma,
            c_c,
            c_1,
            c_mu,
            chi,
            mean,
            sigma,
            covariance: (0..n).map(unit).collect(),
            path_c: vec![0.0; n],
            path_sigma: vec![0.0; n],
            basis: (0..n).map(unit).collect(),
            scales: vec![1.0; n],
            generation: 0,
        }
    }

    /// Points of a generation.
    pub fn lambda(&self) -> usize {
        4 + (3.0 * (self.n as f64).ln().max(0.0)).floor() as usize
    }

    /// A point of the next generation.
    pub fn ask(&self, rng: &mut Stream) -> Vec<f64> {
        let z: Vec<f64> = self.scales.iter().map(|s| s * rng.normal()).collect();
        (0..self.n).map(|i| self.mean[i] + self.sigma * (0..self.n).map(|j| self.basis[i][j] * z[j]).sum::<f64>()).collect()
    }

    /// Takes in a generation: its points with what the function is there, lower is better. What is no number counts as the worst.
    pub fn tell(&mut self, points: &[(Vec<f64>, f64)]) {
        let mut order: Vec<usize> = (0..points.len()).collect();
        let value = |k: usize| if points[k].1.is_nan() { f64::INFINITY } else { points[k].1 };
        order.sort_by(|a, b| value(*a).total_cmp(&value(*b)).then(a.cmp(b)));
        let n = self.n;
        let best: Vec<&Vec<f64>> = order.iter().take(self.weights.len()).map(|k| &points[*k].0).collect();
        let old = self.mean.clone();
        let steps: Vec<Vec<f64>> = best.iter().map(|x| (0..n).map(|i| (x[i] - old[i]) / self.sigma).collect()).collect();
        let step: Vec<f64> = (0..n).map(|i| self.weights.iter().zip(&steps).map(|(w, y)| w * y[i]).sum()).collect();
        self.mean = (0..n).map(|i| old[i] + self.sigma * step[i]).collect();
        // The step in the coordinates in which the covariance is the identity.
        let along: Vec<f64> = (0..n).map(|j| (0..n).map(|i| self.basis[i][j] * step[i]).sum::<f64>() / self.scales[j]).collect();
        let white: Vec<f64> = (0..n).map(|i| (0..n).map(|j| self.basis[i][j] * along[j]).sum()).collect();
        let gain = (self.c_sigma * (2.0 - self.c_sigma) * self.mu_eff).sqrt();
        for i in 0..n {
            self.path_sigma[i] = (1.0 - self.c_sigma) * self.path_sigma[i] + gain * white[i];
        }
        self.generation += 1;
        let length = self.path_sigma.iter().map(|x| x * x).sum::<f64>().sqrt();
        let settled = 1.0 - (1.0 - self.c_sigma).powi(i32::try_from(2 * self.generation).unwrap_or(i32::MAX));
        let short = length / settled.sqrt() < (1.4 + 2.0 / (n as f64 + 1.0)) * self.chi;
        let (h, gain) = (f64::from(u8::from(short)), (self.c_c * (2.0 - self.c_c) * self.mu_eff).sqrt());
        for i in 0..n {
            self.path_c[i] = (1.0 - self.c_c) * self.path_c[i] + h * gain * step[i];
        }
        let lost = (1.0 - h) * self.c_c * (2.0 - self.c_c);
        for i in 0..n {
            for j in 0..n {
                let rank_mu: f64 = self.weights.iter().zip(&steps).map(|(w, y)| w * y[i] * y[j]).sum();
                let kept = (1.0 + self.c_1 * lost - self.c_1 - self.c_mu) * self.covariance[i][j];
                self.covariance[i][j] = kept + self.c_1 * self.path_c[i] * self.path_c[j] + self.c_mu * rank_mu;
            }
        }
        // A function that is flat everywhere would let the step grow without end.
        self.sigma = (self.sigma * (self.c_sigma / self.d_sigma * (length / self.chi - 1.0)).exp()).clamp(1e-12, 1e3);
        let (values, basis) = eigen(&self.covariance);
        let largest = values.iter().fold(0.0f64, |a, x| a.max(*x));
        self.scales = values.iter().map(|x| x.max(1e-14 * largest).max(1e-300).sqrt()).collect();
        self.basis = basis;
    }
}

/// Eigenvalues of a symmetric matrix, and its eigenvectors as columns (cyclic Jacobi rotations, Golub and Van Loan, section 8.5).
pub fn eigen(matrix: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<f64>>) {
    const SWEEPS: usize = 50;
    let n = matrix.len();
    let mut a = matrix.to_vec();
    let mut v: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..SWEEPS {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        let diagonal: f64 = (0..n).map(|i| a[i][i] * a[i][i]).sum();
        if off <= 1e-30 * diagonal {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in a.iter_mut() {
                    let (x, y) = (row[p], row[q]);
                    (row[p], row[q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p][k], a[q][k]);
                    (a[p][k], a[q][k]) = (c * x - s * y, s * x + c * y);
                }
                for row in &mut v {
                    let (x, y) = (row[p], row[q]);
                    (row[p], row[q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    ((0..n).map(|i| a[i][i]).collect(), v)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimized(n: usize, sigma: f64, evaluations: usize, f: impl Fn(&[f64]) -> f64) -> f64 {
        let mut cma = Cma::new(vec![0.1; n], sigma);
        let mut rng = Stream::new([7, 9]);
        let mut best = f64::INFINITY;
        for _ in 0..evaluations / cma.lambda() {
            let points: Vec<(Vec<f64>, f64)> = (0..cma.lambda())
                .map(|_| {
                    let x = cma.ask(&mut rng);
                    let y = f(&x);
                    (x, y)
                })
                .collect();
            best = points.iter().map(|p| p.1).fold(best, f64::min);
            cma.tell(&points);
        }
        best
    }

    #[test]
    fn known_functions_are_minimized_in_the_evaluations_the_tutorial_leads_to_expect() {
        let sphere = |x: &[f64]| x.iter().map(|x| (x - 1.0).powi(2)).sum::<f64>();
        assert!(minimized(5, 0.5, 1500, sphere) < 1e-10);
        // Condition 1e6, rotated.
        let ellipsoid = |x: &[f64]| {
            let y: Vec<f64> = (0..x.len()).map(|i| (0..x.len()).map(|j| ((i * j + i) as f64).sin() * (x[j] - 0.7)).sum()).collect();
            y.iter().enumerate().map(|(i, y)| 1e6f64.powf(i as f64 / 4.0) * y * y).sum::<f64>()
        };
        assert!(minimized(5, 0.5, 6000, ellipsoid) < 1e-8);
        let rosenbrock = |x: &[f64]| x.windows(2).map(|w| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2)).sum::<f64>();
        assert!(minimized(5, 0.3, 8000, rosenbrock) < 1e-8);
        assert!(minimized(1, 0.5, 400, |x| (x[0] + 3.0).abs()) < 1e-3);
        // What fails in half of the space is left there.
        let fenced = |x: &[f64]| if x[0] < 0.0 { f64::NAN } else { (x[0] - 0.2).powi(2) + x[1] * x[1] };
        assert!(minimized(2, 0.5, 1000, fenced) < 1e-8);
    }

    #[test]
    fn eigenvectors_make_a_matrix_diagonal() {
        let a = vec![vec![4.0, 1.0, -2.0], vec![1.0, 2.0, 0.5], vec![-2.0, 0.5, 3.0]];
        let (values, v) = eigen(&a);
        for i in 0..3 {
            for j in 0..3 {
                let back: f64 = (0..3).map(|k| v[i][k] * values[k] * v[j][k]).sum();
                let unit: f64 = (0..3).map(|k| v[k][i] * v[k][j]).sum();
                assert!((back - a[i][j]).abs() < 1e-12 && (unit - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
    }
}
