//! Sums of cotangents.
//!
//! A value used several times gets one contribution per use, in the order of the uses from the last to the first. They are added
//! in that order, whole arrays first, then parts, then scattered rows. Parts of one array that lie side by side (the pieces of a
//! split) are joined instead of padded and added, and rows are scattered into the sum of the rest, so neither costs an array of
//! zeros per use.

use super::linearize::zeros;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, Graph, NodeId, Origin, ScatterMode, Ty};

/// What one use adds to a cotangent.
#[derive(Clone, Debug)]
pub enum Contribution {
    /// A whole array.
    Whole(NodeId),
    /// Zero outside the elements `start, start + step, …` per axis.
    Part {
        /// Those elements.
        value: NodeId,
        /// First index per axis.
        start: Axes,
        /// Step per axis.
        step: Axes,
    },
    /// Rows added in at ids.
    Rows {
        /// Which rows.
        ids: NodeId,
        /// What to add.
        updates: NodeId,
        /// The axis that ids refer to.
        axis: usize,
    },
}

/// The sum of contributions to a cotangent of type `ty`; none for none.
pub fn total(g: &mut Graph, ty: &Ty, contributions: Vec<Contribution>, o: Origin) -> Option<NodeId> {
    let mut sum: Option<NodeId> = None;
    let mut parts = Vec::new();
    let mut rows = Vec::new();
    let add = |g: &mut Graph, sum: Option<NodeId>, x: NodeId| match sum {
        Some(sum) => g.map(ScalarOp::Add, &[sum, x], o),
        None => x,
    };
    for contribution in contributions {
        match contribution {
            Contribution::Whole(x) => sum = Some(add(g, sum, x)),
            Contribution::Part { value, start, step } => parts.push((value, start, step)),
            Contribution::Rows { ids, updates, axis } => rows.push((ids, updates, axis)),
        }
    }
    if let Some(joined) = join(g, ty, &parts, o) {
        sum = Some(add(g, sum, joined));
    } else {
        for (value, start, step) in &parts {
            let padded = spread(g, ty, *value, start, step, o);
            sum = Some(add(g, sum, padded));
        }
    }
    for (ids, updates, axis) in rows {
        let base = sum.unwrap_or_else(|| g.splat(ty, 0.0, o));
        sum = Some(g.scatter(base, ids, updates, axis, ScatterMode::Add, o));
    }
    sum
}

/// An array of type `ty` that is zero outside the elements `start, start + step, …`.
pub fn spread(g: &mut Graph, ty: &Ty, value: NodeId, start: &[usize], step: &[usize], o: Origin) -> NodeId {
    let shape = g.ty(value).shape.clone();
    if shape.contains(&0) {
        return g.splat(ty, 0.0, o);
    }
    let zero = g.scalar(ty.dtype, 0.0, o);
    let interior: Axes = step.iter().map(|s| s - 1).collect();
    // A single element has no neighbor to keep a distance from, so its step does not matter.
    let hi: Axes = (0..shape.len()).map(|i| ty.shape[i] - start[i] - (shape[i] - 1) * step[i] - 1).collect();
    g.pad(value, zero, start, &hi, &interior, o)
}

/// Two or more dense parts that cover disjoint ranges of one axis and all of the others, joined with zeros in the gaps.
fn join(g: &mut Graph, ty: &Ty, parts: &[(NodeId, Axes, Axes)], o: Origin) -> Option<NodeId> {
    if parts.len() < 2 {
        return None;
    }
    let shapes: Vec<Axes> = parts.iter().map(|(v, ..)| g.ty(*v).shape.clone()).collect();
    let axis = (0..ty.rank()).find(|&i| shapes[0][i] != ty.shape[i])?;
    let fits = parts.iter().zip(&shapes).all(|((_, start, step), shape)| {
        (0..ty.rank()).all(|i| if i == axis { step[i] == 1 || shape[i] == 1 } else { start[i] == 0 && shape[i] == ty.shape[i] })
    });
    if !fits {
        return None;
    }
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&k| parts[k].1[axis]);
    let mut pieces = Vec::new();
    let mut at = 0;
    let gap = |g: &mut Graph, n: usize, pieces: &mut Vec<NodeId>| {
        if n > 0 {
            let mut ty = ty.clone();
            ty.shape[axis] = n;
            pieces.push(g.splat(&ty, 0.0, o));
        }
    };
    if order.windows(2).any(|w| parts[w[0]].1[axis] + shapes[w[0]][axis] > parts[w[1]].1[axis]) {
        return None;
    }
    for k in order {
        let start = parts[k].1[axis];
        gap(g, start - at, &mut pieces);
        pieces.push(parts[k].0);
        at = start + shapes[k][axis];
    }
    gap(g, ty.shape[axis] - at, &mut pieces);
    Some(g.concat(&pieces, axis, o))
}

/// The steps of a dense slice.
pub fn ones(n: usize) -> Axes {
    let mut out = zeros(n);
    out.fill(1);
    out
}
