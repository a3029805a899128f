//! A player's part of a step: the gradient of its loss in its own parameters, and its optimizer; several times over, or in some steps only.

use super::*;
use crate::program::Ranged;
use optc_front::ast::BinaryOp;
use optc_ir::ScalarOp;

/// What all players of a step have in common.
pub(super) struct StepCx<'a> {
    pub setup: &'a TrainSetup,
    pub decls: &'a [LeafDecl],
    /// The fields of the step's batches.
    pub fields: &'a [(Arc<str>, Array)],
    /// The step's key.
    pub key: Array,
    /// Steps made by the train, an i32 scalar of the step's graph.
    pub step: Array,
    /// Metrics of the train by name, as bodies see them.
    pub scalars: Vec<(Arc<str>, Value)>,
    /// Losses by name as they were recorded last.
    pub recorded: Vec<(Arc<str>, Value)>,
    /// The loss of each player, and the leaves as it sees them.
    pub losses: Vec<(Rc<LossFunction>, Rc<[LeafDecl]>)>,
}

impl StepCx<'_> {
    /// Takes over what a player has changed.
    pub fn bring(&self, k: usize, from: &At, to: &mut At) {
        for i in self.own(k).into_iter().chain(self.kept(k)) {
            to.leaves[i] = from.leaves[i].clone();
        }
        for name in own_states(self, k, from) {
            to.states.insert(name.clone(), from.states[&name].clone());
        }
    }
    /// Places of the leaves that a player steps.
    fn own(&self, k: usize) -> Vec<usize> {
        let seen = &self.losses[k].1;
        (0..seen.len()).filter(|&i| !seen[i].buffer).collect()
    }
    /// Places of the buffers that keep the values a player's loss left: those of its own model; those of models that are nobody's are kept by the last player.
    fn kept(&self, k: usize) -> Vec<usize> {
        let players = &self.setup.players;
        let keeper = |path: &str| players.iter().position(|p| p.owns(path)).unwrap_or(players.len() - 1);
        let buffer = |i: usize| self.decls[i].buffer && !self.decls[i].frozen;
        (0..self.decls.len()).filter(|&i| buffer(i) && keeper(&self.decls[i].path) == k).collect()
    }
}

/// Where the run is within a step.
#[derive(Clone)]
pub(super) struct At {
    /// All leaves.
    pub leaves: Vec<Array>,
    /// The states of all players' optimizers.
    pub states: IndexMap<String, Array>,
}

/// What a player's steps give.
pub(super) struct Stepped {
    /// New values of its parameters, of the buffers it keeps, and of its states, in this order.
    lasting: Vec<Array>,
    pub loss: Array,
    /// Sums and counts of what was recorded.
    pub recorded: Vec<(String, Tally)>,
    /// Computed hyperparameters (f64 scalars) that must stay in their ranges.
    pub ranged: Vec<(Ranged, Array)>,
    pub hyper: IndexMap<String, f64>,
    /// Whether the optimizer names weights for evaluation.
    pub has_eval: bool,
}

impl Stepped {
    fn arrays(&self) -> Vec<Array> {
        let recorded = self.recorded.iter().flat_map(|(_, t)| t.arrays());
        let ranged = self.ranged.iter().map(|(_, a)| a.clone());
        self.lasting.iter().cloned().chain([self.loss.clone()]).chain(recorded).chain(ranged).collect()
    }
    /// The same with other arrays, in the order of [`Stepped::arrays`], where everything was done `times` times.
    fn with(self, arrays: Vec<Array>, times: u64) -> Stepped {
        let mut arrays = arrays.into_iter();
        let mut next = || arrays.next().expect("an array for everything");
        let lasting = self.lasting.iter().map(|_| next()).collect();
        let loss = next();
        let mut recorded = Vec::with_capacity(self.recorded.len());
        for (name, tally) in self.recorded {
            let sum = next();
            let count = match tally.count {
                Count::Times(n) => Count::Times(n * times),
                Count::Array(_) => Count::Array(next()),
            };
            recorded.push((name, Tally { sum, count }));
        }
        let ranged = self.ranged.into_iter().map(|(r, _)| (r, next())).collect();
        Stepped { lasting, loss, recorded, ranged, ..self }
    }
}

/// The states of a player's optimizer by name, from the inputs of a graph of all slots.
pub(super) fn states_of(player: &Player, slots: &[Slot], inputs: &[Array]) -> IndexMap<String, Array> {
    let prefix = format!("optimizer.{}", player.prefix());
    let own = slots.iter().zip(inputs).filter(|(s, _)| s.kind == SlotKind::State && s.name.starts_with(&prefix));
    own.map(|(s, a)| (s.name.clone(), a.clone())).collect()
}

/// Whether a number is in the range of a hyperparameter, give or take rounding; a bool scalar.
pub(super) fn in_range(graph: &mut Graph, r: &Ranged, x: NodeId) -> NodeId {
    let origin = graph.origin(x);
    let mut inside = graph.scalar(DType::Bool, 1.0, origin);
    let ends = [(r.limits.low, false), (r.limits.high, true)];
    for ((limit, inclusive), high) in ends.into_iter().filter_map(|(end, high)| Some((end?, high))) {
        let slack = if inclusive { crate::args::slack(limit) } else { 0.0 };
        let end = graph.scalar(DType::F64, if high { limit + slack } else { limit - slack }, origin);
        let op = if inclusive { ScalarOp::Le } else { ScalarOp::Lt };
        let holds = graph.map(op, &if high { [x, end] } else { [end, x] }, origin);
        inside = graph.map(ScalarOp::And, &[inside, holds], origin);
    }
    inside
}

/// A number in a range.
fn some_number_in(r: &Ranged) -> f64 {
    match (r.limits.low, r.limits.high) {
        (Some((low, _)), Some((high, _))) => low + (high - low) / 2.0,
        (Some((low, _)), None) => low + low.abs().max(1.0),
        (None, Some((high, _))) => high - high.abs().max(1.0),
        (None, None) => 0.0,
    }
}

fn type_of(a: &Array) -> Ty {
    Ty::new(a.dtype, a.shape.iter().map(|d| d.known().unwrap_or(1) as usize))
}

/// The leaves, buffers and states that a player changes.
fn taken(cx: &StepCx<'_>, k: usize, at: &At) -> Vec<Array> {
    let leaves = cx.own(k).into_iter().chain(cx.kept(k)).map(|i| at.leaves[i].clone());
    leaves.chain(own_states(cx, k, at).into_iter().map(|name| at.states[&name].clone())).collect()
}

fn own_states(cx: &StepCx<'_>, k: usize, at: &At) -> Vec<String> {
    let prefix = format!("optimizer.{}", cx.setup.players[k].prefix());
    at.states.keys().filter(|name| name.starts_with(&prefix)).cloned().collect()
}

/// Puts what [`taken`] took, or new values of it, in its place.
fn put(cx: &StepCx<'_>, k: usize, at: &mut At, lasting: &[Array]) {
    let mut new = lasting.iter();
    let mut next = || new.next().expect("an array for everything that lasts").clone();
    for i in cx.own(k).into_iter().chain(cx.kept(k)) {
        at.leaves[i] = next();
    }
    for name in own_states(cx, k, at) {
        at.states.insert(name, next());
    }
}

impl Evaluator<'_> {
    /// Steps that a player has made when the train has made `step`, an i32 scalar.
    pub(super) fn steps_of(&mut self, player: &Player, step: &Array, span: Span) -> Eval<Array> {
        let mut count = Value::Array(step.clone());
        for (op, n) in [(BinaryOp::FloorDiv, player.every), (BinaryOp::Mul, player.times)] {
            if n > 1 {
                count = self.arithmetic(op, count, Value::Int(Dim::from(n as i64)), span)?;
            }
        }
        self.array_of(&count, span)
    }

    /// A player's part of a step, where the run is at `at`; leaves it where the player has brought it.
    pub(super) fn play(&mut self, cx: &StepCx<'_>, k: usize, at: &mut At) -> Eval<Stepped> {
        let player = &cx.setup.players[k];
        let made = if player.every > 1 {
            self.play_sometimes(cx, k, at)?
        } else {
            let count = self.steps_of(player, &cx.step, cx.setup.span)?;
            self.play_times(cx, k, at, &count)?
        };
        put(cx, k, at, &made.lasting);
        Ok(made)
    }

    /// `disc every 5`: under a condition.
    fn play_sometimes(&mut self, cx: &StepCx<'_>, k: usize, at: &At) -> Eval<Stepped> {
        let (player, span) = (&cx.setup.players[k], cx.setup.span);
        let number = self.arithmetic(BinaryOp::Add, Value::Array(cx.step.clone()), Value::Int(Dim::from(1i64)), span)?;
        let rest = self.arithmetic(BinaryOp::Rem, number, Value::Int(Dim::from(player.every as i64)), span)?;
        let due = self.arithmetic(BinaryOp::Eq, rest, Value::Int(Dim::from(0i64)), span)?;
        let due = self.array_of(&due, span)?;
        let (made, graph, captured) = self.subgraph(|ev| {
            let count = ev.steps_of(player, &cx.step, span)?;
            let made = ev.play_times(cx, k, at, &count)?;
            let arrays = made.arrays();
            Ok((made, arrays))
        })?;
        let old = taken(cx, k, at);
        let origin = self.cx.origin;
        let inputs = |g: &mut Graph| -> Vec<NodeId> { old.iter().chain(&captured).map(|a| g.input("given", type_of(a), origin)).collect() };
        let mut then = Graph::new();
        let given = inputs(&mut then);
        then.outputs = then.inline(&graph, &given[old.len()..], "");
        let mut otherwise = Graph::new();
        let given = inputs(&mut otherwise);
        let mut left = given[..old.len()].to_vec();
        let numbers = then.outputs[old.len()..].to_vec();
        let ranges = numbers.len() - made.ranged.len();
        for (i, node) in numbers.into_iter().enumerate() {
            let x = if i < ranges { 0.0 } else { some_number_in(&made.ranged[i - ranges].0) };
            left.push(otherwise.splat(then.ty(node), x, origin));
        }
        otherwise.outputs = left;
        let pred = self.cx.node(&due);
        let args: Vec<NodeId> = old.iter().chain(&captured).map(|a| self.cx.node(a)).collect();
        let results = self.cx.graph().cond_results(pred, Arc::new(then), Arc::new(otherwise), &args, origin);
        let arrays = results.iter().map(|&n| self.cx.array(n)).collect();
        Ok(made.with(arrays, 1))
    }

    /// `disc times 5`: in a loop. `count` is the number of steps that the player has made before.
    fn play_times(&mut self, cx: &StepCx<'_>, k: usize, at: &At, count: &Array) -> Eval<Stepped> {
        let (player, span) = (&cx.setup.players[k], cx.setup.span);
        if player.times == 1 {
            return self.play_once(cx, k, at, count, None);
        }
        let start = taken(cx, k, at);
        let (made, body, captured) = self.subgraph(|ev| {
            let counter = ev.cx.input("counter", DType::I32, &[]);
            let carried: Vec<Array> = start.iter().map(|a| ev.cx.input("carried", a.dtype, &type_of(a).shape)).collect();
            let mut inner = at.clone();
            put(cx, k, &mut inner, &carried);
            let before = ev.arithmetic(BinaryOp::Add, Value::Array(count.clone()), Value::Array(counter.clone()), span)?;
            let before = ev.array_of(&before, span)?;
            let made = ev.play_once(cx, k, &inner, &before, Some(&counter))?;
            let arrays = made.arrays();
            Ok((made, arrays))
        })?;
        let origin = self.cx.origin;
        // Carried: what lasts; then sums of losses and of what is recorded, and hyperparameters, of which one out of its range stays.
        let mut graph = Graph::new();
        let counter = graph.input("counter", Ty::scalar(DType::I32), origin);
        let lasting: Vec<NodeId> = start.iter().map(|a| graph.input("carried", type_of(a), origin)).collect();
        let types: Vec<Ty> = body.outputs[start.len()..].iter().map(|&n| body.ty(n).clone()).collect();
        let sums: Vec<NodeId> = types.iter().map(|ty| graph.input("carried", ty.clone(), origin)).collect();
        let given: Vec<NodeId> = captured.iter().map(|a| graph.input("captured", type_of(a), origin)).collect();
        let args: Vec<NodeId> = [counter].into_iter().chain(lasting).chain(given).collect();
        let mut outputs = graph.inline(&body, &args, "");
        let ranges = types.len() - made.ranged.len();
        for (i, &sum) in sums.iter().enumerate() {
            let now = outputs[start.len() + i];
            outputs[start.len() + i] = if i < ranges {
                graph.map(ScalarOp::Add, &[sum, now], origin)
            } else {
                let inside = in_range(&mut graph, &made.ranged[i - ranges].0, sum);
                graph.map(ScalarOp::Select, &[inside, now, sum], origin)
            };
        }
        graph.outputs = outputs;
        let mut operands: Vec<NodeId> = start.iter().map(|a| self.cx.node(a)).collect();
        for (i, ty) in types.iter().enumerate() {
            let x = if i < ranges { 0.0 } else { some_number_in(&made.ranged[i - ranges].0) };
            operands.push(self.cx.graph().splat(ty, x, origin));
        }
        let carried = operands.len();
        operands.extend(captured.iter().map(|a| self.cx.node(a)).collect::<Vec<_>>());
        let trip = Some(player.times as usize);
        let op = LoopOp { trip, reverse: false, guard: None, carried, scanned: 0, body: Arc::new(graph) };
        let results = self.cx.graph().loop_results(op, &operands, origin);
        let arrays = results.iter().map(|&n| self.cx.array(n)).collect();
        let mut made = made.with(arrays, player.times);
        let sum = self.cx.node(&made.loss);
        let scale = self.cx.graph().scalar(made.loss.dtype, 1.0 / player.times as f64, origin);
        let mean = self.cx.graph().map(ScalarOp::Mul, &[sum, scale], origin);
        made.loss = self.cx.array(mean);
        Ok(made)
    }

    /// One step of a player, in pass number `pass` of those it makes in the step of the train.
    fn play_once(&mut self, cx: &StepCx<'_>, k: usize, at: &At, count: &Array, pass: Option<&Array>) -> Eval<Stepped> {
        let (setup, player) = (cx.setup, &cx.setup.players[k]);
        let (f, seen) = &cx.losses[k];
        let (loss, arrays, buffers, gradients) = if setup.accumulate > 1 {
            self.accumulate(setup, seen, &at.leaves, cx.fields, &cx.key, f)?
        } else {
            let fields = cx.fields.iter().map(|(_, a)| a.clone());
            let args = self.order_leaves(seen, &at.leaves).into_iter().chain(fields).chain(LossKeys::of_step(&cx.key).inputs());
            self.inline_gradients(f, &args.collect::<Vec<_>>(), player.loss.span)?
        };
        let mut recorded = self.recorded_tallies(f, arrays);
        let given: Vec<usize> = (0..seen.len()).filter(|&i| seen[i].buffer).collect();
        let left = |i: &usize| buffers[given.iter().position(|g| g == i).expect("a buffer")].clone();
        let kept: Vec<Array> = cx.kept(k).iter().map(left).collect();
        let leaves = cx.own(k).into_iter().zip(gradients);
        let leaves = leaves.map(|(i, g)| Leaf { path: player.short_path(setup, &seen[i].path), w: at.leaves[i].clone(), g }).collect();
        let mut scalars = vec![(Arc::from("loss"), Value::Array(self.weak_float(&loss)))];
        scalars.extend(cx.scalars.iter().cloned());
        let loss_at = Rc::new(at::TrainLoss {
            setup: Rc::new(setup.clone()),
            player: k,
            decls: seen.clone(),
            leaves: at.leaves.clone(),
            fields: cx.fields.to_vec(),
            key: cx.key.clone(),
            f: f.clone(),
        });
        let mut key = self.fold_key(&cx.key, FOLD_OPTIMIZER, None);
        if player.name.is_some() {
            key = self.fold_key(&key, FOLD_PLAYER + k as u32, pass);
        }
        let states = own_states(cx, k, at).into_iter().map(|name| (name.clone(), at.states[&name].clone())).collect();
        let opt = OptInputs {
            pass: Pass::Step,
            leaves,
            step: count.clone(),
            total_steps: Some(setup.steps as i64),
            scalars,
            recorded: cx.recorded.clone(),
            states,
            key: Some(key),
            inputs: Some(cx.step.clone()),
            prefix: player.prefix(),
            all_leaves: true,
            apart: Default::default(),
            loss: Some(loss_at),
        };
        let out = self.run_optimizer(&player.optimizer, opt)?;
        recorded.extend(self.named_metrics(out.metrics, &|stage| Arc::from(stage)));
        let states = own_states(cx, k, at).into_iter().map(|name| out.states[&name].clone());
        let lasting = out.w.into_iter().chain(kept).chain(states).collect();
        Ok(Stepped { lasting, loss, recorded, ranged: out.ranged, hyper: out.hyper, has_eval: out.eval.is_some() })
    }
}
