//! The table of rules.

use super::term::{Facts, Graph, Known, Op, Term, minus};
use crate::fun::Fun;
use egg::{Id, Pattern, Rewrite, Subst, Var};

/// How sound a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Every bit is the same, NaN payloads and what the condition names aside.
    Exact,
    /// Exact over the reals; rounding, overflow and underflow differ.
    Real,
    /// Near, or in the regime that the condition names: a suggestion.
    Approximate,
}

impl Class {
    /// Its letter: X, R or A.
    pub fn letter(self) -> char {
        match self {
            Class::Exact => 'X',
            Class::Real => 'R',
            Class::Approximate => 'A',
        }
    }
}

/// A rule: a term and one that is equal.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// Its class.
    pub class: Class,
    /// The term, as functions of Hero's names before their arguments.
    pub from: &'static str,
    /// What it is equal to.
    pub to: &'static str,
    /// When it holds, in words.
    pub condition: &'static str,
    /// What is looked at before it is applied.
    pub(crate) when: When,
    /// It only changes the order of operands, which is not told.
    pub(crate) silent: bool,
}

/// What is known before a rule is applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum When {
    /// Nothing.
    Always,
    /// `?k` is above 0.
    PositiveK,
    /// `?k` and `?l` are.
    PositiveKL,
    /// `?a` is never below 0.
    NonnegA,
    /// `?k` is a number.
    NumberK,
    /// `?k` and `?l` are numbers.
    NumbersKL,
    /// `?k` is the double 1 - `?l`.
    Complement,
    /// `?k` and `?l` are numbers whose sum is 1 up to rounding.
    NearComplement,
    /// `?k` is a number and not 0.
    NonzeroK,
    /// `?k` is the learning rate times a number, or a number, at most 0.1.
    Small,
    /// `?a` is finite, as intervals show.
    FiniteA,
}

/// Why the unit of the learning rate is free.
pub(super) const RATE: &str = "every use of the learning rate has this factor; the rate is tuned, so its unit is free";

/// What intervals show.
const FINITE: &str = "intervals show that a is finite for gradients and weights up to 1e6 and a million steps; the sign of 0 aside";

const fn rule(class: Class, name: &'static str, from: &'static str, to: &'static str, when: When, condition: &'static str) -> Rule {
    Rule { name, class, from, to, condition, when, silent: false }
}
const fn silent(name: &'static str, from: &'static str, to: &'static str) -> Rule {
    Rule {
        name,
        class: Class::Exact,
        from,
        to,
        condition: "NaN payloads, and the sign of max/min of zeros, aside",
        when: When::Always,
        silent: true,
    }
}

use Class::{Approximate as A, Exact as X, Real as R};
use When::*;

/// All rules.
pub const TABLE: &[Rule] = &[
    silent("add-commutes", "(add ?a ?b)", "(add ?b ?a)"),
    silent("mul-commutes", "(mul ?a ?b)", "(mul ?b ?a)"),
    silent("max-commutes", "(max ?a ?b)", "(max ?b ?a)"),
    silent("min-commutes", "(min ?a ?b)", "(min ?b ?a)"),
    silent("dot-commutes", "(dot ?a ?b)", "(dot ?b ?a)"),
    rule(X, "negative-negative", "(negative (negative ?a))", "?a", Always, "always"),
    rule(X, "abs-negative", "(abs (negative ?a))", "(abs ?a)", Always, "always"),
    rule(X, "abs-abs", "(abs (abs ?a))", "(abs ?a)", Always, "always"),
    rule(X, "abs-square", "(abs (square ?a))", "(square ?a)", Always, "always"),
    rule(X, "sign-sign", "(sign (sign ?a))", "(sign ?a)", Always, "always"),
    rule(X, "sign-negative", "(sign (negative ?a))", "(negative (sign ?a))", Always, "always"),
    rule(X, "max-same", "(max ?a ?a)", "?a", Always, "always"),
    rule(X, "min-same", "(min ?a ?a)", "?a", Always, "always"),
    rule(X, "mul-one", "(mul ?a 1)", "?a", Always, "always"),
    rule(X, "div-one", "(raw_div ?a 1)", "?a", Always, "always"),
    rule(X, "sub-zero", "(sub ?a 0)", "?a", Always, "always"),
    rule(X, "mul-minus-one", "(mul ?a -1)", "(negative ?a)", Always, "always"),
    rule(X, "add-negative", "(add ?a (negative ?b))", "(sub ?a ?b)", Always, "always"),
    rule(X, "sub-negative", "(sub ?a (negative ?b))", "(add ?a ?b)", Always, "always"),
    rule(X, "mul-negative", "(mul (negative ?a) ?b)", "(negative (mul ?a ?b))", Always, "always"),
    rule(X, "square-negative", "(square (negative ?a))", "(square ?a)", Always, "always"),
    rule(X, "square-abs", "(square (abs ?a))", "(square ?a)", Always, "always"),
    rule(X, "product-square", "(mul ?a ?a)", "(square ?a)", Always, "always"),
    rule(X, "square-product", "(square ?a)", "(mul ?a ?a)", Always, "always"),
    rule(X, "cube-product", "(cube ?a)", "(mul (mul ?a ?a) ?a)", Always, "always: a cube is computed so"),
    rule(X, "product-cube", "(mul (mul ?a ?a) ?a)", "(cube ?a)", Always, "always: a cube is computed so"),
    rule(X, "sqrt-abs", "(sqrt (abs ?a))", "(sqrt ?a)", Always, "always"),
    rule(X, "invert", "(sub 1 ?a)", "(invert ?a)", Always, "always"),
    rule(
        X,
        "weighted-sum",
        "(add (mul ?k ?a) (mul ?l ?b))",
        "(interpolate ?a ?b ?l)",
        Complement,
        "the first weight is the double 1 - the second",
    ),
    rule(
        R,
        "weighted-sum-rounded",
        "(add (mul ?k ?a) (mul ?l ?b))",
        "(interpolate ?a ?b ?l)",
        NearComplement,
        "the weights sum to 1 up to rounding",
    ),
    rule(R, "add-zero", "(add ?a 0)", "?a", Always, "fails for -0 alone, which becomes +0"),
    rule(R, "zero-sub", "(sub 0 ?a)", "(negative ?a)", Always, "fails for +0 alone, which becomes -0"),
    rule(R, "sqrt-nonnegative", "(sqrt ?a)", "(raw_sqrt ?a)", NonnegA, "the argument is never below 0; -0 keeps its sign"),
    rule(R, "sqrt-square", "(sqrt (square ?a))", "(abs ?a)", Always, "no overflow or underflow of the square: 1e-23 < |a| < 1.8e19 in f32"),
    rule(
        R,
        "raw-sqrt-square",
        "(raw_sqrt (square ?a))",
        "(abs ?a)",
        Always,
        "no overflow or underflow of the square: 1e-23 < |a| < 1.8e19 in f32",
    ),
    rule(R, "square-raw-sqrt", "(square (raw_sqrt ?a))", "?a", NonnegA, "the argument is never below 0"),
    rule(R, "sign-scale", "(sign (mul ?k ?a))", "(sign ?a)", PositiveK, "the factor is above 0; no underflow of the product"),
    rule(R, "sign-raw-div", "(sign (raw_div ?a ?k))", "(sign ?a)", PositiveK, "the divisor is above 0; no underflow of the quotient"),
    rule(R, "sign-div", "(sign (div ?a ?k))", "(sign ?a)", PositiveK, "the divisor is above 0; no underflow of the quotient"),
    rule(R, "sign-clip", "(sign (clip_by_global_norm ?a ?k))", "(sign ?a)", PositiveK, "the limit is above 0; the norm is finite"),
    rule(R, "abs-scale", "(abs (mul ?k ?a))", "(mul ?k (abs ?a))", PositiveK, "the factor is above 0"),
    rule(R, "interpolate-same", "(interpolate ?a ?a ?b)", "?a", Always, "rounding; fails where the argument is infinite"),
    rule(R, "interpolate-zero", "(interpolate ?a ?b 0)", "?a", Always, "the other argument is finite"),
    rule(R, "interpolate-one", "(interpolate ?a ?b 1)", "?b", Always, "the other argument is finite"),
    rule(
        R,
        "interpolate-fold",
        "(interpolate ?a (interpolate ?a ?b ?c) ?d)",
        "(interpolate ?a ?b (mul ?c ?d))",
        Always,
        "rounding: two averages with one argument are one",
    ),
    rule(R, "interpolate-scale", "(interpolate (mul ?k ?a) (mul ?k ?b) ?c)", "(mul ?k (interpolate ?a ?b ?c))", Always, "rounding"),
    rule(
        R,
        "clip-clip",
        "(clip_by_global_norm (clip_by_global_norm ?a ?k) ?l)",
        "(clip_by_global_norm ?a (min ?k ?l))",
        PositiveKL,
        "both limits are above 0",
    ),
    rule(R, "mul-numbers", "(mul (mul ?a ?k) ?l)", "(mul ?a (mul ?k ?l))", NumbersKL, "rounding of the product of numbers"),
    rule(R, "mul-number-out", "(mul (mul ?a ?k) ?b)", "(mul (mul ?a ?b) ?k)", NumberK, "rounding"),
    rule(R, "div-number", "(raw_div ?a ?k)", "(mul ?a (reciprocal ?k))", NonzeroK, "rounding; the divisor is not 0"),
    rule(R, "factor", "(add (mul ?a ?b) (mul ?a ?c))", "(mul ?a (add ?b ?c))", Always, "rounding"),
    rule(R, "factor-sub", "(sub (mul ?a ?b) (mul ?a ?c))", "(mul ?a (sub ?b ?c))", Always, "rounding"),
    rule(R, "factor-one", "(add ?a (mul ?a ?k))", "(mul ?a (add 1 ?k))", NumberK, "rounding"),
    rule(R, "double", "(add ?a ?a)", "(mul ?a 2)", Always, "always; the doubled value may overflow alike"),
    rule(R, "mul-reciprocal", "(mul ?a (reciprocal ?b))", "(raw_div ?a ?b)", Always, "rounding"),
    rule(R, "reciprocal-reciprocal", "(reciprocal (reciprocal ?a))", "?a", Always, "rounding; 1/a neither overflows nor underflows"),
    rule(R, "exp-log", "(exp (log ?a))", "(abs ?a)", Always, "rounding"),
    rule(R, "log-exp", "(log (exp ?a))", "?a", Always, "the exponential neither overflows nor underflows"),
    rule(R, "sinh-arcsinh", "(sinh (arcsinh ?a))", "?a", Always, "rounding"),
    rule(R, "tan-arctan", "(tan (arctan ?a))", "?a", Always, "rounding"),
    rule(R, "cube-cbrt", "(cube (cbrt ?a))", "?a", Always, "rounding"),
    rule(R, "cbrt-cube", "(cbrt (cube ?a))", "?a", Always, "no overflow or underflow of the cube"),
    rule(R, "sign-cube", "(sign (cube ?a))", "(sign ?a)", Always, "no underflow of the cube"),
    rule(R, "sign-cbrt", "(sign (cbrt ?a))", "(sign ?a)", Always, "always"),
    rule(R, "sign-tanh", "(sign (tanh ?a))", "(sign ?a)", Always, "always"),
    rule(R, "sign-sinh", "(sign (sinh ?a))", "(sign ?a)", Always, "always"),
    rule(R, "sign-arctan", "(sign (arctan ?a))", "(sign ?a)", Always, "always"),
    rule(R, "sign-arcsinh", "(sign (arcsinh ?a))", "(sign ?a)", Always, "always"),
    rule(R, "div-one-protected", "(div ?a 1)", "?a", Always, "1 + 1e-8 is 1 in f32; in f64 the quotient is one part in 1e8 less"),
    rule(R, "sub-same-finite", "(sub ?a ?a)", "0", FiniteA, FINITE),
    rule(R, "mul-zero-finite", "(mul ?a 0)", "0", FiniteA, FINITE),
    rule(R, "mul-abs-sign", "(mul (abs ?a) (sign ?a))", "?a", Always, "fails for NaN's sign alone"),
    rule(A, "div-abs", "(div ?a (abs ?a))", "(sign ?a)", Always, "|a| is far above 1e-8: a / (|a| + 1e-8) is a soft sign, which is 0 at 0"),
    rule(A, "raw-div-abs", "(raw_div ?a (abs ?a))", "(sign ?a)", Always, "a is not 0, where the quotient is NaN"),
    rule(A, "sub-same", "(sub ?a ?a)", "0", Always, "a is finite"),
    rule(A, "mul-zero", "(mul ?a 0)", "0", Always, "a is finite"),
    rule(A, "div-same", "(raw_div ?a ?a)", "1", Always, "a is finite and not 0"),
    rule(
        A,
        "arcsin-small",
        "(arcsin (clip_by_global_norm ?a ?k))",
        "(clip_by_global_norm ?a ?k)",
        Small,
        "the limit is small: arcsin x = x + x^3/6",
    ),
    rule(
        A,
        "sin-small",
        "(sin (clip_by_global_norm ?a ?k))",
        "(clip_by_global_norm ?a ?k)",
        Small,
        "the limit is small: sin x = x - x^3/6",
    ),
    rule(
        A,
        "tan-small",
        "(tan (clip_by_global_norm ?a ?k))",
        "(clip_by_global_norm ?a ?k)",
        Small,
        "the limit is small: tan x = x + x^3/3",
    ),
    rule(
        A,
        "arctan-small",
        "(arctan (clip_by_global_norm ?a ?k))",
        "(clip_by_global_norm ?a ?k)",
        Small,
        "the limit is small: arctan x = x - x^3/3",
    ),
    rule(
        A,
        "tanh-small",
        "(tanh (clip_by_global_norm ?a ?k))",
        "(clip_by_global_norm ?a ?k)",
        Small,
        "the limit is small: tanh x = x - x^3/3",
    ),
    rule(
        A,
        "sinh-small",
        "(sinh (clip_by_global_norm ?a ?k))",
        "(clip_by_global_norm ?a ?k)",
        Small,
        "the limit is small: sinh x = x + x^3/6",
    ),
    rule(
        A,
        "clip-gradient",
        "(clip_by_global_norm ?a ?k)",
        "?a",
        PositiveK,
        "the norm is below the limit, or changes little from step to step and what follows does not see a common scale of the gradient (as the sign of an average does not)",
    ),
];

/// The rule of this name.
pub(super) fn find(name: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|r| r.name == name)
}

fn known<'a>(egraph: &'a Graph, subst: &Subst, name: &str) -> Option<&'a Known> {
    let var: Var = name.parse().ok()?;
    subst.get(var).map(|id| &egraph[*id].data)
}

/// Whether a term is at most 0.1 for all useful learning rates: a number, or the rate times at most 1.
fn is_small(egraph: &Graph, id: Id) -> bool {
    const SMALL: f64 = 0.1;
    egraph[id].data.number.is_some_and(|x| x > 0.0 && x <= SMALL)
        || egraph[id].nodes.iter().any(|n| match n.op {
            Op::Input(crate::dag::Input::Lr) => true,
            Op::Fun(Fun::Plain(optc_ir::ScalarOp::Mul)) => {
                let number = |k: usize| egraph[n.args[k]].data.number.is_some_and(|x| x > 0.0 && x <= 1.0);
                let rate = |k: usize| egraph[n.args[k]].nodes.iter().any(|m| m.op == Op::Input(crate::dag::Input::Lr));
                number(0) && rate(1) || number(1) && rate(0)
            }
            _ => false,
        })
}

fn holds(when: When, egraph: &Graph, subst: &Subst) -> bool {
    let number = |name: &str| known(egraph, subst, name).and_then(|k| k.number);
    let positive = |name: &str| known(egraph, subst, name).is_some_and(|k| k.positive);
    match when {
        Always => true,
        PositiveK => positive("?k"),
        PositiveKL => positive("?k") && positive("?l"),
        NonnegA => known(egraph, subst, "?a").is_some_and(|k| k.nonneg),
        NumberK => number("?k").is_some(),
        NumbersKL => number("?k").is_some() && number("?l").is_some(),
        Complement => number("?k").zip(number("?l")).is_some_and(|(k, l)| k == minus(1.0, l)),
        NearComplement => {
            number("?k").zip(number("?l")).is_some_and(|(k, l)| (k + l - 1.0).abs() <= 4.0 * f64::EPSILON && k != minus(1.0, l))
        }
        NonzeroK => number("?k").is_some_and(|k| k != 0.0),
        FiniteA => known(egraph, subst, "?a").is_some_and(|k| k.values.finite()),
        Small => "?k".parse().ok().and_then(|v| subst.get(v)).is_some_and(|id| is_small(egraph, *id)),
    }
}

/// A part of the rules, run for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Those that make a number of a term whatever its operands are, and what goes with a 0 or 1.
    Vanishing,
    /// All but those that make a number of a term.
    Rest,
}

/// Rules that make a number of a term whatever its operands are.
const VANISHING: [&str; 5] = ["sub-same-finite", "mul-zero-finite", "sub-same", "mul-zero", "div-same"];
/// What goes with the numbers they make.
const BESIDE: [&str; 5] = ["add-zero", "sub-zero", "zero-sub", "mul-one", "div-one"];

impl Part {
    fn has(self, rule: &Rule) -> bool {
        match self {
            Part::Vanishing => rule.silent || VANISHING.contains(&rule.name) || BESIDE.contains(&rule.name),
            Part::Rest => !VANISHING.contains(&rule.name),
        }
    }
}

/// The rules of a part up to a class, ready to be run.
pub(super) fn rewrites(most: Class, part: Part) -> Vec<Rewrite<Term, Facts>> {
    let all = TABLE.iter().filter(|r| r.class <= most && part.has(r));
    all.map(|rule| {
        let pattern = |text: &str| text.parse::<Pattern<Term>>().unwrap_or_else(|e| panic!("rule {}: {e}", rule.name));
        let (from, to, when) = (pattern(rule.from), pattern(rule.to), rule.when);
        let condition = move |egraph: &mut Graph, _: Id, subst: &Subst| holds(when, egraph, subst);
        let applier = egg::ConditionalApplier { condition, applier: to };
        Rewrite::new(rule.name, from, applier).unwrap_or_else(|e| panic!("rule {}: {e}", rule.name))
    })
    .collect()
}
