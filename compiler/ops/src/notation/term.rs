//! Arrays over indices, and elementwise operations on them.

use super::extents::Extents;
use crate::arith::{BinOp, UnOp, binary, materialize, unary};
use crate::builtin::call;
use crate::cx::Cx;
use crate::dim::Dim;
use crate::elementwise::FLOAT;
use crate::error::{OpError, Res};
use crate::ixpr::IxId;
use crate::value::{Arg, Array, Val};
use optc_abi::DType;
use optc_base::Span;

/// A value over indices.
#[derive(Clone, Debug)]
pub(super) enum Term {
    /// A number or a scalar: the same for all indices.
    Number(Val),
    /// One axis per index.
    Indexed {
        array: Array,
        axes: Vec<IxId>,
        /// Integers made of indices only: they take the element type they meet.
        weak: bool,
    },
}

impl Term {
    /// The array and its axes.
    pub fn to_array(&self, cx: &mut Cx) -> Res<(Array, Vec<IxId>)> {
        match self {
            Term::Number(v) => Ok((materialize(cx, v, None)?, Vec::new())),
            Term::Indexed { array, axes, .. } => Ok((array.clone(), axes.clone())),
        }
    }
}

/// An array with these axes as one with the axes of `order` (a superset), of a shape.
pub(super) fn spread(cx: &mut Cx, x: &Array, axes: &[IxId], order: &[IxId], shape: &[Dim]) -> Array {
    let mut perm: Vec<usize> = (0..axes.len()).collect();
    let place = |id: IxId| order.iter().position(|o| *o == id).expect("compiler bug: an axis without a place");
    perm.sort_by_key(|&k| place(axes[k]));
    let dims: Vec<usize> = perm.iter().map(|&k| place(axes[k])).collect();
    let y = cx.permuted(x, &perm);
    cx.spread(&y, &dims, shape)
}

/// The union of axes, those of the term with most axes first.
pub(super) fn union(terms: &[&Term]) -> Vec<IxId> {
    let lists: Vec<&Vec<IxId>> = terms.iter().filter_map(|t| if let Term::Indexed { axes, .. } = t { Some(axes) } else { None }).collect();
    let mut order: Vec<IxId> = Vec::new();
    if let Some(longest) = lists.iter().rev().max_by_key(|l| l.len()) {
        order.extend(longest.iter());
    }
    for l in lists {
        for &id in l {
            if !order.contains(&id) {
                order.push(id);
            }
        }
    }
    order
}

const NUMERIC: &[&str] = &[
    "abs",
    "sign",
    "floor",
    "ceil",
    "round",
    "is_finite",
    "is_nan",
    "log10",
    "softplus",
    "relu",
    "silu",
    "gelu",
    "atan2",
    "maximum",
    "minimum",
    "clip",
    "where",
    "lerp",
    "fma",
];

/// Whether an operation works element by element.
pub(super) fn is_elementwise(op: &str) -> bool {
    (BinOp::parse(op).is_some() && op != "matmul")
        || matches!(op, "neg" | "not" | "bit_not")
        || FLOAT.contains(&op)
        || NUMERIC.contains(&op)
}

/// An elementwise operation by its name.
pub(super) fn apply(cx: &mut Cx, e: &Extents, op: &str, mut terms: Vec<Term>, spans: &[Span]) -> Res<Term> {
    if !is_elementwise(op) {
        return Err(OpError::new("E0407", format!("`{op}` does not work element by element, so it cannot be used under indices"))
            .help("bind its result first, then index it"));
    }
    let weak = settle(cx, op, &mut terms);
    let order = union(&terms.iter().collect::<Vec<_>>());
    let shape: Vec<Dim> = order.iter().map(|&id| e.extent(id)).collect();
    let mut values = Vec::with_capacity(terms.len());
    for t in &terms {
        values.push(match t {
            Term::Number(v) => v.clone(),
            Term::Indexed { array, axes, .. } => Val::Array(spread(cx, array, axes, &order, &shape)),
        });
    }
    let out = match (BinOp::parse(op), values.as_slice()) {
        (Some(op), [a, b]) => binary(cx, op, a, b)?,
        _ => match (op, values.as_slice()) {
            ("neg", [a]) => unary(cx, UnOp::Neg, a)?,
            ("not", [a]) => unary(cx, UnOp::Not, a)?,
            ("bit_not", [a]) => unary(cx, UnOp::BitNot, a)?,
            _ => {
                let args: Vec<Arg> = values
                    .into_iter()
                    .enumerate()
                    .map(|(k, value)| Arg { name: None, value, span: spans.get(k).copied().unwrap_or_default() })
                    .collect();
                call(cx, op, &args, None)?
            }
        },
    };
    Ok(match out {
        Val::Array(array) if !order.is_empty() => Term::Indexed { weak: weak && array.dtype == DType::I32, array, axes: order },
        v => Term::Number(v),
    })
}

/// Integers made of indices take the element type of the arrays they meet; gives whether all operands are such.
fn settle(cx: &mut Cx, op: &str, terms: &mut [Term]) -> bool {
    let skip = usize::from(op == "where");
    let mut strong = None;
    let (mut floats, mut all_weak) = (FLOAT.contains(&op) || op == "log10", true);
    for t in terms.iter().skip(skip) {
        match t {
            Term::Indexed { weak: true, .. } | Term::Number(Val::Int(_) | Val::Bool(_)) => {}
            Term::Indexed { array, .. } => {
                all_weak = false;
                if array.dtype != DType::Bool {
                    strong = Some(array.dtype);
                }
            }
            Term::Number(Val::Array(a)) if !a.weak => {
                all_weak = false;
                if a.dtype != DType::Bool {
                    strong = Some(a.dtype);
                }
            }
            Term::Number(Val::Array(a)) => floats |= a.dtype.is_float(),
            Term::Number(Val::Float(_)) => floats = true,
            Term::Number(_) => all_weak = false,
        }
    }
    let to = match (strong, floats) {
        (Some(d), _) => d,
        (None, true) => cx.float,
        (None, false) => return all_weak,
    };
    for t in terms.iter_mut().skip(skip) {
        if let Term::Indexed { array, weak: weak @ true, .. } = t {
            *array = cx.convert(array, to);
            *weak = false;
        }
    }
    false
}
