//! From the update of some leaves to that of any number of leaves, each of any length and shape.
//!
//! A rule is lowered for leaves of several lengths and ranks at once. What is done for the first must be done for all others, element by element or with all elements combined; what the leaves contribute to
//! must be combined one after the other (`sum(tree.map(…))`, norms over all leaves). Then the part of the first leaf, with the combinations as inputs, is the rule for any leaf: [`Rolled`].

use crate::synthetic::LOSS_MARK;
use optc_abi::{DType, Tensor};
use optc_cranelift::object::Source;
use optc_ir::graph::{NodeId, NodeTy, Op, Origin, ReduceOp, Ty};
use optc_ir::{Graph, ScalarOp};
use rustc_hash::{FxHashMap, FxHashSet};

/// What an input or output of the lowered update is: of which leaf, if of one, and what.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// The leaf.
    pub leaf: Option<usize>,
    /// What it is.
    pub source: Source,
}

/// The update of one leaf among any number.
#[derive(Clone, Debug, Default)]
pub struct Rolled {
    /// Arrays have one axis. Outputs: those that were asked for, then what the leaf contributes to each fold.
    pub graph: Graph,
    /// What the inputs are.
    pub inputs: Vec<Source>,
    /// How many outputs were asked for.
    pub results: usize,
    /// How contributions of leaves are combined, in their order.
    pub folds: Vec<(ScalarOp, DType)>,
}

impl Rolled {
    /// Whether elements of a leaf, or leaves, are combined, or the length of a leaf matters.
    pub fn reduces(&self) -> bool {
        let live = self.graph.live();
        let combines = |id: NodeId| matches!(self.graph.node(id).op, Op::Reduce { .. });
        let length = self.graph.inputs.iter().zip(&self.inputs).any(|(i, s)| *s == Source::Length && live[i.node.index()]);
        !self.folds.is_empty() || length || self.graph.ids().any(|id| live[id.index()] && combines(id))
    }
}

/// Finds the update of one leaf. `shapes` are those of the leaves: different in their number of elements, none of one element, the first with one axis. `outputs` says what the graph's outputs are;
/// those of the first leaf and those of none are the results.
///
/// # Errors
/// What is done that depends on more than the above, in words.
pub fn roll(graph: &Graph, shapes: &[Vec<usize>], inputs: &[Role], outputs: &[Role]) -> Result<Rolled, String> {
    if let Some(why) = beyond(graph) {
        return Err(why.to_string());
    }
    let graph = &plain(graph)?;
    let lengths: Vec<usize> = shapes.iter().map(|s| s.iter().product()).collect();
    let mut roller = Roller {
        graph,
        shapes,
        lengths,
        roles: graph.inputs.iter().zip(inputs).map(|(i, r)| (i.node, *r)).collect(),
        colors: Vec::new(),
        folds: Vec::new(),
        known: FxHashMap::default(),
        constants: FxHashMap::default(),
    };
    roller.color()?;
    roller.compare(outputs)?;
    roller.build(outputs)
}

/// What needs more than generated loops over elements: library calls and matrix products, wherever they stand.
fn beyond(graph: &Graph) -> Option<&'static str> {
    let live = graph.live();
    let mut found = None;
    for id in graph.ids().filter(|id| live[id.index()]) {
        let why = match &graph.node(id).op {
            Op::Lib(_) => Some("it factorizes or transforms matrices"),
            Op::Dot(_) | Op::Conv { .. } => Some("it multiplies matrices"),
            Op::ArgSort { .. } => Some("it sorts"),
            Op::RandomBits { .. } => Some("it draws random numbers"),
            Op::Loop(l) => beyond(&l.body),
            Op::Call(call) => beyond(&call.body),
            Op::Cond { then, otherwise } => beyond(then).or_else(|| beyond(otherwise)),
            _ => None,
        };
        found = found.or(why);
    }
    found
}

/// A graph without conditionals, where both sides are computed and one is taken, and without functions.
fn plain(graph: &Graph) -> Result<Graph, String> {
    let mut out = Graph::new();
    let arguments: Vec<NodeId> =
        graph.inputs.iter().map(|i| out.input(i.name.clone(), graph.ty(i.node).clone(), graph.origin(i.node))).collect();
    out.outputs = inlined(&mut out, graph, &arguments)?;
    Ok(optc_mid::simplify::simplify(out, &optc_mid::simplify::Config::default()))
}

fn inlined(out: &mut Graph, graph: &Graph, arguments: &[NodeId]) -> Result<Vec<NodeId>, String> {
    let live = graph.live();
    let mut map: FxHashMap<NodeId, NodeId> = graph.inputs.iter().zip(arguments).map(|(i, &a)| (i.node, a)).collect();
    let mut tuples: FxHashMap<NodeId, Vec<NodeId>> = FxHashMap::default();
    for id in graph.ids() {
        if !live[id.index()] || map.contains_key(&id) {
            continue;
        }
        let node = graph.node(id);
        let operand = |k: usize| map[&node.operands[k]];
        match &node.op {
            Op::Cond { then, otherwise } => {
                let given: Vec<NodeId> = (1..node.operands.len()).map(operand).collect();
                let pred = operand(0);
                let (a, b) = (inlined(out, then, &given)?, inlined(out, otherwise, &given)?);
                let chosen = a.into_iter().zip(b).map(|(a, b)| {
                    if a == b {
                        return a;
                    }
                    let shape = out.ty(a).shape.clone();
                    let pred = out.broadcast(pred, &[], &shape, Origin::default());
                    out.map(ScalarOp::Select, &[pred, a, b], Origin::default())
                });
                let chosen = chosen.collect();
                tuples.insert(id, chosen);
            }
            Op::Call(call) => {
                let given: Vec<NodeId> = (0..node.operands.len()).map(operand).collect();
                let results = inlined(out, &call.body, &given)?;
                tuples.insert(id, results);
            }
            Op::Result { index } if tuples.contains_key(&node.operands[0]) => {
                map.insert(id, tuples[&node.operands[0]][*index]);
            }
            Op::StopGradient | Op::Swap => {
                map.insert(id, operand(0));
            }
            Op::Loop(_) => return Err("it has a loop at run time".to_string()),
            op => {
                let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o]).collect();
                map.insert(id, out.push(op.clone(), operands, node.ty.clone(), graph.origin(id)));
            }
        }
    }
    Ok(graph.outputs.iter().map(|o| map[o]).collect())
}

/// On what a node depends.
#[derive(Clone, Debug, PartialEq)]
enum Color {
    /// Nothing needs it.
    Dead,
    /// On what all leaves share.
    Shared,
    /// On one leaf, and what all share.
    Leaf(usize),
    /// On the first leaves, whose parts it combines.
    Some(ScalarOp, Vec<NodeId>),
}

struct Roller<'g> {
    graph: &'g Graph,
    shapes: &'g [Vec<usize>],
    lengths: Vec<usize>,
    roles: FxHashMap<NodeId, Role>,
    colors: Vec<Color>,
    /// What is combined over all leaves: its node, how, and the parts.
    folds: Vec<(NodeId, ScalarOp, Vec<NodeId>)>,
    /// Pairs of nodes, of the first leaf and of another, that were compared.
    known: FxHashMap<(NodeId, NodeId), bool>,
    /// Numbers of the first leaf that are others for other leaves.
    constants: FxHashMap<NodeId, Vec<Option<f64>>>,
}

impl Roller<'_> {
    fn length(&self, id: NodeId) -> usize {
        self.graph.ty(id).len()
    }

    /// Finds on which leaves each node depends, and refuses what is neither elementwise nor a combination of all elements.
    fn color(&mut self) -> Result<(), String> {
        let live = self.graph.live();
        for id in self.graph.ids() {
            let color = if live[id.index()] { self.color_of(id)? } else { Color::Dead };
            self.colors.push(color);
        }
        Ok(())
    }

    fn color_of(&mut self, id: NodeId) -> Result<Color, String> {
        let node = self.graph.node(id);
        let length = self.length(id);
        self.allowed(id)?;
        let own = match &node.op {
            Op::Input { .. } => self.roles.get(&id).and_then(|r| r.leaf).map_or(Color::Shared, Color::Leaf),
            _ => {
                let mut own = Color::Shared;
                for operand in &node.operands {
                    own = match (own, &self.colors[operand.index()]) {
                        (own, Color::Shared) => own,
                        (Color::Shared, other) => other.clone(),
                        (Color::Leaf(a), Color::Leaf(b)) if a == *b => Color::Leaf(a),
                        _ => return self.combined(id),
                    };
                }
                own
            }
        };
        match own {
            Color::Some(..) => Err("it uses what some leaves have in common".to_string()),
            Color::Leaf(k) if length > 1 && length != self.lengths[k] => Err(ROWS.to_string()),
            // An array of one shared number has the shape of a leaf.
            Color::Shared if length > 1 => self.lengths.iter().position(|&n| n == length).map(Color::Leaf).ok_or_else(|| ROWS.to_string()),
            own => Ok(own),
        }
    }

    /// A number made of those of several leaves.
    fn combined(&mut self, id: NodeId) -> Result<Color, String> {
        let no = || Err("it combines leaves in another way than one after the other".to_string());
        let node = self.graph.node(id);
        let Op::Map(op) = node.op else { return no() };
        use ScalarOp::{Add, And, Max, Min, Mul, Or};
        let &[a, b] = &*node.operands else { return no() };
        if !matches!(op, Add | Mul | Max | Min | And | Or) || self.length(id) != 1 {
            return no();
        }
        for (first, second) in [(a, b), (b, a)] {
            let mut parts = match &self.colors[first.index()] {
                Color::Leaf(0) => vec![first],
                Color::Some(o, parts) if *o == op => parts.clone(),
                _ => continue,
            };
            if self.colors[second.index()] != Color::Leaf(parts.len()) {
                continue;
            }
            parts.push(second);
            if parts.len() < self.lengths.len() {
                return Ok(Color::Some(op, parts));
            }
            self.folds.push((id, op, parts));
            return Ok(Color::Shared);
        }
        no()
    }

    /// Refuses operations that are neither elementwise nor a combination of all elements.
    fn allowed(&self, id: NodeId) -> Result<(), String> {
        let node = self.graph.node(id);
        let from = |k: usize| self.graph.ty(node.operands[k]);
        let why = match &node.op {
            Op::Input { .. } if self.roles.get(&id).is_none_or(|r| r.source == Source::Nothing) => {
                "it draws random numbers or reads what only a training run has"
            }
            Op::Input { .. } | Op::Map(_) | Op::Cast | Op::Bitcast | Op::Reshape => return Ok(()),
            Op::Const(tensor) if splat(tensor).is_some_and(|x| x == LOSS_MARK || x == f64::from(LOSS_MARK as f32)) => {
                "it reads the value of the loss"
            }
            Op::Const(tensor) if splat(tensor).is_some() => return Ok(()),
            Op::Const(_) => "it reads a table",
            Op::Broadcast { .. } if from(0).len() == 1 || from(0).len() == self.length(id) => return Ok(()),
            Op::Reduce { .. } if self.length(id) == 1 => return Ok(()),
            Op::Permute { .. } if self.length(id) == 1 => return Ok(()),
            Op::Broadcast { .. } | Op::Reduce { .. } | Op::ArgReduce { .. } => ROWS,
            Op::Scan { .. } => "it goes over elements in order",
            Op::Dot(_) | Op::Conv { .. } => "it multiplies matrices",
            Op::ArgSort { .. } => "it sorts",
            Op::RandomBits { .. } | Op::RandomFold { .. } => "it draws random numbers",
            Op::Iota { .. } => "the places of elements matter to it",
            _ => "it moves elements to other places",
        };
        Err(why.to_string())
    }

    /// Seen through what only changes the shape.
    fn strip(&self, mut id: NodeId) -> NodeId {
        loop {
            let node = self.graph.node(id);
            match &node.op {
                Op::Reshape => id = node.operands[0],
                Op::Broadcast { .. } | Op::Reduce { .. } if self.length(node.operands[0]) == self.length(id) => id = node.operands[0],
                _ => return id,
            }
        }
    }

    /// The number that all elements of a constant array are, by its node.
    fn number(&self, id: NodeId) -> Option<(NodeId, f64)> {
        let id = self.strip(id);
        let node = self.graph.node(id);
        match &node.op {
            Op::Const(tensor) => splat(tensor).map(|x| (id, x)),
            Op::Broadcast { .. } => self.number(node.operands[0]),
            _ => None,
        }
    }

    /// Whether node `a` of the first leaf is what node `b` is to leaf `k`, but for numbers.
    fn alike(&mut self, a: NodeId, b: NodeId, k: usize) -> bool {
        let (a, b) = (self.strip(a), self.strip(b));
        if let Some(&known) = self.known.get(&(a, b)) {
            return known;
        }
        let is = self.same(a, b, k);
        self.known.insert((a, b), is);
        is
    }

    fn same(&mut self, a: NodeId, b: NodeId, k: usize) -> bool {
        let graph = self.graph;
        if graph.ty(a).dtype != graph.ty(b).dtype {
            return false;
        }
        if a == b {
            return self.colors[a.index()] == Color::Shared;
        }
        if self.folds.iter().any(|f| f.0 == a || f.0 == b) {
            return false;
        }
        if let (Some(_), Some(_)) = (self.number(a), self.number(b)) {
            return true;
        }
        let (x, y) = (graph.node(a), graph.node(b));
        match (&x.op, &y.op) {
            (Op::Input { .. }, Op::Input { .. }) => {
                let (a, b) = (self.roles[&a], self.roles[&b]);
                a.source == b.source && a.leaf == Some(0) && b.leaf == Some(k)
            }
            (Op::Map(op), Op::Map(other)) if op == other => match (&*x.operands, &*y.operands) {
                (&[a1, a2], &[b1, b2]) if commutes(*op) => {
                    (self.alike(a1, b1, k) && self.alike(a2, b2, k)) || (self.alike(a1, b2, k) && self.alike(a2, b1, k))
                }
                (xs, ys) => xs.iter().zip(ys).all(|(&a, &b)| self.alike(a, b, k)),
            },
            (Op::Reduce { kind, .. }, Op::Reduce { kind: other, .. }) if kind != other => false,
            (Op::Cast, Op::Cast)
            | (Op::Bitcast, Op::Bitcast)
            | (Op::Broadcast { .. }, Op::Broadcast { .. })
            | (Op::Reduce { .. }, Op::Reduce { .. }) => self.alike(x.operands[0], y.operands[0], k),
            _ => false,
        }
    }

    /// Notes which numbers differ between leaves in two nodes that are alike.
    fn note(&mut self, a: NodeId, b: NodeId, k: usize, seen: &mut FxHashSet<(NodeId, NodeId)>) {
        let (a, b) = (self.strip(a), self.strip(b));
        if !seen.insert((a, b)) {
            return;
        }
        if let (Some((at, _)), Some((_, value))) = (self.number(a), self.number(b)) {
            let count = self.lengths.len();
            self.constants.entry(at).or_insert_with(|| vec![None; count])[k] = Some(value);
            return;
        }
        let (x, y) = (self.graph.node(a).operands.clone(), self.graph.node(b).operands.clone());
        let commutes = matches!(self.graph.node(a).op, Op::Map(op) if commutes(op));
        if let (true, &[a1, a2], &[b1, b2]) = (commutes, &*x, &*y)
            && !(self.alike(a1, b1, k) && self.alike(a2, b2, k))
        {
            self.note(a1, b2, k, seen);
            self.note(a2, b1, k, seen);
            return;
        }
        for (&a, &b) in x.iter().zip(&y) {
            self.note(a, b, k, seen);
        }
    }

    /// Refuses a rule that does something else for other leaves than for the first.
    fn compare(&mut self, outputs: &[Role]) -> Result<(), String> {
        let graph = self.graph;
        for k in 1..self.lengths.len() {
            let of = |leaf: usize| outputs.iter().zip(&graph.outputs).filter(move |(r, _)| r.leaf == Some(leaf)).map(|(_, &o)| o);
            let folds: Vec<(NodeId, NodeId)> = self.folds.iter().map(|f| (f.2[0], f.2[k])).collect();
            let pairs: Vec<(NodeId, NodeId)> = of(0).zip(of(k)).chain(folds).collect();
            let mut seen = FxHashSet::default();
            for (a, b) in pairs {
                if !self.alike(a, b, k) {
                    return Err(match self.shapes[k].len() {
                        1 => format!("it treats a leaf of {} elements in another way than a longer one", self.lengths[k]),
                        _ => "it treats leaves with rows and columns in another way than vectors".to_string(),
                    });
                }
                self.note(a, b, k, &mut seen);
            }
        }
        for (&id, values) in &mut self.constants {
            let Op::Const(tensor) = &graph.node(id).op else { continue };
            values[0] = splat(tensor);
        }
        self.constants.retain(|_, values| values.iter().flatten().any(|x| x.to_bits() != values[0].unwrap_or_default().to_bits()));
        Ok(())
    }

    /// The update of the first leaf as a graph of its own.
    fn build(&self, outputs: &[Role]) -> Result<Rolled, String> {
        let mut rolled = Rolled::default();
        let out = &mut rolled.graph;
        let length = self.lengths[0];
        let origin = Origin::default();
        let of_leaf = |dtype: DType, len: usize| Ty::new(dtype, if len > 1 { Some(length) } else { None });
        let mut map: FxHashMap<NodeId, NodeId> = FxHashMap::default();
        for input in &self.graph.inputs {
            let role = self.roles[&input.node];
            if role.leaf.unwrap_or(0) == 0 && role.source != Source::Nothing {
                let ty = self.graph.ty(input.node);
                map.insert(input.node, out.input(input.name.clone(), of_leaf(ty.dtype, ty.len()), origin));
                rolled.inputs.push(role.source);
            }
        }
        let n = out.input("length", Ty::scalar(DType::F64), origin);
        rolled.inputs.push(Source::Length);
        for (k, (id, op, _)) in self.folds.iter().enumerate() {
            let dtype = self.graph.ty(*id).dtype;
            map.insert(*id, out.input(format!("fold.{k}"), Ty::scalar(dtype), origin));
            rolled.inputs.push(Source::Fold(k));
            rolled.folds.push((*op, dtype));
        }
        for id in self.graph.ids() {
            if map.contains_key(&id) || !matches!(self.colors[id.index()], Color::Shared | Color::Leaf(0)) {
                continue;
            }
            let node = self.graph.node(id);
            let NodeTy::Array(ty) = &node.ty else { continue };
            let target = of_leaf(ty.dtype, ty.len());
            let Some(operands) = node.operands.iter().map(|o| map.get(o).copied()).collect::<Option<Vec<NodeId>>>() else { continue };
            let made = match &node.op {
                Op::Input { .. } => continue,
                Op::Const(tensor) => {
                    let scalar = match self.constants.get(&id) {
                        Some(values) => self.by_length(out, n, ty.dtype, values)?,
                        None => {
                            let mut one = Tensor::zeros(ty.dtype, &[]);
                            one.bytes_mut().copy_from_slice(&tensor.bytes()[..ty.dtype.size()]);
                            out.constant(one, origin)
                        }
                    };
                    out.broadcast(scalar, &[], &target.shape, origin)
                }
                Op::Reduce { kind, .. } if self.length(node.operands[0]) > 1 => reduce(out, *kind, operands[0]),
                Op::Reshape | Op::Reduce { .. } | Op::Permute { .. } => operands[0],
                Op::Broadcast { .. } if self.length(node.operands[0]) == ty.len() => operands[0],
                Op::Broadcast { .. } => out.broadcast(operands[0], &[], &target.shape, origin),
                op => out.push(op.clone(), operands, NodeTy::Array(target), origin),
            };
            map.insert(id, made);
        }
        let wanted = outputs.iter().zip(&self.graph.outputs).filter(|(r, _)| r.leaf.unwrap_or(0) == 0).map(|(_, &o)| o);
        let parts = self.folds.iter().map(|f| f.2[0]);
        let found: Option<Vec<NodeId>> = wanted.chain(parts).map(|o| map.get(&o).copied()).collect();
        rolled.graph.outputs = found.ok_or_else(|| "it uses what some leaves have in common".to_string())?;
        rolled.results = rolled.graph.outputs.len() - self.folds.len();
        Ok(rolled)
    }

    /// A number that depends on the length of a leaf: the first of some functions that fits all leaves.
    fn by_length(&self, out: &mut Graph, n: NodeId, dtype: DType, values: &[Option<f64>]) -> Result<NodeId, String> {
        use ScalarOp::{Div, Sqrt};
        let rounded = |x: f64| Tensor::from_f64(dtype, &[], &[x]).get_f64(0);
        let functions: [fn(f64) -> f64; 4] = [|n| n, |n| 1.0 / n, f64::sqrt, |n| 1.0 / n.sqrt()];
        let fits = |f: &fn(f64) -> f64| {
            values.iter().zip(&self.lengths).all(|(x, &n)| x.is_none_or(|x| x.to_bits() == rounded(f(n as f64)).to_bits()))
        };
        let Some(which) = functions.iter().position(fits) else {
            return Err("numbers in it depend on the leaf's shape".to_string());
        };
        let origin = Origin::default();
        // Division and root of an f64, rounded to an f32, are those of the f32.
        let x = if which >= 2 { out.map(Sqrt, &[n], origin) } else { n };
        let one = out.scalar(DType::F64, 1.0, origin);
        let x = if which % 2 == 1 { out.map(Div, &[one, x], origin) } else { x };
        Ok(out.cast(x, dtype, origin))
    }
}

/// All elements combined; those of narrow types in f32, as the planner does.
fn reduce(out: &mut Graph, kind: ReduceOp, x: NodeId) -> NodeId {
    let dtype = out.ty(x).dtype;
    let wide = if matches!(dtype, DType::BF16 | DType::F16) { DType::F32 } else { dtype };
    let x = out.cast(x, wide, Origin::default());
    let result = out.reduce(kind, x, &[0], Origin::default());
    out.cast(result, dtype, Origin::default())
}

/// What is refused because of the shape.
const ROWS: &str = "it goes by rows, columns or blocks of a leaf";

fn commutes(op: ScalarOp) -> bool {
    use ScalarOp::*;
    matches!(op, Add | Mul | Min | Max | And | Or | Xor | Eq | Ne)
}

/// The number that all elements are.
fn splat(tensor: &Tensor) -> Option<f64> {
    let width = tensor.dtype.size();
    let (first, rest) = tensor.bytes().split_at_checked(width)?;
    rest.chunks(width).all(|x| x == first).then(|| tensor.get_f64(0))
}

/// Whether a constant is the mark of the loss.
fn marked(tensor: &Tensor) -> bool {
    splat(tensor).is_some_and(|x| x == LOSS_MARK || x == f64::from(LOSS_MARK as f32))
}

/// Whether an update reads the value of the loss.
pub(super) fn reads_loss(graph: &Graph) -> bool {
    let live = graph.live();
    graph.ids().any(|id| live[id.index()] && matches!(&graph.node(id).op, Op::Const(tensor) if marked(tensor)))
}
