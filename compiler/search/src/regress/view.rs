//! Views: what of a formula is left to linear algebra. An island looks at the target through one of them, and its formulas are only what linear algebra cannot find: terms of a sum,
//! whose coefficients are solved for (as in multi-gene genetic programming, Searson et al. 2010, after the linear scaling of Keijzer 2003), or factors of a product, whose exponents are, together with a power
//! of each positive variable. The sum may be that of the target, of its square or of its reciprocal.

use super::fit::{Effort, Goal, Loss, fit};
use super::formula::{Formula, Token};
use super::grain::Grain;
use super::rows::{Columns, Scratch};
use crate::fun::Fun;
use optc_ir::scalar::ScalarOp;

/// How an island looks at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// y = c + sum of a_j f_j
    Sum,
    /// y = c times the product of f_j^q_j and of x_i^p_i: the logarithm of |y| is a sum.
    Product,
    /// y = c times the exponential of the sum of a_j f_j and times the product of x_i^p_i: as for a product, where what is found are terms.
    Exponential,
    /// y^2 = c + sum of a_j f_j
    Square,
    /// 1/y = c + sum of a_j f_j
    Reciprocal,
}

impl View {
    /// All of them, in the order in which islands take them.
    pub const ALL: [View; 5] = [View::Sum, View::Product, View::Square, View::Exponential, View::Reciprocal];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            View::Sum => "sum",
            View::Product => "product",
            View::Exponential => "exponential",
            View::Square => "square",
            View::Reciprocal => "reciprocal",
        }
    }

    /// Whether targets can be looked at so: their signs allow it.
    pub fn suits(self, target: &[f64]) -> bool {
        match self {
            View::Sum => true,
            View::Product => target.iter().all(|y| *y != 0.0 && y.abs().ln().is_finite()),
            View::Exponential => View::Product.suits(target) && (target.iter().all(|y| *y > 0.0) || target.iter().all(|y| *y < 0.0)),
            View::Square => {
                target.iter().all(|y| *y >= 0.0 && (y * y).is_finite()) || target.iter().all(|y| *y <= 0.0 && (y * y).is_finite())
            }
            View::Reciprocal => target.iter().all(|y| (1.0 / y).is_finite() && *y != 0.0),
        }
    }
}

/// Most terms that are solved for.
const TERMS: usize = 6;
/// A column of which less than this share is left by those before it says nothing of its own.
const COLLINEAR: f64 = 1e-20;
/// Largest exponent of a part of a product.
const HIGHEST: f64 = 8.0;
/// Weights of rows are at most so many times their mean.
const HEAVIEST: f64 = 100.0;
/// By how much the loss may grow for a readable exponent, relatively, and what it may be in any case as a share of what there is to explain.
const MARGIN: f64 = 0.01;
/// See `MARGIN`.
pub(super) const ROUNDING: f64 = 1e-24;
/// How much more than the rounding of what is given to a formula may be left: values of targets may come from several operations, each of which rounds.
pub(super) const SLACK: f64 = 4.0;

/// Data as a view sees them.
#[derive(Clone, Debug)]
pub struct Lens {
    /// The view.
    pub view: View,
    /// The variables, and behind them the logarithms of those that are positive, for a product.
    pub table: Columns,
    /// Variables whose powers are solved for.
    powers: Vec<u16>,
    variables: usize,
    /// What is to be explained.
    target: Vec<f64>,
    /// Weights of rows: those given, times the square of the slope of the target in what is to be explained.
    weight: Vec<f64>,
    /// Their square roots.
    roots: Vec<f64>,
    /// An orthonormal basis of what is solved for anyhow, weighted: 1, and logarithms of variables.
    basis: Vec<Vec<f64>>,
    /// What of the target is beyond that, weighted.
    rest: Vec<f64>,
    /// The sum of squares of the target about its mean.
    all: f64,
    /// The target as it is given.
    given: Vec<f64>,
    /// Its sign, where it has one.
    sign: f64,
    /// What rounding of the target leaves of what is to be explained, weighted.
    rounding: f64,
    /// For each variable whose power is solved for what its rounding leaves at an exponent of 1, weighted.
    roundings: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Four sums, so that the loop is vector code.
    let mut sums = [0.0; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let tail: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a4.zip(b4) {
        for k in 0..4 {
            sums[k] += x[k] * y[k];
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + tail
}

fn minus(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(x, y)| *x -= factor * y);
}

/// Where in a formula what is solved for lies: tokens of each, both ends included.
fn parts(formula: &Formula, view: View) -> Vec<(usize, usize)> {
    let tokens = &formula.tokens;
    let mut out = Vec::new();
    let mut open = vec![(0, tokens.len() - 1)];
    while let Some((start, end)) = open.pop() {
        let splits = match (view, tokens[end]) {
            (View::Product, Token::Call(Fun::Plain(ScalarOp::Mul | ScalarOp::Div))) => true,
            (
                View::Product,
                Token::Call(Fun::Square | Fun::Cube | Fun::Reciprocal | Fun::Plain(ScalarOp::Sqrt | ScalarOp::Neg | ScalarOp::Abs)),
            ) => {
                open.push((start, end - 1));
                continue;
            }
            (View::Product, _) => false,
            (_, Token::Call(Fun::Plain(ScalarOp::Add | ScalarOp::Sub))) => true,
            (_, Token::Call(Fun::Plain(ScalarOp::Neg))) => {
                open.push((start, end - 1));
                continue;
            }
            _ => false,
        };
        if splits && out.len() + open.len() + 2 <= TERMS {
            let operands = formula.operands(end);
            open.extend(operands.into_iter().rev());
        } else if tokens[start..=end].iter().any(|t| matches!(t, Token::Var(_))) {
            out.push((start, end));
        }
    }
    out
}

/// Coefficients of columns by weighted least squares; 0 for those that say nothing beside the ones before.
fn least_squares(columns: &[Vec<f64>], target: &[f64]) -> (Vec<f64>, f64) {
    let mut basis: Vec<(usize, Vec<f64>)> = Vec::new();
    let mut triangle: Vec<Vec<f64>> = Vec::new();
    for (k, column) in columns.iter().enumerate() {
        let mut own = column.clone();
        let mut row = vec![0.0; basis.len()];
        let before = dot(&own, &own);
        for _ in 0..2 {
            for (j, (_, b)) in basis.iter().enumerate() {
                let share = dot(&own, b);
                row[j] += share;
                minus(&mut own, share, b);
            }
        }
        let length = dot(&own, &own);
        if length > COLLINEAR * before && length > 0.0 {
            let length = length.sqrt();
            own.iter_mut().for_each(|x| *x /= length);
            row.push(length);
            triangle.push(row);
            basis.push((k, own));
        }
    }
    let mut rest = target.to_vec();
    let mut shares = vec![0.0; basis.len()];
    for _ in 0..2 {
        for (j, (_, b)) in basis.iter().enumerate() {
            let share = dot(&rest, b);
            shares[j] += share;
            minus(&mut rest, share, b);
        }
    }
    let mut out = vec![0.0; columns.len()];
    for j in (0..basis.len()).rev() {
        let x = shares[j] / triangle[j][j];
        out[basis[j].0] = x;
        for (i, share) in shares[..j].iter_mut().enumerate() {
            *share -= triangle[j][i] * x;
        }
    }
    (out, dot(&rest, &rest))
}

/// An exponent that reads well, near this one.
fn plain_exponent(x: f64) -> f64 {
    let (half, third) = ((2.0 * x).round() / 2.0, (3.0 * x).round() / 3.0);
    if (x - half).abs() <= (x - third).abs() { half } else { third }
}

impl Lens {
    /// Data through a view that suits them. `weight` are weights of rows.
    pub fn new(view: View, table: &Columns, target: &[f64], weight: Option<&[f64]>) -> Lens {
        let seen: Vec<f64> = target
            .iter()
            .map(|y| match view {
                View::Sum => *y,
                View::Product | View::Exponential => y.abs().ln(),
                View::Square => y * y,
                View::Reciprocal => 1.0 / y,
            })
            .collect();
        let slope = |y: f64| match view {
            View::Sum => 1.0,
            View::Product | View::Exponential => y,
            View::Square => 0.5 / y,
            View::Reciprocal => y * y,
        };
        let mut weights: Vec<f64> =
            target.iter().enumerate().map(|(row, y)| weight.map_or(1.0, |w| w[row]) * (slope(*y) * slope(*y)).min(1e200)).collect();
        let finite: Vec<f64> = weights.iter().copied().filter(|w| w.is_finite() && *w < 1e200).collect();
        let mean = (finite.iter().sum::<f64>() / finite.len().max(1) as f64).max(f64::MIN_POSITIVE);
        weights.iter_mut().for_each(|w| *w = (*w / mean).clamp(1.0 / HEAVIEST, HEAVIEST));
        if let Some(given) = weight {
            // Rows that count for nothing count for nothing in all views.
            weights.iter_mut().zip(given).filter(|(_, g)| **g == 0.0).for_each(|(w, _)| *w = 0.0);
        }
        let roots: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
        let variables = table.columns.len();
        let mut powers = Vec::new();
        let mut wide = table.clone();
        if matches!(view, View::Product | View::Exponential) {
            for (k, column) in table.columns.iter().enumerate() {
                if column.iter().all(|x| *x > 0.0 && x.is_finite()) {
                    powers.push(k as u16);
                    wide.columns.push(column.iter().map(|x| x.ln()).collect());
                }
            }
        }
        let mut basis: Vec<Vec<f64>> = Vec::new();
        let weigh = |column: &[f64]| column.iter().zip(&roots).map(|(x, r)| x * r).collect::<Vec<f64>>();
        let fixed = std::iter::once(roots.clone()).chain(wide.columns[variables..].iter().map(|c| weigh(c)));
        for mut column in fixed {
            let before = dot(&column, &column);
            for _ in 0..2 {
                basis.iter().for_each(|b| {
                    let share = dot(&column, b);
                    minus(&mut column, share, b);
                });
            }
            let length = dot(&column, &column);
            if length > COLLINEAR * before && length > 0.0 {
                let length = length.sqrt();
                column.iter_mut().for_each(|x| *x /= length);
                basis.push(column);
            }
        }
        let mut rest = weigh(&seen);
        let mut all = 0.0;
        for pass in 0..2 {
            for (k, b) in basis.iter().enumerate() {
                let share = dot(&rest, b);
                minus(&mut rest, share, b);
                if (pass, k) == (0, 0) {
                    all = dot(&rest, &rest);
                }
            }
        }
        let sign = if target.iter().all(|y| *y <= 0.0) { -1.0 } else { 1.0 };
        let grain = Grain::of(target);
        let rounding =
            target.iter().zip(&weights).map(|(y, w)| w * grain.variance(*y) / (slope(*y) * slope(*y))).filter(|v| v.is_finite()).sum();
        let of_power = |k: &u16| {
            let column = &table.columns[usize::from(*k)];
            let grain = Grain::of(column);
            column.iter().zip(&weights).map(|(x, w)| w * grain.variance(*x) / (x * x)).filter(|v| v.is_finite()).sum()
        };
        let roundings = powers.iter().map(of_power).collect();
        let given = target.to_vec();
        Lens {
            view,
            table: wide,
            powers,
            variables,
            given,
            target: seen,
            weight: weights,
            roots,
            basis,
            rest,
            all,
            sign,
            rounding,
            roundings,
        }
    }

    /// The share of the target that a formula leaves unexplained: the weighted sum of squares about the best coefficients, of that about the mean. Infinite where a part is not finite.
    pub fn unexplained(&self, formula: &Formula, scratch: &mut Scratch, memory: &mut Memory) -> f64 {
        if self.all <= 0.0 {
            return 0.0;
        }
        memory.rest.clear();
        memory.rest.extend_from_slice(&self.rest);
        memory.triangle.clear();
        let mut count = 0;
        for part in parts(formula, self.view) {
            if memory.columns.len() == count {
                memory.columns.push(Vec::new());
            }
            let (made, column) = memory.columns.split_at_mut(count);
            let column = &mut column[0];
            if !self.column(&formula.part(part), scratch, column) {
                return f64::INFINITY;
            }
            let before = dot(column, column);
            if !before.is_finite() {
                return f64::INFINITY;
            }
            for b in &self.basis {
                let share = dot(column, b);
                minus(column, share, b);
            }
            let mut row = [0.0; TERMS];
            for (b, share) in made.iter().zip(&mut row) {
                *share = dot(column, b);
                minus(column, *share, b);
            }
            let length = dot(column, column);
            if length <= 1e-13 * before {
                continue;
            }
            let length = length.sqrt();
            column.iter_mut().for_each(|x| *x /= length);
            let share = dot(&memory.rest, column);
            minus(&mut memory.rest, share, column);
            memory.triangle.push((row, length, share));
            count += 1;
        }
        if self.view == View::Product && !memory.exponents_are_sane() {
            return f64::INFINITY;
        }
        let left = dot(&memory.rest, &memory.rest) / self.all;
        if left.is_finite() { left } else { f64::INFINITY }
    }

    /// The weighted column of a part. False if it is not finite.
    fn column(&self, part: &Formula, scratch: &mut Scratch, out: &mut Vec<f64>) -> bool {
        if self.view == View::Product && matches!(part.tokens.last(), Some(Token::Call(Fun::Plain(ScalarOp::Exp)))) {
            // The logarithm of an exponential.
            let inner = part.part((0, part.size() - 2));
            scratch.eval(&inner, &self.table, out);
        } else {
            scratch.eval(part, &self.table, out);
            if self.view == View::Product {
                out.iter_mut().for_each(|x| *x = x.abs().ln());
            }
        }
        out.iter_mut().zip(&self.roots).for_each(|(x, r)| *x *= r);
        // A sum is not finite if a term is not.
        out.iter().sum::<f64>().is_finite()
    }

    /// Columns of the parts and of what is solved for anyhow, then the coefficients: 1, the parts, the logarithms.
    fn solve(&self, formula: &Formula, scratch: &mut Scratch) -> Option<(Vec<(usize, usize)>, Vec<Vec<f64>>, Vec<f64>, f64)> {
        let parts = parts(formula, self.view);
        let mut columns = vec![self.roots.clone()];
        for part in &parts {
            let mut column = Vec::new();
            if !self.column(&formula.part(*part), scratch, &mut column) {
                return None;
            }
            columns.push(column);
        }
        for log in &self.table.columns[self.variables..] {
            columns.push(log.iter().zip(&self.roots).map(|(x, r)| x * r).collect());
        }
        let target: Vec<f64> = self.target.iter().zip(&self.roots).map(|(x, r)| x * r).collect();
        let (found, left) = least_squares(&columns, &target);
        found.iter().all(|x| x.is_finite()).then_some((parts, columns, found, left))
    }

    /// Fits the numbers within the parts of a formula, the coefficients along with them. Gives the formula with the better numbers.
    pub fn tune(&self, formula: &Formula, rounds: usize, scratch: &mut Scratch) -> Option<Formula> {
        if !formula.tokens.iter().any(|t| matches!(t, Token::Const(_))) {
            return None;
        }
        let (parts, _, found, _) = self.solve(formula, scratch)?;
        let mut model = Formula::constant(found[0]);
        // Where the model's numbers come from.
        let mut places: Vec<Option<usize>> = vec![None];
        let plain = |op| Token::Call(Fun::Plain(op));
        for (k, (start, end)) in parts.iter().enumerate() {
            for at in *start..=*end {
                model.tokens.push(formula.tokens[at]);
                if matches!(formula.tokens[at], Token::Const(_)) {
                    places.push(Some(at));
                }
            }
            if self.view == View::Product {
                model.tokens.extend([plain(ScalarOp::Abs), plain(ScalarOp::Log)]);
            }
            model.tokens.extend([Token::Const(found[1 + k]), plain(ScalarOp::Mul), plain(ScalarOp::Add)]);
            places.push(None);
        }
        if !places.iter().any(Option::is_some) {
            return None;
        }
        for (k, power) in found[1 + parts.len()..].iter().enumerate() {
            let log = Token::Var((self.variables + k) as u16);
            model.tokens.extend([log, Token::Const(*power), plain(ScalarOp::Mul), plain(ScalarOp::Add)]);
        }
        let goal = Goal { target: &self.target, weight: Some(&self.weight), loss: &Loss::Square };
        if !fit(&mut model, &self.table, &goal, &Effort { rounds, frozen: &[] }, scratch).is_finite() {
            return None;
        }
        let mut out = formula.clone();
        for (place, number) in places.iter().zip(model.numbers()) {
            if let Some(at) = place {
                out.tokens[*at] = Token::Const(number);
            }
        }
        Some(out)
    }

    /// The formula of the target itself: with its coefficients, exponents made readable where that costs nothing. `None` if a part is not finite.
    pub fn whole(&self, formula: &Formula, scratch: &mut Scratch) -> Option<Formula> {
        let (parts, columns, found, left) = self.solve(formula, scratch)?;
        let plain = |op| Fun::Plain(op);
        if matches!(self.view, View::Product | View::Exponential) {
            return self.product(formula, &parts, &columns, found, left, scratch);
        }
        // Terms that say nothing go, the constant too.
        let scale = self.target.iter().fold(0.0f64, |m, y| m.max(y.abs()));
        let mut sum: Option<Formula> = None;
        if found[0].abs() > 1e-12 * scale {
            sum = Some(Formula::constant(found[0]));
        }
        for (part, a) in parts.iter().zip(&found[1..]) {
            if *a == 0.0 {
                continue;
            }
            let term = Formula::call(plain(ScalarOp::Mul), &[&Formula::constant(*a), &formula.part(*part)]);
            sum = Some(match sum {
                None => term,
                Some(sum) => Formula::call(plain(ScalarOp::Add), &[&sum, &term]),
            });
        }
        let sum = sum.unwrap_or_else(|| Formula::constant(found[0]));
        Some(match self.view {
            View::Square => {
                let root = Formula::call(plain(ScalarOp::Sqrt), &[&sum]);
                if self.sign < 0.0 { Formula::call(plain(ScalarOp::Neg), &[&root]) } else { root }
            }
            View::Reciprocal => Formula::call(plain(ScalarOp::Div), &[&Formula::constant(1.0), &sum]),
            _ => sum,
        })
    }

    /// Exponents that read well where the loss allows it, first all at once, then one after another.
    fn exponents(&self, columns: &[Vec<f64>], mut found: Vec<f64>, left: f64) -> Vec<f64> {
        let target: Vec<f64> = self.target.iter().zip(&self.roots).map(|(x, r)| x * r).collect();
        // Rounding of the target and of what has a power explains as much as that, whatever the exponents.
        let behind = found[found.len() - self.powers.len()..].iter().zip(&self.roundings).map(|(p, r)| p * p * r).sum::<f64>();
        let most = (left * (1.0 + MARGIN)).max(SLACK * (self.rounding + behind)) + ROUNDING * self.all;
        let given = |fixed: &[Option<f64>]| {
            let mut rest = target.clone();
            let mut open = vec![0];
            for (k, value) in fixed.iter().enumerate().skip(1) {
                match value {
                    Some(x) => minus(&mut rest, *x, &columns[k]),
                    None => open.push(k),
                }
            }
            let (values, left) = least_squares(&open.iter().map(|k| columns[*k].clone()).collect::<Vec<_>>(), &rest);
            let mut all: Vec<f64> = fixed.iter().map(|x| x.unwrap_or(0.0)).collect();
            open.iter().zip(values).for_each(|(k, x)| all[*k] = x);
            (all, left)
        };
        // Terms of an exponential have coefficients, which are fitted as other numbers are.
        let first = if self.view == View::Product { 1 } else { found.len() - self.powers.len() };
        let plain = |k: usize| (k >= first).then(|| plain_exponent(found[k]));
        let mut fixed: Vec<Option<f64>> = (0..found.len()).map(plain).collect();
        let (all, after) = given(&fixed);
        if after <= most {
            return all;
        }
        fixed = vec![None; found.len()];
        let mut order: Vec<usize> = (first..found.len()).collect();
        order.sort_by(|a, b| (found[*a] - plain_exponent(found[*a])).abs().total_cmp(&(found[*b] - plain_exponent(found[*b])).abs()));
        for k in order {
            fixed[k] = Some(plain_exponent(found[k]));
            let (all, after) = given(&fixed);
            if after <= most {
                found = all;
            } else {
                fixed[k] = None;
            }
        }
        found
    }

    fn product(
        &self,
        formula: &Formula,
        parts: &[(usize, usize)],
        columns: &[Vec<f64>],
        found: Vec<f64>,
        left: f64,
        scratch: &mut Scratch,
    ) -> Option<Formula> {
        let found = self.exponents(columns, found, left);
        let plain = |op| Fun::Plain(op);
        let (mut above, mut below): (Vec<Formula>, Vec<Formula>) = (Vec::new(), Vec::new());
        let mut values = Vec::new();
        let mut put = |base: Formula, exponent: f64, scratch: &mut Scratch| {
            if exponent == 0.0 {
                return;
            }
            scratch.eval(&base, &self.table, &mut values);
            let (negative, positive) = (values.iter().any(|x| *x < 0.0), values.iter().any(|x| *x > 0.0));
            let base = match base.tokens.last() {
                _ if !negative || exponent.fract() == 0.0 => base,
                // A root wants a base that is not negative.
                Some(Token::Call(Fun::Plain(ScalarOp::Sub))) if !positive => {
                    let operands = base.operands(base.size() - 1);
                    Formula::call(plain(ScalarOp::Sub), &[&base.part(operands[1]), &base.part(operands[0])])
                }
                _ if !positive => Formula::call(plain(ScalarOp::Neg), &[&base]),
                _ => Formula::call(plain(ScalarOp::Abs), &[&base]),
            };
            let (to, size) = if exponent > 0.0 { (&mut above, exponent) } else { (&mut below, -exponent) };
            if let Some(Token::Call(Fun::Plain(ScalarOp::Exp))) = base.tokens.last() {
                // Powers of an exponential are exponentials.
                let inner = base.part((0, base.size() - 2));
                let scaled = Formula::call(plain(ScalarOp::Mul), &[&Formula::constant(exponent), &inner]);
                above.push(Formula::call(plain(ScalarOp::Exp), &[&scaled]));
                return;
            }
            to.push(if size == 1.0 {
                base
            } else if size == 2.0 {
                Formula::call(Fun::Square, &[&base])
            } else if size == 3.0 {
                Formula::call(Fun::Cube, &[&base])
            } else if size == 0.5 {
                Formula::call(plain(ScalarOp::Sqrt), &[&base])
            } else if size == 1.5 {
                let root = Formula::call(plain(ScalarOp::Sqrt), &[&base]);
                Formula::call(plain(ScalarOp::Mul), &[&base, &root])
            } else {
                Formula::call(plain(ScalarOp::Pow), &[&base, &Formula::constant(size)])
            });
        };
        for (k, variable) in self.powers.iter().enumerate() {
            put(Formula::var(*variable), found[1 + parts.len() + k], scratch);
        }
        let mut sum: Option<Formula> = None;
        for (part, q) in parts.iter().zip(&found[1..]) {
            if self.view == View::Product {
                put(formula.part(*part), *q, scratch);
            } else if *q != 0.0 {
                let term = Formula::call(plain(ScalarOp::Mul), &[&Formula::constant(*q), &formula.part(*part)]);
                sum = Some(sum.map_or_else(|| term.clone(), |sum| Formula::call(plain(ScalarOp::Add), &[&sum, &term])));
            }
        }
        if let Some(sum) = sum {
            above.push(Formula::call(plain(ScalarOp::Exp), &[&sum]));
        }
        let times = |all: &[Formula]| all.iter().cloned().reduce(|a, b| Formula::call(plain(ScalarOp::Mul), &[&a, &b]));
        let mut out = Formula::constant(found[0].exp());
        if let Some(above) = times(&above) {
            out = Formula::call(plain(ScalarOp::Mul), &[&out, &above]);
        }
        if let Some(below) = times(&below) {
            out = Formula::call(plain(ScalarOp::Div), &[&out, &below]);
        }
        // The sign of the whole.
        scratch.eval(&out, &self.table, &mut values);
        let along: f64 = values.iter().zip(&self.given).zip(&self.weight).map(|((p, y), w)| p.signum() * y.signum() * w).sum();
        if along < 0.0 {
            out.tokens[0] = Token::Const(-found[0].exp());
        }
        Some(out)
    }
}

/// Memory of [`Lens::unexplained`], used again and again.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    columns: Vec<Vec<f64>>,
    rest: Vec<f64>,
    /// For each column what it has of those before it, what is its own, and the target's share of that.
    triangle: Vec<([f64; TERMS], f64, f64)>,
}

impl Memory {
    /// Whether no part has an exponent with which it would stand for something else, as (1 + x/n)^n for an exponential.
    fn exponents_are_sane(&self) -> bool {
        let mut found = [0.0; TERMS];
        for j in (0..self.triangle.len()).rev() {
            let (_, length, share) = self.triangle[j];
            let later: f64 = (j + 1..self.triangle.len()).map(|i| self.triangle[i].0[j] * found[i]).sum();
            found[j] = (share - later) / length;
        }
        found.iter().all(|q| q.abs() <= HIGHEST)
    }
}
