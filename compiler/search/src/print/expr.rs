//! One function applied to arguments, as an expression of the language.

use crate::fun::{Fun, Ty};
use optc_ir::scalar::{Class, ScalarOp};

/// Functions that stand in `std.search`, by their names there.
pub(super) const LIBRARY: &[(Fun, &str)] = &[
    (Fun::Div, "hero_div"),
    (Fun::Sqrt, "hero_sqrt"),
    (Fun::Log, "hero_log"),
    (Fun::Log10, "hero_log10"),
    (Fun::Log2, "hero_log2"),
    (Fun::Log1p, "hero_log1p"),
    (Fun::Exp10, "hero_exp10"),
    (Fun::Interpolate, "hero_interpolate"),
];

/// How tightly a text holds together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tight {
    Compare,
    Sum,
    Product,
    Minus,
    Power,
    Atom,
}

/// An expression and how tightly it holds together.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub text: String,
    pub tight: Tight,
}

impl Text {
    pub(super) fn atom(text: impl Into<String>) -> Text {
        Text { text: text.into(), tight: Tight::Atom }
    }
    /// As an operand that must hold together at least as tightly as this.
    pub(super) fn within(&self, least: Tight) -> String {
        if self.tight >= least { self.text.clone() } else { format!("({})", self.text) }
    }
}

/// A number.
pub(crate) fn number(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_string();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    // Rust writes 1e-8 and 1e16 so, and 0.1, 1.0 and 123.0; the language wants digits on both sides of a point, and takes a bare exponent.
    let text = format!("{x:?}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_string)
}

/// A number as an operand.
pub(super) fn constant(x: f64) -> Text {
    let tight = if x.is_sign_negative() && !x.is_nan() { Tight::Minus } else { Tight::Atom };
    Text { text: number(x), tight }
}

/// Names of scalar operations that are called otherwise in the language.
fn builtin(op: ScalarOp) -> &'static str {
    match op {
        ScalarOp::Min => "minimum",
        ScalarOp::Max => "maximum",
        ScalarOp::Select => "where",
        other => other.name(),
    }
}

/// What the language calls on numbers for all leaves (or, of sums and norms of a leaf, on numbers for each) where the function of arrays does something else there, as in
/// [`Fun::expand`].
fn of_numbers(fun: Fun, x: &[Text]) -> Option<Text> {
    Some(match fun {
        Fun::Sum | Fun::Total => x[0].clone(),
        Fun::Norm | Fun::GlobalNorm => Text::atom(format!("abs({})", x[0].text)),
        Fun::Dot => Text { text: format!("{} * {}", x[0].within(Tight::Product), x[1].within(Tight::Minus)), tight: Tight::Product },
        Fun::CosineSim => {
            let product = format!("{} * {}", x[0].within(Tight::Product), x[1].within(Tight::Minus));
            Text { text: format!("{product} / (abs({}) * abs({}) + 1e-8)", x[0].text, x[1].text), tight: Tight::Product }
        }
        Fun::ClipByGlobalNorm => {
            let factor = format!("minimum(1, {} / abs({}))", x[1].within(Tight::Minus), x[0].text);
            Text { text: format!("{factor} * {}", x[0].within(Tight::Minus)), tight: Tight::Product }
        }
        _ => return None,
    })
}

/// The application of a function to arguments of these types; `truths` says which of them are comparisons.
pub(super) fn applied(fun: Fun, x: &[Text], types: &[Ty], truths: &[bool]) -> Text {
    let first = types.first().copied().unwrap_or(Ty::Scalar);
    if (first == Ty::Scalar || first == Ty::LeafScalar && matches!(fun, Fun::Sum | Fun::Norm))
        && let Some(text) = of_numbers(fun, x)
    {
        return text;
    }
    of_any(fun, x, truths, first)
}

fn of_any(fun: Fun, x: &[Text], truths: &[bool], first: Ty) -> Text {
    use ScalarOp::*;
    let infix = |sign: &str, tight: Tight, left: Tight, right: Tight| Text {
        text: format!("{} {sign} {}", x[0].within(left), x[1].within(right)),
        tight,
    };
    let call = |name: &str| Text::atom(format!("{name}({})", x.iter().map(|t| t.text.as_str()).collect::<Vec<_>>().join(", ")));
    let compare = |sign: &str| infix(sign, Tight::Compare, Tight::Sum, Tight::Sum);
    match fun {
        Fun::Plain(Add) => infix("+", Tight::Sum, Tight::Sum, Tight::Product),
        Fun::Plain(Sub) => infix("-", Tight::Sum, Tight::Sum, Tight::Product),
        Fun::Plain(Mul) => infix("*", Tight::Product, Tight::Product, Tight::Minus),
        Fun::Plain(Div) => infix("/", Tight::Product, Tight::Product, Tight::Minus),
        Fun::Plain(FloorDiv) => infix("//", Tight::Product, Tight::Product, Tight::Minus),
        Fun::Plain(Rem) => infix("%", Tight::Product, Tight::Product, Tight::Minus),
        Fun::Plain(Eq) => compare("=="),
        Fun::Plain(Ne) => compare("!="),
        Fun::Plain(Lt) => compare("<"),
        Fun::Plain(Le) => compare("<="),
        Fun::Plain(Neg) => Text { text: format!("-{}", x[0].within(Tight::Power)), tight: Tight::Minus },
        Fun::Plain(Pow) | Fun::Power => {
            let exponent = x[1].within(Tight::Minus);
            Text { text: format!("{}^{exponent}", x[0].within(Tight::Atom)), tight: Tight::Power }
        }
        Fun::Plain(Select) if !truths[0] => Text::atom(format!("where({} != 0, {}, {})", x[0].within(Tight::Sum), x[1].text, x[2].text)),
        Fun::Plain(op) => call(builtin(op)),
        Fun::Copy => x[0].clone(),
        Fun::Pi => Text::atom("pi"),
        Fun::E => constant(std::f64::consts::E),
        Fun::Eps => constant(crate::fun::EPS),
        Fun::Cube => Text { text: format!("{}^3", x[0].within(Tight::Atom)), tight: Tight::Power },
        Fun::Interpolate if x[2].tight >= Tight::Minus => {
            let (share, a) = (format!("(1 - {})", x[2].within(Tight::Product)), x[2].within(Tight::Product));
            let text = format!("{a} * {} + {share} * {}", x[1].within(Tight::Minus), x[0].within(Tight::Minus));
            Text { text, tight: Tight::Sum }
        }
        Fun::CosineSim => {
            let norms = format!("tree.norm({}) * tree.norm({})", x[0].text, x[1].text);
            Text { text: format!("tree.dot({}, {}) / ({norms} + 1e-8)", x[0].text, x[1].text), tight: Tight::Product }
        }
        Fun::Square => Text { text: format!("{}^2", x[0].within(Tight::Atom)), tight: Tight::Power },
        Fun::Reciprocal => Text { text: format!("1 / {}", x[0].within(Tight::Minus)), tight: Tight::Product },
        Fun::Invert => Text { text: format!("1 - {}", x[0].within(Tight::Product)), tight: Tight::Sum },
        Fun::Norm => call("norm"),
        Fun::Sum => call("sum"),
        Fun::Total if first == Ty::Leaf => Text::atom(format!("tree.sum(sum({}))", x[0].text)),
        Fun::Total => call("tree.sum"),
        Fun::GlobalNorm => call("tree.norm"),
        Fun::Dot => call("tree.dot"),
        Fun::ClipByGlobalNorm => {
            let factor = format!("minimum(1, {} / tree.norm({}))", x[1].within(Tight::Minus), x[0].text);
            Text { text: format!("{factor} * {}", x[0].within(Tight::Minus)), tight: Tight::Product }
        }
        _ => call(LIBRARY.iter().find(|(f, _)| *f == fun).map_or("", |(_, name)| name)),
    }
}

/// Whether a function gives a truth.
pub(super) fn is_truth(fun: Fun) -> bool {
    matches!(fun, Fun::Plain(op) if matches!(op.row().class, Class::Compare | Class::Test))
}
