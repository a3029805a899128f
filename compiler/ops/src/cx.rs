//! The context of operations: check or lower, and the stack of graphs under construction.

use crate::dim::{Dim, Symbol};
use crate::value::{Array, LevelId};
use indexmap::IndexMap;
use optc_abi::DType;
use optc_base::Span;
use optc_ir::{Graph, NodeId, Origin, Ty};
use std::sync::Arc;

struct Level {
    id: LevelId,
    graph: Graph,
    /// Arrays of outer levels used here: their handle, and the input that stands for them.
    captures: IndexMap<(LevelId, NodeId), (Array, NodeId)>,
}

/// What operations append to.
pub struct Cx {
    /// The bottom is the program's graph; the others are bodies of loops, branches and differentiated functions. Empty while checking.
    levels: Vec<Level>,
    emitting: bool,
    next_level: u32,
    next_symbol: u32,
    /// Origin of nodes made from now on.
    pub origin: Origin,
    /// The working precision: the element type of floats that nothing else decides, and what `f32` stands for in the text (`precision f64`).
    pub float: DType,
    /// What is done with draws.
    pub draws: Draws,
}

/// What is done with draws from now on.
#[derive(Clone, Debug, Default)]
pub enum Draws {
    /// They are made.
    #[default]
    Made,
    /// They are made, and where in the key's sequence and of which shape is noted in order.
    Noted(Vec<(usize, Vec<usize>)>),
    /// They are those that the same text makes for a whole batch, or the part of them that belongs to one example.
    OfExample {
        /// What was noted for the whole batch.
        whole: Arc<Vec<(usize, Vec<usize>)>>,
        /// How many were made so far.
        made: usize,
        /// Examples of the batch.
        batch: usize,
        /// The number of the example in it, an i32 scalar.
        example: Array,
    },
}

impl Cx {
    /// A context that only checks.
    pub fn check() -> Cx {
        Cx {
            levels: Vec::new(),
            emitting: false,
            next_level: 0,
            next_symbol: 0,
            origin: Origin::default(),
            float: DType::F32,
            draws: Draws::Made,
        }
    }
    /// A context that lowers into an empty graph.
    pub fn lower() -> Cx {
        let mut cx = Cx { emitting: true, ..Cx::check() };
        cx.push_level();
        cx
    }
    /// Whether nodes are made (and all sizes are known).
    pub fn emitting(&self) -> bool {
        self.emitting
    }
    /// Sets the spec text that nodes made from now on come from.
    pub fn at(&mut self, span: Span) {
        self.origin = Origin { span, via: "" };
    }
    /// The element type that a type written in the text stands for: `f32` is the working precision.
    pub fn written(&self, dtype: DType) -> DType {
        if dtype == DType::F32 { self.float } else { dtype }
    }
    /// The element type of floats that are kept: parameters, buffers and metrics stay f32 where the working precision is narrower.
    pub fn kept(&self) -> DType {
        if matches!(self.float, DType::BF16 | DType::F16) { DType::F32 } else { self.float }
    }
    /// A size nobody knows yet.
    pub fn fresh_symbol(&mut self, name: &str) -> Dim {
        self.next_symbol += 1;
        Dim::symbol(Symbol { name: Arc::from(name), id: self.next_symbol })
    }
    /// Starts a sub-graph (also while checking, where it is only counted).
    pub fn push_level(&mut self) {
        self.next_level += 1;
        self.levels.push(Level { id: LevelId(self.next_level), graph: Graph::new(), captures: IndexMap::new() });
    }
    /// Ends it: its graph, whose last inputs stand for the captured arrays, and those arrays in the same order (handles of outer levels).
    pub fn pop_level(&mut self) -> (Graph, Vec<Array>) {
        let level = self.levels.pop().expect("a level to pop");
        (level.graph, level.captures.into_values().map(|(array, _)| array).collect())
    }
    /// The graph on top of the stack.
    pub fn graph(&mut self) -> &mut Graph {
        &mut self.levels.last_mut().expect("a graph under construction").graph
    }
    /// The graph at the bottom of the stack: the program's own.
    pub fn bottom(&self) -> &Graph {
        &self.levels.first().expect("a graph under construction").graph
    }
    /// The node of an array of the bottom graph; `None` if it stands in a sub-graph.
    pub fn bottom_node(&self, array: &Array) -> Option<NodeId> {
        let (home, node) = array.node?;
        (self.levels.first()?.id == home).then_some(node)
    }
    /// Adds an input to the graph on top. Inputs proper come before anything is captured.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Array {
        let origin = self.origin;
        let node = self.emitting.then(|| {
            let level = self.levels.last_mut().expect("a graph under construction");
            (level.id, level.graph.input(name, Ty::new(dtype, shape.iter().copied()), origin))
        });
        Array { dtype, shape: shape.iter().map(|&n| Dim::from(n)).collect(), weak: false, node }
    }
    /// Adds an input to the graph in which an array stands, which may be one below the graph on top.
    pub fn input_beside(&mut self, array: &Array, name: &str, dtype: DType, shape: &[usize]) -> Array {
        let origin = self.origin;
        let node = array.node.filter(|_| self.emitting).map(|(home, _)| {
            let level = self.levels.iter_mut().find(|l| l.id == home).expect("compiler bug: an array outlived its graph");
            (home, level.graph.input(name, Ty::new(dtype, shape.iter().copied()), origin))
        });
        Array { dtype, shape: shape.iter().map(|&n| Dim::from(n)).collect(), weak: false, node }
    }
    /// The graph on top.
    pub fn top(&self) -> Option<LevelId> {
        self.levels.last().map(|l| l.id)
    }
    /// The handle of a node of the graph on top.
    pub fn array(&self, node: NodeId) -> Array {
        let level = self.levels.last().expect("a graph under construction");
        let ty = level.graph.ty(node);
        Array { dtype: ty.dtype, shape: ty.shape.iter().map(|&n| Dim::from(n)).collect(), weak: false, node: Some((level.id, node)) }
    }
    /// Whether the graph an array stands in is still under construction, so that it can be used in the graph on top.
    pub fn reaches(&self, array: &Array) -> bool {
        array.node.is_none_or(|(home, _)| self.levels.iter().any(|l| l.id == home))
    }
    /// The node of an array in the graph on top; arrays of outer levels become captured inputs of every level between.
    pub fn node(&mut self, array: &Array) -> NodeId {
        let (home, node) = array.node.expect("an array with a node: the context lowers");
        let start = self.levels.iter().position(|l| l.id == home).expect("compiler bug: an array outlived its graph");
        let mut at = (home, node);
        for k in start + 1..self.levels.len() {
            let handle = Array { node: Some(at), ..array.clone() };
            let level = &mut self.levels[k];
            let inner = match level.captures.get(&at) {
                Some(&(_, inner)) => inner,
                None => {
                    let ty = Ty::new(array.dtype, array.shape.iter().map(|d| d.known().expect("sizes are known while lowering") as usize));
                    let inner = level.graph.input(format!("captured.{}", level.captures.len()), ty, self.origin);
                    level.captures.insert(at, (handle, inner));
                    inner
                }
            };
            at = (level.id, inner);
        }
        at.1
    }
}
