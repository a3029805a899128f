//! `if`: at compile time one branch, at run time a conditional with both.

use crate::evaluator::{Eval, Evaluator};
use crate::exits::{DONE, LEFT};
use crate::scope::Scope;
use crate::tree::{array_type, describe, is_arrayish, leaves, rebuild, same_structure};
use crate::value::Value;
use optc_abi::DType;
use optc_base::{Code, Diagnostic, Span};
use optc_front::ast::{Block, Expr, Stmt, StmtKind};
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
pub(crate) const YIELDED: &str = "what is yielded";

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
    /// Statements of an optimizer's body, for all leaves in lockstep.
    Lock(&'a crate::optimizer::LockBody<'a>),
}

impl Part<'_> {
    fn of(block: Option<&Block>) -> Part<'_> {
        block.map_or(Part::Nothing, Part::Block)
    }
    fn statements(&self) -> &[Stmt] {
        match self {
            Part::Block(b) => &b.stmts,
            Part::Rest(stmts) => stmts,
            Part::Lock(body) => body.stmts,
            Part::Left | Part::Nothing => &[],
        }
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
                    // The script knows by then which side it takes; the other may be of any type.
                    self.check_if(scope, then, otherwise, run_time && !self.in_script, span)
                } else if run_time {
                    self.run_time_if(scope, &value, cond.span, [Part::Block(then), Part::of(otherwise)], span)
                } else {
                    self.error("E0344", cond.span, "this condition is not known at compile time")
                }
            }
        }
    }
    /// Variables of the scope that the sides of a conditional assign.
    pub(crate) fn carried_by(&self, scope: &Scope, sides: [Part<'_>; 2]) -> Vec<Arc<str>> {
        if let Part::Lock(body) = sides[0] {
            return body.names.clone();
        }
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
    pub(crate) fn side(&mut self, scope: &mut Scope, part: Part<'_>) -> Eval {
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
            Part::Lock(body) => self.locked(scope, body, &mut |_, _| Ok(())),
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
            (Value::Quantized(x), Value::Quantized(y)) if x == y => a.clone(),
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
    /// One side yields, the other does not.
    pub(crate) fn yields_differ<T>(&mut self, a: usize, b: usize, span: Span) -> Eval<T> {
        self.fail(
            Diagnostic::error(Code("E0354"), span, "a pass yields once, whatever its conditions are")
                .note(format!("it yields {a} times if the condition holds, and {b} times if not"))
                .help("yield in both branches, or once after them; `break` and `continue` stand in loops without `yield`"),
        )
    }
    /// The sides of a conditional do not fit together.
    pub(crate) fn sides_differ<T>(&mut self, a: &str, b: &str, span: Span, sides: [Part<'_>; 2], what: &str) -> Eval<T> {
        if let Part::Lock(_) = sides[0] {
            return self.fail(
                Diagnostic::error(Code("E0338"), span, format!("{what} has different types in the branches of a run-time condition"))
                    .note(format!("it is {a} in one and {b} in the other"))
                    .help("convert one of them, or make the condition a compile-time value"),
            );
        }
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
    pub(crate) fn chosen_if(&mut self, scope: &mut Scope, cond: &Value, names: &[Arc<str>], sides: [Part<'_>; 2], span: Span) -> Eval {
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
pub(crate) fn pass_is_over(scope: &Scope) -> bool {
    matches!(scope.get(LEFT).map(|b| &b.value), Some(Value::Bool(Some(true))))
}

/// Whether a block ends with `break` or `continue`.
fn ends_pass(b: &Block) -> bool {
    matches!(b.stmts.last().map(|s| &s.kind), Some(StmtKind::Break(None) | StmtKind::Continue(None)))
}

/// The place of a block's value.
fn tail(b: &Block) -> Span {
    b.stmts.last().map_or(b.span, |s| s.span)
}
