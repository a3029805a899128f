//! What of a loss is no more than rounding of the rows: where a search ends, and what numbers may cost.

use super::evolve::{Problem, Whole, front};
use super::formula::{Formula, Token};
use super::grain::Grain;
use super::rows::{Scratch, Wrt};
use super::view::SLACK;

impl Problem {
    /// The loss that rounding of the targets and of the variables explains where a formula is the law: that of predictions which are off by a standard deviation of both, `sum over x of (df/dx)^2 var(x) + var(target)`,
    /// with even distributions over the spacing of the numbers, times four, as targets may come from several operations.
    pub fn rounding(&self, formula: &Formula, scratch: &mut Scratch) -> f64 {
        let mut variance: Vec<f64> = self.target.iter().map(|y| self.grains.0.variance(*y)).collect();
        for (k, grain) in self.grains.1.iter().enumerate().filter(|(_, g)| **g != Grain::default()) {
            if !formula.tokens.contains(&Token::Var(k as u16)) {
                continue;
            }
            let column = &self.table.columns[k];
            scratch.differentiate(formula, &self.table, Wrt::Variable(k as u16), |start, values, slopes| {
                for i in 0..values.len() {
                    let slope: f64 = slopes.iter().map(|s| s[i]).sum();
                    variance[start + i] += slope * slope * grain.variance(column[start + i]);
                }
            });
        }
        if variance.iter().all(|v| *v == 0.0) {
            return 0.0;
        }
        let mut off = |sign: f64| {
            let predicted: Vec<f64> = self.target.iter().zip(&variance).map(|(y, v)| y + sign * (SLACK * v).sqrt()).collect();
            self.goal().of(&predicted, scratch)
        };
        let loss = 0.5 * (off(1.0) + off(-1.0));
        // A formula so steep that its rounding is as large as what is to be explained says nothing.
        if loss < 1e-6 * self.baseline { loss.max(0.0) } else { 0.0 }
    }

    /// Whether nothing of the target is left to explain beside this formula.
    pub fn explained(&self, formula: &Formula, loss: f64, scratch: &mut Scratch) -> bool {
        self.unexplained(loss) < self.enough || loss <= self.rounding(formula, scratch)
    }

    /// The formulas of which none smaller is as good, the smallest first, up to one that leaves nothing to explain.
    pub fn front<'a>(&self, hall: &'a [Option<Whole>]) -> Vec<&'a Whole> {
        let mut scratch = Scratch::default();
        let mut all = front(hall);
        let last = all.iter().position(|w| self.explained(&w.formula, w.loss, &mut scratch)).unwrap_or(all.len());
        all.truncate(last + 1);
        all
    }
}
