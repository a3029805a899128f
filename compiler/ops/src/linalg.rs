//! Linear algebra and Fourier transforms: shapes, and what is composed of the few library calls.
//!
//! Everything is batched over leading axes. f16 and bf16 are computed in f32. Factorization and solve are calls of their own, so that equal factorizations
//! are made once.

use crate::args::Args;
use crate::cx::Cx;
use crate::dim::Dim;
use crate::dim_arith::Fit;
use crate::error::{OpError, Res};
use crate::meet::{join_shapes, to_array};
use crate::show;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, DotDims, LibCall, ReduceOp};
use std::sync::Arc;

/// The type a call computes in.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// A matrix or a batch of them, in the type of the computation, and the type of the results.
fn matrix(cx: &mut Cx, args: &Args<'_>, param: &str) -> Res<(Array, DType)> {
    let a = args.floats(cx, param)?;
    if a.shape.len() < 2 {
        let e = OpError::new("E0404", format!("`{}` needs a matrix, not `{}`", args.name, show::array(&a)));
        return Err(match args.name {
            "solve" | "lstsq" | "solve_triangular" => e.help(format!("the matrix comes first: `{}(a, b)`", args.name)),
            _ => e.help("a matrix has two axes; axes before them are a batch"),
        });
    }
    let dtype = a.dtype;
    Ok((cx.convert(&a, wide(dtype)), dtype))
}

/// Square matrices.
fn square(cx: &mut Cx, args: &Args<'_>, param: &str) -> Res<(Array, DType)> {
    let (a, dtype) = matrix(cx, args, param)?;
    let (m, n) = extents(&a);
    if m.fit(&n) == Fit::Different {
        let shown = Array { dtype, ..a };
        return Err(OpError::new("E0402", format!("`{}` needs square matrices, not `{}`", args.name, show::array(&shown)))
            .note(format!("the last two extents, {m} and {n}, differ"))
            .help(match args.name {
                "solve" => "`lstsq(a, b)` takes a matrix of any shape",
                "inv" => "`pinv(a)` takes a matrix of any shape",
                _ => "use one name for both extents if they are the same size",
            }));
    }
    Ok((a, dtype))
}

fn extents(a: &Array) -> (Dim, Dim) {
    let n = a.shape.len();
    (a.shape[n - 2].clone(), a.shape[n - 1].clone())
}

/// The batch axes of matrices, with others behind them.
fn with_batch(a: &Array, last: &[&Dim]) -> Vec<Dim> {
    a.shape[..a.shape.len() - 2].iter().chain(last.iter().copied()).cloned().collect()
}

fn turned(cx: &mut Cx, a: &Array) -> Array {
    let n = a.shape.len();
    let mut perm: Vec<usize> = (0..n).collect();
    perm.swap(n - 2, n - 1);
    cx.permuted(a, &perm)
}

/// The mean of a matrix and its transpose.
fn symmetric(cx: &mut Cx, a: &Array) -> Array {
    let t = turned(cx, a);
    let sum = cx.map(ScalarOp::Add, &[a, &t]);
    cx.with_const(ScalarOp::Mul, &sum, 0.5)
}

/// `a b` of matrices with the same batch.
fn product(cx: &mut Cx, a: &Array, b: &Array) -> Array {
    let n = a.shape.len() - 2;
    let batch: Axes = (0..n).collect();
    let dims = DotDims {
        lhs_batch: batch.clone(),
        rhs_batch: batch,
        lhs_contract: Axes::from_slice(&[n + 1]),
        rhs_contract: Axes::from_slice(&[n]),
    };
    cx.dotted(a, b, dims)
}

/// A call with one result.
fn one(cx: &mut Cx, call: LibCall, operands: &[&Array], dtype: DType, shape: Vec<Dim>) -> Array {
    cx.library(call, operands, &[(dtype, shape)]).pop().expect("compiler bug: a call without result")
}

fn record(fields: &[(&str, &Array)]) -> Val {
    Val::Record(fields.iter().map(|(name, x)| (Arc::from(*name), Val::Array((*x).clone()))).collect())
}

/// `cholesky(a)`, `inv(a)`, `det(a)`, `logdet(a)`, `eigh(a)` of square matrices.
pub(crate) fn of_square(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let (a, dtype) = square(cx, args, "a")?;
    let (_, n) = extents(&a);
    let array = |cx: &mut Cx, x: Array| Ok(Val::Array(cx.convert(&x, dtype)));
    match args.name {
        "cholesky" => {
            let a = symmetric(cx, &a);
            let l = one(cx, LibCall::Cholesky, &[&a], a.dtype, a.shape.clone());
            array(cx, l)
        }
        "eigh" => {
            let a = symmetric(cx, &a);
            let found = cx.library(LibCall::Eigh, &[&a], &[(a.dtype, with_batch(&a, &[&n])), (a.dtype, a.shape.clone())]);
            let [values, vectors] = [0, 1].map(|k| cx.convert(&found[k], dtype));
            Ok(record(&[("values", &values), ("vectors", &vectors)]))
        }
        "inv" => {
            let (lu, perm, _) = factored(cx, &a);
            let (i, j) = (cx.counting(DType::I32, &a.shape, a.shape.len() - 2), cx.counting(DType::I32, &a.shape, a.shape.len() - 1));
            let on = cx.map(ScalarOp::Eq, &[&i, &j]);
            let eye = cx.convert(&on, a.dtype);
            let x = one(cx, LibCall::LuSolve { transposed: false }, &[&a, &lu, &perm, &eye], a.dtype, a.shape.clone());
            array(cx, x)
        }
        name => {
            let (lu, _, sign) = factored(cx, &a);
            let (i, j) = (cx.counting(DType::I32, &a.shape, a.shape.len() - 2), cx.counting(DType::I32, &a.shape, a.shape.len() - 1));
            let on = cx.map(ScalarOp::Eq, &[&i, &j]);
            let zero = cx.splat(a.dtype, &a.shape, 0.0);
            let only = cx.select(&on, &lu, &zero);
            let last = a.shape.len() - 1;
            let diagonal = cx.reduced(ReduceOp::Sum, &only, &[last]);
            let x = if name == "det" {
                let product = cx.reduced(ReduceOp::Prod, &diagonal, &[last - 1]);
                cx.map(ScalarOp::Mul, &[&product, &sign])
            } else {
                let size = cx.map(ScalarOp::Abs, &[&diagonal]);
                let logs = cx.map(ScalarOp::Log, &[&size]);
                cx.reduced(ReduceOp::Sum, &logs, &[last - 1])
            };
            array(cx, x)
        }
    }
}

/// The factors, the permutation and its sign.
fn factored(cx: &mut Cx, a: &Array) -> (Array, Array, Array) {
    let (_, n) = extents(a);
    let results = [(a.dtype, a.shape.clone()), (DType::I32, with_batch(a, &[&n])), (a.dtype, with_batch(a, &[]))];
    let [lu, perm, sign]: [Array; 3] = cx.library(LibCall::Lu, &[a], &results).try_into().expect("compiler bug: an LU has three results");
    (lu, perm, sign)
}

/// `solve(a, b)`, `solve_triangular(a, b, lower = true, transpose = false, unit = false)`, `lstsq(a, b)`: b is a matrix (columns are solved for), or a vector
/// if it has one axis or one axis less than a. Batch axes broadcast.
pub(crate) fn solving(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let (a, dtype) = if args.name == "lstsq" { matrix(cx, args, "a")? } else { square(cx, args, "a")? };
    let b = to_array(cx, &args.op(), args.get("b"), dtype)?;
    let b = cx.convert(&b, a.dtype);
    if b.shape.is_empty() {
        return Err(args.wrong("b", "a vector or a matrix"));
    }
    let vector = b.shape.len() == 1 || b.shape.len() + 1 == a.shape.len();
    let side = if vector { cx.expand(&b, &[b.shape.len()]) } else { b.clone() };
    let (m, n) = extents(&a);
    if m.fit(&extents(&side).0) == Fit::Different {
        let axis = side.shape.len() - 2;
        return Err(OpError::new(
            "E0402",
            format!(
                "`{}` of shapes {} and {}: {m} equations, but {} right-hand values",
                args.name,
                show::shape(&a.shape),
                show::shape(&b.shape),
                side.shape[axis]
            ),
        )
        .note(show::pair(("a", &a, Some(a.shape.len() - 2)), ("b", &b, Some(axis))))
        .help("the last axis but one of `a` meets the axis of `b` that holds one value for each equation"));
    }
    // Factorizations are made before batch axes are repeated.
    let head = |x: &Array| Array { shape: x.shape[..x.shape.len() - 2].to_vec(), ..x.clone() };
    let batch = join_shapes(&args.op(), &head(&a), &head(&side))?;
    let full = |cx: &mut Cx, x: &Array, kept: usize| {
        let mut shape = batch.clone();
        shape.extend(x.shape[x.shape.len() - kept..].iter().cloned());
        cx.spread_to(x, &shape)
    };
    let side = full(cx, &side, 2);
    let x = match args.name {
        "solve" => {
            let (lu, perm, _) = factored(cx, &a);
            let (a, lu, perm) = (full(cx, &a, 2), full(cx, &lu, 2), full(cx, &perm, 1));
            one(cx, LibCall::LuSolve { transposed: false }, &[&a, &lu, &perm, &side], a.dtype, side.shape.clone())
        }
        "lstsq" => {
            let inverse = one(cx, LibCall::Pinv, &[&a], a.dtype, with_batch(&a, &[&n, &m]));
            let inverse = full(cx, &inverse, 2);
            product(cx, &inverse, &side)
        }
        _ => {
            let flags = [args.flag("lower", true)?, args.flag("transpose", false)?, args.flag("unit", false)?];
            let [lower, transposed, unit] = flags.map(|f| f.unwrap_or(false));
            let a = full(cx, &a, 2);
            one(cx, LibCall::TriangularSolve { lower, transposed, unit }, &[&a, &side], a.dtype, side.shape.clone())
        }
    };
    let shape: Vec<Dim> = if vector { x.shape[..x.shape.len() - 1].to_vec() } else { x.shape.clone() };
    let x = cx.reshaped(&x, &shape);
    Ok(Val::Array(cx.convert(&x, dtype)))
}

/// `qr(a)`, `svd(a)`, `pinv(a)` of matrices of any shape.
pub(crate) fn of_any(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let (a, dtype) = matrix(cx, args, "a")?;
    let (m, n) = extents(&a);
    let k = Dim::min(&m, &n);
    let of = |last: &[&Dim]| (a.dtype, with_batch(&a, last));
    match args.name {
        "qr" => {
            let found = cx.library(LibCall::Qr, &[&a], &[of(&[&m, &k]), of(&[&k, &n])]);
            let [q, r] = [0, 1].map(|i| cx.convert(&found[i], dtype));
            Ok(record(&[("q", &q), ("r", &r)]))
        }
        "svd" => {
            let found = cx.library(LibCall::Svd, &[&a], &[of(&[&m, &k]), of(&[&k]), of(&[&k, &n])]);
            let [u, s, vt] = [0, 1, 2].map(|i| cx.convert(&found[i], dtype));
            Ok(record(&[("u", &u), ("s", &s), ("vt", &vt)]))
        }
        _ => {
            let z = one(cx, LibCall::Pinv, &[&a], a.dtype, with_batch(&a, &[&n, &m]));
            Ok(Val::Array(cx.convert(&z, dtype)))
        }
    }
}

/// `fft(re, im = none, axis = -1)`, `ifft(…)`: complex numbers are two arrays, real and imaginary parts.
pub(crate) fn transform(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let inverse = args.name == "ifft";
    let re = args.floats(cx, "re")?;
    if re.shape.is_empty() {
        return Err(OpError::new("E0404", format!("`{}` needs an array of at least one axis, not a scalar", args.name)));
    }
    let dtype = re.dtype;
    let im = match args.opt("im") {
        Some(v) => {
            let im = to_array(cx, &args.op(), v, dtype)?;
            let fits = im.shape.len() == re.shape.len() && im.shape.iter().zip(&re.shape).all(|(a, b)| a.fit(b) != Fit::Different);
            if !fits {
                return Err(OpError::new("E0402", format!("`{}` needs real and imaginary parts of one shape", args.name))
                    .note(show::pair(("re", &re, None), ("im", &im, None))));
            }
            im
        }
        None => cx.splat(dtype, &re.shape, 0.0),
    };
    let Some(axis) = args.axis("axis", -1, &re)? else { return Ok(record(&[("re", &re), ("im", &re)])) };
    let rank = re.shape.len();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 1);
    let parts = [re, im].map(|x| {
        let x = cx.convert(&x, wide(dtype));
        cx.permuted(&x, &perm)
    });
    let result = (parts[0].dtype, parts[0].shape.clone());
    let found = cx.library(LibCall::Fft { inverse }, &[&parts[0], &parts[1]], &[result.clone(), result]);
    let n = parts[0].shape[rank - 1].clone();
    let [re, im] = [0, 1].map(|k| {
        let mut x = found[k].clone();
        if inverse {
            let n = cx.size_scalar(x.dtype, &n);
            let n = cx.spread(&n, &[], &x.shape);
            x = cx.map(ScalarOp::Div, &[&x, &n]);
        }
        let x = cx.permuted(&x, &perm);
        cx.convert(&x, dtype)
    });
    Ok(record(&[("re", &re), ("im", &im)]))
}

/// `assignment(cost, maximize = false)`: the column of each row.
pub(crate) fn assignment(cx: &mut Cx, args: &Args<'_>) -> Res<Val> {
    let (cost, dtype) = matrix(cx, args, "cost")?;
    let maximize = args.flag("maximize", false)?.unwrap_or(false);
    let (m, n) = extents(&cost);
    if m.known().zip(n.known()).is_some_and(|(m, n)| m > n) {
        let shown = Array { dtype, ..cost };
        return Err(OpError::new(
            "E0402",
            format!("`assignment` of {m} rows to {n} columns, not enough for all: `{}`", show::array(&shown)),
        )
        .help("give the transpose, `cost.T`: the result is then the row of each column"));
    }
    let shape = with_batch(&cost, &[&m]);
    Ok(Val::Array(one(cx, LibCall::Assignment { maximize }, &[&cost], DType::I32, shape)))
}
