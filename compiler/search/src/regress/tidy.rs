//! Formulas in a shorter form: numbers computed, what does nothing left out, powers under their names. Cheap, and the same everywhere; the rewriting by equalities
//! ([`crate::simplify`]) is for what is shown.

use super::formula::{Formula, Token, value};
use crate::fun::Fun;
use optc_ir::scalar::ScalarOp::{Abs, Add, Div, Exp, Log, Mul, Neg, Pow, Sqrt, Sub};

/// A shorter formula that is equal over the reals.
pub fn tidy(formula: &Formula) -> Formula {
    let mut now = pass(formula);
    // Each pass shortens or leaves the formula as it is; few are needed.
    for _ in 0..8 {
        let next = pass(&now);
        if next == now {
            break;
        }
        now = next;
    }
    now
}

fn number(f: &Formula) -> Option<f64> {
    match f.tokens[..] {
        [Token::Const(x)] => Some(x),
        _ => None,
    }
}

/// The function at the root and its operands.
fn root(f: &Formula) -> Option<(Fun, Vec<Formula>)> {
    let end = f.size() - 1;
    match f.tokens[end] {
        Token::Call(fun) => Some((fun, f.operands(end).into_iter().map(|r| f.part(r)).collect())),
        _ => None,
    }
}

fn plain(f: &Formula) -> Option<(optc_ir::ScalarOp, Vec<Formula>)> {
    match root(f)? {
        (Fun::Plain(op), x) => Some((op, x)),
        _ => None,
    }
}

fn pass(formula: &Formula) -> Formula {
    let mut stack: Vec<Formula> = Vec::new();
    for token in &formula.tokens {
        let made = match token {
            Token::Call(fun) => {
                let first = stack.len() - fun.arity();
                let x: Vec<Formula> = stack.split_off(first);
                applied(*fun, &x)
            }
            leaf => Formula { tokens: vec![*leaf] },
        };
        stack.push(made);
    }
    stack.pop().unwrap_or_default()
}

fn call(op: optc_ir::ScalarOp, x: &[&Formula]) -> Formula {
    Formula::call(Fun::Plain(op), x)
}

/// A function of shorter formulas.
fn applied(fun: Fun, x: &[Formula]) -> Formula {
    let numbers: Option<Vec<f64>> = x.iter().map(number).collect();
    if let Some(numbers) = numbers {
        let y = value(fun, &numbers);
        if y.is_finite() {
            return Formula::constant(y);
        }
    }
    let short = match fun {
        Fun::Plain(Add) => sum(&x[0], &x[1]),
        Fun::Plain(Sub) => difference(&x[0], &x[1]),
        Fun::Plain(Mul) => product(&x[0], &x[1]),
        Fun::Plain(Div) => quotient(&x[0], &x[1]),
        Fun::Plain(Neg) => match plain(&x[0]) {
            Some((Neg, inner)) => Some(inner[0].clone()),
            Some((Sub, inner)) => Some(call(Sub, &[&inner[1], &inner[0]])),
            Some((op @ (Mul | Div), inner)) => number(&inner[0]).map(|c| call(op, &[&Formula::constant(-c), &inner[1]])),
            _ => None,
        },
        Fun::Plain(Pow) => match number(&x[1]) {
            Some(1.0) => Some(x[0].clone()),
            Some(2.0) => Some(applied(Fun::Square, &x[..1])),
            Some(3.0) => Some(Formula::call(Fun::Cube, &[&x[0]])),
            Some(0.5) => Some(call(Sqrt, &[&x[0]])),
            Some(-1.0) => Some(Formula::call(Fun::Reciprocal, &[&x[0]])),
            _ => None,
        },
        Fun::Plain(Abs) => match root(&x[0]) {
            Some((Fun::Plain(Abs | Exp | Sqrt) | Fun::Square, _)) => Some(x[0].clone()),
            _ => None,
        },
        Fun::Plain(Log) => match root(&x[0]) {
            Some((Fun::Plain(Exp), inner)) => Some(inner[0].clone()),
            _ => None,
        },
        // Where the logarithm is defined.
        Fun::Plain(Exp) => match root(&x[0]) {
            Some((Fun::Plain(Log), inner)) => Some(inner[0].clone()),
            _ => None,
        },
        Fun::Square => match root(&x[0]) {
            Some((Fun::Plain(Neg | Abs), inner)) => Some(Formula::call(Fun::Square, &[&inner[0]])),
            Some((Fun::Plain(Sqrt), inner)) => Some(inner[0].clone()),
            Some((Fun::Plain(op @ (Mul | Div)), inner)) if number(&inner[0]).is_some() => {
                let c = number(&inner[0]).unwrap_or(1.0);
                Some(applied(Fun::Plain(op), &[Formula::constant(c * c), applied(Fun::Square, &inner[1..])]))
            }
            _ => None,
        },
        Fun::Plain(Sqrt) => match plain(&x[0]) {
            Some((op @ (Mul | Div), inner)) => number(&inner[0])
                .filter(|c| *c > 0.0)
                .map(|c| applied(Fun::Plain(op), &[Formula::constant(c.sqrt()), applied(Fun::Plain(Sqrt), &inner[1..])])),
            _ => None,
        },
        Fun::Reciprocal => match root(&x[0]) {
            Some((Fun::Reciprocal, inner)) => Some(inner[0].clone()),
            Some((Fun::Plain(Div), inner)) => Some(applied(Fun::Plain(Div), &[inner[1].clone(), inner[0].clone()])),
            _ => Some(call(Div, &[&Formula::constant(1.0), &x[0]])),
        },
        _ => None,
    };
    short.unwrap_or_else(|| Formula::call(fun, &x.iter().collect::<Vec<_>>()))
}

fn sum(a: &Formula, b: &Formula) -> Option<Formula> {
    if number(a) == Some(0.0) {
        return Some(b.clone());
    }
    if number(b) == Some(0.0) {
        return Some(a.clone());
    }
    // A negative number or factor is subtracted.
    if let Some(c) = number(b).filter(|c| *c < 0.0) {
        return Some(call(Sub, &[a, &Formula::constant(-c)]));
    }
    if let Some((op, inner)) = plain(b) {
        match (op, number(&inner[0])) {
            (Neg, _) => return Some(applied(Fun::Plain(Sub), &[a.clone(), inner[0].clone()])),
            (Mul | Div, Some(c)) if c < 0.0 => {
                let positive = applied(Fun::Plain(op), &[Formula::constant(-c), inner[1].clone()]);
                return Some(applied(Fun::Plain(Sub), &[a.clone(), positive]));
            }
            _ => {}
        }
    }
    if let Some((op, inner)) = plain(a) {
        match (op, number(&inner[0])) {
            (Neg, _) => return Some(call(Sub, &[b, &inner[0]])),
            (Mul | Div, Some(c)) if c < 0.0 => {
                let positive = applied(Fun::Plain(op), &[Formula::constant(-c), inner[1].clone()]);
                return Some(applied(Fun::Plain(Sub), &[b.clone(), positive]));
            }
            _ => {}
        }
    }
    if a == b {
        return Some(call(Mul, &[&Formula::constant(2.0), a]));
    }
    None
}

fn difference(a: &Formula, b: &Formula) -> Option<Formula> {
    if number(b) == Some(0.0) {
        return Some(a.clone());
    }
    if number(a) == Some(0.0) {
        return Some(applied(Fun::Plain(Neg), std::slice::from_ref(b)));
    }
    if let Some(c) = number(b).filter(|c| *c < 0.0) {
        return Some(call(Add, &[a, &Formula::constant(-c)]));
    }
    if let Some((op, inner)) = plain(b) {
        match (op, number(&inner[0])) {
            (Neg, _) => return Some(applied(Fun::Plain(Add), &[a.clone(), inner[0].clone()])),
            (Mul | Div, Some(c)) if c < 0.0 => {
                return Some(applied(Fun::Plain(Add), &[a.clone(), applied(Fun::Plain(op), &[Formula::constant(-c), inner[1].clone()])]));
            }
            _ => {}
        }
    }
    (a == b).then(|| Formula::constant(0.0))
}

fn product(a: &Formula, b: &Formula) -> Option<Formula> {
    // Numbers come first.
    if let (None, Some(c)) = (number(a), number(b)) {
        return Some(applied(Fun::Plain(Mul), &[Formula::constant(c), a.clone()]));
    }
    if let Some(c) = number(a) {
        if c == 1.0 {
            return Some(b.clone());
        }
        if c == -1.0 {
            return Some(applied(Fun::Plain(Neg), std::slice::from_ref(b)));
        }
        if c == 0.0 {
            return Some(Formula::constant(0.0));
        }
        match plain(b) {
            Some((op @ (Mul | Div), inner)) if number(&inner[0]).is_some() => {
                let d = number(&inner[0]).unwrap_or(1.0);
                return Some(applied(Fun::Plain(op), &[Formula::constant(c * d), inner[1].clone()]));
            }
            Some((Div, inner)) if number(&inner[1]).is_some_and(|d| d != 0.0) => {
                let d = number(&inner[1]).unwrap_or(1.0);
                return Some(applied(Fun::Plain(Mul), &[Formula::constant(c / d), inner[0].clone()]));
            }
            Some((Neg, inner)) => return Some(applied(Fun::Plain(Mul), &[Formula::constant(-c), inner[0].clone()])),
            _ => {}
        }
        return None;
    }
    if a == b {
        return Some(Formula::call(Fun::Square, &[a]));
    }
    match (plain(a), plain(b)) {
        (Some((Neg, p)), Some((Neg, q))) => Some(applied(Fun::Plain(Mul), &[p[0].clone(), q[0].clone()])),
        (Some((Neg, p)), _) => Some(applied(Fun::Plain(Neg), &[call(Mul, &[&p[0], b])])),
        (_, Some((Neg, q))) => Some(applied(Fun::Plain(Neg), &[call(Mul, &[a, &q[0]])])),
        // Numbers come out.
        (Some((Mul, p)), _) if number(&p[0]).is_some() => {
            let rest = applied(Fun::Plain(Mul), &[p[1].clone(), b.clone()]);
            Some(applied(Fun::Plain(Mul), &[p[0].clone(), rest]))
        }
        (_, Some((Mul, q))) if number(&q[0]).is_some() => {
            let rest = applied(Fun::Plain(Mul), &[a.clone(), q[1].clone()]);
            Some(applied(Fun::Plain(Mul), &[q[0].clone(), rest]))
        }
        _ => None,
    }
}

fn quotient(a: &Formula, b: &Formula) -> Option<Formula> {
    if let Some(c) = number(b).filter(|c| *c != 0.0) {
        return Some(applied(Fun::Plain(Mul), &[Formula::constant(1.0 / c), a.clone()]));
    }
    if number(a) == Some(0.0) {
        return Some(Formula::constant(0.0));
    }
    if a == b {
        return Some(Formula::constant(1.0));
    }
    if let Some((Mul, q)) = plain(b)
        && let Some(c) = number(&q[0]).filter(|c| *c != 0.0)
    {
        let above = applied(Fun::Plain(Mul), &[Formula::constant(1.0 / c), a.clone()]);
        return Some(applied(Fun::Plain(Div), &[above, q[1].clone()]));
    }
    if let Some((Mul, p)) = plain(a)
        && let Some(c) = number(&p[0])
    {
        // One number in front of the whole.
        let rest = applied(Fun::Plain(Div), &[p[1].clone(), b.clone()]);
        return Some(applied(Fun::Plain(Mul), &[Formula::constant(c), rest]));
    }
    if let Some((Neg, p)) = plain(a) {
        return Some(applied(Fun::Plain(Neg), &[applied(Fun::Plain(Div), &[p[0].clone(), b.clone()])]));
    }
    if let Some((Neg, q)) = plain(b) {
        return Some(applied(Fun::Plain(Neg), &[applied(Fun::Plain(Div), &[a.clone(), q[0].clone()])]));
    }
    None
}
