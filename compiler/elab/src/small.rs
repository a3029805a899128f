//! Small exact computations of the script, done at once: a scalar that steers, an element of a list of weights, is not worth compiling code for.
//!
//! Only operations on which the interpreter and compiled code agree bit for bit are done here, so that it cannot be seen who did them.

use optc_abi::{DType, Tensor};
use optc_ir::graph::{Graph, Node, NodeId, NodeTy, Op, ReduceOp, Ty};
use std::sync::Arc;

/// More nodes are compiled.
const NODES: usize = 200;
/// Arrays of more elements are compiled, or parts of them copied.
const ELEMENTS: usize = 1024;

/// The outputs of a graph of few exact operations on small arrays; `None` if it is not such a graph, or if a part of it fails, which compiled code can say.
pub(crate) fn evaluate(graph: &Graph, inputs: &[Arc<Tensor>]) -> Option<Vec<Tensor>> {
    if graph.len() > NODES || !graph.ids().all(|id| is_small(graph, id)) {
        return None;
    }
    let mut values: Vec<Arc<Tensor>> = Vec::with_capacity(graph.len());
    for id in graph.ids() {
        let node = graph.node(id);
        let NodeTy::Array(ty) = &node.ty else { return None };
        let operands: Vec<&Tensor> = node.operands.iter().map(|o| &*values[o.index()]).collect();
        values.push(match &node.op {
            Op::Input { index } => inputs[*index as usize].clone(),
            Op::Const(t) => t.clone(),
            Op::Slice { start, step, .. } => Arc::new(slice(operands[0], start, step, &ty.shape)),
            Op::Gather { axis } => Arc::new(gather(operands[0], operands[1], *axis, ty)?),
            op => Arc::new(optc_ir::interp::evaluate(op, &operands, ty).ok()?),
        });
    }
    Some(graph.outputs.iter().map(|o| (*values[o.index()]).clone()).collect())
}

fn is_small(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let NodeTy::Array(ty) = &node.ty else { return false };
    if let Op::Input { .. } = node.op {
        return true;
    }
    // Parts of large arrays are copied; nothing else is done with these.
    let parts = matches!(node.op, Op::Slice { .. } | Op::Gather { .. });
    let of = |o: &NodeId| graph.ty(*o).len() <= ELEMENTS;
    ty.len() <= ELEMENTS
        && (if parts { node.operands.iter().skip(1).all(of) } else { node.operands.iter().all(of) })
        && is_exact(graph, node, ty)
}

/// Whether every back end gives the same bits.
fn is_exact(graph: &Graph, node: &Node, ty: &Ty) -> bool {
    let plain = |d: DType| matches!(d, DType::F32 | DType::F64) || !d.is_float();
    let types = || plain(ty.dtype) && node.operands.iter().all(|o| plain(graph.ty(*o).dtype));
    match &node.op {
        Op::Const(_)
        | Op::Slice { .. }
        | Op::Gather { .. }
        | Op::Iota { .. }
        | Op::Reshape
        | Op::Broadcast { .. }
        | Op::Permute { .. }
        | Op::Pad { .. }
        | Op::Flip { .. }
        | Op::Concat { .. } => true,
        Op::Map(op) => op.row().ulp == 0.0 && types(),
        Op::Cast => types(),
        Op::Reduce { kind, .. } => types() && (!ty.dtype.is_float() || matches!(kind, ReduceOp::Min | ReduceOp::Max)),
        Op::ArgReduce { .. } => types(),
        _ => false,
    }
}

/// A part of an array: from `start` in steps of `step` along each axis.
fn slice(x: &Tensor, start: &[usize], step: &[usize], shape: &[usize]) -> Tensor {
    let size = x.dtype.size();
    let mut strides = vec![size; x.shape.len()];
    for k in (1..x.shape.len()).rev() {
        strides[k - 1] = strides[k] * x.shape[k];
    }
    let mut out = Tensor::zeros(x.dtype, shape);
    let first: usize = start.iter().zip(&strides).map(|(a, b)| a * b).sum();
    let jumps: Vec<usize> = step.iter().zip(&strides).map(|(a, b)| a * b).collect();
    let mut at = vec![0usize; shape.len()];
    for k in 0..out.len() {
        let from = first + at.iter().zip(&jumps).map(|(a, b)| a * b).sum::<usize>();
        out.bytes_mut()[k * size..(k + 1) * size].copy_from_slice(&x.bytes()[from..from + size]);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    out
}

/// The rows of an axis named by number; `None` if one is outside.
fn gather(x: &Tensor, ids: &Tensor, axis: usize, ty: &Ty) -> Option<Tensor> {
    let n = x.shape[axis];
    let inner = x.shape[axis + 1..].iter().product::<usize>() * x.dtype.size();
    let mut out = Tensor::zeros(x.dtype, &ty.shape);
    let mut to = 0;
    for outer in 0..x.shape[..axis].iter().product::<usize>() {
        for k in 0..ids.len() {
            let id = ids.get_f64(k);
            if !(id >= 0.0 && id < n as f64) {
                return None;
            }
            let from = (outer * n + id as usize) * inner;
            out.bytes_mut()[to..to + inner].copy_from_slice(&x.bytes()[from..from + inner]);
            to += inner;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_copied() {
        let x = Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(slice(&x, &[0, 1], &[1, 1], &[2, 2]).to_f64(), [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(slice(&x, &[1, 0], &[1, 2], &[1, 2]).to_f64(), [4.0, 6.0]);
        let ids = Tensor::from_slice(&[2], &[2i32, 0]);
        let ty = Ty::new(DType::F32, [2, 2]);
        assert_eq!(gather(&x, &ids, 1, &ty).expect("in range").to_f64(), [3.0, 1.0, 6.0, 4.0]);
        assert!(gather(&x, &Tensor::from_slice(&[2], &[3i32, 0]), 1, &ty).is_none());
    }
}
