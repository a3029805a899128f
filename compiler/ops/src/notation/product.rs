//! Sums of products: factors that do not depend on the summed indices are taken out, the others are contracted two at a time, as matrix products where that pays.

use super::extents::Extents;
use super::term::{Term, apply, spread, union};
use super::{convolution, eval, reduce_term};
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::Res;
use crate::ixpr::{IxExpr, IxId, IxKind};
use crate::prim::without;
use crate::value::{Array, Val};
use optc_abi::DType;
use optc_base::Span;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, DotDims, ReduceOp};

/// One factor: an array and its axes.
struct Factor {
    array: Array,
    axes: Vec<IxId>,
}

/// Factors above and below the fraction bar.
#[derive(Default)]
struct Fraction<'a> {
    over: Vec<&'a IxExpr>,
    under: Vec<&'a IxExpr>,
    negative: bool,
}

fn split<'a>(x: &'a IxExpr, out: &mut Fraction<'a>) {
    match &x.kind {
        IxKind::Apply { op: "mul", args } => args.iter().for_each(|a| split(a, out)),
        IxKind::Apply { op: "div", args } => {
            split(&args[0], out);
            out.under.push(&args[1]);
        }
        IxKind::Apply { op: "neg", args } => {
            out.negative = !out.negative;
            split(&args[0], out);
        }
        _ => out.over.push(x),
    }
}

/// Whether an expression mentions one of the indices, free.
fn mentions(x: &IxExpr, ids: &[IxId]) -> bool {
    match &x.kind {
        IxKind::Value(_) => false,
        IxKind::Index(id) => ids.contains(id),
        IxKind::Access { base: _, subscripts } => subscripts.iter().flatten().any(|s| mentions(s, ids)),
        IxKind::Apply { args, .. } => args.iter().any(|a| mentions(a, ids)),
        IxKind::Cast(inner, _) | IxKind::Reduce { body: inner, .. } => mentions(inner, ids),
    }
}

/// `sum[ids] body`
pub(super) fn sum(cx: &mut Cx, e: &Extents, ids: &[IxId], body: &IxExpr) -> Res<Term> {
    let mut f = Fraction::default();
    split(body, &mut f);
    let (inner, outer): (Vec<&IxExpr>, Vec<&IxExpr>) = f.over.iter().partition(|x| mentions(x, ids));
    let plain = |cx: &mut Cx| {
        let term = eval(cx, e, body)?;
        reduce_term(cx, e, "sum", ids, term)
    };
    if inner.is_empty()
        || f.under.iter().any(|x| mentions(x, ids))
        || (inner.len() == 1 && outer.is_empty() && f.under.is_empty() && !f.negative)
    {
        return plain(cx);
    }
    let mut result = match inner.as_slice() {
        [a, b] => convolution::convolution(cx, e, ids, a, b)?,
        _ => None,
    };
    if result.is_none() {
        result = contracted(cx, e, ids, &inner)?;
    }
    let Some(mut result) = result else { return plain(cx) };
    let span = body.span;
    for x in outer {
        let t = eval(cx, e, x)?;
        result = apply(cx, e, "mul", vec![result, t], &[span, x.span])?;
    }
    if f.negative {
        result = apply(cx, e, "neg", vec![result], &[span])?;
    }
    for x in f.under {
        let t = eval(cx, e, x)?;
        result = apply(cx, e, "div", vec![result, t], &[span, x.span])?;
    }
    Ok(result)
}

/// The sum of a product of factors that all depend on the summed indices; `None` if they are not floats of one type.
fn contracted(cx: &mut Cx, e: &Extents, ids: &[IxId], inner: &[&IxExpr]) -> Res<Option<Term>> {
    let mut terms = Vec::with_capacity(inner.len());
    for x in inner {
        terms.push(eval(cx, e, x)?);
    }
    let mut dtype = None;
    for t in &terms {
        match t {
            Term::Indexed { weak: true, .. } => {}
            Term::Indexed { array, .. } if array.dtype == DType::Bool => {}
            Term::Indexed { array, .. } => match dtype {
                None => dtype = Some(array.dtype),
                Some(d) if d == array.dtype => {}
                Some(_) => return Ok(None),
            },
            Term::Number(_) => return Ok(None),
        }
    }
    let Some(dtype) = dtype.filter(|d| d.is_float()) else { return Ok(None) };
    let mut factors = Vec::new();
    for t in terms {
        let Term::Indexed { array, axes, .. } = t else { return Ok(None) };
        let array = cx.convert(&array, dtype);
        let shape: Vec<Dim> = axes.iter().map(|&id| e.extent(id)).collect();
        let array = spread(cx, &array, &axes, &axes, &shape);
        factors.push(Factor { array, axes });
    }
    // Indices of no factor count how often the sum repeats.
    let repeats =
        Dim::product(&ids.iter().filter(|i| !factors.iter().any(|f| f.axes.contains(i))).map(|&i| e.extent(i)).collect::<Vec<_>>());
    let product = contract_all(cx, e, ids, factors);
    let mut out = if product.axes.is_empty() {
        Term::Number(Val::Array(product.array))
    } else {
        Term::Indexed { array: product.array, axes: product.axes, weak: false }
    };
    if repeats.known() != Some(1) {
        out = apply(cx, e, "mul", vec![out, Term::Number(Val::Int(repeats))], &[Span::default(); 2])?;
    }
    Ok(Some(out))
}

fn contract_all(cx: &mut Cx, e: &Extents, ids: &[IxId], mut factors: Vec<Factor>) -> Factor {
    loop {
        // What only one factor mentions is summed before it meets others.
        for k in 0..factors.len() {
            let alone: Vec<IxId> = factors[k]
                .axes
                .iter()
                .copied()
                .filter(|a| ids.contains(a) && !factors.iter().enumerate().any(|(j, f)| j != k && f.axes.contains(a)))
                .collect();
            factors[k] = sum_out(cx, &factors[k], &alone);
        }
        if factors.len() == 1 {
            return factors.remove(0);
        }
        let (i, j) = cheapest(e, ids, &factors);
        let b = factors.remove(j);
        let a = factors.remove(i);
        let summed: Vec<IxId> = ids.iter().copied().filter(|id| !factors.iter().any(|f| f.axes.contains(id))).collect();
        let c = pair(cx, e, &summed, a, b);
        factors.insert(i, c);
    }
}

fn sum_out(cx: &mut Cx, f: &Factor, ids: &[IxId]) -> Factor {
    let over: Vec<usize> = (0..f.axes.len()).filter(|&k| ids.contains(&f.axes[k])).collect();
    let array = cx.reduced(ReduceOp::Sum, &f.array, &over);
    debug_assert_eq!(array.shape, without(&f.array.shape, &over), "axes of a partial sum");
    Factor { array, axes: f.axes.iter().copied().filter(|a| !ids.contains(a)).collect() }
}

/// The pair whose product is smallest.
fn cheapest(e: &Extents, ids: &[IxId], factors: &[Factor]) -> (usize, usize) {
    let mut best = (0, 1);
    let mut cost = f64::INFINITY;
    for i in 0..factors.len() {
        for j in i + 1..factors.len() {
            let kept = |id: &IxId| !ids.contains(id) || factors.iter().enumerate().any(|(k, f)| k != i && k != j && f.axes.contains(id));
            let axes: Vec<IxId> =
                factors[i].axes.iter().chain(factors[j].axes.iter().filter(|a| !factors[i].axes.contains(a))).copied().collect();
            let size: f64 = axes.iter().filter(|a| kept(a)).map(|&a| e.extent(a).known().unwrap_or(64) as f64).product();
            if size < cost {
                (best, cost) = ((i, j), size);
            }
        }
    }
    best
}

/// The product of two factors, summed over the indices of `summed` that both have.
fn pair(cx: &mut Cx, e: &Extents, summed: &[IxId], a: Factor, b: Factor) -> Factor {
    let shared: Vec<IxId> = a.axes.iter().copied().filter(|id| b.axes.contains(id)).collect();
    let (contract, batch): (Vec<IxId>, Vec<IxId>) = shared.iter().partition(|id| summed.contains(id));
    let free = |f: &Factor| -> Vec<IxId> { f.axes.iter().copied().filter(|id| !shared.contains(id)).collect() };
    let (free_a, free_b) = (free(&a), free(&b));
    let matrix = !contract.is_empty()
        && if batch.is_empty() { !free_a.is_empty() || !free_b.is_empty() } else { !free_a.is_empty() && !free_b.is_empty() };
    if matrix {
        // The operand whose axes come first on the left goes first, which saves a transpose.
        let rank = |ids: &[IxId]| ids.first().and_then(|id| e.order_of(*id)).unwrap_or(usize::MAX);
        let (a, b, free_a, free_b) = if rank(&free_b) < rank(&free_a) { (b, a, free_b, free_a) } else { (a, b, free_a, free_b) };
        let at = |f: &Factor, ids: &[IxId]| -> Axes {
            ids.iter().map(|id| f.axes.iter().position(|x| x == id).expect("compiler bug: a shared axis")).collect()
        };
        let dims = DotDims {
            lhs_batch: at(&a, &batch),
            rhs_batch: at(&b, &batch),
            lhs_contract: at(&a, &contract),
            rhs_contract: at(&b, &contract),
        };
        let array = cx.dotted(&a.array, &b.array, dims);
        return Factor { array, axes: batch.into_iter().chain(free_a).chain(free_b).collect() };
    }
    let term = |f: Factor| Term::Indexed { array: f.array, axes: f.axes, weak: false };
    let (a, b) = (term(a), term(b));
    let order = union(&[&a, &b]);
    let shape: Vec<Dim> = order.iter().map(|&id| e.extent(id)).collect();
    let wide = |cx: &mut Cx, t: &Term| match t {
        Term::Indexed { array, axes, .. } => spread(cx, array, axes, &order, &shape),
        Term::Number(_) => unreachable!("compiler bug: a factor is indexed"),
    };
    let (x, y) = (wide(cx, &a), wide(cx, &b));
    let product = cx.map(ScalarOp::Mul, &[&x, &y]);
    sum_out(cx, &Factor { array: product, axes: order }, &contract)
}
