//! The algebraic rules, as data. The test beside `pattern.rs` runs every row on awkward numbers.
//!
//! Patterns are written over scalar operations: `a b c` stand for any value, `p q` for any bool, `k l` for literals; commutative operations match in
//! both orders. `0` is positive zero and does not match `-0`.

use super::Exactness::{self, Budget, Exact, Fast};
use Kind::{Bool, Float, Int, Number, Signed};

/// For which element types of `a b c k l` a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floats.
    Float,
    /// Integers.
    Int,
    /// Floats and signed integers.
    Signed,
    /// Floats and integers.
    Number,
    /// Truth values.
    Bool,
    /// Everything.
    Any,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What it is called.
    pub name: &'static str,
    /// For which types it holds.
    pub kind: Kind,
    /// What it finds.
    pub pattern: &'static str,
    /// What it puts in its place.
    pub replacement: &'static str,
    /// How exact it is.
    pub exactness: Exactness,
    /// Only where `a` is known never to be -0.
    pub a_is_not_minus_zero: bool,
}

const fn rule(name: &'static str, kind: Kind, pattern: &'static str, replacement: &'static str, exactness: Exactness) -> Rule {
    Rule { name, kind, pattern, replacement, exactness, a_is_not_minus_zero: false }
}

/// All rules; the first that matches is applied.
pub const RULES: &[Rule] = &[
    // Neutral elements.
    rule("add -0", Float, "add(a, -0)", "a", Exact),
    Rule { a_is_not_minus_zero: true, ..rule("add 0", Float, "add(a, 0)", "a", Exact) },
    rule("add 0 to integers", Int, "add(a, 0)", "a", Exact),
    rule("sub 0", Number, "sub(a, 0)", "a", Exact),
    rule("mul 1", Number, "mul(a, 1)", "a", Exact),
    rule("div 1", Float, "div(a, 1)", "a", Exact),
    rule("floor_div 1", Int, "floor_div(a, 1)", "a", Exact),
    rule("rem 1", Int, "rem(a, 1)", "0", Exact),
    rule("mul 0 of integers", Int, "mul(a, 0)", "0", Exact),
    rule("sub of equal integers", Int, "sub(a, a)", "0", Exact),
    // Signs.
    rule("neg neg", Number, "neg(neg(a))", "a", Exact),
    rule("mul -1", Signed, "mul(a, -1)", "neg(a)", Exact),
    rule("div -1", Float, "div(a, -1)", "neg(a)", Exact),
    rule("-0 sub", Float, "sub(-0, a)", "neg(a)", Exact),
    rule("0 sub integer", Int, "sub(0, a)", "neg(a)", Exact),
    rule("add neg", Number, "add(a, neg(b))", "sub(a, b)", Exact),
    rule("sub neg", Number, "sub(a, neg(b))", "add(a, b)", Exact),
    rule("neg of literal product", Number, "neg(mul(a, k))", "mul(a, neg(k))", Exact),
    rule("literal product of neg", Number, "mul(neg(a), k)", "mul(a, neg(k))", Exact),
    rule("quotient of neg by literal", Float, "div(neg(a), k)", "div(a, neg(k))", Exact),
    rule("mul neg neg", Number, "mul(neg(a), neg(b))", "mul(a, b)", Exact),
    rule("div neg neg", Float, "div(neg(a), neg(b))", "div(a, b)", Exact),
    rule("mul neg", Number, "mul(neg(a), b)", "neg(mul(a, b))", Exact),
    rule("div neg", Float, "div(neg(a), b)", "neg(div(a, b))", Exact),
    rule("div by neg", Float, "div(a, neg(b))", "neg(div(a, b))", Exact),
    rule("abs neg", Signed, "abs(neg(a))", "abs(a)", Exact),
    rule("abs abs", Number, "abs(abs(a))", "abs(a)", Exact),
    rule("square of abs", Number, "mul(abs(a), abs(a))", "mul(a, a)", Exact),
    rule("sign sign", Number, "sign(sign(a))", "sign(a)", Exact),
    rule("neg sub of integers", Int, "neg(sub(a, b))", "sub(b, a)", Exact),
    rule("neg sub", Float, "neg(sub(a, b))", "sub(b, a)", Fast),
    // Literals come together.
    rule("literals of integer sums", Int, "add(add(a, k), l)", "add(a, add(k, l))", Exact),
    rule("literals of integer products", Int, "mul(mul(a, k), l)", "mul(a, mul(k, l))", Exact),
    rule("literals of sums", Float, "add(add(a, k), l)", "add(a, add(k, l))", Fast),
    rule("literals of products", Float, "mul(mul(a, k), l)", "mul(a, mul(k, l))", Fast),
    rule("div by literal", Float, "div(a, k)", "mul(a, div(1, k))", Fast),
    // Repetition.
    rule("max same", Number, "max(a, a)", "a", Exact),
    rule("min same", Number, "min(a, a)", "a", Exact),
    rule("max max", Number, "max(max(a, b), b)", "max(a, b)", Exact),
    rule("min min", Number, "min(min(a, b), b)", "min(a, b)", Exact),
    rule("floor floor", Float, "floor(floor(a))", "floor(a)", Exact),
    rule("ceil ceil", Float, "ceil(ceil(a))", "ceil(a)", Exact),
    rule("round round", Float, "round(round(a))", "round(a)", Exact),
    rule("trunc trunc", Float, "trunc(trunc(a))", "trunc(a)", Exact),
    rule("floor ceil", Float, "floor(ceil(a))", "ceil(a)", Exact),
    rule("floor round", Float, "floor(round(a))", "round(a)", Exact),
    rule("ceil floor", Float, "ceil(floor(a))", "floor(a)", Exact),
    rule("round floor", Float, "round(floor(a))", "floor(a)", Exact),
    // Powers.
    rule("pow 0", Float, "pow(a, 0)", "1", Exact),
    rule("pow 1", Float, "pow(a, 1)", "a", Exact),
    rule("pow 2", Float, "pow(a, 2)", "mul(a, a)", Budget),
    rule("pow 3", Float, "pow(a, 3)", "mul(mul(a, a), a)", Budget),
    rule("pow 4", Float, "pow(a, 4)", "mul(mul(a, a), mul(a, a))", Budget),
    rule("pow -1", Float, "pow(a, -1)", "div(1, a)", Budget),
    rule("pow 0.5", Float, "pow(a, 0.5)", "sqrt(a)", Fast),
    rule("pow -0.5", Float, "pow(a, -0.5)", "rsqrt(a)", Fast),
    rule("sqrt of square", Float, "sqrt(mul(a, a))", "abs(a)", Fast),
    rule("square of sqrt", Float, "mul(sqrt(a), sqrt(a))", "a", Fast),
    rule("div by sqrt", Float, "div(a, sqrt(b))", "mul(a, rsqrt(b))", Fast),
    rule("exp log", Float, "exp(log(a))", "a", Fast),
    rule("log exp", Float, "log(exp(a))", "a", Fast),
    rule("product of exp", Float, "mul(exp(a), exp(b))", "exp(add(a, b))", Fast),
    rule("logistic", Float, "div(1, add(exp(neg(a)), 1))", "sigmoid(a)", Fast),
    rule("add then sub", Float, "sub(add(a, b), b)", "a", Fast),
    // Comparisons.
    rule("ne same", Float, "ne(a, a)", "is_nan(a)", Exact),
    rule("eq same integers", Int, "eq(a, a)", "true", Exact),
    rule("lt same", Kind::Any, "lt(a, a)", "false", Exact),
    // Selection.
    rule("select true", Kind::Any, "select(true, a, b)", "a", Exact),
    rule("select false", Kind::Any, "select(false, a, b)", "b", Exact),
    rule("select same", Kind::Any, "select(p, a, a)", "a", Exact),
    rule("select not", Kind::Any, "select(not(p), a, b)", "select(p, b, a)", Exact),
    rule("select in then", Kind::Any, "select(p, select(p, a, b), c)", "select(p, a, c)", Exact),
    rule("select in else", Kind::Any, "select(p, a, select(p, b, c))", "select(p, a, c)", Exact),
    rule("select truth", Bool, "select(p, true, false)", "p", Exact),
    rule("select untruth", Bool, "select(p, false, true)", "not(p)", Exact),
    // Logic and bits.
    rule("not not", Kind::Any, "not(not(a))", "a", Exact),
    rule("and same", Kind::Any, "and(a, a)", "a", Exact),
    rule("or same", Kind::Any, "or(a, a)", "a", Exact),
    rule("and true", Bool, "and(p, true)", "p", Exact),
    rule("and false", Bool, "and(p, false)", "false", Exact),
    rule("or true", Bool, "or(p, true)", "true", Exact),
    rule("or false", Bool, "or(p, false)", "p", Exact),
    rule("xor false", Bool, "xor(p, false)", "p", Exact),
    rule("xor true", Bool, "xor(p, true)", "not(p)", Exact),
    rule("xor same", Bool, "xor(p, p)", "false", Exact),
    rule("xor of equal integers", Int, "xor(a, a)", "0", Exact),
    rule("xor 0", Int, "xor(a, 0)", "a", Exact),
    rule("or 0", Int, "or(a, 0)", "a", Exact),
    rule("and 0", Int, "and(a, 0)", "0", Exact),
    rule("shl 0", Int, "shl(a, 0)", "a", Exact),
    rule("shr 0", Int, "shr(a, 0)", "a", Exact),
];
