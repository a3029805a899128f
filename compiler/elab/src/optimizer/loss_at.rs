//! `loss_at(x)`, `grad_at(x)`, `value_and_grad_at(x)`, `hvp_at(x, v)`, `grad_each_at(x)`: the step's loss at other weights, on the same batch with the same draws.

use super::*;
use crate::tree::array_type;

/// What is asked of a loss.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Its value.
    Value,
    /// Its value and its gradients.
    Gradient,
    /// Its Hessian times these directions.
    Product(Vec<Array>),
    /// The gradients of each example's loss, with a leading axis.
    Each,
}

/// The loss of a step as a function of all weights.
pub trait StepLoss {
    /// The value (where it was asked for), and one array per leaf (none where only the value was).
    ///
    /// # Errors
    /// What the loss reports; what cannot be differentiated.
    fn at(&self, ev: &mut Evaluator<'_>, w: &[Array], asked: &Asked, span: Span) -> Eval<(Array, Vec<Array>)>;
}

impl Evaluator<'_> {
    /// One value for all active leaves, or one each.
    pub(super) fn of_loss(&mut self, name: &str, active: &[usize], values: &[Vec<Value>], span: Span) -> Eval<Vec<Value>> {
        let wanted = if name == "hvp_at" { 2 } else { 1 };
        if values.iter().any(|own| own.len() != wanted) {
            let form =
                if wanted == 2 { "`hvp_at(x, v)` takes weights and a direction" } else { "takes the weights, an expression of the leaf" };
            let form = if wanted == 2 { form.to_string() } else { format!("`{name}(x)` {form}") };
            return self.fail(Diagnostic::error(Code("E0331"), span, form));
        }
        let leaves = self.opt_run().inputs.leaves.clone();
        let mut weights: Vec<Array> = leaves.iter().map(|l| l.w.clone()).collect();
        let mut directions: Vec<Option<Array>> = vec![None; leaves.len()];
        for (&leaf, own) in active.iter().zip(values) {
            let member = self.opt_run().instance.leaves[leaf].clone();
            let (shape, compute) = (leaves[member.index].w.shape.clone(), compute_type(member.leaf.w.dtype));
            if member.leaf.w.shape != shape && !self.checking() {
                let d = Diagnostic::error(
                    Code("E0420"),
                    span,
                    "the loss is a function of the parameters, but this optimizer runs on something else",
                );
                return self.fail(
                    d.note(format!("`{}` is {}", member.leaf.path, array_type(&leaves[member.index].w)))
                        .help("take the gradient in the wrapper and pass it on: `inner.delta(g)`"),
                );
            }
            weights[member.index] = self.fit(&own[0], compute, &member.leaf.w.shape, "x", span)?;
            if let Some(v) = own.get(1) {
                directions[member.index] = Some(self.fit(v, compute, &member.leaf.w.shape, "v", span)?);
            }
        }
        let (loss, arrays) = self.loss_arrays(name, &leaves, &weights, directions, span)?;
        if matches!(name, "loss_at") {
            return Ok(vec![Value::Array(self.weak_float(&loss))]);
        }
        let value = Value::Array(self.weak_float(&loss));
        let mut out = Vec::with_capacity(active.len());
        for &leaf in active {
            let member = &self.opt_run().instance.leaves[leaf];
            let (index, compute) = (member.index, compute_type(member.leaf.w.dtype));
            let array = Value::Array(self.cast_array(&arrays[index], compute));
            out.push(if name == "value_and_grad_at" { Value::Tuple(Rc::new(vec![value.clone(), array])) } else { array });
        }
        Ok(out)
    }

    /// Value and arrays for all leaves; types only where values do not matter.
    fn loss_arrays(
        &mut self,
        name: &str,
        leaves: &[Leaf],
        weights: &[Array],
        directions: Vec<Option<Array>>,
        span: Span,
    ) -> Eval<(Array, Vec<Array>)> {
        let loss = self.opt_run().inputs.loss.clone();
        if loss.is_none() && self.cx.emitting() && self.opt_run().inputs.pass == Pass::Step {
            return self.fail(
                Diagnostic::error(Code("E0542"), span, format!("`{name}` needs the loss, but this step was given a gradient"))
                    .help("`o.step(f)` on a function of the parameters, or a `train`"),
            );
        }
        let Some(loss) = loss.filter(|_| self.cx.emitting()) else {
            let value = self.float_number(f64::NAN);
            let mut arrays: Vec<Array> = leaves.iter().map(|l| self.zeros_like(&l.w)).collect();
            if name == "grad_each_at" {
                let n = match self.opt_run().examples.clone() {
                    Some(n) => n,
                    None if self.checking() => self.cx.fresh_symbol("B"),
                    None => Dim::from(1i64),
                };
                self.opt_run().examples = Some(n.clone());
                for a in &mut arrays {
                    let shape: Vec<Dim> = std::iter::once(n.clone()).chain(a.shape.iter().cloned()).collect();
                    let spread = optc_ops::broadcast_to(&mut self.cx, a, &shape);
                    *a = self.lift(spread, span)?;
                }
            }
            return Ok((value, arrays));
        };
        self.asked_again.extend(collectives::OF_LOSS.iter().copied().filter(|known| *known == name));
        let asked = match name {
            "loss_at" => Asked::Value,
            "grad_each_at" => Asked::Each,
            "hvp_at" => {
                let mut all = Vec::with_capacity(leaves.len());
                for (given, leaf) in directions.into_iter().zip(leaves) {
                    all.push(given.unwrap_or_else(|| self.zeros_like(&leaf.w)));
                }
                Asked::Product(all)
            }
            _ => Asked::Gradient,
        };
        // The loss is no part of the body: it has its own draws, and records nothing again.
        let run = self.opt.take();
        let saved = (self.key.clone(), std::mem::replace(&mut self.in_optimizer, false), self.training);
        let recorder = std::mem::take(&mut self.recorder);
        let counters = std::mem::take(&mut self.counters);
        let result = loss.at(self, weights, &asked, span);
        (self.key, self.in_optimizer, self.training) = saved;
        self.counters = counters;
        self.recorder = recorder;
        self.opt = run;
        result
    }
}
