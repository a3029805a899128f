//! Transposition: from cotangents of the outputs of linear nodes to cotangents of their linear operands.

use super::DiffError;
use super::cotangent::{Contribution, ones, spread, total};
use super::cut::derived;
use super::linearize::zeros;
use optc_abi::DType;
use optc_abi::plan::{ConvDims, ConvKind};
use optc_ir::ScalarOp;
use optc_ir::graph::{Axes, DotDims, Graph, LibCall, Node, NodeId, NodeTy, Op, Origin, ReduceOp, ScatterMode};

/// Windows longer than this are transposed by scattering, shorter ones by adding up shifted copies.
const LONGEST_UNROLLED_WINDOW: usize = 16;

/// Appends the transpose of the nodes marked `linear` to `g`: given cotangents of nodes (`seeds`: node, contribution), gives
/// those of `targets` (none where zero), which are inputs.
pub fn transpose(
    g: &mut Graph,
    linear: Vec<bool>,
    seeds: Vec<(NodeId, Contribution)>,
    targets: &[NodeId],
) -> Result<Vec<Option<NodeId>>, DiffError> {
    let count = linear.len();
    let mut cotangents: Vec<Vec<(usize, Contribution)>> = vec![Vec::new(); count];
    for (id, seed) in seeds {
        if linear[id.index()] {
            cotangents[id.index()].push((0, seed));
        }
    }
    let mut t = Transposer { g, linear, cotangents };
    let mut found = vec![None; targets.len()];
    let ids: Vec<NodeId> = t.g.ids().take(count).collect();
    for &id in ids.iter().rev() {
        let contributions = std::mem::take(&mut t.cotangents[id.index()]);
        if contributions.is_empty() {
            continue;
        }
        let node = t.g.node(id).clone();
        let o = derived(t.g.origin(id));
        if let NodeTy::Tuple(types) = &node.ty {
            let mut per_result: Vec<Vec<Contribution>> = vec![Vec::new(); types.len()];
            for (k, c) in contributions {
                per_result[k].push(c);
            }
            let cts: Vec<Option<NodeId>> = per_result.into_iter().zip(types).map(|(c, ty)| total(t.g, ty, c, o)).collect();
            t.tuple(&node, &cts, o)?;
            continue;
        }
        let ty = t.g.ty(id).clone();
        let ct = total(t.g, &ty, contributions.into_iter().map(|(_, c)| c).collect(), o);
        let Some(ct) = ct else { continue };
        if let Op::Input { .. } = node.op
            && let Some(k) = targets.iter().position(|&target| target == id)
        {
            found[k] = Some(ct);
        }
        t.array(&node, ct, o);
    }
    Ok(found)
}

/// The state of one transposition.
pub(super) struct Transposer<'g> {
    pub(super) g: &'g mut Graph,
    linear: Vec<bool>,
    /// Contributions per node, with the result they are for.
    cotangents: Vec<Vec<(usize, Contribution)>>,
}

impl Transposer<'_> {
    /// Whether a node is linear in the tangents. Nodes made by the transposition are not.
    pub(super) fn is_linear(&self, id: NodeId) -> bool {
        self.linear.get(id.index()).copied().unwrap_or(false)
    }

    /// Adds to the cotangent of a node, if it is linear.
    pub(super) fn give(&mut self, id: NodeId, contribution: Contribution) {
        if self.is_linear(id) {
            self.cotangents[id.index()].push((0, contribution));
        }
    }

    pub(super) fn whole(&mut self, id: NodeId, ct: NodeId) {
        self.give(id, Contribution::Whole(ct));
    }

    fn tuple(&mut self, node: &Node, cts: &[Option<NodeId>], o: Origin) -> Result<(), DiffError> {
        match &node.op {
            Op::Loop(l) => self.loop_node(l, &node.operands, cts, o),
            Op::Cond { then, otherwise } => self.cond_node(then, otherwise, &node.operands, cts, o),
            Op::Call(c) => {
                self.call_node(c, &node.operands, cts, o);
                Ok(())
            }
            Op::Lib(LibCall::Fft { inverse }) => {
                self.transform(*inverse, &node.operands, cts, o);
                Ok(())
            }
            op => panic!("compiler bug: {op:?} yields one array, or is not linear"),
        }
    }

    /// One row per linear operation.
    fn array(&mut self, node: &Node, ct: NodeId, o: Origin) {
        let x = &node.operands;
        let shape = |t: &Self, k: usize| t.g.ty(x[k]).shape.clone();
        match &node.op {
            Op::Input { .. } => {}
            Op::Result { index } => {
                if self.is_linear(x[0]) {
                    self.cotangents[x[0].index()].push((*index, Contribution::Whole(ct)));
                }
            }
            Op::Map(op) => self.map(*op, x, ct, o),
            Op::Cast => {
                let dtype = self.g.ty(x[0]).dtype;
                let ct = self.g.cast(ct, dtype, o);
                self.whole(x[0], ct);
            }
            Op::Reduce { kind: ReduceOp::Sum, axes } => {
                let shape = shape(self, 0);
                let kept: Axes = (0..shape.len()).filter(|a| !axes.contains(a)).collect();
                let ct = self.g.broadcast(ct, &kept, &shape, o);
                self.whole(x[0], ct);
            }
            Op::Scan { kind: ReduceOp::Sum, axis, reverse } => {
                let ct = self.g.op(Op::Scan { kind: ReduceOp::Sum, axis: *axis, reverse: !reverse }, &[ct], o);
                self.whole(x[0], ct);
            }
            Op::Dot(dims) => self.dot(dims, x[0], x[1], ct, o),
            Op::Conv { kind, dims } => self.conv(*kind, dims, x[0], x[1], ct, o),
            Op::Reshape => {
                let shape = shape(self, 0);
                let ct = self.g.reshape(ct, &shape, o);
                self.whole(x[0], ct);
            }
            Op::Broadcast { dims } => {
                let (from, to) = (shape(self, 0), self.g.ty(ct).shape.clone());
                let kept = |a: usize| dims.iter().position(|&d| d == a).is_some_and(|i| from[i] == to[a]);
                let axes: Axes = (0..to.len()).filter(|&a| !kept(a)).collect();
                // The sign of a sum, rather than a sum of changed signs.
                let node = self.g.node(ct);
                let negated = node.op == Op::Map(ScalarOp::Neg) && !axes.is_empty();
                let ct = if negated { node.operands[0] } else { ct };
                let ct = self.g.reduce(ReduceOp::Sum, ct, &axes, o);
                let mut ct = self.g.reshape(ct, &from, o);
                if negated {
                    ct = self.g.map(ScalarOp::Neg, &[ct], o);
                }
                self.whole(x[0], ct);
            }
            Op::Permute { perm } => {
                let mut back = zeros(perm.len());
                for (i, &p) in perm.iter().enumerate() {
                    back[p] = i;
                }
                let ct = self.g.permute(ct, &back, o);
                self.whole(x[0], ct);
            }
            Op::Slice { start, step, .. } => {
                self.give(x[0], Contribution::Part { value: ct, start: start.clone(), step: step.clone() });
            }
            Op::Pad { lo, hi, interior } => self.pad(x[0], x[1], lo, hi, interior, ct, o),
            Op::Flip { axes } => {
                let ct = self.g.op(Op::Flip { axes: axes.clone() }, &[ct], o);
                self.whole(x[0], ct);
            }
            Op::Concat { axis } => {
                let mut at = 0;
                for &part in x {
                    let n = self.g.ty(part).shape[*axis];
                    if self.is_linear(part) {
                        let ct = self.g.slice_axis(ct, *axis, at, at + n, o);
                        self.whole(part, ct);
                    }
                    at += n;
                }
            }
            Op::Window { axis, size, stride, dilation } => self.window(x[0], *axis, *size, *stride, *dilation, ct, o),
            Op::Gather { axis } => self.give(x[0], Contribution::Rows { ids: x[1], updates: ct, axis: *axis }),
            Op::Scatter { axis, mode } => self.scatter(*axis, *mode, x, ct, o),
            Op::Lib(call) => self.solve(*call, x, ct, o),
            op => panic!("compiler bug: {op:?} is not linear"),
        }
    }

    fn map(&mut self, op: ScalarOp, x: &[NodeId], ct: NodeId, o: Origin) {
        match op {
            ScalarOp::Add => {
                self.whole(x[0], ct);
                self.whole(x[1], ct);
            }
            ScalarOp::Sub => {
                self.whole(x[0], ct);
                if self.is_linear(x[1]) {
                    let ct = self.g.map(ScalarOp::Neg, &[ct], o);
                    self.whole(x[1], ct);
                }
            }
            ScalarOp::Neg => {
                let ct = self.g.map(ScalarOp::Neg, &[ct], o);
                self.whole(x[0], ct);
            }
            ScalarOp::Mul => {
                let (linear, factor) = if self.is_linear(x[0]) { (x[0], x[1]) } else { (x[1], x[0]) };
                assert!(!self.is_linear(factor), "compiler bug: a product of two tangents");
                let ct = self.g.map(ScalarOp::Mul, &[ct, factor], o);
                self.whole(linear, ct);
            }
            ScalarOp::Div => {
                let ct = self.g.map(ScalarOp::Div, &[ct, x[1]], o);
                self.whole(x[0], ct);
            }
            ScalarOp::Select => {
                let ty = self.g.ty(ct).clone();
                let zero = self.g.splat(&ty, 0.0, o);
                if self.is_linear(x[1]) {
                    let ct = self.g.map(ScalarOp::Select, &[x[0], ct, zero], o);
                    self.whole(x[1], ct);
                }
                if self.is_linear(x[2]) {
                    let ct = self.g.map(ScalarOp::Select, &[x[0], zero, ct], o);
                    self.whole(x[2], ct);
                }
            }
            op => panic!("compiler bug: {} is not linear", op.name()),
        }
    }

    /// The cotangent of one factor of a matrix product is the product of `ct` with the other factor.
    fn dot(&mut self, dims: &DotDims, a: NodeId, b: NodeId, ct: NodeId, o: Origin) {
        let (rank_a, rank_b) = (self.g.ty(a).rank(), self.g.ty(b).rank());
        let free = |rank: usize, p: &Axes, q: &Axes| -> Axes { (0..rank).filter(|i| !p.contains(i) && !q.contains(i)).collect() };
        let free_a = free(rank_a, &dims.lhs_batch, &dims.lhs_contract);
        let free_b = free(rank_b, &dims.rhs_batch, &dims.rhs_contract);
        let batch: Axes = (0..dims.lhs_batch.len()).collect();
        let ct_a: Axes = (batch.len()..batch.len() + free_a.len()).collect();
        let ct_b: Axes = (batch.len() + free_a.len()..batch.len() + free_a.len() + free_b.len()).collect();
        if self.is_linear(a) {
            let side = Side { mine: (&dims.lhs_batch, &dims.lhs_contract, &free_a), other: (&dims.rhs_batch, &dims.rhs_contract, &free_b) };
            let ct = self.dot_side(side, b, ct, &batch, &ct_b, o);
            self.whole(a, ct);
        }
        if self.is_linear(b) {
            let side = Side { mine: (&dims.rhs_batch, &dims.rhs_contract, &free_b), other: (&dims.lhs_batch, &dims.lhs_contract, &free_a) };
            let ct = self.dot_side(side, a, ct, &batch, &ct_a, o);
            self.whole(b, ct);
        }
    }

    /// `ct` times the other factor, contracted over that factor's own axes (`ct_axes` of `ct`). Of the two orders of the product
    /// the one is taken that needs no permutation afterwards, or at least none of the innermost axis.
    fn dot_side(&mut self, side: Side, other: NodeId, ct: NodeId, batch: &Axes, ct_axes: &Axes, o: Origin) -> NodeId {
        let (my_batch, my_contract, my_free) = side.mine;
        let (other_batch, other_contract, other_free) = side.other;
        // The other's contracted axes come out in its own order; each is paired with one of mine.
        let mut pairs: Vec<(usize, usize)> = other_contract.iter().copied().zip(my_contract.iter().copied()).collect();
        pairs.sort_unstable();
        let contracted: Vec<usize> = pairs.into_iter().map(|(_, mine)| mine).collect();
        let ct_first: Axes = my_batch.iter().chain(my_free.iter()).chain(&contracted).copied().collect();
        let other_first: Axes = my_batch.iter().chain(&contracted).chain(my_free.iter()).copied().collect();
        let sorted = |axes: &Axes| axes.windows(2).all(|w| w[0] < w[1]);
        let rows_whole = |axes: &Axes| axes.last().is_none_or(|&a| a + 1 == axes.len());
        let swap = !sorted(&ct_first) && (sorted(&other_first) || (!rows_whole(&ct_first) && rows_whole(&other_first)));
        let (order, product) = if swap {
            let dims = DotDims {
                lhs_batch: other_batch.clone(),
                rhs_batch: batch.clone(),
                lhs_contract: other_free.clone(),
                rhs_contract: ct_axes.clone(),
            };
            (other_first, self.g.dot(other, ct, dims, o))
        } else {
            let dims = DotDims {
                lhs_batch: batch.clone(),
                rhs_batch: other_batch.clone(),
                lhs_contract: ct_axes.clone(),
                rhs_contract: other_free.clone(),
            };
            (ct_first, self.g.dot(ct, other, dims, o))
        };
        let mut perm = zeros(order.len());
        for (position, &axis) in order.iter().enumerate() {
            perm[axis] = position;
        }
        self.g.permute(product, &perm, o)
    }

    /// The three convolution maps are the three partial transposes of one trilinear form in x, w and y.
    fn conv(&mut self, kind: ConvKind, dims: &ConvDims, a: NodeId, b: NodeId, ct: NodeId, o: Origin) {
        use ConvKind::{FilterGrad, Forward, InputGrad};
        let (left, right) = match kind {
            // y from x, w
            Forward => ((InputGrad, [ct, b]), (FilterGrad, [a, ct])),
            // x from y, w
            InputGrad => ((Forward, [ct, b]), (FilterGrad, [ct, a])),
            // w from x, y
            FilterGrad => ((InputGrad, [b, ct]), (Forward, [a, ct])),
        };
        for (id, (kind, operands)) in [(a, left), (b, right)] {
            if self.is_linear(id) {
                let ct = self.g.op(Op::Conv { kind, dims: dims.clone() }, &operands, o);
                self.whole(id, ct);
            }
        }
    }

    fn pad(&mut self, x: NodeId, value: NodeId, lo: &Axes, hi: &Axes, interior: &Axes, ct: NodeId, o: Origin) {
        let ty = self.g.ty(x).clone();
        if self.is_linear(x) {
            let step: Axes = interior.iter().map(|i| i + 1).collect();
            let stop: Axes =
                (0..ty.rank()).map(|i| lo[i] + ty.shape[i].saturating_sub(1) * step[i] + usize::from(ty.shape[i] > 0)).collect();
            let part = self.g.slice(ct, lo, &stop, &step, o);
            self.whole(x, part);
        }
        if self.is_linear(value) {
            // The sum over the padding only: a difference of sums would cancel.
            let whole = self.g.ty(ct).clone();
            let inside = self.g.splat(&ty.with_dtype(DType::Bool), 0.0, o);
            let outside = self.g.scalar(DType::Bool, 1.0, o);
            let mask = self.g.pad(inside, outside, lo, hi, interior, o);
            let zero = self.g.splat(&whole, 0.0, o);
            let padding = self.g.map(ScalarOp::Select, &[mask, ct, zero], o);
            let axes: Axes = (0..whole.rank()).collect();
            let sum = self.g.reduce(ReduceOp::Sum, padding, &axes, o);
            self.whole(value, sum);
        }
    }

    /// Overlapping windows add up.
    fn window(&mut self, x: NodeId, axis: usize, size: usize, stride: usize, dilation: usize, ct: NodeId, o: Origin) {
        let ty = self.g.ty(x).clone();
        let count = self.g.ty(ct).shape[axis];
        let start = zeros(ty.rank());
        if stride == size && (dilation == 1 || size == 1) {
            let mut shape = ty.shape.clone();
            shape[axis] = count * size;
            let value = self.g.reshape(ct, &shape, o);
            self.give(x, Contribution::Part { value, start, step: ones(ty.rank()) });
        } else if size <= LONGEST_UNROLLED_WINDOW {
            let mut shape = ty.shape.clone();
            shape[axis] = count;
            let mut sum: Option<NodeId> = None;
            for u in 0..size {
                let part = self.g.slice_axis(ct, axis + 1, u, u + 1, o);
                let part = self.g.reshape(part, &shape, o);
                let (mut start, mut step) = (start.clone(), ones(ty.rank()));
                (start[axis], step[axis]) = (u * dilation, stride);
                let part = spread(self.g, &ty, part, &start, &step, o);
                sum = Some(match sum {
                    Some(sum) => self.g.map(ScalarOp::Add, &[sum, part], o),
                    None => part,
                });
            }
            self.whole(x, sum.expect("a window has elements"));
        } else {
            let [i, u] = [0, 1].map(|axis| self.g.iota(DType::I32, &[count, size], axis, o));
            let [i, u] = [(i, stride), (u, dilation)].map(|(index, by)| {
                let by = self.g.scalar(DType::I32, by as f64, o);
                let by = self.g.broadcast(by, &[], &[count, size], o);
                self.g.map(ScalarOp::Mul, &[index, by], o)
            });
            let ids = self.g.map(ScalarOp::Add, &[i, u], o);
            self.give(x, Contribution::Rows { ids, updates: ct, axis });
        }
    }

    fn scatter(&mut self, axis: usize, mode: ScatterMode, x: &[NodeId], ct: NodeId, o: Origin) {
        let (base, ids, updates) = (x[0], x[1], x[2]);
        let ty = self.g.ty(updates).clone();
        if self.is_linear(base) {
            let ct = match mode {
                ScatterMode::Add => ct,
                ScatterMode::Set => {
                    let zeros = self.g.splat(&ty, 0.0, o);
                    self.g.scatter(ct, ids, zeros, axis, ScatterMode::Set, o)
                }
            };
            self.whole(base, ct);
        }
        if self.is_linear(updates) {
            let rows = self.g.gather(ct, ids, axis, o);
            let rows = match mode {
                ScatterMode::Add => rows,
                ScatterMode::Set => self.only_last(ids, rows, self.g.ty(ct).shape[axis], axis, o),
            };
            self.whole(updates, rows);
        }
    }

    /// Zeros in the rows that a later update of the same index overwrote.
    fn only_last(&mut self, ids: NodeId, rows: NodeId, extent: usize, axis: usize, o: Origin) -> NodeId {
        let shape = self.g.ty(ids).shape.clone();
        let n: usize = shape.iter().product();
        if n < 2 {
            return rows;
        }
        let flat = self.g.reshape(ids, &[n], o);
        let order = self.g.iota(DType::I32, &[n], 0, o);
        let minus_one = self.g.scalar(DType::I32, -1.0, o);
        let nobody = self.g.broadcast(minus_one, &[], &[extent], o);
        let winners = self.g.scatter(nobody, flat, order, 0, ScatterMode::Set, o);
        let winner = self.g.gather(winners, flat, 0, o);
        let won = self.g.map(ScalarOp::Eq, &[winner, order], o);
        let won = self.g.reshape(won, &shape, o);
        let ty = self.g.ty(rows).clone();
        let dims: Axes = (axis..axis + shape.len()).collect();
        let won = self.g.broadcast(won, &dims, &ty.shape, o);
        let zero = self.g.splat(&ty, 0.0, o);
        self.g.map(ScalarOp::Select, &[won, rows, zero], o)
    }
}

/// Axes of a matrix product seen from one factor: (batch, contracted, free) of that factor and of the other.
struct Side<'a> {
    mine: (&'a Axes, &'a Axes, &'a Axes),
    other: (&'a Axes, &'a Axes, &'a Axes),
}
