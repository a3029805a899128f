//! Formulas as expressions of the language.

use super::expr::{Text, Tight, applied};
use crate::fun::{Fun, Ty};
use crate::regress::formula::{Formula, Token};
use crate::regress::readable::written;
use optc_ir::scalar::ScalarOp;

/// A number as an operand: as it reads best.
fn constant(x: f64) -> Text {
    let (text, atom) = written(x);
    let tight = match (atom, text.starts_with('-')) {
        (true, false) => Tight::Atom,
        (true, true) => Tight::Minus,
        // A root alone is one call.
        (false, false) if text.starts_with("sqrt(") && text.find(')') == Some(text.len() - 1) => Tight::Atom,
        (false, _) => Tight::Product,
    };
    Text { text, tight }
}

/// The formula as an expression over variables of these names.
pub fn formula(formula: &Formula, names: &[String]) -> String {
    let mut stack: Vec<Text> = Vec::new();
    for token in &formula.tokens {
        let text = match token {
            Token::Var(k) => Text::atom(names[usize::from(*k)].as_str()),
            Token::Const(x) => constant(*x),
            Token::Call(fun) => {
                let x = stack.split_off(stack.len() - fun.arity());
                // Powers bind tighter than a sign in front of them, and to the right.
                let x: Vec<Text> = match fun {
                    Fun::Plain(ScalarOp::Sub | ScalarOp::Add) if x[1].text.starts_with('-') => {
                        vec![x[0].clone(), Text::atom(format!("({})", x[1].text))]
                    }
                    _ => x,
                };
                applied(*fun, &x, &[Ty::Leaf; 3], &[false; 3])
            }
        };
        stack.push(text);
    }
    stack.pop().map_or(String::new(), |t| t.text)
}
