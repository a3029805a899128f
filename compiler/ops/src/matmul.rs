//! Matrix products by NumPy's rule.

use crate::cx::Cx;
use crate::dim::Dim;
use crate::dim_arith::Fit;
use crate::error::{OpError, Res};
use crate::meet::{join_shapes, meet, to_array};
use crate::show;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, DotDims, ReduceOp};

/// Both operands as arrays of one element type, of rank 1 or more.
fn factors(cx: &mut Cx, op: &str, a: &Val, b: &Val) -> Res<(Array, Array)> {
    let m = meet(cx, op, &[a, b])?;
    let dtype = if m.dtype(cx) == DType::Bool { DType::I32 } else { m.dtype(cx) };
    let (x, y) = (to_array(cx, op, a, dtype)?, to_array(cx, op, b, dtype)?);
    for (v, side) in [(&x, "left"), (&y, "right")] {
        if v.shape.is_empty() {
            return Err(OpError::new("E0404", format!("{op} needs arrays of at least one axis, but its {side} operand is a scalar"))
                .help("scale with `*`"));
        }
    }
    Ok((x, y))
}

fn check_inner(op: &str, a: &Array, i: usize, b: &Array, j: usize) -> Res<()> {
    let (x, y) = (&a.shape[i], &b.shape[j]);
    if x.fit(y) != Fit::Different {
        return Ok(());
    }
    let transposed =
        (b.shape.len() == 2 && b.shape[1 - j].fit(x) == Fit::Equal).then_some("the right operand may have to be transposed: `b.T`");
    Err(OpError::new(
        "E0402",
        format!("{op} of shapes {} and {}: the inner extents {x} and {y} differ", show::shape(&a.shape), show::shape(&b.shape)),
    )
    .note(show::pair(("left", a, Some(i)), ("right", b, Some(j))))
    .help(transposed.unwrap_or("the last axis of the left operand meets the last but one of the right operand")))
}

/// A general product of arrays of one element type: matrix multiplication for floats, a fused sum of products for integers.
pub(crate) fn contract(cx: &mut Cx, a: &Array, b: &Array, dims: DotDims) -> Array {
    if a.dtype.is_float() {
        return cx.dotted(a, b, dims);
    }
    let free =
        |t: &Array, p: &[usize], q: &[usize]| -> Vec<usize> { (0..t.shape.len()).filter(|i| !p.contains(i) && !q.contains(i)).collect() };
    let (fa, fb) = (free(a, &dims.lhs_batch, &dims.lhs_contract), free(b, &dims.rhs_batch, &dims.rhs_contract));
    let order = |x: &[&[usize]]| -> Vec<usize> { x.concat() };
    let pa = cx.permuted(a, &order(&[&dims.lhs_batch, &fa, &dims.lhs_contract]));
    let pb = cx.permuted(b, &order(&[&dims.rhs_batch, &fb, &dims.rhs_contract]));
    let (n, m, k, l) = (dims.lhs_batch.len(), fa.len(), fb.len(), dims.lhs_contract.len());
    let mut shape: Vec<Dim> = pa.shape[..n + m].to_vec();
    shape.extend(pb.shape[n..].iter().cloned());
    let places = |skip: std::ops::Range<usize>| -> Vec<usize> { (0..n + m + k + l).filter(|i| !skip.contains(i)).collect() };
    let xa = cx.spread(&pa, &places(n + m..n + m + k), &shape);
    let xb = cx.spread(&pb, &places(n..n + m), &shape);
    let product = cx.map(ScalarOp::Mul, &[&xa, &xb]);
    cx.reduced(ReduceOp::Sum, &product, &(n + m + k..n + m + k + l).collect::<Vec<_>>())
}

/// `a @ b`
pub(crate) fn matmul(cx: &mut Cx, a: &Val, b: &Val) -> Res<Array> {
    let (a, b) = factors(cx, "`@`", a, b)?;
    let (r, s) = (a.shape.len(), b.shape.len());
    let (i, j) = (r - 1, s.saturating_sub(2));
    check_inner("`@`", &a, i, &b, j)?;
    if r <= 2 || s <= 2 {
        let dims = DotDims { lhs_contract: Axes::from_slice(&[i]), rhs_contract: Axes::from_slice(&[j]), ..DotDims::default() };
        let out = contract(cx, &a, &b, dims);
        if r == 2 && s > 2 {
            // [M, batch…, N] -> [batch…, M, N]
            let perm: Vec<usize> = (1..s - 1).chain([0, s - 1]).collect();
            return Ok(cx.permuted(&out, &perm));
        }
        return Ok(out);
    }
    let head = |x: &Array| Array { shape: x.shape[..x.shape.len() - 2].to_vec(), ..x.clone() };
    let batch = join_shapes("`@`", &head(&a), &head(&b))?;
    let n = batch.len();
    let full = |cx: &mut Cx, x: &Array| {
        let mut shape = batch.clone();
        shape.extend(x.shape[x.shape.len() - 2..].iter().cloned());
        cx.spread_to(x, &shape)
    };
    let (x, y) = (full(cx, &a), full(cx, &b));
    let axes: Axes = (0..n).collect();
    let dims = DotDims {
        lhs_batch: axes.clone(),
        rhs_batch: axes,
        lhs_contract: Axes::from_slice(&[n + 1]),
        rhs_contract: Axes::from_slice(&[n]),
    };
    Ok(contract(cx, &x, &y, dims))
}

/// `dot(a, b)`: the last axis of `a` with the last but one of `b`, without batch axes.
pub(crate) fn dot(cx: &mut Cx, a: &Val, b: &Val) -> Res<Array> {
    let (a, b) = factors(cx, "`dot`", a, b)?;
    let (i, j) = (a.shape.len() - 1, b.shape.len().saturating_sub(2));
    check_inner("`dot`", &a, i, &b, j)?;
    let dims = DotDims { lhs_contract: Axes::from_slice(&[i]), rhs_contract: Axes::from_slice(&[j]), ..DotDims::default() };
    Ok(contract(cx, &a, &b, dims))
}

/// `outer(a, b)` of the flattened operands.
pub(crate) fn outer(cx: &mut Cx, a: &Val, b: &Val) -> Res<Array> {
    let m = meet(cx, "`outer`", &[a, b])?;
    let dtype = if m.dtype(cx) == DType::Bool { DType::I32 } else { m.dtype(cx) };
    let (x, y) = (to_array(cx, "`outer`", a, dtype)?, to_array(cx, "`outer`", b, dtype)?);
    let (n, k) = (Dim::product(&x.shape), Dim::product(&y.shape));
    let (x, y) = (cx.reshaped(&x, std::slice::from_ref(&n)), cx.reshaped(&y, std::slice::from_ref(&k)));
    let shape = [n, k];
    let (x, y) = (cx.spread(&x, &[0], &shape), cx.spread(&y, &[1], &shape));
    Ok(cx.map(ScalarOp::Mul, &[&x, &y]))
}
