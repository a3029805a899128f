//! Who made the loss NaN or infinite: the step is replayed by the reference interpreter, which notes with each value that is not finite where it comes from.

use optc_abi::{DType, Tensor};
use optc_base::Span;
use optc_elab::program::TrainProgram;
use optc_ir::graph::{Graph, NodeId, Op};
use optc_ir::interp::{Data, Rounding, Value, Watch, interpret_watched};
use std::rc::Rc;

/// Where a value stopped being finite.
pub struct Blame {
    /// The spec text.
    pub span: Span,
    /// The operation, in words.
    pub what: String,
    /// What it gave, and in which passes of the loops around it.
    pub detail: String,
    /// Which loss, in words.
    pub loss: String,
    /// What became of it: `NaN` or `infinite`.
    pub value: &'static str,
}

/// A value that is not finite, where it appeared.
struct Cause {
    span: Span,
    what: String,
    detail: String,
}

/// Notes causes; a tag is the number of one.
#[derive(Default)]
struct Hunt {
    causes: Vec<Cause>,
    /// Passes of the loops around what is evaluated, outermost first.
    passes: Vec<usize>,
}

impl Hunt {
    fn note(&mut self, span: Span, what: String, value: &Value) -> Option<usize> {
        let values = floats(value)?;
        let bad = values.iter().position(|x| !x.is_finite())?;
        let number = if values[bad].is_nan() { "NaN".to_string() } else { values[bad].to_string() };
        let mut detail =
            if values.len() == 1 { format!("gives {number}") } else { format!("gives {number} at element {bad} of {}", values.len()) };
        match self.passes.as_slice() {
            [] => {}
            [pass] => detail += &format!(" in pass {pass} of its loop"),
            passes => {
                let passes: Vec<String> = passes.iter().map(usize::to_string).collect();
                detail += &format!(" in passes {} of its loops", passes.join(", "));
            }
        }
        self.causes.push(Cause { span, what, detail });
        Some(self.causes.len() - 1)
    }
}

impl Watch for Hunt {
    type Tag = Option<usize>;
    fn made(&mut self, graph: &Graph, id: NodeId, operands: &[(Rc<Value>, Self::Tag)], value: &Value) -> Self::Tag {
        if finite(value) {
            return None;
        }
        if let Some(known) = operands.iter().find_map(|(_, tag)| *tag) {
            return Some(known);
        }
        // Infinities that are written down (a mask's -inf) are nobody's fault, unless a NaN is made of them.
        let node = graph.node(id);
        let clean = operands.iter().all(|(v, _)| finite(v));
        let makes_nan = has_nan(value) && !operands.iter().any(|(v, _)| has_nan(v));
        if matches!(node.op, Op::Const(_)) || !(clean || makes_nan) {
            return None;
        }
        let what = match &node.op {
            Op::Map(op) => format!("`{}`", op.name()),
            Op::Reduce { .. } => "a reduction".to_string(),
            Op::Dot(_) => "a matrix product".to_string(),
            Op::Conv { .. } => "a convolution".to_string(),
            Op::Lib(call) => format!("`{}`", call.name()),
            _ => "an operation".to_string(),
        };
        self.note(graph.origin(id).span, what, value)
    }
    fn part(&mut self, whole: &Self::Tag, row: &Value) -> Self::Tag {
        whole.filter(|_| !finite(row))
    }
    fn join(&mut self, rows: &Self::Tag, row: &Self::Tag) -> Self::Tag {
        rows.or(*row)
    }
    fn pass_begins(&mut self, counter: usize) {
        self.passes.push(counter);
    }
    fn pass_ends(&mut self) {
        self.passes.pop();
    }
}

/// Replays a step on its inputs and finds the operation whose result is the first on the way to the loss that is not finite, also inside loops and branches. `None` if the
/// interpreter's loss is finite, or not finite because the spec says so.
pub fn blame(program: &TrainProgram, slots: &[Tensor], rest: Vec<Tensor>) -> Option<Blame> {
    let inputs: Vec<Tensor> = slots.iter().cloned().chain(rest).collect();
    let mut graph: Graph = program.step.graph.clone();
    // Only what the loss depends on.
    graph.outputs = program.loss_outputs().map(|k| graph.outputs[k]).collect();
    let mut hunt = Hunt::default();
    let mut tags = Vec::new();
    for (input, tensor) in graph.inputs.iter().zip(&inputs) {
        tags.push(match input.name.split_once('.') {
            Some(("field", k)) => {
                let name = k.parse().ok().and_then(|k: usize| program.data.as_ref()?.fields.get(k));
                let what = format!("a value of the data `{}`", name.map_or("", |n| &**n));
                hunt.note(program.span, what, &Value { ty: graph.ty(input.node).clone(), data: Data::of(tensor) })
            }
            _ => None,
        });
    }
    let losses = interpret_watched(&graph, &inputs, tags, Rounding::Typed, &mut hunt).ok()?;
    let (k, (loss, tag)) = losses.into_iter().enumerate().find(|(_, (loss, _))| !loss.get_f64(0).is_finite())?;
    let cause = hunt.causes.swap_remove(tag?);
    let name = program.players.get(k).map_or("the loss".to_string(), |p| format!("the loss of `{}`", p.name));
    let value = if loss.get_f64(0).is_nan() { "NaN" } else { "infinite" };
    Some(Blame { span: cause.span, what: cause.what, detail: cause.detail, loss: name, value })
}

/// The values of a float array.
fn floats(value: &Value) -> Option<&[f64]> {
    match &value.data {
        Data::Float(x) if value.ty.dtype != DType::Bool => Some(x),
        _ => None,
    }
}

fn finite(value: &Value) -> bool {
    floats(value).is_none_or(|x| x.iter().all(|x| x.is_finite()))
}

fn has_nan(value: &Value) -> bool {
    floats(value).is_some_and(|x| x.iter().any(|x| x.is_nan()))
}
