//! Formulas on many rows at once: values, and derivatives in their numbers.
//!
//! Rows are worked on in blocks that stay in the nearest cache, one function at a time, so that plain arithmetic becomes vector code. Nothing is compiled for a formula: a formula of
//! ten functions on a thousand rows is evaluated in less time than code for it could be made. Derivatives go backwards through the same blocks with the compiler's own table of
//! derivatives ([`optc_mid::differentiate::scalar`]), which is read once.

use super::formula::{Formula, Token, value};
use crate::fun::Fun;
use optc_abi::DType;
use optc_ir::eval::eval_float;
use optc_ir::graph::{Graph, Op, Origin, Ty};
use optc_ir::scalar::{Class, ScalarOp, TABLE};
use optc_mid::differentiate::scalar::{Partial, partial};
use rustc_hash::FxHashMap;
use std::sync::OnceLock;

/// Rows of a block.
pub const BLOCK: usize = 256;

/// A table of numbers: one column for each variable, all of one length.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// Columns.
    pub columns: Vec<Vec<f64>>,
    /// Rows.
    pub rows: usize,
}

/// A value of a derivative's computation.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// An operand of the function.
    Operand(usize),
    /// What the function gave.
    Result,
    /// A step of the computation.
    Step(usize),
    /// A number.
    Number(f64),
}

/// The slope of a function in one operand.
#[derive(Clone, Debug)]
enum Slope {
    Zero,
    One,
    MinusOne,
    /// A factor, as the last of these steps or directly.
    Factor(Vec<(ScalarOp, Vec<Slot>)>, Slot),
    /// A divisor.
    Over(Vec<(ScalarOp, Vec<Slot>)>, Slot),
}

/// The slope of a scalar operation in an operand, out of the compiler's table.
fn slope_of(op: ScalarOp, position: usize) -> Slope {
    let mut g = Graph::new();
    let ty = Ty::new(DType::F64, [1]);
    let origin = Origin::default();
    let x: Vec<_> = (0..op.arity()).map(|k| g.input(format!("x{k}"), ty.clone(), origin)).collect();
    let z = g.map(op, &x, origin);
    let made = partial(&mut g, op, &x, z, position, origin);
    let mut held: FxHashMap<_, Slot> = x.iter().enumerate().map(|(k, id)| (*id, Slot::Operand(k))).collect();
    held.insert(z, Slot::Result);
    let mut steps = Vec::new();
    for id in g.ids() {
        if held.contains_key(&id) {
            continue;
        }
        let node = g.node(id);
        let slot = match &node.op {
            Op::Const(t) => Slot::Number(t.get_f64(0)),
            Op::Map(op) => {
                steps.push((*op, node.operands.iter().map(|o| held[o]).collect()));
                Slot::Step(steps.len() - 1)
            }
            // A number that is spread over an array.
            _ => held[&node.operands[0]],
        };
        held.insert(id, slot);
    }
    match made {
        Partial::Zero => Slope::Zero,
        Partial::One => Slope::One,
        Partial::MinusOne => Slope::MinusOne,
        Partial::Factor(id) => Slope::Factor(steps, held[&id]),
        Partial::Over(id) => Slope::Over(steps, held[&id]),
    }
}

/// The slopes of all operations that have them; that of a choice is one.
fn slopes() -> &'static FxHashMap<(ScalarOp, usize), Slope> {
    static ALL: OnceLock<FxHashMap<(ScalarOp, usize), Slope>> = OnceLock::new();
    ALL.get_or_init(|| {
        let ops = TABLE.iter().filter(|r| r.class != Class::Bits && r.op != ScalarOp::Select).map(|r| r.op);
        ops.flat_map(|op| (0..op.arity()).map(move |k| ((op, k), slope_of(op, k)))).collect()
    })
}

#[inline(always)]
fn one(x: &[f64], out: &mut [f64], f: impl Fn(f64) -> f64) {
    for (y, x) in out.iter_mut().zip(x) {
        *y = f(*x);
    }
}

#[inline(always)]
fn two(a: &[f64], b: &[f64], out: &mut [f64], f: impl Fn(f64, f64) -> f64) {
    for ((y, a), b) in out.iter_mut().zip(a).zip(b) {
        *y = f(*a, *b);
    }
}

/// An operation on blocks; all have the same length.
fn map(op: ScalarOp, x: &[&[f64]], out: &mut [f64]) {
    use ScalarOp::*;
    match op {
        Add => two(x[0], x[1], out, |a, b| a + b),
        Sub => two(x[0], x[1], out, |a, b| a - b),
        Mul => two(x[0], x[1], out, |a, b| a * b),
        Div => two(x[0], x[1], out, |a, b| a / b),
        Neg => one(x[0], out, |a| -a),
        Abs => one(x[0], out, f64::abs),
        Sqrt => one(x[0], out, f64::sqrt),
        Exp => one(x[0], out, f64::exp),
        Log => one(x[0], out, f64::ln),
        Sin => one(x[0], out, f64::sin),
        Cos => one(x[0], out, f64::cos),
        Tanh => one(x[0], out, f64::tanh),
        Pow => two(x[0], x[1], out, f64::powf),
        _ => match *x {
            [a] => one(a, out, |a| eval_float(op, &[a])),
            [a, b] => two(a, b, out, |a, b| eval_float(op, &[a, b])),
            _ => (0..out.len()).for_each(|i| out[i] = eval_float(op, &[x[0][i], x[1][i], x[2][i]])),
        },
    }
}

fn apply(fun: Fun, x: &[&[f64]], out: &mut [f64]) {
    match fun {
        Fun::Plain(op) => map(op, x, out),
        Fun::Square => one(x[0], out, |a| a * a),
        Fun::Cube => one(x[0], out, |a| a * a * a),
        Fun::Reciprocal => one(x[0], out, |a| 1.0 / a),
        _ => one(x[0], out, |a| value(fun, &[a])),
    }
}

/// What derivatives are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrt {
    /// Those in the numbers of the formula, in order.
    Numbers,
    /// Those in each place where this variable stands; their sum is the derivative in it.
    Variable(u16),
}

/// Memory of evaluations, used again and again.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    values: Vec<f64>,
    adjoints: Vec<f64>,
    steps: Vec<f64>,
    /// For each token of the formula at hand its operands, by the token they end with.
    operands: Vec<[usize; 3]>,
    stack: Vec<usize>,
    /// Adjoints of what is asked for, one block each.
    slopes: Vec<Vec<f64>>,
}

impl Scratch {
    /// Finds the operands of each token.
    fn prepare(&mut self, tokens: &[Token]) {
        self.operands.clear();
        self.stack.clear();
        for (k, token) in tokens.iter().enumerate() {
            let count = token.arity();
            let first = self.stack.len() - count;
            let mut own = [0; 3];
            own[..count].copy_from_slice(&self.stack[first..]);
            self.stack.truncate(first);
            self.stack.push(k);
            self.operands.push(own);
        }
    }

    /// The values of all tokens in the block of rows that begins here.
    fn forward(&mut self, tokens: &[Token], table: &Columns, start: usize, len: usize) {
        self.values.resize(tokens.len() * BLOCK, 0.0);
        for (k, token) in tokens.iter().enumerate() {
            let (before, rest) = self.values.split_at_mut(k * BLOCK);
            let out = &mut rest[..len];
            match token {
                Token::Var(_) => {}
                Token::Const(x) => out.fill(*x),
                Token::Call(fun) => {
                    let of = |j: usize| operand(tokens, before, table, start, len, self.operands[k][j]);
                    match fun.arity() {
                        1 => apply(*fun, &[of(0)], out),
                        2 => apply(*fun, &[of(0), of(1)], out),
                        _ => apply(*fun, &[of(0), of(1), of(2)], out),
                    }
                }
            }
        }
    }

    /// The values of a formula on all rows.
    pub fn eval(&mut self, formula: &Formula, table: &Columns, out: &mut Vec<f64>) {
        out.resize(table.rows, 0.0);
        let tokens = &formula.tokens[..];
        if let [Token::Var(k)] = tokens {
            out.copy_from_slice(&table.columns[usize::from(*k)]);
            return;
        }
        self.prepare(tokens);
        let root = tokens.len() - 1;
        for start in (0..table.rows).step_by(BLOCK) {
            let len = BLOCK.min(table.rows - start);
            self.forward(tokens, table, start, len);
            out[start..start + len].copy_from_slice(&self.values[root * BLOCK..root * BLOCK + len]);
        }
    }

    /// Values and the derivative in each token that is asked for, block after block: `each` sees where a block begins, its values and its derivatives.
    pub fn differentiate(&mut self, formula: &Formula, table: &Columns, wrt: Wrt, mut each: impl FnMut(usize, &[f64], &[Vec<f64>])) {
        let tokens = &formula.tokens[..];
        self.prepare(tokens);
        let root = tokens.len() - 1;
        let asked = |token: &Token| match (token, wrt) {
            (Token::Const(_), Wrt::Numbers) => true,
            (Token::Var(k), Wrt::Variable(v)) => *k == v,
            _ => false,
        };
        let places: Vec<usize> = (0..tokens.len()).filter(|k| asked(&tokens[*k])).collect();
        let mut slopes = std::mem::take(&mut self.slopes);
        slopes.resize(places.len(), Vec::new());
        // Tokens below which there is one that is asked for.
        let mut live = vec![false; tokens.len()];
        for k in 0..tokens.len() {
            live[k] = match tokens[k] {
                Token::Call(fun) => (0..fun.arity()).any(|j| live[self.operands[k][j]]),
                token => asked(&token),
            };
        }
        for start in (0..table.rows).step_by(BLOCK) {
            let len = BLOCK.min(table.rows - start);
            self.forward(tokens, table, start, len);
            self.adjoints.resize(tokens.len() * BLOCK, 0.0);
            self.adjoints[root * BLOCK..root * BLOCK + len].fill(1.0);
            for k in (0..tokens.len()).rev() {
                let Token::Call(fun) = tokens[k] else { continue };
                if !live[k] {
                    continue;
                }
                for j in 0..fun.arity() {
                    if live[self.operands[k][j]] {
                        self.backward(tokens, table, (start, len), fun, k, j);
                    }
                }
            }
            for (slope, place) in slopes.iter_mut().zip(&places) {
                slope.clear();
                slope.extend_from_slice(&self.adjoints[place * BLOCK..place * BLOCK + len]);
            }
            each(start, operand(tokens, &self.values, table, start, len, root), &slopes);
        }
        self.slopes = slopes;
    }

    /// The adjoint of operand `j` of the call at `k`. Formulas are trees: every operand has one user.
    fn backward(&mut self, tokens: &[Token], table: &Columns, (start, len): (usize, usize), fun: Fun, k: usize, j: usize) {
        let to = self.operands[k][j];
        let (low, high) = self.adjoints.split_at_mut(k * BLOCK);
        let (out, seed) = (&mut low[to * BLOCK..to * BLOCK + len], &high[..len]);
        let values = &self.values;
        let of = |i: usize| operand(tokens, values, table, start, len, self.operands[k][i]);
        let result = &values[k * BLOCK..k * BLOCK + len];
        match fun {
            Fun::Square => return two(seed, of(0), out, |s, x| s * (x + x)),
            Fun::Cube => return two(seed, of(0), out, |s, x| s * 3.0 * x * x),
            Fun::Reciprocal => return two(seed, result, out, |s, z| -s * z * z),
            Fun::Plain(ScalarOp::Select) => {
                let taken = if j == 1 { 1.0 } else { 0.0 };
                return two(seed, of(0), out, |s, c| if j > 0 && f64::from(u8::from(c != 0.0)) == taken { s } else { 0.0 });
            }
            _ => {}
        }
        let Fun::Plain(op) = fun else { return out.fill(0.0) };
        match &slopes()[&(op, j)] {
            Slope::Zero => out.fill(0.0),
            Slope::One => out.copy_from_slice(seed),
            Slope::MinusOne => one(seed, out, |s| -s),
            Slope::Factor(steps, at) | Slope::Over(steps, at) => {
                self.steps.resize((steps.len() + 3) * BLOCK, 0.0);
                let splat = steps.len();
                for (n, (op, x)) in steps.iter().enumerate() {
                    // The last blocks hold numbers that a step takes.
                    for (i, slot) in x.iter().enumerate() {
                        if let Slot::Number(c) = slot {
                            self.steps[(splat + i) * BLOCK..(splat + i) * BLOCK + len].fill(*c);
                        }
                    }
                    let (done, rest) = self.steps.split_at_mut(n * BLOCK);
                    let (made, numbers) = rest.split_at_mut((splat - n) * BLOCK);
                    let take = |i: usize| match x[i] {
                        Slot::Operand(o) => of(o),
                        Slot::Result => result,
                        Slot::Step(s) => &done[s * BLOCK..s * BLOCK + len],
                        Slot::Number(_) => &numbers[i * BLOCK..i * BLOCK + len],
                    };
                    let made = &mut made[..len];
                    match x.len() {
                        1 => map(*op, &[take(0)], made),
                        2 => map(*op, &[take(0), take(1)], made),
                        _ => map(*op, &[take(0), take(1), take(2)], made),
                    }
                }
                if let Slot::Number(c) = at {
                    self.steps[splat * BLOCK..splat * BLOCK + len].fill(*c);
                }
                let slope = match at {
                    Slot::Operand(o) => of(*o),
                    Slot::Result => result,
                    Slot::Step(s) => &self.steps[s * BLOCK..s * BLOCK + len],
                    Slot::Number(_) => &self.steps[splat * BLOCK..splat * BLOCK + len],
                };
                if matches!(slopes()[&(op, j)], Slope::Over(..)) {
                    two(seed, slope, out, |s, d| s / d);
                } else {
                    two(seed, slope, out, |s, f| s * f);
                }
            }
        }
    }
}

/// The block of values of a token.
fn operand<'a>(tokens: &[Token], values: &'a [f64], table: &'a Columns, start: usize, len: usize, token: usize) -> &'a [f64] {
    match tokens[token] {
        Token::Var(k) => &table.columns[usize::from(k)][start..start + len],
        _ => &values[token * BLOCK..token * BLOCK + len],
    }
}
