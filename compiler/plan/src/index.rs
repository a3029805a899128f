//! Indices of array elements, and their way through views.

use crate::lin::{Lin, Misfit, Term};
use optc_ir::Op;
use optc_ir::build::strides;

/// One form per axis.
pub(crate) type Dims = Vec<Lin>;

/// An element of an array: its row-major position, or its position along each axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Idx {
    Flat(Lin),
    Dims(Dims),
}

impl Idx {
    /// The row-major position under `shape`.
    pub fn flat(&self, shape: &[usize]) -> Lin {
        match self {
            Idx::Flat(lin) => lin.clone(),
            Idx::Dims(dims) => {
                let strides = strides(shape);
                dims.iter().zip(&strides).fold(Lin::default(), |sum, (d, &s)| sum.add_scaled(d, s as i64))
            }
        }
    }
    /// The position along each axis of `shape`.
    pub fn dims(&self, shape: &[usize], most: &impl Fn(Term) -> i64) -> Result<Dims, Misfit> {
        match self {
            Idx::Dims(dims) => Ok(dims.clone()),
            Idx::Flat(lin) => {
                let mut out: Dims = shape.iter().map(|_| Lin::default()).collect();
                let Some(first) = shape.iter().position(|&d| d > 1) else { return Ok(out) };
                let mut rest = lin.clone();
                for axis in (first + 1..shape.len()).rev().filter(|&a| shape[a] > 1) {
                    let (q, r) = rest.div_rem(shape[axis] as i64, most)?;
                    out[axis] = r;
                    rest = q;
                }
                out[first] = rest;
                Ok(out)
            }
        }
    }
}

/// The operand's index for a view that moves axes without arithmetic on values; none for other operations.
pub(crate) fn through(op: &Op, operand_shape: &[usize], at: &Dims) -> Option<Dims> {
    Some(match op {
        Op::Broadcast { dims } => {
            let axis = |(i, &d): (usize, &usize)| if operand_shape[i] == 1 { Lin::default() } else { at[d].clone() };
            dims.iter().enumerate().map(axis).collect()
        }
        Op::Permute { perm } => {
            let mut out: Dims = perm.iter().map(|_| Lin::default()).collect();
            perm.iter().zip(at).for_each(|(&p, lin)| out[p] = lin.clone());
            out
        }
        Op::Slice { start, step, .. } => (0..at.len()).map(|i| at[i].scaled(step[i] as i64).plus(start[i] as i64)).collect(),
        Op::Flip { axes } => (0..at.len())
            .map(|i| if axes.contains(&i) { at[i].scaled(-1).plus(operand_shape[i] as i64 - 1) } else { at[i].clone() })
            .collect(),
        Op::Window { axis, stride, dilation, .. } => {
            let mut out: Dims = at.clone();
            let tap = out.remove(axis + 1);
            out[*axis] = out[*axis].scaled(*stride as i64).add_scaled(&tap, *dilation as i64);
            out
        }
        _ => return None,
    })
}
