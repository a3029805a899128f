//! Terms as programs and as text.

use super::term::{Op, Term};
use crate::dag::Input;
use crate::fun::Fun;
use crate::genome::{Arg, Genome, MAX_NAMED, Reg, Stmt};
use egg::{Id, Language, RecExpr};
use optc_ir::scalar::ScalarOp;
use rustc_hash::FxHashMap;

fn register(input: Input) -> Reg {
    match input {
        Input::W => Reg::W,
        Input::G => Reg::G,
        Input::Lr => Reg::Lr,
        Input::T => Reg::T,
        Input::State(k) => Reg::State(k),
    }
}

/// A program of terms. Values that are needed once live in registers that are used again.
pub(super) fn genome(of: &Genome, expr: &RecExpr<Term>) -> Genome {
    let nodes = expr.as_ref();
    let root = &nodes[nodes.len() - 1];
    let mut last: FxHashMap<Id, usize> = FxHashMap::default();
    for (i, node) in nodes.iter().enumerate() {
        node.children().iter().for_each(|c| _ = last.insert(*c, i));
    }
    let mut free: Vec<u8> = (0..MAX_NAMED as u8).rev().collect();
    let mut held: Vec<Arg> = Vec::with_capacity(nodes.len());
    let mut body = Vec::new();
    for (i, node) in nodes[..nodes.len() - 1].iter().enumerate() {
        let arg = match node.op {
            Op::Input(input) => Arg::Reg(register(input)),
            Op::Const(bits) => Arg::Const(f64::from_bits(bits)),
            Op::Fun(fun) => {
                let args: Vec<Arg> = node.children().iter().map(|c| held[usize::from(*c)]).collect();
                for child in node.children() {
                    if let (Arg::Reg(Reg::Temp(k)), Some(l)) = (held[usize::from(*child)], last.get(child))
                        && *l == i
                        && !free.contains(&k)
                    {
                        free.push(k);
                    }
                }
                // A simplified program never needs more registers at a time than it has statements, which are few.
                let out = Reg::Temp(free.pop().unwrap_or(MAX_NAMED as u8 - 1));
                body.push(Stmt::new(out, fun, &args));
                Arg::Reg(out)
            }
            Op::Program => Arg::Const(0.0),
        };
        held.push(arg);
    }
    let results: Vec<Arg> = root.children().iter().map(|c| held[usize::from(*c)]).collect();
    // States are assigned at once: old values that others take over are kept first.
    let mut kept: Vec<Arg> = results.clone();
    for (k, result) in results.iter().enumerate() {
        if let Arg::Reg(Reg::State(s)) = result
            && k != usize::from(*s) + 1
        {
            let out = Reg::Temp(free.pop().unwrap_or(MAX_NAMED as u8 - 1));
            body.push(Stmt::new(out, Fun::Copy, &[*result]));
            kept[k] = Arg::Reg(out);
        }
    }
    for (k, result) in kept.iter().enumerate() {
        let out = if k == 0 { Reg::Update } else { Reg::State(k as u8 - 1) };
        if *result != Arg::Reg(out) {
            body.push(Stmt::new(out, Fun::Copy, &[*result]));
        }
    }
    Genome { states: of.states.clone(), body }
}

/// The text of a term.
pub(super) fn text(genome: &Genome, expr: &RecExpr<Term>) -> String {
    let mut texts: Vec<(String, u8)> = Vec::new();
    for node in expr.as_ref() {
        let of = |k: usize, least: u8| {
            let (text, tight) = &texts[usize::from(node.children()[k])];
            if *tight >= least { text.clone() } else { format!("({text})") }
        };
        let text = match node.op {
            Op::Input(input) => (crate::text::register(genome, register(input)), 9),
            Op::Const(bits) => (crate::text::number(f64::from_bits(bits)), 9),
            Op::Fun(Fun::Plain(ScalarOp::Add)) => (format!("{} + {}", of(0, 1), of(1, 2)), 1),
            Op::Fun(Fun::Plain(ScalarOp::Sub)) => (format!("{} - {}", of(0, 1), of(1, 2)), 1),
            Op::Fun(Fun::Plain(ScalarOp::Mul)) => (format!("{} * {}", of(0, 2), of(1, 3)), 2),
            Op::Fun(Fun::Div) => (format!("{} / {}", of(0, 2), of(1, 3)), 2),
            Op::Fun(_) | Op::Program => {
                let args: Vec<String> = (0..node.children().len()).map(|k| of(k, 0)).collect();
                (format!("{node}({})", args.join(", ")), 9)
            }
        };
        texts.push(text);
    }
    texts.pop().map_or(String::new(), |(text, _)| text)
}

/// The program with the learning rate in the unit in which it is used, and that unit, where every use is a product with one and the same number.
pub(super) fn free_rate(genome: Genome) -> (Genome, f64) {
    let rate = Arg::Reg(Reg::Lr);
    let mut factor: Option<f64> = None;
    let mut places = Vec::new();
    for (i, stmt) in genome.body.iter().enumerate() {
        if !stmt.args().contains(&rate) {
            continue;
        }
        let number = match (stmt.fun, stmt.args[0], stmt.args[1]) {
            (Fun::Plain(ScalarOp::Mul), Arg::Const(x), r) | (Fun::Plain(ScalarOp::Mul), r, Arg::Const(x)) if r == rate => x,
            _ => return (genome, 1.0),
        };
        if factor.is_some_and(|f| f != number) || number <= 0.0 {
            return (genome, 1.0);
        }
        factor = Some(number);
        places.push(i);
    }
    let Some(factor) = factor else { return (genome, 1.0) };
    let mut out = genome;
    for i in places {
        out.body[i] = Stmt::new(out.body[i].out, Fun::Copy, &[rate]);
    }
    (out, factor)
}
