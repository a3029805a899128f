//! Lowering of index notation.
//!
//! An expression over indices becomes an array whose axes are the indices it mentions ([`term`]). Extents are inferred from the arrays indexed ([`extents`]); subscripts
//! become slices, windows and gathers ([`access`]); sums of products become matrix products ([`product`]) and convolutions ([`convolution`]); all else is elementwise
//! over broadcast arrays, which later stages fuse.

mod access;
mod affine;
mod convolution;
mod extents;
mod product;
mod term;

use crate::arith::{cast, materialize};
use crate::cx::Cx;
use crate::dim::Dim;
use crate::error::{OpError, Res};
use crate::ixpr::{IxExpr, IxId, IxKind, IxLeft, IxVar};
use crate::meet::is_unknown;
use crate::value::Val;
use extents::Extents;
use optc_abi::DType;
use optc_base::Span;
use term::Term;

/// The array `let y[left] = body`: one axis per index on the left, in order, `...` for the leading axes that stay.
///
/// # Errors
/// Extents that do not agree or cannot be inferred, subscripts out of range, and the errors of the operations in the body.
pub fn indexed(cx: &mut Cx, left: &[IxLeft], body: &IxExpr) -> Res<Val> {
    if holds_unknown(body) {
        return Ok(Val::Unknown);
    }
    let vars: Vec<&IxVar> = left.iter().filter_map(|l| if let IxLeft::Var(v) = l { Some(v) } else { None }).collect();
    let e = extents::infer(&vars, body)?;
    let term = eval(cx, &e, body)?;
    let mut order = Vec::new();
    let mut dots = false;
    for l in left {
        match l {
            IxLeft::Var(v) => order.push(v.id),
            IxLeft::Ellipsis(_) => {
                dots = true;
                order.extend(e.lead_ids());
            }
        }
    }
    if !dots
        && let Term::Indexed { axes, .. } = &term
        && axes.iter().any(|&a| Extents::is_lead(a))
    {
        return Err(OpError::new("E0407", "the body has leading axes that the left-hand side does not name")
            .at(body.span, "has axes without an index")
            .help("write `...` first on the left, or give each axis an index"));
    }
    let array = term.to_array(cx)?;
    finish(cx, &e, array, &order, body.span).map(Val::Array)
}

/// The value of an expression whose indices are all bound by reductions (`sum[k] a[k] * b[k]`): a scalar, or the leading axes that stay.
///
/// # Errors
/// As [`indexed`].
pub fn reduce_indexed(cx: &mut Cx, body: &IxExpr) -> Res<Val> {
    if holds_unknown(body) {
        return Ok(Val::Unknown);
    }
    let e = extents::infer(&[], body)?;
    let term = eval(cx, &e, body)?;
    if let Term::Number(v) = &term {
        return Ok(v.clone());
    }
    let array = term.to_array(cx)?;
    finish(cx, &e, array, &e.lead_ids(), body.span).map(Val::Array)
}

/// Brings the axes into the order wanted; indices the body does not mention repeat.
fn finish(
    cx: &mut Cx,
    e: &Extents,
    (array, axes): (crate::value::Array, Vec<IxId>),
    order: &[IxId],
    span: Span,
) -> Res<crate::value::Array> {
    if let Some(stray) = axes.iter().find(|a| !order.contains(a)) {
        return Err(OpError::new("E0407", format!("index `{}` is neither on the left nor reduced", e.name(*stray))).at(span, ""));
    }
    let shape: Vec<Dim> = order.iter().map(|&id| e.extent(id)).collect();
    Ok(term::spread(cx, &array, &axes, order, &shape))
}

fn holds_unknown(e: &IxExpr) -> bool {
    match &e.kind {
        IxKind::Value(v) => is_unknown(v),
        IxKind::Index(_) => false,
        IxKind::Access { base, subscripts } => is_unknown(base) || subscripts.iter().flatten().any(holds_unknown),
        IxKind::Apply { args, .. } => args.iter().any(holds_unknown),
        IxKind::Cast(x, _) => holds_unknown(x),
        IxKind::Reduce { body, .. } => holds_unknown(body),
    }
}

/// Blames the expression unless a narrower place is known.
fn at<T>(result: Res<T>, span: Span) -> Res<T> {
    result.map_err(|e| if e.at.is_none() { e.at(span, "") } else { e })
}

/// The array over the indices that the expression mentions.
fn eval(cx: &mut Cx, e: &Extents, x: &IxExpr) -> Res<Term> {
    match &x.kind {
        IxKind::Value(v) => match at(crate::arith::listed(cx, v), x.span)? {
            Val::Array(a) if !a.shape.is_empty() => {
                let axes = Extents::leads(a.shape.len());
                Ok(Term::Indexed { array: a, axes, weak: false })
            }
            v => Ok(Term::Number(v)),
        },
        IxKind::Index(id) => {
            let array = cx.counting(DType::I32, &[e.extent(*id)], 0);
            Ok(Term::Indexed { array, axes: vec![*id], weak: true })
        }
        IxKind::Access { base, subscripts } => at(access::access(cx, e, base, subscripts, x.span), x.span),
        IxKind::Apply { op, args } => {
            let mut terms = Vec::with_capacity(args.len());
            for a in args {
                terms.push(eval(cx, e, a)?);
            }
            let spans: Vec<Span> = args.iter().map(|a| a.span).collect();
            at(term::apply(cx, e, op, terms, &spans), x.span)
        }
        IxKind::Cast(inner, dtype) => match eval(cx, e, inner)? {
            Term::Number(v) => at(cast(cx, &v, *dtype), x.span).map(Term::Number),
            Term::Indexed { array, axes, .. } => Ok(Term::Indexed { array: cx.convert(&array, *dtype), axes, weak: false }),
        },
        IxKind::Reduce { op, indices, body } => at(reduce(cx, e, op, indices, body), x.span),
    }
}

/// A reduction over indices.
fn reduce(cx: &mut Cx, e: &Extents, op: &str, indices: &[IxVar], body: &IxExpr) -> Res<Term> {
    let ids: Vec<IxId> = indices.iter().map(|v| v.id).collect();
    if op == "sum" {
        return product::sum(cx, e, &ids, body);
    }
    if op.starts_with("arg") && ids.len() > 1 {
        return Err(OpError::new("E0404", format!("`{op}` takes one index")));
    }
    let term = eval(cx, e, body)?;
    reduce_term(cx, e, op, &ids, term)
}

/// A reduction of a term; indices that it does not mention repeat.
fn reduce_term(cx: &mut Cx, e: &Extents, op: &str, ids: &[IxId], term: Term) -> Res<Term> {
    let (array, axes) = match term {
        Term::Number(v) => (materialize(cx, &v, None)?, Vec::new()),
        Term::Indexed { array, axes, .. } => (array, axes),
    };
    let mut order = axes.clone();
    order.extend(ids.iter().filter(|i| !axes.contains(i)));
    let shape: Vec<Dim> = order.iter().enumerate().map(|(k, &id)| array.shape.get(k).cloned().unwrap_or_else(|| e.extent(id))).collect();
    let wide = term::spread(cx, &array, &axes, &order, &shape);
    let over: Vec<usize> = (0..order.len()).filter(|&k| ids.contains(&order[k])).collect();
    crate::reduce::check(op, &wide, &over)?;
    let out = crate::reduce::reduce(cx, op, &wide, &over);
    let axes = order.into_iter().filter(|i| !ids.contains(i)).collect();
    Ok(Term::Indexed { array: out, axes, weak: false })
}
