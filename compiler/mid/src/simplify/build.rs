//! The graph under construction: every new node is looked at by the rules before it is pushed.

use super::control::Mapped;
use super::pattern::Emit;
use super::{Config, Exactness, algebra, indexing, movement, products, reductions};
use optc_abi::Tensor;
use optc_ir::graph::{Axes, DotDims, Graph, NodeId, NodeTy, Op, Origin, ReduceOp, Ty};
use optc_ir::infer::infer;
use optc_ir::scalar::ScalarOp;
use rustc_hash::{FxHashMap, FxHasher};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What all graphs of one simplification share.
pub struct Context {
    /// What is allowed.
    pub config: Config,
    /// Simplified sub-graphs by the address of the original, which is kept alive beside them.
    done: FxHashMap<usize, (Arc<Graph>, Arc<Graph>)>,
    /// One copy of each different sub-graph, so that equal loops are equal nodes.
    unique: FxHashMap<u64, Vec<Arc<Graph>>>,
}

impl Context {
    /// Nothing done yet.
    pub fn new(config: Config) -> Context {
        Context { config, done: FxHashMap::default(), unique: FxHashMap::default() }
    }
    /// The simplified form of a sub-graph.
    pub fn sub_graph(&mut self, graph: &Arc<Graph>) -> Arc<Graph> {
        let key = Arc::as_ptr(graph) as usize;
        if let Some((_, done)) = self.done.get(&key) {
            return done.clone();
        }
        let simple = super::simplify_in((**graph).clone(), self);
        let simple = self.intern(simple);
        self.done.insert(key, (graph.clone(), simple.clone()));
        self.done.insert(Arc::as_ptr(&simple) as usize, (simple.clone(), simple.clone()));
        simple
    }
    /// The one copy of this graph.
    pub fn intern(&mut self, graph: Graph) -> Arc<Graph> {
        let mut hasher = FxHasher::default();
        for id in graph.ids() {
            graph.node(id).hash(&mut hasher);
        }
        graph.outputs.hash(&mut hasher);
        let same = self.unique.entry(hasher.finish()).or_default();
        match same.iter().find(|g| optc_ir::text::same_graph(g, &graph)) {
            Some(known) => known.clone(),
            None => {
                let new = Arc::new(graph);
                same.push(new.clone());
                new
            }
        }
    }
}

/// Rules make nodes that go through the rules again; this deep at most.
const MAX_DEPTH: usize = 48;

/// A graph under construction.
pub struct Builder<'a> {
    /// The graph so far.
    pub out: Graph,
    /// Shared state.
    pub context: &'a mut Context,
    /// How often a node is used, where known (by place; 0 is unknown).
    pub uses: Vec<u32>,
    depth: usize,
}

/// A rule on a node about to be made: the node to use instead, or nothing.
pub type Step = fn(&mut Builder, &Op, &[NodeId], &Ty, Origin) -> Option<NodeId>;

/// A rule that is a function.
pub struct Move {
    /// What it is called.
    pub name: &'static str,
    /// How exact it is.
    pub exactness: Exactness,
    /// What it does.
    pub step: Step,
}

impl<'a> Builder<'a> {
    /// An empty graph that will hold about as much as `source`.
    pub fn new(context: &'a mut Context, source: &Graph) -> Self {
        Builder { out: Graph::new(), context, uses: Vec::with_capacity(source.len()), depth: 0 }
    }
    /// Whether rules of this class apply.
    pub fn allows(&self, exactness: Exactness) -> bool {
        exactness <= self.context.config.exactness
    }
    /// The type of a node.
    pub fn ty(&self, id: NodeId) -> &Ty {
        self.out.ty(id)
    }
    /// The operation of a node.
    pub fn op_of(&self, id: NodeId) -> &Op {
        &self.out.node(id).op
    }
    /// The first operand of a node.
    pub fn operand(&self, id: NodeId) -> NodeId {
        self.out.node(id).operands[0]
    }
    /// Notes users a node has in the source graph.
    pub fn add_uses(&mut self, id: NodeId, uses: u32) {
        if self.uses.len() <= id.index() {
            self.uses.resize(id.index() + 1, 0);
        }
        self.uses[id.index()] += uses;
    }
    /// Whether at most one user of the node is known.
    pub fn single_use(&self, id: NodeId) -> bool {
        self.uses.get(id.index()).is_none_or(|&n| n <= 1)
    }

    /// Makes an array node of the stated type, in its simplest form.
    pub fn make(&mut self, op: Op, operands: &[NodeId], ty: Ty, origin: Origin) -> NodeId {
        if self.depth < MAX_DEPTH {
            self.depth += 1;
            let better = self.improve(&op, operands, &ty, origin);
            self.depth -= 1;
            if let Some(id) = better {
                debug_assert_eq!(*self.ty(id), ty, "a rule changed the type of {op:?}");
                return id;
            }
        }
        self.out.push(op, operands.iter().copied(), NodeTy::Array(ty), origin)
    }

    fn improve(&mut self, op: &Op, operands: &[NodeId], ty: &Ty, origin: Origin) -> Option<NodeId> {
        let moves: &[&[Move]] = match op {
            Op::Map(_) | Op::Cast => &[algebra::MOVES],
            Op::Reduce { .. } | Op::ArgReduce { .. } | Op::Scan { .. } => &[reductions::MOVES],
            Op::Dot(_) => &[products::MOVES],
            Op::StopGradient => return Some(operands[0]),
            Op::Input { .. }
            | Op::Swap
            | Op::Conv { .. }
            | Op::Lib(_)
            | Op::Callback { .. }
            | Op::AllReduce
            | Op::Result { .. }
            | Op::Loop(_)
            | Op::Cond { .. }
            | Op::Call(_) => {
                return None;
            }
            Op::Gather { .. } | Op::Scatter { .. } => &[movement::MOVES, indexing::MOVES],
            _ => &[movement::MOVES],
        };
        for rule in moves.iter().copied().flatten() {
            if self.allows(rule.exactness)
                && let Some(id) = (rule.step)(self, op, operands, ty, origin)
            {
                return Some(id);
            }
        }
        None
    }

    /// Makes a node whose type follows from its operands.
    pub fn infer(&mut self, op: Op, operands: &[NodeId], origin: Origin) -> NodeId {
        let types: Vec<&NodeTy> = operands.iter().map(|&o| &self.out.node(o).ty).collect();
        match infer(&op, &types, None) {
            Ok(NodeTy::Array(ty)) => self.make(op, operands, ty, origin),
            Ok(NodeTy::Tuple(_)) => panic!("compiler bug: {op:?} gives a tuple"),
            Err(message) => panic!("compiler bug: {message}"),
        }
    }
    /// An elementwise operation.
    pub fn map(&mut self, op: ScalarOp, operands: &[NodeId], origin: Origin) -> NodeId {
        self.infer(Op::Map(op), operands, origin)
    }
    /// A literal; one of equal elements becomes a broadcast scalar.
    pub fn constant(&mut self, value: Arc<Tensor>, origin: Origin) -> NodeId {
        let width = value.dtype.size();
        let uniform =
            !value.shape.is_empty() && !value.is_empty() && value.bytes().chunks_exact(width).all(|e| *e == value.bytes()[..width]);
        if uniform {
            let mut scalar = Tensor::zeros(value.dtype, &[]);
            scalar.bytes_mut().copy_from_slice(&value.bytes()[..width]);
            let scalar = self.out.constant(scalar, origin);
            return self.out.broadcast(scalar, &[], &value.shape, origin);
        }
        let ty = Ty::new(value.dtype, value.shape.iter().copied());
        self.out.push(Op::Const(value), [], NodeTy::Array(ty), origin)
    }
    /// An array of equal elements.
    pub fn splat(&mut self, ty: &Ty, value: f64, origin: Origin) -> NodeId {
        self.out.splat(ty, value, origin)
    }
    /// The same elements under another shape.
    pub fn reshape(&mut self, x: NodeId, shape: &[usize], origin: Origin) -> NodeId {
        let ty = Ty::new(self.ty(x).dtype, shape.iter().copied());
        self.make(Op::Reshape, &[x], ty, origin)
    }
    /// A broadcast.
    pub fn broadcast(&mut self, x: NodeId, dims: &[usize], shape: &[usize], origin: Origin) -> NodeId {
        let ty = Ty::new(self.ty(x).dtype, shape.iter().copied());
        self.make(Op::Broadcast { dims: dims.into() }, &[x], ty, origin)
    }
    /// A permutation.
    pub fn permute(&mut self, x: NodeId, perm: &[usize], origin: Origin) -> NodeId {
        self.infer(Op::Permute { perm: perm.into() }, &[x], origin)
    }
    /// A reduction.
    pub fn reduce(&mut self, kind: ReduceOp, x: NodeId, axes: &[usize], origin: Origin) -> NodeId {
        if axes.is_empty() {
            return x;
        }
        let mut axes: Axes = axes.into();
        axes.sort_unstable();
        self.infer(Op::Reduce { kind, axes }, &[x], origin)
    }
    /// A slice.
    pub fn slice(&mut self, x: NodeId, start: &[usize], stop: &[usize], step: &[usize], origin: Origin) -> NodeId {
        self.infer(Op::Slice { start: start.into(), stop: stop.into(), step: step.into() }, &[x], origin)
    }
    /// A pad.
    pub fn pad(&mut self, x: NodeId, value: NodeId, lo: &[usize], hi: &[usize], interior: &[usize], origin: Origin) -> NodeId {
        self.infer(Op::Pad { lo: lo.into(), hi: hi.into(), interior: interior.into() }, &[x, value], origin)
    }
    /// A join.
    pub fn concat(&mut self, parts: &[NodeId], axis: usize, origin: Origin) -> NodeId {
        self.infer(Op::Concat { axis }, parts, origin)
    }
    /// A matrix product.
    pub fn dot(&mut self, a: NodeId, b: NodeId, dims: DotDims, origin: Origin) -> NodeId {
        self.infer(Op::Dot(dims), &[a, b], origin)
    }

    /// What a node of the source becomes.
    pub fn remake(&mut self, op: &Op, operands: &[NodeId], ty: &NodeTy, origin: Origin) -> Mapped {
        match (op, ty) {
            (Op::Const(t), _) => Mapped::One(self.constant(t.clone(), origin)),
            (op, NodeTy::Array(ty)) => Mapped::One(self.make(op.clone(), operands, ty.clone(), origin)),
            (Op::Lib(_) | Op::Callback { .. } | Op::AllReduce, NodeTy::Tuple(types)) => {
                let tuple = self.out.push(op.clone(), operands.iter().copied(), ty.clone(), origin);
                Mapped::Many((0..types.len()).map(|k| Some(self.out.result(tuple, k, origin))).collect())
            }
            (op, NodeTy::Tuple(_)) => panic!("compiler bug: {op:?} is no array operation"),
        }
    }
}

impl Emit for Builder<'_> {
    fn emit_map(&mut self, op: ScalarOp, operands: &[NodeId], origin: Origin) -> NodeId {
        self.map(op, operands, origin)
    }
    fn emit_splat(&mut self, ty: &Ty, value: f64, origin: Origin) -> NodeId {
        self.splat(ty, value, origin)
    }
}
