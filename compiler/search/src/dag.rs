//! What a program computes: scalar operations and sums over leaves, hash-consed, each state with its next value. All questions about meaning
//! (identity, traces, code) are asked of this form.

use crate::fun::{EPS, Ty};
use optc_ir::eval::eval_float;
use optc_ir::scalar::ScalarOp;
use rustc_hash::FxHashMap;

/// Index of a node; operands come before their users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// What a program is given at each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// The weights.
    W,
    /// Their gradient.
    G,
    /// The learning rate.
    Lr,
    /// The number of the step, from 1.
    T,
    /// A state as the step before left it.
    State(u8),
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// An input.
    Input(Input),
    /// A number, by its bits.
    Const(u64),
    /// A scalar operation; operands beyond its arity repeat the first.
    Map(ScalarOp, [NodeId; 3]),
    /// Sum of the elements of each leaf.
    Sum(NodeId),
    /// Sum over the elements of all leaves, or, of one number for each leaf, over leaves.
    Total(NodeId),
}

/// Makes nodes.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    types: Vec<Ty>,
    known: FxHashMap<Node, NodeId>,
}

impl Builder {
    fn push(&mut self, node: Node, ty: Ty) -> NodeId {
        *self.known.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.types.push(ty);
            NodeId(self.nodes.len() as u32 - 1)
        })
    }

    /// The type of a node.
    pub fn ty(&self, id: NodeId) -> Ty {
        self.types[id.0 as usize]
    }

    /// An input; states are leaves.
    pub fn input(&mut self, input: Input) -> NodeId {
        let ty = if matches!(input, Input::Lr | Input::T) { Ty::Scalar } else { Ty::Leaf };
        self.push(Node::Input(input), ty)
    }

    /// A number. All NaN are one.
    pub fn constant(&mut self, x: f64) -> NodeId {
        let x = if x.is_nan() { f64::NAN } else { x };
        self.push(Node::Const(x.to_bits()), Ty::Scalar)
    }

    /// The number that a node is, if it is one.
    pub fn number(&self, id: NodeId) -> Option<f64> {
        match self.nodes[id.0 as usize] {
            Node::Const(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    /// A scalar operation. Of numbers alone it is the number, computed in f64 as the compiler does.
    pub fn map(&mut self, op: ScalarOp, x: &[NodeId]) -> NodeId {
        let x = &x[..op.arity()];
        let mut numbers = [0.0; 3];
        let mut all = true;
        for (slot, id) in numbers.iter_mut().zip(x) {
            match self.number(*id) {
                Some(number) => *slot = number,
                None => all = false,
            }
        }
        if all {
            return self.constant(eval_float(op, &numbers[..x.len()]));
        }
        if let (ScalarOp::Pow, Some(e)) = (op, self.number(x[x.len() - 1]))
            && let Some(power) = self.known_power(x[0], e)
        {
            return power;
        }
        if op == ScalarOp::Mul {
            // A product with 1 is the other factor to the last bit.
            for (k, other) in [(0, 1), (1, 0)] {
                if self.number(x[k]) == Some(1.0) {
                    return x[other];
                }
            }
        }
        if let (ScalarOp::Select, Node::Map(ScalarOp::Ne, [condition, zero, _])) = (op, self.nodes[x[0].0 as usize])
            && self.number(zero) == Some(0.0)
        {
            // What a selection looks at is whether its condition is 0.
            return self.map(op, &[condition, x[1], x[2]]);
        }
        let ty = x.iter().map(|id| self.ty(*id)).max().unwrap_or(Ty::Scalar);
        let mut operands = [x[0]; 3];
        operands[..x.len()].copy_from_slice(x);
        self.push(Node::Map(op, operands), ty)
    }

    /// A power whose exponent the language knows a product or root for: 0 (of numbers) to 16, -4 to -1, 0.5.
    fn known_power(&mut self, x: NodeId, e: f64) -> Option<NodeId> {
        if e == 0.5 {
            return Some(self.map(ScalarOp::Sqrt, &[x]));
        }
        // An array of ones is an array: its sums count elements.
        if e.fract() != 0.0 || !(-4.0..=16.0).contains(&e) || e == 0.0 && self.ty(x) != Ty::Scalar {
            return None;
        }
        let power = self.whole_power(x, e.abs() as u32);
        if e >= 0.0 {
            return Some(power);
        }
        let one = self.constant(1.0);
        Some(self.map(ScalarOp::Div, &[one, power]))
    }

    fn whole_power(&mut self, x: NodeId, k: u32) -> NodeId {
        match k {
            0 => self.constant(1.0),
            1 => x,
            _ => {
                let half = self.whole_power(x, k / 2);
                let square = self.map(ScalarOp::Mul, &[half, half]);
                if k % 2 == 1 { self.map(ScalarOp::Mul, &[square, x]) } else { square }
            }
        }
    }

    /// Sum of each leaf; a number is the sum of itself.
    pub fn sum(&mut self, x: NodeId) -> NodeId {
        if self.ty(x) == Ty::Leaf { self.push(Node::Sum(x), Ty::LeafScalar) } else { x }
    }

    /// Sum over all leaves; a number for all leaves is the sum of itself, and the sum of the sums of leaves is that of their elements.
    pub fn total(&mut self, x: NodeId) -> NodeId {
        match self.nodes[x.0 as usize] {
            _ if self.ty(x) == Ty::Scalar => x,
            Node::Sum(elements) => self.push(Node::Total(elements), Ty::Scalar),
            _ => self.push(Node::Total(x), Ty::Scalar),
        }
    }

    pub(crate) fn dot(&mut self, x: NodeId, y: NodeId) -> NodeId {
        let product = self.map(ScalarOp::Mul, &[x, y]);
        self.total(product)
    }

    pub(crate) fn global_norm(&mut self, x: NodeId) -> NodeId {
        if self.ty(x) == Ty::Scalar {
            return self.map(ScalarOp::Abs, &[x]);
        }
        let squares = self.dot(x, x);
        self.map(ScalarOp::Sqrt, &[squares])
    }

    pub(crate) fn protected(&mut self, x: NodeId) -> NodeId {
        let eps = self.constant(EPS);
        self.map(ScalarOp::Add, &[x, eps])
    }

    pub(crate) fn of_abs(&mut self, op: ScalarOp, x: NodeId) -> NodeId {
        let x = self.map(ScalarOp::Abs, &[x]);
        self.map(op, &[x])
    }

    /// The graph with these results: what is subtracted from the weights, and for each state its first and next value. Nodes that nothing needs are left out, states too.
    pub fn finish(self, update: NodeId, states: &[(f64, NodeId)]) -> Dag {
        let whole = Dag {
            nodes: self.nodes,
            types: self.types,
            update,
            states: states.iter().map(|&(init, next)| StateOf { init, next }).collect(),
            origin: (0..states.len() as u8).collect(),
        };
        whole.live()
    }
}

/// A state of the graph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateOf {
    /// Its value before the first step, in all elements.
    pub init: f64,
    /// Its value after the step.
    pub next: NodeId,
}

/// The graph of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Dag {
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Their types.
    pub types: Vec<Ty>,
    /// What is subtracted from the weights.
    pub update: NodeId,
    /// States that the update depends on.
    pub states: Vec<StateOf>,
    /// For each state its number in the program.
    pub origin: Vec<u8>,
}

impl Node {
    /// Its operands.
    pub fn operands(&self) -> &[NodeId] {
        match self {
            Node::Input(_) | Node::Const(_) => &[],
            Node::Map(op, x) => &x[..op.arity()],
            Node::Sum(x) | Node::Total(x) => std::slice::from_ref(x),
        }
    }
}

impl Dag {
    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Its type.
    pub fn ty(&self, id: NodeId) -> Ty {
        self.types[id.0 as usize]
    }

    /// Nodes in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// States that the update needs in this or a later step, and the nodes that these need.
    fn needed(&self) -> (Vec<bool>, Vec<bool>) {
        let mut nodes = vec![false; self.nodes.len()];
        let mut states = vec![false; self.states.len()];
        let mut open = vec![self.update];
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut nodes[id.0 as usize], true) {
                continue;
            }
            open.extend_from_slice(self.node(id).operands());
            if let Node::Input(Input::State(k)) = *self.node(id)
                && !std::mem::replace(&mut states[k as usize], true)
            {
                open.push(self.states[k as usize].next);
            }
        }
        (nodes, states)
    }

    fn live(self) -> Dag {
        let (nodes, states) = self.needed();
        let mut new_state = vec![0u8; states.len()];
        let mut kept = 0;
        for (slot, live) in new_state.iter_mut().zip(&states) {
            *slot = kept;
            kept += u8::from(*live);
        }
        let mut place = vec![NodeId(0); nodes.len()];
        let mut out = Dag { nodes: Vec::new(), types: Vec::new(), update: self.update, states: Vec::new(), origin: Vec::new() };
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, _)| nodes[*i]) {
            let at = |x: NodeId| place[x.0 as usize];
            let node = match *node {
                Node::Input(Input::State(k)) => Node::Input(Input::State(new_state[k as usize])),
                Node::Map(op, x) => Node::Map(op, x.map(at)),
                Node::Sum(x) => Node::Sum(at(x)),
                Node::Total(x) => Node::Total(at(x)),
                other => other,
            };
            place[i] = NodeId(out.nodes.len() as u32);
            out.nodes.push(node);
            out.types.push(self.types[i]);
        }
        out.update = place[self.update.0 as usize];
        for (k, state) in self.states.iter().enumerate().filter(|(k, _)| states[*k]) {
            out.states.push(StateOf { init: state.init, next: place[state.next.0 as usize] });
            out.origin.push(self.origin[k]);
        }
        out
    }

    /// Whether the update or a state depends, in some step, on the gradient.
    pub fn reads(&self, input: Input) -> bool {
        self.nodes.contains(&Node::Input(input))
    }

    /// Whether every element depends on nothing of other elements.
    pub fn elementwise(&self) -> bool {
        !self.nodes.iter().any(|n| matches!(n, Node::Sum(_) | Node::Total(_)))
    }

    /// For each node how many reductions over elements lie one behind another up to it.
    pub fn levels(&self) -> Vec<usize> {
        let mut levels: Vec<usize> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let below = node.operands().iter().map(|x| levels[x.0 as usize]).max().unwrap_or(0);
            let own = matches!(node, Node::Sum(x) | Node::Total(x) if self.ty(*x) == Ty::Leaf);
            levels.push(below + usize::from(own));
        }
        levels
    }

    /// Passes over the elements that a step takes: one, and one for each level of reductions.
    pub fn passes(&self) -> usize {
        1 + self.levels().into_iter().max().unwrap_or(0)
    }

    /// Operations on arrays, by the scalar table's costs, and how many of them are no plain arithmetic.
    pub fn cost(&self) -> (u32, u32) {
        const ARITHMETIC: u16 = 12;
        let mut all = (0, 0);
        for (node, ty) in self.nodes.iter().zip(&self.types) {
            if let (Node::Map(op, _), Ty::Leaf) = (node, ty) {
                all.0 += u32::from(op.row().cost);
                all.1 += u32::from(op.row().cost >= ARITHMETIC);
            }
        }
        all
    }
}
