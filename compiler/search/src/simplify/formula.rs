//! Formulas of symbolic regression, rewritten by the same rules.

use super::rules::{Class, Part, rewrites};
use super::term::{Facts, Op, Term};
use crate::dag::Input;
use crate::fun::Fun;
use crate::regress::formula::{Formula, Token};
use egg::{CostFunction, Extractor, Id, Language, RecExpr, Runner, SimpleScheduler};
use optc_ir::scalar::ScalarOp;
use std::time::Duration;

/// Rounds of rewriting, and terms held at once: formulas are small.
const ROUNDS: usize = 8;
const TERMS: usize = 2_000;
/// What a term costs that no formula has.
const FOREIGN: u64 = 1 << 40;

/// Nodes of a formula; of two as short the one with the cheaper functions.
struct Nodes;

impl CostFunction<Term> for Nodes {
    type Cost = u64;
    fn cost<C: FnMut(Id) -> u64>(&mut self, node: &Term, mut costs: C) -> u64 {
        let own = match node.op {
            Op::Program => 0,
            Op::Input(_) => 100,
            Op::Const(bits) => 100 + crate::text::number(f64::from_bits(bits)).len() as u64,
            Op::Fun(Fun::Plain(op)) => 100 + u64::from(op.row().cost.min(40)),
            Op::Fun(Fun::Square | Fun::Cube) => 101,
            // A number divided by, and one less the argument.
            Op::Fun(Fun::Reciprocal | Fun::Invert) => 207,
            Op::Fun(_) => FOREIGN,
        };
        node.children().iter().fold(own, |sum, id| sum.saturating_add(costs(*id)))
    }
}

/// The shortest formula that the rules that are exact over the reals find equal. Roundings differ: compare values before it takes the other's place.
pub fn shortest(formula: &Formula) -> Formula {
    let mut start = RecExpr::default();
    let mut stack: Vec<Id> = Vec::new();
    for token in &formula.tokens {
        let id = match token {
            // The rules know inputs by number; a variable is like the state of an optimizer, of which nothing is known.
            Token::Var(k) => match u8::try_from(*k) {
                Ok(k) => start.add(Term::leaf(Op::Input(Input::State(k)))),
                Err(_) => return formula.clone(),
            },
            Token::Const(x) => start.add(Term::leaf(Op::Const(x.to_bits()))),
            Token::Call(fun) => {
                let args = stack.split_off(stack.len() - fun.arity()).into();
                start.add(Term { op: Op::Fun(*fun), args })
            }
        };
        stack.push(id);
    }
    let runner: Runner<Term, Facts> = Runner::default()
        .with_explanations_enabled()
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(ROUNDS)
        .with_node_limit(TERMS)
        .with_time_limit(Duration::from_secs(30))
        .with_expr(&start)
        .run(&rewrites(Class::Real, Part::Rest));
    let (cost, best) = Extractor::new(&runner.egraph, Nodes).find_best(runner.roots[0]);
    if cost >= FOREIGN { formula.clone() } else { back(&best).unwrap_or_else(|| formula.clone()) }
}

/// A term as a formula. `None` if it is none.
fn back(expr: &RecExpr<Term>) -> Option<Formula> {
    let mut made: Vec<Formula> = Vec::new();
    for node in expr.as_ref() {
        let x: Vec<&Formula> = node.children().iter().map(|c| &made[usize::from(*c)]).collect();
        let formula = match node.op {
            Op::Input(Input::State(k)) => Formula::var(u16::from(k)),
            Op::Const(bits) => Formula::constant(f64::from_bits(bits)),
            Op::Fun(Fun::Invert) => Formula::call(Fun::Plain(ScalarOp::Sub), &[&Formula::constant(1.0), x[0]]),
            Op::Fun(Fun::Reciprocal) => Formula::call(Fun::Plain(ScalarOp::Div), &[&Formula::constant(1.0), x[0]]),
            Op::Fun(fun @ (Fun::Plain(_) | Fun::Square | Fun::Cube)) => Formula::call(fun, &x),
            _ => return None,
        };
        made.push(formula);
    }
    made.pop()
}
