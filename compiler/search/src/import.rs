//! Optimizers of the language as programs: the compiled update of one leaf, statement by statement.

mod leaves;

use crate::fun::{Fun, Ty};
use crate::genome::{Arg, Genome, MAX_NAMED, MAX_STATES, Reg, State, Stmt};
use crate::live::without_dead_code;
use leaves::{Mirror, Sums, Whole, whole};
use optc_abi::{DType, Tensor};
use optc_ir::graph::{NodeId, NodeTy, Op, ReduceOp};
use optc_ir::{Graph, ScalarOp};
use rustc_hash::FxHashMap;

/// What an input of an update's graph is.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// The leaf's weights.
    Weight,
    /// Its gradient; elements may lie in another shape.
    Gradient,
    /// A state of it, by number.
    State(usize),
    /// A state that is one for all leaves, by number.
    Shared(usize),
    /// The number of steps made before, an integer.
    Step,
    /// The learning rate.
    Rate,
    /// A hyperparameter with this value.
    Number(f64),
    /// The same of the second leaf.
    Other(Box<Role>),
    /// What no program can use: a random key, a metric. In words.
    Foreign(String),
}

/// A state of an update.
#[derive(Clone, Debug, PartialEq)]
pub struct StateOf {
    /// Its name.
    pub name: String,
    /// The output of the update that is its next value, and that of the second leaf.
    pub next: [usize; 2],
    /// The output of the initial graph that is its first value.
    pub first: usize,
}

/// The update of an optimizer for two leaves with one axis each; the program is that of the first.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// Its graph.
    pub graph: &'a Graph,
    /// What each input is.
    pub roles: Vec<Role>,
    /// The output that is the new weights, and that of the second leaf.
    pub weight: [usize; 2],
    /// The leaf's states.
    pub states: Vec<StateOf>,
    /// A graph that gives first values of states.
    pub initial: &'a Graph,
    /// Elements of the first leaf.
    pub len: usize,
}

impl Update<'_> {
    /// Whether the second leaf gets what the first does.
    ///
    /// # Errors
    /// In words, that it does not.
    fn even(&self, sums: &Sums) -> Result<(), String> {
        let mirror = Mirror { graph: self.graph, roles: &self.roles, sums };
        let same = |k: &[usize; 2]| mirror.same(self.graph.outputs[k[0]], self.graph.outputs[k[1]]);
        if same(&self.weight) && self.states.iter().all(|s| same(&s.next)) {
            Ok(())
        } else {
            Err("what it does to a leaf depends on how many elements or which name the leaf has".to_string())
        }
    }
}

/// The program of an update.
///
/// # Errors
/// What the optimizer does that no program of the search can, in words.
pub fn program(update: &Update<'_>) -> Result<Genome, String> {
    if update.states.len() > MAX_STATES {
        return Err(format!("it keeps {} states for each parameter; programs have at most {MAX_STATES}", update.states.len()));
    }
    let mut states = Vec::new();
    for state in &update.states {
        let node = update.initial.outputs[state.first];
        if is_made_of(update.initial, node, update.initial.outputs[update.weight[0]]) {
            return Err(format!("its state `{}` starts as the weights", state.name));
        }
        let init = constant_of(update.initial, node).ok_or_else(|| format!("its state `{}` does not start as one number", state.name))?;
        let ty = update.initial.ty(node);
        // A number for the leaf, or for all, is an array of the leaf's shape whose elements are all this number.
        if ty.len() != update.len && ty.len() != 1 || !ty.dtype.is_float() {
            return Err(format!("its state `{}` is {ty}, not an array like the leaf", state.name));
        }
        states.push(State { name: name(&state.name, &states), init });
    }
    let sums = Sums::find(update.graph, &update.roles);
    let free = (0..MAX_NAMED as u8).rev().collect();
    let mut walk = Walk {
        update,
        sums: &sums,
        held: FxHashMap::default(),
        types: FxHashMap::default(),
        last: last_uses(update),
        free,
        body: Vec::new(),
    };
    walk.run()?;
    update.even(&sums)?;
    Ok(without_dead_code(&Genome { states, body: walk.body }))
}

/// A state's name that can be written in every form, and is nobody else's.
fn name(written: &str, others: &[State]) -> String {
    let plain: String = written.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let taken = |n: &str| ["w", "g", "lr", "t", "update"].contains(&n) || n.starts_with(|c: char| c.is_ascii_digit() || c == 'x');
    let mut out = if taken(&plain) || plain.is_empty() { format!("s_{plain}") } else { plain };
    while others.iter().any(|s| s.name == out) {
        out.push('_');
    }
    out
}

/// The number that all elements of a node are, if that is known.
fn constant_of(graph: &Graph, id: NodeId) -> Option<f64> {
    let node = graph.node(id);
    match &node.op {
        Op::Const(tensor) => splat(tensor),
        Op::Cast | Op::Broadcast { .. } | Op::Reshape | Op::StopGradient => constant_of(graph, node.operands[0]),
        _ => None,
    }
}

/// Whether a value is another one, in whatever shape.
fn is_made_of(graph: &Graph, mut id: NodeId, of: NodeId) -> bool {
    loop {
        if id == of {
            return true;
        }
        match graph.node(id) {
            node if matches!(node.op, Op::Cast | Op::Broadcast { .. } | Op::Reshape | Op::StopGradient) => id = node.operands[0],
            _ => return false,
        }
    }
}

fn splat(tensor: &Tensor) -> Option<f64> {
    let n: usize = tensor.shape.iter().product();
    let first = if n > 0 { tensor.get_f64(0) } else { return None };
    (1..n).all(|i| tensor.get_f64(i).to_bits() == first.to_bits()).then_some(first)
}

/// For each node the last of those that use it; results are used at the very end.
fn last_uses(update: &Update<'_>) -> FxHashMap<NodeId, usize> {
    let graph = update.graph;
    let mut last = FxHashMap::default();
    for id in graph.ids() {
        for operand in &graph.node(id).operands {
            last.insert(*operand, id.index());
        }
    }
    for output in [update.weight[0]].into_iter().chain(update.states.iter().map(|s| s.next[0])) {
        last.insert(graph.outputs[output], usize::MAX);
    }
    last
}

struct Walk<'a> {
    update: &'a Update<'a>,
    sums: &'a Sums,
    held: FxHashMap<NodeId, Arg>,
    types: FxHashMap<NodeId, Ty>,
    last: FxHashMap<NodeId, usize>,
    free: Vec<u8>,
    body: Vec<Stmt>,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), String> {
        let graph = self.update.graph;
        let mut wanted = vec![false; graph.len()];
        let roots: Vec<NodeId> =
            [self.update.weight[0]].into_iter().chain(self.update.states.iter().map(|s| s.next[0])).map(|k| graph.outputs[k]).collect();
        let mut open = roots.clone();
        while let Some(id) = open.pop() {
            if !std::mem::replace(&mut wanted[id.index()], true) {
                open.extend(self.operands(id));
            }
        }
        // The update is the difference of the weights, where that is how they are made.
        let weight = roots[0];
        let difference = self.difference(weight);
        if difference.is_some() {
            wanted[weight.index()] = roots[1..].contains(&weight);
            if let Some(x) = difference {
                self.last.insert(x, usize::MAX);
            }
        }
        for id in graph.ids().filter(|id| wanted[id.index()]) {
            let arg = self.node(id)?;
            self.held.insert(id, arg);
            let ty = self.ty(id);
            self.types.insert(id, ty);
            // Registers whose values nobody needs any more are used again.
            for operand in self.operands(id) {
                if self.last.get(&operand) == Some(&id.index()) {
                    self.release(operand, id);
                }
            }
        }
        let update = match difference {
            Some(x) => Stmt::new(Reg::Update, Fun::Copy, &[self.held[&x]]),
            None => Stmt::new(Reg::Update, Fun::Plain(ScalarOp::Sub), &[Arg::Reg(Reg::W), self.held[&weight]]),
        };
        self.body.push(update);
        self.assign_states(&roots[1..]);
        Ok(())
    }

    /// What a node is made of here: norms and products are one statement, and of sums over leaves the first leaf's term is enough.
    fn operands(&self, id: NodeId) -> Vec<NodeId> {
        match (whole(self.update.graph, self.sums, id), self.sums.term(id)) {
            (Some(Whole::Norm(x) | Whole::GlobalNorm(x)), _) => vec![x],
            (Some(Whole::Dot(x, y)), _) => vec![x, y],
            (None, Some(term)) => vec![term],
            (None, None) => self.update.graph.node(id).operands.to_vec(),
        }
    }

    /// The type that a value has in the program, where all states are arrays.
    fn ty(&self, id: NodeId) -> Ty {
        let node = self.update.graph.node(id);
        let joined = self.operands(id).iter().filter_map(|x| self.types.get(x)).copied().max().unwrap_or(Ty::Scalar);
        match &node.op {
            Op::Input { index } => match self.update.roles[*index as usize] {
                Role::Weight | Role::Gradient | Role::State(_) | Role::Shared(_) => Ty::Leaf,
                _ => Ty::Scalar,
            },
            _ if self.sums.term(id).is_some() => Ty::Scalar,
            _ => match whole(self.update.graph, self.sums, id) {
                Some(Whole::Norm(_)) => Ty::LeafScalar,
                Some(Whole::GlobalNorm(_) | Whole::Dot(..)) => Ty::Scalar,
                None if matches!(node.op, Op::Reduce { .. }) => joined.min(Ty::LeafScalar),
                None => joined,
            },
        }
    }

    /// States are assigned at once: what another one's old value is needed for is kept.
    fn assign_states(&mut self, roots: &[NodeId]) {
        let targets: Vec<(Reg, Arg)> = roots.iter().enumerate().map(|(k, id)| (Reg::State(k as u8), self.held[id])).collect();
        let moves: Vec<(Reg, Arg)> = targets.into_iter().filter(|(to, from)| *from != Arg::Reg(*to)).collect();
        let mut kept = Vec::new();
        for (to, from) in &moves {
            let overwritten = moves.iter().any(|(other, _)| *from == Arg::Reg(*other));
            match self.free.pop().filter(|_| overwritten) {
                Some(k) => {
                    self.body.push(Stmt::new(Reg::Temp(k), Fun::Copy, &[*from]));
                    kept.push((*to, Arg::Reg(Reg::Temp(k))));
                }
                None => kept.push((*to, *from)),
            }
        }
        for (to, from) in kept {
            self.body.push(Stmt::new(to, Fun::Copy, &[from]));
        }
        self.fold_copies();
    }

    /// A value that is only copied on is computed where it goes.
    fn fold_copies(&mut self) {
        let mut i = 0;
        while i < self.body.len() {
            let Stmt { out, fun: Fun::Copy, args: [Arg::Reg(Reg::Temp(t)), ..] } = self.body[i] else {
                i += 1;
                continue;
            };
            let temp = Reg::Temp(t);
            let made = self.body[..i].iter().rposition(|s| s.out == temp);
            let Some(made) = made else {
                i += 1;
                continue;
            };
            let between = &self.body[made + 1..i];
            let clear = !between.iter().any(|s| s.out == out || s.reads().any(|r| r == out))
                && !self.body[made].reads().any(|r| r == out && matches!(out, Reg::Update));
            let clear = clear && !self.body[i + 1..].iter().take_while(|s| s.out != temp).any(|s| s.reads().any(|r| r == temp));
            if !clear {
                i += 1;
                continue;
            }
            self.body[made].out = out;
            for stmt in &mut self.body[made + 1..i] {
                for arg in &mut stmt.args {
                    if *arg == Arg::Reg(temp) {
                        *arg = Arg::Reg(out);
                    }
                }
            }
            self.body.remove(i);
        }
    }

    /// x where the new weights are w - x.
    fn difference(&self, weight: NodeId) -> Option<NodeId> {
        let graph = self.update.graph;
        let node = graph.node(weight);
        let is_weight = |id: NodeId| matches!(graph.node(id).op, Op::Input { index } if self.update.roles[index as usize] == Role::Weight);
        (matches!(node.op, Op::Map(ScalarOp::Sub)) && is_weight(node.operands[0])).then(|| node.operands[1])
    }

    fn release(&mut self, id: NodeId, user: NodeId) {
        if let Some(Arg::Reg(Reg::Temp(k))) = self.held.get(&id) {
            let (k, user) = (*k, self.held.get(&user).copied());
            // Nodes that are no statements hand their operand's register on.
            let shared = user == Some(Arg::Reg(Reg::Temp(k)))
                || self.held.iter().any(|(other, a)| {
                    *a == Arg::Reg(Reg::Temp(k)) && *other != id && self.last.get(other).is_some_and(|l| *l > self.last[&id])
                });
            if !shared && !self.free.contains(&k) {
                self.free.push(k);
            }
        }
    }

    fn push(&mut self, fun: Fun, args: &[Arg]) -> Result<Arg, String> {
        if let Fun::Plain(op) = fun {
            // Numbers are computed here, as they are where a spec is compiled; a product with 1 is the other factor to the last bit.
            let numbers: Option<Vec<f64>> = args.iter().map(|a| if let Arg::Const(x) = a { Some(*x) } else { None }).collect();
            if let Some(x) = numbers {
                return Ok(Arg::Const(optc_ir::eval::eval_float(op, &x)));
            }
            if let (ScalarOp::Mul, [Arg::Const(1.0), x] | [x, Arg::Const(1.0)]) = (op, args) {
                return Ok(*x);
            }
        }
        let k = self.free.pop().ok_or_else(|| "it needs more intermediate values than programs have registers".to_string())?;
        self.body.push(Stmt::new(Reg::Temp(k), fun, args));
        Ok(Arg::Reg(Reg::Temp(k)))
    }

    fn node(&mut self, id: NodeId) -> Result<Arg, String> {
        let graph = self.update.graph;
        let node = graph.node(id);
        let NodeTy::Array(ty) = &node.ty else { return Err(format!("it uses {}", words(&node.op))) };
        let operands: Vec<Arg> = self.operands(id).iter().map(|o| self.held[o]).collect();
        match whole(graph, self.sums, id) {
            Some(Whole::Norm(_)) => return self.push(Fun::Norm, &operands),
            Some(Whole::GlobalNorm(_)) => return self.push(Fun::GlobalNorm, &operands),
            Some(Whole::Dot(..)) => return self.push(Fun::Dot, &operands),
            None if self.sums.term(id).is_some_and(|term| self.types.get(&term) == Some(&Ty::Leaf)) => {
                return Err("it sums states that are one number for each leaf".to_string());
            }
            None if self.sums.term(id).is_some() => return self.push(Fun::Total, &operands),
            None => {}
        }
        let operand_ty = |k: usize| graph.ty(node.operands[k]);
        match &node.op {
            Op::Input { index } => match &self.update.roles[*index as usize] {
                Role::Weight => Ok(Arg::Reg(Reg::W)),
                Role::Gradient => Ok(Arg::Reg(Reg::G)),
                Role::State(k) | Role::Shared(k) => Ok(Arg::Reg(Reg::State(*k as u8))),
                Role::Step => self.push(Fun::Plain(ScalarOp::Sub), &[Arg::Reg(Reg::T), Arg::Const(1.0)]),
                Role::Rate => Ok(Arg::Reg(Reg::Lr)),
                Role::Number(x) => Ok(Arg::Const(*x)),
                Role::Other(_) => Err("it depends on other leaves in other ways than sums over all of them".to_string()),
                Role::Foreign(what) => Err(format!("it depends on {what}")),
            },
            Op::Const(tensor) => splat(tensor).map(Arg::Const).ok_or_else(|| "it holds an array of numbers".to_string()),
            Op::Map(ScalarOp::Add) if self.is_next_step(id) => Ok(Arg::Reg(Reg::T)),
            Op::Map(op) => {
                if ty.dtype.is_float()
                    || operand_ty(0).dtype.is_float()
                    || ty.dtype == DType::Bool
                    || ty.dtype == DType::I32 && ty.shape.is_empty()
                {
                    let fun = bool_or_plain(*op, operand_ty(0).dtype);
                    return match fun {
                        Some((fun, args)) => self.push(fun, &args.iter().map(|a| a.unwrap_or_else(|k| operands[k])).collect::<Vec<_>>()),
                        None => Err(format!("it uses `{}` of integers", op.name())),
                    };
                }
                Err(format!("it computes with {}", ty.dtype))
            }
            Op::Cast if ty.dtype.is_float() || operand_ty(0).dtype == DType::Bool => {
                if matches!(ty.dtype, DType::BF16 | DType::F16) {
                    return Err(format!("it rounds to {}", ty.dtype));
                }
                Ok(operands[0])
            }
            Op::Broadcast { .. } if operand_ty(0).len() == 1 => Ok(operands[0]),
            Op::Reshape | Op::Slice { .. } | Op::Broadcast { .. } | Op::Permute { .. }
                if operand_ty(0).len() == ty.len() && operand_ty(0).shape.iter().filter(|n| **n != 1).count() <= 1 =>
            {
                Ok(operands[0])
            }
            Op::StopGradient => Ok(operands[0]),
            Op::Reduce { kind: ReduceOp::Sum, .. } if ty.len() == 1 && operand_ty(0).len() == self.update.len => {
                self.push(Fun::Sum, &operands)
            }
            op => Err(format!("it uses {}", words(op))),
        }
    }

    /// The number of steps made before, and one.
    fn is_next_step(&self, id: NodeId) -> bool {
        let graph = self.update.graph;
        let step = |id: NodeId| {
            let mut id = id;
            while matches!(graph.node(id).op, Op::Cast) {
                id = graph.node(id).operands[0];
            }
            matches!(graph.node(id).op, Op::Input { index } if self.update.roles[index as usize] == Role::Step)
        };
        let [a, b] = graph.node(id).operands[..] else { return false };
        step(a) && constant_of(graph, b) == Some(1.0) || step(b) && constant_of(graph, a) == Some(1.0)
    }
}

/// The function of a scalar operation. Logic of truths, which are 1 and 0, is arithmetic of these: each argument an operand or a number.
fn bool_or_plain(op: ScalarOp, operand: DType) -> Option<(Fun, Vec<Result<Arg, usize>>)> {
    let all = |fun: ScalarOp, n: usize| Some((Fun::Plain(fun), (0..n).map(Err).collect()));
    match op {
        ScalarOp::And if operand == DType::Bool => all(ScalarOp::Min, 2),
        ScalarOp::Or if operand == DType::Bool => all(ScalarOp::Max, 2),
        ScalarOp::Xor if operand == DType::Bool => all(ScalarOp::Ne, 2),
        ScalarOp::Not if operand == DType::Bool => Some((Fun::Plain(ScalarOp::Eq), vec![Err(0), Ok(Arg::Const(0.0))])),
        ScalarOp::And | ScalarOp::Or | ScalarOp::Xor | ScalarOp::Not | ScalarOp::Shl | ScalarOp::Shr | ScalarOp::Trunc => None,
        _ => all(op, op.arity()),
    }
}

/// An operation in words.
fn words(op: &Op) -> &'static str {
    match op {
        Op::Cond { .. } => "a condition at run time",
        Op::Loop(_) => "a loop at run time",
        Op::Dot(_) => "matrix products",
        Op::Conv { .. } => "convolutions",
        Op::Lib(_) => "linear algebra",
        Op::RandomBits { .. } | Op::RandomFold { .. } => "random numbers",
        Op::ArgSort { .. } | Op::ArgReduce { .. } => "the order of elements",
        Op::Reduce { .. } => "reductions other than sums of whole leaves",
        Op::Callback { .. } => "the loss at other weights",
        Op::Iota { .. } | Op::Gather { .. } | Op::Scatter { .. } => "positions of elements",
        _ => "operations on whole arrays",
    }
}
