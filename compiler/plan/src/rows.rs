//! Row locality: which leading part of a result's index space maps to the same part of an operand's.
//!
//! An edge has a number of rows R: for every divisor r of R, the i-th of r equal row-major blocks of the result depends only on the i-th
//! of r equal blocks of the operand. Composition of edges is the greatest common divisor; a kernel that works row by row can hold all
//! nodes connected by edges that share a large divisor. An elementwise edge has as many rows as elements; 1 means no locality.

use crate::net::{N, Net};
use optc_ir::Op;

/// Greatest common divisor.
pub(crate) fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What the planner does with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// An input, constant data, or a result of a loop or conditional.
    Leaf,
    /// Index arithmetic; never stored unless asked for.
    View,
    /// One value per element from values of operands.
    Elem,
    /// Stored by loops of its own kind, and may share a kernel with others.
    Staged,
    /// Has an instruction of its own.
    Apart,
}

pub(crate) fn class(net: &Net, n: N) -> Class {
    use Op::*;
    let node = &net.nodes[n];
    match &node.op {
        Input { .. } | Result { .. } => Class::Leaf,
        Const(_) if net.splat_value(n).is_some() || node.ty.is_empty() => Class::View,
        Const(_) => Class::Leaf,
        Iota { .. } | Reshape | Broadcast { .. } | Permute { .. } | Slice { .. } | Flip { .. } | Window { .. } | Pad { .. } => Class::View,
        Map(_) | Cast | Bitcast | Gather { .. } => Class::Elem,
        Reduce { .. } | ArgReduce { .. } | Scan { .. } | Concat { .. } => Class::Staged,
        Scatter { .. }
        | Dot(_)
        | Attention(_)
        | Conv { .. }
        | ArgSort { .. }
        | Lib(_)
        | Callback { .. }
        | AllReduce
        | Loop(_)
        | Cond { .. }
        | Swap
        | RandomBits { .. }
        | RandomFold { .. } => Class::Apart,
        Call(_) | StopGradient => panic!("compiler bug: a node the planner has removed"),
    }
}

/// The number a key is folded with, if it is known.
pub(crate) fn known_number(net: &Net, fold: N) -> Option<u32> {
    net.splat_value(net.strip(net.nodes[fold].operands[1])).map(|(_, int)| int as u32)
}

/// Rows of the edge from node `n` to its operand `k`.
pub(crate) fn edge_rows(net: &Net, n: N, k: usize) -> usize {
    use Op::*;
    let node = &net.nodes[n];
    let all = node.ty.len();
    let operand = &net.nodes[node.operands[k]].ty;
    let until = |axis: usize| operand.shape[..axis].iter().product::<usize>();
    let first = |hit: &dyn Fn(usize) -> bool| (0..operand.rank()).find(|&i| hit(i)).map_or(all, until);
    if node.partial {
        return all;
    }
    match &node.op {
        Map(_) | Cast | Bitcast | Reshape => all,
        Broadcast { dims } => {
            let (mut rows, mut i) = (1, 0);
            for (j, &extent) in node.ty.shape.iter().enumerate() {
                if i < dims.len() && dims[i] == j {
                    if operand.shape[i] != extent {
                        return rows;
                    }
                    rows *= extent;
                    i += 1;
                } else if extent != 1 {
                    return rows;
                }
            }
            rows
        }
        Permute { perm } => {
            let wide: Vec<usize> = perm.iter().copied().filter(|&p| operand.shape[p] > 1).collect();
            let mut sorted = wide.clone();
            sorted.sort_unstable();
            wide.iter().zip(&sorted).take_while(|(a, b)| a == b).map(|(&a, _)| operand.shape[a]).product()
        }
        Slice { start, stop, step } => first(&|i| start[i] != 0 || stop[i] != operand.shape[i] || step[i] != 1),
        Pad { lo, hi, interior } if k == 0 => first(&|i| lo[i] + hi[i] + interior[i] > 0),
        Flip { axes } => first(&|i| axes.contains(&i) && operand.shape[i] > 1),
        Reduce { axes, .. } => first(&|i| axes.contains(&i) && operand.shape[i] > 1),
        Concat { axis } | Window { axis, .. } | ArgReduce { axis, .. } | Scan { axis, .. } => until(*axis),
        Gather { axis } if k == 0 => until(*axis),
        Gather { axis } => {
            let before: usize = node.ty.shape[..*axis].iter().product();
            if before == 1 { operand.len() } else { 1 }
        }
        _ => 1,
    }
}

/// Into how many rows the loops that compute `n` itself can be cut.
pub(crate) fn own_rows(net: &Net, n: N) -> usize {
    let node = &net.nodes[n];
    match &node.op {
        Op::Reduce { .. } | Op::ArgReduce { .. } | Op::Scan { .. } | Op::Concat { .. } => edge_rows(net, n, 0),
        _ => node.ty.len(),
    }
}

/// Cost of one element of the node, in additions.
pub(crate) fn cost(net: &Net, n: N) -> usize {
    match &net.nodes[n].op {
        Op::Map(s) => s.row().cost as usize,
        Op::Cast | Op::Bitcast | Op::Reduce { .. } | Op::Scan { .. } | Op::Concat { .. } => 1,
        Op::Gather { .. } => 4,
        Op::ArgReduce { .. } => 3,
        _ => 0,
    }
}
