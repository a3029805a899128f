//! An optimizer alone: its step on weights and gradients that come from outside, as graphs.

use super::outside::{OutsideLoss, Question};
use super::*;
use crate::train::{FOLD_OPTIMIZER, FOLD_STEP, RUN_PLACE};
use optc_ir::graph::{Graph, NodeTy, Op};
use optc_ir::{ScalarOp, Ty};

/// A weight that comes from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct AloneLeaf {
    /// Its path, as groups and `name` see it.
    pub path: Arc<str>,
    /// The weight as stored.
    pub weight: Ty,
    /// The element type of its gradient.
    pub gradient: DType,
    /// Whether its first axis is that of outputs, as in torch: rules see it as the last.
    pub outputs_first: bool,
    /// The group whose hyperparameters it has, where [`AloneOptions::apart`] names any.
    pub group: usize,
}

impl AloneLeaf {
    /// The axes as rules see them; `None` if they see the leaf as it is.
    pub(super) fn seen(&self) -> Option<Vec<usize>> {
        let rank = self.weight.shape.len();
        (self.outputs_first && rank > 1).then(|| (1..rank).chain([0]).collect())
    }
    /// The axes of what rules see as they are stored.
    pub(super) fn stored(&self) -> Option<Vec<usize>> {
        let rank = self.weight.shape.len();
        self.seen().map(|_| [rank - 1].into_iter().chain(0..rank - 1).collect())
    }
}

/// What is known of the leaves of an optimizer that stands alone, and of its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AloneOptions {
    /// How many steps there will be, where somebody has said.
    pub total_steps: Option<i64>,
    /// Whether the leaves are all there are, so that a group without any is a mistake.
    pub whole: bool,
    /// Examples of a batch, for rules that look at each one's gradient.
    pub examples: Option<usize>,
    /// Hyperparameters that each group of leaves has an input of its own for, `0.adamw.lr@1`.
    pub apart: Vec<String>,
}

/// An array that an optimizer keeps from step to step.
#[derive(Clone, Debug, PartialEq)]
pub struct AloneState {
    /// Name as in a run: `optimizer.0.m.linear.w`.
    pub full: String,
    /// Which body it belongs to (`0`, `1.inner.0`), and its name there (`m`; of a state that is a tree, the path in it too).
    pub body: String,
    /// See `body`.
    pub name: String,
    /// Whose it is; `None` if all leaves share it.
    pub leaf: Option<usize>,
    /// Its type.
    pub ty: Ty,
}

/// An optimizer, lowered for given leaves.
#[derive(Clone, Debug)]
pub struct AloneProgram {
    /// How many leaves there are.
    pub leaves: usize,
    /// What it keeps, besides the count of its steps: leaf by leaf, then what all share.
    pub states: Vec<AloneState>,
    /// Initial values of the states. Inputs: the run's key (u32[2]), weights, gradients.
    pub init: Graph,
    /// A step. Inputs: weights, gradients, states, the number of steps made (i32 scalar), the run's key, the loss (f64 scalar), hyperparameters (f64 scalars). Outputs: new
    /// weights, new states, the number of steps plus 1, then hyperparameters to be checked (f64 scalars) and, if there are any, an f64 scalar that is 0 where all of them
    /// are in their ranges and NaN where one is not.
    pub step: Graph,
    /// The weights used in evaluation. Inputs: weights, states, the number of steps made. `None` if they are the weights.
    pub eval: Option<Graph>,
    /// Hyperparameters that are inputs, and their values as written.
    pub hyper: Vec<(String, f64)>,
    /// The ranges that these are declared with.
    pub limits: Vec<Limits>,
    /// Hyperparameters that the step computes and that have a range.
    pub ranged: Vec<Ranged>,
}

/// The leaves that a value depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    None,
    One(usize),
    Several,
}

impl Leaves {
    fn and(self, other: Leaves) -> Leaves {
        match (self, other) {
            (Leaves::None, x) | (x, Leaves::None) => x,
            (x, y) if x == y => x,
            _ => Leaves::Several,
        }
    }
}

impl AloneProgram {
    /// Whether initial values of states depend on the gradients.
    pub fn begins_with_gradients(&self) -> bool {
        let live = self.init.live();
        (0..self.leaves).any(|k| live[self.init.inputs[1 + self.leaves + k].node.index()])
    }
    /// The input of the step that is the loss.
    pub fn loss_input(&self) -> usize {
        2 * self.leaves + self.states.len() + 2
    }
    /// Whether a step depends on the loss.
    pub fn needs_loss(&self) -> bool {
        self.step.live()[self.step.inputs[self.loss_input()].node.index()]
    }
    /// Whether a step draws at random.
    pub fn draws(&self) -> bool {
        self.step.live()[self.step.inputs[self.loss_input() - 1].node.index()]
    }
    /// What a step asks of the loss at other weights, by callbacks.
    pub fn asks(&self) -> Vec<Question> {
        Question::asked_in(&self.step)
    }
    /// Whether any weight gets a new value: a rule that only transforms gradients changes none.
    pub fn changes_weights(&self) -> bool {
        (0..self.leaves).any(|k| !matches!(self.step.node(self.step.outputs[k]).op, Op::Input { .. }))
    }
    /// Whether what a step makes of one leaf depends on another, through a state that all share too: then the leaves must be stepped together.
    pub fn couples_leaves(&self) -> bool {
        let (n, count) = (self.leaves, self.states.len());
        let input = |k: usize| self.step.inputs[k].node.index();
        // For every node whose leaves it depends on: none, one, or several.
        let mut of = vec![Leaves::None; self.step.len()];
        for k in 0..n {
            of[input(k)] = Leaves::One(k);
            of[input(n + k)] = Leaves::One(k);
        }
        for (k, state) in self.states.iter().enumerate() {
            of[input(2 * n + k)] = state.leaf.map_or(Leaves::None, Leaves::One);
        }
        // What reads a shared state depends, from the next step on, on all that it is made of.
        let mut given = of;
        let of = loop {
            let mut of = given.clone();
            for id in self.step.ids() {
                let operands = &self.step.node(id).operands;
                of[id.index()] = operands.iter().fold(of[id.index()], |all, operand| all.and(of[operand.index()]));
            }
            let made = |k: usize| of[self.step.outputs[n + k].index()] != Leaves::None;
            let found: Vec<usize> =
                (0..count).filter(|&k| self.states[k].leaf.is_none() && made(k) && given[input(2 * n + k)] == Leaves::None).collect();
            if found.is_empty() {
                break of;
            }
            for k in found {
                given[input(2 * n + k)] = Leaves::Several;
            }
        };
        let own = |output: usize, leaf: usize| [Leaves::None, Leaves::One(leaf)].contains(&of[self.step.outputs[output].index()]);
        !((0..n).all(|k| own(k, k)) && (0..count).all(|k| self.states[k].leaf.is_none_or(|leaf| own(n + k, leaf))))
    }
    /// Whether another lowering, whose leaves have their axes in another order, computes the same, so that the rule does not care for that order: it is elementwise, or takes
    /// norms of whole leaves. This one's leaves have them as they are stored.
    pub fn blind_to_axes(&self, other: &AloneProgram) -> bool {
        let graphs = |p: &AloneProgram| [Some(p.init.clone()), Some(p.step.clone()), p.eval.clone()];
        graphs(self).into_iter().zip(graphs(other)).all(|pair| match pair {
            (Some(own), Some(others)) => !tells_axes_apart(&own) && operations(&own) == operations(&others),
            (own, others) => own.is_none() && others.is_none(),
        })
    }
    /// The output that must be finite before anything is overwritten.
    pub fn guard(&self) -> Option<usize> {
        (!self.ranged.is_empty()).then_some(self.leaves + self.states.len() + 1 + self.ranged.len())
    }
    /// The step with the changes of the weights, as they are stored, in the place of the new weights.
    pub fn changes(&self) -> Graph {
        let mut graph = self.step.clone();
        for k in 0..self.leaves {
            let (old, new) = (graph.inputs[k].node, graph.outputs[k]);
            let (stored, origin) = (graph.ty(old).dtype, graph.origin(new));
            let [old, new] = [old, new].map(|node| graph.cast(node, compute_type(stored), origin));
            let change = graph.map(ScalarOp::Sub, &[new, old], origin);
            graph.outputs[k] = graph.cast(change, stored, origin);
        }
        graph
    }
}

/// Whether anything in a graph depends on where an element lies in an array of two axes or more.
fn tells_axes_apart(graph: &Graph) -> bool {
    let live = graph.live();
    let array = |ty: &NodeTy| match ty {
        NodeTy::Array(ty) => ty.shape.iter().filter(|n| **n != 1).count() > 1,
        NodeTy::Tuple(all) => all.iter().any(|ty| ty.shape.iter().filter(|n| **n != 1).count() > 1),
    };
    graph.ids().filter(|id| live[id.index()]).any(|id| {
        let node = graph.node(id);
        let operand = |k: usize| &graph.node(node.operands[k]).ty;
        if !array(&node.ty) && node.operands.iter().all(|o| !array(&graph.node(*o).ty)) {
            return false;
        }
        match &node.op {
            Op::Input { .. } | Op::Map(_) | Op::Cast | Op::Bitcast | Op::StopGradient | Op::Result { .. } => false,
            // It is given weights as they are stored.
            Op::Callback { .. } => false,
            Op::Broadcast { .. } => !matches!(operand(0), NodeTy::Array(ty) if ty.shape.iter().product::<usize>() == 1),
            Op::Reduce { axes, .. } => !matches!(operand(0), NodeTy::Array(ty) if ty.shape.len() == axes.len()),
            Op::Cond { then, otherwise } => tells_axes_apart(then) || tells_axes_apart(otherwise),
            Op::Call(call) => tells_axes_apart(&call.body),
            _ => true,
        }
    })
}

/// The operations of a graph, apart from changes of the order of axes, and its constants. A factor that is computed of extents is one of these.
fn operations(graph: &Graph) -> Vec<String> {
    let live = graph.live();
    let mut found: Vec<String> = graph
        .ids()
        .filter(|id| live[id.index()])
        .filter_map(|id| match &graph.node(id).op {
            Op::Input { .. } | Op::Permute { .. } => None,
            Op::Const(x) => Some(format!("{:?} {:?}", x.dtype, x.bytes())),
            op => Some(format!("{op:?}")),
        })
        .collect();
    found.sort();
    found
}

impl Evaluator<'_> {
    /// Lowers an optimizer for leaves that come from outside. It draws as in a run with the same key.
    ///
    /// # Errors
    /// What it reports.
    pub(crate) fn lower_alone(
        &mut self,
        optimizer: &OptimizerValue,
        leaves: &[AloneLeaf],
        options: AloneOptions,
        span: Span,
    ) -> Eval<AloneProgram> {
        let mode = std::mem::replace(&mut self.mode, Mode::Lower);
        let script = std::mem::replace(&mut self.in_script, false);
        let float = if leaves.iter().any(|l| l.weight.dtype == DType::F64) { DType::F64 } else { DType::F32 };
        let result = self.isolated(RUN_PLACE, None, |ev| {
            ev.with_float(float, |ev| {
                let alone = Alone { optimizer, leaves, options, span };
                let (init, states) = ev.alone_init(&alone)?;
                let (step, (hyper, limits), ranged, has_eval) = ev.alone_step(&alone, &states)?;
                let eval = if has_eval { Some(ev.alone_eval(&alone, &states)?) } else { None };
                Ok(AloneProgram { leaves: leaves.len(), states, init, step, eval, hyper, limits, ranged })
            })
        });
        (self.mode, self.in_script) = (mode, script);
        result
    }

    fn alone_inputs(&mut self, what: &str, leaves: &[AloneLeaf]) -> Vec<Array> {
        let dtype = |l: &AloneLeaf| if what == "g" { l.gradient } else { l.weight.dtype };
        let mut inputs = Vec::with_capacity(leaves.len());
        for (k, l) in leaves.iter().enumerate() {
            let input = self.cx.input(&format!("{what}.{k}"), dtype(l), &l.weight.shape);
            inputs.push(self.permuted(input, l.seen()));
        }
        inputs
    }

    /// Weights as they are stored.
    fn as_stored_by(&mut self, leaves: &[AloneLeaf], w: Vec<Array>) -> Vec<Array> {
        leaves.iter().zip(w).map(|(l, w)| self.permuted(w, l.stored())).collect()
    }

    pub(super) fn permuted(&mut self, x: Array, axes: Option<Vec<usize>>) -> Array {
        let Some(axes) = axes else { return x };
        let node = self.cx.node(&x);
        let origin = self.cx.origin;
        let node = self.cx.graph().permute(node, &axes, origin);
        self.cx.array(node)
    }

    fn alone_states(&mut self, states: &[AloneState]) -> Vec<Array> {
        states.iter().enumerate().map(|(k, s)| self.cx.input(&format!("state.{k}"), s.ty.dtype, &s.ty.shape)).collect()
    }

    /// Runs `f` on a graph of its own, whose inputs are then those of these names.
    fn alone_graph<T>(&mut self, span: Span, f: impl FnOnce(&mut Self) -> Eval<(T, Vec<Array>, Vec<String>)>) -> Eval<(T, Graph)> {
        self.cx.push_level();
        match f(self) {
            Ok((value, outputs, names)) => Ok((value, self.finish_graph(&outputs, &names, span)?)),
            Err(stop) => {
                self.cx.pop_level();
                Err(stop)
            }
        }
    }

    fn alone_init(&mut self, alone: &Alone<'_>) -> Eval<(Graph, Vec<AloneState>)> {
        let (states, graph) = self.alone_graph(alone.span, |ev| {
            let key = ev.cx.input("key", DType::U32, &[2]);
            let (w, g) = (ev.alone_inputs("w", alone.leaves), ev.alone_inputs("g", alone.leaves));
            let zero = optc_ops::materialize(&mut ev.cx, &optc_ops::Val::Int(Dim::from(0i64)), Some(DType::I32));
            let step = ev.lift(zero, alone.span)?;
            let unknown = vec![(Arc::from("loss"), Value::Float(Some(f64::NAN)))];
            let key = ev.fold_key(&key, FOLD_OPTIMIZER, None);
            let inputs = alone.inputs(Pass::Init, (w, g), step, unknown, IndexMap::new(), Some(key));
            let out = ev.run_optimizer(alone.optimizer, inputs)?;
            let mut found = Vec::new();
            for (full, array) in out.states {
                let known = out.owners.get(&full).cloned();
                // What no body declares are the counters of what wrappers hold.
                let counter = || full.strip_prefix("optimizer.").and_then(|rest| rest.rsplit_once('.')).unwrap_or(("", &full));
                let (leaf, body, name) = known.unwrap_or_else(|| (None, counter().0.into(), counter().1.into()));
                let ty = Ty::new(array.dtype, array.shape.iter().map(|d| d.known().unwrap_or(1) as usize));
                found.push((AloneState { body: body.to_string(), name: name.to_string(), leaf, ty, full }, array));
            }
            // Bodies declare a state for all leaves before the next one.
            found.sort_by_key(|(state, _)| state.leaf.unwrap_or(usize::MAX));
            let (states, arrays) = found.into_iter().unzip();
            let leaf_names = |what| (0..alone.leaves.len()).map(move |k| format!("{what}.{k}"));
            Ok((states, arrays, ["key".to_string()].into_iter().chain(leaf_names("w")).chain(leaf_names("g")).collect()))
        })?;
        Ok((graph, states))
    }

    #[expect(clippy::type_complexity, reason = "an internal tuple")]
    fn alone_step(
        &mut self,
        alone: &Alone<'_>,
        states: &[AloneState],
    ) -> Eval<(Graph, (Vec<(String, f64)>, Vec<Limits>), Vec<Ranged>, bool)> {
        let ((hyper, ranged, has_eval, calls), graph) = self.alone_graph(alone.span, |ev| {
            let (w, g) = (ev.alone_inputs("w", alone.leaves), ev.alone_inputs("g", alone.leaves));
            let held = ev.alone_states(states);
            let step = ev.cx.input("step", DType::I32, &[]);
            let run_key = ev.cx.input("key", DType::U32, &[2]);
            let loss = ev.cx.input("loss", DType::F64, &[]);
            let outside = OutsideLoss::new(alone.leaves, (w.clone(), g.clone(), loss.clone()), alone.options.examples);
            let calls = outside.calls();
            let loss = vec![(Arc::from("loss"), Value::Array(ev.weak_float(&loss)))];
            let key = ev.fold_key(&run_key, FOLD_STEP, Some(&step));
            let key = ev.fold_key(&key, FOLD_OPTIMIZER, None);
            let named = states.iter().map(|s| s.full.clone()).zip(held).collect();
            let mut inputs = alone.inputs(Pass::Step, (w, g), step.clone(), loss, named, Some(key));
            inputs.loss = Some(Rc::new(outside));
            let out = ev.run_optimizer(alone.optimizer, inputs)?;
            let next = ev.offset(&step, 1);
            let mut outputs = ev.as_stored_by(alone.leaves, out.w);
            outputs.extend(states.iter().map(|s| out.states[&s.full].clone()));
            outputs.push(ev.cast_array(&next, DType::I32));
            let (ranged, computed): (Vec<Ranged>, Vec<Array>) = out.ranged.into_iter().unzip();
            outputs.extend(computed.iter().cloned());
            if !ranged.is_empty() {
                outputs.push(ev.in_ranges(&ranged, &computed));
            }
            let mut names: Vec<String> =
                ["w", "g"].iter().flat_map(|what| (0..alone.leaves.len()).map(move |k| format!("{what}.{k}"))).collect();
            names.extend((0..states.len()).map(|k| format!("state.{k}")));
            names.extend(["step", "key", "loss"].map(String::from));
            names.extend(out.hyper.keys().map(|n| format!("hyper.{n}")));
            Ok((((out.hyper.into_iter().collect(), out.limits), ranged, out.eval.is_some(), calls), outputs, names))
        })?;
        Ok((calls.value_with_gradient(&graph), hyper, ranged, has_eval))
    }

    fn alone_eval(&mut self, alone: &Alone<'_>, states: &[AloneState]) -> Eval<Graph> {
        let ((), graph) = self.alone_graph(alone.span, |ev| {
            let w = ev.alone_inputs("w", alone.leaves);
            let g = w.iter().map(|w| ev.zeros_like(w)).collect();
            let held = ev.alone_states(states);
            let step = ev.cx.input("step", DType::I32, &[]);
            let unknown = vec![(Arc::from("loss"), Value::Float(Some(f64::NAN)))];
            let named = states.iter().map(|s| s.full.clone()).zip(held).collect();
            let inputs = alone.inputs(Pass::Eval, (w.clone(), g), step, unknown, named, None);
            let weights = ev.run_optimizer(alone.optimizer, inputs)?.eval.unwrap_or(w);
            let weights = ev.as_stored_by(alone.leaves, weights);
            let mut names: Vec<String> = (0..alone.leaves.len()).map(|k| format!("w.{k}")).collect();
            names.extend((0..states.len()).map(|k| format!("state.{k}")));
            names.push("step".into());
            Ok(((), weights, names))
        })?;
        Ok(graph)
    }
}

/// What is lowered.
struct Alone<'a> {
    optimizer: &'a OptimizerValue,
    leaves: &'a [AloneLeaf],
    options: AloneOptions,
    span: Span,
}

impl Alone<'_> {
    fn inputs(
        &self,
        pass: Pass,
        (w, g): (Vec<Array>, Vec<Array>),
        step: Array,
        scalars: Vec<(Arc<str>, Value)>,
        states: IndexMap<String, Array>,
        key: Option<Array>,
    ) -> OptInputs {
        let leaves = self.leaves.iter().zip(w.into_iter().zip(g)).map(|(l, (w, g))| Leaf { path: l.path.clone(), w, g }).collect();
        OptInputs {
            pass,
            leaves,
            inputs: (pass == Pass::Step).then(|| step.clone()),
            step,
            total_steps: self.options.total_steps,
            recorded: scalars.clone(),
            scalars,
            states,
            key,
            prefix: String::new(),
            all_leaves: self.options.whole,
            apart: Apart { groups: self.leaves.iter().map(|l| l.group).collect(), names: self.options.apart.clone() },
            loss: None,
        }
    }
}
