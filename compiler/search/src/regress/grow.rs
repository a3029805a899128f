//! Random formulas and changes of formulas.

use super::formula::{Formula, Token};
use super::view::View;
use crate::fun::Fun;
use crate::rng::Stream;
use optc_ir::scalar::ScalarOp;

/// The formulas that may be reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    /// Functions.
    pub functions: Vec<Fun>,
    /// Number of variables.
    pub variables: usize,
    /// Most nodes.
    pub size: usize,
    /// Numbers are drawn log-uniformly between these, with either sign; `None` where formulas have none but those that are solved for.
    pub constants: Option<(f64, f64)>,
    /// Whether what is kept may have powers with any fixed exponent, also where the functions have none.
    pub powers: bool,
    /// Variables that what is kept must have.
    pub required: Vec<u16>,
}

/// The functions of a space where none are named.
pub const PLAIN: &[&str] = &["add", "sub", "mul", "div", "square", "sqrt", "exp", "log", "sin", "cos"];

/// One new leaf in so many is a number.
const NUMBERS: usize = 6;
/// Changes are tried so often before the parent is given back.
const TRIES: usize = 16;
/// Largest formula that is drawn anew.
const FRESH: usize = 7;

/// Weights of changes: a number, a function, a leaf, one more at a leaf, one more anywhere, one less, a part drawn anew, operands exchanged, operands turned, a part more that is solved for, a part of
/// another formula, such a part more that is solved for, all operands within the same function, a part once more with other variables beside it.
const MIX: [u32; 14] = [4, 6, 8, 8, 8, 8, 4, 2, 6, 6, 8, 6, 4, 6];

impl Space {
    /// Whether formulas may have this function: those that are named, and what coefficients and whole powers are written with.
    fn has(&self, fun: Fun) -> bool {
        use ScalarOp::{Add, Div, Mul, Neg, Pow, Sqrt, Sub};
        let arithmetic = matches!(fun, Fun::Plain(Add | Sub | Mul | Div | Neg) | Fun::Square | Fun::Cube | Fun::Reciprocal);
        arithmetic || self.functions.contains(&fun) || self.powers && matches!(fun, Fun::Plain(Sqrt | Pow))
    }

    /// Whether a formula may be kept.
    pub fn allows(&self, formula: &Formula) -> bool {
        formula.size() <= self.size
            && self.required.iter().all(|v| formula.uses(*v))
            && formula.tokens.iter().all(|t| if let Token::Call(fun) = t { self.has(*fun) } else { true })
    }

    /// Whether what is seen through a view can be written with the functions of the space.
    pub fn sees(&self, view: View) -> bool {
        match view {
            View::Exponential => self.has(Fun::Plain(ScalarOp::Exp)),
            View::Square => self.has(Fun::Plain(ScalarOp::Sqrt)),
            View::Sum | View::Product | View::Reciprocal => true,
        }
    }

    fn leaf(&self, rng: &mut Stream) -> Token {
        if let Some(constants) = self.constants
            && (self.variables == 0 || rng.below(NUMBERS) == 0)
        {
            return Token::Const(draw(constants, rng));
        }
        Token::Var(rng.below(self.variables.max(1)) as u16)
    }

    fn of_arity(&self, arity: usize, rng: &mut Stream) -> Option<Fun> {
        let count = self.functions.iter().filter(|f| f.arity() == arity).count();
        let k = if count == 0 { return None } else { rng.below(count) };
        self.functions.iter().filter(|f| f.arity() == arity).nth(k).copied()
    }

    fn function(&self, rng: &mut Stream) -> Option<Fun> {
        // Functions of two arguments are drawn as often as those of one, however many there are: without them nothing grows.
        let arity = if rng.below(5) < 3 { 2 } else { 1 };
        self.of_arity(arity, rng).or_else(|| self.of_arity(3 - arity, rng))
    }

    /// A random formula of about so many nodes.
    pub fn random(&self, size: usize, rng: &mut Stream) -> Formula {
        let mut out = Formula { tokens: vec![self.leaf(rng)] };
        for _ in 0..size {
            if out.size() >= size {
                break;
            }
            let leaves: Vec<usize> = (0..out.size()).filter(|k| out.tokens[*k].arity() == 0).collect();
            let at = leaves[rng.below(leaves.len())];
            let Some(fun) = self.function(rng) else { break };
            out = out.with((at, at), &self.wrapped(fun, Formula { tokens: vec![out.tokens[at]] }, rng));
        }
        out
    }

    /// A formula with other variables in the place of its own, as far as there are any: laws are often the same in each coordinate or for each body.
    fn renamed(&self, f: &Formula, rng: &mut Stream) -> Option<Formula> {
        let mut others: Vec<u16> = (0..self.variables as u16).filter(|v| !f.uses(*v)).collect();
        let mut names: Vec<(u16, u16)> = Vec::new();
        let mut out = f.clone();
        for token in &mut out.tokens {
            let Token::Var(k) = *token else { continue };
            let new = match names.iter().find(|(old, _)| *old == k) {
                Some((_, new)) => *new,
                None if others.is_empty() => k,
                None => others.swap_remove(rng.below(others.len())),
            };
            names.push((k, new));
            *token = Token::Var(new);
        }
        (out != *f).then_some(out)
    }

    /// A function of a formula, and of a leaf where it takes two.
    fn wrapped(&self, fun: Fun, inner: Formula, rng: &mut Stream) -> Formula {
        if fun.arity() == 1 {
            return Formula::call(fun, &[&inner]);
        }
        let other = Formula { tokens: vec![self.leaf(rng)] };
        if rng.below(2) == 0 { Formula::call(fun, &[&inner, &other]) } else { Formula::call(fun, &[&other, &inner]) }
    }

    /// A child of a formula; `other` is one that parts may come from.
    pub fn child(&self, parent: &Formula, other: &Formula, view: View, rng: &mut Stream) -> Formula {
        for _ in 0..TRIES {
            if let Some(child) = self.change(parent, other, view, rng)
                && child.size() <= self.size
                && child.tokens.iter().any(|t| matches!(t, Token::Var(_)))
                && child != *parent
            {
                return child;
            }
        }
        parent.clone()
    }

    fn change(&self, f: &Formula, other: &Formula, view: View, rng: &mut Stream) -> Option<Formula> {
        let total: u32 = MIX.iter().sum();
        let mut at = rng.below(total as usize) as u32;
        let kind = MIX.iter().position(|w| {
            let here = at < *w;
            at = at.saturating_sub(*w);
            here
        })?;
        let pick = |keep: &dyn Fn(&Token) -> bool, rng: &mut Stream| {
            let all: Vec<usize> = (0..f.size()).filter(|k| keep(&f.tokens[*k])).collect();
            if all.is_empty() { None } else { Some(all[rng.below(all.len())]) }
        };
        let mut out = f.clone();
        match kind {
            0 => {
                let at = pick(&|t| matches!(t, Token::Const(_)), rng)?;
                let Token::Const(x) = f.tokens[at] else { return None };
                let sign = if rng.below(10) == 0 { -1.0 } else { 1.0 };
                let y = sign * x * rng.normal().exp2();
                out.tokens[at] = Token::Const(if y.is_finite() && y != 0.0 { y } else { 1.0 });
            }
            1 => {
                let at = pick(&|t| t.arity() > 0, rng)?;
                out.tokens[at] = Token::Call(self.of_arity(f.tokens[at].arity(), rng)?);
            }
            2 => {
                let at = pick(&|t| t.arity() == 0, rng)?;
                out.tokens[at] = self.leaf(rng);
            }
            3 => {
                let at = pick(&|t| t.arity() == 0, rng)?;
                let fun = self.function(rng)?;
                return Some(f.with((at, at), &self.wrapped(fun, Formula { tokens: vec![f.tokens[at]] }, rng)));
            }
            4 => {
                let end = rng.below(f.size());
                let range = (f.start(end), end);
                let fun = self.function(rng)?;
                return Some(f.with(range, &self.wrapped(fun, f.part(range), rng)));
            }
            5 => {
                let end = pick(&|t| t.arity() > 0, rng)?;
                let operands = f.operands(end);
                let kept = operands[rng.below(operands.len())];
                return Some(f.with((f.start(end), end), &f.part(kept)));
            }
            6 => {
                let end = rng.below(f.size());
                let fresh = 1 + rng.below(FRESH);
                return Some(f.with((f.start(end), end), &self.random(fresh, rng)));
            }
            7 | 8 => {
                let end = pick(&|t| t.arity() == 2, rng)?;
                let Token::Call(fun) = f.tokens[end] else { return None };
                let x = f.operands(end);
                if kind == 7 {
                    return Some(f.with((f.start(end), end), &Formula::call(fun, &[&f.part(x[1]), &f.part(x[0])])));
                }
                // (a o b) p c becomes a o (b p c), and the other way round.
                let (left, right) = (f.tokens[x[0].1], f.tokens[x[1].1]);
                let turned = match (left, right) {
                    (Token::Call(inner), _) if inner.arity() == 2 => {
                        let y = f.operands(x[0].1);
                        Formula::call(inner, &[&f.part(y[0]), &Formula::call(fun, &[&f.part(y[1]), &f.part(x[1])])])
                    }
                    (_, Token::Call(inner)) if inner.arity() == 2 => {
                        let y = f.operands(x[1].1);
                        Formula::call(inner, &[&Formula::call(fun, &[&f.part(x[0]), &f.part(y[0])]), &f.part(y[1])])
                    }
                    _ => return None,
                };
                return Some(f.with((f.start(end), end), &turned));
            }
            9 => {
                let fresh = 1 + rng.below(FRESH);
                return Some(Formula::call(joining(view), &[f, &self.random(fresh, rng)]));
            }
            12 => {
                let end = pick(&|t| t.arity() == 2, rng)?;
                let Token::Call(fun) = f.tokens[end] else { return None };
                let inner = self.of_arity(1, rng)?;
                // All terms of a sum, all factors of a product: a sum of squares is found from a sum.
                let mut open = vec![(f.start(end), end)];
                let mut out: Option<Formula> = None;
                while let Some(range) = open.pop() {
                    if f.tokens[range.1] == Token::Call(fun) && (fun.commutes() || range.1 == end) {
                        open.extend(f.operands(range.1).into_iter().rev());
                        continue;
                    }
                    let wrapped = Formula::call(inner, &[&f.part(range)]);
                    out = Some(out.map_or_else(|| wrapped.clone(), |out| Formula::call(fun, &[&out, &wrapped])));
                }
                return Some(f.with((f.start(end), end), &out?));
            }
            13 => {
                let end = rng.below(f.size());
                let range = (f.start(end), end);
                let part = f.part(range);
                let twin = self.renamed(&part, rng)?;
                let fun = self.of_arity(2, rng)?;
                return Some(f.with(range, &Formula::call(fun, &[&part, &twin])));
            }
            _ => {
                let end = rng.below(other.size());
                let taken = other.part((other.start(end), end));
                if kind == 11 {
                    return Some(Formula::call(joining(view), &[f, &taken]));
                }
                let end = rng.below(f.size());
                return Some(f.with((f.start(end), end), &taken));
            }
        }
        Some(out)
    }
}

/// What joins parts that are solved for.
fn joining(view: View) -> Fun {
    Fun::Plain(if view == View::Product { ScalarOp::Mul } else { ScalarOp::Add })
}

fn draw((low, high): (f64, f64), rng: &mut Stream) -> f64 {
    let x = (low.ln() + rng.uniform() * (high / low).ln()).exp();
    if rng.below(2) == 0 { -x } else { x }
}
