//! The functions that programs are made of: Hero's 45 with their protected meaning, and the plain scalar operations of the language.

use crate::dag::{Builder, NodeId};
use optc_ir::scalar::{Class, ScalarOp, TABLE};

/// What a value is, within the body that is written for one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ty {
    /// One number for all leaves.
    Scalar,
    /// One number for each leaf, such as its norm.
    LeafScalar,
    /// An array of the leaf's shape.
    Leaf,
}

/// A function of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fun {
    /// A scalar operation of the language, elementwise.
    Plain(ScalarOp),
    /// Its argument.
    Copy,
    /// 3.14159…
    Pi,
    /// 2.71828…
    E,
    /// 1e-8
    Eps,
    /// x / (y + 1e-8)
    Div,
    /// sqrt |x|
    Sqrt,
    /// ln |x|
    Log,
    /// log10 |x|
    Log10,
    /// log2 |x|
    Log2,
    /// ln |1 + x|
    Log1p,
    /// x x
    Square,
    /// x x x
    Cube,
    /// 10^x
    Exp10,
    /// 1 / x
    Reciprocal,
    /// 1 - x
    Invert,
    /// x^y
    Power,
    /// (1 - a) x + a y
    Interpolate,
    /// Euclidean norm of each leaf.
    Norm,
    /// Euclidean norm over all leaves.
    GlobalNorm,
    /// Sum of products over all leaves.
    Dot,
    /// dot(x, y) / (global_norm(x) global_norm(y) + 1e-8)
    CosineSim,
    /// min(1, c / global_norm(x)) x
    ClipByGlobalNorm,
    /// Sum of the elements of each leaf.
    Sum,
    /// Sum of the elements of all leaves; of one number for each leaf, over leaves.
    Total,
}

/// Why a function cannot be applied to values of these types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Both operands of a product over leaves must be of one kind.
    Different,
}

/// Hero's names in the order of its library, then its operators; each with the function that has its meaning.
pub const HERO: &[(&str, Fun)] = &[
    ("get_pi", Fun::Pi),
    ("get_e", Fun::E),
    ("get_eps", Fun::Eps),
    ("abs", Fun::Plain(ScalarOp::Abs)),
    ("cos", Fun::Plain(ScalarOp::Cos)),
    ("sin", Fun::Plain(ScalarOp::Sin)),
    ("tan", Fun::Plain(ScalarOp::Tan)),
    ("arcsin", Fun::Plain(ScalarOp::Asin)),
    ("arccos", Fun::Plain(ScalarOp::Acos)),
    ("arctan", Fun::Plain(ScalarOp::Atan)),
    ("sinh", Fun::Plain(ScalarOp::Sinh)),
    ("cosh", Fun::Plain(ScalarOp::Cosh)),
    ("tanh", Fun::Plain(ScalarOp::Tanh)),
    ("arcsinh", Fun::Plain(ScalarOp::Asinh)),
    ("arccosh", Fun::Plain(ScalarOp::Acosh)),
    ("arctanh", Fun::Plain(ScalarOp::Atanh)),
    ("exp", Fun::Plain(ScalarOp::Exp)),
    ("exp2", Fun::Plain(ScalarOp::Exp2)),
    ("exp10", Fun::Exp10),
    ("expm1", Fun::Plain(ScalarOp::Expm1)),
    ("log", Fun::Log),
    ("log10", Fun::Log10),
    ("log2", Fun::Log2),
    ("log1p", Fun::Log1p),
    ("square", Fun::Square),
    ("sqrt", Fun::Sqrt),
    ("cube", Fun::Cube),
    ("cbrt", Fun::Plain(ScalarOp::Cbrt)),
    ("sign", Fun::Plain(ScalarOp::Sign)),
    ("reciprocal", Fun::Reciprocal),
    ("norm", Fun::Norm),
    ("invert", Fun::Invert),
    ("negative", Fun::Plain(ScalarOp::Neg)),
    ("global_norm", Fun::GlobalNorm),
    ("interpolate", Fun::Interpolate),
    ("dot", Fun::Dot),
    ("cosine_sim", Fun::CosineSim),
    ("clip_by_global_norm", Fun::ClipByGlobalNorm),
    ("power", Fun::Power),
    ("add", Fun::Plain(ScalarOp::Add)),
    ("sub", Fun::Plain(ScalarOp::Sub)),
    ("mul", Fun::Plain(ScalarOp::Mul)),
    ("div", Fun::Div),
    ("max", Fun::Plain(ScalarOp::Max)),
    ("min", Fun::Plain(ScalarOp::Min)),
];

/// Other names under which published programs call functions.
pub const ALIASES: &[(&str, Fun)] = &[
    ("interp", Fun::Interpolate),
    ("lerp", Fun::Interpolate),
    ("clip", Fun::ClipByGlobalNorm),
    ("neg", Fun::Plain(ScalarOp::Neg)),
    ("pow", Fun::Power),
    ("copy", Fun::Copy),
    ("sum", Fun::Sum),
    ("total", Fun::Total),
];

/// What stands before the name of a plain operation whose name Hero gives to a protected one.
const RAW: &str = "raw_";

impl Fun {
    /// Every function, Hero's first.
    pub fn all() -> impl Iterator<Item = Fun> {
        let hero = HERO.iter().map(|(_, fun)| *fun);
        let rows = TABLE.iter().map(|row| Fun::Plain(row.op)).filter(|fun| !HERO.iter().any(|(_, h)| h == fun));
        hero.chain([Fun::Copy, Fun::Sum, Fun::Total]).chain(rows.filter(|f| f.is_real()))
    }

    /// Whether it takes and gives floats, or truths as 1 and 0, and has a name in the language.
    fn is_real(self) -> bool {
        match self {
            Fun::Plain(op) => op != ScalarOp::Trunc && !matches!(op.row().class, Class::Bits),
            _ => true,
        }
    }

    /// Number of arguments.
    pub fn arity(self) -> usize {
        match self {
            Fun::Plain(op) => op.arity(),
            Fun::Pi | Fun::E | Fun::Eps => 0,
            Fun::Copy
            | Fun::Sqrt
            | Fun::Log
            | Fun::Log10
            | Fun::Log2
            | Fun::Log1p
            | Fun::Square
            | Fun::Cube
            | Fun::Exp10
            | Fun::Reciprocal
            | Fun::Invert
            | Fun::Norm
            | Fun::GlobalNorm
            | Fun::Sum
            | Fun::Total => 1,
            Fun::Div | Fun::Power | Fun::Dot | Fun::CosineSim | Fun::ClipByGlobalNorm => 2,
            Fun::Interpolate => 3,
        }
    }

    /// Its name in the text form of programs.
    pub fn name(self) -> String {
        if let Some((name, _)) = HERO.iter().find(|(_, fun)| *fun == self) {
            return (*name).to_string();
        }
        match self {
            Fun::Copy => "copy".to_string(),
            Fun::Sum => "sum".to_string(),
            Fun::Total => "total".to_string(),
            Fun::Plain(op) => format!("{RAW}{}", op.name()),
            _ => unreachable!("every other function is in Hero's table"),
        }
    }

    /// The plain operation of the language behind a protected one of Hero's, if it has one of the same name.
    pub fn plain(self) -> Option<Fun> {
        Fun::named(&format!("{RAW}{}", self.name()))
    }

    /// The function with this name.
    pub fn named(name: &str) -> Option<Fun> {
        let known = HERO.iter().chain(ALIASES).find(|(n, _)| *n == name).map(|(_, fun)| *fun);
        known.or_else(|| ScalarOp::parse(name.strip_prefix(RAW)?).map(Fun::Plain).filter(|f| f.is_real()))
    }

    /// Whether its two arguments may change places without changing a bit (NaN payloads aside).
    pub fn commutes(self) -> bool {
        matches!(self, Fun::Plain(op) if commutes(op)) || matches!(self, Fun::Dot | Fun::CosineSim)
    }

    /// Whether it is elementwise: no element of a leaf depends on another.
    pub fn elementwise(self) -> bool {
        !matches!(self, Fun::Norm | Fun::GlobalNorm | Fun::Dot | Fun::CosineSim | Fun::ClipByGlobalNorm | Fun::Sum | Fun::Total)
    }

    /// The type of its value.
    ///
    /// # Errors
    /// Types it is not defined for.
    pub fn result(self, args: &[Ty]) -> Result<Ty, Mismatch> {
        let joined = args.iter().copied().max().unwrap_or(Ty::Scalar);
        Ok(match self {
            Fun::Norm | Fun::Sum => joined.min(Ty::LeafScalar),
            Fun::GlobalNorm | Fun::Total => Ty::Scalar,
            Fun::Dot | Fun::CosineSim if args[0] != args[1] => return Err(Mismatch::Different),
            Fun::Dot | Fun::CosineSim => Ty::Scalar,
            _ => joined,
        })
    }

    /// Its meaning in scalar operations and sums.
    pub fn expand(self, b: &mut Builder, x: &[NodeId]) -> NodeId {
        use ScalarOp::*;
        match self {
            Fun::Plain(op) => b.map(op, x),
            Fun::Copy => x[0],
            Fun::Pi => b.constant(std::f64::consts::PI),
            Fun::E => b.constant(std::f64::consts::E),
            Fun::Eps => b.constant(EPS),
            Fun::Div => {
                let y = b.protected(x[1]);
                b.map(Div, &[x[0], y])
            }
            Fun::Sqrt => b.of_abs(Sqrt, x[0]),
            Fun::Log => b.of_abs(Log, x[0]),
            Fun::Log2 => b.of_abs(Log2, x[0]),
            Fun::Log10 => {
                let (log, ten) = (b.of_abs(Log, x[0]), b.constant(std::f64::consts::LN_10));
                b.map(Div, &[log, ten])
            }
            Fun::Log1p => {
                let one = b.constant(1.0);
                let sum = b.map(Add, &[one, x[0]]);
                b.of_abs(Log, sum)
            }
            Fun::Square => b.map(Mul, &[x[0], x[0]]),
            Fun::Cube => {
                let square = b.map(Mul, &[x[0], x[0]]);
                b.map(Mul, &[square, x[0]])
            }
            Fun::Exp10 => {
                let ten = b.constant(10.0);
                b.map(Pow, &[ten, x[0]])
            }
            Fun::Reciprocal => {
                let one = b.constant(1.0);
                b.map(Div, &[one, x[0]])
            }
            Fun::Invert => {
                let one = b.constant(1.0);
                b.map(Sub, &[one, x[0]])
            }
            Fun::Power => b.map(Pow, x),
            Fun::Interpolate => {
                let one = b.constant(1.0);
                let rest = b.map(Sub, &[one, x[2]]);
                let (left, right) = (b.map(Mul, &[rest, x[0]]), b.map(Mul, &[x[2], x[1]]));
                b.map(Add, &[left, right])
            }
            Fun::Sum => b.sum(x[0]),
            Fun::Total => b.total(x[0]),
            Fun::Norm if b.ty(x[0]) != Ty::Leaf => b.map(Abs, &[x[0]]),
            Fun::Norm => {
                let square = b.map(Mul, &[x[0], x[0]]);
                let sum = b.sum(square);
                b.map(Sqrt, &[sum])
            }
            Fun::GlobalNorm => b.global_norm(x[0]),
            Fun::Dot => b.dot(x[0], x[1]),
            Fun::CosineSim => {
                let (dot, n, m) = (b.dot(x[0], x[1]), b.global_norm(x[0]), b.global_norm(x[1]));
                let norms = b.map(Mul, &[n, m]);
                let norms = b.protected(norms);
                b.map(Div, &[dot, norms])
            }
            Fun::ClipByGlobalNorm => {
                let (norm, one) = (b.global_norm(x[0]), b.constant(1.0));
                let ratio = b.map(Div, &[x[1], norm]);
                let factor = b.map(Min, &[one, ratio]);
                b.map(Mul, &[factor, x[0]])
            }
        }
    }
}

/// What protects a division from 0.
pub const EPS: f64 = 1e-8;

/// Whether an operation's first two operands may change places.
pub fn commutes(op: ScalarOp) -> bool {
    matches!(op, ScalarOp::Add | ScalarOp::Mul | ScalarOp::Min | ScalarOp::Max | ScalarOp::Eq | ScalarOp::Ne)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        assert_eq!(HERO.len(), 45);
        let all: Vec<Fun> = Fun::all().collect();
        for fun in &all {
            assert_eq!(Fun::named(&fun.name()), Some(*fun), "{fun:?}");
        }
        let names: std::collections::BTreeSet<String> = all.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(Fun::named("sqrt"), Some(Fun::Sqrt));
        assert_eq!(Fun::named("raw_sqrt"), Some(Fun::Plain(ScalarOp::Sqrt)));
        assert_eq!(Fun::named("raw_xor"), None);
        assert_eq!(Fun::named("eval"), None);
    }
}
