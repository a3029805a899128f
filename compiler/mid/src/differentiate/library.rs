//! Derivatives of the numerical library calls: tangents written with ordinary operations and library calls, so that any order works, and the
//! transposes of the linear ones.
//!
//! Sources: Giles 2008, "An extended collection of matrix derivative results for forward and reverse mode algorithmic differentiation" (Cholesky, solves,
//! eigenvalues, singular values); Ionescu, Vantzos and Sminchisescu 2015, "Matrix backpropagation for deep networks with structured layers" (their vectors);
//! Walter and Lehmann 2018, "Algorithmic differentiation of linear algebra functions" (QR of any shape); Golub and Pereyra 1973 (pseudoinverse).
//!
//! Vectors of equal values: eigenvectors (singular vectors) have no derivative where values coincide, since any rotation among them is as good. The part of
//! their tangent that lies within such a group is set to zero: `1 / (v_j - v_i)` is 0 where both agree within `n eps` of the largest one.

use super::cut::derived;
use super::linearize::{Linearizer, Results};
use super::transpose::Transposer;
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, DotDims, Graph, LibCall, Node, NodeId, NodeTy, Op, Origin, ReduceOp, Ty};

impl Linearizer {
    /// A library call; `quiet` if no tangent is wanted.
    pub(super) fn library_node(
        &mut self,
        call: LibCall,
        node: &Node,
        x: &[NodeId],
        t: &[Option<NodeId>],
        quiet: bool,
        origin: Origin,
    ) -> Results {
        let values = match &node.ty {
            NodeTy::Array(_) => vec![self.g.push(node.op.clone(), x.iter().copied(), node.ty.clone(), origin)],
            NodeTy::Tuple(_) => self.copy_tuple(node, x, origin),
        };
        if quiet {
            let none = vec![None; values.len()];
            return (values, none);
        }
        let mut m = Matrices { g: &mut self.g, o: derived(origin) };
        let tangents = match call {
            LibCall::Cholesky => t[0].map(|t| vec![Some(m.cholesky(values[0], t))]),
            LibCall::TriangularSolve { .. } => Some(vec![m.triangular_solve(call, x[0], t[0], t[1], values[0])]),
            LibCall::Lu => t[0].map(|t| vec![Some(m.lu(values[0], values[1], t)), None, None]),
            LibCall::LuSolve { transposed } => Some(vec![m.lu_solve(transposed, x, t[0], t[3], values[0])]),
            LibCall::Qr => t[0].map(|t| m.qr(values[0], values[1], t).map(Some).to_vec()),
            LibCall::Svd => t[0].map(|t| m.svd(values[0], values[1], values[2], t).map(Some).to_vec()),
            LibCall::Eigh => t[0].map(|t| m.eigh(values[0], values[1], t).map(Some).to_vec()),
            LibCall::Pinv => t[0].map(|t| vec![Some(m.pinv(x[0], values[0], t))]),
            LibCall::Fft { .. } => {
                let ty = m.g.ty(x[0]).clone();
                let parts = [t[0], t[1]].map(|t| t.unwrap_or_else(|| m.g.splat(&ty, 0.0, m.o)));
                let tuple = m.g.push(node.op.clone(), parts, node.ty.clone(), m.o);
                Some((0..2).map(|k| Some(m.g.result(tuple, k, m.o))).collect())
            }
            LibCall::Assignment { .. } => None,
        };
        let tangents = tangents.unwrap_or_else(|| vec![None; values.len()]);
        (values, tangents)
    }
}

/// Builds expressions of batched matrices: the last two axes are the matrix.
struct Matrices<'g> {
    g: &'g mut Graph,
    o: Origin,
}

/// A triangular matrix in a larger one.
#[derive(Clone, Copy)]
enum Triangle {
    Lower,
    StrictlyLower,
    Upper,
}

impl Matrices<'_> {
    fn shape(&self, x: NodeId) -> Axes {
        self.g.ty(x).shape.clone()
    }

    /// `a b`.
    fn mul(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.product(a, false, b, false)
    }

    /// `a b`, with one or both transposed.
    fn product(&mut self, a: NodeId, a_transposed: bool, b: NodeId, b_transposed: bool) -> NodeId {
        let n = self.shape(a).len() - 2;
        let batch: Axes = (0..n).collect();
        let dims = DotDims {
            lhs_batch: batch.clone(),
            rhs_batch: batch,
            lhs_contract: Axes::from_slice(&[n + usize::from(!a_transposed)]),
            rhs_contract: Axes::from_slice(&[n + usize::from(b_transposed)]),
        };
        self.g.dot(a, b, dims, self.o)
    }

    fn turn(&mut self, x: NodeId) -> NodeId {
        let n = self.shape(x).len();
        let mut perm: Axes = (0..n).collect();
        perm.swap(n - 2, n - 1);
        self.g.permute(x, &perm, self.o)
    }

    fn map(&mut self, op: ScalarOp, a: NodeId, b: NodeId) -> NodeId {
        self.g.map(op, &[a, b], self.o)
    }
    fn add(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.map(ScalarOp::Add, a, b)
    }
    fn sub(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.map(ScalarOp::Sub, a, b)
    }
    fn times(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.map(ScalarOp::Mul, a, b)
    }
    fn splat_like(&mut self, x: NodeId, value: f64) -> NodeId {
        let ty = self.g.ty(x).clone();
        self.g.splat(&ty, value, self.o)
    }

    /// Row and column numbers of the last two axes, compared.
    fn compare_indices(&mut self, op: ScalarOp, shape: &[usize]) -> NodeId {
        let n = shape.len();
        let [i, j] = [n - 2, n - 1].map(|axis| self.g.iota(DType::I32, shape, axis, self.o));
        self.map(op, i, j)
    }

    /// A triangle of a matrix, zeros elsewhere.
    fn part(&mut self, x: NodeId, which: Triangle) -> NodeId {
        let shape = self.shape(x);
        let n = shape.len();
        let [i, j] = [n - 2, n - 1].map(|axis| self.g.iota(DType::I32, &shape, axis, self.o));
        let inside = match which {
            Triangle::Lower => self.map(ScalarOp::Le, j, i),
            Triangle::StrictlyLower => self.map(ScalarOp::Lt, j, i),
            Triangle::Upper => self.map(ScalarOp::Le, i, j),
        };
        let zero = self.splat_like(x, 0.0);
        self.g.map(ScalarOp::Select, &[inside, x, zero], self.o)
    }

    /// The diagonal of a matrix.
    fn diagonal(&mut self, x: NodeId) -> NodeId {
        let shape = self.shape(x);
        let on = self.compare_indices(ScalarOp::Eq, &shape);
        let zero = self.splat_like(x, 0.0);
        let only = self.g.map(ScalarOp::Select, &[on, x, zero], self.o);
        self.g.reduce(ReduceOp::Sum, only, &[shape.len() - 1], self.o)
    }

    /// A vector as the rows (`v_j` in column j) or columns (`v_i` in row i) of a matrix of `rows` by `columns`.
    fn along(&mut self, v: NodeId, columns: bool, rows: usize, cols: usize) -> NodeId {
        let mut shape = self.shape(v);
        let n = shape.len() - 1;
        shape.truncate(n);
        shape.extend([rows, cols]);
        let dims: Axes = (0..n).chain([if columns { n } else { n + 1 }]).collect();
        self.g.broadcast(v, &dims, &shape, self.o)
    }

    /// The symmetric matrix whose lower triangle is that of `x`.
    fn symmetric(&mut self, x: NodeId) -> NodeId {
        let lower = self.part(x, Triangle::Lower);
        let strict = self.part(x, Triangle::StrictlyLower);
        let upper = self.turn(strict);
        self.add(lower, upper)
    }

    fn triangle(&mut self, lower: bool, transposed: bool, unit: bool, a: NodeId, b: NodeId) -> NodeId {
        self.g.op(Op::Lib(LibCall::TriangularSolve { lower, transposed, unit }), &[a, b], self.o)
    }

    /// `dL = L P(L^-1 dA L^-T)`, where P takes the lower triangle and half of the diagonal.
    fn cholesky(&mut self, l: NodeId, da: NodeId) -> NodeId {
        let da = self.symmetric(da);
        let left = self.triangle(true, false, false, l, da);
        let left = self.turn(left);
        let both = self.triangle(true, false, false, l, left);
        let halved = {
            let shape = self.shape(both);
            let on = self.compare_indices(ScalarOp::Eq, &shape);
            let (half, one) = (self.splat_like(both, 0.5), self.splat_like(both, 1.0));
            let weights = self.g.map(ScalarOp::Select, &[on, half, one], self.o);
            self.times(both, weights)
        };
        let phi = self.part(halved, Triangle::Lower);
        self.mul(l, phi)
    }

    /// `dX = A^-1 (dB - dA X)`, with the triangle of dA that counts.
    fn triangular_solve(&mut self, call: LibCall, a: NodeId, da: Option<NodeId>, db: Option<NodeId>, x: NodeId) -> Option<NodeId> {
        let LibCall::TriangularSolve { lower, transposed, unit } = call else { panic!("compiler bug: {call:?} is no triangular solve") };
        let right = match da {
            None => db?,
            Some(da) => {
                let mut part = match (lower, unit) {
                    (true, true) => self.part(da, Triangle::StrictlyLower),
                    (true, false) => self.part(da, Triangle::Lower),
                    (false, _) => self.part(da, Triangle::Upper),
                };
                if unit && !lower {
                    let turned = self.turn(part);
                    let strict = self.part(turned, Triangle::StrictlyLower);
                    part = self.turn(strict);
                }
                let moved = self.product(part, transposed, x, false);
                self.difference(db, moved)
            }
        };
        Some(self.g.op(Op::Lib(call), &[a, right], self.o))
    }

    /// `a - b`, or `-b`.
    fn difference(&mut self, a: Option<NodeId>, b: NodeId) -> NodeId {
        match a {
            Some(a) => self.sub(a, b),
            None => self.g.map(ScalarOp::Neg, &[b], self.o),
        }
    }

    /// With `M = L^-1 P dA U^-1`: `dL = L tril(M, -1)`, `dU = triu(M) U`, one in the lower and one in the upper triangle.
    fn lu(&mut self, lu: NodeId, perm: NodeId, da: NodeId) -> NodeId {
        let permuted = self.permuted_rows(da, perm);
        let left = self.triangle(true, false, true, lu, permuted);
        let left = self.turn(left);
        let both = self.triangle(false, true, false, lu, left);
        let m = self.turn(both);
        let strict = self.part(m, Triangle::StrictlyLower);
        let upper = self.part(m, Triangle::Upper);
        let u = self.part(lu, Triangle::Upper);
        let l = self.part(lu, Triangle::StrictlyLower);
        // The unit diagonal of L.
        let moved = self.mul(l, strict);
        let dl = self.add(strict, moved);
        let du = self.mul(upper, u);
        self.add(dl, du)
    }

    /// Row `perm[i]` of each matrix as its row `i`.
    fn permuted_rows(&mut self, x: NodeId, perm: NodeId) -> NodeId {
        let shape = self.shape(x);
        let (n, width) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let batch: usize = shape[..shape.len() - 2].iter().product();
        let flat = self.g.reshape(x, &[batch * n, width], self.o);
        let rows = self.g.reshape(perm, &[batch, n], self.o);
        let which = self.g.iota(DType::I32, &[batch, n], 0, self.o);
        let step = self.splat_like(which, n as f64);
        let base = self.times(which, step);
        let places = self.add(base, rows);
        let places = self.g.reshape(places, &[batch * n], self.o);
        let rows = self.g.gather(flat, places, 0, self.o);
        self.g.reshape(rows, &shape, self.o)
    }

    /// `dX = A^-1 (dB - dA X)`.
    fn lu_solve(&mut self, transposed: bool, x: &[NodeId], da: Option<NodeId>, db: Option<NodeId>, z: NodeId) -> Option<NodeId> {
        let right = match da {
            None => db?,
            Some(da) => {
                let moved = self.product(da, transposed, z, false);
                self.difference(db, moved)
            }
        };
        Some(self.g.op(Op::Lib(LibCall::LuSolve { transposed }), &[x[0], x[1], x[2], right], self.o))
    }

    /// Walter and Lehmann's rule. Of a wide matrix the first `k` columns are factored, and the rest of R is `Q' A`.
    fn qr(&mut self, q: NodeId, r: NodeId, da: NodeId) -> [NodeId; 2] {
        let shape = self.shape(r);
        let last = shape.len() - 1;
        let (k, n) = (shape[last - 1], shape[last]);
        let columns = |s: &mut Self, x: NodeId, from: usize, to: usize| s.g.slice_axis(x, last, from, to, s.o);
        let (da1, r1) = (columns(self, da, 0, k), columns(self, r, 0, k));
        // X = dA R^-1, from R' X' = dA'.
        let turned = self.turn(da1);
        let xt = self.triangle(false, true, false, r1, turned);
        let x = self.turn(xt);
        let qx = self.product(q, true, x, false);
        let lower = self.part(qx, Triangle::StrictlyLower);
        let mirrored = self.turn(lower);
        // Q' dQ, which is antisymmetric.
        let omega = self.sub(lower, mirrored);
        let inside = self.sub(omega, qx);
        let inside = self.mul(q, inside);
        let dq = self.add(inside, x);
        let outside = self.sub(qx, omega);
        let dr1 = self.mul(outside, r1);
        if k == n {
            return [dq, dr1];
        }
        let (da2, r2) = (columns(self, da, k, n), columns(self, r, k, n));
        let projected = self.product(q, true, da2, false);
        let turned = self.mul(omega, r2);
        let dr2 = self.sub(projected, turned);
        [dq, self.g.concat(&[dr1, dr2], last, self.o)]
    }

    /// `1 / (v_j - v_i)` in row i and column j, or with `sum_too` `1 / (v_j^2 - v_i^2)`; 0 where both values are equal within rounding.
    fn inverse_gaps(&mut self, v: NodeId, sum_too: bool) -> NodeId {
        let ty = self.g.ty(v).clone();
        let n = ty.shape[ty.rank() - 1];
        let (vi, vj) = (self.along(v, true, n, n), self.along(v, false, n, n));
        let gap = self.sub(vj, vi);
        let eps = if ty.dtype == DType::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
        let sizes = self.g.map(ScalarOp::Abs, &[v], self.o);
        let largest = self.g.reduce(ReduceOp::Max, sizes, &[ty.rank() - 1], self.o);
        let unit = self.g.splat(&Ty::new(ty.dtype, ty.shape[..ty.rank() - 1].iter().copied()), eps * n as f64, self.o);
        let least = self.times(largest, unit);
        let shape = self.shape(gap);
        let dims: Axes = (0..ty.rank() - 1).collect();
        let least = self.g.broadcast(least, &dims, &shape, self.o);
        let size = self.g.map(ScalarOp::Abs, &[gap], self.o);
        let equal = self.map(ScalarOp::Le, size, least);
        let product = if sum_too {
            let sum = self.add(vj, vi);
            self.times(gap, sum)
        } else {
            gap
        };
        self.inverse_unless(equal, product)
    }

    /// `1 / x`, 0 where `skip` holds.
    fn inverse_unless(&mut self, skip: NodeId, x: NodeId) -> NodeId {
        let (one, zero) = (self.splat_like(x, 1.0), self.splat_like(x, 0.0));
        // A denominator that is harmless where it is not wanted, so that no derivative of it is.
        let safe = self.g.map(ScalarOp::Select, &[skip, one, x], self.o);
        let inverse = self.map(ScalarOp::Div, one, safe);
        self.g.map(ScalarOp::Select, &[skip, zero, inverse], self.o)
    }

    /// With `M = V' dA V`: `dvalues = diag(M)`, `dV = V (F * M)`, `F_ij = 1 / (v_j - v_i)`.
    fn eigh(&mut self, values: NodeId, vectors: NodeId, da: NodeId) -> [NodeId; 2] {
        let da = self.symmetric(da);
        let right = self.mul(da, vectors);
        let m = self.product(vectors, true, right, false);
        let dvalues = self.diagonal(m);
        let f = self.inverse_gaps(values, false);
        let inside = self.times(f, m);
        [dvalues, self.mul(vectors, inside)]
    }

    /// With `M = U' dA V`, `F_ij = 1 / (s_j^2 - s_i^2)`: `ds = diag(M)`, `dU = U (F * (M S + S M')) + (1 - U U') dA V S^-1`,
    /// `dV = V (F * (S M + M' S)) + (1 - V V') dA' U S^-1`.
    fn svd(&mut self, u: NodeId, s: NodeId, vt: NodeId, da: NodeId) -> [NodeId; 3] {
        let (ushape, vshape) = (self.shape(u), self.shape(vt));
        let last = ushape.len() - 1;
        let (m, k, n) = (ushape[last - 1], ushape[last], vshape[last]);
        let dav = self.product(da, false, vt, true);
        let inner = self.product(u, true, dav, false);
        let ds = self.diagonal(inner);
        let (si, sj) = (self.along(s, true, k, k), self.along(s, false, k, k));
        let f = self.inverse_gaps(s, true);
        let (right, left) = (self.times(inner, sj), self.times(si, inner));
        let (right_t, left_t) = (self.turn(right), self.turn(left));
        let (for_u, for_v) = (self.add(right, right_t), self.add(left, left_t));
        let (for_u, for_v) = (self.times(f, for_u), self.times(f, for_v));
        let mut du = self.mul(u, for_u);
        // Rows of Vt are the columns of V.
        let mut dvt = self.product(for_v, true, vt, false);
        if m > k || n > k {
            let zero = self.splat_like(s, 0.0);
            let is_zero = self.map(ScalarOp::Eq, s, zero);
            let inverse = self.inverse_unless(is_zero, s);
            if m > k {
                let inside = self.mul(u, inner);
                let outside = self.sub(dav, inside);
                let scale = self.along(inverse, false, m, k);
                let outside = self.times(outside, scale);
                du = self.add(du, outside);
            }
            if n > k {
                let uda = self.product(u, true, da, false);
                let inside = self.mul(inner, vt);
                let outside = self.sub(uda, inside);
                let scale = self.along(inverse, true, k, n);
                let outside = self.times(outside, scale);
                dvt = self.add(dvt, outside);
            }
        }
        [du, ds, dvt]
    }

    /// `dZ = -Z dA Z + Z Z' dA' (1 - A Z) + (1 - Z A) dA' Z' Z`, where the rank stays what it is.
    fn pinv(&mut self, a: NodeId, z: NodeId, da: NodeId) -> NodeId {
        let zda = self.mul(z, da);
        let first = self.mul(zda, z);
        // Z Z' dA' (1 - A Z) = Z (dA Z)' - (Z (dA Z)' A) Z.
        let daz = self.mul(da, z);
        let second = self.product(z, false, daz, true);
        let second_a = self.mul(second, a);
        let second_az = self.mul(second_a, z);
        let second = self.sub(second, second_az);
        // (1 - Z A) dA' Z' Z = (Z dA)' Z - Z (A (Z dA)' Z).
        let third = self.product(zda, true, z, false);
        let a_third = self.mul(a, third);
        let za_third = self.mul(z, a_third);
        let third = self.sub(third, za_third);
        let rest = self.add(second, third);
        self.sub(rest, first)
    }
}

impl Transposer<'_> {
    /// A solve, linear in its right-hand side: the transposed solve.
    pub(super) fn solve(&mut self, call: LibCall, x: &[NodeId], ct: NodeId, o: Origin) {
        let side = x[x.len() - 1];
        let turned = match call {
            LibCall::TriangularSolve { lower, transposed, unit } => LibCall::TriangularSolve { lower, transposed: !transposed, unit },
            LibCall::LuSolve { transposed } => LibCall::LuSolve { transposed: !transposed },
            _ => panic!("compiler bug: {call:?} is not linear"),
        };
        let mut operands = x.to_vec();
        operands[x.len() - 1] = ct;
        let ct = self.g.op(Op::Lib(turned), &operands, o);
        self.whole(side, ct);
    }

    /// A Fourier transform: as a map of real and imaginary parts its transpose is that with the other sign.
    pub(super) fn transform(&mut self, inverse: bool, x: &[NodeId], cts: &[Option<NodeId>], o: Origin) {
        let ty = self.g.ty(x[0]).clone();
        let parts = [cts[0], cts[1]].map(|ct| ct.unwrap_or_else(|| self.g.splat(&ty, 0.0, o)));
        let tuple = self.g.op(Op::Lib(LibCall::Fft { inverse: !inverse }), &parts, o);
        for (k, &part) in x.iter().enumerate() {
            if self.is_linear(part) {
                let ct = self.g.result(tuple, k, o);
                self.whole(part, ct);
            }
        }
    }
}
