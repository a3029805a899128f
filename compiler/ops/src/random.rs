//! Draws. All come from the words of one counter-based generator (`Op::RandomBits`), so they are the same on every machine and for every number of threads.
//!
//! - `uniform`: the upper 24 bits of a word divided by 2^24 (f64: 53 bits of two words; bf16 and f16: as many bits as they hold). Never 1.
//! - `normal`: Box and Muller 1958, `sqrt(-2 log(1 - u)) cos(2 pi v)` with two uniforms per draw.
//! - `integer`: `low + floor(word (high - low) / 2^32)`; the bias is below `(high - low) / 2^32`.
//! - `categorical`: the largest of the logits plus Gumbel noise `-log(-log u)`.
//! - `permutation`: the order that sorts random words.
//! - `truncated_normal`: the inverse of the distribution function (Giles 2010, with Newton steps in f64).
//! - `gamma`: Marsaglia and Tsang 2000 with 6 tries, each refused with probability below 0.05; the last one is taken.

use crate::args::Args;
use crate::arith::broadcast_to;
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::Res;
use crate::meet::to_array;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::graph::Op;
use optc_ir::{ScalarOp, Ty};

/// Tries of the rejection method of `gamma`.
const GAMMA_TRIES: usize = 6;

/// Words `k` times the size of `shape` and following of the key's sequence.
fn words_at(cx: &mut Cx, key: &Array, k: usize, shape: &[Dim]) -> Array {
    cx.build(DType::U32, shape.to_vec(), &[key], |e| {
        let ty = Ty::new(DType::U32, e.shape.iter().copied());
        let start = (k * ty.len()) as u64;
        e.graph.op_as(Op::RandomBits { start }, e.x, ty, e.origin)
    })
}

fn words(cx: &mut Cx, key: &Array, shape: &[Dim]) -> Array {
    words_at(cx, key, 0, shape)
}

/// Several independent arrays of words: consecutive parts of the key's sequence.
fn word_arrays(cx: &mut Cx, key: &Array, count: usize, shape: &[Dim]) -> Vec<Array> {
    (0..count).map(|k| words_at(cx, key, k, shape)).collect()
}

/// The upper bits of words as floats: `bits >> shift`, exactly.
fn upper(cx: &mut Cx, bits: &Array, shift: u32, dtype: DType) -> Array {
    let top = cx.with_const(ScalarOp::Shr, bits, f64::from(shift));
    // The sign bit is clear, so the signed reading is the same number; signed conversions are one instruction.
    let signed = cx.same_bits(&top, DType::I32);
    cx.convert(&signed, dtype)
}

/// Several independent arrays of uniforms in [0, 1).
fn uniforms(cx: &mut Cx, key: &Array, count: usize, shape: &[Dim], dtype: DType) -> Vec<Array> {
    if dtype == DType::F64 {
        let bits = word_arrays(cx, key, 2 * count, shape);
        return bits
            .chunks(2)
            .map(|pair| {
                let high = upper(cx, &pair[0], 5, dtype);
                let low = upper(cx, &pair[1], 6, dtype);
                let high = cx.with_const(ScalarOp::Mul, &high, (1u64 << 26) as f64);
                let sum = cx.map(ScalarOp::Add, &[&high, &low]);
                cx.with_const(ScalarOp::Mul, &sum, 1.0 / (1u64 << 53) as f64)
            })
            .collect();
    }
    let held = match dtype {
        DType::BF16 => 8,
        DType::F16 => 11,
        _ => 24,
    };
    let bits = word_arrays(cx, key, count, shape);
    bits.iter()
        .map(|b| {
            let x = upper(cx, b, 32 - held, DType::F32);
            let x = cx.with_const(ScalarOp::Mul, &x, 1.0 / (1u64 << held) as f64);
            cx.convert(&x, dtype)
        })
        .collect()
}

/// The type to compute in: narrow floats are computed in f32.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// A normal draw from two uniforms.
fn box_muller(cx: &mut Cx, u: &Array, v: &Array) -> Array {
    let one = cx.splat(u.dtype, &u.shape, 1.0);
    let rest = cx.map(ScalarOp::Sub, &[&one, u]);
    let log = cx.map(ScalarOp::Log, &[&rest]);
    let square = cx.with_const(ScalarOp::Mul, &log, -2.0);
    let radius = cx.map(ScalarOp::Sqrt, &[&square]);
    let angle = cx.with_const(ScalarOp::Mul, v, std::f64::consts::TAU);
    let cos = cx.map(ScalarOp::Cos, &[&angle]);
    cx.map(ScalarOp::Mul, &[&radius, &cos])
}

fn horner(cx: &mut Cx, w: &Array, coefficients: &[f64]) -> Array {
    let mut p = cx.splat(w.dtype, &w.shape, coefficients[0]);
    for &c in &coefficients[1..] {
        let m = cx.map(ScalarOp::Mul, &[&p, w]);
        p = cx.with_const(ScalarOp::Add, &m, c);
    }
    p
}

/// The inverse error function: Giles, "Approximating the erfinv function", 2010, table 5; two Newton steps in f64.
fn erf_inverse(cx: &mut Cx, x: &Array) -> Array {
    let square = cx.map(ScalarOp::Mul, &[x, x]);
    let minus = cx.map(ScalarOp::Neg, &[&square]);
    let log = cx.map(ScalarOp::Log1p, &[&minus]);
    let w = cx.map(ScalarOp::Neg, &[&log]);
    let near = cx.with_const(ScalarOp::Sub, &w, 2.5);
    let near = horner(
        cx,
        &near,
        &[
            2.81022636e-08,
            3.43273939e-07,
            -3.5233877e-06,
            -4.39150654e-06,
            0.00021858087,
            -0.00125372503,
            -0.00417768164,
            0.246640727,
            1.50140941,
        ],
    );
    let root = cx.map(ScalarOp::Sqrt, &[&w]);
    let far = cx.with_const(ScalarOp::Sub, &root, 3.0);
    let far = horner(
        cx,
        &far,
        &[
            -0.000200214257,
            0.000100950558,
            0.00134934322,
            -0.00367342844,
            0.00573950773,
            -0.0076224613,
            0.00943887047,
            1.00167406,
            2.83297682,
        ],
    );
    let five = cx.splat(w.dtype, &w.shape, 5.0);
    let central = cx.map(ScalarOp::Lt, &[&w, &five]);
    let p = cx.select(&central, &near, &far);
    let mut y = cx.map(ScalarOp::Mul, &[&p, x]);
    for _ in 0..if x.dtype == DType::F64 { 2 } else { 0 } {
        let e = cx.map(ScalarOp::Erf, &[&y]);
        let miss = cx.map(ScalarOp::Sub, &[&e, x]);
        let y2 = cx.map(ScalarOp::Mul, &[&y, &y]);
        let inverse_slope = cx.map(ScalarOp::Exp, &[&y2]);
        let step = cx.map(ScalarOp::Mul, &[&miss, &inverse_slope]);
        let step = cx.with_const(ScalarOp::Mul, &step, std::f64::consts::PI.sqrt() / 2.0);
        y = cx.map(ScalarOp::Sub, &[&y, &step]);
    }
    y
}

/// A draw by its name without `random.`.
pub(crate) fn draw(cx: &mut Cx, args: &Args<'_>, key: Option<&Array>) -> Res<Val> {
    let key = match key {
        Some(k) => k.clone(),
        None if !cx.emitting() => Array { dtype: DType::U32, shape: vec![Dim::from(2i64)], weak: false, node: None },
        None => panic!("compiler bug: a draw without a key"),
    };
    let key = &key;
    match args.name {
        "random.uniform" => {
            let (shape, dtype) = header(args, cx.float)?;
            Ok(Val::Array(uniforms(cx, key, 1, &shape, dtype).remove(0)))
        }
        "random.normal" => {
            let (shape, dtype) = header(args, cx.float)?;
            let u = uniforms(cx, key, 2, &shape, wide(dtype));
            let x = box_muller(cx, &u[0], &u[1]);
            Ok(Val::Array(cx.convert(&x, dtype)))
        }
        "random.exponential" => {
            let (shape, dtype) = header(args, cx.float)?;
            let u = uniforms(cx, key, 1, &shape, wide(dtype)).remove(0);
            let minus = cx.map(ScalarOp::Neg, &[&u]);
            let log = cx.map(ScalarOp::Log1p, &[&minus]);
            let x = cx.map(ScalarOp::Neg, &[&log]);
            Ok(Val::Array(cx.convert(&x, dtype)))
        }
        "random.bits" => Ok(Val::Array(words(cx, key, &args.shape("shape")?))),
        "random.rademacher" => {
            let (shape, dtype) = header(args, cx.float)?;
            let bits = words(cx, key, &shape);
            let top = cx.with_const(ScalarOp::Shr, &bits, 31.0);
            let bit = cx.same_bits(&top, DType::I32);
            let twice = cx.with_const(ScalarOp::Mul, &bit, -2.0);
            let sign = cx.with_const(ScalarOp::Add, &twice, 1.0);
            Ok(Val::Array(cx.convert(&sign, dtype)))
        }
        "random.integer" => integer(cx, args, key),
        "random.bernoulli" => {
            let shape = args.shape("shape")?;
            let half = Val::Float(Some(0.5));
            let p = args.opt("p").unwrap_or(&half);
            let dtype = match p {
                Val::Array(a) if a.dtype == DType::F64 && !a.weak => DType::F64,
                _ => DType::F32,
            };
            let p = to_array(cx, &args.op(), p, dtype)?;
            let p = broadcast_to(cx, &p, &shape)?;
            let u = uniforms(cx, key, 1, &shape, dtype).remove(0);
            Ok(Val::Array(cx.map(ScalarOp::Lt, &[&u, &p])))
        }
        "random.categorical" => categorical(cx, args, key),
        "random.permutation" => permutation(cx, args, key),
        "random.choice" => choice(cx, args, key),
        "random.truncated_normal" => truncated(cx, args, key),
        "random.gamma" => gamma(cx, args, key),
        name => panic!("compiler bug: no draw `{name}`"),
    }
}

/// Shape and element type of a float draw.
fn header(args: &Args<'_>, float: DType) -> Res<(Vec<Dim>, DType)> {
    let shape = args.shape("shape")?;
    let dtype = args.dtype("dtype", float)?;
    let floats_only = args.name != "random.rademacher";
    if (floats_only && !dtype.is_float()) || dtype == DType::Bool || dtype == DType::U32 || dtype == DType::U8 {
        return Err(args.wrong("dtype", "a float type"));
    }
    Ok((shape, dtype))
}

fn below(cx: &mut Cx, key: &Array, shape: &[Dim], low: &Array, range: &Array) -> Array {
    let bits = words(cx, key, shape);
    let bits = cx.convert(&bits, DType::I64);
    let range = cx.spread_to(range, shape);
    let product = cx.map(ScalarOp::Mul, &[&bits, &range]);
    let part = cx.with_const(ScalarOp::Shr, &product, 32.0);
    let low = cx.spread_to(low, shape);
    cx.map(ScalarOp::Add, &[&part, &low])
}

fn integer(cx: &mut Cx, args: &Args<'_>, key: &Array) -> Res<Val> {
    let shape = args.shape("shape")?;
    let dtype = args.dtype("dtype", DType::I32)?;
    if !dtype.is_int() {
        return Err(args.wrong("dtype", "an integer type"));
    }
    let (low, high) = (args.get("low"), args.get("high"));
    if let (Val::Int(a), Val::Int(b)) = (low, high)
        && b.sub(a).known().is_some_and(|n| n < 1)
    {
        return Err(args.value("high", "E0307", format!("`random.integer` from {a} to below {b}: there is no such integer")));
    }
    let bound = |cx: &mut Cx, param: &str, v: &Val| -> Res<Array> {
        let a = match v {
            Val::Array(a) if a.dtype.is_int() => cx.convert(a, DType::I64),
            Val::Int(_) => to_array(cx, &args.op(), v, DType::I64)?,
            _ => return Err(args.wrong(param, "an integer")),
        };
        broadcast_to(cx, &a, &shape)?;
        Ok(a)
    };
    let (low, high) = (bound(cx, "low", low)?, bound(cx, "high", high)?);
    let both = crate::meet::join_arrays(cx, &args.op(), &[high, low])?;
    let range = cx.map(ScalarOp::Sub, &[&both[0], &both[1]]);
    let x = below(cx, key, &shape, &both[1], &range);
    Ok(Val::Array(cx.convert(&x, dtype)))
}

/// `logits` with independent Gumbel noise: the largest element of a row is a draw of its softmax, the `k` largest in order are `k` draws without replacement
/// (Kool, van Hoof, Welling 2019, section 2).
fn gumbel_noisy(cx: &mut Cx, key: &Array, logits: &Array) -> Array {
    let dtype = wide(logits.dtype);
    let x = cx.convert(logits, dtype);
    let u = uniforms(cx, key, 1, &x.shape, dtype).remove(0);
    let log = cx.map(ScalarOp::Log, &[&u]);
    let minus = cx.map(ScalarOp::Neg, &[&log]);
    let log = cx.map(ScalarOp::Log, &[&minus]);
    cx.map(ScalarOp::Sub, &[&x, &log])
}

fn gumbel_choice(cx: &mut Cx, key: &Array, logits: &Array) -> Array {
    let noisy = gumbel_noisy(cx, key, logits);
    cx.arg_reduced(true, &noisy, noisy.shape.len() - 1)
}

/// `random.categorical(logits)` draws one index per row of the last axis; `random.categorical(shape, logits)` an array of `shape`, to which the rows broadcast.
fn categorical(cx: &mut Cx, args: &Args<'_>, key: &Array) -> Res<Val> {
    let (shape, param) = match args.opt("logits") {
        Some(_) => (Some(args.shape("shape")?), "logits"),
        None => (None, "shape"),
    };
    let logits = args.floats(cx, param)?;
    let Some(last) = logits.shape.last().cloned() else { return Err(args.wrong(param, "an array of at least one axis")) };
    if last.known() == Some(0) {
        return Err(args.value(param, "E0405", "`random.categorical` of no classes".into()));
    }
    let logits = match shape {
        Some(mut shape) => {
            shape.push(last);
            broadcast_to(cx, &logits, &shape)?
        }
        None => logits,
    };
    Ok(Val::Array(gumbel_choice(cx, key, &logits)))
}

fn random_order(cx: &mut Cx, key: &Array, n: &Dim) -> Array {
    let bits = words(cx, key, std::slice::from_ref(n));
    cx.arg_sorted(&bits, 0, false)
}

/// `random.permutation(n)`: the integers below `n` in random order; `random.permutation(x)`: the rows of `x`.
fn permutation(cx: &mut Cx, args: &Args<'_>, key: &Array) -> Res<Val> {
    if let Val::Int(_) = args.get("x") {
        let n = args.extent("x", 0)?;
        return Ok(Val::Array(random_order(cx, key, &n)));
    }
    let x = args.array(cx, "x")?;
    let Some(n) = x.shape.first().cloned() else { return Err(args.wrong("x", "an integer or an array of at least one axis")) };
    let order = random_order(cx, key, &n);
    Ok(Val::Array(cx.gathered(&x, &order, 0)))
}

/// The logarithms of the probabilities `p` of `n` elements.
fn weights(cx: &mut Cx, args: &Args<'_>, n: &Dim) -> Res<Array> {
    let p = args.floats(cx, "p")?;
    let p = broadcast_to(cx, &p, std::slice::from_ref(n))?;
    Ok(cx.map(ScalarOp::Log, &[&p]))
}

/// `random.choice(shape, x, replace = true, p)`: rows of `x` (or integers below it), each with probability proportional to `p` or equally likely; without
/// replacement each at most once, and those of probability 0 only when no others are left.
fn choice(cx: &mut Cx, args: &Args<'_>, key: &Array) -> Res<Val> {
    let shape = args.shape("shape")?;
    let (n, rows) = match args.get("x") {
        Val::Int(n) => (n.clone(), None),
        _ => {
            let x = args.array(cx, "x")?;
            let Some(n) = x.shape.first().cloned() else { return Err(args.wrong("x", "an integer or an array of at least one axis")) };
            (n, Some(x))
        }
    };
    if n.known().is_some_and(|n| n < 1) {
        return Err(args.value("x", "E0405", format!("`random.choice` out of {n} elements")));
    }
    let Some(replace) = args.flag("replace", true)? else { return Ok(Val::Unknown) };
    let count = Dim::product(&shape);
    let ids = if !replace {
        if count.known().zip(n.known()).is_some_and(|(c, n)| c > n) {
            return Err(args.value("shape", "E0405", format!("`random.choice` of {count} out of {n} without replacement")));
        }
        let order = match args.opt("p") {
            Some(_) => {
                let p = weights(cx, args, &n)?;
                let noisy = gumbel_noisy(cx, key, &p);
                cx.arg_sorted(&noisy, 0, true)
            }
            None => random_order(cx, key, &n),
        };
        let first = cx.sliced(&order, 0, &Dim::zero(), &count, 1);
        cx.reshaped(&first, &shape)
    } else if args.opt("p").is_some() {
        let logits = weights(cx, args, &n)?;
        let mut all = shape.clone();
        all.push(n.clone());
        let logits = broadcast_to(cx, &logits, &all)?;
        gumbel_choice(cx, key, &logits)
    } else {
        let (low, range) = (cx.scalar(DType::I64, 0.0), cx.size_scalar(DType::I64, &n));
        let x = below(cx, key, &shape, &low, &range);
        cx.convert(&x, DType::I32)
    };
    Ok(Val::Array(match rows {
        Some(x) => cx.gathered(&x, &ids, 0),
        None => ids,
    }))
}

/// `random.truncated_normal(shape, low = -2, high = 2, dtype)`
fn truncated(cx: &mut Cx, args: &Args<'_>, key: &Array) -> Res<Val> {
    let (shape, dtype) = header(args, cx.float)?;
    let inner = wide(dtype);
    let (two, minus) = (Val::Int(Dim::from(2i64)), Val::Int(Dim::from(-2i64)));
    let bound = |cx: &mut Cx, v: &Val| -> Res<Array> {
        let a = to_array(cx, &args.op(), v, inner)?;
        broadcast_to(cx, &a, &shape)
    };
    let low = bound(cx, args.opt("low").unwrap_or(&minus))?;
    let high = bound(cx, args.opt("high").unwrap_or(&two))?;
    let place = |cx: &mut Cx, x: &Array| {
        let scaled = cx.with_const(ScalarOp::Mul, x, std::f64::consts::FRAC_1_SQRT_2);
        cx.map(ScalarOp::Erf, &[&scaled])
    };
    let (a, b) = (place(cx, &low), place(cx, &high));
    let u = uniforms(cx, key, 1, &shape, inner).remove(0);
    let range = cx.map(ScalarOp::Sub, &[&b, &a]);
    let part = cx.map(ScalarOp::Mul, &[&u, &range]);
    let p = cx.map(ScalarOp::Add, &[&a, &part]);
    let y = erf_inverse(cx, &p);
    let x = cx.with_const(ScalarOp::Mul, &y, std::f64::consts::SQRT_2);
    let x = cx.map(ScalarOp::Max, &[&x, &low]);
    let x = cx.map(ScalarOp::Min, &[&x, &high]);
    Ok(Val::Array(cx.convert(&x, dtype)))
}

/// `random.gamma(shape, a, dtype)` with shape parameter `a` and scale 1. For `a < 1` a draw for `a + 1` is multiplied by `u^(1/a)`.
fn gamma(cx: &mut Cx, args: &Args<'_>, key: &Array) -> Res<Val> {
    let (shape, dtype) = header(args, cx.float)?;
    let inner = wide(dtype);
    let a = to_array(cx, &args.op(), args.get("a"), inner)?;
    let a = broadcast_to(cx, &a, &shape)?;
    let one = cx.splat(inner, &shape, 1.0);
    let small = cx.map(ScalarOp::Lt, &[&a, &one]);
    let boosted = cx.map(ScalarOp::Add, &[&a, &one]);
    let b = cx.select(&small, &boosted, &a);
    let d = cx.with_const(ScalarOp::Sub, &b, 1.0 / 3.0);
    let nine = cx.with_const(ScalarOp::Mul, &d, 9.0);
    let root = cx.map(ScalarOp::Sqrt, &[&nine]);
    let c = cx.map(ScalarOp::Div, &[&one, &root]);
    let u = uniforms(cx, key, 3 * GAMMA_TRIES + 1, &shape, inner);
    let mut result: Option<Array> = None;
    for t in (0..GAMMA_TRIES).rev() {
        let x = box_muller(cx, &u[3 * t], &u[3 * t + 1]);
        let cx_x = cx.map(ScalarOp::Mul, &[&c, &x]);
        let base = cx.map(ScalarOp::Add, &[&one, &cx_x]);
        let square = cx.map(ScalarOp::Mul, &[&base, &base]);
        let v = cx.map(ScalarOp::Mul, &[&square, &base]);
        let v = cx.with_const(ScalarOp::Max, &v, 1e-30);
        let value = cx.map(ScalarOp::Mul, &[&d, &v]);
        result = Some(match result {
            None => value,
            Some(later) => {
                // log(1 - u) < x^2 / 2 + d - d v + d log v
                let rest = cx.map(ScalarOp::Sub, &[&one, &u[3 * t + 2]]);
                let log_u = cx.map(ScalarOp::Log, &[&rest]);
                let x2 = cx.map(ScalarOp::Mul, &[&x, &x]);
                let half = cx.with_const(ScalarOp::Mul, &x2, 0.5);
                let log_v = cx.map(ScalarOp::Log, &[&v]);
                let dlog = cx.map(ScalarOp::Mul, &[&d, &log_v]);
                let sum = cx.map(ScalarOp::Add, &[&half, &d]);
                let sum = cx.map(ScalarOp::Sub, &[&sum, &value]);
                let sum = cx.map(ScalarOp::Add, &[&sum, &dlog]);
                let taken = cx.map(ScalarOp::Lt, &[&log_u, &sum]);
                cx.select(&taken, &value, &later)
            }
        });
    }
    let g = result.expect("compiler bug: no tries");
    let rest = cx.map(ScalarOp::Sub, &[&one, &u[3 * GAMMA_TRIES]]);
    let inverse = cx.map(ScalarOp::Div, &[&one, &a]);
    let factor = cx.map(ScalarOp::Pow, &[&rest, &inverse]);
    let factor = cx.select(&small, &factor, &one);
    let x = cx.map(ScalarOp::Mul, &[&g, &factor]);
    Ok(Val::Array(cx.convert(&x, dtype)))
}
