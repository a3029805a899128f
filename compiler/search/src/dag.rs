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

    /// The nodes with this as the update, whatever it depends on; states are inputs of which nothing is known.
    pub(crate) fn bare(self, update: NodeId) -> Dag {
        Dag { nodes: self.nodes, types: self.types, update, states: Vec::new(), origin: Vec::new() }
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
        if let Some(same) = self.same_bits(op, x) {
            return same;
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

    /// Another form of an operation that gives the same bits (NaN payloads aside), where there is a simpler one: programs that differ in these alone are one. Signs move outwards.
    fn same_bits(&mut self, op: ScalarOp, x: &[NodeId]) -> Option<NodeId> {
        use ScalarOp::{Abs, Add, Div, Max, Min, Mul, Neg, Sign, Sub};
        let inner = |s: &Self, id: NodeId, wanted: ScalarOp| match s.nodes[id.0 as usize] {
            Node::Map(op, y) if op == wanted => Some(y),
            _ => None,
        };
        let opposite = |s: &Self, id: NodeId| inner(s, id, Neg).map(|y| y[0]);
        match (op, x) {
            (Neg, &[a]) => opposite(self, a),
            (Abs, &[a]) => {
                if let Some(y) = opposite(self, a) {
                    return Some(self.map(Abs, &[y]));
                }
                let square = inner(self, a, Mul).is_some_and(|y| y[0] == y[1]);
                (square || inner(self, a, Abs).is_some()).then_some(a)
            }
            (Sign, &[a]) => {
                if let Some(y) = opposite(self, a) {
                    let sign = self.map(Sign, &[y]);
                    return Some(self.map(Neg, &[sign]));
                }
                inner(self, a, Sign).map(|_| a)
            }
            (Max | Min, &[a, b]) if a == b => Some(a),
            (Mul, &[a, b]) => {
                for (k, other) in [(a, b), (b, a)] {
                    match self.number(k) {
                        Some(1.0) => return Some(other),
                        Some(-1.0) => return Some(self.map(Neg, &[other])),
                        _ => {}
                    }
                    if let Some(y) = opposite(self, k) {
                        let product = self.map(Mul, &[y, if a == b { y } else { other }]);
                        return Some(if a == b { product } else { self.map(Neg, &[product]) });
                    }
                }
                let bare = inner(self, a, Abs).filter(|_| a == b)?;
                Some(self.map(Mul, &[bare[0], bare[0]]))
            }
            (Div, &[a, b]) => {
                if self.number(b) == Some(1.0) {
                    return Some(a);
                }
                let (above, below) = match (opposite(self, a), opposite(self, b)) {
                    (Some(above), Some(below)) => return Some(self.map(Div, &[above, below])),
                    (Some(above), None) => (above, b),
                    (None, Some(below)) => (a, below),
                    (None, None) => return None,
                };
                let quotient = self.map(Div, &[above, below]);
                Some(self.map(Neg, &[quotient]))
            }
            (Add, &[a, b]) => match (opposite(self, a), opposite(self, b)) {
                (_, Some(y)) => Some(self.map(Sub, &[a, y])),
                (Some(y), None) => Some(self.map(Sub, &[b, y])),
                (None, None) => None,
            },
            (Sub, &[a, b]) => {
                if self.number(b).is_some_and(|zero| zero == 0.0 && zero.is_sign_positive()) {
                    return Some(a);
                }
                let y = opposite(self, b)?;
                Some(self.map(Add, &[a, y]))
            }
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    use super::{Builder, Input, Node, NodeId};
    use optc_ir::eval::eval_float;
    use optc_ir::scalar::ScalarOp::{self, Abs, Add, Div, Max, Min, Mul, Neg, Sign, Sub};

    /// The value of a node in f64, given those of the gradient and the weights.
    fn value(b: &Builder, id: NodeId, given: [f64; 2]) -> f64 {
        match b.nodes[id.0 as usize] {
            Node::Input(Input::G) => given[0],
            Node::Input(_) => given[1],
            Node::Const(bits) => f64::from_bits(bits),
            Node::Map(op, x) => {
                let x: Vec<f64> = x[..op.arity()].iter().map(|id| value(b, *id, given)).collect();
                eval_float(op, &x)
            }
            _ => panic!("no sums here"),
        }
    }

    #[test]
    fn simpler_forms_have_the_same_bits() {
        const VALUES: [f64; 9] = [0.0, -0.0, 1.5, -2.25, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 5e-324, -1e308];
        let mut b = Builder::default();
        let (g, w) = (b.input(Input::G), b.input(Input::W));
        let numbers = [0.0, -0.0, 1.0, -1.0, 3.0].map(|x| b.constant(x));
        let negative = [b.map(Neg, &[g]), b.map(Neg, &[w])];
        let others = [b.map(Abs, &[g]), b.map(Sign, &[w]), b.map(Mul, &[g, g])];
        let all: Vec<NodeId> = [g, w].into_iter().chain(numbers).chain(negative).chain(others).collect();
        let mut simpler = 0;
        let mut check = |op: ScalarOp, x: &[NodeId]| {
            let made = b.map(op, x);
            let plain = matches!(b.nodes[made.0 as usize], Node::Map(o, y) if o == op && y[..x.len()] == *x);
            simpler += usize::from(!plain);
            for left in VALUES {
                for right in VALUES {
                    let operands: Vec<f64> = x.iter().map(|id| value(&b, *id, [left, right])).collect();
                    let (want, got) = (eval_float(op, &operands), value(&b, made, [left, right]));
                    assert!(
                        want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(),
                        "{op:?} of {operands:?}: {want} became {got}"
                    );
                }
            }
        };
        for &a in &all {
            [Neg, Abs, Sign].into_iter().for_each(|op| check(op, &[a]));
            for &c in &all {
                [Add, Sub, Mul, Div, Max, Min].into_iter().for_each(|op| check(op, &[a, c]));
            }
        }
        assert!(simpler > 300, "{simpler} simpler forms");
    }
}
