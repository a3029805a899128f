//! Numbers of a formula fitted to data, by the method of Levenberg and Marquardt (Marquardt 1963) with derivatives of our own.

use super::formula::Formula;
use super::rows::{Columns, Scratch, Wrt};

/// What a prediction costs.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// (prediction - target)^2
    Square,
    /// A formula of the prediction (variable 0) and the target (variable 1).
    Formula(Formula),
}

/// What is fitted: targets, how much each row counts, and the loss of a row. The loss of a prediction is the weighted mean over rows.
#[derive(Clone, Copy, Debug)]
pub struct Goal<'a> {
    /// Targets.
    pub target: &'a [f64],
    /// Weights of rows, not negative; `None` for 1.
    pub weight: Option<&'a [f64]>,
    /// The loss of a row.
    pub loss: &'a Loss,
}

impl Goal<'_> {
    fn weight(&self, row: usize) -> f64 {
        self.weight.map_or(1.0, |w| w[row])
    }

    fn total_weight(&self) -> f64 {
        self.weight.map_or(self.target.len() as f64, |w| w.iter().sum())
    }

    /// How much a row counts in the quadratic that stands for the loss. A loss that is no square counts as one whose slope here is the same (iteratively reweighted least squares).
    fn curvature(&self, row: usize, value: f64, slopes: Option<&[f64]>) -> f64 {
        let off = (self.target[row] - value).abs().max(1e-12 * (1.0 + self.target[row].abs()));
        self.weight(row) * slopes.map_or(1.0, |s| 0.5 * s[row].abs() / off)
    }

    /// The loss of predictions; infinite where one of them is not finite.
    pub fn of(&self, predicted: &[f64], scratch: &mut Scratch) -> f64 {
        let mut sum = 0.0;
        match self.loss {
            Loss::Square => {
                for (row, (p, t)) in predicted.iter().zip(self.target).enumerate() {
                    sum += self.weight(row) * (p - t) * (p - t);
                }
            }
            Loss::Formula(loss) => {
                let table = Columns { columns: vec![predicted.to_vec(), self.target.to_vec()], rows: predicted.len() };
                let mut each = Vec::new();
                scratch.eval(loss, &table, &mut each);
                sum = each.iter().enumerate().map(|(row, l)| self.weight(row) * l).sum();
            }
        }
        // A prediction that is infinite is refused whatever a bounded loss makes of it.
        let mean = sum / self.total_weight();
        if mean.is_finite() && predicted.iter().all(|p| p.is_finite()) { mean } else { f64::INFINITY }
    }

    /// The least loss that one number for all rows has.
    pub fn of_constant(&self, scratch: &mut Scratch) -> f64 {
        let mean = self.target.iter().enumerate().map(|(row, t)| self.weight(row) * t).sum::<f64>() / self.total_weight();
        let mut formula = Formula::constant(mean);
        let table = Columns { columns: Vec::new(), rows: self.target.len() };
        fit(&mut formula, &table, self, &Effort { rounds: 50, frozen: &[] }, scratch)
    }
}

/// How long is fitted.
#[derive(Clone, Copy, Debug)]
pub struct Effort<'a> {
    /// Most rounds.
    pub rounds: usize,
    /// Numbers that are left alone, by their place among the formula's.
    pub frozen: &'a [usize],
}

/// What is gained in a round below which no more are made, relatively.
const GAIN: f64 = 1e-6;
/// Damping at first, and its bounds.
const DAMPING: (f64, f64, f64) = (1e-4, 1e-14, 1e12);
/// Steps tried in a round.
const TRIES: usize = 10;

/// Fits the numbers of a formula and gives its loss.
pub fn fit(formula: &mut Formula, table: &Columns, goal: &Goal<'_>, effort: &Effort<'_>, scratch: &mut Scratch) -> f64 {
    let mut predicted = Vec::new();
    scratch.eval(formula, table, &mut predicted);
    let mut best = goal.of(&predicted, scratch);
    let mut numbers = formula.numbers();
    let free: Vec<usize> = (0..numbers.len()).filter(|k| !effort.frozen.contains(k)).collect();
    if free.is_empty() || !best.is_finite() {
        return best;
    }
    let n = free.len();
    let mut damping = DAMPING.0;
    for _ in 0..effort.rounds {
        let slopes = match goal.loss {
            Loss::Square => None,
            Loss::Formula(loss) => Some(loss_slopes(loss, &predicted, goal.target, scratch)),
        };
        let (mut normal, mut gradient) = (vec![0.0; n * n], vec![0.0; n]);
        scratch.differentiate(formula, table, Wrt::Numbers, |start, values, columns| {
            for (i, value) in values.iter().enumerate() {
                let row = start + i;
                let residual = goal.target[row] - value;
                let weight = goal.curvature(row, *value, slopes.as_deref());
                let pull = match &slopes {
                    None => weight * residual,
                    Some(s) => -0.5 * goal.weight(row) * s[row],
                };
                for (a, ka) in free.iter().enumerate() {
                    let slope = columns[*ka][i];
                    gradient[a] += pull * slope;
                    for (b, kb) in free[..=a].iter().enumerate() {
                        normal[a * n + b] += weight * slope * columns[*kb][i];
                    }
                }
            }
        });
        if gradient.iter().chain(&normal).any(|x| !x.is_finite()) {
            break;
        }
        let mut gained = false;
        let before = best;
        for _ in 0..TRIES {
            let mut damped = normal.clone();
            for k in 0..n {
                let own = normal[k * n + k];
                damped[k * n + k] = own + damping * own.max(1e-30);
            }
            if let Some(step) = solve(&mut damped, &gradient) {
                let tried: Vec<f64> = {
                    let mut all = numbers.clone();
                    free.iter().zip(&step).for_each(|(k, s)| all[*k] += s);
                    all
                };
                formula.set_numbers(&tried);
                scratch.eval(formula, table, &mut predicted);
                let loss = goal.of(&predicted, scratch);
                if loss < best {
                    (best, numbers, gained) = (loss, tried, true);
                    damping = (damping * 0.1).max(DAMPING.1);
                    break;
                }
            }
            damping *= 10.0;
            if damping > DAMPING.2 {
                break;
            }
        }
        if !gained {
            break;
        }
        if before - best <= GAIN * before {
            break;
        }
    }
    formula.set_numbers(&numbers);
    best
}

/// For each number of a formula at its best how fast the loss grows as the number moves away and all others follow: the loss is about that much times the square of the distance more. `None` where the
/// numbers do not determine each other.
pub fn stiffness(formula: &Formula, table: &Columns, goal: &Goal<'_>, scratch: &mut Scratch) -> Option<Vec<f64>> {
    let n = formula.numbers().len();
    let slopes = match goal.loss {
        Loss::Square => None,
        Loss::Formula(loss) => {
            let mut predicted = Vec::new();
            scratch.eval(formula, table, &mut predicted);
            Some(loss_slopes(loss, &predicted, goal.target, scratch))
        }
    };
    let mut normal = vec![0.0; n * n];
    scratch.differentiate(formula, table, Wrt::Numbers, |start, values, columns| {
        for (i, value) in values.iter().enumerate() {
            let weight = goal.curvature(start + i, *value, slopes.as_deref());
            for a in 0..n {
                for b in 0..=a {
                    normal[a * n + b] += weight * columns[a][i] * columns[b][i];
                }
            }
        }
    });
    // Each number is measured in units in which its own curvature is 1.
    let scale: Vec<f64> = (0..n).map(|k| normal[k * n + k].sqrt()).collect();
    if scale.iter().any(|s| !(*s > 0.0 && s.is_finite())) {
        return None;
    }
    let total = goal.total_weight();
    let mut out = Vec::new();
    for k in 0..n {
        let mut scaled: Vec<f64> = (0..n * n).map(|at| normal[at] / (scale[at / n] * scale[at % n])).collect();
        let unit: Vec<f64> = (0..n).map(|j| f64::from(u8::from(j == k))).collect();
        let column = solve(&mut scaled, &unit)?;
        out.push(scale[k] * scale[k] / column[k] / total);
    }
    Some(out)
}

/// The slope of the loss of each row in its prediction.
fn loss_slopes(loss: &Formula, predicted: &[f64], target: &[f64], scratch: &mut Scratch) -> Vec<f64> {
    let table = Columns { columns: vec![predicted.to_vec(), target.to_vec()], rows: predicted.len() };
    let mut out = vec![0.0; predicted.len()];
    scratch.differentiate(loss, &table, Wrt::Variable(0), |start, values, columns| {
        for column in columns {
            (0..values.len()).for_each(|i| out[start + i] += column[i]);
        }
    });
    out
}

/// Solves a symmetric positive definite system, the lower half of which is given, by Cholesky's method. `None` if it is none.
pub fn solve(matrix: &mut [f64], right: &[f64]) -> Option<Vec<f64>> {
    let n = right.len();
    for j in 0..n {
        for k in 0..j {
            let l = matrix[j * n + k];
            for i in j..n {
                matrix[i * n + j] -= matrix[i * n + k] * l;
            }
        }
        let pivot = matrix[j * n + j];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        let root = pivot.sqrt();
        for i in j..n {
            matrix[i * n + j] /= root;
        }
    }
    let mut x = right.to_vec();
    for i in 0..n {
        for k in 0..i {
            x[i] -= matrix[i * n + k] * x[k];
        }
        x[i] /= matrix[i * n + i];
    }
    for i in (0..n).rev() {
        for k in i + 1..n {
            x[i] -= matrix[k * n + i] * x[k];
        }
        x[i] /= matrix[i * n + i];
    }
    x.iter().all(|v| v.is_finite()).then_some(x)
}
