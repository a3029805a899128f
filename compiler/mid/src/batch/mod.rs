//! Batching of graphs: a graph that does for every element of a leading axis what the original does for one.
//!
//! One rule per operation ([`rules`], [`convolution`], [`library`], [`control`]); an operation without a rule of its own is run by a loop over
//! the batch ([`Batcher::by_loop`]). What does not depend on a batched input is computed once. The result is an ordinary graph, so
//! batching and differentiation compose in any order.
//!
//! A conditional on a batched predicate evaluates both branches and selects. Elements for which a branch, or a pass of a loop that
//! others still need, would not run at all are masked there: their results are dropped, their indices replaced by 0, so that they
//! cannot be out of range, and their loops do not run.

mod control;
mod convolution;
mod library;
mod rules;
#[cfg(test)]
mod tests;

use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{Graph, LoopOp, Node, NodeId, NodeTy, Op, Origin, Ty};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// A batched graph.
#[derive(Clone, Debug)]
pub struct Batched {
    /// Inputs are those of the original, batched ones with the batch as leading axis; outputs likewise.
    pub graph: Graph,
    /// Which outputs are batched; the others are the same for the whole batch.
    pub outputs: Vec<bool>,
}

/// The batched form of `f` for `size` elements at once, with the inputs marked in `inputs` batched. Outputs marked in `all` are batched
/// in any case.
pub fn batch(f: &Graph, inputs: &[bool], size: usize, all: &[bool]) -> Batched {
    assert_eq!(f.inputs.len(), inputs.len(), "compiler bug: number of flags of a batched graph");
    let (graph, outputs) = body(f, inputs, size, false, all);
    Batched { graph, outputs }
}

/// A value of the original in the batched graph: with a leading axis of the batch, or the same for all elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Val {
    node: NodeId,
    batched: bool,
}

/// As [`batch`]; with `masked` one more input, `bool[size]`, says for which elements the graph runs at all.
fn body(f: &Graph, inputs: &[bool], size: usize, masked: bool, all: &[bool]) -> (Graph, Vec<bool>) {
    let mut g = Graph::new();
    let args: Vec<Val> = f
        .inputs
        .iter()
        .zip(inputs)
        .map(|(input, &batched)| {
            let ty = if batched { with_batch(f.ty(input.node), size) } else { f.ty(input.node).clone() };
            Val { node: g.input(input.name.clone(), ty, f.origin(input.node)), batched }
        })
        .collect();
    let mask = masked.then(|| g.input("mask", Ty::new(DType::Bool, [size]), Origin::default()));
    let mut b = Batcher { g, size, mask, values: vec![SmallVec::new(); f.len()] };
    let live = f.live();
    for id in f.ids() {
        if let Op::Input { index } = f.node(id).op {
            b.values[id.index()] = smallvec![args[index as usize]];
        } else if live[id.index()] {
            b.node(f, id);
        }
    }
    let mut batched = Vec::with_capacity(f.outputs.len());
    for (k, out) in f.outputs.iter().enumerate() {
        let mut value = b.values[out.index()][0];
        if all[k] {
            value = b.spread(value, f.origin(*out));
        }
        b.g.outputs.push(value.node);
        batched.push(value.batched);
    }
    (b.g, batched)
}

/// The state of one batching. Values are listed per result of each node of the original.
struct Batcher {
    g: Graph,
    size: usize,
    /// For which elements the graph runs, `bool[size]`; all if none.
    mask: Option<NodeId>,
    values: Vec<SmallVec<[Val; 1]>>,
}

impl Batcher {
    fn node(&mut self, f: &Graph, id: NodeId) {
        let (node, origin) = (f.node(id), f.origin(id));
        if let Op::Result { index } = node.op {
            self.values[id.index()] = smallvec![self.values[node.operands[0].index()][index]];
            return;
        }
        let x: Vec<Val> = node.operands.iter().map(|o| self.values[o.index()][0]).collect();
        let values: SmallVec<[Val; 1]> = match &node.op {
            Op::Loop(l) => self.loop_node(l, &x, origin).into(),
            Op::Cond { then, otherwise } => self.cond_node(then, otherwise, &x, origin).into(),
            Op::Call(c) => self.call_node(c, &x, origin).into(),
            Op::Lib(call) => self.library_node(*call, node, &x, origin).into(),
            Op::Callback { results, .. } if x.iter().all(|v| !v.batched) => {
                let new = self.g.op(node.op.clone(), &x.iter().map(|v| v.node).collect::<Vec<_>>(), origin);
                (0..results.len()).map(|k| Val { node: self.g.result(new, k, origin), batched: false }).collect()
            }
            Op::AllReduce => panic!("compiler bug: devices come after batches"),
            Op::Callback { .. } => self.by_loop(node, &x, origin).into(),
            op if x.iter().all(|v| !v.batched) => {
                let mut ids: Vec<NodeId> = x.iter().map(|v| v.node).collect();
                if matches!(op, Op::Gather { .. } | Op::Scatter { .. }) {
                    ids[1] = self.safe_ids(x[1], origin).node;
                }
                smallvec![Val { node: self.g.push(op.clone(), ids, node.ty.clone(), origin), batched: false }]
            }
            _ => match self.array(node, &x, origin) {
                Some(node) => smallvec![Val { node, batched: true }],
                None => self.by_loop(node, &x, origin).into(),
            },
        };
        self.values[id.index()] = values;
    }

    /// The value with the batch as leading axis.
    fn spread(&mut self, v: Val, origin: Origin) -> Val {
        if v.batched {
            return v;
        }
        let ty = with_batch(self.g.ty(v.node), self.size);
        let dims: Vec<usize> = (1..ty.rank()).collect();
        Val { node: self.g.broadcast(v.node, &dims, &ty.shape, origin), batched: true }
    }

    /// `bool[size]` repeated over the axes of a batched array.
    fn flags_like(&mut self, flags: NodeId, like: NodeId, origin: Origin) -> NodeId {
        let shape = self.g.ty(like).shape.clone();
        self.g.broadcast(flags, &[0], &shape, origin)
    }

    /// Per element: `a` where its flag is set, else `b`.
    fn choose(&mut self, flags: NodeId, a: Val, b: Val, origin: Origin) -> Val {
        let (a, b) = (self.spread(a, origin).node, self.spread(b, origin).node);
        let flags = self.flags_like(flags, a, origin);
        Val { node: self.g.map(ScalarOp::Select, &[flags, a, b], origin), batched: true }
    }

    /// An operation without a rule of its own: a loop over the batch.
    fn by_loop(&mut self, node: &Node, x: &[Val], origin: Origin) -> Vec<Val> {
        let mut body = Graph::new();
        body.input("element", Ty::scalar(DType::I32), origin);
        let mut inner: Vec<Option<NodeId>> = vec![None; x.len()];
        let mut operands = Vec::new();
        for scanned in [true, false] {
            for (k, v) in x.iter().enumerate().filter(|(_, v)| v.batched == scanned) {
                let ty = self.g.ty(v.node);
                let ty = if scanned { Ty::new(ty.dtype, ty.shape[1..].iter().copied()) } else { ty.clone() };
                inner[k] = Some(body.input(format!("x{k}"), ty, origin));
                operands.push(v.node);
            }
        }
        let made = body.push(node.op.clone(), inner.into_iter().flatten(), node.ty.clone(), origin);
        body.outputs = match &node.ty {
            NodeTy::Array(_) => vec![made],
            NodeTy::Tuple(types) => (0..types.len()).map(|k| body.result(made, k, origin)).collect(),
        };
        let scanned = x.iter().filter(|v| v.batched).count();
        let op = LoopOp { trip: Some(self.size), reverse: false, carried: 0, scanned, guard: None, body: Arc::new(body) };
        self.g.loop_results(op, &operands, origin).into_iter().map(|node| Val { node, batched: true }).collect()
    }
}

/// The type with a leading axis of the batch.
fn with_batch(ty: &Ty, size: usize) -> Ty {
    Ty::new(ty.dtype, std::iter::once(size).chain(ty.shape.iter().copied()))
}
