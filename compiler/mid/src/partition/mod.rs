//! A graph for several devices that each work on a part of a batch: what all of them together compute is what the original computes.
//!
//! Of every array it is known how it lies: whole on each device, the same bits ([`Layout::Replicated`]); its rows along an axis shared out, device `k` holding the `k`-th
//! of equal parts ([`Layout::Split`]); or each device holding an array of its shape of which all together are the sum ([`Layout::Partial`]).
//! Rules (`rules.rs`, `control.rs`) carry this through the operations: a sum along a split axis, or a product contracted over one, is partial; what is linear in a
//! partial array is partial; where a whole array is needed of a partial one, devices add up ([`Op::AllReduce`]), and where one is needed of a split one, each adds its
//! rows to zeros, bit by bit. An operation without a rule for what it is given works on whole arrays, on every device. So any graph has a partition, and nothing in it
//! depends on the number of devices but the order of sums.
//!
//! At the end sums that do not wait for each other are one operation (`bundle.rs`).

mod bundle;
mod control;
mod rows;
mod rules;
#[cfg(test)]
mod tests;

use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::{Graph, NodeId, Op, Origin, Ty};
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

/// How an array lies on the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The same on each.
    Replicated,
    /// Equal parts along an axis.
    Split(usize),
    /// The sum of what they hold.
    Partial,
}

/// What devices have to tell each other of an array beside sums that make a result of theirs whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// The operation that needs all of it, on every device.
    pub origin: Origin,
    /// Bytes of the whole array.
    pub bytes: usize,
}

/// A graph for each of several devices.
#[derive(Clone, Debug)]
pub struct Partitioned {
    /// Inputs are those of the original, the split ones a part of theirs; the last one, `rank`, is the number of the device (i32). Outputs are those of the original,
    /// whole, the same on all devices.
    pub graph: Graph,
    /// Arrays that were split and are put together in between.
    pub gathered: Vec<Gathered>,
}

/// The form of a graph for `parts` devices. `inputs`: the axis along which an input is split, for those that are; its extent is a multiple of `parts`.
pub fn partition(f: &Graph, inputs: &[Option<usize>], parts: usize) -> Partitioned {
    assert_eq!(f.inputs.len(), inputs.len(), "compiler bug: number of axes of a partitioned graph");
    let layouts: Vec<Layout> = inputs.iter().map(|axis| axis.map_or(Layout::Replicated, Layout::Split)).collect();
    let wanted = vec![Some(Layout::Replicated); f.outputs.len()];
    let made = body(f, &layouts, parts, &wanted);
    Partitioned { graph: made.graph, gathered: made.gathered }
}

/// A value of the original in the graph of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Val {
    node: NodeId,
    layout: Layout,
}

/// A graph with the number of the device as one more input.
struct Body {
    graph: Graph,
    /// Of its outputs.
    layouts: Vec<Layout>,
    gathered: Vec<Gathered>,
}

/// The form of a graph whose inputs lie so, with outputs as wanted, or as they come.
fn body(f: &Graph, inputs: &[Layout], parts: usize, wanted: &[Option<Layout>]) -> Body {
    let mut g = Graph::new();
    let args: Vec<Val> = f
        .inputs
        .iter()
        .zip(inputs)
        .map(|(input, &layout)| {
            let ty = part(f.ty(input.node), layout, parts);
            Val { node: g.input(input.name.clone(), ty, f.origin(input.node)), layout }
        })
        .collect();
    let rank = g.input("rank", Ty::scalar(DType::I32), Origin::default());
    let live = f.live();
    let mut uses = vec![0u32; f.len()];
    for id in f.ids().filter(|id| live[id.index()]) {
        f.node(id).operands.iter().for_each(|o| uses[o.index()] += 1);
    }
    f.outputs.iter().for_each(|o| uses[o.index()] += 1);
    let mut p = Partitioner {
        g,
        parts,
        rank,
        values: vec![SmallVec::new(); f.len()],
        whole: FxHashMap::default(),
        rows: FxHashMap::default(),
        gathered: Vec::new(),
    };
    for id in f.ids() {
        if let Op::Input { index } = f.node(id).op {
            p.values[id.index()] = smallvec![args[index as usize]];
        } else if live[id.index()] {
            p.node(f, id);
            // A sum that several need is added up once; one that is on its way to a single place may become part of another first.
            let several = uses[id.index()] > 1;
            if let [v @ Val { layout: Layout::Partial, .. }] = p.values[id.index()][..]
                && several
            {
                let node = p.replicated(v, f.origin(id));
                p.values[id.index()] = smallvec![Val { node, layout: Layout::Replicated }];
            }
        }
    }
    let mut layouts = Vec::with_capacity(f.outputs.len());
    for (out, wanted) in f.outputs.iter().zip(wanted) {
        let mut v = p.values[out.index()][0];
        if let Some(layout) = *wanted {
            v = p.as_wanted(v, layout, f.origin(*out));
        }
        p.g.outputs.push(v.node);
        layouts.push(v.layout);
    }
    Body { graph: bundle::bundle(&p.g), layouts, gathered: p.gathered }
}

/// The type of what a device holds of an array.
fn part(ty: &Ty, layout: Layout, parts: usize) -> Ty {
    let mut ty = ty.clone();
    if let Layout::Split(axis) = layout {
        assert!(ty.shape[axis].is_multiple_of(parts), "compiler bug: {ty} in {parts} parts");
        ty.shape[axis] /= parts;
    }
    ty
}

/// The state of one partition. Values are listed per result of each node of the original.
struct Partitioner {
    g: Graph,
    parts: usize,
    /// The number of the device.
    rank: NodeId,
    values: Vec<SmallVec<[Val; 1]>>,
    /// Whole arrays of those that are not.
    whole: FxHashMap<(NodeId, Layout), NodeId>,
    /// Own rows of whole arrays, by axis.
    rows: FxHashMap<(NodeId, usize), NodeId>,
    gathered: Vec<Gathered>,
}

impl Partitioner {
    fn node(&mut self, f: &Graph, id: NodeId) {
        let (node, origin) = (f.node(id), f.origin(id));
        if let Op::Result { index } = node.op {
            self.values[id.index()] = smallvec![self.values[node.operands[0].index()][index]];
            return;
        }
        let x: Vec<Val> = node.operands.iter().map(|o| self.values[o.index()][0]).collect();
        self.values[id.index()] = match &node.op {
            Op::Loop(l) => self.loop_node(l, &x, origin).into(),
            Op::Cond { then, otherwise } => self.cond_node(then, otherwise, &x, origin).into(),
            Op::Callback { .. } => self.callback_node(node, &x, origin).into(),
            Op::Call(_) | Op::StopGradient | Op::Attention(_) | Op::AllReduce => {
                panic!("compiler bug: {:?} in a graph that is partitioned", node.op)
            }
            Op::Lib(_) => self.library_node(node, &x, origin).into(),
            _ => smallvec![self.array(node, &x, origin)],
        };
    }

    /// The sum of what the devices hold.
    fn all_reduce(&mut self, node: NodeId, origin: Origin) -> NodeId {
        let tuple = self.g.op(Op::AllReduce, &[node], origin);
        self.g.result(tuple, 0, origin)
    }

    /// The whole array, the same on each device.
    fn replicated(&mut self, v: Val, origin: Origin) -> NodeId {
        if v.layout == Layout::Replicated {
            return v.node;
        }
        if let Some(&known) = self.whole.get(&(v.node, v.layout)) {
            return known;
        }
        let whole = match v.layout {
            Layout::Split(axis) => self.gather(v.node, axis, origin),
            _ => {
                // Types that are not added up, or not without rounding, go as ones that are.
                let ty = self.g.ty(v.node).clone();
                let wide = match ty.dtype {
                    DType::BF16 | DType::F16 => DType::F32,
                    other => other,
                };
                let node = self.g.cast(v.node, wide, origin);
                let sum = self.all_reduce(node, origin);
                self.g.cast(sum, ty.dtype, origin)
            }
        };
        self.whole.insert((v.node, v.layout), whole);
        whole
    }

    /// A split array put together: each device adds its rows to zeros. As integers, so that all bits come through.
    fn gather(&mut self, node: NodeId, axis: usize, o: Origin) -> NodeId {
        let own = self.g.ty(node).clone();
        let (node, carrier) = match own.dtype {
            DType::F32 => (self.g.op_as(Op::Bitcast, &[node], own.with_dtype(DType::U32), o), DType::U32),
            DType::F64 => (self.g.op_as(Op::Bitcast, &[node], own.with_dtype(DType::I64), o), DType::I64),
            DType::BF16 | DType::F16 => {
                let wide = self.g.cast(node, DType::F32, o);
                (self.g.op_as(Op::Bitcast, &[wide], own.with_dtype(DType::U32), o), DType::U32)
            }
            DType::Bool | DType::U8 => (self.g.cast(node, DType::I32, o), DType::I32),
            DType::I32 | DType::I64 | DType::U32 => (node, own.dtype),
        };
        // A new axis of the devices before the split one.
        let mut shape = own.shape.clone();
        shape.insert(axis, self.parts);
        let dims: Vec<usize> = (0..own.rank()).map(|i| if i < axis { i } else { i + 1 }).collect();
        let spread = self.g.broadcast(node, &dims, &shape, o);
        let place = self.g.iota(DType::I32, &shape, axis, o);
        let rank = self.g.broadcast(self.rank, &[], &shape, o);
        let mine = self.g.map(ScalarOp::Eq, &[place, rank], o);
        let zeros = self.g.splat(&Ty::new(carrier, shape.iter().copied()), 0.0, o);
        let placed = self.g.map(ScalarOp::Select, &[mine, spread, zeros], o);
        let mut whole = own.clone();
        whole.shape[axis] *= self.parts;
        self.gathered.push(Gathered { origin: o, bytes: whole.len() * own.dtype.size() });
        let placed = self.g.reshape(placed, &whole.shape, o);
        let sum = self.all_reduce(placed, o);
        match own.dtype {
            DType::F32 | DType::F64 => self.g.op_as(Op::Bitcast, &[sum], whole, o),
            DType::BF16 | DType::F16 => {
                let wide = self.g.op_as(Op::Bitcast, &[sum], whole.with_dtype(DType::F32), o);
                self.g.cast(wide, own.dtype, o)
            }
            other => self.g.cast(sum, other, o),
        }
    }

    /// The array in another layout.
    fn as_wanted(&mut self, v: Val, layout: Layout, o: Origin) -> Val {
        if v.layout == layout {
            return v;
        }
        let node = match layout {
            Layout::Partial if self.is_zero(v) => v.node,
            Layout::Partial => {
                // The first device holds all of it.
                let whole = self.replicated(v, o);
                let ty = self.g.ty(whole).clone();
                let first = self.g.scalar(DType::I32, 0.0, o);
                let is_first = self.g.map(ScalarOp::Eq, &[self.rank, first], o);
                let is_first = self.g.broadcast(is_first, &[], &ty.shape, o);
                let zeros = self.g.splat(&ty, 0.0, o);
                self.g.map(ScalarOp::Select, &[is_first, whole, zeros], o)
            }
            Layout::Replicated => self.replicated(v, o),
            Layout::Split(axis) => {
                let whole = self.replicated(v, o);
                self.own_rows(whole, axis, o)
            }
        };
        Val { node, layout }
    }

    /// Whether all elements are known to be zero: such an array is whole and partial at the same time.
    fn is_zero(&self, v: Val) -> bool {
        let mut node = v.node;
        loop {
            let n = self.g.node(node);
            match &n.op {
                Op::Const(t) => return v.layout == Layout::Replicated && t.bytes().iter().all(|b| *b == 0),
                Op::Broadcast { .. } | Op::Reshape | Op::Permute { .. } | Op::Slice { .. } => node = n.operands[0],
                _ => return false,
            }
        }
    }
}
