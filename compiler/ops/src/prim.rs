//! Array primitives: each gives the type of its result (symbolic dimensions) and, while lowering, the node. Arguments are right already; mistakes of the user are found before.

use crate::cx::Cx;
use crate::dim::Dim;
use crate::value::Array;
use optc_abi::{DType, Tensor};
use optc_ir::graph::{DotDims, LibCall, ReduceOp, ScatterMode};
use optc_ir::{Graph, NodeId, NodeTy, Op, Origin, ScalarOp, Ty};

/// What [`Cx::build`] hands to the function that makes the node.
pub(crate) struct Emit<'a> {
    pub graph: &'a mut Graph,
    pub x: &'a [NodeId],
    pub shape: &'a [usize],
    pub origin: Origin,
}

fn known(dim: &Dim) -> usize {
    usize::try_from(dim.known().expect("compiler bug: an unknown size while lowering")).expect("compiler bug: a negative size")
}

impl Cx {
    /// The array `dtype[shape]` made by `f` from the nodes of the operands; `f` runs only while lowering.
    pub(crate) fn build(&mut self, dtype: DType, shape: Vec<Dim>, operands: &[&Array], f: impl FnOnce(Emit<'_>) -> NodeId) -> Array {
        if !self.emitting() {
            return Array { dtype, shape, weak: false, node: None };
        }
        let x: Vec<NodeId> = operands.iter().map(|a| self.node(a)).collect();
        let sizes: Vec<usize> = shape.iter().map(known).collect();
        let origin = self.origin;
        let node = f(Emit { graph: self.graph(), x: &x, shape: &sizes, origin });
        debug_assert_eq!(*self.graph().ty(node), Ty::new(dtype, sizes.iter().copied()), "the type claimed for a node");
        let mut out = self.array(node);
        out.weak = false;
        out
    }
    /// The results of a library call, of these types and shapes.
    pub(crate) fn library(&mut self, call: LibCall, operands: &[&Array], results: &[(DType, Vec<Dim>)]) -> Vec<Array> {
        if !self.emitting() {
            return results.iter().map(|(dtype, shape)| Array { dtype: *dtype, shape: shape.clone(), weak: false, node: None }).collect();
        }
        let x: Vec<NodeId> = operands.iter().map(|a| self.node(a)).collect();
        let origin = self.origin;
        let graph = self.graph();
        let node = graph.op(Op::Lib(call), &x, origin);
        let nodes: Vec<NodeId> = match graph.node(node).ty {
            NodeTy::Array(_) => vec![node],
            NodeTy::Tuple(_) => (0..results.len()).map(|k| graph.result(node, k, origin)).collect(),
        };
        nodes.into_iter().map(|node| self.array(node)).collect()
    }
    /// A literal array.
    pub(crate) fn literal(&mut self, value: Tensor) -> Array {
        let shape = value.shape.iter().map(|&n| Dim::from(n)).collect();
        self.build(value.dtype, shape, &[], |e| e.graph.constant(value, e.origin))
    }
    /// A literal scalar.
    pub(crate) fn scalar(&mut self, dtype: DType, value: f64) -> Array {
        self.build(dtype, vec![], &[], |e| e.graph.scalar(dtype, value, e.origin))
    }
    /// A size as a scalar.
    pub(crate) fn size_scalar(&mut self, dtype: DType, size: &Dim) -> Array {
        self.scalar(dtype, size.known().unwrap_or(0) as f64)
    }
    /// An array of one value.
    pub(crate) fn splat(&mut self, dtype: DType, shape: &[Dim], value: f64) -> Array {
        let scalar = self.scalar(dtype, value);
        self.spread(&scalar, &[], shape)
    }
    /// Elementwise on operands of one shape.
    pub(crate) fn map(&mut self, op: ScalarOp, x: &[&Array]) -> Array {
        use optc_ir::scalar::Class;
        let of = if op == ScalarOp::Select { x[1] } else { x[0] };
        let dtype = if matches!(op.row().class, Class::Compare | Class::Test) { DType::Bool } else { of.dtype };
        self.build(dtype, of.shape.clone(), x, |e| e.graph.map(op, e.x, e.origin))
    }
    /// Conversion of the elements.
    pub(crate) fn convert(&mut self, x: &Array, dtype: DType) -> Array {
        if x.dtype == dtype {
            return Array { weak: false, ..x.clone() };
        }
        self.build(dtype, x.shape.clone(), &[x], |e| e.graph.cast(e.x[0], dtype, e.origin))
    }
    /// Axis `i` goes to axis `dims[i]` of `shape`; extents of 1 repeat.
    pub(crate) fn spread(&mut self, x: &Array, dims: &[usize], shape: &[Dim]) -> Array {
        if x.shape == shape {
            return Array { weak: false, ..x.clone() };
        }
        self.build(x.dtype, shape.to_vec(), &[x], |e| e.graph.broadcast(e.x[0], dims, e.shape, e.origin))
    }
    /// NumPy broadcasting to a shape that fits.
    pub(crate) fn spread_to(&mut self, x: &Array, shape: &[Dim]) -> Array {
        let dims: Vec<usize> = (shape.len() - x.shape.len()..shape.len()).collect();
        self.spread(x, &dims, shape)
    }
    /// Another shape of as many elements.
    pub(crate) fn reshaped(&mut self, x: &Array, shape: &[Dim]) -> Array {
        if x.shape == shape {
            return Array { weak: false, ..x.clone() };
        }
        self.build(x.dtype, shape.to_vec(), &[x], |e| e.graph.reshape(e.x[0], e.shape, e.origin))
    }
    /// Inserts axes of extent 1 so that each of `axes` (of the result, ascending) is one.
    pub(crate) fn expand(&mut self, x: &Array, axes: &[usize]) -> Array {
        let mut shape = x.shape.clone();
        for &axis in axes {
            shape.insert(axis, Dim::one());
        }
        self.reshaped(x, &shape)
    }
    /// Result axis `i` is axis `perm[i]`.
    pub(crate) fn permuted(&mut self, x: &Array, perm: &[usize]) -> Array {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return x.clone();
        }
        let shape = perm.iter().map(|&p| x.shape[p].clone()).collect();
        self.build(x.dtype, shape, &[x], |e| e.graph.permute(e.x[0], perm, e.origin))
    }
    /// Elements `start, start + step, …` (`length` of them) of one axis.
    pub(crate) fn sliced(&mut self, x: &Array, axis: usize, start: &Dim, length: &Dim, step: usize) -> Array {
        let n = x.shape.len();
        let starts: Vec<Dim> = (0..n).map(|i| if i == axis { start.clone() } else { Dim::zero() }).collect();
        let lengths: Vec<Dim> = (0..n).map(|i| if i == axis { length.clone() } else { x.shape[i].clone() }).collect();
        let steps: Vec<usize> = (0..n).map(|i| if i == axis { step } else { 1 }).collect();
        self.sliced_all(x, &starts, &lengths, &steps)
    }
    /// Elements `start, start + step, …` of every axis.
    pub(crate) fn sliced_all(&mut self, x: &Array, start: &[Dim], length: &[Dim], step: &[usize]) -> Array {
        let shape = length.to_vec();
        self.build(x.dtype, shape, &[x], |e| {
            let from: Vec<usize> = start.iter().map(known).collect();
            let to: Vec<usize> =
                from.iter().zip(e.shape).zip(step).map(|((&f, &l), &s)| if l == 0 { f } else { f + (l - 1) * s + 1 }).collect();
            e.graph.slice(e.x[0], &from, &to, step, e.origin)
        })
    }
    /// Surrounds with a scalar of the same type.
    pub(crate) fn padded(&mut self, x: &Array, value: &Array, lo: &[Dim], hi: &[Dim]) -> Array {
        let shape: Vec<Dim> = x.shape.iter().zip(lo.iter().zip(hi)).map(|(d, (l, h))| d.add(l).add(h)).collect();
        self.build(x.dtype, shape, &[x, value], |e| {
            let lo: Vec<usize> = lo.iter().map(known).collect();
            let hi: Vec<usize> = hi.iter().map(known).collect();
            e.graph.pad(e.x[0], e.x[1], &lo, &hi, &vec![0; lo.len()], e.origin)
        })
    }
    /// Reverses axes.
    pub(crate) fn flipped(&mut self, x: &Array, axes: &[usize]) -> Array {
        if axes.is_empty() {
            return x.clone();
        }
        self.build(x.dtype, x.shape.clone(), &[x], |e| e.graph.op(Op::Flip { axes: axes.into() }, e.x, e.origin))
    }
    /// Joins along an axis.
    pub(crate) fn joined(&mut self, parts: &[Array], axis: usize) -> Array {
        let mut shape = parts[0].shape.clone();
        shape[axis] = parts.iter().fold(Dim::zero(), |n, p| n.add(&p.shape[axis]));
        let refs: Vec<&Array> = parts.iter().collect();
        self.build(parts[0].dtype, shape, &refs, |e| e.graph.concat(e.x, axis, e.origin))
    }
    /// Combines along axes, which vanish.
    pub(crate) fn reduced(&mut self, kind: ReduceOp, x: &Array, axes: &[usize]) -> Array {
        if axes.is_empty() {
            return x.clone();
        }
        let shape = without(&x.shape, axes);
        self.build(x.dtype, shape, &[x], |e| e.graph.reduce(kind, e.x[0], axes, e.origin))
    }
    /// Index of the largest or smallest along an axis.
    pub(crate) fn arg_reduced(&mut self, max: bool, x: &Array, axis: usize) -> Array {
        self.build(DType::I32, without(&x.shape, &[axis]), &[x], |e| e.graph.op(Op::ArgReduce { max, axis }, e.x, e.origin))
    }
    /// Running combination.
    pub(crate) fn scanned(&mut self, kind: ReduceOp, x: &Array, axis: usize, reverse: bool) -> Array {
        self.build(x.dtype, x.shape.clone(), &[x], |e| e.graph.op(Op::Scan { kind, axis, reverse }, e.x, e.origin))
    }
    /// General matrix product of floats of one type.
    pub(crate) fn dotted(&mut self, a: &Array, b: &Array, dims: DotDims) -> Array {
        let free = |t: &Array, p: &[usize], q: &[usize]| -> Vec<Dim> {
            (0..t.shape.len()).filter(|i| !p.contains(i) && !q.contains(i)).map(|i| t.shape[i].clone()).collect()
        };
        let mut shape: Vec<Dim> = dims.lhs_batch.iter().map(|&i| a.shape[i].clone()).collect();
        shape.extend(free(a, &dims.lhs_batch, &dims.lhs_contract));
        shape.extend(free(b, &dims.rhs_batch, &dims.rhs_contract));
        self.build(a.dtype, shape, &[a, b], |e| e.graph.dot(e.x[0], e.x[1], dims, e.origin))
    }
    /// Axis `axis` of x replaced by the axes of ids (i32).
    pub(crate) fn gathered(&mut self, x: &Array, ids: &Array, axis: usize) -> Array {
        let shape = x.shape[..axis].iter().chain(&ids.shape).chain(&x.shape[axis + 1..]).cloned().collect();
        self.build(x.dtype, shape, &[x, ids], |e| e.graph.gather(e.x[0], e.x[1], axis, e.origin))
    }
    /// x with updates combined in at ids along an axis.
    pub(crate) fn scattered(&mut self, x: &Array, ids: &Array, updates: &Array, axis: usize, mode: ScatterMode) -> Array {
        self.build(x.dtype, x.shape.clone(), &[x, ids, updates], |e| e.graph.scatter(e.x[0], e.x[1], e.x[2], axis, mode, e.origin))
    }
    /// Indices along an axis.
    pub(crate) fn counting(&mut self, dtype: DType, shape: &[Dim], axis: usize) -> Array {
        self.build(dtype, shape.to_vec(), &[], |e| e.graph.iota(dtype, e.shape, axis, e.origin))
    }
    /// Order of an axis.
    pub(crate) fn arg_sorted(&mut self, x: &Array, axis: usize, descending: bool) -> Array {
        self.build(DType::I32, x.shape.clone(), &[x], |e| e.graph.op(Op::ArgSort { axis, descending }, e.x, e.origin))
    }
    /// Windows of an axis: it becomes (count, size).
    pub(crate) fn windowed(&mut self, x: &Array, axis: usize, count: &Dim, size: &Dim, stride: usize, dilation: usize) -> Array {
        let mut shape = x.shape.clone();
        shape[axis] = count.clone();
        shape.insert(axis + 1, size.clone());
        self.build(x.dtype, shape, &[x], |e| e.graph.op(Op::Window { axis, size: e.shape[axis + 1], stride, dilation }, e.x, e.origin))
    }
    /// `select(c, a, b)` of one shape.
    pub(crate) fn select(&mut self, c: &Array, a: &Array, b: &Array) -> Array {
        self.map(ScalarOp::Select, &[c, a, b])
    }
    /// A binary operation with a constant.
    pub(crate) fn with_const(&mut self, op: ScalarOp, x: &Array, value: f64) -> Array {
        let c = self.splat(x.dtype, &x.shape, value);
        self.map(op, &[x, &c])
    }
    /// The operand; derivatives do not pass.
    pub(crate) fn stopped(&mut self, x: &Array) -> Array {
        self.build(x.dtype, x.shape.clone(), &[x], |e| e.graph.op(Op::StopGradient, e.x, e.origin))
    }
    /// The same bits as another element type of equal size.
    pub(crate) fn same_bits(&mut self, x: &Array, dtype: DType) -> Array {
        if x.dtype == dtype {
            return x.clone();
        }
        self.build(dtype, x.shape.clone(), &[x], |e| {
            let ty = Ty::new(dtype, e.shape.iter().copied());
            e.graph.op_as(Op::Bitcast, e.x, ty, e.origin)
        })
    }
}

/// Extents without some axes.
pub(crate) fn without(shape: &[Dim], axes: &[usize]) -> Vec<Dim> {
    shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect()
}
