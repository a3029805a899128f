//! Formulas: expression trees over the variables of a search, in postfix order.

use crate::fun::Fun;
use optc_ir::eval::eval_float;
use optc_ir::scalar::{Class, ScalarOp};
use std::fmt::Write;

/// Most tokens a formula can have anywhere: evaluation and printing recurse no deeper.
pub const LARGEST: usize = 200;

/// A node of a formula.
#[derive(Clone, Copy, Debug)]
pub enum Token {
    /// A variable, by number.
    Var(u16),
    /// A number.
    Const(f64),
    /// A function of the formulas before it.
    Call(Fun),
}

impl PartialEq for Token {
    /// Numbers are equal if their bits are.
    fn eq(&self, other: &Token) -> bool {
        match (self, other) {
            (Token::Var(a), Token::Var(b)) => a == b,
            (Token::Const(a), Token::Const(b)) => a.to_bits() == b.to_bits(),
            (Token::Call(a), Token::Call(b)) => a == b,
            _ => false,
        }
    }
}

impl Token {
    /// Number of operands.
    pub fn arity(self) -> usize {
        match self {
            Token::Call(fun) => fun.arity(),
            _ => 0,
        }
    }
}

/// A formula. Its tokens are in postfix order: operands before what is applied to them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Formula {
    /// The tokens; the last one is the root.
    pub tokens: Vec<Token>,
}

/// Functions that a search takes, by name, and what they are: plain operations of the language, and powers that have a name of their own.
const NAMES: &[(&str, Fun)] = &[
    ("square", Fun::Square),
    ("cube", Fun::Cube),
    ("reciprocal", Fun::Reciprocal),
    ("minimum", Fun::Plain(ScalarOp::Min)),
    ("maximum", Fun::Plain(ScalarOp::Max)),
];

/// The function of formulas with this name: one that takes and gives real numbers. Unlike those of optimizers none is protected.
pub fn named(name: &str) -> Option<Fun> {
    let own = NAMES.iter().find(|(n, _)| *n == name).map(|(_, f)| *f);
    own.or_else(|| ScalarOp::parse(name).map(Fun::Plain).filter(|f| allowed(*f)))
}

/// The name of a function of formulas.
pub fn name(fun: Fun) -> &'static str {
    match fun {
        Fun::Plain(op) => op.name(),
        _ => NAMES.iter().find(|(_, f)| *f == fun).map_or("", |(n, _)| n),
    }
}

/// All names, for suggestions.
pub fn names() -> Vec<&'static str> {
    let rows = optc_ir::scalar::TABLE.iter().filter(|r| allowed(Fun::Plain(r.op))).map(|r| r.name);
    NAMES.iter().map(|(n, _)| *n).chain(rows).collect()
}

fn allowed(fun: Fun) -> bool {
    match fun {
        Fun::Plain(op) => {
            op.arity() <= 2 && matches!(op.row().class, Class::Float | Class::Number) && !matches!(op, ScalarOp::Trunc | ScalarOp::Fma)
        }
        _ => NAMES.iter().any(|(_, f)| *f == fun),
    }
}

/// The value of a function of numbers.
pub fn value(fun: Fun, x: &[f64]) -> f64 {
    match fun {
        Fun::Plain(op) => eval_float(op, x),
        Fun::Square => x[0] * x[0],
        Fun::Cube => x[0] * x[0] * x[0],
        Fun::Reciprocal => 1.0 / x[0],
        _ => f64::NAN,
    }
}

impl Formula {
    /// A number.
    pub fn constant(x: f64) -> Formula {
        Formula { tokens: vec![Token::Const(x)] }
    }
    /// A variable.
    pub fn var(k: u16) -> Formula {
        Formula { tokens: vec![Token::Var(k)] }
    }
    /// A function of formulas.
    pub fn call(fun: Fun, operands: &[&Formula]) -> Formula {
        let mut tokens: Vec<Token> = operands.iter().flat_map(|f| f.tokens.iter().copied()).collect();
        tokens.push(Token::Call(fun));
        Formula { tokens }
    }

    /// Number of nodes, the measure of complexity.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// Where the formula that ends with this token begins.
    pub fn start(&self, end: usize) -> usize {
        let (mut at, mut open) = (end, 1usize);
        loop {
            open = open - 1 + self.tokens[at].arity();
            if open == 0 {
                return at;
            }
            at -= 1;
        }
    }

    /// The ranges of the operands of the token at `end`, in order.
    pub fn operands(&self, end: usize) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        let mut last = end;
        for _ in 0..self.tokens[end].arity() {
            last -= 1;
            let start = self.start(last);
            out.push((start, last));
            last = start;
        }
        out.reverse();
        out
    }

    /// The part of these tokens, both ends included.
    pub fn part(&self, (start, end): (usize, usize)) -> Formula {
        Formula { tokens: self.tokens[start..=end].to_vec() }
    }

    /// With another part in place of these tokens.
    pub fn with(&self, (start, end): (usize, usize), other: &Formula) -> Formula {
        let mut tokens = Vec::with_capacity(self.tokens.len() + other.tokens.len());
        tokens.extend_from_slice(&self.tokens[..start]);
        tokens.extend_from_slice(&other.tokens);
        tokens.extend_from_slice(&self.tokens[end + 1..]);
        Formula { tokens }
    }

    /// Whether the tokens are one formula over so many variables.
    pub fn is_whole(&self, variables: usize) -> bool {
        let mut depth = 0usize;
        for token in &self.tokens {
            if matches!(token, Token::Var(k) if usize::from(*k) >= variables) || depth < token.arity() {
                return false;
            }
            depth = depth - token.arity() + 1;
        }
        depth == 1
    }

    /// The numbers, in order.
    pub fn numbers(&self) -> Vec<f64> {
        self.tokens.iter().filter_map(|t| if let Token::Const(x) = t { Some(*x) } else { None }).collect()
    }

    /// Puts other numbers in place of its own, in order.
    pub fn set_numbers(&mut self, numbers: &[f64]) {
        let places = self.tokens.iter_mut().filter(|t| matches!(t, Token::Const(_)));
        places.zip(numbers).for_each(|(t, x)| *t = Token::Const(*x));
    }

    /// Whether it has this variable.
    pub fn uses(&self, variable: u16) -> bool {
        self.tokens.contains(&Token::Var(variable))
    }

    /// Its value at one point.
    pub fn at(&self, point: &[f64]) -> f64 {
        let mut stack: Vec<f64> = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            match token {
                Token::Var(k) => stack.push(point[usize::from(*k)]),
                Token::Const(x) => stack.push(*x),
                Token::Call(fun) => {
                    let first = stack.len() - fun.arity();
                    let y = value(*fun, &stack[first..]);
                    stack.truncate(first);
                    stack.push(y);
                }
            }
        }
        stack.pop().unwrap_or(f64::NAN)
    }

    /// As text that reads back as the same formula: postfix, words apart.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for token in &self.tokens {
            if !out.is_empty() {
                out.push(' ');
            }
            let _ = match token {
                Token::Var(k) => write!(out, "${k}"),
                Token::Const(x) => write!(out, "{}", crate::text::number(*x)),
                Token::Call(fun) => write!(out, "{}", name(*fun)),
            };
        }
        out
    }

    /// The formula of a text; `None` if it is none.
    pub fn parse(text: &str) -> Option<Formula> {
        let token = |word: &str| {
            if let Some(number) = word.strip_prefix('$') {
                return number.parse().ok().map(Token::Var);
            }
            named(word).map(Token::Call).or_else(|| word.parse().ok().map(Token::Const))
        };
        let tokens = text.split_whitespace().map(token).collect::<Option<Vec<_>>>()?;
        let found = Formula { tokens };
        found.is_whole(usize::from(u16::MAX)).then_some(found)
    }

    /// An order-free identity: formulas that differ in the order of operands of commutative functions alone have the same. Numbers are part of it.
    pub fn key(&self) -> u128 {
        let mut stack: Vec<u128> = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            let key = match token {
                Token::Var(k) => crate::hash::combine(&[1 << 64, u128::from(*k)]),
                Token::Const(x) => crate::hash::combine(&[2 << 64, u128::from(x.to_bits())]),
                Token::Call(fun) => {
                    let first = stack.len() - fun.arity();
                    let mut words = [3 << 64, u128::from(tag(*fun)), 0, 0];
                    let count = fun.arity();
                    words[2..2 + count].copy_from_slice(&stack[first..]);
                    if fun.commutes() {
                        words[2..2 + count].sort_unstable();
                    }
                    stack.truncate(first);
                    crate::hash::combine(&words[..2 + count])
                }
            };
            stack.push(key);
        }
        stack.pop().unwrap_or(0)
    }
}

/// A number for each function.
fn tag(fun: Fun) -> u32 {
    match fun {
        Fun::Plain(op) => op as u32,
        Fun::Square => 1001,
        Fun::Cube => 1002,
        Fun::Reciprocal => 1003,
        _ => 1004,
    }
}
