//! Draws. All come from the words of one counter-based generator (`Op::RandomBits`), so they are the same on every machine and for every number of threads.
//!
//! - `uniform`: the upper 24 bits of a word divided by 2^24 (f64: 53 bits of two words; bf16 and f16: as many bits as they hold). Never 1. With ends `low + u (high - low)`.
//! - `normal`: Box and Muller 1958, `sqrt(-2 log(1 - u)) cos(2 pi v)` with two uniforms per draw, times `std`, plus `mean`.
//! - `exponential`: `-log(1 - u) / rate`.
//! - `bernoulli`: `u < p`; `rademacher`: the uppermost bit of a word as a sign.
//! - `integer`: `low + floor(word (high - low) / 2^32)`; the bias is below `(high - low) / 2^32`.
//! - `categorical`: the largest of the logits plus Gumbel noise `-log(-log u)`.
//! - `permutation`: the order that sorts random words.
//! - `truncated_normal`: the inverse of the distribution function (Giles 2010, with Newton steps in f64).
//! - `gamma`: [`crate::gamma`], divided by `rate`.
//!
//! Derivatives pass through the parameters of `uniform`, `normal`, `exponential`, `gamma` and `truncated_normal`; the words have none.

use crate::args::Args;
use crate::arith::broadcast_to;
use crate::cx::{Cx, Draws};
use crate::dim::Dim;
use crate::error::Res;
use crate::meet::to_array;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::graph::Op;
use optc_ir::{ScalarOp, Ty};

/// Words `k` times the size of `shape` and following of the key's sequence.
fn words_at(cx: &mut Cx, key: &Array, k: usize, shape: &[Dim]) -> Array {
    if cx.emitting() {
        let sizes: Vec<usize> = shape.iter().map(|d| d.known().unwrap_or(1) as usize).collect();
        match &mut cx.draws {
            Draws::Made => {}
            Draws::Noted(noted) => noted.push((k, sizes)),
            Draws::OfExample { whole, made, batch, example } => {
                let (of_batch, batch, example) = (whole.get(*made).cloned(), *batch, example.clone());
                *made += 1;
                return words_of_example(cx, key, (k, sizes), of_batch, batch, &example);
            }
        }
    }
    made_words(cx, key, k, shape)
}

/// The place of an example's number in a key, where its draws are no part of those of its batch.
const EXAMPLE: u32 = 0xE000_0001;

/// The part of the words of a batch that belongs to one example: along the axis that is so many times as long as for the example alone. Words of the same shape
/// for both belong to all examples; others that have no counterpart in the batch are drawn for the example.
fn words_of_example(
    cx: &mut Cx,
    key: &Array,
    (k, one): (usize, Vec<usize>),
    of_batch: Option<(usize, Vec<usize>)>,
    batch: usize,
    example: &Array,
) -> Array {
    let dims = |sizes: &[usize]| -> Vec<Dim> { sizes.iter().map(|&n| Dim::from(n)).collect() };
    let counterpart = of_batch.filter(|(at, shape)| *at == k && shape.len() == one.len());
    if let Some((_, shape)) = &counterpart {
        let differ: Vec<usize> = (0..one.len()).filter(|&a| shape[a] != one[a]).collect();
        match differ[..] {
            [] => return made_words(cx, key, k, &dims(&one)),
            [axis] if shape[axis] == batch * one[axis] => {
                let whole = made_words(cx, key, k, &dims(shape));
                let mut cut = shape.clone();
                cut[axis] = one[axis];
                cut.insert(axis, batch);
                return cx.build(DType::U32, dims(&one), &[&whole, example], |e| {
                    let parts = e.graph.reshape(e.x[0], &cut, e.origin);
                    e.graph.gather(parts, e.x[1], axis, e.origin)
                });
            }
            _ => {}
        }
    }
    let key = cx.build(DType::U32, key.shape.clone(), &[key, example], |e| {
        let number = e.graph.cast(e.x[1], DType::U32, e.origin);
        e.graph.op_as(Op::RandomFold { place: EXAMPLE }, &[e.x[0], number], Ty::new(DType::U32, [2]), e.origin)
    });
    made_words(cx, &key, k, &dims(&one))
}

fn made_words(cx: &mut Cx, key: &Array, k: usize, shape: &[Dim]) -> Array {
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
pub(crate) fn uniforms(cx: &mut Cx, key: &Array, count: usize, shape: &[Dim], dtype: DType) -> Vec<Array> {
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
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// A normal draw from two uniforms.
pub(crate) fn box_muller(cx: &mut Cx, u: &Array, v: &Array) -> Array {
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
            let spec = Spec::new(cx, args, &["low", "high"])?;
            spec.ordered("low", "high", true)?;
            let u = uniforms(cx, key, 1, &spec.shape, if spec.plain() { spec.dtype } else { spec.inner }).remove(0);
            if spec.plain() {
                return Ok(Val::Array(u));
            }
            let (low, high) = (spec.or(cx, "low", 0.0), spec.or(cx, "high", 1.0));
            let range = cx.map(ScalarOp::Sub, &[&high, &low]);
            let part = cx.map(ScalarOp::Mul, &[&u, &range]);
            let x = cx.map(ScalarOp::Add, &[&low, &part]);
            Ok(Val::Array(cx.convert(&x, spec.dtype)))
        }
        "random.normal" => {
            let spec = Spec::new(cx, args, &["mean", "std"])?;
            spec.at_least("std", 0.0, true)?;
            let u = uniforms(cx, key, 2, &spec.shape, spec.inner);
            let mut x = box_muller(cx, &u[0], &u[1]);
            if let Some(std) = spec.param("std") {
                x = cx.map(ScalarOp::Mul, &[&std, &x]);
            }
            if let Some(mean) = spec.param("mean") {
                x = cx.map(ScalarOp::Add, &[&mean, &x]);
            }
            Ok(Val::Array(cx.convert(&x, spec.dtype)))
        }
        "random.exponential" => {
            let spec = Spec::new(cx, args, &["rate"])?;
            spec.at_least("rate", 0.0, false)?;
            let u = uniforms(cx, key, 1, &spec.shape, spec.inner).remove(0);
            let minus = cx.map(ScalarOp::Neg, &[&u]);
            let log = cx.map(ScalarOp::Log1p, &[&minus]);
            let x = cx.map(ScalarOp::Neg, &[&log]);
            let x = spec.by_rate(cx, &x);
            Ok(Val::Array(cx.convert(&x, spec.dtype)))
        }
        "random.gamma" => {
            let spec = Spec::new(cx, args, &["a", "rate"])?;
            spec.at_least("a", 0.0, false)?;
            spec.at_least("rate", 0.0, false)?;
            let a = spec.param("a").expect("compiler bug: a missing argument was accepted");
            let x = crate::gamma::standard_gamma(cx, key, &a, &spec.shape);
            let x = spec.by_rate(cx, &x);
            Ok(Val::Array(cx.convert(&x, spec.dtype)))
        }
        "random.truncated_normal" => truncated(cx, args, key),
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
        "random.bernoulli" => bernoulli(cx, args, key),
        "random.categorical" => categorical(cx, args, key),
        "random.permutation" => permutation(cx, args, key),
        "random.choice" => choice(cx, args, key),
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
    let known = numbers(args.get("p"));
    if let Some(x) = known.iter().find(|x| x.is_nan() || **x < 0.0) {
        return Err(impossible(args, "p", format!("a weight of {x}"), "weights are not negative; their scale does not matter"));
    }
    if !known.is_empty() && known.iter().all(|x| *x == 0.0) {
        return Err(impossible(args, "p", "weights that are all 0".to_string(), "some element needs a weight above 0"));
    }
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

/// `random.bernoulli(shape, p = 0.5, dtype = bool)`: true with probability `p`.
fn bernoulli(cx: &mut Cx, args: &Args<'_>, key: &Array) -> Res<Val> {
    let half = Val::Float(Some(0.5));
    let p = args.opt("p").unwrap_or(&half);
    if let Some(x) = numbers(p).into_iter().find(|x| !(0.0..=1.0).contains(x)) {
        return Err(impossible(args, "p", format!("a probability of {x}"), "a probability lies between 0 and 1"));
    }
    let dtype = args.dtype("dtype", DType::Bool)?;
    let inner = match p {
        Val::Array(a) if a.dtype == DType::F64 && !a.weak => DType::F64,
        _ => DType::F32,
    };
    let p = match p {
        Val::Array(a) if !a.weak && a.dtype.is_float() => cx.convert(a, inner),
        _ => to_array(cx, &args.op(), p, inner)?,
    };
    let shape = if args.opt("shape").is_some() { args.shape("shape")? } else { p.shape.clone() };
    let p = broadcast_to(cx, &p, &shape)?;
    let u = uniforms(cx, key, 1, &shape, inner).remove(0);
    let flags = cx.map(ScalarOp::Lt, &[&u, &p]);
    Ok(Val::Array(cx.convert(&flags, dtype)))
}

/// Half-width of an interval in which f32 resolves the distribution function.
const RESOLVED: f64 = 3.0;

/// `random.truncated_normal(shape, low = -2, high = 2, dtype)`: standard normal draws between `low` and `high`, as many as the law has there.
fn truncated(cx: &mut Cx, args: &Args<'_>, key: &Array) -> Res<Val> {
    let spec = Spec::new(cx, args, &["low", "high"])?;
    spec.ordered("low", "high", false)?;
    let ends = ["low", "high"].map(|p| args.opt(p).map_or_else(|| vec![2.0], numbers));
    let (low, high) = (spec.or(cx, "low", -2.0), spec.or(cx, "high", 2.0));
    // In the tails the distribution function is too near to -1 or 1 for f32.
    let near = ends.iter().all(|e| !e.is_empty() && e.iter().all(|x| x.abs() <= RESOLVED));
    let inner = if near { spec.inner } else { DType::F64 };
    let (low, high) = (cx.convert(&low, inner), cx.convert(&high, inner));
    let place = |cx: &mut Cx, x: &Array| {
        let scaled = cx.with_const(ScalarOp::Mul, x, std::f64::consts::FRAC_1_SQRT_2);
        cx.map(ScalarOp::Erf, &[&scaled])
    };
    let (a, b) = (place(cx, &low), place(cx, &high));
    let u = uniforms(cx, key, 1, &spec.shape, inner).remove(0);
    let range = cx.map(ScalarOp::Sub, &[&b, &a]);
    let part = cx.map(ScalarOp::Mul, &[&u, &range]);
    let p = cx.map(ScalarOp::Add, &[&a, &part]);
    let y = erf_inverse(cx, &p);
    let x = cx.with_const(ScalarOp::Mul, &y, std::f64::consts::SQRT_2);
    let x = cx.map(ScalarOp::Max, &[&x, &low]);
    let x = cx.map(ScalarOp::Min, &[&x, &high]);
    Ok(Val::Array(cx.convert(&x, spec.dtype)))
}

/// A float draw with parameters: its shape, its element type, and the parameters as arrays of that shape.
struct Spec<'a> {
    args: &'a Args<'a>,
    shape: Vec<Dim>,
    dtype: DType,
    /// What it is computed in.
    inner: DType,
    params: Vec<(&'static str, Option<Array>)>,
}

impl<'a> Spec<'a> {
    /// Reads the arguments. Without a shape it is that of the parameters together. `none` of a parameter stands for its default.
    fn new(cx: &mut Cx, args: &'a Args<'a>, names: &[&'static str]) -> Res<Spec<'a>> {
        // A parameter that is an array of floats decides the element type, if nothing else does.
        let typed = names.iter().find_map(|n| match args.opt(n) {
            Some(Val::Array(a)) if !a.weak && a.dtype.is_float() => Some(a.dtype),
            _ => None,
        });
        let (mut shape, dtype) = header(args, typed.unwrap_or(cx.float))?;
        let inner = wide(dtype);
        let mut params: Vec<(&'static str, Option<Array>)> = Vec::new();
        for &name in names {
            let array = match args.opt(name) {
                None => None,
                Some(Val::Array(a)) if !a.weak && a.dtype == dtype => Some(cx.convert(a, inner)),
                Some(v) => Some(to_array(cx, &args.op(), v, inner)?),
            };
            params.push((name, array));
        }
        if args.opt("shape").is_none() {
            let given: Vec<Array> = params.iter().filter_map(|(_, a)| a.clone()).collect();
            if !given.is_empty() {
                shape.clone_from(&crate::meet::join_arrays(cx, &args.op(), &given)?[0].shape);
            }
        }
        for (_, array) in &mut params {
            if let Some(a) = array {
                *a = broadcast_to(cx, a, &shape)?;
            }
        }
        Ok(Spec { args, shape, dtype, inner, params })
    }
    /// Whether no parameter is given.
    fn plain(&self) -> bool {
        self.params.iter().all(|(_, a)| a.is_none())
    }
    fn param(&self, name: &str) -> Option<Array> {
        self.params.iter().find(|(n, _)| *n == name).and_then(|(_, a)| a.clone())
    }
    fn or(&self, cx: &mut Cx, name: &str, default: f64) -> Array {
        self.param(name).unwrap_or_else(|| cx.splat(self.inner, &self.shape, default))
    }
    fn by_rate(&self, cx: &mut Cx, x: &Array) -> Array {
        match self.param("rate") {
            Some(rate) => cx.map(ScalarOp::Div, &[x, &rate]),
            None => x.clone(),
        }
    }
    /// Numbers known in the text must not lie below a bound (nor on it, if it is not allowed).
    fn at_least(&self, name: &str, bound: f64, allowed: bool) -> Res<()> {
        let Some(v) = self.args.opt(name) else { return Ok(()) };
        let wrong = |x: &f64| x.is_nan() || *x < bound || (!allowed && *x == bound);
        match numbers(v).into_iter().find(wrong) {
            None => Ok(()),
            Some(x) => {
                let what = if allowed { format!("`{name}` is at least {bound}") } else { format!("`{name}` is above {bound}") };
                Err(impossible(self.args, name, format!("`{name}` = {x}"), &what))
            }
        }
    }
    /// Ends known in the text are in order.
    fn ordered(&self, low: &str, high: &str, equal: bool) -> Res<()> {
        let end = |name: &str, default: f64| match self.args.opt(name).map(numbers) {
            None => Some(default),
            Some(x) => (x.len() == 1).then(|| x[0]),
        };
        let defaults = if self.args.name == "random.uniform" { [0.0, 1.0] } else { [-2.0, 2.0] };
        let (Some(a), Some(b)) = (end(low, defaults[0]), end(high, defaults[1])) else { return Ok(()) };
        if a < b || (equal && a == b) {
            return Ok(());
        }
        let at = if self.args.opt(high).is_some() { high } else { low };
        Err(impossible(self.args, at, format!("numbers between {a} and {b}"), &format!("`{low}` lies below `{high}`")))
    }
}

/// The numbers of a value that the text alone gives; none of one that is computed.
fn numbers(v: &Val) -> Vec<f64> {
    match v {
        Val::Float(Some(x)) => vec![*x],
        Val::Int(d) => d.known().map(|n| n as f64).into_iter().collect(),
        Val::List(items) | Val::Tuple(items) => items.iter().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

/// A draw that no law gives.
fn impossible(args: &Args<'_>, param: &str, what: String, rule: &str) -> crate::error::OpError {
    args.value(param, "E0307", format!("`{}` cannot draw with {what}", args.name)).help(rule.to_string())
}
