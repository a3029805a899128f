//! Masks that hide what comes later: key `j` is seen by query `i` where `j <= i + offset`.

use optc_ir::ScalarOp;
use optc_ir::graph::{Graph, NodeId, Op};

/// An integer array as a sum of indices: coefficient per axis, and a number.
struct Affine {
    of: Vec<i64>,
    plus: i64,
}

/// An integer array as sums of indices, if it is that.
fn affine(g: &Graph, n: NodeId) -> Option<Affine> {
    let node = g.node(n);
    let rank = g.ty(n).rank();
    let operand = |k: usize| affine(g, node.operands[k]);
    let combine = |a: Affine, b: Affine, sign: i64| Affine {
        of: a.of.iter().zip(&b.of).map(|(x, y)| x + sign * y).collect(),
        plus: a.plus + sign * b.plus,
    };
    Some(match &node.op {
        Op::Iota { axis } => Affine { of: (0..rank).map(|a| i64::from(a == *axis)).collect(), plus: 0 },
        Op::Const(t) if t.dtype.is_int() => Affine { of: vec![0; rank], plus: crate::net::splat_of(t)?.1 },
        Op::Broadcast { dims } => {
            let inner = operand(0)?;
            let shape = &g.ty(node.operands[0]).shape;
            let mut of = vec![0; rank];
            // What is repeated has index 0 throughout.
            dims.iter().enumerate().filter(|(i, _)| shape[*i] > 1).for_each(|(i, &d)| of[d] = inner.of[i]);
            Affine { of, ..inner }
        }
        Op::Permute { perm } => {
            let inner = operand(0)?;
            Affine { of: perm.iter().map(|&p| inner.of[p]).collect(), ..inner }
        }
        Op::Reshape => {
            let inner = operand(0)?;
            let (from, to) = (&g.ty(node.operands[0]).shape, &g.ty(n).shape);
            // Only axes of one index come and go.
            let wide = |shape: &[usize]| (0..shape.len()).filter(|&a| shape[a] > 1).collect::<Vec<_>>();
            let (old, new) = (wide(from), wide(to));
            if old.iter().map(|&a| from[a]).ne(new.iter().map(|&a| to[a])) {
                return None;
            }
            let mut of = vec![0; rank];
            old.iter().zip(&new).for_each(|(&o, &n)| of[n] = inner.of[o]);
            Affine { of, ..inner }
        }
        Op::Cast if g.ty(node.operands[0]).dtype.is_int() && g.ty(n).dtype.is_int() => operand(0)?,
        Op::Map(ScalarOp::Add) => combine(operand(0)?, operand(1)?, 1),
        Op::Map(ScalarOp::Sub) => combine(operand(0)?, operand(1)?, -1),
        _ => return None,
    })
}

/// `offset`, where an array of bools (or, `negated`, its opposite) is `j <= i + offset` for the last two of `axes`, and the same for all indices of the others.
pub(super) fn causal(g: &Graph, mask: NodeId, axes: &[usize], negated: bool) -> Option<i64> {
    let (i, j) = (axes[axes.len() - 2], axes[axes.len() - 1]);
    let node = g.node(mask);
    match &node.op {
        Op::Permute { perm } => {
            let axes: Vec<usize> = axes.iter().map(|&a| perm[a]).collect();
            causal(g, node.operands[0], &axes, negated)
        }
        Op::Broadcast { dims } => {
            let find = |axis: usize| dims.iter().position(|&d| d == axis);
            let from = &g.ty(node.operands[0]).shape;
            let (a, b) = (find(i)?, find(j)?);
            let whole = from[a] == g.ty(mask).shape[i] && from[b] == g.ty(mask).shape[j];
            let others: Vec<usize> = (0..from.len()).filter(|&x| x != a && x != b).chain([a, b]).collect();
            if whole { causal(g, node.operands[0], &others, negated) } else { None }
        }
        Op::Map(ScalarOp::Not) => causal(g, node.operands[0], axes, !negated),
        Op::Map(op @ (ScalarOp::Le | ScalarOp::Lt)) => {
            let (a, b) = (affine(g, node.operands[0])?, affine(g, node.operands[1])?);
            // a <= b, or not: b < a, that is b + 1 <= a.
            let ((less, more), strict) = if negated { ((b, a), *op == ScalarOp::Le) } else { ((a, b), *op == ScalarOp::Lt) };
            let of = |axis: usize| less.of[axis] - more.of[axis];
            let others = (0..less.of.len()).filter(|&x| x != i && x != j).all(|x| of(x) == 0);
            (others && of(j) == 1 && of(i) == -1).then(|| more.plus - less.plus - i64::from(strict))
        }
        Op::Const(t) => {
            let shape = &t.shape;
            let (rows, columns) = (shape[i], shape[j]);
            let bytes = t.bytes();
            let strides = optc_ir::build::strides(shape);
            // The first row says how many keys the first query sees.
            let seen = |at: usize| (bytes[at] != 0) != negated;
            let first = (0..columns).take_while(|&x| seen(x * strides[j])).count() as i64;
            // One that sees none, or all, leaves it open where the border lies: the last row knows.
            let last = (0..columns).take_while(|&x| seen((rows - 1) * strides[i] + x * strides[j])).count() as i64;
            let offset = if first > 0 && first < columns as i64 { first - 1 } else { last - rows as i64 };
            let fits = |at: usize| {
                let (x, y) = (at / strides[i] % rows, at / strides[j] % columns);
                seen(at) == (y as i64 <= x as i64 + offset)
            };
            (0..t.len()).all(fits).then_some(offset)
        }
        _ => None,
    }
}
