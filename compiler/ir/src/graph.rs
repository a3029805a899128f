//! The graph IR: a pure dataflow graph of array operations with concrete shapes.
//!
//! Invariants (checked by the verifier): operands come before their users; every node's type follows from its operation and operands;
//! sub-graphs refer to nothing outside themselves; `Input` nodes appear in `Graph::inputs` at their own index.

use optc_abi::plan::ConvDims;
use optc_abi::{DType, Tensor};
use optc_base::{Id, IdVec, Span};
use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use crate::scalar::ScalarOp;
pub use optc_abi::plan::{Attention, AttentionKind, ConvKind, LibCall};

/// A node of one graph.
pub type NodeId = Id<Node>;
/// Extents, outermost first.
pub type Shape = SmallVec<[usize; 4]>;
/// Axis numbers.
pub type Axes = SmallVec<[usize; 4]>;

/// Element type and extents of an array.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Ty {
    /// Element type.
    pub dtype: DType,
    /// Extents; empty for a scalar.
    pub shape: Shape,
}

impl Ty {
    /// The type `dtype[shape]`.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = usize>) -> Ty {
        Ty { dtype, shape: shape.into_iter().collect() }
    }
    /// A scalar type.
    pub fn scalar(dtype: DType) -> Ty {
        Ty { dtype, shape: Shape::new() }
    }
    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The same extents with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Ty {
        Ty { dtype, shape: self.shape.clone() }
    }
}

impl fmt::Debug for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dtype)?;
        if !self.shape.is_empty() {
            let dims: Vec<String> = self.shape.iter().map(|d| d.to_string()).collect();
            write!(f, "[{}]", dims.join(", "))?;
        }
        Ok(())
    }
}

/// What a node yields.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeTy {
    /// One array.
    Array(Ty),
    /// Several arrays, taken apart by [`Op::Result`].
    Tuple(Vec<Ty>),
}

/// How a reduction combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReduceOp {
    /// Sum; 0 for no elements. Floats narrower than f32 accumulate in f32, f32 in f32, f64 in f64, integers wrap.
    Sum,
    /// Product; 1 for no elements.
    Prod,
    /// Largest; NaN if any is NaN.
    Max,
    /// Smallest; NaN if any is NaN.
    Min,
    /// Logical and, of bools.
    And,
    /// Logical or, of bools.
    Or,
}

/// Axis pairing of a general matrix product.
///
/// The result's axes are: batch axes, then the other axes of the left operand in order, then those of the right operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct DotDims {
    /// Batch axes of the left operand.
    pub lhs_batch: Axes,
    /// Batch axes of the right operand, paired with `lhs_batch`.
    pub rhs_batch: Axes,
    /// Contracted axes of the left operand.
    pub lhs_contract: Axes,
    /// Contracted axes of the right operand, paired with `lhs_contract`.
    pub rhs_contract: Axes,
}

/// Combination of a scatter with what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScatterMode {
    /// Add, in the order of the indices.
    Add,
    /// Overwrite; the last index wins.
    Set,
}

/// What is known of a loop that ends by a carried flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The most passes it makes, if that is known: reverse mode needs it.
    pub most: Option<usize>,
}

/// A counted loop.
///
/// Operands: `[trip if run-time (i32 scalar)]`, carried initial values, scanned arrays, invariants.
/// Body inputs: pass counter (i32 scalar), carried, one slice of each scanned array (its leading axis removed), invariants.
/// Body outputs: carried, then one slice of each stacked result. Results: carried, stacked (leading axis `trip`).
/// With `reverse` the counter runs from `trip - 1` down to 0; slices are taken and stacked at the counter.
/// With a `guard` the trip count is run-time and only a limit: the first carried value is a bool scalar, looked at before each pass, and the
/// loop ends where it is false.
#[derive(Clone, Debug)]
pub struct LoopOp {
    /// Number of passes if known; a run-time count allows neither scanned nor stacked arrays.
    pub trip: Option<usize>,
    /// Last pass first.
    pub reverse: bool,
    /// Number of carried values.
    pub carried: usize,
    /// Number of scanned arrays.
    pub scanned: usize,
    /// Ends the loop by its first carried value.
    pub guard: Option<Guard>,
    /// The body.
    pub body: Arc<Graph>,
}

/// The name of a call without a rule of its own whose intermediate values reach the backward pass through [`Op::Swap`].
pub const SWAPPED: &str = "swapped";

/// A function kept whole until differentiation has seen its own rule; inlined afterwards.
#[derive(Clone, Debug)]
pub struct CallOp {
    /// Name, for messages.
    pub name: String,
    /// The function: inputs are the operands, outputs the results.
    pub body: Arc<Graph>,
    /// Its reverse rule: inputs are operands, results, cotangents of the results; outputs one cotangent per operand (zeros where none).
    pub vjp: Option<Arc<Graph>>,
}

/// Attention or its derivatives, made of several operations when a device has a kernel for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttentionOp {
    /// Which, and its extents.
    pub what: Attention,
    /// For each result: its axis `i` is axis `turned[i]` of batch, rows and columns.
    pub turned: Vec<Axes>,
}

/// An operation. Shapes stand in the node's type; operands in the node.
#[derive(Clone, Debug)]
pub enum Op {
    /// The graph's input with this index.
    Input {
        /// Position in `Graph::inputs`.
        index: u32,
    },
    /// A literal array.
    Const(Arc<Tensor>),
    /// The index along `axis`, as the node's integer type.
    Iota {
        /// Which axis counts.
        axis: usize,
    },
    /// Elementwise; operands have the same shape.
    Map(ScalarOp),
    /// Conversion to the node's element type (float to int truncates and saturates, NaN gives 0; to bool is `!= 0`).
    Cast,
    /// The same bits as the node's element type, of equal size.
    Bitcast,
    /// Combines along axes, which vanish.
    Reduce {
        /// How.
        kind: ReduceOp,
        /// Which axes, ascending.
        axes: Axes,
    },
    /// i32 index of the first largest (smallest) element along an axis, which vanishes; the first NaN counts as largest and smallest.
    ArgReduce {
        /// Largest or smallest.
        max: bool,
        /// Which axis.
        axis: usize,
    },
    /// Running combination along an axis (cumsum, cumprod, …), inclusive; from the end if `reverse`.
    Scan {
        /// How.
        kind: ReduceOp,
        /// Which axis.
        axis: usize,
        /// From the last element.
        reverse: bool,
    },
    /// General matrix product of two operands of one float type.
    Dot(DotDims),
    /// Attention or its derivatives; operands as [`Attention::operands`] lists them, each behind the batch's axes. Yields a tuple.
    Attention(Arc<AttentionOp>),
    /// Convolution or one of its two transposes; operands and layout as in [`ConvDims`].
    Conv {
        /// Which map.
        kind: ConvKind,
        /// Geometry of the forward map.
        dims: ConvDims,
    },
    /// The same elements in row-major order under the node's shape.
    Reshape,
    /// Operand axis `i` becomes result axis `dims[i]` (ascending); extents are equal, or 1 in the operand; other result axes repeat.
    Broadcast {
        /// Where operand axes go.
        dims: Axes,
    },
    /// Result axis `i` is operand axis `perm[i]`.
    Permute {
        /// Source axes.
        perm: Axes,
    },
    /// `start, start + step, …` below `stop`, per axis; `step` is at least 1.
    Slice {
        /// First index per axis.
        start: Axes,
        /// End per axis (exclusive).
        stop: Axes,
        /// Step per axis.
        step: Axes,
    },
    /// Surrounds with the second operand (a scalar): `lo` before, `hi` after, `interior` between neighbors, per axis.
    Pad {
        /// Before.
        lo: Axes,
        /// After.
        hi: Axes,
        /// Between neighbors.
        interior: Axes,
    },
    /// Reverses axes.
    Flip {
        /// Which.
        axes: Axes,
    },
    /// Joins operands along an axis.
    Concat {
        /// Which.
        axis: usize,
    },
    /// Sliding windows: axis becomes two, (count, size): element `(i, u)` is operand index `i * stride + u * dilation`.
    Window {
        /// Which axis.
        axis: usize,
        /// Window length.
        size: usize,
        /// Distance of windows.
        stride: usize,
        /// Distance of elements in a window.
        dilation: usize,
    },
    /// Operands x, ids (i32): axis of x replaced by the axes of ids. An index outside the axis is a run-time error.
    Gather {
        /// Which axis of x.
        axis: usize,
    },
    /// Operands x, ids (i32), updates (type of `Gather` of x by ids): x with updates combined in at ids along `axis`.
    Scatter {
        /// Which axis of x.
        axis: usize,
        /// How.
        mode: ScatterMode,
    },
    /// i32 indices that sort along an axis, stable; NaN is the largest value.
    ArgSort {
        /// Which axis.
        axis: usize,
        /// Largest first.
        descending: bool,
    },
    /// Operands: key `u32[2]` and, if words are skipped, how many (`u32` scalar). Result u32 of any shape: element i is word `j % 4` of Philox4x32-10 with that key and
    /// counter `[j / 4 low, j / 4 high, 0, 0]`, where `j = start + skipped + i`.
    RandomBits {
        /// Words of the key's sequence before the first one.
        start: u64,
    },
    /// Operands: key `u32[2]`, number `u32` scalar. Result `u32[2]`, a new key: the first two words of Philox4x32-10 with the key and counter `[number, place, 1, 0]`.
    RandomFold {
        /// Distinguishes places of draws.
        place: u32,
    },
    /// A numerical library call on the last axes of f32 or f64 arrays, batched over the same leading axes of all operands. One with several results
    /// yields a tuple.
    Lib(LibCall),
    /// A function of whoever runs the program; yields a tuple. Of the same operands it gives the same results, so that equal calls are one, but each costs much and none is made that need
    /// not be.
    Callback {
        /// Which, as the program's owner numbers them.
        function: u32,
        /// What it gives.
        results: Arc<[Ty]>,
    },
    /// Sums over all devices that run the program, element by element: of every operand the one that each of them has computed. Yields a tuple of the operands'
    /// types, the same on all devices. Integers wrap.
    AllReduce,
    /// A counted loop.
    Loop(LoopOp),
    /// Operands: bool scalar, arguments. Both graphs take the arguments and give results of the same types.
    Cond {
        /// If true.
        then: Arc<Graph>,
        /// If false.
        otherwise: Arc<Graph>,
    },
    /// A function with its own derivative.
    Call(CallOp),
    /// One result of a tuple node.
    Result {
        /// Which.
        index: usize,
    },
    /// The operand; derivatives do not pass.
    StopGradient,
    /// The operand, for use much later: it may live outside of memory until then.
    Swap,
}

/// Where a node comes from. Kept beside the graph, never part of a node's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Spec text that asked for it.
    pub span: Span,
    /// Pass or construct that made it from there ("" when lowered directly, "grad" for a derivative, …).
    pub via: &'static str,
}

/// One operation applied to operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// What.
    pub op: Op,
    /// On what; all come before this node.
    pub operands: SmallVec<[NodeId; 3]>,
    /// Result type.
    pub ty: NodeTy,
}

/// Named input of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its node.
    pub node: NodeId,
    /// Its name, for messages and text.
    pub name: String,
}

/// A dataflow graph. Nodes are hash-consed: pushing an equal node returns the earlier one.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: IdVec<Node, Node>,
    origins: IdVec<Node, Origin>,
    /// Nodes by their hash. Kept so, none is stored twice, and copies of a graph are cheap.
    cons: FxHashMap<u64, SmallVec<[NodeId; 2]>>,
    /// Inputs in order.
    pub inputs: Vec<Input>,
    /// Results in order.
    pub outputs: Vec<NodeId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Graph::default()
    }
    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, ty: Ty, origin: Origin) -> NodeId {
        let op = Op::Input { index: self.inputs.len() as u32 };
        let node = self.nodes.push(Node { op, operands: SmallVec::new(), ty: NodeTy::Array(ty) });
        self.origins.push(origin);
        self.inputs.push(Input { node, name: name.into() });
        node
    }
    /// Adds a node, or finds an equal one. The type is the caller's claim; the verifier and `debug_assert`s check it.
    pub fn push(&mut self, op: Op, operands: impl IntoIterator<Item = NodeId>, ty: NodeTy, origin: Origin) -> NodeId {
        let node = Node { op, operands: operands.into_iter().collect(), ty };
        let alike = self.cons.entry(FxBuildHasher.hash_one(&node)).or_default();
        if let Some(&id) = alike.iter().find(|&&id| self.nodes[id] == node) {
            return id;
        }
        let id = self.nodes.push(node);
        self.origins.push(origin);
        alike.push(id);
        id
    }
    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }
    /// Its origin.
    pub fn origin(&self, id: NodeId) -> Origin {
        self.origins[id]
    }
    /// Its array type. Panics for a tuple (a compiler bug).
    pub fn ty(&self, id: NodeId) -> &Ty {
        match &self.nodes[id].ty {
            NodeTy::Array(ty) => ty,
            NodeTy::Tuple(_) => panic!("compiler bug: node {id:?} is a tuple, not an array"),
        }
    }
    /// Ids in order; operands come first.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        self.nodes.ids()
    }
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Whether it has no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// For each node, the nodes that use it (with repetition), in order.
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.len()];
        for (id, node) in self.nodes.iter() {
            for operand in &node.operands {
                users[operand.index()].push(id);
            }
        }
        users
    }
    /// For each node, whether an output depends on it (inputs are not kept alive by themselves).
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.len()];
        for output in &self.outputs {
            live[output.index()] = true;
        }
        for id in self.ids().rev() {
            if live[id.index()] {
                for operand in &self.nodes[id].operands {
                    live[operand.index()] = true;
                }
            }
        }
        live
    }
    /// The same graph for petgraph's algorithms and DOT writer: node weights are ids, edge weights operand positions.
    pub fn to_petgraph(&self) -> petgraph::graph::DiGraph<NodeId, usize> {
        let mut out = petgraph::graph::DiGraph::with_capacity(self.len(), self.len() * 2);
        let index: Vec<_> = self.ids().map(|id| out.add_node(id)).collect();
        for (id, node) in self.nodes.iter() {
            for (position, operand) in node.operands.iter().enumerate() {
                out.add_edge(index[operand.index()], index[id.index()], position);
            }
        }
        out
    }
}

// Sub-graphs are equal when they are the same object: comparing them structurally on every push would be quadratic.
impl PartialEq for Op {
    fn eq(&self, other: &Self) -> bool {
        use Op::*;
        match (self, other) {
            (Input { index: a }, Input { index: b }) => a == b,
            (Const(a), Const(b)) => a == b,
            (Iota { axis: a }, Iota { axis: b }) => a == b,
            (Map(a), Map(b)) => a == b,
            (Cast, Cast)
            | (Bitcast, Bitcast)
            | (Reshape, Reshape)
            | (StopGradient, StopGradient)
            | (Swap, Swap)
            | (AllReduce, AllReduce) => true,
            (RandomBits { start: a }, RandomBits { start: b }) => a == b,
            (Reduce { kind: a, axes: b }, Reduce { kind: c, axes: d }) => a == c && b == d,
            (ArgReduce { max: a, axis: b }, ArgReduce { max: c, axis: d }) => a == c && b == d,
            (Scan { kind: a, axis: b, reverse: c }, Scan { kind: d, axis: e, reverse: f }) => a == d && b == e && c == f,
            (Dot(a), Dot(b)) => a == b,
            (Attention(a), Attention(b)) => a == b,
            (Conv { kind: a, dims: b }, Conv { kind: c, dims: d }) => a == c && b == d,
            (Broadcast { dims: a }, Broadcast { dims: b }) => a == b,
            (Permute { perm: a }, Permute { perm: b }) => a == b,
            (Slice { start: a, stop: b, step: c }, Slice { start: d, stop: e, step: f }) => a == d && b == e && c == f,
            (Pad { lo: a, hi: b, interior: c }, Pad { lo: d, hi: e, interior: f }) => a == d && b == e && c == f,
            (Flip { axes: a }, Flip { axes: b }) => a == b,
            (Concat { axis: a }, Concat { axis: b }) => a == b,
            (Window { axis: a, size: b, stride: c, dilation: d }, Window { axis: e, size: f, stride: g, dilation: h }) => {
                (a, b, c, d) == (e, f, g, h)
            }
            (Gather { axis: a }, Gather { axis: b }) => a == b,
            (Scatter { axis: a, mode: b }, Scatter { axis: c, mode: d }) => a == c && b == d,
            (ArgSort { axis: a, descending: b }, ArgSort { axis: c, descending: d }) => a == c && b == d,
            (RandomFold { place: a }, RandomFold { place: b }) => a == b,
            (Lib(a), Lib(b)) => a == b,
            (Callback { function: a, results: b }, Callback { function: c, results: d }) => a == c && b == d,
            (Loop(a), Loop(b)) => {
                (a.trip, a.reverse, a.carried, a.scanned, a.guard) == (b.trip, b.reverse, b.carried, b.scanned, b.guard)
                    && Arc::ptr_eq(&a.body, &b.body)
            }
            (Cond { then: a, otherwise: b }, Cond { then: c, otherwise: d }) => Arc::ptr_eq(a, c) && Arc::ptr_eq(b, d),
            (Call(a), Call(b)) => {
                let same = match (&a.vjp, &b.vjp) {
                    (Some(x), Some(y)) => Arc::ptr_eq(x, y),
                    (None, None) => true,
                    _ => false,
                };
                same && Arc::ptr_eq(&a.body, &b.body)
            }
            (Result { index: a }, Result { index: b }) => a == b,
            _ => false,
        }
    }
}
impl Eq for Op {}

impl Hash for Op {
    fn hash<H: Hasher>(&self, state: &mut H) {
        use Op::*;
        std::mem::discriminant(self).hash(state);
        match self {
            Input { index } => index.hash(state),
            Const(t) => t.hash(state),
            Iota { axis } | Concat { axis } | Gather { axis } => axis.hash(state),
            Map(op) => op.hash(state),
            Cast | Bitcast | Reshape | StopGradient | Swap | AllReduce => {}
            RandomBits { start } => start.hash(state),
            Reduce { kind, axes } => (kind, axes).hash(state),
            ArgReduce { max, axis } => (max, axis).hash(state),
            Scan { kind, axis, reverse } => (kind, axis, reverse).hash(state),
            Dot(dims) => dims.hash(state),
            Attention(attention) => attention.hash(state),
            Conv { kind, dims } => (kind, dims).hash(state),
            Broadcast { dims: axes } | Permute { perm: axes } | Flip { axes } => axes.hash(state),
            Slice { start, stop, step } => (start, stop, step).hash(state),
            Pad { lo, hi, interior } => (lo, hi, interior).hash(state),
            Window { axis, size, stride, dilation } => (axis, size, stride, dilation).hash(state),
            Scatter { axis, mode } => (axis, mode).hash(state),
            ArgSort { axis, descending } => (axis, descending).hash(state),
            RandomFold { place } => place.hash(state),
            Lib(call) => call.hash(state),
            Callback { function, results } => (function, results).hash(state),
            Loop(l) => (l.trip, l.reverse, l.carried, l.scanned, l.guard, Arc::as_ptr(&l.body) as usize).hash(state),
            Cond { then, otherwise } => (Arc::as_ptr(then) as usize, Arc::as_ptr(otherwise) as usize).hash(state),
            Call(c) => Arc::as_ptr(&c.body).hash(state),
            Result { index } => index.hash(state),
        }
    }
}
