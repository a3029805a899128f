//! Terms of the rewriting, and what is known of their values.

use crate::dag::Input;
use crate::fun::{Fun, Ty};
use crate::genome::{Arg, Genome, Reg, Registers};
use crate::interval::{ALL, Given, Interval, of_function, of_input};
use egg::{Analysis, DidMerge, EGraph, FromOp, Id, Language, PatternAst, RecExpr, Subst};
use optc_ir::eval::eval_float;
use optc_ir::scalar::ScalarOp;
use smallvec::SmallVec;
use std::fmt;

/// What a term is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Op {
    /// The update, then the next values of states.
    Program,
    Input(Input),
    /// Bits of a number.
    Const(u64),
    Fun(Fun),
}

/// A term.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Term {
    pub op: Op,
    pub args: SmallVec<[Id; 3]>,
}

impl Term {
    pub(super) fn leaf(op: Op) -> Term {
        Term { op, args: SmallVec::new() }
    }
}

impl Language for Term {
    type Discriminant = Op;
    fn discriminant(&self) -> Op {
        self.op
    }
    fn matches(&self, other: &Self) -> bool {
        self.op == other.op && self.args.len() == other.args.len()
    }
    fn children(&self) -> &[Id] {
        &self.args
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.op {
            Op::Program => f.write_str("program"),
            Op::Input(input) => write!(f, "{input:?}"),
            Op::Const(bits) => f.write_str(&crate::text::number(f64::from_bits(bits))),
            Op::Fun(fun) => f.write_str(&fun.name()),
        }
    }
}

/// A word of a rule that means nothing.
#[derive(Debug)]
pub(super) struct BadWord(String);

impl fmt::Display for BadWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no function with so many arguments", self.0)
    }
}
impl std::error::Error for BadWord {}

impl FromOp for Term {
    type Error = BadWord;
    fn from_op(op: &str, children: Vec<Id>) -> Result<Term, BadWord> {
        if let (Ok(x), true) = (op.parse::<f64>(), children.is_empty()) {
            return Ok(Term::leaf(Op::Const(x.to_bits())));
        }
        match Fun::named(op).filter(|f| f.arity() == children.len()) {
            Some(fun) => Ok(Term { op: Op::Fun(fun), args: children.into() }),
            None => Err(BadWord(op.to_string())),
        }
    }
}

/// What reading and computing a function costs, 10 for a name.
pub(super) fn price(fun: Fun) -> u64 {
    match fun {
        Fun::Copy => 1,
        Fun::Pi | Fun::E | Fun::Eps => 10,
        Fun::Plain(op) => 10 + u64::from(op.row().cost).min(20),
        Fun::Square | Fun::Invert | Fun::Sqrt | Fun::Div => 12,
        Fun::Interpolate => 14,
        Fun::Cube | Fun::Reciprocal => 16,
        Fun::Norm | Fun::GlobalNorm | Fun::Dot | Fun::CosineSim | Fun::ClipByGlobalNorm | Fun::Sum | Fun::Total => 40,
        Fun::Log | Fun::Log10 | Fun::Log2 | Fun::Log1p | Fun::Exp10 | Fun::Power => 30,
    }
}

/// The terms of a program, each state's next value below the root.
pub(super) fn of(genome: &Genome) -> RecExpr<Term> {
    let mut out = RecExpr::default();
    let mut held: Registers<Id> = Registers::empty();
    let constant = |out: &mut RecExpr<Term>, x: f64| out.add(Term::leaf(Op::Const(x.to_bits())));
    for (reg, input) in [(Reg::W, Input::W), (Reg::G, Input::G), (Reg::Lr, Input::Lr), (Reg::T, Input::T)] {
        held.set(reg, out.add(Term::leaf(Op::Input(input))));
    }
    let zero = constant(&mut out, 0.0);
    held.set(Reg::Update, zero);
    for k in 0..genome.states.len() as u8 {
        held.set(Reg::State(k), out.add(Term::leaf(Op::Input(Input::State(k)))));
    }
    for stmt in &genome.body {
        let args: SmallVec<[Id; 3]> = stmt
            .args()
            .iter()
            .map(|a| match a {
                Arg::Reg(r) => held.get(*r).unwrap_or(zero),
                Arg::Const(x) => constant(&mut out, *x),
            })
            .collect();
        let value = if stmt.fun == Fun::Copy { args[0] } else { out.add(Term { op: Op::Fun(stmt.fun), args }) };
        held.set(stmt.out, value);
    }
    let roots = [Reg::Update].into_iter().chain((0..genome.states.len() as u8).map(Reg::State));
    let args = roots.map(|r| held.get(r).unwrap_or(zero)).collect();
    out.add(Term { op: Op::Program, args });
    out
}

/// What is known of a class of equal terms.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// The number it is.
    pub number: Option<f64>,
    /// Its type.
    pub ty: Ty,
    /// It is never below 0 (NaN aside).
    pub nonneg: bool,
    /// It is above 0 (NaN, and underflow of products, aside).
    pub positive: bool,
    /// Its values for gradients and weights up to 1e6 and a million steps, as intervals show them.
    pub values: Interval,
}

/// Keeps what is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The values that states may have.
    pub states: Vec<Interval>,
}

pub(super) type Graph = EGraph<Term, Facts>;

/// The number that a function of numbers is.
fn folded(fun: Fun, x: &[f64]) -> Option<f64> {
    let mut b = crate::dag::Builder::default();
    let args: Vec<_> = x.iter().map(|x| b.constant(*x)).collect();
    let node = fun.expand(&mut b, &args);
    b.number(node).filter(|y| y.is_finite())
}

impl Analysis<Term> for Facts {
    type Data = Known;

    fn make(egraph: &mut Graph, node: &Term, _: Id) -> Known {
        let of = |k: usize| &egraph[node.args[k]].data;
        let given = Given::default();
        let mut known = Known { number: None, ty: Ty::Leaf, nonneg: false, positive: false, values: ALL };
        match node.op {
            Op::Program => {}
            Op::Input(input) => {
                known.ty = if matches!(input, Input::Lr | Input::T) { Ty::Scalar } else { Ty::Leaf };
                known.positive = matches!(input, Input::Lr | Input::T);
                known.values = of_input(input, &given, &egraph.analysis.states);
            }
            Op::Const(bits) => {
                let x = f64::from_bits(bits);
                known = Known { number: Some(x), ty: Ty::Scalar, nonneg: x >= 0.0, positive: x > 0.0, values: Interval::point(x) };
            }
            Op::Fun(fun) => {
                let types: SmallVec<[Ty; 3]> = (0..node.args.len()).map(|k| of(k).ty).collect();
                known.ty = fun.result(&types).unwrap_or(Ty::Leaf);
                let numbers: Option<SmallVec<[f64; 3]>> = (0..node.args.len()).map(|k| of(k).number).collect();
                known.number = numbers.and_then(|x| folded(fun, &x));
                (known.nonneg, known.positive) = signs(fun, node, egraph);
                let values: SmallVec<[Interval; 3]> = (0..node.args.len()).map(|k| of(k).values).collect();
                known.values = of_function(fun, &values, &given);
                if let Some(x) = known.number {
                    (known.nonneg, known.positive) = (x >= 0.0, x > 0.0);
                }
            }
        }
        known.nonneg |= known.positive;
        known
    }

    fn merge(&mut self, a: &mut Known, b: Known) -> DidMerge {
        let old = a.clone();
        a.number = a.number.or(b.number);
        a.ty = a.ty.min(b.ty);
        a.nonneg |= b.nonneg;
        a.positive |= b.positive;
        if b.values.finite() && !a.values.finite() {
            a.values = b.values;
        }
        DidMerge(*a != old, *a != b)
    }

    fn modify(egraph: &mut Graph, id: Id) {
        let Some(x) = egraph[id].data.number else { return };
        let constant = Term::leaf(Op::Const(x.to_bits()));
        if egraph[id].nodes.contains(&constant) {
            return;
        }
        // Explanations need the term that was computed.
        let node = egraph[id].nodes[0].clone();
        let mut pattern = PatternAst::default();
        let children: SmallVec<[Id; 3]> = node
            .args
            .iter()
            .map(|child| {
                let number = egraph[*child].data.number.unwrap_or(f64::NAN);
                pattern.add(egg::ENodeOrVar::ENode(Term::leaf(Op::Const(number.to_bits()))))
            })
            .collect();
        pattern.add(egg::ENodeOrVar::ENode(Term { op: node.op, args: children }));
        let mut result = PatternAst::default();
        result.add(egg::ENodeOrVar::ENode(constant));
        egraph.union_instantiations(&pattern, &result, &Subst::default(), "constant");
    }
}

/// Whether a function's value is never negative, and whether it is positive.
fn signs(fun: Fun, node: &Term, egraph: &Graph) -> (bool, bool) {
    use ScalarOp::*;
    let of = |k: usize| &egraph[node.args[k]].data;
    let both = |f: &dyn Fn(&Known) -> bool| f(of(0)) && f(of(1));
    let same = || node.args[0] == node.args[1];
    match fun {
        Fun::Square | Fun::Sqrt | Fun::Norm | Fun::GlobalNorm | Fun::Plain(Abs | Sqrt) => (true, of(0).positive),
        Fun::Plain(Exp | Exp2 | Cosh) | Fun::Exp10 => (true, true),
        Fun::Plain(Mul) => (same() || both(&|k| k.nonneg), both(&|k| k.positive)),
        Fun::Plain(Add) => (both(&|k| k.nonneg), both(&|k| k.nonneg) && (of(0).positive || of(1).positive)),
        Fun::Plain(Max) => (of(0).nonneg || of(1).nonneg, of(0).positive || of(1).positive),
        Fun::Plain(Min) => (both(&|k| k.nonneg), both(&|k| k.positive)),
        Fun::Plain(Div) | Fun::Div => (both(&|k| k.nonneg), both(&|k| k.positive)),
        Fun::Interpolate => {
            let share = of(2).number.is_some_and(|a| (0.0..=1.0).contains(&a));
            (share && both(&|k| k.nonneg), share && both(&|k| k.positive))
        }
        Fun::Pi | Fun::E | Fun::Eps => (true, true),
        _ => (false, false),
    }
}

/// A number as an operation would give it, for conditions.
pub(super) fn minus(a: f64, b: f64) -> f64 {
    eval_float(ScalarOp::Sub, &[a, b])
}
