//! `vmap`: a function of one element as a function of a whole axis of them.

use crate::evaluator::{Eval, Evaluator};
use crate::grad::put_arrays;
use crate::tally::Count;
use crate::tree::{describe, leaves};
use crate::value::{CallArg, Value};
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_ir::graph::{NodeId, ReduceOp};
use optc_mid::batch::batch;
use optc_ops::{Array, Dim, Fit};
use std::rc::Rc;

/// Which axis of an argument `vmap` maps over; `None`: the argument is the same for all elements.
pub type MapAxis = Option<i64>;

/// Axes of `vmap`, as given.
#[derive(Clone, Debug, PartialEq)]
pub enum MapAxes {
    /// The same for all arguments.
    All(MapAxis),
    /// One entry per argument.
    Each(Vec<MapAxis>),
}

/// The batch: its size, and the argument that it was first seen in.
struct Batch {
    size: Dim,
    place: Span,
}

impl Evaluator<'_> {
    /// The `axes` of `vmap(f, axes = …)`.
    ///
    /// # Errors
    /// An entry that is neither an integer known when compiled nor `none`.
    pub(crate) fn map_axes(&mut self, value: &Value, span: Span) -> Eval<MapAxes> {
        let one = |v: &Value| match v {
            Value::None => Some(None),
            Value::Int(d) => d.known().map(Some),
            _ => None,
        };
        let axes = match value {
            Value::Tuple(items) | Value::List(items) => items.iter().map(one).collect::<Option<Vec<_>>>().map(MapAxes::Each),
            v => one(v).map(MapAxes::All),
        };
        match axes {
            Some(axes) => Ok(axes),
            None => {
                self.fail(Diagnostic::error(Code("E0333"), span, "`axes` holds an axis number or `none` for each argument").help(
                    "`vmap(f, axes = (0, none))` maps over the first axis of the first argument and passes the second one on as it is",
                ))
            }
        }
    }
    /// `vmap(f, axes)(args)`.
    ///
    /// # Errors
    /// Arguments without the axis, axes of different lengths, what `f` reports.
    pub(crate) fn apply_vmap(&mut self, f: &Value, axes: &MapAxes, args: Vec<CallArg>, span: Span) -> Eval {
        let axes: Vec<MapAxis> = match axes {
            MapAxes::All(axis) => vec![*axis; args.len()],
            MapAxes::Each(axes) if axes.len() == args.len() => axes.clone(),
            MapAxes::Each(axes) => {
                return self.fail(Diagnostic::error(
                    Code("E0428"),
                    span,
                    format!("`axes` has {} entries, but the function is called with {} arguments", axes.len(), args.len()),
                ));
            }
        };
        if args.iter().zip(&axes).any(|(a, axis)| axis.is_some() && matches!(a.value, Value::Unknown)) {
            return Ok(Value::Unknown);
        }
        let mut batch_of: Option<Batch> = None;
        let mut mapped: Vec<Array> = Vec::new();
        let mut inner = args;
        for (arg, axis) in inner.iter_mut().zip(&axes) {
            let Some(axis) = axis else { continue };
            let (value, at) = (arg.value.clone(), arg.span);
            if leaves(&value).is_empty() {
                let what = describe(&value);
                return self.fail(
                    Diagnostic::error(Code("E0428"), at, format!("{what} has no axis to map over"))
                        .help("`none` passes an argument on as it is: `axes = (0, none)`"),
                );
            }
            arg.value = self.map_tree(&value, at, &mut |ev, _, leaf| {
                if matches!(leaf, Value::Unknown) {
                    return Ok(Value::Unknown);
                }
                let array = ev.with_axis_first(leaf, *axis, at)?;
                ev.same_batch(&mut batch_of, &array, *axis, at)?;
                mapped.push(array.clone());
                let element = Array { shape: array.shape[1..].to_vec(), ..array };
                Ok(Value::Array(element))
            })?;
        }
        let Some(Batch { size, .. }) = batch_of else {
            if self.checking() && inner.iter().any(|a| leaves(&a.value).iter().any(|(_, v)| matches!(v, Value::Unknown))) {
                return Ok(Value::Unknown);
            }
            return self.fail(
                Diagnostic::error(Code("E0428"), span, "`vmap` maps over no argument")
                    .help("give at least one argument an axis: `vmap(f, axes = (0, none))(xs, y)`"),
            );
        };
        if self.only_looked_at() {
            if self.cx.emitting() {
                let mut mapped = mapped.iter();
                for (arg, _) in inner.iter_mut().zip(&axes).filter(|(_, axis)| axis.is_some()) {
                    arg.value = self.first_elements(&arg.value, &mut mapped);
                }
            }
            return self.look_at_vmap(f, inner, &size, span);
        }
        let n = size.known().unwrap_or(0).max(0) as usize;
        let mut inputs = vec![Array { dtype: DType::I32, shape: Vec::new(), weak: false, node: None }];
        inputs.extend(mapped.iter().map(|a| Array { shape: a.shape[1..].to_vec(), ..a.clone() }));
        let traced = self.trace(&inputs, span, &mut |ev, inputs| {
            let mut inputs = inputs.into_iter();
            // Draws depend on the batch index as on the index of a loop.
            let index = inputs.next().map_or(Value::Unknown, Value::Array);
            ev.counters.push(index);
            let mut args = inner.clone();
            for (arg, axis) in args.iter_mut().zip(&axes) {
                if axis.is_some() {
                    arg.value = put_arrays(&arg.value, &mut inputs);
                }
            }
            let result = ev.apply(f, args, span);
            ev.counters.pop();
            ev.only_arrays(&result?, span)
        })?;
        if let Some((path, _)) = traced.recorded.buffers.first() {
            return self.fail(
                Diagnostic::error(Code("E0710"), span, format!("the buffer `{path}` would change for each element of `vmap`"))
                    .note("changes of buffers under `vmap` are not yet supported")
                    .help("call the layer on the whole batch, outside `vmap`; where `training` is false, as in `apply(net, p, x)`, buffers stay as they are"),
            );
        }
        let mut flags = vec![true; inputs.len()];
        flags.resize(traced.graph.inputs.len(), false);
        let batched = batch(&traced.graph, &flags, n, &vec![true; traced.graph.outputs.len()]);
        self.cx.at(span);
        let origin = self.cx.origin;
        let mut operands = vec![self.cx.graph().iota(DType::I32, &[n], 0, origin)];
        operands.extend(mapped.iter().chain(&traced.captured).map(|a| self.cx.node(a)).collect::<Vec<NodeId>>());
        let outputs = self.cx.graph().inline(&batched.graph, &operands, "vmap");
        // Metrics are sums.
        let mut arrays = Vec::with_capacity(outputs.len());
        for (k, node) in outputs.into_iter().enumerate() {
            let node = if k < traced.arrays { node } else { self.cx.graph().reduce(ReduceOp::Sum, node, &[0], origin) };
            arrays.push(self.cx.array(node));
        }
        let mut recorded = traced.recorded.with(&mut arrays[traced.arrays..].iter().cloned());
        for tally in recorded.metrics.values_mut() {
            if let Count::Times(times) = &mut tally.count {
                *times *= n as u64;
            }
        }
        self.replay_recorded(recorded);
        Ok(put_arrays(&traced.value, &mut arrays[..traced.arrays].iter().cloned()))
    }
    /// Where the function is only looked at: the result for one element, with the batch in front.
    fn look_at_vmap(&mut self, f: &Value, args: Vec<CallArg>, size: &Dim, span: Span) -> Eval {
        let result = self.one_deeper(|ev| ev.apply(f, args, span))?;
        if matches!(result, Value::Unknown) {
            return Ok(Value::Unknown);
        }
        let result = self.only_arrays(&result, span)?;
        self.map_tree(&result, span, &mut |ev, _, leaf| match leaf {
            Value::Array(a) => {
                let shape: Vec<Dim> = std::iter::once(size.clone()).chain(a.shape.iter().cloned()).collect();
                let spread = optc_ops::broadcast_to(&mut ev.cx, a, &shape);
                ev.lift(spread, span).map(|a| Value::Array(Array { weak: false, ..a }))
            }
            other => Ok(other.clone()),
        })
    }
    /// The first element of each mapped leaf; zeros of an empty batch.
    fn first_elements(&mut self, value: &Value, mapped: &mut dyn Iterator<Item = &Array>) -> Value {
        let mut elements = Vec::new();
        for _ in crate::grad::arrays_of(value) {
            let array = mapped.next().expect("an array for every mapped leaf");
            let shape = self.known_shape(&array.shape);
            let origin = self.cx.origin;
            elements.push(if shape[0] == 0 {
                self.literal(optc_abi::Tensor::zeros(array.dtype, &shape[1..]))
            } else {
                let node = self.cx.node(array);
                let row = self.cx.graph().slice_axis(node, 0, 0, 1, origin);
                let row = self.cx.graph().reshape(row, &shape[1..], origin);
                self.cx.array(row)
            });
        }
        put_arrays(value, &mut elements.into_iter())
    }
    /// A leaf as an array with the mapped axis in front.
    fn with_axis_first(&mut self, leaf: &Value, axis: i64, span: Span) -> Eval<Array> {
        let array = self.array_of(leaf, span)?;
        let rank = array.shape.len() as i64;
        if rank == 0 {
            return self.fail(
                Diagnostic::error(Code("E0428"), span, format!("{} has no axis to map over", describe(leaf)))
                    .help("`none` passes an argument on as it is: `axes = (0, none)`"),
            );
        }
        if !(-rank..rank).contains(&axis) {
            return self.fail(Diagnostic::error(Code("E0428"), span, format!("there is no axis {axis} to map over in {}", describe(leaf))));
        }
        let at = axis.rem_euclid(rank) as usize;
        if at == 0 {
            return Ok(array);
        }
        if !self.cx.emitting() {
            let mut shape = array.shape.clone();
            let size = shape.remove(at);
            shape.insert(0, size);
            return Ok(Array { shape, ..array });
        }
        self.cx.at(span);
        let origin = self.cx.origin;
        let node = self.cx.node(&array);
        let perm: Vec<usize> = std::iter::once(at).chain((0..rank as usize).filter(|&i| i != at)).collect();
        let node = self.cx.graph().permute(node, &perm, origin);
        Ok(self.cx.array(node))
    }
    /// Checks that an array has the batch of those before it.
    fn same_batch(&mut self, batch: &mut Option<Batch>, array: &Array, axis: i64, place: Span) -> Eval<()> {
        let size = array.shape[0].clone();
        match batch {
            Some(known) if known.size.fit(&size) == Fit::Different => {
                let d = Diagnostic::error(
                    Code("E0428"),
                    place,
                    format!("`vmap` maps over axes of different lengths: {} and {size}", known.size),
                )
                .at(format!("axis {axis} has length {size}"));
                let d = if known.place == place { d } else { d.label(known.place, format!("length {}", known.size)) };
                self.fail(d)
            }
            Some(known) => {
                if known.size.known().is_none() && size.known().is_some() {
                    known.size = size;
                }
                Ok(())
            }
            None => {
                *batch = Some(Batch { size, place });
                Ok(())
            }
        }
    }
    /// A tree with its numbers and lists of numbers as arrays.
    pub(crate) fn only_arrays(&mut self, value: &Value, span: Span) -> Eval {
        let value = self.schedule_now(value, span)?;
        self.map_tree(&value, span, &mut |ev, _, leaf| match leaf {
            Value::Unknown => Ok(Value::Unknown),
            Value::Float(_) => ev.float_of(leaf, span).map(Value::Array),
            leaf => {
                let array = ev.array_of(leaf, span)?;
                if array.weak && array.dtype.is_float() {
                    let float = ev.cx.float;
                    return ev.cast(&Value::Array(Array { weak: false, ..array }), float, span);
                }
                Ok(Value::Array(Array { weak: false, ..array }))
            }
        })
    }
}

/// `vmap(f)` and the like as functions.
pub(crate) fn transformed(t: crate::value::Transform) -> Value {
    Value::Fn(Rc::new(crate::value::FnValue::Transformed(t)))
}
