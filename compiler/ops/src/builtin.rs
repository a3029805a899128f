//! Built-in operations by name.

use crate::args::Args;
use crate::cx::Cx;
use crate::elementwise as el;
use crate::error::{OpError, Res};
use crate::meet::is_unknown;
use crate::value::{Arg, Array, Val};
use crate::{conv, create, einsum, linalg, matmul, order, random, reduce, shape_ops as sh};
use optc_ir::ScalarOp;

type Params = &'static [&'static str];

const X: Params = &["x"];
const REDUCTION: Params = &["x", "axis?", "keepdims?"];

/// Names and parameters; `p?` may be left out, `p*` takes the rest.
const TABLE: &[(&str, Params)] = &[
    ("exp", X),
    ("exp2", X),
    ("expm1", X),
    ("log", X),
    ("log1p", X),
    ("log2", X),
    ("log10", X),
    ("sqrt", X),
    ("rsqrt", X),
    ("cbrt", X),
    ("sin", X),
    ("cos", X),
    ("tan", X),
    ("asin", X),
    ("acos", X),
    ("atan", X),
    ("sinh", X),
    ("cosh", X),
    ("tanh", X),
    ("asinh", X),
    ("acosh", X),
    ("atanh", X),
    ("sigmoid", X),
    ("erf", X),
    ("abs", X),
    ("sign", X),
    ("floor", X),
    ("ceil", X),
    ("round", X),
    ("is_finite", X),
    ("is_nan", X),
    ("softplus", X),
    ("relu", X),
    ("silu", X),
    ("gelu", X),
    ("atan2", &["y", "x"]),
    ("maximum", &["a", "b"]),
    ("minimum", &["a", "b"]),
    ("clip", &["x", "lo?", "hi?"]),
    ("where", &["mask", "a", "b"]),
    ("lerp", &["a", "b", "t"]),
    ("fma", &["a", "b", "c"]),
    ("bitcast", &["x", "dtype"]),
    ("sum", REDUCTION),
    ("mean", REDUCTION),
    ("prod", REDUCTION),
    ("max", REDUCTION),
    ("min", REDUCTION),
    ("any", REDUCTION),
    ("all", REDUCTION),
    ("argmax", REDUCTION),
    ("argmin", REDUCTION),
    ("logsumexp", REDUCTION),
    ("norm", REDUCTION),
    ("rms", REDUCTION),
    ("var", REDUCTION),
    ("std", REDUCTION),
    ("median", REDUCTION),
    ("cumsum", &["x", "axis?", "reverse?"]),
    ("cumprod", &["x", "axis?", "reverse?"]),
    ("softmax", &["x", "axis?"]),
    ("log_softmax", &["x", "axis?"]),
    ("reshape", &["x", "shape*"]),
    ("transpose", &["x", "axes?"]),
    ("swap_axes", &["x", "a", "b"]),
    ("concat", &["xs", "axis?"]),
    ("stack", &["xs", "axis?"]),
    ("split", &["x", "parts", "axis?"]),
    ("pad", &["x", "widths", "value?"]),
    ("tile", &["x", "reps"]),
    ("repeat", &["x", "n", "axis?"]),
    ("flip", &["x", "axis?"]),
    ("roll", &["x", "shift", "axis?"]),
    ("broadcast_to", &["x", "shape"]),
    ("diag", &["x", "k?"]),
    ("tril", &["x", "k?"]),
    ("triu", &["x", "k?"]),
    ("one_hot", &["ids", "n", "dtype?"]),
    ("iota", &["n", "dtype?"]),
    ("zeros", &["shape", "dtype?"]),
    ("ones", &["shape", "dtype?"]),
    ("full", &["shape", "value", "dtype?"]),
    ("eye", &["n", "m?", "dtype?"]),
    ("zeros_like", &["x", "dtype?"]),
    ("ones_like", &["x", "dtype?"]),
    ("shape", X),
    ("ndim", X),
    ("size", X),
    ("len", X),
    ("dot", &["a", "b"]),
    ("outer", &["a", "b"]),
    ("einsum", &["spec", "xs*"]),
    ("conv", &["x", "w", "stride?", "padding?", "dilation?", "groups?"]),
    ("pool", &["x", "size", "kind?", "stride?", "padding?"]),
    ("cholesky", &["a"]),
    ("solve", &["a", "b"]),
    ("solve_triangular", &["a", "b", "lower?", "transpose?", "unit?"]),
    ("lstsq", &["a", "b"]),
    ("inv", &["a"]),
    ("pinv", &["a"]),
    ("det", &["a"]),
    ("logdet", &["a"]),
    ("qr", &["a"]),
    ("svd", &["a"]),
    ("eigh", &["a"]),
    ("fft", &["re", "im?", "axis?"]),
    ("ifft", &["re", "im?", "axis?"]),
    ("assignment", &["cost", "maximize?"]),
    ("sort", &["x", "axis?", "descending?"]),
    ("argsort", &["x", "axis?", "descending?"]),
    ("top_k", &["x", "k"]),
    ("searchsorted", &["sorted", "values", "side?"]),
    ("gather", &["x", "ids", "axis?"]),
    ("scatter_add", &["x", "ids", "updates", "axis?"]),
    ("segment_sum", &["x", "ids", "n"]),
    ("random.uniform", &["shape?", "low?", "high?", "dtype?"]),
    ("random.normal", &["shape?", "mean?", "std?", "dtype?"]),
    ("random.exponential", &["shape?", "rate?", "dtype?"]),
    ("random.rademacher", &["shape?", "dtype?"]),
    ("random.bits", &["shape?"]),
    ("random.integer", &["shape", "low", "high", "dtype?"]),
    ("random.bernoulli", &["shape?", "p?", "dtype?"]),
    ("random.categorical", &["shape", "logits?"]),
    ("random.permutation", &["x"]),
    ("random.choice", &["shape", "x", "replace?", "p?"]),
    ("random.truncated_normal", &["shape?", "low?", "high?", "dtype?"]),
    ("random.gamma", &["shape?", "a", "rate?", "dtype?"]),
];

fn row(name: &str) -> Option<(&'static str, Params)> {
    TABLE.iter().find(|(n, _)| *n == name).copied()
}

/// Whether an operation of this name exists (`exp`, `random.normal`).
pub fn is_builtin(name: &str) -> bool {
    row(name).is_some()
}

/// All names, for suggestions.
pub fn builtin_names() -> Vec<&'static str> {
    operations().collect()
}

/// The names of the operations that can be called today.
pub fn operations() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(n, _)| *n)
}

/// The names of an operation's parameters, in order.
pub fn parameters(name: &str) -> Option<Vec<&'static str>> {
    row(name).map(|(_, p)| p.iter().map(|p| p.trim_end_matches(['?', '*'])).collect())
}

/// `pi`, `inf`, `nan`.
pub fn constant(name: &str) -> Option<Val> {
    match name {
        "pi" => Some(Val::Float(Some(std::f64::consts::PI))),
        "inf" => Some(Val::Float(Some(f64::INFINITY))),
        "nan" => Some(Val::Float(Some(f64::NAN))),
        _ => None,
    }
}

/// Calls an operation. `key` is the u32[2] key of a draw (`random.*`), `None` elsewhere and, if it likes, while checking. `...` in `reshape(x, n, ...)` is passed as the
/// string `...`.
///
/// # Errors
/// Arguments that do not fit.
pub fn call(cx: &mut Cx, name: &str, args: &[Arg], key: Option<&Array>) -> Res<Val> {
    let Some((name, params)) = row(name) else {
        return Err(OpError::new("E0303", format!("there is no operation `{name}`")));
    };
    let args_in = Args::new(name, params, args)?;
    if args.iter().any(|a| is_unknown(&a.value)) {
        return Ok(Val::Unknown);
    }
    dispatch(cx, name, &args_in, key)
}

fn dispatch(cx: &mut Cx, name: &str, args: &Args<'_>, key: Option<&Array>) -> Res<Val> {
    match name {
        n if el::FLOAT.contains(&n) => el::float_op(cx, args, ScalarOp::parse(n).expect("compiler bug: a scalar operation of that name")),
        n if reduce::REDUCTIONS.contains(&n) => reduce::reduction(cx, args),
        n if n.starts_with("random.") => random::draw(cx, args, key),
        "abs" => el::abs(cx, args),
        "sign" => el::sign(cx, args),
        "floor" => el::rounding(cx, args, ScalarOp::Floor),
        "ceil" => el::rounding(cx, args, ScalarOp::Ceil),
        "round" => el::rounding(cx, args, ScalarOp::Round),
        "log10" => el::log10(cx, args),
        "is_finite" => el::test(cx, args, ScalarOp::IsFinite),
        "is_nan" => el::test(cx, args, ScalarOp::IsNan),
        "softplus" => el::softplus(cx, args),
        "relu" => el::relu(cx, args),
        "silu" => el::silu(cx, args),
        "gelu" => el::gelu(cx, args),
        "atan2" => el::atan2(cx, args),
        "maximum" => el::extremum(cx, args, true),
        "minimum" => el::extremum(cx, args, false),
        "clip" => el::clip(cx, args),
        "where" => el::choose(cx, args),
        "lerp" => el::lerp(cx, args),
        "fma" => el::fma(cx, args),
        "bitcast" => el::bitcast(cx, args),
        "cumsum" | "cumprod" => reduce::running(cx, args),
        "softmax" | "log_softmax" => reduce::softmax(cx, args),
        "reshape" => sh::reshape(cx, args),
        "transpose" => sh::transpose(cx, args),
        "swap_axes" => sh::swap_axes(cx, args),
        "concat" => sh::concat(cx, args),
        "stack" => sh::stacked(cx, args),
        "split" => sh::split(cx, args),
        "pad" => sh::pad(cx, args),
        "tile" => sh::tile(cx, args),
        "repeat" => sh::repeat(cx, args),
        "flip" => sh::flip(cx, args),
        "roll" => sh::roll(cx, args),
        "diag" => sh::diag(cx, args),
        "tril" | "triu" => sh::triangle(cx, args),
        "broadcast_to" => create::broadcast(cx, args),
        "one_hot" => create::one_hot(cx, args),
        "iota" => create::iota(cx, args),
        "zeros" => create::constant(cx, args, 0.0),
        "ones" => create::constant(cx, args, 1.0),
        "full" => create::full(cx, args),
        "eye" => create::eye(cx, args),
        "zeros_like" => create::constant_like(cx, args, 0.0),
        "ones_like" => create::constant_like(cx, args, 1.0),
        "shape" | "ndim" | "size" | "len" => create::fact(args),
        "dot" => matmul::dot(cx, args.get("a"), args.get("b")).map(Val::Array),
        "outer" => matmul::outer(cx, args.get("a"), args.get("b")).map(Val::Array),
        "einsum" => einsum::einsum(cx, args),
        "conv" => conv::conv(cx, args),
        "pool" => conv::pool(cx, args),
        "cholesky" | "inv" | "det" | "logdet" | "eigh" => linalg::of_square(cx, args),
        "solve" | "solve_triangular" | "lstsq" => linalg::solving(cx, args),
        "qr" | "svd" | "pinv" => linalg::of_any(cx, args),
        "fft" | "ifft" => linalg::transform(cx, args),
        "assignment" => linalg::assignment(cx, args),
        "sort" | "argsort" => order::sort(cx, args),
        "top_k" => order::top_k(cx, args),
        "searchsorted" => order::search_sorted(cx, args),
        "gather" => order::gather(cx, args),
        "scatter_add" => order::scatter_add(cx, args),
        "segment_sum" => order::segment_sum(cx, args),
        _ => panic!("compiler bug: `{name}` is in the table but has no meaning"),
    }
}
