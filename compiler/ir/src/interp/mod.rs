//! The reference interpreter of graphs: slow, plain, and the judge of everything else.
//!
//! Floats are computed in f64. With [`Rounding::Typed`] each node's result is rounded to its element type, as a program does; sums and products
//! of reductions, matrix products and convolutions are rounded once at the end. With [`Rounding::Exact`] nothing is rounded, so that gradients
//! of an f32 graph can be held against finite differences. Integers are computed in i64 and wrapped to their type.

mod attention;
mod element;
mod library;
mod linear;
mod movement;
mod value;
mod watch;

pub(crate) use element::{float_bits, float_from_bits};
pub use element::{float_identity, int_identity, step_of};
pub use value::{Data, Value};
pub use watch::{Watch, interpret_watched};

use crate::graph::{Attention, AttentionOp, Graph, LibCall, LoopOp, NodeId, NodeTy, Op, Origin, Ty};
use optc_abi::{DType, Tensor};
use std::fmt;
use std::rc::Rc;
use watch::Unwatched;

/// Whether results are rounded to their element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rounding {
    /// After each node, to the node's element type.
    #[default]
    Typed,
    /// Not at all: every float stays f64. Inputs of float type may be given as f64, and float results are given as f64.
    Exact,
}

/// Why a graph could not be interpreted: wrong inputs, or a run-time error such as an index out of range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpError {
    /// What happened.
    pub message: String,
    /// Where the failing node comes from.
    pub origin: Origin,
}

impl fmt::Display for InterpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for InterpError {}

/// The results of a graph on these inputs, rounded like a program.
///
/// # Errors
/// If number or types of the inputs do not fit, or an index of a gather or scatter is out of range.
pub fn interpret(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, InterpError> {
    interpret_with(graph, inputs, Rounding::Typed)
}

/// The results of a graph on these inputs under a rounding mode.
///
/// # Errors
/// As [`interpret`].
pub fn interpret_with(graph: &Graph, inputs: &[Tensor], rounding: Rounding) -> Result<Vec<Tensor>, InterpError> {
    let tags = vec![(); inputs.len()];
    let results = interpret_watched(graph, inputs, tags, rounding, &mut Unwatched)?;
    Ok(results.into_iter().map(|(value, ())| value).collect())
}

/// The inputs as values.
fn arguments(graph: &Graph, inputs: &[Tensor], rounding: Rounding) -> Result<Vec<Rc<Value>>, InterpError> {
    let fail = |message: String| InterpError { message, origin: Origin::default() };
    if inputs.len() != graph.inputs.len() {
        return Err(fail(format!("{} inputs for a graph with {}", inputs.len(), graph.inputs.len())));
    }
    let mut args = Vec::with_capacity(inputs.len());
    for (tensor, input) in inputs.iter().zip(&graph.inputs) {
        let ty = graph.ty(input.node);
        let widened = rounding == Rounding::Exact && ty.dtype.is_float() && tensor.dtype == DType::F64;
        if tensor.shape[..] != ty.shape[..] || (tensor.dtype != ty.dtype && !widened) {
            return Err(fail(format!("input `{}` is {}{:?}, not {ty}", input.name, tensor.dtype, tensor.shape)));
        }
        args.push(Rc::new(Value { ty: ty.clone(), data: Data::of(tensor) }));
    }
    Ok(args)
}

/// The results of a library call on given operands.
pub fn library_call(call: LibCall, operands: &[&Tensor], ty: &NodeTy) -> Vec<Tensor> {
    let values: Vec<Rc<Value>> =
        operands.iter().map(|t| Rc::new(Value { ty: Ty::new(t.dtype, t.shape.iter().copied()), data: Data::of(t) })).collect();
    library::run(call, &values, ty).iter().map(|v| v.to_tensor(Rounding::Typed)).collect()
}

/// The results of attention, in the order of batch, rows and columns, on operands in that order.
pub fn attention(what: &Attention, operands: &[&Tensor]) -> Vec<Tensor> {
    let values: Vec<Value> = operands.iter().map(|t| Value { ty: Ty::new(t.dtype, t.shape.iter().copied()), data: Data::of(t) }).collect();
    let dtype = operands[0].dtype;
    let types: Vec<Ty> = what.results(dtype).into_iter().map(|(shape, ty)| Ty::new(ty, what.batch.iter().copied().chain(shape))).collect();
    let turned = types.iter().map(|t| (0..t.rank()).collect()).collect();
    let op = AttentionOp { what: what.clone(), turned };
    let results = attention::run(&op, &values.iter().collect::<Vec<_>>(), &types);
    results.iter().map(|v| v.to_tensor(Rounding::Typed)).collect()
}

/// The value of one array operation (no library call, loop, conditional, call or input) on given operands; what constant folding uses.
///
/// # Errors
/// If an index of a gather or scatter is out of range.
pub fn evaluate(op: &Op, operands: &[&Tensor], ty: &Ty) -> Result<Tensor, String> {
    let values: Vec<Rc<Value>> =
        operands.iter().map(|t| Rc::new(Value { ty: Ty::new(t.dtype, t.shape.iter().copied()), data: Data::of(t) })).collect();
    Ok(array(op, &values, ty, Rounding::Typed)?.to_tensor(Rounding::Typed))
}

/// A value and what is remembered with it.
type Tagged<T> = (Rc<Value>, T);

/// Results of a node: one, or those of a tuple.
enum Slot<T> {
    One(Tagged<T>),
    Many(Vec<Tagged<T>>),
}

fn run<W: Watch>(graph: &Graph, args: &[Tagged<W::Tag>], rounding: Rounding, watch: &mut W) -> Result<Vec<Tagged<W::Tag>>, InterpError> {
    let live = graph.live();
    let mut uses = vec![0usize; graph.len()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        for operand in &graph.node(id).operands {
            uses[operand.index()] += 1;
        }
    }
    for output in &graph.outputs {
        uses[output.index()] += 1;
    }
    let mut slots: Vec<Option<Slot<W::Tag>>> = (0..graph.len()).map(|_| None).collect();
    for id in graph.ids() {
        if !live[id.index()] {
            continue;
        }
        let node = graph.node(id);
        let slot = step(graph, id, &slots, args, rounding, watch).map_err(|e| match e {
            Failure::Here(message) => InterpError { message, origin: graph.origin(id) },
            Failure::Inside(error) => error,
        })?;
        slots[id.index()] = Some(slot);
        // Memory of large graphs: a value is dropped after its last use.
        for operand in &node.operands {
            uses[operand.index()] -= 1;
            if uses[operand.index()] == 0 {
                slots[operand.index()] = None;
            }
        }
    }
    Ok(graph.outputs.iter().map(|o| one(&slots, *o)).collect())
}

enum Failure {
    Here(String),
    Inside(InterpError),
}
impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure::Here(message)
    }
}
impl From<InterpError> for Failure {
    fn from(error: InterpError) -> Self {
        Failure::Inside(error)
    }
}

fn one<T: Clone>(slots: &[Option<Slot<T>>], id: NodeId) -> Tagged<T> {
    match &slots[id.index()] {
        Some(Slot::One(value)) => value.clone(),
        _ => panic!("compiler bug: node {id:?} has no array value"),
    }
}

fn step<W: Watch>(
    graph: &Graph,
    id: NodeId,
    slots: &[Option<Slot<W::Tag>>],
    args: &[Tagged<W::Tag>],
    rounding: Rounding,
    watch: &mut W,
) -> Result<Slot<W::Tag>, Failure> {
    let node = graph.node(id);
    let operands = || -> Vec<Tagged<W::Tag>> { node.operands.iter().map(|&o| one(slots, o)).collect() };
    match &node.op {
        Op::Input { index } => Ok(Slot::One(args[*index as usize].clone())),
        Op::Result { index } => match &slots[node.operands[0].index()] {
            Some(Slot::Many(values)) => Ok(Slot::One(values[*index].clone())),
            _ => panic!("compiler bug: result of a node that is no tuple"),
        },
        Op::Loop(l) => Ok(Slot::Many(run_loop(l, &operands(), rounding, watch)?)),
        Op::Cond { then, otherwise } => {
            let values = operands();
            let branch = if values[0].0.ints()[0] != 0 { then } else { otherwise };
            Ok(Slot::Many(run(branch, &values[1..], rounding, watch)?))
        }
        Op::Call(c) => Ok(Slot::Many(run(&c.body, &operands(), rounding, watch)?)),
        Op::Attention(attention) => {
            let NodeTy::Tuple(types) = &node.ty else { panic!("compiler bug: attention that is no tuple") };
            let operands = operands();
            let values: Vec<&Value> = operands.iter().map(|(v, _)| &**v).collect();
            let mut results = Vec::new();
            for mut value in attention::run(attention, &values, types) {
                if rounding == Rounding::Typed {
                    value.round();
                }
                let tag = watch.made(graph, id, &operands, &value);
                results.push((Rc::new(value), tag));
            }
            Ok(Slot::Many(results))
        }
        Op::AllReduce => Err("sums over devices are for whoever runs the program".to_string().into()),
        Op::Callback { function, .. } => Err(format!("callback {function} is for whoever runs the program").into()),
        Op::Lib(call) => {
            let operands = operands();
            let values: Vec<Rc<Value>> = operands.iter().map(|(v, _)| v.clone()).collect();
            let mut results = Vec::new();
            for mut value in library::run(*call, &values, &node.ty) {
                if rounding == Rounding::Typed {
                    value.round();
                }
                let tag = watch.made(graph, id, &operands, &value);
                results.push((Rc::new(value), tag));
            }
            Ok(match &node.ty {
                NodeTy::Array(_) => Slot::One(results.pop().expect("one result")),
                NodeTy::Tuple(_) => Slot::Many(results),
            })
        }
        op => {
            let NodeTy::Array(ty) = &node.ty else { panic!("compiler bug: {op:?} with a tuple type") };
            let operands = operands();
            let values: Vec<Rc<Value>> = operands.iter().map(|(v, _)| v.clone()).collect();
            let value = array(op, &values, ty, rounding)?;
            let tag = watch.made(graph, id, &operands, &value);
            Ok(Slot::One((Rc::new(value), tag)))
        }
    }
}

fn run_loop<W: Watch>(
    l: &LoopOp,
    operands: &[Tagged<W::Tag>],
    rounding: Rounding,
    watch: &mut W,
) -> Result<Vec<Tagged<W::Tag>>, InterpError> {
    let (trip, args) = match l.trip {
        Some(n) => (n, operands),
        None => (operands[0].0.ints()[0].max(0) as usize, &operands[1..]),
    };
    let (carried, rest) = args.split_at(l.carried);
    let (scanned, invariant) = rest.split_at(l.scanned);
    let mut carried = carried.to_vec();
    let outputs = l.body.output_types();
    let mut stacked: Vec<(Value, W::Tag)> = outputs[l.carried..]
        .iter()
        .map(|ty| (Value::zeros(Ty::new(ty.dtype, std::iter::once(trip).chain(ty.shape.iter().copied()))), W::Tag::default()))
        .collect();
    for pass in 0..trip {
        if l.guard.is_some() && carried[0].0.ints()[0] == 0 {
            break;
        }
        let counter = if l.reverse { trip - 1 - pass } else { pass };
        watch.pass_begins(counter);
        let mut inputs = vec![(Rc::new(Value { ty: Ty::scalar(DType::I32), data: Data::Int(vec![counter as i64]) }), W::Tag::default())];
        inputs.append(&mut carried);
        inputs.extend(scanned.iter().map(|(x, tag)| {
            let row = x.row(counter);
            let tag = watch.part(tag, &row);
            (Rc::new(row), tag)
        }));
        inputs.extend_from_slice(invariant);
        let mut results = run(&l.body, &inputs, rounding, watch)?;
        for ((stack, tag), (row, new)) in stacked.iter_mut().zip(results.drain(l.carried..)) {
            stack.set_row(counter, &row);
            *tag = watch.join(tag, &new);
        }
        carried = results;
        watch.pass_ends();
    }
    carried.extend(stacked.into_iter().map(|(value, tag)| (Rc::new(value), tag)));
    Ok(carried)
}

fn array(op: &Op, x: &[Rc<Value>], ty: &Ty, rounding: Rounding) -> Result<Value, String> {
    let mut value = match op {
        Op::Const(t) => Value { ty: ty.clone(), data: Data::of(t) },
        Op::StopGradient | Op::Swap | Op::Reshape => Value { ty: ty.clone(), data: x[0].data.clone() },
        Op::Iota { .. } | Op::Broadcast { .. } | Op::Permute { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Flip { .. } => {
            movement::rearrange(op, x, ty)
        }
        Op::Concat { .. } | Op::Window { .. } => movement::rearrange(op, x, ty),
        Op::Gather { axis } => movement::gather(&x[0], &x[1], *axis, ty)?,
        Op::Scatter { axis, mode } => movement::scatter(&x[0], &x[1], &x[2], *axis, *mode, rounding)?,
        Op::Map(s) => element::map(*s, x, ty),
        Op::Cast => element::cast(&x[0], ty),
        Op::Bitcast => element::bitcast(&x[0], ty),
        Op::Reduce { kind, axes } => element::reduce(*kind, &x[0], axes, ty),
        Op::Scan { kind, axis, reverse } => element::scan(*kind, &x[0], *axis, *reverse, ty),
        Op::ArgReduce { max, axis } => element::arg_reduce(*max, &x[0], *axis, ty),
        Op::ArgSort { axis, descending } => element::arg_sort(&x[0], *axis, *descending, ty),
        Op::RandomBits { start } => element::random_bits(&x[0], *start + x.get(1).map_or(0, |skipped| skipped.ints()[0] as u64), ty),
        Op::RandomFold { place } => element::random_fold(&x[0], &x[1], *place, ty),
        Op::Dot(dims) => linear::dot(&x[0], &x[1], dims, ty),
        Op::Conv { kind, dims } => linear::conv(*kind, dims, &x[0], &x[1], ty),
        Op::Input { .. }
        | Op::Lib(_)
        | Op::Attention(_)
        | Op::Callback { .. }
        | Op::AllReduce
        | Op::Loop(_)
        | Op::Cond { .. }
        | Op::Call(_)
        | Op::Result { .. } => {
            panic!("compiler bug: {op:?} is no array operation")
        }
    };
    if rounding == Rounding::Typed {
        value.round();
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
