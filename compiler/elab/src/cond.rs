//! `if`: at compile time one branch, at run time a conditional with both.

use crate::evaluator::{Eval, Evaluator};
use crate::scope::Scope;
use crate::tree::{array_type, describe, is_arrayish, leaves, rebuild, same_structure};
use crate::value::Value;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, Expr};
use optc_ir::graph::{Graph, NodeId};
use optc_ops::{Array, Dim, Fit};
use std::rc::Rc;
use std::sync::Arc;

/// A type that a leaf of a loop or conditional is held in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeafTy {
    pub dtype: DType,
    pub shape: Vec<Dim>,
    pub weak: bool,
}

impl LeafTy {
    /// The type a value has by itself: integers i32, floats f64, both weak.
    pub fn of(value: &Value) -> Option<LeafTy> {
        let weak = |dtype| LeafTy { dtype, shape: Vec::new(), weak: true };
        Some(match value {
            Value::Array(a) => LeafTy { dtype: a.dtype, shape: a.shape.clone(), weak: a.weak },
            Value::Int(_) => weak(DType::I32),
            Value::Float(_) => weak(DType::F64),
            Value::Bool(_) => LeafTy { dtype: DType::Bool, shape: Vec::new(), weak: false },
            _ => return None,
        })
    }
    /// The type both fit in, if there is one: numbers take the array's type, a weak integer the float's.
    pub fn meet(&self, other: &LeafTy) -> Option<LeafTy> {
        let spread = |scalar: &LeafTy, array: &LeafTy| -> Option<LeafTy> {
            (array.dtype.is_float() || !scalar.dtype.is_float()).then(|| array.clone())
        };
        match (self.weak, other.weak) {
            (true, true) => Some(LeafTy { dtype: if self.dtype.is_float() { self.dtype } else { other.dtype }, ..self.clone() }),
            (true, false) if other.dtype != DType::Bool => spread(self, other),
            (false, true) if self.dtype != DType::Bool => spread(other, self),
            _ => {
                let same = self.dtype == other.dtype
                    && self.shape.len() == other.shape.len()
                    && self.shape.iter().zip(&other.shape).all(|(a, b)| a.fit(b) != Fit::Different);
                same.then(|| self.clone())
            }
        }
    }
    pub fn text(&self) -> String {
        array_type(&Array { dtype: self.dtype, shape: self.shape.clone(), weak: false, node: None })
    }
}

impl Evaluator<'_> {
    pub(crate) fn if_expr(&mut self, scope: &mut Scope, cond: &Expr, then: &Block, otherwise: Option<&Block>, span: Span) -> Eval {
        let value = self.expr(scope, cond)?;
        let value = self.schedule_now(&value, cond.span)?;
        match self.truth(&value, cond.span)? {
            Some(true) => self.block(scope, then),
            Some(false) => match otherwise {
                Some(b) => self.block(scope, b),
                None => Ok(Value::None),
            },
            None => {
                let run_time = matches!(value, Value::Array(_));
                if self.checking() {
                    self.check_if(scope, then, otherwise, run_time, span)
                } else if run_time {
                    self.run_time_if(scope, &value, cond.span, then, otherwise, span)
                } else {
                    self.error("E0344", cond.span, "this condition is not known at compile time")
                }
            }
        }
    }
    /// Variables of the scope that branches assign.
    fn carried_by(&self, scope: &Scope, blocks: &[Option<&Block>]) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for b in blocks.iter().flatten() {
            for name in crate::walk::assigned(b) {
                if scope.get(&name).is_some() && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }
    /// While checking: both branches, and what they have in common.
    fn check_if(&mut self, scope: &mut Scope, then: &Block, otherwise: Option<&Block>, run_time: bool, span: Span) -> Eval {
        let names = self.carried_by(scope, &[Some(then), otherwise]);
        let (mut a, mut b) = (scope.clone(), scope.clone());
        let first = self.block(&mut a, then);
        let second = match otherwise {
            Some(block) => self.block(&mut b, block),
            None => Ok(Value::None),
        };
        let (first, second) = (first?, second?);
        for name in names {
            let value = |s: &Scope| s.get(&name).map_or(Value::Unknown, |b| b.value.clone());
            let (x, y) = (value(&a), value(&b));
            if run_time && let Some(joined) = self.branch_types(&x, &y, span, then, otherwise, &format!("`{name}`"))? {
                scope.set(&name, joined);
                continue;
            }
            let joined = self.join(&x, &y);
            scope.set(&name, joined);
        }
        if otherwise.is_none() {
            return Ok(Value::None);
        }
        if run_time && let Some(joined) = self.branch_types(&first, &second, span, then, otherwise, "the value")? {
            return Ok(joined);
        }
        Ok(self.join(&first, &second))
    }
    /// The common type of the values of two branches of a run-time condition, an error if there is none.
    fn branch_types(
        &mut self,
        a: &Value,
        b: &Value,
        span: Span,
        then: &Block,
        otherwise: Option<&Block>,
        what: &str,
    ) -> Eval<Option<Value>> {
        if matches!(a, Value::Unknown) || matches!(b, Value::Unknown) {
            return Ok(None);
        }
        let (x, y) = (leaves(a), leaves(b));
        let structured = same_structure(a, b);
        if !structured {
            return self.branches_differ(&describe(a), &describe(b), span, then, otherwise, what);
        }
        let mut out = Vec::new();
        for ((_, p), (_, q)) in x.iter().zip(&y) {
            if matches!(p, Value::Unknown) || matches!(q, Value::Unknown) {
                out.push(Value::Unknown);
                continue;
            }
            let (Some(s), Some(t)) = (self.leaf_ty(p, span)?, self.leaf_ty(q, span)?) else { return Ok(None) };
            match s.meet(&t) {
                Some(ty) => out.push(Value::Array(Array { dtype: ty.dtype, shape: ty.shape, weak: ty.weak, node: None })),
                None => return self.branches_differ(&s.text(), &t.text(), span, then, otherwise, what),
            }
        }
        Ok(Some(rebuild(a, &mut out.into_iter())))
    }
    /// The type of a leaf; lists of numbers count as the arrays they are.
    pub(crate) fn leaf_ty(&mut self, value: &Value, span: Span) -> Eval<Option<LeafTy>> {
        if matches!(value, Value::List(_)) && is_arrayish(value) {
            let a = self.array_of(value, span)?;
            return Ok(LeafTy::of(&Value::Array(a)));
        }
        Ok(LeafTy::of(value))
    }
    fn branches_differ<T>(&mut self, a: &str, b: &str, span: Span, then: &Block, otherwise: Option<&Block>, what: &str) -> Eval<T> {
        let mut d = Diagnostic::error(Code("E0338"), span, format!("{what} has different types in the branches of a run-time condition"))
            .label(tail(then), format!("{a} here"));
        if let Some(b_block) = otherwise {
            d = d.label(tail(b_block), format!("{b} here"));
        } else {
            d = d.note(format!("without the branch it is {b}"));
        }
        self.fail(d.help("convert one of them, or make the condition a compile-time value"))
    }
    /// What two values have in common, while checking.
    pub(crate) fn join(&mut self, a: &Value, b: &Value) -> Value {
        match (a, b) {
            (Value::Unknown, _) | (_, Value::Unknown) => Value::Unknown,
            (Value::Int(x), Value::Int(y)) => Value::Int(if x == y { x.clone() } else { self.cx.fresh_symbol("?") }),
            (Value::Float(x), Value::Float(y)) => Value::Float(if x == y { *x } else { None }),
            (Value::Float(_), Value::Int(_)) | (Value::Int(_), Value::Float(_)) => Value::Float(None),
            (Value::Bool(x), Value::Bool(y)) => Value::Bool(if x == y { *x } else { None }),
            (Value::Array(x), Value::Array(y)) if x.dtype == y.dtype && x.shape.len() == y.shape.len() => {
                let mut shape = Vec::new();
                for (p, q) in x.shape.iter().zip(&y.shape) {
                    shape.push(if p == q { p.clone() } else { self.cx.fresh_symbol("?") });
                }
                Value::Array(Array { dtype: x.dtype, shape, weak: x.weak && y.weak, node: None })
            }
            (Value::None, Value::None) => Value::None,
            (Value::Str(x), Value::Str(y)) if x == y => a.clone(),
            (Value::DType(x), Value::DType(y)) if x == y => a.clone(),
            (Value::Tuple(x), Value::Tuple(y)) if x.len() == y.len() => {
                Value::Tuple(Rc::new(x.iter().zip(y.iter()).map(|(p, q)| self.join(p, q)).collect()))
            }
            (Value::Record(x), Value::Record(y)) if x.len() == y.len() && x.keys().all(|k| y.contains_key(k)) => {
                Value::Record(Rc::new(x.iter().map(|(k, p)| (k.clone(), self.join(p, &y[k]))).collect()))
            }
            (Value::List(x), Value::List(y)) if x.len() == y.len() => {
                Value::List(Rc::new(x.iter().zip(y.iter()).map(|(p, q)| self.join(p, q)).collect()))
            }
            _ => Value::Unknown,
        }
    }
    /// A conditional: both branches become graphs.
    fn run_time_if(
        &mut self,
        scope: &mut Scope,
        cond: &Value,
        cond_span: Span,
        then: &Block,
        otherwise: Option<&Block>,
        span: Span,
    ) -> Eval {
        let names = self.carried_by(scope, &[Some(then), otherwise]);
        if self.initializing() {
            // Parameters are made in the graph at hand: both branches are evaluated, their values chosen.
            return self.chosen_if(scope, cond, &names, then, otherwise, span);
        }
        let buffers = self.recorder.clone();
        let (a, graph_a, captured_a) = self.branch(scope, Some(then), &names, span)?;
        self.recorder = buffers.clone();
        let (b, graph_b, captured_b) = self.branch(scope, otherwise, &names, span)?;
        self.recorder = buffers;
        // Leaves in pairs: those that are the same number or the same outer array in both need no conditional.
        let mut captured: Vec<Array> = captured_a.clone();
        for array in &captured_b {
            if !captured.iter().any(|c| c.node == array.node) {
                captured.push(array.clone());
            }
        }
        let mut builders =
            [BranchBuilder::new(&captured, &captured_a, &graph_a, self), BranchBuilder::new(&captured, &captured_b, &graph_b, self)];
        let mut results: Vec<(Value, Vec<Option<LeafTy>>)> = Vec::new();
        let mut at = [0usize, 0usize];
        for (k, (x, y)) in a.iter().zip(&b).enumerate() {
            let value_needed = k > 0 || otherwise.is_some();
            let name = if k == 0 { "the value".to_string() } else { format!("`{}`", names[k - 1]) };
            let (p, q) = (leaves(x), leaves(y));
            if !same_structure(x, y) || p.len() != q.len() {
                if !value_needed {
                    results.push((Value::None, Vec::new()));
                    at[0] += p.iter().filter(|(_, v)| matches!(v, Value::Array(_))).count();
                    at[1] += q.iter().filter(|(_, v)| matches!(v, Value::Array(_))).count();
                    continue;
                }
                return self.branches_differ(&describe(x), &describe(y), span, then, otherwise, &name);
            }
            let mut types = Vec::new();
            for ((_, u), (_, v)) in p.iter().zip(&q) {
                let same_number = match (u, v) {
                    (Value::Int(m), Value::Int(n)) => m == n,
                    (Value::Float(m), Value::Float(n)) => m == n,
                    (Value::Bool(m), Value::Bool(n)) => m == n,
                    _ => false,
                };
                if same_number {
                    types.push(None);
                    continue;
                }
                let (Some(s), Some(t)) = (LeafTy::of(u), LeafTy::of(v)) else {
                    return self.branches_differ(&describe(u), &describe(v), span, then, otherwise, &name);
                };
                let Some(ty) = s.meet(&t) else {
                    return self.branches_differ(&s.text(), &t.text(), span, then, otherwise, &name);
                };
                for (side, leaf) in [u, v].into_iter().enumerate() {
                    builders[side].push(leaf, &ty, &mut at[side], self);
                }
                types.push(Some(ty));
            }
            results.push((x.clone(), types));
        }
        let [first, second] = builders.map(|b| Arc::new(b.graph));
        self.cx.at(span);
        let origin = self.cx.origin;
        let pred = self.array_of(cond, cond_span)?;
        let pred = self.cx.node(&pred);
        let args: Vec<NodeId> = captured.iter().map(|c| self.cx.node(c)).collect();
        let nodes = if first.outputs.is_empty() { Vec::new() } else { self.cx.graph().cond_results(pred, first, second, &args, origin) };
        let mut nodes = nodes.into_iter();
        let mut values = Vec::new();
        for (model, types) in results {
            let old = leaves(&model);
            let mut new = Vec::new();
            for ((_, leaf), ty) in old.into_iter().zip(types) {
                new.push(match ty {
                    None => leaf,
                    Some(ty) => {
                        let array = self.cx.array(nodes.next().expect("one result per leaf"));
                        Value::Array(Array { weak: ty.weak, ..array })
                    }
                });
            }
            values.push(rebuild(&model, &mut new.into_iter()));
        }
        let mut values = values.into_iter();
        let value = values.next().unwrap_or(Value::None);
        for (name, v) in names.iter().zip(values) {
            scope.set(name, v);
            self.record_buffer(scope, name);
        }
        Ok(value)
    }
    /// One branch: its value and the assigned variables, with the arrays among their leaves as outputs.
    fn branch(&mut self, scope: &Scope, block: Option<&Block>, names: &[Arc<str>], span: Span) -> Eval<(Vec<Value>, Graph, Vec<Array>)> {
        let mut inner = scope.clone();
        self.subgraph(|ev| {
            let value = match block {
                Some(b) => ev.block(&mut inner, b)?,
                None => Value::None,
            };
            let mut values = vec![value];
            for name in names {
                values.push(inner.get(name).map_or(Value::Unknown, |b| b.value.clone()));
            }
            // Lists of numbers become the arrays they are.
            for value in &mut values {
                *value = ev.map_tree(value, span, &mut |ev, _, leaf| match leaf {
                    Value::List(_) => ev.array_of(leaf, span).map(Value::Array),
                    other => Ok(other.clone()),
                })?;
            }
            let arrays = values.iter().flat_map(leaves).filter_map(|(_, v)| if let Value::Array(a) = v { Some(a) } else { None }).collect();
            Ok((values, arrays))
        })
    }
    /// Whether parameters are being drawn, so that no graph of its own may be begun around them.
    pub(crate) fn initializing(&self) -> bool {
        !self.checking() && matches!(&self.params, Some(cx) if matches!(cx.mode, crate::model::ParamMode::Init(_)))
    }
    fn chosen_if(
        &mut self,
        scope: &mut Scope,
        cond: &Value,
        names: &[Arc<str>],
        then: &Block,
        otherwise: Option<&Block>,
        span: Span,
    ) -> Eval {
        let (mut a, mut b) = (scope.clone(), scope.clone());
        let first = self.block(&mut a, then)?;
        let second = match otherwise {
            Some(block) => self.block(&mut b, block)?,
            None => Value::None,
        };
        for name in names {
            let value = |s: &Scope| s.get(name).map_or(Value::Unknown, |b| b.value.clone());
            let chosen = self.choose(cond, &value(&a), &value(&b), span)?;
            scope.set(name, chosen);
        }
        if otherwise.is_none() {
            return Ok(Value::None);
        }
        self.choose(cond, &first, &second, span)
    }
    /// `where(cond, a, b)`, leaf by leaf.
    pub(crate) fn choose(&mut self, cond: &Value, a: &Value, b: &Value, span: Span) -> Eval {
        if leaves(a).is_empty() {
            return Ok(a.clone());
        }
        let cond = cond.clone();
        self.zip_trees(&[a.clone(), b.clone()], span, &mut |ev, row| match (&row[0], &row[1]) {
            (Value::Array(x), Value::Array(y)) if x.node.is_some() && x.node == y.node => Ok(row[0].clone()),
            _ => ev.call_op("where", vec![cond.clone(), row[0].clone(), row[1].clone()], span),
        })
    }
}

/// The place of a block's value.
fn tail(b: &Block) -> Span {
    b.stmts.last().map_or(b.span, |s| s.span)
}

/// Puts a branch into the form conditionals need: the inputs of both branches, results of the common types.
struct BranchBuilder {
    graph: Graph,
    outputs: Vec<NodeId>,
}

impl BranchBuilder {
    fn new(captured: &[Array], own: &[Array], branch: &Graph, ev: &Evaluator<'_>) -> BranchBuilder {
        let mut graph = Graph::new();
        let origin = ev.cx.origin;
        let inputs: Vec<NodeId> = captured
            .iter()
            .enumerate()
            .map(|(i, a)| {
                let ty = optc_ir::Ty::new(a.dtype, ev.known_shape(&a.shape));
                graph.input(format!("captured.{i}"), ty, origin)
            })
            .collect();
        let args: Vec<NodeId> =
            own.iter().map(|a| inputs[captured.iter().position(|c| c.node == a.node).expect("a capture of the branch")]).collect();
        let outputs = graph.inline(branch, &args, "");
        BranchBuilder { graph, outputs }
    }
    /// Adds a leaf as a result of type `ty`: the next output of the branch if it is an array, a constant if it is a number.
    fn push(&mut self, leaf: &Value, ty: &LeafTy, at: &mut usize, ev: &Evaluator<'_>) {
        let origin = ev.cx.origin;
        let node = match leaf {
            Value::Array(_) => {
                let node = self.outputs[*at];
                *at += 1;
                self.graph.cast(node, ty.dtype, origin)
            }
            Value::Int(d) => self.graph.scalar(ty.dtype, d.known().unwrap_or(0) as f64, origin),
            Value::Float(x) => self.graph.scalar(ty.dtype, x.unwrap_or(0.0), origin),
            Value::Bool(b) => self.graph.scalar(ty.dtype, f64::from(u8::from(b.unwrap_or(false))), origin),
            _ => unreachable!("leaves are arrays or numbers"),
        };
        let node = self.graph.broadcast_to(node, &ev.known_shape(&ty.shape), origin);
        self.graph.outputs.push(node);
    }
}
