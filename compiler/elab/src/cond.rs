//! `if`: at compile time one branch, at run time a conditional with both.

use crate::evaluator::{Eval, Evaluator};
use crate::exits::{DONE, LEFT};
use crate::scope::Scope;
use crate::tally::{Count, Recorded, Tally};
use crate::tree::{array_type, describe, is_arrayish, leaves, rebuild, same_structure};
use crate::value::Value;
use indexmap::IndexSet;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, Expr, Stmt, StmtKind};
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

/// What messages call the values that a pass yields.
const YIELDED: &str = "what is yielded";

/// One side of a conditional.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    /// A branch as written.
    Block(&'a Block),
    /// The statements of a loop's body that are left, where neither the pass nor the loop is over.
    Rest(&'a [Stmt]),
    /// The pass is over.
    Left,
    /// Nothing happens.
    Nothing,
}

impl Part<'_> {
    fn of(block: Option<&Block>) -> Part<'_> {
        block.map_or(Part::Nothing, Part::Block)
    }
    fn statements(&self) -> &[Stmt] {
        match self {
            Part::Block(b) => &b.stmts,
            Part::Rest(stmts) => stmts,
            Part::Left | Part::Nothing => &[],
        }
    }
}

/// A side of a conditional as a graph: its outputs are the arrays of the values, then what was recorded.
struct Side {
    /// The value, the variables assigned, what was yielded (a tuple).
    values: Vec<Value>,
    recorded: Recorded,
    /// Whether it ends with the pass, so that its value does not matter.
    gone: bool,
    graph: Graph,
    captured: Vec<Array>,
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
                    self.run_time_if(scope, &value, cond.span, [Part::Block(then), Part::of(otherwise)], span)
                } else {
                    self.error("E0344", cond.span, "this condition is not known at compile time")
                }
            }
        }
    }
    /// Variables of the scope that the sides of a conditional assign.
    fn carried_by(&self, scope: &Scope, sides: [Part<'_>; 2]) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for side in sides {
            let leaves = matches!(side, Part::Rest(_) | Part::Left) || crate::walk::exits(side.statements()).any();
            let flags = if leaves { &[LEFT, DONE][..] } else { &[] };
            for name in crate::walk::assigned(side.statements()).into_iter().chain(flags.iter().map(|f| Arc::from(*f))) {
                if scope.get(&name).is_some() && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }
    /// Executes one side in a scope of its own, which keeps the updates.
    fn side(&mut self, scope: &mut Scope, part: Part<'_>) -> Eval {
        match part {
            Part::Block(b) => self.block(scope, b),
            Part::Rest(stmts) => {
                // Here both are known, so that nothing is made conditional on them again.
                scope.set(LEFT, Value::Bool(Some(false)));
                scope.set(DONE, Value::Bool(Some(false)));
                self.stmts(scope, stmts)
            }
            Part::Left => {
                scope.set(LEFT, Value::Bool(Some(true)));
                Ok(Value::None)
            }
            Part::Nothing => Ok(Value::None),
        }
    }
    /// While checking: both branches, and what they have in common.
    fn check_if(&mut self, scope: &mut Scope, then: &Block, otherwise: Option<&Block>, run_time: bool, span: Span) -> Eval {
        let names = self.carried_by(scope, [Part::Block(then), Part::of(otherwise)]);
        let (mut a, mut b) = (scope.clone(), scope.clone());
        let before = self.yields.last().map_or(0, Vec::len);
        let yielded = |ev: &mut Self| ev.yields.last_mut().map_or(Vec::new(), |list| list.split_off(before));
        let first = self.block(&mut a, then);
        let yields = yielded(self);
        let second = match otherwise {
            Some(block) => self.block(&mut b, block),
            None => Ok(Value::None),
        };
        let others = yielded(self);
        let (first, second) = (first?, second?);
        if run_time && yields.len() != others.len() {
            return self.yields_differ(yields.len(), others.len(), span);
        }
        if run_time {
            self.run_time_exits |= [Some(then), otherwise].into_iter().flatten().any(|b| crate::walk::exits(&b.stmts).any());
        }
        let longer = if others.len() > yields.len() { &others } else { &yields };
        let mut joined = Vec::new();
        for (k, value) in longer.iter().enumerate() {
            joined.push(match (yields.get(k), others.get(k)) {
                (Some(x), Some(y)) => match if run_time { self.branch_types(x, y, span, then, otherwise, YIELDED)? } else { None } {
                    Some(joined) => joined,
                    None => self.join(x, y),
                },
                _ => value.clone(),
            });
        }
        if let Some(list) = self.yields.last_mut() {
            list.extend(joined);
        }
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
        let Some(other) = otherwise else { return Ok(Value::None) };
        match (ends_pass(then), ends_pass(other)) {
            (true, false) => return Ok(second),
            (false, true) => return Ok(first),
            _ => {}
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
    /// A conditional: both sides become graphs.
    pub(crate) fn run_time_if(&mut self, scope: &mut Scope, cond: &Value, cond_span: Span, sides: [Part<'_>; 2], span: Span) -> Eval {
        let names = self.carried_by(scope, sides);
        if self.initializing() {
            // Parameters are made in the graph at hand: both sides are evaluated, their values chosen.
            return self.chosen_if(scope, cond, &names, sides, span);
        }
        let a = self.branch(scope, sides, 0, &names, span)?;
        let b = self.branch(scope, sides, 1, &names, span)?;
        // Leaves in pairs: those that are the same number in both need no conditional.
        let mut captured: Vec<Array> = a.captured.clone();
        for array in &b.captured {
            if !captured.iter().any(|c| c.node == array.node) {
                captured.push(array.clone());
            }
        }
        let before: Vec<Array> = self.buffers_before(&a.recorded, &b.recorded);
        for array in &before {
            if !captured.iter().any(|c| c.node == array.node) {
                captured.push(array.clone());
            }
        }
        let mut builders = [&a, &b].map(|side| BranchBuilder::new(&captured, side, self));
        let mut results: Vec<(Value, Vec<Option<LeafTy>>)> = Vec::new();
        for (k, (x, y)) in a.values.iter().zip(&b.values).enumerate() {
            let zeros = match (k, a.gone, b.gone) {
                (0, true, false) => Some(zeros_for(y)),
                (0, false, true) => Some(zeros_for(x)),
                _ => None,
            };
            let (x, y, model) = match &zeros {
                Some(zeros) if a.gone => (zeros, y, y),
                Some(zeros) => (x, zeros, x),
                None => (x, y, x),
            };
            let name = match k {
                0 => "the value".to_string(),
                k if k <= names.len() => format!("`{}`", names[k - 1]),
                _ => YIELDED.to_string(),
            };
            if let (Value::Tuple(x), Value::Tuple(y)) = (x, y)
                && k > names.len()
                && x.len() != y.len()
            {
                return self.yields_differ(x.len(), y.len(), span);
            }
            let (p, q) = (leaves(x), leaves(y));
            if !same_structure(x, y) || p.len() != q.len() {
                return self.sides_differ(&describe(x), &describe(y), span, sides, &name);
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
                    return self.sides_differ(&describe(u), &describe(v), span, sides, &name);
                };
                let Some(ty) = s.meet(&t) else {
                    return self.sides_differ(&s.text(), &t.text(), span, sides, &name);
                };
                for (builder, leaf) in builders.iter_mut().zip([u, v]) {
                    builder.push(leaf, &ty, self);
                }
                types.push(Some(ty));
            }
            results.push((model.clone(), types));
        }
        let recorded = self.join_recorded(&mut builders, [&a.recorded, &b.recorded], &captured);
        let [first, second] = builders.map(|b| Arc::new(b.graph));
        self.cx.at(span);
        let origin = self.cx.origin;
        let pred = self.array_of(cond, cond_span)?;
        let pred = self.cx.node(&pred);
        let args: Vec<NodeId> = captured.iter().map(|c| self.cx.node(c)).collect();
        let nodes = if first.outputs.is_empty() { Vec::new() } else { self.cx.graph().cond_results(pred, first, second, &args, origin) };
        let mut arrays = nodes.into_iter().map(|n| self.cx.array(n)).collect::<Vec<_>>().into_iter();
        let mut values = Vec::new();
        for (model, types) in results {
            let old = leaves(&model);
            let mut new = Vec::new();
            for ((_, leaf), ty) in old.into_iter().zip(types) {
                new.push(match ty {
                    None => leaf,
                    Some(ty) => {
                        let array = arrays.next().expect("one result per leaf");
                        Value::Array(Array { weak: ty.weak, ..array })
                    }
                });
            }
            values.push(rebuild(&model, &mut new.into_iter()));
        }
        self.replay_recorded(recorded.with(&mut arrays));
        let mut values = values.into_iter();
        let value = values.next().unwrap_or(Value::None);
        for (name, v) in names.iter().zip(&mut values) {
            scope.set(name, v);
            self.record_buffer(scope, name);
        }
        if let (Some(Value::Tuple(yielded)), Some(list)) = (values.next(), self.yields.last_mut()) {
            list.extend(yielded.iter().cloned());
        }
        Ok(value)
    }
    /// The values that buffers changed on one side only have on the other.
    fn buffers_before(&self, a: &Recorded, b: &Recorded) -> Vec<Array> {
        let lacks = |side: &Recorded, path: &Arc<str>| !side.buffers.iter().any(|(p, _)| p == path);
        let one_sided =
            a.buffers.iter().filter(|(p, _)| lacks(b, p)).chain(b.buffers.iter().filter(|(p, _)| lacks(a, p))).map(|(path, _)| path);
        one_sided.filter_map(|path| self.buffer_before(path)).collect()
    }
    /// Makes what either side recorded results of both: buffers the other side left alone keep their values, metrics it has not count as recorded no times.
    fn join_recorded(&mut self, builders: &mut [BranchBuilder; 2], sides: [&Recorded; 2], captured: &[Array]) -> Recorded {
        let mut joined = Recorded::default();
        let paths: IndexSet<Arc<str>> = sides.iter().flat_map(|s| s.buffers.iter().map(|(p, _)| p.clone())).collect();
        for path in paths {
            let own = sides.map(|s| s.buffers.iter().position(|(p, _)| *p == path));
            let before = self.buffer_before(&path);
            if own.contains(&None) && before.is_none() {
                continue;
            }
            let mut array = None;
            for (builder, at) in builders.iter_mut().zip(own) {
                let node = match at {
                    Some(at) => builder.recorded[at],
                    None => {
                        let before = before.as_ref().expect("checked above");
                        builder.inputs[captured.iter().position(|c| c.node == before.node).expect("captured for this")]
                    }
                };
                builder.graph.outputs.push(node);
            }
            for (side, at) in sides.iter().zip(own) {
                array = array.or(at.map(|at| side.buffers[at].1.clone()));
            }
            joined.buffers.push((path, array.expect("one side changes it")));
        }
        let keys: IndexSet<_> = sides.iter().flat_map(|s| s.metrics.keys().cloned()).collect();
        for key in keys {
            let own = sides.map(|s| s.metrics.get(&key));
            let count = match own.map(|t| t.map(|t| &t.count)) {
                [Some(Count::Times(a)), Some(Count::Times(b))] if a == b => Some(*a),
                _ => None,
            };
            for (k, builder) in builders.iter_mut().enumerate() {
                let nodes = own[k].map(|_| builder.tally(sides[k], &key));
                let dtype = self.cx.kept();
                let number = |x: f64, builder: &mut BranchBuilder| builder.graph.scalar(dtype, x, self.cx.origin);
                let sum = match nodes {
                    Some((sum, _)) => sum,
                    None => number(0.0, builder),
                };
                builder.graph.outputs.push(sum);
                if count.is_none() {
                    let n = match (nodes, own[k].map(|t| &t.count)) {
                        (Some((_, Some(n))), _) => n,
                        (_, Some(Count::Times(n))) => number(*n as f64, builder),
                        _ => number(0.0, builder),
                    };
                    builder.graph.outputs.push(n);
                }
            }
            let one = own.iter().flatten().next().expect("one side records it").sum.clone();
            let count = count.map_or(Count::Array(one.clone()), Count::Times);
            joined.metrics.insert(key, Tally { sum: one, count });
        }
        joined
    }
    /// One side as a graph.
    fn branch(&mut self, scope: &Scope, sides: [Part<'_>; 2], which: usize, names: &[Arc<str>], span: Span) -> Eval<Side> {
        let mut inner = scope.clone();
        let valued = matches!(sides, [Part::Block(_), Part::Block(_)]);
        let yields = self.yields.last().map_or(0, Vec::len);
        let result = self.subgraph(|ev| {
            let (value, recorded) = ev.recording(|ev| ev.side(&mut inner, sides[which]))?;
            let mut values = vec![if valued { value } else { Value::None }];
            values.extend(ev.values_of(&inner, names));
            let yielded = ev.yields.last_mut().map_or(Vec::new(), |list| list.split_off(yields));
            values.push(Value::Tuple(Rc::new(yielded)));
            // Lists of numbers become the arrays they are.
            for value in &mut values {
                *value = ev.map_tree(value, span, &mut |ev, _, leaf| match leaf {
                    Value::List(_) => ev.array_of(leaf, span).map(Value::Array),
                    other => Ok(other.clone()),
                })?;
            }
            let arrays = values.iter().flat_map(leaves).filter_map(|(_, v)| if let Value::Array(a) = v { Some(a) } else { None });
            let arrays = arrays.chain(recorded.arrays()).collect();
            Ok(((values, recorded, pass_is_over(&inner)), arrays))
        });
        let ((values, recorded, gone), graph, captured) = result?;
        Ok(Side { values, recorded, gone, graph, captured })
    }
    /// One side yields, the other does not.
    fn yields_differ<T>(&mut self, a: usize, b: usize, span: Span) -> Eval<T> {
        self.fail(
            Diagnostic::error(Code("E0354"), span, "a pass yields once, whatever its conditions are")
                .note(format!("it yields {a} times if the condition holds, and {b} times if not"))
                .help("yield in both branches, or once after them; `break` and `continue` stand in loops without `yield`"),
        )
    }
    /// The sides of a conditional do not fit together.
    fn sides_differ<T>(&mut self, a: &str, b: &str, span: Span, sides: [Part<'_>; 2], what: &str) -> Eval<T> {
        let Part::Block(then) = sides[0] else {
            let message = format!("{what} changes its type where the loop is left");
            return self
                .fail(Diagnostic::error(Code("E0338"), span, message).note(format!("it is {a} if it is left here, and {b} if not")));
        };
        let otherwise = if let Part::Block(b) = sides[1] { Some(b) } else { None };
        self.branches_differ(a, b, span, then, otherwise, what)
    }
    /// Whether parameters are being drawn, so that no graph of its own may be begun around them.
    pub(crate) fn initializing(&self) -> bool {
        let drawing = matches!(&self.params, Some(cx) if matches!(cx.mode, crate::model::ParamMode::Init(_)));
        !self.checking() && (drawing || self.recorder.initializing.is_some())
    }
    fn chosen_if(&mut self, scope: &mut Scope, cond: &Value, names: &[Arc<str>], sides: [Part<'_>; 2], span: Span) -> Eval {
        let (mut a, mut b) = (scope.clone(), scope.clone());
        let first = self.side(&mut a, sides[0])?;
        let second = self.side(&mut b, sides[1])?;
        for name in names {
            let value = |s: &Scope| s.get(name).map_or(Value::Unknown, |b| b.value.clone());
            let chosen = self.choose(cond, &value(&a), &value(&b), span)?;
            scope.set(name, chosen);
        }
        if !matches!(sides, [Part::Block(_), Part::Block(_)]) {
            return Ok(Value::None);
        }
        match (pass_is_over(&a), pass_is_over(&b)) {
            (true, false) => Ok(second),
            (false, true) => Ok(first),
            _ => self.choose(cond, &first, &second, span),
        }
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

/// Whether the pass of the loop around is known to be over.
fn pass_is_over(scope: &Scope) -> bool {
    matches!(scope.get(LEFT).map(|b| &b.value), Some(Value::Bool(Some(true))))
}

/// Whether a block ends with `break` or `continue`.
fn ends_pass(b: &Block) -> bool {
    matches!(b.stmts.last().map(|s| &s.kind), Some(StmtKind::Break(None) | StmtKind::Continue(None)))
}

/// A value in the place of another one that does not matter.
fn zeros_for(value: &Value) -> Value {
    let zeros: Vec<Value> = leaves(value)
        .into_iter()
        .map(|(_, leaf)| match &leaf {
            Value::Array(a) if a.dtype == DType::Bool => Value::Bool(Some(false)),
            Value::Array(_) | Value::Int(_) | Value::Float(_) => Value::Int(0i64.into()),
            _ => leaf,
        })
        .collect();
    rebuild(value, &mut zeros.into_iter())
}

/// The place of a block's value.
fn tail(b: &Block) -> Span {
    b.stmts.last().map_or(b.span, |s| s.span)
}

/// Puts a side into the form conditionals need: the inputs of both sides, results of the common types.
struct BranchBuilder {
    graph: Graph,
    inputs: Vec<NodeId>,
    /// Arrays of the values not asked for yet.
    values: std::vec::IntoIter<NodeId>,
    /// What was recorded.
    recorded: Vec<NodeId>,
}

impl BranchBuilder {
    fn new(captured: &[Array], side: &Side, ev: &Evaluator<'_>) -> BranchBuilder {
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
        let own = side.captured.iter();
        let args: Vec<NodeId> =
            own.map(|a| inputs[captured.iter().position(|c| c.node == a.node).expect("a capture of the side")]).collect();
        let mut values = graph.inline(&side.graph, &args, "");
        let recorded = values.split_off(values.len() - side.recorded.arrays().len());
        BranchBuilder { graph, inputs, values: values.into_iter(), recorded }
    }
    /// Adds a leaf as a result of type `ty`: the next array of the values if it is one, a constant if it is a number.
    fn push(&mut self, leaf: &Value, ty: &LeafTy, ev: &Evaluator<'_>) {
        let origin = ev.cx.origin;
        let node = match leaf {
            Value::Array(_) => {
                let node = self.values.next().expect("an output for every array");
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
    /// Sum and, where it is an array, count of a metric of the side.
    fn tally(&self, side: &Recorded, key: &(Arc<str>, Arc<str>)) -> (NodeId, Option<NodeId>) {
        let at = side.metrics.get_index_of(key).expect("a metric of the side");
        let before: usize = side.metrics.values().take(at).map(|t| t.arrays().len()).sum();
        let at = side.buffers.len() + before;
        let counted = matches!(side.metrics[key].count, Count::Array(_));
        (self.recorded[at], counted.then(|| self.recorded[at + 1]))
    }
}
