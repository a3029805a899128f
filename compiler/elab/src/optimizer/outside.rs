//! The loss at other weights for an optimizer that stands alone: whoever runs its steps is called back ([`Op::Callback`]).

use super::alone::AloneLeaf;
use super::*;
use optc_ir::graph::{CallOp, Graph, LoopOp, NodeId, Op, Origin};
use optc_ir::{ScalarOp, Ty};

/// What a step asks of the loss; the numbers of the functions that are called back. All take the weights of all leaves, as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Question {
    /// The loss, an f64 scalar.
    Value = 0,
    /// The loss and its gradients.
    Gradient = 1,
    /// The Hessian times directions, which follow the weights in the types of gradients; as gradients.
    Product = 2,
    /// The gradients of each example's loss, with the examples as leading axis.
    Each = 3,
}

impl Question {
    /// All of them.
    pub const ALL: [Question; 4] = [Question::Value, Question::Gradient, Question::Product, Question::Each];

    /// What bodies call it.
    pub fn name(self) -> &'static str {
        match self {
            Question::Value => "loss_at",
            Question::Gradient => "grad_at",
            Question::Product => "hvp_at",
            Question::Each => "grad_each_at",
        }
    }

    /// Those that outputs of a graph depend on.
    pub(super) fn asked_in(graph: &Graph) -> Vec<Question> {
        let mut found = Vec::new();
        collect(graph, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn collect(graph: &Graph, found: &mut Vec<Question>) {
    let live = graph.live();
    for id in graph.ids().filter(|id| live[id.index()]) {
        match &graph.node(id).op {
            Op::Callback { function, .. } => found.extend(Question::ALL.into_iter().filter(|q| *q as u32 == *function)),
            Op::Loop(l) => collect(&l.body, found),
            Op::Call(c) => collect(&c.body, found),
            Op::Cond { then, otherwise } => {
                collect(then, found);
                collect(otherwise, found);
            }
            _ => {}
        }
    }
}

/// The loss of a step, as asked of the caller.
pub(super) struct OutsideLoss {
    leaves: Vec<AloneLeaf>,
    /// Weights and gradients as they come in, and the loss there: nothing needs to be asked of these weights.
    incoming: (Vec<Array>, Vec<Array>, Array),
    examples: Option<usize>,
    calls: Calls,
}

/// Functions of the weights with their derivatives.
#[derive(Clone)]
pub(super) struct Calls {
    value: CallOp,
    gradient: CallOp,
}

impl OutsideLoss {
    pub fn new(leaves: &[AloneLeaf], incoming: (Vec<Array>, Vec<Array>, Array), examples: Option<usize>) -> OutsideLoss {
        OutsideLoss { leaves: leaves.to_vec(), incoming, examples, calls: Calls::new(leaves) }
    }

    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }
}

impl Calls {
    fn new(leaves: &[AloneLeaf]) -> Calls {
        let o = Origin::default();
        let scalar = Ty::scalar(DType::F64);
        let weights: Vec<Ty> = leaves.iter().map(|l| l.weight.clone()).collect();
        let gradients: Vec<Ty> = leaves.iter().map(|l| l.weight.with_dtype(l.gradient)).collect();
        let both: Vec<Ty> = std::iter::once(&scalar).chain(&gradients).cloned().collect();
        let inputs = |g: &mut Graph, types: &[Ty]| types.iter().map(|t| g.input("x", t.clone(), o)).collect::<Vec<NodeId>>();
        let asked = |g: &mut Graph, question: Question, operands: &[NodeId], results: &[Ty]| -> Vec<NodeId> {
            let call = g.op(Op::Callback { function: question as u32, results: results.into() }, operands, o);
            (0..results.len()).map(|k| g.result(call, k, o)).collect()
        };

        // The gradient of c_0 loss + sum of <c_k, gradient_k> is c_0 gradient + Hessian c.
        let mut body = Graph::new();
        let w = inputs(&mut body, &weights);
        body.outputs = asked(&mut body, Question::Gradient, &w, &both);
        let mut rule = Graph::new();
        let w = inputs(&mut rule, &weights);
        let results = inputs(&mut rule, &both);
        let cotangents = inputs(&mut rule, &both);
        let operands: Vec<NodeId> = w.iter().chain(&cotangents[1..]).copied().collect();
        let products = asked(&mut rule, Question::Product, &operands, &gradients);
        for (k, product) in products.into_iter().enumerate() {
            let own = scaled(&mut rule, cotangents[0], results[1 + k], o);
            let product = rule.cast(product, compute_type(gradients[k].dtype), o);
            let sum = rule.map(ScalarOp::Add, &[own, product], o);
            let sum = rule.cast(sum, weights[k].dtype, o);
            rule.outputs.push(sum);
        }
        let gradient = CallOp { name: "grad_at".to_string(), body: Arc::new(body), vjp: Some(Arc::new(rule)) };

        let mut body = Graph::new();
        let w = inputs(&mut body, &weights);
        body.outputs = asked(&mut body, Question::Value, &w, std::slice::from_ref(&scalar));
        let mut rule = Graph::new();
        let w = inputs(&mut rule, &weights);
        let (_, cotangent) = (rule.input("x", scalar.clone(), o), rule.input("x", scalar, o));
        let call = rule.op(Op::Call(gradient.clone()), &w, o);
        for (k, ty) in weights.iter().enumerate() {
            let own = rule.result(call, 1 + k, o);
            let own = scaled(&mut rule, cotangent, own, o);
            let own = rule.cast(own, ty.dtype, o);
            rule.outputs.push(own);
        }
        Calls { value: CallOp { name: "loss_at".to_string(), body: Arc::new(body), vjp: Some(Arc::new(rule)) }, gradient }
    }

    /// A graph in which the value comes with the gradient where both are asked at the same weights.
    pub fn value_with_gradient(&self, graph: &Graph) -> Graph {
        let asked = Question::asked_in(graph);
        if asked.contains(&Question::Value) && asked.contains(&Question::Gradient) {
            return self.joined(graph, &mut FxHashMap::default());
        }
        graph.clone()
    }

    fn joined(&self, graph: &Graph, known: &mut FxHashMap<*const Graph, Arc<Graph>>) -> Graph {
        let live = graph.live();
        let of = |op: &Op, call: &CallOp| matches!(op, Op::Call(c) if Arc::ptr_eq(&c.body, &call.body));
        let gradient_at: Vec<_> = graph
            .ids()
            .filter(|id| live[id.index()] && of(&graph.node(*id).op, &self.gradient))
            .map(|id| graph.node(id).operands.clone())
            .collect();
        let mut sub = |own: &Arc<Graph>| match known.get(&Arc::as_ptr(own)) {
            Some(done) => done.clone(),
            None => {
                let done = Arc::new(self.joined(own, known));
                known.insert(Arc::as_ptr(own), done.clone());
                done
            }
        };
        let mut out = Graph::new();
        let mut map: Vec<NodeId> = Vec::with_capacity(graph.len());
        for id in graph.ids() {
            let (node, origin) = (graph.node(id), graph.origin(id));
            let operands: Vec<NodeId> = node.operands.iter().map(|o| map[o.index()]).collect();
            map.push(match &node.op {
                Op::Input { index } => out.input(graph.inputs[*index as usize].name.clone(), graph.ty(id).clone(), origin),
                op if of(op, &self.value) && gradient_at.contains(&node.operands) => {
                    out.op(Op::Call(self.gradient.clone()), &operands, origin)
                }
                Op::Loop(l) => out.op(Op::Loop(LoopOp { body: sub(&l.body), ..l.clone() }), &operands, origin),
                Op::Cond { then, otherwise } => out.op(Op::Cond { then: sub(then), otherwise: sub(otherwise) }, &operands, origin),
                op => out.push(op.clone(), operands, node.ty.clone(), origin),
            });
        }
        out.outputs = graph.outputs.iter().map(|o| map[o.index()]).collect();
        out
    }
}

/// An array times a scalar of f64, in the type that it is computed in.
fn scaled(g: &mut Graph, scalar: NodeId, x: NodeId, o: Origin) -> NodeId {
    let ty = g.ty(x).clone();
    let dtype = compute_type(ty.dtype);
    let (scalar, x) = (g.cast(scalar, dtype, o), g.cast(x, dtype, o));
    let spread = g.broadcast(scalar, &[], &ty.shape, o);
    g.map(ScalarOp::Mul, &[spread, x], o)
}

impl StepLoss for OutsideLoss {
    fn at(&self, ev: &mut Evaluator<'_>, w: &[Array], asked: &Asked, span: Span) -> Eval<(Array, Vec<Array>)> {
        let (own, gradients, loss) = &self.incoming;
        let unmoved = w.iter().zip(own).all(|(x, own)| x.node == ev.cast_array(own, x.dtype).node);
        match asked {
            Asked::Value if unmoved => return Ok((loss.clone(), Vec::new())),
            Asked::Gradient if unmoved => return Ok((loss.clone(), gradients.clone())),
            _ => {}
        }
        let mut operands = Vec::with_capacity(w.len());
        for (x, leaf) in w.iter().zip(&self.leaves) {
            let x = ev.cast_array(x, leaf.weight.dtype);
            let x = ev.permuted(x, leaf.stored());
            operands.push(ev.cx.node(&x));
        }
        let origin = ev.cx.origin;
        let op = match asked {
            Asked::Value => Op::Call(self.calls.value.clone()),
            Asked::Gradient => Op::Call(self.calls.gradient.clone()),
            Asked::Product(directions) => {
                for (v, leaf) in directions.iter().zip(&self.leaves) {
                    let v = ev.cast_array(v, leaf.gradient);
                    let v = ev.permuted(v, leaf.stored());
                    operands.push(ev.cx.node(&v));
                }
                let results = self.leaves.iter().map(|l| l.weight.with_dtype(l.gradient)).collect();
                Op::Callback { function: Question::Product as u32, results }
            }
            Asked::Each => {
                let Some(examples) = self.examples else {
                    return ev.fail(
                        Diagnostic::error(Code("E0542"), span, "`grad_each_at` needs to know how many examples a batch has")
                            .help("where the step is compiled: `optc.optimizer(…, examples=32)`"),
                    );
                };
                let with_examples = |l: &AloneLeaf| Ty::new(l.gradient, std::iter::once(examples).chain(l.weight.shape.iter().copied()));
                Op::Callback { function: Question::Each as u32, results: self.leaves.iter().map(with_examples).collect() }
            }
        };
        let call = ev.cx.graph().op(op, &operands, origin);
        let result = |ev: &mut Evaluator<'_>, k: usize| {
            let node = ev.cx.graph().result(call, k, origin);
            ev.cx.array(node)
        };
        let value = match asked {
            Asked::Value | Asked::Gradient => result(ev, 0),
            Asked::Product(_) | Asked::Each => ev.float_number(f64::NAN),
        };
        let first = match asked {
            Asked::Value => return Ok((value, Vec::new())),
            Asked::Gradient => 1,
            Asked::Product(_) | Asked::Each => 0,
        };
        let mut arrays = Vec::with_capacity(self.leaves.len());
        for (k, leaf) in self.leaves.iter().enumerate() {
            let array = result(ev, first + k);
            let axes = match asked {
                Asked::Each => leaf.seen().map(|axes| std::iter::once(0).chain(axes.into_iter().map(|a| a + 1)).collect()),
                _ => leaf.seen(),
            };
            arrays.push(ev.permuted(array, axes));
        }
        Ok((value, arrays))
    }
}
