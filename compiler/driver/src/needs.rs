//! What the update of an optimizer needs besides arithmetic on single elements, read off the graph of its step.

use optc_abi::library::LibCall;
use optc_ir::graph::{DotDims, Node, NodeTy};
use optc_ir::{Graph, Op};
use std::collections::BTreeSet;

/// What an update needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Each element of the new values depends on the same element of the old ones only, and on scalars.
    pub elementwise: bool,
    /// Sums, maxima, norms over elements.
    pub reductions: bool,
    /// Matrix products and convolutions.
    pub products: bool,
    /// Numerical library calls, by name: `eigh`, `qr`.
    pub library: BTreeSet<&'static str>,
    /// Orders of elements.
    pub sorts: bool,
    /// Random draws.
    pub draws: bool,
    /// The step's loss at other weights, by how it is asked for: `grad_at`, `hvp_at`.
    pub loss: BTreeSet<&'static str>,
}

impl Needs {
    /// Of a simplified graph, whose rules looked at the loss again in these ways.
    pub fn of(graph: &Graph, loss: &BTreeSet<&'static str>) -> Needs {
        let mut needs = Needs { elementwise: elementwise(graph), loss: loss.clone(), ..Needs::default() };
        needs.collect(graph);
        needs
    }

    fn collect(&mut self, graph: &Graph) {
        let live = graph.live();
        for node in graph.ids().filter(|id| live[id.index()]).map(|id| graph.node(id)) {
            let operand = node.operands.first().map(|&o| elements(&graph.node(o).ty));
            match &node.op {
                Op::Reduce { .. } | Op::ArgReduce { .. } | Op::Scan { .. } => self.reductions |= operand.is_some_and(|n| n > 1),
                Op::Dot(dims) if inner_product(graph, node, dims) => self.reductions = true,
                Op::Dot(_) | Op::Conv { .. } => self.products = true,
                Op::ArgSort { .. } => self.sorts = true,
                Op::RandomBits { .. } => self.draws = true,
                Op::Lib(call) => {
                    self.library.insert(call.name());
                }
                Op::Loop(op) => self.collect(&op.body),
                Op::Cond { then, otherwise } => {
                    self.collect(then);
                    self.collect(otherwise);
                }
                Op::Call(op) => self.collect(&op.body),
                _ => {}
            }
        }
    }

    /// In words, dearest last; `elementwise` stands for nothing else.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |is: bool, word: &str| words.extend(is.then(|| word.to_string()));
        let fft = LibCall::Fft { inverse: false }.name();
        let factorizations: Vec<&str> = self.library.iter().copied().filter(|&name| name != fft).collect();
        let rearranged = !(self.elementwise || self.reductions || self.products || self.sorts || !self.library.is_empty());
        add(self.elementwise, "elementwise");
        add(rearranged, "other elements");
        add(self.reductions, "reductions");
        add(self.sorts, "sorts");
        add(self.draws, "random draws");
        add(self.products, "matrix products");
        add(self.library.contains(fft), "Fourier transforms");
        add(!factorizations.is_empty(), &format!("factorizations ({})", factorizations.join(", ")));
        add(!self.loss.is_empty(), &format!("loss again ({})", self.loss.iter().copied().collect::<Vec<_>>().join(", ")));
        words
    }
}

fn elements(ty: &NodeTy) -> usize {
    match ty {
        NodeTy::Array(ty) => ty.len(),
        NodeTy::Tuple(types) => types.iter().map(|t| t.len()).max().unwrap_or(0),
    }
}

/// Whether a product has no axes of its own on either side: sums of products of elements.
fn inner_product(graph: &Graph, node: &Node, dims: &DotDims) -> bool {
    let free = |operand: usize, batch: usize, contract: usize| {
        let NodeTy::Array(ty) = &graph.node(node.operands[operand]).ty else { return 0 };
        ty.shape.len() - batch - contract
    };
    free(0, dims.lhs_batch.len(), dims.lhs_contract.len()) == 0 && free(1, dims.rhs_batch.len(), dims.rhs_contract.len()) == 0
}

/// Whether a graph combines no elements of arrays with each other: only pointwise operations, repeated scalars, other shapes for the same elements.
fn elementwise(graph: &Graph) -> bool {
    let live = graph.live();
    let small = |ty: &NodeTy| elements(ty) <= 1;
    graph.ids().filter(|id| live[id.index()]).all(|id| {
        let node = graph.node(id);
        let scalars = || small(&node.ty) && node.operands.iter().all(|&o| small(&graph.node(o).ty));
        match &node.op {
            Op::Input { .. }
            | Op::Const(_)
            | Op::Iota { .. }
            | Op::Map(_)
            | Op::Cast
            | Op::Bitcast
            | Op::Reshape
            | Op::RandomBits { .. }
            | Op::RandomFold { .. } => true,
            Op::StopGradient | Op::Swap | Op::Result { .. } => true,
            Op::Broadcast { .. } => node.operands.iter().all(|&o| small(&graph.node(o).ty)) || scalars(),
            Op::Cond { then, otherwise } => elementwise(then) && elementwise(otherwise),
            _ => scalars(),
        }
    })
}
