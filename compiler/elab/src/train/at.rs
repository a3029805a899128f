//! The step's loss at other weights, for optimizers that look at it again.

use super::*;
use crate::optimizer::{Asked, StepLoss};

/// The loss of the step of a `train`.
pub(super) struct TrainLoss {
    pub setup: Rc<TrainSetup>,
    /// Whose loss it is.
    pub player: usize,
    /// The leaves as the player sees them.
    pub decls: Rc<[LeafDecl]>,
    /// All leaves as they come in, parameters and buffers.
    pub leaves: Vec<Array>,
    /// The fields of the step's batches.
    pub fields: Vec<(Arc<str>, Array)>,
    pub key: Array,
    pub f: Rc<LossFunction>,
}

impl StepLoss for TrainLoss {
    fn at(&self, ev: &mut Evaluator<'_>, w: &[Array], asked: &Asked, span: Span) -> Eval<(Array, Vec<Array>)> {
        let mut new = w.iter();
        let leaves: Vec<Array> = self
            .decls
            .iter()
            .zip(&self.leaves)
            .map(|(d, old)| if d.buffer { old.clone() } else { new.next().expect("a weight for every parameter").clone() })
            .collect();
        let leaves = ev.order_leaves(&self.decls, &leaves);
        if let Asked::Each = asked {
            return self.each(ev, &leaves, span);
        }
        if self.setup.accumulate == 1 {
            let rest = self.fields.iter().map(|(_, a)| a.clone()).chain(LossKeys::of_step(&self.key).inputs());
            let args: Vec<Array> = leaves.into_iter().chain(rest).collect();
            return ev.loss_results(&self.f, &args, asked, span);
        }
        // Means over the step's batches, as for the loss itself.
        let k = self.setup.accumulate;
        let float = ev.cx.kept();
        let mut carried = vec![float_scalar(ev, float)];
        if !matches!(asked, Asked::Value) {
            let params = self.decls.iter().filter(|d| !d.buffer).count();
            carried.extend(leaves[..params].iter().map(|w| ev.zeros_like(w)));
        }
        let outs = batches(ev, k, &carried, &self.fields, |ev, counter, slices| {
            let keys = LossKeys { step: self.key.clone(), batch: ev.fold_key(&self.key, FOLD_BATCH, Some(counter)) };
            let args: Vec<Array> = leaves.iter().cloned().chain(slices).chain(keys.inputs()).collect();
            let (value, arrays) = ev.loss_results(&self.f, &args, asked, span)?;
            Ok([value].into_iter().chain(arrays).collect())
        })?;
        let origin = ev.cx.origin;
        let mut means = Vec::with_capacity(outs.len());
        for sum in &outs {
            let node = ev.cx.node(sum);
            let ty = ev.cx.graph().ty(node).clone();
            let scale = ev.cx.graph().splat(&ty, 1.0 / k as f64, origin);
            let node = ev.cx.graph().map(optc_ir::ScalarOp::Mul, &[node, scale], origin);
            means.push(ev.cx.array(node));
        }
        let value = means.remove(0);
        Ok((value, means))
    }
}

impl TrainLoss {
    /// The gradients of the losses of batches of one example, each with the draws that it has in its batch.
    fn each(&self, ev: &mut Evaluator<'_>, leaves: &[Array], span: Span) -> Eval<(Array, Vec<Array>)> {
        let one = TrainSetup { batch: 1, ..(*self.setup).clone() };
        let of_batch = Some((&*self.f, self.setup.batch));
        let f = ev.isolated(RUN_PLACE, None, |ev| ev.loss_function(&one, &one.players[self.player], &self.decls, &[1], of_batch))?;
        let (k, size) = (self.setup.accumulate, self.setup.batch);
        let of_examples = |ev: &mut Evaluator<'_>, fields: &[(Arc<str>, Array)], keys: &LossKeys| {
            let origin = ev.cx.origin;
            let mut single = Vec::new();
            for (name, a) in fields {
                let node = ev.cx.node(a);
                let shape: Vec<usize> = [size, 1].into_iter().chain(ev.cx.graph().ty(node).shape[1..].iter().copied()).collect();
                let node = ev.cx.graph().reshape(node, &shape, origin);
                single.push((name.clone(), ev.cx.array(node)));
            }
            batches(ev, size, &[], &single, |ev, counter, slices| {
                let args = leaves.iter().cloned().chain(slices).chain(keys.inputs()).chain([counter.clone()]);
                Ok(ev.loss_results(&f, &args.collect::<Vec<_>>(), &Asked::Gradient, span)?.1)
            })
        };
        if k == 1 {
            let gradients = of_examples(ev, &self.fields, &LossKeys::of_step(&self.key))?;
            return Ok((float_scalar(ev, ev.cx.kept()), gradients));
        }
        let by_batch = batches(ev, k, &[], &self.fields, |ev, counter, slices| {
            let keys = LossKeys { step: self.key.clone(), batch: ev.fold_key(&self.key, FOLD_BATCH, Some(counter)) };
            let fields: Vec<(Arc<str>, Array)> = self.fields.iter().map(|(n, _)| n.clone()).zip(slices).collect();
            of_examples(ev, &fields, &keys)
        })?;
        let origin = ev.cx.origin;
        let mut gradients = Vec::with_capacity(by_batch.len());
        for a in &by_batch {
            let node = ev.cx.node(a);
            let shape: Vec<usize> = [k * size].into_iter().chain(ev.cx.graph().ty(node).shape[2..].iter().copied()).collect();
            let node = ev.cx.graph().reshape(node, &shape, origin);
            gradients.push(ev.cx.array(node));
        }
        Ok((float_scalar(ev, ev.cx.kept()), gradients))
    }
}

fn float_scalar(ev: &mut Evaluator<'_>, dtype: DType) -> Array {
    let origin = ev.cx.origin;
    let node = ev.cx.graph().scalar(dtype, 0.0, origin);
    ev.cx.array(node)
}

/// A counted loop over the first axis of the fields: what a pass gives is added to what is carried, or stacked if nothing is.
fn batches(
    ev: &mut Evaluator<'_>,
    count: usize,
    carried: &[Array],
    fields: &[(Arc<str>, Array)],
    pass: impl FnOnce(&mut Evaluator<'_>, &Array, Vec<Array>) -> Eval<Vec<Array>>,
) -> Eval<Vec<Array>> {
    let origin = ev.cx.origin;
    let shape_of = |a: &Array| -> Vec<usize> { a.shape.iter().map(|d| d.known().unwrap_or(1) as usize).collect() };
    ev.cx.push_level();
    let counter = ev.cx.input("counter", DType::I32, &[]);
    let before: Vec<Array> = carried.iter().map(|a| ev.cx.input("carried", a.dtype, &shape_of(a))).collect();
    let slices: Vec<Array> = fields.iter().map(|(_, a)| ev.cx.input("slice", a.dtype, &shape_of(a)[1..])).collect();
    let result = pass(ev, &counter, slices);
    let arrays = match result {
        Ok(arrays) => arrays,
        Err(stop) => {
            ev.cx.pop_level();
            return Err(stop);
        }
    };
    let mut outputs = Vec::with_capacity(arrays.len());
    for (k, a) in arrays.iter().enumerate() {
        let node = ev.cx.node(a);
        outputs.push(match before.get(k) {
            Some(sum) => {
                let sum = ev.cx.node(sum);
                ev.cx.graph().map(optc_ir::ScalarOp::Add, &[sum, node], origin)
            }
            None => node,
        });
    }
    ev.cx.graph().outputs = outputs;
    let (body, captured) = ev.cx.pop_level();
    let op = LoopOp { trip: Some(count), reverse: false, guard: None, carried: carried.len(), scanned: fields.len(), body: Arc::new(body) };
    let operands: Vec<NodeId> = carried.iter().chain(fields.iter().map(|(_, a)| a)).chain(&captured).map(|a| ev.cx.node(a)).collect();
    let results = ev.cx.graph().loop_results(op, &operands, origin);
    Ok(results.iter().map(|&n| ev.cx.array(n)).collect())
}

impl Evaluator<'_> {
    /// What is asked of a loss function, in the graph on top.
    fn loss_results(&mut self, f: &LossFunction, args: &[Array], asked: &Asked, span: Span) -> Eval<(Array, Vec<Array>)> {
        let origin = self.cx.origin;
        if let Asked::Value = asked {
            let nodes: Vec<NodeId> = args.iter().chain(&f.captured).map(|a| self.cx.node(a)).collect();
            let results = self.cx.graph().inline(&f.graph, &nodes, "");
            return Ok((self.cx.array(results[0]), Vec::new()));
        }
        let Asked::Product(directions) = asked else {
            let (loss, _, _, gradients) = self.inline_gradients(f, args, span)?;
            return Ok((loss, gradients));
        };
        let wrt: Vec<usize> = (0..f.params).collect();
        let not = |e: optc_mid::differentiate::DiffError| {
            Diagnostic::error(Code("E0720"), e.origin.span, e.message).label(span, "differentiated twice here")
        };
        let gradient = match optc_mid::differentiate::vjp_of(&f.graph, &wrt, &[0]) {
            Ok(g) => g,
            Err(e) => return self.fail(not(e)),
        };
        let outputs = gradient.outputs.len();
        let floats = gradient.outputs[..outputs - f.params].iter().filter(|&&n| gradient.ty(n).dtype.is_float()).count();
        let product = match optc_mid::differentiate::jvp(&gradient, &wrt) {
            Ok(g) => g,
            Err(e) => return self.fail(not(e)),
        };
        let mut nodes: Vec<NodeId> = args.iter().chain(&f.captured).map(|a| self.cx.node(a)).collect();
        let dtype = gradient.ty(gradient.outputs[0]).dtype;
        nodes.push(self.cx.graph().scalar(dtype, 1.0, origin));
        for (v, w) in directions.iter().zip(args) {
            let v = self.cast_array(v, w.dtype);
            nodes.push(self.cx.node(&v));
        }
        let results = self.cx.graph().inline(&product, &nodes, "");
        let arrays: Vec<Array> = results[outputs + floats..].iter().map(|&n| self.cx.array(n)).collect();
        Ok((self.cx.array(results[0]), arrays))
    }
}
