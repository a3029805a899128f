//! Methods of values with methods of their own: models of a run, texts, optimizers outside `train`.

use crate::evaluator::{Eval, Evaluator};
use crate::optimizer::{Asked, Leaf, OptInputs, Pass, StepLoss};
use crate::scope::Scope;
use crate::value::{CallArg, FnValue, OptimizerValue, Transform, Value};
use indexmap::IndexMap;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Expr, ExprKind, Name, Stmt, StmtKind};
use optc_ops::{Array, Dim, Val};
use std::rc::Rc;
use std::sync::Arc;

/// The fields of an optimizer that runs outside `train` (`adam(lr = 1e-2).start(p)`).
const OPTIMIZER: &str = "optimizer";
const STATES: &str = "states";
/// What initial values draw from, where they are made at the first step.
const KEY: &str = "key";

impl Evaluator<'_> {
    /// A method of a value with methods of its own; `None` if it has no such method.
    pub(crate) fn host_method(
        &mut self,
        _scope: &mut Scope,
        value: &Value,
        _base: &Expr,
        name: &Name,
        args: &[CallArg],
        span: Span,
    ) -> Eval<Option<Value>> {
        match value {
            Value::Run(run) => {
                let Some(model) = run.models.get(&name.text).cloned() else { return Ok(None) };
                self.apply(&model, args.to_vec(), span).map(Some)
            }
            Value::Array(a) if &*name.text == "decode" => self.decode(a, args, span),
            Value::Optimizer(o) if &*name.text == "start" => self.start_optimizer(o.clone(), args, span).map(Some),
            Value::Record(fields) if &*name.text == "step" => match fields.get(OPTIMIZER) {
                Some(Value::Optimizer(o)) => self.step_optimizer(o.clone(), fields, args, span).map(Some),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Reports `o.step(f)` whose result nothing takes: it changes nothing. Whether it did.
    pub(crate) fn dropped_step(&mut self, value: &Value, stmt: &Stmt) -> bool {
        let (Value::Record(fields), StmtKind::Expr(e)) = (value, &stmt.kind) else { return false };
        let ExprKind::Call { callee, .. } = &e.kind else { return false };
        let ExprKind::Field(base, method) = &callee.kind else { return false };
        if &*method.text != "step" || !fields.contains_key(OPTIMIZER) || !fields.contains_key(STATES) {
            return false;
        }
        let name = match &base.kind {
            ExprKind::Name(n) => n.to_string(),
            _ => "o".to_string(),
        };
        self.report(
            Diagnostic::error(Code("E0356"), e.span, "the result of this step is thrown away: values do not change by themselves")
                .help(format!("`{name} <- {name}.step(…)`, with `var {name} = …` before")),
        );
        true
    }

    /// The leaves of a parameter tree as an optimizer sees them, with gradients from a tree of the same structure.
    fn optimizer_leaves(&mut self, tree: &Value, gradients: Option<&Value>, span: Span) -> Eval<Vec<Leaf>> {
        let parameters = self.tree_leaves(tree, span)?;
        let gradients = match gradients {
            Some(g) => Some(self.tree_leaves(g, span)?),
            None => None,
        };
        let mut leaves = Vec::new();
        for (k, (path, value)) in parameters.iter().enumerate() {
            let w = self.array_of(value, span)?;
            if !w.dtype.is_float() {
                let of = if path.is_empty() { String::new() } else { format!(" `{path}`") };
                let what = crate::tree::array_type(&w);
                return self.fail(
                    Diagnostic::error(Code("E0339"), span, format!("an optimizer moves float arrays, but the parameter{of} is {what}"))
                        .help("convert it: `x as f32`"),
                );
            }
            let g = match &gradients {
                None => w.clone(),
                Some(all) => match all.get(k) {
                    Some((p, g)) if p == path => self.array_of(g, span)?,
                    _ => {
                        return self.fail(
                            Diagnostic::error(Code("E0347"), span, "the gradient is not a tree like the parameters")
                                .at(format!("no leaf `{path}` in its place"))
                                .help("`grad(f)(p)` is a tree like `p`"),
                        );
                    }
                },
            };
            if gradients.is_some() && optc_ops::broadcast_to(&mut self.cx, &g, &w.shape).is_err() {
                let of = if path.is_empty() { String::new() } else { format!(" `{path}`") };
                let message =
                    format!("the gradient{of} is {}, but the parameter is {}", crate::tree::array_type(&g), crate::tree::array_type(&w));
                return self.fail(Diagnostic::error(Code("E0420"), span, message).help("`grad(f)(p)` is a tree like `p`"));
            }
            let path = if path.is_empty() { Arc::from("w") } else { path.clone() };
            leaves.push(Leaf { path, w, g });
        }
        Ok(leaves)
    }

    fn scalar_array(&mut self, value: Val, dtype: DType, span: Span) -> Eval<Array> {
        let made = optc_ops::materialize(&mut self.cx, &value, Some(dtype));
        self.lift(made, span)
    }

    /// `adam(lr = 1e-2).start(p)`: a tree with the parameters, the states and the counter.
    fn start_optimizer(&mut self, optimizer: Rc<OptimizerValue>, args: &[CallArg], span: Span) -> Eval {
        let mut tree = None;
        let mut total = 0;
        for arg in args {
            match arg.name.as_deref() {
                Some("total_steps") => total = self.host_int(&arg.value, arg.span, "total_steps")?,
                None if tree.is_none() => tree = Some(arg.value.clone()),
                _ => return self.error("E0332", arg.span, "`start` takes the parameters and `total_steps`"),
            }
        }
        let Some(tree) = tree else { return self.error("E0331", span, "`start` needs the parameters") };
        if holds_unknown(&tree) {
            return Ok(Value::Unknown);
        }
        let mut leaves = self.optimizer_leaves(&tree, None, span)?;
        for leaf in &mut leaves {
            leaf.g = self.zeros_like(&leaf.w);
        }
        let step = self.scalar_array(Val::Int(Dim::from(0i64)), DType::I32, span)?;
        let key = Some(self.draw_key(span));
        let inputs = OptInputs {
            pass: Pass::Init,
            leaves,
            step: step.clone(),
            total_steps: Some(total),
            scalars: vec![(Arc::from("loss"), Value::Float(Some(f64::NAN)))],
            recorded: Vec::new(),
            states: IndexMap::new(),
            key: key.clone(),
            inputs: None,
            prefix: String::new(),
            all_leaves: true,
            apart: Default::default(),
            loss: None,
        };
        let out = self.run_optimizer(&optimizer, inputs)?;
        let states: IndexMap<Arc<str>, Value> = out.states.into_iter().map(|(n, a)| (Arc::from(n), Value::Array(a))).collect();
        let loss = self.scalar_array(Val::Float(Some(f64::NAN)), self.cx.float, span)?;
        let mut fields: IndexMap<Arc<str>, Value> = IndexMap::new();
        fields.insert(Arc::from("w"), tree.clone());
        fields.insert(Arc::from("eval"), tree);
        fields.insert(Arc::from("loss"), Value::Array(loss));
        fields.insert(Arc::from("step"), Value::Array(step));
        fields.insert(Arc::from("total_steps"), Value::Int(Dim::from(total)));
        fields.insert(Arc::from(STATES), Value::Record(Rc::new(states)));
        if let Some(key) = key.filter(|_| self.state_uses_gradient(&optimizer)) {
            fields.insert(Arc::from(KEY), Value::Array(key));
        }
        fields.insert(Arc::from(OPTIMIZER), Value::Optimizer(optimizer));
        Ok(Value::Record(Rc::new(fields)))
    }

    /// `o.step(f)` on a scalar function of the parameters, `o.step(g = gradients)` on a gradient at hand.
    fn step_optimizer(
        &mut self,
        optimizer: Rc<OptimizerValue>,
        fields: &Rc<IndexMap<Arc<str>, Value>>,
        args: &[CallArg],
        span: Span,
    ) -> Eval {
        let tree = fields["w"].clone();
        let (loss, gradients) = match args {
            [arg] if arg.name.as_deref() == Some("g") => (fields["loss"].clone(), arg.value.clone()),
            [arg] if arg.name.is_none() && !matches!(arg.value, Value::Fn(_) | Value::Model(_) | Value::Unknown) => {
                let what = crate::tree::describe(&arg.value);
                return self.fail(
                    Diagnostic::error(Code("E0333"), arg.span, format!("`step` takes a function of the parameters, this is {what}"))
                        .help("on a gradient at hand: `o.step(g = gradients)`"),
                );
            }
            [arg] if arg.name.is_none() => {
                let f = Value::Fn(Rc::new(FnValue::Transformed(Transform::Grad { f: arg.value.clone(), wrt: Vec::new(), value: true })));
                match self.apply(&f, vec![CallArg { name: None, value: tree.clone(), span }], span)? {
                    Value::Tuple(parts) if parts.len() == 2 => (parts[0].clone(), parts[1].clone()),
                    _ => return Ok(Value::Unknown),
                }
            }
            _ => {
                return self.fail(
                    Diagnostic::error(Code("E0331"), span, "`step` needs a function of the parameters or a gradient")
                        .help("`o.step(f)` or `o.step(g = gradients)`"),
                );
            }
        };
        if holds_unknown(&tree) || holds_unknown(&gradients) {
            return Ok(Value::Unknown);
        }
        let leaves = self.optimizer_leaves(&tree, Some(&gradients), span)?;
        let loss_at: Option<Rc<dyn StepLoss>> = match args {
            [arg] if arg.name.is_none() => Some(Rc::new(FunctionLoss {
                f: arg.value.clone(),
                tree: tree.clone(),
                key: self.key.clone(),
                counters: self.counters.clone(),
                place: self.instance.place,
                call: span,
            })),
            _ => None,
        };
        let Value::Array(step) = &fields["step"] else { return Ok(Value::Unknown) };
        let mut states = IndexMap::new();
        if let Value::Record(all) = &fields[STATES] {
            for (name, value) in all.iter() {
                if let Value::Array(a) = value {
                    states.insert(name.to_string(), a.clone());
                }
            }
        }
        let total = match &fields["total_steps"] {
            Value::Int(d) => d.known().unwrap_or(0),
            _ => 0,
        };
        if let Some(Value::Array(key)) = fields.get(KEY) {
            let first = FirstStep { leaves: &leaves, step, total_steps: total, key, loss: loss_at.clone() };
            self.first_states(&optimizer, first, &mut states, span)?;
        }
        let loss_array = self.float_scalar(&loss, span, "the loss")?;
        let weak = self.weak_float(&loss_array);
        let base = self.draw_key(span);
        let key = Some(self.fold_key(&base, crate::train::FOLD_STEP, Some(step)));
        let inputs = OptInputs {
            pass: Pass::Step,
            leaves,
            step: step.clone(),
            total_steps: Some(total),
            scalars: vec![(Arc::from("loss"), Value::Array(weak))],
            recorded: vec![(Arc::from("loss"), fields["loss"].clone())],
            states,
            key,
            inputs: None,
            prefix: String::new(),
            all_leaves: true,
            apart: Default::default(),
            loss: loss_at,
        };
        let known = self.diagnostics.len();
        let out = self.run_optimizer(&optimizer, inputs);
        if out.is_err() {
            // What shows in the body may be a mistake of what it is given.
            self.name_call(known, span, "in this step", |d| d.primary.span.source != span.source);
        }
        let out = out?;
        let next = self.arithmetic(optc_front::ast::BinaryOp::Add, Value::Array(step.clone()), Value::Int(Dim::from(1i64)), span)?;
        let next = self.array_of(&next, span)?;
        let next = self.cast_array(&next, DType::I32);
        let new = self.rebuild_tree(&tree, &mut out.w.into_iter().map(Value::Array));
        let mut after = (**fields).clone();
        let states: IndexMap<Arc<str>, Value> = out.states.into_iter().map(|(n, a)| (Arc::from(n), Value::Array(a))).collect();
        after.insert(Arc::from("w"), new.clone());
        after.insert(Arc::from("loss"), Value::Array(loss_array));
        after.insert(Arc::from("step"), Value::Array(next.clone()));
        after.insert(Arc::from(STATES), Value::Record(Rc::new(states.clone())));
        let evaluated = if out.eval.is_some() {
            let leaves = self.optimizer_leaves(&new, None, span)?;
            let states =
                states.iter().filter_map(|(n, v)| if let Value::Array(a) = v { Some((n.to_string(), a.clone())) } else { None }).collect();
            let inputs = OptInputs {
                pass: Pass::Eval,
                leaves,
                step: next,
                total_steps: Some(total),
                scalars: vec![(Arc::from("loss"), Value::Float(Some(f64::NAN)))],
                recorded: Vec::new(),
                states,
                key: None,
                inputs: None,
                prefix: String::new(),
                all_leaves: true,
                apart: Default::default(),
                loss: None,
            };
            let weights = self.run_optimizer(&optimizer, inputs)?.eval.unwrap_or_default();
            self.rebuild_tree(&new, &mut weights.into_iter().map(Value::Array))
        } else {
            new
        };
        after.insert(Arc::from("eval"), evaluated);
        Ok(Value::Record(Rc::new(after)))
    }
}

/// What initial values of states see at the first step.
struct FirstStep<'a> {
    leaves: &'a [Leaf],
    /// Steps made before.
    step: &'a Array,
    total_steps: i64,
    key: &'a Array,
    loss: Option<Rc<dyn StepLoss>>,
}

impl Evaluator<'_> {
    /// States that begin with a function of the gradient: at the first step their initial values take the place of those made without one.
    fn first_states(
        &mut self,
        optimizer: &OptimizerValue,
        first: FirstStep<'_>,
        states: &mut IndexMap<String, Array>,
        span: Span,
    ) -> Eval<()> {
        let inputs = OptInputs {
            pass: Pass::Init,
            leaves: first.leaves.to_vec(),
            step: self.scalar_array(Val::Int(Dim::from(0i64)), DType::I32, span)?,
            total_steps: Some(first.total_steps),
            scalars: vec![(Arc::from("loss"), Value::Float(Some(f64::NAN)))],
            recorded: Vec::new(),
            states: IndexMap::new(),
            key: Some(first.key.clone()),
            inputs: None,
            prefix: String::new(),
            all_leaves: true,
            apart: Default::default(),
            loss: first.loss,
        };
        let made = self.run_optimizer(optimizer, inputs)?.states;
        let zero = Value::Int(Dim::from(0i64));
        let begins = self.arithmetic(optc_front::ast::BinaryOp::Eq, Value::Array(first.step.clone()), zero, span)?;
        for (name, value) in made {
            let Some(state) = states.get_mut(&name) else { continue };
            let chosen = self.builtin("where", vec![begins.clone(), Value::Array(value), Value::Array(state.clone())], span)?;
            *state = self.array_of(&chosen, span)?;
        }
        Ok(())
    }
}

/// Whether a leaf of a tree is not known while checking.
fn holds_unknown(tree: &Value) -> bool {
    crate::tree::leaves(tree).iter().any(|(_, leaf)| matches!(leaf, Value::Unknown))
}

/// A scalar function of the parameters as the loss of a step.
struct FunctionLoss {
    f: Value,
    /// The parameters, for their structure.
    tree: Value,
    /// What its draws depend on.
    key: Option<Array>,
    counters: Vec<Value>,
    place: u64,
    /// Where the step stands: its evaluations of the function repeat the draws of the first.
    call: Span,
}

impl StepLoss for FunctionLoss {
    fn at(&self, ev: &mut Evaluator<'_>, w: &[Array], asked: &Asked, span: Span) -> Eval<(Array, Vec<Array>)> {
        (ev.key, ev.counters) = (self.key.clone(), self.counters.clone());
        let outer = std::mem::replace(&mut ev.instance.place, self.place);
        let result = self.evaluate(ev, w, asked, self.call, span);
        ev.instance.place = outer;
        result
    }
}

impl FunctionLoss {
    /// `span` is where the step stands, `at` where the body asks.
    fn evaluate(&self, ev: &mut Evaluator<'_>, w: &[Array], asked: &Asked, span: Span, at: Span) -> Eval<(Array, Vec<Array>)> {
        // The function takes the parameters in their own types.
        let types: Vec<Option<DType>> = crate::tree::leaves(&self.tree)
            .into_iter()
            .map(|(_, leaf)| if let Value::Array(a) = leaf { Some(a.dtype) } else { None })
            .collect();
        let tree = |ev: &mut Evaluator<'_>, arrays: &[Array]| {
            let cast: Vec<Array> = arrays.iter().zip(&types).map(|(a, d)| d.map_or(a.clone(), |d| ev.cast_array(a, d))).collect();
            ev.rebuild_tree(&self.tree, &mut cast.into_iter().map(Value::Array))
        };
        let arg = |value: Value| CallArg { name: None, value, span };
        let point = tree(ev, w);
        let derivative = |value| Value::Fn(Rc::new(FnValue::Transformed(Transform::Grad { f: self.f.clone(), wrt: Vec::new(), value })));
        let (value, arrays) = match asked {
            Asked::Value => (ev.apply(&self.f, vec![arg(point)], span)?, Value::None),
            Asked::Gradient => match ev.apply(&derivative(true), vec![arg(point)], span)? {
                Value::Tuple(parts) if parts.len() == 2 => (parts[0].clone(), parts[1].clone()),
                _ => return ev.error("E0339", at, "this function has no gradient"),
            },
            Asked::Product(directions) => {
                let direction = tree(ev, directions);
                match ev.jvp_call(vec![arg(derivative(false)), arg(point), arg(direction)], span)? {
                    Value::Tuple(parts) if parts.len() == 2 => (Value::Float(Some(f64::NAN)), parts[1].clone()),
                    _ => return ev.error("E0339", at, "this function has no gradient"),
                }
            }
            Asked::Each => {
                return ev.fail(
                    Diagnostic::error(Code("E0542"), at, "a function of the parameters has no examples to take gradients of")
                        .help("`grad_each_at` is for optimizers of a `train`, whose loss has a batch"),
                );
            }
        };
        let value = ev.float_scalar(&value, span, "the loss")?;
        let mut out = Vec::new();
        if !matches!(arrays, Value::None) {
            for (_, leaf) in ev.tree_leaves(&arrays, span)? {
                out.push(ev.array_of(&leaf, span)?);
            }
        }
        Ok((value, out))
    }
}
