//! Programs that combine elements: norms, sums and products over leaves. With k levels of reductions a step is k passes that reduce, one behind another, and one that updates; each computes what it
//! needs anew from weights, gradient and states.
//!
//! Sums are those of compiled optimizers, bit for bit: f32, sixteen lanes, large leaves in units ([`REDUCED_WHOLE`]), leaves in their order. Numbers that come of sums are f32; numbers that do not
//! (the learning rate, the number of the step) are f64 and rounded where they meet f32. What leaves are filled up with is never counted.

use super::{Made, Maker, buffer, kernel};
use crate::dag::{Dag, Input, Node, NodeId};
use crate::fun::Ty;
use optc_abi::DType;
use optc_ir::ScalarOp;
use optc_ir::graph::ReduceOp;
use optc_ir::kernel::{
    Acc, AccId, AccOp, Access, AxisId, BufferParam, Expr, Extent, FLAT_UNIT, Index, Kernel, LOCAL, Literal, Local, LoopKind, REDUCED_WHOLE,
    Stmt, ValueId,
};

/// Where leaves lie in the flat arrays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// Where each begins.
    pub offsets: Vec<usize>,
    /// Elements of each.
    pub lens: Vec<usize>,
    /// Elements of the arrays, what leaves are filled up with included.
    pub padded: usize,
}

impl Leaves {
    /// One leaf that is a whole array.
    pub fn one(len: usize) -> Leaves {
        Leaves { offsets: vec![0], lens: vec![len], padded: len }
    }

    /// Elements of a leaf with what it is filled up with.
    fn filled(&self, leaf: usize) -> usize {
        self.offsets.get(leaf + 1).copied().unwrap_or(self.padded) - self.offsets[leaf]
    }
}

/// The kernel of any program, with buffers for `states` states. `None` if it has more of them.
pub fn of(dag: &Dag, leaves: &Leaves, states: usize) -> Option<Kernel> {
    if dag.elementwise() {
        return kernel(dag, leaves.padded, states);
    }
    if dag.states.len() > states {
        return None;
    }
    let count = dag.nodes.len();
    let maker = Maker { dag, out: Vec::new(), values: 0, scalars: vec![None; count], floats: vec![None; count] };
    let passes = Passes {
        maker,
        leaves,
        levels: dag.levels(),
        summed: summed(dag),
        by_leaf: vec![vec![None; count]; leaves.lens.len()],
        accs: Vec::new(),
        locals: Vec::new(),
        axes: 0,
    };
    Some(passes.kernel(states))
}

/// For each node whether it depends on a sum.
fn summed(dag: &Dag) -> Vec<bool> {
    let mut out: Vec<bool> = Vec::with_capacity(dag.nodes.len());
    for node in &dag.nodes {
        out.push(matches!(node, Node::Sum(_) | Node::Total(_)) || node.operands().iter().any(|x| out[x.0 as usize]));
    }
    out
}

struct Passes<'a> {
    maker: Maker<'a>,
    leaves: &'a Leaves,
    levels: Vec<usize>,
    summed: Vec<bool>,
    /// By leaf, its numbers.
    by_leaf: Vec<Vec<Option<Made>>>,
    accs: Vec<Acc>,
    locals: Vec<Local>,
    axes: usize,
}

/// A value of each leaf.
const IS_MADE: &str = "operands come first";

impl Passes<'_> {
    fn kernel(mut self, states: usize) -> Kernel {
        let dag = self.maker.dag;
        self.numbers();
        let last = self.levels.iter().copied().max().unwrap_or(0);
        for level in 1..=last {
            self.reductions(level);
        }
        self.update();
        let array = |access| BufferParam { dtype: DType::F32, access };
        let one = |dtype| BufferParam { dtype, access: Access::Read };
        let mut buffers = vec![array(Access::ReadWrite), array(Access::Read), one(DType::F64), one(DType::I32)];
        buffers.extend((0..states).map(|_| array(Access::ReadWrite)));
        debug_assert!(dag.states.len() <= states);
        Kernel {
            buffers,
            locals: self.locals,
            axes: self.axes,
            values: self.maker.values,
            accs: self.accs,
            body: self.maker.out,
            ..Kernel::default()
        }
    }

    fn ty(&self, id: NodeId) -> Ty {
        self.maker.dag.ty(id)
    }

    /// Numbers that no sum goes into: in f64, and in f32 where they meet what is.
    fn numbers(&mut self) {
        let dag = self.maker.dag;
        let plain = |id: &NodeId| dag.ty(*id) == Ty::Scalar;
        for id in dag.ids().filter(plain).filter(|id| !self.summed[id.0 as usize]) {
            self.maker.scalar(id);
            let meets = dag.ids().filter(|u| dag.ty(*u) != Ty::Scalar || self.summed[u.0 as usize]);
            let result = id == dag.update || dag.states.iter().any(|s| s.next == id);
            if result || meets.into_iter().any(|u| dag.node(u).operands().contains(&id)) {
                self.maker.rounded(id);
            }
        }
    }

    /// The sums of one level, and the numbers made of them.
    fn reductions(&mut self, level: usize) {
        let dag = self.maker.dag;
        let here: Vec<NodeId> = dag.ids().filter(|id| self.levels[id.0 as usize] == level && dag.ty(*id) != Ty::Leaf).collect();
        let mut terms: Vec<NodeId> = Vec::new();
        for id in &here {
            if let Node::Sum(x) | Node::Total(x) = *dag.node(*id)
                && dag.ty(x) == Ty::Leaf
                && !terms.contains(&x)
            {
                terms.push(x);
            }
        }
        let sums: Vec<Vec<ValueId>> = (0..self.leaves.lens.len()).map(|leaf| self.sums_of(leaf, &terms)).collect();
        for id in here {
            let at = id.0 as usize;
            match *dag.node(id) {
                Node::Sum(x) => {
                    let term = terms.iter().position(|t| *t == x).unwrap_or(0);
                    for (leaf, own) in sums.iter().enumerate() {
                        self.by_leaf[leaf][at] = Some(Made { value: own[term], truth: false });
                    }
                }
                Node::Total(x) => {
                    let parts: Vec<ValueId> = match terms.iter().position(|t| *t == x) {
                        Some(term) => sums.iter().map(|own| own[term]).collect(),
                        None => (0..self.by_leaf.len()).map(|leaf| self.number_of(leaf, x)).collect(),
                    };
                    let value = self.added(&parts);
                    self.maker.floats[at] = Some(Made { value, truth: false });
                }
                Node::Map(op, x) if dag.ty(id) == Ty::LeafScalar => {
                    for leaf in 0..self.by_leaf.len() {
                        let operands: Vec<Made> = x[..op.arity()].iter().map(|x| self.number(leaf, *x)).collect();
                        self.by_leaf[leaf][at] = Some(self.maker.map(op, &operands, DType::F32));
                    }
                }
                Node::Map(op, x) => {
                    let operands: Vec<Made> = x[..op.arity()].iter().map(|x| self.maker.floats[x.0 as usize].expect(IS_MADE)).collect();
                    self.maker.floats[at] = Some(self.maker.map(op, &operands, DType::F32));
                }
                Node::Input(_) | Node::Const(_) => unreachable!("they depend on no sum"),
            }
        }
    }

    /// A number for a leaf, or for all.
    fn number(&self, leaf: usize, id: NodeId) -> Made {
        let made = if self.ty(id) == Ty::LeafScalar { self.by_leaf[leaf][id.0 as usize] } else { self.maker.floats[id.0 as usize] };
        made.expect(IS_MADE)
    }

    fn number_of(&mut self, leaf: usize, id: NodeId) -> ValueId {
        let made = self.number(leaf, id);
        self.maker.as_float(made, DType::F32)
    }

    /// The sum of numbers, in their order.
    fn added(&mut self, parts: &[ValueId]) -> ValueId {
        match *parts {
            [] => self.maker.push(DType::F32, Expr::Const(Literal::Float(0.0))),
            [first, ref rest @ ..] => {
                rest.iter().fold(first, |sum, part| self.maker.push(DType::F32, Expr::Map(ScalarOp::Add, vec![sum, *part])))
            }
        }
    }

    fn axis(&mut self) -> AxisId {
        self.axes += 1;
        self.axes - 1
    }

    fn accs(&mut self, count: usize) -> Vec<AccId> {
        let first = self.accs.len();
        self.accs.extend((0..count).map(|_| Acc { dtype: DType::F32, op: AccOp::Reduce(ReduceOp::Sum) }));
        let accs: Vec<AccId> = (first..first + count).collect();
        let zero = self.maker.push(DType::F32, Expr::Const(Literal::Float(0.0)));
        self.maker.out.extend(accs.iter().map(|acc| Stmt::Init { acc: *acc, value: zero }));
        accs
    }

    fn read(&mut self, accs: &[AccId]) -> Vec<ValueId> {
        accs.iter().map(|acc| self.maker.push(DType::F32, Expr::Acc(*acc))).collect()
    }

    /// The sums of values over the elements of a leaf.
    fn sums_of(&mut self, leaf: usize, terms: &[NodeId]) -> Vec<ValueId> {
        let (offset, len) = (self.leaves.offsets[leaf] as i64, self.leaves.lens[leaf] as i64);
        if len < REDUCED_WHOLE {
            return self.sums_between(leaf, terms, Index { offset, ..Index::default() }, len);
        }
        let (units, rest) = (len / FLAT_UNIT, len % FLAT_UNIT);
        let parts = units + i64::from(rest > 0);
        let locals: Vec<usize> = (0..terms.len()).map(|k| self.local(k, parts as usize)).collect();
        let axis = self.axis();
        let before = std::mem::take(&mut self.maker.out);
        let unit = Index { offset, axes: vec![(axis, FLAT_UNIT)], ..Index::default() };
        let sums = self.sums_between(leaf, terms, unit, FLAT_UNIT);
        for (local, value) in locals.iter().zip(sums) {
            let index = Index { axes: vec![(axis, 1)], ..Index::default() };
            self.maker.out.push(Stmt::Store { buffer: *local, index, value });
        }
        let body = std::mem::replace(&mut self.maker.out, before);
        self.maker.out.push(Stmt::For { axis, extent: Extent::Const(units), kind: LoopKind::Serial, body });
        if rest > 0 {
            let index = Index { offset: offset + units * FLAT_UNIT, ..Index::default() };
            let sums = self.sums_between(leaf, terms, index, rest);
            for (local, value) in locals.iter().zip(sums) {
                self.maker.out.push(Stmt::Store { buffer: *local, index: Index { offset: units, ..Index::default() }, value });
            }
        }
        let accs = self.accs(terms.len());
        let axis = self.axis();
        let before = std::mem::take(&mut self.maker.out);
        for (acc, local) in accs.iter().zip(&locals) {
            let index = Index { axes: vec![(axis, 1)], ..Index::default() };
            let value = self.maker.push(DType::F32, Expr::Load { buffer: *local, index, guard: None });
            self.maker.out.push(Stmt::Update { acc: *acc, value });
        }
        let body = std::mem::replace(&mut self.maker.out, before);
        self.maker.out.push(Stmt::For { axis, extent: Extent::Const(parts), kind: LoopKind::Vector, body });
        self.read(&accs)
    }

    /// The local array for the partial sums of a term.
    fn local(&mut self, term: usize, len: usize) -> usize {
        if self.locals.len() <= term {
            self.locals.resize(term + 1, Local { dtype: DType::F32, len: 0 });
        }
        self.locals[term].len = self.locals[term].len.max(len);
        LOCAL + term
    }

    /// The sums of values over `len` elements from a place on.
    fn sums_between(&mut self, leaf: usize, terms: &[NodeId], from: Index, len: i64) -> Vec<ValueId> {
        let accs = self.accs(terms.len());
        if len > 0 {
            let axis = self.axis();
            let mut index = from;
            index.axes.push((axis, 1));
            let before = std::mem::take(&mut self.maker.out);
            let elements = self.elements(Some(leaf), &index, terms);
            for (acc, term) in accs.iter().zip(terms) {
                let value = self.maker.as_float(elements[term.0 as usize].expect(IS_MADE), DType::F32);
                self.maker.out.push(Stmt::Update { acc: *acc, value });
            }
            let body = std::mem::replace(&mut self.maker.out, before);
            self.maker.out.push(Stmt::For { axis, extent: Extent::Const(len), kind: LoopKind::Vector, body });
        }
        self.read(&accs)
    }

    /// What is wanted of an element, and all that goes into it; of a certain leaf, or, where nothing depends on the leaf, of any.
    fn elements(&mut self, leaf: Option<usize>, index: &Index, wanted: &[NodeId]) -> Vec<Option<Made>> {
        let dag = self.maker.dag;
        let mut needed = vec![false; dag.nodes.len()];
        let mut open: Vec<NodeId> = wanted.iter().copied().filter(|id| dag.ty(*id) == Ty::Leaf).collect();
        while let Some(id) = open.pop() {
            if !std::mem::replace(&mut needed[id.0 as usize], true) {
                open.extend(dag.node(id).operands().iter().copied().filter(|x| dag.ty(*x) == Ty::Leaf));
            }
        }
        let mut made: Vec<Option<Made>> = vec![None; dag.nodes.len()];
        for id in dag.ids().filter(|id| needed[id.0 as usize]) {
            let load = |maker: &mut Maker<'_>, buffer| {
                let value = maker.push(DType::F32, Expr::Load { buffer, index: index.clone(), guard: None });
                Made { value, truth: false }
            };
            made[id.0 as usize] = Some(match *dag.node(id) {
                Node::Input(Input::W) => load(&mut self.maker, buffer::WEIGHT),
                Node::Input(Input::G) => load(&mut self.maker, buffer::GRADIENT),
                Node::Input(Input::State(k)) => load(&mut self.maker, buffer::STATES + k as usize),
                Node::Map(op, x) => {
                    let of = |x: &NodeId| match dag.ty(*x) {
                        Ty::Leaf => made[x.0 as usize].expect(IS_MADE),
                        _ => self.number(leaf.unwrap_or(0), *x),
                    };
                    let operands: Vec<Made> = x[..op.arity()].iter().map(of).collect();
                    self.maker.map(op, &operands, DType::F32)
                }
                _ => unreachable!("numbers are no arrays"),
            });
        }
        made
    }

    /// The last pass: weights and states anew.
    fn update(&mut self) {
        let dag = self.maker.dag;
        let results: Vec<NodeId> = [dag.update].into_iter().chain(dag.states.iter().map(|s| s.next)).collect();
        let by_leaf = |id: NodeId| dag.ty(id) == Ty::LeafScalar;
        let apart = results.iter().any(|id| by_leaf(*id))
            || dag.ids().filter(|id| dag.ty(*id) == Ty::Leaf).any(|id| dag.node(id).operands().iter().any(|x| by_leaf(*x)));
        if apart {
            for leaf in 0..self.leaves.lens.len() {
                self.update_between(Some(leaf), &results, self.leaves.offsets[leaf], self.leaves.filled(leaf));
            }
        } else {
            self.update_between(None, &results, 0, self.leaves.padded);
        }
    }

    fn update_between(&mut self, leaf: Option<usize>, results: &[NodeId], offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let axis = self.axis();
        let index = Index { offset: offset as i64, axes: vec![(axis, 1)], ..Index::default() };
        let before = std::mem::take(&mut self.maker.out);
        let elements = self.elements(leaf, &index, results);
        let mut values = Vec::new();
        for id in results {
            let made = match self.ty(*id) {
                Ty::Leaf => elements[id.0 as usize].expect(IS_MADE),
                _ => self.number(leaf.unwrap_or(0), *id),
            };
            values.push(self.maker.as_float(made, DType::F32));
        }
        let weight = self.maker.push(DType::F32, Expr::Load { buffer: buffer::WEIGHT, index: index.clone(), guard: None });
        let moved = self.maker.push(DType::F32, Expr::Map(ScalarOp::Sub, vec![weight, values[0]]));
        for (k, value) in values[1..].iter().enumerate() {
            self.maker.out.push(Stmt::Store { buffer: buffer::STATES + k, index: index.clone(), value: *value });
        }
        self.maker.out.push(Stmt::Store { buffer: buffer::WEIGHT, index, value: moved });
        let body = std::mem::replace(&mut self.maker.out, before);
        self.maker.out.push(Stmt::For { axis, extent: Extent::Const(len as i64), kind: LoopKind::Vector, body });
    }
}
